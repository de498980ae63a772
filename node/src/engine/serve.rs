//! Answering `createHistoryStream`: the machine says what goes to which call, the calls' own tasks send it
//! (`api/history.rs`). A call that is over says so through a shared list when its ticket is dropped, since a
//! task that is cancelled can no longer wait for the queue.

use std::sync::{Arc, Mutex, PoisonError};

use hawsepipe_replication::ebt::Peer;
use hawsepipe_replication::history::{HistoryPlan, ServeInput, ServeOutput, StreamId};
use hawsepipe_replication::refs::FeedId;

use super::outbox::{Next, Outbox};
use super::{Engine, SessionId};

/// A call that the engine serves. Dropping it ends the serving.
#[derive(Debug)]
pub struct Ticket {
    id: StreamId,
    outbox: Arc<Outbox>,
    over: Arc<Over>,
}

impl Ticket {
    /// What to send next: messages `from..=to` of the feed, or the end.
    pub async fn next(&self) -> Option<Result<(u64, u64), &'static str>> {
        match self.outbox.next().await {
            Next::Range { from, to, .. } => Some(Ok((from, to))),
            Next::End(Some(error)) => Some(Err(error)),
            Next::End(None) | Next::Notes(_) => None,
        }
    }

    /// Everything of `feed` up to and including `sent` has been dealt with.
    pub fn sent(&self, feed: FeedId, sent: u64) {
        self.outbox.resume(feed, sent);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.over.add(self.id);
    }
}

/// Calls that are over and of which the machine has not heard; never more than there were calls.
#[derive(Debug, Default)]
pub(super) struct Over {
    /// Guards the list; held only to add or take.
    ids: Mutex<Vec<StreamId>>,
}

impl Over {
    fn add(&self, id: StreamId) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }

    fn take(&self) -> Vec<StreamId> {
        std::mem::take(&mut *self.ids.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Engine {
    /// A peer called `createHistoryStream`.
    pub(super) fn serve_history(&mut self, session: SessionId, plan: HistoryPlan) -> Option<Ticket> {
        let caller = FeedId::from_bytes(self.sessions.get(&session)?.peer.to_bytes());
        let feed = plan.feed;
        let id = StreamId(self.next_number());
        let outbox = Arc::new(Outbox::default());
        self.serving.insert(id, Arc::clone(&outbox));
        let have = self.ctx.reader.tip(&feed).map_or(0, |tip| tip.sequence);
        let blocked = self.ctx.graph().is_blocking(&feed, &caller);
        self.ctx.metrics.messages.streams.with_label_values(&["history", "callee"]).inc();
        self.server.handle(ServeInput::Opened { stream: id, caller: Peer(caller), plan, have, blocked });
        self.drain_server();
        Some(Ticket { id, outbox, over: Arc::clone(&self.over) })
    }

    /// A feed grew: open calls for it get what is new.
    pub(super) fn serve_appended(&mut self, feed: FeedId, sequence: u64) {
        self.server.handle(ServeInput::Appended { feed, sequence });
        self.drain_server();
    }

    /// Forgets calls that are over.
    pub(super) fn sweep_served(&mut self) {
        for stream in self.over.take() {
            self.serving.remove(&stream);
            self.server.handle(ServeInput::Closed { stream });
        }
        self.drain_server();
    }

    fn drain_server(&mut self) {
        while let Some(output) = self.server.poll_output() {
            match output {
                ServeOutput::Read { stream, feed, from, to } => {
                    if let Some(outbox) = self.serving.get(&stream) {
                        outbox.send(feed, from, to);
                    }
                }
                ServeOutput::End { stream, error } => {
                    if let Some(outbox) = self.serving.remove(&stream) {
                        outbox.end(error);
                    }
                }
            }
        }
    }
}
