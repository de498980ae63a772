//! A token bucket: how often something may happen, in a burst and in the long run.

use std::time::{Duration, Instant};

/// See the module's header. It has no clock: who asks says what time it is.
#[derive(Clone, Debug)]
pub struct Bucket {
    size: f64,
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// `size` at once, and `per_second` in the long run; full to begin with.
    pub fn new(size: u32, per_second: u32, now: Instant) -> Self {
        let size = f64::from(size);
        Self { size, per_second: f64::from(per_second), tokens: size, at: now }
    }

    /// Counts one, and says how long it has to be until the next.
    pub fn take(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.size) - 1.0;
        self.at = self.at.max(now);
        Duration::from_secs_f64((1.0 - self.tokens).max(0.0) / self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_followed_by_the_rate() {
        #[expect(clippy::disallowed_methods, reason = "any time will do")]
        let start = Instant::now();
        let mut bucket = Bucket::new(3, 2, start);
        let free = |bucket: &mut Bucket, at| (0..9).take_while(|_| bucket.take(at).is_zero()).count();
        assert_eq!(free(&mut bucket, start), 2);
        // The third has been taken.
        let half = Duration::from_millis(500);
        assert_eq!(bucket.take(start + half), half);
        assert_eq!(bucket.take(start + 2 * half), half, "one at a time");
        let later = start + Duration::from_secs(3600);
        assert_eq!(free(&mut bucket, later), 2, "no more is saved up than fits");
        assert_eq!(bucket.take(start), 2 * half, "a clock that goes back gives nothing");
    }
}
