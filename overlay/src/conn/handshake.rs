//! Moves the four messages of the secret handshake over a link, under one deadline.
//!
//! Who is called has all the work with a stranger before it knows who that is, so it does it for one after the other: however
//! many knock, they keep one core busy, and sessions have the others.

use std::fmt;
use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::cipher::Cipher;
use super::{Connection, Link, LinkInfo, Local, Refused};
use crate::keys::PublicKey;
use crate::shs::{ACCEPT_LEN, AUTH_LEN, Ephemeral, HELLO_LEN, Outcome, ShsError, client, server};

/// The one handshake whose arithmetic is done now, of all nodes in this process: they have the same cores.
static TURN: Semaphore = Semaphore::const_new(1);

/// Which message of the peer's a handshake was waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The first one of either side.
    Hello,
    /// The client's proof.
    Auth,
    /// The server's proof.
    Accept,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hello => "hello",
            Self::Auth => "auth message",
            Self::Accept => "accept message",
        })
    }
}

/// Why no session came of a link, by who is to blame: the peer, we, or the line between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The peer broke the handshake, or is on another network.
    #[error("the peer's handshake is wrong: {0}")]
    Peer(#[from] ShsError),
    /// Our gate refused the peer.
    #[error("refused: {0}")]
    Refused(#[from] Refused),
    /// The peer took too long.
    #[error("no {0} within the deadline")]
    Timeout(Stage),
    /// The peer closed the line. After our auth message it most likely refused us; after our hello it is
    /// most likely on another network.
    #[error("the peer hung up instead of sending its {0}")]
    Hangup(Stage),
    /// The line failed.
    #[error("the line failed before the peer's {stage}: {kind}")]
    Io {
        /// When.
        stage: Stage,
        /// How.
        kind: io::ErrorKind,
    },
}

impl HandshakeError {
    /// A name for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Peer(error) => error.label(),
            Self::Refused(refused) => refused.label(),
            Self::Timeout(_) => "timeout",
            Self::Hangup(Stage::Hello) => "hangup_hello",
            Self::Hangup(Stage::Auth) => "hangup_auth",
            Self::Hangup(Stage::Accept) => "hangup_accept",
            Self::Io { .. } => "io",
        }
    }
}

/// Handshakes as SHS client towards `expected`.
pub async fn connect<L: Link>(
    mut link: L,
    info: LinkInfo,
    local: &Local,
    expected: PublicKey,
) -> Result<Connection, HandshakeError> {
    let mut stage = Stage::Hello;
    let shaking = shake_as_client(&mut link, local, expected, &mut stage);
    let outcome = within(local.handshake_timeout, shaking).await.unwrap_or(Err(Failure::Late));
    if let (Some(mobile), Ok(outcome)) = (&info.mobile, &outcome) {
        mobile.arm(&outcome.accept_key);
    }
    finish(link, info, local, outcome.map_err(|failure| failure.at(stage)))
}

/// Handshakes as SHS server; the gate is asked between messages 3 and 4.
pub async fn accept<L: Link>(
    mut link: L,
    info: LinkInfo,
    local: &Local,
) -> Result<Connection, HandshakeError> {
    let mut stage = Stage::Hello;
    let shaking = shake_as_server(&mut link, &info, local, &mut stage);
    let outcome = within(local.handshake_timeout, shaking).await.unwrap_or(Err(Failure::Late));
    finish(link, info, local, outcome.map_err(|failure| failure.at(stage)))
}

/// A session without handshake (`unix:` sockets): the peer is ourselves.
pub fn noauth<L: Link>(link: L, info: LinkInfo, own: PublicKey) -> Connection {
    super::driver::start(Box::new(link), Cipher::plain(), info, (own, own))
}

fn finish<L: Link>(
    link: L,
    info: LinkInfo,
    local: &Local,
    outcome: Result<Outcome, HandshakeError>,
) -> Result<Connection, HandshakeError> {
    let Outcome { peer, send, receive, .. } = outcome?;
    let own = PublicKey::from_bytes(local.keypair.public.0);
    Ok(super::driver::start(Box::new(link), Cipher::boxed(send, receive), info, (own, peer)))
}

async fn within<F: Future>(deadline: Duration, future: F) -> Option<F::Output> {
    timeout(deadline, future).await.ok()
}

async fn shake_as_client<L: Link>(
    link: &mut L,
    local: &Local,
    expected: PublicKey,
    stage: &mut Stage,
) -> Result<Outcome, Failure> {
    let (hello, state) = client::start(&local.keypair, local.network, expected, Ephemeral::generate());
    send(link, &hello).await?;
    let (auth, state) = state.receive(&receive::<_, HELLO_LEN>(link).await?)?;
    *stage = Stage::Accept;
    send(link, &auth).await?;
    Ok(state.receive(&receive::<_, ACCEPT_LEN>(link).await?)?)
}

async fn shake_as_server<L: Link>(
    link: &mut L,
    info: &LinkInfo,
    local: &Local,
    stage: &mut Stage,
) -> Result<Outcome, Failure> {
    // The ephemeral key is made when it is needed: a line that says nothing costs nothing.
    let hello = receive::<_, HELLO_LEN>(link).await?;
    let answer = || server::start(&local.keypair, local.network, Ephemeral::generate()).receive(&hello);
    let (hello, state) = in_turn(answer).await?;
    *stage = Stage::Auth;
    send(link, &hello).await?;
    let auth = receive::<_, AUTH_LEN>(link).await?;
    let prove = || -> Result<_, Failure> {
        let proven = state.receive(&auth)?;
        local.gate.admit(proven.peer(), info)?;
        Ok(proven.accept())
    };
    let (accept, outcome) = in_turn(prove).await?;
    if let Some(mobile) = &info.mobile {
        // Before the client is: whatever it does next finds us ready.
        mobile.arm(&outcome.accept_key);
    }
    send(link, &accept).await?;
    Ok(outcome)
}

/// Does what takes long when nobody else does.
async fn in_turn<R>(work: impl FnOnce() -> R) -> R {
    // Nobody closes it.
    let _turn = TURN.acquire().await;
    work()
}

async fn send<L: Link>(link: &mut L, message: &[u8]) -> io::Result<()> {
    link.write_all(message).await?;
    link.flush().await
}

/// Reads a message and not a byte more.
async fn receive<L: Link, const LEN: usize>(link: &mut L) -> io::Result<[u8; LEN]> {
    let mut message = [0; LEN];
    link.read_exact(&mut message).await?;
    Ok(message)
}

/// A failure whose stage is not known yet.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Peer(#[from] ShsError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("late")]
    Late,
}

impl Failure {
    fn at(self, stage: Stage) -> HandshakeError {
        match self {
            Self::Peer(error) => error.into(),
            Self::Refused(refused) => refused.into(),
            Self::Late => HandshakeError::Timeout(stage),
            Self::Io(error) if is_hangup(error.kind()) => HandshakeError::Hangup(stage),
            Self::Io(error) => HandshakeError::Io { stage, kind: error.kind() },
        }
    }
}

/// Whether the peer closed the line, whether or not it had read all that we sent.
pub(super) fn is_hangup(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, UnexpectedEof | ConnectionReset | BrokenPipe | ConnectionAborted)
}
