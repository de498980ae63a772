//! Configuration: what was *typed* (files, environment, flags, merged as JSON by [`layers`]) becomes what
//! it *means* ([`Config`]), and every fault in it is reported at once.
//!
//! Keys are those of JS's ssb-config, so that an existing `~/.ssb/config` works as it is, plus our own
//! sections `overlay`, `metrics` and `lan`. An unknown key in our own sections is a fault (a misspelt
//! option must not be silently without effect); elsewhere it belongs to some plugin and is left alone.

mod access;
mod blobs;
mod conn;
mod fields;
mod ini;
pub mod layers;
mod overlay;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hawsepipe_overlay::address::Address;
use hawsepipe_overlay::keys::{NetworkKey, PublicKey};
use hawsepipe_replication::graph::Blocks;
use hawsepipe_replication::message::HmacKey;
use serde_json::Value;

pub use access::{AccessConfig, Policy};
pub use blobs::{AutoConfig, BlobsConfig, DEFAULT_BLOBS_HTTP, HttpConfig};
pub use conn::ConnConfig;
use fields::Fields;
pub use overlay::{OverlayConfig, OverlayListen};

use crate::telemetry;

/// Where the SSB network listens by convention.
pub const DEFAULT_PORT: u16 = 8008;
/// Where metrics are served unless the configuration says otherwise.
pub const DEFAULT_METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8990);
/// The UDP port of encrypted LAN beacons (ssb-lan).
pub const DEFAULT_ENCRYPTED_BEACON_PORT: u16 = 26830;
/// How far from us feeds are replicated unless the configuration says otherwise (ssb-config).
pub const DEFAULT_HOPS: u32 = 2;
/// A peer that says nothing for this long during the handshake is dropped.
const DEFAULT_HANDSHAKE: Duration = Duration::from_secs(15);
/// A session without a byte either way for this long is closed (secret-stack).
const DEFAULT_INACTIVITY: Duration = Duration::from_secs(600);

/// Longest time that can be configured, about 25 days: as far as JS's timers go.
const MAX_MILLIS: f64 = i32::MAX as f64;

/// What the configuration means.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data folder.
    pub path: PathBuf,
    /// `caps.shs`.
    pub network: NetworkKey,
    /// `caps.sign`.
    pub hmac: Option<HmacKey>,
    /// Classic TCP listeners.
    pub net: NetListen,
    /// Whether to serve local clients on `socket`.
    pub unix: bool,
    /// `friends.hops`.
    pub hops: u32,
    /// `friends.blocksSpread`: whether those whom friends block are kept away, too.
    pub blocks: Blocks,
    /// `timers.handshake`, or `timeout`.
    pub handshake_timeout: Duration,
    /// `timers.inactivity`; `None` is never.
    pub inactivity: Option<Duration>,
    /// Discovery on the local network.
    pub lan: Lan,
    /// The libp2p swarm; `None` is off.
    pub overlay: Option<OverlayConfig>,
    /// Blobs.
    pub blobs: BlobsConfig,
    /// Who may connect.
    pub access: AccessConfig,
    /// Where metrics are served; `None` is nowhere.
    pub metrics: Option<SocketAddr>,
    /// Keys with full rights beside our own.
    pub master: BTreeSet<PublicKey>,
    /// Peers to connect to from the start.
    pub seeds: Vec<Address>,
    /// Whom the scheduler dials by itself, and how many.
    pub conn: ConnConfig,
    /// `forkGuard.dangerPublishAnyway`: whether to publish even if our feed may be longer elsewhere.
    pub publish_anyway: bool,
    /// Log filter, e.g. `info` or `hawsepipe=debug`.
    pub log_filter: String,
    /// Whether log lines are JSON objects.
    pub log_json: bool,
}

/// Where classic TCP sessions are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetListen {
    /// The sockets.
    pub addresses: Vec<SocketAddr>,
    /// Whether someone asked for exactly these: then each must work.
    pub explicit: bool,
}

/// Discovery on the local network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lan {
    /// Whether others on the network may learn that we are here.
    pub announce: bool,
    /// Multicast DNS for the libp2p swarm.
    pub mdns: bool,
    /// UDP port of plain beacons.
    pub beacon: Option<u16>,
    /// UDP port of encrypted beacons.
    pub encrypted: Option<u16>,
}

/// One thing wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The dotted key, e.g. `lan.beaconPort`.
    pub key: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

/// Everything wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} fault(s) in the configuration:", self.0.len())?;
        for fault in &self.0 {
            write!(f, "\n  {}: {}", fault.key, fault.what)?;
        }
        Ok(())
    }
}

impl Config {
    /// Reads the merged configuration `raw` for the data folder `path`; reports all faults at once.
    pub fn from_value(path: PathBuf, raw: &Value) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let mut root = Fields::root(raw, &mut faults);
        let local = root.bool("local").unwrap_or(true);
        let config = Self {
            path,
            network: read_network(&mut root),
            hmac: read_hmac(&mut root),
            net: read_net(&mut root),
            unix: read_unix(&mut root),
            hops: read_hops(&mut root),
            blocks: read_blocks(&mut root),
            handshake_timeout: read_handshake(&mut root),
            inactivity: read_inactivity(&mut root),
            lan: read_lan(&mut root, local),
            overlay: overlay::read(&mut root),
            blobs: blobs::read(&mut root),
            access: access::read(&mut root),
            metrics: read_metrics(&mut root),
            master: root
                .list("master", "a feed id", |v| v.as_str()?.parse().ok())
                .into_iter()
                .flatten()
                .collect(),
            seeds: read_seeds(&mut root),
            conn: conn::read(&mut root),
            publish_anyway: read_publish_anyway(&mut root),
            log_filter: read_log_filter(&mut root),
            log_json: read_log_format(&mut root),
        };
        if faults.is_empty() { Ok(config) } else { Err(Faults::each_once(faults)) }
    }
}

impl Faults {
    /// A section that is read in several places is wrong only once.
    fn each_once(all: Vec<Fault>) -> Self {
        let mut faults = Vec::with_capacity(all.len());
        for fault in all {
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
        Self(faults)
    }
}

fn read_network(root: &mut Fields<'_>) -> NetworkKey {
    let key = root
        .section("caps")
        .parsed("shs", "32 bytes in base64", |v| NetworkKey::from_base64(v.as_str()?).ok());
    key.unwrap_or(NetworkKey::MAIN)
}

fn read_hmac(root: &mut Fields<'_>) -> Option<HmacKey> {
    let mut caps = root.section("caps");
    caps.parsed("sign", "32 bytes in canonical base64", |v| HmacKey::from_json(v).ok().flatten())
}

fn read_net(root: &mut Fields<'_>) -> NetListen {
    let port = root.u16("port");
    let host = read_host(root);
    let mut incoming = root.section("connections").into_section("incoming");
    let listed = incoming.list("net", &incoming_entry("net", DEFAULT_PORT), |v| incoming_at(v, DEFAULT_PORT));
    if let Some(listed) = listed {
        return NetListen { addresses: listed.into_iter().flatten().collect(), explicit: true };
    }
    let port = port.unwrap_or(DEFAULT_PORT);
    match host {
        Some(host) => NetListen { addresses: everywhere(host, port), explicit: true },
        None => NetListen { addresses: everywhere(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port), explicit: false },
    }
}

/// `host`; JS takes an empty one for all interfaces.
fn read_host(root: &mut Fields<'_>) -> Option<IpAddr> {
    let host = root.parsed("host", "an IP address or localhost", |v| match v.as_str()? {
        "" => Some(None),
        "localhost" => Some(Some(Ipv4Addr::LOCALHOST.into())),
        address => address.parse().ok().map(Some),
    });
    host.flatten()
}

/// What an entry of `connections.incoming` is to be, for people.
fn incoming_entry(transport: &str, port: u16) -> String {
    format!(
        "for {transport} an object with host and port, e.g. {{\"host\":\"0.0.0.0\",\"port\":{port}}}, and no transform but shs"
    )
}

/// Where an entry of `connections.incoming` listens.
fn incoming_at(entry: &Value, default_port: u16) -> Option<Vec<SocketAddr>> {
    let host = entry.get("host").map_or(Some("::"), Value::as_str)?;
    let port = entry.get("port").map_or(Some(default_port.into()), Value::as_u64)?;
    let transform = entry.get("transform").map_or(Some("shs"), Value::as_str)?;
    (transform == "shs").then_some(())?;
    let host = if host == "localhost" { "127.0.0.1" } else { host };
    Some(everywhere(host.parse().ok()?, u16::try_from(port).ok()?))
}

/// One socket, but for `::` two: to JS it means both families.
fn everywhere(host: IpAddr, port: u16) -> Vec<SocketAddr> {
    let both = host == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    match (both, port) {
        // With port 0 the two families would get different ports.
        (true, 0) => vec![v4],
        (true, _) => vec![v4, SocketAddr::new(host, port)],
        (false, _) => vec![SocketAddr::new(host, port)],
    }
}

fn read_unix(root: &mut Fields<'_>) -> bool {
    let mut incoming = root.section("connections").into_section("incoming");
    // JS writes a list of entries; an empty list or `false` turns the socket off.
    let on = incoming.parsed("unix", "a list or false", |v| {
        v.as_array().map(|list| !list.is_empty()).or_else(|| v.as_bool())
    });
    on.unwrap_or(true)
}

fn read_hops(root: &mut Fields<'_>) -> u32 {
    let hops = root
        .section("friends")
        .parsed("hops", "a whole number from 0 to 10", |v| v.as_u64().filter(|n| *n <= 10).map(|n| n as u32));
    hops.unwrap_or(DEFAULT_HOPS)
}

fn read_blocks(root: &mut Fields<'_>) -> Blocks {
    match root.section("friends").bool("blocksSpread") {
        Some(true) | None => Blocks::All,
        Some(false) => Blocks::OfStart,
    }
}

/// A duration in milliseconds, as JS configures them.
fn millis(v: &Value) -> Option<Duration> {
    v.as_f64().filter(|ms| (0.0..=MAX_MILLIS).contains(ms)).map(|ms| Duration::from_secs_f64(ms / 1000.0))
}

fn read_handshake(root: &mut Fields<'_>) -> Duration {
    const WHAT: &str = "milliseconds, at most 2147483647";
    let overall = root.parsed("timeout", WHAT, millis).filter(|t| !t.is_zero());
    let own = root.section("timers").parsed("handshake", WHAT, millis).filter(|t| !t.is_zero());
    overall.or(own).unwrap_or(DEFAULT_HANDSHAKE)
}

fn read_inactivity(root: &mut Fields<'_>) -> Option<Duration> {
    // JS programs write -1 for "never".
    let typed = root.section("timers").parsed(
        "inactivity",
        "milliseconds, at most 2147483647, or -1 for never",
        |v| {
            if v.as_f64()? <= 0.0 { Some(None) } else { millis(v).map(Some) }
        },
    );
    typed.unwrap_or(Some(DEFAULT_INACTIVITY))
}

fn read_lan(root: &mut Fields<'_>, local: bool) -> Lan {
    let mut lan = root.section("lan");
    lan.known(&["announce", "mdns", "beacon", "beaconPort", "encrypted", "encryptedPort", "legacy"]);
    // `lan.legacy` is ssb-lan's name for the plain beacon.
    let legacy = lan.bool("legacy");
    let plain = lan.bool("beacon").or(legacy).unwrap_or(true);
    let plain_port = lan.u16("beaconPort").unwrap_or(DEFAULT_PORT);
    let encrypted = lan.bool("encrypted").unwrap_or(true);
    let encrypted_port = lan.u16("encryptedPort").unwrap_or(DEFAULT_ENCRYPTED_BEACON_PORT);
    Lan {
        announce: lan.bool("announce").unwrap_or(true) && local,
        mdns: lan.bool("mdns").unwrap_or(true) && local,
        beacon: (plain && local).then_some(plain_port),
        encrypted: (encrypted && local).then_some(encrypted_port),
    }
}

fn read_metrics(root: &mut Fields<'_>) -> Option<SocketAddr> {
    let mut metrics = root.section("metrics");
    metrics.known(&["listen", "public"]);
    let is_public = metrics.bool("public").unwrap_or(false);
    let typed =
        metrics.parsed("listen", "an address such as \"127.0.0.1:8990\", or false", |v| match v.as_bool() {
            Some(false) => Some(None),
            Some(true) => Some(Some(DEFAULT_METRICS)),
            None => v.as_str()?.parse().ok().map(Some),
        });
    let address = typed.unwrap_or(Some(DEFAULT_METRICS));
    if address.is_some_and(|address: SocketAddr| !address.ip().is_loopback()) && !is_public {
        let what =
            "others could read what this node does: listen on 127.0.0.1, or set metrics.public to true";
        metrics.fault("listen", what);
    }
    address
}

fn read_seeds(root: &mut Fields<'_>) -> Vec<Address> {
    let what = "an address with a key, e.g. net:192.0.2.1:8008~shs:KEY";
    let seeds = root.list("seeds", what, |v| v.as_str()?.parse::<Address>().ok().filter(|a| a.key.is_some()));
    seeds.unwrap_or_default()
}

fn read_publish_anyway(root: &mut Fields<'_>) -> bool {
    let mut guard = root.section("forkGuard");
    guard.known(&["dangerPublishAnyway"]);
    guard.bool("dangerPublishAnyway").unwrap_or(false)
}

fn read_log_filter(root: &mut Fields<'_>) -> String {
    let what = "error, warning, notice, info, debug or a tracing filter";
    let level = root.section("logging").parsed("level", what, |v| telemetry::filter(v.as_str()?));
    level.unwrap_or_else(|| telemetry::NOTICE.to_owned())
}

fn read_log_format(root: &mut Fields<'_>) -> bool {
    let what = "\"text\" or \"json\"";
    let format = root.section("logging").parsed("format", what, |v| match v.as_str()? {
        "text" => Some(false),
        "json" => Some(true),
        _ => None,
    });
    format.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(raw: &Value) -> Result<Config, Faults> {
        Config::from_value(PathBuf::from("/data"), raw)
    }

    #[test]
    fn an_empty_configuration_means_the_defaults() {
        let config = read(&json!({})).unwrap();
        assert_eq!(config.network, NetworkKey::MAIN);
        assert_eq!(config.net.addresses.len(), 2);
        assert_eq!((config.hops, config.blocks), (2, Blocks::All));
        assert_eq!(config.metrics, Some(DEFAULT_METRICS));
        assert_eq!(
            config.lan,
            Lan { announce: true, mdns: true, beacon: Some(8008), encrypted: Some(26830) }
        );
        assert_eq!(config.overlay, Some(OverlayConfig::default()));
    }

    #[test]
    fn what_js_writes_is_understood() {
        let config = read(&json!({
            "connections": {
                "incoming": {
                    "net": [{"scope": ["private"], "host": "127.0.0.1", "port": 9000, "transform": "shs"}],
                    "unix": [{"scope": "device", "transform": "noauth"}]
                },
                "outgoing": {"net": [{"transform": "shs"}]}
            },
            "timers": {"handshake": 5000, "inactivity": -1},
            "friends": {"hops": 3, "blocksSpread": false, "dunbar": 150},
            "logging": {"level": "notice"},
            "blobs": {"sympathy": 3}
        }))
        .unwrap();
        assert_eq!(config.net.addresses, ["127.0.0.1:9000".parse().unwrap()]);
        assert_eq!(config.handshake_timeout, Duration::from_secs(5));
        assert_eq!(config.inactivity, None);
        assert_eq!((config.hops, config.blocks), (3, Blocks::OfStart));
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let faults = read(&json!({
            "port": "many", "caps": {"shs": "x"}, "lan": {"mnds": true}, "overlay": {"listen": ["udp:1"]},
            "metrics": {"listen": 5}, "friends": {"hops": -1}, "seeds": ["nowhere"], "conn": 7
        }))
        .unwrap_err();
        let keys: Vec<_> = faults.0.iter().map(|f| f.key.as_str()).collect();
        for key in [
            "port",
            "caps.shs",
            "lan.mnds",
            "overlay.listen[0]",
            "metrics.listen",
            "friends.hops",
            "seeds[0]",
        ] {
            assert!(keys.contains(&key), "{key} is missing in {keys:?}");
        }
        assert!(keys.contains(&"conn"));
    }

    #[test]
    fn a_section_that_is_no_object_is_reported_once() {
        let faults = read(&json!({"caps": 7, "connections": {"incoming": 5}, "timers": []})).unwrap_err();
        let keys: Vec<_> = faults.0.iter().map(|f| f.key.as_str()).collect();
        assert_eq!(keys, ["caps", "connections.incoming", "timers"]);
    }

    #[test]
    fn times_beyond_all_clocks_are_faults() {
        for ms in [json!(1e300), json!(2_147_483_648_u64), json!("5")] {
            let raw = json!({"timeout": ms, "timers": {"handshake": ms, "inactivity": ms}});
            assert_eq!(read(&raw).unwrap_err().0.len(), 3, "{ms}");
        }
        assert!(read(&json!({"timers": {"inactivity": 2_147_483_647}})).is_ok());
    }

    #[test]
    fn a_host_is_an_address_or_localhost_or_all_interfaces() {
        let net = |host| read(&json!({"host": host, "port": 1})).map(|config| config.net);
        assert_eq!(net("localhost").unwrap().addresses, ["127.0.0.1:1".parse().unwrap()]);
        assert_eq!(net("::1").unwrap().addresses, ["[::1]:1".parse().unwrap()]);
        assert_eq!(net("").unwrap(), read(&json!({"port": 1})).unwrap().net);
        assert!(net("example.org").is_err());
    }

    #[test]
    fn the_example_shows_the_defaults() {
        let mut text = include_str!("../../deploy/config.example").to_owned();
        json_strip_comments::strip(&mut text).unwrap();
        let raw: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(format!("{:?}", read(&raw).unwrap()), format!("{:?}", read(&json!({})).unwrap()));
    }

    #[test]
    fn local_false_turns_the_whole_lan_off() {
        let config = read(&json!({"local": false})).unwrap();
        assert_eq!(config.lan, Lan { announce: false, mdns: false, beacon: None, encrypted: None });
    }
}
