//! What is given to a method item by item.

use hawsepipe_overlay::conn::Stream;
use hawsepipe_overlay::muxrpc::Body;

use super::ClientError;

/// A sink that is being filled. Dropping it breaks it off; [`Sink::finish`] says that this was all.
#[derive(Debug)]
pub struct Sink(Stream);

impl Sink {
    pub(super) const fn new(stream: Stream) -> Self {
        Self(stream)
    }

    /// Gives one item. False when the node takes no more; [`Sink::finish`] says why.
    pub async fn send(&mut self, item: Body) -> bool {
        self.0.tx.send(item).await.is_ok()
    }

    /// Ends it, and waits until the node has taken all.
    pub async fn finish(self) -> Result<(), ClientError> {
        let Stream { tx, mut rx } = self.0;
        tx.end(None).await;
        while let Some(ended) = rx.recv().await {
            ended?;
        }
        Ok(())
    }
}
