//! What the operator can measure. One registry, one struct per subsystem; the engine and the shells count
//! inputs and outputs, the state machines know nothing of it. Labels are bounded: never a peer or a feed.

use std::cell::RefCell;
use std::time::Duration;

use hawsepipe_replication::blobs::{Counts, Totals, Why};
use prometheus::core::{AtomicU64, Collector, GenericCounterVec};
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use tokio::sync::mpsc;

/// What all names begin with.
const PREFIX: &str = "hawsepipe";

/// Bounds of `blob_wait_seconds`: from a neighbour who has it to somebody who comes online after a day.
const WAIT: [f64; 12] = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0, 300.0, 3600.0, 14_400.0, 86_400.0];

mod queues;
mod scheduler;

pub use scheduler::Scheduler;

type CounterVec = GenericCounterVec<AtomicU64>;

/// Bounds of `time_to_direct_seconds`: from a LAN's round trip to a punch that needed many tries.
const TIME_TO_DIRECT: [f64; 10] = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0];

/// Bounds of `session_move_gap_seconds`: from nothing to a path that was sought for its whole grace.
const MOVE_GAP: [f64; 10] = [0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0, 10.0, 60.0];
/// Bounds of `dht_lookup_seconds`: from a node of the same network to one that waited for many who are gone.
const DHT_LOOKUP: [f64; 10] = [0.05, 0.1, 0.2, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0];
/// Bounds of `rendezvous_meet_seconds`: from a friend who is there to one who comes back after a day.
const MEET: [f64; 12] = [0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 14_400.0, 86_400.0];

/// Bounds of `call_seconds`: from an answer out of memory to one that needs the network.
const CALL: [f64; 10] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1.0, 5.0, 30.0];

/// All metrics of one node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    descriptions: Vec<Description>,
    queues: queues::Queues,
    /// Finding peers and connecting to them.
    pub connect: Connect,
    /// What the scheduler makes of its candidates.
    pub scheduler: Scheduler,
    /// How others reach us.
    pub reach: Reach,
    /// The DHT, and meeting friends through it.
    pub dht: Dht,
    /// Messages in and out.
    pub messages: Messages,
    /// Blobs.
    pub blobs: Blobs,
    /// Full-text search.
    pub search: Search,
    /// Calls by peers and local clients.
    pub calls: CounterVec,
    /// `call_seconds{method}`: from a call to its answer; streams are not among them.
    pub call_seconds: HistogramVec,
    /// `bytes_total{direction}`: bytes of sessions on the wire.
    pub bytes: CounterVec,
}

/// Finding peers and connecting to them: the first half of the domain story.
#[derive(Debug)]
pub struct Connect {
    /// `discovered_total{source}`: claims of a peer at an address.
    pub discovered: CounterVec,
    /// `decisions_total{decision}`: what the scheduler decided.
    pub decisions: CounterVec,
    /// `authorize_total{direction,outcome}`: whether a peer may have a session.
    pub authorize: CounterVec,
    /// `dials_total{carrier,outcome}`.
    pub dials: CounterVec,
    /// `handshakes_total{carrier,role,outcome}`: SHS.
    pub handshakes: CounterVec,
    /// `sessions{carrier,direction}`: open now.
    pub sessions: IntGaugeVec,
    /// `closed_total{reason}`: how sessions ended.
    pub closed: CounterVec,
    /// `known_peers`.
    pub known_peers: IntGauge,
    /// `session_moves_total{from,to,result}`: sessions that went on over another path (`ok`), and attempts
    /// that came to nothing (`failed`).
    pub moves: CounterVec,
    /// `session_move_gap_seconds`: for how long nothing could come while a session moved.
    pub move_gap: Histogram,
    /// `session_resent_bytes_total`: bytes that were said again after moves.
    pub resent: IntCounter,
    /// `time_to_direct_seconds`: from a relayed session to the direct one that replaced it.
    pub time_to_direct: Histogram,
}

/// How others reach us, and what the overlay turned away.
#[derive(Debug)]
pub struct Reach {
    /// `reachability{verdict}`: 1 for what holds (`unknown`, `public`, `private`), 0 for the others.
    pub reachability: IntGaugeVec,
    /// `nat{family,transport,kind}`: 1 for what was found, 0 for the other kinds.
    pub nat: IntGaugeVec,
    /// `relay_reservations`: relays at which we can be reached.
    pub reservations: IntGauge,
    /// `relay_circuits`: circuits that we carry for others now.
    pub circuits: IntGauge,
    /// `relay_requests_total{kind,tier,outcome}`: requests for a reservation with us or a circuit through us.
    pub relay_requests: CounterVec,
    /// `relay_closed_total{tier,reason}`: circuits through us that are over.
    pub relay_closed: CounterVec,
    /// `reservations_total{outcome}`: our own requests for reservations.
    pub own_reservations: CounterVec,
    /// `turned_away_total{carrier,rule}`: inbound links that found no place for a handshake, by the rule (`rate`, `flood`,
    /// `crowded`, `busy`).
    pub turned_away: CounterVec,
    /// `dropped_events_total`: events of the overlay that found no room in the engine's queue.
    pub dropped_events: IntCounter,
}

/// The DHT, and meeting friends through it.
#[derive(Debug)]
pub struct Dht {
    /// `dht_nodes`: nodes in the routing table.
    pub nodes: IntGauge,
    /// `dht_networks`: networks (IPv4 /16, IPv6 /32) that they are in.
    pub networks: IntGauge,
    /// `dht_records`: other people's records that we keep.
    pub records: IntGauge,
    /// `dht_serving`: 1 while we answer others.
    pub serving: IntGauge,
    /// `dht_healthy`: 1 while the table is good enough to find anybody.
    pub healthy: IntGauge,
    /// `dht_lookups_total{kind,outcome}`.
    pub lookups: CounterVec,
    /// `dht_lookup_seconds{kind}`: from the first question to the end.
    pub lookup_seconds: HistogramVec,
    /// `dht_store_total{outcome}`: records that we were asked to store.
    pub store: CounterVec,
    /// `dht_requests_total{kind}`: questions of others.
    pub requests: CounterVec,
    /// `rendezvous_friends{state}`: whom we follow, each in one state: `connected`, `found` (where, but no
    /// session yet) or `sought`.
    pub friends: IntGaugeVec,
    /// `rendezvous_meet_seconds`: from the moment a friend became wanted (followed, lost, or our start) to the
    /// session with it, where the DHT said where it is.
    pub meet: Histogram,
    /// `certificates_total{outcome}`: node certificates that we asked peers for: `ok`, `refused` (also by those
    /// who know of no such thing), `invalid`, `timeout`.
    pub certificates: CounterVec,
}

/// Messages in and out: the second half of the domain story.
#[derive(Debug)]
pub struct Messages {
    /// `feeds_wanted`: feeds the graph says to replicate.
    pub feeds_wanted: IntGauge,
    /// `feeds_known`: feeds with at least one stored message.
    pub feeds_known: IntGauge,
    /// `feeds_behind`: wanted feeds of which a connected peer says to have more.
    pub feeds_behind: IntGauge,
    /// `messages_behind`: what they lack.
    pub messages_behind: IntGauge,
    /// `replication_lag_seconds`: for how long there has been such a feed.
    pub lag: Gauge,
    /// `private_lag_bytes`: how much of the log has not been tried for private messages.
    pub private_lag: IntGauge,
    /// `messages`: stored.
    pub stored: IntGauge,
    /// `log_bytes`: size of the log.
    pub log_bytes: IntGauge,
    /// `messages_stored_total{from}`.
    pub stored_total: CounterVec,
    /// `messages_rejected_total{reason}`.
    pub rejected: CounterVec,
    /// `messages_sent_total{protocol}`.
    pub sent: CounterVec,
    /// `messages_received_total{protocol}`.
    pub received: CounterVec,
    /// `replication_streams_total{protocol,role}`: streams opened.
    pub streams: CounterVec,
    /// `forked_feeds`: feeds that are proven to be forked.
    pub forked: IntGauge,
    /// `fork_guard_waits`: 1 while nothing is published because our feed may be longer elsewhere.
    pub guard_waits: IntGauge,
    /// `fork_guard_refusals_total`: messages that were not signed for that reason.
    pub guard_refusals: IntCounter,
}

/// Full-text search: how far it is behind the log.
#[derive(Debug)]
pub struct Search {
    /// `search_lag_seconds`: for how long messages have been stored that cannot be searched for yet.
    pub lag_seconds: Gauge,
    /// `search_lag_bytes`: their size in the log.
    pub lag_bytes: IntGauge,
}

/// Blobs: what is here, what is searched for, and how they come and go.
#[derive(Debug)]
pub struct Blobs {
    /// `blobs`: stored.
    pub stored: IntGauge,
    /// `blobs_bytes`: their size.
    pub stored_bytes: IntGauge,
    /// `blob_wants{why}`: searched for, for local clients (`own`), because near messages link to them (`linked`), for
    /// peers in the graph (`near`) and for other peers (`stranger`).
    pub wants: IntGaugeVec,
    /// `blob_pushes`: pushed.
    pub pushes: IntGauge,
    /// `blob_gets_running`: being fetched.
    pub running: IntGauge,
    /// `blob_gets_total{outcome}`: fetches that ended.
    pub gets: CounterVec,
    /// `blobs_served_total{outcome}`: answers to `blobs.get` and `blobs.getSlice`.
    pub served: CounterVec,
    /// `blob_bytes_total{direction}`: bytes of blobs, from peers (`in`), to peers and local clients (`out`).
    pub bytes: CounterVec,
    /// `blobs_evicted_total`: deleted because of the quota.
    pub evicted: IntCounter,
    /// `blob_wait_seconds{why}`: from a want to the blob.
    pub wait: HistogramVec,
}

impl Blobs {
    fn new(r: &Register<'_>) -> Self {
        Self {
            stored: r.gauge("blobs", "Blobs stored"),
            stored_bytes: r.gauge("blobs_bytes", "Size of the stored blobs in bytes"),
            wants: r.gauges("blob_wants", "Blobs that are searched for", &["why"]),
            pushes: r.gauge("blob_pushes", "Blobs that peers are to take"),
            running: r.gauge("blob_gets_running", "Blobs that are being fetched"),
            gets: r.counters("blob_gets_total", "Fetches of blobs that ended", &["outcome"]),
            served: r.counters("blobs_served_total", "Requests for blobs that were answered", &["outcome"]),
            bytes: r.counters(
                "blob_bytes_total",
                "Bytes of blobs that came from peers or were served",
                &["direction"],
            ),
            evicted: r.counter("blobs_evicted_total", "Blobs deleted because of the quota"),
            wait: r.histograms("blob_wait_seconds", "From a want to the blob", &WAIT, &["why"]),
        }
    }

    /// Brings the gauges up to date.
    pub fn show(&self, counts: Counts, totals: Totals) {
        let wants = [
            ("own", counts.own),
            ("linked", counts.linked),
            ("near", counts.asked_near),
            ("stranger", counts.asked_strangers),
        ];
        for (why, count) in wants {
            self.wants.with_label_values(&[why]).set(count as i64);
        }
        self.pushes.set(counts.pushes as i64);
        self.running.set(counts.gets as i64);
        self.stored.set(totals.count as i64);
        self.stored_bytes.set(totals.bytes as i64);
    }

    /// A blob that was wanted came.
    pub fn waited(&self, why: Why, after: Duration) {
        let why = match why {
            Why::Own => "own",
            Why::Linked => "linked",
            Why::Asked => "asked",
        };
        self.wait.with_label_values(&[why]).observe(after.as_secs_f64());
    }
}

impl Connect {
    fn new(r: &Register<'_>) -> Self {
        Self {
            discovered: r.counters(
                "discovered_total",
                "Claims of a peer at an address, by source",
                &["source"],
            ),
            decisions: r.counters("decisions_total", "What the connection scheduler decided", &["decision"]),
            authorize: r.counters(
                "authorize_total",
                "Answers to whether a peer may have a session",
                &["direction", "outcome"],
            ),
            dials: r.counters("dials_total", "Dials by carrier and outcome", &["carrier", "outcome"]),
            handshakes: r.counters("handshakes_total", "Secret handshakes", &["carrier", "role", "outcome"]),
            sessions: r.gauges("sessions", "Sessions open now", &["carrier", "direction"]),
            closed: r.counters("closed_total", "Sessions that ended, by reason", &["reason"]),
            known_peers: r.gauge("known_peers", "Peers with a known address"),
            moves: r.counters(
                "session_moves_total",
                "Sessions that went on over another path, and attempts that failed",
                &["from", "to", "result"],
            ),
            move_gap: r.histogram(
                "session_move_gap_seconds",
                "For how long nothing could come while a session moved",
                &MOVE_GAP,
            ),
            resent: r
                .counter("session_resent_bytes_total", "Bytes of sessions that were said again after moves"),
            time_to_direct: r.histogram(
                "time_to_direct_seconds",
                "From a relayed session to the direct one that replaced it",
                &TIME_TO_DIRECT,
            ),
        }
    }
}

impl Reach {
    fn new(r: &Register<'_>) -> Self {
        Self {
            reachability: r.gauges("reachability", "Whether others can dial this node", &["verdict"]),
            nat: r.gauges(
                "nat",
                "What happens to the address of what this node sends",
                &["family", "transport", "kind"],
            ),
            reservations: r.gauge("relay_reservations", "Relays at which this node can be reached"),
            circuits: r.gauge("relay_circuits", "Circuits that this node carries for others"),
            relay_requests: r.counters(
                "relay_requests_total",
                "Requests to relay for others",
                &["kind", "tier", "outcome"],
            ),
            relay_closed: r.counters(
                "relay_closed_total",
                "Relayed circuits that are over",
                &["tier", "reason"],
            ),
            own_reservations: r.counters("reservations_total", "Own requests for reservations", &["outcome"]),
            turned_away: r.counters(
                "turned_away_total",
                "Inbound links without a place for a handshake",
                &["carrier", "rule"],
            ),
            dropped_events: r.counter("dropped_events_total", "Events of the overlay that were lost"),
        }
    }
}

impl Messages {
    fn new(r: &Register<'_>) -> Self {
        Self {
            feeds_wanted: r.gauge("feeds_wanted", "Feeds that the social graph says to replicate"),
            feeds_known: r.gauge("feeds_known", "Feeds with at least one stored message"),
            feeds_behind: r.gauge("feeds_behind", "Wanted feeds of which a connected peer says to have more"),
            messages_behind: r
                .gauge("messages_behind", "Messages of wanted feeds that only connected peers say to have"),
            lag: r.seconds(
                "replication_lag_seconds",
                "For how long a connected peer has said to have more of some wanted feed",
            ),
            private_lag: r.gauge(
                "private_lag_bytes",
                "Bytes of the log that were not searched for private messages yet",
            ),
            stored: r.gauge("messages", "Messages stored"),
            log_bytes: r.gauge("log_bytes", "Size of the message log in bytes"),
            stored_total: r.counters("messages_stored_total", "Messages stored since the start", &["from"]),
            rejected: r.counters("messages_rejected_total", "Messages refused as invalid", &["reason"]),
            sent: r.counters("messages_sent_total", "Messages sent to peers", &["protocol"]),
            received: r.counters("messages_received_total", "Messages received from peers", &["protocol"]),
            streams: r.counters("replication_streams_total", "Replication streams", &["protocol", "role"]),
            forked: r.gauge("forked_feeds", "Feeds that are proven to be forked"),
            guard_waits: r.gauge("fork_guard_waits", "Whether publishing waits for news of the own feed"),
            guard_refusals: r.counter("fork_guard_refusals_total", "Messages not signed for fear of a fork"),
        }
    }
}

impl Metrics {
    /// A fresh registry; two nodes in one process have two.
    pub fn new() -> Self {
        let registry =
            Registry::new_custom(Some(PREFIX.to_owned()), None).expect("the prefix is a valid name");
        let r = Register(&registry, RefCell::default());
        let connect = Connect::new(&r);
        let scheduler = Scheduler::new(&r);
        let reach = Reach::new(&r);
        let dht = Dht::new(&r);
        let messages = Messages::new(&r);
        let blobs = Blobs::new(&r);
        let search = Search {
            lag_seconds: r
                .seconds("search_lag_seconds", "Age of the oldest message that cannot be searched for yet"),
            lag_bytes: r.gauge("search_lag_bytes", "Bytes of the log that cannot be searched yet"),
        };
        let calls = r.counters("calls_total", "muxrpc calls to this node", &["method", "outcome"]);
        let call_seconds = r.histograms("call_seconds", "From a call to its answer", &CALL, &["method"]);
        let queues = queues::Queues::new(&r);
        r.gauges("build_info", "1, with the version of this node", &["version"])
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("the names are not ours");
        let bytes = r.counters("bytes_total", "Bytes of sessions on the wire", &["direction"]);
        let descriptions = r.1.into_inner();
        Self {
            registry,
            descriptions,
            queues,
            connect,
            scheduler,
            reach,
            dht,
            messages,
            blobs,
            search,
            calls,
            call_seconds,
            bytes,
        }
    }

    /// Has `queue_length{queue}` and `queue_limit{queue}` say how full a queue is, as long as somebody else can
    /// send into it.
    pub fn watch_queue<T: Send + 'static>(&self, name: &'static str, queue: &mpsc::Sender<T>) {
        let queue = queue.downgrade();
        let measure = move || {
            queue.upgrade().map(|queue| (queue.max_capacity() - queue.capacity(), queue.max_capacity()))
        };
        self.queues.watch(name, Box::new(measure));
    }

    /// What there is, in the order of the names; not the operating system's view of the process.
    pub fn describe(&self) -> Vec<Description> {
        let mut all = self.descriptions.clone();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> Vec<u8> {
        self.queues.measure();
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        encoded.expect("writing to memory does not fail and our metrics have unique names");
        text
    }
}

impl Dht {
    fn new(r: &Register<'_>) -> Self {
        Self {
            nodes: r.gauge("dht_nodes", "Nodes in the DHT's routing table"),
            networks: r.gauge("dht_networks", "Networks that the nodes of the routing table are in"),
            records: r.gauge("dht_records", "Records of others that this node keeps"),
            serving: r.gauge("dht_serving", "Whether this node answers others in the DHT"),
            healthy: r.gauge("dht_healthy", "Whether the routing table is good enough to find anybody"),
            lookups: r.counters("dht_lookups_total", "Lookups in the DHT", &["kind", "outcome"]),
            lookup_seconds: r.histograms("dht_lookup_seconds", "Lookups in the DHT", &DHT_LOOKUP, &["kind"]),
            store: r.counters("dht_store_total", "Records that this node was asked to store", &["outcome"]),
            requests: r.counters("dht_requests_total", "Questions of others in the DHT", &["kind"]),
            friends: r.gauges("rendezvous_friends", "Whom this node follows, by state", &["state"]),
            meet: r.histogram(
                "rendezvous_meet_seconds",
                "From the moment a friend became wanted to a session, where it was found in the DHT",
                &MEET,
            ),
            certificates: r.counters(
                "certificates_total",
                "Node certificates that peers were asked for",
                &["outcome"],
            ),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// What a metric is, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name, with the prefix.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels.
    pub labels: Vec<String>,
    /// What it says.
    pub help: String,
}

/// Makes and registers metrics of one registry.
struct Register<'a>(&'a Registry, RefCell<Vec<Description>>);

impl Register<'_> {
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> CounterVec {
        self.add("counter", CounterVec::new(Opts::new(name, help), labels))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add("counter", IntCounter::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add("gauge", IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add("gauge", IntGauge::new(name, help))
    }

    fn seconds(&self, name: &str, help: &str) -> Gauge {
        self.add("gauge", Gauge::new(name, help))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add("histogram", Histogram::with_opts(options))
    }

    fn histograms(&self, name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add("histogram", HistogramVec::new(options, labels))
    }

    fn add<C: Collector + Clone + 'static>(&self, kind: &'static str, metric: prometheus::Result<C>) -> C {
        let metric = metric.expect("our metrics have valid names");
        let described = metric.desc().into_iter().map(|desc| Description {
            name: format!("{PREFIX}_{}", desc.fq_name),
            kind,
            labels: desc.variable_labels.clone(),
            help: desc.help.clone(),
        });
        self.1.borrow_mut().extend(described);
        self.0.register(Box::new(metric.clone())).expect("our metrics have unique names");
        metric
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The list that operators read is what there is.
    #[test]
    fn the_list_of_metrics_is_complete() {
        let mut expected = String::new();
        for Description { name, kind, labels, help } in Metrics::new().describe() {
            let labels = if labels.is_empty() { String::new() } else { format!("`{}`", labels.join("`, `")) };
            expected += &format!("| `{name}` | {kind} | {labels} | {help} |\n");
        }
        let listed = include_str!("../../deploy/METRICS.md");
        let rows = listed.lines().filter(|line| line.starts_with("| `hawsepipe_"));
        let rows: String = rows.map(|row| format!("{row}\n")).collect();
        assert_eq!(rows, expected, "deploy/METRICS.md is to have these rows");
    }

    #[test]
    fn metrics_carry_the_prefix_and_two_nodes_do_not_share_them() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.connect.discovered.with_label_values(&["mdns"]).inc();
        let text = String::from_utf8(one.render()).unwrap();
        assert!(text.contains("hawsepipe_discovered_total{source=\"mdns\"} 1"), "{text}");
        assert!(!String::from_utf8(other.render()).unwrap().contains("mdns"));
    }
}
