//! What the network does to a session that moves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use hawsepipe_tests::carried::{add_blob, circuit, handshakes, session_with, two_relays};
use hawsepipe_tests::control::{Control, RELAY};
use hawsepipe_tests::lab::Lab;
use hawsepipe_tests::lab::nat::Nat;
use hawsepipe_tests::meeting::{LINE, Meeting, Stage, is_direct};
use hawsepipe_tests::peer::Peer;
use hawsepipe_tests::wait::{self, Deadline};
use serde_json::{Value, json};

use super::super::say;
use super::{median, worst};

/// One blob, and how many are taken one after another.
const BLOB: usize = 5_000_000;
const BLOBS: u64 = 4;
/// Between two messages of the live stream.
const PAUSE: Duration = Duration::from_millis(100);
/// A round trip between the two where nothing is between them, in milliseconds.
const ROUND_TRIP: f64 = 40.0;
/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(90);

/// A session that begins on a relay and is direct by now, with a meeting of two who follow each other.
fn direct(lab: &Lab) -> (Stage, Peer, Meeting) {
    let (stage, second, meeting) = two_relays(lab);
    meeting.listener.follow(meeting.dialer.id());
    meeting.dialer.follow(meeting.listener.id());
    let outcome = meeting.dial_at(&circuit(&meeting), PATIENCE);
    assert!(outcome.direct.is_some(), "no direct session to begin with: {outcome:?}");
    (stage, second, meeting)
}

/// What went over the session meanwhile.
#[derive(Default)]
struct Traffic {
    blobs: usize,
    posts: u64,
    errors: Vec<String>,
}

/// Says that it is over, also where something fails: the threads beside would go on for ever.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// From relays to direct connections, so often, under load.
pub(super) fn from_relays(lab: &Lab, times: usize) {
    let (stage, _second, meeting) = direct(lab);
    let (listener, dialer) = (&meeting.listener, &meeting.dialer);
    let blobs: Vec<_> = (1..=BLOBS).map(|seed| add_blob(listener, seed, BLOB)).collect();
    let began = handshakes_of_both(&meeting);
    let over = AtomicBool::new(false);
    let (moves, traffic) = thread::scope(|scope| {
        let taking = scope.spawn(|| take(&dialer.control(), &blobs, &over));
        let publishing = scope.spawn(|| publish(&listener.control(), &over));
        let ends = Ends(&over);
        let moves: Vec<_> = (0..times).map(|_| there_and_back(&stage, &meeting)).collect();
        drop(ends);
        let mut traffic = taking.join().expect("blobs are taken to the end");
        let published = publishing.join().expect("messages are published to the end");
        traffic.posts = published.posts;
        traffic.errors.extend(published.errors);
        (moves, traffic)
    });
    let mut errors = traffic.errors.clone();
    if let Err(why) = arrives(&dialer.control(), listener, &listener.control()) {
        errors.push(why);
    }
    print(&moves, &traffic, &errors, handshakes_of_both(&meeting) - began);
}

fn handshakes_of_both(meeting: &Meeting) -> f64 {
    handshakes(&meeting.listener) + handshakes(&meeting.dialer)
}

/// The blobs, one after another and again and again.
fn take(control: &Control, blobs: &[String], over: &AtomicBool) -> Traffic {
    let mut traffic = Traffic::default();
    for blob in blobs.iter().cycle() {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let taken = control.call_within(PATIENCE, "blobs.want", vec![json!(blob)]);
        match taken {
            Ok(Value::Bool(true)) => traffic.blobs += 1,
            Ok(other) => traffic.errors.push(format!("blobs.want: {other}")),
            Err(why) => traffic.errors.push(why),
        }
        if let Err(why) = control.call("blobs.rm", vec![json!(blob)]) {
            traffic.errors.push(why);
        }
    }
    traffic
}

fn publish(control: &Control, over: &AtomicBool) -> Traffic {
    let mut traffic = Traffic::default();
    while !over.load(Ordering::Relaxed) {
        match post(control) {
            Ok(_) => traffic.posts += 1,
            Err(why) => traffic.errors.push(why),
        }
        thread::sleep(PAUSE);
    }
    traffic
}

fn post(control: &Control) -> Result<Value, String> {
    control.call("publish", vec![json!({ "type": "post", "text": "still here" })])
}

/// All that `author` has published comes to whoever `control` is of.
fn arrives(control: &Control, author: &Peer, of_author: &Control) -> Result<(), String> {
    let latest = |control: &Control| control.call("latestSequence", vec![json!(author.id())]);
    let all = latest(of_author)?.as_u64();
    let come = || (latest(control).ok()?.as_u64() >= all).then_some(());
    wait::closely(Deadline::after(PATIENCE), come).ok_or_else(|| "messages are missing".to_owned())
}

/// How a session went from a direct path to a relay and to another direct one, in milliseconds.
struct Move {
    /// Until the relay was taken.
    lost: f64,
    /// Until the direct path was, from the last that came over the relay.
    gap: f64,
}

/// The routers forget, and all begins anew.
fn there_and_back(stage: &Stage, meeting: &Meeting) -> Move {
    let shown = || session_with(&meeting.dialer, &meeting.listener);
    let before = shown()["moves"].as_u64().unwrap_or_default();
    stage.forget();
    wait::until("the session to go to a relay and back", PATIENCE, || {
        let shown = shown();
        let since = shown["moves"].as_u64().unwrap_or_default().saturating_sub(before);
        let paths = shown["paths"].as_array().cloned().unwrap_or_default();
        let new = paths.len().saturating_sub(usize::try_from(since).unwrap_or(usize::MAX));
        let new = &paths[new.min(paths.len())..];
        let relayed = |path: &Value| path["carrier"] == RELAY;
        let pair = new.windows(2).find(|pair| relayed(&pair[0]) && !relayed(&pair[1]));
        let gap = |path: &Value| path["gapMs"].as_f64().unwrap_or_default();
        pair.map(|pair| Move { lost: gap(&pair[0]), gap: gap(&pair[1]) }).ok_or_else(|| shown.to_string())
    })
}

fn print(moves: &[Move], traffic: &Traffic, errors: &[String], new_sessions: f64) {
    let gaps: Vec<f64> = moves.iter().map(|each| each.gap).collect();
    let lost: Vec<f64> = moves.iter().map(|each| each.lost).collect();
    let (middle, most) = (median(gaps.clone()), worst(&gaps));
    say("| from a relay to a direct connection | |");
    say("|---|---|");
    say(format_args!("| moves | {} |", moves.len()));
    say(format_args!("| gap, median | {middle:.0} ms, {:.1} round trips (asked: 2) |", middle / ROUND_TRIP));
    say(format_args!("| gap, worst | {most:.0} ms, {:.1} round trips |", most / ROUND_TRIP));
    say(format_args!(
        "| before, from the dead path to a relay | {:.0} ms, worst {:.0} ms |",
        median(lost.clone()),
        worst(&lost)
    ));
    say(format_args!("| blobs of {} MB | {} |", BLOB / 1_000_000, traffic.blobs));
    say(format_args!("| messages | {} |", traffic.posts));
    say(format_args!("| errors (asked: 0) | {} |", errors.len()));
    say(format_args!("| new sessions (asked: 0) | {new_sessions} |"));
    errors.iter().for_each(say);
}

/// From one home to another, so often.
pub(super) fn to_other_networks(lab: &Lab, times: usize) {
    let (stage, _second, meeting) = direct(lab);
    let (listener, dialer) = (meeting.listener.control(), meeting.dialer.control());
    let began = handshakes_of_both(&meeting);
    let took: Vec<f64> = (0..times)
        .map(|number| {
            let (elsewhere, _wire) =
                stage.internet.router(&format!("elsewhere-{number}"), Nat::PORT_SHIFTING, LINE);
            let moved = wait::now();
            elsewhere.welcome(&stage.dialer.host);
            post(&listener).unwrap_or_else(|why| panic!("{why}"));
            arrives(&dialer, &meeting.listener, &listener).unwrap_or_else(|why| panic!("{why}"));
            let took = (wait::now() - moved).as_secs_f64() * 1000.0;
            // Each begins as the first did.
            wait::until("a direct session again", PATIENCE, || {
                let status = dialer.status()?;
                let is_there = is_direct(&status, meeting.listener.id());
                if is_there { Ok(()) } else { Err(status.0["sessions"].to_string()) }
            });
            took
        })
        .collect();
    say("| to another network | |");
    say("|---|---|");
    say(format_args!("| times | {times} |"));
    say(format_args!("| until the session goes on, median | {:.0} ms |", median(took.clone())));
    say(format_args!("| worst (asked: 3000 ms) | {:.0} ms |", worst(&took)));
    say(format_args!("| new sessions (asked: 0) | {} |", handshakes_of_both(&meeting) - began));
}
