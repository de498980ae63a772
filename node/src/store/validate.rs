//! The thread that validates what peers send, a little ahead of the one that stores it.
//!
//! What has queued up is one batch, validated on all cores against the feeds' tips as they will be when the
//! batches ahead of it are stored. The storing thread tells when it is through with a batch, whatever became of
//! it; at most [`AHEAD`] are under way, so that validation waits for the disk and not memory for both.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hawsepipe_replication::message::{HmacKey, InvalidMessage, Message, Tip, Unverified, Verifier};
use hawsepipe_replication::refs::FeedId;
use hawsepipe_replication::store::Reader;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{Ingest, Job, StoreEvent};

/// Messages that are validated and stored together at most. One batch is one fsync.
const MAX_BATCH: usize = 4096;
/// Validated batches that are not stored yet at most.
const AHEAD: usize = 2;

/// What the thread is given.
#[derive(Debug)]
pub(super) enum Arrival {
    /// Messages of a peer.
    Ingest(Ingest),
    /// Nothing comes any more: both threads end after what has come.
    Stop,
}

/// A batch for the thread that stores.
#[derive(Debug, Default)]
pub(super) struct Validated {
    /// In an order in which they can be stored.
    pub(super) good: Vec<Message>,
    /// Which peers sent them, of which feeds.
    pub(super) senders: BTreeSet<(FeedId, FeedId)>,
    /// What is to be told of the others.
    pub(super) rejected: Vec<StoreEvent>,
    /// Those of them that may prove a fork, and who sent them.
    pub(super) forks: Vec<(FeedId, Unverified)>,
    /// Given back when all is stored.
    pub(super) permits: Vec<Option<OwnedSemaphorePermit>>,
}

/// What the thread works with.
pub(super) struct Validation {
    /// Where the batches go.
    pub(super) jobs: mpsc::Sender<Job>,
    /// Says of each batch in turn that it is dealt with.
    pub(super) done: std::sync::mpsc::Receiver<()>,
    pub(super) reader: Reader,
    pub(super) verifier: Verifier,
    pub(super) hmac: Option<HmacKey>,
}

impl Validation {
    /// Ends when asked to, when all senders are gone, or with the thread that stores.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Arrival>) {
        let mut ahead = Ahead::default();
        while let Some(Arrival::Ingest(first)) = queue.blocking_recv() {
            while ahead.batches.len() >= AHEAD {
                if self.done.recv().is_err() {
                    return;
                }
                ahead.batches.pop_front();
            }
            let (batch, stops) = gather(first, &mut queue);
            self.done.try_iter().for_each(|()| drop(ahead.batches.pop_front()));
            let validated = self.validate(batch, &ahead);
            ahead.batches.push_back(validated.good.iter().map(|m| (m.author(), m.tip())).collect());
            if self.jobs.blocking_send(Job::Store(validated)).is_err() || stops {
                break;
            }
        }
        // An error means that the other thread has ended already.
        let _ = self.jobs.blocking_send(Job::Stop);
    }

    fn validate(&mut self, batch: Vec<Ingest>, ahead: &Ahead) -> Validated {
        let mut validated = Validated::default();
        let (mut messages, mut claims) = (Vec::new(), Vec::new());
        for Ingest { from, messages: more, permit } in batch {
            claims.extend(more.iter().map(|m| (from, m.author(), m.sequence())));
            messages.extend(more);
            validated.permits.push(permit);
        }
        let reader = &self.reader;
        let results = self.verifier.validate_batch_and_show_forks(
            messages,
            self.hmac.as_ref(),
            |feed| ahead.tip(feed, reader.tip(feed)),
            |place, message| validated.forks.push((claims[place].0, message)),
        );
        for ((from, feed, sequence), result) in claims.iter().copied().zip(results) {
            match result {
                Ok(message) => {
                    validated.senders.insert((from, feed));
                    validated.good.push(message);
                }
                // Two peers sent it at the same time.
                Err(InvalidMessage::Sequence { expected, found, .. }) if found < expected => {}
                Err(why) => validated.rejected.push(StoreEvent::Rejected { from, feed, sequence, why }),
            }
        }
        validated
    }
}

/// What has queued up behind `first`, and whether it is the last.
fn gather(first: Ingest, queue: &mut mpsc::Receiver<Arrival>) -> (Vec<Ingest>, bool) {
    let mut count = first.messages.len();
    let mut batch = vec![first];
    while count < MAX_BATCH {
        match queue.try_recv() {
            Ok(Arrival::Ingest(more)) => {
                count += more.messages.len();
                batch.push(more);
            }
            Ok(Arrival::Stop) => return (batch, true),
            Err(_) => break,
        }
    }
    (batch, false)
}

/// The tips that feeds will have when the batches under way are stored, oldest batch first.
#[derive(Default)]
struct Ahead {
    batches: VecDeque<BTreeMap<FeedId, Tip>>,
}

impl Ahead {
    /// A feed's tip, if `stored` is what it is now. A batch that is stored already says nothing new.
    fn tip(&self, feed: &FeedId, stored: Option<Tip>) -> Option<Tip> {
        let coming = self.batches.iter().rev().find_map(|tips| tips.get(feed)).copied();
        coming.into_iter().chain(stored).max_by_key(|tip| tip.sequence)
    }
}
