//! What methods answer, as types.

use hawsepipe_replication::refs::{FeedId, MessageId};
use serde::Deserialize;
use serde_json::Value;

/// A message as the node gives it to its owner: verified, and opened if it was sealed, the node can read it, and opening
/// was asked for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "Wire")]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// Whose it is.
    pub author: FeedId,
    /// Its place in its feed, from one.
    pub sequence: u64,
    /// The message before it in its feed.
    pub previous: Option<MessageId>,
    /// When it was made, in milliseconds since 1970, as its author says.
    pub timestamp: f64,
    /// When the node received it, where the method says that.
    pub received: Option<f64>,
    /// What it says; a text that ends in `.box` or `.box2` where it is sealed.
    pub content: Value,
    /// Whether it was sealed and is shown opened.
    pub is_private: bool,
}

impl Message {
    /// The type of the content; nothing if it is sealed.
    pub fn kind(&self) -> Option<&str> {
        self.content.get("type")?.as_str()
    }
}

#[derive(Deserialize)]
struct Wire {
    key: MessageId,
    value: WireValue,
    timestamp: Option<f64>,
}

#[derive(Deserialize)]
struct WireValue {
    previous: Option<MessageId>,
    author: FeedId,
    sequence: u64,
    timestamp: f64,
    content: Value,
    #[serde(default)]
    private: bool,
}

#[cfg(test)]
impl Message {
    /// One of feed 1 with an id of this byte.
    pub(crate) fn sample(id: u8, content: Value) -> Self {
        Self {
            id: MessageId::from_bytes([id; 32]),
            author: FeedId::from_bytes([1; 32]),
            sequence: 1,
            previous: None,
            timestamp: 0.0,
            received: None,
            content,
            is_private: false,
        }
    }
}

impl From<Wire> for Message {
    fn from(Wire { key, value, timestamp }: Wire) -> Self {
        let WireValue { previous, author, sequence, timestamp: claimed, content, private } = value;
        let (received, is_private) = (timestamp, private);
        Self { id: key, author, sequence, previous, timestamp: claimed, received, content, is_private }
    }
}

/// That a message names something.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Link {
    /// Whose message it is.
    pub source: FeedId,
    /// As what it names it: the name of the member of the content.
    pub rel: String,
    /// What it names.
    pub dest: String,
    /// The message.
    pub key: MessageId,
}

/// A peer that the node knows, or one of several addresses of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "(String, WirePeer)")]
pub struct Peer {
    /// Where it is.
    pub address: String,
    /// Who it is.
    pub id: FeedId,
    /// `connected`, `connecting` or `disconnected`.
    pub state: String,
    /// How far from the node in the social graph; `None` is a stranger, negative is blocked.
    pub hops: Option<i64>,
    /// What carries the session, if there is one.
    pub carrier: Option<String>,
    /// `in` or `out`, if there is a session.
    pub direction: Option<String>,
}

impl Peer {
    /// Whether there is a session with it.
    pub fn is_connected(&self) -> bool {
        self.state == "connected"
    }
}

#[derive(Deserialize)]
struct WirePeer {
    key: FeedId,
    state: String,
    hops: Option<i64>,
    carrier: Option<String>,
    direction: Option<String>,
}

impl From<(String, WirePeer)> for Peer {
    fn from((address, data): (String, WirePeer)) -> Self {
        let WirePeer { key, state, hops, carrier, direction } = data;
        Self { address, id: key, state, hops, carrier, direction }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FEED: &str = "@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=.ed25519";
    const MESSAGE: &str = "%7qizFH9dHuG2wMUg8CAP/1Olg2exISVkjJpvlCYATu4=.sha256";

    #[test]
    fn messages_are_read_in_every_form_that_nodes_give_them() {
        let value = json!({
            "previous": null, "sequence": 1, "author": FEED, "timestamp": 1.5, "hash": "sha256",
            "content": { "type": "post" }, "signature": "x",
        });
        let read = |message: Value| serde_json::from_value::<Message>(message).unwrap();
        let plain = read(json!({ "key": MESSAGE, "value": value, "timestamp": 2.5 }));
        assert_eq!((plain.sequence, plain.previous, plain.received), (1, None, Some(2.5)));
        assert_eq!((plain.kind(), plain.is_private), (Some("post"), false));
        let mut opened = value.clone();
        opened["private"] = true.into();
        let opened = read(json!({ "key": MESSAGE, "value": opened }));
        assert_eq!((opened.is_private, opened.received), (true, None));
        let mut sealed = value;
        sealed["content"] = "AAAA.box".into();
        assert_eq!(read(json!({ "key": MESSAGE, "value": sealed })).kind(), None);
    }

    #[test]
    fn peers_are_read_from_pairs_of_address_and_data() {
        let data = json!({ "key": FEED, "state": "connected", "hops": -1, "carrier": "net", "failure": 0 });
        let peer: Peer = serde_json::from_value(json!(["net:192.0.2.1:8008", data])).unwrap();
        assert!(peer.is_connected());
        assert_eq!((peer.hops, peer.carrier.as_deref()), (Some(-1), Some("net")));
    }
}
