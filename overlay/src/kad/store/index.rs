//! The records in all the orders in which they are looked for; nothing is ever searched for one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::super::{Distance, NodeId, Subnet};
use super::Refusal;

/// Whose share a record counts for: a peer, in the network that it came from. Peer ids cost nothing, so one
/// that moves is taken for another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub(super) subnet: Subnet,
    pub(super) node: NodeId,
}

/// A record. Its key is known by its distance from us.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) value: Box<[u8]>,
    pub(super) sequence: u64,
    /// As it says itself, since 1970.
    pub(super) until: Duration,
    /// When we drop it: not later than `until`.
    pub(super) ends: Instant,
    pub(super) owner: Owner,
}

impl Entry {
    /// Whether another value with this sequence may take its place.
    pub(super) fn admits(&self, sequence: u64) -> Result<(), Refusal> {
        match sequence.cmp(&self.sequence) {
            std::cmp::Ordering::Less => Err("stale"),
            std::cmp::Ordering::Equal => Err("conflict"),
            std::cmp::Ordering::Greater => Ok(()),
        }
    }
}

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct Index {
    records: BTreeMap<Distance, Entry>,
    by_end: BTreeSet<(Instant, Distance)>,
    by_owner: BTreeMap<Owner, BTreeSet<Distance>>,
    by_subnet: BTreeMap<Subnet, BTreeSet<Distance>>,
    by_size: BTreeSet<(usize, Subnet)>,
}

impl Index {
    /// Adds a record; one that was there is gone.
    pub(super) fn insert(&mut self, at: Distance, entry: Entry) {
        self.remove(&at);
        self.by_end.insert((entry.ends, at));
        self.by_owner.entry(entry.owner.clone()).or_default().insert(at);
        self.change_subnet(entry.owner.subnet, |distances| distances.insert(at));
        self.records.insert(at, entry);
    }

    pub(super) fn remove(&mut self, at: &Distance) {
        let Some(Entry { ends, owner, .. }) = self.records.remove(at) else { return };
        self.by_end.remove(&(ends, *at));
        self.change_subnet(owner.subnet, |distances| distances.remove(at));
        if let Some(distances) = self.by_owner.get_mut(&owner) {
            distances.remove(at);
            if distances.is_empty() {
                self.by_owner.remove(&owner);
            }
        }
    }

    pub(super) fn prolong(&mut self, at: Distance, ends: Instant) {
        if let Some(entry) = self.records.get_mut(&at) {
            self.by_end.remove(&(entry.ends, at));
            self.by_end.insert((ends, at));
            entry.ends = ends;
        }
    }

    pub(super) fn at(&self, at: &Distance) -> Option<&Entry> {
        self.records.get(at)
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn of_owner(&self, owner: &Owner) -> usize {
        self.by_owner.get(owner).map_or(0, BTreeSet::len)
    }

    pub(super) fn of_subnet(&self, subnet: Subnet) -> usize {
        self.by_subnet.get(&subnet).map_or(0, BTreeSet::len)
    }

    pub(super) fn first_to_end(&self) -> Option<(Instant, Distance)> {
        self.by_end.first().copied()
    }

    pub(super) fn farthest(&self) -> Option<Distance> {
        self.records.last_key_value().map(|(at, _)| *at)
    }

    pub(super) fn farthest_of_owner(&self, owner: &Owner) -> Option<Distance> {
        self.by_owner.get(owner)?.last().copied()
    }

    pub(super) fn farthest_of_subnet(&self, subnet: Subnet) -> Option<Distance> {
        self.by_subnet.get(&subnet)?.last().copied()
    }

    /// The farthest record of the network that has the most.
    pub(super) fn farthest_of_largest(&self) -> Option<Distance> {
        self.by_size.last().and_then(|(_, subnet)| self.farthest_of_subnet(*subnet))
    }

    fn change_subnet(&mut self, subnet: Subnet, change: impl FnOnce(&mut BTreeSet<Distance>) -> bool) {
        let distances = self.by_subnet.entry(subnet).or_default();
        self.by_size.remove(&(distances.len(), subnet));
        change(distances);
        if distances.is_empty() {
            self.by_subnet.remove(&subnet);
        } else {
            self.by_size.insert((distances.len(), subnet));
        }
    }
}

#[cfg(test)]
impl Index {
    /// Whether all orders have the same records, and no owner more than this.
    pub(super) fn is_consistent(&self, per_owner: usize) -> bool {
        let sizes = self.by_subnet.iter().map(|(subnet, distances)| (distances.len(), *subnet));
        self.by_end.len() == self.len()
            && self.records.iter().all(|(at, entry)| {
                self.by_end.contains(&(entry.ends, *at))
                    && self.by_owner[&entry.owner].contains(at)
                    && self.by_subnet[&entry.owner.subnet].contains(at)
            })
            && self.by_owner.values().all(|distances| (1..=per_owner).contains(&distances.len()))
            && self.by_owner.values().map(BTreeSet::len).sum::<usize>() == self.len()
            && self.by_size == sizes.collect()
            && self.by_size.iter().map(|(size, _)| size).sum::<usize>() == self.len()
    }
}
