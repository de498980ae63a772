//! Looking for one friend: when, and what was found.

use std::time::{Duration, Instant};

use super::dice::Dice;
use super::record::{Opened, Reader};
use crate::conn::TransportId;
use crate::kad::LookupId;
use crate::reachability::Nat;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Pauses after the first attempt, second …; the last is repeated.
pub(super) type Plan = &'static [Duration];
/// For somebody whom we have just followed, and who may be about to follow us.
pub(super) const NEW: Plan =
    &[s(1), s(2), s(4), s(8), s(15), s(30), s(60), s(300), s(1200), s(3600), s(10_800), s(28_800)];
/// For all when we start.
pub(super) const START: Plan = &[s(5), s(60), s(300), s(1200), s(3600), s(10_800), s(28_800)];
/// For somebody with whom there was a session a moment ago.
pub(super) const LOST: Plan = &[s(5), s(15), s(30), s(60), s(300), s(1200), s(3600), s(10_800), s(28_800)];
/// How long before what we know of a friend ends it is looked for again, about.
const BEFORE_END: Duration = s(8 * 60);

/// Where one looks: first where only the two can, then where everybody can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Pairwise,
    Public,
}

/// The search for one friend.
pub(super) struct Search {
    pub(super) connected: bool,
    pairwise: Reader,
    public: Reader,
    plan: Plan,
    step: usize,
    stage: Stage,
    /// When the next stage begins; `None` while one is under way or while there is a session.
    due: Option<Instant>,
    underway: Vec<LookupId>,
    hit: bool,
    /// Our record for it has been published since we have an address.
    told: bool,
    /// That came about while lookups were under way: to be sought once more when they are over.
    again: bool,
    /// When the record that is known ends.
    known: Option<Instant>,
    /// What it says.
    content: Option<(TransportId, Vec<String>, Nat)>,
    /// The highest sequence seen.
    newest: Option<u64>,
}

impl Search {
    pub(super) const fn new(pairwise: Reader, public: Reader) -> Self {
        Self {
            connected: false,
            pairwise,
            public,
            plan: START,
            step: 0,
            stage: Stage::Pairwise,
            due: None,
            underway: Vec::new(),
            hit: false,
            told: false,
            again: false,
            known: None,
            content: None,
            newest: None,
        }
    }

    /// Begins anew at this time, or once our record is published.
    pub(super) fn begin(&mut self, plan: Plan, at: Instant) {
        self.plan = plan;
        self.step = 0;
        self.stage = Stage::Pairwise;
        self.due = Some(at);
    }

    /// There is a session. What is to be cancelled is given back.
    pub(super) fn connect(&mut self) -> Vec<LookupId> {
        self.connected = true;
        self.due = None;
        self.again = false;
        self.stage = Stage::Pairwise;
        std::mem::take(&mut self.underway)
    }

    /// There is none any more.
    pub(super) fn disconnect(&mut self, now: Instant) {
        self.connected = false;
        self.begin(LOST, now);
    }

    /// Our record for it was published, or could not be. Whoever has published seeks once more: so whichever
    /// of two is the later finds the other.
    pub(super) fn published(&mut self, now: Instant) {
        if std::mem::replace(&mut self.told, true) || self.connected {
            return;
        }
        if self.underway.is_empty() {
            self.stage = Stage::Pairwise;
            self.due = Some(now);
        } else {
            self.again = true;
        }
    }

    /// We have no address any more: what we published is of no use.
    pub(super) const fn untold(&mut self) {
        self.told = false;
    }

    pub(super) const fn next_due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) const fn reader(&self, stage: Stage) -> &Reader {
        match stage {
            Stage::Pairwise => &self.pairwise,
            Stage::Public => &self.public,
        }
    }

    pub(super) const fn stage(&self) -> Stage {
        self.stage
    }

    /// The stage is under way with these lookups.
    pub(super) fn started(&mut self, lookups: Vec<LookupId>) {
        self.due = None;
        self.hit = false;
        self.underway = lookups;
    }

    /// A valid record was found. Whether it is to be told: it is newer than all before, and says what the
    /// lookups that are under way have not said yet.
    pub(super) fn found(&mut self, opened: &Opened, until: Instant) -> bool {
        let Opened { certificate, nat, stamp } = opened;
        let is_first = !std::mem::replace(&mut self.hit, true);
        if self.newest.is_some_and(|newest| newest >= stamp.sequence) {
            return false;
        }
        self.newest = Some(stamp.sequence);
        self.known = Some(until);
        let content = (certificate.peer.clone(), certificate.addresses.clone(), *nat);
        let is_other = self.content.as_ref() != Some(&content);
        self.content = Some(content);
        is_first || is_other
    }

    /// A lookup is over.
    pub(super) fn ended(&mut self, now: Instant, dice: &mut Dice, lookup: LookupId) {
        let Some(at) = self.underway.iter().position(|of| *of == lookup) else { return };
        self.underway.swap_remove(at);
        if !self.underway.is_empty() || self.connected {
            return;
        }
        if std::mem::take(&mut self.again) && !self.hit {
            self.stage = Stage::Pairwise;
            self.due = Some(now);
            return;
        }
        if !self.hit && self.stage == Stage::Pairwise {
            self.stage = Stage::Public;
            self.due = Some(now);
            return;
        }
        self.stage = Stage::Pairwise;
        let pause = self.plan.get(self.step).or(self.plan.last()).copied().unwrap_or_default();
        self.step = (self.step + 1).min(self.plan.len());
        let by_plan = now + dice.about(pause);
        let before_end = self.known.and_then(|end| end.checked_sub(dice.about(BEFORE_END)));
        let before_end = before_end.filter(|at| *at > now + BEFORE_END);
        self.due = Some(before_end.map_or(by_plan, |at| at.min(by_plan)));
    }

    /// When [`Self::expire`] has something to do.
    pub(super) fn expiry(&self) -> Option<Instant> {
        self.known.filter(|_| !self.connected)
    }

    /// Whether what was known has ended. While there is a session nobody needs it, and it stays.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let is_over = self.expiry().is_some_and(|end| end <= now);
        if is_over {
            self.known = None;
            self.content = None;
        }
        is_over
    }

    /// Whether a record of it is known that has not ended.
    pub(super) const fn is_known(&self) -> bool {
        self.known.is_some()
    }

    pub(super) fn underway(&self) -> &[LookupId] {
        &self.underway
    }
}
