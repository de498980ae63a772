//! Reading: any number of threads, at any time, while the writer goes on.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::{Bound, Range, RangeBounds, RangeInclusive};
use std::sync::Arc;

use super::index::coding::{Pair, time_key};
use super::tables::{List, Table};
use super::terms::Term;
use super::{ReadError, Shared, Stored};
use crate::message::{Fork, Message, Tip};
use crate::refs::{FeedId, MessageId};

/// An iterator reads this many messages first, …
const FIRST_PAGE: usize = 16;
/// … then twice as many each time, up to this.
const LARGEST_PAGE: usize = 128;

/// Times looked at together when only those of some messages are wanted.
const LOOKED_AT: usize = 4096;

/// Messages of a term that are read at once to be ordered by time, if they are at most so many, …
const FEW: usize = 4096;
/// … and at most one in so many.
const SELDOM: usize = 32;

/// A reading end of the store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {
    shared: Arc<Shared>,
}

/// Which end of a range comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    Ascending,
    /// Newest first.
    Descending,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The newest message of a feed.
    pub fn tip(&self, feed: &FeedId) -> Option<Tip> {
        self.shared.index().tip(feed)
    }

    /// All feeds we hold and the sequence number of each one's newest message.
    pub fn clock(&self) -> BTreeMap<FeedId, u64> {
        self.shared.index().tips().map(|(feed, tip)| (*feed, tip.sequence)).collect()
    }

    /// All feeds and their newest sequence numbers; what grew last comes last.
    pub fn clock_by_growth(&self) -> Vec<(FeedId, u64)> {
        let mut feeds: Vec<_> = self.shared.index().grown().collect();
        feeds.sort_unstable();
        feeds.into_iter().map(|(_, feed, sequence)| (feed, sequence)).collect()
    }

    /// How many feeds there are.
    pub fn feeds(&self) -> usize {
        self.shared.index().tips().count()
    }

    /// How many messages there are.
    pub fn len(&self) -> u64 {
        self.shared.index().messages()
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the log up to its newest message.
    pub fn bytes(&self) -> u64 {
        self.last_offset().unwrap_or(0)
    }

    /// The newest message's offset.
    pub fn last_offset(&self) -> Option<u64> {
        self.shared.index().newest().map(|(offset, _)| offset)
    }

    /// When the newest message was received.
    pub fn last_received(&self) -> Option<f64> {
        let index = self.shared.index();
        index.newest().map(|_| index.received())
    }

    /// The message with an id; none if its content was [erased](super::Writer::erase), as everywhere here.
    pub fn get(&self, id: &MessageId) -> Result<Option<Stored>, ReadError> {
        /// Messages that share eight bytes of their ids are made on purpose or never.
        const CANDIDATES: usize = 1024;
        let candidates = self.shared.index().pairs(Table::Ids, &super::same_prefix(id), CANDIDATES, true)?;
        for (_, offset) in candidates {
            let loaded = self.shared.segments.read(offset)?;
            if loaded.id == *id {
                return self.shared.stored(loaded);
            }
        }
        Ok(None)
    }

    /// A feed's message with a sequence number.
    pub fn at(&self, feed: &FeedId, sequence: u64) -> Result<Option<Stored>, ReadError> {
        let Some(position) = sequence.checked_sub(1) else { return Ok(None) };
        let found = self.shared.index().list_slice(List::Feed(*feed), position..sequence)?;
        let Some(offset) = found.first() else { return Ok(None) };
        self.shared.segments.read(*offset).and_then(|loaded| self.shared.stored(loaded))
    }

    /// The proof of a fork that a verified message makes together with what we hold, if the two contradict each
    /// other: the message at its place, or the one that it should follow.
    pub fn fork_with(&self, refused: Message) -> Option<Fork> {
        let held = |sequence| self.at(&refused.author(), sequence).ok().flatten();
        let held = held(refused.sequence()).or_else(|| held(refused.sequence().checked_sub(1)?))?;
        Fork::new(held.message, refused)
    }

    /// A feed's messages from a sequence number on, as peers can take them: without any gap, so up to the first
    /// whose content was [erased](super::Writer::erase).
    pub fn feed(&self, feed: &FeedId, from: u64) -> Messages {
        Messages { ends_at_gap: true, ..self.feed_range(feed, from.., Order::Ascending) }
    }

    /// The same up to another one, all of which is wanted: read in large pages from the beginning.
    pub fn chain(&self, feed: &FeedId, sequences: RangeInclusive<u64>) -> Messages {
        let messages = self.feed_range(feed, sequences, Order::Ascending);
        Messages { ends_at_gap: true, page: LARGEST_PAGE, ..messages }
    }

    /// A feed's messages with sequence numbers in a range.
    pub fn feed_range(&self, feed: &FeedId, sequences: impl RangeBounds<u64>, order: Order) -> Messages {
        let list = List::Feed(*feed);
        let len = self.shared.index().list_len(list);
        let sequences = half_open(sequences);
        let positions = sequences.start.max(1) - 1..sequences.end.saturating_sub(1).min(len);
        self.messages(Cursor::List { list, positions }, order)
    }

    /// All messages in the order of reception, with offsets in a range: `log(offset + 1.., …)` goes on
    /// after the message at `offset`.
    pub fn log(&self, offsets: impl RangeBounds<u64>, order: Order) -> Result<Messages, ReadError> {
        let offsets = half_open(offsets);
        let index = self.shared.index();
        let positions = index.log_position(offsets.start)?..index.log_position(offsets.end)?;
        drop(index);
        Ok(self.messages(Cursor::List { list: List::Log, positions }, order))
    }

    /// The offset of the first message that was received at or after a time, or one behind the newest: turns
    /// ranges of receive times into ranges of offsets.
    pub fn offset_received(&self, time: f64) -> Result<u64, ReadError> {
        let offset_at = |position: u64| {
            let found = self.shared.index().list_slice(List::Log, position..position + 1)?;
            Ok::<_, ReadError>(found.first().copied())
        };
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            let Some(offset) = offset_at(middle)? else { break };
            if self.shared.segments.read(offset)?.received < time { low = middle + 1 } else { high = middle }
        }
        let behind_newest = || self.last_offset().map_or(0, |offset| offset + 1);
        Ok(offset_at(low)?.unwrap_or_else(behind_newest))
    }

    /// Messages whose content has a type, in the order of reception.
    pub fn by_type(&self, kind: &str, offsets: impl RangeBounds<u64>, order: Order) -> Messages {
        self.by_term(Term::Type(kind.to_owned()), offsets, order)
    }

    /// Messages that are an edge of the social graph, in the order of reception.
    pub fn contacts(&self, offsets: impl RangeBounds<u64>, order: Order) -> Messages {
        self.by_term(Term::Contact, offsets, order)
    }

    /// Messages that name a channel, in the order of reception.
    pub fn with_hashtags(&self, offsets: impl RangeBounds<u64>, order: Order) -> Messages {
        self.by_term(Term::Hashtag, offsets, order)
    }

    /// Messages with a term, in the order of reception.
    pub fn by_term(&self, term: Term, offsets: impl RangeBounds<u64>, order: Order) -> Messages {
        let offsets = half_open(offsets);
        let newest = self.last_offset().map_or(0, |offset| offset + 1);
        let end = offsets.end.min(newest);
        let number = term.fingerprint();
        // No message is at offset 0, so nothing is lost where `end` is 0.
        let bounds = (number, offsets.start)..=(number, end.saturating_sub(1));
        self.messages(Cursor::Pairs { table: Table::Terms, bounds, term: Some(term) }, order)
    }

    /// All messages ordered by [`Stored::time`], with times in a range.
    pub fn by_time(&self, times: impl RangeBounds<f64>, order: Order) -> Messages {
        let bounds = time_bounds(times);
        self.messages(Cursor::Pairs { table: Table::Times, bounds, term: None }, order)
    }

    /// Messages with a term, ordered by [`Stored::time`], with times in a range.
    pub fn by_term_and_time(
        &self,
        term: Term,
        times: impl RangeBounds<f64>,
        order: Order,
    ) -> Result<Messages, ReadError> {
        let number = term.fingerprint();
        let index = self.shared.index();
        // Each message has a term once at most.
        let most = index.messages() as usize;
        let pairs = index.pairs(Table::Terms, &((number, 0)..=(number, u64::MAX)), most, false)?;
        drop(index);
        let among: Vec<u64> = pairs.into_iter().map(|(_, offset)| offset).collect();
        if among.len() <= FEW && among.len() * SELDOM <= most {
            return self.few_by_time(among, &time_bounds(times), &term, order);
        }
        Ok(self.messages(Cursor::Times { bounds: time_bounds(times), among, term: Some(term) }, order))
    }

    /// Reads all at once, which is sooner done than looking for them among all times.
    fn few_by_time(
        &self,
        offsets: Vec<u64>,
        bounds: &RangeInclusive<Pair>,
        term: &Term,
        order: Order,
    ) -> Result<Messages, ReadError> {
        let mut found = self.at_offsets(offsets).collect::<Result<Vec<_>, _>>()?;
        let place = |stored: &Stored| (time_key(stored.time()), stored.offset);
        found.retain(|stored| bounds.contains(&place(stored)) && term.is_in(&stored.message));
        found.sort_unstable_by_key(place);
        if order == Order::Descending {
            found.reverse();
        }
        let ready = found.into_iter().map(Ok).collect();
        Ok(Messages { ready, ended: true, ..self.at_offsets(Vec::new()) })
    }

    /// A feed's messages, ordered by [`Stored::time`], with times in a range.
    pub fn feed_by_time(
        &self,
        feed: &FeedId,
        times: impl RangeBounds<f64>,
        order: Order,
    ) -> Result<Messages, ReadError> {
        // A later message of a feed lies at a later offset.
        let among = self.shared.index().list_slice(List::Feed(*feed), 0..u64::MAX)?;
        Ok(self.messages(Cursor::Times { bounds: time_bounds(times), among, term: None }, order))
    }

    /// The messages at some offsets, which come from this store, in the given order; erased ones are left out.
    pub fn at_offsets(&self, offsets: Vec<u64>) -> Messages {
        self.messages(Cursor::Places(offsets.into_iter()), Order::Ascending)
    }

    fn messages(&self, cursor: Cursor, order: Order) -> Messages {
        let shared = Arc::clone(&self.shared);
        let ready = VecDeque::new();
        Messages { shared, cursor, order, page: FIRST_PAGE, ready, ends_at_gap: false, ended: false }
    }
}

/// Times as the table of times has them.
fn time_bounds(times: impl RangeBounds<f64>) -> RangeInclusive<Pair> {
    let start = match times.start_bound() {
        Bound::Included(time) => (time_key(*time), 0),
        Bound::Excluded(time) => (time_key(*time), u64::MAX),
        Bound::Unbounded => (0, 0),
    };
    let end = match times.end_bound() {
        Bound::Included(time) => (time_key(*time), u64::MAX),
        Bound::Excluded(time) => (time_key(*time), 0),
        Bound::Unbounded => (u64::MAX, u64::MAX),
    };
    start..=end
}

/// Messages of a range, read in pages as they are asked for. What is stored after the iterator was made is not
/// part of it, except in those ordered by time. After an error it ends.
pub struct Messages {
    shared: Arc<Shared>,
    cursor: Cursor,
    order: Order,
    page: usize,
    ready: VecDeque<Result<Stored, ReadError>>,
    ends_at_gap: bool,
    ended: bool,
}

/// What is left to read.
enum Cursor {
    List {
        list: List,
        positions: Range<u64>,
    },
    Pairs {
        table: Table,
        bounds: RangeInclusive<Pair>,
        term: Option<Term>,
    },
    /// The table of times, as far as it names one of these ascending offsets.
    Times {
        bounds: RangeInclusive<Pair>,
        among: Vec<u64>,
        term: Option<Term>,
    },
    /// Offsets that somebody else found.
    Places(std::vec::IntoIter<u64>),
}

impl Cursor {
    /// The offsets of the next page; none at the end.
    fn next_page(&mut self, shared: &Shared, limit: usize, order: Order) -> Result<Vec<u64>, ReadError> {
        let index = shared.index();
        match self {
            Self::Places(offsets) => Ok(offsets.take(limit).collect()),
            Self::List { list, positions } => {
                let n = positions.end.saturating_sub(positions.start).min(limit as u64);
                let now = match order {
                    Order::Ascending => positions.start..positions.start + n,
                    Order::Descending => positions.end - n..positions.end,
                };
                match order {
                    Order::Ascending => positions.start = now.end,
                    Order::Descending => positions.end = now.start,
                }
                let mut offsets = if n == 0 { Vec::new() } else { index.list_slice(*list, now)? };
                if order == Order::Descending {
                    offsets.reverse();
                }
                Ok(offsets)
            }
            Self::Pairs { table, bounds, .. } => {
                let pairs = index.pairs(*table, bounds, limit, order == Order::Descending)?;
                if let Some(last) = pairs.last() {
                    *bounds = behind(*last, bounds, order);
                }
                Ok(pairs.into_iter().map(|(_, offset)| offset).collect())
            }
            Self::Times { bounds, among, .. } => {
                let mut found = Vec::with_capacity(limit);
                while found.len() < limit {
                    let pairs = index.pairs(Table::Times, bounds, LOOKED_AT, order == Order::Descending)?;
                    let Some(last) = pairs.last() else { break };
                    let rest = behind(*last, bounds, order);
                    let mut fitting = pairs.iter().filter(|(_, offset)| among.binary_search(offset).is_ok());
                    found.extend(fitting.by_ref().take(limit - found.len()).copied());
                    let has_more = fitting.next().is_some();
                    *bounds = match found.last() {
                        Some(last) if has_more => behind(*last, bounds, order),
                        Some(_) | None => rest,
                    };
                }
                Ok(found.into_iter().map(|(_, offset)| offset).collect())
            }
        }
    }

    /// Whether a message that the index proposed is meant.
    fn means(&self, stored: &Stored) -> bool {
        match self {
            Self::Pairs { term: Some(term), .. } | Self::Times { term: Some(term), .. } => {
                term.is_in(&stored.message)
            }
            Self::Pairs { term: None, .. }
            | Self::Times { term: None, .. }
            | Self::List { .. }
            | Self::Places(_) => true,
        }
    }
}

/// What is left of bounds behind a pair.
fn behind(pair: Pair, bounds: &RangeInclusive<Pair>, order: Order) -> RangeInclusive<Pair> {
    let (number, offset) = pair;
    match order {
        Order::Ascending => (number, offset + 1)..=*bounds.end(),
        Order::Descending => *bounds.start()..=(number, offset - 1),
    }
}

impl Messages {
    /// The same for somebody who will hardly want more than `limit`: no more are read at first.
    #[must_use]
    pub fn limited(self, limit: Option<u64>) -> Self {
        let page = limit.map_or(self.page, |limit| usize::try_from(limit).unwrap_or(LARGEST_PAGE));
        Self { page: page.clamp(1, LARGEST_PAGE), ..self }
    }

    fn fill(&mut self) {
        let offsets = match self.cursor.next_page(&self.shared, self.page, self.order) {
            Ok(offsets) => offsets,
            Err(error) => return self.ready.push_back(Err(error)),
        };
        self.ended = offsets.is_empty();
        self.page = (self.page * 2).min(LARGEST_PAGE);
        for loaded in self.shared.segments.read_many(&offsets) {
            match loaded.and_then(|loaded| self.shared.stored(loaded)) {
                Ok(None) if self.ends_at_gap => {
                    self.ended = true;
                    return;
                }
                Ok(None) => {}
                Ok(Some(stored)) if !self.cursor.means(&stored) => {}
                Ok(Some(stored)) => self.ready.push_back(Ok(stored)),
                Err(error) => self.ready.push_back(Err(error)),
            }
        }
    }
}

impl Iterator for Messages {
    type Item = Result<Stored, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && !self.ended {
            self.fill();
        }
        let next = self.ready.pop_front();
        if matches!(next, Some(Err(_))) {
            self.ready.clear();
            self.ended = true;
        }
        next
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages")
            .field("order", &self.order)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// A range of whole numbers as start and end.
fn half_open(range: impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

#[cfg(test)]
impl Reader {
    /// What the sealed index says.
    pub(super) fn audit(&self) -> super::index::audit::Audit {
        self.shared.index().audit(&std::collections::BTreeSet::new()).unwrap()
    }
}
