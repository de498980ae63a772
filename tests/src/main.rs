//! Figures that are taken by hand: `cargo run --release -p hawsepipe-tests -- sync [ROUNDS]`.
//!
//! `sync` replicates the corpus between every pair of peers in one interleaved run, so that what the
//! machine does meanwhile falls on all of them alike. Build the node in the same profile first.
//!
//! `matrix` lets two nodes meet through a relay, each behind every kind of NAT, and prints how many of them
//! come to talk directly and how long it takes (see `matrix.rs` for its options). `idle [FROM TO]` prints what
//! a node behind a NAT sends and receives while nothing happens. `dht [NODES] [TRIES]` raises many nodes, lets
//! some of them die without notice, and prints how soon people find each other by key.
//!
//! `cargo run -p hawsepipe-tests -- nat` builds the laboratory's internet with a host behind every kind of
//! NAT and prints what the probe found there; it fails where that is not what the NAT is said to be.

mod dht;
mod idle;
mod matrix;

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{fs, iter};

use hawsepipe_tests::corpus::{Corpus, MESSAGES};
use hawsepipe_tests::js::{Foreign, Options, Stack};
use hawsepipe_tests::lab::internet::Place;
use hawsepipe_tests::lab::link::Link;
use hawsepipe_tests::lab::probe::Measured;
use hawsepipe_tests::lab::{self, Host, Lab};
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::usage::Usage;
use hawsepipe_tests::wait::{self, SYNC};

/// How often each pair is measured unless told otherwise.
const ROUNDS: usize = 3;

/// One way between two hosts of `nat`.
const NAT_DELAY: Duration = Duration::from_millis(20);

const PAIRS: [(Kind, Kind); 7] = [
    (Kind::Ours, Kind::Ours),
    (Kind::Foreign(Stack::Classic), Kind::Ours),
    (Kind::Foreign(Stack::Manyverse), Kind::Ours),
    (Kind::Ours, Kind::Foreign(Stack::Classic)),
    (Kind::Ours, Kind::Foreign(Stack::Manyverse)),
    (Kind::Foreign(Stack::Classic), Kind::Foreign(Stack::Classic)),
    (Kind::Foreign(Stack::Manyverse), Kind::Foreign(Stack::Manyverse)),
];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Ours,
    Foreign(Stack),
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Foreign(stack) => stack.folder(),
        }
    }
}

/// What to do, as it was typed.
enum Order {
    Sync(usize),
    Nat,
    Matrix(matrix::Plan),
    Idle(idle::Plan),
    Dht(dht::Plan),
}

impl Order {
    fn read(arguments: &[String]) -> Result<Self, String> {
        let (name, rest) = arguments.split_first().ok_or("nothing to do")?;
        match (name.as_str(), rest) {
            ("sync", []) => Ok(Self::Sync(ROUNDS)),
            ("sync", [rounds]) => rounds.parse().map(Self::Sync).map_err(|e| format!("{rounds}: {e}")),
            ("nat", []) => Ok(Self::Nat),
            ("matrix", options) => matrix::Plan::read(options).map(Self::Matrix),
            ("idle", options) => idle::Plan::read(options).map(Self::Idle),
            ("dht", options) => dht::Plan::read(options).map(Self::Dht),
            _ => Err(format!("cannot do: {}", arguments.join(" "))),
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match Order::read(&arguments) {
        Ok(Order::Sync(rounds)) => lab::run_main(|lab| sync(lab, rounds)),
        Ok(Order::Nat) => lab::run_main(|lab| nat(lab)),
        Ok(Order::Matrix(plan)) => lab::run_main(|lab| matrix::run(lab, &plan)),
        Ok(Order::Idle(plan)) => lab::run_main(|lab| idle::run(lab, &plan)),
        Ok(Order::Dht(plan)) => lab::run_main(|lab| dht::run(lab, &plan)),
        Err(why) => {
            say(why);
            say("usage: cargo run --release -p hawsepipe-tests -- sync [ROUNDS]");
            say("       cargo run --release -p hawsepipe-tests -- matrix [TRIES] [OPTIONS]");
            say(matrix::OPTIONS);
            say("       cargo run --release -p hawsepipe-tests -- idle [FROM_MINUTE TO_MINUTE]");
            say("       cargo run --release -p hawsepipe-tests -- dht [NODES] [TRIES] [OPTIONS]");
            say(dht::OPTIONS);
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

/// A running peer of either kind.
enum Node {
    Ours(Box<Peer>),
    Foreign(Box<Foreign>),
}

impl Node {
    fn start(kind: Kind, host: &Host, dir: &Path) -> Self {
        match kind {
            Kind::Ours => Self::Ours(Box::new(Setup::on(host).solitary().path(dir).start())),
            Kind::Foreign(stack) => {
                Self::Foreign(Box::new(Foreign::start_at(host, stack, &Options::default(), dir)))
            }
        }
    }

    fn address(&self) -> String {
        match self {
            Self::Ours(peer) => peer.net_address(),
            Self::Foreign(peer) => peer.address().to_owned(),
        }
    }

    fn process(&self) -> u32 {
        match self {
            Self::Ours(peer) => peer.process(),
            Self::Foreign(peer) => peer.process(),
        }
    }

    fn follow(&mut self, corpus: &Corpus) {
        match self {
            Self::Ours(peer) => corpus.authors().for_each(|author| peer.follow(author)),
            Self::Foreign(peer) => peer.follow(corpus.authors()),
        }
    }

    fn connect(&mut self, address: &str) {
        match self {
            Self::Ours(peer) => drop(peer.ok(&["connect", address])),
            Self::Foreign(peer) => peer.connect(address),
        }
    }

    /// Waits for the corpus beside what it wrote itself.
    fn wait_for(&mut self, corpus: &Corpus) {
        match self {
            Self::Ours(peer) => {
                // The gauge costs the node less than its clock would; the clock then settles it.
                let all = (MESSAGES + corpus.clock.len()) as f64;
                wait::until("the corpus", SYNC, || {
                    let stored = peer.metrics()?.sum("messages", &[]);
                    if stored >= all { Ok(()) } else { Err(format!("{stored} messages")) }
                });
                peer.wait_clock(&corpus.clock, SYNC);
            }
            Self::Foreign(peer) => peer.wait_clock(&corpus.clock, SYNC),
        }
    }

    fn stop(self) {
        match self {
            Self::Ours(peer) => drop(peer.stop()),
            Self::Foreign(peer) => peer.stop(),
        }
    }
}

/// One measured sync.
struct Run {
    seconds: f64,
    source: Usage,
    sink: Usage,
}

fn sync(lab: &mut Lab, rounds: usize) {
    let corpus = Corpus::load();
    let [source_host, sink_host] = lab.segment(["source", "sink"]);
    let filled = fill_sources(&source_host, &sink_host, &corpus);
    let mut runs: Vec<Vec<Run>> = iter::repeat_with(Vec::new).take(PAIRS.len()).collect();
    for round in 0..rounds {
        for (number, (source, sink)) in PAIRS.into_iter().enumerate() {
            let dir = sink_host.dir().join(format!("sink-{number}-{round}"));
            let run = measure((source, &filled(source), &source_host), (sink, &dir, &sink_host), &corpus);
            let rate = MESSAGES as f64 / run.seconds;
            say(format_args!("round {}: {} -> {}: {rate:.0} msg/s", round + 1, source.name(), sink.name()));
            runs[number].push(run);
            fs::remove_dir_all(&dir).ok();
        }
    }
    print_table(&runs);
}

/// One folder of each kind with the corpus and an identity that nobody in it knows.
fn fill_sources(source_host: &Host, sink_host: &Host, corpus: &Corpus) -> impl Fn(Kind) -> PathBuf {
    let base = source_host.dir().to_owned();
    let folder = move |kind: Kind| base.join(kind.name());
    for stack in [Stack::Classic, Stack::Manyverse] {
        let mut peer =
            Foreign::start_at(source_host, stack, &Options::default(), &folder(Kind::Foreign(stack)));
        peer.import(&corpus.messages());
        // A peer hands on only what it replicates itself.
        peer.follow(corpus.authors());
        peer.stop();
    }
    let classic = Kind::Foreign(Stack::Classic);
    let source = Node::start(classic, source_host, &folder(classic));
    let mut ours = Node::start(Kind::Ours, sink_host, &folder(Kind::Ours));
    ours.follow(corpus);
    ours.connect(&source.address());
    ours.wait_for(corpus);
    source.stop();
    ours.stop();
    folder
}

fn measure(source: (Kind, &Path, &Host), sink: (Kind, &Path, &Host), corpus: &Corpus) -> Run {
    let source = Node::start(source.0, source.2, source.1);
    let mut sink = Node::start(sink.0, sink.2, sink.1);
    sink.follow(corpus);
    let before = (Usage::of(source.process()), Usage::of(sink.process()));
    let started = wait::now();
    sink.connect(&source.address());
    sink.wait_for(corpus);
    let took: Duration = wait::now() - started;
    let after = (Usage::of(source.process()), Usage::of(sink.process()));
    sink.stop();
    source.stop();
    let since = |after: Usage, before: Usage| Usage { cpu: after.cpu - before.cpu, ..after };
    Run { seconds: took.as_secs_f64(), source: since(after.0, before.0), sink: since(after.1, before.1) }
}

fn print_table(runs: &[Vec<Run>]) {
    say("\n| source -> sink | msg/s | sink CPU s | source CPU s | sink peak RSS MB | source peak RSS MB |");
    say("|---|---|---|---|---|---|");
    for ((source, sink), runs) in PAIRS.iter().zip(runs) {
        let cell = |figure: fn(&Run) -> f64, digits: usize| spread(runs.iter().map(figure), digits);
        say(format_args!(
            "| {} -> {} | {} | {} | {} | {} | {} |",
            source.name(),
            sink.name(),
            cell(|run| MESSAGES as f64 / run.seconds, 0),
            cell(|run| run.sink.cpu, 2),
            cell(|run| run.source.cpu, 2),
            cell(|run| run.sink.peak_mb, 0),
            cell(|run| run.source.peak_mb, 0),
        ));
    }
}

/// Median, least and most.
fn spread(figures: impl Iterator<Item = f64>, digits: usize) -> String {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    match (figures.first(), figures.get(figures.len() / 2), figures.last()) {
        (Some(least), Some(median), Some(most)) => {
            format!("{median:.digits$} [{least:.digits$}..{most:.digits$}]")
        }
        _ => "-".to_owned(),
    }
}
