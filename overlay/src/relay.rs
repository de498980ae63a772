//! Relays: what we relay for whom, and which relays we use ourselves.

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
