//! What a peer is worth, in points, as a sum of named terms ([`Terms`]). Each term is one reason, says so in words
//! ([`Terms::words`]), and has its bounds, so that none can drown the others:
//!
//! | term | points | what it is for |
//! |---|---|---|
//! | social | 0 to 40, 100 if asked for | a friend is worth more than a friend's friend, and both more than a stranger |
//! | need | 0 to 80 | feeds that we follow and no session carries, and messages that the peer has said to have |
//! | chance | 0 to 30 | how likely a dial succeeds, by the decayed history of the path, or its own fresh word |
//! | fairness | 0 to 40 | the time since the last session: everybody's turn comes |
//! | cost | -21 to 0 | relayed bytes, a metered line, a long round trip |
//! | blame | at most 0 | what the peer did wrong, decayed |
//!
//! A session that stands is worth what keeps it ([`keep`]): instead of fairness counts how lately it brought news, its
//! chance is certain, and of the feeds it carries only those count that no other session does.

use std::time::{Duration, Instant};

use super::snapshot::{Candidate, Class, Feeds, PathState, Relation, Snapshot};

/// Worth of somebody whom a person asked for.
const ASKED_FOR: f64 = 100.0;
/// Worth of somebody whom we follow.
const FRIEND: f64 = 30.0;
/// More for somebody who follows us as well.
const MUTUAL: f64 = 10.0;
/// Worth of somebody two steps away; each step further halves it.
const FRIENDS_FRIEND: f64 = 12.0;
/// Worth of a feed that nobody connected carries, and the most for all of them.
const UNCOVERED: (f64, f64) = (2.0, 60.0);
/// Worth of each doubling of the messages that are owed, and the most.
const OWED: (f64, f64) = (4.0, 20.0);
/// Worth of a certain success.
const CHANCE: f64 = 30.0;
/// How many tries the presumption of a class counts for against the history of a path.
const PRESUMED: f64 = 2.0;
/// Least chance of a path that the peer said a short while ago to be at.
const SAID_CHANCE: f64 = 0.8;
/// What is a short while.
const SAID_FRESH: Duration = Duration::from_secs(10 * 60);
/// Each failure in a row leaves so much of a chance.
const FAILED_AGAIN: f64 = 0.7;
/// Worth of each doubling of the time without a session, the first such time, and the most.
const FAIRNESS: (f64, f64, f64) = (10.0, 15.0 * 60.0, 40.0);
/// Fairness towards somebody who was never met.
const NEVER_MET: f64 = 15.0;
/// Cost of a relay; and more on a metered line.
const RELAYED: (f64, f64) = (6.0, 10.0);
/// Cost of a second's round trip, and the most.
const ROUND_TRIP: (f64, f64) = (10.0, 5.0);
/// What each fault costs.
const FAULT: f64 = 10.0;
/// Worth of a session that brings news right now; it halves each [`QUIET`] without.
const NEWS: f64 = 20.0;
/// A session without news for so long is quiet.
pub const QUIET: Duration = Duration::from_secs(60);

/// The reasons for and against a peer, in points. See the module's header.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    /// What it is to us.
    pub social: f64,
    /// What it has that we need.
    pub need: f64,
    /// Whether it can be reached.
    pub chance: f64,
    /// How long it has waited; of a session, its news.
    pub fairness: f64,
    /// What it costs; not above zero.
    pub cost: f64,
    /// What it did; not above zero.
    pub blame: f64,
}

impl Terms {
    /// All together.
    pub fn total(&self) -> f64 {
        self.social + self.need + self.chance + self.fairness + self.cost + self.blame
    }

    /// All together but what it is to us: for the slots in which everybody has a turn.
    pub fn impartial(&self) -> f64 {
        self.total() - self.social
    }

    /// Each with its name.
    pub const fn named(&self) -> [(&'static str, f64); 6] {
        [
            ("social", self.social),
            ("need", self.need),
            ("chance", self.chance),
            ("fairness", self.fairness),
            ("cost", self.cost),
            ("blame", self.blame),
        ]
    }

    /// Those that are not zero, for people: `social 40 + need 12 - cost 6`.
    pub fn words(&self) -> String {
        let mut text = String::new();
        for (name, points) in self.named().into_iter().filter(|(_, points)| points.abs() >= 0.05) {
            let sign = match (text.is_empty(), points < 0.0) {
                (true, false) => "",
                (true, true) => "-",
                (false, false) => " + ",
                (false, true) => " - ",
            };
            text.push_str(&format!("{sign}{name} {:.1}", points.abs()));
        }
        if text.is_empty() { "nothing".to_owned() } else { text }
    }
}

/// What all peers are measured by: the feeds that we follow, and which of them sessions carry.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// What is followed.
    follows: Feeds,
    /// Carried by some session, or a dial under way.
    covered: Feeds,
    /// Carried by exactly one.
    once: Feeds,
    metered: bool,
    now: Instant,
}

impl View {
    /// What `snapshot` gives at `now`.
    pub fn new(snapshot: &Snapshot, now: Instant) -> Self {
        let (mut covered, mut once) = (Feeds::default(), Feeds::default());
        for peer in snapshot.peers.iter().filter(|peer| peer.link != super::Link::None) {
            let twice = covered.intersection(peer.carries);
            once = once.union(peer.carries).without(twice);
            covered = covered.union(peer.carries);
        }
        Self { follows: snapshot.follows, covered, once, metered: snapshot.metered, now }
    }

    /// Somebody who carries these is being dialled.
    pub fn cover(&mut self, carries: Feeds) {
        self.covered = self.covered.union(carries);
    }

    /// The moment that it is about.
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// Feeds that we follow, the peer carries, and no session does.
    pub fn uncovered(&self, peer: &Candidate) -> u32 {
        peer.carries.intersection(self.follows).without(self.covered).len()
    }

    /// Feeds that we follow and that only this session carries.
    pub fn only_by(&self, peer: &Candidate) -> u32 {
        peer.carries.intersection(self.follows).intersection(self.once).len()
    }

    /// Feeds that we follow and some session carries, and all that we follow.
    pub fn coverage(&self) -> (u32, u32) {
        (self.follows.intersection(self.covered).len(), self.follows.len())
    }
}

/// The worth of dialling `peer` over `path`.
pub fn dial(view: &View, peer: &Candidate, path: &PathState) -> Terms {
    Terms {
        social: social(peer),
        need: uncovered(view.uncovered(peer)) + owed(peer.owed),
        chance: CHANCE * chance(path, view.now),
        fairness: fairness(peer, view.now),
        cost: cost(view, peer, path.class),
        blame: -FAULT * peer.faults.amount(view.now),
    }
}

/// The worth of the session with `peer`.
pub fn keep(view: &View, peer: &Candidate) -> Terms {
    let news = peer.session.and_then(|session| session.news.max(Some(session.since)));
    let quiet = news.map_or(f64::MAX, |at| view.now.saturating_duration_since(at).as_secs_f64());
    let class = peer.session.map_or(Class::Direct, |session| session.class);
    Terms {
        social: social(peer),
        need: uncovered(view.only_by(peer)) + owed(peer.owed),
        chance: CHANCE,
        fairness: NEWS * (-quiet / QUIET.as_secs_f64()).exp2(),
        cost: cost(view, peer, class),
        blame: -FAULT * peer.faults.amount(view.now),
    }
}

fn social(peer: &Candidate) -> f64 {
    if peer.asked_for {
        return ASKED_FOR;
    }
    match peer.relation {
        Relation::Hops(0 | 1) => FRIEND + if peer.follows_us { MUTUAL } else { 0.0 },
        Relation::Hops(hops) => FRIENDS_FRIEND / f64::from(1 << (hops - 2).min(8)),
        Relation::Stranger | Relation::Blocked => 0.0,
    }
}

/// Points for feeds that nobody else carries.
pub fn uncovered(feeds: u32) -> f64 {
    (UNCOVERED.0 * f64::from(feeds)).min(UNCOVERED.1)
}

/// Points for messages that are owed.
pub fn owed(messages: u64) -> f64 {
    if messages == 0 { 0.0 } else { (OWED.0 * (1.0 + messages as f64).log2()).min(OWED.1) }
}

/// How likely a dial over `path` succeeds, from 0 to 1.
pub fn chance(path: &PathState, now: Instant) -> f64 {
    let presumed = match path.class {
        Class::Lan => 0.9,
        Class::Direct => 0.5,
        Class::Relayed => 0.6,
    };
    let (worked, failed) = (path.worked.amount(now), path.failed.amount(now));
    let by_history = (worked + PRESUMED * presumed) / (worked + failed + PRESUMED);
    let is_fresh = path.said.is_some_and(|at| now.saturating_duration_since(at) < SAID_FRESH);
    let chance = if is_fresh { by_history.max(SAID_CHANCE) } else { by_history };
    chance * FAILED_AGAIN.powi(path.failures.min(20) as i32)
}

fn fairness(peer: &Candidate, now: Instant) -> f64 {
    let (points, first, most) = FAIRNESS;
    match peer.met {
        Some(met) => {
            let waited = now.saturating_duration_since(met).as_secs_f64();
            (points * (1.0 + waited / first).log2()).min(most)
        }
        None => NEVER_MET,
    }
}

fn cost(view: &View, peer: &Candidate, class: Class) -> f64 {
    let relay =
        if class == Class::Relayed { RELAYED.0 + if view.metered { RELAYED.1 } else { 0.0 } } else { 0.0 };
    let trip = peer.round_trip.map_or(0.0, |trip| (ROUND_TRIP.0 * trip.as_secs_f64()).min(ROUND_TRIP.1));
    -(relay + trip)
}
