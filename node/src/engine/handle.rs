//! The way to the engine: what can be said to it, and by whom.

use std::collections::BTreeSet;
use std::sync::Arc;

use hawsepipe_overlay::DialError;
use hawsepipe_overlay::address::{Address, Endpoint};
use hawsepipe_overlay::certificate::Certificate;
use hawsepipe_overlay::conn::{Connection, Stream};
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::muxrpc::RemoteError;
use hawsepipe_replication::ebt::{Notes, Peer, PeerStatus};
use hawsepipe_replication::history::HistoryPlan;
use hawsepipe_replication::message::{InvalidMessage, Unverified};
use hawsepipe_replication::refs::{BlobId, FeedId};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc, oneshot, watch};

use super::SessionId;
use super::blobs::{BlobMsg, Told};
use super::conn::{Ask, Watched};
use super::history::HistoryStream;
use super::serve::Ticket;
use crate::reachability::doctor::Facts;

/// What tasks and handlers say to the engine.
#[derive(Debug)]
pub enum Msg {
    /// A dial is done.
    Dialed {
        /// Whom.
        peer: PublicKey,
        /// Over what.
        endpoint: Endpoint,
        /// What came of it.
        result: Box<Result<Connection, DialError>>,
        /// Who asked for it by hand.
        reply: Option<oneshot::Sender<Result<(), RemoteError>>>,
    },
    /// The dial that moves a session to a direct path is done.
    MoveDialed {
        /// Whose session.
        peer: PublicKey,
        /// Over what.
        endpoint: Endpoint,
        /// What came of it.
        result: Box<Result<Connection, DialError>>,
    },
    /// The dial of a pub that is to be asked for its certificate is done.
    PubDialed {
        /// Whom.
        peer: PublicKey,
        /// Over what.
        endpoint: Endpoint,
        /// What came of it.
        result: Box<Result<Connection, DialError>>,
    },
    /// The pubs that the log announces.
    Pubs {
        /// Who and where.
        pubs: Vec<(PublicKey, Endpoint)>,
    },
    /// A peer was asked for its node certificate.
    Certificate {
        /// Whom.
        peer: PublicKey,
        /// The certificate, verified and the peer's own, or a label of why there is none.
        result: Box<Result<Certificate, &'static str>>,
    },
    /// A client in this process has connected.
    Attach(Box<Connection>),
    /// `conn.connect`.
    Connect {
        /// Where to.
        address: Address,
        /// Answered when the session stands.
        reply: oneshot::Sender<Result<(), RemoteError>>,
    },
    /// `conn.disconnect`.
    Disconnect {
        /// Whom.
        peer: PublicKey,
        /// Whether there was a session.
        reply: oneshot::Sender<bool>,
    },
    /// Something of the address book or the scheduler.
    Conn {
        /// What.
        ask: Ask,
        /// The answer.
        reply: oneshot::Sender<Result<Value, RemoteError>>,
    },
    /// `status` and `progress`.
    Status {
        /// The answer.
        reply: oneshot::Sender<Status>,
    },
    /// `ebt.request` and `ebt.forget`.
    Request {
        /// Which feed.
        feed: FeedId,
        /// What is to become of it.
        wish: Wish,
    },
    /// `ebt.block`.
    Block {
        /// Whose feed.
        from: FeedId,
        /// Which peer.
        to: Peer,
        /// Begin or end.
        on: bool,
    },
    /// `ebt.peerStatus`.
    PeerStatus {
        /// Of which feed.
        feed: FeedId,
        /// The answer.
        reply: oneshot::Sender<PeerStatus>,
    },
    /// The peer called `ebt.replicate`.
    Replicate {
        /// Over which session.
        session: SessionId,
        /// Its stream.
        stream: Stream,
    },
    /// It is time to call `ebt.replicate` again.
    CallEbt {
        /// Over which session.
        session: SessionId,
    },
    /// Items of an EBT stream.
    Ebt {
        /// From whom.
        peer: Peer,
        /// Of which stream; an older one's are dropped.
        stream: u64,
        /// In the order they came.
        items: Vec<EbtItem>,
        /// Their share of the ingest budget.
        permit: Option<OwnedSemaphorePermit>,
    },
    /// An EBT stream ended.
    EbtEnded {
        /// With whom.
        peer: Peer,
        /// Which stream.
        stream: u64,
        /// It ended with an error.
        failed: bool,
    },
    /// The peer called `createHistoryStream`.
    ServeHistory {
        /// Over which session.
        session: SessionId,
        /// What it asks for.
        plan: HistoryPlan,
        /// What serves the call; nothing if the session is over.
        reply: oneshot::Sender<Option<Ticket>>,
    },
    /// Messages of a history stream that we asked for.
    History {
        /// Of which call.
        stream: HistoryStream,
        /// In the order they came.
        messages: Vec<Result<Unverified, InvalidMessage>>,
        /// Their share of the ingest budget.
        permit: Option<OwnedSemaphorePermit>,
    },
    /// A history stream that we asked for ended.
    HistoryEnded {
        /// Which call.
        stream: HistoryStream,
        /// Whether the peer has said all that it has, and not failed.
        complete: bool,
    },
    /// Something of blobs.
    Blobs(BlobMsg),
}

/// One item of an EBT stream, parsed once at the edge.
#[derive(Debug)]
pub enum EbtItem {
    /// A vector clock.
    Notes(Notes),
    /// A message, not yet verified.
    Message(Unverified),
    /// A message that is none.
    Bad {
        /// The feed it claims to belong to.
        feed: FeedId,
        /// The sequence it claims.
        sequence: u64,
        /// What is wrong.
        why: InvalidMessage,
    },
}

/// What a local client wants of a feed, whatever the graph says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Replicate it.
    Replicate,
    /// Do not.
    Leave,
    /// Do not, and forget what its owner was known to have.
    Forget,
}

/// What the engine is doing.
#[derive(Clone, Debug)]
pub struct Status {
    /// Messages that we have of those that connected peers have.
    pub progress: (u64, u64),
    /// Feeds that we replicate.
    pub replicating: usize,
    /// Open sessions, for people.
    pub sessions: Value,
    /// Peers with a known address.
    pub known_peers: usize,
    /// What `doctor` looks at.
    pub facts: Facts,
}

/// The way to the engine.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    msgs: mpsc::Sender<Msg>,
    watched: Watched,
}

impl EngineHandle {
    /// For the queue `msgs` and what is to be seen of peers.
    pub fn new(msgs: mpsc::Sender<Msg>, watched: Watched) -> Self {
        Self { msgs, watched }
    }

    /// Serves the other end of `connection`, which is in this process.
    pub async fn attach(&self, connection: Connection) -> Result<(), RemoteError> {
        self.say(Msg::Attach(Box::new(connection))).await
    }

    /// Dials `address` and remembers it; done when the session stands.
    pub async fn connect(&self, address: Address) -> Result<(), RemoteError> {
        self.ask(|reply| Msg::Connect { address, reply }).await?
    }

    /// Closes the sessions with `peer`; tells whether there were any.
    pub async fn disconnect(&self, peer: PublicKey) -> Result<bool, RemoteError> {
        self.ask(|reply| Msg::Disconnect { peer, reply }).await
    }

    /// What the engine is doing.
    pub async fn status(&self) -> Result<Status, RemoteError> {
        self.ask(|reply| Msg::Status { reply }).await
    }

    /// Has a feed replicated, or not.
    pub async fn request(&self, feed: FeedId, wish: Wish) -> Result<(), RemoteError> {
        self.say(Msg::Request { feed, wish }).await
    }

    /// Has nothing of a feed passed to or from a peer, or again.
    pub async fn block(&self, from: FeedId, to: FeedId, on: bool) -> Result<(), RemoteError> {
        self.say(Msg::Block { from, to: Peer(to), on }).await
    }

    /// How far a feed is with each connected peer.
    pub async fn peer_status(&self, feed: FeedId) -> Result<PeerStatus, RemoteError> {
        self.ask(|reply| Msg::PeerStatus { feed, reply }).await
    }

    /// Asks something of the address book or the scheduler.
    pub async fn conn(&self, ask: Ask) -> Result<Value, RemoteError> {
        self.ask(|reply| Msg::Conn { ask, reply }).await?
    }

    /// Whom we are connected to; it changes when anything of known peers does, a moment later.
    pub fn peers(&self) -> watch::Receiver<Arc<BTreeSet<PublicKey>>> {
        self.watched.peers.clone()
    }

    /// What becomes of peers from now on, as ssb-gossip tells it.
    pub fn changes(&self) -> broadcast::Receiver<Arc<Value>> {
        self.watched.changes.subscribe()
    }

    /// Hands over the stream of a peer's `ebt.replicate`.
    pub async fn replicate(&self, session: SessionId, stream: Stream) {
        // If the engine is gone, dropping the stream ends it.
        let _ = self.msgs.send(Msg::Replicate { session, stream }).await;
    }

    /// Has a peer's call of `createHistoryStream` served; nothing if its session is over.
    pub async fn serve_history(
        &self,
        session: SessionId,
        plan: HistoryPlan,
    ) -> Result<Option<Ticket>, RemoteError> {
        self.ask(|reply| Msg::ServeHistory { session, plan, reply }).await
    }

    /// Says something of blobs.
    pub async fn blobs(&self, msg: BlobMsg) -> Result<(), RemoteError> {
        self.say(Msg::Blobs(msg)).await
    }

    /// Has a blob searched for that is not here; the answer comes when it is.
    pub async fn want_blob(&self, id: BlobId) -> Result<oneshot::Receiver<()>, RemoteError> {
        let (reply, here) = oneshot::channel();
        self.blobs(BlobMsg::Want { id, reply }).await?;
        Ok(here)
    }

    /// What is to be told over a session of wants, from now on; nothing if the session is over.
    pub async fn tell_wants(&self, session: SessionId) -> Result<Option<Arc<Told>>, RemoteError> {
        self.ask(|reply| Msg::Blobs(BlobMsg::Tell { session, ask: false, reply })).await
    }

    /// What a peer without `createWants` is to be asked for, from now on; nothing if the session is over.
    pub async fn ask_wants(&self, session: SessionId) -> Result<Option<Arc<Told>>, RemoteError> {
        self.ask(|reply| Msg::Blobs(BlobMsg::Tell { session, ask: true, reply })).await
    }

    /// Says something to the engine that its own tasks say otherwise.
    #[cfg(test)]
    pub(super) async fn tell(&self, msg: Msg) {
        self.msgs.send(msg).await.expect("the engine runs");
    }

    async fn say(&self, msg: Msg) -> Result<(), RemoteError> {
        self.msgs.send(msg).await.map_err(|_| RemoteError::new("the node is stopping"))
    }

    async fn ask<T>(&self, msg: impl FnOnce(oneshot::Sender<T>) -> Msg) -> Result<T, RemoteError> {
        let stopping = || RemoteError::new("the node is stopping");
        let (reply, answer) = oneshot::channel();
        self.msgs.send(msg(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }
}
