//! A network whose nodes come and go.

use std::time::{Duration, Instant};

use super::super::DhtReport;
use super::scenarios::{SERVING, key as key_of, seconds, some};
use super::world::{Tally, World};

/// What is planned in a network that comes and goes.
#[derive(Clone, Copy)]
enum Plan {
    Join {
        serves: bool,
    },
    Die(usize),
    /// Puts this key, and again as long as the node lives.
    Put {
        by: usize,
        key: u64,
    },
    Get {
        by: usize,
    },
}

struct Churn {
    world: World,
    plans: Vec<Plan>,
    serving: Vec<usize>,
    /// Keys put, and when last.
    keys: Vec<Instant>,
    ends: Instant,
    counts: Option<Instant>,
}

const SLOTS: u64 = 32;
const PERIOD: Duration = Duration::from_secs(4 * 3600);
const AGAIN: Duration = Duration::from_secs(100 * 60);
const MEDIAN_SESSION: f64 = 3.0 * 3600.0;
const GETS: usize = 8;

impl Churn {
    fn plan(&mut self, at: Instant, plan: Plan) {
        if at < self.ends {
            self.plans.push(plan);
            self.world.plan(at, self.plans.len() as u64 - 1);
        }
    }

    fn in_part(&mut self, of: Duration) -> Instant {
        self.world.now + of.mul_f64(self.world.chance.part())
    }

    fn join(&mut self, serves: bool) {
        let known = 1 + self.world.chance.below(3);
        let known = some(&mut self.world, &self.serving, known);
        let by = self.world.join(serves, &known);
        if serves {
            self.serving.push(by);
        }
        let session = -MEDIAN_SESSION / std::f64::consts::LN_2 * (1.0 - self.world.chance.part()).ln();
        self.plan(self.world.now + Duration::from_secs_f64(session), Plan::Die(by));
        for _ in 0..SLOTS {
            self.keys.push(self.world.now);
            let key = self.keys.len() as u64 - 1;
            let at = self.in_part(PERIOD);
            self.plan(at, Plan::Put { by, key });
        }
        for _ in 0..GETS {
            let at = self.in_part(PERIOD);
            self.plan(at, Plan::Get { by });
        }
    }

    fn carry_out(&mut self, plan: Plan) {
        let now = self.world.now;
        match plan {
            Plan::Join { serves } => self.join(serves),
            Plan::Die(index) => {
                self.world.die(index);
                let serves = self.serving.iter().position(|other| *other == index);
                serves.map(|position| self.serving.swap_remove(position));
                self.join(serves.is_some());
            }
            Plan::Put { by, key } => {
                if self.world.nodes[by].is_alive {
                    let sequence = self.world.elapsed().as_secs();
                    self.world.put(by, &key_of(key), sequence);
                    self.keys[key as usize] = now;
                    self.plan(now + AGAIN, Plan::Put { by, key });
                }
            }
            Plan::Get { by } => {
                let fresh = |put: Instant| {
                    let age = now.duration_since(put);
                    age > seconds(30) && age < AGAIN
                };
                let key = (0..1000).find_map(|_| {
                    let key = self.world.chance.below(self.keys.len());
                    (self.world.has_put(key as u64) && fresh(self.keys[key])).then_some(key)
                });
                if self.world.nodes[by].is_alive
                    && let Some(key) = key
                {
                    self.world.get(by, &key_of(key as u64));
                }
            }
        }
    }
}

fn churn(seed: u64, count: usize, hours: u64) -> Churn {
    let world = World::new(seed);
    let ends = world.now + seconds(3600 * hours);
    let mut churn =
        Churn { world, plans: Vec::new(), serving: Vec::new(), keys: Vec::new(), ends, counts: None };
    for n in 0..count {
        let serves = n < 3 || churn.world.chance.is(SERVING);
        let at = churn.world.now + seconds(600).mul_f64(n as f64 / count as f64);
        churn.plan(at, Plan::Join { serves });
    }
    while let Some(plan) = churn.world.run_until(ends) {
        let now = churn.world.now;
        if churn.counts.is_none() && churn.world.elapsed() > seconds(1200) {
            println!("start: {}", churn.world.tally.describe());
            churn.world.tally = Tally::default();
            churn.counts = Some(now);
        }
        churn.carry_out(churn.plans[plan as usize]);
    }
    churn
}

#[test]
fn a_network_that_comes_and_goes() {
    let count: usize = std::env::var("COUNT").map_or(2000, |count| count.parse().unwrap());
    let hours: u64 = std::env::var("HOURS").map_or(4, |count| count.parse().unwrap());
    let churn = churn(7, count, hours);
    let world = &churn.world;
    let time = world.now.duration_since(churn.counts.unwrap());
    let tables: Vec<_> =
        (0..world.nodes.len()).filter_map(|n| world.dht(n)).map(|dht| dht.report()).collect();
    let mean =
        |of: &dyn Fn(&DhtReport) -> usize| tables.iter().map(of).sum::<usize>() as f64 / tables.len() as f64;
    println!(
        "nodes {:.1} healthy {:.3} records {:.1} all {}",
        mean(&|report| report.nodes),
        mean(&|report| usize::from(report.healthy)),
        mean(&|report| report.records),
        world.nodes.len()
    );
    println!("{}", world.tally.describe());
    let per = |n: u64| n as f64 / count as f64 / time.as_secs_f64();
    println!(
        "messages per node and second {:.4}; questions {:.4}; {:?} dead {:?}",
        per(world.tally.messages),
        per(world.tally.questions.values().sum()),
        world.tally.purposes,
        world.tally.dead
    );
}
