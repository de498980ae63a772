//! Streams for sessions that can move: those that begin one, those that one moves to, and short talks beside them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use tracing::debug;

use super::super::dial::{Purpose, SessionStream};
use super::super::{EventLoop, SwarmStream, now};
use super::greeting::{self, Greeted};
use super::session::{Attempt, Carried};
use super::{ATTEMPT, MAX_TALKS};
use crate::carrier::link::{Arrival, MobileId, Opening, open};
use crate::carrier::policy::BARRED;
use crate::carrier::{Claim, Ends, Frame, Poke, ResetCode, Role, SessionId, StreamNo};
use crate::facade::Counted;

/// Sessions at a time.
const MAX_SESSIONS: usize = 4096;
/// How long a relay may take to show that it lives when a session depends on it.
const RELAY_ANSWER: Duration = Duration::from_millis(1500);

impl EventLoop {
    /// Makes a session of a stream that we opened for one.
    pub(in crate::swarm) fn begin_carried(
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
        let (budget, meter) = (Arc::clone(&carriers.budget), live.meter());
        let opening = Opening { id, role, sid, ends, budget, first, meter };
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
            lost: None,
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
    pub(in crate::swarm) fn greet(&mut self, connection: ConnectionId, stream: SwarmStream) {
        if self.carriers.talks.len() < MAX_TALKS {
            self.carriers.talks.spawn(greeting::read_first(connection, stream));
        }
    }

    pub(super) fn on_greeted(&mut self, greeted: Greeted) {
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
        let live = self.live.get(&connection).and_then(|live| Some((live.carrier?, live)));
        let (Some(session), Some((carrier, live))) = (self.carriers.sessions.get_mut(&id), live) else {
            return;
        };
        let no = StreamNo(session.next_stream);
        session.next_stream += 1;
        session.streams.insert(no, connection);
        if claim.is_none() {
            let doubtful = session.attempt.is_some_and(|attempt| attempt.doubtful);
            session.attempt =
                Some(Attempt { on: connection, no: Some(no), until: now() + ATTEMPT, doubtful });
        }
        let counted = Counted::new(stream, carrier, Arc::clone(&self.setup.counters));
        let stream = Box::new(counted.with_meter(Arc::clone(&live.moved)));
        session.mobile.bring(Arrival::Stream { no, stream, meter: live.meter(), claim });
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
        self.attach(id, connection, false);
        Ok(())
    }

    /// Moves a session of ours to this connection, which may be `doubtful`: dead like the one that was lost.
    pub(super) fn attach(&mut self, id: MobileId, to: ConnectionId, doubtful: bool) {
        let Some(session) = self.carriers.sessions.get_mut(&id) else { return };
        session.attempt = Some(Attempt { on: to, no: None, until: now() + ATTEMPT, doubtful });
        self.open_on(to, Purpose::Attach(id, to));
    }

    /// Our stream to move to stands.
    pub(in crate::swarm) fn attach_opened(
        &mut self,
        id: MobileId,
        connection: ConnectionId,
        stream: SwarmStream,
    ) {
        let session = self.carriers.sessions.get(&id);
        let wanted =
            session.and_then(|session| session.attempt).is_some_and(|attempt| attempt.on == connection);
        if wanted {
            self.attach_stream(id, connection, stream, None);
        }
    }

    /// It does not.
    pub(in crate::swarm) fn attach_failed(&mut self, id: MobileId, connection: ConnectionId) {
        let Some(session) = self.carriers.sessions.get_mut(&id) else { return };
        session.attempt.take_if(|attempt| attempt.on == connection);
        session.failed(connection, now());
        self.carriers.dirty.insert(id);
    }

    /// Our stream to ask for a move by stands.
    pub(in crate::swarm) fn poke_opened(&mut self, id: MobileId, stream: SwarmStream) {
        let poke = self.carriers.sessions.get(&id).and_then(|session| session.mobile.poke());
        if let Some(poke) = poke.filter(|_| self.carriers.talks.len() < MAX_TALKS) {
            self.carriers.talks.spawn(greeting::say(stream, poke));
        }
    }

    /// Our stream to see whether a path lives stands.
    pub(in crate::swarm) fn alive_opened(
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
}

/// libp2p draws peer ids from the system's source, and its generator is the one that is at hand here.
fn random_name() -> [u8; 16] {
    let bytes = PeerId::random().to_bytes();
    let mut name = [0; 16];
    name.iter_mut().zip(bytes.iter().rev()).for_each(|(byte, random)| *byte = *random);
    name
}
