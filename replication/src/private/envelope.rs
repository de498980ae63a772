//! box2, the envelope: one key for the message, wrapped once for each recipient, and bound to the place in its
//! author's feed, so that nobody can publish it elsewhere.
//!
//! ```text
//! header 32 | slot 32 for each recipient | body + 16
//!
//! header   = secretbox(offset of the body u16le | flags u8 | 13 zeros; header key)
//! slot     = message key XOR Derive(recipient's key, "slot_key", scheme)
//! read key = Derive(message key, "read_key"); header key, body key = Derive(read key, "header_key", "body_key")
//! Derive(key, labels) = HKDF-Expand-SHA256(key, SLP("envelope", author, previous message, labels))
//! ```
//!
//! Nonces are zero: each key seals one thing. SLP is each part behind its length as u16le; author and previous
//! message are in their binary form (BFE).

use hkdf::Hkdf;
use sha2::Sha256;
use ssb_crypto::secretbox::{Hmac, Key, Nonce};

use super::opened::{Format, ciphertext};
use super::{SealError, random};
use crate::message::Message;
use crate::refs::{FeedId, GroupId, MessageId};

/// Recipients of one message at most.
pub const MAX_RECIPIENTS: usize = 16;

const HEADER: usize = 32;
const SLOT: usize = 32;
const MAC: usize = 16;

/// Whose key a slot is wrapped with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// The key that a group's members share.
    Group,
    /// What two feeds share.
    DirectMessage,
    /// What only the author has.
    Own,
}

impl Scheme {
    /// Its name in the specification.
    pub fn name(self) -> &'static str {
        match self {
            Self::Group => "envelope-large-symmetric-group",
            Self::DirectMessage => "envelope-id-based-dm-converted-ed25519",
            Self::Own => "envelope-symmetric-key-for-self",
        }
    }
}

/// A recipient's key.
#[derive(Clone)]
pub struct SlotKey {
    key: Key,
    scheme: Scheme,
}

impl SlotKey {
    /// A key of that scheme.
    pub fn new(scheme: Scheme, key: [u8; 32]) -> Self {
        Self { key: Key(key), scheme }
    }

    /// A fresh key for a group.
    pub fn fresh_group() -> Result<Self, SealError> {
        Ok(Self::new(Scheme::Group, random()?))
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.key.0
    }

    /// Whose it is.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }
}

impl PartialEq for SlotKey {
    fn eq(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.key.0 == other.key.0
    }
}

impl std::fmt::Debug for SlotKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SlotKey({:?})", self.scheme)
    }
}

/// What opens one message.
pub struct ReadKey(Key);

impl ReadKey {
    /// Its bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.0
    }

    /// From its bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Key::from_slice(bytes).map(Self)
    }
}

impl std::fmt::Debug for ReadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReadKey")
    }
}

/// Where in which feed a message stands.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    author: [u8; 34],
    previous: [u8; 34],
}

impl Place {
    /// The place behind `previous` in the feed of `author`.
    pub fn new(author: &FeedId, previous: Option<&MessageId>) -> Self {
        let previous = previous.map_or([0; 32], |previous| previous.to_bytes());
        Self { author: feed_bfe(author), previous: bfe([1, 0], &previous) }
    }

    fn derive(&self, key: &Key, labels: &[&str]) -> Key {
        let place: [&[u8]; 3] = [b"envelope", &self.author, &self.previous];
        let parts: Vec<&[u8]> =
            place.into_iter().chain(labels.iter().map(|label| label.as_bytes())).collect();
        expand(key, &slp(&parts))
    }

    fn slot(&self, recipient: &SlotKey, message_key: &[u8; 32]) -> [u8; 32] {
        self.slot_mask(recipient, |mask| xor(mask, message_key))
    }

    fn slot_mask<T>(&self, recipient: &SlotKey, with: impl FnOnce(&[u8; 32]) -> T) -> T {
        with(&self.derive(&recipient.key, &["slot_key", recipient.scheme.name()]).0)
    }

    fn read_key(&self, message_key: [u8; 32]) -> Key {
        self.derive(&Key(message_key), &["read_key"])
    }

    fn header_key(&self, read_key: &Key) -> Key {
        self.derive(read_key, &["header_key"])
    }

    fn body_key(&self, read_key: &Key) -> Key {
        self.derive(read_key, &["body_key"])
    }
}

/// Seals `plaintext` for `recipients`; a group goes first.
pub fn seal(plaintext: &[u8], place: &Place, recipients: &[SlotKey]) -> Result<Vec<u8>, SealError> {
    seal_with(plaintext, place, random()?, recipients)
}

/// As [`seal`], with a message key that is given.
pub(super) fn seal_with(
    plaintext: &[u8],
    place: &Place,
    message_key: [u8; 32],
    recipients: &[SlotKey],
) -> Result<Vec<u8>, SealError> {
    if recipients.is_empty() {
        return Err(SealError::NoRecipients);
    }
    if recipients.len() > MAX_RECIPIENTS {
        return Err(SealError::TooMany { max: MAX_RECIPIENTS, found: recipients.len() });
    }
    let offset = HEADER + SLOT * recipients.len();
    let read_key = place.read_key(message_key);
    let mut header = [0; 16];
    // At most 32 + 32·16.
    header[..2].copy_from_slice(&(offset as u16).to_le_bytes());
    let mut sealed = Vec::with_capacity(offset + MAC + plaintext.len());
    append(&mut sealed, &place.header_key(&read_key), &header);
    for recipient in recipients {
        sealed.extend_from_slice(&place.slot(recipient, &message_key));
    }
    append(&mut sealed, &place.body_key(&read_key), plaintext);
    Ok(sealed)
}

/// The read key, if one of the first `slots` slots was wrapped with `key`.
pub fn open_key(sealed: &[u8], place: &Place, key: &SlotKey, slots: usize) -> Option<ReadKey> {
    let (header, rest) = sealed.split_first_chunk::<HEADER>()?;
    let wrapped = rest.get(..rest.len().checked_sub(MAC)?)?;
    place.slot_mask(key, |mask| {
        wrapped.chunks_exact(SLOT).take(slots.min(MAX_RECIPIENTS)).find_map(|slot| {
            let read_key = place.read_key(xor(mask, slot.try_into().ok()?));
            open_box(header, &place.header_key(&read_key)).map(|_| ReadKey(read_key))
        })
    })
}

/// The body of a message.
pub fn open_body(sealed: &[u8], place: &Place, key: &ReadKey) -> Option<Vec<u8>> {
    let header = open_box(sealed.get(..HEADER)?, &place.header_key(&key.0))?;
    let offset = u16::from_le_bytes(*header.first_chunk()?);
    open_box(sealed.get(usize::from(offset)..)?, &place.body_key(&key.0))
}

/// The body of a message that one of its slots gives to whoever has `key`.
pub fn open_message(message: &Message, key: &SlotKey) -> Option<Vec<u8>> {
    let (Format::Envelope, sealed) = ciphertext(message)? else { return None };
    let place = Place::new(&message.author(), message.previous().as_ref());
    let read_key = open_key(&sealed, &place, key, MAX_RECIPIENTS)?;
    open_body(&sealed, &place, &read_key)
}

/// The id of the group that a message began: it tells nothing of the message to those who cannot read it.
pub fn cloaked_id(key: &ReadKey, message: &MessageId) -> GroupId {
    let message = bfe([1, 0], &message.to_bytes());
    GroupId::from_bytes(expand(&key.0, &slp(&[b"cloaked_msg_id", &message])).0)
}

/// A feed in its binary form.
pub(super) fn feed_bfe(feed: &FeedId) -> [u8; 34] {
    bfe([0, 0], &feed.to_bytes())
}

/// Type, format and 32 bytes of data.
pub(super) fn bfe(kind: [u8; 2], data: &[u8; 32]) -> [u8; 34] {
    let mut out = [0; 34];
    out[..2].copy_from_slice(&kind);
    out[2..].copy_from_slice(data);
    out
}

/// Each part behind its length: a list that cannot be read as another one.
pub(super) fn slp(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(160);
    for part in parts {
        // All parts are labels or ids.
        out.extend_from_slice(&(part.len() as u16).to_le_bytes());
        out.extend_from_slice(part);
    }
    out
}

fn expand(key: &Key, info: &[u8]) -> Key {
    let mut out = [0; 32];
    let expander = Hkdf::<Sha256>::from_prk(&key.0).expect("32 bytes are as long as a hash");
    expander.expand(info, &mut out).expect("32 bytes are one block");
    Key(out)
}

fn xor(a: &[u8; 32], b: &[u8; 32]) -> [u8; 32] {
    std::array::from_fn(|i| a[i] ^ b[i])
}

fn append(out: &mut Vec<u8>, key: &Key, plaintext: &[u8]) {
    let mut text = plaintext.to_vec();
    let code = key.seal(&mut text, &Nonce::zero());
    out.extend_from_slice(&code.0);
    out.extend_from_slice(&text);
}

fn open_box(sealed: &[u8], key: &Key) -> Option<Vec<u8>> {
    let (code, text) = sealed.split_first_chunk::<MAC>()?;
    let mut text = text.to_vec();
    key.open(&mut text, &Hmac(*code), &Nonce::zero()).then_some(text)
}
