//! How others reach us, in words: labels for metrics, `status` for programs, [`doctor`] for people.

pub mod doctor;

use hawsepipe_overlay::reachability::{AddressState, FamilyReport, Filtering, Nat, Report, Verdict};
use hawsepipe_overlay::rendezvous::Tier;
use serde_json::{Value, json};

use doctor::DhtFacts;

/// The label of a verdict.
pub const fn verdict_label(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unknown => "unknown",
        Verdict::Public => "public",
        Verdict::Private => "private",
    }
}

/// Every verdict, for gauges.
pub const VERDICTS: [Verdict; 3] = [Verdict::Unknown, Verdict::Public, Verdict::Private];

/// The label of what a NAT does to addresses.
pub const fn nat_label(nat: Nat) -> &'static str {
    match nat {
        Nat::Unknown => "unknown",
        Nat::Blocked => "blocked",
        Nat::Untranslated => "untranslated",
        Nat::EndpointIndependent => "endpoint_independent",
        Nat::EndpointIndependentShifted => "endpoint_independent_shifted",
        Nat::Sequential => "sequential",
        Nat::Random => "random",
    }
}

/// Every kind of NAT, for gauges.
pub const NATS: [Nat; 7] = [
    Nat::Unknown,
    Nat::Blocked,
    Nat::Untranslated,
    Nat::EndpointIndependent,
    Nat::EndpointIndependentShifted,
    Nat::Sequential,
    Nat::Random,
];

/// The label of who gets through.
pub const fn filtering_label(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::Unknown => "unknown",
        Filtering::Open => "open",
        Filtering::AddressOrOpen => "address_or_open",
        Filtering::AddressAndPort => "address_and_port",
    }
}

const fn state_label(state: AddressState) -> &'static str {
    match state {
        AddressState::Candidate => "candidate",
        AddressState::Reachable => "reachable",
        AddressState::Unreachable => "unreachable",
    }
}

/// What a report knows of NATs, by family and transport.
pub fn nats(report: &Report) -> [(&'static str, &'static str, Nat); 4] {
    let Report { v4, v6, .. } = report;
    [("v4", "udp", v4.udp), ("v4", "tcp", v4.tcp), ("v6", "udp", v6.udp), ("v6", "tcp", v6.tcp)]
}

/// The label of who can find us in the DHT.
const fn tier_label(tier: Tier) -> &'static str {
    match tier {
        Tier::Pairwise => "pairwise",
        Tier::Public => "public",
        Tier::Off => "off",
    }
}

/// The DHT as `status` gives it; `null` if this node takes no part in it.
pub fn dht_to_json(dht: Option<&DhtFacts>) -> Value {
    dht.map_or(Value::Null, |DhtFacts { report, friends, tier }| {
        json!({
            "nodes": report.nodes,
            "networks": report.networks,
            "serving": report.serving,
            "healthy": report.healthy,
            "records": report.records,
            "rendezvous": tier_label(*tier),
            "friends": {
                "sought": friends.sought,
                "found": friends.found,
                "connected": friends.connected,
            },
        })
    })
}

/// A report as `status` gives it.
pub fn to_json(report: &Report) -> Value {
    let family = |family: &FamilyReport| {
        json!({
            "udp": nat_label(family.udp),
            "tcp": nat_label(family.tcp),
            "filtering": filtering_label(family.filtering),
        })
    };
    let addresses = report.addresses.iter();
    let addresses = addresses.map(|(at, state)| json!({ "address": at, "state": state_label(*state) }));
    json!({
        "verdict": verdict_label(report.verdict),
        "v4": family(&report.v4),
        "v6": family(&report.v6),
        "addresses": addresses.collect::<Vec<_>>(),
        "reservations": report.reservations,
        "relaying": report.relaying,
        "circuits": report.circuits,
    })
}
