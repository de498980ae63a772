//! What comes from our own side: the store's appends, the graph's wishes and blocks.

use std::time::Instant;

use super::feeds::Ix;
use super::{Note, Output, Peer, State, Stored};
use crate::refs::FeedId;

impl State {
    pub(super) fn appended(&mut self, now: Instant, id: FeedId, sequence: u64) {
        let ix = self.number(id);
        let feed = &mut self.feeds[ix];
        if sequence <= feed.have {
            return;
        }
        feed.have = sequence;
        self.growth += 1;
        feed.grown = self.growth;
        let from_elsewhere = feed.accepted < sequence;
        feed.accepted = feed.accepted.max(sequence);
        if !feed.wanted() {
            return;
        }
        let turn = self.feeds.turn(ix);
        for (&peer, session) in &mut self.peers {
            let lane = session.lane(ix);
            if lane.tx && lane.open() {
                if lane.sent < sequence {
                    session.sends.insert(turn);
                    self.ready.insert(peer);
                }
            } else if lane.wants_news(sequence) {
                session.tell_soon(turn, now);
            }
        }
        if from_elsewhere {
            self.settle(ix, now);
        }
    }

    pub(super) fn follow(&mut self, now: Instant, id: FeedId, rank: u32) {
        let ix = self.number(id);
        if self.feeds[ix].rank.replace(rank).is_some() {
            return self.moved(ix, now);
        }
        self.introduce(ix, None);
        self.find_source(ix, now);
    }

    /// Asks whoever promised most, or else anybody, for a feed that nobody pushes.
    fn find_source(&mut self, ix: Ix, now: Instant) {
        if let Some(best) = self.best_ahead(ix) {
            return self.ask_best(ix, best, now);
        }
        let askable = self.peers.iter().find(|(_, session)| self.askable(ix, session));
        if let Some((&peer, _)) = askable {
            self.ask(ix, peer, now);
        }
    }

    /// A wanted feed is nearer or further than before.
    fn moved(&mut self, ix: Ix, now: Instant) {
        match self.feeds[ix].source {
            Some(_) => self.charge(ix),
            None => self.find_source(ix, now),
        }
    }

    /// Tells peers of a feed that may pass between us from now on. A peer that holds what we hold and
    /// was told nothing else needs no word.
    fn introduce(&mut self, ix: Ix, only: Option<Peer>) {
        let turn = self.feeds.turn(ix);
        let have = self.feeds[ix].have;
        let recovering = self.recover_own && self.feeds[ix].id == self.me;
        for (&peer, session) in &mut self.peers {
            let lane = session.lane(ix);
            let even =
                have > 0 && lane.theirs == Some(Stored::At(have)) && lane.told.is_none() && !recovering;
            if lane.open() && !even && only.is_none_or(|only| only == peer) {
                if lane.tx {
                    session.sends.insert(turn);
                }
                session.tell(turn);
                self.ready.insert(peer);
            }
        }
    }

    pub(super) fn unfollow(&mut self, now: Instant, id: FeedId) {
        let Some(ix) = self.feeds.find(&id) else { return };
        self.set_source(ix, None, now);
        self.feeds[ix].rank = None;
        self.feeds[ix].accepted = self.feeds[ix].have;
        let peers: Vec<_> = self.peers().collect();
        for peer in peers {
            self.withdraw(peer, ix);
        }
    }

    /// Stops sending the feed to a peer and says that we do not replicate it.
    pub(super) fn withdraw(&mut self, peer: Peer, ix: Ix) {
        let turn = self.feeds.turn(ix);
        let Some(session) = self.peers.get_mut(&peer) else { return };
        let lane = session.lane_mut(ix);
        if lane.halt() {
            self.out.push_back(Output::CancelSend { peer, feed: self.feeds[ix].id });
        }
        if lane.agreed() {
            session.tell(turn);
            self.ready.insert(peer);
        }
    }

    pub(super) fn block(&mut self, now: Instant, from: FeedId, to: Peer) {
        self.blocks.insert((to, from));
        if from == self.me {
            if self.peers.contains_key(&to) {
                self.out.push_back(Output::EndStream { peer: to, error: None });
                self.disconnected(now, to);
            }
            return;
        }
        let Some(ix) = self.feeds.find(&from) else { return };
        let Some(session) = self.peers.get_mut(&to) else { return };
        session.lane_mut(ix).blocked = true;
        self.withdraw(to, ix);
        self.release(ix, &to, now);
    }

    pub(super) fn unblock(&mut self, now: Instant, from: FeedId, to: Peer) {
        self.blocks.remove(&(to, from));
        let Some(ix) = self.feeds.find(&from) else { return };
        let Some(session) = self.peers.get_mut(&to) else { return };
        if std::mem::replace(&mut session.lane_mut(ix).blocked, false) && self.feeds[ix].wanted() {
            self.introduce(ix, Some(to));
            self.adopt_source(ix, to, now);
        }
    }

    pub(super) fn set_recover_own(&mut self, now: Instant, on: bool) {
        self.recover_own = on;
        let Some(ix) = self.feeds.find(&self.me) else { return };
        if !on {
            self.set_source(ix, None, now);
        } else if self.feeds[ix].wanted() {
            self.introduce(ix, None);
            self.find_source(ix, now);
        }
    }

    /// The feed's number. If it is new, what peers said of it as strangers is theirs from now on.
    fn number(&mut self, id: FeedId) -> Ix {
        if let Some(ix) = self.feeds.find(&id) {
            return ix;
        }
        let ix = self.feeds.intern(id);
        for (&peer, session) in &mut self.peers {
            if let Some(note) = session.strangers.remove(&id) {
                self.strangers -= 1;
                let lane = session.lane_mut(ix);
                lane.hear(note);
                lane.told = Some(Note::REFUSE);
                lane.refused = true;
                session.refusals.retain(|refused| *refused != id);
            }
            if self.blocks.contains(&(peer, id)) {
                session.lane_mut(ix).blocked = true;
            }
        }
        ix
    }
}
