//! Programs of other people that are clients of a local SSB server, on our node as they come from npm: a git remote helper
//! (git-remote-ssb and `git ssb`), a web client that also writes (git-ssb-web), and one that only reads (ssb-viewer).
//!
//! They find the node as they find ssb-server: by `~/.ssb` and port 8008.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use hawsepipe_tests::js::installed;
use hawsepipe_tests::lab::{self, Host};
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::wait::{self, SOON};
use serde_json::json;

/// The program of git-ssb-web.
const GIT_SSB_WEB: &str = "git-ssb-web";
/// Where git-ssb-web listens.
const GIT_WEB: &str = "127.0.0.1:7718";
/// Where ssb-viewer listens, on all addresses.
const VIEWER: &str = "127.0.0.1:8807";

/// A person's home with a node on `~/.ssb` and the programs on the path.
struct Home {
    host: Host,
    node: Peer,
}

impl Home {
    fn on(host: Host) -> Self {
        let node = Setup::on(&host).path(host.dir().join(".ssb")).solitary().start();
        Self { host, node }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.host.dir().join(name)
    }

    fn command(&self, program: &str, arguments: &[&str], dir: &Path) -> Command {
        let programs = installed("clients", ".bin");
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(program);
        command.args(arguments).current_dir(dir).stdin(Stdio::null()).env_clear();
        command.env("HOME", self.host.dir()).env("PATH", path).env("GIT_CONFIG_NOSYSTEM", "1");
        for role in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{role}_NAME"), "Ann")
                .env(format!("GIT_{role}_EMAIL"), "ann@example.org");
        }
        command
    }

    fn run(&self, program: &str, arguments: &[&str], dir: &Path) -> Output {
        let mut command = self.command(program, arguments, dir);
        self.host.enter(|| command.output()).unwrap()
    }

    /// Runs git to its end, which must be good, and gives what it printed.
    fn git(&self, arguments: &[&str], dir: &Path) -> String {
        let output = self.run("git", arguments, dir);
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "git {arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Writes a file and commits it.
    fn commit(&self, repository: &Path, name: &str, text: &str) {
        fs::write(repository.join(name), text).unwrap();
        self.git(&["add", name], repository);
        self.git(&["commit", "-q", "-m", &format!("add {name}")], repository);
    }

    /// Starts a server of web pages, and waits until it answers at `address`.
    fn serve(&self, program: &str, arguments: &[&str], address: &str) -> Server {
        let log = self.dir(&format!("{program}.log"));
        let out = File::create(&log).unwrap();
        let mut command = self.command(program, arguments, self.host.dir());
        command.stdout(out.try_clone().unwrap()).stderr(out);
        // git-ssb-web 2 ends with an error when a page is asked for before it knows who its user is.
        let asked = self.asked_who_it_is();
        let child = Server(self.host.enter(|| command.spawn()).unwrap());
        if program == GIT_SSB_WEB {
            wait::until("git-ssb-web to ask who its user is", SOON, || {
                if self.asked_who_it_is() > asked { Ok(()) } else { Err(fs::read_to_string(&log).unwrap()) }
            });
        }
        let url = format!("http://{address}/");
        wait::until(program, SOON, || {
            let page = self.run("curl", &["-s", &url], self.host.dir());
            if page.status.success() { Ok(()) } else { Err(fs::read_to_string(&log).unwrap()) }
        });
        child
    }

    /// Calls of `whoami` that the node has answered.
    fn asked_who_it_is(&self) -> f64 {
        self.node.metrics().unwrap().sum("calls_total", &[("method", "whoami"), ("outcome", "ok")])
    }

    /// The page at `path`.
    fn page(&self, address: &str, path: &str) -> String {
        let output = self.run("curl", &["-s", "-S", &format!("http://{address}/{path}")], self.host.dir());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until the page at `path` has all of `parts`: these servers learn of what is new by live streams.
    fn wait_page(&self, address: &str, path: &str, parts: &[&str]) {
        wait::until(&format!("{address}/{path} has {parts:?}"), SOON, || {
            let page = self.page(address, path);
            if parts.iter().all(|part| page.contains(part)) { Ok(()) } else { Err(page) }
        });
    }

    /// Sends a form, and gives where the answer leads, decoded.
    fn send_form(&self, address: &str, path: &str, fields: &[(&str, &str)]) -> String {
        let url = format!("http://{address}/{path}");
        let mut arguments = vec!["-s", "-S", "-o", "/dev/null", "-w", "%{redirect_url}"];
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        for field in &fields {
            arguments.extend(["--data-urlencode", field]);
        }
        arguments.push(&url);
        let output = self.run("curl", &arguments, self.host.dir());
        let to = String::from_utf8(output.stdout).unwrap();
        let to =
            to.strip_prefix(&format!("http://{address}/")).unwrap_or_else(|| panic!("no redirect: {to}"));
        to.replace("%25", "%").replace("%2F", "/").replace("%2B", "+").replace("%3D", "=")
    }
}

/// An id as a part of a path.
fn encoded(id: &str) -> String {
    let escaped = [('%', "%25"), ('@', "%40"), ('/', "%2F"), ('+', "%2B"), ('=', "%3D")];
    escaped.iter().fold(id.to_owned(), |id, (character, escape)| id.replace(*character, escape))
}

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// What does not compress into a few packets.
fn large() -> String {
    (0..60_000).map(|n: u32| format!("{:x}\n", n.wrapping_mul(2_654_435_761))).collect()
}

/// A repository with two commits, pushed to a new git-ssb repository; its folder and its id. Pushed once: after a later
/// push, when all is done, git-remote-ssb 2.0.4 may end with an error, on ssb-server just as here.
fn pushed(home: &Home) -> (PathBuf, String) {
    let repository = home.dir("demo");
    fs::create_dir(&repository).unwrap();
    home.git(&["init", "-q", "-b", "master"], &repository);
    home.commit(&repository, "large", &large());
    home.commit(&repository, "README.md", "# A **demo**\n");
    let created = home.git(&["ssb", "create", "ssb", "demo"], &repository);
    let id =
        created.split("ssb://").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap().to_owned();
    home.git(&["push", "-q", "ssb", "master"], &repository);
    (repository, id)
}

#[test]
fn a_repository_is_pushed_and_cloned_by_its_owner_and_by_a_friend() {
    lab::run(|lab| {
        let [host, host_of_friend] = lab.segment(["desk", "friend"]);
        let (home, friend) = (Home::on(host), Home::on(host_of_friend));
        home.node.follow(friend.node.id());
        friend.node.follow(home.node.id());
        friend.node.ok(&["connect", &home.node.net_address()]);

        let (repository, id) = pushed(&home);
        let url = format!("ssb://{id}");
        let clone = home.dir("clone");
        home.git(&["clone", "-q", &url, clone.to_str().unwrap()], home.host.dir());
        assert_eq!(fs::read_to_string(clone.join("README.md")).unwrap(), "# A **demo**\n");
        assert_eq!(fs::read_to_string(clone.join("large")).unwrap(), large());

        // What the friend's node has not got of it comes from ours: the messages by EBT, the packs as blobs.
        let newest = home.node.sequence_of(home.node.id());
        friend.node.wait_clock(&[(home.node.id().to_owned(), newest)], SOON);
        let theirs = friend.dir("theirs");
        friend.git(&["clone", "-q", &url, theirs.to_str().unwrap()], friend.host.dir());
        let head = |home: &Home, dir: &Path| home.git(&["rev-parse", "HEAD"], dir);
        assert_eq!(head(&friend, &theirs), head(&home, &repository));
        assert_eq!(fs::read_to_string(theirs.join("large")).unwrap(), large());
    });
}

#[test]
fn an_issue_is_written_and_answered_by_web_forms_and_read_in_two_web_clients() {
    lab::run(|lab| {
        let home = Home::on(lab.host("desk"));
        let node = &home.node;
        node.publish(&json!({ "type": "about", "about": node.id(), "name": "Ann" }));
        let (_, repository) = pushed(&home);
        let _web = home.serve(GIT_SSB_WEB, &["web", GIT_WEB], GIT_WEB);
        home.wait_page(
            GIT_WEB,
            &encoded(&repository),
            &["README.md", "add README.md", "<strong>demo</strong>", "Ann"],
        );

        let text = "It *leaks* & creaks";
        let issue = home.send_form(
            GIT_WEB,
            &format!("{}/issues/new", encoded(&repository)),
            &[("action", "new-issue"), ("text", text)],
        );
        home.wait_page(GIT_WEB, &encoded(&issue), &["<em>leaks</em> &amp; creaks", "Ann"]);
        let comment = [
            ("action", "comment"),
            ("id", issue.as_str()),
            ("issue", issue.as_str()),
            ("repo", repository.as_str()),
            ("branch", issue.as_str()),
            ("text", "Then **pump**"),
        ];
        home.send_form(GIT_WEB, &encoded(&issue), &comment);
        home.wait_page(GIT_WEB, &encoded(&issue), &["<strong>pump</strong>"]);
        home.wait_page(GIT_WEB, &format!("{}/issues", encoded(&repository)), &["leaks"]);
        home.send_form(
            GIT_WEB,
            &encoded(&issue),
            &[("action", "vote"), ("id", issue.as_str()), ("value", "1")],
        );

        // What the forms published is what any client reads.
        let thread = node.ok(&["thread", &issue, "--text"]);
        assert!(thread.contains("    Then **pump**\n"), "{thread}");
        let _viewer = home.serve("ssb-viewer", &[], VIEWER);
        home.wait_page(VIEWER, &encoded(&issue), &["<strong>pump</strong>", "Ann"]);
        home.wait_page(VIEWER, &encoded(node.id()), &["<strong>pump</strong>"]);
    });
}
