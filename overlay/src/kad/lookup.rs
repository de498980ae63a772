//! One lookup: whom to ask next on the way to a place in the key space.
//!
//! It goes three ways that share no node (S/Kademlia): a node belongs to the way that first heard of it, so
//! a liar leads one way astray and not all. Nodes are wanted in the order of *how many nearer ones their
//! own network has*, and of nearness second: first the nearest of each /24, then the second of each. A
//! thousand names in eight networks thus have eight places among the first, and a network that is all in one
//! /24 is plain Kademlia.
//!
//! Nobody is waited for: who has not answered after [`SLOW`] gives its place to the next, and may still
//! answer.
//!
//! A record is stored at the nearest as soon as it is certain that they are. Once somebody has answered who
//! is among the nearest, those that it tells of are stored at without asking them first: the answer to that
//! says who is closer as well.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Contact, Distance, K, Key, MAX_ADDRESSES, NodeId, Subnet};

#[cfg(test)]
mod tests;

/// Ways that a lookup goes.
const PATHS: usize = 3;
/// Each way asks this many of its own nearest, whatever the others know.
const NEAREST_OF_PATH: usize = 2;
/// A record is missing when so many of the nearest have none.
pub(super) const SEARCHED: usize = 12;
/// A record is stored at so many.
pub(super) const STORED_AT: usize = 8;
/// So many more are asked, or stored at, where the nearest are suspiciously near.
const MORE: usize = 8;
/// Who has not answered by then is no longer waited for.
pub(super) const SLOW: Duration = Duration::from_millis(500);
/// Longest lookup.
pub(super) const LONGEST: Duration = Duration::from_secs(20);
/// Most nodes that one lookup asks.
pub(super) const MAX_ASKED: usize = 64;
/// Most nodes that it knows of; the least wanted make room.
const MAX_CANDIDATES: usize = 160;
/// A put that goes straight to those who keep the record looks for others when it has lost so many.
const TOO_MANY_LOST: usize = 3;

/// What a lookup is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// To find a record.
    Get,
    /// To store one.
    Put,
    /// To hear of nodes and see that they live.
    Refresh,
}

/// What a node is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Who is closer, and for a get the record.
    Find,
    /// To keep the record.
    Store,
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Lookup {
    target: Key,
    goal: Goal,
    started: Instant,
    candidates: BTreeMap<Distance, Candidate>,
    /// Leading bits of the distance within which a few nodes are to be expected.
    region: u64,
    /// A put that knows where the record is: the nodes to begin with if that fails.
    reserve: Option<Vec<Contact>>,
    asked: usize,
    failed: usize,
    /// Steps to who had the record.
    found_at: Option<u32>,
}

#[derive(Debug)]
struct Candidate {
    contact: Contact,
    /// Where it answered, or is said to be.
    subnet: Option<Subnet>,
    path: usize,
    /// Steps from us.
    hop: u32,
    state: State,
    /// Other addresses were heard of after it had failed.
    second_try: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Known,
    Asked(Question, Instant),
    Answered,
    Kept,
    Failed,
}

/// A candidate in the order in which they are wanted.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    distance: Distance,
    /// Among the nearest; else only its own way wants it.
    is_near: bool,
}

impl Lookup {
    /// `seeds` are the nodes of the table closest to the target; within `region` of it (leading 64 bits of
    /// the distance) a few nodes are to be expected.
    pub(super) fn new(now: Instant, target: Key, goal: Goal, seeds: Vec<Contact>, region: u64) -> Self {
        let mut lookup = Self {
            target,
            goal,
            started: now,
            candidates: BTreeMap::new(),
            region,
            reserve: None,
            asked: 0,
            failed: 0,
            found_at: None,
        };
        lookup.seed(seeds);
        lookup
    }

    /// Goes to `keepers` first, and only if too few of them are left to others.
    pub(super) fn straight(mut self, keepers: Vec<Contact>) -> Self {
        let seeds = std::mem::take(&mut self.candidates).into_values();
        self.reserve = Some(seeds.map(|candidate| candidate.contact).collect());
        self.seed(keepers);
        self
    }

    fn seed(&mut self, seeds: Vec<Contact>) {
        for (index, contact) in seeds.into_iter().enumerate() {
            self.add(contact, index % PATHS, 1);
        }
    }

    /// The next question. To be called until `None`; whom `may_ask` refuses is asked later.
    pub(super) fn next(
        &mut self,
        now: Instant,
        may_ask: impl Fn(Option<Subnet>) -> bool,
    ) -> Option<(Contact, Question)> {
        self.give_up_straight(now);
        if self.asked >= MAX_ASKED {
            return None;
        }
        let (distance, question) = self.choose(now, may_ask)?;
        let candidate = self.candidates.get_mut(&distance)?;
        if candidate.state == State::Known {
            self.asked += 1;
        }
        candidate.state = State::Asked(question, now);
        Some((candidate.contact.clone(), question))
    }

    /// A node answered at `ip`, and told of others.
    pub(super) fn answered(&mut self, now: Instant, node: &NodeId, ip: Option<IpAddr>, closer: Vec<Contact>) {
        let Some(candidate) = self.candidates.get_mut(&self.target.distance(node.key())) else { return };
        let State::Asked(question, _) = candidate.state else { return };
        candidate.state = match question {
            Question::Find => State::Answered,
            Question::Store => State::Kept,
        };
        candidate.subnet = ip.map(Subnet::of).or(candidate.subnet);
        let (path, hop) = (candidate.path, candidate.hop + 1);
        for contact in closer.into_iter().take(K) {
            self.add(contact, path, hop);
        }
        self.forget_some(now);
    }

    /// A question to a node came to nothing.
    pub(super) fn failed(&mut self, node: &NodeId) {
        let Some(candidate) = self.candidates.get_mut(&self.target.distance(node.key())) else { return };
        if matches!(candidate.state, State::Asked(..)) {
            candidate.state = State::Failed;
            self.failed += 1;
        }
    }

    /// A node had the record; our own has none of the candidates' hops.
    pub(super) fn found_at(&mut self, node: &NodeId) {
        let candidate = self.candidates.get(&self.target.distance(node.key()));
        self.found_at.get_or_insert(candidate.map_or(0, |candidate| candidate.hop));
    }

    fn add(&mut self, contact: Contact, path: usize, hop: u32) {
        let distance = self.target.distance(contact.node.key());
        let Some(candidate) = self.candidates.get_mut(&distance) else {
            let subnet = contact.ip().map(Subnet::of);
            let state = State::Known;
            let candidate = Candidate { contact, subnet, path, hop, state, second_try: false };
            self.candidates.insert(distance, candidate);
            return;
        };
        candidate.hear_again(&contact);
    }

    /// Drops those that are wanted least.
    fn forget_some(&mut self, now: Instant) {
        if self.candidates.len() <= MAX_CANDIDATES {
            return;
        }
        let order = self.order(now);
        let unasked = |distance: &&Distance| {
            self.candidates.get(distance).is_some_and(|candidate| candidate.state == State::Known)
        };
        let excess = self.candidates.len() - MAX_CANDIDATES;
        let last: Vec<_> = order.iter().rev().filter(unasked).take(excess).copied().collect();
        for distance in last {
            self.candidates.remove(&distance);
        }
    }

    fn give_up_straight(&mut self, now: Instant) {
        let lost = self.candidates.values().filter(|candidate| !candidate.is_live(now)).count();
        let is_lost = lost >= TOO_MANY_LOST || lost == self.candidates.len();
        if let Some(seeds) = self.reserve.take_if(|_| is_lost) {
            self.seed(seeds);
        }
    }

    fn choose(&self, now: Instant, may_ask: impl Fn(Option<Subnet>) -> bool) -> Option<(Distance, Question)> {
        let wanted = self.wanted(now);
        let stores = self.goal == Goal::Put;
        let straight = stores && (self.reserve.is_some() || self.is_there(&wanted));
        let free = self.free_places(now);
        let mut is_certain = true;
        for Wanted { distance, is_near } in wanted {
            let candidate = self.candidates.get(&distance)?;
            match candidate.state {
                State::Known => {
                    let question = if straight && is_near { Question::Store } else { Question::Find };
                    let has_place = question == Question::Store || free[candidate.path] > 0;
                    if has_place && may_ask(candidate.subnet) {
                        return Some((distance, question));
                    }
                    is_certain = false;
                }
                State::Answered if stores && is_near && is_certain => {
                    return Some((distance, Question::Store));
                }
                State::Asked(Question::Find, _) => is_certain = false,
                State::Answered | State::Asked(Question::Store, _) | State::Kept | State::Failed => {}
            }
        }
        None
    }

    /// Questions that each way may have under way beyond those that it has.
    fn free_places(&self, now: Instant) -> [usize; PATHS] {
        let mut free = [self.goal.width(); PATHS];
        for candidate in self.candidates.values() {
            if matches!(candidate.state, State::Asked(Question::Find, _)) && candidate.is_live(now) {
                free[candidate.path] = free[candidate.path].saturating_sub(1);
            }
        }
        free
    }

    /// Somebody among the nearest has answered.
    fn is_there(&self, wanted: &[Wanted]) -> bool {
        let near = wanted.iter().filter(|wanted| wanted.is_near);
        near.filter_map(|wanted| self.candidates.get(&wanted.distance)).any(Candidate::has_answered)
    }

    /// Those who have to answer before the lookup is over.
    fn wanted(&self, now: Instant) -> Vec<Wanted> {
        let count = self.goal.count();
        let mut of_path = [0; PATHS];
        let mut wanted = Vec::with_capacity(count + MORE);
        for (position, (rank, distance)) in self.ranked(now).into_iter().enumerate() {
            let Some(candidate) = self.candidates.get(&distance) else { continue };
            let expected = rank == 0 && distance.leading() <= self.region && position < count + MORE;
            let is_near = position < count || expected;
            of_path[candidate.path] += 1;
            if is_near || of_path[candidate.path] <= NEAREST_OF_PATH {
                wanted.push(Wanted { distance, is_near });
            }
        }
        wanted
    }

    fn order(&self, now: Instant) -> Vec<Distance> {
        self.ranked(now).into_iter().map(|(_, distance)| distance).collect()
    }

    /// Whoever may still answer, or has, in the order in which they are wanted.
    fn ranked(&self, now: Instant) -> Vec<(u16, Distance)> {
        let mut nearer = BTreeMap::<Subnet, u16>::new();
        let mut ranked = Vec::with_capacity(self.candidates.len());
        for (distance, candidate) in &self.candidates {
            let rank = candidate.subnet.map_or(0, |subnet| {
                let count = nearer.entry(subnet).or_default();
                *count += 1;
                *count - 1
            });
            if candidate.is_live(now) {
                ranked.push((rank, *distance));
            }
        }
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked
    }

    /// Nobody is left to be asked or waited for.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        if now >= self.started + LONGEST {
            return true;
        }
        let is_full = self.asked >= MAX_ASKED;
        !self.wanted(now).iter().any(|Wanted { distance, is_near }| {
            self.candidates.get(distance).is_some_and(|candidate| match candidate.state {
                State::Known => !is_full,
                State::Asked(..) => true,
                State::Answered => self.goal == Goal::Put && *is_near && !is_full,
                State::Kept | State::Failed => false,
            })
        })
    }

    /// When somebody becomes slow, or all has taken too long.
    pub(super) fn poll_timeout(&self, now: Instant) -> Instant {
        let slow = self.candidates.values().filter_map(|candidate| match candidate.state {
            State::Asked(_, at) => Some(at + SLOW).filter(|at| *at > now),
            State::Known | State::Answered | State::Kept | State::Failed => None,
        });
        slow.min().unwrap_or(self.started + LONGEST)
    }

    /// Whoever keeps the record.
    pub(super) fn keepers(&self) -> Vec<Contact> {
        let kept = self.candidates.values().filter(|candidate| candidate.state == State::Kept);
        kept.map(|candidate| candidate.contact.clone()).collect()
    }

    /// Whether anybody has answered.
    pub(super) fn has_answers(&self) -> bool {
        self.candidates.values().any(Candidate::has_answered)
    }

    /// Steps to whoever had the record, else to the nearest that has answered.
    pub(super) fn hops(&self) -> u32 {
        let nearest = || self.candidates.values().find(|candidate| candidate.has_answered());
        self.found_at.unwrap_or_else(|| nearest().map_or(0, |candidate| candidate.hop))
    }

    /// Whether it looked for the nearest, and did not only ask those that it knew.
    pub(super) const fn has_walked(&self) -> bool {
        self.reserve.is_none()
    }

    pub(super) const fn asked(&self) -> usize {
        self.asked
    }

    pub(super) const fn failures(&self) -> usize {
        self.failed
    }

    pub(super) fn took(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }
}

impl Candidate {
    /// May still answer in time, or has.
    fn is_live(&self, now: Instant) -> bool {
        match self.state {
            State::Known | State::Answered | State::Kept => true,
            State::Asked(_, at) => now < at + SLOW,
            State::Failed => false,
        }
    }

    fn has_answered(&self) -> bool {
        matches!(self.state, State::Answered | State::Kept)
    }

    /// Somebody else tells of it. A liar must not hide it by being the first to tell where it is.
    fn hear_again(&mut self, contact: &Contact) {
        let new = contact.at.iter().filter(|target| !self.contact.at.contains(target)).copied();
        let new: Vec<_> = new.collect();
        if new.is_empty() {
            return;
        }
        match self.state {
            State::Known => {
                self.contact.at.extend(new);
                self.contact.at.truncate(MAX_ADDRESSES);
            }
            State::Failed if !self.second_try => {
                self.second_try = true;
                self.contact.at = new;
                self.subnet = self.contact.ip().map(Subnet::of);
                self.state = State::Known;
            }
            State::Asked(..) | State::Answered | State::Kept | State::Failed => {}
        }
    }
}

impl Goal {
    /// Questions that a way has under way: somebody waits for a get only.
    const fn width(self) -> usize {
        match self {
            Self::Get => 2,
            Self::Put | Self::Refresh => 1,
        }
    }

    /// How many of the nearest it asks.
    const fn count(self) -> usize {
        match self {
            Self::Get => SEARCHED,
            Self::Put | Self::Refresh => STORED_AT,
        }
    }
}
