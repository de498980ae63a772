//! Our own messages: from a content to a signed message.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ssb_crypto::Keypair;

use super::json::{self, JsonError, Value, write_pretty};
use super::unverified::{SIGNATURE_SUFFIX, Unverified, has_valid_type, is_encrypted};
use super::{
    HmacKey, InvalidMessage, MAX_RAW_BYTES, MAX_TYPE_UNITS, MAX_UNITS, MIN_TYPE_UNITS, Message, Tip,
};
use crate::refs::FeedId;

/// How far ahead of the clock the newest message may be for the next to be put behind it. Beyond that
/// the clock must have been wrong when it was written.
const MAX_AHEAD_MS: f64 = 3_600_000.0;

/// Why a content cannot be published. Nothing has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    /// Longer than any content can be; not even parsed.
    #[error("content is {bytes} bytes of JSON, the limit is {MAX_RAW_BYTES}")]
    RawTooLong {
        /// How many bytes were given.
        bytes: usize,
    },
    /// Not JSON.
    #[error("content is {0}")]
    Json(#[from] JsonError),
    /// Neither an object nor a string.
    #[error("invalid message content, must be object or encrypted string")]
    NotContent,
    /// A string that does not look encrypted. Others accept any suffix that begins with `.box`, but not
    /// all of them, so we write only the two that exist.
    #[error("content that is a string must be encrypted: base64 followed by .box or .box2")]
    NotEncrypted,
    /// An object without a fitting type. Some peers count characters, others bytes: ours fits both.
    #[error("content needs a type: a string of {MIN_TYPE_UNITS} to {MAX_TYPE_UNITS} characters (and bytes)")]
    Type,
    /// It names recipients, so it is private, but it is not encrypted. Every SSB program encrypts or refuses;
    /// publishing it as it is would tell everybody.
    #[error("content with recps must be encrypted first; nothing was published")]
    NotForEveryone,
    /// The signed message would be too long.
    #[error(
        "message would be {units} characters long or more when signed and indented, the limit is {MAX_UNITS}"
    )]
    TooLong {
        /// How long it would be at least, in UTF-16 code units.
        units: usize,
    },
    /// The timestamp is not a finite number.
    #[error("timestamp must be a finite number")]
    Timestamp,
    /// The feed is at the last sequence number that fits the format.
    #[error("the feed is full: sequence numbers end at 2147483647")]
    FeedFull,
}

/// Makes and signs the next message of the feed of `keypair`, whose newest message is `tip`.
///
/// `content` is JSON: an object with a `type`, or an encrypted string. It is brought into the form and
/// the key order that JavaScript gives it. `timestamp` is in milliseconds; see [`next_timestamp`].
pub fn sign(
    keypair: &Keypair,
    hmac: Option<&HmacKey>,
    tip: Option<&Tip>,
    timestamp: f64,
    content: &[u8],
) -> Result<Message, DraftError> {
    if !timestamp.is_finite() {
        return Err(DraftError::Timestamp);
    }
    let content = read_content(content)?;
    let mut message = unsigned(FeedId::from_bytes(keypair.public.0), tip, timestamp, content)?;
    let mut text = Vec::with_capacity(1024);
    write_pretty(&Value::Object(message.clone()), &mut text);
    let signature = keypair.sign(&HmacKey::apply(hmac, &text));
    let signature = format!("{}{SIGNATURE_SUFFIX}", STANDARD.encode(signature.0));
    message.push((Cow::Borrowed("signature"), Value::String(Cow::Owned(signature))));
    // The checks of a message from elsewhere, except its place, which is right by construction.
    Unverified::from_value(&Value::Object(message)).and_then(Unverified::into_own_message).map_err(too_long)
}

/// The timestamp of our next message: the time, but after the newest message's, and integral, so that no
/// peer is confused.
pub fn next_timestamp(now: f64, newest: Option<f64>) -> f64 {
    let now = now.floor();
    match newest {
        Some(newest) if newest >= now && newest - now < MAX_AHEAD_MS => newest.floor() + 1.0,
        _ => now,
    }
}

fn read_content(raw: &[u8]) -> Result<Value<'_>, DraftError> {
    if raw.len() > MAX_RAW_BYTES {
        return Err(DraftError::RawTooLong { bytes: raw.len() });
    }
    let content = json::parse(raw)?;
    match &content {
        Value::String(text) if !is_encrypted(text) || !has_known_suffix(text) => {
            Err(DraftError::NotEncrypted)
        }
        Value::String(_) => Ok(content),
        Value::Object(_) if !has_valid_type(&content) || !has_short_type(&content) => Err(DraftError::Type),
        Value::Object(_) if content.member("recps").is_some_and(is_truthy) => Err(DraftError::NotForEveryone),
        Value::Object(_) => Ok(content),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Infinity | Value::Array(_) => {
            Err(DraftError::NotContent)
        }
    }
}

/// As JS takes it.
fn is_truthy(value: &Value<'_>) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.parse::<f64>() != Ok(0.0),
        Value::Infinity | Value::Array(_) | Value::Object(_) => true,
    }
}

fn has_known_suffix(text: &str) -> bool {
    text.ends_with(".box") || text.ends_with(".box2")
}

fn has_short_type(content: &Value<'_>) -> bool {
    let kind = content.member("type").and_then(Value::as_written_str);
    kind.is_some_and(|kind| json::unescape(kind).len() <= MAX_TYPE_UNITS)
}

fn unsigned<'a>(
    author: FeedId,
    tip: Option<&Tip>,
    timestamp: f64,
    content: Value<'a>,
) -> Result<Vec<(Cow<'a, str>, Value<'a>)>, DraftError> {
    let sequence = tip.map_or(1, |tip| tip.sequence.saturating_add(1));
    if i32::try_from(sequence).is_err() {
        return Err(DraftError::FeedFull);
    }
    let previous = tip.map_or(Value::Null, |tip| Value::String(Cow::Owned(tip.id.to_string())));
    let mut number = Vec::new();
    json::write_number(timestamp, &mut number);
    let timestamp = String::from_utf8_lossy(&number).into_owned();
    let members = [
        ("previous", previous),
        ("sequence", Value::Number(Cow::Owned(sequence.to_string()))),
        ("author", Value::String(Cow::Owned(author.to_string()))),
        ("timestamp", Value::Number(Cow::Owned(timestamp))),
        ("hash", Value::String(Cow::Borrowed("sha256"))),
        ("content", content),
    ];
    Ok(members.into_iter().map(|(key, value)| (Cow::Borrowed(key), value)).collect())
}

/// The content has been checked and the rest is ours, so only its length can still be wrong.
fn too_long(invalid: InvalidMessage) -> DraftError {
    let InvalidMessage::TooLong { units } = invalid else { unreachable!("{invalid}") };
    DraftError::TooLong { units }
}
