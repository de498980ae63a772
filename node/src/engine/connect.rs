//! Steps 1 to 4 of the story: a peer is claimed to be somewhere, the scheduler decides, a dial or an
//! accepted connection becomes a session, and sessions end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hawsepipe_overlay::address::{Address, Endpoint};
use hawsepipe_overlay::conn::{Carrier, Closed, Connection, Direction, LinkInfo, Session};
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::muxrpc::RemoteError;
use hawsepipe_overlay::{self as overlay, DialError};
use hawsepipe_replication::history::Negotiation;
use tokio::sync::oneshot;

use super::conn::Change;
use super::moves::Paths;
use super::schedule::wall;
use super::takeover::{Standing, role};
use super::{Engine, Msg, Open, SessionId};
use crate::api;
use crate::clock;
use crate::peer_book::{self, Source};
use crate::scheduler::Class;

/// A session that ends sooner than this did not work.
const AT_ONCE: Duration = Duration::from_secs(5);
/// How long sessions may take to say goodbye when the node stops.
const GOODBYE: Duration = Duration::from_secs(3);

impl Engine {
    /// Step 1: someone claims to be `claimed`. Believed only as far as a dial.
    pub(super) fn on_discovered(&mut self, claimed: PublicKey, endpoint: &Endpoint, source: overlay::Source) {
        if claimed != self.ctx.own_key {
            self.hear(claimed, endpoint, Source::Lan(source));
        }
    }

    pub(super) fn hear(&mut self, key: PublicKey, endpoint: &Endpoint, source: Source) {
        self.ctx.metrics.connect.discovered.with_label_values(&[source.label()]).inc();
        let is_new = self.book.heard(key, endpoint, source, clock::now());
        if is_new {
            tracing::debug!(peer = %key.short(), ?endpoint, source = source.label(), "heard of a peer");
            self.peers_dirty = true;
            self.tell_change(Change::Discover, key);
        }
        self.plan_dirty |= is_new;
    }

    /// Peers of the configuration and of earlier runs.
    pub(super) fn load_peers(&mut self) {
        let seeds = self.ctx.config.seeds.clone();
        for (key, endpoint) in seeds.iter().filter_map(peer_book::keyed) {
            self.hear(key, endpoint, Source::Config);
        }
        let now = clock::now();
        if let Some(file) = self.read_conn_json() {
            self.book.restore(file, wall(now));
        }
        self.update_tiers(now);
        self.plan_dirty = true;
    }

    /// The address book of an earlier run; where there is none, what ssb-gossip left.
    fn read_conn_json(&self) -> Option<peer_book::File> {
        let (path, old) = (self.dir.conn(), self.dir.gossip());
        let read = |path: &Path| match std::fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot read known peers");
                None
            }
        };
        let of_gossip = || serde_json::to_string(&peer_book::of_gossip(&read(&old)?)?).ok();
        let text = read(&path).or_else(of_gossip)?;
        peer_book::decode(&text)
            .inspect_err(|error| {
                tracing::warn!(path = %path.display(), %error, "known peers are not JSON; starting without");
            })
            .ok()
    }

    /// Steps 3 and 4: the overlay asks the gate, dials, and proves who is there.
    pub(super) fn dial(
        &mut self,
        peer: PublicKey,
        endpoint: Endpoint,
        reply: Option<oneshot::Sender<Result<(), RemoteError>>>,
    ) {
        tracing::debug!(peer = %peer.short(), ?endpoint, "dialling");
        self.book.dialing(peer, &endpoint, clock::now());
        self.plan_dirty = true;
        let overlay = Arc::clone(&self.ctx.overlay);
        let msgs = self.msgs_tx.clone();
        self.spawn(async move {
            let result = Box::new(overlay.dial(peer, &endpoint).await);
            // If the engine is gone, so is the connection.
            let _ = msgs.send(Msg::Dialed { peer, endpoint, result, reply }).await;
        });
    }

    pub(super) fn on_dialed(
        &mut self,
        peer: PublicKey,
        endpoint: &Endpoint,
        result: Result<Connection, DialError>,
        reply: Option<oneshot::Sender<Result<(), RemoteError>>>,
    ) {
        let carrier = carrier_label(endpoint);
        let outcome = result.as_ref().map_or_else(DialError::label, |_| "ok");
        self.ctx.metrics.connect.dials.with_label_values(&[carrier, outcome]).inc();
        let answer = match result {
            // A direct dial was under way beside it, and was faster.
            Ok(_) if endpoint.is_relayed() && self.is_direct(peer) => {
                self.book.needless(peer, endpoint);
                Ok(())
            }
            Ok(connection) => {
                self.on_connected(connection, Some(endpoint.clone()));
                Ok(())
            }
            Err(error) => {
                tracing::debug!(peer = %peer.short(), %error, "a dial failed");
                self.book.failed(peer, endpoint, clock::now());
                self.plan_dirty = true;
                self.peers_dirty = true;
                self.tell_change(Change::ConnectFailure, peer);
                Err(RemoteError::new(error.to_string()))
            }
        };
        if let Some(reply) = reply {
            let _ = reply.send(answer);
        }
    }

    /// Whether the session with `peer` needs no relay.
    fn is_direct(&self, peer: PublicKey) -> bool {
        let mut sessions = self.sessions.values();
        sessions.any(|open| {
            open.peer == peer && open.standing == Standing::Live && open.info.carrier != Carrier::Relay
        })
    }

    /// How far the path of a session reaches: on our own network if the peer was heard there.
    pub(super) fn class_of(&self, peer: PublicKey, info: &LinkInfo) -> Class {
        let is_heard_near = || {
            let paths = self.book.peer(peer).map_or(&[][..], |peer| &peer.paths);
            paths.iter().any(|path| path.state.class == Class::Lan)
        };
        match info.carrier {
            Carrier::Relay => Class::Relayed,
            Carrier::Net | Carrier::Ws | Carrier::Quic | Carrier::Tcp | Carrier::Unix if is_heard_near() => {
                Class::Lan
            }
            Carrier::Net | Carrier::Ws | Carrier::Quic | Carrier::Tcp | Carrier::Unix => Class::Direct,
        }
    }

    /// `conn.connect`: at once, whatever the back-off says.
    pub(super) fn on_connect(&mut self, address: &Address, reply: oneshot::Sender<Result<(), RemoteError>>) {
        let Some((peer, endpoint)) = peer_book::keyed(address) else {
            let _ = reply.send(Err(RemoteError::new("the address has no key: expected …~shs:KEY")));
            return;
        };
        if peer == self.ctx.own_key {
            let _ = reply.send(Err(RemoteError::new("that is this node's own key")));
            return;
        }
        self.hear(peer, endpoint, Source::Client);
        if self.sessions.values().any(|open| open.peer == peer && open.standing == Standing::Live) {
            let _ = reply.send(Ok(()));
            return;
        }
        self.dial(peer, endpoint.clone(), Some(reply));
    }

    pub(super) fn on_disconnect(&mut self, peer: PublicKey) -> bool {
        self.book.forget_wish(peer);
        self.close_sessions(peer)
    }

    pub(super) fn close_sessions(&mut self, peer: PublicKey) -> bool {
        let mut closed = false;
        for open in self.sessions.values_mut().filter(|open| open.peer == peer) {
            open.standing = Standing::Closing;
            open.session.close();
            closed = true;
        }
        closed
    }

    /// A session stands: the peer has proven its key.
    pub(super) fn on_connected(&mut self, connection: Connection, endpoint: Option<Endpoint>) {
        let session = connection.session.clone();
        let (peer, info) = (session.peer(), session.info().clone());
        let rights = self.access.rights(peer, &info);
        let id = SessionId(self.next_number());
        let now = clock::now();
        let local = is_local(&info) || peer == self.ctx.own_key;
        let span = session.span().clone();
        let _within = span.enter();
        if !is_local(&info) {
            tracing::info!(peer = %peer.short(), remote = %info.remote, direction = ?info.direction, "session opened");
            self.count_handshake(&info, "ok");
        }
        let standing = if local { Standing::Live } else { self.supersede(peer, &info, now) };
        if !local {
            let live =
                self.sessions.values().find(|open| open.peer == peer && open.standing == Standing::Live);
            let live = live.map_or(&info, |open| &open.info);
            let (direction, class) = (live.direction, self.class_of(peer, live));
            self.book.connected(peer, direction, class, endpoint.as_ref(), now);
            self.tell_change(Change::Connect, peer);
        }
        let replicates = !local && standing == Standing::Live;
        let negotiation = replicates.then(|| Negotiation::new(now, role(info.direction)));
        let seat = self.access.seat(&info, rights);
        let open = Open {
            session: session.clone(),
            peer,
            paths: Paths::new(&info, now),
            info,
            rights,
            endpoint,
            since: now,
            negotiation,
            standing,
            moved: standing != Standing::Live,
            early: None,
            ebt_retries: 0,
            counted: (0, 0),
            seat,
        };
        let outbound = open.info.direction == Direction::Outbound;
        self.sessions.insert(id, open);
        self.welcome(id);
        self.limit_draining(peer);
        self.start_session(id, rights, connection);
        self.on_transport_proven(id, now);
        if !local && standing != Standing::Closing {
            self.exchange_wants(id);
        }
        if standing == Standing::Closing {
            session.close();
        } else if replicates {
            self.advance_negotiation(id);
            self.recover_by_history(id);
            self.seek_direct(id);
            self.ask_certificate(id);
            if outbound {
                self.spawn_for(&session.clone(), api::keep_alive(session));
            }
        }
        self.sessions_changed(peer);
    }

    pub(super) fn on_closed(&mut self, id: SessionId, closed: &Closed) {
        let Some(open) = self.sessions.remove(&id) else { return };
        let span = open.session.span().clone();
        let _within = span.enter();
        let now = clock::now();
        if !is_local(&open.info) {
            let (peer, remote, reason) = (open.peer.short(), &open.info.remote, closed.label());
            tracing::info!(peer, remote, reason, "session closed");
        }
        self.ctx.metrics.connect.closed.with_label_values(&[closed.label()]).inc();
        self.count_session_bytes(traffic(&open.session), open.counted);
        self.end_replication(id, open.peer);
        self.end_wants(id);
        let local = is_local(&open.info) || open.peer == self.ctx.own_key;
        let is_live = |other: &&Open| other.peer == open.peer && other.standing == Standing::Live;
        let another = self.sessions.values().find(is_live).map(|other| other.info.clone());
        if !local && let Some(info) = another {
            let class = self.class_of(open.peer, &info);
            self.book.connected(open.peer, info.direction, class, None, now);
        } else if !local && !self.take_back(open.peer, now) {
            let at_once = !open.moved && now < open.since + AT_ONCE;
            self.book.ended(open.peer, open.endpoint.as_ref(), at_once, now);
            self.tell_change(Change::Disconnect, open.peer);
        }
        self.plan_dirty = true;
        self.sessions_changed(open.peer);
    }

    /// Everyone hears goodbye when the node stops.
    pub(super) async fn close_all(&mut self) {
        for open in self.sessions.values_mut() {
            open.standing = Standing::Closing;
            open.session.close();
        }
        let all_closed = async {
            while !self.sessions.is_empty() {
                let Some(done) = self.tasks.join_next().await else { return };
                self.on_task(done);
                self.drain_ebt();
            }
        };
        if tokio::time::timeout(GOODBYE, all_closed).await.is_err() {
            tracing::debug!("some sessions did not say goodbye in time");
        }
        self.save(self.dir.conn(), peer_book::encode(&self.book, wall(clock::now())).into_bytes());
        self.save_dht_nodes(clock::now());
        self.seal_graph(super::graph::SOME);
        // Closing the saver's queue lets it finish what is in it.
        let (nowhere, _) = tokio::sync::mpsc::channel(1);
        self.saver = nowhere;
        let files_saved = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GOODBYE, files_saved).await;
    }

    /// A session with `peer` began, ended or goes another way.
    pub(super) fn sessions_changed(&mut self, peer: PublicKey) {
        self.peers_dirty = true;
        if self.friends.contains(peer) {
            self.update_met(clock::now());
        }
    }

    pub(super) fn count_handshake(&self, link: &LinkInfo, outcome: &str) {
        let role = if link.direction == Direction::Outbound { "client" } else { "server" };
        let labels = [link.carrier.label(), role, outcome];
        self.ctx.metrics.connect.handshakes.with_label_values(&labels).inc();
    }

    /// Brings the byte counters up to date with what the sessions counted.
    pub(super) fn count_bytes(&mut self) {
        let mut deltas = Vec::new();
        for open in self.sessions.values_mut() {
            let traffic = traffic(&open.session);
            deltas.push((traffic, open.counted));
            open.counted = traffic;
        }
        for (traffic, counted) in deltas {
            self.count_session_bytes(traffic, counted);
        }
    }

    fn count_session_bytes(&self, (received, sent): (u64, u64), (before_in, before_out): (u64, u64)) {
        let bytes = &self.ctx.metrics.bytes;
        bytes.with_label_values(&["in"]).inc_by(received.saturating_sub(before_in));
        bytes.with_label_values(&["out"]).inc_by(sent.saturating_sub(before_out));
    }
}

/// Whether a link is a local client's.
pub(super) fn is_local(info: &LinkInfo) -> bool {
    info.carrier == Carrier::Unix
}

/// What would carry a session to `endpoint`.
pub(super) fn carrier_label(endpoint: &Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Net { .. } => Carrier::Net.label(),
        Endpoint::Unix(_) => Carrier::Unix.label(),
        Endpoint::Libp2p(_) if endpoint.is_relayed() => Carrier::Relay.label(),
        Endpoint::Libp2p(address) if address.contains("/quic") => Carrier::Quic.label(),
        Endpoint::Libp2p(_) => Carrier::Tcp.label(),
        Endpoint::Other(_) => "none",
    }
}

/// Bytes received and sent.
fn traffic(session: &Session) -> (u64, u64) {
    (session.traffic().bytes_in(), session.traffic().bytes_out())
}
