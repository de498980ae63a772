//! Waiting for a condition under a deadline.
//!
//! A process offers no event for most of what a test asks (a counter went up, a session exists), so the
//! harness looks again and again; what ends a wait is the condition, and what fails a test is its deadline.

use std::thread;
use std::time::{Duration, Instant};

/// How long a condition may take that needs no more than a few round trips on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// How long a first sync of the whole corpus may take on a busy machine, in a development build.
pub const SYNC: Duration = Duration::from_secs(180);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(30);

/// The pause between two close looks: what a figure may be too large by.
const CLOSE_PAUSE: Duration = Duration::from_millis(4);

/// A point in time by which something must have happened.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// The point `after` from now.
    pub fn after(after: Duration) -> Self {
        Self(now() + after)
    }

    /// What is left, or nothing if the point has passed.
    pub fn left(self) -> Option<Duration> {
        self.0.checked_duration_since(now()).filter(|left| !left.is_zero())
    }
}

/// Looks with `look` until it gives a value, and gives that value.
///
/// # Panics
/// When `within` has passed, naming `what` was waited for and what was seen last.
pub fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Deadline::after(within);
    loop {
        let seen = match look() {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        if deadline.left().is_none() {
            panic!("waited {within:?} for: {what}\nseen last: {seen}");
        }
        thread::sleep(PAUSE);
    }
}

/// As [`until`], for figures: looks without a pause worth mentioning, and gives nothing when `deadline` has
/// passed. `look` has to ask somebody, so that it does not keep a processor to itself.
pub fn closely<T>(deadline: Deadline, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    loop {
        if let Some(value) = look() {
            return Some(value);
        }
        deadline.left()?;
        thread::sleep(CLOSE_PAUSE);
    }
}

/// The clock of the harness, for deadlines and for figures.
#[expect(clippy::disallowed_methods, reason = "the harness is a shell: it measures real processes")]
pub fn now() -> Instant {
    Instant::now()
}
