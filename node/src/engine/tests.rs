//! Two whole nodes in one process, and sessions between them over pipes that claim to be of some carrier.

use std::path::Path;
use std::slice;

use hawsepipe_overlay::Found;
use hawsepipe_overlay::conn::{self, Carrier, Direction, Gate, Local, Refused, TransportId};
use hawsepipe_overlay::muxrpc::CallKind;
use hawsepipe_overlay::reachability::Nat;
use hawsepipe_replication::graph::Edge;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;
use crate::app::App;
use crate::config::Config;
use crate::identity;
use crate::peer_book::Source;
use crate::scheduler;

mod replication;

const PATIENCE: Duration = Duration::from_secs(60);
/// How much a pipe holds.
const PIPE: usize = 64 * 1024;

struct Everybody;

impl Gate for Everybody {
    fn admit(&self, _: PublicKey, _: &LinkInfo) -> Result<(), Refused> {
        Ok(())
    }
}

/// What a node proves itself with.
fn local(folder: &Path) -> Local {
    Local {
        keypair: Arc::new(identity::load_or_create_secret(folder).unwrap()),
        network: hawsepipe_overlay::keys::NetworkKey::MAIN,
        gate: Arc::new(Everybody),
        handshake_timeout: PATIENCE,
    }
}

async fn app(folder: &Path) -> App {
    app_with(folder, json!({"enabled": false})).await
}

async fn app_with(folder: &Path, overlay: Value) -> App {
    let raw = json!({
        "host": "127.0.0.1", "port": 0, "connections": {"incoming": {"unix": false}}, "local": false,
        "overlay": overlay, "metrics": {"listen": false}, "conn": {"autostart": false},
    });
    App::start(Config::from_value(folder.to_owned(), &raw).unwrap()).await.unwrap()
}

struct Node {
    ctx: Arc<Context>,
    local: Local,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    folder: TempDir,
}

impl Node {
    async fn start() -> Self {
        Self::start_with(json!({"enabled": false})).await
    }

    async fn start_with(overlay: Value) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), overlay).await
    }

    async fn start_in(folder: TempDir, overlay: Value) -> Self {
        let app = app_with(folder.path(), overlay).await;
        let ctx = Arc::clone(app.context());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(app.run(stop.clone().cancelled_owned()));
        Self { ctx, local: local(folder.path()), stop, tasks, folder }
    }

    async fn publish(&self, content: &Value) {
        self.ctx.store.publish(content.to_string().into_bytes()).await.unwrap();
    }

    async fn follow(&self, other: &Self) {
        self.publish(&json!({"type": "contact", "contact": other.ctx.own, "following": true})).await;
    }

    async fn post(&self, text: &str) {
        self.publish(&json!({"type": "post", "text": text})).await;
    }

    /// Waits until it holds so much of the other's feed.
    async fn holds(&self, other: &Self, sequence: u64) {
        let feed = other.ctx.own;
        let grown = self.ctx.tail.feed(feed);
        let wait = async {
            loop {
                let notified = grown.notified();
                if self.ctx.reader.tip(&feed).is_some_and(|tip| tip.sequence >= sequence) {
                    return;
                }
                notified.await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "holds only {:?} of {sequence}", self.ctx.reader.tip(&feed));
    }

    /// Carrier and standing of each session.
    async fn sessions(&self) -> Vec<(String, String)> {
        let status = self.ctx.engine.status().await.unwrap();
        let word = |session: &Value, name: &str| session[name].as_str().unwrap().to_owned();
        let sessions = status.sessions.as_array().unwrap().iter();
        sessions.map(|session| (word(session, "carrier"), word(session, "standing"))).collect()
    }

    /// Gives it a session as if it had come by a dial.
    async fn hand_over(&self, peer: PublicKey, connection: Connection) {
        let (reply, done) = oneshot::channel();
        let endpoint = Endpoint::Net { host: "test".into(), port: 1 };
        let result = Box::new(Ok(connection));
        self.ctx.engine.tell(Msg::Dialed { peer, endpoint, result, reply: Some(reply) }).await;
        done.await.unwrap().unwrap();
    }

    /// Gives what it leaves behind.
    async fn shut_down(mut self) -> TempDir {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.folder
    }
}

fn info(direction: Direction, carrier: Carrier) -> LinkInfo {
    LinkInfo { direction, carrier, remote: format!("{}-pipe", carrier.label()), path: None, mobile: None }
}

/// Both ends of a session that `a` dialled.
async fn shaken(a: &Local, b: &Local, carrier: Carrier) -> (Connection, Connection) {
    let (near, far) = tokio::io::duplex(PIPE);
    let (outbound, inbound) = (info(Direction::Outbound, carrier), info(Direction::Inbound, carrier));
    let key = identity::public_key(&b.keypair);
    let (near, far) = tokio::join!(conn::connect(near, outbound, a, key), conn::accept(far, inbound, b));
    (near.unwrap(), far.unwrap())
}

/// `a` dials `b`.
async fn connect(a: &Node, b: &Node, carrier: Carrier) -> (Session, Session) {
    let (near, far) = shaken(&a.local, &b.local, carrier).await;
    let handles = (near.session.clone(), far.session.clone());
    b.hand_over(a.ctx.own_key, far).await;
    a.hand_over(b.ctx.own_key, near).await;
    handles
}

async fn friends() -> (Node, Node) {
    let (a, b) = (Node::start().await, Node::start().await);
    a.follow(&b).await;
    b.follow(&a).await;
    (a, b)
}

/// Asks the other end for its owner's feed, live: a transfer that does not end by itself.
async fn live_feed(from: &Session, of: &Node) -> Stream {
    let args = vec![json!({"id": of.ctx.own, "live": true})];
    from.open(CallKind::Source, &["createHistoryStream"], args).await.unwrap()
}

async fn receive(stream: &mut Stream, items: usize) {
    for _ in 0..items {
        let item = tokio::time::timeout(PATIENCE, stream.rx.recv()).await;
        assert!(matches!(item, Ok(Some(Ok(_)))), "{item:?}");
    }
}

async fn ended(session: &Session) -> Closed {
    tokio::time::timeout(PATIENCE, session.closed()).await.unwrap()
}

fn words(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(carrier, standing)| ((*carrier).to_owned(), (*standing).to_owned())).collect()
}

#[tokio::test]
async fn a_session_moves_to_a_direct_path_while_a_transfer_runs_on_the_relayed_one() {
    let (a, b) = friends().await;
    let (relayed_a, relayed_b) = connect(&a, &b, Carrier::Relay).await;
    a.holds(&b, 1).await;
    b.holds(&a, 1).await;
    let mut transfer = live_feed(&relayed_b, &a).await;
    receive(&mut transfer, 1).await;

    connect(&a, &b, Carrier::Quic).await;
    for node in [&a, &b] {
        assert_eq!(node.sessions().await, words(&[("relay", "draining"), ("quic", "live")]));
    }
    // Replication goes on over the new one both ways, the transfer over the old one.
    for text in ["one", "two", "three"] {
        a.post(text).await;
        b.post(text).await;
    }
    b.holds(&a, 4).await;
    a.holds(&b, 4).await;
    receive(&mut transfer, 3).await;
    assert_eq!((relayed_a.closed_now(), relayed_b.closed_now()), (None, None));

    drop(transfer);
    ended(&relayed_a).await;
    ended(&relayed_b).await;
    a.post("four").await;
    b.holds(&a, 5).await;
    for node in [&a, &b] {
        let metrics = String::from_utf8(node.ctx.metrics.render()).unwrap();
        let moved = "hawsepipe_session_moves_total{from=\"relay\",result=\"ok\",to=\"quic\"} 1";
        assert!(metrics.contains(moved), "{metrics}");
        assert!(metrics.contains("hawsepipe_time_to_direct_seconds_count 1"), "{metrics}");
    }
    a.shut_down().await;
    b.shut_down().await;
}

#[tokio::test]
async fn without_an_overlay_nobody_gets_a_certificate_and_pubs_are_read_from_feeds_in_reach() {
    let (a, b) = friends().await;
    let (near, _far) = connect(&a, &b, Carrier::Net).await;
    let answer = near.call(&["overlay", "certificate"], Vec::new()).await;
    let refusal = "method:overlay,certificate is not in list of allowed methods";
    assert!(answer.is_err_and(|error| error.to_string().contains(refusal)));

    let announce = |host: &str, key: u8| {
        let key = PublicKey::from_bytes([key; 32]);
        json!({"type": "pub", "address": {"host": host, "port": 8008, "key": key.to_string()}})
    };
    for (host, key) in [("old.example", 1), ("new.example", 1), ("other.example", 2)] {
        b.publish(&announce(host, key)).await;
    }
    a.publish(&announce("own.example", 3)).await;
    a.holds(&b, 4).await;
    let hosts = |authors: &[FeedId]| {
        let pubs = pubs::announced(&a.ctx.reader, &authors.iter().copied().collect(), 0);
        let mut hosts: Vec<_> = pubs.into_iter().map(|(_, endpoint)| endpoint).collect();
        hosts.sort();
        hosts
    };
    let at = |host: &str| Endpoint::Net { host: host.into(), port: 8008 };
    assert_eq!(hosts(&[b.ctx.own]), [at("new.example"), at("other.example")]);
    assert_eq!(hosts(&[a.ctx.own]), [at("own.example")]);
    a.shut_down().await;
    b.shut_down().await;
}

#[tokio::test]
async fn friends_get_each_others_certificates_over_classic_tcp_and_strangers_do_not() {
    let start = || Node::start_with(json!({"listen": ["/ip4/127.0.0.1/tcp/0"], "pubs": false}));
    let (a, b, stranger) = (start().await, start().await, start().await);
    a.follow(&b).await;
    b.follow(&a).await;
    connect(&a, &b, Carrier::Net).await;
    let (from_stranger, _far) = connect(&stranger, &b, Carrier::Net).await;
    assert!(from_stranger.call(&["overlay", "certificate"], Vec::new()).await.is_err());

    // Who knows no healthy DHT asks everybody.
    for (node, outcomes) in [(&a, &["ok"][..]), (&b, &["ok", "refused"]), (&stranger, &["refused"])] {
        for outcome in outcomes {
            let counter = format!("hawsepipe_certificates_total{{outcome=\"{outcome}\"}} 1\n");
            let counted = async {
                while !String::from_utf8(node.ctx.metrics.render()).unwrap().contains(&counter) {
                    tokio::task::yield_now().await;
                }
            };
            assert!(tokio::time::timeout(PATIENCE, counted).await.is_ok(), "{counter}");
        }
    }
    for node in [a, b, stranger] {
        node.shut_down().await;
    }
}

#[tokio::test]
async fn a_relayed_session_is_taken_back_when_the_direct_one_dies() {
    let (a, b) = friends().await;
    let (_relayed_a, relayed_b) = connect(&a, &b, Carrier::Relay).await;
    let mut transfer = live_feed(&relayed_b, &a).await;
    receive(&mut transfer, 1).await;
    let (direct_a, direct_b) = connect(&a, &b, Carrier::Tcp).await;
    a.post("over the direct path").await;
    b.holds(&a, 2).await;

    direct_a.close();
    ended(&direct_a).await;
    ended(&direct_b).await;
    a.post("back on the relay").await;
    b.holds(&a, 3).await;
    b.post("as well").await;
    a.holds(&b, 2).await;
    for node in [&a, &b] {
        assert_eq!(node.sessions().await, words(&[("relay", "live")]));
    }
    receive(&mut transfer, 2).await;
    a.shut_down().await;
    b.shut_down().await;
}

/// The engine by hand, so that the clock is ours.
#[tokio::test]
async fn a_draining_session_ends_when_it_is_idle_or_had_its_time() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut engine = app(folder.path()).await.into_engine();
    let (ours, theirs) = (local(folder.path()), local(other.path()));
    for (busy, lasts) in [(false, Duration::from_secs(2)), (true, Duration::from_secs(30))] {
        let (relayed, far) = shaken(&ours, &theirs, Carrier::Relay).await;
        let (direct, _far_direct) = shaken(&ours, &theirs, Carrier::Quic).await;
        let (handle, mut calls, driver) = (relayed.session.clone(), far.calls, far.driver);
        engine.on_connected(relayed, None);
        engine.spawn(async move {
            driver.run().await;
        });
        // What the engine calls lasts as long as the session, and is no reason to keep it.
        let _lasting = [calls.next().await, calls.next().await];
        let _transfer = if busy {
            let args = vec![json!({"id": engine.ctx.own, "live": true})];
            Some(handle.open(CallKind::Source, &["createHistoryStream"], args).await.unwrap())
        } else {
            None
        };
        engine.on_connected(direct, None);
        // The direct session also takes over what the engine asked for.
        while handle.is_busy() != busy {
            tokio::task::yield_now().await;
        }
        let standing = |engine: &Engine| {
            engine.sessions.values().find(|open| open.session == handle).map(|open| open.standing)
        };
        let Some(Standing::Draining(since)) = standing(&engine) else { panic!("{:?}", standing(&engine)) };
        engine.drain(since + lasts - Duration::from_millis(1));
        assert_eq!(standing(&engine), Some(Standing::Draining(since)), "busy: {busy}");
        engine.drain(since + lasts);
        assert_eq!(standing(&engine), Some(Standing::Closing), "busy: {busy}");
        engine.close_sessions(identity::public_key(&theirs.keypair));
    }
}

/// Also by hand: nobody answers, and the clock is ours.
#[tokio::test]
async fn a_known_relay_is_dialled_soon_after_a_direct_dial_that_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = app(folder.path()).await.into_engine();
    let peer = PublicKey::from_bytes([9; 32]);
    let direct = Endpoint::Libp2p("/ip4/192.0.2.1/udp/1/quic-v1/p2p/12D3KooP".into());
    let circuit = Endpoint::Libp2p("/ip4/192.0.2.9/tcp/1/p2p/12D3KooR/p2p-circuit/p2p/12D3KooP".into());
    let begun = clock::now();
    for endpoint in [&direct, &circuit] {
        engine.book.heard(peer, endpoint, Source::Client, begun);
    }
    let dialling = |engine: &Engine| {
        let (_, peer) = engine.book.iter().next().unwrap();
        [&direct, &circuit].map(|at| peer.paths.iter().any(|p| p.state.dialing && p.state.endpoint == *at))
    };
    engine.make_plan(begun);
    assert_eq!(dialling(&engine), [true, false]);
    assert!(
        engine.wake_at().is_some_and(|at| at < begun + scheduler::PATIENCE),
        "the plan is soon made again"
    );
    engine.make_plan(begun);
    let due = engine.plan_at.unwrap();
    assert!(due <= clock::now() + scheduler::PATIENCE);
    engine.make_plan(due);
    assert_eq!(dialling(&engine), [true, true]);
}

/// By hand: what the DHT says comes from nobody.
#[tokio::test]
async fn a_friend_who_is_found_is_dialled_directly_and_by_its_circuit_and_a_stranger_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = app(folder.path()).await.into_engine();
    engine.policy.autostart = true;
    let (friend, stranger) = (PublicKey::from_bytes([9; 32]), PublicKey::from_bytes([8; 32]));
    let relate = |engine: &mut Engine, edge| {
        let own = engine.ctx.own;
        let graph = Arc::clone(&engine.graph);
        let change = graph.write().unwrap().set(own, FeedId::from_bytes([9; 32]), edge).unwrap();
        engine.hops.note(&graph.read().unwrap(), &change);
        engine.update_wanted();
    };
    relate(&mut engine, Edge::Follow);
    let circuit = Endpoint::Libp2p("/ip4/192.0.2.9/tcp/1/p2p/12D3KooR/p2p-circuit/p2p/12D3KooP".into());
    let direct = Endpoint::Libp2p("/ip4/192.0.2.1/udp/1/quic-v1/p2p/12D3KooP".into());
    let found = |feed, endpoints: &[&Endpoint], age| Found {
        feed,
        peer: TransportId::parse("12D3KooP").unwrap(),
        endpoints: endpoints.iter().map(|at| (*at).clone()).collect(),
        nat: Nat::Unknown,
        age: Duration::from_secs(age),
        took: Duration::ZERO,
        asked: 1,
    };
    for feed in [stranger, friend] {
        engine.on_found(found(feed, &[&circuit, &direct], 60));
    }
    assert_eq!(engine.book.iter().map(|(key, _)| key).collect::<Vec<_>>(), [friend]);
    assert_eq!(engine.book.transports().iter().map(|(key, _)| key).collect::<Vec<_>>(), [friend]);
    let dialling = |engine: &Engine| {
        let paths = engine.book.iter().flat_map(|(_, peer)| &peer.paths);
        paths.filter(|path| path.state.dialing).map(|path| path.state.endpoint.clone()).collect::<Vec<_>>()
    };
    engine.make_plan(clock::now());
    assert_eq!(dialling(&engine), slice::from_ref(&direct));
    let due = clock::now() + scheduler::PATIENCE;
    engine.make_plan(due);
    assert_eq!(dialling(&engine), [circuit.clone(), direct.clone()]);

    // Twice, so that the shortest pause is longer than between two words of a friend.
    for endpoint in [&circuit, &direct, &circuit, &direct] {
        engine.book.failed(friend, endpoint, clock::now());
    }
    let later = clock::now() + Duration::from_secs(3);
    engine.make_plan(later);
    assert_eq!(dialling(&engine), [], "both back off");
    engine.on_found(found(friend, &[&circuit], 0));
    engine.make_plan(later);
    assert_eq!(dialling(&engine), slice::from_ref(&circuit), "it has been there since, and only there");

    engine.book.failed(friend, &circuit, clock::now());
    relate(&mut engine, Edge::Block);
    engine.on_found(found(friend, &[&direct], 0));
    assert!(engine.book.is_empty());
}

#[tokio::test]
async fn sessions_of_one_peer_cannot_pile_up_while_they_drain() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut engine = app(folder.path()).await.into_engine();
    let (ours, theirs) = (local(folder.path()), local(other.path()));
    let mut far = Vec::new();
    for carrier in [Carrier::Quic, Carrier::Relay, Carrier::Relay, Carrier::Relay, Carrier::Relay] {
        let (near, other_end) = shaken(&ours, &theirs, carrier).await;
        engine.on_connected(near, None);
        far.push(other_end);
    }
    let standings: Vec<_> = engine.sessions.values().map(|open| open.standing.label()).collect();
    assert_eq!(standings, ["live", "closing", "closing", "draining", "draining"]);
}
