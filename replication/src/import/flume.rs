//! `flume/log.offset` of ssb-server and its kin: flumelog-offset, "recoverable" framing, JSON in it.
//!
//! ```text
//! record = length u32be | data | length u32be | end     offset of the record's end, big-endian
//! ```
//!
//! `end` has 4, 6 or 8 bytes, as the writer was told; which it is shows in the first record. A record
//! whose data is all zeros was deleted. The ends let a reader find the way back behind damage.

use std::io;
use std::ops::Range;
use std::path::Path;

use super::bytes::Bytes;
use super::lines::record;
use super::{Damage, Found, Log, Passed};

/// The longest record. A message is much shorter.
const MAX_RECORD: u64 = 1 << 20;
/// How many bytes an offset may have.
const WIDTHS: [u64; 3] = [4, 6, 8];
/// Both lengths of a record.
const LENGTHS: u64 = 8;
/// Bytes that are searched for an end in one go.
const SEARCHED: u64 = 64 << 10;

/// Reads a `log.offset`.
#[derive(Debug)]
pub struct FlumeLog {
    bytes: Bytes,
    at: u64,
    /// Bytes of an offset, once a record has shown it.
    width: Option<u64>,
}

/// A record that is whole.
struct Frame {
    width: u64,
    data: Range<u64>,
}

impl Frame {
    fn end(&self) -> u64 {
        self.data.end + 4 + self.width
    }
}

impl FlumeLog {
    /// Opens the file for reading.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { bytes: Bytes::open(path)?, at: 0, width: None })
    }

    /// The whole record at an offset, if one is there.
    fn frame_at(&mut self, at: u64) -> io::Result<Option<Frame>> {
        let Some(length) = self.bytes.number(at, 4)?.filter(|length| *length <= MAX_RECORD) else {
            return Ok(None);
        };
        let data = at + 4..at + 4 + length;
        if self.bytes.number(data.end, 4)? != Some(length) {
            return Ok(None);
        }
        for width in self.widths() {
            let frame = Frame { width, data: data.clone() };
            if self.bytes.number(data.end + 4, width as usize)? == Some(frame.end()) {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    fn widths(&self) -> Vec<u64> {
        self.width.map_or_else(|| WIDTHS.to_vec(), |width| vec![width])
    }

    /// Where behind `from` the next whole record is; the file's end if there is none.
    fn find_record(&mut self, from: u64) -> io::Result<u64> {
        let (len, widths) = (self.bytes.len(), self.widths());
        let mut at = from;
        while at + WIDTHS[0] <= len {
            let n = SEARCHED.min(len - at);
            let Some(part) = self.bytes.get(at, n as usize)? else { break };
            let candidates = ends_in(part, at, &widths);
            for (end, width) in candidates {
                if let Some(found) = self.resume_at(from, end, width)? {
                    return Ok(found);
                }
            }
            // The longest end may lie across the border of two parts.
            at += if n == SEARCHED { n - WIDTHS[2] } else { n };
        }
        Ok(len)
    }

    /// Where to go on if a record ends at `end`: at that record, if it is whole and behind `from`, else at the one
    /// that follows.
    fn resume_at(&mut self, from: u64, end: u64, width: u64) -> io::Result<Option<u64>> {
        let length = match end.checked_sub(width + 4) {
            Some(at) => self.bytes.number(at, 4)?,
            None => None,
        };
        let start = length.and_then(|length| end.checked_sub(LENGTHS + width + length));
        if let Some(start) = start.filter(|start| *start > from)
            && self.frame_at(start)?.is_some_and(|frame| frame.end() == end)
        {
            return Ok(Some(start));
        }
        let is_followed = end == self.bytes.len() || self.frame_at(end)?.is_some();
        Ok((end > from && is_followed).then_some(end))
    }
}

/// Places in `part`, which lies at offset `at`, that hold their own end as an offset.
fn ends_in(part: &[u8], at: u64, widths: &[u64]) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    for place in 0..part.len() {
        for width in widths {
            let Some(number) = part.get(place..place + *width as usize) else { continue };
            let end = at + place as u64 + width;
            if super::bytes::big_endian(number) == end {
                found.push((end, *width));
            }
        }
    }
    found
}

impl Log for FlumeLog {
    fn next(&mut self) -> io::Result<Option<Found>> {
        let offset = self.at;
        if offset == self.bytes.len() {
            return Ok(None);
        }
        let Some(frame) = self.frame_at(offset)? else {
            self.at = self.find_record(offset)?;
            return Ok(Some(Found::Damage(Damage { offset, bytes: self.at - offset })));
        };
        self.width = Some(frame.width);
        self.at = frame.end();
        let length = frame.data.end - frame.data.start;
        let data = self.bytes.get(frame.data.start, length as usize)?.unwrap_or_default();
        Ok(Some(if data.iter().all(|byte| *byte == 0) {
            Found::Passed(Passed::Deleted)
        } else {
            record(offset, data).unwrap_or(Found::Damage(Damage { offset, bytes: self.at - offset }))
        }))
    }

    fn progress(&self) -> (u64, u64) {
        (self.at, self.bytes.len())
    }
}
