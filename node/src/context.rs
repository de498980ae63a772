//! What a method of the API needs of the node. Handlers share one of these; nothing in it is global, so
//! two nodes live in one process without knowing of each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::{Overlay, Scope};
use hawsepipe_replication::graph::Graph;
use hawsepipe_replication::refs::FeedId;
use hawsepipe_replication::store::Reader;
use tokio::sync::{Notify, watch};

use crate::authorize::Access;
use crate::blobs::{Blobs, blocking};
use crate::config::Config;
use crate::engine::EngineHandle;
use crate::fork_guard::Gate;
use crate::forks::Forks;
use crate::metrics::Metrics;
use crate::names::Names;
use crate::ooo::Ooo;
use crate::private::Private;
use crate::search::Search;
use crate::store::StoreHandle;

/// What a method of the API needs of the node.
#[derive(Debug)]
pub struct Context {
    /// Our feed.
    pub own: FeedId,
    /// Our key, the same bytes.
    pub own_key: PublicKey,
    /// The configuration.
    pub config: Arc<Config>,
    /// Reads the store.
    pub reader: Reader,
    /// Writes to the store.
    pub store: StoreHandle,
    /// Blobs.
    pub blobs: Arc<Blobs>,
    /// Asks the engine.
    pub engine: EngineHandle,
    /// Who may connect and call what, grants included.
    pub access: Arc<Access>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Wakes live streams.
    pub tail: Arc<Tail>,
    /// Where we listen.
    pub overlay: Arc<Overlay>,
    /// Whether messages of ours may be signed now; set by the engine alone.
    pub guard: Arc<Gate>,
    /// What is private and ours to read.
    pub private: Arc<Private>,
    /// Full-text search.
    pub search: Arc<Search>,
    /// Who calls whom what.
    pub names: Names,
    /// Forked feeds; added to by the engine alone.
    pub forks: Arc<Forks>,
    /// Messages out of order.
    pub ooo: Ooo,
    /// Who follows and blocks whom; written by the engine alone.
    pub shared_graph: Arc<RwLock<Graph>>,
}

impl Context {
    /// Who follows and blocks whom.
    pub fn graph(&self) -> RwLockReadGuard<'_, Graph> {
        self.shared_graph.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom we block: not in the answers of queries.
    pub fn blocked(&self) -> BTreeSet<FeedId> {
        self.graph().blocks_of(&self.own).collect()
    }

    /// Whether we block somebody.
    pub fn is_blocked(&self, feed: &FeedId) -> bool {
        self.graph().is_blocking(&self.own, feed)
    }

    /// Runs `read`, which may touch the disk, off the runtime's threads.
    pub async fn read<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> T {
        blocking(read).await
    }

    /// Our addresses of one of JS's scopes as text; `device` are all of them, what is unknown has none.
    pub fn addresses(&self, scope: &str) -> Vec<String> {
        let addresses = match scope {
            "local" | "private" => self.overlay.addresses_in(Scope::Local),
            "public" => self.overlay.addresses_in(Scope::Public),
            "device" => self.overlay.addresses(),
            _ => Vec::new(),
        };
        addresses.iter().map(ToString::to_string).collect()
    }
}

/// Whoever waits for long work off the runtime. When it is dropped, nobody does any more.
#[derive(Debug, Default)]
pub struct Caller(Arc<AtomicBool>);

impl Caller {
    /// Tells the work whether to go on.
    pub fn waits(&self) -> impl Fn() -> bool + Send + use<> {
        let is_gone = Arc::clone(&self.0);
        move || !is_gone.load(Ordering::Relaxed)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The offset behind the newest message: what a tail has seen when it has seen everything.
pub fn log_end(reader: &Reader) -> u64 {
    reader.last_offset().map_or(0, |newest| newest + 1)
}

/// Wakes live streams: all of them by the log's end, or those of one feed.
#[derive(Debug)]
pub struct Tail {
    end: watch::Sender<u64>,
    /// Guards who waits for which feed; held only to look up.
    feeds: Mutex<BTreeMap<FeedId, Arc<Notify>>>,
}

impl Tail {
    /// The log ends at `end`.
    pub fn new(end: u64) -> Self {
        Self { end: watch::Sender::new(end), feeds: Mutex::default() }
    }

    /// Announces that the log ends at `end` and that `heads` grew.
    pub fn advance(&self, end: u64, heads: &[(FeedId, u64)]) {
        let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        for (feed, _) in heads {
            if let Some(notify) = feeds.get(feed) {
                notify.notify_waiters();
                if Arc::strong_count(notify) == 1 {
                    feeds.remove(feed);
                }
            }
        }
        drop(feeds);
        self.end.send_replace(end);
    }

    /// Follows the log's end.
    pub fn log(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    /// Is notified whenever `feed` grows. Listen first, then read, then wait: nothing is missed.
    pub fn feed(&self, feed: FeedId) -> Arc<Notify> {
        let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        // Waiters that are gone are swept when their feed grows, or here once there are many.
        if feeds.len() >= SWEEP_AT {
            feeds.retain(|_, notify| Arc::strong_count(notify) > 1);
        }
        Arc::clone(feeds.entry(feed).or_default())
    }
}

/// Feeds with waiters above which those without any more are looked for.
const SWEEP_AT: usize = 10_000;
