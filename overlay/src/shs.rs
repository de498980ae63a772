//! The secret handshake (SHS version 1; protocol guide, "Handshake"): proves to each side that the other
//! holds its long-term key, that both are on the same network, and leaves keys for a box stream.
//!
//! ```text
//! client                                   server
//! hello   64  auth(N, a) | a          ->
//!                                     <-   hello   64  auth(N, b) | b
//! auth   112  box(sigA | A)           ->                                  the server may refuse here
//!                                     <-   accept  80  box(sigB)
//! ```
//!
//! The client must know the server's long-term key beforehand and shows its own only to the holder of
//! that key. Between the auth and the accept message the server knows whom it talks to and may still
//! hang up; the client then learns nothing, not even that it reached the right server.
//!
//! The machines are consuming states driven by whoever moves the bytes ([`conn`](crate::conn), or a test):
//! each takes the peer's fixed-size message and gives ours and the next state, or an error. What always
//! holds:
//!
//! - on an error nothing is sent; the driver closes the line silently;
//! - no state can be used twice, and no secret outlives its state: all are zeroized when dropped;
//! - an X25519 output of zeros (a low-order key) is refused;
//! - the ephemeral keys are an argument, so that the published vectors can be replayed.

use std::fmt;

use ssb_crypto::ephemeral::{EphPublicKey, EphSecretKey, derive_shared_secret, generate_ephemeral_keypair};

use crate::boxstream::BoxKey;
use crate::keys::PublicKey;

pub mod client;
mod secrets;
pub mod server;
#[cfg(test)]
mod tests;
mod wire;

pub use secrets::AcceptKey;
pub use wire::{ACCEPT_LEN, AUTH_LEN, HELLO_LEN};

/// What a finished handshake leaves.
#[derive(Debug)]
pub struct Outcome {
    /// The peer's long-term key, proven.
    pub peer: PublicKey,
    /// Seals what we send.
    pub send: BoxKey,
    /// Opens what we receive.
    pub receive: BoxKey,
    /// The secret that only the two ends of this handshake know; keys of further protocols are derived
    /// from it.
    pub accept_key: AcceptKey,
}

/// Why the peer's message was refused. The peer is to blame for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShsError {
    /// The hello was not made with our network key: another network, or not SHS at all.
    #[error("hello of another network")]
    WrongNetwork,
    /// A key that makes a shared secret of zeros, or is no key at all.
    #[error("key of low order")]
    WeakKey,
    /// The client's auth message does not open: it dialled another key than ours, or tampers.
    #[error("auth message does not open")]
    BadAuth,
    /// The client does not hold the key it shows.
    #[error("client does not prove its key")]
    BadClientProof,
    /// The server's accept message does not open: it does not hold the key we dialled.
    #[error("accept message does not open")]
    BadAccept,
    /// The server does not hold the key we dialled.
    #[error("server does not prove its key")]
    BadServerProof,
}

impl ShsError {
    /// A name for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::WrongNetwork => "wrong_network",
            Self::WeakKey => "weak_key",
            Self::BadAuth => "bad_auth",
            Self::BadClientProof => "bad_client_proof",
            Self::BadAccept => "bad_accept",
            Self::BadServerProof => "bad_server_proof",
        }
    }
}

/// A fresh X25519 key pair for one handshake.
pub struct Ephemeral {
    secret: EphSecretKey,
    public: EphPublicKey,
}

/// The X25519 base point.
const BASE_POINT: EphPublicKey = {
    let mut point = [0; 32];
    point[0] = 9;
    EphPublicKey(point)
};

impl Ephemeral {
    /// Draws a new pair from the operating system. For shells: a test passes
    /// [`from_secret`](Self::from_secret).
    pub fn generate() -> Self {
        ssb_crypto::sodium::init().expect("libsodium finds a source of randomness");
        let (public, secret) = generate_ephemeral_keypair();
        Self { secret, public }
    }

    /// The pair of a given secret.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        let secret = EphSecretKey(secret);
        let public = derive_shared_secret(&secret, &BASE_POINT).expect("the base point has full order");
        Self { public: EphPublicKey(public.0), secret }
    }
}

impl fmt::Debug for Ephemeral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ephemeral(..)")
    }
}
