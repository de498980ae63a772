//! One record of the log, byte by byte (the layout is in the header of [`super`]).

use crate::refs::{FeedId, MessageId};

/// The first two bytes of each record. 0xFF never occurs in UTF-8, so no message's text can look like
/// the start of a record when the log is searched behind a damaged place.
pub(crate) const MARK: [u8; 2] = [0xFF, 0xA7];
/// Bytes of any record's head that say what it is and how long.
pub(crate) const VOID_HEAD: usize = 12;
/// Bytes of a message record before the message's value.
pub(crate) const HEAD: usize = 104;
/// Longest message value. The protocol allows 8192 UTF-16 units, at most 24576 bytes of UTF-8.
pub(crate) const MAX_VALUE: usize = 64 * 1024;

const KIND_MESSAGE: u8 = 1;
const KIND_VOID: u8 = 2;
const KIND_ERASED: u8 = 3;

/// What the log keeps of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Record<'a> {
    pub(crate) id: MessageId,
    pub(crate) author: FeedId,
    pub(crate) sequence: u64,
    /// When we received it, milliseconds; strictly increasing along the log.
    pub(crate) received: f64,
    /// When its author says it was written, milliseconds.
    pub(crate) claimed: f64,
    /// The message as compact JSON; of an erased one all but the content.
    pub(crate) value: &'a [u8],
    /// Its content was deleted.
    pub(crate) erased: bool,
}

/// A record as found in the log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Parsed<'a> {
    Message {
        record: Record<'a>,
        /// Bytes directly before this record that were not yet synced when it was written.
        unsynced: u32,
    },
    /// A stretch that holds nothing (any more).
    Void { len: u64 },
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The record goes on behind the bytes given; this many are needed in all.
    Short { need: usize },
    /// Not a record, or one with changed bytes.
    Bad,
}

impl Record<'_> {
    /// Bytes that the record takes in the log.
    pub(crate) fn len(&self) -> usize {
        HEAD + self.value.len()
    }

    /// Appends the record's bytes.
    pub(crate) fn encode(&self, unsynced: u32, out: &mut Vec<u8>) {
        debug_assert!(self.value.len() <= MAX_VALUE, "the store refuses longer values");
        let start = out.len();
        let len = u32::try_from(self.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&MARK);
        out.extend_from_slice(&[if self.erased { KIND_ERASED } else { KIND_MESSAGE }, 0]);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&unsynced.to_le_bytes());
        out.extend_from_slice(&self.received.to_le_bytes());
        out.extend_from_slice(&self.claimed.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(self.author.as_bytes());
        out.extend_from_slice(self.id.as_bytes());
        out.extend_from_slice(self.value);
        let crc = checksum(&out[start..start + 8], &out[start + VOID_HEAD..]);
        out[start + 8..start + VOID_HEAD].copy_from_slice(&crc.to_le_bytes());
    }
}

/// The head of a void record that stands for `len` bytes, itself included.
pub(crate) fn void_head(len: u32) -> [u8; VOID_HEAD] {
    let mut head = [0; VOID_HEAD];
    head[..2].copy_from_slice(&MARK);
    head[2] = KIND_VOID;
    head[4..8].copy_from_slice(&len.to_le_bytes());
    let crc = checksum(&head[..8], &[]);
    head[8..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// Reads the record at the start of `bytes`; more may follow it.
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed<'_>, Fault> {
    let Some((head, rest)) = bytes.split_first_chunk::<VOID_HEAD>() else {
        // A wrong beginning is bad however few bytes there are.
        let n = bytes.len().min(2);
        return Err(if bytes[..n] == MARK[..n] { Fault::Short { need: VOID_HEAD } } else { Fault::Bad });
    };
    let len = u32::from_le_bytes(le(&head[4..8]));
    let crc = u32::from_le_bytes(le(&head[8..12]));
    if head[..2] != MARK || head[3] != 0 {
        return Err(Fault::Bad);
    }
    match head[2] {
        KIND_VOID if checksum(&head[..8], &[]) == crc && len as usize >= VOID_HEAD => {
            Ok(Parsed::Void { len: u64::from(len) })
        }
        kind @ (KIND_MESSAGE | KIND_ERASED) if (HEAD..=HEAD + MAX_VALUE).contains(&(len as usize)) => {
            let Some(body) = rest.get(..len as usize - VOID_HEAD) else {
                return Err(Fault::Short { need: len as usize });
            };
            let is_good = checksum(&head[..8], body) == crc;
            if is_good { Ok(message(body, kind == KIND_ERASED)) } else { Err(Fault::Bad) }
        }
        _ => Err(Fault::Bad),
    }
}

fn message(body: &[u8], erased: bool) -> Parsed<'_> {
    let record = Record {
        received: f64::from_le_bytes(le(&body[4..12])),
        claimed: f64::from_le_bytes(le(&body[12..20])),
        sequence: u64::from_le_bytes(le(&body[20..28])),
        author: FeedId::from_bytes(le(&body[28..60])),
        id: MessageId::from_bytes(le(&body[60..92])),
        value: &body[HEAD - VOID_HEAD..],
        erased,
    };
    Parsed::Message { record, unsynced: u32::from_le_bytes(le(&body[..4])) }
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}

fn le<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(value: &[u8]) -> Record<'_> {
        Record {
            id: MessageId::from_bytes([7; 32]),
            author: FeedId::from_bytes([9; 32]),
            sequence: 3,
            received: 1_700_000_000_000.001,
            claimed: 1.5,
            value,
            erased: false,
        }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let mut bytes = Vec::new();
        record(b"{}").encode(5, &mut bytes);
        assert_eq!(bytes[..8], [0xFF, 0xA7, 1, 0, 106, 0, 0, 0]);
        assert_eq!(bytes[12..16], [5, 0, 0, 0]);
        assert_eq!(bytes[24..32], 1.5f64.to_le_bytes());
        assert_eq!(bytes[32..40], [3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((bytes[40], bytes[72], &bytes[104..]), (9, 7, &b"{}"[..]));
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&[&bytes[..8], &bytes[12..]].concat());
        assert_eq!(bytes[8..12], hasher.finalize().to_le_bytes());
    }

    #[test]
    fn a_void_says_its_length_and_nothing_else() {
        assert_eq!(parse(&void_head(500)), Ok(Parsed::Void { len: 500 }));
        assert_eq!(parse(&void_head(11)), Err(Fault::Bad));
    }

    #[test]
    fn any_changed_bit_is_noticed() {
        let mut good = Vec::new();
        record(b"{\"a\":1}").encode(0, &mut good);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn records_come_back_as_written(
            value: Vec<u8>,
            unsynced: u32,
            sequence: u64,
            received: i32,
            erased: bool,
        ) {
            let written = Record { sequence, received: f64::from(received), erased, ..record(&value) };
            let mut bytes = Vec::new();
            written.encode(unsynced, &mut bytes);
            prop_assert_eq!(bytes.len(), written.len());
            bytes.extend_from_slice(b"more");
            prop_assert_eq!(parse(&bytes), Ok(Parsed::Message { record: written, unsynced }));
            for cut in 0..written.len() {
                let short = matches!(parse(&bytes[..cut]), Err(Fault::Short { need }) if need > cut);
                prop_assert!(short);
            }
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>, marked: bool) {
            let mut bytes = bytes;
            if marked && bytes.len() >= 3 {
                bytes[..3].copy_from_slice(&[0xFF, 0xA7, 1]);
            }
            let _ = parse(&bytes);
        }
    }
}
