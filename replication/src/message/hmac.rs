//! The signing key of a private network (`caps.sign`).

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ssb_crypto::NetworkKey;

use super::InvalidMessage;

/// The key that a network mixes into signatures, so that its messages mean nothing elsewhere: what is
/// signed is then not the message but its HMAC-SHA-512-256.
#[derive(Clone, PartialEq)]
pub struct HmacKey(NetworkKey);

impl HmacKey {
    /// Wraps 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(NetworkKey(bytes))
    }

    /// Parses the base64 of a configuration; anything but 32 canonical bytes is refused.
    pub fn from_base64(text: &str) -> Result<Self, InvalidMessage> {
        let bytes = STANDARD.decode(text).map_err(|_| InvalidMessage::HmacKey)?;
        bytes.try_into().map(Self::from_bytes).map_err(|_| InvalidMessage::HmacKey)
    }

    /// Reads a JSON configuration value: `null` is no key, a string is base64.
    pub fn from_json(value: &serde_json::Value) -> Result<Option<Self>, InvalidMessage> {
        if value.is_null() {
            return Ok(None);
        }
        value.as_str().ok_or(InvalidMessage::HmacKey).and_then(Self::from_base64).map(Some)
    }

    /// What is signed in place of `text`.
    pub(super) fn apply<'a>(key: Option<&Self>, text: &'a [u8]) -> Cow<'a, [u8]> {
        match key {
            Some(Self(key)) => Cow::Owned(key.authenticate(text).0.to_vec()),
            None => Cow::Borrowed(text),
        }
    }
}

impl fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacKey")
    }
}
