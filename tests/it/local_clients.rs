//! What local programs do wrong, or do at the same time: it concerns the call, never the session, the node or the feed.

use std::fs;
use std::thread;
use std::time::Duration;

use hawsepipe::identity::load_or_create_secret;
use hawsepipe_overlay::conn::{Session, Stream};
use hawsepipe_overlay::muxrpc::{Body, CallError, CallKind};
use hawsepipe_replication::message::{self, Tip};
use hawsepipe_tests::control::Control;
use hawsepipe_tests::lab;
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::usage::Usage;
use hawsepipe_tests::wait::{self, SOON};
use serde_json::{Value, json};
use tokio::time::timeout;

/// How long a method may take that has nothing to do, on a busy machine.
const ANSWER: Duration = SOON;

fn open(node: &Peer) -> Control {
    Control::open(node.setup().dir())
}

/// Every method and its kind.
fn methods(control: &Control) -> Vec<(String, CallKind)> {
    fn collect(level: &Value, path: &str, found: &mut Vec<(String, CallKind)>) {
        for (name, value) in level.as_object().unwrap() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let kind = match value.as_str() {
                None => {
                    collect(value, &path, found);
                    continue;
                }
                Some("source") => CallKind::Source,
                Some("sink") => CallKind::Sink,
                Some("duplex") => CallKind::Duplex,
                Some(_) => CallKind::Async,
            };
            found.push((path, kind));
        }
    }
    let mut found = Vec::new();
    collect(&control.call("manifest", Vec::new()).unwrap(), "", &mut found);
    found
}

/// Arguments that are of no use to any method.
fn garbage() -> Vec<Vec<Value>> {
    let mut deep = json!(1);
    for _ in 0..60 {
        deep = json!([deep]);
    }
    vec![
        vec![],
        vec![Value::Null],
        vec![json!(7)],
        vec![json!(-1.5e300)],
        vec![json!(true)],
        vec![json!("x")],
        vec![json!("x".repeat(100_000))],
        vec![json!([])],
        vec![json!([[]])],
        vec![json!({})],
        vec![
            json!({ "id": 7, "query": 5, "limit": "many", "gt": {}, "lt": [], "live": 0, "old": "no", "type": [] }),
        ],
        vec![
            json!({ "id": "@AAAA", "source": {}, "dest": 3, "rel": 1, "start": "x", "max": -1, "end": "z", "key": 5 }),
        ],
        vec![
            json!({ "query": [{ "$filter": { "value": { "$nothing": [] } } }, { "$map": 7 }, { "$reduce": "x" }] }),
        ],
        vec![deep],
        vec![json!("%x"), json!({}), json!([]), Value::Null, json!(9)],
    ]
}

async fn is_alive(session: &Session, after: &str) {
    let answer = timeout(ANSWER, session.call(&["whoami"], vec![json!([])])).await;
    answer
        .unwrap_or_else(|_| panic!("no answer after {after}"))
        .unwrap_or_else(|e| panic!("{e} after {after}"));
}

/// An error, if there is one, is one of the method: it says something, and the session goes on.
fn assert_remote(error: &CallError, call: &str) {
    match error {
        CallError::Remote(error) => {
            assert!(!error.message.is_empty() && !error.name.is_empty(), "{call}: {error:?}")
        }
        CallError::SessionEnded => panic!("{call} ended the session"),
    }
}

async fn call_with_garbage(session: &Session, name: &str, kind: CallKind, args: Vec<Value>) {
    let shown: String = format!("{name}({})", json!(args)).chars().take(200).collect();
    let path: Vec<&str> = name.split('.').collect();
    if kind == CallKind::Async {
        let answer = timeout(ANSWER, session.call(&path, args)).await;
        if let Err(error) = answer.unwrap_or_else(|_| panic!("{shown} is not answered")) {
            assert_remote(&error, &shown);
        }
        return;
    }
    let Stream { mut tx, mut rx } = session.open(kind, &path, args).await.unwrap();
    if kind != CallKind::Source {
        for body in [Body::json(&json!({ "a": [] })), Body::text("x"), Body::binary(vec![0; 100])] {
            // It may have ended with an error already.
            if tx.send(body).await.is_err() {
                break;
            }
        }
    }
    is_alive(session, &shown).await;
    tx.end(None).await;
    let drain = async {
        while let Some(item) = rx.recv().await {
            if let Err(error) = item {
                assert_remote(&error, &shown);
            }
        }
    };
    timeout(ANSWER, drain).await.unwrap_or_else(|_| panic!("{shown} does not end"));
}

#[test]
fn no_arguments_of_any_method_harm_more_than_the_call() {
    lab::run(|lab| {
        let host = lab.host("node");
        let mut node = Setup::on(&host).solitary().start();
        let control = open(&node);
        let methods = methods(&control);
        assert!(methods.len() > 80, "{}", methods.len());
        control.run(async |session: &Session| {
            for (name, kind) in &methods {
                for args in garbage() {
                    call_with_garbage(session, name, *kind, args).await;
                }
                is_alive(session, name).await;
            }
        });
        assert!(node.is_running());
        let metrics = node.metrics().unwrap();
        assert!(metrics.sum("calls_total", &[("outcome", "error")]) > 100.0, "{metrics}");
    });
}

#[test]
fn unknown_methods_and_wrong_kinds_are_refused_in_the_words_of_js() {
    lab::run(|lab| {
        let host = lab.host("node");
        let node = Setup::on(&host).solitary().start();
        let control = open(&node);
        let refused = |name: &str| control.call(name, Vec::new()).unwrap_err();
        assert_eq!(refused("no.such"), "no.such: no async:no,such");
        assert_eq!(refused("createLogStream"), "createLogStream: no async:createLogStream");
        assert_eq!(refused("getLatest"), "getLatest: Param 0 is required");
        control.run(async |session: &Session| {
            for (kind, name) in
                [(CallKind::Source, "source"), (CallKind::Sink, "sink"), (CallKind::Duplex, "duplex")]
            {
                let mut stream = session.open(kind, &["whoami"], Vec::new()).await.unwrap();
                let error = stream.rx.recv().await.unwrap().unwrap_err();
                assert_eq!(error.to_string(), format!("no {name}:whoami"));
            }
            is_alive(session, "refusals").await;
        });
    });
}

#[test]
fn what_cannot_be_published_is_refused_by_field_and_rule() {
    lab::run(|lab| {
        let host = lab.host("node");
        let node = Setup::on(&host).solitary().start();
        let control = open(&node);
        for (content, words) in [
            (json!({ "text": "x" }), &["type", "52"][..]),
            (json!({ "type": "xx" }), &["type", "3"]),
            (json!({ "type": "x".repeat(53) }), &["type", "52"]),
            (json!({ "type": 7 }), &["type"]),
            (json!(7), &["content", "object"]),
            (json!("not encrypted"), &["content", "encrypted"]),
            (json!({ "type": "post", "text": "x".repeat(9000) }), &["8192"]),
            (json!({ "type": "post", "recps": ["nobody"] }), &["recps"]),
            (json!({ "type": "post", "recps": [] }), &["recps"]),
        ] {
            let refused = control.call("publish", vec![content.clone()]).unwrap_err();
            for word in words {
                assert!(refused.contains(word), "{word:?} is not in {refused:?} of {content}");
            }
        }
        assert!(control.call("publish", Vec::new()).unwrap_err().contains("required"));
        assert_eq!(control.call("getVectorClock", Vec::new()).unwrap(), json!({}), "nothing was stored");
    });
}

/// Publishes `count` posts one after the other, and gives their sequence numbers.
fn publish_many(node: &Peer, name: &str, count: u64) -> Vec<u64> {
    let control = open(node);
    let publish = |n| {
        let message =
            control.call("publish", vec![json!({ "type": "post", "text": format!("{name} {n}") })]).unwrap();
        message["value"]["sequence"].as_u64().unwrap()
    };
    (0..count).map(publish).collect()
}

#[test]
fn two_clients_that_publish_at_once_keep_their_order_and_one_feed() {
    const EACH: u64 = 150;
    lab::run(|lab| {
        let host = lab.host("node");
        let node = Setup::on(&host).solitary().start();
        let sequences = thread::scope(|scope| {
            let publishing = ["one", "two"].map(|name| scope.spawn(|| publish_many(&node, name, EACH)));
            publishing.map(|thread| thread.join().unwrap())
        });
        for of_one in &sequences {
            assert!(of_one.is_sorted(), "a client's messages changed places: {of_one:?}");
        }
        let mut all = sequences.concat();
        all.sort_unstable();
        assert_eq!(all, (1..=2 * EACH).collect::<Vec<_>>());
        let feed = node.call("createUserStream", &[json!({ "id": node.id() })]);
        let mut before = Value::Null;
        for message in feed {
            assert_eq!(message["value"]["previous"], before, "the chain is broken");
            before = message["key"].clone();
        }
    });
}

#[test]
fn a_client_may_sign_by_itself_and_add() {
    lab::run(|lab| {
        let host = lab.host("node");
        let node = Setup::on(&host).solitary().start();
        let control = open(&node);
        control.call("publish", vec![json!({ "type": "post", "text": "by the node" })]).unwrap();
        let latest = control.call("getLatest", vec![json!(node.id())]).unwrap();
        let keypair = load_or_create_secret(node.setup().dir()).unwrap();
        let tip = Tip {
            id: latest["key"].as_str().unwrap().parse().unwrap(),
            sequence: latest["value"]["sequence"].as_u64().unwrap(),
        };
        let time = latest["value"]["timestamp"].as_f64().unwrap() + 1.0;
        let content = br#"{"type":"post","text":"by the client"}"#;
        let signed = message::sign(&keypair, None, Some(&tip), time, content).unwrap();
        let value: Value = serde_json::from_slice(signed.value_bytes()).unwrap();
        let added = control.call("add", vec![value]).unwrap();
        assert_eq!(added["key"], json!(signed.id()));
        let third =
            control.call("publish", vec![json!({ "type": "post", "text": "by the node again" })]).unwrap();
        assert_eq!((&third["value"]["previous"], &third["value"]["sequence"]), (&added["key"], &json!(3)));
    });
}

#[test]
fn a_client_that_stops_reading_a_hundred_streams_disturbs_nobody() {
    const STREAMS: usize = 100;
    const MESSAGES: u64 = 400;
    lab::run(|lab| {
        let host = lab.host("node");
        let mut node = Setup::on(&host).solitary().start();
        let (silent, busy) = (open(&node), open(&node));
        let streams = silent.run(async |session: &Session| {
            let mut streams = Vec::new();
            for _ in 0..STREAMS {
                let options = vec![json!({ "live": true })];
                streams.push(session.open(CallKind::Source, &["createLogStream"], options).await.unwrap());
            }
            // The node has begun all of them.
            is_alive(session, "opening").await;
            streams
        });
        let before = Usage::of(node.process()).peak_mb;
        let text = "x".repeat(6000);
        for n in 0..MESSAGES {
            busy.call("publish", vec![json!({ "type": "post", "text": text, "n": n })]).unwrap();
        }
        // Unread, this is 240 MB.
        let grown = Usage::of(node.process()).peak_mb - before;
        assert!(grown < 60.0, "{grown} MiB more");
        drop((streams, silent));
        assert_eq!(busy.call("latestSequence", vec![json!(node.id())]).unwrap(), json!(MESSAGES));
        assert!(node.is_running());
    });
}

#[test]
fn a_client_that_breaks_off_within_a_blob_leaves_nothing() {
    lab::run(|lab| {
        let host = lab.host("node");
        let node = Setup::on(&host).solitary().start();
        let leaving = open(&node);
        leaving.run(async |session: &Session| {
            let Stream { mut tx, rx } =
                session.open(CallKind::Sink, &["blobs", "add"], Vec::new()).await.unwrap();
            for _ in 0..16 {
                tx.send(Body::binary(vec![7; 65536])).await.unwrap();
            }
            is_alive(session, "half a blob").await;
            // Neither half says its end.
            std::mem::forget((tx, rx));
        });
        drop(leaving);
        let files = || {
            let mut rest = vec![node.setup().dir().join("blobs")];
            let mut found = Vec::new();
            while let Some(folder) = rest.pop() {
                for entry in fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
                    if entry.path().is_dir() { rest.push(entry.path()) } else { found.push(entry.path()) }
                }
            }
            found
        };
        wait::until("nothing to be left of half a blob", SOON, || {
            let found = files();
            if found.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
        });
        assert!(node.call("blobs.ls", &[]).is_empty());
    });
}
