//! Reads the whole log and verifies every message.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::{CheckReport, LogResult, Problem};
use crate::message::{HmacKey, Message, Tip, Unverified, Verifier};
use crate::refs::FeedId;
use crate::store::disk::DiskFile;
use crate::store::index::audit::Audit;
use crate::store::log::read::Loaded;
use crate::store::log::recover::{Layout, RecoverError};
use crate::store::log::scan::{Scan, Step};
use crate::store::log::{self, HEADER, HeaderState};
use crate::store::{entry_of, follows};

/// Messages verified together.
const BATCH: usize = 4096;

/// What is bad, in the form that mending needs, and what the index should say.
#[derive(Debug, Default)]
pub(super) struct Bad {
    /// Stretches of offsets to be made void, by the base of their segment.
    pub(super) stretches: BTreeMap<u64, Vec<Range<u64>>>,
    /// Segments that need a new header.
    pub(super) headers: Vec<u64>,
    /// Offsets of messages without content.
    pub(super) erased: BTreeSet<u64>,
    /// What the index should say of the log up to its checkpoint.
    pub(super) expected: Audit,
}

/// The walk.
pub(super) struct Walk<'a> {
    layout: &'a Layout,
    hmac: Option<&'a HmacKey>,
    /// What the index covers, which therefore was acknowledged once.
    covered: u64,
    report: CheckReport,
    bad: Bad,
    batch: Vec<(u64, Loaded, f64)>,
    verifier: Verifier,
    tips: BTreeMap<FeedId, Tip>,
    /// Feeds of which a message was not good.
    broken: BTreeSet<FeedId>,
    received: f64,
}

impl<'a> Walk<'a> {
    pub(super) fn new(layout: &'a Layout, hmac: Option<&'a HmacKey>, covered: u64) -> Self {
        Self {
            layout,
            hmac,
            covered,
            report: CheckReport::default(),
            bad: Bad::default(),
            batch: Vec::new(),
            verifier: Verifier::new(),
            tips: BTreeMap::new(),
            broken: BTreeSet::new(),
            received: f64::NEG_INFINITY,
        }
    }

    /// Walks all segments.
    pub(super) fn run(&mut self, progress: &mut dyn FnMut(u64, u64)) -> LogResult<()> {
        let mut expected = 0;
        let mut before = 0;
        for (base, file) in &self.layout.files {
            self.check_joint(before, expected, *base);
            let newer = |version| RecoverError::Newer { path: self.layout.path(*base), version };
            let header = log::header_state(&**file, *base).map_err(|e| self.layout.io(*base, e))?;
            match header {
                HeaderState::Newer(version) => return Err(newer(version)),
                HeaderState::Bad => self.note(*base, Problem::Header),
                HeaderState::Good => {}
            }
            if header == HeaderState::Bad {
                self.bad.headers.push(*base);
            }
            let scan = log::scan_segment(file, *base, 0).map_err(|e| self.layout.io(*base, e))?;
            expected = scan.end().max(*base);
            before = *base;
            self.walk_segment(*base, file, scan, progress)?;
        }
        self.verify_batch();
        self.report.bytes = expected;
        Ok(())
    }

    /// What was found.
    pub(super) fn finish(mut self) -> (CheckReport, Bad) {
        self.report.feeds = self.tips.len() as u64;
        (self.report, self.bad)
    }

    /// A segment has to begin where the one before it ends.
    fn check_joint(&mut self, before: u64, expected: u64, base: u64) {
        if expected < base {
            self.note(before, Problem::Missing { from: expected, to: base });
            self.bad.stretches.entry(before).or_default().push(expected..base);
        } else if expected > base {
            self.note(base, Problem::Overlap { at: base });
        }
    }

    fn walk_segment(
        &mut self,
        base: u64,
        file: &Arc<dyn DiskFile>,
        mut scan: Scan,
        progress: &mut dyn FnMut(u64, u64),
    ) -> LogResult<()> {
        let failed = |source| self.layout.io(base, source);
        loop {
            match scan.step().map_err(failed)? {
                Step::Message { offset, record, .. } if record.erased => {
                    let loaded = Loaded::new(offset, &record);
                    self.verify_batch();
                    self.check_erased(base, &loaded, record.claimed);
                }
                Step::Message { offset, record, .. } => {
                    self.batch.push((base, Loaded::new(offset, &record), record.claimed));
                }
                Step::Void { .. } => {}
                Step::Bad { offset } => {
                    if self.is_unfinished_write(base, file, offset)? {
                        self.note(base, Problem::UnfinishedWrite { from: offset });
                        return Ok(());
                    }
                    let to = scan.resume().map_err(failed)?.unwrap_or(scan.end());
                    self.note(base, Problem::Damaged { from: offset, to });
                    self.bad.stretches.entry(base).or_default().push(offset..to);
                }
                Step::End => return Ok(()),
            }
            if self.batch.len() >= BATCH {
                self.verify_batch();
                progress(scan.offset(), self.layout.end());
            }
        }
    }

    /// Whether a bad place is what a crash leaves at the end of the log, rather than damage.
    fn is_unfinished_write(&self, base: u64, file: &Arc<dyn DiskFile>, bad: u64) -> LogResult<bool> {
        if self.layout.next_base(base).is_some() || bad < self.covered {
            return Ok(false);
        }
        let failed = |source| self.layout.io(base, source);
        let mut scan = Scan::new(Arc::clone(file), base, bad).map_err(failed)?;
        Ok(!log::was_acknowledged(&mut scan, bad).map_err(failed)?)
    }

    fn verify_batch(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let (mut parsed, mut which) = (Vec::new(), Vec::new());
        let mut results = Vec::with_capacity(batch.len());
        for (i, (_, loaded, _)) in batch.iter().enumerate() {
            match Unverified::parse(&loaded.value) {
                Ok(message) => {
                    parsed.push(message);
                    which.push(i);
                    results.push(None);
                }
                Err(why) => results.push(Some(Err(why))),
            }
        }
        let verified = self.verifier.validate_batch(parsed, self.hmac, |feed| self.tips.get(feed).copied());
        for (i, result) in which.into_iter().zip(verified) {
            results[i] = Some(result);
        }
        for ((base, loaded, claimed), result) in batch.into_iter().zip(results.into_iter().flatten()) {
            let problem = match result {
                _ if self.broken.contains(&loaded.author) => Some(Problem::Orphan { offset: loaded.offset }),
                Err(_) if self.is_orphan(&loaded) => Some(Problem::Orphan { offset: loaded.offset }),
                Err(why) => Some(Problem::Invalid { offset: loaded.offset, why }),
                Ok(message) => self.accept(&loaded, claimed, &message),
            };
            if let Some(problem) = problem {
                self.reject(base, &loaded, problem);
            }
        }
    }

    fn reject(&mut self, base: u64, loaded: &Loaded, problem: Problem) {
        self.broken.insert(loaded.author);
        self.note(base, problem);
        let end = loaded.offset + log::record::HEAD as u64 + loaded.value.len() as u64;
        self.bad.stretches.entry(base).or_default().push(loaded.offset..end);
    }

    /// Of a message without its content the chain can be verified, and nothing else.
    fn check_erased(&mut self, base: u64, loaded: &Loaded, claimed: f64) {
        let message = Message::from_trusted(loaded.id, loaded.value.clone());
        let tip = self.tips.get(&loaded.author).copied();
        let problem = match message {
            _ if self.broken.contains(&loaded.author) => Some(Problem::Orphan { offset: loaded.offset }),
            Ok(message) if follows(&message, tip) => self.accept(loaded, claimed, &message),
            Ok(_) => Some(Problem::Orphan { offset: loaded.offset }),
            Err(_) => Some(Problem::Mismatch { offset: loaded.offset }),
        };
        match problem {
            Some(problem) => self.reject(base, loaded, problem),
            None => {
                self.bad.erased.insert(loaded.offset);
            }
        }
    }

    /// Whether a message is only wrong in that the one before it is not there.
    fn is_orphan(&self, loaded: &Loaded) -> bool {
        loaded.sequence > self.tips.get(&loaded.author).map_or(0, |tip| tip.sequence) + 1
    }

    /// Takes a valid message, unless its record says something else.
    fn accept(&mut self, loaded: &Loaded, claimed: f64, message: &Message) -> Option<Problem> {
        let Loaded { offset, id, author, sequence, received, ref value, .. } = *loaded;
        let same = message.id() == id
            && message.author() == author
            && message.sequence() == sequence
            && message.timestamp() == claimed
            && message.value_bytes() == value;
        if !same {
            return Some(Problem::Mismatch { offset });
        }
        if received <= self.received {
            self.report.note(self.layout.path(0), Problem::ReceiveTime { offset });
        }
        self.received = self.received.max(received);
        self.tips.insert(author, message.tip());
        self.report.messages += 1;
        if offset < self.covered {
            self.bad.expected.expect(&entry_of(offset, received, message));
        }
        None
    }

    fn note(&mut self, base: u64, problem: Problem) {
        let path = self.layout.path(base);
        self.report.note(path, problem);
    }
}

/// A segment's first record.
pub(super) const FIRST: u64 = HEADER as u64;
