//! `dht`: how soon people find each other by key, in a network of which a part has died without notice.
//!
//! Most nodes are servers on public hosts, the others homes behind port-restricted NATs, 20 ms one way
//! between any two. When all have joined, some servers die at once and nobody is told; the figures are taken
//! right after. Each is the time of a whole thing that a person waits for:
//!
//! - *publish*: one of two nodes, any two, follows the other: until its record for it is stored.
//! - *lookup*: then the other follows too: until it has found the record, or the first has found that of the
//!   other and there is a session.
//! - *session* and *direct*: two homes follow each other at the same moment: until there is a session, and
//!   until there is one that no relay carries.
//! - *new address*: the router of a home that has one friend gets another address: until a post that is
//!   published at that moment is at the friend.
//!
//! The last row is what the survivors' own histograms say of all that they sought meanwhile, found or not.

use std::time::{Duration, Instant};

use hawsepipe_tests::chance::SplitMix;
use hawsepipe_tests::control::Control;
use hawsepipe_tests::fleet::{Fleet, Node};
use hawsepipe_tests::lab::Lab;
use hawsepipe_tests::lab::internet::Place;
use hawsepipe_tests::meeting::is_direct;
use hawsepipe_tests::metrics::Histogram;
use hawsepipe_tests::usage::Usage;
use hawsepipe_tests::wait::{self, Deadline};
use serde_json::{Value, json};

use super::say;

/// What can be typed.
pub(super) const OPTIONS: &str = "         --dead SHARE            how many die, 0.3 unless told otherwise
         --seed N                which ones, and who looks for whom";

const NODES: usize = 50;
const TRIES: usize = 50;
const DEAD: f64 = 0.3;

/// Fewer would be no network: there are to be homes, and servers that are left.
const FEWEST_NODES: usize = 12;

/// The share of nodes that are homes; two of them move.
const HOMES: f64 = 0.3;
const MOVERS: usize = 2;

/// Lookups for each meeting, because more of them are needed to tell 99 % from less, and one moves for some.
const LOOKUPS_PER_TRY: usize = 2;
const TRIES_PER_MOVE: usize = 5;

/// How long each is waited for.
const LOOKUP: Duration = Duration::from_secs(15);
const SESSION: Duration = Duration::from_secs(60);
const DIRECT: Duration = Duration::from_secs(30);
const MOVE: Duration = Duration::from_secs(120);

/// How lookups end, as the metrics say.
const OUTCOMES: [&str; 4] = ["found", "stored", "missing", "no_nodes"];

/// What to measure.
pub(super) struct Plan {
    nodes: usize,
    tries: usize,
    dead: f64,
    seed: u64,
}

impl Plan {
    pub(super) fn read(options: &[String]) -> Result<Self, String> {
        let (mut counts, mut dead, mut seed) = (Vec::new(), DEAD, 1);
        let mut options = options.iter();
        while let Some(option) = options.next() {
            let mut value = || options.next().ok_or_else(|| format!("{option} needs a value"));
            match option.as_str() {
                "--dead" => dead = number(value()?)?,
                "--seed" => seed = number(value()?)?,
                count => counts.push(number(count)?),
            }
        }
        let (nodes, tries) = match counts.as_slice() {
            [] => (NODES, TRIES),
            [nodes] => (*nodes, TRIES),
            [nodes, tries] => (*nodes, *tries),
            _ => return Err("dht takes a number of nodes and one of tries".to_owned()),
        };
        let plan = Self { nodes, tries, dead, seed };
        if plan.nodes < FEWEST_NODES {
            return Err(format!("fewer than {FEWEST_NODES} nodes are no network"));
        }
        if plan.victims() >= plan.nodes - plan.homes() {
            return Err("some servers must live".to_owned());
        }
        Ok(plan)
    }

    fn homes(&self) -> usize {
        (self.nodes as f64 * HOMES).round() as usize
    }

    fn victims(&self) -> usize {
        (self.nodes as f64 * self.dead).round() as usize
    }
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e| format!("{text}: {e}"))
}

/// All pairs of so many.
fn pairs(of: usize) -> Vec<(usize, usize)> {
    (1..of).flat_map(|later| (0..later).map(move |earlier| (earlier, later))).collect()
}

/// A node that is asked again and again.
struct Person {
    node: Node,
    control: Control,
}

/// How a meeting went.
struct Meeting {
    session: Option<Duration>,
    direct: Option<Duration>,
}

/// How a search went; without a publication nothing was looked for.
struct Search {
    publish: Option<Duration>,
    lookup: Option<Duration>,
}

/// Measures and prints.
pub(super) fn run(lab: &Lab, plan: &Plan) {
    let homes = plan.homes();
    let started = wait::now();
    let mut fleet = Fleet::raise(lab, plan.nodes - homes);
    let homes: Vec<Person> = fleet
        .homes(Place::PortRestricted, (1..=homes).map(|number| format!("home-{number}")))
        .into_iter()
        .map(Person::of)
        .collect();
    let (movers, homes) = homes.split_at(MOVERS);
    befriend(&movers[0], &movers[1]);
    let met = meet(&movers[0], &movers[1], wait::now());
    say(format_args!(
        "{} nodes, {} of them homes, joined in {:.0} s; the two that move met: {}",
        plan.nodes,
        homes.len() + MOVERS,
        (wait::now() - started).as_secs_f64(),
        if met.session.is_some() { "yes" } else { "no" },
    ));
    fleet.kill_silently(plan.victims(), plan.seed);
    let before = sought(fleet.servers(), homes);
    say(format_args!("{} servers died", plan.victims()));
    let mut chance = SplitMix::new(plan.seed);
    print_head();
    let meetings = meetings(homes, plan.tries, &mut chance);
    print_row("session", &meetings.iter().map(|meeting| meeting.session).collect::<Vec<_>>());
    print_row("direct", &meetings.iter().map(|meeting| meeting.direct).collect::<Vec<_>>());
    let searches = searches(fleet.servers(), homes, plan.tries * LOOKUPS_PER_TRY, &mut chance);
    print_row("publish", &searches.iter().map(|search| search.publish).collect::<Vec<_>>());
    // What was never stored is nothing that could have been found.
    let stored = searches.iter().filter(|search| search.publish.is_some());
    print_row("lookup", &stored.map(|search| search.lookup).collect::<Vec<_>>());
    let moves: Vec<Option<Duration>> =
        (0..plan.tries / TRIES_PER_MOVE).map(|number| one_moves(&fleet, movers, number)).collect();
    print_row("new address", &moves);
    print_histogram(&sought(fleet.servers(), homes).since(&before));
    print_usage(fleet.servers());
}

impl Person {
    fn of(node: Node) -> Self {
        let control = node.peer.control();
        Self { node, control }
    }

    fn id(&self) -> &str {
        self.node.peer.id()
    }
}

/// Follows without starting a program first, which would take longer than much that is measured.
fn follow(control: &Control, id: &str) {
    publish(control, json!({ "type": "contact", "contact": id, "following": true }));
}

/// Publishes, and gives the new message's sequence number.
fn publish(control: &Control, content: Value) -> u64 {
    let message = control.call("publish", vec![content]).expect("a node publishes for its owner");
    message["value"]["sequence"].as_u64().expect("a message has a sequence number")
}

fn befriend(one: &Person, other: &Person) {
    follow(&one.control, other.id());
    follow(&other.control, one.id());
}

/// Watches two who have followed each other at `started`.
fn meet(one: &Person, other: &Person, started: Instant) -> Meeting {
    let when = |patience, holds: &dyn Fn() -> Option<bool>| {
        wait::closely(Deadline::after(patience), || holds()?.then(|| wait::now() - started))
    };
    let session = when(SESSION, &|| Some(!one.control.status().ok()?.carriers(other.id()).is_empty()));
    let direct = session.and_then(|_| {
        when(DIRECT, &|| {
            Some(
                is_direct(&one.control.status().ok()?, other.id())
                    && is_direct(&other.control.status().ok()?, one.id()),
            )
        })
    });
    Meeting { session, direct }
}

/// Homes meet, each pair once at most.
fn meetings(homes: &[Person], tries: usize, chance: &mut SplitMix) -> Vec<Meeting> {
    let mut pairs = pairs(homes.len());
    chance.shuffle(&mut pairs);
    let meeting = |(one, other): (usize, usize)| {
        let started = wait::now();
        befriend(&homes[one], &homes[other]);
        meet(&homes[one], &homes[other], started)
    };
    pairs.into_iter().take(tries).map(meeting).collect()
}

/// Any two look for each other, at least one of them a server: homes have met.
fn searches(servers: &[Node], homes: &[Person], tries: usize, chance: &mut SplitMix) -> Vec<Search> {
    let nodes: Vec<&Node> = servers.iter().chain(homes.iter().map(|home| &home.node)).collect();
    let mut pairs: Vec<(usize, usize)> =
        pairs(nodes.len()).into_iter().filter(|(earlier, _)| *earlier < servers.len()).collect();
    chance.shuffle(&mut pairs);
    let searched = pairs.into_iter().take(tries).map(|(one, other)| {
        // Servers look for homes and the other way round.
        let (writer, reader) =
            if chance.unit() < 0.5 { (nodes[one], nodes[other]) } else { (nodes[other], nodes[one]) };
        search(writer, reader)
    });
    searched.collect()
}

fn search(writer: &Node, reader: &Node) -> Search {
    let (stored, found) = (lookups(writer, "publish", "stored"), lookups(reader, "seek", "found"));
    let publish = after_following(writer, reader, |_| lookups(writer, "publish", "stored") > stored);
    let lookup = publish.and_then(|_| {
        after_following(reader, writer, |control| {
            lookups(reader, "seek", "found") > found || has_session(control, writer)
        })
    });
    if lookup.is_none() {
        explain(writer, reader);
    }
    Search { publish, lookup }
}

/// How many lookups of a node have ended so.
fn lookups(node: &Node, kind: &str, outcome: &str) -> f64 {
    node.peer.metrics().expect("a living node has metrics").lookups(kind, outcome)
}

fn has_session(control: &Control, with: &Node) -> bool {
    control.status().is_ok_and(|status| !status.carriers(with.peer.id()).is_empty())
}

/// How long it takes from when `node` follows `other` until something holds.
fn after_following(node: &Node, other: &Node, holds: impl Fn(&Control) -> bool) -> Option<Duration> {
    let control = node.peer.control();
    let started = wait::now();
    follow(&control, other.peer.id());
    wait::closely(Deadline::after(LOOKUP), || holds(&control).then(|| wait::now() - started))
}

/// What is to be seen of a search that failed.
fn explain(writer: &Node, reader: &Node) {
    let of = |node: &Node, kind: &str| {
        let metrics = node.peer.metrics().unwrap_or_default();
        let counts = OUTCOMES.map(|outcome| format!("{outcome} {}", metrics.lookups(kind, outcome)));
        format!("{} at {:?}: {kind} {}", node.peer.id(), node.site.host.name(), counts.join(", "))
    };
    say(format_args!("not found in time: {}; {}", of(writer, "publish"), of(reader, "seek")));
}

/// One of two friends gets another address; they take turns.
fn one_moves(fleet: &Fleet, movers: &[Person], number: usize) -> Option<Duration> {
    let (moved, friend) = (&movers[number % MOVERS], &movers[(number + 1) % MOVERS]);
    let started = wait::now();
    fleet.internet.renumber(&moved.node.site.routers[0]);
    let sequence = publish(&moved.control, json!({ "type": "post", "text": "moved" }));
    wait::closely(Deadline::after(MOVE), || {
        let clock = friend.control.call("getVectorClock", Vec::new()).ok()?;
        (clock[moved.id()].as_u64()? >= sequence).then(|| wait::now() - started)
    })
}

/// How long these have looked for records, as they counted it themselves.
fn sought(servers: &[Node], homes: &[Person]) -> Histogram {
    let nodes = servers.iter().chain(homes.iter().map(|home| &home.node));
    let mut all = Histogram::default();
    for node in nodes {
        let metrics = node.peer.metrics().expect("a living node has metrics");
        all.merge(&metrics.lookup_times("seek"));
    }
    all
}

fn print_head() {
    say("| what | tries | success | s at p50 | p90 | p95 | p99 | most |");
    say("|---|---|---|---|---|---|---|---|");
}

/// Failures count as longer than everything else.
fn print_row(what: &str, times: &[Option<Duration>]) {
    let mut seconds: Vec<f64> =
        times.iter().map(|time| time.map_or(f64::INFINITY, |time| time.as_secs_f64())).collect();
    seconds.sort_by(f64::total_cmp);
    let cell = |quantile: f64| {
        let rank = (quantile * seconds.len() as f64).ceil() as usize;
        seconds.get(rank.saturating_sub(1)).map_or("-".to_owned(), |seconds| format!("{seconds:.2}"))
    };
    let successes = times.iter().flatten().count();
    let share = 100.0 * successes as f64 / times.len().max(1) as f64;
    let cells = [0.5, 0.9, 0.95, 0.99, 1.0].map(cell).join(" | ");
    say(format_args!("| {what} | {} | {share:.1} % | {cells} |", times.len()));
}

fn print_histogram(seeks: &Histogram) {
    let cell = |quantile| seeks.quantile(quantile).map_or("-".to_owned(), |seconds| format!("{seconds:.2}"));
    let cells = [0.5, 0.9, 0.95, 0.99].map(cell).join(" | ");
    say(format_args!("| every seek | {:.0} | - | {cells} | - |", seeks.count()));
}

fn print_usage(servers: &[Node]) {
    let usages: Vec<Usage> = servers.iter().map(|node| Usage::of(node.peer.process())).collect();
    let mean = |figure: fn(&Usage) -> f64| usages.iter().map(figure).sum::<f64>() / usages.len() as f64;
    let known = servers.iter().filter_map(|node| Some(node.peer.control().status().ok()?.dht()));
    let (mut least, mut records) = (usize::MAX, 0);
    for dht in known {
        least = least.min(dht.nodes);
        records = records.max(dht.records);
    }
    say(format_args!(
        "\na server used {:.1} s of processor time and {:.0} MB; the smallest table has {least} nodes, \
         the fullest store {records} records",
        mean(|usage| usage.cpu),
        mean(|usage| usage.peak_mb),
    ));
}
