//! Asking one peer for many feeds by `createHistoryStream`, over a bounded number of streams.
//!
//! Our own feed and those that we follow come first: each is asked for with a stream that ends when the peer has no
//! more, and nothing else is before all of these have ended, unless hardly anything comes through them.
//! Then the nearest feeds get streams that stay open for new messages; the others take turns, nearest first,
//! with streams that end when the peer has no more, and are asked for again after a while. The first call
//! is always for our own feed: JavaScript peers wait for a call before they ask us for anything, and
//! whatever comes tells us that the feed continues elsewhere.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::refs::FeedId;

/// Streams that stay open.
pub const LIVE_STREAMS: usize = 48;

/// Streams for all other feeds in turn.
pub const ROTATING_STREAMS: usize = 16;

/// How long a feed that was asked for in turn is left alone.
pub const POLL_INTERVAL: Duration = Duration::from_secs(60);

/// How long far feeds wait for near ones while little comes.
const PATIENCE: Duration = Duration::from_secs(5);

/// A peer that sends fewer messages of near feeds within [`PATIENCE`] keeps no far feed waiting.
const TRICKLE: u64 = 50;

/// Up to this many hops a feed is near.
const NEAR: u32 = 1;

/// How long a stream that is not live may be silent.
pub const STREAM_STALL: Duration = Duration::from_secs(30);

/// What happens in the session. There is at most one stream per feed.
#[derive(Clone, Debug, PartialEq)]
pub enum FetchInput {
    /// Whether we want this feed, and how near its author is. Our own is wanted to recover it.
    Replicate {
        /// The feed.
        feed: FeedId,
        /// Hops to its author; `None` to stop replicating it.
        rank: Option<u32>,
    },
    /// Our store holds this feed up to and including `sequence`.
    Appended {
        /// The feed.
        feed: FeedId,
        /// Its last sequence.
        sequence: u64,
    },
    /// A message arrived on the feed's stream; only its header was looked at.
    Received {
        /// The stream's feed. A message of another author is the shell's to drop.
        feed: FeedId,
        /// The sequence it claims.
        sequence: u64,
    },
    /// An accepted message turned out bad, or could not be stored.
    Rejected {
        /// The feed.
        feed: FeedId,
        /// Whether the peer is to blame: the feed is then left alone for the session.
        fatal: bool,
    },
    /// The peer ended the feed's stream, with an error or without. Not to be given for a stream that the
    /// machine closed.
    Ended {
        /// The feed.
        feed: FeedId,
    },
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum FetchOutput {
    /// Call `createHistoryStream` with [`super::history_request`].
    Call {
        /// The feed.
        feed: FeedId,
        /// What we hold of it.
        have: u64,
        /// Whether the stream is to stay open.
        live: bool,
    },
    /// End the feed's stream; drop what still comes on it.
    Close {
        /// The feed.
        feed: FeedId,
    },
    /// The message just received is worth verifying and storing; any other is to be dropped.
    Accept {
        /// The feed.
        feed: FeedId,
        /// Its sequence.
        sequence: u64,
    },
}

#[derive(Debug)]
struct Stream {
    live: bool,
    /// The last sequence that came; a stream only goes up.
    last: u64,
    heard_at: Instant,
}

#[derive(Debug, Default)]
struct Want {
    rank: u32,
    have: u64,
    accepted: u64,
    stream: Option<Stream>,
    /// All that the peer had was asked for once; what is near is asked for that before all others.
    seen: bool,
    /// The peer ended a live stream of this feed, so it takes turns like the others.
    turns: bool,
    /// When its turn comes, if it waits for one.
    due: Option<Instant>,
    rejected: bool,
}

/// The machine of one session.
#[derive(Debug)]
pub struct HistoryFetch {
    me: FeedId,
    recovering: bool,
    own_ahead: Option<u64>,
    wants: BTreeMap<FeedId, Want>,
    /// Near feeds that wait to be asked for the first time.
    first: BTreeSet<(u32, FeedId)>,
    /// Near feeds that are being asked for the first time; they hold rotating streams.
    catching_up: BTreeSet<FeedId>,
    /// Messages accepted since the last look at the pace.
    taken: u64,
    /// When to look at the pace; none once far feeds need not wait any more.
    pace_at: Option<Instant>,
    /// Feeds that wait for a live stream.
    live: BTreeSet<(u32, FeedId)>,
    /// Feeds that wait for their turn.
    turns: BTreeSet<(Instant, u32, FeedId)>,
    open_live: usize,
    rotating: BTreeSet<FeedId>,
    out: VecDeque<FetchOutput>,
}

impl HistoryFetch {
    /// A session without wants. `have` is what we hold of our own feed; the first call asks for more.
    pub fn new(now: Instant, me: FeedId, have: u64) -> Self {
        let mut fetch = Self {
            me,
            recovering: false,
            own_ahead: None,
            wants: BTreeMap::new(),
            first: BTreeSet::new(),
            catching_up: BTreeSet::new(),
            taken: 0,
            pace_at: Some(now + PATIENCE),
            live: BTreeSet::new(),
            turns: BTreeSet::new(),
            open_live: 0,
            rotating: BTreeSet::new(),
            out: VecDeque::new(),
        };
        fetch.wants.insert(me, Want { have, accepted: have, ..Want::default() });
        fetch.open(now, me, false);
        fetch
    }

    /// Takes one input. Drain [`Self::poll_output`] before the next.
    pub fn handle(&mut self, now: Instant, input: FetchInput) {
        match input {
            FetchInput::Replicate { feed, rank: Some(rank) } => self.want(now, feed, rank),
            FetchInput::Replicate { feed, rank: None } => self.unwant(feed),
            FetchInput::Appended { feed, sequence } => self.appended(feed, sequence),
            FetchInput::Received { feed, sequence } => self.received(now, feed, sequence),
            FetchInput::Rejected { feed, fatal } => self.rejected(now, feed, fatal),
            FetchInput::Ended { feed } => self.ended(now, feed),
        }
        self.fill(now);
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<FetchOutput> {
        self.out.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let free = self.rotating.len() < ROTATING_STREAMS && !self.is_near_first();
        let turn = self.turns.first().filter(|_| free);
        let pace = self.pace_at.filter(|_| self.is_near_first());
        let stalls = self.rotating.iter().filter_map(|feed| self.stall_of(feed));
        stalls.chain(turn.map(|&(due, ..)| due)).chain(pace).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let stalled = |feed: &FeedId| self.stall_of(feed).is_some_and(|at| at <= now);
        let stalled: Vec<_> = self.rotating.iter().copied().filter(stalled).collect();
        for feed in stalled {
            self.close(feed);
            self.wait_for_turn(feed, now + POLL_INTERVAL);
        }
        if self.pace_at.is_some_and(|at| at <= now) {
            self.pace_at = (std::mem::take(&mut self.taken) >= TRICKLE).then_some(now + PATIENCE);
        }
        self.fill(now);
    }

    /// Whether far feeds wait for near ones.
    fn is_near_first(&self) -> bool {
        self.pace_at.is_some() && !(self.first.is_empty() && self.catching_up.is_empty())
    }

    /// How far the peer showed our own feed to go, if that is further than we hold it.
    pub const fn own_feed_ahead(&self) -> Option<u64> {
        self.own_ahead
    }

    fn stall_of(&self, feed: &FeedId) -> Option<Instant> {
        self.wants.get(feed)?.stream.as_ref().map(|stream| stream.heard_at + STREAM_STALL)
    }

    fn want(&mut self, now: Instant, feed: FeedId, rank: u32) {
        self.recovering |= feed == self.me;
        let want = self.wants.entry(feed).or_default();
        if want.rejected {
            return;
        }
        let old = std::mem::replace(&mut want.rank, rank);
        if want.stream.is_some() {
            return;
        }
        let (seen, turns, due) = (want.seen, want.turns, want.due);
        self.first.remove(&(old, feed));
        if self.live.remove(&(old, feed)) || due.is_none() && !turns {
            let queue = if rank <= NEAR && !seen { &mut self.first } else { &mut self.live };
            queue.insert((rank, feed));
        } else {
            let due = due.unwrap_or(now);
            self.turns.remove(&(due, old, feed));
            self.wait_for_turn(feed, due);
        }
    }

    fn unwant(&mut self, feed: FeedId) {
        if feed == self.me {
            self.recovering = false;
        }
        self.close(feed);
        if let Some(want) = self.wants.get(&feed) {
            self.live.remove(&(want.rank, feed));
            self.first.remove(&(want.rank, feed));
            if let Some(due) = want.due {
                self.turns.remove(&(due, want.rank, feed));
            }
        }
        if let Some(want) = self.wants.get_mut(&feed) {
            // What we hold stays known, as it is not said again if the feed is wanted again.
            *want = Want { have: want.have, accepted: want.have, rejected: want.rejected, ..Want::default() };
        }
    }

    fn appended(&mut self, feed: FeedId, sequence: u64) {
        let want = self.wants.entry(feed).or_default();
        want.have = want.have.max(sequence);
        want.accepted = want.accepted.max(want.have);
    }

    fn received(&mut self, now: Instant, feed: FeedId, sequence: u64) {
        let Some(want) = self.wants.get_mut(&feed) else { return };
        let Some(stream) = &mut want.stream else { return };
        if feed == self.me && !self.recovering {
            self.own_ahead = self.own_ahead.max((sequence > want.have).then_some(sequence));
            return;
        }
        let rising = sequence > stream.last;
        stream.last = sequence;
        stream.heard_at = now;
        if rising && sequence == want.accepted + 1 {
            want.accepted = sequence;
            self.taken += 1;
            self.out.push_back(FetchOutput::Accept { feed, sequence });
        } else if !rising || sequence > want.accepted {
            // Out of order. What we hold already is tolerated: some peers begin one early, or at 1.
            self.close(feed);
            self.wait_for_turn(feed, now + POLL_INTERVAL);
        }
    }

    fn rejected(&mut self, now: Instant, feed: FeedId, fatal: bool) {
        let Some(want) = self.wants.get_mut(&feed) else { return };
        want.accepted = want.have;
        want.rejected |= fatal;
        if want.stream.is_some() {
            self.close(feed);
            self.wait_for_turn(feed, now + POLL_INTERVAL);
        }
    }

    fn ended(&mut self, now: Instant, feed: FeedId) {
        let caught_up = self.catching_up.contains(&feed);
        if !self.drop_stream(feed) {
            return;
        }
        match self.wants.get_mut(&feed) {
            Some(want) if caught_up => {
                want.turns = false;
                self.live.insert((want.rank, feed));
            }
            Some(_) | None => self.wait_for_turn(feed, now + POLL_INTERVAL),
        }
    }

    /// Opens as many streams as there are places and feeds for them.
    fn fill(&mut self, now: Instant) {
        while self.rotating.len() < ROTATING_STREAMS
            && let Some((_, feed)) = self.first.pop_first()
        {
            self.catching_up.insert(feed);
            self.open(now, feed, false);
        }
        if self.is_near_first() {
            return;
        }
        while self.open_live < LIVE_STREAMS
            && let Some((_, feed)) = self.live.pop_first()
        {
            self.open(now, feed, true);
        }
        // Those for whom no place is left take turns.
        while let Some((rank, feed)) = self.live.pop_first() {
            self.turns.insert((now, rank, feed));
            if let Some(want) = self.wants.get_mut(&feed) {
                want.due = Some(now);
            }
        }
        while self.rotating.len() < ROTATING_STREAMS
            && let Some(&(due, rank, feed)) = self.turns.first().filter(|(due, ..)| *due <= now)
        {
            self.turns.remove(&(due, rank, feed));
            self.open(now, feed, false);
        }
    }

    fn open(&mut self, now: Instant, feed: FeedId, live: bool) {
        let Some(want) = self.wants.get_mut(&feed) else { return };
        want.due = None;
        want.stream = Some(Stream { live, last: 0, heard_at: now });
        if live {
            self.open_live += 1;
        } else {
            self.rotating.insert(feed);
        }
        self.out.push_back(FetchOutput::Call { feed, have: want.accepted, live });
    }

    fn close(&mut self, feed: FeedId) {
        if self.drop_stream(feed) {
            self.out.push_back(FetchOutput::Close { feed });
        }
    }

    fn drop_stream(&mut self, feed: FeedId) -> bool {
        let Some(want) = self.wants.get_mut(&feed) else { return false };
        let Some(stream) = want.stream.take() else { return false };
        want.turns = true;
        want.seen = true;
        self.catching_up.remove(&feed);
        if stream.live {
            self.open_live -= 1;
        } else {
            self.rotating.remove(&feed);
        }
        true
    }

    fn wait_for_turn(&mut self, feed: FeedId, due: Instant) {
        let asked_once = feed == self.me && !self.recovering;
        if let Some(want) = self.wants.get_mut(&feed)
            && !want.rejected
            && !asked_once
        {
            want.due = Some(due);
            self.turns.insert((due, want.rank, feed));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn feed(n: u8) -> FeedId {
        FeedId::from_bytes([n; 32])
    }

    struct Rig {
        fetch: HistoryFetch,
        now: Instant,
    }

    #[expect(clippy::disallowed_methods, reason = "the one start instant; everything else is relative to it")]
    fn rig() -> Rig {
        let now = Instant::now();
        let mut rig = Rig { fetch: HistoryFetch::new(now, feed(0), 4), now };
        assert_eq!(rig.drain(), [call(0, 4, false)]);
        assert_eq!(rig.give(FetchInput::Ended { feed: feed(0) }), []);
        rig
    }

    impl Rig {
        fn drain(&mut self) -> Vec<FetchOutput> {
            std::iter::from_fn(|| self.fetch.poll_output()).collect()
        }

        fn give(&mut self, input: FetchInput) -> Vec<FetchOutput> {
            self.fetch.handle(self.now, input);
            self.drain()
        }

        fn want(&mut self, n: u8) -> Vec<FetchOutput> {
            self.give(FetchInput::Replicate { feed: feed(n), rank: Some(n.into()) })
        }

        fn receive(&mut self, n: u8, sequence: u64) -> Vec<FetchOutput> {
            self.give(FetchInput::Received { feed: feed(n), sequence })
        }

        fn append(&mut self, n: u8, sequence: u64) {
            assert_eq!(self.give(FetchInput::Appended { feed: feed(n), sequence }), []);
        }

        fn end(&mut self, n: u8) -> Vec<FetchOutput> {
            self.give(FetchInput::Ended { feed: feed(n) })
        }

        fn wait(&mut self, time: Duration) -> Vec<FetchOutput> {
            self.now += time;
            self.fetch.handle_timeout(self.now);
            self.drain()
        }
    }

    fn call(n: u8, have: u64, live: bool) -> FetchOutput {
        FetchOutput::Call { feed: feed(n), have, live }
    }

    fn close(n: u8) -> FetchOutput {
        FetchOutput::Close { feed: feed(n) }
    }

    fn accept(n: u8, sequence: u64) -> FetchOutput {
        FetchOutput::Accept { feed: feed(n), sequence }
    }

    const FULL: u8 = (LIVE_STREAMS + ROTATING_STREAMS) as u8;

    #[test]
    fn few_feeds_get_a_live_stream_each() {
        let mut rig = rig();
        rig.append(5, 7);
        assert_eq!(rig.want(5), [call(5, 7, true)]);
        assert_eq!(rig.receive(5, 8), [accept(5, 8)]);
        assert_eq!(rig.fetch.poll_timeout(), None);
    }

    #[test]
    fn more_feeds_than_streams_take_turns_nearest_first() {
        let mut rig = rig();
        for n in 2..=FULL {
            assert_eq!(rig.want(n), [call(n, 0, usize::from(n) <= LIVE_STREAMS + 1)]);
        }
        assert_eq!(rig.want(FULL + 3), [call(FULL + 3, 0, false)]);
        assert_eq!(rig.want(FULL + 2), []);
        assert_eq!(rig.want(FULL + 1), []);
        assert_eq!(rig.end(FULL), [call(FULL + 1, 0, false)]);
        assert_eq!(rig.end(FULL + 1), [call(FULL + 2, 0, false)]);
        assert_eq!(rig.end(FULL + 2), []);
        assert_eq!(rig.end(FULL + 3), []);
        // The silent streams stall and are closed; then those that ended first are due again.
        assert_eq!(rig.wait(STREAM_STALL).len(), ROTATING_STREAMS - 2);
        let again = [FULL, FULL + 1, FULL + 2, FULL + 3].map(|n| call(n, 0, false));
        assert_eq!(rig.wait(POLL_INTERVAL - STREAM_STALL), again);
    }

    #[test]
    fn near_feeds_are_complete_before_far_ones_are_asked_for() {
        let mut rig = rig();
        let want = |n: u8, rank| FetchInput::Replicate { feed: feed(n), rank: Some(rank) };
        assert_eq!(rig.give(want(5, 1)), [call(5, 0, false)]);
        assert_eq!(rig.give(want(6, 1)), [call(6, 0, false)]);
        assert_eq!(rig.give(want(7, 2)), []);
        assert_eq!(rig.receive(5, 1), [accept(5, 1)]);
        assert_eq!(rig.end(5), []);
        assert_eq!(rig.end(6), [call(5, 1, true), call(6, 0, true), call(7, 0, true)]);
    }

    #[test]
    fn far_feeds_do_not_wait_for_a_trickle() {
        let mut rig = rig();
        let want = |n: u8, rank| FetchInput::Replicate { feed: feed(n), rank: Some(rank) };
        assert_eq!(rig.give(want(5, 1)), [call(5, 0, false)]);
        assert_eq!(rig.give(want(7, 2)), []);
        for sequence in 1..=TRICKLE {
            assert_eq!(rig.receive(5, sequence), [accept(5, sequence)]);
        }
        assert_eq!(rig.wait(PATIENCE), [], "much comes");
        assert_eq!(rig.receive(5, TRICKLE + 1), [accept(5, TRICKLE + 1)]);
        assert_eq!(rig.wait(PATIENCE), [call(7, 0, true)]);
    }

    #[test]
    fn a_message_we_hold_is_tolerated_and_one_out_of_order_is_not() {
        let mut rig = rig();
        rig.append(5, 2);
        rig.want(5);
        assert_eq!(rig.receive(5, 1), []);
        assert_eq!(rig.receive(5, 2), []);
        assert_eq!(rig.receive(5, 3), [accept(5, 3)]);
        assert_eq!(rig.receive(5, 5), [close(5)]);
        assert_eq!(rig.receive(5, 6), []);
        assert_eq!(rig.wait(POLL_INTERVAL), [call(5, 3, false)]);
        assert_eq!(rig.receive(5, 2), []);
        assert_eq!(rig.receive(5, 2), [close(5)], "a stream only goes up");
    }

    #[test]
    fn a_peer_that_ends_a_live_stream_is_not_asked_for_one_again() {
        let mut rig = rig();
        rig.want(5);
        assert_eq!(rig.end(5), []);
        assert_eq!(rig.fetch.poll_timeout(), Some(rig.now + POLL_INTERVAL));
        assert_eq!(rig.wait(POLL_INTERVAL), [call(5, 0, false)]);
    }

    #[test]
    fn a_bad_message_ends_the_feed_for_the_session_and_a_failure_of_ours_does_not() {
        let mut rig = rig();
        rig.want(5);
        rig.want(6);
        rig.receive(5, 1);
        rig.receive(6, 1);
        assert_eq!(rig.give(FetchInput::Rejected { feed: feed(5), fatal: true }), [close(5)]);
        assert_eq!(rig.give(FetchInput::Rejected { feed: feed(6), fatal: false }), [close(6)]);
        assert_eq!(rig.want(5), []);
        assert_eq!(rig.wait(POLL_INTERVAL), [call(6, 0, false)]);
    }

    #[test]
    fn an_unwanted_feed_is_closed_and_can_be_wanted_again() {
        let mut rig = rig();
        rig.want(5);
        rig.append(5, 3);
        assert_eq!(rig.give(FetchInput::Replicate { feed: feed(5), rank: None }), [close(5)]);
        assert_eq!(rig.receive(5, 4), []);
        assert_eq!(rig.wait(POLL_INTERVAL), []);
        assert_eq!(rig.want(5), [call(5, 3, true)]);
    }

    #[test]
    fn our_own_feed_is_watched_and_only_accepted_to_recover_it() {
        let mut rig = rig();
        rig.fetch = HistoryFetch::new(rig.now, feed(0), 4);
        rig.drain();
        assert_eq!(rig.receive(0, 5), []);
        assert_eq!(rig.fetch.own_feed_ahead(), Some(5));
        assert_eq!(rig.end(0), []);
        assert_eq!(rig.want(0), [call(0, 4, false)]);
        assert_eq!(rig.receive(0, 5), [accept(0, 5)]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Want(u8),
        Unwant(u8),
        Append(u8, u64),
        Receive(u8, u64),
        Reject(u8, bool),
        End(u8),
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let n = 0u8..100;
        let step = prop_oneof![
            4 => n.clone().prop_map(Step::Want),
            1 => n.clone().prop_map(Step::Unwant),
            1 => (n.clone(), 0u64..5).prop_map(|(n, s)| Step::Append(n, s)),
            4 => (n.clone(), 0u64..5).prop_map(|(n, s)| Step::Receive(n, s)),
            1 => (n.clone(), any::<bool>()).prop_map(|(n, fatal)| Step::Reject(n, fatal)),
            3 => n.prop_map(Step::End),
            2 => (0u64..70).prop_map(Step::Wait),
        ];
        prop::collection::vec(step, 0..300)
    }

    proptest! {
        /// What the shell sees: near feeds before others, at most one stream per feed and as many as allowed, messages accepted on
        /// open streams only, and no free place while a feed is due.
        #[test]
        fn streams_stay_within_their_limits(steps in steps()) {
            let mut rig = rig();
            let mut open = BTreeMap::new();
            for step in steps {
                let f = |n| feed(n);
                if let Step::End(n) = step { open.remove(&f(n)); }
                let outputs = match step {
                    Step::Want(n) => rig.want(n),
                    Step::Unwant(n) => rig.give(FetchInput::Replicate { feed: f(n), rank: None }),
                    Step::Append(n, sequence) => rig.give(FetchInput::Appended { feed: f(n), sequence }),
                    Step::Receive(n, sequence) => rig.receive(n, sequence),
                    Step::Reject(n, fatal) => rig.give(FetchInput::Rejected { feed: f(n), fatal }),
                    Step::End(n) => rig.end(n),
                    Step::Wait(seconds) => rig.wait(Duration::from_secs(seconds)),
                };
                for output in outputs {
                    match output {
                        FetchOutput::Call { feed, live, .. } => prop_assert_eq!(open.insert(feed, live), None),
                        FetchOutput::Close { feed } => prop_assert!(open.remove(&feed).is_some()),
                        FetchOutput::Accept { feed, .. } => prop_assert!(open.contains_key(&feed)),
                    }
                }
                let live = open.values().filter(|live| **live).count();
                prop_assert!(live <= LIVE_STREAMS);
                prop_assert!(open.len() - live <= ROTATING_STREAMS);
                prop_assert!(rig.fetch.first.is_empty() || open.len() - live == ROTATING_STREAMS);
                let idle = !rig.fetch.is_near_first() && rig.fetch.turns.first().is_some_and(|(due, ..)| *due <= rig.now);
                prop_assert!(!idle || open.len() - live == ROTATING_STREAMS);
            }
        }
    }
}
