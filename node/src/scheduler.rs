//! Whom to dial and whom to drop, as a pure function: [`plan`] looks at a [`Snapshot`] and a [`Policy`]
//! and says what to do now and when to look again. It reads no clock and draws no random number (jitter
//! is a hash), so the same snapshot always gives the same plan.
//!
//! The rules, in the order they apply to a peer:
//! 1. never a blocked peer, ourselves, or one we have a session with or are dialling (but see 5);
//! 2. only peers someone asked for, peers within the replication hops, and peers on our own network
//!    ([`Policy::lan_strangers`]);
//! 3. not before its back-off has passed ([`backoff`]), counted per path, not per peer;
//! 4. best rank first ([`rank`]) while there are free slots;
//! 5. a peer that is being dialled is dialled over a relay, or another relay, as well if that takes longer
//!    than usual ([`PATIENCE`], [`LAN_PATIENCE`], [`RELAY_PATIENCE`]): the first session wins, and a direct
//!    one that comes later takes over. At most one direct dial and [`MAX_CIRCUITS`] relayed are under way.
//!
//! Sessions over the limit are dropped worst rank first.

pub mod backoff;
pub mod rank;
pub mod snapshot;

use std::time::{Duration, Instant};

use hawsepipe_overlay::address::Endpoint;
use hawsepipe_overlay::keys::PublicKey;

pub use snapshot::{Candidate, Class, Link, PathState, Relation, Snapshot};

/// How long a direct dial may take until a relay is tried beside it: most that succeed have by then.
pub const PATIENCE: Duration = Duration::from_millis(150);
/// The same on our own network, where a dial over a relay would seldom be worth it.
pub const LAN_PATIENCE: Duration = Duration::from_secs(1);
/// And a dial through one relay before another relay is tried: it may be dead without the peer's knowing.
pub const RELAY_PATIENCE: Duration = Duration::from_millis(1500);
/// Dials of one peer through relays at a time.
const MAX_CIRCUITS: usize = 3;

/// What the operator allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether anything is dialled without being asked for.
    pub autostart: bool,
    /// Feeds up to this distance are replicated, so peers up to it are worth dialling.
    pub hops: u32,
    /// Sessions that we dialled by ourselves, at most.
    pub max_outbound: usize,
    /// Dials under way at once, at most.
    pub max_dialing: usize,
    /// Whether peers on our own network are dialled although nobody follows them.
    pub lan_strangers: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self { autostart: true, hops: 2, max_outbound: 24, max_dialing: 8, lan_strangers: true }
    }
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Peers to dial, best first.
    pub dial: Vec<Dial>,
    /// Peers whose session is to be closed.
    pub drop: Vec<(PublicKey, DropReason)>,
    /// When the plan changes although nothing happens.
    pub wake_at: Option<Instant>,
    /// How many peers were passed over, by reason, for the operator.
    pub passed: Passed,
}

/// One dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Whom.
    pub peer: PublicKey,
    /// Over what.
    pub endpoint: Endpoint,
}

/// Why a session is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// We block this key now.
    Blocked,
    /// There are better peers for the slot.
    OverLimit,
}

/// Peers that are not dialled now, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Their back-off has not passed.
    pub waiting: usize,
    /// Nothing we want is to be had from them.
    pub uninteresting: usize,
    /// No free slot.
    pub full: usize,
}

/// Looks at everything and decides. See the module's header for the rules.
pub fn plan(snapshot: &Snapshot, policy: &Policy, now: Instant) -> Plan {
    let mut plan = Plan { drop: drops(snapshot, policy), ..Plan::default() };
    let dropped = plan.drop.len();
    let outbound = snapshot.peers.iter().filter(|peer| peer.link == Link::Outbound).count();
    let dialing = snapshot.peers.iter().filter(|peer| peer.link == Link::Dialing).count();
    let slots = (policy.max_outbound + dropped).saturating_sub(outbound + dialing);
    let slots = slots.min(policy.max_dialing.saturating_sub(dialing));

    let mut ready = Vec::new();
    for peer in snapshot.peers.iter().filter(|peer| peer.link == Link::None) {
        if !worth_dialling(peer, policy) {
            plan.passed.uninteresting += 1;
            continue;
        }
        match best_path(snapshot.own, peer, now) {
            Choice::Now(path) => ready.push((rank::rank(peer, path), peer, path)),
            Choice::At(when) => {
                plan.passed.waiting += 1;
                plan.wake_at = Some(plan.wake_at.map_or(when, |at| at.min(when)));
            }
            Choice::Never => plan.passed.uninteresting += 1,
        }
    }
    let mut beside = Vec::new();
    for peer in snapshot.peers.iter().filter(|peer| peer.link == Link::Dialing) {
        match second_path(snapshot.own, peer, now) {
            Choice::Now(path) => beside.push(Dial { peer: peer.key, endpoint: path.endpoint.clone() }),
            Choice::At(when) => plan.wake_at = Some(plan.wake_at.map_or(when, |at| at.min(when))),
            Choice::Never => {}
        }
    }
    ready.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.key.cmp(&b.1.key)));
    plan.passed.full = ready.len().saturating_sub(slots);
    let chosen = ready.into_iter().take(slots);
    plan.dial =
        chosen.map(|(_, peer, path)| Dial { peer: peer.key, endpoint: path.endpoint.clone() }).collect();
    plan.dial.extend(beside);
    plan
}

fn worth_dialling(peer: &Candidate, policy: &Policy) -> bool {
    if peer.relation == Relation::Blocked {
        return false;
    }
    if peer.asked_for {
        return true;
    }
    policy.autostart
        && match peer.relation {
            Relation::Blocked => false,
            Relation::Hops(hops) => hops <= policy.hops,
            Relation::Stranger => {
                policy.lan_strangers && peer.paths.iter().any(|path| path.class == Class::Lan)
            }
        }
}

fn drops(snapshot: &Snapshot, policy: &Policy) -> Vec<(PublicKey, DropReason)> {
    let live = |peer: &&Candidate| matches!(peer.link, Link::Outbound | Link::Inbound);
    let blocked = snapshot.peers.iter().filter(live).filter(|peer| peer.relation == Relation::Blocked);
    let mut drops: Vec<_> = blocked.map(|peer| (peer.key, DropReason::Blocked)).collect();

    let kept = |peer: &&Candidate| peer.link == Link::Outbound && peer.relation != Relation::Blocked;
    let mut outbound: Vec<_> = snapshot.peers.iter().filter(kept).collect();
    outbound.sort_by_key(|peer| (rank::of_session(peer), peer.key));
    let excess = outbound.into_iter().skip(policy.max_outbound);
    drops.extend(excess.filter(|peer| !peer.asked_for).map(|peer| (peer.key, DropReason::OverLimit)));
    drops
}

enum Choice<'a> {
    Now(&'a PathState),
    At(Instant),
    Never,
}

/// The best path that may be tried now, or when the first may be.
fn best_path(own: PublicKey, peer: &Candidate, now: Instant) -> Choice<'_> {
    best_of(own, peer, peer.paths.iter(), now)
}

/// The relayed path to be tried beside a dial that takes its time, or when.
fn second_path(own: PublicKey, peer: &Candidate, now: Instant) -> Choice<'_> {
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
        let from = backoff::earliest(own, peer.key, path);
        if from.is_none_or(|from| from <= now) {
            let better = best.is_none_or(|best| rank::of_path(path) < rank::of_path(best));
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

/// The plan is never made again sooner than this by its own wish.
const MIN_WAIT: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> PublicKey {
        PublicKey::from_bytes([n; 32])
    }

    fn path(class: Class) -> PathState {
        let endpoint = Endpoint::Net { host: "192.0.2.1".into(), port: 8008 };
        PathState {
            endpoint,
            class,
            discovered: None,
            said: None,
            failures: 0,
            last_attempt: None,
            last_ended: None,
            dialing: false,
        }
    }

    fn circuit() -> PathState {
        let relay = "/ip4/192.0.2.9/udp/1/quic-v1/p2p/12D3KooR/p2p-circuit/p2p/12D3KooP";
        PathState { endpoint: Endpoint::Libp2p(relay.into()), ..path(Class::Relayed) }
    }

    fn peer(n: u8, relation: Relation, class: Class) -> Candidate {
        Candidate { key: key(n), relation, link: Link::None, asked_for: false, paths: vec![path(class)] }
    }

    fn snapshot(peers: Vec<Candidate>) -> Snapshot {
        Snapshot { own: key(0), peers }
    }

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
        Instant::now()
    }

    fn dialled(plan: &Plan) -> Vec<PublicKey> {
        plan.dial.iter().map(|dial| dial.peer).collect()
    }

    #[test]
    fn friends_come_before_strangers_and_blocked_peers_never() {
        let peers = vec![
            peer(1, Relation::Stranger, Class::Lan),
            peer(2, Relation::Hops(2), Class::Direct),
            peer(3, Relation::Hops(1), Class::Direct),
            peer(4, Relation::Blocked, Class::Lan),
            peer(5, Relation::Hops(3), Class::Direct),
            peer(6, Relation::Stranger, Class::Direct),
        ];
        let plan = plan(&snapshot(peers), &Policy::default(), start());
        assert_eq!(dialled(&plan), [key(3), key(2), key(1)]);
        assert_eq!(plan.passed.uninteresting, 3);
    }

    #[test]
    fn without_autostart_only_what_was_asked_for_is_dialled() {
        let mut peers =
            vec![peer(1, Relation::Hops(1), Class::Lan), peer(2, Relation::Stranger, Class::Direct)];
        peers[1].asked_for = true;
        let policy = Policy { autostart: false, ..Policy::default() };
        assert_eq!(dialled(&plan(&snapshot(peers), &policy, start())), [key(2)]);
    }

    #[test]
    fn a_failed_path_waits_and_the_plan_says_until_when() {
        let now = start();
        let mut failed = peer(1, Relation::Hops(1), Class::Direct);
        failed.paths[0].failures = 1;
        failed.paths[0].last_attempt = Some(now);
        let first = plan(&snapshot(vec![failed.clone()]), &Policy::default(), now);
        assert_eq!(dialled(&first), []);
        let wake = first.wake_at.expect("a retry is due some time");
        assert_eq!(dialled(&plan(&snapshot(vec![failed]), &Policy::default(), wake)), [key(1)]);
    }

    #[test]
    fn another_path_is_tried_while_one_backs_off() {
        let now = start();
        let mut peer = peer(1, Relation::Hops(1), Class::Direct);
        peer.paths[0].failures = 3;
        peer.paths[0].last_attempt = Some(now);
        peer.paths.push(PathState {
            endpoint: Endpoint::Net { host: "192.0.2.2".into(), port: 1 },
            ..path(Class::Direct)
        });
        let plan = plan(&snapshot(vec![peer]), &Policy::default(), now);
        assert_eq!(plan.dial[0].endpoint, Endpoint::Net { host: "192.0.2.2".into(), port: 1 });
    }

    #[test]
    fn of_two_circuits_the_one_that_the_peer_named_last_is_dialled() {
        let now = start();
        let circuit_at = |host: u8, said| PathState {
            endpoint: Endpoint::Libp2p(format!("/ip4/192.0.2.{host}/tcp/1/p2p/12D3KooR/p2p-circuit")),
            said,
            ..path(Class::Relayed)
        };
        let (old, new) = (Some(now), Some(now + Duration::from_secs(60)));
        let paths = vec![circuit_at(1, None), circuit_at(2, old), circuit_at(3, new), circuit_at(4, old)];
        let mut peer = Candidate { paths, ..peer(1, Relation::Hops(1), Class::Relayed) };
        let chosen = |peer: &Candidate| {
            plan(&snapshot(vec![peer.clone()]), &Policy::default(), now).dial[0].endpoint.clone()
        };
        assert_eq!(chosen(&peer), peer.paths[2].endpoint);
        peer.paths.push(path(Class::Direct));
        assert_eq!(chosen(&peer), peer.paths[4].endpoint, "nearness weighs more");
    }

    #[test]
    fn a_relay_is_tried_beside_a_direct_dial_that_takes_its_time() {
        let now = start();
        let ms = Duration::from_millis;
        for (class, patience) in [(Class::Direct, PATIENCE), (Class::Lan, LAN_PATIENCE)] {
            let mut both = peer(1, Relation::Hops(1), class);
            both.paths.push(circuit());
            let first = plan(&snapshot(vec![both.clone()]), &Policy::default(), now);
            assert_eq!(first.dial, [Dial { peer: key(1), endpoint: both.paths[0].endpoint.clone() }]);

            both.link = Link::Dialing;
            both.paths[0].dialing = true;
            both.paths[0].last_attempt = Some(now);
            let relayed = |peer: &Candidate, at| {
                let plan = plan(&snapshot(vec![peer.clone()]), &Policy::default(), at);
                (plan.dial.iter().any(|dial| dial.endpoint == circuit().endpoint), plan.wake_at)
            };
            assert_eq!(relayed(&both, now + patience - ms(1)), (false, Some(now + patience)));
            assert_eq!(relayed(&both, now + patience), (true, None));

            let mut backing_off = both.clone();
            backing_off.paths[1].failures = 1;
            backing_off.paths[1].last_attempt = Some(now);
            let (dials, wake) = relayed(&backing_off, now + patience);
            assert!(!dials && wake > Some(now + patience));

            both.paths[1].dialing = true;
            both.paths[1].last_attempt = Some(now + patience);
            assert_eq!(relayed(&both, now + ms(5000)), (false, None), "one dial of each kind");
        }
    }

    #[test]
    fn another_relay_is_tried_when_one_does_not_answer() {
        let now = start();
        let mut peer = peer(1, Relation::Hops(1), Class::Direct);
        let relays = ["R", "S", "T", "U"].map(|relay| PathState {
            endpoint: Endpoint::Libp2p(format!("/ip4/192.0.2.9/udp/1/quic-v1/p2p/{relay}/p2p-circuit/p2p/P")),
            ..path(Class::Relayed)
        });
        peer.paths = relays.to_vec();
        peer.link = Link::Dialing;
        for tried in 1..=MAX_CIRCUITS {
            let at = now + RELAY_PATIENCE * (tried as u32 - 1);
            peer.paths[tried - 1].dialing = true;
            peer.paths[tried - 1].last_attempt = Some(at);
            let due = at + RELAY_PATIENCE;
            let soon = plan(&snapshot(vec![peer.clone()]), &Policy::default(), due - MIN_WAIT);
            assert_eq!(soon.dial, []);
            let then = plan(&snapshot(vec![peer.clone()]), &Policy::default(), due).dial;
            assert_eq!(then.len(), usize::from(tried < MAX_CIRCUITS), "after {tried}");
            assert!(then.iter().all(|dial| dial.endpoint == peer.paths[tried].endpoint));
        }
    }

    #[test]
    fn a_relay_comes_after_direct_paths_and_before_those_that_failed() {
        let now = start();
        for (failures, class) in [(0, Class::Direct), (1, Class::Relayed)] {
            let mut both = peer(1, Relation::Hops(1), Class::Direct);
            both.paths.insert(0, circuit());
            both.paths[1].failures = failures;
            let dials = plan(&snapshot(vec![both.clone()]), &Policy::default(), now).dial;
            let dialled = both.paths.iter().find(|path| path.endpoint == dials[0].endpoint).unwrap();
            assert_eq!((dials.len(), dialled.class), (1, class));
        }
        let by_relay = Candidate { paths: vec![circuit()], ..peer(1, Relation::Hops(1), Class::Relayed) };
        let peers =
            vec![by_relay, peer(2, Relation::Hops(1), Class::Direct), peer(3, Relation::Hops(1), Class::Lan)];
        let dials = plan(&snapshot(peers), &Policy::default(), now);
        assert_eq!(dialled(&dials), [key(3), key(2), key(1)]);
    }

    #[test]
    fn a_block_closes_the_session_and_slots_are_never_exceeded() {
        let mut peers: Vec<_> = (1..60).map(|n| peer(n, Relation::Hops(1), Class::Direct)).collect();
        for peer in &mut peers[..30] {
            peer.link = Link::Outbound;
        }
        peers[3].relation = Relation::Blocked;
        let plan = plan(&snapshot(peers), &Policy::default(), start());
        assert!(plan.drop.contains(&(key(4), DropReason::Blocked)));
        assert_eq!(plan.drop.len(), 1 + 29 - Policy::default().max_outbound);
        assert!(plan.dial.is_empty());
    }

    #[test]
    fn the_same_snapshot_gives_the_same_plan() {
        let now = start();
        let peers: Vec<_> = (1..40).map(|n| peer(n, Relation::Hops(u32::from(n % 3)), Class::Lan)).collect();
        let snapshot = snapshot(peers);
        assert_eq!(plan(&snapshot, &Policy::default(), now), plan(&snapshot, &Policy::default(), now));
    }
}
