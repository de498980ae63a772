//! The shell of the [fork guard](crate::fork_guard): tells it what is heard of our own feed, has peers asked for the
//! feed while it waits, and keeps the record of [`continuity`](crate::continuity) while it does not.

use std::time::{Duration, Instant};

use hawsepipe_replication::ebt::{self, Notes};
use hawsepipe_replication::history::FetchInput;
use hawsepipe_replication::refs::FeedId;

use super::{Engine, SessionId};
use crate::clock;
use crate::continuity::Keeper;
use crate::fork_guard::{ForkGuard, Input};

/// The record is written this long after a message of ours at the latest.
const RECORD_PAUSE: Duration = Duration::from_secs(1);

/// The guard and what follows from it.
#[derive(Debug)]
pub(super) struct Guard {
    machine: ForkGuard,
    waiting: bool,
    /// Nothing while the guard waits: then there is nothing to be recorded.
    keeper: Option<Keeper>,
    /// When the record is due.
    record_at: Option<Instant>,
}

impl Guard {
    pub(super) fn new(machine: ForkGuard, keeper: Option<Keeper>) -> Self {
        Self { machine, waiting: false, keeper, record_at: None }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.machine.poll_timeout(), self.record_at].into_iter().flatten().min()
    }
}

impl Engine {
    /// Whether our own feed is asked for and taken from peers.
    pub(super) fn is_recovering(&self) -> bool {
        self.guard.waiting
    }

    pub(super) fn tell_guard(&mut self, input: Input) {
        self.guard.machine.handle(clock::now(), input);
        // At once: whoever signs next must know.
        self.ctx.guard.set(self.guard.machine.verdict());
    }

    /// Notes of a peer may say that it has more of our feed than we do.
    pub(super) fn hear_of_own(&mut self, peer: FeedId, notes: &Notes) {
        let own = self.ctx.own;
        let said = notes.iter().find(|(feed, note)| *feed == own && note.replicate);
        if let Some((_, note)) = said {
            self.tell_guard(Input::Claimed { peer, sequence: note.sequence });
        }
    }

    /// Our feed has grown, by our hand or from elsewhere.
    pub(super) fn own_grew(&mut self, sequence: u64) {
        self.tell_guard(Input::Held { sequence });
        if self.guard.keeper.is_some() {
            self.guard.record_at.get_or_insert(clock::now() + RECORD_PAUSE);
        }
    }

    /// What follows of the guard's verdict, and what is due.
    pub(super) fn settle_guard(&mut self, now: Instant) {
        if self.guard.machine.poll_timeout().is_some_and(|at| at <= now) {
            self.guard.machine.handle_timeout(now);
        }
        let verdict = self.guard.machine.verdict();
        self.ctx.guard.set(verdict);
        if verdict.is_err() != self.guard.waiting {
            self.guard.waiting = verdict.is_err();
            self.ctx.metrics.messages.guard_waits.set(i64::from(verdict.is_err()));
            match verdict {
                Err(wait) => {
                    tracing::warn!("{wait}");
                    self.begin_recovery();
                }
                Ok(()) => {
                    tracing::info!("messages may be published: nobody who was asked has more of this feed");
                    self.end_recovery();
                }
            }
        }
        if self.guard.record_at.is_some_and(|at| at <= now) {
            self.guard.record_at = None;
            let tip = self.ctx.reader.tip(&self.ctx.own);
            if let Some(keeper) = self.guard.keeper.as_ref().filter(|_| !self.guard.waiting) {
                self.save(self.dir.continuity(), keeper.record(tip));
            }
        }
    }

    fn begin_recovery(&mut self) {
        self.ebt.handle(clock::now(), ebt::Input::RecoverOwn(true));
        let wanted = FetchInput::Replicate { feed: self.ctx.own, rank: Some(0) };
        self.tell_fetches(&wanted);
        let asked: Vec<SessionId> =
            self.sessions.iter().filter(|(_, open)| open.replicates()).map(|(id, _)| *id).collect();
        for id in asked {
            self.recover_by_history(id);
        }
        self.drain_ebt();
    }

    fn end_recovery(&mut self) {
        self.drop_recoveries();
        self.ebt.handle(clock::now(), ebt::Input::RecoverOwn(false));
        self.tell_fetches(&FetchInput::Replicate { feed: self.ctx.own, rank: None });
        self.drain_ebt();
        if self.guard.keeper.is_none() {
            match Keeper::begin(&self.dir, self.ctx.own, self.ctx.reader.tip(&self.ctx.own)) {
                Ok(keeper) => self.guard.keeper = Some(keeper),
                Err(error) => {
                    tracing::warn!(%error, "the record of this feed cannot be written; the next start asks peers again")
                }
            }
        }
    }
}
