//! `bench query`: what a client of the owner asks most, over SHS, with our own client for all kinds of peers. The db2
//! stack answers none of it over muxrpc, only inside its own process, so it is left out.

use hawsepipe_overlay::conn::Session;
use hawsepipe_overlay::muxrpc::CallKind;
use hawsepipe_tests::wait;
use serde_json::{Value, json};

use super::figures::{Figures, Row};
use super::subject::{Kind, Role, Subject};
use super::{Bench, say};

/// How often each is asked after the first time, which is not counted; the whole log once.
const TIMES: usize = 9;
/// Items that the client takes from a stream in one go.
const TAKEN: usize = 256;

/// Something to ask.
struct Query {
    row: Row,
    kind: CallKind,
    method: &'static [&'static str],
    args: Vec<Value>,
    times: usize,
    /// How many items come, where the corpus says it.
    expected: Option<usize>,
}

pub(super) fn measure(bench: &Bench, figures: &mut Figures) {
    let queries = queries(bench);
    bench.interleave(|kind, round| {
        if kind == Kind::Db2 {
            return;
        }
        let subject = Subject::start(bench, kind, Role::Source, &bench.source(kind));
        let owner = subject.owner(bench);
        for query in &queries {
            let took = owner.run(async |session: &Session| median(session, query).await);
            figures.add(query.row, kind, took);
            say(format_args!("query {}: {}: {:?} {took:.2} ms", round + 1, kind.name(), query.method));
        }
        drop(owner);
        subject.stop();
    });
}

fn queries(bench: &Bench) -> Vec<Query> {
    let (author, count) =
        bench.corpus.clock.iter().max_by_key(|(_, count)| *count).expect("there are authors");
    let id =
        bench.corpus.read().next().map(|(message, _)| message.id().to_string()).expect("there are messages");
    let source = |row, method, options, times, expected| Query {
        row,
        kind: CallKind::Source,
        method,
        args: vec![options],
        times,
        expected,
    };
    let async_call =
        |row, method, args| Query { row, kind: CallKind::Async, method, args, times: 50, expected: None };
    vec![
        async_call(Row::QueryGet, &["get"], vec![json!(id)]),
        async_call(Row::QueryHops, &["friends", "hops"], vec![json!({})]),
        source(
            Row::QueryNewest,
            &["messagesByType"],
            json!({ "type": "post", "limit": 50, "reverse": true }),
            TIMES,
            Some(50),
        ),
        source(
            Row::QueryAuthor,
            &["createUserStream"],
            json!({ "id": author }),
            TIMES,
            Some(*count as usize),
        ),
        source(Row::QueryContacts, &["messagesByType"], json!({ "type": "contact" }), TIMES, None),
        source(Row::QueryLog, &["createLogStream"], json!({}), 1, None),
    ]
}

/// The median of what it takes until the last item is here, in milliseconds.
async fn median(session: &Session, query: &Query) -> f64 {
    let mut times = Vec::with_capacity(query.times);
    ask(session, query).await;
    for _ in 0..query.times {
        let started = wait::now();
        let items = ask(session, query).await;
        times.push((wait::now() - started).as_secs_f64() * 1000.0);
        assert!(query.expected.is_none_or(|expected| items == expected), "{:?}: {items} items", query.method);
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// How many items come.
async fn ask(session: &Session, query: &Query) -> usize {
    if query.kind == CallKind::Async {
        let answer = session.call(query.method, query.args.clone()).await;
        answer.unwrap_or_else(|e| panic!("{:?}: {e}", query.method));
        return 1;
    }
    let opened = session.open(query.kind, query.method, query.args.clone()).await;
    let mut stream = opened.expect("the session stays open");
    let (mut items, mut count) = (Vec::with_capacity(TAKEN), 0);
    loop {
        match stream.rx.recv_batch(TAKEN, &mut items).await {
            Ok(0) => return count,
            Ok(more) => count += more,
            Err(error) => panic!("{:?}: {error}", query.method),
        }
        items.clear();
    }
}
