//! Who may have a session, and what a session may do (protocol guide; secret-stack's auth hook):
//!
//! | who | session | rights |
//! |---|---|---|
//! | a key we block | refused before a dial and between SHS messages 3 and 4 | none |
//! | our own key or one in `master`, dialling us; the `unix:` socket | yes | everything |
//! | everyone else, and everyone *we* dialled | yes, while there is room | the anonymous list |
//!
//! A dialled peer never gets master rights, whatever its key: otherwise whoever answers at a master's
//! address would inherit them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hawsepipe_overlay::conn::{Carrier, Direction, Gate, LinkInfo, Refused};
use hawsepipe_overlay::keys::PublicKey;

use crate::metrics::Metrics;

/// Sessions at once, local clients not counted.
pub const MAX_SESSIONS: usize = 400;

/// What a session may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rights {
    /// The methods that replication and keep-alive need.
    Anonymous,
    /// Every method.
    Master,
}

/// The rule of the table in this module's header.
#[derive(Debug)]
pub struct Access {
    own: PublicKey,
    masters: BTreeSet<PublicKey>,
    /// Guards the set of keys we block; written by the engine when the graph changes.
    blocked: RwLock<BTreeSet<PublicKey>>,
    sessions: AtomicUsize,
    metrics: Arc<Metrics>,
}

impl Access {
    /// Nobody is blocked yet.
    pub fn new(own: PublicKey, masters: BTreeSet<PublicKey>, metrics: Arc<Metrics>) -> Self {
        Self { own, masters, blocked: RwLock::default(), sessions: AtomicUsize::new(0), metrics }
    }

    /// Replaces the set of blocked keys.
    pub fn set_blocked(&self, keys: BTreeSet<PublicKey>) {
        *self.blocked.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Tells how many sessions are open, local clients not counted.
    pub fn set_sessions(&self, open: usize) {
        self.sessions.store(open, Ordering::Relaxed);
    }

    /// Whether we block `key`.
    pub fn is_blocked(&self, key: PublicKey) -> bool {
        self.blocked.read().unwrap_or_else(PoisonError::into_inner).contains(&key)
    }

    /// What a session with `peer` over `link` may do.
    pub fn rights(&self, peer: PublicKey, link: &LinkInfo) -> Rights {
        let local = link.carrier == Carrier::Unix;
        let master = peer == self.own || self.masters.contains(&peer);
        if link.direction == Direction::Inbound && (local || master) {
            Rights::Master
        } else {
            Rights::Anonymous
        }
    }

    fn judge(&self, peer: PublicKey, link: &LinkInfo) -> Result<(), Refused> {
        if self.is_blocked(peer) {
            return Err(Refused::Blocked);
        }
        // A full node must still let its owner in.
        let full = self.sessions.load(Ordering::Relaxed) >= MAX_SESSIONS;
        if full && self.rights(peer, link) != Rights::Master { Err(Refused::Full) } else { Ok(()) }
    }
}

impl Gate for Access {
    fn admit(&self, peer: PublicKey, link: &LinkInfo) -> Result<(), Refused> {
        let verdict = self.judge(peer, link);
        let direction = match link.direction {
            Direction::Inbound => "in",
            Direction::Outbound => "out",
        };
        let outcome = match verdict {
            Ok(()) => "allowed",
            Err(Refused::Blocked) => "blocked",
            Err(Refused::Full) => "full",
        };
        self.metrics.connect.authorize.with_label_values(&[direction, outcome]).inc();
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> PublicKey {
        PublicKey::from_bytes([n; 32])
    }

    fn link(direction: Direction, carrier: Carrier) -> LinkInfo {
        LinkInfo { direction, carrier, remote: "test".into(), path: None }
    }

    #[test]
    fn the_table_of_rights_holds() {
        use Carrier::{Net, Quic, Unix};
        use Direction::{Inbound, Outbound};
        use Rights::{Anonymous, Master};
        let access = Access::new(key(1), BTreeSet::from([key(2)]), Arc::default());
        for (peer, direction, carrier, rights) in [
            (key(1), Inbound, Net, Master),
            (key(1), Inbound, Unix, Master),
            (key(2), Inbound, Quic, Master),
            (key(3), Inbound, Net, Anonymous),
            (key(1), Outbound, Net, Anonymous),
            (key(2), Outbound, Quic, Anonymous),
            (key(3), Outbound, Net, Anonymous),
        ] {
            assert_eq!(
                access.rights(peer, &link(direction, carrier)),
                rights,
                "{peer:?} {direction:?} {carrier:?}"
            );
        }
    }

    #[test]
    fn blocked_keys_are_refused_both_ways_and_a_full_node_lets_its_owner_in() {
        let access = Access::new(key(1), BTreeSet::new(), Arc::default());
        access.set_blocked(BTreeSet::from([key(9)]));
        let inbound = link(Direction::Inbound, Carrier::Net);
        assert_eq!(access.admit(key(9), &inbound), Err(Refused::Blocked));
        assert_eq!(access.admit(key(9), &link(Direction::Outbound, Carrier::Quic)), Err(Refused::Blocked));
        access.set_sessions(MAX_SESSIONS);
        assert_eq!(access.admit(key(3), &inbound), Err(Refused::Full));
        assert_eq!(access.admit(key(1), &inbound), Ok(()));
    }
}
