//! What the carrier takes from the throughput where nothing else is in the way.

use std::time::Duration;

use hawsepipe_tests::carried::add_blob;
use hawsepipe_tests::lab::{Host, Lab};
use hawsepipe_tests::meeting::{Transport, at_relay, dialable};
use hawsepipe_tests::peer::{PORT, Peer, Setup};
use hawsepipe_tests::wait;
use serde_json::json;

use super::super::say;
use super::{Form, median};

/// One blob; how many are taken in a row, and how many of these do not count.
const BLOB: usize = 5_000_000;
const BLOBS: u64 = 10;
const WARM_UP: usize = 2;
/// How long one is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Both forms in turn, so that what the machine does meanwhile falls on both alike.
pub(super) fn measure(lab: &mut Lab, times: usize) {
    // What goes to an own address goes over loopback.
    let [host] = lab.segment(["both"]);
    say("| MB/s | carrier | plain | overhead (asked: 5 %) |");
    say("|---|---|---|---|");
    for transport in [Transport::Quic, Transport::Tcp] {
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..times {
            for (form, rates) in Form::BOTH.into_iter().zip(&mut rates) {
                rates.push(rate(&host, transport, form, round));
            }
        }
        let [carried, plain] = rates.map(median);
        let overhead = (1.0 - carried / plain) * 100.0;
        say(format_args!("| {} | {carried:.1} | {plain:.1} | {overhead:.1} % |", transport.name()));
    }
}

fn start(host: &Host, transport: Transport, form: Form, name: &str, number: u16) -> Peer {
    let setup = Setup::on(host).path(host.dir().join(name)).set("port", PORT + number);
    let setup = setup.set("local", false).set("conn.autostart", false).set("metrics.listen", false);
    let at = match transport {
        Transport::Quic => format!("/ip4/{}/udp/0/quic-v1", host.v4()),
        Transport::Tcp => format!("/ip4/{}/tcp/0", host.v4()),
    };
    setup.set("overlay.listen", vec![at]).set("overlay.carrier", form.is_carried()).start()
}

/// Megabytes a second, the median of the blobs.
fn rate(host: &Host, transport: Transport, form: Form, round: usize) -> f64 {
    let name = |what: &str| format!("{what}-{}-{}-{round}", transport.name(), form.name());
    let source = start(host, transport, form, &name("source"), 0);
    let sink = start(host, transport, form, &name("sink"), 1);
    let blobs: Vec<_> = (1..=BLOBS).map(|seed| add_blob(&source, seed, BLOB)).collect();
    let control = sink.control();
    let at = dialable(&source, &at_relay(&source, transport));
    control.call("conn.connect", vec![json!(at)]).unwrap_or_else(|why| panic!("{why}"));
    let rates: Vec<f64> = blobs
        .iter()
        .map(|blob| {
            let started = wait::now();
            let taken = control.call_within(PATIENCE, "blobs.want", vec![json!(blob)]);
            assert_eq!(taken, Ok(json!(true)), "the blob comes");
            BLOB as f64 / 1e6 / (wait::now() - started).as_secs_f64()
        })
        .collect();
    let carriers = control.status().map(|status| status.carriers(source.id()));
    assert_eq!(carriers, Ok(vec![transport.name().to_owned()]), "it went the way that is measured");
    median(rates[WARM_UP..].to_vec())
}
