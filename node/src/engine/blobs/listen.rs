//! The task that asks one peer what it wants and has: by `blobs.createWants`, or of a peer that knows no such thing by
//! `blobs.changes` and `blobs.has`, as ssb-blobs does.

use std::sync::Arc;

use hawsepipe_overlay::conn::{CallError, Session, Stream};
use hawsepipe_overlay::muxrpc::{Body, CallKind};
use hawsepipe_replication::blobs::{Allowance, BlobStore, Said, parse_update};
use hawsepipe_replication::refs::BlobId;
use tokio::sync::Semaphore;

use super::BlobMsg;
use crate::blobs::blocking;
use crate::clock;
use crate::engine::{EngineHandle, SessionId};

/// Entries that go to the engine together at most.
const BATCH: usize = 1000;

/// See the module's header.
pub(super) struct Listener {
    pub(super) id: SessionId,
    pub(super) session: Session,
    pub(super) store: BlobStore,
    pub(super) engine: EngineHandle,
    /// One batch of this peer is with the engine at a time.
    pub(super) turn: Arc<Semaphore>,
    /// Whether peers without `createWants` are asked in the older way.
    pub(super) legacy: bool,
}

impl Listener {
    pub(super) async fn run(self) {
        let Ok(stream) = self.session.open(CallKind::Source, &["blobs", "createWants"], Vec::new()).await
        else {
            return;
        };
        stream.set_lasting();
        let Stream { tx: _tx, mut rx } = stream;
        let mut allowance = Allowance::new(clock::now());
        let mut heard = false;
        loop {
            match rx.recv().await {
                Some(Ok(body)) => {
                    heard = true;
                    if self.take(&body, &mut allowance).await.is_none() {
                        return;
                    }
                }
                Some(Err(CallError::Remote(_))) if !heard && self.legacy => return self.run_legacy().await,
                Some(Err(_)) | None => return,
            }
        }
    }

    /// One packet of wants and offers. Nothing when the engine is gone.
    async fn take(&self, body: &Body, allowance: &mut Allowance) -> Option<()> {
        let Ok(mut said) = parse_update(&body.bytes) else {
            tracing::debug!(peer = %self.session.peer().short(), "not a map of wants");
            return Some(());
        };
        said.truncate(allowance.take(clock::now(), said.len()));
        for batch in said.chunks(BATCH) {
            let (store, batch) = (self.store.clone(), batch.to_vec());
            let look = move |(id, said): (BlobId, Said)| {
                let wanted = matches!(said, Said::Wants(_));
                (id, said, if wanted { store.size(&id).ok().flatten() } else { None })
            };
            let said = blocking(move || batch.into_iter().map(look).collect()).await;
            // The semaphore is never closed.
            let permit = Arc::clone(&self.turn).acquire_owned().await.ok();
            self.engine.blobs(BlobMsg::Said { session: self.id, said, permit }).await.ok()?;
        }
        Some(())
    }

    async fn run_legacy(self) {
        tokio::join!(self.hear_changes(), self.ask_wanted());
    }

    /// What the peer gets from now on.
    async fn hear_changes(&self) {
        let Ok(stream) = self.session.open(CallKind::Source, &["blobs", "changes"], Vec::new()).await else {
            return;
        };
        stream.set_lasting();
        let Stream { tx: _tx, mut rx } = stream;
        while let Some(Ok(body)) = rx.recv().await {
            let Ok(id) = body.decode::<BlobId>() else { continue };
            let offered = BlobMsg::Offered { session: self.id, ids: vec![id] };
            if self.engine.blobs(offered).await.is_err() {
                return;
            }
        }
    }

    /// Asks the peer for whatever is wanted. It takes the question for a want.
    async fn ask_wanted(&self) {
        let Ok(Some(told)) = self.engine.ask_wants(self.id).await else { return };
        while let Some(said) = told.next().await {
            let wanted = said.into_iter().filter(|(_, said)| matches!(said, Said::Wants(_)));
            let ids: Vec<_> = wanted.map(|(id, _)| id).collect();
            if ids.is_empty() {
                continue;
            }
            let asked = serde_json::json!(ids);
            let Ok(answer) = self.session.call(&["blobs", "has"], vec![asked]).await else { return };
            let has: Vec<bool> = answer.decode().unwrap_or_default();
            let offered = ids.into_iter().zip(has).filter(|(_, has)| *has).map(|(id, _)| id).collect();
            if self.engine.blobs(BlobMsg::Offered { session: self.id, ids: offered }).await.is_err() {
                return;
            }
        }
    }
}
