//! Key blinding for ed25519 as Tor's onion services do it (rend-spec-v3, appendix A.2): of a key pair and a
//! number h, both of which a reader knows in part, a new key pair that shows neither.
//!
//! Whoever has the public key and h computes the blinded public key; only who has the secret key can sign
//! under it; and who has not h cannot tell whose it is. Signatures are ordinary ed25519.
//!
//! The crate `tor-llcrypto` has this too, but brings 160 others; this is forty lines on the curve library
//! that libp2p brings anyway, held to Tor's own vectors.

use std::fmt;

use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use sha2::{Digest as _, Sha512};
use ssb_crypto::Signature;
use zeroize::{Zeroize as _, Zeroizing};

use crate::keys::PublicKey;

/// Tor's text before what the blinded key's nonces come from.
const NONCE_TEXT: &[u8] = b"Derive temporary signing key hash input";

/// A blinded key pair.
pub(super) struct BlindedKey {
    scalar: Scalar,
    /// Makes nonces, as the second half of an expanded ed25519 secret does.
    prefix: [u8; 32],
    public: PublicKey,
}

impl BlindedKey {
    /// Blinds the key pair of a seed by `h`, which is clamped first.
    pub(super) fn new(seed: &[u8; 32], h: &[u8; 32]) -> Self {
        let (scalar, prefix) = expand(seed);
        let factor = Zeroizing::new(Scalar::from_bytes_mod_order(clamp_integer(*h)));
        let scalar = *scalar * *factor;
        let nonces = Zeroizing::new(sha512(&[NONCE_TEXT, &*prefix]));
        let public = PublicKey::from_bytes(EdwardsPoint::mul_base(&scalar).compress().to_bytes());
        Self { scalar, prefix: halves(&nonces).0, public }
    }

    pub(super) const fn public(&self) -> PublicKey {
        self.public
    }

    /// An ed25519 signature (RFC 8032, section 5.1.6, from the expanded secret).
    pub(super) fn sign(&self, message: &[u8]) -> Signature {
        let r = Zeroizing::new(reduced(&[&self.prefix, message]));
        let point = EdwardsPoint::mul_base(&r).compress().to_bytes();
        let challenge = reduced(&[&point, self.public.as_bytes(), message]);
        let s = *r + challenge * self.scalar;
        let mut signature = [0; Signature::SIZE];
        signature[..32].copy_from_slice(&point);
        signature[32..].copy_from_slice(&s.to_bytes());
        Signature(signature)
    }
}

impl fmt::Debug for BlindedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BlindedKey").field(&self.public).finish()
    }
}

impl Drop for BlindedKey {
    fn drop(&mut self) {
        self.scalar.zeroize();
        self.prefix.zeroize();
    }
}

/// The public half of [`BlindedKey::new`]; `None` for a key that [`point`] refuses.
pub(super) fn blind(key: PublicKey, h: &[u8; 32]) -> Option<PublicKey> {
    let blinded = point(key)?.mul_clamped(*h);
    Some(PublicKey::from_bytes(blinded.compress().to_bytes()))
}

/// A key's point. `None` for what is none, is not written as it should be, or is of small order: such keys
/// blind to, and share secrets that, anybody can compute.
pub(super) fn point(key: PublicKey) -> Option<EdwardsPoint> {
    let point = CompressedEdwardsY(key.to_bytes()).decompress()?;
    (!point.is_small_order() && point.compress().to_bytes() == key.to_bytes()).then_some(point)
}

/// The scalar and the prefix that a seed stands for (RFC 8032, section 5.1.5).
fn expand(seed: &[u8; 32]) -> (Zeroizing<Scalar>, Zeroizing<[u8; 32]>) {
    let hash = Zeroizing::new(sha512(&[seed]));
    let (scalar, prefix) = halves(&hash);
    let scalar = Zeroizing::new(scalar);
    (Zeroizing::new(Scalar::from_bytes_mod_order(clamp_integer(*scalar))), Zeroizing::new(prefix))
}

fn reduced(parts: &[&[u8]]) -> Scalar {
    Scalar::from_bytes_mod_order_wide(&Zeroizing::new(sha512(parts)))
}

fn sha512(parts: &[&[u8]]) -> [u8; 64] {
    let mut hasher = Sha512::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

fn halves(hash: &[u8; 64]) -> ([u8; 32], [u8; 32]) {
    let mut halves = ([0; 32], [0; 32]);
    halves.0.copy_from_slice(&hash[..32]);
    halves.1.copy_from_slice(&hash[32..]);
    halves
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ssb_crypto::Keypair;

    use super::*;

    /// Seed, blinding parameter, blinded secret (both halves), blinded public key: three of Tor's vectors, as
    /// other implementations quote them from `tor-llcrypto`'s `keymanip.rs`. Seeds and parameters are those
    /// of Tor's `src/test/ed25519_vectors.inc`; old versions of that file give other results, because the
    /// parameter was hashed before it was clamped.
    const TOR: [[&str; 4]; 3] = [
        [
            "26c76712d89d906e6672dafa614c42e5cb1caac8c6568e4d2493087db51f0d36",
            "54a513898b471d1d448a2f3c55c1de2c0ef718c447b04497eeb999ed32027823",
            "293c3acff4e902f6f63ddc5d5caa2a57e771db4f24de65d4c28df3232f47fa01\
             171d43f24e3f53e70ec7ac280044ac77d4942dee5d6807118a59bdf3ee647e89",
            "1fc1fa4465bd9d4956fdbdc9d3acb3c7019bb8d5606b951c2e1dfe0b42eaeb41",
        ],
        [
            "c6bbcce615839756aed2cc78b1de13884dd3618f48367a17597a16c1cd7a290b",
            "3f44f6a5a92cde816635dfc12ade70539871078d2ff097278be2a555c9859cd0",
            "288cbfd923cb286d48c084555b5bdd06c05e92fb81acdb45271367f57515380e\
             053d9c00c81e1331c06ab50087be8cfc7dc11691b132614474f1aa9c2503cccd",
            "0eefdc795b59cabbc194c6174e34ba9451e8355108520554ec285acabebb34ac",
        ],
        [
            "c6bbcce615839756aed2cc78b1de13884dd3618f48367a17597a16c1cd7a290b",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "e5cd03eb4cc456e11bc36724b558873df0045729b22d8b748360067a7770ac02\
             053d9c00c81e1331c06ab50087be8cfc7dc11691b132614474f1aa9c2503cccd",
            "312404d06a0a9de489904b18d5233e83a50b225977fa8734f2c897a73c067952",
        ],
    ];

    fn unhex<const N: usize>(text: &str) -> [u8; N] {
        let digits = text.as_bytes().chunks(2);
        let bytes = digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap());
        bytes.collect::<Vec<_>>().try_into().unwrap()
    }

    fn keypair(seed: &[u8; 32]) -> Keypair {
        assert!(ssb_crypto::sodium::init().is_ok());
        Keypair::from_seed(seed).unwrap()
    }

    #[test]
    fn keys_are_blinded_as_tor_blinds_them() {
        for [seed, h, secret, public] in TOR {
            let keypair = keypair(&unhex(seed));
            let blinded = BlindedKey::new(&keypair.secret.0, &unhex(h));
            let secret: [u8; 64] = unhex(secret);
            assert_eq!(blinded.scalar.as_bytes()[..], secret[..32]);
            assert_eq!(blinded.prefix[..], secret[32..]);
            let public = PublicKey::from_bytes(unhex(public));
            assert_eq!(blinded.public(), public);
            assert_eq!(blind(PublicKey::from_bytes(keypair.public.0), &unhex(h)), Some(public));
        }
    }

    #[test]
    fn keys_that_anybody_could_sign_for_are_refused() {
        let zero_is_one = [0; 32];
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut order_two = [0xff; 32];
        (order_two[0], order_two[31]) = (0xec, 0x7f);
        // y = p + 3, another way to write y = 3.
        let mut not_canonical = [0xff; 32];
        (not_canonical[0], not_canonical[31]) = (0xf0, 0x7f);
        let mut same_point = [0; 32];
        same_point[0] = 3;
        assert!(point(PublicKey::from_bytes(same_point)).is_some());
        let no_point = (2_u8..).map(|y| [&[y][..], &[0; 31]].concat().try_into().unwrap());
        let no_point: [u8; 32] =
            no_point.into_iter().find(|bytes| CompressedEdwardsY(*bytes).decompress().is_none()).unwrap();
        for bytes in [zero_is_one, identity, order_two, not_canonical, no_point] {
            assert_eq!(blind(PublicKey::from_bytes(bytes), &[7; 32]), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn what_a_blinded_secret_signs_verifies_under_its_blinded_key(
            seed: [u8; 32], h: [u8; 32], message: Vec<u8>,
        ) {
            let keypair = keypair(&seed);
            let blinded = BlindedKey::new(&seed, &h);
            let public = blind(PublicKey::from_bytes(keypair.public.0), &h).unwrap();
            prop_assert_eq!(blinded.public(), public);
            let signature = blinded.sign(&message);
            prop_assert!(public.verify(&signature, &message));
            prop_assert!(!PublicKey::from_bytes(keypair.public.0).verify(&signature, &message));
        }
    }
}
