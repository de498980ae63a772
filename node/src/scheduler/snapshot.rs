//! What the scheduler looks at, as plain data.

use std::time::Instant;

use hawsepipe_overlay::address::Endpoint;
use hawsepipe_overlay::keys::PublicKey;

/// Everything the scheduler knows at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Our own key.
    pub own: PublicKey,
    /// Every peer with a known path or a session, each once.
    pub peers: Vec<Candidate>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Who it claims to be, or has proven to be.
    pub key: PublicKey,
    /// What it is to us.
    pub relation: Relation,
    /// Whether we have or are making a session.
    pub link: Link,
    /// A person or the configuration asked for this peer.
    pub asked_for: bool,
    /// How it may be reached.
    pub paths: Vec<PathState>,
}

/// What a peer is to us in the social graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Within the graph, this far away.
    Hops(u32),
    /// Not in the graph.
    Stranger,
    /// We block it.
    Blocked,
}

/// Whether we have or are making a session with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Neither.
    None,
    /// A dial is under way.
    Dialing,
    /// We dialled.
    Outbound,
    /// It dialled.
    Inbound,
}

/// How far a path reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// On our own network.
    Lan,
    /// Anywhere else.
    Direct,
    /// Through a relay, wherever that is.
    Relayed,
}

/// One way to reach a peer, and how it went.
#[derive(Clone, Debug, PartialEq)]
pub struct PathState {
    /// Where to dial.
    pub endpoint: Endpoint,
    /// How far it reaches.
    pub class: Class,
    /// When it was last announced, for paths that are.
    pub discovered: Option<Instant>,
    /// When the peer itself was last there, by its own word, for paths that are found in the DHT.
    pub said: Option<Instant>,
    /// Attempts that failed since the last that did not.
    pub failures: u32,
    /// When it was last dialled.
    pub last_attempt: Option<Instant>,
    /// When a session over it last ended.
    pub last_ended: Option<Instant>,
    /// A dial over it is under way, since `last_attempt`.
    pub dialing: bool,
}
