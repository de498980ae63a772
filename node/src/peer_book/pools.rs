//! The address book as ssb-conn's clients know it: what they remember and stage, and in which form they see it.

use std::time::{Duration, Instant};

use hawsepipe_overlay::address::{Address, Endpoint};
use hawsepipe_overlay::keys::PublicKey;
use serde_json::{Map, Value, json};

use super::conn_json::{self, Clock};
use super::{Path, Peer, PeerBook, Source};
use crate::scheduler::{Class, Link};

/// Bytes of JSON that a client may note of one address.
pub const MAX_DATA: usize = 4096;
/// Addresses remembered at most that nothing here can dial.
pub const MAX_FOREIGN: usize = 1_000;

/// Why an address or what is to be noted of it is not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    /// Not a peer's.
    #[error("the address has no key: expected …~shs:KEY")]
    NoKey,
    /// More than [`MAX_DATA`].
    #[error("what is to be noted of an address may have at most {MAX_DATA} bytes")]
    TooLong,
    /// More than [`MAX_FOREIGN`].
    #[error("{MAX_FOREIGN} addresses that this node cannot dial are remembered already: forget some")]
    TooMany,
}

impl PeerBook {
    /// `conn.remember`: keeps an address, with `data` noted of it, over restarts. It is dialled unless `autoconnect` is false.
    pub fn remember(
        &mut self,
        address: &Address,
        data: Map<String, Value>,
        now: Instant,
    ) -> Result<(), NotKept> {
        check(&data)?;
        self.changed = true;
        let (endpoint, key) = match (&address.endpoint, address.key) {
            (Endpoint::Other(_), _) => return self.keep_foreign(address.to_string(), data),
            (_, None) => return Err(NotKept::NoKey),
            (endpoint, Some(key)) => (endpoint, key),
        };
        let autoconnect = data.get("autoconnect").and_then(Value::as_bool).unwrap_or(true);
        self.heard(key, endpoint, if autoconnect { Source::Client } else { Source::Stored }, now);
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        peer.asked_for = autoconnect || (peer.asked_for && peer.paths.len() > 1);
        if let Some(path) = path_mut(peer, endpoint) {
            path.data.extend(conn_json::notes(data));
        }
        Ok(())
    }

    /// `conn.forget`: whether it was there. A session that stands is not touched.
    pub fn forget(&mut self, address: &Address) -> bool {
        let was_foreign = self.foreign.remove(&address.to_string()).is_some();
        let was_known = self.remove(address, Path::is_kept);
        self.changed |= was_foreign || was_known;
        was_foreign || was_known
    }

    /// `gossip.remove`: nothing of what was remembered or staged of a peer.
    pub fn forget_all(&mut self, key: PublicKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.asked_for = false;
        peer.paths.retain(|path| path.state.dialing);
        // A dial that is under way goes on, and nothing is left of it when it fails.
        for path in &mut peer.paths {
            (path.source, path.state.said) = (Source::Rendezvous, None);
        }
        self.forget_if_empty(key);
        self.changed = true;
    }

    /// `conn.stage`: suggests an address until the next start. It is dialled if the graph says so. Tells whether it is new.
    pub fn stage(
        &mut self,
        address: &Address,
        data: Map<String, Value>,
        now: Instant,
    ) -> Result<bool, NotKept> {
        check(&data)?;
        let key = address.key.ok_or(NotKept::NoKey)?;
        if self.peers.get(&key).is_some_and(|peer| peer.link != Link::None) {
            return Ok(false);
        }
        let is_new = self.heard(key, &address.endpoint, Source::Staged, now);
        if let Some(path) = self.peers.get_mut(&key).and_then(|peer| path_mut(peer, &address.endpoint)) {
            path.data.extend(conn_json::notes(data));
        }
        Ok(is_new)
    }

    /// `conn.unstage`: whether it was staged.
    pub fn unstage(&mut self, address: &Address) -> bool {
        self.remove(address, |path| !path.is_kept())
    }

    /// What is kept over restarts, as `conn.dbPeers` shows it and `conn.json` holds it.
    pub fn kept(&self, clock: Clock) -> Vec<(String, Value)> {
        let paths = self.iter().flat_map(|(key, peer)| peer.paths.iter().map(move |path| (key, peer, path)));
        let kept = paths.filter(|(_, _, path)| path.is_kept());
        let ours = kept.map(|(key, peer, path)| (shown(key, path), conn_json::entry(key, peer, path, clock)));
        let foreign = self.foreign.iter().map(|(address, data)| (address.clone(), data.clone().into()));
        ours.chain(foreign).collect()
    }

    /// What is suggested and not connected, as `conn.stagedPeers` shows it: also what is remembered and not dialled by itself.
    pub fn staged(&self, clock: Clock) -> Vec<(String, Value)> {
        let free = self.iter().filter(|(_, peer)| peer.link == Link::None);
        let paths = free.flat_map(|(key, peer)| peer.paths.iter().map(move |path| (key, peer, path)));
        let staged = paths.filter(|(_, peer, path)| !path.is_kept() || !peer.asked_for);
        let entry = |(key, peer, path): (PublicKey, &Peer, &Path)| {
            let mut entry = conn_json::entry(key, peer, path, clock);
            entry["type"] = path.kind_label().into();
            entry["stagingBirth"] = clock.millis(path.state.discovered.unwrap_or(peer.heard)).into();
            entry["stagingUpdated"] = clock.millis(peer.heard).into();
            (shown(key, path), entry)
        };
        staged.map(entry).collect()
    }

    /// Takes back what an earlier run, another server or an import left.
    pub fn restore(&mut self, file: conn_json::File, clock: Clock) {
        for (address, data) in file.foreign.into_iter().take(MAX_FOREIGN) {
            self.foreign.insert(address, data);
        }
        for known in file.known {
            if let Some(transport) = known.transport {
                self.remember_transport(known.key, transport, clock.now);
            }
            let Some(endpoint) = known.endpoint else { continue };
            let source = if known.autoconnect { Source::Client } else { Source::Stored };
            self.heard(known.key, &endpoint, source, clock.now);
            if let Some(peer) = self.peers.get_mut(&known.key) {
                conn_json::recall(peer, &endpoint, known.data, clock);
            }
        }
    }

    fn keep_foreign(&mut self, address: String, data: Map<String, Value>) -> Result<(), NotKept> {
        if self.foreign.len() >= MAX_FOREIGN && !self.foreign.contains_key(&address) {
            return Err(NotKept::TooMany);
        }
        self.foreign.entry(address).or_default().extend(data);
        Ok(())
    }

    fn remove(&mut self, address: &Address, which: impl Fn(&Path) -> bool) -> bool {
        let Some(key) = address.key else { return false };
        let Some(peer) = self.peers.get_mut(&key) else { return false };
        let before = peer.paths.len();
        let goes =
            |path: &Path| path.state.endpoint == address.endpoint && which(path) && !path.state.dialing;
        peer.paths.retain(|path| !goes(path));
        let removed = peer.paths.len() < before;
        if !peer.paths.iter().any(Path::is_kept) {
            peer.asked_for = false;
        }
        self.forget_if_empty(key);
        removed
    }
}

impl Path {
    /// What ssb-conn calls this kind of address.
    pub fn kind_label(&self) -> &str {
        match self.data.get("type").and_then(Value::as_str) {
            Some(kind) => kind,
            None if self.state.class == Class::Lan => "lan",
            None if self.source == Source::Pub => "pub",
            None if self.source == Source::Rendezvous => "dht",
            None => "internet",
        }
    }
}

/// The address of a path, as text.
pub(super) fn shown(key: PublicKey, path: &Path) -> String {
    Address::new(path.state.endpoint.clone(), key).to_string()
}

fn check(data: &Map<String, Value>) -> Result<(), NotKept> {
    let length = serde_json::to_vec(data).map_or(usize::MAX, |text| text.len());
    if length <= MAX_DATA { Ok(()) } else { Err(NotKept::TooLong) }
}

fn path_mut<'a>(peer: &'a mut Peer, endpoint: &Endpoint) -> Option<&'a mut Path> {
    peer.paths.iter_mut().find(|path| path.state.endpoint == *endpoint)
}

/// Adds how long a session lasted to `duration`, in the form of JS's `statistics`; a dial that failed counts as none.
pub(super) fn note_duration(data: &mut Map<String, Value>, lasted: Duration) {
    let value = lasted.as_millis() as f64;
    let before = |name: &str| data.get("duration").and_then(|d| d.get(name)?.as_f64()).unwrap_or(0.0);
    let (count, sum, squares) =
        (before("count") + 1.0, before("sum") + value, before("sqsum") + value * value);
    let mean = sum / count;
    let deviation = (squares / count - mean * mean).max(0.0).sqrt();
    let duration =
        json!({ "mean": mean, "stdev": deviation, "count": count as u64, "sum": sum, "sqsum": squares });
    data.insert("duration".to_owned(), duration);
}
