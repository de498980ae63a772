//! `search.query` (ssb-search 1) and `meme.*` (ssb-meme 1) over the index of full-text search.
//!
//! As there, all words of a question must be in a message, each may go on there, and what most other answers name comes
//! first. Unlike there, accents and languages without spaces count as people mean them, short words alone are
//! an answer too, and messages of feeds that we block are left out.

use std::collections::{BTreeSet, HashMap};

use hawsepipe_overlay::conn::StreamTx;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::private::Opened;
use hawsepipe_replication::refs::FeedId;
use hawsepipe_replication::store::{ReadError, Stored};
use serde_json::{Map, Value, json};

use super::Request;
use super::streams::{Shown, failed, send_bodies};
use crate::search::{Field, Found, SearchError, asked, blob_names};

/// Messages that `meme.search` looks at.
const MAX_MEMES: usize = 2_000;
/// Shorter parts of a question do not narrow it down, as in ssb-meme.
const MIN_PART: usize = 3;

/// `search.query({query, limit})`: messages with `rank`, how often other answers name it, if they do.
pub(super) async fn query(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let limit = limit(&request);
    let found = find(&request, Field::Text, limit).await?;
    let named = found.iter().filter(|found| found.rank > 0);
    let ranks: HashMap<u64, u32> = named.map(|found| (found.place, found.rank)).collect();
    let answers = answers(&request, found, limit).map(move |shown| {
        let shown = shown.map_err(failed)?;
        Ok(answer(&shown, ranks.get(&shown.stored.offset).copied().unwrap_or(0)))
    });
    send_bodies(&request, tx, answers.take(limit.map_or(usize::MAX, |limit| limit as usize))).await?;
    Ok(())
}

/// `meme.query({query, limit})`: the messages in which a blob has a name with these words, newest first.
pub(super) async fn meme_query(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let limit = limit(&request);
    let found = newest_first(find(&request, Field::BlobNames, limit).await?);
    let messages =
        answers(&request, found, limit).map(|shown| Ok(shown.map_err(failed)?.item(true, true, true)));
    send_bodies(&request, tx, messages.take(limit.map_or(usize::MAX, |limit| limit as usize))).await?;
    Ok(())
}

/// `meme.search({query})`, or the query alone: an object from blob to the names that it was given, `{name, author, msg}`.
pub(super) async fn meme_search(request: Request) -> Result<Body, RemoteError> {
    let Some(question) = question(&request) else {
        return Err(RemoteError::new("meme.search: expected a text, or {query}"));
    };
    let parts = parts(question);
    let mut found = newest_first(find(&request, Field::BlobNames, None).await?);
    found.truncate(MAX_MEMES);
    let answers = answers(&request, found, None);
    let collect = move || {
        let mut blobs = Map::new();
        for shown in answers {
            add_memes(&mut blobs, &shown?, &parts);
        }
        Ok(blobs)
    };
    let blobs = request.ctx.read(collect).await.map_err(failed)?;
    Ok(Body::json(&Value::Object(blobs)))
}

fn question(request: &Request) -> Option<&str> {
    request.args.text(0).or_else(|| request.args.options().text("query"))
}

/// As in JS, a limit of nothing is none.
fn limit(request: &Request) -> Option<u64> {
    request.args.options().number("limit").filter(|limit| *limit >= 1.0).map(|limit| limit as u64)
}

async fn find(request: &Request, field: Field, limit: Option<u64>) -> Result<Vec<Found>, RemoteError> {
    let asked = asked(question(request).unwrap_or_default());
    let ctx = &request.ctx;
    let found = ctx.search.find(&ctx.reader, field, asked, limit).await;
    found.map_err(|error: SearchError| RemoteError::new(error.to_string()))
}

fn newest_first(mut found: Vec<Found>) -> Vec<Found> {
    found.sort_unstable_by_key(|found| std::cmp::Reverse(found.place));
    found
}

/// The messages that were found, read as they are asked for, opened, without those of feeds that we block.
fn answers(
    request: &Request,
    found: Vec<Found>,
    limit: Option<u64>,
) -> impl Iterator<Item = Result<Shown, ReadError>> + Send + use<> {
    let (private, blocked) = (request.ctx.private.clone(), request.ctx.blocked());
    let places = found.into_iter().map(|found| found.place).collect();
    let messages = request.ctx.reader.at_offsets(places).limited(limit);
    let is_wanted = move |found: &Result<Stored, ReadError>| is_allowed(&blocked, found);
    messages.filter(is_wanted).map(move |stored| {
        let stored = stored?;
        let opened = private.open_stored(&stored);
        Ok(Shown { stored, opened })
    })
}

fn is_allowed(blocked: &BTreeSet<FeedId>, found: &Result<Stored, ReadError>) -> bool {
    found.as_ref().map_or(true, |stored| !blocked.contains(&stored.message.author()))
}

fn answer(shown: &Shown, rank: u32) -> Body {
    let message = &shown.stored.message;
    let mut out = format!("{{\"key\":\"{}\",\"value\":", message.id()).into_bytes();
    match &shown.opened {
        Some(opened) => out.extend_from_slice(&opened.value(message)),
        None => out.extend_from_slice(message.value_bytes()),
    }
    if rank > 0 {
        out.extend_from_slice(format!(",\"rank\":{rank}").as_bytes());
    }
    out.push(b'}');
    Body::json_raw(out)
}

/// The parts of a question that a name has to have, wherever in it.
fn parts(question: &str) -> Vec<String> {
    let question = question.to_lowercase();
    let parts = question.split(|c: char| "-._/~".contains(c) || c.is_whitespace());
    parts.filter(|part| part.encode_utf16().count() >= MIN_PART).map(str::to_owned).collect()
}

/// Adds the blobs that a message names with all `parts`.
fn add_memes(blobs: &mut Map<String, Value>, shown: &Shown, parts: &[String]) {
    let message = &shown.stored.message;
    let content = shown.opened.as_ref().map_or_else(|| message.content_json(), Opened::content_json);
    let content = serde_json::from_str(content).unwrap_or(Value::Null);
    for (link, name) in blob_names(&content) {
        let lower = name.to_lowercase();
        if !parts.iter().all(|part| lower.contains(part.as_str())) {
            continue;
        }
        let names = blobs.entry(link).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(names) = names {
            names.push(json!({ "name": name, "author": message.author(), "msg": message.id() }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_name_are_those_of_ssb_meme() {
        assert_eq!(parts("Happy-cat of a.kind"), ["happy", "cat", "kind"]);
        assert_eq!(parts("a b"), [""; 0]);
    }
}
