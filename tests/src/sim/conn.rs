//! The rules of ssb-conn 6's scheduler for peers that are no rooms, in our own words.
//!
//! Every two seconds or so, and soon after somebody is heard or lost: unless a message has come within half a second,
//! - with more than eight connections the oldest go, down to four, each after two minutes over the excess;
//! - with all four slots taken and others waiting, the oldest goes after two hours over the square root of those who wait;
//! - into free slots go those who have cooled down, least first. To cool down takes (1 s a hop, 4 s, and 10 s times the cube
//!   of the failures) times how full the slots are, less for whoever was never tried, at random, or for attendants of a room; more for who never answered.

use super::world::World;
use super::{Contact, Decision, Happening, MINUTE, Millis, Scheduler};
use crate::chance::SplitMix;

const QUOTA: usize = 4;
const PERIOD: f64 = 2_000.0;
const ROTATION: f64 = 120.0 * MINUTE as f64;
const EXCESS: f64 = 2.0 * MINUTE as f64;
/// No updates so soon after a message.
const RECEIVING: Millis = 500;

/// See the module's header.
#[derive(Debug)]
pub struct Conn {
    /// From 0.8 to 1.2, once for each process.
    factor: f64,
    rotated: Millis,
    news: Option<Millis>,
}

impl Scheduler for Conn {
    fn new(_: &World, me: u32, _: &[Contact], now: Millis) -> Self {
        let factor = 0.8 + 0.4 * SplitMix::new(u64::from(me) ^ now).unit();
        Self { factor, rotated: 0, news: None }
    }

    fn happened(&mut self, _: usize, contact: &Contact, what: Happening, now: Millis) -> Option<Millis> {
        match what {
            Happening::News => {
                self.news = Some(now);
                None
            }
            Happening::Ended | Happening::EndedAtOnce => Some(now + 200),
            Happening::Presence if contact.present.is_some() => Some(now + 100),
            Happening::Presence
            | Happening::Failed
            | Happening::Connected
            | Happening::Dialing
            | Happening::Owes => None,
        }
    }

    fn decide(&mut self, contacts: &[Contact], now: Millis, chance: &mut SplitMix) -> Decision {
        let again = Some(now + (PERIOD * (0.5 + chance.unit())) as Millis);
        if self.news.is_some_and(|at| at + RECEIVING > now) {
            return Decision { again, ..Decision::default() };
        }
        let age = |place: &usize| now.saturating_sub(contacts[*place].changed.unwrap_or(0)) as f64;
        let mut up: Vec<usize> =
            (0..contacts.len()).filter(|place| contacts[*place].is_connected()).collect();
        up.sort_by_key(|place| contacts[*place].changed);
        let is_down = |contact: &Contact| !contact.is_busy() && contact.dialable && contact.present.is_some();
        let down: Vec<usize> = (0..contacts.len()).filter(|place| is_down(&contacts[*place])).collect();
        let mut drop = Vec::new();
        let excess = if up.len() > 2 * QUOTA { up.len() - QUOTA } else { 0 };
        let old = up.iter().filter(|place| age(place) > EXCESS * self.factor / excess.max(1) as f64);
        drop.extend(old.take(excess).copied());
        let free = QUOTA.saturating_sub(up.len());
        let period = ROTATION * self.factor / (down.len() as f64).sqrt();
        if free == 0
            && !down.is_empty()
            && self.rotated as f64 + period < now as f64
            && let Some(oldest) = up.iter().find(|place| age(place) > period)
        {
            self.rotated = now;
            drop.push(*oldest);
        }
        drop.dedup();
        let full = (1.0 - free as f64 / QUOTA as f64).max(0.1);
        let mut cooled: Vec<(f64, usize)> = Vec::new();
        for place in down.into_iter().filter(|_| free > 0) {
            let cooldown = cooldown(&contacts[place], full, chance);
            let since = contacts[place].changed.map_or(f64::MAX, |at| now.saturating_sub(at) as f64);
            if since > cooldown {
                cooled.push((cooldown, place));
            }
        }
        cooled.sort_by(|a, b| a.0.total_cmp(&b.0));
        let dial = cooled.into_iter().take(free).map(|(_, place)| place).collect();
        Decision { dial, drop, again }
    }
}

fn cooldown(contact: &Contact, full: f64, chance: &mut SplitMix) -> f64 {
    let failures = f64::from(contact.failures.min(64));
    let mut cooldown = (1000.0 * f64::from(contact.hops) + 4000.0 + failures.powi(3) * 10_000.0) * full;
    if contact.changed.is_none() {
        cooldown *= 0.5;
    }
    if chance.unit() < 0.3 {
        cooldown *= 0.5;
    }
    if !contact.hub {
        cooldown *= 0.8;
    }
    if contact.changed.is_some() && !contact.worked {
        cooldown *= 3.0;
    }
    cooldown
}
