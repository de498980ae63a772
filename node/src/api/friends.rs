//! `friends.*`: the social graph (ssb-friends 4 and 5).

use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::refs::FeedId;
use serde_json::{Map, Value};

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
    let state = request.args.at(1).and_then(|options| options.get("state")?.as_bool()).unwrap_or(true);
    // Keys in the order that JS clients write them.
    let content = format!(r#"{{"type":"contact","contact":"{feed}","{edge}":{state}}}"#);
    publish::content(&request.ctx, &content).await
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
