//! Moving in: reads the logs of other SSB programs and puts their messages into our store.
//!
//! ```text
//! file --Log--> Found --check, batch verification--> Message --> Writer
//! ```
//!
//! A [`Log`] turns one file format into [`Found`] things; it only ever reads. [`import`] does the rest, with
//! reading, verifying and writing at the same time on threads of their own. Nothing of what a log says is
//! believed: each message is verified like a peer's, and stored as the next of its feed or not at all.
//!
//! What always holds:
//! - Order does not matter: a message whose predecessor comes later waits for it. What finds no room to wait
//!   ([`WAITING_BYTES`]) is met again, because the log is read until a reading stores nothing.
//! - It can be interrupted at any time and done again: what the store has is passed over by its key.
//! - Damage costs what is damaged: it is reported with its place, and reading goes on behind it where the
//!   format says where that is.
//! - A message that contradicts what we hold is kept as the proof of a fork ([`Report::forks`]).

mod bipf;
mod bytes;
mod db2;
mod flume;
mod gossb;
mod lines;
mod solar;
#[cfg(test)]
mod tests;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::message::{Fork, HmacKey, InvalidMessage};
use crate::refs::{FeedId, MessageId};
use crate::store::{AppendError, ReadError, Reader, Writer};

pub use db2::Db2Log;
pub use flume::FlumeLog;
pub use gossb::GoSsbLog;
pub use lines::Lines;
pub use solar::SolarLog;
pub use work::import;

/// Bytes of messages that wait for the one before them. Logs in order need none of it.
pub const WAITING_BYTES: usize = 64 << 20;
/// Kinds of damage and refusals that are told one by one; all are counted.
pub const LISTED: usize = 100;
/// Feeds of which a fork is shown at most.
const FORKS: usize = 1_000;

/// The messages of one file, read from its beginning to its end.
pub trait Log {
    /// The next thing in it; `None` at the end. An error is the disk's.
    fn next(&mut self) -> io::Result<Option<Found>>;

    /// How many of how many bytes are read.
    fn progress(&self) -> (u64, u64);
}

/// What a log has at one place.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// What claims to be a classic message.
    Message(Raw),
    /// A record that is no business of ours.
    Passed(Passed),
    /// Bytes that are no record.
    Damage(Damage),
}

/// A message as a log has it, nothing of it checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    /// Where in the file its record begins.
    pub offset: u64,
    /// The id that the log claims for it.
    pub key: Option<MessageId>,
    /// The message as JSON.
    pub value: Vec<u8>,
    /// When the log received it, milliseconds since 1970.
    pub received: Option<f64>,
}

/// Why a good record is not imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Passed {
    /// Its owner deleted it.
    Deleted,
    /// It was fetched out of order and belongs to no chain.
    OutOfOrder,
    /// A message of a feed format that we do not have, by its name.
    Format(&'static str),
}

/// A part of a log that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it begins.
    pub offset: u64,
    /// How many bytes are lost.
    pub bytes: u64,
}

/// A message that is not a valid one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotValid {
    /// Where in the file its record begins.
    pub offset: u64,
    /// What is wrong with it.
    pub why: InvalidMessage,
}

/// What became of a log.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Messages that were stored.
    pub stored: u64,
    /// Messages that we had.
    pub known: u64,
    /// Records of no business of ours.
    pub passed: BTreeMap<Passed, u64>,
    /// Damaged places; the first [`LISTED`] of them are listed.
    pub damages: u64,
    /// The first of them.
    pub damage: Vec<Damage>,
    /// Messages that are not valid; the first [`LISTED`] of them are listed.
    pub refusals: u64,
    /// The first of them.
    pub refused: Vec<NotValid>,
    /// Messages whose predecessors are missing, by feed.
    pub unplaced: BTreeMap<FeedId, u64>,
    /// Proofs that a feed is forked, one a feed.
    pub forks: Vec<Fork>,
    /// Feeds that grew.
    pub grown: BTreeSet<FeedId>,
}

impl Report {
    fn pass(&mut self, passed: Passed) {
        *self.passed.entry(passed).or_default() += 1;
    }

    fn damaged(&mut self, damage: Damage) {
        self.damages += 1;
        if self.damage.len() < LISTED {
            self.damage.push(damage);
        }
    }

    fn refuse(&mut self, offset: u64, why: InvalidMessage) {
        self.refusals += 1;
        if self.refused.len() < LISTED {
            self.refused.push(NotValid { offset, why });
        }
    }

    /// What only the last reading can tell is told anew by each.
    fn forget_reading(&mut self) {
        *self = Self {
            stored: self.stored,
            known: 0,
            forks: std::mem::take(&mut self.forks),
            grown: std::mem::take(&mut self.grown),
            ..Self::default()
        };
    }
}

/// Where messages go.
#[derive(Debug)]
pub struct Into<'a> {
    /// The store's writing end.
    pub writer: &'a mut Writer,
    /// The same store.
    pub reader: &'a Reader,
    /// The network's signing key, if it has one.
    pub hmac: Option<&'a HmacKey>,
    /// The time now, milliseconds since 1970. In an empty store messages keep the time at which the other
    /// program received them, unless it is later than this.
    pub now: f64,
}

/// Why an import came to nothing more. What was stored before stays, and doing it again goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The other program's file cannot be read.
    #[error("cannot read the log: {0}")]
    Read(#[from] io::Error),
    /// Our store cannot be written.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Our store cannot be read.
    #[error(transparent)]
    Store(#[from] ReadError),
}
