//! Messages out of order: the shell of `hawsepipe_replication::ooo`. One task owns the machine; each stream has a task of
//! its own that reads, parses and writes; what is found is kept in `hawsepipe/ooo.jsonl`.
//!
//! Whoever dialled opens the stream, as in ssb-ooo; when there is something to ask, so do we on the other sessions. A message goes to nobody whom its author blocks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hawsepipe_overlay::conn::{Direction, Session, Stream};
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::muxrpc::{Body, CallKind};
use hawsepipe_replication::message::{HmacKey, Message};
use hawsepipe_replication::ooo::{self, Entry, Fetched, Input, Kept, Output, State};
use hawsepipe_replication::refs::{FeedId, MessageId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::context::Context;

/// Commands that may wait for the task; streams wait when it is full.
const INBOX: usize = 256;
/// Entries that may wait for one stream; what finds no room is not sent.
const OUTBOX: usize = 256;
/// Clients that may wait for one message.
const MAX_WAITING: usize = 100;

/// The way to the task, and to what was found.
#[derive(Debug)]
pub struct Ooo {
    inbox: mpsc::Sender<Command>,
    /// Whether streams are wanted.
    wanted: watch::Sender<bool>,
    kept: Arc<Keeper>,
    /// Guards who has a session; held only to look one up, to add or to remove one.
    sessions: Mutex<BTreeMap<PublicKey, Vec<(u64, Session)>>>,
    number: AtomicU64,
}

/// The file of what was found, opened when it is first needed.
#[derive(Debug)]
struct Keeper {
    path: PathBuf,
    hmac: Option<HmacKey>,
    /// Guards the file; held for one read or write of it.
    file: Mutex<Option<Kept>>,
}

enum Command {
    Connected { peer: PublicKey, out: mpsc::Sender<Body> },
    Received { peer: PublicKey, entries: Vec<(MessageId, Entry)> },
    Ask { id: MessageId, reply: oneshot::Sender<Option<Fetched>> },
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connected { .. } => "Connected",
            Self::Received { .. } => "Received",
            Self::Ask { .. } => "Ask",
        })
    }
}

impl Keeper {
    fn with<T>(&self, work: impl FnOnce(&mut Kept) -> std::io::Result<T>) -> Option<T> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let done = match &mut *file {
            Some(kept) => work(kept),
            None => Kept::open(&self.path).and_then(|kept| work(file.insert(kept))),
        };
        // What is kept here can be fetched again.
        done.inspect_err(|error| tracing::warn!(path = %self.path.display(), %error, "messages out of order"))
            .ok()
    }

    fn get(&self, id: &MessageId) -> Option<Fetched> {
        self.with(|kept| kept.get(id, self.hmac.as_ref())).flatten()
    }

    fn add(&self, message: &Message, received: f64) {
        let _ = self.with(|kept| kept.add(message, received));
    }
}

/// Takes a session off the list when it is over.
#[derive(Debug)]
pub struct Registered {
    ctx: Arc<Context>,
    peer: PublicKey,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut sessions = self.ctx.ooo.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_peer) = sessions.get_mut(&self.peer) {
            of_peer.retain(|(number, _)| *number != self.number);
            if of_peer.is_empty() {
                sessions.remove(&self.peer);
            }
        }
    }
}

impl Ooo {
    /// The handle, and the task to run.
    pub fn new(path: PathBuf, hmac: Option<HmacKey>) -> (Self, Hub) {
        let (inbox, commands) = mpsc::channel(INBOX);
        let kept = Arc::new(Keeper { path, hmac: hmac.clone(), file: Mutex::new(None) });
        let (wanted, sessions) = (watch::Sender::new(false), Mutex::default());
        let hub = Hub {
            commands,
            state: State::new(hmac),
            kept: Arc::clone(&kept),
            streams: BTreeMap::new(),
            waiting: BTreeMap::new(),
            looks: JoinSet::new(),
        };
        (Self { inbox, wanted, kept, sessions, number: AtomicU64::new(0) }, hub)
    }

    /// A message that was fetched before.
    pub async fn kept(&self, ctx: &Context, id: MessageId) -> Option<Fetched> {
        let kept = Arc::clone(&self.kept);
        ctx.read(move || kept.get(&id)).await
    }

    /// Keeps a verified message that a peer gave us.
    pub async fn keep(&self, ctx: &Context, message: Message) {
        let kept = Arc::clone(&self.kept);
        ctx.read(move || kept.add(&message, clock::unix_millis() as f64)).await;
    }

    /// A message that was fetched before, or that a peer has; waits at most `patience` for it.
    pub async fn fetch(&self, ctx: &Context, id: MessageId, patience: Duration) -> Option<Fetched> {
        if let Some(kept) = self.kept(ctx, id).await {
            return Some(kept);
        }
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.inbox.send(Command::Ask { id, reply }).await.ok()?;
            answer.await.ok().flatten()
        };
        tokio::time::timeout(patience, asked).await.ok().flatten()
    }

    /// The newest session with a peer.
    pub fn session(&self, peer: &PublicKey) -> Option<Session> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        Some(sessions.get(peer)?.last()?.1.clone())
    }
}

/// Lists a session for as long as what is returned lives.
pub fn register(ctx: &Arc<Context>, session: &Session) -> Registered {
    let (peer, number) = (session.peer(), ctx.ooo.number.fetch_add(1, Ordering::Relaxed));
    let mut sessions = ctx.ooo.sessions.lock().unwrap_or_else(PoisonError::into_inner);
    sessions.entry(peer).or_default().push((number, session.clone()));
    Registered { ctx: Arc::clone(ctx), peer, number }
}

/// Opens a stream on `session`, one that we did not dial only once streams are wanted, and talks on it.
pub async fn dial(ctx: Arc<Context>, session: Session) {
    let mut wanted = ctx.ooo.wanted.subscribe();
    let is_dialer = session.info().direction == Direction::Outbound;
    if !is_dialer && wanted.wait_for(|wanted| *wanted).await.is_err() {
        return;
    }
    drop(wanted);
    if let Ok(stream) = session.open(CallKind::Duplex, &["ooo", "stream"], Vec::new()).await {
        converse(&ctx, session.peer(), stream).await;
    }
}

/// Talks on a stream until it is over.
pub async fn converse(ctx: &Context, peer: PublicKey, stream: Stream) {
    stream.set_lasting();
    let Stream { mut tx, mut rx } = stream;
    let (out, mut outbox) = mpsc::channel(OUTBOX);
    if ctx.ooo.inbox.send(Command::Connected { peer, out }).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            Some(body) = outbox.recv() => {
                if tx.send(body).await.is_err() {
                    return;
                }
            }
            item = rx.recv() => {
                // A peer that does not know the method says so here.
                let Some(Ok(body)) = item else { return };
                let Some(entries) = ooo::read(&body.bytes) else { continue };
                if ctx.ooo.inbox.send(Command::Received { peer, entries }).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The task that owns the machine.
#[derive(Debug)]
pub struct Hub {
    commands: mpsc::Receiver<Command>,
    state: State<PublicKey>,
    kept: Arc<Keeper>,
    streams: BTreeMap<PublicKey, mpsc::Sender<Body>>,
    waiting: BTreeMap<MessageId, Vec<oneshot::Sender<Option<Fetched>>>>,
    looks: JoinSet<(MessageId, Option<Message>)>,
}

impl Hub {
    /// Runs until the node stops.
    pub async fn run(mut self, ctx: Arc<Context>, stop: CancellationToken) {
        loop {
            let deadline = self.state.poll_timeout();
            tokio::select! {
                () = stop.cancelled() => return,
                Some(command) = self.commands.recv() => self.on_command(command),
                Some(Ok((id, found))) = self.looks.join_next() => {
                    self.state.handle(clock::now(), Input::Looked { id, found });
                }
                () = sleep_until(deadline) => self.state.handle_timeout(clock::now()),
            }
            while let Some(output) = self.state.poll_output() {
                self.on_output(&ctx, output);
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        let now = clock::now();
        match command {
            Command::Connected { peer, out } => {
                self.streams.insert(peer, out);
                self.state.handle(now, Input::Connected(peer));
            }
            Command::Received { peer, entries } => self.state.handle(now, Input::Received { peer, entries }),
            Command::Ask { id, reply } => {
                let waiting = self.waiting.entry(id).or_default();
                waiting.retain(|reply| !reply.is_closed());
                // Who finds no room is told at once, by its reply being dropped.
                if waiting.len() < MAX_WAITING {
                    waiting.push(reply);
                    self.state.handle(now, Input::Ask(id));
                }
            }
        }
    }

    fn on_output(&mut self, ctx: &Arc<Context>, output: Output<PublicKey>) {
        match output {
            Output::Look(id) => {
                let (reader, kept) = (ctx.reader.clone(), Arc::clone(&self.kept));
                self.looks.spawn_blocking(move || {
                    let stored = reader.get(&id).ok().flatten().map(|stored| stored.message);
                    (id, stored.or_else(|| kept.get(&id).map(|fetched| fetched.message)))
                });
            }
            Output::Open => {
                ctx.ooo.wanted.send_replace(true);
            }
            Output::Question { peer, id, hops } => self.send(peer, ooo::write_question(&id, hops)),
            Output::Answer { peer, message } => {
                let reader = FeedId::from_bytes(peer.to_bytes());
                let is_blocked = ctx.graph().is_blocking(&message.author(), &reader);
                if !is_blocked {
                    self.send(peer, ooo::write_answer(&message));
                }
            }
            Output::Found { message, is_new } => self.found(message, is_new),
            Output::Missed(id) => self.answer(&id, None),
            Output::Misled { peer, why } => {
                tracing::debug!(peer = %peer.short(), %why, "not the message that was asked for");
            }
        }
    }

    fn send(&mut self, peer: PublicKey, text: Vec<u8>) {
        let Some(out) = self.streams.get(&peer) else { return };
        match out.try_send(Body::json_raw(text)) {
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {}
            Err(mpsc::error::TrySendError::Closed(_)) => {
                self.streams.remove(&peer);
                self.state.handle(clock::now(), Input::Disconnected(peer));
            }
        }
    }

    fn found(&mut self, message: Message, is_new: bool) {
        let received = clock::unix_millis() as f64;
        if is_new {
            let (kept, message) = (Arc::clone(&self.kept), message.clone());
            self.looks.spawn_blocking(move || {
                kept.add(&message, received);
                (message.id(), None)
            });
        }
        self.answer(&message.id(), Some(Fetched { message, received }));
    }

    fn answer(&mut self, id: &MessageId, fetched: Option<Fetched>) {
        for reply in self.waiting.remove(id).into_iter().flatten() {
            // Whoever does not wait any more needs no answer.
            let _ = reply.send(fetched.clone());
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
