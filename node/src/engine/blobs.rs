//! The shell of the want machine (`replication::blobs`): `blobs.createWants` in both directions on every session,
//! fetching, who waits for what, what messages link to, and how much of the disk blobs may take.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawsepipe_overlay::conn::Mobile;
use hawsepipe_replication::blobs::{
    Evicted, Fault, GetId, Input, Link, Mark, Meta, Output, Said, Totals, Wants, WantsConfig, links_of,
};
use hawsepipe_replication::refs::{BlobId, FeedId};
use hawsepipe_replication::store::{Order, Reader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Engine, Msg, SessionId};
use crate::blobs::blocking;
use crate::clock;
use crate::config::BlobsConfig;
use crate::scheduler::Relation;
use crate::store::Linked;

mod fetch;
mod listen;
mod told;

use fetch::Fetch;
use listen::Listener;
pub use told::Told;

/// Messages of before the start that are looked at for blobs that did not come then, the newest.
const MAX_RECENT: usize = 20_000;
/// Callers that wait for one blob at once.
const MAX_WAITING: usize = 1024;

/// What tasks and handlers say to the engine of blobs.
#[derive(Debug)]
pub enum BlobMsg {
    /// A peer said what it wants and has, over its `blobs.createWants` or `blobs.has`.
    Said {
        /// Over which session.
        session: SessionId,
        /// Of which blobs, what, and how large they are if they are here.
        said: Vec<(BlobId, Said, Option<u64>)>,
        /// Free again when it is dealt with.
        permit: Option<OwnedSemaphorePermit>,
    },
    /// A peer without `createWants` has these.
    Offered {
        /// Over which session.
        session: SessionId,
        /// What it has.
        ids: Vec<BlobId>,
    },
    /// Somebody called `blobs.createWants`, or is to be asked by `blobs.has`.
    Tell {
        /// Over which session.
        session: SessionId,
        /// The latter.
        ask: bool,
        /// What is to be told, from now on; nothing if the session is over.
        reply: oneshot::Sender<Option<Arc<Told>>>,
    },
    /// A local client wants a blob that is not here.
    Want {
        /// Which.
        id: BlobId,
        /// Answered when it is here.
        reply: oneshot::Sender<()>,
    },
    /// Messages link to these, which are not here.
    Linked {
        /// Which.
        ids: Vec<BlobId>,
    },
    /// Messages that were stored before the start link to these.
    Recent {
        /// What they say.
        links: Vec<Linked>,
    },
    /// A blob is pushed, or no longer.
    Push {
        /// Which.
        id: BlobId,
        /// Whether.
        on: bool,
    },
    /// A blob was stored otherwise than by a fetch of the engine's.
    Stored {
        /// What.
        meta: Meta,
        /// Whether it was not here before.
        is_new: bool,
    },
    /// A blob was deleted.
    Removed {
        /// Its size in bytes.
        size: u64,
    },
    /// Some of a fetch came.
    Progress {
        /// Of which.
        get: GetId,
        /// How much, in bytes.
        bytes: u64,
    },
    /// A fetch ended.
    Ended {
        /// Which.
        get: GetId,
        /// The blob and whether it was not here before, if it is stored now.
        result: Result<(Meta, bool), Fault>,
    },
    /// The store was counted.
    Counted(Totals),
    /// An eviction is over; nothing if it failed.
    Evicted(Option<Evicted>),
}

/// What the engine has of blobs.
#[derive(Debug)]
pub(super) struct State {
    wants: Wants,
    told: BTreeMap<SessionId, Telling>,
    /// What peers without `createWants` are asked for. They may be clients that call ours none the less.
    asked: BTreeMap<SessionId, Arc<Told>>,
    waiting: BTreeMap<BlobId, Vec<oneshot::Sender<()>>>,
    /// Dropping a guard ends its fetch.
    gets: BTreeMap<GetId, DropGuard>,
    /// Nothing until the store was counted.
    totals: Option<Totals>,
    /// What was added and taken away before that.
    early: (Totals, Totals),
    evicting: bool,
    /// Something came or went since the eviction began.
    changed: bool,
    /// Nothing is evicted before: the last eviction did not make enough room.
    evict_at: Option<Instant>,
}

/// What is told over a session. It is there from the session's beginning: the peer may answer our call before its own has
/// come to the engine, and what is then said to it must not be lost.
#[derive(Debug)]
struct Telling {
    told: Arc<Told>,
    /// The peer has called.
    called: bool,
}

/// How long it takes until eviction is tried again after there was nothing left to evict.
const EVICT_PAUSE: Duration = Duration::from_secs(600);

impl State {
    pub(super) fn new(config: &BlobsConfig) -> Self {
        let wants = Wants::new(WantsConfig {
            sympathy: config.sympathy,
            stingy: config.stingy,
            pushy: config.pushy,
            max: config.max,
            max_linked: config.auto.as_ref().map_or(config.max, |auto| auto.max),
        });
        Self {
            wants,
            told: BTreeMap::new(),
            asked: BTreeMap::new(),
            waiting: BTreeMap::new(),
            gets: BTreeMap::new(),
            totals: None,
            early: (Totals::default(), Totals::default()),
            evicting: false,
            changed: false,
            evict_at: None,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.wants.poll_timeout()
    }

    fn grew(&mut self, size: u64) {
        self.changed = true;
        let totals = self.totals.as_mut().unwrap_or(&mut self.early.0);
        totals.count += 1;
        totals.bytes += size;
    }

    fn shrank(&mut self, size: u64) {
        self.changed = true;
        match &mut self.totals {
            Some(totals) => {
                totals.count = totals.count.saturating_sub(1);
                totals.bytes = totals.bytes.saturating_sub(size);
            }
            None => {
                self.early.1.count += 1;
                self.early.1.bytes += size;
            }
        }
    }
}

impl Engine {
    /// What is pushed goes on being pushed; how much there is is counted meanwhile.
    pub(super) async fn load_blobs(&mut self) {
        let store = self.ctx.blobs.store().clone();
        let pushed = blocking(move || store.marked(Mark::Pushed)).await;
        for id in pushed {
            self.blobs.wants.handle(clock::now(), Input::Push { id, on: true });
        }
        self.drain_blobs();
        let (store, msgs) = (self.ctx.blobs.store().clone(), self.msgs_tx.clone());
        self.spawn(async move {
            let totals = blocking(move || store.count()).await;
            let _ = msgs.send(Msg::Blobs(BlobMsg::Counted(totals))).await;
        });
        if let Some(auto) = &self.ctx.config.blobs.auto {
            let oldest = clock::unix_millis() as f64 - auto.age.as_millis() as f64;
            let (reader, msgs) = (self.ctx.reader.clone(), self.msgs_tx.clone());
            self.spawn(async move {
                let links = blocking(move || recent_links(&reader, oldest)).await;
                let _ = msgs.send(Msg::Blobs(BlobMsg::Recent { links })).await;
            });
        }
    }

    /// A session stands: asks what the peer wants. It asks us in the same way.
    pub(super) fn exchange_wants(&mut self, id: SessionId) {
        let Some(open) = self.sessions.get(&id) else { return };
        let (peer, session) = (open.peer, open.session.clone());
        let near = matches!(self.relation(peer), Relation::Hops(_));
        let (link, peer) = (Link(id.0), FeedId::from_bytes(peer.to_bytes()));
        self.blobs.wants.handle(clock::now(), Input::Connected { link, peer, near });
        let told = Arc::new(Told::new(self.blobs.wants.current()));
        self.blobs.told.insert(id, Telling { told, called: false });
        self.drain_blobs();
        let listener = Listener {
            id,
            session: session.clone(),
            store: self.ctx.blobs.store().clone(),
            engine: self.ctx.engine.clone(),
            turn: Arc::new(Semaphore::new(1)),
            legacy: self.ctx.config.blobs.legacy,
        };
        self.spawn_for(&session, listener.run());
    }

    /// The session is over.
    pub(super) fn end_wants(&mut self, id: SessionId) {
        if let Some(telling) = self.blobs.told.remove(&id) {
            telling.told.end();
        }
        if let Some(told) = self.blobs.asked.remove(&id) {
            told.end();
        }
        self.blobs.wants.handle(clock::now(), Input::Disconnected { link: Link(id.0) });
        self.drain_blobs();
    }

    pub(super) fn blob_timers(&mut self, now: Instant) {
        if self.blobs.wants.poll_timeout().is_some_and(|at| at <= now) {
            self.blobs.wants.handle_timeout(now);
            self.drain_blobs();
        }
    }

    pub(super) fn on_blobs(&mut self, msg: BlobMsg) {
        let now = clock::now();
        let wants = &mut self.blobs.wants;
        match msg {
            BlobMsg::Said { session, said, permit } => {
                let link = Link(session.0);
                for (id, said, stored) in said {
                    wants.handle(now, Input::Said { link, id, said, stored });
                }
                drop(permit);
            }
            BlobMsg::Offered { session, ids } => {
                let link = Link(session.0);
                ids.into_iter().for_each(|id| wants.handle(now, Input::Offered { link, id }));
            }
            BlobMsg::Tell { session, ask, reply } => {
                let told = if ask { self.ask_wants(session) } else { self.tell_wants(session) };
                let _ = reply.send(told);
            }
            BlobMsg::Want { id, reply } => {
                wants.handle(now, Input::Want { id, own: true });
                self.wait_for_blob(id, reply);
            }
            BlobMsg::Linked { ids } => {
                ids.into_iter().for_each(|id| wants.handle(now, Input::Want { id, own: false }));
            }
            BlobMsg::Recent { links } => {
                if let Some(look) = self.on_linked(&links) {
                    self.spawn(look);
                }
            }
            BlobMsg::Push { id, on } => wants.handle(now, Input::Push { id, on }),
            BlobMsg::Stored { meta, is_new } => {
                wants.handle(now, Input::Stored { id: meta.id, size: meta.size });
                self.on_blob_stored(meta, is_new);
            }
            BlobMsg::Removed { size } => self.blobs.shrank(size),
            BlobMsg::Progress { get, bytes } => {
                self.ctx.metrics.blobs.bytes.with_label_values(&["in"]).inc_by(bytes);
                wants.handle(now, Input::Progress { get, bytes });
            }
            BlobMsg::Ended { get, result } => self.on_get_ended(get, result),
            BlobMsg::Counted(totals) => self.on_blobs_counted(totals),
            BlobMsg::Evicted(evicted) => self.on_evicted(evicted),
        }
        self.drain_blobs();
    }

    /// What is to be told over a session from now on: first all that is wanted, then what changes. One that was told
    /// over it before hears nothing more.
    fn tell_wants(&mut self, id: SessionId) -> Option<Arc<Told>> {
        self.sessions.get(&id)?;
        if let Some(telling) = self.blobs.told.get_mut(&id).filter(|telling| !telling.called) {
            telling.called = true;
            return Some(Arc::clone(&telling.told));
        }
        let told = Arc::new(Told::new(self.blobs.wants.current()));
        let telling = Telling { told: Arc::clone(&told), called: true };
        if let Some(before) = self.blobs.told.insert(id, telling) {
            before.told.end();
        }
        Some(told)
    }

    /// What is to be asked of a peer without `createWants`.
    fn ask_wants(&mut self, id: SessionId) -> Option<Arc<Told>> {
        self.sessions.get(&id)?;
        let told = Arc::new(Told::new(self.blobs.wants.current()));
        self.blobs.asked.insert(id, Arc::clone(&told));
        Some(told)
    }

    /// Tells everybody.
    fn tell(&mut self, id: BlobId, said: Said) {
        self.blobs.told.values().for_each(|telling| telling.told.put(id, said));
        // Who answers with an error is not asked any more.
        self.blobs.asked.retain(|_, told| Arc::strong_count(told) > 1);
        self.blobs.asked.values().for_each(|told| told.put(id, said));
    }

    fn wait_for_blob(&mut self, id: BlobId, reply: oneshot::Sender<()>) {
        let waiting = self.blobs.waiting.entry(id).or_default();
        waiting.retain(|reply| !reply.is_closed());
        // Dropping a reply answers with an error.
        if waiting.len() < MAX_WAITING {
            waiting.push(reply);
        }
    }

    fn on_get_ended(&mut self, get: GetId, result: Result<(Meta, bool), Fault>) {
        let outcome = result.as_ref().map_or_else(|fault| fault.label(), |_| "ok");
        self.ctx.metrics.blobs.gets.with_label_values(&[outcome]).inc();
        self.blobs.gets.remove(&get);
        let size = result.map(|(meta, _)| meta.size);
        self.blobs.wants.handle(clock::now(), Input::Ended { get, result: size });
        if let Ok((meta, is_new)) = result {
            self.on_blob_stored(meta, is_new);
        }
    }

    fn on_blob_stored(&mut self, meta: Meta, is_new: bool) {
        if is_new {
            self.blobs.grew(meta.size);
            self.evict();
        }
    }

    fn on_blobs_counted(&mut self, counted: Totals) {
        let (more, less) = std::mem::take(&mut self.blobs.early);
        let sum = |counted: u64, more: u64, less: u64| (counted + more).saturating_sub(less);
        self.blobs.totals = Some(Totals {
            count: sum(counted.count, more.count, less.count),
            bytes: sum(counted.bytes, more.bytes, less.bytes),
        });
        self.evict();
    }

    /// Makes room if blobs take more than they may.
    fn evict(&mut self) {
        let (Some(quota), Some(totals)) = (self.ctx.config.blobs.quota, self.blobs.totals) else { return };
        let early = self.blobs.evict_at.is_some_and(|at| clock::now() < at);
        if totals.bytes <= quota || self.blobs.evicting || early {
            return;
        }
        self.blobs.evicting = true;
        self.blobs.changed = false;
        let (store, msgs) = (self.ctx.blobs.store().clone(), self.msgs_tx.clone());
        let (reader, own) = (self.ctx.reader.clone(), self.ctx.own);
        self.spawn(async move {
            let evicted = blocking(move || store.evict(quota, &linked_by(&reader, &own))).await;
            let evicted = evicted.inspect_err(|error| tracing::warn!(%error, "could not delete old blobs"));
            let _ = msgs.send(Msg::Blobs(BlobMsg::Evicted(evicted.ok()))).await;
        });
    }

    fn on_evicted(&mut self, evicted: Option<Evicted>) {
        self.blobs.evicting = false;
        let quota = self.ctx.config.blobs.quota.unwrap_or(u64::MAX);
        let room = evicted.as_ref().is_some_and(|evicted| evicted.left.bytes <= quota);
        if let Some(evicted) = evicted {
            tracing::info!(blobs = evicted.ids.len(), left = evicted.left.bytes, "deleted old blobs");
            self.ctx.metrics.blobs.evicted.inc_by(evicted.ids.len() as u64);
            // What was counted is exact, other programs' doings included, unless it is out of date by now.
            self.blobs.totals =
                self.blobs.totals.filter(|_| self.blobs.changed).map_or(Some(evicted.left), |totals| {
                    let count = totals.count.saturating_sub(evicted.ids.len() as u64);
                    Some(Totals { count, bytes: totals.bytes.saturating_sub(evicted.freed) })
                });
        }
        if !room {
            tracing::warn!("blobs that must stay fill blobs.quota: nothing is fetched for others");
        }
        self.blobs.evict_at = (!room).then(|| clock::now() + EVICT_PAUSE);
        self.blobs.wants.handle(clock::now(), Input::Room(room));
    }

    /// Messages that were just stored link to blobs: those of near feeds are wanted.
    pub(super) fn on_linked(&self, linked: &[Linked]) -> Option<impl Future<Output = ()> + Send + 'static> {
        let auto = self.ctx.config.blobs.auto.as_ref()?;
        let oldest = clock::unix_millis() as f64 - auto.age.as_millis() as f64;
        let is_wanted = |linked: &&Linked| {
            let near = self.wanted.get(&linked.author).is_some_and(|hops| *hops <= auto.hops);
            let fits = linked.link.size.is_none_or(|size| size < auto.max);
            // A picture says who somebody is, however long ago it was chosen.
            near && fits && (linked.link.is_portrait || linked.claimed >= oldest)
        };
        let ids: BTreeSet<_> = linked.iter().filter(is_wanted).map(|linked| linked.link.id).collect();
        if ids.is_empty() {
            return None;
        }
        let (store, engine) = (self.ctx.blobs.store().clone(), self.ctx.engine.clone());
        Some(async move {
            let is_missing = move |id: &BlobId| matches!(store.size(id), Ok(None));
            let ids = blocking(move || ids.into_iter().filter(is_missing).collect::<Vec<_>>()).await;
            let _ = engine.blobs(BlobMsg::Linked { ids }).await;
        })
    }

    fn drain_blobs(&mut self) {
        while let Some(output) = self.blobs.wants.poll_output() {
            match output {
                Output::Say { link, id, said } => {
                    if let Some(telling) = self.blobs.told.get(&SessionId(link.0)) {
                        telling.told.put(id, said);
                    }
                }
                Output::Tell { id, said } => self.tell(id, said),
                Output::Get { get, link, id, max } => self.fetch_blob(get, link, id, max),
                Output::Cancel { get, why } => {
                    if self.blobs.gets.remove(&get).is_some() {
                        self.ctx.metrics.blobs.gets.with_label_values(&[why.label()]).inc();
                    }
                }
                Output::Have { id, why, after } => {
                    self.ctx.metrics.blobs.waited(why, after);
                    for reply in self.blobs.waiting.remove(&id).into_iter().flatten() {
                        let _ = reply.send(());
                    }
                }
                Output::Pushed { id } => {
                    let blobs = Arc::clone(&self.ctx);
                    self.spawn(async move {
                        let done = blobs.blobs.with(move |store| store.unmark(&id, Mark::Pushed)).await;
                        done.map(drop).unwrap_or_else(|error| tracing::warn!(%error, "a push goes on"));
                    });
                }
            }
        }
        let counts = self.blobs.wants.counts();
        self.ctx.metrics.blobs.show(counts, self.blobs.totals.unwrap_or_default());
    }

    fn fetch_blob(&mut self, get: GetId, link: Link, id: BlobId, max: u64) {
        let Some(open) = self.sessions.get(&SessionId(link.0)) else { return };
        if open.info.mobile.as_ref().and_then(Mobile::granted).is_some_and(|granted| max > granted / 10 * 9) {
            // More than the relay lets a circuit carry: it waits for a direct path, or for another peer.
            let engine = self.ctx.engine.clone();
            return self.spawn(async move {
                let _ = engine.blobs(BlobMsg::Ended { get, result: Err(Fault::Refused) }).await;
            });
        }
        let end = CancellationToken::new();
        self.blobs.gets.insert(get, end.clone().drop_guard());
        let session = open.session.clone();
        let fetch = Fetch { get, id, max, session: session.clone(), ctx: Arc::clone(&self.ctx) };
        self.spawn_for(&session, async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = fetch.run() => {}
            }
        });
    }
}

/// What messages that were received since `oldest`, milliseconds since 1970, say of blobs; of the newest of them.
fn recent_links(reader: &Reader, oldest: f64) -> Vec<Linked> {
    let Ok(messages) = reader.log(.., Order::Descending) else { return Vec::new() };
    let recent = messages.take(MAX_RECENT).map_while(Result::ok);
    let recent = recent.take_while(|stored| stored.received >= oldest);
    recent.flat_map(|stored| Linked::of(&stored.message)).collect()
}

/// The blobs that a feed's messages link to.
fn linked_by(reader: &Reader, feed: &FeedId) -> BTreeSet<BlobId> {
    let messages = reader.feed(feed, 1).filter_map(Result::ok);
    messages.flat_map(|stored| links_of(&stored.message)).map(|link| link.id).collect()
}
