//! Who is connected and why, as clients see and say it: `conn.*` and `gossip.*` against the programs that they come
//! from, `hawsepipe peers --why`, and a peer that comes and goes in a loop.

use std::fs;

use hawsepipe_overlay::keys::NetworkKey;
use hawsepipe_tests::js::{Foreign, Options, Stack};
use hawsepipe_tests::lab;
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::rogue::{self, Rogue};
use hawsepipe_tests::wait::{self, SOON};
use serde_json::{Value, json};

const KEY: &str = "@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=.ed25519";
const ADDRESS: &str = "net:192.0.2.1:8008~shs:iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=";

fn one(ours: &Peer, method: &str, arguments: &[Value]) -> Value {
    ours.call(method, arguments).into_iter().next().unwrap_or_default()
}

/// The fields of both that must not differ.
fn assert_alike(ours: &Value, theirs: &Value, fields: &[&str]) {
    for field in fields {
        assert_eq!(ours[field], theirs[field], "{field}: {ours}\n{theirs}");
    }
}

#[test]
fn gossip_answers_as_ssb_server_does() {
    lab::run(|lab| {
        let [here, there] = lab.segment(["ours", "theirs"]);
        let ours = Setup::on(&here).solitary().start();
        let mut theirs = Foreign::start(&there, Stack::Classic, &Options::default());
        let mut ask = |method: &str, arguments: &[Value]| {
            let mut all = vec![Value::from(method)];
            all.extend_from_slice(arguments);
            theirs.ask("gossip", &all, SOON)
        };
        let added = [json!(ADDRESS), json!("manual")];
        let fields = ["key", "address", "source"];
        assert_alike(&one(&ours, "gossip.add", &added), &ask("add", &added).unwrap(), &fields);
        let named = [json!(KEY)];
        assert_alike(&one(&ours, "gossip.get", &named), &ask("get", &named).unwrap(), &fields);
        let (mine, other) = (one(&ours, "gossip.peers", &[]), ask("peers", &[]).unwrap());
        assert_eq!(mine.as_array().map(Vec::len), other.as_array().map(Vec::len));
        assert_alike(&mine[0], &other[0], &fields);
        let refusal = ask("add", &[json!("nonsense")]).unwrap_err();
        let refused = ours.setup().run(&["call", "gossip.add", "nonsense"]);
        let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
        // JS shows what it made of the text, we the text.
        assert!(refusal.contains("not a valid address:"), "{refusal}");
        assert!(refused.contains("not a valid address:nonsense"), "{refused}");
        ask("remove", &named).unwrap();
        one(&ours, "gossip.remove", &named);
        assert_eq!(one(&ours, "gossip.peers", &[]), ask("peers", &[]).unwrap());
        assert_eq!(one(&ours, "gossip.disable", &[]), "disabled gossip type global");
        assert_eq!(one(&ours, "gossip.enable", &[]), "enabled gossip type global");
        let help = one(&ours, "gossip.help", &[]);
        assert_eq!(help["commands"]["add"]["type"], "sync");
    });
}

#[test]
fn conn_remembers_stages_and_forgets_as_ssb_conn_does_and_keeps_it() {
    lab::run(|lab| {
        let [here, there] = lab.segment(["ours", "theirs"]);
        let ours = Setup::on(&here).solitary().start();
        let mut theirs = Foreign::start(&there, Stack::Manyverse, &Options::default());
        let mut ask = |method: &str, arguments: &[Value]| {
            let mut all = vec![Value::from(method)];
            all.extend_from_slice(arguments);
            theirs.ask("conn", &all, SOON).unwrap()
        };
        let noted = json!({"key": KEY, "type": "pub", "autoconnect": false, "name": "a pub"});
        let tunnel = json!(format!("tunnel:{KEY}:{KEY}~shs:{}", &KEY[1..45]));
        for address in [json!(ADDRESS), tunnel.clone()] {
            let arguments = [address, noted.clone()];
            one(&ours, "conn.remember", &arguments);
            ask("remember", &arguments);
        }
        let (mine, other) = (one(&ours, "conn.dbPeers", &[]), ask("dbPeers", &[]));
        assert_eq!(mine.as_array().unwrap().len(), 2, "{mine}");
        for (mine, other) in mine.as_array().unwrap().iter().zip(other.as_array().unwrap()) {
            assert_eq!(mine[0], other[0]);
            assert_alike(&mine[1], &other[1], &["key", "type", "autoconnect", "name"]);
        }
        for address in [json!(ADDRESS), tunnel] {
            one(&ours, "conn.forget", std::slice::from_ref(&address));
            ask("forget", &[address]);
        }
        assert_eq!(one(&ours, "conn.dbPeers", &[]), ask("dbPeers", &[]));

        let staged = [json!(ADDRESS), json!({"key": KEY, "type": "lan"})];
        for is_new in [true, false] {
            assert_eq!(one(&ours, "conn.stage", &staged), is_new);
            assert_eq!(ask("stage", &staged), is_new);
        }
        let listed = ours.follow_output(&["call", "conn.stagedPeers"]);
        let mine: Value = serde_json::from_str(&listed.next_line()).unwrap();
        let other = theirs.ok("staged", &[]);
        assert_eq!(mine[0][0], other[0][0]);
        assert_alike(&mine[0][1], &other[0][1], &["key", "type"]);
        drop(listed);
        assert_eq!(one(&ours, "conn.unstage", &staged[..1]), true);
        assert_eq!(one(&ours, "conn.unstage", &staged[..1]), false);

        // It is in conn.json, in JS's form, and there after a restart.
        one(&ours, "conn.remember", &[json!(ADDRESS), noted]);
        let setup = ours.setup().clone();
        assert!(ours.stop().success());
        let text = fs::read_to_string(setup.dir().join("conn.json")).unwrap();
        let file: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(file[ADDRESS]["name"], "a pub");
        let ours = setup.start();
        assert_eq!(one(&ours, "conn.dbPeers", &[])[0][1]["name"], "a pub");
    });
}

#[test]
fn who_connects_or_disconnects_sees_it_at_once() {
    lab::run(|lab| {
        let [here, there] = lab.segment(["here", "there"]);
        let [here, there] = [&here, &there].map(|host| Setup::on(host).solitary().start());
        here.ok(&["connect", &there.net_address()]);
        assert_eq!(here.connected(), [there.id()]);
        here.call("conn.disconnect", &[json!(there.net_address())]);
        assert!(here.connected().is_empty());
    });
}

#[test]
fn a_gossip_json_is_taken_over_where_there_is_no_conn_json() {
    lab::run(|lab| {
        let [here] = lab.segment(["ours"]);
        let setup = Setup::on(&here).solitary();
        fs::create_dir_all(setup.dir()).unwrap();
        let table = json!([{"host": "192.0.2.1", "port": 8008, "key": KEY, "source": "pub", "failure": 3}]);
        fs::write(setup.dir().join("gossip.json"), table.to_string()).unwrap();
        let ours = setup.start();
        let known = one(&ours, "conn.dbPeers", &[]);
        assert_eq!(known[0][0], ADDRESS);
        assert_alike(&known[0][1], &json!({"failure": 3, "autoconnect": false}), &["failure", "autoconnect"]);
    });
}

#[test]
fn a_peer_that_comes_and_goes_in_a_loop_is_to_blame_and_keeps_nobody_busy() {
    lab::run(|lab| {
        let [here, there] = lab.segment(["ours", "theirs"]);
        let ours = Setup::on(&here).solitary().start();
        let identity = rogue::identity();
        let id = rogue::feed_id(&identity);
        let address = format!("net:{}:9~shs:{}", there.v4(), &id[1..45]);
        one(&ours, "conn.remember", &[json!(address), json!({"autoconnect": false})]);
        for _ in 0..40 {
            let line = Rogue::dial(&there, ours.net_socket());
            line.handshake(NetworkKey::MAIN, &identity, ours.key()).unwrap().cut();
        }
        let blamed = wait::until("the blame", SOON, || {
            let why = one(&ours, "conn.why", &[json!(id)]);
            let told = ours.ok(&["peers", "--why", &id]);
            let faults = told.split_once("to blame for ").and_then(|(_, rest)| rest.split_once(' '));
            let faults: Option<f64> = faults.and_then(|(number, _)| number.parse().ok());
            if faults.is_some_and(|faults| faults >= 1.0) { Ok(told) } else { Err(format!("{why}")) }
        });
        assert!(blamed.contains(&id), "{blamed}");
        let plans = ours.metrics().unwrap().sum("scheduler_plan_seconds_count", &[]);
        assert!(plans < 400.0, "{plans} plans for 40 visits");
    });
}

/// A peer may be said to be at any number of places: so many are remembered, and they are not all tried.
#[test]
fn a_thousand_addresses_for_one_key_are_a_few() {
    lab::run(|lab| {
        let ours = Setup::on(&lab.host("ours")).solitary().set("conn.autostart", true).start();
        ours.follow(KEY);
        let control = ours.control();
        // Nobody listens there, and it says so at once.
        for n in 0..1000 {
            let address = format!("net:127.1.{}.{}:9~shs:{}", n / 250, n % 250 + 1, &KEY[1..45]);
            // It may say that there are enough.
            let _ = control.call("conn.remember", vec![json!(address), json!({})]);
        }
        let known = control.call("conn.dbPeers", vec![]).unwrap();
        assert!(known.as_array().is_some_and(|known| (1..=16).contains(&known.len())), "{known}");
        ours.wait_metric("dials_total", &[("carrier", "net")], 3.0);
        let dials = wait::until("the end of its dials", SOON, || {
            let told = ours.ok(&["peers", "--why", KEY]);
            let dials = ours.metrics().unwrap().sum("dials_total", &[]);
            if told.contains("dialled again in") { Ok(dials) } else { Err(told) }
        });
        assert!(dials <= 40.0, "{dials} dials");
    });
}

#[test]
fn peers_why_explains_a_session_and_a_stopped_scheduler() {
    lab::run(|lab| {
        let [here, there] = lab.segment(["ours", "theirs"]);
        let [ours, theirs] = [&here, &there].map(|host| Setup::on(host).solitary().start());
        ours.follow(theirs.id());
        theirs.follow(ours.id());
        ours.ok(&["connect", &theirs.net_address()]);
        // What peers carry is reckoned every few seconds.
        wait::until("the explanation", SOON, || {
            let explained = ours.ok(&["peers", "--why", theirs.id()]);
            let parts = [
                "slots taken: asked 1",
                ": connected",
                "we dialled",
                "social 100.0",
                "it carries 1 of 1 feeds",
            ];
            let missing = parts.into_iter().find(|part| !explained.contains(part));
            missing.map_or(Ok(()), |part| Err(format!("{part} is missing in\n{explained}")))
        });
        let nobody = ours.setup().run(&["peers", "--why", KEY]);
        assert_eq!(nobody.status.code(), Some(1));
        ours.call("conn.stop", &[]);
        wait::until("no session", SOON, || match ours.connected().as_slice() {
            [] => Ok(()),
            peers => Err(format!("{peers:?}")),
        });
    });
}
