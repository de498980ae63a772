//! `hawsepipe import`: takes over what another server left.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hawsepipe_replication::import::{Passed, Report};
use hawsepipe_replication::refs::FeedId;

use super::output;
use super::progress::Bar;
use super::read_config;
use crate::clock;
use crate::config::layers::{Environment, Typed};
use crate::datadir::DataDir;
use crate::export;
use crate::import::{self, Imported, Place, Plan, Progress, Source};

/// Feeds and places that are named one by one.
const LISTED: usize = 10;

/// Imports `from` into the data folder `path`.
pub(super) fn run(
    path: &Path,
    from: &Path,
    without_secret: bool,
    typed: &Typed,
    env: &Environment,
) -> ExitCode {
    crate::init_crypto();
    let to = DataDir::at(path);
    let unpacked = match Unpacked::of(from, &to) {
        Ok(unpacked) => unpacked,
        Err(error) => return output::failed(&format!("cannot unpack {}: {error}", from.display())),
    };
    let place = match Place::look(unpacked.as_ref().map_or(from, |unpacked| &unpacked.0)) {
        Ok(place) => place.called(from),
        Err(error) => return output::failed(&error.to_string()),
    };
    // The configuration of a backup says how to verify its messages.
    if let Err(error) = adopt_config(&place, &to) {
        return output::failed(&format!("cannot copy the configuration: {error}"));
    }
    let config = match read_config(typed, env) {
        Ok(config) => config,
        Err(faults) => return output::usage(&faults.to_string()),
    };
    let (hmac, now) = (config.hmac.as_ref(), clock::unix_millis() as f64);
    let plan = Plan { place: &place, to: &to, hmac, without_secret, now };
    let mut bars = Bars::default();
    let imported = import::run(&plan, &mut |progress| bars.show(progress));
    drop(bars);
    match imported {
        Ok(imported) => {
            print(&imported);
            ExitCode::SUCCESS
        }
        Err(error) => output::failed(&error.to_string()),
    }
}

/// A backup that came as an archive, for as long as it is imported.
struct Unpacked(PathBuf);

impl Unpacked {
    fn of(from: &Path, to: &DataDir) -> io::Result<Option<Self>> {
        if !export::is_archive(from) {
            return Ok(None);
        }
        DirBuilder::new().recursive(true).mode(0o700).create(to.store())?;
        let unpacked = Self(to.store().join("import.unpacked"));
        export::unpack(from, &unpacked.0)?;
        Ok(Some(unpacked))
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        // What cannot be removed is overwritten by the next import.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Takes the `config` of a backup where there is none.
fn adopt_config(place: &Place, to: &DataDir) -> io::Result<()> {
    let Some(dir) = place.dir().filter(|_| place.is_backup()) else { return Ok(()) };
    let (theirs, ours) = (dir.join("config"), to.path().join("config"));
    if !theirs.is_file() || ours.exists() {
        return Ok(());
    }
    fs::create_dir_all(to.path())?;
    fs::copy(theirs, ours).map(drop)
}

/// One bar after the other.
#[derive(Default)]
struct Bars {
    opening: Option<Bar>,
    messages: Option<Bar>,
    blobs: Option<Bar>,
}

impl Bars {
    fn show(&mut self, progress: Progress) {
        match progress {
            Progress::Opening(done, all) => {
                self.opening.get_or_insert_with(|| Bar::new("indexing the log")).bytes(done, all);
            }
            Progress::Messages(done, all) => {
                self.opening = None;
                self.messages.get_or_insert_with(|| Bar::new("importing messages")).bytes(done, all);
            }
            Progress::Blobs(done, all) => {
                self.messages = None;
                self.blobs.get_or_insert_with(|| Bar::new("importing blobs")).files(done, all);
            }
        }
    }
}

fn print(imported: &Imported) {
    for (source, report) in &imported.logs {
        print_log(source, report);
    }
    for (passed, count) in imported.passed() {
        let what = match passed {
            Passed::Deleted => "deleted by its owner".to_owned(),
            Passed::OutOfOrder => "fetched out of order".to_owned(),
            Passed::Format(name) => format!("of a feed format that is not supported ({name})"),
        };
        output::line(&format!("passed over {count} messages {what}"));
    }
    let blobs = &imported.blobs;
    if blobs.taken + blobs.known + blobs.wrong > 0 {
        output::line(&format!("blobs: {} new, {} known, {} wrong", blobs.taken, blobs.known, blobs.wrong));
    }
    for file in &blobs.listed {
        output::line(&format!("not what its name says: {}", file.display()));
    }
    if imported.peers > 0 {
        output::line(&format!("peers: {} new addresses", imported.peers));
    }
    if let Some(own) = imported.own {
        print_own(imported, own);
    }
}

fn print_log(source: &Source, report: &Report) {
    let Report { stored, known, damages, refusals, .. } = report;
    let feeds = report.grown.len();
    output::line(&format!(
        "{} ({}): {stored} messages of {feeds} feeds stored, {known} known",
        source.name(),
        source.path().display()
    ));
    for damage in report.damage.iter().take(LISTED) {
        output::line(&format!("damaged: {} bytes at offset {}", damage.bytes, damage.offset));
    }
    for refused in report.refused.iter().take(LISTED) {
        output::line(&format!("refused: the message at offset {}: {}", refused.offset, refused.why));
    }
    if *damages > LISTED as u64 || *refusals > LISTED as u64 {
        output::line(&format!("in all {damages} damaged places and {refusals} refused messages"));
    }
    for (feed, count) in report.unplaced.iter().take(LISTED) {
        output::line(&format!("not stored: {count} messages of {feed}, because one before them is missing"));
    }
    if report.unplaced.len() > LISTED {
        let count: u64 = report.unplaced.values().sum();
        let feeds = report.unplaced.len();
        output::line(&format!("not stored in all: {count} messages of {feeds} feeds"));
    }
    for fork in &report.forks {
        output::line(&format!("forked: {} (see `hawsepipe forks`)", fork.feed()));
    }
}

fn print_own(imported: &Imported, own: FeedId) {
    let came = if imported.is_new_identity { " (its secret is here now)" } else { "" };
    output::line(&format!("this node is {own}{came}, with {} messages of its own", imported.own_sequence));
    if imported.own_may_be_behind() {
        output::note(
            "hawsepipe: messages of your own feed may be missing. Do not publish before a friend's peer has given them \
             back: another message in their place would fork the feed",
        );
    } else if imported.is_new_identity {
        output::note(
            "hawsepipe: from now on publish here only. Whatever the other server published from now on would fork \
             the feed",
        );
    }
}
