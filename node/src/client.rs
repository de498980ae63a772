//! A client of a node's API: what `ssb-client` is for JavaScript, for Rust.
//!
//! A [`Client`] is a session with a node: the one in this process ([`Node::client`](crate::Node::client)), the one that
//! runs on a data folder of this machine ([`Client::local`]), or one anywhere, under its multiserver address
//! ([`Client::connect`]). Common methods are typed; [`Client::call`] and [`Client::source`] reach all the others, and
//! those of nodes that are not Hawsepipe.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use hawsepipe::client::{Client, StreamOptions};
//!
//! let client = Client::local("/home/you/.ssb").await?;
//! let newest = StreamOptions { reverse: true, limit: Some(10), ..StreamOptions::default() };
//! let mut posts = client.by_type("post", &newest).await?;
//! while let Some(post) = posts.next().await {
//!     println!("{}", post?.content["text"]);
//! }
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! What always holds: a stream that nobody reads from holds up its session, so whoever keeps one open beside other
//! calls reads it in a task of its own, or opens a second client. Dropping a stream ends it at the node, too.

mod blobs;
mod caller;
mod message;
mod methods;
mod options;
mod sink;
mod source;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hawsepipe_overlay::address::{Address, Addresses, Endpoint, ParseAddressError};
use hawsepipe_overlay::conn::{
    self, Carrier, Connection, Direction, HandshakeError, LinkInfo, Session, Stream,
};
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::muxrpc::{Body, CallError, CallKind, RemoteError};
use hawsepipe_overlay::unix::{self, UnixDialError};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::datadir::DataDir;

pub use blobs::AddBlobError;
pub use caller::Caller;
pub use message::{Link, Message, Peer};
pub use options::{HistoryOptions, LinksOptions, QueryOptions, StreamOptions};
pub use sink::Sink;
pub use source::Source;

/// How long a node may take to accept, its name's resolution included.
const DIAL: Duration = Duration::from_secs(15);
/// How long a node may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// A session with a node. Cheap to clone; the session ends when the last clone is gone, or at [`Client::close`].
#[derive(Clone, Debug)]
pub struct Client {
    session: Session,
    /// What moves the session's bytes; guarded only to wait for its end.
    driver: Arc<Mutex<JoinSet<()>>>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not an address at all.
    #[error("not an address: {address}: {why}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        why: ParseAddressError,
    },
    /// None of its alternatives is one that a client dials.
    #[error("no way to dial {0}: expected unix:/… or net:…~shs:KEY")]
    NoWay(String),
    /// The socket, usually because no node is running.
    #[error(transparent)]
    Unix(#[from] UnixDialError),
    /// The network.
    #[error("cannot connect to {address}: {error}")]
    Net {
        /// Where.
        address: String,
        /// The system's reason.
        error: std::io::Error,
    },
    /// Whoever listens there is not whom the address names, or does not take us.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

/// Why a call came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The node said no.
    #[error("{0}")]
    Refused(RemoteError),
    /// The session ended first.
    #[error("the connection to the node ended")]
    Ended,
    /// The node answered something else than the method gives.
    #[error("{method}: the node's answer cannot be understood: {why}")]
    Unreadable {
        /// Which method.
        method: String,
        /// What is wrong with the answer.
        why: String,
    },
}

impl From<CallError> for ClientError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Remote(error) => Self::Refused(error),
            CallError::SessionEnded => Self::Ended,
        }
    }
}

impl ClientError {
    /// Whether the node has no such method, or not for us.
    pub fn is_missing_method(&self) -> bool {
        matches!(self, Self::Refused(error) if error.is_missing_method())
    }

    fn unreadable(method: &str, why: impl ToString) -> Self {
        Self::Unreadable { method: method.to_owned(), why: why.to_string() }
    }
}

impl Client {
    /// Connects to the node that runs on the data folder `dir`, through its socket.
    pub async fn local(dir: impl AsRef<Path>) -> Result<Self, ConnectError> {
        Self::socket(&DataDir::at(dir.as_ref()).socket()).await
    }

    /// Connects to the first of the alternatives of a multiserver address (`unix:…` or `net:…~shs:KEY`, joined by `;`)
    /// that takes us; over a socket file, who is `caller` does not matter.
    pub async fn connect(address: &str, caller: &Caller) -> Result<Self, ConnectError> {
        let parsed: Result<Addresses, _> = address.parse();
        let addresses = parsed.map_err(|why| ConnectError::Address { address: address.to_owned(), why })?;
        let mut failed = ConnectError::NoWay(address.to_owned());
        for Address { endpoint, key } in addresses.0 {
            let connected = match (endpoint, key) {
                (Endpoint::Unix(path), _) => Self::socket(&path).await,
                (Endpoint::Net { host, port }, Some(key)) => {
                    Self::shake_hands(&host, port, key, caller).await
                }
                (Endpoint::Net { .. } | Endpoint::Libp2p(_) | Endpoint::Other(_), _) => continue,
            };
            match connected {
                Ok(client) => return Ok(client),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn socket(path: &Path) -> Result<Self, ConnectError> {
        // Whoever can open the socket is its owner; the key on our side of it does not matter.
        Ok(Self::over(unix::dial(path, PublicKey::from_bytes([0; 32])).await?))
    }

    async fn shake_hands(
        host: &str,
        port: u16,
        server: PublicKey,
        caller: &Caller,
    ) -> Result<Self, ConnectError> {
        crate::init_crypto();
        let remote = format!("net:{host}:{port}");
        let failed = |error| ConnectError::Net { address: remote.clone(), error };
        let dialled = timeout(DIAL, TcpStream::connect((host, port))).await;
        let stream = dialled.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(failed)?;
        // Small packets must not wait for answers to those before them.
        stream.set_nodelay(true).map_err(failed)?;
        let info = LinkInfo {
            direction: Direction::Outbound,
            carrier: Carrier::Net,
            remote,
            path: None,
            mobile: None,
        };
        Ok(Self::over(conn::connect(stream, info, &caller.local(), server).await?))
    }

    /// A client on a connection that stands; what the node calls on it is refused.
    pub(crate) fn over(connection: Connection) -> Self {
        let Connection { session, driver, calls } = connection;
        drop(calls);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            driver.run().await;
        });
        Self { session, driver: Arc::new(Mutex::new(tasks)) }
    }

    /// Calls an async or sync method, of any name, with any arguments.
    pub async fn call<T: DeserializeOwned>(&self, method: &str, args: Vec<Value>) -> Result<T, ClientError> {
        let body = self.call_raw(method, args).await?;
        body.decode().map_err(|why| ClientError::unreadable(method, why))
    }

    /// Calls a source, of any name, with any arguments.
    pub async fn source<T: DeserializeOwned + Send + 'static>(
        &self,
        method: &str,
        args: Vec<Value>,
    ) -> Result<Source<T>, ClientError> {
        Ok(Source::new(method, self.open(CallKind::Source, method, args).await?))
    }

    /// Calls an async or sync method and gives the answer as it came.
    pub async fn call_raw(&self, method: &str, args: Vec<Value>) -> Result<Body, ClientError> {
        Ok(self.session.call(&path(method), args).await?)
    }

    /// Calls a sink, which takes items as they are given.
    pub async fn sink_raw(&self, method: &str, args: Vec<Value>) -> Result<Sink, ClientError> {
        Ok(Sink::new(self.open(CallKind::Sink, method, args).await?))
    }

    /// Calls a source and gives its items as they come.
    pub async fn source_raw(&self, method: &str, args: Vec<Value>) -> Result<Source<Body>, ClientError> {
        Ok(Source::reading(self.open(CallKind::Source, method, args).await?, Ok))
    }

    /// Opens a stream of any kind and gives both its halves as they are.
    pub async fn open(&self, kind: CallKind, method: &str, args: Vec<Value>) -> Result<Stream, ClientError> {
        Ok(self.session.open(kind, &path(method), args).await?)
    }

    /// Says goodbye, on all clones.
    pub async fn close(self) {
        self.session.close();
        let mut driver = std::mem::take(&mut *self.driver.lock().unwrap_or_else(PoisonError::into_inner));
        // If the node does not answer, leaving is goodbye enough.
        let _ = timeout(GOODBYE, driver.join_next()).await;
    }
}

/// The parts of a method's name.
fn path(method: &str) -> Vec<&str> {
    method.split('.').collect()
}
