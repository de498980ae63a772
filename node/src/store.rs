//! The thread that owns the store's writer, and the handle to it.
//!
//! Everything that changes the log goes through one bounded queue, so there is one writer and `publish`
//! sees every message before it. Messages of peers are validated in batches on all cores; a batch is
//! announced only when it is on disk. The thread never waits for the engine's attention to accept work,
//! and the engine never waits for the thread: what peers may have under way is bounded by permits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;

use hawsepipe_replication::message::{self, Fork, HmacKey, InvalidMessage, Message, Unverified, Verifier};
use hawsepipe_replication::refs::FeedId;
use hawsepipe_replication::store::{AppendError, Reader, Stored, Writer};
use ssb_crypto::Keypair;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::clock;

/// Jobs that may wait for the thread.
const QUEUE: usize = 256;
/// Messages that are validated and stored together at most. One batch is one fsync.
const MAX_BATCH: usize = 4096;

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

/// What the thread tells the engine.
#[derive(Debug)]
pub enum StoreEvent {
    /// Messages are on disk.
    Committed {
        /// Feeds that grew, and their newest sequence.
        heads: Vec<(FeedId, u64)>,
        /// Messages that say something of the graph, in log order.
        contacts: Vec<Message>,
        /// How many messages were stored, of peers and of our own.
        count: usize,
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
    /// A peer sent a message that proves a feed to be forked.
    Forked {
        /// The peer.
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
    /// The message is not valid where it stands.
    #[error(transparent)]
    Invalid(#[from] InvalidMessage),
    /// The disk refused; nothing was stored.
    #[error("could not store the message: {0}")]
    Append(#[from] AppendError),
    /// The disk took the message and does not give it back.
    #[error("the message is stored but cannot be read: stop the node and run `hawsepipe check`")]
    Unreadable,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

enum Job {
    Ingest(Ingest),
    Publish { content: Vec<u8>, reply: oneshot::Sender<Result<Stored, WriteError>> },
    Add { raw: Vec<u8>, reply: oneshot::Sender<Result<Stored, WriteError>> },
    Stop,
}

/// The way to the thread.
#[derive(Clone, Debug)]
pub struct StoreHandle {
    jobs: mpsc::Sender<Job>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ingest(_) => "Ingest",
            Self::Publish { .. } => "Publish",
            Self::Add { .. } => "Add",
            Self::Stop => "Stop",
        })
    }
}

impl StoreHandle {
    /// Hands over messages of a peer without waiting; gives them back if the thread is busy.
    pub fn try_ingest(&self, ingest: Ingest) -> Result<(), Ingest> {
        let refused = match self.jobs.try_send(Job::Ingest(ingest)) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Full(job) | mpsc::error::TrySendError::Closed(job)) => job,
        };
        if let Job::Ingest(ingest) = refused { Err(ingest) } else { Ok(()) }
    }

    /// Signs `content` as the next message of our own feed; answered when it is on disk.
    pub async fn publish(&self, content: Vec<u8>) -> Result<Stored, WriteError> {
        self.ask(|reply| Job::Publish { content, reply }).await
    }

    /// Stores a signed message of any feed; answered when it is on disk.
    pub async fn add(&self, raw: Vec<u8>) -> Result<Stored, WriteError> {
        self.ask(|reply| Job::Add { raw, reply }).await
    }

    /// Ends the thread after what is queued.
    pub async fn stop(&self) {
        // An error means that it has ended already.
        let _ = self.jobs.send(Job::Stop).await;
    }

    async fn ask(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<Stored, WriteError>>) -> Job,
    ) -> Result<Stored, WriteError> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).await.map_err(|_| WriteError::Stopped)?;
        answer.await.map_err(|_| WriteError::Stopped)?
    }
}

/// What the thread works with.
pub struct Worker {
    /// The one writer.
    pub writer: Writer,
    /// To look up what is stored.
    pub reader: Reader,
    /// Signs what we publish.
    pub keypair: Arc<Keypair>,
    /// The network's signing key, if it has one.
    pub hmac: Option<HmacKey>,
    /// Verifies what peers send.
    pub verifier: Verifier,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

impl Worker {
    /// Starts the thread. It ends when asked to or when all handles are gone, and checkpoints then.
    pub fn spawn(
        self,
        events: mpsc::Sender<StoreEvent>,
    ) -> std::io::Result<(StoreHandle, thread::JoinHandle<()>)> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread =
            thread::Builder::new().name("store".to_owned()).spawn(move || self.run(queue, &events))?;
        Ok((StoreHandle { jobs }, thread))
    }

    fn run(mut self, mut queue: mpsc::Receiver<Job>, events: &mpsc::Sender<StoreEvent>) {
        let mut next = queue.blocking_recv();
        while let Some(job) = next.take() {
            match job {
                Job::Ingest(first) => next = self.ingest(first, &mut queue, events),
                Job::Publish { content, reply } => {
                    let stored = self.publish(&content);
                    self.answer(stored, reply, events);
                }
                Job::Add { raw, reply } => {
                    let stored = self.add(&raw);
                    self.answer(stored, reply, events);
                }
                Job::Stop => break,
            }
            next = next.or_else(|| queue.blocking_recv());
        }
        if let Err(error) = self.writer.checkpoint() {
            // The log is complete; only the next start takes longer.
            tracing::warn!(%error, "could not save the indexes");
        }
    }

    /// Validates and stores what has queued up; gives back the job that ended the batch.
    fn ingest(
        &mut self,
        first: Ingest,
        queue: &mut mpsc::Receiver<Job>,
        events: &mpsc::Sender<StoreEvent>,
    ) -> Option<Job> {
        let mut from = vec![(first.from, first.messages.len())];
        let mut messages = first.messages;
        let mut permits = vec![first.permit];
        let mut next = None;
        while messages.len() < MAX_BATCH {
            match queue.try_recv() {
                Ok(Job::Ingest(more)) => {
                    from.push((more.from, more.messages.len()));
                    messages.extend(more.messages);
                    permits.push(more.permit);
                }
                Ok(job @ (Job::Publish { .. } | Job::Add { .. } | Job::Stop)) => {
                    next = Some(job);
                    break;
                }
                Err(_) => break,
            }
        }
        let senders = from.into_iter().flat_map(|(from, n)| std::iter::repeat_n(from, n));
        let claims: Vec<_> =
            senders.zip(&messages).map(|(from, m)| (from, m.author(), m.sequence())).collect();
        let reader = &self.reader;
        let mut forks = Vec::new();
        let results = self.verifier.validate_batch_and_show_forks(
            messages,
            self.hmac.as_ref(),
            |feed| reader.tip(feed),
            |place, message| forks.push((claims[place].0, message)),
        );
        let mut good = Vec::with_capacity(results.len());
        let mut lost = BTreeSet::new();
        for ((from, feed, sequence), result) in claims.iter().copied().zip(results) {
            match result {
                Ok(message) => {
                    lost.insert((from, feed));
                    good.push(message);
                }
                // Two peers sent it at the same time.
                Err(InvalidMessage::Sequence { expected, found, .. }) if found < expected => {}
                Err(why) => tell(events, StoreEvent::Rejected { from, feed, sequence, why }),
            }
        }
        match self.commit(good, false) {
            Ok(Some(event)) => tell(events, event),
            Ok(None) => {}
            Err(error) => {
                let lost = lost.into_iter().collect();
                tell(events, StoreEvent::Failed { error: error.to_string(), lost });
            }
        }
        drop(permits);
        // Now everything is stored that the refused messages contradict.
        for (from, message) in forks {
            let fork = self.proof(message);
            fork.into_iter().for_each(|fork| tell(events, StoreEvent::Forked { from, fork: Box::new(fork) }));
        }
        next
    }

    /// What a refused message proves together with what we hold, if its author has signed it.
    fn proof(&self, refused: Unverified) -> Option<Fork> {
        let refused = refused.verify(self.hmac.as_ref()).ok()?;
        let held = self.reader.at(&refused.author(), refused.sequence().checked_sub(1)?).ok()??;
        Fork::new(held.message, refused)
    }

    fn publish(&self, content: &[u8]) -> Result<Message, WriteError> {
        let own = FeedId::from_bytes(self.keypair.public.0);
        let tip = self.reader.tip(&own);
        let last = tip.and_then(|tip| self.reader.at(&own, tip.sequence).ok().flatten());
        let now = clock::unix_millis() as f64;
        let timestamp = message::next_timestamp(now, last.map(|stored| stored.message.timestamp()));
        let signed = message::sign(&self.keypair, self.hmac.as_ref(), tip.as_ref(), timestamp, content)?;
        Ok(signed)
    }

    fn add(&self, raw: &[u8]) -> Result<Message, WriteError> {
        let unverified = Unverified::parse(raw)?;
        let tip = self.reader.tip(&unverified.author());
        unverified.check(tip.as_ref())?;
        Ok(unverified.verify(self.hmac.as_ref())?)
    }

    fn answer(
        &mut self,
        message: Result<Message, WriteError>,
        reply: oneshot::Sender<Result<Stored, WriteError>>,
        events: &mpsc::Sender<StoreEvent>,
    ) {
        let stored = message.and_then(|message| {
            let id = message.id();
            let event = self.commit(vec![message], true)?;
            let stored = self.reader.get(&id).ok().flatten();
            Ok((event, stored.ok_or(WriteError::Unreadable)?))
        });
        match stored {
            Ok((event, stored)) => {
                // The engine first: who has the answer may ask about what follows from it.
                event.into_iter().for_each(|event| tell(events, event));
                let _ = reply.send(Ok(stored));
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    /// Stores `messages`; when this returns they are on disk and readers see them.
    fn commit(&mut self, messages: Vec<Message>, local: bool) -> Result<Option<StoreEvent>, AppendError> {
        if messages.is_empty() {
            return Ok(None);
        }
        let heads: BTreeMap<_, _> = messages.iter().map(|m| (m.author(), m.sequence())).collect();
        let contacts = messages.iter().filter(|m| m.content().member("contact").is_some()).cloned().collect();
        let count = messages.len();
        self.writer.commit(messages, clock::unix_millis() as f64)?;
        Ok(Some(StoreEvent::Committed { heads: heads.into_iter().collect(), contacts, count, local }))
    }
}

/// The engine takes events as long as it runs; afterwards nobody needs them.
fn tell(events: &mpsc::Sender<StoreEvent>, event: StoreEvent) {
    let _ = events.blocking_send(event);
}
