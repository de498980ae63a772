//! One open stream: what the peer sent and nobody took yet, and which halves are over.

use std::collections::VecDeque;

use super::{Origin, Received};
use crate::muxrpc::{Body, CallError, CallKind};

/// What a queued item costs beside its bytes, so that many tiny ones count too.
const ITEM_COST: usize = 64;

/// How the peer ended its half.
#[derive(Debug)]
enum End {
    Normal,
    Failed(CallError),
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) origin: Origin,
    pub(super) kind: CallKind,
    /// We have said the end, or nobody would hear it.
    pub(super) ended: bool,
    /// Whoever reads is still there.
    pub(super) reader: bool,
    /// Whoever writes is still there.
    pub(super) writer: bool,
    /// Whoever reads waits to hear that there is something.
    pub(super) read_waiting: bool,
    /// Whoever writes waits to hear that there is room.
    pub(super) write_waiting: bool,
    /// It lasts as long as the session and transfers nothing that would be missed.
    pub(super) lasting: bool,
    queue: VecDeque<Body>,
    queued: usize,
    full: bool,
    peer_end: Option<End>,
}

/// How a stream's queue changed with regard to its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filling {
    Unchanged,
    Full,
    Resumed,
}

impl Stream {
    pub(super) fn new(origin: Origin, kind: CallKind) -> Self {
        Self {
            origin,
            kind,
            ended: false,
            reader: true,
            writer: true,
            read_waiting: false,
            write_waiting: false,
            lasting: false,
            queue: VecDeque::new(),
            queued: 0,
            full: false,
            peer_end: None,
        }
    }

    /// Takes an item from the peer.
    pub(super) fn push(&mut self, body: Body, limit: usize) -> Filling {
        if !self.receives() {
            return Filling::Unchanged;
        }
        self.queued += body.bytes.len() + ITEM_COST;
        self.queue.push_back(body);
        if self.full || self.queued < limit {
            return Filling::Unchanged;
        }
        self.full = true;
        Filling::Full
    }

    /// Gives the next item. A queue that was full counts as full until it is half empty.
    pub(super) fn pop(&mut self, limit: usize) -> Option<(Body, Filling)> {
        let body = self.queue.pop_front()?;
        self.queued -= body.bytes.len() + ITEM_COST;
        Some((body, self.resumed(limit / 2)))
    }

    /// How the stream stands when its queue is empty. A failure is said once.
    pub(super) fn take_end(&mut self) -> Received {
        match self.peer_end.as_mut() {
            None => {
                self.read_waiting = true;
                Received::Pending
            }
            Some(end) => match std::mem::replace(end, End::Normal) {
                End::Failed(error) => Received::Failed(error),
                End::Normal => Received::Ended,
            },
        }
    }

    /// Nobody reads any more.
    pub(super) fn drop_reader(&mut self) -> Filling {
        self.reader = false;
        self.queue.clear();
        self.queued = 0;
        self.resumed(0)
    }

    fn resumed(&mut self, low: usize) -> Filling {
        if !self.full || self.queued > low {
            return Filling::Unchanged;
        }
        self.full = false;
        Filling::Resumed
    }

    /// Takes the peer's end; the first one counts.
    pub(super) fn set_peer_end(&mut self, error: Option<CallError>) {
        if self.peer_end.is_none() {
            self.peer_end = Some(error.map_or(End::Normal, End::Failed));
        }
    }

    pub(super) fn peer_ended(&self) -> bool {
        self.peer_end.is_some()
    }

    /// Whether items are kept: someone reads, and they are for it to read.
    fn receives(&self) -> bool {
        let ours_to_read = match (self.kind, self.origin) {
            (CallKind::Source, Origin::Theirs) | (CallKind::Sink, Origin::Ours) => false,
            (CallKind::Source | CallKind::Sink | CallKind::Duplex, _) => true,
            (CallKind::Sync | CallKind::Async, _) => false,
        };
        ours_to_read && self.reader && !self.peer_ended()
    }

    /// Whether items may be sent: both sides are open, and it is for us to send any.
    pub(super) fn sends(&self) -> bool {
        let ours_to_send = match (self.kind, self.origin) {
            (CallKind::Source, Origin::Ours) | (CallKind::Sink, Origin::Theirs) => false,
            (CallKind::Source | CallKind::Sink | CallKind::Duplex, _) => true,
            (CallKind::Sync | CallKind::Async, _) => false,
        };
        ours_to_send && !self.ended && !self.peer_ended()
    }

    /// Whether our end is due, given what happened so far. Said once per change, and idempotent.
    ///
    /// Whoever only receives says its end as an answer to the peer's or to abort; whoever sends, when it
    /// has no more; and the peer's end is the end of both halves, as in JS, except for a sink that we
    /// serve: it may still have to report how it went.
    pub(super) fn end_due(&self) -> bool {
        if self.ended {
            return false;
        }
        match (self.kind, self.origin) {
            (CallKind::Source, Origin::Ours) => self.peer_ended() || !self.reader,
            (CallKind::Sink, Origin::Theirs) => !self.writer && (self.peer_ended() || !self.reader),
            _ => self.peer_ended() || !self.writer,
        }
    }

    /// Whether both handles are gone.
    pub(super) fn is_abandoned(&self) -> bool {
        !self.reader && !self.writer
    }
}
