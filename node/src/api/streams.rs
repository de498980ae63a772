//! What all streams of messages have in common: their options, their item form, and sending in chunks
//! so that a long log neither blocks the runtime nor fills memory.

use std::ops::{Bound, RangeBounds as _};

use hawsepipe_overlay::conn::StreamTx;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::store::{Messages, Order, ReadError, Reader, Stored};
use serde_json::json;
use tokio::sync::Semaphore;

use super::Request;
use super::args::Options;
use crate::context::Context;

/// Messages read from the store in one go.
const CHUNK: usize = 64;

/// Options of every log-type stream (pull-level's vocabulary).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StreamOptions {
    pub(super) range: Range,
    pub(super) limit: Option<u64>,
    pub(super) reverse: bool,
    pub(super) live: bool,
    pub(super) old: bool,
    pub(super) keys: bool,
    pub(super) values: bool,
    pub(super) sync: bool,
}

/// `gt`, `gte`, `lt`, `lte`: of timestamps or of sequence numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    start: Bound<f64>,
    end: Bound<f64>,
}

impl Range {
    pub(super) const fn new(start: Bound<f64>, end: Bound<f64>) -> Self {
        Self { start, end }
    }

    fn parse(options: Options<'_>) -> Self {
        let bound = |exclusive, inclusive| {
            let excluded = options.number(exclusive).map(Bound::Excluded);
            excluded.or_else(|| options.number(inclusive).map(Bound::Included)).unwrap_or(Bound::Unbounded)
        };
        Self { start: bound("gt", "gte"), end: bound("lt", "lte") }
    }

    /// Of claimed times.
    pub(super) fn times(&self) -> (Bound<f64>, Bound<f64>) {
        (self.start, self.end)
    }

    /// Of sequence numbers.
    pub(super) fn sequences(&self) -> std::ops::Range<u64> {
        let first = match self.start {
            Bound::Excluded(n) => n.floor() + 1.0,
            Bound::Included(n) => n.ceil(),
            Bound::Unbounded => 0.0,
        };
        let end = match self.end {
            Bound::Excluded(n) => n.ceil(),
            Bound::Included(n) => n.floor() + 1.0,
            Bound::Unbounded => f64::INFINITY,
        };
        // A cast of a float clamps: negative is 0, too large is the maximum.
        first as u64..end as u64
    }

    /// Whether `n` lies in it.
    pub(super) fn contains(&self, n: f64) -> bool {
        (self.start, self.end).contains(&n)
    }

    /// Of times of reception, as the part of the log they mean.
    pub(super) fn offsets(&self, reader: &Reader) -> Result<std::ops::Range<u64>, ReadError> {
        let start = match self.start {
            Bound::Excluded(time) => reader.offset_received(time.next_up())?,
            Bound::Included(time) => reader.offset_received(time)?,
            Bound::Unbounded => 0,
        };
        let end = match self.end {
            Bound::Excluded(time) => reader.offset_received(time)?,
            Bound::Included(time) => reader.offset_received(time.next_up())?,
            Bound::Unbounded => u64::MAX,
        };
        Ok(start..end)
    }
}

impl StreamOptions {
    /// Which end comes first.
    pub(super) fn order(&self) -> Order {
        if self.reverse { Order::Descending } else { Order::Ascending }
    }

    pub(super) fn parse(options: Options<'_>) -> Self {
        let live = options.flag("live", false);
        Self {
            range: Range::parse(options),
            limit: options.number("limit").filter(|limit| *limit >= 0.0).map(|limit| limit as u64),
            reverse: options.flag("reverse", false),
            live,
            old: options.flag("old", true),
            keys: options.flag("keys", true),
            values: options.flag("values", true),
            sync: options.flag("sync", true),
        }
    }
}

/// One message in the form that `keys` and `values` ask for.
pub(super) fn item(stored: &Stored, keys: bool, values: bool) -> Body {
    let message = &stored.message;
    match (keys, values) {
        (true, true) => Body::json_raw(message.key_value_timestamp(stored.received)),
        (false, _) => Body::json_raw(message.value_bytes().clone()),
        (true, false) => Body::json(&message.id()),
    }
}

/// What a caller is told of a store that cannot be read.
pub(super) fn failed(error: ReadError) -> RemoteError {
    RemoteError::new(error.to_string())
}

/// Sends messages and keeps count of the limit.
pub(super) struct Sender<'a> {
    ctx: &'a Context,
    reads: &'a Semaphore,
    tx: &'a mut StreamTx,
    keys: bool,
    values: bool,
    left: Option<u64>,
}

impl<'a> Sender<'a> {
    pub(super) fn new(request: &'a Request, tx: &'a mut StreamTx, options: &StreamOptions) -> Self {
        let (ctx, reads) = (&*request.ctx, &*request.reads);
        Self { ctx, reads, tx, keys: options.keys, values: options.values, left: options.limit }
    }

    /// Whether nothing more may be sent.
    pub(super) fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// Sends one message; false when the stream is over.
    pub(super) async fn send(&mut self, stored: &Stored) -> bool {
        if self.is_done() {
            return false;
        }
        self.left = self.left.map(|left| left - 1);
        self.tx.send(item(stored, self.keys, self.values)).await.is_ok()
    }

    /// Sends all of `messages`, read chunk by chunk off the runtime; false when the stream is over.
    pub(super) async fn send_all(&mut self, messages: Messages) -> Result<bool, RemoteError> {
        self.send_where(messages, |_| true).await
    }

    /// As [`send_all`](Self::send_all), of the messages that `is_wanted`.
    pub(super) async fn send_where(
        &mut self,
        messages: Messages,
        is_wanted: impl Fn(&Stored) -> bool,
    ) -> Result<bool, RemoteError> {
        let mut rest = messages;
        loop {
            // Held until what is read is on its way. The semaphore is never closed.
            let _turn = self.reads.acquire().await;
            let (chunk, back) =
                self.ctx.read(move || (rest.by_ref().take(CHUNK).collect::<Vec<_>>(), rest)).await;
            rest = back;
            let last = chunk.len() < CHUNK;
            for stored in chunk {
                let stored = stored.map_err(failed)?;
                if is_wanted(&stored) && !self.send(&stored).await {
                    return Ok(false);
                }
            }
            if last {
                return Ok(true);
            }
        }
    }

    /// Tells a live stream's caller that what was stored before is through.
    pub(super) async fn synced(&mut self) -> bool {
        self.tx.send(Body::json(&json!({ "sync": true }))).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Args;

    #[test]
    fn null_and_absent_options_mean_the_defaults() {
        let args = Args::from(vec![json!({"gt": null, "limit": -1, "keys": null, "live": 0})]);
        let options = StreamOptions::parse(args.options());
        assert_eq!(options, StreamOptions::parse(Args::default().options()));
        assert!(options.keys && options.values && options.old && options.limit.is_none());
    }

    #[test]
    fn bounds_become_half_open_ranges() {
        let sequences = |options| {
            let args = Args::from(vec![options]);
            StreamOptions::parse(args.options()).range.sequences()
        };
        assert_eq!(sequences(json!({"gt": 5, "lte": 8})), 6..9);
        assert_eq!(sequences(json!({"gte": 5, "lt": 8})), 5..8);
        assert_eq!(sequences(json!({})), 0..u64::MAX);
        assert_eq!(sequences(json!({"gt": -3})), 0..u64::MAX);
    }
}
