//! When a session moves, and where to: a choice over what is known of the paths to its peer.
//!
//! - Off a path that is gone or silent, at once, to the best that stands; if none does, one is sought. Paths that stood
//!   already when one fell silent are probably as dead, whatever their kind: they are tried while another is sought, and
//!   left for the first that has come about since.
//! - From a relay to a direct path as soon as one stands.
//! - To another circuit before a relay's grant is used up; one is sought in time.
//! - From one direct path to another only if it is clearly better, has shown that it lasts, and the session has
//!   rested: within a LAN before anything else, by IPv6 or a shorter round trip.
//!
//! It never flaps: a path that was left because it was silent is not taken again for [`BARRED`] unless there is no
//! other, and a session that went to a better one rests for [`REST`].

use std::cmp::Reverse;
use std::time::{Duration, Instant};

/// How long a path that was left for its silence is passed over.
pub(crate) const BARRED: Duration = Duration::from_secs(30);
/// How long a session stays where it is before it moves only for the better.
pub(crate) const REST: Duration = Duration::from_secs(30);
/// How long a direct path must have stood to be taken in place of another direct one.
const LASTING: Duration = Duration::from_secs(10);
/// By how much a round trip must be shorter: by this …
const SHORTER_BY: Duration = Duration::from_millis(5);
/// … and to less than this many percent.
const SHORTER_TO: u32 = 75;
/// What IPv6, which needs no NAT to stay awake, may cost.
const IPV6_BONUS: Duration = Duration::from_millis(3);
/// Another circuit is taken when less than this many percent of a grant are left.
const RESERVE: u64 = 25;
/// One in so many of the bytes of sessions comes on top: Noise, Yamux and what is carried for no session.
const OVERHEAD: u64 = 20;
/// One in so many of the bytes granted is never used for sessions: the circuit's own handshake was carried before
/// anybody counted.
const UNCOUNTED: u64 = 16;

/// What kind of path it is; the better one is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A circuit through a relay.
    Relay,
    Direct,
    /// Within a local network.
    Near,
}

/// How many bytes a relay lets a circuit carry, both ways together, and how many it has carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    granted: u64,
    used: u64,
}

impl Allowance {
    /// Of what was granted so many bytes of sessions are used.
    pub(crate) const fn new(granted: u64, carried: u64) -> Self {
        Self { granted, used: carried.saturating_add(carried / OVERHEAD) }
    }

    /// Whether it is time to look for another circuit.
    pub(crate) const fn runs_out(self) -> bool {
        self.granted.saturating_sub(self.used) < self.granted / 100 * RESERVE
    }

    /// How many bytes may be on their way that the other end has not acknowledged. It sends as well, and what it has
    /// sent is not known here before it comes: if neither has more on its way than half of what is left as it sees
    /// it, both together stay within the grant.
    pub(crate) const fn window(self) -> u64 {
        (self.granted - self.granted / UNCOUNTED).saturating_sub(self.used) / 2
    }
}

/// What a relay has granted for a circuit, and what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) bytes: Option<Allowance>,
    /// For how long, and until when.
    pub(crate) time: Option<(Duration, Instant)>,
}

impl Grant {
    /// Whether it is time to look for another circuit.
    fn runs_out(&self, now: Instant) -> bool {
        let soon = |(granted, until): (Duration, Instant)| {
            until.saturating_duration_since(now).as_millis() < granted.as_millis() / 100 * u128::from(RESERVE)
        };
        self.bytes.is_some_and(Allowance::runs_out) || self.time.is_some_and(soon)
    }
}

/// A connection to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path<P> {
    pub(crate) id: P,
    pub(crate) kind: Kind,
    pub(crate) ipv6: bool,
    pub(crate) round_trip: Option<Duration>,
    /// It was asked and does not answer.
    pub(crate) silent: bool,
    /// Passed over until then.
    pub(crate) barred: Option<Instant>,
    pub(crate) since: Instant,
    /// Of a circuit.
    pub(crate) grant: Option<Grant>,
}

/// What a session is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<P> {
    Stay,
    /// Move to this path.
    Move(P),
    /// Try to move to this path, which stood when the one of now fell silent, and seek another meanwhile.
    Try(P),
    /// Find any other path: there is none to move to.
    Seek,
    /// Find another circuit.
    SeekCircuit,
}

impl<P> Path<P> {
    /// Whether it may be trusted though another fell silent at this time.
    fn is_newer_than(&self, lost: Option<Instant>) -> bool {
        lost.is_none_or(|lost| self.since >= lost)
    }

    /// Whether it is not passed over now.
    fn is_free(&self, now: Instant) -> bool {
        !self.silent && self.barred.is_none_or(|until| until <= now)
    }
}

/// What the session with `paths` to its peer is to do. It runs on `current` since `since`, which fell silent at `lost`.
pub(crate) fn choose<P: Copy + Ord>(
    current: Option<P>,
    since: Instant,
    lost: Option<Instant>,
    paths: &[Path<P>],
    now: Instant,
) -> Step<P> {
    let here = paths.iter().find(|path| Some(path.id) == current);
    let others = || paths.iter().filter(|path| Some(path.id) != current && !path.silent);
    let free = || others().filter(|path| path.is_free(now));
    let Some(here) = here.filter(|here| !here.silent) else {
        let rank = |path: &&Path<P>| (path.is_newer_than(lost), rank(path, now));
        let best = free().max_by_key(rank).or_else(|| others().max_by_key(rank));
        return best.map_or(Step::Seek, |path| {
            if path.is_newer_than(lost) { Step::Move(path.id) } else { Step::Try(path.id) }
        });
    };
    let best = |kept: &dyn Fn(&&Path<P>) -> bool| free().filter(kept).max_by_key(|path| rank(path, now));
    if here.kind == Kind::Relay {
        if let Some(direct) = best(&|path| path.kind != Kind::Relay) {
            return Step::Move(direct.id);
        }
        if !runs_out(here, now) {
            return Step::Stay;
        }
        let fresh = best(&|path| !runs_out(path, now));
        return fresh.map_or(Step::SeekCircuit, |circuit| Step::Move(circuit.id));
    }
    let rested = since + REST <= now;
    let better = best(&|path| rested && path.since + LASTING <= now && is_clearly_better(path, here));
    better.map_or(Step::Stay, |path| Step::Move(path.id))
}

/// Whether there is a path to trust, so that `tried`, which may be as dead as the one that fell silent at `lost`, need
/// not be waited for.
pub(crate) fn is_outrun<P: PartialEq>(
    tried: P,
    lost: Option<Instant>,
    paths: &[Path<P>],
    now: Instant,
) -> bool {
    paths.iter().any(|path| path.id != tried && path.is_free(now) && path.is_newer_than(lost))
}

fn runs_out<P>(path: &Path<P>, now: Instant) -> bool {
    path.grant.is_some_and(|grant| grant.runs_out(now))
}

/// Of several paths the greatest is taken.
fn rank<P: Ord + Copy>(path: &Path<P>, now: Instant) -> (Kind, bool, Reverse<Duration>, Reverse<P>) {
    let cost = cost(path).unwrap_or(Duration::MAX);
    (path.kind, !runs_out(path, now), Reverse(cost), Reverse(path.id))
}

fn cost<P>(path: &Path<P>) -> Option<Duration> {
    let bonus = if path.ipv6 { IPV6_BONUS } else { Duration::ZERO };
    path.round_trip.map(|round_trip| round_trip.saturating_sub(bonus))
}

/// Of two direct paths.
fn is_clearly_better<P>(path: &Path<P>, here: &Path<P>) -> bool {
    if path.kind != here.kind {
        return path.kind > here.kind;
    }
    let shorter = |(there, here): (Duration, Duration)| {
        there + SHORTER_BY <= here && there.as_micros() * 100 < here.as_micros() * u128::from(SHORTER_TO)
    };
    cost(path).zip(cost(here)).is_some_and(shorter)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const S: Duration = Duration::from_secs(1);

    struct Bench {
        start: Instant,
        now: Instant,
    }

    impl Bench {
        /// Everything stands for a minute.
        fn new() -> Self {
            let start = Instant::now();
            Self { start, now: start + 60 * S }
        }

        fn path(&self, id: u8, kind: Kind) -> Path<u8> {
            let (since, round_trip) = (self.start, Some(40 * MS));
            let (ipv6, silent, barred, grant) = (false, false, None, None);
            Path { id, kind, ipv6, round_trip, silent, barred, since, grant }
        }

        fn circuit(&self, id: u8, used: u64) -> Path<u8> {
            let grant = Grant { bytes: Some(Allowance { granted: 1000, used }), time: None };
            Path { grant: Some(grant), ..self.path(id, Kind::Relay) }
        }

        fn choose(&self, paths: &[Path<u8>]) -> Step<u8> {
            choose(Some(1), self.start, None, paths, self.now)
        }
    }

    #[test]
    fn a_relayed_session_takes_the_first_direct_path() {
        let mut bench = Bench::new();
        bench.now = bench.start + MS;
        let paths = [bench.path(1, Kind::Relay), bench.path(2, Kind::Direct), bench.path(3, Kind::Near)];
        assert_eq!(bench.choose(&paths), Step::Move(3));
        assert_eq!(bench.choose(&paths[..2]), Step::Move(2));
        assert_eq!(bench.choose(&paths[..1]), Step::Stay);
    }

    #[test]
    fn a_silent_or_lost_path_is_left_at_once_for_the_best_that_stands() {
        let bench = Bench::new();
        let silent = Path { silent: true, ..bench.path(1, Kind::Direct) };
        let relayed = bench.path(2, Kind::Relay);
        assert_eq!(bench.choose(&[silent, relayed]), Step::Move(2));
        assert_eq!(bench.choose(&[relayed]), Step::Move(2));
        assert_eq!(bench.choose(&[relayed, bench.path(3, Kind::Direct)]), Step::Move(3));
        assert_eq!(bench.choose(&[silent]), Step::Seek);
        assert_eq!(bench.choose(&[]), Step::Seek);
        let other = Path { id: 2, ..silent };
        assert_eq!(bench.choose(&[silent, other]), Step::Seek);
    }

    #[test]
    fn paths_that_stood_when_one_fell_silent_are_tried_and_a_newer_one_is_trusted() {
        let bench = Bench::new();
        let choose = |paths: &[Path<u8>]| choose(Some(1), bench.start, Some(bench.now - S), paths, bench.now);
        let silent = Path { silent: true, ..bench.path(1, Kind::Direct) };
        let beside = bench.path(2, Kind::Direct);
        let new = Path { since: bench.now, ..bench.path(3, Kind::Relay) };
        assert_eq!(choose(&[silent, beside]), Step::Try(2));
        assert_eq!(choose(&[silent, beside, new]), Step::Move(3));
        assert_eq!(choose(&[silent]), Step::Seek);
        let barred = Path { barred: Some(bench.now + S), ..new };
        assert_eq!(choose(&[silent, beside, barred]), Step::Try(2));
        let is_outrun = |paths: &[Path<u8>]| is_outrun(2, Some(bench.now - S), paths, bench.now);
        assert!(is_outrun(&[silent, beside, new]));
        assert!(!is_outrun(&[silent, beside, bench.path(4, Kind::Near), barred]));
        assert!(!is_outrun(&[silent, Path { since: bench.now, ..beside }]));
    }

    #[test]
    fn a_path_that_was_silent_is_not_taken_again_soon_unless_there_is_no_other() {
        let bench = Bench::new();
        let barred = Path { barred: Some(bench.now + MS), ..bench.path(2, Kind::Direct) };
        let relayed = bench.path(1, Kind::Relay);
        assert_eq!(bench.choose(&[relayed, barred]), Step::Stay);
        let over = Path { barred: Some(bench.now), ..barred };
        assert_eq!(bench.choose(&[relayed, over]), Step::Move(2));
        assert_eq!(bench.choose(&[barred]), Step::Move(2));
        assert_eq!(bench.choose(&[barred, bench.path(3, Kind::Relay)]), Step::Move(3));
    }

    #[test]
    fn another_circuit_is_taken_before_a_grant_is_used_up() {
        let bench = Bench::new();
        assert_eq!(bench.choose(&[bench.circuit(1, 750)]), Step::Stay);
        assert_eq!(bench.choose(&[bench.circuit(1, 751)]), Step::SeekCircuit);
        assert_eq!(bench.choose(&[bench.circuit(1, 2000), bench.circuit(2, 10)]), Step::Move(2));
        assert_eq!(bench.choose(&[bench.circuit(1, 800), bench.circuit(2, 760)]), Step::SeekCircuit);
        assert_eq!(bench.choose(&[bench.circuit(1, 800), bench.path(2, Kind::Relay)]), Step::Move(2));
        assert_eq!(bench.choose(&[bench.circuit(1, 800), bench.path(2, Kind::Direct)]), Step::Move(2));
        let until = |left: Duration| Grant { bytes: None, time: Some((100 * S, bench.now + left)) };
        for (left, step) in
            [(26 * S, Step::Stay), (24 * S, Step::SeekCircuit), (Duration::ZERO, Step::SeekCircuit)]
        {
            let path = Path { grant: Some(until(left)), ..bench.path(1, Kind::Relay) };
            assert_eq!(bench.choose(&[path]), step);
        }
    }

    #[test]
    fn what_is_left_of_a_grant_is_for_both_ends() {
        let window = |carried| Allowance::new(256 << 10, carried).window();
        assert_eq!(window(0), 120 << 10);
        assert_eq!(window(100 << 10), (240 - 105) << 9);
        assert_eq!((window(229 << 10), window(u64::MAX)), (0, 0));
        let runs_out = |carried| Allowance::new(256 << 10, carried).runs_out();
        assert!(!runs_out(180 << 10) && runs_out(184 << 10));
        // When it is time to look for another circuit there is still room to go on.
        assert!(window(184 << 10) > 16 << 10);
    }

    #[test]
    fn a_better_direct_path_must_be_clearly_better_last_and_come_after_a_rest() {
        let mut bench = Bench::new();
        let here = bench.path(1, Kind::Direct);
        let with =
            |round_trip, ipv6| Path { round_trip: Some(round_trip), ipv6, ..bench.path(2, Kind::Direct) };
        for (there, ipv6, step) in [
            (29 * MS, false, Step::Move(2)),
            (31 * MS, false, Step::Stay),
            (31 * MS, true, Step::Move(2)),
            (40 * MS, true, Step::Stay),
        ] {
            assert_eq!(bench.choose(&[here, with(there, ipv6)]), step, "{there:?} {ipv6}");
        }
        let short = Path { round_trip: Some(6 * MS), ..here };
        assert_eq!(bench.choose(&[short, with(2 * MS, false)]), Step::Stay);
        assert_eq!(bench.choose(&[here, bench.path(2, Kind::Near)]), Step::Move(2));
        assert_eq!(bench.choose(&[bench.path(1, Kind::Near), with(MS, false)]), Step::Stay);
        let unknown = Path { round_trip: None, ..here };
        assert_eq!(bench.choose(&[unknown, with(MS, false)]), Step::Stay);
        let young = Path { since: bench.now - 9 * S, ..bench.path(2, Kind::Near) };
        assert_eq!(bench.choose(&[here, young]), Step::Stay);
        let near = bench.path(2, Kind::Near);
        bench.now = bench.start + REST - MS;
        assert_eq!(bench.choose(&[here, near]), Step::Stay);
    }

    /// Wherever a session goes for the better, it does not go back by the same facts.
    #[test]
    fn no_two_paths_are_each_better_than_the_other() {
        let bench = Bench::new();
        let mut all = Vec::new();
        for kind in [Kind::Relay, Kind::Direct, Kind::Near] {
            for (round_trip, ipv6) in [(1, false), (20, true), (40, false), (41, true), (300, false)] {
                let round_trip = Some(round_trip * MS);
                all.push(Path { round_trip, ipv6, ..bench.path(0, kind) });
                all.push(Path { ipv6, ..bench.circuit(0, 900) });
            }
        }
        for (one, two) in all.iter().flat_map(|one| all.iter().map(move |two| (*one, *two))) {
            let (one, two) = (Path { id: 1, ..one }, Path { id: 2, ..two });
            let there = choose(Some(1), bench.start, None, &[one, two], bench.now) == Step::Move(2);
            let back = choose(Some(2), bench.start, None, &[one, two], bench.now) == Step::Move(1);
            assert!(!(there && back), "{one:?} {two:?}");
        }
    }
}
