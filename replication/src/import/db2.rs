//! `db2/log.bipf` of ssb-db2 (Manyverse): async-append-only-log, BIPF in it.
//!
//! ```text
//! block  = 64 KiB: record* | zeros                     no record lies across two blocks
//! record = length u16le | BIPF of {key, value, timestamp, feed?, ooo?}
//! ```
//!
//! A length of 0 ends a block; a record that is all zeros was deleted. Damage costs the rest of its block at most.

use std::io;
use std::path::Path;

use super::bipf::{Item, NotBipf};
use super::bytes::Bytes;
use super::lines::format_of;
use super::{Damage, Found, Log, Passed, Raw};

const BLOCK: u64 = 64 << 10;
const HEADER: u64 = 2;

/// Reads a `log.bipf`.
#[derive(Debug)]
pub struct Db2Log {
    bytes: Bytes,
    at: u64,
}

impl Db2Log {
    /// Opens the file for reading.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { bytes: Bytes::open(path)?, at: 0 })
    }

    fn block_end(&self) -> u64 {
        (self.at / BLOCK + 1) * BLOCK
    }
}

impl Log for Db2Log {
    fn next(&mut self) -> io::Result<Option<Found>> {
        loop {
            let (offset, block_end) = (self.at, self.block_end());
            if offset >= self.bytes.len() {
                return Ok(None);
            }
            let end = block_end.min(self.bytes.len());
            let header = if offset + HEADER <= end { self.bytes.get(offset, HEADER as usize)? } else { None };
            let length = header.map_or(0, |header| u64::from(u16::from_le_bytes([header[0], header[1]])));
            if length == 0 {
                self.at = block_end;
                continue;
            }
            let data = offset + HEADER..offset + HEADER + length;
            if data.end > end {
                self.at = block_end;
                return Ok(Some(Found::Damage(Damage { offset, bytes: end - offset })));
            }
            self.at = data.end;
            let record = self.bytes.get(data.start, length as usize)?.unwrap_or_default();
            if record.iter().all(|byte| *byte == 0) {
                return Ok(Some(Found::Passed(Passed::Deleted)));
            }
            let found = read(offset, record);
            return Ok(Some(found.unwrap_or(Found::Damage(Damage { offset, bytes: HEADER + length }))));
        }
    }

    fn progress(&self) -> (u64, u64) {
        (self.at.min(self.bytes.len()), self.bytes.len())
    }
}

/// What a record is.
fn read(offset: u64, record: &[u8]) -> Result<Found, NotBipf> {
    let (record, _) = Item::read(record)?;
    let value = record.member("value")?.ok_or(NotBipf)?;
    let author = match record.member("feed")? {
        Some(feed) => Some(feed),
        None => value.member("author")?,
    };
    if let Some(format) = author.and_then(|author| format_of(author.as_text()?)) {
        return Ok(Found::Passed(Passed::Format(format)));
    }
    if record.member("ooo")? == Some(Item::Bool(true)) {
        return Ok(Found::Passed(Passed::OutOfOrder));
    }
    let key = record.member("key")?.and_then(|key| key.as_text()?.parse().ok());
    let received = match record.member("timestamp")? {
        Some(Item::Number(time)) => Some(time),
        Some(_) | None => None,
    };
    let mut json = Vec::with_capacity(1024);
    value.write_json(&mut json)?;
    Ok(Found::Message(Raw { offset, key, value: json, received }))
}
