//! What passes between us and one connected peer: a [`Lane`] per feed and the queues of a [`Session`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::feeds::{Feed, Feeds, Ix, Place, Turn};
use super::window::Load;
use super::{FeedStatus, Note, PeerClock, Replicating, Role, Stored};
use crate::refs::FeedId;

/// How long a peer that promised more may send nothing before others are asked.
pub(super) const STALL: Duration = Duration::from_secs(3);

/// How long a mere announcement may wait for company. Requests and answers never wait.
pub(super) const LAZY: Duration = Duration::from_millis(200);

/// How often a changed clock is worth storing while the peer stays connected.
pub(super) const SAVE: Duration = Duration::from_secs(60);

/// Up to this many hops a feed is named on each connection, even if the peer refused it before.
pub(super) const NEAR: u32 = 1;

/// One feed with one peer.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    /// What the peer holds, as far as it said or sent.
    pub(super) theirs: Option<Stored>,
    /// What we last told the peer in this session.
    pub(super) told: Option<Note>,
    /// Up to here the shell was told to send, or the peer is known to hold.
    pub(super) sent: u64,
    /// The peer asked us to push. It may have done so while we refused the feed, and some peers then
    /// do not ask again.
    pub(super) tx: bool,
    /// The shell may still have messages to send.
    pub(super) issued: bool,
    /// The feed's owner blocks the peer.
    pub(super) blocked: bool,
    /// The peer sent something bad of this feed.
    pub(super) rejected: bool,
    /// The peer promised more when last asked and sent nothing.
    pub(super) stalled: bool,
    /// The peer is to be told even what it was told already.
    pub(super) repeat: bool,
    /// The peer was told in this session that we do not replicate the feed. Whatever we say after that
    /// may not have arrived when the stream breaks.
    pub(super) refused: bool,
}

impl Lane {
    const NEW: Self = Self {
        theirs: None,
        told: None,
        sent: 0,
        tx: false,
        issued: false,
        blocked: false,
        rejected: false,
        stalled: false,
        repeat: false,
        refused: false,
    };

    /// Whether the feed may pass at all, in either direction.
    pub(super) const fn open(&self) -> bool {
        !self.blocked && !self.rejected
    }

    /// Up to where the peer holds the feed, if it said and replicates it.
    pub(super) fn at(&self) -> Option<u64> {
        self.theirs.and_then(Stored::sequence)
    }

    /// Whether the peer was told that we replicate the feed.
    pub(super) fn agreed(&self) -> bool {
        self.told.is_some_and(|note| note.replicate)
    }

    /// Whether the peer would want to know that we hold this much.
    pub(super) fn wants_news(&self, have: u64) -> bool {
        self.open()
            && !self.tx
            && match self.theirs {
                None => true,
                Some(Stored::Refused) => false,
                Some(Stored::At(sequence)) => sequence < have,
            }
    }

    /// The peer's word is where to go on from, also if it takes back what we believed. Gives whether the
    /// shell may still have something to drop.
    pub(super) fn hear(&mut self, note: Note) -> bool {
        self.theirs = Some(note.into());
        self.tx = note.replicate && note.receive;
        self.halt()
    }

    /// The peer holds the feed up to here, because it sent that message.
    pub(super) fn raise(&mut self, sequence: u64) {
        self.sent = self.sent.max(sequence);
        self.theirs = Some(Stored::At(self.at().unwrap_or(0).max(sequence)));
    }

    /// Goes back to where the peer says it is; gives whether the shell may still have something to drop.
    pub(super) fn halt(&mut self) -> bool {
        self.sent = self.at().unwrap_or(0);
        std::mem::replace(&mut self.issued, false)
    }

    fn status(&self) -> Option<FeedStatus> {
        let replicating = self.told.map(|told| Replicating {
            tx: self.tx && told.replicate,
            rx: told.receive,
            sent: self.sent,
            requested: told.into(),
        });
        let seq = self.theirs;
        (seq.is_some() || replicating.is_some()).then_some(FeedStatus { seq, replicating })
    }
}

/// Everything about one connected peer.
#[derive(Debug)]
pub(super) struct Session {
    /// Whether we may speak: the caller waits for the first notes.
    pub(super) speaks: bool,
    /// The first packet is due, even if it is empty.
    pub(super) hello: bool,
    lanes: Vec<Lane>,
    /// Feeds that the peer named and that are not ours to number.
    pub(super) strangers: BTreeMap<FeedId, Note>,
    /// Feeds whose note may have to be sent.
    pub(super) notes: BTreeSet<Turn>,
    /// Strangers whose refusal is still to be sent.
    pub(super) refusals: Vec<FeedId>,
    /// There may be notes or refusals to send.
    pub(super) urgent: bool,
    /// Feeds of which we hold more than the peer is known to, which it did not ask for.
    news: BTreeSet<Turn>,
    /// When the news become notes.
    pub(super) lazy_at: Option<Instant>,
    /// Feeds of which we hold more than was sent, and that are pushed.
    pub(super) sends: BTreeSet<Turn>,
    /// Feeds that we asked this peer to push and of which it promised more than we accepted.
    owing: BTreeSet<Ix>,
    /// Feeds that this peer is to be asked for when there is room in its window.
    pub(super) waiting: BTreeSet<Place>,
    /// Messages that it may owe us before feeds wait.
    pub(super) window: u64,
    /// What it owes of the feeds that it was asked for.
    pub(super) load: Load,
    /// It hardly sends anything, so nobody waits for what it owes.
    pub(super) trickles: bool,
    /// Messages taken from it since the last look at its pace.
    pub(super) taken: u64,
    /// When to look at its pace; none while no feed waits.
    pub(super) pace_at: Option<Instant>,
    /// When the peer last sent something new, or began to owe.
    pub(super) progress_at: Option<Instant>,
    /// When to look whether it stalls.
    pub(super) check_at: Option<Instant>,
    /// When to have the clock stored; none while nothing changed.
    pub(super) save_at: Option<Instant>,
}

impl Session {
    pub(super) const fn new(role: Role, window: u64) -> Self {
        Self {
            speaks: matches!(role, Role::Callee),
            hello: true,
            lanes: Vec::new(),
            strangers: BTreeMap::new(),
            notes: BTreeSet::new(),
            refusals: Vec::new(),
            urgent: false,
            news: BTreeSet::new(),
            lazy_at: None,
            sends: BTreeSet::new(),
            owing: BTreeSet::new(),
            waiting: BTreeSet::new(),
            window,
            load: Load { near: 0, far: 0 },
            trickles: false,
            taken: 0,
            pace_at: None,
            progress_at: None,
            check_at: None,
            save_at: None,
        }
    }

    pub(super) fn lane(&self, ix: Ix) -> &Lane {
        self.lanes.get(ix.index()).unwrap_or(&Lane::NEW)
    }

    pub(super) fn lane_mut(&mut self, ix: Ix) -> &mut Lane {
        if self.lanes.len() <= ix.index() {
            let more = ix.index() + 1 - self.lanes.len();
            // Not twice as many, as vectors grow by themselves: a thousand peers have lanes for all feeds each.
            if self.lanes.capacity() < self.lanes.len() + more {
                self.lanes.reserve_exact(more + self.lanes.len() / 8);
            }
            self.lanes.resize(ix.index() + 1, Lane::NEW);
        }
        &mut self.lanes[ix.index()]
    }

    /// Has the feed's note sent now, if it says something new.
    pub(super) fn tell(&mut self, turn: Turn) {
        if self.speaks {
            self.notes.insert(turn);
            self.urgent = true;
        }
    }

    /// Has the feed's note sent soon, unless that turns out needless.
    pub(super) fn tell_soon(&mut self, turn: Turn, now: Instant) {
        if self.speaks {
            self.news.insert(turn);
            self.lazy_at.get_or_insert(now + LAZY);
        }
    }

    /// Has those news sent that still are news.
    pub(super) fn tell_news(&mut self, feeds: &Feeds) {
        self.lazy_at = None;
        for turn in std::mem::take(&mut self.news) {
            let feed = &feeds[turn.1];
            if feed.wanted() && self.lane(turn.1).wants_news(feed.have) {
                self.tell(turn);
            }
        }
    }

    /// Has the peer told that we do not replicate a feed that is not ours to number.
    pub(super) fn refuse(&mut self, feed: FeedId) {
        self.refusals.push(feed);
        self.urgent = true;
    }

    pub(super) fn owe(&mut self, ix: Ix, now: Instant) {
        if self.owing.is_empty() {
            self.progress_at = Some(now);
            self.check_at = Some(now + STALL);
        }
        self.owing.insert(ix);
    }

    pub(super) fn owe_nothing(&mut self, ix: Ix) {
        if self.owing.remove(&ix) && self.owing.is_empty() {
            self.check_at = None;
        }
    }

    pub(super) const fn owing(&self) -> &BTreeSet<Ix> {
        &self.owing
    }

    /// Has the clock stored in a while, or as soon as possible.
    pub(super) fn save(&mut self, at: Instant) {
        self.save_at = Some(self.save_at.map_or(at, |earlier| earlier.min(at)));
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        [self.lazy_at, self.check_at, self.save_at, self.pace_at].into_iter().flatten().min()
    }

    /// What is worth storing: what the peer said of feeds that may pass between us.
    ///
    /// A feed that both sides keep silent about, one because it is even and the other because it was
    /// refused, would stay so for ever. Hence nothing is kept of a feed that we refused in this session,
    /// and no refusal of a near feed: to name those on each connection costs little.
    pub(super) fn clock(&self, feeds: &Feeds) -> PeerClock {
        let entry = |(ix, feed): (Ix, &Feed)| {
            let lane = self.lane(ix);
            let near = feed.rank <= Some(NEAR);
            let kept =
                |theirs: &Stored| lane.open() && !lane.refused && !(near && *theirs == Stored::Refused);
            lane.theirs.filter(kept).map(|theirs| (feed.id, theirs))
        };
        feeds.wanted().filter_map(entry).collect()
    }

    pub(super) fn status(&self, ix: Ix) -> Option<FeedStatus> {
        self.lane(ix).status()
    }
}
