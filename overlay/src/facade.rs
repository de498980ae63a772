//! What a node holds of the overlay: start it, dial, and listen to its events.
//!
//! [`Overlay::start`] opens every listener or says which one it cannot and what to do. After that nothing
//! that others do ends it: what fails later is an [`Event::Failed`], and the rest goes on. Inbound
//! handshakes run here, under limits; a session that comes of one is handed to the node, which runs its
//! driver.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::address::Address;
use crate::certificate::Certificate;
use crate::conn::{Link, Local, PathId, TransportId};
use crate::kad::DhtReport;
use crate::keys::PublicKey;
use crate::lan::LanConfig;
use crate::reachability::Report;
use crate::relay::Tier;
use crate::rendezvous::Friend;
use crate::swarm::{self, SwarmConfig};
use crate::unix;
use crate::ws::WsLink;

mod addresses;
mod admission;
mod counters;
mod dial;
mod event;
mod hub;
mod start;

use addresses::Listening;
pub use addresses::Scope;
use admission::Admission;
pub use admission::{Limits, MAX_KNOWN};
pub(crate) use counters::Counted;
pub use counters::{CounterSnapshot, Counters, OK};
pub use dial::DialError;
pub use event::{Event, Failure, Found, MoveFigures, Moved, Source};
use hub::{Context, Hub, Incoming};
pub use start::StartError;
use start::{
    QUEUE, Services, bind_net, interfaces, listen_net, listen_unix, start_lan, start_swarm, tell_addresses,
};

/// Events that may wait for the node. While they do, whoever comes in waits outside.
const EVENTS: usize = 256;
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

/// The running overlay. Dropping it ends all its tasks at once; [`Overlay::shutdown`] lets them finish.
#[derive(Debug)]
pub struct Overlay {
    local: Local,
    listening: Listening,
    counters: Arc<Counters>,
    incoming: mpsc::Sender<Incoming>,
    admission: Admission,
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
        let admission = Admission::new(config.limits);
        let hub = Hub {
            context,
            admission: admission.clone(),
            incoming: links,
            swarm: swarm_events,
            lan,
            services: services.tasks,
            handshakes: JoinSet::new(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(hub.run(shutdown.clone()));
        let hub = Mutex::new(tasks);
        let overlay = Self { local: config.local, listening, counters, incoming, admission, shutdown, hub };
        Ok((overlay, Events(queue)))
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

    /// Says at which IP addresses members are known to be: their handshakes find a place in a flood of others. At most
    /// [`MAX_KNOWN`] count.
    pub fn set_known(&self, ips: impl Iterator<Item = IpAddr>) {
        self.admission.set_known(ips);
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
}

#[cfg(test)]
mod tests;
