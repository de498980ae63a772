//! A progress bar for long work: on a terminal, and nothing on a pipe.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar is worth showing for at least so much.
const QUICK_BYTES: u64 = 4 << 20;
/// ... or so many messages.
const QUICK_MESSAGES: u64 = 1000;
/// ... or so many files.
const QUICK_FILES: u64 = 100;

/// A bar that is shown as soon as there is enough to do.
#[derive(Debug)]
pub struct Bar {
    what: &'static str,
    is_silent: bool,
    bar: Option<ProgressBar>,
}

impl Bar {
    /// A bar that says `what` is being done.
    pub fn new(what: &'static str) -> Self {
        Self { what, is_silent: false, bar: None }
    }

    /// A bar that is never shown: the terminal belongs to another program.
    pub const fn silent() -> Self {
        Self { what: "", is_silent: true, bar: None }
    }

    /// Shows how many bytes of how many are done.
    pub fn bytes(&mut self, done: u64, total: u64) {
        if total >= QUICK_BYTES {
            self.show(done, total, "{msg} {wide_bar} {bytes}/{total_bytes} {eta}");
        }
    }

    /// Shows how many messages of how many are here; hides the bar when all are.
    pub fn messages(&mut self, have: u64, want: u64) {
        if have < want && want >= QUICK_MESSAGES {
            self.show(have, want, "{msg} {wide_bar} {pos}/{len} messages {eta}");
        } else if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Shows how many files of how many are done.
    pub fn files(&mut self, done: u64, total: u64) {
        if total >= QUICK_FILES {
            self.show(done, total, "{msg} {wide_bar} {pos}/{len} files {eta}");
        }
    }

    fn show(&mut self, done: u64, total: u64, template: &str) {
        if self.is_silent || !std::io::stderr().is_terminal() {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
            bar.set_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_message(self.what);
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        bar.set_length(total);
        bar.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
