//! `bench start`: from the start of the process until it answers `whoami`, and the same without its indexes
//! until all of them are there again.

use std::fs;
use std::path::Path;

use hawsepipe_tests::wait;

use super::figures::{Figures, Row};
use super::subject::{Kind, Role, Subject, copy};
use super::{Bench, say};

pub(super) fn measure(bench: &Bench, figures: &mut Figures) {
    bench.interleave(|kind, round| {
        let source = bench.source(kind);
        let started = wait::now();
        let subject = Subject::start(bench, kind, Role::Source, &source);
        let first = (wait::now() - started).as_secs_f64() * 1000.0;
        figures.add(Row::Start, kind, first);
        subject.stop();

        let dir = bench.host.dir().join("without-indexes");
        copy(&source, &dir);
        remove_indexes(kind, &dir);
        let started = wait::now();
        let mut subject = Subject::start(bench, kind, Role::Source, &dir);
        subject.wait_indexed();
        let rebuilt = (wait::now() - started).as_secs_f64();
        figures.add(Row::Rebuild, kind, rebuilt);
        subject.stop();
        fs::remove_dir_all(&dir).ok();
        say(format_args!(
            "start {}: {}: {first:.0} ms, without indexes {rebuilt:.2} s",
            round + 1,
            kind.name()
        ));
    });
}

/// Removes everything but the log.
fn remove_indexes(kind: Kind, dir: &Path) {
    let (folder, log) = match kind {
        Kind::Ours => (dir.join("hawsepipe"), "log"),
        Kind::Classic => (dir.join("flume"), "log.offset"),
        Kind::Db2 => (dir.join("db2"), "log.bipf"),
    };
    for entry in fs::read_dir(folder).expect("the peer has a store") {
        let entry = entry.expect("the store can be read");
        if entry.file_name() == log {
            continue;
        }
        let path = entry.path();
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.expect("the store can be changed");
    }
}
