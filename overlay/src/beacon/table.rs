//! Who was heard lately, as a machine: each beacon goes in, what is new or gone comes out.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Form;
use crate::keys::PublicKey;

/// A peer is forgotten after this silence: three times the 15 s at which go-ssb and solar send.
pub const EXPIRY: Duration = Duration::from_secs(45);
/// A peer that goes on sending is reported again this often, so that a report that was missed is
/// made up for.
pub const REFRESH: Duration = Duration::from_secs(30);
/// Most entries. When full, newcomers wait for an old one to fall silent.
pub const MAX_ENTRIES: usize = 512;
/// Most entries at one IP address, so that one liar cannot fill the table.
pub const MAX_ENTRIES_PER_IP: usize = 16;

/// A claim: this key listens there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Who.
    pub key: PublicKey,
    /// Where.
    pub at: SocketAddr,
    /// Which form of beacon said so.
    pub form: Form,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Heard for the first time, or still heard after [`REFRESH`].
    Discovered(Entry),
    /// Silent for [`EXPIRY`].
    Expired(Entry),
}

/// The machine.
#[derive(Debug, Default)]
pub struct Table {
    entries: BTreeMap<Entry, Times>,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
struct Times {
    heard: Instant,
    reported: Instant,
}

impl Table {
    /// A beacon was heard. Returns whether there was room for it.
    pub fn handle(&mut self, now: Instant, entry: Entry) -> bool {
        if let Some(times) = self.entries.get_mut(&entry) {
            times.heard = now;
            if now.duration_since(times.reported) >= REFRESH {
                times.reported = now;
                self.outputs.push_back(Output::Discovered(entry));
            }
            return true;
        }
        if !self.has_room(&entry) {
            return false;
        }
        self.entries.insert(entry.clone(), Times { heard: now, reported: now });
        self.outputs.push_back(Output::Discovered(entry));
        true
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let silent = |times: &Times| now.duration_since(times.heard) >= EXPIRY;
        let outputs = &mut self.outputs;
        self.entries.retain(|entry, times| {
            let expired = silent(times);
            if expired {
                outputs.push_back(Output::Expired(entry.clone()));
            }
            !expired
        });
    }

    /// The next output, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.entries.values().map(|times| times.heard + EXPIRY).min()
    }

    fn has_room(&self, entry: &Entry) -> bool {
        let neighbours = self.entries.keys().filter(|other| other.at.ip() == entry.at.ip());
        self.entries.len() < MAX_ENTRIES && neighbours.count() < MAX_ENTRIES_PER_IP
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
mod tests {
    use super::*;

    fn entry(ip: [u8; 4], port: u16) -> Entry {
        Entry { key: PublicKey::from_bytes([1; 32]), at: SocketAddr::from((ip, port)), form: Form::Plain }
    }

    fn drain(table: &mut Table) -> Vec<Output> {
        std::iter::from_fn(|| table.poll_output()).collect()
    }

    #[test]
    fn a_peer_is_reported_once_until_the_refresh_is_due() {
        let start = Instant::now();
        let peer = entry([10, 0, 0, 1], 8008);
        let mut table = Table::default();
        for second in [0, 2, 4, 29] {
            assert!(table.handle(start + Duration::from_secs(second), peer.clone()));
        }
        assert_eq!(drain(&mut table), [Output::Discovered(peer.clone())]);
        table.handle(start + REFRESH, peer.clone());
        assert_eq!(drain(&mut table), [Output::Discovered(peer)]);
    }

    #[test]
    fn a_silent_peer_expires_at_the_announced_time_and_not_before() {
        let start = Instant::now();
        let peer = entry([10, 0, 0, 1], 8008);
        let mut table = Table::default();
        assert_eq!(table.poll_timeout(), None);
        table.handle(start, peer.clone());
        drain(&mut table);
        let due = table.poll_timeout().unwrap();
        table.handle_timeout(due - Duration::from_millis(1));
        assert_eq!(drain(&mut table), []);
        table.handle_timeout(due);
        assert_eq!(drain(&mut table), [Output::Expired(peer)]);
        assert_eq!(table.poll_timeout(), None);
    }

    #[test]
    fn one_liar_cannot_fill_the_table_and_a_full_table_takes_no_newcomer() {
        let start = Instant::now();
        let mut table = Table::default();
        let taken = (0..1000).filter(|port| table.handle(start, entry([10, 0, 0, 1], *port))).count();
        assert_eq!(taken, MAX_ENTRIES_PER_IP);
        let others = (0..1000u16).filter(|n| {
            let [high, low] = n.to_be_bytes();
            table.handle(start, entry([10, 1, high, low], 8008))
        });
        assert_eq!(others.count(), MAX_ENTRIES - MAX_ENTRIES_PER_IP);
        table.handle_timeout(start + EXPIRY);
        assert!(table.handle(start + EXPIRY, entry([10, 9, 9, 9], 8008)));
    }
}
