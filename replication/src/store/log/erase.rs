//! Takes the content out of messages in the log, for good and in place: who wrote what is behind a message keeps
//! following it, because its id, its place and its length stay.
//!
//! The new records are first written to a journal beside the segments, and synced; then over the old ones, and
//! synced; then the journal is emptied. Whatever a crash interrupts, [`redo`], with which every opening begins, either
//! finds a whole journal and does it again, or finds none and the log as it was.
//!
//! ```text
//! erase.journal
//!   0  8  "hawseras"
//!   8  4  length N of the entries, little-endian like all numbers
//!  12  N  entries: log offset u64 | length L u32 | L bytes, the new record
//! 12+N 4  CRC-32 (IEEE) of everything before
//! ```

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::record::{self, Fault, HEAD, MAX_VALUE, Parsed, Record};
use super::recover::{Layout, RecoverError};
use super::{HEADER, Segments};
use crate::message::without_content;
use crate::store::disk::{Disk, DiskFile};

/// The journal's name.
pub(crate) const JOURNAL: &str = "erase.journal";
const MAGIC: &[u8; 8] = b"hawseras";
/// Messages erased in one go at most: the journal holds that many records.
pub(crate) const MAX_ERASED: usize = 256;
/// Longest journal that is read.
const MAX_JOURNAL: u64 = (MAX_ERASED * (12 + HEAD + MAX_VALUE) + 16) as u64;

/// A record, and where it goes.
struct Change {
    offset: u64,
    record: Vec<u8>,
}

impl Segments {
    /// Erases the contents of the messages at some offsets, [`MAX_ERASED`] at most. When this returns they are gone
    /// from the log's files.
    pub(crate) fn erase(&self, offsets: &[u64]) -> io::Result<()> {
        redo_on(&*self.disk, |offset| self.find(offset))?;
        let changes =
            offsets.iter().map(|offset| self.without_content(*offset)).collect::<io::Result<Vec<_>>>()?;
        let journal = self.disk.create(JOURNAL)?;
        journal.write_at(&encode(&changes), 0)?;
        journal.sync()?;
        self.disk.sync_names()?;
        self.erasures.fetch_add(1, Ordering::AcqRel);
        let done = apply(&changes, |offset| self.find(offset));
        self.erasures.fetch_add(1, Ordering::AcqRel);
        done?;
        end(&*journal)
    }

    fn without_content(&self, offset: u64) -> io::Result<Change> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("no message at log offset {offset}"));
        let (base, file) =
            self.find(offset).filter(|(base, _)| offset >= base + HEADER as u64).ok_or_else(bad)?;
        let mut bytes = vec![0; HEAD];
        loop {
            let n = file.read_at(&mut bytes, offset - base)?;
            match record::parse(&bytes[..n]) {
                Ok(Parsed::Message { record, unsynced }) => {
                    let value = without_content(record.value, true).map_err(|_| bad())?;
                    let mut new = Vec::with_capacity(record.len());
                    Record { value: &value, erased: true, ..record }.encode(unsynced, &mut new);
                    return Ok(Change { offset, record: new });
                }
                Err(Fault::Short { need }) if need > bytes.len() => bytes.resize(need, 0),
                Ok(Parsed::Void { .. }) | Err(Fault::Short { .. } | Fault::Bad) => return Err(bad()),
            }
        }
    }
}

/// Ends an erasure that a crash interrupted.
pub(crate) fn redo(layout: &Layout) -> Result<(), RecoverError> {
    let find = |offset| {
        let (base, file) = layout.files.range(..=offset).next_back()?;
        Some((*base, Arc::clone(file)))
    };
    let failed = |source| RecoverError::Io { path: layout.disk.path_of(JOURNAL), source };
    redo_on(&*layout.disk, find).map_err(failed)
}

fn redo_on(disk: &dyn Disk, find: impl Fn(u64) -> Option<(u64, Arc<dyn DiskFile>)>) -> io::Result<()> {
    if !disk.names()?.iter().any(|name| name == JOURNAL) {
        return Ok(());
    }
    let journal = disk.open(JOURNAL)?;
    let size = journal.size()?;
    if size == 0 {
        return Ok(());
    }
    let mut bytes = vec![0; size.min(MAX_JOURNAL) as usize];
    let n = journal.read_at(&mut bytes, 0)?;
    // One that is not whole was being written: nothing has been changed yet.
    let changes = decode(&bytes[..n]).unwrap_or_default();
    apply(&changes, find)?;
    end(&*journal)
}

/// Writes over what is there, as far as the log has it.
fn apply(changes: &[Change], find: impl Fn(u64) -> Option<(u64, Arc<dyn DiskFile>)>) -> io::Result<()> {
    let mut touched = BTreeSet::new();
    for Change { offset, record } in changes {
        let Some((base, file)) = find(*offset) else { continue };
        if offset - base + record.len() as u64 <= file.size()? {
            file.write_at(record, offset - base)?;
            touched.insert(base);
        }
    }
    touched.into_iter().filter_map(find).try_for_each(|(_, file)| file.sync())
}

fn end(journal: &dyn DiskFile) -> io::Result<()> {
    journal.set_size(0)?;
    journal.sync()
}

fn encode(changes: &[Change]) -> Vec<u8> {
    let mut entries = Vec::new();
    for Change { offset, record } in changes {
        entries.extend_from_slice(&offset.to_le_bytes());
        entries.extend_from_slice(&(record.len() as u32).to_le_bytes());
        entries.extend_from_slice(record);
    }
    let mut out = [MAGIC.as_slice(), &(entries.len() as u32).to_le_bytes(), &entries].concat();
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<Vec<Change>> {
    let len = u32::from_le_bytes(*bytes.strip_prefix(MAGIC)?.first_chunk()?) as usize;
    let (signed, rest) = bytes.split_at_checked(12 + len)?;
    if crc32fast::hash(signed).to_le_bytes() != *rest.first_chunk()? {
        return None;
    }
    let (mut entries, mut changes) = (&signed[12..], Vec::new());
    while !entries.is_empty() {
        let (offset, rest) = entries.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (record, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        changes.push(Change { offset: u64::from_le_bytes(*offset), record: record.to_vec() });
        entries = rest;
    }
    Some(changes)
}
