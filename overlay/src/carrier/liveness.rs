//! When to ask whether a path still works.
//!
//! A path that dies says nothing, and libp2p notices only after many seconds. What can be noticed sooner: an answer
//! that is due does not come, or what flowed has stopped. Then the path is asked, by a question that any living peer
//! answers; an acknowledgement would not do, because it waits for whoever reads at the other end. A path that
//! carries nothing and owes nothing is left alone.

use std::time::{Duration, Instant};

/// How long an answer that is due may take before the path is asked.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long after the last of what flowed the path is asked, once.
const QUIET: Duration = Duration::from_millis(1500);
/// How long the path may take to answer, and as many round trips beside.
const ANSWER: Duration = Duration::from_secs(1);
const ROUND_TRIPS: u32 = 2;
/// A peer that lives but does not acknowledge is asked ever more rarely: after [`PATIENCE`] times two to the power
/// of this at last.
const MOST_DOUBLINGS: u32 = 6;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// The path is to be asked.
    Ask,
    /// It does not answer.
    Silent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Trusted,
    Asked(Instant),
    Silent,
}

/// Watches the path of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Liveness {
    state: State,
    /// When something came last.
    heard: Instant,
    /// Something came that was not followed by an answer yet.
    flowed: bool,
    /// An answer is due since then.
    waiting: Option<Instant>,
    /// Answered questions since something came.
    doublings: u32,
}

impl Liveness {
    /// A path that has just been taken.
    pub(crate) const fn new(now: Instant) -> Self {
        Self { state: State::Trusted, heard: now, flowed: false, waiting: None, doublings: 0 }
    }

    /// Something came over the path.
    pub(crate) fn heard(&mut self, now: Instant) {
        *self = Self { heard: now, flowed: true, waiting: self.waiting.map(|_| now), ..Self::new(now) };
    }

    /// Whether an answer of the peer is due.
    pub(crate) fn set_waiting(&mut self, now: Instant, waiting: bool) {
        self.waiting = waiting.then(|| self.waiting.unwrap_or(now));
    }

    /// The path has answered.
    pub(crate) fn answered(&mut self, now: Instant) {
        if self.state != State::Trusted {
            let doublings = (self.doublings + 1).min(MOST_DOUBLINGS);
            *self = Self { doublings, waiting: self.waiting.map(|_| now), ..Self::new(now) };
        }
    }

    /// Whether something should come: an answer is due, or something flowed just now.
    pub(crate) const fn is_expecting(&self) -> bool {
        self.flowed || self.waiting.is_some()
    }

    /// When to call [`Self::handle_timeout`].
    pub(crate) fn poll_timeout(&self, round_trip: Duration) -> Option<Instant> {
        match self.state {
            State::Silent => None,
            State::Asked(at) => Some(at + ANSWER + round_trip * ROUND_TRIPS),
            State::Trusted => {
                let owed = self.waiting.map(|since| since.max(self.heard) + PATIENCE * (1 << self.doublings));
                owed.or_else(|| self.flowed.then(|| self.heard + QUIET))
            }
        }
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant, round_trip: Duration) -> Option<Doubt> {
        self.poll_timeout(round_trip).filter(|at| *at <= now)?;
        let (state, doubt) = match self.state {
            State::Trusted => (State::Asked(now), Doubt::Ask),
            State::Asked(_) | State::Silent => (State::Silent, Doubt::Silent),
        };
        self.state = state;
        Some(doubt)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(40);

    struct Bench(Liveness, Instant);

    impl Bench {
        fn new() -> Self {
            let now = Instant::now();
            Self(Liveness::new(now), now)
        }

        /// To the next thing that is due: after how long, and what.
        fn wait(&mut self) -> Option<(Duration, Doubt)> {
            let due = self.0.poll_timeout(RTT)?;
            let waited = due - self.1;
            self.1 = due;
            self.0.handle_timeout(due, RTT).map(|doubt| (waited, doubt))
        }
    }

    #[test]
    fn a_path_that_owes_nothing_is_left_alone() {
        assert_eq!(Bench::new().wait(), None);
    }

    #[test]
    fn a_path_that_owes_an_answer_is_asked_and_then_silent() {
        let mut bench = Bench::new();
        bench.0.set_waiting(bench.1, true);
        assert_eq!(bench.wait(), Some((PATIENCE, Doubt::Ask)));
        assert_eq!(bench.wait(), Some((ANSWER + 2 * RTT, Doubt::Silent)));
        assert_eq!(bench.wait(), None);
        bench.0.heard(bench.1);
        bench.0.set_waiting(bench.1, false);
        assert_eq!(bench.wait(), Some((QUIET, Doubt::Ask)));
    }

    #[test]
    fn a_burst_is_followed_by_one_question() {
        let mut bench = Bench::new();
        bench.0.heard(bench.1);
        assert_eq!(bench.wait(), Some((QUIET, Doubt::Ask)));
        bench.0.answered(bench.1);
        assert_eq!(bench.wait(), None);
    }

    #[test]
    fn a_peer_that_lives_but_does_not_read_is_asked_ever_more_rarely() {
        let mut bench = Bench::new();
        bench.0.set_waiting(bench.1, true);
        for seconds in [1, 2, 4, 8, 16, 32, 64, 64] {
            assert_eq!(bench.wait(), Some((Duration::from_secs(seconds), Doubt::Ask)));
            bench.0.answered(bench.1);
        }
    }
}
