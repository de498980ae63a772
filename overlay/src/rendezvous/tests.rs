//! Machines over a perfect DHT that checks what it stores, with a simulated clock.
#![expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]

use super::*;

const PEER: &str = "12D3KooWGjMCaamY1zyZfWgiRzfa3ePn4RgmzdtXMvAo1K3EwX";
/// One hour into a period.
const START: Duration = Duration::from_secs(125_000 * PERIOD.as_secs() + 3600);
const PUT: Duration = Duration::from_millis(600);
const GET: Duration = Duration::from_millis(400);

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

fn keypair(seed: u64) -> Keypair {
    assert!(ssb_crypto::sodium::init().is_ok());
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    Keypair::from_seed(&bytes).unwrap()
}

fn feed(seed: u64) -> PublicKey {
    PublicKey::from_bytes(keypair(seed).public.0)
}

fn peer(seed: u64) -> TransportId {
    TransportId::parse(&format!("{PEER}{seed:02}")).unwrap()
}

fn circuit(seed: u64, host: u8) -> String {
    format!("/ip4/192.0.2.{host}/udp/8008/quic-v1/p2p/{PEER}00/p2p-circuit/p2p/{}", peer(seed))
}

fn place(seed: u64, host: u8) -> Input {
    Input::Place(Place { circuits: vec![circuit(seed, host)], direct: Vec::new(), nat: Nat::Random })
}

struct Node {
    machine: Rendezvous,
    seed: u64,
    /// How much its clock is ahead.
    ahead: Duration,
    friends: BTreeMap<PublicKey, Friend>,
    met: Vec<(Duration, Met)>,
    expired: usize,
    puts: Vec<(Duration, Vec<u8>, Vec<u8>)>,
    seeks: Vec<Duration>,
}

struct World {
    begin: Instant,
    /// Since the begin.
    time: Duration,
    unix: Duration,
    dht: BTreeMap<Vec<u8>, (Stamp, Vec<u8>)>,
    coming: Vec<(Duration, usize, Input)>,
    nodes: Vec<Node>,
}

impl World {
    fn at(unix: Duration) -> Self {
        let (dht, coming, nodes) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { begin: Instant::now(), time: Duration::ZERO, unix, dht, coming, nodes }
    }

    fn add(&mut self, tier: Tier, ahead: Duration) -> usize {
        let seed = self.nodes.len() as u64 + 1;
        let random = [seed as u8; 32];
        let machine = Rendezvous::new(Arc::new(keypair(seed)), NetworkKey::MAIN, peer(seed), tier, random);
        let (friends, met, expired) = (BTreeMap::new(), Vec::new(), 0);
        let (puts, seeks) = (Vec::new(), Vec::new());
        self.nodes.push(Node { machine, seed, ahead, friends, met, expired, puts, seeks });
        self.nodes.len() - 1
    }

    /// One that has run for a while.
    fn started(&mut self, tier: Tier, ahead: Duration) -> usize {
        let node = self.add(tier, ahead);
        self.give(node, Input::Ready(true));
        self.give(node, place(self.nodes[node].seed, 1));
        node
    }

    fn two(ahead: Duration) -> Self {
        let mut world = Self::at(START);
        world.started(Tier::Pairwise, Duration::ZERO);
        world.started(Tier::Pairwise, ahead);
        world.run(minutes(2));
        world
    }

    fn now(&self, node: usize) -> Now {
        Now { instant: self.begin + self.time, unix: self.unix + self.time + self.nodes[node].ahead }
    }

    fn give(&mut self, node: usize, input: Input) {
        let now = self.now(node);
        self.nodes[node].machine.handle(now, input);
        self.drain(node);
    }

    fn follow(&mut self, node: usize, feeds: impl IntoIterator<Item = PublicKey>) {
        self.nodes[node].friends.extend(feeds.into_iter().map(|feed| (feed, Friend::default())));
        self.give(node, Input::Friends(self.nodes[node].friends.clone()));
    }

    fn connected(&mut self, node: usize, feed: PublicKey, connected: bool) {
        self.nodes[node].friends.insert(feed, Friend { connected });
        self.give(node, Input::Friends(self.nodes[node].friends.clone()));
    }

    fn drain(&mut self, at: usize) {
        while let Some(output) = self.nodes[at].machine.poll_output() {
            let (time, unix, node) = (self.time, self.unix + self.time, &mut self.nodes[at]);
            match output {
                Output::Publish { lookup, key, value } => {
                    let stamp = validate(&key, &value, unix).expect("what we publish is valid");
                    node.puts.push((time, key.clone(), value.clone()));
                    let newest = self.dht.entry(key).or_insert((stamp, Vec::new()));
                    if stamp.sequence >= newest.0.sequence {
                        *newest = (stamp, value);
                    }
                    self.coming.push((time + PUT, at, Input::Ended { lookup, success: true }));
                }
                Output::Seek { lookup, key } => {
                    node.seeks.push(time);
                    let record = self.dht.get(&key).filter(|(stamp, _)| stamp.until > unix);
                    let success = record.is_some();
                    if let Some((_, value)) = record {
                        self.coming.push((time + GET, at, Input::Found { lookup, value: value.clone() }));
                    }
                    self.coming.push((time + GET, at, Input::Ended { lookup, success }));
                }
                Output::Cancel(of) => self.coming.retain(|(_, node, input)| {
                    let same = |lookup: &LookupId| *node == at && *lookup == of;
                    !matches!(input, Input::Found { lookup, .. } | Input::Ended { lookup, .. } if same(lookup))
                }),
                Output::Met(met) => node.met.push((time, met)),
                Output::Expired { .. } => node.expired += 1,
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.time + time;
        loop {
            let coming = self.coming.iter().map(|(at, ..)| *at).min();
            let timers = self.nodes.iter().filter_map(|node| node.machine.poll_timeout());
            let timer = timers.min().map(|at| at.saturating_duration_since(self.begin));
            let Some(next) = [coming, timer].into_iter().flatten().min().filter(|at| *at <= end) else {
                break;
            };
            self.time = self.time.max(next);
            let (due, rest) = self.coming.drain(..).partition(|(at, ..)| *at <= self.time);
            self.coming = rest;
            for (_, node, input) in due as Vec<_> {
                self.give(node, input);
            }
            for node in 0..self.nodes.len() {
                let now = self.now(node);
                if self.nodes[node].machine.poll_timeout().is_some_and(|at| at <= now.instant) {
                    self.nodes[node].machine.handle_timeout(now);
                    self.drain(node);
                }
            }
        }
        self.time = end;
    }

    /// What was found of whom.
    fn met(&self, node: usize) -> Vec<PublicKey> {
        self.nodes[node].met.iter().map(|(_, met)| met.feed).collect()
    }
}

#[test]
fn two_meet_within_five_seconds_of_following_each_other() {
    for pause in [0, 1, 40, 3000] {
        let mut world = World::two(Duration::ZERO);
        world.follow(0, [feed(2)]);
        world.run(Duration::from_secs(pause));
        assert_eq!(world.met(0), []);
        world.follow(1, [feed(1)]);
        let since = world.time;
        world.run(Duration::from_secs(5));
        let node = &world.nodes[1];
        let (at, met) = node.met.first().expect("the later of the two finds the other");
        assert!(*at - since < Duration::from_millis(1500), "{:?}", *at - since);
        assert_eq!((met.feed, &met.peer, &met.addresses[..]), (feed(1), &peer(1), &[circuit(1, 1)][..]));
        assert_eq!((node.met.len(), met.nat), (1, Nat::Random), "told once");
        let status = Status { friends: 1, sought: 1, found: 1 };
        assert_eq!(node.machine.status(), status);
    }
}

#[test]
fn who_starts_meets_who_is_there() {
    let mut world = World::at(START);
    let there = world.started(Tier::Pairwise, Duration::ZERO);
    world.follow(there, [feed(2)]);
    world.run(minutes(300));
    let back = world.add(Tier::Pairwise, Duration::ZERO);
    world.follow(back, [feed(1)]);
    world.give(back, Input::Ready(true));
    world.run(Duration::from_secs(3));
    assert_eq!(world.met(back), [feed(1)], "before it has an address itself");
}

#[test]
fn two_that_start_at_once_meet() {
    let mut world = World::at(START);
    for node in 0..2 {
        world.started(Tier::Pairwise, Duration::ZERO);
        world.follow(node, [feed(2 - node as u64)]);
    }
    world.run(Duration::from_secs(12));
    assert!(!world.met(0).is_empty() || !world.met(1).is_empty());
}

#[test]
fn who_is_not_followed_back_is_not_found_and_nothing_stored_names_anybody() {
    let mut world = World::two(Duration::ZERO);
    world.follow(0, [feed(2)]);
    world.follow(1, [feed(3)]);
    world.run(minutes(600));
    assert_eq!((world.met(0), world.met(1)), (vec![], vec![]));
    let names = (1..4).flat_map(|seed| [feed(seed).to_bytes().to_vec(), peer(seed).to_string().into()]);
    let names: Vec<Vec<u8>> = names.collect();
    for (key, (_, value)) in &world.dht {
        assert_eq!(value.len(), record::SIZE);
        for name in &names {
            assert!(!value.windows(8).any(|window| window == &name[..8]));
            assert!(!key.windows(8).any(|window| window == &name[..8]));
        }
    }
}

#[test]
fn the_number_and_the_first_moments_of_records_do_not_show_the_number_of_friends() {
    let at_start = |friends: u64| {
        let mut world = World::at(START);
        world.add(Tier::Pairwise, Duration::ZERO);
        world.follow(0, (10..10 + friends).map(feed));
        world.give(0, Input::Ready(true));
        world.give(0, place(1, 1));
        world.run(Duration::from_secs(60));
        let burst = Duration::from_millis(1500 + 2500) + PUT;
        let early = world.nodes[0].puts.iter().filter(|(at, ..)| *at < burst).count();
        assert!((16..=19).contains(&early), "{early} first for {friends} friends");
        (world.nodes[0].puts.len(), world.dht.len())
    };
    for friends in [0, 1, 5, 16, 31, 32] {
        assert_eq!(at_start(friends), (32, 32), "{friends} friends");
    }
    assert_eq!(at_start(33), (64, 64));
}

#[test]
fn clocks_that_are_ten_minutes_wrong_do_not_keep_two_apart() {
    let span = PERIOD.as_secs() / 60;
    for ahead in [0, 10, 20] {
        // Around the turn of a period each few minutes, elsewhere now and then.
        for minute in (0..span).filter(|minute| *minute % 60 == 0 || *minute < 45 || *minute + 45 > span) {
            if minute % 5 != 0 {
                continue;
            }
            for first in 0..2 {
                let mut world = World::at(START - minutes(60) + minutes(minute) - minutes(ahead / 2));
                world.started(Tier::Pairwise, Duration::ZERO);
                world.started(Tier::Pairwise, minutes(ahead));
                world.run(minutes(1));
                world.follow(first, [feed(2 - first as u64)]);
                world.run(Duration::from_secs(10));
                world.follow(1 - first, [feed(1 + first as u64)]);
                world.run(Duration::from_secs(5));
                assert_eq!(world.met(1 - first).len(), 1, "{ahead} min apart, at {minute}");
            }
        }
    }
}

/// One that has been there for hours is found at any time by one who comes, whatever their clocks.
#[test]
fn one_that_stays_can_be_found_at_any_time() {
    for (there, comes) in [(0, 20), (20, 0), (10, 10)] {
        let mut world = World::at(START - minutes(10));
        world.started(Tier::Pairwise, minutes(there));
        world.follow(0, [feed(2)]);
        world.started(Tier::Pairwise, minutes(comes));
        world.run(minutes(30));
        for _ in 0..55 {
            world.run(minutes(9));
            world.nodes[1].met.clear();
            world.follow(1, [feed(1)]);
            world.run(Duration::from_secs(10));
            assert_eq!(world.met(1).len(), 1, "{there} {comes} {:?}", world.time);
            world.nodes[1].friends.clear();
            world.follow(1, []);
        }
    }
}

#[test]
fn a_new_address_is_found_within_a_minute() {
    let mut world = World::two(Duration::ZERO);
    world.follow(0, [feed(2)]);
    world.follow(1, [feed(1)]);
    world.run(Duration::from_secs(10));
    world.connected(0, feed(2), true);
    world.connected(1, feed(1), true);
    world.run(minutes(30));
    let sought = world.nodes[1].seeks.len();
    world.give(0, place(1, 7));
    world.connected(1, feed(1), false);
    let since = world.time;
    world.run(minutes(1));
    let (at, met) = world.nodes[1].met.last().unwrap();
    assert_eq!(met.addresses, [circuit(1, 7)]);
    assert!(*at - since < Duration::from_secs(20), "{:?}", *at - since);
    assert!(world.nodes[1].seeks.len() - sought < 12);
    let renewed = world.nodes[0].puts.iter().filter(|(at, ..)| *at >= since).count();
    assert_eq!(renewed, 32, "all, friends or not");
}

#[test]
fn addresses_that_come_and_go_do_not_flood_the_dht() {
    let mut world = World::two(Duration::ZERO);
    for second in 0..120 {
        world.give(0, place(1, second % 5));
        world.run(Duration::from_secs(1));
    }
    let puts = world.nodes[0].puts.len();
    assert!(puts <= 32 * (2 + 120 / 20), "{puts}");
}

#[test]
fn nothing_is_published_without_an_address() {
    let mut world = World::at(START);
    world.add(Tier::Pairwise, Duration::ZERO);
    world.follow(0, [feed(2)]);
    world.give(0, Input::Ready(true));
    world.run(minutes(30));
    assert!(world.nodes[0].puts.is_empty() && !world.nodes[0].seeks.is_empty());
    world.give(0, place(1, 1));
    world.run(minutes(1));
    assert_eq!(world.nodes[0].puts.len(), 32);
    world.give(0, Input::Place(Place::default()));
    world.run(minutes(500));
    assert_eq!(world.nodes[0].puts.len(), 32);
}

#[test]
fn who_is_blocked_finds_nothing_new_and_nothing_of_others() {
    let mut world = World::two(Duration::ZERO);
    world.follow(0, [feed(2), feed(3)]);
    world.follow(1, [feed(1)]);
    world.run(Duration::from_secs(10));
    assert_eq!(world.met(1), [feed(1)]);
    let before = world.nodes[0].met.len() as i64 - world.nodes[0].expired as i64;
    world.nodes[0].friends.remove(&feed(2));
    world.follow(0, []);
    assert_eq!((before, world.nodes[0].machine.status().friends), (world.nodes[0].expired as i64, 1));
    world.nodes[1].met.clear();
    world.give(0, place(1, 9));
    world.run(minutes(600));
    assert_eq!(world.met(1), [], "its old record ends, and no other comes");
    assert!(world.nodes[1].expired > 0);
    let reader = world.nodes[1].machine.friends[&feed(1)].reader(Stage::Pairwise).clone();
    let unix = world.unix + world.time;
    let stored = world.dht.values();
    let opened = stored.filter(|(_, value)| {
        readable(unix).iter().any(|period| reader.open(*period, NetworkKey::MAIN, unix, value).is_ok())
    });
    assert_eq!(opened.count(), 0);
}

#[test]
fn what_is_forged_replayed_or_foreign_is_ignored_and_the_search_goes_on() {
    let mut world = World::two(Duration::ZERO);
    world.follow(0, [feed(2)]);
    world.run(Duration::from_secs(5));
    world.follow(1, [feed(1)]);
    world.run(Duration::from_secs(5));
    let key = world.nodes[1].machine.friends[&feed(1)].reader(Stage::Pairwise).place(125_000).unwrap();
    let old = world.dht[&key].1.clone();
    world.give(0, place(1, 7));
    world.run(minutes(31));
    assert_eq!(world.nodes[1].met.len(), 2, "the new address");
    let foreign = world.nodes[1].puts[0].2.clone();
    let mut forged = old.clone();
    forged[200] ^= 1;
    let lookup = LookupId(1_000_000);
    let sought = Sought { feed: feed(1), stage: Stage::Pairwise, period: 125_000 };
    for value in [old, foreign, forged, Vec::new(), vec![1; 2000], vec![0; record::SIZE]] {
        world.nodes[1].machine.late.push_back((lookup, sought));
        world.give(1, Input::Found { lookup, value });
        world.nodes[1].machine.late.clear();
    }
    assert_eq!(world.nodes[1].met.len(), 2);
    assert_eq!(world.nodes[1].machine.status().found, 1);
}

#[test]
fn pubs_are_found_by_whom_they_do_not_know() {
    let mut world = World::two(Duration::ZERO);
    world.started(Tier::Public, Duration::ZERO);
    let direct = format!("/ip4/198.51.100.1/udp/8008/quic-v1/p2p/{}", peer(3));
    let at = Place { circuits: Vec::new(), direct: vec![direct.clone()], nat: Nat::Untranslated };
    world.give(2, Input::Place(at));
    world.run(minutes(1));
    world.follow(0, [feed(3)]);
    world.run(Duration::from_secs(5));
    assert_eq!(world.met(0), [feed(3)]);
    assert_eq!(world.nodes[0].met[0].1.addresses, [direct]);
    world.started(Tier::Off, Duration::ZERO);
    world.follow(3, [feed(3)]);
    world.run(minutes(300));
    let off = &world.nodes[3];
    assert!(off.puts.is_empty() && off.seeks.is_empty() && off.machine.poll_timeout().is_none());
}

#[test]
fn more_friends_than_records_take_turns() {
    let mut world = World::at(START);
    world.add(Tier::Pairwise, Duration::ZERO);
    world.follow(0, (10..1010).map(feed));
    world.give(0, place(1, 1));
    let mut seated: BTreeMap<PublicKey, usize> = BTreeMap::new();
    for period in 0..4 {
        world.nodes[0].machine.begin(world.begin, 125_000 + period, Duration::ZERO);
        let round = world.nodes[0].machine.rounds.pop().unwrap();
        assert_eq!(round.len(), 256);
        for feed in (10..1010).map(feed).filter(|feed| round.seats(Audience::Friend(*feed))) {
            *seated.entry(feed).or_default() += 1;
        }
    }
    assert_eq!(seated.len(), 1000, "each within four periods");
}

#[test]
fn an_idle_node_costs_little() {
    let mut world = World::at(START);
    world.started(Tier::Pairwise, Duration::ZERO);
    world.follow(0, (10..60).map(feed));
    world.run(minutes(30));
    let node = &mut world.nodes[0];
    (node.puts, node.seeks) = (Vec::new(), Vec::new());
    world.run(minutes(8 * 60));
    let node = &world.nodes[0];
    let (puts, seeks) = (node.puts.len() as f64 / 64.0 / 2.0, node.seeks.len() as f64 / (8.0 * 3600.0));
    println!("{puts:.2} publications per record and period, {seeks:.4} lookups/s for 50 friends");
    assert!((2.0..=3.1).contains(&puts), "{puts}");
    assert!(seeks <= 0.03, "{seeks}");
}
