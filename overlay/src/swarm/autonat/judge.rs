//! How often we dial whom: an AutoNAT server lets strangers choose where its packets go.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Between two dials for one client.
pub(crate) const CLIENT_PAUSE: Duration = Duration::from_secs(10);
/// Dials a minute into one network, an IPv4 /24 or IPv6 /48.
pub(crate) const MAX_PER_NETWORK: usize = 12;
/// Dials a minute altogether. This bounds what is remembered too.
pub(crate) const MAX_PER_MINUTE: usize = 60;
const MINUTE: Duration = Duration::from_secs(60);

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Client,
    Network,
    Total,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    V4([u8; 3]),
    V6([u8; 6]),
}

impl Network {
    const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f])
            }
        }
    }
}

/// Remembers the dials of the last minute.
#[derive(Debug)]
pub(super) struct Judge<P> {
    last: BTreeMap<P, Instant>,
    recent: VecDeque<(Instant, Network)>,
}

impl<P> Default for Judge<P> {
    fn default() -> Self {
        Self { last: BTreeMap::new(), recent: VecDeque::new() }
    }
}

impl<P: Ord> Judge<P> {
    /// Counts the dial if it is allowed.
    pub(super) fn admit(&mut self, now: Instant, client: P, to: IpAddr) -> Result<(), Refusal> {
        let since = |at: Instant| now.saturating_duration_since(at);
        self.last.retain(|_, at| since(*at) < CLIENT_PAUSE);
        self.recent.retain(|(at, _)| since(*at) < MINUTE);
        let network = Network::of(to);
        if self.last.contains_key(&client) {
            return Err(Refusal::Client);
        }
        if self.recent.iter().filter(|(_, other)| *other == network).count() >= MAX_PER_NETWORK {
            return Err(Refusal::Network);
        }
        if self.recent.len() >= MAX_PER_MINUTE {
            return Err(Refusal::Total);
        }
        self.last.insert(client, now);
        self.recent.push_back((now, network));
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
mod tests {
    use super::*;

    fn ip(a: u8, b: u8) -> IpAddr {
        IpAddr::from([203, 0, a, b])
    }

    #[test]
    fn a_client_waits_its_turn() {
        let (now, mut judge) = (Instant::now(), Judge::default());
        assert_eq!(judge.admit(now, 1, ip(1, 1)), Ok(()));
        assert_eq!(judge.admit(now, 1, ip(2, 1)), Err(Refusal::Client));
        assert_eq!(judge.admit(now, 2, ip(1, 1)), Ok(()));
        assert_eq!(judge.admit(now + CLIENT_PAUSE, 1, ip(1, 1)), Ok(()));
    }

    #[test]
    fn a_network_is_dialled_so_often_whoever_asks() {
        let (now, mut judge) = (Instant::now(), Judge::default());
        for n in 0..12 {
            assert_eq!(judge.admit(now, n, ip(1, n)), Ok(()));
        }
        assert_eq!(judge.admit(now, 99, ip(1, 99)), Err(Refusal::Network));
        assert_eq!(judge.admit(now, 99, ip(2, 1)), Ok(()));
        assert_eq!(judge.admit(now + MINUTE, 99, ip(1, 99)), Ok(()));
        let v6 = |last: u16| IpAddr::from([0x2001, 0xdb8, 1, last, 0, 0, 0, 1]);
        for n in 100..112 {
            assert_eq!(judge.admit(now, n, v6(n.into())), Ok(()));
        }
        assert_eq!(judge.admit(now, 112, v6(9)), Err(Refusal::Network));
    }

    #[test]
    fn all_together_are_bounded_and_so_is_what_is_remembered() {
        let (now, mut judge) = (Instant::now(), Judge::default());
        let admitted = (0..200_u8).filter(|n| judge.admit(now, *n, ip(*n, 1)).is_ok()).count();
        assert_eq!(admitted, MAX_PER_MINUTE);
        assert_eq!(judge.admit(now, 201, ip(201, 1)), Err(Refusal::Total));
        assert_eq!((judge.last.len(), judge.recent.len()), (MAX_PER_MINUTE, MAX_PER_MINUTE));
        assert_eq!(judge.admit(now + MINUTE, 201, ip(201, 1)), Ok(()));
        assert_eq!((judge.last.len(), judge.recent.len()), (1, 1));
    }
}
