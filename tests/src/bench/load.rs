//! The rest of `bench conns`, of our node alone: many strangers at once from many addresses. What a session holds of memory,
//! idle and replicating; how much of the handshakes' time is the secret handshake itself; whether a member notices a flood of
//! them; what a scrape costs meanwhile.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use hawsepipe::open_files::raise_limit;
use hawsepipe_overlay::conn::{Connection, Session, Stream};
use hawsepipe_overlay::keys::{NetworkKey, PublicKey};
use hawsepipe_overlay::muxrpc::{Body, CallKind};
use hawsepipe_overlay::shs::{Ephemeral, client, server};
use hawsepipe_replication::ebt::{self, Item};
use hawsepipe_tests::control::{Control, shake_hands};
use hawsepipe_tests::metrics::http_get;
use hawsepipe_tests::usage::Usage;
use hawsepipe_tests::wait::{self, Deadline};
use serde_json::{Map, Value, json};
use ssb_crypto::Keypair;
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use super::figures::{Figures, Row};
use super::subject::{Kind, LONG, Subject, socket_of_metrics};
use super::{Bench, say};

/// Idle sessions for each that replicates.
const IDLE_EACH: usize = 10;
/// Threads that make the load.
const THREADS: usize = 2;
/// Handshakes under way at a time.
const AT_A_TIME: usize = 64;
/// Feeds in each clock.
const FEEDS: usize = 500;
/// Messages that are published to all who replicate.
const PUBLISHED: usize = 20;
/// How many are ever another one of the strangers who come and go: far more than are there at a time.
const STRANGERS: usize = 4096;
/// How long handshakes are counted.
const COUNTED: Duration = Duration::from_secs(5);
/// Handshakes that are tried alone, for what one core can do.
const ALONE: usize = 2000;
/// Handshakes that a flood begins in a second: about what one core can do, as the bench's own row for SHS alone has it.
const FLOOD: usize = 3600;
/// In how many steps a second, and how many may be under way.
const FLOOD_STEPS: usize = 900;
const FLOOD_UNDER_WAY: usize = 512;
/// So many have knocked before the flood is all refused: more than the node lets in at once.
const LET_IN: usize = 12_000;
/// Calls of the member, one after the other, of which the slowest hundredth counts.
const CALLS: usize = 3000;
const SCRAPES: usize = 100;
/// How often Prometheus scrapes.
const INTERVAL: f64 = 15.0;
/// A node that used less of a core than this in a second is at rest.
const REST: f64 = 0.03;

pub(super) fn measure(bench: &Bench, figures: &mut Figures) {
    // A quarter is kept for members.
    let most = bench.sessions * (IDLE_EACH + 1) * 2;
    raise_limit(most);
    let member = Keypair::generate();
    for _ in 0..bench.runs {
        let id = PublicKey::from_bytes(member.public.0).to_string();
        let subject = Subject::start_for_many(bench, &id, most);
        let crowd = Crowd::new(bench, &subject);
        // It still indexes what it holds.
        at_rest(&subject);
        crowd.accepted(&subject, figures);
        crowd.flooded(bench, &member, figures);
        crowd.replicating(bench, &subject, figures);
        subject.stop();
        // Memory that sessions have left behind is not to be used by those that are counted.
        let subject = Subject::start_for_many(bench, &id, most);
        Crowd::new(bench, &subject).idle(bench.sessions * IDLE_EACH, &subject, figures);
        subject.stop();
    }
}

/// Strangers, and the threads that drive them.
struct Crowd {
    runtime: Runtime,
    door: Door,
}

/// Where they come to.
#[derive(Clone, Copy)]
struct Door {
    server: PublicKey,
    at: SocketAddr,
}

impl Door {
    /// One of them connects, from an address that it shares with nobody unless it has the same number.
    async fn enter(self, number: usize) -> Result<Connection, String> {
        self.enter_as(number, &Keypair::generate()).await
    }

    async fn enter_as(self, number: usize, who: &Keypair) -> Result<Connection, String> {
        let from = Ipv4Addr::from_bits(0x7f01_0000 + u32::try_from(number).unwrap_or(0));
        let socket = TcpSocket::new_v4().map_err(|e| e.to_string())?;
        socket.bind((from, 0).into()).map_err(|e| e.to_string())?;
        let stream = socket.connect(self.at).await.map_err(|e| e.to_string())?;
        shake_hands(stream, self.server, who).await
    }

    /// The same, as often as it takes.
    async fn insist(self, number: usize) -> Connection {
        loop {
            match self.enter(number).await {
                Ok(connection) => return connection,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }
}

/// Sessions that stand for as long as this is kept.
struct Standing {
    sessions: Vec<Session>,
    _drivers: JoinSet<()>,
}

impl Crowd {
    fn new(bench: &Bench, subject: &Subject) -> Self {
        let server = subject.id().parse().expect("a peer has a feed id");
        Self::at(bench, Door { server, at: subject.socket() }, || {})
    }

    /// The same strangers, from afar: what they compute is not to delay the node, nor the member whose calls are timed.
    fn distant(&self, bench: &Bench) -> Self {
        Self::at(bench, self.door, give_way)
    }

    fn at(bench: &Bench, door: Door, on_start: fn()) -> Self {
        // Threads are where the one was that made them.
        let made = || {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(THREADS).on_thread_start(on_start).enable_all().build()
        };
        Self { runtime: bench.host.enter(made).expect("a runtime can be made"), door }
    }

    fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.runtime.block_on(self.runtime.spawn(work)).unwrap_or_else(|e| panic!("{e}"))
    }

    fn gather(&self, count: usize) -> Standing {
        let door = self.door;
        self.run(async move {
            let mut drivers = JoinSet::new();
            let mut sessions = Vec::with_capacity(count);
            let coming = (0..count).map(|number| door.insist(number));
            let mut coming = stream::iter(coming).buffer_unordered(AT_A_TIME);
            while let Some(Connection { session, driver, calls }) = coming.next().await {
                drop(calls);
                drivers.spawn(async move {
                    driver.run().await;
                });
                sessions.push(session);
            }
            Standing { sessions, _drivers: drivers }
        })
    }

    /// What a session holds that nobody uses.
    fn idle(&self, count: usize, subject: &Subject, figures: &mut Figures) {
        drop(self.gather(AT_A_TIME));
        let before = at_rest(subject);
        let standing = self.gather(count);
        let each = kib_each(before, at_rest(subject), standing.sessions.len());
        figures.add(Row::IdleSession, Kind::Ours, each);
        say(format_args!("{count} idle sessions: {each:.1} KiB each"));
    }

    /// What a session holds over which five hundred feeds are replicated, and what a message costs that goes to all.
    fn replicating(&self, bench: &Bench, subject: &Subject, figures: &mut Figures) {
        let clock = clock(bench, subject);
        let before = at_rest(subject);
        let standing = self.gather(bench.sessions);
        let count = standing.sessions.len();
        let received = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&received);
        let sessions = standing.sessions.clone();
        let readers = self.run(async move {
            let mut readers = JoinSet::new();
            // One after the other, as peers come: what is needed for a moment is needed once.
            for session in sessions {
                let stream = replicate(&session, clock.clone()).await.unwrap_or_else(|e| panic!("{e}"));
                readers.spawn(read(stream, Arc::clone(&counting)));
            }
            readers
        });
        let standing_still = at_rest(subject);
        let each = kib_each(before, standing_still, count);
        figures.add(Row::EbtSession, Kind::Ours, each);
        let begun = wait::now();
        for n in 0..PUBLISHED {
            let post = json!({ "type": "post", "text": format!("to all of them, {n}") });
            subject.control.call("publish", vec![post]).unwrap_or_else(|e| panic!("{e}"));
        }
        let all = count * PUBLISHED;
        let came =
            wait::closely(Deadline::after(LONG), || (received.load(Ordering::Relaxed) >= all).then_some(()));
        came.expect("everybody is sent everything");
        let rate = all as f64 / (wait::now() - begun).as_secs_f64();
        let cpu = (Usage::of(subject.process()).cpu - standing_still.cpu) * 1e6 / all as f64;
        figures.add(Row::Delivered, Kind::Ours, rate);
        figures.add(Row::DeliveredCpu, Kind::Ours, cpu);
        say(format_args!(
            "{count} sessions with EBT: {each:.1} KiB each; {rate:.0} deliveries/s of {cpu:.1} us"
        ));
        scrape(bench, subject, figures);
        drop((readers, standing));
    }

    /// Strangers come and go.
    fn accepted(&self, subject: &Subject, figures: &mut Figures) {
        // Who they are does not cost the time in which they are counted.
        let strangers: Arc<[Keypair]> = (0..STRANGERS).map(|_| Keypair::generate()).collect();
        let (door, before, begun) = (self.door, Usage::of(subject.process()), wait::now());
        let count = self.run(async move {
            let coming = (0..).map(|number| {
                let strangers = Arc::clone(&strangers);
                async move { door.enter_as(number, &strangers[number % STRANGERS]).await }
            });
            let coming = stream::iter(coming).buffer_unordered(AT_A_TIME);
            let in_time = coming.take_while(|_| async move { wait::now() - begun < COUNTED });
            in_time.filter(|came| futures::future::ready(came.is_ok())).count().await
        });
        let rate = count as f64 / (wait::now() - begun).as_secs_f64();
        let per_cpu = count as f64 / (Usage::of(subject.process()).cpu - before.cpu).max(1e-3);
        let limit = shs_alone();
        figures.add(Row::Accepted, Kind::Ours, rate);
        figures.add(Row::AcceptedPerCpu, Kind::Ours, per_cpu);
        figures.add(Row::ShsAlone, Kind::Ours, limit);
        say(format_args!(
            "{rate:.0} sessions/s begun and ended, {per_cpu:.0} per CPU second; SHS alone {limit:.0}"
        ));
    }

    /// A member calls while strangers knock, from one address and from everywhere.
    fn flooded(&self, bench: &Bench, member: &Keypair, figures: &mut Figures) {
        let control = Control::dial(&bench.host, self.door.at, self.door.server, member);
        let control = control.unwrap_or_else(|e| panic!("{e}"));
        let idle = slowest_hundredth(&control);
        figures.add(Row::CallIdle, Kind::Ours, idle);
        let crowd = self.distant(bench);
        for (row, addresses, from) in
            [(Row::CallFloodOne, 1, "one address"), (Row::CallFloodAll, 60_000, "everywhere")]
        {
            let begun = wait::now();
            let mut flood = Flood::begin(&crowd, addresses);
            let slowest = slowest_hundredth(&control);
            let (tried, let_in) = flood.end(&crowd);
            let rate = tried as f64 / (wait::now() - begun).as_secs_f64();
            figures.add(row, Kind::Ours, slowest);
            say(format_args!(
                "a member's call, p99: {idle:.2} ms, {slowest:.2} ms while {rate:.0}/s come from {from} (let in: {let_in})"
            ));
        }
    }
}

/// Handshakes at a steady pace, whatever becomes of them.
struct Flood {
    tasks: JoinSet<()>,
    tried: Arc<AtomicUsize>,
    let_in: Arc<AtomicUsize>,
}

impl Flood {
    /// Begins one from so many addresses; what is let in at once has been let in when this returns.
    fn begin(crowd: &Crowd, addresses: usize) -> Self {
        let (tried, let_in) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counting, succeeded, door) = (Arc::clone(&tried), Arc::clone(&let_in), crowd.door);
        let mut tasks = JoinSet::new();
        let knocking = async move {
            let mut under_way = JoinSet::new();
            let mut step = tokio::time::interval(Duration::from_secs(1) / FLOOD_STEPS as u32);
            loop {
                step.tick().await;
                while under_way.try_join_next().is_some() {}
                let room = FLOOD_UNDER_WAY.saturating_sub(under_way.len());
                for _ in 0..room.min(FLOOD / FLOOD_STEPS) {
                    let number = counting.fetch_add(1, Ordering::Relaxed) % addresses;
                    under_way.spawn(knock(door, number, Arc::clone(&succeeded)));
                }
            }
        };
        tasks.spawn_on(knocking, crowd.runtime.handle());
        let here =
            wait::closely(Deadline::after(LONG), || (tried.load(Ordering::Relaxed) >= LET_IN).then_some(()));
        here.expect("a flood comes");
        Self { tasks, tried, let_in }
    }

    /// Ends it: how many were tried and let in.
    fn end(&mut self, crowd: &Crowd) -> (usize, usize) {
        crowd.runtime.block_on(self.tasks.shutdown());
        (self.tried.load(Ordering::Relaxed), self.let_in.load(Ordering::Relaxed))
    }
}

/// This thread runs when no other wants to, and stops at once when one does.
fn give_way() {
    let thread = fs::read_link("/proc/thread-self").expect("the system has /proc");
    let number = thread.file_name().expect("it names the thread");
    let given = Command::new("chrt").args(["--idle", "--pid", "0"]).arg(number).output();
    assert!(given.is_ok_and(|given| given.status.success()), "chrt is not there");
}

/// One handshake, counted if it succeeds.
async fn knock(door: Door, number: usize, succeeded: Arc<AtomicUsize>) {
    let came = door.enter(number).await.is_ok();
    succeeded.fetch_add(usize::from(came), Ordering::Relaxed);
}

/// Calls one after the other; the time in milliseconds that one in a hundred takes or exceeds.
fn slowest_hundredth(control: &Control) -> f64 {
    let nothing = json!("&AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=.sha256");
    let mut times: Vec<f64> = (0..CALLS)
        .map(|_| {
            let begun = wait::now();
            control.call("blobs.has", vec![nothing.clone()]).unwrap_or_else(|e| panic!("{e}"));
            (wait::now() - begun).as_secs_f64() * 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[CALLS * 99 / 100]
}

/// The server's part of handshakes alone, in a second of one core.
fn shs_alone() -> f64 {
    let (ours, theirs) = (Keypair::generate(), Keypair::generate());
    let key = PublicKey::from_bytes(ours.public.0);
    let mut taken = Duration::ZERO;
    for _ in 0..ALONE {
        let (hello, dialer) = client::start(&theirs, NetworkKey::MAIN, key, Ephemeral::generate());
        let begun = wait::now();
        let listener = server::start(&ours, NetworkKey::MAIN, Ephemeral::generate());
        let (answer, listener) = listener.receive(&hello).expect("we are honest");
        taken += wait::now() - begun;
        let (auth, _) = dialer.receive(&answer).expect("we are honest");
        let begun = wait::now();
        let proven = listener.receive(&auth).expect("we are honest");
        drop(proven.accept());
        taken += wait::now() - begun;
    }
    ALONE as f64 / taken.as_secs_f64()
}

/// A clock of five hundred feeds that is even with the node's, and of its own.
fn clock(bench: &Bench, subject: &Subject) -> Bytes {
    let own = subject.control.call("latestSequence", vec![json!(subject.id())]);
    let own = own.ok().and_then(|sequence| sequence.as_u64()).unwrap_or(0);
    let feeds = bench.corpus.clock.iter().take(FEEDS - 1);
    // The lowest bit says not to send what follows.
    let notes: Map<String, Value> = feeds
        .map(|(feed, sequence)| (feed.clone(), json!(sequence << 1)))
        .chain([(subject.id().to_owned(), json!(own << 1))])
        .collect();
    assert_eq!(notes.len(), FEEDS, "the corpus has too few authors: take more messages");
    Bytes::from(Value::from(notes).to_string())
}

/// Begins to replicate, until both have said what they have.
async fn replicate(session: &Session, clock: Bytes) -> Result<Stream, String> {
    let arguments = serde_json::from_str(ebt::REPLICATE_ARGS).map_err(|e| e.to_string())?;
    let stream = session.open(CallKind::Duplex, &["ebt", "replicate"], arguments).await;
    let mut stream = stream.map_err(|e| e.to_string())?;
    stream.tx.send(Body::json_raw(clock)).await.map_err(|e| e.to_string())?;
    // The node's own clock.
    let first = stream.rx.recv().await.ok_or("the node ends replication")?.map_err(|e| e.to_string())?;
    match ebt::classify(&first.bytes) {
        Ok(Item::Notes(_)) => Ok(stream),
        Ok(Item::Message { .. }) | Err(_) => Err("the node does not begin with its clock".to_owned()),
    }
}

/// Takes all that comes and counts the messages.
async fn read(stream: Stream, received: Arc<AtomicUsize>) {
    let Stream { tx, mut rx } = stream;
    while let Some(Ok(body)) = rx.recv().await {
        if let Ok(Item::Message { .. }) = ebt::classify(&body.bytes) {
            received.fetch_add(1, Ordering::Relaxed);
        }
    }
    drop(tx);
}

/// What the node uses once it has nothing to do.
fn at_rest(subject: &Subject) -> Usage {
    let mut last = (wait::now(), Usage::of(subject.process()));
    let rest = wait::closely(Deadline::after(LONG), || {
        let passed = (wait::now() - last.0).as_secs_f64();
        if passed < 1.0 {
            return None;
        }
        let now = Usage::of(subject.process());
        let used = (now.cpu - last.1.cpu) / passed;
        last = (wait::now(), now);
        (used < REST).then_some(now)
    });
    rest.expect("a node comes to rest")
}

fn kib_each(before: Usage, after: Usage, count: usize) -> f64 {
    (after.now_mb - before.now_mb) * 1024.0 / count as f64
}

/// What Prometheus costs the node, with the sessions that stand.
fn scrape(bench: &Bench, subject: &Subject, figures: &mut Figures) {
    let before = Usage::of(subject.process());
    let mut times = bench.host.enter(|| {
        let one = |_| {
            let begun = wait::now();
            http_get(socket_of_metrics(), "/metrics").unwrap_or_else(|e| panic!("{e}"));
            (wait::now() - begun).as_secs_f64() * 1000.0
        };
        (0..SCRAPES).map(one).collect::<Vec<f64>>()
    });
    times.sort_by(f64::total_cmp);
    let cpu = (Usage::of(subject.process()).cpu - before.cpu) / SCRAPES as f64 / INTERVAL * 100.0;
    figures.add(Row::Scrape, Kind::Ours, times[SCRAPES / 2]);
    figures.add(Row::ScrapeCpu, Kind::Ours, cpu);
    say(format_args!("a scrape takes {:.2} ms, {cpu:.3} % of a core every 15 s", times[SCRAPES / 2]));
}
