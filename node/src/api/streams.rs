//! What all streams of messages have in common: their options, their item form, and sending.

use std::ops::{Bound, RangeBounds as _};
use std::sync::Arc;

use hawsepipe_overlay::conn::StreamTx;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::private::Opened;
use hawsepipe_replication::store::{Order, ReadError, Reader, Stored};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::Request;
use super::args::Options;
use super::chunks::Chunks;
use crate::context::Context;

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
    /// Whether messages that we can read are shown opened: only if it is `true` itself, as ssb-db has it.
    pub(super) private: bool,
    /// Whether they are opened, because what is in them decides, even where they are shown as they are.
    pub(super) opening: bool,
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
        let private = options.value("private") == Some(&Value::Bool(true));
        Self {
            range: Range::parse(options),
            limit: options.number("limit").filter(|limit| *limit >= 0.0).map(|limit| limit as u64),
            reverse: options.flag("reverse", false),
            live,
            old: options.flag("old", true),
            keys: options.flag("keys", true),
            values: options.flag("values", true),
            sync: options.flag("sync", true),
            private,
            opening: private,
        }
    }
}

/// A message as a stream looks at it.
pub(super) struct Shown {
    pub(super) stored: Stored,
    /// What it says to us, if it is private and the stream may open it.
    pub(super) opened: Option<Opened>,
}

impl Shown {
    /// In the form that `keys` and `values` ask for; opened only if `private`.
    pub(super) fn item(&self, keys: bool, values: bool, private: bool) -> Body {
        let Self { stored, opened } = self;
        match (opened.as_ref().filter(|_| private), keys, values) {
            (Some(opened), true, true) => {
                Body::json_raw(opened.key_value_timestamp(&stored.message, stored.received))
            }
            (Some(opened), false, _) => Body::json_raw(opened.value(&stored.message)),
            (_, keys, values) => item(stored, keys, values),
        }
    }
}

/// One message in the form that `keys` and `values` ask for.
pub(super) fn item(stored: &Stored, keys: bool, values: bool) -> Body {
    let message = &stored.message;
    match (keys, values) {
        (true, true) => Body::json_raw(message.key_value_timestamp(stored.received)),
        (false, _) => Body::json_raw(message.value_bytes().clone()),
        (true, false) => Body::text(message.id().to_string()),
    }
}

/// What a caller is told of a store that cannot be read.
pub(super) fn failed(error: ReadError) -> RemoteError {
    RemoteError::new(error.to_string())
}

/// Messages that are read one after the other.
pub(super) trait Found: Iterator<Item = Result<Stored, ReadError>> + Send + 'static {}

impl<I: Iterator<Item = Result<Stored, ReadError>> + Send + 'static> Found for I {}

/// What `find` finds, which is looked for when the first message is read.
pub(super) fn when_read<F: Found>(
    find: impl FnOnce() -> Result<F, ReadError> + Send + 'static,
) -> impl Found {
    std::iter::once_with(find).flat_map(|found| {
        let (messages, error) = match found {
            Ok(messages) => (Some(messages), None),
            Err(error) => (None, Some(Err(error))),
        };
        messages.into_iter().flatten().chain(error)
    })
}

/// Sends messages and keeps count of the limit.
pub(super) struct Sender<'a> {
    ctx: &'a Context,
    reads: &'a Semaphore,
    tx: &'a mut StreamTx,
    keys: bool,
    values: bool,
    private: bool,
    opening: bool,
    left: Option<u64>,
}

impl<'a> Sender<'a> {
    pub(super) fn new(request: &'a Request, tx: &'a mut StreamTx, options: &StreamOptions) -> Self {
        let (ctx, reads) = (&*request.ctx, &*request.reads);
        let StreamOptions { keys, values, private, opening, limit, .. } = *options;
        Self { ctx, reads, tx, keys, values, private, opening, left: limit }
    }

    /// Whether nothing more may be sent.
    pub(super) fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// Sends one message of those that are left; false when the stream is over.
    async fn send(&mut self, shown: &Shown) -> bool {
        self.left = self.left.map(|left| left - 1);
        self.tx.send(shown.item(self.keys, self.values, self.private)).await.is_ok()
    }

    /// Sends all of `messages`, read off the runtime; false when the stream is over.
    pub(super) async fn send_all(&mut self, messages: impl Found) -> Result<bool, RemoteError> {
        self.send_where(messages, |_| true).await
    }

    /// As [`send_all`](Self::send_all), of the messages that `is_wanted`.
    pub(super) async fn send_where(
        &mut self,
        messages: impl Found,
        is_wanted: impl Fn(&Shown) -> bool,
    ) -> Result<bool, RemoteError> {
        let private = self.opening.then(|| Arc::clone(&self.ctx.private));
        let shown = messages.map(move |found| {
            found.map(|stored| {
                let opened = private.as_ref().and_then(|private| private.open_stored(&stored));
                Shown { stored, opened }
            })
        });
        let mut chunks = Chunks::new(self.reads, shown);
        while !self.is_done() {
            let Some(chunk) = chunks.next(self.left).await else { return Ok(true) };
            for shown in chunk {
                let shown = shown.map_err(failed)?;
                if is_wanted(&shown) && !self.send(&shown).await {
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }

    /// Tells a live stream's caller that what was stored before is through.
    pub(super) async fn synced(&mut self) -> bool {
        self.tx.send(Body::json(&json!({ "sync": true }))).await.is_ok()
    }
}

/// Sends what comes of `bodies`, made off the runtime; false when the stream is over.
pub(super) async fn send_bodies(
    request: &Request,
    tx: &mut StreamTx,
    bodies: impl Iterator<Item = Result<Body, RemoteError>> + Send + 'static,
) -> Result<bool, RemoteError> {
    let mut chunks = Chunks::new(&request.reads, bodies);
    while let Some(chunk) = chunks.next(None).await {
        for body in chunk {
            if tx.send(body?).await.is_err() {
                return Ok(false);
            }
        }
    }
    Ok(true)
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
