//! Blobs: bytes under the name of their hash.

use bytes::Bytes;
use hawsepipe_overlay::muxrpc::{Body, CallKind};
use hawsepipe_replication::refs::BlobId;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{Client, ClientError, Source};

/// How much of a blob is sent in one packet, as in JS.
const PIECE: usize = 64 * 1024;

/// Why a blob was not stored.
#[derive(Debug, thiserror::Error)]
pub enum AddBlobError {
    /// What was to be stored cannot be read.
    #[error("cannot read the blob: {0}")]
    Read(#[from] std::io::Error),
    /// The node did not take it.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl Client {
    /// Stores what `from` gives as a blob.
    pub async fn add_blob(&self, from: impl AsyncRead + Unpin) -> Result<BlobId, AddBlobError> {
        let mut sink = self.sink_raw("blobs.add", Vec::new()).await?;
        let (mut from, mut hash) = (from, Sha256::new());
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            (&mut from).take(PIECE as u64).read_to_end(&mut piece).await?;
            hash.update(&piece);
            // The node may have broken off; why is said below.
            if piece.is_empty() || !sink.send(Body::binary(piece)).await {
                break;
            }
        }
        sink.finish().await?;
        // The node answers only that it is done, as JS's do.
        Ok(BlobId::from_bytes(hash.finalize().into()))
    }

    /// The bytes of a blob that the node has, piece by piece.
    pub async fn blob(&self, id: &BlobId) -> Result<Source<Bytes>, ClientError> {
        let stream = self.open(CallKind::Source, "blobs.get", vec![id.to_string().into()]).await?;
        Ok(Source::reading(stream, |body| Ok(body.bytes)))
    }

    /// Whether the node has a blob.
    pub async fn has_blob(&self, id: &BlobId) -> Result<bool, ClientError> {
        self.call("blobs.has", vec![id.to_string().into()]).await
    }

    /// Has a blob searched for; done when it is there.
    pub async fn want_blob(&self, id: &BlobId) -> Result<(), ClientError> {
        self.call_raw("blobs.want", vec![id.to_string().into()]).await.map(drop)
    }
}
