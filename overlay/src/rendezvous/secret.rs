//! What two friends, or everybody, know of a place to meet, and the keys that come of it.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use ssb_crypto::Keypair;
use ssb_crypto::ephemeral::{EphPublicKey, derive_shared_secret_sk};
use ssb_crypto::secretbox;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::blind;
use crate::keys::{NetworkKey, PublicKey};

const PUBLIC: &[u8] = b"ssb-dht/1";
const PAIRWISE: &[u8] = b"ssb-dht/3";
const BLINDING: &[u8] = b"hawsepipe rendezvous 1";
const SEAL: &[u8] = b"hawsepipe rendezvous seal 1";

/// The secret of a tier.
#[derive(Clone)]
pub(super) struct Secret(Zeroizing<[u8; 32]>);

/// Which of the two who share a secret publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Direction(u8);

impl Secret {
    /// What only we and a friend can compute; `None` where the friend's key is so weak that others can too.
    pub(super) fn pairwise(ours: &Keypair, friend: PublicKey, network: NetworkKey) -> Option<Self> {
        let theirs = EphPublicKey(blind::point(friend)?.to_montgomery().to_bytes());
        let shared = derive_shared_secret_sk(&ours.secret, &theirs)?;
        let is_strong = !bool::from(shared.0.ct_eq(&[0; 32]));
        is_strong.then(|| Self::of(&[PAIRWISE, network.as_bytes(), &shared.0]))
    }

    /// What everybody can compute who knows the feed.
    pub(super) fn public(feed: PublicKey, network: NetworkKey) -> Self {
        Self::of(&[PUBLIC, network.as_bytes(), feed.as_bytes()])
    }

    /// The h of a period.
    pub(super) fn blinding(&self, period: u64, direction: Direction) -> Zeroizing<[u8; 32]> {
        self.derive(BLINDING, period, direction)
    }

    /// What seals the records of a period.
    pub(super) fn seal_key(&self, period: u64, direction: Direction) -> secretbox::Key {
        secretbox::Key(*self.derive(SEAL, period, direction))
    }

    fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Self(Zeroizing::new(hasher.finalize().into()))
    }

    fn derive(&self, label: &[u8], period: u64, direction: Direction) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(hmac(&self.0, &[label, &period.to_be_bytes(), &[direction.0]]))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Direction {
    /// The one direction of [`Tier::Public`](super::Tier::Public).
    pub(super) const PUBLIC: Self = Self(0);

    /// The smaller of two feeds publishes in the first direction.
    pub(super) fn between(publisher: PublicKey, reader: PublicKey) -> Self {
        Self(u8::from(publisher >= reader))
    }
}

/// HMAC-SHA256.
pub(crate) fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keypair(seed: u8) -> (Keypair, PublicKey) {
        assert!(ssb_crypto::sodium::init().is_ok());
        let keypair = Keypair::from_seed(&[seed; 32]).unwrap();
        let public = PublicKey::from_bytes(keypair.public.0);
        (keypair, public)
    }

    fn pairwise(ours: u8, theirs: u8, network: NetworkKey) -> [u8; 32] {
        *Secret::pairwise(&keypair(ours).0, keypair(theirs).1, network).unwrap().0
    }

    #[test]
    fn both_of_a_pair_compute_what_nobody_else_does() {
        let ours = pairwise(1, 2, NetworkKey::MAIN);
        assert_eq!(ours, pairwise(2, 1, NetworkKey::MAIN));
        assert_ne!(ours, pairwise(1, 3, NetworkKey::MAIN));
        assert_ne!(ours, pairwise(3, 2, NetworkKey::MAIN));
        assert_ne!(ours, pairwise(1, 2, NetworkKey::from_bytes([9; 32])));
    }

    #[test]
    fn no_secret_is_shared_with_a_weak_key() {
        let (ours, _) = keypair(1);
        let mut identity = [0; 32];
        identity[0] = 1;
        for weak in [[0; 32], identity, [0xff; 32]] {
            assert!(Secret::pairwise(&ours, PublicKey::from_bytes(weak), NetworkKey::MAIN).is_none());
        }
    }

    #[test]
    fn keys_differ_by_use_period_and_direction() {
        let (a, b) = (keypair(1).1, keypair(2).1);
        let (out, back) = (Direction::between(a, b), Direction::between(b, a));
        assert_ne!(out, back);
        let secret = Secret::public(a, NetworkKey::MAIN);
        let mut keys = vec![*secret.0, secret.seal_key(1, out).0];
        keys.extend([(1, out), (2, out), (1, back)].map(|(period, way)| *secret.blinding(period, way)));
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 5);
    }

    /// Computed with Python's `hashlib` and `hmac` from the formulas in the header of `rendezvous.rs`.
    #[test]
    fn the_public_tier_is_what_its_formula_says() {
        let secret = Secret::public(PublicKey::from_bytes([7; 32]), NetworkKey::MAIN);
        let hex = |bytes: &[u8; 32]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&secret.0), "69f3036554c25e9a2f14ad58f412cc234358f6f68d23d6af7be107420f9f1016");
        assert_eq!(
            hex(&secret.blinding(123, Direction::PUBLIC)),
            "e0d875a6ea2b1b6f6dfd704b8e88a983444004af5d648be156f1e45c0485b2e2"
        );
        assert_eq!(
            hex(&secret.seal_key(123, Direction::PUBLIC).0),
            "cb9c356871513c6ed98ca24394319db576e10f78069a17596ec743ea1131db11"
        );
    }
}
