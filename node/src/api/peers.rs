//! `conn.*`: connecting by hand and seeing whom we know (ssb-conn 6).

use hawsepipe_overlay::address::{Address, Addresses};
use hawsepipe_overlay::conn::StreamTx;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use serde_json::Value;

use super::Request;

/// `conn.connect(address)`: answers once the session stands.
pub(super) async fn connect(request: Request) -> Result<Body, RemoteError> {
    let address = address(&request)?;
    request.ctx.engine.connect(address).await?;
    Ok(Body::json(&true))
}

/// `conn.disconnect(address)`: closes all sessions with that peer, and no longer dials it by wish.
pub(super) async fn disconnect(request: Request) -> Result<Body, RemoteError> {
    let key = match request.args.text(0).and_then(|text| text.parse().ok()) {
        Some(key) => key,
        None => address(&request)?.key.ok_or_else(|| RemoteError::new("the address has no key"))?,
    };
    let closed = request.ctx.engine.disconnect(key).await?;
    Ok(Body::json(&closed))
}

fn address(request: &Request) -> Result<Address, RemoteError> {
    let value = request.args.at(0).ok_or_else(|| RemoteError::new("expected an address"))?;
    let text = match value {
        Value::String(text) => text.clone(),
        // The legacy form: {host, port, key}.
        Value::Object(parts) => {
            let part =
                |name: &str| parts.get(name).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
            let (host, port, key) = (part("host"), part("port"), part("key"));
            format!("{}:{}:{}", host.unwrap_or_default(), port.unwrap_or_default(), key.unwrap_or_default())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => String::new(),
    };
    let addresses: Addresses =
        text.parse().map_err(|e| RemoteError::new(format!("not an address: {text}: {e}")))?;
    let first = addresses.dialable().next().cloned();
    first.ok_or_else(|| {
        RemoteError::new(format!("no way to dial {text}: expected net:…~shs:KEY or libp2p:…~shs:KEY"))
    })
}

/// `conn.peers()`: the whole list as `[address, data]` pairs, again whenever it changes.
pub(super) async fn peers(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let mut peers = request.ctx.engine.peers();
    loop {
        let list = peers.borrow_and_update().clone();
        if tx.send(Body::json(&*list)).await.is_err() || peers.changed().await.is_err() {
            return Ok(());
        }
    }
}
