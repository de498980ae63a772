//! `gossip.*`: the table of peers as ssb-gossip 1.1 has it, for clients of ssb-server.

use hawsepipe_overlay::conn::StreamTx;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;

use super::Request;
use super::peers::{address, dialable, key, tell};
use crate::engine::Ask;

/// `gossip.peers()`.
pub(super) async fn peers(request: Request) -> Result<Body, RemoteError> {
    tell(&request, Ask::Gossip(None)).await
}

/// `gossip.get(peer)`: null if it is not known.
pub(super) async fn get(request: Request) -> Result<Body, RemoteError> {
    let named = request.args.at(0).cloned().unwrap_or_default();
    let key = key(Some(&named)).map_err(|_| RemoteError::new(format!("must provide id:{named}")))?;
    tell(&request, Ask::Gossip(Some(key))).await
}

/// `gossip.add(address, source)`: answers with the peer.
pub(super) async fn add(request: Request) -> Result<Body, RemoteError> {
    let given = request.args.at(0).cloned().unwrap_or_default();
    let address = address(Some(&given)).ok().filter(|address| address.key.is_some()).ok_or_else(|| {
        let shown = given.as_str().map_or_else(|| given.to_string(), str::to_owned);
        RemoteError::new(format!("not a valid address:{shown}"))
    })?;
    if address.key == Some(request.ctx.own_key) {
        return Ok(Body::json(&Value::Null));
    }
    let source = request.args.text(1).unwrap_or("manual");
    // What a message or a beacon told of is known, and dialled only if the graph says so.
    let dial = !matches!(source, "pub" | "local" | "stored");
    tell(&request, Ask::GossipAdd(address, dial, source.to_owned())).await
}

/// `gossip.remove(peer)`.
pub(super) async fn remove(request: Request) -> Result<Body, RemoteError> {
    tell(&request, Ask::GossipRemove(key(request.args.at(0))?)).await
}

/// `gossip.connect(peer)`: an address, or the id of a peer whose address is known.
pub(super) async fn connect(request: Request) -> Result<Body, RemoteError> {
    let Some(named) = request.args.at(0) else {
        return Err(RemoteError::new("ssb-gossip.connect: address, or peer id must be provided"));
    };
    let is_id = |text: &str| text.parse::<hawsepipe_replication::refs::FeedId>().is_ok();
    let address = match named.as_str().filter(|text| is_id(text)) {
        Some(id) => {
            let known = request.ctx.engine.conn(Ask::Gossip(Some(key(Some(named))?))).await?;
            dialable(known.get("address"))
                .map_err(|_| RemoteError::new(format!("no known address for peer:{id}")))?
        }
        None => dialable(Some(named)).map_err(|_| RemoteError::new("first param must be an address"))?,
    };
    request.ctx.engine.connect(address).await?;
    Ok(Body::json(&true))
}

/// `gossip.changes()`: what becomes of peers, `{type, peer}` each.
pub(super) async fn changes(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let mut changes = request.ctx.engine.changes();
    loop {
        match changes.recv().await {
            Ok(change) => {
                if tx.send(Body::json(&*change)).await.is_err() {
                    return Ok(());
                }
            }
            // A client that is too slow misses some.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

/// `gossip.reconnect()`: closes all sessions with peers; answers with the time.
pub(super) async fn reconnect(request: Request) -> Result<Body, RemoteError> {
    tell(&request, Ask::Reconnect).await
}

/// `gossip.enable(type)`, until the next start.
pub(super) async fn enable(request: Request) -> Result<Body, RemoteError> {
    switch(&request, true).await
}

/// `gossip.disable(type)`, until the next start.
pub(super) async fn disable(request: Request) -> Result<Body, RemoteError> {
    switch(&request, false).await
}

async fn switch(request: &Request, on: bool) -> Result<Body, RemoteError> {
    let kind = request.args.text(0).unwrap_or("global");
    let ask = match kind {
        "global" => Ask::Run(on),
        "local" => Ask::LanStrangers(on),
        _ => return Err(RemoteError::new(format!("no gossip type {kind}: expected global or local"))),
    };
    request.ctx.engine.conn(ask).await?;
    let done = if on { "enabled" } else { "disabled" };
    Ok(Body::json(&format!("{done} gossip type {kind}")))
}
