//! Meeting friends through the DHT: the overlay is told whom we follow and who of them has a session; where
//! it finds the others becomes paths, and the scheduler does the rest.
//!
//! A friend is whom we follow ourselves. Whether it follows us is not asked: it decides by that whether it
//! can be found.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hawsepipe_overlay::conn::TransportId;
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::rendezvous::Friend;
use hawsepipe_overlay::swarm::DhtService;
use hawsepipe_overlay::{Found, Lookup};
use hawsepipe_replication::refs::FeedId;

use super::Engine;
use crate::clock;
use crate::dht_nodes;
use crate::peer_book::Source;
use crate::reachability::doctor::{DhtFacts, FriendCount};

/// The overlay is told of friends at most this often.
const PAUSE: Duration = Duration::from_millis(200);
/// Places of one friend taken from one word of it at most.
const MAX_PLACES: usize = 8;
/// Nodes of the DHT are saved at most this often.
const SAVE_PAUSE: Duration = Duration::from_secs(60);

/// Whom we follow, and how far meeting each is.
#[derive(Debug, Default)]
pub(super) struct Friends {
    all: BTreeMap<PublicKey, Meeting>,
    told: BTreeMap<PublicKey, Friend>,
    told_at: Option<Instant>,
    /// When the overlay is to be told.
    at: Option<Instant>,
}

#[derive(Debug)]
struct Meeting {
    connected: bool,
    /// The DHT says where it is.
    found: bool,
    /// Since when it is followed and has no session, unless it has one.
    wanted: Instant,
}

impl Friends {
    /// All whom we follow, from now on. Returns those whom we no longer do.
    fn follow(&mut self, follows: &BTreeSet<PublicKey>, now: Instant) -> Vec<PublicKey> {
        let gone: Vec<_> = self.all.keys().filter(|key| !follows.contains(key)).copied().collect();
        for key in &gone {
            self.all.remove(key);
        }
        for key in follows {
            self.all.entry(*key).or_insert(Meeting { connected: false, found: false, wanted: now });
        }
        self.changed(now);
        gone
    }

    /// All who have a session, from now on. Returns how long those were wanted who were found and met.
    fn connect(&mut self, live: &BTreeSet<PublicKey>, now: Instant) -> Vec<Duration> {
        let mut met = Vec::new();
        for (key, friend) in &mut self.all {
            let connected = live.contains(key);
            if connected && !friend.connected && friend.found {
                met.push(now.saturating_duration_since(friend.wanted));
            }
            if friend.connected && !connected {
                friend.wanted = now;
            }
            friend.connected = connected;
        }
        self.changed(now);
        met
    }

    /// The DHT says where a feed is, or no longer does. Returns whether it is a friend.
    fn set_found(&mut self, key: PublicKey, found: bool) -> bool {
        let Some(friend) = self.all.get_mut(&key) else { return false };
        friend.found = found;
        true
    }

    /// Whether we follow it.
    pub(super) fn contains(&self, key: PublicKey) -> bool {
        self.all.contains_key(&key)
    }

    fn changed(&mut self, now: Instant) {
        let soonest = self.told_at.map_or(now, |at| now.max(at + PAUSE));
        self.at.get_or_insert(soonest);
    }

    /// When the overlay is to be told.
    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.at
    }

    /// What the overlay is to be told, if that is anything new.
    fn take(&mut self, now: Instant) -> Option<BTreeMap<PublicKey, Friend>> {
        self.at.take_if(|at| *at <= now)?;
        let friends = self.all.iter();
        let friends: BTreeMap<_, _> =
            friends.map(|(key, friend)| (*key, Friend { connected: friend.connected })).collect();
        if friends == self.told {
            return None;
        }
        self.told.clone_from(&friends);
        self.told_at = Some(now);
        Some(friends)
    }

    fn count(&self, follows_us: impl Fn(PublicKey) -> bool) -> FriendCount {
        let mut count = FriendCount::default();
        for (key, friend) in &self.all {
            let met = friend.connected || friend.found;
            let state = match (friend.connected, friend.found) {
                (true, _) => &mut count.connected,
                (false, true) => &mut count.found,
                (false, false) => &mut count.sought,
            };
            *state += 1;
            if follows_us(*key) {
                count.mutual += 1;
                count.mutual_met += usize::from(met);
            }
        }
        count
    }
}

/// Whether the nodes of the DHT are to be saved, and when that was done.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) dirty: bool,
    pub(super) at: Instant,
}

impl Engine {
    /// The graph has changed.
    pub(super) fn update_friends(&mut self, now: Instant) {
        let own = self.ctx.own;
        let follows: BTreeSet<_> = {
            let graph = self.ctx.graph();
            let others = graph.follows_of(&own).filter(|feed| *feed != own);
            others.map(|feed| PublicKey::from_bytes(feed.to_bytes())).collect()
        };
        for gone in self.friends.follow(&follows, now) {
            self.book.not_found(gone);
        }
        self.update_met(now);
    }

    /// A session began or ended, or whom we follow has changed.
    pub(super) fn update_met(&mut self, now: Instant) {
        let live: BTreeSet<_> = self.connected().map(|open| open.peer).collect();
        for waited in self.friends.connect(&live, now) {
            self.ctx.metrics.dht.meet.observe(waited.as_secs_f64());
        }
        self.show_friends();
    }

    /// Tells the overlay whom to look for, when that is due.
    pub(super) fn tell_friends(&mut self, now: Instant) {
        if let Some(friends) = self.friends.take(now) {
            self.ctx.overlay.set_friends(friends);
        }
    }

    /// A friend says in the DHT where it is. Believed as far as a dial.
    pub(super) fn on_found(&mut self, found: Found) {
        let Found { feed, peer, mut endpoints, age, took, asked, .. } = found;
        if self.access.is_blocked(feed) || !self.friends.set_found(feed, true) {
            return;
        }
        let now = clock::now();
        endpoints.truncate(MAX_PLACES);
        let source = [Source::Rendezvous.label()];
        self.ctx.metrics.connect.discovered.with_label_values(&source).inc_by(endpoints.len() as u64);
        let said = now.checked_sub(age).unwrap_or(now);
        if self.book.found(feed, &endpoints, said, now) {
            tracing::debug!(peer = %feed.short(), ?endpoints, ?age, ?took, asked, "found a friend");
            self.plan_dirty = true;
        }
        self.on_transport_claimed(feed, peer, now);
        self.peers_dirty = true;
        self.show_friends();
    }

    /// What a friend said of its place no longer holds.
    pub(super) fn on_not_found(&mut self, feed: PublicKey) {
        self.friends.set_found(feed, false);
        self.book.not_found(feed);
        self.peers_dirty = true;
        self.show_friends();
    }

    pub(super) fn on_lookup(&self, lookup: &Lookup) {
        let metrics = &self.ctx.metrics.dht;
        metrics.lookups.with_label_values(&[lookup.kind, lookup.outcome]).inc();
        metrics.lookup_seconds.with_label_values(&[lookup.kind]).observe(lookup.took.as_secs_f64());
    }

    /// Something is known of the DHT that was not.
    pub(super) fn on_dht_changed(&mut self) {
        self.dht_saved.dirty = true;
        self.show_dht();
    }

    pub(super) fn show_dht(&self) {
        let report = self.ctx.overlay.dht();
        let metrics = &self.ctx.metrics.dht;
        metrics.nodes.set(report.nodes as i64);
        metrics.networks.set(report.networks as i64);
        metrics.records.set(report.records as i64);
        metrics.serving.set(i64::from(report.serving));
        metrics.healthy.set(i64::from(report.healthy));
    }

    fn show_friends(&self) {
        let FriendCount { sought, found, connected, .. } = self.friends.count(|_| false);
        let gauge = &self.ctx.metrics.dht.friends;
        for (state, count) in [("sought", sought), ("found", found), ("connected", connected)] {
            gauge.with_label_values(&[state]).set(count as i64);
        }
    }

    /// Has the nodes of the DHT saved if they may have changed since that was last done, some time ago.
    pub(super) fn keep_dht_nodes(&mut self, now: Instant) {
        if self.dht_saved.dirty && now >= self.dht_saved.at + SAVE_PAUSE {
            self.save_dht_nodes(now);
        }
    }

    /// Has the nodes of the DHT saved. Those of an earlier run stay if this one has met none: they are all
    /// that the next one has.
    pub(super) fn save_dht_nodes(&mut self, now: Instant) {
        self.dht_saved = Saved { dirty: false, at: now };
        let nodes = self.ctx.overlay.dht_nodes();
        if !nodes.is_empty() {
            self.save(self.dir.dht(), dht_nodes::encode(nodes).into_bytes());
        }
    }

    /// What `doctor` looks at of the DHT.
    pub(super) fn dht_facts(&self) -> Option<DhtFacts> {
        let overlay = self.ctx.config.overlay.as_ref().filter(|overlay| overlay.dht != DhtService::Off)?;
        let graph = self.ctx.graph();
        let own = self.ctx.own;
        let follows_us = |key: PublicKey| graph.is_following(&FeedId::from_bytes(key.to_bytes()), &own);
        let friends = self.friends.count(follows_us);
        Some(DhtFacts { report: self.ctx.overlay.dht(), friends, tier: overlay.rendezvous })
    }

    /// A feed's certificate says that a transport identity is its own: remembered as if SHS had proven it,
    /// unless somebody else has it.
    pub(super) fn on_transport_claimed(&mut self, feed: PublicKey, id: TransportId, now: Instant) {
        if self.book.transports().iter().all(|(key, other)| key == feed || *other != id) {
            self.on_transport_known(feed, id, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> PublicKey {
        PublicKey::from_bytes([n; 32])
    }

    fn keys(all: &[u8]) -> BTreeSet<PublicKey> {
        all.iter().map(|n| key(*n)).collect()
    }

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
        Instant::now()
    }

    #[test]
    fn the_overlay_is_told_what_changes_and_not_too_often() {
        let now = start();
        let mut friends = Friends::default();
        let told = |all: &[(u8, bool)]| {
            Some(all.iter().map(|(n, connected)| (key(*n), Friend { connected: *connected })).collect())
        };
        friends.follow(&keys(&[1, 2]), now);
        assert_eq!(friends.take(now), told(&[(1, false), (2, false)]));
        assert_eq!(friends.take(now), None);
        friends.connect(&keys(&[2, 9]), now);
        friends.follow(&keys(&[2]), now);
        assert_eq!((friends.poll_timeout(), friends.take(now)), (Some(now + PAUSE), None));
        assert_eq!(friends.take(now + PAUSE), told(&[(2, true)]));
        // It comes and goes meanwhile.
        friends.connect(&keys(&[]), now + PAUSE);
        friends.connect(&keys(&[2]), now + PAUSE);
        assert_eq!(friends.take(now + 3 * PAUSE), None);
        assert_eq!(friends.poll_timeout(), None);
    }

    #[test]
    fn the_time_to_meet_counts_from_the_moment_a_friend_was_followed_or_lost() {
        let now = start();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut friends = Friends::default();
        friends.follow(&keys(&[1, 2]), now);
        assert!(friends.set_found(key(1), true));
        assert!(!friends.set_found(key(3), true), "nobody follows it");
        let seconds = |met: Vec<Duration>| met.iter().map(Duration::as_secs).collect::<Vec<_>>();
        assert_eq!(seconds(friends.connect(&keys(&[1, 2]), after(3))), [3], "the other was met by chance");
        assert!(friends.connect(&keys(&[1, 2]), after(4)).is_empty());
        friends.connect(&keys(&[]), after(10));
        assert_eq!(seconds(friends.connect(&keys(&[1]), after(11))), [1]);
    }

    #[test]
    fn friends_are_counted_by_how_far_meeting_them_is() {
        let now = start();
        let mut friends = Friends::default();
        friends.follow(&keys(&[1, 2, 3, 4, 5]), now);
        friends.connect(&keys(&[1, 2]), now);
        friends.set_found(key(2), true);
        friends.set_found(key(3), true);
        let count = friends.count(|other| [2, 3, 4].map(key).contains(&other));
        let expected = FriendCount { sought: 2, found: 1, connected: 2, mutual: 3, mutual_met: 2 };
        assert_eq!(count, expected);
        friends.set_found(key(3), false);
        assert_eq!(
            friends.count(|_| false),
            FriendCount { sought: 3, found: 0, connected: 2, ..FriendCount::default() }
        );
        assert_eq!(friends.follow(&keys(&[1]), now), [2, 3, 4, 5].map(key));
    }
}
