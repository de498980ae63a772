//! The threads that change the log, and the handle to them.
//!
//! There is one writer, so `publish` sees every message before it. Messages of peers are validated in batches on
//! all cores (`validate`) while the batch before is being stored (`worker`), and what local clients write meanwhile
//! is stored together; a batch is announced only when it is on disk. The threads never wait for the engine's
//! attention to accept work, and the engine never waits for them: what peers may have under way is bounded by
//! permits.

use std::sync::Arc;

use hawsepipe_replication::blobs::{BlobLink, links_of};
use hawsepipe_replication::graph::Mark;
use hawsepipe_replication::message::{self, Fork, InvalidMessage, Message, Unverified};
use hawsepipe_replication::private::{EnvelopeDraft, SealError};
use hawsepipe_replication::refs::{FeedId, MessageId};
use hawsepipe_replication::store::{AppendError, EraseError, ReadError, Refusal, Stored};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::fork_guard::Wait;
use crate::metrics::Metrics;

#[cfg(test)]
mod tests;
mod validate;
mod worker;

use validate::{Arrival, Validated};
pub use worker::Worker;

/// Jobs that may wait for each thread.
const QUEUE: usize = 256;

/// Messages of one peer, of any feeds, each feed's in order.
#[derive(Debug)]
pub struct Ingest {
    /// The peer that sent them.
    pub from: FeedId,
    /// What it sent.
    pub messages: Vec<Unverified>,
    /// Frees their share of the ingest budget when they are dealt with.
    pub permit: Option<OwnedSemaphorePermit>,
}

/// A message's link to a blob.
#[derive(Clone, Copy, Debug)]
pub struct Linked {
    /// Who wrote the message.
    pub author: FeedId,
    /// When, as it says, milliseconds since 1970.
    pub claimed: f64,
    /// The link.
    pub link: BlobLink,
}

impl Linked {
    /// The links of a message.
    pub fn of(message: &Message) -> impl Iterator<Item = Self> + use<> {
        let (author, claimed) = (message.author(), message.timestamp());
        links_of(message).into_iter().map(move |link| Self { author, claimed, link })
    }
}

/// What the threads tell the engine.
#[derive(Debug)]
pub enum StoreEvent {
    /// Messages are on disk.
    Committed {
        /// Feeds that grew, and their newest sequence.
        heads: Vec<(FeedId, u64)>,
        /// Messages that say something of the graph, in log order.
        contacts: Vec<Message>,
        /// What the messages say of blobs.
        links: Vec<Linked>,
        /// How many messages were stored, of peers and of our own.
        count: usize,
        /// The last of them.
        newest: Mark,
        /// Whether they came from a local client.
        local: bool,
    },
    /// A peer sent a message that was refused.
    Rejected {
        /// The peer.
        from: FeedId,
        /// The feed it belongs to.
        feed: FeedId,
        /// The sequence it claims.
        sequence: u64,
        /// What is wrong with it.
        why: InvalidMessage,
    },
    /// Somebody has a message that proves a feed to be forked.
    Forked {
        /// The peer that sent it, or we ourselves for a local client.
        from: FeedId,
        /// The proof.
        fork: Box<Fork>,
    },
    /// The disk refused; nothing was stored.
    Failed {
        /// What it said.
        error: String,
        /// Peers and feeds whose messages are lost; they must be asked for again.
        lost: Vec<(FeedId, FeedId)>,
    },
}

/// Why a local write failed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The content cannot be published.
    #[error(transparent)]
    Draft(#[from] message::DraftError),
    /// The content cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The message is not valid where it stands.
    #[error(transparent)]
    Invalid(#[from] InvalidMessage),
    /// The disk refused; nothing was stored.
    #[error("could not store the message: {0}")]
    Append(Arc<AppendError>),
    /// The store refused.
    #[error("could not store the message: {0}")]
    Refused(Refusal),
    /// It would be a message of our own feed, which may be longer elsewhere.
    #[error("{0}")]
    Guarded(Wait),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// Why a message was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// It is not here, or its content was deleted before.
    #[error("there is no message {0} here")]
    NotStored(MessageId),
    /// Clients that sign their messages themselves ask for it to go on after it.
    #[error("the newest message of this node's own feed is not deleted: publish another one first")]
    OwnNewest,
    /// The social graph follows from messages like it.
    #[error(
        "it says who follows or blocks whom: publish the opposite, or delete the whole feed (`hawsepipe delete`)"
    )]
    Contact,
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store failed.
    #[error(transparent)]
    Erase(#[from] EraseError),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

enum Job {
    Store(Validated),
    Write(Write),
    Delete(Delete),
    Stop,
}

/// What a local client writes, and where the answer goes.
struct Write {
    what: Text,
    reply: Answer,
}

/// Where the answer to a local client goes.
type Answer = oneshot::Sender<Result<Stored, WriteError>>;

/// A message whose content is to go, and where the answer goes.
struct Delete {
    id: MessageId,
    reply: oneshot::Sender<Result<(), DeleteError>>,
}

enum Text {
    /// A content for our own feed.
    Content(Vec<u8>),
    /// One that is sealed when its place is known.
    Envelope(EnvelopeDraft),
    /// A message of any feed.
    Signed(Vec<u8>),
}

/// The way to the threads.
#[derive(Clone, Debug)]
pub struct StoreHandle {
    arrivals: mpsc::Sender<Arrival>,
    jobs: mpsc::Sender<Job>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Store(_) => "Store",
            Self::Write(_) => "Write",
            Self::Delete(_) => "Delete",
            Self::Stop => "Stop",
        })
    }
}

impl StoreHandle {
    /// Hands over messages of a peer without waiting; gives them back if the threads are busy.
    pub fn try_ingest(&self, ingest: Ingest) -> Result<(), Ingest> {
        let refused = match self.arrivals.try_send(Arrival::Ingest(ingest)) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back)) => back,
        };
        if let Arrival::Ingest(ingest) = refused { Err(ingest) } else { Ok(()) }
    }

    /// Has the metrics say what waits for validation and what waits to be stored.
    pub fn measured(self, metrics: &Metrics) -> Self {
        metrics.watch_queue("validation", &self.arrivals);
        metrics.watch_queue("store", &self.jobs);
        self
    }

    /// Signs `content` as the next message of our own feed; answered when it is on disk.
    pub async fn publish(&self, content: Vec<u8>) -> Result<Stored, WriteError> {
        self.write(Text::Content(content)).await
    }

    /// As [`Self::publish`], of a content that is sealed for its place in the feed.
    pub async fn publish_envelope(&self, draft: EnvelopeDraft) -> Result<Stored, WriteError> {
        self.write(Text::Envelope(draft)).await
    }

    /// Stores a signed message of any feed; answered when it is on disk.
    pub async fn add(&self, raw: Vec<u8>) -> Result<Stored, WriteError> {
        self.write(Text::Signed(raw)).await
    }

    /// Deletes the content of a message from the disk.
    pub async fn delete(&self, id: MessageId) -> Result<(), DeleteError> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Delete(Delete { id, reply });
        self.jobs.send(job).await.map_err(|_| DeleteError::Stopped)?;
        answer.await.map_err(|_| DeleteError::Stopped)?
    }

    /// Ends the threads after what is queued.
    pub async fn stop(&self) {
        // An error means that they have ended already.
        let _ = self.arrivals.send(Arrival::Stop).await;
    }

    async fn write(&self, what: Text) -> Result<Stored, WriteError> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Write(Write { what, reply })).await.map_err(|_| WriteError::Stopped)?;
        answer.await.map_err(|_| WriteError::Stopped)?
    }
}
