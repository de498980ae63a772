//! The four fixed-size messages and what is signed in them.

use ssb_crypto::ephemeral::EphPublicKey;
use ssb_crypto::secretbox::{Hmac, Key, Nonce};
use ssb_crypto::{NetworkAuth, Signature};

use super::ShsError;
use crate::keys::{NetworkKey, PublicKey};

/// Length of either hello.
pub const HELLO_LEN: usize = 64;
/// Length of the client's auth message.
pub const AUTH_LEN: usize = 112;
/// Length of the server's accept message.
pub const ACCEPT_LEN: usize = 80;

const BOX_OVERHEAD: usize = 16;
const SIGNATURE: usize = 64;

/// What the client signs: that it means to talk to `server` over this exchange.
pub(super) fn client_statement(network: &NetworkKey, server: &PublicKey, hash: &[u8; 32]) -> [u8; 96] {
    let mut out = [0; 96];
    out[..32].copy_from_slice(network.as_bytes());
    out[32..64].copy_from_slice(server.as_bytes());
    out[64..].copy_from_slice(hash);
    out
}

/// What the server signs: that it accepted exactly this proof of the client.
pub(super) fn server_statement(network: &NetworkKey, proof: &ClientProof, hash: &[u8; 32]) -> [u8; 160] {
    let mut out = [0; 160];
    out[..32].copy_from_slice(network.as_bytes());
    out[32..128].copy_from_slice(&proof.to_bytes());
    out[128..].copy_from_slice(hash);
    out
}

/// The content of the auth message.
pub(super) struct ClientProof {
    pub(super) signature: Signature,
    pub(super) client: PublicKey,
}

impl ClientProof {
    fn to_bytes(&self) -> [u8; 96] {
        let mut out = [0; 96];
        out[..SIGNATURE].copy_from_slice(&self.signature.0);
        out[SIGNATURE..].copy_from_slice(self.client.as_bytes());
        out
    }

    pub(super) fn seal(&self, key: &Key) -> [u8; AUTH_LEN] {
        seal(key, &self.to_bytes())
    }

    pub(super) fn open(key: &Key, message: &[u8; AUTH_LEN]) -> Option<Self> {
        let plain: [u8; 96] = open(key, message)?;
        let (signature, client) = plain.split_at(SIGNATURE);
        let client = PublicKey::from_bytes(client.try_into().ok()?);
        Some(Self { signature: Signature::from_slice(signature)?, client })
    }
}

pub(super) fn seal_accept(key: &Key, signature: &Signature) -> [u8; ACCEPT_LEN] {
    seal(key, &signature.0)
}

pub(super) fn open_accept(key: &Key, message: &[u8; ACCEPT_LEN]) -> Option<Signature> {
    open(key, message).map(Signature)
}

pub(super) fn write_hello(network: &NetworkKey, ephemeral: &EphPublicKey) -> [u8; HELLO_LEN] {
    let mut out = [0; HELLO_LEN];
    out[..32].copy_from_slice(&authenticator(network, ephemeral));
    out[32..].copy_from_slice(&ephemeral.0);
    out
}

pub(super) fn read_hello(network: &NetworkKey, hello: &[u8; HELLO_LEN]) -> Result<EphPublicKey, ShsError> {
    let (mut tag, mut key) = (NetworkAuth([0; 32]), EphPublicKey([0; 32]));
    tag.0.copy_from_slice(&hello[..32]);
    key.0.copy_from_slice(&hello[32..]);
    // libsodium compares in constant time.
    let ours = ssb_crypto::NetworkKey(*network.as_bytes());
    if ours.verify(&tag, &key.0) { Ok(key) } else { Err(ShsError::WrongNetwork) }
}

/// The authenticator of a hello; its first bytes are also the box stream's first nonce.
pub(super) fn authenticator(network: &NetworkKey, ephemeral: &EphPublicKey) -> [u8; 32] {
    ssb_crypto::NetworkKey(*network.as_bytes()).authenticate(&ephemeral.0).0
}

/// Boxes with the zero nonce: each of these keys seals one message in its life.
fn seal<const OUT: usize>(key: &Key, plain: &[u8]) -> [u8; OUT] {
    let mut out = [0; OUT];
    let (tag, body) = out.split_at_mut(BOX_OVERHEAD);
    body.copy_from_slice(plain);
    tag.copy_from_slice(&key.seal(body, &Nonce::zero()).0);
    out
}

fn open<const OUT: usize>(key: &Key, message: &[u8]) -> Option<[u8; OUT]> {
    let (tag, body) = message.split_at(BOX_OVERHEAD);
    let mut out: [u8; OUT] = body.try_into().ok()?;
    key.open(&mut out, &Hmac::from_slice(tag)?, &Nonce::zero()).then_some(out)
}
