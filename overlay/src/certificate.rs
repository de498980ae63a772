//! A node certificate: a feed's signed word that a libp2p peer is one of its nodes, and where it is.
//!
//! `{cap, feed, peerId, addrs, notBefore, notAfter, signature}` in JSON, and nothing else. The signature is
//! ed25519 by the feed over [`PREFIX`] and the object without it, as `JSON.stringify(_, null, 2)` writes it
//! with its members in this order. It travels over classic sessions (muxrpc `overlay.certificate`) and,
//! sealed, in rendezvous records, which carry the members only: the JSON is rebuilt to verify them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use ssb_crypto::{Keypair, Signature};

use crate::conn::TransportId;
use crate::keys::{NetworkKey, PublicKey};

#[cfg(test)]
mod tests;

/// What comes before the signed JSON.
pub const PREFIX: &[u8] = b"hawsepipe-node-cert-1";
/// How long a certificate is good.
pub const LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Addresses in one; more make it invalid.
pub const MAX_ADDRESSES: usize = 8;
/// Longest address, in bytes; a longer one makes it invalid.
pub const MAX_ADDRESS_LEN: usize = 256;
/// How wrong a clock may be. Who signs allows for its own, who verifies for its own.
pub const CLOCK_SLACK: Duration = Duration::from_secs(10 * 60);

/// What a signature in JSON ends in.
const SIGNATURE_SUFFIX: &str = ".sig.ed25519";
/// Members of the JSON object.
const MEMBERS: usize = 7;

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

/// The members of a certificate that nobody has verified yet.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) feed: PublicKey,
    pub(crate) peer: TransportId,
    pub(crate) addresses: Vec<String>,
    /// In milliseconds since 1970, like `not_after`.
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
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
    /// Signs for our own node. It is good for [`LIFETIME`] from [`CLOCK_SLACK`] before `unix` (since 1970)
    /// on. Addresses that no certificate may hold, and those after the first [`MAX_ADDRESSES`], are left
    /// out.
    pub fn sign(
        keypair: &Keypair,
        network: NetworkKey,
        peer: TransportId,
        mut addresses: Vec<String>,
        unix: Duration,
    ) -> Self {
        addresses.retain(|address| is_address_of(&peer, address));
        addresses.truncate(MAX_ADDRESSES);
        let not_before = millis(unix.saturating_sub(CLOCK_SLACK));
        let claim = Claim {
            feed: PublicKey::from_bytes(keypair.public.0),
            peer,
            addresses,
            not_before,
            not_after: not_before.saturating_add(millis(LIFETIME)),
        };
        let signature = keypair.sign(&claim.statement(network));
        claim.signed(signature.0)
    }

    /// Reads and verifies one, at `unix` since 1970.
    pub fn from_json(json: &Value, network: NetworkKey, unix: Duration) -> Result<Self, InvalidCertificate> {
        let (cap, claim, signature) = parse(json).ok_or(InvalidCertificate::Form)?;
        if cap != STANDARD.encode(network.as_bytes()) {
            return Err(InvalidCertificate::Network);
        }
        Self::verify(claim, signature, network, unix)
    }

    /// Verifies what came without its JSON.
    pub(crate) fn verify(
        claim: Claim,
        signature: [u8; 64],
        network: NetworkKey,
        unix: Duration,
    ) -> Result<Self, InvalidCertificate> {
        let lifetime = claim.not_after.checked_sub(claim.not_before);
        if lifetime.is_none_or(|lifetime| lifetime > millis(LIFETIME)) || !claim.is_well_formed() {
            return Err(InvalidCertificate::Form);
        }
        let has_begun = claim.not_before <= millis(unix + CLOCK_SLACK);
        if !has_begun || claim.not_after < millis(unix.saturating_sub(CLOCK_SLACK)) {
            return Err(InvalidCertificate::Time);
        }
        if !claim.feed.verify(&Signature(signature), &claim.statement(network)) {
            return Err(InvalidCertificate::Signature);
        }
        Ok(claim.signed(signature))
    }

    /// As it travels over muxrpc.
    pub fn to_json(&self, network: NetworkKey) -> Value {
        let claim = Claim {
            feed: self.feed,
            peer: self.peer.clone(),
            addresses: self.addresses.clone(),
            not_before: self.not_before,
            not_after: self.not_after,
        };
        let mut json = claim.to_json(network);
        json["signature"] = Value::String(format!("{}{SIGNATURE_SUFFIX}", STANDARD.encode(self.signature)));
        json
    }

    /// The feed's signature, for whoever sends the members without their JSON.
    pub(crate) const fn signature(&self) -> &[u8; 64] {
        &self.signature
    }
}

impl Claim {
    fn is_well_formed(&self) -> bool {
        self.addresses.len() <= MAX_ADDRESSES
            && self.addresses.iter().all(|address| is_address_of(&self.peer, address))
    }

    fn to_json(&self, network: NetworkKey) -> Value {
        json!({
            "cap": STANDARD.encode(network.as_bytes()),
            "feed": self.feed,
            "peerId": self.peer.to_string(),
            "addrs": self.addresses,
            "notBefore": self.not_before,
            "notAfter": self.not_after,
        })
    }

    /// What is signed. `{:#}` writes what `JSON.stringify(_, null, 2)` does: members in our order, integers,
    /// and texts without anything to escape.
    fn statement(&self, network: NetworkKey) -> Vec<u8> {
        [PREFIX, format!("{:#}", self.to_json(network)).as_bytes()].concat()
    }

    fn signed(self, signature: [u8; 64]) -> Certificate {
        let Self { feed, peer, addresses, not_before, not_after } = self;
        Certificate { feed, peer, addresses, not_before, not_after, signature }
    }
}

/// The cap, the members and the signature; `None` if anything is missing, of another type, or too much.
fn parse(json: &Value) -> Option<(&str, Claim, [u8; 64])> {
    let object = json.as_object().filter(|object| object.len() == MEMBERS)?;
    let text = |name: &str| object.get(name)?.as_str();
    let addresses = object.get("addrs")?.as_array().filter(|addresses| addresses.len() <= MAX_ADDRESSES)?;
    let addresses = addresses.iter().map(|address| address.as_str().map(str::to_owned));
    let signature = STANDARD.decode(text("signature")?.strip_suffix(SIGNATURE_SUFFIX)?).ok()?;
    let claim = Claim {
        feed: text("feed")?.parse().ok()?,
        peer: TransportId::parse(text("peerId")?)?,
        addresses: addresses.collect::<Option<_>>()?,
        not_before: object.get("notBefore")?.as_u64()?,
        not_after: object.get("notAfter")?.as_u64()?,
    };
    Some((text("cap")?, claim, signature.try_into().ok()?))
}

/// Whether it looks like a multiaddr that ends in this peer id. Whether it can be dialled only the dialer
/// knows.
fn is_address_of(peer: &TransportId, address: &str) -> bool {
    let place = address.strip_suffix(&peer.to_string()).and_then(|rest| rest.strip_suffix("/p2p/"));
    address.len() <= MAX_ADDRESS_LEN
        && place.is_some_and(|place| place.starts_with('/'))
        && address.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
