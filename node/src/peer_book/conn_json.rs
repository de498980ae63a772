//! `conn.json`, the address book in the form of JS's ssb-conn-db: an object from multiserver address to
//! what is known of it. Addresses of the local network are not kept: they are announced again.
//!
//! A transport identity is an entry of its own, `libp2p:/p2p/ID~shs:KEY`, which leads nowhere and which
//! nobody dials.

use hawsepipe_overlay::address::{Address, Endpoint};
use hawsepipe_overlay::conn::TransportId;
use hawsepipe_overlay::keys::PublicKey;
use serde_json::{Map, Value, json};

use super::PeerBook;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Whom it is about.
    pub key: PublicKey,
    /// Where to dial it.
    pub endpoint: Option<Endpoint>,
    /// Whether it is to be dialled.
    pub autoconnect: bool,
    /// Its transport identity.
    pub transport: Option<TransportId>,
}

/// The file's text.
pub fn encode(book: &PeerBook) -> String {
    let mut entries = Map::new();
    for (key, peer) in book.iter() {
        for path in peer.paths.iter().filter(|path| path.is_kept()) {
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
    for (key, id) in book.transports().iter() {
        let address = Address::new(Endpoint::Libp2p(format!("{PEER}{id}")), key);
        let entry =
            json!({ "key": key, "source": "stored", "autoconnect": false, "transport": id.to_string() });
        entries.insert(address.to_string(), entry);
    }
    // An object of JSON values always prints.
    serde_json::to_string_pretty(&Value::Object(entries)).unwrap_or_default()
}

/// The peers of a file's text; entries that we cannot dial are left out.
pub fn decode(text: &str) -> Result<Vec<Known>, serde_json::Error> {
    let entries: Map<String, Value> = serde_json::from_str(text)?;
    let parsed = entries.iter().filter_map(|(address, entry)| {
        let address: Address = address.parse().ok()?;
        let key = address.key.or_else(|| entry.get("key")?.as_str()?.parse().ok())?;
        // ssb-conn: an absent `autoconnect` means yes.
        let autoconnect = entry.get("autoconnect").and_then(Value::as_bool).unwrap_or(true);
        let transport = entry.get("transport").and_then(Value::as_str).and_then(TransportId::parse);
        let leads_nowhere = matches!(&address.endpoint, Endpoint::Libp2p(at) if at.starts_with(PEER));
        let endpoint = Some(address.endpoint).filter(|_| !leads_nowhere);
        Some(Known { key, endpoint, autoconnect, transport })
    });
    Ok(parsed.collect())
}

/// How a multiaddr begins that names a peer and no place.
const PEER: &str = "/p2p/";

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_transport_identity_survives_without_any_address() {
        #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
        let now = Instant::now();
        let key = PublicKey::from_bytes([7; 32]);
        let id = TransportId::parse("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN");
        let mut book = PeerBook::default();
        book.remember_transport(key, id.clone().unwrap(), now);
        let known = decode(&encode(&book)).unwrap();
        assert_eq!(known, [Known { key, endpoint: None, autoconnect: false, transport: id }]);
    }
}
