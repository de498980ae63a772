//! Queries answered as ssb-server answers them: both have the same messages, and are asked the same.

use hawsepipe::identity::load_or_create_secret;
use hawsepipe_overlay::conn::Session;
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::muxrpc::CallKind;
use hawsepipe_tests::control::Control;
use hawsepipe_tests::generated::Generated;
use hawsepipe_tests::js::{Foreign, Options, Stack};
use hawsepipe_tests::lab::{self, Host};
use hawsepipe_tests::peer::{PORT, Setup};
use hawsepipe_tests::wait::{SOON, SYNC};
use serde_json::{Value, json};

const MESSAGES: usize = 2_000;

/// All that a source gives.
pub(crate) fn ask(control: &Control, method: &[&str], args: Vec<Value>) -> Vec<Value> {
    control.run(async |session: &Session| {
        let mut stream = session.open(CallKind::Source, method, args).await.unwrap();
        let mut items = Vec::new();
        while let Some(item) = stream.rx.recv().await {
            let body = item.unwrap();
            items.push(serde_json::from_slice(&body.bytes).unwrap_or_else(|_| body.lossy_text().into()));
        }
        items
    })
}

/// A session of its owner with a JavaScript peer.
pub(crate) fn owner(host: &Host, peer: &Foreign) -> Control {
    let keypair = load_or_create_secret(&peer.dir()).unwrap();
    let key = PublicKey::from_bytes(keypair.public.0);
    let port =
        peer.address().split(':').nth(2).and_then(|port| port.split('~').next()).unwrap().parse().unwrap();
    Control::dial(host, (host.v4(), port).into(), key, &keypair).unwrap()
}

/// Messages of some types that name something, whose order and content both have in common.
fn queries(corpus: &Generated) -> Vec<(Vec<&'static str>, Value)> {
    let filtered = |filter: Value| json!({ "query": [{ "$filter": filter }, { "$map": "key" }] });
    let author = &corpus.clock.iter().max_by_key(|(_, count)| *count).unwrap().0;
    let values =
        corpus.read().map(|(message, _)| serde_json::from_slice::<Value>(message.value_bytes()).unwrap());
    let values: Vec<Value> = values.collect();
    let root = values.iter().find_map(|value| value["content"]["root"].as_str()).unwrap();
    let voted = values.iter().find_map(|value| value["content"]["vote"]["link"].as_str()).unwrap();
    let time = &values[MESSAGES / 2]["timestamp"];
    let read = vec!["query", "read"];
    let types = json!([{ "$reduce": { "type": ["value", "content", "type"], "n": { "$count": true } } }]);
    let posts = json!({ "value": { "content": { "type": "post" } } });
    let later = json!({ "value": { "content": { "type": "post" }, "timestamp": { "$gt": time } } });
    let by_author = json!({ "value": { "author": author } });
    let abouts = json!({ "value": { "author": author, "content": { "type": "vote" } } });
    let mut newest = filtered(posts.clone());
    newest["reverse"] = true.into();
    newest["limit"] = 20.into();
    vec![
        (read.clone(), filtered(posts)),
        (read.clone(), newest),
        (read.clone(), filtered(later)),
        (read.clone(), filtered(by_author)),
        (read.clone(), filtered(abouts)),
        (read.clone(), filtered(json!({ "value": { "content": { "root": root } } }))),
        (read, json!({ "query": types })),
        (vec!["links"], json!({ "dest": root, "rel": "root" })),
        (vec!["links"], json!({ "dest": voted, "values": false })),
        (vec!["links"], json!({ "dest": voted, "reverse": true })),
        (vec!["links"], json!({ "source": author, "rel": "vote" })),
        (vec!["links"], json!({ "source": author, "dest": "%", "meta": false })),
        (vec!["links"], json!({ "source": author, "dest": root })),
        (vec!["links"], json!({ "source": author, "dest": "feed", "keys": false })),
    ]
}

/// Single answers that do not depend on who is asked.
fn lookups(corpus: &Generated) -> Vec<(&'static str, Vec<Value>)> {
    let (author, friend) = (&corpus.clock[0].0, &corpus.friends[0]);
    let nobody = "@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=.ed25519";
    vec![
        ("friends.get", vec![json!({ "source": friend })]),
        ("friends.get", vec![json!({ "dest": author })]),
        ("friends.get", vec![json!({ "source": friend, "dest": author })]),
        ("friends.get", vec![json!({})]),
        ("friends.isFollowing", vec![json!({ "source": friend, "dest": author })]),
        ("getFeedState", vec![json!(author)]),
        ("getFeedState", vec![json!(nobody)]),
        ("getLatest", vec![json!(friend)]),
        ("latestSequence", vec![json!(friend)]),
    ]
}

/// Each received it at its own time.
fn without_reception(mut answer: Value) -> Value {
    if answer.get("value").is_some() {
        answer["timestamp"] = Value::Null;
    }
    answer
}

#[test]
fn queries_and_links_are_answered_as_ssb_server_answers_them() {
    lab::run(|lab| {
        let corpus = Generated::load(MESSAGES);
        let host = lab.host("both");
        let dir = host.dir().join("ours");
        std::fs::create_dir_all(&dir).unwrap();
        corpus.store_into(&dir);
        let ours = Setup::on(&host).path(&dir).solitary().start();
        let options = Options { port: PORT + 1, ..Options::default() };
        let mut theirs = Foreign::start(&host, Stack::Classic, &options);
        let file = Value::from(corpus.lines().to_string_lossy());
        theirs.ask("import", &[file], SYNC).unwrap();
        theirs.ask("indexed", &[], SYNC).unwrap();
        let (ours, theirs) = (ours.control(), owner(&host, &theirs));
        for (method, args) in queries(&corpus) {
            let expected = ask(&theirs, &method, vec![args.clone()]);
            assert!(!expected.is_empty(), "{method:?} {args} gives nothing");
            assert_eq!(ask(&ours, &method, vec![args.clone()]), expected, "{method:?} {args}");
        }
        for (method, args) in lookups(&corpus) {
            let expected = theirs.call(method, args.clone()).unwrap();
            assert_eq!(
                without_reception(ours.call(method, args.clone()).unwrap()),
                without_reception(expected),
                "{method} {args:?}"
            );
        }
        let latest = |control: &Control| {
            let mut items = ask(control, &["latest"], vec![]);
            items.sort_by_key(|item| item["id"].as_str().unwrap().to_owned());
            items
        };
        assert_eq!(latest(&ours), latest(&theirs));
        assert!(ours.call_within(SOON, "query.explain", vec![json!({})]).unwrap()["scan"].as_bool().unwrap());
    });
}
