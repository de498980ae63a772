//! Which relays hold a reservation for us, as a machine.
//!
//! Whoever cannot be dialled needs two or three relays at all times, on networks that do not fail together.
//! Relays are found by chance (any peer that we dialled and that offers to relay) or given by the
//! configuration. Each known relay has one state; those that are being asked or hold a reservation fill the
//! places that are needed. What others know of us are the relays' addresses, so what works is kept: only a
//! relay of another class replaces one, and only after it was the better choice for long.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::relay::Tier;

#[cfg(test)]
mod tests;

/// Most relays known. When full, the worst that is not connected goes first.
pub(crate) const MAX_RELAYS: usize = 64;
/// Most relays that a configuration may name.
pub(crate) const MAX_FIXED: usize = 16;
/// Most reservations that can be asked for.
pub(crate) const MAX_NEEDED: usize = 4;
/// How long a dial or an answer may take.
pub(crate) const PENDING_TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses after the first refusals of a relay: one that has just started learns what it can do within
/// seconds.
pub(crate) const FRESH_PAUSES: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
/// Pause before a reservation that has held is sought again at the same relay.
pub(crate) const LOST_PAUSE: Duration = Duration::from_millis(200);
/// A reservation must have held for this long for the relay's failures to be forgotten: whoever loses it later has lost its
/// network, and is not to wait for a relay that did nothing wrong.
const STABLE: Duration = Duration::from_secs(5);
/// First and longest pause after a failure; it doubles in between.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);
/// How long a relay must have been the better choice before it replaces another.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Input<P, A> {
    /// So many reservations are wanted.
    Needed(usize),
    /// A connected peer relays.
    Candidate { relay: P, facts: Facts<A> },
    /// A connected peer does not relay.
    NotRelaying(P),
    /// No connection to it that we dialled is left, or none came about.
    Disconnected(P),
    /// It holds a reservation for us, or has renewed it.
    Accepted { relay: P, bytes: Option<u64> },
    /// It does not.
    Refused(P),
    /// The reservation has ended.
    Closed(P),
    /// What it is to us.
    Tier(P, Tier),
    /// How far away it is.
    Rtt(P, Duration),
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Output<P, A> {
    /// Connect to a relay; a [`Input::Candidate`] is awaited.
    Dial { relay: P, at: A },
    /// Ask for a reservation.
    Reserve { relay: P, at: A },
    /// Do without it.
    Release(P),
    /// The relays that hold reservations are others now.
    Changed,
    /// An attempt or a reservation is over, and how: a label for metrics.
    Ended(&'static str),
}

/// What is known of a relay.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Facts<A> {
    /// Where we have reached it.
    pub(crate) at: A,
    /// Its network; `None` is like no other.
    pub(crate) network: Option<Network>,
    /// Whether everybody can reach it, or only who shares a network with it.
    pub(crate) is_public: bool,
    /// What it is to us.
    pub(crate) tier: Tier,
}

/// What fails together: a /16, or a /32 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Network(IpAddr);

impl Network {
    pub(crate) fn of(ip: IpAddr) -> Self {
        Self(match ip {
            IpAddr::V4(ip) => {
                let [a, b, ..] = ip.octets();
                [a, b, 0, 0].into()
            }
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 96 << 96).into(),
        })
    }
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Relays<P, A> {
    relays: BTreeMap<P, Relay<A>>,
    needed: usize,
    /// The idle relay that is better than one in use, and since when.
    better: Option<(P, Instant)>,
    seed: u64,
    outputs: VecDeque<Output<P, A>>,
}

#[derive(Debug)]
struct Relay<A> {
    facts: Facts<A>,
    /// Where the configuration says it is; such a relay is never forgotten.
    fixed: Option<A>,
    /// Connected, and it relays.
    is_there: bool,
    /// It was connected and did not relay: perhaps it does not know yet that it can.
    not_yet: bool,
    state: State,
    /// In a row.
    failures: u32,
    rtt: Option<Duration>,
    bytes: Option<u64>,
    /// For how long it has held reservations, the present one excluded.
    held: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Not to be asked before this time.
    Idle(Instant),
    /// It held a reservation a moment ago, and is asked again at this time.
    Returning(Instant),
    /// Given up at this time.
    Dialing(Instant),
    /// Given up at this time.
    Reserving(Instant),
    /// Since this time.
    Held(Instant),
}

/// A relay's worth, best last.
type Rank = (bool, bool, Tier, u32, std::cmp::Reverse<u64>, u64);

impl<P: Ord + Clone + Hash, A: Clone> Relays<P, A> {
    /// `fixed` are the configuration's; `seed` sets our pauses apart from those of others.
    pub(crate) fn new(now: Instant, fixed: impl IntoIterator<Item = (P, A)>, seed: u64) -> Self {
        let relays = fixed.into_iter().take(MAX_FIXED).map(|(peer, at)| {
            let facts = Facts { at: at.clone(), network: None, is_public: true, tier: Tier::Stranger };
            (peer, Relay { fixed: Some(at), is_there: false, ..Relay::new(now, facts) })
        });
        Self { relays: relays.collect(), needed: 0, better: None, seed, outputs: VecDeque::new() }
    }

    /// One input.
    pub(crate) fn handle(&mut self, now: Instant, input: Input<P, A>) {
        match input {
            Input::Needed(needed) => self.needed = needed.min(MAX_NEEDED),
            Input::Candidate { relay, facts } => self.found(now, relay, facts),
            Input::NotRelaying(relay) => self.not_relaying(now, &relay),
            Input::Disconnected(relay) => self.disconnected(now, &relay),
            Input::Accepted { relay, bytes } => self.accepted(now, &relay, bytes),
            Input::Refused(relay) => self.refused(now, &relay, "refused"),
            Input::Closed(relay) => self.closed(now, &relay),
            Input::Tier(relay, tier) => {
                self.relays.get_mut(&relay).into_iter().for_each(|relay| relay.facts.tier = tier);
            }
            Input::Rtt(relay, rtt) => {
                self.relays.get_mut(&relay).into_iter().for_each(|relay| relay.rtt = Some(rtt));
            }
        }
        self.settle(now);
    }

    /// The next output, until `None`.
    pub(crate) fn poll_output(&mut self) -> Option<Output<P, A>> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let has_place = self.in_use() < self.needed;
        let states = self.relays.values().filter_map(|relay| match relay.state {
            State::Idle(at) => (has_place && relay.is_usable()).then_some(at),
            State::Returning(at) | State::Dialing(at) | State::Reserving(at) => Some(at),
            State::Held(_) => None,
        });
        let better = self.better.as_ref().map(|(_, since)| *since + PATIENCE);
        states.chain(better).min()
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let late = self.relays.iter().filter(|(_, relay)| relay.state.is_late(now));
        let late: Vec<_> = late.map(|(peer, relay)| (peer.clone(), relay.state)).collect();
        for (peer, state) in late {
            let reason = if matches!(state, State::Dialing(_)) { "dial_failed" } else { "timeout" };
            self.failed(now, &peer, reason);
        }
        self.settle(now);
    }

    /// The relays that hold a reservation, the best first, and where others reach them.
    pub(crate) fn held(&self) -> Vec<(&P, &A)> {
        let mut held: Vec<_> = self.relays.iter().filter(|(_, relay)| relay.is_held()).collect();
        held.sort_by_key(|(peer, relay)| std::cmp::Reverse((relay.rank(), *peer)));
        held.into_iter().map(|(peer, relay)| (peer, &relay.facts.at)).collect()
    }

    /// Whether the configuration names it.
    pub(crate) fn is_fixed(&self, peer: &P) -> bool {
        self.relays.get(peer).is_some_and(|relay| relay.fixed.is_some())
    }

    fn found(&mut self, now: Instant, peer: P, facts: Facts<A>) {
        if let Some(relay) = self.relays.get_mut(&peer) {
            // Which address we tell of a relay does not change while it holds a reservation.
            let at = if relay.is_held() { relay.facts.at.clone() } else { facts.at.clone() };
            relay.facts = Facts { at, ..facts };
            relay.is_there = true;
            if std::mem::take(&mut relay.not_yet) && matches!(relay.state, State::Idle(_)) {
                relay.state = State::Idle(now);
            }
            if matches!(relay.state, State::Dialing(_)) {
                self.reserve(now, &peer);
            }
            return;
        }
        if self.relays.len() >= MAX_RELAYS && !self.forget_one() {
            return;
        }
        self.relays.insert(peer, Relay::new(now, facts));
    }

    fn forget_one(&mut self) -> bool {
        let idle = |relay: &&Relay<A>| {
            relay.fixed.is_none() && !relay.is_there && matches!(relay.state, State::Idle(_))
        };
        let idle = self.relays.iter().filter(|(_, relay)| idle(relay));
        let worst = idle.min_by_key(|(_, relay)| relay.rank()).map(|(peer, _)| peer.clone());
        worst.is_some_and(|peer| self.relays.remove(&peer).is_some())
    }

    fn not_relaying(&mut self, now: Instant, peer: &P) {
        let Some(relay) = self.relays.get_mut(peer) else { return };
        relay.is_there = false;
        relay.not_yet = true;
        if relay.is_held() {
            // What stands goes on when a relay takes nothing new.
            return;
        }
        if relay.is_pending() {
            self.failed_as_fresh(now, peer, "refused");
        } else if relay.fixed.is_none() {
            self.relays.remove(peer);
        }
    }

    fn disconnected(&mut self, now: Instant, peer: &P) {
        let Some(relay) = self.relays.get_mut(peer) else { return };
        relay.is_there = false;
        match relay.state {
            State::Held(_) => self.closed(now, peer),
            State::Dialing(_) => self.failed(now, peer, "dial_failed"),
            State::Reserving(_) => self.failed(now, peer, "lost"),
            State::Idle(_) | State::Returning(_) => {}
        }
    }

    fn accepted(&mut self, now: Instant, peer: &P, bytes: Option<u64>) {
        let Some(relay) = self.relays.get_mut(peer) else {
            return self.outputs.push_back(Output::Release(peer.clone()));
        };
        relay.bytes = bytes;
        if relay.is_held() {
            return;
        }
        relay.state = State::Held(now);
        self.outputs.push_back(Output::Ended("ok"));
        self.outputs.push_back(Output::Changed);
    }

    fn refused(&mut self, now: Instant, peer: &P, reason: &'static str) {
        let Some(relay) = self.relays.get(peer) else { return };
        match relay.state {
            State::Reserving(_) => self.failed_as_fresh(now, peer, reason),
            // It refused to renew.
            State::Held(_) => self.closed(now, peer),
            State::Idle(_) | State::Returning(_) | State::Dialing(_) => {}
        }
    }

    fn closed(&mut self, now: Instant, peer: &P) {
        let Some(relay) = self.relays.get_mut(peer) else { return };
        let State::Held(since) = relay.state else {
            if matches!(relay.state, State::Reserving(_)) {
                self.failed(now, peer, "lost");
            }
            return;
        };
        let held = now.saturating_duration_since(since);
        relay.held += held;
        if held >= STABLE {
            relay.failures = 0;
        }
        self.outputs.push_back(Output::Ended("lost"));
        self.outputs.push_back(Output::Changed);
        if relay.failures == 0 {
            relay.failures = 1;
            relay.state = State::Returning(now + LOST_PAUSE);
        } else {
            self.failed_quietly(now, peer, 0);
        }
    }

    fn failed(&mut self, now: Instant, peer: &P, reason: &'static str) {
        self.outputs.push_back(Output::Ended(reason));
        self.failed_quietly(now, peer, 0);
    }

    fn failed_as_fresh(&mut self, now: Instant, peer: &P, reason: &'static str) {
        self.outputs.push_back(Output::Ended(reason));
        self.failed_quietly(now, peer, FRESH_PAUSES.len());
    }

    fn failed_quietly(&mut self, now: Instant, peer: &P, fresh: usize) {
        let Some(relay) = self.relays.get_mut(peer) else { return };
        let failures = usize::try_from(relay.failures).unwrap_or(usize::MAX);
        let soon = FRESH_PAUSES.iter().take(fresh).nth(failures).copied();
        let pause =
            soon.unwrap_or_else(|| pause(self.seed, peer, relay.failures.saturating_sub(fresh as u32)));
        relay.failures = relay.failures.saturating_add(1);
        relay.state = State::Idle(now + pause);
    }

    /// Brings what is under way in line with what is wanted.
    fn settle(&mut self, now: Instant) {
        self.drop_blocked(now);
        while self.holding() > self.needed {
            let Some(peer) = self.worst_held() else { break };
            self.release(now, &peer);
        }
        let due = |relay: &Relay<A>| matches!(relay.state, State::Returning(at) if at <= now);
        let due: Vec<_> =
            self.relays.iter().filter(|(_, relay)| due(relay)).map(|(peer, _)| peer.clone()).collect();
        for peer in due {
            self.start_or_rest(now, &peer);
        }
        while self.in_use() < self.needed {
            let Some(peer) = self.best_idle(now) else { break };
            self.start(now, &peer);
        }
        self.improve(now);
    }

    fn start_or_rest(&mut self, now: Instant, peer: &P) {
        if self.in_use() <= self.needed {
            self.start(now, peer);
        } else if let Some(relay) = self.relays.get_mut(peer) {
            relay.state = State::Idle(now);
        }
    }

    fn drop_blocked(&mut self, now: Instant) {
        let blocked = |relay: &Relay<A>| relay.facts.tier == Tier::Blocked && relay.fixed.is_none();
        let blocked: Vec<_> =
            self.relays.iter().filter(|(_, relay)| blocked(relay)).map(|(peer, _)| peer.clone()).collect();
        for peer in blocked {
            self.release(now, &peer);
        }
    }

    fn release(&mut self, now: Instant, peer: &P) {
        let Some(relay) = self.relays.get_mut(peer) else { return };
        let State::Held(since) = relay.state else { return };
        relay.held += now.saturating_duration_since(since);
        relay.state = State::Idle(now);
        relay.failures = 0;
        self.outputs.push_back(Output::Release(peer.clone()));
        self.outputs.push_back(Output::Changed);
    }

    /// A relay of another class that waits for [`PATIENCE`] replaces the worst in use: it is asked first, and
    /// the worst released when it has accepted.
    fn improve(&mut self, now: Instant) {
        let candidate = self.improvement(now);
        let since = match (&self.better, &candidate) {
            (Some((before, since)), Some(peer)) if before == peer => *since,
            (Some(_) | None, _) => now,
        };
        self.better = candidate.map(|peer| (peer, since));
        if let Some((peer, since)) = self.better.clone()
            && now.saturating_duration_since(since) >= PATIENCE
        {
            self.better = None;
            self.start(now, &peer);
        }
    }

    fn improvement(&self, now: Instant) -> Option<P> {
        if self.needed == 0 || self.holding() < self.needed || self.in_use() > self.needed {
            return None;
        }
        let worst = self.relays.get(&self.worst_held()?)?;
        let peer = self.best_idle(now)?;
        let better = self.relays.get(&peer)?;
        (better.is_there && better.class() > worst.class()).then_some(peer)
    }

    fn start(&mut self, now: Instant, peer: &P) {
        let Some(relay) = self.relays.get_mut(peer) else { return };
        if relay.is_there {
            return self.reserve(now, peer);
        }
        relay.state = State::Dialing(now + PENDING_TIMEOUT);
        let at = relay.fixed.as_ref().unwrap_or(&relay.facts.at).clone();
        self.outputs.push_back(Output::Dial { relay: peer.clone(), at });
    }

    fn reserve(&mut self, now: Instant, peer: &P) {
        let Some(relay) = self.relays.get_mut(peer) else { return };
        relay.state = State::Reserving(now + PENDING_TIMEOUT);
        self.outputs.push_back(Output::Reserve { relay: peer.clone(), at: relay.facts.at.clone() });
    }

    /// The best relay to ask now, one on a network of its own before all others.
    fn best_idle(&self, now: Instant) -> Option<P> {
        let in_use = self.relays.values().filter(|relay| relay.is_in_use());
        let networks: BTreeSet<_> = in_use.filter_map(|relay| relay.facts.network).collect();
        let ready =
            |relay: &Relay<A>| matches!(relay.state, State::Idle(at) if at <= now) && relay.is_usable();
        let ready = self.relays.iter().filter(|(_, relay)| ready(relay));
        let apart = |relay: &Relay<A>| relay.facts.network.is_none_or(|network| !networks.contains(&network));
        ready.max_by_key(|(_, relay)| (apart(relay), relay.rank())).map(|(peer, _)| peer.clone())
    }

    fn worst_held(&self) -> Option<P> {
        let held: Vec<_> = self.relays.iter().filter(|(_, relay)| relay.is_held()).collect();
        let shared = |relay: &Relay<A>| {
            let network = relay.facts.network;
            network.is_some() && held.iter().filter(|(_, other)| other.facts.network == network).count() > 1
        };
        let worst = held.iter().min_by_key(|(_, relay)| (relay.class(), !shared(relay), relay.rank()));
        worst.map(|(peer, _)| (*peer).clone())
    }

    fn in_use(&self) -> usize {
        self.relays.values().filter(|relay| relay.is_in_use()).count()
    }

    fn holding(&self) -> usize {
        self.relays.values().filter(|relay| relay.is_held()).count()
    }
}

impl<A> Relay<A> {
    const fn new(now: Instant, facts: Facts<A>) -> Self {
        Self {
            facts,
            fixed: None,
            is_there: true,
            not_yet: false,
            state: State::Idle(now),
            failures: 0,
            rtt: None,
            bytes: None,
            held: Duration::ZERO,
        }
    }

    const fn is_held(&self) -> bool {
        matches!(self.state, State::Held(_))
    }

    const fn is_pending(&self) -> bool {
        matches!(self.state, State::Dialing(_) | State::Reserving(_))
    }

    const fn is_in_use(&self) -> bool {
        !matches!(self.state, State::Idle(_))
    }

    /// The people's own choice beats what the graph says of it.
    fn is_usable(&self) -> bool {
        self.fixed.is_some() || self.facts.tier != Tier::Blocked
    }

    /// Whoever names a relay knows for whom.
    fn is_public(&self) -> bool {
        self.fixed.is_some() || self.facts.is_public
    }

    /// What is worth a change.
    fn class(&self) -> (bool, bool, bool) {
        (self.is_public(), self.fixed.is_some(), self.facts.tier == Tier::Friend)
    }

    fn rank(&self) -> Rank {
        let minutes = self.held.as_secs() / 60;
        let steady = u64::BITS - minutes.leading_zeros();
        let rtt = self.rtt.map_or(u64::MAX, |rtt| u64::try_from(rtt.as_millis() / 50).unwrap_or(u64::MAX));
        let bytes = match self.bytes {
            // No limit.
            Some(0) => u64::MAX,
            Some(bytes) => bytes,
            None => 0,
        };
        (self.is_public(), self.fixed.is_some(), self.facts.tier, steady, std::cmp::Reverse(rtt), bytes)
    }
}

impl State {
    fn is_late(self, now: Instant) -> bool {
        match self {
            Self::Dialing(until) | Self::Reserving(until) => until <= now,
            Self::Idle(_) | Self::Returning(_) | Self::Held(_) => false,
        }
    }
}

/// Doubles with each failure, and is up to a fifth shorter or longer: after a failure of the network, not
/// everybody comes back at once.
fn pause(seed: u64, peer: &impl Hash, failures: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE);
    let mut hasher = DefaultHasher::new();
    (seed, peer, failures).hash(&mut hasher);
    let percent = 80 + u32::try_from(hasher.finish() % 41).unwrap_or(20);
    (doubled * percent / 100).min(LONGEST_PAUSE)
}
