//! When a second session with one peer stands: which of the two is used from then on, and how the other one
//! ends.
//!
//! The case that it is made for is a session over a relay that is replaced by a direct one. Whoever dialled
//! the first dials the second. From the moment it stands it is *live*: replication and new requests go over
//! it, at both ends. The one it replaces *drains*: it ends when its running transfers have, or after
//! [`DRAIN_MAX`]. If the live one ends first, a draining one is taken back.
//!
//! Both ends have to come to the same answer without talking ([`older_stays`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use hawsepipe_overlay::DialError;
use hawsepipe_overlay::address::Endpoint;
use hawsepipe_overlay::conn::{Carrier, Connection, Direction, LinkInfo, PathId};
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_replication::ebt::{Peer, Role};
use hawsepipe_replication::history::{Negotiation, NegotiationInput};
use hawsepipe_replication::refs::FeedId;

use super::connect::{carrier_label, is_local};
use super::{Engine, Msg, Open, SessionId};

/// Two sessions with one peer that began within this time are one meeting: both sides dialled.
const SIMULTANEOUS: Duration = Duration::from_secs(10);
/// Two sessions that the same side dialled within this time are one attempt over two paths. Longer apart, it
/// has lost the first one.
const TOGETHER: Duration = Duration::from_secs(3);
/// A draining session lasts at least this long: the other end may not know yet that it drains.
const DRAIN_MIN: Duration = Duration::from_secs(2);
/// Transfers that are not done by then are cut off.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Sessions of one peer that drain at a time. One is what a move leaves; another may be on its way.
const MAX_DRAINING: usize = 2;
/// How often draining sessions are looked at.
const DRAIN_CHECK: Duration = Duration::from_millis(250);

/// What a session is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// For everything.
    Live,
    /// For what is under way, since then; another session is live.
    Draining(Instant),
    /// For nothing: it was told to close.
    Closing,
}

impl Standing {
    /// A name for people.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Draining(_) => "draining",
            Self::Closing => "closing",
        }
    }
}

/// One of two sessions, as far as it decides which stays.
#[derive(Clone, Copy, Debug)]
struct Rival {
    direction: Direction,
    relayed: bool,
}

impl Rival {
    fn of(info: &LinkInfo) -> Self {
        Self { direction: info.direction, relayed: info.carrier == Carrier::Relay }
    }
}

/// Whether the older of two sessions stays, which is `age` older.
///
/// Of two that belong to one meeting a direct one beats a relayed one; of the same kind the one that the
/// larger key dialled stays. Otherwise the newest does: a peer that dials again has lost what it had, also
/// if it comes back over a relay.
fn older_stays(old: Rival, new: Rival, age: Duration, own_dials_win: bool) -> bool {
    let crossed = old.direction != new.direction;
    let together = age < if crossed { SIMULTANEOUS } else { TOGETHER };
    if old.relayed != new.relayed {
        return together && new.relayed;
    }
    together && crossed && (old.direction == Direction::Outbound) == own_dials_win
}

impl Engine {
    /// Settles which of the sessions with `peer` is live from now on, and what the new one is for.
    pub(super) fn supersede(&mut self, peer: PublicKey, info: &LinkInfo, now: Instant) -> Standing {
        let own_dials_win = self.ctx.own_key > peer;
        let new = Rival::of(info);
        let live: Vec<_> = self.live_sessions(peer).collect();
        let mut standing = Standing::Live;
        for id in live {
            let Some(open) = self.sessions.get_mut(&id) else { continue };
            let old = Rival::of(&open.info);
            // Two of a kind are two of one dial too many; where the path changes, transfers may be running.
            let retired =
                if old.relayed == new.relayed { Standing::Closing } else { Standing::Draining(now) };
            if older_stays(old, new, now.saturating_duration_since(open.since), own_dials_win) {
                standing = retired;
                continue;
            }
            open.retire(retired);
            let (from, since) = (open.info.carrier, open.since);
            if old.relayed != new.relayed {
                self.count_move(from, info.carrier, "ok");
                self.drain_at = Some(now + DRAIN_CHECK);
                tracing::info!(
                    peer = %peer.short(), from = from.label(), to = info.carrier.label(), remote = %info.remote,
                    "session moved"
                );
            }
            if old.relayed && !new.relayed {
                let waited = now.saturating_duration_since(since);
                self.ctx.metrics.connect.time_to_direct.observe(waited.as_secs_f64());
            }
        }
        if matches!(standing, Standing::Draining(_)) {
            self.drain_at = Some(now + DRAIN_CHECK);
        }
        standing
    }

    /// Closes the oldest of too many draining sessions.
    pub(super) fn limit_draining(&mut self, peer: PublicKey) {
        let drains = |open: &&mut Open| open.peer == peer && matches!(open.standing, Standing::Draining(_));
        for open in self.sessions.values_mut().rev().filter(drains).skip(MAX_DRAINING) {
            open.retire(Standing::Closing);
        }
    }

    /// The sessions with `peer` that are used for everything: one, but for the moment of a change.
    fn live_sessions(&self, peer: PublicKey) -> impl Iterator<Item = SessionId> + '_ {
        let found = self.sessions.iter().filter(move |(_, open)| {
            open.peer == peer && open.standing == Standing::Live && !is_local(&open.info)
        });
        found.map(|(id, _)| *id)
    }

    /// Closes draining sessions that are done, or had their time.
    pub(super) fn drain(&mut self, now: Instant) {
        let mut left = false;
        for open in self.sessions.values_mut() {
            let Standing::Draining(since) = open.standing else { continue };
            let lasted = now.saturating_duration_since(since);
            if lasted >= DRAIN_MAX || (lasted >= DRAIN_MIN && !open.session.is_busy()) {
                open.retire(Standing::Closing);
            } else {
                left = true;
            }
        }
        self.drain_at = left.then_some(now + DRAIN_CHECK);
    }

    /// The live session with `peer` ended: one that still drains is taken back. Tells whether there was one.
    pub(super) fn take_back(&mut self, peer: PublicKey, now: Instant) -> bool {
        let drains = |open: &Open| open.peer == peer && matches!(open.standing, Standing::Draining(_));
        let Some((&id, open)) = self.sessions.iter_mut().rfind(|(_, open)| drains(open)) else {
            return false;
        };
        open.standing = Standing::Live;
        let (info, early) = (open.info.clone(), open.early.take());
        let (direction, carrier) = (info.direction, info.carrier);
        tracing::info!(peer = %peer.short(), carrier = carrier.label(), "session taken back");
        let replicates = self.streams.get(&Peer(FeedId::from_bytes(peer.to_bytes())));
        let negotiation = if replicates.is_some_and(|link| link.session == id) {
            // Its stream was not replaced yet: all is as it was.
            let mut negotiation = Negotiation::new(now, Role::Callee);
            negotiation.handle(NegotiationInput::EbtCalled);
            negotiation
        } else {
            Negotiation::new(now, role(direction))
        };
        if let Some(open) = self.sessions.get_mut(&id) {
            open.negotiation = Some(negotiation);
        }
        let class = self.class_of(peer, &info);
        self.book.connected(peer, direction, class, None, now);
        self.advance_negotiation(id);
        if let Some(stream) = early {
            self.on_ebt_called(id, stream);
        }
        self.recover_by_history(id);
        self.seek_direct(id);
        true
    }

    /// Has the overlay look for a direct connection to the peer of a relayed session.
    pub(super) fn seek_direct(&self, id: SessionId) {
        let Some(open) = self.sessions.get(&id) else { return };
        let wanted = self.ctx.config.overlay.as_ref().is_some_and(|overlay| overlay.direct);
        if let Some(path) = open.info.path.as_ref().filter(|_| wanted && open.info.carrier == Carrier::Relay)
        {
            self.ctx.overlay.seek_direct(path.id);
        }
    }

    /// A direct connection stands beside a relayed one: whoever dialled the relayed session dials another
    /// one over it, at once and beside all that the scheduler does.
    pub(super) fn on_direct_path(&mut self, relayed: PathId, endpoint: Endpoint) {
        let moves = |open: &&Open| {
            open.standing == Standing::Live
                && open.info.direction == Direction::Outbound
                && open.info.path.as_ref().is_some_and(|path| path.id == relayed)
        };
        let Some(peer) = self.sessions.values().find(moves).map(|open| open.peer) else { return };
        if let Some(next) = self.moving.get_mut(&peer) {
            // Tried when the dial under way has failed.
            *next = Some(endpoint);
            return;
        }
        self.moving.insert(peer, None);
        self.dial_direct(peer, endpoint);
    }

    fn dial_direct(&mut self, peer: PublicKey, endpoint: Endpoint) {
        tracing::debug!(peer = %peer.short(), ?endpoint, "moving a session to a direct path");
        let overlay = Arc::clone(&self.ctx.overlay);
        let msgs = self.msgs_tx.clone();
        self.spawn(async move {
            let result = Box::new(overlay.dial(peer, &endpoint).await);
            // If the engine is gone, so is the connection.
            let _ = msgs.send(Msg::MoveDialed { peer, endpoint, result }).await;
        });
    }

    /// The dial of a move is done. Its failure says nothing of the paths that we know of.
    pub(super) fn on_move_dialed(
        &mut self,
        peer: PublicKey,
        endpoint: &Endpoint,
        result: Result<Connection, DialError>,
    ) {
        let outcome = result.as_ref().map_or_else(DialError::label, |_| "ok");
        let carrier = carrier_label(endpoint);
        self.ctx.metrics.connect.dials.with_label_values(&[carrier, outcome]).inc();
        let next = self.moving.remove(&peer).flatten();
        match result {
            Ok(connection) => self.on_connected(connection, None),
            Err(error) => {
                tracing::debug!(peer = %peer.short(), %error, "a session could not be moved");
                let labels = [Carrier::Relay.label(), carrier, "failed"];
                self.ctx.metrics.connect.moves.with_label_values(&labels).inc();
                if let Some(endpoint) = next {
                    self.moving.insert(peer, None);
                    self.dial_direct(peer, endpoint);
                }
            }
        }
    }

    fn count_move(&self, from: Carrier, to: Carrier, result: &str) {
        self.ctx.metrics.connect.moves.with_label_values(&[from.label(), to.label(), result]).inc();
    }
}

impl Open {
    /// It is no longer the live one.
    pub(super) fn retire(&mut self, standing: Standing) {
        self.standing = standing;
        self.moved = true;
        self.negotiation = None;
        self.early = None;
        if standing == Standing::Closing {
            self.session.close();
        }
    }
}

/// Who calls `ebt.replicate`.
pub(super) const fn role(direction: Direction) -> Role {
    match direction {
        Direction::Outbound => Role::Caller,
        Direction::Inbound => Role::Callee,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECT_OUT: Rival = Rival { direction: Direction::Outbound, relayed: false };
    const DIRECT_IN: Rival = Rival { direction: Direction::Inbound, relayed: false };
    const RELAYED_OUT: Rival = Rival { direction: Direction::Outbound, relayed: true };
    const RELAYED_IN: Rival = Rival { direction: Direction::Inbound, relayed: true };
    const ALL: [Rival; 4] = [DIRECT_OUT, DIRECT_IN, RELAYED_OUT, RELAYED_IN];

    /// The same session as the other end sees it.
    fn mirrored(rival: Rival) -> Rival {
        let direction = match rival.direction {
            Direction::Outbound => Direction::Inbound,
            Direction::Inbound => Direction::Outbound,
        };
        Rival { direction, ..rival }
    }

    #[test]
    fn the_table_of_rivals_holds() {
        let (now, soon, late) = (Duration::ZERO, Duration::from_secs(5), Duration::from_secs(11));
        for (old, new, age, own_dials_win, stays) in [
            // A move: the direct one takes over, whoever is larger and whenever it comes.
            (RELAYED_OUT, DIRECT_OUT, now, true, false),
            (RELAYED_OUT, DIRECT_OUT, late, false, false),
            (RELAYED_IN, DIRECT_IN, soon, true, false),
            // Both dialled, one of them over a relay.
            (DIRECT_OUT, RELAYED_IN, soon, false, true),
            (RELAYED_IN, DIRECT_OUT, soon, false, false),
            // One dialled over both paths, and the relay was slower.
            (DIRECT_IN, RELAYED_IN, now, true, true),
            // It has lost its direct path.
            (DIRECT_IN, RELAYED_IN, soon, true, false),
            (DIRECT_OUT, RELAYED_IN, late, true, false),
            // Both dialled by the same kind of path: the larger key's.
            (DIRECT_OUT, DIRECT_IN, soon, true, true),
            (DIRECT_OUT, DIRECT_IN, soon, false, false),
            (RELAYED_IN, RELAYED_OUT, soon, true, false),
            (RELAYED_IN, RELAYED_OUT, soon, false, true),
            // It dials again.
            (DIRECT_OUT, DIRECT_IN, late, true, false),
            (DIRECT_IN, DIRECT_IN, now, true, false),
            (RELAYED_IN, RELAYED_IN, now, true, false),
        ] {
            assert_eq!(older_stays(old, new, age, own_dials_win), stays, "{old:?} {new:?} {age:?}");
        }
    }

    /// Also if the two sessions reach them in different orders.
    #[test]
    fn both_ends_of_one_meeting_keep_the_same_session() {
        for (one, two) in ALL.iter().flat_map(|one| ALL.map(|two| (*one, two))) {
            let same = one.direction == two.direction && one.relayed == two.relayed;
            for own_dials_win in [false, true].into_iter().filter(|_| !same) {
                let here = older_stays(one, two, Duration::ZERO, own_dials_win);
                let (a, b) = (mirrored(one), mirrored(two));
                assert_eq!(older_stays(a, b, Duration::ZERO, !own_dials_win), here, "{one:?} {two:?}");
                assert_eq!(older_stays(b, a, Duration::ZERO, !own_dials_win), !here, "{one:?} {two:?}");
            }
        }
    }
}
