//! Walks a segment record by record, and finds its way again behind a damaged place.

use std::io;
use std::sync::Arc;

use super::record::{self, Fault, MARK, Parsed, Record, VOID_HEAD};
use crate::store::disk::DiskFile;

/// How much is read from the disk at a time.
const CHUNK: usize = 256 * 1024;

/// What stands at one place of a segment. Offsets are the log's.
#[derive(Debug, PartialEq)]
pub(crate) enum Step<'a> {
    Message {
        offset: u64,
        unsynced: u32,
        record: Record<'a>,
    },
    Void {
        offset: u64,
        len: u64,
    },
    /// No record: either the end of what was written before a crash, or damage. The scan stays there.
    Bad {
        offset: u64,
    },
    End,
}

/// A walk through one segment.
#[derive(Debug)]
pub(crate) struct Scan {
    file: Arc<dyn DiskFile>,
    base: u64,
    /// Positions below are the file's.
    at: u64,
    end: u64,
    chunk: Vec<u8>,
    chunk_at: u64,
}

impl Scan {
    /// Starts at log offset `from` in the segment that begins at `base`.
    pub(crate) fn new(file: Arc<dyn DiskFile>, base: u64, from: u64) -> io::Result<Self> {
        let end = file.size()?;
        Ok(Self { file, base, at: from.saturating_sub(base), end, chunk: Vec::new(), chunk_at: 0 })
    }

    /// The log offset that comes next.
    pub(crate) fn offset(&self) -> u64 {
        self.base + self.at
    }

    /// The log offset at which the segment's file ends.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.end
    }

    /// Takes the next step.
    pub(crate) fn step(&mut self) -> io::Result<Step<'_>> {
        if self.at >= self.end {
            return Ok(Step::End);
        }
        self.load_record()?;
        let offset = self.offset();
        let start = (self.at - self.chunk_at) as usize;
        match record::parse(&self.chunk[start..]) {
            Ok(Parsed::Message { record, unsynced }) => {
                self.at += record.len() as u64;
                Ok(Step::Message { offset, unsynced, record })
            }
            Ok(Parsed::Void { len }) if len <= self.end - self.at => {
                self.at += len;
                Ok(Step::Void { offset, len })
            }
            Ok(Parsed::Void { .. }) | Err(Fault::Short { .. } | Fault::Bad) => Ok(Step::Bad { offset }),
        }
    }

    /// Goes to the first good record behind a bad one and says where it is.
    pub(crate) fn resume(&mut self) -> io::Result<Option<u64>> {
        // A void needs this much room to stand for what is skipped.
        self.at += VOID_HEAD as u64;
        while self.at < self.end {
            self.load(VOID_HEAD)?;
            let start = (self.at - self.chunk_at) as usize;
            let Some(found) = memchr::memchr(MARK[0], &self.chunk[start..]) else {
                self.at = self.chunk_at + self.chunk.len() as u64;
                continue;
            };
            self.at += found as u64;
            let candidate = self.at;
            if !matches!(self.step()?, Step::Bad { .. } | Step::End) {
                self.at = candidate;
                return Ok(Some(self.offset()));
            }
            self.at += 1;
        }
        Ok(None)
    }

    /// Has the whole record at `at` in the chunk, as far as the file has it.
    fn load_record(&mut self) -> io::Result<()> {
        self.load(VOID_HEAD)?;
        let start = (self.at - self.chunk_at) as usize;
        if let Err(Fault::Short { need }) = record::parse(&self.chunk[start..]) {
            self.load(need)?;
        }
        Ok(())
    }

    fn load(&mut self, need: usize) -> io::Result<()> {
        let want_end = (self.at + need as u64).min(self.end);
        let have_end = self.chunk_at + self.chunk.len() as u64;
        if self.at >= self.chunk_at && want_end <= have_end {
            return Ok(());
        }
        let room = (self.end - self.at).min(need.max(CHUNK) as u64);
        self.chunk.resize(room as usize, 0);
        self.chunk_at = self.at;
        let n = self.file.read_at(&mut self.chunk, self.at)?;
        self.chunk.truncate(n);
        if (n as u64) < room {
            // Someone cut the file under us; what is gone is not there.
            self.end = self.at + n as u64;
        }
        Ok(())
    }
}
