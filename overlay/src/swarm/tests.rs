//! Event loops in one process, over real QUIC and TCP on the loopback interface. mDNS is played by the
//! tests.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
const TCP: &str = "/ip4/127.0.0.1/tcp/0";

/// A node that does not run yet.
pub(super) struct Node {
    handle: Handle,
    events: mpsc::Receiver<Event>,
    event_loop: EventLoop,
}

fn feed(n: u8) -> PublicKey {
    PublicKey::from_bytes([n; 32])
}

async fn node_with(n: u8, listen: &[&str], interfaces: Option<Interfaces>) -> Node {
    let listen = listen.iter().map(|&at| at.to_owned()).collect();
    let config = SwarmConfig { listen, mdns: false, max_connections: 16, ..SwarmConfig::default() };
    let setup = Setup { seed: [n; 32], announce: Some(feed(n)), interfaces, ..Setup::anonymous() };
    let (handle, events, event_loop) = start(&config, setup).await.unwrap();
    Node { handle, events, event_loop }
}

pub(super) async fn node(n: u8, listen: &[&str]) -> Node {
    node_with(n, listen, None).await
}

impl Node {
    pub(super) fn at(&self, carrier: Carrier) -> String {
        let all = self.handle.addresses();
        let at = all.iter().find(|(_, at)| link::carrier(&at.parse().unwrap()) == Some(carrier));
        at.unwrap().1.clone()
    }

    /// What mDNS would do.
    fn finds(&mut self, other: &str) {
        let (at, peer) = link::split_peer(other.parse().unwrap());
        self.event_loop.found(peer.unwrap(), at);
        self.event_loop.discover();
    }

    pub(super) fn run(self, tasks: &mut JoinSet<()>) -> (Handle, mpsc::Receiver<Event>) {
        tasks.spawn(self.event_loop.run(CancellationToken::new()));
        (self.handle, self.events)
    }
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    loop {
        let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        if !matches!(event, Event::Listening { .. }) {
            return event;
        }
    }
}

async fn open(handle: &Handle, at: &str) -> Result<Opened, SwarmDialError> {
    tokio::time::timeout(PATIENCE, handle.open(at, true)).await.unwrap()
}

#[tokio::test]
async fn a_dial_by_either_transport_ends_in_a_stream_of_that_transport() {
    let (a, b) = (node(1, &[QUIC, TCP]).await, node(2, &[QUIC, TCP]).await);
    let addresses = [Carrier::Quic, Carrier::Tcp].map(|carrier| (carrier, b.at(carrier)));
    let mut tasks = JoinSet::new();
    let (a, _) = a.run(&mut tasks);
    let (_b, mut at_b) = b.run(&mut tasks);
    for (carrier, at) in addresses {
        let opened = open(&a, &at).await.unwrap();
        assert_eq!((opened.carrier, &opened.remote), (carrier, &at));
        let mut there = opened.stream.plain();
        there.write_all(b"hello").await.unwrap();
        let Event::Inbound { stream, carrier: theirs, ip, .. } = next(&mut at_b).await else {
            panic!("expected a stream")
        };
        let mut stream = stream.plain();
        assert_eq!((theirs, ip), (carrier, Some("127.0.0.1".parse().unwrap())));
        let mut buffer = [0; 5];
        stream.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"hello");
    }
}

#[tokio::test]
async fn a_second_session_takes_the_connection_that_stands() {
    let (a, b) = (node(1, &[QUIC]).await, node(2, &[QUIC]).await);
    let at = b.at(Carrier::Quic);
    let mut tasks = JoinSet::new();
    let (a, _) = a.run(&mut tasks);
    let (_b, mut at_b) = b.run(&mut tasks);
    let mut remotes = Vec::new();
    for _ in 0..2 {
        let opened = open(&a, &at).await.unwrap();
        assert_eq!(opened.reused, !remotes.is_empty());
        // The first bytes bring the stream's name along.
        let mut there = opened.stream.plain();
        there.write_all(b"hello").await.unwrap();
        let Event::Inbound { remote, .. } = next(&mut at_b).await else { panic!("expected a stream") };
        remotes.push((there, remote));
    }
    assert_eq!(remotes[0].1, remotes[1].1);
}

#[tokio::test]
async fn a_connection_that_was_given_up_is_not_taken_again() {
    let (a, b) = (node(1, &[QUIC]).await, node(2, &[QUIC]).await);
    let at = b.at(Carrier::Quic);
    let mut tasks = JoinSet::new();
    let (a, _) = a.run(&mut tasks);
    b.run(&mut tasks);
    let first = open(&a, &at).await.unwrap();
    a.give_up(first.path.id);
    let second = open(&a, &at).await.unwrap();
    assert!(!second.reused && second.path.id != first.path.id);
}

#[tokio::test]
async fn dial_errors_say_what_is_wrong() {
    let (a, b) = (node(1, &[QUIC, TCP]).await, node(2, &[TCP]).await);
    let (own, of_b) = (a.at(Carrier::Quic), b.at(Carrier::Tcp));
    let stranger = PeerId::random();
    let (bare, _) = link::split_peer(of_b.parse().unwrap());
    let mut tasks = JoinSet::new();
    let (a, _) = a.run(&mut tasks);
    b.run(&mut tasks);
    let label = async |at: &str| open(&a, at).await.unwrap_err().label();
    assert_eq!(label("nonsense").await, "bad_address");
    assert_eq!(label("/ip4/127.0.0.1/udp/9").await, "bad_address");
    assert_eq!(label(&own).await, "ourselves");
    assert_eq!(label("/ip4/127.0.0.1/tcp/9").await, "connect");
    assert_eq!(label(&format!("{bare}/p2p/{stranger}")).await, "wrong_peer");
    tasks.shutdown().await;
    assert_eq!(label(&of_b).await, "stopped");
}

#[tokio::test]
async fn a_peer_found_on_the_network_is_asked_for_its_feed_and_both_learn_of_each_other() {
    let (mut a, mut b) = (node(1, &[QUIC]).await, node(2, &[TCP]).await);
    let (of_a, of_b) = (a.at(Carrier::Quic), b.at(Carrier::Tcp));
    a.finds(&of_b);
    b.finds(&of_a);
    let mut tasks = JoinSet::new();
    let (_a, mut at_a) = a.run(&mut tasks);
    let (_b, mut at_b) = b.run(&mut tasks);
    for (events, expected, at) in [(&mut at_a, feed(2), of_b), (&mut at_b, feed(1), of_a)] {
        let event = next(events).await;
        let Event::Discovered { feed, at: found } = event else { panic!("{event:?}") };
        assert_eq!((feed, found), (expected, at));
    }
}

#[tokio::test]
async fn a_peer_that_is_no_neighbour_is_not_told_who_we_are() {
    // To `a`, everybody on loopback is a neighbour; to `b`, nobody is.
    let mut a = node(1, &[QUIC]).await;
    let b = node_with(2, &[QUIC], Some(Interfaces::default())).await;
    let of_b = b.at(Carrier::Quic);
    a.finds(&of_b);
    let mut tasks = JoinSet::new();
    tasks.spawn(b.event_loop.run(CancellationToken::new()));
    // Driven by hand, to see the answer as it comes in.
    let refused = async {
        let before = a.event_loop.neighbours.poll_timeout();
        while a.event_loop.neighbours.poll_timeout() == before {
            tokio::select! {
                event = a.event_loop.swarm.select_next_some() => a.event_loop.on_event(event),
                Some(asked) = a.event_loop.asking.join_next() => a.event_loop.on_asked(asked),
            }
            a.event_loop.discover();
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert!(a.event_loop.asking.is_empty());
    while let Ok(event) = a.events.try_recv() {
        assert!(matches!(event, Event::Listening { .. }), "{event:?}");
    }
}

#[tokio::test]
async fn what_mdns_says_of_strangers_is_not_followed() {
    let mut a = node(1, &[QUIC]).await;
    let peer = PeerId::random();
    for at in ["/ip4/203.0.113.9/udp/9/quic-v1", "/ip4/127.0.0.1/udp/9", "/dns4/a.example/tcp/9"] {
        a.finds(&format!("{at}/p2p/{peer}"));
    }
    let own = a.at(Carrier::Quic);
    a.finds(&own);
    assert_eq!(a.event_loop.neighbours.poll_timeout(), None);
    assert!(a.event_loop.dialling.is_empty());
}

#[tokio::test]
async fn who_asks_and_leaves_costs_no_stream() {
    let (a, b) = (node(1, &[QUIC]).await, node(2, &[QUIC]).await);
    let at = b.at(Carrier::Quic);
    let mut a = a;
    let (reply, answer) = oneshot::channel();
    a.event_loop.on_command(Command::Open { at: at.parse().unwrap(), plain: true, reply });
    drop(answer);
    let mut tasks = JoinSet::new();
    b.run(&mut tasks);
    let connected = async {
        while a.event_loop.live.is_empty() {
            let event = a.event_loop.swarm.select_next_some().await;
            a.event_loop.on_event(event);
        }
    };
    tokio::time::timeout(PATIENCE, connected).await.unwrap();
    assert!(a.event_loop.dialling.is_empty() && a.event_loop.opening.is_empty());
}

async fn start_error(listen: &str) -> SwarmStartError {
    let config = SwarmConfig {
        listen: vec![listen.to_owned()],
        mdns: false,
        max_connections: 1,
        ..SwarmConfig::default()
    };
    let setup = Setup { seed: [1; 32], ..Setup::anonymous() };
    start(&config, setup).await.map(|_| ()).unwrap_err()
}

#[tokio::test]
async fn what_keeps_the_swarm_from_starting_is_told_apart() {
    assert!(matches!(start_error("nonsense").await, SwarmStartError::BadAddress(_)));
    assert!(matches!(start_error("/ip4/127.0.0.1/udp/9").await, SwarmStartError::UnknownTransport(_)));
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("/ip4/127.0.0.1/tcp/{}", tcp.local_addr().unwrap().port());
    assert!(matches!(start_error(&at).await, SwarmStartError::Listen { .. }));
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = format!("/ip4/127.0.0.1/udp/{}/quic-v1", udp.local_addr().unwrap().port());
    assert!(matches!(start_error(&at).await, SwarmStartError::Listen { .. }));
}

#[tokio::test]
async fn two_nodes_cannot_share_a_tcp_port() {
    let first = node(1, &[TCP]).await;
    let (at, _) = link::split_peer(first.at(Carrier::Tcp).parse().unwrap());
    assert!(matches!(start_error(&at.to_string()).await, SwarmStartError::Listen { .. }));
}
