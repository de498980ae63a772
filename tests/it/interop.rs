//! Replication of 20,000 messages with the programs that people run today, in both directions and with
//! either side dialling; then a post of each side travels live.

use std::collections::BTreeSet;
use std::time::Duration;

use hawsepipe_tests::corpus::{Corpus, MESSAGES};
use hawsepipe_tests::js::{Foreign, Options, Stack};
use hawsepipe_tests::lab::{self, Lab};
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::wait::{SOON, SYNC};
use serde_json::{Value, json};

/// How long a post may take. With history streams only the nearest feeds are live; the others are asked
/// for in turn, every minute.
const LIVE: Duration = Duration::from_secs(90);

#[derive(Clone, Copy, PartialEq)]
enum Dialer {
    Ours,
    Theirs,
}

/// What messages travel by.
#[derive(Clone, Copy, PartialEq)]
enum Protocol {
    Ebt,
    History,
}

/// Says whether all that came and went so far did so by `protocol`.
fn assert_only(protocol: Protocol, ours: &Peer) {
    let metrics = ours.metrics().unwrap();
    let (used, unused) = match protocol {
        Protocol::Ebt => ("ebt", "history"),
        Protocol::History => ("history", "ebt"),
    };
    for name in ["messages_received_total", "messages_sent_total"] {
        assert!(metrics.sum(name, &[("protocol", used)]) >= 1.0, "{name}\n{metrics}");
        assert_eq!(metrics.sum(name, &[("protocol", unused)]), 0.0, "{name}\n{metrics}");
    }
    let came = metrics.sum("messages_received_total", &[("protocol", used)]);
    assert!(came >= MESSAGES as f64, "\n{metrics}");
    assert_eq!(metrics.sum("messages_rejected_total", &[]), 0.0, "\n{metrics}");
}

/// Connects the two, dialled as told.
fn connect(dialer: Dialer, ours: &Peer, theirs: &mut Foreign) {
    match dialer {
        Dialer::Ours => drop(ours.ok(&["connect", theirs.address()])),
        Dialer::Theirs => theirs.connect(&ours.net_address()),
    }
}

fn assert_same(ours: &[String], theirs: &[String]) {
    let (ours, theirs): (BTreeSet<_>, BTreeSet<_>) = (ours.iter().collect(), theirs.iter().collect());
    let (missing, surplus) = (theirs.difference(&ours).count(), ours.difference(&theirs).count());
    assert!(missing == 0 && surplus == 0, "{missing} message ids are only theirs, {surplus} only ours");
}

/// Both write a post while connected, and see the other's.
fn assert_live_both_ways(ours: &Peer, theirs: &mut Foreign) {
    let from_ours = ours.publish(&json!({ "type": "post", "text": "live from ours" }));
    theirs.wait_clock(&[(ours.id().to_owned(), ours.sequence_of(ours.id()))], SOON);
    let from_theirs = theirs.publish(&json!({ "type": "post", "text": "live from theirs" }));
    let theirs_id = theirs.id().to_owned();
    let newest = theirs.sequence_of(&theirs_id);
    ours.wait_clock(&[(theirs_id, newest)], LIVE);
    let (ids_ours, ids_theirs) = (ours.ids(), theirs.ids());
    assert!(ids_theirs.contains(&from_ours) && ids_ours.contains(&from_theirs));
    assert_same(&ids_ours, &ids_theirs);
}

/// They hold the corpus and follow its authors; we follow only them, so that the authors come to be wanted
/// while we replicate. Then a second foreign peer takes everything from us in the same way.
fn the_corpus_travels_there_and_back(lab: &mut Lab, stack: Stack, protocol: Protocol, dialers: [Dialer; 2]) {
    let corpus = Corpus::load();
    let [host_source, host_ours, host_sink] = lab.segment(["source", "ours", "sink"]);
    let ebt = protocol == Protocol::Ebt;
    let mut source = Foreign::start(&host_source, stack, &Options { ebt, ..Options::default() });
    source.import(&corpus.messages());
    source.follow(corpus.authors());
    let ours = Setup::on(&host_ours).solitary().start();
    ours.follow(source.id());
    source.follow([ours.id()]);

    connect(dialers[0], &ours, &mut source);
    let mut clock = corpus.clock.clone();
    clock.push((source.id().to_owned(), corpus.clock.len() as u64 + 1));
    ours.wait_clock(&clock, SYNC);
    source.wait_clock(&[(ours.id().to_owned(), 1)], SOON);
    let ids = ours.ids();
    assert_same(&ids, &source.ids());
    assert!(
        corpus.ids().iter().all(|id| ids.binary_search(id).is_ok()),
        "a message of the corpus is missing"
    );
    assert_live_both_ways(&ours, &mut source);
    assert_only(protocol, &ours);
    drop(source);

    // Back: to a peer that has nothing, and follows us, and through us everybody we replicate.
    let mut sink = Foreign::start(&host_sink, stack, &Options { hops: 3, ebt, ..Options::default() });
    sink.follow([ours.id()]);
    ours.follow(sink.id());
    connect(dialers[1], &ours, &mut sink);
    let everything = clock_of(&ours);
    sink.wait_clock(&everything, SYNC);
    ours.wait_clock(&[(sink.id().to_owned(), 1)], LIVE);
    assert_same(&ours.ids(), &sink.ids());
    assert_live_both_ways(&ours, &mut sink);
}

fn clock_of(ours: &Peer) -> Vec<(String, u64)> {
    let clock = ours.call("getVectorClock", &[]);
    let entries = clock[0].as_object().unwrap();
    entries.iter().filter_map(|(id, sequence)| Some((id.clone(), Value::as_u64(sequence)?))).collect()
}

#[test]
fn the_corpus_comes_from_ssb_server_and_goes_back_to_it() {
    lab::run(|lab| {
        let dialers = [Dialer::Ours, Dialer::Theirs];
        the_corpus_travels_there_and_back(lab, Stack::Classic, Protocol::Ebt, dialers);
    });
}

#[test]
fn the_corpus_comes_from_ssb_server_when_it_dials_and_goes_back_when_we_dial() {
    lab::run(|lab| {
        let dialers = [Dialer::Theirs, Dialer::Ours];
        the_corpus_travels_there_and_back(lab, Stack::Classic, Protocol::Ebt, dialers);
    });
}

#[test]
fn the_corpus_comes_from_the_manyverse_stack_and_goes_back_to_it() {
    lab::run(|lab| {
        let dialers = [Dialer::Ours, Dialer::Theirs];
        the_corpus_travels_there_and_back(lab, Stack::Manyverse, Protocol::Ebt, dialers);
    });
}

#[test]
fn the_corpus_comes_from_the_manyverse_stack_when_it_dials_and_goes_back_when_we_dial() {
    lab::run(|lab| {
        let dialers = [Dialer::Theirs, Dialer::Ours];
        the_corpus_travels_there_and_back(lab, Stack::Manyverse, Protocol::Ebt, dialers);
    });
}

#[test]
fn the_corpus_travels_by_history_streams_with_a_peer_that_knows_no_ebt() {
    lab::run(|lab| {
        let dialers = [Dialer::Ours, Dialer::Theirs];
        the_corpus_travels_there_and_back(lab, Stack::Classic, Protocol::History, dialers);
    });
}

#[test]
fn the_corpus_travels_by_history_streams_whoever_dials() {
    lab::run(|lab| {
        let dialers = [Dialer::Theirs, Dialer::Ours];
        the_corpus_travels_there_and_back(lab, Stack::Classic, Protocol::History, dialers);
    });
}

/// The folder is lost but for the `secret`: what a peer holds of our feed comes back.
fn our_own_feed_comes_back(lab: &mut Lab, ebt: bool) {
    let [host_theirs, host_ours] = lab.segment(["theirs", "ours"]);
    let mut theirs = Foreign::start(&host_theirs, Stack::Classic, &Options { ebt, ..Options::default() });
    let ours = Setup::on(&host_ours).solitary().start();
    theirs.follow([ours.id()]);
    ours.follow(theirs.id());
    for n in 0..20 {
        ours.publish(&json!({ "type": "post", "text": format!("mine {n}") }));
    }
    connect(Dialer::Ours, &ours, &mut theirs);
    theirs.wait_clock(&[(ours.id().to_owned(), 21)], SYNC);
    let ids = ours.ids();
    let setup = ours.kill();
    for lost in ["hawsepipe", "ebt"] {
        std::fs::remove_dir_all(setup.dir().join(lost)).unwrap();
    }
    let ours = setup.start();
    assert_eq!(ours.sequence_of(ours.id()), 0);
    connect(Dialer::Ours, &ours, &mut theirs);
    ours.wait_clock(&[(ours.id().to_owned(), 21)], SYNC);
    assert!(ours.ids().iter().all(|id| ids.contains(id)));
    ours.wait_free();
    ours.publish(&json!({ "type": "post", "text": "no fork" }));
    theirs.wait_clock(&[(ours.id().to_owned(), 22)], SOON);
}

#[test]
fn our_own_feed_comes_back_from_a_server_with_ebt() {
    lab::run(|lab| our_own_feed_comes_back(lab, true));
}

#[test]
fn our_own_feed_comes_back_from_a_server_without_ebt() {
    lab::run(|lab| our_own_feed_comes_back(lab, false));
}
