//! One type per shared secret, so that none can be used at the wrong step, and the keys made of them.

use std::fmt;

use sha2::{Digest as _, Sha256};
use ssb_crypto::ephemeral::{
    EphPublicKey, SharedSecret, derive_shared_secret, derive_shared_secret_pk, derive_shared_secret_sk,
};
use ssb_crypto::secretbox::Key;
use ssb_crypto::{Keypair, PublicKey as CryptoPublicKey};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::wire::authenticator;
use super::{Ephemeral, Outcome, ShsError};
use crate::boxstream::BoxKey;
use crate::keys::{NetworkKey, PublicKey};

/// `ab`: client's ephemeral with server's ephemeral.
pub(super) struct EphemeralSecret(SharedSecret);
/// `aB`: client's ephemeral with server's long-term key.
pub(super) struct ServerSecret(SharedSecret);
/// `Ab`: client's long-term key with server's ephemeral.
pub(super) struct ClientSecret(SharedSecret);

impl EphemeralSecret {
    pub(super) fn new(ours: &Ephemeral, theirs: &EphPublicKey) -> Result<Self, ShsError> {
        strong(derive_shared_secret(&ours.secret, theirs)).map(Self)
    }

    /// What both sides sign in place of the secret itself.
    pub(super) fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.0).into()
    }
}

impl ServerSecret {
    pub(super) fn of_client(ours: &Ephemeral, server: &PublicKey) -> Result<Self, ShsError> {
        strong(derive_shared_secret_pk(&ours.secret, &CryptoPublicKey(server.to_bytes()))).map(Self)
    }

    pub(super) fn of_server(ours: &Keypair, client: &EphPublicKey) -> Result<Self, ShsError> {
        strong(derive_shared_secret_sk(&ours.secret, client)).map(Self)
    }
}

impl ClientSecret {
    pub(super) fn of_client(ours: &Keypair, server: &EphPublicKey) -> Result<Self, ShsError> {
        strong(derive_shared_secret_sk(&ours.secret, server)).map(Self)
    }

    pub(super) fn of_server(ours: &Ephemeral, client: &PublicKey) -> Result<Self, ShsError> {
        strong(derive_shared_secret_pk(&ours.secret, &CryptoPublicKey(client.to_bytes()))).map(Self)
    }
}

/// Refuses a secret of zeros, which anyone could know.
fn strong(secret: Option<SharedSecret>) -> Result<SharedSecret, ShsError> {
    secret.filter(|s| !bool::from(s.0.ct_eq(&[0; 32]))).ok_or(ShsError::WeakKey)
}

/// `sha256(N | ab | aB)`: boxes the auth message, proving that the client knows the server's key.
pub(super) struct AuthKey(pub(super) Key);

impl AuthKey {
    pub(super) fn new(network: &NetworkKey, ab: &EphemeralSecret, a_b: &ServerSecret) -> Self {
        Self(key_of(&[network.as_bytes(), &ab.0.0, &a_b.0.0]))
    }
}

/// `sha256(N | ab | aB | Ab)`: boxes the accept message; known to the two ends of the handshake only.
/// Zeroized when dropped.
pub struct AcceptKey(pub(super) Key);

impl AcceptKey {
    pub(super) fn new(
        network: &NetworkKey,
        ab: &EphemeralSecret,
        server: &ServerSecret,
        client: &ClientSecret,
    ) -> Self {
        Self(key_of(&[network.as_bytes(), &ab.0.0, &server.0.0, &client.0.0]))
    }

    /// The 32 secret bytes, to derive other keys from. Never use them as a key themselves.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0.0
    }
}

impl fmt::Debug for AcceptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AcceptKey(..)")
    }
}

/// Derives the box stream's keys. Each direction is keyed by its receiver's long-term key and starts at the
/// nonce of its receiver's hello.
pub(super) fn outcome(
    accept_key: AcceptKey,
    network: &NetworkKey,
    ours: (PublicKey, &EphPublicKey),
    theirs: (PublicKey, &EphPublicKey),
) -> Outcome {
    let base = Zeroizing::new(<[u8; 32]>::from(Sha256::digest(accept_key.as_bytes())));
    let towards = |(receiver, ephemeral): (PublicKey, &EphPublicKey)| {
        let mut nonce = [0; 24];
        nonce.copy_from_slice(&authenticator(network, ephemeral)[..24]);
        BoxKey::new(key_of(&[&base, receiver.as_bytes()]), nonce)
    };
    Outcome { peer: theirs.0, send: towards(theirs), receive: towards(ours), accept_key }
}

fn key_of(parts: &[&[u8; 32]]) -> Key {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    Key(hash.finalize().into())
}
