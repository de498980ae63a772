//! Two swarms in one process, over real QUIC and TCP on the loopback interface.

use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::identity::Keypair;
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Swarm, relay};

use super::super::{link, transport};
use super::*;
use crate::conn::Carrier;

const PATIENCE: Duration = Duration::from_secs(20);

pub(in crate::swarm) type Node = Swarm<Behaviour>;
type NodeEvent = SwarmEvent<Event>;

/// One that does nothing but open streams and take them.
pub(in crate::swarm) fn node(announces: bool) -> Node {
    let key = Keypair::generate_ed25519();
    let config =
        libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(30));
    let mut behaviour = Behaviour::new(announces, true, None);
    behaviour.set_neighbourhood(Interfaces::read().unwrap());
    let own = key.public().to_peer_id();
    let (circuits, _client) = relay::client::new(own);
    Swarm::new(transport::build(&key, circuits).unwrap(), behaviour, own, config)
}

/// Drives both until `pick` finds what it looks for in either.
async fn until<T>(a: &mut Node, b: &mut Node, mut pick: impl FnMut(bool, NodeEvent) -> Option<T>) -> T {
    let search = async {
        loop {
            let found = tokio::select! {
                event = a.select_next_some() => pick(true, event),
                event = b.select_next_some() => pick(false, event),
            };
            if let Some(found) = found {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, search).await.expect("in time")
}

async fn listen(node: &mut Node, at: &str) -> Multiaddr {
    node.listen_on(at.parse().unwrap()).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = node.select_next_some().await {
            return address;
        }
    }
}

/// Connects `a` to `b` there; the connection's id on both sides.
async fn connect(a: &mut Node, b: &mut Node, at: &Multiaddr) -> (ConnectionId, ConnectionId) {
    let peer = *b.local_peer_id();
    let options =
        DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![at.clone()]).build();
    a.dial(options).unwrap();
    let (mut of_a, mut of_b) = (None, None);
    until(a, b, |is_a, event| {
        if let SwarmEvent::ConnectionEstablished { connection_id, .. } = event {
            *(if is_a { &mut of_a } else { &mut of_b }) = Some(connection_id);
        }
        of_a.zip(of_b)
    })
    .await
}

fn failure(is_a: bool, event: NodeEvent) -> Option<(OpenId, OpenError)> {
    match event {
        SwarmEvent::Behaviour(Event::OpenFailed { id, error, .. }) if is_a => Some((id, error)),
        _ => None,
    }
}

/// Opens on a chosen connection of `a`; the stream at `a`, and with its connection at `b`.
async fn exchange(a: &mut Node, b: &mut Node, on: ConnectionId) -> (Stream, Stream, ConnectionId, Slot) {
    let id = a.behaviour_mut().open(on, Protocol::Session).unwrap();
    let (mut ours, mut theirs) = (None, None);
    until(a, b, |is_a, event| {
        match event {
            SwarmEvent::Behaviour(Event::Opened { id: opened, connection, stream }) if is_a => {
                assert_eq!((opened, connection), (id, on));
                ours = Some(stream);
            }
            SwarmEvent::Behaviour(Event::Inbound { connection, protocol, stream, slot }) if !is_a => {
                assert_eq!(protocol, Protocol::Session);
                theirs = Some((stream, connection, slot));
            }
            _ => {}
        }
        (ours.is_some() && theirs.is_some()).then_some(())
    })
    .await;
    let (stream, connection, slot) = theirs.unwrap();
    (ours.unwrap(), stream, connection, slot)
}

async fn pass_bytes(a: &mut Node, b: &mut Node, mut from: Stream, mut to: Stream) {
    let transfer = async {
        from.write_all(b"some bytes").await.unwrap();
        from.close().await.unwrap();
        let mut read = Vec::new();
        to.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"some bytes");
    };
    tokio::select! {
        () = transfer => {}
        () = until(a, b, |_, _| None) => {}
    }
}

#[tokio::test]
async fn a_stream_arrives_on_the_connection_on_which_it_was_opened() {
    let (mut a, mut b) = (node(true), node(true));
    let quic = listen(&mut b, "/ip4/127.0.0.1/udp/0/quic-v1").await;
    let tcp = listen(&mut b, "/ip4/127.0.0.1/tcp/0").await;
    let over_quic = connect(&mut a, &mut b, &quic).await;
    let over_tcp = connect(&mut a, &mut b, &tcp).await;
    for (of_a, of_b) in [over_quic, over_tcp, over_tcp, over_quic, over_tcp, over_quic] {
        let (ours, theirs, connection, _) = exchange(&mut a, &mut b, of_a).await;
        assert_eq!(connection, of_b);
        pass_bytes(&mut a, &mut b, ours, theirs).await;
    }
    // And in the other direction, on a connection that `b` did not dial.
    let (ours, theirs, connection, _) = exchange(&mut b, &mut a, over_tcp.1).await;
    assert_eq!(connection, over_tcp.0);
    pass_bytes(&mut b, &mut a, ours, theirs).await;
    assert_eq!(link::carrier(&tcp), Some(Carrier::Tcp));
}

#[tokio::test]
async fn a_stream_that_was_on_its_way_when_the_connection_closed_fails() {
    let (mut a, mut b) = (node(true), node(true));
    let at = listen(&mut b, "/ip4/127.0.0.1/tcp/0").await;
    let (of_a, _) = connect(&mut a, &mut b, &at).await;
    let id = a.behaviour_mut().open(of_a, Protocol::Session).unwrap();
    a.close_connection(of_a);
    let (failed, error) = until(&mut a, &mut b, failure).await;
    assert_eq!(failed, id);
    assert!(matches!(error, OpenError::Closed), "{error}");
    let again = a.behaviour_mut().open(of_a, Protocol::Session);
    assert!(matches!(again, Err(OpenError::Closed)));
    assert!(a.behaviour().connections.is_empty());
}

#[tokio::test]
async fn who_is_no_neighbour_is_not_offered_lan_who() {
    let (mut a, mut b) = (node(true), node(true));
    b.behaviour_mut().set_neighbourhood(Interfaces::default());
    let at = listen(&mut b, "/ip4/127.0.0.1/udp/0/quic-v1").await;
    let (of_a, _) = connect(&mut a, &mut b, &at).await;
    let id = a.behaviour_mut().open(of_a, Protocol::LanWho).unwrap();
    let (failed, error) = until(&mut a, &mut b, failure).await;
    assert_eq!(failed, id);
    assert!(matches!(error, OpenError::Unsupported), "{error}");
    // Sessions are for everyone.
    exchange(&mut a, &mut b, of_a).await;
}

#[tokio::test]
async fn who_does_not_announce_offers_lan_who_to_nobody() {
    let (mut a, mut b) = (node(true), node(false));
    let at = listen(&mut b, "/ip4/127.0.0.1/udp/0/quic-v1").await;
    let (of_a, _) = connect(&mut a, &mut b, &at).await;
    a.behaviour_mut().open(of_a, Protocol::LanWho).unwrap();
    let (_, error) = until(&mut a, &mut b, failure).await;
    assert!(matches!(error, OpenError::Unsupported), "{error}");
}

#[tokio::test]
async fn a_peer_holds_only_so_many_streams_and_a_freed_place_can_be_taken() {
    let (mut a, mut b) = (node(true), node(true));
    let at = listen(&mut b, "/ip4/127.0.0.1/udp/0/quic-v1").await;
    let (of_a, _) = connect(&mut a, &mut b, &at).await;
    let mut held = Vec::new();
    for _ in 0..MAX_INBOUND_PER_CONNECTION {
        held.push(exchange(&mut a, &mut b, of_a).await);
    }
    // One more is closed at once: reading from it gives nothing.
    let id = a.behaviour_mut().open(of_a, Protocol::Session).unwrap();
    let mut extra = until(&mut a, &mut b, |is_a, event| match event {
        SwarmEvent::Behaviour(Event::Opened { id: opened, stream, .. }) if is_a && opened == id => {
            Some(stream)
        }
        SwarmEvent::Behaviour(Event::Inbound { .. }) if !is_a => panic!("no place was left"),
        _ => None,
    })
    .await;
    let mut byte = [0];
    let read = tokio::select! {
        read = extra.read(&mut byte) => read,
        () = until(&mut a, &mut b, |_, _| None) => unreachable!(),
    };
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    held.pop();
    exchange(&mut a, &mut b, of_a).await;
}

#[tokio::test]
async fn only_so_many_streams_are_on_their_way_at_once() {
    let (mut a, mut b) = (node(true), node(true));
    let at = listen(&mut b, "/ip4/127.0.0.1/udp/0/quic-v1").await;
    let (of_a, _) = connect(&mut a, &mut b, &at).await;
    for _ in 0..MAX_OPENING_PER_CONNECTION {
        a.behaviour_mut().open(of_a, Protocol::Session).unwrap();
    }
    let one_more = a.behaviour_mut().open(of_a, Protocol::Session);
    assert!(matches!(one_more, Err(OpenError::Busy)));
}

#[test]
fn a_relayed_peer_is_no_neighbour_however_near_its_relay_is() {
    let mut behaviour = Behaviour::new(true, true, None);
    let ip = "192.168.1.5".parse().unwrap();
    behaviour.set_neighbourhood(Interfaces(vec![crate::lan::Interface { ip, prefix: 24 }]));
    let peer = PeerId::random();
    let near = |at: &str| behaviour.is_neighbour(&at.parse().unwrap());
    assert!(near("/ip4/192.168.1.9/udp/9/quic-v1"));
    assert!(!near("/ip4/203.0.113.9/udp/9/quic-v1"));
    assert!(!near(&format!("/ip4/192.168.1.9/tcp/9/p2p/{peer}/p2p-circuit")));
    assert!(!near("/dns4/neighbour.example/tcp/9"));
}
