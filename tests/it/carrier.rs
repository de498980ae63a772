//! Sessions that outlive their paths: one session, whatever becomes of the way between the two, and what was under
//! way arrives whole.

use std::fs;
use std::thread;
use std::time::Duration;

use hawsepipe_tests::chance::SplitMix;
use hawsepipe_tests::control::RELAY;
use hawsepipe_tests::lab::internet::Place;
use hawsepipe_tests::lab::nat::Nat;
use hawsepipe_tests::lab::{self, Lab};
use hawsepipe_tests::meeting::{Act, LINE, Meeting, Stage, Transport, at_relay, dialable, is_direct};
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::wait::{self, SOON};
use serde_json::{Value, json};

use crate::nat::{RECOVERY, assert_posts_travel, befriend};

/// One blob.
const BLOB: usize = 5_000_000;

/// Sessions that began, of this node in all: not one more while those that there are live.
fn handshakes(peer: &Peer) -> f64 {
    peer.metrics().unwrap().sum("handshakes_total", &[("outcome", "ok")])
}

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

/// Adds a blob of random bytes; its id.
fn add_blob(peer: &Peer, seed: u64) -> String {
    let mut chance = SplitMix::new(seed);
    let bytes: Vec<u8> = (0..BLOB).map(|_| chance.below(256) as u8).collect();
    let file = peer.setup().dir().join(format!("blob-{seed}"));
    fs::write(&file, bytes).unwrap();
    peer.ok(&["blobs.add", file.to_str().unwrap()]).trim().to_owned()
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

/// The relay follows both, so that they may have real traffic through it.
fn make_friends_of(relay: &Peer, meeting: &Meeting) {
    let at = dialable(relay, &at_relay(relay, Transport::Quic));
    for (peer, control) in
        [(&meeting.listener, meeting.listener_control()), (&meeting.dialer, meeting.dialer_control())]
    {
        relay.follow(peer.id());
        control.call("conn.connect", vec![json!(at)]).unwrap();
    }
}

/// The paths that a peer's session with another went.
fn paths(peer: &Peer, other: &Peer) -> Vec<Value> {
    let lines = peer.ok(&["peers", "--connected"]);
    let shown = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut of_other = shown.filter(|shown| shown["data"]["key"] == other.id());
    of_other
        .next()
        .map_or_else(Vec::new, |shown| shown["data"]["paths"].as_array().cloned().unwrap_or_default())
}

/// Two homes whose routers forget with every reboot which port was whose, and two relays.
fn two_relays(lab: &Lab) -> (Stage, Peer, Meeting) {
    let stage = Stage::of(lab, Place::PortShifting, Place::PortShifting);
    let site = stage.internet.public("second-relay", LINE);
    let second = Setup::on(&site.host).set("local", false).start();
    let other = at_relay(&second, Transport::Quic);
    let meeting = stage.raise_with(&Act::PLAIN, &[&other]).unwrap_or_else(|why| panic!("{why}"));
    for relay in [&meeting.relay, &second] {
        make_friends_of(relay, &meeting);
    }
    wait::until("a reservation with each relay", SOON, || {
        let held = meeting.listener_control().status()?.reservations();
        if held.len() == 2 { Ok(()) } else { Err(format!("{held:?}")) }
    });
    (stage, second, meeting)
}

#[test]
fn one_session_carries_twenty_megabytes_over_relays_and_direct_paths() {
    lab::run(|lab| {
        let (stage, second, meeting) = two_relays(lab);
        let first_at = at_relay(&meeting.relay, Transport::Quic);
        befriend(&meeting.listener, &meeting.dialer);
        let blobs: Vec<_> = (1..=4).map(|seed| add_blob(&meeting.listener, seed)).collect();
        let circuit = format!("{first_at}/p2p-circuit/{}", node_of(&meeting.listener));
        let outcome = meeting.dial_at(&dialable(&meeting.listener, &circuit), Duration::from_secs(15));
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

/// The end of a node's multiaddrs: `p2p/ID`.
fn node_of(peer: &Peer) -> String {
    let at = peer.libp2p_at(Transport::Quic).unwrap();
    format!("p2p/{}", at.rsplit('/').next().unwrap())
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
