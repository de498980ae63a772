//! `bench conns`: strangers connect, one key each, and stay. What counts is how many handshakes the peer makes in a
//! second, what one costs its processor, and how much memory a session holds that nobody uses.

use futures::{StreamExt as _, stream};
use hawsepipe_overlay::conn::Connection;
use hawsepipe_tests::control::handshake;
use hawsepipe_tests::usage::Usage;
use hawsepipe_tests::wait;
use ssb_crypto::Keypair;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use super::figures::{Figures, Row};
use super::subject::{Kind, Role, Subject};
use super::{Bench, load, say};

/// Sessions, fewer than any kind of peer takes.
const SESSIONS: usize = 300;
/// Handshakes at a time, as many as a peer of ours takes from one address.
const AT_A_TIME: usize = 16;

pub(super) fn measure(bench: &Bench, figures: &mut Figures) {
    bench.interleave(|kind, round| {
        let subject = Subject::start(bench, kind, Role::Source, &bench.source(kind));
        // What a first session costs once is not counted.
        drop(subject.stranger(bench));
        let before = Usage::of(subject.process());
        let (rate, after) = connect(bench, &subject);
        let cpu = (after.cpu - before.cpu) * 1000.0 / SESSIONS as f64;
        let memory = (after.now_mb - before.now_mb) * 1024.0 / SESSIONS as f64;
        figures.add(Row::Handshakes, kind, rate);
        figures.add(Row::HandshakeCpu, kind, cpu);
        figures.add(Row::SessionMemory, kind, memory);
        say(format_args!(
            "conns {}: {}: {rate:.0} handshakes/s, {cpu:.2} ms and {memory:.0} KiB each",
            round + 1,
            kind.name()
        ));
        subject.stop();
    });
    if bench.peers.contains(&Kind::Ours) {
        load::measure(bench, figures);
    }
}

/// Handshakes in a second, and what the peer uses when all sessions stand.
fn connect(bench: &Bench, subject: &Subject) -> (f64, Usage) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let server = subject.id().parse().expect("a peer has a feed id");
    runtime.block_on(async {
        let mut drivers = JoinSet::new();
        let started = wait::now();
        let keys: Vec<Keypair> = (0..SESSIONS).map(|_| Keypair::generate()).collect();
        let dialled = keys.iter().map(|key| handshake(&bench.host, subject.socket(), server, key));
        let mut dialled = stream::iter(dialled).buffer_unordered(AT_A_TIME);
        let mut sessions = Vec::with_capacity(SESSIONS);
        while let Some(connected) = dialled.next().await {
            let Connection { session, driver, calls } = connected.unwrap_or_else(|e| panic!("{e}"));
            drop(calls);
            drivers.spawn(driver.run());
            sessions.push(session);
        }
        let rate = SESSIONS as f64 / (wait::now() - started).as_secs_f64();
        (rate, Usage::of(subject.process()))
    })
}
