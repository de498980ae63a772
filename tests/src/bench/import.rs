//! `bench import`: `hawsepipe import` of a `~/.ssb` of ssb-server that has the corpus, until the program ends.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use hawsepipe_tests::peer::Setup;
use hawsepipe_tests::wait;

use super::figures::{Figures, Row};
use super::subject::Kind;
use super::{Bench, say};

pub(super) fn measure(bench: &Bench, figures: &mut Figures) {
    let from = bench.corpus.dir().join("ssb-server");
    let log = from.join("flume").join("log.offset");
    if !log.exists() {
        let partial = from.join("partial");
        fs::create_dir_all(from.join("flume")).expect("the cache is writable");
        write(bench, &partial).expect("there is room for the log");
        fs::rename(partial, &log).expect("the cache is writable");
    }
    let from = from.to_str().expect("the cache's path is text");
    bench.interleave(|kind, round| {
        // JavaScript's peers have no such thing.
        if kind != Kind::Ours {
            return;
        }
        let dir = bench.host.dir().join(format!("import-{round}"));
        let setup = Setup::on(&bench.host).path(&dir);
        let started = wait::now();
        let output = setup.run(&["import", from]);
        let took = (wait::now() - started).as_secs_f64();
        let printed = String::from_utf8_lossy(&output.stdout);
        let stored = format!("{} messages of", bench.corpus.messages);
        assert!(output.status.success() && printed.contains(&stored), "{printed}");
        let rate = bench.corpus.messages as f64 / took;
        figures.add(Row::Imported, kind, rate);
        say(format_args!("import {}: {rate:.0} msg/s in {took:.2} s", round + 1));
        fs::remove_dir_all(dir).ok();
    });
}

/// Writes the corpus as flumelog-offset does, with offsets of 32 bits as ssb-server has them.
fn write(bench: &Bench, path: &Path) -> std::io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut end = 0_u64;
    for (message, received) in bench.corpus.read() {
        let record = message.key_value_timestamp(received);
        let length = (record.len() as u32).to_be_bytes();
        end += record.len() as u64 + 12;
        out.write_all(&length)?;
        out.write_all(&record)?;
        out.write_all(&length)?;
        out.write_all(&(end as u32).to_be_bytes())?;
    }
    out.flush()
}
