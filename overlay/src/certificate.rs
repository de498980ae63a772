//! A node certificate: a feed's signed word that a libp2p peer is one of its nodes, and where it is.
//!
//! `{cap, feed, peerId, addrs, notBefore, notAfter, signature}` in JSON. The signature is ed25519 by the
//! feed over [`PREFIX`] and the object without it, as `JSON.stringify(_, null, 2)` writes it. It travels
//! over classic sessions (muxrpc `overlay.certificate`) and, sealed, in rendezvous records.

use std::time::Duration;

use serde_json::Value;
use ssb_crypto::Keypair;

use crate::conn::TransportId;
use crate::keys::{NetworkKey, PublicKey};

/// What comes before the signed JSON.
pub const PREFIX: &[u8] = b"hawsepipe-node-cert-1";
/// How long a certificate is good.
pub const LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Addresses in one; more make it invalid.
pub const MAX_ADDRESSES: usize = 8;

/// A node certificate whose signature was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whose node it is.
    pub feed: PublicKey,
    /// The node.
    pub peer: TransportId,
    /// Where it is dialled: multiaddrs that end in its peer id.
    pub addresses: Vec<String>,
    /// From when it is good, in milliseconds since 1970.
    pub not_before: u64,
    /// Until when.
    pub not_after: u64,
    signature: [u8; 64],
}

/// Why a certificate is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCertificate {
    /// Not of this form.
    #[error("not a node certificate")]
    Form,
    /// Of another network.
    #[error("a certificate of another network")]
    Network,
    /// Not yet or no longer good.
    #[error("the certificate is not valid now")]
    Time,
    /// Not signed by its feed.
    #[error("the certificate is not signed by its feed")]
    Signature,
}

impl Certificate {
    /// Signs for our own node, good from `unix` (since 1970) on.
    pub fn sign(
        _keypair: &Keypair,
        _network: NetworkKey,
        _peer: TransportId,
        _addresses: Vec<String>,
        _unix: Duration,
    ) -> Self {
        unimplemented!("skeleton")
    }

    /// Reads and verifies one.
    pub fn from_json(
        _json: &Value,
        _network: NetworkKey,
        _unix: Duration,
    ) -> Result<Self, InvalidCertificate> {
        Err(InvalidCertificate::Form)
    }

    /// As it travels over muxrpc.
    pub fn to_json(&self, _network: NetworkKey) -> Value {
        Value::Null
    }
}
