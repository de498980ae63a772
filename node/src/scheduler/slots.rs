//! The groups that peers compete in, and how many sessions each has room for.

use std::time::{Duration, Instant};

use super::Policy;
use super::score::{self, Terms, View};
use super::snapshot::{Candidate, Kind, Link, Relation, Snapshot};

/// A session is not dropped for a better one before it had this time.
pub const DWELL: Duration = Duration::from_secs(60);
/// A peer that is better by less than this does not take the place of one that is there.
pub const HYSTERESIS: f64 = 12.0;
/// A peer that owes us messages and sends none for this long has stalled.
pub const STALL: Duration = Duration::from_secs(120);

/// Sessions that the scheduler looks for, by group. Sessions that the other side dialled count as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// With people in reach of the graph, best first.
    pub friends: usize,
    /// More with people in reach of the graph, whoever has waited longest and carries what nobody else does.
    pub explore: usize,
    /// With peers on our own network.
    pub lan: usize,
    /// With pubs and rooms.
    pub hubs: usize,
    /// How many of those for people are left to whoever dials us.
    pub inbound_reserve: usize,
}

impl Default for Slots {
    fn default() -> Self {
        Self { friends: 6, explore: 2, lan: 8, hubs: 4, inbound_reserve: 1 }
    }
}

/// Whom a peer competes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Somebody asked for them.
    Asked,
    /// On our own network.
    Lan,
    /// Pubs and rooms.
    Hubs,
    /// People in reach of the graph.
    People,
}

impl Group {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Asked, Self::Lan, Self::Hubs, Self::People];

    /// A name for people and labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Lan => "lan",
            Self::Hubs => "hubs",
            Self::People => "people",
        }
    }

    /// Where the peer belongs; `None` is not to be dialled, by [`why_not`].
    pub fn of(peer: &Candidate, policy: &Policy) -> Option<Self> {
        if peer.relation == Relation::Blocked {
            return None;
        }
        if peer.asked_for {
            return Some(if peer.kind == Kind::Hub { Self::Hubs } else { Self::Asked });
        }
        let in_reach = matches!(peer.relation, Relation::Hops(hops) if hops <= policy.hops);
        let group = match peer.kind {
            Kind::Hub if in_reach || policy.strange_pubs => Self::Hubs,
            Kind::Hub => return None,
            Kind::Person if peer.is_lan() && (in_reach || policy.lan_strangers) => Self::Lan,
            Kind::Person if in_reach => Self::People,
            Kind::Person => return None,
        };
        policy.autostart.then_some(group)
    }

    /// Sessions it has room for.
    pub const fn capacity(self, policy: &Policy) -> usize {
        match self {
            Self::Asked => policy.max_asked,
            Self::Lan => policy.slots.lan,
            Self::Hubs => policy.slots.hubs,
            Self::People => policy.slots.friends + policy.slots.explore,
        }
    }
}

/// Why a peer has no group, in words.
pub const fn why_not(peer: &Candidate, policy: &Policy) -> &'static str {
    match (peer.relation, peer.kind) {
        (Relation::Blocked, _) => "you block it",
        (Relation::Hops(hops), _) if hops > policy.hops => "it is further away than feeds are replicated",
        (_, Kind::Hub) => "it is a pub of strangers, and conn.dialPubs is off",
        (Relation::Stranger, Kind::Person) => "it is a stranger that nobody asked for",
        (Relation::Hops(_), Kind::Person) => "the scheduler is stopped",
    }
}

/// How full a group is.
#[derive(Clone, Debug)]
pub struct Occupancy<'a> {
    /// Which.
    pub group: Group,
    /// Sessions it has room for.
    pub capacity: usize,
    /// Peers with a session.
    pub sessions: Vec<&'a Candidate>,
    /// How many of them dialled us.
    pub inbound: usize,
    /// Dials under way.
    pub dialing: usize,
    /// How many of those may be expected to succeed.
    pub expected: f64,
}

/// What a group may do about its slots now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Room {
    /// So many sessions more.
    Free(f64),
    /// A session that has had its time may be replaced by a peer that is worth more than this.
    Challenge(f64),
    /// Nothing, before then if at all.
    Full(Option<Instant>),
}

impl<'a> Occupancy<'a> {
    /// Of all groups.
    pub fn all(snapshot: &'a Snapshot, policy: &Policy, now: Instant) -> [Self; 4] {
        let mut all = Group::ALL.map(|group| Self {
            group,
            capacity: group.capacity(policy),
            sessions: Vec::new(),
            inbound: 0,
            dialing: 0,
            expected: 0.0,
        });
        for peer in snapshot.peers.iter().filter(|peer| peer.link != Link::None) {
            let Some(group) = Group::of(peer, policy) else { continue };
            let Some(here) = all.iter_mut().find(|occupancy| occupancy.group == group) else { continue };
            match peer.link {
                Link::None => {}
                Link::Dialing => {
                    here.dialing += 1;
                    let under_way = peer.paths.iter().filter(|path| path.dialing);
                    here.expected += under_way.map(|path| score::chance(path, now)).fold(0.1, f64::max);
                }
                Link::Outbound => here.sessions.push(peer),
                Link::Inbound => {
                    here.sessions.push(peer);
                    here.inbound += 1;
                }
            }
        }
        all
    }

    /// Sessions that we dialled.
    pub fn outbound(&self) -> usize {
        self.sessions.len() - self.inbound
    }

    /// What may be done now.
    pub fn room(&self, view: &View, policy: &Policy, now: Instant) -> Room {
        let reserve = if self.group == Group::People { policy.slots.inbound_reserve } else { 0 };
        let open = self.capacity.saturating_sub(reserve.saturating_sub(self.inbound));
        let free = open as f64 - self.sessions.len() as f64 - self.expected;
        if free > 0.0 && self.sessions.len() < open {
            return Room::Free(free);
        }
        // Whoever is dialled by many still looks for what it lacks itself.
        let own = self.outbound() + self.dialing;
        if self.group == Group::People && self.capacity > 0 && own < policy.slots.explore {
            return Room::Free((policy.slots.explore - own) as f64);
        }
        if self.dialing > 0 {
            return Room::Full(None);
        }
        match self.weakest(view, now) {
            Some((_, terms)) => Room::Challenge(terms.total() + HYSTERESIS),
            None => Room::Full(self.sessions.iter().filter_map(|peer| rotatable_from(peer)).min()),
        }
    }

    /// The session that is worth least, of those that we dialled and that have had their time.
    pub fn weakest(&self, view: &View, now: Instant) -> Option<(&'a Candidate, Terms)> {
        let had_their_time =
            self.sessions.iter().filter(|peer| rotatable_from(peer).is_some_and(|from| from <= now));
        let worth = had_their_time.map(|peer| (*peer, score::keep(view, peer)));
        worth.min_by(|(a, x), (b, y)| x.total().total_cmp(&y.total()).then(a.key.cmp(&b.key)))
    }

    /// How many sessions are too many. What others dialled is theirs to end.
    pub fn excess(&self, policy: &Policy) -> usize {
        let own = if self.group == Group::People { policy.slots.explore } else { 0 };
        self.sessions.len().saturating_sub(self.capacity.max(self.inbound + own)).min(self.outbound())
    }
}

/// From when on the session may be replaced by a better one; never what a person asked for.
fn rotatable_from(peer: &Candidate) -> Option<Instant> {
    let session = peer.session.filter(|_| peer.link == Link::Outbound && !peer.asked_for)?;
    Some(session.since + DWELL)
}
