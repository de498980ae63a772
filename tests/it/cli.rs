//! The command line as scripts and people meet it: exit codes, faults of the configuration, and folders
//! that must not be used.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use hawsepipe_tests::js::{self, Foreign, Options, Stack};
use hawsepipe_tests::lab::{self, Host};
use hawsepipe_tests::metrics::http_get;
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::wait::SOON;
use serde_json::{Value, json};

fn code(output: &Output) -> i32 {
    output.status.code().expect("the process ended by itself")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Starting must fail with `expected` and say each of `words`.
fn assert_start_fails(setup: &Setup, expected: i32, words: &[&str]) {
    let output = setup.run(&["start"]);
    let said = errors(&output);
    assert_eq!(code(&output), expected, "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "a start that fails announces nothing");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

fn alone(host: &Host) -> Setup {
    Setup::on(host).solitary()
}

#[test]
fn a_first_start_announces_everything_and_makes_private_files() {
    lab::run(|lab| {
        let host = lab.host("node");
        let node = Setup::on(&host).start();
        assert!(node.id().ends_with(".ed25519"), "{}", node.id());
        assert!(node.addresses().iter().any(|address| address.starts_with("net:")), "{:?}", node.addresses());
        let dir = node.setup().dir();
        for (file, mode) in [("secret", 0o400), ("socket", 0o600)] {
            let found = fs::metadata(dir.join(file)).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{file} has mode {found:o}");
        }
        let secret = fs::read_to_string(dir.join("secret")).unwrap();
        assert!(
            secret.contains(node.id()) && secret.contains("\"curve\": \"ed25519\""),
            "not the SSB format"
        );
        let manifest: Value = serde_json::from_slice(&fs::read(dir.join("manifest.json")).unwrap()).unwrap();
        assert_eq!(manifest["ebt"]["replicate"], "duplex");
        assert_eq!(node.ok(&["whoami"]).matches(node.id()).count(), 1);
        let id = node.id().to_owned();
        let setup = node.setup().clone();
        assert!(node.stop().success());
        assert_eq!(setup.start().id(), id, "the identity is kept");
    });
}

#[test]
fn commands_without_a_node_exit_with_3_and_say_how_to_start_one() {
    lab::run(|lab| {
        let setup = alone(&lab.host("node"));
        for command in [&["whoami"][..], &["publish", "--post", "hello"], &["log"], &["call", "status"]] {
            let output = setup.run(command);
            assert_eq!(code(&output), 3, "{command:?}: {}", errors(&output));
            assert!(errors(&output).contains("start"), "{}", errors(&output));
        }
        assert!(!setup.dir().exists(), "asking made a data folder");
        // A socket file that nobody listens on is no node either.
        let node = setup.start();
        let setup = node.kill();
        assert!(setup.dir().join("socket").exists(), "a killed node leaves its socket");
        assert_eq!(code(&setup.run(&["whoami"])), 3);
        let again = setup.start();
        assert_eq!(code(&again.setup().run(&["whoami"])), 0, "a stale socket is replaced");
    });
}

#[test]
fn refusals_exit_with_1_and_wrong_usage_with_2() {
    lab::run(|lab| {
        let node = alone(&lab.host("node")).start();
        let run = |arguments: &[&str]| node.setup().run(arguments);
        for refused in [
            &["publish", r#"{"text":"no type"}"#][..],
            &["publish", r#"{"type":"xx"}"#],
            &["call", "no.such"],
            &["call", "get", "%AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=.sha256"],
            &["follow", "not-an-id"],
            &["connect", "net:127.0.0.1:1~shs:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="],
        ] {
            let output = run(refused);
            assert_eq!(code(&output), 1, "{refused:?}: {}", errors(&output));
            assert!(!errors(&output).trim().is_empty(), "{refused:?} says nothing");
        }
        for misused in
            [&["no-such-command"][..], &["publish"], &["publish", "no json"], &["--no-such-flag"], &["call"]]
        {
            let output = run(misused);
            assert_eq!(code(&output), 2, "{misused:?}: {}", errors(&output));
        }
        assert_eq!(node.ids().len(), 0, "a refused message was stored");
        let doctor = run(&["doctor"]);
        assert!(String::from_utf8_lossy(&doctor.stdout).contains("no session with any peer"), "{doctor:?}");
        assert!(errors(&doctor).is_empty(), "{doctor:?}");
        assert_eq!(code(&run(&["--help"])), 0);
        assert_eq!(code(&run(&["completions", "bash"])), 0);
    });
}

#[test]
fn all_faults_of_the_configuration_are_reported_at_once() {
    lab::run(|lab| {
        let host = lab.host("node");
        let setup = Setup::on(&host)
            .set("port", 99_999)
            .set("caps.shs", "short")
            .set("friends.hops", "many")
            .set("metrics.listen", "nowhere")
            .set("lan.becon", true)
            .set("overlay.listen", json!(["/ip4/0.0.0.0/udp/1/quic-v1", "udp:1"]))
            .set("access.policy", "friends")
            .set("access.strangerBytes", 0)
            .set("blobs.quota", "large")
            .set("seeds", json!(["net:192.0.2.1:8008"]))
            .set("timers.inactivity", "never")
            .set("logging.format", "xml");
        let faults = [
            "port:",
            "caps.shs:",
            "friends.hops:",
            "metrics.listen:",
            "lan.becon:",
            "overlay.listen[1]:",
            "access.policy:",
            "access.strangerBytes:",
            "blobs.quota:",
            "seeds[0]:",
            "timers.inactivity:",
            "logging.format:",
        ];
        let checked = setup.run(&["--check-config"]);
        assert_eq!(code(&checked), 2, "{}", errors(&checked));
        for fault in faults {
            assert!(errors(&checked).contains(fault), "{fault} is not in: {}", errors(&checked));
        }
        assert_start_fails(&setup, 2, &faults);
        assert!(!setup.dir().exists(), "a wrong configuration made a data folder");
        assert_eq!(code(&Setup::on(&host).run(&["--check-config"])), 0);
    });
}

#[test]
fn metrics_for_everybody_have_to_be_allowed() {
    lab::run(|lab| {
        let [host, other] = lab.segment(["node", "other"]);
        let setup = Setup::on(&host).solitary().set("metrics.listen", "0.0.0.0:8990");
        assert_start_fails(&setup, 2, &["metrics.listen: others could read", "metrics.public"]);
        let node = setup.set("metrics.public", true).start();
        let at = std::net::SocketAddr::from((host.v4(), 8990));
        let scraped = other.enter(|| hawsepipe_tests::metrics::Metrics::scrape(at)).unwrap();
        assert!(scraped.has("build_info"), "{scraped}");
        drop(node);
    });
}

#[test]
fn the_configuration_file_is_json_with_comments_and_its_faults_are_found() {
    lab::run(|lab| {
        let setup = Setup::on(&lab.host("node"));
        fs::create_dir_all(setup.dir()).unwrap();
        let file = setup.dir().join("config");
        fs::write(&file, "{\n  // as people write it\n  \"friends\": { \"hops\": 3 } /* three */\n}\n")
            .unwrap();
        assert_eq!(code(&setup.run(&["--check-config"])), 0);
        fs::write(&file, "{ \"friends\": { \"hops\": ").unwrap();
        let output = setup.run(&["--check-config"]);
        assert_eq!(code(&output), 2);
        assert!(errors(&output).contains("config"), "{}", errors(&output));
        // In a lab the test is root, which may read anything: a folder in its place cannot be read by anyone.
        let given = setup.dir().join("given");
        fs::create_dir(&given).unwrap();
        fs::remove_file(&file).unwrap();
        let output = setup.run(&["--config", given.to_str().unwrap(), "--check-config"]);
        assert_eq!(code(&output), 2, "{}", errors(&output));
        assert!(errors(&output).contains("given"), "{}", errors(&output));
    });
}

#[test]
fn a_folder_in_use_is_refused_and_its_node_lives_on() {
    lab::run(|lab| {
        let mut node = alone(&lab.host("node")).start();
        let other_port = node.setup().clone().set("port", 8009).set("metrics.listen", false);
        assert_start_fails(&other_port, 1, &["in use"]);
        assert!(node.is_running());
        assert!(node.ok(&["whoami"]).contains(node.id()));
    });
}

#[test]
fn a_port_in_use_is_named() {
    lab::run(|lab| {
        let host = lab.host("node");
        let first = alone(&host).start();
        let second =
            alone(&host).path(host.dir().join("second")).set("metrics.listen", false).set("host", "0.0.0.0");
        assert_start_fails(&second, 1, &["8008"]);
        drop(first);
    });
}

#[test]
fn the_folder_of_another_server_is_refused_untouched() {
    lab::run(|lab| {
        for stack in [Stack::Classic, Stack::Manyverse] {
            let host = lab.host(stack.folder());
            let mut foreign = Foreign::start(&host, stack, &Options::default());
            foreign.publish(&json!({ "type": "post", "text": "mine" }));
            let dir = foreign.dir();
            drop(foreign);
            let before = listing(&dir);
            assert_start_fails(&alone(&host).path(&dir), 1, &[dir.to_str().unwrap(), "fork"]);
            assert_eq!(listing(&dir), before, "something was written into {}", dir.display());
        }
        // What go-ssb and solar leave; neither program is at hand to write it.
        for (name, file) in [("go-ssb", "log/data"), ("solar", "secret.toml")] {
            let dir = lab.dir().join(name);
            fs::create_dir_all(dir.join(file).parent().unwrap()).unwrap();
            fs::write(dir.join(file), "theirs").unwrap();
            let before = listing(&dir);
            assert_start_fails(&alone(&lab.host("other")).path(&dir), 1, &[name]);
            assert_eq!(listing(&dir), before);
        }
    });
}

/// Every file below `dir` with its size and contents' length.
fn listing(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            found.extend(listing(&path));
        }
        found.push((path, metadata.len()));
    }
    found.sort();
    found
}

#[test]
fn a_secret_of_javascript_is_used_and_one_that_others_can_read_is_refused() {
    lab::run(|lab| {
        let host = lab.host("node");
        let setup = alone(&host);
        fs::create_dir_all(setup.dir()).unwrap();
        let secret = setup.dir().join("secret");
        let script =
            "const k = require(process.argv[1]).loadOrCreateSync(process.argv[2]); console.log(k.id)";
        let made = std::process::Command::new("node")
            .args(["-e", script])
            .arg(js::installed("manyverse", "ssb-keys"))
            .arg(&secret)
            .output()
            .unwrap();
        let id = String::from_utf8(made.stdout).unwrap();
        assert!(id.starts_with('@'), "{}", String::from_utf8_lossy(&made.stderr));
        fs::set_permissions(&secret, Permissions::from_mode(0o444)).unwrap();
        assert_start_fails(&setup, 1, &["chmod", secret.to_str().unwrap()]);
        fs::set_permissions(&secret, Permissions::from_mode(0o400)).unwrap();
        let node = setup.start();
        assert_eq!(node.id(), id.trim());
    });
}

#[test]
fn a_damaged_secret_is_never_replaced() {
    lab::run(|lab| {
        let setup = alone(&lab.host("node"));
        fs::create_dir_all(setup.dir()).unwrap();
        let secret = setup.dir().join("secret");
        for damaged in
            ["", "{", "{\"curve\":\"ed25519\",\"public\":\"AAAA.ed25519\",\"private\":\"AAAA.ed25519\"}"]
        {
            fs::write(&secret, damaged).unwrap();
            fs::set_permissions(&secret, Permissions::from_mode(0o400)).unwrap();
            assert_start_fails(&setup, 1, &[secret.to_str().unwrap()]);
            assert_eq!(fs::read_to_string(&secret).unwrap(), damaged);
            fs::remove_file(&secret).unwrap();
        }
    });
}

/// The newest file of the log.
fn newest_segment(node: &Setup) -> PathBuf {
    let mut segments: Vec<_> = listing(&node.dir().join("hawsepipe/log"));
    segments.retain(|(path, length)| path.is_file() && *length > 0);
    segments.pop().expect("the log has a segment").0
}

fn publish_some(node: &Peer, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| node.publish(&json!({ "type": "post", "text": format!("number {number}") })))
        .collect()
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_and_a_torn_end_of_the_log() {
    lab::run(|lab| {
        let node = alone(&lab.host("node")).start();
        let mut published = publish_some(&node, 5);
        published.sort();
        let setup = node.kill();
        // A write that the power cut interrupted: a length that promises more than there is.
        let segment = newest_segment(&setup);
        let whole = fs::metadata(&segment).unwrap().len();
        let mut file = fs::OpenOptions::new().append(true).open(&segment).unwrap();
        file.write_all(&[0x40, 0x01, 0x00, 0x00, 0x12, 0x34, 0x56]).unwrap();
        drop(file);
        let node = setup.start();
        assert_eq!(node.ids(), published, "an acknowledged message is gone");
        published.push(node.publish(&json!({ "type": "post", "text": "after the cut" })));
        published.sort();
        assert!(fs::metadata(&segment).unwrap().len() > whole);
        let setup = node.setup().clone();
        assert!(node.stop().success());
        let checked = setup.run(&["check"]);
        assert_eq!(code(&checked), 0, "{}{}", String::from_utf8_lossy(&checked.stdout), errors(&checked));
        assert_eq!(setup.start().ids(), published);
    });
}

#[test]
fn damage_inside_the_log_is_reported_and_loses_nothing_silently() {
    lab::run(|lab| {
        let node = alone(&lab.host("node")).start();
        publish_some(&node, 5);
        let setup = node.setup().clone();
        assert!(node.stop().success());
        let segment = newest_segment(&setup);
        let mut bytes = fs::read(&segment).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x20;
        fs::write(&segment, &bytes).unwrap();
        let checked = setup.run(&["check"]);
        assert_eq!(
            code(&checked),
            1,
            "check finds nothing wrong: {}",
            String::from_utf8_lossy(&checked.stdout)
        );
        assert_eq!(fs::read(&segment).unwrap(), bytes, "check without --repair changed the log");
    });
}

#[test]
fn indexes_are_rebuilt_from_the_log() {
    lab::run(|lab| {
        let node = alone(&lab.host("node")).start();
        let mut published = publish_some(&node, 5);
        published.sort();
        let setup = node.setup().clone();
        assert!(node.stop().success());
        let store = setup.dir().join("hawsepipe");
        for entry in fs::read_dir(&store).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("log") {
                fs::remove_dir_all(path).unwrap();
            }
        }
        let node = setup.start();
        assert_eq!(node.ids(), published);
        assert_eq!(node.sequence_of(node.id()), 5);
    });
}

#[test]
fn a_full_disk_is_reported_and_loses_nothing() {
    lab::run(|lab| {
        let host = lab.host("node");
        let disk = lab.small_disk("disk", 16 * 1024);
        let node = alone(&host).path(disk.join("data")).start();
        let mut published = publish_some(&node, 3);
        let filler = disk.join("filler");
        let full = fs::write(&filler, vec![0; 16 * 1024 * 1024]);
        assert!(full.is_err(), "the disk is not full");
        let text = "x".repeat(7000);
        let post = json!({ "type": "post", "text": text }).to_string();
        let refused = loop {
            let output = node.setup().run(&["publish", &post]);
            if !output.status.success() {
                break output;
            }
            let message: Value = serde_json::from_slice(&output.stdout).unwrap();
            published.push(message["key"].as_str().unwrap().to_owned());
        };
        assert_eq!(code(&refused), 1, "{}", errors(&refused));
        assert!(errors(&refused).to_lowercase().contains("space"), "{}", errors(&refused));
        published.sort();
        assert_eq!(node.ids(), published, "after a failed write");
        let setup = node.kill();
        fs::remove_file(&filler).unwrap();
        let node = setup.start();
        assert_eq!(node.ids(), published, "after a restart");
        published.push(node.publish(&json!({ "type": "post", "text": "room again" })));
        assert_eq!(node.sequence_of(node.id()), published.len() as u64);
    });
}

#[test]
fn metrics_are_served_on_loopback_only_and_can_be_switched_off() {
    lab::run(|lab| {
        let [host, other] = lab.segment(["node", "other"]);
        let node = alone(&host).start();
        let metrics = node.metrics().unwrap();
        assert!(metrics.has("messages") && metrics.has("feeds_known"), "{metrics}");
        let address = (host.v4(), 8990).into();
        assert!(other.enter(|| http_get(address, "/metrics")).is_err(), "metrics are open to the network");
        let setup = node.setup().clone();
        assert!(node.stop().success());
        let silent = setup.set("metrics.listen", false).start();
        let loopback = "127.0.0.1:8990".parse().unwrap();
        assert!(host.enter(|| http_get(loopback, "/metrics")).is_err());
        drop(silent);
    });
}

#[test]
fn a_javascript_client_works_unchanged() {
    lab::run(|lab| {
        let host = lab.host("node");
        let node = alone(&host).start();
        let id = node.publish(&json!({ "type": "post", "text": "read by ssb-client" }));
        js::installed("tools", "ssb-client");
        let script = hawsepipe_tests::package_dir().join("js/tools/client.js");
        let mut command = std::process::Command::new("node");
        command.arg(script).arg(node.setup().dir()).arg(node.net_address()).env("HOME", host.dir());
        let output = host.enter(|| command.output()).unwrap();
        assert!(output.status.success(), "{}", errors(&output));
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(seen["whoami"]["id"], node.id());
        assert_eq!(seen["log"][0]["key"], Value::from(id));
        assert_eq!(seen["published"]["value"]["sequence"], 2);
        assert!(seen["refused"].as_str().is_some_and(|text| text.contains("type")), "{seen}");
    });
}

#[test]
fn feeds_are_deleted_from_a_stopped_node_but_never_its_own() {
    lab::run(|lab| {
        let node = alone(&lab.host("node")).start();
        node.publish(&json!({ "type": "post", "text": "ours" }));
        let (own, setup) = (node.id().to_owned(), node.setup().clone());
        let other = "@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=.ed25519";
        let running = setup.run(&["delete", other]);
        assert_eq!(code(&running), 1);
        assert!(errors(&running).contains("in use"), "{}", errors(&running));
        assert!(node.stop().success());

        let refused = setup.run(&["delete", &own]);
        assert_eq!(code(&refused), 1);
        assert!(errors(&refused).contains("own feed is not deleted"), "{}", errors(&refused));
        assert_eq!(code(&setup.run(&["delete", "nobody"])), 2);
        let done = setup.run(&["delete", other]);
        assert!(done.status.success(), "{}", errors(&done));
        assert!(String::from_utf8_lossy(&done.stdout).starts_with("deleted 0 messages, kept 1;"), "{done:?}");
        assert_eq!(setup.start().sequence_of(&own), 1);
    });
}

/// What peers had before stays theirs; who comes later gets the feed up to the deleted message.
#[test]
fn a_deleted_message_is_gone_from_the_disk_and_its_feed_goes_on() {
    lab::run(|lab| {
        let [host, host_of_friend] = lab.segment(["node", "friend"]);
        let node = Setup::on(&host).start();
        let keys: Vec<String> = ["first", "a slip of the tongue", "third"]
            .iter()
            .map(|text| node.publish(&json!({ "type": "post", "text": text })))
            .collect();
        assert_eq!(node.ok(&["erase", &keys[1]]).trim(), "true");
        let again = node.setup().run(&["erase", &keys[1]]);
        assert!(errors(&again).contains("there is no message"), "{}", errors(&again));
        let newest = node.setup().run(&["erase", &keys[2]]);
        assert!(errors(&newest).contains("publish another one first"), "{}", errors(&newest));
        assert!(!node.setup().run(&["get", &keys[1]]).status.success());
        assert_eq!(node.ids().len(), 2);
        assert!(!node.ids().contains(&keys[1]));
        for file in files_below(&node.setup().dir().join("hawsepipe")) {
            let bytes = fs::read(&file).unwrap_or_default();
            let found = bytes.windows(8).any(|part| part == b"a slip o");
            assert!(!found, "{} has it still", file.display());
        }

        let friend = Setup::on(&host_of_friend).start();
        node.follow(friend.id());
        friend.follow(node.id());
        friend.wait_clock(&[(node.id().to_owned(), 1)], SOON);
        node.wait_clock(&[(friend.id().to_owned(), 1)], SOON);
        assert_eq!(friend.sequence_of(node.id()), 1, "nobody can take what follows a gap");

        let (id, setup) = (node.id().to_owned(), node.setup().clone());
        assert!(node.stop().success());
        assert!(setup.run(&["check"]).status.success());
        assert_eq!(setup.start().sequence_of(&id), 4);
    });
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// Runs a command with this standard input.
fn fed(setup: &Setup, arguments: &[&str], input: &str) -> Output {
    let mut command = setup.command();
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = setup.host().enter(|| command.spawn()).unwrap();
    // Whoever refuses may not read to the end.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    child.wait_with_output().unwrap()
}

#[test]
fn a_sink_takes_what_comes_from_standard_input() {
    lab::run(|lab| {
        let [host, other] = lab.segment(["one", "other"]);
        let from = Setup::on(&host).solitary().start();
        for n in 0..3 {
            from.publish(&json!({ "type": "post", "text": format!("post {n} \u{20ac}"), "n": 1e21 }));
        }
        let into = Setup::on(&other).solitary().start();
        // As our own commands print it, and as ssb-server's do.
        let lines = from.ok(&["call", "createLogStream", r#"{"limit":2}"#]);
        for (written, count) in [(lines, 2), (from.ok(&["createLogStream"]), 3)] {
            let done = fed(into.setup(), &["createWriteStream"], &written);
            assert!(done.status.success() && done.stdout.is_empty(), "{done:?}");
            assert_eq!(into.ids().len(), count);
        }
        assert_eq!(into.ids(), from.ids());
        let blob = fed(into.setup(), &["call", "blobs.add"], "a blob");
        assert_eq!(
            String::from_utf8_lossy(&blob.stdout).trim(),
            "&VXCjzwIgfx01LSz+o4W+S8CyuUFPYGuqb1XbYLIy8iE=.sha256"
        );
        for (input, says) in [("{} [1]", "object 2"), ("{\"value\":{}}", "message 1"), ("{", "object 1")] {
            let refused = fed(into.setup(), &["call", "createWriteStream"], input);
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(!refused.status.success() && said.contains(says), "{input}: {said}");
        }
    });
}
