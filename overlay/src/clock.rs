//! The clock of the shells, who give their machines the time: the one that their timers go by.

use std::time::Instant;

pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
