//! Peers by other people: `ssb-server` 16 and the stack Manyverse is built from, on a host of the lab.
//!
//! Each is a node process under `tests/js` that is driven by lines of JSON (`tests/js/control.js`) and
//! ends with its standard input, so also when the test ends.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::Host;
use crate::peer::{Lines, show_log_of_failure};
use crate::wait::{Deadline, SOON};
use crate::{MAIN_NETWORK, package_dir};

/// How long one command may take that is not a sync.
const COMMAND: Duration = Duration::from_secs(120);

/// Which foreign peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// `ssb-server` 16: ssb-db (flume), ssb-ebt 5, ssb-gossip, ssb-local.
    Classic,
    /// What Manyverse is built from: ssb-db2, ssb-ebt 9, ssb-conn, ssb-lan.
    Manyverse,
}

impl Stack {
    /// Its folder under `tests/js`.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Manyverse => "manyverse",
        }
    }
}

/// A running foreign peer.
#[derive(Debug)]
pub struct Foreign {
    dir: PathBuf,
    log: PathBuf,
    child: Child,
    requests: Option<ChildStdin>,
    answers: Lines,
    asked: u64,
    id: String,
    address: String,
}

/// What a foreign peer is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// TCP port.
    pub port: u16,
    /// How far from itself it replicates.
    pub hops: u32,
    /// Whether it sends and hears beacons, and dials what it hears.
    pub lan: bool,
    /// Whether it knows EBT; without it [`Stack::Classic`] replicates by history streams.
    pub ebt: bool,
    /// Whether [`Stack::Classic`] has the plugins that users add for their clients: backlinks, search, names, threads, ….
    pub plugins: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { port: 8008, hops: 2, lan: false, ebt: true, plugins: false }
    }
}

/// The path of a program or module that npm installed.
///
/// # Panics
/// When it is not installed.
pub fn installed(folder: &str, path: &str) -> PathBuf {
    let path = package_dir().join("js").join(folder).join("node_modules").join(path);
    assert!(path.exists(), "{} is missing: run tests/run, or `npm ci` in tests/js/{folder}", path.display());
    path
}

impl Foreign {
    /// Starts a peer on `host` with a folder of its own there.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(host: &Host, stack: Stack, options: &Options) -> Self {
        Self::start_at(host, stack, options, &host.dir().join(stack.folder()))
    }

    /// Starts a peer on `host` with its data in `dir`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_at(host: &Host, stack: Stack, options: &Options, dir: &Path) -> Self {
        let folder = stack.folder();
        installed(folder, "");
        let dir = dir.to_owned();
        fs::create_dir_all(&dir).expect("the lab's folder is writable");
        let log = host.dir().join(format!("{folder}.log"));
        let errors =
            File::options().append(true).create(true).open(&log).expect("the lab's folder is writable");
        let settings = json!({
            "path": dir, "host": host.v4(), "port": options.port, "shs": MAIN_NETWORK,
            "hops": options.hops, "lan": options.lan, "ebt": options.ebt, "plugins": options.plugins,
        });
        let mut command = Command::new("node");
        command.arg(package_dir().join("js").join(folder).join("peer.js")).arg(settings.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).env("HOME", host.dir());
        let mut child = host
            .enter(|| command.spawn())
            .unwrap_or_else(|e| panic!("cannot start `node` ({e}): install nodejs 20 or newer"));
        let answers = Lines::of(child.stdout.take().expect("standard output is piped"));
        let requests = child.stdin.take();
        let mut peer =
            Self { dir, log, child, requests, answers, asked: 0, id: String::new(), address: String::new() };
        let ready = peer.answer(SOON).unwrap_or_else(|e| panic!("{stack:?} did not start: {e}"));
        peer.id = ready["ready"]["id"].as_str().expect("a peer has an id").to_owned();
        peer.address = ready["ready"]["address"].as_str().expect("a peer has an address").to_owned();
        peer
    }

    /// Its feed id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its multiserver address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The folder of its data.
    pub fn dir(&self) -> PathBuf {
        self.dir.clone()
    }

    /// The process id, for measurements.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// One command of `tests/js/control.js`, answered `within`.
    ///
    /// # Errors
    /// What the peer answered instead of a result.
    pub fn ask(&mut self, command: &str, arguments: &[Value], within: Duration) -> Result<Value, String> {
        self.asked += 1;
        let request = json!({ "id": self.asked, "do": command, "args": arguments });
        let pipe = self.requests.as_mut().expect("the pipe is open until the peer is dropped");
        writeln!(pipe, "{request}").map_err(|e| format!("{command}: {e}"))?;
        let answer = self.answer(within).map_err(|e| format!("{command}: {e}"))?;
        assert_eq!(answer["id"], self.asked, "answers come in the order of requests");
        match answer.get("error") {
            Some(error) => Err(format!("{command}: {error}")),
            None => Ok(answer["result"].clone()),
        }
    }

    /// A command that must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn ok(&mut self, command: &str, arguments: &[Value]) -> Value {
        self.ask(command, arguments, COMMAND).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Publishes `content` and gives the new message's id.
    pub fn publish(&mut self, content: &Value) -> String {
        let message = self.ok("publish", std::slice::from_ref(content));
        message["key"].as_str().expect("the message has a key").to_owned()
    }

    /// Publishes follows of `ids`.
    pub fn follow<'a>(&mut self, ids: impl IntoIterator<Item = &'a str>) {
        let ids: Vec<Value> = ids.into_iter().map(Value::from).collect();
        self.ok("follow", &[Value::from(ids)]);
    }

    /// Dials `address` and waits for the session.
    pub fn connect(&mut self, address: &str) {
        self.ok("connect", &[Value::from(address)]);
    }

    /// Adds all messages of a file with one `{key, value}` a line.
    pub fn import(&mut self, file: &Path) {
        self.ok("import", &[json!(file)]);
    }

    /// Waits until it has every message that `clock` promises.
    ///
    /// # Panics
    /// When it has not `within`.
    pub fn wait_clock(&mut self, clock: &[(String, u64)], within: Duration) {
        let clock: BTreeMap<&str, u64> = clock.iter().map(|(id, n)| (id.as_str(), *n)).collect();
        self.ask("waitFor", &[json!(clock)], within).unwrap_or_else(|e| panic!("{e}"));
    }

    /// The ids of all messages it has, sorted.
    pub fn ids(&mut self) -> Vec<String> {
        let ids = self.ok("ids", &[]);
        let mut ids: Vec<String> =
            ids.as_array().into_iter().flatten().filter_map(|id| id.as_str().map(str::to_owned)).collect();
        ids.sort();
        ids
    }

    /// The ids of the peers it has a session with.
    pub fn connected(&mut self) -> Vec<String> {
        let peers = self.ok("peers", &[]);
        peers.as_array().into_iter().flatten().filter_map(|id| id.as_str().map(str::to_owned)).collect()
    }

    /// Closes its database and ends it.
    pub fn stop(mut self) {
        self.ok("close", &[]);
    }

    /// How many messages of `feed` it has.
    pub fn sequence_of(&mut self, feed: &str) -> u64 {
        self.ok("clock", &[])[feed].as_u64().unwrap_or(0)
    }

    fn answer(&self, within: Duration) -> Result<Value, String> {
        let line = self.answers.next(Deadline::after(within))?;
        serde_json::from_str(&line).map_err(|e| format!("{e} in {line}"))
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        drop(self.requests.take());
        // Both fail only when it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
        show_log_of_failure(&self.log);
    }
}
