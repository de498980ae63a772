//! Peers behind NATs: a session through a relay at once and a direct one soon, and sessions that outlast what
//! goes wrong on the way. Whatever a test does to the network, what it asserts in the end is that the two
//! have a session and that posts travel both ways.

use std::time::Duration;

use hawsepipe_tests::control::{Control, RELAY};
use hawsepipe_tests::impostor::{Impostor, Judging, Relaying};
use hawsepipe_tests::lab::internet::Place;
use hawsepipe_tests::lab::nat::Nat;
use hawsepipe_tests::lab::{self, Lab};
use hawsepipe_tests::meeting::{Act, LINE, Meeting, Stage, Transport, at_relay, dialable, is_direct};
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::wait::{self, SOON};
use serde_json::{Value, json};

/// How long a direct session may take on a busy machine, in a development build.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long a node may take to notice that a way is dead and to go another one: QUIC waits 15 s for a peer
/// that is silent, and dials that failed are tried again after pauses.
pub(crate) const RECOVERY: Duration = Duration::from_secs(120);

/// Nodes that find each other again by themselves.
const SOCIAL: Act = Act { social: true, ..Act::PLAIN };

fn post(text: &str) -> Value {
    json!({ "type": "post", "text": text })
}

fn raise(stage: &Stage, act: &Act) -> Meeting {
    stage.raise(act).unwrap_or_else(|why| panic!("{why}"))
}

/// Both follow each other, so that each wants the other's feed.
pub(crate) fn befriend(one: &Peer, other: &Peer) {
    one.follow(other.id());
    other.follow(one.id());
}

/// A new post of each reaches the other.
pub(crate) fn assert_posts_travel(one: &Peer, other: &Peer, within: Duration) {
    let promised = [one, other].map(|author| {
        author.publish(&post("after what happened"));
        (author.id().to_owned(), author.sequence_of(author.id()))
    });
    one.wait_clock(&promised, within);
    other.wait_clock(&promised, within);
}

/// The two have a session with each other.
pub(crate) fn assert_session(one: &Peer, other: &Peer) {
    for (node, peer) in [(one, other), (other, one)] {
        let control = node.control();
        wait::until("a session between the two", RECOVERY, || {
            let status = control.status()?;
            if status.carriers(peer.id()).is_empty() { Err(status.0.to_string()) } else { Ok(()) }
        });
    }
}

fn carriers(control: &Control, peer: &Peer) -> Vec<String> {
    control.status().unwrap().carriers(peer.id())
}

/// The two meet through the relay and come to talk directly over one of `carriers`.
fn they_talk_directly(stage: &Stage, act: &Act, carriers: &[Transport]) {
    let meeting = raise(stage, act);
    befriend(&meeting.listener, &meeting.dialer);
    let outcome = meeting.dial(PATIENCE);
    assert!(outcome.session.is_some(), "{outcome:?}");
    assert!(outcome.direct.is_some(), "{outcome:?}");
    assert!(carriers.iter().any(|carrier| carrier.name() == outcome.carrier), "{outcome:?}");
    assert_posts_travel(&meeting.listener, &meeting.dialer, SOON);
}

/// The same between two homes.
fn homes_talk_directly(lab: &Lab, listener: Place, dialer: Place) {
    they_talk_directly(&Stage::of(lab, listener, dialer), &Act::PLAIN, &[Transport::Quic]);
}

#[test]
fn a_home_and_a_public_peer_talk_directly() {
    lab::run(|lab| homes_talk_directly(lab, Place::PortRestricted, Place::Public));
}

#[test]
fn two_homes_behind_port_restricted_nats_talk_directly() {
    lab::run(|lab| homes_talk_directly(lab, Place::PortRestricted, Place::PortRestricted));
}

#[test]
fn two_homes_whose_nats_change_the_port_talk_directly() {
    lab::run(|lab| homes_talk_directly(lab, Place::PortShifting, Place::PortShifting));
}

#[test]
fn two_homes_whose_routers_take_in_strays_talk_directly() {
    lab::run(|lab| {
        homes_talk_directly(lab, Place::PortRestrictedOpenInput, Place::PortRestrictedOpenInput);
    });
}

#[test]
fn a_symmetric_nat_and_an_address_restricted_one_let_them_talk_directly() {
    lab::run(|lab| homes_talk_directly(lab, Place::SymmetricRandom, Place::AddressRestricted));
}

#[test]
fn two_hosts_of_one_lan_talk_directly_without_their_router() {
    lab::run(|lab| {
        let stage = Stage::in_one_lan(lab, Place::PortRestricted);
        // In a LAN both are as good as each other, and the first one wins.
        they_talk_directly(&stage, &Act::PLAIN, &[Transport::Quic, Transport::Tcp]);
    });
}

#[test]
fn two_homes_without_udp_talk_directly_over_tcp() {
    lab::run(|lab| {
        let stage = Stage::of(lab, Place::PortRestricted, Place::PortRestricted);
        stage.block_udp();
        they_talk_directly(&stage, &Act::WITHOUT_UDP, &[Transport::Tcp]);
    });
}

#[test]
fn homes_without_udp_reach_a_relay_that_they_know_by_its_quic_address() {
    lab::run(|lab| {
        let stage = Stage::of(lab, Place::PortRestricted, Place::PortRestricted);
        stage.block_udp();
        they_talk_directly(&stage, &Act::PLAIN, &[Transport::Tcp]);
    });
}

#[test]
fn a_symmetric_home_without_udp_dials_back_whoever_can_be_dialled() {
    lab::run(|lab| {
        let stage = Stage::of(lab, Place::SymmetricRandom, Place::Public);
        stage.block_udp();
        they_talk_directly(&stage, &Act::WITHOUT_UDP, &[Transport::Tcp]);
    });
}

#[test]
fn two_homes_on_lossy_lines_talk_directly() {
    lab::run(|lab| {
        let stage = Stage::of(lab, Place::PortRestricted, Place::PortRestricted);
        stage.lose(0.025, 1);
        they_talk_directly(&stage, &Act::PLAIN, &[Transport::Quic]);
    });
}

#[test]
fn two_symmetric_homes_stay_on_the_relay_and_replicate_there() {
    lab::run(|lab| {
        let stage = Stage::of(lab, Place::SymmetricRandom, Place::SymmetricRandom);
        let meeting = raise(&stage, &Act::PLAIN);
        befriend(&meeting.listener, &meeting.dialer);
        let outcome = meeting.dial(Duration::from_secs(5));
        assert!(outcome.session.is_some(), "{outcome:?}");
        assert_eq!((outcome.direct, outcome.carrier.as_str()), (None, RELAY));
        assert_posts_travel(&meeting.listener, &meeting.dialer, SOON);
        for (control, peer) in
            [(meeting.listener_control(), &meeting.dialer), (meeting.dialer_control(), &meeting.listener)]
        {
            assert_eq!(carriers(control, peer), [RELAY]);
        }
    });
}

/// A stage on which the two have met and know each other.
fn met(lab: &Lab, place: Place, patience: Duration) -> (Stage, Meeting) {
    let stage = Stage::of(lab, place, place);
    let meeting = raise(&stage, &SOCIAL);
    befriend(&meeting.listener, &meeting.dialer);
    let outcome = meeting.dial(patience);
    assert!(outcome.session.is_some(), "{outcome:?}");
    assert_posts_travel(&meeting.listener, &meeting.dialer, SOON);
    (stage, meeting)
}

#[test]
fn a_direct_session_does_not_need_its_relay_any_more() {
    lab::run(|lab| {
        let (_stage, meeting) = met(lab, Place::PortRestricted, PATIENCE);
        let Meeting { relay, listener, dialer, .. } = meeting;
        assert!(is_direct(&dialer.control().status().unwrap(), listener.id()));
        relay.kill();
        assert_posts_travel(&listener, &dialer, SOON);
    });
}

#[test]
fn a_relayed_session_comes_back_when_its_relay_does() {
    lab::run(|lab| {
        let (_stage, meeting) = met(lab, Place::SymmetricRandom, Duration::from_secs(1));
        let Meeting { relay, listener, dialer, .. } = meeting;
        let setup = relay.setup().clone();
        relay.stop();
        let _relay = setup.start();
        assert_posts_travel(&listener, &dialer, RECOVERY);
        assert_session(&listener, &dialer);
    });
}

#[test]
fn a_relayed_session_outlasts_the_limit_of_one_circuit() {
    /// More than the relay carries for strangers at a time, in posts that are nearly as long as may be.
    const POSTS: usize = 60;
    const LETTERS: usize = 7_000;
    lab::run(|lab| {
        let (_stage, meeting) = met(lab, Place::SymmetricRandom, Duration::from_secs(1));
        let (listener, dialer) = (&meeting.listener, &meeting.dialer);
        let before = relayed_moves(dialer);
        for _ in 0..POSTS {
            let long = post(&"a".repeat(LETTERS));
            meeting.listener_control().call("publish", vec![long]).unwrap();
        }
        let promised = [(listener.id().to_owned(), listener.sequence_of(listener.id()))];
        dialer.wait_clock(&promised, RECOVERY);
        let after = relayed_moves(dialer);
        assert!(after > before, "the limit was not reached: {after} moves");
        assert_session(listener, dialer);
        assert_posts_travel(listener, dialer, RECOVERY);
    });
}

/// How often the session went from one circuit to another.
fn relayed_moves(peer: &Peer) -> f64 {
    peer.metrics().unwrap().sum("session_moves_total", &[("from", RELAY), ("to", RELAY), ("result", "ok")])
}

#[test]
fn a_session_comes_back_when_a_router_gets_another_address() {
    lab::run(|lab| {
        let (stage, meeting) = met(lab, Place::PortRestricted, PATIENCE);
        stage.internet.renumber(&stage.listener.routers[0]);
        assert_posts_travel(&meeting.listener, &meeting.dialer, RECOVERY);
        assert_session(&meeting.listener, &meeting.dialer);
    });
}

#[test]
fn a_session_comes_back_when_a_router_forgets_everything() {
    lab::run(|lab| {
        let (stage, meeting) = met(lab, Place::PortShifting, PATIENCE);
        stage.forget();
        assert_posts_travel(&meeting.listener, &meeting.dialer, RECOVERY);
        assert_session(&meeting.listener, &meeting.dialer);
    });
}

#[test]
fn a_session_comes_back_when_a_host_moves_to_another_network() {
    lab::run(|lab| {
        let (stage, meeting) = met(lab, Place::PortRestricted, PATIENCE);
        let (elsewhere, _wire) = stage.internet.router("elsewhere", Nat::PORT_SHIFTING, LINE);
        elsewhere.welcome(&stage.listener.host);
        assert_posts_travel(&meeting.listener, &meeting.dialer, RECOVERY);
        assert_session(&meeting.listener, &meeting.dialer);
    });
}

/// A lie that nobody asks for proves nothing.
fn wait_until_asked(impostor: &Impostor, asked: fn(&Impostor) -> usize) {
    wait::until("somebody to ask the impostor", SOON, || match asked(impostor) {
        0 => Err(format!("{impostor:?}")),
        _ => Ok(()),
    });
}

/// Two homes meet although they were told of an impostor before they were told of a relay.
fn they_meet_beside(lab: &Lab, relaying: Relaying, judging: Judging) {
    let stage = Stage::of(lab, Place::PortRestricted, Place::PortRestricted);
    let site = stage.internet.public("impostor", LINE);
    let impostor = Impostor::start(&site.host, relaying, judging);
    let meeting = stage.raise_with(&Act::PLAIN, &[impostor.address()]).unwrap_or_else(|why| panic!("{why}"));
    befriend(&meeting.listener, &meeting.dialer);
    let outcome = meeting.dial(PATIENCE);
    assert!(outcome.session.is_some() && outcome.direct.is_some(), "{outcome:?}");
    assert_posts_travel(&meeting.listener, &meeting.dialer, SOON);
    let status = meeting.listener_control().status().unwrap();
    assert_ne!(status.verdict(), "public", "believed whoever said so: {}", status.0);
    let relay = at_relay(&meeting.relay, Transport::Quic);
    let relay = relay.rsplit('/').next().unwrap();
    let reservations = status.reservations();
    assert!(!reservations.is_empty());
    assert!(reservations.iter().all(|at| at.contains(relay)), "{reservations:?} are not all at {relay}");
}

#[test]
fn a_node_knows_what_kind_of_nat_it_is_behind() {
    const KINDS: [(Place, &str, &str); 8] = [
        (Place::FullCone, "endpoint_independent", "a full-cone or address-restricted NAT"),
        (Place::AddressRestricted, "endpoint_independent", "a full-cone or address-restricted NAT"),
        (Place::PortRestricted, "endpoint_independent", "a port-restricted NAT"),
        (Place::PortShifting, "endpoint_independent_shifted", "a port-restricted NAT"),
        (Place::SymmetricRandom, "random", "a symmetric NAT"),
        (Place::SymmetricSequential, "sequential", "a symmetric NAT"),
        (Place::DoubleNat, "endpoint_independent", "a port-restricted NAT"),
        (Place::UdpBlocked, "blocked", "UDP is blocked"),
    ];
    lab::run(|lab| {
        let internet = lab.internet();
        let relays = ["relay-1", "relay-2", "relay-3"].map(|name| {
            let site = internet.public(name, LINE);
            Setup::on(&site.host).set("local", false).start()
        });
        let at: Vec<String> = relays.iter().map(|relay| at_relay(relay, Transport::Quic)).collect();
        let at: Vec<&str> = at.iter().map(String::as_str).collect();
        let homes = KINDS.map(|(place, ..)| internet.settle(place, place.name(), LINE));
        let nodes = homes.each_ref().map(|home| lonely(&home.host, &at));
        for ((place, udp, words), node) in KINDS.into_iter().zip(&nodes) {
            let control = node.control();
            wait::until(&format!("{} to be found out", place.name()), RECOVERY, || {
                let status = control.status()?;
                let found = status.0["reachability"]["v4"]["udp"] == udp;
                let said = String::from_utf8_lossy(&node.setup().run(&["doctor"]).stdout).into_owned();
                let settled = found && said.contains(words) && said.contains("relay reservations");
                if settled { Ok(()) } else { Err(format!("{said}{}", status.0["reachability"])) }
            });
            assert_eq!(control.status().unwrap().verdict(), "private", "{}", place.name());
        }
    });
}

#[test]
fn a_relay_that_refuses_does_not_keep_two_from_meeting() {
    lab::run(|lab| they_meet_beside(lab, Relaying::Refuses, Judging::Babbles));
}

#[test]
fn a_relay_that_announces_nonsense_does_not_keep_two_from_meeting() {
    lab::run(|lab| they_meet_beside(lab, Relaying::PromisesNonsense, Judging::Babbles));
}

#[test]
fn an_autonat_server_that_lies_does_not_keep_two_from_meeting() {
    lab::run(|lab| they_meet_beside(lab, Relaying::Babbles, Judging::Reachable));
}

#[test]
fn a_public_peer_that_is_called_unreachable_is_reached_all_the_same() {
    lab::run(|lab| {
        let stage = Stage::of(lab, Place::Public, Place::PortRestricted);
        let site = stage.internet.public("impostor", LINE);
        let impostor = Impostor::start(&site.host, Relaying::Refuses, Judging::Unreachable);
        let relays = [impostor.address()];
        let listener = lonely(&stage.listener.host, &relays);
        let dialer = lonely(&stage.dialer.host, &relays);
        befriend(&listener, &dialer);
        wait_until_asked(&impostor, Impostor::asked_to_judge);
        let at = dialable(&listener, &at_relay(&listener, Transport::Quic));
        dialer.control().call("conn.connect", vec![at.into()]).unwrap();
        assert_posts_travel(&listener, &dialer, SOON);
        assert_session(&listener, &dialer);
    });
}

/// A node that dials nobody by itself.
fn lonely(host: &lab::Host, relays: &[&str]) -> Peer {
    let setup = Setup::on(host).set("local", false).set("conn.autostart", false);
    setup.set("overlay.relays", relays.to_vec()).start()
}

#[test]
fn addresses_that_make_no_sense_are_refused_and_do_no_harm() {
    lab::run(|lab| {
        let stage = Stage::of(lab, Place::PortRestricted, Place::PortRestricted);
        let meeting = raise(&stage, &Act::PLAIN);
        let relay = at_relay(&meeting.relay, Transport::Quic);
        let own = meeting.dialer.libp2p_at(Transport::Quic).unwrap();
        let peer = own.rsplit('/').next().unwrap();
        let senseless = [
            "/".to_owned(),
            "/p2p-circuit".to_owned(),
            "/ip4".to_owned(),
            "/ip4/300.1.1.1/tcp/1".to_owned(),
            "/ip4/11.0.0.1/tcp/99999".to_owned(),
            "/ip4/11.0.0.1/udp/1/quic-v1/p2p/nobody".to_owned(),
            format!("{relay}/p2p-circuit"),
            format!("{relay}/p2p-circuit/p2p-circuit/p2p-circuit"),
            format!("{relay}/p2p-circuit/p2p/{peer}/p2p-circuit/p2p/{peer}"),
            format!("{own}/p2p-circuit/p2p/{peer}"),
            format!("/p2p/{peer}/p2p-circuit/p2p/{peer}"),
            format!("/ip4/0.0.0.0/tcp/0/p2p/{peer}"),
            "/ip4/11.0.0.1/tcp/1".repeat(60),
            "/unix/tmp/socket".to_owned(),
        ];
        for multiaddr in senseless {
            let at = dialable(&meeting.listener, &multiaddr);
            let answer = meeting.dialer_control().call("conn.connect", vec![at.clone().into()]);
            assert!(answer.is_err(), "{at} was dialled: {answer:?}");
        }
        befriend(&meeting.listener, &meeting.dialer);
        let outcome = meeting.dial(PATIENCE);
        assert!(outcome.session.is_some() && outcome.direct.is_some(), "{outcome:?}");
        assert_posts_travel(&meeting.listener, &meeting.dialer, SOON);
    });
}

#[test]
fn a_reservation_comes_back_after_its_relay_was_killed() {
    lab::run(|lab| {
        let stage = Stage::of(lab, Place::PortRestricted, Place::PortRestricted);
        let meeting = raise(&stage, &Act::PLAIN);
        let at = meeting.known_address().unwrap();
        let Meeting { relay, listener, dialer, .. } = meeting;
        // Nobody says goodbye; the new process knows of no reservation.
        let _relay = relay.kill().start();
        befriend(&listener, &dialer);
        wait::until("a session through the relay that came back", RECOVERY, || {
            dialer.control().call("conn.connect", vec![at.clone().into()])
        });
        assert_posts_travel(&listener, &dialer, SOON);
    });
}
