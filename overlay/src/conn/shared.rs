//! What the driver and the handles of one session share: the multiplexer under a lock that is never held
//! across a wait, and what those wait on who have to.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tracing::Span;

use super::{Closed, LinkInfo};
use crate::keys::PublicKey;
use crate::muxrpc::session::{CallId, Event, Limits, Mux};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) peer: PublicKey,
    pub(super) info: LinkInfo,
    /// Guards the multiplexer and the list of who waits for which call.
    inner: Mutex<Inner>,
    /// There may be something to send. The driver waits.
    pub(super) output: Notify,
    /// There may be room for what was received. The driver waits.
    pub(super) input: Notify,
    /// The peer may have called. [`Calls`](super::Calls) waits.
    pub(super) calls: Notify,
    /// There may be room for calls and answers. Any number of callers wait.
    pub(super) calls_drained: Notify,
    /// Packets to the peer may share boxes.
    shares_boxes: AtomicBool,
    /// Bytes that the peer may send in a second; 0 is any number.
    pace: AtomicU32,
    pub(super) span: Span,
    closing: watch::Sender<bool>,
    closed: watch::Sender<Option<Closed>>,
    pub(super) traffic: Traffic,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) mux: Mux,
    waiters: BTreeMap<CallId, Arc<Waiter>>,
}

/// What the two halves of a call wait on; each has one waiter at most.
#[derive(Debug, Default)]
pub(super) struct Waiter {
    pub(super) readable: Notify,
    pub(super) writable: Notify,
}

impl Inner {
    pub(super) fn wait_for(&mut self, id: CallId) -> Arc<Waiter> {
        Arc::clone(self.waiters.entry(id).or_default())
    }

    /// To be called after whatever may have ended a call, under the same lock: its number may come again.
    pub(super) fn forget_if_over(&mut self, id: CallId) {
        if !self.mux.holds(id) {
            self.waiters.remove(&id);
        }
    }
}

impl Shared {
    pub(super) fn new(peer: PublicKey, info: LinkInfo) -> Self {
        let inner = Inner { mux: Mux::new(Limits::default()), waiters: BTreeMap::new() };
        // Only Hawsepipe speaks over libp2p.
        let shares_boxes = AtomicBool::new(info.path.is_some());
        Self {
            peer,
            span: info.span(Some(peer)),
            info,
            inner: Mutex::new(inner),
            output: Notify::new(),
            input: Notify::new(),
            calls: Notify::new(),
            calls_drained: Notify::new(),
            shares_boxes,
            pace: AtomicU32::new(0),
            closing: watch::Sender::new(false),
            closed: watch::Sender::new(None),
            traffic: Traffic::default(),
        }
    }

    /// Does one thing to the multiplexer, then wakes whoever it concerns.
    pub(super) fn with<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        let mut inner = self.lock();
        let result = change(&mut inner);
        self.wake(&mut inner);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock ends the driver, which ends the session: what it left is not used.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, inner: &mut Inner) {
        while let Some(event) = inner.mux.poll_event() {
            match event {
                Event::CallWaiting => self.calls.notify_one(),
                Event::Readable(id) => {
                    inner.waiters.get(&id).inspect(|waiter| waiter.readable.notify_one());
                }
                Event::Writable(id) => {
                    inner.waiters.get(&id).inspect(|waiter| waiter.writable.notify_one());
                }
                Event::CallsDrained => self.calls_drained.notify_waiters(),
                Event::Resumed => self.input.notify_one(),
            }
        }
        if inner.mux.has_output() {
            self.output.notify_one();
        }
    }

    /// The peer takes boxes however they are cut: from now on packets share them.
    pub(super) fn share_boxes(&self) {
        self.shares_boxes.store(true, Ordering::Relaxed);
    }

    pub(super) fn shares_boxes(&self) -> bool {
        self.shares_boxes.load(Ordering::Relaxed)
    }

    pub(super) fn set_pace(&self, bytes: Option<NonZeroU32>) {
        self.pace.store(bytes.map_or(0, NonZeroU32::get), Ordering::Relaxed);
    }

    pub(super) fn pace(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.pace.load(Ordering::Relaxed))
    }

    /// Begins to close from our side.
    pub(super) fn close(&self) {
        self.with(|inner| inner.mux.close());
        self.closing.send_replace(true);
    }

    /// Whether we began to close.
    pub(super) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Resolves when we begin to close.
    pub(super) async fn closing(&self) {
        // The sender lives in self: there is always one.
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }

    /// The session is over; the first reason counts.
    pub(super) fn finish(&self, reason: Closed) {
        self.with(|inner| inner.mux.handle_lost());
        self.closed.send_if_modified(|closed| {
            let first = closed.is_none();
            closed.get_or_insert(reason);
            first
        });
    }

    pub(super) fn closed_now(&self) -> Option<Closed> {
        *self.closed.borrow()
    }

    /// Resolves when the session is over.
    pub(super) async fn closed(&self) -> Closed {
        let mut closed = self.closed.subscribe();
        let reason = closed.wait_for(Option::is_some).await.ok().and_then(|reason| *reason);
        reason.unwrap_or(Closed::Aborted)
    }
}

/// Closes the session when the last handle is gone.
#[derive(Debug)]
pub(super) struct Handle(pub(super) Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Ends the session when its driver is gone.
#[derive(Debug)]
pub(super) struct DriverEnd(pub(super) Arc<Shared>);

impl Drop for DriverEnd {
    fn drop(&mut self) {
        self.0.finish(Closed::Aborted);
    }
}

/// What a session has moved so far. Each figure only grows.
#[derive(Debug, Default)]
pub struct Traffic {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    packets_in: AtomicU64,
    packets_out: AtomicU64,
}

impl Traffic {
    /// Bytes read from the line after the handshake.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }

    /// Bytes written to the line after the handshake.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Ordering::Relaxed)
    }

    /// Packets received.
    pub fn packets_in(&self) -> u64 {
        self.packets_in.load(Ordering::Relaxed)
    }

    /// Packets sent.
    pub fn packets_out(&self) -> u64 {
        self.packets_out.load(Ordering::Relaxed)
    }

    /// Grows whenever anything moves: as long as it stands still, the session is silent.
    pub fn activity(&self) -> u64 {
        self.bytes_in().wrapping_add(self.bytes_out())
    }

    pub(super) fn received(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn packets_received(&self, packets: u64) {
        self.packets_in.fetch_add(packets, Ordering::Relaxed);
    }

    pub(super) fn packets_sent(&self, packets: usize) {
        self.packets_out.fetch_add(packets as u64, Ordering::Relaxed);
    }
}
