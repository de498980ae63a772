//! Where the relay machine meets the swarm: who can relay for us, reservations as listeners, and what we
//! relay ourselves.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use libp2p::core::ConnectedPoint;
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId, relay};
use tracing::{debug, trace};

use super::connections::Live;
use super::dial::Purpose;
use super::{Event, EventLoop, SwarmConfig, SwarmStartError, link, now, relay_server};
use crate::conn::{Carrier, TransportId};
use crate::reachability::Verdict;
use crate::reachability::{Scope, scope};
use crate::relay::{HOME_TOTALS, PUB_TOTALS, RelayService, Tier};
use crate::relays::{Facts, Input, MAX_FIXED, Network, Output, Relays};

#[cfg(test)]
mod tests;

/// What a relay grants for a circuit: bytes, and time.
pub(super) type Granted = (Option<u64>, Option<Duration>);

/// Circuits on their way.
const MAX_GRANTS: usize = 64;

/// Where a relay is: several addresses if the configuration gives them.
type Places = Vec<Multiaddr>;

/// Our reservations with others.
#[derive(Debug)]
pub(super) struct Reservations {
    machine: Relays<PeerId, Places>,
    /// Circuit listeners: one to a relay.
    circuits: BTreeMap<PeerId, Circuit>,
    /// The addresses that others are told.
    reserved: Vec<String>,
    service: RelayService,
    /// What relays granted for circuits whose connections do not stand yet.
    grants: VecDeque<(PeerId, Option<Granted>)>,
}

#[derive(Debug)]
struct Circuit {
    listener: ListenerId,
    state: Answer,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Awaited,
    Accepted { bytes: Option<u64> },
}

impl Reservations {
    pub(super) fn new(own: PeerId, config: &SwarmConfig) -> Result<Self, SwarmStartError> {
        if config.relays.len() > MAX_FIXED {
            return Err(SwarmStartError::TooManyRelays);
        }
        let mut fixed = BTreeMap::<PeerId, Places>::new();
        for text in &config.relays {
            let (at, peer) = relay_address(text).ok_or_else(|| SwarmStartError::BadRelay(text.clone()))?;
            if peer != own {
                fixed.entry(peer).or_default().push(at);
            }
        }
        let mut hasher = DefaultHasher::new();
        own.hash(&mut hasher);
        Ok(Self {
            machine: Relays::new(now(), fixed, hasher.finish()),
            circuits: BTreeMap::new(),
            reserved: Vec::new(),
            service: config.relay,
            grants: VecDeque::new(),
        })
    }

    /// The addresses through relays that others are told.
    pub(super) fn reserved(&self) -> &[String] {
        &self.reserved
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.machine.handle_timeout(now);
    }

    fn handle(&mut self, input: Input<PeerId, Places>) {
        self.machine.handle(now(), input);
    }
}

fn relay_address(text: &str) -> Option<(Multiaddr, PeerId)> {
    let (at, peer) = link::split_peer(text.parse().ok()?);
    let is_direct = link::carrier(&at).is_some_and(|carrier| carrier != Carrier::Relay);
    peer.filter(|_| is_direct).map(|peer| (at, peer))
}

impl EventLoop {
    /// How many reservations to hold.
    pub(super) fn set_reservations_wanted(&mut self, wanted: usize) {
        self.relays.handle(Input::Needed(wanted));
    }

    /// Decides whether to relay. `own_address_is_public`: others reach us at an address of an interface of
    /// ours that nothing translates.
    pub(super) fn update_serving(&mut self, verdict: Verdict, own_address_is_public: bool) {
        let serving = match self.relays.service {
            RelayService::Auto => verdict == Verdict::Public && own_address_is_public,
            RelayService::Always => verdict != Verdict::Private,
            RelayService::Never => false,
        };
        let server = &mut self.swarm.behaviour_mut().relay_server;
        server.set_totals(if own_address_is_public { PUB_TOTALS } else { HOME_TOTALS });
        if server.is_serving() == serving {
            return;
        }
        server.set_serving(serving);
        debug!(serving, "relaying for others");
        self.report.send_modify(|report| report.relaying = serving);
        self.emit(Event::ReachabilityChanged);
    }

    pub(super) fn set_tier(&mut self, peer: &TransportId, tier: Tier) {
        let Ok(peer) = peer.0.parse() else { return };
        self.swarm.behaviour_mut().relay_server.set_tier(peer, tier);
        self.relays.handle(Input::Tier(peer, tier));
    }

    pub(super) fn on_relay_server(&self, event: relay_server::Event) {
        let relay_server::Event::Circuits(circuits) = event;
        // Too frequent for an event of its own.
        self.report.send_modify(|report| report.circuits = circuits);
    }

    pub(super) fn on_relay_client(&mut self, event: relay::client::Event) {
        match event {
            relay::client::Event::ReservationReqAccepted { relay_peer_id: relay, limit, .. } => {
                let bytes = limit.and_then(|limit| limit.data_in_bytes());
                if let Some(circuit) = self.relays.circuits.get_mut(&relay) {
                    circuit.state = Answer::Accepted { bytes };
                    self.relays.handle(Input::Accepted { relay, bytes });
                }
            }
            relay::client::Event::OutboundCircuitEstablished { relay_peer_id: of, limit }
            | relay::client::Event::InboundCircuitEstablished { src_peer_id: of, limit } => {
                // 0 is no limit.
                let bytes = limit.and_then(|limit| limit.data_in_bytes()).filter(|bytes| *bytes > 0);
                self.note_grant(of, limit.map(|limit| (bytes, limit.duration())));
            }
        }
    }

    /// A circuit through this relay, or from this peer: what its connection may do will be asked when it stands.
    fn note_grant(&mut self, of: PeerId, limit: Option<Granted>) {
        trace!(%of, ?limit, "circuit");
        self.relays.grants.push_back((of, limit));
        if self.relays.grants.len() > MAX_GRANTS {
            self.relays.grants.pop_front();
        }
    }

    /// What the relay has granted for a connection that has just been made, if it leads over one.
    pub(super) fn granted(&mut self, peer: PeerId, endpoint: &ConnectedPoint) -> Option<Granted> {
        let of = match endpoint {
            _ if !endpoint.is_relayed() => return None,
            ConnectedPoint::Listener { .. } => peer,
            ConnectedPoint::Dialer { address, .. } => link::relay(address)?.1,
        };
        let grants = &mut self.relays.grants;
        let place = grants.iter().position(|(noted, _)| *noted == of)?;
        grants.remove(place).and_then(|(_, limit)| limit)
    }

    /// A peer has said what it speaks.
    pub(super) fn identified(&mut self, connection: ConnectionId, relay: PeerId, relays: bool) {
        let Some(live) = self.live.get(&connection).filter(|live| live.is_to_relay()) else { return };
        let reach = live.ip.and_then(scope);
        // Names are for everybody.
        let is_public = live.ip.is_none() || reach == Some(Scope::Public);
        let is_of_use = is_public || reach == Some(Scope::Local) || self.is_fixed(relay);
        if !relays || !is_of_use {
            return self.relays.handle(Input::NotRelaying(relay));
        }
        let facts = Facts {
            at: vec![live.remote.clone()],
            network: live.ip.map(Network::of),
            is_public,
            tier: self.swarm.behaviour().relay_server.tier(relay),
        };
        self.relays.handle(Input::Candidate { relay, facts });
    }

    fn is_fixed(&self, relay: PeerId) -> bool {
        self.relays.machine.is_fixed(&relay)
    }

    pub(super) fn on_rtt(&mut self, peer: PeerId, rtt: Duration) {
        self.relays.handle(Input::Rtt(peer, rtt));
    }

    pub(super) fn relay_not_dialled(&mut self, relay: PeerId) {
        self.relays.handle(Input::Disconnected(relay));
    }

    /// A connection is gone.
    pub(super) fn on_relay_left(&mut self, gone: &Live) {
        if gone.is_to_relay() && !self.is_connected_to_relay(gone.peer) {
            self.relays.handle(Input::Disconnected(gone.peer));
        }
    }

    fn is_connected_to_relay(&self, relay: PeerId) -> bool {
        self.live.values().any(|live| live.peer == relay && live.is_to_relay())
    }

    pub(super) fn is_circuit(&self, listener: ListenerId) -> bool {
        self.relays.circuits.values().any(|circuit| circuit.listener == listener)
    }

    /// A relay refused, or a reservation is over.
    pub(super) fn on_circuit_closed(&mut self, listener: ListenerId) {
        let found = self.relays.circuits.iter().find(|(_, circuit)| circuit.listener == listener);
        let Some((relay, state)) = found.map(|(relay, circuit)| (*relay, circuit.state)) else { return };
        self.relays.circuits.remove(&relay);
        self.relays.handle(match state {
            Answer::Awaited => Input::Refused(relay),
            Answer::Accepted { .. } => Input::Closed(relay),
        });
    }

    /// Does what the machine wants.
    pub(super) fn pursue_reservations(&mut self) {
        while let Some(output) = self.relays.machine.poll_output() {
            match output {
                Output::Dial { relay, at } => self.dial_relay(relay, at),
                Output::Reserve { relay, at } => self.reserve(relay, &at),
                Output::Release(relay) => self.release(relay),
                Output::Changed => self.on_reservations_changed(),
                Output::Ended(outcome) => self.setup.counters.own_reservation(outcome),
            }
        }
    }

    fn dial_relay(&mut self, relay: PeerId, at: Places) {
        if self.is_connected_to_relay(relay) {
            // Then it has said what it speaks, and relaying is not among it.
            return self.relays.handle(Input::NotRelaying(relay));
        }
        let at = at.into_iter().filter_map(|at| at.with_p2p(relay).ok()).collect();
        self.dial(at, Purpose::Relay(relay));
    }

    fn reserve(&mut self, relay: PeerId, at: &Places) {
        match self.relays.circuits.get(&relay).map(|circuit| circuit.state) {
            Some(Answer::Accepted { bytes }) => self.relays.handle(Input::Accepted { relay, bytes }),
            // The last request is still under way.
            Some(Answer::Awaited) => {}
            None => self.listen_on_relay(relay, at),
        }
    }

    fn listen_on_relay(&mut self, relay: PeerId, at: &Places) {
        let Some(at) = at.first() else { return };
        let address = at.clone().with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
        match self.swarm.listen_on(address) {
            Ok(listener) => {
                self.relays.circuits.insert(relay, Circuit { listener, state: Answer::Awaited });
            }
            Err(error) => {
                debug!(%relay, %error, "cannot ask for a reservation");
                self.relays.handle(Input::Refused(relay));
            }
        }
    }

    fn release(&mut self, relay: PeerId) {
        debug!(%relay, "a relay is no longer used");
        if let Some(circuit) = self.relays.circuits.remove(&relay) {
            self.swarm.remove_listener(circuit.listener);
        }
    }

    fn on_reservations_changed(&mut self) {
        let own = self.own_id();
        let through = |(relay, at): (&PeerId, &Places)| {
            let at = at.first()?.clone();
            Some(at.with(Protocol::P2p(*relay)).with(Protocol::P2pCircuit).with(Protocol::P2p(own)))
        };
        let held: Vec<_> = self.relays.machine.held().into_iter().filter_map(through).collect();
        let held: Vec<_> = held.iter().map(Multiaddr::to_string).collect();
        let before = std::mem::replace(&mut self.relays.reserved, held.clone());
        for gone in before.iter().filter(|at| !held.contains(at)) {
            debug!(at = gone, "no longer reached through a relay");
            if let Ok(at) = gone.parse() {
                // libp2p counts it among our own addresses.
                self.swarm.remove_external_address(&at);
            }
        }
        self.report.send_modify(|report| report.reservations.clone_from(&held));
        self.list_addresses();
        for new in held.into_iter().filter(|at| !before.contains(at)) {
            self.emit(Event::Listening { at: new, ip: None });
        }
        self.emit(Event::ReachabilityChanged);
    }
}
