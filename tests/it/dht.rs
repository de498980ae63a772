//! The DHT and blinded rendezvous: two people who follow each other meet by key alone, and nobody else learns
//! of it. Small networks, each the smallest in which the thing can happen; `hawsepipe-tests dht` has the figures
//! of larger ones.
//!
//! That something does *not* happen is asserted once a node has done what would make it happen: a search
//! that ended, a record that was stored.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use hawsepipe_tests::fleet::{Fleet, Node, start_all, wait_for_nodes};
use hawsepipe_tests::lab;
use hawsepipe_tests::lab::internet::Place;
use hawsepipe_tests::lab::nat::Nat;
use hawsepipe_tests::meeting::{LINE, Transport, is_direct};
use hawsepipe_tests::member::Member;
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::rogue::{feed_id, identity};
use hawsepipe_tests::usage::Usage;
use hawsepipe_tests::wait::{self, SOON};

use super::nat::{RECOVERY, assert_posts_travel, assert_session, befriend};

/// How long two who follow each other may take to meet on a busy machine, in a development build.
const MEETING: Duration = Duration::from_secs(30);

/// How long a friend's new address may take to reach us.
const NEW_ADDRESS: Duration = Duration::from_secs(60);

/// Records that a node with no more than so many friends publishes in a period.
const FEWEST_SLOTS: usize = 32;

/// The key of the public network, which is part of what names a feed in the tier `public`.
const CAP: [u8; 32] = [
    0xd4, 0xa1, 0xcb, 0x88, 0xa6, 0x6f, 0x02, 0xf8, 0xdb, 0x63, 0x5c, 0xe2, 0x64, 0x41, 0xcc, 0x5d, 0xac,
    0x1b, 0x08, 0x42, 0x0c, 0xea, 0xac, 0x23, 0x08, 0x39, 0xb7, 0x55, 0x84, 0x5a, 0x9f, 0xfb,
];

/// Two homes that nobody knows, in a fleet.
fn two_homes(fleet: &Fleet) -> [Node; 2] {
    let names = ["alice", "bob"].map(str::to_owned);
    let homes = fleet.homes(Place::PortRestricted, names.into_iter());
    homes.try_into().expect("two were asked for")
}

/// They have a session, and then a direct one.
fn assert_direct(one: &Peer, other: &Peer) {
    for (node, peer) in [(one, other), (other, one)] {
        let control = node.control();
        wait::until("a direct session between the two", MEETING, || {
            let status = control.status()?;
            if is_direct(&status, peer.id()) { Ok(()) } else { Err(status.0.to_string()) }
        });
    }
}

/// Two who follow each other and know nothing else of each other replicate.
fn assert_they_meet(one: &Peer, other: &Peer) {
    befriend(one, other);
    assert_posts_travel(one, other, MEETING);
}

fn assert_no_session(node: &Peer, with: &Peer) {
    let status = node.control().status().unwrap();
    assert!(status.carriers(with.id()).is_empty(), "{}", status.0);
}

fn lookups(node: &Peer, kind: &str, outcome: &str) -> f64 {
    node.metrics().unwrap().lookups(kind, outcome)
}

/// Waits until a node has looked for somebody twice more and found nobody. Once is not enough: a search that was
/// under way before would count.
fn wait_for_futile_searches(node: &Peer) {
    let before = lookups(node, "seek", "missing");
    for more in [0.0, 1.0] {
        node.wait_lookup("seek", "missing", before + more);
    }
}

fn doctor(node: &Peer) -> String {
    String::from_utf8_lossy(&node.setup().run(&["doctor"]).stdout).into_owned()
}

/// Waits until the doctor says something with `words` in it.
fn wait_for_doctor(node: &Peer, words: &str) {
    wait::until(&format!("the doctor to say: {words}"), RECOVERY, || {
        let said = doctor(node);
        if said.contains(words) { Ok(()) } else { Err(said) }
    });
}

#[test]
fn two_homes_that_follow_each_other_meet_and_a_crawler_learns_nothing() {
    lab::run(|lab| {
        let fleet = Fleet::raise(lab, 1);
        let crawler = crawler_of(&fleet);
        let [alice, bob] = two_homes(&fleet);
        let (alice, bob) = (&alice.peer, &bob.peer);
        for home in [alice, bob] {
            // The crawler is part of the network: it is asked and given what others are.
            wait_for_nodes(&home.control(), 2);
        }
        assert_they_meet(alice, bob);
        assert_direct(alice, bob);
        wait::until("the crawler to store what it can", MEETING, || match crawler.seen().records.len() {
            0 => Err("it has nothing".to_owned()),
            _ => Ok(()),
        });
        assert_learnt_nothing(&crawler, &[alice, bob]);
        for home in [alice, bob] {
            let status = home.control().status().unwrap();
            assert_eq!(status.peers(), 1, "a session with whom it does not follow: {}", status.0);
        }
    });
}

#[test]
fn how_many_friends_there_are_does_not_show() {
    lab::run(|lab| {
        let fleet = Fleet::raise(lab, 1);
        let crawler = crawler_of(&fleet);
        let names = ["popular", "hermit"].map(str::to_owned);
        let sites = names.map(|name| fleet.internet.settle(Place::PortRestricted, &name, LINE));
        let setups = sites.each_ref().map(|site| fleet.setup(&site.host));
        // Followed before anything can be published, so that it is a friend from the first record on.
        let alone = Setup::on(setups[0].host()).solitary().start();
        alone.follow(fleet.servers()[0].peer.id());
        alone.stop();
        let homes = start_all(setups.into());
        for home in &homes {
            wait_for_nodes(&home.control(), 2);
        }
        let ids: Vec<String> = homes.iter().map(transport_id).collect();
        let counts = wait::until("both to have stored as much as they will", RECOVERY, || {
            let all = records_by_source(&crawler);
            let counts: Vec<usize> = ids.iter().filter_map(|id| all.get(id).copied()).collect();
            let stored: Vec<f64> = homes.iter().map(stored).collect();
            let is_all = stored.iter().all(|stored| *stored >= FEWEST_SLOTS as f64);
            if is_all && counts.len() == ids.len() && counts.iter().all(|count| *count >= FEWEST_SLOTS) {
                Ok(counts)
            } else {
                Err(format!("{all:?} records of {stored:?}"))
            }
        });
        assert!(counts.iter().all(|count| *count <= FEWEST_SLOTS), "{counts:?}");
    });
}

#[test]
fn they_do_not_meet_when_only_one_follows() {
    lab::run(|lab| {
        let fleet = Fleet::raise(lab, 1);
        let [alice, bob] = two_homes(&fleet);
        let (alice, bob) = (&alice.peer, &bob.peer);
        bob.wait_lookup("publish", "stored", 0.0);
        alice.follow(bob.id());
        wait_for_futile_searches(alice);
        assert_no_session(alice, bob);
        assert_no_session(bob, alice);
        bob.follow(alice.id());
        assert_posts_travel(alice, bob, MEETING);
    });
}

#[test]
fn a_friend_is_found_again_in_another_network() {
    lab::run(|lab| {
        let fleet = Fleet::raise(lab, 2);
        let [alice, bob] = two_homes(&fleet);
        let (at, alice, bob) = (alice.site, alice.peer, bob.peer);
        assert_they_meet(&alice, &bob);
        assert_direct(&alice, &bob);
        let stored = lookups(&alice, "publish", "stored");
        let (elsewhere, _wire) = fleet.internet.router("elsewhere", Nat::PORT_SHIFTING, LINE);
        elsewhere.welcome(&at.host);
        assert_posts_travel(&alice, &bob, NEW_ADDRESS);
        assert_session(&alice, &bob);
        alice.wait_lookup("publish", "stored", stored);
    });
}

#[test]
fn a_friend_is_found_again_at_another_address() {
    lab::run(|lab| {
        let fleet = Fleet::raise(lab, 2);
        let [alice, bob] = two_homes(&fleet);
        assert_they_meet(&alice.peer, &bob.peer);
        assert_direct(&alice.peer, &bob.peer);
        fleet.internet.renumber(&alice.site.routers[0]);
        assert_posts_travel(&alice.peer, &bob.peer, NEW_ADDRESS);
        assert_session(&alice.peer, &bob.peer);
    });
}

#[test]
fn a_node_that_is_alone_says_so_and_does_not_spin() {
    /// How long it is looked at, and what it may use meanwhile.
    const WATCHED: Duration = Duration::from_secs(10);
    const PROCESSOR: f64 = 0.5;
    const LOOKUPS: f64 = 20.0;
    lab::run(|lab| {
        let internet = lab.internet();
        let host = internet.public("alone", LINE).host;
        let alone = Setup::on(&host).start();
        alone.follow(&feed_id(&identity()));
        wait_for_doctor(&alone, "overlay.bootstrap");
        let all = || alone.metrics().unwrap().sum("dht_lookups_total", &[]);
        let (started, before, looked) = (wait::now(), Usage::of(alone.process()), all());
        wait::until("some time to pass", 2 * WATCHED, || {
            let passed = wait::now() - started;
            if passed >= WATCHED { Ok(()) } else { Err(format!("{passed:?}")) }
        });
        let used = Usage::of(alone.process()).cpu - before.cpu;
        assert!(used < PROCESSOR, "{used} s of processor time in {WATCHED:?}");
        assert!(all() - looked < LOOKUPS, "{}", alone.metrics().unwrap());
        assert_eq!(alone.control().status().unwrap().dht().nodes, 0);
    });
}

#[test]
fn two_in_one_lan_meet_without_anybody_else() {
    lab::run(|lab| {
        let hosts = lab.segment(["alice", "bob"]);
        let nodes = start_all(hosts.iter().map(Setup::on).collect());
        assert_they_meet(&nodes[0], &nodes[1]);
    });
}

#[test]
fn a_neighbour_is_enough_to_begin_with() {
    lab::run(|lab| {
        let mut fleet = Fleet::raise(lab, 3);
        let told = fleet.told();
        let home = fleet.internet.settle(Place::PortRestricted, "alice", LINE);
        let alice = Setup::on(&home.host).set("overlay.bootstrap", told.clone()).start();
        wait_for_nodes(&alice.control(), fleet.servers().len());
        // The newcomer is told of one server, and that is the one that dies.
        let dead = fleet.kill_silently(1, 1);
        let at_dead = format!("/{}/", dead[0].host.v4());
        let told: Vec<String> = told.into_iter().filter(|at| at.contains(&at_dead)).collect();
        assert_eq!(told.len(), 1);
        let newcomer = Setup::on(&home.neighbour("newcomer")).set("overlay.bootstrap", told).start();
        wait_for_nodes(&newcomer.control(), fleet.servers().len());
    });
}

/// The same node, told of nobody.
fn forget_bootstrap(node: &Setup) -> Setup {
    Setup::on(node.host()).path(node.dir()).set("local", false)
}

#[test]
fn a_node_finds_its_way_back_by_what_it_knew() {
    lab::run(|lab| {
        let fleet = Fleet::raise(lab, 4);
        let home = fleet.home(Place::PortRestricted, "home").peer;
        let setup = forget_bootstrap(home.setup());
        home.stop();
        let home = setup.start();
        wait_for_nodes(&home.control(), fleet.servers().len());
    });
}

#[test]
fn an_old_table_of_which_most_is_dead_is_enough_to_meet() {
    const SERVERS: usize = 10;
    const DEAD: usize = 7;
    lab::run(|lab| {
        let mut fleet = Fleet::raise(lab, SERVERS);
        let homes = two_homes(&fleet).map(|home| home.peer);
        // Whoever is told of somebody alive would not need the table.
        let setups = homes.each_ref().map(|home| forget_bootstrap(home.setup()));
        for home in homes {
            home.stop();
        }
        fleet.kill_silently(DEAD, 1);
        let homes = start_all(setups.into());
        for home in &homes {
            wait_for_nodes(&home.control(), 1);
        }
        befriend(&homes[0], &homes[1]);
        assert_posts_travel(&homes[0], &homes[1], RECOVERY);
    });
}

#[test]
fn a_damaged_table_is_no_reason_not_to_start() {
    lab::run(|lab| {
        let fleet = Fleet::raise(lab, 1);
        let home = fleet.home(Place::PortRestricted, "home").peer;
        let setup = home.setup().clone();
        home.stop();
        fs::write(setup.dir().join("dht.json"), "{\"nodes\": [1, \"/ip4/1\"").unwrap();
        let home = setup.start();
        wait_for_nodes(&home.control(), 1);
    });
}

#[test]
fn other_peoples_programs_are_part_of_the_same_dht() {
    lab::run(|lab| {
        let fleet = Fleet::raise(lab, 2);
        let foreign = crawler_of(&fleet);
        for server in fleet.servers() {
            // One was dialled by it, the other has heard of it; both have asked it since.
            wait_for_nodes(&server.peer.control(), 2);
        }
        // It has only been told of the first, and finds its way to the second.
        wait::until("the foreign node to know both of ours", MEETING, || {
            foreign.get(b"nothing");
            let sources = sources(&foreign);
            if sources >= fleet.servers().len() { Ok(()) } else { Err(format!("{sources} peers")) }
        });
    });
}

#[test]
fn a_flood_of_stores_does_no_harm() {
    const RECORDS: usize = 1_000;
    /// Of which so many at least are looked at, and refused.
    const REFUSED: f64 = 10.0;
    /// Megabytes that a server may grow by meanwhile.
    const GROWTH: f64 = 40.0;
    lab::run(|lab| {
        let fleet = Fleet::raise(lab, 1);
        let [alice, bob] = two_homes(&fleet);
        let server = &fleet.servers()[0].peer;
        let before = Usage::of(server.process()).now_mb;
        let foreign = crawler_of(&fleet);
        wait_for_nodes(&server.control(), 1);
        for number in 0..RECORDS {
            let (key, value) = garbage(number);
            foreign.toss(&key, &value);
        }
        // What is too long is not read to its end, and of what comes all at once most finds no place. What is
        // kept meanwhile are the homes' own records.
        wait::until("the server to refuse what it can take", SOON, || {
            let metrics = server.metrics()?;
            let kept = metrics.sum("dht_store_total", &[("outcome", "ok")]);
            let refused = metrics.sum("dht_store_total", &[]) - kept;
            if refused >= REFUSED { Ok(()) } else { Err(format!("{refused} so far")) }
        });
        let grown = Usage::of(server.process()).now_mb - before;
        assert!(grown < GROWTH, "{RECORDS} records cost {grown} MB");
        assert_they_meet(&alice.peer, &bob.peer);
    });
}

/// A key and a value that no honest node stores: of any size, the right one among them, and signed by nobody.
fn garbage(number: usize) -> (Vec<u8>, Vec<u8>) {
    const SIZES: [usize; 5] = [0, 1, 1024, 4_000, 60_000];
    let byte = u8::try_from(number % 251).expect("a byte");
    let key = [number.to_be_bytes().as_slice(), &[byte; 24]].concat();
    (key, vec![byte; SIZES[number % SIZES.len()]])
}

#[test]
fn whoever_is_blocked_is_not_met_any_more_until_they_are_not() {
    lab::run(|lab| {
        let fleet = Fleet::raise(lab, 1);
        let [alice, bob] = two_homes(&fleet);
        let (alice, bob) = (&alice.peer, &bob.peer);
        assert_they_meet(alice, bob);
        alice.block(bob.id());
        wait::until("the session to end", SOON, || {
            let connected = bob.connected();
            if connected.is_empty() { Ok(()) } else { Err(format!("{connected:?}")) }
        });
        // What Alice stored before she blocked may still be found; nothing comes of it.
        let before = seeks(bob);
        wait::until("the one who is blocked to look for her", RECOVERY, || {
            let seeks = seeks(bob);
            if seeks >= before + 2.0 { Ok(()) } else { Err(format!("{seeks} searches")) }
        });
        assert_no_session(alice, bob);
        assert_no_session(bob, alice);
        alice.ok(&["block", "--undo", bob.id()]);
        alice.follow(bob.id());
        assert_posts_travel(alice, bob, RECOVERY);
    });
}

fn seeks(node: &Peer) -> f64 {
    node.metrics().unwrap().sum("dht_lookups_total", &[("kind", "seek")])
}

#[test]
fn a_pub_that_is_known_by_its_classic_address_leads_into_the_dht() {
    lab::run(|lab| {
        let fleet = Fleet::raise(lab, 2);
        let site = fleet.internet.settle(Place::PortRestricted, "newcomer", LINE);
        let newcomer = Setup::on(&site.host).set("local", false).start();
        let server = &fleet.servers()[0].peer;
        newcomer.ok(&["connect", &server.net_address()]);
        wait_for_nodes(&newcomer.control(), fleet.servers().len());
    });
}

#[test]
fn the_doctor_says_how_many_friends_were_found() {
    lab::run(|lab| {
        let fleet = Fleet::raise(lab, 1);
        let [alice, bob] = two_homes(&fleet);
        let (alice, bob) = (&alice.peer, &bob.peer);
        assert_they_meet(alice, bob);
        // Carol is in nobody's DHT; what she follows is known through Bob, who met her once.
        let site = fleet.internet.public("carol", LINE);
        let setup = Setup::on(&site.host).set("local", false).set("overlay.enabled", false);
        let carol = setup.start();
        for node in [alice, bob] {
            befriend(node, &carol);
        }
        bob.ok(&["connect", &carol.net_address()]);
        let promised = [(carol.id().to_owned(), carol.sequence_of(carol.id()))];
        alice.wait_clock(&promised, SOON);
        carol.stop();
        wait_for_doctor(alice, "found 1 of 2 mutual follows");
        let dht = alice.control().status().unwrap().dht();
        assert_eq!((dht.sought, dht.connected), (1, 1), "{dht:?}");
    });
}

/// A foreign node that serves in the DHT of the fleet.
fn crawler_of(fleet: &Fleet) -> Member {
    let site = fleet.internet.public("crawler", LINE);
    let crawler = Member::start(&site.host);
    let server = &fleet.servers()[0].peer;
    // A stock node of the tests has TCP only.
    crawler.dial(&server.libp2p_at(Transport::Tcp).expect("our nodes listen for TCP"));
    crawler
}

/// How many different records came from each source.
fn records_by_source(member: &Member) -> BTreeMap<String, usize> {
    // In the last half hour of a period those of the next one come beside.
    let period = |value: &[u8]| value.get(33..41).map(<[u8]>::to_vec);
    let records = member.seen().records;
    let first = records.iter().map(|record| period(&record.value)).min();
    let of_first = records.into_iter().filter(|record| Some(period(&record.value)) == first);
    let different: BTreeSet<_> = of_first.map(|record| (record.source, record.key)).collect();
    let mut counts = BTreeMap::new();
    for (source, _) in different {
        *counts.entry(source).or_insert(0) += 1;
    }
    counts
}

/// By which id others know a node in the DHT.
fn transport_id(peer: &Peer) -> String {
    let at = peer.libp2p_at(Transport::Tcp).expect("our nodes listen for TCP");
    at.rsplit('/').next().expect("a multiaddr has parts").to_owned()
}

/// How many publications of a node were stored.
fn stored(peer: &Peer) -> f64 {
    peer.metrics().unwrap().sum("dht_lookups_total", &[("kind", "publish"), ("outcome", "stored")])
}

/// How many peers stored anything with it.
fn sources(member: &Member) -> usize {
    records_by_source(member).len()
}

/// Nothing of what came names any of these feeds, all values look alike, and nobody offers to tell a feed.
fn assert_learnt_nothing(crawler: &Member, nodes: &[&Peer]) {
    let seen = crawler.seen();
    let names: Vec<Vec<u8>> = nodes.iter().flat_map(|node| names_of(node)).collect();
    let asked = seen.sought.iter().cloned();
    let stored = seen.records.iter().map(|record| [record.key.as_slice(), &record.value].concat());
    for said in asked.chain(stored) {
        let named = names.iter().find(|name| contains(&said, name));
        assert_eq!(named, None, "somebody told the crawler of a feed");
    }
    let mut offered = seen.protocols.values().flatten();
    assert_eq!(offered.find(|name| name.contains("lan-who")), None);
    let published = seen.records.iter().filter_map(|record| record.publisher.as_ref());
    assert_eq!(published.count(), 0, "a record names its publisher");
    let sizes: BTreeSet<usize> = seen.records.iter().map(|record| record.value.len()).collect();
    assert_eq!(sizes.len(), 1, "records of {sizes:?} bytes");
}

/// All that somebody who has a list of feeds could look for without any secret.
fn names_of(node: &Peer) -> Vec<Vec<u8>> {
    let (id, key) = (node.id(), node.key());
    let (bare, feed) = (id.trim_start_matches('@').trim_end_matches(".ed25519"), key.as_bytes());
    let hash = |text: &[u8]| ssb_crypto::hash(text).0.to_vec();
    vec![
        feed.to_vec(),
        bare.as_bytes().to_vec(),
        hash(feed),
        hash(id.as_bytes()),
        hash(&[b"ssb-dht/1".as_slice(), &CAP, feed].concat()),
        hash(&[b"ssb-dht/2".as_slice(), &CAP, feed].concat()),
        hash(&[b"ssb-dht/3".as_slice(), &CAP, feed].concat()),
    ]
}

fn contains(said: &[u8], name: &[u8]) -> bool {
    said.windows(name.len()).any(|part| part == name)
}
