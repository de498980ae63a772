//! `bench query`: what a client of the owner asks most, over SHS, with our own client for all kinds of peers. The db2
//! stack answers none of it over muxrpc, only inside its own process, so it is left out. ssb-server has the plugins that
//! answer what it does not itself.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use hawsepipe_overlay::conn::Session;
use hawsepipe_overlay::muxrpc::CallKind;
use hawsepipe_tests::js::{Stack, installed};
use hawsepipe_tests::usage::Usage;
use hawsepipe_tests::{MAIN_NETWORK, package_dir, wait};
use serde_json::{Value, json};

use super::figures::{Figures, Row};
use super::subject::{Kind, Role, Subject};
use super::{Bench, say};

/// How often each is asked after the first time, which is counted apart; the whole log once.
const TIMES: usize = 9;
/// Items that the client takes from a stream in one go.
const TAKEN: usize = 256;
/// The frequent word is in one of so many messages.
const ONE_IN: usize = 8;
/// Shorter ones say nothing of how cold a query is.
const COLD_FROM: f64 = 1.0;
/// With fewer items a client's time is not that of its decoding.
const MANY: u64 = 1_000;

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
        let subject = Subject::start_with_plugins(bench, kind, &bench.source(kind));
        figures.add(Row::QueryIdleMemory, kind, Usage::of(subject.process()).now_mb);
        let owner = subject.owner(bench);
        let mut coldest: f64 = 0.0;
        for query in &queries {
            let (cold, took) = owner.run(async |session: &Session| measured(session, query).await);
            figures.add(query.row, kind, took);
            if took >= COLD_FROM {
                coldest = coldest.max(cold / took);
            }
            say(format_args!(
                "query {}: {}: {:?} {took:.2} ms, first {cold:.2} ms",
                round + 1,
                kind.name(),
                query.method
            ));
        }
        figures.add(Row::QueryCold, kind, coldest);
        figures.add(Row::QueryMemory, kind, Usage::of(subject.process()).now_mb);
        figures.add(Row::QueryDecoding, kind, decoding(bench, &subject, &queries));
        drop(owner);
        if kind == Kind::Ours {
            figures.add(Row::QueryInSync, kind, in_sync(bench, subject, &queries, round));
        } else {
            subject.stop();
        }
    });
}

fn queries(bench: &Bench) -> Vec<Query> {
    let (author, count) =
        bench.corpus.clock.iter().max_by_key(|(_, count)| *count).expect("there are authors");
    let id =
        bench.corpus.read().next().map(|(message, _)| message.id().to_string()).expect("there are messages");
    let Favourites { root, voted, word } = favourites(bench);
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
    let backlinks = |row, (dest, count): (String, usize), content: Value| {
        let query = json!({ "query": [{ "$filter": { "dest": dest, "value": { "content": content } } }] });
        source(row, &["backlinks", "read"], query, TIMES, Some(count))
    };
    let in_thread = json!({ "root": root.0 });
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
        backlinks(Row::QueryThread, root, in_thread),
        backlinks(Row::QueryVotes, voted, json!({ "type": "vote" })),
        source(
            Row::QueryAuthor,
            &["createUserStream"],
            json!({ "id": author }),
            TIMES,
            Some(*count as usize),
        ),
        source(Row::QueryContacts, &["messagesByType"], json!({ "type": "contact" }), TIMES, None),
        source(
            Row::QueryWordNewest,
            &["search", "query"],
            json!({ "query": word, "limit": 50 }),
            TIMES,
            Some(50),
        ),
        source(Row::QueryWord, &["search", "query"], json!({ "query": word }), TIMES, None),
        source(Row::QueryLog, &["createLogStream"], json!({}), 1, None),
    ]
}

/// What the corpus has most of.
struct Favourites {
    /// The longest thread, and how many messages answer in it.
    root: (String, usize),
    /// The message with most votes, and how many it has.
    voted: (String, usize),
    /// A word that one of [`ONE_IN`] messages has.
    word: String,
}

fn favourites(bench: &Bench) -> Favourites {
    let (mut roots, mut votes, mut words) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let count = |counts: &mut BTreeMap<String, usize>, name: &str| {
        *counts.entry(name.to_owned()).or_default() += 1;
    };
    for (message, _) in bench.corpus.read() {
        let Ok(content) = serde_json::from_str::<Value>(message.content_json()) else { continue };
        content["root"].as_str().into_iter().for_each(|root| count(&mut roots, root));
        content["vote"]["link"].as_str().into_iter().for_each(|post| count(&mut votes, post));
        let mut found: Vec<&str> = content["text"].as_str().unwrap_or_default().split(' ').collect();
        found.sort_unstable();
        found.dedup();
        found.iter().filter(|word| word.len() > 2).for_each(|word| count(&mut words, word));
    }
    let most = |counts: BTreeMap<String, usize>| counts.into_iter().max_by_key(|(_, count)| *count);
    let wanted = bench.corpus.messages / ONE_IN;
    let word = words.into_iter().min_by_key(|(_, count)| count.abs_diff(wanted));
    Favourites {
        root: most(roots).expect("there are threads"),
        voted: most(votes).expect("there are votes"),
        word: word.expect("there are words").0,
    }
}

/// What it takes until the last item is here, in milliseconds: the first time, and the median of all others.
async fn measured(session: &Session, query: &Query) -> (f64, f64) {
    let mut times = Vec::with_capacity(query.times);
    for _ in 0..=query.times {
        let started = wait::now();
        let items = ask(session, query).await;
        times.push((wait::now() - started).as_secs_f64() * 1000.0);
        assert!(query.expected.is_none_or(|expected| items == expected), "{:?}: {items} items", query.method);
    }
    let cold = times.remove(0);
    times.sort_by(f64::total_cmp);
    (cold, times[times.len() / 2])
}

/// How many items come.
async fn ask(session: &Session, query: &Query) -> usize {
    if query.kind == CallKind::Async {
        let answer = session.call(query.method, query.args.clone()).await;
        answer.unwrap_or_else(|e| panic!("{:?}: {e}", query.method));
        return 1;
    }
    let mut args = query.args.clone();
    // As the typed methods of our client ask, and as any caller can.
    args.iter_mut().for_each(|options| options["boxes"] = "shared".into());
    let opened = session.open(query.kind, query.method, args).await;
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

/// How long a JavaScript client waits for what it then spends its time decoding, in units of that: the worst.
fn decoding(bench: &Bench, subject: &Subject, queries: &[Query]) -> f64 {
    let folder = Stack::Classic.folder();
    installed(folder, "ssb-client");
    let listed = queries.iter().filter(|query| query.kind == CallKind::Source).map(|query| {
        let name = format!("{:?}", query.row);
        json!({ "name": name, "kind": "source", "method": query.method, "args": query.args, "times": query.times.min(3) })
    });
    let what = json!({
        "path": subject.dir().join("secret"), "remote": subject.address(), "shs": MAIN_NETWORK,
        "queries": listed.collect::<Vec<_>>(),
    });
    let mut command = Command::new("node");
    command.arg(package_dir().join("js").join(folder).join("client.js")).arg(what.to_string());
    let output = bench.host.enter(|| command.output()).expect("nodejs is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut worst: f64 = 0.0;
    for line in lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        say(format_args!("query by ssb-client: {line}"));
        if line["items"].as_u64() >= Some(MANY) {
            let figure = |name: &str| line[name].as_f64().unwrap_or(f64::NAN);
            worst = worst.max(figure("took") / figure("decode"));
        }
    }
    worst
}

/// How long the newest posts take on an empty node while it takes everything from another, in units of the idle node.
fn in_sync(bench: &Bench, source: Subject, queries: &[Query], round: usize) -> f64 {
    let newest = queries.iter().find(|query| query.row == Row::QueryNewest).expect("it is one of them");
    let newest = Query { args: newest.args.clone(), expected: None, times: TIMES, ..*newest };
    let owner = source.owner(bench);
    let (_, idle) = owner.run(async |session: &Session| measured(session, &newest).await);
    drop(owner);
    let dir = bench.host.dir().join(format!("sink-query-{round}"));
    let mut sink = Subject::start(bench, Kind::Ours, Role::Sink, &dir);
    sink.follow(bench.corpus.friends.iter().map(String::as_str));
    sink.connect(&source);
    let owner = sink.owner(bench);
    let all = bench.corpus.messages as u64;
    let mut times = Vec::new();
    loop {
        let status = sink.control.status().expect("the node answers");
        let stored = status.0["db"]["messages"].as_u64().unwrap_or(0);
        if stored >= all {
            break;
        }
        let (_, took) = owner.run(async |session: &Session| {
            measured(session, &Query { times: 1, args: newest.args.clone(), ..newest }).await
        });
        // Before the first fifty there is nothing to compare.
        if stored > all / 20 {
            times.push(took);
        }
    }
    drop(owner);
    sink.stop();
    source.stop();
    fs::remove_dir_all(dir).ok();
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2).copied().unwrap_or(idle);
    say(format_args!("query during a sync: {} times, {median:.2} ms, idle {idle:.2} ms", times.len()));
    median / idle
}
