//! Figures that are taken by hand, by `cargo run --release -p hawsepipe-tests -- …`. Build the node in the same
//! profile first.
//!
//! `bench` measures our node and the JavaScript peers on the same generated corpus and prints one table (see
//! `bench.rs`; without further words the program says what can be measured).
//!
//! `matrix` lets two nodes meet through a relay, each behind every kind of NAT, and prints how many of them
//! come to talk directly and how long it takes (see `matrix.rs` for its options). `idle [FROM TO]` prints what
//! a node behind a NAT sends and receives while nothing happens. `dht [NODES] [TRIES]` raises many nodes, lets
//! some of them die without notice, and prints how soon people find each other by key. `carrier WHAT` prints what
//! sessions that outlive their connections cost, and for how long they stand still when they move (see `carrier.rs`).
//!
//! `sim [PEOPLE]` simulates a world of people and pubs under the node's own scheduler and under JavaScript's, and prints one
//! table (see `simulate.rs`); `-- sim 10000` is what the tests run a part of.
//!
//! `cargo run -p hawsepipe-tests -- nat` builds the laboratory's internet with a host behind every kind of
//! NAT and prints what the probe found there; it fails where that is not what the NAT is said to be.

mod bench;
mod carrier;
mod dht;
mod idle;
mod matrix;
mod simulate;

use std::env;
use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use hawsepipe_tests::lab::internet::Place;
use hawsepipe_tests::lab::link::Link;
use hawsepipe_tests::lab::probe::Measured;
use hawsepipe_tests::lab::{self, Lab};

/// One way between two hosts of `nat`.
const NAT_DELAY: Duration = Duration::from_millis(20);

/// What to do, as it was typed.
enum Order {
    Bench(bench::Plan),
    Nat,
    Matrix(matrix::Plan),
    Idle(idle::Plan),
    Dht(dht::Plan),
    Carrier(carrier::Plan),
    Simulate(simulate::Plan),
}

impl Order {
    fn read(arguments: &[String]) -> Result<Self, String> {
        let (name, rest) = arguments.split_first().ok_or("nothing to do")?;
        match (name.as_str(), rest) {
            ("bench", options) => bench::Plan::read(options).map(Self::Bench),
            ("nat", []) => Ok(Self::Nat),
            ("matrix", options) => matrix::Plan::read(options).map(Self::Matrix),
            ("idle", options) => idle::Plan::read(options).map(Self::Idle),
            ("dht", options) => dht::Plan::read(options).map(Self::Dht),
            ("carrier", options) => carrier::Plan::read(options).map(Self::Carrier),
            ("sim", options) => simulate::Plan::read(options).map(Self::Simulate),
            _ => Err(format!("cannot do: {}", arguments.join(" "))),
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match Order::read(&arguments) {
        Ok(Order::Bench(plan)) => lab::run_main(|lab| bench::run(lab, &plan)),
        Ok(Order::Nat) => lab::run_main(|lab| nat(lab)),
        Ok(Order::Matrix(plan)) => lab::run_main(|lab| matrix::run(lab, &plan)),
        Ok(Order::Idle(plan)) => lab::run_main(|lab| idle::run(lab, &plan)),
        Ok(Order::Dht(plan)) => lab::run_main(|lab| dht::run(lab, &plan)),
        Ok(Order::Carrier(plan)) => lab::run_main(|lab| carrier::run(lab, &plan)),
        Ok(Order::Simulate(plan)) => simulate::run(&plan),
        Err(why) => {
            say(why);
            say("usage: cargo run --release -p hawsepipe-tests -- bench WHAT [OPTIONS]");
            say(bench::OPTIONS);
            say("       cargo run --release -p hawsepipe-tests -- matrix [TRIES] [OPTIONS]");
            say(matrix::OPTIONS);
            say("       cargo run --release -p hawsepipe-tests -- idle [FROM_MINUTE TO_MINUTE]");
            say("       cargo run --release -p hawsepipe-tests -- dht [NODES] [TRIES] [OPTIONS]");
            say(dht::OPTIONS);
            say("       cargo run --release -p hawsepipe-tests -- carrier WHAT [OPTIONS]");
            say(carrier::OPTIONS);
            say("       cargo run --release -p hawsepipe-tests -- sim [PEOPLE] [OPTIONS]");
            say(simulate::OPTIONS);
            say("       cargo run -p hawsepipe-tests -- nat");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

#[expect(clippy::print_stdout, reason = "this program is run by hand for what it prints")]
fn say(text: impl fmt::Display) {
    println!("{text}");
}

fn nat(lab: &Lab) {
    let internet = lab.internet();
    say(
        "| place | mapping | outside port | filtering | stray moves port | hairpin | TCP: mapping / port / filtering | RTT ms |",
    );
    say("|---|---|---|---|---|---|---|---|");
    let mut wrong = Vec::new();
    for place in Place::ALL {
        let site = internet.settle(place, place.name(), Link::delayed(NAT_DELAY));
        let measured = internet.observers().measure(&site.host, place.family());
        say(format_args!("| {} | {} |", place.name(), nat_cells(&measured)));
        if measured.behaviour != place.expected() {
            wrong.push(format!("{}: expected {:?}", place.name(), place.expected()));
        }
    }
    assert!(wrong.is_empty(), "not what they are said to be:\n{}", wrong.join("\n"));
}

fn nat_cells(measured: &Measured) -> String {
    let yes = |it: bool| if it { "yes" } else { "no" };
    let tcp = measured
        .behaviour
        .tcp
        .map_or("blocked".to_owned(), |tcp| format!("{} / {} / {}", tcp.mapping, tcp.ports, tcp.filtering));
    let (Some(udp), Some(round_trip)) = (measured.behaviour.udp, measured.round_trip) else {
        return format!("UDP blocked | - | - | - | - | {tcp} | -");
    };
    format!(
        "{} | {} | {} | {} | {} | {tcp} | {:.1}",
        udp.mapping,
        udp.ports,
        udp.filtering,
        yes(udp.stray_moves_port),
        yes(udp.hairpin),
        round_trip.as_secs_f64() * 1000.0
    )
}
