//! Puts a node together from its configuration, runs it, and takes it down again.
//!
//! Start order: the data folder is judged before anything in it is touched; keys; the store; then the
//! overlay, so that nobody is let in before we can answer. Stop order is the reverse: the overlay stops
//! accepting, sessions say goodbye, the store takes what is queued and saves its indexes.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::thread;

use anyhow::Context as _;
use hawsepipe_overlay::conn::Local;
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::lan::LanConfig;
use hawsepipe_overlay::swarm::{DhtConfig, SwarmConfig};
use hawsepipe_overlay::{self as overlay, Overlay};
use hawsepipe_replication::blobs::BlobStore;
use hawsepipe_replication::graph::Graph;
use hawsepipe_replication::message::Verifier;
use hawsepipe_replication::refs::FeedId;
use hawsepipe_replication::store::{Options, Reader, Store, Writer};
use sha2::{Digest, Sha256};
use ssb_crypto::Keypair;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::authorize::{Access, Grants};
use crate::blobs::{Blobs, blocking};
use crate::cli::progress::Bar;
use crate::config::{Config, OverlayConfig, OverlayListen};
use crate::context::{Context, Tail, log_end};
use crate::continuity::{self, Keeper};
use crate::datadir::{self, DataDir};
use crate::engine::{self, Engine, EngineHandle, Inlets, Lists, Parts};
use crate::fork_guard::{ForkGuard, Gate, Standing};
use crate::forks::Forks;
use crate::http::upgrade::Sockets;
use crate::http::{self, Http};
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::names::Names;
use crate::ooo::{Hub, Ooo};
use crate::private::Private;
use crate::search::Search;
use crate::store::{StoreEvent, StoreHandle, Worker};
use crate::{api, dht_nodes, identity};

/// Events of the store's thread that may wait for the engine.
const STORE_EVENTS: usize = 256;

/// A node that has been put together.
#[derive(Debug)]
pub struct App {
    ctx: Arc<Context>,
    engine: Engine,
    inlets: Inlets,
    http: Option<Http>,
    web: Vec<Http>,
    ooo: Hub,
    store: StoreHandle,
    store_thread: thread::JoinHandle<()>,
    dir: DataDir,
}

impl App {
    /// Puts a node together, with the identity of its folder: opens everything and binds everything, but serves
    /// nothing yet. A terminal sees how far opening is.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        Self::start_as(config, Identity::File, Bar::new("indexing the log")).await
    }

    /// The same with another identity.
    pub(crate) async fn start_as(config: Config, identity: Identity, bar: Bar) -> anyhow::Result<Self> {
        crate::init_crypto();
        let dir = DataDir::prepare(&config.path)?;
        let (keypair, is_new) = identity.load(dir.path())?;
        let keypair = Arc::new(keypair);
        let node_key = identity::load_or_create_node_key(dir.path())?;
        let (writer, reader) = open_store(&dir.store(), bar).await?;
        let own_key = identity::public_key(&keypair);
        let metrics = Arc::new(Metrics::new());
        let own = FeedId::from_bytes(own_key.to_bytes());
        let (guard, keeper) = open_guard(&config, &dir, own, &reader, is_new)?;
        let gate = Arc::new(Gate::new(guard.verdict()));
        let private = open_private(&dir, &keypair, &reader)?;
        let search = Search::new(dir.search(), Arc::clone(&private), Arc::clone(&metrics));
        let config = Arc::new(config);
        let access = open_access(&config, &dir, own_key, &metrics)?;

        let local = local(&config, &keypair, &access);
        let web = bind_web(&config)?;
        let (overlay, events) = Overlay::start(overlay_config(&config, local, node_key, &web, &dir)).await?;
        let overlay = Arc::new(overlay);
        let http = bind_http(&config, &metrics).await?;

        let worker = Worker {
            writer,
            reader: reader.clone(),
            keypair,
            hmac: config.hmac.clone(),
            verifier: Verifier::new(),
            guard: Arc::clone(&gate),
            metrics: Arc::clone(&metrics),
        };
        let (store, store_thread, store_rx) = start_store(worker, &metrics)?;
        let (msgs_tx, msgs) = mpsc::channel(engine::QUEUE);
        let (lists, watched) = Lists::new();
        let engine_handle = EngineHandle::new(msgs_tx.clone(), watched);
        metrics.watch_queue("engine", &msgs_tx);
        let blobs = open_blobs(&dir, &config, engine_handle.clone()).await?;
        let web = serve_web(web, &config, &blobs, &reader, &overlay);
        let forks = open_forks(&dir, &config, &metrics);
        let (ooo, hub) = Ooo::new(dir.ooo(), config.hmac.clone());
        let ctx = Arc::new(Context {
            own,
            own_key,
            config,
            tail: Arc::new(Tail::new(log_end(&reader))),
            reader,
            store: store.clone(),
            blobs,
            engine: engine_handle,
            access: Arc::clone(&access),
            metrics,
            overlay,
            guard: gate,
            private,
            search: Arc::new(search),
            names: Names::default(),
            forks,
            ooo,
            shared_graph: Arc::new(RwLock::new(Graph::default())),
        });
        let parts = Parts {
            ctx: Arc::clone(&ctx),
            access,
            dir: dir.clone(),
            msgs,
            msgs_tx,
            store: store_rx,
            overlay: events,
            lists,
            guard,
            keeper,
        };
        let (engine, inlets) = Engine::new(parts);
        write_manifest(&dir)?;
        Ok(Self { ctx, engine, inlets, http, web, ooo: hub, store, store_thread, dir })
    }

    /// What a person or a script wants to know first, a line each.
    pub fn introduction(&self) -> Vec<String> {
        let mut lines = vec![format!("id: {}", self.ctx.own)];
        lines.extend(self.ctx.addresses("device").into_iter().map(|address| format!("listening: {address}")));
        if self.ctx.config.unix {
            lines.push(format!("socket: {}", self.dir.socket().display()));
        }
        if let Some(address) = self.http.as_ref().and_then(|http| http.local_addr().ok()) {
            lines.push(format!("metrics: http://{address}/metrics"));
        }
        if let Some(address) = self.web.first().and_then(|http| http.local_addr().ok()) {
            lines.push(format!("blobs: http://{address}/blobs/get/"));
        }
        lines.push("ready".to_owned());
        lines
    }

    /// Runs until `stop` is done, then stops in order.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let token = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(self.engine.run(self.inlets, token.clone()));
        let private = Arc::clone(&self.ctx.private);
        tasks.spawn(private.follow(self.ctx.reader.clone(), self.ctx.tail.log(), token.clone()));
        let search = Arc::clone(&self.ctx.search);
        tasks.spawn(search.follow(self.ctx.reader.clone(), self.ctx.tail.log(), token.clone()));
        tasks.spawn(self.ooo.run(Arc::clone(&self.ctx), token.clone()));
        for http in self.http.into_iter().chain(self.web) {
            tasks.spawn(http.run(token.clone()));
        }
        tokio::select! {
            () = stop => tracing::info!("stopping"),
            Some(ended) = tasks.join_next() => tracing::error!(?ended, "a part of the node ended by itself; stopping"),
        }
        token.cancel();
        while tasks.join_next().await.is_some() {}
        self.ctx.overlay.shutdown().await;
        self.store.stop().await;
        let joined = tokio::task::spawn_blocking(move || self.store_thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the store's thread panicked; the next start checks the log's end");
        } else if self.ctx.guard.check().is_ok() {
            let kept = Keeper::begin(&self.dir, self.ctx.own, self.ctx.reader.tip(&self.ctx.own));
            if let Err(error) = kept {
                tracing::warn!(%error, "the record of this feed was not renewed");
            }
        }
    }

    /// The engine, not running, for tests that drive it by hand.
    #[cfg(test)]
    pub(crate) fn into_engine(self) -> Engine {
        self.engine
    }

    /// What the API works with, for tests in the same process.
    pub fn context(&self) -> &Arc<Context> {
        &self.ctx
    }
}

/// Who we are to peers, and who is let in.
fn local(config: &Config, keypair: &Arc<Keypair>, access: &Arc<Access>) -> Local {
    Local {
        keypair: Arc::clone(keypair),
        network: config.network,
        gate: Arc::<Access>::clone(access),
        handshake_timeout: config.handshake_timeout,
    }
}

fn open_forks(dir: &DataDir, config: &Config, metrics: &Metrics) -> Arc<Forks> {
    let forks = Forks::load(dir.forks(), config.hmac.as_ref());
    metrics.messages.forked.set(forks.len() as i64);
    Arc::new(forks)
}

fn open_private(dir: &DataDir, keypair: &Arc<Keypair>, reader: &Reader) -> anyhow::Result<Arc<Private>> {
    let private =
        Private::open(dir, keypair, reader).context("cannot make the folder of private messages")?;
    Ok(Arc::new(private))
}

fn open_access(
    config: &Config,
    dir: &DataDir,
    own: PublicKey,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Arc<Access>> {
    let grants = Grants::load(dir.grants(), api::methods_of)?;
    let (masters, config) = (config.master.clone(), config.access.clone());
    Ok(Arc::new(Access::new(own, masters, config, grants, Arc::clone(metrics))))
}

/// The store's threads, and what they tell.
fn start_store(
    worker: Worker,
    metrics: &Metrics,
) -> anyhow::Result<(StoreHandle, thread::JoinHandle<()>, mpsc::Receiver<StoreEvent>)> {
    let (events, told) = mpsc::channel(STORE_EVENTS);
    metrics.watch_queue("store_events", &events);
    let (store, thread) = worker.spawn(events).context("cannot start the store's threads")?;
    Ok((store.measured(metrics), thread, told))
}

fn write_manifest(dir: &DataDir) -> anyhow::Result<()> {
    let manifest = serde_json::to_string_pretty(&api::manifest()).context("the manifest is JSON")?;
    datadir::write_atomic(&dir.manifest(), manifest.as_bytes()).context("cannot write manifest.json")
}

/// The fork guard with what this folder knows, and the record that is kept if nothing is in doubt.
fn open_guard(
    config: &Config,
    dir: &DataDir,
    own: FeedId,
    reader: &Reader,
    is_new: bool,
) -> anyhow::Result<(ForkGuard, Option<Keeper>)> {
    let tip = reader.tip(&own);
    let mut standing = continuity::judge(dir, own, reader, is_new);
    if config.publish_anyway {
        tracing::warn!(?standing, "the fork guard is overruled: whatever is published may fork this feed");
        standing = Standing::Overruled;
    }
    let guard = ForkGuard::new(standing, tip.map_or(0, |tip| tip.sequence));
    let keeper = guard.verdict().is_ok().then(|| Keeper::begin(dir, own, tip)).transpose();
    Ok((guard, keeper.context("cannot write the record of this feed")?))
}

async fn open_store(dir: &Path, mut bar: Bar) -> anyhow::Result<(Writer, Reader)> {
    let dir = dir.to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        Store::open(&dir, &Options::default(), &mut |done, total| bar.bytes(done, total))
    });
    let (writer, reader) = opened.await.context("opening the store panicked")??;
    let report = writer.opened();
    if let Some(cut) = &report.cut {
        tracing::warn!(?cut, "the log ended in an unfinished write, which was cut off and kept beside it");
    }
    if let Some(why) = &report.rebuilt {
        tracing::info!(?why, messages = report.indexed, "the indexes were made anew from the log");
    }
    Ok((writer, reader))
}

async fn bind_http(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Option<Http>> {
    let Some(address) = config.metrics else { return Ok(None) };
    let metrics = Arc::clone(metrics);
    let bound = Http::bind(address, http::metrics(Arc::new(move || metrics.render()))).await;
    let bound = bound.with_context(|| {
        format!("cannot serve metrics on {address}: choose another with --set metrics.listen=ADDRESS or turn them off with --set metrics.listen=false")
    })?;
    Ok(Some(bound))
}

async fn open_blobs(dir: &DataDir, config: &Config, engine: EngineHandle) -> anyhow::Result<Arc<Blobs>> {
    let (blobs, marks) = (dir.blobs(), dir.blob_marks());
    let store = blocking(move || BlobStore::open(&blobs, &marks)).await?;
    Ok(Arc::new(Blobs::new(store, engine, config.blobs.max)))
}

/// The sockets for browsers. Another node, or a JS server, may have the usual port: then this one does without, unless
/// someone asked for it.
fn bind_web(config: &Config) -> anyhow::Result<Vec<TcpListener>> {
    let Some(wanted) = &config.blobs.http else { return Ok(Vec::new()) };
    let mut bound = Vec::new();
    for address in &wanted.addresses {
        match overlay::net::bind(*address) {
            Ok(listener) => bound.push(listener),
            Err(error) if !wanted.explicit => {
                tracing::warn!(%address, %error, "cannot serve blobs by HTTP; choose another address with blobs.http");
            }
            // One of the two sockets that `::` means.
            Err(error) if overlay::net::family_is_missing(address.ip(), &error) => {}
            Err(error) => return Err(error).with_context(|| {
                format!("cannot serve blobs on {address}: choose another with --set blobs.http=ADDRESS or turn it off with --set blobs.http=false")
            }),
        }
    }
    Ok(bound)
}

/// What ssb-ws serves: blobs, messages, and muxrpc over WebSockets.
fn serve_web(
    listeners: Vec<TcpListener>,
    config: &Config,
    blobs: &Arc<Blobs>,
    reader: &Reader,
    overlay: &Arc<Overlay>,
) -> Vec<Http> {
    let cors = config.blobs.http.as_ref().is_some_and(|wanted| wanted.cors);
    let handler = http::messages::handler(reader.clone(), http::blobs::handler(Arc::clone(blobs), cors));
    let overlay = Arc::clone(overlay);
    let sockets: Sockets = Arc::new(move |from, stream| {
        let overlay = Arc::clone(&overlay);
        Box::pin(async move { overlay.accept_ws(stream, from).await })
    });
    let serve = |listener| Http::on(listener, Arc::clone(&handler), Arc::clone(&sockets));
    listeners.into_iter().map(serve).collect()
}

fn overlay_config(
    config: &Config,
    local: Local,
    node_key: [u8; 32],
    web: &[TcpListener],
    dir: &DataDir,
) -> overlay::Config {
    let saved = dht_nodes::load(&dir.dht());
    let swarm = config.overlay.as_ref();
    overlay::Config {
        local,
        node_key,
        net_listen: net_listen(config),
        unix: config.unix.then(|| dir.socket()),
        ws: web.iter().filter_map(|listener| listener.local_addr().ok()).collect(),
        swarm: swarm.map(|overlay| swarm_config(overlay, config.lan.mdns, node_key, saved)),
        lan: LanConfig {
            announce: config.lan.announce,
            plain: config.lan.beacon,
            encrypted: config.lan.encrypted,
            loopback: false,
        },
        limits: overlay::Limits::default(),
    }
}

fn swarm_config(overlay: &OverlayConfig, mdns: bool, node_key: [u8; 32], saved: Vec<String>) -> SwarmConfig {
    let listen = match &overlay.listen {
        OverlayListen::At(addresses) => addresses.clone(),
        OverlayListen::Default => default_listen(node_key),
    };
    SwarmConfig {
        listen,
        mdns,
        relay: overlay.relay,
        relays: overlay.relays.clone(),
        direct: overlay.direct,
        carrier: overlay.carrier,
        dht: DhtConfig {
            service: overlay.dht,
            nodes: dht_nodes::to_begin_with(&overlay.bootstrap, saved),
            rendezvous: overlay.rendezvous,
        },
        ..SwarmConfig::default()
    }
}

/// The sockets for classic TCP. A machine without IPv6 does without, unless someone asked for it by name.
fn net_listen(config: &Config) -> Vec<SocketAddr> {
    let has_v6 = || std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
    let mut addresses = config.net.addresses.clone();
    if !config.net.explicit && !has_v6() {
        addresses.retain(SocketAddr::is_ipv4);
    }
    addresses
}

/// QUIC and TCP on all interfaces, on a port that follows from the node key: the same after every start,
/// so that NAT mappings and what others remember stay good, and another for every node.
fn default_listen(node_key: [u8; 32]) -> Vec<String> {
    let digest = Sha256::digest(node_key);
    let port = 49152 + u16::from_be_bytes([digest[0], digest[1]]) % 16384;
    let transports = [format!("udp/{port}/quic-v1"), format!("tcp/{port}")];
    let hosts = ["/ip4/0.0.0.0", "/ip6/::"];
    hosts
        .iter()
        .flat_map(|host| transports.iter().map(move |transport| format!("{host}/{transport}")))
        .collect()
}
