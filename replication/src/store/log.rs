//! The log: all messages in the order in which they were received, append-only. It is the store's one
//! source of truth; everything else can be made again from it.
//!
//! The store's [`Writer`](super::Writer) drives it. `append` only collects; `sync` writes, makes durable
//! and thereby commits. What always holds:
//! - what a successful `sync` covered is never moved or cut by this module, and changed only by [`erase`];
//! - a failed append or sync leaves exactly what the last successful sync left, and later ones may succeed;
//! - bytes that cannot be read are never skipped silently and never thrown away.
//!
//! # Format, version 1
//! A folder of *segments*. Log offsets are `u64` and run on through all segments: a segment begins at its
//! *base*, its file's first byte has that offset, and the next segment's base is where it ends. The file
//! name is the base as 16 lower-case hexadecimal digits and `.log`. Only the last segment grows; a new one
//! is begun only when everything before it is synced. All numbers are little-endian.
//!
//! ```text
//! segment header, 32 bytes
//!   0  8  "hawselog"
//!   8  2  format version, 1
//!  10  2  zero
//!  12  8  base
//!  20  8  zero
//!  28  4  CRC-32 (IEEE) of bytes 0..28
//!
//! record: message (kind 1)
//!   0  2  FF A7
//!   2  1  kind, 1
//!   3  1  zero
//!   4  4  length L of the whole record, 104 + length of the value
//!   8  4  CRC-32 (IEEE) of bytes 0..8 and 12..L
//!  12  4  number of bytes directly before this record that were not yet synced when it was written
//!  16  8  received, f64 milliseconds, strictly increasing
//!  24  8  claimed timestamp, f64 milliseconds
//!  32  8  sequence
//!  40 32  author
//!  72 32  message id
//! 104  …  value: the message as compact JSON
//!
//! record: erased message (kind 3): a message whose content was deleted. As kind 1, but for the kind, the checksum,
//! and the value's content, which is `null` and as many blanks as it takes to keep the length
//!
//! record: void (kind 2): a stretch that holds nothing (any more); repair and deletion leave it
//!   0  2  FF A7
//!   2  1  kind, 2
//!   3  1  zero
//!   4  4  length L of the whole record, at least 12
//!   8  4  CRC-32 (IEEE) of bytes 0..8
//!  12  …  anything
//! ```
//!
//! Beside the segments may lie files that hold what repair removed, and [`erase`]'s journal.
//!
//! # After a crash
//! The last segment may end in anything. It is walked from the last checkpoint on; at the first bad place X
//! the question is whether bytes at X had ever been acknowledged. A good record behind X that was written
//! when X was already synced proves it (its offset less its "not yet synced" bytes lies above X), and so does
//! an index checkpoint beyond X. Then this is *damage*: opening fails and says where, and
//! `hawsepipe check --repair` decides. Otherwise it is an *unfinished write*: everything from X is copied to
//! `<segment>.damaged-N`, then cut off, and reported.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};

use self::record::Record;
use self::scan::{Scan, Step};
use super::disk::{Disk, DiskFile};

pub(crate) mod erase;
pub(crate) mod read;
pub(crate) mod record;
pub(crate) mod recover;
pub(crate) mod scan;

/// Length of a segment's header, and so the offset of the log's first record.
pub(crate) const HEADER: usize = 32;
/// The version this program writes, and the newest it reads.
pub(crate) const VERSION: u16 = 1;
/// Appended bytes are handed to the system in pieces of about this size.
const BUFFER: usize = 1 << 20;

const MAGIC: &[u8; 8] = b"hawselog";
const SUFFIX: &str = ".log";

/// The log's segments, shared by the writer and all readers.
#[derive(Debug)]
pub(crate) struct Segments {
    disk: Arc<dyn Disk>,
    /// Guards the table only; the files are read and written without it.
    files: RwLock<BTreeMap<u64, Arc<dyn DiskFile>>>,
    /// Odd while records are being erased: what looks damaged meanwhile may be half of a change.
    erasures: AtomicU64,
}

impl Segments {
    /// The segment that holds an offset.
    fn find(&self, offset: u64) -> Option<(u64, Arc<dyn DiskFile>)> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.range(..=offset).next_back().map(|(base, file)| (*base, Arc::clone(file)))
    }

    fn insert(&self, base: u64, file: Arc<dyn DiskFile>) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).insert(base, file);
    }

    /// The file that holds an offset, for people.
    pub(crate) fn path_of(&self, offset: u64) -> PathBuf {
        self.disk.path_of(&segment_name(self.find(offset).map_or(0, |(base, _)| base)))
    }
}

/// The writing end of the log.
#[derive(Debug)]
pub(crate) struct Log {
    segments: Arc<Segments>,
    file: Arc<dyn DiskFile>,
    base: u64,
    /// Everything below is synced.
    committed: u64,
    /// Everything below has been handed to the system; the rest is in `buffer`.
    written: u64,
    buffer: Vec<u8>,
    segment_bytes: u64,
    /// The file may hold bytes beyond `committed` that must go before anything is written.
    stained: bool,
}

impl Log {
    /// Adds a record behind all others and says at which offset. Nothing is durable before [`Self::sync`];
    /// after an error everything since the last sync is gone.
    pub(crate) fn append(&mut self, record: &Record<'_>) -> io::Result<u64> {
        self.clean()?;
        if self.end() == self.committed && self.committed - self.base >= self.segment_bytes {
            self.begin_segment()?;
        }
        let offset = self.end();
        let unsynced = u32::try_from(offset - self.committed).unwrap_or(u32::MAX);
        record.encode(unsynced, &mut self.buffer);
        if self.buffer.len() >= BUFFER {
            self.write_buffer()?;
        }
        Ok(offset)
    }

    /// Makes everything appended durable.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.clean()?;
        if self.end() == self.committed {
            return Ok(());
        }
        self.write_buffer()?;
        if let Err(error) = self.file.sync() {
            self.roll_back();
            return Err(error);
        }
        self.committed = self.written;
        Ok(())
    }

    /// Forgets everything since the last sync.
    pub(crate) fn roll_back(&mut self) {
        self.stained |= self.written > self.committed;
        self.buffer.clear();
        self.written = self.committed;
        if let Err(error) = self.clean() {
            tracing::warn!(%error, "cannot cut off an unfinished write yet");
        }
    }

    /// The offset behind the last record.
    pub(crate) fn end(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// The offset below which everything is durable.
    pub(crate) fn synced(&self) -> u64 {
        self.committed
    }

    /// What the readers use.
    pub(crate) fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        if let Err(error) = self.file.write_at(&self.buffer, self.written - self.base) {
            // Part of it may have been written.
            self.stained = true;
            self.roll_back();
            return Err(error);
        }
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn clean(&mut self) -> io::Result<()> {
        if self.stained {
            self.file.set_size(self.committed - self.base)?;
            self.stained = false;
        }
        Ok(())
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let file = create_segment(&*self.segments.disk, self.committed)?;
        self.base = self.committed;
        self.committed += HEADER as u64;
        self.written = self.committed;
        self.file = Arc::clone(&file);
        self.segments.insert(self.base, file);
        Ok(())
    }
}

/// Makes a segment that holds nothing yet.
pub(crate) fn create_segment(disk: &dyn Disk, base: u64) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.create(&segment_name(base))?;
    file.write_at(&header(base), 0)?;
    file.sync()?;
    disk.sync_names()?;
    Ok(file)
}

fn segment_name(base: u64) -> String {
    format!("{base:016x}{SUFFIX}")
}

fn segment_base(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let base = u64::from_str_radix(digits, 16).ok()?;
    (segment_name(base) == name).then_some(base)
}

/// Whether a file of the log's folder is a segment.
pub(crate) fn is_segment(name: &str) -> bool {
    segment_base(name).is_some()
}

/// A segment's header.
pub(crate) fn header(base: u64) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..20].copy_from_slice(&base.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderState {
    Good,
    /// Written by a newer program.
    Newer(u16),
    Bad,
}

pub(crate) fn header_state(file: &dyn DiskFile, base: u64) -> io::Result<HeaderState> {
    let mut bytes = [0; HEADER];
    let n = file.read_at(&mut bytes, 0)?;
    if n == HEADER && bytes == header(base) {
        return Ok(HeaderState::Good);
    }
    let version = u16::from_le_bytes([bytes[8], bytes[9]]);
    let sound = bytes[28..] == crc32fast::hash(&bytes[..28]).to_le_bytes();
    let newer = n == HEADER && bytes[..8] == *MAGIC && sound && version > VERSION;
    Ok(if newer { HeaderState::Newer(version) } else { HeaderState::Bad })
}

/// A scan of one segment from its first record, or from `from` if that is later.
pub(crate) fn scan_segment(file: &Arc<dyn DiskFile>, base: u64, from: u64) -> io::Result<Scan> {
    Scan::new(Arc::clone(file), base, from.max(base + HEADER as u64))
}

/// Whether something behind a bad place proves that the bad place had been synced once. The scan stands
/// at the bad place and is used up.
pub(crate) fn was_acknowledged(scan: &mut Scan, bad: u64) -> io::Result<bool> {
    while scan.resume()?.is_some() {
        loop {
            match scan.step()? {
                Step::Message { offset, unsynced, .. }
                    if offset.saturating_sub(u64::from(unsynced)) > bad =>
                {
                    return Ok(true);
                }
                Step::Message { .. } | Step::Void { .. } => {}
                Step::Bad { .. } => break,
                Step::End => return Ok(false),
            }
        }
    }
    Ok(false)
}
