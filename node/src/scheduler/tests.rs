use super::*;

fn key(n: u8) -> PublicKey {
    PublicKey::from_bytes([n; 32])
}

fn path(class: Class) -> PathState {
    PathState::new(Endpoint::Net { host: "192.0.2.1".into(), port: 8008 }, class)
}

fn circuit() -> PathState {
    let relay = "/ip4/192.0.2.9/udp/1/quic-v1/p2p/12D3KooR/p2p-circuit/p2p/12D3KooP";
    PathState { endpoint: Endpoint::Libp2p(relay.into()), ..path(Class::Relayed) }
}

fn peer(n: u8, relation: Relation, class: Class) -> Candidate {
    Candidate { paths: vec![path(class)], ..Candidate::new(key(n), relation) }
}

const FRIEND: Relation = Relation::Hops(1);

/// A friend with a session that we dialled, since then.
fn connected(n: u8, since: Instant) -> Candidate {
    let session = Running { since, news: None, owes_since: None, class: Class::Direct };
    Candidate { link: Link::Outbound, session: Some(session), ..peer(n, FRIEND, Class::Direct) }
}

fn feeds(numbers: impl IntoIterator<Item = usize>) -> Feeds {
    let mut feeds = Feeds::default();
    numbers.into_iter().for_each(|number| feeds.insert(number));
    feeds
}

fn snapshot(peers: Vec<Candidate>) -> Snapshot {
    Snapshot { own: key(0), follows: feeds(0..100), metered: false, peers }
}

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "tests need some instant to start from")]
    Instant::now()
}

const SECOND: Duration = Duration::from_secs(1);

fn dialled(plan: &Plan) -> Vec<PublicKey> {
    plan.dial.iter().map(|dial| dial.peer).collect()
}

fn dials(peers: Vec<Candidate>, now: Instant) -> Vec<PublicKey> {
    dialled(&plan(&snapshot(peers), &Policy::default(), now))
}

/// As many friends as there are slots for people, connected for long.
fn full(now: Instant) -> Vec<Candidate> {
    let since = now.checked_sub(3600 * SECOND).unwrap();
    (1..=8).map(|n| connected(n, since)).collect()
}

#[test]
fn friends_come_before_friends_of_friends_and_strangers_only_on_the_own_network() {
    let peers = vec![
        peer(1, Relation::Stranger, Class::Lan),
        peer(2, Relation::Hops(2), Class::Direct),
        peer(3, FRIEND, Class::Direct),
        peer(4, Relation::Blocked, Class::Lan),
        peer(5, Relation::Hops(3), Class::Direct),
        peer(6, Relation::Stranger, Class::Direct),
    ];
    let plan = plan(&snapshot(peers), &Policy::default(), start());
    assert_eq!(dialled(&plan), [key(1), key(3), key(2)], "the network's slots first, then people's");
    assert_eq!(plan.passed.uninteresting, 3);
}

#[test]
fn pubs_of_strangers_are_dialled_only_if_the_policy_says_so_and_after_a_friend_behind_a_relay() {
    let hub = Candidate { kind: Kind::Hub, ..peer(1, Relation::Stranger, Class::Direct) };
    let friend = Candidate { paths: vec![circuit()], ..peer(2, FRIEND, Class::Relayed) };
    assert_eq!(dials(vec![hub.clone(), friend.clone()], start()), [key(2)]);
    let policy = Policy { strange_pubs: true, ..Policy::default() };
    let plan = plan(&snapshot(vec![hub, friend]), &policy, start());
    let worth = |n| plan.dial.iter().find(|dial| dial.peer == key(n)).unwrap().terms.unwrap().total();
    assert!(worth(2) > worth(1));
}

#[test]
fn without_autostart_only_what_was_asked_for_is_dialled() {
    let mut peers = vec![peer(1, FRIEND, Class::Lan), peer(2, Relation::Stranger, Class::Direct)];
    peers[1].asked_for = true;
    let policy = Policy { autostart: false, ..Policy::default() };
    assert_eq!(dialled(&plan(&snapshot(peers), &policy, start())), [key(2)]);
}

#[test]
fn a_failed_path_waits_and_the_plan_says_until_when() {
    let now = start();
    let mut failed = peer(1, FRIEND, Class::Direct);
    failed.paths[0].failures = 1;
    failed.paths[0].last_attempt = Some(now);
    let first = plan(&snapshot(vec![failed.clone()]), &Policy::default(), now);
    assert_eq!(dialled(&first), []);
    assert_eq!(first.passed.waiting, 1);
    let wake = first.wake_at.expect("a retry is due some time");
    assert_eq!(dials(vec![failed.clone()], wake), [key(1)]);
    failed.paths[0].failures = 40;
    let dead = plan(&snapshot(vec![failed]), &Policy::default(), wake);
    assert_eq!((dead.passed.defunct, dead.passed.waiting), (1, 0));
}

#[test]
fn another_path_is_tried_while_one_backs_off() {
    let now = start();
    let mut peer = peer(1, FRIEND, Class::Direct);
    peer.paths[0].failures = 3;
    peer.paths[0].last_attempt = Some(now);
    let other = Endpoint::Net { host: "192.0.2.2".into(), port: 1 };
    peer.paths.push(PathState { endpoint: other.clone(), ..path(Class::Direct) });
    let plan = plan(&snapshot(vec![peer]), &Policy::default(), now);
    assert_eq!(plan.dial[0].endpoint, other);
}

#[test]
fn a_thousand_addresses_for_one_key_are_dialled_no_faster_than_one() {
    let begun = start();
    let mut peer = peer(1, FRIEND, Class::Direct);
    let (mut now, mut dials) = (begun, 0);
    for n in 0..1000u16 {
        // Whoever names them pushes the old ones out.
        peer.paths = vec![path(Class::Direct)];
        peer.paths[0].endpoint = Endpoint::Net { host: "192.0.2.7".into(), port: n };
        if plan(&snapshot(vec![peer.clone()]), &Policy::default(), now).dial.is_empty() {
            now += SECOND;
            continue;
        }
        dials += 1;
        let class = &mut peer.dials[Class::Direct.index()];
        *class = Dials { failures: class.failures + 1, last: Some(now) };
    }
    assert!(dials <= 14, "{dials} dials in {:?}", now - begun);
}

#[test]
fn of_two_circuits_the_one_that_the_peer_named_last_is_dialled() {
    let now = start();
    let circuit_at = |host: u8, said| PathState {
        endpoint: Endpoint::Libp2p(format!("/ip4/192.0.2.{host}/tcp/1/p2p/12D3KooR/p2p-circuit")),
        said,
        ..path(Class::Relayed)
    };
    let (old, new) = (Some(now), Some(now + 60 * SECOND));
    let paths = vec![circuit_at(1, None), circuit_at(2, old), circuit_at(3, new), circuit_at(4, old)];
    let mut peer = Candidate { paths, ..peer(1, FRIEND, Class::Relayed) };
    let chosen = |peer: &Candidate| {
        plan(&snapshot(vec![peer.clone()]), &Policy::default(), now).dial[0].endpoint.clone()
    };
    assert_eq!(chosen(&peer), peer.paths[2].endpoint);
    peer.paths.push(path(Class::Direct));
    assert_eq!(chosen(&peer), peer.paths[4].endpoint, "nearness weighs more");
}

#[test]
fn a_relay_is_tried_beside_a_direct_dial_that_takes_its_time() {
    let now = start();
    let ms = Duration::from_millis;
    for (class, patience) in [(Class::Direct, PATIENCE), (Class::Lan, LAN_PATIENCE)] {
        let mut both = peer(1, FRIEND, class);
        both.paths.push(circuit());
        let first = plan(&snapshot(vec![both.clone()]), &Policy::default(), now);
        assert_eq!((first.dial.len(), &first.dial[0].endpoint), (1, &both.paths[0].endpoint));

        both.link = Link::Dialing;
        both.paths[0].dialing = true;
        both.paths[0].last_attempt = Some(now);
        let relayed = |peer: &Candidate, at| {
            let plan = plan(&snapshot(vec![peer.clone()]), &Policy::default(), at);
            (plan.dial.iter().any(|dial| dial.endpoint == circuit().endpoint), plan.wake_at)
        };
        assert_eq!(relayed(&both, now + patience - ms(1)), (false, Some(now + patience)));
        assert_eq!(relayed(&both, now + patience), (true, None));

        let mut backing_off = both.clone();
        backing_off.paths[1].failures = 1;
        backing_off.paths[1].last_attempt = Some(now);
        let (dials, wake) = relayed(&backing_off, now + patience);
        assert!(!dials && wake > Some(now + patience));

        both.paths[1].dialing = true;
        both.paths[1].last_attempt = Some(now + patience);
        assert_eq!(relayed(&both, now + ms(5000)), (false, None), "one dial of each kind");
    }
}

#[test]
fn another_relay_is_tried_when_one_does_not_answer() {
    let now = start();
    let mut peer = peer(1, FRIEND, Class::Direct);
    let relays = ["R", "S", "T", "U"].map(|relay| PathState {
        endpoint: Endpoint::Libp2p(format!("/ip4/192.0.2.9/udp/1/quic-v1/p2p/{relay}/p2p-circuit/p2p/P")),
        ..path(Class::Relayed)
    });
    peer.paths = relays.to_vec();
    peer.link = Link::Dialing;
    for tried in 1..=paths::MAX_CIRCUITS {
        let at = now + RELAY_PATIENCE * (tried as u32 - 1);
        peer.paths[tried - 1].dialing = true;
        peer.paths[tried - 1].last_attempt = Some(at);
        let due = at + RELAY_PATIENCE;
        let soon = plan(&snapshot(vec![peer.clone()]), &Policy::default(), due - paths::MIN_WAIT);
        assert_eq!(soon.dial, []);
        let then = plan(&snapshot(vec![peer.clone()]), &Policy::default(), due).dial;
        assert_eq!(then.len(), usize::from(tried < paths::MAX_CIRCUITS), "after {tried}");
        assert!(then.iter().all(|dial| dial.endpoint == peer.paths[tried].endpoint));
    }
}

#[test]
fn a_block_closes_the_session_and_a_stall_too_but_not_one_that_gives() {
    let now = start();
    let long_ago = now.checked_sub(slots::STALL).unwrap();
    let mut peers: Vec<_> = (1..5).map(|n| connected(n, long_ago)).collect();
    peers[0].relation = Relation::Blocked;
    let owes_since = |peer: &mut Candidate, since| peer.session.as_mut().unwrap().owes_since = Some(since);
    owes_since(&mut peers[1], long_ago);
    owes_since(&mut peers[2], long_ago + SECOND);
    let plan = plan(&snapshot(peers), &Policy::default(), now);
    assert_eq!(plan.drop, [(key(1), DropReason::Blocked), (key(2), DropReason::Stalled)]);
}

#[test]
fn a_full_group_changes_for_a_reason_only_and_the_new_one_is_dialled_before_the_old_one_goes() {
    let now = start();
    let mut peers = full(now);
    peers.push(Candidate { met: Some(now), ..peer(20, FRIEND, Class::Direct) });
    assert_eq!(dials(peers.clone(), now), [], "no better than those that are there");

    peers[8].carries = feeds(0..20);
    assert_eq!(dials(peers.clone(), now), [key(20)], "it carries what nobody else does");
    let young = |n| connected(n, now - slots::DWELL + SECOND);
    let all_young = peers.iter().cloned().enumerate();
    let all_young = all_young.map(|(i, one)| if i < 8 { young(i as u8 + 1) } else { one });
    let soon = plan(&snapshot(all_young.collect()), &Policy::default(), now);
    assert_eq!((dialled(&soon), soon.wake_at.is_some()), (vec![], true), "they had no time yet");

    // It has come: the weakest of the others goes.
    peers[8] = Candidate { carries: feeds(0..20), ..connected(20, now) };
    peers[3].follows_us = false;
    for one in &mut peers[..8] {
        one.follows_us = one.key != key(4);
    }
    let after = plan(&snapshot(peers), &Policy::default(), now);
    assert_eq!(after.drop, [(key(4), DropReason::OverLimit)]);
}

#[test]
fn whoever_waits_long_enough_gets_a_turn_and_news_keep_a_session() {
    let now = start();
    let mut peers = full(now);
    let met = now.checked_sub(45 * 60 * SECOND).unwrap();
    peers.push(Candidate { met: Some(met), ..peer(20, FRIEND, Class::Lan) });
    peers[8].paths = vec![path(Class::Direct)];
    assert_eq!(dials(peers.clone(), now), [], "a dial succeeds half the time only");
    peers[8].paths[0].said = Some(now);
    assert_eq!(dials(peers.clone(), now), [key(20)]);
    for one in &mut peers[..8] {
        one.session.as_mut().unwrap().news = Some(now);
    }
    assert_eq!(dials(peers, now), []);
}

#[test]
fn those_who_are_dialled_together_cover_different_feeds() {
    let now = start();
    let mut peers: Vec<_> = (1..=20).map(|n| peer(n, FRIEND, Class::Direct)).collect();
    for one in &mut peers[..10] {
        one.carries = feeds(0..9);
    }
    peers[15].carries = feeds(40..44);
    let chosen = dials(peers, now);
    assert!(chosen.contains(&key(16)), "{chosen:?}");
}

#[test]
fn a_clock_that_promises_everything_is_worth_a_bounded_sum_and_less_after_each_fault() {
    let now = start();
    let mut liar = peer(1, FRIEND, Class::Direct);
    liar.owed = u64::MAX;
    let view = View::new(&snapshot(Vec::new()), now);
    let honest = peer(2, FRIEND, Class::Direct);
    let worth = |peer: &Candidate| score::dial(&view, peer, &peer.paths[0]).total();
    let gain = worth(&liar) - worth(&honest);
    assert!(gain <= 20.0, "{gain}");
    for _ in 0..3 {
        liar.faults.add(1.0, now);
    }
    assert!(worth(&liar) < worth(&honest));
}

#[test]
fn slots_are_left_to_whoever_dials_and_never_exceeded_by_own_dials() {
    let now = start();
    let policy = Policy { max_dialing: 100, ..Policy::default() };
    let peers: Vec<_> = (1..200).map(|n| peer(n, FRIEND, Class::Direct)).collect();
    let count = plan(&snapshot(peers), &policy, now).dial.len();
    // Half of them may be expected to fail.
    assert!((8..=16).contains(&count), "{count}");
    let mut certain: Vec<_> = (1..200).map(|n| peer(n, FRIEND, Class::Direct)).collect();
    for one in &mut certain {
        one.paths[0].worked.add(1000.0, now);
    }
    assert_eq!(plan(&snapshot(certain), &policy, now).dial.len(), 7, "one slot is left");
}

#[test]
fn the_same_snapshot_gives_the_same_plan_and_no_plan_dials_whom_it_may_not() {
    let now = start();
    let links = [Link::None, Link::None, Link::Outbound, Link::Inbound];
    let relations = [FRIEND, Relation::Hops(2), Relation::Hops(3), Relation::Stranger, Relation::Blocked];
    for round in 0..50u8 {
        let peers: Vec<_> = (1..120u8)
            .map(|n| {
                let mixed = usize::from(n.wrapping_mul(31) ^ round.wrapping_mul(57));
                let class = [Class::Lan, Class::Direct, Class::Relayed][mixed % 3];
                let mut one = peer(n, relations[mixed % 5], class);
                one.link = links[(mixed / 5) % 4];
                one.carries = feeds(mixed..mixed + 20);
                one.paths[0].failures = (mixed % 4) as u32;
                one.paths[0].last_attempt = now.checked_sub(Duration::from_secs(mixed as u64));
                if one.is_connected() {
                    one.session = connected(n, now - slots::DWELL).session;
                }
                one
            })
            .collect();
        let snapshot = snapshot(peers);
        let policy = Policy::default();
        let plan = plan(&snapshot, &policy, now);
        assert_eq!(plan, super::plan(&snapshot, &policy, now));
        assert!(plan.dial.len() <= policy.max_dialing);
        for dial in &plan.dial {
            let one = snapshot.peers.iter().find(|peer| peer.key == dial.peer).unwrap();
            assert!(one.link == Link::None && Group::of(one, &policy).is_some(), "{one:?}");
        }
        let dropped = |peer: &Candidate| plan.drop.iter().any(|(key, _)| *key == peer.key);
        let blocked = snapshot.peers.iter().filter(|peer| peer.relation == Relation::Blocked);
        assert!(blocked.filter(|peer| peer.is_connected()).all(dropped));
    }
}

#[test]
fn each_verdict_is_explained_in_words_and_numbers() {
    let now = start();
    let mut peers = full(now);
    peers[0].carries = feeds(0..5);
    peers.push(peer(20, FRIEND, Class::Direct));
    peers.push(peer(21, Relation::Stranger, Class::Direct));
    let mut waiting = peer(22, FRIEND, Class::Direct);
    waiting.paths[0].failures = 3;
    waiting.paths[0].last_attempt = Some(now);
    peers.push(waiting.clone());
    waiting.key = key(23);
    waiting.paths[0].failures = 40;
    peers.push(waiting);
    let snapshot = snapshot(peers);
    let policy = Policy::default();
    let explainer = why::Explainer::new(&snapshot, &policy, now);
    let all: Vec<_> = explainer.all().collect();
    let verdict = |n| all.iter().find(|why| why.key == key(n)).unwrap();
    let expected = [(1, "connected"), (20, "full"), (21, "passed"), (22, "waiting"), (23, "defunct")];
    for (n, expected) in expected {
        assert_eq!(verdict(n).verdict, expected);
    }
    let text = verdict(1).lines.join("\n");
    assert!(
        text.contains("carries 5 of 100 feeds that you follow, 5 of which no other session carries"),
        "{text}"
    );
    let text = verdict(20).lines.join("\n");
    assert!(text.contains("people 8 of 8") && text.contains("social 30.0"), "{text}");
    assert!(explainer.summary().contains("people 8 of 8"), "{}", explainer.summary());
}
