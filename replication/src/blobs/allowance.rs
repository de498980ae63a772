//! How many entries of want maps one peer may send: each costs a look at the disk.

use std::time::{Duration, Instant};

/// Entries that may come at once. JS peers keep every want they ever heard of and send them all when they connect.
const BURST: f64 = 20_000.0;
/// Entries a second beyond.
const PER_SECOND: f64 = 100.0;

/// A bucket of entries that fills itself.
#[derive(Clone, Debug)]
pub struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    /// A full bucket.
    pub fn new(now: Instant) -> Self {
        Self { left: BURST, at: now }
    }

    /// Takes up to `entries`; says how many there were.
    pub fn take(&mut self, now: Instant, entries: usize) -> usize {
        let passed = now.saturating_duration_since(self.at).max(Duration::ZERO);
        self.left = (self.left + passed.as_secs_f64() * PER_SECOND).min(BURST);
        self.at = now;
        let taken = entries.min(self.left as usize);
        self.left -= taken as f64;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_only_as_much_as_time_gives() {
        #[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        assert_eq!(allowance.take(start, 15_000), 15_000);
        assert_eq!(allowance.take(start, 1_000_000), 5_000);
        assert_eq!(allowance.take(start, 1), 0);
        assert_eq!(allowance.take(start + Duration::from_secs(10), 2_000), 1_000);
        assert_eq!(
            allowance.take(start + Duration::from_secs(100_000), 1_000_000),
            20_000,
            "it never overflows"
        );
    }
}
