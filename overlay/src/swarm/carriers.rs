//! Where the carrier meets the swarm: streams become sessions that can move, and sessions are moved.
//!
//! [`policy`](crate::carrier::policy) says what a session is to do; here is what it needs to know (which connections
//! to the peer stand, and what is known of them) and the doing: opening a stream to attach by, asking the other end
//! for it, or finding a path where none stands. Of a session only the end that opened it moves it; the other end asks
//! ([`Frame::Poke`](crate::carrier::Frame::Poke)) when its own path is silent or gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tracing::error;

use super::{EventLoop, now};
use crate::carrier::SessionId;
use crate::carrier::link::{Budget, MobileId, Move, News, Told};
use crate::conn::{self, Carrier};

mod greeting;
mod news;
mod pursuit;
mod session;
mod streams;
#[cfg(test)]
mod tests;

use greeting::Greeted;
use session::Carried;

/// News that may wait.
const NEWS: usize = 1024;
/// First frames that are being read, and other short talks.
const MAX_TALKS: usize = 256;
/// Peers remembered for not knowing the carrier.
const MAX_PLAIN: usize = 256;
/// How long an attempt to move may take.
const ATTEMPT: Duration = Duration::from_secs(4);
/// How long it takes at most until a connection that we close is gone.
const CLOSING: Duration = Duration::from_millis(50);

/// What happened to sessions.
pub(super) enum Happened {
    News(MobileId, News),
    /// A short talk is over.
    Greeted(Result<Option<Greeted>, JoinError>),
    RunnerEnded(Result<(), JoinError>),
    /// Something is to be looked at.
    Due,
}

/// All sessions that can move.
pub(super) struct Carriers {
    sessions: BTreeMap<MobileId, Carried>,
    /// By the peer's node, the session's name, and whether we opened it: others name only their own.
    names: BTreeMap<(PeerId, SessionId, bool), MobileId>,
    /// What of them is to be looked at.
    dirty: BTreeSet<MobileId>,
    told: Told,
    news: mpsc::Receiver<(MobileId, News)>,
    runners: JoinSet<()>,
    talks: JoinSet<Option<Greeted>>,
    budget: Arc<Budget>,
    /// Peers that are known to lack the carrier.
    plain: VecDeque<PeerId>,
    /// We have it ourselves.
    enabled: bool,
    last_id: u64,
}

/// A session that went to another path, or could not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) id: MobileId,
    pub(crate) from: Carrier,
    pub(crate) to: Carrier,
    pub(crate) remote: String,
    pub(crate) path: conn::Path,
    /// `None` if it could not.
    pub(crate) how: Option<Move>,
}

impl Carriers {
    pub(super) fn new(enabled: bool) -> Self {
        let (told, news) = mpsc::channel(NEWS);
        Self {
            sessions: BTreeMap::new(),
            names: BTreeMap::new(),
            dirty: BTreeSet::new(),
            told,
            news,
            runners: JoinSet::new(),
            talks: JoinSet::new(),
            budget: Arc::default(),
            plain: VecDeque::new(),
            enabled,
            last_id: 0,
        }
    }

    /// What happens next.
    pub(super) async fn next(&mut self) -> Happened {
        let due = super::due(self.poll_timeout());
        tokio::select! {
            Some((session, news)) = self.news.recv() => Happened::News(session, news),
            Some(greeted) = self.talks.join_next() => Happened::Greeted(greeted),
            Some(ended) = self.runners.join_next() => Happened::RunnerEnded(ended),
            () = due => Happened::Due,
        }
    }

    /// Whether sessions with this peer do without the carrier: it is known to lack it, or we do.
    pub(super) fn is_plain(&self, peer: PeerId) -> bool {
        !self.enabled || self.plain.contains(&peer)
    }

    pub(super) fn set_plain(&mut self, peer: PeerId) {
        if !self.is_plain(peer) {
            self.plain.push_back(peer);
            if self.plain.len() > MAX_PLAIN {
                self.plain.pop_front();
            }
        }
    }

    /// When a session is to be looked at again though nothing happens.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.sessions.values().filter(|session| session.is_in_need());
        waiting.map(Carried::due).min()
    }

    /// Time has passed: all are looked at.
    pub(super) fn look_at_all(&mut self) {
        self.dirty.extend(self.sessions.keys());
    }

    /// What stood in the way of a search is out of it, or is about to be.
    fn seek_soon(&mut self, now: Instant) {
        for session in self.sessions.values_mut().filter(|session| session.is_in_need()) {
            session.seek_at = now + CLOSING;
        }
    }

    fn look_at(&mut self, peer: PeerId) {
        let of_peer = self.sessions.iter().filter(|(_, session)| session.name.0 == peer);
        self.dirty.extend(of_peer.map(|(id, _)| *id));
    }

    /// Whether a session runs on this connection that moves by itself.
    pub(super) fn runs_on(&self, connection: ConnectionId) -> bool {
        self.sessions.values().any(|session| session.on == Some(connection) && session.armed)
    }

    fn is_used(&self, connection: ConnectionId) -> bool {
        let uses = |session: &Carried| {
            session.on == Some(connection) || session.attempt.is_some_and(|attempt| attempt.on == connection)
        };
        self.sessions.values().any(uses)
    }
}

impl EventLoop {
    /// Something happened to sessions.
    pub(super) fn on_carriers(&mut self, happened: Happened) {
        match happened {
            Happened::News(session, news) => self.on_carrier_news(session, news),
            Happened::Greeted(Ok(Some(greeted))) => self.on_greeted(greeted),
            Happened::Greeted(Ok(None)) | Happened::RunnerEnded(Ok(())) | Happened::Due => {}
            Happened::Greeted(Err(failed)) | Happened::RunnerEnded(Err(failed)) => {
                error!(%failed, "a task of the swarm failed");
            }
        }
    }
    /// Connections to this peer have come or gone.
    pub(super) fn carriers_of_changed(&mut self, peer: PeerId) {
        self.carriers.look_at(peer);
    }

    /// We are somewhere else: what failed may work now.
    pub(super) fn carriers_moved(&mut self) {
        let now = now();
        for session in self.carriers.sessions.values_mut().filter(|session| session.is_in_need()) {
            (session.seeks, session.seek_at) = (0, now);
        }
        self.carriers.look_at_all();
    }
}
