//! Who may shake hands with us now, decided by the address that a link comes from, before anything is reckoned for it.
//! Nobody has an identity yet, so what is limited is addresses (of IPv6, a /64 counts as one), and *known* are those at which
//! a member is known to be. The first rule that says something decides:
//!
//! | rule | refused |
//! |---|---|
//! | `rate` | an address that has come too often lately ([`Limits::per_address`]) |
//! | `flood` | an unknown address, when all of those together have come too often ([`Limits::strangers`]) |
//! | `crowded` | an address with too many handshakes under way |
//! | `busy` | anybody when no place is left, and unknown addresses already when only the reserve is |
//!
//! So a flood from one address is turned away there, which costs little more than an accepted connection, and one from
//! everywhere leaves places to members; its first [`Limits::strangers`] still cost their handshakes. Sessions that stand are
//! not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::address::place_of;
use crate::buckets::{Buckets, Rate};

/// Of all places, one in so many is kept for known addresses.
const RESERVE: usize = 4;

/// Addresses that can be known; more are not told apart from others.
pub const MAX_KNOWN: usize = 8192;

/// The places; a cheap handle.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    limits: Limits,
    state: Arc<Mutex<State>>,
}

/// How many places there are, and how often they may be asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Inbound handshakes at a time.
    pub pending: usize,
    /// Of which from one IP address.
    pub pending_per_ip: usize,
    /// Handshakes that one address may begin.
    pub per_address: Rate,
    /// Handshakes that all unknown addresses together may begin.
    pub strangers: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pending: 128,
            pending_per_ip: 16,
            // A carrier's whole neighbourhood may share one, and come back at once after we were away.
            per_address: Rate { burst: 400, per_second: 40.0 },
            // All of a large pub's clients may come back at once; in the long run a fraction of a core is enough.
            strangers: Rate { burst: 10_000, per_second: 200.0 },
        }
    }
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    Rate,
    Flood,
    Crowded,
    Busy,
}

impl NoPlace {
    /// A name for metrics.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Flood => "flood",
            Self::Crowded => "crowded",
            Self::Busy => "busy",
        }
    }
}

/// Where a link comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// This machine's owner.
    Owner,
    /// Through a relay: nobody knows.
    Anywhere,
    /// There.
    Ip(IpAddr),
}

#[derive(Debug)]
struct State {
    all: usize,
    by_ip: BTreeMap<IpAddr, usize>,
    known: BTreeSet<IpAddr>,
    addresses: Buckets<IpAddr>,
    strangers: Buckets<()>,
}

/// A place, given back when dropped, also by a task that panics or is aborted.
#[derive(Debug)]
pub(super) struct Place {
    ip: Option<IpAddr>,
    state: Arc<Mutex<State>>,
}

impl Admission {
    pub(super) fn new(limits: Limits) -> Self {
        let state = State {
            all: 0,
            by_ip: BTreeMap::new(),
            known: BTreeSet::new(),
            addresses: Buckets::new(limits.per_address),
            strangers: Buckets::new(limits.strangers),
        };
        Self { limits, state: Arc::new(Mutex::new(state)) }
    }

    /// Replaces the addresses at which members are known to be.
    pub(super) fn set_known(&self, ips: impl Iterator<Item = IpAddr>) {
        lock(&self.state).known = ips.map(place_of).take(MAX_KNOWN).collect();
    }

    /// A place for a link from there, if there is one.
    pub(super) fn enter(&self, from: Origin, now: Instant) -> Result<Place, NoPlace> {
        let mut state = lock(&self.state);
        let ip = match from {
            Origin::Owner | Origin::Anywhere => None,
            Origin::Ip(ip) => Some(place_of(ip)),
        };
        state.judge(from, ip, &self.limits, now)?;
        state.all += 1;
        if let Some(ip) = ip {
            *state.by_ip.entry(ip).or_default() += 1;
        }
        Ok(Place { ip, state: Arc::clone(&self.state) })
    }
}

impl State {
    /// What is refused by one rule counts for none.
    fn judge(
        &mut self,
        from: Origin,
        ip: Option<IpAddr>,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), NoPlace> {
        let is_known = from == Origin::Owner || ip.is_some_and(|ip| self.known.contains(&ip));
        let under_way = ip.and_then(|ip| self.by_ip.get(&ip)).copied().unwrap_or(0);
        let kept = if is_known { 0 } else { limits.pending / RESERVE };
        if ip.is_some_and(|ip| !self.addresses.has(now, &ip)) {
            return Err(NoPlace::Rate);
        }
        if !is_known && !self.strangers.has(now, &()) {
            return Err(NoPlace::Flood);
        }
        if under_way >= limits.pending_per_ip {
            return Err(NoPlace::Crowded);
        }
        if self.all >= limits.pending - kept {
            return Err(NoPlace::Busy);
        }
        if let Some(ip) = ip {
            self.addresses.take(now, ip);
        }
        if !is_known {
            self.strangers.take(now, ());
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.all -= 1;
        let Some(ip) = self.ip else { return };
        let Some(from_ip) = state.by_ip.get_mut(&ip) else { return };
        *from_ip -= 1;
        if *from_ip == 0 {
            state.by_ip.remove(&ip);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::now;

    fn ip(text: &str) -> Origin {
        Origin::Ip(text.parse().unwrap())
    }

    fn limits(pending: usize, pending_per_ip: usize) -> Limits {
        Limits { pending, pending_per_ip, ..Limits::default() }
    }

    #[test]
    fn one_address_cannot_take_all_places_and_a_place_given_back_is_free() {
        let (admission, now) = (Admission::new(limits(4, 2)), now());
        let enter = |from| admission.enter(from, now);
        let first = enter(ip("10.0.0.1"));
        let second = enter(ip("::ffff:10.0.0.1"));
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(enter(ip("10.0.0.1")).unwrap_err(), NoPlace::Crowded);
        let third = enter(ip("2001:db8::1"));
        assert!(third.is_ok());
        assert_eq!(enter(ip("10.0.0.3")).unwrap_err(), NoPlace::Busy, "the last one is kept");
        assert_eq!(enter(Origin::Anywhere).unwrap_err(), NoPlace::Busy);
        drop(first);
        let fourth = enter(ip("2001:db8::2"));
        assert!(fourth.is_ok());
        assert_eq!(enter(ip("2001:db8::3")).unwrap_err(), NoPlace::Crowded, "a /64 is one");
        drop((second, third, fourth));
        let state = lock(&admission.state);
        assert_eq!(state.all, 0);
        assert!(state.by_ip.is_empty());
    }

    #[test]
    fn places_are_kept_for_the_owner_and_for_addresses_of_members() {
        let (admission, now) = (Admission::new(limits(8, 8)), now());
        admission.set_known(["10.0.0.7".parse().unwrap()].into_iter());
        let enter = |from| admission.enter(from, now);
        let strangers: Vec<_> = (0..9).filter_map(|n| enter(ip(&format!("192.0.2.{n}"))).ok()).collect();
        assert_eq!(strangers.len(), 6);
        let member = enter(ip("10.0.0.7"));
        let owner = enter(Origin::Owner);
        assert!(member.is_ok() && owner.is_ok());
        assert_eq!(enter(Origin::Owner).unwrap_err(), NoPlace::Busy, "all are taken");
    }

    #[test]
    fn a_flood_from_one_address_leaves_others_alone_and_one_from_everywhere_leaves_members_alone() {
        let (admission, start) = (Admission::new(Limits::default()), now());
        admission.set_known(["10.0.0.7".parse().unwrap()].into_iter());
        let refused = |from, at| admission.enter(from, at).err();
        let granted = (0..1000).filter(|_| refused(ip("192.0.2.1"), start).is_none()).count();
        assert_eq!(granted, 400);
        assert_eq!(refused(ip("192.0.2.1"), start), Some(NoPlace::Rate));
        assert_eq!(refused(ip("192.0.2.2"), start), None);
        let later = start + Duration::from_secs(1);
        let granted = (0..1000).filter(|_| refused(ip("192.0.2.1"), later).is_none()).count();
        assert_eq!(granted, 40, "in a second");
        let addresses = (0..20_000_u32).map(|n| Origin::Ip(IpAddr::from((0x0b00_0000 + n).to_be_bytes())));
        let granted = addresses.filter(|from| refused(*from, later).is_none()).count();
        assert_eq!(granted, 10_000 - 401 + 200 - 40, "a second gives 200 back");
        assert_eq!(refused(ip("198.51.100.1"), later), Some(NoPlace::Flood));
        assert_eq!(refused(Origin::Anywhere, later), Some(NoPlace::Flood));
        assert_eq!(refused(ip("10.0.0.7"), later), None);
        assert_eq!(refused(Origin::Owner, later), None);
    }

    #[test]
    fn no_more_addresses_are_known_than_are_kept() {
        let admission = Admission::new(Limits::default());
        admission.set_known((0..100_000_u32).map(|n| IpAddr::from(n.to_be_bytes())));
        assert_eq!(lock(&admission.state).known.len(), MAX_KNOWN);
    }
}
