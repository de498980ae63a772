//! `conn.json`, the address book in the form of JS's ssb-conn-db: an object from multiserver address to
//! what is known of it. Addresses of the local network are not kept: they are announced again.
//!
//! Beside JS's fields an entry has `hawsepipe`, what we have counted ourselves. Fields that we do not know are kept as
//! they are, and so are addresses that we cannot dial. Times are milliseconds since 1970; what lies in the future, because a clock was
//! wrong, counts as now.
//!
//! A transport identity is an entry of its own, `libp2p:/p2p/ID~shs:KEY`, which leads nowhere and which
//! nobody dials.

use std::time::{Duration, Instant};

use hawsepipe_overlay::address::{Address, Endpoint};
use hawsepipe_overlay::conn::TransportId;
use hawsepipe_overlay::keys::PublicKey;
use serde_json::{Map, Value, json};

use super::{Path, Peer, PeerBook};
use crate::scheduler::{Decaying, Kind};

/// One moment by both clocks: the file has the wall clock's times, and all else the monotonic clock's.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// By the monotonic clock.
    pub now: Instant,
    /// By the wall clock, in milliseconds since 1970.
    pub unix: u64,
}

impl Clock {
    /// A moment as it is written.
    pub fn millis(&self, at: Instant) -> u64 {
        let ago = self.now.saturating_duration_since(at).as_millis() as u64;
        self.unix.saturating_sub(ago)
    }

    /// A moment as it was written.
    pub fn instant(&self, millis: u64) -> Option<Instant> {
        self.now.checked_sub(Duration::from_millis(self.unix.saturating_sub(millis)))
    }
}

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct File {
    /// Addresses that we can dial, and transport identities.
    pub known: Vec<Known>,
    /// Other addresses, with what is noted of them.
    pub foreign: Vec<(String, Map<String, Value>)>,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Whom it is about.
    pub key: PublicKey,
    /// Where to dial it.
    pub endpoint: Option<Endpoint>,
    /// Whether it is to be dialled.
    pub autoconnect: bool,
    /// Its transport identity.
    pub transport: Option<TransportId>,
    /// The whole entry.
    pub data: Map<String, Value>,
}

/// Fields that are written anew each time, so what a file says of them is read once.
const OURS: [&str; 6] = ["key", "source", "autoconnect", "failure", "stateChange", "hawsepipe"];

/// The file's text.
pub fn encode(book: &PeerBook, clock: Clock) -> String {
    let mut entries: Map<String, Value> = book.kept(clock).into_iter().collect();
    for (key, id) in book.transports().iter() {
        let address = Address::new(Endpoint::Libp2p(format!("{PEER}{id}")), key);
        let entry =
            json!({ "key": key, "source": "stored", "autoconnect": false, "transport": id.to_string() });
        entries.insert(address.to_string(), entry);
    }
    // An object of JSON values always prints.
    serde_json::to_string_pretty(&Value::Object(entries)).unwrap_or_default()
}

/// What is known of one path of a peer.
pub(super) fn entry(key: PublicKey, peer: &Peer, path: &Path, clock: Clock) -> Value {
    let state = &path.state;
    let mut entry = json!({
        "birth": clock.millis(state.discovered.unwrap_or(peer.heard)),
        "key": key,
        "type": path.kind_label(),
        "source": path.source.label(),
        "autoconnect": peer.asked_for,
        "failure": state.failures,
    });
    let (worked, failed) = (state.worked.amount(clock.now), state.failed.amount(clock.now));
    let mut own = json!({ "worked": worked, "failed": failed, "at": clock.unix });
    if let Some(met) = peer.met.max(peer.session.map(|_| clock.now)) {
        own["met"] = clock.millis(met).into();
    }
    let faults = peer.faults.amount(clock.now);
    if faults > 0.0 {
        own["faults"] = faults.into();
    }
    if let Some(fields) = entry.as_object_mut() {
        fields.extend(path.data.clone());
        if let Some(changed) = state.last_attempt.max(state.last_ended) {
            fields.insert("stateChange".to_owned(), clock.millis(changed).into());
        }
        if let Some(trip) = peer.round_trip {
            fields.insert("ping".to_owned(), json!({ "rtt": { "mean": trip.as_millis() as u64 } }));
        }
        fields.insert("hawsepipe".to_owned(), own);
    }
    entry
}

/// Takes what an entry says of a path that has just been added.
pub(super) fn recall(peer: &mut Peer, endpoint: &Endpoint, mut data: Map<String, Value>, clock: Clock) {
    let at = |value: Option<&Value>| clock.instant(value?.as_u64()?);
    let number = |value: Option<&Value>| value.and_then(Value::as_f64).filter(|n| *n >= 0.0).unwrap_or(0.0);
    let failures = data.get("failure").and_then(Value::as_u64).unwrap_or(0);
    let changed = at(data.get("stateChange"));
    let birth = at(data.get("birth"));
    let own = data.get("hawsepipe").cloned().unwrap_or_default();
    let counted = at(own.get("at"));
    peer.met = peer.met.max(at(own.get("met")));
    peer.faults = Decaying::since(number(own.get("faults")), counted);
    data = notes(data);
    let Some(path) = peer.paths.iter_mut().find(|path| path.state.endpoint == *endpoint) else { return };
    path.state.failures = u32::try_from(failures).unwrap_or(u32::MAX);
    path.state.last_attempt = changed.filter(|_| failures > 0);
    path.state.worked = Decaying::since(number(own.get("worked")), counted);
    path.state.failed = Decaying::since(number(own.get("failed")), counted);
    path.state.discovered = birth.or(path.state.discovered);
    data.remove("birth");
    path.data = data;
}

/// What a client notes of an address, without what we say of it ourselves.
pub(super) fn notes(mut data: Map<String, Value>) -> Map<String, Value> {
    OURS.iter().for_each(|name| drop(data.remove(*name)));
    data
}

/// What the entry of an address says that the peer is there for.
pub fn kind(data: &Map<String, Value>) -> Kind {
    match data.get("type").and_then(Value::as_str) {
        Some("pub" | "room") => Kind::Hub,
        Some(_) | None => Kind::Person,
    }
}

/// The content of a file's text.
pub fn decode(text: &str) -> Result<File, serde_json::Error> {
    let entries: Map<String, Value> = serde_json::from_str(text)?;
    let mut file = File::default();
    for (text, entry) in entries {
        let Value::Object(data) = entry else { continue };
        let Ok(address) = text.parse::<Address>() else { continue };
        if let Endpoint::Other(_) = address.endpoint {
            file.foreign.push((text, data));
            continue;
        }
        let named = || data.get("key")?.as_str()?.parse().ok();
        let Some(key) = address.key.or_else(named) else { continue };
        // ssb-conn: an absent `autoconnect` means yes.
        let autoconnect = data.get("autoconnect").and_then(Value::as_bool).unwrap_or(true);
        let transport = data.get("transport").and_then(Value::as_str).and_then(TransportId::parse);
        let leads_nowhere = matches!(&address.endpoint, Endpoint::Libp2p(at) if at.starts_with(PEER));
        let endpoint = Some(address.endpoint).filter(|_| !leads_nowhere);
        file.known.push(Known { key, endpoint, autoconnect, transport, data });
    }
    Ok(file)
}

/// The entries that ssb-conn would make of a `gossip.json`, ssb-gossip's table.
pub fn of_gossip(text: &str) -> Option<Map<String, Value>> {
    let peers: Vec<Value> = serde_json::from_str(text).ok()?;
    let entry = |peer: &Value| {
        let text = |name: &str| peer.get(name).and_then(Value::as_str);
        let key = text("key")?;
        // What the local network said is said again.
        let source = text("source").filter(|source| *source != "local")?;
        let of_parts = || {
            let id = key.trim_start_matches('@').trim_end_matches(".ed25519");
            Some(format!("net:{}:{}~shs:{id}", text("host")?, peer.get("port")?.as_u64()?))
        };
        let address = text("address").map(str::to_owned).or_else(of_parts)?;
        let address: Address = address.parse().ok()?;
        let kind = if source == "pub" { "pub" } else { "manual" };
        // A pub that only a message told of is not dialled by itself.
        let autoconnect = matches!(source, "manual" | "seed" | "friends" | "stored");
        let failure = peer.get("failure").and_then(Value::as_u64).unwrap_or(0);
        let mut entry = json!({
            "key": key, "type": kind, "source": source, "autoconnect": autoconnect, "failure": failure
        });
        for name in ["duration", "stateChange", "ping"] {
            if let Some(value) = peer.get(name).filter(|value| !value.is_null()) {
                entry[name] = value.clone();
            }
        }
        Some((address.to_string(), entry))
    };
    Some(peers.iter().filter_map(entry).collect())
}

/// How a multiaddr begins that names a peer and no place.
const PEER: &str = "/p2p/";

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::*;

    fn clock() -> Clock {
        #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
        let now = Instant::now();
        Clock { now, unix: 1_800_000_000_000 }
    }

    const KEY: PublicKey = PublicKey::from_bytes([7; 32]);

    fn endpoint() -> Endpoint {
        Endpoint::Net { host: "192.0.2.1".into(), port: 8008 }
    }

    fn reread(book: &PeerBook, clock: Clock) -> PeerBook {
        let mut again = PeerBook::default();
        again.restore(decode(&encode(book, clock)).unwrap(), clock);
        again
    }

    #[test]
    fn a_transport_identity_survives_without_any_address() {
        let clock = clock();
        let id = TransportId::parse("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN");
        let mut book = PeerBook::default();
        book.remember_transport(KEY, id.clone().unwrap(), clock.now);
        let known = decode(&encode(&book, clock)).unwrap().known;
        assert_eq!(known.len(), 1);
        assert_eq!((known[0].key, &known[0].endpoint, known[0].autoconnect), (KEY, &None, false));
        assert_eq!(known[0].transport, id);
    }

    #[test]
    fn statistics_and_what_clients_noted_survive_and_the_future_counts_as_now() {
        let clock = clock();
        let mut book = PeerBook::default();
        let noted = json!({"type": "room", "name": "a room", "membership": true});
        book.remember(&Address::new(endpoint(), KEY), noted.as_object().unwrap().clone(), clock.now).unwrap();
        book.dialing(KEY, &endpoint(), clock.now);
        book.failed(KEY, &endpoint(), clock.now);
        let later = Clock { now: clock.now + Duration::from_secs(60), unix: clock.unix + 60_000 };
        let mut again = reread(&book, later);
        let path = &again.peer(KEY).unwrap().paths[0];
        assert_eq!(path.data["name"], "a room");
        assert_eq!((path.state.failures, path.state.last_attempt), (1, Some(clock.now)));
        assert!((0.99..1.0).contains(&path.state.failed.amount(later.now)));
        assert_eq!(again.peer(KEY).unwrap().kind(), Kind::Hub);
        assert_eq!(path.data["duration"]["count"], 1);
        // The clock was an hour ahead when it was written.
        let wrong = Clock { unix: later.unix - 3_600_000, ..later };
        again = PeerBook::default();
        again.restore(decode(&encode(&book, later)).unwrap(), wrong);
        assert_eq!(again.peer(KEY).unwrap().paths[0].state.last_attempt, Some(later.now));
    }

    #[test]
    fn what_js_wrote_is_kept_though_we_cannot_dial_it() {
        let clock = clock();
        let text = r#"{"tunnel:@a.ed25519:@b.ed25519~shs:AAAA": 7,
            "ws://192.0.2.1:8989~shs:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=":
                {"key": "@BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=.ed25519", "type": "pub", "x": 1}}"#;
        let mut book = PeerBook::default();
        book.restore(decode(text).unwrap(), clock);
        let kept = book.kept(clock);
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert_eq!(kept[0].1["x"], 1);
        assert_eq!(reread(&book, clock).kept(clock), kept);
        assert!(book.forget(&kept[0].0.parse().unwrap()));
        assert_eq!(book.kept(clock), []);
    }

    #[test]
    fn clients_stage_remember_and_forget_within_bounds() {
        let clock = clock();
        let address = Address::new(endpoint(), KEY);
        let mut book = PeerBook::default();
        assert_eq!(book.stage(&address, Map::new(), clock.now), Ok(true));
        assert_eq!(book.stage(&address, Map::new(), clock.now), Ok(false));
        assert!(!book.is_asked_for(KEY));
        assert_eq!((book.kept(clock).len(), book.staged(clock).len()), (0, 1));
        book.remember(&address, Map::new(), clock.now).unwrap();
        assert!(book.is_asked_for(KEY));
        assert_eq!((book.kept(clock).len(), book.staged(clock).len()), (1, 0));
        let quiet = json!({"autoconnect": false}).as_object().unwrap().clone();
        book.remember(&address, quiet, clock.now).unwrap();
        assert!(!book.is_asked_for(KEY));
        assert_eq!((book.kept(clock).len(), book.staged(clock).len()), (1, 1));
        assert!(!book.unstage(&address) && book.forget(&address) && book.is_empty());
        let long = json!({"x": "y".repeat(super::super::MAX_DATA)}).as_object().unwrap().clone();
        assert!(book.remember(&address, long, clock.now).is_err());
        book.heard(KEY, &endpoint(), Source::Pub, clock.now);
        assert_eq!(book.peer(KEY).unwrap().kind(), Kind::Hub);
    }
}
