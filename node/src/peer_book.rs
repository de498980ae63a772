//! Which peers are known, how they may be reached and how that went. Plain data without a clock; the
//! engine feeds it and takes the scheduler's [`Snapshot`] from it.
//!
//! Everything in it may come from strangers (a beacon, mDNS), so it is bounded: when it is full, the peer
//! that nobody asked for and that was heard of longest ago makes room.

mod conn_json;
mod transports;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hawsepipe_overlay as overlay;
use hawsepipe_overlay::address::{Address, Endpoint};
use hawsepipe_overlay::conn::{Direction, TransportId};
use hawsepipe_overlay::keys::PublicKey;

use crate::scheduler::{Candidate, Class, Link, PathState, Relation, Snapshot};

pub use conn_json::{Known, decode, encode};
pub use transports::Transports;

/// Peers remembered at most.
pub const MAX_PEERS: usize = 10_000;
/// Ways to reach one peer remembered at most.
pub const MAX_PATHS: usize = 16;
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
        Source::Config | Source::Client | Source::Stored | Source::Rendezvous => Class::Direct,
    }
}

/// One way to a peer and who told us of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// How it may be reached and how that went.
    pub state: PathState,
    /// Who told us.
    pub source: Source,
}

impl Path {
    /// Whether it is worth remembering: what the local network announces, it announces again, and what was
    /// found in the DHT ages and is looked for again.
    fn is_kept(&self) -> bool {
        match self.source {
            Source::Config | Source::Client | Source::Stored => true,
            Source::Lan(_) => self.state.class == Class::Relayed,
            Source::Rendezvous => false,
        }
    }

    /// Whether the peer has taken it back, nobody else named it, and it is not being dialled.
    fn is_withdrawn(&self) -> bool {
        self.source == Source::Rendezvous && self.state.said.is_none() && !self.state.dialing
    }
}

/// One known peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// A person or the configuration asked for it.
    pub asked_for: bool,
    /// Whether we have or are making a session.
    pub link: Link,
    /// How it may be reached.
    pub paths: Vec<Path>,
    /// When we last heard of it.
    pub heard: Instant,
}

/// All known peers.
#[derive(Debug, Default)]
pub struct PeerBook {
    peers: BTreeMap<PublicKey, Peer>,
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
            let was_found = path.source == Source::Rendezvous;
            // A person's word outlives a beacon's.
            if was_found || path.source.is_lan() || !source.is_lan() {
                path.source = source;
            }
            if was_found {
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
        }
    }

    /// A dial came to nothing.
    pub fn failed(&mut self, key: PublicKey, endpoint: &Endpoint) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if let Some(path) = path_mut(peer, endpoint) {
            path.failures = path.failures.saturating_add(1);
            path.dialing = false;
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

    /// A session stands. `endpoint` is known where we dialled.
    pub fn connected(
        &mut self,
        key: PublicKey,
        direction: Direction,
        endpoint: Option<&Endpoint>,
        now: Instant,
    ) {
        let peer = self.entry(key, now);
        peer.link = match direction {
            Direction::Outbound => Link::Outbound,
            Direction::Inbound => Link::Inbound,
        };
        if let Some(path) = endpoint.and_then(|endpoint| path_mut(peer, endpoint)) {
            path.failures = 0;
            path.dialing = false;
        }
        self.changed = true;
    }

    /// The last session with `key` ended. One that ended at once counts as a failure of its path:
    /// otherwise a peer that accepts and hangs up would be dialled for ever.
    pub fn ended(&mut self, key: PublicKey, endpoint: Option<&Endpoint>, at_once: bool, now: Instant) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.link = if is_dialing(peer) { Link::Dialing } else { Link::None };
        if let Some(path) = endpoint.and_then(|endpoint| path_mut(peer, endpoint)) {
            path.last_ended = Some(now);
            if at_once {
                path.failures = path.failures.saturating_add(1);
                path.last_attempt = Some(now);
            }
        }
        peer.paths.retain(|path| !path.is_withdrawn());
        self.forget_if_empty(key);
        self.changed = true;
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

    /// The book as the scheduler sees it; `relation` says what a peer is to us.
    pub fn snapshot(&self, own: PublicKey, relation: impl Fn(PublicKey) -> Relation) -> Snapshot {
        let others = self.peers.iter().filter(|(key, _)| **key != own);
        let peers = others.map(|(key, peer)| Candidate {
            key: *key,
            relation: relation(*key),
            link: peer.link,
            asked_for: peer.asked_for,
            paths: peer.paths.iter().map(|path| path.state.clone()).collect(),
        });
        Snapshot { own, peers: peers.collect() }
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
        let new = || Peer { asked_for: false, link: Link::None, paths: Vec::new(), heard: now };
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

/// A path that was not known yet; the one that failed most makes room.
fn add<'a>(peer: &'a mut Peer, endpoint: &Endpoint, source: Source, now: Instant) -> &'a Path {
    if peer.paths.len() >= MAX_PATHS {
        let worst = (0..peer.paths.len()).max_by_key(|i| peer.paths[*i].state.failures).unwrap_or(0);
        peer.paths.remove(worst);
    }
    let state = PathState {
        endpoint: endpoint.clone(),
        class: class(endpoint, source),
        discovered: Some(now),
        said: None,
        failures: 0,
        last_attempt: None,
        last_ended: None,
        dialing: false,
    };
    peer.paths.push(Path { state, source });
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
mod tests {
    use super::*;

    fn key(n: u32) -> PublicKey {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        PublicKey::from_bytes(bytes)
    }

    fn endpoint(port: u16) -> Endpoint {
        Endpoint::Net { host: "192.0.2.1".into(), port }
    }

    const BEACON: Source = Source::Lan(overlay::Source::Beacon);

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
        Instant::now()
    }

    #[test]
    fn strangers_cannot_fill_the_book_or_push_out_what_was_asked_for() {
        let now = start();
        let mut book = PeerBook::default();
        book.heard(key(0), &endpoint(1), Source::Client, now);
        for n in 1..=(MAX_PEERS as u32 + 10) {
            book.heard(key(n), &endpoint(1), BEACON, now);
        }
        assert_eq!(book.len(), MAX_PEERS);
        assert!(book.iter().any(|(k, _)| k == key(0)));
        for port in 0..100 {
            book.heard(key(0), &endpoint(port), BEACON, now);
        }
        assert_eq!(book.iter().next().unwrap().1.paths.len(), MAX_PATHS);
    }

    #[test]
    fn an_expired_beacon_does_not_forget_what_a_person_typed() {
        let now = start();
        let mut book = PeerBook::default();
        book.heard(key(1), &endpoint(1), Source::Client, now);
        book.heard(key(1), &endpoint(1), BEACON, now);
        book.expired(key(1), &endpoint(1));
        assert_eq!(book.len(), 1);
        book.heard(key(2), &endpoint(2), BEACON, now);
        book.expired(key(2), &endpoint(2));
        assert_eq!(book.len(), 1);
    }

    #[test]
    fn a_circuit_is_relayed_whoever_told_of_it_and_is_kept() {
        let now = start();
        let circuit = Endpoint::Libp2p("/ip4/192.0.2.9/tcp/1/p2p/12D3KooR/p2p-circuit/p2p/12D3KooP".into());
        for source in [BEACON, Source::Config, Source::Client, Source::Stored] {
            let mut book = PeerBook::default();
            book.heard(key(1), &circuit, source, now);
            assert_eq!(book.iter().next().unwrap().1.paths[0].state.class, Class::Relayed);
            let known = decode(&encode(&book)).unwrap();
            assert_eq!(known[0].endpoint, Some(circuit.clone()), "{source:?}");
        }
    }

    /// The places of a peer, and whether it says itself that it is there.
    fn places(book: &PeerBook) -> Vec<(Endpoint, Source, bool)> {
        let paths = book.iter().flat_map(|(_, peer)| &peer.paths);
        paths.map(|path| (path.state.endpoint.clone(), path.source, path.state.said.is_some())).collect()
    }

    #[test]
    fn each_word_of_a_friend_takes_the_place_of_the_one_before() {
        let now = start();
        let later = now + Duration::from_secs(60);
        let mut book = PeerBook::default();
        assert!(book.found(key(1), &[endpoint(1), endpoint(2)], now, now));
        assert!(!book.found(key(1), &[endpoint(1), endpoint(2)], now + SAME_WORD, later), "the same word");
        assert!(book.found(key(1), &[endpoint(2), endpoint(3)], later, later));
        let found = |port| (endpoint(port), Source::Rendezvous, true);
        assert_eq!(places(&book), [found(2), found(3)]);
        assert_eq!(decode(&encode(&book)).unwrap(), [], "it is looked for again");
        book.not_found(key(1));
        assert!(book.is_empty());
        assert!(!book.found(key(1), &[], now, now));
        assert!(book.is_empty());
    }

    #[test]
    fn what_others_name_too_stays_when_a_friend_no_longer_does() {
        let now = start();
        let mut book = PeerBook::default();
        for (port, source) in [(1, Source::Client), (2, BEACON)] {
            book.found(key(1), &[endpoint(1), endpoint(2)], now, now);
            assert!(!book.heard(key(1), &endpoint(port), source, now));
        }
        let class_of = |book: &PeerBook, i: usize| book.iter().next().unwrap().1.paths[i].state.class;
        assert_eq!(class_of(&book, 1), Class::Lan);
        book.not_found(key(1));
        assert_eq!(places(&book), [(endpoint(1), Source::Client, false), (endpoint(2), BEACON, false)]);
        book.found(key(1), &[endpoint(2)], now, now);
        book.expired(key(1), &endpoint(2));
        let stays = (endpoint(2), Source::Rendezvous, true);
        assert_eq!(places(&book), [(endpoint(1), Source::Client, false), stays]);
        assert_eq!(class_of(&book, 1), Class::Direct);
    }

    #[test]
    fn a_place_that_is_being_dialled_goes_when_that_is_done() {
        let now = start();
        let mut book = PeerBook::default();
        book.found(key(1), &[endpoint(1), endpoint(2)], now, now);
        book.dialing(key(1), &endpoint(1), now);
        book.not_found(key(1));
        assert_eq!(places(&book), [(endpoint(1), Source::Rendezvous, false)]);
        book.failed(key(1), &endpoint(1));
        assert!(book.is_empty());
    }

    #[test]
    fn another_word_makes_up_for_failures_before_it() {
        let now = start();
        let mut book = PeerBook::default();
        let failures = |book: &PeerBook| book.iter().next().unwrap().1.paths[0].state.failures;
        book.found(key(1), &[endpoint(1)], now, now);
        book.dialing(key(1), &endpoint(1), now);
        book.failed(key(1), &endpoint(1));
        book.found(key(1), &[endpoint(1)], now, now);
        assert_eq!(failures(&book), 1);
        // Its clock was set back.
        let earlier = now.checked_sub(2 * SAME_WORD).unwrap();
        for said in [now + 2 * SAME_WORD, earlier] {
            book.dialing(key(1), &endpoint(1), now);
            book.failed(key(1), &endpoint(1));
            assert!(book.found(key(1), &[endpoint(1)], said, now));
            assert_eq!(failures(&book), 0);
        }
    }

    #[test]
    fn of_two_dials_the_second_may_go_on_when_the_first_fails_or_its_session_ends() {
        let now = start();
        let mut book = PeerBook::default();
        for port in [1, 2] {
            book.heard(key(1), &endpoint(port), Source::Client, now);
            book.dialing(key(1), &endpoint(port), now);
        }
        let link = |book: &PeerBook| book.iter().next().unwrap().1.link;
        book.failed(key(1), &endpoint(1));
        assert_eq!(link(&book), Link::Dialing);
        book.failed(key(1), &endpoint(2));
        assert_eq!(link(&book), Link::None);

        book.dialing(key(1), &endpoint(1), now);
        book.dialing(key(1), &endpoint(2), now);
        book.connected(key(1), Direction::Outbound, Some(&endpoint(1)), now);
        book.ended(key(1), Some(&endpoint(1)), false, now);
        assert_eq!(link(&book), Link::Dialing);
        book.needless(key(1), &endpoint(2));
        book.connected(key(1), Direction::Inbound, None, now);
        book.ended(key(1), None, false, now);
        assert_eq!(link(&book), Link::None);
    }

    #[test]
    fn a_session_that_ends_at_once_counts_as_a_failure() {
        let now = start();
        let mut book = PeerBook::default();
        book.heard(key(1), &endpoint(1), BEACON, now);
        book.dialing(key(1), &endpoint(1), now);
        book.connected(key(1), Direction::Outbound, Some(&endpoint(1)), now);
        book.ended(key(1), Some(&endpoint(1)), true, now);
        let (_, peer) = book.iter().next().unwrap();
        assert_eq!((peer.link, peer.paths[0].state.failures), (Link::None, 1));
    }
}
