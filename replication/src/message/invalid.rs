//! Why a message is refused: one variant for each way to deviate.

use super::json::JsonError;
use super::{MAX_RAW_BYTES, MAX_TYPE_UNITS, MAX_UNITS, MIN_TYPE_UNITS};
use crate::refs::FeedId;

/// Why a message is refused. All but [`HmacKey`](Self::HmacKey), which is our own configuration, are
/// the peer's or the author's doing. Texts are those of ssb-validate where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// Longer than any valid message can be; not even parsed.
    #[error("invalid message: {bytes} bytes of JSON, the limit is {MAX_RAW_BYTES}")]
    RawTooLong {
        /// How many bytes came.
        bytes: usize,
    },
    /// Not JSON.
    #[error("invalid message: {0}")]
    Json(#[from] JsonError),
    /// JSON, but no object.
    #[error("invalid message: not an object")]
    NotAnObject,
    /// The author is no ed25519 feed id.
    #[error("invalid message: must have author")]
    Author,
    /// The signature is not 64 bytes in canonical base64 followed by `.sig.ed25519`.
    #[error("invalid message: signature type must match author type")]
    SignatureForm,
    /// Not the next message of its feed: a gap, a repetition, or no number at all.
    #[error("invalid message: expected sequence {expected} but got:{found}, on feed:{author}")]
    Sequence {
        /// The feed.
        author: FeedId,
        /// What would have been next.
        expected: u64,
        /// What came; 0 if it was no sequence number.
        found: u64,
    },
    /// The next number, but it follows another message than ours: the feed is forked.
    #[error("invalid message: expected different previous message, on feed:{0}")]
    Fork(FeedId),
    /// The first message we hold of a feed must have `previous: null`.
    #[error("initial message must have previous: null, on feed:{0}")]
    FirstPrevious(FeedId),
    /// The first message we hold of a feed must have `sequence: 1`.
    #[error("initial message must have sequence: 1, on feed:{0}")]
    FirstSequence(FeedId),
    /// The first message of a feed must have a number as timestamp.
    #[error("initial message must have timestamp, on feed:{0}")]
    Timestamp(FeedId),
    /// Not exactly the seven keys in one of the two orders.
    #[error("message must have keys in allowed order")]
    KeyOrder,
    /// The sequence number is no positive 32-bit integer.
    #[error("message has invalid properties: sequence must be an integer from 1 to 2147483647")]
    SequenceForm,
    /// The content is neither an object nor an encrypted string.
    #[error("message has invalid properties: content must be an object or an encrypted string")]
    ContentForm,
    /// The hash is not `sha256`.
    #[error("message has invalid properties: hash must be sha256")]
    HashName,
    /// Too long when written in canonical form.
    #[error("Encoded message must not be larger than {MAX_UNITS} bytes. Current size is {units}")]
    TooLong {
        /// Its length in UTF-16 code units, or if that is over the limit already, without indentation.
        units: usize,
    },
    /// The content has no `type` string of a fitting length.
    #[error("type must be a string of {MIN_TYPE_UNITS} to {MAX_TYPE_UNITS} characters")]
    ContentType,
    /// The network's signing key (`caps.sign`) is not 32 bytes in canonical base64.
    #[error("invalid HMAC key")]
    HmacKey,
    /// The signature does not verify.
    #[error("invalid signature")]
    Signature,
    /// Asked for one message by id and got another.
    #[error("message has another id than the one asked for")]
    OtherId,
}

impl InvalidMessage {
    /// Whether the feed cannot go on from this peer: ssb-validate's `fatal`. What is not fatal is one
    /// bad message (or a repetition) to ignore.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Fork(_)
            | Self::FirstPrevious(_)
            | Self::FirstSequence(_)
            | Self::Timestamp(_)
            | Self::KeyOrder
            | Self::HmacKey
            | Self::Signature => true,
            Self::RawTooLong { .. }
            | Self::Json(_)
            | Self::NotAnObject
            | Self::Author
            | Self::SignatureForm
            | Self::Sequence { .. }
            | Self::SequenceForm
            | Self::ContentForm
            | Self::HashName
            | Self::TooLong { .. }
            | Self::ContentType
            | Self::OtherId => false,
        }
    }

    /// A short constant name, for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::RawTooLong { .. } => "raw_too_long",
            Self::Json(_) => "json",
            Self::NotAnObject => "not_an_object",
            Self::Author => "author",
            Self::SignatureForm => "signature_form",
            Self::Sequence { .. } => "sequence",
            Self::Fork(_) => "fork",
            Self::FirstPrevious(_) => "first_previous",
            Self::FirstSequence(_) => "first_sequence",
            Self::Timestamp(_) => "timestamp",
            Self::KeyOrder => "key_order",
            Self::SequenceForm => "sequence_form",
            Self::ContentForm => "content_form",
            Self::HashName => "hash_name",
            Self::TooLong { .. } => "too_long",
            Self::ContentType => "content_type",
            Self::HmacKey => "hmac_key",
            Self::Signature => "signature",
            Self::OtherId => "other_id",
        }
    }
}
