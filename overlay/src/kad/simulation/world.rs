//! The network and those on it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::super::machine::{Ask, AskId, Dht, Input, LookupId, Output};
use super::super::{Asker, Contact, Key, Lookup, NodeId, Record, Refusal, Request, Response, Stamp};
use crate::reachability::{Target, Transport};

/// Since 1970 when the simulation begins.
pub(super) const UNIX: Duration = Duration::from_secs(1_800_000_000);
/// How long a record of ours lives.
pub(super) const LIFE: Duration = Duration::from_secs(2 * 60 * 60);

/// Chance, by seed.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.roll() % end as u64) as usize
    }

    /// From 0 to 1.
    pub(crate) fn part(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn is(&mut self, probability: f64) -> bool {
        self.part() < probability
    }
}

const fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// A value: sequence and end.
pub(super) fn value(sequence: u64, until: Duration) -> Vec<u8> {
    [sequence.to_be_bytes(), until.as_secs().to_be_bytes()].concat()
}

fn validate(_: &[u8], value: &[u8], unix: Duration) -> Result<Stamp, Refusal> {
    let (sequence, until) = value.split_first_chunk().ok_or("form")?;
    let until = Duration::from_secs(u64::from_be_bytes(until.try_into().map_err(|_| "form")?));
    if until <= unix {
        return Err("expired");
    }
    Ok(Stamp { sequence: u64::from_be_bytes(*sequence), until })
}

pub(super) struct Node {
    pub(super) contact: Contact,
    pub(super) ip: IpAddr,
    pub(super) kind: Kind,
    /// Nodes of different sides do not hear each other.
    pub(super) side: u8,
    wake_at: Option<Instant>,
}

pub(super) enum Kind {
    Honest {
        dht: Box<Dht>,
        serves: bool,
    },
    /// Tells of its like, and keeps nothing.
    Hostile,
    Dead,
}

enum Event {
    Wake(usize),
    Question {
        from: usize,
        to: usize,
        ask: AskId,
        request: Request,
    },
    Answer {
        from: usize,
        to: usize,
        ask: AskId,
        response: Option<Response>,
    },
    /// Something the scenario wants.
    Plan(usize),
}

/// What came of lookups.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Tally {
    pub(super) gets: usize,
    pub(super) found: usize,
    pub(super) puts: usize,
    pub(super) stored: usize,
    pub(super) refreshes: usize,
    pub(super) asked: BTreeMap<&'static str, usize>,
    pub(super) hops: Vec<u32>,
    pub(super) took: Vec<Duration>,
    pub(super) put_took: Vec<Duration>,
    /// Questions and answers.
    pub(super) messages: u64,
    pub(super) questions: BTreeMap<&'static str, u64>,
    pub(super) refused: BTreeMap<&'static str, usize>,
    pub(super) lost: u64,
}

pub(super) struct World {
    pub(super) now: Instant,
    start: Instant,
    pub(super) chance: Chance,
    pub(super) nodes: Vec<Node>,
    by_id: HashMap<NodeId, usize>,
    hostile: Vec<usize>,
    queue: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    events_made: u64,
    lookups: u64,
    pub(super) tally: Tally,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self {
            now,
            start: now,
            chance: Chance(seed),
            nodes: Vec::new(),
            by_id: HashMap::new(),
            hostile: Vec::new(),
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            events_made: 0,
            lookups: 0,
            tally: Tally::default(),
        }
    }

    pub(super) fn unix(&self) -> Duration {
        UNIX + self.elapsed()
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now.duration_since(self.start)
    }

    /// Somebody somewhere on the Internet.
    pub(super) fn join(&mut self, serves: bool, known: &[usize]) -> usize {
        let ip = Ipv4Addr::from_bits((11 << 24) + (self.chance.roll() as u32) % (120 << 24));
        self.join_at(ip.into(), serves, known)
    }

    pub(super) fn join_at(&mut self, ip: IpAddr, serves: bool, known: &[usize]) -> usize {
        let name = self.chance.roll().to_be_bytes();
        let seed = self.chance.roll();
        let id = NodeId::new(&name);
        let dht = Box::new(Dht::new(id.clone(), seed, validate));
        let index = self.add(id, ip, Kind::Honest { dht, serves });
        self.input(index, Input::Serving(serves));
        self.introduce(index, known);
        index
    }

    pub(super) fn introduce(&mut self, index: usize, known: &[usize]) {
        for other in known {
            let contact = self.nodes[*other].contact.clone();
            self.input(index, Input::Candidate(contact));
        }
    }

    /// One of those who mean harm, with this name.
    pub(super) fn join_hostile(&mut self, id: NodeId, ip: IpAddr) -> usize {
        let index = self.add(id, ip, Kind::Hostile);
        self.hostile.push(index);
        index
    }

    fn add(&mut self, node: NodeId, ip: IpAddr, kind: Kind) -> usize {
        let at = Target { transport: Transport::Quic, at: SocketAddr::new(ip, 4001) };
        let index = self.nodes.len();
        self.by_id.insert(node.clone(), index);
        let contact = Contact { node, at: vec![at] };
        self.nodes.push(Node { contact, ip, kind, side: 0, wake_at: None });
        index
    }

    pub(super) fn die(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.kind = Kind::Dead;
        node.wake_at = None;
    }

    pub(super) fn get(&mut self, index: usize, key: &[u8]) {
        self.lookups += 1;
        self.input(index, Input::Get { lookup: LookupId(self.lookups), key: key.to_vec() });
    }

    pub(super) fn put(&mut self, index: usize, key: &[u8], sequence: u64) {
        self.lookups += 1;
        let record = Record { key: key.to_vec(), value: value(sequence, self.unix() + LIFE) };
        self.input(index, Input::Put { lookup: LookupId(self.lookups), record });
    }

    pub(super) fn plan(&mut self, at: Instant, what: usize) {
        self.push(at, Event::Plan(what));
    }

    pub(super) fn dht(&self, index: usize) -> Option<&Dht> {
        match &self.nodes[index].kind {
            Kind::Honest { dht, .. } => Some(dht),
            Kind::Hostile | Kind::Dead => None,
        }
    }

    pub(super) fn input(&mut self, index: usize, input: Input) {
        let (now, unix) = (self.now, self.unix());
        if let Kind::Honest { dht, .. } = &mut self.nodes[index].kind {
            dht.handle(now, unix, input);
        }
        self.drain(index);
    }

    /// Until then, or until something planned is due, which is returned.
    pub(super) fn run_until(&mut self, until: Instant) -> Option<usize> {
        while let Some(Reverse((at, _, _))) = self.queue.peek() {
            if *at > until {
                break;
            }
            let Some(Reverse((at, _, slot))) = self.queue.pop() else { break };
            self.now = at;
            let event = self.events[slot].take();
            self.free.push(slot);
            if let Some(what) = event.and_then(|event| self.happen(event)) {
                return Some(what);
            }
        }
        self.now = until;
        None
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.run_until(until).is_some() {}
    }

    fn happen(&mut self, event: Event) -> Option<usize> {
        match event {
            Event::Plan(what) => return Some(what),
            Event::Wake(index) => self.wake(index),
            Event::Question { from, to, ask, request } => self.question(from, to, ask, request),
            Event::Answer { from, to, ask, response } => {
                let input = match response {
                    Some(response) => Input::Answered { ask, ip: Some(self.nodes[from].ip), response },
                    None => Input::Failed(ask),
                };
                self.input(to, input);
            }
        }
        None
    }

    fn wake(&mut self, index: usize) {
        let (now, unix) = (self.now, self.unix());
        let node = &mut self.nodes[index];
        if node.wake_at.is_none_or(|at| at > now) {
            return;
        }
        node.wake_at = None;
        if let Kind::Honest { dht, .. } = &mut node.kind {
            dht.handle_timeout(now, unix);
        }
        self.drain(index);
    }

    fn question(&mut self, from: usize, to: usize, ask: AskId, request: Request) {
        let (now, unix) = (self.now, self.unix());
        if !self.hears(from, to) {
            self.tally.lost += 1;
            return;
        }
        let asker = Asker { node: self.nodes[from].contact.node.clone(), ip: self.nodes[from].ip };
        let response = match &mut self.nodes[to].kind {
            Kind::Honest { dht, .. } => dht.serve(now, unix, &asker, request),
            Kind::Hostile => Ok(self.lie(to, &request)),
            Kind::Dead => return,
        };
        if let Err(refusal) = response {
            *self.tally.refused.entry(refusal).or_default() += 1;
        }
        self.tally.messages += 1;
        let at = now + self.latency(from, to);
        self.push(at, Event::Answer { from: to, to: from, ask, response: response.ok() });
        // Identify tells who is connected that we serve.
        if matches!(self.nodes[from].kind, Kind::Honest { serves: true, .. } | Kind::Hostile) {
            let contact = self.nodes[from].contact.clone();
            self.input(to, Input::Candidate(contact));
        } else {
            self.drain(to);
        }
    }

    /// The 20 of its like that are closest.
    fn lie(&self, liar: usize, request: &Request) -> Response {
        let name = match request {
            Request::Ping => return Response::default(),
            Request::FindNode(name) | Request::GetProviders(name) | Request::GetValue(name) => name,
            Request::PutValue(record) => &record.key,
        };
        let target = Key::of(name);
        let mut like: Vec<_> = self.hostile.iter().filter(|other| **other != liar).collect();
        like.sort_by_key(|other| target.distance(self.nodes[**other].contact.node.key()));
        let closer = like.into_iter().take(20).map(|other| self.nodes[*other].contact.clone());
        Response { closer: closer.collect(), record: None }
    }

    fn hears(&self, from: usize, to: usize) -> bool {
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        let serves = match to.kind {
            Kind::Honest { serves, .. } => serves,
            Kind::Hostile => true,
            Kind::Dead => false,
        };
        serves && from.side == to.side
    }

    /// One way: 20 to 150 ms.
    fn latency(&self, one: usize, other: usize) -> Duration {
        let pair = ((one.min(other) as u64) << 32) | one.max(other) as u64;
        Duration::from_micros(20_000 + mix(pair ^ 0x5eed) % 130_000)
    }

    /// Carries out what a node wants.
    fn drain(&mut self, index: usize) {
        let Kind::Honest { dht, .. } = &mut self.nodes[index].kind else { return };
        let outputs: Vec<_> = std::iter::from_fn(|| dht.poll_output()).collect();
        let wake_at = dht.poll_timeout();
        for output in outputs {
            match output {
                Output::Ask(ask) => self.ask(index, ask),
                Output::Found { .. } | Output::Ended(_) | Output::Changed => {}
                Output::Lookup(lookup) => self.count(&lookup),
            }
        }
        let node = &mut self.nodes[index];
        // A wake-up that is on its way may come too early; then it sets the next.
        if let Some(at) = wake_at.filter(|at| node.wake_at.is_none_or(|set| *at < set)) {
            node.wake_at = wake_at;
            self.push(at.max(self.now), Event::Wake(index));
        }
    }

    fn ask(&mut self, from: usize, ask: Ask) {
        self.tally.messages += 1;
        let name = match ask.request {
            Request::Ping => "ping",
            Request::FindNode(_) => "find",
            Request::GetValue(_) => "get",
            Request::PutValue(_) => "put",
            Request::GetProviders(_) => "providers",
        };
        *self.tally.questions.entry(name).or_default() += 1;
        let Some(to) = self.by_id.get(&ask.to.node).copied() else { return };
        if !ask.to.at.iter().any(|target| target.at.ip() == self.nodes[to].ip) {
            return;
        }
        // The connection comes about first.
        let at = self.now + 3 * self.latency(from, to);
        self.push(at, Event::Question { from, to, ask: ask.id, request: ask.request });
    }

    fn count(&mut self, lookup: &Lookup) {
        *self.tally.asked.entry(lookup.kind).or_default() += lookup.asked;
        match lookup.kind {
            "seek" => {
                self.tally.gets += 1;
                self.tally.took.push(lookup.took);
                if lookup.outcome == "found" {
                    self.tally.found += 1;
                    self.tally.hops.push(lookup.hops);
                }
            }
            "publish" => {
                self.tally.puts += 1;
                self.tally.put_took.push(lookup.took);
                self.tally.stored += usize::from(lookup.outcome == "stored");
            }
            _ => self.tally.refreshes += 1,
        }
    }

    fn push(&mut self, at: Instant, event: Event) {
        self.events_made += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[slot] = Some(event);
        self.queue.push(Reverse((at, self.events_made, slot)));
    }
}

impl Tally {
    /// Of a kind of lookup, how many nodes it asks.
    pub(super) fn mean_asked(&self, kind: &str) -> f64 {
        let count = match kind {
            "seek" => self.gets,
            "publish" => self.puts,
            _ => self.refreshes,
        };
        self.asked.get(kind).copied().unwrap_or(0) as f64 / count.max(1) as f64
    }

    /// So large that this part of them is smaller.
    pub(super) fn of<T: Ord + Copy + Default>(of: &[T], part: f64) -> T {
        let mut of = of.to_vec();
        of.sort_unstable();
        of.get((of.len() as f64 * part) as usize).copied().unwrap_or_default()
    }

    pub(super) fn describe(&self) -> String {
        let took = |of: &[Duration]| (Self::of(of, 0.5), Self::of(of, 0.95));
        format!(
            "gets {}/{} asked {:.1} hops {} took {:.0?}; puts {}/{} asked {:.1} took {:.0?}; refreshes {} asked \
             {:.1}; {} messages, {} lost, {:?} {:?}",
            self.found,
            self.gets,
            self.mean_asked("seek"),
            Self::of(&self.hops, 0.5),
            took(&self.took),
            self.stored,
            self.puts,
            self.mean_asked("publish"),
            took(&self.put_took),
            self.refreshes,
            self.mean_asked("refresh"),
            self.messages,
            self.lost,
            self.questions,
            self.refused,
        )
    }
}

impl NodeId {
    /// One that shares its first 40 bits with a place, as if somebody had tried for long.
    pub(super) fn near(target: &Key, seed: u64) -> Self {
        let mut key = *target;
        key.0[5..13].copy_from_slice(&mix(seed).to_be_bytes());
        Self { key, bytes: seed.to_be_bytes().as_slice().into() }
    }
}
