//! The wall clock, read in this one place.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, whole; 0 if the clock stands before that.
pub fn unix_millis() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "this is the place where the wall clock is read")]
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// The monotonic clock of the machines.
pub fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "this is the place where the monotonic clock is read")]
    Instant::now()
}
