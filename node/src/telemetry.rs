//! Logging: to standard error, so that standard output stays what a program printed for another to read.
//!
//! What is logged can be changed while the node runs ([`set_filter`]). Secrets and the text of messages are never
//! logged, at no level.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Layer, Registry, fmt, reload};

/// What JS calls `notice`, and the default: our own news, and only what goes wrong below.
pub const NOTICE: &str = "info,libp2p=warn,quinn=warn";

/// The running process's filter.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Reads a level as JS names it, or a tracing filter.
pub fn filter(text: &str) -> Option<String> {
    let text = match text {
        "warning" => "warn",
        // Between warn and info.
        "notice" => NOTICE,
        "false" | "none" => "off",
        other => other,
    };
    text.parse::<Targets>().ok().map(|_| text.to_owned())
}

/// Starts logging with `filter` (`$RUST_LOG` wins), in JSON or for people; does nothing if the process already logs.
pub fn start(filter: &str, json: bool) {
    let wanted = std::env::var("RUST_LOG").ok();
    let targets = wanted.and_then(|text| text.parse::<Targets>().ok());
    let targets = targets.unwrap_or_else(|| filter.parse().unwrap_or_default());
    let (targets, handle) = reload::Layer::new(targets);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = if json {
        Box::new(fmt::layer().json().flatten_event(true).with_writer(io::stderr).with_filter(targets))
    } else {
        let colours = io::stderr().is_terminal();
        Box::new(fmt::layer().with_writer(io::stderr).with_ansi(colours).with_filter(targets))
    };
    // In tests several nodes share one process; the first one's choice stands.
    if tracing_subscriber::registry().with(layer).try_init().is_ok() {
        let _ = FILTER.set(handle);
    }
}

/// Logs by another filter from now on. Fails if the process does not log, or logs elsewhere.
pub fn set_filter(filter: &str) -> Result<(), String> {
    let targets = filter.parse::<Targets>().map_err(|error| error.to_string())?;
    let handle = FILTER.get().ok_or("this process does not log")?;
    handle.reload(targets).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_the_names_that_js_gives_them() {
        assert_eq!(filter("warning").as_deref(), Some("warn"));
        assert_eq!(filter("notice").as_deref(), Some(NOTICE));
        assert_eq!(filter("info,hawsepipe=trace").as_deref(), Some("info,hawsepipe=trace"));
        assert_eq!(filter("=loud"), None);
    }
}
