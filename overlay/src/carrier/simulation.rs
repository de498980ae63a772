//! Two ends on paths that are lossy, slow, race each other and die, in simulated time. Whatever happens, the bytes
//! above are exact, and a session that cannot go on ends with an [`End`] within its grace.
//!
//! A path is a libp2p stream: what it delivers is in order, each direction has a delay of its own, and what is on
//! its way when it dies is lost. A path that died is noticed by each end at some time of its own, or only when it
//! is written to, so both write into the void meanwhile.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::frame::MAX_DATA;
use super::machine::{End, Input, Machine, Output, Role, StreamNo};
use super::policy::Allowance;
use super::{Ends, Frame, GRACE, MAX_UNACKNOWLEDGED, MAX_UNREAD, ResumeKey, SessionId};
use crate::kad::simulation::Chance;

const SID: SessionId = SessionId([1; 16]);
const MS: Duration = Duration::from_millis(1);
/// Bytes that may be on their way on a stream, as libp2p's windows have it.
const WINDOW: usize = 96 * 1024;
const SIDES: [usize; 2] = [0, 1];

fn key() -> ResumeKey {
    ResumeKey::derive(&[9; 32], Ends { initiator: Box::new([1]), responder: Box::new([2]) })
}

/// The byte at this offset of what a side says.
fn byte(side: usize, offset: u64) -> u8 {
    (offset.wrapping_mul(31) ^ (offset >> 9) ^ (side as u64 * 77)) as u8
}

enum Event {
    /// Bytes reach a side.
    Arrive { path: u32, side: usize, bytes: Bytes },
    /// A side notices that a path is gone.
    Notice { path: u32, side: usize },
    /// A side's program does something, or its machine's timer may be due.
    Act(usize),
    /// Chance does something to the paths.
    Fate,
}

struct Path {
    alive: bool,
    /// From the initiator to the responder, and back.
    delays: [Duration; 2],
    /// The last arrival in each direction: what follows comes later.
    last: [Instant; 2],
    on_way: [usize; 2],
    closed: [bool; 2],
    /// What a side has read of it but not taken as a frame.
    lines: [BytesMut; 2],
    /// What a relay lets it carry; beyond, it dies.
    granted: Option<u64>,
    /// What each side has seen of that, both ways, and what the relay has.
    seen: [u64; 2],
    carried: u64,
}

struct Side {
    machine: Machine,
    written: u64,
    read: u64,
    /// How much it will say.
    to_say: u64,
    end: Option<(End, Instant)>,
    detached: Option<Instant>,
    reads_at_most: usize,
}

/// What a run is like.
struct Plan {
    deaths: f64,
    attempts: f64,
    pokes: f64,
    /// After this nothing is offered any more, and every path dies.
    doom: Option<Duration>,
    bytes: usize,
    /// Whether one direction of some paths takes seconds.
    lopsided: bool,
    /// What relays grant for a circuit; then every path is one.
    granted: Option<u64>,
}

struct World {
    chance: Chance,
    plan: Plan,
    start: Instant,
    now: Instant,
    queue: BinaryHeap<(Reverse<Instant>, Reverse<u64>)>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    paths: BTreeMap<u32, Path>,
    next_path: u32,
    sides: [Side; 2],
    moves: u32,
    /// Circuits that carried all that was granted.
    used_up: u32,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "a simulation needs some instant to start from")]
    fn new(seed: u64, plan: Plan) -> Self {
        let mut chance = Chance(seed);
        let now = Instant::now();
        let side = |role, to_say, reads_at_most| Side {
            machine: Machine::new(role, SID, StreamNo(0)),
            written: 0,
            read: 0,
            to_say,
            end: None,
            detached: None,
            reads_at_most,
        };
        let mut amount = || chance.below(plan.bytes) as u64;
        let (said, answered) = (amount(), amount());
        let mut speed = || 1 << (9 + chance.below(9));
        let sides = [side(Role::Initiator, said, speed()), side(Role::Responder, answered, speed())];
        let mut world = Self {
            chance,
            plan,
            start: now,
            now,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            paths: BTreeMap::new(),
            next_path: 0,
            sides,
            moves: 0,
            used_up: 0,
        };
        world.new_path();
        for side in SIDES {
            world.sides[side].machine.arm(key());
            world.at(now, Event::Act(side));
        }
        world.at(now + 20 * MS, Event::Fate);
        world
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.queue.push((Reverse(at), Reverse(self.next_event)));
        self.events.insert(self.next_event, event);
        self.next_event += 1;
    }

    fn is(&mut self, probability: f64) -> bool {
        self.chance.is(probability)
    }

    fn new_path(&mut self) -> u32 {
        let mut delay = || MS * (1 + self.chance.below(120) as u32);
        let mut delays = [delay(), delay()];
        if self.plan.lopsided && self.chance.is(0.3) {
            delays[self.chance.below(2)] += MS * (self.chance.below(6000) as u32);
        }
        let number = self.next_path;
        self.next_path += 1;
        let path = Path {
            alive: true,
            delays,
            last: [self.now; 2],
            on_way: [0; 2],
            closed: [false; 2],
            lines: [BytesMut::new(), BytesMut::new()],
            granted: self.plan.granted,
            seen: [0; 2],
            carried: 0,
        };
        self.paths.insert(number, path);
        number
    }

    fn run(&mut self, longest: Duration) {
        while let Some((Reverse(at), Reverse(number))) = self.queue.pop() {
            self.now = at;
            assert!(at <= self.start + longest, "the session neither ends nor goes on");
            match self.events.remove(&number).expect("each event comes once") {
                Event::Arrive { path, side, bytes } => self.arrive(path, side, &bytes),
                Event::Notice { path, side } => {
                    self.sides[side].machine.handle(at, Input::Lost(StreamNo(path)));
                }
                Event::Act(side) => self.act(side),
                Event::Fate => self.fate(),
            }
            for side in SIDES {
                self.settle(side);
            }
            if self.sides.iter().all(|side| side.end.is_some()) {
                return;
            }
        }
    }

    fn arrive(&mut self, number: u32, side: usize, bytes: &Bytes) {
        let Some(path) = self.paths.get_mut(&number).filter(|path| path.alive) else { return };
        path.on_way[side] -= bytes.len();
        path.seen[side] += bytes.len() as u64;
        path.carried += bytes.len() as u64;
        if path.granted.is_some_and(|granted| path.carried > granted) {
            self.used_up += 1;
            return self.kill(number);
        }
        if path.closed[side] {
            return;
        }
        path.lines[side].extend_from_slice(bytes);
        self.take_frames(number, side);
    }

    fn take_frames(&mut self, number: u32, side: usize) {
        let stream = StreamNo(number);
        while self.sides[side].machine.wants_input(stream) {
            let Some(path) = self.paths.get_mut(&number) else { return };
            let Some(frame) = Frame::decode(&mut path.lines[side]).expect("only frames are sent") else {
                return;
            };
            let machine = &mut self.sides[side].machine;
            let input = match frame {
                Frame::Open(_) => continue,
                Frame::Attach(claim) => Input::Attached { stream, claim },
                frame @ (Frame::Data { .. }
                | Frame::Ack(_)
                | Frame::Attached(_)
                | Frame::Poke(_)
                | Frame::Fin(_)
                | Frame::Reset(_)) => Input::Frame { stream, frame },
            };
            machine.handle(self.now, input);
        }
    }

    /// The program above writes and reads what it likes.
    fn act(&mut self, number: usize) {
        let now = self.now;
        let want = 1 + self.chance.below(40_000);
        let reads = self.chance.below(4) > 0;
        let side = &mut self.sides[number];
        if side.end.is_some() {
            return;
        }
        side.machine.handle_timeout(now);
        let left = side.to_say - side.written;
        let chunk: Vec<u8> =
            (0..left.min(want as u64)).map(|index| byte(number, side.written + index)).collect();
        side.written += side.machine.write(&chunk, MAX_UNACKNOWLEDGED) as u64;
        if side.written == side.to_say {
            side.machine.finish();
        }
        let mut most = if reads { 4 * side.reads_at_most } else { 0 };
        while let Some(bytes) = side.machine.read(now, most.min(side.reads_at_most)) {
            for (index, got) in bytes.iter().enumerate() {
                assert_eq!(*got, byte(1 - number, side.read + index as u64), "bytes above are exact");
            }
            side.read += bytes.len() as u64;
            most -= bytes.len();
        }
        // Without a path there is nothing to hurry for.
        let longest = if side.detached.is_some() { 400 } else { 30 };
        let pause = MS * (1 + self.chance.below(longest) as u32);
        self.at(now + pause, Event::Act(number));
        for path in self.paths.keys().copied().collect::<Vec<_>>() {
            self.take_frames(path, number);
        }
    }

    fn is_doomed(&self) -> bool {
        self.plan.doom.is_some_and(|doom| self.now >= self.start + doom)
    }

    /// Paths die, and others are found.
    fn fate(&mut self) {
        let doomed = self.is_doomed();
        for path in self.paths.keys().copied().collect::<Vec<_>>() {
            let closed = self.paths[&path].closed == [true; 2];
            if self.paths[&path].alive && (doomed || closed || self.is(self.plan.deaths)) {
                self.kill(path);
            }
        }
        self.paths.retain(|_, path| path.alive);
        let current = self.sides[0].machine.current();
        let here = current.and_then(|current| self.paths.get(&current.0));
        let runs_out = here.and_then(|path| Some(Allowance::new(path.granted?, path.seen[0]).runs_out()));
        let lost = current.is_none() || runs_out == Some(true);
        if !doomed && (self.is(self.plan.attempts) || (lost && self.is(0.2))) {
            let path = self.new_path();
            // Two at once, at times.
            let twice = self.is(0.2).then(|| self.new_path());
            for path in [Some(path), twice].into_iter().flatten() {
                self.sides[0].machine.handle(self.now, Input::Attach(StreamNo(path)));
            }
        }
        if !doomed && self.is(self.plan.pokes) {
            self.poke();
        }
        self.at(self.now + 20 * MS, Event::Fate);
    }

    fn kill(&mut self, number: u32) {
        for side in SIDES {
            let delay = MS * (self.chance.below(3000) as u32);
            self.at(self.now + delay, Event::Notice { path: number, side });
        }
        if let Some(path) = self.paths.get_mut(&number) {
            path.alive = false;
        }
    }

    /// It reaches the other end at once, which is as good as later.
    fn poke(&mut self) {
        let poke = self.sides[1].machine.poke();
        let frame = poke.map(|poke| Frame::decode(&mut BytesMut::from(&poke[..])));
        if let Some(Ok(Some(Frame::Poke(poke)))) = frame
            && self.sides[0].machine.poked(&poke).is_ok()
        {
            assert!(self.sides[0].machine.poked(&poke).is_err(), "no POKE counts twice");
            let path = self.new_path();
            self.sides[0].machine.handle(self.now, Input::Attach(StreamNo(path)));
        }
    }

    /// Writes what is to be written and does what is to be done.
    fn settle(&mut self, number: usize) {
        for path in self.paths.keys().copied().collect::<Vec<_>>() {
            self.transmit(number, path);
        }
        while let Some(output) = self.sides[number].machine.poll_output() {
            self.output(number, output);
        }
        let side = &self.sides[number];
        assert!(side.machine.held() <= MAX_UNACKNOWLEDGED, "what waits to be acknowledged is bounded");
        let unread = side.machine.unread();
        assert!(unread <= MAX_UNREAD + MAX_DATA, "what was received is bounded: {unread}");
        if let Some(since) = side.detached.filter(|_| side.end.is_none()) {
            assert!(self.now <= since + GRACE + 400 * MS, "no session outlives its grace");
        }
    }

    fn transmit(&mut self, number: usize, of: u32) {
        let to = 1 - number;
        while let Some(path) = self.paths.get_mut(&of) {
            let machine = &mut self.sides[number].machine;
            if path.on_way[to] >= WINDOW || !machine.has_transmit(self.now, StreamNo(of)) {
                return;
            }
            let left = path.granted.map(|granted| Allowance::new(granted, path.seen[number]).window());
            if machine.current() == Some(StreamNo(of)) {
                machine.set_window(left.unwrap_or(u64::MAX));
            }
            let Some(bytes) = machine.poll_transmit(self.now, StreamNo(of)) else { return };
            if !path.alive {
                continue;
            }
            path.seen[number] += bytes.len() as u64;
            path.on_way[to] += bytes.len();
            path.last[to] = path.last[to].max(self.now + path.delays[to]);
            let at = path.last[to];
            // A stream knows no frames.
            let cut = self.chance.below(bytes.len() + 1);
            for bytes in [bytes.slice(..cut), bytes.slice(cut..)] {
                self.at(at, Event::Arrive { path: of, side: to, bytes });
            }
        }
    }

    fn output(&mut self, number: usize, output: Output) {
        let side = &mut self.sides[number];
        match output {
            Output::Use(_) => {
                self.moves += 1;
                side.detached = None;
            }
            Output::Close(stream) | Output::NotAttached(stream) => {
                let at = self.now + MS * 200;
                if let Some(path) = self.paths.get_mut(&stream.0) {
                    path.closed[number] = true;
                    self.at(at, Event::Notice { path: stream.0, side: 1 - number });
                }
            }
            Output::Detached => side.detached = Some(self.now),
            Output::Ended(end) => side.end = Some((end, self.now)),
        }
    }
}

fn calm() -> Plan {
    let (doom, granted) = (None, None);
    Plan { deaths: 0.005, attempts: 0.05, pokes: 0.005, doom, bytes: 100_000, lopsided: false, granted }
}

/// Everything arrives, whatever the paths do, as long as others are found; after how many moves.
fn all_arrives(seed: u64, plan: Plan) -> u32 {
    outcome(seed, plan).moves
}

fn outcome(seed: u64, plan: Plan) -> World {
    let mut world = World::new(seed, plan);
    world.run(Duration::from_secs(3600));
    for (side, other) in world.sides.iter().zip([&world.sides[1], &world.sides[0]]) {
        // Who is done first is gone when the other looks for it.
        let gone = other.end.is_some_and(|(end, _)| end == End::Done);
        let (end, _) = side.end.expect("run() ends when both have");
        assert!(end == End::Done || gone, "seed {seed}: {end:?}");
        assert_eq!(side.read, other.to_say, "seed {seed}");
    }
    world
}

#[test]
fn bytes_are_exact_over_paths_that_die_and_race() {
    let moves: u32 = (0..1000).map(|seed| all_arrives(seed, calm())).sum();
    assert!(moves > 1000, "only {moves} moves: this proves little");
}

#[test]
fn bytes_are_exact_where_paths_come_and_go_all_the_time() {
    let plan = || Plan { deaths: 0.05, attempts: 0.3, pokes: 0.1, bytes: 60_000, ..calm() };
    let moves: u32 = (0..1000).map(|seed| all_arrives(seed, plan())).sum();
    assert!(moves > 5000, "only {moves} moves: this proves little");
}

#[test]
fn bytes_are_exact_where_a_relay_delays_one_direction() {
    for seed in 0..500 {
        all_arrives(seed, Plan { lopsided: true, ..calm() });
    }
}

#[test]
fn no_circuit_carries_more_than_its_relay_has_granted() {
    let mut moves = 0;
    for seed in 0..60 {
        let granted = Some((32 << 10) << (seed % 5));
        let plan = Plan { deaths: 0.0, attempts: 0.0, pokes: 0.0, bytes: 2_000_000, granted, ..calm() };
        let world = outcome(seed, plan);
        assert_eq!(world.used_up, 0, "seed {seed}");
        moves += world.moves;
    }
    assert!(moves > 500, "only {moves} moves: this proves little");
}

#[test]
fn a_session_whose_paths_all_die_ends_within_its_grace() {
    for seed in 0..500 {
        let doom = Duration::from_secs(2);
        let mut world = World::new(seed, Plan { doom: Some(doom), bytes: 400_000, ..calm() });
        world.run(Duration::from_secs(3600));
        let done = world.sides.iter().any(|side| side.end.is_some_and(|(end, _)| end == End::Done));
        for side in &world.sides {
            let (end, at) = side.end.expect("run() ends when both have");
            assert!(done || end == End::Expired, "seed {seed}: {end:?}");
            // Three seconds until it is noticed, and a look each 400 ms.
            assert!(at <= world.start + doom + 4 * Duration::from_secs(1) + GRACE, "seed {seed}");
        }
    }
}
