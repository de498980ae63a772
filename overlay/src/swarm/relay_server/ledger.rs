//! Who may have a reservation or a circuit now, as a machine: tiers, rates, shares and what is under way.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use libp2p::PeerId;
use libp2p::swarm::ConnectionId;

use crate::buckets::{Buckets, Rate};
use crate::relay::{RelayTotals, Tier};

/// Most peers whose tier is remembered; the one named longest ago goes first.
pub(crate) const MAX_TIERS: usize = 8192;
/// Reservations of one peer, which may be connected more than once.
pub(crate) const MAX_RESERVATIONS_PER_PEER: usize = 4;

/// Requests of one peer. Even a peer that tries everybody it knows stays below this.
const PER_PEER: Rate = Rate { burst: 60, per_second: 0.5 };
/// Requests of all strangers of one network: transport identities cost nothing, addresses do.
const PER_NETWORK: Rate = Rate { burst: 200, per_second: 2.0 };

/// Circuits that one peer may have opened.
const fn max_circuits_of_peer(tier: Tier) -> usize {
    match tier {
        Tier::Stranger => 8,
        Tier::Member => 16,
        Tier::Friend => 32,
        Tier::Blocked => 0,
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    /// We block the peer.
    Blocked,
    /// The peer asks too often.
    PeerRate,
    /// Its network asks too often.
    NetworkRate,
    /// The peer has enough.
    PeerShare,
    /// Its tier has its share.
    TierShare,
}

impl Refusal {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::PeerRate => "peer_rate",
            Self::NetworkRate => "network_rate",
            Self::PeerShare => "peer_share",
            Self::TierShare => "tier_share",
        }
    }
}

/// The machine.
#[derive(Debug)]
pub(super) struct Ledger {
    totals: RelayTotals,
    tiers: Tiers,
    reservations: Limiter,
    circuits: Limiter,
    reserved: BTreeMap<ConnectionId, (PeerId, Tier)>,
    /// Circuits that stand, by who opened them and to whom; each with the tier it was counted for.
    standing: BTreeMap<(PeerId, PeerId), Vec<Tier>>,
}

impl Ledger {
    pub(super) fn new(totals: RelayTotals) -> Self {
        Self {
            totals,
            tiers: Tiers::default(),
            reservations: Limiter::default(),
            circuits: Limiter::default(),
            reserved: BTreeMap::new(),
            standing: BTreeMap::new(),
        }
    }

    pub(super) fn set_totals(&mut self, totals: RelayTotals) {
        self.totals = totals;
    }

    pub(super) fn set_tier(&mut self, peer: PeerId, tier: Tier) {
        self.tiers.set(peer, tier);
    }

    /// A peer asks for a reservation on this connection. If it may, it has it.
    pub(super) fn reserve(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        peer: PeerId,
        ip: Option<IpAddr>,
    ) -> Result<(), Refusal> {
        let tier = self.tier(peer);
        if tier == Tier::Blocked {
            return Err(Refusal::Blocked);
        }
        if !self.reserved.contains_key(&connection) {
            let of_peer = self.reserved.values().filter(|(of, _)| *of == peer).count();
            let of_tier = self.reserved.values().filter(|(_, of)| *of <= tier).count();
            let full = self.reserved.len() >= self.totals.reservations;
            if of_peer >= MAX_RESERVATIONS_PER_PEER {
                return Err(Refusal::PeerShare);
            }
            if full || of_tier >= self.totals.share(tier).reservations {
                return Err(Refusal::TierShare);
            }
        }
        self.reservations.take(now, tier, peer, ip)?;
        self.reserved.insert(connection, (peer, tier));
        Ok(())
    }

    /// The connections on which a peer has reservations beside this one.
    pub(super) fn older(&self, peer: PeerId, newest: ConnectionId) -> Vec<ConnectionId> {
        let of_peer = self.reserved.iter().filter(|(_, (of, _))| *of == peer);
        of_peer.map(|(connection, _)| *connection).filter(|connection| *connection != newest).collect()
    }

    /// A reservation is over.
    pub(super) fn release(&mut self, connection: ConnectionId) {
        self.reserved.remove(&connection);
    }

    /// A peer asks for a circuit.
    pub(super) fn open(&mut self, now: Instant, peer: PeerId, ip: Option<IpAddr>) -> Result<(), Refusal> {
        let tier = self.tier(peer);
        if tier == Tier::Blocked {
            return Err(Refusal::Blocked);
        }
        let of_peer = self.standing.iter().filter(|((source, _), _)| *source == peer);
        if of_peer.map(|(_, tiers)| tiers.len()).sum::<usize>() >= max_circuits_of_peer(tier) {
            return Err(Refusal::PeerShare);
        }
        let of_tier = self.standing.values().flatten().filter(|of| **of <= tier).count();
        if of_tier >= self.totals.share(tier).circuits || self.circuits() >= self.totals.circuits {
            return Err(Refusal::TierShare);
        }
        self.circuits.take(now, tier, peer, ip)
    }

    /// A circuit stands; the tier that it counts for.
    pub(super) fn opened(&mut self, source: PeerId, destination: PeerId) -> Tier {
        let tier = self.tier(source);
        self.standing.entry((source, destination)).or_default().push(tier);
        tier
    }

    /// A circuit is over; the tier that it was counted for.
    pub(super) fn closed(&mut self, source: PeerId, destination: PeerId) -> Option<Tier> {
        let pair = (source, destination);
        let tiers = self.standing.get_mut(&pair)?;
        let tier = tiers.pop();
        if tiers.is_empty() {
            self.standing.remove(&pair);
        }
        tier
    }

    pub(super) fn tier(&self, peer: PeerId) -> Tier {
        self.tiers.of.get(&peer).map_or(Tier::Stranger, |(tier, _)| *tier)
    }

    /// Circuits that stand.
    pub(super) fn circuits(&self) -> usize {
        self.standing.values().map(Vec::len).sum()
    }

    /// Whether anything of ours is in use by this peer.
    pub(super) fn serves(&self, peer: PeerId) -> bool {
        let reserved = self.reserved.values().any(|(of, _)| *of == peer);
        reserved || self.standing.keys().any(|(source, _)| *source == peer)
    }
}

/// What peers are to us. Strangers are not stored.
#[derive(Debug, Default)]
struct Tiers {
    of: BTreeMap<PeerId, (Tier, u64)>,
    named: u64,
}

impl Tiers {
    fn set(&mut self, peer: PeerId, tier: Tier) {
        if tier == Tier::Stranger {
            self.of.remove(&peer);
            return;
        }
        self.named += 1;
        self.of.insert(peer, (tier, self.named));
        if self.of.len() > MAX_TIERS {
            let oldest = self.of.iter().min_by_key(|(_, (_, named))| *named).map(|(peer, _)| *peer);
            oldest.map(|peer| self.of.remove(&peer));
        }
    }
}

#[derive(Debug)]
struct Limiter {
    peers: Buckets<PeerId>,
    networks: Buckets<IpAddr>,
}

impl Default for Limiter {
    fn default() -> Self {
        Self { peers: Buckets::new(PER_PEER), networks: Buckets::new(PER_NETWORK) }
    }
}

impl Limiter {
    /// Only strangers share their network's bucket: whoever we know must not suffer from neighbours.
    fn take(&mut self, now: Instant, tier: Tier, peer: PeerId, ip: Option<IpAddr>) -> Result<(), Refusal> {
        let network = ip.filter(|_| tier == Tier::Stranger).map(network);
        if network.is_some_and(|network| !self.networks.has(now, &network)) {
            return Err(Refusal::NetworkRate);
        }
        if !self.peers.has(now, &peer) {
            return Err(Refusal::PeerRate);
        }
        self.peers.take(now, peer);
        if let Some(network) = network {
            self.networks.take(now, network);
        }
        Ok(())
    }
}

/// What one customer of a provider has: a /24, or a /48 of IPv6.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            [a, b, c, 0].into()
        }
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 80 << 80).into(),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::relay::{HOME_TOTALS, PUB_TOTALS};

    fn connection(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_blocked_peer_gets_nothing() {
        let (now, peer) = (Instant::now(), PeerId::random());
        let mut ledger = Ledger::new(PUB_TOTALS);
        ledger.set_tier(peer, Tier::Blocked);
        assert_eq!(ledger.reserve(now, connection(1), peer, None), Err(Refusal::Blocked));
        assert_eq!(ledger.open(now, peer, None), Err(Refusal::Blocked));
        ledger.set_tier(peer, Tier::Stranger);
        assert_eq!(ledger.reserve(now, connection(1), peer, None), Ok(()));
    }

    #[test]
    fn strangers_leave_reservations_and_circuits_to_members_and_these_to_friends() {
        let now = Instant::now();
        let mut ledger = Ledger::new(HOME_TOTALS);
        let mut n = 0;
        for (tier, reservations, circuits) in
            [(Tier::Stranger, 8, 4), (Tier::Member, 4, 2), (Tier::Friend, 4, 2)]
        {
            let mut taken = (0, 0);
            for _ in 0..20 {
                n += 1;
                let peer = PeerId::random();
                ledger.set_tier(peer, tier);
                taken.0 += usize::from(ledger.reserve(now, connection(n), peer, None).is_ok());
                if ledger.open(now, peer, None).is_ok() {
                    assert_eq!(ledger.opened(peer, PeerId::random()), tier);
                    taken.1 += 1;
                }
            }
            assert_eq!(taken, (reservations, circuits), "{tier:?}");
        }
        ledger.release(connection(1));
        let friend = PeerId::random();
        ledger.set_tier(friend, Tier::Friend);
        assert_eq!(ledger.reserve(now, connection(0), friend, None), Ok(()));
    }

    #[test]
    fn a_reservation_is_renewed_although_all_are_taken() {
        let now = Instant::now();
        let mut ledger = Ledger::new(RelayTotals { reservations: 2, circuits: 2 });
        let (first, second) = (PeerId::random(), PeerId::random());
        assert_eq!(ledger.reserve(now, connection(1), first, None), Ok(()));
        assert_eq!(ledger.reserve(now, connection(2), second, None), Err(Refusal::TierShare));
        assert_eq!(ledger.reserve(now, connection(1), first, None), Ok(()));
    }

    #[test]
    fn one_peer_gets_so_many_of_each() {
        let (now, peer) = (Instant::now(), PeerId::random());
        let mut ledger = Ledger::new(PUB_TOTALS);
        for n in 0..MAX_RESERVATIONS_PER_PEER {
            assert_eq!(ledger.reserve(now, connection(n), peer, None), Ok(()));
        }
        assert_eq!(ledger.reserve(now, connection(99), peer, None), Err(Refusal::PeerShare));
        let target = PeerId::random();
        for _ in 0..max_circuits_of_peer(Tier::Stranger) {
            assert_eq!(ledger.open(now, peer, None), Ok(()));
            ledger.opened(peer, target);
        }
        assert_eq!(ledger.open(now, peer, None), Err(Refusal::PeerShare));
        assert_eq!(ledger.closed(peer, target), Some(Tier::Stranger));
        assert_eq!(ledger.open(now, peer, None), Ok(()));
        assert_eq!(ledger.closed(target, peer), None);
    }

    #[test]
    fn a_new_reservation_names_those_that_it_displaces() {
        let (now, peer, other) = (Instant::now(), PeerId::random(), PeerId::random());
        let mut ledger = Ledger::new(PUB_TOTALS);
        for (n, of) in [(1, peer), (2, other), (3, peer), (4, peer)] {
            assert_eq!(ledger.reserve(now, connection(n), of, None), Ok(()));
        }
        assert_eq!(ledger.older(peer, connection(4)), [connection(1), connection(3)]);
        ledger.release(connection(1));
        assert_eq!(ledger.older(peer, connection(4)), [connection(3)]);
        assert_eq!(ledger.older(other, connection(2)), []);
    }

    #[test]
    fn who_tries_every_few_seconds_is_never_refused_and_who_hammers_is() {
        let (start, peer) = (Instant::now(), PeerId::random());
        let mut ledger = Ledger::new(PUB_TOTALS);
        for n in 0..1000 {
            let now = start + Duration::from_secs(2 * n);
            assert_eq!(ledger.open(now, peer, ip("203.0.113.1")), Ok(()), "{n}");
        }
        let now = start + Duration::from_secs(4000);
        let granted = (0..100).filter(|_| ledger.open(now, peer, ip("203.0.113.1")).is_ok()).count();
        assert_eq!(granted, 60);
        assert_eq!(ledger.open(now, peer, None), Err(Refusal::PeerRate));
    }

    #[test]
    fn strangers_of_one_network_share_a_bucket_and_friends_do_not() {
        let now = Instant::now();
        let mut ledger = Ledger::new(PUB_TOTALS);
        for n in 0..200 {
            let from = ip(&format!("203.0.113.{n}"));
            assert_eq!(ledger.open(now, PeerId::random(), from), Ok(()), "{n}");
        }
        let friend = PeerId::random();
        assert_eq!(ledger.open(now, friend, ip("203.0.113.250")), Err(Refusal::NetworkRate));
        assert_eq!(ledger.open(now, PeerId::random(), ip("203.0.114.1")), Ok(()));
        ledger.set_tier(friend, Tier::Friend);
        assert_eq!(ledger.open(now, friend, ip("203.0.113.250")), Ok(()));
        let v6 = ip("2001:db8:1:2::3").map(network);
        assert_eq!(v6, ip("2001:db8:1::"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut ledger = Ledger::new(PUB_TOTALS);
        let first = PeerId::random();
        ledger.set_tier(first, Tier::Friend);
        for _ in 0..MAX_TIERS {
            ledger.set_tier(PeerId::random(), Tier::Member);
        }
        assert_eq!((ledger.tiers.of.len(), ledger.tier(first)), (MAX_TIERS, Tier::Stranger));
    }
}
