//! What happens there.

use std::time::Duration;

use super::world::{Kind, World};

const SERVING: f64 = 0.4;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// `count` nodes that have found each other, each beginning with up to three of those before it.
fn network(seed: u64, count: usize) -> World {
    let mut world = World::new(seed);
    let mut serving = Vec::new();
    for n in 0..count {
        let serves = n < 3 || world.chance.is(SERVING);
        let known = some(&mut world, &serving, 3);
        let index = world.join(serves, &known);
        if serves {
            serving.push(index);
        }
        world.run_for(Duration::from_millis(100));
    }
    world.run_for(seconds(120));
    world
}

/// Up to `count` of these, by chance.
fn some(world: &mut World, of: &[usize], count: usize) -> Vec<usize> {
    if of.is_empty() {
        return Vec::new();
    }
    (0..count).map(|_| of[world.chance.below(of.len())]).collect()
}

fn alive(world: &World) -> Vec<usize> {
    (0..world.nodes.len()).filter(|index| world.nodes[*index].is_alive).collect()
}

fn key(n: u64) -> Vec<u8> {
    let mut key = vec![0; 32];
    key[..8].copy_from_slice(&n.to_be_bytes());
    key
}

/// Each key put by somebody.
fn publish(world: &mut World, keys: u64) {
    let alive = alive(world);
    for n in 0..keys {
        let index = alive[world.chance.below(alive.len())];
        world.put(index, &key(n), 1);
        world.run_for(Duration::from_millis(50));
    }
    world.run_for(seconds(30));
}

/// Each key sought by somebody; the part that is found.
fn seek(world: &mut World, keys: u64) -> f64 {
    let alive = alive(world);
    world.tally = Default::default();
    for n in 0..keys {
        let index = alive[world.chance.below(alive.len())];
        world.get(index, &key(n));
        world.run_for(Duration::from_millis(50));
    }
    world.run_for(seconds(30));
    assert_eq!(world.tally.gets as u64, keys);
    world.tally.found as f64 / world.tally.gets as f64
}

#[test]
fn records_are_found_when_thirty_of_a_hundred_nodes_die_at_once() {
    let mut world = network(1, 1000);
    println!("{:.0?} {}", world.elapsed(), world.tally.describe());
    let tables: Vec<_> = (0..1000).filter_map(|n| world.dht(n)).map(|dht| dht.report()).collect();
    let mean =
        |of: &dyn Fn(&super::super::DhtReport) -> usize| tables.iter().map(of).sum::<usize>() as f64 / 1000.0;
    println!(
        "nodes {} healthy {}",
        mean(&|report| report.nodes),
        mean(&|report| usize::from(report.healthy))
    );
    world.tally = Default::default();
    publish(&mut world, 500);
    println!("{}", world.tally.describe());
    for index in 0..1000 {
        if world.chance.is(0.3) {
            world.die(index);
        }
    }
    let found = seek(&mut world, 500);
    println!("{found} {}", world.tally.describe());
    assert!(found >= 0.99);
}

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
    keys: Vec<std::time::Instant>,
    ends: std::time::Instant,
    counts: Option<std::time::Instant>,
}

const SLOTS: u64 = 32;
const PERIOD: Duration = Duration::from_secs(4 * 3600);
const AGAIN: Duration = Duration::from_secs(100 * 60);
const MEDIAN_SESSION: f64 = 3.0 * 3600.0;
const GETS: usize = 8;

impl Churn {
    fn plan(&mut self, at: std::time::Instant, plan: Plan) {
        if at < self.ends {
            self.plans.push(plan);
            self.world.plan(at, self.plans.len() as u64 - 1);
        }
    }

    fn in_part(&mut self, of: Duration) -> std::time::Instant {
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
                let fresh = |put: std::time::Instant| {
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

fn key_of(n: u64) -> Vec<u8> {
    key(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
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
            churn.world.tally = Default::default();
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
        alive(world).into_iter().filter_map(|n| world.dht(n)).map(|dht| dht.report()).collect();
    let mean = |of: &dyn Fn(&super::super::DhtReport) -> usize| {
        tables.iter().map(of).sum::<usize>() as f64 / tables.len() as f64
    };
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
