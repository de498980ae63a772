//! `hawsepipe check`: verifies the store of a node that is not running.

use std::path::Path;
use std::process::ExitCode;

use hawsepipe_replication::store::{CheckOptions, CheckReport, Options, Store};

use super::output;
use super::progress::Bar;
use super::read_config;
use crate::config::layers::{Environment, Typed};
use crate::datadir::DataDir;

/// Verifies every message and index under `path`; with `repair`, mends what can be mended.
pub(super) fn run(path: &Path, typed: &Typed, env: &Environment, repair: bool) -> ExitCode {
    let config = match read_config(typed, env) {
        Ok(config) => config,
        Err(faults) => return output::usage(&faults.to_string()),
    };
    let store = DataDir::at(path).store();
    if !store.is_dir() {
        return output::failed(&format!("{} holds no store of Hawsepipe", path.display()));
    }
    let mut bar = Bar::new("checking");
    let options = CheckOptions { repair, hmac: config.hmac.as_ref(), store: Options::default() };
    let report = Store::check(&store, &options, &mut |done, total| bar.bytes(done, total));
    drop(bar);
    match report {
        Ok(report) => {
            print(&report);
            if report.repaired
                && let Err(error) = DataDir::at(path).forget_graph()
            {
                return output::failed(&format!(
                    "remove hawsepipe/graph yourself, it may be wrong now: {error}"
                ));
            }
            if report.is_clean() || report.repaired {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(output::REFUSED)
            }
        }
        Err(error) => output::failed(&error.to_string()),
    }
}

fn print(report: &CheckReport) {
    for finding in &report.findings {
        output::line(&finding.to_string());
    }
    let unlisted = report.found.saturating_sub(report.findings.len() as u64);
    if unlisted > 0 {
        output::line(&format!("... and {unlisted} more"));
    }
    for file in &report.saved {
        output::line(&format!("kept what was removed in {}", file.display()));
    }
    let verdict = match (report.is_clean(), report.repaired) {
        (true, _) => "all is well",
        (false, true) => "repaired",
        (false, false) => "damaged; `hawsepipe check --repair` mends what can be mended",
    };
    let CheckReport { messages, feeds, bytes, .. } = report;
    output::line(&format!("{messages} good messages of {feeds} feeds in {bytes} bytes: {verdict}"));
}
