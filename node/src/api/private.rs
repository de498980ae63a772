//! `private.*` (ssb-private 1), and publishing what has recipients (ssb-db's autobox).

use hawsepipe_overlay::conn::StreamTx;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::message::json::{self, Value};
use hawsepipe_replication::private::{EnvelopeDraft, Opened, SealError, groups, seal_box1};
use hawsepipe_replication::refs::{FeedId, GroupId};
use hawsepipe_replication::store::{Order, Reader, Stored};
use serde_json::value::RawValue;
use serde_json::{Map, json};

use super::log::old_then_live;
use super::streams::{StreamOptions, failed};
use super::{Request, publish};
use crate::context::Context;
use crate::private::at;

/// Messages of a group that are looked at to find which nobody has followed up on.
const TANGLE_DEPTH: usize = 256;
/// Messages that one names as those before it, at most.
const TANGLE_TIPS: usize = 8;

/// What is to be published, and how.
pub(super) enum Sealed {
    /// For everybody, as it was written.
    Public,
    /// A content that is sealed already, as a JSON string.
    Box1(Vec<u8>),
    /// To be sealed when its place in the feed is known.
    Envelope(EnvelopeDraft),
}

/// Seals a content that has `recps`, in whatever way those can read.
pub(super) async fn seal(ctx: &Context, content: &str) -> Result<Sealed, RemoteError> {
    let Ok(mut value) = json::parse(content.as_bytes()) else { return Ok(Sealed::Public) };
    // What is no JSON or no object is for `publish` to refuse.
    let Some(recps) = value.member("recps").filter(|recps| is_truthy(recps)) else {
        return Ok(Sealed::Public);
    };
    let recps = match recps {
        Value::String(_) => vec![recps.clone()],
        Value::Array(list) => list.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Infinity | Value::Object(_) => {
            return Err(RemoteError::new(r#"private message field "recps" expects an Array of recipients"#));
        }
    };
    if value.member("type").and_then(Value::as_written_str) == Some("contact") {
        return Err(RemoteError::new(
            "a contact message with recps would have no effect on this node; nothing was published",
        ));
    }
    let names: Option<Vec<_>> =
        recps.iter().map(|recp| Some(json::unescape(recp.as_written_str()?).into_owned())).collect();
    let written = Value::Array(recps).to_compact();
    set(&mut value, "recps", json::parse(&written).expect("what was written can be read"));
    let names = names.ok_or_else(|| no_boxer(&written))?;
    seal_for(ctx, &value, &names).await
}

/// Seals `content` for whomever `recps` names.
async fn seal_for(ctx: &Context, content: &Value<'_>, recps: &[String]) -> Result<Sealed, RemoteError> {
    let feeds: Option<Vec<FeedId>> = recps.iter().map(|recp| recp.parse().ok()).collect();
    if let Some(feeds) = feeds {
        let sealed = seal_box1(&content.to_compact(), &feeds).map_err(refused)?;
        return Ok(Sealed::Box1(sealed));
    }
    let written = serde_json::to_vec(recps).unwrap_or_default();
    let (first, others) = recps.split_first().ok_or_else(|| refused(SealError::NoRecipients))?;
    let group = GroupId::from_any(first).ok_or_else(|| no_boxer(&written))?;
    let others: Option<Vec<FeedId>> = others.iter().map(|recp| recp.parse().ok()).collect();
    let others = others.ok_or_else(|| no_boxer(&written))?;
    let plaintext = with_tangles(ctx, content, &group).await?;
    let keyring = ctx.private.keyring();
    let write_key =
        keyring.group(&group).and_then(|known| known.write_key()).ok_or_else(|| unknown(&group))?;
    let mut recipients = vec![write_key.clone()];
    for feed in &others {
        recipients.push(keyring.slot_of(feed).map_err(refused)?);
    }
    Ok(Sealed::Envelope(EnvelopeDraft { plaintext, recipients }))
}

/// A message to a group says what it follows: the group's first message, and those that nobody followed up on.
async fn with_tangles(ctx: &Context, content: &Value<'_>, group: &GroupId) -> Result<Vec<u8>, RemoteError> {
    let root = ctx.private.keyring().group(group).map(|known| known.root).ok_or_else(|| unknown(group))?;
    ctx.private.caught_up(&ctx.reader).await;
    let (private, reader, id) = (ctx.private.clone(), ctx.reader.clone(), *group);
    let found = ctx.read(move || private.of_group(&reader, &id, None, TANGLE_DEPTH)).await.map_err(failed)?;
    let is_member = content.member("type").and_then(Value::as_written_str) == Some(groups::ADD_MEMBER);
    let mut tangles = Map::new();
    for name in ["group", "members"].into_iter().filter(|name| *name == "group" || is_member) {
        let previous = tips(&found, name);
        let previous = if previous.is_empty() { vec![root.to_string()] } else { previous };
        tangles.insert(name.to_owned(), json!({ "root": root, "previous": previous }));
    }
    let tangles = serde_json::Value::Object(tangles).to_string();
    let mut content = content.clone();
    set(&mut content, "tangles", json::parse(tangles.as_bytes()).expect("our own JSON can be read"));
    Ok(content.to_compact())
}

/// Messages of a tangle that no other of it names as those before it, newest first.
fn tips(found: &[(Stored, Opened)], tangle: &str) -> Vec<String> {
    let named = |opened: &Opened| -> Option<Vec<String>> {
        let content: serde_json::Value = serde_json::from_str(opened.content_json()).ok()?;
        let tangle = content.get("tangles")?.get(tangle)?;
        // The first message's is null.
        Some(serde_json::from_value(tangle.get("previous")?.clone()).unwrap_or_default())
    };
    let members: Vec<_> = found
        .iter()
        .filter_map(|(stored, opened)| Some((stored.message.id().to_string(), named(opened)?)))
        .collect();
    let is_followed = |id: &String| members.iter().any(|(_, previous)| previous.contains(id));
    members.iter().map(|(id, _)| id).filter(|id| !is_followed(id)).take(TANGLE_TIPS).cloned().collect()
}

fn set<'a>(value: &mut Value<'a>, name: &'static str, to: Value<'a>) {
    let Value::Object(members) = value else { return };
    match members.iter_mut().find(|(key, _)| key == name) {
        Some((_, member)) => *member = to,
        None => members.push((name.into(), to)),
    }
}

fn is_truthy(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Number(_) => value.as_f64() != Some(0.0),
        Value::Bool(true) | Value::Infinity | Value::Array(_) | Value::Object(_) => true,
    }
}

fn refused(error: SealError) -> RemoteError {
    RemoteError::new(error.to_string())
}

/// The words of ssb-db.
fn no_boxer(recps: &[u8]) -> RemoteError {
    let recps = String::from_utf8_lossy(recps);
    RemoteError::new(format!("private message requested, but no boxers could encrypt these recps: {recps}"))
}

pub(super) fn unknown(group: &GroupId) -> RemoteError {
    RemoteError::new(format!(
        "unknown groupId {group}: this node is not a member, or has not heard of it yet"
    ))
}

/// `private.publish(content, [recps])`: seals for `recps`, or for those that the content names.
pub(super) async fn publish(request: Request) -> Result<Body, RemoteError> {
    let content =
        request.args.raw(0).ok_or_else(|| RemoteError::new("private.publish: expected a content"))?;
    let Some(recps) = request.args.at(1) else {
        return match seal(&request.ctx, content).await? {
            Sealed::Public => Err(refused(SealError::NoRecipients)),
            sealed @ (Sealed::Box1(_) | Sealed::Envelope(_)) => {
                publish::sealed(&request.ctx, content, sealed).await
            }
        };
    };
    let one = recps.as_str().map(|one| vec![one.to_owned()]);
    let recps: Option<Vec<String>> = one.or_else(|| serde_json::from_value(recps.clone()).ok());
    let recps = recps.ok_or_else(|| RemoteError::new("private.publish: expected a list of recipients"))?;
    let value = json::parse(content.as_bytes()).map_err(|e| RemoteError::new(format!("content is {e}")))?;
    let sealed = seal_for(&request.ctx, &value, &recps).await?;
    publish::sealed(&request.ctx, content, sealed).await
}

/// `private.unbox(ciphertext | message)`: the content, or the message with it; `false` if it is not for us, which
/// is how muxrpc writes JavaScript's `undefined`.
pub(super) async fn unbox(request: Request) -> Result<Body, RemoteError> {
    let nothing = || Body::json(&false);
    match request.args.at(0) {
        Some(serde_json::Value::String(ciphertext)) => {
            let opened = request.ctx.private.keyring().open_content(ciphertext);
            Ok(opened
                .map_or_else(nothing, |opened| Body::json_raw(opened.content_json().to_owned().into_bytes())))
        }
        Some(serde_json::Value::Object(message)) => {
            let id = message.get("key").and_then(|key| key.as_str()?.parse().ok());
            let opened = match id {
                Some(id) => {
                    let reader = request.ctx.reader.clone();
                    let stored = request.ctx.read(move || reader.get(&id)).await.map_err(failed)?;
                    stored.and_then(|stored| request.ctx.private.open_stored(&stored))
                }
                None => None,
            };
            let ciphertext = message.get("value").and_then(|value| value.get("content")?.as_str());
            let opened = opened.or_else(|| request.ctx.private.keyring().open_content(ciphertext?));
            Ok(opened
                .and_then(|opened| unboxed(message, &opened))
                .map_or_else(nothing, |json| Body::json(&json)))
        }
        _ => Ok(nothing()),
    }
}

/// A message as ssb-private gives it back.
fn unboxed(message: &Map<String, serde_json::Value>, opened: &Opened) -> Option<serde_json::Value> {
    let value = message.get("value")?;
    let content: Box<RawValue> = RawValue::from_string(opened.content_json().to_owned()).ok()?;
    let mut shown = Map::new();
    for name in ["previous", "author", "sequence", "timestamp", "hash"] {
        shown.insert(name.to_owned(), value.get(name).cloned().unwrap_or_default());
    }
    shown.insert("content".to_owned(), serde_json::from_str(content.get()).ok()?);
    shown.insert("private".to_owned(), true.into());
    Some(json!({ "key": message.get("key"), "value": shown, "timestamp": message.get("timestamp") }))
}

/// `private.read({gt, gte, lt, lte, limit, reverse, live, old, …})`: messages that we can read, in the order of
/// reception; ranges are times of reception.
pub(super) async fn read(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let has_query = request.args.options().value("query").is_some_and(|query| query != &json!([]));
    if has_query {
        return Err(RemoteError::new(
            "private.read: queries are not supported; use ranges, limit and reverse",
        ));
    }
    let mut options = StreamOptions::parse(request.args.options());
    (options.private, options.opening) = (true, true);
    let private = request.ctx.private.clone();
    if options.old {
        private.caught_up(&request.ctx.reader).await;
    }
    let old = move |reader: Reader, end: u64| {
        let range = options.range.offsets(&reader)?;
        let mut offsets = private.read_index().readable(range.start..range.end.min(end));
        if options.order() == Order::Descending {
            offsets.reverse();
        }
        Ok(offsets.into_iter().filter_map(move |offset| at(&reader, offset).transpose()))
    };
    let is_wanted =
        |new: &super::streams::Shown| new.opened.is_some() && options.range.contains(new.stored.received);
    old_then_live(&request, tx, options, old, is_wanted).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_recipients_is_what_javascript_takes_for_true() {
        for (json, truth) in [
            ("null", false),
            ("false", false),
            ("0", false),
            ("\"\"", false),
            ("[]", true),
            ("{}", true),
            ("\"@x\"", true),
            ("1", true),
            ("true", true),
        ] {
            assert_eq!(is_truthy(&json::parse(json.as_bytes()).unwrap()), truth, "{json}");
        }
    }

    #[test]
    fn a_member_is_replaced_in_its_place_or_added_behind() {
        let mut value = json::parse(br#"{"recps":"a","text":"b"}"#).unwrap();
        set(&mut value, "recps", json::parse(br#"["a"]"#).unwrap());
        set(&mut value, "tangles", json::parse(b"{}").unwrap());
        assert_eq!(value.to_compact(), br#"{"recps":["a"],"text":"b","tangles":{}}"#);
    }
}
