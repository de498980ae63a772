//! The command line for people: what is read on a terminal, what programs get on a pipe, and that nobody's message does
//! anything to the terminal it is read on.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use hawsepipe_tests::lab::{self, Host, Lab};
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::wait::SOON;
use serde_json::{Value, json};

/// Sets the title, clears the screen, rings, turns the writing around, and begins a sequence with one character.
const HOSTILE: &str = "x\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}y";

fn alone(lab: &mut Lab) -> (Host, Peer) {
    let host = lab.host("node");
    let node = Setup::on(&host).solitary().start();
    (host, node)
}

/// Two nodes that follow each other and have each other's messages.
fn friends(lab: &mut Lab) -> (Peer, Peer) {
    let [one, two] = lab.segment(["one", "two"]);
    let (one, two) = (Setup::on(&one).solitary().start(), Setup::on(&two).solitary().start());
    one.follow(two.id());
    two.follow(one.id());
    one.ok(&["connect", &two.net_address()]);
    let clock = [(one.id().to_owned(), 1), (two.id().to_owned(), 1)];
    one.wait_clock(&clock, SOON);
    two.wait_clock(&clock, SOON);
    (one, two)
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What is printed for people, of which each character is harmless.
fn text(node: &Peer, arguments: &[&str]) -> String {
    let text = node.ok(&[arguments, &["--text"]].concat());
    let harmful =
        text.chars().find(|c| (*c != '\n' && c.is_control()) || ('\u{202a}'..='\u{202e}').contains(c));
    assert_eq!(harmful, None, "{text:?}");
    text
}

/// The JSON values that are printed, one a line.
fn values(node: &Peer, arguments: &[&str]) -> Vec<Value> {
    node.ok(arguments).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn key(printed: &str) -> String {
    let message: Value = serde_json::from_str(printed).unwrap();
    message["key"].as_str().unwrap().to_owned()
}

/// What a command prints on a terminal, which `script` of util-linux plays.
fn on_terminal(node: &Peer, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let ours = node.setup().command();
    let typed = std::iter::once(ours.get_program()).chain(ours.get_args()).map(|word| word.to_str().unwrap());
    let typed: Vec<String> = typed.chain(arguments.iter().copied()).map(|word| format!("'{word}'")).collect();
    let mut command = Command::new("script");
    command.args(["-q", "-e", "-c", &typed.join(" "), "/dev/null"]).stdin(Stdio::null());
    command.env_clear().env("TERM", "xterm").env("PATH", "/usr/bin:/bin").envs(environment.iter().copied());
    let output = node.setup().host().enter(|| command.output()).unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n")
}

#[test]
fn threads_are_answered_at_their_heads_and_read_in_order() {
    lab::run(|lab| {
        let (_, node) = alone(lab);
        let root = key(&node.ok(&["publish", "--post", "the root", "--channel", "#boats"]));
        let first = key(&node.ok(&["reply", &root, "first answer"]));
        let beside = json!({ "type": "post", "text": "beside", "root": root, "branch": root });
        let beside = key(&node.ok(&["publish", &beside.to_string()]));
        let both = node.ok(&["reply", &first, "answers both"]);
        let content = &serde_json::from_str::<Value>(&both).unwrap()["value"]["content"];
        assert_eq!(content["root"], root);
        let mut branch: Vec<&str> =
            content["branch"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        branch.sort_unstable();
        let mut heads = [first.as_str(), beside.as_str()];
        heads.sort_unstable();
        assert_eq!((branch, content["channel"].as_str()), (heads.to_vec(), Some("boats")));
        let nested = json!({ "type": "post", "text": "a thread in it", "root": first, "branch": first });
        let nested = key(&node.ok(&["publish", &nested.to_string()]));
        node.publish(&json!({ "type": "vote", "vote": { "link": root, "value": 1, "expression": "Like" } }));

        // From whichever of its messages: the same thread.
        let order = [root.clone(), first.clone(), nested, beside.clone(), key(&both)];
        for id in [&root, &beside] {
            let thread = values(&node, &["thread", id]);
            assert_eq!(
                thread.iter().map(|message| message["key"].as_str().unwrap()).collect::<Vec<_>>(),
                order
            );
        }
        let shown = text(&node, &["thread", &root]);
        for line in ["  the root", "    first answer", "      a thread in it", "    answers both"] {
            assert!(shown.lines().any(|shown| shown == line), "{line:?} is not in:\n{shown}");
        }
        let missing = node.setup().run(&["thread", "%AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=.sha256"]);
        assert_eq!(missing.status.code(), Some(1), "{}", errors(&missing));
        assert_eq!(node.setup().run(&["reply", "nonsense", "x"]).status.code(), Some(2));
    });
}

#[test]
fn people_have_names_and_are_followed_and_blocked_by_them() {
    lab::run(|lab| {
        let (one, two) = friends(lab);
        two.publish(&json!({ "type": "about", "about": two.id(), "name": format!("Bob{HOSTILE}") }));
        one.wait_clock(&[(two.id().to_owned(), 2)], SOON);
        let who = values(&one, &["who"]);
        assert_eq!((&who[0]["id"], &who[0]["relation"]), (&json!(one.id()), &json!("you")));
        assert_eq!(
            (&who[1]["id"], &who[1]["relation"], &who[1]["hops"]),
            (&json!(two.id()), &json!("friend"), &json!(1))
        );
        // Our own word for somebody counts, not their own.
        one.publish(&json!({ "type": "about", "about": two.id(), "name": "Robert" }));
        assert_eq!(values(&one, &["who", "robert"])[0]["id"], json!(two.id()));
        assert!(
            text(&one, &["who"]).lines().any(|line| line.starts_with("Robert ") && line.contains(" friend "))
        );
        assert!(text(&two, &["log"]).contains("Bobx]0;owned[2J31my"));

        one.ok(&["follow", "Robert", "--undo"]);
        assert_eq!(values(&one, &["who", "robert"])[0]["relation"], "follows you");
        assert!(text(&one, &["block", "@robert"]).starts_with("blocking Robert @"));
        assert_eq!(values(&one, &["who", "robert"])[0]["relation"], "blocked");
        one.ok(&["block", "robert", "--undo"]);

        let stranger = "@AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=.ed25519";
        one.publish(&json!({ "type": "about", "about": stranger, "name": "ROBERT" }));
        let before = one.ids().len();
        for refused in [["follow", "robert"], ["block", "robert"], ["feed", "robert"], ["follow", "nobody"]] {
            let output = one.setup().run(&refused);
            assert_eq!(output.status.code(), Some(1), "{refused:?}");
            let said = errors(&output);
            assert!(said.contains(if refused[1] == "robert" { two.id() } else { "nobody here" }), "{said}");
        }
        assert_eq!(one.ids().len(), before, "nothing was published");
        assert_eq!(values(&one, &["feed", two.id()]).len(), 2);
    });
}

#[test]
fn what_others_write_does_nothing_to_the_terminal() {
    lab::run(|lab| {
        let (_, node) = alone(lab);
        let root = node.publish(&json!({ "type": "post", "text": HOSTILE, "channel": HOSTILE }));
        for content in [
            json!({ "type": "about", "about": node.id(), "name": HOSTILE, "description": HOSTILE }),
            json!({ "type": "contact", "contact": HOSTILE, "following": true }),
            json!({ "type": "vote", "vote": { "link": HOSTILE, "value": 1 } }),
            json!({ "type": "strange", HOSTILE: HOSTILE }),
            json!({ "type": "post", "text": HOSTILE, "root": root, "branch": root }),
        ] {
            node.publish(&content);
        }
        for command in
            [&["log"][..], &["feed", node.id()], &["thread", &root], &["who"], &["status"], &["peers"]]
        {
            text(&node, command);
        }
        // On a pipe it is what it is; on a terminal JSON says the same in other characters.
        let piped = node.ok(&["log", "--json"]);
        assert!(piped.contains('\u{9b}'));
        let shown = on_terminal(&node, &["log", "--json"], &[]);
        assert!(!shown.chars().any(|c| (c != '\n' && c.is_control()) || c == '\u{202e}'), "{shown:?}");
        let read =
            |text: &str| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
        assert_eq!(read(&shown), read(&piped));
    });
}

#[test]
fn a_terminal_gets_text_colours_and_the_pager_that_its_owner_wants() {
    lab::run(|lab| {
        let (host, node) = alone(lab);
        for number in 0..60 {
            node.publish(&json!({ "type": "post", "text": format!("number {number}.") }));
        }
        let shown = on_terminal(&node, &["log"], &[]);
        assert!(shown.contains("\u{1b}[1m") && shown.contains("just now"), "{shown:?}");
        assert!(shown.contains("number 59.") && shown.contains("number 10.") && !shown.contains("number 9."));
        let plain = on_terminal(&node, &["log", "--limit", "2"], &[("NO_COLOR", "1")]);
        assert!(
            !plain.contains('\u{1b}') && plain.contains("number 0.") && !plain.contains("number 2."),
            "{plain}"
        );
        assert_eq!(on_terminal(&node, &["whoami"], &[]).trim(), node.id());

        let paged = host.dir().join("paged");
        let pager = format!("cat > '{}'", paged.display());
        assert_eq!(on_terminal(&node, &["log"], &[("PAGER", &pager)]), "");
        assert!(fs::read_to_string(&paged).unwrap().contains("number 59."));
        fs::remove_file(&paged).unwrap();
        assert!(on_terminal(&node, &["status"], &[("PAGER", &pager)]).contains("60 of 1 feeds"));
        assert!(on_terminal(&node, &["log", "--json"], &[("PAGER", &pager)]).contains("number 0."));
        assert!(!paged.exists(), "a pager for what needs none");
        // A pager that is left early, and one that is not there.
        on_terminal(&node, &["log"], &[("PAGER", "true")]);
        assert!(on_terminal(&node, &["log"], &[("PAGER", "no-such-pager -R")]).contains("number 59."));
    });
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    lab::run(|lab| {
        let (_, node) = alone(lab);
        for number in 0..40 {
            node.publish(&json!({ "type": "post", "text": format!("{number} {}", "x".repeat(4000)) }));
        }
        for form in ["--json", "--text"] {
            let mut command = node.setup().command();
            command.args(["log", form]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = node.setup().host().enter(|| command.spawn()).unwrap();
            let mut first = [0; 16];
            child.stdout.take().unwrap().read_exact(&mut first).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success() && output.stderr.is_empty(), "{form}: {output:?}");
        }
    });
}

#[test]
fn live_messages_are_shown_as_they_come_behind_the_newest_old_ones() {
    lab::run(|lab| {
        let (_, node) = alone(lab);
        for number in 0..3 {
            node.publish(&json!({ "type": "post", "text": format!("number {number}") }));
        }
        let last = values(&node, &["log", "--last", "2"]);
        assert_eq!(last.len(), 2);
        assert_eq!(last[1]["value"]["content"]["text"], "number 2");
        let live = node.follow_output(&["log", "--live", "--last", "1"]);
        let texts = |message: &Value| message["value"]["content"]["text"].as_str().map(str::to_owned);
        assert_eq!(texts(&live.next_where(|_| true)).as_deref(), Some("number 2"));
        node.publish(&json!({ "type": "post", "text": "news" }));
        assert_eq!(texts(&live.next_where(|_| true)).as_deref(), Some("news"));
        let read = node.follow_output(&["feed", node.id(), "--live", "--text", "--last", "1"]);
        while read.next_line() != "  news" {}
        node.publish(&json!({ "type": "post", "text": "and more" }));
        while read.next_line() != "  and more" {}
    });
}

#[test]
fn private_messages_are_written_read_and_answered_between_the_same_people() {
    lab::run(|lab| {
        let (one, two) = friends(lab);
        two.publish(&json!({ "type": "about", "about": two.id(), "name": "Bob" }));
        one.wait_clock(&[(two.id().to_owned(), 2)], SOON);
        let secret = one.ok(&["publish", "--post", "between us", "--to", "bob"]);
        let id = key(&secret);
        assert!(!secret.contains("between us"), "sealed: {secret}");
        two.wait_clock(&[(one.id().to_owned(), 2)], SOON);
        let answer = two.ok(&["reply", &id, "still between us"]);
        assert!(!answer.contains("still between us"), "an answer to a private message is private: {answer}");
        one.wait_clock(&[(two.id().to_owned(), 3)], SOON);
        let read = values(&one, &["private"]);
        assert_eq!(
            read.iter().map(|m| &m["value"]["content"]["text"]).collect::<Vec<_>>(),
            ["between us", "still between us"]
        );
        assert_eq!(read[1]["value"]["content"]["root"], json!(id));
        assert!(text(&one, &["private"]).contains("private"));
        let thread = text(&one, &["thread", &key(&answer)]);
        assert!(thread.contains("  between us\n") && thread.contains("    still between us\n"), "{thread}");
    });
}

#[test]
fn blobs_and_texts_come_from_pipes_and_go_to_them() {
    lab::run(|lab| {
        let (host, node) = alone(lab);
        let file = host.dir().join("picture");
        fs::write(&file, [0_u8, 159, 146, 150]).unwrap();
        let id = node.ok(&["blob", "add", file.to_str().unwrap()]);
        let id = id.trim();
        assert_eq!(node.setup().run(&["blob", "get", id]).stdout, [0, 159, 146, 150]);
        assert_eq!(node.ok(&["blob", "list"]).trim(), id);
        assert_eq!(node.ok(&["blob", "has", id]).trim(), "true");
        node.ok(&["blob", "remove", id]);
        let gone = node.setup().run(&["blob", "has", id]);
        assert_eq!((gone.status.code(), gone.stdout.as_slice()), (Some(1), &b"false\n"[..]));
        let published = piped(&node, &["publish", "--post", "-"], &file, "from a pipe\n");
        assert_eq!(
            serde_json::from_str::<Value>(&published).unwrap()["value"]["content"]["text"],
            "from a pipe"
        );
    });
}

/// Runs a command with `input` on its standard input.
fn piped(node: &Peer, arguments: &[&str], file: &Path, input: &str) -> String {
    fs::write(file, input).unwrap();
    let mut command = node.setup().command();
    command.args(arguments).stdin(File::open(file).unwrap());
    let output = node.setup().host().enter(|| command.output()).unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_command_for_people_says_when_no_node_runs() {
    lab::run(|lab| {
        let setup = Setup::on(&lab.host("node"));
        let id = "%AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=.sha256";
        for command in [
            &["who"][..],
            &["feed", "x"],
            &["thread", id],
            &["search", "x"],
            &["private"],
            &["reply", id, "x"],
            &["blob", "list"],
            &["status"],
            &["peers"],
            &["follow", "x"],
            &["block", "x"],
        ] {
            let output = setup.run(command);
            assert_eq!(output.status.code(), Some(3), "{command:?}: {}", errors(&output));
            assert!(errors(&output).contains("no node is running"), "{}", errors(&output));
        }
    });
}

#[test]
fn a_search_finds_or_says_that_the_node_cannot() {
    lab::run(|lab| {
        let (_, node) = alone(lab);
        node.publish(&json!({ "type": "post", "text": "a herring in the bilge" }));
        let output = node.setup().run(&["search", "herring"]);
        if node.call("manifest", &[])[0]["search"]["query"] == "source" {
            assert!(output.status.success(), "{}", errors(&output));
            assert!(String::from_utf8_lossy(&output.stdout).contains("herring"));
        } else {
            assert_eq!(output.status.code(), Some(1));
            assert!(errors(&output).contains("no full-text search"), "{}", errors(&output));
        }
    });
}

#[test]
fn the_manual_and_the_completions_have_all_commands() {
    lab::run(|lab| {
        let host = lab.host("node");
        let setup = Setup::on(&host);
        let output = |arguments: &[&str]| {
            let output = setup.run(arguments);
            assert!(output.status.success(), "{arguments:?}: {}", errors(&output));
            String::from_utf8(output.stdout).unwrap()
        };
        let page = output(&["man"]);
        assert!(page.starts_with(".") && page.contains(".TH hawsepipe 1"), "{page}");
        let commands = [
            "log", "thread", "feed", "search", "who", "follow", "block", "publish", "reply", "blob",
            "private", "status", "peers", "start", "import",
        ];
        let completions = ["bash", "zsh", "fish"].map(|shell| output(&["completions", shell]));
        let pages = host.dir().join("man");
        output(&["man", "--into", pages.to_str().unwrap()]);
        for command in commands {
            assert!(page.contains(&format!("hawsepipe\\-{command}(1)")), "{command} is not in the manual");
            for script in &completions {
                assert!(script.contains(command), "{command} is not completed");
            }
            assert!(pages.join(format!("hawsepipe-{command}.1")).exists(), "{command} has no page");
        }
        let page = output(&["man", "reply"]);
        assert!(page.contains("hawsepipe reply") && page.contains("\\-\\-json"), "{page}");
        assert_eq!(setup.run(&["man", "nonsense"]).status.code(), Some(2));
    });
}
