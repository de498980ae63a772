//! Messages that were fetched out of order, in a file of their own: a line of JSON each, `{key, value, timestamp}`.
//!
//! It is a memory, not a store: what is lost can be fetched again, so nothing waits for the disk. When it is full, the
//! older half goes. A line that cannot be read is passed over.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::message::{HmacKey, Message, validate_out_of_order};
use crate::refs::MessageId;

/// Messages that are kept.
pub const MAX_MESSAGES: usize = 10_000;
/// Bytes of them, as lines.
pub const MAX_BYTES: u64 = 32 << 20;

/// A message, and when it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    /// The message.
    pub message: Message,
    /// Milliseconds since 1970.
    pub received: f64,
}

/// A line.
#[derive(Deserialize)]
struct Line<'a> {
    key: MessageId,
    #[serde(borrow)]
    value: &'a RawValue,
    timestamp: f64,
}

/// The file.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    file: File,
    end: u64,
    /// Where the line of each message is, and how long.
    places: BTreeMap<MessageId, (u64, usize)>,
}

impl Kept {
    /// Opens the file, or makes it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut kept = Self { path: path.to_owned(), file, end: 0, places: BTreeMap::new() };
        let mut lines = BufReader::new(File::open(path)?);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            if !line.ends_with(b"\n") {
                // A write that was not finished.
                kept.file.set_len(kept.end)?;
                break;
            }
            if let Ok(Line { key, .. }) = serde_json::from_slice(&line) {
                kept.places.insert(key, (kept.end, line.len()));
            }
            kept.end += line.len() as u64;
            line.clear();
        }
        Ok(kept)
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// A message, verified again: nobody else watches this file.
    pub fn get(&self, id: &MessageId, hmac: Option<&HmacKey>) -> io::Result<Option<Fetched>> {
        let Some((at, length)) = self.places.get(id) else { return Ok(None) };
        let mut line = vec![0; *length];
        self.file.read_exact_at(&mut line, *at)?;
        let Ok(Line { value, timestamp, .. }) = serde_json::from_slice(&line) else { return Ok(None) };
        let message = validate_out_of_order(value.get().as_bytes(), hmac, Some(id));
        Ok(message.ok().map(|message| Fetched { message, received: timestamp }))
    }

    /// Keeps a message that came at `received`.
    pub fn add(&mut self, message: &Message, received: f64) -> io::Result<()> {
        if self.places.contains_key(&message.id()) {
            return Ok(());
        }
        let mut line = message.key_value_timestamp(received);
        line.push(b'\n');
        if self.places.len() >= MAX_MESSAGES || self.end + line.len() as u64 > MAX_BYTES {
            self.forget_older_half()?;
        }
        self.file.write_all(&line)?;
        self.places.insert(message.id(), (self.end, line.len()));
        self.end += line.len() as u64;
        Ok(())
    }

    pub(super) fn forget_older_half(&mut self) -> io::Result<()> {
        let mut places: Vec<_> = self.places.values().copied().collect();
        places.sort_unstable();
        let temp = self.path.with_extension("new");
        let mut out = BufWriter::new(File::create(&temp)?);
        for (at, length) in places.split_off(places.len() / 2) {
            let mut line = vec![0; length];
            self.file.read_exact_at(&mut line, at)?;
            out.write_all(&line)?;
        }
        out.flush()?;
        fs::rename(&temp, &self.path)?;
        *self = Self::open(&self.path)?;
        Ok(())
    }
}
