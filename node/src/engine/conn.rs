//! What local clients may ask of the address book and of the scheduler: the shells of `conn.*`, `gossip.*` and
//! `connScheduler.*`, and what `hawsepipe peers` shows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hawsepipe_overlay::address::{Address, Endpoint};
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::muxrpc::RemoteError;
use hawsepipe_replication::refs::FeedId;
use serde_json::{Map, Value, json};
use tokio::sync::{broadcast, watch};

use super::connect::is_local;
use super::peers::path_label;
use super::schedule::wall;
use super::takeover::Standing;
use super::{Engine, Open};
use crate::clock;
use crate::peer_book::{Path, Peer, Source};
use crate::scheduler::why::{Explainer, Why};
use crate::scheduler::{Link, Relation};

/// Changes that a slow listener of `gossip.changes` may be behind.
const MAX_CHANGES: usize = 256;

/// What may be asked.
#[derive(Debug)]
pub enum Ask {
    /// `conn.remember`.
    Remember(Address, Map<String, Value>),
    /// `conn.forget`.
    Forget(Address),
    /// `conn.stage`.
    Stage(Address, Map<String, Value>),
    /// `conn.unstage`.
    Unstage(Address),
    /// `conn.dbPeers`.
    Kept,
    /// `conn.peers`.
    Connections,
    /// `conn.stagedPeers`.
    Staged,
    /// `conn.start` and `conn.stop`.
    Run(bool),
    /// Whether strangers on the local network are dialled.
    LanStrangers(bool),
    /// `gossip.reconnect`.
    Reconnect,
    /// `gossip.peers`, or one of them.
    Gossip(Option<PublicKey>),
    /// `gossip.add`: whether it is to be dialled by itself, and where it comes from.
    GossipAdd(Address, bool, String),
    /// `gossip.remove`.
    GossipRemove(PublicKey),
    /// `conn.why`, of one peer or of all.
    Why(Option<PublicKey>),
}

/// What has happened to a peer, as `gossip.changes` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Discover,
    Remove,
    Connect,
    ConnectFailure,
    Disconnect,
}

impl Change {
    const fn label(self) -> &'static str {
        match self {
            Self::Discover => "discover",
            Self::Remove => "remove",
            Self::Connect => "connect",
            Self::ConnectFailure => "connect-failure",
            Self::Disconnect => "disconnect",
        }
    }
}

/// What people see of known peers; the engine's ends.
#[derive(Debug)]
pub struct Lists {
    peers: watch::Sender<Arc<BTreeSet<PublicKey>>>,
    changes: broadcast::Sender<Arc<Value>>,
}

/// The other ends.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Whom we are connected to, renewed whenever anything of known peers has changed.
    pub peers: watch::Receiver<Arc<BTreeSet<PublicKey>>>,
    /// What `gossip.changes` tells.
    pub changes: broadcast::Sender<Arc<Value>>,
}

impl Lists {
    /// Nobody is known yet.
    pub fn new() -> (Self, Watched) {
        let (peers, watched) = watch::channel(Arc::default());
        let (changes, _) = broadcast::channel(MAX_CHANGES);
        (Self { peers, changes: changes.clone() }, Watched { peers: watched, changes })
    }
}

impl Engine {
    /// Answers a client.
    pub(super) fn on_conn(&mut self, ask: Ask) -> Result<Value, RemoteError> {
        let now = clock::now();
        let refused = |error: crate::peer_book::NotKept| RemoteError::new(error.to_string());
        let answer = match ask {
            Ask::Remember(address, data) => {
                self.book.remember(&address, data, now).map_err(refused)?;
                Value::Null
            }
            Ask::Forget(address) => {
                self.book.forget(&address);
                Value::Null
            }
            Ask::Stage(address, data) => self.book.stage(&address, data, now).map_err(refused)?.into(),
            Ask::Unstage(address) => self.book.unstage(&address).into(),
            Ask::Kept => return Ok(json!(self.book.kept(wall(now)))),
            Ask::Connections => return Ok(self.connections()),
            Ask::Staged => return Ok(json!(self.book.staged(wall(now)))),
            Ask::Gossip(None) => {
                let is_known =
                    |peer: &Peer| peer.link != Link::Dialing || !peer.paths.iter().all(Path::is_taken_back);
                let known = self.book.iter().filter(|(_, peer)| is_known(peer));
                return Ok(known.map(|(key, peer)| self.gossip(key, peer)).collect());
            }
            Ask::Gossip(Some(key)) => return Ok(self.gossip_of(key)),
            Ask::Why(key) => return Ok(self.why(key)),
            Ask::Run(on) => {
                self.policy.autostart = on;
                if !on {
                    // As ssb-conn does: manual mode begins without connections.
                    self.close_remote();
                }
                Value::Null
            }
            Ask::LanStrangers(on) => {
                self.policy.lan_strangers = on;
                Value::Null
            }
            Ask::Reconnect => {
                self.book.reset();
                self.close_remote();
                clock::unix_millis().into()
            }
            Ask::GossipAdd(address, dial, source) => {
                let key = address.key.ok_or(crate::peer_book::NotKept::NoKey).map_err(refused)?;
                let data = json!({ "type": kind_of(&source), "autoconnect": dial });
                let is_new = self.book.peer(key).is_none();
                let data = data.as_object().cloned().unwrap_or_default();
                self.book.remember(&address, data, now).map_err(refused)?;
                if is_new {
                    self.tell_change(Change::Discover, key);
                }
                self.gossip_of(key)
            }
            Ask::GossipRemove(key) => {
                self.tell_change(Change::Remove, key);
                self.book.forget_all(key);
                Value::Null
            }
        };
        self.plan_dirty = true;
        self.peers_dirty = true;
        Ok(answer)
    }

    /// Tells whoever listens what became of a peer.
    pub(super) fn tell_change(&self, change: Change, key: PublicKey) {
        if self.lists.changes.receiver_count() > 0 {
            let event = json!({ "type": change.label(), "peer": self.gossip_of(key) });
            // Nobody listens any more.
            let _ = self.lists.changes.send(Arc::new(event));
        }
    }

    /// Tells whoever watches that something of known peers has changed, and whom we are connected to.
    pub(super) fn publish_peers(&mut self) {
        self.peers_dirty = false;
        let connected = self.connected().map(|open| open.peer).collect();
        self.lists.peers.send_replace(Arc::new(connected));
    }

    /// The sessions that are used for everything, without those of local clients.
    pub(super) fn connected(&self) -> impl Iterator<Item = &Open> {
        self.sessions.values().filter(|open| open.standing == Standing::Live && !is_local(&open.info))
    }

    /// What `conn.peers` shows: connections that stand or are made, as ssb-conn's hub has them.
    fn connections(&self) -> Value {
        let busy = self.book.iter().filter(|(_, peer)| peer.link != Link::None);
        let live: BTreeMap<_, _> = self.connected().map(|open| (open.peer, open)).collect();
        let entries = busy.flat_map(|(key, peer)| self.hub_entries(key, peer, live.get(&key).copied()));
        entries.map(|(address, data)| Value::from(vec![address.into(), data])).collect()
    }

    fn hub_entries(&self, key: PublicKey, peer: &Peer, live: Option<&Open>) -> Vec<(String, Value)> {
        let mut data = json!({ "key": key, "hops": self.hops_of(key) });
        let Some(open) = live else {
            data["state"] = "connecting".into();
            let dialing = peer.paths.iter().filter(|path| path.state.dialing);
            return dialing.map(|path| (address_of(key, path), noted(path, data.clone()))).collect();
        };
        let begun = wall(clock::now()).millis(open.since);
        data["state"] = "connected".into();
        data["hubBirth"] = begun.into();
        data["hubUpdated"] = begun.into();
        data["carrier"] = open.info.carrier.label().into();
        data["direction"] = open.info.direction.label().into();
        data["remote"] = open.info.remote.clone().into();
        data["path"] = path_label(&open.info).into();
        data["moves"] = open.paths.moves().into();
        data["paths"] = open.paths.shown(clock::now());
        let is_it = |path: &&Path| Some(&path.state.endpoint) == open.endpoint.as_ref();
        match peer.paths.iter().find(is_it) {
            Some(path) => vec![(address_of(key, path), noted(path, data))],
            None => vec![(remote_address(key, &open.info.remote), data)],
        }
    }

    fn hops_of(&self, key: PublicKey) -> Value {
        match self.relation(key) {
            Relation::Hops(hops) => Value::from(hops),
            Relation::Stranger => Value::Null,
            Relation::Blocked => Value::from(-1),
        }
    }

    fn gossip_of(&self, key: PublicKey) -> Value {
        self.book.peer(key).map_or(Value::Null, |peer| self.gossip(key, peer))
    }

    /// A peer as ssb-gossip shows it: the first of its addresses.
    fn gossip(&self, key: PublicKey, peer: &Peer) -> Value {
        let mut shown = json!({ "key": key, "source": "stored", "announcers": peer.paths.len() });
        match peer.link {
            Link::None => {}
            Link::Dialing => shown["state"] = "connecting".into(),
            Link::Outbound | Link::Inbound => {
                shown["state"] = "connected".into();
                shown["client"] = (peer.link == Link::Outbound).into();
            }
        }
        let Some(path) = peer.paths.first() else { return shown };
        let clock = wall(clock::now());
        let state = &path.state;
        shown["address"] = address_of(key, path).into();
        if let Endpoint::Net { host, port } = &state.endpoint {
            shown["host"] = host.clone().into();
            shown["port"] = (*port).into();
        }
        shown["source"] = match path.source {
            Source::Lan(_) => "local",
            Source::Config => "seed",
            Source::Client | Source::Staged => "manual",
            Source::Stored => "stored",
            Source::Rendezvous => "dht",
            Source::Pub => "pub",
        }
        .into();
        shown["failure"] = state.failures.into();
        let changed = state.last_attempt.max(state.last_ended).max(peer.session.map(|running| running.since));
        if let Some(at) = changed {
            shown["stateChange"] = clock.millis(at).into();
        }
        shown["duration"] = path.data.get("duration").cloned().unwrap_or_default();
        shown
    }

    /// `conn.why`: what the scheduler thinks.
    fn why(&mut self, key: Option<PublicKey>) -> Value {
        let now = clock::now();
        let snapshot = self.snapshot(now);
        let explainer = Explainer::new(&snapshot, &self.policy, now);
        let peers: Vec<_> = explainer
            .all()
            .filter(|why| key.is_none_or(|key| why.key == key))
            .map(|why| told(&why))
            .collect();
        json!({ "summary": explainer.summary(), "peers": peers })
    }
}

fn told(why: &Why) -> Value {
    let mut told = json!({ "key": why.key, "verdict": why.verdict, "lines": why.lines });
    if let Some(group) = why.group {
        told["group"] = group.label().into();
    }
    if let Some(terms) = why.terms {
        told["score"] = terms.total().into();
        let named = terms.named().into_iter().map(|(name, points)| (name.to_owned(), Value::from(points)));
        told["terms"] = named.collect();
    }
    told
}

/// Which kind of peer a source of ssb-gossip tells of.
fn kind_of(source: &str) -> &'static str {
    if source == "pub" { "pub" } else { "manual" }
}

/// What is noted of an address, under what holds now.
fn noted(path: &Path, data: Value) -> Value {
    let mut all = path.data.clone();
    all.insert("type".to_owned(), path.kind_label().into());
    all.insert("source".to_owned(), path.source.label().into());
    all.insert("failure".to_owned(), path.state.failures.into());
    if let Value::Object(data) = data {
        all.extend(data);
    }
    all.into()
}

fn address_of(key: PublicKey, path: &Path) -> String {
    Address::new(path.state.endpoint.clone(), key).to_string()
}

/// The other end of a session that it began, in the form of an address.
fn remote_address(key: PublicKey, remote: &str) -> String {
    if remote.starts_with('/') {
        return Address::new(Endpoint::Libp2p(remote.to_owned()), key).to_string();
    }
    let id = FeedId::from_bytes(key.to_bytes()).to_string();
    format!("{remote}~shs:{}", id.trim_start_matches('@').trim_end_matches(".ed25519"))
}
