//! When a path may be tried again: exponential in its failures, spread by a hash so that many nodes which
//! lost the same peer do not return in one instant.
//!
//! It is counted per path, so that a failed punch does not stop a dial over a relay. Beside that each class of paths
//! of a peer has a count of its own, from [`CLASS_FREE`] failures on: a thousand addresses for one key, all of them
//! wrong, are tried no faster than one.

use std::time::{Duration, Instant};

use hawsepipe_overlay::keys::PublicKey;

use super::snapshot::{Candidate, Class, DEFUNCT_FAILURES, PathState};

/// Pause after the first failure on the local network, and after a session there ended.
const LAN_BASE: Duration = Duration::from_secs(2);
/// The longest pause on the local network: a peer that comes back should be met within a minute.
const LAN_MAX: Duration = Duration::from_secs(60);
/// Pause after the first failure elsewhere.
const DIRECT_BASE: Duration = Duration::from_secs(4);
/// The longest pause elsewhere, while there is hope.
const DIRECT_MAX: Duration = Duration::from_secs(600);
/// Pause after a session over a relay ended: a circuit ends by its limits and says nothing of the peer.
const RELAYED_PAUSE: Duration = Duration::from_secs(1);
/// Pause after the first failure over a relay.
const RELAYED_BASE: Duration = Duration::from_secs(2);
/// The longest pause over a relay, while there is hope.
const RELAYED_MAX: Duration = Duration::from_secs(300);
/// The longest pause where there is none: the dead are looked at once a day, in case.
const DEFUNCT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Between two dials over a path that the peer names itself, however often it does so.
const NAMED_PAUSE: Duration = Duration::from_secs(2);
/// Two peers that discover each other in the same moment would dial each other twice: the one with the
/// smaller key lets the other go first for this long.
const POLITENESS: Duration = Duration::from_millis(1500);
/// Failures over different paths of one class that cost nothing: an honest peer may have moved.
const CLASS_FREE: u32 = 4;

/// The first instant at which `path` of `peer` may be dialled; `None` is at once.
pub fn earliest(own: PublicKey, peer: &Candidate, path: &PathState) -> Option<Instant> {
    // The usual case of a path that was never tried and comes from a file: nothing to compute.
    let dials = peer.dials[path.class.index()];
    if path.last_attempt.is_none() && path.last_ended.is_none() && dials.failures <= CLASS_FREE {
        return path
            .discovered
            .filter(|_| path.class == Class::Lan && own < peer.key)
            .map(|at| at + POLITENESS);
    }
    let spread = |failures: u32| 1.0 + jitter(own, peer.key, failures) / 2.0;
    let after = |last: Option<Instant>, failures: u32| {
        let at = last.filter(|_| failures > 0)?;
        Some(at + pause(path.class, failures).mul_f64(spread(failures)))
    };
    let after_session =
        path.last_ended.map(|at| at + after_session(path.class).mul_f64(1.0 + jitter(own, peer.key, 0)));
    let first =
        path.discovered.filter(|_| path.class == Class::Lan && own < peer.key).map(|at| at + POLITENESS);
    let named = path.last_attempt.filter(|_| path.said.is_some()).map(|at| at + NAMED_PAUSE);
    let of_path = after(path.last_attempt, path.failures);
    let of_class = after(dials.last, dials.failures.saturating_sub(CLASS_FREE));
    [of_path, of_class, after_session, first, named].into_iter().flatten().max()
}

/// The pause after so many failures in a row, before it is spread.
fn pause(class: Class, failures: u32) -> Duration {
    let (base, max) = match class {
        Class::Lan => (LAN_BASE, LAN_MAX),
        Class::Direct => (DIRECT_BASE, DIRECT_MAX),
        Class::Relayed => (RELAYED_BASE, RELAYED_MAX),
    };
    let doubled = |base: Duration, times: u32| base.saturating_mul(1 << times.min(16));
    let hoped = doubled(base, failures.saturating_sub(1)).min(max);
    // What the local network announces is there, or will be.
    if class == Class::Lan || failures < DEFUNCT_FAILURES {
        return hoped;
    }
    doubled(max, failures - DEFUNCT_FAILURES + 1).min(DEFUNCT_MAX)
}

const fn after_session(class: Class) -> Duration {
    match class {
        Class::Lan => LAN_BASE,
        Class::Direct => DIRECT_BASE,
        Class::Relayed => RELAYED_PAUSE,
    }
}

/// From 0 to 1, the same for the same arguments. Keys are random already, so eight bytes of each, mixed as SplitMix does, are
/// enough; it is asked for ten thousand peers at a time.
pub(super) fn jitter(own: PublicKey, peer: PublicKey, attempt: u32) -> f64 {
    let number = |key: PublicKey| {
        let [a, b, c, d, e, f, g, h, ..] = key.to_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    };
    let mut mixed = number(own).rotate_left(17) ^ number(peer);
    mixed = mixed.wrapping_add((u64::from(attempt) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use hawsepipe_overlay::address::Endpoint;

    use super::super::snapshot::{Dials, Relation};
    use super::*;

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
        Instant::now()
    }

    const OWN: PublicKey = PublicKey::from_bytes([1; 32]);

    fn path(class: Class) -> PathState {
        PathState::new(Endpoint::Net { host: "h".into(), port: 1 }, class)
    }

    fn peer() -> Candidate {
        Candidate::new(PublicKey::from_bytes([2; 32]), Relation::Stranger)
    }

    #[test]
    fn pauses_grow_are_spread_and_grow_beyond_hope_where_nobody_answers() {
        let now = start();
        for (class, base, max, last) in [
            (Class::Lan, LAN_BASE, LAN_MAX, LAN_MAX),
            (Class::Direct, DIRECT_BASE, DIRECT_MAX, DEFUNCT_MAX),
            (Class::Relayed, RELAYED_BASE, RELAYED_MAX, DEFUNCT_MAX),
        ] {
            let pause = |failures| {
                let path = PathState { failures, last_attempt: Some(now), ..path(class) };
                earliest(OWN, &peer(), &path).map(|at| at - now)
            };
            assert_eq!(pause(0), None);
            let pauses: Vec<_> = (1..60).map(|n| pause(n).unwrap()).collect();
            assert!(pauses[0] >= base && pauses[0] <= base.mul_f64(1.5));
            let hoped = &pauses[..DEFUNCT_FAILURES as usize - 1];
            assert!(hoped.iter().all(|pause| *pause <= max.mul_f64(1.5)));
            assert!(pauses.iter().all(|pause| *pause <= last.mul_f64(1.5)));
            assert!(pauses[58] >= last);
        }
    }

    #[test]
    fn a_relay_is_tried_again_soon_after_a_session_over_it_ended() {
        let now = start();
        let ended = PathState { last_ended: Some(now), ..path(Class::Relayed) };
        let pause = earliest(OWN, &peer(), &ended).unwrap() - now;
        assert!(pause >= RELAYED_PAUSE && pause <= 2 * RELAYED_PAUSE, "{pause:?}");
    }

    #[test]
    fn a_peer_that_names_a_path_again_and_again_is_not_dialled_at_that_pace() {
        let now = start();
        let named = PathState { said: Some(now), ..path(Class::Relayed) };
        assert_eq!(earliest(OWN, &peer(), &named), None);
        let tried = PathState { last_attempt: Some(now), ..named };
        assert_eq!(earliest(OWN, &peer(), &tried), Some(now + NAMED_PAUSE));
        let failed = PathState { failures: 3, ..tried };
        assert!(earliest(OWN, &peer(), &failed) > Some(now + NAMED_PAUSE));
    }

    #[test]
    fn a_fresh_address_after_many_wrong_ones_waits_like_an_old_one_but_not_another_class() {
        let now = start();
        let mut peer = peer();
        peer.dials[Class::Direct.index()] = Dials { failures: CLASS_FREE, last: Some(now) };
        assert_eq!(earliest(OWN, &peer, &path(Class::Direct)), None);
        peer.dials[Class::Direct.index()].failures += 8;
        assert!(earliest(OWN, &peer, &path(Class::Direct)).unwrap() >= now + DIRECT_BASE * (1 << 7));
        assert_eq!(earliest(OWN, &peer, &path(Class::Relayed)), None);
    }
}
