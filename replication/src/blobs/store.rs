//! Blobs on disk. The layout is multiblob's, so that a folder that JS's servers have filled works as it is:
//!
//! ```text
//! <dir>/sha256/ab/cdef…       a blob: the hash in hex, its first byte names the folder
//! <dir>/tmp/…                 what is still coming; emptied when the store is opened
//! <marks>/own|pinned|pushed/abcdef…   empty files: blobs that are never evicted, and why
//! ```
//!
//! The file system is the index: nothing about blobs is kept in memory, so files that another program adds or takes
//! away are no surprise. When a blob was last used is its file's time of access, set by hand when it is served,
//! because many file systems do not keep it; when it came is its time of modification.
//!
//! What always holds: a file under a hash has once had that hash and is on disk as a whole; what is not complete lies
//! in `tmp` and is gone after an error.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, FileTimes, Metadata, OpenOptions, ReadDir};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{EMPTY, Incoming};
use crate::refs::BlobId;

/// A blob's time of last use is renewed when it is older than this: reading must not mean writing each time.
const USE_STEP: Duration = Duration::from_secs(3600);
/// Eviction goes on until one part in so many of the quota is free, so that not every new blob starts another one.
const FREED_PART: u64 = 10;

/// Why a blob could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The disk is full. Nothing was kept.
    #[error("could not write to tmpfile: the disk is full ({0})")]
    DiskFull(io::Error),
    /// The file system refused. Nothing was kept.
    #[error("could not {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is as large as the largest that is allowed, or larger; JS's text.
    #[error("Cannot add blob, it's bigger than blobs.max")]
    TooLarge,
    /// The bytes are of another blob; JS's text.
    #[error("actual hash:{actual} did not match expected id:{expected}")]
    WrongHash {
        /// What was asked for.
        expected: BlobId,
        /// What came.
        actual: BlobId,
    },
}

impl BlobError {
    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            Self::DiskFull(source)
        } else {
            Self::Io { what, path: path.to_owned(), source }
        }
    }
}

/// Why a blob is never evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// It was added here.
    Own,
    /// Its owner said so.
    Pinned,
    /// It is being pushed: not enough peers have it yet.
    Pushed,
}

impl Mark {
    const ALL: [Self; 3] = [Self::Own, Self::Pinned, Self::Pushed];

    const fn folder(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Pinned => "pinned",
            Self::Pushed => "pushed",
        }
    }
}

/// What is known of a stored blob.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Meta {
    /// Its id.
    pub id: BlobId,
    /// Its length in bytes.
    pub size: u64,
    /// When it came, milliseconds since 1970.
    pub ts: f64,
}

/// How much is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Blobs.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What an eviction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Blobs that are gone.
    pub ids: Vec<BlobId>,
    /// Their bytes.
    pub freed: u64,
    /// What is left. More than the quota if the rest is not to be evicted.
    pub left: Totals,
}

/// The store. Clones are the same store; all methods may touch the disk.
#[derive(Clone, Debug)]
pub struct BlobStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    marks: PathBuf,
    /// Names files in `tmp`.
    serial: AtomicU64,
}

impl BlobStore {
    /// Uses the folder `dir` for blobs and `marks` for what must stay, making what is missing and throwing away what
    /// was still coming when the last program ended.
    pub fn open(dir: &Path, marks: &Path) -> Result<Self, BlobError> {
        let inner = Inner { dir: dir.to_owned(), marks: marks.to_owned(), serial: AtomicU64::new(0) };
        let store = Self { inner: Arc::new(inner) };
        let tmp = store.tmp();
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(BlobError::io("empty", &tmp, error));
            }
            Ok(()) | Err(_) => {}
        }
        let marks = Mark::ALL.map(|mark| marks.join(mark.folder()));
        for folder in [tmp, dir.join("sha256")].into_iter().chain(marks) {
            make_folder(&folder)?;
        }
        Ok(store)
    }

    fn tmp(&self) -> PathBuf {
        self.inner.dir.join("tmp")
    }

    /// Where a blob lies: its folder and its file.
    pub(super) fn place(&self, id: &BlobId) -> (PathBuf, PathBuf) {
        let hex = hex(id);
        let folder = self.inner.dir.join("sha256").join(&hex[..2]);
        let file = folder.join(&hex[2..]);
        (folder, file)
    }

    /// A blob's length, if it is here.
    pub fn size(&self, id: &BlobId) -> Result<Option<u64>, BlobError> {
        Ok(self.meta(id)?.map(|meta| meta.size))
    }

    /// What is known of a blob, if it is here.
    pub fn meta(&self, id: &BlobId) -> Result<Option<Meta>, BlobError> {
        if *id == EMPTY {
            return Ok(Some(Meta { id: EMPTY, size: 0, ts: 0.0 }));
        }
        let (_, file) = self.place(id);
        match fs::metadata(&file) {
            Ok(metadata) => Ok(metadata.is_file().then(|| meta(*id, &metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(BlobError::io("look at", &file, error)),
        }
    }

    /// Opens a blob for reading, if it is here, and notes that it was used `now`, milliseconds since 1970.
    pub fn read(&self, id: &BlobId, now: u64) -> Result<Option<Blob>, BlobError> {
        if *id == EMPTY {
            return Ok(Some(Blob { file: None, size: 0 }));
        }
        let (_, path) = self.place(id);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(BlobError::io("open", &path, error)),
        };
        let metadata = file.metadata().map_err(|error| BlobError::io("look at", &path, error))?;
        let now = UNIX_EPOCH + Duration::from_millis(now);
        if used(&metadata) + USE_STEP < now {
            // A disk that is read-only has nothing to evict either.
            let _ = file.set_times(FileTimes::new().set_accessed(now));
        }
        Ok(Some(Blob { file: Some(file), size: metadata.len() }))
    }

    /// Begins to take a blob, of which `expected` says the id where it is known. Less than `max` bytes are taken.
    pub fn create(&self, expected: Option<BlobId>, max: u64) -> Result<Incoming, BlobError> {
        let serial = self.inner.serial.fetch_add(1, Ordering::Relaxed);
        let path = self.tmp().join(format!("{}-{serial}", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| BlobError::io("write to tmpfile", &path, error))?;
        Ok(Incoming::new(self.clone(), file, path, expected, max))
    }

    /// Deletes a blob; says whether it was there. Its marks go with it.
    pub fn remove(&self, id: &BlobId) -> Result<bool, BlobError> {
        for mark in Mark::ALL {
            self.unmark(id, mark)?;
        }
        let (_, path) = self.place(id);
        remove(&path)
    }

    /// All blobs, in no particular order. What is added or taken away meanwhile may be there or not.
    pub fn list(&self) -> Listed {
        let folders = fs::read_dir(self.inner.dir.join("sha256")).ok();
        Listed { folders, inside: None }
    }

    /// How much is stored. Looks at every file.
    pub fn count(&self) -> Totals {
        let mut totals = Totals::default();
        for (meta, _) in self.list() {
            totals.count += 1;
            totals.bytes += meta.size;
        }
        totals
    }

    /// Deletes what was not used for longest until `quota` bytes hold the rest, and somewhat less. Marked blobs stay,
    /// and those that `spare` says.
    pub fn evict(&self, quota: u64, spare: &BTreeSet<BlobId>) -> Result<Evicted, BlobError> {
        let mut evicted = Evicted::default();
        let mut candidates = Vec::new();
        for (meta, used) in self.list() {
            evicted.left.count += 1;
            evicted.left.bytes += meta.size;
            candidates.push((used, meta.id, meta.size));
        }
        if evicted.left.bytes <= quota {
            return Ok(evicted);
        }
        candidates.sort_unstable();
        for (_, id, size) in candidates {
            if evicted.left.bytes <= quota - quota / FREED_PART {
                break;
            }
            let stays = spare.contains(&id) || Mark::ALL.into_iter().any(|mark| self.is_marked(&id, mark));
            let (_, path) = self.place(&id);
            if !stays && remove(&path)? {
                evicted.left.count -= 1;
                evicted.left.bytes -= size;
                evicted.freed += size;
                evicted.ids.push(id);
            }
        }
        Ok(evicted)
    }
}

/// What must stay.
impl BlobStore {
    fn mark_file(&self, id: &BlobId, mark: Mark) -> PathBuf {
        self.inner.marks.join(mark.folder()).join(hex(id))
    }

    /// Notes that a blob, here or still to come, must stay.
    pub fn mark(&self, id: &BlobId, mark: Mark) -> Result<(), BlobError> {
        let path = self.mark_file(id, mark);
        let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        made.map(drop).map_err(|error| BlobError::io("mark", &path, error))
    }

    /// The reason is gone; says whether there was one.
    pub fn unmark(&self, id: &BlobId, mark: Mark) -> Result<bool, BlobError> {
        remove(&self.mark_file(id, mark))
    }

    /// Whether a blob must stay for this reason.
    pub fn is_marked(&self, id: &BlobId, mark: Mark) -> bool {
        self.mark_file(id, mark).exists()
    }

    /// All blobs with this mark.
    pub fn marked(&self, mark: Mark) -> Vec<BlobId> {
        let entries = fs::read_dir(self.inner.marks.join(mark.folder())).into_iter().flatten();
        entries.filter_map(|entry| from_hex(entry.ok()?.file_name().to_str()?)).collect()
    }
}

/// An open blob.
#[derive(Debug)]
pub struct Blob {
    /// None for the empty one.
    file: Option<File>,
    size: u64,
}

impl Blob {
    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its bytes from `at` on, `most` of them or fewer where it ends.
    pub fn read_at(&self, at: u64, most: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.size.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; most.min(left)];
        if let Some(file) = &self.file {
            // A file that became shorter is damaged: half of a blob helps nobody.
            file.read_exact_at(&mut bytes, at)?;
        }
        Ok(bytes)
    }
}

/// See [`BlobStore::list`]: each blob and when it was last used. What is no blob is passed over.
#[derive(Debug)]
pub struct Listed {
    folders: Option<ReadDir>,
    inside: Option<(String, ReadDir)>,
}

impl Iterator for Listed {
    type Item = (Meta, SystemTime);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((first, files)) = &mut self.inside {
                let Some(file) = files.next() else {
                    self.inside = None;
                    continue;
                };
                let read = || {
                    let file = file.ok()?;
                    let id = from_hex(&format!("{first}{}", file.file_name().to_str()?))?;
                    let metadata = file.metadata().ok().filter(Metadata::is_file)?;
                    Some((meta(id, &metadata), used(&metadata)))
                };
                match read() {
                    Some(found) => return Some(found),
                    None => continue,
                }
            }
            let folder = self.folders.as_mut()?.next()?.ok();
            let open = |folder: fs::DirEntry| {
                let name = folder.file_name().to_str().filter(|name| name.len() == 2)?.to_owned();
                Some((name, fs::read_dir(folder.path()).ok()?))
            };
            self.inside = folder.and_then(open);
        }
    }
}

fn meta(id: BlobId, metadata: &Metadata) -> Meta {
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Meta { id, size: metadata.len(), ts: since.map_or(0.0, |since| since.as_millis() as f64) }
}

fn used(metadata: &Metadata) -> SystemTime {
    metadata.accessed().or_else(|_| metadata.modified()).unwrap_or(UNIX_EPOCH)
}

pub(super) fn make_folder(path: &Path) -> Result<(), BlobError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| BlobError::io("create", path, error))
}

/// Says whether there was a file.
fn remove(path: &Path) -> Result<bool, BlobError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(BlobError::io("remove", path, error)),
    }
}

fn hex(id: &BlobId) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = id.as_bytes().iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

fn from_hex(text: &str) -> Option<BlobId> {
    let mut bytes = [0; 32];
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 64 || !text.bytes().all(is_hex) {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(BlobId::from_bytes(bytes))
}

#[cfg(test)]
mod tests;
