//! Private messages from outside: with ssb-server (box1), with the stack Manyverse is built from (box2), and groups
//! among our own nodes.

use std::fs;
use std::path::Path;

use hawsepipe_replication::message::Message;
use hawsepipe_replication::private;
use hawsepipe_replication::private::envelope::{Scheme, SlotKey};
use hawsepipe_tests::js::{Foreign, Options, Stack, installed};
use hawsepipe_tests::lab::{self, Host, Lab};
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::wait::{self, SOON, SYNC};
use serde_json::{Value, json};

/// Stands in no message but the private one.
const SECRET: &str = "the treasure lies under the third palm";

fn own_post(ours: &Peer, recps: &[&str], text: &str) -> String {
    ours.publish(&json!({ "type": "post", "text": text, "recps": recps }))
}

/// A message opened, with key and timestamp.
fn opened(ours: &Peer, id: &str) -> Value {
    ours.call("get", &[json!({ "id": id, "private": true, "meta": true })])[0].clone()
}

fn text(message: &Value) -> &str {
    message["value"]["content"]["text"].as_str().unwrap_or_default()
}

fn ids(messages: &[Value]) -> Vec<&str> {
    messages.iter().filter_map(|message| message["key"].as_str()).collect()
}

/// Both follow each other and have a session.
fn befriended(host: &Host, theirs: &mut Foreign) -> Peer {
    let ours = Setup::on(host).solitary().start();
    ours.follow(theirs.id());
    theirs.follow([ours.id()]);
    ours.ok(&["connect", theirs.address()]);
    ours
}

fn wait_for_all_of(ours: &Peer, theirs: &mut Foreign) {
    let id = theirs.id().to_owned();
    let newest = theirs.sequence_of(&id);
    ours.wait_clock(&[(id, newest)], SYNC);
}

/// Whether any file below `dir` holds `text`.
fn holds(dir: &Path, text: &str) -> bool {
    fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok).any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            holds(&path, text)
        } else {
            fs::read(&path).is_ok_and(|bytes| contains(&bytes, text))
        }
    })
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// All the ways to read, each with the messages that it must show opened.
fn assert_readable(ours: &Peer, expected: &[&str]) {
    let read = ours.call("private.read", &[json!({})]);
    assert_eq!(ids(&read), expected);
    let reversed = ours.call("private.read", &[json!({ "reverse": true, "limit": 1 })]);
    assert_eq!(ids(&reversed), expected[expected.len() - 1..]);
    for (method, options) in [
        ("createLogStream", json!({})),
        ("createFeedStream", json!({})),
        ("messagesByType", json!({ "type": "post" })),
    ] {
        let with = |private: bool| {
            let mut options = options.clone();
            options["private"] = private.into();
            ours.call(method, &[options])
        };
        let is_private = |message: &&Value| message["value"]["private"] == true;
        let shown: Vec<_> = with(true).iter().filter(is_private).cloned().collect();
        let (mut shown, mut expected) = (ids(&shown), expected.to_vec());
        shown.sort_unstable();
        expected.sort_unstable();
        assert_eq!(shown, expected, "{method}");
        let plain = with(false);
        assert!(expected.iter().all(|id| ids(&plain).contains(id)), "{method} has them as they are");
        assert!(
            plain.iter().all(|message| message["value"]["private"].is_null()),
            "{method} opens nothing unasked"
        );
    }
}

#[test]
fn ssb_server_and_we_write_to_each_other_in_private() {
    lab::run(|lab: &mut Lab| {
        let [host_theirs, host_ours] = lab.segment(["theirs", "ours"]);
        let mut theirs = Foreign::start(&host_theirs, Stack::Classic, &Options::default());
        let ours = befriended(&host_ours, &mut theirs);
        let both = [theirs.id().to_owned(), ours.id().to_owned()];
        let both: Vec<&str> = both.iter().map(String::as_str).collect();

        let content = json!({ "type": "post", "text": SECRET, "recps": both });
        let from_them = theirs.publish(&content);
        let not_for_us = theirs.publish(&json!({ "type": "post", "text": "alone", "recps": [theirs.id()] }));
        wait_for_all_of(&ours, &mut theirs);
        let from_us = own_post(&ours, &both, "an answer");
        theirs.wait_clock(&[(ours.id().to_owned(), ours.sequence_of(ours.id()))], SYNC);

        // What either shows of a message is the same, to the last field.
        for (id, said) in [(&from_them, SECRET), (&from_us, "an answer")] {
            let (shown, as_they_show) = (opened(&ours, id), theirs.ok("getPrivate", &[json!(id)]));
            assert_eq!(text(&shown), said);
            assert_eq!(shown["value"].to_string(), as_they_show["value"].to_string());
            let link = format!("{id}?unbox={}", shown["value"]["unbox"].as_str().unwrap());
            assert_eq!(ours.call("get", &[json!(link)])[0], shown["value"]);
        }
        assert!(opened(&ours, &not_for_us)["value"]["content"].is_string());
        assert_readable(&ours, &[&from_them, &from_us]);
        let mine = ours.call("createUserStream", &[json!({ "id": ours.id(), "private": true })]);
        assert!(mine.iter().any(|message| text(message) == "an answer"));
        let sealed = ours.call("get", &[json!(from_them)])[0].clone();
        assert_eq!(ours.call("private.unbox", &[sealed["content"].clone()])[0], content);

        ours.ok(&["erase", &from_them]);
        assert_readable(&ours, &[&from_us]);
        let setup = ours.setup().clone();
        assert!(ours.stop().success());
        assert!(!holds(setup.dir(), SECRET), "nothing that was opened is kept");
        assert!(!holds(&host_ours.dir().join("hawsepipe.log"), SECRET));
        fs::remove_file(setup.dir().join("hawsepipe/private/index")).unwrap();
        assert_readable(&setup.start(), &[&from_us]);
    });
}

#[test]
fn what_cannot_be_sealed_is_refused_in_the_words_of_ssb_db() {
    lab::run(|lab: &mut Lab| {
        let ours = Setup::on(&lab.host("ours")).solitary().start();
        let other = "@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=.ed25519";
        let group = "%6kFEq9AaVS/uhnKGARmPAIQdXcGkex8f1l//UFGZtSg=.cloaked";
        for (recps, said) in [
            (json!([]), "requires at least one recipient"),
            (json!(5), r#""recps" expects an Array of recipients"#),
            (json!(["nobody"]), r#"no boxers could encrypt these recps: ["nobody"]"#),
            (json!([other, other, other, other, other, other, other, other]), "max recipients is:7 found:8"),
            (json!([group]), "unknown groupId"),
            (json!([other, group]), "no boxers could encrypt"),
        ] {
            let content = json!({ "type": "post", "text": SECRET, "recps": recps });
            let output = ours.setup().run(&["publish", &content.to_string()]);
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code() == Some(1) && error.contains(said), "{recps}: {error}");
        }
        assert_eq!(ours.sequence_of(ours.id()), 0);
    });
}

fn vector(file: &str) -> Value {
    let path = installed("manyverse", file);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn base64(value: &Value) -> Vec<u8> {
    // A text that is base64 as JSON has it.
    let text = value.as_str().unwrap();
    ssb_crypto::PublicKey::from_base64(text)
        .map_or_else(|| panic!("32 bytes in {text}"), |key| key.0.to_vec())
}

/// Sealed by others, with keys that the vectors give.
#[test]
fn the_vectors_of_private_group_spec_hold() {
    for file in ["private-group-spec/vectors/unbox1.json", "private-group-spec/vectors/unbox2.json"] {
        let vector = vector(file);
        let keys: Vec<SlotKey> = vector["input"]["trial_keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| {
                let schemes = [Scheme::Group, Scheme::DirectMessage, Scheme::Own];
                let scheme = schemes.into_iter().find(|scheme| key["scheme"] == scheme.name());
                SlotKey::new(
                    scheme.unwrap_or_else(|| panic!("{key}")),
                    base64(&key["key"]).try_into().unwrap(),
                )
            })
            .collect();
        let expected = vector["output"]["msgsContent"].as_array().unwrap();
        let messages = vector["input"]["msgs"].as_array().unwrap();
        assert_eq!(messages.len(), expected.len());
        for (message, expected) in messages.iter().zip(expected) {
            let id = message["key"].as_str().unwrap().parse().unwrap();
            let value = message["value"].to_string().into_bytes().into();
            let message = Message::from_trusted(id, value).unwrap();
            let opened = keys.iter().find_map(|key| private::envelope::open_message(&message, key));
            let opened: Value = opened.map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap());
            assert_eq!(opened, *expected, "{file}");
        }
    }
}

fn member(host: &Host, of: &Peer) -> Peer {
    let node = Setup::on(host).solitary().start();
    node.follow(of.id());
    of.follow(node.id());
    node.ok(&["connect", &of.net_address()]);
    node
}

fn wait_text(node: &Peer, id: &str, said: &str) {
    let control = node.control();
    wait::until(&format!("{said:?} can be read"), SOON, || {
        let shown = control.call("get", vec![json!({ "id": id, "private": true, "meta": true })])?;
        if text(&shown) == said { Ok(()) } else { Err(shown.to_string()) }
    });
}

#[test]
fn a_group_is_read_by_its_members_from_the_moment_that_they_have_its_key() {
    lab::run(|lab: &mut Lab| {
        let [host_one, host_two, host_three] = lab.segment(["one", "two", "three"]);
        let one = Setup::on(&host_one).solitary().start();
        let two = member(&host_two, &one);
        let three = member(&host_three, &one);
        let group = one.call("tribes2.create", &[])[0].clone();
        let id = group["id"].as_str().unwrap();
        let early = own_post(&one, &[id], "before you came");
        let all = vec![(one.id().to_owned(), one.sequence_of(one.id()))];
        two.wait_clock(&all, SYNC);
        three.wait_clock(&all, SYNC);
        assert!(opened(&two, &early)["value"]["content"].is_string());
        let refused = two.setup().run(&["publish", &json!({ "type": "post", "recps": [id] }).to_string()]);
        assert!(String::from_utf8_lossy(&refused.stderr).contains("unknown groupId"));

        let added =
            one.call("tribes2.addMembers", &[json!(id), json!([two.id()]), json!({ "text": "welcome" })]);
        wait_text(&two, added[0][0]["key"].as_str().unwrap(), "welcome");
        wait_text(&two, &early, "before you came");
        assert_eq!(two.call("tribes2.list", &[])[0]["id"], *id);
        let members = json!([one.id(), two.id()]);
        assert_eq!(two.call("tribes2.listMembers", &[json!(id)])[0]["added"], members);

        let answer = own_post(&two, &[id], "thanks");
        one.wait_clock(&[(two.id().to_owned(), two.sequence_of(two.id()))], SYNC);
        wait_text(&one, &answer, "thanks");
        // It follows what nobody had followed up on.
        let tangle = opened(&one, &answer)["value"]["content"]["tangles"]["group"].clone();
        assert_eq!(tangle, json!({ "root": group["root"], "previous": [added[0][0]["key"]] }));
        assert!(
            opened(&three, &early)["value"]["content"].is_string(),
            "whoever was not added reads nothing"
        );

        // The keys' file comes back from the messages.
        let setup = two.setup().clone();
        assert!(two.stop().success());
        fs::remove_dir_all(setup.dir().join("hawsepipe/private")).unwrap();
        let two = setup.start();
        wait_text(&two, &early, "before you came");
        own_post(&two, &[id], "still here");
    });
}

#[test]
fn envelopes_of_the_manyverse_stack_are_read_and_ours_by_it() {
    lab::run(|lab: &mut Lab| {
        let [host_theirs, host_ours] = lab.segment(["theirs", "ours"]);
        let mut theirs = Foreign::start(&host_theirs, Stack::Manyverse, &Options::default());
        let ours = befriended(&host_ours, &mut theirs);
        let seal = |theirs: &mut Foreign, recp: &str, said: &str| {
            let content = json!({ "type": "post", "text": said, "recps": [recp] });
            let message = theirs.ok("publishEnvelope", &[content, json!([recp])]);
            message["key"].as_str().unwrap().to_owned()
        };
        let direct = seal(&mut theirs, ours.id(), "to you alone");
        wait_for_all_of(&ours, &mut theirs);
        wait_text(&ours, &direct, "to you alone");

        let group = ours.call("tribes2.create", &[])[0].clone();
        let id = group["id"].as_str().unwrap();
        let added = ours.call("tribes2.addMembers", &[json!(id), json!([theirs.id()])]);
        let added = added[0][0]["key"].as_str().unwrap();
        theirs.wait_clock(&[(ours.id().to_owned(), ours.sequence_of(ours.id()))], SYNC);
        let invitation = theirs.ok("get", &[json!(added)]);
        let (key, root) = (&invitation["content"]["groupKey"], &invitation["content"]["root"]);
        assert_eq!((root, key), (&group["root"], &group["writeKey"]["key"]), "{invitation}");
        theirs.ok("joinGroup", &[json!(id), key.clone(), root.clone()]);

        let from_them = seal(&mut theirs, id, "hello, all");
        wait_for_all_of(&ours, &mut theirs);
        wait_text(&ours, &from_them, "hello, all");
        let from_us = own_post(&ours, &[id], "hello, you");
        theirs.wait_clock(&[(ours.id().to_owned(), ours.sequence_of(ours.id()))], SYNC);
        assert_eq!(theirs.ok("get", &[json!(from_us)])["content"]["text"], "hello, you");
    });
}
