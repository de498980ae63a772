//! Moving in from the folders that other people's programs really leave, and out into backups.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use hawsepipe_tests::js::{Foreign, Options, Stack};
use hawsepipe_tests::lab::{self, Host, Lab};
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::wait::{self, SOON, SYNC};
use serde_json::{Value, json};

/// `a blob` in base64, and its id.
const BLOB: &[u8] = b"a blob";
const BLOB_ID: &str = "&VXCjzwIgfx01LSz+o4W+S8CyuUFPYGuqb1XbYLIy8iE=.sha256";
const BLOB_FILE: &str = "blobs/sha256/55/70a3cf02207f1d352d2cfea385be4bc0b2b9414f606baa6f55db60b232f221";

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn errors(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What somebody has who has used a JavaScript server, and now leaves it.
struct Left {
    dir: PathBuf,
    id: String,
    /// Of all messages, sorted.
    ids: Vec<String>,
    own: u64,
    /// Still runs.
    friend: Foreign,
}

/// A server publishes all kinds of things and replicates with a friend; then it stops.
fn live_with(stack: Stack, home: &Host, other: &Host) -> Left {
    let mut server = Foreign::start(home, stack, &Options::default());
    let mut friend = Foreign::start(other, Stack::Classic, &Options::default());
    server.follow([friend.id()]);
    friend.follow([server.id()]);
    for n in 0..30 {
        server.publish(
            &json!({ "type": "post", "text": format!("post {n} \u{20ac} \u{1f980}"), "9": 1e21, "10": null }),
        );
        friend.publish(&json!({ "type": "post", "text": format!("friend {n}") }));
    }
    server.publish(&json!({ "type": "post", "text": "secret", "recps": [server.id(), friend.id()] }));
    let added = server.ok("addBlob", &[json!(BLOB)]);
    assert_eq!(added, BLOB_ID);
    server.publish(&json!({ "type": "post", "text": "a blob", "mentions": [{ "link": BLOB_ID }] }));
    server.connect(friend.address());
    let (id, own) = (server.id().to_owned(), 33);
    server.wait_clock(&[(friend.id().to_owned(), 31)], SYNC);
    friend.wait_clock(&[(id.clone(), own)], SYNC);
    let (dir, ids) = (server.dir(), server.ids());
    server.stop();
    Left { dir, id, ids, own, friend }
}

/// Everything in a folder but what is hawsepipe's: names, lengths and contents.
fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path)
            } else {
                files.push((path.clone(), fs::read(path).unwrap()))
            }
        }
    }
    files.sort();
    files
}

/// The new node has everything, goes on with the feed, and the friend sees it.
fn goes_on(setup: Setup, left: Left) {
    let Left { id, ids, own, mut friend, .. } = left;
    let ours = setup.start();
    assert_eq!(ours.id(), id);
    assert_eq!(ours.ids(), ids);
    assert_eq!(ours.sequence_of(&id), own);
    friend.connect(&ours.net_address());
    let post = publish(&ours, "from my new home");
    friend.wait_clock(&[(id, own + 1)], SOON);
    assert_eq!(friend.ok("get", &[json!(post)])["content"]["text"], "from my new home");
    friend.publish(&json!({ "type": "post", "text": "welcome" }));
    ours.wait_clock(&[(friend.id().to_owned(), 32)], SOON);
}

/// Publishes as soon as the node is sure that this cannot fork its feed.
fn publish(ours: &Peer, text: &str) -> String {
    let printed = wait::until("the node to publish", SYNC, || {
        let output = ours.setup().run(&["publish", "--post", text]);
        if output.status.success() { Ok(output.stdout) } else { Err(errors(&output)) }
    });
    let message: Value = serde_json::from_slice(&printed).unwrap();
    message["key"].as_str().unwrap().to_owned()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

fn somebody_moves_in(lab: &mut Lab, stack: Stack, server: &str) {
    let [home, other, new] = lab.segment(["home", "other", "new"]);
    let left = live_with(stack, &home, &other);
    let before = snapshot(&left.dir);
    let setup = Setup::on(&new).solitary();
    let from = left.dir.to_str().unwrap();
    let printed = text(&setup.run(&["import", from]));
    assert!(
        printed.contains(&format!("{} messages of 2 feeds stored, 0 known", left.ids.len())),
        "{printed}"
    );
    assert!(printed.contains(server) && printed.contains("blobs: 1 new"), "{printed}");
    assert!(printed.contains(&format!("this node is {}", left.id)), "{printed}");
    assert_eq!(fs::read(setup.dir().join(BLOB_FILE)).unwrap(), b"a blob");
    assert_eq!(snapshot(&left.dir), before, "the original was touched");
    let again = text(&setup.run(&["import", from]));
    assert!(
        again.contains("0 messages of 0 feeds stored") && again.contains("blobs: 0 new, 1 known"),
        "{again}"
    );
    goes_on(setup, left);
}

#[test]
fn somebody_moves_in_from_ssb_server() {
    lab::run(|lab| somebody_moves_in(lab, Stack::Classic, "ssb-server's log"));
}

#[test]
fn somebody_moves_in_from_the_manyverse_stack() {
    lab::run(|lab| somebody_moves_in(lab, Stack::Manyverse, "ssb-db2's log"));
}

#[test]
fn a_node_takes_over_a_copy_of_the_folder_where_it_is() {
    lab::run(|lab| {
        let [home, other, new] = lab.segment(["home", "other", "new"]);
        let left = live_with(Stack::Classic, &home, &other);
        let dir = new.dir().join("ssb");
        copy(&left.dir, &dir);
        let setup = Setup::on(&new).solitary().path(&dir);
        let refused = errors(&setup.run(&["start"]));
        assert!(refused.contains("ssb-server") && refused.contains("import '"), "{refused}");
        text(&setup.run(&["import", dir.to_str().unwrap()]));
        goes_on(setup, left);
    });
}

#[test]
fn an_interrupted_import_keeps_the_node_from_starting_until_it_is_done() {
    lab::run(|lab| {
        let [home, other, new] = lab.segment(["home", "other", "new"]);
        let left = live_with(Stack::Classic, &home, &other);
        // A file that cannot be read where the second log should be: the import ends in between.
        let setup = Setup::on(&new).solitary();
        let second = left.dir.join("db2");
        fs::create_dir(&second).unwrap();
        fs::write(second.join("log.bipf"), b"\x05\x00hello").unwrap();
        let from = left.dir.to_str().unwrap();
        let taken = setup.dir().join("hawsepipe/importing");
        fs::create_dir_all(taken.parent().unwrap()).unwrap();
        fs::write(&taken, format!("{from}\n")).unwrap();
        let refused = errors(&setup.run(&["start"]));
        assert!(refused.contains("was not finished") && refused.contains(from), "{refused}");
        let printed = setup.run(&["import", from]);
        assert!(text(&printed).contains("damaged: 7 bytes at offset 0"), "{printed:?}");
        let warned = String::from_utf8_lossy(&printed.stderr).into_owned();
        assert!(warned.contains("messages of your own feed may be missing"), "{warned}");
        assert!(!taken.exists());
        goes_on(setup, left);
    });
}

#[test]
fn another_identity_and_a_running_server_are_refused() {
    lab::run(|lab| {
        let [home, new] = lab.segment(["home", "new"]);
        let mut server = Foreign::start(&home, Stack::Classic, &Options::default());
        server.publish(&json!({ "type": "post", "text": "one" }));
        let (dir, theirs) = (server.dir(), server.id().to_owned());
        let from = dir.to_str().unwrap();
        let setup = Setup::on(&new).solitary();
        let running = errors(&setup.run(&["import", from]));
        assert!(running.contains("stop it first") && !setup.dir().exists(), "{running}");
        server.stop();
        let ours = setup.start();
        let refused = errors(&ours.setup().run(&["import", from]));
        assert!(refused.contains(&theirs) && refused.contains(ours.id()), "{refused}");
        let refused = errors(&ours.setup().run(&["import", "--without-secret", from]));
        assert!(refused.contains("use"), "the node runs: {refused}");
        let (setup, id) = (ours.setup().clone(), ours.id().to_owned());
        ours.stop();
        text(&setup.run(&["import", "--without-secret", from]));
        let ours = setup.start();
        assert_eq!((ours.id(), ours.ids().len()), (id.as_str(), 1));
    });
}

#[test]
fn a_backup_brings_everything_back_and_lines_go_through_a_pipe() {
    lab::run(|lab| {
        let [home, other] = lab.segment(["home", "other"]);
        let ours = Setup::on(&home).solitary().start();
        let mut friend = Foreign::start(&other, Stack::Classic, &Options::default());
        friend.follow([ours.id()]);
        ours.follow(friend.id());
        for n in 0..5 {
            ours.publish(&json!({ "type": "post", "text": format!("mine {n}") }));
        }
        ours.ok(&["connect", friend.address()]);
        ours.wait_clock(&[(friend.id().to_owned(), 1)], SYNC);
        friend.wait_clock(&[(ours.id().to_owned(), 6)], SYNC);
        let (id, ids) = (ours.id().to_owned(), ours.ids());
        // Of a node that runs, and again of one that does not.
        let backup = home.dir().join("backup");
        let printed = ours.ok(&["backup", backup.to_str().unwrap()]);
        assert!(printed.contains("7 messages, 6 of them its own"), "{printed}");
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(backup.join("secret")).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        let running = ours.ok(&["export"]);
        let only = ours.ok(&["export", "--feed", &id]);
        let setup = ours.setup().clone();
        ours.stop();
        assert_eq!(text(&setup.run(&["export"])), running);
        assert_eq!((running.lines().count(), only.lines().count()), (7, 6));
        let first: Value = serde_json::from_str(running.lines().next().unwrap()).unwrap();
        assert!(first["key"].is_string() && first["value"]["author"] == id && first["timestamp"].is_number());
        text(&setup.run(&["backup", backup.to_str().unwrap()]));

        let archive = home.dir().join("backup.tar");
        text(&setup.run(&["backup", archive.to_str().unwrap()]));
        let from_archive = Setup::on(&home).solitary().path(home.dir().join("from-archive"));
        let printed = text(&from_archive.run(&["import", archive.to_str().unwrap()]));
        assert!(printed.contains("7 messages of 2 feeds stored") && printed.contains(&id), "{printed}");
        assert!(!from_archive.dir().join("hawsepipe/import.unpacked").exists());

        let again = Setup::on(&home).solitary().path(home.dir().join("again"));
        text(&again.run(&["import", backup.to_str().unwrap()]));
        let restored = again.start();
        assert_eq!((restored.id(), restored.ids()), (id.as_str(), ids));
        friend.connect(&restored.net_address());
        publish(&restored, "no fork");
        friend.wait_clock(&[(id, 7)], SOON);

        let other = Setup::on(&home).solitary().path(home.dir().join("other"));
        let mut command = other.command();
        command.args(["import", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut piped = command.spawn().unwrap();
        std::io::Write::write_all(&mut piped.stdin.take().unwrap(), only.as_bytes()).unwrap();
        let printed = text(&piped.wait_with_output().unwrap());
        assert!(printed.contains("6 messages of 1 feeds stored"), "{printed}");
    });
}

#[test]
fn an_identity_comes_back_from_its_words_and_waits_for_its_feed() {
    lab::run(|lab| {
        let [home, other] = lab.segment(["home", "other"]);
        let ours = Setup::on(&home).solitary().start();
        let mut friend = Foreign::start(&other, Stack::Classic, &Options::default());
        friend.follow([ours.id()]);
        ours.follow(friend.id());
        ours.publish(&json!({ "type": "post", "text": "mine" }));
        ours.ok(&["connect", friend.address()]);
        friend.wait_clock(&[(ours.id().to_owned(), 2)], SYNC);
        let words = ours.ok(&["key", "words"]);
        let words: Vec<&str> = words.split_whitespace().collect();
        assert_eq!(words.len(), 24);
        let id = ours.id().to_owned();
        let refused = errors(&ours.setup().run(&[&["key", "from-words"], &words[..]].concat()));
        assert!(refused.contains("never overwritten"), "{refused}");
        ours.stop();
        let again = Setup::on(&home).solitary().path(home.dir().join("again"));
        let printed = text(&again.run(&[&["key", "from-words"], &words[..]].concat()));
        assert!(printed.contains(&id), "{printed}");
        let restored = again.start();
        assert_eq!((restored.id(), restored.sequence_of(&id)), (id.as_str(), 0));
        restored.ok(&["connect", friend.address()]);
        restored.wait_clock(&[(id, 2)], SYNC);
    });
}
