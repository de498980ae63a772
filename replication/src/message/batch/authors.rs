//! What is known of authors' keys, so that each is tested once and not with every batch.

use std::collections::{BTreeMap, BTreeSet};

use curve25519_dalek::EdwardsPoint;
use rayon::prelude::*;

use super::equation;
use crate::refs::FeedId;

/// A key's point, if it is fit for the equation.
type Key = Option<EdwardsPoint>;

/// How many keys are remembered: at least this many of those used last, at most twice as many. About
/// 300 bytes each.
const REMEMBERED: usize = 8192;

/// A bounded memory of keys. What was not used while as many others were as it has room for is forgotten.
#[derive(Debug, Default)]
pub(super) struct Authors {
    recent: BTreeMap<FeedId, Key>,
    older: BTreeMap<FeedId, Key>,
}

impl Authors {
    /// The keys of all these authors; what is not known is found out, on all cores.
    pub(super) fn keys(&mut self, authors: BTreeSet<FeedId>) -> BTreeMap<FeedId, Key> {
        let (known, unknown): (Vec<_>, Vec<_>) = authors
            .into_iter()
            .map(|author| (author, self.recall(&author)))
            .partition(|(_, key)| key.is_some());
        let tested = unknown.into_par_iter().map(|(author, _)| (author, equation::key(&author.to_bytes())));
        let tested: Vec<_> = tested.collect();
        for (author, key) in &tested {
            self.remember(*author, *key);
        }
        known.into_iter().filter_map(|(author, key)| Some((author, key?))).chain(tested).collect()
    }

    fn recall(&mut self, author: &FeedId) -> Option<Key> {
        if let Some(key) = self.recent.get(author) {
            return Some(*key);
        }
        let key = self.older.remove(author)?;
        self.remember(*author, key);
        Some(key)
    }

    fn remember(&mut self, author: FeedId, key: Key) {
        if self.recent.len() >= REMEMBERED {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(author, key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn author(n: usize) -> FeedId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        FeedId::from_bytes(bytes)
    }

    #[test]
    fn what_is_known_is_bounded_and_what_is_used_stays() {
        let mut authors = Authors::default();
        authors.remember(author(0), None);
        for n in 1..5 * REMEMBERED {
            authors.remember(author(n), None);
            if n % (REMEMBERED / 2) == 0 {
                assert_eq!(authors.recall(&author(0)), Some(None));
            }
            assert!(authors.recent.len() <= REMEMBERED && authors.older.len() <= REMEMBERED);
        }
        assert_eq!(authors.recall(&author(1)), None);
        assert_eq!(authors.recall(&author(5 * REMEMBERED - 1)), Some(None));
    }

    #[test]
    fn keys_are_the_same_when_remembered() {
        ssb_crypto::sodium::init().unwrap();
        let good = FeedId::from_bytes(ssb_crypto::Keypair::from_seed(&[1; 32]).unwrap().public.0);
        let asked = BTreeSet::from([good, author(0), author(1), author(2)]);
        let mut authors = Authors::default();
        let first = authors.keys(asked.clone());
        assert_eq!(first.len(), 4);
        assert!(first[&good].is_some());
        assert_eq!(first[&author(1)], None);
        assert_eq!(authors.keys(asked), first);
    }
}
