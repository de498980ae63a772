//! Checkpoints: what is in memory becomes blocks.

use std::io;

use super::coding::{self, Pair};
use super::runs::{self, FANOUT, Merge, Run};
use super::{Feed, Index, LIST_BLOCK, Manifest, PAIR_TABLES, Recent};
use crate::message::Tip;
use crate::refs::{FeedId, MessageId};
use crate::store::tables::{IndexError, List, Table};

/// Room that sled may take beyond what it is given: its segments and its own notes.
const SLACK: u64 = 2 << 20;

/// A checkpoint that is on disk and that the index in memory does not know yet.
#[derive(Debug)]
pub(crate) struct Sealed {
    manifest: Manifest,
}

impl Index {
    /// Writes a checkpoint that covers the log up to `covered`, the end of what was added. The index itself
    /// stays as it is until [`Self::install`], so that it can be read meanwhile.
    pub(crate) fn seal(&self, covered: u64) -> Result<Sealed, IndexError> {
        self.tables.probe_room(self.room_to_seal())?;
        let mut batch = sled::Batch::default();
        let mut manifest = Manifest {
            covered,
            messages: self.messages(),
            newest: self.newest,
            received: self.received.to_bits(),
            garbage: Vec::new(),
            ..self.sealed.clone()
        };
        for (set, run) in &self.sealed.garbage {
            runs::remove(&self.tables, PAIR_TABLES[*set], *run, &mut batch)?;
        }
        for set in 0..PAIR_TABLES.len() {
            self.seal_pairs(set, &mut manifest)?;
        }
        self.seal_list(List::Log, &self.recent.log, &mut batch)?;
        for (author, offsets) in &self.recent.feeds {
            self.seal_list(List::Feed(*author), offsets, &mut batch)?;
            if let Some(feed) = self.feeds.get(author) {
                batch.insert(Table::Tips.key(author.as_bytes()), encode_feed(feed));
            }
        }
        let json = serde_json::to_vec(&manifest).map_err(io::Error::from)?;
        batch.insert(Table::Manifest.key(&[]), json);
        self.tables.tree.apply_batch(batch)?;
        self.tables.db.flush()?;
        Ok(Sealed { manifest })
    }

    /// Takes over a checkpoint.
    pub(crate) fn install(&mut self, sealed: Sealed) {
        for author in self.recent.feeds.keys() {
            if let Some(feed) = self.feeds.get_mut(author) {
                feed.sealed = feed.tip.sequence;
            }
        }
        self.recent = Recent::default();
        self.sealed = sealed.manifest;
    }

    /// More bytes than a checkpoint will write.
    fn room_to_seal(&self) -> u64 {
        let merged = |set: usize| -> u64 {
            let level = self.level_of_next_run(set);
            self.sealed.runs[set].iter().filter(|run| run.level < level).map(|run| run.pairs).sum()
        };
        let pairs = (0..PAIR_TABLES.len()).map(merged).sum::<u64>() + 6 * self.unsealed();
        let list_blocks = 1 + self.recent.feeds.len() as u64;
        SLACK + pairs * 14 + list_blocks * 4096
    }

    /// How large the next run of a table will be: all smaller ones go into it.
    fn level_of_next_run(&self, set: usize) -> u32 {
        let count = |level: u32| self.sealed.runs[set].iter().filter(|run| run.level == level).count();
        (0..).find(|level| count(*level) + 1 < FANOUT).unwrap_or(0)
    }

    /// Makes one run of the pairs in memory and of all runs whose turn it is.
    fn seal_pairs(&self, set: usize, manifest: &mut Manifest) -> Result<(), IndexError> {
        let recent = &self.recent.pairs[set];
        if recent.is_empty() {
            return Ok(());
        }
        let (table, existing) = (PAIR_TABLES[set], &mut manifest.runs[set]);
        let level = self.level_of_next_run(set);
        let merged: Vec<Run> = existing.extract_if(.., |run| run.level < level).collect();
        let id = manifest.next_run;
        let old = merged.iter().map(|run| -> Box<dyn Iterator<Item = Result<Pair, IndexError>>> {
            Box::new(runs::all(&self.tables, table, run.id))
        });
        let new: Box<dyn Iterator<Item = _>> = Box::new(recent.iter().copied().map(Ok));
        let pairs = runs::write(&self.tables, table, id, Merge::new(old.chain([new])))?;
        existing.push(Run { id, level, pairs });
        manifest.next_run += 1;
        manifest.garbage.extend(merged.iter().map(|run| (set, run.id)));
        Ok(())
    }

    /// Adds offsets to a list's blocks: its last one is filled up first.
    fn seal_list(&self, list: List, mut rest: &[u64], batch: &mut sled::Batch) -> Result<(), IndexError> {
        let (mut at, _) = self.list_parts(list);
        while !rest.is_empty() {
            let within = at % LIST_BLOCK;
            let mut block = if within == 0 { Vec::new() } else { self.list_block(list, at / LIST_BLOCK)? };
            if block.len() < within as usize {
                return Err(list.table().malformed());
            }
            block.truncate(within as usize);
            let (now, later) = rest.split_at(rest.len().min((LIST_BLOCK - within) as usize));
            block.extend_from_slice(now);
            batch.insert(list.block_key((at / LIST_BLOCK) as u32), coding::encode_list(&block));
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }
}

fn encode_feed(feed: &Feed) -> Vec<u8> {
    let mut value = Vec::with_capacity(48);
    value.extend_from_slice(&feed.tip.sequence.to_be_bytes());
    value.extend_from_slice(&feed.offset.to_be_bytes());
    value.extend_from_slice(feed.tip.id.as_bytes());
    value
}

pub(super) fn decode_feed(key: &[u8], value: &[u8]) -> Option<(FeedId, Feed)> {
    let author = FeedId::from_bytes(key.get(1..)?.try_into().ok()?);
    let sequence = u64::from_be_bytes(value.get(..8)?.try_into().ok()?);
    let offset = u64::from_be_bytes(value.get(8..16)?.try_into().ok()?);
    let id = MessageId::from_bytes(value.get(16..)?.try_into().ok()?);
    Some((author, Feed { tip: Tip { id, sequence }, offset, sealed: sequence }))
}
