//! The task that fetches one blob from one peer. What comes is hashed and written as it comes, off the runtime's
//! threads; while it is, the line is not read further than the stream's queue holds.

use std::sync::Arc;

use hawsepipe_overlay::conn::{CallError, Session, Stream};
use hawsepipe_overlay::muxrpc::{Body, CallKind};
use hawsepipe_replication::blobs::{BlobError, Fault, GetId, Incoming, Meta};
use hawsepipe_replication::refs::BlobId;
use serde_json::json;

use super::BlobMsg;
use crate::blobs::blocking;
use crate::context::Context;

/// Pieces that are written together at most.
const BATCH: usize = 16;

/// See the module's header.
pub(super) struct Fetch {
    pub(super) get: GetId,
    pub(super) id: BlobId,
    /// More bytes than this are not taken.
    pub(super) max: u64,
    pub(super) session: Session,
    pub(super) ctx: Arc<Context>,
}

impl Fetch {
    pub(super) async fn run(self) {
        let result = self.fetch().await;
        if let Ok((meta, is_new)) = &result {
            self.ctx.blobs.announce(*meta, *is_new);
        }
        if let Err(fault) = &result {
            tracing::debug!(peer = %self.session.peer().short(), id = ?self.id, ?fault, "a blob was not fetched");
        }
        let _ = self.ctx.engine.blobs(BlobMsg::Ended { get: self.get, result }).await;
    }

    async fn fetch(&self) -> Result<(Meta, bool), Fault> {
        let (id, max) = (self.id, self.max.saturating_add(1));
        let begin = self.ctx.blobs.with(move |store| match store.meta(&id)? {
            Some(meta) => Ok(Err(meta)),
            None => store.create(Some(id), max).map(Ok),
        });
        let mut incoming = match begin.await.map_err(fault)? {
            Ok(incoming) => incoming,
            // It came in another way.
            Err(meta) => return Ok((meta, false)),
        };
        let Stream { tx: _tx, mut rx } = self.ask().await.map_err(call_fault)?;
        let mut pieces: Vec<Body> = Vec::with_capacity(BATCH);
        while rx.recv_batch(BATCH, &mut pieces).await.map_err(call_fault)? > 0 {
            let batch = std::mem::replace(&mut pieces, Vec::with_capacity(BATCH));
            let bytes = batch.iter().map(|piece| piece.bytes.len() as u64).sum();
            incoming = blocking(move || write(incoming, &batch)).await.map_err(fault)?;
            // If the engine is gone, so is this task soon.
            let _ = self.ctx.engine.blobs(BlobMsg::Progress { get: self.get, bytes }).await;
        }
        blocking(move || incoming.finish()).await.map_err(fault)
    }

    async fn ask(&self) -> Result<Stream, CallError> {
        // Go reads only `key`, others `hash` too.
        let args = json!({ "key": self.id, "hash": self.id, "max": self.ctx.config.blobs.max });
        self.session.open(CallKind::Source, &["blobs", "get"], vec![args]).await
    }
}

fn write(mut incoming: Incoming, pieces: &[Body]) -> Result<Incoming, BlobError> {
    pieces.iter().try_for_each(|piece| incoming.write(&piece.bytes))?;
    Ok(incoming)
}

fn fault(error: BlobError) -> Fault {
    match error {
        BlobError::TooLarge => Fault::Size,
        BlobError::WrongHash { .. } => Fault::Hash,
        BlobError::DiskFull(_) | BlobError::Io { .. } => {
            tracing::error!(%error, "a blob could not be stored");
            Fault::Disk
        }
    }
}

fn call_fault(error: CallError) -> Fault {
    match error {
        CallError::Remote(_) => Fault::Refused,
        CallError::SessionEnded => Fault::Gone,
    }
}
