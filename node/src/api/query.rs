//! `query.read`, `query.explain` (ssb-query 2) and `backlinks.read` (ssb-backlinks 2): map-filter-reduce over an index
//! that is chosen as JS chooses it, because the index decides in which order messages come.

mod collected;

use std::collections::BTreeSet;
use std::ops::{Bound, RangeBounds as _};
use std::sync::Arc;

use hawsepipe_overlay::conn::StreamTx;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::message::{is_reference, links, normal_channel};
use hawsepipe_replication::private::Opened;
use hawsepipe_replication::refs::FeedId;
use hawsepipe_replication::store::{Messages, Order, ReadError, Reader, Stored, Term};
use serde_json::{Map, Value, json};

use super::Request;
use super::args::Args;
use super::merged::{By, Merged};
use super::streams::{Found, Range, StreamOptions, failed};
use crate::context::Context;
use crate::private::Private;
use crate::query::{Query, QueryError, Run, from_number};

pub(super) use collected::Backlinks;

/// Messages read from the store in one go.
const CHUNK: usize = 64;

/// An index as JS has it: what it is called, the paths of its key, and in which order it gives messages.
#[derive(Debug)]
struct Index {
    key: &'static str,
    paths: &'static [&'static [&'static str]],
    by: By,
}

const TYPE: &[&str] = &["value", "content", "type"];
const AUTHOR: &[&str] = &["value", "author"];
const CLAIMED: &[&str] = &["value", "timestamp"];
const RECEIVED: &[&str] = &["timestamp"];
const DEST: &[&str] = &["dest"];
const RESOLVED: &[&str] = &["rts"];

/// The indexes of a plugin.
#[derive(Debug)]
struct View {
    indexes: &'static [Index],
    /// What no index gives in order is refused, instead of sorted at the end.
    sorts_by_index: bool,
}

const QUERY: View = View {
    sorts_by_index: false,
    indexes: &[
        Index { key: "log", paths: &[RECEIVED], by: By::Reception },
        Index { key: "clk", paths: &[AUTHOR, &["value", "sequence"]], by: By::Reception },
        Index { key: "typ", paths: &[TYPE, RECEIVED], by: By::Reception },
        Index { key: "tya", paths: &[TYPE, CLAIMED], by: By::Claimed },
        Index { key: "cha", paths: &[&["value", "content", "channel"], RECEIVED], by: By::Reception },
        Index { key: "aty", paths: &[AUTHOR, TYPE, RECEIVED], by: By::Reception },
        Index { key: "ata", paths: &[AUTHOR, TYPE, CLAIMED], by: By::Claimed },
        Index { key: "art", paths: &[&["value", "content", "root"], CLAIMED], by: By::Claimed },
        Index { key: "lor", paths: &[RESOLVED], by: By::Claimed },
    ],
};

const BACKLINKS: View = View {
    sorts_by_index: true,
    indexes: &[
        Index { key: "DTS", paths: &[DEST, RECEIVED], by: By::Reception },
        Index { key: "DTA", paths: &[DEST, RESOLVED], by: By::Claimed },
        Index { key: "TDT", paths: &[TYPE, DEST, RESOLVED], by: By::Claimed },
    ],
};

/// Where the messages come from.
#[derive(Clone, Debug, PartialEq)]
enum From {
    All,
    Type(String),
    Feed(FeedId),
    Link(String),
}

/// What is read, and in which order.
#[derive(Clone, Debug)]
struct Plan {
    from: From,
    by: By,
    received: Range,
    claimed: (Bound<f64>, Bound<f64>),
    /// Messages of this feed alone are asked for.
    author: Option<FeedId>,
}

/// What a message is in the language of queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// One value.
    Message,
    /// One value for everything that it names; with the resolved time if the index has it.
    Link { rts: bool },
    /// What it names directly, each with the relation and without the message.
    Relation,
}

/// `query.read({query, limit, reverse, live, old})`; the query may also be the argument itself, as text.
pub(super) async fn read(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let query = Query::parse(query_of(&request.args)).map_err(unclear)?;
    let index = choose(&QUERY, &query, None)?;
    let plan = Plan::new(index.as_ref().map(|(index, _)| *index), query.filter());
    stream(&request, tx, &query, plan, Shape::Message).await
}

/// `query.explain({query, …})`: which index is used, and how well each fits.
pub(super) async fn explain(request: Request) -> Result<Body, RemoteError> {
    let query = Query::parse(query_of(&request.args)).map_err(unclear)?;
    let options = StreamOptions::parse(request.args.options());
    let mut answer = Map::new();
    match choose(&QUERY, &query, None)? {
        Some((index, scores)) => {
            answer.insert("index".to_owned(), index.key.into());
            answer.insert("scores".to_owned(), Value::Object(scores));
        }
        None => {
            answer.insert("scan".to_owned(), true.into());
        }
    }
    let flags =
        [("reverse", options.reverse), ("live", options.live), ("old", options.old), ("sync", options.sync)];
    answer.extend(flags.map(|(name, flag)| (name.to_owned(), Value::Bool(flag))));
    Ok(Body::json(&Value::Object(answer)))
}

/// `backlinks.read({query: [{$filter: {dest, …}}, …], index, limit, reverse, live, old})`.
pub(super) async fn backlinks(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let query = Query::parse(query_of(&request.args)).map_err(unclear)?;
    let named = request.args.options().text("index");
    let index = choose(&BACKLINKS, &query, named)?;
    let plan = Plan::new(index.as_ref().map(|(index, _)| *index), query.filter());
    let rts = index.is_none_or(|(index, _)| index.paths.contains(&RESOLVED));
    stream(&request, tx, &query.sorted_before(), plan, Shape::Link { rts }).await
}

/// `links2.read({query: [{$filter: {source, dest, rel, ts}}, …], limit, reverse, live, old})`, in the order of reception.
pub(super) async fn links2(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let query = Query::parse(query_of(&request.args)).map_err(unclear)?;
    let filter = query.filter();
    let (dest, source) = (exact_text(filter, DEST), exact_text(filter, &["source"]));
    let author = source.and_then(|source| source.parse().ok());
    let linked = dest.filter(|dest| is_reference(dest)).map(From::Link);
    let from = linked.or_else(|| author.map(From::Feed)).unwrap_or(From::All);
    let (start, end) = bounds(filter.get("ts"));
    let claimed = (Bound::Unbounded, Bound::Unbounded);
    let plan = Plan { from, by: By::Reception, received: Range::new(start, end), claimed, author };
    stream(&request, tx, &query, plan, Shape::Relation).await
}

fn query_of(args: &Args) -> Option<&Value> {
    args.at(0).filter(|value| value.is_string()).or_else(|| args.options().value("query"))
}

fn unclear(error: QueryError) -> RemoteError {
    RemoteError::new(error.to_string())
}

/// An index, and how well it and others fit.
type Chosen = (&'static Index, Map<String, Value>);

/// The index by which a query is answered, and how well all of them fit; none if all messages are read.
fn choose(view: &View, query: &Query, named: Option<&str>) -> Result<Option<Chosen>, RemoteError> {
    if let Some(name) = named {
        let found = view.indexes.iter().find(|index| index.key == name);
        let found = found.ok_or_else(|| RemoteError::new(format!("Invalid index: {name}")))?;
        return Ok(Some((found, Map::new())));
    }
    if let Some(sort) = query.sort() {
        let found = view.indexes.iter().find(|index| json!(index.paths) == *sort);
        // Other queries sort at the end, whatever they read.
        return match found {
            None if view.sorts_by_index => Err(RemoteError::new(format!("could not sort by:{sort}"))),
            found => Ok(found.map(|index| (index, Map::new()))),
        };
    }
    let mut best: Option<(u64, &Index)> = None;
    let mut scores = Map::new();
    for index in view.indexes {
        let score = score(index, query.filter());
        if score > 0 {
            scores.insert(index.key.to_owned(), score.into());
        }
        if score > best.map_or(0, |(best, _)| best) {
            best = Some((score, index));
        }
    }
    Ok(best.map(|(_, index)| (index, scores)))
}

/// How well an index fits: exact members before ranges, the further to the left the better.
fn score(index: &Index, filter: &Value) -> u64 {
    let mut score = 0;
    for path in index.paths {
        let fit = match at(filter, path) {
            Some(value) if is_exact(value) => 2,
            Some(value) if is_range(value) => 1,
            Some(_) | None => return score,
        };
        score = score * score + fit;
    }
    score
}

fn at<'a>(filter: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(filter, |value, name| value.get(name))
}

fn is_exact(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().all(is_exact),
        Value::Object(members) => members.contains_key("$eq"),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn is_range(value: &Value) -> bool {
    const RANGES: [&str; 6] = ["$prefix", "$is", "$lt", "$gt", "$lte", "$gte"];
    match value {
        Value::Array(items) => items.iter().any(is_range),
        Value::Object(members) => RANGES.iter().any(|name| members.contains_key(*name)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

impl Plan {
    fn new(index: Option<&Index>, filter: &Value) -> Self {
        let by = index.map_or(By::Reception, |index| index.by);
        let text = |path| exact_text(filter, path);
        let author = text(AUTHOR).and_then(|author| author.parse().ok());
        // Whatever JS's index is, messages are taken from where fewest are.
        let from = text(DEST)
            .map(From::Link)
            .or_else(|| text(&["value", "content", "root"]).map(From::Link))
            .or_else(|| author.map(From::Feed))
            .or_else(|| {
                let channel = normal_channel(&text(&["value", "content", "channel"])?)?;
                Some(From::Link(format!("#{channel}")))
            })
            .or_else(|| text(TYPE).map(From::Type))
            .unwrap_or(From::All);
        let (start, end) = bounds(filter.get("timestamp"));
        let claimed = match by {
            By::Claimed => bounds(filter.get("rts")),
            By::Reception => (Bound::Unbounded, Bound::Unbounded),
        };
        Self { from, by, received: Range::new(start, end), claimed, author }
    }

    /// The messages that can fit, private ones that we can read among them.
    fn messages(&self, ctx: &Context, end: u64, order: Order) -> Result<Box<dyn Found>, ReadError> {
        let reader = &ctx.reader;
        let public = self.indexed(reader, end, order)?;
        let sealed = match &self.from {
            // All messages are looked at, the private ones as well.
            From::All | From::Feed(_) => return Ok(Box::new(public)),
            From::Type(name) => ctx.private.read_index().of_type(name, 0..end),
            From::Link(dest) => ctx.search.private_links(reader, dest),
        };
        let offsets = self.received.offsets(reader)?;
        let sealed = sealed.into_iter().filter(|place| offsets.contains(place) && *place < end).collect();
        let claimed = self.claimed;
        let sealed = self.by.sort(reader.at_offsets(sealed), order)?;
        let sealed = sealed
            .filter(move |found| found.as_ref().map_or(true, |stored| claimed.contains(&stored.time())));
        Ok(Box::new(Merged::new(public, sealed, self.by, order)))
    }

    /// The messages that the store's index knows.
    fn indexed(&self, reader: &Reader, end: u64, order: Order) -> Result<Messages, ReadError> {
        let term = match &self.from {
            From::All if self.by == By::Claimed => return Ok(reader.by_time(self.claimed, order)),
            From::All => {
                let offsets = self.received.offsets(reader)?;
                return reader.log(offsets.start..offsets.end.min(end), order);
            }
            From::Feed(feed) if self.by == By::Claimed => {
                return reader.feed_by_time(feed, self.claimed, order);
            }
            From::Feed(feed) => return Ok(reader.feed_range(feed, .., order)),
            From::Type(name) => Term::Type(name.clone()),
            From::Link(dest) => Term::Link(dest.clone()),
        };
        if self.by == By::Claimed {
            return reader.by_term_and_time(term, self.claimed, order);
        }
        let offsets = self.received.offsets(reader)?;
        Ok(reader.by_term(term, offsets.start..offsets.end.min(end), order))
    }
}

/// A text that a member has to be.
fn exact_text(filter: &Value, path: &[&str]) -> Option<String> {
    let value = at(filter, path)?;
    value.get("$eq").unwrap_or(value).as_str().map(str::to_owned)
}

/// The numbers that a member may have.
fn bounds(rule: Option<&Value>) -> (Bound<f64>, Bound<f64>) {
    let number = |name: &str| rule.and_then(|rule| rule.get(name)).and_then(Value::as_f64);
    let bound = |exclusive, inclusive| {
        let excluded = number(exclusive).map(Bound::Excluded);
        excluded.or_else(|| number(inclusive).map(Bound::Included)).unwrap_or(Bound::Unbounded)
    };
    match rule.and_then(Value::as_f64).or_else(|| number("$eq")) {
        Some(exact) => (Bound::Included(exact), Bound::Included(exact)),
        None => (bound("$gt", "$gte"), bound("$lt", "$lte")),
    }
}

impl Shape {
    /// A message's values. What other JSON libraries cannot read (a lone surrogate) has none.
    fn values(self, stored: &Stored, opened: Option<&Opened>) -> Vec<Value> {
        if self == Self::Relation {
            return super::links::rows(stored);
        }
        let message = &stored.message;
        let bytes = match opened {
            Some(opened) => opened.key_value_timestamp(message, stored.received),
            None => message.key_value_timestamp(stored.received),
        };
        let Ok(Value::Object(mut value)) = serde_json::from_slice(&bytes) else { return Vec::new() };
        let resolved = from_number(stored.time());
        match self {
            Self::Message => {
                value.insert("rts".to_owned(), resolved);
                vec![Value::Object(value)]
            }
            Self::Relation => Vec::new(),
            Self::Link { rts } => {
                if rts {
                    value.insert("rts".to_owned(), resolved);
                }
                let content = opened.map_or_else(|| message.content_json(), Opened::content_json);
                let links = links(content).into_iter();
                let with = |dest: String| {
                    let mut value = value.clone();
                    value.insert("dest".to_owned(), dest.into());
                    Value::Object(value)
                };
                links.map(with).collect()
            }
        }
    }
}

/// A query under way, and how much of its limit is left.
struct Reading {
    run: Run,
    shape: Shape,
    left: Option<u64>,
    private: Arc<Private>,
    /// Feeds whose messages are left out.
    blocked: BTreeSet<FeedId>,
}

impl Reading {
    fn take(&mut self, stored: &Stored, out: &mut Vec<Value>) -> Result<(), RemoteError> {
        if self.blocked.contains(&stored.message.author()) {
            return Ok(());
        }
        let opened = self.private.open_stored(stored);
        self.shape
            .values(stored, opened.as_ref())
            .into_iter()
            .try_for_each(|value| self.run.push(value, out))
            .map_err(unclear)
    }

    /// Sends what came out; false when the stream is over.
    async fn send(&mut self, tx: &mut StreamTx, out: Vec<Value>) -> bool {
        for value in out {
            if self.left == Some(0) || tx.send(body_of(&value)).await.is_err() {
                return false;
            }
            self.left = self.left.map(|left| left - 1);
        }
        self.left != Some(0)
    }
}

/// A value as JS sends it: a text is no JSON.
pub(super) fn body_of(value: &Value) -> Body {
    value.as_str().map_or_else(|| Body::json(value), Body::text)
}

/// Runs a query over what is stored and then, if asked for, over what comes.
async fn stream(
    request: &Request,
    tx: &mut StreamTx,
    query: &Query,
    plan: Plan,
    shape: Shape,
) -> Result<(), RemoteError> {
    let ctx = &request.ctx;
    let options = StreamOptions::parse(request.args.options());
    let live = options.live || !options.old;
    let mut tail = ctx.tail.log();
    let mut from = *tail.borrow_and_update();
    // As in JS, a limit of nothing is none.
    let blocked = || {
        let mut blocked = ctx.blocked();
        if let Some(author) = plan.author {
            blocked.remove(&author);
        }
        blocked
    };
    let (private, left) = (ctx.private.clone(), options.limit.filter(|limit| *limit > 0));
    let mut reading = Reading { run: query.run(), shape, left, private, blocked: blocked() };
    if options.old {
        ctx.private.caught_up_if_near(&ctx.reader).await;
        let (known, plan) = (Arc::clone(ctx), plan.clone());
        let (end, order) = (from, options.order());
        let messages = ctx.read(move || plan.messages(&known, end, order)).await.map_err(failed)?;
        let Some(back) = send_all(request, tx, reading, messages, end).await? else { return Ok(()) };
        reading = back;
        if !live {
            let mut out = Vec::new();
            let run = std::mem::replace(&mut reading.run, query.run());
            run.finish(&mut out).map_err(unclear)?;
            reading.send(tx, out).await;
            return Ok(());
        }
        if options.sync && tx.send(Body::json(&json!({ "sync": true }))).await.is_err() {
            return Ok(());
        }
    }
    while tail.changed().await.is_ok() {
        let to = *tail.borrow_and_update();
        let reader = ctx.reader.clone();
        let new = ctx.read(move || reader.log(from..to, Order::Ascending)).await.map_err(failed)?;
        reading.blocked = blocked();
        let Some(back) = send_all(request, tx, reading, new, to).await? else { return Ok(()) };
        reading = back;
        from = to;
    }
    Ok(())
}

/// Feeds a query with the messages below `end`, chunk by chunk off the runtime; nothing comes back when the stream is over.
async fn send_all(
    request: &Request,
    tx: &mut StreamTx,
    mut reading: Reading,
    messages: impl Found,
    end: u64,
) -> Result<Option<Reading>, RemoteError> {
    let mut rest = messages;
    loop {
        // Held until what is read is on its way. The semaphore is never closed.
        let _turn = request.reads.acquire().await;
        let step = move || {
            let (mut out, mut seen) = (Vec::new(), 0);
            for stored in rest.by_ref().take(CHUNK) {
                seen += 1;
                let stored = stored.map_err(failed)?;
                if stored.offset < end {
                    reading.take(&stored, &mut out)?;
                }
            }
            Ok::<_, RemoteError>((reading, rest, out, seen < CHUNK))
        };
        let (back, messages, out, is_last) = request.ctx.read(step).await?;
        (reading, rest) = (back, messages);
        if !reading.send(tx, out).await {
            return Ok(None);
        }
        if is_last {
            return Ok(Some(reading));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(view: &View, query: Value) -> Option<&'static str> {
        let query = Query::parse(Some(&query)).unwrap();
        choose(view, &query, None).unwrap().map(|(index, _)| index.key)
    }

    /// What flumeview-query 8 chooses for the queries that clients make.
    #[test]
    fn the_index_is_the_one_that_js_would_take() {
        let filter = |filter: Value| json!([{ "$filter": filter }]);
        for (query, index) in [
            (filter(json!({ "value": { "content": { "type": "post" } } })), Some("typ")),
            (
                filter(json!({ "timestamp": { "$gt": 0 }, "value": { "content": { "type": "post" } } })),
                Some("typ"),
            ),
            (
                filter(json!({ "value": { "timestamp": { "$gt": 0 }, "content": { "type": "post" } } })),
                Some("tya"),
            ),
            (filter(json!({ "value": { "author": "@x" } })), Some("clk")),
            (filter(json!({ "value": { "author": "@x", "content": { "type": "about" } } })), Some("aty")),
            (filter(json!({ "value": { "content": { "root": "%x" } } })), Some("art")),
            (filter(json!({ "value": { "content": { "channel": "ssb" } } })), Some("cha")),
            (filter(json!({ "timestamp": { "$lt": 9 } })), Some("log")),
            (filter(json!({ "rts": { "$lt": 9 } })), Some("lor")),
            (filter(json!({ "value": { "content": { "text": "x" } } })), None),
            (json!([{ "$sort": [["value", "content", "type"], ["timestamp"]] }]), Some("typ")),
        ] {
            assert_eq!(chosen(&QUERY, query.clone()), index, "{query}");
        }
        assert_eq!(chosen(&BACKLINKS, filter(json!({ "dest": "%x" }))), Some("DTS"));
        let votes = json!({ "dest": "%x", "value": { "content": { "type": "vote" } } });
        assert_eq!(chosen(&BACKLINKS, filter(votes)), Some("TDT"));
    }

    #[test]
    fn backlinks_that_cannot_be_sorted_are_refused_and_named_indexes_must_exist() {
        let query = Query::parse(Some(&json!([{ "$sort": [["value", "x"]] }]))).unwrap();
        assert_eq!(
            choose(&BACKLINKS, &query, None).unwrap_err().message,
            r#"could not sort by:[["value","x"]]"#
        );
        assert!(choose(&QUERY, &query, None).unwrap().is_none());
        assert_eq!(choose(&BACKLINKS, &query, Some("XYZ")).unwrap_err().message, "Invalid index: XYZ");
    }

    #[test]
    fn messages_come_from_where_fewest_are() {
        let plan = |filter: Value| Plan::new(None, &filter).from;
        let feed = "@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=.ed25519";
        assert_eq!(plan(json!({ "dest": "%x", "value": { "author": feed } })), From::Link("%x".into()));
        assert_eq!(plan(json!({ "value": { "author": feed } })), From::Feed(feed.parse().unwrap()));
        assert_eq!(
            plan(json!({ "value": { "author": "nobody", "content": { "type": "x" } } })),
            From::Type("x".into())
        );
        assert_eq!(plan(json!({ "value": { "content": { "channel": "Ssb" } } })), From::Link("#ssb".into()));
        assert_eq!(plan(Value::Null), From::All);
    }
}
