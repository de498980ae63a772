//! Opening the store: take the lock, open the index, see whether it belongs to this log, and index again
//! what the log has behind the last checkpoint.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use bytes::Bytes;

use super::disk::{Disk, Folder};
use super::index::Index;
use super::log::record::Record;
use super::log::recover::{Cut, Layout, RecoverError, recover};
use super::log::scan::Step;
use super::log::{self, HEADER};
use super::tables::{IndexError, Tables};
use super::{Lock, Options, Reader, Shared, Writer};
use crate::message::Message;
use crate::refs::FeedId;

/// `progress` hears of this many bytes at a time.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{} is in use by another hawsepipe: stop it first", path.display())]
    InUse {
        /// The store's folder.
        path: PathBuf,
    },
    /// The folder cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] RecoverError),
    /// A message in the log does not follow the one before it in its feed.
    #[error(
        "the log's message at offset {offset} of {author} does not follow the one before it; `hawsepipe check --repair` removes it and what follows (peers send it again)"
    )]
    BrokenChain {
        /// Where in the log.
        offset: u64,
        /// Whose message.
        author: FeedId,
    },
    /// A record in the log holds no message.
    #[error("the log's record at offset {offset} holds no message; `hawsepipe check --repair` removes it")]
    NotAMessage {
        /// Where in the log.
        offset: u64,
    },
    /// The index cannot be used, and a new one cannot be made.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// What happened at opening.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// An unfinished write was cut off the log.
    pub cut: Option<Cut>,
    /// The index was made anew, and why.
    pub rebuilt: Option<Rebuilt>,
    /// How many messages were indexed.
    pub indexed: u64,
}

impl OpenReport {
    /// Whether messages that this store had acknowledged are known to be gone, our own perhaps among
    /// them: then publishing would fork the feed.
    pub fn lost_acknowledged(&self) -> bool {
        matches!(self.rebuilt, Some(Rebuilt::LogIsShorter { .. } | Rebuilt::OtherLog))
    }
}

/// Why an index was made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rebuilt {
    /// There was none, or one of another version.
    Missing,
    /// sled could not read it; it was moved.
    Unreadable {
        /// Where it is now.
        moved_to: PathBuf,
    },
    /// It covers more than the log has: the log has lost its end.
    LogIsShorter {
        /// By how many bytes.
        by: u64,
    },
    /// It covers another log.
    OtherLog,
    /// It contradicts itself.
    Inconsistent,
}

pub(super) fn open(
    dir: &Path,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Writer, Reader), OpenError> {
    let lock = prepare(dir)?;
    let path = dir.join("log");
    let disk = Folder::at(path.clone()).map_err(|source| OpenError::Io { path, source })?;
    open_on(Arc::new(disk), &dir.join("index"), lock, options, progress)
}

/// Makes the folder, takes its lock and ends what a crash interrupted.
pub(super) fn prepare(dir: &Path) -> Result<Lock, OpenError> {
    let failed = |source| OpenError::Io { path: dir.to_owned(), source };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let lock = Lock::take(dir)?;
    super::rewrite::settle(dir).map_err(failed)?;
    Ok(lock)
}

pub(super) fn open_on(
    disk: Arc<dyn Disk>,
    index_dir: &Path,
    lock: Lock,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Writer, Reader), OpenError> {
    let layout = Layout::read(disk)?;
    log::erase::redo(&layout)?;
    let (tables, aside) = Tables::open(index_dir, options.cache_bytes)?;
    let mut index = Index::load(tables)?;
    // Believed even of an index that is not: better to ask about damage than to cut off something.
    let acknowledged = index.sealed().covered;
    let mut rebuilt = reason_to_rebuild(&index, &layout)?;
    if let Some(aside) = aside {
        rebuilt = Some(Rebuilt::Unreadable { moved_to: aside.0 });
    }
    if rebuilt.is_some() {
        index = index.emptied()?;
    }
    let from = index.sealed().covered;
    let total = layout.end().saturating_sub(from);
    let mut told = 0;
    let mut indexed = 0;
    let mut may_seal = true;
    let (log, cut) = recover(layout, options.segment_bytes, from..acknowledged, |offset, record| {
        index_again(&mut index, offset, record)?;
        indexed += 1;
        let end = offset + record.len() as u64;
        if may_seal && index.unsealed() >= options.checkpoint_messages {
            may_seal = seal(&mut index, end)?;
        }
        if end - from - told >= PROGRESS_BYTES {
            told = end - from;
            progress(told, total);
        }
        Ok::<_, OpenError>(())
    })?;
    if total > 0 {
        progress(total, total);
    }
    if may_seal && rebuilt.is_some() && index.unsealed() > 0 {
        seal(&mut index, log.end())?;
    }
    let fresh = rebuilt == Some(Rebuilt::Missing) && index.messages() == 0;
    let report = OpenReport { cut, rebuilt: rebuilt.filter(|_| !fresh), indexed };
    let segments = Arc::clone(log.segments());
    let shared = Arc::new(Shared { index: RwLock::new(index), segments, _lock: lock });
    Ok((Writer::new(log, Arc::clone(&shared), options.clone(), report), Reader::new(shared)))
}

/// Says whether the index must not be believed.
fn reason_to_rebuild(index: &Index, layout: &Layout) -> Result<Option<Rebuilt>, OpenError> {
    let sealed = index.sealed();
    let Some((newest, id)) = sealed.newest else {
        return Ok(Some(Rebuilt::Missing));
    };
    if sealed.covered > layout.end() {
        return Ok(Some(Rebuilt::LogIsShorter { by: sealed.covered - layout.end() }));
    }
    if newest >= sealed.covered || !index.is_consistent() {
        return Ok(Some(Rebuilt::Inconsistent));
    }
    let Some((base, file)) = layout.files.range(..=newest).next_back() else {
        return Ok(Some(Rebuilt::OtherLog));
    };
    let failed = |source| OpenError::from(layout.io(*base, source));
    let mut scan = log::scan_segment(file, *base, newest.max(HEADER as u64)).map_err(failed)?;
    match scan.step().map_err(failed)? {
        Step::Message { record, .. } if record.id == id => Ok(None),
        Step::Message { .. } | Step::Void { .. } | Step::Bad { .. } | Step::End => {
            Ok(Some(Rebuilt::OtherLog))
        }
    }
}

fn index_again(index: &mut Index, offset: u64, record: &Record<'_>) -> Result<(), OpenError> {
    let message = Message::from_trusted(record.id, Bytes::copy_from_slice(record.value))
        .map_err(|_| OpenError::NotAMessage { offset })?;
    let author = message.author();
    if !super::follows(&message, index.tip(&author)) {
        return Err(OpenError::BrokenChain { offset, author });
    }
    index.add(&super::entry_of(offset, record.received, &message));
    Ok(())
}

/// Makes a checkpoint while nobody reads yet. A full disk is no reason not to open: the index stays in
/// memory; then the answer is false.
fn seal(index: &mut Index, covered: u64) -> Result<bool, IndexError> {
    match index.seal(covered) {
        Ok(sealed) => {
            index.install(sealed);
            Ok(true)
        }
        Err(error @ IndexError::Full(_)) => {
            tracing::warn!(%error, "the index stays in memory");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
