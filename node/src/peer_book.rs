//! Which peers are known, how they may be reached and how that went. Plain data without a clock; the
//! engine feeds it and takes the scheduler's [`Snapshot`] from it.
//!
//! Everything in it may come from strangers (a beacon, mDNS), so it is bounded: when it is full, the peer
//! that nobody asked for and that was heard of longest ago makes room.

mod conn_json;
mod pools;
mod transports;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hawsepipe_overlay as overlay;
use hawsepipe_overlay::address::{Address, Endpoint};
use hawsepipe_overlay::conn::{Direction, TransportId};
use hawsepipe_overlay::keys::PublicKey;

use serde_json::{Map, Value};

use crate::scheduler::{Candidate, Class, Decaying, Dials, Feeds, Kind, Link, PathState, Relation, Running};

pub use conn_json::{Clock, File, Known, decode, encode, kind, of_gossip};
pub use pools::{MAX_DATA, MAX_FOREIGN, NotKept};
pub use transports::Transports;

/// Peers remembered at most.
pub const MAX_PEERS: usize = 10_000;
/// Ways to reach one peer remembered at most.
pub const MAX_PATHS: usize = 16;
/// What a peer is blamed with that dials us and leaves at once.
pub const FLAP: f64 = 0.2;
/// What a peer is blamed with that promises messages and sends none.
pub const STALLED: f64 = 1.0;
/// A word that was said so soon before or after another is the same: its age is told in whole seconds, and
/// grows while it is looked for.
const SAME_WORD: Duration = Duration::from_secs(2);

/// Who told us of an address: a label in metrics, `source` in `conn.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The local network.
    Lan(overlay::Source),
    /// `seeds` in the configuration.
    Config,
    /// `conn.connect` and the like.
    Client,
    /// `conn.json` of an earlier run.
    Stored,
    /// Its own word in the DHT.
    Rendezvous,
    /// `conn.stage`: a client suggests it.
    Staged,
    /// A `pub` message of a feed in reach.
    Pub,
}

impl Source {
    /// The label in metrics and in `conn.peers`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Lan(source) => source.label(),
            Self::Config => "config",
            Self::Client => "client",
            Self::Stored => "stored",
            Self::Rendezvous => "rendezvous",
            Self::Staged => "staged",
            Self::Pub => "pub",
        }
    }

    /// Whether it is the local network, where addresses are announced again and again.
    pub const fn is_lan(self) -> bool {
        matches!(self, Self::Lan(_))
    }
}

/// How far a path reaches: what leads through a relay does so whoever told us.
fn class(endpoint: &Endpoint, source: Source) -> Class {
    match source {
        _ if endpoint.is_relayed() => Class::Relayed,
        Source::Lan(_) => Class::Lan,
        Source::Config
        | Source::Client
        | Source::Stored
        | Source::Rendezvous
        | Source::Staged
        | Source::Pub => Class::Direct,
    }
}

/// One way to a peer and who told us of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// How it may be reached and how that went.
    pub state: PathState,
    /// Who told us.
    pub source: Source,
    /// What ssb-conn's clients and ssb-conn itself noted of the address; bounded by [`MAX_DATA`].
    pub data: Map<String, Value>,
}

impl Path {
    /// Whether it is worth remembering: what the local network announces, it announces again, and what was
    /// found in the DHT ages and is looked for again.
    fn is_kept(&self) -> bool {
        match self.source {
            Source::Config | Source::Client | Source::Stored => true,
            Source::Lan(_) => self.state.class == Class::Relayed,
            Source::Rendezvous | Source::Staged | Source::Pub => false,
        }
    }

    /// Whether the peer has taken it back and nobody else named it, or it was forgotten while it was dialled.
    pub fn is_taken_back(&self) -> bool {
        self.source == Source::Rendezvous && self.state.said.is_none()
    }

    /// The same, and it is not being dialled.
    fn is_withdrawn(&self) -> bool {
        self.is_taken_back() && !self.state.dialing
    }
}

/// One known peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// A person or the configuration asked for it.
    pub asked_for: bool,
    /// Whether we have or are making a session.
    pub link: Link,
    /// The session, while there is one.
    pub session: Option<Running>,
    /// How it may be reached.
    pub paths: Vec<Path>,
    /// How dials of each class went, whatever the address.
    pub dials: [Dials; Class::COUNT],
    /// When the last session with it ended.
    pub met: Option<Instant>,
    /// Messages that we want and that it said to have when it was last connected.
    pub owed: u64,
    /// What it did wrong.
    pub faults: Decaying,
    /// The last measured round trip to it.
    pub round_trip: Option<Duration>,
    /// When we last heard of it.
    pub heard: Instant,
}

/// What a peer is to us, by the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Social {
    /// How near it is.
    pub relation: Relation,
    /// It follows us.
    pub follows_us: bool,
    /// What it has of the feeds that we follow.
    pub carries: Feeds,
}

/// All known peers.
#[derive(Debug, Default)]
pub struct PeerBook {
    peers: BTreeMap<PublicKey, Peer>,
    /// Addresses that clients want remembered and nothing here can dial, as JS's other transports.
    foreign: BTreeMap<String, Map<String, Value>>,
    transports: Transports,
    changed: bool,
}

impl PeerBook {
    /// Someone says that `key` is to be found at `endpoint`. Returns whether that is new.
    pub fn heard(&mut self, key: PublicKey, endpoint: &Endpoint, source: Source, now: Instant) -> bool {
        if matches!(endpoint, Endpoint::Other(_)) {
            // Nothing here can dial it.
            return false;
        }
        let peer = self.entry(key, now);
        peer.asked_for |= matches!(source, Source::Config | Source::Client);
        if let Some(path) = peer.paths.iter_mut().find(|path| path.state.endpoint == *endpoint) {
            let was_found = matches!(path.source, Source::Rendezvous | Source::Staged | Source::Pub);
            // A person's word outlives a beacon's.
            let suggested = matches!(source, Source::Staged | Source::Pub | Source::Rendezvous);
            if !suggested && (was_found || path.source.is_lan() || !source.is_lan()) {
                path.source = source;
            }
            if was_found && !suggested {
                path.state.class = class(endpoint, source);
                self.changed = true;
            }
            return false;
        }
        let is_kept = add(peer, endpoint, source, now).is_kept();
        self.changed |= is_kept;
        true
    }

    /// A peer that we follow said in the DHT, at `said`, that it is at these places and no longer where it
    /// said before. Returns whether that is new to us: other places, or another word of the same.
    ///
    /// What failed before may be tried at once after another word: the peer has been there since.
    pub fn found(&mut self, key: PublicKey, endpoints: &[Endpoint], said: Instant, now: Instant) -> bool {
        let peer = self.entry(key, now);
        let mut is_new = false;
        for endpoint in endpoints {
            if peer.paths.iter().all(|path| path.state.endpoint != *endpoint) {
                add(peer, endpoint, Source::Rendezvous, now);
            }
            let Some(path) = path_mut(peer, endpoint) else { continue };
            if path.said.is_none_or(|before| is_another(before, said)) {
                path.said = Some(said);
                path.failures = 0;
                let class = path.class;
                peer.dials[class.index()].failures = 0;
                is_new = true;
            }
        }
        take_back(peer, |endpoint| !endpoints.contains(endpoint));
        self.forget_if_empty(key);
        is_new
    }

    /// What a peer said of its place in the DHT no longer holds.
    pub fn not_found(&mut self, key: PublicKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        take_back(peer, |_| true);
        self.forget_if_empty(key);
    }

    /// An announcement of `endpoint` has run out. A running session is not touched.
    pub fn expired(&mut self, key: PublicKey, endpoint: &Endpoint) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        for path in peer.paths.iter_mut().filter(|path| path.state.endpoint == *endpoint) {
            if path.source.is_lan() {
                path.source = Source::Rendezvous;
                path.state.class = class(endpoint, path.source);
            }
        }
        peer.paths.retain(|path| !path.is_withdrawn());
        self.forget_if_empty(key);
    }

    /// A dial begins.
    pub fn dialing(&mut self, key: PublicKey, endpoint: &Endpoint, now: Instant) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.link = Link::Dialing;
        if let Some(path) = path_mut(peer, endpoint) {
            path.last_attempt = Some(now);
            path.dialing = true;
            let class = path.class;
            peer.dials[class.index()].last = Some(now);
        }
    }

    /// A dial came to nothing.
    pub fn failed(&mut self, key: PublicKey, endpoint: &Endpoint, now: Instant) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if let Some(path) = peer.paths.iter_mut().find(|path| path.state.endpoint == *endpoint) {
            path.state.failures = path.state.failures.saturating_add(1);
            path.state.failed.add(1.0, now);
            path.state.dialing = false;
            pools::note_duration(&mut path.data, Duration::ZERO);
            let class = path.state.class;
            let dials = &mut peer.dials[class.index()];
            dials.failures = dials.failures.saturating_add(1);
        }
        if peer.link == Link::Dialing && !is_dialing(peer) {
            peer.link = Link::None;
        }
        peer.paths.retain(|path| !path.is_withdrawn());
        self.forget_if_empty(key);
        self.changed = true;
    }

    /// A dial succeeded, and nobody needs it any more.
    pub fn needless(&mut self, key: PublicKey, endpoint: &Endpoint) {
        let path = self.peers.get_mut(&key).and_then(|peer| path_mut(peer, endpoint));
        if let Some(path) = path {
            path.failures = 0;
            path.dialing = false;
        }
    }

    /// A session stands, over a path of that class. `endpoint` is known where we dialled.
    pub fn connected(
        &mut self,
        key: PublicKey,
        direction: Direction,
        class: Class,
        endpoint: Option<&Endpoint>,
        now: Instant,
    ) {
        let peer = self.entry(key, now);
        peer.link = match direction {
            Direction::Outbound => Link::Outbound,
            Direction::Inbound => Link::Inbound,
        };
        // One that moves to another path goes on.
        let before = peer.session.unwrap_or(Running { since: now, news: None, owes_since: None, class });
        peer.session = Some(Running { class, ..before });
        if let Some(path) = endpoint.and_then(|endpoint| path_mut(peer, endpoint)) {
            path.failures = 0;
            path.worked.add(1.0, now);
            path.dialing = false;
            let class = path.class;
            peer.dials[class.index()].failures = 0;
        }
        self.changed = true;
    }

    /// The last session with `key` ended. One that ended at once counts as a failure of its path, or of the peer if
    /// it had dialled: otherwise a peer that accepts and hangs up would be dialled for ever.
    pub fn ended(&mut self, key: PublicKey, endpoint: Option<&Endpoint>, at_once: bool, now: Instant) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let lasted = peer.session.take().map(|session| now.saturating_duration_since(session.since));
        peer.link = if is_dialing(peer) { Link::Dialing } else { Link::None };
        peer.met = Some(now);
        let path = endpoint.and_then(|at| peer.paths.iter_mut().find(|path| path.state.endpoint == *at));
        match path {
            Some(path) => {
                path.state.last_ended = Some(now);
                pools::note_duration(&mut path.data, lasted.unwrap_or_default());
                if at_once {
                    path.state.failures = path.state.failures.saturating_add(1);
                    path.state.failed.add(1.0, now);
                    path.state.last_attempt = Some(now);
                }
            }
            None if at_once => peer.faults.add(FLAP, now),
            None => {}
        }
        peer.paths.retain(|path| !path.is_withdrawn());
        self.forget_if_empty(key);
        self.changed = true;
    }

    /// The session brought something new.
    pub fn gave(&mut self, key: PublicKey, now: Instant) {
        let session = self.peers.get_mut(&key).and_then(|peer| peer.session.as_mut());
        if let Some(session) = session {
            session.news = Some(now);
            session.owes_since = session.owes_since.map(|_| now);
        }
    }

    /// A connected peer says to have `owed` messages that we want; `asked` tells whether we have asked it for some of them.
    pub fn owes(&mut self, key: PublicKey, owed: u64, asked: bool, now: Instant) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.owed = owed;
        if let Some(session) = &mut peer.session {
            session.owes_since = asked.then(|| session.owes_since.unwrap_or(now));
        }
    }

    /// A peer promised what did not come, or broke the protocol.
    pub fn blame(&mut self, key: PublicKey, faults: f64, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.faults.add(faults, now);
        }
    }

    /// What was promised did not come: nothing more is hoped for until it is said again, and the path has its share.
    pub fn stalled(&mut self, key: PublicKey, now: Instant) {
        self.blame(key, STALLED, now);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.owed = 0;
        }
    }

    /// How long a packet takes to the peer and back.
    pub fn measured(&mut self, key: PublicKey, round_trip: Duration) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.round_trip = Some(round_trip);
        }
    }

    /// The network is another one, or the machine has slept: failures before that say nothing.
    pub fn reset(&mut self) {
        for peer in self.peers.values_mut() {
            peer.dials = [Dials::default(); Class::COUNT];
            for path in &mut peer.paths {
                path.state.failures = 0;
                path.state.last_ended = None;
            }
        }
    }

    /// Which transport identities are whose.
    pub fn transports(&self) -> &Transports {
        &self.transports
    }

    /// Whether a person or the configuration asked for this peer.
    pub fn is_asked_for(&self, key: PublicKey) -> bool {
        self.peers.get(&key).is_some_and(|peer| peer.asked_for)
    }

    /// `key` has proven a transport identity to be its own, or says so in its certificate.
    pub fn remember_transport(&mut self, key: PublicKey, id: TransportId, now: Instant) {
        self.changed |= self.transports.remember(key, id, now);
    }

    /// A person no longer wants this peer: it is dialled again only if the graph says so.
    pub fn forget_wish(&mut self, key: PublicKey) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.asked_for = false;
            self.changed = true;
        }
    }

    /// The book as the scheduler sees it; `social` says what a peer is to us.
    pub fn candidates(&self, own: PublicKey, social: impl Fn(PublicKey) -> Social) -> Vec<Candidate> {
        let others = self.peers.iter().filter(|(key, _)| **key != own);
        others.map(|(key, peer)| peer.candidate(*key, social(*key))).collect()
    }

    /// One peer as the scheduler sees it.
    pub fn peer(&self, key: PublicKey) -> Option<&Peer> {
        self.peers.get(&key)
    }

    /// All peers in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (PublicKey, &Peer)> {
        self.peers.iter().map(|(key, peer)| (*key, peer))
    }

    /// How many peers are known.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether no peer is known.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Whether there is something to save since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The entry of `key`, made if there is none yet; it was heard of `now`.
    fn entry(&mut self, key: PublicKey, now: Instant) -> &mut Peer {
        self.make_room(key);
        let new = || Peer {
            asked_for: false,
            link: Link::None,
            session: None,
            paths: Vec::new(),
            dials: [Dials::default(); Class::COUNT],
            met: None,
            owed: 0,
            faults: Decaying::ZERO,
            round_trip: None,
            heard: now,
        };
        let peer = self.peers.entry(key).or_insert_with(new);
        peer.heard = now;
        peer
    }

    /// Drops a peer that cannot be dialled and has no session.
    fn forget_if_empty(&mut self, key: PublicKey) {
        let is_empty = |peer: &Peer| peer.paths.is_empty() && peer.link == Link::None;
        if self.peers.get(&key).is_some_and(is_empty) {
            self.peers.remove(&key);
        }
    }

    /// Drops the peer heard of longest ago if `key` would not fit.
    fn make_room(&mut self, key: PublicKey) {
        if self.peers.len() < MAX_PEERS || self.peers.contains_key(&key) {
            return;
        }
        let idle = self.peers.iter().filter(|(_, peer)| peer.link == Link::None);
        let oldest = idle.min_by_key(|(_, peer)| (peer.asked_for, peer.heard)).map(|(key, _)| *key);
        if let Some(oldest) = oldest {
            self.peers.remove(&oldest);
        }
    }
}

impl Peer {
    /// What it is there for: a pub or room if its address says so.
    pub fn kind(&self) -> Kind {
        let is_hub = |path: &Path| path.source == Source::Pub || kind(&path.data) == Kind::Hub;
        if self.paths.iter().any(is_hub) { Kind::Hub } else { Kind::Person }
    }

    fn candidate(&self, key: PublicKey, social: Social) -> Candidate {
        Candidate {
            key,
            relation: social.relation,
            follows_us: social.follows_us,
            kind: self.kind(),
            link: self.link,
            session: self.session,
            asked_for: self.asked_for,
            carries: social.carries,
            owed: self.owed,
            met: self.met,
            faults: self.faults,
            round_trip: self.round_trip,
            dials: self.dials,
            paths: self.paths.iter().map(|path| path.state.clone()).collect(),
        }
    }
}

/// A path that was not known yet. One that is not kept anyway makes room, or the one that failed most.
fn add<'a>(peer: &'a mut Peer, endpoint: &Endpoint, source: Source, now: Instant) -> &'a Path {
    if peer.paths.len() >= MAX_PATHS {
        let worth = |path: &Path| (!path.is_kept(), path.state.failures, !path.state.dialing);
        let worst = (0..peer.paths.len()).max_by_key(|i| worth(&peer.paths[*i])).unwrap_or(0);
        peer.paths.remove(worst);
    }
    let mut state = PathState::new(endpoint.clone(), class(endpoint, source));
    state.discovered = Some(now);
    peer.paths.push(Path { state, source, data: Map::new() });
    &peer.paths[peer.paths.len() - 1]
}

/// Whether two words were said at different times, by the peer's clock: it may have been set meanwhile.
fn is_another(before: Instant, said: Instant) -> bool {
    said.saturating_duration_since(before).max(before.saturating_duration_since(said)) > SAME_WORD
}

/// The peer no longer says that it is at those of its places. One that is being dialled stays until that is
/// done, and one that others name as well stays anyway.
fn take_back(peer: &mut Peer, from: impl Fn(&Endpoint) -> bool) {
    for path in peer.paths.iter_mut().filter(|path| from(&path.state.endpoint)) {
        path.state.said = None;
    }
    peer.paths.retain(|path| !path.is_withdrawn());
}

fn path_mut<'a>(peer: &'a mut Peer, endpoint: &Endpoint) -> Option<&'a mut PathState> {
    peer.paths.iter_mut().map(|path| &mut path.state).find(|state| state.endpoint == *endpoint)
}

fn is_dialing(peer: &Peer) -> bool {
    peer.paths.iter().any(|path| path.state.dialing)
}

/// An address as a peer in the book needs it: with a key.
pub fn keyed(address: &Address) -> Option<(PublicKey, &Endpoint)> {
    address.key.map(|key| (key, &address.endpoint))
}

#[cfg(test)]
mod tests;
