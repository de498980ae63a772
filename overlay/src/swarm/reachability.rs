//! Feeds [`crate::reachability`] with what the swarm sees, and does what it wants done.

use std::collections::BTreeSet;
use std::time::Duration;

use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, identify, relay};
use tracing::{debug, trace};

use super::outgoing::Dialling;
use super::streams::Protocol;
use super::{Event, EventLoop, link, now};
use crate::reachability::{Input, Link, Nat, Output, Report, Transport};

/// Reservations of a node that others cannot dial, and of one that few reach directly.
const RESERVATIONS: usize = 2;
const RESERVATIONS_BEHIND_HARD_NAT: usize = 3;
/// How long reservations are kept when others turn out to reach us without: whoever has heard of one dials it.
const LINGER: Duration = Duration::from_secs(5 * 60);

impl EventLoop {
    /// Interfaces and sockets are these now.
    pub(super) fn tell_local(&mut self) {
        let interfaces = self.swarm.behaviour().streams.neighbourhood();
        let interfaces = interfaces.0.iter().map(|interface| interface.ip).collect();
        let listening = self.swarm.listeners().filter_map(link::target).collect();
        self.reach.handle(now(), Input::Local { interfaces, listening });
    }

    /// A connection stands. Relayed ones say nothing of our own addresses.
    pub(super) fn tell_linked(&mut self, id: ConnectionId) {
        let Some(live) = self.live.get(&id) else { return };
        let Some(transport) = link::transport(&live.remote) else { return };
        let link = Link {
            peer: live.peer,
            transport,
            remote: link::target(&live.remote).map(|target| target.at),
            local: live.local.filter(|at| !at.ip().is_unspecified()),
            inbound: !live.dialled,
        };
        self.reach.handle(now(), Input::Linked { id, link });
    }

    pub(super) fn tell_unlinked(&mut self, id: ConnectionId) {
        self.reach.handle(now(), Input::Unlinked { id });
    }

    pub(super) fn tell_dialling(&mut self, Dialling { peer, hosts }: Dialling) {
        self.reach.handle(now(), Input::Dialling { peer, hosts });
    }

    /// QUIC that never comes through, where TCP does, is a network without UDP.
    pub(super) fn tell_dial_failed(&mut self, error: &DialError) {
        let DialError::Transport(errors) = error else { return };
        let failed: BTreeSet<_> = errors.iter().filter_map(|(at, _)| link::target(at)).collect();
        for target in failed.into_iter().filter(|target| target.transport == Transport::Quic) {
            self.reach.handle(now(), Input::QuicFailed(target.at.ip()));
        }
    }

    /// The raw address counts: libp2p's own candidates have the port that we listen on in place of the one
    /// that the NAT gave us.
    pub(super) fn on_identify(&mut self, event: identify::Event) {
        let identify::Event::Received { connection_id: id, peer_id, info } = event else {
            trace!(?event, "identify");
            return;
        };
        let Some(live) = self.live.get(&id) else { return };
        let seen = live.from_listener.then(|| link::target(&info.observed_addr)).flatten();
        let serves = info.protocols.iter().any(|name| name.as_ref() == Protocol::AutonatRequest.name());
        self.reach.handle(now(), Input::Identified { id, seen, serves });
        self.identified(id, peer_id, info.protocols.contains(&relay::HOP_PROTOCOL_NAME));
        self.dht_identified(id, &info);
    }

    /// Does what the machine wants done.
    pub(super) fn act_on_reachability(&mut self) {
        while let Some(output) = self.reach.poll_output() {
            match output {
                Output::Probe { id, target } => self.probe(id, target),
                Output::Confirmed(target) => {
                    debug!(%target, "others reach us");
                    self.swarm.add_external_address(link::multiaddr(target));
                }
                Output::Lost(target) => {
                    debug!(%target, "others no longer reach us");
                    let at: Multiaddr = link::multiaddr(target);
                    self.swarm.remove_external_address(&at);
                }
                Output::Report(report) => self.publish(*report),
            }
        }
    }

    /// What it says of relays is kept: that part is other people's.
    fn publish(&mut self, new: Report) {
        self.serve_autonat(new.verdict == crate::reachability::Verdict::Public);
        let changed = self.report.send_if_modified(|report| {
            let merged = Report {
                reservations: std::mem::take(&mut report.reservations),
                relaying: report.relaying,
                circuits: report.circuits,
                ..new
            };
            let before = std::mem::replace(report, merged);
            (before.verdict, before.v4, before.v6) != (report.verdict, report.v4, report.v6)
                || before.addresses != report.addresses
        });
        if changed {
            self.relay_as_reachable();
            self.emit(Event::ReachabilityChanged);
        }
    }

    /// What follows from it for relays. Behind a NAT also an open one keeps its reservations: what holds
    /// them keeps the NAT's port open.
    pub(super) fn relay_as_reachable(&mut self) {
        let (verdict, hard) = {
            let report = self.report.borrow();
            (report.verdict, [report.v4.udp, report.v4.tcp].into_iter().any(Nat::is_endpoint_dependent))
        };
        // What is only presumed may be wrong, and nobody but a relay can say so.
        let proven = self.reach.is_own_address_proven();
        self.proven_since = self.proven_since.or(Some(now())).filter(|_| proven);
        let needs_none = self.proven_since.is_some_and(|since| now() >= since + LINGER);
        self.set_reservations_wanted(match (needs_none, hard) {
            (true, _) => 0,
            (false, false) => RESERVATIONS,
            (false, true) => RESERVATIONS_BEHIND_HARD_NAT,
        });
        self.update_serving(verdict, self.reach.is_own_address_reachable());
        self.update_dht_serving(verdict, self.reach.is_own_address_reachable());
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tokio::sync::mpsc;

    use super::*;
    use crate::lan::{Interface, Interfaces};
    use crate::reachability::{AddressPolicy, AddressState, Verdict};
    use crate::swarm::{Handle, Setup, SwarmConfig, start};

    async fn node(policy: AddressPolicy) -> (Handle, mpsc::Receiver<Event>, EventLoop) {
        let listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()];
        let config = SwarmConfig { listen, mdns: false, max_connections: 4, ..SwarmConfig::default() };
        let interfaces = Interfaces(vec![Interface { ip: "127.0.0.1".parse().unwrap(), prefix: 8 }]);
        let setup = Setup { seed: [1; 32], interfaces: Some(interfaces), policy, ..Setup::anonymous() };
        start(&config, setup).await.unwrap()
    }

    fn changes(events: &mut mpsc::Receiver<Event>) -> usize {
        let all = std::iter::from_fn(|| events.try_recv().ok());
        all.filter(|event| matches!(event, Event::ReachabilityChanged)).count()
    }

    async fn until_external(event_loop: &mut EventLoop, count: usize) {
        let run = async {
            while event_loop.swarm.external_addresses().count() != count {
                let event = event_loop.swarm.select_next_some().await;
                event_loop.on_event(event);
                event_loop.act_on_reachability();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), run).await.unwrap();
    }

    #[tokio::test]
    async fn a_new_report_is_told_once_and_keeps_what_others_wrote() {
        let (handle, mut events, mut event_loop) = node(AddressPolicy::AndLoopback).await;
        event_loop.report.send_modify(|report| {
            report.reservations = vec!["a relay".to_owned()];
            report.circuits = 3;
        });
        event_loop.act_on_reachability();
        // Another one tells that we relay from now on.
        assert!(changes(&mut events) >= 1);
        event_loop.tell_local();
        event_loop.act_on_reachability();
        assert_eq!(changes(&mut events), 0);
        let report = handle.reachability();
        let own = event_loop.swarm.listeners().next().unwrap().to_string();
        assert_eq!(
            (report.verdict, report.addresses),
            (Verdict::Public, vec![(own, AddressState::Reachable)])
        );
        assert_eq!((report.reservations.len(), report.circuits), (1, 3));
        assert_eq!(event_loop.swarm.external_addresses().count(), 1);
    }

    #[tokio::test]
    async fn with_its_listener_an_address_is_gone() {
        let (handle, mut events, mut event_loop) = node(AddressPolicy::AndLoopback).await;
        let listener = event_loop.swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        until_external(&mut event_loop, 2).await;
        event_loop.swarm.remove_listener(listener);
        until_external(&mut event_loop, 1).await;
        assert_eq!(handle.reachability().addresses.len(), 1);
        assert!(changes(&mut events) >= 2);
    }

    #[tokio::test]
    async fn on_the_internet_loopback_is_no_address() {
        let (handle, mut events, mut event_loop) = node(AddressPolicy::Internet).await;
        event_loop.act_on_reachability();
        assert_eq!(handle.reachability(), Report::default());
        assert_eq!(changes(&mut events), 0);
    }
}
