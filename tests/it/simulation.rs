//! The scheduler in a simulated world, against ssb-conn's rules in the same one; `cargo run -p hawsepipe-tests -- sim` prints the
//! whole table.

use hawsepipe_tests::sim::network::{Disaster, Script};
use hawsepipe_tests::sim::odd::Odds;
use hawsepipe_tests::sim::world::World;
use hawsepipe_tests::sim::{self, MINUTE, Rules};

#[test]
fn posts_reach_their_followers_sooner_than_with_ssb_conn_over_no_more_connections_and_nobody_starves() {
    let world = World::generate(10_000, 1);
    let script = Script::calm(5 * MINUTE, 5 * MINUTE, 5 * MINUTE);
    let ours = sim::run(&world, Rules::Sparse, &script);
    let theirs = sim::run(&world, Rules::Conn, &script);
    assert!(ours.pairs.0 > 500 && theirs.pairs.0 > 500, "{ours:?}\n{theirs:?}");
    assert!(ours.reach.1 * 1.5 <= theirs.reach.1, "{ours:?}\n{theirs:?}");
    assert!(ours.reach.0 < theirs.reach.0, "{ours:?}\n{theirs:?}");
    assert!(ours.sessions.0 <= theirs.sessions.0, "{ours:?}\n{theirs:?}");
    assert!(ours.worst_decile < theirs.worst_decile, "{ours:?}\n{theirs:?}");
    assert_eq!(ours.starved, 0, "{ours:?}");
}

#[test]
fn posts_arrive_after_half_the_nodes_have_left_after_a_partition_and_without_pubs() {
    let world = World::generate(1_000, 2);
    let warm = 5 * MINUTE;
    for disaster in [Disaster::HalfLeave, Disaster::Partition(10 * MINUTE), Disaster::PubsVanish] {
        let script = Script { posts: 4.0, ..Script::after(warm, disaster, 15 * MINUTE) };
        let measures = sim::run(&world, Rules::Ours, &script);
        assert!(measures.pairs.0 > 50, "{disaster:?}: {measures:?}");
        assert!(measures.reach.1 < 120.0, "{disaster:?}: {measures:?}");
    }
}

/// A quarter of the people: clocks that promise what never comes, visits that end at once, silence. Two of the pubs are rooms.
#[test]
fn liars_visitors_and_the_silent_are_chosen_less_than_their_number_and_posts_arrive() {
    let world = World::generate(1_000, 3);
    let calm = Script::calm(20 * MINUTE, 10 * MINUTE, 5 * MINUTE);
    let odds = Odds::MANY;
    let share = odds.liars + odds.comers + odds.mutes;
    let [without, with] =
        [None, Some(odds)].map(|odds| sim::run(&world, Rules::Ours, &Script { odds, posts: 2.0, ..calm }));
    assert!(with.pairs.0 > 500, "{with:?}");
    assert_eq!((with.starved, without.useless), (0, (0.0, 0.0)), "{with:?}");
    assert!(with.reach.1 < 4.0 * without.reach.1, "{with:?}\n{without:?}");
    assert!(with.useless.0 < share, "{with:?}");
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let script = Script::calm(2 * MINUTE, MINUTE, MINUTE);
    for rules in Rules::ALL {
        let [one, again, other] =
            [1, 1, 2].map(|seed| sim::run(&World::generate(300, seed), rules, &script).trace);
        assert_eq!(one, again, "{rules:?}");
        assert_ne!(one, other, "{rules:?}");
    }
}
