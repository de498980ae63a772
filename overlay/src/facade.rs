//! What a node holds of the overlay: start it, dial, and listen to its events.
//!
//! [`Overlay::start`] opens every listener or says which one it cannot and what to do. After that nothing
//! that others do ends it: what fails later is an [`Event::Failed`], and the rest goes on. Inbound
//! handshakes run here, under limits; a session that comes of one is handed to the node, which runs its
//! driver.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::address::{Address, Endpoint};
use crate::beacon;
use crate::certificate::Certificate;
use crate::conn::{
    self, Carrier, Connection, Direction, HandshakeError, Link, LinkInfo, Local, MobileId, Path, PathId,
    Refused, Stage, TransportId,
};
use crate::kad::{DhtReport, Lookup};
use crate::keys::PublicKey;
use crate::lan::{self, BindError, Interfaces, Lan, LanConfig};
use crate::net::{self, NetDialError};
use crate::reachability::{AddressPolicy, Nat, Report};
use crate::relay::Tier;
use crate::rendezvous::Friend;
use crate::swarm::{self, Opened, SessionStream, SwarmConfig, SwarmDialError, SwarmStartError};
use crate::unix::{self, UnixBindError};
use crate::ws::WsLink;

mod addresses;
mod admission;
mod counters;
mod hub;

use addresses::Listening;
pub use addresses::Scope;
use admission::Admission;
pub use admission::Limits;
pub(crate) use counters::Counted;
pub use counters::{CounterSnapshot, Counters, OK};
use hub::{Context, Hub, Incoming};

/// Events that may wait for the node. While they do, whoever comes in waits outside.
const EVENTS: usize = 256;
/// Accepted links and beacons that may wait for the hub.
const QUEUE: usize = 64;
/// A dial over the swarm as a whole, the handshake excluded.
const SWARM_DIAL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection that stood already is given to show that it is alive.
const REUSE_TIMEOUT: Duration = Duration::from_secs(4);
/// How long tasks may take to end at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// What the overlay is to do.
#[derive(Debug)]
pub struct Config {
    /// Our keys, our network, and who gets in.
    pub local: Local,
    /// Seed of the transport key: independent of the feed, and replaceable.
    pub node_key: [u8; 32],
    /// Where to listen for classic SSB.
    pub net_listen: Vec<SocketAddr>,
    /// The socket file for local clients.
    pub unix: Option<PathBuf>,
    /// Where somebody serves HTTP for us and gives WebSockets to [`Overlay::accept_ws`].
    pub ws: Vec<SocketAddr>,
    /// The libp2p swarm.
    pub swarm: Option<SwarmConfig>,
    /// Local networks.
    pub lan: LanConfig,
    /// What strangers may fill.
    pub limits: Limits,
}

/// Which part of the overlay does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A `net:` listener.
    #[error(
        "cannot listen on {at}: {error}; is another SSB server running? Stop it, or choose another port \
         with --set port=PORT"
    )]
    Net {
        /// Where.
        at: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The socket file.
    #[error(transparent)]
    Unix(#[from] UnixBindError),
    /// The swarm.
    #[error(transparent)]
    Swarm(#[from] SwarmStartError),
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A feed claims to be at an address. Nothing proves it before a dial.
    Discovered {
        /// The feed.
        claimed: PublicKey,
        /// The address.
        endpoint: Endpoint,
        /// Who said so.
        source: Source,
    },
    /// The claim is no longer heard. No reason to end a session.
    Expired {
        /// The feed.
        claimed: PublicKey,
        /// The address.
        endpoint: Endpoint,
        /// Who said so.
        source: Source,
    },
    /// A peer dialled us and has proven who it is; its driver has to be run.
    Connected(Connection),
    /// Our gate refused a peer that dialled us.
    Refused {
        /// Who.
        peer: PublicKey,
        /// Over which link.
        link: LinkInfo,
        /// Why.
        reason: Refused,
    },
    /// A peer that dialled us did not prove who it is.
    HandshakeFailed {
        /// Over which link.
        link: LinkInfo,
        /// The error's label.
        label: &'static str,
    },
    /// We listen on another address.
    Listening(Address),
    /// A direct connection stands to the peer of a relayed one that [`Overlay::seek_direct`] was called
    /// for. Dialling `endpoint` opens a session on it. Both ends hear of it; the end that dialled the
    /// relayed session moves it.
    DirectPath {
        /// The relayed connection.
        relayed: PathId,
        /// The direct one, as an address that leads to it.
        endpoint: Endpoint,
    },
    /// A session went to another path, or could not.
    Moved(Moved),
    /// What is known of how others reach us has changed; see [`Overlay::reachability`].
    ReachabilityChanged,
    /// A friend was found in the DHT; what was found of it before no longer holds. Nothing proves it before
    /// a dial.
    Found(Found),
    /// What was found of a friend no longer holds.
    NotFound(PublicKey),
    /// A lookup in the DHT is over.
    Lookup(Lookup),
    /// What is known of the DHT has changed; see [`Overlay::dht`].
    DhtChanged,
    /// A part of the overlay does not work; the rest does.
    Failed(Failure),
}

/// A session that can move went to another path, or could not. Nothing of the session shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Which one; see [`LinkInfo::mobile`].
    pub session: MobileId,
    /// What carried it.
    pub from: Carrier,
    /// What carries it now, or would.
    pub to: Carrier,
    /// The remote end as text.
    pub remote: String,
    /// The connection under it.
    pub path: Path,
    /// `None` if it could not.
    pub how: Option<MoveFigures>,
}

/// How a move went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveFigures {
    /// For how long nothing could come.
    pub gap: Duration,
    /// Bytes that were said again.
    pub resent: u64,
}

impl From<swarm::Moved> for Moved {
    fn from(moved: swarm::Moved) -> Self {
        let swarm::Moved { id, from, to, remote, path, how } = moved;
        let how = how.map(|how| MoveFigures { gap: how.gap, resent: how.resent });
        Self { session: id, from, to, remote, path, how }
    }
}

/// Where a friend is, by its own word in the DHT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Who.
    pub feed: PublicKey,
    /// Its node.
    pub peer: TransportId,
    /// Circuits through relays, and direct addresses where it tells them.
    pub endpoints: Vec<Endpoint>,
    /// What kind of NAT its node is behind.
    pub nat: Nat,
    /// How old its word is.
    pub age: Duration,
    /// How long it took to find.
    pub took: Duration,
    /// How many nodes were asked.
    pub asked: usize,
}

/// What does not work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A port for beacons.
    #[error(transparent)]
    Beacons(#[from] BindError),
    /// A listener.
    #[error("no longer listening on {address}: {error}")]
    Listener {
        /// Where.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// A task of ours: a bug.
    #[error("the overlay's {0} task ended")]
    Task(&'static str),
}

/// Who claims that a feed is at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// mDNS, and the peer itself over `/ssb/lan-who/1`.
    Mdns,
    /// A plain UDP beacon.
    Beacon,
    /// A sealed UDP beacon.
    BeaconEncrypted,
}

impl Source {
    /// A bounded label for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Mdns => "mdns",
            Self::Beacon => "beacon",
            Self::BeaconEncrypted => "beacon_encrypted",
        }
    }
}

/// Why no session came of a dial.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Our own gate refuses this peer.
    #[error("refused: {0}")]
    Refused(#[from] Refused),
    /// We have no dialer for this address.
    #[error("cannot dial {0}")]
    Unsupported(Endpoint),
    /// Classic TCP failed.
    #[error(transparent)]
    Net(#[from] NetDialError),
    /// The swarm failed.
    #[error(transparent)]
    Swarm(#[from] SwarmDialError),
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// There was a link, but the peer did not prove to be who we expected.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

impl DialError {
    /// A bounded label for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Unsupported(_) => "unsupported_address",
            Self::Net(NetDialError::Resolve { .. }) => "resolve",
            Self::Net(NetDialError::Connect(_)) => "connect",
            Self::Net(NetDialError::Timeout) | Self::Timeout => "timeout",
            Self::Swarm(error) => error.label(),
            Self::Handshake(error) => error.label(),
        }
    }
}

/// The running overlay. Dropping it ends all its tasks at once; [`Overlay::shutdown`] lets them finish.
#[derive(Debug)]
pub struct Overlay {
    local: Local,
    listening: Listening,
    counters: Arc<Counters>,
    incoming: mpsc::Sender<Incoming>,
    shutdown: CancellationToken,
    hub: Mutex<JoinSet<()>>,
}

/// The overlay's events, in order.
#[derive(Debug)]
pub struct Events(mpsc::Receiver<Event>);

impl Events {
    /// The next event; `None` when the overlay has ended.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }

    /// An event that is already here.
    pub fn try_next(&mut self) -> Option<Event> {
        self.0.try_recv().ok()
    }
}

impl Overlay {
    /// Opens all listeners and starts to answer them.
    pub async fn start(config: Config) -> Result<(Self, Events), StartError> {
        let own = PublicKey::from_bytes(config.local.keypair.public.0);
        let (events, queue) = mpsc::channel(EVENTS);
        let context =
            Context { local: config.local.clone(), own, events, counters: Arc::new(Counters::default()) };
        let shutdown = CancellationToken::new();
        let mut services = Services { tasks: JoinSet::new(), shutdown: shutdown.clone() };

        let (incoming, links) = mpsc::channel(QUEUE);
        let listeners = bind_net(&config.net_listen, &context)?;
        let net: Vec<_> = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let socket = match &config.unix {
            Some(path) => Some(unix::Socket::bind(path).await?),
            None => None,
        };
        let (swarm, swarm_events) = start_swarm(&config, &context, &mut services).await?;
        let lan = start_lan(&config, &net, &context, &mut services);
        for listener in listeners {
            services.spawn("net", listen_net(listener, incoming.clone()));
        }
        if let Some(socket) = socket {
            services.spawn("unix", listen_unix(socket, incoming.clone()));
        }

        let listening = Listening { key: own, net, ws: config.ws, unix: config.unix, swarm };
        let counters = Arc::clone(&context.counters);
        tell_addresses(&listening, &context);
        let hub = Hub {
            context,
            admission: Admission::new(config.limits),
            incoming: links,
            swarm: swarm_events,
            lan,
            services: services.tasks,
            handshakes: JoinSet::new(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(hub.run(shutdown.clone()));
        let hub = Mutex::new(tasks);
        let overlay = Self { local: config.local, listening, counters, incoming, shutdown, hub };
        Ok((overlay, Events(queue)))
    }

    /// Dials a peer and has it prove that it is the one we expect. Our gate is asked first.
    pub async fn dial(&self, peer: PublicKey, endpoint: &Endpoint) -> Result<Connection, DialError> {
        let Some(carrier) = carrier(endpoint) else {
            return Err(DialError::Unsupported(endpoint.clone()));
        };
        let result = self.try_dial(peer, endpoint, carrier).await;
        self.counters.dial(carrier, result.as_ref().map_or_else(DialError::label, |_| OK));
        result
    }

    /// Takes a stream on which a WebSocket begins, its upgrade answered, as one that was accepted by us.
    pub async fn accept_ws(&self, stream: impl Link, remote: SocketAddr) {
        let link = WsLink::server(stream).await;
        // The hub is gone only at shutdown.
        let _ = self.incoming.send(Incoming::Ws(Box::new(link), remote)).await;
    }

    /// Our addresses.
    pub fn addresses(&self) -> Vec<Address> {
        self.scoped().into_iter().map(|(_, address)| address).collect()
    }

    /// Our addresses that can be dialled from there.
    pub fn addresses_in(&self, scope: Scope) -> Vec<Address> {
        self.scoped().into_iter().filter(|(of, _)| *of == scope).map(|(_, address)| address).collect()
    }

    /// How others can reach us, as far as we know.
    pub fn reachability(&self) -> Report {
        self.listening.swarm.as_ref().map(swarm::Handle::reachability).unwrap_or_default()
    }

    /// Lets the peer of a relayed connection learn our addresses, and looks for a direct connection to it
    /// for as long as the relayed one lasts. To be called for a session that stands, by both ends.
    pub fn seek_direct(&self, relayed: PathId) {
        if let Some(swarm) = &self.listening.swarm {
            swarm.seek_direct(relayed);
        }
    }

    /// Says what a transport peer is to us, from now on: SHS has proven whose it is, or the graph has
    /// changed. It decides what we relay for it and how gladly we use it as a relay.
    pub fn set_tier(&self, peer: TransportId, tier: Tier) {
        if let Some(swarm) = &self.listening.swarm {
            swarm.set_tier(peer, tier);
        }
    }

    /// Says whom we follow and don't block, and with whom there is a session: the others are looked for in
    /// the DHT, and all can find us there.
    pub fn set_friends(&self, friends: BTreeMap<PublicKey, Friend>) {
        if let Some(swarm) = &self.listening.swarm {
            swarm.set_friends(friends);
        }
    }

    /// Tells of nodes that may serve the DHT: multiaddrs that end in a peer id.
    pub fn add_dht_nodes(&self, at: Vec<String>) {
        if let Some(swarm) = &self.listening.swarm {
            swarm.add_dht_nodes(at);
        }
    }

    /// What is known of the DHT.
    pub fn dht(&self) -> DhtReport {
        self.listening.swarm.as_ref().map(swarm::Handle::dht).unwrap_or_default()
    }

    /// Nodes of the DHT to begin with next time, best first.
    pub fn dht_nodes(&self) -> Vec<String> {
        self.listening.swarm.as_ref().map(swarm::Handle::dht_nodes).unwrap_or_default()
    }

    /// A fresh certificate of our node with the addresses at which strangers can reach it. `None` without a
    /// swarm.
    pub fn certificate(&self) -> Option<Certificate> {
        self.listening.swarm.as_ref().map(|swarm| swarm.certificate(&self.local))
    }

    /// What was counted.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Closes all listeners and waits until that is done. Sessions are the node's to close.
    pub async fn shutdown(&self) {
        self.shutdown.cancel();
        let mut tasks = std::mem::take(&mut *self.hub.lock().unwrap_or_else(PoisonError::into_inner));
        let end = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, end).await.is_err() {
            warn!("the overlay's tasks do not end; they are aborted");
            tasks.shutdown().await;
        }
    }

    fn scoped(&self) -> Vec<(Scope, Address)> {
        self.listening.all(&interfaces())
    }

    async fn try_dial(
        &self,
        peer: PublicKey,
        endpoint: &Endpoint,
        carrier: Carrier,
    ) -> Result<Connection, DialError> {
        let info = LinkInfo {
            direction: Direction::Outbound,
            carrier,
            remote: endpoint.to_string(),
            path: None,
            mobile: None,
        };
        self.local.gate.admit(peer, &info)?;
        match endpoint {
            Endpoint::Net { host, port } => {
                let link = net::dial(host, *port).await?;
                let link = Counted::new(link, carrier, Arc::clone(&self.counters));
                self.shake_hands(link, info, peer, self.local.handshake_timeout).await
            }
            Endpoint::Libp2p(at) => {
                let swarm = self.listening.swarm.as_ref();
                let swarm = swarm.ok_or_else(|| DialError::Unsupported(endpoint.clone()))?;
                self.dial_swarm(peer, swarm, at, info).await
            }
            Endpoint::Unix(_) | Endpoint::Other(_) => Err(DialError::Unsupported(endpoint.clone())),
        }
    }

    /// A connection that stood already may be dead without our knowing. Then nobody answers soon, and a
    /// new one is made.
    async fn dial_swarm(
        &self,
        peer: PublicKey,
        swarm: &swarm::Handle,
        at: &str,
        info: LinkInfo,
    ) -> Result<Connection, DialError> {
        let whole = self.local.handshake_timeout;
        let (mut patience, mut plain) = (whole.min(REUSE_TIMEOUT), false);
        loop {
            let opened = tokio::time::timeout(SWARM_DIAL_TIMEOUT, swarm.open(at, plain)).await;
            let opened = opened.map_err(|_| DialError::Timeout)??;
            let (id, reused) = (opened.path.id, opened.reused && !patience.is_zero());
            let (result, lacks_carrier) =
                self.shake_over_swarm(opened, &info, peer, if reused { patience } else { whole }).await;
            match result {
                Err(DialError::Handshake(_)) if lacks_carrier && !plain => {
                    debug!(at, "the peer does not know the carrier");
                    plain = true;
                }
                Err(DialError::Handshake(error)) if reused && is_silence(error) => {
                    debug!(at, %error, "a connection that stood is dead");
                    swarm.give_up(id);
                    patience = Duration::ZERO;
                }
                result => return result,
            }
        }
    }

    /// The session, and whether the peer has said that it does not know the carrier. What that moves is counted
    /// below it.
    async fn shake_over_swarm(
        &self,
        opened: Opened,
        info: &LinkInfo,
        peer: PublicKey,
        handshake_timeout: Duration,
    ) -> (Result<Connection, DialError>, bool) {
        let Opened { stream, carrier, remote, path, .. } = opened;
        let info = LinkInfo { carrier, remote, path: Some(path), ..info.clone() };
        match stream {
            SessionStream::Plain(stream) => {
                let link = Counted::new(stream, carrier, Arc::clone(&self.counters));
                (self.shake_hands(link, info, peer, handshake_timeout).await, false)
            }
            SessionStream::Carried(link, mobile) => {
                let info = LinkInfo { mobile: Some(mobile.clone()), ..info };
                let result = self.shake_hands(link, info, peer, handshake_timeout).await;
                (result, mobile.is_unsupported())
            }
        }
    }

    async fn shake_hands<L: Link>(
        &self,
        link: L,
        info: LinkInfo,
        peer: PublicKey,
        handshake_timeout: Duration,
    ) -> Result<Connection, DialError> {
        let local = Local { handshake_timeout, ..self.local.clone() };
        Ok(conn::connect(link, info, &local, peer).await?)
    }
}

/// What a dial to this endpoint will be carried by; `None` if we have no dialer for it. Sockets of this
/// machine are for clients, which have [`unix::dial`].
fn carrier(endpoint: &Endpoint) -> Option<Carrier> {
    match endpoint {
        Endpoint::Net { .. } => Some(Carrier::Net),
        Endpoint::Libp2p(at) if at.contains("/p2p-circuit") => Some(Carrier::Relay),
        Endpoint::Libp2p(at) if at.contains("/quic-v1") => Some(Carrier::Quic),
        Endpoint::Libp2p(_) => Some(Carrier::Tcp),
        Endpoint::Unix(_) | Endpoint::Other(_) => None,
    }
}

/// Whether nothing came from the other end, which a dead line explains as well as anything.
fn is_silence(error: HandshakeError) -> bool {
    match error {
        HandshakeError::Timeout(stage) | HandshakeError::Hangup(stage) => stage == Stage::Hello,
        HandshakeError::Io { .. } => true,
        HandshakeError::Peer(_) | HandshakeError::Refused(_) => false,
    }
}

fn interfaces() -> Interfaces {
    Interfaces::read().unwrap_or_else(|error| {
        debug!(%error, "cannot read the interfaces");
        Interfaces::default()
    })
}

/// Tasks that end at shutdown.
struct Services {
    tasks: JoinSet<&'static str>,
    shutdown: CancellationToken,
}

impl Services {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            shutdown.run_until_cancelled_owned(task).await;
            name
        });
    }
}

fn bind_net(all: &[SocketAddr], context: &Context) -> Result<Vec<TcpListener>, StartError> {
    let mut listeners = Vec::new();
    for &at in all {
        match net::bind(at) {
            Ok(listener) => listeners.push(listener),
            Err(error) if net::family_is_missing(at.ip(), &error) => {
                let address = format!("net:{at}");
                context.tell(Event::Failed(Failure::Listener { address, error }));
            }
            Err(error) => return Err(StartError::Net { at, error }),
        }
    }
    Ok(listeners)
}

async fn listen_net(listener: TcpListener, incoming: mpsc::Sender<Incoming>) {
    loop {
        let (stream, remote) = net::accept(&listener).await;
        if incoming.send(Incoming::Net(stream, remote)).await.is_err() {
            return;
        }
    }
}

async fn listen_unix(socket: unix::Socket, incoming: mpsc::Sender<Incoming>) {
    loop {
        let stream = socket.accept().await;
        if incoming.send(Incoming::Unix(stream, socket.path().to_owned())).await.is_err() {
            return;
        }
    }
}

async fn start_swarm(
    config: &Config,
    context: &Context,
    services: &mut Services,
) -> Result<(Option<swarm::Handle>, mpsc::Receiver<swarm::Event>), StartError> {
    let Some(mut settings) = config.swarm.clone() else { return Ok((None, mpsc::channel(1).1)) };
    // An mDNS responder cannot only listen.
    settings.mdns &= config.lan.announce;
    let setup = swarm::Setup {
        seed: config.node_key,
        announce: config.lan.announce.then_some(context.own),
        interfaces: None,
        policy: AddressPolicy::Internet,
        counters: Arc::clone(&context.counters),
        keypair: Arc::clone(&config.local.keypair),
        network: config.local.network,
    };
    let (handle, events, event_loop) = swarm::start(&settings, setup).await?;
    services.spawn("swarm", event_loop.run(services.shutdown.clone()));
    Ok((Some(handle), events))
}

fn start_lan(
    config: &Config,
    net: &[SocketAddr],
    context: &Context,
    services: &mut Services,
) -> mpsc::Receiver<beacon::Output> {
    let identity =
        lan::Identity { keypair: Arc::clone(&config.local.keypair), network: config.local.network };
    let (out, heard) = mpsc::channel(QUEUE);
    let (lan, failed) = Lan::bind(config.lan.clone(), identity, net.to_vec(), out);
    for error in failed {
        context.tell(Event::Failed(error.into()));
    }
    if config.lan.plain.is_some() || config.lan.encrypted.is_some() {
        services.spawn("beacon", lan.run());
    }
    heard
}

fn tell_addresses(listening: &Listening, context: &Context) {
    for (_, address) in listening.all(&interfaces()) {
        // The swarm reports its own, also later ones.
        if !matches!(address.endpoint, Endpoint::Libp2p(_)) {
            context.tell(Event::Listening(address));
        }
    }
}

#[cfg(test)]
mod tests;
