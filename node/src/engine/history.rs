//! Replication with peers that lack EBT: asking them for feeds by `createHistoryStream`, and deciding per
//! session which of the two it is. The machines decide; this is their shell.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use hawsepipe_overlay::conn::{Session, Stream};
use hawsepipe_overlay::muxrpc::{Body, CallKind};
use hawsepipe_replication::history::{
    FetchInput, FetchOutput, HistoryFetch, NegotiationInput, NegotiationOutput, history_request,
};
use hawsepipe_replication::message::{InvalidMessage, Unverified};
use hawsepipe_replication::refs::FeedId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::stream::{READ_BATCH, permit};
use super::takeover::Standing;
use super::{Engine, Msg, SessionId};
use crate::clock;
use crate::fork_guard::Input;

/// What one session fetches by history streams.
#[derive(Debug)]
pub(super) struct Fetch {
    machine: HistoryFetch,
    /// Beside EBT, to recover our own feed: no other feed is asked for.
    only_own: bool,
    /// The peer sent something of our own feed.
    has_own: bool,
    /// Dropping a guard ends its stream.
    streams: BTreeMap<FeedId, (u64, DropGuard)>,
}

/// Sessions with strangers over which feeds are asked for by history streams at a time: each costs memory for every wanted
/// feed, and all of them have the same to offer. The others wait until one of these ends.
const MAX_FETCHES: usize = 64;

impl Engine {
    /// Does what the negotiation of a session wants.
    pub(super) fn advance_negotiation(&mut self, id: SessionId) {
        let next = |engine: &mut Self| engine.sessions.get_mut(&id)?.negotiation.as_mut()?.poll_output();
        while let Some(output) = next(self) {
            match output {
                NegotiationOutput::CallEbt => self.open_ebt(id, None),
                NegotiationOutput::StartHistory => self.start_fetch(id),
                NegotiationOutput::StopHistory => {
                    self.end_fetch(id);
                    // What was asked of our own feed went with it.
                    self.recover_by_history(id);
                }
            }
        }
    }

    pub(super) fn negotiate(&mut self, id: SessionId, input: NegotiationInput) {
        if let Some(negotiation) = self.sessions.get_mut(&id).and_then(|open| open.negotiation.as_mut()) {
            negotiation.handle(input);
            self.advance_negotiation(id);
        }
    }

    /// Deadlines of negotiations and of fetches.
    pub(super) fn history_timers(&mut self, now: Instant) {
        let due: Vec<_> =
            self.sessions.iter().filter(|(_, open)| open.is_due(now)).map(|(id, _)| *id).collect();
        for id in due {
            if let Some(negotiation) = self.sessions.get_mut(&id).and_then(|open| open.negotiation.as_mut()) {
                negotiation.handle_timeout(now);
            }
            self.advance_negotiation(id);
        }
        let due: Vec<_> =
            self.fetches.iter().filter(|(_, fetch)| fetch.is_due(now)).map(|(id, _)| *id).collect();
        for id in due {
            if let Some(fetch) = self.fetches.get_mut(&id) {
                fetch.machine.handle_timeout(now);
            }
            self.drain_fetch(id);
        }
    }

    /// When the next of these deadlines is.
    pub(super) fn history_timeout(&self) -> Option<Instant> {
        let negotiations =
            self.sessions.values().filter_map(|open| open.negotiation.as_ref()?.poll_timeout());
        let fetches = self.fetches.values().filter_map(|fetch| fetch.machine.poll_timeout());
        negotiations.chain(fetches).min()
    }

    /// No feeds are asked for over this session any more.
    pub(super) fn end_fetch(&mut self, id: SessionId) {
        self.fetches.remove(&id);
        self.waiting_fetches.remove(&id);
    }

    /// Lets sessions begin that wait for others to end.
    pub(super) fn start_waiting_fetches(&mut self) {
        while self.fetches.len() < MAX_FETCHES
            && let Some(id) = self.waiting_fetches.pop_first()
        {
            if self.sessions.get(&id).is_some_and(super::Open::replicates) {
                self.start_fetch(id);
            }
        }
    }

    fn start_fetch(&mut self, id: SessionId) {
        let recovering = self.is_recovering();
        let own = self.ctx.own;
        self.drop_older_fetches(id);
        let Some(open) = self.sessions.get(&id) else { return };
        if self.fetches.len() >= MAX_FETCHES && !self.is_member(open.peer) {
            self.waiting_fetches.insert(id);
            return;
        }
        let peer = FeedId::from_bytes(open.peer.to_bytes());
        let wanted = self.wanted.iter().filter(|(feed, _)| recovering || **feed != own);
        let mut wanted: Vec<_> = wanted.map(|(feed, rank)| (*feed, *rank)).collect();
        // Streams that stay open are few and given in this order: what the peer itself writes comes first,
        // then what is near.
        wanted.sort_by_key(|(feed, rank)| (*feed != peer, *rank));
        self.fetch(id, wanted);
    }

    /// Replication with the peer of this session goes on over it, so other sessions with the same peer need
    /// not ask any more.
    pub(super) fn drop_older_fetches(&mut self, id: SessionId) {
        let Some(peer) = self.sessions.get(&id).map(|open| open.peer) else { return };
        let sessions = &self.sessions;
        let is_older =
            |other: &SessionId| *other != id && sessions.get(other).is_some_and(|o| o.peer == peer);
        self.fetches.retain(|other, _| !is_older(other));
    }

    /// Asks for our own feed by a history stream, beside EBT: a JS peer that remembers how much we once held
    /// does not push it to us by EBT.
    pub(super) fn recover_by_history(&mut self, id: SessionId) {
        if self.is_recovering() && !self.fetches.contains_key(&id) {
            self.fetch(id, vec![(self.ctx.own, 0)]);
            if let Some(fetch) = self.fetches.get_mut(&id) {
                fetch.only_own = true;
            }
        }
    }

    /// Our own feed is not asked for beside EBT any more.
    pub(super) fn drop_recoveries(&mut self) {
        self.fetches.retain(|_, fetch| !fetch.only_own);
    }

    fn fetch(&mut self, id: SessionId, wanted: Vec<(FeedId, u32)>) {
        let now = clock::now();
        let have = |feed: &FeedId| self.ctx.reader.tip(feed).map_or(0, |tip| tip.sequence);
        let mut machine = HistoryFetch::new(now, self.ctx.own, have(&self.ctx.own));
        for (feed, rank) in wanted {
            machine.handle(now, FetchInput::Appended { feed, sequence: have(&feed) });
            machine.handle(now, FetchInput::Replicate { feed, rank: Some(rank) });
        }
        self.ctx.metrics.messages.streams.with_label_values(&["history", "caller"]).inc();
        let fetch = Fetch { machine, only_own: false, has_own: false, streams: BTreeMap::new() };
        self.fetches.insert(id, fetch);
        self.drain_fetch(id);
    }

    /// Tells every fetch what `input` says.
    pub(super) fn tell_fetches(&mut self, input: &FetchInput) {
        let now = clock::now();
        let own = self.ctx.own;
        let is_other =
            |input: &FetchInput| matches!(input, FetchInput::Replicate { feed, .. } if *feed != own);
        let is_meant = |fetch: &Fetch| !fetch.only_own || !is_other(input);
        let meant = self.fetches.iter().filter(|(_, fetch)| is_meant(fetch));
        let ids: Vec<_> = meant.map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(fetch) = self.fetches.get_mut(&id) {
                fetch.machine.handle(now, input.clone());
            }
            self.drain_fetch(id);
        }
    }

    /// A message of `from` was refused: its history streams of that feed hear of it.
    pub(super) fn reject_fetched(&mut self, from: FeedId, feed: FeedId, fatal: bool) {
        let is_from = |id: &&SessionId| {
            self.sessions.get(id).is_some_and(|open| open.peer.to_bytes() == from.to_bytes())
        };
        let ids: Vec<_> = self.fetches.keys().filter(is_from).copied().collect();
        for id in ids {
            if let Some(fetch) = self.fetches.get_mut(&id) {
                fetch.machine.handle(clock::now(), FetchInput::Rejected { feed, fatal });
            }
            self.drain_fetch(id);
        }
    }

    /// Messages of a history stream arrived.
    pub(super) fn on_history_items(
        &mut self,
        stream: HistoryStream,
        messages: Vec<Result<Unverified, InvalidMessage>>,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let HistoryStream { session, feed, number } = stream;
        let Some(open) = self.sessions.get(&session) else { return };
        let from = FeedId::from_bytes(open.peer.to_bytes());
        self.ctx.metrics.messages.received.with_label_values(&["history"]).inc_by(messages.len() as u64);
        let mut accepted = Vec::new();
        for message in messages {
            let is_current = |fetch: &&mut Fetch| fetch.streams.get(&feed).is_some_and(|(n, _)| *n == number);
            if self.fetches.get_mut(&session).filter(is_current).is_none() {
                return;
            }
            match message {
                Ok(message) if message.author() == feed => {
                    if feed == self.ctx.own {
                        self.tell_guard(Input::Claimed { peer: from, sequence: message.sequence() });
                    }
                    let Some(fetch) = self.fetches.get_mut(&session) else { return };
                    fetch.has_own |= feed == self.ctx.own;
                    let received = FetchInput::Received { feed, sequence: message.sequence() };
                    fetch.machine.handle(clock::now(), received);
                    if self.drain_fetch(session) {
                        accepted.push(message);
                    }
                }
                // Of another author: the peer answered something that was not asked.
                Ok(_) => self.ctx.metrics.messages.rejected.with_label_values(&["not_asked"]).inc(),
                Err(why) => self.on_rejected(from, feed, 0, why),
            }
        }
        self.ingest(from, accepted, permit);
    }

    pub(super) fn on_history_ended(&mut self, stream: HistoryStream, complete: bool) {
        let HistoryStream { session, feed, number } = stream;
        let current = self.fetches.get(&session).and_then(|fetch| fetch.streams.get(&feed));
        // An end that overtook its own replacement says nothing of what the peer holds.
        if complete
            && current.is_some_and(|(current, _)| *current == number)
            && feed == self.ctx.own
            && let Some(open) = self.sessions.get(&session)
        {
            let peer = FeedId::from_bytes(open.peer.to_bytes());
            let knows = self.fetches.get(&session).is_some_and(|fetch| fetch.has_own);
            self.tell_guard(Input::Asked { peer, knows });
        }
        let Some(fetch) = self.fetches.get_mut(&session) else { return };
        if fetch.streams.get(&feed).is_some_and(|(current, _)| *current == number) {
            fetch.streams.remove(&feed);
            fetch.machine.handle(clock::now(), FetchInput::Ended { feed });
            self.drain_fetch(session);
        }
    }

    /// Does what a fetch wants; tells whether the message just received is worth storing.
    fn drain_fetch(&mut self, id: SessionId) -> bool {
        let mut accepted = false;
        let next = |engine: &mut Self| engine.fetches.get_mut(&id)?.machine.poll_output();
        while let Some(output) = next(self) {
            match output {
                FetchOutput::Call { feed, have, live } => self.call_history(id, feed, have, live),
                FetchOutput::Close { feed } => {
                    if let Some(fetch) = self.fetches.get_mut(&id) {
                        fetch.streams.remove(&feed);
                    }
                }
                FetchOutput::Accept { .. } => accepted = true,
            }
        }
        accepted
    }

    fn call_history(&mut self, session: SessionId, feed: FeedId, have: u64, live: bool) {
        let number = self.next_number();
        let end = CancellationToken::new();
        let Some(fetch) = self.fetches.get_mut(&session) else { return };
        fetch.streams.insert(feed, (number, end.clone().drop_guard()));
        let Some(open) = self.sessions.get(&session) else { return };
        // Of our own feed from one earlier, to see whether the peer has any of it.
        let from = if feed == self.ctx.own { have.saturating_sub(1) } else { have };
        let reader = Reader {
            stream: HistoryStream { session, feed, number },
            session: open.session.clone(),
            request: history_request(&feed, from, live),
            engine: self.msgs_tx.clone(),
            budget: Arc::clone(&self.budget),
        };
        self.spawn_for(&reader.session.clone(), async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = reader.run() => {}
            }
        });
    }
}

impl super::Open {
    /// Whether messages pass over this session, or will.
    pub(super) fn replicates(&self) -> bool {
        self.negotiation.is_some() && self.standing == Standing::Live
    }

    fn is_due(&self, now: Instant) -> bool {
        let timeout = self.negotiation.as_ref().and_then(|negotiation| negotiation.poll_timeout());
        timeout.is_some_and(|at| at <= now)
    }
}

impl Fetch {
    fn is_due(&self, now: Instant) -> bool {
        self.machine.poll_timeout().is_some_and(|at| at <= now)
    }
}

/// Which of our calls of `createHistoryStream`.
#[derive(Clone, Copy, Debug)]
pub struct HistoryStream {
    /// Over which session.
    pub session: SessionId,
    /// Of which feed.
    pub feed: FeedId,
    /// Tells it from earlier calls for the same feed.
    pub number: u64,
}

/// The task of one such call.
struct Reader {
    stream: HistoryStream,
    session: Session,
    request: String,
    engine: mpsc::Sender<Msg>,
    budget: Arc<Semaphore>,
}

impl Reader {
    async fn run(self) {
        let complete = self.read().await;
        let _ = self.engine.send(Msg::HistoryEnded { stream: self.stream, complete }).await;
    }

    /// Reads to the end; tells whether the peer ended it of its own accord.
    async fn read(&self) -> bool {
        let args = serde_json::from_str(&self.request).expect("our own requests are JSON");
        let opened = self.session.open(CallKind::Source, &["createHistoryStream"], args).await;
        let Ok(Stream { tx: _tx, mut rx }) = opened else { return false };
        let mut bodies: Vec<Body> = Vec::new();
        loop {
            match rx.recv_batch(READ_BATCH, &mut bodies).await {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(feed = ?self.stream.feed, %error, "a history stream failed");
                    return false;
                }
            }
            let bytes = bodies.iter().map(|body| body.bytes.len()).sum();
            let permit = permit(&self.budget, bytes).await;
            let messages = bodies.drain(..).map(|body| Unverified::parse(&body.bytes)).collect();
            if self.engine.send(Msg::History { stream: self.stream, messages, permit }).await.is_err() {
                return false;
            }
        }
    }
}
