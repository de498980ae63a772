//! The corpus of the interop tests: 20,000 messages of 200 authors with the shapes and proportions of the
//! public network, made once by `ssb-fixtures` and kept in `tests/.cache`.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::{js, package_dir};

/// How many messages the corpus has.
pub const MESSAGES: usize = 20_000;

/// The corpus on disk.
#[derive(Debug, Clone)]
pub struct Corpus {
    dir: PathBuf,
    /// How many messages each author has.
    pub clock: Vec<(String, u64)>,
}

impl Corpus {
    /// The corpus, made now if this checkout has none yet.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn load() -> Self {
        let dir = package_dir().join(".cache").join("corpus");
        fs::create_dir_all(&dir).expect("tests/.cache is writable");
        let lock = File::create(dir.join("lock")).expect("tests/.cache is writable");
        lock.lock().expect("tests/.cache is on a disk with file locks");
        if !dir.join("messages.jsonl").exists() {
            js::installed("tools", "ssb-fixtures");
            let made = Command::new("node").arg(package_dir().join("js/tools/corpus.js")).arg(&dir).status();
            let made =
                made.unwrap_or_else(|e| panic!("cannot start `node` ({e}): install nodejs 20 or newer"));
            assert!(made.success(), "the corpus could not be made: see above");
        }
        let clock = fs::read_to_string(dir.join("clock.json")).expect("the corpus has a clock");
        let clock: Value = serde_json::from_str(&clock).expect("the clock is JSON");
        let clock = clock.as_object().into_iter().flatten();
        let clock = clock.filter_map(|(id, sequence)| Some((id.clone(), sequence.as_u64()?))).collect();
        Self { dir, clock }
    }

    /// The file with one `{key, value}` a line.
    pub fn messages(&self) -> PathBuf {
        self.dir.join("messages.jsonl")
    }

    /// The authors' feed ids.
    pub fn authors(&self) -> impl Iterator<Item = &str> {
        self.clock.iter().map(|(id, _)| id.as_str())
    }

    /// The ids of all messages, sorted.
    ///
    /// # Panics
    /// When the file is not what [`Corpus::load`] made.
    pub fn ids(&self) -> Vec<String> {
        let text = fs::read_to_string(self.messages()).expect("the corpus is on disk");
        let key = |line: &str| {
            let message: Value = serde_json::from_str(line).expect("a line is JSON");
            message["key"].as_str().expect("a message has a key").to_owned()
        };
        let mut ids: Vec<String> = text.lines().map(key).collect();
        ids.sort();
        assert_eq!(ids.len(), MESSAGES, "tests/.cache/corpus is damaged: remove it");
        ids
    }
}
