//! The shell that drives SHS, box stream and muxrpc over one byte stream.
//!
//! A transport brings a [`Link`] and gets a [`Connection`] from [`connect`], [`accept`] or [`noauth`]:
//!
//! - the [`Session`] to call with, a cheap handle;
//! - the peer's [`Calls`];
//! - the [`Driver`], which must be run for anything to happen, and which says in the end how it was:
//!   [`Closed`].
//!
//! What always holds:
//!
//! - no byte of muxrpc is read or written before the handshake has proven the peer, and the [`Gate`] has
//!   been asked before the peer learns that it reached us;
//! - back-pressure goes both ways: who sends waits while its stream's queue is full, and a stream that
//!   nobody receives from stops the reading of the whole line (muxrpc knows no other way). So whoever
//!   receives must never wait for a send on the same session meanwhile: use two tasks, or
//!   [`StreamTx::try_send`];
//! - handles may be dropped at any time: a dropped answer becomes an error, a dropped stream half its
//!   end, and when all handles of a session are gone it closes with a goodbye;
//! - a goodbye, an error of the line, silence and a dropped driver all end in the same way for the
//!   handles: whatever is open fails with [`CallError::SessionEnded`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ssb_crypto::Keypair;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::{Span, error_span};

pub use crate::carrier::link::{Mobile, MobileId};
use crate::keys::{NetworkKey, PublicKey};
use crate::muxrpc::Call;
pub use crate::muxrpc::session::Limits;
pub use crate::muxrpc::{CallError, StreamClosed};

mod cipher;
mod driver;
mod handles;
mod handshake;
mod shared;
#[cfg(test)]
pub(crate) mod tests;

pub use driver::Driver;
pub use handles::{Calls, ReplyOnce, Session, Stream, StreamRx, StreamTx, TrySendError};
pub use handshake::{HandshakeError, Stage, accept, connect, noauth};
pub use shared::Traffic;

/// How long a session may be silent in both directions, unless the peer is ourselves.
pub const DEFAULT_INACTIVITY: Duration = Duration::from_secs(600);
/// How long a closing session waits for its last bytes to go and for the peer's goodbye.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many seconds' worth of bytes a peer may send at once whose pace is limited; see [`Session::set_pace`].
pub const PACE_BURST: u32 = 4;

/// Any byte stream a session can run on.
pub trait Link: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Link for T {}

/// Who opened the connection, hence who is SHS client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// We dialled.
    Outbound,
    /// We were dialled.
    Inbound,
}

/// What carries a session: a bounded label for metrics, and what the scheduler ranks by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Carrier {
    /// Classic `net:` TCP.
    Net,
    /// `unix:` socket, no handshake.
    Unix,
    /// WebSocket.
    Ws,
    /// libp2p QUIC.
    Quic,
    /// libp2p TCP with Noise and Yamux.
    Tcp,
    /// A circuit through a libp2p relay, which sees only ciphertext.
    Relay,
}

impl Direction {
    /// A name for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Outbound => "out",
            Self::Inbound => "in",
        }
    }
}

impl Carrier {
    /// A name for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Unix => "unix",
            Self::Ws => "ws",
            Self::Quic => "quic",
            Self::Tcp => "tcp",
            Self::Relay => "relay",
        }
    }
}

/// What is known of a link before and after its handshake.
#[derive(Clone, Debug)]
pub struct LinkInfo {
    /// Who dialled.
    pub direction: Direction,
    /// What carries it.
    pub carrier: Carrier,
    /// The remote end as text, e.g. `net:192.0.2.1:8008` or a multiaddr.
    pub remote: String,
    /// The libp2p connection under it, if it is one.
    pub path: Option<Path>,
    /// How it moves to other paths, if it can. What stands beside is the path that it begins with.
    pub mobile: Option<Mobile>,
}

impl LinkInfo {
    /// The span in which everything is logged that is done for the connection; `peer` once SHS has proven it. At the highest
    /// level, so that every line that is logged is in it.
    pub fn span(&self, peer: Option<PublicKey>) -> Span {
        let (transport, direction) = (self.carrier.label(), self.direction.label());
        match peer {
            // It follows the span of its handshake, and is not within that.
            Some(peer) => error_span!(parent: None, "connection", peer = peer.short(), transport, direction),
            None => error_span!("connection", transport, direction),
        }
    }
}

/// The libp2p connection that carries a link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// Which connection.
    pub id: PathId,
    /// The peer at its other end, as libp2p knows it.
    pub peer: TransportId,
}

/// Names one libp2p connection while the node runs; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub(crate) u64);

/// A peer's transport identity, a libp2p peer id in base58. It says nothing of the feed, and a peer may
/// change it at will.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransportId(pub(crate) String);

/// Longest text that is taken for a transport identity.
const MAX_TRANSPORT_ID: usize = 64;

impl TransportId {
    /// Reads what [`Display`](fmt::Display) wrote in an earlier run. Only the form is checked: a wrong one
    /// is nobody's.
    pub fn parse(text: &str) -> Option<Self> {
        let plausible = !text.is_empty()
            && text.len() <= MAX_TRANSPORT_ID
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        plausible.then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for TransportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Decides, between SHS messages 3 and 4 and before any dial, whether a peer gets a session.
pub trait Gate: Send + Sync + 'static {
    /// Refuses by returning the reason (for our own records: the peer only sees the line close).
    fn admit(&self, peer: PublicKey, link: &LinkInfo) -> Result<(), Refused>;
}

/// The gate said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// We block this key.
    #[error("blocked")]
    Blocked,
    /// It is none of those who may connect.
    #[error("none of those who may connect")]
    Policy,
    /// No room for another session from its address.
    #[error("too many sessions from its address")]
    Crowded,
    /// No room for another session.
    #[error("too many sessions")]
    Full,
}

impl Refused {
    /// A name for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Policy => "policy",
            Self::Crowded => "crowded",
            Self::Full => "full",
        }
    }
}

/// What every handshake needs.
#[derive(Clone)]
pub struct Local {
    /// Our long-term keys.
    pub keypair: Arc<Keypair>,
    /// The network.
    pub network: NetworkKey,
    /// Decides who gets in.
    pub gate: Arc<dyn Gate>,
    /// The handshake's deadline.
    pub handshake_timeout: Duration,
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("network", &self.network).finish_non_exhaustive()
    }
}

/// What a session allows itself and its peer; see [`Driver::configure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// What the peer may fill.
    pub limits: Limits,
    /// How long both directions may be silent; `None` for ever. Sessions with our own key never time out.
    pub inactivity: Option<Duration>,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self { limits: Limits::default(), inactivity: Some(DEFAULT_INACTIVITY) }
    }
}

/// A session and what comes out of it.
#[derive(Debug)]
pub struct Connection {
    /// The handle to call with.
    pub session: Session,
    /// The peer's calls; dropping it refuses them.
    pub calls: Calls,
    /// Must be run for anything to happen.
    pub driver: Driver,
}

/// A call by the peer.
#[derive(Debug)]
pub struct IncomingCall {
    /// What is asked.
    pub call: Call,
    /// Where the answer goes.
    pub reply: Reply,
}

/// Where the answer to a call goes.
#[derive(Debug)]
pub enum Reply {
    /// To an async or sync call.
    Once(ReplyOnce),
    /// To a source, sink or duplex call.
    Stream(Stream),
}

impl Reply {
    /// Answers with an error, whatever the kind of the call.
    pub async fn err(self, error: crate::muxrpc::RemoteError) {
        match self {
            Self::Once(reply) => reply.err(error).await,
            Self::Stream(stream) => stream.tx.end(Some(error)).await,
        }
    }
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The peer said goodbye.
    Goodbye,
    /// We closed it.
    Local,
    /// The driver was dropped before the session was over.
    Aborted,
    /// Nothing moved for too long.
    Inactive,
    /// The line ended without a goodbye.
    Hangup,
    /// The line failed.
    Io(std::io::ErrorKind),
    /// The box stream does not open: the line is tampered with, or the peer is broken.
    BadBox(crate::boxstream::BoxError),
    /// What the peer sends are no packets, or too long ones.
    BadFrame(crate::muxrpc::codec::DecodeError),
}

impl Closed {
    /// A name for metrics.
    pub const fn label(self) -> &'static str {
        use crate::muxrpc::codec::DecodeError;
        match self {
            Self::Goodbye => "goodbye",
            Self::Local => "local",
            Self::Aborted => "aborted",
            Self::Inactive => "inactive",
            Self::Hangup => "hangup",
            Self::Io(_) => "io",
            Self::BadBox(_) => "bad_box",
            Self::BadFrame(DecodeError::Oversize { .. }) => "oversize",
            Self::BadFrame(DecodeError::UnknownKind) => "bad_frame",
        }
    }

    /// Whether the peer, or whoever holds its line, broke the protocol.
    pub const fn blames_peer(self) -> bool {
        matches!(self, Self::BadBox(_) | Self::BadFrame(_))
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Goodbye => f.write_str("the peer said goodbye"),
            Self::Local => f.write_str("closed by us"),
            Self::Aborted => f.write_str("aborted"),
            Self::Inactive => f.write_str("inactive for too long"),
            Self::Hangup => f.write_str(crate::muxrpc::call::UNEXPECTED_HANGUP),
            Self::Io(kind) => write!(f, "the line failed: {kind}"),
            Self::BadBox(error) => write!(f, "bad box: {error}"),
            Self::BadFrame(error) => write!(f, "bad packet: {error}"),
        }
    }
}
