//! Two machines back to back, and one machine against hand-made packets.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::muxrpc::call::not_allowed;
use crate::muxrpc::{CallKind, StreamClosed};

const NONE: &[Value] = &[];

/// Two ends of one session; frames cross when told to.
struct Pair {
    a: Mux,
    b: Mux,
}

impl Pair {
    fn new() -> Self {
        Self { a: Mux::new(Limits::default()), b: Mux::new(Limits::default()) }
    }

    /// Lets frames cross until both are quiet or not reading.
    fn settle(&mut self) {
        loop {
            let moved = cross(&mut self.a, &mut self.b) | cross(&mut self.b, &mut self.a);
            if !moved {
                return;
            }
        }
    }

    fn open(&mut self, kind: CallKind) -> (CallId, CallId) {
        let ours = self.a.open(kind, &["m"], NONE).unwrap();
        self.settle();
        let (theirs, call) = self.b.next_call().unwrap();
        assert_eq!((call.kind, call.name), (kind, vec!["m".to_owned()]));
        (ours, theirs)
    }

    fn is_empty(&self) -> bool {
        let over = |mux: &Mux| mux.entries.is_empty() && mux.tombstones.is_empty() && mux.theirs == 0;
        over(&self.a) && over(&self.b)
    }
}

fn cross(from: &mut Mux, to: &mut Mux) -> bool {
    let mut moved = false;
    while to.wants_input() {
        let Some(frame) = from.poll_output() else {
            break;
        };
        to.handle(frame);
        moved = true;
    }
    moved
}

fn item(text: &str) -> Body {
    Body::text(text)
}

fn packet(request: i32, stream: bool, end: bool, body: &str) -> Frame {
    let body = Body::json_raw(body.as_bytes().to_vec());
    Frame::Packet(Packet { stream, end, request, body })
}

fn outputs(mux: &mut Mux) -> Vec<Frame> {
    std::iter::from_fn(|| mux.poll_output()).collect()
}

fn failed(message: &str) -> RemoteError {
    RemoteError::new(message)
}

#[test]
fn an_async_call_is_answered_in_either_direction_under_the_same_number() {
    let mut pair = Pair::new();
    let from_a = pair.a.open(CallKind::Async, &["x"], &[json!(1)]).unwrap();
    let from_b = pair.b.open(CallKind::Async, &["y"], NONE).unwrap();
    assert_eq!(from_a.number, from_b.number);
    pair.settle();
    let (at_b, call) = pair.b.next_call().unwrap();
    assert_eq!((call.name, call.args), (vec!["x".to_owned()], vec![json!(1)]));
    let (at_a, _) = pair.a.next_call().unwrap();
    assert_eq!(pair.a.take_answer(from_a), None);
    pair.b.reply(at_b, Ok(item("yes")));
    pair.a.reply(at_a, Err(failed("no")));
    pair.settle();
    assert_eq!(pair.a.take_answer(from_a), Some(Ok(item("yes"))));
    assert_eq!(pair.b.take_answer(from_b), Some(Err(failed("no").into())));
    assert!(pair.is_empty());
}

#[test]
fn a_source_ends_on_both_sides() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(CallKind::Source);
    pair.b.send(theirs, item("one")).unwrap();
    pair.b.end(theirs, None);
    pair.settle();
    assert_eq!(pair.a.recv(ours), Received::Item(item("one")));
    assert_eq!(pair.a.recv(ours), Received::Ended);
    assert_eq!(pair.a.recv(ours), Received::Ended);
    pair.a.drop_writer(ours);
    pair.a.drop_reader(ours);
    pair.b.drop_reader(theirs);
    pair.settle();
    assert!(pair.is_empty());
}

/// The bytes of a source call as JS has them: both sides end with `true`.
#[test]
fn the_frames_of_a_source_are_those_of_js() {
    let mut mux = Mux::new(Limits::default());
    let call = r#"{"name":["createHistoryStream"],"args":[{"id":"x"}],"type":"source"}"#;
    mux.handle(packet(6, true, false, call));
    let (id, _) = mux.next_call().unwrap();
    mux.send(id, Body::json(&1)).unwrap();
    mux.end(id, None);
    assert_eq!(outputs(&mut mux), [packet(-6, true, false, "1"), packet(-6, true, true, "true")]);
    mux.handle(packet(6, true, true, "true"));
    mux.drop_reader(id);
    assert_eq!(outputs(&mut mux), []);
    assert!(mux.entries.is_empty());
}

#[test]
fn a_source_that_fails_says_why_after_its_items() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(CallKind::Source);
    pair.b.send(theirs, item("one")).unwrap();
    pair.b.end(theirs, Some(&failed("broken")));
    pair.settle();
    assert_eq!(pair.a.recv(ours), Received::Item(item("one")));
    assert_eq!(pair.a.recv(ours), Received::Failed(failed("broken").into()));
    assert_eq!(pair.a.recv(ours), Received::Ended);
}

#[test]
fn a_reader_that_leaves_aborts_the_source_and_what_waits_is_not_sent() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(CallKind::Source);
    pair.b.send(theirs, item("unsent")).unwrap();
    assert!(!pair.b.watch_closed(theirs));
    while pair.b.poll_event().is_some() {}
    pair.a.drop_writer(ours);
    pair.a.drop_reader(ours);
    assert!(cross(&mut pair.a, &mut pair.b));
    assert_eq!(pair.b.poll_event(), Some(Event::Writable(theirs)));
    assert_eq!(pair.b.send_room(theirs), Room::Closed);
    assert_eq!(pair.b.send(theirs, item("late")), Err(StreamClosed));
    assert_eq!(outputs(&mut pair.b), [packet(-1, true, true, "true")]);
    pair.b.drop_writer(theirs);
    pair.b.drop_reader(theirs);
    assert!(pair.is_empty());
}

#[test]
fn a_sink_reports_how_it_went() {
    for outcome in [None, Some(failed("full"))] {
        let mut pair = Pair::new();
        let (ours, theirs) = pair.open(CallKind::Sink);
        pair.a.send(ours, item("one")).unwrap();
        pair.a.end(ours, None);
        pair.settle();
        assert_eq!(pair.b.recv(theirs), Received::Item(item("one")));
        assert_eq!(pair.b.recv(theirs), Received::Ended);
        assert_eq!(pair.a.recv(ours), Received::Pending);
        pair.b.end(theirs, outcome.as_ref());
        pair.settle();
        let expected = outcome.map_or(Received::Ended, |error| Received::Failed(error.into()));
        assert_eq!(pair.a.recv(ours), expected);
        pair.a.drop_reader(ours);
        pair.b.drop_reader(theirs);
        pair.settle();
        assert!(pair.is_empty());
    }
}

#[test]
fn a_sink_whose_writer_was_dropped_ends_once_all_is_read() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(CallKind::Sink);
    pair.b.drop_writer(theirs);
    pair.a.send(ours, item("one")).unwrap();
    pair.settle();
    assert_eq!(pair.b.recv(theirs), Received::Item(item("one")));
    pair.a.end(ours, None);
    pair.settle();
    assert_eq!(pair.a.recv(ours), Received::Ended);
}

#[test]
fn a_duplex_carries_both_ways_and_the_peers_end_is_the_end_of_both() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(CallKind::Duplex);
    pair.a.send(ours, item("ping")).unwrap();
    pair.b.send(theirs, item("pong")).unwrap();
    pair.settle();
    assert_eq!(pair.a.recv(ours), Received::Item(item("pong")));
    assert_eq!(pair.b.recv(theirs), Received::Item(item("ping")));
    pair.b.end(theirs, None);
    pair.settle();
    assert_eq!(pair.a.send(ours, item("late")), Err(StreamClosed));
    assert_eq!(pair.a.recv(ours), Received::Ended);
    assert_eq!(pair.b.recv(theirs), Received::Ended);
    for (mux, id) in [(&mut pair.a, ours), (&mut pair.b, theirs)] {
        mux.drop_writer(id);
        mux.drop_reader(id);
    }
    pair.settle();
    assert!(pair.is_empty());
}

#[test]
fn after_our_end_a_duplex_can_still_be_read() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(CallKind::Duplex);
    pair.b.send(theirs, item("last")).unwrap();
    pair.a.end(ours, None);
    cross(&mut pair.b, &mut pair.a);
    pair.settle();
    assert_eq!(pair.a.recv(ours), Received::Item(item("last")));
    assert_eq!(pair.a.recv(ours), Received::Ended);
}

#[test]
fn a_session_is_busy_with_calls_and_transfers_but_not_with_what_lasts_for_ever() {
    let mut pair = Pair::new();
    let (ping, pong) = pair.open(CallKind::Duplex);
    assert!(pair.a.is_busy() && pair.b.is_busy());
    pair.a.set_lasting(ping);
    pair.b.set_lasting(pong);
    assert!(!pair.a.is_busy() && !pair.b.is_busy());
    pair.a.send(ping, item("1")).unwrap();
    assert!(pair.a.is_busy(), "what is queued has to go first");
    pair.settle();
    let (ours, theirs) = pair.open(CallKind::Async);
    assert!(pair.a.is_busy() && pair.b.is_busy());
    pair.b.reply(theirs, Ok(item("2")));
    pair.settle();
    assert!(pair.a.is_busy(), "nobody has taken the answer yet");
    assert!(pair.a.take_answer(ours).is_some());
    assert!(!pair.a.is_busy() && !pair.b.is_busy());
}

#[test]
fn packets_for_calls_that_are_over_or_unknown_are_ignored() {
    let mut mux = Mux::new(Limits::default());
    for frame in [
        packet(-7, false, false, "1"),
        packet(-7, true, true, "true"),
        packet(7, true, true, "true"),
        packet(7, false, true, r#"{"message":"x"}"#),
        packet(0, false, false, "1"),
        packet(i32::MIN, true, false, "1"),
    ] {
        mux.handle(frame);
    }
    assert_eq!((outputs(&mut mux), mux.poll_event()), (vec![], None));

    mux.handle(packet(7, true, false, r#"{"name":["a"],"args":[],"type":"sink"}"#));
    let (id, _) = mux.next_call().unwrap();
    mux.end(id, Some(&failed("no")));
    mux.drop_reader(id);
    assert_eq!(outputs(&mut mux).len(), 1);
    mux.handle(packet(7, true, false, r#"{"name":["b"],"args":[],"type":"sink"}"#));
    assert_eq!((outputs(&mut mux), mux.next_call()), (vec![], None));
    mux.handle(packet(7, true, true, "true"));
    mux.handle(packet(7, true, false, r#"{"name":["b"],"args":[],"type":"sink"}"#));
    assert_eq!(mux.next_call().map(|(_, call)| call.name), Some(vec!["b".to_owned()]));
}

#[test]
fn the_streams_that_are_over_for_us_only_are_remembered_up_to_a_limit() {
    let mut mux = Mux::new(Limits::default());
    for number in 1..=i32::try_from(2 * MAX_TOMBSTONES).unwrap() {
        mux.handle(packet(number, true, false, "{}"));
    }
    assert_eq!(mux.tombstones.len(), MAX_TOMBSTONES);
    assert_eq!((mux.entries.len(), mux.theirs), (0, 0));
}

#[test]
fn a_malformed_call_is_answered_and_harms_no_other() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(CallKind::Source);
    pair.b.handle(packet(40, false, false, r#"{"name":["a"]}"#));
    pair.b.handle(packet(41, true, false, r#"{"name":["a"],"args":[],"type":"async"}"#));
    pair.b.handle(packet(42, false, false, "{"));
    let answers: Vec<(i32, bool, String)> = outputs(&mut pair.b)
        .into_iter()
        .map(|frame| match frame {
            Frame::Packet(p) if p.end => (p.request, p.stream, RemoteError::from_body(&p.body).message),
            other @ (Frame::Packet(_) | Frame::Goodbye) => panic!("{other:?}"),
        })
        .collect();
    let args = r#"invalid request, args should be array, was: {"name":["a"]}"#;
    let expected = [
        (-40, false, args.to_owned()),
        (-41, true, "unsupported stream type: async".to_owned()),
        (-42, false, "invalid request, should be a JSON object".to_owned()),
    ];
    assert_eq!(answers, expected);
    pair.b.send(theirs, item("still there")).unwrap();
    pair.settle();
    assert_eq!(pair.a.recv(ours), Received::Item(item("still there")));
}

#[test]
fn a_stream_call_refused_without_the_stream_flag_fails_all_the_same() {
    let mut mux = Mux::new(Limits::default());
    let id = mux.open(CallKind::Duplex, &["ebt", "replicate"], NONE).unwrap();
    let refusal = not_allowed(&["ebt", "replicate"]);
    let body = refusal.to_body();
    mux.handle(Frame::Packet(Packet { stream: false, end: true, request: -1, body }));
    assert_eq!(mux.recv(id), Received::Failed(refusal.into()));
}

#[test]
fn calls_beyond_the_limit_are_answered_with_an_error() {
    let limits = Limits { open_calls: 2, ..Limits::default() };
    let mut pair = Pair { a: Mux::new(Limits::default()), b: Mux::new(limits) };
    let ids: Vec<CallId> = (0..3).map(|_| pair.a.open(CallKind::Async, &["m"], NONE).unwrap()).collect();
    pair.settle();
    assert_eq!(pair.a.take_answer(ids[0]), None);
    let refused = Some(Err(failed("too many open calls").into()));
    assert_eq!(pair.a.take_answer(ids[2]), refused);
    let (first, _) = pair.b.next_call().unwrap();
    pair.b.reply(first, Ok(Body::void()));
    let more = pair.a.open(CallKind::Async, &["m"], NONE).unwrap();
    pair.settle();
    assert_eq!(pair.a.take_answer(ids[0]), Some(Ok(Body::void())));
    assert_eq!(pair.a.take_answer(more), None);
}

#[test]
fn calls_that_nobody_takes_stop_the_reading() {
    let limits = Limits { waiting_calls: 2, ..Limits::default() };
    let mut pair = Pair { a: Mux::new(Limits::default()), b: Mux::new(limits) };
    for _ in 0..3 {
        pair.a.open(CallKind::Async, &["m"], NONE).unwrap();
    }
    pair.settle();
    assert_eq!(pair.b.waiting.len(), 2);
    assert!(pair.a.has_output());
    pair.b.next_call().unwrap();
    assert!(std::iter::from_fn(|| pair.b.poll_event()).any(|event| event == Event::Resumed));
    pair.settle();
    assert!(!pair.a.has_output());
}

#[test]
fn refused_calls_are_answered_with_the_text_of_a_missing_method() {
    let mut pair = Pair::new();
    let before = pair.a.open(CallKind::Async, &["m"], NONE).unwrap();
    pair.settle();
    pair.b.refuse_calls();
    let after = pair.a.open(CallKind::Source, &["m", "n"], NONE).unwrap();
    pair.settle();
    assert_eq!(pair.a.take_answer(before), Some(Err(not_allowed(&["m"]).into())));
    assert_eq!(pair.a.recv(after), Received::Failed(not_allowed(&["m", "n"]).into()));
    assert!(pair.b.entries.is_empty());
}

#[test]
fn a_slow_reader_stops_the_reading_and_resumes_it() {
    let limits = Limits { inbound: 1000, ..Limits::default() };
    let mut pair = Pair { a: Mux::new(limits), b: Mux::new(Limits::default()) };
    let (ours, theirs) = pair.open(CallKind::Source);
    for _ in 0..20 {
        pair.b.send(theirs, Body::binary(vec![0; 200])).unwrap();
    }
    pair.settle();
    assert!(!pair.a.wants_input());
    while pair.a.poll_event().is_some() {}
    let mut seen = 0;
    while pair.a.poll_event() != Some(Event::Resumed) {
        assert!(matches!(pair.a.recv(ours), Received::Item(_)));
        seen += 1;
    }
    assert_eq!(seen, 3);
    while matches!(pair.a.recv(ours), Received::Item(_)) {
        seen += 1;
        pair.settle();
    }
    assert_eq!(seen, 20);
}

#[test]
fn a_reader_that_leaves_resumes_the_reading() {
    let limits = Limits { inbound: 1000, ..Limits::default() };
    let mut pair = Pair { a: Mux::new(limits), b: Mux::new(Limits::default()) };
    let (ours, theirs) = pair.open(CallKind::Source);
    for _ in 0..20 {
        pair.b.send(theirs, Body::binary(vec![0; 200])).unwrap();
    }
    pair.settle();
    assert!(!pair.a.wants_input());
    pair.a.drop_reader(ours);
    assert!(pair.a.wants_input());
    pair.settle();
    assert_eq!(pair.b.send_room(theirs), Room::Closed);
}

#[test]
fn items_on_a_stream_that_only_we_feed_are_thrown_away() {
    let mut mux = Mux::new(Limits { inbound: 100, ..Limits::default() });
    mux.handle(packet(1, true, false, r#"{"name":["a"],"args":[],"type":"source"}"#));
    for _ in 0..10 {
        mux.handle(packet(1, true, false, "123456789"));
    }
    let (id, _) = mux.next_call().unwrap();
    assert!(mux.wants_input());
    assert_eq!(mux.recv(id), Received::Pending);
}

#[test]
fn a_sender_waits_while_its_queue_is_full_and_hears_of_room() {
    let limits = Limits { outbound: 1000, ..Limits::default() };
    let mut pair = Pair { a: Mux::new(limits), b: Mux::new(Limits::default()) };
    let (ours, _) = pair.open(CallKind::Sink);
    let mut sent = 0;
    while pair.a.send_room(ours) == Room::Ready {
        pair.a.send(ours, Body::binary(vec![0; 200])).unwrap();
        sent += 1;
    }
    assert_eq!(sent, 4);
    assert_eq!(pair.a.send_room(ours), Room::Full);
    while pair.a.poll_event().is_some() {}
    let mut gone = 0;
    while pair.a.poll_event() != Some(Event::Writable(ours)) {
        pair.a.poll_output().unwrap();
        gone += 1;
    }
    assert_eq!(gone, 3);
    assert_eq!(pair.a.send_room(ours), Room::Ready);
}

#[test]
fn many_streams_together_may_not_have_much_more_waiting_than_one() {
    let limits = Limits { outbound: 1000, outbound_in_all: 2000, ..Limits::default() };
    let mut pair = Pair { a: Mux::new(limits), b: Mux::new(Limits::default()) };
    let streams: Vec<CallId> = (0..100).map(|_| pair.open(CallKind::Sink).0).collect();
    let fill = |mux: &mut Mux| {
        let mut sent = 0;
        for id in &streams {
            while mux.send_room(*id) == Room::Ready {
                mux.send(*id, Body::binary(vec![0; 200])).unwrap();
                sent += 1;
            }
        }
        sent
    };
    // Two streams fill the common room, the others have one item each.
    assert_eq!(fill(&mut pair.a), 4 + 4 + 98);
    while pair.a.poll_event().is_some() {}
    while pair.a.poll_output().is_some() {}
    let heard = std::iter::from_fn(|| pair.a.poll_event());
    let heard: BTreeSet<CallId> =
        heard.filter_map(|event| if let Event::Writable(id) = event { Some(id) } else { None }).collect();
    assert!(streams.iter().all(|id| heard.contains(id)), "everyone who waits hears of room");
    assert!(streams.iter().all(|id| pair.a.send_room(*id) == Room::Ready));
}

#[test]
fn whoever_answers_waits_while_too_many_answers_wait() {
    let mut pair = Pair::new();
    for _ in 0..3 {
        pair.a.open(CallKind::Async, &["m"], NONE).unwrap();
    }
    pair.settle();
    let ids: Vec<CallId> = std::iter::from_fn(|| pair.b.next_call()).map(|(id, _)| id).collect();
    assert_eq!(pair.b.call_room(), Room::Ready);
    pair.b.reply(ids[0], Ok(Body::binary(vec![1; MAX_CALLS])));
    assert_eq!(pair.b.call_room(), Room::Full);
    assert!(pair.b.wants_input());
    while pair.b.poll_event().is_some() {}
    pair.b.poll_output().unwrap();
    assert_eq!(pair.b.poll_event(), Some(Event::CallsDrained));
    assert_eq!(pair.b.call_room(), Room::Ready);
    pair.b.close();
    assert_eq!(pair.b.call_room(), Room::Closed);
}

#[test]
fn a_peer_that_takes_none_of_the_errors_it_causes_is_not_read() {
    let mut mux = Mux::new(Limits::default());
    let mut number = 0;
    while mux.wants_input() {
        number += 1;
        mux.handle(packet(number, false, false, "{}"));
    }
    assert!(mux.outbox.refusals() < MAX_REFUSALS + 1000);
    mux.poll_output().unwrap();
    assert_eq!(mux.poll_event(), Some(Event::Resumed));
}

#[test]
fn empty_bodies_never_reach_the_wire() {
    let mut pair = Pair::new();
    let (_, theirs) = pair.open(CallKind::Source);
    for body in [Body::binary(&b""[..]), Body::text(""), Body::json_raw(&b""[..])] {
        pair.b.send(theirs, body).unwrap();
    }
    let expected = [packet(-1, true, false, "\"\""), packet(-1, true, false, "null")];
    assert_eq!(outputs(&mut pair.b), expected);
}

#[test]
fn a_goodbye_is_answered_after_what_is_queued_and_fails_what_is_open() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(CallKind::Duplex);
    let asked = pair.a.open(CallKind::Async, &["m"], NONE).unwrap();
    pair.settle();
    pair.a.send(ours, item("before")).unwrap();
    pair.b.close();
    assert!(pair.b.has_output());
    assert_eq!(outputs(&mut pair.b), [Frame::Goodbye]);
    pair.a.handle(Frame::Goodbye);
    assert_eq!(pair.a.recv(ours), Received::Failed(CallError::SessionEnded));
    assert_eq!(pair.a.take_answer(asked), Some(Err(CallError::SessionEnded)));
    assert_eq!(pair.a.open(CallKind::Async, &["m"], NONE), None);
    let frames = outputs(&mut pair.a);
    assert_eq!((frames.len(), frames.last()), (2, Some(&Frame::Goodbye)));
    assert!(pair.a.is_over() && !pair.b.is_over());
    for frame in frames {
        pair.b.handle(frame);
    }
    assert!(pair.b.is_over());
    assert_eq!(pair.b.recv(theirs), Received::Failed(CallError::SessionEnded));
    assert_eq!(CallError::SessionEnded.to_string(), "unexpected end of parent stream");
}

#[test]
fn what_was_received_before_the_line_was_lost_can_be_read() {
    let mut pair = Pair::new();
    let (ours, theirs) = pair.open(CallKind::Source);
    pair.b.send(theirs, item("saved")).unwrap();
    pair.settle();
    pair.a.handle_lost();
    assert_eq!(pair.a.recv(ours), Received::Item(item("saved")));
    assert_eq!(pair.a.recv(ours), Received::Failed(CallError::SessionEnded));
    assert_eq!(outputs(&mut pair.a), []);
}

#[test]
fn a_call_whose_caller_left_takes_its_answer_silently() {
    let mut pair = Pair::new();
    let ours = pair.a.open(CallKind::Async, &["m"], NONE).unwrap();
    pair.a.cancel(ours);
    pair.settle();
    let (theirs, _) = pair.b.next_call().unwrap();
    pair.b.reply(theirs, Ok(Body::void()));
    pair.settle();
    assert!(pair.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Open(bool, CallKind),
    Send(bool, usize, usize),
    End(bool, usize, bool),
    DropWriter(bool, usize),
    DropReader(bool, usize),
    Recv(bool, usize),
    Cross,
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![Just(CallKind::Source), Just(CallKind::Sink), Just(CallKind::Duplex)];
    let at = 0usize..6;
    prop_oneof![
        1 => (any::<bool>(), kind).prop_map(|(side, kind)| Step::Open(side, kind)),
        4 => (any::<bool>(), at.clone(), 0usize..600).prop_map(|(s, i, n)| Step::Send(s, i, n)),
        1 => (any::<bool>(), at.clone(), any::<bool>()).prop_map(|(s, i, e)| Step::End(s, i, e)),
        1 => (any::<bool>(), at.clone()).prop_map(|(s, i)| Step::DropWriter(s, i)),
        1 => (any::<bool>(), at.clone()).prop_map(|(s, i)| Step::DropReader(s, i)),
        4 => (any::<bool>(), at).prop_map(|(s, i)| Step::Recv(s, i)),
        3 => Just(Step::Cross),
    ]
}

fn apply(pair: &mut Pair, held: &mut [Vec<CallId>; 2], step: Step) {
    let pick = |held: &[Vec<CallId>; 2], side: bool, at: usize| held[usize::from(side)].get(at).copied();
    macro_rules! on {
        ($side:expr, $at:expr, |$mux:ident, $id:ident| $do:expr) => {
            if let Some($id) = pick(held, $side, $at) {
                let $mux = if $side { &mut pair.b } else { &mut pair.a };
                let _ = $do;
            }
        };
    }
    match step {
        Step::Open(side, kind) => {
            let opener = if side { &mut pair.b } else { &mut pair.a };
            held[usize::from(side)].push(opener.open(kind, &["m"], NONE).unwrap());
        }
        Step::Send(side, at, len) => on!(side, at, |mux, id| mux.send(id, Body::binary(vec![1; len]))),
        Step::End(side, at, fails) => {
            let error = fails.then(|| failed("x"));
            on!(side, at, |mux, id| mux.end(id, error.as_ref()));
        }
        Step::DropWriter(side, at) => on!(side, at, |mux, id| mux.drop_writer(id)),
        Step::DropReader(side, at) => on!(side, at, |mux, id| mux.drop_reader(id)),
        Step::Recv(side, at) => on!(side, at, |mux, id| mux.recv(id)),
        Step::Cross => pair.settle(),
    }
    for (mux, held) in [&mut pair.a, &mut pair.b].into_iter().zip(held) {
        held.extend(std::iter::from_fn(|| mux.next_call()).map(|(id, _)| id));
    }
}

proptest! {
    /// Whatever both sides do in whatever order, once all handles are gone nothing is left of any call,
    /// and the session still works.
    #[test]
    fn nothing_of_a_stream_remains_when_both_sides_let_go(
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let limits = Limits { inbound: 2000, outbound: 1000, ..Limits::default() };
        let mut pair = Pair { a: Mux::new(limits), b: Mux::new(limits) };
        let mut held = [Vec::new(), Vec::new()];
        for step in steps {
            apply(&mut pair, &mut held, step);
        }
        for round in 0..3 {
            for (mux, held) in [&mut pair.a, &mut pair.b].into_iter().zip(&mut held) {
                held.extend(std::iter::from_fn(|| mux.next_call()).map(|(id, _)| id));
                for id in held.drain(..) {
                    mux.drop_writer(id);
                    mux.drop_reader(id);
                }
            }
            pair.settle();
            prop_assert!(round == 0 || pair.a.wants_input() && pair.b.wants_input());
        }
        prop_assert!(pair.is_empty(), "{:?} {:?}", pair.a, pair.b);
        pair.open(CallKind::Duplex);
    }

    #[test]
    fn no_frames_make_it_panic(
        frames in proptest::collection::vec(
            (any::<bool>(), any::<bool>(), -4i32..5, 0usize..6), 0..60,
        ),
    ) {
        let bodies = [
            r#"{"name":["a"],"args":[],"type":"duplex"}"#, r#"{"name":"a","args":[]}"#, "true",
            r#"{"message":"x"}"#, "{", "1",
        ];
        let mut mux = Mux::new(Limits { waiting_calls: 3, ..Limits::default() });
        mux.open(CallKind::Async, &["m"], NONE);
        mux.open(CallKind::Duplex, &["m"], NONE);
        for (stream, end, request, body) in frames {
            mux.handle(packet(request, stream, end, bodies[body]));
            while mux.poll_output().is_some() {}
        }
    }
}
