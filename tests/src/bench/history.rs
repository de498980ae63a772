//! `bench history`: somebody whom the peer does not know asks for 500 feeds by `createHistoryStream`, 20 at a
//! time. The client is ours for all kinds of peers, and what counts is the server's processor time.

use futures::{StreamExt as _, stream};
use hawsepipe_overlay::conn::Session;
use hawsepipe_overlay::muxrpc::CallKind;
use hawsepipe_tests::usage::Usage;
use hawsepipe_tests::wait;
use serde_json::json;

use super::figures::{Figures, Row};
use super::subject::{Role, Subject};
use super::{Bench, say};

const FEEDS: usize = 500;
const AT_A_TIME: usize = 20;
/// Items that the client takes from a stream in one go.
const TAKEN: usize = 256;

pub(super) fn measure(bench: &Bench, figures: &mut Figures) {
    bench.interleave(|kind, round| {
        let server = Subject::start(bench, kind, Role::Source, &bench.source(kind));
        let (rate, per_cpu) = one(bench, &server);
        figures.add(Row::History, kind, rate);
        figures.add(Row::HistoryPerCpu, kind, per_cpu);
        say(format_args!(
            "history {}: {}: {rate:.0} msg/s, {per_cpu:.0} per CPU second",
            round + 1,
            kind.name()
        ));
        server.stop();
    });
}

/// Messages in a second, and in a second of the server's processor time.
fn one(bench: &Bench, server: &Subject) -> (f64, f64) {
    let client = server.stranger(bench);
    let feeds: Vec<&(String, u64)> = bench.corpus.clock.iter().take(FEEDS).collect();
    let before = Usage::of(server.process());
    let started = wait::now();
    let counts: Vec<u64> = client.run(async |session: &Session| {
        let asked = feeds.iter().map(|(feed, _)| count(session, feed));
        stream::iter(asked).buffered(AT_A_TIME).collect().await
    });
    let took = (wait::now() - started).as_secs_f64();
    let cpu = Usage::of(server.process()).cpu - before.cpu;
    let expected: Vec<u64> = feeds.iter().map(|(_, count)| *count).collect();
    assert_eq!(counts, expected, "a feed was not served whole");
    let sum: u64 = counts.iter().sum();
    (sum as f64 / took, sum as f64 / cpu)
}

/// How many messages of a feed come.
async fn count(session: &Session, feed: &str) -> u64 {
    let options = json!({ "id": feed, "seq": 0, "keys": false, "live": false, "boxes": "shared" });
    let opened = session.open(CallKind::Source, &["createHistoryStream"], vec![options]).await;
    let mut stream = opened.expect("the session stays open");
    let (mut items, mut count) = (Vec::with_capacity(TAKEN), 0);
    loop {
        match stream.rx.recv_batch(TAKEN, &mut items).await {
            Ok(0) => return count,
            Ok(more) => count += more as u64,
            Err(error) => panic!("{feed}: {error}"),
        }
        items.clear();
    }
}
