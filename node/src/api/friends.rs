//! `friends.*`: the social graph (ssb-friends 4 and 5).

use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::refs::FeedId;
use serde_json::{Map, Value, json};

use super::{Request, publish};

/// `friends.follow(id, {state})`: publishes a contact message.
pub(super) async fn follow(request: Request) -> Result<Body, RemoteError> {
    let feed = request.args.feed(0)?;
    publish_contact(&request, feed, "following").await
}

/// `friends.block(id, {state})`: publishes a contact message.
pub(super) async fn block(request: Request) -> Result<Body, RemoteError> {
    let feed = request.args.feed(0)?;
    if feed == request.ctx.own {
        return Err(RemoteError::new("cannot block oneself"));
    }
    publish_contact(&request, feed, "blocking").await
}

async fn publish_contact(request: &Request, feed: FeedId, edge: &str) -> Result<Body, RemoteError> {
    let content = contact(&feed, edge, request.args.at(1));
    publish::content(&request.ctx, &content.to_string()).await
}

/// The content, its keys in the order of ssb-friends. With `recps` it would be private: `publish` decides.
fn contact(feed: &FeedId, edge: &str, options: Option<&Value>) -> Value {
    let option = |name: &str| options.and_then(|options| options.get(name)).filter(|v| !v.is_null());
    let state = option("state").and_then(Value::as_bool).unwrap_or(true);
    let mut content = json!({ "type": "contact", "contact": feed, edge: state });
    if let Some(reason) = option("reason").filter(|reason| reason.is_string() && edge == "blocking") {
        content["reason"] = reason.clone();
    }
    if let Some(recps) = option("recps") {
        content["recps"] = recps.clone();
    }
    content
}

/// `friends.isFollowing({source, dest})`.
pub(super) async fn is_following(request: Request) -> Result<Body, RemoteError> {
    let (source, dest) = ends(&request)?;
    Ok(Body::json(&request.ctx.graph().is_following(&source, &dest)))
}

/// `friends.isBlocking({source, dest})`.
pub(super) async fn is_blocking(request: Request) -> Result<Body, RemoteError> {
    let (source, dest) = ends(&request)?;
    Ok(Body::json(&request.ctx.graph().is_blocking(&source, &dest)))
}

fn ends(request: &Request) -> Result<(FeedId, FeedId), RemoteError> {
    let options = request.args.options();
    Ok((options.feed("source")?, options.feed("dest")?))
}

/// `friends.hops({start, max})`: an object from feed to distance; negative is blocked.
pub(super) async fn hops(request: Request) -> Result<Body, RemoteError> {
    let options = request.args.options();
    let start = match options.value("start") {
        Some(_) => options.feed("start")?,
        None => request.ctx.own,
    };
    let max = options.number("max").map_or(request.ctx.config.hops, |max| max.max(0.0) as u32);
    let hops = request.ctx.graph().hops(&start, max);
    let entries = hops.into_iter().map(|(feed, hops)| (feed.to_string(), Value::from(hops)));
    Ok(Body::json(&Value::Object(entries.collect::<Map<_, _>>())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contacts_are_written_as_ssb_friends_writes_them() {
        let feed = FeedId::from_bytes([7; 32]);
        let text = |edge, options: Value| contact(&feed, edge, Some(&options)).to_string();
        let plain = format!(r#"{{"type":"contact","contact":"{feed}","following":true}}"#);
        assert_eq!(text("following", Value::Null), plain);
        assert_eq!(text("following", json!({"state": null, "reason": "x"})), plain);
        assert_eq!(
            text("blocking", json!({"reason": "spam", "state": true})),
            format!(r#"{{"type":"contact","contact":"{feed}","blocking":true,"reason":"spam"}}"#)
        );
        assert!(text("following", json!({"recps": ["@x"]})).contains(r#""recps":["@x"]"#));
    }
}
