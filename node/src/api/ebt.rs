//! `ebt.replicate`: checks the arguments and hands the stream to the engine, which owns replication.

use hawsepipe_overlay::conn::Stream;
use hawsepipe_overlay::muxrpc::RemoteError;
use serde_json::Value;

use super::Request;

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
        None => request.ctx.engine.replicate(request.session, stream).await,
    }
}
