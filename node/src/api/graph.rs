//! The social graph as it is, for clients that draw or watch it (ssb-friends 4, its legacy methods, and 5).

use std::collections::BTreeMap;

use hawsepipe_overlay::conn::StreamTx;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::graph::{Edge, Graph};
use hawsepipe_replication::refs::FeedId;
use serde_json::{Map, Value, json};

use super::Request;

/// How an edge is written.
type Written = fn(Edge) -> Value;

/// In the words of ssb-friends 4: follows, blocks, or has changed its mind.
fn legacy(edge: Edge) -> Value {
    match edge {
        Edge::Follow => Value::Bool(true),
        Edge::Block => Value::Bool(false),
        Edge::Neutral => Value::Null,
    }
}

/// As the weight by which distances are computed.
fn weight(edge: Edge) -> Value {
    match edge {
        Edge::Follow => 1.into(),
        Edge::Block => (-1).into(),
        Edge::Neutral => (-2).into(),
    }
}

fn edges(edges: impl Iterator<Item = (FeedId, Edge)>, written: Written) -> Value {
    Value::Object(edges.map(|(feed, edge)| (feed.to_string(), written(edge))).collect())
}

fn whole(graph: &Graph, written: Written) -> Value {
    let sources = graph.feeds().map(|source| (source.to_string(), edges(graph.edges_of(&source), written)));
    let has_edges = |(_, edges): &(String, Value)| edges.as_object().is_some_and(|edges| !edges.is_empty());
    Value::Object(sources.filter(has_edges).collect())
}

/// `friends.get({source, dest})`: one edge, those of one feed, those to one feed, or all.
pub(super) async fn get(request: Request) -> Result<Body, RemoteError> {
    let options = request.args.options();
    let end = |name| options.value(name).map(|_| options.feed(name)).transpose();
    let (source, dest) = (end("source")?, end("dest")?);
    let graph = request.ctx.graph();
    Ok(Body::json(&match (source, dest) {
        (Some(source), Some(dest)) => graph.edge(&source, &dest).map_or(Value::Null, legacy),
        (Some(source), None) => edges(graph.edges_of(&source), legacy),
        (None, Some(dest)) => edges(graph.edges_to(&dest), legacy),
        (None, None) => whole(&graph, legacy),
    }))
}

/// `friends.graph()`: all edges as weights.
pub(super) async fn graph(request: Request) -> Result<Body, RemoteError> {
    Ok(Body::json(&whole(&request.ctx.graph(), weight)))
}

/// `friends.hopStream({start, max, live, old})`: all distances, then what changes; `null` where there is none any more.
pub(super) async fn hop_stream(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let flags = Flags::of(&request)?;
    let mut before = BTreeMap::new();
    let mut tail = request.ctx.tail.log();
    tail.borrow_and_update();
    loop {
        let now = flags.hops(&request);
        let changed = difference(&before, &now);
        let is_first = before.is_empty();
        if (!is_first || flags.old) && !changed.is_empty() && tx.send(Body::json(&changed)).await.is_err() {
            return Ok(());
        }
        before = now;
        if !flags.live || tail.changed().await.is_err() {
            return Ok(());
        }
        tail.borrow_and_update();
    }
}

/// `friends.createFriendStream({start, max, live, meta})`: each feed in reach, then those that come into reach.
pub(super) async fn friend_stream(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let flags = Flags::of(&request)?;
    let meta = request.args.options().flag("meta", false);
    let mut before = BTreeMap::new();
    let mut tail = request.ctx.tail.log();
    tail.borrow_and_update();
    loop {
        let now = flags.hops(&request);
        for (feed, hops) in &now {
            let is_news = before.get(feed) != Some(hops) && (*hops >= 0 || !before.is_empty());
            let body = if meta {
                Body::json(&json!({ "id": feed, "hops": hops }))
            } else {
                Body::text(feed.to_string())
            };
            if is_news && tx.send(body).await.is_err() {
                return Ok(());
            }
        }
        before = now;
        if !flags.live || tail.changed().await.is_err() {
            return Ok(());
        }
        tail.borrow_and_update();
    }
}

/// `friends.stream()`: all edges, then each that changes as `{from, to, value}`.
pub(super) async fn stream(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let mut tail = request.ctx.tail.log();
    let mut from = *tail.borrow_and_update();
    let all = whole(&request.ctx.graph(), legacy);
    if tx.send(Body::json(&all)).await.is_err() {
        return Ok(());
    }
    while tail.changed().await.is_ok() {
        let to = *tail.borrow_and_update();
        let reader = request.ctx.reader.clone();
        let read = move || {
            let contacts = reader.contacts(from..to, hawsepipe_replication::store::Order::Ascending);
            let edge = |stored: hawsepipe_replication::store::Stored| {
                let (dest, edge) = Edge::read(&stored.message.content())?;
                Some(json!({ "from": stored.message.author(), "to": dest, "value": legacy(edge) }))
            };
            contacts.filter_map(|stored| stored.map(edge).transpose()).collect::<Result<Vec<Value>, _>>()
        };
        for edge in request.ctx.read(read).await.map_err(super::streams::failed)? {
            if tx.send(Body::json(&edge)).await.is_err() {
                return Ok(());
            }
        }
        from = to;
    }
    Ok(())
}

/// What both streams of distances have in common.
struct Flags {
    start: FeedId,
    max: u32,
    live: bool,
    old: bool,
}

impl Flags {
    fn of(request: &Request) -> Result<Self, RemoteError> {
        let options = request.args.options();
        let start = options.value("start").map(|_| options.feed("start")).transpose()?;
        Ok(Self {
            start: start.unwrap_or(request.ctx.own),
            max: options.number("max").map_or(request.ctx.config.hops, |max| max.max(0.0) as u32),
            live: options.flag("live", false),
            old: options.flag("old", true),
        })
    }

    fn hops(&self, request: &Request) -> BTreeMap<FeedId, i32> {
        request.ctx.graph().hops(&self.start, self.max)
    }
}

/// What is different now, by feed.
fn difference(before: &BTreeMap<FeedId, i32>, now: &BTreeMap<FeedId, i32>) -> Map<String, Value> {
    let gone =
        before.keys().filter(|feed| !now.contains_key(feed)).map(|feed| (feed.to_string(), Value::Null));
    let changed = now.iter().filter(|(feed, hops)| before.get(feed) != Some(hops));
    changed.map(|(feed, hops)| (feed.to_string(), Value::from(*hops))).chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(n: u8) -> FeedId {
        FeedId::from_bytes([n; 32])
    }

    #[test]
    fn edges_are_written_as_both_generations_write_them() {
        let mut graph = Graph::new();
        graph.set(feed(1), feed(2), Edge::Follow);
        graph.set(feed(1), feed(3), Edge::Block);
        graph.set(feed(2), feed(1), Edge::Neutral);
        let (one, two, three) = (feed(1).to_string(), feed(2).to_string(), feed(3).to_string());
        let expected = json!({ one.clone(): { two.clone(): true, three.clone(): false }, two.clone(): { one.clone(): null } });
        assert_eq!(whole(&graph, legacy), expected);
        let expected = json!({ one.clone(): { two.clone(): 1, three: -1 }, two: { one: -2 } });
        assert_eq!(whole(&graph, weight), expected);
    }

    #[test]
    fn a_difference_says_what_is_new_what_moved_and_what_is_gone() {
        let before = BTreeMap::from([(feed(1), 0), (feed(2), 1), (feed(3), 2)]);
        let now = BTreeMap::from([(feed(1), 0), (feed(2), -1), (feed(4), 1)]);
        let expected = json!({ feed(2).to_string(): -1, feed(3).to_string(): null, feed(4).to_string(): 1 });
        assert_eq!(Value::Object(difference(&before, &now)), expected);
    }
}
