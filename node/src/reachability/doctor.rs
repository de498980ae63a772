//! `hawsepipe doctor`: what a person behind some router wants to know, as a pure function of what the node
//! knows.

use hawsepipe_overlay::DhtReport;
use hawsepipe_overlay::reachability::{AddressState, FamilyReport, Filtering, Nat, Report, Verdict};
use hawsepipe_overlay::rendezvous::Tier;

/// What is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether the libp2p swarm runs.
    pub overlay: bool,
    /// How others can reach us.
    pub report: Report,
    /// Sessions with peers over a direct connection.
    pub direct: usize,
    /// Sessions with peers over a relay.
    pub relayed: usize,
    /// The DHT; `None` if this node takes no part in it.
    pub dht: Option<DhtFacts>,
}

/// What is looked at of the DHT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DhtFacts {
    /// Its routing table.
    pub report: DhtReport,
    /// Whom we follow.
    pub friends: FriendCount,
    /// Who can find us; [`Tier::Off`] looks for nobody either.
    pub tier: Tier,
}

/// Whom we follow, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FriendCount {
    /// Those whose place we don't know.
    pub sought: usize,
    /// Those of whom the DHT says where they are, but without a session.
    pub found: usize,
    /// Those with a session.
    pub connected: usize,
    /// Those who follow us as well, whatever their state.
    pub mutual: usize,
    /// Those of them who are found or connected.
    pub mutual_met: usize,
}

/// What a person is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// Line by line.
    pub lines: Vec<String>,
    /// Nothing needs the person's attention.
    pub healthy: bool,
}

/// Looks at everything and finds the words.
pub fn diagnose(facts: &Facts) -> Diagnosis {
    let Facts { overlay, report, direct, relayed, dht } = facts;
    if !overlay {
        let off = "the overlay is off: only classic TCP is used, which crosses no NAT";
        return Diagnosis { lines: vec![off.to_owned(), sessions(*direct, *relayed)], healthy: true };
    }
    let (place, mut healthy) = match report.verdict {
        Verdict::Unknown if direct + relayed == 0 => (UNKNOWN_ALONE.to_owned(), false),
        Verdict::Unknown => (UNKNOWN.to_owned(), true),
        Verdict::Public => (public(report), true),
        Verdict::Private => (private(report), true),
    };
    let mut lines = vec![place];
    if is_udp_blocked(report) {
        lines.push("UDP is blocked: sessions go over TCP".to_owned());
    }
    if report.verdict == Verdict::Private && report.reservations.is_empty() {
        lines.push(NO_RESERVATION.to_owned());
        healthy = false;
    }
    if let Some(dht) = dht {
        lines.push(table(&dht.report));
        lines.extend(meetings(dht));
        healthy &= !is_lost(dht);
    }
    lines.push(sessions(*direct, *relayed));
    Diagnosis { lines, healthy }
}

const NO_NODE: &str = "no DHT node known: friends elsewhere cannot be found; name one in overlay.bootstrap, connect \
    to a pub, or follow one";

fn table(report: &DhtReport) -> String {
    if report.nodes == 0 {
        return NO_NODE.to_owned();
    }
    let (nodes, networks) = (count(report.nodes, "node"), count(report.networks, "network"));
    let role = if report.serving { "answering others" } else { "asking only" };
    format!("DHT: {nodes} in {networks}, {role}")
}

fn meetings(dht: &DhtFacts) -> Option<String> {
    let FriendCount { mutual, mutual_met, .. } = dht.friends;
    let some = dht.tier != Tier::Off && mutual > 0;
    some.then(|| format!("found {mutual_met} of {}", count(mutual, "mutual follow")))
}

/// Whether there are friends to find and nobody to ask.
fn is_lost(dht: &DhtFacts) -> bool {
    dht.tier != Tier::Off && dht.report.nodes == 0 && dht.friends.sought > 0
}

const UNKNOWN: &str = "nobody has told yet whether others can reach this node";
const UNKNOWN_ALONE: &str = "nobody has told yet whether others can reach this node; connect to a peer with \
    `hawsepipe connect ADDRESS`";
const NO_RESERVATION: &str = "no relay reservation: nobody outside can reach you; follow a pub or add one \
    with `hawsepipe connect ADDRESS`, or name a relay in the option overlay.relays";

fn public(report: &Report) -> String {
    let reachable = report.addresses.iter().filter(|(_, state)| *state == AddressState::Reachable);
    let reachable: Vec<_> = reachable.map(|(at, _)| at.as_str()).collect();
    let at = if reachable.is_empty() { String::new() } else { format!(" at {}", reachable.join(", ")) };
    let relaying = if report.relaying {
        format!("relaying for others: {}", count(report.circuits, "circuit"))
    } else {
        "not relaying for others".to_owned()
    };
    format!("public{at}; {relaying}")
}

fn private(report: &Report) -> String {
    let mut parts = vec![behind(report)];
    parts.extend(prospects(report).map(str::to_owned));
    if !report.reservations.is_empty() {
        parts.push(count(report.reservations.len(), "relay reservation"));
    }
    parts.join("; ")
}

/// The family whose router matters: the one that works, IPv4 first because most peers have it.
fn main_family(report: &Report) -> FamilyReport {
    let known = |family: &FamilyReport| mapping(*family) != Nat::Unknown;
    let families = [report.v4, report.v6];
    families.into_iter().find(known).unwrap_or(report.v4)
}

/// What happens to what we send: over UDP, or TCP where that is all we have.
const fn mapping(family: FamilyReport) -> Nat {
    if matches!(family.udp, Nat::Unknown | Nat::Blocked) { family.tcp } else { family.udp }
}

fn behind(report: &Report) -> String {
    let family = main_family(report);
    let kind = match (mapping(family), family.filtering) {
        (Nat::Unknown | Nat::Blocked, _) => "a NAT or a firewall",
        (Nat::Untranslated, _) => "a firewall",
        (Nat::Sequential | Nat::Random, _) => "a symmetric NAT",
        (_, Filtering::Open) => "a full-cone NAT",
        (_, Filtering::AddressOrOpen) => "a full-cone or address-restricted NAT",
        (_, Filtering::AddressAndPort) => "a port-restricted NAT",
        (_, Filtering::Unknown) => "a cone NAT",
    };
    format!("behind {kind}")
}

/// What can be hoped for.
fn prospects(report: &Report) -> Option<&'static str> {
    match mapping(main_family(report)) {
        Nat::Unknown | Nat::Blocked => None,
        Nat::Untranslated | Nat::EndpointIndependent | Nat::EndpointIndependentShifted => {
            Some("direct connections work with most peers")
        }
        Nat::Sequential | Nat::Random => {
            Some("direct connections work with peers that are open, others stay on a relay")
        }
    }
}

/// Whether UDP is known to be blocked, and gets through by no family.
fn is_udp_blocked(report: &Report) -> bool {
    let udp = [report.v4.udp, report.v6.udp];
    udp.contains(&Nat::Blocked) && udp.iter().all(|nat| matches!(nat, Nat::Unknown | Nat::Blocked))
}

fn sessions(direct: usize, relayed: usize) -> String {
    match (direct, relayed) {
        (0, 0) => "no session with any peer".to_owned(),
        (direct, 0) => format!("{}, all direct", count(direct, "session")),
        (direct, relayed) => {
            format!("{}: {direct} direct, {relayed} over a relay", count(direct + relayed, "session"))
        }
    }
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn private(udp: Nat, tcp: Nat, filtering: Filtering, reservations: usize) -> Report {
        Report {
            verdict: Verdict::Private,
            v4: FamilyReport { udp, tcp, filtering },
            reservations: (0..reservations).map(|n| format!("/ip4/192.0.2.{n}/tcp/1")).collect(),
            ..Report::default()
        }
    }

    fn public(relaying: bool, circuits: usize) -> Report {
        let at = "/ip4/203.0.113.5/udp/9000/quic-v1".to_owned();
        let addresses = vec![(at.clone(), AddressState::Reachable), (at, AddressState::Unreachable)];
        Report { verdict: Verdict::Public, addresses, relaying, circuits, ..Report::default() }
    }

    fn told(report: Report, direct: usize, relayed: usize) -> (String, bool) {
        let Diagnosis { lines, healthy } =
            diagnose(&Facts { overlay: true, report, direct, relayed, dht: None });
        (lines.join("\n"), healthy)
    }

    #[test]
    fn the_table_of_words_holds() {
        use Filtering::{AddressAndPort, AddressOrOpen, Open, Unknown};
        use Nat::{
            Blocked, EndpointIndependent, EndpointIndependentShifted, Random, Sequential, Untranslated,
        };
        let most = "direct connections work with most peers";
        let open = "direct connections work with peers that are open, others stay on a relay";
        for (report, expected) in [
            (
                private(EndpointIndependent, EndpointIndependent, AddressAndPort, 2),
                format!("behind a port-restricted NAT; {most}; 2 relay reservations"),
            ),
            (
                private(EndpointIndependentShifted, Nat::Unknown, AddressOrOpen, 1),
                format!("behind a full-cone or address-restricted NAT; {most}; 1 relay reservation"),
            ),
            (
                private(EndpointIndependent, EndpointIndependent, Open, 1),
                format!("behind a full-cone NAT; {most}; 1 relay reservation"),
            ),
            (
                private(EndpointIndependent, EndpointIndependent, Unknown, 1),
                format!("behind a cone NAT; {most}; 1 relay reservation"),
            ),
            (
                private(Untranslated, Untranslated, AddressAndPort, 1),
                format!("behind a firewall; {most}; 1 relay reservation"),
            ),
            (
                private(Random, Random, AddressAndPort, 1),
                format!("behind a symmetric NAT; {open}; 1 relay reservation"),
            ),
            (
                private(Sequential, Random, AddressAndPort, 1),
                format!("behind a symmetric NAT; {open}; 1 relay reservation"),
            ),
            (
                private(Nat::Unknown, Nat::Unknown, Unknown, 3),
                "behind a NAT or a firewall; 3 relay reservations".to_owned(),
            ),
            (
                private(Blocked, EndpointIndependent, AddressAndPort, 1),
                format!(
                    "behind a port-restricted NAT; {most}; 1 relay reservation\nUDP is blocked: sessions go over TCP"
                ),
            ),
            (
                public(true, 3),
                "public at /ip4/203.0.113.5/udp/9000/quic-v1; relaying for others: 3 circuits".to_owned(),
            ),
            (
                public(true, 1),
                "public at /ip4/203.0.113.5/udp/9000/quic-v1; relaying for others: 1 circuit".to_owned(),
            ),
            (
                public(false, 0),
                "public at /ip4/203.0.113.5/udp/9000/quic-v1; not relaying for others".to_owned(),
            ),
            (Report::default(), UNKNOWN.to_owned()),
        ] {
            let (text, healthy) = told(report.clone(), 1, 0);
            assert_eq!(text, format!("{expected}\n1 session, all direct"), "{report:?}");
            assert!(healthy, "{report:?}");
        }
    }

    #[test]
    fn what_needs_attention_is_not_healthy_and_says_what_to_do() {
        for report in [
            private(Nat::EndpointIndependent, Nat::EndpointIndependent, Filtering::AddressAndPort, 0),
            private(Nat::Unknown, Nat::Unknown, Filtering::Unknown, 0),
        ] {
            let (text, healthy) = told(report, 1, 0);
            assert!(
                !healthy && text.contains("no relay reservation: nobody outside can reach you"),
                "{text}"
            );
        }
        let (text, healthy) = told(Report::default(), 0, 0);
        assert!(!healthy && text.contains("hawsepipe connect"), "{text}");
    }

    #[test]
    fn the_dht_is_told_of_and_needs_attention_only_if_somebody_is_to_be_found() {
        use Tier::{Off, Pairwise, Public};
        let table = |nodes, networks, serving| DhtReport { nodes, networks, serving, ..DhtReport::default() };
        let friends =
            |sought, mutual, mutual_met| FriendCount { sought, mutual, mutual_met, ..FriendCount::default() };
        for (report, friends, tier, expected, is_healthy) in [
            (
                table(12, 9, true),
                friends(0, 0, 0),
                Pairwise,
                "DHT: 12 nodes in 9 networks, answering others",
                true,
            ),
            (
                table(1, 1, false),
                friends(2, 5, 3),
                Public,
                "DHT: 1 node in 1 network, asking only\nfound 3 of 5 mutual follows",
                true,
            ),
            (
                table(2, 1, false),
                friends(0, 1, 1),
                Pairwise,
                "DHT: 2 nodes in 1 network, asking only\nfound 1 of 1 mutual follow",
                true,
            ),
            (table(2, 1, false), friends(2, 1, 0), Off, "DHT: 2 nodes in 1 network, asking only", true),
            (table(0, 0, false), friends(1, 0, 0), Pairwise, NO_NODE, false),
            (table(0, 0, false), friends(0, 0, 0), Pairwise, NO_NODE, true),
            (table(0, 0, false), friends(1, 1, 0), Off, NO_NODE, true),
        ] {
            let dht = Some(DhtFacts { report, friends, tier });
            let facts = Facts { overlay: true, report: public(false, 0), dht, direct: 1, ..Facts::default() };
            let Diagnosis { lines, healthy } = diagnose(&facts);
            let told = lines[1..lines.len() - 1].join("\n");
            assert_eq!((told.as_str(), healthy), (expected, is_healthy), "{facts:?}");
        }
    }

    #[test]
    fn sessions_are_counted_by_how_they_go() {
        for (direct, relayed, expected) in [
            (0, 0, "no session with any peer"),
            (2, 0, "2 sessions, all direct"),
            (0, 1, "1 session: 0 direct, 1 over a relay"),
            (2, 1, "3 sessions: 2 direct, 1 over a relay"),
        ] {
            let (text, _) = told(public(false, 0), direct, relayed);
            assert!(text.ends_with(expected), "{text}");
        }
    }

    #[test]
    fn ipv6_speaks_where_ipv4_is_not_known_and_where_its_udp_works_nothing_is_blocked() {
        let v6 =
            FamilyReport { udp: Nat::Untranslated, tcp: Nat::Untranslated, filtering: Filtering::Unknown };
        let report = Report { v6, ..private(Nat::Unknown, Nat::Unknown, Filtering::Unknown, 1) };
        assert!(told(report, 1, 0).0.starts_with("behind a firewall"));
        let report = Report { v6, ..private(Nat::Blocked, Nat::Random, Filtering::Unknown, 1) };
        let (text, _) = told(report, 1, 0);
        assert!(text.starts_with("behind a symmetric NAT") && !text.contains("UDP is blocked"), "{text}");
    }

    #[test]
    fn without_the_overlay_there_is_nothing_to_complain_of() {
        let diagnosis = diagnose(&Facts { direct: 1, ..Facts::default() });
        assert!(diagnosis.healthy && diagnosis.lines[0].starts_with("the overlay is off"));
    }
}
