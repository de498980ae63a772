//! The events of a run and what follows from each.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::measure::{Measures, Tally};
use super::odd::{Manner, Odds};
use super::world::{World, heavy_tailed};
use super::{Contact, Happening, MINUTE, Millis, Scheduler, State};
use crate::chance::SplitMix;

/// Word of somebody who has come online takes so long, from and to.
const HEARD: (f64, f64) = (1_000.0, 8_000.0);
/// How often it takes a minute longer.
const HEARD_LATE: f64 = 0.1;
/// Word that somebody has gone takes so long.
const GONE: Millis = MINUTE;
/// A dial to a public address where nobody is takes so long, and one over a relay that knows better.
const NOBODY: (Millis, Millis) = (10_000, 1_000);
/// A message takes so long over a direct session, and over a relayed one, in the mean.
const HOP: (f64, f64) = (90.0, 200.0);
/// Clocks are exchanged so long after a session stands.
const CLOCKS: f64 = 300.0;
/// Bytes of a message, of a note to another session, of a session (handshake and clocks), and of a dial that failed.
const BYTES: (f64, f64, f64, f64) = (700.0, 70.0, 4_000.0, 300.0);
/// Sessions that a person's node takes.
const MAX_SESSIONS: usize = 400;
/// Posts of a run at most.
pub const MAX_POSTS: usize = 2_048;
const WORDS: usize = MAX_POSTS / 64;
/// Who comes and goes visits somebody so often, and leaves after so long.
const VISITS: Millis = 2_000;
const VISIT: Millis = 500;
/// How often sessions are counted.
const SAMPLE: Millis = 10_000;

/// What happens in a run.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    /// Posts are written all the time; those between these are measured.
    pub measured: (Millis, Millis),
    /// When it ends.
    pub end: Millis,
    /// Posts of an online person in an hour.
    pub posts: f64,
    /// What goes wrong, and when.
    pub disaster: Option<(Millis, Disaster)>,
    /// Who does not do what they should.
    pub odds: Option<Odds>,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disaster {
    /// Half of all who are online leave for good.
    HalfLeave,
    /// Nothing passes between the halves of the world until then. Measured are posts to the other half, from then on.
    Partition(Millis),
    /// All pubs are gone for good.
    PubsVanish,
}

impl Script {
    /// Nothing goes wrong.
    pub const fn calm(warm: Millis, measured: Millis, after: Millis) -> Self {
        let end = warm + measured + after;
        Self { measured: (warm, warm + measured), end, posts: 0.5, disaster: None, odds: None }
    }

    /// The same with a disaster: what is posted in the two minutes after it is measured.
    pub const fn after(warm: Millis, disaster: Disaster, after: Millis) -> Self {
        let calm = Self::calm(warm, 2 * MINUTE, after);
        Self { disaster: Some((warm, disaster)), ..calm }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Come(u32),
    Go(u32),
    Tick(u32),
    Heard { node: u32, place: u32, here: bool },
    Dialed { from: u32, to: u32, stay: u32, works: bool },
    Clocks { from: u32, to: u32 },
    Deliver { from: u32, to: u32, post: u32 },
    Post,
    Sample,
    Disaster,
    Heal,
    Visit { node: u32, stay: u32, turn: u32 },
    Leave { from: u32, to: u32 },
}

#[derive(Debug)]
struct Node<S> {
    online: bool,
    gone_for_good: bool,
    /// Which of its stays this is.
    stay: u32,
    since: Millis,
    contacts: Vec<Contact>,
    /// Contacts that dialled and are not in the list from the start.
    strangers: BTreeMap<u32, usize>,
    rules: Option<S>,
    /// Sessions, and whether they are relayed.
    links: BTreeMap<u32, bool>,
    tick: Option<Millis>,
}

#[derive(Debug, Clone, Copy)]
struct Posted {
    author: u32,
    at: Millis,
    measured: bool,
}

/// One run. See the module's header.
#[derive(Debug)]
pub struct Network<'w, S> {
    world: &'w World,
    script: Script,
    chance: SplitMix,
    now: Millis,
    queue: BinaryHeap<Reverse<(Millis, u64, Event)>>,
    serial: u64,
    nodes: Vec<Node<S>>,
    /// Who has an address of each node, and at which place of its list.
    holders: Vec<Vec<(u32, u32)>>,
    posts: Vec<Posted>,
    have: Vec<u64>,
    want: Vec<u64>,
    parted: bool,
    manners: Vec<Manner>,
    tally: Tally,
}

impl<'w, S: Scheduler> Network<'w, S> {
    /// A world at its beginning: everybody is as likely there as always.
    pub fn new(world: &'w World, script: &Script) -> Self {
        let mut holders = vec![Vec::new(); world.len()];
        for (me, contacts) in world.contacts.iter().enumerate() {
            for (place, contact) in contacts.iter().enumerate() {
                holders[contact.id as usize].push((me as u32, place as u32));
            }
        }
        let node = |id: usize| Node {
            online: world.is_pub(id as u32),
            gone_for_good: false,
            stay: 0,
            since: 0,
            contacts: world.contacts.get(id).cloned().unwrap_or_default(),
            strangers: BTreeMap::new(),
            rules: None,
            links: BTreeMap::new(),
            tick: None,
        };
        let mut network = Self {
            world,
            script: *script,
            chance: SplitMix::new(world.seed ^ 0x5eed),
            now: 0,
            queue: BinaryHeap::new(),
            serial: 0,
            nodes: (0..world.len()).map(node).collect(),
            holders,
            posts: Vec::new(),
            have: vec![0; world.len() * WORDS],
            want: vec![0; world.len() * WORDS],
            parted: false,
            manners: manners(world, script),
            tally: Tally::default(),
        };
        for person in 0..world.people as u32 {
            let habit = world.habits[person as usize];
            if network.chance.unit() < habit.share() {
                let soon = (network.chance.unit() * 30_000.0) as Millis;
                network.after(soon, Event::Come(person));
            } else {
                let at = heavy_tailed(habit.away * network.chance.unit(), &mut network.chance);
                network.after(at, Event::Come(person));
            }
        }
        network.after(MINUTE, Event::Post);
        network.after(script.measured.0, Event::Sample);
        if let Some((at, disaster)) = script.disaster {
            network.after(at, Event::Disaster);
            if let Disaster::Partition(until) = disaster {
                network.after(until, Event::Heal);
            }
        }
        network
    }

    /// Runs to the end.
    pub fn run(mut self) -> Measures {
        while let Some(Reverse((at, _, event))) = self.queue.pop() {
            if at > self.script.end {
                break;
            }
            self.now = at;
            self.handle(event);
        }
        self.now = self.script.end;
        for (post, posted) in self.posts.clone().into_iter().enumerate() {
            for person in self.missing(post, posted) {
                self.tally.missed.push((person, self.waited(posted)));
            }
        }
        self.tally.measures()
    }

    fn after(&mut self, delay: Millis, event: Event) {
        self.serial += 1;
        self.queue.push(Reverse((self.now + delay, self.serial, event)));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Come(node) => self.come(node),
            Event::Go(node) => self.go(node),
            Event::Tick(node) => self.tick(node),
            Event::Heard { node, place, here } => self.heard(node, place as usize, here),
            Event::Dialed { from, to, stay, works } => self.dialed(from, to, stay, works),
            Event::Clocks { from, to } => self.exchange(from, to),
            Event::Deliver { from, to, post } => self.deliver(from, to, post as usize),
            Event::Post => self.post(),
            Event::Sample => self.sample(),
            Event::Disaster => self.disaster(),
            Event::Heal => self.parted = false,
            Event::Visit { node, stay, turn } => self.visit(node, stay, turn),
            Event::Leave { from, to } => self.end(from, to, Happening::EndedAtOnce),
        }
    }

    fn come(&mut self, id: u32) {
        let node = &mut self.nodes[id as usize];
        if node.gone_for_good {
            return;
        }
        node.online = true;
        node.stay += 1;
        node.since = self.now;
        for contact in &mut node.contacts {
            contact.present = contact.hub.then_some(self.now);
            contact.state = State::Idle;
        }
        let stay = node.stay;
        if self.manners[id as usize] == Manner::Comer {
            // It does nothing else.
            node.rules = None;
            self.after(VISITS, Event::Visit { node: id, stay, turn: 0 });
        } else {
            node.rules = Some(S::new(self.world, id, &node.contacts, self.now));
        }
        let node = &mut self.nodes[id as usize];
        let known: Vec<u32> = node.contacts.iter().map(|contact| contact.id).collect();
        for (place, other) in known.into_iter().enumerate() {
            if !self.world.is_pub(other) && self.nodes[other as usize].online {
                self.tell(id, place as u32, true);
            }
        }
        for (holder, place) in self.holders[id as usize].clone() {
            if self.nodes[holder as usize].online {
                self.tell(holder, place, true);
            }
        }
        let stay = heavy_tailed(self.world.habits[id as usize].stay, &mut self.chance);
        self.after(stay, Event::Go(id));
        let begin = (self.chance.unit() * 1000.0) as Millis;
        self.wake(id, self.now + begin);
    }

    fn tell(&mut self, node: u32, place: u32, here: bool) {
        let (from, to) = HEARD;
        let late = if self.chance.unit() < HEARD_LATE { MINUTE } else { 0 };
        let soon = (from + (to - from) * self.chance.unit()) as Millis + late;
        self.after(if here { soon } else { GONE }, Event::Heard { node, place, here });
    }

    fn heard(&mut self, id: u32, place: usize, here: bool) {
        let node = &mut self.nodes[id as usize];
        let other = node.contacts[place].id as usize;
        if !node.online || here != self.nodes[other].online {
            return;
        }
        self.nodes[id as usize].contacts[place].present = here.then_some(self.now);
        self.happened(id, place, Happening::Presence);
    }

    fn go(&mut self, id: u32) {
        let node = &mut self.nodes[id as usize];
        if !node.online {
            return;
        }
        for (post, posted) in self.posts.clone().into_iter().enumerate() {
            let waits = posted.measured && self.is_missing(post, posted, id);
            self.tally.left += usize::from(waits);
        }
        let links: Vec<u32> = self.nodes[id as usize].links.keys().copied().collect();
        links.into_iter().for_each(|other| self.hang_up(id, other));
        let world = self.world;
        let node = &mut self.nodes[id as usize];
        node.online = false;
        node.stay += 1;
        node.rules = None;
        node.tick = None;
        node.strangers.clear();
        node.contacts.truncate(world.contacts.get(id as usize).map_or(0, Vec::len));
        for (holder, place) in self.holders[id as usize].clone() {
            if self.nodes[holder as usize].online {
                self.tell(holder, place, false);
            }
        }
        if !world.is_pub(id) {
            let away = heavy_tailed(world.habits[id as usize].away, &mut self.chance);
            self.after(away, Event::Come(id));
        }
    }

    fn wake(&mut self, id: u32, at: Millis) {
        let at = at.max(self.now + 1);
        let node = &mut self.nodes[id as usize];
        if node.rules.is_some() && node.tick.is_none_or(|tick| at < tick) {
            node.tick = Some(at);
            self.after(at - self.now, Event::Tick(id));
        }
    }

    fn happened(&mut self, id: u32, place: usize, what: Happening) {
        let node = &mut self.nodes[id as usize];
        let Some(rules) = &mut node.rules else { return };
        if let Some(at) = rules.happened(place, &node.contacts[place], what, self.now) {
            self.wake(id, at);
        }
    }

    fn tick(&mut self, id: u32) {
        let node = &mut self.nodes[id as usize];
        if node.tick != Some(self.now) {
            return;
        }
        node.tick = None;
        let Some(rules) = &mut node.rules else { return };
        let decision = rules.decide(&node.contacts, self.now, &mut self.chance);
        for place in decision.drop {
            let other = self.nodes[id as usize].contacts[place].id;
            self.hang_up(id, other);
        }
        for place in decision.dial {
            self.dial(id, place);
        }
        if let Some(at) = decision.again {
            self.wake(id, at);
        }
    }

    fn dial(&mut self, id: u32, place: usize) {
        let node = &mut self.nodes[id as usize];
        let contact = &mut node.contacts[place];
        if contact.is_busy() || !contact.dialable {
            return;
        }
        contact.state = State::Dialing;
        contact.changed = Some(self.now);
        let (to, stay) = (contact.id, node.stay);
        if self.is_counting() && self.manners[id as usize].is_honest() {
            let (all, useless) = &mut self.tally.honest.1;
            *all += 1;
            *useless += usize::from(self.manners[to as usize].is_useless());
        }
        let works = self.can_reach(id, to);
        let (relayed, time) = self.world.places[id as usize].meet(self.world.places[to as usize]);
        let time = match (works, relayed || time > 200) {
            (true, _) => (time as f64 * (0.8 + 0.7 * self.chance.unit())) as Millis,
            (false, false) => NOBODY.0,
            (false, true) => NOBODY.1,
        };
        self.after(time, Event::Dialed { from: id, to, stay, works });
        self.happened(id, place, Happening::Dialing);
    }

    fn can_reach(&self, from: u32, to: u32) -> bool {
        let other = &self.nodes[to as usize];
        let has_room = self.world.is_pub(to) || other.links.len() < MAX_SESSIONS;
        other.online && has_room && !(self.parted && self.side(from) != self.side(to))
    }

    /// Which half of the world it is in.
    fn side(&self, id: u32) -> bool {
        let (place, all) = match self.world.is_pub(id) {
            true => (id as usize - self.world.people, self.world.pubs),
            false => (id as usize, self.world.people),
        };
        place * 2 < all
    }

    fn dialed(&mut self, from: u32, to: u32, stay: u32, works: bool) {
        self.tally.trace(u64::from(from) << 32 | u64::from(to));
        if self.nodes[from as usize].stay != stay {
            return;
        }
        let Some(place) = self.place(from, to) else { return };
        if self.nodes[from as usize].links.contains_key(&to) {
            // It dialled us meanwhile.
            return;
        }
        if !works || !self.can_reach(from, to) {
            let contact = &mut self.nodes[from as usize].contacts[place];
            contact.state = State::Idle;
            contact.changed = Some(self.now);
            contact.failures += 1;
            self.count(BYTES.3, false);
            self.tally.failed += usize::from(self.is_counting());
            self.happened(from, place, Happening::Failed);
            return;
        }
        let relayed = self.world.places[from as usize].meet(self.world.places[to as usize]).0;
        self.tally.opened += usize::from(self.is_counting());
        self.count(BYTES.2, relayed);
        self.link(from, to, relayed, true);
        self.link(to, from, relayed, false);
        let soon = (CLOCKS * (0.5 + self.chance.unit())) as Millis;
        self.after(soon, Event::Clocks { from, to });
        if [from, to].iter().any(|id| self.manners[*id as usize] == Manner::Comer) {
            self.after(VISIT, Event::Leave { from, to });
        }
        for (who, room) in [(from, to), (to, from)] {
            if self.manners[room as usize] == Manner::Room {
                self.attend(who, room);
            }
        }
    }

    /// Somebody who only comes and goes looks in on the next one.
    fn visit(&mut self, id: u32, stay: u32, turn: u32) {
        let node = &self.nodes[id as usize];
        if !node.online || node.stay != stay || node.contacts.is_empty() {
            return;
        }
        self.dial(id, turn as usize % node.contacts.len());
        self.after(VISITS, Event::Visit { node: id, stay, turn: turn.wrapping_add(1) });
    }

    /// Whoever comes into a room is told to those who are there, and they to it.
    fn attend(&mut self, who: u32, room: u32) {
        let there: Vec<u32> = self.nodes[room as usize].links.keys().copied().collect();
        for other in there {
            for (me, known) in [(who, other), (other, who)] {
                let listed = self.world.contacts.get(me as usize);
                let place = listed.and_then(|all| all.binary_search_by_key(&known, |one| one.id).ok());
                if let Some(place) = place {
                    self.heard(me, place, true);
                }
            }
        }
    }

    fn link(&mut self, me: u32, other: u32, relayed: bool, outbound: bool) {
        self.nodes[me as usize].links.insert(other, relayed);
        if self.world.is_pub(me) {
            return;
        }
        let place = match self.place(me, other) {
            Some(place) => place,
            None => {
                let node = &mut self.nodes[me as usize];
                node.contacts.push(self.world.contact(me, other, false));
                node.strangers.insert(other, node.contacts.len() - 1);
                node.contacts.len() - 1
            }
        };
        let contact = &mut self.nodes[me as usize].contacts[place];
        contact.state = State::Connected { outbound };
        contact.changed = Some(self.now);
        contact.failures = 0;
        contact.worked |= outbound;
        contact.pinged |= outbound;
        self.happened(me, place, Happening::Connected);
    }

    fn hang_up(&mut self, a: u32, b: u32) {
        self.end(a, b, Happening::Ended);
    }

    fn end(&mut self, a: u32, b: u32, how: Happening) {
        for (me, other) in [(a, b), (b, a)] {
            if self.nodes[me as usize].links.remove(&other).is_none() {
                continue;
            }
            let Some(place) = self.place(me, other) else { continue };
            let contact = &mut self.nodes[me as usize].contacts[place];
            contact.state = State::Idle;
            contact.changed = Some(self.now);
            self.happened(me, place, how);
        }
    }

    /// Where `other` stands in the list of `me`.
    fn place(&self, me: u32, other: u32) -> Option<usize> {
        let listed = self.world.contacts.get(me as usize)?;
        let found = listed.binary_search_by_key(&other, |contact| contact.id).ok();
        found.or_else(|| self.nodes[me as usize].strangers.get(&other).copied())
    }

    /// All that one has and the other wants is sent.
    fn exchange(&mut self, a: u32, b: u32) {
        for (from, to) in [(a, b), (b, a)] {
            if !self.nodes[from as usize].links.contains_key(&to) {
                return;
            }
            if self.manners[from as usize] == Manner::Liar
                && let Some(place) = self.place(to, from)
            {
                self.happened(to, place, Happening::Owes);
            }
            for word in 0..WORDS {
                let (theirs, ours) = (from as usize * WORDS + word, to as usize * WORDS + word);
                let mut bits = self.have[theirs] & self.want[ours] & !self.have[ours];
                while bits != 0 {
                    self.send(from, to, word * 64 + bits.trailing_zeros() as usize);
                    bits &= bits - 1;
                }
            }
        }
    }

    fn send(&mut self, from: u32, to: u32, post: usize) {
        let relayed = self.nodes[from as usize].links.get(&to).copied().unwrap_or(false);
        let mean = if relayed { HOP.1 } else { HOP.0 };
        let time = (mean * (0.5 + self.chance.unit())) as Millis;
        self.after(time, Event::Deliver { from, to, post: post as u32 });
    }

    fn deliver(&mut self, from: u32, to: u32, post: usize) {
        let Some(&relayed) = self.nodes[to as usize].links.get(&from) else { return };
        if self.has(to, post) {
            return;
        }
        self.tally.trace(u64::from(to) << 32 | post as u64);
        let posted = self.posts[post];
        if posted.measured && self.is_missing(post, posted, to) {
            let waited = self.waited(posted);
            self.tally.reached.push((to, waited));
        }
        self.have[to as usize * WORDS + post / 64] |= 1 << (post % 64);
        self.tally.delivered += usize::from(self.is_counting());
        self.count(BYTES.0 + BYTES.1 * self.nodes[to as usize].links.len() as f64, relayed);
        if let Some(place) = self.place(to, from) {
            self.happened(to, place, Happening::News);
        }
        self.spread(to, post, Some(from));
    }

    fn spread(&mut self, from: u32, post: usize, except: Option<u32>) {
        let bit = |all: &[u64], id: u32| all[id as usize * WORDS + post / 64] >> (post % 64) & 1 == 1;
        let links = self.nodes[from as usize].links.keys().copied();
        let wants =
            |other: &u32| bit(&self.want, *other) && !bit(&self.have, *other) && Some(*other) != except;
        let to: Vec<u32> = links.filter(wants).collect();
        to.into_iter().for_each(|other| self.send(from, other, post));
    }

    fn has(&self, id: u32, post: usize) -> bool {
        self.have[id as usize * WORDS + post / 64] >> (post % 64) & 1 == 1
    }

    /// Somebody who is online writes a post, which takes a minute.
    fn post(&mut self) {
        let online = (0..self.world.people as u32).filter(|id| self.nodes[*id as usize].online);
        let online: Vec<u32> = online.collect();
        let rate = self.script.posts * online.len() as f64 / (60.0 * MINUTE as f64);
        // Larger worlds write as much as fits.
        let most = MAX_POSTS as f64 / self.script.end as f64;
        let pause = (1.0 / rate.min(most).max(1e-9)) * -(1.0 - self.chance.unit()).ln();
        self.after(pause as Millis + 1, Event::Post);
        if online.is_empty() || self.posts.len() >= MAX_POSTS {
            return;
        }
        let author = online[self.chance.below(online.len())];
        if self.nodes[author as usize].since + MINUTE > self.now || !self.manners[author as usize].is_honest()
        {
            return;
        }
        let post = self.posts.len();
        let (from, to) = self.script.measured;
        self.posts.push(Posted { author, at: self.now, measured: (from..to).contains(&self.now) });
        let keeps = |id: &u32| self.manners[*id as usize].is_honest();
        for id in self.world.replicators(author).into_iter().filter(keeps) {
            self.want[id as usize * WORDS + post / 64] |= 1 << (post % 64);
        }
        self.have[author as usize * WORDS + post / 64] |= 1 << (post % 64);
        self.spread(author, post, None);
    }

    /// Whether somebody is online since the post, follows its author, has not got it, and is one of those who are measured.
    fn is_missing(&self, post: usize, posted: Posted, id: u32) -> bool {
        let node = &self.nodes[id as usize];
        let counts = !matches!(self.script.disaster, Some((_, Disaster::Partition(_))))
            || self.side(id) != self.side(posted.author);
        let follows = !self.world.is_pub(id) && self.world.graph.is_following(id, posted.author);
        let honest = self.manners[id as usize].is_honest();
        node.online && node.since <= posted.at && counts && follows && honest && !self.has(id, post)
    }

    fn missing(&self, post: usize, posted: Posted) -> Vec<u32> {
        let followers = self.world.graph.followers[posted.author as usize].iter().copied();
        followers.filter(|id| posted.measured && self.is_missing(post, posted, *id)).collect()
    }

    /// How long somebody has waited for a post, or for the halves to be one again.
    fn waited(&self, posted: Posted) -> Millis {
        let from = match self.script.disaster {
            Some((_, Disaster::Partition(until))) => until.max(posted.at),
            Some((_, Disaster::HalfLeave | Disaster::PubsVanish)) | None => posted.at,
        };
        self.now.saturating_sub(from)
    }

    fn is_counting(&self) -> bool {
        self.now >= self.script.measured.0
    }

    fn count(&mut self, bytes: f64, relayed: bool) {
        if self.is_counting() {
            self.tally.bytes += bytes;
            self.tally.relay_bytes += if relayed { bytes } else { 0.0 };
        }
    }

    fn sample(&mut self) {
        let people = self.nodes[..self.world.people].iter().enumerate().filter(|(_, node)| node.online);
        for (id, node) in people {
            if self.manners[id].is_honest() {
                let chosen = |one: &&Contact| one.state == State::Connected { outbound: true };
                let (all, of_no_use) = &mut self.tally.honest.0;
                for one in node.contacts.iter().filter(chosen) {
                    *all += 1;
                    *of_no_use += usize::from(self.manners[one.id as usize].is_useless());
                }
            }
            self.tally.samples = (self.tally.samples.0 + node.links.len() as f64, self.tally.samples.1 + 1);
            self.tally.most = self.tally.most.max(node.links.len());
        }
        self.after(SAMPLE, Event::Sample);
    }

    fn disaster(&mut self) {
        match self.script.disaster.map(|(_, disaster)| disaster) {
            None => {}
            Some(Disaster::Partition(_)) => {
                self.parted = true;
                for id in 0..self.world.len() as u32 {
                    let across = |other: &&u32| self.side(id) != self.side(**other);
                    let cut: Vec<u32> =
                        self.nodes[id as usize].links.keys().filter(across).copied().collect();
                    cut.into_iter().for_each(|other| self.hang_up(id, other));
                }
            }
            Some(Disaster::HalfLeave) => {
                for id in 0..self.world.people as u32 {
                    if self.nodes[id as usize].online && self.chance.unit() < 0.5 {
                        self.nodes[id as usize].gone_for_good = true;
                        self.go(id);
                    }
                }
            }
            Some(Disaster::PubsVanish) => {
                for id in self.world.people..self.world.len() {
                    self.go(id as u32);
                }
            }
        }
    }
}

/// How everybody behaves.
fn manners(world: &World, script: &Script) -> Vec<Manner> {
    let Some(odds) = &script.odds else { return vec![Manner::Honest; world.len()] };
    let pubs = (0..world.pubs).map(|one| if one < odds.rooms { Manner::Room } else { Manner::Honest });
    let people = (0..world.people as u32).map(|id| odds.manner(world.seed, id));
    people.chain(pubs).collect()
}
