//! What of a message can be searched for: the words of its `text`, and the names that its mentions give to blobs.

use hawsepipe_replication::message::is_reference;
use hawsepipe_replication::refs::MessageId;
use serde_json::Value;

use super::words::words;
use crate::api::relations;

/// Before a word of a blob's name, so that it is none of a text: a character of private use.
pub(super) const NAME_MARK: char = '\u{e000}';

/// Shortest name of a blob by which it is found, as in ssb-meme.
const MIN_NAME: usize = 3;

/// A message as the index takes it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    /// The first eight bytes of its id.
    pub(super) id: u64,
    /// When it was written, as its author says.
    pub(super) time: f64,
    /// All words, with spaces between them.
    pub(super) words: String,
    /// The first eight bytes of each message that it names, as often as it does so.
    pub(super) links: Vec<u64>,
}

impl Document {
    /// What is to be found of a content; nothing if there is no word in it.
    pub(crate) fn new(id: &MessageId, time: f64, content: &str) -> Option<Self> {
        // Most messages are votes and contacts, which have neither.
        if !content.contains("\"text\":") && !content.contains("\"mentions\":") {
            return None;
        }
        let content: Value = serde_json::from_str(content).ok()?;
        let mut found = words(content.get("text").and_then(Value::as_str).unwrap_or_default());
        for (_, name) in blob_names(&content) {
            found.extend(name_words(name).into_iter().map(|word| format!("{NAME_MARK}{word}")));
        }
        if found.is_empty() {
            return None;
        }
        found.sort_unstable();
        found.dedup();
        let links = relations(&content).into_iter().filter_map(|(_, dest)| dest.parse().ok());
        let links = links.map(|dest: MessageId| short(&dest)).collect();
        Some(Self { id: short(id), time, words: found.join(" "), links })
    }
}

/// Eight bytes that stand for an id.
pub(super) fn short(id: &MessageId) -> u64 {
    let (first, _) = id.as_bytes().split_at(8);
    first.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The blobs that a content's mentions name: each with its name.
pub(crate) fn blob_names(content: &Value) -> Vec<(&str, &str)> {
    let mentions = match content.get("mentions") {
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    let is_blob = |(link, name): &(&str, &str)| {
        link.starts_with('&') && is_reference(link) && name.encode_utf16().count() >= MIN_NAME
    };
    mentions.iter().filter_map(named).filter(is_blob).collect()
}

fn named(mention: &Value) -> Option<(&str, &str)> {
    mention.get("link")?.as_str().zip(mention.get("name")?.as_str())
}

/// A blob's name as words, without what tells that it is an image.
fn name_words(name: &str) -> Vec<String> {
    const IMAGES: [&str; 6] = ["jpg", "jpeg", "png", "gif", "bmp", "svg"];
    let stem = match name.rsplit_once('.') {
        Some((stem, kind)) if IMAGES.iter().any(|image| kind.eq_ignore_ascii_case(image)) => stem,
        Some(_) | None => name,
    };
    words(stem)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: MessageId = MessageId::from_bytes([7; 32]);
    const BLOB: &str = "&47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=.sha256";
    const MESSAGE: &str = "%7qizFH9dHuG2wMUg8CAP/1Olg2exISVkjJpvlCYATu4=.sha256";

    fn document(content: Value) -> Option<Document> {
        Document::new(&ID, 1.0, &content.to_string())
    }

    #[test]
    fn words_names_of_blobs_and_links_are_taken() {
        let content = json!({
            "type": "post", "text": "the ship, the Sea", "root": MESSAGE, "branch": [MESSAGE],
            "mentions": [{ "link": BLOB, "name": "happy-cat.JPG" }, { "link": MESSAGE, "name": "none" }, { "link": BLOB }],
        });
        let found = document(content).unwrap();
        assert_eq!(found.words, format!("sea ship the {NAME_MARK}cat {NAME_MARK}happy"));
        assert_eq!((found.id, found.links.len()), (0x0707_0707_0707_0707, 3));
        assert!(found.links.iter().all(|link| *link == short(&MESSAGE.parse().unwrap())));
    }

    #[test]
    fn what_has_no_words_is_no_document() {
        for content in [
            json!({ "type": "vote", "vote": { "link": MESSAGE } }),
            json!({ "type": "post", "text": "…" }),
            json!({ "type": "post", "text": ["a"], "mentions": null }),
            json!({ "type": "post", "mentions": [{ "link": BLOB, "name": "ab" }, 1, null] }),
        ] {
            assert_eq!(document(content), None);
        }
        assert_eq!(Document::new(&ID, 1.0, "\"AAAA.box\""), None);
        assert_eq!(Document::new(&ID, 1.0, "{\"text\":"), None);
    }

    #[test]
    fn one_mention_may_stand_without_a_list() {
        let content = json!({ "mentions": { "link": BLOB, "name": "dog" } });
        assert_eq!(blob_names(&content), [(BLOB, "dog")]);
    }
}
