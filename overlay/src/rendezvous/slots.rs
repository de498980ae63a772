//! The records of one period: always the same number, whoever they are for.

use std::time::{Duration, Instant};

use super::dice::Dice;
use super::record::Writer;
use crate::kad::LookupId;
use crate::keys::PublicKey;

/// Fewest records of a period, and most; in between it is the next power of two.
pub(super) const MIN_SLOTS: usize = 32;
pub(super) const MAX_SLOTS: usize = 256;
/// How many are published first when all are to be published; a fixed number, friends or not.
const BURST: usize = 16;
/// Within which time those are, and the others.
const BURST_TIME: Duration = Duration::from_millis(2500);
pub(super) const SPREAD: Duration = Duration::from_secs(20);
/// When a record is published again, at least and at most; its life is two hours.
const REFRESH: Duration = Duration::from_secs(95 * 60);
const REFRESH_SPREAD: Duration = Duration::from_secs(15 * 60);
/// First and longest pause after a publication that nobody kept; it doubles in between.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(16 * 60);

/// Whom a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    Friend(PublicKey),
    Everybody,
    Nobody,
}

/// One record and when it is next published.
pub(super) struct Slot {
    pub(super) audience: Audience,
    pub(super) writer: Writer,
    /// `None` while it is being published and nothing has changed since.
    due: Option<Instant>,
    underway: Option<LookupId>,
    failures: u32,
}

/// All of a period.
pub(super) struct Slots {
    pub(super) period: u64,
    slots: Vec<Slot>,
}

/// How many records hide so many.
pub(super) fn count(wanted: usize) -> usize {
    wanted.next_power_of_two().clamp(MIN_SLOTS, MAX_SLOTS)
}

impl Slots {
    pub(super) const fn new(period: u64) -> Self {
        Self { period, slots: Vec::new() }
    }

    pub(super) fn push(&mut self, audience: Audience, writer: Writer, due: Instant) {
        self.slots.push(Slot { audience, writer, due: Some(due), underway: None, failures: 0 });
    }

    pub(super) const fn len(&self) -> usize {
        self.slots.len()
    }

    #[cfg(test)]
    pub(super) fn seats(&self, audience: Audience) -> bool {
        self.slots.iter().any(|slot| slot.audience == audience)
    }

    /// Gives a slot of nobody's, or else one that `can_wait`, or else any, to someone else, at once.
    pub(super) fn seat(
        &mut self,
        now: Instant,
        dice: &mut Dice,
        audience: Audience,
        writer: Writer,
        can_wait: impl Fn(Audience) -> bool,
    ) {
        let order = dice.order(self.slots.len());
        let is_free = |at: &&usize| self.slots[**at].audience == Audience::Nobody;
        let waits = |at: &&usize| can_wait(self.slots[**at].audience);
        let free = order.iter().find(is_free).or_else(|| order.iter().find(waits));
        let friend = |at: &&usize| self.slots[**at].audience != Audience::Everybody;
        if let Some(at) = free.or_else(|| order.iter().find(friend)) {
            self.slots[*at] = Slot { audience, writer, due: Some(now), underway: None, failures: 0 };
        }
    }

    /// Leaves a slot to nobody; it keeps its time.
    pub(super) fn clear(&mut self, audience: Audience, decoy: Writer) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.audience == audience) {
            slot.audience = Audience::Nobody;
            slot.writer = decoy;
        }
    }

    /// All are to be published soon: a first [`BURST`] of those that are `urgent` and any others, then the
    /// rest. How many are when says nothing of how many are for friends.
    pub(super) fn renew(&mut self, now: Instant, dice: &mut Dice, urgent: impl Fn(Audience) -> bool) {
        let mut order = dice.order(self.slots.len());
        order.sort_by_key(|at| !urgent(self.slots[*at].audience));
        for (turn, at) in order.into_iter().enumerate() {
            let wait = if turn < BURST {
                dice.within(BURST_TIME)
            } else {
                BURST_TIME + dice.within(SPREAD - BURST_TIME)
            };
            self.slots[at].due = Some(now + wait);
        }
    }

    /// When the next is to be published.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.slots.iter().filter(|slot| slot.underway.is_none()).filter_map(|slot| slot.due).min()
    }

    /// The slot that is to be published now, if any; it is under way from now on.
    pub(super) fn take_due(&mut self, now: Instant, lookup: LookupId) -> Option<&mut Slot> {
        let due = |slot: &&mut Slot| slot.underway.is_none() && slot.due.is_some_and(|due| due <= now);
        let slot = self.slots.iter_mut().filter(due).min_by_key(|slot| slot.due)?;
        slot.due = None;
        slot.underway = Some(lookup);
        Some(slot)
    }

    /// A publication is over. Says whose it was.
    pub(super) fn ended(
        &mut self,
        now: Instant,
        dice: &mut Dice,
        lookup: LookupId,
        success: bool,
    ) -> Option<Audience> {
        let slot = self.slots.iter_mut().find(|slot| slot.underway == Some(lookup))?;
        slot.underway = None;
        slot.failures = if success { 0 } else { slot.failures.saturating_add(1) };
        let pause = match slot.failures {
            0 => REFRESH + dice.within(REFRESH_SPREAD),
            failures => dice.about((FIRST_PAUSE * 2_u32.pow((failures - 1).min(5))).min(LONGEST_PAUSE)),
        };
        slot.due.get_or_insert(now + pause);
        Some(slot.audience)
    }
}
