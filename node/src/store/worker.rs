//! The thread that owns the writer: it stores what was validated, signs and stores what local clients write, and
//! deletes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread;

use hawsepipe_replication::graph::Mark;
use hawsepipe_replication::message::{self, Fork, HmacKey, Message, Tip, Unverified, Verifier};
use hawsepipe_replication::refs::{FeedId, MessageId};
use hawsepipe_replication::store::{AppendError, Reader, Refusal, Refused, Stored, Writer};
use ssb_crypto::Keypair;
use tokio::sync::mpsc;

use super::validate::{Validated, Validation};
use super::{
    Answer, Delete, DeleteError, Job, Linked, QUEUE, StoreEvent, StoreHandle, Text, Write, WriteError,
};
use crate::clock;
use crate::fork_guard::Gate;
use crate::metrics::Metrics;

/// Writes of local clients that share one fsync at most.
const MAX_GROUP: usize = 1024;

/// What the threads work with.
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
    /// Starts the threads. They end when asked to or when all handles are gone, with a checkpoint.
    pub fn spawn(
        mut self,
        events: mpsc::Sender<StoreEvent>,
    ) -> std::io::Result<(StoreHandle, thread::JoinHandle<()>)> {
        let (arrivals, arriving) = mpsc::channel(QUEUE);
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (dealt_with, done) = std_mpsc::channel();
        let (verifier, hmac) = (std::mem::take(&mut self.verifier), self.hmac.clone());
        let validation = Validation { jobs: jobs.clone(), done, reader: self.reader.clone(), verifier, hmac };
        thread::Builder::new().name("validation".to_owned()).spawn(move || validation.run(arriving))?;
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || self.run(queue, &events, &dealt_with))?;
        Ok((StoreHandle { arrivals, jobs }, thread))
    }

    pub(super) fn run(
        mut self,
        mut queue: mpsc::Receiver<Job>,
        events: &mpsc::Sender<StoreEvent>,
        dealt_with: &std_mpsc::Sender<()>,
    ) {
        let mut next = queue.blocking_recv();
        while let Some(job) = next.take() {
            match job {
                Job::Store(batch) => {
                    self.ingest(batch, events);
                    // Nobody listens when the other thread has ended.
                    let _ = dealt_with.send(());
                }
                Job::Write(first) => next = self.write(first, &mut queue, events),
                Job::Delete(Delete { id, reply }) => drop(reply.send(self.delete(&id))),
                Job::Stop => break,
            }
            next = next.or_else(|| queue.blocking_recv());
        }
        if let Err(error) = self.writer.checkpoint() {
            // The log is complete; only the next start takes longer.
            tracing::warn!(%error, "could not save the indexes");
        }
    }

    /// Stores what the validating thread has found good, and tells of the rest.
    fn ingest(&mut self, batch: Validated, events: &mpsc::Sender<StoreEvent>) {
        let Validated { good, senders, rejected, forks, permits } = batch;
        rejected.into_iter().for_each(|rejected| tell(events, rejected));
        let committed = self.commit(good);
        // First: who hears of it may look whether anything else is on its way.
        drop(permits);
        match committed {
            Ok((event, refused)) => {
                event.into_iter().for_each(|event| tell(events, event));
                self.explain(refused, &senders, events);
            }
            Err(error) => {
                let (error, lost) = (error.to_string(), senders.into_iter().collect());
                tell(events, StoreEvent::Failed { error, lost });
            }
        }
        // Now everything is stored that the refused messages contradict.
        for (from, message) in forks {
            let fork = self.proof(message);
            fork.into_iter().for_each(|fork| tell(events, StoreEvent::Forked { from, fork: Box::new(fork) }));
        }
    }

    /// Tells of valid messages that could not be stored, because a batch ahead of theirs was lost or a local client
    /// was faster.
    fn explain(
        &self,
        refused: Vec<Refused>,
        senders: &BTreeSet<(FeedId, FeedId)>,
        events: &mpsc::Sender<StoreEvent>,
    ) {
        let from = |feed: FeedId| senders.iter().copied().filter(move |(_, sent)| *sent == feed);
        let mut lost = BTreeSet::new();
        for Refused { message, why } in refused {
            match why {
                Refusal::Known | Refusal::TooLong => {}
                Refusal::Gap { .. } => lost.extend(from(message.author())),
                Refusal::Forked { .. } => {
                    let sender = from(message.author()).next();
                    let fork =
                        sender.and_then(|(from, _)| Some((from, Box::new(self.reader.fork_with(message)?))));
                    fork.into_iter().for_each(|(from, fork)| tell(events, StoreEvent::Forked { from, fork }));
                }
            }
        }
        if !lost.is_empty() {
            let (error, lost) =
                ("messages before them were not stored".to_owned(), lost.into_iter().collect());
            tell(events, StoreEvent::Failed { error, lost });
        }
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
                Ok(job @ (Job::Store(_) | Job::Delete(_) | Job::Stop)) => next = Some(job),
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

    /// Stores messages of peers; when this returns they are on disk and readers see them. Gives back those that do
    /// not continue their feeds any more.
    fn commit(&mut self, messages: Vec<Message>) -> Result<(Option<StoreEvent>, Vec<Refused>), AppendError> {
        if messages.is_empty() {
            return Ok((None, Vec::new()));
        }
        let appended = self.writer.commit(messages, clock::unix_millis() as f64)?;
        Ok((committed(appended.stored.iter(), false), appended.refused))
    }
}

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
