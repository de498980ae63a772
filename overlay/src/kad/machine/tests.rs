#![expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use super::super::store::Stamp;
use super::*;
use crate::reachability::{Target, Transport};

const UNIX: Duration = Duration::from_secs(1_800_000_000);

/// A value is its sequence; 0 is not valid.
fn validate(_: &[u8], value: &[u8], unix: Duration) -> Result<Stamp, Refusal> {
    let sequence = u64::from(*value.first().filter(|first| **first > 0).ok_or("form")?);
    Ok(Stamp { sequence, until: unix + Duration::from_secs(3600) })
}

fn contact_at(n: u32, ip: IpAddr) -> Contact {
    let at = vec![Target { transport: Transport::Quic, at: SocketAddr::new(ip, 4001) }];
    Contact { node: NodeId::new(&n.to_be_bytes()), at }
}

/// In a network of its own.
fn contact(n: u32) -> Contact {
    contact_at(n, Ipv4Addr::from_bits((20 << 24) + (n << 16) + 1).into())
}

fn lan(n: u8) -> Contact {
    contact_at(u32::from(n) + 1000, [192, 168, 1, n].into())
}

fn key() -> Vec<u8> {
    vec![7; 32]
}

fn record(sequence: u8) -> Record {
    Record { key: key(), value: vec![sequence] }
}

struct Table {
    dht: Dht,
    now: Instant,
}

impl Table {
    fn new() -> Self {
        Self { dht: Dht::new(NodeId::new(b"own"), 7, validate), now: Instant::now() }
    }

    /// These have answered, and nothing is under way.
    fn knowing(contacts: &[Contact]) -> Self {
        let mut table = Self::new();
        for contact in contacts {
            let asks = asks(&table.give(Input::Candidate(contact.clone())));
            asks.iter().for_each(|ask| drop(table.answer(ask, &[], None)));
        }
        table.wait(Duration::from_secs(120), |table, ask| table.answer(ask, &[], None));
        assert_eq!(table.dht.report().nodes, contacts.len());
        table
    }

    fn give(&mut self, input: Input) -> Vec<Output> {
        self.dht.handle(self.now, UNIX, input);
        self.drain()
    }

    fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.dht.poll_output()).collect()
    }

    fn answer(&mut self, ask: &Ask, closer: &[Contact], record: Option<Record>) -> Vec<Output> {
        let response = Response { closer: closer.to_vec(), record };
        self.give(Input::Answered { ask: ask.id, ip: ask.to.ip(), response })
    }

    /// Lets time pass; each question is given to `answer`.
    fn wait(&mut self, time: Duration, answer: impl Fn(&mut Self, &Ask) -> Vec<Output>) -> Vec<Output> {
        let until = self.now + time;
        let mut all = Vec::new();
        while let Some(at) = self.dht.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.dht.handle_timeout(self.now, UNIX);
            let outputs = self.drain();
            all.extend(self.answer_all(outputs, &answer));
        }
        self.now = until;
        all
    }

    /// Gives each question to `answer`, and each that comes of it.
    fn answer_all(
        &mut self,
        outputs: Vec<Output>,
        answer: impl Fn(&mut Self, &Ask) -> Vec<Output>,
    ) -> Vec<Output> {
        let (mut all, mut done) = (outputs, 0);
        while let Some(output) = all.get(done).cloned() {
            done += 1;
            all.extend(asks(&[output]).iter().flat_map(|ask| answer(self, ask)));
        }
        all
    }

    fn closest_for(&mut self, n: u32, ip: IpAddr) -> Vec<Contact> {
        let from = Asker { node: contact(n).node, ip };
        self.dht.serve(self.now, UNIX, &from, Request::FindNode(b"x".to_vec())).unwrap().closer
    }
}

fn asks(outputs: &[Output]) -> Vec<Ask> {
    let asks = outputs.iter().filter_map(|output| match output {
        Output::Ask(ask) => Some(ask.clone()),
        Output::Found { .. } | Output::Ended(_) | Output::Lookup(_) | Output::Changed => None,
    });
    asks.collect()
}

fn ended(outputs: &[Output]) -> Vec<(bool, usize)> {
    let ended = outputs.iter().filter_map(|output| match output {
        Output::Ended(ended) => Some((ended.success, ended.stored)),
        Output::Ask(_) | Output::Found { .. } | Output::Lookup(_) | Output::Changed => None,
    });
    ended.collect()
}

fn found(outputs: &[Output]) -> Vec<Vec<u8>> {
    let found = outputs.iter().filter_map(|output| match output {
        Output::Found { value, .. } => Some(value.clone()),
        Output::Ask(_) | Output::Ended(_) | Output::Lookup(_) | Output::Changed => None,
    });
    found.collect()
}

fn outcomes(outputs: &[Output]) -> Vec<(&'static str, &'static str)> {
    let outcomes = outputs.iter().filter_map(|output| match output {
        Output::Lookup(lookup) => Some((lookup.kind, lookup.outcome)),
        Output::Ask(_) | Output::Ended(_) | Output::Found { .. } | Output::Changed => None,
    });
    outcomes.collect()
}

const GET: LookupId = LookupId(1);

fn get() -> Input {
    Input::Get { lookup: GET, key: key() }
}

#[test]
fn alone_nothing_is_found_at_once_and_nothing_is_done() {
    let mut table = Table::new();
    let outputs = table.give(get());
    assert_eq!((ended(&outputs), outcomes(&outputs)), (vec![(false, 0)], vec![("seek", "no_nodes")]));
    let outputs = table.give(Input::Put { lookup: GET, record: record(1) });
    assert_eq!((ended(&outputs), outcomes(&outputs)), (vec![(false, 0)], vec![("publish", "no_nodes")]));
    table.give(Input::NetworkChanged);
    assert_eq!(table.dht.poll_timeout(), None);
}

#[test]
fn those_that_wait_begin_as_soon_as_others_end() {
    let mut table = Table::new();
    let nobody: usize =
        (0..50).map(|n| ended(&table.give(Input::Get { lookup: LookupId(n), key: key() })).len()).sum();
    assert_eq!(nobody, 50);
    let mut table = Table::knowing(&[contact(1)]);
    let outputs = (0..50).flat_map(|n| {
        table.give(Input::Put { lookup: LookupId(n), record: Record { key: vec![n as u8; 32], ..record(1) } })
    });
    let outputs = outputs.collect();
    let outputs = table.answer_all(outputs, |table, ask| table.answer(ask, &[], None));
    assert_eq!(ended(&outputs), [(true, 1); 50]);
    assert_eq!(table.dht.searches.len(), 0);
}

#[test]
fn a_liar_cannot_have_a_node_sought_where_it_is_not() {
    let nodes: Vec<_> = (1..=9).map(contact).collect();
    let mut table = Table::knowing(&nodes);
    let false_word = |n: u32| contact_at(n, [66, 1, 1, n as u8].into());
    let lies: Vec<_> = (1..=9).map(false_word).collect();
    let outputs = table.give(get());
    let asked = asks(&table.answer_all(outputs, |table, ask| table.answer(ask, &lies, None)));
    assert!(asked.len() >= 9 && asked.iter().all(|ask| nodes.contains(&ask.to)), "{asked:?}");
    for lie in lies {
        table.give(Input::Candidate(lie));
        table.wait(Duration::from_secs(60), |_, _| Vec::new());
    }
    assert_eq!(table.closest_for(99, contact(99).ip().unwrap()).len(), 9);
}

#[test]
fn who_refuses_a_record_is_asked_whether_it_lives_and_stays() {
    let nodes: Vec<_> = (1..=9).map(contact).collect();
    let mut table = Table::knowing(&nodes);
    for n in 0..5 {
        let put = Input::Put { lookup: LookupId(n), record: Record { key: vec![n as u8; 32], ..record(1) } };
        let refuse = |table: &mut Table, ask: &Ask| match ask.request {
            Request::PutValue(_) => table.give(Input::Failed(ask.id)),
            Request::Ping | Request::FindNode(_) | Request::GetValue(_) | Request::GetProviders(_) => {
                table.answer(ask, &[], None)
            }
        };
        let outputs = table.give(put);
        assert_eq!(ended(&table.answer_all(outputs, refuse)), [(false, 0)]);
        let outputs = table.wait(Duration::from_secs(15), refuse);
        assert!(asks(&outputs).iter().any(|ask| ask.request == Request::Ping));
    }
    assert_eq!(table.dht.report().nodes, 9);
}

#[test]
fn whoever_is_left_is_asked_although_it_failed_once() {
    let mut table = Table::knowing(&[contact(1)]);
    let failing = asks(&table.give(get()));
    table.give(Input::Failed(failing[0].id));
    let again = asks(&table.give(get()));
    assert_eq!(again.len(), 1);
    assert_eq!(found(&table.answer(&again[0], &[], Some(record(1)))), [[1]]);
}

#[test]
fn a_candidate_is_told_of_once_it_has_answered_where_we_dialled_it() {
    let mut table = Table::new();
    let asks = asks(&table.give(Input::Candidate(contact(1))));
    let [ask] = asks.as_slice() else { panic!("{asks:?}") };
    assert_eq!((&ask.to, &ask.request, ask.dial), (&contact(1), &Request::FindNode(b"own".to_vec()), true));
    assert_eq!(table.closest_for(2, contact(2).ip().unwrap()), []);
    table.answer(ask, &[], None);
    assert_eq!(table.closest_for(2, contact(2).ip().unwrap()), [contact(1)]);
    assert_eq!(table.closest_for(1, contact(1).ip().unwrap()), [], "nobody is told of itself");
    assert_eq!((table.dht.sample(), table.dht.to_save()), (vec![contact(1)], vec![contact(1)]));
    assert!(!table.dht.report().healthy);
    let outputs = table.wait(Duration::from_secs(1), |table, ask| table.answer(ask, &[], None));
    assert_eq!(outcomes(&outputs), [("refresh", "done")]);
    assert!(table.dht.report().healthy, "there is nobody else");
}

#[test]
fn a_candidate_that_does_not_answer_is_tried_again_ever_less_often() {
    let mut table = Table::new();
    let mut times = vec![table.now];
    assert_eq!(asks(&table.give(Input::Candidate(contact(1)))).len(), 1);
    while times.len() < 12 {
        let at = table.dht.poll_timeout().expect("it is not given up");
        if !asks(&table.wait(at - table.now, |_, _| Vec::new())).is_empty() {
            times.push(table.now);
        }
    }
    let pauses: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert!(pauses[0] <= 10 && pauses[10] >= 600, "{pauses:?}");
    assert!(pauses.iter().sum::<u64>() > 1800, "{pauses:?}");
}

#[test]
fn strangers_neither_learn_nor_give_addresses_of_a_lan() {
    let mut table = Table::knowing(&[contact(1), lan(1)]);
    assert_eq!(table.closest_for(9, contact(9).ip().unwrap()), [contact(1)]);
    let local = table.closest_for(9, [192, 168, 1, 77].into());
    assert_eq!(local.len(), 2);
    assert_eq!(table.dht.sample(), [contact(1)]);
    // A stranger tells of a LAN's node: it is not asked.
    let ask = asks(&table.give(get())).into_iter().find(|ask| ask.to == contact(1)).unwrap();
    let outputs = table.answer(&ask, &[lan(2), contact(3)], None);
    let to: Vec<_> = asks(&outputs).into_iter().map(|ask| ask.to).collect();
    assert_eq!(to, [contact(3)]);
}

#[test]
fn the_first_valid_record_ends_a_get_and_a_newer_one_may_follow() {
    let nodes: Vec<_> = (1..=9).map(contact).collect();
    let mut table = Table::knowing(&nodes);
    let asks = asks(&table.give(get()));
    assert_eq!(asks.len(), 6);
    assert_eq!(found(&table.answer(&asks[0], &[], Some(record(0)))), [] as [Vec<u8>; 0], "not valid");
    let other = Record { key: vec![8; 32], ..record(9) };
    assert_eq!(found(&table.answer(&asks[1], &[], Some(other))), [] as [Vec<u8>; 0], "of another key");
    let outputs = table.answer(&asks[2], &[], Some(record(3)));
    assert_eq!((found(&outputs), ended(&outputs)), (vec![vec![3]], vec![(true, 0)]));
    assert_eq!(outcomes(&outputs), [("seek", "found")]);
    assert_eq!(found(&table.answer(&asks[3], &[], Some(record(2)))), [] as [Vec<u8>; 0], "older");
    let outputs = table.answer(&asks[4], &[], Some(record(4)));
    assert_eq!((found(&outputs), ended(&outputs)), (vec![vec![4]], vec![]));
    table.give(Input::Cancel(GET));
    assert_eq!(found(&table.answer(&asks[5], &[], Some(record(5)))), [] as [Vec<u8>; 0], "cancelled");
}

#[test]
fn a_second_put_goes_straight_to_those_who_keep_the_record() {
    let nodes: Vec<_> = (1..=30).map(contact).collect();
    let mut table = Table::knowing(&nodes);
    let put = |table: &mut Table, sequence| {
        let outputs = table.give(Input::Put { lookup: GET, record: record(sequence) });
        table.answer_all(outputs, |table, ask| table.answer(ask, &[], None))
    };
    let first = put(&mut table, 1);
    assert_eq!(ended(&first), [(true, 8)]);
    let is_put = |ask: &Ask| matches!(ask.request, Request::PutValue(_));
    let second = put(&mut table, 2);
    assert_eq!(ended(&second), [(true, 8)]);
    assert!(asks(&second).iter().all(is_put));
    let kept_by = |outputs: &[Output]| {
        let puts = asks(outputs).into_iter().filter(is_put);
        puts.map(|ask| ask.to.node).collect::<BTreeSet<_>>()
    };
    assert_eq!(kept_by(&first), kept_by(&second));
    table.now += Duration::from_secs(2 * 60 * 60);
    assert!(!asks(&put(&mut table, 3)).iter().all(is_put), "they are looked for again");
}

#[test]
fn a_record_of_our_own_store_is_found_without_a_question() {
    let mut table = Table::new();
    let from = Asker { node: contact(1).node, ip: contact(1).ip().unwrap() };
    let put = Request::PutValue(record(1));
    assert_eq!(table.dht.serve(table.now, UNIX, &from, put.clone()).map(drop), Err("not_serving"));
    table.give(Input::Serving(true));
    assert_eq!(table.dht.serve(table.now, UNIX, &from, put).map(drop), Ok(()));
    assert_eq!(table.dht.report().records, 1);
    let outputs = table.give(get());
    assert_eq!((found(&outputs), ended(&outputs)), (vec![vec![1]], vec![(true, 0)]));
    let got = table.dht.serve(table.now, UNIX, &from, Request::GetValue(key())).unwrap();
    assert_eq!(got.record, Some(record(1)));
}

#[test]
fn who_asks_too_often_is_refused() {
    let mut table = Table::new();
    let from = |n| Asker { node: contact(n).node, ip: [20, 1, 1, n as u8].into() };
    let ask = |table: &mut Table, n| table.dht.serve(table.now, UNIX, &from(n), Request::Ping).is_ok();
    let granted = (0..200).filter(|n| ask(&mut table, *n)).count();
    assert_eq!(granted, 100);
    assert_eq!(table.dht.serve(table.now, UNIX, &from(1), Request::Ping), Err("rate"));
}

#[test]
fn when_nobody_answers_at_all_the_table_is_kept() {
    let nodes: Vec<_> = (1..=30).map(contact).collect();
    let mut table = Table::knowing(&nodes);
    table.wait(Duration::from_secs(24 * 3600), |_, _| Vec::new());
    assert!(table.dht.report().nodes >= 20, "{}", table.dht.report().nodes);
    let kept = table.dht.report().nodes;
    let outputs = table.wait(Duration::from_secs(3600), |table, ask| table.answer(ask, &[], None));
    assert!(asks(&outputs).len() < 200, "{}", asks(&outputs).len());
    assert!(table.dht.report().healthy && table.dht.report().nodes >= kept);
    assert_eq!(table.closest_for(99, contact(99).ip().unwrap()).len(), K, "nobody is suspected any more");
}

#[test]
fn the_dead_leave_while_others_answer() {
    let nodes: Vec<_> = (1..=30).map(contact).collect();
    let mut table = Table::knowing(&nodes);
    let is_dead = |ask: &Ask| ask.to.node.bytes() < 11_u32.to_be_bytes().as_slice();
    let answer = |table: &mut Table, ask: &Ask| {
        if is_dead(ask) { Vec::new() } else { table.answer(ask, &[], None) }
    };
    for n in 0..20 {
        let outputs = table.give(Input::Get { lookup: LookupId(n), key: vec![n as u8; 32] });
        table.answer_all(outputs, answer);
        table.wait(Duration::from_secs(60), answer);
    }
    assert_eq!(table.dht.report().nodes, 20);
    assert_eq!(table.dht.to_save().len(), 30, "but they are remembered");
}

#[test]
fn in_another_network_the_nearest_are_asked_whether_they_are_there() {
    let nodes: Vec<_> = (1..=30).map(contact).collect();
    let mut table = Table::knowing(&nodes);
    let outputs = table.give(Input::NetworkChanged);
    let pings = asks(&outputs).into_iter().filter(|ask| ask.request == Request::Ping);
    assert_eq!(pings.count(), 3);
    let outputs = table.wait(Duration::from_secs(2), |table, ask| table.answer(ask, &[], None));
    assert!(outcomes(&outputs).contains(&("refresh", "done")));
}

#[test]
fn a_question_without_an_answer_fails_by_itself_and_a_network_gets_few_at_a_time() {
    let crowd = (0..12).map(|n| contact_at(n + 500, [66, 1, 1, n as u8 + 1].into()));
    let nodes: Vec<_> = (1..=5).map(contact).chain(crowd).collect();
    let mut table = Table::knowing(&nodes);
    let lookups =
        (0..8).flat_map(|n| asks(&table.give(Input::Get { lookup: LookupId(n), key: vec![n as u8; 32] })));
    let at_crowd =
        |ask: &Ask| ask.to.ip().is_some_and(|ip| Subnet::of(ip) == Subnet::of([66, 1, 1, 1].into()));
    assert_eq!(lookups.collect::<Vec<_>>().iter().filter(|ask| at_crowd(ask)).count(), 4);
    let outputs = table.wait(Duration::from_secs(21), |_, _| Vec::new());
    assert_eq!(ended(&outputs).len(), 8, "{outputs:?}");
}

#[test]
fn a_flood_of_candidates_is_bounded_in_what_is_kept_and_asked() {
    let mut table = Table::knowing(&(1..=10).map(contact).collect::<Vec<_>>());
    let mut asked = 0;
    for n in 1000..6000 {
        let candidate = contact_at(n, Ipv4Addr::from_bits((30 << 24) + n).into());
        asked += asks(&table.give(Input::Candidate(candidate))).len();
        asked += asks(&table.wait(Duration::from_millis(100), |_, _| Vec::new())).len();
    }
    // Some at once, and one each thirty seconds; lookups of ourselves besides.
    assert!(asked < 64 + 17 + 60, "{asked}");
    assert_eq!(table.dht.report().nodes, 10);
}

#[test]
fn an_idle_node_asks_less_than_once_in_ten_seconds() {
    let nodes: Vec<_> = (1..=30).map(contact).collect();
    let mut table = Table::knowing(&nodes);
    let day = Duration::from_secs(24 * 3600);
    let outputs = table.wait(day, move |table, ask| table.answer(ask, &nodes[..20], None));
    let per_second = asks(&outputs).len() as f64 / day.as_secs_f64();
    assert!(per_second < 0.03, "{per_second}");
}
