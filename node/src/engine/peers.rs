//! What people see of the engine: `conn.peers` and `status`.

use std::sync::Arc;

use hawsepipe_overlay::address::Address;
use serde_json::{Value, json};

use super::connect::direction_label;
use super::takeover::Standing;
use super::{Engine, Status};
use crate::clock;
use crate::scheduler::{Link, Relation};

impl Engine {
    /// Renews what `conn.peers` shows: `[address, data]` pairs as ssb-conn has them.
    pub(super) fn publish_peers(&mut self) {
        self.peers_dirty = false;
        let mut list = Vec::new();
        for (key, peer) in self.book.iter() {
            let hops = match self.relation(key) {
                Relation::Hops(hops) => Value::from(hops),
                Relation::Stranger => Value::Null,
                Relation::Blocked => Value::from(-1),
            };
            let state = match peer.link {
                Link::None => "disconnected",
                Link::Dialing => "connecting",
                Link::Outbound | Link::Inbound => "connected",
            };
            let live =
                self.sessions.values().find(|open| open.peer == key && open.standing == Standing::Live);
            let mut data = json!({ "key": key, "state": state, "hops": hops });
            if let Some(open) = live {
                data["carrier"] = open.info.carrier.label().into();
                data["direction"] = direction_label(open.info.direction).into();
                data["remote"] = open.info.remote.clone().into();
            }
            for path in &peer.paths {
                let address = Address { endpoint: path.state.endpoint.clone(), key: Some(key) };
                data["source"] = path.source.label().into();
                data["failure"] = path.state.failures.into();
                list.push(json!([address.to_string(), data]));
            }
            if let Some(open) = live.filter(|_| peer.paths.is_empty()) {
                list.push(json!([open.info.remote, data]));
            }
        }
        self.peers_tx.send_replace(Arc::new(Value::Array(list)));
    }

    pub(super) fn status(&self) -> Status {
        let progress = self.ebt.progress();
        let now = clock::now();
        let sessions = self.sessions.values().map(|open| {
            json!({
                "peer": open.peer,
                "carrier": open.info.carrier.label(),
                "direction": direction_label(open.info.direction),
                "remote": open.info.remote,
                "standing": open.standing.label(),
                "seconds": now.saturating_duration_since(open.since).as_secs(),
            })
        });
        Status {
            progress: (progress.have, progress.want),
            replicating: self.wanted.len(),
            sessions: sessions.collect(),
            known_peers: self.book.len(),
            facts: self.facts(),
        }
    }
}
