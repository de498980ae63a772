//! How epidemic-broadcast-trees 9 behaves, as far as its peers can tell; written from the protocol
//! reference's rules. It differs from ours: it asks even for its own feed, keeps what peers hold of
//! unwanted feeds, believes whoever spoke last, gives up a source for one that claims more, and looks for
//! stalled peers every three seconds.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::ebt::{Input, Note, Output, Peer, PeerClock, Role, Stored};
use crate::refs::FeedId;

const TICK: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug)]
struct Rep {
    tx: bool,
    rx: bool,
    sent: i64,
}

struct Session {
    clock: BTreeMap<FeedId, i64>,
    /// None until the caller may speak.
    reps: Option<BTreeMap<FeedId, Rep>>,
    notes: Option<BTreeMap<FeedId, Note>>,
    heard_at: Option<Instant>,
}

impl Session {
    fn note(&mut self, feed: FeedId, sequence: i64, rx: bool) {
        let note = if sequence < 0 { Note::REFUSE } else { Note::new(sequence as u64, rx) };
        self.notes.get_or_insert_default().insert(feed, note);
        if let Some(rep) = self.reps.as_mut().and_then(|reps| reps.get_mut(&feed)) {
            rep.rx = rx;
        }
    }

    fn rep(&self, feed: &FeedId) -> Option<Rep> {
        self.reps.as_ref().and_then(|reps| reps.get(feed)).copied()
    }

    fn at(&self, feed: &FeedId) -> i64 {
        self.clock.get(feed).copied().unwrap_or(0)
    }
}

pub(super) struct Js {
    me: FeedId,
    clock: BTreeMap<FeedId, i64>,
    follows: BTreeMap<FeedId, ()>,
    peers: BTreeMap<Peer, Session>,
    departed: BTreeMap<Peer, PeerClock>,
    tick_at: Option<Instant>,
    out: VecDeque<Output>,
}

impl Js {
    pub(super) fn new(me: FeedId) -> Self {
        Self {
            me,
            clock: BTreeMap::new(),
            follows: BTreeMap::new(),
            peers: BTreeMap::new(),
            departed: BTreeMap::new(),
            tick_at: None,
            out: VecDeque::new(),
        }
    }

    pub(super) fn handle(&mut self, now: Instant, input: Input) {
        self.tick_at.get_or_insert(now + TICK);
        match input {
            Input::Connected { peer, role, clock } => self.connected(peer, role, &clock),
            Input::Disconnected { peer } => {
                if let Some(session) = self.peers.remove(&peer) {
                    self.departed.insert(peer, stored(&session.clock));
                    self.out.push_back(Output::ClockChanged { peer });
                }
            }
            Input::Notes { peer, notes } => {
                let first = self.peers.get(&peer).is_some_and(|session| session.reps.is_none());
                if first {
                    self.greet(peer);
                }
                for (feed, note) in notes {
                    self.note(now, peer, feed, note);
                }
            }
            Input::Received { peer, feed, sequence } => self.received(now, peer, feed, sequence as i64),
            Input::Appended { feed, sequence } => self.appended(feed, sequence as i64),
            Input::Replicate { feed, rank } => {
                assert!(rank.is_some(), "the model does not unfollow");
                self.follow(feed);
            }
            Input::Rejected { .. } | Input::Block { .. } | Input::RecoverOwn(_) => {
                panic!("the model knows neither blocks nor failures")
            }
        }
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.out.pop_front() {
            return Some(output);
        }
        for (&peer, session) in &mut self.peers {
            if session.reps.is_some()
                && let Some(notes) = session.notes.take()
            {
                return Some(Output::SendNotes { peer, notes: notes.into_iter().collect() });
            }
        }
        None
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.tick_at
    }

    pub(super) fn clock(&self, peer: &Peer) -> Option<PeerClock> {
        self.departed.get(peer).cloned()
    }

    pub(super) fn explain(&self, feed: &FeedId) -> String {
        let peers = self.peers.iter().map(|(peer, s)| (peer, s.clock.get(feed), s.rep(feed)));
        format!("javascript, at {}: {:?}", self.have(feed), peers.collect::<Vec<_>>())
    }

    fn have(&self, feed: &FeedId) -> i64 {
        self.clock.get(feed).copied().unwrap_or(0)
    }

    /// Another peer that feeds this one to us already.
    fn feeder(&self, feed: &FeedId, except: &Peer) -> Option<Peer> {
        let feeds = |session: &Session| session.rep(feed).is_some_and(|rep| rep.rx);
        let mut others = self.peers.iter().filter(|(peer, _)| *peer != except);
        others.find(|(_, session)| feeds(session)).map(|(&peer, _)| peer)
    }

    fn connected(&mut self, peer: Peer, role: Role, clock: &PeerClock) {
        let number = |stored: Stored| stored.sequence().map_or(-1, |sequence| sequence as i64);
        let mut clock = clock.iter().map(|(feed, stored)| (feed, number(stored))).collect();
        if let Some(older) = self.peers.remove(&peer) {
            self.out.push_back(Output::EndStream { peer, error: Some("reconnected to peer") });
            // It is stored as the older stream ends, and read again for the new one.
            clock = older.clock;
        }
        self.peers.insert(peer, Session { clock, reps: None, notes: None, heard_at: None });
        if role == Role::Callee {
            self.greet(peer);
        }
    }

    fn greet(&mut self, peer: Peer) {
        let feeds: Vec<_> = self.follows.keys().copied().collect();
        if let Some(session) = self.peers.get_mut(&peer) {
            session.reps = Some(BTreeMap::new());
            session.notes = Some(BTreeMap::new());
        }
        for feed in feeds {
            let fed = self.feeder(&feed, &peer).is_some();
            let have = self.clock.get(&feed).copied();
            let Some(session) = self.peers.get_mut(&peer) else { return };
            let theirs = session.at(&feed);
            if theirs != -1 && Some(theirs) != have {
                session.reps.get_or_insert_default().insert(feed, Rep { tx: false, rx: !fed, sent: -1 });
                session.note(feed, have.unwrap_or(0), !fed);
            }
        }
    }

    fn note(&mut self, now: Instant, peer: Peer, feed: FeedId, note: Note) {
        let have = self.have(&feed);
        let feeder = self.feeder(&feed, &peer);
        let follows = self.follows.contains_key(&feed);
        let Some(session) = self.peers.get_mut(&peer) else { return };
        let theirs = if note.replicate { note.sequence as i64 } else { -1 };
        session.clock.insert(feed, theirs);
        let known = session.rep(&feed);
        if !follows {
            if known.is_none() {
                session.note(feed, -1, false);
            }
            session.reps.get_or_insert_default().insert(feed, Rep { tx: false, rx: false, sent: -1 });
            return;
        }
        let rep = known.unwrap_or(Rep { tx: true, rx: true, sent: theirs });
        session.reps.get_or_insert_default().insert(feed, rep);
        let mut switch = None;
        if known.is_none() {
            session.note(feed, have, have < theirs && feeder.is_none());
        } else if !rep.rx && theirs > have {
            if feeder.is_none() {
                session.heard_at = Some(now);
                session.note(feed, have, true);
            } else {
                switch = feeder;
            }
        }
        if let Some(old) = switch
            && theirs > self.peers.get(&old).map_or(0, |other| other.at(&feed))
        {
            if let Some(other) = self.peers.get_mut(&old) {
                other.note(feed, have, false);
            }
            if let Some(session) = self.peers.get_mut(&peer) {
                session.heard_at = Some(now);
                session.note(feed, have, true);
            }
        }
        self.serve(peer, feed, note, theirs);
    }

    /// They told where they are and whether to push.
    fn serve(&mut self, peer: Peer, feed: FeedId, note: Note, theirs: i64) {
        let have = self.have(&feed);
        let Some(session) = self.peers.get_mut(&peer) else { return };
        let tx = note.replicate && note.receive;
        let Some(rep) = session.reps.as_mut().and_then(|reps| reps.get_mut(&feed)) else { return };
        rep.tx = tx;
        rep.sent = theirs;
        if have <= theirs {
            return;
        }
        if tx {
            rep.sent = have;
            // What was read but not sent yet stays in its queue; only the position moves.
            let (from, to) = (theirs as u64 + 1, have as u64);
            self.out.push_back(Output::Send { peer, feed, from, to });
        } else if note.replicate {
            let rx = rep.rx;
            session.note(feed, have, rx);
        }
    }

    fn received(&mut self, now: Instant, peer: Peer, feed: FeedId, sequence: i64) {
        let have = self.have(&feed);
        let follows = self.follows.contains_key(&feed);
        let Some(session) = self.peers.get_mut(&peer) else { return };
        let Some(rep) = session.reps.as_mut().and_then(|reps| reps.get_mut(&feed)) else { return };
        rep.sent = rep.sent.max(sequence);
        let rx = rep.rx;
        session.clock.entry(feed).and_modify(|theirs| *theirs = (*theirs).max(sequence));
        if have >= sequence {
            if rx {
                session.note(feed, have, false);
            }
            return;
        }
        session.heard_at = Some(now);
        if follows && feed != self.me {
            let sequence = sequence as u64;
            self.out.push_back(Output::Accept { peer, feed, sequence });
        }
    }

    fn appended(&mut self, feed: FeedId, sequence: i64) {
        self.clock.insert(feed, sequence);
        if !self.follows.contains_key(&feed) {
            return;
        }
        for (&peer, session) in &mut self.peers {
            let Some(reps) = &mut session.reps else { continue };
            let theirs = session.clock.get(&feed).copied();
            match reps.get_mut(&feed) {
                Some(rep) if rep.tx && rep.sent == sequence - 1 => {
                    rep.sent = sequence;
                    let at = sequence as u64;
                    self.out.push_back(Output::Send { peer, feed, from: at, to: at });
                }
                Some(rep) if rep.tx => {}
                _ => {
                    if theirs.is_none_or(|theirs| theirs != -1 && sequence > theirs) {
                        session.note(feed, sequence, false);
                    }
                }
            }
        }
    }

    fn follow(&mut self, feed: FeedId) {
        if self.follows.insert(feed, ()).is_some() {
            return;
        }
        let have = self.clock.get(&feed).copied();
        let mut first = true;
        for session in self.peers.values_mut() {
            let theirs = session.at(&feed);
            if session.reps.is_some() && theirs != -1 && Some(theirs) != have {
                session.reps.get_or_insert_default().insert(feed, Rep { tx: false, rx: true, sent: -1 });
                session.note(feed, have.unwrap_or(0), std::mem::replace(&mut first, false));
            }
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.tick_at = Some(now + TICK);
        let peers: Vec<_> = self.peers.keys().copied().collect();
        let mut orphans = BTreeMap::new();
        for (&peer, session) in &mut self.peers {
            if session.heard_at.is_some_and(|at| at + TICK >= now) {
                continue;
            }
            let reps = session.reps.iter().flatten();
            let fed: Vec<_> = reps.filter(|(_, rep)| rep.rx).map(|(&feed, _)| feed).collect();
            orphans.extend(fed.into_iter().map(|feed| (feed, peer)));
        }
        for (feed, stalled) in orphans {
            let have = self.have(&feed);
            let place = peers.iter().position(|peer| *peer == stalled).unwrap_or(0);
            let circle = (1..peers.len()).map(|i| peers[(place + i) % peers.len()]);
            let next = circle.into_iter().find(|peer| self.peers[peer].at(&feed) > have);
            let Some(next) = next else { continue };
            if let Some(session) = self.peers.get_mut(&stalled) {
                session.note(feed, have, false);
            }
            if let Some(session) = self.peers.get_mut(&next)
                && session.reps.is_some()
            {
                let reps = session.reps.get_or_insert_default();
                reps.entry(feed).or_insert(Rep { tx: false, rx: true, sent: -1 });
                session.note(feed, have, true);
                session.heard_at = Some(now);
            }
        }
    }
}

fn stored(clock: &BTreeMap<FeedId, i64>) -> PeerClock {
    clock.iter().map(|(&feed, &n)| (feed, u64::try_from(n).map_or(Stored::Refused, Stored::At))).collect()
}
