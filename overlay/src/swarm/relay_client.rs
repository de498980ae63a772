//! libp2p's relay client, kept from its one fault that a relay could make use of.
//!
//! When a circuit listener is closed, the client forgets the reservation of its connection, and it panics
//! when the relay's answer to a request comes later; when that is, the relay decides. So it does not hear of
//! closed listeners. It then keeps an entry until the connection closes or the next reservation on it
//! replaces it, and its handler lets the reservation go when it is due for renewal. That the address is no
//! longer ours is told by whoever closed the listener.

use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm,
};
use libp2p::{Multiaddr, PeerId, relay};

/// The behaviour.
pub(crate) struct Behaviour(pub(super) relay::client::Behaviour);

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = THandler<relay::client::Behaviour>;
    type ToSwarm = relay::client::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.0.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        at: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.0.handle_established_outbound_connection(connection, peer, at, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if !matches!(event, FromSwarm::ListenerClosed(_)) {
            self.0.on_swarm_event(event);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.0.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.0.poll(cx)
    }
}
