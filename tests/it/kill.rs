//! `kill -9` in the middle of publishing and of a sync: whatever was acknowledged is there afterwards, nothing is
//! there by half, and no feed forks.

use std::collections::BTreeSet;
use std::env;
use std::sync::mpsc;
use std::thread;

use hawsepipe_tests::chance::SplitMix;
use hawsepipe_tests::control::Control;
use hawsepipe_tests::lab;
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::wait::SOON;
use serde_json::json;

/// How often a node is killed. More often with
/// `HAWSEPIPE_KILLS=200 cargo nextest run -p hawsepipe-tests whatever_a_killed_node`.
const KILLS: u64 = 10;
/// Messages that there are to sync when it is killed.
const TO_SYNC: u64 = 150;
/// Messages that it publishes before it is killed, at most.
const TO_PUBLISH: f64 = 60.0;

fn publish(control: &Control, text: &str) -> Result<String, String> {
    let message = control.call("publish", vec![json!({ "type": "post", "text": text })])?;
    Ok(message["key"].as_str().expect("a published message has a key").to_owned())
}

/// Has the node publish and kills it when `acks` of that are acknowledged; gives all that were.
fn killed_while_it_publishes(node: Peer, acks: usize) -> (Setup, Vec<String>) {
    let control = node.control();
    let (acknowledge, acknowledged) = mpsc::channel();
    let publisher = thread::spawn(move || {
        while let Ok(key) = publish(&control, "before the kill") {
            if acknowledge.send(key).is_err() {
                return;
            }
        }
    });
    let mut keys: Vec<String> = acknowledged.iter().take(acks).collect();
    let setup = node.kill();
    keys.extend(acknowledged.iter());
    publisher.join().expect("the publisher ends when the node is gone");
    assert!(keys.len() >= acks, "the node refused to publish");
    (setup, keys)
}

#[test]
fn whatever_a_killed_node_had_acknowledged_is_there_again() {
    lab::run(|lab| {
        let kills = env::var("HAWSEPIPE_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
        let [source_host, victim_host] = lab.segment(["source", "victim"]);
        let source = Setup::on(&source_host).solitary().start();
        let mut victim = Setup::on(&victim_host).solitary().start();
        let (source_id, victim_id) = (source.id().to_owned(), victim.id().to_owned());
        source.follow(&victim_id);
        victim.follow(&source_id);
        let publisher = source.control();
        let mut chance = SplitMix::new(1);
        let (mut acknowledged, mut of_source, mut of_victim) = (Vec::new(), 1, 1);
        for kill in 0..kills {
            for _ in 0..TO_SYNC {
                publish(&publisher, "to be synced").unwrap();
            }
            of_source += TO_SYNC;
            victim.ok(&["connect", &source.net_address()]);
            let acks = (chance.unit() * TO_PUBLISH) as usize;
            let (setup, keys) = killed_while_it_publishes(victim, acks);
            acknowledged.extend(keys);
            victim = setup.start();
            let there: BTreeSet<String> = victim.ids().into_iter().collect();
            let lost: Vec<_> = acknowledged.iter().filter(|key| !there.contains(*key)).collect();
            assert_eq!(lost, Vec::<&String>::new(), "lost by kill {kill}");
            of_victim = victim.sequence_of(&victim_id);
        }
        victim.ok(&["connect", &source.net_address()]);
        let clock = [(source_id, of_source), (victim_id, of_victim)];
        for node in [&source, &victim] {
            node.wait_clock(&clock, SOON);
            assert_eq!(node.ok(&["forks"]), "", "nobody saw a fork");
        }
        assert_eq!(source.ids(), victim.ids());
        assert!(of_victim as usize > acknowledged.len(), "all acknowledged and the follow");
        let setup = victim.setup().clone();
        victim.stop();
        let checked = setup.run(&["check"]);
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    });
}
