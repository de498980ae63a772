//! One lookup: whom to ask next on the way to a place in the key space.
//!
//! It goes three ways that share no node (S/Kademlia): a node belongs to the way that first heard of it, so
//! a liar leads one way astray and not all. Nodes are wanted in the order of *how many nearer ones their
//! own network has*, and of nearness second: first the nearest of each /24, then the second of each. A
//! thousand names in eight networks thus have eight places among the first, and a network that is all in one
//! /24 is plain Kademlia.
//!
//! Nobody is waited for: who has not answered when most would have ([`SLOW`] at the latest) gives its place
//! to the next, and may still answer. Only a record that fewer than [`ENOUGH`] keep is brought to the slow as well.
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
const NEAREST_OF_PATH: usize = 1;
/// A record is missing when so many of the nearest have none.
pub(super) const SEARCHED: usize = 12;
/// A record is stored at so many.
pub(super) const STORED_AT: usize = 8;
/// Of those that are stored at without having been asked, so many at a time: who answers may name nearer ones.
const STORED_TOGETHER: usize = 3;
/// A visit is over when so many have answered.
const VISITED: usize = 4;
/// So many more are asked, or stored at, where the nearest are suspiciously near.
const MORE: usize = 24;
/// Who has not answered by then is no longer waited for, however slow the others are.
pub(super) const SLOW: Duration = Duration::from_millis(500);
/// Longest lookup.
pub(super) const LONGEST: Duration = Duration::from_secs(20);
/// Most nodes that one lookup asks.
pub(super) const MAX_ASKED: usize = 64;
/// Most nodes that it knows of; the least wanted make room.
const MAX_CANDIDATES: usize = 160;
/// A put that goes straight to those who keep the record looks for others when fewer are left.
pub(super) const ENOUGH: usize = 5;

/// What a lookup is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// To find a record.
    Get,
    /// To store one.
    Put,
    /// To hear of the nodes nearest to a place and see that they live.
    Refresh,
    /// To hear of nodes that are roughly there: the way to the nearest is not gone to its end.
    Visit,
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
    /// Who has not answered after this is no longer waited for.
    slow: Duration,
    candidates: BTreeMap<Distance, Candidate>,
    /// The candidates of each network, nearest first.
    networks: BTreeMap<Subnet, Vec<Distance>>,
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
    /// How many nearer ones its network has.
    rank: usize,
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
struct Wanted<'a> {
    distance: Distance,
    candidate: &'a Candidate,
    /// Among the nearest; else only its own way wants it.
    is_near: bool,
}

/// Questions that may be put under way.
#[derive(Clone, Copy, Debug)]
struct Places {
    of_path: [usize; PATHS],
    of_all: usize,
}

impl Places {
    const fn has_one_for(&self, path: usize) -> bool {
        self.of_path[path] > 0 && self.of_all > 0
    }

    const fn take(&mut self, path: usize) {
        self.of_path[path] = self.of_path[path].saturating_sub(1);
        self.of_all = self.of_all.saturating_sub(1);
    }

    const fn left(&self) -> usize {
        self.of_all
    }
}

impl Lookup {
    /// `seeds` are the nodes of the table closest to the target; within `region` of it (leading 64 bits of
    /// the distance) a few nodes are to be expected.
    pub(super) fn new(now: Instant, target: Key, goal: Goal, seeds: Vec<Contact>, region: u64) -> Self {
        let mut lookup = Self {
            target,
            goal,
            started: now,
            slow: SLOW,
            candidates: BTreeMap::new(),
            networks: BTreeMap::new(),
            region,
            reserve: None,
            asked: 0,
            failed: 0,
            found_at: None,
        };
        lookup.seed(seeds);
        lookup
    }

    /// Whoever has not answered after `slow` is no longer waited for.
    pub(super) const fn paced(mut self, slow: Duration) -> Self {
        self.slow = slow;
        self
    }

    /// Goes to `keepers` first, and only if too few of them are left to others.
    pub(super) fn straight(mut self, keepers: Vec<Contact>) -> Self {
        let seeds = std::mem::take(&mut self.candidates).into_values();
        self.networks.clear();
        self.reserve = Some(seeds.map(|candidate| candidate.contact).collect());
        self.seed(keepers);
        self
    }

    fn seed(&mut self, seeds: Vec<Contact>) {
        for (index, contact) in seeds.into_iter().enumerate() {
            self.add(contact, index % PATHS, 1);
        }
    }

    /// What is to be asked now. Whom `may_ask` refuses is asked later.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        may_ask: impl FnMut(Option<Subnet>) -> bool,
    ) -> Vec<(Contact, Question)> {
        self.give_up_straight(now);
        let questions = self.choose(now, may_ask);
        let asked = questions.into_iter().filter_map(|(distance, question)| {
            let candidate = self.candidates.get_mut(&distance)?;
            let is_new = candidate.state == State::Known;
            if is_new && self.asked >= MAX_ASKED {
                return None;
            }
            self.asked += usize::from(is_new);
            candidate.state = State::Asked(question, now);
            Some((candidate.contact.clone(), question))
        });
        asked.collect()
    }

    /// A node answered at `ip`, and told of others.
    pub(super) fn answered(&mut self, node: &NodeId, ip: Option<IpAddr>, closer: Vec<Contact>) {
        let Some(candidate) = self.candidates.get_mut(&self.target.distance(node.key())) else { return };
        let State::Asked(question, _) = candidate.state else { return };
        candidate.state = match question {
            Question::Find => State::Answered,
            Question::Store => State::Kept,
        };
        let (path, hop) = (candidate.path, candidate.hop + 1);
        if let Some(ip) = ip {
            self.is_at(self.target.distance(node.key()), Subnet::of(ip));
        }
        for contact in closer.into_iter().take(K) {
            self.add(contact, path, hop);
        }
        self.forget_some();
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
        let Some(ip) = contact.ip() else { return };
        if let Some(known) = self.candidates.get_mut(&distance) {
            if known.hear_again(contact) {
                self.is_at(distance, Subnet::of(ip));
            }
            return;
        }
        let (state, second_try) = (State::Known, false);
        let candidate = Candidate { contact, subnet: None, rank: 0, path, hop, state, second_try };
        self.candidates.insert(distance, candidate);
        self.is_at(distance, Subnet::of(ip));
    }

    /// A candidate is in this network.
    fn is_at(&mut self, distance: Distance, subnet: Subnet) {
        let Some(candidate) = self.candidates.get_mut(&distance) else { return };
        let before = candidate.subnet.replace(subnet);
        if before == Some(subnet) {
            return;
        }
        if let Some(before) = before {
            self.leaves(distance, before);
        }
        let network = self.networks.entry(subnet).or_default();
        network.insert(network.partition_point(|other| *other < distance), distance);
        self.rank(subnet);
    }

    fn leaves(&mut self, distance: Distance, subnet: Subnet) {
        let Some(network) = self.networks.get_mut(&subnet) else { return };
        network.retain(|other| *other != distance);
        if network.is_empty() {
            self.networks.remove(&subnet);
        }
        self.rank(subnet);
    }

    fn rank(&mut self, subnet: Subnet) {
        for (rank, distance) in self.networks.get(&subnet).into_iter().flatten().enumerate() {
            if let Some(candidate) = self.candidates.get_mut(distance) {
                candidate.rank = rank;
            }
        }
    }

    /// Drops those that are wanted least.
    fn forget_some(&mut self) {
        let excess = self.candidates.len().saturating_sub(MAX_CANDIDATES);
        if excess == 0 {
            return;
        }
        let known = self.candidates.iter().filter(|(_, candidate)| candidate.state == State::Known);
        let mut known: Vec<_> =
            known.map(|(at, candidate)| (candidate.rank, *at, candidate.subnet)).collect();
        known.sort_unstable_by(|one, other| other.cmp(one));
        for (_, distance, subnet) in known.into_iter().take(excess) {
            self.candidates.remove(&distance);
            subnet.into_iter().for_each(|subnet| self.leaves(distance, subnet));
        }
    }

    fn give_up_straight(&mut self, now: Instant) {
        if self.has_too_few(now) {
            let seeds = self.reserve.take();
            self.seed(seeds.unwrap_or_default());
        }
    }

    /// It went straight to those who keep the record, and too few of them are left.
    fn has_too_few(&self, now: Instant) -> bool {
        let left = || self.candidates.values().filter(|candidate| candidate.is_live(now, self.slow)).count();
        self.reserve.is_some() && left() < ENOUGH
    }

    fn choose(
        &self,
        now: Instant,
        mut may_ask: impl FnMut(Option<Subnet>) -> bool,
    ) -> Vec<(Distance, Question)> {
        let wanted = self.wanted(now);
        let stores = self.goal == Goal::Put;
        let is_there = || wanted.iter().any(|wanted| wanted.is_near && wanted.candidate.has_answered());
        let straight = stores && (self.reserve.is_some() || is_there());
        let mut places = self.free_places(now);
        let mut stores_left = STORED_TOGETHER.saturating_sub(self.stores_under_way(now));
        let mut is_certain = true;
        let (mut questions, mut others) = (Vec::new(), Vec::new());
        for Wanted { distance, candidate, is_near } in wanted {
            match candidate.state {
                State::Known if straight && is_near => {
                    is_certain = false;
                    if stores_left > 0 && may_ask(candidate.claimed()) {
                        stores_left -= 1;
                        questions.push((distance, Question::Store));
                    }
                }
                State::Known => {
                    is_certain = false;
                    if places.has_one_for(candidate.path) && may_ask(candidate.claimed()) {
                        places.take(candidate.path);
                        questions.push((distance, Question::Find));
                    } else {
                        others.push((distance, candidate));
                    }
                }
                State::Answered if stores && is_near && is_certain => {
                    questions.push((distance, Question::Store));
                }
                State::Asked(Question::Find, _) => is_certain = false,
                State::Answered | State::Asked(Question::Store, _) | State::Kept | State::Failed => {}
            }
        }
        // What one way does not need is for the others.
        let others = others.into_iter().filter(|(_, candidate)| may_ask(candidate.claimed()));
        let others = others.take(places.left()).map(|(distance, _)| (distance, Question::Find));
        questions.extend(others);
        questions
    }

    fn free_places(&self, now: Instant) -> Places {
        let mut places = Places { of_path: [self.goal.width(); PATHS], of_all: PATHS * self.goal.width() };
        for candidate in self.candidates.values() {
            if matches!(candidate.state, State::Asked(Question::Find, _)) && candidate.is_live(now, self.slow)
            {
                places.take(candidate.path);
            }
        }
        places
    }

    fn stores_under_way(&self, now: Instant) -> usize {
        let stores = self.candidates.values().filter(|candidate| {
            matches!(candidate.state, State::Asked(Question::Store, _)) && candidate.is_live(now, self.slow)
        });
        stores.count()
    }

    /// Those who have to answer before the lookup is over, in the order in which they are wanted.
    fn wanted(&self, now: Instant) -> Vec<Wanted<'_>> {
        let count = self.goal.count();
        let live = self.candidates.iter().filter(|(_, candidate)| candidate.is_live(now, self.slow));
        let mut live: Vec<_> = live.collect();
        live.sort_by_key(|(_, candidate)| candidate.rank);
        let mut of_path = [0; PATHS];
        let mut wanted = Vec::with_capacity(count + MORE);
        for (position, (distance, candidate)) in live.into_iter().enumerate() {
            let is_expected = candidate.rank == 0 && distance.leading() <= self.region;
            let is_near = position < count || is_expected && position < count + MORE;
            of_path[candidate.path] += 1;
            if is_near || of_path[candidate.path] <= NEAREST_OF_PATH {
                wanted.push(Wanted { distance: *distance, candidate, is_near });
            }
        }
        wanted
    }

    /// Nobody is left to be asked or waited for.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        if now >= self.started + LONGEST {
            return true;
        }
        if self.has_too_few(now) {
            return false;
        }
        if self.goal == Goal::Visit && self.answers() >= VISITED {
            return true;
        }
        if self.needs_the_slow() {
            return false;
        }
        let is_full = self.asked >= MAX_ASKED;
        !self.wanted(now).into_iter().any(|Wanted { candidate, is_near, .. }| match candidate.state {
            State::Known => !is_full,
            State::Asked(..) => true,
            State::Answered => self.goal == Goal::Put && is_near,
            State::Kept | State::Failed => false,
        })
    }

    /// Where a record has few keepers, those who are slow may be all the others that there are.
    fn needs_the_slow(&self) -> bool {
        let is_asked = |candidate: &Candidate| matches!(candidate.state, State::Asked(..));
        let kept = || self.candidates.values().filter(|candidate| candidate.state == State::Kept).count();
        self.goal == Goal::Put && kept() < ENOUGH && self.candidates.values().any(is_asked)
    }

    /// When somebody becomes slow, or all has taken too long.
    pub(super) fn poll_timeout(&self, now: Instant) -> Instant {
        let slow = self.candidates.values().filter_map(|candidate| match candidate.state {
            State::Asked(_, at) => Some(at + self.slow).filter(|at| *at > now),
            State::Known | State::Answered | State::Kept | State::Failed => None,
        });
        slow.min().unwrap_or(self.started + LONGEST)
    }

    /// Whoever keeps the record, nearest first.
    pub(super) fn keepers(&self) -> Vec<Contact> {
        let kept = self.candidates.values().filter(|candidate| candidate.state == State::Kept);
        kept.map(|candidate| candidate.contact.clone()).collect()
    }

    /// Whether anybody has answered.
    pub(super) fn has_answers(&self) -> bool {
        self.answers() > 0
    }

    fn answers(&self) -> usize {
        self.candidates.values().filter(|candidate| candidate.has_answered()).count()
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
    fn is_live(&self, now: Instant, slow: Duration) -> bool {
        match self.state {
            State::Known | State::Answered | State::Kept => true,
            State::Asked(_, at) => now < at + slow,
            State::Failed => false,
        }
    }

    /// Where a question to it goes.
    fn claimed(&self) -> Option<Subnet> {
        self.contact.ip().map(Subnet::of)
    }

    fn has_answered(&self) -> bool {
        matches!(self.state, State::Answered | State::Kept)
    }

    /// Somebody else tells of it. A liar must not hide it by being the first to tell where it is. Whether it
    /// is to be tried again, at another address.
    fn hear_again(&mut self, mut contact: Contact) -> bool {
        contact.at.retain(|target| !self.contact.at.contains(target));
        if contact.at.is_empty() {
            return false;
        }
        match self.state {
            State::Known => {
                self.contact.at.extend(contact.at);
                self.contact.at.truncate(MAX_ADDRESSES);
                false
            }
            State::Failed if !self.second_try => {
                self.second_try = true;
                self.contact = contact;
                self.state = State::Known;
                true
            }
            State::Asked(..) | State::Answered | State::Kept | State::Failed => false,
        }
    }
}

impl Goal {
    /// Questions that a way has under way: somebody waits for a get only.
    const fn width(self) -> usize {
        match self {
            Self::Get => 2,
            Self::Put | Self::Refresh | Self::Visit => 1,
        }
    }

    /// How many of the nearest it asks.
    const fn count(self) -> usize {
        match self {
            Self::Get => SEARCHED,
            Self::Put | Self::Refresh => STORED_AT,
            Self::Visit => VISITED,
        }
    }
}
