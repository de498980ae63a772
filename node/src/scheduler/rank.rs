//! In which order peers deserve a slot. Smaller is better; each part of the key is one reason.

use std::cmp::Reverse;
use std::time::Instant;

use hawsepipe_overlay::address::Endpoint;

use super::snapshot::{Candidate, Class, PathState, Relation};

/// The reasons in order of weight: asked for; distance in the graph; nearness in the network; how
/// reliably the path worked.
pub type Rank = (bool, u32, Class, u32);

/// Distance that stands for "not in the graph" when ranking.
const STRANGER: u32 = u32::MAX;

/// The rank of dialling `peer` over `path`.
pub fn rank(peer: &Candidate, path: &PathState) -> Rank {
    (!peer.asked_for, distance(peer), path.class, path.failures)
}

/// The rank of keeping a session with `peer`.
pub fn of_session(peer: &Candidate) -> (bool, u32) {
    (!peer.asked_for, distance(peer))
}

/// The rank of a path among a peer's paths: the one that works, the nearest, the one that the peer itself
/// named last, then libp2p before plain TCP (it can hole-punch and move later).
pub fn of_path(path: &PathState) -> (u32, Class, Reverse<Option<Instant>>, u8) {
    let carrier = match &path.endpoint {
        Endpoint::Unix(_) => 0,
        Endpoint::Libp2p(address) if address.contains("/quic") => 1,
        Endpoint::Libp2p(_) => 2,
        Endpoint::Net { .. } => 3,
        Endpoint::Other(_) => 4,
    };
    (path.failures, path.class, Reverse(path.said), carrier)
}

fn distance(peer: &Candidate) -> u32 {
    match peer.relation {
        Relation::Hops(hops) => hops,
        Relation::Stranger | Relation::Blocked => STRANGER,
    }
}
