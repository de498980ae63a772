//! What the index keeps in sled: one tree, whose keys begin with the table they belong to.
//!
//! | table | key after the table's byte | value |
//! |---|---|---|
//! | manifest | | JSON: what the index covers, and its runs |
//! | tips | author, 32 | newest message: sequence u64, its offset u64, its id 32 |
//! | feeds | author 32, block u32 | offsets of 1024 messages of a feed, by sequence |
//! | log | block u32 | offsets of 1024 messages, in receive order |
//! | ids | run u32, first pair 16 | sorted pairs (first 8 bytes of the id, offset) |
//! | times | run u32, first pair 16 | sorted pairs (time, offset) |
//! | terms | run u32, first pair 16 | sorted pairs (term's fingerprint, offset) |
//!
//! Numbers in keys are big-endian, so that the order of keys is the order of numbers. The tree's name
//! carries the version of all of this; a tree of another version is dropped and made again from the log.
//! One tree rather than seven because a batch of one tree is atomic in sled.

use std::io::{self, Write as _};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use super::disk::is_full;
use crate::refs::FeedId;

const TREE: &str = "index-1";

/// Why the index failed. It holds nothing that the log does not hold: it can always be made again.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// sled failed.
    #[error("the index failed: {0}; at the next start it is repaired or made again from the log")]
    Sled(#[from] sled::Error),
    /// A block does not hold what it should.
    #[error("the index is damaged in its table of {table}; run `hawsepipe check --repair` to make it again")]
    Malformed {
        /// The table.
        table: &'static str,
    },
    /// There is no room to seal what is in memory.
    #[error("no room on the disk for the index ({0}); free some, what is in memory is sealed later")]
    Full(io::Error),
    /// The folder cannot be read or written.
    #[error("the index's folder: {0}")]
    Io(#[from] io::Error),
}

/// A table of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Manifest = 0,
    Tips = 1,
    Feeds = 2,
    Log = 3,
    Ids = 4,
    Times = 5,
    Terms = 6,
}

impl Table {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Manifest => "what is covered",
            Self::Tips => "newest messages",
            Self::Feeds => "feeds",
            Self::Log => "the log",
            Self::Ids => "ids",
            Self::Times => "times",
            Self::Terms => "terms",
        }
    }

    pub(crate) fn malformed(self) -> IndexError {
        IndexError::Malformed { table: self.name() }
    }

    /// A key of this table.
    pub(crate) fn key(self, rest: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(1 + rest.len());
        key.push(self as u8);
        key.extend_from_slice(rest);
        key
    }
}

/// A list of offsets in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Feed(FeedId),
    Log,
}

impl List {
    pub(crate) const fn table(self) -> Table {
        match self {
            Self::Feed(_) => Table::Feeds,
            Self::Log => Table::Log,
        }
    }

    /// The key of one of the list's blocks.
    pub(crate) fn block_key(self, block: u32) -> Vec<u8> {
        match self {
            Self::Feed(feed) => {
                let mut rest = [0; 36];
                rest[..32].copy_from_slice(feed.as_bytes());
                rest[32..].copy_from_slice(&block.to_be_bytes());
                Table::Feeds.key(&rest)
            }
            Self::Log => Table::Log.key(&block.to_be_bytes()),
        }
    }
}

/// The open tree.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    dir: PathBuf,
    pub(crate) db: sled::Db,
    pub(crate) tree: sled::Tree,
}

/// An index folder that was of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MovedAside(pub(crate) PathBuf);

impl Tables {
    /// Opens the index in a folder. One that sled cannot read is moved aside and a new one begun.
    pub(crate) fn open(dir: &Path, cache: u64) -> Result<(Self, Option<MovedAside>), IndexError> {
        let why = match try_open(dir, cache) {
            Ok(tables) => return Ok((tables, None)),
            // Neither a missing permission nor a full disk gets better by moving the folder.
            Err(Unusable::Error(sled::Error::Io(error))) if !is_content(&error) => return Err(error.into()),
            Err(why) => why,
        };
        let aside = free_name(dir);
        tracing::warn!(?why, moved_to = %aside.display(), "the index is unusable and will be made again");
        std::fs::rename(dir, &aside)?;
        match try_open(dir, cache) {
            Ok(tables) => Ok((tables, Some(MovedAside(aside)))),
            Err(Unusable::Error(error)) => Err(error.into()),
            Err(Unusable::Panic) => Err(Table::Manifest.malformed()),
        }
    }

    /// Opens the index in a folder if sled can read it, and moves nothing.
    pub(crate) fn open_as_it_is(dir: &Path, cache: u64) -> Option<Self> {
        try_open(dir, cache).ok()
    }

    /// Makes sure that the disk has room for this much more. sled gives up for good when it meets a full
    /// disk in the middle of a write, so it should not meet one.
    pub(crate) fn probe_room(&self, bytes: u64) -> Result<(), IndexError> {
        let path = self.dir.with_extension("probe");
        let probed = write_zeros(&path, bytes);
        let removed = match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        };
        match probed.and(removed) {
            Err(error) if is_full(&error) => Err(IndexError::Full(error)),
            other => other.map_err(IndexError::Io),
        }
    }

    /// Empties the index.
    pub(crate) fn clear(&mut self) -> Result<(), IndexError> {
        self.db.drop_tree(TREE)?;
        self.tree = self.db.open_tree(TREE)?;
        Ok(())
    }
}

fn write_zeros(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    let piece = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let n = left.min(piece.len() as u64);
        file.write_all(&piece[..n as usize])?;
        left -= n;
    }
    Ok(())
}

#[derive(Debug)]
enum Unusable {
    Error(sled::Error),
    Panic,
}

/// sled panics on some damaged files, hence the catch.
fn try_open(dir: &Path, cache: u64) -> Result<Tables, Unusable> {
    let open = || {
        wait_for_release(&dir.join("db"))?;
        let config = sled::Config::new().path(dir).cache_capacity(cache).flush_every_ms(None);
        let db = config.open()?;
        for name in db.tree_names() {
            if name.starts_with(b"index-") && name != TREE.as_bytes() {
                db.drop_tree(&name)?;
            }
        }
        let tree = db.open_tree(TREE)?;
        Ok(Tables { dir: dir.to_owned(), db, tree })
    };
    match std::panic::catch_unwind(AssertUnwindSafe(open)) {
        Ok(opened) => opened.map_err(Unusable::Error),
        Err(_) => Err(Unusable::Panic),
    }
}

/// After its last handle is dropped, sled's own threads may hold its file's lock for a moment more. Nobody
/// else can: the store's lock is ours.
fn wait_for_release(file: &Path) -> io::Result<()> {
    match std::fs::File::open(file) {
        Ok(file) => file.lock(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether an IO error speaks of what the files hold rather than of reaching them.
fn is_content(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
}

/// The first of `dir.damaged-1`, `dir.damaged-2`, … that does not exist.
pub(crate) fn free_name(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(".damaged-");
    let numbered = |n: u32| {
        let mut name = name.clone();
        name.push(n.to_string());
        PathBuf::from(name)
    };
    (1..).map(numbered).find(|path| !path.exists()).unwrap_or_else(|| numbered(0))
}
