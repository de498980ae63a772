//! Pubs of our own log, as a last resort: when we know no node of the DHT and nobody at all is connected,
//! pubs that feeds in reach have announced are dialled for their certificate, a few at a time. A pub that is
//! a stranger to us is left afterwards.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawsepipe_overlay::DialError;
use hawsepipe_overlay::address::Endpoint;
use hawsepipe_overlay::conn::Connection;
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::swarm::DhtService;
use hawsepipe_replication::message::Content;
use hawsepipe_replication::refs::FeedId;
use hawsepipe_replication::store::{Order, Reader};
use serde::Deserialize;

use super::connect::{carrier_label, is_local};
use super::takeover::Standing;
use super::{Engine, Msg};
use crate::clock;
use crate::peer_book::Source;
use crate::scheduler::Relation;

/// How long there has been nobody before pubs are dialled.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pubs dialled or asked at a time.
const MAX_VISITS: usize = 3;
/// Pubs dialled within [`AGAIN`] at most.
const MAX_DIALS: usize = 20;
/// A pub is not dialled again for so long.
const AGAIN: Duration = Duration::from_secs(60 * 60);
/// A visit that does not end takes up no place after this: longer than a dial and an answer may take.
const VISIT_MAX: Duration = Duration::from_secs(60);
/// The log is read again after this.
const READ_AGAIN: Duration = Duration::from_secs(10 * 60);
/// Announcements read at a time, newest first.
const MAX_MESSAGES: usize = 10_000;
/// Pubs remembered at a time.
const MAX_KNOWN: usize = 200;
/// Longest host name that is dialled, in bytes (RFC 1035).
const MAX_HOST: usize = 253;

/// A pub and where it was announced.
pub(super) type Pub = (PublicKey, Endpoint);

/// What is known of pubs, and which were dialled.
#[derive(Debug, Default)]
pub(super) struct Pubs {
    alone_since: Option<Instant>,
    read_at: Option<Instant>,
    /// Not dialled yet, the next one last.
    known: Vec<Pub>,
    dialled: BTreeMap<PublicKey, Instant>,
    visits: BTreeMap<PublicKey, Instant>,
    /// When they were last read to be dialled like others, where the operator wants that.
    listed_at: Option<Instant>,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Wait,
    /// Read the log.
    Read,
    Visit(Vec<Pub>),
}

impl Pubs {
    /// Decides, by whether there is nobody now.
    fn step(&mut self, alone: bool, now: Instant) -> Step {
        let since = alone.then(|| self.alone_since.unwrap_or(now));
        self.alone_since = since;
        self.visits.retain(|_, since| now < *since + VISIT_MAX);
        self.dialled.retain(|_, at| now < *at + AGAIN);
        if since.is_none_or(|since| now < since + PATIENCE) {
            return Step::Wait;
        }
        let mut next = Vec::new();
        while self.visits.len() < MAX_VISITS && self.dialled.len() < MAX_DIALS {
            let Some((key, endpoint)) = self.known.pop() else { break };
            if let Entry::Vacant(dialled) = self.dialled.entry(key) {
                dialled.insert(now);
                self.visits.insert(key, now);
                next.push((key, endpoint));
            }
        }
        if !next.is_empty() {
            return Step::Visit(next);
        }
        if self.known.is_empty() && self.read_at.is_none_or(|at| now >= at + READ_AGAIN) {
            self.read_at = Some(now);
            return Step::Read;
        }
        Step::Wait
    }

    /// Whether it was dialled for its certificate, which is still to come.
    pub(super) fn is_visiting(&self, key: PublicKey) -> bool {
        self.visits.contains_key(&key)
    }
}

impl Engine {
    /// Looks whether pubs are to be dialled.
    pub(super) fn visit_pubs(&mut self, now: Instant) {
        if self.policy.strange_pubs && self.pubs.listed_at.is_none_or(|at| now >= at + READ_AGAIN) {
            self.pubs.listed_at = Some(now);
            self.read_pubs();
        }
        let overlay = self.ctx.config.overlay.as_ref();
        let wanted = overlay.is_some_and(|overlay| overlay.pubs && overlay.dht != DhtService::Off);
        if !wanted || !self.policy.autostart {
            return;
        }
        let alone = self.ctx.overlay.dht().nodes == 0 && !self.has_company();
        match self.pubs.step(alone, now) {
            Step::Wait => {}
            Step::Read => self.read_pubs(),
            Step::Visit(pubs) => pubs.into_iter().for_each(|(peer, endpoint)| self.visit(peer, endpoint)),
        }
    }

    /// Whether anybody but pubs that we visited is connected.
    fn has_company(&self) -> bool {
        self.sessions.values().any(|open| {
            open.standing == Standing::Live
                && !is_local(&open.info)
                && open.peer != self.ctx.own_key
                && !self.pubs.dialled.contains_key(&open.peer)
        })
    }

    fn read_pubs(&mut self) {
        let reader = self.ctx.reader.clone();
        let authors: BTreeSet<_> = self.wanted.keys().copied().collect();
        let ctx = Arc::clone(&self.ctx);
        let msgs = self.msgs_tx.clone();
        let seed = clock::unix_millis();
        self.spawn(async move {
            let pubs = ctx.read(move || announced(&reader, &authors, seed)).await;
            let _ = msgs.send(Msg::Pubs { pubs }).await;
        });
    }

    /// The log was read.
    pub(super) fn on_pubs(&mut self, mut pubs: Vec<Pub>) {
        pubs.retain(|(key, _)| *key != self.ctx.own_key && !self.access.is_blocked(*key));
        if self.policy.strange_pubs {
            pubs.iter().for_each(|(key, endpoint)| self.hear(*key, endpoint, Source::Pub));
        }
        if pubs.is_empty() || self.has_company() {
            return;
        }
        tracing::info!(pubs = pubs.len(), "no node of the DHT is known: asking pubs that were announced");
        self.pubs.known = pubs;
        self.visit_pubs(clock::now());
    }

    fn visit(&mut self, peer: PublicKey, endpoint: Endpoint) {
        tracing::debug!(peer = %peer.short(), ?endpoint, "dialling a pub for its certificate");
        let overlay = Arc::clone(&self.ctx.overlay);
        let msgs = self.msgs_tx.clone();
        self.spawn(async move {
            let result = Box::new(overlay.dial(peer, &endpoint).await);
            // If the engine is gone, so is the connection.
            let _ = msgs.send(Msg::PubDialed { peer, endpoint, result }).await;
        });
    }

    /// The dial of a pub is done. Its session asks for the certificate like any other.
    pub(super) fn on_pub_dialed(
        &mut self,
        peer: PublicKey,
        endpoint: &Endpoint,
        result: Result<Connection, DialError>,
    ) {
        let outcome = result.as_ref().map_or_else(DialError::label, |_| "ok");
        let labels = [carrier_label(endpoint), outcome];
        self.ctx.metrics.connect.dials.with_label_values(&labels).inc();
        match result {
            Ok(connection) => self.on_connected(connection, None),
            Err(error) => {
                tracing::debug!(peer = %peer.short(), %error, "a pub did not answer");
                self.leave_pub(peer);
            }
        }
    }

    /// A visit is over, if there was one: whoever means nothing else to us is left.
    pub(super) fn leave_pub(&mut self, peer: PublicKey) {
        if self.pubs.visits.remove(&peer).is_none() {
            return;
        }
        if self.relation(peer) == Relation::Stranger && !self.book.is_asked_for(peer) {
            self.close_sessions(peer);
        }
        self.visit_pubs(clock::now());
    }
}

/// Pubs that these authors announced, each once with its newest address, in an order that depends on `seed`.
pub(super) fn announced(reader: &Reader, authors: &BTreeSet<FeedId>, seed: u64) -> Vec<Pub> {
    let mut pubs = BTreeMap::new();
    for stored in reader.by_type("pub", .., Order::Descending).take(MAX_MESSAGES) {
        let message = match stored {
            Ok(stored) => stored.message,
            Err(error) => {
                tracing::warn!(%error, "cannot read announcements of pubs from the store");
                break;
            }
        };
        if let Some((key, endpoint)) =
            announcement(&message.content()).filter(|_| authors.contains(&message.author()))
        {
            pubs.entry(key).or_insert(endpoint);
        }
    }
    let mut pubs: Vec<_> = pubs.into_iter().collect();
    pubs.sort_by_cached_key(|(key, _)| {
        let mut hasher = DefaultHasher::new();
        (seed, key).hash(&mut hasher);
        hasher.finish()
    });
    pubs.truncate(MAX_KNOWN);
    pubs
}

/// `{type: "pub", address: {host, port, key}}`.
fn announcement(content: &Content<'_>) -> Option<Pub> {
    #[derive(Deserialize)]
    struct Address {
        host: String,
        port: u16,
        key: String,
    }
    let Address { host, port, key } = serde_json::from_str(content.member("address")?).ok()?;
    let plausible = port != 0 && !host.is_empty() && host.len() <= MAX_HOST;
    plausible.then_some(())?;
    Some((key.parse().ok()?, Endpoint::Net { host, port }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
        Instant::now()
    }

    fn a_pub(n: u8) -> Pub {
        (PublicKey::from_bytes([n; 32]), Endpoint::Net { host: "pub.example".into(), port: n.into() })
    }

    #[test]
    fn only_whoever_has_been_alone_for_a_while_asks_pubs_and_never_many() {
        let now = start();
        let mut pubs = Pubs::default();
        assert_eq!(pubs.step(true, now), Step::Wait);
        assert_eq!(pubs.step(false, now + PATIENCE), Step::Wait);
        let alone = now + 2 * PATIENCE;
        assert_eq!(pubs.step(true, alone), Step::Wait);
        let now = alone + PATIENCE;
        assert_eq!(pubs.step(true, now), Step::Read);
        assert_eq!(pubs.step(true, now), Step::Wait, "the log is being read");
        pubs.known = (1..=60).map(a_pub).collect();
        assert_eq!(pubs.step(true, now), Step::Visit(vec![a_pub(60), a_pub(59), a_pub(58)]));
        assert_eq!(pubs.step(true, now), Step::Wait);
        let mut dialled = MAX_VISITS;
        while dialled < MAX_DIALS {
            pubs.visits.pop_first();
            assert!(matches!(pubs.step(true, now), Step::Visit(one) if one.len() == 1));
            dialled += 1;
        }
        pubs.visits.clear();
        assert_eq!(pubs.step(true, now), Step::Wait, "enough for an hour");
        pubs.known.push(a_pub(60));
        let later = now + AGAIN;
        assert!(matches!(pubs.step(true, later), Step::Visit(again) if again[0] == a_pub(60)));
    }

    #[test]
    fn a_pub_is_not_dialled_twice_within_an_hour_and_a_visit_without_end_is_given_up() {
        let now = start();
        let mut pubs =
            Pubs { alone_since: now.checked_sub(PATIENCE), known: vec![a_pub(1)], ..Pubs::default() };
        assert_eq!(pubs.step(true, now), Step::Visit(vec![a_pub(1)]));
        assert!(pubs.is_visiting(a_pub(1).0));
        pubs.known.push(a_pub(1));
        let later = now + VISIT_MAX;
        assert_eq!(pubs.step(true, later), Step::Read);
        assert!(!pubs.is_visiting(a_pub(1).0));
    }

    #[test]
    fn announcements_are_read_as_ssb_server_writes_them_and_nothing_else_is_dialled() {
        let key = PublicKey::from_bytes([7; 32]);
        let read = |address: &str| {
            let raw = format!(r#"{{"type":"pub","address":{address}}}"#);
            announcement(&Content::from_canonical(&raw).unwrap())
        };
        let good = format!(r#"{{"host":"pub.example","port":8008,"key":"{key}"}}"#);
        assert_eq!(read(&good), Some((key, Endpoint::Net { host: "pub.example".into(), port: 8008 })));
        for bad in [
            format!(r#"{{"host":"","port":8008,"key":"{key}"}}"#),
            format!(r#"{{"host":"pub.example","port":0,"key":"{key}"}}"#),
            format!(r#"{{"host":"pub.example","port":70000,"key":"{key}"}}"#),
            format!(r#"{{"host":"{}","port":1,"key":"{key}"}}"#, "x".repeat(MAX_HOST + 1)),
            r#"{"host":"pub.example","port":1,"key":"@x"}"#.to_owned(),
            r#""net:pub.example:8008""#.to_owned(),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }
}
