//! Relays, those they serve and those who dial through them, over real connections on the loopback
//! interface.

use std::sync::Arc;

use futures::StreamExt as _;
use libp2p::identity::Keypair;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::super::{Handle, Opened, Setup, SwarmDialError, due, start};
use super::*;
use crate::facade::{Counters, OK};
use crate::reachability::Report;

const PATIENCE: Duration = Duration::from_secs(30);
const TCP: &str = "/ip4/127.0.0.1/tcp/0";

/// A node that does not run yet.
struct Node {
    handle: Handle,
    events: mpsc::Receiver<Event>,
    event_loop: EventLoop,
    counters: Arc<Counters>,
}

/// A node that runs until it is stopped.
struct Running {
    handle: Handle,
    events: mpsc::Receiver<Event>,
    counters: Arc<Counters>,
    task: JoinSet<()>,
}

async fn node(seed: u8, relay: RelayService, relays: &[&str]) -> Node {
    let relays = relays.iter().map(|&at| at.to_owned()).collect();
    let listen = vec![TCP.to_owned()];
    let config =
        SwarmConfig { listen, mdns: false, max_connections: 64, relay, relays, ..SwarmConfig::default() };
    let counters = Arc::new(Counters::default());
    let setup = Setup { seed: [seed; 32], counters: Arc::clone(&counters), ..Setup::anonymous() };
    let (handle, events, event_loop) = start(&config, setup).await.unwrap();
    Node { handle, events, event_loop, counters }
}

async fn relay(seed: u8) -> Node {
    node(seed, RelayService::Always, &[]).await
}

async fn client(seed: u8, relays: &[&str]) -> Node {
    node(seed, RelayService::Never, relays).await
}

/// The transport identity that comes of a seed.
fn id(seed: u8) -> TransportId {
    let key = Keypair::ed25519_from_bytes([seed; 32]).unwrap();
    TransportId(key.public().to_peer_id().to_base58())
}

impl Node {
    fn at(&self) -> String {
        self.handle.addresses()[0].1.clone()
    }

    fn run(self) -> Running {
        let mut task = JoinSet::new();
        task.spawn(self.event_loop.run(CancellationToken::new()));
        Running { handle: self.handle, events: self.events, counters: self.counters, task }
    }

    /// Drives it by hand until the counters say so.
    async fn run_until(&mut self, done: impl Fn(&Counters) -> bool) {
        let all = async {
            let event_loop = &mut self.event_loop;
            event_loop.pursue_reservations();
            while !done(&self.counters) {
                tokio::select! {
                    () = due(event_loop.relays.poll_timeout()) => event_loop.relays.handle_timeout(now()),
                    event = event_loop.swarm.select_next_some() => event_loop.on_event(event),
                }
                event_loop.pursue_reservations();
            }
        };
        tokio::time::timeout(PATIENCE, all).await.unwrap();
    }
}

impl Running {
    async fn report(&mut self, wanted: impl FnMut(&Report) -> bool) -> Report {
        tokio::time::timeout(PATIENCE, self.handle.report.wait_for(wanted)).await.unwrap().unwrap().clone()
    }

    /// The address that it has through a relay.
    async fn reserved(&mut self) -> String {
        self.report(|report| !report.reservations.is_empty()).await.reservations[0].clone()
    }

    async fn open(&self, at: &str) -> Result<Opened, SwarmDialError> {
        tokio::time::timeout(PATIENCE, self.handle.open(at, true)).await.unwrap()
    }

    async fn event(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let search = async {
            loop {
                let event = self.events.recv().await.unwrap();
                if wanted(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.unwrap()
    }

    async fn stop(mut self) {
        self.task.shutdown().await;
    }
}

fn own_reservations(counters: &Counters, outcome: &'static str) -> u64 {
    counters.snapshot().own_reservations.get(outcome).copied().unwrap_or_default()
}

/// Opens a stream to `to` at that address and sends zeros until it is through or fails; the bytes that came
/// out.
async fn send(from: &Running, to: &mut Running, at: &str, bytes: usize) -> (std::io::Result<()>, usize) {
    let mut there = from.open(at).await.unwrap().stream.plain();
    let inbound = async {
        let event = to.event(|event| matches!(event, Event::Inbound { .. })).await;
        let Event::Inbound { stream, carrier, .. } = event else { unreachable!() };
        let mut stream = stream.plain();
        assert_eq!(carrier, Carrier::Relay);
        let (mut buffer, mut received) = (vec![0; 1 << 16], 0);
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            received += read;
            if received == bytes {
                break;
            }
        }
        received
    };
    let outbound = async {
        let chunk = vec![0; 1 << 12];
        for _ in 0..bytes / chunk.len() {
            there.write_all(&chunk).await?;
        }
        there.flush().await
    };
    let both = async { tokio::join!(outbound, inbound) };
    tokio::time::timeout(PATIENCE, both).await.unwrap()
}

#[tokio::test]
async fn a_node_with_a_reservation_is_reached_through_its_relay() {
    let relay = relay(1).await;
    let at = relay.at();
    let mut relay = relay.run();
    let (mut b, a) = (client(2, &[&at]).await.run(), client(3, &[]).await.run());
    let reserved = b.reserved().await;
    assert_eq!(reserved, format!("{at}/p2p-circuit/p2p/{}", id(2)));
    let told = b.event(|event| matches!(event, Event::Listening { at, .. } if at.contains("circuit"))).await;
    assert!(matches!(told, Event::Listening { at, .. } if at == reserved));
    assert_eq!(b.handle.addresses().last().unwrap().1, reserved);
    assert_eq!(b.handle.addresses().len(), 2);

    let opened = a.open(&reserved).await.unwrap();
    assert_eq!((opened.carrier, &opened.remote), (Carrier::Relay, &reserved));
    let mut there = opened.stream.plain();
    there.write_all(b"hello").await.unwrap();
    let event = b.event(|event| matches!(event, Event::Inbound { .. })).await;
    let Event::Inbound { stream, carrier, path, .. } = event else { unreachable!() };
    let mut stream = stream.plain();
    assert_eq!((carrier, path.peer), (Carrier::Relay, id(3)));
    let mut buffer = [0; 5];
    stream.read_exact(&mut buffer).await.unwrap();
    stream.write_all(&buffer).await.unwrap();
    there.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"hello");

    assert!(relay.report(|report| report.circuits == 1).await.relaying);
    // A second session takes the circuit that stands.
    let second = a.open(&reserved).await.unwrap();
    assert_eq!(second.path, opened.path);
    a.stop().await;
    relay.report(|report| report.circuits == 0).await;
    let snapshot = relay.counters.snapshot();
    assert_eq!(snapshot.relay_reservations[&(Tier::Stranger, OK)], 1);
    assert_eq!(snapshot.relay_circuits[&(Tier::Stranger, OK)], 1);
    assert_eq!(snapshot.relay_closed.values().sum::<u64>(), 1);
}

#[tokio::test]
async fn a_circuit_whose_destination_leaves_is_counted_as_closed_once() {
    let relay = relay(1).await;
    let at = relay.at();
    let (mut relay, a) = (relay.run(), client(3, &[]).await.run());
    for round in 1..=2 {
        let mut b = client(2, &[&at]).await.run();
        let reserved = b.reserved().await;
        let opened = a.open(&reserved).await.unwrap();
        relay.report(|report| report.circuits == 1).await;
        b.stop().await;
        relay.report(|report| report.circuits == 0).await;
        drop(opened);
        assert_eq!(relay.counters.snapshot().relay_closed[&(Tier::Stranger, "lost")], round);
    }
}

#[tokio::test]
async fn who_has_no_reservation_is_not_reached() {
    let relay = relay(1).await;
    let at = relay.at();
    let relay = relay.run();
    let a = client(3, &[]).await.run();
    let error = a.open(&format!("{at}/p2p-circuit/p2p/{}", id(2))).await.unwrap_err();
    assert_eq!(error.label(), "connect");
    assert_eq!(relay.counters.snapshot().relay_circuits[&(Tier::Stranger, "no_reservation")], 1);
}

#[tokio::test]
async fn a_relay_that_does_not_relay_at_first_is_asked_again() {
    let relay = node(1, RelayService::Auto, &[]).await;
    let at = relay.at();
    let learns = Arc::new(Notify::new());
    let learnt = Arc::clone(&learns);
    let mut task = JoinSet::new();
    let mut event_loop = relay.event_loop;
    task.spawn(async move {
        loop {
            tokio::select! {
                () = learnt.notified() => event_loop.update_serving(Verdict::Public, true),
                event = event_loop.swarm.select_next_some() => event_loop.on_event(event),
            }
        }
    });
    let mut b = client(2, &[&at]).await;
    b.run_until(|counters| own_reservations(counters, "refused") > 0).await;
    assert_eq!(own_reservations(&b.counters, OK), 0);
    learns.notify_one();
    let mut b = b.run();
    assert!(b.reserved().await.starts_with(&at));
}

#[tokio::test]
async fn a_relay_that_goes_away_is_replaced_by_another() {
    let (mut relays, mut addresses) = (BTreeMap::new(), Vec::new());
    for seed in 1..=3 {
        let relay = relay(seed).await;
        addresses.push(relay.at());
        relays.insert(relay.at(), relay.run());
    }
    let places: Vec<_> = addresses.iter().map(String::as_str).collect();
    let mut b = client(9, &places).await.run();
    let first = b.report(|report| report.reservations.len() == 2).await.reservations;
    let through = |reserved: &str| reserved.split("/p2p-circuit").next().unwrap().to_owned();
    let gone = through(&first[0]);
    relays.remove(&gone).unwrap().stop().await;
    let then = b
        .report(|report| {
            report.reservations.len() == 2 && report.reservations.iter().all(|at| through(at) != gone)
        })
        .await;
    assert!(then.reservations.contains(&first[1]), "the other one stays");
    assert!(own_reservations(&b.counters, "lost") >= 1);
    let told: Vec<_> = b.handle.addresses().into_iter().map(|(_, at)| at).collect();
    assert_eq!(told[1..], then.reservations);
}

#[tokio::test]
async fn a_circuit_ends_at_its_tiers_limit_and_the_reservation_stays() {
    let relay = relay(1).await;
    let at = relay.at();
    let mut relay = relay.run();
    let mut b = client(2, &[&at]).await.run();
    let reserved = b.reserved().await;
    let stranger = client(3, &[]).await.run();
    let (sent, received) = send(&stranger, &mut b, &reserved, 1 << 20).await;
    assert!(sent.is_err() && received > 100 << 10 && received <= 256 << 10, "{sent:?} {received}");
    relay.report(|report| report.circuits == 0).await;
    assert_eq!(relay.counters.snapshot().relay_closed[&(Tier::Stranger, "byte_limit")], 1);
    assert_eq!(b.reserved().await, reserved);
    assert_eq!(own_reservations(&b.counters, "lost"), 0);

    // Known from now on, and with a connection of its own as such.
    relay.handle.set_tier(id(3), Tier::Member);
    stranger.stop().await;
    let member = client(3, &[]).await.run();
    let (sent, received) = send(&member, &mut b, &reserved, 1 << 20).await;
    assert!(sent.is_ok() && received == 1 << 20, "{sent:?} {received}");
    assert_eq!(relay.counters.snapshot().relay_circuits[&(Tier::Member, OK)], 1);
}

#[tokio::test]
async fn a_blocked_peer_gets_neither_reservation_nor_circuit() {
    let mut relay = relay(1).await;
    let at = relay.at();
    relay.event_loop.set_tier(&id(2), Tier::Blocked);
    let relay = relay.run();
    let mut b = client(2, &[&at]).await;
    b.run_until(|counters| own_reservations(counters, "refused") > 0).await;
    let refused = relay.counters.snapshot().relay_reservations;
    assert!(refused[&(Tier::Blocked, "blocked")] >= 1 && refused.len() == 1, "{refused:?}");

    let mut c = client(3, &[&at]).await.run();
    let reserved = c.reserved().await;
    let b = b.run();
    assert_eq!(b.open(&reserved).await.unwrap_err().label(), "connect");
    assert_eq!(relay.counters.snapshot().relay_circuits[&(Tier::Blocked, "blocked")], 1);
    // Whoever is blocked later loses what it has.
    relay.handle.set_tier(id(3), Tier::Blocked);
    c.report(|report| report.reservations.is_empty()).await;
}

#[tokio::test]
async fn a_reservation_that_is_not_needed_is_let_go_and_another_can_follow() {
    let relay = relay(1).await;
    let at = relay.at();
    let _relay = relay.run();
    let mut b = client(2, &[&at]).await;
    b.run_until(|counters| own_reservations(counters, OK) == 1).await;
    assert_eq!((b.handle.addresses().len(), b.handle.reachability().reservations.len()), (2, 1));
    b.event_loop.set_reservations_wanted(0);
    b.event_loop.pursue_reservations();
    assert_eq!((b.handle.addresses().len(), b.handle.reachability().reservations.len()), (1, 0));
    assert!(b.event_loop.relays.circuits.is_empty());
    b.event_loop.set_reservations_wanted(1);
    b.run_until(|counters| own_reservations(counters, OK) == 2).await;
    let mut b = b.run();
    let reserved = b.reserved().await;
    let a = client(3, &[]).await.run();
    let (sent, received) = send(&a, &mut b, &reserved, 1 << 14).await;
    assert!(sent.is_ok() && received == 1 << 14);
    assert_eq!(own_reservations(&b.counters, "lost"), 0);
}

async fn start_error(relays: Vec<String>) -> String {
    let config = SwarmConfig { listen: Vec::new(), mdns: false, relays, ..SwarmConfig::default() };
    let setup = Setup { seed: [1; 32], ..Setup::anonymous() };
    start(&config, setup).await.map(|_| ()).unwrap_err().to_string()
}

#[tokio::test]
async fn a_malformed_relay_is_said_to_be_one() {
    let nested = format!("/ip4/127.0.0.1/tcp/1/p2p/{}/p2p-circuit/p2p/{}", id(1), id(2));
    for text in ["nonsense", "/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/udp/1", &nested] {
        let error = start_error(vec![text.to_owned()]).await;
        assert!(error.contains(text) && error.contains("no relay's address"), "{error}");
    }
    let many = vec![format!("/ip4/127.0.0.1/tcp/1/p2p/{}", id(1)); MAX_FIXED + 1];
    assert!(start_error(many).await.contains("too many"));
}
