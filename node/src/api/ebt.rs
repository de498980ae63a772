//! `ebt.*` (ssb-ebt 5 and 9). The engine owns replication; here arguments are checked and handed on.

use hawsepipe_overlay::conn::Stream;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::refs::FeedId;
use serde_json::Value;

use super::{Args, Request, log};
use crate::engine::Wish;

/// Answers JS's dialers: version 3 of the classic format. go-ssb and ssb-ebt 5 name no format. Version 2 is
/// refused in the words of JS; nobody asks for it any more.
pub(super) async fn replicate(request: Request, stream: Stream) {
    let options = request.args.options();
    let version = options.number("version");
    let format = options.value("format").and_then(Value::as_str).unwrap_or("classic");
    let refusal = if version != Some(3.0) {
        Some(RemoteError::new("expected ebt.replicate({version: 3 or 2})"))
    } else if format != "classic" {
        Some(RemoteError::new(format!("expected ebt.replicate({{format: classic}}), found {format}")))
    } else if request.peer == request.ctx.own_key {
        Some(RemoteError::new("a node does not replicate with itself"))
    } else {
        None
    };
    match refusal {
        Some(error) => stream.tx.end(Some(error)).await,
        None => {
            if options.takes_shared_boxes() {
                stream.tx.share_boxes();
            }
            request.ctx.engine.replicate(request.session, stream).await;
        }
    }
}

/// `ebt.request(id, replicate)` or `({id, replicate})`; absent means yes. JS's answers to these say nothing either.
pub(super) async fn request(request: Request) -> Result<Body, RemoteError> {
    let feed = request.args.feed(0)?;
    let wish = if is_on(&request.args, 1, "replicate") { Wish::Replicate } else { Wish::Leave };
    request.ctx.engine.request(feed, wish).await?;
    Ok(Body::json(&Value::Null))
}

/// `ebt.forget(id)`.
pub(super) async fn forget(request: Request) -> Result<Body, RemoteError> {
    let feed = request.args.feed(0)?;
    request.ctx.engine.request(feed, Wish::Forget).await?;
    Ok(Body::json(&Value::Null))
}

/// `ebt.block(from, to, blocking)` or `({from, to, blocking})`.
pub(super) async fn block(request: Request) -> Result<Body, RemoteError> {
    let (from, to) = ends(&request.args)?;
    request.ctx.engine.block(from, to, is_on(&request.args, 2, "blocking")).await?;
    Ok(Body::json(&Value::Null))
}

/// `ebt.peerStatus(id)`: of our own feed if none is named.
pub(super) async fn peer_status(request: Request) -> Result<Body, RemoteError> {
    let feed = if request.args.at(0).is_some() { request.args.feed(0)? } else { request.ctx.own };
    Ok(Body::json(&request.ctx.engine.peer_status(feed).await?))
}

/// `ebt.clock({format})`: like `getVectorClock`, for one kind of feed. There is only the classic one.
pub(super) async fn clock(request: Request) -> Result<Body, RemoteError> {
    let format = request.args.options().text("format").unwrap_or("classic").to_owned();
    if format != "classic" {
        return Err(RemoteError::new(format!("Unknown format: {format}")));
    }
    log::vector_clock(request).await
}

fn ends(args: &Args) -> Result<(FeedId, FeedId), RemoteError> {
    let options = args.options();
    match options.value("from") {
        Some(_) => Ok((options.feed("from")?, options.feed("to")?)),
        None => Ok((args.feed(0)?, args.feed(1)?)),
    }
}

/// A truth value as the argument at `i` or as the option `name` of the first; yes unless something else is said.
fn is_on(args: &Args, i: usize, name: &str) -> bool {
    let said = args.options().value(name).or_else(|| args.at(i));
    said.and_then(Value::as_bool) != Some(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_are_read_in_both_forms_of_js() {
        let (a, b) = (FeedId::from_bytes([1; 32]), FeedId::from_bytes([2; 32]));
        let args = |args: Value| Args::from(args.as_array().unwrap().clone());
        for both in [args(json!([a, b, false])), args(json!([{"from": a, "to": b, "blocking": false}]))] {
            assert_eq!(ends(&both).unwrap(), (a, b));
            assert!(!is_on(&both, 2, "blocking"));
        }
        assert!(!is_on(&args(json!([{"id": a, "replicate": false}])), 1, "replicate"));
        assert!(is_on(&args(json!([a])), 1, "replicate"));
        assert!(is_on(&args(json!([a, null])), 1, "replicate"));
        assert!(ends(&args(json!([a]))).is_err());
    }
}
