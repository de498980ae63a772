//! Relaying for others: libp2p's relay with tiers in front of it.
//!
//! libp2p's relay knows one limit per circuit and no friends. Two seams make tiers of it. Its rate limiters
//! see each request before it is granted, so a [`Ledger`] decides there; and the limits of a circuit sit in
//! the handler of the connection that asked for it. So there are three relays inside, one for each kind of
//! circuit: the first is told everything and decides everything, the other two only make handlers. Which one
//! makes it is decided when a connection is made: a peer that becomes a friend later is one from its next
//! connection on.
//!
//! A peer has one reservation: with a new one, the connections of the others are closed.
//!
//! libp2p's own limits on numbers are set out of reach: with them, a full relay refuses to renew.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::{ConnectionEstablished, ExternalAddrConfirmed, ExternalAddrExpired};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, relay};

use super::link;
use crate::facade::Counters;
use crate::relay::{CircuitLimit, FRIEND_CIRCUIT, MEMBER_CIRCUIT, RelayTotals, STRANGER_CIRCUIT, Tier};

mod ledger;

use ledger::{Ledger, Refusal};

/// How long a reservation lasts; clients renew it when a quarter of that is left.
const RESERVATION: Duration = Duration::from_secs(60 * 60);
/// Most circuits that stand or are on their way; libp2p counts some that came to nothing as long as their
/// connections last.
const MAX_PENDING_CIRCUITS: usize = 4096;

/// What it reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// So many circuits stand now.
    Circuits(usize),
}

type Action = ToSwarm<Event, THandlerInEvent<relay::Behaviour>>;

/// The behaviour.
pub(crate) struct Behaviour {
    relay: relay::Behaviour,
    /// Make handlers with other limits, and do nothing else.
    members: relay::Behaviour,
    friends: relay::Behaviour,
    shared: Arc<Mutex<Shared>>,
    counters: Arc<Counters>,
    serving: bool,
    /// Our own addresses as reservations tell them.
    external: BTreeSet<Multiaddr>,
    /// What they tell while there is none: a client takes an answer without any address for a refusal, and
    /// knows best where it dialled us.
    nameless: Multiaddr,
    /// Circuits that were reported as closed when their destination left, and will be once more by the
    /// handler of their source.
    closing: BTreeMap<(PeerId, PeerId), usize>,
    queue: VecDeque<Action>,
}

/// What the limiters inside libp2p's relay share with us.
struct Shared {
    ledger: Ledger,
    /// The connection whose request is looked at.
    asking: Option<ConnectionId>,
    refused: Option<(Request, Tier, Refusal)>,
}

#[derive(Clone, Copy)]
enum Request {
    Reservation,
    Circuit,
}

/// Whose doing an event of libp2p's relay is.
#[derive(Clone, Copy)]
enum Cause {
    Handler(PeerId, ConnectionId),
    Closed(PeerId),
    Other,
}

impl Behaviour {
    /// Does not relay before [`Self::set_serving`].
    pub(crate) fn new(own: PeerId, totals: RelayTotals, counters: Arc<Counters>) -> Self {
        let shared = Shared { ledger: Ledger::new(totals), asking: None, refused: None };
        let shared = Arc::new(Mutex::new(shared));
        let relay = |limit| {
            let mut relay = relay::Behaviour::new(own, config(limit, &shared));
            // Never by libp2p's own rule, which takes a reservation of ours for being public.
            relay.set_status(Some(relay::Status::Disable));
            relay
        };
        let mut behaviour = Self {
            relay: relay(STRANGER_CIRCUIT),
            members: relay(MEMBER_CIRCUIT),
            friends: relay(FRIEND_CIRCUIT),
            shared,
            counters,
            serving: false,
            external: BTreeSet::new(),
            nameless: Multiaddr::from(Protocol::P2p(own)),
            closing: BTreeMap::new(),
            queue: VecDeque::new(),
        };
        behaviour.tell_nameless(true);
        behaviour
    }

    /// Starts or stops to take requests. What stands goes on.
    pub(crate) fn set_serving(&mut self, serving: bool) {
        self.serving = serving;
        let status = if serving { relay::Status::Enable } else { relay::Status::Disable };
        for relay in [&mut self.relay, &mut self.members, &mut self.friends] {
            relay.set_status(Some(status));
        }
    }

    /// Whether requests are taken.
    pub(crate) const fn is_serving(&self) -> bool {
        self.serving
    }

    /// Limits what is carried in all; what stands goes on.
    pub(crate) fn set_totals(&self, totals: RelayTotals) {
        self.shared().ledger.set_totals(totals);
    }

    /// What a peer is to us from now on. One that is blocked and uses our relay is cut off.
    pub(crate) fn set_tier(&mut self, peer: PeerId, tier: Tier) {
        let mut shared = self.shared();
        shared.ledger.set_tier(peer, tier);
        let cut = tier == Tier::Blocked && shared.ledger.serves(peer);
        drop(shared);
        if cut {
            let connection = CloseConnection::All;
            self.queue.push_back(ToSwarm::CloseConnection { peer_id: peer, connection });
        }
    }

    /// What a peer is to us.
    pub(crate) fn tier(&self, peer: PeerId) -> Tier {
        self.shared().ledger.tier(peer)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }

    fn maker(&mut self, peer: PeerId) -> &mut relay::Behaviour {
        match self.tier(peer) {
            Tier::Stranger | Tier::Blocked => &mut self.relay,
            Tier::Member => &mut self.members,
            Tier::Friend => &mut self.friends,
        }
    }

    /// Takes what the relay has to say while it is known why it says it.
    fn drain(&mut self, cause: Cause) {
        let mut nobody = Context::from_waker(Waker::noop());
        while let Poll::Ready(action) = self.relay.poll(&mut nobody) {
            self.on_action(action, cause);
        }
        let refused = self.shared().refused.take();
        match refused {
            Some((Request::Reservation, tier, refusal)) => {
                self.counters.relay_reservation(tier, refusal.label());
            }
            Some((Request::Circuit, tier, refusal)) => self.counters.relay_circuit(tier, refusal.label()),
            None => {}
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "an event of the swarm's is taken out, the rest passed on"
    )]
    fn on_action(&mut self, action: ToSwarm<relay::Event, THandlerInEvent<relay::Behaviour>>, cause: Cause) {
        match action {
            ToSwarm::GenerateEvent(event) => self.on_relay_event(event, cause),
            // It has no event inside whose type would have to change.
            other => self.queue.push_back(other.map_out(|_| Event::Circuits(0))),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "libp2p wants its events of failures forgotten")]
    fn on_relay_event(&mut self, event: relay::Event, cause: Cause) {
        match event {
            relay::Event::ReservationReqAccepted { src_peer_id, renewed } => {
                let outcome = if renewed { "renewed" } else { crate::facade::OK };
                self.counters.relay_reservation(self.tier(src_peer_id), outcome);
                if let (Cause::Handler(_, connection), false) = (cause, renewed) {
                    self.displace(src_peer_id, connection);
                }
            }
            relay::Event::ReservationTimedOut { .. } => self.timed_out(cause),
            relay::Event::CircuitReqAccepted { src_peer_id, dst_peer_id } => {
                let tier = self.shared().ledger.opened(src_peer_id, dst_peer_id);
                self.counters.relay_circuit(tier, crate::facade::OK);
                self.tell_circuits();
            }
            relay::Event::CircuitReqDenied { src_peer_id, status, .. } => {
                if let Some(label) = denial(&status) {
                    self.counters.relay_circuit(self.tier(src_peer_id), label);
                }
            }
            relay::Event::CircuitClosed { src_peer_id, dst_peer_id, error } => {
                self.circuit_closed((src_peer_id, dst_peer_id), error.as_ref(), cause);
            }
            _ => {}
        }
    }

    /// A peer that reserves anew has lost its connection, whose NAT has forgotten it, perhaps; we hear of that much
    /// later, and libp2p's relay takes any of a peer's reservations for a circuit to it.
    fn displace(&mut self, peer_id: PeerId, newest: ConnectionId) {
        let older = self.shared().ledger.older(peer_id, newest);
        self.queue.extend(older.into_iter().map(|connection| {
            let connection = CloseConnection::One(connection);
            ToSwarm::CloseConnection { peer_id, connection }
        }));
    }

    /// libp2p forgets the whole connection with its reservation, and would miss it when a renewal comes that
    /// was under way.
    fn timed_out(&mut self, cause: Cause) {
        let Cause::Handler(peer_id, connection_id) = cause else { return };
        self.shared().ledger.release(connection_id);
        let endpoint =
            ConnectedPoint::Listener { local_addr: Multiaddr::empty(), send_back_addr: Multiaddr::empty() };
        self.relay.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id,
            connection_id,
            endpoint: &endpoint,
            failed_addresses: &[],
            other_established: 0,
        }));
    }

    fn circuit_closed(&mut self, pair: (PeerId, PeerId), error: Option<&io::Error>, cause: Cause) {
        let (source, destination) = pair;
        match cause {
            Cause::Handler(..) => {
                if let Some(expected) = self.closing.get_mut(&pair) {
                    *expected -= 1;
                    if *expected == 0 {
                        self.closing.remove(&pair);
                    }
                    return;
                }
            }
            Cause::Closed(peer) if peer == destination && peer != source => {
                *self.closing.entry(pair).or_default() += 1;
            }
            Cause::Closed(_) | Cause::Other => {}
        }
        if let Some(tier) = self.shared().ledger.closed(source, destination) {
            self.counters.relay_closed(tier, ending(error));
        }
        self.tell_circuits();
    }

    fn tell_circuits(&mut self) {
        let circuits = self.shared().ledger.circuits();
        self.queue.push_back(ToSwarm::GenerateEvent(Event::Circuits(circuits)));
    }

    fn on_external(&mut self, address: &Multiaddr, is_there: bool) {
        if link::is_relayed(address) {
            return;
        }
        let was_nameless = self.external.is_empty();
        if is_there {
            self.external.insert(address.clone());
        } else {
            self.external.remove(address);
        }
        tell_external(&mut self.relay, address, is_there);
        if was_nameless != self.external.is_empty() {
            self.tell_nameless(!was_nameless);
        }
    }

    fn tell_nameless(&mut self, is_there: bool) {
        tell_external(&mut self.relay, &self.nameless, is_there);
    }
}

fn tell_external(relay: &mut relay::Behaviour, addr: &Multiaddr, is_there: bool) {
    relay.on_swarm_event(if is_there {
        FromSwarm::ExternalAddrConfirmed(ExternalAddrConfirmed { addr })
    } else {
        FromSwarm::ExternalAddrExpired(ExternalAddrExpired { addr })
    });
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn config(limit: CircuitLimit, shared: &Arc<Mutex<Shared>>) -> relay::Config {
    let limiter = |request: Request| -> Box<dyn relay::RateLimiter> {
        let shared = Arc::clone(shared);
        Box::new(move |peer: PeerId, at: &Multiaddr, now: Instant| {
            lock(&shared).judge(request, now, peer, link::ip(at))
        })
    };
    relay::Config {
        max_reservations: usize::MAX,
        max_reservations_per_peer: usize::MAX,
        reservation_duration: RESERVATION,
        reservation_rate_limiters: vec![limiter(Request::Reservation)],
        max_circuits: MAX_PENDING_CIRCUITS,
        max_circuits_per_peer: MAX_PENDING_CIRCUITS,
        max_circuit_duration: limit.duration,
        max_circuit_bytes: limit.bytes,
        circuit_src_rate_limiters: vec![limiter(Request::Circuit)],
    }
}

impl Shared {
    fn judge(&mut self, request: Request, now: Instant, peer: PeerId, ip: Option<IpAddr>) -> bool {
        let judged = match (request, self.asking) {
            (Request::Reservation, Some(connection)) => self.ledger.reserve(now, connection, peer, ip),
            // Nobody asks but through a handler.
            (Request::Reservation, None) => return false,
            (Request::Circuit, _) => self.ledger.open(now, peer, ip),
        };
        self.refused = judged.err().map(|refusal| (request, self.ledger.tier(peer), refusal));
        judged.is_ok()
    }
}

/// Labels of denials that are not the ledger's.
const fn denial(status: &relay::StatusCode) -> Option<&'static str> {
    match status {
        relay::StatusCode::NoReservation => Some("no_reservation"),
        relay::StatusCode::ConnectionFailed => Some("destination_failed"),
        relay::StatusCode::PermissionDenied => Some("destination_refused"),
        relay::StatusCode::MalformedMessage | relay::StatusCode::UnexpectedMessage => Some("malformed"),
        relay::StatusCode::OK
        | relay::StatusCode::ReservationRefused
        | relay::StatusCode::ResourceLimitExceeded => None,
    }
}

/// A label for how a circuit ended.
fn ending(error: Option<&io::Error>) -> &'static str {
    match error.map(io::Error::kind) {
        None => "ended",
        Some(io::ErrorKind::TimedOut) => "time_limit",
        // libp2p has no better kind for its limit on bytes; streams fail with others.
        Some(io::ErrorKind::Other) => "byte_limit",
        Some(_) => "lost",
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = THandler<relay::Behaviour>;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.maker(peer).handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        at: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.maker(peer).handle_established_outbound_connection(connection, peer, at, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ExternalAddrConfirmed(ExternalAddrConfirmed { addr }) = event {
            self.on_external(addr, true);
        } else if let FromSwarm::ExternalAddrExpired(ExternalAddrExpired { addr }) = event {
            self.on_external(addr, false);
        } else if let FromSwarm::ConnectionClosed(closed) = event {
            self.shared().ledger.release(closed.connection_id);
            self.relay.on_swarm_event(event);
            self.drain(Cause::Closed(closed.peer_id));
            // The handler that would have reported them is gone.
            self.closing.retain(|(source, _), _| *source != closed.peer_id);
        } else {
            self.relay.on_swarm_event(event);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.shared().asking = Some(connection);
        self.relay.on_connection_handler_event(peer, connection, event);
        self.shared().asking = None;
        self.drain(Cause::Handler(peer, connection));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        loop {
            if let Some(action) = self.queue.pop_front() {
                return Poll::Ready(action);
            }
            match self.relay.poll(cx) {
                Poll::Ready(action) => self.on_action(action, Cause::Other),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
