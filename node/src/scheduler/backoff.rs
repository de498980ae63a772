//! When a path may be tried again: exponential in its failures, spread by a hash so that many nodes which
//! lost the same peer do not return in one instant.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use hawsepipe_overlay::keys::PublicKey;

use super::snapshot::{Class, PathState};

/// Pause after the first failure on the local network, and after a session there ended.
const LAN_BASE: Duration = Duration::from_secs(2);
/// The longest pause on the local network: a peer that comes back should be met within a minute.
const LAN_MAX: Duration = Duration::from_secs(60);
/// Pause after the first failure elsewhere.
const DIRECT_BASE: Duration = Duration::from_secs(4);
/// The longest pause elsewhere.
const DIRECT_MAX: Duration = Duration::from_secs(600);
/// Pause after a session over a relay ended: a circuit ends by its limits and says nothing of the peer.
const RELAYED_PAUSE: Duration = Duration::from_secs(1);
/// Pause after the first failure over a relay.
const RELAYED_BASE: Duration = Duration::from_secs(2);
/// The longest pause over a relay.
const RELAYED_MAX: Duration = Duration::from_secs(300);
/// Between two dials over a path that the peer names itself, however often it does so.
const NAMED_PAUSE: Duration = Duration::from_secs(2);
/// Two peers that discover each other in the same moment would dial each other twice: the one with the
/// smaller key lets the other go first for this long.
const POLITENESS: Duration = Duration::from_millis(1500);

/// The first instant at which `path` may be dialled; `None` is at once.
pub fn earliest(own: PublicKey, peer: PublicKey, path: &PathState) -> Option<Instant> {
    let (pause, base, max) = match path.class {
        Class::Lan => (LAN_BASE, LAN_BASE, LAN_MAX),
        Class::Direct => (DIRECT_BASE, DIRECT_BASE, DIRECT_MAX),
        Class::Relayed => (RELAYED_PAUSE, RELAYED_BASE, RELAYED_MAX),
    };
    let after_attempt = path.last_attempt.filter(|_| path.failures > 0).map(|at| {
        let doubled = base.saturating_mul(1 << (path.failures - 1).min(12)).min(max);
        at + doubled + doubled.mul_f64(jitter(own, peer, path.failures) / 2.0)
    });
    let after_session = path.last_ended.map(|at| at + pause.mul_f64(1.0 + jitter(own, peer, 0)));
    let first = path.discovered.filter(|_| path.class == Class::Lan && own < peer).map(|at| at + POLITENESS);
    let named = path.last_attempt.filter(|_| path.said.is_some()).map(|at| at + NAMED_PAUSE);
    [after_attempt, after_session, first, named].into_iter().flatten().max()
}

/// From 0 to 1, the same for the same arguments.
fn jitter(own: PublicKey, peer: PublicKey, attempt: u32) -> f64 {
    let mut hasher = DefaultHasher::new();
    (own, peer, attempt).hash(&mut hasher);
    hasher.finish() as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use hawsepipe_overlay::address::Endpoint;

    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_are_spread() {
        #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
        let now = Instant::now();
        let (own, peer) = (PublicKey::from_bytes([1; 32]), PublicKey::from_bytes([2; 32]));
        for (class, base, max) in [
            (Class::Lan, LAN_BASE, LAN_MAX),
            (Class::Direct, DIRECT_BASE, DIRECT_MAX),
            (Class::Relayed, RELAYED_BASE, RELAYED_MAX),
        ] {
            let pause = |failures| {
                let path = PathState { failures, last_attempt: Some(now), ..path(class) };
                earliest(own, peer, &path).map(|at| at - now)
            };
            assert_eq!(pause(0), None);
            let pauses: Vec<_> = (1..30).map(|n| pause(n).unwrap()).collect();
            assert!(pauses[0] >= base && pauses[0] <= base.mul_f64(1.5));
            assert!(pauses.iter().all(|pause| *pause <= max.mul_f64(1.5)));
            assert!(pauses[28] >= max);
        }
    }

    #[test]
    fn a_relay_is_tried_again_soon_after_a_session_over_it_ended() {
        #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
        let now = Instant::now();
        let (own, peer) = (PublicKey::from_bytes([1; 32]), PublicKey::from_bytes([2; 32]));
        let ended = PathState { last_ended: Some(now), ..path(Class::Relayed) };
        let pause = earliest(own, peer, &ended).unwrap() - now;
        assert!(pause >= RELAYED_PAUSE && pause <= 2 * RELAYED_PAUSE, "{pause:?}");
    }

    #[test]
    fn a_peer_that_names_a_path_again_and_again_is_not_dialled_at_that_pace() {
        #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
        let now = Instant::now();
        let (own, peer) = (PublicKey::from_bytes([1; 32]), PublicKey::from_bytes([2; 32]));
        let named = PathState { said: Some(now), ..path(Class::Relayed) };
        assert_eq!(earliest(own, peer, &named), None);
        let tried = PathState { last_attempt: Some(now), ..named };
        assert_eq!(earliest(own, peer, &tried), Some(now + NAMED_PAUSE));
        let failed = PathState { failures: 3, ..tried };
        assert!(earliest(own, peer, &failed) > Some(now + NAMED_PAUSE));
    }

    fn path(class: Class) -> PathState {
        PathState {
            endpoint: Endpoint::Net { host: "h".into(), port: 1 },
            class,
            discovered: None,
            said: None,
            failures: 0,
            last_attempt: None,
            last_ended: None,
            dialing: false,
        }
    }
}
