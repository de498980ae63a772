use std::time::{Duration, Instant};

use super::peer::{LAZY, SAVE, STALL};
use super::*;

mod recorded;
mod window;

fn feed(n: u8) -> FeedId {
    FeedId::from_bytes([n; 32])
}

fn peer(n: u8) -> Peer {
    Peer(feed(n))
}

const ME: u8 = 0;

/// A machine, a clock that only the test moves, and words for the inputs.
struct Rig {
    state: State,
    now: Instant,
}

#[expect(clippy::disallowed_methods, reason = "the one start instant; everything else is relative to it")]
fn rig() -> Rig {
    Rig { state: State::new(feed(ME)), now: Instant::now() }
}

impl Rig {
    fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.state.poll_output()).collect()
    }

    fn give(&mut self, input: Input) -> Vec<Output> {
        self.state.handle(self.now, input);
        self.drain()
    }

    fn wait(&mut self, time: Duration) -> Vec<Output> {
        self.now += time;
        self.state.handle_timeout(self.now);
        self.drain()
    }

    /// Wants the feed and holds it up to `sequence`.
    fn hold(&mut self, n: u8, sequence: u64) -> Vec<Output> {
        let mut outputs = self.give(Input::Replicate { feed: feed(n), rank: Some(1) });
        outputs.extend(self.give(Input::Appended { feed: feed(n), sequence }));
        outputs
    }

    fn want(&mut self, n: u8) -> Vec<Output> {
        self.give(Input::Replicate { feed: feed(n), rank: Some(1) })
    }

    fn called_by(&mut self, p: u8, clock: &[(u8, Stored)]) -> Vec<Output> {
        let clock = clock.iter().map(|&(n, stored)| (feed(n), stored)).collect();
        self.give(Input::Connected { peer: peer(p), role: Role::Callee, clock })
    }

    fn calls(&mut self, p: u8) -> Vec<Output> {
        self.give(Input::Connected { peer: peer(p), role: Role::Caller, clock: PeerClock::default() })
    }

    fn notes(&mut self, p: u8, notes: &[(u8, Note)]) -> Vec<Output> {
        self.give(Input::Notes { peer: peer(p), notes: entries(notes) })
    }

    fn receive(&mut self, p: u8, n: u8, sequence: u64) -> Vec<Output> {
        self.give(Input::Received { peer: peer(p), feed: feed(n), sequence })
    }

    fn append(&mut self, n: u8, sequence: u64) -> Vec<Output> {
        self.give(Input::Appended { feed: feed(n), sequence })
    }

    /// Receives a message and stores it at once.
    fn take(&mut self, p: u8, n: u8, sequence: u64) {
        assert_eq!(self.receive(p, n, sequence), [accept(p, n, sequence)]);
        self.append(n, sequence);
    }
}

fn entries(notes: &[(u8, Note)]) -> Notes {
    notes.iter().map(|&(n, note)| (feed(n), note)).collect()
}

fn told(p: u8, notes: &[(u8, Note)]) -> Output {
    Output::SendNotes { peer: peer(p), notes: entries(notes) }
}

fn notes_of(output: &Output) -> &Notes {
    let Output::SendNotes { notes, .. } = output else { panic!("{output:?}") };
    notes
}

fn send(p: u8, n: u8, from: u64, to: u64) -> Output {
    Output::Send { peer: peer(p), feed: feed(n), from, to }
}

fn cancel(p: u8, n: u8) -> Output {
    Output::CancelSend { peer: peer(p), feed: feed(n) }
}

fn accept(p: u8, n: u8, sequence: u64) -> Output {
    Output::Accept { peer: peer(p), feed: feed(n), sequence }
}

fn save(p: u8) -> Output {
    Output::ClockChanged { peer: peer(p) }
}

const fn push(sequence: u64) -> Note {
    Note::new(sequence, true)
}

const fn hold(sequence: u64) -> Note {
    Note::new(sequence, false)
}

#[test]
fn the_called_side_speaks_first_even_if_it_has_nothing_to_say() {
    let mut rig = rig();
    assert_eq!(rig.called_by(1, &[]), [told(1, &[])]);
}

#[test]
fn the_calling_side_waits_for_the_first_notes() {
    let mut rig = rig();
    rig.hold(5, 3);
    assert_eq!(rig.calls(1), []);
    assert_eq!(rig.append(5, 4), []);
    assert_eq!(rig.state.clock(&peer(1)), None);
    assert_eq!(rig.notes(1, &[]), [told(1, &[(5, push(4))])]);
}

#[test]
fn a_feed_that_did_not_change_is_not_mentioned_but_an_empty_or_unknown_one_is() {
    let mut rig = rig();
    for (n, sequence) in [(5, 3), (6, 4), (7, 5)] {
        rig.hold(n, sequence);
    }
    rig.want(8);
    rig.want(9);
    let clock = [(5, Stored::At(3)), (6, Stored::At(2)), (7, Stored::Refused), (8, Stored::At(0))];
    assert_eq!(rig.called_by(1, &clock), [told(1, &[(6, push(4)), (8, push(0)), (9, push(0))])]);
}

#[test]
fn near_feeds_are_named_first_and_large_sets_are_split() {
    let mut rig = rig();
    let id = |n: u32| FeedId::from_bytes(std::array::from_fn(|i| n.to_be_bytes()[i % 4]));
    let many = MAX_NOTES_SENT as u32 + 7;
    for n in 1..=many {
        rig.give(Input::Replicate { feed: id(n), rank: Some(many - n) });
    }
    let outputs = rig.called_by(1, &[]);
    let ids = |output: &Output| notes_of(output).iter().map(|(feed, _)| feed).collect::<Vec<_>>();
    let named: Vec<_> = outputs.iter().map(ids).collect();
    assert_eq!(named.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_NOTES_SENT, 7]);
    assert_eq!(named.concat(), (1..=many).rev().map(id).collect::<Vec<_>>());
}

#[test]
fn a_peer_behind_is_sent_what_it_asks_for_and_then_every_new_message() {
    let mut rig = rig();
    rig.hold(5, 10);
    rig.called_by(1, &[]);
    assert_eq!(rig.notes(1, &[(5, push(7))]), [send(1, 5, 8, 10)]);
    assert_eq!(rig.append(5, 12), [send(1, 5, 11, 12)]);
}

#[test]
fn a_peer_that_wants_no_push_is_told_of_news_and_sent_nothing() {
    let mut rig = rig();
    rig.hold(5, 10);
    rig.called_by(1, &[]);
    rig.notes(1, &[(5, hold(10))]);
    assert_eq!(rig.append(5, 11), []);
    assert_eq!(rig.append(5, 12), []);
    assert_eq!(rig.wait(LAZY), [told(1, &[(5, push(12))])]);
    assert_eq!(rig.notes(1, &[(5, push(10))]), [send(1, 5, 11, 12)]);
}

#[test]
fn news_that_the_peer_announced_itself_are_not_repeated() {
    let mut rig = rig();
    rig.hold(5, 10);
    rig.called_by(1, &[]);
    rig.notes(1, &[(5, hold(10))]);
    rig.append(5, 11);
    rig.notes(1, &[(5, hold(11))]);
    assert_eq!(rig.wait(LAZY), []);
}

#[test]
fn a_peer_that_stops_the_push_has_the_rest_cancelled() {
    let mut rig = rig();
    rig.hold(5, 10);
    rig.called_by(1, &[]);
    rig.notes(1, &[(5, push(0))]);
    assert_eq!(rig.notes(1, &[(5, hold(4))])[0], cancel(1, 5));
    rig.append(5, 11);
    assert!(rig.wait(LAZY).iter().all(|output| matches!(output, Output::SendNotes { .. })));
}

#[test]
fn a_new_request_restarts_where_the_peer_says() {
    let mut rig = rig();
    rig.hold(5, 10);
    rig.called_by(1, &[]);
    rig.notes(1, &[(5, push(0))]);
    assert_eq!(rig.notes(1, &[(5, push(6))]), [cancel(1, 5), send(1, 5, 7, 10)]);
    // Also backwards: a peer that lost its store is served again.
    assert_eq!(rig.notes(1, &[(5, push(2))]), [cancel(1, 5), send(1, 5, 3, 10)]);
}

#[test]
fn an_unwanted_feed_is_refused_once() {
    let mut rig = rig();
    rig.called_by(1, &[]);
    assert_eq!(rig.notes(1, &[(5, push(3)), (6, Note::REFUSE)]), [told(1, &[(5, Note::REFUSE)])]);
    assert_eq!(rig.notes(1, &[(5, push(4))]), []);
    assert_eq!(rig.receive(1, 5, 1), []);
}

#[test]
fn a_feed_refused_earlier_is_asked_for_once_it_is_wanted() {
    let mut rig = rig();
    rig.called_by(1, &[]);
    rig.notes(1, &[(5, hold(3))]);
    assert_eq!(rig.want(5), [told(1, &[(5, push(0))])]);
    rig.take(1, 5, 1);
}

#[test]
fn a_push_asked_for_while_the_feed_was_refused_begins_once_it_is_wanted() {
    let mut rig = rig();
    rig.append(5, 3);
    rig.called_by(1, &[]);
    rig.notes(1, &[(5, push(1)), (6, push(0))]);
    assert_eq!(rig.want(5), [send(1, 5, 2, 3), told(1, &[(5, push(3))])]);
    assert_eq!(rig.want(6), [told(1, &[(6, push(0))])]);
    assert_eq!(rig.append(6, 1), [send(1, 6, 1, 1)]);
}

#[test]
fn only_one_peer_is_asked_to_push_a_feed() {
    let mut rig = rig();
    rig.want(5);
    assert_eq!(rig.called_by(1, &[]), [told(1, &[(5, push(0))])]);
    assert_eq!(rig.called_by(2, &[]), [told(2, &[(5, hold(0))])]);
    rig.notes(1, &[(5, hold(8))]);
    assert_eq!(rig.notes(2, &[(5, hold(9))]), [], "the first still has more than we do");
}

#[test]
fn a_source_that_ran_dry_is_left_for_one_that_is_ahead() {
    let mut rig = rig();
    rig.want(5);
    rig.called_by(1, &[]);
    rig.called_by(2, &[]);
    rig.notes(1, &[(5, hold(2))]);
    rig.notes(2, &[(5, hold(3))]);
    rig.take(1, 5, 1);
    let outputs = rig.receive(1, 5, 2);
    assert_eq!(outputs, [accept(1, 5, 2), told(1, &[(5, hold(1))]), told(2, &[(5, push(2))])]);
}

#[test]
fn a_peer_that_stalls_loses_the_feed_to_the_next_in_a_circle() {
    let mut rig = rig();
    rig.want(5);
    for p in [1, 2, 3] {
        rig.called_by(p, &[]);
        rig.notes(p, &[(5, hold(9))]);
    }
    assert_eq!(rig.wait(STALL - Duration::from_millis(1)), []);
    assert_eq!(rig.wait(Duration::from_millis(1)), [told(1, &[(5, hold(0))]), told(2, &[(5, push(0))])]);
    rig.take(2, 5, 1);
    rig.wait(STALL - Duration::from_millis(1));
    rig.take(2, 5, 2);
    assert_eq!(rig.wait(STALL - Duration::from_millis(1)), [], "a message is a sign of life");
    assert_eq!(rig.wait(Duration::from_millis(1)), [told(2, &[(5, hold(2))]), told(3, &[(5, push(2))])]);
    assert_eq!(rig.wait(STALL), [told(1, &[(5, push(2))]), told(3, &[(5, hold(2))])]);
}

#[test]
fn a_feed_that_starves_while_its_source_sends_others_moves_on_too() {
    let mut rig = rig();
    rig.want(5);
    rig.want(6);
    rig.called_by(1, &[]);
    rig.called_by(2, &[]);
    rig.notes(1, &[(5, hold(999)), (6, hold(999))]);
    rig.notes(2, &[(5, hold(999)), (6, Note::REFUSE)]);
    for sequence in 1..=59 {
        assert_eq!(rig.wait(Duration::from_secs(1)), []);
        rig.take(1, 6, sequence);
    }
    rig.wait(Duration::from_secs(1));
    let told_now = rig.wait(STALL);
    assert_eq!(told_now, [told(1, &[(5, hold(0)), (6, push(59))]), told(2, &[(5, push(0))])]);
}

#[test]
fn a_peer_that_only_claims_to_have_more_delays_nothing() {
    let mut rig = rig();
    rig.want(5);
    rig.called_by(1, &[]);
    rig.called_by(2, &[]);
    rig.notes(1, &[(5, hold(Note::MAX_SEQUENCE))]);
    rig.wait(STALL);
    assert_eq!(rig.notes(2, &[(5, hold(1))]), [told(1, &[(5, hold(0))]), told(2, &[(5, push(0))])]);
    let outputs = rig.receive(2, 5, 1);
    assert_eq!(outputs, [accept(2, 5, 1), told(1, &[(5, push(1))]), told(2, &[(5, hold(0))])]);
    rig.append(5, 1);
    // Asked once more, it is left again at once when another peer has news.
    assert_eq!(rig.notes(2, &[(5, hold(2))]), [told(1, &[(5, hold(1))]), told(2, &[(5, push(1))])]);
}

#[test]
fn a_peer_that_stalls_alone_keeps_the_feed_and_is_told_where_we_are() {
    let mut rig = rig();
    rig.want(5);
    rig.called_by(1, &[]);
    rig.notes(1, &[(5, hold(9))]);
    rig.take(1, 5, 1);
    assert_eq!(rig.wait(STALL), [told(1, &[(5, push(1))])]);
    assert_eq!(rig.wait(STALL), []);
}

#[test]
fn a_peer_that_owes_nothing_has_no_deadline() {
    let mut rig = rig();
    rig.want(5);
    rig.called_by(1, &[]);
    assert_eq!(rig.state.poll_timeout(), None);
    rig.notes(1, &[(5, hold(1))]);
    assert_eq!(rig.state.poll_timeout(), Some(rig.now + STALL));
    rig.take(1, 5, 1);
    assert_eq!(rig.state.poll_timeout(), Some(rig.now + SAVE));
}

#[test]
fn a_source_that_leaves_is_replaced_by_the_best_of_the_others() {
    let mut rig = rig();
    rig.want(5);
    for (p, sequence) in [(1, 9), (2, 4), (3, 7)] {
        rig.called_by(p, &[]);
        rig.notes(p, &[(5, hold(sequence))]);
    }
    rig.take(1, 5, 1);
    let outputs = rig.give(Input::Disconnected { peer: peer(1) });
    assert_eq!(outputs, [save(1), told(3, &[(5, push(1))])]);
}

#[test]
fn a_second_copy_is_not_accepted_and_a_source_that_lags_is_told_where_to_go_on() {
    let mut rig = rig();
    rig.want(5);
    rig.called_by(1, &[]);
    rig.called_by(2, &[]);
    rig.notes(1, &[(5, hold(9))]);
    rig.notes(2, &[(5, hold(9))]);
    rig.take(2, 5, 1);
    rig.take(2, 5, 2);
    assert_eq!(rig.receive(1, 5, 1), [told(1, &[(5, push(2))])]);
    assert_eq!(rig.receive(1, 5, 2), [], "sent before it heard of that");
    rig.take(1, 5, 3);
}

#[test]
fn a_source_that_has_nothing_new_is_switched_off() {
    let mut rig = rig();
    rig.want(5);
    rig.called_by(1, &[]);
    rig.append(5, 2);
    assert_eq!(rig.receive(1, 5, 1), [told(1, &[(5, hold(2))])]);
}

#[test]
fn a_message_in_flight_counts_before_it_is_stored() {
    let mut rig = rig();
    rig.want(5);
    rig.called_by(1, &[]);
    rig.called_by(2, &[]);
    rig.notes(1, &[(5, hold(9))]);
    for sequence in 1..=3 {
        assert_eq!(rig.receive(1, 5, sequence), [accept(1, 5, sequence)]);
    }
    assert_eq!(rig.receive(2, 5, 3), []);
    assert_eq!(rig.receive(1, 5, 5), [told(1, &[(5, push(3))])], "a gap");
    assert_eq!(rig.receive(1, 5, 6), [], "we said so already");
}

#[test]
fn messages_of_feeds_that_we_never_asked_for_are_dropped() {
    let mut rig = rig();
    rig.append(6, 1);
    rig.called_by(1, &[]);
    rig.want(5);
    assert_eq!(rig.receive(1, 6, 2), [], "held but not wanted");
    assert_eq!(rig.receive(1, 7, 1), [], "never heard of");
    assert_eq!(rig.receive(2, 5, 1), [], "not connected");
    rig.take(1, 5, 1);
}

#[test]
fn a_message_goes_to_those_who_ask_and_not_back_to_its_sender() {
    let mut rig = rig();
    rig.want(5);
    for p in [1, 2] {
        rig.called_by(p, &[]);
        rig.notes(p, &[(5, push(0))]);
    }
    rig.receive(1, 5, 1);
    assert_eq!(rig.append(5, 1), [send(2, 5, 1, 1)]);
}

#[test]
fn our_own_feed_is_offered_and_never_asked_for() {
    let mut rig = rig();
    rig.hold(ME, 2);
    assert_eq!(rig.called_by(1, &[]), [told(1, &[(ME, hold(2))])]);
    assert_eq!(rig.notes(1, &[(ME, hold(7))]), []);
    assert_eq!(rig.receive(1, ME, 3), []);
    assert_eq!(rig.state.own_feed_ahead(), Some(7));
}

#[test]
fn our_own_feed_is_asked_for_while_it_is_recovered() {
    let mut rig = rig();
    rig.give(Input::RecoverOwn(true));
    rig.want(ME);
    assert_eq!(rig.called_by(1, &[]), [told(1, &[(ME, push(0))])]);
    rig.notes(1, &[(ME, hold(1))]);
    rig.take(1, ME, 1);
    assert_eq!(rig.state.own_feed_ahead(), None);
    assert_eq!(rig.give(Input::RecoverOwn(false)), [told(1, &[(ME, hold(1))])]);
}

#[test]
fn an_unfollowed_feed_is_taken_back() {
    let mut rig = rig();
    rig.hold(5, 3);
    rig.called_by(1, &[]);
    rig.notes(1, &[(5, push(0))]);
    let outputs = rig.give(Input::Replicate { feed: feed(5), rank: None });
    assert_eq!(outputs, [cancel(1, 5), told(1, &[(5, Note::REFUSE)]), save(1)]);
    assert_eq!(rig.append(5, 4), []);
    assert_eq!(rig.receive(1, 5, 5), []);
    assert_eq!(rig.want(5), [send(1, 5, 1, 4), told(1, &[(5, push(4))])]);
}

#[test]
fn a_feed_whose_owner_blocks_a_peer_does_not_pass_to_or_from_it() {
    let mut rig = rig();
    rig.hold(5, 3);
    rig.called_by(1, &[]);
    rig.notes(1, &[(5, push(0))]);
    let outputs = rig.give(Input::Block { from: feed(5), to: peer(1), on: true });
    assert_eq!(outputs, [cancel(1, 5), told(1, &[(5, Note::REFUSE)]), save(1)]);
    assert_eq!(rig.append(5, 4), []);
    assert_eq!(rig.receive(1, 5, 5), []);
    rig.give(Input::Disconnected { peer: peer(1) });
    assert_eq!(rig.called_by(1, &[]), [told(1, &[])]);
    assert_eq!(rig.notes(1, &[(5, push(0))]), [told(1, &[(5, Note::REFUSE)]), save(1)]);
    let outputs = rig.give(Input::Block { from: feed(5), to: peer(1), on: false });
    assert_eq!(outputs, [send(1, 5, 1, 4), told(1, &[(5, push(4))])]);
}

#[test]
fn a_peer_that_we_block_is_cut_off_and_stays_so() {
    let mut rig = rig();
    rig.called_by(1, &[]);
    let outputs = rig.give(Input::Block { from: feed(ME), to: peer(1), on: true });
    let end = Output::EndStream { peer: peer(1), error: None };
    assert_eq!(outputs, [end.clone(), save(1)]);
    assert_eq!(rig.called_by(1, &[]), [end]);
    rig.give(Input::Block { from: feed(ME), to: peer(1), on: false });
    assert_eq!(rig.called_by(1, &[]), [told(1, &[])]);
}

#[test]
fn a_second_stream_ends_the_first_and_keeps_what_it_taught() {
    let mut rig = rig();
    rig.hold(5, 3);
    rig.called_by(1, &[]);
    rig.notes(1, &[(5, hold(3))]);
    let end = Output::EndStream { peer: peer(1), error: Some("reconnected to peer") };
    assert_eq!(rig.called_by(1, &[]), [end, told(1, &[])]);
}

#[test]
fn a_bad_message_stops_the_feed_from_that_peer_only() {
    let mut rig = rig();
    rig.want(5);
    for p in [1, 2] {
        rig.called_by(p, &[]);
        rig.notes(p, &[(5, hold(9))]);
    }
    rig.receive(1, 5, 1);
    rig.receive(1, 5, 2);
    rig.append(5, 1);
    let outputs = rig.give(Input::Rejected { peer: peer(1), feed: feed(5), fatal: true });
    assert_eq!(outputs, [told(1, &[(5, Note::REFUSE)]), save(1), told(2, &[(5, push(1))])]);
    assert_eq!(rig.give(Input::Rejected { peer: peer(1), feed: feed(5), fatal: true }), []);
    assert_eq!(rig.receive(1, 5, 2), []);
    rig.take(2, 5, 2);
    // A new session is a new chance.
    rig.give(Input::Disconnected { peer: peer(1) });
    assert_eq!(rig.called_by(1, &[]), [told(1, &[(5, hold(2))])]);
}

#[test]
fn a_failure_of_ours_is_tried_again_after_a_while() {
    let mut rig = rig();
    rig.want(5);
    rig.called_by(1, &[]);
    rig.notes(1, &[(5, hold(9))]);
    rig.receive(1, 5, 1);
    let outputs = rig.give(Input::Rejected { peer: peer(1), feed: feed(5), fatal: false });
    assert_eq!(outputs, [told(1, &[(5, hold(0))])]);
    assert_eq!(rig.wait(STALL), [told(1, &[(5, push(0))])]);
    rig.take(1, 5, 1);
}

#[test]
fn the_stored_clock_names_what_the_peer_said_of_wanted_feeds() {
    let mut rig = rig();
    rig.hold(5, 3);
    rig.want(6);
    rig.append(7, 1);
    rig.called_by(1, &[]);
    rig.notes(1, &[(5, hold(3)), (6, Note::REFUSE), (7, Note::REFUSE), (8, hold(1))]);
    rig.give(Input::Replicate { feed: feed(9), rank: Some(2) });
    rig.notes(1, &[(9, Note::REFUSE)]);
    // The refusal of feed 6 is not kept, as its author is near.
    let clock = PeerClock::from_iter([(feed(5), Stored::At(3)), (feed(9), Stored::Refused)]);
    assert_eq!(rig.wait(SAVE), [save(1)]);
    assert_eq!(rig.state.clock(&peer(1)), Some(clock.clone()));
    assert_eq!(rig.wait(SAVE), []);
    assert_eq!(rig.give(Input::Disconnected { peer: peer(1) }), [save(1)]);
    assert_eq!(rig.state.clock(&peer(1)), Some(clock));
    rig.append(7, 2);
    assert_eq!(rig.state.clock(&peer(1)), None);
}

#[test]
fn strangers_are_remembered_up_to_a_limit() {
    let mut rig = rig();
    rig.called_by(1, &[]);
    let id = |n: usize| FeedId::from_bytes(std::array::from_fn(|i| n.to_be_bytes()[i % 8]));
    let notes: Notes = (1..MAX_STRANGERS + 9).map(|n| (id(n), push(1))).collect();
    let outputs = rig.give(Input::Notes { peer: peer(1), notes });
    let refused = outputs
        .iter()
        .map(|output| notes_of(output).iter().filter(|(_, note)| *note == Note::REFUSE).count());
    assert_eq!(refused.sum::<usize>(), MAX_STRANGERS);
    rig.give(Input::Disconnected { peer: peer(1) });
    rig.called_by(1, &[]);
    assert_eq!(rig.notes(1, &[(5, push(1))]), [told(1, &[(5, Note::REFUSE)])]);
}

#[test]
fn one_peer_too_many_is_sent_away() {
    let mut rig = rig();
    let id = |n: usize| Peer(FeedId::from_bytes(std::array::from_fn(|i| n.to_be_bytes()[i % 8])));
    let connect = |n| Input::Connected { peer: id(n), role: Role::Callee, clock: PeerClock::default() };
    for n in 1..=MAX_PEERS {
        assert_eq!(rig.give(connect(n)).len(), 1);
    }
    let end = Output::EndStream { peer: id(MAX_PEERS + 1), error: Some(TOO_MANY_PEERS) };
    assert_eq!(rig.give(connect(MAX_PEERS + 1)), [end]);
}

#[test]
fn the_status_has_the_shape_that_clients_expect() {
    let mut rig = rig();
    rig.hold(5, 3);
    rig.called_by(1, &[]);
    rig.notes(1, &[(5, push(1))]);
    let json = serde_json::to_value(rig.state.status(&feed(5))).unwrap();
    let replicating = serde_json::json!({ "tx": true, "rx": true, "sent": 3, "requested": 3 });
    let peers = serde_json::json!({ peer(1).to_string(): { "seq": 1, "replicating": replicating } });
    assert_eq!(json, serde_json::json!({ "id": feed(5).to_string(), "seq": 3, "peers": peers }));
    assert_eq!(rig.state.status(&feed(9)).peers.len(), 0);
}

#[test]
fn progress_counts_what_connected_peers_promise() {
    let mut rig = rig();
    rig.hold(5, 3);
    rig.hold(6, 4);
    rig.called_by(1, &[]);
    rig.notes(1, &[(5, hold(10)), (6, hold(1)), (7, hold(99))]);
    assert_eq!(rig.state.progress(), Progress { feeds: 2, behind: 1, want: 14, have: 7 });
}

#[test]
fn a_peer_owes_what_it_has_and_was_asked_for_until_it_has_come_or_is_gone() {
    let mut rig = rig();
    rig.hold(5, 3);
    rig.called_by(1, &[]);
    assert!(!rig.state.is_owed());
    rig.notes(1, &[(5, hold(5)), (7, hold(99))]);
    assert!(rig.state.is_owed());
    rig.take(1, 5, 4);
    assert!(rig.state.is_owed());
    rig.take(1, 5, 5);
    assert!(!rig.state.is_owed());
    rig.notes(1, &[(5, hold(6))]);
    assert!(rig.state.is_owed());
    rig.give(Input::Disconnected { peer: peer(1) });
    assert!(!rig.state.is_owed());
}

/// 50,000 feeds with 20 peers: what the first sync of a large node costs. Prints; run in release to compare.
#[test]
#[ignore = "measures, asserts little"]
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn a_large_node() {
    let id = |n: u32| FeedId::from_bytes(std::array::from_fn(|i| n.to_le_bytes()[i % 4]));
    let (feeds, messages) = (50_000, 500_000);
    let mut rig = rig();
    let mut lap = Instant::now();
    let mut print = |what: &str| {
        println!("{what}: {:?}", lap.elapsed());
        lap = Instant::now();
    };
    for n in 100..100 + feeds {
        rig.give(Input::Replicate { feed: id(n), rank: Some(n % 3) });
    }
    print("want");
    for p in 1..=20 {
        rig.called_by(p, &[]);
    }
    print("greet");
    for p in 1..=20 {
        let note = if p == 1 { hold(1_000) } else { push(0) };
        rig.give(Input::Notes { peer: peer(p), notes: (100..100 + feeds).map(|n| (id(n), note)).collect() });
    }
    print("notes");
    let mut outputs = 0;
    for i in 0..messages {
        let (feed, sequence) = (id(100 + i % feeds), u64::from(i / feeds) + 1);
        assert_eq!(rig.give(Input::Received { peer: peer(1), feed, sequence }).len(), 1);
        outputs += rig.give(Input::Appended { feed, sequence }).len();
    }
    print("messages");
    assert_eq!(outputs, messages as usize * 19);
}
