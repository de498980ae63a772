//! What happens in a node, for the program that it is part of.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_replication::refs::FeedId;
use hawsepipe_replication::store::{Order, ReadError, Reader};
use tokio::sync::watch;

use crate::blobs::blocking;
use crate::client::Message;
use crate::context::Context;

/// Messages that are read from the store in one go.
const CHUNK: usize = 64;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A message is on disk: one of our own, or one that was replicated. As it came, sealed or not.
    Message(Message),
    /// There is a session with a peer.
    Connected(FeedId),
    /// There is no session with a peer any more.
    Disconnected(FeedId),
}

/// What happens in a node, in its order. No message is left out, however late it is asked for; a session that ends before
/// anybody asks is not told of.
#[derive(Debug)]
pub struct Events {
    /// Gone when the node has stopped, so that its folder can be opened again.
    reader: Option<Reader>,
    tail: watch::Receiver<u64>,
    /// The offset up to which messages have been read.
    read: u64,
    peers: watch::Receiver<Arc<BTreeSet<PublicKey>>>,
    connected: Arc<BTreeSet<PublicKey>>,
    ready: VecDeque<Event>,
}

impl Events {
    pub(super) fn from_now(ctx: &Context) -> Self {
        let (mut tail, mut peers) = (ctx.tail.log(), ctx.engine.peers());
        let read = *tail.borrow_and_update();
        let connected = Arc::clone(&peers.borrow_and_update());
        Self { reader: Some(ctx.reader.clone()), tail, read, peers, connected, ready: VecDeque::new() }
    }

    /// The next one; `None` when the node has stopped. May be cancelled without losing anything.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let reader = self.reader.clone()?;
            let end = *self.tail.borrow_and_update();
            if self.read < end {
                self.read_on(reader, end).await;
                continue;
            }
            let is_over = tokio::select! {
                changed = self.tail.changed() => changed.is_err(),
                changed = self.peers.changed() => changed.map(|()| self.compare()).is_err(),
            };
            // The last messages may have come while the node was stopping.
            if is_over && self.read == *self.tail.borrow() {
                self.reader = None;
            }
        }
    }

    /// Reads some of the messages below `end`.
    async fn read_on(&mut self, reader: Reader, end: u64) {
        let from = self.read;
        let (messages, read) = blocking(move || read(&reader, from, end)).await.unwrap_or_else(|error| {
            tracing::error!(%error, "cannot tell of new messages");
            (Vec::new(), end)
        });
        self.ready.extend(messages.into_iter().map(Event::Message));
        self.read = read;
    }

    /// Notes which sessions came and went.
    fn compare(&mut self) {
        let now = Arc::clone(&self.peers.borrow_and_update());
        let feed = |peer: &PublicKey| FeedId::from_bytes(peer.to_bytes());
        self.ready.extend(now.difference(&self.connected).map(feed).map(Event::Connected));
        self.ready.extend(self.connected.difference(&now).map(feed).map(Event::Disconnected));
        self.connected = now;
    }
}

/// Some of the messages from `from` on and below `end`, and where to go on.
fn read(reader: &Reader, from: u64, end: u64) -> Result<(Vec<Message>, u64), ReadError> {
    let mut messages = Vec::new();
    for stored in reader.log(from..end, Order::Ascending)? {
        let stored = stored?;
        if messages.len() == CHUNK {
            return Ok((messages, stored.offset));
        }
        let json = stored.message.key_value_timestamp(stored.received);
        match serde_json::from_slice(&json) {
            Ok(message) => messages.push(message),
            Err(error) => {
                tracing::error!(%error, id = %stored.message.id(), "a stored message is not understood")
            }
        }
    }
    Ok((messages, end))
}
