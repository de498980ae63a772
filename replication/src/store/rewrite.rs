//! Writes the log anew without some feeds, and without what repair left void: this is how a feed is deleted for
//! good, and how its space comes back. The store must not be open.
//!
//! The new log is written beside the old one and takes its place by renaming. A crash at any point leaves a
//! state that [`settle`], which every opening begins with, makes one of the two logs again:
//!
//! ```text
//! what is done                              a crash after it leaves
//! log.new/ is written and synced            the old log; log.new is removed
//! index/ is removed                         the old log, indexed again
//! log/ becomes log.old/                     the old log, which gets its name back
//! log.new/ becomes log/                     the new log; log.old is removed
//! log.old/ is removed                       the new log
//! ```
//!
//! Receive order and times stay; offsets do not. Files beside the segments that hold what repair removed are
//! taken along: they may hold messages of a deleted feed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Folder;
use super::log::Log;
use super::log::erase::JOURNAL;
use super::log::recover::{Layout, recover};
use super::open::{self, OpenError};
use super::{Options, log};
use crate::message::without_content;
use crate::refs::FeedId;

/// The new log is synced after so many bytes.
const SYNC_BYTES: u64 = 8 << 20;

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Messages that are in the new log.
    pub kept: u64,
    /// Messages that are not.
    pub deleted: u64,
    /// Length of the old log.
    pub bytes_before: u64,
    /// Length of the new log.
    pub bytes_after: u64,
    /// Files that hold what repair once removed; they may hold messages of a deleted feed.
    pub beside: Vec<PathBuf>,
}

/// The folders of a store.
#[derive(Debug)]
pub(super) struct Folders {
    dir: PathBuf,
    log: PathBuf,
    pub(super) new: PathBuf,
    pub(super) old: PathBuf,
    index: PathBuf,
}

impl Folders {
    pub(super) fn of(dir: &Path) -> Self {
        let at = |name| dir.join(name);
        Self { dir: at(""), log: at("log"), new: at("log.new"), old: at("log.old"), index: at("index") }
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

/// The steps once the new log is written, each safe to be the last.
pub(super) const STEPS: [fn(&Folders) -> io::Result<()>; 4] = [
    |folders| remove(&folders.index),
    |folders| fs::rename(&folders.log, &folders.old).and_then(|()| folders.sync_names()),
    |folders| fs::rename(&folders.new, &folders.log).and_then(|()| folders.sync_names()),
    |folders| remove(&folders.old).and_then(|()| folders.sync_names()),
];

/// Writes the log without the messages of `without`.
pub(super) fn rewrite(
    dir: &Path,
    without: &BTreeSet<FeedId>,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Rewritten, OpenError> {
    // Finds damage, and cuts off an unfinished write.
    drop(open::open(dir, options, progress)?);
    let _lock = open::prepare(dir)?;
    let folders = Folders::of(dir);
    let done = write_new(&folders, without, options, progress)?;
    let failed = |source| OpenError::Io { path: dir.to_owned(), source };
    STEPS.iter().try_for_each(|step| step(&folders)).map_err(failed)?;
    Ok(done)
}

/// Ends what a crash interrupted.
pub(super) fn settle(dir: &Path) -> io::Result<()> {
    let folders = Folders::of(dir);
    if folders.old.exists() && !folders.log.exists() {
        fs::rename(&folders.old, &folders.log)?;
        folders.sync_names()?;
    }
    remove(&folders.new)?;
    remove(&folders.old)
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes the new log beside the old one.
pub(super) fn write_new(
    folders: &Folders,
    without: &BTreeSet<FeedId>,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Rewritten, OpenError> {
    let disk = |path: &PathBuf| {
        let folder = Folder::at(path.clone());
        folder.map(Arc::new).map_err(|source| OpenError::Io { path: path.clone(), source })
    };
    let failed = |source| OpenError::Io { path: folders.new.clone(), source };
    let nothing = |_, _: &log::record::Record<'_>| Ok::<_, OpenError>(());
    let (mut new, _) = recover(Layout::read(disk(&folders.new)?)?, options.segment_bytes, 0..0, nothing)?;
    let old = Layout::look(disk(&folders.log)?)?;
    let mut done = Rewritten { bytes_before: old.end(), ..Rewritten::default() };
    let mut synced = 0;
    recover(old, options.segment_bytes, 0..0, |offset, record| {
        if without.contains(&record.author) {
            done.deleted += 1;
        } else {
            append(&mut new, record).map_err(failed)?;
            done.kept += 1;
        }
        if offset - synced >= SYNC_BYTES {
            synced = offset;
            new.sync().map_err(failed)?;
            progress(offset, done.bytes_before);
        }
        Ok::<_, OpenError>(())
    })?;
    finish(&mut new, folders, &mut done).map_err(failed)?;
    progress(done.bytes_before, done.bytes_before);
    Ok(done)
}

/// Takes a message over; what erasing left of one without the blanks that keep its length.
fn append(new: &mut Log, record: &log::record::Record<'_>) -> io::Result<u64> {
    if !record.erased {
        return new.append(record);
    }
    let bad = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let value = without_content(record.value, false).map_err(bad)?;
    new.append(&log::record::Record { value: &value, ..*record })
}

fn finish(new: &mut Log, folders: &Folders, done: &mut Rewritten) -> io::Result<()> {
    new.sync()?;
    done.bytes_after = new.end();
    for entry in fs::read_dir(&folders.log)? {
        let name = entry?.file_name();
        let is_kept = |name: &str| !log::is_segment(name) && name != JOURNAL;
        if name.to_str().is_none_or(is_kept) {
            fs::hard_link(folders.log.join(&name), folders.new.join(&name))?;
            done.beside.push(folders.log.join(name));
        }
    }
    File::open(&folders.new)?.sync_all()?;
    folders.sync_names()
}
