//! The rules of ssb-gossip 1.1's scheduler, in our own words.
//!
//! Every two seconds or so: each class of peers has a quota. Over twice the quota the oldest are hung up on. Else the peers of the class that have waited
//! longest are dialled, no sooner than `2^failures * factor` (at most `max`) after their last change and `spacing` after the class's last one.
//! Whoever was never pinged, that is, only ever dialled us, is hung up on after ten seconds. Nobody tells it who is online.

use super::world::World;
use super::{Contact, Decision, Happening, MINUTE, Millis, Scheduler};
use crate::chance::SplitMix;

const HOUR: Millis = 60 * MINUTE;
const RECEIVING: Millis = 500;
/// Whoever was not pinged by then is hung up on.
const STUCK: Millis = 10_000;

/// One class of peers.
struct Class {
    holds: fn(&Contact) -> bool,
    /// Only while fewer friends than this are connected, or nobody else.
    only_if: fn(friends: usize, others: usize) -> bool,
    quota: usize,
    factor: f64,
    max: Millis,
    spacing: Millis,
}

const CLASSES: [Class; 7] = [
    Class { holds: |c| !c.hub, only_if: always, quota: 3, factor: 2e3, max: 10 * MINUTE, spacing: 1_000 },
    Class {
        holds: |c| !c.hub && c.pinged,
        only_if: always,
        quota: 2,
        factor: 1e4,
        max: 10 * MINUTE,
        spacing: 5_000,
    },
    Class {
        holds: |c| !c.hub && c.changed.is_none(),
        only_if: |friends, _| friends < 2,
        quota: 1,
        factor: 0.0,
        max: 0,
        spacing: 0,
    },
    Class {
        holds: |c| !c.hub && inactive(c),
        only_if: always,
        quota: 3,
        factor: 6e4,
        max: 3 * HOUR,
        spacing: 5 * MINUTE,
    },
    Class {
        holds: |c| c.hub && c.pinged,
        only_if: always,
        quota: 2,
        factor: 1e4,
        max: 10 * MINUTE,
        spacing: 5_000,
    },
    Class {
        holds: |c| c.changed.is_none(),
        only_if: |_, others| others == 0,
        quota: 1,
        factor: 0.0,
        max: 0,
        spacing: 0,
    },
    Class { holds: inactive, only_if: always, quota: 3, factor: 3e5, max: 3 * HOUR, spacing: 250_000 },
];

const fn always(_: usize, _: usize) -> bool {
    true
}

/// Tried, and never reached.
const fn inactive(contact: &Contact) -> bool {
    contact.changed.is_some() && !contact.worked
}

/// See the module's header.
#[derive(Debug)]
pub struct Gossip {
    news: Option<Millis>,
}

impl Scheduler for Gossip {
    fn new(_: &World, _: u32, _: &[Contact], _: Millis) -> Self {
        Self { news: None }
    }

    fn happened(&mut self, _: usize, _: &Contact, what: Happening, now: Millis) -> Option<Millis> {
        match what {
            Happening::News => {
                self.news = Some(now);
                None
            }
            Happening::Ended | Happening::EndedAtOnce => Some(now + 500),
            Happening::Presence
            | Happening::Failed
            | Happening::Connected
            | Happening::Dialing
            | Happening::Owes => None,
        }
    }

    fn decide(&mut self, contacts: &[Contact], now: Millis, chance: &mut SplitMix) -> Decision {
        let again = Some(now + 2_000 + (1_000.0 * chance.unit()) as Millis);
        if self.news.is_some_and(|at| at + RECEIVING > now) {
            return Decision { again, ..Decision::default() };
        }
        let busy = |hub: bool| contacts.iter().filter(|c| c.is_busy() && c.hub == hub).count();
        let (friends, others) = (busy(false), busy(true));
        let (mut dial, mut drop): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
        for class in CLASSES.iter().filter(|class| (class.only_if)(friends, others)) {
            select(class, contacts, now, &mut dial, &mut drop);
        }
        let is_passing = |contact: &Contact| {
            contact.is_connected() && !contact.pinged && contact.changed.is_some_and(|at| at + STUCK < now)
        };
        drop.extend((0..contacts.len()).filter(|place| is_passing(&contacts[*place])));
        drop.sort_unstable();
        drop.dedup();
        Decision { dial, drop, again }
    }
}

fn select(class: &Class, contacts: &[Contact], now: Millis, dial: &mut Vec<usize>, drop: &mut Vec<usize>) {
    let of_class = (0..contacts.len()).filter(|place| (class.holds)(&contacts[*place]));
    let is_up = |place: &usize| contacts[*place].is_busy() || dial.contains(place);
    let (mut up, mut down): (Vec<usize>, Vec<usize>) = of_class.partition(is_up);
    up.sort_by_key(|place| contacts[*place].changed);
    if up.len() > 2 * class.quota {
        drop.extend(up.iter().take(up.len() - class.quota).filter(|place| contacts[**place].is_connected()));
        return;
    }
    let last = down.iter().filter_map(|place| contacts[*place].changed).max().unwrap_or(0);
    if now < last + class.spacing {
        return;
    }
    let due = |contact: &Contact| {
        let pause = (2f64.powi(contact.failures.min(30) as i32) * class.factor).min(class.max as f64);
        contact.changed.unwrap_or(0) as f64 + pause < now as f64
    };
    down.retain(|place| contacts[*place].dialable && due(&contacts[*place]));
    down.sort_by_key(|place| contacts[*place].changed);
    dial.extend(down.into_iter().take(class.quota.saturating_sub(up.len())));
}
