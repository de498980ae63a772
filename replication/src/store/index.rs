//! The index: where in the log is what. The [`Writer`](super::Writer) adds to it what the log has committed,
//! readers search it under a lock, and all of it can be made again from the log.
//!
//! Two shapes carry everything:
//! - a **list** is the offsets of some messages in their order: a feed's by sequence, and the whole log's by
//!   reception. It is kept in blocks of 1024; only its last block is ever written again, until it is full.
//! - a **pair table** is a set of (number, offset), sorted: id prefixes, times, fingerprints of terms. Its
//!   newest part is in memory; a checkpoint seals that into an immutable sorted run of 4 KiB blocks and
//!   merges runs of a size (see [`runs`]). So however random the numbers are, sealing is sequential work,
//!   and a look-up reads one block of each of about ten runs.
//!
//! In memory are the unsealed parts and one small record per feed. What always holds:
//! - everything that the manifest covers is sealed, everything behind it is in memory, nothing is in both;
//! - the manifest, the lists' last blocks and the tips change in one atomic batch; run blocks are written
//!   before, under a run number that no manifest names yet;
//! - pairs only propose: two ids or terms may share a number, and who asks compares with the message.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};

use serde::{Deserialize, Serialize};

use self::coding::Pair;
use self::runs::Run;
use super::tables::{IndexError, List, Table, Tables};
use super::terms;
use crate::message::Tip;
use crate::refs::{FeedId, MessageId};

pub(crate) mod audit;
pub(crate) mod coding;
pub(crate) mod runs;
mod seal;

/// Offsets in a list's block.
const LIST_BLOCK: u64 = 1024;

/// The tables of pairs.
pub(crate) const PAIR_TABLES: [Table; 3] = [Table::Ids, Table::Times, Table::Terms];

/// What the index is told of a message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) id: MessageId,
    pub(crate) author: FeedId,
    pub(crate) sequence: u64,
    pub(crate) received: f64,
    /// Its place among all messages by time.
    pub(crate) time: f64,
    /// Fingerprints of its terms.
    pub(crate) terms: Vec<u64>,
}

/// What is sealed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The version of [`terms`].
    terms: u32,
    /// Log offset up to which everything is sealed.
    pub(crate) covered: u64,
    /// Messages below it.
    pub(crate) messages: u64,
    /// The newest of them, by which the index knows its log again.
    pub(crate) newest: Option<(u64, MessageId)>,
    /// When it was received, as bits because JSON would round it.
    received: u64,
    next_run: u32,
    runs: [Vec<Run>; 3],
    /// Runs that were merged into others and are removed at the next checkpoint.
    garbage: Vec<(usize, u32)>,
}

/// A feed as the index knows it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Feed {
    tip: Tip,
    /// The tip's offset.
    offset: u64,
    /// How many of its messages are in sealed blocks.
    sealed: u64,
}

/// The unsealed part.
#[derive(Debug, Default, PartialEq)]
struct Recent {
    feeds: BTreeMap<FeedId, Vec<u64>>,
    log: Vec<u64>,
    pairs: [BTreeSet<Pair>; 3],
}

/// The index.
#[derive(Debug)]
pub(crate) struct Index {
    tables: Tables,
    feeds: BTreeMap<FeedId, Feed>,
    recent: Recent,
    sealed: Manifest,
    newest: Option<(u64, MessageId)>,
    received: f64,
}

impl Index {
    /// Loads what is sealed; an index of other terms, or none, is begun anew.
    pub(crate) fn load(tables: Tables) -> Result<Self, IndexError> {
        let stored = tables.tree.get(Table::Manifest.key(&[]))?;
        let manifest = stored.and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok());
        let Some(sealed) = manifest.filter(|manifest| manifest.terms == terms::VERSION) else {
            return Self::empty(tables);
        };
        for table in PAIR_TABLES {
            runs::remove_from(&tables, table, sealed.next_run)?;
        }
        let mut feeds = BTreeMap::new();
        for stored in tables.tree.scan_prefix([Table::Tips as u8]) {
            let (key, value) = stored?;
            let (author, feed) = seal::decode_feed(&key, &value).ok_or_else(|| Table::Tips.malformed())?;
            feeds.insert(author, feed);
        }
        let newest = sealed.newest;
        let received = f64::from_bits(sealed.received);
        Ok(Self { tables, feeds, recent: Recent::default(), sealed, newest, received })
    }

    /// An index that holds nothing.
    pub(crate) fn empty(mut tables: Tables) -> Result<Self, IndexError> {
        tables.clear()?;
        let sealed = Manifest { terms: terms::VERSION, ..Manifest::default() };
        let feeds = BTreeMap::new();
        Ok(Self { tables, feeds, recent: Recent::default(), sealed, newest: None, received: 0.0 })
    }

    /// The same tables with nothing in them.
    pub(crate) fn emptied(self) -> Result<Self, IndexError> {
        Self::empty(self.tables)
    }

    /// Adds the message behind all others.
    pub(crate) fn add(&mut self, entry: &Entry) {
        let Entry { offset, id, author, sequence, .. } = *entry;
        let feed = self.feeds.entry(author).or_insert(Feed { tip: entry.tip(), offset, sealed: 0 });
        debug_assert_eq!(
            feed.sealed + self.recent.feeds.get(&author).map_or(0, Vec::len) as u64 + 1,
            sequence
        );
        (feed.tip, feed.offset) = (entry.tip(), offset);
        self.recent.feeds.entry(author).or_default().push(offset);
        self.recent.log.push(offset);
        self.newest = Some((offset, id));
        self.received = entry.received;
        for (set, number) in entry.pairs() {
            self.recent.pairs[set].insert((number, offset));
        }
    }

    /// What is sealed.
    pub(crate) fn sealed(&self) -> &Manifest {
        &self.sealed
    }

    /// Whether the parts of what was loaded fit together.
    pub(crate) fn is_consistent(&self) -> bool {
        let below = self.feeds.values().all(|feed| feed.offset < self.sealed.covered);
        below && self.feeds.values().map(|feed| feed.sealed).sum::<u64>() == self.sealed.messages
    }

    /// How many messages are not sealed.
    pub(crate) fn unsealed(&self) -> u64 {
        self.recent.log.len() as u64
    }

    /// How many messages there are.
    pub(crate) fn messages(&self) -> u64 {
        self.sealed.messages + self.unsealed()
    }

    /// The newest message's offset and id.
    pub(crate) fn newest(&self) -> Option<(u64, MessageId)> {
        self.newest
    }

    /// When the newest message was received.
    pub(crate) fn received(&self) -> f64 {
        self.received
    }

    /// The newest message of a feed.
    pub(crate) fn tip(&self, feed: &FeedId) -> Option<Tip> {
        self.feeds.get(feed).map(|feed| feed.tip)
    }

    /// The newest message of each feed.
    pub(crate) fn tips(&self) -> impl Iterator<Item = (&FeedId, &Tip)> {
        self.feeds.iter().map(|(id, feed)| (id, &feed.tip))
    }

    /// Each feed's newest message: offset, feed, sequence.
    pub(crate) fn grown(&self) -> impl Iterator<Item = (u64, FeedId, u64)> {
        self.feeds.iter().map(|(id, feed)| (feed.offset, *id, feed.tip.sequence))
    }

    /// How many messages a list has.
    pub(crate) fn list_len(&self, list: List) -> u64 {
        let (sealed, recent) = self.list_parts(list);
        sealed + recent.len() as u64
    }

    /// The offsets at some positions of a list.
    pub(crate) fn list_slice(&self, list: List, positions: Range<u64>) -> Result<Vec<u64>, IndexError> {
        let (sealed, recent) = self.list_parts(list);
        let end = positions.end.min(sealed + recent.len() as u64);
        let mut offsets = Vec::with_capacity(end.saturating_sub(positions.start) as usize);
        let mut at = positions.start;
        while at < end.min(sealed) {
            let block = self.list_block(list, at / LIST_BLOCK)?;
            let begin = at / LIST_BLOCK * LIST_BLOCK;
            let stop = (begin + LIST_BLOCK).min(end).min(sealed);
            let part = block.get((at - begin) as usize..(stop - begin) as usize);
            offsets.extend_from_slice(part.ok_or_else(|| list.table().malformed())?);
            at = stop;
        }
        if at < end {
            offsets.extend_from_slice(&recent[(at - sealed) as usize..(end - sealed) as usize]);
        }
        Ok(offsets)
    }

    /// The first position in the log's list whose offset is not below `offset`.
    pub(crate) fn log_position(&self, offset: u64) -> Result<u64, IndexError> {
        let (mut low, mut high) = (0, self.messages());
        while low < high {
            let middle = low.midpoint(high);
            let found = self.list_slice(List::Log, middle..middle + 1)?;
            if found.first().is_some_and(|found| *found < offset) { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    /// The first pairs within bounds, or the last ones, last first.
    pub(crate) fn pairs(
        &self,
        table: Table,
        bounds: &RangeInclusive<Pair>,
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<Pair>, IndexError> {
        let mut found = Vec::new();
        if bounds.is_empty() {
            return Ok(found);
        }
        let set = pair_set(table);
        for run in &self.sealed.runs[set] {
            runs::page(&self.tables, table, run.id, bounds, limit, reverse, &mut found)?;
        }
        let recent = self.recent.pairs[set].range(bounds.clone());
        if reverse {
            found.extend(recent.rev().take(limit));
            found.sort_unstable_by(|a, b| b.cmp(a));
        } else {
            found.extend(recent.take(limit));
            found.sort_unstable();
        }
        found.truncate(limit);
        Ok(found)
    }

    fn list_parts(&self, list: List) -> (u64, &[u64]) {
        match list {
            List::Log => (self.sealed.messages, &self.recent.log),
            List::Feed(id) => {
                let recent = self.recent.feeds.get(&id).map_or(&[][..], Vec::as_slice);
                (self.feeds.get(&id).map_or(0, |feed| feed.sealed), recent)
            }
        }
    }

    fn list_block(&self, list: List, block: u64) -> Result<Vec<u64>, IndexError> {
        let stored = self.tables.tree.get(list.block_key(block as u32))?;
        stored.and_then(|bytes| coding::decode_list(&bytes)).ok_or_else(|| list.table().malformed())
    }
}

impl Entry {
    /// The message as the newest of its feed.
    pub(crate) fn tip(&self) -> Tip {
        Tip { id: self.id, sequence: self.sequence }
    }

    /// The numbers under which it is found: place in [`PAIR_TABLES`], number.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (usize, u64)> {
        let fixed = [(0, id_key(&self.id)), (1, coding::time_key(self.time))];
        fixed.into_iter().chain(self.terms.iter().map(|term| (2, *term)))
    }
}

/// The number under which an id is found.
pub(crate) fn id_key(id: &MessageId) -> u64 {
    let (first, _) = id.as_bytes().split_at(8);
    first.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The place of a table in [`PAIR_TABLES`].
fn pair_set(table: Table) -> usize {
    PAIR_TABLES.iter().position(|other| *other == table).unwrap_or(0)
}
