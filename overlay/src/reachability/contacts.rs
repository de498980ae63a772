//! Whom we have sent to.
//!
//! Many NATs let in whatever comes from an address that they have seen a packet go to. So who gets through
//! to us proves something only if we have not sent to its address before.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Transport;

/// NATs forget by then: the longest that is usual for UDP is five minutes. (For TCP it is hours, but only
/// for one pair of ports.)
pub(crate) const CONTACT_HOLDS: Duration = Duration::from_secs(10 * 60);
/// Most addresses and most peers remembered. When full, everybody counts as known until the oldest is out
/// of date: to forget one would make its next packet look like a proof.
pub(crate) const MAX_CONTACTS: usize = 4096;

#[derive(Debug)]
pub(super) struct Contacts<P> {
    hosts: BTreeMap<(Transport, Host), Instant>,
    peers: BTreeMap<P, Instant>,
    /// Until when everybody counts as known.
    overflow: Option<Instant>,
}

/// An IPv4 address, or an IPv6 network as it is given to one site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    V4(u32),
    V6(u64),
}

impl Host {
    fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::V4(ip.to_bits()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Self::V6(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
        }
    }
}

impl<P: Ord + Clone> Contacts<P> {
    pub(super) fn new() -> Self {
        Self { hosts: BTreeMap::new(), peers: BTreeMap::new(), overflow: None }
    }

    pub(super) fn add_host(&mut self, now: Instant, transport: Transport, ip: IpAddr) {
        let key = (transport, Host::of(ip));
        self.make_room(now, self.hosts.len(), self.hosts.contains_key(&key));
        if self.hosts.len() < MAX_CONTACTS || self.hosts.contains_key(&key) {
            self.hosts.insert(key, now);
        }
    }

    pub(super) fn add_peer(&mut self, now: Instant, peer: &P) {
        self.make_room(now, self.peers.len(), self.peers.contains_key(peer));
        if self.peers.len() < MAX_CONTACTS || self.peers.contains_key(peer) {
            self.peers.insert(peer.clone(), now);
        }
    }

    /// Drops what is out of date, and if that does not help, trusts nobody's novelty for a while.
    fn make_room(&mut self, now: Instant, len: usize, known: bool) {
        if known || len < MAX_CONTACTS {
            return;
        }
        self.expire(now);
        if self.hosts.len() >= MAX_CONTACTS || self.peers.len() >= MAX_CONTACTS {
            self.overflow = Some(now + CONTACT_HOLDS);
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.hosts.retain(|_, at| is_fresh(now, *at));
        self.peers.retain(|_, at| is_fresh(now, *at));
        self.overflow = self.overflow.filter(|until| *until > now);
    }

    pub(super) fn knows_host(&self, now: Instant, transport: Transport, ip: IpAddr) -> bool {
        let at = self.hosts.get(&(transport, Host::of(ip)));
        self.is_full(now) || at.is_some_and(|at| is_fresh(now, *at))
    }

    pub(super) fn knows_peer(&self, now: Instant, peer: &P) -> bool {
        self.is_full(now) || self.peers.get(peer).is_some_and(|at| is_fresh(now, *at))
    }

    fn is_full(&self, now: Instant) -> bool {
        self.overflow.is_some_and(|until| until > now)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.hosts.len().max(self.peers.len())
    }
}

fn is_fresh(now: Instant, at: Instant) -> bool {
    now.saturating_duration_since(at) < CONTACT_HOLDS
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_contact_is_of_one_transport_and_holds_for_a_while() {
        let now = Instant::now();
        let mut contacts = Contacts::<u8>::new();
        contacts.add_host(now, Transport::Quic, ip("203.0.113.1"));
        contacts.add_host(now, Transport::Tcp, ip("2001:db8::1"));
        contacts.add_peer(now, &1);
        assert!(contacts.knows_host(now, Transport::Quic, ip("203.0.113.1")));
        assert!(!contacts.knows_host(now, Transport::Tcp, ip("203.0.113.1")));
        assert!(!contacts.knows_host(now, Transport::Quic, ip("203.0.113.2")));
        assert!(contacts.knows_host(now, Transport::Tcp, ip("2001:db8::99")), "the same site");
        assert!(contacts.knows_peer(now, &1) && !contacts.knows_peer(now, &2));
        let later = now + CONTACT_HOLDS;
        assert!(!contacts.knows_host(later, Transport::Quic, ip("203.0.113.1")));
        assert!(!contacts.knows_peer(later, &1));
    }

    #[test]
    fn when_there_are_too_many_nobody_looks_new() {
        let now = Instant::now();
        let mut contacts = Contacts::<u8>::new();
        let max = u32::try_from(MAX_CONTACTS).unwrap();
        for n in 0..max {
            contacts.add_host(now, Transport::Tcp, IpAddr::V4((0x0100_0000 + n).into()));
        }
        assert!(!contacts.knows_host(now, Transport::Tcp, ip("203.0.113.1")));
        contacts.add_host(now, Transport::Tcp, ip("198.51.100.1"));
        assert!(contacts.knows_host(now, Transport::Tcp, ip("203.0.113.1")));
        assert!(contacts.knows_peer(now, &1));
        assert_eq!(contacts.len(), MAX_CONTACTS);
        let later = now + CONTACT_HOLDS;
        contacts.add_host(later, Transport::Tcp, ip("198.51.100.1"));
        assert!(!contacts.knows_host(later, Transport::Tcp, ip("203.0.113.1")));
        assert_eq!(contacts.len(), 1);
    }
}
