//! The simulated network, its nodes and what befalls them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::js::Js;
use crate::ebt::feeds::Feed;
use crate::ebt::{Input, Notes, Output, Peer, PeerClock, Role, State, WINDOW};
use crate::refs::FeedId;

/// What may happen besides publishing, following and connecting.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Plan {
    /// Nothing breaks, nobody blocks or unfollows.
    pub(super) peaceful: bool,
    /// Storing an accepted message sometimes fails.
    pub(super) failures: bool,
    /// Some peers send a bad message of one feed.
    pub(super) liars: bool,
    /// Nodes sometimes come back with nothing but their own feed.
    pub(super) lost_stores: bool,
    /// Every second node behaves like the JavaScript peers, and connects only to others.
    pub(super) javascript: bool,
}

/// How long things happen, and how long is left to settle.
const LIFE: Duration = Duration::from_secs(90);
const PEACE: Duration = Duration::from_secs(60);

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Seeded chance (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn pick(&mut self, below: usize) -> usize {
        self.roll(below as u64) as usize
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

enum Machine {
    Ours(Box<State>),
    Js(Js),
}

impl Machine {
    fn handle(&mut self, now: Instant, input: Input) {
        match self {
            Self::Ours(state) => state.handle(now, input),
            Self::Js(js) => js.handle(now, input),
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        match self {
            Self::Ours(state) => state.poll_output(),
            Self::Js(js) => js.poll_output(),
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Ours(state) => state.poll_timeout(),
            Self::Js(js) => js.poll_timeout(),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Ours(state) => state.handle_timeout(now),
            Self::Js(js) => js.handle_timeout(now),
        }
    }

    fn explain(&self, feed: &FeedId) -> String {
        match self {
            Self::Ours(state) => format!("{:?}", state.status(feed)),
            Self::Js(js) => js.explain(feed),
        }
    }

    fn clock(&self, peer: &Peer) -> Option<PeerClock> {
        match self {
            Self::Ours(state) => state.clock(peer),
            Self::Js(js) => js.clock(peer),
        }
    }
}

#[derive(Clone)]
enum Wire {
    Notes(Notes),
    Message { feed: FeedId, sequence: u64, bad: bool },
}

enum Waiting {
    Notes(Notes),
    Range { feed: FeedId, next: u64, to: u64 },
}

/// One side of a stream.
struct End {
    session: u64,
    outbox: VecDeque<Waiting>,
    pumping: bool,
}

struct Node {
    machine: Machine,
    store: BTreeMap<FeedId, u64>,
    wants: BTreeSet<FeedId>,
    blocks: BTreeSet<(FeedId, Peer)>,
    clocks: BTreeMap<Peer, PeerClock>,
    ends: BTreeMap<usize, End>,
    /// The feed of which this node sends bad messages.
    lies: Option<FeedId>,
    timer: Option<Instant>,
}

enum Event {
    Deliver { from: usize, to: usize, session: u64, wire: Wire },
    Pump { from: usize, to: usize, session: u64 },
    Verified { node: usize, peer: Peer, feed: FeedId, sequence: u64, bad: bool },
    Closed { node: usize, peer: usize, session: u64 },
    Timer { node: usize },
    Chance,
}

pub(super) struct World {
    seed: u64,
    plan: Plan,
    dice: Dice,
    start: Instant,
    now: Instant,
    events: BTreeMap<(Instant, u64), Event>,
    count: u64,
    nodes: Vec<Node>,
    /// Messages that were accepted, and those that were not.
    pub(super) useful: u64,
    pub(super) wasted: u64,
    pub(super) delivered: u64,
    last_delivery: Instant,
}

fn feed(node: usize) -> FeedId {
    FeedId::from_bytes([node as u8 + 1; 32])
}

fn peer(node: usize) -> Peer {
    Peer(feed(node))
}

fn node_of(peer: &Peer) -> usize {
    usize::from(peer.0.as_bytes()[0]) - 1
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "the one start instant; everything else is relative to it")]
    pub(super) fn new(seed: u64, plan: Plan) -> Self {
        let mut dice = Dice(seed);
        let start = Instant::now();
        let count = 3 + dice.pick(6);
        let mut world = Self {
            seed,
            plan,
            dice,
            start,
            now: start,
            events: BTreeMap::new(),
            count: 0,
            nodes: Vec::new(),
            useful: 0,
            wasted: 0,
            delivered: 0,
            last_delivery: start,
        };
        for n in 0..count {
            let lies = (plan.liars && world.dice.one_in(3)).then(|| feed(world.dice.pick(count)));
            world.nodes.push(Node {
                machine: world.machine(n),
                store: BTreeMap::new(),
                wants: BTreeSet::from([feed(n)]),
                blocks: BTreeSet::new(),
                clocks: BTreeMap::new(),
                ends: BTreeMap::new(),
                lies: lies.filter(|lie| *lie != feed(n)),
                timer: None,
            });
            world.give(n, Input::Replicate { feed: feed(n), rank: Some(0) });
        }
        for _ in 0..count * 3 {
            world.follow();
        }
        for _ in 0..count * 10 {
            world.publish();
        }
        world
    }

    /// Lets things happen.
    pub(super) fn live(&mut self) {
        self.after(ms(0), Event::Chance);
        self.run_until(self.start + LIFE);
    }

    /// Ends all mischief, connects everybody, and waits.
    pub(super) fn heal(&mut self) {
        self.events.retain(|_, event| !matches!(event, Event::Chance));
        self.plan.failures = false;
        let count = self.nodes.len();
        for n in 0..count {
            let all: BTreeSet<_> = self.nodes.iter().flat_map(|node| node.blocks.clone()).collect();
            let own: Vec<_> = all.into_iter().filter(|(from, _)| self.says_block(*from)).collect();
            for (from, to) in own {
                self.learn_block(n, from, to, true);
            }
        }
        for n in 0..count {
            self.connect(n, (n + 1) % count);
        }
        for _ in 0..count / 2 {
            let (a, b) = (self.dice.pick(count), self.dice.pick(count));
            self.connect(a, b);
        }
        self.run_until(self.start + LIFE + PEACE);
    }

    /// Any two connected nodes hold equally much of what may pass between them, and nobody speaks.
    pub(super) fn assert_converged(&self) {
        let seed = self.seed;
        for (a, node) in self.nodes.iter().enumerate() {
            for &b in node.ends.keys() {
                let other = &self.nodes[b];
                assert!(other.ends.contains_key(&a), "seed {seed}: {a}-{b} is connected on one side");
                for id in node.wants.intersection(&other.wants) {
                    if !self.passes(*id, a, b) {
                        continue;
                    }
                    let (mine, theirs) = (node.store.get(id), other.store.get(id));
                    let why =
                        || format!("{a}: {}\n{b}: {}", node.machine.explain(id), other.machine.explain(id));
                    assert_eq!(mine, theirs, "seed {seed}: feed {id:?} at {a} and {b}\n{}", why());
                }
            }
        }
        let silence = self.now - self.last_delivery;
        assert!(silence > Duration::from_secs(20), "seed {seed}: silent for {silence:?} only");
    }

    /// Whether nothing keeps the feed from passing between two connected nodes.
    fn passes(&self, id: FeedId, a: usize, b: usize) -> bool {
        let blocked = |n: usize| self.nodes[a].blocks.contains(&(id, peer(n)));
        let lies = |n: usize| self.nodes[n].lies == Some(id);
        !blocked(a) && !blocked(b) && !lies(a) && !lies(b)
    }

    fn run_until(&mut self, end: Instant) {
        while let Some(entry) = self.events.first_entry() {
            let (at, _) = *entry.key();
            if at > end {
                break;
            }
            let event = entry.remove();
            self.now = at;
            self.happen(event);
        }
        self.now = end;
    }

    fn after(&mut self, time: Duration, event: Event) {
        self.count += 1;
        self.events.insert((self.now + time, self.count), event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, session, wire } => self.deliver(from, to, session, wire),
            Event::Pump { from, to, session } => self.pump(from, to, session),
            Event::Verified { node, peer, feed, sequence, bad } => {
                self.verified(node, peer, feed, sequence, bad)
            }
            Event::Closed { node, peer: other, session } => {
                if self.end(node, other, session).is_some() {
                    self.nodes[node].ends.remove(&other);
                    self.give(node, Input::Disconnected { peer: peer(other) });
                }
            }
            Event::Timer { node } => {
                if self.nodes[node].timer.is_some_and(|at| at <= self.now) {
                    self.nodes[node].timer = None;
                    self.nodes[node].machine.handle_timeout(self.now);
                    self.drain(node);
                }
            }
            Event::Chance => self.chance(),
        }
    }

    // What befalls the nodes.

    fn chance(&mut self) {
        match self.dice.roll(if self.plan.peaceful { 60 } else { 100 }) {
            0..30 => self.publish(),
            30..40 => self.follow(),
            40..60 => {
                let (a, b) = (self.dice.pick(self.nodes.len()), self.dice.pick(self.nodes.len()));
                if !self.plan.peaceful || !self.nodes[a].ends.contains_key(&b) {
                    self.connect(a, b);
                }
            }
            60..75 => self.cut(),
            75..82 => self.unfollow(),
            82..92 => self.block(),
            _ => self.restart(),
        }
        let pause = ms(self.dice.roll(1_500));
        self.after(pause, Event::Chance);
    }

    fn publish(&mut self) {
        let n = self.dice.pick(self.nodes.len());
        for _ in 0..=self.dice.roll(20) {
            let sequence = self.nodes[n].store.get(&feed(n)).map_or(1, |s| s + 1);
            self.nodes[n].store.insert(feed(n), sequence);
            self.give(n, Input::Appended { feed: feed(n), sequence });
        }
    }

    fn follow(&mut self) {
        let (n, id) = (self.dice.pick(self.nodes.len()), feed(self.dice.pick(self.nodes.len())));
        if self.nodes[n].wants.insert(id) {
            let rank = Some(self.dice.roll(3) as u32 + 1);
            self.give(n, Input::Replicate { feed: id, rank });
        }
    }

    fn unfollow(&mut self) {
        let (n, id) = (self.dice.pick(self.nodes.len()), feed(self.dice.pick(self.nodes.len())));
        if !self.plan.javascript && id != feed(n) && self.nodes[n].wants.remove(&id) {
            self.give(n, Input::Replicate { feed: id, rank: None });
        }
    }

    /// One node's owner blocks or unblocks another; all hear of it sooner or later.
    fn block(&mut self) {
        let (from, to) = (feed(self.dice.pick(self.nodes.len())), peer(self.dice.pick(self.nodes.len())));
        if self.plan.javascript || from == to.0 {
            return;
        }
        let on = !self.says_block_of(from, to);
        self.learn_block(node_of(&Peer(from)), from, to, on);
        for n in 0..self.nodes.len() {
            if self.dice.one_in(2) || !on {
                self.learn_block(n, from, to, on);
            }
        }
    }

    fn says_block(&self, from: FeedId) -> bool {
        self.nodes[node_of(&Peer(from))].blocks.iter().any(|(by, _)| *by == from)
    }

    fn says_block_of(&self, from: FeedId, to: Peer) -> bool {
        self.nodes[node_of(&Peer(from))].blocks.contains(&(from, to))
    }

    fn learn_block(&mut self, n: usize, from: FeedId, to: Peer, on: bool) {
        let blocks = &mut self.nodes[n].blocks;
        let new = if on { blocks.insert((from, to)) } else { blocks.remove(&(from, to)) };
        if new {
            self.give(n, Input::Block { from, to, on });
        }
    }

    fn cut(&mut self) {
        let a = self.dice.pick(self.nodes.len());
        let Some((&b, end)) = self.nodes[a].ends.iter().next() else { return };
        let session = end.session;
        self.close(a, b, session);
    }

    /// Each side notices on its own.
    fn close(&mut self, a: usize, b: usize, session: u64) {
        for (node, peer) in [(a, b), (b, a)] {
            let time = ms(self.dice.roll(400));
            self.after(time, Event::Closed { node, peer, session });
        }
    }

    fn connect(&mut self, a: usize, b: usize) {
        let blocks = |x: usize, y: usize| self.says_block_of(feed(x), peer(y));
        let both_js = self.plan.javascript && a % 2 == 1 && b % 2 == 1;
        if a == b || blocks(a, b) || blocks(b, a) || both_js {
            return;
        }
        self.count += 1;
        let session = self.count;
        for (node, other, role) in [(a, b, Role::Caller), (b, a, Role::Callee)] {
            let clock = self.nodes[node].clocks.get(&peer(other)).cloned().unwrap_or_default();
            self.nodes[node].ends.insert(other, End { session, outbox: VecDeque::new(), pumping: false });
            self.give(node, Input::Connected { peer: peer(other), role, clock });
        }
    }

    /// A crash: streams break, and what was not stored is gone; sometimes what was stored, too.
    fn restart(&mut self) {
        let n = self.dice.pick(self.nodes.len());
        if matches!(self.nodes[n].machine, Machine::Js(_)) {
            // Those store clocks when a stream closes only, and do not recover from a crash before that.
            return;
        }
        let ends: Vec<_> = self.nodes[n].ends.iter().map(|(&other, end)| (other, end.session)).collect();
        self.nodes[n].ends.clear();
        for (other, session) in ends {
            self.close(other, n, session);
        }
        self.events.retain(|_, event| !matches!(event, Event::Verified { node, .. } if *node == n));
        if self.dice.one_in(3) {
            self.nodes[n].clocks.clear();
        }
        if self.plan.lost_stores && self.dice.one_in(2) {
            self.nodes[n].store.retain(|id, _| *id == feed(n));
        }
        self.nodes[n].machine = self.machine(n);
        self.nodes[n].timer = None;
        let node = &self.nodes[n];
        let appended = node.store.iter().map(|(&feed, &sequence)| Input::Appended { feed, sequence });
        let rank = |id: &FeedId| u32::from(id.as_bytes()[0] % 3);
        let wants = node.wants.iter().map(|&feed| Input::Replicate { feed, rank: Some(rank(&feed)) });
        let blocks = node.blocks.iter().map(|&(from, to)| Input::Block { from, to, on: true });
        for input in appended.chain(wants).chain(blocks).collect::<Vec<_>>() {
            self.give(n, input);
        }
    }

    fn machine(&self, n: usize) -> Machine {
        if self.plan.javascript && n % 2 == 1 {
            Machine::Js(Js::new(feed(n)))
        } else {
            // Windows so small that feeds have to wait for each other, and the ordinary one.
            let window = [1, 9, 60, WINDOW][((self.seed + n as u64) % 4) as usize];
            Machine::Ours(Box::new(State::new(feed(n)).with_window(window)))
        }
    }

    // The shell around each machine.

    fn give(&mut self, n: usize, input: Input) {
        self.nodes[n].machine.handle(self.now, input);
        self.drain(n);
    }

    fn drain(&mut self, n: usize) {
        while let Some(output) = self.nodes[n].machine.poll_output() {
            self.perform(n, output);
        }
        if let Machine::Ours(state) = &self.nodes[n].machine {
            assert_sound(state, self.seed);
        }
        let due = self.nodes[n].machine.poll_timeout();
        if due.is_some() && due != self.nodes[n].timer {
            self.nodes[n].timer = due;
            let wait = due.map_or(ms(0), |due| due.saturating_duration_since(self.now));
            self.after(wait, Event::Timer { node: n });
        }
    }

    fn perform(&mut self, n: usize, output: Output) {
        match output {
            Output::SendNotes { peer, notes } => self.queue(n, &peer, Waiting::Notes(notes)),
            Output::Send { peer, feed, from, to } => {
                let node = &self.nodes[n];
                assert!(node.store.get(&feed) >= Some(&to), "seed {}: it holds what it sends", self.seed);
                assert!(
                    node.wants.contains(&feed) && !node.blocks.contains(&(feed, peer)),
                    "seed {}",
                    self.seed
                );
                self.queue(n, &peer, Waiting::Range { feed, next: from, to });
            }
            Output::CancelSend { peer, feed } => {
                if let Some(end) = self.nodes[n].ends.get_mut(&node_of(&peer)) {
                    end.outbox
                        .retain(|waiting| !matches!(waiting, Waiting::Range { feed: f, .. } if *f == feed));
                }
            }
            Output::EndStream { peer, error: None } => {
                let other = node_of(&peer);
                if let Some(end) = self.nodes[n].ends.remove(&other) {
                    let time = ms(self.dice.roll(400));
                    self.after(time, Event::Closed { node: other, peer: n, session: end.session });
                }
            }
            // The older stream was replaced before the machine heard of the new one.
            Output::EndStream { error: Some(_), .. } => {}
            Output::ClockChanged { peer } => {
                let clock = self.nodes[n].machine.clock(&peer);
                let clock =
                    clock.unwrap_or_else(|| panic!("seed {}: a clock that changed is there", self.seed));
                self.nodes[n].clocks.insert(peer, clock);
            }
            // `deliver` looks for it, as the shell does right after a message.
            Output::Accept { .. } => panic!("an Accept without a message"),
        }
    }

    fn end(&mut self, n: usize, other: usize, session: u64) -> Option<&mut End> {
        self.nodes[n].ends.get_mut(&other).filter(|end| end.session == session)
    }

    fn queue(&mut self, n: usize, peer: &Peer, waiting: Waiting) {
        let to = node_of(peer);
        let Some(end) = self.nodes[n].ends.get_mut(&to) else { return };
        end.outbox.push_back(waiting);
        if !std::mem::replace(&mut end.pumping, true) {
            let session = end.session;
            self.after(ms(1), Event::Pump { from: n, to, session });
        }
    }

    /// Sends one item; the link's delay depends on its ends only, so that it keeps their order.
    fn pump(&mut self, from: usize, to: usize, session: u64) {
        let lies = self.nodes[from].lies;
        let Some(end) = self.end(from, to, session) else { return };
        let wire = match end.outbox.front_mut() {
            None => {
                end.pumping = false;
                return;
            }
            Some(Waiting::Range { feed, next, to }) => {
                let wire = Wire::Message { feed: *feed, sequence: *next, bad: lies == Some(*feed) };
                *next += 1;
                if *next > *to {
                    end.outbox.pop_front();
                }
                wire
            }
            Some(Waiting::Notes(notes)) => {
                let wire = Wire::Notes(std::mem::take(notes));
                end.outbox.pop_front();
                wire
            }
        };
        let delay = ms(5 + (from as u64 * 37 + to as u64 * 61 + self.seed) % 200);
        self.after(delay, Event::Deliver { from, to, session, wire });
        self.after(ms(2), Event::Pump { from, to, session });
    }

    fn deliver(&mut self, from: usize, to: usize, session: u64, wire: Wire) {
        if self.end(to, from, session).is_none() {
            return;
        }
        self.delivered += 1;
        self.last_delivery = self.now;
        match wire {
            Wire::Notes(notes) => self.give(to, Input::Notes { peer: peer(from), notes }),
            Wire::Message { feed, sequence, bad } => self.message(from, to, feed, (sequence, bad)),
        }
    }

    fn message(&mut self, from: usize, to: usize, feed: FeedId, (sequence, bad): (u64, bool)) {
        let input = Input::Received { peer: peer(from), feed, sequence };
        let accepted = Output::Accept { peer: peer(from), feed, sequence };
        self.nodes[to].machine.handle(self.now, input);
        let mut outputs = Vec::new();
        while let Some(output) = self.nodes[to].machine.poll_output() {
            outputs.push(output);
        }
        let accept = outputs.contains(&accepted);
        for output in outputs.into_iter().filter(|output| *output != accepted) {
            self.perform(to, output);
        }
        self.drain(to);
        if !accept {
            self.wasted += 1;
            return;
        }
        self.useful += 1;
        assert!(self.nodes[to].wants.contains(&feed), "seed {}: only wanted feeds are accepted", self.seed);
        assert_ne!(feed, super::world::feed(to), "seed {}: never our own feed", self.seed);
        let time = ms(30);
        self.after(time, Event::Verified { node: to, peer: peer(from), feed, sequence, bad });
    }

    fn verified(&mut self, node: usize, peer: Peer, feed: FeedId, sequence: u64, bad: bool) {
        let have = self.nodes[node].store.get(&feed).copied().unwrap_or(0);
        if sequence != have + 1 {
            // Left over from before a rejection, or stored meanwhile.
            return;
        }
        let failed = self.plan.failures && self.dice.one_in(50);
        if bad || failed {
            return self.give(node, Input::Rejected { peer, feed, fatal: bad });
        }
        self.nodes[node].store.insert(feed, sequence);
        self.give(node, Input::Appended { feed, sequence });
    }
}

/// At most one peer is asked to push a feed, and it is the one that the machine takes for the source.
fn assert_sound(state: &State, seed: u64) {
    for (ix, feed) in state.feeds.wanted() {
        let asked: Vec<_> = state
            .peers
            .iter()
            .filter(|(_, session)| session.lane(ix).told.is_some_and(|note| note.receive))
            .map(|(&peer, _)| peer)
            .collect();
        assert_eq!(asked, Vec::from_iter(feed.source), "seed {seed}: sources of {:?}", feed.id);
        assert!(feed.accepted >= feed.have, "seed {seed}");
        for (peer, session) in &state.peers {
            let owes = session.owing().contains(&ix);
            assert_eq!(owes, feed.source == Some(*peer) && state.is_ahead(ix, peer), "seed {seed}: debts");
            assert_eq!(session.check_at.is_some(), !session.owing().is_empty(), "seed {seed}: deadlines");
        }
    }
    for (peer, session) in &state.peers {
        let sourced = state.feeds.wanted().filter(|(_, feed)| feed.source == Some(*peer));
        let owed = |(near, far), (_, feed): (_, &Feed)| (near + feed.load.near, far + feed.load.far);
        let owed = sourced.fold((0, 0), owed);
        assert_eq!((session.load.near, session.load.far), owed, "seed {seed}: the window");
        assert!(
            session.waiting.is_empty() || !session.has_room(),
            "seed {seed}: nothing waits for room that is there"
        );
        assert_eq!(session.pace_at.is_some(), !session.waiting.is_empty(), "seed {seed}: the pace");
    }
}
