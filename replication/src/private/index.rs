//! Which messages of a log one identity can read: their places, so that nobody tries twice.
//!
//! It is kept apart from the log and can always be made again from it. Like the graph's file it says up to which
//! message it goes, so that a start tries only what came after; of another log, or of one from which messages
//! were deleted, it is not believed. It holds places and short hashes of types and groups, nothing of what the
//! messages say.
//!
//! Format, integers little-endian: `hawsepipe priv 1` | whose, 32 bytes | the last message's offset u64 | its id,
//! 32 bytes | number of readable messages u32 | each as offset u64, type u32, group u32 | number of envelopes that
//! could not be opened u32 | their offsets u64 | CRC-32 of all this u32.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use super::{Opened, groups};
use crate::graph::Mark;
use crate::message::Content;
use crate::refs::{FeedId, GroupId, MessageId};

const MAGIC: &[u8; 16] = b"hawsepipe priv 1";

/// Readable messages, and envelopes that could not be opened, that are remembered: 16 and 8 bytes each. Beyond,
/// readable messages are found by nobody, and envelopes not opened when their key comes.
pub const MAX_ENTRIES: usize = 4_000_000;

/// A message that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    offset: u64,
    kind: u32,
    group: u32,
}

/// See the module's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Ascending.
    readable: Vec<Entry>,
    /// Envelopes that no key opens yet; ascending.
    sealed: Vec<u64>,
    until: Option<Mark>,
}

/// Not an index of this identity, or a damaged one: try all messages again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an index of this identity's private messages, or a damaged one")]
pub struct NotAnIndex;

impl Index {
    /// A message can be read.
    pub fn add(&mut self, offset: u64, opened: &Opened) {
        let kind = match opened.content() {
            Some(Content::Object { kind, .. }) => short(kind.as_bytes()),
            Some(Content::Encrypted(_)) | None => 0,
        };
        let group = opened.group.map_or(0, |group| short(group.as_bytes()));
        if self.readable.len() < MAX_ENTRIES
            && let Err(at) = self.readable.binary_search_by_key(&offset, |entry| entry.offset)
        {
            self.readable.insert(at, Entry { offset, kind, group });
        }
    }

    /// An envelope cannot be opened yet. To be said in the order of the log.
    pub fn add_sealed(&mut self, offset: u64) {
        if self.sealed.len() < MAX_ENTRIES && self.sealed.last().is_none_or(|last| *last < offset) {
            self.sealed.push(offset);
        }
    }

    /// All messages up to this one have been tried.
    pub fn reached(&mut self, until: Mark) {
        self.until = Some(until);
    }

    /// The last message that was tried.
    pub fn until(&self) -> Option<Mark> {
        self.until
    }

    /// Whether the message at `offset` can be read; nothing if it was not tried.
    pub fn is_readable(&self, offset: u64) -> Option<bool> {
        let is_tried = self.until.is_some_and(|until| offset <= until.offset);
        is_tried.then(|| self.readable.binary_search_by_key(&offset, |entry| entry.offset).is_ok())
    }

    /// How many messages can be read.
    pub fn len(&self) -> usize {
        self.readable.len()
    }

    /// Whether none can.
    pub fn is_empty(&self) -> bool {
        self.readable.is_empty()
    }

    /// Where readable messages lie, ascending.
    pub fn readable(&self, offsets: Range<u64>) -> Vec<u64> {
        self.those(offsets, |_| true)
    }

    /// Where messages of a type may lie, ascending. Look at what they say.
    pub fn of_type(&self, kind: &str, offsets: Range<u64>) -> Vec<u64> {
        let kind = short(kind.as_bytes());
        self.those(offsets, |entry| entry.kind == kind)
    }

    /// Where messages of a group may lie, ascending. Look at what they are.
    pub fn of_group(&self, group: &GroupId) -> Vec<u64> {
        let group = short(group.as_bytes());
        // What brought us the group's key was read before there was any.
        let of_any = [groups::INIT, groups::ADD_MEMBER].map(|kind| short(kind.as_bytes()));
        self.those(0..u64::MAX, |entry| {
            entry.group == group || (entry.group == 0 && of_any.contains(&entry.kind))
        })
    }

    /// Takes the envelopes that could not be opened, to try them again.
    pub fn take_sealed(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.sealed)
    }

    /// Messages that are deleted from the log: nothing points to them any more.
    pub fn forget(&mut self, deleted: impl Fn(u64) -> bool) {
        self.readable.retain(|entry| !deleted(entry.offset));
        self.sealed.retain(|offset| !deleted(*offset));
    }

    fn those(&self, offsets: Range<u64>, is_meant: impl Fn(&Entry) -> bool) -> Vec<u64> {
        let at = |offset| self.readable.partition_point(|entry| entry.offset < offset);
        let (start, end) = (at(offsets.start), at(offsets.end));
        let range = self.readable.get(start..end).unwrap_or_default();
        range.iter().filter(|entry| is_meant(entry)).map(|entry| entry.offset).collect()
    }

    /// The index of `own` as bytes; nothing if no message was tried.
    pub fn to_bytes(&self, own: &FeedId) -> Option<Vec<u8>> {
        let until = self.until?;
        let mut out = Vec::with_capacity(128 + self.readable.len() * 16 + self.sealed.len() * 8);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(own.as_bytes());
        out.extend_from_slice(&until.offset.to_le_bytes());
        out.extend_from_slice(until.id.as_bytes());
        out.extend_from_slice(&(self.readable.len() as u32).to_le_bytes());
        for Entry { offset, kind, group } in &self.readable {
            out.extend_from_slice(&offset.to_le_bytes());
            out.extend_from_slice(&kind.to_le_bytes());
            out.extend_from_slice(&group.to_le_bytes());
        }
        out.extend_from_slice(&(self.sealed.len() as u32).to_le_bytes());
        for offset in &self.sealed {
            out.extend_from_slice(&offset.to_le_bytes());
        }
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        Some(out)
    }

    /// Reads [`Index::to_bytes`].
    pub fn from_bytes(bytes: &[u8], own: &FeedId) -> Result<Self, NotAnIndex> {
        let (bytes, sum) = bytes.split_last_chunk::<4>().ok_or(NotAnIndex)?;
        if crc32fast::hash(bytes) != u32::from_le_bytes(*sum) {
            return Err(NotAnIndex);
        }
        let mut rest = Rest(bytes.strip_prefix(MAGIC).ok_or(NotAnIndex)?);
        if rest.take::<32>()? != own.to_bytes() {
            return Err(NotAnIndex);
        }
        let offset = rest.long()?;
        let until = Mark { offset, id: MessageId::from_bytes(rest.take()?) };
        let mut index = Self { until: Some(until), ..Self::default() };
        for _ in 0..rest.count()? {
            let entry = Entry { offset: rest.long()?, kind: rest.count()?, group: rest.count()? };
            index.readable.push(entry);
        }
        for _ in 0..rest.count()? {
            index.sealed.push(rest.long()?);
        }
        let is_whole = rest.0.is_empty() && index.readable.is_sorted() && index.sealed.is_sorted();
        if is_whole { Ok(index) } else { Err(NotAnIndex) }
    }
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], NotAnIndex> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(NotAnIndex)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn long(&mut self) -> Result<u64, NotAnIndex> {
        self.take().map(u64::from_le_bytes)
    }

    fn count(&mut self) -> Result<u32, NotAnIndex> {
        self.take().map(u32::from_le_bytes)
    }
}

/// Four bytes that stand for a text; never 0, which stands for none.
fn short(text: &[u8]) -> u32 {
    let hash: [u8; 32] = Sha256::digest(text).into();
    u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3] | 1])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Format;
    use super::*;

    const OWN: FeedId = FeedId::from_bytes([1; 32]);
    const GROUP: GroupId = GroupId::from_bytes([2; 32]);

    fn opened(kind: &str, group: Option<GroupId>) -> Opened {
        let text = format!(r#"{{"type":"{kind}"}}"#);
        Opened::new(Format::Box1, group, text.as_bytes(), &[0; 33]).unwrap()
    }

    fn filled() -> Index {
        let mut index = Index::default();
        for (offset, kind, group) in [(10, "post", None), (30, "vote", None), (50, "post", Some(GROUP))] {
            index.add(offset, &opened(kind, group));
        }
        index.add_sealed(20);
        index.add_sealed(40);
        index.reached(Mark { offset: 50, id: MessageId::from_bytes([5; 32]) });
        index
    }

    #[test]
    fn messages_are_found_by_place_type_and_group() {
        let mut index = filled();
        assert_eq!(index.readable(0..u64::MAX), [10, 30, 50]);
        assert_eq!(index.readable(10..50), [10, 30]);
        assert_eq!(index.of_type("post", 0..u64::MAX), [10, 50]);
        assert_eq!(index.of_group(&GROUP), [50]);
        assert_eq!([10, 20, 51].map(|offset| index.is_readable(offset)), [Some(true), Some(false), None]);
        assert_eq!(index.take_sealed(), [20, 40]);
        index.add(20, &opened("post", None));
        assert_eq!(index.of_type("post", 0..u64::MAX), [10, 20, 50], "what was opened later is in its place");
        index.forget(|offset| offset == 20 || offset == 50);
        assert_eq!(index.readable(0..u64::MAX), [10, 30]);
    }

    #[test]
    fn it_is_read_back_and_only_by_its_owner() {
        let index = filled();
        let bytes = index.to_bytes(&OWN).unwrap();
        assert_eq!(Index::from_bytes(&bytes, &OWN), Ok(index));
        assert_eq!(Index::from_bytes(&bytes, &FeedId::from_bytes([9; 32])), Err(NotAnIndex));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Index::from_bytes(&damaged, &OWN), Err(NotAnIndex), "byte {at}");
        }
        assert_eq!(Index::default().to_bytes(&OWN), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut sealed = [MAGIC.as_slice(), &OWN.to_bytes(), &bytes].concat();
            sealed.extend_from_slice(&crc32fast::hash(&sealed).to_le_bytes());
            let _ = Index::from_bytes(&sealed, &OWN);
            prop_assert!(Index::from_bytes(&bytes, &OWN).is_err());
        }
    }
}
