//! The engine: the one event loop that owns the clock and turns what the machines want into effects.
//!
//! It owns the peer book, the graph, the EBT machine and the table of sessions. Everything else runs in
//! tasks that it holds in one `JoinSet` and that talk to it over one bounded queue. Its handlers never
//! wait: what takes time (a dial, a stream, a file) is handed to a task, what must not be lost (messages
//! on their way to the store) is kept until the store takes it and is bounded by permits.

mod blobs;
mod certificate;
mod conn;
mod connect;
mod graph;
mod guard;
mod handle;
mod history;
mod known;
mod moves;
mod outbox;
mod peers;
mod pubs;
mod reach;
mod rendezvous;
mod replicate;
mod schedule;
mod serve;
mod stream;
mod takeover;
mod tiers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use hawsepipe_overlay::address::Endpoint;
use hawsepipe_overlay::conn::{Closed, Connection, LinkInfo, Session, Stream};
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::reachability::Report;
use hawsepipe_overlay::{CounterSnapshot, Event, Events};
use hawsepipe_replication::ebt;
use hawsepipe_replication::graph::{Graph, Hops};
use hawsepipe_replication::history::{HistoryServer, Negotiation, NegotiationInput, StreamId};
use hawsepipe_replication::refs::FeedId;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::authorize::{Access, Rights, Seat};
use crate::clock;
use crate::context::Context;
use crate::continuity::Keeper;
use crate::datadir::DataDir;
use crate::fork_guard::ForkGuard;
use crate::peer_book::PeerBook;
use crate::scheduler::Policy;
use crate::session;
use crate::store::{Ingest, StoreEvent};

pub use blobs::{BlobMsg, Told};
pub use conn::{Ask, Lists, Watched};
pub use handle::{EngineHandle, Msg, Status, Wish};
pub use serve::Ticket;
use takeover::Standing;

/// Messages from tasks and handlers that may wait for the engine.
pub const QUEUE: usize = 1024;
/// Bytes of peers' messages that may be on their way to the store, all sessions together.
/// A few batches: more would only wait in memory, several times as large.
const INGEST_BUDGET: usize = 8 << 20;
/// The graph is worked out again at most this often while peers owe us messages: a first sync brings contacts by the
/// thousand …
const GRAPH_PAUSE: Duration = Duration::from_millis(250);
/// … and so often else: what is to be asked for next may follow from it.
const GRAPH_PAUSE_AT_REST: Duration = Duration::from_millis(10);
/// The peer book is saved at most this often.
const SAVE_PAUSE: Duration = Duration::from_secs(1);
/// The list of peers that people see is renewed at most this often.
const PEERS_PAUSE: Duration = Duration::from_millis(200);
/// And so much later for each of them.
const PEERS_PAUSE_EACH: Duration = Duration::from_micros(200);
/// Events taken in one go before the loop looks at everything else again.
const BUDGET: usize = 64;

/// Names one session while it lasts; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

/// What the engine starts with.
#[derive(Debug)]
pub struct Parts {
    /// Shared with the API.
    pub ctx: Arc<Context>,
    /// Who may do what.
    pub access: Arc<Access>,
    /// Where things are kept.
    pub dir: DataDir,
    /// From tasks and handlers.
    pub msgs: mpsc::Receiver<Msg>,
    /// The same queue's other end, for tasks.
    pub msgs_tx: mpsc::Sender<Msg>,
    /// From the store's thread.
    pub store: mpsc::Receiver<StoreEvent>,
    /// From the overlay.
    pub overlay: Events,
    /// What people see of known peers.
    pub lists: Lists,
    /// Whether messages may be published.
    pub guard: ForkGuard,
    /// The record of our feed, if nothing is in doubt.
    pub keeper: Option<Keeper>,
}

/// See the module's header.
#[derive(Debug)]
pub struct Engine {
    ctx: Arc<Context>,
    access: Arc<Access>,
    dir: DataDir,
    policy: Policy,
    msgs_tx: mpsc::Sender<Msg>,
    lists: Lists,
    book: PeerBook,
    ebt: ebt::State,
    graph: Arc<RwLock<Graph>>,
    wanted: BTreeMap<FeedId, u32>,
    /// How far away feeds are.
    hops: Hops,
    /// What local clients want replicated or not, whatever the graph says.
    requests: BTreeMap<FeedId, bool>,
    sessions: BTreeMap<SessionId, Open>,
    streams: BTreeMap<ebt::Peer, stream::Link>,
    replaced: Option<stream::Link>,
    fetches: BTreeMap<SessionId, history::Fetch>,
    waiting_fetches: BTreeSet<SessionId>,
    server: HistoryServer,
    blobs: blobs::State,
    serving: BTreeMap<StreamId, Arc<outbox::Outbox>>,
    over: Arc<serve::Over>,
    next_number: u64,
    ingest: VecDeque<Ingest>,
    budget: Arc<Semaphore>,
    tasks: JoinSet<Done>,
    /// Peers whose session is being moved, and where to try next.
    moving: BTreeMap<PublicKey, Option<Endpoint>>,
    drain_at: Option<Instant>,
    tiers: tiers::Tiers,
    friends: rendezvous::Friends,
    known: known::Known,
    pubs: pubs::Pubs,
    dht_saved: rendezvous::Saved,
    report: Report,
    /// What was already added to our own counters.
    counted: CounterSnapshot,
    saver: mpsc::Sender<(PathBuf, Vec<u8>)>,
    /// Nothing while the graph is not known whole: then it is not to be saved.
    graph_seal: Option<graph::GraphSeal>,
    guard: guard::Guard,
    graph_dirty: bool,
    graph_at: Instant,
    scheduling: schedule::Scheduling,
    plan_dirty: bool,
    plan_at: Option<Instant>,
    saved_at: Instant,
    peers_dirty: bool,
    peers_at: Instant,
}

/// An open session.
#[derive(Debug)]
struct Open {
    session: Session,
    peer: PublicKey,
    info: LinkInfo,
    rights: Rights,
    endpoint: Option<Endpoint>,
    since: Instant,
    negotiation: Option<Negotiation>,
    standing: Standing,
    /// It was replaced by another session with the same peer: its end says nothing about the path.
    moved: bool,
    /// The peer's call of `ebt.replicate` that came while the session drained: the peer took it back first.
    early: Option<Stream>,
    /// How often EBT was called again because the peer had ended our stream for another one.
    ebt_retries: u32,
    counted: (u64, u64),
    /// The paths that it went.
    paths: moves::Paths,
    seat: Seat,
}

/// How a task of the engine ended.
#[derive(Debug)]
enum Done {
    Session(SessionId, Closed),
    Other,
}

impl Engine {
    /// Everything in place, nothing running.
    pub fn new(parts: Parts) -> (Self, Inlets) {
        let now = clock::now();
        let (saver, saves) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        tasks.spawn(save_files(saves));
        let own = parts.ctx.own;
        let blobs = blobs::State::new(&parts.ctx.config.blobs);
        let policy = schedule::policy(&parts.ctx.config.conn, parts.ctx.config.hops);
        let hops = Hops::new(own, policy.hops, parts.ctx.config.blocks);
        let engine = Self {
            graph: Arc::clone(&parts.ctx.shared_graph),
            ctx: parts.ctx,
            access: parts.access,
            dir: parts.dir,
            policy,
            msgs_tx: parts.msgs_tx,
            lists: parts.lists,
            book: PeerBook::default(),
            ebt: ebt::State::new(own),
            wanted: BTreeMap::new(),
            hops,
            requests: BTreeMap::new(),
            sessions: BTreeMap::new(),
            streams: BTreeMap::new(),
            replaced: None,
            fetches: BTreeMap::new(),
            waiting_fetches: BTreeSet::new(),
            server: HistoryServer::new(),
            blobs,
            serving: BTreeMap::new(),
            over: Arc::default(),
            next_number: 0,
            ingest: VecDeque::new(),
            budget: Arc::new(Semaphore::new(INGEST_BUDGET)),
            tasks,
            moving: BTreeMap::new(),
            drain_at: None,
            tiers: tiers::Tiers::default(),
            friends: rendezvous::Friends::default(),
            known: known::Known::default(),
            pubs: pubs::Pubs::default(),
            dht_saved: rendezvous::Saved { dirty: false, at: now },
            report: Report::default(),
            counted: CounterSnapshot::default(),
            saver,
            graph_seal: None,
            guard: guard::Guard::new(parts.guard, parts.keeper),
            graph_dirty: true,
            graph_at: now,
            scheduling: schedule::Scheduling::new(now),
            plan_dirty: true,
            plan_at: None,
            saved_at: now,
            peers_dirty: true,
            peers_at: now,
        };
        (engine, Inlets { msgs: parts.msgs, store: parts.store, overlay: parts.overlay })
    }

    /// Runs until `stop`; then closes every session.
    pub async fn run(mut self, mut inlets: Inlets, stop: CancellationToken) {
        self.load().await;
        loop {
            self.settle();
            let wake = self.wake_at().map(tokio::time::Instant::from_std);
            let timer = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(event) = inlets.store.recv() => self.on_store_events(event, &mut inlets.store),
                () = timer => self.on_timer(),
                Some(done) = self.tasks.join_next() => self.on_task(done),
                Some(msg) = inlets.msgs.recv() => self.on_msgs(msg, &mut inlets.msgs),
                Some(event) = inlets.overlay.next() => self.on_overlay_events(event, &mut inlets.overlay),
                else => break,
            }
        }
        self.close_all().await;
    }

    /// The machines' state from the store and from files of earlier runs.
    async fn load(&mut self) {
        self.load_graph().await;
        let reader = self.ctx.reader.clone();
        let now = clock::now();
        for (feed, sequence) in self.ctx.read(move || reader.clock_by_growth()).await {
            self.ebt.handle(now, ebt::Input::Appended { feed, sequence });
        }
        self.settle_guard(now);
        self.update_wanted();
        self.load_peers();
        self.load_blobs().await;
        self.on_reachability();
    }

    /// What follows from the last input, once for many.
    fn settle(&mut self) {
        let now = clock::now();
        self.settle_guard(now);
        self.drain_ebt();
        self.flush_ingest();
        self.start_waiting_fetches();
        self.sweep_served();
        if self.drain_at.is_some_and(|at| at <= now) {
            self.drain(now);
        }
        self.tell_tiers(now);
        if self.graph_due().is_some_and(|at| at <= now) {
            self.update_wanted();
            self.drain_ebt();
        }
        self.tell_friends(now);
        self.keep_dht_nodes(now);
        self.seal_graph(graph::MANY);
        if self.plan_due().is_some_and(|at| at <= now) {
            self.make_plan(now);
        }
        if self.peers_dirty && now >= self.peers_at {
            self.peers_at = now + PEERS_PAUSE + PEERS_PAUSE_EACH * count(self.sessions.len());
            self.publish_peers();
        }
        if now >= self.saved_at + SAVE_PAUSE && self.book.take_changed() {
            self.saved_at = now;
            let text = crate::peer_book::encode(&self.book, schedule::wall(now));
            self.save(self.dir.conn(), text.into_bytes());
        }
    }

    /// When the graph is to be worked out again, if anything of it has changed.
    fn graph_due(&self) -> Option<Instant> {
        self.graph_dirty.then(|| {
            let nothing_on_its_way = self.budget.available_permits() == INGEST_BUDGET;
            let rests = self.fetches.is_empty() && !self.ebt.is_owed() && nothing_on_its_way;
            let early = if rests { GRAPH_PAUSE - GRAPH_PAUSE_AT_REST } else { Duration::ZERO };
            self.graph_at.checked_sub(early).unwrap_or(self.graph_at)
        })
    }

    fn wake_at(&self) -> Option<Instant> {
        let graph = self.graph_due();
        let save = Some(self.saved_at + SAVE_PAUSE.max(Duration::from_secs(5)));
        let retry = (!self.ingest.is_empty()).then(|| clock::now() + Duration::from_millis(5));
        let peers = self.peers_dirty.then_some(self.peers_at);
        let machines = [self.plan_due(), self.ebt.poll_timeout(), self.history_timeout()];
        let machines = machines.into_iter().chain([
            self.drain_at,
            self.blobs.poll_timeout(),
            self.tiers.poll_timeout(),
            self.friends.poll_timeout(),
            self.guard.poll_timeout(),
        ]);
        [graph, peers, save, retry].into_iter().chain(machines).flatten().min()
    }

    fn on_timer(&mut self) {
        let now = clock::now();
        if self.ebt.poll_timeout().is_some_and(|at| at <= now) {
            self.ebt.handle_timeout(now);
        }
        self.history_timers(now);
        self.blob_timers(now);
        if now >= self.saved_at + SAVE_PAUSE.max(Duration::from_secs(5)) {
            self.saved_at = now;
            self.count_bytes();
            self.update_tiers(now);
            self.tell_known();
            self.count_overlay();
            let private = self.ctx.private.behind(&self.ctx.reader);
            self.ctx.metrics.messages.private_lag.set(i64::try_from(private).unwrap_or(i64::MAX));
            self.on_reachability();
            self.show_dht();
            self.visit_pubs(now);
            self.look_around(now);
        }
    }

    fn on_overlay_events(&mut self, first: Event, queue: &mut Events) {
        self.on_overlay(first);
        for _ in 1..BUDGET {
            let Some(event) = queue.try_next() else { return };
            self.on_overlay(event);
        }
    }

    fn on_overlay(&mut self, event: Event) {
        match event {
            Event::Discovered { claimed, endpoint, source } => self.on_discovered(claimed, &endpoint, source),
            Event::Expired { claimed, endpoint, .. } => {
                self.book.expired(claimed, &endpoint);
                self.plan_dirty = true;
            }
            Event::Connected(connection) => self.on_connected(connection, None),
            Event::Refused { peer, link, reason } => {
                tracing::debug!(peer = %peer.short(), remote = %link.remote, %reason, "refused a peer");
                self.count_handshake(&link, "refused");
            }
            Event::HandshakeFailed { link, label } => {
                tracing::debug!(remote = %link.remote, label, "a handshake failed");
                self.count_handshake(&link, label);
            }
            Event::Failed(failure) => tracing::warn!(%failure, "a part of the overlay does not work"),
            Event::Listening(address) => tracing::info!(%address, "listening"),
            Event::DirectPath { relayed, endpoint } => self.on_direct_path(relayed, endpoint),
            Event::Moved(moved) => self.on_moved(moved),
            Event::ReachabilityChanged => self.on_reachability(),
            Event::Found(found) => self.on_found(found),
            Event::NotFound(feed) => self.on_not_found(feed),
            Event::Lookup(lookup) => self.on_lookup(&lookup),
            Event::DhtChanged => self.on_dht_changed(),
        }
    }

    fn on_msgs(&mut self, first: Msg, queue: &mut mpsc::Receiver<Msg>) {
        self.on_msg(first);
        for _ in 1..BUDGET {
            let Ok(msg) = queue.try_recv() else { return };
            self.on_msg(msg);
        }
    }

    fn on_msg(&mut self, msg: Msg) {
        match msg {
            Msg::Dialed { peer, endpoint, result, reply } => self.on_dialed(peer, &endpoint, *result, reply),
            Msg::MoveDialed { peer, endpoint, result } => self.on_move_dialed(peer, &endpoint, *result),
            Msg::PubDialed { peer, endpoint, result } => self.on_pub_dialed(peer, &endpoint, *result),
            Msg::Pubs { pubs } => self.on_pubs(pubs),
            Msg::Certificate { peer, result } => self.on_certificate(peer, *result),
            Msg::Attach(connection) => self.on_connected(*connection, None),
            Msg::Connect { address, reply } => self.on_connect(&address, reply),
            Msg::Conn { ask, reply } => {
                let _ = reply.send(self.on_conn(ask));
            }
            Msg::Disconnect { peer, reply } => {
                let _ = reply.send(self.on_disconnect(peer));
            }
            Msg::Status { reply } => {
                let _ = reply.send(self.status());
            }
            Msg::Request { feed, wish } => self.on_request(feed, wish),
            Msg::Block { from, to, on } => self.on_block(from, to, on),
            Msg::PeerStatus { feed, reply } => {
                let _ = reply.send(self.ebt.status(&feed));
            }
            Msg::Replicate { session, stream } => self.on_ebt_called(session, stream),
            Msg::CallEbt { session } => self.call_ebt_again(session),
            Msg::Ebt { peer, stream, items, permit } => self.on_ebt_items(peer, stream, items, permit),
            Msg::EbtEnded { peer, stream, failed } => self.on_ebt_ended(peer, stream, failed),
            Msg::ServeHistory { session, plan, reply } => {
                self.negotiate(session, NegotiationInput::HistoryCalled);
                let _ = reply.send(self.serve_history(session, plan));
            }
            Msg::History { stream, messages, permit } => self.on_history_items(stream, messages, permit),
            Msg::HistoryEnded { stream, complete } => self.on_history_ended(stream, complete),
            Msg::Blobs(msg) => self.on_blobs(msg),
        }
    }

    fn on_task(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Session(id, closed)) => self.on_closed(id, &closed),
            Ok(Done::Other) => {}
            Err(failed) if failed.is_panic() => tracing::error!(%failed, "a task panicked"),
            Err(_) => {}
        }
    }

    fn start_session(&mut self, id: SessionId, rights: Rights, connection: Connection) {
        let span = connection.session.span().clone();
        let session = session::run(Arc::clone(&self.ctx), id, rights, connection).instrument(span);
        self.tasks.spawn(session.map(|(id, closed)| Done::Session(id, closed)));
    }

    /// Spawns a task whose end needs no attention.
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        // A block that awaits it would hold it twice.
        self.tasks.spawn(task.map(|()| Done::Other));
    }

    /// The same for a task that works for a session: what it logs says for which.
    fn spawn_for(&mut self, session: &Session, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(task.instrument(session.span().clone()));
    }

    /// A number that was not given before.
    fn next_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Has a small file replaced; a file that cannot be saved is not worth stopping for.
    fn save(&self, path: PathBuf, contents: Vec<u8>) {
        if self.saver.try_send((path, contents)).is_err() {
            tracing::warn!("the disk is slow: a file was not saved this time");
        }
    }
}

/// A number of things, to multiply a time with.
fn count(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

/// Where the engine's inputs come in.
#[derive(Debug)]
pub struct Inlets {
    msgs: mpsc::Receiver<Msg>,
    store: mpsc::Receiver<StoreEvent>,
    overlay: Events,
}

/// Writes files one after the other, so that a later state is never overwritten by an earlier one.
async fn save_files(mut queue: mpsc::Receiver<(PathBuf, Vec<u8>)>) -> Done {
    while let Some((path, contents)) = queue.recv().await {
        let shown = path.display().to_string();
        let saved = tokio::task::spawn_blocking(move || crate::datadir::write_atomic(&path, &contents)).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(path = shown, %error, "could not save a file");
        }
    }
    Done::Other
}

#[cfg(test)]
mod tests;
