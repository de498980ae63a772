//! A message as it lies in the store: compact canonical JSON, read in place.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;

use super::Message;
use super::json::{Members, member, unescape, write_number};
use crate::refs::MessageId;

/// The bytes are not the canonical form of a message: the store is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the canonical form of a message")]
pub struct NotCanonical;

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// A private message: base64 and a suffix that names the kind of encryption.
    Encrypted(&'a str),
    /// A public message.
    Object {
        /// Its `type`. A lone surrogate in it reads as U+FFFD.
        kind: Cow<'a, str>,
        /// All of it, as compact canonical JSON. Strings in it may hold lone surrogates (`\ud800`),
        /// at which other JSON libraries stumble; see [`Content::member`].
        raw: &'a [u8],
    },
}

impl<'a> Content<'a> {
    /// Reads a content in compact canonical JSON: `None` if it is neither an object with a `type` nor a
    /// string. For decrypted private messages too.
    pub fn from_canonical(raw: &'a str) -> Option<Self> {
        if let Some(text) = raw.strip_prefix('"') {
            return text.strip_suffix('"').map(Content::Encrypted);
        }
        let kind = member(raw, "type")?.strip_prefix('"')?.strip_suffix('"')?;
        Some(Content::Object { kind: unescape(kind), raw: raw.as_bytes() })
    }

    /// A key's value as canonical JSON, without parsing the rest. `None` in an encrypted content.
    pub fn member(&self, name: &str) -> Option<&'a str> {
        let Content::Object { raw, .. } = self else { return None };
        member(std::str::from_utf8(raw).ok()?, name)
    }
}

impl Message {
    /// Takes a message out of our own store: no signature is checked and the id is believed.
    ///
    /// `bytes` is what [`Message::value_bytes`] once gave. Costs no JSON parser and no allocation.
    pub fn from_trusted(id: MessageId, bytes: Bytes) -> Result<Self, NotCanonical> {
        let text = simdutf8::basic::from_utf8(&bytes).map_err(|_| NotCanonical)?;
        let head = Head::read(text).ok_or(NotCanonical)?;
        let Head { author, sequence, previous, timestamp, content } = head;
        Ok(Self { id, author, sequence, previous, timestamp: timestamp.to_bits(), bytes, content })
    }

    /// Whether its content was deleted here: what is left proves its place in the chain, and says nothing.
    pub fn is_erased(&self) -> bool {
        self.content_bytes().starts_with(ERASED.as_bytes())
    }

    /// What the message says.
    pub fn content(&self) -> Content<'_> {
        let raw = self.content_json();
        Content::from_canonical(raw)
            .unwrap_or(Content::Object { kind: Cow::Borrowed(""), raw: raw.as_bytes() })
    }

    /// What the message says, as compact canonical JSON.
    pub fn content_json(&self) -> &str {
        simdutf8::basic::from_utf8(self.content_bytes()).unwrap_or_default()
    }

    fn content_bytes(&self) -> &[u8] {
        &self.bytes[self.content.clone()]
    }

    /// Where in [`Message::value_bytes`] the content stands.
    pub(crate) fn content_range(&self) -> std::ops::Range<usize> {
        self.content.clone()
    }

    /// Whether the content is sealed: base64 and a suffix.
    pub fn is_encrypted(&self) -> bool {
        self.content_bytes().starts_with(b"\"")
    }

    /// Whether the content has a `contact`: what the social graph is made of.
    pub fn has_contact(&self) -> bool {
        // Hardly any message has the word, so hardly any is looked into. Nothing in it would be escaped.
        CONTACT.find(self.content_bytes()).is_some() && self.content().member("contact").is_some()
    }

    /// `{"key":…,"value":…,"timestamp":…}` with the time of reception: how local queries and history
    /// streams send a message unless they are asked for less.
    pub fn key_value_timestamp(&self, received: f64) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len() + 110);
        out.extend_from_slice(format!("{{\"key\":\"{}\",\"value\":", self.id()).as_bytes());
        out.extend_from_slice(&self.bytes);
        out.extend_from_slice(b",\"timestamp\":");
        write_number(received, &mut out);
        out.push(b'}');
        out
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({:?} #{} {:?})", self.author(), self.sequence(), self.id())
    }
}

/// What the social graph is made of. Made once: to make a finder costs more than to look through one message.
static CONTACT: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\"contact\":"));

/// What stands for a content that was deleted: no valid message has it.
const ERASED: &str = "null";

/// A message's value, as [`Message::value_bytes`] gave it, without its content: `null` stands there. Of the same
/// length if `padded`, by blanks behind it.
pub(crate) fn without_content(value: &[u8], padded: bool) -> Result<Vec<u8>, NotCanonical> {
    let text = std::str::from_utf8(value).map_err(|_| NotCanonical)?;
    let Head { content, .. } = Head::read(text).ok_or(NotCanonical)?;
    let blanks = if padded { content.len().checked_sub(ERASED.len()).ok_or(NotCanonical)? } else { 0 };
    let (before, after) = (&text[..content.start], &text[content.end..]);
    Ok([before, ERASED, &" ".repeat(blanks), after].concat().into_bytes())
}

/// The fixed part of a message.
struct Head {
    author: crate::refs::FeedId,
    sequence: u64,
    previous: Option<MessageId>,
    timestamp: f64,
    content: std::ops::Range<usize>,
}

impl Head {
    fn read(text: &str) -> Option<Self> {
        let mut members = Members::of(text);
        let (_, previous) = members.next().filter(|(key, _)| *key == "previous")?;
        let (second, third) = (members.next()?, members.next()?);
        let (sequence, author) = match (second.0, third.0) {
            ("sequence", "author") => (second.1, third.1),
            ("author", "sequence") => (third.1, second.1),
            _ => return None,
        };
        let (_, timestamp) = members.next().filter(|(key, _)| *key == "timestamp")?;
        let rest = members.rest().strip_prefix("\"hash\":\"sha256\",\"content\":")?;
        let start = text.len() - rest.len();
        Some(Self {
            author: unquote(author)?.parse().ok()?,
            sequence: sequence.parse().ok()?,
            // Brackets are what JavaScript overlooks when it compares with an id.
            previous: unquote(previous.trim_matches(['[', ']'])).and_then(|id| id.parse().ok()),
            timestamp: timestamp.parse().ok().filter(|time: &f64| time.is_finite()).unwrap_or(0.0),
            content: start..start + content_len(rest)?,
        })
    }
}

/// What stands behind the content: a key and a signature of fixed length.
const SIGNATURE_START: &str = ",\"signature\":\"";
const SIGNATURE_LEN: usize = SIGNATURE_START.len() + 88 + ".sig.ed25519\"}".len();

/// The content's length, measured from the end so that it need not be read.
fn content_len(rest: &str) -> Option<usize> {
    let len = rest.len().checked_sub(SIGNATURE_LEN)?;
    rest.get(len..)?.starts_with(SIGNATURE_START).then_some(len)
}

fn unquote(written: &str) -> Option<&str> {
    written.strip_prefix('"')?.strip_suffix('"')
}
