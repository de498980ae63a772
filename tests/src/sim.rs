//! A discrete-event simulation of who connects to whom, and how soon posts arrive: the node's own scheduler
//! ([`ours`], which calls `hawsepipe::scheduler::plan`) against the rules of ssb-conn 6 ([`conn`]) and of ssb-gossip 1.1
//! ([`gossip`]), in the same world.
//!
//! What the world is ([`world`]): a follow graph with a power law and clusters; people who come and go; pubs who are always there; places
//! behind NATs, with the outcomes and times that the laboratory measured for each pair (`matrix`). What is given to everybody
//! alike and for free: an address for each friend, word of who is online ([`network::Network`] says how soon), and
//! relays. Pubs dial nobody and hang up on nobody, whatever the rules. So only the choice of connections differs.
//!
//! Messages flood over sessions between those who replicate their author (two hops), as EBT does: each is sent to a node
//! once, and the other sessions cost a note. Everything follows from the seed.
//!
//! A script may have [`odd`] people, too: liars, those who come and leave in a loop, and those who never read; and rooms.

pub mod conn;
pub mod gossip;
pub mod graph;
pub mod measure;
pub mod network;
pub mod odd;
pub mod ours;
pub mod world;

use crate::sim::measure::Measures;
use crate::sim::network::{Network, Script};
use crate::sim::world::World;

/// A moment or a length of time, in milliseconds of the simulation.
pub type Millis = u64;

/// A minute.
pub const MINUTE: Millis = 60_000;

/// Whose rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// The node's, as it comes.
    Ours,
    /// The node's, with as many slots as ssb-conn has.
    Sparse,
    /// ssb-conn 6's.
    Conn,
    /// ssb-gossip 1.1's.
    Gossip,
}

impl Rules {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ours, Self::Sparse, Self::Conn, Self::Gossip];

    /// A name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "Hawsepipe",
            Self::Sparse => "Hawsepipe, slots as ssb-conn",
            Self::Conn => "ssb-conn 6",
            Self::Gossip => "ssb-gossip 1.1",
        }
    }
}

/// Runs one script in the world under some rules.
pub fn run(world: &World, rules: Rules, script: &Script) -> Measures {
    match rules {
        Rules::Ours => Network::<ours::Ours<false>>::new(world, script).run(),
        Rules::Sparse => Network::<ours::Ours<true>>::new(world, script).run(),
        Rules::Conn => Network::<conn::Conn>::new(world, script).run(),
        Rules::Gossip => Network::<gossip::Gossip>::new(world, script).run(),
    }
}

/// What a node knows of another one, kept by the simulation for every rule alike.
#[derive(Debug, Clone)]
pub struct Contact {
    /// Who.
    pub id: u32,
    /// How far away in the graph.
    pub hops: u32,
    /// A pub.
    pub hub: bool,
    /// It follows us.
    pub mutual: bool,
    /// Whether it can be dialled: whoever only dialled us cannot.
    pub dialable: bool,
    /// No direct path is possible.
    pub relayed: bool,
    /// When it was last heard to be online, while that holds.
    pub present: Option<Millis>,
    /// What there is of a session.
    pub state: State,
    /// When `state` last changed.
    pub changed: Option<Millis>,
    /// Dials that failed since the last that did not.
    pub failures: u32,
    /// A dial has succeeded some time.
    pub worked: bool,
    /// It was pinged some time, that is, we dialled it and it answered.
    pub pinged: bool,
}

/// Whether there is a session with a contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No.
    Idle,
    /// We are dialling it.
    Dialing,
    /// Yes, and whether we dialled.
    Connected {
        /// We did.
        outbound: bool,
    },
}

impl Contact {
    /// Whether there is a session.
    pub const fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected { .. })
    }

    /// Whether there is a session or a dial under way.
    pub fn is_busy(&self) -> bool {
        self.state != State::Idle
    }
}

/// What a node does.
#[derive(Debug, Default)]
pub struct Decision {
    /// Contacts to dial, by their place in the list.
    pub dial: Vec<usize>,
    /// Contacts to hang up on.
    pub drop: Vec<usize>,
    /// When it decides again, if nothing happens before.
    pub again: Option<Millis>,
}

/// What happens to a contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// It is heard to be online, or no longer.
    Presence,
    /// A dial failed.
    Failed,
    /// A session stands.
    Connected,
    /// A session ended.
    Ended,
    /// A session ended as soon as it had begun.
    EndedAtOnce,
    /// A contact's clock says that it has much that we want, and we have asked for it.
    Owes,
    /// A message came from it.
    News,
    /// We are dialling it.
    Dialing,
}

/// Rules by which one node chooses its connections.
pub trait Scheduler: Sized {
    /// Those of `me`, who has just come online.
    fn new(world: &World, me: u32, contacts: &[Contact], now: Millis) -> Self;

    /// Something happened to the contact at `place`; tells when it wants to decide because of that.
    fn happened(&mut self, place: usize, contact: &Contact, what: Happening, now: Millis) -> Option<Millis>;

    /// What to do now.
    fn decide(&mut self, contacts: &[Contact], now: Millis, chance: &mut crate::chance::SplitMix)
    -> Decision;
}
