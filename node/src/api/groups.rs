//! `tribes2.*`: private groups (ssb-tribes2), with classic feeds as members.
//!
//! Messages are those of ssb-tribes: `group/init`, and `group/add-member` version 1. Of ssb-tribes2, whose members are
//! metafeeds, what it writes is read. Keys are given in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hawsepipe_overlay::conn::StreamTx;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::private::envelope::{self, SlotKey};
use hawsepipe_replication::private::{EnvelopeDraft, Group, Invitation, groups};
use hawsepipe_replication::refs::{FeedId, GroupId};
use serde_json::{Value, json};

use super::private::{Sealed, seal, unknown};
use super::streams::failed;
use super::{Request, publish};
use crate::context::Context;

/// Members that can be added at once: an envelope has room for the group and so many.
const MAX_ADDED: usize = envelope::MAX_RECIPIENTS - 1;

/// Messages of a group that are searched for its members.
const MEMBERS_DEPTH: usize = 100_000;

/// `tribes2.create()`: begins a group with ourselves as its only member.
pub(super) async fn create(request: Request) -> Result<Body, RemoteError> {
    let ctx = &request.ctx;
    let key = SlotKey::fresh_group().map_err(|e| RemoteError::new(e.to_string()))?;
    let content = json!({ "type": groups::INIT, "tangles": { "group": { "root": null, "previous": null } } });
    // Ourselves too: the group's key is in no message yet.
    let recipients = vec![key.clone(), ctx.private.keyring().own_slot().clone()];
    let draft = EnvelopeDraft { plaintext: content.to_string().into_bytes(), recipients };
    let stored = ctx.store.publish_envelope(draft).await.map_err(|e| RemoteError::new(e.to_string()))?;
    let id =
        groups::group_of(&stored.message, &key).ok_or_else(|| RemoteError::new("the group has no id"))?;
    let group = Group { root: stored.message.id(), keys: vec![key] };
    let (private, reader, joined) = (ctx.private.clone(), ctx.reader.clone(), group.clone());
    let done = ctx.read(move || private.join(&reader, id, &joined)).await;
    done.map_err(|e| RemoteError::new(e.to_string()))?;
    // So that the key comes back with the feed after a loss.
    add(ctx, &id, &[ctx.own], None).await?;
    Ok(Body::json(&describe(&id, &group)))
}

/// `tribes2.addMembers(group, [feeds], {text})`: gives the group's key to feeds.
pub(super) async fn add_members(request: Request) -> Result<Body, RemoteError> {
    let id = group_id(&request, 0)?;
    let feeds = request.args.at(1).and_then(Value::as_array).filter(|feeds| !feeds.is_empty());
    let feeds = feeds.ok_or_else(|| RemoteError::new("No feedIds provided to addMembers"))?;
    if feeds.len() > MAX_ADDED {
        let count = feeds.len();
        return Err(RemoteError::new(format!("Tried to add {count} members, the max is {MAX_ADDED}")));
    }
    let feeds: Option<Vec<FeedId>> = feeds.iter().map(|feed| feed.as_str()?.parse().ok()).collect();
    let feeds = feeds.ok_or_else(|| RemoteError::new("addMembers only supports classic feed IDs"))?;
    let text = request.args.at(2).and_then(|options| options.get("text")?.as_str());
    let added = add(&request.ctx, &id, &feeds, text).await?;
    let list = [b"[".as_slice(), &added.bytes, b"]"].concat();
    Ok(Body::json_raw(list))
}

async fn add(ctx: &Context, id: &GroupId, feeds: &[FeedId], text: Option<&str>) -> Result<Body, RemoteError> {
    let group = ctx.private.keyring().group(id).cloned().ok_or_else(|| unknown(id))?;
    let key = group.write_key().ok_or_else(|| unknown(id))?;
    let recps: Vec<_> =
        std::iter::once(id.to_string()).chain(feeds.iter().map(ToString::to_string)).collect();
    let mut content = json!({
        "type": groups::ADD_MEMBER, "version": "v1", "groupKey": STANDARD.encode(key.to_bytes()), "root": group.root,
        "recps": recps,
    });
    if let Some(text) = text {
        content["text"] = text.into();
    }
    let content = content.to_string();
    let sealed = seal(ctx, &content).await?;
    publish::sealed(ctx, &content, sealed).await
}

/// `tribes2.publish(content)`: as `publish`, but only to a group.
pub(super) async fn publish(request: Request) -> Result<Body, RemoteError> {
    let content = request.args.raw(0).ok_or_else(|| RemoteError::new("Missing content"))?;
    match seal(&request.ctx, content).await? {
        Sealed::Envelope(draft) => publish::sealed(&request.ctx, content, Sealed::Envelope(draft)).await,
        Sealed::Public | Sealed::Box1(_) => Err(RemoteError::new("Missing recps: the first must be a group")),
    }
}

/// `tribes2.get(group)`: what we know of a group.
pub(super) async fn get(request: Request) -> Result<Body, RemoteError> {
    let id = group_id(&request, 0)?;
    let keyring = request.ctx.private.keyring();
    let group = keyring.group(&id);
    let group = group.ok_or_else(|| RemoteError::new(format!("Couldn't find group with id {id}")))?;
    Ok(Body::json(&describe(&id, group)))
}

/// `tribes2.list()`: the groups that we are a member of.
pub(super) async fn list(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let groups: Vec<_> =
        request.ctx.private.keyring().groups().map(|(id, group)| describe(id, group)).collect();
    for group in groups {
        if tx.send(Body::json(&group)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// `tribes2.listMembers(group)`: everybody who was added, and who began it.
pub(super) async fn list_members(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let id = group_id(&request, 0)?;
    let ctx = &request.ctx;
    let root = ctx.private.keyring().group(&id).map(|group| group.root).ok_or_else(|| unknown(&id))?;
    ctx.private.caught_up(&ctx.reader).await;
    let (private, reader) = (ctx.private.clone(), ctx.reader.clone());
    let found = ctx.read(move || {
        let began = reader.get(&root)?.map(|stored| stored.message.author());
        let said = private.of_group(&reader, &id, Some(groups::ADD_MEMBER), MEMBERS_DEPTH)?;
        let added = said.iter().rev().filter_map(|(_, opened)| Invitation::read(opened.content_json()));
        let mut members: Vec<FeedId> = began.into_iter().collect();
        for member in added.flat_map(|invitation| invitation.members) {
            if !members.contains(&member) {
                members.push(member);
            }
        }
        Ok(members)
    });
    let members = found.await.map_err(failed)?;
    // An error means that the caller is gone.
    let _ = tx.send(Body::json(&json!({ "added": members, "toExclude": [] }))).await;
    Ok(())
}

fn group_id(request: &Request, i: usize) -> Result<GroupId, RemoteError> {
    let text = request.args.text(i).ok_or_else(|| RemoteError::new("Group id required"))?;
    GroupId::from_any(text).ok_or_else(|| RemoteError::new(format!("not a group id: {text}")))
}

fn describe(id: &GroupId, group: &Group) -> Value {
    let key =
        |key: &SlotKey| json!({ "key": STANDARD.encode(key.to_bytes()), "scheme": key.scheme().name() });
    let keys: Vec<_> = group.keys.iter().map(key).collect();
    json!({ "id": id, "root": group.root, "writeKey": group.write_key().map(key), "readKeys": keys, "excluded": false })
}
