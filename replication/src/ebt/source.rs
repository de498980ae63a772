//! One source per feed: who is asked to push it, and when somebody else is asked instead.
//!
//! A source keeps the feed while it has more than we do; one that ran dry stays until a peer promises
//! more. A source that owes us messages and sends nothing new for [`STALL`] loses its feeds to the next
//! peer, in a circle, that promised more.

use std::cmp::Reverse;
use std::ops::Bound;
use std::time::{Duration, Instant};

use super::feeds::Ix;
use super::peer::{STALL, Session};
use super::{Peer, State, Stored};

/// How long one feed may make no progress with a source that does send other feeds.
const FEED_STALL: Duration = Duration::from_secs(60);

impl State {
    /// Whether the peer may be asked to push the feed.
    pub(super) fn askable(&self, ix: Ix, session: &Session) -> bool {
        let feed = &self.feeds[ix];
        session.speaks
            && feed.wanted()
            && (self.recover_own || feed.id != self.me)
            && session.lane(ix).open()
            && session.lane(ix).theirs != Some(Stored::Refused)
    }

    /// Whether the peer promised more of the feed than we accepted, and may be asked for it.
    pub(super) fn ahead(&self, ix: Ix, session: &Session) -> bool {
        session.lane(ix).at() > Some(self.feeds[ix].accepted) && self.askable(ix, session)
    }

    pub(super) fn is_ahead(&self, ix: Ix, peer: &Peer) -> bool {
        self.peers.get(peer).is_some_and(|session| self.ahead(ix, session))
    }

    /// The peer that promised most, the least busy of those; rather one that kept its promises.
    pub(super) fn best_ahead(&self, ix: Ix) -> Option<Peer> {
        let ahead = self.peers.iter().filter(|(_, session)| self.ahead(ix, session));
        let merit = |session: &Session| {
            let lane = session.lane(ix);
            (!lane.stalled, lane.at(), Reverse(session.owing().len()))
        };
        ahead.max_by_key(|(_, session)| merit(session)).map(|(&peer, _)| peer)
    }

    pub(super) fn has_stalled(&self, ix: Ix, peer: &Peer) -> bool {
        self.peers.get(peer).is_some_and(|session| session.lane(ix).stalled)
    }

    /// Whom to ask after `peer`: the next one in a circle that promised more.
    pub(super) fn next_ahead(&self, ix: Ix, peer: &Peer) -> Option<Peer> {
        let after = self.peers.range((Bound::Excluded(*peer), Bound::Unbounded));
        let circle = after.chain(self.peers.range(..*peer));
        circle.filter(|(_, session)| self.ahead(ix, session)).map(|(&peer, _)| peer).next()
    }

    /// Makes `source` the one that pushes the feed, and has both told.
    pub(super) fn set_source(&mut self, ix: Ix, source: Option<Peer>, now: Instant) {
        let turn = self.feeds.turn(ix);
        self.discharge(ix);
        let old = std::mem::replace(&mut self.feeds[ix].source, source);
        if let Some(old) = old
            && let Some(session) = self.peers.get_mut(&old)
        {
            session.owe_nothing(ix);
            if session.lane(ix).told.is_some() {
                session.tell(turn);
                self.ready.insert(old);
            }
        }
        self.feeds[ix].progress_at = Some(now);
        if let Some(new) = source
            && let Some(session) = self.peers.get_mut(&new)
        {
            session.lane_mut(ix).repeat = true;
            session.tell(turn);
            self.ready.insert(new);
        }
        self.settle(ix, now);
    }

    /// Puts right who owes us the feed, after what we accepted or what a peer promised has changed.
    pub(super) fn settle(&mut self, ix: Ix, now: Instant) {
        let Some(source) = self.feeds[ix].source else { return };
        self.charge(ix);
        let ahead = self.is_ahead(ix, &source);
        if let Some(session) = self.peers.get_mut(&source) {
            if ahead {
                session.owe(ix, now);
            } else {
                session.owe_nothing(ix);
            }
        }
        let doubtful = self.has_stalled(ix, &source);
        if ahead && !doubtful {
            return;
        }
        // A source that only claims to have more is left as soon as another one claims it.
        if let Some(better) = self.best_ahead(ix).filter(|best| !ahead || !self.has_stalled(ix, best)) {
            self.ask_best(ix, better, now);
        }
    }

    /// Takes the feed from `peer` if it is the source, and asks the best of the others.
    pub(super) fn release(&mut self, ix: Ix, peer: &Peer, now: Instant) {
        if self.feeds[ix].source == Some(*peer) {
            self.set_source(ix, None, now);
            if let Some(best) = self.best_ahead(ix) {
                self.ask_best(ix, best, now);
            }
        }
    }

    /// Looks at what a peer owes, when its deadline came.
    pub(super) fn check(&mut self, peer: Peer, now: Instant) {
        let Some(session) = self.peers.get(&peer) else { return };
        let progress_at = session.progress_at.unwrap_or(now);
        let stalled = progress_at + STALL <= now;
        let late = |at: Option<Instant>| at.is_some_and(|at| at + FEED_STALL <= now);
        let owing = session.owing().iter().copied();
        let late: Vec<_> = owing.filter(|&ix| stalled || late(self.feeds[ix].progress_at)).collect();
        for ix in late {
            if let Some(session) = self.peers.get_mut(&peer) {
                session.lane_mut(ix).stalled = true;
            }
            self.charge(ix);
            match self.next_ahead(ix, &peer) {
                Some(next) => self.set_source(ix, Some(next), now),
                None => self.ask_again(ix, peer),
            }
        }
        if let Some(session) = self.peers.get_mut(&peer) {
            let next = if stalled { now } else { progress_at } + STALL;
            session.check_at = (!session.owing().is_empty()).then_some(next);
        }
    }

    /// Tells a source where we are. If it was told just that, nothing is sent.
    pub(super) fn ask_again(&mut self, ix: Ix, peer: Peer) {
        let turn = self.feeds.turn(ix);
        if let Some(session) = self.peers.get_mut(&peer) {
            session.tell(turn);
            self.ready.insert(peer);
        }
    }

    /// Asks again for a feed after a message of it could not be stored.
    pub(super) fn retry(&mut self, ix: Ix, now: Instant) {
        if self.feeds[ix].source.is_none()
            && let Some(best) = self.best_ahead(ix)
        {
            self.set_source(ix, Some(best), now);
        }
    }
}
