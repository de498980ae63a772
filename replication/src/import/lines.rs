//! Messages as lines of JSON: what our own backups are, and what `createLogStream` of any server prints. A line
//! is `{"key":…,"value":…,"timestamp":…}` or the message alone.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Damage, Found, Log, Passed, Raw};

/// The longest line. A message is much shorter.
const MAX_LINE: u64 = 1 << 20;
const BUFFER: usize = 1 << 20;

/// A message with its key and the time of its reception, as JavaScript's servers write it; or a bare message.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow, default)]
    key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow, default)]
    author: Option<&'a RawValue>,
}

/// Just the author of a message.
#[derive(Deserialize)]
struct Author<'a> {
    #[serde(borrow)]
    author: &'a RawValue,
}

/// What a record in JSON is; `None` if it is none.
pub(super) fn record(offset: u64, json: &[u8]) -> Option<Found> {
    let text = std::str::from_utf8(json).ok()?;
    let read: Record<'_> = serde_json::from_str(text).ok()?;
    let Some(value) = read.value.map(RawValue::get) else {
        let format = format_of(read.author?.get());
        let raw = Raw { offset, key: None, value: json.to_vec(), received: None };
        return Some(format.map_or(Found::Message(raw), |format| Found::Passed(Passed::Format(format))));
    };
    let author: Author<'_> = serde_json::from_str(value).ok()?;
    if let Some(format) = format_of(author.author.get()) {
        return Some(Found::Passed(Passed::Format(format)));
    }
    Some(Found::Message(Raw {
        offset,
        key: read.key.and_then(|key| key.get().trim_matches('"').parse().ok()),
        value: value.as_bytes().to_vec(),
        received: read.timestamp.and_then(|time| time.get().parse().ok()),
    }))
}

/// The format of a feed that is not classic, by its id with or without quotes.
pub(super) fn format_of(author: &str) -> Option<&'static str> {
    const KNOWN: [&str; 5] = ["bendybutt-v1", "buttwoo-v1", "indexed-v1", "gabbygrove-v1", "bamboo"];
    let id = author.trim_matches('"');
    if let Some(uri) = id.strip_prefix("ssb:").map(|rest| rest.trim_start_matches('/')) {
        let named = KNOWN.into_iter().find(|name| {
            uri.strip_prefix("feed/").is_some_and(|rest| rest.split(['/', ':']).next() == Some(*name))
        });
        return Some(named.unwrap_or("other"));
    }
    id.ends_with(".ggfeed-v1").then_some("gabbygrove-v1")
}

/// Reads lines from anywhere.
pub struct Lines<R> {
    input: BufReader<R>,
    at: u64,
    len: u64,
    line: Vec<u8>,
}

impl<R> std::fmt::Debug for Lines<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("at", &self.at).field("len", &self.len).finish_non_exhaustive()
    }
}

impl Lines<File> {
    /// Opens a file for reading.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { len, ..Self::of(file) })
    }
}

impl<R: io::Read> Lines<R> {
    /// Reads `input`, whose length is not known.
    pub fn of(input: R) -> Self {
        Self { input: BufReader::with_capacity(BUFFER, input), at: 0, len: 0, line: Vec::new() }
    }

    /// Reads the next line, or as much of it as may be; false at the end.
    fn read_line(&mut self) -> io::Result<bool> {
        self.line.clear();
        let read = self.input.by_ref().take(MAX_LINE).read_until(b'\n', &mut self.line)?;
        self.at += read as u64;
        Ok(read > 0)
    }

    /// Passes over the rest of a line that is too long.
    fn skip_line(&mut self) -> io::Result<()> {
        while !self.line.ends_with(b"\n") && self.read_line()? {}
        Ok(())
    }
}

impl<R: io::Read> Log for Lines<R> {
    fn next(&mut self) -> io::Result<Option<Found>> {
        loop {
            let offset = self.at;
            if !self.read_line()? {
                return Ok(None);
            }
            if self.line.trim_ascii().is_empty() && self.line.len() < MAX_LINE as usize {
                continue;
            }
            if self.line.len() as u64 == MAX_LINE && !self.line.ends_with(b"\n") {
                self.skip_line()?;
                return Ok(Some(Found::Damage(Damage { offset, bytes: self.at - offset })));
            }
            let found = record(offset, &self.line);
            return Ok(Some(found.unwrap_or(Found::Damage(Damage { offset, bytes: self.at - offset }))));
        }
    }

    fn progress(&self) -> (u64, u64) {
        (self.at, self.len.max(self.at))
    }
}
