//! The shell that drives SHS, box stream and muxrpc over one byte stream.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use ssb_crypto::Keypair;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::keys::{NetworkKey, PublicKey};
use crate::muxrpc::{Body, Call, CallKind, RemoteError};

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
    /// libp2p QUIC.
    Quic,
    /// libp2p TCP with Noise and Yamux.
    Tcp,
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
    /// No room for another session.
    #[error("too many sessions")]
    Full,
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

/// An authenticated muxrpc session: a cheap handle; the connection lives in its [`Driver`].
#[derive(Clone, Debug)]
pub struct Session {}

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

/// The peer's calls, in order.
#[derive(Debug)]
pub struct Calls {}

/// Drives one connection; whoever holds it spawns it into a `JoinSet`.
#[derive(Debug)]
pub struct Driver {}

/// Handshakes as SHS client towards `expected`.
pub async fn connect<L: Link>(
    _link: L,
    _info: LinkInfo,
    _local: &Local,
    _expected: PublicKey,
) -> Result<Connection, HandshakeError> {
    todo!()
}

/// Handshakes as SHS server; the gate is asked between messages 3 and 4.
pub async fn accept<L: Link>(
    _link: L,
    _info: LinkInfo,
    _local: &Local,
) -> Result<Connection, HandshakeError> {
    todo!()
}

/// A session without handshake (`unix:` sockets): the peer is ourselves.
pub fn noauth<L: Link>(_link: L, _info: LinkInfo, _own: PublicKey) -> Connection {
    todo!()
}

/// Why no session came of a link.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Our gate refused the peer.
    #[error("refused: {0}")]
    Refused(#[from] Refused),
}

impl Session {
    /// Who is at the other end, proven by SHS (our own key on a `unix:` socket).
    pub fn peer(&self) -> PublicKey {
        todo!()
    }
    /// The link it runs on.
    pub fn info(&self) -> &LinkInfo {
        todo!()
    }
    /// Calls an async or sync method.
    pub async fn call(&self, _name: &[&str], _args: Vec<Value>) -> Result<Body, CallError> {
        todo!()
    }
    /// Opens a source, sink or duplex call.
    pub async fn open(
        &self,
        _kind: CallKind,
        _name: &[&str],
        _args: Vec<Value>,
    ) -> Result<Stream, CallError> {
        todo!()
    }
    /// Says goodbye and closes.
    pub fn close(&self) {
        todo!()
    }
    /// Resolves when the session is over.
    pub async fn closed(&self) -> Closed {
        todo!()
    }
}

impl Calls {
    /// The next call; `None` when the session is over.
    pub async fn next(&mut self) -> Option<IncomingCall> {
        todo!()
    }
}

impl Driver {
    /// Runs the connection to its end.
    pub async fn run(self) -> Closed {
        todo!()
    }
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Both said goodbye.
    Goodbye,
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

/// The one answer to an async call; dropping it answers with an error.
#[derive(Debug)]
pub struct ReplyOnce {}

impl ReplyOnce {
    /// Answers. Waits while the peer does not read.
    pub async fn ok(self, _body: Body) {
        todo!()
    }
    /// Answers with an error.
    pub async fn err(self, _error: RemoteError) {
        todo!()
    }
}

/// Both halves of a stream call.
#[derive(Debug)]
pub struct Stream {
    /// Towards the peer.
    pub tx: StreamTx,
    /// From the peer.
    pub rx: StreamRx,
}

/// The half towards the peer; dropping it ends the stream normally.
#[derive(Debug)]
pub struct StreamTx {}

/// The half from the peer; dropping it aborts the peer's half.
#[derive(Debug)]
pub struct StreamRx {}

impl StreamTx {
    /// Sends one item; waits while the connection is full (back-pressure).
    pub async fn send(&mut self, _body: Body) -> Result<(), StreamClosed> {
        todo!()
    }
    /// Ends our half, with an error if one is given.
    pub async fn end(self, _error: Option<RemoteError>) {
        todo!()
    }
}

impl StreamRx {
    /// The next item; `None` at a normal end. While nobody calls this the socket is read no further than
    /// the stream's inbound queue holds.
    pub async fn recv(&mut self) -> Option<Result<Body, CallError>> {
        todo!()
    }
    /// An item that is already here.
    pub fn try_recv(&mut self) -> Option<Result<Body, CallError>> {
        todo!()
    }
}

/// The stream or its session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stream is closed")]
pub struct StreamClosed;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The peer answered with an error.
    #[error("{0}")]
    Remote(#[from] RemoteError),
    /// The session ended first.
    #[error("unexpected end of parent stream")]
    SessionEnded,
}
