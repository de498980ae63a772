//! The one writer: checks that messages continue their feeds, appends them to the log, makes them durable,
//! and only then shows them to the readers.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::disk::is_full;
use super::index::Entry;
use super::log::Log;
use super::log::erase::MAX_ERASED;
use super::log::record::{MAX_VALUE, Record};
use super::tables::{IndexError, List};
use super::{OpenReport, Options, Reader, Shared, Stored};
use crate::message::{Message, Tip};
use crate::refs::{FeedId, MessageId};

/// The least distance between two receive times, milliseconds.
const RECEIVED_STEP: f64 = 0.001;

/// The store's writing end. There is one; dropping it makes a last checkpoint.
#[derive(Debug)]
pub struct Writer {
    log: Log,
    shared: Arc<Shared>,
    options: Options,
    report: OpenReport,
    /// Appended but not yet durable, in order.
    pending: Vec<Entry>,
    /// The tips of the feeds that `pending` continues.
    tips: BTreeMap<FeedId, Tip>,
    received: f64,
    /// No checkpoint is tried before this many messages are unsealed.
    checkpoint_at: u64,
}

/// What became of a batch.
#[derive(Debug, Default, PartialEq)]
pub struct Appended {
    /// The stored messages in the order given.
    pub stored: Vec<Stored>,
    /// The others, and why. They changed nothing.
    pub refused: Vec<Refused>,
}

/// A message that was not stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// The message.
    pub message: Message,
    /// Why not.
    pub why: Refusal,
}

/// Why a message was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// We have it.
    #[error("already stored")]
    Known,
    /// Messages before it are missing.
    #[error("messages before it are missing: the next one would be {expected}")]
    Gap {
        /// The sequence number that could be stored.
        expected: u64,
    },
    /// It contradicts a message that we have: its author's feed is forked.
    #[error("its feed is forked: we hold another message {}", held.sequence)]
    Forked {
        /// The message of ours that it contradicts: the one at its place, or the one it should follow.
        held: Tip,
    },
    /// Longer than any valid message.
    #[error("longer than any valid message")]
    TooLong,
}

/// Why nothing of a batch could be stored. Whatever was appended since the last successful sync is gone; what
/// was stored before is untouched, can be read, and the next append may succeed.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The disk is full.
    #[error("the disk is full, nothing was stored: free some room and try again ({0})")]
    Full(io::Error),
    /// The disk refused.
    #[error("cannot write the log, nothing was stored: {0}")]
    Io(io::Error),
    /// A refusal could not be explained because what we hold cannot be read.
    #[error("nothing was stored: {0}")]
    Read(#[from] super::ReadError),
}

/// Why contents were not erased, or not for certain: after an error of the disk the next start ends what was begun.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// More than [`MAX_ERASED`] at once.
    #[error("at most {MAX_ERASED} messages can be deleted at once")]
    TooMany,
    /// What was appended before could not be synced.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A message cannot be read.
    #[error(transparent)]
    Read(#[from] super::ReadError),
    /// The disk refused.
    #[error("cannot write the log: {0}; a restart ends what was begun")]
    Io(io::Error),
}

impl Writer {
    pub(super) fn new(log: Log, shared: Arc<Shared>, options: Options, report: OpenReport) -> Self {
        let received = shared.index().received();
        let checkpoint_at = options.checkpoint_messages;
        let (pending, tips) = (Vec::new(), BTreeMap::new());
        Self { log, shared, options, report, pending, tips, received, checkpoint_at }
    }

    /// Stores a batch: when this returns, its messages are durable and readers see them.
    ///
    /// `received` is the time now in milliseconds since 1970.
    pub fn commit(&mut self, batch: Vec<Message>, received: f64) -> Result<Appended, AppendError> {
        let appended = self.append(batch, received)?;
        self.sync()?;
        Ok(appended)
    }

    /// Appends a batch that is not durable and not visible before [`Self::sync`]. After an error everything
    /// appended since the last sync is gone.
    pub fn append(&mut self, batch: Vec<Message>, received: f64) -> Result<Appended, AppendError> {
        let mut appended = Appended::default();
        for message in batch {
            match self.refusal(&message) {
                Ok(None) => match self.append_one(&message, received) {
                    Ok((offset, received)) => appended.stored.push(Stored { offset, received, message }),
                    Err(error) => return Err(self.failed(error)),
                },
                Ok(Some(why)) => appended.refused.push(Refused { message, why }),
                Err(error) => {
                    self.log.roll_back();
                    self.forget_pending();
                    return Err(error.into());
                }
            }
        }
        Ok(appended)
    }

    /// Makes everything appended durable and visible, and makes a checkpoint when one is due.
    pub fn sync(&mut self) -> Result<(), AppendError> {
        if let Err(error) = self.log.sync() {
            return Err(self.failed(error));
        }
        self.publish();
        let unsealed = self.shared.index().unsealed();
        if unsealed >= self.checkpoint_at
            && let Err(error) = self.checkpoint()
        {
            // The messages are stored all the same; only the next start is slower.
            tracing::warn!(%error, unsealed, "no checkpoint could be made");
            self.checkpoint_at = unsealed + self.options.checkpoint_messages;
        }
        Ok(())
    }

    /// Deletes the content of stored messages, [`MAX_ERASED`] at most: when this returns it is gone from the disk and
    /// readers do not see these messages any more, while their places in their feeds stay taken, so that the chains
    /// can be verified and no peer sends them again. Ids that are not stored are passed over. Says how many were erased.
    ///
    /// What was appended since the last sync is synced first.
    pub fn erase(&mut self, ids: &[MessageId]) -> Result<usize, EraseError> {
        if ids.len() > MAX_ERASED {
            return Err(EraseError::TooMany);
        }
        self.sync()?;
        let reader = self.reader();
        let mut offsets = Vec::new();
        for id in ids {
            offsets.extend(reader.get(id)?.map(|stored| stored.offset));
        }
        if !offsets.is_empty() {
            self.shared.segments.erase(&offsets).map_err(EraseError::Io)?;
        }
        Ok(offsets.len())
    }

    /// Seals the index up to what is durable, so that the next start has nothing to read again. Done by itself
    /// every [`Options::checkpoint_messages`]; worth doing when idle.
    pub fn checkpoint(&mut self) -> Result<(), IndexError> {
        if self.shared.index().unsealed() > 0 {
            let covered = self.log.synced();
            let sealed = self.shared.index().seal(covered)?;
            self.shared.index_mut().install(sealed);
        }
        self.checkpoint_at = self.options.checkpoint_messages;
        Ok(())
    }

    /// Ends the writer with a sync and a checkpoint.
    pub fn close(mut self) -> Result<(), AppendError> {
        self.sync()
        // The checkpoint is made when `self` goes.
    }

    /// What happened when the store was opened.
    pub fn opened(&self) -> &OpenReport {
        &self.report
    }

    /// The feed's newest message, those not yet durable included.
    pub fn tip(&self, feed: &FeedId) -> Option<Tip> {
        self.tips.get(feed).copied().or_else(|| self.shared.index().tip(feed))
    }

    fn append_one(&mut self, message: &Message, received: f64) -> io::Result<(u64, f64)> {
        let received = next_received(received, self.received);
        let value = message.value_bytes();
        let record = Record {
            id: message.id(),
            author: message.author(),
            sequence: message.sequence(),
            received,
            claimed: message.timestamp(),
            value,
            erased: false,
        };
        let offset = self.log.append(&record)?;
        self.received = received;
        self.tips.insert(message.author(), message.tip());
        self.pending.push(super::entry_of(offset, received, message));
        Ok((offset, received))
    }

    fn refusal(&self, message: &Message) -> Result<Option<Refusal>, super::ReadError> {
        let tip = self.tip(&message.author());
        let expected = tip.map_or(0, |tip| tip.sequence).saturating_add(1);
        if message.value_bytes().len() > MAX_VALUE {
            return Ok(Some(Refusal::TooLong));
        }
        if message.sequence() > expected {
            return Ok(Some(Refusal::Gap { expected }));
        }
        if message.sequence() < expected {
            let held = self.held(&message.author(), message.sequence())?;
            return Ok(Some(match held {
                Some(held) if held.id != message.id() => Refusal::Forked { held },
                Some(_) | None => Refusal::Known,
            }));
        }
        match tip {
            Some(held) if message.previous() != Some(held.id) => Ok(Some(Refusal::Forked { held })),
            // A first message that names a previous one, or the number 0.
            None if !super::follows(message, None) => Ok(Some(Refusal::Gap { expected })),
            Some(_) | None => Ok(None),
        }
    }

    /// The message that we hold at a place of a feed.
    fn held(&self, feed: &FeedId, sequence: u64) -> Result<Option<Tip>, super::ReadError> {
        let pending = self.pending.iter().find(|entry| entry.author == *feed && entry.sequence == sequence);
        if let Some(entry) = pending {
            return Ok(Some(entry.tip()));
        }
        let Some(position) = sequence.checked_sub(1) else { return Ok(None) };
        let found = self.shared.index().list_slice(List::Feed(*feed), position..sequence)?;
        let Some(offset) = found.first() else { return Ok(None) };
        let loaded = self.shared.segments.read(*offset)?;
        Ok(Some(Tip { id: loaded.id, sequence }))
    }

    fn publish(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let mut index = self.shared.index_mut();
        for entry in self.pending.drain(..) {
            index.add(&entry);
        }
        self.tips.clear();
    }

    /// The log has undone what was not synced; so do we.
    fn failed(&mut self, error: io::Error) -> AppendError {
        self.log.roll_back();
        self.forget_pending();
        if is_full(&error) { AppendError::Full(error) } else { AppendError::Io(error) }
    }

    fn forget_pending(&mut self) {
        self.pending.clear();
        self.tips.clear();
        self.received = self.shared.index().received();
    }

    /// Another reader.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // After a panic what is in memory may be half of something; the log is whole in any case.
        if !std::thread::panicking()
            && let Err(error) = self.checkpoint()
        {
            tracing::warn!(%error, "no checkpoint could be made; the next start takes longer");
        }
    }
}

/// The receive time of the next message: now, but always after the last one.
fn next_received(now: f64, last: f64) -> f64 {
    if now > last && now.is_finite() { now } else { (last + RECEIVED_STEP).max(last.next_up()) }
}
