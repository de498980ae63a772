//! What is still to be sent on one EBT stream: notes, and ranges of feeds.
//!
//! The engine puts things in and never waits; the stream's writer takes them out at the speed of the
//! peer. It cannot grow without bound, even if the peer asks and asks and reads nothing: there is one range per
//! feed, and ranges are sequence numbers, not messages; and a note replaces one of the same feed that still waits,
//! of feeds that the machine limits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use hawsepipe_replication::ebt::{MAX_NOTES_SENT, Note, Notes};
use hawsepipe_replication::refs::FeedId;
use tokio::sync::Notify;

/// What the writer is to send next.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// A clock.
    Notes(Notes),
    /// Messages `from..=to` of a feed; the rest comes back with [`Outbox::resume`].
    Range {
        /// The feed.
        feed: FeedId,
        /// The first sequence.
        from: u64,
        /// The last sequence.
        to: u64,
    },
    /// Nothing more will come.
    End(Option<&'static str>),
}

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Guards the queues; held only to move one entry.
    queues: Mutex<Queues>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queues {
    /// What waits to be said of feeds, and the feeds in their order.
    notes: BTreeMap<FeedId, Note>,
    named: VecDeque<FeedId>,
    /// An empty clock is to be sent: the first packet has to come even if there is nothing to say.
    hello: bool,
    turn: VecDeque<FeedId>,
    ranges: BTreeMap<FeedId, (u64, u64)>,
    end: Option<Option<&'static str>>,
}

impl Outbox {
    pub(super) fn notes(&self, notes: Notes) {
        self.with(|queues| queues.name(notes));
        self.filled.notify_one();
    }

    /// Sends `from..=to` after what is still to be sent of the feed.
    pub(super) fn send(&self, feed: FeedId, from: u64, to: u64) {
        self.with(|queues| match queues.ranges.get_mut(&feed) {
            Some((_, end)) if *end + 1 >= from => *end = (*end).max(to),
            Some(range) => *range = (from, to),
            None => {
                queues.ranges.insert(feed, (from, to));
                queues.turn.push_back(feed);
            }
        });
        self.filled.notify_one();
    }

    /// Ends the stream after what is still to be sent, with an error if one is given.
    pub(super) fn end(&self, error: Option<&'static str>) {
        self.with(|queues| queues.end = Some(error));
        self.filled.notify_one();
    }

    /// Sends nothing more of a feed.
    pub(super) fn cancel(&self, feed: FeedId) {
        self.with(|queues| {
            queues.ranges.remove(&feed);
            queues.turn.retain(|turn| *turn != feed);
        });
    }

    /// The next thing to send: clocks first, then feeds in turn. Waits until there is one.
    pub(super) async fn next(&self) -> Next {
        loop {
            let filled = self.filled.notified();
            if let Some(next) = self.with(Queues::take) {
                return next;
            }
            filled.await;
        }
    }

    /// The writer has sent the feed up to and including `sent`; the rest gets another turn, unless it was
    /// cancelled meanwhile.
    pub(super) fn resume(&self, feed: FeedId, sent: u64) {
        self.with(|queues| {
            let Some((from, to)) = queues.ranges.get_mut(&feed) else { return };
            *from = sent + 1;
            if *from > *to {
                queues.ranges.remove(&feed);
            } else {
                queues.turn.push_back(feed);
            }
        });
        self.filled.notify_one();
    }

    fn with<T>(&self, change: impl FnOnce(&mut Queues) -> T) -> T {
        change(&mut self.queues.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Queues {
    fn name(&mut self, notes: Notes) {
        self.hello |= notes.is_empty() && self.named.is_empty();
        for (feed, note) in notes {
            if self.notes.insert(feed, note).is_none() {
                self.named.push_back(feed);
            }
        }
    }

    fn take(&mut self) -> Option<Next> {
        let hello = std::mem::take(&mut self.hello);
        let count = self.named.len().min(MAX_NOTES_SENT);
        if hello || count > 0 {
            let notes = &mut self.notes;
            let named = self.named.drain(..count);
            let notes = named.filter_map(|feed| notes.remove_entry(&feed)).collect();
            if self.named.is_empty() {
                // The first clock names all feeds, later ones a few.
                self.named = VecDeque::new();
            }
            return Some(Next::Notes(notes));
        }
        let Some(feed) = self.turn.pop_front() else {
            // A range that is being sent comes back first.
            return self.end.filter(|_| self.ranges.is_empty()).map(Next::End);
        };
        let (from, to) = *self.ranges.get(&feed)?;
        Some(Next::Range { feed, from, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(n: u8) -> FeedId {
        FeedId::from_bytes([n; 32])
    }

    fn take(outbox: &Outbox) -> Option<(FeedId, u64, u64)> {
        match outbox.with(Queues::take)? {
            Next::Range { feed, from, to } => Some((feed, from, to)),
            Next::Notes(_) | Next::End(_) => None,
        }
    }

    #[test]
    fn feeds_take_turns_and_grow_while_they_wait() {
        let outbox = Outbox::default();
        outbox.send(feed(1), 1, 500);
        outbox.send(feed(2), 7, 7);
        assert_eq!(take(&outbox), Some((feed(1), 1, 500)));
        outbox.send(feed(1), 501, 502);
        outbox.resume(feed(1), 256);
        assert_eq!(take(&outbox), Some((feed(2), 7, 7)));
        outbox.resume(feed(2), 7);
        assert_eq!(take(&outbox), Some((feed(1), 257, 502)));
        outbox.resume(feed(1), 502);
        assert_eq!(take(&outbox), None);
    }

    fn notes(outbox: &Outbox) -> Option<Vec<(FeedId, Note)>> {
        match outbox.with(Queues::take)? {
            Next::Notes(notes) => Some(notes.into_iter().collect()),
            Next::Range { .. } | Next::End(_) => None,
        }
    }

    #[test]
    fn a_note_replaces_one_that_still_waits_and_the_first_packet_may_be_empty() {
        let outbox = Outbox::default();
        outbox.notes(Notes::default());
        assert_eq!(notes(&outbox), Some(vec![]));
        assert_eq!(notes(&outbox), None);
        let (one, two) = (Note::new(1, true), Note::new(2, false));
        outbox.notes([(feed(2), one), (feed(1), one)].into_iter().collect());
        for _ in 0..1000 {
            outbox.notes([(feed(2), two), (feed(3), two)].into_iter().collect());
        }
        assert_eq!(notes(&outbox), Some(vec![(feed(2), two), (feed(1), one), (feed(3), two)]));
        assert_eq!(notes(&outbox), None);
        outbox.notes([(feed(2), one)].into_iter().collect());
        assert_eq!(notes(&outbox), Some(vec![(feed(2), one)]));
    }

    #[test]
    fn many_notes_go_in_packets_of_a_size() {
        let outbox = Outbox::default();
        let id = |n: usize| FeedId::from_bytes(std::array::from_fn(|i| n.to_be_bytes()[i % 8]));
        for n in 0..=MAX_NOTES_SENT {
            outbox.notes([(id(n), Note::REFUSE)].into_iter().collect());
        }
        assert_eq!(notes(&outbox).map(|notes| notes.len()), Some(MAX_NOTES_SENT));
        assert_eq!(notes(&outbox), Some(vec![(id(MAX_NOTES_SENT), Note::REFUSE)]));
    }

    #[test]
    fn a_cancelled_feed_does_not_come_back_and_can_start_anew() {
        let outbox = Outbox::default();
        outbox.send(feed(1), 1, 500);
        assert_eq!(take(&outbox), Some((feed(1), 1, 500)));
        outbox.cancel(feed(1));
        outbox.resume(feed(1), 256);
        assert_eq!(take(&outbox), None);
        outbox.send(feed(1), 300, 400);
        assert_eq!(take(&outbox), Some((feed(1), 300, 400)));
    }
}
