//! How long answers take here, so that a lookup knows when one is late: smoothed as TCP does (RFC 6298).

use std::time::Duration;

use super::super::lookup::SLOW;

/// Nobody is slow sooner than this: a loaded machine takes as long for nothing.
const SOONEST: Duration = Duration::from_millis(150);

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The mean of the times and of their deviations, both smoothed.
    usual: Option<(Duration, Duration)>,
}

impl Pace {
    /// An answer came after `took`.
    pub(super) fn answered(&mut self, took: Duration) {
        let (mean, deviation) = match self.usual {
            None => (took, took / 2),
            Some((mean, deviation)) => ((mean * 7 + took) / 8, (deviation * 3 + mean.abs_diff(took)) / 4),
        };
        self.usual = Some((mean, deviation));
    }

    /// After how long somebody is no longer waited for.
    pub(super) fn slow(&self) -> Duration {
        self.usual.map_or(SLOW, |(mean, deviation)| (mean + 4 * deviation).clamp(SOONEST, SLOW))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn who_is_slow_depends_on_how_soon_the_others_answer() {
        let mut pace = Pace::default();
        assert_eq!(pace.slow(), SLOW, "nothing is known");
        pace.answered(ms(100));
        assert_eq!(pace.slow(), ms(300));
        (0..50).for_each(|_| pace.answered(ms(100)));
        assert_eq!(pace.slow(), SOONEST);
        (0..10).for_each(|_| pace.answered(ms(400)));
        assert_eq!(pace.slow(), SLOW, "the line has become slow");
    }
}
