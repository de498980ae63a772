//! What private messages say and name, in memory alone: it is made again with each start.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};

use hawsepipe_replication::message::links;
use hawsepipe_replication::store::{Reader, Stored};

use super::SearchError;
use super::document;
use super::index::{Field, Hit, Index, IndexError};
use super::words::Asked;
use crate::private::Private;

/// The newest private messages that can be searched for. Each takes about as much memory as it has text.
const MAX_MESSAGES: usize = 50_000;
/// Messages that are opened together.
const CHUNK: usize = 512;

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct Secret {
    words: Option<Index>,
    /// Hashes of what is named, and the places of the messages that do so.
    links: BTreeMap<u64, Vec<u64>>,
    /// The places of all messages that it knows, ascending.
    places: Vec<u64>,
    /// Older ones are left out.
    first: u64,
    hasher: RandomState,
}

impl Secret {
    /// Takes in the messages that can be read by now.
    pub(super) fn refresh(&mut self, private: &Private, reader: &Reader) -> Result<(), SearchError> {
        let readable = private.read_index().readable(self.first..u64::MAX);
        if readable == self.places {
            return Ok(());
        }
        if self.places.iter().any(|place| readable.binary_search(place).is_err()) {
            self.clear();
        }
        if self.places.is_empty() {
            self.first = readable.iter().rev().nth(MAX_MESSAGES).map_or(0, |place| place + 1);
        }
        let is_new = |place: &u64| *place >= self.first && self.places.binary_search(place).is_err();
        let new: Vec<u64> = readable.into_iter().filter(is_new).collect();
        for places in new.chunks(CHUNK) {
            let messages = reader.at_offsets(places.to_vec()).collect::<Result<Vec<_>, _>>()?;
            self.add(private, &messages)?;
            self.places.extend(places);
            self.places.sort_unstable();
        }
        Ok(())
    }

    fn add(&mut self, private: &Private, messages: &[Stored]) -> Result<(), IndexError> {
        let sealed: Vec<_> = messages.iter().map(|stored| stored.message.clone()).collect();
        let opened = private.keyring().open_all(&sealed);
        let mut documents = Vec::new();
        for (stored, opened) in messages.iter().zip(&opened) {
            let Some(opened) = opened else { continue };
            documents.extend(document(stored, Some(opened)).map(|document| (stored.offset, document)));
            for dest in links(opened.content_json()) {
                self.links.entry(self.hasher.hash_one(dest)).or_default().push(stored.offset);
            }
        }
        let words = match &mut self.words {
            Some(words) => words,
            None => self.words.insert(Index::in_memory()?),
        };
        words.add_some(&documents)
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn find(
        &self,
        field: Field,
        asked: &[Asked],
        most: usize,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Vec<Hit>, IndexError> {
        self.words.as_ref().map_or(Ok(Vec::new()), |words| words.find(field, asked, most, goes_on))
    }

    /// Where messages that name something may lie, ascending.
    pub(super) fn links(&self, dest: &str) -> Vec<u64> {
        let mut places = self.links.get(&self.hasher.hash_one(dest)).cloned().unwrap_or_default();
        places.sort_unstable();
        places
    }
}
