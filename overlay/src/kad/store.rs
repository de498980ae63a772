//! Other people's records. Bounded in all: no source and no network fills more than its share, and when it
//! is full, what is farthest from us makes room.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Asker, NodeId, Record};

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

/// The store.
#[derive(Debug)]
pub(super) struct Store;

impl Store {
    pub(super) fn new(_own: NodeId, _validate: Validate) -> Self {
        Self
    }

    /// Keeps a record, or says why not.
    pub(super) fn put(
        &mut self,
        _now: Instant,
        _unix: Duration,
        _from: &Asker,
        _record: Record,
    ) -> Result<(), Refusal> {
        Err("skeleton")
    }

    pub(super) fn get(&self, _now: Instant, _key: &[u8]) -> Option<Record> {
        None
    }

    pub(super) fn len(&self) -> usize {
        0
    }

    /// Drops what has ended.
    pub(super) fn handle_timeout(&mut self, _now: Instant) {}
}

/// Whether `ip` may be told of at all.
#[expect(dead_code, reason = "skeleton")]
fn unused(_: IpAddr) {}
