//! Moving what is to be moved: what [`policy`] needs to know, and the doing.

use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use tracing::debug;

use super::super::connections::Live;
use super::super::dial::Purpose;
use super::super::{EventLoop, link, now};
use super::Carriers;
use super::session::Carried;
use crate::carrier::link::{Arrival, MobileId};
use crate::carrier::policy::{self, BARRED, Kind, Path, Step};
use crate::conn::Carrier;

/// Between two requests to be moved.
const POKE_PAUSE: Duration = Duration::from_secs(1);
/// Relays of our own through which a peer is sought that we have not met there.
const MAX_GUESSED: usize = 3;

impl EventLoop {
    /// Looks at what has changed, and moves what is to be moved.
    pub(in crate::swarm) fn pursue_carriers(&mut self) {
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
        let Some(session) = self.carriers.sessions.get(&id).filter(|session| session.armed) else { return };
        if let Some(attempt) = session.attempt {
            let outrun = || policy::is_outrun(attempt.on, session.lost, &self.paths_of(session), now);
            if now < attempt.until && !(attempt.doubtful && outrun()) {
                if attempt.doubtful {
                    self.seek(id, now, false);
                }
                return;
            }
            let Some(session) = self.carriers.sessions.get_mut(&id) else { return };
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
        match policy::choose(session.on, session.since, session.lost, &paths, now) {
            Step::Stay => {}
            Step::Move(_) if session.attach_at > now => {}
            Step::Move(to) if session.is_ours() => self.attach(id, to, false),
            Step::Try(to) => self.try_beside(id, to, now),
            Step::Move(to) if !needs_none => self.ask_to_move(id, to, now),
            Step::Seek => self.seek(id, now, false),
            Step::SeekCircuit if session.is_ours() => self.seek(id, now, true),
            Step::Move(_) | Step::SeekCircuit => {}
        }
    }

    /// Moves to a path that may be dead, or asks for it, and seeks others.
    fn try_beside(&mut self, id: MobileId, to: ConnectionId, now: Instant) {
        let Some(session) = self.carriers.sessions.get(&id) else { return };
        let (ours, attaches, asks) = (session.is_ours(), session.attach_at <= now, session.seek_at <= now);
        self.seek(id, now, false);
        if ours && attaches {
            self.attach(id, to, true);
        } else if !ours && asks {
            self.open_on(to, Purpose::Poke(id));
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
