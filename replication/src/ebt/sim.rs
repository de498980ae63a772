//! Many nodes on a simulated network and clock, driven at random and compared with what each must hold.
//!
//! A seed decides everything: the topology, delays, who follows, blocks and publishes what, when streams
//! break, when nodes restart and what they lose. Streams deliver in order or break; a message waits in an
//! outbox, travels, and is verified some time after it was accepted. In the end the network heals, and
//! then two connected nodes must hold equally much of each feed that may pass between them, and fall
//! silent. [`js`] is a model of how the JavaScript peers behave, to mix in.

mod first_sync;
mod js;
mod world;

use world::{Plan, World};

/// Runs `count` seeds from `first` on, or as many as `HAWSEPIPE_SEEDS` says.
fn run(first: u64, count: u64, plan: Plan) {
    let wished = std::env::var("HAWSEPIPE_SEEDS").ok().and_then(|count| count.parse().ok());
    for seed in first..first + wished.unwrap_or(count) {
        let mut world = World::new(seed, plan);
        world.live();
        world.heal();
        world.assert_converged();
    }
}

#[test]
fn nodes_converge_whatever_happens() {
    run(0, 150, Plan::default());
}

#[test]
fn nodes_converge_while_stores_fail_and_peers_lie() {
    run(1_000_000, 100, Plan { failures: true, liars: true, ..Plan::default() });
}

#[test]
fn nodes_that_lose_their_store_are_served_again() {
    run(2_000_000, 100, Plan { lost_stores: true, ..Plan::default() });
}

#[test]
fn a_quiet_network_carries_hardly_a_message_twice() {
    let (mut useful, mut wasted) = (0, 0);
    for seed in 3_000..3_040 {
        let mut world = World::new(seed, Plan { peaceful: true, ..Plan::default() });
        world.live();
        world.heal();
        world.assert_converged();
        useful += world.useful;
        wasted += world.wasted;
    }
    assert!(useful > 10_000, "the test does something: {useful}");
    assert!(wasted * 20 < useful, "{wasted} wasted for {useful} useful");
}

#[test]
fn nodes_converge_with_javascript_peers_among_them() {
    run(4_000_000, 100, Plan { javascript: true, ..Plan::default() });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = || {
        let mut world = World::new(7, Plan::default());
        world.live();
        (world.useful, world.wasted, world.delivered)
    };
    assert_eq!(trace(), trace());
}
