//! The machine: inputs are turned into marks on feeds and peers, and outputs are made from the marks
//! when they are polled, so that however much happened to a feed, a peer is told its latest state once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use super::feeds::{Feed, Feeds, Ix};
use super::peer::{Lane, Session};
use super::{
    Input, MAX_NOTES_SENT, Note, Notes, Output, Owed, Peer, PeerClock, PeerStatus, Progress, WINDOW,
};
use crate::refs::FeedId;

/// Replication of one node with all its peers. See the module's documentation for how to drive it.
#[derive(Debug)]
pub struct State {
    pub(super) me: FeedId,
    pub(super) recover_own: bool,
    pub(super) feeds: Feeds,
    pub(super) peers: BTreeMap<Peer, Session>,
    /// Whom feed owners block, by the blocked peer.
    pub(super) blocks: BTreeSet<(Peer, FeedId)>,
    /// Feeds to ask for again after a failure of ours.
    pub(super) retries: BTreeSet<(Instant, Ix)>,
    /// The clock of the peer whose stream the latest input ended.
    pub(super) departed: Option<(Peer, PeerClock)>,
    /// Feeds remembered as strangers by all sessions.
    pub(super) strangers: usize,
    /// Messages that a peer may owe us.
    pub(super) window: u64,
    /// Peers that may be asked for more.
    pub(super) refills: BTreeSet<Peer>,
    /// How often the store grew.
    pub(super) growth: u64,
    /// Peers with something to send.
    pub(super) ready: BTreeSet<Peer>,
    pub(super) out: VecDeque<Output>,
}

impl State {
    /// A node that holds nothing, wants nothing and knows nobody.
    pub fn new(me: FeedId) -> Self {
        Self {
            me,
            recover_own: false,
            feeds: Feeds::default(),
            peers: BTreeMap::new(),
            blocks: BTreeSet::new(),
            retries: BTreeSet::new(),
            departed: None,
            strangers: 0,
            window: WINDOW,
            refills: BTreeSet::new(),
            growth: 0,
            ready: BTreeSet::new(),
            out: VecDeque::new(),
        }
    }

    /// Takes one input. Drain [`Self::poll_output`] before the next.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.departed = None;
        match input {
            Input::Connected { peer, role, clock } => self.connected(now, peer, role, clock),
            Input::Disconnected { peer } => self.disconnected(now, peer),
            Input::Notes { peer, notes } => self.notes(now, peer, notes),
            Input::Received { peer, feed, sequence } => self.received(now, peer, feed, sequence),
            Input::Appended { feed, sequence } => self.appended(now, feed, sequence),
            Input::Rejected { peer, feed, fatal } => self.rejected(now, peer, feed, fatal),
            Input::Replicate { feed, rank: Some(rank) } => self.follow(now, feed, rank),
            Input::Replicate { feed, rank: None } => self.unfollow(now, feed),
            Input::Block { from, to, on: true } => self.block(now, from, to),
            Input::Block { from, to, on: false } => self.unblock(now, from, to),
            Input::RecoverOwn(on) => self.set_recover_own(now, on),
        }
        self.refill_all(now);
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.out.pop_front() {
            return Some(output);
        }
        while let Some(&peer) = self.ready.first() {
            if let Some(output) = self.next_send(peer).or_else(|| self.next_notes(peer)) {
                return Some(output);
            }
            self.ready.remove(&peer);
        }
        None
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let retry = self.retries.first().map(|&(at, _)| at);
        self.peers.values().filter_map(Session::next_timeout).chain(retry).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.departed = None;
        while let Some(&(at, ix)) = self.retries.first().filter(|&&(at, _)| at <= now) {
            self.retries.remove(&(at, ix));
            self.feeds[ix].retrying = false;
            self.retry(ix, now);
        }
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let mut stalled = Vec::new();
        let mut slow = Vec::new();
        for (&peer, session) in &mut self.peers {
            if due(session.lazy_at) {
                session.tell_news(&self.feeds);
                self.ready.insert(peer);
            }
            if due(session.save_at) {
                session.save_at = None;
                self.out.push_back(Output::ClockChanged { peer });
            }
            if due(session.check_at) {
                stalled.push(peer);
            }
            if due(session.pace_at) {
                slow.push(peer);
            }
        }
        for peer in stalled {
            self.check(peer, now);
        }
        for peer in slow {
            self.look_at_pace(peer, now);
        }
        self.refill_all(now);
    }

    /// What to store of a peer's clock, while it is connected and right after its
    /// [`Output::ClockChanged`].
    pub fn clock(&self, peer: &Peer) -> Option<PeerClock> {
        let departed = self.departed.as_ref().filter(|(departed, _)| departed == peer);
        let connected = self.peers.get(peer).filter(|session| session.speaks);
        connected
            .map(|session| session.clock(&self.feeds))
            .or_else(|| departed.map(|(_, clock)| clock.clone()))
    }

    /// The state of one feed with every connected peer.
    pub fn status(&self, feed: &FeedId) -> PeerStatus {
        let Some(ix) = self.feeds.find(feed) else {
            return PeerStatus { id: *feed, seq: 0, peers: BTreeMap::new() };
        };
        let peers = self.peers.iter().filter_map(|(&peer, session)| Some((peer, session.status(ix)?)));
        PeerStatus { id: *feed, seq: self.feeds[ix].have, peers: peers.collect() }
    }

    /// How far replication has come. Looks at every wanted feed of every peer.
    pub fn progress(&self) -> Progress {
        let mut progress = Progress::default();
        for (ix, feed) in self.feeds.wanted() {
            let askable = self.peers.values().filter(|session| self.askable(ix, session));
            let most = askable.filter_map(|session| session.lane(ix).at()).max().unwrap_or(0);
            progress.feeds += 1;
            progress.behind += u64::from(most > feed.have);
            progress.want = progress.want.saturating_add(most.max(feed.have));
            progress.have += feed.have;
        }
        progress
    }

    /// Whether a connected peer owes us messages: we asked for them, and it says that it has them.
    pub fn is_owed(&self) -> bool {
        self.peers.values().any(|session| !session.owing().is_empty())
    }

    /// The most that any connected peer claims to hold of our own feed, if that is more than we hold:
    /// whoever publishes then forks the feed.
    pub fn own_feed_ahead(&self) -> Option<u64> {
        let ix = self.feeds.find(&self.me)?;
        let most = self.peers.values().filter_map(|session| session.lane(ix).at()).max()?;
        (most > self.feeds[ix].have).then_some(most)
    }

    /// What a connected peer says to have beyond what we hold of wanted feeds. Looks at every wanted feed.
    pub fn owed(&self, peer: &Peer) -> Owed {
        let mut owed = Owed::default();
        let Some(session) = self.peers.get(peer) else { return owed };
        for (ix, feed) in self.feeds.wanted().filter(|(ix, _)| self.askable(*ix, session)) {
            let lane = session.lane(ix);
            let more = lane.at().unwrap_or(0).saturating_sub(feed.have);
            let asked = lane.told.is_some_and(|note| note.replicate && note.receive);
            owed.messages = owed.messages.saturating_add(more);
            owed.asked |= more > 0 && asked;
        }
        owed
    }

    /// The connected peers.
    pub fn peers(&self) -> impl Iterator<Item = Peer> + '_ {
        self.peers.keys().copied()
    }

    // Outputs made of marks.

    fn next_send(&mut self, peer: Peer) -> Option<Output> {
        let session = self.peers.get_mut(&peer)?;
        while let Some((_, ix)) = session.sends.pop_first() {
            let feed = &self.feeds[ix];
            let lane = session.lane_mut(ix);
            if lane.tx && feed.wanted() && lane.open() && lane.sent < feed.have {
                let from = lane.sent + 1;
                lane.sent = feed.have;
                lane.issued = true;
                return Some(Output::Send { peer, feed: feed.id, from, to: feed.have });
            }
        }
        None
    }

    fn next_notes(&mut self, peer: Peer) -> Option<Output> {
        let session = self.peers.get_mut(&peer)?;
        if !session.speaks || !(session.urgent || session.hello) {
            return None;
        }
        let mut notes = Notes::default();
        let mut refused = false;
        while notes.len() < MAX_NOTES_SENT
            && let Some((_, ix)) = session.notes.pop_first()
        {
            let note = desired(&self.feeds[ix], session.lane(ix), peer);
            let lane = session.lane_mut(ix);
            if lane.told != Some(note) || lane.repeat {
                lane.told = Some(note);
                if note == Note::REFUSE {
                    lane.refused = true;
                    refused = true;
                }
                notes.push(self.feeds[ix].id, note);
            }
            lane.repeat = false;
        }
        while notes.len() < MAX_NOTES_SENT
            && let Some(feed) = session.refusals.pop()
        {
            notes.push(feed, Note::REFUSE);
        }
        if session.notes.is_empty() && session.refusals.is_empty() {
            session.urgent = false;
        }
        if refused {
            // The stored clock must not go on to say that the feed is even.
            session.save_at = None;
            self.out.push_back(Output::ClockChanged { peer });
        }
        let hello = std::mem::replace(&mut session.hello, false);
        (hello || !notes.is_empty()).then_some(Output::SendNotes { peer, notes })
    }
}

/// What the peer ought to know of the feed.
fn desired(feed: &Feed, lane: &Lane, peer: Peer) -> Note {
    if !feed.wanted() || !lane.open() {
        Note::REFUSE
    } else if feed.source == Some(peer) {
        Note::new(feed.accepted, true)
    } else {
        Note::new(feed.have, false)
    }
}
