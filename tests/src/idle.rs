//! `idle`: what a node behind a NAT sends and receives while nothing happens.
//!
//! It has reservations at two relays, sessions with five peers and follows fifty feeds. What is counted is what
//! its line carries: IP packets with their headers, both ways.

use std::thread;
use std::time::Duration;

use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_tests::control::Control;
use hawsepipe_tests::lab::Lab;
use hawsepipe_tests::lab::internet::Place;
use hawsepipe_tests::lab::link::{Direction, Wire};
use hawsepipe_tests::meeting::{LINE, Transport, at_relay, dialable};
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::rogue::identity;
use hawsepipe_tests::wait::{self, SOON};
use serde_json::json;

use super::say;

/// The minutes of a node's life that are counted unless told otherwise.
const MINUTES: [f64; 2] = [5.0, 15.0];

const RELAYS: usize = 2;
const SESSIONS: usize = 5;
const FOLLOWS: usize = 50;

/// The most that it may send and receive together, in bytes of IP packets in a second.
const ALLOWED: f64 = 1024.0;

/// Which minutes to count.
pub(super) struct Plan {
    from: Duration,
    to: Duration,
}

impl Plan {
    pub(super) fn read(options: &[String]) -> Result<Self, String> {
        let minutes = match options {
            [] => MINUTES,
            [from, to] => {
                let [from, to] =
                    [from, to].map(|text| text.parse::<f64>().map_err(|e| format!("{text}: {e}")));
                [from?, to?]
            }
            _ => return Err("idle takes a first and a last minute".to_owned()),
        };
        let [from, to] = minutes.map(|minutes| Duration::try_from_secs_f64(minutes * 60.0));
        let (from, to) = (from.map_err(|e| e.to_string())?, to.map_err(|e| e.to_string())?);
        if from < to {
            Ok(Self { from, to })
        } else {
            Err("the last minute comes after the first".to_owned())
        }
    }
}

/// Measures and prints.
pub(super) fn run(lab: &Lab, plan: &Plan) {
    let internet = lab.internet();
    let peers: Vec<Peer> = (1..=SESSIONS)
        .map(|number| {
            let site = internet.public(&format!("peer-{number}"), LINE);
            Setup::on(&site.host).set("local", false).set("conn.autostart", false).start()
        })
        .collect();
    let home = internet.settle(Place::PortRestricted, "home", LINE);
    let relays: Vec<String> = peers.iter().take(RELAYS).map(|peer| at_relay(peer, Transport::Quic)).collect();
    let started = wait::now();
    let node = Setup::on(&home.host).set("overlay.relays", relays).start();
    let control = node.control();
    follow(&control);
    for peer in &peers {
        let at = dialable(peer, &at_relay(peer, Transport::Quic));
        control.call("conn.connect", vec![at.into()]).expect("a public peer can be dialled");
    }
    wait_until_settled(&control);
    say(format_args!("{RELAYS} reservations, {SESSIONS} sessions, {FOLLOWS} follows"));
    let wire = home.wire.expect("the line to a home takes its time");
    let since = |moment: Duration| moment.saturating_sub(wait::now() - started);
    thread::sleep(since(plan.from));
    let before = Traffic::of(&wire);
    thread::sleep(since(plan.to));
    let after = Traffic::of(&wire);
    wait_until_settled(&control);
    print(plan.to - plan.from, before, after);
}

fn follow(control: &Control) {
    for _ in 0..FOLLOWS {
        let contact = PublicKey::from_bytes(identity().public.0).to_string();
        let content = json!({ "type": "contact", "contact": contact, "following": true });
        control.call("publish", vec![content]).expect("a node publishes for its owner");
    }
}

/// The node is what it is said to be: before it is measured, and still afterwards.
fn wait_until_settled(control: &Control) {
    wait::until("reservations and sessions", SOON, || {
        let status = control.status()?;
        let (reservations, sessions) = (status.reservations().len(), status.peers());
        let enough = reservations >= RELAYS && sessions >= SESSIONS;
        enough
            .then_some(())
            .ok_or_else(|| format!("{reservations} addresses through relays, {sessions} sessions"))
    });
}

/// What a line has carried, packets and bytes.
#[derive(Clone, Copy)]
struct Traffic {
    up: (u64, u64),
    down: (u64, u64),
}

impl Traffic {
    fn of(wire: &Wire) -> Self {
        let [up, down] = [Direction::Up, Direction::Down].map(|direction| wire.carried(direction));
        Self { up: (up.packets, up.bytes), down: (down.packets, down.bytes) }
    }
}

fn print(time: Duration, before: Traffic, after: Traffic) {
    let seconds = time.as_secs_f64();
    let rate = |before: u64, after: u64| (after - before) as f64 / seconds;
    say("| direction | packets/s | IP bytes/s |");
    say("|---|---|---|");
    for (name, before, after) in [("up", before.up, after.up), ("down", before.down, after.down)] {
        say(format_args!("| {name} | {:.2} | {:.0} |", rate(before.0, after.0), rate(before.1, after.1)));
    }
    let both = rate(before.up.1 + before.down.1, after.up.1 + after.down.1);
    let verdict = if both <= ALLOWED { "within" } else { "over" };
    say(format_args!("\n{both:.0} IP bytes/s both ways in {seconds:.0} s: {verdict} {ALLOWED:.0}"));
}
