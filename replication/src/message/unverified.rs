//! From a peer's bytes to a verified message.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use memchr::memmem::Finder;
use sha2::{Digest, Sha256};

use super::batch::Claim;
use super::json::{self, Value, unescape, utf16_len, write_compact, write_pretty};
use super::{
    HmacKey, InvalidMessage, MAX_RAW_BYTES, MAX_TYPE_UNITS, MAX_UNITS, MIN_TYPE_UNITS, Message, Tip,
};
use crate::refs::{FeedId, MessageId};

/// What an ed25519 signature ends with.
pub(super) const SIGNATURE_SUFFIX: &str = ".sig.ed25519";

type Member<'a> = (Cow<'a, str>, Value<'a>);

/// A message that has been read but whose signature has not been checked.
///
/// Its author, sequence number and so on are claims.
#[derive(Clone, Debug)]
pub struct Unverified {
    author: FeedId,
    sequence: Option<u32>,
    previous: Previous,
    timestamp: Option<f64>,
    /// What ssb-validate finds only after it has looked at the message's place in the feed is found
    /// here already, and told in due order.
    sealed: Result<Sealed, InvalidMessage>,
}

/// The message in its two canonical forms.
#[derive(Clone, Debug)]
struct Sealed {
    id: MessageId,
    signature: [u8; 64],
    /// Indented and without the signature: what is signed.
    signed: Vec<u8>,
    /// Compact and whole: what is stored and sent.
    compact: Bytes,
    /// Where in it the content stands, unless only reading it again can tell.
    content: Option<Range<usize>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Previous {
    Null,
    Id(MessageId),
    Other,
}

impl Unverified {
    /// Reads a message. Fails only if it cannot even be told whose it is; what else is wrong with it is
    /// told by [`check`](Self::check), as in ssb-validate.
    pub fn parse(raw: &[u8]) -> Result<Self, InvalidMessage> {
        if raw.len() > MAX_RAW_BYTES {
            return Err(InvalidMessage::RawTooLong { bytes: raw.len() });
        }
        Self::from_value(&json::parse(raw)?)
    }

    pub(super) fn from_value(value: &Value<'_>) -> Result<Self, InvalidMessage> {
        let Value::Object(members) = value else { return Err(InvalidMessage::NotAnObject) };
        let author = value.member("author").and_then(Value::as_written_str).and_then(|id| id.parse().ok());
        let author = author.ok_or(InvalidMessage::Author)?;
        let signature = value.member("signature").and_then(Value::as_written_str).and_then(signature_bytes);
        let signature = signature.ok_or(InvalidMessage::SignatureForm)?;
        Ok(Self {
            author,
            sequence: value.member("sequence").and_then(sequence_number),
            previous: value.member("previous").map_or(Previous::Other, Previous::read),
            timestamp: value.member("timestamp").and_then(Value::as_f64),
            sealed: Sealed::new(value, members, signature),
        })
    }

    /// Whose message it claims to be.
    pub fn author(&self) -> FeedId {
        self.author
    }

    /// Its claimed place in the feed; 0 if that is no sequence number.
    pub fn sequence(&self) -> u64 {
        self.sequence.map_or(0, u64::from)
    }

    /// The message it claims to follow.
    pub fn previous(&self) -> Option<MessageId> {
        if let Previous::Id(id) = self.previous { Some(id) } else { None }
    }

    /// When it claims to have been written; 0 if that is no finite number.
    pub fn timestamp(&self) -> f64 {
        self.timestamp.filter(|time| time.is_finite()).unwrap_or(0.0)
    }

    /// Its id, unless its shape is wrong. The id is computed, never claimed.
    pub fn id(&self) -> Option<MessageId> {
        self.sealed.as_ref().ok().map(|sealed| sealed.id)
    }

    /// What the tip of the feed is once this message is in it, unless its shape is wrong.
    pub fn tip(&self) -> Option<Tip> {
        self.id().map(|id| Tip { id, sequence: self.sequence() })
    }

    /// Everything but the signature, given the newest message that we hold of the feed.
    pub fn check(&self, tip: Option<&Tip>) -> Result<(), InvalidMessage> {
        match tip {
            Some(tip) => self.check_follows(tip)?,
            None => self.check_first()?,
        }
        self.check_shape()
    }

    /// Everything but the signature, of a message out of order: its place in the feed is not looked at.
    pub fn check_out_of_order(&self) -> Result<(), InvalidMessage> {
        self.timestamp.ok_or(InvalidMessage::Timestamp(self.author))?;
        self.check_shape()
    }

    /// Checks the signature, by which the message becomes one. Its place in the feed is the caller's
    /// to check, before this.
    pub fn verify(self, hmac: Option<&HmacKey>) -> Result<Message, InvalidMessage> {
        let good = self.is_signed(hmac);
        self.into_message(good)
    }

    /// The message that we have just signed ourselves.
    pub(super) fn into_own_message(self) -> Result<Message, InvalidMessage> {
        self.into_message(true)
    }

    /// Whether the signature is good. False, too, if there is nothing to check.
    pub(super) fn is_signed(&self, hmac: Option<&HmacKey>) -> bool {
        self.claim(hmac).is_some_and(|claim| claim.is_good())
    }

    /// What there is to check of the signature, unless the message's shape is wrong.
    pub(super) fn claim(&self, hmac: Option<&HmacKey>) -> Option<Claim<'_>> {
        let sealed = self.sealed.as_ref().ok()?;
        let signed = HmacKey::apply(hmac, &sealed.signed);
        Some(Claim { author: self.author, signature: sealed.signature, signed })
    }

    /// The message, of whose signature the caller knows whether it is good.
    pub(super) fn into_message(self, good_signature: bool) -> Result<Message, InvalidMessage> {
        let (author, sequence, previous) = (self.author, self.sequence(), self.previous());
        let timestamp = self.timestamp().to_bits();
        let Sealed { id, compact: bytes, content, .. } = self.sealed?;
        if !good_signature {
            return Err(InvalidMessage::Signature);
        }
        let read = |bytes| Message::from_trusted(id, bytes).expect("we wrote it in canonical form");
        let Some(content) = content else { return Ok(read(bytes)) };
        let message = Message { id, author, sequence, previous, timestamp, bytes, content };
        debug_assert!(message == read(message.bytes.clone()), "{message:?} reads otherwise from the store");
        Ok(message)
    }

    fn check_follows(&self, tip: &Tip) -> Result<(), InvalidMessage> {
        let expected = tip.sequence.saturating_add(1);
        if self.sequence() != expected {
            return Err(InvalidMessage::Sequence { author: self.author, expected, found: self.sequence() });
        }
        if self.previous != Previous::Id(tip.id) {
            return Err(InvalidMessage::Fork(self.author));
        }
        Ok(())
    }

    fn check_first(&self) -> Result<(), InvalidMessage> {
        if self.previous != Previous::Null {
            return Err(InvalidMessage::FirstPrevious(self.author));
        }
        if self.sequence != Some(1) {
            return Err(InvalidMessage::FirstSequence(self.author));
        }
        self.timestamp.map(drop).ok_or(InvalidMessage::Timestamp(self.author))
    }

    fn check_shape(&self) -> Result<(), InvalidMessage> {
        self.sealed.as_ref().map(drop).map_err(|invalid| *invalid)
    }
}

/// Validates the next message of a feed, all in one.
pub fn validate(raw: &[u8], hmac: Option<&HmacKey>, tip: Option<&Tip>) -> Result<Message, InvalidMessage> {
    let message = Unverified::parse(raw)?;
    message.check(tip)?;
    message.verify(hmac)
}

/// Validates a message that was asked for by its id, whatever its place in its feed.
pub fn validate_out_of_order(
    raw: &[u8],
    hmac: Option<&HmacKey>,
    id: Option<&MessageId>,
) -> Result<Message, InvalidMessage> {
    let message = Unverified::parse(raw)?;
    message.check_out_of_order()?;
    if id.is_some() && message.id().as_ref() != id {
        return Err(InvalidMessage::OtherId);
    }
    message.verify(hmac)
}

/// The keys of a message. `sequence` and `author` may change places.
const KEYS: [&str; 7] = ["previous", "sequence", "author", "timestamp", "hash", "content", "signature"];
const KEYS_SWAPPED: [&str; 7] =
    ["previous", "author", "sequence", "timestamp", "hash", "content", "signature"];

/// What stands around the signature in the indented form, and so what to cut off to have what was signed.
const SIGNATURE_BEFORE: &str = ",\n  \"signature\": \"";
const CLOSING: &str = "\n}";
const SIGNATURE_LEN: usize = SIGNATURE_BEFORE.len() + 88 + SIGNATURE_SUFFIX.len() + 1 + CLOSING.len();

impl Sealed {
    /// Shape, size and content, in ssb-validate's order; then the two written forms and the id.
    fn new(message: &Value<'_>, members: &[Member<'_>], signature: [u8; 64]) -> Result<Self, InvalidMessage> {
        check_keys(members)?;
        check_properties(message)?;
        let mut compact = Vec::with_capacity(1024);
        write_compact(message, &mut compact);
        // The indented form is longer. Not writing it at all keeps a deeply nested one from growing huge.
        check_size(&compact)?;
        let mut signed = Vec::with_capacity(compact.len() + 256);
        write_pretty(message, &mut signed);
        check_size(&signed)?;
        message
            .member("content")
            .filter(|content| has_valid_type(content))
            .ok_or(InvalidMessage::ContentType)?;
        let id = id_of(&signed);
        signed.truncate(signed.len() - SIGNATURE_LEN);
        signed.extend_from_slice(CLOSING.as_bytes());
        compact.shrink_to_fit();
        let content = content_in(&compact, message);
        Ok(Self { id, signature, signed, compact: Bytes::from(compact), content })
    }
}

/// What stands before the content. Made once: to make a finder costs more than to look through one message.
static BEFORE_CONTENT: LazyLock<Finder<'_>> =
    LazyLock::new(|| Finder::new(b",\"hash\":\"sha256\",\"content\":"));

/// Where the content stands in the compact form of a message in order.
fn content_in(compact: &[u8], message: &Value<'_>) -> Option<Range<usize>> {
    const AFTER: usize = ",\"signature\":\"".len() + 88 + SIGNATURE_SUFFIX.len() + "\"}".len();
    // In a string its quotes would be escaped; but what stands before the hash may be more than a string.
    let is_plain =
        |name| matches!(message.member(name), Some(Value::Null | Value::Number(_) | Value::String(_)));
    if !is_plain("previous") || !is_plain("timestamp") {
        return None;
    }
    let start = BEFORE_CONTENT.find(compact)? + BEFORE_CONTENT.needle().len();
    Some(start..compact.len().checked_sub(AFTER)?)
}

fn check_size(written: &[u8]) -> Result<(), InvalidMessage> {
    // A character takes as many bytes as units or more.
    if written.len() <= MAX_UNITS {
        return Ok(());
    }
    let units = utf16_units(written);
    if units <= MAX_UNITS { Ok(()) } else { Err(InvalidMessage::TooLong { units }) }
}

fn check_keys(members: &[Member<'_>]) -> Result<(), InvalidMessage> {
    let are = |names: &[&str]| members.iter().map(|(key, _)| key.as_ref()).eq(names.iter().copied());
    if are(&KEYS) || are(&KEYS_SWAPPED) { Ok(()) } else { Err(InvalidMessage::KeyOrder) }
}

fn check_properties(message: &Value<'_>) -> Result<(), InvalidMessage> {
    message.member("sequence").and_then(sequence_number).ok_or(InvalidMessage::SequenceForm)?;
    message.member("content").filter(|content| is_content(content)).ok_or(InvalidMessage::ContentForm)?;
    let hash = message.member("hash").and_then(Value::as_written_str);
    hash.filter(|hash| *hash == "sha256").map(drop).ok_or(InvalidMessage::HashName)
}

fn is_content(content: &Value<'_>) -> bool {
    match content {
        Value::Object(_) | Value::Array(_) => true,
        Value::String(text) => is_encrypted(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Infinity => false,
    }
}

/// Canonical base64, `.box`, and anything but a line break. Arguments are written forms.
pub(super) fn is_encrypted(written: &str) -> bool {
    let Some((ciphertext, kind)) = written.split_once('.') else { return false };
    // Nothing that JSON escapes is base64, so only what follows needs to be unescaped.
    let line_break = ['\n', '\r', '\u{2028}', '\u{2029}'];
    kind.starts_with("box") && !unescape(kind).contains(line_break) && is_canonical_base64(ciphertext)
}

fn is_canonical_base64(text: &str) -> bool {
    STANDARD.decode(text).is_ok()
}

/// Whether the content is encrypted or an object with a `type` of a fitting length.
pub(super) fn has_valid_type(content: &Value<'_>) -> bool {
    if matches!(content, Value::String(_)) {
        return true;
    }
    let kind = content.member("type").and_then(Value::as_written_str);
    kind.is_some_and(|kind| (MIN_TYPE_UNITS..=MAX_TYPE_UNITS).contains(&utf16_len(kind)))
}

fn sequence_number(value: &Value<'_>) -> Option<u32> {
    let Value::Number(text) = value else { return None };
    text.parse().ok().filter(|sequence| (1..=i32::MAX.cast_unsigned()).contains(sequence))
}

impl Previous {
    fn read(value: &Value<'_>) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::String(id) => id.parse().map_or(Self::Other, Self::Id),
            // JavaScript compares with `!=`, to which `["a"]` and `"a"` are the same.
            Value::Array(items) if items.len() == 1 => match Self::read(&items[0]) {
                Self::Id(id) => Self::Id(id),
                Self::Null | Self::Other => Self::Other,
            },
            Value::Bool(_) | Value::Number(_) | Value::Infinity | Value::Array(_) | Value::Object(_) => {
                Self::Other
            }
        }
    }
}

fn signature_bytes(text: &str) -> Option<[u8; 64]> {
    let base64 = text.strip_suffix(SIGNATURE_SUFFIX).filter(|base64| base64.len() == 88)?;
    let mut bytes = [0; 66];
    let len = STANDARD.decode_slice(base64, &mut bytes).ok()?;
    if len == 64 { bytes[..64].try_into().ok() } else { None }
}

/// The length of a written form in UTF-16 code units. Escapes count as they stand.
fn utf16_units(text: &[u8]) -> usize {
    // Each character begins with a byte that continues none; four bytes of UTF-8 are two units.
    text.iter().map(|byte| usize::from(byte & 0xc0 != 0x80) + usize::from(*byte >= 0xf0)).sum()
}

/// The id: SHA-256 over the low byte of each UTF-16 code unit.
fn id_of(pretty: &[u8]) -> MessageId {
    let digest = match std::str::from_utf8(pretty) {
        Ok(text) if !text.is_ascii() => Sha256::digest(low_bytes(text)),
        _ => Sha256::digest(pretty),
    };
    MessageId::from_bytes(digest.into())
}

/// The low byte of each UTF-16 code unit. Most of a text is ASCII, which is copied in pieces.
fn low_bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let ascii = rest.bytes().position(|byte| !byte.is_ascii()).unwrap_or(rest.len());
        let (ascii, after) = rest.split_at(ascii);
        bytes.extend_from_slice(ascii.as_bytes());
        let others = after.find(|c: char| c.is_ascii()).unwrap_or(after.len());
        let (others, after) = after.split_at(others);
        bytes.extend(others.encode_utf16().map(|unit| unit.to_le_bytes()[0]));
        rest = after;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::low_bytes;

    proptest! {
        #[test]
        fn the_id_is_made_of_the_low_byte_of_each_unit(text in "\\PC*|[a-z]{0,9}\\PC{0,3}[a-z]{0,9}") {
            let expected: Vec<u8> = text.encode_utf16().map(|unit| (unit & 0xff) as u8).collect();
            prop_assert_eq!(low_bytes(&text), expected);
        }
    }
}
