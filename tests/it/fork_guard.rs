//! A restored or copied folder never forks its feed: the node asks peers for what is missing before it publishes,
//! and without any peer it publishes only when told to.

use std::path::Path;
use std::process::Command;

use hawsepipe_overlay::keys::NetworkKey;
use hawsepipe_tests::js::{Foreign, Options, Stack};
use hawsepipe_tests::lab::{self, Host, Lab};
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::rogue::{Rogue, STREAM, identity};
use hawsepipe_tests::wait::{self, SOON, SYNC};
use serde_json::json;

/// Messages before the backup, and after it.
const BEFORE: u64 = 3;
const AFTER: u64 = 4;

fn post(node: &Peer, n: u64) {
    node.publish(&json!({ "type": "post", "text": format!("number {n}") }));
}

/// Why nothing can be published: what the command line says.
fn refusal(node: &Peer) -> String {
    let output = node.setup().run(&["publish", "--post", "would fork"]);
    assert_eq!(output.status.code(), Some(1), "it must be refused");
    String::from_utf8(output.stderr).unwrap()
}

/// Stops it cleanly, so that it can be started again.
fn stopped(node: Peer) -> Setup {
    let setup = node.setup().clone();
    assert!(node.stop().success());
    setup
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").args(["-a", "-T"]).arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// A node that published [`BEFORE`] messages, was saved and published [`AFTER`] more, which `spread` has given to a
/// peer; then it was set back.
fn set_back(host: &Host, spread: impl FnOnce(&Peer)) -> Peer {
    let node = Setup::on(host).solitary().start();
    (1..=BEFORE).for_each(|n| post(&node, n));
    let setup = stopped(node);
    let backup = host.dir().join("backup");
    copy(setup.dir(), &backup);
    let node = setup.start();
    (1..=AFTER).for_each(|n| post(&node, BEFORE + n));
    spread(&node);
    let setup = node.kill();
    std::fs::remove_dir_all(setup.dir()).unwrap();
    copy(&backup, setup.dir());
    setup.start()
}

fn assert_waits(node: &Peer) {
    let said = refusal(node);
    assert!(said.contains("copied or restored") && said.contains("--danger-publish-anyway"), "{said}");
    for (method, arguments) in [
        ("friends.follow", json!("@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=.ed25519")),
        ("publish", json!({ "type": "post", "text": "would fork" })),
    ] {
        let output = node.setup().run(&["call", method, &arguments.to_string()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("--danger-publish-anyway"), "{method}: {said}");
    }
    let doctor = node.setup().run(&["doctor"]);
    assert_eq!(doctor.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("copied or restored"));
    assert_eq!(node.publishing()["held"], BEFORE);
    let metrics = node.metrics().unwrap();
    assert_eq!(metrics.sum("fork_guard_waits", &[]), 1.0);
    assert!(metrics.sum("fork_guard_refusals_total", &[]) >= 3.0, "{metrics}");
}

/// What it publishes comes behind what it got back.
fn assert_goes_on(node: &Peer) {
    assert_eq!(node.sequence_of(node.id()), BEFORE + AFTER);
    node.wait_free();
    post(node, BEFORE + AFTER + 1);
    assert_eq!(node.sequence_of(node.id()), BEFORE + AFTER + 1);
}

#[test]
fn a_restored_backup_gets_the_newer_messages_back_before_it_publishes() {
    lab::run(|lab: &mut Lab| {
        let [ours, friend] = lab.segment(["ours", "friend"]);
        let friend = Setup::on(&friend).solitary().start();
        let node = set_back(&ours, |node| {
            friend.follow(node.id());
            node.ok(&["connect", &friend.net_address()]);
            friend.wait_clock(&[(node.id().to_owned(), BEFORE + AFTER)], SYNC);
        });
        assert_waits(&node);
        let own = node.id().to_owned();
        node.ok(&["connect", &friend.net_address()]);
        node.wait_clock(&[(own.clone(), BEFORE + AFTER)], SYNC);
        assert_goes_on(&node);
        friend.wait_clock(&[(own, BEFORE + AFTER + 1)], SOON);
        assert!(friend.call("forks", &[]).is_empty() && node.call("forks", &[]).is_empty());

        let node = stopped(node).start();
        post(&node, BEFORE + AFTER + 2);
    });
}

#[test]
fn a_restored_backup_gets_the_newer_messages_back_from_ssb_server() {
    lab::run(|lab: &mut Lab| {
        let [ours, theirs] = lab.segment(["ours", "theirs"]);
        let mut theirs = Foreign::start(&theirs, Stack::Classic, &Options::default());
        let address = theirs.address().to_owned();
        let node = set_back(&ours, |node| {
            theirs.follow([node.id()]);
            node.ok(&["connect", &address]);
            theirs.wait_clock(&[(node.id().to_owned(), BEFORE + AFTER)], SYNC);
        });
        assert_waits(&node);
        let own = node.id().to_owned();
        node.ok(&["connect", &address]);
        node.wait_clock(&[(own.clone(), BEFORE + AFTER)], SYNC);
        assert_goes_on(&node);
        theirs.wait_clock(&[(own, BEFORE + AFTER + 1)], SOON);
    });
}

#[test]
fn without_any_peer_a_copied_folder_publishes_only_when_told_to() {
    lab::run(|lab: &mut Lab| {
        let host = lab.host("alone");
        let node = Setup::on(&host).solitary().start();
        (1..=BEFORE).for_each(|n| post(&node, n));
        let setup = stopped(node);
        let copied = host.dir().join("copied");
        copy(setup.dir(), &copied);
        let copied = Setup::on(&host).solitary().path(copied);
        let node = copied.clone().start();
        assert_waits(&node);
        stopped(node);
        let node = copied.clone().start();
        assert_eq!(node.publishing()["allowed"], false, "a restart is no reason");
        stopped(node);
        let node = copied.clone().start_with(&["--danger-publish-anyway"]);
        post(&node, BEFORE + 1);
        stopped(node);
        let node = copied.start();
        post(&node, BEFORE + 2);
        stopped(node);
        post(&setup.start(), BEFORE + 1);
    });
}

#[test]
fn a_peer_that_claims_more_than_there_is_holds_publishing_only_while_nothing_is_known() {
    lab::run(|lab: &mut Lab| {
        let [ours, liar] = lab.segment(["ours", "liar"]);
        let node = Setup::on(&ours).solitary().start();
        post(&node, 1);
        let rogue = Rogue::dial(&liar, node.net_socket());
        let mut rogue = rogue.handshake(NetworkKey::MAIN, &identity(), node.key()).unwrap();
        let call = json!({"name": ["ebt", "replicate"], "args": [{"version": 3, "format": "classic"}], "type": "duplex"});
        rogue.send_json(STREAM, 1, &call);
        // 1000 messages, and no wish to get any.
        let notes = json!({ node.id(): 2001 });
        rogue.send_json(STREAM, 1, &notes);
        wait::until("the claim is heard", SOON, || {
            let publishing = node.publishing();
            if publishing["claimed"] == 1000 { Ok(()) } else { Err(publishing.to_string()) }
        });
        assert!(refusal(&node).contains("a peer claims 1000"));
        let taken_back = json!({ node.id(): 3 });
        rogue.send_json(STREAM, 1, &taken_back);
        node.wait_free();
        post(&node, 2);
    });
}
