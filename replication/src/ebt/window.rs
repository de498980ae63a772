//! How much is asked of one peer at a time, so that near feeds come first.
//!
//! A sender streams all feeds that it was asked for side by side, JavaScript peers a message of each in
//! turn. So near feeds are early only if far ones are not asked for yet. Our own feed and those that we follow
//! are asked for at once. All others wait until the peer owes us nothing of those, and then only so many are
//! open that it owes us a [`WINDOW`] of messages: nearest first, and of those equally near first what grew
//! last in our store. A waiting feed is named as one not to be pushed, so that the peer says how much of
//! it there is.
//!
//! What always holds: a feed waits at every peer that is known to have more of it, so that it is lost with
//! none of them; a feed that stalls keeps nobody waiting; and a peer that hardly sends anything
//! is asked for another window of feeds every [`PATIENCE`]. So nothing waits for ever, whatever peers promise.

use std::time::{Duration, Instant};

use super::feeds::{Ix, Place};
use super::peer::{NEAR, Session};
use super::{Peer, State, Stored};

/// Messages that a peer may owe us before further feeds wait: well above what is under way on a fast line.
pub const WINDOW: u64 = 8_192;

/// How long feeds wait while little comes.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A peer that sends fewer messages within [`PATIENCE`] keeps no feed waiting.
const TRICKLE: u64 = 50;

/// A feed of which the peer has not said how much it has fills this part of a window.
const UNKNOWN_PART: u64 = 128;

/// Whatever is promised, one feed counts as no more; the sum of all feeds stays a number.
const MOST: u64 = 1 << 32;

/// Messages that are owed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// Of feeds for which others wait.
    pub(super) near: u64,
    /// Of feeds that share the window.
    pub(super) far: u64,
}

impl State {
    /// The same with another window, in messages.
    #[cfg(test)]
    pub(super) fn with_window(self, window: u64) -> Self {
        Self { window: window.max(1), ..self }
    }

    /// Whether the feed is asked for without a look at the window.
    fn is_near(&self, ix: Ix) -> bool {
        matches!(self.feeds[ix].rank, Some(0..=NEAR))
    }

    /// How much of the window the feed would fill with this peer.
    fn cost(&self, ix: Ix, session: &Session) -> u64 {
        let lane = session.lane(ix);
        match lane.theirs {
            _ if lane.stalled => 0,
            None => (self.window / UNKNOWN_PART).max(1),
            Some(Stored::Refused) => 0,
            Some(Stored::At(sequence)) => sequence.saturating_sub(self.feeds[ix].accepted).min(MOST),
        }
    }

    /// Asks `peer` for the feed, now or when its turn comes.
    pub(super) fn ask(&mut self, ix: Ix, peer: Peer, now: Instant) {
        let Some(session) = self.peers.get(&peer) else { return };
        if self.is_near(ix) || self.cost(ix, session) == 0 {
            self.set_source(ix, Some(peer), now);
        } else {
            self.wait_at(ix, peer);
        }
    }

    /// Asks the best of those who promised more: now if it has room, else whoever has room first.
    pub(super) fn ask_best(&mut self, ix: Ix, best: Peer, now: Instant) {
        if self.is_near(ix) || self.peers.get(&best).is_some_and(Session::has_room) {
            return self.set_source(ix, Some(best), now);
        }
        let ahead = self.peers.iter().filter(|(_, session)| self.ahead(ix, session));
        let ahead: Vec<_> = ahead.map(|(&peer, _)| peer).collect();
        for peer in ahead {
            self.wait_at(ix, peer);
        }
    }

    fn wait_at(&mut self, ix: Ix, peer: Peer) {
        let place = self.feeds.place(ix);
        if let Some(session) = self.peers.get_mut(&peer) {
            session.waiting.insert(place);
            self.refills.insert(peer);
        }
    }

    /// Puts right what the feed's source is taken to owe of it.
    pub(super) fn charge(&mut self, ix: Ix) {
        let Some(session) = self.feeds[ix].source.and_then(|source| self.peers.get(&source)) else { return };
        let cost = self.cost(ix, session);
        let load = if self.is_near(ix) { Load { near: cost, far: 0 } } else { Load { near: 0, far: cost } };
        self.set_load(ix, load);
    }

    /// Nobody owes the feed any more.
    pub(super) fn discharge(&mut self, ix: Ix) {
        self.set_load(ix, Load::default());
    }

    fn set_load(&mut self, ix: Ix, load: Load) {
        let before = std::mem::replace(&mut self.feeds[ix].load, load);
        let Some(source) = self.feeds[ix].source.filter(|_| before != load) else { return };
        let Some(session) = self.peers.get_mut(&source) else { return };
        session.load.near = session.load.near - before.near + load.near;
        session.load.far = session.load.far - before.far + load.far;
        if session.has_room() && !session.waiting.is_empty() {
            self.refills.insert(source);
        }
    }

    /// Opens what waits wherever there is room.
    pub(super) fn refill_all(&mut self, now: Instant) {
        while let Some(peer) = self.refills.pop_first() {
            self.refill(peer, now);
        }
    }

    fn refill(&mut self, peer: Peer, now: Instant) {
        while let Some(session) = self.peers.get_mut(&peer)
            && session.may_open()
            && let Some(Place { ix, .. }) = session.waiting.pop_first()
        {
            if self.is_worth_asking(ix, &peer) {
                self.set_source(ix, Some(peer), now);
            }
        }
        let window = self.window;
        if let Some(session) = self.peers.get_mut(&peer) {
            session.pace(window, now);
        }
    }

    /// Whether a feed that waited is still to be asked of this peer.
    fn is_worth_asking(&self, ix: Ix, peer: &Peer) -> bool {
        let Some(session) = self.peers.get(peer) else { return false };
        match self.feeds[ix].source {
            None => self.askable(ix, session),
            Some(source) if source == *peer => false,
            Some(source) => {
                let doubtful = self.has_stalled(ix, &source) && !session.lane(ix).stalled;
                self.ahead(ix, session) && (doubtful || !self.is_ahead(ix, &source))
            }
        }
    }

    /// Opens another window of feeds if hardly anything came since the last look.
    pub(super) fn look_at_pace(&mut self, peer: Peer, now: Instant) {
        let Some(session) = self.peers.get_mut(&peer) else { return };
        session.trickles = std::mem::take(&mut session.taken) < TRICKLE;
        if session.trickles {
            session.window = session.load.far + self.window;
            self.refills.insert(peer);
        }
        session.pace_at = Some(now + PATIENCE);
    }
}

impl Session {
    /// Whether a feed that waits may be asked for.
    const fn may_open(&self) -> bool {
        (self.load.near == 0 || self.trickles) && self.load.far < self.window
    }

    /// Whether so little is owed that it is time to ask for more. Not at the first free place, so that one
    /// packet names many feeds.
    pub(super) const fn has_room(&self) -> bool {
        self.may_open() && self.load.far <= self.window / 2
    }

    /// Looks at the pace for as long as feeds wait.
    fn pace(&mut self, window: u64, now: Instant) {
        if self.waiting.is_empty() {
            self.window = window;
            self.trickles = false;
            self.pace_at = None;
        } else if self.pace_at.is_none() {
            self.taken = 0;
            self.pace_at = Some(now + PATIENCE);
        }
    }
}
