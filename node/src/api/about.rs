//! `about.*` (ssb-about 2, which is ssb-social-index 1): what people say of a feed or a message, one value out of many.
//!
//! A value is what `about` messages say under a key. The social value is what we say ourselves, else what the author
//! says, else what most say; the latest value is what was said last. `{remove: true}` takes a value back.

use hawsepipe_overlay::conn::StreamTx;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::message::is_reference;
use hawsepipe_replication::refs::{FeedId, MessageId};
use hawsepipe_replication::store::Order;
use serde_json::{Map, Value, json};

use super::Request;
use super::query::{Backlinks, body_of};
use super::streams::{StreamOptions, failed};
use crate::query::is_truthy;

/// Of whom or what, and what of it.
struct Asked {
    key: String,
    dest: String,
    messages: Backlinks,
}

impl Asked {
    fn of(request: &Request) -> Result<Self, RemoteError> {
        let key = request.args.options().text("key").map(str::to_owned);
        let key = key.ok_or_else(|| RemoteError::new("about: expected {key, dest}"))?;
        let (dest, messages) = dest(request)?;
        Ok(Self { key, dest, messages })
    }

    async fn stored(&self, request: &Request, order: Order) -> Result<Vec<Value>, RemoteError> {
        self.messages.before(&request.ctx, u64::MAX, order).await
    }
}

fn dest(request: &Request) -> Result<(String, Backlinks), RemoteError> {
    let dest = request.args.options().text("dest").map(str::to_owned);
    let dest = dest.ok_or_else(|| RemoteError::new("about: expected {dest}, a feed or a message"))?;
    let filter = json!({ "dest": dest, "value": { "content": { "type": "about", "about": dest } } });
    let messages = Backlinks::of(&filter, false)?;
    Ok((dest, messages))
}

/// `about.read({dest, reverse, limit, live, old})`: the messages themselves, by resolved time.
pub(super) async fn read(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let (_, asked) = dest(&request)?;
    let options = StreamOptions::parse(request.args.options());
    let mut left = options.limit.filter(|limit| *limit > 0).unwrap_or(u64::MAX);
    let live = options.live || !options.old;
    let mut tail = Tail::new(&request, &asked);
    let mut items = match options.old {
        true => asked.before(&request.ctx, tail.from, options.order()).await?,
        false => Vec::new(),
    };
    if options.old && live {
        items.truncate(left as usize);
        items.push(json!({ "sync": true }));
        left = left.saturating_add(1);
    }
    loop {
        for item in items {
            if left == 0 || tx.send(Body::json(&item)).await.is_err() {
                return Ok(());
            }
            left -= 1;
        }
        if !live || left == 0 {
            return Ok(());
        }
        items = tail.next().await?;
    }
}

/// What comes after what is stored.
struct Tail<'a> {
    request: &'a Request,
    asked: &'a Backlinks,
    log: tokio::sync::watch::Receiver<u64>,
    from: u64,
}

impl<'a> Tail<'a> {
    fn new(request: &'a Request, asked: &'a Backlinks) -> Self {
        let mut log = request.ctx.tail.log();
        let from = *log.borrow_and_update();
        Self { request, asked, log, from }
    }

    /// The next messages; waits for some.
    async fn next(&mut self) -> Result<Vec<Value>, RemoteError> {
        loop {
            if self.log.changed().await.is_err() {
                // The node stops, and so does the session.
                std::future::pending::<()>().await;
            }
            let to = *self.log.borrow_and_update();
            let new = self.asked.among(&self.request.ctx, self.from..to).await?;
            self.from = to;
            if !new.is_empty() {
                return Ok(new);
            }
        }
    }
}

/// What a message says under a key, and who says it; nothing if JavaScript takes it for false.
fn said<'a>(message: &'a Value, key: &str) -> Option<(&'a str, &'a Value)> {
    let value = message.get("value")?;
    let said = value.get("content")?.get(key).filter(|said| is_truthy(Some(said)))?;
    Some((value.get("author")?.as_str()?, said))
}

fn is_removal(said: &Value) -> bool {
    is_truthy(said.get("remove"))
}

/// `about.socialValues({key, dest})`: what each author said last.
pub(super) async fn social_values(request: Request) -> Result<Body, RemoteError> {
    let asked = Asked::of(&request)?;
    Ok(Body::json(&Value::Object(values(&asked, &request).await?)))
}

async fn values(asked: &Asked, request: &Request) -> Result<Map<String, Value>, RemoteError> {
    let mut values = Map::new();
    for message in asked.stored(request, Order::Ascending).await? {
        if let Some((author, said)) = said(&message, &asked.key) {
            values.insert(author.to_owned(), said.clone());
        }
    }
    Ok(values)
}

/// `about.socialValue({key, dest})`.
pub(super) async fn social_value(request: Request) -> Result<Body, RemoteError> {
    let asked = Asked::of(&request)?;
    let author = author(&request, &asked.dest).await?;
    let values = values(&asked, &request).await?;
    Ok(body_of(&social(&values, &request.ctx.own, author.as_ref())))
}

/// Who wrote a message, or the feed itself; nobody if it is neither.
async fn author(request: &Request, dest: &str) -> Result<Option<FeedId>, RemoteError> {
    if let Ok(feed) = dest.parse::<FeedId>() {
        return Ok(Some(feed));
    }
    let Ok(id) = dest.parse::<MessageId>() else { return Ok(None) };
    let reader = request.ctx.reader.clone();
    let stored = request.ctx.read(move || reader.get(&id)).await.map_err(failed)?;
    let stored = stored.ok_or_else(|| super::log::not_found(format!("Key not found in database [{id}]")))?;
    Ok(Some(stored.message.author()))
}

/// One value out of many.
fn social(values: &Map<String, Value>, own: &FeedId, author: Option<&FeedId>) -> Value {
    let of = |feed: &FeedId| values.get(&feed.to_string()).filter(|said| is_truthy(Some(said)));
    of(own).or_else(|| of(author?)).cloned().unwrap_or_else(|| most_frequent(values))
}

/// What most say; of two, what reached its number first.
fn most_frequent(values: &Map<String, Value>) -> Value {
    let mut counts = Map::new();
    let (mut highest, mut current) = (0, Value::Null);
    for said in values.values().filter_map(counted) {
        let count = counts.get(said).and_then(Value::as_u64).unwrap_or(0) + 1;
        counts.insert(said.to_owned(), count.into());
        if count > highest {
            (highest, current) = (count, said.into());
        }
    }
    current
}

fn counted(said: &Value) -> Option<&str> {
    let link = || said.get("link")?.as_str().filter(|link| is_reference(link) && !is_removal(said));
    said.as_str().or_else(link)
}

/// `about.latestValue({key, dest})`.
pub(super) async fn latest_value(request: Request) -> Result<Body, RemoteError> {
    let asked = Asked::of(&request)?;
    let messages = asked.stored(&request, Order::Descending).await?;
    let latest = messages.iter().find_map(|message| kept(message, &asked.key));
    Ok(body_of(latest.unwrap_or(&Value::Null)))
}

/// What a message says under a key, whatever it is, unless that takes something back.
fn kept<'a>(message: &'a Value, key: &str) -> Option<&'a Value> {
    message.get("value")?.get("content")?.get(key).filter(|said| !is_removal(said))
}

/// `about.latestValues({keys, dest})`.
pub(super) async fn latest_values(request: Request) -> Result<Body, RemoteError> {
    let (_, asked) = dest(&request)?;
    let keys = request.args.options().value("keys").and_then(Value::as_array);
    let keys = keys.ok_or_else(|| RemoteError::new("about.latestValues: expected {keys, dest}"))?;
    let keys: Vec<&str> = keys.iter().filter_map(Value::as_str).collect();
    let mut values = Map::new();
    for message in asked.before(&request.ctx, u64::MAX, Order::Descending).await? {
        for key in &keys {
            if let Some(said) = kept(&message, key)
                && !values.contains_key(*key)
            {
                values.insert((*key).to_owned(), said.clone());
            }
        }
    }
    Ok(Body::json(&Value::Object(values)))
}

/// What authors say now, without what was taken back.
#[derive(Default)]
struct Known(Map<String, Value>);

impl Known {
    fn take(&mut self, author: &str, said: &Value) {
        if is_removal(said) {
            self.0.shift_remove(author);
        } else {
            self.0.insert(author.to_owned(), said.clone());
        }
    }

    fn take_all(&mut self, messages: &[Value], key: &str) {
        messages
            .iter()
            .filter_map(|message| said(message, key))
            .for_each(|(author, said)| self.take(author, said));
    }
}

/// `about.socialValuesStream({key, dest})`: what each author says, then each change as `{author: value}`.
pub(super) async fn social_values_stream(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let asked = Asked::of(&request)?;
    let mut tail = Tail::new(&request, &asked.messages);
    let mut known = Known::default();
    known.take_all(&asked.messages.before(&request.ctx, tail.from, Order::Ascending).await?, &asked.key);
    let mut changes = vec![Value::Object(known.0)];
    loop {
        for change in changes {
            if tx.send(Body::json(&change)).await.is_err() {
                return Ok(());
            }
        }
        let new = tail.next().await?;
        let said = new.iter().filter_map(|message| said(message, &asked.key));
        changes = said.map(|(author, said)| json!({ author: said })).collect();
    }
}

/// `about.socialValueStream({key, dest})`: the social value, again after each change.
pub(super) async fn social_value_stream(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let asked = Asked::of(&request)?;
    // Of a message that is not here nobody is the author.
    let author = author(&request, &asked.dest).await.unwrap_or(None);
    let mut tail = Tail::new(&request, &asked.messages);
    let mut known = Known::default();
    known.take_all(&asked.messages.before(&request.ctx, tail.from, Order::Ascending).await?, &asked.key);
    if tx.send(body_of(&social(&known.0, &request.ctx.own, author.as_ref()))).await.is_err() {
        return Ok(());
    }
    loop {
        for message in tail.next().await? {
            let Some((who, said)) = said(&message, &asked.key) else { continue };
            known.take(who, said);
            if tx.send(body_of(&social(&known.0, &request.ctx.own, author.as_ref()))).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// `about.latestValueStream({key, dest, authorId})`: the value that was said last, by one author if one is given, again
/// after each change.
pub(super) async fn latest_value_stream(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let asked = Asked::of(&request)?;
    let only = request.args.options().text("authorId");
    let mut tail = Tail::new(&request, &asked.messages);
    let mut latest = Latest::default();
    let old = asked.messages.before(&request.ctx, tail.from, Order::Ascending).await?;
    let said_by = |message: &Value| {
        let said = said(message, &asked.key).filter(|(author, _)| only.is_none_or(|only| only == *author));
        said.map(|(author, said)| (author.to_owned(), said.clone()))
    };
    old.iter().filter_map(said_by).for_each(|(author, said)| latest.take(&author, &said));
    let mut values = vec![latest.value.clone()];
    loop {
        for value in values {
            if tx.send(body_of(&value)).await.is_err() {
                return Ok(());
            }
        }
        values = Vec::new();
        for (author, said) in tail.next().await?.iter().filter_map(said_by) {
            latest.take(&author, &said);
            values.push(latest.value.clone());
        }
    }
}

/// What was said last, and by whom before, whom to fall back to.
#[derive(Default)]
struct Latest {
    known: Known,
    value: Value,
}

impl Latest {
    fn take(&mut self, author: &str, said: &Value) {
        // Whoever says something again is the last one.
        self.known.0.shift_remove(author);
        self.known.take(author, said);
        if let Some(last) = self.known.0.values().next_back() {
            self.value = last.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: FeedId = FeedId::from_bytes([1; 32]);
    const AUTHOR: FeedId = FeedId::from_bytes([2; 32]);

    fn values(said: &[(FeedId, Value)]) -> Map<String, Value> {
        said.iter().map(|(feed, said)| (feed.to_string(), said.clone())).collect()
    }

    #[test]
    fn own_words_count_more_than_the_authors_and_those_more_than_what_most_say() {
        let other = |n| FeedId::from_bytes([n; 32]);
        let blob = json!({ "link": "&47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=.sha256" });
        let many = [(other(3), json!("a")), (other(4), blob.clone()), (other(5), blob), (other(6), json!(7))];
        let social = |said: &[(FeedId, Value)]| social(&values(said), &OWN, Some(&AUTHOR));
        assert_eq!(social(&many), json!("&47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=.sha256"));
        let mut said = many.to_vec();
        said.push((AUTHOR, json!("author's")));
        assert_eq!(social(&said), json!("author's"));
        said.push((OWN, json!("own")));
        assert_eq!(social(&said), json!("own"));
        assert_eq!(social(&[]), Value::Null);
    }

    #[test]
    fn the_latest_value_falls_back_to_who_spoke_before() {
        let mut latest = Latest::default();
        for (author, said, expected) in [
            ("a", json!("one"), json!("one")),
            ("b", json!("two"), json!("two")),
            ("a", json!("three"), json!("three")),
            ("a", json!({ "remove": true }), json!("two")),
            ("b", json!({ "remove": true }), json!("two")),
        ] {
            latest.take(author, &said);
            assert_eq!(latest.value, expected);
        }
    }
}
