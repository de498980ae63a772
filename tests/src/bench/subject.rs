//! A peer that is measured, of whichever kind, and the folder that it starts from.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hawsepipe::identity::load_or_create_secret;
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_tests::control::Control;
use hawsepipe_tests::js::{Foreign, Options, Stack};
use hawsepipe_tests::peer::{PORT, Peer, Setup};
use hawsepipe_tests::wait::{self, Deadline};
use serde_json::{Value, json};
use ssb_crypto::Keypair;

use super::{Bench, say};

/// What is waited for at most: a JavaScript peer that indexes everything on a busy machine.
pub(super) const LONG: Duration = Duration::from_secs(900);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ours,
    Classic,
    Db2,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Ours, Self::Classic, Self::Db2];

    pub(super) fn read(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| format!("there is no kind of peer called {name}"))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Classic => "classic",
            Self::Db2 => "db2",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Ours => "Hawsepipe",
            Self::Classic => "ssb-server 16",
            Self::Db2 => "ssb-db2 stack",
        }
    }
}

/// Which of two peers on one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Source,
    Sink,
}

impl Role {
    fn port(self) -> u16 {
        match self {
            Self::Source => PORT,
            Self::Sink => PORT + 1,
        }
    }
}

/// A running peer and a session of its owner with it.
pub(super) struct Subject {
    inner: Inner,
    pub(super) control: Control,
    role: Role,
}

enum Inner {
    Ours(Box<Peer>),
    Foreign(Box<Foreign>),
}

impl Subject {
    /// Starts it on `dir` and waits until it answers.
    pub(super) fn start(bench: &Bench, kind: Kind, role: Role, dir: &Path) -> Self {
        Self::start_with(bench, kind, role, dir, false)
    }

    /// As [`start`](Self::start), with the plugins that clients ask.
    pub(super) fn start_with_plugins(bench: &Bench, kind: Kind, dir: &Path) -> Self {
        let mut subject = Self::start_with(bench, kind, Role::Source, dir, true);
        subject.wait_indexed();
        subject.wait_searchable();
        subject
    }

    /// Our node, which takes so many sessions and knows a member.
    pub(super) fn start_for_many(bench: &Bench, member: &str, sessions: usize) -> Self {
        let dir = bench.source(Kind::Ours);
        let setup = setup(bench, Role::Source, &dir).set("access.sessions", sessions);
        let peer = setup.set("access.members", json!([member])).start();
        Self::with(bench, Inner::Ours(Box::new(peer)), Role::Source, &dir)
    }

    fn start_with(bench: &Bench, kind: Kind, role: Role, dir: &Path, plugins: bool) -> Self {
        let inner = match kind {
            Kind::Ours => Inner::Ours(Box::new(setup(bench, role, dir).start())),
            Kind::Classic => Inner::Foreign(Box::new(foreign(bench, Stack::Classic, role, dir, plugins))),
            Kind::Db2 => Inner::Foreign(Box::new(foreign(bench, Stack::Manyverse, role, dir, plugins))),
        };
        Self::with(bench, inner, role, dir)
    }

    fn with(bench: &Bench, inner: Inner, role: Role, dir: &Path) -> Self {
        let control = match &inner {
            Inner::Ours(_) => Control::open(dir),
            Inner::Foreign(_) => {
                // JavaScript's own owner: only ssb-server has a socket file.
                let owner = load_or_create_secret(dir).expect("a started peer has an identity");
                let key = PublicKey::from_bytes(owner.public.0);
                dial(bench, role, key, &owner)
            }
        };
        let answer = control.call_within(LONG, "whoami", Vec::new());
        answer.unwrap_or_else(|e| panic!("{} does not answer: {e}", dir.display()));
        Self { inner, control, role }
    }

    /// Its feed id.
    pub(super) fn id(&self) -> &str {
        match &self.inner {
            Inner::Ours(peer) => peer.id(),
            Inner::Foreign(peer) => peer.id(),
        }
    }

    pub(super) fn process(&self) -> u32 {
        match &self.inner {
            Inner::Ours(peer) => peer.process(),
            Inner::Foreign(peer) => peer.process(),
        }
    }

    /// The address at which the other peer on the host reaches it.
    pub(super) fn address(&self) -> String {
        let key = self.id().trim_start_matches('@').trim_end_matches(".ed25519");
        format!("net:{}~shs:{key}", socket(self.role))
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> SocketAddr {
        socket(self.role)
    }

    /// A session by TCP of somebody whom it does not know.
    pub(super) fn stranger(&self, bench: &Bench) -> Control {
        let key = self.id().parse().expect("a peer has a feed id");
        dial(bench, self.role, key, &Keypair::generate())
    }

    /// A session by TCP of its owner.
    pub(super) fn owner(&self, bench: &Bench) -> Control {
        let owner = load_or_create_secret(&self.dir()).expect("a started peer has an identity");
        dial(bench, self.role, PublicKey::from_bytes(owner.public.0), &owner)
    }

    pub(super) fn dir(&self) -> PathBuf {
        match &self.inner {
            Inner::Ours(peer) => peer.setup().dir().to_owned(),
            Inner::Foreign(peer) => peer.dir(),
        }
    }

    pub(super) fn follow<'a>(&mut self, ids: impl Iterator<Item = &'a str>) {
        match &mut self.inner {
            Inner::Ours(_) => ids.for_each(|id| {
                let done = self.control.call("friends.follow", vec![json!(id)]);
                done.unwrap_or_else(|e| panic!("{e}"));
            }),
            Inner::Foreign(peer) => peer.follow(ids),
        }
    }

    pub(super) fn connect(&mut self, to: &Self) {
        let address = to.address();
        match &mut self.inner {
            Inner::Ours(_) => {
                let done = self.control.call("conn.connect", vec![json!(address)]);
                done.unwrap_or_else(|e| panic!("{e}"));
            }
            Inner::Foreign(peer) => peer.connect(&address),
        }
    }

    /// Waits until it has what `clock` promises.
    pub(super) fn wait_for(&mut self, clock: &[(String, u64)]) {
        match &mut self.inner {
            // One question at a time, so that asking costs the node next to nothing.
            Inner::Ours(_) => clock.iter().for_each(|(feed, count)| {
                let reached = || {
                    let has = self.control.call("latestSequence", vec![json!(feed)]);
                    has.is_ok_and(|has| has.as_u64() >= Some(*count)).then_some(())
                };
                wait::closely(Deadline::after(LONG), reached).unwrap_or_else(|| panic!("{feed} never came"));
            }),
            Inner::Foreign(peer) => peer.wait_clock(clock, LONG),
        }
    }

    /// Waits until everything that it has can be found.
    pub(super) fn wait_indexed(&mut self) {
        // Ours shows nothing before it is indexed.
        if let Inner::Foreign(peer) = &mut self.inner {
            peer.ask("indexed", &[], LONG).unwrap_or_else(|e| panic!("{e}"));
        }
    }

    /// Waits until all words that it has can be searched for, where it does so by itself.
    pub(super) fn wait_searchable(&self) {
        let Inner::Ours(_) = self.inner else { return };
        let level = wait::closely(Deadline::after(LONG), || {
            let progress = self.control.call("progress", Vec::new()).ok()?;
            (progress["search"]["current"] == progress["search"]["target"]).then_some(())
        });
        level.expect("the search index reaches the log's end");
    }

    pub(super) fn stop(self) {
        drop(self.control);
        match self.inner {
            Inner::Ours(peer) => drop(peer.stop()),
            Inner::Foreign(peer) => peer.stop(),
        }
    }
}

/// Where the source, if it is ours, says what it counts.
pub(super) fn socket_of_metrics() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, metrics_port(Role::Source)))
}

fn metrics_port(role: Role) -> u16 {
    role.port() + 1000
}

fn socket(role: Role) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, role.port()))
}

fn setup(bench: &Bench, role: Role, dir: &Path) -> Setup {
    let port = role.port();
    let metrics = format!("127.0.0.1:{}", metrics_port(role));
    let setup = Setup::on(&bench.host).solitary().path(dir).set("port", port).set("metrics.listen", metrics);
    // Folders are copied here, so the guard would wait for peers.
    let setup = setup.set("forkGuard.dangerPublishAnyway", true);
    // All strangers come from this host.
    setup.set("access.perAddress", u16::MAX)
}

fn foreign(bench: &Bench, stack: Stack, role: Role, dir: &Path, plugins: bool) -> Foreign {
    let options = Options { port: role.port(), plugins, ..Options::default() };
    Foreign::start_at(&bench.host, stack, &options, dir)
}

fn dial(bench: &Bench, role: Role, server: PublicKey, keypair: &Keypair) -> Control {
    let dialled = wait::closely(Deadline::after(LONG), || {
        Control::dial(&bench.host, socket(role), server, keypair).ok()
    });
    // Some take none before their indexes are there.
    dialled.expect("a peer that is ready takes sessions")
}

/// Makes the folder of a source: the corpus, and an identity that follows its friends.
pub(super) fn prepare(bench: &Bench, kind: Kind) {
    let kept = bench.corpus.dir().join(kind.name());
    let whole = kept.join("whole");
    if !whole.exists() {
        say(format_args!("preparing {}", kept.display()));
        fs::remove_dir_all(&kept).ok();
        fill(bench, kind, &kept);
        fs::write(whole, "").expect("the cache is writable");
    }
    copy(&kept, &bench.source(kind));
}

fn fill(bench: &Bench, kind: Kind, dir: &Path) {
    fs::create_dir_all(dir).expect("the cache is writable");
    if kind == Kind::Ours {
        bench.corpus.store_into(dir);
    }
    let mut subject = Subject::start(bench, kind, Role::Source, dir);
    if let Inner::Foreign(peer) = &mut subject.inner {
        let file = Value::from(bench.corpus.lines().to_string_lossy());
        peer.ask("import", &[file], LONG).unwrap_or_else(|e| panic!("{e}"));
    }
    let friends: Vec<&str> = bench.corpus.friends.iter().map(String::as_str).collect();
    subject.follow(friends.into_iter());
    subject.wait_indexed();
    subject.wait_searchable();
    subject.stop();
}

/// Copies a folder.
pub(super) fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "cannot copy {}", from.display());
}
