//! Near feeds first, and no more than a window of the others.

use super::*;

/// A rig whose peers may owe eight messages of far feeds.
fn narrow_rig() -> Rig {
    let mut rig = rig();
    rig.state = State::new(feed(ME)).with_window(8);
    rig
}

/// One whose only peer promises without end of a near feed and three far ones.
fn endless_rig() -> Rig {
    let mut rig = narrow_rig();
    rig.want_at(5, 1);
    for n in 11..=13 {
        rig.want_at(n, 2);
    }
    rig.calls(1);
    rig.notes(1, &[5, 11, 12, 13].map(|n| (n, hold(Note::MAX_SEQUENCE))));
    rig
}

impl Rig {
    fn want_at(&mut self, n: u8, rank: u32) {
        assert_eq!(self.give(Input::Replicate { feed: feed(n), rank: Some(rank) }), []);
    }

    fn take_all(&mut self, p: u8, n: u8, sequences: std::ops::RangeInclusive<u64>) -> Vec<Output> {
        let received = sequences.flat_map(|sequence| {
            let outputs = self.receive(p, n, sequence);
            self.append(n, sequence);
            outputs
        });
        received.filter(|output| !matches!(output, Output::Accept { .. })).collect()
    }
}

fn asked(output: &Output) -> Vec<FeedId> {
    notes_of(output).iter().filter(|(_, note)| note.receive).map(|(feed, _)| feed).collect()
}

#[test]
fn far_feeds_wait_for_near_ones_and_then_for_room() {
    let mut rig = narrow_rig();
    let ranks = [(5, 1), (6, 1), (11, 2), (12, 2), (13, 2), (14, 3), (15, 3), (16, 3), (17, 2)];
    for (n, rank) in ranks {
        rig.want_at(n, rank);
    }
    rig.calls(1);
    let outputs = rig.notes(1, &ranks.map(|(n, _)| (n, hold(3))));
    assert_eq!(asked(&outputs[0]), [5, 6].map(feed));
    assert_eq!(notes_of(&outputs[0]).len(), ranks.len(), "the others are named");
    assert_eq!(rig.take_all(1, 5, 1..=3), []);
    assert_eq!(rig.take_all(1, 6, 1..=2), []);
    assert_eq!(rig.take_all(1, 6, 3..=3), [told(1, &[(11, push(0)), (12, push(0)), (13, push(0))])]);
    assert_eq!(rig.take_all(1, 12, 1..=3), []);
    assert_eq!(rig.take_all(1, 11, 1..=2), [told(1, &[(17, push(0)), (14, push(0))])], "half is free");
}

#[test]
fn of_equally_far_feeds_those_that_grew_last_are_asked_for_first() {
    let mut rig = narrow_rig();
    for n in 11..=16 {
        rig.want_at(n, 2);
    }
    for n in [16, 12] {
        rig.append(n, 1);
    }
    rig.calls(1);
    let outputs = rig.notes(1, &[11, 12, 13, 14, 15, 16].map(|n| (n, hold(4))));
    assert_eq!(asked(&outputs[0]), [11, 12, 16].map(feed));
}

#[test]
fn a_feed_that_becomes_near_is_asked_for_at_once() {
    let mut rig = narrow_rig();
    for n in 11..=16 {
        rig.want_at(n, 3);
    }
    rig.calls(1);
    rig.notes(1, &[11, 12, 13, 14, 15, 16].map(|n| (n, hold(4))));
    assert_eq!(rig.give(Input::Replicate { feed: feed(16), rank: Some(2) }), [], "no room yet");
    assert_eq!(rig.give(Input::Replicate { feed: feed(15), rank: Some(1) }), [told(1, &[(15, push(0))])]);
    assert_eq!(rig.take_all(1, 11, 1..=4), [], "there is room, but a near feed is owed");
    assert_eq!(rig.take_all(1, 15, 1..=4), [told(1, &[(16, push(0))])]);
}

#[test]
fn feeds_of_a_peer_without_room_are_asked_of_one_that_has_some() {
    let mut rig = narrow_rig();
    for n in 11..=14 {
        rig.want_at(n, 2);
    }
    rig.calls(1);
    rig.calls(2);
    let all = [11, 12, 13, 14].map(|n| (n, hold(4)));
    assert_eq!(asked(&rig.notes(1, &all)[0]), [11, 12].map(feed));
    assert_eq!(asked(&rig.notes(2, &all)[0]), [13, 14].map(feed));
}

#[test]
fn what_waits_at_a_peer_that_leaves_is_asked_of_the_others() {
    let mut rig = narrow_rig();
    for n in 11..=14 {
        rig.want_at(n, 2);
    }
    for p in [1, 2] {
        rig.calls(p);
        rig.notes(p, &[11, 12, 13, 14].map(|n| (n, hold(9))));
    }
    let outputs = rig.give(Input::Disconnected { peer: peer(1) });
    assert_eq!(outputs, [save(1)], "the other is busy with a feed of nine messages");
    assert_eq!(rig.take_all(2, 12, 1..=9), [told(2, &[(11, push(0))])]);
    assert_eq!(rig.take_all(2, 11, 1..=9), [told(2, &[(13, push(0))])]);
}

#[test]
fn what_stalls_keeps_nobody_waiting() {
    let mut rig = endless_rig();
    for n in 11..=13 {
        assert_eq!(rig.wait(STALL), [told(1, &[(n, push(0))])]);
    }
}

#[test]
fn a_trickle_keeps_nobody_waiting_for_ever() {
    let mut rig = endless_rig();
    let mut opened = Vec::new();
    for second in 1..=15 {
        opened.extend(rig.wait(Duration::from_secs(1)));
        rig.take_all(1, 5, second..=second);
    }
    assert_eq!(opened, [11, 12, 13].map(|n| told(1, &[(n, push(0))])));
}

#[test]
fn a_peer_that_has_not_said_how_much_it_holds_is_asked_for_some_feeds_at_once() {
    let mut rig = narrow_rig();
    for n in 11..=20 {
        rig.want_at(n, 2);
    }
    let outputs = rig.called_by(1, &[]);
    assert_eq!(asked(&outputs[0]).len(), 8);
    let answer = [11, 12, 13, 14, 15, 16, 17, 18].map(|n| (n, hold(0)));
    assert_eq!(rig.notes(1, &answer), [told(1, &[(19, push(0)), (20, push(0))])], "it has nothing");
}
