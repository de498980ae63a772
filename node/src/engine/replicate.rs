//! Steps 5 to 7 of the story: which feeds to replicate, from and to whom, and what happens to messages.
//! The EBT machine decides; here its outputs become streams, files and work for the store.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use hawsepipe_overlay::conn::{Direction, Stream};
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_replication::ebt::{self, Input, Output, Peer, PeerClock};
use hawsepipe_replication::graph::{Edge, GraphChange};
use hawsepipe_replication::history::{FetchInput, Mode, NegotiationInput};
use hawsepipe_replication::message::{Fork, InvalidMessage, Message, Unverified};
use hawsepipe_replication::refs::FeedId;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::handle::{EbtItem, Wish};
use super::outbox::Outbox;
use super::stream::{End, Id, Link, Shell};
use super::takeover::Standing;
use super::{Engine, GRAPH_PAUSE, Msg, SessionId};
use crate::context::log_end;
use crate::forks::Origin;
use crate::store::{Ingest, StoreEvent};
use crate::{clock, fork_guard};

/// Pause before EBT is called again.
const EBT_RETRY: Duration = Duration::from_secs(2);
/// Feeds that local clients can have replicated or not against the graph.
const MAX_REQUESTS: usize = 100_000;
/// A peer that keeps ending our stream is left to history streams after so many calls.
const MAX_EBT_RETRIES: u32 = 3;

impl Engine {
    /// Step 5: which feeds to replicate, nearest first, and whom we block.
    pub(super) fn update_wanted(&mut self) {
        let now = clock::now();
        self.graph_dirty = false;
        self.graph_at = now + GRAPH_PAUSE;
        let own = self.ctx.own;
        let moved = {
            let ctx = Arc::clone(&self.ctx);
            self.hops.refresh(&ctx.graph())
        };
        moved.into_keys().for_each(|feed| self.update_rank(feed));
        let blocked: BTreeSet<_> =
            self.ctx.graph().blocks_of(&own).map(|feed| PublicKey::from_bytes(feed.to_bytes())).collect();
        let reach = self.access.reach();
        let near = self.hops.all().iter().filter_map(|(feed, hops)| {
            let hops = u32::try_from(*hops).ok().filter(|hops| *hops <= reach)?;
            Some((PublicKey::from_bytes(feed.to_bytes()), hops))
        });
        self.access.set_graph(blocked, near);
        self.update_tiers(now);
        self.update_paces();
        self.tell_known();
        self.update_friends(now);
        self.scheduling.stale = true;
        self.plan_dirty = true;
        self.peers_dirty = true;
        self.ctx.metrics.messages.feeds_wanted.set(self.wanted.len() as i64);
    }

    /// Replicates a feed, or not, as local clients say or else the graph.
    fn update_rank(&mut self, feed: FeedId) {
        let near = self.hops.replicated(&feed);
        let rank = match self.requests.get(&feed) {
            Some(true) => Some(near.unwrap_or(self.policy.hops + 1)),
            Some(false) => None,
            None => near,
        };
        let before = match rank {
            Some(rank) => self.wanted.insert(feed, rank),
            None => self.wanted.remove(&feed),
        };
        if before == rank {
            return;
        }
        self.ebt.handle(clock::now(), Input::Replicate { feed, rank });
        if feed != self.ctx.own {
            self.tell_fetches(&FetchInput::Replicate { feed, rank });
        }
    }

    /// `ebt.request` and `ebt.forget`. Our own feed is always replicated.
    pub(super) fn on_request(&mut self, feed: FeedId, wish: Wish) {
        let is_new = !self.requests.contains_key(&feed);
        if feed == self.ctx.own || (is_new && self.requests.len() >= MAX_REQUESTS) {
            return;
        }
        self.requests.insert(feed, wish == Wish::Replicate);
        if wish == Wish::Forget {
            // There may be none.
            let _ = std::fs::remove_file(self.dir.ebt().join(ebt::clock_file_name(&Peer(feed))));
        }
        self.update_rank(feed);
        self.graph_dirty = true;
        self.graph_at = clock::now();
    }

    /// `ebt.block`.
    pub(super) fn on_block(&mut self, from: FeedId, to: Peer, on: bool) {
        self.ebt.handle(clock::now(), Input::Block { from, to, on });
        self.drain_ebt();
        if on && from == self.ctx.own {
            self.close_sessions(PublicKey::from_bytes(to.0.to_bytes()));
        }
    }

    /// Something of the graph was said.
    fn on_contacts(&mut self, contacts: &[Message]) {
        let now = clock::now();
        let graph = Arc::clone(&self.graph);
        let mut graph = graph.write().unwrap_or_else(PoisonError::into_inner);
        for message in contacts {
            let Some(change) = graph.apply(message) else { continue };
            self.graph_dirty = true;
            self.hops.note(&graph, &change);
            if let Some(block) = block_of(change) {
                self.ebt.handle(now, block);
            }
        }
        drop(graph);
        // What we say ourselves takes effect at once; what a sync brings, when there is time.
        if contacts.iter().any(|message| message.author() == self.ctx.own) && self.graph_dirty {
            self.graph_at = now;
        }
    }

    /// Makes a stream and tells the machine. `stream` is there if the peer called us.
    pub(super) fn open_ebt(&mut self, id: SessionId, stream: Option<Stream>) {
        let Some(open) = self.sessions.get(&id) else { return };
        let session = open.session.clone();
        let peer = Peer(FeedId::from_bytes(open.peer.to_bytes()));
        let number = self.next_number();
        let outbox = Arc::new(Outbox::default());
        let end = End::new();
        let link = Link { id: number, session: id, outbox: Arc::clone(&outbox), end: end.clone() };
        self.drop_older_fetches(id);
        self.replaced = self.streams.insert(peer, link);
        let role = if stream.is_some() { ebt::Role::Callee } else { ebt::Role::Caller };
        let label = if stream.is_some() { "callee" } else { "caller" };
        self.ctx.metrics.messages.streams.with_label_values(&["ebt", label]).inc();
        let clock = self.stored_clock(peer);
        self.ebt.handle(clock::now(), Input::Connected { peer, role, clock });
        self.drain_ebt();
        if let Some(replaced) = self.replaced.take() {
            replaced.end.now(Some(ebt::RECONNECTED));
        }
        let shell = Shell {
            id: Id { peer, stream: number },
            ctx: Arc::clone(&self.ctx),
            engine: self.msgs_tx.clone(),
            budget: Arc::clone(&self.budget),
            outbox,
            end,
        };
        match stream {
            Some(stream) => self.spawn_for(&session, shell.run(stream)),
            None => self.spawn_for(&session.clone(), shell.call(session)),
        }
    }

    /// The peer called `ebt.replicate`.
    pub(super) fn on_ebt_called(&mut self, id: SessionId, stream: Stream) {
        // On a session that is about to close it would only push out the stream of the one that stays.
        let Some(open) = self.sessions.get_mut(&id) else { return };
        match open.standing {
            Standing::Live => {
                self.negotiate(id, NegotiationInput::EbtCalled);
                self.open_ebt(id, Some(stream));
            }
            Standing::Draining(_) => {
                stream.set_lasting();
                open.early = Some(stream);
            }
            Standing::Closing => {}
        }
    }

    /// Whether EBT, which worked on this session, is called again in a moment. When both sides dialled, a JS
    /// peer ends the first of the two streams, and we close the session of the second.
    fn retry_ebt(&mut self, id: SessionId) -> bool {
        let Some(open) = self.sessions.get_mut(&id) else { return false };
        let worked = open.negotiation.as_ref().is_some_and(|negotiation| negotiation.mode() == Mode::Ebt);
        if !worked || open.info.direction != Direction::Outbound || open.ebt_retries >= MAX_EBT_RETRIES {
            return false;
        }
        open.ebt_retries += 1;
        let msgs = self.msgs_tx.clone();
        self.spawn(async move {
            tokio::time::sleep(EBT_RETRY).await;
            let _ = msgs.send(Msg::CallEbt { session: id }).await;
        });
        true
    }

    /// Calls `ebt.replicate` unless the peer has a stream by now.
    pub(super) fn call_ebt_again(&mut self, id: SessionId) {
        let Some(open) = self.sessions.get(&id) else { return };
        let peer = Peer(FeedId::from_bytes(open.peer.to_bytes()));
        if open.standing == Standing::Live && !self.streams.contains_key(&peer) {
            self.open_ebt(id, None);
        }
    }

    /// What the peer was known to have when we last met; nothing if that cannot be read.
    fn stored_clock(&self, peer: Peer) -> PeerClock {
        let path = self.dir.ebt().join(ebt::clock_file_name(&peer));
        let Ok(text) = std::fs::read(&path) else { return PeerClock::default() };
        PeerClock::from_json(&text).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "a stored clock is damaged; starting anew");
            PeerClock::default()
        })
    }

    pub(super) fn on_ebt_items(
        &mut self,
        peer: Peer,
        stream: u64,
        items: Vec<EbtItem>,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        if self.streams.get(&peer).is_none_or(|link| link.id != stream) {
            return;
        }
        let now = clock::now();
        if let Some(session) = self.streams.get(&peer).map(|link| link.session) {
            self.negotiate(session, NegotiationInput::EbtAnswered);
        }
        let mut accepted = Vec::new();
        let mut received = 0;
        for item in items {
            match item {
                EbtItem::Notes(notes) => {
                    self.hear_of_own(peer.0, &notes);
                    self.ebt.handle(now, Input::Notes { peer, notes });
                    self.drain_ebt();
                }
                EbtItem::Message(message) => {
                    received += 1;
                    let (feed, sequence) = (message.author(), message.sequence());
                    if feed == self.ctx.own {
                        self.tell_guard(fork_guard::Input::Claimed { peer: peer.0, sequence });
                    }
                    self.ebt.handle(now, Input::Received { peer, feed, sequence });
                    if self.drain_ebt() {
                        accepted.push(message);
                    }
                }
                EbtItem::Bad { feed, sequence, why } => {
                    received += 1;
                    self.ebt.handle(now, Input::Received { peer, feed, sequence });
                    if self.drain_ebt() {
                        self.on_rejected(peer.0, feed, sequence, why);
                    }
                }
            }
        }
        self.ctx.metrics.messages.received.with_label_values(&["ebt"]).inc_by(received);
        self.ingest(peer.0, accepted, permit);
    }

    pub(super) fn ingest(
        &mut self,
        from: FeedId,
        messages: Vec<Unverified>,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        if !messages.is_empty() {
            self.on_news(from, clock::now());
            self.ingest.push_back(Ingest { from, messages, permit });
            self.flush_ingest();
        }
    }

    /// Hands to the store what it takes now; the rest waits. The permits bound how much that can be.
    pub(super) fn flush_ingest(&mut self) {
        while let Some(next) = self.ingest.pop_front() {
            if let Err(back) = self.ctx.store.try_ingest(next) {
                self.ingest.push_front(back);
                return;
            }
        }
    }

    pub(super) fn on_ebt_ended(&mut self, peer: Peer, stream: u64, failed: bool) {
        let Some(link) = self.streams.get(&peer).filter(|link| link.id == stream) else { return };
        let session = link.session;
        self.streams.remove(&peer);
        self.ebt.handle(clock::now(), Input::Disconnected { peer });
        self.drain_ebt();
        if failed && !self.retry_ebt(session) {
            self.negotiate(session, NegotiationInput::EbtFailed);
        }
    }

    /// The session is gone, and with it its streams.
    pub(super) fn end_replication(&mut self, id: SessionId, peer: PublicKey) {
        self.end_fetch(id);
        let peer = Peer(FeedId::from_bytes(peer.to_bytes()));
        if let Some(link) = self.streams.get(&peer).filter(|link| link.session == id) {
            link.end.now(None);
            self.on_ebt_ended(peer, link.id, false);
        }
    }

    /// Does what the machine wants; tells whether the message just received is worth storing.
    pub(super) fn drain_ebt(&mut self) -> bool {
        let mut accepted = false;
        while let Some(output) = self.ebt.poll_output() {
            match output {
                Output::SendNotes { peer, notes } => self.with_outbox(peer, |outbox| outbox.notes(notes)),
                Output::Send { peer, feed, from, to } => {
                    self.with_outbox(peer, |outbox| outbox.send(feed, from, to))
                }
                Output::CancelSend { peer, feed } => self.with_outbox(peer, |outbox| outbox.cancel(feed)),
                Output::Accept { .. } => accepted = true,
                Output::EndStream { peer, error } => self.end_stream(peer, error),
                Output::ClockChanged { peer } => self.save_clock(peer),
            }
        }
        accepted
    }

    fn with_outbox(&self, peer: Peer, put: impl FnOnce(&Outbox)) {
        if let Some(link) = self.streams.get(&peer) {
            put(&link.outbox);
        }
    }

    fn end_stream(&mut self, peer: Peer, error: Option<&'static str>) {
        // While a newer stream of the same peer opens, the machine means the older one.
        let link = self.replaced.take().or_else(|| self.streams.remove(&peer));
        if let Some(link) = link {
            link.end.now(error);
        }
    }

    fn save_clock(&self, peer: Peer) {
        let Some(clock) = self.ebt.clock(&peer) else { return };
        self.save(self.dir.ebt().join(ebt::clock_file_name(&peer)), clock.to_json().into_bytes());
    }

    pub(super) fn on_store_events(&mut self, first: StoreEvent, queue: &mut mpsc::Receiver<StoreEvent>) {
        self.on_store_event(first);
        for _ in 1..super::BUDGET {
            let Ok(event) = queue.try_recv() else { break };
            self.on_store_event(event);
        }
        let (reader, messages) = (&self.ctx.reader, &self.ctx.metrics.messages);
        messages.stored.set(reader.len() as i64);
        messages.feeds_known.set(reader.feeds() as i64);
        messages.log_bytes.set(reader.bytes() as i64);
    }

    fn on_store_event(&mut self, event: StoreEvent) {
        match event {
            StoreEvent::Committed { heads, contacts, links, count, newest, local } => {
                let from = if local { "local" } else { "peer" };
                self.ctx.metrics.messages.stored_total.with_label_values(&[from]).inc_by(count as u64);
                self.ctx.tail.advance(log_end(&self.ctx.reader), &heads);
                let now = clock::now();
                for (feed, sequence) in heads {
                    if feed == self.ctx.own {
                        self.own_grew(sequence);
                    }
                    self.ebt.handle(now, Input::Appended { feed, sequence });
                    self.serve_appended(feed, sequence);
                    self.tell_fetches(&FetchInput::Appended { feed, sequence });
                }
                self.on_contacts(&contacts);
                if let Some(look) = self.on_linked(&links) {
                    self.spawn(look);
                }
                if let Some(seal) = &mut self.graph_seal {
                    seal.grew(newest, contacts.len());
                }
                self.drain_ebt();
            }
            StoreEvent::Rejected { from, feed, sequence, why } => self.on_rejected(from, feed, sequence, why),
            StoreEvent::Forked { from, fork } => self.on_forked(from, *fork),
            StoreEvent::Failed { error, lost } => {
                tracing::error!(
                    error,
                    "messages could not be stored; is the disk full? Peers will be asked again"
                );
                for (from, feed) in lost {
                    self.ebt.handle(clock::now(), Input::Rejected { peer: Peer(from), feed, fatal: false });
                    self.drain_ebt();
                    self.reject_fetched(from, feed, false);
                }
            }
        }
    }

    /// A peer's message is refused: reported once, and that feed is not taken from that peer any more.
    pub(super) fn on_rejected(&mut self, from: FeedId, feed: FeedId, sequence: u64, why: InvalidMessage) {
        self.ctx.metrics.messages.rejected.with_label_values(&[why.label()]).inc();
        if why.is_fatal() {
            tracing::warn!(peer = ?from, %feed, sequence, %why, "refused a message; the feed stops there for this peer");
        }
        let fatal = why.is_fatal();
        self.ebt.handle(clock::now(), Input::Rejected { peer: Peer(from), feed, fatal });
        self.drain_ebt();
        self.reject_fetched(from, feed, fatal);
    }

    /// A feed is forked. What we hold of it stays; the proof is kept.
    fn on_forked(&self, from: FeedId, fork: Fork) {
        let (feed, sequence) = (fork.feed(), fork.refused().sequence());
        let origin = Origin { from, seen: clock::unix_millis() as f64 };
        if let Some((path, text)) = self.ctx.forks.add(origin, fork) {
            tracing::warn!(%feed, sequence, peer = ?from, "the feed is forked; see `hawsepipe forks`");
            self.save(path, text);
            self.ctx.metrics.messages.forked.set(self.ctx.forks.len() as i64);
        }
    }
}

/// What the machine needs to know of a change in the graph.
fn block_of(change: GraphChange) -> Option<Input> {
    let on = change.after == Edge::Block;
    let input = Input::Block { from: change.source, to: Peer(change.dest), on };
    (on != (change.before == Some(Edge::Block))).then_some(input)
}
