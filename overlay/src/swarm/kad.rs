//! The shell of [`crate::kad`] and [`crate::rendezvous`]: their questions and answers on streams.

use std::collections::BTreeMap;

use super::EventLoop;
use crate::kad::DhtReport;
use crate::keys::PublicKey;
use crate::rendezvous::Friend;

mod wire;

/// What the handle shows of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    pub(super) report: DhtReport,
    /// Nodes worth remembering, as multiaddrs.
    pub(super) nodes: Vec<String>,
    /// Where strangers can reach us.
    pub(super) public: Vec<String>,
}

impl EventLoop {
    pub(super) fn set_friends(&mut self, _friends: BTreeMap<PublicKey, Friend>) {}

    pub(super) fn add_dht_nodes(&mut self, _at: &[String]) {
        let _ = &self.dht;
    }
}
