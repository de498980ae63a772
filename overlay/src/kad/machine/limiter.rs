//! How often something may be done.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::{Asker, NodeId, Subnet};
use crate::reachability::{Scope, scope};

/// Questions that one network (/24 or /48) may ask us at once, and the time after which it may ask one more.
const QUESTIONS: Rate = Rate { burst: 100, refill: Duration::from_millis(50) };
/// Sources remembered; those that asked least are forgotten first.
const MAX_SOURCES: usize = 4096;

/// Whose questions are counted together: a network, but each node of our own LAN or machine by itself.
type Source = (Subnet, Option<NodeId>);

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
    sources: BTreeMap<Source, Tokens>,
}

impl Limiter {
    pub(super) fn take(&mut self, now: Instant, from: &Asker) -> bool {
        let is_public = scope(from.ip) == Some(Scope::Public);
        let source = (Subnet::of(from.ip), (!is_public).then(|| from.node.clone()));
        let tokens = self.sources.entry(source).or_insert_with(|| Tokens::full(now, QUESTIONS));
        let is_allowed = tokens.take(now, QUESTIONS);
        if self.sources.len() > MAX_SOURCES {
            self.forget_half(now);
        }
        is_allowed
    }

    /// Half at once, so that a flood does not pay for a search with each question.
    fn forget_half(&mut self, now: Instant) {
        self.sources.values_mut().for_each(|tokens| tokens.fill(now, QUESTIONS));
        let mut levels: Vec<_> =
            self.sources.iter().map(|(source, tokens)| (tokens.left, source.clone())).collect();
        levels.sort_unstable();
        for (_, source) in levels.split_off(MAX_SOURCES / 2) {
            self.sources.remove(&source);
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// Somebody in a network of its own.
    fn asker(n: u32) -> Asker {
        let ip = Ipv4Addr::from_bits((20 << 24) + (n << 8)).into();
        Asker { node: NodeId::new(&n.to_be_bytes()), ip }
    }

    #[test]
    fn a_network_asks_twenty_times_a_second_and_others_do_not_suffer() {
        let start = Instant::now();
        let mut limiter = Limiter::default();
        let granted = |limiter: &mut Limiter, now, from, tries: usize| {
            (0..tries).filter(|_| limiter.take(now, &asker(from))).count()
        };
        assert_eq!(granted(&mut limiter, start, 1, 500), 100);
        assert_eq!(granted(&mut limiter, start + Duration::from_secs(1), 1, 500), 20);
        assert_eq!(granted(&mut limiter, start, 2, 50), 50);
    }

    #[test]
    fn neighbours_do_not_share_what_a_network_may_ask() {
        let (now, mut limiter) = (Instant::now(), Limiter::default());
        for n in 0..10 {
            let neighbour = Asker { ip: [192, 168, 1, 7].into(), ..asker(n) };
            assert!((0..100).all(|_| limiter.take(now, &neighbour)));
        }
    }

    #[test]
    fn a_flood_of_networks_is_forgotten_before_whoever_asks_most() {
        let start = Instant::now();
        let mut limiter = Limiter::default();
        while limiter.take(start, &asker(1)) {}
        for n in 2..20_000 {
            assert!(limiter.take(start, &asker(n)));
            assert!(limiter.sources.len() <= MAX_SOURCES);
        }
        assert!(!limiter.take(start, &asker(1)));
    }
}
