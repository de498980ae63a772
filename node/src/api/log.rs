//! Reading the log: local clients' streams and look-ups (ssb-db).

use hawsepipe_overlay::conn::StreamTx;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::message::Content;
use hawsepipe_replication::refs::FeedId;
use hawsepipe_replication::store::{Messages, Order, ReadError, Reader, Stored};
use serde_json::{Map, Value};

use super::Request;
use super::streams::{Sender, StreamOptions, failed};

/// `createLogStream`: in the order of reception; ranges are times of reception.
pub(super) async fn by_reception(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let options = StreamOptions::parse(request.args.options());
    let old = move |reader: Reader, end: u64| {
        let offsets = options.range.offsets(&reader)?;
        reader.log(offsets.start..offsets.end.min(end), options.order())
    };
    old_then_live(&request, tx, options, old, |new| options.range.contains(new.received)).await
}

/// `messagesByType`: messages of one type in the order of reception.
pub(super) async fn by_type(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let options = StreamOptions::parse(request.args.options());
    let kind = request.args.text(0).or_else(|| request.args.options().text("type")).map(str::to_owned);
    let kind = kind.ok_or_else(|| RemoteError::new("messagesByType: expected a type"))?;
    let wanted = kind.clone();
    let old = move |reader: Reader, end: u64| {
        let offsets = options.range.offsets(&reader)?;
        Ok(reader.by_type(&wanted, offsets.start..offsets.end.min(end), options.order()))
    };
    let is_wanted = |new: &Stored| is_type(new, &kind) && options.range.contains(new.received);
    old_then_live(&request, tx, options, old, is_wanted).await
}

fn is_type(stored: &Stored, kind: &str) -> bool {
    matches!(stored.message.content(), Content::Object { kind: found, .. } if found == kind)
}

/// `createFeedStream`: in the order of claimed time; ranges are claimed times.
pub(super) async fn by_claimed_time(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let options = StreamOptions::parse(request.args.options());
    let old = move |reader: Reader, _| Ok(reader.by_time(options.range.times(), options.order()));
    old_then_live(&request, tx, options, old, |new| options.range.contains(new.message.timestamp())).await
}

/// What is stored before `end`, then, if asked for, what comes.
async fn old_then_live(
    request: &Request,
    tx: &mut StreamTx,
    options: StreamOptions,
    old: impl FnOnce(Reader, u64) -> Result<Messages, ReadError> + Send + 'static,
    is_wanted: impl Fn(&Stored) -> bool,
) -> Result<(), RemoteError> {
    let ctx = &request.ctx;
    let mut tail = ctx.tail.log();
    let mut from = *tail.borrow_and_update();
    let mut sender = Sender::new(request, tx, &options);
    if options.old {
        let reader = ctx.reader.clone();
        let messages = ctx.read(move || old(reader, from)).await.map_err(failed)?;
        // What came since the tail was looked at is sent as new.
        let stored_before = |stored: &Stored| stored.offset < from;
        if !sender.send_where(messages, stored_before).await? {
            return Ok(());
        }
    }
    if !options.live || sender.is_done() {
        return Ok(());
    }
    if options.old && options.sync && !sender.synced().await {
        return Ok(());
    }
    while tail.changed().await.is_ok() {
        let to = *tail.borrow_and_update();
        let reader = ctx.reader.clone();
        let new = ctx.read(move || reader.log(from..to, Order::Ascending)).await.map_err(failed)?;
        if !sender.send_where(new, &is_wanted).await? {
            return Ok(());
        }
        from = to;
    }
    Ok(())
}

/// `createUserStream({id, …})`: one feed; ranges are sequence numbers.
pub(super) async fn of_user(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let feed = request.args.options().feed("id")?;
    let options = StreamOptions::parse(request.args.options());
    let ctx = &request.ctx;
    let grown = ctx.tail.feed(feed);
    let mut sender = Sender::new(&request, tx, &options);
    let range = options.range.sequences();
    let mut next = ctx.reader.tip(&feed).map_or(0, |tip| tip.sequence) + 1;
    if options.old {
        let messages = ctx.reader.feed_range(&feed, range.start..range.end.min(next), options.order());
        if !sender.send_all(messages).await? {
            return Ok(());
        }
        if options.live && options.sync && !sender.synced().await {
            return Ok(());
        }
    }
    while options.live && !sender.is_done() {
        let notified = grown.notified();
        let end = ctx.reader.tip(&feed).map_or(0, |tip| tip.sequence) + 1;
        let new = next.max(range.start)..end.min(range.end);
        if end == next {
            notified.await;
        } else if !sender.send_all(ctx.reader.feed_range(&feed, new, Order::Ascending)).await? {
            return Ok(());
        }
        next = end;
    }
    Ok(())
}

/// `get(id | {id, meta, ooo})`: the bare value, or with key and timestamp if `meta` is set. With `ooo` peers are asked for
/// what we have not got.
pub(super) async fn get(request: Request) -> Result<Body, RemoteError> {
    let id = request.args.message(0)?;
    let meta = request.args.options().flag("meta", false);
    let reader = request.ctx.reader.clone();
    let found = request.ctx.read(move || reader.get(&id)).await;
    if let Some(stored) = found.map_err(failed)? {
        return Ok(super::streams::item(&stored, meta, true));
    }
    let fetched = match request.args.options().flag("ooo", false) {
        true => super::ooo::instead(&request, meta).await,
        false => None,
    };
    fetched.ok_or_else(|| not_found(format!("Key not found in database [{id}]")))
}

/// `del(id)`: deletes the content of a message here; its place in its feed stays taken.
pub(super) async fn delete(request: Request) -> Result<Body, RemoteError> {
    let id = request.args.message(0)?;
    request.ctx.store.delete(id).await.map_err(|e| RemoteError::new(e.to_string()))?;
    Ok(Body::json(&true))
}

/// `getLatest(feed)`: the newest message with key and timestamp; an error if there is none.
pub(super) async fn latest(request: Request) -> Result<Body, RemoteError> {
    let feed = request.args.feed(0)?;
    let stored = newest(&request, feed).await?;
    Ok(super::streams::item(&stored, true, true))
}

async fn newest(request: &Request, feed: FeedId) -> Result<Stored, RemoteError> {
    let reader = request.ctx.reader.clone();
    let found = request.ctx.read(move || {
        let sequence = reader.tip(&feed).map_or(0, |tip| tip.sequence);
        reader.at(&feed, sequence)
    });
    let stored = found.await.map_err(failed)?;
    stored.ok_or_else(|| not_found(format!("feed {feed} has no messages here")))
}

/// `latestSequence(feed)`.
pub(super) async fn latest_sequence(request: Request) -> Result<Body, RemoteError> {
    let feed = request.args.feed(0)?;
    let tip = request.ctx.reader.tip(&feed);
    let tip = tip.ok_or_else(|| not_found(format!("feed {feed} has no messages here")))?;
    Ok(Body::json(&tip.sequence))
}

/// `getVectorClock()`: an object from feed to its newest sequence.
pub(super) async fn vector_clock(request: Request) -> Result<Body, RemoteError> {
    let reader = request.ctx.reader.clone();
    let clock = request.ctx.read(move || reader.clock()).await;
    let entries = clock.into_iter().map(|(feed, sequence)| (feed.to_string(), Value::from(sequence)));
    Ok(Body::json(&Value::Object(entries.collect::<Map<_, _>>())))
}

/// `forks()`: each feed that is known to be forked, with the message that is kept and the one that was refused.
pub(super) async fn forks(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    for fork in request.ctx.forks.to_json() {
        if tx.send(Body::json_raw(fork)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The error of level, which JS clients know by its name.
fn not_found(message: String) -> RemoteError {
    RemoteError { name: "NotFoundError".to_owned(), ..RemoteError::new(message) }
}
