//! Which blobs a message links to: in `mentions`, and as the `image` of an `about`.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde_json::Value;

use crate::message::{Content, Message};
use crate::refs::BlobId;

/// Links of one message that are looked at; the rest is passed over.
pub const MAX_LINKS: usize = 64;

/// A message's link to a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobLink {
    /// The blob.
    pub id: BlobId,
    /// Its size as the author says it, in bytes.
    pub size: Option<u64>,
    /// It is somebody's picture: the image of an `about`.
    pub is_portrait: bool,
}

/// How a blob's id begins. Made once: to make a finder costs more than to look through one message.
static BLOB: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\"&"));

/// The blobs that a message links to, each once. Private messages link to nothing here.
pub fn links_of(message: &Message) -> Vec<BlobLink> {
    let mut links = Vec::new();
    // Hardly any message has a blob's sigil at the beginning of a string, so hardly any is looked into.
    if BLOB.find(message.content_json().as_bytes()).is_none() {
        return links;
    }
    let content = message.content();
    let member = |name: &str| content.member(name).and_then(|raw| serde_json::from_str::<Value>(raw).ok());
    match member("mentions") {
        // Some programs write an object of links instead of a list.
        Some(Value::Array(mentions)) => mentions.iter().for_each(|one| add(&mut links, one, false)),
        Some(Value::Object(mentions)) => mentions.values().for_each(|one| add(&mut links, one, false)),
        _ => {}
    }
    if let Content::Object { kind, .. } = &content
        && kind == "about"
        && let Some(image) = member("image")
    {
        add(&mut links, &image, true);
    }
    links
}

/// Adds a link, which is the id, or an object with the id under `link` and the size beside it.
fn add(links: &mut Vec<BlobLink>, value: &Value, is_portrait: bool) {
    let text = value.as_str().or_else(|| value.get("link")?.as_str());
    // The key of an encrypted blob stands behind a question mark.
    let id = text.and_then(|text| text.split('?').next()?.parse().ok());
    let Some(id) = id.filter(|id| links.len() < MAX_LINKS && links.iter().all(|link| link.id != *id)) else {
        return;
    };
    let size = value.get("size").and_then(Value::as_u64);
    links.push(BlobLink { id, size, is_portrait });
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use ssb_crypto::Keypair;

    use super::*;
    use crate::message::sign;

    fn id(n: u8) -> BlobId {
        BlobId::from_bytes([n; 32])
    }

    fn links(content: &Value) -> Vec<(BlobId, Option<u64>, bool)> {
        let keypair = Keypair::from_seed(&[7; 32]).unwrap();
        let message = sign(&keypair, None, None, 1.0, content.to_string().as_bytes()).unwrap();
        links_of(&message).iter().map(|link| (link.id, link.size, link.is_portrait)).collect()
    }

    #[test]
    fn mentions_and_pictures_are_links_and_nothing_else_is() {
        let feed = "@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=.ed25519";
        let post = json!({"type": "post", "text": format!("\"{}", id(9)), "image": id(8), "mentions": [
            {"link": id(1), "name": "a.png", "size": 7, "type": "image/png"},
            {"link": format!("{}?unbox=AAAA.boxs", id(2))}, id(3), {"link": feed}, {"link": id(1)}, null, 7, "&",
        ]});
        assert_eq!(links(&post), [(id(1), Some(7), false), (id(2), None, false), (id(3), None, false)]);
        let keyed = json!({"type": "post", "mentions": {"0": {"link": id(4), "size": -1}}});
        assert_eq!(links(&keyed), [(id(4), None, false)]);
        for image in [json!(id(5)), json!({"link": id(5)})] {
            let about = json!({"type": "about", "about": feed, "image": image});
            assert_eq!(links(&about), [(id(5), None, true)]);
        }
        assert_eq!(links(&json!({"type": "post", "mentions": "&"})), []);
    }

    #[test]
    fn a_message_full_of_links_gives_so_many() {
        let mentions: Vec<_> = (0..100).map(|n| json!(id(n))).collect();
        assert_eq!(links(&json!({"type": "post", "mentions": mentions})).len(), MAX_LINKS);
    }
}
