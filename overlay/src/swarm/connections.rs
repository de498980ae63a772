//! What the swarm tells, taken apart once: connections, listeners and the behaviours' events.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use libp2p::core::ConnectedPoint;
use libp2p::core::transport::{ListenerId, PortUse};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, TransportError, ping};
use tracing::{debug, trace, warn};

use super::relays::Granted;
use super::{BehaviourEvent, Event, EventLoop, link, now};
use crate::carrier::link::Meter;
use crate::carrier::policy::Grant;
use crate::conn::Carrier;

/// A connection that stands.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) peer: PeerId,
    pub(super) remote: Multiaddr,
    pub(super) carrier: Option<Carrier>,
    pub(super) ip: Option<IpAddr>,
    /// Whether we dialled it.
    pub(super) dialled: bool,
    /// We dialled it from a port that we listen on.
    pub(super) from_listener: bool,
    /// Where it came in, as far as the socket knows.
    pub(super) local: Option<SocketAddr>,
    /// The shortest that was measured.
    pub(super) round_trip: Option<Duration>,
    pub(super) since: Instant,
    /// Bytes of sessions that it has carried, both ways.
    pub(super) moved: Arc<AtomicU64>,
    /// What the relay has granted, of a circuit.
    pub(super) limit: Option<Granted>,
}

impl Live {
    fn new(peer: PeerId, endpoint: &ConnectedPoint) -> Self {
        // Who comes over a relay has no address but the one of ours by which it came.
        let remote = match endpoint {
            ConnectedPoint::Listener { local_addr, .. } if endpoint.is_relayed() => local_addr,
            ConnectedPoint::Listener { .. } | ConnectedPoint::Dialer { .. } => endpoint.get_remote_address(),
        };
        let (remote, _) = link::split_peer(remote.clone());
        let (from_listener, local) = match endpoint {
            ConnectedPoint::Dialer { port_use, .. } => (matches!(port_use, PortUse::Reuse), None),
            ConnectedPoint::Listener { local_addr, .. } => (false, link::target(local_addr)),
        };
        Self {
            peer,
            carrier: link::carrier(&remote),
            ip: link::ip(&remote),
            remote,
            dialled: endpoint.is_dialer(),
            from_listener,
            local: local.map(|target| target.at),
            round_trip: None,
            since: now(),
            moved: Arc::default(),
            limit: None,
        }
    }

    /// What the relay lets sessions on this circuit carry, and what they did.
    pub(super) fn meter(&self) -> Option<Meter> {
        let granted = self.limit?.0?;
        Some(Meter { granted, carried: Arc::clone(&self.moved) })
    }

    /// What the relay has granted and what is left of it.
    pub(super) fn grant(&self) -> Option<Grant> {
        let (_, time) = self.limit?;
        let bytes = self.meter().map(|meter| meter.allowance());
        let time = time.map(|granted| (granted, self.since + granted));
        Some(Grant { bytes, time })
    }

    /// A connection that a reservation can be asked on: made by us, hence to an address that works.
    pub(super) fn is_to_relay(&self) -> bool {
        self.dialled && self.carrier.is_some_and(|carrier| carrier != Carrier::Relay)
    }
}

impl EventLoop {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the swarm tells much that nobody here needs")]
    pub(super) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                let live = Live { limit: self.granted(peer_id, &endpoint), ..Live::new(peer_id, &endpoint) };
                self.live.insert(connection_id, live);
                self.upgrade_connected(connection_id, peer_id, &endpoint);
                self.tell_linked(connection_id);
                self.on_dialled(connection_id);
                self.carriers_of_changed(peer_id);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                trace!(%connection_id, ?cause, "connection closed");
                if let Some(live) = self.live.remove(&connection_id) {
                    self.on_relay_left(&live);
                }
                self.upgrade_closed(connection_id, peer_id);
                self.tell_unlinked(connection_id);
                self.carriers_of_changed(peer_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.tell_dial_failed(&error);
                self.on_dial_failed(connection_id, &error);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                debug!(remote = %send_back_addr, %error, "an inbound connection failed");
            }
            // A relay may announce what it likes: what counts is where we have reached it.
            SwarmEvent::NewListenAddr { address, .. } if link::is_relayed(&address) => {}
            SwarmEvent::NewListenAddr { listener_id, address } => {
                self.started(listener_id);
                let at = link::with_peer(&address, self.own_id());
                self.emit(Event::Listening { at, ip: link::ip(&address) });
                self.on_listeners_changed();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } if link::is_relayed(&address) => {}
            SwarmEvent::ListenerClosed { listener_id, .. } if self.is_circuit(listener_id) => {
                self.on_circuit_closed(listener_id);
            }
            SwarmEvent::ExpiredListenAddr { .. } => self.on_listeners_changed(),
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                self.started(listener_id);
                if let Err(error) = reason {
                    let address = addresses.first().map(Multiaddr::to_string).unwrap_or_default();
                    self.emit(Event::ListenerFailed { address, error });
                }
                self.on_listeners_changed();
            }
            SwarmEvent::ListenerError { error, .. } => debug!(%error, "a listener reports an error"),
            _ => {}
        }
    }

    fn started(&mut self, listener: ListenerId) {
        self.starting.retain(|(waiting, _)| *waiting != listener);
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Streams(event) => self.on_stream(event),
            BehaviourEvent::Mdns(event) => self.on_mdns(event),
            BehaviourEvent::Ping(event) => self.on_ping(&event),
            BehaviourEvent::RelayClient(event) => self.on_relay_client(event),
            BehaviourEvent::RelayServer(event) => self.on_relay_server(event),
            BehaviourEvent::Identify(event) => self.on_identify(event),
            BehaviourEvent::Outgoing(dialling) => self.tell_dialling(dialling),
            BehaviourEvent::Limits(never) | BehaviourEvent::Memory(never) => match never {},
        }
    }

    /// TCP notices a peer that vanished only when it has something to send; this ends such a connection.
    fn on_ping(&mut self, event: &ping::Event) {
        if let Err(ping::Failure::Timeout | ping::Failure::Other { .. }) = event.result {
            debug!(connection = %event.connection, "a peer does not answer pings");
            self.swarm.close_connection(event.connection);
        }
        if let Ok(rtt) = event.result {
            if let Some(live) = self.live.get_mut(&event.connection) {
                live.round_trip = Some(live.round_trip.map_or(rtt, |least| least.min(rtt)));
            }
            self.upgrade_measured(event.connection);
            self.on_rtt(event.peer, rtt);
        }
    }

    /// An interface came or went.
    fn on_listeners_changed(&mut self) {
        let before = self.interface_ips();
        self.read_interfaces();
        if !before.is_empty() && before.is_disjoint(&self.interface_ips()) {
            self.leave_network();
        }
        self.tell_local();
        self.list_addresses();
    }

    fn interface_ips(&self) -> BTreeSet<IpAddr> {
        let interfaces = &self.swarm.behaviour().streams.neighbourhood().0;
        interfaces.iter().map(|interface| interface.ip).filter(|ip| !ip.is_loopback()).collect()
    }

    /// None of our addresses is left: no connection over them will ever carry anything again, and what waits for one
    /// shall not wait until libp2p gives it up.
    fn leave_network(&mut self) {
        debug!("we are in another network, or in none");
        let gone = self.live.iter().filter(|(_, live)| live.ip.is_none_or(|ip| !ip.is_loopback()));
        for connection in gone.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.swarm.close_connection(connection);
        }
    }

    /// Tells where we can be dialled: where we listen, and through which relays.
    pub(super) fn list_addresses(&self) {
        let own = self.own_id();
        let mut listeners: Vec<_> = self.swarm.listeners().filter(|at| !link::is_relayed(at)).collect();
        listeners.sort_by_key(|at| (link::carrier(at), link::ip(at)));
        let listeners = listeners.into_iter().map(|at| (link::ip(at), link::with_peer(at, own)));
        let reserved = self.relays.reserved().iter().map(|at| (None, at.clone()));
        self.addresses.send_replace(listeners.chain(reserved).collect());
    }

    /// A standing connection to this peer: at this very address, or by the same transport at the same
    /// host. Circuits of two relays at one host are not the same.
    pub(super) fn standing(&self, peer: PeerId, at: &Multiaddr) -> Option<ConnectionId> {
        let (carrier, ip) = (link::carrier(at), link::ip(at));
        let same_host = |live: &Live| {
            live.carrier == carrier && carrier != Some(Carrier::Relay) && ip.is_some() && live.ip == ip
        };
        let of_peer = || self.live.iter().filter(|(_, live)| live.peer == peer);
        let exact = of_peer().find(|(_, live)| live.remote == *at);
        exact.or_else(|| of_peer().find(|(_, live)| same_host(live))).map(|(id, _)| *id)
    }
}

/// libp2p shares TCP ports with whoever asks for it, another node of ours included, and half of the
/// connections would end there. So the port is tried without sharing first.
pub(super) fn probe_tcp(at: &Multiaddr) -> io::Result<()> {
    let mut parts = at.iter();
    let (Some(ip), Some(Protocol::Tcp(port))) = (link::ip(at), parts.nth(1)) else { return Ok(()) };
    // Whether `::` covers IPv4 as well differs between systems; another node is found by its IPv4 port.
    if port == 0 || ip.is_ipv6() {
        return Ok(());
    }
    TcpListener::bind(SocketAddr::new(ip, port)).map(drop)
}

pub(super) fn io_error(error: TransportError<io::Error>) -> io::Error {
    match error {
        TransportError::Other(error) => error,
        TransportError::MultiaddrNotSupported(at) => {
            warn!(%at, "no transport for this address");
            io::ErrorKind::Unsupported.into()
        }
    }
}
