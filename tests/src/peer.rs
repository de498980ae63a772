//! Our own node as a test's subject: the `hawsepipe` binary on a host of the lab, asked and commanded
//! through the same command line that a user has.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime};

use hawsepipe_overlay::keys::PublicKey;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::control::Control;
use crate::lab::Host;
use crate::metrics::Metrics;
use crate::wait::{self, Deadline, SOON};

/// Where a node listens for classic peers unless it is told otherwise.
pub const PORT: u16 = 8008;

/// How long a node whose folder was restored may ask its peers.
const UNTIL_FREE: Duration = Duration::from_secs(120);

/// How much of a node's log a failed test shows.
const LOG_TAIL: usize = 6_000;

/// Lines of a stream that may wait for the test to read them; then the node feels back-pressure.
const LINES_AHEAD: usize = 1_000;

/// The built binary. Tests run what `cargo build` made last, so a stale one is refused.
///
/// # Panics
/// When the binary is missing or older than a file that it was built from.
pub fn binary() -> PathBuf {
    built("hawsepipe")
}

/// A built example of the node's crate.
///
/// # Panics
/// When it is missing or older than a file that it was built from.
pub fn example(name: &str) -> PathBuf {
    built(&format!("examples/{name}"))
}

fn built(name: &str) -> PathBuf {
    let test = env::current_exe().expect("the test knows its own path");
    let deps_or_profile = test.parent().expect("a program lies in a folder");
    let profile = if deps_or_profile.ends_with("deps") {
        deps_or_profile.parent().expect("`deps` lies in a profile's folder")
    } else {
        deps_or_profile
    };
    let program = profile.join(name);
    let built = modified(&program);
    let advice = "run tests/run, or `cargo build --workspace --bins --examples` before the tests";
    let built = built.unwrap_or_else(|| panic!("{} is missing: {advice}", program.display()));
    let inputs = fs::read_to_string(program.with_extension("d")).unwrap_or_default();
    for input in inputs.split_whitespace().skip(1) {
        let newer = modified(Path::new(input)).is_some_and(|changed| changed > built);
        assert!(!newer, "{} is older than {input}: {advice}", program.display());
    }
    program
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// What a node is to be before it is started.
#[derive(Debug, Clone)]
pub struct Setup {
    host: Host,
    dir: PathBuf,
    settings: Vec<(String, String)>,
}

impl Setup {
    /// A node on `host` with its data in a folder of its own there, and otherwise the defaults.
    pub fn on(host: &Host) -> Self {
        Self { host: host.clone(), dir: host.dir().join("hawsepipe"), settings: Vec::new() }
    }

    /// Puts the data into `dir`.
    pub fn path(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = dir.into();
        self
    }

    /// Sets one config key, as `--set` does.
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.settings.push((key.to_owned(), value.into().to_string()));
        self
    }

    /// Switches off everything that finds or dials peers by itself.
    pub fn solitary(self) -> Self {
        self.set("local", false).set("overlay.enabled", false).set("conn.autostart", false)
    }

    /// The host that it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The folder of the node's data.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The command line up to and without the command.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command.arg("--path").arg(&self.dir);
        for (key, value) in &self.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        // Only what this test says configures the node, not what the caller's shell says.
        command.env_clear().env("HOME", self.host.dir()).env("RUST_BACKTRACE", "1");
        // What whoever seeks a fault wants to be told.
        command.envs(env::var_os("RUST_LOG").map(|level| ("RUST_LOG", level)));
        command
    }

    /// Runs one command of the binary to its end, on the host.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::null());
        self.host.enter(|| command.output()).expect("the binary can be started")
    }

    /// Starts the node and waits until it says that it is ready.
    ///
    /// # Panics
    /// When it ends or stays silent instead.
    pub fn start(self) -> Peer {
        self.start_with(&[])
    }

    /// As [`Setup::start`], with further options of `hawsepipe start`.
    ///
    /// # Panics
    /// When it ends or stays silent instead.
    pub fn start_with(self, options: &[&str]) -> Peer {
        fs::create_dir_all(self.host.dir()).expect("the lab's folder is writable");
        let log = self.host.dir().join("hawsepipe.log");
        let errors =
            File::options().append(true).create(true).open(&log).expect("the lab's folder is writable");
        let mut command = self.command();
        command.arg("start").args(options).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut child = self.host.enter(|| command.spawn()).expect("the binary can be started");
        let lines = Lines::of(child.stdout.take().expect("standard output is piped"));
        let mut peer = Peer { setup: self, child, log, announced: Announced::default() };
        peer.announced = Announced::read(&lines).unwrap_or_else(|e| panic!("the node did not start: {e}"));
        peer
    }
}

/// What a node says about itself when it has started.
#[derive(Debug, Clone, Default)]
struct Announced {
    id: String,
    addresses: Vec<String>,
    metrics: Option<SocketAddr>,
    blobs: Option<SocketAddr>,
}

impl Announced {
    fn read(lines: &Lines) -> Result<Self, String> {
        let mut announced = Self::default();
        let deadline = Deadline::after(SOON);
        loop {
            let line = lines.next(deadline)?;
            match line.split_once(": ") {
                Some(("id", id)) => announced.id = id.to_owned(),
                Some(("listening", address)) => announced.addresses.push(address.to_owned()),
                Some(("metrics", url)) => announced.metrics = Some(http_address(url, "/metrics")?),
                Some(("blobs", url)) => announced.blobs = Some(http_address(url, "/blobs/get/")?),
                _ if line == "ready" => return Ok(announced),
                _ => {}
            }
        }
    }
}

fn http_address(url: &str, path: &str) -> Result<SocketAddr, String> {
    let address = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix(path));
    address.and_then(|address| address.parse().ok()).ok_or_else(|| format!("no address: {url}"))
}

/// A running node.
#[derive(Debug)]
pub struct Peer {
    setup: Setup,
    child: Child,
    log: PathBuf,
    announced: Announced,
}

impl Peer {
    /// The feed id, `@….ed25519`.
    pub fn id(&self) -> &str {
        &self.announced.id
    }

    /// Every address at which it listens.
    pub fn addresses(&self) -> &[String] {
        &self.announced.addresses
    }

    /// The classic address under which other hosts reach it.
    pub fn net_address(&self) -> String {
        let key = self.id().trim_start_matches('@').trim_end_matches(".ed25519");
        format!("net:{}~shs:{key}", self.net_socket())
    }

    /// Where its classic listener is for other hosts.
    pub fn net_socket(&self) -> SocketAddr {
        SocketAddr::from((self.setup.host.v4(), PORT))
    }

    /// Its key as the overlay has it.
    pub fn key(&self) -> PublicKey {
        self.id().parse().expect("the node printed a feed id")
    }

    /// The setup it was started with, to run further commands or to start it again.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The process id, for signals and measurements.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// A session with it that stays open.
    pub fn control(&self) -> Control {
        Control::open(&self.setup.dir)
    }

    /// Runs a command that must succeed and gives its standard output.
    ///
    /// # Panics
    /// When the command fails.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.setup.run(arguments);
        assert!(
            output.status.success(),
            "hawsepipe {} failed with {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("the command line prints UTF-8")
    }

    /// Calls a method of the API: the items of its answer, one for a plain call.
    pub fn call(&self, method: &str, arguments: &[Value]) -> Vec<Value> {
        let mut words = vec!["call".to_owned(), method.to_owned()];
        words.extend(arguments.iter().map(Value::to_string));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // A text result is printed bare.
        self.ok(&words).lines().map(|line| serde_json::from_str(line).unwrap_or(Value::from(line))).collect()
    }

    /// Publishes `content` and gives the new message's id.
    pub fn publish(&self, content: &Value) -> String {
        let printed = self.ok(&["publish", &content.to_string()]);
        let message: Value = serde_json::from_str(&printed).expect("publish prints the message as JSON");
        message["key"].as_str().expect("the message has a key").to_owned()
    }

    /// Whether it publishes now, and if not, why: what `status` says of it.
    pub fn publishing(&self) -> Value {
        let status = self.call("status", &[]);
        status.first().map_or(Value::Null, |status| status["publishing"].clone())
    }

    /// Waits until it publishes, after a restored folder. With one peer it listens for a while after the last news.
    pub fn wait_free(&self) {
        wait::until("publishing is free", UNTIL_FREE, || {
            let publishing = self.publishing();
            if publishing["allowed"] == true { Ok(()) } else { Err(publishing.to_string()) }
        });
    }

    /// Publishes a follow of `id`.
    pub fn follow(&self, id: &str) {
        self.ok(&["follow", id]);
    }

    /// Publishes a block of `id`.
    pub fn block(&self, id: &str) {
        self.ok(&["block", id]);
    }

    /// How many messages of `feed` it has.
    pub fn sequence_of(&self, feed: &str) -> u64 {
        let clock = self.call("getVectorClock", &[]);
        clock.first().and_then(|clock| clock[feed].as_u64()).unwrap_or(0)
    }

    /// The ids of all messages it has, sorted.
    pub fn ids(&self) -> Vec<String> {
        let options = serde_json::json!({ "keys": true, "values": false });
        let items = self.call("createLogStream", &[options]);
        let mut ids: Vec<String> = items.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect();
        assert_eq!(ids.len(), items.len(), "with values:false a stream has message ids only");
        ids.sort();
        ids
    }

    /// The ids of the peers it has a session with, sorted.
    pub fn connected(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.peers().into_iter().map(|peer| peer.key).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// The peers it has a session with, as `hawsepipe peers` shows them.
    pub fn peers(&self) -> Vec<Connected> {
        let lines = self.ok(&["peers", "--connected"]);
        let read = |line: &str| {
            let peer: Value = serde_json::from_str(line).expect("peers are printed as JSON");
            let text = |name: &str| peer["data"][name].as_str().unwrap_or_default().to_owned();
            Connected { key: text("key"), carrier: text("carrier"), direction: text("direction") }
        };
        lines.lines().map(read).collect()
    }

    /// Starts a command that goes on, and gives the lines that it prints as they come.
    pub fn follow_output(&self, arguments: &[&str]) -> Printing {
        let mut command = self.setup.command();
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = self.setup.host.enter(|| command.spawn()).expect("the binary can be started");
        let lines = Lines::of(child.stdout.take().expect("standard output is piped"));
        Printing { child, lines }
    }

    /// One scrape of its metrics.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn metrics(&self) -> Result<Metrics, String> {
        let address = self.announced.metrics.expect("the node announced where its metrics are");
        self.setup.host.enter(|| Metrics::scrape(address))
    }

    /// Where it serves blobs by HTTP, for its own host.
    pub fn blobs_http(&self) -> SocketAddr {
        self.announced.blobs.expect("the node announced where its blobs are")
    }

    /// Waits until the sum of a metric (see [`Metrics::sum`]) is at least `least`.
    pub fn wait_metric(&self, name: &str, labels: &[(&str, &str)], least: f64) {
        let what = format!("{} on {}: {name}{labels:?} >= {least}", self.setup.host.name(), self.id());
        wait::until(&what, SOON, || {
            let metrics = self.metrics()?;
            if metrics.sum(name, labels) >= least { Ok(()) } else { Err(format!("\n{metrics}")) }
        });
    }

    /// Waits until it has every message that `clock` promises, and gives how long that took.
    pub fn wait_clock(&self, clock: &[(String, u64)], within: Duration) {
        let what = format!("{} to have {} feeds", self.setup.host.name(), clock.len());
        wait::until(&what, within, || {
            let own = self.call("getVectorClock", &[]);
            let own = own.first().ok_or("no clock")?;
            let missing = clock.iter().filter(|(id, n)| own[id.as_str()].as_u64().unwrap_or(0) < *n).count();
            if missing == 0 { Ok(()) } else { Err(format!("{missing} feeds are behind")) }
        });
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to stop, as an init system does, and waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        wait::until("the node to stop after SIGTERM", SOON, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("still running".to_owned()),
            Err(e) => Err(e.to_string()),
        })
    }

    /// Ends it at once, as a power cut does.
    pub fn kill(mut self) -> Setup {
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("our own child can be waited for");
        self.setup.clone()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let process = i32::try_from(self.child.id()).expect("process ids are small");
        kill(Pid::from_raw(process), signal).expect("our own child takes signals");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
        show_log_of_failure(&self.log);
    }
}

/// Shows the end of a process's log if the test is failing.
pub(crate) fn show_log_of_failure(file: &Path) {
    if !thread::panicking() {
        return;
    }
    let log = fs::read(file).unwrap_or_default();
    let log = String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL)..]);
    #[expect(clippy::print_stderr, reason = "a failed test shows what its peers said")]
    {
        eprintln!("--- {} ---\n{log}", file.display());
    }
}

/// A peer with a session, as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// Its feed id.
    pub key: String,
    /// What carries the session.
    pub carrier: String,
    /// Who dialled.
    pub direction: String,
}

/// A command that is still printing. Dropping it ends it.
#[derive(Debug)]
pub struct Printing {
    child: Child,
    lines: Lines,
}

impl Printing {
    /// The next line.
    ///
    /// # Panics
    /// When none comes in time.
    pub fn next_line(&self) -> String {
        self.lines.next(Deadline::after(SOON)).unwrap_or_else(|e| panic!("no further line: {e}"))
    }

    /// The first line, from here on, that is JSON for which `wanted` holds.
    pub fn next_where(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.next_line();
            let Ok(value) = serde_json::from_str(&line) else { continue };
            if wanted(&value) {
                return value;
            }
        }
    }
}

impl Drop for Printing {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The lines of a pipe, read by a thread so that reading them can have a deadline.
#[derive(Debug)]
pub struct Lines(Receiver<String>);

impl Lines {
    /// Takes over `pipe`.
    pub fn of(pipe: ChildStdout) -> Self {
        let (sender, receiver) = sync_channel(LINES_AHEAD);
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            for line in pipe.by_ref().lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
            // Nobody listens any more: read on, or the process would die of a closed pipe.
            std::io::copy(&mut pipe, &mut std::io::sink()).ok();
        });
        Self(receiver)
    }

    /// The next line by `deadline`.
    ///
    /// # Errors
    /// That there is none by then, or that the pipe ended.
    pub fn next(&self, deadline: Deadline) -> Result<String, String> {
        self.0.recv_timeout(deadline.left().unwrap_or_default()).map_err(|e| match e {
            RecvTimeoutError::Timeout => "it says nothing".to_owned(),
            RecvTimeoutError::Disconnected => "it ended".to_owned(),
        })
    }
}
