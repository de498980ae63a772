//! The section `overlay`: the libp2p swarm, relays and the DHT.

use std::net::{Ipv4Addr, Ipv6Addr};

use hawsepipe_overlay::conn::TransportId;
use hawsepipe_overlay::relay::RelayService;
use hawsepipe_overlay::rendezvous::Tier;
use hawsepipe_overlay::swarm::DhtService;

use super::fields::Fields;

/// The libp2p swarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayConfig {
    /// Where it listens.
    pub listen: OverlayListen,
    /// Whether we relay for others.
    pub relay: RelayService,
    /// Relays to use, as multiaddrs that end in `/p2p/ID`.
    pub relays: Vec<String>,
    /// Whether relayed sessions are moved to direct connections.
    pub direct: bool,
    /// Whether sessions move from connection to connection without being interrupted.
    pub carrier: bool,
    /// Whether we take part in the DHT.
    pub dht: DhtService,
    /// Nodes of the DHT to begin with, as multiaddrs that end in `/p2p/ID`.
    pub bootstrap: Vec<String>,
    /// Who can find us in the DHT.
    pub rendezvous: Tier,
    /// Whether pubs of the log are asked for the DHT when nobody else is known.
    pub pubs: bool,
}

/// Where the libp2p swarm listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OverlayListen {
    /// QUIC and TCP on a port derived from the node key, on all interfaces.
    #[default]
    Default,
    /// These multiaddrs.
    At(Vec<String>),
}

impl Default for OverlayConfig {
    fn default() -> Self {
        Self {
            listen: OverlayListen::Default,
            relay: RelayService::Auto,
            relays: Vec::new(),
            direct: true,
            carrier: true,
            dht: DhtService::Auto,
            bootstrap: Vec::new(),
            rendezvous: Tier::Pairwise,
            pubs: true,
        }
    }
}

impl OverlayConfig {
    /// Whether friends are looked for in the DHT.
    pub fn seeks_friends(&self) -> bool {
        self.dht != DhtService::Off && self.rendezvous != Tier::Off
    }
}

const KEYS: &[&str] =
    &["enabled", "listen", "relay", "relays", "direct", "carrier", "dht", "bootstrap", "rendezvous", "pubs"];

/// Reads the section; `None` if the overlay is off.
pub(super) fn read(root: &mut Fields<'_>) -> Option<OverlayConfig> {
    let mut overlay = root.section("overlay");
    overlay.known(KEYS);
    let enabled = overlay.bool("enabled").unwrap_or(true);
    let what = "a multiaddr such as /ip4/0.0.0.0/udp/0/quic-v1 or /ip4/0.0.0.0/tcp/0";
    let listen =
        overlay.list("listen", what, |v| v.as_str().filter(|text| is_listenable(text)).map(str::to_owned));
    let relay = overlay.parsed("relay", "\"auto\", true or false", |v| match (v.as_str(), v.as_bool()) {
        (Some("auto"), _) => Some(RelayService::Auto),
        (_, Some(true)) => Some(RelayService::Always),
        (_, Some(false)) => Some(RelayService::Never),
        _ => None,
    });
    let default = OverlayConfig::default();
    let read = OverlayConfig {
        listen: listen.map_or(default.listen, OverlayListen::At),
        relay: relay.unwrap_or(default.relay),
        relays: read_nodes(&mut overlay, "relays", "a relay's multiaddr").unwrap_or(default.relays),
        direct: overlay.bool("direct").unwrap_or(default.direct),
        carrier: overlay.bool("carrier").unwrap_or(default.carrier),
        dht: read_dht(&mut overlay).unwrap_or(default.dht),
        bootstrap: read_nodes(&mut overlay, "bootstrap", "a multiaddr").unwrap_or(default.bootstrap),
        rendezvous: read_rendezvous(&mut overlay).unwrap_or(default.rendezvous),
        pubs: overlay.bool("pubs").unwrap_or(default.pubs),
    };
    enabled.then_some(read)
}

fn read_nodes(overlay: &mut Fields<'_>, key: &str, what: &str) -> Option<Vec<String>> {
    let what = format!("{what} with its id, such as /ip4/192.0.2.1/udp/9000/quic-v1/p2p/12D3Koo…");
    overlay.list(key, &what, |v| v.as_str().filter(|text| is_node(text)).map(str::to_owned))
}

fn read_dht(overlay: &mut Fields<'_>) -> Option<DhtService> {
    let what = "\"auto\", \"server\", \"client\" or false";
    overlay.parsed("dht", what, |v| match (v.as_str(), v.as_bool()) {
        (Some("auto"), _) => Some(DhtService::Auto),
        (Some("server"), _) => Some(DhtService::Always),
        (Some("client"), _) => Some(DhtService::Client),
        (_, Some(false)) => Some(DhtService::Off),
        _ => None,
    })
}

fn read_rendezvous(overlay: &mut Fields<'_>) -> Option<Tier> {
    let what = "\"pairwise\", \"public\" or \"off\"";
    overlay.parsed("rendezvous", what, |v| match (v.as_str(), v.as_bool()) {
        (Some("pairwise"), _) => Some(Tier::Pairwise),
        (Some("public"), _) => Some(Tier::Public),
        (Some("off"), _) | (_, Some(false)) => Some(Tier::Off),
        _ => None,
    })
}

/// Whether this names a node and where to dial it: one of our transports at a host and port, and a peer id.
fn is_node(text: &str) -> bool {
    let Some((at, id)) = text.rsplit_once("/p2p/") else { return false };
    let parts: Vec<_> = at.split('/').collect();
    let (kind, host, port) = match parts.as_slice() {
        ["", kind, host, "udp", port, "quic-v1"] | ["", kind, host, "tcp", port] => (*kind, *host, *port),
        _ => return false,
    };
    let is_host = is_ip(kind, host) || (matches!(kind, "dns" | "dns4" | "dns6") && !host.is_empty());
    is_host && port.parse::<u16>().is_ok_and(|port| port != 0) && TransportId::parse(id).is_some()
}

fn is_ip(kind: &str, ip: &str) -> bool {
    match kind {
        "ip4" => ip.parse::<Ipv4Addr>().is_ok(),
        "ip6" => ip.parse::<Ipv6Addr>().is_ok(),
        _ => false,
    }
}

/// Whether the swarm has a transport for this multiaddr.
fn is_listenable(text: &str) -> bool {
    let parts: Vec<_> = text.split('/').collect();
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    match parts.as_slice() {
        ["", kind, ip, "udp", port, "quic-v1"] | ["", kind, ip, "tcp", port] => {
            is_ip(kind, ip) && is_port(port)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Fault;

    fn read(overlay: &Value) -> Result<OverlayConfig, Vec<Fault>> {
        let mut faults = Vec::new();
        let raw = json!({ "overlay": overlay });
        let read = super::read(&mut Fields::root(&raw, &mut faults));
        if faults.is_empty() { Ok(read.unwrap()) } else { Err(faults) }
    }

    #[test]
    fn nodes_are_multiaddrs_with_an_id_and_all_wrong_ones_are_reported() {
        const ID: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        let good = ["/ip4/192.0.2.1/udp/9000/quic-v1", "/ip6/2001:db8::1/tcp/9000", "/dns/pub.example/tcp/1"];
        let good = good.map(|at| format!("{at}/p2p/{ID}"));
        let overlay = read(&json!({"relays": good, "bootstrap": good, "relay": true})).unwrap();
        assert_eq!((overlay.relays.as_slice(), overlay.relay), (good.as_slice(), RelayService::Always));
        assert_eq!(overlay.bootstrap, good);
        let bad = [
            "/ip4/192.0.2.1/udp/9000/quic-v1".to_owned(),
            format!("/ip4/192.0.2.1/udp/9000/p2p/{ID}"),
            format!("/ip4/192.0.2.1/tcp/0/p2p/{ID}"),
            format!("/ip4/192.0.2.256/tcp/1/p2p/{ID}"),
            "/ip4/192.0.2.1/tcp/1/p2p/".to_owned(),
        ];
        let wrong = json!({"relays": bad, "bootstrap": bad, "relay": "yes", "direct": 1, "carrier": 1});
        assert_eq!(read(&wrong).unwrap_err().len(), 2 * bad.len() + 3);
    }

    #[test]
    fn the_dht_and_who_finds_us_there_have_names() {
        for (raw, dht) in [
            (json!("auto"), DhtService::Auto),
            (json!("server"), DhtService::Always),
            (json!("client"), DhtService::Client),
            (json!(false), DhtService::Off),
        ] {
            assert_eq!(read(&json!({ "dht": raw })).unwrap().dht, dht);
        }
        for (raw, tier) in [
            (json!("pairwise"), Tier::Pairwise),
            (json!("public"), Tier::Public),
            (json!("off"), Tier::Off),
            (json!(false), Tier::Off),
        ] {
            assert_eq!(read(&json!({ "rendezvous": raw })).unwrap().rendezvous, tier);
        }
        let wrong = json!({"dht": true, "rendezvous": "everybody", "pubs": "yes"});
        let faults = read(&wrong).unwrap_err();
        let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(keys, ["overlay.dht", "overlay.rendezvous", "overlay.pubs"]);
    }

    #[test]
    fn friends_are_sought_unless_either_half_is_off() {
        for (raw, seeks) in [
            (json!({}), true),
            (json!({"dht": "client", "rendezvous": "public"}), true),
            (json!({"dht": false}), false),
            (json!({"rendezvous": false}), false),
        ] {
            assert_eq!(read(&raw).unwrap().seeks_friends(), seeks, "{raw}");
        }
    }
}
