//! Many nodes on a simulated network and clock: a blob that somebody within reach has must come to who wants it,
//! whatever stalls, lies and breaks on the way.
//!
//! A seed decides everything. Sessions have a delay, deliver in order, and break. A fetch brings pieces; who is asked
//! may be one of the [`Nature`]s. JavaScript's way of wanting is simple enough to be played by the same machine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::*;

/// How a node behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    Honest,
    /// Says that it has whatever is wanted, and then sends nothing.
    Stalls,
    /// Sends a byte now and then, for ever.
    Trickles,
    /// Sends other bytes of the right length.
    Forges,
    /// Sends more and more.
    Endless,
    /// Says a size that it is not, and answers with an error.
    Refuses,
}

const LIARS: [Nature; 5] =
    [Nature::Stalls, Nature::Trickles, Nature::Forges, Nature::Endless, Nature::Refuses];

/// How large every true blob is.
const SIZE: u64 = 200_000;
const PIECE: u64 = 50_000;

/// Seeded chance (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

fn id(n: u64) -> BlobId {
    let mut bytes = [1; 32];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    BlobId::from_bytes(bytes)
}

fn peer(node: usize) -> FeedId {
    FeedId::from_bytes(id(node as u64).to_bytes())
}

struct Node {
    wants: Wants,
    nature: Nature,
    store: BTreeSet<BlobId>,
    /// With whom it has which session.
    links: BTreeMap<Link, usize>,
    gets: BTreeMap<GetId, Running>,
    timer: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Running {
    from: usize,
    id: BlobId,
    came: u64,
    max: u64,
}

enum Event {
    Say { to: usize, link: Link, id: BlobId, said: Said },
    Asked { node: usize, get: GetId },
    Piece { node: usize, get: GetId },
    Timer { node: usize },
}

struct World {
    dice: Dice,
    now: Instant,
    started: Instant,
    /// By time, then by the order of making.
    events: BTreeMap<(Instant, u64), Event>,
    serial: u64,
    nodes: Vec<Node>,
    /// How many fetches were begun.
    fetches: u64,
    /// How many packets were sent.
    said: u64,
}

impl World {
    fn new(seed: u64, natures: &[Nature]) -> Self {
        #[expect(clippy::disallowed_methods, reason = "a simulation needs some instant to start from")]
        let now = Instant::now();
        let node = |nature: &Nature| Node {
            wants: Wants::new(WantsConfig::default()),
            nature: *nature,
            store: BTreeSet::new(),
            links: BTreeMap::new(),
            gets: BTreeMap::new(),
            timer: None,
        };
        let nodes = natures.iter().map(node).collect();
        let (events, dice) = (BTreeMap::new(), Dice(seed));
        Self { dice, now, started: now, events, serial: 0, nodes, fetches: 0, said: 0 }
    }

    fn at(&mut self, delay: u64, event: Event) {
        self.serial += 1;
        self.events.insert((self.now + Duration::from_millis(delay), self.serial), event);
    }

    fn connect(&mut self, one: usize, other: usize) {
        self.serial += 1;
        let link = Link(self.serial);
        for (node, with) in [(one, other), (other, one)] {
            self.nodes[node].links.insert(link, with);
            self.handle(node, Input::Connected { link, peer: peer(with), near: true });
            let first: Vec<_> = self.nodes[node].wants.current().collect();
            first.into_iter().for_each(|(id, said)| self.say(node, link, id, said));
        }
    }

    fn cut(&mut self, one: usize, other: usize) {
        let links = self.nodes[one].links.iter().filter(|(_, with)| **with == other).map(|(link, _)| *link);
        for link in links.collect::<Vec<_>>() {
            for node in [one, other] {
                self.nodes[node].links.remove(&link);
                self.handle(node, Input::Disconnected { link });
            }
        }
    }

    fn say(&mut self, from: usize, link: Link, id: BlobId, said: Said) {
        let Some(to) = self.nodes[from].links.get(&link).copied() else { return };
        // One delay per session, so that what is said arrives in order.
        let delay = 5 + link.0 % 90;
        self.said += 1;
        self.at(delay, Event::Say { to, link, id, said });
    }

    fn handle(&mut self, node: usize, input: Input) {
        self.nodes[node].wants.handle(self.now, input);
        self.drain(node);
    }

    fn drain(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].wants.poll_output() {
            match output {
                Output::Say { link, id, said } => self.say(node, link, id, said),
                Output::Tell { id, said } => {
                    let links: Vec<_> = self.nodes[node].links.keys().copied().collect();
                    links.into_iter().for_each(|link| self.say(node, link, id, said));
                }
                Output::Get { get, link, id, max } => {
                    self.fetches += 1;
                    let from = self.nodes[node].links[&link];
                    assert!(self.nodes[node].gets.values().all(|running| running.id != id), "one at a time");
                    self.nodes[node].gets.insert(get, Running { from, id, came: 0, max });
                    self.at(5 + link.0 % 90, Event::Asked { node, get });
                }
                Output::Cancel { get, .. } => drop(self.nodes[node].gets.remove(&get)),
                Output::Have { .. } | Output::Pushed { .. } => {}
            }
        }
        assert!(self.nodes[node].gets.len() <= MAX_GETS);
        let timer = self.nodes[node].wants.poll_timeout();
        if timer.is_some() && timer != self.nodes[node].timer {
            self.nodes[node].timer = timer;
            let delay = timer.map_or(0, |at| at.saturating_duration_since(self.now).as_millis() as u64 + 1);
            self.at(delay, Event::Timer { node });
        }
    }

    /// Runs for so long.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.events.first_entry().filter(|next| next.key().0 <= end) {
            let ((at, _), event) = next.remove_entry();
            self.now = at;
            self.happen(event);
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Say { to, link, id, said } => self.hear(to, link, id, said),
            Event::Timer { node } => {
                if self.nodes[node].wants.poll_timeout().is_some_and(|at| at <= self.now) {
                    self.nodes[node].timer = None;
                    self.nodes[node].wants.handle_timeout(self.now);
                    self.drain(node);
                }
            }
            Event::Asked { node, get } => self.answer(node, get),
            Event::Piece { node, get } => self.piece(node, get),
        }
    }

    fn hear(&mut self, node: usize, link: Link, id: BlobId, said: Said) {
        let Node { nature, store, links, .. } = &self.nodes[node];
        if !links.contains_key(&link) {
            return;
        }
        if *nature != Nature::Honest {
            // It has everything.
            if matches!(said, Said::Wants(_)) {
                let size = if *nature == Nature::Refuses { 1 + self.dice.roll(SIZE * 2) } else { SIZE };
                self.say(node, link, id, Said::Has(size));
            }
            return;
        }
        let stored = store.contains(&id).then_some(SIZE);
        self.handle(node, Input::Said { link, id, said, stored });
    }

    /// The source of a fetch is asked.
    fn answer(&mut self, node: usize, get: GetId) {
        let Some(running) = self.nodes[node].gets.get(&get).copied() else { return };
        let source = &self.nodes[running.from];
        match source.nature {
            Nature::Honest if source.store.contains(&running.id) => self.at(20, Event::Piece { node, get }),
            Nature::Honest | Nature::Refuses => self.end(node, get, Err(Fault::Refused)),
            Nature::Stalls => {}
            Nature::Trickles | Nature::Forges | Nature::Endless => self.at(20, Event::Piece { node, get }),
        }
    }

    fn piece(&mut self, node: usize, get: GetId) {
        let Some(running) = self.nodes[node].gets.get_mut(&get) else { return };
        let (from, id) = (running.from, running.id);
        let nature = self.nodes[from].nature;
        let piece = if nature == Nature::Trickles { 100 } else { PIECE };
        let Some(running) = self.nodes[node].gets.get_mut(&get) else { return };
        running.came += piece;
        let (came, max) = (running.came, running.max);
        if came > max {
            return self.end(node, get, Err(Fault::Size));
        }
        self.handle(node, Input::Progress { get, bytes: piece });
        match nature {
            Nature::Honest if came == SIZE => {
                self.nodes[node].store.insert(id);
                self.end(node, get, Ok(SIZE));
            }
            Nature::Forges if came == SIZE => self.end(node, get, Err(Fault::Hash)),
            Nature::Trickles => self.at(5_000, Event::Piece { node, get }),
            Nature::Honest | Nature::Forges | Nature::Endless => self.at(20, Event::Piece { node, get }),
            Nature::Stalls | Nature::Refuses => {}
        }
    }

    fn end(&mut self, node: usize, get: GetId, result: Result<u64, Fault>) {
        self.nodes[node].gets.remove(&get);
        self.handle(node, Input::Ended { get, result });
    }

    fn add(&mut self, node: usize, id: BlobId) {
        self.nodes[node].store.insert(id);
        self.handle(node, Input::Stored { id, size: SIZE });
    }

    /// How far every node is from `from` over honest nodes that are connected now.
    fn distances(&self, from: usize) -> BTreeMap<usize, u32> {
        let (mut found, mut queue) = (BTreeMap::from([(from, 0)]), VecDeque::from([from]));
        while let Some(node) = queue.pop_front() {
            for with in self.nodes[node].links.values() {
                if self.nodes[*with].nature == Nature::Honest && !found.contains_key(with) {
                    found.insert(*with, found[&node] + 1);
                    queue.push_back(*with);
                }
            }
        }
        found
    }
}

/// Honest nodes at random in a network that is neither a line nor complete, with liars among them.
fn random_world(seed: u64, liars: bool) -> World {
    let mut dice = Dice(seed ^ 0xb10b);
    let count = 6 + dice.roll(14) as usize;
    let natures = (0..count).map(|_| match dice.roll(3) {
        0 if liars => LIARS[dice.roll(5) as usize],
        _ => Nature::Honest,
    });
    let natures: Vec<_> = natures.collect();
    let mut world = World::new(seed, &natures);
    for node in 1..count {
        let with = dice.roll(node as u64) as usize;
        world.connect(node, with);
        if dice.roll(2) == 0 {
            let with = dice.roll(count as u64) as usize;
            if with != node {
                world.connect(node, with);
            }
        }
    }
    world
}

/// Blobs are added and wanted at random, and what is within three hops must come.
fn flood(seed: u64, liars: bool) -> World {
    let mut world = random_world(seed, liars);
    let honest: Vec<_> =
        (0..world.nodes.len()).filter(|n| world.nodes[*n].nature == Nature::Honest).collect();
    if honest.is_empty() {
        return world;
    }
    let mut expected = Vec::new();
    for n in 0..8 {
        let pick = |dice: &mut Dice| honest[dice.roll(honest.len() as u64) as usize];
        let (has, wants) = (pick(&mut world.dice), pick(&mut world.dice));
        let far = world.distances(wants).get(&has).copied();
        // Some are there before they are wanted, some come later.
        let later = world.dice.roll(3) == 0;
        if !later {
            world.add(has, id(1000 + n));
        }
        if !world.nodes[wants].store.contains(&id(1000 + n)) {
            world.handle(wants, Input::Want { id: id(1000 + n), own: true });
        }
        let pause = world.dice.roll(3_000);
        world.run(Duration::from_millis(pause));
        if later {
            world.add(has, id(1000 + n));
        }
        if far.is_some_and(|far| far <= 3) {
            expected.push((wants, id(1000 + n), far));
        }
    }
    // Each liar on the way may cost the time of a stall, at each hop.
    world.run(Duration::from_secs(40 * 60));
    for (node, id, far) in expected {
        let Node { store, wants, .. } = &world.nodes[node];
        assert!(store.contains(&id), "seed {seed}: node {node} lacks {id:?} {far:?} hops away: {wants:#?}");
    }
    world
}

fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    let wished = std::env::var("HAWSEPIPE_SEEDS").ok().and_then(|count| count.parse().ok());
    first..first + wished.unwrap_or(count)
}

#[test]
fn what_is_within_three_hops_is_found() {
    let mut fetches = 0;
    seeds(0, 150).for_each(|seed| fetches += flood(seed, false).fetches);
    assert!(fetches > 500, "the test does something: {fetches}");
}

#[test]
fn liars_and_stallers_only_delay_it() {
    let mut fetches = 0;
    seeds(10_000, 150).for_each(|seed| fetches += flood(seed, true).fetches);
    assert!(fetches > 1_000, "the test does something: {fetches}");
}

#[test]
fn the_flood_ends_and_reaches_no_farther_than_sympathy_does() {
    // A line of eight: the first wants what only the last has.
    let mut world = World::new(1, &[Nature::Honest; 8]);
    (1..8).for_each(|node| world.connect(node - 1, node));
    world.add(7, id(1));
    world.handle(0, Input::Want { id: id(1), own: true });
    world.run(Duration::from_secs(60));
    let wanting: Vec<_> = (0..8).filter(|n| world.nodes[*n].wants.why(&id(1)).is_some()).collect();
    assert_eq!(wanting, [0, 1, 2], "-1, -2 and -3, as in JS");
    let said = world.said;
    world.run(Duration::from_secs(20 * 60));
    assert_eq!((world.said, world.fetches), (said, 0), "it is silent");
}

#[test]
fn a_blob_travels_over_three_hops_and_everybody_on_the_way_has_it() {
    let mut world = World::new(2, &[Nature::Honest; 4]);
    (1..4).for_each(|node| world.connect(node - 1, node));
    world.add(3, id(1));
    world.handle(0, Input::Want { id: id(1), own: true });
    world.run(Duration::from_secs(10));
    assert!(world.nodes.iter().all(|node| node.store.contains(&id(1))));
    assert_eq!(world.fetches, 3, "each fetched it once");
}

#[test]
fn sessions_that_break_and_come_back_lose_nothing() {
    for seed in seeds(20_000, 60) {
        let mut world = World::new(seed, &[Nature::Honest; 4]);
        (1..4).for_each(|node| world.connect(node - 1, node));
        world.add(3, id(1));
        world.handle(0, Input::Want { id: id(1), own: true });
        for _ in 0..10 {
            let (node, pause) = (1 + world.dice.roll(3) as usize, world.dice.roll(200));
            world.cut(node - 1, node);
            world.run(Duration::from_millis(pause));
            world.connect(node - 1, node);
        }
        world.run(Duration::from_secs(60));
        assert!(world.nodes[0].store.contains(&id(1)), "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = || {
        let world = flood(7, true);
        (world.fetches, world.said, world.now - world.started)
    };
    assert_eq!(trace(), trace());
}
