//! What comes from peers: streams that open and end, notes, messages.

use std::time::Instant;

use super::feeds::{Feed, Ix};
use super::peer::{SAVE, STALL, Session};
use super::{
    MAX_PEERS, MAX_STRANGERS, MAX_STRANGERS_IN_ALL, Note, Notes, Output, Peer, PeerClock, RECONNECTED, Role,
    State, Stored, TOO_MANY_PEERS,
};
use crate::refs::FeedId;

impl State {
    pub(super) fn connected(&mut self, now: Instant, peer: Peer, role: Role, clock: PeerClock) {
        if peer.0 == self.me || self.blocks.contains(&(peer, self.me)) {
            return self.out.push_back(Output::EndStream { peer, error: None });
        }
        let clock = if self.peers.contains_key(&peer) {
            self.out.push_back(Output::EndStream { peer, error: Some(RECONNECTED) });
            // What the first stream taught us is newer than what was stored before it.
            self.forget(now, peer).unwrap_or(clock)
        } else if self.peers.len() >= MAX_PEERS {
            return self.out.push_back(Output::EndStream { peer, error: Some(TOO_MANY_PEERS) });
        } else {
            clock
        };
        let mut session = Session::new(role, self.window);
        for (feed, stored) in clock.iter() {
            if let Some(ix) = self.feeds.find(&feed) {
                session.lane_mut(ix).theirs = Some(stored);
            }
        }
        let first = (peer, FeedId::from_bytes([0; 32]));
        for (_, feed) in self.blocks.range(first..).take_while(|(blocked, _)| *blocked == peer) {
            if let Some(ix) = self.feeds.find(feed) {
                session.lane_mut(ix).blocked = true;
            }
        }
        self.peers.insert(peer, session);
        if role == Role::Callee {
            self.greet(now, peer);
        }
    }

    pub(super) fn disconnected(&mut self, now: Instant, peer: Peer) {
        if let Some(clock) = self.forget(now, peer) {
            self.departed = Some((peer, clock));
            self.out.push_back(Output::ClockChanged { peer });
        }
    }

    /// Drops the peer's session; gives its clock if it may have changed.
    fn forget(&mut self, now: Instant, peer: Peer) -> Option<PeerClock> {
        let session = self.peers.remove(&peer)?;
        self.ready.remove(&peer);
        self.refills.remove(&peer);
        self.strangers -= session.strangers.len();
        let sourced = self.feeds.wanted().filter(|(_, feed)| feed.source == Some(peer));
        let sourced: Vec<_> = sourced.map(|(ix, _)| ix).collect();
        for ix in sourced {
            self.release(ix, &peer, now);
        }
        session.speaks.then(|| session.clock(&self.feeds))
    }

    /// Queues the first packet: the wanted feeds of which the peer holds something else than we do,
    /// those of which we hold nothing in any case.
    fn greet(&mut self, now: Instant, peer: Peer) {
        let Some(session) = self.peers.get(&peer) else { return };
        let differs = |(ix, feed): (Ix, &Feed)| {
            let lane = session.lane(ix);
            let recovering = self.recover_own && feed.id == self.me;
            let differs = match lane.theirs {
                None => true,
                Some(Stored::Refused) => false,
                Some(Stored::At(sequence)) => sequence != feed.have || feed.have == 0,
            };
            (lane.open() && (differs || recovering)).then_some(ix)
        };
        let named: Vec<_> = self.feeds.wanted().filter_map(differs).collect();
        for ix in named {
            let turn = self.feeds.turn(ix);
            if let Some(session) = self.peers.get_mut(&peer) {
                session.tell(turn);
            }
            self.adopt_source(ix, peer, now);
        }
        self.ready.insert(peer);
    }

    /// A feed that nobody pushes is asked from the peer at hand, so that new messages come at once.
    pub(super) fn adopt_source(&mut self, ix: Ix, peer: Peer, now: Instant) {
        if self.feeds[ix].source.is_none()
            && self.peers.get(&peer).is_some_and(|session| self.askable(ix, session))
        {
            self.ask(ix, peer, now);
        }
    }

    pub(super) fn notes(&mut self, now: Instant, peer: Peer, notes: Notes) {
        let Some(session) = self.peers.get_mut(&peer) else { return };
        let first = !std::mem::replace(&mut session.speaks, true);
        for (feed, note) in notes {
            match self.feeds.find(&feed) {
                Some(ix) => self.note(now, peer, ix, note),
                None => self.stranger(peer, feed, note),
            }
        }
        if first {
            self.greet(now, peer);
        }
    }

    fn note(&mut self, now: Instant, peer: Peer, ix: Ix, note: Note) {
        let turn = self.feeds.turn(ix);
        let feed = &self.feeds[ix];
        let Some(session) = self.peers.get_mut(&peer) else { return };
        let lane = session.lane_mut(ix);
        // A refusal taken back is stored at once: an outdated one silences the feed.
        let taken_back = note.replicate && lane.theirs == Some(Stored::Refused);
        if lane.hear(note) {
            self.out.push_back(Output::CancelSend { peer, feed: feed.id });
        }
        session.save(if taken_back { now } else { now + SAVE });
        let lane = session.lane_mut(ix);
        if !feed.wanted() || !lane.open() {
            if note.replicate && lane.told != Some(Note::REFUSE) {
                session.tell(turn);
                self.ready.insert(peer);
            }
            return;
        }
        let behind = note.replicate && note.sequence < feed.have;
        let new = lane.told.is_none();
        // A peer behind may have let go of a source that had nothing for it; it asks again if reminded.
        lane.repeat |= behind && !note.receive;
        if new || lane.repeat {
            session.tell(turn);
        }
        if behind && note.receive {
            session.sends.insert(turn);
        }
        self.ready.insert(peer);
        self.promised(now, peer, ix, new);
    }

    /// What the peer holds has changed: it may be worth asking, or no longer.
    fn promised(&mut self, now: Instant, peer: Peer, ix: Ix, new: bool) {
        match self.feeds[ix].source {
            Some(source) if source == peer => {
                if self.peers.get(&peer).is_some_and(|session| self.askable(ix, session)) {
                    self.settle(ix, now);
                } else {
                    self.release(ix, &peer, now);
                }
            }
            Some(_) => self.settle(ix, now),
            None if new || self.is_ahead(ix, &peer) => self.adopt_source(ix, peer, now),
            None => {}
        }
    }

    /// A feed that we neither hold nor want is refused, once, and remembered in case that changes.
    fn stranger(&mut self, peer: Peer, feed: FeedId, note: Note) {
        let Some(session) = self.peers.get_mut(&peer) else { return };
        if let Some(known) = session.strangers.get_mut(&feed) {
            *known = note;
            return;
        }
        if session.strangers.len() >= MAX_STRANGERS || self.strangers >= MAX_STRANGERS_IN_ALL {
            return;
        }
        session.strangers.insert(feed, note);
        self.strangers += 1;
        if note.replicate {
            session.refuse(feed);
            self.ready.insert(peer);
        }
    }

    pub(super) fn received(&mut self, now: Instant, peer: Peer, id: FeedId, sequence: u64) {
        let Some(ix) = self.feeds.find(&id) else { return };
        let Some(session) = self.peers.get_mut(&peer) else { return };
        let feed = &mut self.feeds[ix];
        let lane = session.lane_mut(ix);
        if !feed.wanted() || !lane.open() || !lane.agreed() {
            return;
        }
        lane.raise(sequence);
        let dry = lane.at() <= Some(sequence);
        if id == self.me && !self.recover_own {
            return;
        }
        if sequence == feed.accepted + 1 {
            lane.stalled = false;
            feed.accepted = sequence;
            feed.progress_at = Some(now);
            session.progress_at = Some(now);
            session.taken += 1;
            session.save(now + SAVE);
            let settled = !dry && feed.source == Some(peer);
            self.out.push_back(Output::Accept { peer, feed: id, sequence });
            if settled {
                self.charge(ix);
            } else {
                self.settle(ix, now);
            }
        } else if feed.source == Some(peer) {
            self.out_of_step(now, peer, ix, sequence);
        }
    }

    /// The source sent something else than the next message.
    fn out_of_step(&mut self, now: Instant, peer: Peer, ix: Ix, sequence: u64) {
        let accepted = self.feeds[ix].accepted;
        let asked = self.peers.get(&peer).and_then(|session| session.lane(ix).told).map(|note| note.sequence);
        if sequence > accepted {
            // A gap: it does not know where we are, unless we already said so.
            self.ask_again(ix, peer);
        } else if asked.is_some_and(|asked| asked < sequence) {
            // We have it from elsewhere by now.
            if self.is_ahead(ix, &peer) {
                self.ask_again(ix, peer);
            } else {
                self.set_source(ix, None, now);
            }
        }
    }

    pub(super) fn rejected(&mut self, now: Instant, peer: Peer, id: FeedId, fatal: bool) {
        let Some(ix) = self.feeds.find(&id) else { return };
        if fatal {
            if let Some(session) = self.peers.get_mut(&peer)
                && std::mem::replace(&mut session.lane_mut(ix).rejected, true)
            {
                // More of the same, still under way when the first was found bad.
                return;
            }
            self.withdraw(peer, ix);
        }
        // Whoever pushes now goes on behind what is rolled back.
        self.feeds[ix].accepted = self.feeds[ix].have;
        self.set_source(ix, None, now);
        if !fatal {
            if !std::mem::replace(&mut self.feeds[ix].retrying, true) {
                self.retries.insert((now + STALL, ix));
            }
        } else if let Some(next) = self.next_ahead(ix, &peer) {
            self.set_source(ix, Some(next), now);
        }
    }
}
