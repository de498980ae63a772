//! What a source gives, item by item.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::StreamExt as _;
use hawsepipe_overlay::conn::{Stream, StreamRx, StreamTx};
use hawsepipe_overlay::muxrpc::Body;
use serde::de::DeserializeOwned;

use super::ClientError;

/// Items that are taken from the session in one go.
const TAKEN: usize = 256;

/// The items of a source: a [`futures::Stream`], which ends after the first error. Dropping it ends it at the node.
pub struct Source<T> {
    items: Pin<Box<dyn futures::Stream<Item = Result<T, ClientError>> + Send>>,
}

impl<T> Source<T> {
    /// The next item; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<T, ClientError>> {
        self.items.next().await
    }

    /// All of them.
    pub async fn all(mut self) -> Result<Vec<T>, ClientError> {
        let mut all = Vec::new();
        while let Some(item) = self.next().await {
            all.push(item?);
        }
        Ok(all)
    }

    /// What `read` makes of the bodies of a stream.
    pub(super) fn reading(
        stream: Stream,
        read: impl Fn(Body) -> Result<T, ClientError> + Send + 'static,
    ) -> Self
    where
        T: Send + 'static,
    {
        let Stream { tx, rx } = stream;
        let taken = Taken { rx, _tx: tx, ready: VecDeque::new() };
        let bodies = futures::stream::try_unfold(taken, async |mut taken: Taken| {
            let body = taken.next().await?;
            Ok(body.map(|body| (body, taken)))
        });
        let items = bodies.map(move |body: Result<Body, ClientError>| read(body?));
        Self { items: Box::pin(items) }
    }
}

impl<T: DeserializeOwned + Send + 'static> Source<T> {
    pub(super) fn new(method: &str, stream: Stream) -> Self {
        let method = method.to_owned();
        Self::reading(stream, move |body| body.decode().map_err(|why| ClientError::unreadable(&method, why)))
    }
}

impl<T> futures::Stream for Source<T> {
    type Item = Result<T, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.as_mut().poll_next(cx)
    }
}

impl<T> fmt::Debug for Source<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

/// Bodies that are taken from the session in batches.
struct Taken {
    rx: StreamRx,
    /// Kept because its end would be ours.
    _tx: StreamTx,
    ready: VecDeque<Body>,
}

impl Taken {
    async fn next(&mut self) -> Result<Option<Body>, ClientError> {
        if self.ready.is_empty() {
            let mut batch = Vec::new();
            self.rx.recv_batch(TAKEN, &mut batch).await?;
            self.ready = batch.into();
        }
        Ok(self.ready.pop_front())
    }
}
