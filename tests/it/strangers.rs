//! What strangers may cost a node, and what it says of each connection.

use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use hawsepipe_overlay::keys::{NetworkKey, PublicKey};
use hawsepipe_tests::control::Control;
use hawsepipe_tests::lab::{self, Host};
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::rogue::{self, Rogue};
use hawsepipe_tests::usage::Usage;
use hawsepipe_tests::wait::{self, SOON};
use serde_json::{Value, json};
use ssb_crypto::Keypair;

/// More handshakes than one address may begin at once.
const MANY: usize = 1000;

fn member() -> Keypair {
    Keypair::from_seed(&[1; 32]).unwrap()
}

fn id_of(keypair: &Keypair) -> String {
    PublicKey::from_bytes(keypair.public.0).to_string()
}

fn dial(from: &Host, node: &Peer, keypair: &Keypair) -> Control {
    Control::dial(from, node.net_socket(), node.key(), keypair).unwrap()
}

fn log(host: &Host) -> String {
    fs::read_to_string(host.dir().join("hawsepipe.log")).unwrap()
}

#[test]
fn a_flood_of_handshakes_from_one_address_is_refused_by_its_rule_and_a_member_notices_nothing() {
    lab::run(|lab| {
        let [here, there, elsewhere] = lab.segment(["node", "flood", "member"]);
        let setup = Setup::on(&here).solitary().set("logging.level", "debug");
        let node = setup.set("access.members", json!([id_of(&member())])).start();
        let standing = dial(&elsewhere, &node, &member());
        // However fast this machine is: some time it is too often.
        wait::until("the rule", SOON, || {
            let at = node.net_socket();
            there.enter(|| (0..MANY).for_each(|_| drop(TcpStream::connect(at))));
            let refused = node.metrics()?.sum("turned_away_total", &[("carrier", "net"), ("rule", "rate")]);
            if refused > 0.0 { Ok(()) } else { Err(format!("{refused} refused")) }
        });
        standing.call("manifest", vec![]).unwrap();
        dial(&elsewhere, &node, &member()).call("manifest", vec![]).unwrap();
        let log = log(&here);
        let told = |line: &str| line.contains("no place for another handshake") && line.contains("rate");
        assert!(log.lines().any(told), "{log}");
    });
}

#[test]
fn a_stranger_is_read_at_its_pace_and_a_member_at_any() {
    lab::run(|lab| {
        let [here, there] = lab.segment(["node", "peers"]);
        let setup = Setup::on(&here).solitary().set("access.strangerBytes", 100_000);
        let node = setup.set("access.members", json!([id_of(&member())])).start();
        let took = |keypair: &Keypair| {
            let control = dial(&there, &node, keypair);
            let begun = wait::now();
            for _ in 0..18 {
                let refused = control.call("no.such", vec![json!("x".repeat(50_000))]);
                assert!(refused.is_err(), "{refused:?}");
            }
            wait::now() - begun
        };
        // 900,000 bytes, of which 400,000 are free.
        let (stranger, member) = (took(&rogue::identity()), took(&member()));
        assert!(stranger >= Duration::from_secs(4), "{stranger:?}");
        assert!(member < Duration::from_secs(4), "{member:?}");
    });
}

#[test]
fn a_peer_that_never_reads_costs_little_and_disturbs_nobody() {
    lab::run(|lab| {
        let [here, there] = lab.segment(["node", "mute"]);
        let mut node = Setup::on(&here).solitary().start();
        let before = Usage::of(node.process()).now_mb;
        let line = Rogue::dial(&there, node.net_socket());
        let mut mute = line.handshake(NetworkKey::MAIN, &rogue::identity(), node.key()).unwrap();
        // Each answer is some kilobytes, and none is read: some time the node reads no more questions either.
        let asked = mute.ask_until_stuck("manifest", 1_000_000);
        assert!(asked < 1_000_000, "all of them were read");
        let grown = Usage::of(node.process()).now_mb - before;
        assert!(grown < 64.0, "{grown} MiB for {asked} questions");
        dial(&there, &node, &member()).call("manifest", vec![]).unwrap();
        mute.cut();
        wait::until("the end of its session", SOON, || {
            let sessions = node.metrics().unwrap().sum("sessions", &[("carrier", "net")]);
            if sessions == 0.0 { Ok(()) } else { Err(format!("{sessions} sessions")) }
        });
        assert!(node.is_running());
    });
}

#[test]
fn every_line_about_a_connection_names_it_in_both_formats() {
    lab::run(|lab| {
        let [here, there] = lab.segment(["node", "stranger"]);
        let stranger = rogue::identity();
        let short = id_of(&stranger)[..9].to_owned();
        for format in ["json", "text"] {
            let setup = Setup::on(&here).solitary().set("logging.level", "debug");
            let node = setup.set("logging.format", format).start();
            // A session, in which EBT goes wrong, and a connection without a handshake.
            let control = dial(&there, &node, &stranger);
            control.run(async |session| {
                let kind = hawsepipe_overlay::muxrpc::CallKind::Duplex;
                let arguments = vec![json!({ "version": 3, "format": "classic" })];
                let mut stream = session.open(kind, &["ebt", "replicate"], arguments).await.unwrap();
                let nonsense = hawsepipe_overlay::muxrpc::Body::text("neither notes nor a message");
                stream.tx.send(nonsense).await.unwrap();
                stream.rx.recv().await.unwrap().unwrap();
            });
            node.wait_metric("messages_rejected_total", &[("reason", "not_an_item")], 1.0);
            drop(control);
            Rogue::dial(&there, node.net_socket()).shut_down_writing();
            node.wait_metric("closed_total", &[], 1.0);
            assert!(node.stop().success());
            let log = log(&here);
            for said in ["session opened", "session closed", "neither notes nor a message"] {
                let line = log.lines().rfind(|line| line.contains(said)).unwrap_or_else(|| panic!("{log}"));
                assert!(is_within(line, format, &short), "{line}");
            }
        }
    });
}

/// Whether a line of the log is within the span of the stranger's connection.
fn is_within(line: &str, format: &str, peer: &str) -> bool {
    if format == "text" {
        let span = format!("connection{{peer=\"{peer}\" transport=\"net\" direction=\"in\"}}");
        return line.contains(&span);
    }
    let line: Value = serde_json::from_str(line).unwrap();
    let span = json!({ "name": "connection", "peer": peer, "transport": "net", "direction": "in" });
    line["span"] == span
}

#[test]
fn secrets_and_private_texts_are_not_logged_at_any_level() {
    lab::run(|lab| {
        const TEXT: &str = "nobody else is to read this";
        let [here, there] = lab.segment(["one", "other"]);
        let [one, other] =
            [&here, &there].map(|host| Setup::on(host).solitary().set("logging.level", "trace").start());
        one.follow(other.id());
        other.follow(one.id());
        one.ok(&["connect", &other.net_address()]);
        let content = json!({ "type": "post", "text": TEXT });
        let recipients = json!([one.id(), other.id()]);
        one.call("private.publish", &[content, recipients]);
        one.call("publish", &[json!({ "type": "post", "text": "a public word of mine" })]);
        wait::until("the private message", SOON, || {
            let read = other.call("private.read", &[]);
            if format!("{read:?}").contains(TEXT) { Ok(()) } else { Err(format!("{read:?}")) }
        });
        other.ok(&["search", "nobody"]);
        for (node, host) in [(one, here), (other, there)] {
            let secret = fs::read_to_string(node.setup().dir().join("secret")).unwrap();
            let secret = secret.lines().filter(|line| !line.starts_with('#')).collect::<String>();
            let secret: Value = serde_json::from_str(&secret).unwrap();
            let private = secret["private"].as_str().unwrap().trim_end_matches(".ed25519").to_owned();
            assert!(node.stop().success());
            let log = log(&host);
            assert!(log.contains("session opened") && log.contains("TRACE"), "it logs at all");
            for silent in [TEXT, "a public word of mine", &private] {
                assert!(!log.contains(silent), "{silent} is in the log");
            }
        }
    });
}
