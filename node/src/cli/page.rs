//! How results are shown: for reading on a terminal, as JSON on a pipe, or as was asked for.
//!
//! What others wrote reaches a terminal only through [`text`](super::text) or escaped, so that nobody's message moves the
//! cursor, sets the title or hides what it says. A closed pipe ends the program quietly, as in any filter.

use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anstyle::Style;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::text;

/// Text is not made wider than this, however wide the terminal is.
const MAX_WIDTH: usize = 100;
/// Text is not made narrower than this.
const MIN_WIDTH: usize = 30;
/// The width where there is no terminal to ask.
const USUAL_WIDTH: usize = 80;

/// What was asked for, and where standard output goes.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `--json`
    pub json: bool,
    /// `--text`
    pub text: bool,
    is_terminal: bool,
    no_color: bool,
    is_dumb: bool,
    pager: Option<String>,
}

impl Facts {
    /// Of this process.
    pub fn of_process(json: bool, text: bool) -> Self {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        Self {
            json,
            text,
            is_terminal: io::stdout().is_terminal(),
            no_color: var("NO_COLOR").is_some(),
            is_dumb: var("TERM").is_none_or(|term| term == "dumb"),
            pager: var("PAGER").filter(|pager| is_there(pager)),
        }
    }

    fn is_text(&self) -> bool {
        self.text || (self.is_terminal && !self.json)
    }

    fn has_colour(&self) -> bool {
        self.is_terminal && !self.no_color && !self.is_dumb
    }

    /// The program to page long text with. Without `$PAGER` there is none: terminals scroll.
    fn pager(&self) -> Option<&str> {
        let pager = self.pager.as_deref().map(str::trim).filter(|pager| *pager != "cat");
        pager.filter(|_| self.is_terminal && self.is_text() && !self.is_dumb)
    }
}

/// How text looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Whether it may have colours.
    pub colour: bool,
    /// How many columns there are.
    pub width: usize,
}

/// Names of people.
pub(super) const NAME: Style = Style::new().bold();
/// What is there to be copied, and what matters less.
pub(super) const FAINT: Style = Style::new().dimmed();
/// What is private.
pub(super) const PRIVATE: Style =
    Style::new().fg_color(Some(anstyle::Color::Ansi(anstyle::AnsiColor::Magenta)));
/// Channels, and what is good.
pub(super) const ACCENT: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(anstyle::AnsiColor::Cyan)));

impl Look {
    /// `text` in a style, if there are colours.
    pub(super) fn paint(self, style: Style, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// Where results go.
pub(super) struct Page {
    facts: Facts,
    look: Look,
    out: Box<dyn Write + Send>,
    pager: Option<Pager>,
}

/// A running pager.
struct Pager {
    child: Child,
    /// While it runs, an interrupt is for it: we end when it does.
    _interrupts: Option<Signal>,
}

impl Page {
    /// For results of a few lines.
    pub(super) fn short(facts: &Facts) -> Self {
        Self::new(facts, Box::new(BufWriter::new(io::stdout())), None)
    }

    /// For results that may be longer than a screen.
    pub(super) fn long(facts: &Facts) -> Self {
        let started = facts.pager().and_then(start_pager);
        match started {
            Some((pager, pipe)) => Self::new(facts, Box::new(BufWriter::new(pipe)), Some(pager)),
            None => Self::short(facts),
        }
    }

    fn new(facts: &Facts, out: Box<dyn Write + Send>, pager: Option<Pager>) -> Self {
        let width = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
        let width = width.unwrap_or(USUAL_WIDTH).clamp(MIN_WIDTH, MAX_WIDTH);
        let look = Look { colour: facts.has_colour(), width };
        Self { facts: facts.clone(), look, out, pager }
    }

    /// Whether people read it.
    pub(super) fn is_text(&self) -> bool {
        self.facts.is_text()
    }

    /// How text looks.
    pub(super) fn look(&self) -> Look {
        self.look
    }

    /// One line of text, which must be clean already.
    pub(super) fn line(&mut self, line: &str) {
        self.write(|out| writeln!(out, "{line}"));
    }

    /// One JSON value on a line of its own.
    pub(super) fn json(&mut self, json: &[u8]) {
        if self.facts.is_terminal {
            let escaped = text::json_for_terminals(&String::from_utf8_lossy(json));
            self.write(|out| writeln!(out, "{escaped}"));
        } else {
            self.write(|out| out.write_all(json).and_then(|()| out.write_all(b"\n")));
        }
    }

    /// Bytes as they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.write(|out| out.write_all(bytes));
    }

    /// Shows what was written so far, for results that go on.
    pub(super) fn flush(&mut self) {
        self.write(|out| out.flush());
    }

    /// Shows everything, and waits until it is read.
    pub(super) fn finish(mut self) {
        self.flush();
        let Self { out, pager, .. } = self;
        drop(out);
        wait_for(pager);
    }

    fn write(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        if write(&mut *self.out).is_err() {
            // Whoever read it has seen enough.
            wait_for(self.pager.take());
            std::process::exit(0);
        }
    }
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Page").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// Whether the program that a command line begins with can be found.
fn is_there(command: &str) -> bool {
    let program = command.split_whitespace().next().unwrap_or_default();
    if program.contains('/') {
        return Path::new(program).exists();
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program).exists())
}

fn start_pager(program: &str) -> Option<(Pager, std::process::ChildStdin)> {
    let mut command = Command::new("sh");
    command.arg("-c").arg(program).stdin(Stdio::piped());
    if std::env::var_os("LESS").is_none() {
        // Colours, no clearing, and nothing to quit where all fits on the screen.
        command.env("LESS", "FRX");
    }
    let mut child = command.spawn().ok()?;
    let pipe = child.stdin.take()?;
    Some((Pager { child, _interrupts: signal(SignalKind::interrupt()).ok() }, pipe))
}

fn wait_for(pager: Option<Pager>) {
    if let Some(mut pager) = pager {
        // If it cannot be waited for, it is gone.
        let _ = pager.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal() -> Facts {
        Facts { is_terminal: true, pager: Some("less".to_owned()), ..Facts::default() }
    }

    #[test]
    fn people_get_text_and_programs_json_unless_told_otherwise() {
        assert!(terminal().is_text());
        assert!(!Facts::default().is_text());
        assert!(!Facts { json: true, ..terminal() }.is_text());
        assert!(Facts { text: true, ..Facts::default() }.is_text());
    }

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        assert!(terminal().has_colour());
        assert!(!Facts { no_color: true, ..terminal() }.has_colour());
        assert!(!Facts { is_dumb: true, ..terminal() }.has_colour());
        assert!(!Facts { text: true, ..Facts::default() }.has_colour());
    }

    #[test]
    fn a_pager_is_for_text_on_a_terminal_and_only_if_there_is_one() {
        assert_eq!(terminal().pager(), Some("less"));
        for facts in [
            Facts { pager: None, ..terminal() },
            Facts { pager: Some("cat".to_owned()), ..terminal() },
            Facts { is_dumb: true, ..terminal() },
            Facts { json: true, ..terminal() },
            Facts { is_terminal: false, text: true, ..terminal() },
        ] {
            assert_eq!(facts.pager(), None, "{facts:?}");
        }
    }
}
