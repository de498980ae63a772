//! mDNS with a bound.
//!
//! libp2p's mDNS keeps every record that any host of the network sends, in a table without limit. This
//! wrapper gives the table up when it has grown beyond what an honest network holds, rests, and starts
//! anew. Only IPv4: the IPv6 form announces link-local addresses without their zone, which nobody can
//! dial.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::{ListenerId, PortUse};
use libp2p::mdns;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NewListenAddr, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};
use tokio::time::Sleep;
use tracing::warn;

use super::link;

/// Most records. Each peer has one for each of its addresses.
pub(crate) const MAX_RECORDS: usize = 2048;
/// The rest after a flood.
pub(crate) const REST: Duration = Duration::from_secs(60);

/// A peer that does not renew its records is forgotten after this.
const TTL: Duration = Duration::from_secs(3 * 60);
/// So that each node is asked well before its records expire.
const QUERY_INTERVAL: Duration = Duration::from_secs(60);

/// What mDNS says.
#[derive(Debug)]
pub(crate) enum Event {
    Found(Vec<(PeerId, Multiaddr)>),
    Lost(Vec<(PeerId, Multiaddr)>),
    /// Too many records: all of them are forgotten.
    Flooded,
}

/// The behaviour.
pub(crate) struct Behaviour {
    state: State,
    own: PeerId,
    /// To tell the next instance what the swarm told this one.
    listening: BTreeMap<Multiaddr, ListenerId>,
    queue: VecDeque<Event>,
}

enum State {
    Running(Box<mdns::tokio::Behaviour>),
    Resting(Pin<Box<Sleep>>),
}

impl Behaviour {
    pub(crate) fn new(own: PeerId) -> io::Result<Self> {
        let state = State::Running(Box::new(instance(own)?));
        Ok(Self { state, own, listening: BTreeMap::new(), queue: VecDeque::new() })
    }

    fn rest(&mut self) {
        warn!("mDNS is flooded: it rests for {} s", REST.as_secs());
        self.queue.push_back(Event::Flooded);
        self.state = State::Resting(Box::pin(tokio::time::sleep(REST)));
    }

    fn resume(&mut self) {
        match instance(self.own) {
            Ok(mut inner) => {
                for (addr, listener) in &self.listening {
                    let event = NewListenAddr { listener_id: *listener, addr };
                    inner.on_swarm_event(FromSwarm::NewListenAddr(event));
                }
                self.state = State::Running(Box::new(inner));
            }
            Err(error) => {
                warn!(%error, "cannot start mDNS again");
                self.state = State::Resting(Box::pin(tokio::time::sleep(REST)));
            }
        }
    }
}

fn instance(own: PeerId) -> io::Result<mdns::tokio::Behaviour> {
    let config = mdns::Config { ttl: TTL, query_interval: QUERY_INTERVAL, enable_ipv6: false };
    mdns::tokio::Behaviour::new(config, own)
}

fn translate(event: mdns::Event) -> Event {
    match event {
        mdns::Event::Discovered(found) => Event::Found(found),
        mdns::Event::Expired(lost) => Event::Lost(lost),
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::NewListenAddr(new) = event {
            if link::is_relayed(new.addr) {
                // Neighbours need no relay, and need not know ours.
                return;
            }
            self.listening.insert(new.addr.clone(), new.listener_id);
        } else if let FromSwarm::ExpiredListenAddr(expired) = event {
            self.listening.remove(expired.addr);
        }
        if let State::Running(inner) = &mut self.state {
            inner.on_swarm_event(event);
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Poll::Ready(ToSwarm::GenerateEvent(event));
            }
            match &mut self.state {
                State::Resting(sleep) => {
                    std::task::ready!(sleep.as_mut().poll(cx));
                    self.resume();
                }
                State::Running(inner) if inner.discovered_nodes().len() > MAX_RECORDS => self.rest(),
                State::Running(inner) => {
                    // The rest are addresses of strangers for the tables of other behaviours.
                    if let ToSwarm::GenerateEvent(event) = std::task::ready!(inner.poll(cx)) {
                        self.queue.push_back(translate(event));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flooded_table_is_given_up_and_after_a_rest_a_new_one_knows_where_we_listen() {
        let mut mdns = Behaviour::new(PeerId::random()).unwrap();
        let addr: Multiaddr = "/ip4/192.0.2.1/tcp/9".parse().unwrap();
        let listener_id = ListenerId::next();
        mdns.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr: &addr }));
        mdns.rest();
        let first = poll_fn(|cx| mdns.poll(cx)).await;
        assert!(matches!(first, ToSwarm::GenerateEvent(Event::Flooded)));
        let resting = poll_fn(|cx| Poll::Ready(mdns.poll(cx).is_pending())).await;
        assert!(resting && matches!(mdns.state, State::Resting(_)));
        tokio::time::advance(REST).await;
        poll_fn(|cx| {
            let _ = mdns.poll(cx);
            Poll::Ready(())
        })
        .await;
        assert!(matches!(mdns.state, State::Running(_)));
        assert_eq!(mdns.listening.keys().collect::<Vec<_>>(), [&addr]);
    }
}
