//! How many strangers may be in the middle of a handshake with us: in all, and from one address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places; a cheap handle.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    limits: Limits,
    taken: Arc<Mutex<Taken>>,
}

/// How many places there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Inbound handshakes at a time.
    pub pending: usize,
    /// Of which from one IP address.
    pub pending_per_ip: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pending: 128, pending_per_ip: 16 }
    }
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_ip: BTreeMap<IpAddr, usize>,
}

/// A place, given back when dropped, also by a task that panics or is aborted.
#[derive(Debug)]
pub(super) struct Place {
    ip: Option<IpAddr>,
    taken: Arc<Mutex<Taken>>,
}

impl Admission {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, taken: Arc::default() }
    }

    /// A place for a link from this address, if there is one. Links without an address (sockets of this
    /// machine, names) only count in all.
    pub(super) fn enter(&self, ip: Option<IpAddr>) -> Option<Place> {
        let ip = ip.map(|ip| ip.to_canonical());
        let mut taken = lock(&self.taken);
        let from_ip = ip.and_then(|ip| taken.by_ip.get(&ip)).copied().unwrap_or(0);
        if taken.all >= self.limits.pending || from_ip >= self.limits.pending_per_ip {
            return None;
        }
        taken.all += 1;
        if let Some(ip) = ip {
            *taken.by_ip.entry(ip).or_default() += 1;
        }
        Some(Place { ip, taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.all -= 1;
        let Some(ip) = self.ip else { return };
        let Some(from_ip) = taken.by_ip.get_mut(&ip) else { return };
        *from_ip -= 1;
        if *from_ip == 0 {
            taken.by_ip.remove(&ip);
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn one_address_cannot_take_all_places_and_a_place_given_back_is_free() {
        let admission = Admission::new(Limits { pending: 3, pending_per_ip: 2 });
        let first = admission.enter(ip("10.0.0.1"));
        let second = admission.enter(ip("::ffff:10.0.0.1"));
        assert!(first.is_some() && second.is_some());
        assert!(admission.enter(ip("10.0.0.1")).is_none());
        let third = admission.enter(ip("10.0.0.2"));
        assert!(third.is_some());
        assert!(admission.enter(ip("10.0.0.3")).is_none() && admission.enter(None).is_none());
        drop(first);
        assert!(admission.enter(None).is_some());
        drop((second, third));
        let taken = lock(&admission.taken);
        assert_eq!(taken.all, 0);
        assert!(taken.by_ip.is_empty());
    }
}
