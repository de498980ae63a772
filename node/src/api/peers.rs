//! `conn.*`: connecting by hand, the address book and whom we know (ssb-conn 6), and what the scheduler thinks of them.

use hawsepipe_overlay::address::{Address, Addresses};
use hawsepipe_overlay::conn::StreamTx;
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use serde_json::{Map, Value};

use super::Request;
use crate::engine::Ask;

/// `conn.connect(address, data)`: answers once the session stands.
pub(super) async fn connect(request: Request) -> Result<Body, RemoteError> {
    let address = dialable(request.args.at(0))?;
    request.ctx.engine.connect(address).await?;
    Ok(Body::json(&true))
}

/// `conn.disconnect(address)`: closes all sessions with that peer, and no longer dials it by wish.
pub(super) async fn disconnect(request: Request) -> Result<Body, RemoteError> {
    let key = key(request.args.at(0))?;
    let closed = request.ctx.engine.disconnect(key).await?;
    Ok(Body::json(&closed))
}

/// `conn.remember(address, data)`.
pub(super) async fn remember(request: Request) -> Result<Body, RemoteError> {
    let ask = Ask::Remember(address(request.args.at(0))?, data(&request)?);
    tell(&request, ask).await
}

/// `conn.forget(address)`.
pub(super) async fn forget(request: Request) -> Result<Body, RemoteError> {
    tell(&request, Ask::Forget(address(request.args.at(0))?)).await
}

/// `conn.stage(address, data)`: whether it was not staged before.
pub(super) async fn stage(request: Request) -> Result<Body, RemoteError> {
    let ask = Ask::Stage(dialable(request.args.at(0))?, data(&request)?);
    tell(&request, ask).await
}

/// `conn.unstage(address)`: whether it was staged.
pub(super) async fn unstage(request: Request) -> Result<Body, RemoteError> {
    tell(&request, Ask::Unstage(address(request.args.at(0))?)).await
}

/// `conn.dbPeers()`: what is remembered, as `[address, data]` pairs.
pub(super) async fn remembered(request: Request) -> Result<Body, RemoteError> {
    tell(&request, Ask::Kept).await
}

/// `conn.start()` and `connScheduler.start()`.
pub(super) async fn start(request: Request) -> Result<Body, RemoteError> {
    tell(&request, Ask::Run(true)).await
}

/// `conn.stop()` and `connScheduler.stop()`.
pub(super) async fn stop(request: Request) -> Result<Body, RemoteError> {
    tell(&request, Ask::Run(false)).await
}

/// `conn.why(peer)`: what the scheduler thinks of a peer, or of all.
pub(super) async fn why(request: Request) -> Result<Body, RemoteError> {
    let peer = request.args.at(0).map(|peer| key(Some(peer))).transpose()?;
    let answer = request.ctx.engine.conn(Ask::Why(peer)).await?;
    if peer.is_some() && answer["peers"].as_array().is_none_or(Vec::is_empty) {
        return Err(RemoteError::new("this node knows no address of that peer and has no session with it"));
    }
    Ok(Body::json(&answer))
}

/// `conn.peers()`: the list of connections as `[address, data]` pairs, again whenever it changes.
pub(super) async fn peers(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    list(&request, tx, || Ask::Connections).await
}

/// `conn.stagedPeers()`: the list of suggestions as `[address, data]` pairs, again whenever it changes.
pub(super) async fn staged(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    list(&request, tx, || Ask::Staged).await
}

async fn list(request: &Request, tx: &mut StreamTx, ask: fn() -> Ask) -> Result<(), RemoteError> {
    let mut changes = request.ctx.engine.peers();
    let mut shown = None;
    loop {
        changes.mark_unchanged();
        let list = request.ctx.engine.conn(ask()).await?;
        if shown.as_ref() != Some(&list) && tx.send(Body::json(&list)).await.is_err() {
            return Ok(());
        }
        shown = Some(list);
        if changes.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Has the engine do something, and answers what it says.
pub(super) async fn tell(request: &Request, ask: Ask) -> Result<Body, RemoteError> {
    Ok(Body::json(&request.ctx.engine.conn(ask).await?))
}

/// What is to be noted of an address.
fn data(request: &Request) -> Result<Map<String, Value>, RemoteError> {
    match request.args.at(1) {
        None => Ok(Map::new()),
        Some(Value::Object(data)) => Ok(data.clone()),
        Some(_) => Err(RemoteError::new("The given connection data should have been an object")),
    }
}

/// A peer: its id, or an address with its key.
pub(super) fn key(value: Option<&Value>) -> Result<PublicKey, RemoteError> {
    let id = value.and_then(|value| value.as_str().or_else(|| value.get("key")?.as_str()));
    match id.and_then(|text| text.parse().ok()) {
        Some(key) => Ok(key),
        None => {
            address(value)?.key.ok_or_else(|| RemoteError::new("the address has no key: expected …~shs:KEY"))
        }
    }
}

/// The first alternative of an address, whether it can be dialled or not.
pub(super) fn address(value: Option<&Value>) -> Result<Address, RemoteError> {
    let (text, addresses) = parsed(value)?;
    let first = addresses.dialable().next().or_else(|| addresses.0.first()).cloned();
    first.ok_or_else(|| RemoteError::new(format!("not an address: {text}")))
}

/// The first alternative of an address that can be dialled.
pub(super) fn dialable(value: Option<&Value>) -> Result<Address, RemoteError> {
    let (text, addresses) = parsed(value)?;
    let first = addresses.dialable().next().cloned();
    first.ok_or_else(|| {
        RemoteError::new(format!("no way to dial {text}: expected net:…~shs:KEY or libp2p:…~shs:KEY"))
    })
}

fn parsed(value: Option<&Value>) -> Result<(String, Addresses), RemoteError> {
    let value = value.ok_or_else(|| RemoteError::new("expected an address"))?;
    let part = |name: &str| value.get(name).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Object(parts) if parts.contains_key("address") => part("address").unwrap_or_default(),
        // The legacy form: {host, port, key}.
        Value::Object(_) => {
            let (host, port, key) = (part("host"), part("port"), part("key"));
            format!("{}:{}:{}", host.unwrap_or_default(), port.unwrap_or_default(), key.unwrap_or_default())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => String::new(),
    };
    let addresses = text.parse().map_err(|e| RemoteError::new(format!("not an address: {text}: {e}")))?;
    Ok((text, addresses))
}
