//! What people see of the engine: `status`.

use hawsepipe_overlay::conn::{Carrier, LinkInfo};
use serde_json::json;

use super::{Engine, Status};
use crate::clock;

impl Engine {
    pub(super) fn status(&self) -> Status {
        let progress = self.ebt.progress();
        let now = clock::now();
        let sessions = self.sessions.values().map(|open| {
            json!({
                "peer": open.peer,
                "carrier": open.info.carrier.label(),
                "direction": open.info.direction.label(),
                "remote": open.info.remote,
                "path": path_label(&open.info),
                "moves": open.paths.moves(),
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

/// Whether a session needs a relay, for people.
pub(super) const fn path_label(info: &LinkInfo) -> &'static str {
    match info.carrier {
        Carrier::Relay => "relay",
        Carrier::Unix => "local",
        Carrier::Net | Carrier::Ws | Carrier::Quic | Carrier::Tcp => "direct",
    }
}
