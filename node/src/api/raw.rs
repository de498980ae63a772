//! The log by its own positions, and filling it by a stream (ssb-db's `createRawLogStream`, `createSequenceStream`,
//! `createWriteStream`). A position is where a message lies in our log: larger is later, and that is all it means.

use hawsepipe_overlay::conn::{StreamRx, StreamTx};
use hawsepipe_overlay::muxrpc::{Body, BodyKind, RemoteError};
use hawsepipe_replication::message::Unverified;
use hawsepipe_replication::store::{Order, Stored};
use serde_json::value::RawValue;

use super::Request;
use super::chunks::Chunks;
use super::publish::bare_value;
use super::streams::{Range, StreamOptions, failed, when_read};

/// What is sent of each message, and how many more.
struct Raw {
    positions: bool,
    values: bool,
    left: u64,
}

/// `createRawLogStream({gt, gte, lt, lte, reverse, live, old, limit, seqs, values})`: `{seq, value}` in the order of
/// reception, where `value` has key, value and timestamp; bounds are positions.
pub(super) async fn log(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let given = request.args.options();
    let options = StreamOptions::parse(given);
    let mut raw = Raw {
        positions: given.flag("seqs", true),
        values: options.values,
        left: options.limit.unwrap_or(u64::MAX),
    };
    let mut tail = request.ctx.tail.log();
    let mut from = *tail.borrow_and_update();
    let range = options.range;
    if options.old && !raw.send(&request, tx, range, 0..from, options.order()).await? {
        return Ok(());
    }
    if options.live
        && options.old
        && options.sync
        && tx.send(Body::json_raw(r#"{"sync":true}"#)).await.is_err()
    {
        return Ok(());
    }
    while options.live && tail.changed().await.is_ok() {
        let to = *tail.borrow_and_update();
        if !raw.send(&request, tx, range, from..to, Order::Ascending).await? {
            return Ok(());
        }
        from = to;
    }
    Ok(())
}

impl Raw {
    /// Sends what lies in `part` and `range`; false when the stream is over.
    async fn send(
        &mut self,
        request: &Request,
        tx: &mut StreamTx,
        range: Range,
        part: std::ops::Range<u64>,
        order: Order,
    ) -> Result<bool, RemoteError> {
        let wanted = range.sequences();
        let part = part.start.max(wanted.start)..part.end.min(wanted.end);
        if part.is_empty() {
            return Ok(self.left > 0);
        }
        let reader = request.ctx.reader.clone();
        let mut chunks = Chunks::new(&request.reads, when_read(move || reader.log(part, order)));
        while self.left > 0 {
            let Some(chunk) = chunks.next(Some(self.left)).await else { return Ok(true) };
            for stored in chunk {
                if tx.send(self.item(&stored.map_err(failed)?)).await.is_err() {
                    return Ok(false);
                }
                self.left -= 1;
            }
        }
        Ok(false)
    }

    fn item(&self, stored: &Stored) -> Body {
        if !self.values {
            return Body::json(&stored.offset);
        }
        let value = stored.message.key_value_timestamp(stored.received);
        if !self.positions {
            return Body::json_raw(value);
        }
        let mut item = format!("{{\"seq\":{},\"value\":", stored.offset).into_bytes();
        item.extend_from_slice(&value);
        item.push(b'}');
        Body::json_raw(item)
    }
}

/// `createSequenceStream()`: the position of the newest message, -1 in an empty log, and then of each that comes.
pub(super) async fn positions(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let mut tail = request.ctx.tail.log();
    loop {
        let end = *tail.borrow_and_update();
        let newest = i64::try_from(end).unwrap_or(i64::MAX) - 1;
        if tx.send(Body::json(&newest)).await.is_err() || tail.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// `createWriteStream()`: adds what the caller sends, values or messages with their keys; what is here already is
/// passed over. It ends with an error at the first that is not valid: what came before is stored.
pub(super) async fn write(request: Request, rx: &mut StreamRx) -> Result<(), RemoteError> {
    let mut count = 0_u64;
    while let Some(item) = rx.recv().await {
        let item = item.map_err(|error| RemoteError::new(error.to_string()))?;
        count += 1;
        let wrong =
            |why: &dyn std::fmt::Display| RemoteError::new(format!("message {count} of the stream: {why}"));
        if item.kind != BodyKind::Json {
            return Err(wrong(&"expected JSON"));
        }
        let raw: &RawValue = serde_json::from_slice(&item.bytes).map_err(|error| wrong(&error))?;
        let value = bare_value(raw.get());
        let id = Unverified::parse(value.as_bytes()).map_err(|error| wrong(&error))?.id();
        let reader = request.ctx.reader.clone();
        let held =
            request.ctx.read(move || id.map_or(Ok(None), |id| reader.get(&id))).await.map_err(failed)?;
        if held.is_none() {
            request.ctx.store.add(value.as_bytes().to_vec()).await.map_err(|error| wrong(&error))?;
        }
    }
    Ok(())
}
