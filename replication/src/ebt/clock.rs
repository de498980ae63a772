//! What is stored of a peer's clock between sessions, as JSON in a file per peer.
//!
//! The file's name and content are those of the JavaScript peers: the peer's id made safe for a file
//! name, and an object of feed and *decoded* sequence, -1 for a feed that the peer refuses.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::{Note, Peer};
use crate::refs::FeedId;

/// The largest integer that survives JavaScript's numbers.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// What a peer holds of a feed, by its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It does not replicate the feed. Written as -1.
    Refused,
    /// It holds the feed up to this sequence.
    At(u64),
}

impl Stored {
    /// The sequence, if the feed is replicated.
    pub const fn sequence(self) -> Option<u64> {
        match self {
            Self::Refused => None,
            Self::At(sequence) => Some(sequence),
        }
    }
}

impl From<Note> for Stored {
    fn from(note: Note) -> Self {
        if note.replicate { Self::At(note.sequence) } else { Self::Refused }
    }
}

impl Serialize for Stored {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Refused => serializer.serialize_i64(-1),
            Self::At(sequence) => serializer.serialize_u64(sequence),
        }
    }
}

/// What we believe that a peer holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct PeerClock(BTreeMap<FeedId, Stored>);

/// A clock file's content is not a JSON object.
#[derive(Debug, thiserror::Error)]
#[error("not a peer clock: {0}")]
pub struct InvalidClock(#[from] serde_json::Error);

impl PeerClock {
    /// Reads a clock file. Keys that are no feeds and values that are no sequences are dropped, as an
    /// older bug of other peers wrote such.
    pub fn from_json(json: &[u8]) -> Result<Self, InvalidClock> {
        let entries: BTreeMap<String, serde_json::Value> = serde_json::from_slice(json)?;
        let entry = |(feed, value): (String, serde_json::Value)| {
            let feed = feed.parse().ok()?;
            let stored = match value.as_i64()? {
                -1 => Stored::Refused,
                sequence => Stored::At(u64::try_from(sequence).ok().filter(|&s| s <= MAX_SAFE_INTEGER)?),
            };
            Some((feed, stored))
        };
        Ok(Self(entries.into_iter().filter_map(entry).collect()))
    }

    /// Writes a clock file.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a map of strings and integers is JSON")
    }

    /// What the peer holds of `feed`, if anything is known.
    pub fn of(&self, feed: &FeedId) -> Option<Stored> {
        self.0.get(feed).copied()
    }

    /// How many feeds are known.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each feed with what the peer holds of it.
    pub fn iter(&self) -> impl Iterator<Item = (FeedId, Stored)> + '_ {
        self.0.iter().map(|(&feed, &stored)| (feed, stored))
    }
}

impl FromIterator<(FeedId, Stored)> for PeerClock {
    fn from_iter<I: IntoIterator<Item = (FeedId, Stored)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

/// The name of a peer's clock file in the folder `ebt`: its id with `/` as `_`, `+` as `-` and no `=`.
pub fn clock_file_name(peer: &Peer) -> String {
    peer.to_string().replace('/', "_").replace('+', "-").replace('=', "")
}

/// The peer whose clock file has this name.
pub fn peer_of_file_name(name: &str) -> Option<Peer> {
    let body = name.strip_prefix('@')?.strip_suffix(".ed25519")?;
    let id = format!("@{}=.ed25519", body.replace('_', "/").replace('-', "+"));
    id.parse().ok().map(Peer)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALICE: &str = "@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=.ed25519";

    #[test]
    fn a_file_of_a_javascript_peer_is_read_leniently() {
        let json = format!(r#"{{"{ALICE}":225,"%notafeed":3,"@short.ed25519":1}}"#);
        let clock = PeerClock::from_json(json.as_bytes()).unwrap();
        assert_eq!(clock.iter().collect::<Vec<_>>(), [(ALICE.parse().unwrap(), Stored::At(225))]);
        for bad in ["1.5", "\"7\"", "-2", "null", "1e300", "9007199254740992"] {
            let json = format!(r#"{{"{ALICE}":{bad}}}"#);
            assert!(PeerClock::from_json(json.as_bytes()).unwrap().is_empty(), "{bad}");
        }
        assert!(PeerClock::from_json(b"[]").is_err());
        assert!(PeerClock::from_json(b"").is_err());
    }

    #[test]
    fn a_refused_feed_is_written_as_minus_one() {
        let clock = PeerClock::from_iter([(ALICE.parse().unwrap(), Stored::Refused)]);
        assert_eq!(clock.to_json(), format!(r#"{{"{ALICE}":-1}}"#));
        assert_eq!(PeerClock::from_json(clock.to_json().as_bytes()).unwrap(), clock);
    }

    proptest! {
        #[test]
        fn clocks_survive_their_file(entries in prop::collection::btree_map(
            any::<[u8; 32]>(), -1i64..=MAX_SAFE_INTEGER as i64, 0..20,
        )) {
            let stored = |n: i64| u64::try_from(n).map_or(Stored::Refused, Stored::At);
            let clock: PeerClock = entries.into_iter().map(|(f, n)| (FeedId::from_bytes(f), stored(n))).collect();
            prop_assert_eq!(PeerClock::from_json(clock.to_json().as_bytes()).unwrap(), clock);
        }

        #[test]
        fn file_names_are_safe_and_lead_back(bytes: [u8; 32]) {
            let peer = Peer(FeedId::from_bytes(bytes));
            let name = clock_file_name(&peer);
            prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "@_-.".contains(c)));
            prop_assert_eq!(peer_of_file_name(&name), Some(peer));
        }

        #[test]
        fn no_bytes_and_no_name_panic(bytes: Vec<u8>, name: String) {
            let _ = PeerClock::from_json(&bytes);
            let _ = peer_of_file_name(&name);
        }
    }
}
