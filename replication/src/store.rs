//! The store: every message we hold, on disk, and the ways to find it.
//!
//! One [`Writer`] appends, any number of [`Reader`]s read at the same time. Both are synchronous: a thread
//! of the node owns the writer, readers are used wherever blocking is allowed. Time comes in as an argument.
//!
//! ```text
//! <dir>/LOCK               held while the store is open
//! <dir>/log/<base>.log     the messages, in receive order; format in [`log`]
//! <dir>/index/             sled: where in the log is what; layout in [`tables`]
//! ```
//!
//! What always holds:
//! - **The log is the truth.** A message is stored when [`Writer::commit`] (or [`Writer::sync`]) has returned:
//!   then it survives a power cut, and only then do readers see it.
//! - **The index follows.** Checkpoints seal its newest part; after a start only the log behind the last
//!   checkpoint is read again. A missing, damaged or foreign index is made again from the log.
//! - **Feeds are chains.** Each stored message is the next of its feed: sequence and `previous` fit the
//!   message before it. What does not fit is refused and changes nothing.
//! - **Receive times strictly increase** along the log, as in JavaScript's.
//! - **Nothing is lost silently.** What cannot be read is reported with its place; bytes that are cut off
//!   are kept in a file beside.
//!
//! A message is deleted by [`Writer::erase`]: its content goes, its place in the chain stays. A feed is deleted, and
//! space reclaimed, by writing the log anew: [`Store::rewrite`].

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::message::Message;
use crate::refs::{FeedId, MessageId};

mod check;
mod disk;
mod index;
mod log;
mod open;
mod reader;
mod rewrite;
mod tables;
mod terms;
mod writer;

#[cfg(test)]
mod fake_disk;
#[cfg(test)]
mod tests;

pub use check::{CheckOptions, CheckReport, Finding, Problem};
pub use log::recover::{Cut, RecoverError};
pub use open::{OpenError, OpenReport, Rebuilt};
pub use reader::{Messages, Order, Reader};
pub use rewrite::Rewritten;
pub use tables::IndexError;
pub use terms::{Term, index_terms};
pub use writer::{AppendError, Appended, EraseError, Refusal, Refused, Writer};

/// How the store works; the default is right for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A segment of the log ends at the first sync at which it is this long.
    pub segment_bytes: u64,
    /// A checkpoint is made after this many messages: that much is read again after a crash, and that
    /// much of the index is in memory.
    pub checkpoint_messages: u64,
    /// sled's cache.
    pub cache_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, checkpoint_messages: 16 * 1024, cache_bytes: 8 << 20 }
    }
}

/// Where stores are opened and checked.
#[derive(Clone, Copy, Debug)]
pub struct Store;

impl Store {
    /// Opens the store in a folder, making it when it is not there.
    ///
    /// `progress` hears (bytes done, bytes in all) while the log's tail, or all of it, is indexed again.
    pub fn open(
        dir: &Path,
        options: &Options,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Writer, Reader), OpenError> {
        open::open(dir, options, progress)
    }

    /// Verifies every message and the whole index; with `repair` makes the store usable again, keeping
    /// whatever it removes in files beside. The store must not be open.
    pub fn check(
        dir: &Path,
        options: &CheckOptions<'_>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<CheckReport, OpenError> {
        check::check(dir, options, progress)
    }

    /// Writes the log anew without some feeds: they are gone for good and their space is back. Whatever a crash
    /// leaves, the next opening makes either of the two logs of it. The store must not be open.
    pub fn rewrite(
        dir: &Path,
        without: &BTreeSet<FeedId>,
        options: &Options,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Rewritten, OpenError> {
        rewrite::rewrite(dir, without, options, progress)
    }
}

/// A message in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its place in the log: larger means received later.
    pub offset: u64,
    /// When it was received, milliseconds since 1970; no two messages have the same.
    pub received: f64,
    /// The message.
    pub message: Message,
}

impl Stored {
    /// The time by which messages of all feeds are ordered: the claimed one, but never later than the
    /// reception, so that no message can place itself in the future.
    pub fn time(&self) -> f64 {
        resolved_time(self.received, self.message.timestamp())
    }
}

fn resolved_time(received: f64, claimed: f64) -> f64 {
    // 0 is also what a message without a number has; JavaScript's server decides the same way.
    if claimed.is_finite() && claimed != 0.0 && claimed <= received { claimed } else { received }
}

/// Why a message cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The segment file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is there is not what was written.
    #[error("{} is damaged at log offset {offset}: stop the node and run `hawsepipe check`", path.display())]
    Damaged {
        /// The segment file.
        path: PathBuf,
        /// Where in the log.
        offset: u64,
    },
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// What the writer and the readers have in common.
#[derive(Debug)]
struct Shared {
    /// Guards what is published. The writer holds it only to add what is durable; readers hold it while
    /// they look something up, never while they read the log.
    index: RwLock<index::Index>,
    segments: Arc<log::Segments>,
    /// Held until the last reader is gone.
    _lock: Lock,
}

impl Shared {
    fn index(&self) -> RwLockReadGuard<'_, index::Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, index::Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a message of what the log has, unless its content was erased.
    fn stored(&self, loaded: log::read::Loaded) -> Result<Option<Stored>, ReadError> {
        let log::read::Loaded { offset, id, received, value, erased, .. } = loaded;
        if erased {
            return Ok(None);
        }
        let damaged = |_| ReadError::Damaged { path: self.segments.path_of(offset), offset };
        let message = Message::from_trusted(id, value).map_err(damaged)?;
        Ok(Some(Stored { offset, received, message }))
    }
}

/// The right to use a folder.
#[derive(Debug)]
struct Lock {
    _file: File,
}

impl Lock {
    fn take(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join("LOCK");
        let failed = |source| OpenError::Io { path: path.clone(), source };
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: dir.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

/// What the index is told of a message in the log.
fn entry_of(offset: u64, received: f64, message: &Message) -> index::Entry {
    let mut terms: Vec<u64> = index_terms(message).iter().map(Term::fingerprint).collect();
    terms.sort_unstable();
    terms.dedup();
    index::Entry {
        offset,
        id: message.id(),
        author: message.author(),
        sequence: message.sequence(),
        received,
        time: resolved_time(received, message.timestamp()),
        terms,
    }
}

/// Whether a message is the next of a feed whose newest is `tip`.
fn follows(message: &Message, tip: Option<crate::message::Tip>) -> bool {
    let (sequence, previous) = tip.map_or((0, None), |tip| (tip.sequence, Some(tip.id)));
    sequence.checked_add(1) == Some(message.sequence()) && message.previous() == previous
}

/// Ids in the log whose first eight bytes are those of `id`.
fn same_prefix(id: &MessageId) -> std::ops::RangeInclusive<index::coding::Pair> {
    let key = index::id_key(id);
    (key, 0)..=(key, u64::MAX)
}
