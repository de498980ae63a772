//! Reads messages out of the log by offset: one, or many with as few reads as their places allow.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::record::{self, Fault, Parsed, Record};
use super::{HEADER, Segments};
use crate::refs::{FeedId, MessageId};
use crate::store::ReadError;
use crate::store::disk::DiskFile;

/// Read at once for a record whose length is not known yet; nearly all records are shorter.
const GUESS: usize = 4 * 1024;
/// Records are read together when no more than this lies between their beginnings: what lies between is copied in vain…
const GAP: u64 = 6 * 1024;
/// …and all of them begin within this, which the allocator has at hand.
const WINDOW: u64 = 96 * 1024;

/// A message record with its own copy of the value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Loaded {
    pub(crate) offset: u64,
    pub(crate) id: MessageId,
    pub(crate) author: FeedId,
    pub(crate) sequence: u64,
    pub(crate) received: f64,
    pub(crate) value: Bytes,
    pub(crate) erased: bool,
}

impl Loaded {
    pub(crate) fn new(offset: u64, record: &Record<'_>) -> Self {
        Self {
            offset,
            id: record.id,
            author: record.author,
            sequence: record.sequence,
            received: record.received,
            value: Bytes::copy_from_slice(record.value),
            erased: record.erased,
        }
    }
}

impl Segments {
    /// The message at an offset.
    pub(crate) fn read(&self, offset: u64) -> Result<Loaded, ReadError> {
        loop {
            let before = self.erasures.load(Ordering::Acquire);
            let read =
                self.locate(offset).and_then(|(base, file)| self.read_whole(&*file, base, offset, GUESS));
            let is_changing = before % 2 == 1 || self.erasures.load(Ordering::Acquire) != before;
            if !(is_changing && matches!(read, Err(ReadError::Damaged { .. }))) {
                return read;
            }
            std::thread::yield_now();
        }
    }

    /// The messages at some offsets, in the given order.
    pub(crate) fn read_many(&self, offsets: &[u64]) -> Vec<Result<Loaded, ReadError>> {
        let mut order: Vec<usize> = (0..offsets.len()).collect();
        order.sort_unstable_by_key(|i| offsets[*i]);
        let mut results: Vec<Option<Result<Loaded, ReadError>>> = Vec::new();
        results.resize_with(offsets.len(), || None);
        let mut rest = &order[..];
        while let Some(first) = rest.first() {
            let (group, others) = rest.split_at(self.group_len(rest, offsets));
            let window = self.read_window(offsets[*first], group.last().map_or(0, |i| offsets[*i]));
            for i in group {
                results[*i] = Some(match &window {
                    Some(window) => self.read_in(window, offsets[*i]),
                    None => self.read(offsets[*i]),
                });
            }
            rest = others;
        }
        results.into_iter().flatten().collect()
    }

    /// How many of these ascending places are worth one read.
    fn group_len(&self, ascending: &[usize], offsets: &[u64]) -> usize {
        let first = offsets[ascending[0]];
        let limit = self.find_next_base(first).unwrap_or(u64::MAX);
        let near = |pair: &&[usize]| {
            let (a, b) = (offsets[pair[0]], offsets[pair[1]]);
            b - a <= GAP && b - first <= WINDOW && b < limit
        };
        1 + ascending.windows(2).take_while(near).count()
    }

    fn find_next_base(&self, offset: u64) -> Option<u64> {
        let files = self.files.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        files.range(offset + 1..).next().map(|(base, _)| *base)
    }

    fn read_window(&self, first: u64, last: u64) -> Option<Window> {
        let (base, file) = self.locate(first).ok()?;
        let mut bytes = vec![0; (last - first) as usize + GUESS];
        let n = file.read_at(&mut bytes, first - base).ok()?;
        bytes.truncate(n);
        Some(Window { file, base, start: first, bytes })
    }

    fn read_in(&self, window: &Window, offset: u64) -> Result<Loaded, ReadError> {
        let start = (offset - window.start) as usize;
        let bytes = window.bytes.get(start..).unwrap_or_default();
        match record::parse(bytes) {
            Ok(Parsed::Message { record, .. }) => Ok(Loaded::new(offset, &record)),
            Err(Fault::Short { need }) => self.read_whole(&*window.file, window.base, offset, need),
            // It may have been read while it was erased.
            Ok(Parsed::Void { .. }) | Err(Fault::Bad) => self.read(offset),
        }
    }

    fn read_whole(
        &self,
        file: &dyn DiskFile,
        base: u64,
        offset: u64,
        guess: usize,
    ) -> Result<Loaded, ReadError> {
        let mut bytes = vec![0; guess];
        loop {
            let n = file
                .read_at(&mut bytes, offset - base)
                .map_err(|source| ReadError::Io { path: self.path_of(offset), source })?;
            match record::parse(&bytes[..n]) {
                Ok(Parsed::Message { record, .. }) => return Ok(Loaded::new(offset, &record)),
                Err(Fault::Short { need }) if need > bytes.len() => bytes.resize(need, 0),
                Ok(Parsed::Void { .. }) | Err(Fault::Short { .. } | Fault::Bad) => {
                    return Err(self.damaged(offset));
                }
            }
        }
    }

    fn locate(&self, offset: u64) -> Result<(u64, Arc<dyn DiskFile>), ReadError> {
        match self.find(offset) {
            Some((base, file)) if offset >= base + HEADER as u64 => Ok((base, file)),
            Some(_) | None => Err(self.damaged(offset)),
        }
    }

    fn damaged(&self, offset: u64) -> ReadError {
        ReadError::Damaged { path: self.path_of(offset), offset }
    }
}

#[derive(Debug)]
struct Window {
    file: Arc<dyn DiskFile>,
    base: u64,
    start: u64,
    bytes: Vec<u8>,
}
