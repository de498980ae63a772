//! Which libp2p identities belong to feeds that mean something to us, as SHS has proven or the feed's own
//! certificate says: what we relay for whom is decided by it before the peer has a session.

use std::collections::BTreeMap;
use std::time::Instant;

use hawsepipe_overlay::conn::TransportId;
use hawsepipe_overlay::keys::PublicKey;

/// Feeds whose transport identity is remembered at most, each with its latest one.
const MAX_TRANSPORTS: usize = 2_000;

/// See the module's header. The one proven longest ago makes room.
#[derive(Debug, Default)]
pub struct Transports(BTreeMap<PublicKey, (TransportId, Instant)>);

impl Transports {
    /// `key` has proven `id` to be its own. Returns whether that is new.
    pub fn remember(&mut self, key: PublicKey, id: TransportId, now: Instant) -> bool {
        if self.0.len() >= MAX_TRANSPORTS && !self.0.contains_key(&key) {
            let oldest = self.0.iter().min_by_key(|(_, (_, at))| *at).map(|(key, _)| *key);
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        let before = self.0.insert(key, (id, now));
        before.map(|(id, _)| id).as_ref() != self.0.get(&key).map(|(id, _)| id)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (PublicKey, &TransportId)> {
        self.0.iter().map(|(key, (id, _))| (*key, id))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_makes_room_and_the_latest_identity_counts() {
        #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
        let start = Instant::now();
        let key = |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&(n as u64).to_be_bytes());
            PublicKey::from_bytes(bytes)
        };
        let id = |n: usize| TransportId::parse(&format!("12D3Koo{n}")).unwrap();
        let at = |n: usize| start + Duration::from_secs(n as u64);
        let mut transports = Transports::default();
        for n in 0..MAX_TRANSPORTS {
            assert!(transports.remember(key(n), id(n), at(n)));
        }
        assert!(!transports.remember(key(0), id(0), at(MAX_TRANSPORTS)));
        assert!(transports.remember(key(0), id(7), at(MAX_TRANSPORTS)));
        assert!(transports.remember(key(MAX_TRANSPORTS), id(8), at(MAX_TRANSPORTS + 1)));
        assert_eq!(transports.iter().count(), MAX_TRANSPORTS);
        assert!(transports.iter().all(|(of, _)| of != key(1)), "it was proven longest ago");
        assert_eq!(transports.iter().next(), Some((key(0), &id(7))));
    }
}
