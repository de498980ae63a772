//! What our swarm does, put together.

use std::io;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::identity::Keypair;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{identify, memory_connection_limits, ping};

use super::{SwarmConfig, mdns, outgoing, relay_client, relay_server, streams};

/// Connections on their way, in and out.
const MAX_PENDING: u32 = 64;
/// Connections to one peer: circuits over two relays, QUIC and TCP in both directions while a direct
/// connection is sought, and some being replaced.
const MAX_PER_PEER: u32 = 12;
/// Share of the machine's memory at which we take no more connections.
const MAX_MEMORY: f64 = 0.8;

/// The derived behaviour; those that can refuse a connection come first.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    limits: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    outgoing: outgoing::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    mdns: Toggle<mdns::Behaviour>,
    pub(super) streams: streams::Behaviour,
    pub(super) relay_client: relay_client::Behaviour,
    pub(super) relay_server: relay_server::Behaviour,
}

impl Behaviour {
    pub(super) fn new(
        key: &Keypair,
        config: &SwarmConfig,
        streams: streams::Behaviour,
        relay_client: relay_client::Behaviour,
        relay_server: relay_server::Behaviour,
    ) -> io::Result<Self> {
        let mdns = config.mdns.then(|| mdns::Behaviour::new(key.public().to_peer_id())).transpose()?;
        let limits = ConnectionLimits::default()
            .with_max_pending_incoming(Some(MAX_PENDING))
            .with_max_pending_outgoing(Some(MAX_PENDING))
            .with_max_established(Some(config.max_connections))
            .with_max_established_per_peer(Some(MAX_PER_PEER));
        Ok(Self {
            limits: connection_limits::Behaviour::new(limits),
            memory: memory_connection_limits::Behaviour::with_max_percentage(MAX_MEMORY),
            outgoing: outgoing::Behaviour::default(),
            identify: identify::Behaviour::new(identify_config(key)),
            ping: ping::Behaviour::default(),
            mdns: Toggle::from(mdns),
            streams,
            relay_client,
            relay_server,
        })
    }
}

/// Strangers learn no address of ours that they do not know already.
fn identify_config(key: &Keypair) -> identify::Config {
    identify::Config::new("/ssb/1".to_owned(), key.public())
        .with_agent_version(concat!("hawsepipe/", env!("CARGO_PKG_VERSION")).to_owned())
        .with_hide_listen_addrs(true)
        .with_push_listen_addr_updates(true)
        .with_cache_size(0)
}
