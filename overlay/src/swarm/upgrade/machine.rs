//! Who dials whom and when to get from a relayed connection to a direct one, as a machine.
//!
//! DCUtR (libp2p specs, `relay/DCUtR.md`): one end *asks*. It sends CONNECT with its addresses, gets CONNECT
//! with the other's, and so knows the round trip; it sends SYNC and dials half a round trip later, when the
//! SYNC arrives and the other end, which *answers*, dials too. The first packets of both leave at one
//! moment, so each finds the other's NAT already open.
//!
//! What we do beyond that:
//! - The end that dialled asks, and at once: it shows itself to whom it dials, as with any dial. (By the
//!   specification the other end asks. It does so with a peer that does not.)
//! - The end that was dialled tells nothing before the node allows it, which it does when SHS has proven who
//!   is there. A question that comes before that is held.
//! - Between two of us there is no SYNC: whoever answers knows the round trip from a ping, and dials when its
//!   own CONNECT must have arrived; whoever asked dials when it arrives.
//! - Where both ends have a QUIC address, TCP comes [`TCP_LAG`] later: nearly always there is a QUIC
//!   connection by then.
//! - Over TCP the end that was dialled dials each address twice. Once from its listening port as the
//!   *listener* of the two, which a simultaneous open needs, and once from a new port as an ordinary dialer,
//!   which is a connection reversal: behind a symmetric NAT it reaches an open peer where the first cannot.
//! - Addresses in the LAN are told to a peer with the same public address, and dialled without waiting.
//! - A failed attempt is repeated for as long as the relayed connection lasts ([`PAUSES`]), and at once when
//!   we have other addresses than before.
//!
//! Duplicates: every direct connection may be reported ([`Output::Found`]); the end that dialled the
//! relayed session takes the first one, the other end follows, and what has no stream closes by itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use super::super::link;
use crate::conn::Carrier;

/// Relayed connections looked after at a time.
pub(crate) const MAX_UPGRADES: usize = 512;
/// How much later than QUIC TCP is tried.
pub(crate) const TCP_LAG: Duration = Duration::from_millis(150);
/// Pauses before the second, third … attempt; the last is repeated.
pub(crate) const PAUSES: [Duration; 4] =
    [Duration::from_secs(2), Duration::from_secs(8), Duration::from_secs(30), Duration::from_secs(600)];
/// How long the exchange of addresses may take.
pub(crate) const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long dials may take before the attempt has failed.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(8);
/// No way between two peers takes longer than this; more is a lie or a jam.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Input {
    /// A relayed connection stands. With `asks` we dialled it, and may tell our addresses.
    Relayed { connection: ConnectionId, peer: PeerId, asks: bool },
    /// The node allows to tell the peer of this relayed connection our addresses, and wants a direct one.
    Allowed { connection: ConnectionId },
    /// A direct connection stands.
    Direct { connection: ConnectionId, peer: PeerId },
    /// A connection of either kind is gone.
    Closed { connection: ConnectionId, peer: PeerId },
    /// The peer sent CONNECT.
    Asked { connection: ConnectionId },
    /// To our CONNECT the peer answered. `near` are its addresses in our own LAN.
    Answered { connection: ConnectionId, targets: Targets, near: Vec<Multiaddr>, dials_in: Duration },
    /// The peer sent SYNC, or will need none.
    Synced { connection: ConnectionId, targets: Targets, dials_in: Duration },
    /// The exchange broke off.
    Failed { connection: ConnectionId },
    /// We are to be found at other addresses than before.
    Moved,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Output {
    /// Open a stream and send CONNECT.
    Ask { connection: ConnectionId },
    /// Answer the CONNECT.
    Answer { connection: ConnectionId },
    /// Dial all these addresses at once.
    Dial { peer: PeerId, at: Vec<Multiaddr>, how: How },
    /// A direct connection stands beside a relayed one.
    Found { relayed: ConnectionId, direct: ConnectionId },
}

/// How to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// From the listening port, as the dialer.
    Ordinary,
    /// From the listening port, as the listener: the other end dials at this moment.
    AsListener,
    /// From a new port, as the dialer.
    NewPort,
}

/// Where the peer may be reached directly, and whether both of us have an address of QUIC.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Targets {
    pub(crate) quic: Vec<Multiaddr>,
    pub(crate) tcp: Vec<Multiaddr>,
    pub(crate) tcp_waits: bool,
}

impl Targets {
    /// Sorts out the peer's addresses; `ours` are what we told it.
    pub(crate) fn of(theirs: Vec<Multiaddr>, ours: &[Multiaddr]) -> Self {
        let is_quic = |at: &Multiaddr| link::carrier(at) == Some(Carrier::Quic);
        let (quic, others): (Vec<_>, Vec<_>) = theirs.into_iter().partition(is_quic);
        let tcp = others.into_iter().filter(|at| link::carrier(at) == Some(Carrier::Tcp)).collect();
        let tcp_waits = !quic.is_empty() && ours.iter().any(is_quic);
        Self { quic, tcp, tcp_waits }
    }
}

/// The machine.
#[derive(Debug, Default)]
pub(crate) struct Upgrades {
    relayed: BTreeMap<ConnectionId, Upgrade>,
    direct: BTreeMap<PeerId, BTreeSet<ConnectionId>>,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
struct Upgrade {
    peer: PeerId,
    /// We dialled it: our question goes before the peer's.
    ours: bool,
    /// The peer may know our addresses.
    tells: bool,
    /// The node wants to hear of a direct connection.
    allowed: bool,
    /// The peer asks by itself.
    peer_asks: bool,
    attempts: usize,
    state: State,
}

#[derive(Debug, PartialEq)]
enum State {
    /// If it is ours to ask, not before this time.
    Waiting(Instant),
    /// The peer asked before it was allowed to know.
    Held,
    /// Until then the addresses must be exchanged.
    Exchanging { until: Instant, asked: Side },
    /// Dials are due or under way.
    Dialling { targets: Targets, quic_at: Option<Instant>, tcp_at: Option<Instant>, until: Instant },
}

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Us,
    Peer,
}

impl Upgrades {
    /// One input.
    pub(crate) fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Relayed { connection, peer, asks } => self.relayed(now, connection, peer, asks),
            Input::Allowed { connection } => self.allowed(now, connection),
            Input::Direct { connection, peer } => self.direct(connection, peer),
            Input::Closed { connection, peer } => self.closed(now, connection, peer),
            Input::Asked { connection } => self.asked(now, connection),
            Input::Answered { connection, targets, near, dials_in } => {
                self.answered(now, connection, targets, near, dials_in);
            }
            Input::Synced { connection, targets, dials_in } => {
                self.dial_at(connection, targets, now + dials_in.min(LONGEST_WAIT));
            }
            Input::Failed { connection } => self.failed(now, connection),
            Input::Moved => self.moved(now),
        }
        self.handle_timeout(now);
    }

    /// The next output, until `None`.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let seeking = self.relayed.values().filter(|u| u.tells && !self.direct.contains_key(&u.peer));
        seeking.filter_map(Upgrade::due).min()
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let direct = &self.direct;
        let seeking = self.relayed.iter_mut().filter(|(_, u)| u.tells && !direct.contains_key(&u.peer));
        for (connection, upgrade) in seeking {
            upgrade.advance(now, *connection, &mut self.outputs);
        }
    }

    fn relayed(&mut self, now: Instant, connection: ConnectionId, peer: PeerId, asks: bool) {
        if self.relayed.len() < MAX_UPGRADES {
            let upgrade = Upgrade {
                peer,
                ours: asks,
                tells: asks,
                allowed: false,
                peer_asks: false,
                attempts: 0,
                state: State::Waiting(now),
            };
            self.relayed.insert(connection, upgrade);
        }
    }

    fn allowed(&mut self, now: Instant, connection: ConnectionId) {
        let Some(upgrade) = self.relayed.get_mut(&connection) else { return };
        upgrade.allowed = true;
        upgrade.tells = true;
        if upgrade.state == State::Held {
            upgrade.state = State::Exchanging { until: now + EXCHANGE_TIMEOUT, asked: Side::Peer };
            self.outputs.push_back(Output::Answer { connection });
        }
        if let Some(direct) = self.direct.get(&upgrade.peer).and_then(BTreeSet::first) {
            self.outputs.push_back(Output::Found { relayed: connection, direct: *direct });
        }
    }

    fn direct(&mut self, connection: ConnectionId, peer: PeerId) {
        self.direct.entry(peer).or_default().insert(connection);
        let waiting = self.relayed.iter().filter(|(_, upgrade)| upgrade.peer == peer && upgrade.allowed);
        let found = waiting.map(|(relayed, _)| Output::Found { relayed: *relayed, direct: connection });
        self.outputs.extend(found);
    }

    fn closed(&mut self, now: Instant, connection: ConnectionId, peer: PeerId) {
        self.relayed.remove(&connection);
        let Some(direct) = self.direct.get_mut(&peer) else { return };
        if direct.remove(&connection) && direct.is_empty() {
            self.direct.remove(&peer);
            // The path has broken: begin anew, with the first short pause.
            for upgrade in self.relayed.values_mut().filter(|upgrade| upgrade.peer == peer) {
                upgrade.attempts = 0;
                upgrade.pause(now);
            }
        }
    }

    fn asked(&mut self, now: Instant, connection: ConnectionId) {
        let Some(upgrade) = self.relayed.get_mut(&connection) else { return };
        upgrade.peer_asks = true;
        let ours_is_out = matches!(upgrade.state, State::Exchanging { asked: Side::Us, .. });
        if upgrade.ours && ours_is_out {
            return;
        }
        upgrade.state = if upgrade.tells {
            self.outputs.push_back(Output::Answer { connection });
            State::Exchanging { until: now + EXCHANGE_TIMEOUT, asked: Side::Peer }
        } else {
            State::Held
        };
    }

    fn answered(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        targets: Targets,
        near: Vec<Multiaddr>,
        dials_in: Duration,
    ) {
        let Some(upgrade) = self.relayed.get(&connection) else { return };
        let mut targets = targets;
        let near = Targets::of(near, &[]);
        if near.quic.is_empty() {
            dial(&mut self.outputs, upgrade.peer, &near.tcp, How::Ordinary);
        } else {
            dial(&mut self.outputs, upgrade.peer, &near.quic, How::Ordinary);
            targets.tcp.extend(near.tcp);
        }
        self.dial_at(connection, targets, now + dials_in.min(LONGEST_WAIT));
    }

    fn dial_at(&mut self, connection: ConnectionId, targets: Targets, at: Instant) {
        let Some(upgrade) = self.relayed.get_mut(&connection) else { return };
        if !matches!(upgrade.state, State::Exchanging { .. }) {
            return;
        }
        let lag = if targets.tcp_waits { TCP_LAG } else { Duration::ZERO };
        let (quic_at, tcp_at) = (Some(at), Some(at + lag));
        upgrade.state = State::Dialling { targets, quic_at, tcp_at, until: at + lag + DIAL_TIMEOUT };
    }

    fn failed(&mut self, now: Instant, connection: ConnectionId) {
        let upgrade = self.relayed.get_mut(&connection);
        if let Some(upgrade) = upgrade.filter(|upgrade| matches!(upgrade.state, State::Exchanging { .. })) {
            upgrade.pause(now);
        }
    }

    fn moved(&mut self, now: Instant) {
        for upgrade in self.relayed.values_mut() {
            upgrade.attempts = 0;
            if matches!(upgrade.state, State::Waiting(_)) {
                upgrade.state = State::Waiting(now);
            }
        }
    }
}

impl Upgrade {
    /// When there is something to do without an input.
    fn due(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting(at) => self.asks().then_some(*at),
            State::Held => None,
            State::Exchanging { until, .. } => Some(*until),
            State::Dialling { quic_at, tcp_at, until, .. } => {
                [*quic_at, *tcp_at, Some(*until)].into_iter().flatten().min()
            }
        }
    }

    /// Whether it is ours to ask.
    fn asks(&self) -> bool {
        self.tells && (self.ours || !self.peer_asks)
    }

    fn advance(&mut self, now: Instant, connection: ConnectionId, outputs: &mut VecDeque<Output>) {
        let asks = self.asks();
        match &mut self.state {
            State::Waiting(at) if *at <= now && asks => {
                self.state = State::Exchanging { until: now + EXCHANGE_TIMEOUT, asked: Side::Us };
                outputs.push_back(Output::Ask { connection });
            }
            State::Exchanging { until, .. } if *until <= now => self.pause(now),
            State::Dialling { until, .. } if *until <= now => self.pause(now),
            State::Dialling { targets, quic_at, tcp_at, .. } => {
                if quic_at.take_if(|at| *at <= now).is_some() {
                    dial(outputs, self.peer, &targets.quic, How::Ordinary);
                }
                if tcp_at.take_if(|at| *at <= now).is_some() {
                    dial_tcp(outputs, self.peer, self.ours, &targets.tcp);
                }
            }
            State::Waiting(_) | State::Held | State::Exchanging { .. } => {}
        }
    }

    fn pause(&mut self, now: Instant) {
        let pause = PAUSES[self.attempts.min(PAUSES.len() - 1)];
        self.attempts += 1;
        self.state = State::Waiting(now + pause);
    }
}

fn dial(outputs: &mut VecDeque<Output>, peer: PeerId, at: &[Multiaddr], how: How) {
    if !at.is_empty() {
        outputs.push_back(Output::Dial { peer, at: at.to_vec(), how });
    }
}

fn dial_tcp(outputs: &mut VecDeque<Output>, peer: PeerId, ours: bool, at: &[Multiaddr]) {
    if ours {
        dial(outputs, peer, at, How::Ordinary);
    } else {
        dial(outputs, peer, at, How::AsListener);
        dial(outputs, peer, at, How::NewPort);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn quic() -> Multiaddr {
        at("/ip4/11.1.0.1/udp/9/quic-v1")
    }

    fn tcp() -> Multiaddr {
        at("/ip4/11.1.0.1/tcp/9")
    }

    fn targets() -> Targets {
        Targets::of(vec![tcp(), quic()], &[quic()])
    }

    struct Bench {
        machine: Upgrades,
        now: Instant,
        peer: PeerId,
        relayed: ConnectionId,
    }

    impl Bench {
        /// On the end that dialled the relayed connection; it has asked.
        fn dialler() -> Self {
            let (mut bench, connection) = (Self::unconnected(), ConnectionId::new_unchecked(1));
            let asked = bench.step(Input::Relayed { connection, peer: bench.peer, asks: true });
            assert_eq!(asked, [Output::Ask { connection }]);
            bench
        }

        /// On the end that was dialled.
        fn dialled() -> Self {
            let mut bench = Self::unconnected();
            let relayed = Input::Relayed { connection: bench.relayed, peer: bench.peer, asks: false };
            assert_eq!(bench.step(relayed), []);
            assert_eq!(bench.machine.poll_timeout(), None);
            bench
        }

        fn unconnected() -> Self {
            let (peer, relayed) = (PeerId::random(), ConnectionId::new_unchecked(1));
            Self { machine: Upgrades::default(), now: Instant::now(), peer, relayed }
        }

        fn step(&mut self, input: Input) -> Vec<Output> {
            self.machine.handle(self.now, input);
            self.drain()
        }

        fn drain(&mut self) -> Vec<Output> {
            std::iter::from_fn(|| self.machine.poll_output()).collect()
        }

        /// To the next time at which something is due.
        fn wait(&mut self) -> (Duration, Vec<Output>) {
            let due = self.machine.poll_timeout().expect("something is due");
            let waited = due - self.now;
            self.now = due;
            self.machine.handle_timeout(due);
            (waited, self.drain())
        }

        fn allow(&mut self) -> Vec<Output> {
            self.step(Input::Allowed { connection: self.relayed })
        }

        fn dial(&self, at: Multiaddr, how: How) -> Output {
            Output::Dial { peer: self.peer, at: vec![at], how }
        }

        fn answered(&mut self, near: Vec<Multiaddr>) -> Vec<Output> {
            let (connection, targets, dials_in) = (self.relayed, targets(), 40 * MS);
            self.step(Input::Answered { connection, targets, near, dials_in })
        }
    }

    #[test]
    fn who_dialled_asks_at_once_and_dials_when_its_sync_must_have_arrived() {
        let mut bench = Bench::dialler();
        assert_eq!(bench.answered(vec![]), []);
        assert_eq!(bench.wait(), (40 * MS, vec![bench.dial(quic(), How::Ordinary)]));
        assert_eq!(bench.wait(), (TCP_LAG, vec![bench.dial(tcp(), How::Ordinary)]));
    }

    #[test]
    fn who_was_dialled_tells_nothing_before_it_is_allowed() {
        let mut bench = Bench::dialled();
        let connection = bench.relayed;
        assert_eq!(bench.step(Input::Asked { connection }), []);
        assert_eq!(bench.machine.poll_timeout(), None);
        assert_eq!(bench.allow(), [Output::Answer { connection }]);
        let synced = bench.step(Input::Synced { connection, targets: targets(), dials_in: Duration::ZERO });
        assert_eq!(synced, [bench.dial(quic(), How::Ordinary)]);
        let both = vec![bench.dial(tcp(), How::AsListener), bench.dial(tcp(), How::NewPort)];
        assert_eq!(bench.wait(), (TCP_LAG, both));
    }

    #[test]
    fn who_was_dialled_asks_a_peer_that_does_not() {
        let mut bench = Bench::dialled();
        let connection = bench.relayed;
        assert_eq!(bench.allow(), [Output::Ask { connection }]);
        // The peer was only slow: its question is answered, and later ones are its own.
        assert_eq!(bench.step(Input::Asked { connection }), [Output::Answer { connection }]);
        bench.step(Input::Failed { connection });
        assert_eq!(bench.machine.poll_timeout(), None);
    }

    #[test]
    fn of_two_questions_that_cross_the_one_of_who_dialled_is_answered() {
        let mut bench = Bench::dialler();
        assert_eq!(bench.step(Input::Asked { connection: bench.relayed }), []);
        bench.step(Input::Failed { connection: bench.relayed });
        let asked = bench.step(Input::Asked { connection: bench.relayed });
        assert_eq!(asked, [Output::Answer { connection: bench.relayed }]);
    }

    #[test]
    fn tcp_does_not_wait_where_one_side_has_no_quic() {
        let mut bench = Bench::dialled();
        let connection = bench.relayed;
        bench.step(Input::Asked { connection });
        bench.allow();
        let targets = Targets::of(vec![tcp(), quic()], &[tcp()]);
        let dials = bench.step(Input::Synced { connection, targets, dials_in: Duration::ZERO });
        let tcp = [How::AsListener, How::NewPort].map(|how| bench.dial(tcp(), how));
        assert_eq!(dials[0], bench.dial(quic(), How::Ordinary));
        assert_eq!(dials[1..], tcp);
    }

    #[test]
    fn addresses_in_the_lan_are_dialled_without_waiting() {
        let mut bench = Bench::dialler();
        bench.allow();
        let near = at("/ip4/192.168.1.2/udp/9/quic-v1");
        assert_eq!(bench.answered(vec![near.clone()]), [bench.dial(near, How::Ordinary)]);
    }

    #[test]
    fn failed_attempts_are_repeated_ever_more_rarely_and_at_once_after_a_move() {
        let mut bench = Bench::dialler();
        bench.allow();
        for pause in [2, 8, 30, 600, 600] {
            assert_eq!(bench.step(Input::Failed { connection: bench.relayed }), []);
            let again = vec![Output::Ask { connection: bench.relayed }];
            assert_eq!(bench.wait(), (Duration::from_secs(pause), again));
        }
        bench.step(Input::Failed { connection: bench.relayed });
        assert_eq!(bench.step(Input::Moved), [Output::Ask { connection: bench.relayed }]);
    }

    #[test]
    fn dials_that_come_to_nothing_count_as_a_failure() {
        let mut bench = Bench::dialler();
        bench.allow();
        bench.answered(vec![]);
        bench.wait();
        bench.wait();
        assert_eq!(bench.wait(), (DIAL_TIMEOUT, vec![]));
        assert_eq!(bench.wait(), (PAUSES[0], vec![Output::Ask { connection: bench.relayed }]));
    }

    #[test]
    fn a_direct_connection_is_reported_and_ends_the_search_until_it_breaks() {
        let mut bench = Bench::dialler();
        let direct = ConnectionId::new_unchecked(2);
        bench.allow();
        bench.answered(vec![]);
        let found = bench.step(Input::Direct { connection: direct, peer: bench.peer });
        assert_eq!(found, [Output::Found { relayed: bench.relayed, direct }]);
        assert_eq!(bench.machine.poll_timeout(), None);
        bench.step(Input::Closed { connection: direct, peer: bench.peer });
        assert_eq!(bench.wait(), (PAUSES[0], vec![Output::Ask { connection: bench.relayed }]));
    }

    #[test]
    fn a_direct_connection_that_was_there_before_is_reported_when_allowed() {
        let mut bench = Bench::dialled();
        let direct = ConnectionId::new_unchecked(2);
        assert_eq!(bench.step(Input::Direct { connection: direct, peer: bench.peer }), []);
        assert_eq!(bench.allow(), [Output::Found { relayed: bench.relayed, direct }]);
    }

    #[test]
    fn what_comes_out_of_turn_does_nothing() {
        let mut bench = Bench::dialler();
        let connection = bench.relayed;
        bench.allow();
        bench.step(Input::Failed { connection });
        assert_eq!(bench.step(Input::Synced { connection, targets: targets(), dials_in: MS }), []);
        bench.step(Input::Closed { connection, peer: bench.peer });
        for input in [Input::Allowed { connection }, Input::Asked { connection }, Input::Moved] {
            assert_eq!(bench.step(input), []);
        }
        assert_eq!(bench.machine.poll_timeout(), None);
    }

    #[test]
    fn a_flood_of_relayed_connections_fills_no_memory() {
        let mut bench = Bench::dialled();
        for n in 0..2 * MAX_UPGRADES {
            let connection = ConnectionId::new_unchecked(n + 10);
            bench.step(Input::Relayed { connection, peer: PeerId::random(), asks: false });
        }
        assert_eq!(bench.machine.relayed.len(), MAX_UPGRADES);
    }
}
