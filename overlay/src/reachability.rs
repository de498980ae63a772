//! How others can reach us.

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
