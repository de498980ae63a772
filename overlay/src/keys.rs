//! Keys of the Secret Scuttlebutt network as the overlay sees them: a peer's long-term public key and
//! the network key ("cap") that keeps networks apart. Secret keys are `ssb_crypto::Keypair`.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ssb_crypto::Signature;

/// An ed25519 public key: who a peer claims to be, or, after the handshake, is.
///
/// Written as a feed reference, `@<base64>.ed25519` (protocol guide, "Keys and identities").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Wraps the 32 bytes of an ed25519 public key.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Parses the bare base64 form that multiserver addresses use after `shs:`.
    pub fn from_base64(text: &str) -> Result<Self, InvalidKey> {
        decode_32(text).map(Self)
    }

    /// The key's bytes.
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// The key's bytes, borrowed.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The bare base64 form that multiserver addresses use after `shs:`.
    pub fn to_base64(self) -> String {
        STANDARD.encode(self.0)
    }

    /// Whether this key signed `statement`, as libsodium sees it: an `S` that is not reduced is refused.
    /// `ssb-crypto` panics on the largest of those instead of asking libsodium, so they are refused first.
    pub fn verify(self, signature: &Signature, statement: &[u8]) -> bool {
        const UNUSED_BITS_OF_S: u8 = 0b1110_0000;
        signature.0[Signature::SIZE - 1] & UNUSED_BITS_OF_S == 0
            && ssb_crypto::PublicKey(self.0).verify(signature, statement)
    }

    /// The first eight characters, for logs.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(9);
        text
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}.ed25519", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let body = text.strip_prefix('@').and_then(|t| t.strip_suffix(".ed25519"));
        Self::from_base64(body.ok_or(InvalidKey::Form)?)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The 32-byte key that everyone on one SSB network knows (`caps.shs`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NetworkKey([u8; 32]);

impl NetworkKey {
    /// The main network's key.
    pub const MAIN: Self = Self([
        0xd4, 0xa1, 0xcb, 0x88, 0xa6, 0x6f, 0x02, 0xf8, 0xdb, 0x63, 0x5c, 0xe2, 0x64, 0x41, 0xcc, 0x5d, 0xac,
        0x1b, 0x08, 0x42, 0x0c, 0xea, 0xac, 0x23, 0x08, 0x39, 0xb7, 0x55, 0x84, 0x5a, 0x9f, 0xfb,
    ]);

    /// Wraps 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Parses the base64 form of a configuration file.
    pub fn from_base64(text: &str) -> Result<Self, InvalidKey> {
        decode_32(text).map(Self)
    }

    /// The key's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Why a text is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// Not `@<base64>.ed25519`.
    #[error("expected @<base64>.ed25519")]
    Form,
    /// Not canonical base64.
    #[error("not canonical base64")]
    Base64,
    /// Not 32 bytes.
    #[error("expected 32 bytes")]
    Length,
}

fn decode_32(text: &str) -> Result<[u8; 32], InvalidKey> {
    let bytes = STANDARD.decode(text).map_err(|_| InvalidKey::Base64)?;
    bytes.try_into().map_err(|_| InvalidKey::Length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_prints_and_parses_as_a_feed_reference() {
        let key = PublicKey::from_bytes([7; 32]);
        assert_eq!(key.to_string().parse::<PublicKey>(), Ok(key));
        assert_eq!("@AAAA.ed25519".parse::<PublicKey>(), Err(InvalidKey::Length));
        assert_eq!("AAAA".parse::<PublicKey>(), Err(InvalidKey::Form));
    }

    #[test]
    fn no_signature_makes_verifying_panic() {
        assert!(ssb_crypto::sodium::init().is_ok());
        let keypair = ssb_crypto::Keypair::from_seed(&[1; 32]).unwrap();
        let key = PublicKey::from_bytes(keypair.public.0);
        let good = keypair.sign(b"statement");
        assert!(key.verify(&good, b"statement"));
        for bit in 0..8 * Signature::SIZE {
            let mut flipped = good.0;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.verify(&Signature(flipped), b"statement"), "bit {bit}");
        }
    }

    #[test]
    fn the_main_network_key_is_the_published_one() {
        let text = "1KHLiKZvAvjbY1ziZEHMXawbCEIM6qwjCDm3VYRan/s=";
        assert_eq!(NetworkKey::from_base64(text), Ok(NetworkKey::MAIN));
    }
}
