//! The world of the simulation: people, their places, how they come and go, and pubs.

use super::graph::FollowGraph;
use super::{Contact, MINUTE, Millis, State};
use crate::chance::SplitMix;

/// People per pub.
const PEOPLE_PER_PUB: usize = 250;
/// How many people are members of no pub, and of at most one; the others of two.
const MEMBERSHIPS: (f64, f64) = (0.5, 0.9);
/// Contacts that a person has an address of, pubs not counted; whoever follows more people has that of some.
const MAX_CONTACTS: usize = 60;
/// How many people leave their machine on, and for how much of the time; and the others.
const DESKTOPS: f64 = 0.3;

/// Where somebody is, as far as it decides who can reach whom directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A public address, or a router that lets everybody in.
    Open,
    /// A router that maps alike for all, as most do.
    Cone,
    /// A router that maps differently for each.
    Symmetric,
    /// A network without UDP.
    UdpBlocked,
}

impl Place {
    /// An assumption: nobody knows.
    const SHARES: [(f64, Self); 4] =
        [(0.35, Self::Open), (0.80, Self::Cone), (0.95, Self::Symmetric), (1.0, Self::UdpBlocked)];

    fn random(chance: &mut SplitMix) -> Self {
        let at = chance.unit();
        Self::SHARES.iter().find(|(until, _)| at < *until).map_or(Self::Open, |(_, place)| *place)
    }

    /// Whether the two only ever meet over a relay, and how long a dial takes until the session stands: the laboratory's matrix.
    pub fn meet(self, other: Self) -> (bool, Millis) {
        match (self, other) {
            (_, Self::Open) => (false, 120),
            (Self::Open, _) | (Self::Cone | Self::UdpBlocked, Self::Cone | Self::UdpBlocked) => (false, 332),
            (Self::Symmetric, _) | (_, Self::Symmetric) => (true, 332),
        }
    }
}

/// When somebody is there.
#[derive(Debug, Clone, Copy)]
pub struct Habit {
    /// How long they stay, in the mean.
    pub stay: f64,
    /// How long they are away, in the mean.
    pub away: f64,
}

/// Everything that stays the same.
#[derive(Debug)]
pub struct World {
    /// Who follows whom, among people.
    pub graph: FollowGraph,
    /// People; pubs come behind them.
    pub people: usize,
    /// Pubs.
    pub pubs: usize,
    /// Where each node is.
    pub places: Vec<Place>,
    /// When each person is there.
    pub habits: Vec<Habit>,
    /// The pubs of each person.
    pub memberships: Vec<Vec<u32>>,
    /// The members of each pub.
    pub members: Vec<Vec<u32>>,
    /// Whom each person has an address of.
    pub contacts: Vec<Vec<Contact>>,
    /// The seed of everything.
    pub seed: u64,
}

impl World {
    /// A world of so many people.
    pub fn generate(people: usize, seed: u64) -> Self {
        let mut chance = SplitMix::new(seed);
        let graph = FollowGraph::generate(people, &mut chance);
        let pubs = (people / PEOPLE_PER_PUB).max(2);
        let mut places: Vec<_> = (0..people).map(|_| Place::random(&mut chance)).collect();
        places.extend(std::iter::repeat_n(Place::Open, pubs));
        let habits = (0..people).map(|_| habit(&mut chance)).collect();
        let mut members = vec![Vec::new(); pubs];
        let mut memberships = Vec::with_capacity(people);
        for person in 0..people as u32 {
            let share = chance.unit();
            let wanted = usize::from(share >= MEMBERSHIPS.0) + usize::from(share >= MEMBERSHIPS.1);
            let mut mine = Vec::new();
            while mine.len() < wanted {
                // Neighbours share a pub, and another one is anywhere.
                let near = person as usize / PEOPLE_PER_PUB % pubs;
                let one = if mine.is_empty() { near } else { chance.below(pubs) } as u32;
                if !mine.contains(&one) {
                    mine.push(one);
                }
            }
            mine.iter().for_each(|one| members[*one as usize].push(person));
            memberships.push(mine);
        }
        let mut world =
            Self { graph, people, pubs, places, habits, memberships, members, contacts: Vec::new(), seed };
        world.contacts = (0..people as u32).map(|me| world.contacts_of(me, &mut chance)).collect();
        world
    }

    fn contacts_of(&self, me: u32, chance: &mut SplitMix) -> Vec<Contact> {
        let mut known = self.graph.follows[me as usize].clone();
        chance.shuffle(&mut known);
        known.truncate(MAX_CONTACTS);
        let pubs = self.memberships[me as usize].iter().map(|one| self.people as u32 + one);
        let mut contacts: Vec<_> =
            known.into_iter().chain(pubs).map(|id| self.contact(me, id, true)).collect();
        contacts.sort_by_key(|contact| contact.id);
        contacts
    }

    /// What `me` knows of another node.
    pub fn contact(&self, me: u32, id: u32, dialable: bool) -> Contact {
        let hub = self.is_pub(id);
        let follows = hub || self.graph.is_following(me, id);
        Contact {
            id,
            hops: if follows { 1 } else { 2 },
            hub,
            mutual: hub || self.graph.is_following(id, me),
            dialable,
            relayed: self.places[me as usize].meet(self.places[id as usize]).0,
            present: hub.then_some(0),
            state: State::Idle,
            changed: None,
            failures: 0,
            worked: false,
            pinged: false,
        }
    }

    /// Whether it is a pub.
    pub const fn is_pub(&self, id: u32) -> bool {
        id as usize >= self.people
    }

    /// All nodes.
    pub const fn len(&self) -> usize {
        self.people + self.pubs
    }

    /// Whether there is nobody.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `carrier` replicates a feed because it follows it, as anybody can see in the graph.
    pub fn follows_or_is(&self, carrier: u32, feed: u32) -> bool {
        if self.is_pub(carrier) {
            return self.members[carrier as usize - self.people].binary_search(&feed).is_ok();
        }
        carrier == feed || self.graph.is_following(carrier, feed)
    }

    /// Who replicates the feed of a person: within two hops, as pubs do with their members and whom those follow.
    pub fn replicators(&self, author: u32) -> Vec<u32> {
        let near = &self.graph.followers[author as usize];
        let mut all: Vec<u32> = vec![author];
        let pubs = |person: u32| self.memberships[person as usize].iter().map(|one| self.people as u32 + one);
        all.extend(pubs(author));
        for follower in near {
            all.push(*follower);
            all.extend(pubs(*follower));
            all.extend(&self.graph.followers[*follower as usize]);
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

fn habit(chance: &mut SplitMix) -> Habit {
    let minutes = |n: f64| n * MINUTE as f64;
    if chance.unit() < DESKTOPS {
        Habit { stay: minutes(240.0), away: minutes(120.0) }
    } else {
        Habit { stay: minutes(15.0), away: minutes(60.0) }
    }
}

impl Habit {
    /// How much of the time they are there.
    pub fn share(&self) -> f64 {
        self.stay / (self.stay + self.away)
    }
}

/// A length of time around `mean` with a heavy tail (log-normal, sigma 1).
pub fn heavy_tailed(mean: f64, chance: &mut SplitMix) -> Millis {
    let normal = (-2.0 * (1.0 - chance.unit()).ln()).sqrt() * (std::f64::consts::TAU * chance.unit()).cos();
    (mean * (normal - 0.5).exp()).max(1000.0) as Millis
}
