//! The handles of a session. Each operation is one step of the multiplexer under the session's lock; what
//! cannot be done yet waits outside of it. All waits may be cancelled without losing anything.

use std::num::NonZeroU32;
use std::sync::Arc;

use serde_json::Value;
use tokio::task::coop::consume_budget;
use tracing::Span;

use super::shared::{Handle, Shared, Traffic, Waiter};
use super::{Closed, IncomingCall, LinkInfo, Reply};
use crate::keys::PublicKey;
use crate::muxrpc::session::{CallId, Received, Room};
use crate::muxrpc::{Body, Call, CallError, CallKind, RemoteError, StreamClosed};

/// An authenticated muxrpc session: a cheap handle; the connection lives in its
/// [`Driver`](super::Driver).
#[derive(Clone, Debug)]
pub struct Session {
    handle: Arc<Handle>,
}

impl Session {
    pub(super) fn new(shared: &Arc<Shared>) -> (Self, Calls) {
        let handle = Arc::new(Handle(Arc::clone(shared)));
        (Self { handle: Arc::clone(&handle) }, Calls { handle })
    }

    fn shared(&self) -> &Shared {
        &self.handle.0
    }

    /// Who is at the other end, proven by SHS (our own key on a `unix:` socket).
    pub fn peer(&self) -> PublicKey {
        self.shared().peer
    }

    /// The link it runs on.
    pub fn info(&self) -> &LinkInfo {
        &self.shared().info
    }

    /// What it has moved so far.
    pub fn traffic(&self) -> &Traffic {
        &self.shared().traffic
    }

    /// The span in which everything is to be logged that is done for it.
    pub fn span(&self) -> &Span {
        &self.shared().span
    }

    /// Limits how many bytes the peer may send in a second, in the long run ([`PACE_BURST`](super::PACE_BURST) times as many
    /// at once), from its next bytes on; `None` is any number. Whoever sends more is read no faster.
    pub fn set_pace(&self, bytes: Option<NonZeroU32>) {
        self.shared().set_pace(bytes);
    }

    /// Whether anything is under way that would be missed if the session ended now; see
    /// [`Stream::set_lasting`]. Looks at every open call.
    pub fn is_busy(&self) -> bool {
        self.shared().with(|inner| inner.mux.is_busy())
    }

    /// Calls an async or sync method.
    pub async fn call(&self, name: &[&str], args: Vec<Value>) -> Result<Body, CallError> {
        let (id, waiter) = self.open_call(CallKind::Async, name, &args).await?;
        let asked = Asked { shared: self.shared(), id };
        loop {
            if let Some(answer) = asked.shared.with(|inner| inner.mux.take_answer(id)) {
                return answer;
            }
            waiter.readable.notified().await;
        }
    }

    /// Opens a source, sink or duplex call; of any other kind, a source is asked for.
    pub async fn open(&self, kind: CallKind, name: &[&str], args: Vec<Value>) -> Result<Stream, CallError> {
        let kind = if kind.is_stream() { kind } else { CallKind::Source };
        let (id, waiter) = self.open_call(kind, name, &args).await?;
        Ok(Stream::new(&self.handle, id, waiter))
    }

    async fn open_call(
        &self,
        kind: CallKind,
        name: &[&str],
        args: &[Value],
    ) -> Result<(CallId, Arc<Waiter>), CallError> {
        loop {
            let drained = self.shared().calls_drained.notified();
            let opened = self.shared().with(|inner| match inner.mux.call_room() {
                Room::Full => None,
                Room::Ready | Room::Closed => {
                    let id = inner.mux.open(kind, name, args);
                    Some(id.map(|id| (id, inner.wait_for(id))))
                }
            });
            match opened {
                Some(opened) => return opened.ok_or(CallError::SessionEnded),
                None => drained.await,
            }
        }
    }

    /// Says goodbye and closes: open calls fail at once, what is queued is still sent, and both the last
    /// bytes and the peer's goodbye are waited for up to [`CLOSE_TIMEOUT`](super::CLOSE_TIMEOUT).
    pub fn close(&self) {
        self.shared().close();
    }

    /// Resolves when the session is over.
    pub async fn closed(&self) -> Closed {
        self.shared().closed().await
    }

    /// How the session ended, if it is over.
    pub fn closed_now(&self) -> Option<Closed> {
        self.shared().closed_now()
    }
}

/// Two handles are equal if they belong to the same session.
impl PartialEq for Session {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.handle.0, &other.handle.0)
    }
}

impl Eq for Session {}

/// An async call of ours; forgotten when its caller goes away.
struct Asked<'a> {
    shared: &'a Shared,
    id: CallId,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.shared.with(|inner| {
            inner.mux.cancel(self.id);
            inner.forget_if_over(self.id);
        });
    }
}

/// The peer's calls, in order. Dropping it refuses them as if no method existed.
///
/// Someone has to take them all the time: once [`Limits::waiting_calls`](super::Limits::waiting_calls) of
/// them wait, the line is not read any further.
#[derive(Debug)]
pub struct Calls {
    handle: Arc<Handle>,
}

impl Calls {
    /// The next call; `None` when the session is over or closing.
    pub async fn next(&mut self) -> Option<IncomingCall> {
        loop {
            let (next, open) = self.handle.0.with(|inner| {
                let next = inner.mux.next_call();
                let next = next.map(|(id, call)| (id, inner.wait_for(id), call));
                (next, inner.mux.is_open())
            });
            match next {
                Some((id, waiter, call)) => return Some(self.incoming(id, waiter, call)),
                None if open => self.handle.0.calls.notified().await,
                None => return None,
            }
        }
    }

    fn incoming(&self, id: CallId, waiter: Arc<Waiter>, call: Call) -> IncomingCall {
        let reply = if call.kind.is_stream() {
            Reply::Stream(Stream::new(&self.handle, id, waiter))
        } else {
            Reply::Once(ReplyOnce { handle: Arc::clone(&self.handle), id })
        };
        IncomingCall { call, reply }
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.handle.0.with(|inner| inner.mux.refuse_calls());
    }
}

/// The one answer to an async call; dropping it answers with an error.
#[derive(Debug)]
pub struct ReplyOnce {
    handle: Arc<Handle>,
    id: CallId,
}

impl ReplyOnce {
    /// Answers. Waits while the peer does not read.
    pub async fn ok(self, body: Body) {
        self.answer(Ok(body)).await;
    }

    /// Answers with an error.
    pub async fn err(self, error: RemoteError) {
        self.answer(Err(error)).await;
    }

    async fn answer(self, answer: Result<Body, RemoteError>) {
        let (shared, mut answer) = (&self.handle.0, Some(answer));
        loop {
            let drained = shared.calls_drained.notified();
            shared.with(|inner| {
                if inner.mux.call_room() != Room::Full
                    && let Some(answer) = answer.take()
                {
                    inner.mux.reply(self.id, answer);
                }
            });
            if answer.is_none() {
                return;
            }
            drained.await;
        }
    }
}

impl Drop for ReplyOnce {
    fn drop(&mut self) {
        self.handle.0.with(|inner| {
            // Does nothing if the call was answered.
            inner.mux.reply(self.id, Err(RemoteError::new("the call was dropped without an answer")));
            inner.forget_if_over(self.id);
        });
    }
}

/// Both halves of a stream call.
#[derive(Debug)]
pub struct Stream {
    /// Towards the peer.
    pub tx: StreamTx,
    /// From the peer.
    pub rx: StreamRx,
}

impl Stream {
    /// Says that this stream lasts as long as its session and is no reason to keep the session: a ping, or
    /// replication, which goes on over another one.
    pub fn set_lasting(&self) {
        self.tx.set_lasting();
    }

    fn new(handle: &Arc<Handle>, id: CallId, waiter: Arc<Waiter>) -> Self {
        let half = || Half { handle: Arc::clone(handle), id, waiter: Arc::clone(&waiter) };
        Self { tx: StreamTx { half: half() }, rx: StreamRx { half: half() } }
    }
}

#[derive(Debug)]
struct Half {
    handle: Arc<Handle>,
    id: CallId,
    waiter: Arc<Waiter>,
}

/// The half towards the peer; dropping it ends the stream normally.
///
/// The peer's end closes this half too, and what is still queued is not sent: JS would throw it away. Only
/// a sink that we serve can still be ended with an error then.
///
/// Of a source that we call there is nothing to send, and dropping this half does nothing; of a sink that
/// we serve, dropping it says the end once the peer has.
#[derive(Debug)]
pub struct StreamTx {
    half: Half,
}

/// An item that was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrySendError {
    /// The stream's queue is full; the item is given back.
    #[error("the stream's queue is full")]
    Full(Body),
    /// The stream is over.
    #[error(transparent)]
    Closed(#[from] StreamClosed),
}

impl StreamTx {
    /// Sends one item; waits while the stream's queue is full (back-pressure).
    pub async fn send(&mut self, body: Body) -> Result<(), StreamClosed> {
        self.send_batch([body]).await
    }

    /// Sends items, in as few steps as the stream's queue allows. Stops when the stream is over.
    pub async fn send_batch(&mut self, items: impl IntoIterator<Item = Body>) -> Result<(), StreamClosed> {
        let mut items = items.into_iter();
        // Taken from the iterator, but not sent yet.
        let mut next = items.next();
        while next.is_some() {
            consume_budget().await;
            let room = self.half.handle.0.with(|inner| {
                loop {
                    let room = inner.mux.send_room(self.half.id);
                    let Some(body) = (if room == Room::Ready { next.take() } else { None }) else {
                        return Ok(room);
                    };
                    inner.mux.send(self.half.id, body)?;
                    next = items.next();
                }
            })?;
            match room {
                Room::Ready => {}
                Room::Full => self.half.waiter.writable.notified().await,
                Room::Closed => return Err(StreamClosed),
            }
        }
        Ok(())
    }

    /// Sends one item if there is room.
    pub fn try_send(&mut self, body: Body) -> Result<(), TrySendError> {
        let id = self.half.id;
        self.half.handle.0.with(|inner| match inner.mux.send_room(id) {
            Room::Ready => Ok(inner.mux.send(id, body)?),
            Room::Full => Err(TrySendError::Full(body)),
            Room::Closed => Err(StreamClosed.into()),
        })
    }

    /// From now on packets to the peer share boxes, on this stream and all others of the session: less to seal and to
    /// open. Only for a peer that is known to take them so, because some clients read exactly one box for a header.
    /// With a peer on libp2p, and with one that does it itself, it is so from the beginning.
    pub fn share_boxes(&self) {
        self.half.handle.0.share_boxes();
    }

    /// See [`Stream::set_lasting`].
    pub fn set_lasting(&self) {
        let Half { handle, id, .. } = &self.half;
        handle.0.with(|inner| inner.mux.set_lasting(*id));
    }

    /// Resolves when the peer has ended or aborted the stream, or the session is over: nothing that is
    /// sent from then on arrives.
    pub async fn closed(&mut self) {
        while !self.half.handle.0.with(|inner| inner.mux.watch_closed(self.half.id)) {
            self.half.waiter.writable.notified().await;
        }
    }

    /// Ends our half, with an error if one is given.
    pub async fn end(self, error: Option<RemoteError>) {
        self.half.handle.0.with(|inner| inner.mux.end(self.half.id, error.as_ref()));
        consume_budget().await;
    }
}

impl Drop for StreamTx {
    fn drop(&mut self) {
        let id = self.half.id;
        self.half.handle.0.with(|inner| {
            inner.mux.drop_writer(id);
            inner.forget_if_over(id);
        });
    }
}

/// The half from the peer. Dropping it aborts a source that we call; of other streams, what still comes
/// is thrown away.
///
/// While nobody receives, the whole line is read no further than the stream's queue holds.
#[derive(Debug)]
pub struct StreamRx {
    half: Half,
}

impl StreamRx {
    /// The next item; `None` at a normal end, and after an error.
    pub async fn recv(&mut self) -> Option<Result<Body, CallError>> {
        consume_budget().await;
        loop {
            match self.half.handle.0.with(|inner| inner.mux.recv(self.half.id)) {
                Received::Item(body) => return Some(Ok(body)),
                Received::Failed(error) => return Some(Err(error)),
                Received::Ended => return None,
                Received::Pending => self.half.waiter.readable.notified().await,
            }
        }
    }

    /// An item, or the stream's error, that is already here.
    pub fn try_recv(&mut self) -> Option<Result<Body, CallError>> {
        match self.half.handle.0.with(|inner| inner.mux.recv(self.half.id)) {
            Received::Item(body) => Some(Ok(body)),
            Received::Failed(error) => Some(Err(error)),
            Received::Ended | Received::Pending => None,
        }
    }

    /// Waits for an item, then appends what is here to `items`, up to `max`. Says how many there were:
    /// none at a normal end. `max` is at least one.
    pub async fn recv_batch(&mut self, max: usize, items: &mut Vec<Body>) -> Result<usize, CallError> {
        let max = max.max(1);
        consume_budget().await;
        let (id, before) = (self.half.id, items.len());
        loop {
            let end = self.half.handle.0.with(|inner| {
                while items.len() - before < max
                    && let Some(body) = inner.mux.recv_item(id)
                {
                    items.push(body);
                }
                // An error is said by the next call: the items come first.
                if items.len() > before { Received::Ended } else { inner.mux.recv(id) }
            });
            match end {
                Received::Item(_) | Received::Ended => return Ok(items.len() - before),
                Received::Failed(error) => return Err(error),
                Received::Pending => self.half.waiter.readable.notified().await,
            }
        }
    }
}

impl Drop for StreamRx {
    fn drop(&mut self) {
        let id = self.half.id;
        self.half.handle.0.with(|inner| {
            inner.mux.drop_reader(id);
            inner.forget_if_over(id);
        });
    }
}
