//! The libp2p swarm: QUIC and TCP connections, and the peers that mDNS finds.
//!
//! One task owns it: a handle sends commands in, events come out, and libp2p's types stay in this
//! folder. A libp2p connection proves only a transport key that anybody can make; on its streams runs SHS,
//! which proves the feed, so what leaves here are plain byte streams. Connections without a stream close
//! after [`IDLE_TIMEOUT`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use libp2p::core::transport::ListenerId;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::{self, ConnectionId, Swarm};
use libp2p::{Multiaddr, PeerId, relay};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::certificate::Certificate;
use crate::clock::now;
use crate::conn::{Carrier, Local, Path, PathId, TransportId};
use crate::facade::{Counters, Found};
use crate::kad::{DhtReport, Lookup};
use crate::keys::{NetworkKey, PublicKey};
use crate::lan::Interfaces;
use crate::net;
use crate::reachability::{AddressPolicy, Machine, Report, scope};
use crate::relay::{HOME_TOTALS, RelayService, Tier};
use crate::rendezvous::{self, Friend};

mod autonat;
mod behaviour;
mod carriers;
mod connections;
mod delimited;
mod dial;
mod discovery;
mod kad;
mod link;
mod mdns;
mod neighbours;
mod outgoing;
mod reachability;
mod relay_client;
mod relay_server;
mod relays;
mod streams;
mod transport;
mod upgrade;

use behaviour::{Behaviour, BehaviourEvent};
use carriers::Carriers;
pub(crate) use carriers::Moved;
pub use dial::SwarmDialError;
use dial::{Dialled, Purpose};
pub(crate) use dial::{Opened, SessionStream};
use discovery::Asked;
pub(crate) use link::{SwarmStream, is_unsupported};
use neighbours::Neighbours;
use relays::Reservations;
use streams::{KadName, OpenId};
use upgrade::machine::Upgrades;
use upgrade::{Exchanged, Question};

/// A connection without a stream is closed after this.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Commands that may wait.
const COMMANDS: usize = 64;
/// Events that may wait. One that finds no room is dropped: an inbound stream closes, a discovery comes
/// again.
const EVENTS: usize = 128;
/// How long listeners may take to report their first address.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks at the clock.
const TICK: Duration = Duration::from_secs(1);
/// Streams of one connection that may be negotiated at a time.
const MAX_NEGOTIATING: usize = 16;

/// What the swarm is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwarmConfig {
    /// Multiaddrs to listen on, such as `/ip4/0.0.0.0/udp/8009/quic-v1`.
    pub listen: Vec<String>,
    /// Whether to find peers on local networks by mDNS.
    pub mdns: bool,
    /// Most connections.
    pub max_connections: u32,
    /// When to relay for others.
    pub relay: RelayService,
    /// Relays to use before those that are found by chance: multiaddrs that end in `/p2p/ID`.
    pub relays: Vec<String>,
    /// Whether direct connections are sought beside relayed ones.
    pub direct: bool,
    /// Whether sessions can move from connection to connection, with peers that can do it too.
    pub carrier: bool,
    /// The DHT.
    pub dht: DhtConfig,
}

/// What to do with the DHT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DhtConfig {
    /// Whether to take part.
    pub service: DhtService,
    /// Nodes to begin with, of earlier runs and by the operator: multiaddrs that end in `/p2p/ID`. What is
    /// none, or leads nowhere, is passed over.
    pub nodes: Vec<String>,
    /// Who can find us.
    pub rendezvous: rendezvous::Tier,
}

/// When to take part in the DHT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DhtService {
    /// Ask always, answer others while they can reach us at an address of our own.
    #[default]
    Auto,
    /// Answer others in any case: for networks that are not part of the Internet.
    Always,
    /// Only ask.
    Client,
    /// Neither.
    Off,
}

impl Default for SwarmConfig {
    /// QUIC and TCP of both families on ports that the system chooses.
    fn default() -> Self {
        let listen =
            ["/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/0.0.0.0/tcp/0", "/ip6/::/udp/0/quic-v1", "/ip6/::/tcp/0"];
        Self {
            listen: listen.map(str::to_owned).to_vec(),
            mdns: true,
            max_connections: 512,
            relay: RelayService::default(),
            relays: Vec::new(),
            direct: true,
            carrier: true,
            dht: DhtConfig::default(),
        }
    }
}

/// What else the swarm has to know.
pub(crate) struct Setup {
    /// Seed of the transport key.
    pub(crate) seed: [u8; 32],
    /// The feed that we answer with on local networks; `None` answers nobody.
    pub(crate) announce: Option<PublicKey>,
    /// Local networks, for tests; else the system's.
    pub(crate) interfaces: Option<Interfaces>,
    /// Where strangers can be, for tests; else the Internet.
    pub(crate) policy: AddressPolicy,
    /// What is counted here.
    pub(crate) counters: Arc<Counters>,
    /// Our feed's keys and network: they decide what we are found by.
    pub(crate) keypair: Arc<ssb_crypto::Keypair>,
    pub(crate) network: NetworkKey,
}

#[cfg(test)]
impl Setup {
    /// Some feed that tells nobody of itself, on the Internet.
    fn anonymous() -> Self {
        let _ = ssb_crypto::sodium::init();
        Self {
            seed: [0; 32],
            announce: None,
            interfaces: None,
            policy: AddressPolicy::Internet,
            counters: Arc::default(),
            keypair: Arc::new(ssb_crypto::Keypair::generate()),
            network: NetworkKey::MAIN,
        }
    }
}

/// Why the swarm does not start.
#[derive(Debug, thiserror::Error)]
pub enum SwarmStartError {
    /// Not a multiaddr.
    #[error("{0} is not a multiaddr: write for example /ip4/0.0.0.0/udp/8009/quic-v1")]
    BadAddress(String),
    /// Not `…/udp/PORT/quic-v1` or `…/tcp/PORT`.
    #[error("{0} is none of our transports: end it in /udp/PORT/quic-v1 or /tcp/PORT")]
    UnknownTransport(String),
    /// The system refused.
    #[error(
        "cannot listen on {address}: {error}; is another node running, or does another program use the port?"
    )]
    Listen {
        /// Where.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// Not where a relay is.
    #[error("{0} is no relay's address: write for example /ip4/192.0.2.1/udp/8009/quic-v1/p2p/12D3Koo...")]
    BadRelay(String),
    /// More relays than are of use.
    #[error("too many relays: name at most {}", crate::relays::MAX_FIXED)]
    TooManyRelays,
    /// The key or the encryption library.
    #[error("cannot set up the transport's encryption")]
    Encryption,
    /// The system refused to tell of its interfaces.
    #[error("cannot start mDNS: {0}")]
    Mdns(io::Error),
}

/// What the swarm reports.
#[derive(Debug)]
pub(crate) enum Event {
    /// A peer opened a stream for a session.
    Inbound { stream: SessionStream, carrier: Carrier, remote: String, path: Path, ip: Option<IpAddr> },
    /// A feed claims to be at a multiaddr.
    Discovered { feed: PublicKey, at: String },
    /// It is no longer heard of there.
    Expired { feed: PublicKey, at: String },
    /// We listen on another address.
    Listening { at: String, ip: Option<IpAddr> },
    /// A direct connection stands beside a relayed one.
    DirectPath { relayed: PathId, at: String },
    /// A session went to another path, or could not.
    Moved(Moved),
    /// There is another [`Report`].
    ReachabilityChanged,
    /// A friend was found.
    Found(Found),
    /// What was found of it no longer holds.
    NotFound(PublicKey),
    /// For metrics.
    Lookup(Lookup),
    /// There is another [`DhtReport`].
    DhtChanged,
    /// A listener is gone.
    ListenerFailed { address: String, error: io::Error },
}

/// Where we listen: the address's IP, and the multiaddr with our peer id; QUIC first.
pub(crate) type ListenAddresses = Vec<(Option<IpAddr>, String)>;

/// The way in.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    commands: mpsc::Sender<Command>,
    addresses: watch::Receiver<ListenAddresses>,
    report: watch::Receiver<Report>,
    dht: watch::Receiver<kad::Shown>,
    own: TransportId,
}

enum Command {
    SetFriends(BTreeMap<PublicKey, Friend>),
    AddDhtNodes(Vec<String>),
    Open { at: Multiaddr, plain: bool, reply: oneshot::Sender<Result<Opened, SwarmDialError>> },
    SeekDirect(PathId),
    GiveUp(PathId),
    SetTier(TransportId, Tier),
}

impl Handle {
    /// Opens a stream for a session to the peer at a multiaddr, over a connection that we have or a new
    /// one; with `plain`, without the carrier.
    pub(crate) async fn open(&self, at: &str, plain: bool) -> Result<Opened, SwarmDialError> {
        let at = at.parse().map_err(|_| SwarmDialError::BadAddress)?;
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Open { at, plain, reply }).await.map_err(|_| SwarmDialError::Stopped)?;
        answer.await.map_err(|_| SwarmDialError::Stopped)?
    }

    /// Where we listen.
    pub(crate) fn addresses(&self) -> ListenAddresses {
        self.addresses.borrow().clone()
    }

    /// How others can reach us.
    pub(crate) fn reachability(&self) -> Report {
        self.report.borrow().clone()
    }

    /// See [`crate::Overlay::seek_direct`].
    pub(crate) fn seek_direct(&self, relayed: PathId) {
        self.tell(Command::SeekDirect(relayed));
    }

    /// See [`crate::Overlay::set_tier`].
    pub(crate) fn set_tier(&self, peer: TransportId, tier: Tier) {
        self.tell(Command::SetTier(peer, tier));
    }

    /// See [`crate::Overlay::set_friends`].
    pub(crate) fn set_friends(&self, friends: BTreeMap<PublicKey, Friend>) {
        self.tell(Command::SetFriends(friends));
    }

    /// See [`crate::Overlay::add_dht_nodes`].
    pub(crate) fn add_dht_nodes(&self, at: Vec<String>) {
        self.tell(Command::AddDhtNodes(at));
    }

    /// What is known of the DHT.
    pub(crate) fn dht(&self) -> DhtReport {
        self.dht.borrow().report
    }

    /// Nodes worth remembering.
    pub(crate) fn dht_nodes(&self) -> Vec<String> {
        self.dht.borrow().nodes.clone()
    }

    /// See [`crate::Overlay::certificate`].
    pub(crate) fn certificate(&self, local: &Local) -> Certificate {
        let addresses = self.dht.borrow().public.clone();
        Certificate::sign(&local.keypair, local.network, self.own.clone(), addresses, unix())
    }

    /// Closes a connection on which nobody answers.
    pub(crate) fn give_up(&self, path: PathId) {
        self.tell(Command::GiveUp(path));
    }

    fn tell(&self, command: Command) {
        if self.commands.try_send(command).is_err() {
            debug!("no room for a command to the swarm");
        }
    }
}

/// Drives the swarm.
pub(crate) struct EventLoop {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    addresses: watch::Sender<ListenAddresses>,
    report: watch::Sender<Report>,
    setup: Setup,
    /// Connections that stand.
    live: BTreeMap<ConnectionId, connections::Live>,
    /// Connections that we wait for, and what for.
    dialling: BTreeMap<ConnectionId, Dialled>,
    /// Dials by TCP for what is being dialled by QUIC.
    beside: BTreeMap<ConnectionId, ConnectionId>,
    /// Streams that we wait for, and what for.
    opening: BTreeMap<OpenId, Purpose>,
    /// Questions of who is there: asked and being answered.
    asking: JoinSet<Asked>,
    neighbours: Neighbours,
    /// From relayed connections to direct ones.
    upgrades: Upgrades,
    direct: bool,
    /// Exchanges of addresses under way, and those that wait for us.
    exchanges: JoinSet<Exchanged>,
    questions: BTreeMap<ConnectionId, Question>,
    own_ips: BTreeSet<IpAddr>,
    /// How others can reach us.
    reach: Machine<ConnectionId, PeerId>,
    /// Since when others are known to reach us at an address of our own.
    proven_since: Option<Instant>,
    autonat: autonat::State,
    /// Listeners that have not reported an address yet.
    starting: Vec<(ListenerId, String)>,
    /// Transport and IP version of those on all addresses.
    everywhere: Vec<(Option<Carrier>, bool)>,
    /// What we relay, and who relays for us.
    relays: Reservations,
    /// Our part in the DHT, and its conversations.
    dht: Option<kad::State>,
    talks: JoinSet<kad::Talked>,
    /// Sessions that can move.
    carriers: Carriers,
}

/// Makes the swarm and waits until it listens: an earlier dial would come from a port that nobody can
/// answer to.
pub(crate) async fn start(
    config: &SwarmConfig,
    setup: Setup,
) -> Result<(Handle, mpsc::Receiver<Event>, EventLoop), SwarmStartError> {
    let mut seed = setup.seed;
    let key = Keypair::ed25519_from_bytes(&mut seed).map_err(|_| SwarmStartError::Encryption)?;
    let relays = Reservations::new(key.public().to_peer_id(), config)?;
    let swarm = make(&key, config, &setup)?;
    let (commands, command_queue) = mpsc::channel(COMMANDS);
    let (events, event_queue) = mpsc::channel(EVENTS);
    let (addresses, handle_addresses) = watch::channel(Vec::new());
    let (report, handle_report) = watch::channel(Report::default());
    let (shown, handle_dht) = watch::channel(kad::Shown::default());
    let own = key.public().to_peer_id();
    let dht = kad::State::new(own, &config.dht, &setup, shown);
    let own = TransportId(own.to_base58());
    let mut event_loop = EventLoop {
        swarm,
        commands: command_queue,
        events,
        addresses,
        report,
        reach: Machine::new(setup.policy),
        proven_since: None,
        autonat: autonat::State::new(),
        setup,
        live: BTreeMap::new(),
        dialling: BTreeMap::new(),
        beside: BTreeMap::new(),
        opening: BTreeMap::new(),
        asking: JoinSet::new(),
        neighbours: Neighbours::default(),
        upgrades: Upgrades::default(),
        direct: config.direct,
        exchanges: JoinSet::new(),
        questions: BTreeMap::new(),
        own_ips: BTreeSet::new(),
        starting: Vec::new(),
        everywhere: Vec::new(),
        relays,
        dht,
        talks: JoinSet::new(),
        carriers: Carriers::new(config.carrier),
    };
    for address in &config.listen {
        event_loop.listen(address)?;
    }
    event_loop.read_interfaces();
    event_loop.wait_for_listeners().await;
    event_loop.relay_as_reachable();
    let handle =
        Handle { commands, addresses: handle_addresses, report: handle_report, dht: handle_dht, own };
    Ok((handle, event_queue, event_loop))
}

fn make(key: &Keypair, config: &SwarmConfig, setup: &Setup) -> Result<Swarm<Behaviour>, SwarmStartError> {
    let own = key.public().to_peer_id();
    let (circuits, relay_client) = relay::client::new(own);
    let transport = transport::build(key, circuits).map_err(|_| SwarmStartError::Encryption)?;
    let relay_server = relay_server::Behaviour::new(own, HOME_TOTALS, Arc::clone(&setup.counters));
    let relay_client = relay_client::Behaviour(relay_client);
    let takes_part = config.dht.service != DhtService::Off;
    let kad = takes_part.then(|| KadName::of(setup.network));
    let streams = streams::Behaviour::new(setup.announce.is_some(), config.carrier, kad);
    let behaviour =
        Behaviour::new(key, config, streams, relay_client, relay_server).map_err(SwarmStartError::Mdns)?;
    let settings = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE_TIMEOUT)
        // Where one protocol is asked for, the first bytes go with the question: on a relayed connection
        // every round trip saved is the sum of two.
        .with_substream_upgrade_protocol_override(Version::V1Lazy)
        .with_max_negotiating_inbound_streams(MAX_NEGOTIATING);
    Ok(Swarm::new(transport, behaviour, own, settings))
}

impl EventLoop {
    /// Runs until shutdown; dropping the swarm closes its connections.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = due(self.fallback_due()) => self.dial_fallbacks(now()),
                () = due(self.upgrades.poll_timeout()) => self.upgrades.handle_timeout(now()),
                Some(exchanged) = self.exchanges.join_next() => self.on_exchanged(exchanged),
                Some(command) = self.commands.recv() => self.on_command(command),
                Some(asked) = self.asking.join_next() => self.on_asked(asked),
                Some(done) = self.autonat.tasks.join_next() => self.on_autonat(done),
                Some(talked) = self.talks.join_next() => self.on_talked(talked),
                () = due(self.dht.as_ref().and_then(kad::State::poll_timeout)) => self.on_dht_timeout(),
                happened = self.carriers.next() => self.on_carriers(happened),
                _ = tick.tick() => self.on_tick(),
                () = due(self.relays.poll_timeout()) => self.relays.handle_timeout(now()),
                event = self.swarm.select_next_some() => self.on_event(event),
            }
            self.discover();
            self.upgrade();
            self.act_on_reachability();
            self.notice_move();
            self.pursue_reservations();
            self.pursue_dht();
            self.pursue_carriers();
        }
    }

    fn on_tick(&mut self) {
        let now = now();
        self.neighbours.handle_timeout(now);
        self.reach.handle_timeout(now);
        self.relay_as_reachable();
        self.on_dht_tick();
        self.carriers.look_at_all();
    }

    fn listen(&mut self, text: &str) -> Result<(), SwarmStartError> {
        let address: Multiaddr = text.parse().map_err(|_| SwarmStartError::BadAddress(text.to_owned()))?;
        if link::target(&address).is_none() {
            return Err(SwarmStartError::UnknownTransport(text.to_owned()));
        }
        let (ip, carrier) = (link::ip(&address), link::carrier(&address));
        let listener = connections::probe_tcp(&address)
            .and_then(|()| self.swarm.listen_on(address).map_err(connections::io_error));
        match listener {
            Ok(listener) => {
                self.starting.push((listener, text.to_owned()));
                self.everywhere.extend(ip.filter(IpAddr::is_unspecified).map(|ip| (carrier, ip.is_ipv4())));
            }
            Err(error) if ip.is_some_and(|ip| net::family_is_missing(ip, &error)) => {
                self.emit(Event::ListenerFailed { address: text.to_owned(), error });
            }
            Err(error) => return Err(SwarmStartError::Listen { address: text.to_owned(), error }),
        }
        Ok(())
    }

    async fn wait_for_listeners(&mut self) {
        let all = async {
            while !self.starting.is_empty() || !self.listens_everywhere() {
                let event = self.swarm.select_next_some().await;
                self.on_event(event);
            }
        };
        if tokio::time::timeout(LISTEN_TIMEOUT, all).await.is_err() && !self.starting.is_empty() {
            let missing: Vec<_> = self.starting.iter().map(|(_, address)| address).collect();
            warn!(?missing, "no address to listen on yet");
        }
    }

    /// Whether each listener on all addresses has reported those of all interfaces: they come one by one.
    fn listens_everywhere(&self) -> bool {
        let interfaces = &self.swarm.behaviour().streams.neighbourhood().0;
        let listeners: Vec<_> = self.swarm.listeners().collect();
        self.everywhere.iter().all(|(carrier, is_v4)| {
            let mut ips = interfaces.iter().map(|interface| interface.ip);
            ips.all(|ip| {
                let here = |at: &&Multiaddr| link::carrier(at) == *carrier && link::ip(at) == Some(ip);
                ip.is_ipv4() != *is_v4 || scope(ip).is_none() || listeners.iter().any(here)
            })
        })
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Open { at, plain, reply } => self.open(at, plain, reply),
            Command::SeekDirect(relayed) => self.seek_direct(relayed),
            Command::GiveUp(path) => self.give_up(path),
            Command::SetTier(peer, tier) => self.set_tier(&peer, tier),
            Command::SetFriends(friends) => self.set_friends(friends),
            Command::AddDhtNodes(at) => self.add_dht_nodes(&at),
        }
    }

    fn read_interfaces(&mut self) {
        let interfaces = match &self.setup.interfaces {
            Some(given) => Ok(given.clone()),
            None => Interfaces::read(),
        };
        match interfaces {
            Ok(interfaces) => self.swarm.behaviour_mut().streams.set_neighbourhood(interfaces),
            Err(error) => debug!(%error, "cannot read the interfaces"),
        }
    }

    fn emit(&self, event: Event) {
        if self.events.try_send(event).is_err() {
            debug!("no room for an event of the swarm");
        }
    }

    fn own_id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }
}

/// Ends at that time.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Since 1970; a clock before that is broken, and taken for it.
#[expect(clippy::disallowed_methods, reason = "this is the shell that gives its machines the clock")]
fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests;
