//! Logging: to standard error, so that standard output stays what a program printed for another to read.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

/// Starts logging with `filter` (`$RUST_LOG` wins); does nothing if the process already logs.
pub fn start(filter: &str) {
    let wanted = std::env::var("RUST_LOG").ok();
    let targets = wanted.and_then(|text| text.parse::<Targets>().ok());
    let targets = targets.unwrap_or_else(|| filter.parse().unwrap_or_default());
    let layer =
        fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).with_filter(targets);
    // In tests several nodes share one process; the first one's choice stands.
    let _ = tracing_subscriber::registry().with(layer).try_init();
}
