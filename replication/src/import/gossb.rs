//! The `log` folder of go-ssb: margaret's offset2, multimsg in it.
//!
//! ```text
//! data   = (size i64be | record)*        a negative size: the record was nulled
//! ofst   = (offset i64be)*               where in `data` each record begins
//! jrnl   = the number of the last record
//! record = kind u8 | struct              kind 1 is a classic message, 2 gabby grove, 3 a metafeed's
//! ```
//!
//! The struct is an array in CBOR, in older versions in MessagePack, and its fields have changed over time. What has
//! not is that it has the message as the peer sent it, as one string of bytes behind its length; that string is looked
//! for, whatever is around it. `ofst` shows the way behind damage.

use std::io;
use std::path::Path;

use memchr::memchr_iter;

use super::bytes::{Bytes, big_endian};
use super::lines::record;
use super::{Damage, Found, Log, Passed};

/// The longest record. A message is much shorter.
const MAX_RECORD: u64 = 1 << 20;
const SIZE: u64 = 8;

/// Reads the three files.
#[derive(Debug)]
pub struct GoSsbLog {
    data: Bytes,
    offsets: Bytes,
    at: u64,
    /// The number of the record at `at`.
    number: u64,
}

impl GoSsbLog {
    /// Opens the files in a folder for reading.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let (data, offsets) = (Bytes::open(&dir.join("data"))?, Bytes::open(&dir.join("ofst"))?);
        Ok(Self { data, offsets, at: 0, number: 0 })
    }

    /// Goes to the next record that `ofst` knows of, or to the end.
    fn skip_damage(&mut self) -> io::Result<()> {
        loop {
            self.number += 1;
            match self.offsets.number(self.number * SIZE, SIZE as usize)? {
                Some(offset) if offset <= self.at => {}
                Some(offset) => {
                    self.at = offset.min(self.data.len());
                    return Ok(());
                }
                None => {
                    self.at = self.data.len();
                    return Ok(());
                }
            }
        }
    }
}

impl Log for GoSsbLog {
    fn next(&mut self) -> io::Result<Option<Found>> {
        let offset = self.at;
        if offset >= self.data.len() {
            return Ok(None);
        }
        let size = self.data.number(offset, SIZE as usize)?.map(u64::cast_signed);
        let length = size.map(i64::unsigned_abs).filter(|length| (1..=MAX_RECORD).contains(length));
        let record = match length {
            Some(length) => self.data.get(offset + SIZE, length as usize)?,
            None => None,
        };
        let Some(record) = record else {
            self.skip_damage()?;
            return Ok(Some(Found::Damage(Damage { offset, bytes: self.at - offset })));
        };
        let bytes = SIZE + record.len() as u64;
        let found = if size.is_some_and(i64::is_negative) {
            Found::Passed(Passed::Deleted)
        } else {
            read(offset, record).unwrap_or(Found::Damage(Damage { offset, bytes }))
        };
        self.at += bytes;
        self.number += 1;
        Ok(Some(found))
    }

    fn progress(&self) -> (u64, u64) {
        (self.at, self.data.len())
    }
}

/// What a record is.
fn read(offset: u64, bytes: &[u8]) -> Option<Found> {
    match bytes.first()? {
        1 => {
            let mut texts = memchr_iter(b'{', bytes).filter_map(|start| text_at(bytes, start));
            texts.find_map(|text| record(offset, text).filter(|found| matches!(found, Found::Message(_))))
        }
        2 => Some(Found::Passed(Passed::Format("gabbygrove-v1"))),
        3 => Some(Found::Passed(Passed::Format("bendybutt-v1"))),
        _ => None,
    }
}

/// The string of bytes that begins at `start`, if a length stands before it, as CBOR and MessagePack write it.
fn text_at(bytes: &[u8], start: usize) -> Option<&[u8]> {
    const SHORT: [u8; 4] = [0x58, 0x78, 0xc4, 0xd9];
    const LONG: [u8; 4] = [0x59, 0x79, 0xc5, 0xda];
    let before = |n: usize| bytes.get(start.checked_sub(n)?..start);
    let length = match (before(2), before(3)) {
        (_, Some([mark, length @ ..])) if LONG.contains(mark) => big_endian(length),
        (Some([mark, length]), _) if SHORT.contains(mark) => u64::from(*length),
        _ => return None,
    };
    bytes.get(start..start + length as usize)
}
