//! The distributed hash table: Kademlia (Maymounkov and Mazières 2002) in the messages of libp2p's
//! `/kad/1` specification.
//!
//! [`Dht`] is one node of it as a plain state machine: a routing table, lookups, and a store of other
//! people's records. The shell in `swarm/kad.rs` carries its questions and answers; tests drive thousands
//! of them on a simulated network.
//!
//! What always holds:
//!
//! - only nodes that answered at an address that *we* dialled are in the table or told to others;
//! - a lookup goes several disjoint ways, asks no more than a few nodes of one network, and ends with the
//!   first valid record; a node that does not answer soon is no longer waited for;
//! - nothing is stored that [`Validate`] does not accept, and no source fills more than its share.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::reachability::{Scope, Target, scope};

mod lookup;
mod machine;
#[cfg(test)]
pub(crate) mod simulation;
mod store;
mod table;

pub(crate) use machine::{Ask, AskId, Dht, Input, LookupId, Output};
pub(crate) use store::{MAX_VALUE, Refusal, Stamp};

/// Nodes in a bucket, and in an answer (Kademlia's k).
pub(crate) const K: usize = 20;
/// Addresses of one node; further ones are dropped.
pub(crate) const MAX_ADDRESSES: usize = 6;

/// A place in the key space: SHA-256 of a peer id or of a record's key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key([u8; 32]);

/// How far two places are from each other, by XOR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Distance([u8; 32]);

impl Key {
    /// The place of what these bytes name.
    pub(crate) fn of(name: &[u8]) -> Self {
        Self(Sha256::digest(name).into())
    }

    pub(crate) fn distance(&self, other: &Self) -> Distance {
        let mut distance = self.0;
        for (byte, other) in distance.iter_mut().zip(other.0) {
            *byte ^= other;
        }
        Distance(distance)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}{:02x}{:02x}", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

impl Distance {
    /// The first 64 bits: enough to reckon with.
    const fn leading(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// Leading zero bits: the number of the bucket; `None` between a place and itself.
    pub(crate) fn bucket(&self) -> Option<usize> {
        let byte = self.0.iter().position(|byte| *byte != 0)?;
        Some(8 * byte + self.0[byte].leading_zeros() as usize)
    }
}

/// A node's name: the bytes of its libp2p peer id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId {
    key: Key,
    bytes: Arc<[u8]>,
}

impl NodeId {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self { key: Key::of(bytes), bytes: bytes.into() }
    }

    pub(crate) const fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.fmt(f)
    }
}

/// A node and where it is said to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contact {
    pub(crate) node: NodeId,
    pub(crate) at: Vec<Target>,
}

impl Contact {
    /// What of it means something to somebody at `other`, or may be believed from there: strangers neither
    /// learn nor give addresses of a LAN. `None` where nothing is left.
    fn for_somebody_at(self, other: Option<IpAddr>) -> Option<Self> {
        self.reaching(other.and_then(scope).unwrap_or(Scope::Public))
    }

    /// What of it can be dialled at all, whoever tells of it.
    fn dialable(self) -> Option<Self> {
        self.reaching(Scope::Device)
    }

    fn reaching(mut self, least: Scope) -> Option<Self> {
        self.at.retain(|target| scope(target.at.ip()).is_some_and(|scope| scope >= least));
        self.at.truncate(MAX_ADDRESSES);
        (!self.at.is_empty()).then_some(self)
    }

    /// Where it is said to be first of all.
    fn ip(&self) -> Option<IpAddr> {
        self.at.first().map(|target| target.at.ip())
    }
}

/// Hosts that are likely in one hand: an IPv4 /24 or an IPv6 /48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Subnet([u8; 7]);

impl Subnet {
    pub(crate) fn of(ip: IpAddr) -> Self {
        let mut subnet = [0; 7];
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                subnet[0] = 4;
                subnet[1..4].copy_from_slice(&ip.octets()[..3]);
            }
            IpAddr::V6(ip) => {
                subnet[0] = 6;
                subnet[1..].copy_from_slice(&ip.octets()[..6]);
            }
        }
        Self(subnet)
    }
}

/// The first of each network, then the second of each, and so on; within that the order stays.
fn spread<T, N: Ord>(
    items: impl IntoIterator<Item = T>,
    network: impl Fn(&T) -> N,
) -> impl Iterator<Item = T> {
    let mut taken = BTreeMap::<N, usize>::new();
    let ranked = items.into_iter().map(|item| {
        let rank = taken.entry(network(&item)).or_default();
        *rank += 1;
        (*rank, item)
    });
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, item)| item)
}

/// A value under a key, as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// What a node is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Ping,
    /// Who is closest to what these bytes name?
    FindNode(Vec<u8>),
    /// What is stored under this key, and who is closest to it?
    GetValue(Vec<u8>),
    PutValue(Record),
    /// Provider records are not kept: answered with who is closest.
    GetProviders(Vec<u8>),
}

/// What it answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) closer: Vec<Contact>,
    pub(crate) record: Option<Record>,
}

/// Who asks: its connection's proven peer and where it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub(crate) node: NodeId,
    pub(crate) ip: IpAddr,
}

/// What is known of the table, for people and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DhtReport {
    /// Whether we answer others.
    pub serving: bool,
    /// Nodes in the routing table.
    pub nodes: usize,
    /// Networks (IPv4 /16, IPv6 /32) that they are in.
    pub networks: usize,
    /// Other people's records that we keep.
    pub records: usize,
    /// The table is good enough to find anybody: 8 nodes in 4 networks and a lookup of ourselves done.
    pub healthy: bool,
}

/// What became of a lookup, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// `seek` (of a record), `publish` or `refresh` (of the table).
    pub kind: &'static str,
    /// `found`, `missing`, `stored`, `done`, or `no_nodes` where nobody answered.
    pub outcome: &'static str,
    /// From the first question to the end.
    pub took: Duration,
    /// Nodes asked.
    pub asked: usize,
    /// How many steps away from us the node was that had the answer.
    pub hops: u32,
}
