//! Step 2 of the story: the scheduler is asked, and what it decides is done. Here is also what it looks at beside the
//! peer book: the graph, how much of our follows each peer carries, what EBT says to be owed, and whether the
//! network is still the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use hawsepipe_overlay::address::place_of;
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::lan::Interfaces;
use hawsepipe_replication::refs::FeedId;

use super::connect::is_local;
use super::takeover::Standing;
use super::{Engine, Open};
use crate::clock;
use crate::config::ConnConfig;
use crate::peer_book::{Clock, Social};
use crate::scheduler::{self, DropReason, Feeds, Policy, Relation, Snapshot};

/// A plan is made at most this often, whatever happens: a peer that comes and goes must not keep us busy.
const PLAN_PAUSE: Duration = Duration::from_millis(50);
/// The same for each peer known: ten thousand strangers who come and go must not either.
const PLAN_PAUSE_EACH: Duration = Duration::from_micros(50);
/// What peers carry is reckoned at most this often: a first sync changes the graph all the time.
const CARRIES_PAUSE: Duration = Duration::from_secs(10);
/// What connected peers owe is reckoned this often.
const OWED_PAUSE: Duration = Duration::from_secs(20);
/// When the wall clock has gone so much further than ours, the machine has slept.
const SLEPT: Duration = Duration::from_secs(30);

/// What the scheduler needs beside the peer book.
#[derive(Debug)]
pub(super) struct Scheduling {
    /// What peers in reach carry of the feeds that we follow.
    carries: BTreeMap<PublicKey, Feeds>,
    follows: Feeds,
    /// The graph has changed since `carries` was reckoned.
    pub(super) stale: bool,
    carries_at: Option<Instant>,
    owed_at: Option<Instant>,
    /// Since when some wanted feed has been behind what a peer says to have.
    behind_since: Option<Instant>,
    /// No plan is made before.
    pub(super) soonest: Instant,
    watch: Watch,
}

impl Scheduling {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            carries: BTreeMap::new(),
            follows: Feeds::default(),
            stale: true,
            carries_at: None,
            owed_at: None,
            behind_since: None,
            soonest: now,
            watch: Watch { clock: wall(now), addresses: None },
        }
    }
}

/// Notices that the machine has slept or is in another network.
#[derive(Debug)]
struct Watch {
    clock: Clock,
    addresses: Option<BTreeSet<IpAddr>>,
}

/// What has happened to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upset {
    /// Sessions are dead, whatever their sockets say: the machine slept, or an address is gone.
    Lost,
    /// There is another way out: what failed before may work.
    Gained,
}

impl Watch {
    fn look(&mut self, clock: Clock, addresses: Option<BTreeSet<IpAddr>>) -> Option<Upset> {
        let ran = clock.now.saturating_duration_since(self.clock.now);
        let passed = Duration::from_millis(clock.unix.saturating_sub(self.clock.unix));
        self.clock = clock;
        let slept = passed > ran + SLEPT;
        let before = match addresses {
            Some(addresses) => self.addresses.replace(addresses),
            None => None,
        };
        let now = self.addresses.as_ref();
        let lost = before.as_ref().zip(now).is_some_and(|(before, now)| !before.is_subset(now));
        let gained = before.as_ref().zip(now).is_some_and(|(before, now)| !now.is_subset(before));
        match (slept || lost, gained) {
            (true, _) => Some(Upset::Lost),
            (false, true) => Some(Upset::Gained),
            (false, false) => None,
        }
    }
}

/// Both clocks.
pub(super) fn wall(now: Instant) -> Clock {
    Clock { now, unix: clock::unix_millis() }
}

/// What the operator allows, as configured.
pub(super) fn policy(conn: &ConnConfig, hops: u32) -> Policy {
    Policy {
        autostart: conn.autostart,
        hops,
        slots: conn.slots,
        strange_pubs: conn.dial_pubs,
        ..Policy::default()
    }
}

impl Engine {
    /// Whether it is time to decide anew.
    pub(super) fn plan_due(&self) -> Option<Instant> {
        let changed = self.plan_dirty.then_some(self.scheduling.soonest);
        [changed, self.plan_at].into_iter().flatten().min()
    }

    /// Decides, then carries the decision out.
    pub(super) fn make_plan(&mut self, now: Instant) {
        self.plan_dirty = false;
        self.scheduling.soonest = now + PLAN_PAUSE.max(PLAN_PAUSE_EACH * super::count(self.book.len()));
        let snapshot = self.snapshot(now);
        let begun = clock::now();
        let plan = scheduler::plan(&snapshot, &self.policy, now);
        self.plan_at = plan.wake_at;
        let took = clock::now().saturating_duration_since(begun);
        self.ctx.metrics.scheduler.planned(&plan, took);
        let decisions = &self.ctx.metrics.connect.decisions;
        decisions.with_label_values(&["dial"]).inc_by(plan.dial.len() as u64);
        decisions.with_label_values(&["drop"]).inc_by(plan.drop.len() as u64);
        decisions.with_label_values(&["wait"]).inc_by(plan.passed.waiting as u64);
        decisions.with_label_values(&["full"]).inc_by(plan.passed.full as u64);
        self.ctx.metrics.connect.known_peers.set(self.book.len() as i64);
        for (peer, reason) in plan.drop {
            tracing::info!(peer = %peer.short(), reason = reason.label(), "dropping a session");
            match reason {
                DropReason::Blocked => self.book.forget_wish(peer),
                DropReason::Stalled => self.book.stalled(peer, now),
                DropReason::OverLimit => {}
            }
            self.close_sessions(peer);
        }
        for dial in plan.dial {
            if let Some(terms) = &dial.terms {
                tracing::debug!(peer = %dial.peer.short(), why = terms.words(), "chosen");
            }
            self.dial(dial.peer, dial.endpoint, None);
        }
    }

    /// What the scheduler looks at.
    pub(super) fn snapshot(&mut self, now: Instant) -> Snapshot {
        self.reckon_carries(now);
        let own = self.ctx.own_key;
        let graph = self.ctx.graph();
        let peers = self.book.candidates(own, |key| Social {
            relation: self.relation(key),
            follows_us: graph.is_following(&feed_of(key), &self.ctx.own),
            carries: self.scheduling.carries.get(&key).copied().unwrap_or_default(),
        });
        drop(graph);
        Snapshot { own, follows: self.scheduling.follows, metered: self.ctx.config.conn.metered, peers }
    }

    /// What a peer is to us.
    pub(super) fn relation(&self, key: PublicKey) -> Relation {
        if self.access.is_blocked(key) {
            return Relation::Blocked;
        }
        self.wanted.get(&feed_of(key)).map_or(Relation::Stranger, |hops| Relation::Hops(*hops))
    }

    /// Whoever follows a feed carries it, and everybody carries the own one. Of those whom the graph does not reach
    /// nothing is known.
    fn reckon_carries(&mut self, now: Instant) {
        let fresh = self.scheduling.carries_at.is_some_and(|at| now < at + CARRIES_PAUSE);
        if !self.scheduling.stale || fresh {
            return;
        }
        self.scheduling.stale = false;
        self.scheduling.carries_at = Some(now);
        let graph = self.ctx.graph();
        let followed = graph.follows_of(&self.ctx.own).filter(|feed| *feed != self.ctx.own);
        let numbers: BTreeMap<FeedId, usize> = followed.zip(0..).collect();
        let set = |feeds: &mut dyn Iterator<Item = FeedId>| {
            let mut set = Feeds::default();
            feeds.filter_map(|feed| numbers.get(&feed)).for_each(|number| set.insert(*number));
            set
        };
        self.scheduling.follows = set(&mut numbers.keys().copied());
        let in_reach = self.book.iter().map(|(key, _)| key);
        let in_reach = in_reach.filter(|key| self.wanted.contains_key(&feed_of(*key)));
        let carries = in_reach.map(|key| {
            let feed = feed_of(key);
            (key, set(&mut graph.follows_of(&feed).chain([feed])))
        });
        self.scheduling.carries = carries.collect();
    }

    /// What is looked at every few seconds.
    pub(super) fn look_around(&mut self, now: Instant) {
        if self.scheduling.owed_at.is_none_or(|at| now >= at + OWED_PAUSE) {
            self.scheduling.owed_at = Some(now);
            for peer in self.ebt.peers().collect::<Vec<_>>() {
                let owed = self.ebt.owed(&peer);
                self.book.owes(PublicKey::from_bytes(peer.0.to_bytes()), owed.messages, owed.asked, now);
            }
            self.plan_dirty = true;
            self.show_progress(now);
        }
        let addresses = Interfaces::read().ok();
        // Of IPv6 the network: hosts change the rest every day.
        let addresses = addresses.map(|all| all.0.iter().map(|interface| place_of(interface.ip)).collect());
        if let Some(upset) = self.scheduling.watch.look(wall(now), addresses) {
            self.on_upset(upset);
        }
    }

    /// How far replication is behind what connected peers say. It looks at every wanted feed of each, so seldom.
    fn show_progress(&mut self, now: Instant) {
        let progress = self.ebt.progress();
        let metrics = &self.ctx.metrics.messages;
        metrics.feeds_behind.set(progress.behind as i64);
        metrics.messages_behind.set(progress.want.saturating_sub(progress.have) as i64);
        let since = (progress.behind > 0).then(|| self.scheduling.behind_since.unwrap_or(now));
        self.scheduling.behind_since = since;
        metrics.lag.set(since.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64()));
    }

    fn on_upset(&mut self, upset: Upset) {
        tracing::info!(?upset, "the network has changed, or the machine has slept: connecting anew");
        self.book.reset();
        self.plan_dirty = true;
        if upset == Upset::Lost {
            self.close_remote();
        }
    }

    /// Closes all sessions but those of local clients.
    pub(super) fn close_remote(&mut self) {
        let own = self.ctx.own_key;
        let remote = |open: &&mut Open| !is_local(&open.info) && open.peer != own;
        for open in self.sessions.values_mut().filter(remote) {
            open.standing = Standing::Closing;
            // Its end says nothing of the path.
            open.moved = true;
            open.session.close();
        }
    }

    /// A peer gave messages that we had not.
    pub(super) fn on_news(&mut self, from: FeedId, now: Instant) {
        self.book.gave(PublicKey::from_bytes(from.to_bytes()), now);
    }
}

/// Whose feed a key signs.
pub(super) fn feed_of(key: PublicKey) -> FeedId {
    FeedId::from_bytes(key.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(last: &[u8]) -> Option<BTreeSet<IpAddr>> {
        Some(last.iter().map(|n| IpAddr::from([192, 0, 2, *n])).collect())
    }

    #[test]
    fn sleep_and_a_lost_address_are_noticed_and_a_wrong_clock_alone_is_not() {
        let mut now = wall(clock::now());
        let mut watch = Watch { clock: now, addresses: None };
        let mut after = |ran: u64, passed: u64| {
            now = Clock { now: now.now + Duration::from_secs(ran), unix: now.unix + passed * 1000 };
            now
        };
        assert_eq!(watch.look(after(5, 5), addresses(&[1])), None, "the first look");
        assert_eq!(watch.look(after(5, 5), addresses(&[1])), None);
        assert_eq!(watch.look(after(5, 6), None), None, "the system does not say");
        assert_eq!(watch.look(after(5, 5), addresses(&[1, 2])), Some(Upset::Gained));
        assert_eq!(watch.look(after(5, 5), addresses(&[2])), Some(Upset::Lost));
        assert_eq!(watch.look(after(5, 3600), addresses(&[2])), Some(Upset::Lost), "slept");
        assert_eq!(watch.look(after(3600, 0), addresses(&[2])), None, "set back");
    }
}
