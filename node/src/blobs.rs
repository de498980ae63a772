//! The node's blobs as methods, HTTP and the engine share them: the store, and who is told of new ones. Everything that
//! touches the disk runs off the runtime's threads.

use hawsepipe_overlay::muxrpc::RemoteError;
use hawsepipe_replication::blobs::{Blob, BlobError, BlobStore, Incoming, Meta};
use hawsepipe_replication::refs::BlobId;
use tokio::sync::broadcast;

use crate::clock;
use crate::engine::{BlobMsg, EngineHandle};

/// New blobs of which a slow listener may not have heard yet; beyond, its stream ends with an error.
const ADDED_BACKLOG: usize = 4096;
/// The error of who asks for a blob that is not here: JS's text.
pub const NOT_HERE: &str = "could not get blob";

/// See the module's header.
#[derive(Debug)]
pub struct Blobs {
    store: BlobStore,
    engine: EngineHandle,
    added: broadcast::Sender<Meta>,
    /// Blobs of at least so many bytes are not taken.
    max: u64,
}

impl Blobs {
    /// Blobs in `store`, each smaller than `max` bytes, of which `engine` hears.
    pub fn new(store: BlobStore, engine: EngineHandle, max: u64) -> Self {
        Self { store, engine, added: broadcast::Sender::new(ADDED_BACKLOG), max }
    }

    /// The files.
    pub fn store(&self) -> &BlobStore {
        &self.store
    }

    /// Follows what is added from now on.
    pub fn added(&self) -> broadcast::Receiver<Meta> {
        self.added.subscribe()
    }

    /// Does something with the store, off the runtime's threads.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&BlobStore) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let store = self.store.clone();
        blocking(move || work(&store)).await
    }

    /// What is known of a blob, if it is here.
    pub async fn meta(&self, id: BlobId) -> Result<Option<Meta>, BlobError> {
        self.with(move |store| store.meta(&id)).await
    }

    /// Opens a blob, if it is here.
    pub async fn read(&self, id: BlobId) -> Result<Option<Blob>, BlobError> {
        let now = clock::unix_millis();
        self.with(move |store| store.read(&id, now)).await
    }

    /// Begins to take a blob from a local client.
    pub async fn create(&self, expected: Option<BlobId>) -> Result<Incoming, BlobError> {
        let max = self.max;
        self.with(move |store| store.create(expected, max)).await
    }

    /// A blob was stored: everybody who listens hears of it, unless it was here before.
    pub fn announce(&self, meta: Meta, is_new: bool) {
        if is_new {
            // Nobody may be listening.
            let _ = self.added.send(meta);
        }
    }

    /// Waits until a blob is here, searching for it.
    pub async fn want(&self, id: BlobId) -> Result<(), RemoteError> {
        if self.meta(id).await.map_err(failed)?.is_some() {
            return Ok(());
        }
        let here = self.engine.want_blob(id).await?;
        // It may have come between the look and the want.
        if let Some(meta) = self.meta(id).await.map_err(failed)? {
            self.engine.blobs(BlobMsg::Stored { meta, is_new: false }).await?;
        }
        here.await.map_err(|_| RemoteError::new("the node is stopping"))
    }
}

/// Runs `work`, which may touch the disk, off the runtime's threads. It begins at once.
pub fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> + Send {
    let working = tokio::task::spawn_blocking(work);
    async {
        match working.await {
            Ok(value) => value,
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }
}

/// What a caller is told of a store that fails. Peers need not know where our files are.
pub fn failed(error: BlobError) -> RemoteError {
    match error {
        BlobError::Io { what, source, .. } => RemoteError::new(format!("could not {what}: {source}")),
        BlobError::DiskFull(_) | BlobError::TooLarge | BlobError::WrongHash { .. } => {
            RemoteError::new(error.to_string())
        }
    }
}
