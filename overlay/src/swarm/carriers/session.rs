//! One session that can move: what it runs on, what was tried, and where its peer was reached before.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use crate::carrier::link::Mobile;
use crate::carrier::{SessionId, StreamNo};
use crate::conn::Carrier;

/// How long a path is passed over after an attempt has failed on it.
const ATTEMPT_PAUSE: Duration = Duration::from_secs(2);
/// How long a session waits after an attempt that has failed.
const ATTACH_PAUSE: Duration = Duration::from_millis(500);
/// Between two searches for a path: at first and at last.
const SEEK_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_SEEK_PAUSE: Duration = Duration::from_secs(15);
/// Places where a peer was reached that are remembered.
const MAX_PLACES: usize = 6;
/// Paths that are passed over for a time.
const MAX_BARRED: usize = 16;

/// One of them.
pub(super) struct Carried {
    pub(super) mobile: Mobile,
    pub(super) name: (PeerId, SessionId, bool),
    /// The connection that it runs on.
    pub(super) on: Option<ConnectionId>,
    /// What that is, also when it is gone.
    pub(super) carrier: Carrier,
    pub(super) since: Instant,
    pub(super) streams: BTreeMap<StreamNo, ConnectionId>,
    pub(super) next_stream: u32,
    pub(super) armed: bool,
    pub(super) silent: bool,
    /// When a path of it fell silent, until it runs on one that works.
    pub(super) lost: Option<Instant>,
    pub(super) attempt: Option<Attempt>,
    pub(super) barred: BTreeMap<ConnectionId, Instant>,
    /// Where we have dialled the peer, newest last.
    pub(super) places: VecDeque<Multiaddr>,
    /// Not before this is a path sought, or asked for, again, and not before that one attached to.
    pub(super) seek_at: Instant,
    pub(super) attach_at: Instant,
    pub(super) seeks: u32,
}

/// A move that is under way.
#[derive(Clone, Copy)]
pub(super) struct Attempt {
    pub(super) on: ConnectionId,
    pub(super) no: Option<StreamNo>,
    pub(super) until: Instant,
    /// The path may be as dead as the one that was lost: others are sought meanwhile.
    pub(super) doubtful: bool,
}

impl Carried {
    pub(super) fn is_in_need(&self) -> bool {
        self.armed && (self.on.is_none() || self.silent || self.attempt.is_some())
    }

    /// Of one in need: when it is to be looked at though nothing happens.
    pub(super) fn due(&self) -> Instant {
        match self.attempt {
            Some(attempt) if attempt.doubtful => attempt.until.min(self.seek_at),
            Some(attempt) => attempt.until,
            None => self.seek_at.max(self.attach_at),
        }
    }

    /// An attempt to move there came to nothing.
    pub(super) fn failed(&mut self, on: ConnectionId, now: Instant) {
        self.bar(on, now + ATTEMPT_PAUSE);
        self.attach_at = now + ATTACH_PAUSE;
    }

    pub(super) fn is_ours(&self) -> bool {
        self.name.2
    }

    pub(super) fn remember(&mut self, place: &Multiaddr) {
        self.places.retain(|known| known != place);
        self.places.push_back(place.clone());
        if self.places.len() > MAX_PLACES {
            // The first is where the session was opened.
            self.places.remove(1);
        }
    }

    pub(super) fn bar(&mut self, connection: ConnectionId, until: Instant) {
        if self.barred.len() < MAX_BARRED {
            self.barred.insert(connection, until);
        }
    }

    pub(super) fn forgive(&mut self, now: Instant) {
        self.barred.retain(|_, until| *until > now);
    }

    pub(super) fn pause(&mut self, now: Instant) {
        let pause = SEEK_PAUSE * (1 << self.seeks.min(4));
        self.seeks += 1;
        self.seek_at = now + pause.min(LONGEST_SEEK_PAUSE);
    }
}
