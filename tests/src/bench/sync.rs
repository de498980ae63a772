//! `bench sync`: an empty peer that follows the friends of the corpus takes all of it from one of its own kind.

use std::fs;
use std::time::Duration;

use hawsepipe_replication::message::{Message, Unverified, Verifier};
use hawsepipe_tests::usage::Usage;
use hawsepipe_tests::wait;
use rayon::ThreadPoolBuilder;

use super::figures::{Figures, Row};
use super::machine::disk_usage;
use super::subject::{Kind, Role, Subject};
use super::{Bench, say};

/// Messages of the corpus that are verified to know the machine's rate, and how many at once.
const VERIFIED: usize = 50_000;
const BATCH: usize = 4096;

const MIB: f64 = 1024.0 * 1024.0;

pub(super) fn measure(bench: &Bench, figures: &mut Figures) {
    let sample: Vec<Message> = bench.corpus.read().take(VERIFIED).map(|(message, _)| message).collect();
    bench.interleave(|kind, round| {
        if kind == Kind::Ours {
            for (row, cores) in [(Row::Verified, 1), (Row::VerifiedByBoth, 2)] {
                figures.add(row, kind, verification(&sample, cores));
            }
        }
        one(bench, figures, kind, round);
    });
}

fn one(bench: &Bench, figures: &mut Figures, kind: Kind, round: usize) {
    let dir = bench.host.dir().join(format!("sink-{}-{round}", kind.name()));
    let source = Subject::start(bench, kind, Role::Source, &bench.source(kind));
    let mut sink = Subject::start(bench, kind, Role::Sink, &dir);
    sink.follow(bench.corpus.friends.iter().map(String::as_str));
    let usage = || (Usage::of(source.process()), Usage::of(sink.process()));
    let before = usage();
    let processes = (source.process(), sink.process());
    let started = wait::now();
    let since = || (wait::now() - started).as_secs_f64();
    sink.connect(&source);
    sink.wait_for(&bench.corpus.friends_clock());
    let screen = since();
    sink.wait_for(&bench.corpus.clock);
    let received = since();
    sink.wait_indexed();
    let indexed = since();
    let after = (Usage::of(processes.0), Usage::of(processes.1));
    let newest = bench.corpus.messages as u64;
    if kind == Kind::Ours {
        let status = sink.control.status().expect("the node answers");
        assert!(status.0["db"]["messages"].as_u64() >= Some(newest), "{}", status.0["db"]);
    }
    sink.wait_searchable();
    sink.stop();
    source.stop();
    let search = disk_usage(&dir.join("hawsepipe/search")) as f64;
    let disk = disk_usage(&dir) as f64 - search;
    let messages = bench.corpus.messages as f64;
    let measured = [
        (Row::Received, messages / received),
        (Row::Indexed, messages / indexed),
        (Row::FirstScreen, screen),
        (Row::FirstShare, 100.0 * screen / received),
        (Row::SourceCpu, after.0.cpu - before.0.cpu),
        (Row::SinkCpu, after.1.cpu - before.1.cpu),
        (Row::SinkPeak, after.1.peak_mb),
        (Row::Disk, disk / MIB),
        (Row::DiskShare, disk / bench.corpus.signed_bytes as f64),
    ];
    if kind == Kind::Ours {
        figures.add(Row::SearchDisk, kind, search / MIB);
    }
    measured.into_iter().for_each(|(row, figure)| figures.add(row, kind, figure));
    say(format_args!(
        "sync {}: {}: {:.0} msg/s, first screen {screen:.2} s of {received:.2} s, indexed {indexed:.2} s",
        round + 1,
        kind.name(),
        messages / received,
    ));
    fs::remove_dir_all(dir).ok();
}

/// Messages that so many cores verify in a second, in batches, parsed before.
fn verification(sample: &[Message], cores: usize) -> f64 {
    let pool = ThreadPoolBuilder::new().num_threads(cores).build().expect("threads can be started");
    let mut verifier = Verifier::new();
    let mut took = Duration::ZERO;
    for batch in sample.chunks(BATCH) {
        let parse = |message: &Message| Unverified::parse(message.value_bytes()).expect("a valid message");
        let batch: Vec<Unverified> = batch.iter().map(parse).collect();
        let started = wait::now();
        let verified = pool.install(|| verifier.verify_batch(batch, None));
        took += wait::now() - started;
        assert!(verified.iter().all(Result::is_ok), "the corpus is signed");
    }
    sample.len() as f64 / took.as_secs_f64()
}
