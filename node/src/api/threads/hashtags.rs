//! Threads by hashtag: `threads.hashtagSummary`, `hashtagCount`, `hashtagUpdates`, `hashtagsMatching` and
//! `recentHashtags` (ssb-threads 10).
//! A message has the hashtag that its `channel` names and those that are among its `mentions`, whatever their case; it is
//! found by the index of channels.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use hawsepipe_overlay::conn::StreamTx;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::message::{Message, normal_channel};
use hawsepipe_replication::store::{Messages, Order, ReadError, Reader, Stored, Term};
use serde_json::Value;

use super::super::Request;
use super::super::args::Options;
use super::super::streams::failed;
use super::{Member, Seen, Threads, Times, Wanted, Whence, list, updates};
use crate::context::{Caller, Context};

/// Hashtags of one question.
const MAX_HASHTAGS: usize = 100;
/// Hashtags that `recentHashtags` and `hashtagsMatching` tell of.
const MAX_TOLD: usize = 10_000;
/// Those that `hashtagsMatching` tells of where nothing is said.
const MATCHING: usize = 10;

/// Some hashtags, as the index has them: `#name`.
#[derive(Clone, Debug)]
pub(super) struct Hashtags(Vec<String>);

impl Hashtags {
    /// `hashtags`, or `hashtag`.
    fn parse(options: Options<'_>) -> Result<Self, RemoteError> {
        let tags = match options.value("hashtags").and_then(Value::as_array) {
            Some(tags) if tags.is_empty() => {
                return Err(RemoteError::new("opts.hashtags must have at least one"));
            }
            Some(tags) => tags.iter().map(Value::as_str).collect::<Option<Vec<_>>>().ok_or_else(|| {
                let got = Value::from(tags.clone());
                RemoteError::new(format!("opts.hashtags must be an array of strings, but got: {got}"))
            })?,
            None => vec![
                options
                    .text("hashtag")
                    .filter(|tag| !tag.is_empty())
                    .ok_or_else(|| RemoteError::new("opts.hashtag or opts.hashtags is required"))?,
            ],
        };
        if tags.len() > MAX_HASHTAGS {
            return Err(RemoteError::new(format!("more than {MAX_HASHTAGS} hashtags")));
        }
        // A name that no channel can have is on no message.
        Ok(Self(tags.into_iter().filter_map(normal_channel).map(|name| format!("#{name}")).collect()))
    }

    /// Whether a message has one of them.
    pub(super) fn are_on(&self, content: &str) -> bool {
        of(content).any(|tag| normal_channel(&tag).is_some_and(|name| self.0.contains(&format!("#{name}"))))
    }

    /// The messages that the index has under any of them, by time; one that has several comes several times.
    pub(super) fn messages(&self, reader: &Reader, times: Times, order: Order) -> Result<Merged, ReadError> {
        let found = |tag: &String| reader.by_term_and_time(Term::Link(tag.clone()), times, order);
        let streams = self.0.iter().map(|tag| found(tag).map(Iterator::peekable));
        Ok(Merged { streams: streams.collect::<Result<_, _>>()?, order })
    }
}

/// Streams of messages by time as one.
pub(super) struct Merged {
    streams: Vec<Peekable<Messages>>,
    order: Order,
}

impl Iterator for Merged {
    type Item = Result<Stored, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let sign = match self.order {
            Order::Ascending => 1.0,
            Order::Descending => -1.0,
        };
        let heads = self.streams.iter_mut().enumerate().filter_map(|(place, stream)| {
            // An error comes before everything.
            let time = match stream.peek()? {
                Ok(stored) => sign * stored.time(),
                Err(_) => f64::NEG_INFINITY,
            };
            Some((place, time))
        });
        let (first, _) = heads.min_by(|(_, one), (_, other)| one.total_cmp(other))?;
        self.streams.get_mut(first)?.next()
    }
}

/// The hashtags of a content as they are written there, without the `#`.
fn of(content: &str) -> impl Iterator<Item = String> {
    let content: Value = serde_json::from_str(content).unwrap_or_default();
    let channel = content.get("channel").and_then(Value::as_str);
    let channel = channel.map(|name| name.strip_prefix('#').unwrap_or(name).to_owned());
    let mentions = content.get("mentions").and_then(Value::as_array).into_iter().flatten();
    let mentions = mentions.filter_map(|mention| mention.get("link")?.as_str()?.strip_prefix('#'));
    let all: Vec<_> = channel.into_iter().chain(mentions.map(str::to_owned)).collect();
    all.into_iter().filter(|name| !name.is_empty())
}

/// `threads.hashtagSummary({hashtag | hashtags, reverse, allowlist, blocklist})`: `{root, replyCount, timestamp}`.
pub(in crate::api) async fn hashtag_summary(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let options = request.args.options();
    let wanted = Wanted { summary: true, following: false, ..Wanted::parse(options) };
    let whence = Whence::Hashtags(Hashtags::parse(options)?);
    list(&request, tx, wanted, whence).await
}

/// `threads.hashtagCount({hashtag, allowlist, blocklist})`: in how many threads it is.
pub(in crate::api) async fn hashtag_count(request: Request) -> Result<Body, RemoteError> {
    let options = request.args.options();
    if options.text("hashtag").is_none_or(str::is_empty) {
        return Err(RemoteError::new("opts.hashtag is required"));
    }
    let tags = Hashtags::parse(options)?;
    let wanted = Wanted { following: false, ..Wanted::parse(options) };
    let ctx = Arc::clone(&request.ctx);
    let (whence, caller) = (Whence::Hashtags(tags), Caller::default());
    let caller_waits = caller.waits();
    let count = request.ctx.read(move || {
        let times = (Bound::Unbounded, Bound::Unbounded);
        let messages = whence.messages(&ctx.reader, times, Order::Descending).map_err(failed)?;
        let seen = Seen::default();
        let mut threads = Threads { ctx, messages, wanted, whence, seen, caller_waits };
        let mut count = 0_u64;
        while let Some(root) = threads.next_root() {
            root?;
            count += 1;
        }
        Ok::<_, RemoteError>(count)
    });
    Ok(Body::json(&count.await?))
}

/// `threads.hashtagUpdates({hashtag | hashtags, allowlist, blocklist})`: the roots of threads that grow by one.
pub(in crate::api) async fn hashtag_updates(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let options = request.args.options();
    let tags = Hashtags::parse(options)?;
    let wanted = Wanted { include_self: true, ..Wanted::parse(options) };
    let shown = |member: &Member| Body::text(member.root().to_string());
    updates(&request, tx, &wanted, |member| tags.are_on(member.content()).then(|| shown(member))).await
}

/// `threads.recentHashtags({limit, preserveCase})`: those of the newest messages, the newest first.
pub(in crate::api) async fn recent_hashtags(request: Request) -> Result<Body, RemoteError> {
    let options = request.args.options();
    let limit = options.number("limit").filter(|limit| *limit >= 1.0);
    let limit = limit.ok_or_else(|| RemoteError::new("opts.limit must be number greater than 0"))?;
    let (most, keep_case) = ((limit as usize).min(MAX_TOLD), options.flag("preserveCase", false));
    let ctx = Arc::clone(&request.ctx);
    let found = request.ctx.read(move || {
        let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
        for message in tagged(&ctx) {
            for tag in of(message?.content_json()) {
                if seen.insert(tag.to_lowercase()) {
                    found.push(if keep_case { tag } else { tag.to_lowercase() });
                }
            }
            if found.len() >= most {
                break;
            }
        }
        found.truncate(most);
        Ok::<_, ReadError>(found)
    });
    Ok(Body::json(&found.await.map_err(failed)?))
}

/// `threads.hashtagsMatching({query, limit})`: `[name, messages]` of those that begin with `query`, whatever their case, the
/// most used first.
pub(in crate::api) async fn hashtags_matching(request: Request) -> Result<Body, RemoteError> {
    let options = request.args.options();
    let query = options.text("query").filter(|query| !query.is_empty()).map(str::to_lowercase);
    let query = query.ok_or_else(|| RemoteError::new("opts.query must be non-empty string"))?;
    let limit = options.number("limit").filter(|limit| *limit != 0.0);
    if limit.is_some_and(|limit| limit < 1.0) {
        return Err(RemoteError::new("opts.limit must be number greater than 0"));
    }
    let most = limit.map_or(MATCHING, |limit| (limit as usize).min(MAX_TOLD));
    let ctx = Arc::clone(&request.ctx);
    let found = request.ctx.read(move || {
        let mut counts = BTreeMap::<String, u64>::new();
        for message in tagged(&ctx) {
            let message = message?;
            let names: BTreeSet<_> = of(message.content_json()).map(|tag| tag.to_lowercase()).collect();
            for name in names.into_iter().filter(|name| name.starts_with(&query)) {
                *counts.entry(name).or_default() += 1;
            }
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| Reverse(*count));
        counts.truncate(most);
        Ok::<_, ReadError>(counts)
    });
    Ok(Body::json(&found.await.map_err(failed)?))
}

/// Messages with hashtags, the newest first, but for those of whom we block.
fn tagged(ctx: &Context) -> impl Iterator<Item = Result<Message, ReadError>> {
    let messages = ctx.reader.with_hashtags(.., Order::Descending).map(|stored| Ok(stored?.message));
    messages.filter(|message| message.as_ref().map_or(true, |message| !ctx.is_blocked(&message.author())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hashtags_are_the_channel_and_mentions_with_a_hash() {
        let content = json!({
            "type": "post", "channel": "#Animals",
            "mentions": [{ "link": "#Wombats" }, { "link": "@x" }, { "link": 7 }, "#bare", { "link": "#" }]
        });
        assert_eq!(of(&content.to_string()).collect::<Vec<_>>(), ["Animals", "Wombats"]);
        for nothing in ["\"sealed.box\"", "{}", r#"{"channel":"","mentions":{}}"#] {
            assert_eq!(of(nothing).count(), 0, "{nothing}");
        }
        let tags = Hashtags(vec!["#wombats".to_owned()]);
        assert!(tags.are_on(&content.to_string()) && !tags.are_on(r#"{"channel":"wombat"}"#));
    }

    #[test]
    fn what_is_asked_for_is_one_or_some_and_says_what_is_wrong() {
        let read = |options: Value| Hashtags::parse(Options::of(&options)).map(|tags| tags.0);
        assert_eq!(read(json!({ "hashtag": "#New-People" })).unwrap(), ["#new-people"]);
        assert_eq!(read(json!({ "hashtags": ["a", "#B"], "hashtag": "c" })).unwrap(), ["#a", "#b"]);
        for (options, why) in [
            (json!({}), "opts.hashtag or opts.hashtags is required"),
            (json!({ "hashtag": "" }), "opts.hashtag or opts.hashtags is required"),
            (json!({ "hashtags": [] }), "opts.hashtags must have at least one"),
            (
                json!({ "hashtags": ["a", 7] }),
                "opts.hashtags must be an array of strings, but got: [\"a\",7]",
            ),
        ] {
            assert_eq!(read(options).unwrap_err().to_string(), why);
        }
    }
}
