//! Which of a peer's paths is dialled now, if any.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use hawsepipe_overlay::address::Endpoint;
use hawsepipe_overlay::keys::PublicKey;

use super::backoff;
use super::snapshot::{Candidate, Class, PathState, Relation};

/// How long a direct dial may take until a relay is tried beside it: most that succeed have by then.
pub const PATIENCE: Duration = Duration::from_millis(150);
/// The same on our own network, where a dial over a relay would seldom be worth it.
pub const LAN_PATIENCE: Duration = Duration::from_secs(1);
/// And a dial through one relay before another relay is tried: it may be dead without the peer's knowing.
pub const RELAY_PATIENCE: Duration = Duration::from_millis(1500);
/// Dials of one peer through relays at a time.
pub(super) const MAX_CIRCUITS: usize = 3;
/// A plan is never made again sooner than this by its own wish.
pub(super) const MIN_WAIT: Duration = Duration::from_millis(10);

/// What a peer's paths allow.
#[derive(Clone, Copy, Debug)]
pub(super) enum Choice<'a> {
    /// This one.
    Now(&'a PathState),
    /// None before then.
    At(Instant),
    /// None at all.
    Never,
}

/// The best path that may be tried now, or when the first may be.
pub(super) fn best(own: PublicKey, peer: &Candidate, now: Instant) -> Choice<'_> {
    best_of(own, peer, peer.paths.iter(), now)
}

/// The relayed path to be tried beside a dial that takes its time, or when.
pub(super) fn beside(own: PublicKey, peer: &Candidate, now: Instant) -> Choice<'_> {
    let is_relayed = |path: &&PathState| path.class == Class::Relayed;
    let under_way = || peer.paths.iter().filter(|path| path.dialing);
    let circuits = under_way().filter(is_relayed).count();
    if circuits >= MAX_CIRCUITS || peer.relation == Relation::Blocked {
        return Choice::Never;
    }
    let due = |path: &PathState| Some(path.last_attempt? + patience(path.class));
    // Of circuits the last counts: each gets its time before another is tried.
    let due = match circuits {
        0 => under_way().filter_map(due).min(),
        _ => under_way().filter(is_relayed).filter_map(due).max(),
    };
    let Some(due) = due else { return Choice::Never };
    let relayed = peer.paths.iter().filter(is_relayed).filter(|path| !path.dialing);
    match best_of(own, peer, relayed, now) {
        Choice::Now(_) if now < due => Choice::At(due),
        Choice::At(when) => Choice::At(when.max(due)),
        choice @ (Choice::Now(_) | Choice::Never) => choice,
    }
}

/// How long a dial is given before a relay is tried beside it.
const fn patience(class: Class) -> Duration {
    match class {
        Class::Lan => LAN_PATIENCE,
        Class::Direct => PATIENCE,
        Class::Relayed => RELAY_PATIENCE,
    }
}

fn best_of<'a>(
    own: PublicKey,
    peer: &Candidate,
    paths: impl Iterator<Item = &'a PathState>,
    now: Instant,
) -> Choice<'a> {
    let mut best: Option<&PathState> = None;
    let mut soonest: Option<Instant> = None;
    for path in paths {
        let from = backoff::earliest(own, peer, path);
        if from.is_none_or(|from| from <= now) {
            let better = best.is_none_or(|best| rank(path) < rank(best));
            best = if better { Some(path) } else { best };
        } else if let Some(from) = from {
            soonest = Some(soonest.map_or(from, |at| at.min(from)));
        }
    }
    match (best, soonest) {
        (Some(path), _) => Choice::Now(path),
        (None, Some(at)) => Choice::At(at.max(now + MIN_WAIT)),
        (None, None) => Choice::Never,
    }
}

/// The rank of a path among a peer's paths, the least being the best: the one that works, the nearest, the one that
/// the peer itself named last, then libp2p before plain TCP (it can hole-punch and move later).
fn rank(path: &PathState) -> (u32, Class, Reverse<Option<Instant>>, u8) {
    let carrier = match &path.endpoint {
        Endpoint::Unix(_) => 0,
        Endpoint::Libp2p(address) if address.contains("/quic") => 1,
        Endpoint::Libp2p(_) => 2,
        Endpoint::Net { .. } => 3,
        Endpoint::Other(_) => 4,
    };
    (path.failures, path.class, Reverse(path.said), carrier)
}
