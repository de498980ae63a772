//! What the tasks of sessions tell: that one has moved, or could not, that its path is silent, that it is over.

use libp2p::swarm::ConnectionId;
use tracing::debug;

use super::super::dial::Purpose;
use super::super::{Event, EventLoop, link, now};
use super::Moved;
use crate::carrier::link::{Arrival, MobileId, Move, News};
use crate::carrier::policy::BARRED;
use crate::carrier::{End, StreamNo};
use crate::conn::Carrier;

impl EventLoop {
    /// What a session's task tells.
    pub(super) fn on_carrier_news(&mut self, id: MobileId, news: News) {
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
                let now = now();
                (session.silent, session.seeks, session.seek_at) = (true, 0, now);
                session.lost.get_or_insert(now);
            }
            News::Heard => (session.silent, session.lost) = (false, None),
            // That it is looked at is enough.
            News::RunsOut => {}
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
        (session.silent, session.lost, session.since, session.seeks) = (false, None, now, 0);
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

    pub(super) fn emit_moved(
        &self,
        id: MobileId,
        from: Carrier,
        connection: ConnectionId,
        how: Option<Move>,
    ) {
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
}
