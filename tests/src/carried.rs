//! Two homes and two relays: what tests and figures of sessions that outlive their paths begin with.

use std::fs;

use serde_json::{Value, json};

use crate::chance::SplitMix;
use crate::lab::Lab;
use crate::lab::internet::Place;
use crate::meeting::{Act, LINE, Meeting, Stage, Transport, at_relay, dialable};
use crate::peer::{Peer, Setup};
use crate::wait::{self, SOON};

/// Two homes whose routers forget with every reboot which port was whose, and two relays that follow both.
///
/// # Panics
/// When they do not come to meet.
pub fn two_relays(lab: &Lab) -> (Stage, Peer, Meeting) {
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

/// The relay follows both, so that they may have real traffic through it.
fn make_friends_of(relay: &Peer, meeting: &Meeting) {
    let at = dialable(relay, &at_relay(relay, Transport::Quic));
    for (peer, control) in
        [(&meeting.listener, meeting.listener_control()), (&meeting.dialer, meeting.dialer_control())]
    {
        relay.follow(peer.id());
        control.call("conn.connect", vec![json!(at)]).unwrap_or_else(|why| panic!("{why}"));
    }
}

/// The listener's address through the relay on the stage.
///
/// # Panics
/// When the two do not listen for QUIC.
pub fn circuit(meeting: &Meeting) -> String {
    let own = at_relay(&meeting.listener, Transport::Quic);
    let node = own.rsplit('/').next().unwrap_or_default();
    let at = format!("{}/p2p-circuit/p2p/{node}", at_relay(&meeting.relay, Transport::Quic));
    dialable(&meeting.listener, &at)
}

/// Adds a blob of `size` random bytes; its id.
///
/// # Panics
/// When the node does not take it.
pub fn add_blob(peer: &Peer, seed: u64, size: usize) -> String {
    let mut chance = SplitMix::new(seed);
    let bytes: Vec<u8> = (0..size).map(|_| chance.below(256) as u8).collect();
    let file = peer.setup().dir().join(format!("blob-{seed}"));
    fs::write(&file, bytes).expect("the lab's folder is writable");
    peer.ok(&["blobs.add", &file.display().to_string()]).trim().to_owned()
}

/// What `peer` shows of its session with `other`: `moves`, and in `paths` those that it went last.
pub fn session_with(peer: &Peer, other: &Peer) -> Value {
    let lines = peer.ok(&["peers", "--connected"]);
    let mut shown = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    shown.find(|shown| shown["data"]["key"] == other.id()).map_or(Value::Null, |shown| shown["data"].clone())
}

/// The paths that a peer's session with another went.
pub fn paths(peer: &Peer, other: &Peer) -> Vec<Value> {
    session_with(peer, other)["paths"].as_array().cloned().unwrap_or_default()
}

/// Sessions that began, of this node in all: not one more while those that there are live.
///
/// # Panics
/// When it tells no metrics.
pub fn handshakes(peer: &Peer) -> f64 {
    let metrics = peer.metrics().unwrap_or_else(|why| panic!("{why}"));
    metrics.sum("handshakes_total", &[("outcome", "ok")])
}
