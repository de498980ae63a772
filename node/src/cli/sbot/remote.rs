//! A session over the network with one's own node or another's, as ssb-client opens it: with the key in the data folder,
//! to `host` and `port`, expecting `key` or one's own.

use std::path::Path;
use std::sync::Arc;

use hawsepipe_overlay::conn::{self, Carrier, Connection, Direction, Gate, LinkInfo, Local, Refused};
use hawsepipe_overlay::keys::PublicKey;
use serde_json::Value;
use tokio::net::TcpStream;

use super::super::client::Failure;
use crate::config::Config;
use crate::identity;

/// Nobody calls us here who was not called.
struct Anyone;

impl Gate for Anyone {
    fn admit(&self, _: PublicKey, _: &LinkInfo) -> Result<(), Refused> {
        Ok(())
    }
}

/// Dials whom the configuration names.
pub(super) async fn dial(path: &Path, raw: &Value) -> Result<Connection, Failure> {
    let config = Config::from_value(path.to_owned(), &without_listening(raw));
    let config = config.map_err(|faults| Failure::Usage(faults.to_string()))?;
    let host = raw.get("host").and_then(Value::as_str).filter(|host| !host.is_empty()).unwrap_or("localhost");
    let port = raw.get("port").and_then(Value::as_u64).unwrap_or(crate::config::DEFAULT_PORT.into());
    let failed = |why: String| Failure::NotRunning(format!("{host}:{port} ({why})"));
    let secret = identity::read_secret(path).map_err(|error| Failure::Usage(error.to_string()))?;
    let secret = secret.ok_or_else(|| failed(format!("{} has neither socket nor secret", path.display())))?;
    let expected = match raw.get("key").and_then(Value::as_str) {
        Some(key) => key.parse().map_err(|error| Failure::Usage(format!("key: {error}")))?,
        None => identity::public_key(&secret),
    };
    let local = Local {
        keypair: Arc::new(secret),
        network: config.network,
        gate: Arc::new(Anyone),
        handshake_timeout: config.handshake_timeout,
    };
    let stream =
        TcpStream::connect(format!("{host}:{port}")).await.map_err(|error| failed(error.to_string()))?;
    // It works without as well, only later.
    let _ = stream.set_nodelay(true);
    let remote = format!("net:{host}:{port}");
    let info =
        LinkInfo { direction: Direction::Outbound, carrier: Carrier::Net, remote, path: None, mobile: None };
    conn::connect(stream, info, &local, expected).await.map_err(|error| failed(error.to_string()))
}

/// Where a server would listen is where a client dials, and may be a name.
fn without_listening(raw: &Value) -> Value {
    let keys =
        raw.as_object().into_iter().flatten().filter(|(key, _)| !matches!(key.as_str(), "host" | "port"));
    Value::Object(keys.map(|(key, value)| (key.clone(), value.clone())).collect())
}
