//! `conn.json`, the address book in the form of JS's ssb-conn-db: an object from multiserver address to
//! what is known of it. Addresses of the local network are not kept: they are announced again.

use hawsepipe_overlay::address::{Address, Endpoint};
use hawsepipe_overlay::keys::PublicKey;
use serde_json::{Map, Value, json};

use crate::scheduler::Class;

use super::PeerBook;

/// The file's text.
pub fn encode(book: &PeerBook) -> String {
    let mut entries = Map::new();
    for (key, peer) in book.iter() {
        let kept = peer.paths.iter().filter(|path| path.source.class() == Class::Direct);
        for path in kept {
            let address = Address { endpoint: path.state.endpoint.clone(), key: Some(key) };
            let entry = json!({
                "key": key,
                "type": "manual",
                "source": path.source.label(),
                "autoconnect": peer.asked_for,
                "failure": path.state.failures,
            });
            entries.insert(address.to_string(), entry);
        }
    }
    // An object of JSON values always prints.
    serde_json::to_string_pretty(&Value::Object(entries)).unwrap_or_default()
}

/// The peers of a file's text, with whether each is to be dialled; entries that we cannot dial are left out.
pub fn decode(text: &str) -> Result<Vec<(PublicKey, Endpoint, bool)>, serde_json::Error> {
    let entries: Map<String, Value> = serde_json::from_str(text)?;
    let parsed = entries.iter().filter_map(|(address, entry)| {
        let address: Address = address.parse().ok()?;
        let key = address.key.or_else(|| entry.get("key")?.as_str()?.parse().ok())?;
        // ssb-conn: an absent `autoconnect` means yes.
        let autoconnect = entry.get("autoconnect").and_then(Value::as_bool).unwrap_or(true);
        Some((key, address.endpoint, autoconnect))
    });
    Ok(parsed.collect())
}
