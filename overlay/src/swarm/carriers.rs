//! Where the carrier meets the swarm: streams become sessions that can move, and sessions are moved.
//!
//! [`policy`] says what a session is to do; here is what it needs to know (which connections to the peer stand,
//! and what is known of them) and the doing: opening a stream to attach by, asking the other end for it, or finding
//! a path where none stands. Of a session only the end that opened it moves it; the other end asks ([`Frame::Poke`])
//! when its own path is silent or gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tracing::{debug, error};

use super::connections::Live;
use super::dial::{Purpose, SessionStream};
use super::{Event, EventLoop, SwarmStream, link, now};
use crate::carrier::link::{Arrival, Budget, Mobile, MobileId, Move, News, Opening, Told, open};
use crate::carrier::policy::{self, BARRED, Kind, Path, Step};
use crate::carrier::{Claim, End, Ends, Frame, Poke, ResetCode, Role, SessionId, StreamNo};
use crate::conn::Carrier;
use crate::facade::Counted;

mod greeting;

use greeting::Greeted;

/// Sessions at a time.
const MAX_SESSIONS: usize = 4096;
/// News that may wait.
const NEWS: usize = 1024;
/// First frames that are being read, and other short talks.
const MAX_TALKS: usize = 256;
/// Peers remembered for not knowing the carrier.
const MAX_PLAIN: usize = 256;
/// How long an attempt to move may take.
const ATTEMPT: Duration = Duration::from_secs(4);
/// How long a path is passed over after an attempt has failed on it.
const ATTEMPT_PAUSE: Duration = Duration::from_secs(2);
/// How long a session waits after an attempt that has failed.
const ATTACH_PAUSE: Duration = Duration::from_millis(500);
/// Between two requests to be moved.
const POKE_PAUSE: Duration = Duration::from_secs(1);
/// Between two searches for a path: at first and at last.
const SEEK_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_SEEK_PAUSE: Duration = Duration::from_secs(15);
/// How long a relay may take to show that it lives when a session depends on it.
const RELAY_ANSWER: Duration = Duration::from_millis(1500);
/// How long it takes at most until a connection that we close is gone.
const CLOSING: Duration = Duration::from_millis(50);
/// Places where a peer was reached that are remembered.
const MAX_PLACES: usize = 6;
/// Relays of our own through which a peer is sought that we have not met there.
const MAX_GUESSED: usize = 3;
/// Paths that are passed over for a time.
const MAX_BARRED: usize = 16;

/// What happened to sessions.
pub(super) enum Happened {
    News(MobileId, News),
    /// A short talk is over.
    Greeted(Result<Option<Greeted>, JoinError>),
    RunnerEnded(Result<(), JoinError>),
    /// Something is to be looked at.
    Due,
}

/// All sessions that can move.
pub(super) struct Carriers {
    sessions: BTreeMap<MobileId, Carried>,
    /// By the peer's node, the session's name, and whether we opened it: others name only their own.
    names: BTreeMap<(PeerId, SessionId, bool), MobileId>,
    /// What of them is to be looked at.
    dirty: BTreeSet<MobileId>,
    told: Told,
    news: mpsc::Receiver<(MobileId, News)>,
    runners: JoinSet<()>,
    talks: JoinSet<Option<Greeted>>,
    budget: Arc<Budget>,
    plain: VecDeque<PeerId>,
    last_id: u64,
}

/// One of them.
struct Carried {
    mobile: Mobile,
    name: (PeerId, SessionId, bool),
    /// The connection that it runs on.
    on: Option<ConnectionId>,
    /// What that is, also when it is gone.
    carrier: Carrier,
    since: Instant,
    streams: BTreeMap<StreamNo, ConnectionId>,
    next_stream: u32,
    armed: bool,
    silent: bool,
    attempt: Option<Attempt>,
    barred: BTreeMap<ConnectionId, Instant>,
    /// Where we have dialled the peer, newest last.
    places: VecDeque<Multiaddr>,
    /// Not before this is a path sought, or asked for, again, and not before that one attached to.
    seek_at: Instant,
    attach_at: Instant,
    seeks: u32,
}

/// A move that is under way.
#[derive(Clone, Copy)]
struct Attempt {
    on: ConnectionId,
    no: Option<StreamNo>,
    until: Instant,
}

/// A session that went to another path, or could not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) id: MobileId,
    pub(crate) from: Carrier,
    pub(crate) to: Carrier,
    pub(crate) remote: String,
    pub(crate) path: crate::conn::Path,
    /// `None` if it could not.
    pub(crate) how: Option<Move>,
}

impl Carriers {
    pub(super) fn new() -> Self {
        let (told, news) = mpsc::channel(NEWS);
        Self {
            sessions: BTreeMap::new(),
            names: BTreeMap::new(),
            dirty: BTreeSet::new(),
            told,
            news,
            runners: JoinSet::new(),
            talks: JoinSet::new(),
            budget: Arc::default(),
            plain: VecDeque::new(),
            last_id: 0,
        }
    }

    /// What happens next.
    pub(super) async fn next(&mut self) -> Happened {
        let due = super::due(self.poll_timeout());
        tokio::select! {
            Some((session, news)) = self.news.recv() => Happened::News(session, news),
            Some(greeted) = self.talks.join_next() => Happened::Greeted(greeted),
            Some(ended) = self.runners.join_next() => Happened::RunnerEnded(ended),
            () = due => Happened::Due,
        }
    }

    /// Whether this peer is known to lack the carrier.
    pub(super) fn is_plain(&self, peer: PeerId) -> bool {
        self.plain.contains(&peer)
    }

    pub(super) fn set_plain(&mut self, peer: PeerId) {
        if !self.is_plain(peer) {
            self.plain.push_back(peer);
            if self.plain.len() > MAX_PLAIN {
                self.plain.pop_front();
            }
        }
    }

    /// When a session is to be looked at again though nothing happens.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.sessions.values().filter(|session| session.is_in_need());
        waiting.map(Carried::due).min()
    }

    /// Time has passed: all are looked at.
    pub(super) fn look_at_all(&mut self) {
        self.dirty.extend(self.sessions.keys());
    }

    /// What stood in the way of a search is out of it, or is about to be.
    fn seek_soon(&mut self, now: Instant) {
        for session in self.sessions.values_mut().filter(|session| session.is_in_need()) {
            session.seek_at = now + CLOSING;
        }
    }

    fn look_at(&mut self, peer: PeerId) {
        let of_peer = self.sessions.iter().filter(|(_, session)| session.name.0 == peer);
        self.dirty.extend(of_peer.map(|(id, _)| *id));
    }

    /// Whether a session runs on this connection that moves by itself.
    pub(super) fn runs_on(&self, connection: ConnectionId) -> bool {
        self.sessions.values().any(|session| session.on == Some(connection) && session.armed)
    }

    fn is_used(&self, connection: ConnectionId) -> bool {
        let uses = |session: &Carried| {
            session.on == Some(connection) || session.attempt.is_some_and(|attempt| attempt.on == connection)
        };
        self.sessions.values().any(uses)
    }
}

impl Carried {
    fn is_in_need(&self) -> bool {
        self.armed && (self.on.is_none() || self.silent || self.attempt.is_some())
    }

    /// Of one in need: when it is to be looked at though nothing happens.
    fn due(&self) -> Instant {
        self.attempt.map_or(self.seek_at.max(self.attach_at), |attempt| attempt.until)
    }

    /// An attempt to move there came to nothing.
    fn failed(&mut self, on: ConnectionId, now: Instant) {
        self.bar(on, now + ATTEMPT_PAUSE);
        self.attach_at = now + ATTACH_PAUSE;
    }

    fn is_ours(&self) -> bool {
        self.name.2
    }

    fn remember(&mut self, place: &Multiaddr) {
        self.places.retain(|known| known != place);
        self.places.push_back(place.clone());
        if self.places.len() > MAX_PLACES {
            // The first is where the session was opened.
            self.places.remove(1);
        }
    }

    fn bar(&mut self, connection: ConnectionId, until: Instant) {
        if self.barred.len() < MAX_BARRED {
            self.barred.insert(connection, until);
        }
    }

    fn forgive(&mut self, now: Instant) {
        self.barred.retain(|_, until| *until > now);
    }

    fn pause(&mut self, now: Instant) {
        let pause = SEEK_PAUSE * (1 << self.seeks.min(4));
        self.seeks += 1;
        self.seek_at = now + pause.min(LONGEST_SEEK_PAUSE);
    }
}

impl EventLoop {
    /// Makes a session of a stream that we opened for one.
    pub(super) fn begin_carried(
        &mut self,
        connection: ConnectionId,
        stream: SwarmStream,
        place: Option<Multiaddr>,
    ) -> Option<SessionStream> {
        let sid = SessionId(random_name());
        let peer = self.live.get(&connection)?.peer;
        let carried = self.start_carried(connection, (peer, sid, true), stream)?;
        if let (Some(place), SessionStream::Carried(_, mobile)) = (place, &carried)
            && let Some(session) = self.carriers.sessions.get_mut(&mobile.id())
        {
            session.remember(&place);
        }
        Some(carried)
    }

    fn start_carried(
        &mut self,
        connection: ConnectionId,
        name: (PeerId, SessionId, bool),
        stream: SwarmStream,
    ) -> Option<SessionStream> {
        let (peer, sid, ours) = name;
        let (own, theirs) = (self.own_id().to_bytes().into(), peer.to_bytes().into());
        let live = self.live.get(&connection)?;
        let carriers = &mut self.carriers;
        if carriers.sessions.len() >= MAX_SESSIONS || carriers.names.contains_key(&name) {
            return None;
        }
        carriers.last_id += 1;
        let (role, ends) = if ours {
            (Role::Initiator, Ends { initiator: own, responder: theirs })
        } else {
            (Role::Responder, Ends { initiator: theirs, responder: own })
        };
        let carrier = live.carrier?;
        let counted = Counted::new(stream, carrier, Arc::clone(&self.setup.counters));
        let first = Box::new(counted.with_meter(Arc::clone(&live.moved)));
        let id = MobileId(carriers.last_id);
        let opening = Opening { id, role, sid, ends, budget: Arc::clone(&carriers.budget), first };
        let (above, mobile, runner) = open(opening, carriers.told.clone());
        mobile.set_granted(live.limit.and_then(|(bytes, _)| bytes));
        carriers.runners.spawn(runner);
        carriers.names.insert(name, id);
        let now = now();
        let session = Carried {
            mobile: mobile.clone(),
            name,
            on: Some(connection),
            carrier,
            since: now,
            streams: BTreeMap::from([(StreamNo(0), connection)]),
            next_stream: 1,
            armed: false,
            silent: false,
            attempt: None,
            barred: BTreeMap::new(),
            places: VecDeque::new(),
            seek_at: now,
            attach_at: now,
            seeks: 0,
        };
        carriers.sessions.insert(id, session);
        Some(SessionStream::Carried(above, mobile))
    }

    /// The peer has opened a stream: the first frame says what for.
    pub(super) fn greet(&mut self, connection: ConnectionId, stream: SwarmStream) {
        if self.carriers.talks.len() < MAX_TALKS {
            self.carriers.talks.spawn(greeting::read_first(connection, stream));
        }
    }

    /// Something happened to sessions.
    pub(super) fn on_carriers(&mut self, happened: Happened) {
        match happened {
            Happened::News(session, news) => self.on_carrier_news(session, news),
            Happened::Greeted(Ok(Some(greeted))) => self.on_greeted(greeted),
            Happened::Greeted(Ok(None)) | Happened::RunnerEnded(Ok(())) | Happened::Due => {}
            Happened::Greeted(Err(failed)) | Happened::RunnerEnded(Err(failed)) => {
                error!(%failed, "a task of the swarm failed");
            }
        }
    }

    fn on_greeted(&mut self, greeted: Greeted) {
        match greeted {
            Greeted::Frame { connection, frame, stream } => self.on_first(connection, frame, *stream),
            Greeted::Lives(id, connection) => {
                let session =
                    self.carriers.sessions.get(&id).filter(|session| session.on == Some(connection));
                session.into_iter().for_each(|session| session.mobile.bring(Arrival::Answered));
            }
            Greeted::Dead(connection) => {
                debug!(%connection, "a relay that a session depends on does not answer");
                self.swarm.close_connection(connection);
                self.carriers.seek_soon(now());
            }
        }
    }

    fn on_first(&mut self, connection: ConnectionId, frame: Frame, stream: SwarmStream) {
        let Some(peer) = self.live.get(&connection).map(|live| live.peer) else { return };
        let refused = match frame {
            Frame::Open(sid) => return self.on_open(connection, (peer, sid, false), stream),
            Frame::Attach(claim) => return self.on_attach(connection, peer, claim, stream),
            Frame::Poke(poke) => self.on_poke(connection, peer, &poke).err(),
            Frame::Data { .. } | Frame::Ack(_) | Frame::Attached(_) | Frame::Fin(_) | Frame::Reset(_) => None,
        };
        if let Some(code) = refused {
            self.refuse(stream, code);
        }
    }

    fn refuse(&mut self, stream: SwarmStream, code: ResetCode) {
        if self.carriers.talks.len() < MAX_TALKS {
            self.carriers.talks.spawn(greeting::say(stream, Frame::Reset(code).encode()));
        }
    }

    fn on_open(&mut self, connection: ConnectionId, name: (PeerId, SessionId, bool), stream: SwarmStream) {
        let Some(opened) = self.start_carried(connection, name, stream) else {
            return debug!(%connection, "no room for another session");
        };
        self.emit_inbound(connection, opened);
    }

    fn on_attach(&mut self, connection: ConnectionId, peer: PeerId, claim: Claim, stream: SwarmStream) {
        match self.carriers.names.get(&(peer, claim.sid, false)) {
            Some(id) => self.attach_stream(*id, connection, stream, Some(claim)),
            None => self.refuse(stream, ResetCode::UnknownSession),
        }
    }

    /// Hands a stream to a session: one that the peer attaches by, or one to attach by.
    fn attach_stream(
        &mut self,
        id: MobileId,
        connection: ConnectionId,
        stream: SwarmStream,
        claim: Option<Claim>,
    ) {
        let live = self.live.get(&connection).and_then(|live| Some((live.carrier?, &live.moved)));
        let (Some(session), Some((carrier, moved))) = (self.carriers.sessions.get_mut(&id), live) else {
            return;
        };
        let no = StreamNo(session.next_stream);
        session.next_stream += 1;
        session.streams.insert(no, connection);
        if claim.is_none() {
            session.attempt = Some(Attempt { on: connection, no: Some(no), until: now() + ATTEMPT });
        }
        let counted = Counted::new(stream, carrier, Arc::clone(&self.setup.counters));
        let stream = Box::new(counted.with_meter(Arc::clone(moved)));
        session.mobile.bring(Arrival::Stream { no, stream, claim });
    }

    /// The end that was dialled has lost its path, and this is one that works.
    fn on_poke(&mut self, connection: ConnectionId, peer: PeerId, poke: &Poke) -> Result<(), ResetCode> {
        let id = self.carriers.names.get(&(peer, poke.sid, true)).ok_or(ResetCode::UnknownSession)?;
        let session = self.carriers.sessions.get_mut(id).ok_or(ResetCode::UnknownSession)?;
        session.mobile.poked(poke)?;
        let id = *id;
        if let Some(on) = session.on.filter(|on| *on != connection) {
            session.bar(on, now() + BARRED);
        }
        debug!(%connection, "a peer asks to be moved");
        self.attach(id, connection);
        Ok(())
    }

    /// Moves a session of ours to this connection.
    fn attach(&mut self, id: MobileId, to: ConnectionId) {
        let Some(session) = self.carriers.sessions.get_mut(&id) else { return };
        session.attempt = Some(Attempt { on: to, no: None, until: now() + ATTEMPT });
        self.open_on(to, Purpose::Attach(id, to));
    }

    /// Our stream to move to stands.
    pub(super) fn attach_opened(&mut self, id: MobileId, connection: ConnectionId, stream: SwarmStream) {
        let session = self.carriers.sessions.get(&id);
        let wanted =
            session.and_then(|session| session.attempt).is_some_and(|attempt| attempt.on == connection);
        if wanted {
            self.attach_stream(id, connection, stream, None);
        }
    }

    /// It does not.
    pub(super) fn attach_failed(&mut self, id: MobileId, connection: ConnectionId) {
        let Some(session) = self.carriers.sessions.get_mut(&id) else { return };
        session.attempt.take_if(|attempt| attempt.on == connection);
        session.failed(connection, now());
        self.carriers.dirty.insert(id);
    }

    /// Our stream to ask for a move by stands.
    pub(super) fn poke_opened(&mut self, id: MobileId, stream: SwarmStream) {
        let poke = self.carriers.sessions.get(&id).and_then(|session| session.mobile.poke());
        if let Some(poke) = poke.filter(|_| self.carriers.talks.len() < MAX_TALKS) {
            self.carriers.talks.spawn(greeting::say(stream, poke));
        }
    }

    /// Our stream to see whether a path lives stands.
    pub(super) fn alive_opened(
        &mut self,
        id: Option<MobileId>,
        connection: ConnectionId,
        stream: SwarmStream,
    ) {
        if self.carriers.talks.len() >= MAX_TALKS {
            return;
        }
        let answer = greeting::hear_refusal(stream);
        self.carriers.talks.spawn(async move {
            match id {
                Some(id) => answer.await.then_some(Greeted::Lives(id, connection)),
                None => {
                    let in_time = tokio::time::timeout(RELAY_ANSWER, answer).await;
                    (in_time != Ok(true)).then_some(Greeted::Dead(connection))
                }
            }
        });
    }

    /// What a session's task tells.
    fn on_carrier_news(&mut self, id: MobileId, news: News) {
        let Some(session) = self.carriers.sessions.get_mut(&id) else { return };
        self.carriers.dirty.insert(id);
        match news {
            News::Armed => session.armed = true,
            News::Moved(no, how) => self.on_carried_moved(id, no, how),
            News::NotMoved(no) => self.on_not_moved(id, no),
            News::Detached => {
                (session.on, session.silent, session.seeks) = (None, false, 0);
                session.seek_at = now();
            }
            News::Ask => {
                if let Some(on) = session.on {
                    self.open_on(on, Purpose::Alive(Some(id), on));
                }
            }
            News::Silent => {
                (session.silent, session.seeks, session.seek_at) = (true, 0, now());
            }
            News::Heard => session.silent = false,
            News::Ended(end) => self.on_carried_ended(id, end),
        }
    }

    fn on_carried_moved(&mut self, id: MobileId, no: StreamNo, how: Move) {
        let now = now();
        let Some(session) = self.carriers.sessions.get_mut(&id) else { return };
        let Some(connection) = session.streams.get(&no).copied() else { return };
        session.attempt.take_if(|attempt| attempt.no == Some(no));
        let before = session.on.replace(connection);
        if let Some(before) = before.filter(|_| session.silent) {
            session.bar(before, now + BARRED);
        }
        (session.silent, session.since, session.seeks) = (false, now, 0);
        session.streams.retain(|kept, _| *kept >= no);
        session.forgive(now);
        let Some(live) = self.live.get(&connection) else { return };
        if live.dialled
            && let Ok(place) = live.remote.clone().with_p2p(live.peer)
        {
            session.remember(&place);
        }
        session.mobile.set_granted(live.limit.and_then(|(bytes, _)| bytes));
        if let Some(round_trip) = live.round_trip {
            session.mobile.bring(Arrival::RoundTrip(round_trip));
        }
        let (from, ours) = (session.carrier, session.is_ours());
        let live_carrier = live.carrier.unwrap_or(from);
        session.carrier = live_carrier;
        self.emit_moved(id, from, connection, Some(how));
        // The end that moved it closes what it has left: the other end cannot know whether all has arrived.
        // Who goes from a direct path to a relay has lost it; while it seems to stand no other is looked for.
        let lost = from != Carrier::Relay && live_carrier == Carrier::Relay;
        if let Some(before) = before.filter(|before| (ours || lost) && *before != connection) {
            self.let_go(before, lost);
        }
    }

    fn emit_moved(&self, id: MobileId, from: Carrier, connection: ConnectionId, how: Option<Move>) {
        let Some(live) = self.live.get(&connection) else { return };
        let (to, path) = (live.carrier.unwrap_or(from), link::path(connection, live.peer));
        let remote = link::with_peer(&live.remote, live.peer);
        debug!(from = from.label(), to = to.label(), remote, ?how, "a session moves");
        self.emit(Event::Moved(Moved { id, from, to, remote, path, how }));
    }

    /// Closes a relayed connection that nobody uses any more, which takes from what the relay grants us, or a lost one.
    fn let_go(&mut self, connection: ConnectionId, lost: bool) {
        let relayed = self.live.get(&connection).is_some_and(|live| live.carrier == Some(Carrier::Relay));
        if (relayed || lost) && !self.carriers.is_used(connection) {
            self.swarm.close_connection(connection);
        }
    }

    fn on_not_moved(&mut self, id: MobileId, no: StreamNo) {
        let Some(session) = self.carriers.sessions.get_mut(&id) else { return };
        let connection = session.streams.remove(&no);
        let ours = session.attempt.take_if(|attempt| attempt.no == Some(no));
        if let (Some(connection), Some(_)) = (connection, ours) {
            session.failed(connection, now());
            let from = session.carrier;
            self.emit_moved(id, from, connection, None);
        }
    }

    fn on_carried_ended(&mut self, id: MobileId, end: End) {
        let Some(session) = self.carriers.sessions.remove(&id) else { return };
        debug!(%end, "a session that could move is over");
        self.carriers.names.remove(&session.name);
        if session.mobile.is_unsupported() {
            self.carriers.set_plain(session.name.0);
        }
        if let Some(on) = session.on.filter(|_| session.armed) {
            self.let_go(on, false);
        }
    }

    /// Connections to this peer have come or gone.
    pub(super) fn carriers_of_changed(&mut self, peer: PeerId) {
        self.carriers.look_at(peer);
    }

    /// We are somewhere else: what failed may work now.
    pub(super) fn carriers_moved(&mut self) {
        let now = now();
        for session in self.carriers.sessions.values_mut().filter(|session| session.is_in_need()) {
            (session.seeks, session.seek_at) = (0, now);
        }
        self.carriers.look_at_all();
    }

    /// Looks at what has changed, and moves what is to be moved.
    pub(super) fn pursue_carriers(&mut self) {
        let now = now();
        let Carriers { sessions, dirty, .. } = &mut self.carriers;
        let due = sessions.iter().filter(|(_, session)| session.is_in_need() && session.due() <= now);
        dirty.extend(due.map(|(id, _)| *id));
        // What comes to nothing at once is looked at again in the next round.
        for id in std::mem::take(dirty) {
            self.pursue_carried(id, now);
        }
    }

    fn pursue_carried(&mut self, id: MobileId, now: Instant) {
        let Some(session) = self.carriers.sessions.get_mut(&id).filter(|session| session.armed) else {
            return;
        };
        if let Some(attempt) = session.attempt {
            if now < attempt.until {
                return;
            }
            session.attempt = None;
            session.bar(attempt.on, now + BARRED);
            if let Some(no) = attempt.no {
                session.streams.remove(&no);
                session.mobile.bring(Arrival::Abandoned(no));
            }
            self.emit_moved(id, self.carriers.sessions[&id].carrier, attempt.on, None);
        }
        let session = &self.carriers.sessions[&id];
        let paths = self.paths_of(session);
        let needs_none = session.on.is_some() && !session.silent;
        match policy::choose(session.on, session.since, &paths, now) {
            Step::Stay => {}
            Step::Move(_) if session.attach_at > now => {}
            Step::Move(to) if session.is_ours() => self.attach(id, to),
            Step::Move(to) if !needs_none => self.ask_to_move(id, to, now),
            Step::Seek => self.seek(id, now, false),
            Step::SeekCircuit if session.is_ours() => self.seek(id, now, true),
            Step::Move(_) | Step::SeekCircuit => {}
        }
    }

    fn paths_of(&self, session: &Carried) -> Vec<Path<ConnectionId>> {
        let of_peer = self.live.iter().filter(|(_, live)| live.peer == session.name.0);
        let path = |(id, live): (&ConnectionId, &Live)| Path {
            id: *id,
            kind: kind_of(live),
            ipv6: live.ip.is_some_and(|ip| ip.is_ipv6()),
            round_trip: live.round_trip,
            silent: session.silent && session.on == Some(*id),
            barred: session.barred.get(id).copied(),
            since: live.since,
            grant: live.grant(),
        };
        of_peer.map(path).collect()
    }

    fn ask_to_move(&mut self, id: MobileId, to: ConnectionId, now: Instant) {
        let Some(session) = self.carriers.sessions.get_mut(&id).filter(|session| session.seek_at <= now)
        else {
            return;
        };
        session.seek_at = now + POKE_PAUSE;
        self.open_on(to, Purpose::Poke(id));
    }

    /// Dials the peer wherever it was reached before. What stands then is found by the next look.
    fn seek(&mut self, id: MobileId, now: Instant, circuits: bool) {
        let Some(session) = self.carriers.sessions.get_mut(&id).filter(|session| session.seek_at <= now)
        else {
            return;
        };
        session.pause(now);
        let peer = session.name.0;
        let mut places: Vec<_> =
            session.places.iter().filter(|at| !circuits || link::is_relayed(at)).cloned().collect();
        let guessed = self.relays.reserved().iter().filter_map(|at| circuit_beside(at, peer));
        for at in guessed.take(MAX_GUESSED) {
            if !places.contains(&at) {
                places.push(at);
            }
        }
        debug!(?places, circuits, "looking for another path of a session");
        for at in places {
            match link::relay(&at) {
                Some((relay, peer)) => self.dial_fresh_circuit(at, relay, peer),
                None => self.dial(vec![at], Purpose::Path),
            }
        }
    }

    /// The connection to the relay may be as dead as the one that was lost: it is asked, and replaced in the next
    /// round.
    fn dial_fresh_circuit(&mut self, at: Multiaddr, relay: Multiaddr, peer: PeerId) {
        let direct = |live: &Live| live.peer == peer && live.carrier != Some(Carrier::Relay);
        let standing = self.live.iter().find(|(_, live)| direct(live)).map(|(connection, _)| *connection);
        match standing {
            Some(connection) => {
                self.open_on(connection, Purpose::Alive(None, connection));
                self.dial(vec![at], Purpose::Path);
            }
            None => self.dial(vec![relay], Purpose::Circuit { at, purpose: Box::new(Purpose::Path) }),
        }
    }
}

/// The same relay's circuit to this peer: friends often use the same ones, and asking in vain costs one question.
fn circuit_beside(reserved: &str, peer: PeerId) -> Option<Multiaddr> {
    let (relay, _) = link::relay(&reserved.parse().ok()?)?;
    Some(relay.with(Protocol::P2pCircuit).with(Protocol::P2p(peer)))
}

fn kind_of(live: &Live) -> Kind {
    if live.carrier == Some(Carrier::Relay) {
        Kind::Relay
    } else if link::is_local(&live.remote) {
        Kind::Near
    } else {
        Kind::Direct
    }
}

/// libp2p draws peer ids from the system's source, and its generator is the one that is at hand here.
fn random_name() -> [u8; 16] {
    let bytes = PeerId::random().to_bytes();
    let mut name = [0; 16];
    name.iter_mut().zip(bytes.iter().rev()).for_each(|(byte, random)| *byte = *random);
    name
}
