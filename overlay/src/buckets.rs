//! Token buckets: how often something may happen, at once and in the long run. They have no clock: who asks says what time it
//! is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Most buckets of a kind; then the fuller half goes.
const MAX_BUCKETS: usize = 4096;

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// In the long run.
    pub per_second: f64,
}

/// One bucket, full to begin with.
#[derive(Clone, Debug)]
pub struct Bucket {
    rate: Rate,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, tokens: f64::from(rate.burst), at: now }
    }

    /// Counts so many, also more than there are, and says how long it has to be until the next.
    pub fn take(&mut self, count: u32, now: Instant) -> Duration {
        self.tokens = self.level(now) - f64::from(count);
        self.at = self.at.max(now);
        Duration::from_secs_f64((1.0 - self.tokens).max(0.0) / self.rate.per_second)
    }

    fn level(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.tokens + passed * self.rate.per_second).min(f64::from(self.rate.burst))
    }
}

/// A bucket for each of any number of others, of which so many are remembered.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    rate: Rate,
    /// Those that are not full.
    buckets: BTreeMap<K, Bucket>,
}

impl<K: Ord + Clone> Buckets<K> {
    pub(crate) const fn new(rate: Rate) -> Self {
        Self { rate, buckets: BTreeMap::new() }
    }

    /// Whether there is one to take.
    pub(crate) fn has(&self, now: Instant, key: &K) -> bool {
        self.level(now, key) >= 1.0
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now: Instant, key: K) {
        if !self.has(now, &key) {
            return;
        }
        self.buckets.entry(key).or_insert_with(|| Bucket::new(self.rate, now)).take(1, now);
        if self.buckets.len() > MAX_BUCKETS {
            self.forget_half(now);
        }
    }

    /// Half at once, so that a flood does not pay for a search with each request.
    fn forget_half(&mut self, now: Instant) {
        let mut levels: Vec<_> = self.buckets.keys().map(|key| (self.level(now, key), key.clone())).collect();
        levels.sort_by(|(one, a), (other, b)| one.total_cmp(other).then_with(|| a.cmp(b)));
        for (_, key) in levels.split_off(MAX_BUCKETS / 2) {
            self.buckets.remove(&key);
        }
    }

    fn level(&self, now: Instant, key: &K) -> f64 {
        self.buckets.get(key).map_or(f64::from(self.rate.burst), |bucket| bucket.level(now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "any time will do")]
        Instant::now()
    }

    #[test]
    fn a_burst_is_followed_by_the_rate() {
        let start = start();
        let mut bucket = Bucket::new(Rate { burst: 3, per_second: 2.0 }, start);
        let free = |bucket: &mut Bucket, at| (0..9).take_while(|_| bucket.take(1, at).is_zero()).count();
        assert_eq!(free(&mut bucket, start), 2);
        // The third has been taken.
        let half = Duration::from_millis(500);
        assert_eq!(bucket.take(1, start + half), half);
        assert_eq!(bucket.take(1, start + 2 * half), half, "one at a time");
        let later = start + Duration::from_secs(3600);
        assert_eq!(free(&mut bucket, later), 2, "no more is saved up than fits");
        assert_eq!(bucket.take(1, start), 2 * half, "a clock that goes back gives nothing");
    }

    #[test]
    fn who_takes_more_than_there_is_waits_for_all_of_it() {
        let start = start();
        let mut bucket = Bucket::new(Rate { burst: 100, per_second: 10.0 }, start);
        assert_eq!(bucket.take(99, start), Duration::ZERO);
        assert_eq!(bucket.take(100, start), Duration::from_secs(10));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let now = start();
        let mut buckets = Buckets::new(Rate { burst: 60, per_second: 0.5 });
        (0..2).for_each(|_| buckets.take(now, usize::MAX));
        (0..2 * MAX_BUCKETS).for_each(|key| buckets.take(now, key));
        assert!(buckets.buckets.len() <= MAX_BUCKETS);
        assert_eq!(buckets.level(now, &usize::MAX), 58.0, "whoever took most is remembered");
    }

    proptest! {
        #[test]
        fn no_bucket_grants_more_than_its_rate(steps in proptest::collection::vec(0_u64..5000, 1..300)) {
            let start = start();
            let (mut now, mut granted) = (start, 0_u128);
            let mut buckets = Buckets::new(Rate { burst: 60, per_second: 0.5 });
            for step in steps {
                now += Duration::from_millis(step);
                if buckets.has(now, &1) {
                    buckets.take(now, 1);
                    granted += 1;
                }
                let allowed = 60 + now.duration_since(start).as_millis() / 2000;
                prop_assert!(granted <= allowed);
            }
        }
    }
}
