//! Notes to which hosts we dial, whoever asked for it and whatever comes of it.
//!
//! A packet that we sent may have opened a door, also if it was never answered; so who comes in later from
//! there proves nothing. See [`crate::reachability`].

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::IpAddr;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandlerInEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use super::link;
use crate::reachability::Transport;

/// We dial these hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dialling {
    pub(crate) peer: Option<PeerId>,
    pub(crate) hosts: Vec<(Transport, IpAddr)>,
}

/// The behaviour. Its queue is as short as the list of dials that libp2p has not polled yet.
#[derive(Debug, Default)]
pub(crate) struct Behaviour {
    queue: VecDeque<Dialling>,
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Dialling;

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let hosts =
            addresses.iter().filter_map(link::target).map(|target| (target.transport, target.at.ip()));
        self.queue.push_back(Dialling { peer, hosts: hosts.collect() });
        Ok(Vec::new())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, never: Infallible) {
        match never {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Dialling, THandlerInEvent<Self>>> {
        // Filled by the task that polls: no waker is needed.
        self.queue.pop_front().map_or(Poll::Pending, |dialling| Poll::Ready(ToSwarm::GenerateEvent(dialling)))
    }
}
