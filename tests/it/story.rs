//! The domain story: a peer is discovered, decided upon, authorised, dialled and proven; then both
//! replicate, whoever dialled. Each step is asserted from what an operator and a client can see: metrics
//! and the API.

use hawsepipe_tests::js::{Foreign, Options, Stack};
use hawsepipe_tests::lab::{self, Host, Lab};
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::wait::{self, SOON};
use serde_json::{Value, json};

/// One way to find a peer on the local network and to reach it.
struct Way {
    source: &'static str,
    carrier: &'static str,
    settings: fn(Setup) -> Setup,
}

const MDNS_AND_QUIC: Way = Way {
    source: "mdns",
    carrier: "quic",
    settings: |setup| setup.set("lan.beacon", false).set("lan.encrypted", false),
};

const BEACONS_AND_TCP: Way = Way {
    source: "beacon",
    carrier: "net",
    settings: |setup| setup.set("overlay.enabled", false).set("lan.encrypted", false),
};

const ENCRYPTED_BEACONS_AND_TCP: Way = Way {
    source: "beacon_encrypted",
    carrier: "net",
    settings: |setup| setup.set("overlay.enabled", false).set("lan.beacon", false),
};

impl Way {
    fn start(&self, host: &Host) -> Peer {
        (self.settings)(Setup::on(host)).start()
    }
}

fn post(text: &str) -> Value {
    json!({ "type": "post", "text": text })
}

/// Two nodes that follow each other and know nothing else become one.
fn two_nodes_find_each_other_and_replicate(lab: &mut Lab, way: &Way) {
    let [host_a, host_b] = lab.segment(["a", "b"]);
    let (a, b) = (way.start(&host_a), way.start(&host_b));
    a.follow(b.id());
    b.follow(a.id());
    let early = a.publish(&post("written before or while they met"));

    // 1. Each learns that the other claims to be near.
    for node in [&a, &b] {
        node.wait_metric("discovered_total", &[("source", way.source)], 1.0);
    }
    // 2. to 4. One of them decides to dial, both allow it, and the handshake proves both.
    wait_for_session(&a, &b, way.carrier);
    assert_connected_once_by(way, &a, &b);
    // 5. Each wants two feeds: its own and the other's.
    for node in [&a, &b] {
        node.wait_metric("feeds_wanted", &[], 2.0);
    }
    // 6. and 7. Each has the other's messages, whoever dialled.
    let clock = [(a.id().to_owned(), 2), (b.id().to_owned(), 1)];
    a.wait_clock(&clock, SOON);
    b.wait_clock(&clock, SOON);
    assert_eq!(a.ids(), b.ids());
    assert!(b.ids().contains(&early));
    a.wait_metric("messages", &[], 3.0);
    a.wait_metric("messages_stored_total", &[("from", "peer")], 1.0);
    b.wait_metric("messages_stored_total", &[("from", "peer")], 2.0);
    assert_live_push(&a, &b);
    assert_live_push(&b, &a);
    for node in [a, b] {
        assert!(node.stop().success(), "a node stops with exit code 0");
    }
}

fn wait_for_session(a: &Peer, b: &Peer, carrier: &str) {
    for (node, other) in [(a, b), (b, a)] {
        wait::until("a session between the two", SOON, || {
            let peers = node.peers();
            let found = peers.iter().any(|peer| peer.key == other.id() && peer.carrier == carrier);
            found.then_some(()).ok_or_else(|| format!("{peers:?}\n{:?}", node.metrics()))
        });
    }
}

/// Adds up what the two counted on the way to their session.
fn assert_connected_once_by(way: &Way, a: &Peer, b: &Peer) {
    let (a, b) = (a.metrics().unwrap(), b.metrics().unwrap());
    let both = |name: &str, labels: &[(&str, &str)]| a.sum(name, labels) + b.sum(name, labels);
    assert!(both("decisions_total", &[("decision", "dial")]) >= 1.0, "\n{a}\n{b}");
    for direction in ["out", "in"] {
        let allowed = both("authorize_total", &[("direction", direction), ("outcome", "allowed")]);
        assert!(allowed >= 1.0, "{direction}\n{a}\n{b}");
    }
    let carrier = ("carrier", way.carrier);
    assert!(both("dials_total", &[carrier, ("outcome", "ok")]) >= 1.0, "\n{a}\n{b}");
    for role in ["client", "server"] {
        let proven = both("handshakes_total", &[carrier, ("role", role), ("outcome", "ok")]);
        assert!(proven >= 1.0, "{role}\n{a}\n{b}");
    }
    for other in ["net", "quic", "tcp"].into_iter().filter(|other| *other != way.carrier) {
        assert_eq!(both("handshakes_total", &[("carrier", other)]), 0.0, "{other} was tried\n{a}\n{b}");
    }
    assert_eq!(both("authorize_total", &[("outcome", "blocked")]), 0.0);
}

/// A new post travels while both are connected, without anybody asking for it.
fn assert_live_push(from: &Peer, to: &Peer) {
    let listening = to.follow_output(&["log", "--live"]);
    // The listener is registered when the backlog is out.
    for _ in to.ids() {
        listening.next_line();
    }
    let id = from.publish(&post("live"));
    let arrived = listening.next_where(|message| message["key"] == id.as_str());
    assert_eq!(arrived["value"]["author"], from.id());
    assert_eq!(arrived["value"]["content"]["text"], "live");
}

#[test]
fn two_nodes_find_each_other_by_mdns_and_replicate_over_quic() {
    lab::run(|lab| two_nodes_find_each_other_and_replicate(lab, &MDNS_AND_QUIC));
}

#[test]
fn two_nodes_find_each_other_by_beacons_and_replicate_over_tcp() {
    lab::run(|lab| two_nodes_find_each_other_and_replicate(lab, &BEACONS_AND_TCP));
}

#[test]
fn two_nodes_find_each_other_by_encrypted_beacons() {
    lab::run(|lab| two_nodes_find_each_other_and_replicate(lab, &ENCRYPTED_BEACONS_AND_TCP));
}

#[test]
fn a_node_that_was_away_finds_its_peer_again_and_catches_up_both_ways() {
    lab::run(|lab| {
        let [host_a, host_b] = lab.segment(["a", "b"]);
        let way = &BEACONS_AND_TCP;
        let (a, b) = (way.start(&host_a), way.start(&host_b));
        a.follow(b.id());
        b.follow(a.id());
        let (a_id, b_id) = (a.id().to_owned(), b.id().to_owned());
        a.wait_clock(&[(b_id.clone(), 1)], SOON);
        b.wait_clock(&[(a_id.clone(), 1)], SOON);
        // B vanishes without a word; both write while they cannot talk.
        let b_setup = b.kill();
        a.publish(&post("while B was away"));
        let b = b_setup.solitary().start();
        b.publish(&post("while B was alone"));
        assert!(b.stop().success());
        let b = (way.settings)(Setup::on(&host_b)).start();
        a.wait_clock(&[(b_id, 2)], SOON);
        b.wait_clock(&[(a_id, 2)], SOON);
        assert_eq!(a.ids(), b.ids());
    });
}

#[test]
fn nodes_of_different_networks_do_not_talk() {
    lab::run(|lab| {
        let [host_a, host_b] = lab.segment(["a", "b"]);
        let way = &BEACONS_AND_TCP;
        let a = way.start(&host_a);
        let other_network = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
        let b = (way.settings)(Setup::on(&host_b)).set("caps.shs", other_network).start();
        a.follow(b.id());
        b.follow(a.id());
        // Plain beacons name no network, so they hear each other; the handshake tells them apart.
        a.wait_metric("discovered_total", &[("source", "beacon")], 1.0);
        let refused = a.setup().run(&["connect", &b.net_address()]);
        assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));
        let (a_metrics, b_metrics) = (a.metrics().unwrap(), b.metrics().unwrap());
        for metrics in [&a_metrics, &b_metrics] {
            let proven = metrics.sum("handshakes_total", &[("carrier", "net"), ("outcome", "ok")]);
            assert_eq!(proven, 0.0, "\n{metrics}");
        }
        let told = b_metrics.sum("handshakes_total", &[("role", "server"), ("outcome", "wrong_network")]);
        assert!(told >= 1.0, "\n{b_metrics}");
        assert_eq!((a.connected().len(), b.connected().len()), (0, 0));
        assert_eq!((a.sequence_of(b.id()), b.sequence_of(a.id())), (0, 0));
    });
}

/// A blocked node gets no session with the one that blocks it, and none of its messages through another.
fn a_blocked_node_gets_nothing(lab: &mut Lab, way: &Way) {
    let [host_a, host_b, host_c] = lab.segment(["a", "b", "c"]);
    let (a, b) = (way.start(&host_a), way.start(&host_b));
    a.follow(b.id());
    b.follow(a.id());
    // C's identity exists before C meets anybody.
    let c = Setup::on(&host_c).solitary().start();
    let (c_id, c_setup) = (c.id().to_owned(), c.setup().clone());
    assert!(c.stop().success());
    b.block(&c_id);
    a.wait_clock(&[(b.id().to_owned(), 2)], SOON);

    let c = (way.settings)(Setup::on(&host_c).path(c_setup.dir())).start();
    c.follow(a.id());
    c.follow(b.id());
    // C hears of B like of anybody, and A, which does not block C, lets it in.
    c.wait_metric("discovered_total", &[("source", way.source)], 2.0);
    wait_for_session(&a, &c, way.carrier);
    let refused = c.setup().run(&["connect", &b.net_address()]);
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));
    b.wait_metric("authorize_total", &[("direction", "in"), ("outcome", "blocked")], 1.0);
    let refused = b.setup().run(&["connect", &c.net_address()]);
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));

    // What A writes reaches C; what B writes does not, though A has it and C asks for it.
    let b_post = b.publish(&post("not for C"));
    a.wait_clock(&[(b.id().to_owned(), 3)], SOON);
    a.publish(&post("for everybody"));
    c.wait_clock(&[(a.id().to_owned(), 2)], SOON);
    assert!(!c.ids().contains(&b_post));
    assert_eq!(c.sequence_of(b.id()), 0, "a third party handed on what the author keeps from C");
    assert_eq!(c.connected(), [a.id().to_owned()]);
    assert_eq!(b.connected(), [a.id().to_owned()]);
    let metrics = b.metrics().unwrap();
    assert_eq!(metrics.sum("sessions", &[("carrier", way.carrier)]), 1.0, "\n{metrics}");
}

#[test]
fn a_blocked_node_gets_no_session_over_quic() {
    lab::run(|lab| a_blocked_node_gets_nothing(lab, &MDNS_AND_QUIC));
}

#[test]
fn a_blocked_node_gets_no_session_over_tcp() {
    lab::run(|lab| a_blocked_node_gets_nothing(lab, &BEACONS_AND_TCP));
}

/// The same story with somebody else's program at the other end. `Theirs` leaves all dialling to it.
#[derive(Clone, Copy, PartialEq)]
enum Dialer {
    Theirs,
    Whoever,
}

fn a_foreign_peer_and_we_meet(lab: &mut Lab, stack: Stack, dialer: Dialer) {
    let [host_ours, host_theirs] = lab.segment(["ours", "theirs"]);
    let ours = Setup::on(&host_ours).set("conn.autostart", dialer == Dialer::Whoever).start();
    let mut theirs = Foreign::start(&host_theirs, stack, &Options { lan: true, ..Options::default() });
    ours.follow(theirs.id());
    theirs.follow([ours.id()]);
    let clock = [(ours.id().to_owned(), 1), (theirs.id().to_owned(), 1)];
    ours.wait_clock(&clock, SOON);
    theirs.wait_clock(&clock, SOON);
    // It may have dialled before its own beacon came.
    ours.wait_metric("discovered_total", &[("source", "beacon")], 1.0);
    if stack == Stack::Manyverse {
        ours.wait_metric("discovered_total", &[("source", "beacon_encrypted")], 1.0);
    }
    let metrics = ours.metrics().unwrap();
    if dialer == Dialer::Theirs {
        assert_eq!(metrics.sum("dials_total", &[]), 0.0, "\n{metrics}");
        let served = [("carrier", "net"), ("role", "server"), ("outcome", "ok")];
        assert!(metrics.sum("handshakes_total", &served) >= 1.0, "\n{metrics}");
    }
    let ours_live = ours.publish(&post("from ours"));
    theirs.wait_clock(&[(ours.id().to_owned(), 2)], SOON);
    let theirs_live = theirs.publish(&post("from theirs"));
    ours.wait_clock(&[(theirs.id().to_owned(), 2)], SOON);
    assert!(theirs.ids().contains(&ours_live));
    assert!(ours.ids().contains(&theirs_live));
}

#[test]
fn ssb_server_finds_us_on_the_local_network() {
    lab::run(|lab| a_foreign_peer_and_we_meet(lab, Stack::Classic, Dialer::Theirs));
}

#[test]
fn ssb_server_and_we_find_each_other() {
    lab::run(|lab| a_foreign_peer_and_we_meet(lab, Stack::Classic, Dialer::Whoever));
}

#[test]
fn the_manyverse_stack_finds_us_on_the_local_network() {
    lab::run(|lab| a_foreign_peer_and_we_meet(lab, Stack::Manyverse, Dialer::Theirs));
}

#[test]
fn the_manyverse_stack_and_we_find_each_other() {
    lab::run(|lab| a_foreign_peer_and_we_meet(lab, Stack::Manyverse, Dialer::Whoever));
}
