//! Other people's records. Bounded in all: no source and no network fills more than its share, and when it
//! is full, what is farthest from us makes room.
//!
//! Whoever brought a record is its owner until somebody brings a newer one. What always holds:
//!
//! - a record makes room only for a nearer one, and only for one of its own network or of a network that has
//!   fewer: neither many records nor many networks push out what is near to us;
//! - a network's share counts only while the store is more than half full: where everybody is behind one NAT
//!   or in one lab, they have that half for themselves;
//! - the signature is checked last, and so often only for each network.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Asker, Distance, Key, NodeId, Record, Subnet};
use index::{Entry, Index, Owner};

mod index;
#[cfg(test)]
mod tests;

/// Bytes of a record's key: a SHA-256.
const KEY_BYTES: usize = 32;
/// Most bytes of a value. How long exactly it must be is for [`Validate`] to say.
pub(crate) const MAX_VALUE: usize = 1024;
/// Most records: 32 MiB of values of the longest kind, and about a quarter more to find them.
const MAX_RECORDS: usize = 32 * 1024;
/// Most records of one peer in one network: two periods of 256 slots, and what is left of a third.
const MAX_PER_OWNER: usize = 3 * 256;
/// Most records of one network while the store is more than half full.
const MAX_PER_SUBNET: usize = 2048;
/// Longest life after a record was brought, whatever it says of itself.
const MAX_LIFE: Duration = Duration::from_secs(2 * 60 * 60);

/// One check of a signature for each network in this time (at 0.1 ms each, 1 % of a core)...
const CHECK_INTERVAL: Duration = Duration::from_millis(10);
/// ...and so many at once: all peers of a small network start together.
const CHECK_BURST: u32 = 8192;
/// Most networks whose checks are counted; then all are forgotten.
const MAX_CHECKED: usize = 4096;

/// Why a record is not stored or not believed: a bounded label for metrics.
pub(crate) type Refusal = &'static str;

/// What a record says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Of two records under one key the higher one is valid.
    pub(crate) sequence: u64,
    /// When it ends, since 1970.
    pub(crate) until: Duration,
}

/// Checks a value against its key at a time since 1970.
pub(crate) type Validate = fn(key: &[u8], value: &[u8], unix: Duration) -> Result<Stamp, Refusal>;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
struct Limits {
    records: usize,
    per_owner: usize,
    per_subnet: usize,
}

/// The store.
#[derive(Debug)]
pub(super) struct Store {
    own: Key,
    validate: Validate,
    limits: Limits,
    index: Index,
    /// When the checks of a network will be paid for at one each [`CHECK_INTERVAL`].
    checked: BTreeMap<Subnet, Instant>,
}

impl Store {
    pub(super) fn new(own: NodeId, validate: Validate) -> Self {
        let limits = Limits { records: MAX_RECORDS, per_owner: MAX_PER_OWNER, per_subnet: MAX_PER_SUBNET };
        Self::with_limits(&own, validate, limits)
    }

    fn with_limits(own: &NodeId, validate: Validate, limits: Limits) -> Self {
        Self { own: *own.key(), validate, limits, index: Index::default(), checked: BTreeMap::new() }
    }

    /// Keeps a record, or says why not: `size`, `quota` (its peer or network has enough, and nearer ones),
    /// `full` (as `quota`, of all), `rate` (its network brings too many), `expired`, `stale` (a newer one is
    /// there), `conflict` (another one with the same sequence is there), or as [`Validate`] says.
    ///
    /// What is already there is not checked again; it lives longer, as far as it may.
    pub(super) fn put(
        &mut self,
        now: Instant,
        unix: Duration,
        from: &Asker,
        record: Record,
    ) -> Result<(), Refusal> {
        if record.key.len() != KEY_BYTES || record.value.len() > MAX_VALUE {
            return Err("size");
        }
        self.handle_timeout(now);
        let at = self.distance(&record.key);
        if let Some(same) = self.index.at(&at).filter(|entry| *entry.value == *record.value) {
            let ends = same.ends.max(now + life(unix, same.until));
            self.index.prolong(at, ends);
            return Ok(());
        }
        let owner = Owner { subnet: Subnet::of(from.ip), node: from.node.clone() };
        let leaves = self.room(at, &owner)?;
        self.pay_check(now, owner.subnet)?;
        let Stamp { sequence, until } = (self.validate)(&record.key, &record.value, unix)?;
        let life = life(unix, until);
        if life.is_zero() {
            return Err("expired");
        }
        if let Some(entry) = self.index.at(&at) {
            entry.admits(sequence)?;
        }
        if let Some(farther) = leaves {
            self.index.remove(&farther);
        }
        let value = record.value.into_boxed_slice();
        self.index.insert(at, Entry { value, sequence, until, ends: now + life, owner });
        Ok(())
    }

    /// The record under a key, unless it has ended.
    pub(super) fn get(&self, now: Instant, key: &[u8]) -> Option<Record> {
        let entry = self.index.at(&self.distance(key)).filter(|entry| now < entry.ends)?;
        Some(Record { key: key.to_vec(), value: entry.value.to_vec() })
    }

    /// Records kept, with those that have ended since the last [`Self::handle_timeout`].
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// When the next record ends.
    #[cfg(test)]
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.index.first_to_end().map(|(ends, _)| ends)
    }

    /// Drops what has ended.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, at)) = self.index.first_to_end().filter(|(ends, _)| *ends <= now) {
            self.index.remove(&at);
        }
    }

    fn distance(&self, key: &[u8]) -> Distance {
        Key::of(key).distance(&self.own)
    }

    /// What must leave so that this owner may have a record at this distance.
    fn room(&self, at: Distance, owner: &Owner) -> Result<Option<Distance>, Refusal> {
        let farther = |candidate: Option<Distance>| candidate.filter(|candidate| *candidate > at);
        let replaced = self.index.at(&at).map(|entry| &entry.owner);
        let is_own = replaced == Some(owner);
        if !is_own && self.index.of_owner(owner) >= self.limits.per_owner {
            return farther(self.index.farthest_of_owner(owner)).map(Some).ok_or("quota");
        }
        let subnet = owner.subnet;
        let is_of_subnet = replaced.is_some_and(|replaced| replaced.subnet == subnet);
        let shares_count = self.len() > self.limits.records / 2;
        if !is_of_subnet && shares_count && self.index.of_subnet(subnet) >= self.limits.per_subnet {
            return farther(self.index.farthest_of_subnet(subnet)).map(Some).ok_or("quota");
        }
        if replaced.is_some() || self.len() < self.limits.records {
            return Ok(None);
        }
        let of_largest = self.index.farthest_of_largest();
        let largest = farther(of_largest).filter(|farther| self.is_of_larger(farther, subnet));
        let of_all = || farther(self.index.farthest()).filter(|farther| self.is_of_larger(farther, subnet));
        let of_own = || farther(self.index.farthest_of_subnet(subnet));
        largest.or_else(of_all).or_else(of_own).map(Some).ok_or("full")
    }

    /// Whether the record there is of a network that has more than this one.
    fn is_of_larger(&self, at: &Distance, subnet: Subnet) -> bool {
        let of = self.index.at(at).map(|entry| entry.owner.subnet);
        of.is_some_and(|of| self.index.of_subnet(of) > self.index.of_subnet(subnet))
    }

    /// Counts one check of a signature.
    fn pay_check(&mut self, now: Instant, subnet: Subnet) -> Result<(), Refusal> {
        let paid = self.checked.get(&subnet).map_or(now, |paid| now.max(*paid)) + CHECK_INTERVAL;
        if paid > now + CHECK_INTERVAL * CHECK_BURST {
            return Err("rate");
        }
        if self.checked.len() >= MAX_CHECKED && !self.checked.contains_key(&subnet) {
            self.checked.clear();
        }
        self.checked.insert(subnet, paid);
        Ok(())
    }
}

/// How long a record is kept.
fn life(unix: Duration, until: Duration) -> Duration {
    until.saturating_sub(unix).min(MAX_LIFE)
}
