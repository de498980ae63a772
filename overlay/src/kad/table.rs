//! The routing table: buckets by distance, with room for many networks in each.
//!
//! A node is in it once it has answered where we dialled it, and until it twice did not. Old nodes stay:
//! who has been there for long is likely to stay, and cannot be pushed out by newcomers. Only where a full
//! bucket has more than [`ENOUGH_OF_ONE`] nodes of one network does a newcomer of another take the place of
//! its youngest, so one host's many names do not fill a table, and a network that is all in one place works
//! all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Contact, Distance, K, Key, MAX_ADDRESSES, NodeId, Subnet};
use crate::reachability::{Family, Target};
use crate::relays::Network;

#[cfg(test)]
mod tests;

/// So many nodes of one network (/24 or /16, /48 or /32) are safe in a full bucket.
const ENOUGH_OF_ONE: usize = 2;
/// Failures in a row that cost a node its place.
const MAX_FAILURES: u32 = 2;
/// Failures closer to each other than this are one: two lookups may meet with one lost packet.
pub(super) const FAILURE_SPACING: Duration = Duration::from_secs(5);

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    own: Key,
    /// By leading bits that a node's place shares with ours.
    buckets: BTreeMap<usize, Vec<Node>>,
    networks: usize,
    subnets: usize,
}

/// A node that has answered.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// With the addresses at which it did.
    pub(super) contact: Contact,
    /// Where it did last.
    pub(super) ip: IpAddr,
    /// When it came into the table.
    since: Instant,
    /// When it spoke last.
    seen: Instant,
    failures: u32,
    failed: Instant,
}

/// Whether there is room for a newcomer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    /// Only if this one, the longest silent of its bucket, is gone; it was last heard at this time.
    InPlaceOf(NodeId, Instant),
    /// We ourselves.
    Never,
}

/// What an unanswered question means to the table.
#[derive(Debug)]
pub(super) enum Loss {
    /// Nothing: not in it, or counted just before.
    None,
    /// It may be gone.
    Suspect,
    /// It is.
    Gone(Contact),
}

impl Table {
    pub(super) const fn new(own: Key) -> Self {
        Self { own, buckets: BTreeMap::new(), networks: 0, subnets: 0 }
    }

    /// `contact` has answered at `ip`. Whether it is in the table now and was not before.
    pub(super) fn answered(&mut self, now: Instant, contact: &Contact, ip: IpAddr) -> bool {
        let Some(index) = self.own.distance(contact.node.key()).bucket() else { return false };
        let ip = ip.to_canonical();
        let there = |target: &&Target| target.at.ip().to_canonical() == ip;
        let at: Vec<_> = contact.at.iter().filter(there).take(MAX_ADDRESSES).copied().collect();
        if at.is_empty() {
            return false;
        }
        let bucket = self.buckets.entry(index).or_default();
        if let Some(node) = bucket.iter_mut().find(|node| node.contact.node == contact.node) {
            let moved = node.ip != ip;
            node.answered(now, at, ip);
            if moved {
                self.count();
            }
            return false;
        }
        if bucket.len() >= K {
            let Some(replaced) = replaceable(bucket, ip) else { return false };
            bucket.remove(replaced);
        }
        let contact = Contact { node: contact.node.clone(), at };
        bucket.push(Node { contact, ip, since: now, seen: now, failures: 0, failed: now });
        self.count();
        true
    }

    /// It did not answer there.
    pub(super) fn failed(&mut self, now: Instant, contact: &Contact) -> Loss {
        let id = &contact.node;
        let Some(node) = self.find_mut(id) else { return Loss::None };
        if !node.contact.at.iter().any(|target| contact.at.contains(target)) {
            // It was somebody's false word that it is there.
            return Loss::None;
        }
        if node.failures > 0 && now.saturating_duration_since(node.failed) < FAILURE_SPACING {
            return Loss::None;
        }
        node.failures += 1;
        node.failed = now;
        if node.failures < MAX_FAILURES {
            return Loss::Suspect;
        }
        self.remove(id).map_or(Loss::None, Loss::Gone)
    }

    /// Failures until now say nothing: it was we who heard nobody.
    pub(super) fn forgive(&mut self) {
        self.buckets.values_mut().flatten().for_each(|node| node.failures = 0);
    }

    /// A node asks us something from `ip`: if that is where it answers, it is still there.
    pub(super) fn heard(&mut self, now: Instant, id: &NodeId, ip: IpAddr) {
        if let Some(node) = self.find_mut(id).filter(|node| node.ip == ip.to_canonical()) {
            node.seen = now;
        }
    }

    fn remove(&mut self, id: &NodeId) -> Option<Contact> {
        let index = self.own.distance(id.key()).bucket()?;
        let bucket = self.buckets.get_mut(&index)?;
        let position = bucket.iter().position(|node| node.contact.node == *id)?;
        let contact = bucket.remove(position).contact;
        if bucket.is_empty() {
            self.buckets.remove(&index);
        }
        self.count();
        Some(contact)
    }

    fn find_mut(&mut self, id: &NodeId) -> Option<&mut Node> {
        let bucket = self.buckets.get_mut(&self.own.distance(id.key()).bucket()?)?;
        bucket.iter_mut().find(|node| node.contact.node == *id)
    }

    fn count(&mut self) {
        self.networks = self.nodes().map(|node| Network::of(node.ip)).collect::<BTreeSet<_>>().len();
        self.subnets = self.nodes().map(|node| Subnet::of(node.ip)).collect::<BTreeSet<_>>().len();
    }

    /// Whether a node that is said to be at `ip` would get in.
    pub(super) fn room(&self, id: &NodeId, ip: IpAddr) -> Room {
        let Some(index) = self.own.distance(id.key()).bucket() else { return Room::Never };
        let Some(bucket) = self.buckets.get(&index) else { return Room::Free };
        if bucket.len() < K || replaceable(bucket, ip.to_canonical()).is_some() {
            return Room::Free;
        }
        let oldest = bucket.iter().min_by_key(|node| node.seen);
        oldest.map_or(Room::Free, |node| Room::InPlaceOf(node.contact.node.clone(), node.seen))
    }

    pub(super) fn find(&self, id: &NodeId) -> Option<&Node> {
        let bucket = self.buckets.get(&self.own.distance(id.key()).bucket()?)?;
        bucket.iter().find(|node| node.contact.node == *id)
    }

    /// The `count` nodes closest to a place, closest first; those that answered when last asked.
    pub(super) fn closest(&self, target: &Key, count: usize) -> Vec<&Node> {
        let mut found: Vec<(Distance, &Node)> = Vec::with_capacity(2 * K);
        let shared = self.own.distance(target).bucket().unwrap_or(usize::MAX);
        // All that share more bits with the target are closer to it: first its own bucket, then those
        // between it and us together, then the others outwards.
        let own = self.buckets.get(&shared);
        self.gather(target, own, &mut found);
        if found.len() < count {
            let nearer = self.buckets.range(shared.saturating_add(1)..).map(|(_, bucket)| bucket);
            self.gather(target, nearer, &mut found);
        }
        for (_, bucket) in self.buckets.range(..shared).rev() {
            if found.len() >= count {
                break;
            }
            self.gather(target, Some(bucket), &mut found);
        }
        found.sort_unstable_by_key(|(distance, _)| *distance);
        found.truncate(count);
        found.into_iter().map(|(_, node)| node).collect()
    }

    #[expect(clippy::unused_self, reason = "it names the lifetime of what is gathered")]
    fn gather<'a>(
        &'a self,
        target: &Key,
        buckets: impl IntoIterator<Item = &'a Vec<Node>>,
        found: &mut Vec<(Distance, &'a Node)>,
    ) {
        let healthy = buckets.into_iter().flatten().filter(|node| node.failures == 0);
        found.extend(healthy.map(|node| (target.distance(node.contact.node.key()), node)));
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.buckets.values().flatten()
    }

    /// Longest there first.
    pub(super) fn oldest(&self) -> Vec<&Node> {
        let mut nodes: Vec<_> = self.nodes().collect();
        nodes.sort_by_key(|node| (node.failures, node.since));
        nodes
    }

    pub(super) fn len(&self) -> usize {
        self.buckets.values().map(Vec::len).sum()
    }

    /// Nodes that share so many leading bits with us.
    pub(super) fn size_of(&self, bucket: usize) -> usize {
        self.buckets.get(&bucket).map_or(0, Vec::len)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// How many /16s or /32s its nodes are in.
    pub(super) const fn networks(&self) -> usize {
        self.networks
    }

    /// How many /24s or /48s.
    pub(super) const fn subnets(&self) -> usize {
        self.subnets
    }
}

impl Node {
    /// Whether it spoke within this time.
    pub(super) fn was_heard(&self, now: Instant, within: Duration) -> bool {
        now.saturating_duration_since(self.seen) < within
    }

    /// One address family of it moves as a whole.
    fn answered(&mut self, now: Instant, at: Vec<Target>, ip: IpAddr) {
        self.ip = ip;
        self.seen = now;
        self.failures = 0;
        let family = |target: &Target| Family::of(target.at.ip().to_canonical());
        self.contact.at.retain(|target| family(target) != Family::of(ip));
        self.contact.at.splice(0..0, at);
        self.contact.at.truncate(MAX_ADDRESSES);
    }
}

/// Which node of a full bucket makes room for a newcomer from `ip`: the youngest of the network that has
/// most, if that has more than enough and more than the newcomer's would have.
fn replaceable(bucket: &[Node], ip: IpAddr) -> Option<usize> {
    youngest_of_largest(bucket, ip, Subnet::of).or_else(|| youngest_of_largest(bucket, ip, Network::of))
}

fn youngest_of_largest<N: Ord + Copy>(
    bucket: &[Node],
    ip: IpAddr,
    network: fn(IpAddr) -> N,
) -> Option<usize> {
    let mut counts = BTreeMap::<N, usize>::new();
    for node in bucket {
        *counts.entry(network(node.ip)).or_default() += 1;
    }
    let newcomers = counts.get(&network(ip)).copied().unwrap_or(0);
    let (largest, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    if count <= ENOUGH_OF_ONE || newcomers + 1 >= count {
        return None;
    }
    let of_largest = bucket.iter().enumerate().filter(|(_, node)| network(node.ip) == largest);
    of_largest.max_by_key(|(_, node)| node.since).map(|(index, _)| index)
}
