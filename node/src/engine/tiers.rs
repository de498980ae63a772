//! Telling the overlay what transport peers are to us, so that it relays for whom we know. It only knows
//! libp2p identities; SHS has proven which feeds they belong to, or the feed's certificate says so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hawsepipe_overlay::conn::TransportId;
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::relay::Tier;

use super::{Engine, Open, SessionId};
use crate::scheduler::Relation;

/// Tiers told at once: the overlay's queue is short, and after a start there are many to tell.
const BATCH: usize = 16;
/// Until the next batch.
const PAUSE: Duration = Duration::from_millis(50);

/// What the overlay was told, and what it is still to be told.
#[derive(Debug, Default)]
pub(super) struct Tiers {
    told: BTreeMap<TransportId, Tier>,
    due: BTreeMap<TransportId, Tier>,
    at: Option<Instant>,
}

impl Tiers {
    /// From now on the peer is this to us. Whom we never mentioned is a stranger.
    fn set(&mut self, id: &TransportId, tier: Tier, now: Instant) {
        if self.told.get(id).copied().unwrap_or_default() == tier {
            self.due.remove(id);
            return;
        }
        self.due.insert(id.clone(), tier);
        self.at.get_or_insert(now);
    }

    /// All but these are strangers again: a peer may take a new identity at will.
    fn keep(&mut self, ids: &BTreeSet<&TransportId>, now: Instant) {
        self.told.retain(|id, tier| *tier != Tier::Stranger || ids.contains(id));
        let gone: Vec<_> = self.told.keys().filter(|id| !ids.contains(id)).cloned().collect();
        for id in gone {
            self.set(&id, Tier::Stranger, now);
        }
    }

    /// When the next batch is due.
    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.at
    }

    /// The next batch.
    fn take(&mut self, now: Instant) -> Vec<(TransportId, Tier)> {
        let mut batch = Vec::new();
        while batch.len() < BATCH
            && let Some((id, tier)) = self.due.pop_first()
        {
            self.told.insert(id.clone(), tier);
            batch.push((id, tier));
        }
        self.at = (!self.due.is_empty()).then_some(now + PAUSE);
        batch
    }
}

/// What a peer of this relation is to those who relay.
const fn tier(relation: Relation) -> Tier {
    match relation {
        Relation::Hops(0 | 1) => Tier::Friend,
        Relation::Hops(_) => Tier::Member,
        Relation::Stranger => Tier::Stranger,
        Relation::Blocked => Tier::Blocked,
    }
}

impl Engine {
    /// A session stands: SHS has proven whose transport identity that is.
    pub(super) fn on_transport_proven(&mut self, id: SessionId, now: Instant) {
        let Some(open) = self.sessions.get(&id) else { return };
        let (peer, path) = (open.peer, open.info.path.clone());
        let Some(path) = path else { return };
        self.on_transport_known(peer, path.peer, now);
    }

    /// A transport identity is the peer's.
    pub(super) fn on_transport_known(&mut self, peer: PublicKey, id: TransportId, now: Instant) {
        let tier = tier(self.relation(peer));
        if tier != Tier::Stranger {
            self.book.remember_transport(peer, id.clone(), now);
        }
        self.tiers.set(&id, tier, now);
    }

    /// The graph has changed, or known peers were read.
    pub(super) fn update_tiers(&mut self, now: Instant) {
        let with_path = |open: &Open| Some((open.peer, open.info.path.as_ref()?.peer.clone()));
        let open: Vec<_> = self.sessions.values().filter_map(with_path).collect();
        for (peer, id) in &open {
            // It may have become more than a stranger since its session began.
            if tier(self.relation(*peer)) != Tier::Stranger {
                self.book.remember_transport(*peer, id.clone(), now);
            }
        }
        let remembered = self.book.transports().iter();
        let known: Vec<(PublicKey, &TransportId)> =
            remembered.chain(open.iter().map(|(peer, id)| (*peer, id))).collect();
        self.tiers.keep(&known.iter().map(|(_, id)| *id).collect(), now);
        for (peer, id) in known {
            self.tiers.set(id, tier(self.relation(peer)), now);
        }
    }

    /// Tells what is due.
    pub(super) fn tell_tiers(&mut self, now: Instant) {
        if self.tiers.at.is_none_or(|at| now < at) {
            return;
        }
        for (id, tier) in self.tiers.take(now) {
            self.ctx.overlay.set_tier(id, tier);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> TransportId {
        TransportId::parse(&format!("12D3Koo{n}")).unwrap()
    }

    #[test]
    fn each_change_is_told_once_and_never_too_many_at_a_time() {
        #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
        let now = Instant::now();
        let mut tiers = Tiers::default();
        tiers.set(&id(0), Tier::Stranger, now);
        assert_eq!(tiers.poll_timeout(), None, "strangers are what everybody is");
        for n in 0..=BATCH {
            tiers.set(&id(n), Tier::Friend, now);
        }
        assert_eq!(tiers.poll_timeout(), Some(now));
        assert_eq!(tiers.take(now).len(), BATCH);
        assert_eq!(tiers.poll_timeout(), Some(now + PAUSE));
        assert_eq!(tiers.take(now).len(), 1);
        assert_eq!(tiers.poll_timeout(), None);
        for tier in [Tier::Friend, Tier::Blocked, Tier::Blocked] {
            tiers.set(&id(3), tier, now);
        }
        assert_eq!(tiers.take(now), [(id(3), Tier::Blocked)]);
        tiers.set(&id(3), Tier::Stranger, now);
        assert_eq!(tiers.take(now), [(id(3), Tier::Stranger)]);
        tiers.keep(&BTreeSet::from([&id(1)]), now);
        assert_eq!(tiers.take(now).len(), BATCH - 1, "all but one and the one that is a stranger already");
        tiers.keep(&BTreeSet::new(), now);
        assert_eq!(tiers.take(now), [(id(1), Tier::Stranger)]);
        tiers.keep(&BTreeSet::new(), now);
        assert!(tiers.told.is_empty());
    }

    #[test]
    fn the_nearer_in_the_graph_the_better() {
        let tiers = [0, 1, 2, 3].map(|hops| tier(Relation::Hops(hops)));
        assert_eq!(tiers, [Tier::Friend, Tier::Friend, Tier::Member, Tier::Member]);
        assert_eq!(tier(Relation::Blocked), Tier::Blocked);
        assert_eq!(tier(Relation::Stranger), Tier::Stranger);
    }
}
