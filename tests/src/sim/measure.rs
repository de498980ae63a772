//! What a run of the simulation gives.

use super::Millis;

/// The figures of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Measures {
    /// Seconds until a post has reached half of its online followers, and 99 of 100; infinite if it has not by the end.
    pub reach: (f64, f64),
    /// Pairs of a post and an online follower, how many of them met, and how many followers left before.
    pub pairs: (usize, usize, usize),
    /// The mean of seconds in the tenth of the followers who wait longest.
    pub worst_decile: f64,
    /// Followers of at least three posts who got none.
    pub starved: usize,
    /// Sessions that an online person has at a time, in the mean, and the most that anybody had.
    pub sessions: (f64, usize),
    /// Sessions opened, and dials that failed, for each message delivered.
    pub opened: (f64, f64),
    /// Bytes for each message delivered, messages themselves and all else.
    pub bytes: f64,
    /// How much of them went over relays.
    pub relayed: f64,
    /// How many of the sessions that an online person chose to have, and of its dials, are with somebody who is of no use, if
    /// there are any.
    pub useless: (f64, f64),
    /// Of all that happened, in order: two runs that have the same went alike.
    pub trace: u64,
}

/// What is counted while a run lasts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) reached: Vec<(u32, Millis)>,
    pub(super) missed: Vec<(u32, Millis)>,
    pub(super) left: usize,
    pub(super) delivered: usize,
    pub(super) opened: usize,
    pub(super) failed: usize,
    pub(super) bytes: f64,
    pub(super) relay_bytes: f64,
    pub(super) samples: (f64, usize),
    /// Sessions and dials of honest people: all, and those with somebody who is of no use.
    pub(super) honest: ((usize, usize), (usize, usize)),
    pub(super) most: usize,
    pub(super) trace: u64,
}

impl Tally {
    /// Something happened: it becomes part of the trace.
    pub(super) fn trace(&mut self, what: u64) {
        self.trace = (self.trace.rotate_left(5) ^ what).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    pub(super) fn measures(&self) -> Measures {
        let mut delays: Vec<f64> = self.reached.iter().map(|(_, delay)| seconds(*delay)).collect();
        delays.extend(self.missed.iter().map(|_| f64::INFINITY));
        delays.sort_by(f64::total_cmp);
        let at = |share: f64| {
            delays.get(((delays.len() as f64 * share) as usize).min(delays.len().saturating_sub(1)))
        };
        let quantile = |share| at(share).copied().unwrap_or(f64::NAN);
        let (worst_decile, starved) = self.fairness();
        let delivered = (self.delivered as f64).max(1.0);
        Measures {
            reach: (quantile(0.5), quantile(0.99)),
            pairs: (delays.len(), self.reached.len(), self.left),
            worst_decile,
            starved,
            sessions: (self.samples.0 / (self.samples.1 as f64).max(1.0), self.most),
            opened: (self.opened as f64 / delivered, self.failed as f64 / delivered),
            bytes: self.bytes / delivered,
            relayed: self.relay_bytes / self.bytes.max(1.0),
            useless: {
                let share = |(all, useless): (usize, usize)| useless as f64 / (all as f64).max(1.0);
                (share(self.honest.0), share(self.honest.1))
            },
            trace: self.trace,
        }
    }

    /// The mean wait of the worst tenth, and how many got nothing. What has not come counts with the time until the end.
    fn fairness(&self) -> (f64, usize) {
        let all =
            self.reached.iter().map(|pair| (pair, true)).chain(self.missed.iter().map(|pair| (pair, false)));
        let mut waits: std::collections::BTreeMap<u32, (f64, usize, usize)> =
            std::collections::BTreeMap::new();
        for ((who, delay), came) in all {
            let entry = waits.entry(*who).or_default();
            *entry = (entry.0 + seconds(*delay), entry.1 + 1, entry.2 + usize::from(came));
        }
        let often = waits.values().filter(|(_, posts, _)| *posts >= 3);
        let mut means: Vec<f64> = often.clone().map(|(sum, posts, _)| sum / *posts as f64).collect();
        means.sort_by(|a, b| b.total_cmp(a));
        means.truncate(means.len().div_ceil(10));
        let mean = means.iter().sum::<f64>() / (means.len() as f64).max(1.0);
        (mean, often.filter(|(_, _, came)| *came == 0).count())
    }
}

fn seconds(time: Millis) -> f64 {
    time as f64 / 1000.0
}
