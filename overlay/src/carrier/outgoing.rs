//! What we send: kept as frames until the other end has it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::MAX_UNACKNOWLEDGED;
use super::frame::{DATA_HEADER, MAX_DATA, finish_data, start_data};

/// What a frame costs beside its bytes: many small ones shall not take more memory than few large ones.
pub(super) const FRAME_COST: usize = 128;
/// What a frame that is begun has room for at first.
const FIRST_ROOM: usize = 256;
/// A frame that does not fit into what may be on its way is cut if at least so much of it does.
const LEAST_CUT: u64 = 1024;

/// An offset that the other end cannot honestly name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfBuffer;

/// Where an offset lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It was never sent.
    Unsent,
    /// Between what was acknowledged and what was sent.
    Kept,
    /// More was acknowledged already.
    Passed,
}

#[derive(Debug)]
struct Framed {
    off: u64,
    wire: Bytes,
    /// What it costs beside its bytes: nothing for what was cut off another one.
    cost: usize,
}

impl Framed {
    fn end(&self) -> u64 {
        self.off + (self.wire.len() - DATA_HEADER) as u64
    }

    /// The bytes from `from` on, and what they cost.
    fn rest(&self, from: usize, cost: usize) -> Self {
        let rest = &self.wire[DATA_HEADER + from..];
        let mut wire = start_data(rest.len());
        wire.extend_from_slice(rest);
        let off = self.off + from as u64;
        Self { off, wire: finish_data(wire, off), cost }
    }

    /// The bytes before `to`.
    fn cut(&self, to: usize) -> Self {
        let mut wire = start_data(to);
        wire.extend_from_slice(&self.wire[DATA_HEADER..DATA_HEADER + to]);
        Self { off: self.off, wire: finish_data(wire, self.off), cost: self.cost }
    }
}

/// The bytes from `acked` to `end`.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    frames: VecDeque<Framed>,
    /// The first of `frames` that was not given to the stream of now.
    next: usize,
    /// The frame that is being filled; not begun while there is nothing to fill it with.
    tail: BytesMut,
    acked: u64,
    /// Highest that was given to any stream.
    sent: u64,
    end: u64,
    /// What `frames` and `tail` cost.
    held: usize,
    finished: bool,
    /// FIN was given to the stream of now.
    fin_sent: bool,
    fin_acked: bool,
    resent: u64,
}

impl Outgoing {
    /// Takes as many bytes as there is room for, here and in `allowance`. At least some are taken where none wait.
    pub(super) fn write(&mut self, mut bytes: &[u8], allowance: usize) -> usize {
        if self.finished {
            return 0;
        }
        let before = bytes.len();
        let allowance = if self.held == 0 { allowance.max(MAX_DATA + FRAME_COST) } else { allowance };
        let limit = MAX_UNACKNOWLEDGED.min(self.held.saturating_add(allowance));
        while !bytes.is_empty() {
            let new = if self.tail.is_empty() { FRAME_COST } else { 0 };
            let filled = self.tail.len().saturating_sub(DATA_HEADER);
            let room = limit.saturating_sub(self.held + new).min(MAX_DATA - filled);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            if now.is_empty() {
                break;
            }
            if self.tail.is_empty() {
                self.tail = start_data(now.len().max(FIRST_ROOM));
            }
            self.tail.extend_from_slice(now);
            self.held += new + now.len();
            self.end += now.len() as u64;
            bytes = later;
            if self.tail.len() == DATA_HEADER + MAX_DATA {
                self.seal();
            }
        }
        before - bytes.len()
    }

    fn seal(&mut self) {
        let wire = std::mem::take(&mut self.tail);
        let off = self.end - (wire.len() - DATA_HEADER) as u64;
        self.frames.push_back(Framed { off, wire: finish_data(wire, off), cost: FRAME_COST });
    }

    /// The next DATA for the stream of now, if no more than `window` bytes are on their way with it.
    pub(super) fn next_data(&mut self, window: u64) -> Option<Bytes> {
        if self.next == self.frames.len() && !self.tail.is_empty() {
            self.seal();
        }
        let frame = self.frames.get(self.next)?;
        let room = self.acked.saturating_add(window).saturating_sub(frame.off);
        if frame.end() - frame.off > room {
            let room = usize::try_from(room).ok().filter(|_| room >= LEAST_CUT)?;
            let (head, rest) = (frame.cut(room), frame.rest(room, 0));
            self.frames[self.next] = head;
            self.frames.insert(self.next + 1, rest);
        }
        let frame = self.frames.get(self.next)?;
        self.next += 1;
        self.sent = self.sent.max(frame.end());
        Some(frame.wire.clone())
    }

    /// Where to say FIN, once; after all DATA.
    pub(super) fn next_fin(&mut self) -> Option<u64> {
        let due = self.finished && !self.fin_sent && !self.fin_acked && self.all_given();
        self.fin_sent |= due;
        due.then_some(self.end)
    }

    fn all_given(&self) -> bool {
        self.next == self.frames.len() && self.tail.is_empty()
    }

    pub(super) fn has_output(&self) -> bool {
        !self.all_given() || (self.finished && !self.fin_sent && !self.fin_acked)
    }

    /// The other end has consumed all before `off`. It may have said more before: what it had received when the
    /// session moved.
    pub(super) fn acknowledge(&mut self, off: u64) -> Result<(), OutOfBuffer> {
        if off > self.sent {
            return Err(OutOfBuffer);
        }
        self.acked = self.acked.max(off);
        while let Some(frame) = self.frames.front().filter(|frame| frame.end() <= off) {
            self.held -= frame.wire.len() - DATA_HEADER + frame.cost;
            self.frames.pop_front();
            self.next = self.next.saturating_sub(1);
        }
        if self.frames.is_empty() && self.frames.capacity() > 64 {
            self.frames = VecDeque::new();
        }
        self.fin_acked |= self.fin_sent && off == self.end;
        Ok(())
    }

    /// Whether the other end may say that it has all before `off`, and nothing behind.
    pub(super) fn place(&self, off: u64) -> Place {
        if off > self.sent {
            Place::Unsent
        } else if off < self.acked {
            Place::Passed
        } else {
            Place::Kept
        }
    }

    /// Another stream takes over, and the other end has all before `off`, which is [kept](Place::Kept).
    pub(super) fn rewind(&mut self, off: u64) -> Result<(), OutOfBuffer> {
        // What was received may not be consumed, and FIN is another matter.
        self.fin_sent = false;
        self.acknowledge(off)?;
        self.next = 0;
        self.resent += self.sent - off;
        if let Some(first) = self.frames.front_mut().filter(|first| first.off < off) {
            let skip = usize::try_from(off - first.off).expect("within a frame");
            self.held -= skip;
            *first = first.rest(skip, first.cost);
        }
        Ok(())
    }

    /// Nothing more will be written.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    /// Whether the other end knows that there is nothing more.
    pub(super) const fn is_done(&self) -> bool {
        self.fin_acked
    }

    /// Whether an answer of the other end is due.
    pub(super) const fn is_waiting(&self) -> bool {
        self.sent > self.acked || (self.fin_sent && !self.fin_acked)
    }

    pub(super) const fn is_full(&self) -> bool {
        self.held + FRAME_COST >= MAX_UNACKNOWLEDGED
    }

    /// What the bytes that wait cost.
    pub(super) const fn held(&self) -> usize {
        self.held
    }

    /// Bytes that were given to more than one stream.
    pub(super) const fn resent(&self) -> u64 {
        self.resent
    }
}
