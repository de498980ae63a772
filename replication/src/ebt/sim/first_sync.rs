//! A first sync from one peer that behaves as the JavaScript peers do: of all feeds that it was asked for it sends
//! a message each in turn, and hears what we say only after everything that is under way.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::ebt::{Input, Note, Notes, Output, Peer, PeerClock, Role, State};
use crate::refs::FeedId;

fn feed(n: u32) -> FeedId {
    FeedId::from_bytes(std::array::from_fn(|i| n.to_be_bytes()[i % 4]))
}

/// The peer: how long each feed is, and what it was asked to send.
struct Sender {
    lengths: BTreeMap<FeedId, u64>,
    open: VecDeque<(FeedId, u64)>,
    /// What we said, and how many messages the peer will have sent when it hears that.
    heard: VecDeque<(u64, Notes)>,
    sent: u64,
}

impl Sender {
    fn hear(&mut self) {
        while let Some((_, notes)) = self.heard.pop_front_if(|(at, _)| *at <= self.sent) {
            for (feed, note) in notes {
                self.open.retain(|(open, _)| *open != feed);
                if note.replicate && note.receive {
                    self.open.push_back((feed, note.sequence + 1));
                }
            }
        }
    }

    fn next(&mut self) -> Option<(FeedId, u64)> {
        self.hear();
        let (feed, sequence) = loop {
            let (feed, sequence) = self.open.pop_front()?;
            if sequence <= self.lengths[&feed] {
                break (feed, sequence);
            }
        };
        self.open.push_back((feed, sequence + 1));
        self.sent += 1;
        Some((feed, sequence))
    }

    /// The next message. While there is none, whatever was said is heard.
    fn next_or_last(&mut self) -> Option<(FeedId, u64)> {
        self.next().or_else(|| {
            self.heard.iter_mut().for_each(|(at, _)| *at = 0);
            self.next()
        })
    }
}

/// Feeds of an author `n` places down the list of the busiest, as in the real network: few write most.
const fn length(n: u32) -> u64 {
    1 + 4_000 / (n as u64 + 1)
}

/// Hands to the sender what the machine says; tells whether it accepted the last message.
fn drain(state: &mut State, sender: &mut Sender) -> bool {
    let mut accepted = false;
    while let Some(output) = state.poll_output() {
        match output {
            Output::SendNotes { notes, .. } => sender.heard.push_back((sender.sent + UNDER_WAY, notes)),
            Output::Accept { .. } => accepted = true,
            Output::ClockChanged { .. } => {}
            other @ (Output::Send { .. } | Output::CancelSend { .. } | Output::EndStream { .. }) => {
                panic!("{other:?}")
            }
        }
    }
    accepted
}

/// Messages on their way when something is said.
const UNDER_WAY: u64 = 500;

/// A first sync of so many feeds, of which `near` are followed; gives how many messages had come when
/// those were complete, and how many there were of them and in all.
fn sync(near: impl Fn(u32) -> bool, feeds: u32, role: Role) -> (u64, u64, u64) {
    #[expect(clippy::disallowed_methods, reason = "the one start instant; everything else is relative to it")]
    let mut now = Instant::now();
    let peer = Peer(feed(u32::MAX));
    let mut state = State::new(feed(0));
    let mut left = BTreeMap::new();
    for n in 1..=feeds {
        let rank = if near(n) { 1 } else { 2 + n % 2 };
        state.handle(now, Input::Replicate { feed: feed(n), rank: Some(rank) });
        left.insert(feed(n), (near(n), length(n)));
    }
    let lengths: BTreeMap<_, _> = left.iter().map(|(feed, (_, length))| (*feed, *length)).collect();
    let mut near_left: u64 = left.values().filter(|(near, _)| *near).map(|(_, length)| length).sum();
    let (in_all, of_near) = (lengths.values().sum(), near_left);
    let all = lengths.iter().map(|(feed, length)| (*feed, Note::new(*length, false))).collect();
    let mut sender = Sender { lengths, open: VecDeque::new(), heard: VecDeque::new(), sent: 0 };
    state.handle(now, Input::Connected { peer, role, clock: PeerClock::default() });
    drain(&mut state, &mut sender);
    state.handle(now, Input::Notes { peer, notes: all });
    drain(&mut state, &mut sender);
    let mut near_at = 0;
    while let Some((feed, sequence)) = sender.next_or_last() {
        now += Duration::from_micros(20);
        state.handle(now, Input::Received { peer, feed, sequence });
        assert!(drain(&mut state, &mut sender), "nothing comes twice or out of order");
        state.handle(now, Input::Appended { feed, sequence });
        drain(&mut state, &mut sender);
        if left[&feed].0 {
            near_left -= 1;
            near_at = sender.sent;
        }
    }
    assert_eq!((sender.sent, near_left), (in_all, 0), "everything came");
    (near_at, of_near, in_all)
}

#[test]
fn followed_feeds_are_complete_before_anything_else_comes() {
    for role in [Role::Caller, Role::Callee] {
        // Twenty follows, some busy, some not; about a twentieth of all messages.
        let (near_at, of_near, in_all) = sync(|n| n % 25 == 15, 500, role);
        assert!(of_near * 40 > in_all, "they are worth something: {of_near} of {in_all}");
        assert_eq!(near_at, of_near, "{role:?}: nothing else comes before");
    }
}
