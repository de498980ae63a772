//! What we receive: in order, until whoever is above has read it.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::machine::Fault;
use super::{ACK_BYTES, ACK_DELAY, MAX_UNREAD};

/// Chunks smaller than this are copied together: each would keep the whole buffer that it was read into.
const WORTH_KEEPING: usize = 8 * 1024;

/// The bytes from `consumed` to `received`.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    chunks: VecDeque<Bytes>,
    /// Small ones, behind the others.
    small: BytesMut,
    received: u64,
    consumed: u64,
    /// Said in the last ACK.
    acked: u64,
    ack_at: Option<Instant>,
    /// To be said now, whatever was said before.
    ack_now: bool,
    fin: Option<u64>,
}

impl Incoming {
    /// What comes again is passed over.
    pub(super) fn data(&mut self, off: u64, mut bytes: Bytes) -> Result<(), Fault> {
        let end = off.checked_add(bytes.len() as u64).ok_or(Fault::WrongOffset)?;
        if off > self.received || self.fin.is_some_and(|fin| end > fin) {
            return Err(Fault::WrongOffset);
        }
        if end <= self.received {
            return Ok(());
        }
        let known = usize::try_from(self.received - off).map_err(|_| Fault::WrongOffset)?;
        let bytes = bytes.split_off(known);
        self.received = end;
        if bytes.len() < WORTH_KEEPING {
            self.small.extend_from_slice(&bytes);
        } else {
            self.keep_small();
            self.chunks.push_back(bytes);
        }
        Ok(())
    }

    fn keep_small(&mut self) {
        if !self.small.is_empty() {
            self.chunks.push_back(std::mem::take(&mut self.small).freeze());
        }
    }

    pub(super) fn fin(&mut self, off: u64) -> Result<(), Fault> {
        if off != self.received || self.fin.is_some_and(|fin| fin != off) {
            return Err(Fault::WrongOffset);
        }
        self.fin = Some(off);
        // Also if all before it was acknowledged long ago.
        self.ack_now = self.consumed == off;
        Ok(())
    }

    /// Up to `max` bytes.
    pub(super) fn read(&mut self, now: Instant, max: usize) -> Option<Bytes> {
        if self.chunks.is_empty() {
            self.keep_small();
        }
        let first = self.chunks.front_mut().filter(|_| max > 0)?;
        let chunk = if first.len() <= max { std::mem::take(first) } else { first.split_to(max) };
        if first.is_empty() {
            self.chunks.pop_front();
        }
        if self.chunks.is_empty() && self.chunks.capacity() > 64 {
            self.chunks = VecDeque::new();
        }
        self.consumed += chunk.len() as u64;
        self.ack_now |= self.consumed - self.acked >= ACK_BYTES || self.fin == Some(self.consumed);
        self.ack_at.get_or_insert(now + ACK_DELAY);
        Some(chunk)
    }

    /// What to say in an ACK, if one is due; no more than `limit`.
    pub(super) fn next_ack(&mut self, now: Instant, limit: u64) -> Option<u64> {
        let due = self.ack_now || self.ack_at.is_some_and(|at| at <= now);
        due.then(|| {
            (self.ack_now, self.ack_at, self.acked) = (false, None, self.consumed.min(limit));
            self.acked
        })
    }

    /// The limit is no more, or another stream takes over. The end has to be acknowledged on each stream.
    pub(super) fn acknowledge_again(&mut self, now: Instant) {
        if self.consumed > self.acked {
            self.ack_at.get_or_insert(now + ACK_DELAY);
        }
        self.ack_now |= self.fin == Some(self.consumed);
    }

    pub(super) const fn has_ack_now(&self) -> bool {
        self.ack_now
    }

    pub(super) const fn ack_at(&self) -> Option<Instant> {
        self.ack_at
    }

    pub(super) const fn received(&self) -> u64 {
        self.received
    }

    #[cfg(test)]
    pub(super) const fn unread(&self) -> usize {
        (self.received - self.consumed) as usize
    }

    pub(super) const fn has_bytes(&self) -> bool {
        self.received > self.consumed
    }

    /// Whether all was read that will ever come.
    pub(super) fn is_at_end(&self) -> bool {
        self.fin == Some(self.consumed)
    }

    /// Whether that was also said.
    pub(super) fn is_done(&self) -> bool {
        self.is_at_end() && !self.ack_now && self.acked == self.consumed
    }

    /// Whether there is room for more.
    pub(super) const fn wants_input(&self) -> bool {
        self.received - self.consumed < MAX_UNREAD as u64
    }
}
