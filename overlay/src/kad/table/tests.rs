#![expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]

use std::net::{Ipv4Addr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::reachability::Transport;

fn contact(n: u32, ip: IpAddr) -> Contact {
    let at = vec![Target { transport: Transport::Quic, at: SocketAddr::new(ip, 4001) }];
    Contact { node: NodeId::new(&n.to_be_bytes()), at }
}

fn own() -> Key {
    *NodeId::new(b"own").key()
}

/// The first `count` nodes of the farthest bucket.
fn of_one_bucket() -> impl Iterator<Item = u32> {
    (0..).filter(|n: &u32| own().distance(contact(*n, [1, 1, 1, 1].into()).node.key()).bucket() == Some(0))
}

/// The `n`th host of the `network`th /16.
fn host(network: u8, n: u8) -> IpAddr {
    Ipv4Addr::new(20, network, n, 1).into()
}

#[test]
fn all_of_a_small_network_are_in_although_they_are_in_one_place() {
    let (now, mut table) = (Instant::now(), Table::new(own()));
    for n in of_one_bucket().take(K) {
        assert_eq!(table.room(&contact(n, host(1, 1)).node, host(1, 1)), Room::Free);
        assert!(table.answered(now, &contact(n, host(1, 1)), host(1, 1)));
    }
    let late = of_one_bucket().nth(K).unwrap();
    assert!(!table.answered(now, &contact(late, host(1, 1)), host(1, 1)), "the old ones stay");
    assert_eq!((table.len(), table.networks(), table.subnets()), (K, 1, 1));
}

#[test]
fn a_full_bucket_makes_room_for_networks_that_it_lacks() {
    let (mut now, mut table) = (Instant::now(), Table::new(own()));
    let mut nodes = of_one_bucket();
    for n in nodes.by_ref().take(K) {
        table.answered(now, &contact(n, host(1, 1)), host(1, 1));
        now += Duration::from_secs(1);
    }
    let oldest = table.oldest()[0].contact.node.clone();
    for (network, n) in (2..=19).zip(nodes.by_ref()) {
        assert!(table.answered(now, &contact(n, host(network, 1)), host(network, 1)), "{network}");
    }
    assert_eq!((table.len(), table.networks()), (K, 19));
    let n = nodes.next().unwrap();
    assert!(!table.answered(now, &contact(n, host(20, 1)), host(20, 1)), "two of one network may stay");
    assert!(table.find(&oldest).is_some());
    assert!(
        matches!(table.room(&contact(n, host(20, 1)).node, host(20, 1)), Room::InPlaceOf(node, _) if node == oldest)
    );
}

#[test]
fn who_fails_twice_is_gone_unless_it_was_at_once_or_it_was_us() {
    let (start, mut table) = (Instant::now(), Table::new(own()));
    let node = contact(1, host(1, 1));
    table.answered(start, &node, host(1, 1));
    assert!(matches!(table.failed(start, &node), Loss::Suspect));
    assert!(matches!(table.failed(start, &node), Loss::None));
    assert!(table.closest(&own(), K).is_empty(), "a suspect is not told of");
    table.forgive();
    assert_eq!(table.closest(&own(), K).len(), 1);
    assert!(matches!(table.failed(start, &node), Loss::Suspect));
    assert!(matches!(table.failed(start + FAILURE_SPACING, &node), Loss::Gone(_)));
    assert!(table.is_empty());
    table.answered(start, &node, host(1, 1));
    assert!(matches!(table.failed(start, &contact(1, host(2, 2))), Loss::None), "it never was there");
}

#[test]
fn only_addresses_that_answered_are_kept_and_each_family_moves_by_itself() {
    let (now, mut table) = (Instant::now(), Table::new(own()));
    let (v4, v6) = (host(1, 1), "2001:db8::1".parse().unwrap());
    let mut node = contact(1, v4);
    node.at.extend(contact(1, v6).at);
    assert!(!table.answered(now, &node, host(9, 9)), "it was not said to be there");
    assert!(table.answered(now, &node, v4));
    assert_eq!(table.find(&node.node).unwrap().contact.at, [node.at[0]]);
    table.answered(now, &node, v6);
    assert_eq!(table.find(&node.node).unwrap().contact.at, [node.at[1], node.at[0]]);
    let moved = contact(1, host(2, 1));
    table.answered(now, &moved, host(2, 1));
    assert_eq!(table.find(&node.node).unwrap().contact.at, [moved.at[0], node.at[1]]);
    assert_eq!(table.networks(), 1);
}

proptest! {
    #[test]
    fn the_closest_are_the_closest(nodes in proptest::collection::vec(0_u32..5000, 0..300), target: u32) {
        let (now, mut table) = (Instant::now(), Table::new(own()));
        for n in nodes {
            let ip = Ipv4Addr::from_bits(n.wrapping_mul(0x9e37_79b9)).into();
            table.answered(now, &contact(n, ip), ip);
        }
        let target = Key::of(&target.to_be_bytes());
        let mut expected: Vec<_> = table.nodes().map(|node| target.distance(node.contact.node.key())).collect();
        expected.sort();
        expected.truncate(K);
        let closest = table.closest(&target, K).into_iter().map(|node| target.distance(node.contact.node.key()));
        prop_assert_eq!(closest.collect::<Vec<_>>(), expected);
    }

    /// Whoever comes, and from wherever: no bucket outgrows its size, and nobody who is alone in its network
    /// loses its place.
    #[test]
    fn nobody_is_pushed_out_of_a_network_of_its_own(crowd in proptest::collection::vec((0_u32..3000, 0_u8..4, 0_u8..4), 0..400)) {
        let (now, mut table) = (Instant::now(), Table::new(own()));
        let alone: Vec<_> = of_one_bucket().take(8).collect();
        for (n, network) in alone.iter().zip(100..) {
            table.answered(now, &contact(*n, host(network, 0)), host(network, 0));
        }
        for (n, network, subnet) in crowd {
            let ip = host(network, subnet);
            table.answered(now, &contact(n, ip), ip);
        }
        prop_assert!(table.buckets.values().all(|bucket| bucket.len() <= K));
        for n in alone {
            prop_assert!(table.find(&contact(n, host(0, 0)).node).is_some());
        }
    }
}
