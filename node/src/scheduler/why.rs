//! Why a peer is connected, dialled, or not: the same reckoning as [`plan`](super::plan), in words and numbers.

use std::time::{Duration, Instant};

use hawsepipe_overlay::keys::PublicKey;

use super::paths::{self, Choice};
use super::score::{self, Terms, View};
use super::slots::{self, Group, Occupancy, Room};
use super::snapshot::{Candidate, Link, PathState, Snapshot};
use super::{Plan, Policy, plan};

/// What is thought of one peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Why {
    /// Who.
    pub key: PublicKey,
    /// `connected`, `dialing`, `dial` (now), `full` (no slot), `waiting` (back-off), `defunct`, or `passed`.
    pub verdict: &'static str,
    /// Whom it competes with.
    pub group: Option<Group>,
    /// What it is worth, where that was reckoned.
    pub terms: Option<Terms>,
    /// All of it in sentences.
    pub lines: Vec<String>,
}

/// Explains peers of one snapshot.
#[derive(Debug)]
pub struct Explainer<'a> {
    snapshot: &'a Snapshot,
    policy: &'a Policy,
    now: Instant,
    view: View,
    groups: [Occupancy<'a>; Group::ALL.len()],
    plan: Plan,
}

impl<'a> Explainer<'a> {
    /// Reckons once for all peers.
    pub fn new(snapshot: &'a Snapshot, policy: &'a Policy, now: Instant) -> Self {
        let groups = Occupancy::all(snapshot, policy, now);
        Self {
            snapshot,
            policy,
            now,
            view: View::new(snapshot, now),
            groups,
            plan: plan(snapshot, policy, now),
        }
    }

    /// The whole: how many slots are taken, and how many feeds that we follow some session carries.
    pub fn summary(&self) -> String {
        let slots = self.plan.slots.iter().filter(|(group, taken, _)| *group != Group::Asked || *taken > 0);
        let slots: Vec<_> =
            slots.map(|(group, taken, all)| format!("{} {taken} of {all}", group.label())).collect();
        let (covered, followed) = self.view.coverage();
        let passed = self.plan.passed;
        format!(
            "slots taken: {}; sessions carry {covered} of {followed} feeds that you follow; of the others {} wait to \
             be dialled again, {} are defunct, {} find no slot, {} are not to be dialled",
            slots.join(", "),
            passed.waiting,
            passed.defunct,
            passed.full,
            passed.uninteresting
        )
    }

    /// What is thought of `peer`.
    pub fn of(&self, peer: &Candidate) -> Why {
        let group = Group::of(peer, self.policy);
        let (verdict, terms, mut lines) = match (peer.link, group) {
            (Link::Outbound | Link::Inbound, _) => self.connected(peer),
            (Link::Dialing, _) => ("dialing", None, vec!["it is being dialled".to_owned()]),
            (Link::None, None) => {
                let reason = slots::why_not(peer, self.policy);
                ("passed", None, vec![format!("not dialled: {reason}")])
            }
            (Link::None, Some(group)) => self.unconnected(peer, group),
        };
        let faults = peer.faults.amount(self.now);
        if faults >= 0.05 {
            lines.push(format!(
                "to blame for {faults:.1} faults: it left at once, or what it promised did not come"
            ));
        }
        lines.extend(peer.paths.iter().map(|path| self.path(path)));
        Why { key: peer.key, verdict, group, terms, lines }
    }

    /// All peers of the snapshot.
    pub fn all(&self) -> impl Iterator<Item = Why> + '_ {
        self.snapshot.peers.iter().map(|peer| self.of(peer))
    }

    fn connected(&self, peer: &Candidate) -> (&'static str, Option<Terms>, Vec<String>) {
        let terms = score::keep(&self.view, peer);
        let who = if peer.link == Link::Outbound { "we dialled" } else { "it dialled" };
        let session = peer.session.map_or_else(String::new, |session| {
            let news = match session.news {
                Some(at) => format!("last news {} ago", span(self.since(at))),
                None => "no news yet".to_owned(),
            };
            format!(" for {} ({}), {news}", span(self.since(session.since)), session.class.label())
        });
        let mut lines = vec![
            format!("connected{session}; {who}"),
            format!("worth keeping: {:.1} points = {}", terms.total(), terms.words()),
            self.carries(peer, self.view.only_by(peer), "no other session carries"),
        ];
        if peer.owed > 0 {
            lines.push(format!("it says to have {} messages more than we do", peer.owed));
        }
        if let Some((_, reason)) = self.plan.drop.iter().find(|(key, _)| *key == peer.key) {
            lines.push(format!("it is about to be dropped: {}", reason.label()));
        }
        ("connected", Some(terms), lines)
    }

    fn unconnected(&self, peer: &Candidate, group: Group) -> (&'static str, Option<Terms>, Vec<String>) {
        let path = match paths::best(self.snapshot.own, peer, self.now) {
            Choice::Now(path) => path,
            Choice::At(when) => {
                let wait = span(when.saturating_duration_since(self.now));
                let verdict = if peer.is_defunct() { "defunct" } else { "waiting" };
                return (verdict, None, vec![format!("{verdict}: dialled again in {wait} at the soonest")]);
            }
            Choice::Never => return ("passed", None, vec!["no address of it is known".to_owned()]),
        };
        let terms = score::dial(&self.view, peer, path);
        let mut lines = vec![
            format!("worth dialling: {:.1} points = {}", terms.total(), terms.words()),
            self.carries(peer, self.view.uncovered(peer), "nobody connected carries"),
        ];
        if self.plan.dial.iter().any(|dial| dial.peer == peer.key) {
            lines.insert(0, "about to be dialled".to_owned());
            return ("dial", Some(terms), lines);
        }
        lines.insert(0, self.no_slot(group));
        ("full", Some(terms), lines)
    }

    /// Why there is no place in a group.
    fn no_slot(&self, group: Group) -> String {
        let Some(group) = self.groups.iter().find(|one| one.group == group) else { return String::new() };
        let taken = format!(
            "no slot: {} {} of {}, {} dials under way",
            group.group.label(),
            group.sessions.len(),
            group.capacity,
            group.dialing
        );
        match group.room(&self.view, self.policy, self.now) {
            Room::Free(_) => format!("others are dialled first ({taken})"),
            Room::Challenge(worth) => format!("{taken}; to replace the weakest it takes {worth:.1} points"),
            Room::Full(Some(at)) => {
                let wait = span(at.saturating_duration_since(self.now));
                format!("{taken}; no session can be replaced for {wait}")
            }
            Room::Full(None) => taken,
        }
    }

    fn carries(&self, peer: &Candidate, alone: u32, by_nobody: &str) -> String {
        let all = peer.carries.intersection(self.snapshot.follows).len();
        let followed = self.snapshot.follows.len();
        format!("it carries {all} of {followed} feeds that you follow, {alone} of which {by_nobody}")
    }

    fn path(&self, path: &PathState) -> String {
        let endpoint = hawsepipe_overlay::address::Address { endpoint: path.endpoint.clone(), key: None };
        let chance = 100.0 * score::chance(path, self.now);
        let mut text = format!("{} {endpoint}: a dial succeeds with {chance:.0} %", path.class.label());
        if let Some(at) = path.last_attempt {
            text.push_str(&format!(", last tried {} ago", span(self.since(at))));
        }
        match path.failures {
            0 => {}
            failures => text.push_str(&format!(", {failures} failures in a row")),
        }
        text
    }

    fn since(&self, at: Instant) -> Duration {
        self.now.saturating_duration_since(at)
    }
}

/// A time for people.
fn span(time: Duration) -> String {
    match time.as_secs() {
        0..2 => format!("{} ms", time.as_millis()),
        seconds @ 2..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
