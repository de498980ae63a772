//! Tables for the machine, and one property: whatever happens, it keeps to its bounds.
#![expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]

use proptest::prelude::*;

use super::*;

type Machine = Relays<u8, &'static str>;
type In = Input<u8, &'static str>;
type Out = Output<u8, &'static str>;

struct Table {
    machine: Machine,
    now: Instant,
}

impl Table {
    fn new(fixed: &[(u8, &'static str)]) -> Self {
        let now = Instant::now();
        Self { machine: Relays::new(now, fixed.iter().copied(), 7), now }
    }

    fn give(&mut self, input: In) -> Vec<Out> {
        self.machine.handle(self.now, input);
        self.drain()
    }

    /// Lets time pass, timer by timer.
    fn wait(&mut self, time: Duration) -> Vec<Out> {
        let until = self.now + time;
        let mut outputs = Vec::new();
        while let Some(at) = self.machine.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.machine.handle_timeout(self.now);
            outputs.extend(self.drain());
        }
        self.now = until;
        outputs
    }

    fn drain(&mut self) -> Vec<Out> {
        std::iter::from_fn(|| self.machine.poll_output()).collect()
    }

    fn held(&self) -> Vec<u8> {
        self.machine.held().into_iter().map(|(relay, _)| *relay).collect()
    }

    fn accept(&mut self, relay: u8) -> Vec<Out> {
        self.give(Input::Accepted { relay, bytes: None })
    }
}

fn candidate(relay: u8, ip: &str, tier: Tier) -> In {
    let network = Some(Network::of(ip.parse().unwrap()));
    Input::Candidate { relay, facts: Facts { at: "found", network, is_public: true, tier } }
}

fn reserve(relay: u8) -> Out {
    Output::Reserve { relay, at: "found" }
}

fn dial(relay: u8, at: &'static str) -> Out {
    Output::Dial { relay, at }
}

const ACCEPTED: [Out; 2] = [Output::Ended("ok"), Output::Changed];

#[test]
fn as_many_as_needed_are_asked_and_held() {
    let mut table = Table::new(&[]);
    for (relay, ip) in [(1, "192.0.2.1"), (2, "198.51.100.1"), (3, "203.0.113.1")] {
        assert_eq!(table.give(candidate(relay, ip, Tier::Stranger)), []);
    }
    assert_eq!(table.give(Input::Needed(2)), [reserve(3), reserve(2)]);
    assert_eq!(table.accept(3), ACCEPTED);
    assert_eq!(table.accept(2), ACCEPTED);
    assert_eq!(table.accept(2), [], "a renewal changes nothing");
    assert_eq!(table.held(), [3, 2]);
    assert_eq!(table.give(Input::Needed(3)), [reserve(1)]);
    table.accept(1);
    let released = table.give(Input::Needed(0));
    assert_eq!(released.iter().filter(|out| matches!(out, Output::Release(_))).count(), 3);
    assert!(table.held().is_empty());
}

#[test]
fn relays_on_networks_of_their_own_come_first_then_those_we_know() {
    let mut table = Table::new(&[]);
    table.give(candidate(1, "192.0.2.1", Tier::Friend));
    table.give(candidate(2, "192.0.77.1", Tier::Member));
    table.give(candidate(3, "2001:db8::1", Tier::Stranger));
    table.give(candidate(4, "2001:db8:ffff::1", Tier::Member));
    assert_eq!(table.give(Input::Needed(2)), [reserve(1), reserve(4)]);
    assert_eq!(table.give(Input::Needed(3)), [reserve(2)], "two on one network if there is no other");
}

#[test]
fn neighbours_relay_only_where_nobody_else_does() {
    let mut table = Table::new(&[]);
    let facts = Facts { at: "found", network: None, is_public: false, tier: Tier::Friend };
    table.give(Input::Candidate { relay: 1, facts });
    table.give(candidate(2, "192.0.2.1", Tier::Stranger));
    assert_eq!(table.give(Input::Needed(1)), [reserve(2)]);
    assert_eq!(table.give(Input::Needed(2)), [reserve(1)]);
}

#[test]
fn a_fresh_relay_is_asked_again_soon_and_then_ever_less_often() {
    let mut table = Table::new(&[]);
    table.give(candidate(1, "192.0.2.1", Tier::Stranger));
    assert_eq!(table.give(Input::Needed(1)), [reserve(1)]);
    let mut pauses = Vec::new();
    for _ in 0..14 {
        let before = table.now;
        assert_eq!(table.give(Input::Refused(1)), [Output::Ended("refused")]);
        let at = table.machine.poll_timeout().unwrap();
        pauses.push(at.duration_since(before));
        assert_eq!(table.wait(at.duration_since(before)), [reserve(1)]);
    }
    assert_eq!(pauses[..3], FRESH_PAUSES);
    assert!(pauses[3] >= FIRST_PAUSE * 8 / 10 && pauses[3] <= FIRST_PAUSE * 12 / 10, "{pauses:?}");
    assert!(pauses[3..].windows(2).all(|pair| pair[0] < pair[1] || pair[1] >= LONGEST_PAUSE * 8 / 10));
    assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE));
}

#[test]
fn after_a_refusal_another_relay_is_asked_at_once() {
    let mut table = Table::new(&[]);
    table.give(candidate(1, "192.0.2.1", Tier::Friend));
    table.give(candidate(2, "198.51.100.1", Tier::Stranger));
    assert_eq!(table.give(Input::Needed(1)), [reserve(1)]);
    assert_eq!(table.give(Input::Refused(1)), [Output::Ended("refused"), reserve(2)]);
}

#[test]
fn a_relay_that_does_not_answer_is_given_up() {
    let mut table = Table::new(&[]);
    table.give(candidate(1, "192.0.2.1", Tier::Friend));
    table.give(candidate(2, "198.51.100.1", Tier::Stranger));
    table.give(Input::Needed(1));
    assert_eq!(table.wait(PENDING_TIMEOUT), [Output::Ended("timeout"), reserve(2)]);
    assert_eq!(table.accept(2), ACCEPTED);
    let late = table.accept(1);
    assert_eq!(
        late[2..],
        [Output::Release(2), Output::Changed],
        "it answers after all, and is the better one"
    );
}

#[test]
fn a_relay_of_the_configuration_is_dialled_and_a_dead_one_makes_way() {
    let mut table = Table::new(&[(1, "one"), (2, "two")]);
    assert_eq!(table.give(Input::Needed(1)), [dial(2, "two")]);
    assert_eq!(table.give(Input::Disconnected(2)), [Output::Ended("dial_failed"), dial(1, "one")]);
    assert_eq!(table.give(candidate(1, "192.0.2.1", Tier::Stranger)), [reserve(1)]);
    assert_eq!(table.accept(1), ACCEPTED);
    assert_eq!(table.wait(LONGEST_PAUSE), [], "nothing else is needed");
}

#[test]
fn a_relay_that_learns_late_that_it_can_relay_is_asked_when_it_says_so() {
    let mut table = Table::new(&[(1, "one")]);
    table.give(Input::Needed(1));
    assert_eq!(table.give(Input::NotRelaying(1)), [Output::Ended("refused")]);
    assert_eq!(table.give(candidate(1, "192.0.2.1", Tier::Stranger)), [reserve(1)]);
}

#[test]
fn a_lost_reservation_is_sought_at_once_where_it_was_then_elsewhere() {
    let mut table = Table::new(&[]);
    table.give(candidate(1, "192.0.2.1", Tier::Friend));
    table.give(candidate(2, "198.51.100.1", Tier::Stranger));
    table.give(Input::Needed(1));
    table.accept(1);
    let lost = [Output::Ended("lost"), Output::Changed];
    assert_eq!(table.give(Input::Disconnected(1)), lost);
    assert_eq!(table.give(Input::Closed(1)), [], "both the connection and the listener tell of it");
    assert_eq!(table.wait(LOST_PAUSE), [dial(1, "found")]);
    assert_eq!(table.give(candidate(1, "192.0.2.1", Tier::Friend)), [reserve(1)]);
    table.accept(1);
    // It does not last.
    assert_eq!(table.give(Input::Closed(1))[..2], lost);
    assert_eq!(table.drain(), []);
    assert!(table.machine.relays[&2].is_in_use());
}

#[test]
fn a_reservation_that_lasted_makes_up_for_failures() {
    let mut table = Table::new(&[]);
    table.give(candidate(1, "192.0.2.1", Tier::Friend));
    table.give(Input::Needed(1));
    for _ in 0..3 {
        table.accept(1);
        table.wait(STABLE);
        table.give(Input::Closed(1));
        assert_eq!(table.wait(LOST_PAUSE), [reserve(1)]);
    }
}

#[test]
fn only_a_relay_of_another_class_replaces_one_and_only_after_a_while() {
    let mut table = Table::new(&[]);
    table.give(candidate(1, "192.0.2.1", Tier::Stranger));
    table.give(Input::Needed(1));
    table.accept(1);
    table.give(candidate(2, "198.51.100.1", Tier::Member));
    assert_eq!(table.wait(PATIENCE * 5), [], "a member is no reason");
    table.give(candidate(3, "203.0.113.1", Tier::Friend));
    assert_eq!(table.wait(PATIENCE - Duration::from_secs(1)), []);
    assert_eq!(table.wait(Duration::from_secs(1)), [reserve(3)]);
    let mut expected = ACCEPTED.to_vec();
    expected.extend([Output::Release(1), Output::Changed]);
    assert_eq!(table.accept(3), expected);
    assert_eq!(table.wait(PATIENCE * 5), []);
    assert_eq!(table.held(), [3]);
}

#[test]
fn a_relay_that_we_block_is_done_without() {
    let mut table = Table::new(&[]);
    table.give(candidate(1, "192.0.2.1", Tier::Friend));
    table.give(candidate(2, "198.51.100.1", Tier::Stranger));
    table.give(Input::Needed(1));
    table.accept(1);
    let outputs = table.give(Input::Tier(1, Tier::Blocked));
    assert_eq!(outputs, [Output::Release(1), Output::Changed, reserve(2)]);
}

#[test]
fn relays_known_are_bounded_and_those_in_use_stay() {
    let mut table = Table::new(&[(0, "zero")]);
    table.give(Input::Needed(1));
    table.give(candidate(0, "192.0.2.1", Tier::Stranger));
    table.accept(0);
    for relay in 1..=200 {
        table.give(candidate(relay, "198.51.100.1", Tier::Friend));
        table.give(Input::Disconnected(relay));
    }
    assert_eq!(table.machine.relays.len(), MAX_RELAYS);
    assert_eq!(table.held(), [0]);
}

fn input() -> impl Strategy<Value = In> {
    let relay = 0..6_u8;
    let tier = prop::sample::select(vec![Tier::Stranger, Tier::Member, Tier::Friend, Tier::Blocked]);
    prop_oneof![
        (0..6_usize).prop_map(Input::Needed),
        (relay.clone(), tier.clone(), any::<bool>()).prop_map(|(relay, tier, is_public)| {
            let network = Some(Network::of([10, relay / 2, 0, 1].into()));
            Input::Candidate { relay, facts: Facts { at: "found", network, is_public, tier } }
        }),
        relay.clone().prop_map(Input::NotRelaying),
        relay.clone().prop_map(Input::Disconnected),
        relay.clone().prop_map(|relay| Input::Accepted { relay, bytes: Some(1) }),
        relay.clone().prop_map(Input::Refused),
        relay.clone().prop_map(Input::Closed),
        (relay, tier).prop_map(|(relay, tier)| Input::Tier(relay, tier)),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_its_bounds_hold(steps in prop::collection::vec((input(), 0..90_u64), 1..120)) {
        let mut table = Table::new(&[(0, "zero"), (1, "one")]);
        for (input, seconds) in steps {
            table.give(input);
            table.wait(Duration::from_secs(seconds));
            let machine = &table.machine;
            prop_assert!(machine.holding() <= machine.needed);
            prop_assert!(machine.poll_timeout().is_none_or(|at| at > table.now));
            let has_place = machine.in_use() < machine.needed;
            prop_assert!(!has_place || machine.best_idle(table.now).is_none(), "nobody waits beside a free place");
            prop_assert!(machine.relays.values().all(|relay| relay.is_usable() || !relay.is_held()));
        }
    }
}
