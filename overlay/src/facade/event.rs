//! What happens in the overlay, as a node hears of it.

use std::io;
use std::time::Duration;

use crate::address::{Address, Endpoint};
use crate::conn::{Carrier, Connection, LinkInfo, MobileId, Path, PathId, Refused, TransportId};
use crate::kad::Lookup;
use crate::keys::PublicKey;
use crate::lan::BindError;
use crate::reachability::Nat;
use crate::swarm;

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A feed claims to be at an address. Nothing proves it before a dial.
    Discovered {
        /// The feed.
        claimed: PublicKey,
        /// The address.
        endpoint: Endpoint,
        /// Who said so.
        source: Source,
    },
    /// The claim is no longer heard. No reason to end a session.
    Expired {
        /// The feed.
        claimed: PublicKey,
        /// The address.
        endpoint: Endpoint,
        /// Who said so.
        source: Source,
    },
    /// A peer dialled us and has proven who it is; its driver has to be run.
    Connected(Connection),
    /// Our gate refused a peer that dialled us.
    Refused {
        /// Who.
        peer: PublicKey,
        /// Over which link.
        link: LinkInfo,
        /// Why.
        reason: Refused,
    },
    /// A peer that dialled us did not prove who it is.
    HandshakeFailed {
        /// Over which link.
        link: LinkInfo,
        /// The error's label.
        label: &'static str,
    },
    /// We listen on another address.
    Listening(Address),
    /// A direct connection stands to the peer of a relayed one that [`crate::Overlay::seek_direct`] was called
    /// for. Dialling `endpoint` opens a session on it. Both ends hear of it; the end that dialled the
    /// relayed session moves it.
    DirectPath {
        /// The relayed connection.
        relayed: PathId,
        /// The direct one, as an address that leads to it.
        endpoint: Endpoint,
    },
    /// A session went to another path, or could not.
    Moved(Moved),
    /// What is known of how others reach us has changed; see [`crate::Overlay::reachability`].
    ReachabilityChanged,
    /// A friend was found in the DHT; what was found of it before no longer holds. Nothing proves it before
    /// a dial.
    Found(Found),
    /// What was found of a friend no longer holds.
    NotFound(PublicKey),
    /// A lookup in the DHT is over.
    Lookup(Lookup),
    /// What is known of the DHT has changed; see [`crate::Overlay::dht`].
    DhtChanged,
    /// A part of the overlay does not work; the rest does.
    Failed(Failure),
}

/// A session that can move went to another path, or could not. Nothing of the session shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Which one; see [`LinkInfo::mobile`].
    pub session: MobileId,
    /// What carried it.
    pub from: Carrier,
    /// What carries it now, or would.
    pub to: Carrier,
    /// The remote end as text.
    pub remote: String,
    /// The connection under it.
    pub path: Path,
    /// `None` if it could not.
    pub how: Option<MoveFigures>,
}

/// How a move went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveFigures {
    /// For how long nothing could come.
    pub gap: Duration,
    /// Bytes that were said again.
    pub resent: u64,
}

impl From<swarm::Moved> for Moved {
    fn from(moved: swarm::Moved) -> Self {
        let swarm::Moved { id, from, to, remote, path, how } = moved;
        let how = how.map(|how| MoveFigures { gap: how.gap, resent: how.resent });
        Self { session: id, from, to, remote, path, how }
    }
}

/// Where a friend is, by its own word in the DHT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Who.
    pub feed: PublicKey,
    /// Its node.
    pub peer: TransportId,
    /// Circuits through relays, and direct addresses where it tells them.
    pub endpoints: Vec<Endpoint>,
    /// What kind of NAT its node is behind.
    pub nat: Nat,
    /// How old its word is.
    pub age: Duration,
    /// How long it took to find.
    pub took: Duration,
    /// How many nodes were asked.
    pub asked: usize,
}

/// What does not work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A port for beacons.
    #[error(transparent)]
    Beacons(#[from] BindError),
    /// A listener.
    #[error("no longer listening on {address}: {error}")]
    Listener {
        /// Where.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// A task of ours: a bug.
    #[error("the overlay's {0} task ended")]
    Task(&'static str),
}

/// Who claims that a feed is at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// mDNS, and the peer itself over `/ssb/lan-who/1`.
    Mdns,
    /// A plain UDP beacon.
    Beacon,
    /// A sealed UDP beacon.
    BeaconEncrypted,
}

impl Source {
    /// A bounded label for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Mdns => "mdns",
            Self::Beacon => "beacon",
            Self::BeaconEncrypted => "beacon_encrypted",
        }
    }
}
