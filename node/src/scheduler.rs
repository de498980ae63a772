//! Whom to dial and whom to drop, as a pure function: [`plan`] looks at a [`Snapshot`] and a [`Policy`]
//! and says what to do now and when to look again. It reads no clock and draws no random number (jitter
//! is a hash), so the same snapshot always gives the same plan. [`why`] says in words what it thinks of one peer.
//!
//! The rules:
//! 1. Never a blocked peer, ourselves, or one that we have a session with or are dialling (but see 6). Strangers only
//!    if somebody asked for them, on our own network ([`Policy::lan_strangers`]), or pubs if [`Policy::strange_pubs`].
//! 2. Each peer competes in one group ([`Group`]), and each group has so many slots ([`Slots`]). Sessions that others
//!    dialled count; some slots are left to them.
//! 3. Not before its back-off has passed ([`backoff`]), counted per path and per class of paths.
//! 4. The best first, by points ([`score`]). Whoever is dialled counts as covering the feeds that it carries, so that the
//!    next one is chosen for others. So many are dialled that as many as are wanted may be expected to succeed.
//! 5. A full group changes only for a reason: a session that had its time ([`slots::DWELL`]) makes room for a peer that is
//!    worth more by [`slots::HYSTERESIS`]. That one is dialled first, and the session dropped when it has come. As a session without
//!    news is worth ever less and whoever waits ever more, everybody's turn comes.
//! 6. A peer that is being dialled is dialled over a relay, or another relay, as well if that takes longer
//!    than usual ([`PATIENCE`], [`LAN_PATIENCE`], [`RELAY_PATIENCE`]): the first session wins, and a direct
//!    one that comes later takes over. At most one direct dial and three relayed ones are under way.
//! 7. A session is dropped when its peer is blocked, or owes us messages and sends none ([`slots::STALL`]).
//!
//! What a peer says of itself can only make it be dialled sooner, within the bounds of one term and not before its back-off: a clock
//! that promises what never comes is worth less with each fault.

pub mod backoff;
mod paths;
pub mod score;
pub mod slots;
pub mod snapshot;
pub mod why;

use std::time::{Duration, Instant};

use hawsepipe_overlay::address::Endpoint;
use hawsepipe_overlay::keys::PublicKey;

pub use paths::{LAN_PATIENCE, PATIENCE, RELAY_PATIENCE};
pub use score::Terms;
pub use slots::{Group, Slots};
pub use snapshot::{
    Candidate, Class, Decaying, Dials, Feeds, Kind, Link, PathState, Relation, Running, Snapshot,
};

use paths::Choice;
use score::View;
use slots::{Occupancy, Room};

/// How long a plan holds while nothing happens: those who wait come to be worth more.
pub const REVIEW: Duration = Duration::from_secs(30);

/// A plan is made again no sooner than this for each peer known, only because some back-off has passed: ten thousand dead
/// addresses must not keep the processor warm.
const CALM: Duration = Duration::from_micros(50);

/// What the operator allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether anything is dialled without being asked for.
    pub autostart: bool,
    /// Feeds up to this distance are replicated, so peers up to it are worth dialling.
    pub hops: u32,
    /// Sessions to look for.
    pub slots: Slots,
    /// Sessions with peers that were asked for, at most.
    pub max_asked: usize,
    /// Dials under way at once, at most.
    pub max_dialing: usize,
    /// Whether peers on our own network are dialled although nobody follows them.
    pub lan_strangers: bool,
    /// Whether pubs are dialled because a message says that they exist.
    pub strange_pubs: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            autostart: true,
            hops: 2,
            slots: Slots::default(),
            max_asked: 64,
            max_dialing: 8,
            lan_strangers: true,
            strange_pubs: false,
        }
    }
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Peers to dial, best first.
    pub dial: Vec<Dial>,
    /// Peers whose session is to be closed.
    pub drop: Vec<(PublicKey, DropReason)>,
    /// When the plan changes although nothing happens.
    pub wake_at: Option<Instant>,
    /// How many peers were passed over, by reason, for the operator.
    pub passed: Passed,
    /// Slots of each group that are taken, and all of them.
    pub slots: Vec<(Group, usize, usize)>,
}

/// One dial.
#[derive(Clone, Debug, PartialEq)]
pub struct Dial {
    /// Whom.
    pub peer: PublicKey,
    /// Over what.
    pub endpoint: Endpoint,
    /// What it is worth; nothing for a second path to a peer that is being dialled.
    pub terms: Option<Terms>,
}

/// Why a session is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// We block this key now.
    Blocked,
    /// There are better peers for the slot.
    OverLimit,
    /// The peer owes us messages and sends none.
    Stalled,
}

impl DropReason {
    /// A name for people and labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::OverLimit => "replaced",
            Self::Stalled => "stalled",
        }
    }
}

/// Peers that are not dialled now, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Their back-off has not passed.
    pub waiting: usize,
    /// They have not been reached for long ([`Candidate::is_defunct`]).
    pub defunct: usize,
    /// Nothing we want is to be had from them.
    pub uninteresting: usize,
    /// No free slot.
    pub full: usize,
}

/// Looks at everything and decides. See the module's header for the rules.
pub fn plan(snapshot: &Snapshot, policy: &Policy, now: Instant) -> Plan {
    let mut view = View::new(snapshot, now);
    let groups = Occupancy::all(snapshot, policy, now);
    let mut plan = Plan { drop: blocked_or_stalled(snapshot, now), ..Plan::default() };
    let mut dials = policy.max_dialing.saturating_sub(groups.iter().map(|group| group.dialing).sum());
    let mut queues = queues(snapshot, policy, &view, &mut plan.passed, now);
    let calm = now + CALM * u32::try_from(snapshot.peers.len()).unwrap_or(u32::MAX);
    for (group, queue) in groups.iter().zip(&mut queues) {
        plan.slots.push((group.group, group.sessions.len(), group.capacity));
        drop_excess(group, &view, policy, &mut plan);
        let (ready, before) = (queue.ready.len(), plan.dial.len());
        match group.room(&view, policy, now) {
            Room::Free(free) => {
                fill(group, &mut queue.ready, &mut view, policy, free, &mut dials, &mut plan);
                wake(&mut plan, queue.soonest.map(|at| at.max(calm)));
            }
            Room::Challenge(worth) => {
                let best = take_best(&mut queue.ready, &view, false);
                if let Some(best) = best.filter(|best| dials > 0 && best.worth(&view, false) > worth) {
                    dials -= 1;
                    plan.dial.push(best.dial(&view));
                    view.cover(best.peer.carries);
                }
            }
            Room::Full(until) => wake(&mut plan, until.map(|at| at.max(calm))),
        }
        plan.passed.full += ready - (plan.dial.len() - before);
        if ready > 0 || queue.soonest.is_some() {
            wake(&mut plan, Some(now + REVIEW));
        }
    }
    for peer in snapshot.peers.iter().filter(|peer| peer.link == Link::Dialing) {
        match paths::beside(snapshot.own, peer, now) {
            Choice::Now(path) => {
                plan.dial.push(Dial { peer: peer.key, endpoint: path.endpoint.clone(), terms: None });
            }
            Choice::At(when) => wake(&mut plan, Some(when)),
            Choice::Never => {}
        }
    }
    plan
}

fn wake(plan: &mut Plan, at: Option<Instant>) {
    plan.wake_at = [plan.wake_at, at].into_iter().flatten().min();
}

fn blocked_or_stalled(snapshot: &Snapshot, now: Instant) -> Vec<(PublicKey, DropReason)> {
    let live = snapshot.peers.iter().filter(|peer| peer.is_connected());
    let reason = |peer: &Candidate| {
        let owes = peer.session.and_then(|session| session.owes_since);
        if peer.relation == Relation::Blocked {
            Some(DropReason::Blocked)
        } else if peer.link == Link::Outbound && owes.is_some_and(|since| now >= since + slots::STALL) {
            Some(DropReason::Stalled)
        } else {
            None
        }
    };
    live.filter_map(|peer| Some((peer.key, reason(peer)?))).collect()
}

/// Somebody who could be dialled now.
#[derive(Clone, Copy, Debug)]
struct Hopeful<'a> {
    peer: &'a Candidate,
    path: &'a PathState,
    /// What it was worth when nobody was chosen yet.
    terms: Terms,
    /// The part of its need that does not depend on whom else we choose.
    owed: f64,
    /// Decides between equals, differently for every node.
    tie: f64,
}

impl Hopeful<'_> {
    /// What it is worth now, in the slots for friends or in those in which everybody has a turn.
    fn worth(&self, view: &View, impartial: bool) -> f64 {
        let terms = self.terms(view);
        if impartial { terms.impartial() } else { terms.total() }
    }

    fn terms(&self, view: &View) -> Terms {
        Terms { need: score::uncovered(view.uncovered(self.peer)) + self.owed, ..self.terms }
    }

    fn dial(&self, view: &View) -> Dial {
        Dial { peer: self.peer.key, endpoint: self.path.endpoint.clone(), terms: Some(self.terms(view)) }
    }
}

/// A group's candidates.
#[derive(Clone, Debug, Default)]
struct Queue<'a> {
    /// Those who could be dialled now.
    ready: Vec<Hopeful<'a>>,
    /// When the first of the others can.
    soonest: Option<Instant>,
}

/// Who could be dialled now, by group; the others are counted.
fn queues<'a>(
    snapshot: &'a Snapshot,
    policy: &Policy,
    view: &View,
    passed: &mut Passed,
    now: Instant,
) -> [Queue<'a>; Group::ALL.len()] {
    let mut all = Group::ALL.map(|_| Queue::default());
    for peer in snapshot.peers.iter().filter(|peer| peer.link == Link::None) {
        let queue = Group::of(peer, policy).and_then(|group| all.get_mut(group as usize));
        let Some(queue) = queue else {
            passed.uninteresting += 1;
            continue;
        };
        match paths::best(snapshot.own, peer, now) {
            Choice::Now(path) => {
                let terms = score::dial(view, peer, path);
                let tie = backoff::jitter(snapshot.own, peer.key, 0);
                let owed = score::owed(peer.owed);
                queue.ready.push(Hopeful { peer, path, terms, owed, tie });
            }
            Choice::At(when) => {
                let count = if peer.is_defunct() { &mut passed.defunct } else { &mut passed.waiting };
                *count += 1;
                queue.soonest = Some(queue.soonest.map_or(when, |at| at.min(when)));
            }
            Choice::Never => passed.uninteresting += 1,
        }
    }
    all
}

/// Dials the best until as many as are wanted may be expected to come.
fn fill(
    group: &Occupancy<'_>,
    hopefuls: &mut Vec<Hopeful<'_>>,
    view: &mut View,
    policy: &Policy,
    free: f64,
    dials: &mut usize,
    plan: &mut Plan,
) {
    let mut expected = 0.0;
    while *dials > 0 {
        let taken = group.sessions.len() as f64 + group.expected + expected;
        let impartial = group.group == Group::People && taken >= policy.slots.friends as f64;
        let Some(best) = take_best(hopefuls, view, impartial) else { return };
        let chance = score::chance(best.path, view.now());
        if expected > 0.0 && expected + chance / 2.0 > free {
            hopefuls.push(best);
            return;
        }
        expected += chance;
        *dials -= 1;
        plan.dial.push(best.dial(view));
        view.cover(best.peer.carries);
    }
}

fn take_best<'a>(hopefuls: &mut Vec<Hopeful<'a>>, view: &View, impartial: bool) -> Option<Hopeful<'a>> {
    let worths = hopefuls.iter().enumerate().map(|(i, one)| (one.worth(view, impartial), one.tie, i));
    let (_, _, best) = worths.max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)))?;
    Some(hopefuls.swap_remove(best))
}

/// Sessions over the limit of a group go, the weakest first.
fn drop_excess(group: &Occupancy<'_>, view: &View, policy: &Policy, plan: &mut Plan) {
    let excess = group.excess(policy);
    if excess == 0 {
        return;
    }
    let own = group.sessions.iter().filter(|peer| peer.link == Link::Outbound && !peer.asked_for);
    let mut own: Vec<_> = own.map(|peer| (score::keep(view, peer).total(), peer)).collect();
    // A session that has just come has had no time to show what it is worth: it came for being worth more.
    let is_new =
        |peer: &Candidate| peer.session.is_some_and(|session| view.now() < session.since + slots::DWELL);
    own.sort_by(|(x, a), (y, b)| is_new(a).cmp(&is_new(b)).then(x.total_cmp(y)).then(a.key.cmp(&b.key)));
    let spared = plan.drop.iter().map(|(key, _)| *key).collect::<Vec<_>>();
    let weakest = own.into_iter().map(|(_, peer)| peer.key).filter(|key| !spared.contains(key));
    plan.drop.extend(weakest.take(excess).map(|key| (key, DropReason::OverLimit)));
}

#[cfg(test)]
mod tests;
