//! Single messages and parts of feeds, to and from JavaScript's peers, and over a peer in between.

use hawsepipe_tests::js::{Foreign, Options, Stack};
use hawsepipe_tests::lab;
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::wait::{self, SOON};
use serde_json::{Value, json};

fn post(text: &str) -> Value {
    json!({ "type": "post", "text": text })
}

/// A message that nobody has.
const NOWHERE: &str = "%AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=.sha256";

fn assert_nothing_of(ours: &Peer, feed: &str) {
    assert_eq!(ours.sequence_of(feed), 0, "its feed goes on as if the message were not there");
    assert!(ours.ids().is_empty());
}

#[test]
fn a_message_comes_from_ssb_server_without_its_feed() {
    lab::run(|lab| {
        let [host_ours, host_theirs] = lab.segment(["ours", "theirs"]);
        let ours = Setup::on(&host_ours).solitary().start();
        let mut theirs = Foreign::start(&host_theirs, Stack::Classic, &Options::default());
        theirs.publish(&post("one"));
        let id = theirs.publish(&post("two \u{20ac}"));
        ours.ok(&["connect", theirs.address()]);
        let found = &ours.call("ooo.get", &[json!(id)])[0];
        assert_eq!((&found["key"], &found["ooo"]), (&json!(id), &json!(true)));
        assert_eq!(
            (&found["value"]["sequence"], &found["value"]["content"]["text"]),
            (&json!(2), &json!("two \u{20ac}"))
        );
        assert_nothing_of(&ours, theirs.id());
        // It is kept, apart from the log, over a restart and without the peer.
        let setup = ours.setup().clone();
        ours.stop();
        theirs.stop();
        let ours = setup.start();
        let kept = &ours.call("get", &[json!({ "id": id, "ooo": true })])[0];
        assert_eq!(kept["content"]["text"], "two \u{20ac}");
        assert!(!ours.setup().run(&["call", "get", &id]).status.success(), "only who asks for it gets it");
        let refused =
            ours.setup().run(&["call", "ooo.get", &json!({ "id": NOWHERE, "timeout": 100 }).to_string()]);
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains("took more than timeout:100"),
            "{refused:?}"
        );
    });
}

#[test]
fn ssb_server_gets_a_message_of_ours_whoever_dialled() {
    lab::run(|lab| {
        let [host_ours, host_theirs] = lab.segment(["ours", "theirs"]);
        let ours = Setup::on(&host_ours).solitary().start();
        let mut theirs = Foreign::start(&host_theirs, Stack::Classic, &Options::default());
        let ids = [ours.publish(&post("one")), ours.publish(&post("two"))];
        theirs.connect(&ours.net_address());
        assert_eq!(theirs.ok("oooGet", &[json!(ids[1])])["value"]["content"]["text"], "two");
        ours.ok(&["call", "conn.disconnect", theirs.address()]);
        wait::until("the session to end", SOON, || {
            if ours.connected().is_empty() { Ok(()) } else { Err("it stands".to_owned()) }
        });
        ours.ok(&["connect", theirs.address()]);
        assert_eq!(theirs.ok("oooGet", &[json!(ids[0])])["value"]["content"]["text"], "one");
        let own = ours.id().to_owned();
        assert_eq!(theirs.sequence_of(&own), 0);
    });
}

#[test]
fn a_question_is_passed_on_by_a_peer_in_between() {
    lab::run(|lab| {
        let [host_ours, host_middle, host_theirs] = lab.segment(["ours", "middle", "theirs"]);
        let ours = Setup::on(&host_ours).solitary().start();
        let middle = Setup::on(&host_middle).solitary().start();
        let mut theirs = Foreign::start(&host_theirs, Stack::Classic, &Options::default());
        let id = theirs.publish(&post("far away"));
        middle.ok(&["connect", theirs.address()]);
        ours.ok(&["connect", &middle.net_address()]);
        assert_eq!(ours.call("ooo.get", &[json!(id)])[0]["value"]["content"]["text"], "far away");
        assert_nothing_of(&middle, theirs.id());
        let mine = ours.publish(&post("and back"));
        assert_eq!(theirs.ok("oooGet", &[json!(mine)])["value"]["content"]["text"], "and back");
    });
}

#[test]
fn subsets_go_to_and_come_from_the_manyverse_stack() {
    lab::run(|lab| {
        let [host_ours, host_theirs] = lab.segment(["ours", "theirs"]);
        let ours = Setup::on(&host_ours).solitary().start();
        let mut theirs = Foreign::start(&host_theirs, Stack::Manyverse, &Options::default());
        let (own, other) = (ours.id().to_owned(), theirs.id().to_owned());
        for n in 0..3 {
            ours.publish(&post(&format!("ours {n}")));
            theirs.publish(&post(&format!("theirs {n}")));
        }
        ours.publish(&json!({ "type": "about", "about": own, "name": "we" }));
        theirs.publish(&json!({ "type": "about", "about": other, "name": "they" }));
        theirs.connect(&ours.net_address());
        let posts_of = |feed: &str| json!({ "op": "and", "args": [{ "op": "author", "feed": feed }, { "op": "type", "string": "post" }] });
        let texts = |messages: &Value| -> Vec<String> {
            let messages = messages.as_array().unwrap().iter();
            messages.map(|message| message["content"]["text"].as_str().unwrap().to_owned()).collect()
        };
        let ql1 = json!({ "querylang": "ssb-ql-1" });
        let got = theirs.ok("subsetOf", &[json!(own), posts_of(&own), ql1.clone()]);
        assert_eq!(texts(&got), ["ours 0", "ours 1", "ours 2"]);
        let newest = json!({ "querylang": "ssb-ql-1", "descending": true, "pageSize": 2 });
        let got = theirs.ok("subsetOf", &[json!(own), posts_of(&own), newest]);
        assert_eq!(texts(&got), ["ours 2", "ours 1"]);
        let ql0 = json!({ "author": own, "type": "about", "private": false });
        let got = theirs.ok("subsetOf", &[json!(own), ql0, json!({ "querylang": "ssb-ql-0" })]);
        assert_eq!(got[0]["content"]["name"], "we");
        let refused = theirs.ask("subsetOf", &[json!(own), json!({ "op": "not" }), ql1.clone()], SOON);
        assert!(refused.unwrap_err().contains("Unknown \\\"op\\\" field: not"));

        let got = ours.call("ooo.getSubset", &[json!(other), posts_of(&other), ql1]);
        let got: Vec<&Value> = got.iter().map(|message| &message["value"]["content"]["text"]).collect();
        assert_eq!(got, ["theirs 0", "theirs 1", "theirs 2"]);
        assert_eq!(ours.sequence_of(&other), 0);
        assert!(ours.ids().len() == 4, "nothing of theirs is in the log");
    });
}
