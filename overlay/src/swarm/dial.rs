//! From "a stream to the peer at this address" to the stream: find or make the connection, then open.

use std::fmt;
use std::time::{Duration, Instant};

use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;
use tracing::debug;

use super::autonat::DialBack;
use super::streams::{self, OpenError, OpenId, Protocol};
use super::{Event, EventLoop, SwarmStream, link, now};
use crate::carrier::link::{CarrierLink, Mobile, MobileId};
use crate::conn::{Carrier, Path, PathId};
use crate::kad::AskId;
use crate::reachability::Nat;

/// How long QUIC has before TCP is tried as well.
const TCP_PATIENCE: Duration = Duration::from_millis(500);
/// Most that wait for one connection.
const MAX_PURPOSES: usize = 16;

/// What a session runs on.
pub(crate) enum SessionStream {
    /// A stream of the connection itself.
    Plain(SwarmStream),
    /// One that can move to other connections.
    Carried(CarrierLink, Mobile),
}

impl fmt::Debug for SessionStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Carried(..) => "Carried",
        })
    }
}

#[cfg(test)]
impl SessionStream {
    /// Without the carrier.
    pub(crate) fn plain(self) -> SwarmStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Carried(..) => panic!("it was asked for without the carrier"),
        }
    }
}

/// A stream for a session.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) stream: SessionStream,
    pub(crate) carrier: Carrier,
    pub(crate) remote: String,
    pub(crate) path: Path,
    /// Whether the connection stood already, and may be dead without our knowing.
    pub(crate) reused: bool,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum SwarmDialError {
    /// Not a multiaddr, or none that we have a transport for.
    #[error("not a multiaddr that we can dial")]
    BadAddress,
    /// The address leads to ourselves.
    #[error("the address is our own")]
    Ourselves,
    /// Another peer answered there.
    #[error("another peer answered")]
    WrongPeer,
    /// Our own limits on connections or streams.
    #[error("too many connections")]
    Busy,
    /// No connection; the reason is libp2p's text.
    #[error("cannot connect: {detail}")]
    Connect {
        /// For people.
        detail: String,
    },
    /// The peer is no SSB peer.
    #[error("the peer does not speak SSB")]
    Unsupported,
    /// The connection did not last until the stream stood.
    #[error("the connection was lost")]
    Lost,
    /// The swarm is shut down.
    #[error("the swarm is stopped")]
    Stopped,
}

impl SwarmDialError {
    /// A bounded label for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::BadAddress => "bad_address",
            Self::Ourselves => "ourselves",
            Self::WrongPeer => "wrong_peer",
            Self::Busy => "busy",
            Self::Connect { .. } => "connect",
            Self::Unsupported => "unsupported",
            Self::Lost => "lost",
            Self::Stopped => "stopped",
        }
    }
}

type Reply = oneshot::Sender<Result<Opened, SwarmDialError>>;

/// What a stream is wanted for.
pub(super) enum Purpose {
    /// A session with the peer at an address. With `retry`, the connection was an old one that may turn out to be
    /// dead. With `plain`, the peer does not know the carrier.
    Session { reply: Reply, at: Multiaddr, retry: bool, plain: bool },
    /// To move a session to this connection.
    Attach(MobileId, ConnectionId),
    /// To ask the end that opened a session to move it to this connection.
    Poke(MobileId),
    /// To see whether this connection lives: a session's own, or one that it depends on.
    Alive(Option<MobileId>, ConnectionId),
    /// To have another path for a session: that it stands is enough.
    Path,
    /// To ask a neighbour for its feed.
    Who(PeerId),
    /// To look for a direct connection beside this relayed one.
    Upgrade(ConnectionId),
    /// To ask a server to dial us back; the number of the question.
    Probe(u64),
    /// To dial somebody back who asked for it.
    DialBack(DialBack),
    /// To ask it to relay for us: it says by itself whether it can.
    Relay(PeerId),
    /// To ask a node of the DHT.
    Ask(AskId),
    /// To ask it for nodes of the DHT.
    Neighbour,
    /// To hear what it speaks: it may serve the DHT.
    Meet,
    /// To dial this circuit through it.
    Circuit { at: Multiaddr, purpose: Box<Self> },
}

/// What a connection that we wait for is wanted for.
pub(super) struct Dialled {
    pub(super) purposes: Vec<Purpose>,
    /// Whoever wants to go there too waits for the same connection; empty if nobody may.
    pub(super) at: Vec<Multiaddr>,
    /// Where UDP may be blocked: when to dial by TCP as well, and where.
    pub(super) fallback: Option<(Instant, Multiaddr)>,
}

impl EventLoop {
    /// Opens a stream for a session, without the carrier if the peer is known not to know it.
    pub(super) fn open(&mut self, at: Multiaddr, plain: bool, reply: Reply) {
        if link::carrier(&at).is_none() {
            let _ = reply.send(Err(SwarmDialError::BadAddress));
            return;
        }
        let (bare, peer) = link::split_peer(at.clone());
        match peer.and_then(|peer| self.standing(peer, &bare)) {
            Some(connection) => self.open_on(connection, Purpose::Session { reply, at, retry: true, plain }),
            None => {
                let session = Purpose::Session { reply, at: at.clone(), retry: false, plain };
                match link::relay(&at) {
                    Some((relay, peer)) if !self.is_connected_to(peer) => {
                        self.dial(vec![relay], Purpose::Circuit { at, purpose: Box::new(session) });
                    }
                    Some(_) | None => self.dial(vec![at], session),
                }
            }
        }
    }

    fn is_connected_to(&self, peer: PeerId) -> bool {
        self.live.values().any(|live| live.peer == peer && live.carrier != Some(Carrier::Relay))
    }

    /// Closes a connection on which nobody answers; the next session takes another.
    pub(super) fn give_up(&mut self, path: PathId) {
        let found = self.live.keys().find(|connection| link::path_id(**connection) == path);
        if let Some(connection) = found.copied() {
            self.swarm.close_connection(connection);
            if let Some(live) = self.live.remove(&connection) {
                self.on_relay_left(&live);
            }
        }
    }

    /// Dials one peer at all of these addresses; the first that answers is taken. Two dials to one address
    /// would be one too many: TCP makes the second from another port, which no NAT has seen.
    pub(super) fn dial(&mut self, at: Vec<Multiaddr>, purpose: Purpose) {
        let mut under_way = self.dialling.values_mut();
        let same = under_way.find(|dialled| dialled.at.iter().any(|there| at.contains(there)));
        if let Some(dialled) = same.filter(|dialled| dialled.purposes.len() < MAX_PURPOSES) {
            return dialled.purposes.push(purpose);
        }
        let fallback = at.first().and_then(link::by_tcp).map(|tcp| (now() + TCP_PATIENCE, tcp));
        let fallback = fallback.filter(|(_, tcp)| !at.contains(tcp) && self.needs_fallback(&purpose));
        let dialled = Dialled { purposes: vec![purpose], at: at.clone(), fallback };
        let peer = at.first().cloned().and_then(|at| link::split_peer(at).1);
        let options = match (peer, at.first()) {
            (Some(peer), _) => DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(at).build(),
            (None, Some(only)) => DialOpts::unknown_peer_id().address(only.clone()).build(),
            (None, None) => return self.fail_all(dialled, || SwarmDialError::BadAddress),
        };
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dialling.insert(connection, dialled);
            }
            Err(error) => self.fail_all(dialled, || dial_error(&error)),
        }
    }

    /// Nodes of the DHT are many, and some are dead: where UDP is known to work, one dial is enough.
    fn needs_fallback(&self, purpose: &Purpose) -> bool {
        let udp = self.report.borrow().v4.udp;
        !matches!(purpose, Purpose::Ask(_)) || matches!(udp, Nat::Unknown | Nat::Blocked)
    }

    /// A connection stands; perhaps somebody waits for it.
    pub(super) fn on_dialled(&mut self, connection: ConnectionId) {
        let beside = self.beside.remove(&connection);
        let Some(dialled) = self.dialling.remove(&beside.unwrap_or(connection)) else {
            if beside.is_some() {
                // QUIC was there first.
                self.swarm.close_connection(connection);
            }
            return;
        };
        for purpose in dialled.purposes {
            self.open_on(connection, purpose);
        }
    }

    /// A connection failed.
    pub(super) fn on_dial_failed(&mut self, connection: ConnectionId, error: &DialError) {
        if self.beside.remove(&connection).is_some() {
            return;
        }
        let Some(mut dialled) = self.dialling.remove(&connection) else { return };
        let beside = self.beside.iter().find(|(_, first)| **first == connection).map(|(tcp, _)| *tcp);
        let other = beside.or_else(|| self.dial_beside(connection, dialled.fallback.take()));
        match other {
            Some(tcp) => {
                self.beside.remove(&tcp);
                self.dialling.insert(tcp, dialled);
            }
            None => self.fail_all(dialled, || dial_error(error)),
        }
    }

    /// When the next dial by QUIC has had its time.
    pub(super) fn fallback_due(&self) -> Option<Instant> {
        self.dialling.values().filter_map(|dialled| dialled.fallback.as_ref().map(|(at, _)| *at)).min()
    }

    /// Where QUIC has not come through yet, TCP is tried as well; what is there first is taken.
    pub(super) fn dial_fallbacks(&mut self, now: Instant) {
        let due = |dialled: &mut Dialled| dialled.fallback.take_if(|(at, _)| *at <= now);
        let due: Vec<_> = self.dialling.iter_mut().map(|(quic, dialled)| (*quic, due(dialled))).collect();
        for (quic, fallback) in due {
            self.dial_beside(quic, fallback);
        }
    }

    fn dial_beside(
        &mut self,
        quic: ConnectionId,
        fallback: Option<(Instant, Multiaddr)>,
    ) -> Option<ConnectionId> {
        let (_, at) = fallback?;
        let peer = link::split_peer(at.clone()).1?;
        let options = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![at]).build();
        let tcp = options.connection_id();
        self.swarm.dial(options).ok()?;
        self.beside.insert(tcp, quic);
        Some(tcp)
    }

    fn fail_all(&mut self, dialled: Dialled, error: impl Fn() -> SwarmDialError) {
        for purpose in dialled.purposes {
            self.fail(purpose, error());
        }
    }

    /// Opens a stream on this connection, and no other.
    pub(super) fn open_on(&mut self, connection: ConnectionId, purpose: Purpose) {
        let protocol = match &purpose {
            // Whoever asked has given up in the meantime.
            Purpose::Session { reply, .. } if reply.is_closed() => return,
            // That it stands is all that was wanted.
            Purpose::Relay(_) | Purpose::Meet | Purpose::Path => return,
            Purpose::Circuit { .. } => return self.dial_circuit(purpose),
            Purpose::Ask(_) => match self.swarm.behaviour().streams.kad() {
                Some(name) => Protocol::Kad(name),
                None => return,
            },
            Purpose::Neighbour => Protocol::Peers,
            Purpose::Session { plain, .. } if *plain || self.is_plain(connection) => Protocol::Session,
            Purpose::Session { .. } | Purpose::Attach(..) | Purpose::Poke(_) => Protocol::Carrier,
            Purpose::Alive(..) => Protocol::Alive,
            Purpose::Who(_) => Protocol::LanWho,
            Purpose::Upgrade(_) => Protocol::Upgrade,
            Purpose::Probe(_) => Protocol::AutonatRequest,
            Purpose::DialBack(_) => Protocol::AutonatBack,
        };
        let mut purpose = purpose;
        if let Purpose::Session { plain, .. } = &mut purpose {
            *plain = protocol == Protocol::Session;
        }
        match self.swarm.behaviour_mut().streams.open(connection, protocol) {
            Ok(id) => {
                self.opening.insert(id, purpose);
            }
            Err(error) => self.open_failed(purpose, error),
        }
    }

    fn dial_circuit(&mut self, purpose: Purpose) {
        if let Purpose::Circuit { at, purpose } = purpose {
            self.dial(vec![at], *purpose);
        }
    }

    /// Whether the peer of this connection is known to lack the carrier.
    fn is_plain(&self, connection: ConnectionId) -> bool {
        self.live.get(&connection).is_some_and(|live| self.carriers.is_plain(live.peer))
    }

    /// What the streams behaviour reports.
    pub(super) fn on_stream(&mut self, event: streams::Event) {
        match event {
            streams::Event::Opened { id, connection, stream } => {
                let stream = SwarmStream::outbound(stream);
                self.opened(id, connection, stream);
            }
            streams::Event::OpenFailed { id, connection, error } => {
                if matches!(error, OpenError::Timeout) {
                    // It stands in name only.
                    self.swarm.close_connection(connection);
                }
                if let Some(purpose) = self.opening.remove(&id) {
                    self.open_failed(purpose, error);
                }
            }
            streams::Event::Inbound { connection, protocol, stream, slot } => {
                self.inbound(connection, protocol, SwarmStream::inbound(stream, slot));
            }
        }
    }

    fn opened(&mut self, id: OpenId, connection: ConnectionId, stream: SwarmStream) {
        let Some(purpose) = self.opening.remove(&id) else { return };
        match purpose {
            Purpose::Who(peer) => self.read_answer(peer, stream),
            Purpose::Upgrade(relayed) => self.send_question(relayed, stream),
            Purpose::Probe(nonce) => self.ask_server(nonce, stream),
            Purpose::DialBack(dial_back) => self.bring_back(dial_back, stream),
            Purpose::Ask(id) => self.send_ask(id, connection, stream),
            Purpose::Neighbour => self.send_neighbour(stream),
            Purpose::Attach(session, to) => self.attach_opened(session, to, stream),
            Purpose::Poke(session) => self.poke_opened(session, stream),
            Purpose::Alive(session, of) => self.alive_opened(session, of, stream),
            Purpose::Relay(_) | Purpose::Meet | Purpose::Path | Purpose::Circuit { .. } => {}
            Purpose::Session { reply, at, retry, plain } => {
                let stream = if plain {
                    Some(SessionStream::Plain(stream))
                } else {
                    self.begin_carried(connection, stream, Some(at))
                };
                let opened = stream.ok_or(SwarmDialError::Busy);
                let _ = reply.send(opened.and_then(|stream| self.describe(connection, stream, retry)));
            }
        }
    }

    fn describe(
        &self,
        connection: ConnectionId,
        stream: SessionStream,
        reused: bool,
    ) -> Result<Opened, SwarmDialError> {
        let live = self.live.get(&connection).ok_or(SwarmDialError::Lost)?;
        let carrier = live.carrier.ok_or(SwarmDialError::BadAddress)?;
        let path = link::path(connection, live.peer);
        Ok(Opened { stream, carrier, remote: link::with_peer(&live.remote, live.peer), path, reused })
    }

    fn inbound(&mut self, connection: ConnectionId, protocol: Protocol, stream: SwarmStream) {
        let Some(live) = self.live.get(&connection) else { return };
        match (protocol, live.carrier) {
            (Protocol::LanWho, _) => {
                let remote = live.remote.clone();
                self.answer(&remote, stream);
            }
            (Protocol::Upgrade, _) => self.read_question(connection, stream),
            (Protocol::Session, _) => self.emit_inbound(connection, SessionStream::Plain(stream)),
            (Protocol::Carrier, _) => self.greet(connection, stream),
            (Protocol::Alive, _) => {}
            (Protocol::AutonatRequest, _) => self.autonat_inbound(connection, true, stream),
            (Protocol::AutonatBack, _) => self.autonat_inbound(connection, false, stream),
            (Protocol::Kad(_) | Protocol::Peers, _) => self.dht_inbound(connection, protocol, stream),
        }
    }

    /// A peer wants a session.
    pub(super) fn emit_inbound(&self, connection: ConnectionId, stream: SessionStream) {
        let Some(live) = self.live.get(&connection) else { return };
        let Some(carrier) = live.carrier else { return };
        let remote = link::with_peer(&live.remote, live.peer);
        let path = link::path(connection, live.peer);
        self.emit(Event::Inbound { stream, carrier, remote, path, ip: live.ip });
    }

    fn open_failed(&mut self, purpose: Purpose, error: OpenError) {
        debug!(%error, "no stream");
        let was_dead = !matches!(error, OpenError::Unsupported | OpenError::Busy);
        match purpose {
            Purpose::Session { reply, at, retry: true, plain } if was_dead => {
                self.dial(vec![at.clone()], Purpose::Session { reply, at, retry: false, plain });
            }
            purpose @ (Purpose::Session { .. }
            | Purpose::Attach(..)
            | Purpose::Poke(_)
            | Purpose::Alive(..)
            | Purpose::Path
            | Purpose::Who(_)
            | Purpose::Upgrade(_)
            | Purpose::Probe(_)
            | Purpose::DialBack(_)
            | Purpose::Relay(_)
            | Purpose::Ask(_)
            | Purpose::Neighbour
            | Purpose::Meet
            | Purpose::Circuit { .. }) => self.fail(purpose, error.into()),
        }
    }

    pub(super) fn fail(&mut self, purpose: Purpose, error: SwarmDialError) {
        match purpose {
            Purpose::Session { reply, .. } => drop(reply.send(Err(error))),
            Purpose::Circuit { purpose, .. } => self.fail(*purpose, error),
            Purpose::Attach(session, to) => self.attach_failed(session, to),
            Purpose::Poke(_) | Purpose::Alive(..) => debug!(%error, "no stream for a session's path"),
            Purpose::Path => debug!(%error, "a session's peer is not there"),
            Purpose::Who(peer) => self.not_answered(peer),
            Purpose::Upgrade(relayed) => self.upgrade_failed(relayed),
            Purpose::Probe(nonce) => self.probe_failed(nonce),
            Purpose::DialBack(dial_back) => self.dial_back_failed(dial_back, &error),
            Purpose::Relay(relay) => self.relay_not_dialled(relay),
            Purpose::Ask(id) => self.ask_failed(id),
            Purpose::Neighbour => self.neighbour_failed(),
            Purpose::Meet => debug!(%error, "a node to begin with is not there"),
        }
    }
}

impl From<OpenError> for SwarmDialError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Unsupported => Self::Unsupported,
            OpenError::Busy => Self::Busy,
            OpenError::Closed | OpenError::Timeout | OpenError::Io(_) => Self::Lost,
        }
    }
}

pub(super) fn dial_error(error: &DialError) -> SwarmDialError {
    match error {
        DialError::LocalPeerId { .. } => SwarmDialError::Ourselves,
        DialError::WrongPeerId { .. } => SwarmDialError::WrongPeer,
        DialError::Denied { .. } => SwarmDialError::Busy,
        DialError::NoAddresses => SwarmDialError::BadAddress,
        DialError::DialPeerConditionFalse(_) | DialError::Aborted => SwarmDialError::Lost,
        DialError::Transport(_) => SwarmDialError::Connect { detail: error.to_string() },
    }
}
