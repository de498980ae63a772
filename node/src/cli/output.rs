//! What a command prints and how it ends. Standard output is for results, standard error for people.

use std::io::{self, Write};
use std::process::ExitCode;

/// The node refused, or something failed while running.
pub const REFUSED: u8 = 1;
/// Wrong usage or configuration.
pub const USAGE: u8 = 2;
/// No node is running on this data folder.
pub const NOT_RUNNING: u8 = 3;

/// Prints one line of a result. A closed pipe ends the program quietly, as in any filter.
pub fn line(text: &str) {
    let mut out = io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Prints bytes that are text as one line.
pub fn bytes(bytes: &[u8]) {
    line(&String::from_utf8_lossy(bytes));
}

/// Tells a person something.
pub fn note(text: &str) {
    // Nobody is left to tell if this fails.
    let _ = writeln!(io::stderr(), "{text}");
}

/// An error and its causes in one line. Some errors repeat their cause in their own text: that is said once.
pub fn explain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Ends with [`REFUSED`].
pub fn failed(why: &str) -> ExitCode {
    note(&format!("hawsepipe: {why}"));
    ExitCode::from(REFUSED)
}

/// Ends with [`USAGE`].
pub fn usage(why: &str) -> ExitCode {
    note(&format!("hawsepipe: {why}"));
    ExitCode::from(USAGE)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let io = || io::Error::from(io::ErrorKind::NotFound);
        let said = io().to_string();
        let repeated = crate::datadir::DataDirError::Io { path: "/x".into(), source: io() };
        assert_eq!(explain(&repeated.into()), format!("cannot create /x: {said}"));
        let wrapped = Err::<(), _>(io()).context("cannot serve").unwrap_err();
        assert_eq!(explain(&wrapped), format!("cannot serve: {said}"));
    }
}
