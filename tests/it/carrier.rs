//! Sessions that outlive their paths: one session, whatever becomes of the way between the two, and what was under
//! way arrives whole.

use std::thread;
use std::time::Duration;

use hawsepipe_tests::carried::{add_blob, circuit, handshakes, paths, session_with, two_relays};
use hawsepipe_tests::control::RELAY;
use hawsepipe_tests::lab::internet::Place;
use hawsepipe_tests::lab::nat::Nat;
use hawsepipe_tests::lab::{self, Lab};
use hawsepipe_tests::meeting::{Act, LINE, Meeting, Part, Stage, Transport, at_relay, is_direct};
use hawsepipe_tests::peer::Peer;
use hawsepipe_tests::wait::{self, SOON};
use serde_json::{Value, json};

use crate::nat::{RECOVERY, assert_posts_travel, befriend};

/// One blob.
const BLOB: usize = 5_000_000;

fn moves(peer: &Peer, labels: &[(&str, &str)]) -> f64 {
    let all: Vec<_> = labels.iter().copied().chain([("result", "ok")]).collect();
    peer.metrics().unwrap().sum("session_moves_total", &all)
}

fn wait_for_moves(peer: &Peer, labels: &[(&str, &str)], least: f64) {
    wait::until("a session to move", RECOVERY, || {
        let moved = moves(peer, labels);
        if moved >= least { Ok(()) } else { Err(format!("{moved} moves {labels:?}")) }
    });
}

fn wait_until_direct(peer: &Peer, other: &Peer) {
    let control = peer.control();
    wait::until("a direct session", RECOVERY, || {
        let status = control.status()?;
        if is_direct(&status, other.id()) { Ok(()) } else { Err(status.0["sessions"].to_string()) }
    });
}

/// Fetches a blob, which is hashed when it has come; `meanwhile` runs once some of it has.
fn fetch(peer: &Peer, blob: &str, meanwhile: impl FnOnce()) {
    let before = received(peer);
    thread::scope(|scope| {
        let fetching = scope.spawn(|| peer.control().call_within(RECOVERY, "blobs.want", vec![json!(blob)]));
        wait::until("a blob to begin to come", SOON, || {
            let now = received(peer);
            if now > before + 200_000.0 || fetching.is_finished() { Ok(()) } else { Err(format!("{now}")) }
        });
        meanwhile();
        assert_eq!(fetching.join().unwrap(), Ok(json!(true)));
    });
}

fn received(peer: &Peer) -> f64 {
    peer.metrics().unwrap().sum("blob_bytes_total", &[("direction", "in")])
}

#[test]
fn one_session_carries_twenty_megabytes_over_relays_and_direct_paths() {
    lab::run(|lab| {
        let (stage, second, meeting) = two_relays(lab);
        befriend(&meeting.listener, &meeting.dialer);
        let blobs: Vec<_> = (1..=4).map(|seed| add_blob(&meeting.listener, seed, BLOB)).collect();
        let outcome = meeting.dial_at(&circuit(&meeting), Duration::from_secs(15));
        assert!(outcome.session.is_some() && outcome.direct.is_some(), "{outcome:?}");
        let Meeting { relay, listener, dialer, .. } = meeting;
        let before = [&listener, &dialer].map(handshakes);
        assert!(moves(&dialer, &[("from", RELAY)]) >= 1.0, "it began on the relay");

        fetch(&dialer, &blobs[0], || {});
        // The routers forget: the direct path is gone, and so are those to the relays.
        fetch(&dialer, &blobs[1], || stage.forget());
        wait_for_moves(&dialer, &[("to", RELAY)], 1.0);
        wait_until_direct(&dialer, &listener);
        // The same without the first relay.
        drop(relay.kill());
        let relayed = moves(&dialer, &[("to", RELAY)]);
        fetch(&dialer, &blobs[2], || stage.forget());
        wait_for_moves(&dialer, &[("to", RELAY)], relayed + 1.0);
        wait_until_direct(&dialer, &listener);
        fetch(&dialer, &blobs[3], || {});

        assert_posts_travel(&listener, &dialer, SOON);
        let went = paths(&dialer, &listener);
        let second_id = at_relay(&second, Transport::Quic).rsplit('/').next().unwrap().to_owned();
        assert!(went.iter().any(|path| path["remote"].as_str().unwrap().contains(&second_id)), "{went:?}");
        assert_eq!([&listener, &dialer].map(handshakes), before);
    });
}

#[test]
fn a_session_goes_on_when_its_host_moves_to_another_network() {
    lab::run(|lab| {
        let (stage, _second, meeting) = two_relays(lab);
        befriend(&meeting.listener, &meeting.dialer);
        let outcome = meeting.dial(Duration::from_secs(15));
        assert!(outcome.session.is_some() && outcome.direct.is_some(), "{outcome:?}");
        let (listener, dialer) = (&meeting.listener, &meeting.dialer);
        assert_posts_travel(listener, dialer, SOON);
        let control = dialer.control();
        let began = control.status().unwrap().0["sessions"].clone();
        let before = paths(dialer, listener).len();
        let (elsewhere, _wire) = stage.internet.router("elsewhere", Nat::PORT_SHIFTING, LINE);
        elsewhere.welcome(&stage.dialer.host);
        // Counted for this session alone: those with the relays move as well.
        wait::until("the session to move", SOON, || match paths(dialer, listener) {
            went if went.len() > before => Ok(()),
            went => Err(format!("{went:?}")),
        });
        assert_posts_travel(listener, dialer, SOON);
        let session = |status: &Value| {
            let mut of_peer = status.as_array().unwrap().iter().filter(|open| open["peer"] == listener.id());
            of_peer.next().map(|open| open["direction"].clone())
        };
        assert_eq!(session(&began), session(&control.status().unwrap().0["sessions"]));
    });
}

/// Two of whom one has only the plain protocol: they meet on a relay, come to a direct session, and each gets what the
/// other has.
fn they_replicate_though_one_lacks_the_carrier(lab: &Lab, who: Part) {
    let stage = Stage::of(lab, Place::PortRestricted, Place::PortRestricted);
    let act = Act { lacks_carrier: Some(who), ..Act::PLAIN };
    let meeting = stage.raise(&act).unwrap_or_else(|why| panic!("{why}"));
    let (listener, dialer) = (&meeting.listener, &meeting.dialer);
    befriend(listener, dialer);
    let outcome = meeting.dial(RECOVERY);
    assert!(outcome.session.is_some() && outcome.direct.is_some(), "{outcome:?}");
    assert_posts_travel(listener, dialer, SOON);
    fetch(dialer, &add_blob(listener, 1, BLOB), || {});
    fetch(listener, &add_blob(dialer, 2, BLOB), || {});
    // It is a session that was dialled over the direct path: none that moved there.
    for (one, other) in [(listener, dialer), (dialer, listener)] {
        let session = session_with(one, other);
        assert!(session["moves"] == 0 && session["carrier"] != RELAY, "{session}");
    }
}

#[test]
fn a_listener_without_the_carrier_replicates_with_us() {
    lab::run(|lab| they_replicate_though_one_lacks_the_carrier(lab, Part::Listener));
}

#[test]
fn a_dialer_without_the_carrier_replicates_with_us() {
    lab::run(|lab| they_replicate_though_one_lacks_the_carrier(lab, Part::Dialer));
}

/// A relay that knows neither of the two lets a circuit carry 256 KiB.
#[test]
fn a_session_is_on_another_circuit_before_a_strangers_relay_cuts_it() {
    const POSTS: u64 = 150;
    lab::run(|lab| {
        // There is no other way between these two.
        let stage = Stage::of(lab, Place::SymmetricRandom, Place::SymmetricRandom);
        let meeting = stage.raise(&Act::PLAIN).unwrap_or_else(|why| panic!("{why}"));
        let (listener, dialer) = (&meeting.listener, &meeting.dialer);
        befriend(listener, dialer);
        for _ in 0..POSTS {
            let post = json!({ "type": "post", "text": "a long story ".repeat(500) });
            meeting.listener_control().call("publish", vec![post]).unwrap();
        }
        let outcome = meeting.dial(Duration::from_secs(2));
        assert!(outcome.session.is_some() && outcome.carrier == RELAY, "{outcome:?}");
        let before = [listener, dialer].map(handshakes);
        // A megabyte of messages goes over circuits of a quarter of one.
        dialer.wait_clock(&[(listener.id().to_owned(), POSTS + 1)], RECOVERY);
        let (small, large) = (add_blob(listener, 1, 100_000), add_blob(listener, 2, 500_000));
        let control = dialer.control();
        control.call("blobs.want", vec![json!(large), json!({ "nowait": true })]).unwrap();
        fetch(dialer, &small, || {});
        // The large one, wanted before, is more than any circuit may carry: nobody has begun to fetch it.
        assert_eq!(control.call("blobs.has", vec![json!(large)]), Ok(json!(false)));
        assert_eq!(received(dialer), 100_000.0);
        assert_posts_travel(listener, dialer, SOON);
        assert!(moves(dialer, &[("from", RELAY), ("to", RELAY)]) >= 4.0);
        // The relay tells what it counted every few seconds; then it has also told of all that it cut.
        meeting.relay.wait_metric("relay_requests_total", &[("kind", "circuit"), ("outcome", "ok")], 5.0);
        let relay = meeting.relay.metrics().unwrap();
        assert_eq!(relay.sum("relay_closed_total", &[("reason", "byte_limit")]), 0.0, "{relay}");
        assert_eq!([listener, dialer].map(handshakes), before);
    });
}
