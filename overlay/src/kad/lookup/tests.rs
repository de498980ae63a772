#![expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::reachability::{Target, Transport};

fn target() -> Key {
    Key::of(b"target")
}

fn contact_at(n: u32, ip: Ipv4Addr) -> Contact {
    let at = vec![Target { transport: Transport::Quic, at: SocketAddr::new(ip.into(), 4001) }];
    Contact { node: NodeId::new(&n.to_be_bytes()), at }
}

/// In a network of its own.
fn contact(n: u32) -> Contact {
    contact_at(n, Ipv4Addr::from_bits((20 << 24) + (n << 8)))
}

/// `count` of them, nearest first.
fn nearest(count: u32, contact: impl Fn(u32) -> Contact) -> Vec<Contact> {
    let mut contacts: Vec<_> = (0..count).map(contact).collect();
    contacts.sort_by_key(|contact| target().distance(contact.node.key()));
    contacts
}

struct Table {
    lookup: Lookup,
    now: Instant,
}

impl Table {
    fn new(goal: Goal, seeds: &[Contact]) -> Self {
        let now = Instant::now();
        Self { lookup: Lookup::new(now, target(), goal, seeds.to_vec(), 0), now }
    }

    fn ask(&mut self) -> Vec<(Contact, Question)> {
        self.lookup.advance(self.now, |_| true)
    }

    fn asked(&mut self) -> Vec<NodeId> {
        self.ask().into_iter().map(|(contact, _)| contact.node).collect()
    }

    fn answer(&mut self, contact: &Contact, closer: &[Contact]) {
        self.lookup.answered(&contact.node, contact.ip(), closer.to_vec());
    }

    /// Everybody answers with `closer`, except those that `is_dead`; who was asked what.
    fn run(&mut self, closer: &[Contact], is_dead: impl Fn(&Contact) -> bool) -> Vec<(Contact, Question)> {
        let mut all = Vec::new();
        while !self.lookup.is_over(self.now) {
            let questions = self.ask();
            if questions.is_empty() {
                self.now = self.lookup.poll_timeout(self.now);
            }
            for (contact, _) in questions.iter().filter(|(contact, _)| !is_dead(contact)) {
                self.answer(contact, closer);
            }
            all.extend(questions);
        }
        all
    }
}

fn ids(contacts: &[Contact]) -> Vec<NodeId> {
    contacts.iter().map(|contact| contact.node.clone()).collect()
}

#[test]
fn each_way_asks_its_own_nearest_and_nobody_waits_for_the_slow() {
    let nodes = nearest(30, contact);
    let mut table = Table::new(Goal::Get, &nodes[10..22]);
    assert_eq!(table.asked(), ids(&nodes[10..16]), "two for each of three ways");
    assert_eq!(table.ask(), []);
    table.now += SLOW;
    table.answer(&nodes[10], &nodes[..2]);
    let others = [&nodes[..2], &nodes[17..19], &nodes[20..22]].concat();
    assert_eq!(
        BTreeSet::from_iter(table.asked()),
        ids(&others).into_iter().collect(),
        "a slow one still counts"
    );
    assert_eq!(table.lookup.hops(), 1);
}

#[test]
fn a_get_ends_when_the_nearest_have_answered_and_the_dead_cost_half_a_second() {
    let nodes = nearest(100, contact);
    let mut table = Table::new(Goal::Get, &nodes[60..80]);
    let start = table.now;
    let dead = ids(&nodes[..3]);
    let asked = table.run(&nodes[..20], |contact| dead.contains(&contact.node));
    let asked: BTreeSet<_> = asked.into_iter().map(|(contact, _)| contact.node).collect();
    assert!(ids(&nodes[..SEARCHED + 3]).iter().all(|node| asked.contains(node)));
    assert!(asked.len() <= SEARCHED + 3 + 6, "{}", asked.len());
    assert_eq!(table.now - start, SLOW);
}

#[test]
fn a_thousand_names_in_eight_networks_do_not_hide_the_others() {
    let crowd = nearest(40_000, |n| contact_at(n, Ipv4Addr::new(66, (n % 8) as u8, 0, (n / 8 % 256) as u8)));
    let crowd = &crowd[..1000];
    let others = nearest(50, |n| contact(n + 100_000));
    let told = [&crowd[..10], &others[..10]].concat();
    let mut table = Table::new(Goal::Get, &others[20..40]);
    let asked = table.run(&told, |_| false);
    let is_of_crowd =
        |contact: &Contact| matches!(contact.ip(), Some(IpAddr::V4(ip)) if ip.octets()[0] == 66);
    let of_crowd = asked.iter().filter(|(contact, _)| is_of_crowd(contact)).count();
    assert!(of_crowd <= 8, "{of_crowd}");
    let asked: BTreeSet<_> = asked.into_iter().map(|(contact, _)| contact.node).collect();
    assert!(ids(&others[..4]).iter().all(|node| asked.contains(node)));
}

#[test]
fn a_network_in_one_place_is_plain_kademlia() {
    let nodes = nearest(100, |n| contact_at(n, Ipv4Addr::new(192, 168, 1, n as u8)));
    let mut table = Table::new(Goal::Get, &nodes[40..60]);
    let asked = table.run(&nodes[..20], |_| false);
    let asked: BTreeSet<_> = asked.into_iter().map(|(contact, _)| contact.node).collect();
    assert!(ids(&nodes[..SEARCHED]).iter().all(|node| asked.contains(node)));
}

#[test]
fn a_record_goes_to_the_nearest_who_live() {
    let nodes = nearest(100, contact);
    let dead = ids(&[&nodes[..2], &nodes[5..6]].concat());
    let mut table = Table::new(Goal::Put, &nodes[60..80]);
    table.run(&nodes[..20], |contact| dead.contains(&contact.node));
    let keepers = ids(&table.lookup.keepers());
    let expected: Vec<_> =
        ids(&nodes).into_iter().filter(|node| !dead.contains(node)).take(STORED_AT).collect();
    assert!(expected.iter().all(|node| keepers.contains(node)));
    assert!(keepers.len() <= STORED_AT + 3, "{}", keepers.len());
}

#[test]
fn a_record_that_few_keep_waits_for_the_slow() {
    let nodes = nearest(2, contact);
    let mut table = Table::new(Goal::Put, &nodes);
    assert_eq!(table.asked(), ids(&nodes));
    table.answer(&nodes[0], &nodes);
    table.now += SLOW;
    assert_eq!(table.ask(), [(nodes[0].clone(), Question::Store)]);
    table.answer(&nodes[0], &nodes);
    assert!(!table.lookup.is_over(table.now), "the other has not answered");
    table.answer(&nodes[1], &nodes);
    assert_eq!(table.ask(), [(nodes[1].clone(), Question::Store)]);
    table.answer(&nodes[1], &nodes);
    assert!(table.lookup.is_over(table.now));
    assert_eq!(table.lookup.keepers().len(), 2);
}

#[test]
fn who_stores_again_goes_straight_to_the_keepers_until_too_few_are_left() {
    let nodes = nearest(100, contact);
    let (keepers, others) = (&nodes[..STORED_AT], &nodes[STORED_AT..STORED_AT + 20]);
    for (dead, asked) in [(0, STORED_AT), (3, STORED_AT)] {
        let mut table = Table::new(Goal::Put, others);
        table.lookup = table.lookup.straight(keepers.to_vec());
        let questions = table.run(&[], |contact| ids(&keepers[..dead]).contains(&contact.node));
        assert!(questions.iter().all(|(_, question)| *question == Question::Store));
        assert_eq!(questions.len(), asked, "{dead}");
        assert!(!table.lookup.has_walked());
    }
    let mut table = Table::new(Goal::Put, others);
    table.lookup = table.lookup.straight(keepers.to_vec());
    table.run(&[], |contact| ids(&keepers[..4]).contains(&contact.node));
    assert!(table.lookup.has_walked());
    assert_eq!(ids(&table.lookup.keepers()), ids(&nodes[4..12]));
}

#[test]
fn a_liar_does_not_hide_a_node_by_telling_of_it_first() {
    let nodes = nearest(30, contact);
    let hidden = &nodes[0];
    let lie = Contact { node: hidden.node.clone(), at: contact_at(0, Ipv4Addr::new(66, 6, 6, 6)).at };
    let mut table = Table::new(Goal::Get, &nodes[20..26]);
    table.ask();
    table.answer(&nodes[20], std::slice::from_ref(&lie));
    let asked = |table: &mut Table| table.ask().into_iter().map(|(contact, _)| contact).collect::<Vec<_>>();
    assert_eq!(asked(&mut table), [lie]);
    table.lookup.failed(&hidden.node);
    table.answer(&nodes[21], std::slice::from_ref(hidden));
    assert_eq!(asked(&mut table), std::slice::from_ref(hidden));
}

proptest! {
    /// Whatever it is told: a lookup ends, asks nobody twice, and remembers no more than it may.
    #[test]
    fn a_lookup_ends_and_is_bounded(
        answers in proptest::collection::vec((0_u8..4, proptest::collection::vec(0_u32..100_000, 0..40)), 1..80),
        subnets in 1_u32..200,
    ) {
        let contact = |n: u32| contact_at(n, Ipv4Addr::from_bits((20 << 24) + ((n % subnets) << 8) + 1));
        let mut table = Table::new(Goal::Put, &nearest(20, contact));
        let (mut asked, mut answers) = (BTreeSet::new(), answers.into_iter().cycle());
        while !table.lookup.is_over(table.now) {
            let questions = table.ask();
            if questions.is_empty() {
                let at = table.lookup.poll_timeout(table.now);
                prop_assert!(at > table.now);
                table.now = at;
            }
            for (to, question) in questions {
                prop_assert!(asked.insert((to.node.clone(), question == Question::Store)));
                let (outcome, closer) = answers.next().unwrap();
                match outcome {
                    0 => {}
                    1 => table.lookup.failed(&to.node),
                    _ => table.answer(&to, &closer.into_iter().map(contact).collect::<Vec<_>>()),
                }
                let unasked = table.lookup.candidates.values().filter(|of| of.state == State::Known).count();
                prop_assert!(unasked <= MAX_CANDIDATES && table.lookup.asked <= MAX_ASKED);
            }
        }
    }
}
