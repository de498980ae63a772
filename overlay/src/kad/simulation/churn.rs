//! A network whose nodes come and go, and publish.

use std::time::{Duration, Instant};

use super::super::DhtReport;
use super::scenarios::{SERVING, key as key_of, seconds, some};
use super::world::{Tally, World};

/// Records that a node publishes, each at a time of its own within a period.
const SLOTS: usize = 32;
const PERIOD: Duration = Duration::from_secs(6 * 60 * 60);
/// When it publishes a record again, at least and at most.
const AGAIN: Duration = Duration::from_secs(95 * 60);
const AGAIN_SPREAD: Duration = Duration::from_secs(15 * 60);
/// Records that a node looks for in a period.
const GETS: usize = 8;
/// Half of the nodes stay longer; how long they stay does not depend on how long they have been there.
const MEDIAN_SESSION: Duration = Duration::from_secs(3 * 60 * 60);
/// All join within this time; what comes after twice of it is counted.
const START: Duration = Duration::from_secs(600);

/// Parts of the time after which it is told.
const TOLD: u32 = 12;

#[derive(Clone, Copy)]
enum Plan {
    Join {
        serves: bool,
    },
    Die {
        node: usize,
    },
    Put {
        by: usize,
        key: usize,
    },
    Get {
        by: usize,
    },
    Count,
    /// Says how far it is: a large network takes long.
    Tell,
}

struct Churn {
    world: World,
    /// Nodes at any time.
    count: usize,
    ends: Instant,
    plans: Vec<Plan>,
    serving: Vec<usize>,
    /// When each key was put last.
    put: Vec<Option<Instant>>,
}

impl Churn {
    fn new(seed: u64, count: usize, time: Duration) -> Self {
        let world = World::new(seed);
        let (start, ends) = (world.now, world.now + time);
        let mut churn = Self { world, count, ends, plans: Vec::new(), serving: Vec::new(), put: Vec::new() };
        for n in 0..count {
            let serves = n < 3 || churn.world.chance.is(SERVING);
            churn.plan(start + START.mul_f64(n as f64 / count as f64), Plan::Join { serves });
        }
        churn.plan(start + 2 * START, Plan::Count);
        for part in 1..TOLD {
            churn.plan(start + time * part / TOLD, Plan::Tell);
        }
        churn
    }

    fn run(&mut self) {
        while let Some(plan) = self.world.run_until(self.ends) {
            self.carry_out(self.plans[plan]);
        }
    }

    fn plan(&mut self, at: Instant, plan: Plan) {
        if at < self.ends {
            self.plans.push(plan);
            self.world.plan(at, self.plans.len() - 1);
        }
    }

    fn within(&mut self, time: Duration) -> Instant {
        self.world.now + time.mul_f64(self.world.chance.part())
    }

    fn carry_out(&mut self, plan: Plan) {
        match plan {
            Plan::Join { serves } => self.join(serves),
            Plan::Die { node } => {
                self.world.die(node);
                let served = self.serving.iter().position(|other| *other == node);
                served.map(|position| self.serving.swap_remove(position));
                self.join(served.is_some());
            }
            Plan::Put { by, key } if self.world.dht(by).is_some() => {
                let now = self.world.now;
                self.world.put(by, &key_of(key as u64), self.world.elapsed().as_secs());
                self.put[key] = Some(now);
                let again = self.within(AGAIN_SPREAD) + AGAIN;
                self.plan(again, Plan::Put { by, key });
            }
            Plan::Get { by } if self.world.dht(by).is_some() => {
                if let Some(key) = self.some_key() {
                    self.world.get(by, &key_of(key as u64));
                }
            }
            Plan::Put { .. } | Plan::Get { .. } => {}
            Plan::Count => self.world.tally = Tally::default(),
            Plan::Tell => println!("{:?}: {:.3} messages/s", self.world.elapsed(), self.rate()),
        }
    }

    fn join(&mut self, serves: bool) {
        let count = 1 + self.world.chance.below(3);
        let known = some(&mut self.world, &self.serving, count);
        let node = self.world.join(serves, &known);
        if serves {
            self.serving.push(node);
        }
        let half_lives = -(1.0 - self.world.chance.part()).log2();
        self.plan(self.world.now + MEDIAN_SESSION.mul_f64(half_lives), Plan::Die { node });
        for _ in 0..SLOTS {
            self.put.push(None);
            let at = self.within(PERIOD);
            self.plan(at, Plan::Put { by: node, key: self.put.len() - 1 });
        }
        for _ in 0..GETS {
            let at = self.within(PERIOD);
            self.plan(at, Plan::Get { by: node });
        }
    }

    /// One whose record should be there.
    fn some_key(&mut self) -> Option<usize> {
        (0..1000).map(|_| self.world.chance.below(self.put.len())).find(|key| {
            let age = self.put[*key].map(|put| self.world.now.duration_since(put));
            age.is_some_and(|age| age > seconds(30) && age < AGAIN)
        })
    }

    /// Questions and answers that a node sends in a second.
    fn rate(&self) -> f64 {
        let time = self.world.elapsed() - 2 * START;
        self.world.tally.messages as f64 / self.count as f64 / time.as_secs_f64()
    }

    fn mean(&self, of: impl Fn(&DhtReport) -> usize) -> f64 {
        let reports = (0..self.world.nodes.len()).filter_map(|node| self.world.dht(node));
        let values: Vec<_> = reports.map(|dht| of(&dht.report())).collect();
        values.iter().sum::<usize>() as f64 / values.len() as f64
    }
}

fn check(seed: u64, count: usize) {
    let mut churn = Churn::new(seed, count, PERIOD);
    churn.run();
    let rate = churn.rate();
    let (nodes, records) = (churn.mean(|report| report.nodes), churn.mean(|report| report.records));
    let tally = &churn.world.tally;
    println!("{count} nodes: {rate:.3} messages/s; tables of {nodes:.0}, stores of {records:.0}");
    println!("{}", tally.describe());
    assert!(tally.found as f64 >= 0.99 * tally.gets as f64);
    assert!(tally.stored as f64 >= 0.99 * tally.puts as f64);
    assert!(Tally::of(&tally.hops, 0.5) <= 4);
    assert!(Tally::of(&tally.took, 0.95) <= Duration::from_millis(1500));
    assert!(rate <= 0.2, "{rate}");
}

#[test]
fn records_are_found_in_a_network_that_comes_and_goes() {
    check(7, 150);
}

#[test]
#[ignore = "fifty minutes; cargo test --release -p hawsepipe-overlay --lib -- --ignored --nocapture ten_thousand"]
fn records_are_found_among_ten_thousand_nodes_that_come_and_go() {
    check(7, 10_000);
}
