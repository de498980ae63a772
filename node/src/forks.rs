//! Forked feeds and the proof that they are: one file a feed in `hawsepipe/forks`, shown by the method `forks`.
//!
//! A file has three lines of JSON: `{"from":PEER,"seen":MS}`, the message that is kept, the message that was
//! refused. What always holds: both messages are verified and contradict each other, also after a
//! start; the first proof of a feed stays; there are at most [`MAX`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use hawsepipe_replication::ebt::{Peer, clock_file_name};
use hawsepipe_replication::message::{Fork, HmacKey, Message, validate_out_of_order};
use hawsepipe_replication::refs::FeedId;
use serde::{Deserialize, Serialize};

/// Feeds of which a proof is kept. Each takes at most two messages of 24 KiB.
pub const MAX: usize = 1_000;

/// How a fork was found.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Origin {
    /// The peer that sent the refused message; seldom the one to blame.
    pub from: FeedId,
    /// When, in milliseconds since 1970.
    pub seen: f64,
}

/// The forks that are known.
#[derive(Debug)]
pub struct Forks {
    dir: PathBuf,
    /// Guards the proofs; held only to look one up or to add one.
    known: RwLock<BTreeMap<FeedId, (Origin, Fork)>>,
}

impl Forks {
    /// Reads the proofs of earlier runs. A file that proves nothing is left alone.
    pub fn load(dir: PathBuf, hmac: Option<&HmacKey>) -> Self {
        let files =
            std::fs::read_dir(&dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        let is_proof = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "jsonl");
        let mut known = BTreeMap::new();
        for path in files.filter(is_proof).take(MAX) {
            match std::fs::read(&path).ok().and_then(|text| read(&text, hmac)) {
                Some((origin, fork)) => {
                    known.insert(fork.feed(), (origin, fork));
                }
                None => tracing::warn!(path = %path.display(), "this file proves no fork"),
            }
        }
        Self { dir, known: RwLock::new(known) }
    }

    /// Takes in a proof. If it is the first of its feed, gives the file to write.
    pub fn add(&self, origin: Origin, fork: Fork) -> Option<(PathBuf, Vec<u8>)> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX || known.contains_key(&fork.feed()) {
            return None;
        }
        let file = (file_of(&self.dir, &fork.feed()), write(&origin, &fork));
        known.insert(fork.feed(), (origin, fork));
        Some(file)
    }

    /// How many feeds are known to be forked.
    pub fn len(&self) -> usize {
        self.known.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this feed is.
    pub fn has(&self, feed: &FeedId) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).contains_key(feed)
    }

    /// Each proof as a JSON object: `feed`, `from`, `seen`, and the messages `kept` and `refused` with their keys.
    pub fn to_json(&self) -> Vec<String> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().map(|(origin, fork)| object(origin, fork)).collect()
    }
}

fn file_of(dir: &Path, feed: &FeedId) -> PathBuf {
    // The name that the feed's clock would have: safe for every file system, and readable.
    dir.join(format!("{}.jsonl", clock_file_name(&Peer(*feed))))
}

fn object(Origin { from, seen }: &Origin, fork: &Fork) -> String {
    let message = |message: &Message| format!(r#"{{"key":"{}","value":{}}}"#, message.id(), text_of(message));
    let (feed, kept, refused) = (fork.feed(), message(fork.held()), message(fork.refused()));
    format!(r#"{{"feed":"{feed}","from":"{from}","seen":{seen},"kept":{kept},"refused":{refused}}}"#)
}

fn text_of(message: &Message) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(message.value_bytes())
}

fn write(origin: &Origin, fork: &Fork) -> Vec<u8> {
    let origin = serde_json::to_string(origin).expect("an id and a number are JSON");
    let (held, refused) = (text_of(fork.held()), text_of(fork.refused()));
    format!("{origin}\n{held}\n{refused}\n").into_bytes()
}

fn read(text: &[u8], hmac: Option<&HmacKey>) -> Option<(Origin, Fork)> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let origin = serde_json::from_slice(lines.next()?).ok()?;
    let mut message = || validate_out_of_order(lines.next()?, hmac, None).ok();
    let (held, refused) = (message()?, message()?);
    Some((origin, Fork::new(held, refused)?))
}

#[cfg(test)]
mod tests {
    use hawsepipe_replication::message::sign;
    use ssb_crypto::Keypair;

    use super::*;

    fn fork() -> Fork {
        crate::init_crypto();
        let author = Keypair::generate();
        let write = |text: &str| {
            let content = format!(r#"{{"type":"post","text":"{text}"}}"#);
            sign(&author, None, None, 1.0, content.as_bytes()).unwrap()
        };
        Fork::new(write("one"), write("\\ud800 other")).unwrap()
    }

    #[test]
    fn proofs_survive_a_restart_and_what_proves_nothing_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let forks = Forks::load(dir.path().to_owned(), None);
        assert!(forks.is_empty());
        let (fork, origin) = (fork(), Origin { from: FeedId::from_bytes([7; 32]), seen: 1.5 });
        let (path, text) = forks.add(origin, fork.clone()).unwrap();
        std::fs::write(path, &text).unwrap();
        assert_eq!(forks.add(Origin { seen: 9.0, ..origin }, fork.clone()), None, "the first proof stays");

        let first_line_only = text.split_inclusive(|byte| *byte == b'\n').next().unwrap();
        let twice_the_same: Vec<_> = text
            .split_inclusive(|byte| *byte == b'\n')
            .take(2)
            .chain([text.split(|b| *b == b'\n').nth(1).unwrap()])
            .collect();
        std::fs::write(dir.path().join("cut.jsonl"), first_line_only).unwrap();
        std::fs::write(dir.path().join("same.jsonl"), twice_the_same.concat()).unwrap();
        let again = Forks::load(dir.path().to_owned(), None);
        assert_eq!((again.len(), again.has(&fork.feed())), (1, true));
        assert_eq!(again.to_json(), forks.to_json());
        let shown: serde_json::Value =
            serde_json::from_str(&again.to_json()[0].replace("\\ud800", "")).unwrap();
        assert_eq!(shown["kept"]["key"], fork.held().id().to_string());
        assert_eq!(shown["refused"]["value"]["author"], fork.feed().to_string());
    }

    #[test]
    fn there_are_only_so_many() {
        let forks = Forks::load(PathBuf::from("nowhere"), None);
        let origin = Origin { from: FeedId::from_bytes([7; 32]), seen: 1.5 };
        for n in 0..=MAX {
            assert_eq!(forks.add(origin, fork()).is_some(), n < MAX);
        }
    }
}
