//! Writing: `publish` and `add`. Both are answered once the message is on disk.

use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Request;
use super::args::missing;
use super::private::{self, Sealed};
use crate::context::Context;

/// `publish(content)`: signs a message of our own feed; answers with key, value and timestamp.
pub(super) async fn publish(request: Request) -> Result<Body, RemoteError> {
    let value = request.args.raw(0).ok_or_else(|| missing(0))?;
    content(&request.ctx, value).await
}

/// Publishes `json`, sealed if it has `recps`, and answers as `publish` does.
pub(super) async fn content(ctx: &Context, json: &str) -> Result<Body, RemoteError> {
    let how = private::seal(ctx, json).await?;
    sealed(ctx, json, how).await
}

/// Publishes `json` in the way that was found for it.
pub(super) async fn sealed(ctx: &Context, json: &str, how: Sealed) -> Result<Body, RemoteError> {
    let stored = match how {
        Sealed::Public => ctx.store.publish(json.as_bytes().to_vec()).await,
        Sealed::Box1(content) => ctx.store.publish(content).await,
        Sealed::Envelope(draft) => ctx.store.publish_envelope(draft).await,
    };
    let stored = stored.map_err(|e| RemoteError::new(e.to_string()))?;
    Ok(Body::json_raw(stored.message.key_value_timestamp(stored.received)))
}

/// Clients hand back what `get` or a stream gave them: a bare value, or one with its key.
#[derive(Deserialize)]
struct WithKey<'a> {
    #[serde(rename = "key")]
    _key: String,
    #[serde(borrow)]
    value: &'a RawValue,
}

/// The signed value of what a client gives for a message.
pub(super) fn bare_value(raw: &str) -> &str {
    serde_json::from_str::<WithKey<'_>>(raw).map_or(raw, |with_key| with_key.value.get())
}

/// `add(message)`: validates a signed message of any feed against what we hold of it.
pub(super) async fn add(request: Request) -> Result<Body, RemoteError> {
    let raw = request.args.raw(0).ok_or_else(|| missing(0))?;
    let stored = request.ctx.store.add(bare_value(raw).as_bytes().to_vec()).await;
    let stored = stored.map_err(|e| RemoteError::new(e.to_string()))?;
    Ok(Body::json_raw(stored.message.key_value_timestamp(stored.received)))
}
