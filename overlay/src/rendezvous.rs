//! Blinded rendezvous: how two people who follow each other meet in the DHT, and nobody else learns that
//! they were there.
//!
//! For each period of four hours and each friend a node publishes one record under a key that only the two
//! can compute, and looks for the friend's. Storing nodes see random keys, sealed bytes of one size, and
//! always the same number of records.
//!
//! [`Rendezvous`] is a plain machine; `swarm/kad.rs` drives it beside the DHT.
//!
//! Keys (after Tor's rend-spec-v3, appendix A): blinded key = feed key x h, with h =
//! HMAC-SHA256(secret, "hawsepipe rendezvous 1" | period u64be | direction), clamped. The secret of the tier
//! `pairwise` is SHA-256("ssb-dht/3" | cap | X25519 of both feeds' Curve25519 forms), that of `public`
//! SHA-256("ssb-dht/1" | cap | feed).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ssb_crypto::Keypair;

use crate::conn::TransportId;
use crate::kad::{LookupId, Refusal, Stamp};
use crate::keys::{NetworkKey, PublicKey};
use crate::reachability::Nat;

mod blind;
mod secret;

/// A period of the blinded keys.
pub(crate) const PERIOD: Duration = Duration::from_secs(4 * 60 * 60);

/// Who can find us in the DHT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Whom we follow, if they follow us.
    #[default]
    Pairwise,
    /// Whoever knows our feed, and whom we follow.
    Public,
    /// Nobody; we look for nobody either.
    Off,
}

/// Both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    /// Since 1970.
    pub(crate) unix: Duration,
}

/// Somebody we follow and don't block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Friend {
    /// There is a session: not to be looked for.
    pub connected: bool,
}

/// Where we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Circuits through relays: multiaddrs that end in our peer id.
    pub(crate) circuits: Vec<String>,
    /// Direct addresses at which others are known to reach us; same form.
    pub(crate) direct: Vec<String>,
    pub(crate) nat: Nat,
}

/// What happens to the machine.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// All whom we follow and don't block, from now on.
    Friends(BTreeMap<PublicKey, Friend>),
    /// Where we are has changed.
    Place(Place),
    /// Whether the DHT has anybody to ask.
    Ready(bool),
    /// A record that [`Output::Seek`] asked for.
    Found { lookup: LookupId, value: Vec<u8> },
    /// A lookup or publication is over; `success` as the DHT says.
    Ended { lookup: LookupId, success: bool },
}

/// A friend was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Met {
    pub(crate) feed: PublicKey,
    pub(crate) peer: TransportId,
    /// Multiaddrs that end in its peer id.
    pub(crate) addresses: Vec<String>,
    pub(crate) nat: Nat,
    /// How old the record is.
    pub(crate) age: Duration,
    /// When it ends.
    pub(crate) until: Instant,
}

/// What the machine wants.
#[derive(Clone, Debug)]
pub(crate) enum Output {
    /// Store this in the DHT.
    Publish { lookup: LookupId, key: Vec<u8>, value: Vec<u8> },
    /// Find this in the DHT.
    Seek { lookup: LookupId, key: Vec<u8> },
    /// Stop a lookup.
    Cancel(LookupId),
    /// Somebody was found there; what an earlier record said no longer holds.
    Met(Met),
    /// What was said of a friend's place no longer holds.
    Expired { feed: PublicKey },
}

/// Checks a record before storing it, without knowing whose it is: [`crate::kad::Validate`].
pub(crate) fn validate(_key: &[u8], _value: &[u8], _unix: Duration) -> Result<Stamp, Refusal> {
    Err("skeleton")
}

/// See the module's header.
pub(crate) struct Rendezvous;

impl Rendezvous {
    /// `seed` makes the choices that are free: when within a period something is published, and dummies.
    pub(crate) fn new(
        _keypair: Arc<Keypair>,
        _network: NetworkKey,
        _peer: TransportId,
        _tier: Tier,
        _seed: [u8; 32],
    ) -> Self {
        Self
    }

    pub(crate) fn handle(&mut self, _now: Now, _input: Input) {}

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        None
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    pub(crate) fn handle_timeout(&mut self, _now: Now) {}
}
