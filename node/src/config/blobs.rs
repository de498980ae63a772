//! The section `blobs`: the keys of ssb-blobs, and how much this node keeps, fetches by itself and serves by HTTP.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hawsepipe_replication::blobs::DEFAULT_MAX;

use super::fields::Fields;
use super::{everywhere, incoming_at, incoming_entry, read_host};

/// Where blobs are served by HTTP unless the configuration says otherwise: the port of ssb-ws.
pub const DEFAULT_BLOBS_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8989);
/// A day.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What the section means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobsConfig {
    /// How far away somebody may be who wants a blob that is wanted here for that reason alone.
    pub sympathy: u32,
    /// Whether wants of others are ignored, unless this node pushes the blob.
    pub stingy: bool,
    /// A blob is pushed until so many peers have it.
    pub pushy: usize,
    /// Whether peers without `createWants` are asked, and answered, in the older way.
    pub legacy: bool,
    /// Only smaller blobs are taken, in bytes.
    pub max: u64,
    /// Bytes that blobs may take in all, but for those that must stay; `None` is any number.
    pub quota: Option<u64>,
    /// Which blobs are wanted because messages link to them; `None` is none.
    pub auto: Option<AutoConfig>,
    /// Where blobs and messages are served by HTTP and WebSockets are taken; `None` is nowhere.
    pub http: Option<HttpConfig>,
}

/// Which blobs are wanted because messages link to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoConfig {
    /// The author is at most so far away.
    pub hops: u32,
    /// Only smaller blobs, in bytes.
    pub max: u64,
    /// The message is not older; pictures of people may be.
    pub age: Duration,
}

/// Where blobs and messages are served by HTTP and WebSockets are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// The sockets.
    pub addresses: Vec<SocketAddr>,
    /// Whether someone asked for it: then it must work.
    pub explicit: bool,
    /// Whether pages of other origins may read them.
    pub cors: bool,
}

impl Default for BlobsConfig {
    fn default() -> Self {
        Self {
            sympathy: 3,
            stingy: false,
            pushy: 3,
            legacy: true,
            max: DEFAULT_MAX,
            quota: None,
            auto: Some(AutoConfig::default()),
            http: Some(HttpConfig { addresses: vec![DEFAULT_BLOBS_HTTP], explicit: false, cors: false }),
        }
    }
}

impl Default for AutoConfig {
    fn default() -> Self {
        Self { hops: 1, max: DEFAULT_MAX, age: 30 * DAY }
    }
}

pub(super) fn read(root: &mut Fields<'_>) -> BlobsConfig {
    const BYTES: &str = "a number of bytes";
    let of_js = read_ws(root);
    let mut blobs = root.section("blobs");
    let default = BlobsConfig::default();
    let max = blobs.parsed("max", BYTES, serde_json::Value::as_u64).filter(|max| *max > 0);
    let max = max.unwrap_or(default.max);
    BlobsConfig {
        sympathy: blobs
            .parsed("sympathy", "a number of hops", |v| u32::try_from(v.as_u64()?).ok())
            .unwrap_or(3),
        stingy: blobs.bool("stingy").unwrap_or(default.stingy),
        pushy: blobs
            .parsed("pushy", "a number of peers", |v| usize::try_from(v.as_u64()?).ok())
            .filter(|pushy| *pushy > 0)
            .unwrap_or(default.pushy),
        legacy: blobs.bool("legacy").unwrap_or(default.legacy),
        max,
        quota: blobs.parsed("quota", BYTES, serde_json::Value::as_u64),
        http: read_http(&mut blobs, of_js),
        auto: read_auto(&mut blobs, max),
    }
}

/// Where ssb-config has `ws:`. Without a host the port alone opens nothing to the network.
fn read_ws(root: &mut Fields<'_>) -> Option<Vec<SocketAddr>> {
    let mut incoming = root.section("connections").into_section("incoming");
    let listed = incoming.list("ws", &incoming_entry("ws", DEFAULT_BLOBS_HTTP.port()), |entry| {
        incoming_at(entry, DEFAULT_BLOBS_HTTP.port())
    });
    if let Some(listed) = listed {
        return Some(listed.into_iter().flatten().collect());
    }
    let port = root.section("ws").u16("port")?;
    Some(match read_host(root) {
        Some(host) => everywhere(host, port),
        None => vec![SocketAddr::new(DEFAULT_BLOBS_HTTP.ip(), port)],
    })
}

fn read_http(blobs: &mut Fields<'_>, of_js: Option<Vec<SocketAddr>>) -> Option<HttpConfig> {
    let what = "an address such as \"127.0.0.1:8989\", or false";
    let typed = blobs.parsed("http", what, |v| match v.as_bool() {
        Some(false) => Some(None),
        Some(true) => Some(Some(vec![DEFAULT_BLOBS_HTTP])),
        None => v.as_str()?.parse().ok().map(|at| Some(vec![at])),
    });
    let cors = blobs.bool("cors").unwrap_or(false);
    let explicit = typed.is_some() || of_js.is_some();
    let of_js = of_js.unwrap_or_else(|| vec![DEFAULT_BLOBS_HTTP]);
    let addresses = typed.unwrap_or(Some(of_js)).filter(|addresses| !addresses.is_empty())?;
    Some(HttpConfig { addresses, explicit, cors })
}

fn read_auto(blobs: &mut Fields<'_>, most: u64) -> Option<AutoConfig> {
    if blobs.is_false("auto") {
        return None;
    }
    let mut auto = blobs.section("auto");
    auto.known(&["hops", "max", "days"]);
    let default = AutoConfig::default();
    let hops = auto.parsed("hops", "a whole number from 0 to 10", |v| {
        v.as_u64().filter(|n| *n <= 10).and_then(|n| u32::try_from(n).ok())
    });
    let max = auto.parsed("max", "a number of bytes", serde_json::Value::as_u64);
    let days = auto.parsed("days", "a number of days", |v| u32::try_from(v.as_u64()?).ok());
    Some(AutoConfig {
        hops: hops.unwrap_or(default.hops),
        max: max.unwrap_or(most),
        age: days.map_or(default.age, |days| days * DAY),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Fault;

    fn read(raw: &Value) -> Result<BlobsConfig, Vec<Fault>> {
        let mut faults = Vec::new();
        let read = super::read(&mut Fields::root(raw, &mut faults));
        if faults.is_empty() { Ok(read) } else { Err(faults) }
    }

    #[test]
    fn what_is_not_said_is_the_default() {
        assert_eq!(read(&json!({})), Ok(BlobsConfig::default()));
        let js = json!({"blobs": {"stingy": true, "sympathy": 1, "pushy": 5, "legacy": false, "max": 1000}});
        let read = read(&js).unwrap();
        assert_eq!(
            (read.stingy, read.sympathy, read.pushy, read.legacy, read.max),
            (true, 1, 5, false, 1000)
        );
        assert_eq!(read.auto.unwrap().max, 1000, "no more is fetched by itself than at all");
    }

    #[test]
    fn http_is_where_js_has_it_or_where_it_is_wanted() {
        let at = |raw: Value| {
            let http = read(&raw).unwrap().http?;
            let addresses: Vec<_> = http.addresses.iter().map(SocketAddr::to_string).collect();
            Some((addresses.join(" "), http.explicit))
        };
        let found = |text: &str, explicit| Some((text.to_owned(), explicit));
        assert_eq!(at(json!({})), found("127.0.0.1:8989", false));
        assert_eq!(at(json!({"host": "10.0.0.5"})), found("127.0.0.1:8989", false));
        assert_eq!(at(json!({"ws": {"port": 7000}})), found("127.0.0.1:7000", true));
        assert_eq!(at(json!({"ws": {"port": 7000}, "host": "10.0.0.5"})), found("10.0.0.5:7000", true));
        let listed = json!({"host": "::", "transform": "shs", "scope": ["device", "public"]});
        let incoming = json!({"connections": {"incoming": {"ws": [listed]}}, "ws": {"port": 1}});
        assert_eq!(at(incoming), found("0.0.0.0:8989 [::]:8989", true));
        assert_eq!(at(json!({"connections": {"incoming": {"ws": []}}})), None);
        assert_eq!(at(json!({"blobs": {"http": "[::1]:80"}})), found("[::1]:80", true));
        assert_eq!(at(json!({"blobs": {"http": false}, "ws": {"port": 7000}})), None);
        let open = json!({"connections": {"incoming": {"ws": [{"transform": "noauth"}]}}});
        assert_eq!(read(&open).unwrap_err()[0].key, "connections.incoming.ws[0]");
    }

    #[test]
    fn fetching_by_itself_can_be_limited_and_turned_off() {
        let auto = |auto: Value| read(&json!({"blobs": {"auto": auto}})).map(|blobs| blobs.auto);
        assert_eq!(auto(json!(false)), Ok(None));
        let limited = AutoConfig { hops: 2, max: 5, age: 3 * DAY };
        assert_eq!(auto(json!({"hops": 2, "max": 5, "days": 3})), Ok(Some(limited)));
        assert!(auto(json!({"hop": 2})).is_err() && auto(json!({"hops": 11})).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_a_fault() {
        let wrong = json!({"blobs": {"max": "5 MB", "quota": -1, "http": 8989, "pushy": "very"}});
        let faults = read(&wrong).unwrap_err();
        let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(keys, ["blobs.max", "blobs.pushy", "blobs.quota", "blobs.http"]);
    }
}
