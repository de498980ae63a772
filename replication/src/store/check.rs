//! `hawsepipe check`: is every message what it was when it was stored, and does the index say what the
//! log says? With repair, the store is made usable again: what is bad becomes void (its bytes are
//! kept in a file beside), messages that hang in the air behind it too, and the index is made again.
//! What is lost that way, peers can send again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Folder;
use super::index::Index;
use super::log::erase;
use super::log::recover::{Layout, RecoverError};
use super::open::{self, OpenError};
use super::tables::Tables;
use super::{Lock, Options};
use crate::message::{HmacKey, InvalidMessage};

mod mend;
mod walk;

use walk::Walk;

/// A report lists this many findings and counts the others.
pub(super) const MAX_FINDINGS: usize = 1000;

/// How a check is done.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions<'a> {
    /// The network's signing cap, if it has one.
    pub hmac: Option<&'a HmacKey>,
    /// Make the store usable again.
    pub repair: bool,
    /// The store's options, used when its index is made again.
    pub store: Options,
}

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// Good messages.
    pub messages: u64,
    /// Feeds with good messages.
    pub feeds: u64,
    /// Length of the log.
    pub bytes: u64,
    /// What is wrong, the first thousand.
    pub findings: Vec<Finding>,
    /// How many findings there are in all.
    pub found: u64,
    /// Everything found that can be repaired has been.
    pub repaired: bool,
    /// Files that hold what was removed.
    pub saved: Vec<PathBuf>,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.found == 0
    }
}

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct Finding {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What can be wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Bytes that are no record.
    #[error("offsets {from}..{to} are damaged")]
    Damaged {
        /// The first bad offset.
        from: u64,
        /// Where the log goes on.
        to: u64,
    },
    /// The log ends in a write that was never finished; the next start cuts it off.
    #[error("an unfinished write from offset {from} on")]
    UnfinishedWrite {
        /// Where it begins.
        from: u64,
    },
    /// A segment is absent or too short.
    #[error("offsets {from}..{to} are missing")]
    Missing {
        /// First offset that is missing.
        from: u64,
        /// First offset that is there again.
        to: u64,
    },
    /// Two segments hold the same offsets. This cannot be repaired here.
    #[error("begins at offset {at}, which the segment before it holds too: move the wrong file away")]
    Overlap {
        /// The offset.
        at: u64,
    },
    /// A segment's header is damaged.
    #[error("the segment's header is damaged")]
    Header,
    /// A message is not valid.
    #[error("the message at offset {offset} is not valid: {why}")]
    Invalid {
        /// Where it is.
        offset: u64,
        /// What is wrong with it.
        why: InvalidMessage,
    },
    /// A record says other things than the message in it.
    #[error("the record at offset {offset} does not describe its message")]
    Mismatch {
        /// Where it is.
        offset: u64,
    },
    /// A message follows one of its feed that is not good.
    #[error("the message at offset {offset} follows one that is missing")]
    Orphan {
        /// Where it is.
        offset: u64,
    },
    /// A message was received no later than the one before it.
    #[error("the message at offset {offset} was received no later than the one before it")]
    ReceiveTime {
        /// Where it is.
        offset: u64,
    },
    /// The log is shorter than what had been acknowledged and indexed.
    #[error("the log has lost its last {by} bytes")]
    LogIsShorter {
        /// How many bytes.
        by: u64,
    },
    /// The index cannot be read.
    #[error("the index cannot be read; the next start makes it again")]
    IndexUnreadable,
    /// A table of the index does not say what the log says.
    #[error("the index is wrong in its table of {table}")]
    Index {
        /// The table.
        table: &'static str,
    },
}

pub(super) fn check(
    dir: &Path,
    options: &CheckOptions<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<CheckReport, OpenError> {
    let lock = open::prepare(dir)?;
    let log_dir = dir.join("log");
    let failed = |source| OpenError::Io { path: log_dir.clone(), source };
    let disk = Arc::new(Folder::at(log_dir.clone()).map_err(failed)?);
    let index_dir = dir.join("index");
    let layout = Layout::look(Arc::<Folder>::clone(&disk))?;
    erase::redo(&layout)?;
    let had_index = index_dir.exists();
    let index = had_index
        .then(|| Tables::open_as_it_is(&index_dir, options.store.cache_bytes))
        .flatten()
        .and_then(|tables| Index::load(tables).ok());

    let covered = index.as_ref().map_or(0, |index| index.sealed().covered);
    let mut walk = Walk::new(&layout, options.hmac, covered);
    walk.run(progress)?;
    let (mut report, bad) = walk.finish();
    let mut note = |problem| report.note(index_dir.clone(), problem);
    match &index {
        Some(index) if covered > layout.end() => {
            note(Problem::LogIsShorter { by: index.sealed().covered - layout.end() });
        }
        Some(index) => match index.audit(&bad.erased) {
            Ok(audit) => {
                for table in audit.differences(&bad.expected) {
                    note(Problem::Index { table: table.name() });
                }
            }
            Err(_) => note(Problem::IndexUnreadable),
        },
        None if had_index => note(Problem::IndexUnreadable),
        None => {}
    }
    drop(index);
    if options.repair && !report.is_clean() {
        mend::mend(&layout, &bad, &mut report)?;
        make_index_again(disk, &index_dir, lock, &options.store, progress)?;
        report.repaired = true;
    }
    Ok(report)
}

/// Opening makes the index; an unfinished write at the log's end is cut off on the way.
fn make_index_again(
    disk: Arc<Folder>,
    index_dir: &Path,
    lock: Lock,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), OpenError> {
    let failed = |source| OpenError::Io { path: index_dir.to_owned(), source };
    match std::fs::remove_dir_all(index_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let (writer, _) = open::open_on(disk, index_dir, lock, options, progress)?;
    drop(writer);
    Ok(())
}

impl CheckReport {
    fn note(&mut self, path: PathBuf, problem: Problem) {
        self.found += 1;
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { path, problem });
        }
    }
}

type LogResult<T> = Result<T, RecoverError>;
