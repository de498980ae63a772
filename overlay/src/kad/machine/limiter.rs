//! How often something may be done.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::Subnet;

/// Questions that one network (/24 or /48) may ask us at once, and the time after which it may ask one more.
const QUESTIONS: Rate = Rate { burst: 100, refill: Duration::from_millis(50) };
/// Networks remembered; those that asked least are forgotten first.
const MAX_NETWORKS: usize = 4096;

/// So many at once, and one more after each `refill`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) burst: u32,
    pub(super) refill: Duration,
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tokens {
    left: u32,
    since: Instant,
}

impl Tokens {
    pub(super) const fn full(now: Instant, rate: Rate) -> Self {
        Self { left: rate.burst, since: now }
    }

    /// Takes one if there is one.
    pub(super) fn take(&mut self, now: Instant, rate: Rate) -> bool {
        self.fill(now, rate);
        let has_one = self.left > 0;
        self.left = self.left.saturating_sub(1);
        has_one
    }

    /// When there will be one, if there is none.
    pub(super) fn poll_timeout(&self, rate: Rate) -> Option<Instant> {
        (self.left == 0).then(|| self.since + rate.refill)
    }

    fn fill(&mut self, now: Instant, rate: Rate) {
        let passed = now.saturating_duration_since(self.since).as_millis();
        let gained = u32::try_from(passed / rate.refill.as_millis().max(1)).unwrap_or(u32::MAX);
        if self.left.saturating_add(gained) >= rate.burst {
            *self = Self::full(now, rate);
        } else {
            self.left += gained;
            self.since += rate.refill * gained;
        }
    }
}

/// Who may ask us how often.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    networks: BTreeMap<Subnet, Tokens>,
}

impl Limiter {
    pub(super) fn take(&mut self, now: Instant, from: Subnet) -> bool {
        let tokens = self.networks.entry(from).or_insert_with(|| Tokens::full(now, QUESTIONS));
        let is_allowed = tokens.take(now, QUESTIONS);
        if self.networks.len() > MAX_NETWORKS {
            self.forget_half(now);
        }
        is_allowed
    }

    /// Half at once, so that a flood does not pay for a search with each question.
    fn forget_half(&mut self, now: Instant) {
        self.networks.values_mut().for_each(|tokens| tokens.fill(now, QUESTIONS));
        let mut levels: Vec<_> =
            self.networks.iter().map(|(network, tokens)| (tokens.left, *network)).collect();
        levels.sort_unstable();
        for (_, network) in levels.split_off(MAX_NETWORKS / 2) {
            self.networks.remove(&network);
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
mod tests {
    use super::*;

    fn network(n: u32) -> Subnet {
        Subnet::of(std::net::Ipv4Addr::from_bits(n << 8).into())
    }

    #[test]
    fn a_network_asks_twenty_times_a_second_and_others_do_not_suffer() {
        let start = Instant::now();
        let mut limiter = Limiter::default();
        let granted = |limiter: &mut Limiter, now, from, tries: usize| {
            (0..tries).filter(|_| limiter.take(now, network(from))).count()
        };
        assert_eq!(granted(&mut limiter, start, 1, 500), 100);
        assert_eq!(granted(&mut limiter, start + Duration::from_secs(1), 1, 500), 20);
        assert_eq!(granted(&mut limiter, start, 2, 50), 50);
    }

    #[test]
    fn a_flood_of_networks_is_forgotten_before_whoever_asks_most() {
        let start = Instant::now();
        let mut limiter = Limiter::default();
        while limiter.take(start, network(1)) {}
        for n in 2..20_000 {
            assert!(limiter.take(start, network(n)));
            assert!(limiter.networks.len() <= MAX_NETWORKS);
        }
        assert!(!limiter.take(start, network(1)));
    }
}
