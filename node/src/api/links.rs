//! `links` (ssb-db): which messages of whom name what, and as what. Only what stands directly in the content counts,
//! alone, as `{link}`, or in a list; the name of the member is the relation.

use std::collections::{BTreeMap, BTreeSet};

use hawsepipe_overlay::conn::StreamTx;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::message::is_reference;
use hawsepipe_replication::refs::FeedId;
use hawsepipe_replication::store::{Messages, Order, ReadError, Reader, Stored, Term};
use serde_json::{Map, Value, json};

use super::Request;
use super::args::Options;
use super::streams::{StreamOptions, failed};
use crate::context::{Caller, Context};
use crate::query::from_number;

/// Links that one call gives in order at most: they have to be collected first.
const MAX_COLLECTED: usize = 500_000;

/// What is asked for: each narrows it down; a lone sigil stands for all of its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    source: Option<String>,
    dest: Option<String>,
    rel: Option<String>,
    keys: bool,
    values: bool,
    meta: bool,
    /// Feeds whose links are left out.
    blocked: BTreeSet<FeedId>,
}

/// One link, by what they are ordered.
type Place = (String, String, String, u64, String, usize);

impl Wanted {
    fn parse(options: Options<'_>) -> Result<Self, RemoteError> {
        let end = |name| {
            let text = match options.text(name)? {
                "feed" => "@",
                "msg" => "%",
                "blob" => "&",
                other => other,
            };
            (!text.is_empty()).then(|| text.to_owned())
        };
        let wanted = Self {
            source: end("source"),
            dest: end("dest"),
            rel: options.text("rel").filter(|rel| !rel.is_empty()).map(str::to_owned),
            keys: options.flag("keys", true),
            values: options.flag("values", false),
            meta: options.flag("meta", true),
            blocked: BTreeSet::new(),
        };
        if wanted.keys || wanted.values || wanted.meta {
            Ok(wanted)
        } else {
            Err(RemoteError::new(
                "makes no sense to return stream without resultsset at least one of {keys, values, meta} to true",
            ))
        }
    }

    /// Leaves out whom we block, unless it is asked for by name.
    fn without_blocked(&self, ctx: &Context) -> Self {
        let mut blocked = ctx.blocked();
        self.source
            .as_ref()
            .and_then(|source| source.parse().ok())
            .map(|source: FeedId| blocked.remove(&source));
        Self { blocked, ..self.clone() }
    }

    /// By the end that is known, as JS does: by `dest` if only that is.
    fn is_back(&self) -> bool {
        self.dest.is_some() && self.source.is_none()
    }

    fn messages(&self, reader: &Reader) -> Result<Messages, ReadError> {
        if let Some(dest) = self.dest.as_ref().filter(|dest| is_reference(dest)) {
            return Ok(reader.by_term(Term::Link(dest.clone()), .., Order::Ascending));
        }
        match self.source.as_ref().and_then(|source| source.parse::<FeedId>().ok()) {
            Some(feed) => Ok(reader.feed_range(&feed, .., Order::Ascending)),
            None => reader.log(.., Order::Ascending),
        }
    }

    /// The links of a message that are wanted: relation and destination.
    fn links(&self, stored: &Stored) -> Vec<(String, String)> {
        if self.blocked.contains(&stored.message.author()) {
            return Vec::new();
        }
        if !fits(self.source.as_deref(), &stored.message.author().to_string()) {
            return Vec::new();
        }
        let content = serde_json::from_str(stored.message.content_json()).unwrap_or(Value::Null);
        let is_wanted = |(rel, dest): &(String, String)| {
            self.rel.as_ref().is_none_or(|wanted| wanted == rel) && fits(self.dest.as_deref(), dest)
        };
        relations(&content).into_iter().filter(is_wanted).collect()
    }

    /// A link in the form that is asked for.
    fn item(&self, stored: &Stored, rel: &str, dest: &str) -> Body {
        let message = &stored.message;
        let value = || serde_json::from_slice(message.value_bytes()).unwrap_or(Value::Null);
        let key = message.id().to_string();
        if !self.meta {
            return match (self.keys, self.values) {
                (true, true) => Body::json(&json!({ "key": key, "value": value() })),
                (true, false) => Body::text(&key),
                (false, _) => Body::json(&value()),
            };
        }
        let mut item = Map::new();
        item.insert("source".to_owned(), message.author().to_string().into());
        item.insert("rel".to_owned(), rel.into());
        item.insert("dest".to_owned(), dest.into());
        if self.keys {
            item.insert("key".to_owned(), key.into());
        }
        if self.values {
            item.insert("value".to_owned(), value());
        }
        Body::json(&Value::Object(item))
    }
}

/// Whether an end is the wanted one, or of its kind.
fn fits(wanted: Option<&str>, end: &str) -> bool {
    wanted.is_none_or(|wanted| if wanted.len() == 1 { end.starts_with(wanted) } else { end == wanted })
}

/// What a content names directly, and as what.
pub(crate) fn relations(content: &Value) -> Vec<(String, String)> {
    let found = named(content).into_iter();
    found.map(|(rel, dest, _)| (rel.to_owned(), dest.to_owned())).collect()
}

/// What a content names directly: as what, what, and the value that does.
fn named<'a>(content: &'a Value) -> Vec<(&'a str, &'a str, &'a Value)> {
    let mut found = Vec::new();
    let mut add = |rel: &'a str, value: &'a Value| {
        let link = link_of(value).filter(|link| is_reference(link));
        found.extend(link.map(|link| (rel, link, value)));
    };
    for (rel, value) in content.as_object().into_iter().flatten() {
        match value {
            Value::Array(items) => items.iter().for_each(|item| add(rel, item)),
            // Objects with the members 0, 1, … pass for lists.
            Value::Object(members) if members.contains_key("0") => {
                (0..).map_while(|n: usize| members.get(&n.to_string())).for_each(|item| add(rel, item));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                add(rel, value)
            }
        }
    }
    found
}

fn link_of(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("link")?.as_str())
}

/// The rows of ssb-links for one message: `{source, dest, rel, ts}`, where `rel` is a list of the relation's name and
/// what else the link says.
pub(super) fn rows(stored: &Stored) -> Vec<Value> {
    let content = serde_json::from_str(stored.message.content_json()).unwrap_or(Value::Null);
    let (source, ts) = (stored.message.author(), from_number(stored.received));
    let row = |(rel, dest, link): (&str, &str, &Value)| {
        let rel: Vec<_> = detailed(rel, dest, link, &content).into_iter().map(flat).collect();
        json!({ "source": source, "dest": dest, "rel": rel, "ts": ts })
    };
    named(&content).into_iter().map(row).collect()
}

/// A relation with what ssb-links knows to be worth asking for. What a link does not say is `null`.
fn detailed(rel: &str, dest: &str, link: &Value, content: &Value) -> Vec<Value> {
    let said = |name: &str| link.get(name).cloned().unwrap_or(Value::Null);
    let of_content = |name: &str| content.get(name).cloned().unwrap_or(Value::Null);
    let name = Value::from(rel);
    match rel {
        "vote" => vec![name, said("value")],
        "flag" => vec![name, said("reason")],
        "mentions" if dest.starts_with('@') => {
            let called = link.get("name").and_then(Value::as_str).unwrap_or_default().to_lowercase();
            vec![name, format!("@{called}").into()]
        }
        "mentions" if dest.starts_with('&') => {
            let file = Some(said("filename")).filter(|file| !file.is_null()).unwrap_or_else(|| said("name"));
            vec![name, file, said("size")]
        }
        "about" if content.get("name").is_some_and(Value::is_string) => vec![name, of_content("name")],
        "image" => vec![name, said("type"), said("size")],
        "contact" => vec![name, of_content("following"), of_content("blocking")],
        _ => vec![name],
    }
}

/// No objects in keys: their text.
fn flat(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(flat).collect(),
        Value::Object(_) => value.to_string().into(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

/// `links({source, dest, rel, keys, values, meta, reverse, live, old, limit})`.
pub(super) async fn links(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let wanted = Wanted::parse(request.args.options())?;
    let options = StreamOptions::parse(request.args.options());
    let ctx = &request.ctx;
    let mut left = options.limit.unwrap_or(u64::MAX);
    let mut tail = ctx.tail.log();
    let mut from = *tail.borrow_and_update();
    if options.old {
        let (reader, asked, reverse) = (ctx.reader.clone(), wanted.without_blocked(ctx), options.reverse);
        let turn = request.reads.acquire().await;
        let caller = Caller::default();
        let waits = caller.waits();
        let items = ctx.read(move || collect(&reader, &asked, from, reverse, &waits)).await?;
        for item in items {
            if left == 0 || tx.send(item).await.is_err() {
                return Ok(());
            }
            left -= 1;
        }
        drop(turn);
        if options.live && options.sync && tx.send(Body::json(&json!({ "sync": true }))).await.is_err() {
            return Ok(());
        }
    }
    while options.live && left > 0 && tail.changed().await.is_ok() {
        let to = *tail.borrow_and_update();
        let (reader, asked) = (ctx.reader.clone(), wanted.without_blocked(ctx));
        let new = move || {
            let mut items = Vec::new();
            for stored in reader.log(from..to, Order::Ascending)? {
                let stored = stored?;
                items.extend(asked.links(&stored).iter().map(|(rel, dest)| asked.item(&stored, rel, dest)));
            }
            Ok(items)
        };
        for item in ctx.read(new).await.map_err(failed)? {
            if left == 0 || tx.send(item).await.is_err() {
                return Ok(());
            }
            left -= 1;
        }
        from = to;
    }
    Ok(())
}

/// All links below `end`, in JS's order: by the known end, the relation, the other end, and the sequence.
fn collect(
    reader: &Reader,
    wanted: &Wanted,
    end: u64,
    reverse: bool,
    caller_waits: &dyn Fn() -> bool,
) -> Result<Vec<Body>, RemoteError> {
    let mut found = BTreeMap::<Place, Body>::new();
    for stored in wanted.messages(reader).map_err(failed)?.take_while(|_| caller_waits()) {
        let stored = stored.map_err(failed)?;
        if stored.offset >= end {
            continue;
        }
        let message = &stored.message;
        for (n, (rel, dest)) in wanted.links(&stored).into_iter().enumerate() {
            if found.len() >= MAX_COLLECTED {
                return Err(RemoteError::new(format!(
                    "more than {MAX_COLLECTED} links: say more of source, dest or rel"
                )));
            }
            let item = wanted.item(&stored, &rel, &dest);
            let (source, id) = (message.author().to_string(), message.id().to_string());
            let (known, other) = if wanted.is_back() { (dest, source) } else { (source, dest) };
            found.insert((known, rel, other, message.sequence(), id, n), item);
        }
    }
    let items = found.into_values();
    Ok(if reverse { items.rev().collect() } else { items.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEED: &str = "@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=.ed25519";
    const MESSAGE: &str = "%7qizFH9dHuG2wMUg8CAP/1Olg2exISVkjJpvlCYATu4=.sha256";

    /// As ssb-msgs 5 finds them.
    #[test]
    fn relations_are_what_stands_directly_in_the_content() {
        let content = json!({
            "type": "post", "root": MESSAGE, "vote": { "link": MESSAGE, "value": 1 },
            "mentions": [{ "link": FEED, "name": "x" }, FEED, "@x", null],
            "deep": { "er": { "link": FEED } }, "listed": { "0": FEED, "1": { "link": MESSAGE } },
        });
        let found = relations(&content);
        let pairs: Vec<(&str, &str)> =
            found.iter().map(|(rel, dest)| (rel.as_str(), dest.as_str())).collect();
        let expected = [
            ("root", MESSAGE),
            ("vote", MESSAGE),
            ("mentions", FEED),
            ("mentions", FEED),
            ("listed", FEED),
            ("listed", MESSAGE),
        ];
        assert_eq!(pairs, expected);
        assert!(relations(&json!("secret.box")).is_empty());
    }

    /// As ssb-links 3 has them.
    #[test]
    fn relations_say_what_else_the_link_says() {
        let detail = |content: Value| {
            let named = named(&content);
            let all = named
                .iter()
                .flat_map(|(rel, dest, link)| detailed(rel, dest, link, &content).into_iter().map(flat));
            Value::from(all.collect::<Vec<_>>())
        };
        let contact = json!({ "type": "contact", "contact": FEED, "following": true });
        assert_eq!(detail(contact), json!(["contact", true, null]));
        assert_eq!(detail(json!({ "vote": { "link": MESSAGE, "value": 1 } })), json!(["vote", 1]));
        let mentions = json!({ "mentions": [{ "link": FEED, "name": "Ali" }, FEED, MESSAGE] });
        assert_eq!(detail(mentions), json!(["mentions", "@ali", "mentions", "@", "mentions"]));
        assert_eq!(detail(json!({ "about": FEED, "name": "Ali" })), json!(["about", "Ali"]));
        assert_eq!(
            detail(json!({ "root": MESSAGE, "vote": { "link": MESSAGE, "value": { "a": 1 } } })),
            json!(["root", "vote", "{\"a\":1}"])
        );
    }

    #[test]
    fn kinds_have_names_and_something_must_be_asked_for() {
        let parse = |options: Value| {
            let args = super::super::Args::from(vec![options]);
            Wanted::parse(args.options())
        };
        let wanted = parse(json!({ "dest": "msg", "source": "", "rel": null })).unwrap();
        assert_eq!((wanted.dest.as_deref(), wanted.source, wanted.rel), (Some("%"), None, None));
        assert!(
            fits(Some("%"), MESSAGE) && !fits(Some("%"), FEED) && fits(None, FEED) && fits(Some(FEED), FEED)
        );
        assert!(parse(json!({ "keys": false, "meta": false })).is_err());
    }
}
