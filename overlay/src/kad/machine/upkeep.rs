//! What a node does when nobody asks: it looks around its own place now and then, visits parts of the table
//! that no lookup has touched for long, checks who seems to be gone, and gives those that did not answer
//! another chance.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::super::table::Table;
use super::super::{K, Key, NodeId, Request};
use super::asks::Purpose;
use super::{Dht, HEALTHY_NODES};

/// After the first node has answered: others may do so in the meantime.
const START_DELAY: Duration = Duration::from_millis(200);
/// First pause before another look around while the table is not healthy; it doubles up to [`PERIOD`].
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Between looks around, and between visits; up to a third more, by chance.
const PERIOD: Duration = Duration::from_secs(15 * 60);
/// The same for who serves nobody: nobody looks for it, and its lookups keep its table alive.
const PERIOD_OF_CLIENT: Duration = Duration::from_secs(30 * 60);
/// A part of the table that no lookup has touched for so long is visited.
const UNTOUCHED: Duration = Duration::from_secs(2 * 60 * 60);
/// Nearer parts of the table, which have fewer nodes than this, are looked at with our own place.
const WORTH_A_VISIT: usize = K / 2;
/// Names tried to hit an untouched part.
const TRIES: usize = 256;
/// A node that did not answer is asked again after this time.
const CHECK_AFTER: Duration = Duration::from_secs(10);
/// Between checks of nodes that have only been silent for long.
const STALE_PAUSE: Duration = Duration::from_secs(5 * 60);
/// Checks that wait.
const MAX_CHECKS: usize = 64;
/// After so many failures in a row, of whomever, it is we who are cut off.
const CUT_OFF: u32 = 8;
/// Nodes asked at once when we are in another network.
const CHECKED_AFTER_CHANGE: usize = 3;

/// Nodes that get another chance with each look around while there are few; else it is one.
const CALLED_BY_FEW: usize = 8;

/// See the module's header.
#[derive(Debug)]
pub(super) struct Upkeep {
    dice: Dice,
    /// The next look around.
    own_at: Option<Instant>,
    looking: bool,
    /// Looks around since the table was healthy.
    tries: u32,
    /// Somebody answered the last one.
    knows_itself: bool,
    /// The next visit to a part of the table.
    visit_at: Option<Instant>,
    visited: BTreeMap<usize, Instant>,
    checks: VecDeque<(Instant, NodeId)>,
    /// No check of a node for its long silence before.
    stale_at: Option<Instant>,
    /// Failures in a row.
    silence: u32,
}

impl Upkeep {
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            own_at: None,
            looking: false,
            tries: 0,
            knows_itself: false,
            visit_at: None,
            visited: BTreeMap::new(),
            checks: VecDeque::new(),
            stale_at: None,
            silence: 0,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let check = self.checks.front().map(|(at, _)| *at);
        let own = self.own_at.filter(|_| !self.looking);
        [own, self.visit_at, check].into_iter().flatten().min()
    }

    /// Somebody is in the table that was not.
    pub(super) fn found_one(&mut self, now: Instant) {
        if !self.knows_itself && self.tries == 0 {
            self.own_at.get_or_insert(now + START_DELAY);
        }
        if self.visit_at.is_none() {
            self.visit_at = Some(now + PERIOD.mul_f64(self.dice.up_to(1.0)));
        }
    }

    /// Others have reason to hear of us.
    pub(super) fn look_soon(&mut self, now: Instant) {
        self.own_at = Some(now + START_DELAY);
    }

    /// A candidate did not answer.
    pub(super) fn found_none(&mut self, now: Instant) {
        if self.own_at.is_none() && !self.looking {
            self.own_at = Some(now + self.pause());
        }
    }

    /// Somebody answered. Whether we had been cut off.
    pub(super) fn heard(&mut self, now: Instant) -> bool {
        let was_cut_off = std::mem::take(&mut self.silence) >= CUT_OFF;
        if was_cut_off {
            self.own_at = Some(now + START_DELAY);
        }
        was_cut_off
    }

    /// Somebody did not. Whether we seem to be cut off.
    pub(super) const fn missed(&mut self) -> bool {
        self.silence = self.silence.saturating_add(1);
        self.silence >= CUT_OFF
    }

    /// It did not answer once.
    pub(super) fn check_again(&mut self, now: Instant, node: NodeId) {
        self.check_at(now + CHECK_AFTER, node);
    }

    /// It was not heard for long.
    pub(super) fn check_stale(&mut self, now: Instant, node: NodeId) {
        if self.stale_at.is_none_or(|at| at <= now) {
            self.stale_at = Some(now + STALE_PAUSE);
            self.check_at(now, node);
        }
    }

    fn check_at(&mut self, at: Instant, node: NodeId) {
        let is_known = self.checks.iter().any(|(_, other)| *other == node);
        if !is_known && self.checks.len() < MAX_CHECKS {
            let index = self.checks.partition_point(|(other, _)| *other <= at);
            self.checks.insert(index, (at, node));
        }
    }

    /// A lookup goes to this part of the table.
    pub(super) fn visited(&mut self, now: Instant, bucket: Option<usize>) {
        if let Some(bucket) = bucket {
            self.visited.insert(bucket, now);
        }
    }

    pub(super) const fn knows_itself(&self) -> bool {
        self.knows_itself
    }

    /// Bytes whose place is in a part of the table that was not touched for long.
    fn untouched(&mut self, now: Instant, own: &Key, table: &Table) -> Option<Vec<u8>> {
        let is_untouched = |bucket: &usize, visited: &BTreeMap<usize, Instant>| {
            let touched = visited.get(bucket);
            touched.is_none_or(|at| now.saturating_duration_since(*at) >= UNTOUCHED)
        };
        (0..TRIES).find_map(|_| {
            let name = self.dice.roll().to_be_bytes().to_vec();
            let bucket = own.distance(&Key::of(&name)).bucket()?;
            let is_worth_it = table.size_of(bucket) >= WORTH_A_VISIT;
            (is_worth_it && is_untouched(&bucket, &self.visited)).then_some(name)
        })
    }

    fn due_check(&mut self, now: Instant) -> Option<NodeId> {
        let is_due = self.checks.front().is_some_and(|(at, _)| *at <= now);
        is_due.then(|| self.checks.pop_front()).flatten().map(|(_, node)| node)
    }

    fn pause(&self) -> Duration {
        FIRST_PAUSE.saturating_mul(1 << self.tries.min(16)).min(PERIOD)
    }
}

impl Dht {
    /// What is due.
    pub(super) fn upkeep(&mut self, now: Instant) {
        while let Some(node) = self.upkeep.due_check(now) {
            self.check(now, &node);
        }
        if !self.upkeep.looking && self.upkeep.own_at.is_some_and(|at| at <= now) {
            self.look_around(now);
        }
        if self.upkeep.visit_at.is_some_and(|at| at <= now) {
            let pause = self.period().mul_f64(1.0 + self.upkeep.dice.up_to(0.33));
            self.upkeep.visit_at = (!self.table.is_empty()).then(|| now + pause);
            if let Some(name) = self.upkeep.untouched(now, self.own.key(), &self.table) {
                self.refresh(now, Some(name));
            }
        }
    }

    const fn period(&self) -> Duration {
        if self.serving { PERIOD } else { PERIOD_OF_CLIENT }
    }

    fn check(&mut self, now: Instant, node: &NodeId) {
        if let Some(node) = self.table.find(node) {
            let to = node.contact.clone();
            Self::ask(&mut self.asks, &mut self.outputs, now, to, Purpose::Check, Request::Ping);
        }
    }

    fn look_around(&mut self, now: Instant) {
        if self.is_healthy() {
            let calls = if self.table.len() < HEALTHY_NODES { CALLED_BY_FEW } else { 1 };
            for _ in 0..calls {
                let roll = self.upkeep.dice.roll();
                self.candidates.call_one(roll);
            }
        } else {
            self.candidates.call_all();
        }
        self.upkeep.tries = self.upkeep.tries.saturating_add(1);
        self.upkeep.own_at = None;
        if self.table.is_empty() {
            self.upkeep.knows_itself = false;
            let has_hope = !self.candidates.is_idle();
            self.upkeep.own_at = has_hope.then(|| now + self.upkeep.pause());
        } else {
            self.upkeep.looking = true;
            self.refresh(now, None);
        }
    }

    /// The look around is over.
    pub(super) fn looked_around(&mut self, now: Instant, has_answers: bool) {
        self.upkeep.looking = false;
        self.upkeep.knows_itself = has_answers;
        let chance = 1.0 + self.upkeep.dice.up_to(0.33);
        let pause = if self.is_healthy() {
            self.upkeep.tries = 0;
            self.period()
        } else {
            self.upkeep.pause()
        };
        self.upkeep.own_at.get_or_insert(now + pause.mul_f64(chance));
    }

    /// We may be in another network.
    pub(super) fn network_changed(&mut self, now: Instant) {
        self.upkeep.silence = 0;
        self.upkeep.tries = 0;
        self.table.forgive();
        self.candidates.call_all();
        let own = *self.own.key();
        let nearest = self.table.closest(&own, CHECKED_AFTER_CHANGE);
        let nearest: Vec<_> = nearest.into_iter().map(|node| node.contact.node.clone()).collect();
        for node in nearest {
            self.check(now, &node);
        }
        if !self.table.is_empty() {
            self.upkeep.own_at = Some(now + START_DELAY);
        }
    }
}

/// Chance, the same for the same seed (Steele, Lea and Flood 2014: SplitMix64).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `most`.
    fn up_to(&mut self, most: f64) -> f64 {
        most * (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
