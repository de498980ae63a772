//! Dialling: from an address to a session with the peer that we expect there.

use std::sync::Arc;
use std::time::Duration;

use tracing::{Instrument as _, debug};

use super::{Counted, OK, Overlay};
use crate::address::Endpoint;
use crate::conn::{
    self, Carrier, Connection, Direction, HandshakeError, Link, LinkInfo, Local, Refused, Stage,
};
use crate::keys::PublicKey;
use crate::net::{self, NetDialError};
use crate::swarm::{self, Opened, SessionStream, SwarmDialError};

/// A dial over the swarm as a whole, the handshake excluded.
const SWARM_DIAL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection that stood already is given to show that it is alive.
const REUSE_TIMEOUT: Duration = Duration::from_secs(4);

/// Why no session came of a dial.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Our own gate refuses this peer.
    #[error("refused: {0}")]
    Refused(#[from] Refused),
    /// We have no dialer for this address.
    #[error("cannot dial {0}")]
    Unsupported(Endpoint),
    /// Classic TCP failed.
    #[error(transparent)]
    Net(#[from] NetDialError),
    /// The swarm failed.
    #[error(transparent)]
    Swarm(#[from] SwarmDialError),
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// There was a link, but the peer did not prove to be who we expected.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

impl DialError {
    /// A bounded label for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Unsupported(_) => "unsupported_address",
            Self::Net(NetDialError::Resolve { .. }) => "resolve",
            Self::Net(NetDialError::Connect(_)) => "connect",
            Self::Net(NetDialError::Timeout) | Self::Timeout => "timeout",
            Self::Swarm(error) => error.label(),
            Self::Handshake(error) => error.label(),
        }
    }
}

impl Overlay {
    /// Dials a peer and has it prove that it is the one we expect. Our gate is asked first.
    pub async fn dial(&self, peer: PublicKey, endpoint: &Endpoint) -> Result<Connection, DialError> {
        let Some(carrier) = carrier(endpoint) else {
            return Err(DialError::Unsupported(endpoint.clone()));
        };
        let info = LinkInfo {
            direction: Direction::Outbound,
            carrier,
            remote: endpoint.to_string(),
            path: None,
            mobile: None,
        };
        let span = info.span(Some(peer));
        let result = self.try_dial(peer, endpoint, info).instrument(span).await;
        self.counters.dial(carrier, result.as_ref().map_or_else(DialError::label, |_| OK));
        result
    }

    async fn try_dial(
        &self,
        peer: PublicKey,
        endpoint: &Endpoint,
        info: LinkInfo,
    ) -> Result<Connection, DialError> {
        self.local.gate.admit(peer, &info)?;
        match endpoint {
            Endpoint::Net { host, port } => {
                let link = net::dial(host, *port).await?;
                let link = Counted::new(link, info.carrier, Arc::clone(&self.counters));
                self.shake_hands(link, info, peer, self.local.handshake_timeout).await
            }
            Endpoint::Libp2p(at) => {
                let swarm = self.listening.swarm.as_ref();
                let swarm = swarm.ok_or_else(|| DialError::Unsupported(endpoint.clone()))?;
                self.dial_swarm(peer, swarm, at, info).await
            }
            Endpoint::Unix(_) | Endpoint::Other(_) => Err(DialError::Unsupported(endpoint.clone())),
        }
    }

    /// A connection that stood already may be dead without our knowing. Then nobody answers soon, and a
    /// new one is made.
    async fn dial_swarm(
        &self,
        peer: PublicKey,
        swarm: &swarm::Handle,
        at: &str,
        info: LinkInfo,
    ) -> Result<Connection, DialError> {
        let whole = self.local.handshake_timeout;
        let (mut patience, mut plain) = (whole.min(REUSE_TIMEOUT), false);
        loop {
            let opened = tokio::time::timeout(SWARM_DIAL_TIMEOUT, swarm.open(at, plain)).await;
            let opened = opened.map_err(|_| DialError::Timeout)??;
            let (id, reused) = (opened.path.id, opened.reused && !patience.is_zero());
            let (result, lacks_carrier) =
                self.shake_over_swarm(opened, &info, peer, if reused { patience } else { whole }).await;
            match result {
                Err(DialError::Handshake(_)) if lacks_carrier && !plain => {
                    debug!(at, "the peer does not know the carrier");
                    plain = true;
                }
                Err(DialError::Handshake(error)) if reused && is_silence(error) => {
                    debug!(at, %error, "a connection that stood is dead");
                    swarm.give_up(id);
                    patience = Duration::ZERO;
                }
                result => return result,
            }
        }
    }

    /// The session, and whether the peer has said that it does not know the carrier. What that moves is counted
    /// below it.
    async fn shake_over_swarm(
        &self,
        opened: Opened,
        info: &LinkInfo,
        peer: PublicKey,
        handshake_timeout: Duration,
    ) -> (Result<Connection, DialError>, bool) {
        let Opened { stream, carrier, remote, path, .. } = opened;
        let info = LinkInfo { carrier, remote, path: Some(path), ..info.clone() };
        match stream {
            SessionStream::Plain(stream) => {
                let link = Counted::new(stream, carrier, Arc::clone(&self.counters));
                (self.shake_hands(link, info, peer, handshake_timeout).await, false)
            }
            SessionStream::Carried(link, mobile) => {
                let info = LinkInfo { mobile: Some(mobile.clone()), ..info };
                let result = self.shake_hands(link, info, peer, handshake_timeout).await;
                (result, mobile.is_unsupported())
            }
        }
    }

    async fn shake_hands<L: Link>(
        &self,
        link: L,
        info: LinkInfo,
        peer: PublicKey,
        handshake_timeout: Duration,
    ) -> Result<Connection, DialError> {
        let local = Local { handshake_timeout, ..self.local.clone() };
        Ok(conn::connect(link, info, &local, peer).await?)
    }
}

/// What a dial to this endpoint will be carried by; `None` if we have no dialer for it. Sockets of this
/// machine are for clients, which have [`crate::unix::dial`].
fn carrier(endpoint: &Endpoint) -> Option<Carrier> {
    match endpoint {
        Endpoint::Net { .. } => Some(Carrier::Net),
        Endpoint::Libp2p(at) if at.contains("/p2p-circuit") => Some(Carrier::Relay),
        Endpoint::Libp2p(at) if at.contains("/quic-v1") => Some(Carrier::Quic),
        Endpoint::Libp2p(_) => Some(Carrier::Tcp),
        Endpoint::Unix(_) | Endpoint::Other(_) => None,
    }
}

/// Whether nothing came from the other end, which a dead line explains as well as anything.
fn is_silence(error: HandshakeError) -> bool {
    match error {
        HandshakeError::Timeout(stage) | HandshakeError::Hangup(stage) => stage == Stage::Hello,
        HandshakeError::Io { .. } => true,
        HandshakeError::Peer(_) | HandshakeError::Refused(_) => false,
    }
}
