//! Relays: what we relay for whom, and which relays we use ourselves.

use std::time::Duration;

/// What a peer is to us, as far as relaying goes. The node fills it from the social graph after SHS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Nobody we know: enough for an introduction and a direct connection.
    #[default]
    Stranger,
    /// Within our replication hops: real traffic.
    Member,
    /// Followed by us: real traffic, and the first to get it.
    Friend,
    /// Blocked by us: nothing.
    Blocked,
}

impl Tier {
    /// A name for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Member => "member",
            Self::Friend => "friend",
            Self::Blocked => "blocked",
        }
    }
}

/// When we relay for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RelayService {
    /// While others reach us at an address of our own that no router translates: a pub, not a home.
    #[default]
    Auto,
    /// Unless we are known to be unreachable.
    Always,
    /// Never.
    Never,
}

/// What one circuit may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CircuitLimit {
    /// How long it may stand.
    pub duration: Duration,
    /// How many bytes it may carry, both directions together.
    pub bytes: u64,
}

/// For strangers: a handshake, a few addresses, and time to connect directly.
pub const STRANGER_CIRCUIT: CircuitLimit =
    CircuitLimit { duration: Duration::from_secs(2 * 60), bytes: 256 << 10 };
/// For members: enough to catch up with a few feeds where nothing direct comes about.
pub const MEMBER_CIRCUIT: CircuitLimit =
    CircuitLimit { duration: Duration::from_secs(30 * 60), bytes: 16 << 20 };
/// For friends: a first sync and an evening of live updates.
pub const FRIEND_CIRCUIT: CircuitLimit =
    CircuitLimit { duration: Duration::from_secs(2 * 60 * 60), bytes: 128 << 20 };

/// What we carry in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayTotals {
    /// Reservations held at a time.
    pub reservations: usize,
    /// Circuits standing at a time.
    pub circuits: usize,
}

/// A public node.
pub const PUB_TOTALS: RelayTotals = RelayTotals { reservations: 1024, circuits: 512 };
/// A node at home, whose line its people use for other things as well.
pub const HOME_TOTALS: RelayTotals = RelayTotals { reservations: 16, circuits: 8 };

impl RelayTotals {
    /// The share of these that a tier may take, so that those below leave something to those above.
    #[must_use]
    pub const fn share(self, tier: Tier) -> Self {
        let Self { reservations, circuits } = self;
        match tier {
            Tier::Stranger => Self { reservations: reservations / 2, circuits: circuits / 2 },
            Tier::Member => Self { reservations: reservations / 4 * 3, circuits: circuits / 4 * 3 },
            Tier::Friend => self,
            Tier::Blocked => Self { reservations: 0, circuits: 0 },
        }
    }
}
