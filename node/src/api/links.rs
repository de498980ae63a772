//! `links` (ssb-db): which messages of whom name what, and as what. Only what stands directly in the content counts,
//! alone, as `{link}`, or in a list; the name of the member is the relation.

use std::collections::BTreeMap;

use hawsepipe_overlay::conn::StreamTx;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::message::is_reference;
use hawsepipe_replication::refs::FeedId;
use hawsepipe_replication::store::{Messages, Order, ReadError, Reader, Stored, Term};
use serde_json::{Map, Value, json};

use super::Request;
use super::args::Options;
use super::streams::{StreamOptions, failed};

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
        };
        if wanted.keys || wanted.values || wanted.meta {
            Ok(wanted)
        } else {
            Err(RemoteError::new(
                "makes no sense to return stream without resultsset at least one of {keys, values, meta} to true",
            ))
        }
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
fn relations(content: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut add = |rel: &str, value: &Value| {
        let link = value.as_str().or_else(|| value.get("link")?.as_str());
        found.extend(link.filter(|link| is_reference(link)).map(|link| (rel.to_owned(), link.to_owned())));
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

/// `links({source, dest, rel, keys, values, meta, reverse, live, old, limit})`.
pub(super) async fn links(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let wanted = Wanted::parse(request.args.options())?;
    let options = StreamOptions::parse(request.args.options());
    let ctx = &request.ctx;
    let mut left = options.limit.unwrap_or(u64::MAX);
    let mut tail = ctx.tail.log();
    let mut from = *tail.borrow_and_update();
    if options.old {
        let (reader, asked, reverse) = (ctx.reader.clone(), wanted.clone(), options.reverse);
        let turn = request.reads.acquire().await;
        let items = ctx.read(move || collect(&reader, &asked, from, reverse)).await?;
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
        let (reader, asked) = (ctx.reader.clone(), wanted.clone());
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
fn collect(reader: &Reader, wanted: &Wanted, end: u64, reverse: bool) -> Result<Vec<Body>, RemoteError> {
    let mut found = BTreeMap::<Place, Body>::new();
    for stored in wanted.messages(reader).map_err(failed)? {
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
