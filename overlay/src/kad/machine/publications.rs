//! Where our own records are kept: whoever publishes again goes straight there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::Contact;
use super::super::lookup::{ENOUGH, STORED_AT};

/// Most records remembered; the one found longest ago makes room.
const MAX_REMEMBERED: usize = 512;
/// How long after they were found the nodes closest to a key are believed to be so.
const TRUSTED: Duration = Duration::from_secs(2 * 60 * 60);

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct Publications {
    of: BTreeMap<Vec<u8>, Publication>,
}

#[derive(Debug)]
struct Publication {
    /// When they were looked for.
    found: Instant,
    keepers: Vec<Contact>,
}

impl Publications {
    /// These keep the record; `found` if they were looked for, and not only asked again.
    pub(super) fn remember(&mut self, now: Instant, key: &[u8], mut keepers: Vec<Contact>, found: bool) {
        keepers.truncate(STORED_AT);
        let before = self.of.get(key).map(|publication| publication.found);
        let found = before.filter(|_| !found).unwrap_or(now);
        self.of.insert(key.to_vec(), Publication { found, keepers });
        if self.of.len() > MAX_REMEMBERED {
            let oldest = self.of.iter().min_by_key(|(_, of)| of.found).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.of.remove(&key));
        }
    }

    /// Those who keep the record under a key, if enough are known.
    pub(super) fn keepers(&self, now: Instant, key: &[u8]) -> Option<&[Contact]> {
        let publication = self.of.get(key)?;
        let is_fresh = now.saturating_duration_since(publication.found) < TRUSTED;
        (is_fresh && publication.keepers.len() > ENOUGH).then_some(publication.keepers.as_slice())
    }
}
