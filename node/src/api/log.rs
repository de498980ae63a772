//! Reading the log: local clients' streams and look-ups (ssb-db).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hawsepipe_overlay::conn::StreamTx;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::message::Content;
use hawsepipe_replication::private::Opened;
use hawsepipe_replication::refs::FeedId;
use hawsepipe_replication::store::{Order, ReadError, Reader, Stored};
use serde_json::{Map, Value};

use super::Request;
use super::merged::{By, Merged};
use super::streams::{Found, Sender, Shown, StreamOptions, failed, when_read};
use crate::private::at;

/// `createLogStream`: in the order of reception; ranges are times of reception.
pub(super) async fn by_reception(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let options = StreamOptions::parse(request.args.options());
    let old = move |reader: Reader, end: u64| {
        let offsets = options.range.offsets(&reader)?;
        Ok(reader.log(offsets.start..offsets.end.min(end), options.order())?.limited(options.limit))
    };
    old_then_live(&request, tx, options, old, |new| options.range.contains(new.stored.received)).await
}

/// `messagesByType`: messages of one type in the order of reception, private ones that we can read among them, which
/// are shown opened only if asked for. Those of feeds that we block are left out.
pub(super) async fn by_type(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let options = StreamOptions { opening: true, ..StreamOptions::parse(request.args.options()) };
    let kind = request.args.text(0).or_else(|| request.args.options().text("type")).map(str::to_owned);
    let kind = kind.ok_or_else(|| RemoteError::new("messagesByType: expected a type"))?;
    let (wanted, private) = (kind.clone(), request.ctx.private.clone());
    let blocked = request.ctx.blocked();
    if options.old {
        private.caught_up_if_near(&request.ctx.reader).await;
    }
    let old = move |reader: Reader, end: u64| {
        let offsets = options.range.offsets(&reader)?;
        let offsets = offsets.start..offsets.end.min(end);
        let mut sealed = private.read_index().of_type(&wanted, offsets.clone());
        if options.order() == Order::Descending {
            sealed.reverse();
        }
        let public = reader.by_type(&wanted, offsets, options.order()).limited(options.limit);
        // The index knows types by a part of their hash.
        let is_meant = move |found: &Result<Stored, ReadError>| {
            let Ok(stored) = found else { return true };
            let opened = private.open_stored(stored);
            opened.is_some_and(|opened| has_type(opened.content(), &wanted))
        };
        let sealed =
            sealed.into_iter().filter_map(move |offset| at(&reader, offset).transpose()).filter(is_meant);
        let is_shown = move |found: &Result<Stored, ReadError>| {
            found.as_ref().map_or(true, |stored| !blocked.contains(&stored.message.author()))
        };
        let public = public.filter(is_shown);
        Ok(Merged::new(public, sealed, By::Reception, options.order()))
    };
    let is_wanted = |new: &Shown| {
        let stored = &new.stored;
        is_type(new, &kind)
            && options.range.contains(stored.received)
            && !request.ctx.is_blocked(&stored.message.author())
    };
    old_then_live(&request, tx, options, old, is_wanted).await
}

fn is_type(shown: &Shown, kind: &str) -> bool {
    let content = match &shown.opened {
        Some(opened) => opened.content(),
        None => Some(shown.stored.message.content()),
    };
    has_type(content, kind)
}

fn has_type(content: Option<Content<'_>>, kind: &str) -> bool {
    matches!(content, Some(Content::Object { kind: found, .. }) if found == kind)
}

/// `createFeedStream`: in the order of claimed time; ranges are claimed times.
pub(super) async fn by_claimed_time(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let options = StreamOptions::parse(request.args.options());
    let old = move |reader: Reader, _| {
        Ok(reader.by_time(options.range.times(), options.order()).limited(options.limit))
    };
    old_then_live(&request, tx, options, old, |new| options.range.contains(new.stored.message.timestamp()))
        .await
}

/// What is stored before `end`, then, if asked for, what comes.
pub(super) async fn old_then_live<F: Found>(
    request: &Request,
    tx: &mut StreamTx,
    options: StreamOptions,
    old: impl FnOnce(Reader, u64) -> Result<F, ReadError> + Send + 'static,
    is_wanted: impl Fn(&Shown) -> bool,
) -> Result<(), RemoteError> {
    let ctx = &request.ctx;
    let mut tail = ctx.tail.log();
    let mut from = *tail.borrow_and_update();
    let mut sender = Sender::new(request, tx, &options);
    if options.old {
        let reader = ctx.reader.clone();
        let messages = when_read(move || old(reader, from));
        // What came since the tail was looked at is sent as new.
        let stored_before = |shown: &Shown| shown.stored.offset < from;
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
        if !sender.send_all(messages.limited(options.limit)).await? {
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

/// `get(id | {id, private, meta, unbox, ooo})`: the bare value, or with key and timestamp if `meta` is set. With `ooo`
/// peers are asked for what we have not got. A private
/// message is opened if `private` is `true`, with the key `unbox` if that is given; a link with `?unbox=` asks for
/// just that.
pub(super) async fn get(request: Request) -> Result<Body, RemoteError> {
    let options = request.args.options();
    let text =
        request.args.at(0).and_then(|v| v.as_str().or_else(|| v.get("id")?.as_str())).unwrap_or_default();
    let (id, key) = match text.split_once("?unbox=") {
        Some((id, key)) => {
            let id = id.parse().map_err(|_| RemoteError::new(format!("not a message id: {id}")))?;
            // Spaces were pluses before somebody took the link for a form.
            (id, Some(key.replace(' ', "+")))
        }
        None => (request.args.message(0)?, options.text("unbox").map(str::to_owned)),
    };
    let is_private = options.value("private") == Some(&Value::Bool(true)) || text.contains("?unbox=");
    let meta = options.flag("meta", false);
    let (reader, private) = (request.ctx.reader.clone(), request.ctx.private.clone());
    let found = request.ctx.read(move || {
        let stored = reader.get(&id)?;
        Ok(stored.map(|stored| {
            let opened = match key.filter(|_| is_private) {
                Some(key) => {
                    STANDARD.decode(key).ok().and_then(|key| Opened::with_key(&stored.message, &key))
                }
                None if is_private => private.open_stored(&stored),
                None => None,
            };
            Shown { stored, opened }
        }))
    });
    if let Some(shown) = found.await.map_err(failed)? {
        return Ok(shown.item(meta, true, true));
    }
    let fetched = match options.flag("ooo", false) {
        true => super::ooo::instead(&request, meta).await,
        false => None,
    };
    fetched.ok_or_else(|| not_found(format!("Key not found in database [{id}]")))
}

/// `del(id)`: deletes the content of a message here; its place in its feed stays taken.
pub(super) async fn delete(request: Request) -> Result<Body, RemoteError> {
    let id = request.args.message(0)?;
    let reader = request.ctx.reader.clone();
    let stored = request.ctx.read(move || reader.get(&id)).await.map_err(failed)?;
    request.ctx.store.delete(id).await.map_err(|e| RemoteError::new(e.to_string()))?;
    if let Some(stored) = stored {
        request.ctx.names.forget();
        let (private, search) = (request.ctx.private.clone(), request.ctx.search.clone());
        request.ctx.read(move || search.forget(&stored, private.forget(&stored).as_ref())).await;
    }
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
pub(super) fn not_found(message: String) -> RemoteError {
    RemoteError { name: "NotFoundError".to_owned(), ..RemoteError::new(message) }
}
