//! At which address others see us, and what that says of the NAT between.
//!
//! All of it comes from connections that we dialled from the port that we listen on. Any single observer
//! may be wrong or lie, so a class needs a majority.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::{Family, Nat, Target, Transport};

/// How long what somebody saw holds. Connections are asked again every five minutes.
pub(crate) const OBSERVATION_HOLDS: Duration = Duration::from_secs(10 * 60);
/// Most observers per transport and IP version. When full, the oldest observation goes.
pub(crate) const MAX_OBSERVERS: usize = 32;
/// Observers that it takes to tell a NAT's mapping.
const ENOUGH: usize = 2;
/// Observers that it takes to tell a sequence.
const ENOUGH_FOR_SEQUENCE: usize = 3;
/// Widest gap between the ports of a sequence: others behind the same NAT use it up too. That three random
/// ports lie so close has a chance of one in a million.
const MAX_STEP: u16 = 32;

/// Who saw us: a host, or, dialled by name, a peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Observer<P> {
    Host(IpAddr),
    Named(P),
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    seen: SocketAddr,
    at: Instant,
}

/// What all observers of one transport and IP version have seen.
type Samples<P> = BTreeMap<Observer<P>, Sample>;

#[derive(Debug)]
pub(super) struct Observations<P> {
    by_way: BTreeMap<(Transport, Family), Samples<P>>,
    /// Hosts to which QUIC did not come through.
    failed: BTreeMap<IpAddr, Instant>,
}

impl<P: Ord + Clone> Observations<P> {
    pub(super) fn new() -> Self {
        Self { by_way: BTreeMap::new(), failed: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, now: Instant, observer: Observer<P>, seen: Target) {
        let way = (seen.transport, Family::of(seen.at.ip()));
        let samples = self.by_way.entry(way).or_default();
        samples.insert(observer, Sample { seen: seen.at, at: now });
        if samples.len() > MAX_OBSERVERS {
            let oldest = samples.iter().min_by_key(|(_, sample)| sample.at);
            if let Some(oldest) = oldest.map(|(observer, _)| observer.clone()) {
                samples.remove(&oldest);
            }
        }
    }

    /// QUIC did not get through to a host.
    pub(super) fn quic_failed(&mut self, now: Instant, ip: IpAddr) {
        if self.failed.len() < MAX_OBSERVERS || self.failed.contains_key(&ip) {
            self.failed.insert(ip, now);
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        let fresh = |at: Instant| now.saturating_duration_since(at) < OBSERVATION_HOLDS;
        for samples in self.by_way.values_mut() {
            samples.retain(|_, sample| fresh(sample.at));
        }
        self.by_way.retain(|_, samples| !samples.is_empty());
        self.failed.retain(|_, at| fresh(*at));
    }

    /// The network is another one.
    pub(super) fn forget(&mut self, family: Family) {
        self.by_way.retain(|(_, of), _| *of != family);
        self.failed.retain(|ip, _| Family::of(*ip) != family);
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let samples = self.by_way.values().flat_map(BTreeMap::values).map(|sample| sample.at);
        samples.chain(self.failed.values().copied()).min().map(|at| at + OBSERVATION_HOLDS)
    }

    /// The NAT's class, given our own addresses and the port that we send from, where that is known.
    pub(super) fn classify(
        &self,
        way: (Transport, Family),
        own: &BTreeSet<IpAddr>,
        local_port: Option<u16>,
    ) -> Nat {
        let Some(samples) = self.by_way.get(&way) else {
            return if self.is_blocked(way) { Nat::Blocked } else { Nat::Unknown };
        };
        let untranslated = samples.values().filter(|sample| own.contains(&sample.seen.ip())).count();
        if untranslated * 2 > samples.len() {
            return Nat::Untranslated;
        }
        let translated: Vec<_> =
            samples.values().map(|sample| sample.seen).filter(|seen| !own.contains(&seen.ip())).collect();
        of_translated(&translated, local_port)
    }

    /// Others see us over TCP, nobody over UDP, and we did try: a host that we do reach over TCP, or
    /// several others.
    fn is_blocked(&self, (transport, family): (Transport, Family)) -> bool {
        let Some(over_tcp) = self.by_way.get(&(Transport::Tcp, family)) else { return false };
        let failed = || self.failed.keys().filter(|ip| Family::of(**ip) == family);
        let reached = |ip: &IpAddr| over_tcp.contains_key(&Observer::Host(*ip));
        let tried = failed().any(reached) || failed().count() >= ENOUGH;
        transport == Transport::Quic && over_tcp.len() >= ENOUGH && tried
    }

    /// Where we are seen, other than at our own addresses: what most see first, then the newest.
    pub(super) fn seen(&self, way: (Transport, Family), own: &BTreeSet<IpAddr>) -> Vec<SocketAddr> {
        let mut found: BTreeMap<SocketAddr, (usize, Instant)> = BTreeMap::new();
        for sample in self.by_way.get(&way).into_iter().flat_map(BTreeMap::values) {
            if own.contains(&sample.seen.ip()) {
                continue;
            }
            let entry = found.entry(sample.seen).or_insert((0, sample.at));
            *entry = (entry.0 + 1, entry.1.max(sample.at));
        }
        let votes_for = |ip: IpAddr| found.iter().filter(|(at, _)| at.ip() == ip).map(|(_, n)| n.0).sum();
        let mut all: Vec<(usize, usize, Instant, SocketAddr)> =
            found.iter().map(|(seen, (count, at))| (votes_for(seen.ip()), *count, *at, *seen)).collect();
        all.sort_by(|a, b| b.cmp(a));
        all.into_iter().map(|(.., seen)| seen).collect()
    }

    /// Whether anybody sees us by this IP version.
    pub(super) fn has(&self, family: Family) -> bool {
        self.by_way.keys().any(|(_, of)| *of == family)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_way.values().map(BTreeMap::len).max().unwrap_or(0).max(self.failed.len())
    }
}

fn of_translated(seen: &[SocketAddr], local_port: Option<u16>) -> Nat {
    if seen.len() < ENOUGH {
        return Nat::Unknown;
    }
    let common = seen.iter().map(|at| (seen.iter().filter(|other| *other == at).count(), at)).max();
    if let Some((_, at)) = common.filter(|(count, _)| count * 2 > seen.len()) {
        return if local_port == Some(at.port()) {
            Nat::EndpointIndependent
        } else {
            Nat::EndpointIndependentShifted
        };
    }
    if is_sequence(seen) { Nat::Sequential } else { Nat::Random }
}

/// In the order of their ports, because nobody says in which order the mappings were made.
fn is_sequence(seen: &[SocketAddr]) -> bool {
    let mut ports: Vec<_> = seen.iter().map(SocketAddr::port).collect();
    ports.sort_unstable();
    let in_step = ports.windows(2).all(|pair| (1..=MAX_STEP).contains(&(pair[1] - pair[0])));
    let one_host = seen.windows(2).all(|pair| pair[0].ip() == pair[1].ip());
    seen.len() >= ENOUGH_FOR_SEQUENCE && in_step && one_host
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
mod tests {
    use super::*;

    const WAY: (Transport, Family) = (Transport::Quic, Family::V4);

    fn observations(seen: &[&str]) -> Observations<u8> {
        let (now, mut observations) = (Instant::now(), Observations::new());
        for (n, at) in seen.iter().enumerate() {
            let observer = Observer::Host(IpAddr::from([198, 51, 100, u8::try_from(n).unwrap()]));
            observations.add(now, observer, Target { transport: WAY.0, at: at.parse().unwrap() });
        }
        observations
    }

    fn own() -> BTreeSet<IpAddr> {
        BTreeSet::from(["203.0.113.7".parse().unwrap(), "192.168.1.5".parse().unwrap()])
    }

    #[test]
    fn each_kind_of_nat_is_told_from_what_others_see() {
        let table: &[(&[&str], Nat)] = &[
            (&[], Nat::Unknown),
            (&["203.0.113.7:8009"], Nat::Untranslated),
            (&["203.0.113.7:8009", "203.0.113.7:8009"], Nat::Untranslated),
            // On a port of its own, as TCP sometimes is.
            (&["203.0.113.7:49999"], Nat::Untranslated),
            (&["192.0.2.1:8009"], Nat::Unknown),
            (&["192.0.2.1:8009", "192.0.2.1:8009"], Nat::EndpointIndependent),
            (&["192.0.2.1:61000", "192.0.2.1:61000"], Nat::EndpointIndependentShifted),
            (&["192.0.2.1:61000", "192.0.2.1:61001"], Nat::Random),
            (&["192.0.2.1:61002", "192.0.2.1:61000", "192.0.2.1:61001"], Nat::Sequential),
            (&["192.0.2.1:61002", "192.0.2.1:61000", "192.0.2.1:61008"], Nat::Sequential),
            (&["192.0.2.1:61002", "192.0.2.1:61000", "192.0.2.1:41001"], Nat::Random),
            (&["192.0.2.1:61002", "192.0.2.2:61000", "192.0.2.3:61001"], Nat::Random),
            (&["192.0.2.1:8009", "192.0.2.2:8009"], Nat::Random),
            // One of three lies, or sees a former mapping.
            (&["192.0.2.1:8009", "192.0.2.1:8009", "192.0.2.9:1"], Nat::EndpointIndependent),
            (&["203.0.113.7:8009", "203.0.113.7:8009", "192.0.2.9:1"], Nat::Untranslated),
            (&["192.0.2.1:8009", "192.0.2.1:8009", "203.0.113.7:8009"], Nat::EndpointIndependent),
        ];
        for (seen, expected) in table {
            assert_eq!(observations(seen).classify(WAY, &own(), Some(8009)), *expected, "{seen:?}");
        }
    }

    #[test]
    fn without_a_known_port_of_ours_it_may_be_another_outside() {
        let seen = observations(&["192.0.2.1:8009", "192.0.2.1:8009"]);
        assert_eq!(seen.classify(WAY, &own(), None), Nat::EndpointIndependentShifted);
    }

    #[test]
    fn an_observer_counts_once_with_what_it_saw_last() {
        let (now, mut seen) = (Instant::now(), observations(&["192.0.2.1:1", "192.0.2.1:2"]));
        assert_eq!(seen.classify(WAY, &own(), Some(2)), Nat::Random);
        let observer = Observer::Host("198.51.100.0".parse().unwrap());
        seen.add(now, observer, Target { transport: WAY.0, at: "192.0.2.1:2".parse().unwrap() });
        assert_eq!(seen.classify(WAY, &own(), Some(2)), Nat::EndpointIndependent);
        while let Some(expiry) = seen.next_expiry() {
            assert!(expiry <= now + OBSERVATION_HOLDS);
            seen.expire(expiry);
        }
        assert_eq!(seen.classify(WAY, &own(), Some(2)), Nat::Unknown);
    }

    #[test]
    fn udp_is_blocked_where_only_tcp_gets_through() {
        let (now, mut seen) = (Instant::now(), Observations::<u8>::new());
        let ip = |n: u8| IpAddr::from([198, 51, 100, n]);
        let at = Target { transport: Transport::Tcp, at: "192.0.2.1:1".parse().unwrap() };
        let class = |seen: &Observations<u8>| seen.classify(WAY, &own(), None);
        seen.add(now, Observer::Host(ip(1)), at);
        seen.quic_failed(now, ip(1));
        assert_eq!(class(&seen), Nat::Unknown, "one observer is too few");
        seen.add(now, Observer::Host(ip(2)), at);
        assert_eq!(class(&seen), Nat::Blocked);
        assert_eq!(seen.classify((Transport::Quic, Family::V6), &own(), None), Nat::Unknown);
        seen.add(now, Observer::Host(ip(3)), Target { transport: Transport::Quic, ..at });
        assert_eq!(class(&seen), Nat::Unknown, "something came through");
        seen.forget(Family::V4);
        assert!(!seen.has(Family::V4));
    }

    #[test]
    fn udp_is_not_blocked_because_some_host_is_dead() {
        let (now, mut seen) = (Instant::now(), Observations::<u8>::new());
        let at = Target { transport: Transport::Tcp, at: "192.0.2.1:1".parse().unwrap() };
        for n in [1, 2] {
            seen.add(now, Observer::Host(IpAddr::from([198, 51, 100, n])), at);
        }
        assert_eq!(seen.classify(WAY, &own(), None), Nat::Unknown, "nobody tried");
        seen.quic_failed(now, "192.0.2.77".parse().unwrap());
        assert_eq!(seen.classify(WAY, &own(), None), Nat::Unknown);
        seen.quic_failed(now, "192.0.2.78".parse().unwrap());
        assert_eq!(seen.classify(WAY, &own(), None), Nat::Blocked);
    }

    #[test]
    fn what_most_see_comes_first_whatever_one_says() {
        let seen =
            observations(&["192.0.2.66:1", "192.0.2.1:5", "192.0.2.1:5", "203.0.113.7:1", "192.0.2.1:6"]);
        let seen: Vec<_> = seen.seen(WAY, &own()).iter().map(ToString::to_string).collect();
        assert_eq!(seen, ["192.0.2.1:5", "192.0.2.1:6", "192.0.2.66:1"]);
    }
}
