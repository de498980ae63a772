//! Streams on chosen connections.
//!
//! Two peers may hold several libp2p connections, over QUIC and TCP, and later relayed and direct; which
//! of them a session runs on is ours to decide. So this behaviour opens a stream on the connection it is
//! told, and says of each stream that comes in on which connection it came.
//!
//! What always holds: every [`Behaviour::open`] that succeeds is answered by exactly one
//! [`Event::Opened`] or [`Event::OpenFailed`], also when the connection closes first (libp2p drops a
//! message to a closed connection without a word); and no peer holds more than
//! [`MAX_INBOUND_PER_CONNECTION`] streams of a connection.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream};
use sha2::{Digest as _, Sha256};

use super::link;
use crate::keys::NetworkKey;
use crate::lan::Interfaces;

mod handler;
pub(crate) use handler::Slot;
use handler::{Handler, Request, ToBehaviour};

/// Streams that a peer may hold open on one connection.
pub(crate) const MAX_INBOUND_PER_CONNECTION: usize = 8;
/// Streams that may be on their way on one connection.
pub(crate) const MAX_OPENING_PER_CONNECTION: usize = 8;

/// What a stream is for. Another carrier of sessions is another line here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    /// SHS, box stream and muxrpc, as on classic TCP.
    Session,
    /// The same inside a carrier.
    Carrier,
    /// Nothing: nobody speaks it, and who says so lives.
    Alive,
    /// The responder writes the feed it claims to be and closes.
    LanWho,
    /// DCUtR: finding a direct connection beside a relayed one.
    Upgrade,
    /// AutoNAT v2: dial me, and say what came of it.
    AutonatRequest,
    /// AutoNAT v2: what a server that was asked to dial says on the connection it made.
    AutonatBack,
    /// Kademlia among the nodes of one SSB network.
    Kad(KadName),
    /// The same question, who is close to some place, to whoever is connected: also to those who do not
    /// serve the DHT.
    Peers,
}

/// `/ssb/<first 8 hex digits of sha256(cap)>/kad/1`: the DHTs of different networks never mix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KadName([u8; KAD_NAME]);

const KAD_NAME: usize = 19;

impl KadName {
    pub(crate) fn of(network: NetworkKey) -> Self {
        let digest = Sha256::digest(network.as_bytes());
        let mut name = *b"/ssb/00000000/kad/1";
        for (digits, byte) in name[5..13].chunks_exact_mut(2).zip(digest) {
            digits[0] = hex_digit(byte >> 4);
            digits[1] = hex_digit(byte & 0xf);
        }
        Self(name)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("it is made of ASCII")
    }
}

impl fmt::Debug for KadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

const fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

impl Protocol {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Session => "/ssb/shs-muxrpc/1",
            Self::Carrier => "/ssb/carrier/1",
            Self::Alive => "/ssb/alive/1",
            Self::LanWho => "/ssb/lan-who/1",
            Self::Upgrade => "/libp2p/dcutr",
            Self::AutonatRequest => "/libp2p/autonat/2/dial-request",
            Self::AutonatBack => "/libp2p/autonat/2/dial-back",
            Self::Kad(name) => name.as_str(),
            Self::Peers => "/ssb/peers/1",
        }
    }
}

impl AsRef<str> for Protocol {
    fn as_ref(&self) -> &str {
        self.name()
    }
}

/// One request to open a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OpenId(u64);

/// Why a stream did not open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the connection is closed")]
    Closed,
    #[error("too many streams are being opened")]
    Busy,
    #[error("the peer does not speak the protocol")]
    Unsupported,
    #[error("no answer in time")]
    Timeout,
    #[error(transparent)]
    Io(io::Error),
}

/// What happened.
pub(crate) enum Event {
    Opened { id: OpenId, connection: ConnectionId, stream: Stream },
    OpenFailed { id: OpenId, connection: ConnectionId, error: OpenError },
    Inbound { connection: ConnectionId, protocol: Protocol, stream: Stream, slot: Slot },
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, connection) = match self {
            Self::Opened { connection, .. } => ("Opened", connection),
            Self::OpenFailed { connection, .. } => ("OpenFailed", connection),
            Self::Inbound { connection, .. } => ("Inbound", connection),
        };
        write!(f, "{what}({connection})")
    }
}

/// The behaviour.
#[derive(Debug, Default)]
pub(crate) struct Behaviour {
    /// Where the peers are whom `/ssb/lan-who/1` is offered.
    neighbourhood: Interfaces,
    /// Whether it is offered at all.
    announces: bool,
    /// Whether [`Protocol::Carrier`] is.
    carries: bool,
    /// What is offered at times only.
    offers: Arc<Offers>,
    /// What the DHT is called, if we take part in it.
    kad: Option<KadName>,
    connections: BTreeMap<ConnectionId, Established>,
    queue: VecDeque<ToSwarm<Event, Request>>,
    last_id: u64,
}

/// What is offered at times only; connections that stand follow when they are next polled.
#[derive(Debug, Default)]
pub(super) struct Offers {
    /// [`Protocol::AutonatRequest`].
    dials_back: AtomicBool,
    /// [`Protocol::Kad`].
    serves_dht: AtomicBool,
}

impl Offers {
    /// Whether this is to be offered now.
    fn include(&self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::AutonatRequest => self.dials_back.load(Ordering::Relaxed),
            Protocol::Kad(_) => self.serves_dht.load(Ordering::Relaxed),
            Protocol::Alive => false,
            Protocol::Session
            | Protocol::Carrier
            | Protocol::LanWho
            | Protocol::Upgrade
            | Protocol::AutonatBack
            | Protocol::Peers => true,
        }
    }
}

#[derive(Debug)]
struct Established {
    peer: PeerId,
    opening: BTreeSet<OpenId>,
}

impl Behaviour {
    /// With `announces`, neighbours are offered `/ssb/lan-who/1`, with `carries`, everybody the carrier.
    pub(crate) fn new(announces: bool, carries: bool, kad: Option<KadName>) -> Self {
        Self { announces, carries, kad, ..Self::default() }
    }

    /// Sets who is near enough to be told which feed we are; holds for connections from now on.
    pub(crate) fn set_neighbourhood(&mut self, neighbourhood: Interfaces) {
        self.neighbourhood = neighbourhood;
    }

    /// What was set last.
    pub(crate) fn neighbourhood(&self) -> &Interfaces {
        &self.neighbourhood
    }

    /// Sets whether we dial others back, on all direct connections.
    pub(crate) fn set_dialling_back(&self, dials_back: bool) {
        self.offers.dials_back.store(dials_back, Ordering::Relaxed);
    }

    /// Sets whether we answer for the DHT, on all direct connections.
    pub(crate) fn set_serving_dht(&self, serves: bool) {
        self.offers.serves_dht.store(serves, Ordering::Relaxed);
    }

    /// What the DHT is called, if we take part in it.
    pub(crate) const fn kad(&self) -> Option<KadName> {
        self.kad
    }

    /// Whether the peer at this address may be told.
    pub(crate) fn is_neighbour(&self, remote: &Multiaddr) -> bool {
        !link::is_relayed(remote) && link::ip(remote).is_some_and(|ip| self.neighbourhood.on_link(ip))
    }

    /// Opens a stream on a connection.
    pub(crate) fn open(&mut self, connection: ConnectionId, protocol: Protocol) -> Result<OpenId, OpenError> {
        let established = self.connections.get_mut(&connection).ok_or(OpenError::Closed)?;
        if established.opening.len() >= MAX_OPENING_PER_CONNECTION {
            return Err(OpenError::Busy);
        }
        self.last_id += 1;
        let id = OpenId(self.last_id);
        established.opening.insert(id);
        self.queue.push_back(ToSwarm::NotifyHandler {
            peer_id: established.peer,
            handler: NotifyHandler::One(connection),
            event: Request { id, protocol },
        });
        Ok(id)
    }

    fn handler(&self, local: Option<&Multiaddr>, remote: &Multiaddr) -> Handler {
        let mut offered = vec![Protocol::Session];
        if self.carries {
            offered.push(Protocol::Carrier);
        }
        if link::is_relayed(local.unwrap_or(remote)) {
            offered.push(Protocol::Upgrade);
        } else {
            offered.extend([Protocol::AutonatBack, Protocol::AutonatRequest]);
            offered.extend(self.kad.into_iter().flat_map(|name| [Protocol::Kad(name), Protocol::Peers]));
            if self.announces && self.is_neighbour(remote) {
                offered.push(Protocol::LanWho);
            }
        }
        Handler::new(offered, Arc::clone(&self.offers))
    }

    fn closed(&mut self, closed: &ConnectionClosed<'_>) {
        let connection = closed.connection_id;
        let Some(established) = self.connections.remove(&connection) else { return };
        let failed = established.opening.into_iter().map(|id| Event::OpenFailed {
            id,
            connection,
            error: OpenError::Closed,
        });
        self.queue.extend(failed.map(ToSwarm::GenerateEvent));
    }

    /// Whether this answer is the first one.
    fn settle(&mut self, connection: ConnectionId, id: OpenId) -> bool {
        self.connections.get_mut(&connection).is_some_and(|established| established.opening.remove(&id))
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        // The address of a peer that comes over a relay is only its id.
        Ok(self.handler(Some(local), remote))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(None, remote))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionEstablished(new) = event {
            let established = Established { peer: new.peer_id, opening: BTreeSet::new() };
            self.connections.insert(new.connection_id, established);
        } else if let FromSwarm::ConnectionClosed(closed) = event {
            self.closed(&closed);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        let event = match event {
            ToBehaviour::Opened { id, stream } if self.settle(connection, id) => {
                Event::Opened { id, connection, stream }
            }
            ToBehaviour::Failed { id, error } if self.settle(connection, id) => {
                Event::OpenFailed { id, connection, error }
            }
            ToBehaviour::Inbound { protocol, stream, slot } => {
                Event::Inbound { connection, protocol, stream, slot }
            }
            ToBehaviour::Opened { .. } | ToBehaviour::Failed { .. } => return,
        };
        self.queue.push_back(ToSwarm::GenerateEvent(event));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        // Everything that fills the queue is called by the task that polls: no waker is needed.
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

#[cfg(test)]
#[expect(clippy::wildcard_enum_match_arm, reason = "a test looks for one event among many")]
pub(super) mod tests;
