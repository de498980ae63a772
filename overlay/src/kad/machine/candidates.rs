//! Nodes that are said to serve the DHT, and those that once did.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::super::{Contact, NodeId, Subnet};
use super::limiter::{Rate, Tokens};
use crate::reachability::Target;

/// Candidates that wait to be verified. When full, the network (/24) with most of them makes room.
const MAX_QUEUED: usize = 64;
/// Verified at a time.
const MAX_VERIFYING: usize = 8;
/// How often we verify somebody: all of an earlier run at the start, and later what comes and goes.
const VERIFICATIONS: Rate = Rate { burst: 64, refill: Duration::from_secs(30) };
/// Nodes remembered that did not answer: they may come back, or it was us.
const MAX_BENCHED: usize = 64;

/// A node is not asked again at an address where it did not answer, whoever tells of it, for this time.
const GONE: Duration = Duration::from_secs(60 * 60);
/// Such nodes remembered; the one that has been gone longest makes room.
const MAX_GONE: usize = 512;

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    queue: VecDeque<Contact>,
    /// The newest for each full bucket, in case a place becomes free.
    waiting: BTreeMap<usize, Contact>,
    bench: VecDeque<Contact>,
    verifying: Vec<NodeId>,
    /// Who did not answer where, and when.
    gone: BTreeMap<NodeId, Gone>,
    tokens: Option<Tokens>,
}

/// Where a node did not answer.
#[derive(Debug)]
struct Gone {
    at: Vec<Target>,
    since: Instant,
}

impl Candidates {
    /// To be verified soon.
    pub(super) fn push(&mut self, contact: Contact) {
        if self.verifying.contains(&contact.node) {
            return;
        }
        if let Some(known) = self.queue.iter_mut().find(|known| known.node == contact.node) {
            // The newest word of where it is counts.
            *known = contact;
            return;
        }
        if self.queue.len() >= MAX_QUEUED && !self.make_room(&contact) {
            return;
        }
        self.queue.push_back(contact);
    }

    fn make_room(&mut self, newcomer: &Contact) -> bool {
        let mut counts = BTreeMap::<Option<Subnet>, usize>::new();
        for contact in &self.queue {
            *counts.entry(contact.ip().map(Subnet::of)).or_default() += 1;
        }
        let newcomers = counts.get(&newcomer.ip().map(Subnet::of)).copied().unwrap_or(0);
        let Some((largest, count)) = counts.into_iter().max_by_key(|(_, count)| *count) else { return false };
        if newcomers + 1 >= count {
            return false;
        }
        let of_largest = self.queue.iter().rposition(|contact| contact.ip().map(Subnet::of) == largest);
        of_largest.is_some_and(|index| self.queue.remove(index).is_some())
    }

    /// Its bucket is full.
    pub(super) fn wait(&mut self, bucket: usize, contact: Contact) {
        self.waiting.insert(bucket, contact);
    }

    /// A place in this bucket is free.
    pub(super) fn place_free(&mut self, bucket: usize) {
        if let Some(contact) = self.waiting.remove(&bucket) {
            self.push(contact);
        }
    }

    /// The next to be asked, if there is a place and it is not too soon. Those that are no longer welcome
    /// are dropped.
    pub(super) fn next(&mut self, now: Instant, is_welcome: impl Fn(&Contact) -> bool) -> Option<Contact> {
        while self.queue.front().is_some_and(|contact| !is_welcome(contact)) {
            self.queue.pop_front();
        }
        if self.verifying.len() >= MAX_VERIFYING || self.queue.is_empty() {
            return None;
        }
        let tokens = self.tokens.get_or_insert_with(|| Tokens::full(now, VERIFICATIONS));
        tokens.take(now, VERIFICATIONS).then(|| self.queue.pop_front()).flatten()
    }

    pub(super) fn asked(&mut self, node: NodeId) {
        self.verifying.push(node);
    }

    pub(super) fn verified(&mut self, node: &NodeId) {
        self.verifying.retain(|other| other != node);
    }

    /// It answered.
    pub(super) fn is_there(&mut self, node: &NodeId) {
        self.gone.remove(node);
    }

    /// It did not answer.
    pub(super) fn is_gone(&mut self, now: Instant, contact: &Contact) {
        self.gone.insert(contact.node.clone(), Gone { at: contact.at.clone(), since: now });
        if self.gone.len() > MAX_GONE {
            let first = self.gone.iter().min_by_key(|(_, gone)| gone.since).map(|(node, _)| node.clone());
            first.and_then(|first| self.gone.remove(&first));
        }
    }

    /// Whether it did not answer a short while ago, wherever it is said to be.
    pub(super) fn seems_gone(&self, now: Instant, contact: &Contact) -> bool {
        self.gone.get(&contact.node).is_some_and(|gone| {
            let is_recent = now.saturating_duration_since(gone.since) < GONE;
            is_recent && contact.at.iter().all(|at| gone.at.contains(at))
        })
    }

    /// To be tried again.
    pub(super) fn bench(&mut self, contact: Contact) {
        self.bench.retain(|other| other.node != contact.node);
        self.bench.push_back(contact);
        if self.bench.len() > MAX_BENCHED {
            self.bench.pop_front();
        }
    }

    /// Gives one of those that did not answer another chance.
    pub(super) fn call_one(&mut self, dice: u64) {
        let Some(count) = u64::try_from(self.bench.len()).ok().filter(|count| *count > 0) else { return };
        let index = usize::try_from(dice % count).unwrap_or(0);
        if let Some(contact) = self.bench.remove(index) {
            self.push(contact);
        }
    }

    /// Gives all of them another chance.
    pub(super) fn call_all(&mut self) {
        self.gone.clear();
        for contact in std::mem::take(&mut self.bench) {
            self.push(contact);
        }
    }

    /// When [`Self::next`] may have something that it did not have just before.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let is_waiting = !self.queue.is_empty() && self.verifying.len() < MAX_VERIFYING;
        self.tokens.filter(|_| is_waiting)?.poll_timeout(VERIFICATIONS)
    }

    /// Nobody is left who might get in.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.verifying.is_empty()
    }

    pub(super) fn benched(&self) -> impl Iterator<Item = &Contact> {
        self.bench.iter().rev()
    }
}
