//! `names.*` (ssb-names 3): the methods of [`names`](crate::names).

use std::sync::Arc;

use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use serde_json::{Value, json};

use super::Request;
use super::query::body_of;
use super::streams::failed;
use crate::context::Context;
use crate::names::{Said, What, of_feed, to_json, with_prefix};

/// `names.get()`: `{author: {feed: name}}`.
pub(super) async fn get(request: Request) -> Result<Body, RemoteError> {
    all(&request, What::Names).await
}

/// `names.getImages()`: `{author: {feed: blob}}`.
pub(super) async fn images(request: Request) -> Result<Body, RemoteError> {
    all(&request, What::Images).await
}

/// `names.getSignifier(feed)`: what we would call it; its id if nobody calls it anything.
pub(super) async fn signifier(request: Request) -> Result<Body, RemoteError> {
    one(&request, What::Names).await
}

/// `names.getImageFor(feed)`: the blob that stands for it; its id if there is none, as in ssb-names.
pub(super) async fn image_for(request: Request) -> Result<Body, RemoteError> {
    one(&request, What::Images).await
}

/// `names.getSignifies(prefix)`: who is called something that begins so.
pub(super) async fn signifies(request: Request) -> Result<Body, RemoteError> {
    let prefix = request.args.text(0).map(str::to_owned);
    let prefix = prefix.ok_or_else(|| RemoteError::new("names.getSignifies: expected a name"))?;
    let found = look(&request, What::Names, move |ctx, said| {
        Value::Array(with_prefix(said, &ctx.graph(), &ctx.own, &prefix))
    });
    Ok(Body::json(&found.await?))
}

async fn all(request: &Request, what: What) -> Result<Body, RemoteError> {
    // As flumeview-reduce answers: with any option there is more around it.
    let options = request.args.at(0).and_then(Value::as_object).filter(|options| !options.is_empty());
    let is_bare = options.is_none_or(|options| options.get("meta") == Some(&Value::Bool(false)));
    let with_values = request.args.options().value("values") != Some(&Value::Bool(false));
    let seq = request.ctx.reader.bytes();
    let found = look(request, what, |ctx, said| to_json(said, &ctx.blocked())).await?;
    Ok(Body::json(&match (is_bare, with_values) {
        (_, false) => json!({ "seq": seq, "version": 2, "size": null }),
        (true, true) => found,
        (false, true) => json!({ "seq": seq, "version": 2, "value": found }),
    }))
}

async fn one(request: &Request, what: What) -> Result<Body, RemoteError> {
    let feed = request.args.feed(0)?;
    let found = look(request, what, move |ctx, said| of_feed(said, &ctx.graph(), &ctx.own, &feed));
    Ok(body_of(&found.await?))
}

async fn look(
    request: &Request,
    what: What,
    look: impl FnOnce(&Context, &Said) -> Value + Send + 'static,
) -> Result<Value, RemoteError> {
    let ctx = Arc::clone(&request.ctx);
    ctx.private.caught_up_if_near(&ctx.reader).await;
    let found = move || ctx.names.with(&ctx.reader, &ctx.private, what, |said| look(&ctx, said));
    request.ctx.read(found).await.map_err(failed)
}
