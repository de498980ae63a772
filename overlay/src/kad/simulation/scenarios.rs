//! What happens there.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::super::{Key, NodeId};
use super::world::{Kind, Tally, World};

/// The part of nodes that others can reach.
pub(super) const SERVING: f64 = 0.4;

pub(super) fn seconds(n: u64) -> Duration {
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
pub(super) fn some(world: &mut World, of: &[usize], count: usize) -> Vec<usize> {
    if of.is_empty() {
        return Vec::new();
    }
    (0..count).map(|_| of[world.chance.below(of.len())]).collect()
}

fn honest(world: &World) -> Vec<usize> {
    (0..world.nodes.len()).filter(|index| world.dht(*index).is_some()).collect()
}

fn serving(world: &World) -> Vec<usize> {
    let nodes = world.nodes.iter().enumerate();
    let serving = nodes.filter(|(_, node)| matches!(node.kind, Kind::Honest { serves: true, .. }));
    serving.map(|(index, _)| index).collect()
}

pub(super) fn key(n: u64) -> Vec<u8> {
    let mut key = vec![0; 32];
    key[..8].copy_from_slice(&n.to_be_bytes());
    key
}

/// Each key put by somebody.
fn publish(world: &mut World, keys: u64) {
    let honest = honest(world);
    world.tally = Tally::default();
    for n in 0..keys {
        let index = honest[world.chance.below(honest.len())];
        world.put(index, &key(n), 1);
        world.run_for(Duration::from_millis(50));
    }
    world.run_for(seconds(30));
}

/// Each key sought by somebody; the part that is found.
fn seek(world: &mut World, keys: impl IntoIterator<Item = u64>) -> f64 {
    let honest = honest(world);
    world.tally = Tally::default();
    for n in keys {
        let index = honest[world.chance.below(honest.len())];
        world.get(index, &key(n));
        world.run_for(Duration::from_millis(50));
    }
    world.run_for(seconds(30));
    world.tally.found as f64 / world.tally.gets as f64
}

#[test]
fn records_are_found_when_thirty_of_a_hundred_nodes_die_at_once() {
    let mut world = network(1, 1000);
    publish(&mut world, 500);
    println!("{}", world.tally.describe());
    assert_eq!(world.tally.stored, 500);
    for index in 0..1000 {
        if world.chance.is(0.3) {
            world.die(index);
        }
    }
    let found = seek(&mut world, 0..500);
    println!("{}", world.tally.describe());
    assert!(found >= 0.99, "{found}");
    assert!(world.tally.mean_asked("seek") <= 12.0);
    assert!(Tally::of(&world.tally.took, 0.95) <= Duration::from_millis(1500));
}

#[test]
fn the_same_seed_gives_the_same_network() {
    let run = |seed| {
        let mut world = network(seed, 60);
        publish(&mut world, 20);
        seek(&mut world, 0..20);
        world.tally
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

/// The names nearest to a key that there are, in so many networks, each known to the nodes nearest to the key
/// and to some others.
fn surround(world: &mut World, key: &[u8], names: u64, networks: u64) {
    let target = Key::of(key);
    let mut honest = serving(world);
    honest.sort_by_key(|index| target.distance(world.nodes[*index].contact.node.key()));
    for n in 0..names {
        let network = 140 + (n % networks) as u8;
        let ip = Ipv4Addr::new(network, 7, 7, (n / networks) as u8);
        let id = NodeId::near(&target, world.chance.roll());
        let hostile = world.join_hostile(id, ip.into());
        let others = some(world, &honest, 10);
        for index in honest[..20].iter().chain(&others) {
            world.introduce(*index, &[hostile]);
        }
        world.run_for(Duration::from_millis(100));
    }
    world.run_for(seconds(60));
}

#[test]
fn a_thousand_names_around_a_key_do_not_hide_its_record() {
    let mut world = network(5, 600);
    let mut found = 0.0;
    for n in 0..3 {
        surround(&mut world, &key(n), 1000, 8);
        let honest = honest(&world);
        let by = honest[world.chance.below(honest.len())];
        world.put(by, &key(n), 1);
        world.run_for(seconds(30));
        found += seek(&mut world, std::iter::repeat_n(n, 60)) / 3.0;
    }
    assert!(found >= 0.95, "{found}");
}

/// For the record: what it takes to hide a key from everybody.
#[test]
#[ignore = "it only prints; cargo test -p hawsepipe-overlay --lib -- --ignored --nocapture hiding_a_key"]
fn hiding_a_key() {
    for networks in [8, 12, 16, 24, 32, 64] {
        let mut world = network(5, 600);
        let mut found = 0.0;
        for n in 0..5 {
            surround(&mut world, &key(n), 256, networks);
            let honest = honest(&world);
            let by = honest[world.chance.below(honest.len())];
            world.put(by, &key(n), 1);
            world.run_for(seconds(30));
            found += seek(&mut world, std::iter::repeat_n(n, 40)) / 5.0;
        }
        println!("256 names in {networks} networks: {:.0} % found", 100.0 * found);
    }
}

#[test]
fn who_is_told_of_hostile_nodes_to_begin_with_finds_all_the_same() {
    let mut world = network(6, 500);
    publish(&mut world, 100);
    let honest = serving(&world);
    let hostile: Vec<_> = (0..200_u32)
        .map(|n| {
            let id = NodeId::new(&(n + 1_000_000).to_be_bytes());
            world.join_hostile(id, Ipv4Addr::new(200 + (n % 3) as u8, 7, 7, n as u8 + 1).into())
        })
        .collect();
    let (mut found, mut kept) = (0, 0);
    for n in 0..20 {
        let known = [some(&mut world, &hostile, 8), some(&mut world, &honest, 2)].concat();
        let newcomer = world.join(true, &known);
        world.run_for(seconds(30));
        world.tally = Tally::default();
        (0..5).for_each(|of| world.get(newcomer, &key(5 * n + of)));
        world.put(newcomer, &key(1000 + n), 1);
        world.run_for(seconds(30));
        found += world.tally.found;
        kept += (seek(&mut world, [1000 + n]) == 1.0) as usize;
    }
    println!("found {found} kept {kept}");
    assert!(found >= 95, "{found}");
    assert!(kept >= 19, "{kept}");
}

#[test]
fn two_halves_become_one_again() {
    let mut world = network(8, 400);
    for index in 0..400 {
        world.nodes[index].side = (index % 2) as u8;
    }
    world.run_for(seconds(40 * 60));
    let mean = |world: &World| {
        serving(world).iter().map(|index| world.dht(*index).unwrap().report().nodes).sum::<usize>()
            / serving(world).len()
    };
    println!("apart: {}", mean(&world));
    (0..400).for_each(|index| world.nodes[index].side = 0);
    world.run_for(seconds(40 * 60));
    println!("again: {}", mean(&world));
    world.tally = Tally::default();
    publish(&mut world, 200);
    let found = seek(&mut world, 0..200);
    println!("{}", world.tally.describe());
    assert!(found >= 0.99, "{found}");
}

#[test]
fn one_living_neighbour_is_enough_to_begin_with() {
    let mut world = network(9, 300);
    publish(&mut world, 40);
    let mut serving = serving(&world);
    let last = serving.pop().unwrap();
    let dead: Vec<_> = serving.iter().take(30).copied().collect();
    dead.iter().for_each(|index| world.die(*index));
    let newcomer = world.join(false, &[dead, vec![last]].concat());
    world.run_for(seconds(30));
    assert!(world.dht(newcomer).unwrap().report().healthy);
    world.tally = Tally::default();
    (0..40).for_each(|n| world.get(newcomer, &key(n)));
    world.run_for(seconds(30));
    assert_eq!(world.tally.found, 40);
}

/// One pub and two people behind NATs; then two nodes of a LAN; then nobody.
#[test]
fn networks_of_two_and_three_work() {
    let mut world = World::new(10);
    let public = world.join(true, &[]);
    let people = [world.join(false, &[public]), world.join(false, &[public])];
    world.run_for(seconds(10));
    world.put(people[0], &key(1), 1);
    world.run_for(seconds(5));
    world.get(people[1], &key(1));
    world.run_for(seconds(5));
    assert_eq!((world.tally.stored, world.tally.found), (1, 1));
    let one = world.join_at([192, 168, 1, 1].into(), true, &[]);
    let other = world.join_at([192, 168, 1, 2].into(), true, &[one]);
    world.run_for(seconds(10));
    world.put(one, &key(2), 1);
    world.put(other, &key(3), 1);
    world.run_for(seconds(10));
    world.get(one, &key(3));
    world.get(other, &key(2));
    world.run_for(seconds(10));
    assert_eq!((world.tally.stored, world.tally.found), (3, 3));
}
