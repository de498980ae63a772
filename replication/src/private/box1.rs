//! box1, also called private-box: a body sealed with a fresh key, and for each recipient a slot with that key.
//!
//! ```text
//! nonce 24 | one-time X25519 key 32 | slot 49 for each recipient | body + 16
//! slot = secretbox(number of recipients u8 | body key 32; X25519(one-time key, recipient's key))
//! ```
//!
//! Slots name nobody, so a reader tries each of them with the one secret that it shares with the one-time key.
//! The sender can read the message only if it is a recipient itself.

use ssb_crypto::PublicKey;
use ssb_crypto::ephemeral::{
    EphPublicKey, EphSecretKey, derive_shared_secret, derive_shared_secret_pk, generate_ephemeral_keypair,
};
use ssb_crypto::secretbox::{Hmac, Key, Nonce};

use super::{SealError, random};
use crate::refs::FeedId;

/// Recipients of one message at most, so that every reader finds its slot.
pub const MAX_RECIPIENTS: usize = 7;

/// Slots that a reader tries: one more than there should be, as private-box does.
const MAX_TRIED: usize = 8;

const NONCE: usize = 24;
const POINT: usize = 32;
const MAC: usize = 16;
const SLOTS_AT: usize = NONCE + POINT;
const SLOT: usize = 1 + 32 + MAC;

/// What opens one message: its number of slots and the key of its body. Whoever is given it can read that one
/// message (`unbox` in links).
pub struct BodyKey {
    slots: u8,
    key: Key,
}

impl BodyKey {
    /// Length in bytes.
    pub const SIZE: usize = 33;

    /// As in a slot and in links: number of slots and key.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0] = self.slots;
        bytes[1..].copy_from_slice(&self.key.0);
        bytes
    }

    /// Reads [`BodyKey::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (slots, key) = bytes.split_first()?;
        Some(Self { slots: *slots, key: Key::from_slice(key)? })
    }
}

impl std::fmt::Debug for BodyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BodyKey")
    }
}

/// Seals `plaintext` for `recipients`.
pub fn seal(plaintext: &[u8], recipients: &[FeedId]) -> Result<Vec<u8>, SealError> {
    if recipients.is_empty() {
        return Err(SealError::NoRecipients);
    }
    let too_many = SealError::TooMany { max: MAX_RECIPIENTS, found: recipients.len() };
    let slots = u8::try_from(recipients.len()).ok().filter(|n| usize::from(*n) <= MAX_RECIPIENTS);
    let nonce = Nonce(random()?);
    let key = BodyKey { slots: slots.ok_or(too_many)?, key: Key(random()?) };
    let (public, secret) = generate_ephemeral_keypair();
    let mut sealed = Vec::with_capacity(SLOTS_AT + SLOT * recipients.len() + MAC + plaintext.len());
    sealed.extend_from_slice(&nonce.0);
    sealed.extend_from_slice(&public.0);
    for recipient in recipients {
        let shared = derive_shared_secret_pk(&secret, &PublicKey(recipient.to_bytes()));
        let shared = shared.ok_or(SealError::BadKey(*recipient))?;
        append(&mut sealed, &Key(shared.0), &nonce, &key.to_bytes());
    }
    append(&mut sealed, &key.key, &nonce, plaintext);
    Ok(sealed)
}

/// The key of a message, if one of its slots is for the owner of `secret`.
pub fn open_key(sealed: &[u8], secret: &EphSecretKey) -> Option<BodyKey> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE>()?;
    let (public, slots) = rest.split_first_chunk::<POINT>()?;
    // The last bytes are at least the body's code, so a slot never reaches into them.
    let slots = slots.get(..slots.len().checked_sub(MAC)?)?;
    if slots.len() < SLOT {
        return None;
    }
    let shared = Key(derive_shared_secret(secret, &EphPublicKey(*public))?.0);
    let nonce = Nonce(*nonce);
    slots.chunks_exact(SLOT).take(MAX_TRIED).find_map(|slot| {
        let opened = open_box(slot, &shared, &nonce)?;
        BodyKey::from_bytes(&opened)
    })
}

/// The body of a message.
pub fn open_body(sealed: &[u8], key: &BodyKey) -> Option<Vec<u8>> {
    let nonce = Nonce(*sealed.first_chunk::<NONCE>()?);
    open_box(sealed.get(SLOTS_AT + SLOT * usize::from(key.slots)..)?, &key.key, &nonce)
}

fn append(out: &mut Vec<u8>, key: &Key, nonce: &Nonce, plaintext: &[u8]) {
    let mut text = plaintext.to_vec();
    let code = key.seal(&mut text, nonce);
    out.extend_from_slice(&code.0);
    out.extend_from_slice(&text);
}

fn open_box(sealed: &[u8], key: &Key, nonce: &Nonce) -> Option<Vec<u8>> {
    let (code, text) = sealed.split_first_chunk::<MAC>()?;
    let mut text = text.to_vec();
    key.open(&mut text, &Hmac(*code), nonce).then_some(text)
}
