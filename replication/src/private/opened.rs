//! A private message that was opened, and the forms in which clients know it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::message::{Content, Message, json};
use crate::refs::GroupId;

/// How a content is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.box`
    Box1,
    /// `.box2`
    Envelope,
}

/// What a private message says to those who can read it.
#[derive(Clone, PartialEq, Eq)]
pub struct Opened {
    /// How it was sealed.
    pub format: Format,
    /// The group that it was published to; `None` if it was to feeds or to oneself.
    pub group: Option<GroupId>,
    content: String,
    key: Vec<u8>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened({:?})", self.format)
    }
}

impl Opened {
    /// What was inside, if it is JSON that JavaScript would take for a content: anything but what is false.
    pub(super) fn new(format: Format, group: Option<GroupId>, plaintext: &[u8], key: &[u8]) -> Option<Self> {
        let value = json::parse(plaintext).ok()?;
        let is_content = match &value {
            json::Value::Null | json::Value::Bool(false) => false,
            json::Value::String(text) => !text.is_empty(),
            json::Value::Number(number) => number.parse::<f64>() != Ok(0.0),
            json::Value::Bool(true)
            | json::Value::Infinity
            | json::Value::Array(_)
            | json::Value::Object(_) => true,
        };
        let content = String::from_utf8(value.to_compact()).ok()?;
        is_content.then(|| Self { format, group, content, key: key.to_vec() })
    }

    /// The content as compact canonical JSON.
    pub fn content_json(&self) -> &str {
        &self.content
    }

    /// What the content says.
    pub fn content(&self) -> Option<Content<'_>> {
        Content::from_canonical(&self.content)
    }

    /// The key that opens this one message, in base64.
    pub fn unbox_key(&self) -> String {
        STANDARD.encode(&self.key)
    }

    /// The message's value as ssb-db gives it to those who ask for private messages: the content opened, and behind
    /// everything else `meta`, `cyphertext`, `private` and `unbox`.
    pub fn value(&self, message: &Message) -> Vec<u8> {
        let (head, sealed, tail) = split(message);
        let key = self.unbox_key();
        let added = format!(
            r#","meta":{{"original":{{"content":{sealed}}},"private":true,"unbox":"{key}"}},"cyphertext":{sealed},"private":true,"unbox":"{key}"}}"#
        );
        let mut value = Vec::with_capacity(message.value_bytes().len() + self.content.len() + added.len());
        value.extend_from_slice(head);
        value.extend_from_slice(self.content.as_bytes());
        value.extend_from_slice(tail.strip_suffix(b"}").unwrap_or(tail));
        value.extend_from_slice(added.as_bytes());
        value
    }

    /// As [`Message::key_value_timestamp`], with [`Opened::value`].
    pub fn key_value_timestamp(&self, message: &Message, received: f64) -> Vec<u8> {
        let mut out = format!("{{\"key\":\"{}\",\"value\":", message.id()).into_bytes();
        out.extend_from_slice(&self.value(message));
        out.extend_from_slice(b",\"timestamp\":");
        json::write_number(received, &mut out);
        out.push(b'}');
        out
    }
}

/// A message's value before, in and behind its content.
fn split(message: &Message) -> (&[u8], &str, &[u8]) {
    let (value, content) = (message.value_bytes(), message.content_json());
    let range = message.content_range();
    (&value[..range.start], content, &value[range.end..])
}

/// How a message is sealed, and its ciphertext; `None` if it is not sealed in any way that we know.
pub(super) fn ciphertext(message: &Message) -> Option<(Format, Vec<u8>)> {
    let Content::Encrypted(text) = message.content() else { return None };
    decode(text)
}

/// As [`ciphertext`], of a content.
pub(super) fn decode(text: &str) -> Option<(Format, Vec<u8>)> {
    let (base64, suffix) = text.split_once('.')?;
    let format = match suffix {
        "box" => Format::Box1,
        "box2" => Format::Envelope,
        _ => return None,
    };
    Some((format, STANDARD.decode(base64).ok()?))
}
