//! How others can reach us.
//!
//! [`Machine`] works it out from what it is told: our own interfaces and sockets, at which address others
//! see us ([`observations`]), whom we have sent to ([`contacts`]), and what comes of asking servers to
//! dial us back ([`evidence`]). It knows neither clock nor socket nor libp2p.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::lan::Interfaces;

mod contacts;
mod evidence;
mod machine;
mod observations;
mod scope;

pub(crate) use machine::{Answer, Input, Link, Machine, Output};
pub use scope::Scope;
pub(crate) use scope::scope;

/// Ways to reach a host directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Transport {
    Quic,
    Tcp,
}

impl Transport {
    pub(crate) const ALL: [Self; 2] = [Self::Quic, Self::Tcp];
}

/// An address and by what it is dialled there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Target {
    pub(crate) transport: Transport,
    pub(crate) at: SocketAddr,
}

impl fmt::Display for Target {
    /// As a multiaddr.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = match self.at.ip() {
            IpAddr::V4(_) => 4,
            IpAddr::V6(_) => 6,
        };
        let (ip, port) = (self.at.ip(), self.at.port());
        match self.transport {
            Transport::Quic => write!(f, "/ip{version}/{ip}/udp/{port}/quic-v1"),
            Transport::Tcp => write!(f, "/ip{version}/{ip}/tcp/{port}"),
        }
    }
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Which addresses strangers could be at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AddressPolicy {
    /// Those of the Internet.
    #[default]
    Internet,
    /// Loopback too: tests have nothing else.
    #[cfg(test)]
    AndLoopback,
}

impl AddressPolicy {
    /// Whether strangers could be there.
    pub(crate) fn is_global(self, ip: IpAddr) -> bool {
        match self {
            Self::Internet => scope(ip) == Some(Scope::Public),
            #[cfg(test)]
            Self::AndLoopback => matches!(scope(ip), Some(Scope::Public | Scope::Device)),
        }
    }

    /// Whether one of our links leads to strangers there without a router between.
    pub(crate) fn is_near(self, ip: IpAddr, links: &Interfaces) -> bool {
        match self {
            Self::Internet => links.on_link(ip),
            #[cfg(test)]
            Self::AndLoopback => false,
        }
    }

    /// Whether somebody there is out on the Internet, and not at one of these addresses of ours.
    pub(crate) fn is_stranger(self, ip: IpAddr, ours: &[IpAddr]) -> bool {
        match self {
            Self::Internet => self.is_global(ip) && !ours.contains(&ip),
            #[cfg(test)]
            Self::AndLoopback => self.is_global(ip),
        }
    }
}

/// What is known, for people and for those who decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The sum of it.
    pub verdict: Verdict,
    /// By IPv4.
    pub v4: FamilyReport,
    /// By IPv6.
    pub v6: FamilyReport,
    /// Our own direct addresses that are known or suspected, as multiaddrs without our peer id.
    pub addresses: Vec<(String, AddressState)>,
    /// The relays that hold a reservation of ours: each as the multiaddr at which others dial us through
    /// it, peer id included.
    pub reservations: Vec<String>,
    /// Whether we relay for others.
    pub relaying: bool,
    /// Circuits that we carry for others now.
    pub circuits: usize,
}

/// Whether others can dial us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Not known yet.
    #[default]
    Unknown,
    /// At an address of our own.
    Public,
    /// Only through a relay or by punching.
    Private,
}

/// One IP version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FamilyReport {
    /// For UDP, hence QUIC.
    pub udp: Nat,
    /// For TCP.
    pub tcp: Nat,
    /// Who gets through to a port that we have sent from, where known.
    pub filtering: Filtering,
}

/// What happens to the address of what we send (RFC 4787, mapping).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Nat {
    /// Not known yet.
    #[default]
    Unknown,
    /// Nothing comes through.
    Blocked,
    /// It stays as it is.
    Untranslated,
    /// The outside port is the same for everybody, and the same as inside.
    EndpointIndependent,
    /// The outside port is the same for everybody, but another than inside.
    EndpointIndependentShifted,
    /// Another outside port for every destination, in constant steps.
    Sequential,
    /// Another outside port for every destination.
    Random,
}

impl Nat {
    /// Whether the outside port differs by destination, so that nobody can be told of it beforehand.
    pub const fn is_endpoint_dependent(self) -> bool {
        matches!(self, Self::Sequential | Self::Random)
    }
}

/// Who gets through to a port that we have sent from (RFC 4787, filtering).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Filtering {
    /// Not known yet.
    #[default]
    Unknown,
    /// Everybody.
    Open,
    /// Another port of an address that we have sent to; perhaps everybody.
    AddressOrOpen,
    /// Only whom we have sent to, address and port.
    AddressAndPort,
}

/// What is known of one of our own addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressState {
    /// Somebody has seen us there, or we listen there.
    Candidate,
    /// Others have reached us there.
    Reachable,
    /// They could not.
    Unreachable,
}
