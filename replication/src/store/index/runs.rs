//! Runs: sorted, immutable sequences of pairs in blocks of about 4 KiB, made at checkpoints and merged so
//! that their number stays small (at most three of a size, each size four times the one before).

use std::iter::Peekable;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::coding::{self, Pair};
use crate::store::tables::{IndexError, Table, Tables};

/// A block is closed when it has reached this.
const BLOCK_BYTES: usize = 4096 - 20;
/// That many runs of a size become one of the next size.
pub(crate) const FANOUT: usize = 4;

/// What the manifest knows of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) id: u32,
    pub(crate) level: u32,
    pub(crate) pairs: u64,
}

fn prefix(table: Table, run: u32) -> Vec<u8> {
    table.key(&run.to_be_bytes())
}

fn block_key(table: Table, run: u32, first: Pair) -> Vec<u8> {
    let mut rest = [0; 20];
    rest[..4].copy_from_slice(&run.to_be_bytes());
    rest[4..12].copy_from_slice(&first.0.to_be_bytes());
    rest[12..].copy_from_slice(&first.1.to_be_bytes());
    table.key(&rest)
}

/// Writes ascending pairs as a run and says how many they were.
pub(crate) fn write(
    tables: &Tables,
    table: Table,
    run: u32,
    pairs: impl Iterator<Item = Result<Pair, IndexError>>,
) -> Result<u64, IndexError> {
    let mut count = 0;
    let mut block = Vec::with_capacity(BLOCK_BYTES + 20);
    let mut first = (0, 0);
    let mut last = (0, 0);
    for pair in pairs {
        let pair = pair?;
        if block.len() >= BLOCK_BYTES {
            tables.tree.insert(block_key(table, run, first), block.as_slice())?;
            block.clear();
        }
        if block.is_empty() {
            first = pair;
            last = (0, 0);
        }
        coding::put_pair(last, pair, &mut block);
        last = pair;
        count += 1;
    }
    if !block.is_empty() {
        tables.tree.insert(block_key(table, run, first), block.as_slice())?;
    }
    Ok(count)
}

/// Notes the removal of a run's blocks.
pub(crate) fn remove(
    tables: &Tables,
    table: Table,
    run: u32,
    batch: &mut sled::Batch,
) -> Result<(), IndexError> {
    for key in tables.tree.scan_prefix(prefix(table, run)).keys() {
        batch.remove(key?);
    }
    Ok(())
}

/// Removes the blocks of all runs from `first` on: those of a checkpoint that did not finish.
pub(crate) fn remove_from(tables: &Tables, table: Table, first: u32) -> Result<(), IndexError> {
    let end = table.key(&[0xFF; 21]);
    for key in tables.tree.range(prefix(table, first)..end).keys() {
        tables.tree.remove(key?)?;
    }
    Ok(())
}

/// All pairs of a run, ascending.
pub(crate) fn all(tables: &Tables, table: Table, run: u32) -> impl Iterator<Item = Result<Pair, IndexError>> {
    tables.tree.scan_prefix(prefix(table, run)).flat_map(move |block| match decode(table, block) {
        Ok(pairs) => pairs.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    })
}

/// The first pairs of a run within bounds, or the last ones, last first.
pub(crate) fn page(
    tables: &Tables,
    table: Table,
    run: u32,
    bounds: &RangeInclusive<Pair>,
    limit: usize,
    reverse: bool,
    out: &mut Vec<Pair>,
) -> Result<(), IndexError> {
    let full = out.len() + limit;
    let last_key = block_key(table, run, *bounds.end());
    let first_key = prefix(table, run);
    if reverse {
        for block in tables.tree.range(first_key..=last_key).rev() {
            let pairs = decode(table, block)?;
            let below = pairs.first().is_some_and(|first| first < bounds.start());
            out.extend(pairs.into_iter().rev().filter(|pair| bounds.contains(pair)));
            if below || out.len() >= full {
                break;
            }
        }
    } else {
        let from_key = block_key(table, run, *bounds.start());
        // The block that begins at or before the lower bound may hold pairs above it.
        let begin = tables.tree.range(first_key.clone()..=from_key).next_back().transpose()?;
        let begin = begin.map_or(first_key, |(key, _)| key.to_vec());
        for block in tables.tree.range(begin..=last_key) {
            out.extend(decode(table, block)?.into_iter().filter(|pair| bounds.contains(pair)));
            if out.len() >= full {
                break;
            }
        }
    }
    out.truncate(full);
    Ok(())
}

fn decode(table: Table, block: sled::Result<(sled::IVec, sled::IVec)>) -> Result<Vec<Pair>, IndexError> {
    coding::decode_pairs(&block?.1).ok_or_else(|| table.malformed())
}

/// One ascending sequence out of several.
pub(crate) struct Merge<I: Iterator<Item = Result<Pair, IndexError>>> {
    inputs: Vec<Peekable<I>>,
}

impl<I: Iterator<Item = Result<Pair, IndexError>>> Merge<I> {
    pub(crate) fn new(inputs: impl IntoIterator<Item = I>) -> Self {
        Self { inputs: inputs.into_iter().map(Iterator::peekable).collect() }
    }
}

impl<I: Iterator<Item = Result<Pair, IndexError>>> Iterator for Merge<I> {
    type Item = Result<Pair, IndexError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut best: Option<(usize, Pair)> = None;
        for (i, input) in self.inputs.iter_mut().enumerate() {
            match input.peek() {
                Some(Ok(pair)) if best.is_none_or(|(_, least)| *pair < least) => best = Some((i, *pair)),
                Some(Err(_)) => return input.next(),
                Some(Ok(_)) | None => {}
            }
        }
        best.and_then(|(i, _)| self.inputs[i].next())
    }
}
