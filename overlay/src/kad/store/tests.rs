//! The store against a plain list, and against floods.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;

const UNIX: Duration = Duration::from_secs(1_700_000_000);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Reads what [`value`] writes.
fn validate(_: &[u8], value: &[u8], _: Duration) -> Result<Stamp, Refusal> {
    let number =
        |at: usize| value.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
    let (Some(sequence), Some(until)) = (number(0), number(8)) else { return Err("form") };
    Ok(Stamp { sequence, until: Duration::from_secs(until) })
}

fn value(sequence: u64, until: Duration, variant: u8) -> Vec<u8> {
    [&sequence.to_be_bytes()[..], &until.as_secs().to_be_bytes(), &[variant]].concat()
}

fn key(number: u32) -> Vec<u8> {
    [&number.to_be_bytes()[..], &[0; 28]].concat()
}

fn asker(network: u16, peer: u32) -> Asker {
    let [a, b] = network.to_be_bytes();
    Asker { node: NodeId::new(&peer.to_be_bytes()), ip: IpAddr::V4(Ipv4Addr::new(20, a, b, 1)) }
}

fn own() -> NodeId {
    NodeId::new(b"own")
}

fn distance(number: u32) -> Distance {
    Key::of(&key(number)).distance(own().key())
}

/// Key numbers below `count`, nearest first.
fn by_distance(count: u32) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..count).collect();
    numbers.sort_by_cached_key(|number| distance(*number));
    numbers
}

/// A store, its clock and what it is told.
struct Test {
    store: Store,
    start: Instant,
    now: Instant,
}

impl Test {
    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
    fn new(records: usize, per_owner: usize, per_subnet: usize) -> Self {
        let start = Instant::now();
        let store = Store::with_limits(&own(), validate, Limits { records, per_owner, per_subnet });
        Self { store, start, now: start }
    }

    fn unix(&self) -> Duration {
        UNIX + (self.now - self.start)
    }

    fn put(&mut self, from: &Asker, number: u32, value: Vec<u8>) -> Result<(), Refusal> {
        let unix = self.unix();
        self.store.put(self.now, unix, from, Record { key: key(number), value })
    }

    /// A first record under this key.
    fn bring(&mut self, from: &Asker, number: u32) -> Result<(), Refusal> {
        self.put(from, number, value(1, UNIX + HOUR, 0))
    }

    fn has(&self, number: u32) -> bool {
        self.store.get(self.now, &key(number)).is_some()
    }
}

#[test]
fn what_has_the_wrong_size_or_is_invalid_is_refused() {
    let mut test = Test::new(8, 8, 8);
    let from = asker(1, 1);
    let too_long = Record { key: key(1), value: vec![0; MAX_VALUE + 1] };
    let short_key = Record { key: vec![0; 31], value: value(1, UNIX + HOUR, 0) };
    for record in [too_long, short_key] {
        assert_eq!(test.store.put(test.now, UNIX, &from, record), Err("size"));
    }
    assert_eq!(test.put(&from, 1, vec![0; 3]), Err("form"));
    assert_eq!(test.put(&from, 1, value(1, UNIX, 0)), Err("expired"));
    assert_eq!((test.store.len(), test.store.poll_timeout()), (0, None));
    let longest = [value(1, UNIX + HOUR, 0), vec![0; MAX_VALUE - 17]].concat();
    assert_eq!(test.put(&from, 1, longest), Ok(()));
}

#[test]
fn an_old_sequence_is_never_taken_back() {
    let mut test = Test::new(8, 8, 8);
    let (one, two) = (asker(1, 1), asker(2, 2));
    let until = UNIX + HOUR;
    assert_eq!(test.put(&one, 7, value(5, until, 0)), Ok(()));
    assert_eq!(test.put(&two, 7, value(5, until, 1)), Err("conflict"));
    assert_eq!(test.put(&two, 7, value(4, until + HOUR, 0)), Err("stale"));
    assert_eq!(test.put(&two, 7, value(6, until, 1)), Ok(()));
    assert_eq!(test.put(&one, 7, value(5, until, 0)), Err("stale"), "replayed");
    let kept = Record { key: key(7), value: value(6, until, 1) };
    assert_eq!((test.store.get(test.now, &key(7)), test.store.len()), (Some(kept), 1));
}

#[test]
fn a_record_ends_when_it_says_or_two_hours_after_it_was_brought() {
    let mut test = Test::new(8, 8, 8);
    let (from, start) = (asker(1, 1), test.start);
    test.put(&from, 1, value(1, UNIX + HOUR, 0)).unwrap();
    test.put(&from, 2, value(1, UNIX + 9 * HOUR, 0)).unwrap();
    assert_eq!(test.store.poll_timeout(), Some(start + HOUR));
    test.now = start + HOUR - Duration::from_nanos(1);
    assert!(test.has(1));
    test.now = start + HOUR;
    assert!(!test.has(1), "ended, though nothing has dropped it yet");
    assert_eq!(test.store.len(), 2);
    test.store.handle_timeout(test.now);
    assert_eq!((test.store.len(), test.store.poll_timeout()), (1, Some(start + MAX_LIFE)));
    // Brought again, it lives on.
    test.put(&asker(2, 2), 2, value(1, UNIX + 9 * HOUR, 0)).unwrap();
    assert_eq!(test.store.poll_timeout(), Some(start + HOUR + MAX_LIFE));
    test.now = start + 8 * HOUR;
    test.put(&from, 2, value(1, UNIX + 9 * HOUR, 0)).unwrap();
    assert_eq!(test.store.poll_timeout(), Some(start + 9 * HOUR), "but not longer than it says");
}

#[test]
fn what_is_there_already_is_neither_checked_nor_counted() {
    fn once(_: &[u8], value: &[u8], unix: Duration) -> Result<Stamp, Refusal> {
        if unix == UNIX { validate(&[], value, unix) } else { Err("checked again") }
    }
    let mut test = Test::new(8, 1, 8);
    test.store.validate = once;
    let (owner, other) = (asker(1, 1), asker(1, 2));
    test.bring(&owner, 1).unwrap();
    test.bring(&other, 2).unwrap();
    test.now += Duration::from_secs(1);
    assert_eq!(test.bring(&other, 1), Ok(()), "though it has its share already");
    assert_eq!(test.put(&owner, 1, value(2, UNIX + HOUR, 0)), Err("checked again"));
}

#[test]
fn a_peer_with_its_share_gives_up_its_own_farthest() {
    let mut test = Test::new(100, 3, 100);
    let numbers = by_distance(6);
    let (peer, other) = (asker(1, 1), asker(1, 2));
    test.bring(&other, numbers[5]).unwrap();
    for number in &numbers[1..4] {
        test.bring(&peer, *number).unwrap();
    }
    assert_eq!(test.bring(&peer, numbers[4]), Err("quota"));
    assert_eq!(test.bring(&peer, numbers[0]), Ok(()));
    assert!(!test.has(numbers[3]) && test.has(numbers[2]) && test.has(numbers[5]));
    // Its own may always be renewed; who renews another's owns it from then on.
    assert_eq!(test.put(&peer, numbers[2], value(2, UNIX + HOUR, 0)), Ok(()));
    assert_eq!(test.put(&peer, numbers[5], value(2, UNIX + HOUR, 0)), Err("quota"));
    assert_eq!(test.put(&other, numbers[2], value(3, UNIX + HOUR, 0)), Ok(()));
    assert_eq!(test.bring(&peer, numbers[4]), Ok(()), "there is a place again");
}

#[test]
fn a_network_may_fill_half_and_then_has_its_share() {
    let mut test = Test::new(100, 10, 20);
    let numbers = by_distance(200);
    let far = &numbers[100..];
    for (peer, number) in (0..).zip(&far[..51]) {
        assert_eq!(test.bring(&asker(1, peer), *number), Ok(()), "a lab");
    }
    assert_eq!(test.bring(&asker(1, 60), far[60]), Err("quota"));
    assert_eq!(test.bring(&asker(1, 60), numbers[0]), Ok(()));
    assert!(test.has(numbers[0]) && !test.has(far[50]) && test.has(far[49]));
    for (peer, number) in (0..).zip(&far[60..80]) {
        assert_eq!(test.bring(&asker(2, peer), *number), Ok(()));
    }
    assert_eq!(test.bring(&asker(2, 99), far[99]), Err("quota"));
    assert_eq!(test.store.len(), 71);
}

#[test]
fn a_flood_keeps_to_its_bounds_and_pushes_out_nothing_nearer() {
    let mut test = Test::new(MAX_RECORDS, MAX_PER_OWNER, MAX_PER_SUBNET);
    let numbers = by_distance(2000);
    let (near, far) = (&numbers[..200], &numbers[1800..]);
    for number in near.iter().chain(far) {
        test.bring(&asker(*number as u16 % 16, *number), *number).unwrap();
    }
    // 3,000 peers in 300 networks, or in as many as there are.
    for (count, networks) in [(60_000, 300), (60_000, u32::from(u16::MAX))] {
        for number in 0..count {
            let peer = 1_000_000 + number % 3000;
            let from = asker(1000 + (number % networks) as u16, peer);
            test.bring(&from, 10_000 * networks + number).ok();
            assert!(test.store.len() <= MAX_RECORDS);
        }
    }
    assert_eq!(test.store.len(), MAX_RECORDS);
    assert!(near.iter().all(|number| test.has(*number)));
}

#[test]
fn networks_that_bring_records_near_to_us_push_out_only_each_others() {
    let mut test = Test::new(1000, 30, 60);
    let numbers = by_distance(60_000);
    for (position, number) in (0..).zip(&numbers[59_900..]) {
        test.bring(&asker(position % 20, u32::from(position)), *number).unwrap();
    }
    // 40 networks with 200 keys each, all nearer than ours, nearer and nearer; then others in between.
    for number in numbers[..8000].iter().rev().chain(&numbers[8000..16_000]) {
        test.bring(&asker(100 + (*number % 40) as u16, *number % 4000), *number).ok();
    }
    assert_eq!(test.store.len(), 1000);
    assert!(numbers[59_900..].iter().all(|number| test.has(*number)), "ours have five for each network");
    assert!(test.has(numbers[0]));
}

#[test]
fn signatures_are_checked_only_so_often_for_each_network() {
    let mut test = Test::new(8, 8, 8);
    let bad = |test: &mut Test, network| test.put(&asker(network, 1), 1, vec![0; 3]);
    for _ in 0..CHECK_BURST {
        assert_eq!(bad(&mut test, 1), Err("form"));
    }
    assert_eq!((bad(&mut test, 1), bad(&mut test, 2)), (Err("rate"), Err("form")));
    test.now += CHECK_INTERVAL;
    assert_eq!((bad(&mut test, 1), bad(&mut test, 1)), (Err("form"), Err("rate")));
    for network in 0..2 * MAX_CHECKED {
        bad(&mut test, network as u16).ok();
    }
    assert!(test.store.checked.len() <= MAX_CHECKED);
}

#[derive(Clone, Debug)]
enum Step {
    Put { peer: u32, network: u16, number: u32, sequence: u64, minutes: u64, variant: u8 },
    Wait(u64),
    DropEnded,
}

fn step(numbers: u32) -> impl Strategy<Value = Step> {
    let put = (0..6u32, 0..4u16, 0..numbers, 0..4u64, 0..300u64, 0..2u8).prop_map(
        |(peer, network, number, sequence, minutes, variant)| Step::Put {
            peer,
            network,
            number,
            sequence,
            // From two hours ago to three hours from now.
            minutes,
            variant,
        },
    );
    prop_oneof![8 => put, 1 => (1..90u64).prop_map(Step::Wait), 1 => Just(Step::DropEnded)]
}

/// The rules of sequence and expiry over a list.
#[derive(Default)]
struct Model(Vec<Modelled>);

struct Modelled {
    number: u32,
    value: Vec<u8>,
    sequence: u64,
    until: Duration,
    /// Since 1970.
    ends: Duration,
}

impl Model {
    fn put(&mut self, unix: Duration, number: u32, bytes: &[u8]) -> Result<(), Refusal> {
        self.0.retain(|record| record.ends > unix);
        let Stamp { sequence, until } = validate(&[], bytes, unix)?;
        let ends = until.min(unix + MAX_LIFE);
        let held = self.0.iter_mut().find(|record| record.number == number);
        if let Some(same) = held.filter(|record| record.value == bytes) {
            same.ends = same.until.min(unix + MAX_LIFE);
            return Ok(());
        }
        if until <= unix {
            return Err("expired");
        }
        let held = self.0.iter().find(|record| record.number == number);
        if let Some(held) = held.filter(|held| held.sequence >= sequence) {
            return Err(if held.sequence == sequence { "conflict" } else { "stale" });
        }
        self.0.retain(|record| record.number != number);
        self.0.push(Modelled { number, value: bytes.to_vec(), sequence, until, ends });
        Ok(())
    }

    fn get(&self, unix: Duration, number: u32) -> Option<&Vec<u8>> {
        self.0.iter().find(|held| held.number == number && held.ends > unix).map(|held| &held.value)
    }
}

proptest! {
    #[test]
    fn it_keeps_what_a_list_would(steps in proptest::collection::vec(step(5), 1..120)) {
        let mut test = Test::new(1000, 1000, 1000);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Put { peer, network, number, sequence, minutes, variant } => {
                    let until = test.unix() + Duration::from_secs(60 * minutes) - 2 * HOUR;
                    let bytes = value(sequence, until, variant);
                    let expected = model.put(test.unix(), number, &bytes);
                    prop_assert_eq!(test.put(&asker(network, peer), number, bytes), expected);
                }
                Step::Wait(minutes) => test.now += Duration::from_secs(60 * minutes),
                Step::DropEnded => {
                    test.store.handle_timeout(test.now);
                    model.0.retain(|record| record.ends > test.unix());
                    prop_assert_eq!(test.store.len(), model.0.len());
                }
            }
            for number in 0..5 {
                let kept = test.store.get(test.now, &key(number)).map(|record| record.value);
                prop_assert_eq!(kept.as_ref(), model.get(test.unix(), number));
            }
        }
    }

    #[test]
    fn what_makes_room_is_farther_and_of_a_larger_network(
        steps in proptest::collection::vec(step(60), 1..200),
    ) {
        let mut test = Test::new(12, 3, 5);
        let places: Vec<Distance> = (0..60).map(distance).collect();
        for step in steps {
            let Step::Put { peer, network, number, sequence, .. } = step else { continue };
            let before = held(&test, &places);
            let from = asker(network, peer);
            let put = test.put(&from, number, value(sequence, UNIX + HOUR, 0));
            let after = held(&test, &places);
            let subnet = Subnet::of(from.ip);
            let size = |subnet| before.iter().filter(|(_, of)| *of == subnet).count();
            let gone: Vec<_> =
                before.iter().filter(|(at, _)| !after.iter().any(|(of, _)| of == at)).collect();
            prop_assert!(gone.len() <= usize::from(put.is_ok()));
            for (left, of) in gone {
                prop_assert!(*left > places[number as usize]);
                prop_assert!(*of == subnet || size(*of) > size(subnet));
            }
            prop_assert!(after.len() <= 12 && after.len() == test.store.len());
            prop_assert!(test.store.index.is_consistent(3));
        }
    }
}

/// What is kept of these, and of which network.
fn held(test: &Test, places: &[Distance]) -> Vec<(Distance, Subnet)> {
    let entry = |at: &Distance| test.store.index.at(at).map(|entry| (*at, entry.owner.subnet));
    places.iter().filter_map(entry).collect()
}
