//! Situations, each as inputs and what comes of them.

use proptest::prelude::*;

use super::super::contacts::{CONTACT_HOLDS, MAX_CONTACTS};
use super::super::evidence::{CONFIRMED_PAUSE, DOUBTED_PAUSE, EVIDENCE_HOLDS, MAX_VOTES};
use super::super::observations::{MAX_OBSERVERS, OBSERVATION_HOLDS};
use super::links::{MAX_LINKS, MAX_SERVERS};
use super::*;
use AddressState::{Candidate, Reachable, Unreachable};

const OK: Answer = Answer::Reached { independent: true };
const KNOWN: Answer = Answer::Reached { independent: false };

/// A machine and its clock.
struct Host {
    machine: Machine<u32, u32>,
    now: Instant,
    /// Questions that it wants asked.
    asks: VecDeque<(u32, Target)>,
    external: BTreeSet<Target>,
    report: Report,
}

fn quic(at: &str) -> Target {
    Target { transport: Transport::Quic, at: at.parse().unwrap() }
}

fn tcp(at: &str) -> Target {
    Target { transport: Transport::Tcp, at: at.parse().unwrap() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl Host {
    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
    fn new(interfaces: &[&str], listening: &[Target]) -> Self {
        let mut host = Self {
            machine: Machine::new(AddressPolicy::Internet),
            now: Instant::now(),
            asks: VecDeque::new(),
            external: BTreeSet::new(),
            report: Report::default(),
        };
        host.local(interfaces, listening);
        host
    }

    /// On the Internet, with QUIC.
    fn public() -> Self {
        Self::new(&["127.0.0.1", "203.0.113.7"], &[quic("0.0.0.0:8009")])
    }

    /// At home, with QUIC and TCP.
    fn at_home() -> Self {
        Self::new(&["192.168.1.5"], &[quic("0.0.0.0:8009"), tcp("0.0.0.0:8009")])
    }

    fn give(&mut self, input: Input<u32, u32>) {
        self.machine.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Probe { id, target } => self.asks.push_back((id, target)),
                Output::Confirmed(target) => assert!(self.external.insert(target), "twice: {target}"),
                Output::Lost(target) => assert!(self.external.remove(&target), "never had: {target}"),
                Output::Report(report) => {
                    assert_ne!(*report, self.report, "nothing new");
                    self.report = *report;
                }
            }
        }
    }

    fn local(&mut self, interfaces: &[&str], listening: &[Target]) {
        let interfaces = interfaces.iter().map(|text| ip(text)).collect();
        self.give(Input::Local { interfaces, listening: listening.to_vec() });
    }

    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(wake) = self.machine.poll_timeout().filter(|wake| *wake <= until) {
            assert!(wake > self.now, "no time passes");
            self.now = wake;
            self.machine.handle_timeout(wake);
            self.drain();
        }
        self.now = until;
    }

    /// We dial somebody, who says where it sees us.
    fn meets(&mut self, id: u32, at: Target, seen: Option<Target>, serves: bool) {
        let link =
            Link { peer: id, transport: at.transport, remote: Some(at.at), local: None, inbound: false };
        self.give(Input::Dialling { peer: Some(id), hosts: vec![(at.transport, at.at.ip())] });
        self.give(Input::Linked { id, link });
        self.give(Input::Identified { id, seen, serves });
    }

    fn server(&mut self, id: u32, at: Target) {
        self.meets(id, at, None, true);
    }

    fn is_dialled_by(&mut self, id: u32, peer: u32, from: Target) {
        let link =
            Link { peer, transport: from.transport, remote: Some(from.at), local: None, inbound: true };
        self.give(Input::Linked { id, link });
    }

    /// The next question is this one, and gets this answer.
    fn answers(&mut self, id: u32, target: Target, answer: Answer) {
        assert_eq!(self.asks.pop_front(), Some((id, target)));
        self.give(Input::Probed { id, target, answer });
    }

    fn state(&self, target: Target) -> Option<AddressState> {
        let text = target.to_string();
        self.report.addresses.iter().find(|(at, _)| *at == text).map(|(_, state)| *state)
    }

    fn candidates(&self) -> Vec<String> {
        let all = self.machine.candidates().into_iter();
        all.map(|(transport, at)| Target { transport, at }.to_string()).collect()
    }
}

#[test]
fn a_host_on_the_internet_is_held_for_public_at_once() {
    let host = Host::public();
    let own = quic("203.0.113.7:8009");
    assert_eq!(host.report.verdict, Verdict::Public);
    assert_eq!(host.external, BTreeSet::from([own]));
    assert_eq!(host.candidates(), [own.to_string()]);
    assert_eq!(host.machine.public_ips(), [ip("203.0.113.7")]);
    assert!(host.machine.lan_candidates().is_empty());
}

#[test]
fn a_global_ipv6_address_alone_needs_proof_and_beside_ipv4_it_does_not() {
    let both = [quic("0.0.0.0:9"), quic("[::]:9")];
    let mut host = Host::new(&["2001:db8::7", "192.168.1.5"], &both);
    let own = quic("[2001:db8::7]:9");
    assert_eq!((host.report.verdict, host.state(own)), (Verdict::Unknown, Some(Candidate)));
    host.server(1, quic("[2001:db9::1]:9"));
    host.answers(1, own, KNOWN);
    assert_eq!((host.report.verdict, host.state(own)), (Verdict::Public, Some(Reachable)));
    let host = Host::new(&["2001:db8::7", "203.0.113.7"], &both);
    assert_eq!(host.external, BTreeSet::from([own, quic("203.0.113.7:9")]));
}

#[test]
fn one_server_can_deny_a_public_host_until_the_next_speaks() {
    let mut host = Host::public();
    let own = quic("203.0.113.7:8009");
    host.server(1, quic("198.51.100.1:9"));
    host.answers(1, own, Answer::NotReached);
    assert_eq!((host.report.verdict, host.state(own)), (Verdict::Private, Some(Unreachable)));
    assert!(host.external.is_empty() && host.asks.is_empty());
    host.server(2, quic("198.51.100.2:9"));
    assert!(host.asks.is_empty(), "the same /16 is the same voice");
    host.server(3, quic("20.1.0.1:9"));
    host.answers(3, own, KNOWN);
    assert_eq!((host.report.verdict, host.external.len()), (Verdict::Public, 1));
    assert!(host.asks.is_empty());
}

#[test]
fn who_came_to_us_has_no_say() {
    let mut host = Host::public();
    host.is_dialled_by(1, 50, quic("198.51.100.1:9"));
    host.give(Input::Identified { id: 1, seen: None, serves: true });
    assert!(host.asks.is_empty());
    host.server(2, quic("20.1.0.1:9"));
    assert_eq!(host.asks, [(2, quic("203.0.113.7:8009"))]);
}

#[test]
fn a_host_is_known_as_long_as_a_connection_to_it_stands() {
    let mut host = seen_at_home();
    for id in [1, 2] {
        host.server(id, quic("20.1.0.1:9"));
    }
    host.give(Input::Unlinked { id: 2 });
    host.wait(2 * CONTACT_HOLDS);
    host.is_dialled_by(3, 1, quic("20.1.0.1:5555"));
    assert!(!host.machine.is_independent(3));
    for id in [1, 3] {
        host.give(Input::Unlinked { id });
    }
    host.wait(CONTACT_HOLDS);
    host.is_dialled_by(4, 1, quic("20.1.0.1:5555"));
    assert!(host.machine.is_independent(4));
}

#[test]
fn what_was_denied_is_tried_again_after_a_while_and_at_once_in_another_network() {
    let mut host = Host::public();
    let own = quic("203.0.113.7:8009");
    host.server(1, quic("198.51.100.1:9"));
    host.answers(1, own, Answer::NotReached);
    host.wait(DOUBTED_PAUSE - Duration::from_secs(1));
    assert!(host.asks.is_empty());
    host.wait(Duration::from_secs(1));
    host.answers(1, own, Answer::NotReached);
    host.wait(Duration::from_secs(60));
    host.local(&["203.0.113.7", "10.0.0.1"], &[quic("0.0.0.0:8009")]);
    host.answers(1, own, KNOWN);
    assert_eq!(host.report.verdict, Verdict::Public);
}

#[test]
fn refusals_and_silence_count_against_the_server_only() {
    for answer in [Answer::Refused, Answer::Silent] {
        let mut host = Host::public();
        let own = quic("203.0.113.7:8009");
        host.server(1, quic("198.51.100.1:9"));
        host.answers(1, own, answer);
        assert_eq!((host.report.verdict, host.asks.len()), (Verdict::Public, 0));
        host.wait(REFUSED_PAUSE - Duration::from_secs(1));
        assert!(host.asks.is_empty());
        host.server(2, quic("20.1.0.1:9"));
        host.answers(2, own, OK);
        host.wait(Duration::from_secs(1));
        assert!(host.asks.is_empty(), "another has answered");
    }
}

#[test]
fn a_server_that_is_never_heard_of_again_is_as_one_that_does_not_answer() {
    let mut host = Host::public();
    let own = quic("203.0.113.7:8009");
    host.server(1, quic("198.51.100.1:9"));
    host.server(2, quic("20.1.0.1:9"));
    assert_eq!(host.asks.len(), 1, "one question on one address");
    host.wait(PROBE_TIMEOUT);
    assert_eq!(host.asks.pop_front(), Some((1, own)));
    host.give(Input::Probed { id: 1, target: own, answer: Answer::NotReached });
    assert_eq!(host.report.verdict, Verdict::Public, "too late");
    host.give(Input::Unlinked { id: 2 });
    host.server(3, quic("20.2.0.1:9"));
    host.asks.clear();
    host.give(Input::Probed { id: 3, target: own, answer: OK });
    host.wait(CONFIRMED_PAUSE - Duration::from_secs(1));
    assert!(host.asks.is_empty());
}

#[test]
fn a_server_that_lied_loses_its_vote_and_is_not_asked_again() {
    let mut host = Host::new(&["203.0.113.7"], &[quic("0.0.0.0:9"), tcp("0.0.0.0:9")]);
    let (first, second) = (quic("203.0.113.7:9"), tcp("203.0.113.7:9"));
    host.server(1, quic("198.51.100.1:9"));
    host.answers(1, first, Answer::NotReached);
    assert_eq!(host.state(first), Some(Unreachable));
    host.wait(SERVER_PAUSE);
    host.answers(1, second, Answer::Lied);
    assert_eq!((host.state(first), host.state(second)), (Some(Reachable), Some(Reachable)));
    host.wait(2 * CONFIRMED_PAUSE);
    assert!(host.asks.is_empty());
}

/// At home, seen by two as well over QUIC as over TCP, none of them servers.
fn seen_at_home() -> Host {
    let mut host = Host::at_home();
    for (id, octet) in [(100, 1), (101, 2)] {
        let at = |port| SocketAddr::new(IpAddr::from([30, octet, 0, 1]), port);
        let seen = |transport| Some(Target { transport, at: "192.0.2.1:8009".parse().unwrap() });
        for transport in Transport::ALL {
            host.meets(id, Target { transport, at: at(9) }, seen(transport), false);
        }
    }
    host
}

#[test]
fn behind_a_nat_only_success_from_where_we_had_not_sent_to_counts() {
    let mut host = seen_at_home();
    let (over_quic, over_tcp) = (quic("192.0.2.1:8009"), tcp("192.0.2.1:8009"));
    assert_eq!((host.report.verdict, host.state(over_quic)), (Verdict::Private, Some(Candidate)));
    assert_eq!(host.report.v4.udp, Nat::EndpointIndependent);
    host.server(1, quic("20.1.0.1:9"));
    host.answers(1, over_quic, KNOWN);
    assert_eq!(host.report.v4.filtering, Filtering::AddressOrOpen);
    assert_eq!((host.report.verdict, host.state(over_quic)), (Verdict::Private, Some(Candidate)));
    host.wait(SERVER_PAUSE);
    host.answers(1, over_tcp, OK);
    assert_eq!(host.report.verdict, Verdict::Private, "one is not enough");
    host.server(2, tcp("20.2.0.1:9"));
    host.answers(2, over_quic, OK);
    host.wait(SERVER_PAUSE);
    host.answers(2, over_tcp, KNOWN);
    host.server(3, quic("20.3.0.1:9"));
    host.answers(3, over_quic, KNOWN);
    host.wait(SERVER_PAUSE);
    host.answers(3, over_tcp, OK);
    assert_eq!(host.external, BTreeSet::from([over_tcp]));
    assert_eq!((host.report.verdict, host.report.v4.filtering), (Verdict::Public, Filtering::Open));
}

#[test]
fn a_failure_of_a_server_we_had_sent_to_shows_a_strict_filter() {
    let mut host = seen_at_home();
    host.server(1, quic("20.1.0.1:9"));
    host.answers(1, quic("192.0.2.1:8009"), Answer::NotReached);
    assert_eq!(host.report.v4.filtering, Filtering::AddressAndPort);
    assert_eq!(host.report.verdict, Verdict::Private);
    // And of one that we had not sent to, only that it is not open.
    let mut host = seen_at_home();
    host.server(1, tcp("20.1.0.1:9"));
    host.answers(1, quic("192.0.2.1:8009"), Answer::NotReached);
    assert_eq!(host.report.v4.filtering, Filtering::Unknown);
}

#[test]
fn a_server_is_asked_first_about_the_transport_by_which_we_do_not_talk_to_it() {
    let mut host = seen_at_home();
    host.asks.clear();
    host.server(1, quic("20.1.0.1:9"));
    host.asks.clear();
    host.give(Input::Unlinked { id: 1 });
    host.server(2, tcp("20.2.0.1:9"));
    host.server(3, quic("20.3.0.1:9"));
    let about_quic = host.asks.iter().find(|(_, target)| target.transport == Transport::Quic);
    assert_eq!(about_quic, Some(&(2, quic("192.0.2.1:8009"))));
}

#[test]
fn who_comes_in_uninvited_proves_that_others_can() {
    let mut host = seen_at_home();
    let at = quic("192.0.2.1:8009");
    host.is_dialled_by(1, 50, quic("40.1.0.1:7"));
    assert_eq!((host.state(at), host.report.verdict), (Some(Reachable), Verdict::Public));
    assert_eq!(host.report.v4.filtering, Filtering::Open);
    assert_eq!(host.state(tcp("192.0.2.1:8009")), Some(Candidate), "of the other transport nothing is known");
    host.wait(EVIDENCE_HOLDS);
    assert!(host.external.is_empty());
}

#[test]
fn who_was_invited_proves_nothing() {
    let cases: [(&str, Target, u32); 5] = [
        ("we sent to it", quic("30.1.0.1:7"), 50),
        ("it is on our network", quic("192.168.1.9:7"), 50),
        ("it is behind our own NAT", quic("192.0.2.1:7"), 50),
        ("we dialled the peer elsewhere", quic("40.1.0.1:7"), 100),
        ("we punch", quic("41.1.0.1:7"), 51),
    ];
    for (why, from, peer) in cases {
        let mut host = seen_at_home();
        host.give(Input::Dialling { peer: None, hosts: vec![(Transport::Tcp, ip("41.1.0.1"))] });
        host.is_dialled_by(1, peer, from);
        assert_eq!(host.report.verdict, Verdict::Private, "{why}");
    }
}

#[test]
fn the_dial_back_of_a_server_is_told_from_an_uninvited_guest() {
    let mut host = seen_at_home();
    host.server(1, tcp("20.1.0.1:9"));
    // By the transport that we have not sent by: its success means something, it proves nothing alone.
    host.is_dialled_by(2, 1, quic("20.1.0.1:5555"));
    assert!(host.machine.is_independent(2));
    assert_eq!(host.report.verdict, Verdict::Private);
    // Now we have sent there.
    host.is_dialled_by(3, 1, quic("20.1.0.1:5556"));
    host.is_dialled_by(4, 1, tcp("20.1.0.1:5557"));
    assert!(!host.machine.is_independent(3) && !host.machine.is_independent(4));
    for id in [2, 3, 4] {
        host.give(Input::Unlinked { id });
    }
    host.wait(CONTACT_HOLDS);
    host.is_dialled_by(5, 1, quic("20.1.0.1:5558"));
    assert!(host.machine.is_independent(5));
    assert!(!host.machine.is_independent(1), "we dialled that one");
}

#[test]
fn where_it_is_not_plain_which_address_was_reached_all_are_tried() {
    let mut host = Host::at_home();
    for (id, octet) in [(100, 1), (101, 2)] {
        let at = Target { transport: Transport::Quic, at: SocketAddr::new([30, octet, 0, 1].into(), 9) };
        host.meets(id, at, Some(quic("192.0.2.1:61000")), false);
    }
    let targets = [quic("192.0.2.1:8009"), quic("192.0.2.1:61000")];
    assert_eq!(host.report.v4.udp, Nat::EndpointIndependentShifted);
    assert_eq!(targets.map(|at| host.state(at)), [Some(Candidate); 2]);
    host.is_dialled_by(1, 50, quic("40.1.0.1:7"));
    assert_eq!(targets.map(|at| host.state(at)), [Some(Candidate); 2]);
}

#[test]
fn a_confirmed_address_is_tried_every_hour_and_lost_without_proof() {
    let mut host = seen_at_home();
    let at = quic("192.0.2.1:8009");
    for (id, server) in [(1, "20.1.0.1:9"), (2, "20.2.0.1:9")] {
        host.server(id, tcp(server));
        host.answers(id, at, OK);
        host.wait(SERVER_PAUSE);
        host.answers(id, tcp("192.0.2.1:8009"), Answer::NotReached);
    }
    assert_eq!(host.external, BTreeSet::from([at]));
    host.asks.clear();
    host.wait(CONFIRMED_PAUSE);
    assert!(host.asks.iter().any(|(_, target)| *target == at), "{:?}", host.asks);
    for id in [1, 2] {
        host.give(Input::Unlinked { id });
    }
    host.wait(EVIDENCE_HOLDS - CONFIRMED_PAUSE - Duration::from_secs(60));
    assert_eq!(host.external, BTreeSet::from([at]), "nobody sees us, nobody contradicts");
    host.wait(Duration::from_secs(60));
    assert!(host.external.is_empty());
}

#[test]
fn another_address_outside_ends_what_was_known_of_the_old_one() {
    let mut host = seen_at_home();
    host.is_dialled_by(1, 50, quic("40.1.0.1:7"));
    assert_eq!(host.external.len(), 1);
    for id in [100, 101] {
        host.give(Input::Identified { id, seen: Some(quic("192.0.2.99:8009")), serves: false });
    }
    host.wait(OBSERVATION_HOLDS);
    host.meets(102, quic("30.9.0.1:9"), Some(quic("192.0.2.99:8009")), false);
    assert!(host.external.is_empty());
    let guessed = tcp("192.0.2.99:8009");
    assert_eq!(host.candidates(), [quic("192.0.2.99:8009"), guessed].map(|at| at.to_string()));
}

#[test]
fn another_network_forgets_what_others_saw() {
    let mut host = seen_at_home();
    host.is_dialled_by(1, 50, quic("40.1.0.1:7"));
    host.local(&["10.9.9.9"], &[quic("0.0.0.0:8009")]);
    assert_eq!(host.report, Report::default());
    assert!(host.external.is_empty() && host.candidates().is_empty());
    let lan = host.machine.lan_candidates();
    assert_eq!(lan, [(Transport::Quic, "10.9.9.9:8009".parse().unwrap())]);
}

#[test]
fn only_connections_from_the_port_we_listen_on_say_something_of_it() {
    let mut host = Host::at_home();
    let seen = Some(tcp("192.0.2.1:40000"));
    host.meets(1, tcp("30.1.0.1:9"), None, false);
    host.meets(2, tcp("30.1.0.1:9"), seen, false);
    host.is_dialled_by(3, 50, tcp("30.2.0.1:9"));
    host.give(Input::Identified { id: 3, seen, serves: false });
    host.meets(4, tcp("192.168.1.77:9"), seen, false);
    assert!(host.candidates().is_empty(), "{:?}", host.candidates());
    host.give(Input::Unlinked { id: 1 });
    host.give(Input::Identified { id: 2, seen, serves: false });
    assert_eq!(host.candidates(), [tcp("192.0.2.1:40000").to_string()]);
}

#[test]
fn candidates_are_as_seen_confirmed_first_then_ipv6_and_never_private() {
    let all = [quic("0.0.0.0:9"), tcp("0.0.0.0:9"), quic("[::]:9")];
    let mut host = Host::new(&["192.168.1.5", "100.64.0.3", "2001:db8::7", "fe80::1", "fd00::1"], &all);
    host.meets(1, quic("30.1.0.1:9"), Some(quic("192.0.2.1:5001")), false);
    host.meets(2, quic("30.2.0.1:9"), Some(quic("192.0.2.1:5077")), false);
    host.meets(3, tcp("30.3.0.1:9"), Some(tcp("192.0.2.1:9")), false);
    host.meets(4, tcp("30.4.0.1:9"), Some(tcp("10.0.0.1:9")), false);
    let expected = [
        "/ip6/2001:db8::7/udp/9/quic-v1",
        "/ip4/192.0.2.1/udp/5077/quic-v1",
        "/ip4/192.0.2.1/udp/5001/quic-v1",
        "/ip4/192.0.2.1/tcp/9",
    ];
    assert_eq!(host.candidates(), expected);
    host.is_dialled_by(9, 50, tcp("40.1.0.1:7"));
    assert_eq!(host.candidates()[0], "/ip4/192.0.2.1/tcp/9");
    assert_eq!(host.machine.public_ips(), [ip("2001:db8::7"), ip("192.0.2.1")]);
    let lan: Vec<_> = host.machine.lan_candidates().into_iter().map(|(_, at)| at.ip()).collect();
    assert!(
        lan.contains(&ip("192.168.1.5")) && lan.contains(&ip("fd00::1")) && !lan.contains(&ip("fe80::1"))
    );
}

#[test]
fn a_symmetric_nat_is_private_and_only_a_forwarded_port_is_tried() {
    let mut host = Host::at_home();
    for (id, octet, port) in [(100, 1, 5001), (101, 2, 44), (102, 3, 63_111)] {
        let at = Target { transport: Transport::Quic, at: SocketAddr::new([30, octet, 0, 1].into(), 9) };
        let seen = Target { transport: Transport::Quic, at: SocketAddr::new(ip("192.0.2.1"), port) };
        host.meets(id, at, Some(seen), false);
    }
    assert_eq!((host.report.v4.udp, host.report.verdict), (Nat::Random, Verdict::Private));
    assert_eq!(host.report.addresses, [(quic("192.0.2.1:8009").to_string(), Candidate)]);
    for (id, server) in [(1, "20.1.0.1:9"), (2, "20.2.0.1:9")] {
        host.server(id, tcp(server));
        host.answers(id, quic("192.0.2.1:8009"), OK);
    }
    assert_eq!(host.report.verdict, Verdict::Public);
}

#[test]
fn a_server_dialled_by_name_is_heard_but_never_independent() {
    let mut host = Host::public();
    let link = Link { peer: 1, transport: Transport::Quic, remote: None, local: None, inbound: false };
    host.give(Input::Linked { id: 1, link });
    host.give(Input::Identified { id: 1, seen: Some(quic("203.0.113.7:8009")), serves: true });
    host.answers(1, quic("203.0.113.7:8009"), KNOWN);
    assert_eq!((host.report.v4.udp, host.report.verdict), (Nat::Untranslated, Verdict::Public));
}

fn any_ip() -> impl Strategy<Value = IpAddr> {
    let some = ["203.0.113.7", "192.168.1.5", "2001:db8::7", "127.0.0.1", "0.0.0.0", "::"];
    prop_oneof![
        (0..some.len()).prop_map(move |n| ip(some[n])),
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 2]>().prop_map(|[a, b]| IpAddr::from([30, a, b, 1])),
        any::<[u16; 8]>().prop_map(|s| IpAddr::from([s[0] | 0x2000, s[1], s[2], s[3], 0, 0, 0, 1])),
    ]
}

fn any_target() -> impl Strategy<Value = Target> {
    (any::<bool>(), any_ip(), 0..4_u16).prop_map(|(first, ip, port)| Target {
        transport: Transport::ALL[usize::from(first)],
        at: SocketAddr::new(ip, port),
    })
}

fn any_input() -> impl Strategy<Value = Input<u32, u32>> {
    let id = || 0..64_u32;
    let answer = prop_oneof![
        any::<bool>().prop_map(|independent| Answer::Reached { independent }),
        Just(Answer::NotReached),
        Just(Answer::Refused),
        Just(Answer::Silent),
        Just(Answer::Lied),
    ];
    let link = (id(), any_target(), any::<(bool, bool)>()).prop_map(|(peer, at, (named, inbound))| Link {
        peer,
        transport: at.transport,
        remote: (!named).then_some(at.at),
        local: None,
        inbound,
    });
    let several = || proptest::collection::vec(any_target(), 0..6);
    prop_oneof![
        1 => (proptest::collection::vec(any_ip(), 0..100), several())
            .prop_map(|(interfaces, listening)| Input::Local { interfaces, listening }),
        1 => (id(), several()).prop_map(|(peer, at)| Input::Dialling {
            peer: Some(peer),
            hosts: at.into_iter().map(|at| (at.transport, at.at.ip())).collect(),
        }),
        1 => any_ip().prop_map(Input::QuicFailed),
        4 => (id(), link).prop_map(|(id, link)| Input::Linked { id, link }),
        2 => id().prop_map(|id| Input::Unlinked { id }),
        8 => (id(), any_target(), any::<bool>())
            .prop_map(|(id, seen, serves)| Input::Identified { id, seen: Some(seen), serves }),
        4 => (id(), any_target(), answer)
            .prop_map(|(id, target, answer)| Input::Probed { id, target, answer }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: limits hold, time goes on, and what is said outside fits
    /// together. Every other question is answered as it was asked, so that votes pile up.
    #[test]
    fn nothing_that_happens_breaks_a_limit(
        inputs in proptest::collection::vec((any_input(), 0..1200_u64, any::<bool>(), any::<bool>()), 1..200),
    ) {
        let mut host = Host::new(&["203.0.113.7", "192.168.1.5"], &[quic("0.0.0.0:1"), tcp("0.0.0.0:1")]);
        for (input, seconds, reached, honest) in inputs {
            host.give(input);
            while let Some((id, target)) = host.asks.pop_front() {
                let answer = if reached { OK } else { Answer::NotReached };
                if honest {
                    host.give(Input::Probed { id, target, answer });
                }
            }
            host.wait(Duration::from_secs(seconds));
            let machine = &host.machine;
            prop_assert!(machine.targets.len() <= MAX_TARGETS);
            prop_assert!(machine.probing.len() <= MAX_PROBING);
            prop_assert!(machine.targets.values().all(|evidence| evidence.len() <= MAX_VOTES));
            prop_assert!(machine.observations.len() <= MAX_OBSERVERS);
            prop_assert!(machine.contacts.len() <= MAX_CONTACTS);
            let (links, servers) = machine.links.len();
            prop_assert!(links <= MAX_LINKS && servers <= MAX_SERVERS);
            prop_assert!(machine.candidates().len() <= MAX_CANDIDATES);
            prop_assert!(machine.candidates().iter().all(|(_, at)| AddressPolicy::Internet.is_global(at.ip())));
            prop_assert!(machine.public_ips().len() <= MAX_CANDIDATES);
            let public = host.report.verdict == Verdict::Public;
            prop_assert_eq!(public, !host.external.is_empty());
            prop_assert!(host.external.iter().all(|target| host.state(*target) == Some(Reachable)));
        }
    }
}
