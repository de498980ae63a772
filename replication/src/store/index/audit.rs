//! Everything an index says, boiled down to sums, so that it can be compared with what the log says
//! without holding either in memory. A sum does not tell what differs, only in which table.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Entry, Index, PAIR_TABLES, coding, runs};
use crate::message::Tip;
use crate::refs::FeedId;
use crate::store::tables::{IndexError, List, Table};

/// What an index says, or should say.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Audit {
    log: Sum,
    feeds: Sum,
    pairs: [Sum; 3],
    tips: BTreeMap<FeedId, Tip>,
}

/// A sum over a set: equal sets have equal sums, in whatever order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    members: u64,
    hashes: u64,
}

impl Sum {
    fn add(&mut self, member: impl Hash) {
        let mut hasher = DefaultHasher::new();
        member.hash(&mut hasher);
        self.members += 1;
        self.hashes = self.hashes.wrapping_add(hasher.finish());
    }
}

impl Audit {
    /// Adds what the index should say of the next message.
    pub(crate) fn expect(&mut self, entry: &Entry) {
        self.log.add((self.log.members, entry.offset));
        self.feeds.add((entry.author, entry.sequence - 1, entry.offset));
        for (set, number) in entry.pairs() {
            self.pairs[set].add((number, entry.offset));
        }
        self.tips.insert(entry.author, entry.tip());
    }

    /// The tables that are not as expected.
    pub(crate) fn differences(&self, expected: &Self) -> Vec<Table> {
        let mut tables = Vec::new();
        tables.extend((self.log != expected.log).then_some(Table::Log));
        tables.extend((self.feeds != expected.feeds).then_some(Table::Feeds));
        tables.extend((self.tips != expected.tips).then_some(Table::Tips));
        for (set, table) in PAIR_TABLES.into_iter().enumerate() {
            tables.extend((self.pairs[set] != expected.pairs[set]).then_some(table));
        }
        tables
    }
}

impl Index {
    /// Reads all that is sealed. What it still says of the contents at `erased` offsets is passed over: it only
    /// proposes, and goes when the index is made anew.
    pub(crate) fn audit(&self, erased: &BTreeSet<u64>) -> Result<Audit, IndexError> {
        let mut audit = Audit::default();
        self.audit_list(List::Log, self.sealed.messages, |_, member| audit.log.add(member))?;
        for (author, feed) in &self.feeds {
            audit.tips.insert(*author, feed.tip);
            let sum = &mut audit.feeds;
            self.audit_list(List::Feed(*author), feed.sealed, |author, (at, offset)| {
                sum.add((author, at, offset));
            })?;
        }
        for (set, table) in PAIR_TABLES.into_iter().enumerate() {
            for run in &self.sealed.runs[set] {
                let nothing = BTreeSet::new();
                let passed_over = if table == Table::Terms { erased } else { &nothing };
                self.audit_run(table, *run, passed_over, &mut audit.pairs[set])?;
            }
        }
        Ok(audit)
    }

    fn audit_list(
        &self,
        list: List,
        len: u64,
        mut member: impl FnMut(FeedId, (u64, u64)),
    ) -> Result<(), IndexError> {
        let author = match list {
            List::Feed(author) => author,
            List::Log => FeedId::from_bytes([0; 32]),
        };
        for block in (0..len).step_by(super::LIST_BLOCK as usize) {
            let offsets = self.list_slice(list, block..len.min(block + super::LIST_BLOCK))?;
            for (at, offset) in (block..).zip(offsets) {
                member(author, (at, offset));
            }
        }
        Ok(())
    }

    /// Reads a run and checks its order, on which every search relies.
    fn audit_run(
        &self,
        table: Table,
        run: runs::Run,
        passed_over: &BTreeSet<u64>,
        sum: &mut Sum,
    ) -> Result<(), IndexError> {
        let mut last: Option<coding::Pair> = None;
        let mut count = 0;
        for pair in runs::all(&self.tables, table, run.id) {
            let pair = pair?;
            if last.is_some_and(|last| last >= pair) {
                return Err(table.malformed());
            }
            last = Some(pair);
            count += 1;
            if !passed_over.contains(&pair.1) {
                sum.add(pair);
            }
        }
        if count == run.pairs { Ok(()) } else { Err(table.malformed()) }
    }
}
