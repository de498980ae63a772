//! `multiserver.parse`: an address taken apart as multiserver 3 does, for the transports that ssb-server has.

use hawsepipe_overlay::address::DEFAULT_PORT;
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use serde_json::{Map, Value, json};

use super::Request;
use super::args::{missing, mistyped};

/// `multiserver.parse(address)`: of each alternative transport and transform, or `null` where one is not understood.
pub(super) async fn parse(request: Request) -> Result<Body, RemoteError> {
    let given = request.args.at(0).ok_or_else(|| missing(0))?;
    let text = given.as_str().ok_or_else(|| mistyped(0, "string", given))?;
    Ok(Body::json(&parsed(text)))
}

fn parsed(text: &str) -> Vec<Value> {
    text.split(';').map(|one| alternative(one).unwrap_or(Value::Null)).collect()
}

fn alternative(text: &str) -> Option<Value> {
    let (transport, transform) = text.split_once('~')?;
    let (name, data) = transport.split_once(':')?;
    let transport = match name {
        "net" | "onion" => {
            let (host, port) = data.rsplit_once(':').unwrap_or((data, ""));
            let port = if port.is_empty() { DEFAULT_PORT } else { port.parse().ok()? };
            json!({ "name": name, "host": host, "port": port })
        }
        "unix" => return (transform == "noauth").then(|| json!([{ "name": "", "path": data }, {}])),
        "ws" | "wss" => url(name, data.strip_prefix("//")?),
        _ => return None,
    };
    Some(json!([transport, shs(transform.strip_prefix("shs:")?)?]))
}

/// Key and, in an invite, seed.
fn shs(data: &str) -> Option<Value> {
    let bytes = |text: &str| {
        let key = PublicKey::from_base64(text).ok()?;
        Some(json!({ "type": "Buffer", "data": key.to_bytes().as_slice() }))
    };
    let (key, seed) = match data.split_once(':') {
        Some((key, seed)) => (key, Some(seed)),
        None => (data, None),
    };
    let mut parsed = Map::from_iter([("key".to_owned(), bytes(key)?)]);
    if let Some(seed) = seed {
        parsed.insert("seed".to_owned(), bytes(seed)?);
    }
    Some(Value::Object(parsed))
}

/// As node's older URL parser has it.
fn url(scheme: &str, rest: &str) -> Value {
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, Value::from(port)),
        _ => (host, Value::Null),
    };
    json!({
        "protocol": format!("{scheme}:"), "slashes": true, "auth": null, "host": host, "port": port, "hostname": name.trim_matches(['[', ']']),
        "hash": null, "search": null, "query": null, "pathname": path, "path": path, "href": format!("{scheme}://{host}{path}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=";

    /// What ssb-server 16 answers.
    #[test]
    fn addresses_are_taken_apart_as_by_multiserver() {
        let read = parsed(&format!(
            "net:127.0.0.1:8008~shs:{KEY};ws://localhost:8989~shs:{KEY};unix:/tmp/socket~noauth;nonsense"
        ));
        assert_eq!(read[0][0], json!({ "name": "net", "host": "127.0.0.1", "port": 8008 }));
        assert_eq!(read[0][1]["key"]["data"][0], 0x8a);
        assert_eq!(
            (&read[1][0]["href"], &read[1][0]["port"]),
            (&json!("ws://localhost:8989/"), &json!("8989"))
        );
        assert_eq!(read[2], json!([{ "name": "", "path": "/tmp/socket" }, {}]));
        assert_eq!(read[3], Value::Null);
    }

    #[test]
    fn what_is_not_understood_is_null() {
        for text in [
            "",
            "net:h:1",
            "net:h:x~shs:AAAA",
            "net:h:1~shs:AAAA",
            "unix:/x~shs:y",
            "libp2p:/ip4/x~shs:y",
            "ws:h~shs:y",
        ] {
            assert_eq!(parsed(text), [Value::Null], "{text}");
        }
        let invite = parsed(&format!("net:::1:8008~shs:{KEY}:{KEY}"));
        assert_eq!((&invite[0][0]["host"], invite[0][1]["seed"].is_object()), (&json!("::1"), true));
    }
}
