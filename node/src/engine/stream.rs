//! The two tasks of an EBT stream: one reads, parses and hands to the engine what comes; one sends what
//! the outbox holds, straight from the log's bytes. Each goes at the peer's speed; neither does anything
//! on its own account.

use std::sync::Arc;

use bytes::Bytes;
use hawsepipe_overlay::conn::{CallError, Session, Stream, StreamRx, StreamTx};
use hawsepipe_overlay::muxrpc::{Body, CallKind, RemoteError};
use hawsepipe_replication::ebt::{self, Item, Peer};
use hawsepipe_replication::message::Unverified;
use hawsepipe_replication::refs::FeedId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::handle::EbtItem;
use super::outbox::{Next, Outbox};
use super::{Msg, SessionId};
use crate::context::Context;

/// Items handed to the engine together at most.
pub(super) const READ_BATCH: usize = 256;
/// Messages of one feed sent before the next feed has its turn.
const SEND_BATCH: usize = 256;

/// An EBT stream as the engine holds it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: u64,
    pub(super) session: SessionId,
    pub(super) outbox: Arc<Outbox>,
    pub(super) end: End,
}

/// Ends a stream, with an error if one is given first.
#[derive(Clone, Debug)]
pub(super) struct End {
    token: CancellationToken,
    error: Arc<std::sync::OnceLock<&'static str>>,
}

impl End {
    pub(super) fn new() -> Self {
        Self { token: CancellationToken::new(), error: Arc::default() }
    }

    pub(super) fn now(&self, error: Option<&'static str>) {
        if let Some(error) = error {
            // A second reason would come too late to matter.
            let _ = self.error.set(error);
        }
        self.token.cancel();
    }
}

/// Which stream a task works for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Id {
    pub(super) peer: Peer,
    pub(super) stream: u64,
}

/// What both tasks of a stream share.
#[derive(Debug)]
pub(super) struct Shell {
    pub(super) id: Id,
    pub(super) ctx: Arc<Context>,
    pub(super) engine: mpsc::Sender<Msg>,
    pub(super) budget: Arc<Semaphore>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) end: End,
}

impl Shell {
    /// Opens the stream as the side that dialled, then runs it.
    pub(super) async fn call(self, session: Session) {
        let args = serde_json::from_str(ebt::REPLICATE_ARGS).expect("our own constant is JSON");
        match session.open(CallKind::Duplex, &["ebt", "replicate"], args).await {
            Ok(stream) => self.run(stream).await,
            Err(_) => self.tell_end(false).await,
        }
    }

    /// Runs a stream until either side ends it.
    pub(super) async fn run(self, stream: Stream) {
        stream.set_lasting();
        let Stream { mut tx, mut rx } = stream;
        let mut failed = false;
        let mut written = Ok(());
        tokio::select! {
            () = self.end.token.cancelled() => {}
            with_error = self.read(&mut rx) => failed = with_error,
            result = self.write(&mut tx) => written = result,
        }
        let error = self.end.error.get().map(|text| RemoteError::new(*text));
        if written.is_ok() {
            tx.end(error).await;
        }
        self.tell_end(failed).await;
    }

    async fn tell_end(&self, failed: bool) {
        let Id { peer, stream } = self.id;
        let _ = self.engine.send(Msg::EbtEnded { peer, stream, failed }).await;
    }

    /// Reads until the peer ends the stream; tells whether it did so with an error.
    async fn read(&self, rx: &mut StreamRx) -> bool {
        let mut bodies = Vec::new();
        loop {
            match rx.recv_batch(READ_BATCH, &mut bodies).await {
                Ok(0) => return false,
                Ok(_) => {}
                Err(CallError::SessionEnded) => return false,
                Err(error @ CallError::Remote(_)) => {
                    tracing::debug!(peer = ?self.id.peer, %error, "the peer ended replication");
                    return true;
                }
            }
            let permit = self.permit(&bodies).await;
            let items = bodies.drain(..).filter_map(|body| self.parse(&body)).collect();
            let Id { peer, stream } = self.id;
            if self.engine.send(Msg::Ebt { peer, stream, items, permit }).await.is_err() {
                return false;
            }
        }
    }

    /// Waits until the store can take as many bytes: meanwhile the socket is not read.
    async fn permit(&self, bodies: &[Body]) -> Option<OwnedSemaphorePermit> {
        let bytes: usize = bodies.iter().map(|body| body.bytes.len()).sum();
        permit(&self.budget, bytes).await
    }

    fn parse(&self, body: &Body) -> Option<EbtItem> {
        match ebt::classify(&body.bytes) {
            Ok(Item::Notes(notes)) => Some(EbtItem::Notes(notes)),
            Ok(Item::Message { bytes, author, sequence }) => Some(match Unverified::parse(bytes) {
                Ok(message) => EbtItem::Message(message),
                Err(why) => EbtItem::Bad { feed: author, sequence, why },
            }),
            Err(error) => {
                tracing::debug!(peer = ?self.id.peer, %error, "neither notes nor a message");
                self.ctx.metrics.messages.rejected.with_label_values(&["not_an_item"]).inc();
                None
            }
        }
    }

    async fn write(&self, tx: &mut StreamTx) -> Result<(), Gone> {
        loop {
            match self.outbox.next().await {
                Next::Notes(notes) => {
                    let body = Body::json_raw(notes.to_json());
                    tx.send(body).await.map_err(|_| Gone)?;
                }
                Next::End(_) => return Ok(()),
                Next::Range { feed, from, to } => {
                    let sent = self.send_range(tx, feed, from, to).await?;
                    self.outbox.resume(feed, sent);
                }
            }
        }
    }

    /// Sends some of a range; gives the last sequence that needs no more sending.
    async fn send_range(&self, tx: &mut StreamTx, feed: FeedId, from: u64, to: u64) -> Result<u64, Gone> {
        let reader = self.ctx.reader.clone();
        let count = usize::try_from(to + 1 - from).unwrap_or(SEND_BATCH).min(SEND_BATCH);
        let read = move || {
            let messages = reader.chain(&feed, from..=from + count as u64 - 1);
            messages
                .map(|stored| stored.map(|s| s.message.value_bytes().clone()))
                .collect::<Result<Vec<Bytes>, _>>()
        };
        let values = match self.ctx.read(read).await {
            Ok(values) => values,
            Err(error) => {
                // The peer will ask someone else; nothing we send could be trusted.
                tracing::error!(%feed, %error, "cannot read a feed from the store");
                return Ok(to);
            }
        };
        if values.is_empty() {
            return Ok(to);
        }
        let sent = values.len() as u64;
        tx.send_batch(values.into_iter().map(Body::json_raw)).await.map_err(|_| Gone)?;
        self.ctx.metrics.messages.sent.with_label_values(&["ebt"]).inc_by(sent);
        Ok(from + sent - 1)
    }
}

/// The stream is over.
#[derive(Debug)]
struct Gone;

/// A share of `budget` for `bytes`; more than there is in all waits for all of it.
pub(super) async fn permit(budget: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let share = u32::try_from(bytes.min(super::INGEST_BUDGET)).unwrap_or(u32::MAX);
    Arc::clone(budget).acquire_many_owned(share).await.ok()
}
