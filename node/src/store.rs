//! The thread that owns the store's writer, and the handle to it.
//!
//! Everything that changes the log goes through one bounded queue, so there is one writer and `publish`
//! sees every message before it. Messages of peers are validated in batches on all cores, and what local
//! clients write meanwhile is stored together; a batch is announced only when it is on disk. The thread never
//! waits for the engine's attention to accept work, and the engine never waits for the thread: what peers may
//! have under way is bounded by permits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;

use hawsepipe_replication::blobs::{BlobLink, links_of};
use hawsepipe_replication::graph::Mark;
use hawsepipe_replication::message::{
    self, Fork, HmacKey, InvalidMessage, Message, Tip, Unverified, Verifier,
};
use hawsepipe_replication::private::{EnvelopeDraft, SealError};
use hawsepipe_replication::refs::{FeedId, MessageId};
use hawsepipe_replication::store::{AppendError, EraseError, ReadError, Reader, Refusal, Stored, Writer};
use ssb_crypto::Keypair;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::clock;
use crate::fork_guard::{Gate, Wait};
use crate::metrics::Metrics;

/// Jobs that may wait for the thread.
const QUEUE: usize = 256;
/// Messages that are validated and stored together at most. One batch is one fsync.
const MAX_BATCH: usize = 4096;
/// Writes of local clients that share one fsync at most.
const MAX_GROUP: usize = 1024;

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

/// What the thread tells the engine.
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
    Ingest(Ingest),
    Write(Write),
    Delete(Delete),
    Stop,
}

/// What a local client writes, and where the answer goes.
struct Write {
    what: Text,
    reply: Answer,
}

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

/// The way to the thread.
#[derive(Clone, Debug)]
pub struct StoreHandle {
    jobs: mpsc::Sender<Job>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ingest(_) => "Ingest",
            Self::Write(_) => "Write",
            Self::Delete(_) => "Delete",
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

    /// Ends the thread after what is queued.
    pub async fn stop(&self) {
        // An error means that it has ended already.
        let _ = self.jobs.send(Job::Stop).await;
    }

    async fn write(&self, what: Text) -> Result<Stored, WriteError> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Write(Write { what, reply })).await.map_err(|_| WriteError::Stopped)?;
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
    /// Says whether messages of our own may be signed.
    pub guard: Arc<Gate>,
    /// Counts.
    pub metrics: Arc<Metrics>,
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
                Job::Write(first) => next = self.write(first, &mut queue, events),
                Job::Delete(Delete { id, reply }) => {
                    let _ = reply.send(self.delete(&id));
                    next = None;
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
                Ok(job @ (Job::Write(_) | Job::Delete(_) | Job::Stop)) => {
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
        match self.commit(good) {
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
        self.reader.fork_with(refused.verify(self.hmac.as_ref()).ok()?)
    }

    /// A local client has a message that forks its author's feed: as good a proof as a peer's.
    fn show_fork(&self, raw: &[u8], events: &mpsc::Sender<StoreEvent>) {
        let from = FeedId::from_bytes(self.keypair.public.0);
        let fork = Unverified::parse(raw).ok().and_then(|refused| self.proof(refused));
        fork.into_iter().for_each(|fork| tell(events, StoreEvent::Forked { from, fork: Box::new(fork) }));
    }

    /// Stores what local clients want written and has queued up, with one sync for all of it; gives back the
    /// job that ended the group.
    fn write(
        &mut self,
        first: Write,
        queue: &mut mpsc::Receiver<Job>,
        events: &mpsc::Sender<StoreEvent>,
    ) -> Option<Job> {
        let mut group = Vec::new();
        let (mut now, mut next) = (Some(first), None);
        while let Some(Write { what, reply }) = now.take() {
            match self.append(&what, &group) {
                Ok(stored) => group.push((reply, stored)),
                Err(error) => {
                    if let WriteError::Append(why) = &error {
                        refuse(&mut group, why);
                    }
                    if let (WriteError::Invalid(_), Text::Signed(raw)) = (&error, &what) {
                        self.show_fork(raw, events);
                    }
                    let _ = reply.send(Err(error));
                }
            }
            if group.len() >= MAX_GROUP {
                break;
            }
            match queue.try_recv() {
                Ok(Job::Write(more)) => now = Some(more),
                Ok(job @ (Job::Ingest(_) | Job::Delete(_) | Job::Stop)) => next = Some(job),
                Err(_) => {}
            }
        }
        if group.is_empty() {
            return next;
        }
        match self.writer.sync() {
            Ok(()) => {
                // The engine first: who has the answer may ask about what follows from it.
                let event = committed(group.iter().map(|(_, stored)| stored), true);
                event.into_iter().for_each(|event| tell(events, event));
                for (reply, stored) in group {
                    let _ = reply.send(Ok(stored));
                }
            }
            Err(error) => refuse(&mut group, &Arc::new(error)),
        }
        next
    }

    fn delete(&mut self, id: &MessageId) -> Result<(), DeleteError> {
        let Stored { message, .. } = self.reader.get(id)?.ok_or(DeleteError::NotStored(*id))?;
        let own = FeedId::from_bytes(self.keypair.public.0);
        if message.author() == own && self.writer.tip(&own).is_some_and(|tip| tip.id == *id) {
            return Err(DeleteError::OwnNewest);
        }
        if message.has_contact() {
            return Err(DeleteError::Contact);
        }
        self.writer.erase(&[*id])?;
        Ok(())
    }

    /// Appends what a client wants written, behind those of the same `group`.
    fn append(&mut self, what: &Text, group: &[(Answer, Stored)]) -> Result<Stored, WriteError> {
        let message = match what {
            Text::Content(content) => self.sign(group, |_, _| Ok(content.clone()))?,
            Text::Envelope(draft) => {
                self.sign(group, |own, tip| Ok(draft.seal(own, tip.map(|tip| &tip.id))?))?
            }
            Text::Signed(raw) => self.verify(raw)?,
        };
        let appended = self.writer.append(vec![message], clock::unix_millis() as f64);
        let mut appended = appended.map_err(|error| WriteError::Append(Arc::new(error)))?;
        match (appended.stored.pop(), appended.refused.pop()) {
            (Some(stored), _) => Ok(stored),
            (None, refused) => {
                Err(WriteError::Refused(refused.map_or(Refusal::Known, |refused| refused.why)))
            }
        }
    }

    /// Whether a message of our own feed may be written now. Asked for each, so that nothing is signed after the
    /// engine has heard of more.
    fn check_guard(&self) -> Result<(), WriteError> {
        self.guard.check().map_err(|wait| {
            self.metrics.messages.guard_refusals.inc();
            WriteError::Guarded(wait)
        })
    }

    fn sign(
        &self,
        group: &[(Answer, Stored)],
        content: impl FnOnce(&FeedId, Option<&Tip>) -> Result<Vec<u8>, WriteError>,
    ) -> Result<Message, WriteError> {
        self.check_guard()?;
        let own = FeedId::from_bytes(self.keypair.public.0);
        let tip = self.writer.tip(&own);
        let before = group.iter().rev().map(|(_, stored)| &stored.message);
        let last = before.filter(|message| message.author() == own).map(Message::timestamp).next();
        let last = last.or_else(|| {
            let stored = self.reader.at(&own, tip?.sequence).ok().flatten();
            stored.map(|stored| stored.message.timestamp())
        });
        let timestamp = message::next_timestamp(clock::unix_millis() as f64, last);
        let content = content(&own, tip.as_ref())?;
        let signed = message::sign(&self.keypair, self.hmac.as_ref(), tip.as_ref(), timestamp, &content)?;
        Ok(signed)
    }

    fn verify(&self, raw: &[u8]) -> Result<Message, WriteError> {
        let unverified = Unverified::parse(raw)?;
        if unverified.author().to_bytes() == self.keypair.public.0 {
            self.check_guard()?;
        }
        let tip = self.writer.tip(&unverified.author());
        unverified.check(tip.as_ref())?;
        Ok(unverified.verify(self.hmac.as_ref())?)
    }

    /// Stores messages of peers; when this returns they are on disk and readers see them.
    fn commit(&mut self, messages: Vec<Message>) -> Result<Option<StoreEvent>, AppendError> {
        if messages.is_empty() {
            return Ok(None);
        }
        let appended = self.writer.commit(messages, clock::unix_millis() as f64)?;
        Ok(committed(appended.stored.iter(), false))
    }
}

/// Where the answer to a local client goes.
type Answer = oneshot::Sender<Result<Stored, WriteError>>;

/// Tells all of a group that nothing of it was stored.
fn refuse(group: &mut Vec<(Answer, Stored)>, why: &Arc<AppendError>) {
    for (reply, _) in group.drain(..) {
        let _ = reply.send(Err(WriteError::Append(Arc::clone(why))));
    }
}

/// What the engine is told of messages that are stored; nothing of none.
fn committed<'a>(stored: impl Iterator<Item = &'a Stored> + Clone, local: bool) -> Option<StoreEvent> {
    let messages = stored.clone().map(|stored| &stored.message);
    let heads: BTreeMap<_, _> = messages.clone().map(|m| (m.author(), m.sequence())).collect();
    let links = messages.clone().flat_map(Linked::of).collect();
    let contacts = messages.filter(|m| m.has_contact()).cloned().collect();
    let newest = Mark::of(stored.clone().last()?);
    let heads = heads.into_iter().collect();
    Some(StoreEvent::Committed { heads, contacts, links, count: stored.count(), newest, local })
}

/// The engine takes events as long as it runs; afterwards nobody needs them.
fn tell(events: &mpsc::Sender<StoreEvent>, event: StoreEvent) {
    let _ = events.blocking_send(event);
}

#[cfg(test)]
mod tests {
    use hawsepipe_replication::store::{Options, Store};

    use super::*;

    /// Runs `jobs` to the end: what was announced.
    fn run(dir: &std::path::Path, jobs: Vec<Job>) -> Vec<StoreEvent> {
        run_guarded(dir, jobs, Ok(()))
    }

    fn run_guarded(dir: &std::path::Path, jobs: Vec<Job>, verdict: Result<(), Wait>) -> Vec<StoreEvent> {
        crate::init_crypto();
        let (writer, reader) = Store::open(dir, &Options::default(), &mut |_, _| {}).unwrap();
        let keypair = Arc::new(Keypair::from_seed(&[7; 32]).unwrap());
        let guard = Arc::new(Gate::new(verdict));
        let metrics = Arc::default();
        let worker =
            Worker { writer, reader, keypair, hmac: None, verifier: Verifier::new(), guard, metrics };
        let (events, mut announced) = mpsc::channel(64);
        let (sender, queue) = mpsc::channel(64);
        jobs.into_iter().chain([Job::Stop]).for_each(|job| sender.try_send(job).unwrap());
        worker.run(queue, &events);
        std::iter::from_fn(|| announced.try_recv().ok()).collect()
    }

    fn writes(texts: Vec<Text>) -> (Vec<Job>, Vec<oneshot::Receiver<Result<Stored, WriteError>>>) {
        let writes = texts.into_iter().map(|what| {
            let (reply, answer) = oneshot::channel();
            (Job::Write(Write { what, reply }), answer)
        });
        writes.unzip()
    }

    fn posts(count: usize) -> Vec<Text> {
        let post = |n| Text::Content(format!(r#"{{"type":"post","text":"{n}"}}"#).into_bytes());
        (0..count).map(post).collect()
    }

    #[test]
    fn what_queued_up_is_announced_once_and_answered_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (jobs, answers) = writes(posts(40));
        let events = run(dir.path(), jobs);
        assert!(matches!(&events[..], [StoreEvent::Committed { count: 40, local: true, .. }]), "{events:?}");
        let stored: Vec<Stored> = answers.into_iter().map(|mut a| a.try_recv().unwrap().unwrap()).collect();
        assert!(stored.iter().map(|s| s.message.sequence()).eq(1..=40));
        assert!(stored.is_sorted_by(|a, b| a.message.timestamp() < b.message.timestamp()));
        let (_, reader) = Store::open(dir.path(), &Options::default(), &mut |_, _| {}).unwrap();
        assert_eq!(reader.len(), 40);
    }

    #[test]
    fn who_writes_nonsense_is_refused_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut texts = posts(3);
        texts.insert(1, Text::Content(b"{}".to_vec()));
        texts.insert(2, Text::Signed(b"{}".to_vec()));
        let (jobs, answers) = writes(texts);
        run(dir.path(), jobs);
        let stored =
            answers.into_iter().map(|mut a| a.try_recv().unwrap().map(|s| s.message.sequence()).ok());
        assert_eq!(stored.collect::<Vec<_>>(), [Some(1), None, None, Some(2), Some(3)]);
    }

    #[test]
    fn while_the_guard_waits_nothing_of_ours_is_written_and_others_messages_are() {
        crate::init_crypto();
        let signed = |seed: u8| {
            let keypair = Keypair::from_seed(&[seed; 32]).unwrap();
            let content = br#"{"type":"post","text":"signed by a client"}"#;
            let message = message::sign(&keypair, None, None, 1.0, content).unwrap();
            Text::Signed(message.value_bytes().to_vec())
        };
        let envelope = EnvelopeDraft { plaintext: b"{}".to_vec(), recipients: Vec::new() };
        let mut texts = posts(1);
        texts.extend([Text::Envelope(envelope), signed(7), signed(8)]);
        let dir = tempfile::tempdir().unwrap();
        let (jobs, answers) = writes(texts);
        let wait = Wait { doubt: None, held: 0, claimed: Some(5), asked: 0, knowing: 0 };
        let events = run_guarded(dir.path(), jobs, Err(wait));
        assert!(matches!(&events[..], [StoreEvent::Committed { count: 1, .. }]), "{events:?}");
        let outcomes = answers.into_iter().map(|mut answer| match answer.try_recv().unwrap() {
            Ok(_) => "stored",
            Err(WriteError::Guarded(_)) => "guarded",
            Err(_) => "refused",
        });
        assert_eq!(outcomes.collect::<Vec<_>>(), ["guarded", "guarded", "guarded", "stored"]);
    }

    #[test]
    fn a_signed_message_may_follow_one_that_is_not_on_disk_yet() {
        let other = Keypair::from_seed(&[8; 32]).unwrap();
        crate::init_crypto();
        let mut tip = None;
        let signed = (0..3).map(|n| {
            let content = br#"{"type":"post","text":"by another"}"#;
            let message = message::sign(&other, None, tip.as_ref(), f64::from(n), content).unwrap();
            tip = Some(message.tip());
            Text::Signed(message.value_bytes().to_vec())
        });
        let dir = tempfile::tempdir().unwrap();
        let (jobs, answers) = writes(signed.collect());
        let events = run(dir.path(), jobs);
        assert!(matches!(&events[..], [StoreEvent::Committed { count: 3, .. }]), "{events:?}");
        assert!(answers.into_iter().all(|mut answer| answer.try_recv().unwrap().is_ok()));
    }

    #[test]
    fn a_message_is_deleted_unless_the_graph_or_our_next_message_needs_it() {
        let dir = tempfile::tempdir().unwrap();
        let contact =
            r#"{"type":"contact","contact":"@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=.ed25519"}"#;
        let texts = [r#"{"type":"post","text":"a"}"#, contact, r#"{"type":"post","text":"b"}"#];
        let (jobs, mut answers) = writes(texts.map(|text| Text::Content(text.as_bytes().to_vec())).into());
        run(dir.path(), jobs);
        let ids: Vec<_> =
            answers.iter_mut().map(|answer| answer.try_recv().unwrap().unwrap().message.id()).collect();
        let delete = |id: MessageId| {
            let (reply, mut answer) = oneshot::channel();
            run(dir.path(), vec![Job::Delete(Delete { id, reply })]);
            answer.try_recv().unwrap()
        };
        assert!(matches!(delete(ids[2]), Err(DeleteError::OwnNewest)));
        assert!(matches!(delete(ids[1]), Err(DeleteError::Contact)));
        assert!(matches!(delete(ids[0]), Ok(())));
        assert!(matches!(delete(ids[0]), Err(DeleteError::NotStored(_))));
        let (jobs, mut answers) = writes(vec![Text::Content(br#"{"type":"post","text":"c"}"#.to_vec())]);
        run(dir.path(), jobs);
        assert_eq!(answers[0].try_recv().unwrap().unwrap().message.sequence(), 4);
    }

    #[test]
    fn a_fork_that_a_client_adds_is_refused_and_proven() {
        crate::init_crypto();
        let other = Keypair::from_seed(&[8; 32]).unwrap();
        let after = |tip: Option<&Tip>, text: &str| {
            let content = format!(r#"{{"type":"post","text":"{text}"}}"#);
            message::sign(&other, None, tip, 1.0, content.as_bytes()).unwrap()
        };
        let first = after(None, "first");
        let [ours, theirs] = ["ours", "theirs"].map(|text| after(Some(&first.tip()), text));
        let third = after(Some(&theirs.tip()), "third");
        let add = |message: &Message| Text::Signed(message.value_bytes().to_vec());
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), writes(vec![add(&first), add(&ours)]).0);

        for refused in [&third, &theirs] {
            let (jobs, mut answers) = writes(vec![add(refused), add(&first)]);
            let events = run(dir.path(), jobs);
            for answer in &mut answers {
                assert!(matches!(answer.try_recv(), Ok(Err(WriteError::Invalid(_)))));
            }
            let [StoreEvent::Forked { fork, .. }] = &events[..] else { panic!("{events:?}") };
            assert_eq!((fork.held(), fork.refused()), (&ours, refused), "and what we have is no fork");
        }
    }
}
