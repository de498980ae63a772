//! Programs that were written for ssb-server, pointed at our node: ssb-client with its own tests, ssb-server's command
//! line and its tests, and the same command lines typed to ours.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use hawsepipe_tests::js::{Foreign, Options, Stack, installed};
use hawsepipe_tests::lab::{self, Host};
use hawsepipe_tests::metrics::http_get;
use hawsepipe_tests::package_dir;
use hawsepipe_tests::peer::{Peer, Setup, binary};
use serde_json::{Value, json};

fn script(name: &str) -> PathBuf {
    package_dir().join("js").join(name)
}

/// Where node is, for processes that find another `node` in their path.
fn node_program() -> PathBuf {
    let output = Command::new("node").args(["-p", "process.execPath"]).output().unwrap();
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

fn run(host: &Host, command: &mut Command, input: &str) -> Output {
    command.env("HOME", host.dir()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = host.enter(|| command.spawn()).unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn passes(output: &Output) {
    assert!(output.status.success(), "{}", said(output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("# ok"), "{}", said(output));
}

/// A link to our program by one of ssb-server's names.
fn named(host: &Host, name: &str) -> PathBuf {
    let link = host.dir().join(name);
    fs::create_dir_all(host.dir()).unwrap();
    if !link.exists() {
        symlink(binary(), &link).unwrap();
    }
    link
}

fn with_ws(host: &Host) -> Peer {
    Setup::on(host).solitary().set("ws", json!({ "port": 8989 })).start()
}

#[test]
fn a_client_comes_in_by_websocket_with_the_rights_of_its_key() {
    lab::run(|lab| {
        let host = lab.host("node");
        let node = with_ws(&host);
        let address = node.call("address", &[]).remove(0).as_str().unwrap().to_owned();
        let ws = address.split(';').find(|one| one.starts_with("ws://")).unwrap().to_owned();
        assert!(ws.starts_with("ws://127.0.0.1:8989~shs:"), "{address}");
        // JavaScript writes its addresses in this order.
        let kinds: Vec<_> = address.split(';').filter_map(|one| one.split(':').next()).collect();
        assert!(
            kinds.is_sorted_by_key(|kind| ["net", "ws", "unix"].iter().position(|k| k == kind)),
            "{kinds:?}"
        );
        let id = node.publish(&json!({ "type": "post", "text": "read over a WebSocket" }));
        let mut command = Command::new("node");
        command.arg(script("tools/client.js")).arg(node.setup().dir()).arg(&ws);
        let output = run(&host, &mut command, "");
        assert!(output.status.success(), "{}", said(&output));
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&seen["whoami"]["id"], &seen["log"][0]["key"]), (&json!(node.id()), &json!(id)));
        assert_eq!(seen["published"]["value"]["sequence"], 2);
        node.wait_metric("handshakes_total", &[("carrier", "ws"), ("outcome", "ok")], 1.0);
    });
}

#[test]
fn messages_are_read_in_a_browser() {
    lab::run(|lab| {
        let host = lab.host("node");
        let node = with_ws(&host);
        let id = node.publish(&json!({ "type": "post", "text": "seen in a browser" }));
        let at = node.blobs_http();
        let get = |path: &str| host.enter(|| http_get(at, path)).unwrap();
        for path in [format!("/msg/{id}"), format!("/msg/{}", id.replace('%', "%25").replace('/', "%2F"))] {
            let (status, body) = get(&path);
            let message: Value = serde_json::from_str(&body).unwrap();
            assert_eq!((status, &message["key"]), (200, &json!(id)), "{path}");
            assert_eq!(message["value"]["content"]["text"], "seen in a browser");
            assert!(body.starts_with("{\n  \"key\""), "{body}");
        }
        let unknown = format!("/msg/{}", "%AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=.sha256");
        assert_eq!((get(&unknown).0, get("/msg/nonsense").0, get("/").0), (404, 404, 404));
    });
}

#[test]
fn ssb_client_passes_its_own_tests_with_our_node_in_the_place_of_ssb_server() {
    lab::run(|lab| {
        let host = lab.host("node");
        for test in ["test/index.js", "test/blobs.js"] {
            let mut command = Command::new("node");
            command.arg("--require").arg(script("as-ssb-server.js"));
            command.arg(installed("classic", "ssb-client").join(test)).env("HAWSEPIPE", binary());
            passes(&run(&host, &mut command, ""));
        }
    });
}

#[test]
fn ssb_servers_test_of_its_program_passes_with_ours() {
    lab::run(|lab| {
        let host = lab.host("node");
        let ours = named(&host, "ssb-server");
        // Whatever runs `node bin.js …` now runs ours with the same words.
        let bin = host.dir().join("bin");
        fs::create_dir(&bin).unwrap();
        let stand_in = bin.join("node");
        fs::write(&stand_in, format!("#!/bin/sh\nshift\nexec '{}' \"$@\"\n", ours.display())).unwrap();
        fs::set_permissions(&stand_in, Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(node_program());
        command.arg("--require").arg(script("exec-path.js"));
        command.arg(installed("classic", "ssb-server").join("test/bin.js"));
        command.env("PATH", path).env("EXEC_PATH", &stand_in);
        let output = run(&host, &mut command, "");
        for left in fs::read_dir("/tmp").unwrap().filter_map(Result::ok) {
            let name = left.file_name().to_string_lossy().to_lowercase();
            if name.starts_with("ssb-server_binjstest_") || name.starts_with("ssbserver_binjstest_") {
                // Another run of the same may have been quicker.
                let _ = fs::remove_dir_all(left.path());
            }
        }
        passes(&output);
    });
}

/// A command line in JavaScript and in ours, towards the same node.
struct Lines {
    host: Host,
    dir: PathBuf,
    ours: PathBuf,
}

impl Lines {
    fn theirs(&self, words: &[&str], input: &str) -> Output {
        let mut command = Command::new("node");
        command.arg(installed("classic", "ssb-server").join("bin.js")).args(words);
        self.run(&mut command, input)
    }

    fn ours(&self, words: &[&str], input: &str) -> Output {
        self.run(Command::new(&self.ours).args(words), input)
    }

    fn run(&self, command: &mut Command, input: &str) -> Output {
        run(&self.host, command.env("ssb_path", &self.dir).env("ssb_appname", "ssb"), input)
    }

    /// Both say the same and end the same.
    fn assert_same(&self, words: &[&str], input: &str) -> String {
        let (theirs, ours) = (self.theirs(words, input), self.ours(words, input));
        let code = |output: &Output| output.status.code();
        assert_eq!(code(&ours), code(&theirs), "{words:?}: {} / {}", said(&ours), said(&theirs));
        let printed = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(printed(&ours), printed(&theirs), "{words:?}");
        printed(&ours)
    }
}

#[test]
fn command_lines_of_ssb_server_give_the_same_typed_to_ours() {
    lab::run(|lab| {
        let host = lab.host("node");
        let node = with_ws(&host);
        let dir = node.setup().dir().to_owned();
        let lines = Lines { ours: named(&host, "sbot"), host: host.clone(), dir };
        let published = lines.ours(&["publish", "--type", "post", "--text", "by ours", "--n", "5"], "");
        assert_eq!(published.status.code(), Some(0), "{}", said(&published));
        let first: Value = serde_json::from_slice(&published.stdout).unwrap();
        assert_eq!(first["value"]["content"], json!({ "type": "post", "text": "by ours", "n": 5 }));
        let published = lines.theirs(&["publish", "."], r#"{"type":"post","text":"by theirs","tags":[]}"#);
        let second: Value = serde_json::from_slice(&published.stdout).unwrap();
        assert_eq!(second["value"]["sequence"], 2, "{}", said(&published));
        let published = lines.ours(&["publish", "."], r#"{"type":"post","text":"from a pipe"}"#);
        assert_eq!(published.status.code(), Some(0), "{}", said(&published));

        let key = first["key"].as_str().unwrap();
        for words in [
            &["whoami"][..],
            &["get", key],
            &["get", "--id", key, "--meta"],
            &["log"],
            &["log", "--limit", "2", "--reverse"],
            &["createLogStream", "--no-values", "--limit", "1"],
            &["log", "--no-values"],
            &["feed", "--no-keys"],
            &["hist", "--id", node.id(), "--seq", "2"],
            &["logt", "post"],
            &["logt", "--type", "post", "--limit", "1"],
            &["createUserStream", "--id", node.id(), "--gt", "1"],
            &["links", "--source", node.id()],
            &["latest"],
            &["latestSequence", node.id()],
            &["getVectorClock"],
            &["address", "device"],
            &["address", "nowhere"],
            &["multiserver.parse", "net:127.0.0.1:8008~noauth"],
            &["friends.hops"],
            &["friends.isFollowing", "--source", node.id(), "--dest", node.id()],
            &["blobs.has", "&AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=.sha256"],
            &["blobs.size", "&AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=.sha256"],
            &[
                "query.read",
                "--query",
                r#"[{"$filter":{"value":{"content":{"type":"post"}}}},{"$map":"key"}]"#,
            ],
            &["version"],
            &["whoami", "--", "--timeout", "1000"],
        ] {
            lines.assert_same(words, "");
        }
        for words in [&["publish", "."][..], &["add", "."]] {
            let refused = lines.ours(words, r#"{"text":"no type"}"#);
            assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
            assert!(String::from_utf8_lossy(&refused.stderr).starts_with("Error: "), "{}", said(&refused));
            assert_eq!(lines.theirs(words, r#"{"text":"no type"}"#).status.code(), Some(1));
        }
        blobs_by_command_line(&lines);
    });
}

fn blobs_by_command_line(lines: &Lines) {
    let file = lines.dir.join("picture");
    fs::write(&file, b"a picture, as it were").unwrap();
    let id = lines.assert_same(&["blobs.add", file.to_str().unwrap()], "");
    assert_eq!(lines.assert_same(&["blobs.add"], "a picture, as it were"), id);
    assert_eq!(lines.assert_same(&["blobs.get", id.trim()], ""), "a picture, as it were");
}

#[test]
fn as_sbot_a_node_is_started_configured_and_found_as_ssb_server_is() {
    lab::run(|lab| {
        let host = lab.host("node");
        let sbot = named(&host, "sbot");
        let dir = host.dir().join("elsewhere");
        let words = |words: &[&str]| {
            let mut command = Command::new(&sbot);
            command.args(words).env("ssb_appname", "test");
            command
        };
        fs::write(host.dir().join(".testrc"), r#"{ "port": 8123, "friends": { "hops": 1 } }"#).unwrap();
        let path = format!("--path {}", dir.display());
        let config =
            run(&host, &mut words(&["config", &path, "--friends.hops", "3", "--", "--local", "false"]), "");
        let config: Value = serde_json::from_slice(&config.stdout).unwrap();
        assert_eq!((&config["port"], &config["friends"]["hops"]), (&json!(8123), &json!(3)));
        assert_eq!((&config["local"], &config["path"]), (&json!(false), &json!(dir)));

        let absent = run(&host, &mut words(&["whoami", &path]), "");
        assert_eq!(absent.status.code(), Some(1));
        assert!(said(&absent).starts_with("Error: Could not connect to ssb-server"), "{}", said(&absent));

        let mut server = words(&["start", &path, "--", "--local", "false", "--metrics.listen", "false"]);
        let mut server =
            host.enter(|| server.env("HOME", host.dir()).stdout(Stdio::piped()).spawn()).unwrap();
        let lines = hawsepipe_tests::peer::Lines::of(server.stdout.take().unwrap());
        let deadline = hawsepipe_tests::wait::Deadline::after(hawsepipe_tests::wait::SOON);
        let mut printed = Vec::new();
        while printed.last().is_none_or(|line| line != "ready") {
            printed.push(lines.next(deadline).unwrap());
        }
        assert!(printed[0].ends_with("logging.level:notice"), "{printed:?}");
        assert!(printed.iter().any(|line| line.starts_with("listening: net:127.0.0.1:8123~")), "{printed:?}");
        let whoami = run(&host, &mut words(&["whoami", &path]), "");
        assert!(whoami.status.success(), "{}", said(&whoami));
        // Without its socket it is found where it listens.
        fs::remove_file(dir.join("socket")).unwrap();
        assert_eq!(run(&host, &mut words(&["whoami", &path]), "").stdout, whoami.stdout);
        for (unknown, code) in [(&["no.such"][..], 1), (&[], 1), (&["blobs"], 1), (&["get", "--help"], 0)] {
            let shown = run(&host, &mut words(unknown), "");
            assert_eq!(shown.status.code(), Some(code), "{unknown:?}: {}", said(&shown));
        }
        server.kill().unwrap();
        server.wait().unwrap();
    });
}

/// Methods below which path they stand, with dots.
fn names(manifest: &Value, path: &str, found: &mut Vec<String>) {
    for (name, value) in manifest.as_object().unwrap() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match value.as_str() {
            Some(kind) => found.push(format!("{path}: {kind}")),
            None => names(value, &path, found),
        }
    }
}

/// What a JavaScript server has and we deliberately have not is listed in the README, with reasons, and nothing else.
#[test]
fn no_method_of_ssb_server_is_absent_but_those_that_the_readme_lists() {
    lab::run(|lab| {
        let host = lab.host("node");
        let mut theirs = Foreign::start(&host, Stack::Classic, &Options { port: 8100, ..Options::default() });
        let node = Setup::on(&host).solitary().start();
        let (mut js, mut ours) = (Vec::new(), Vec::new());
        names(&theirs.ok("manifest", &[]), "", &mut js);
        names(&node.call("manifest", &[])[0], "", &mut ours);
        let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
        let section = readme.split("| absent method | why |").nth(1).expect("the README has the table");
        let rows = section.lines().skip(2).take_while(|line| line.starts_with('|'));
        let listed: Vec<_> = rows.map(|row| row.split('|').nth(1).unwrap()).collect();
        let is_listed = |method: &String| {
            let name = method.split(':').next().unwrap();
            let group = name.split('.').next().unwrap();
            let cells = listed.iter();
            cells
                .filter(|cell| cell.contains(&format!("`{name}`")) || cell.contains(&format!("`{group}.*`")))
                .count()
                == 1
        };
        assert!(js.len() > 70, "{js:?}");
        let missing: Vec<_> = js.iter().filter(|method| !ours.contains(method)).collect();
        let unlisted: Vec<_> = missing.iter().filter(|method| !is_listed(method)).collect();
        assert!(unlisted.is_empty(), "absent, and not in the README: {unlisted:?}");
        let untrue: Vec<_> = js.iter().filter(|method| ours.contains(method) && is_listed(method)).collect();
        assert!(untrue.is_empty(), "there, although the README says absent: {untrue:?}");
    });
}
