//! Classic feed messages: what is a valid one, what is its id, how is one made (protocol guide,
//! "Message format", "Signature", "Message ID"; order of checks as in JavaScript's ssb-validate).
//!
//! The way of a message that a peer sent:
//!
//! ```text
//! bytes --Unverified::parse--> Unverified --check(tip)--> in its place --verify(hmac)--> Message --> store
//! ```
//!
//! [`Unverified::parse`] reads the JSON and brings it into the one form that JavaScript would sign,
//! name and send on; [`Unverified::check`] is everything that needs no cryptography;
//! [`Unverified::verify`] is the signature and gives the [`Message`]. [`Verifier::validate_batch`] does
//! both for many messages of many feeds at once, with one equation for many signatures and on all cores;
//! what it accepts is the same.
//!
//! What always holds: a [`Message`] is verified (or comes from our own store, which holds nothing
//! else); its bytes are the compact canonical JSON, so serving it is copying it; which messages are
//! accepted is exactly the set that ssb-validate accepts, save that a `sequence` below 1 is never valid,
//! out of order either.
//!
//! Nothing here waits or reads a clock. The only state is what a [`Verifier`] remembers of authors' keys, and
//! the only randomness its equations' coefficients. `ssb_crypto::sodium::init()` must have been
//! called once in the process before messages are verified or signed.

mod batch;
mod draft;
mod fork;
mod hmac;
mod invalid;
pub mod json;
mod links;
mod stored;
mod unverified;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::refs::{FeedId, MessageId};

pub use batch::{Verifier, parse_batch};
pub use draft::{DraftError, next_timestamp, sign};
pub use fork::Fork;
pub use hmac::HmacKey;
pub use invalid::InvalidMessage;
pub use links::{is_reference, links, normal_channel};
pub(crate) use stored::without_content;
pub use stored::{Content, NotCanonical};
pub use unverified::{Unverified, validate, validate_out_of_order};

/// The largest signed canonical form of a message, in UTF-16 code units, indentation included.
pub const MAX_UNITS: usize = 8192;

/// The longest JSON text we read as a message. A valid message has at most 8192 code units, which an
/// odd writer could escape to six bytes each; the rest is room for white space.
pub const MAX_RAW_BYTES: usize = 128 * 1024;

/// The shortest `type` of a content, in UTF-16 code units.
pub const MIN_TYPE_UNITS: usize = 3;

/// The longest `type` of a content, in UTF-16 code units.
pub const MAX_TYPE_UNITS: usize = 52;

/// The newest message of a feed: what the next message must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tip {
    /// Its id.
    pub id: MessageId,
    /// Its sequence number.
    pub sequence: u64,
}

/// A verified message.
///
/// Cloning is cheap: the bytes are shared.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    id: MessageId,
    author: FeedId,
    sequence: u64,
    previous: Option<MessageId>,
    /// As bits, so that messages compare: equal text has equal bits.
    timestamp: u64,
    bytes: Bytes,
    content: std::ops::Range<usize>,
}

impl Message {
    /// The message's id.
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Whose feed it belongs to.
    pub fn author(&self) -> FeedId {
        self.author
    }

    /// Its place in the feed, from 1.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The id of the message before it; `None` for the first.
    pub fn previous(&self) -> Option<MessageId> {
        self.previous
    }

    /// When the author claims to have written it, in milliseconds since 1970. May be fractional and go
    /// backwards. Always finite: 0 if the author wrote no number, which the protocol allows except
    /// in the first message.
    pub fn timestamp(&self) -> f64 {
        f64::from_bits(self.timestamp)
    }

    /// The whole message as compact canonical JSON: what is stored and what is sent.
    pub fn value_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// This message as the newest of its feed.
    pub fn tip(&self) -> Tip {
        Tip { id: self.id, sequence: self.sequence }
    }
}

#[cfg(test)]
mod tests;
