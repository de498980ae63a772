use super::*;

fn key(n: u32) -> PublicKey {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    PublicKey::from_bytes(bytes)
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint::Net { host: "192.0.2.1".into(), port }
}

const BEACON: Source = Source::Lan(overlay::Source::Beacon);

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
    Instant::now()
}

/// What an encoded book holds.
fn reread(book: &PeerBook, now: Instant) -> Vec<Known> {
    decode(&encode(book, Clock { now, unix: 1_800_000_000_000 })).unwrap().known
}

#[test]
fn strangers_cannot_fill_the_book_or_push_out_what_was_asked_for() {
    let now = start();
    let mut book = PeerBook::default();
    book.heard(key(0), &endpoint(1), Source::Client, now);
    for n in 1..=(MAX_PEERS as u32 + 10) {
        book.heard(key(n), &endpoint(1), BEACON, now);
    }
    assert_eq!(book.len(), MAX_PEERS);
    assert!(book.iter().any(|(k, _)| k == key(0)));
    for port in 0..100 {
        book.heard(key(0), &endpoint(port), BEACON, now);
    }
    assert_eq!(book.iter().next().unwrap().1.paths.len(), MAX_PATHS);
}

#[test]
fn an_expired_beacon_does_not_forget_what_a_person_typed() {
    let now = start();
    let mut book = PeerBook::default();
    book.heard(key(1), &endpoint(1), Source::Client, now);
    book.heard(key(1), &endpoint(1), BEACON, now);
    book.expired(key(1), &endpoint(1));
    assert_eq!(book.len(), 1);
    book.heard(key(2), &endpoint(2), BEACON, now);
    book.expired(key(2), &endpoint(2));
    assert_eq!(book.len(), 1);
}

#[test]
fn a_circuit_is_relayed_whoever_told_of_it_and_is_kept() {
    let now = start();
    let circuit = Endpoint::Libp2p("/ip4/192.0.2.9/tcp/1/p2p/12D3KooR/p2p-circuit/p2p/12D3KooP".into());
    for source in [BEACON, Source::Config, Source::Client, Source::Stored] {
        let mut book = PeerBook::default();
        book.heard(key(1), &circuit, source, now);
        assert_eq!(book.iter().next().unwrap().1.paths[0].state.class, Class::Relayed);
        let known = reread(&book, now);
        assert_eq!(known[0].endpoint, Some(circuit.clone()), "{source:?}");
    }
}

/// The places of a peer, and whether it says itself that it is there.
fn places(book: &PeerBook) -> Vec<(Endpoint, Source, bool)> {
    let paths = book.iter().flat_map(|(_, peer)| &peer.paths);
    paths.map(|path| (path.state.endpoint.clone(), path.source, path.state.said.is_some())).collect()
}

#[test]
fn each_word_of_a_friend_takes_the_place_of_the_one_before() {
    let now = start();
    let later = now + Duration::from_secs(60);
    let mut book = PeerBook::default();
    assert!(book.found(key(1), &[endpoint(1), endpoint(2)], now, now));
    assert!(!book.found(key(1), &[endpoint(1), endpoint(2)], now + SAME_WORD, later), "the same word");
    assert!(book.found(key(1), &[endpoint(2), endpoint(3)], later, later));
    let found = |port| (endpoint(port), Source::Rendezvous, true);
    assert_eq!(places(&book), [found(2), found(3)]);
    assert_eq!(reread(&book, now), [], "it is looked for again");
    book.not_found(key(1));
    assert!(book.is_empty());
    assert!(!book.found(key(1), &[], now, now));
    assert!(book.is_empty());
}

#[test]
fn what_others_name_too_stays_when_a_friend_no_longer_does() {
    let now = start();
    let mut book = PeerBook::default();
    for (port, source) in [(1, Source::Client), (2, BEACON)] {
        book.found(key(1), &[endpoint(1), endpoint(2)], now, now);
        assert!(!book.heard(key(1), &endpoint(port), source, now));
    }
    let class_of = |book: &PeerBook, i: usize| book.iter().next().unwrap().1.paths[i].state.class;
    assert_eq!(class_of(&book, 1), Class::Lan);
    book.not_found(key(1));
    assert_eq!(places(&book), [(endpoint(1), Source::Client, false), (endpoint(2), BEACON, false)]);
    book.found(key(1), &[endpoint(2)], now, now);
    book.expired(key(1), &endpoint(2));
    let stays = (endpoint(2), Source::Rendezvous, true);
    assert_eq!(places(&book), [(endpoint(1), Source::Client, false), stays]);
    assert_eq!(class_of(&book, 1), Class::Direct);
}

#[test]
fn a_place_that_is_being_dialled_goes_when_that_is_done() {
    let now = start();
    let mut book = PeerBook::default();
    book.found(key(1), &[endpoint(1), endpoint(2)], now, now);
    book.dialing(key(1), &endpoint(1), now);
    book.not_found(key(1));
    assert_eq!(places(&book), [(endpoint(1), Source::Rendezvous, false)]);
    book.failed(key(1), &endpoint(1), now);
    assert!(book.is_empty());
}

#[test]
fn another_word_makes_up_for_failures_before_it() {
    let now = start();
    let mut book = PeerBook::default();
    let failures = |book: &PeerBook| book.iter().next().unwrap().1.paths[0].state.failures;
    book.found(key(1), &[endpoint(1)], now, now);
    book.dialing(key(1), &endpoint(1), now);
    book.failed(key(1), &endpoint(1), now);
    book.found(key(1), &[endpoint(1)], now, now);
    assert_eq!(failures(&book), 1);
    // Its clock was set back.
    let earlier = now.checked_sub(2 * SAME_WORD).unwrap();
    for said in [now + 2 * SAME_WORD, earlier] {
        book.dialing(key(1), &endpoint(1), now);
        book.failed(key(1), &endpoint(1), now);
        assert!(book.found(key(1), &[endpoint(1)], said, now));
        assert_eq!(failures(&book), 0);
    }
}

#[test]
fn of_two_dials_the_second_may_go_on_when_the_first_fails_or_its_session_ends() {
    let now = start();
    let mut book = PeerBook::default();
    for port in [1, 2] {
        book.heard(key(1), &endpoint(port), Source::Client, now);
        book.dialing(key(1), &endpoint(port), now);
    }
    let link = |book: &PeerBook| book.iter().next().unwrap().1.link;
    book.failed(key(1), &endpoint(1), now);
    assert_eq!(link(&book), Link::Dialing);
    book.failed(key(1), &endpoint(2), now);
    assert_eq!(link(&book), Link::None);

    book.dialing(key(1), &endpoint(1), now);
    book.dialing(key(1), &endpoint(2), now);
    book.connected(key(1), Direction::Outbound, Class::Direct, Some(&endpoint(1)), now);
    book.ended(key(1), Some(&endpoint(1)), false, now);
    assert_eq!(link(&book), Link::Dialing);
    book.needless(key(1), &endpoint(2));
    book.connected(key(1), Direction::Inbound, Class::Direct, None, now);
    book.ended(key(1), None, false, now);
    assert_eq!(link(&book), Link::None);
}

#[test]
fn a_session_that_ends_at_once_counts_as_a_failure() {
    let now = start();
    let mut book = PeerBook::default();
    book.heard(key(1), &endpoint(1), BEACON, now);
    book.dialing(key(1), &endpoint(1), now);
    book.connected(key(1), Direction::Outbound, Class::Direct, Some(&endpoint(1)), now);
    book.ended(key(1), Some(&endpoint(1)), true, now);
    let (_, peer) = book.iter().next().unwrap();
    assert_eq!((peer.link, peer.paths[0].state.failures), (Link::None, 1));
}
