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
