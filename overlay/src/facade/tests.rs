//! Whole overlays in one process: real sockets, real handshakes, real calls.

use std::net::Ipv4Addr;
use std::path::Path;

use bytes::Bytes;
use ssb_crypto::Keypair;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::address::Endpoint;
use crate::conn::{self, Carrier, Connection, Direction, Gate, IncomingCall, LinkInfo, Refused, Reply};
use crate::keys::NetworkKey;
use crate::muxrpc::{Body, BodyKind};
use crate::unix::UnixBindError;

const PATIENCE: Duration = Duration::from_secs(30);

/// Refuses one key.
struct Blocks(Option<PublicKey>);

impl Gate for Blocks {
    fn admit(&self, peer: PublicKey, _: &LinkInfo) -> Result<(), Refused> {
        if self.0 == Some(peer) { Err(Refused::Blocked) } else { Ok(()) }
    }
}

fn keypair(seed: u8) -> Keypair {
    ssb_crypto::sodium::init().unwrap();
    Keypair::from_seed(&[seed; 32]).unwrap()
}

fn key(seed: u8) -> PublicKey {
    PublicKey::from_bytes(keypair(seed).public.0)
}

fn config(seed: u8) -> Config {
    let local = Local {
        keypair: Arc::new(keypair(seed)),
        network: NetworkKey::MAIN,
        gate: Arc::new(Blocks(None)),
        handshake_timeout: Duration::from_secs(10),
    };
    Config {
        local,
        node_key: [seed; 32],
        net_listen: Vec::new(),
        unix: None,
        ws: Vec::new(),
        swarm: None,
        lan: LanConfig::OFF,
        limits: Limits::default(),
    }
}

fn everywhere(seed: u8, folder: &Path) -> Config {
    let listen = ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"].map(str::to_owned).to_vec();
    Config {
        net_listen: vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()],
        unix: Some(folder.join("socket")),
        swarm: Some(SwarmConfig { listen, mdns: false, max_connections: 16, ..SwarmConfig::default() }),
        ..config(seed)
    }
}

async fn start(config: Config) -> (Overlay, Events) {
    Overlay::start(config).await.unwrap()
}

/// The next event that is not about ourselves.
async fn next(events: &mut Events) -> Event {
    loop {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap();
        if !matches!(event, Event::Listening(_)) {
            return event;
        }
    }
}

async fn connected(events: &mut Events) -> Connection {
    let event = next(events).await;
    let Event::Connected(connection) = event else { panic!("{event:?}") };
    connection
}

fn text(text: &'static str) -> Body {
    Body { kind: BodyKind::Text, bytes: Bytes::from_static(text.as_bytes()) }
}

async fn answer(IncomingCall { call, reply }: IncomingCall) {
    assert_eq!(call.name, ["hello"]);
    match reply {
        Reply::Once(reply) => reply.ok(text("world")).await,
        Reply::Stream(_) => panic!("expected an async call"),
    }
}

/// One call from `ours` to `theirs`, both driven.
async fn call(ours: Connection, theirs: Connection) {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        ours.driver.run().await;
    });
    let mut calls = theirs.calls;
    tasks.spawn(async move {
        theirs.driver.run().await;
    });
    let asked = ours.session.call(&["hello"], Vec::new());
    let answered = async { answer(calls.next().await.unwrap()).await };
    let (result, ()) = tokio::time::timeout(PATIENCE, futures::future::join(asked, answered)).await.unwrap();
    assert_eq!(result.unwrap(), text("world"));
}

fn dialable(overlay: &Overlay) -> Vec<Endpoint> {
    let all = overlay.addresses().into_iter().map(|address| address.endpoint);
    all.filter(|endpoint| !matches!(endpoint, Endpoint::Unix(_))).collect()
}

#[tokio::test]
async fn a_session_runs_over_every_address_that_we_tell() {
    let folder = tempfile::tempdir().unwrap();
    let (a, _events) = start(config_that_dials(1)).await;
    let (b, mut at_b) = start(everywhere(2, folder.path())).await;
    let endpoints = dialable(&b);
    let mut carriers = Vec::new();
    for endpoint in &endpoints {
        let dialled = tokio::time::timeout(PATIENCE, a.dial(key(2), endpoint)).await.unwrap().unwrap();
        let accepted = connected(&mut at_b).await;
        assert_eq!((dialled.session.peer(), accepted.session.peer()), (key(2), key(1)));
        let (ours, theirs) = (dialled.session.info().clone(), accepted.session.info().clone());
        assert_eq!((ours.direction, theirs.direction), (Direction::Outbound, Direction::Inbound));
        assert_eq!(ours.carrier, theirs.carrier);
        assert!(endpoint.to_string().ends_with(&ours.remote), "{} at {endpoint}", ours.remote);
        carriers.push(ours.carrier);
        call(dialled, accepted).await;
    }
    carriers.sort();
    assert_eq!(carriers, [Carrier::Net, Carrier::Net, Carrier::Quic, Carrier::Tcp]);
    let (dials, accepts) = (a.counters().snapshot().dials, b.counters().snapshot());
    assert_eq!(dials[&(Carrier::Net, OK)], 2);
    assert_eq!(accepts.accepts[&(Carrier::Quic, OK)], 1);
    assert!(accepts.received[&Carrier::Tcp] > 64 && accepts.sent[&Carrier::Net] > 64);
}

/// A swarm needs listeners to dial over both transports.
fn config_that_dials(seed: u8) -> Config {
    let listen = ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"].map(str::to_owned).to_vec();
    Config {
        swarm: Some(SwarmConfig { listen, mdns: false, max_connections: 16, ..SwarmConfig::default() }),
        ..config(seed)
    }
}

#[tokio::test]
async fn a_client_on_the_socket_is_ourselves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let (_overlay, mut events) = start(Config { unix: Some(path.clone()), ..config(1) }).await;
    let client = unix::dial(&path, key(1)).await.unwrap();
    let server = connected(&mut events).await;
    assert_eq!(server.session.peer(), key(1));
    assert_eq!(server.session.info().carrier, Carrier::Unix);
    call(client, server).await;
}

async fn net_only(seed: u8) -> (Overlay, Events, Endpoint) {
    let net_listen = vec!["127.0.0.1:0".parse().unwrap()];
    let (overlay, events) = start(Config { net_listen, ..config(seed) }).await;
    let endpoint = overlay.addresses()[0].endpoint.clone();
    (overlay, events, endpoint)
}

#[tokio::test]
async fn a_peer_that_we_block_gets_no_session_and_we_are_told_who_it_was() {
    let (a, _events) = start(config(1)).await;
    let mut config_b = config(2);
    config_b.net_listen = vec!["127.0.0.1:0".parse().unwrap()];
    config_b.local.gate = Arc::new(Blocks(Some(key(1))));
    let (b, mut at_b) = start(config_b).await;
    let error = a.dial(key(2), &b.addresses()[0].endpoint).await.unwrap_err();
    assert!(matches!(error, DialError::Handshake(_)), "{error}");
    let Event::Refused { peer, reason, .. } = next(&mut at_b).await else { panic!("expected a refusal") };
    assert_eq!((peer, reason), (key(1), Refused::Blocked));
    assert!(b.counters().snapshot().accepts.keys().all(|(_, outcome)| *outcome != OK));
}

#[tokio::test]
async fn whom_we_block_we_do_not_dial() {
    let (b, mut at_b, endpoint) = net_only(2).await;
    let mut config_a = config(1);
    config_a.local.gate = Arc::new(Blocks(Some(key(2))));
    let (a, _events) = start(config_a).await;
    let error = a.dial(key(2), &endpoint).await.unwrap_err();
    assert!(matches!(error, DialError::Refused(Refused::Blocked)), "{error}");
    assert_eq!(a.counters().snapshot().dials[&(Carrier::Net, "refused")], 1);
    b.shutdown().await;
    while let Some(event) = at_b.next().await {
        assert!(matches!(event, Event::Listening(_)), "{event:?}");
    }
}

#[tokio::test]
async fn a_peer_that_is_not_who_we_expect_gets_no_session() {
    let (a, _events) = start(config(1)).await;
    let (_b, mut at_b, endpoint) = net_only(2).await;
    let error = a.dial(key(3), &endpoint).await.unwrap_err();
    assert!(matches!(error, DialError::Handshake(_)), "{error}");
    assert!(matches!(next(&mut at_b).await, Event::HandshakeFailed { .. }));
}

#[tokio::test]
async fn garbage_ends_its_own_link_only() {
    let (a, _events) = start(config(1)).await;
    let (_b, mut at_b, endpoint) = net_only(2).await;
    let Endpoint::Net { host, port } = &endpoint else { panic!("expected net") };
    for garbage in [vec![0; 64], vec![0xff; 64], b"GET / HTTP/1.1\r\n\r\n".repeat(20)] {
        let mut stream = TcpStream::connect((host.as_str(), *port)).await.unwrap();
        stream.write_all(&garbage).await.unwrap();
        assert!(matches!(next(&mut at_b).await, Event::HandshakeFailed { .. }));
        let end = stream.read_to_end(&mut Vec::new()).await;
        assert!(end.is_err() || end.is_ok_and(|bytes| bytes == 0));
    }
    let dialled = a.dial(key(2), &endpoint).await.unwrap();
    call(dialled, connected(&mut at_b).await).await;
}

#[tokio::test]
async fn strangers_who_say_nothing_do_not_lock_others_out() {
    let mut config_b = config(2);
    config_b.net_listen = vec!["127.0.0.1:0".parse().unwrap()];
    config_b.limits = Limits { pending: 4, pending_per_ip: 2, ..Limits::default() };
    let (b, _at_b) = start(config_b).await;
    let at = b.addresses()[0].endpoint.clone();
    let Endpoint::Net { host, port } = &at else { panic!("expected net") };
    let mut silent = Vec::new();
    // The third finds no place and is closed at once; the first two may think about it.
    for _ in 0..3 {
        silent.push(TcpStream::connect((host.as_str(), *port)).await.unwrap());
    }
    let third = silent.last_mut().unwrap().read(&mut [0]).await;
    assert!(matches!(third, Ok(0) | Err(_)), "{third:?}");
    assert_eq!(b.counters().snapshot().turned_away[&(Carrier::Net, "crowded")], 1);
    // Linux has the whole of 127/8 on loopback: another address still finds a place.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
    let info = LinkInfo {
        direction: Direction::Outbound,
        carrier: Carrier::Net,
        remote: to.to_string(),
        path: None,
        mobile: None,
    };
    let stream = socket.connect(to).await.unwrap();
    conn::connect(stream, info, &config(1).local, key(2)).await.unwrap();
}

#[tokio::test]
async fn what_keeps_us_from_starting_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let (_running, _events) = start(Config { unix: Some(path.clone()), ..config(1) }).await;
    let error = Overlay::start(Config { unix: Some(path), ..config(1) }).await.unwrap_err();
    assert!(matches!(error, StartError::Unix(UnixBindError::AlreadyRunning(_))), "{error}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let error = Overlay::start(Config { net_listen: vec![at], ..config(1) }).await.unwrap_err();
    assert!(error.to_string().contains(&at.to_string()), "{error}");
    assert!(matches!(error, StartError::Net { .. }));
}

#[tokio::test]
async fn a_beacon_port_that_is_taken_is_told_and_stops_nothing() {
    let hog = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = hog.local_addr().unwrap().port();
    let lan = LanConfig { plain: Some(port), ..LanConfig::OFF };
    let (_overlay, mut events) = start(Config { lan, ..config(1) }).await;
    let Event::Failed(Failure::Beacons(error)) = next(&mut events).await else {
        panic!("expected a failure")
    };
    assert_eq!(error.port, port);
}

#[tokio::test]
async fn after_shutdown_nothing_listens_and_the_socket_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (a, _events) = start(config_that_dials(1)).await;
    let (b, mut at_b) = start(everywhere(2, folder.path())).await;
    let endpoints = dialable(&b);
    b.shutdown().await;
    while let Some(event) = at_b.next().await {
        assert!(matches!(event, Event::Listening(_)), "{event:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    for endpoint in endpoints {
        assert!(a.dial(key(2), &endpoint).await.is_err(), "{endpoint}");
    }
}

#[tokio::test]
async fn two_nodes_find_each_other_by_beacon_and_the_claim_is_proven_by_dialling_it() {
    let port = std::net::UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let lan = LanConfig { announce: true, plain: Some(port), encrypted: None, loopback: true };
    let net =
        |seed| Config { net_listen: vec!["127.0.0.1:0".parse().unwrap()], lan: lan.clone(), ..config(seed) };
    let (a, mut at_a) = start(net(1)).await;
    let (_b, mut at_b) = start(net(2)).await;
    let Event::Discovered { claimed, endpoint, source } = next(&mut at_a).await else { panic!("no claim") };
    assert_eq!((claimed, source), (key(2), Source::Beacon));
    let dialled = a.dial(claimed, &endpoint).await.unwrap();
    let accepted = loop {
        let event = next(&mut at_b).await;
        if let Event::Connected(connection) = event {
            break connection;
        }
        assert!(matches!(event, Event::Discovered { claimed, .. } if claimed == key(1)), "{event:?}");
    };
    call(dialled, accepted).await;
    assert_eq!(a.counters().snapshot().discovered[&Source::Beacon], 1);
}

#[tokio::test]
async fn addresses_are_told_by_scope_with_our_key() {
    let folder = tempfile::tempdir().unwrap();
    let (overlay, _events) = start(everywhere(1, folder.path())).await;
    let device = overlay.addresses_in(Scope::Device);
    assert_eq!(device.len(), 5);
    assert_eq!(device, overlay.addresses());
    assert!(overlay.addresses_in(Scope::Public).is_empty());
    let keyed = device.iter().filter(|address| address.key == Some(key(1)));
    assert_eq!(keyed.count(), 4);
    assert!(matches!(device[0].endpoint, Endpoint::Net { .. }));
    for address in device {
        assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
    }
}
