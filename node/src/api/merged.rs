//! Public messages, which the store's index finds, and private ones, which it does not, as one list in order.

use std::cmp::Ordering;
use std::iter::Peekable;

use hawsepipe_replication::store::{Messages, Order, ReadError, Stored};

use super::streams::Found;

/// In which order messages come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Of reception; of a feed alone, by sequence.
    Reception,
    /// Of claimed time.
    Claimed,
}

impl By {
    fn compare(self, one: &Stored, other: &Stored) -> Ordering {
        let by_offset = one.offset.cmp(&other.offset);
        match self {
            Self::Reception => by_offset,
            Self::Claimed => one.time().total_cmp(&other.time()).then(by_offset),
        }
    }

    /// A few messages in this order; they come in that of the log.
    pub(super) fn sort(self, messages: Messages, order: Order) -> Result<impl Found, ReadError> {
        let mut messages = messages.collect::<Result<Vec<_>, _>>()?;
        messages.sort_by(|one, other| self.compare(one, other));
        if order == Order::Descending {
            messages.reverse();
        }
        Ok(messages.into_iter().map(Ok))
    }
}

/// Two lists in the same order as one.
pub(super) struct Merged<A: Iterator, B: Iterator> {
    one: Peekable<A>,
    other: Peekable<B>,
    by: By,
    order: Order,
}

impl<A: Found, B: Found> Merged<A, B> {
    pub(super) fn new(one: A, other: B, by: By, order: Order) -> Self {
        Self { one: one.peekable(), other: other.peekable(), by, order }
    }
}

impl<A: Found, B: Found> Iterator for Merged<A, B> {
    type Item = Result<Stored, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let is_one = match (self.one.peek(), self.other.peek()) {
            (Some(Ok(one)), Some(Ok(other))) => {
                let first = match self.order {
                    Order::Ascending => Ordering::Less,
                    Order::Descending => Ordering::Greater,
                };
                self.by.compare(one, other) == first
            }
            // Errors come as soon as they are known.
            (Some(Err(_)), _) | (Some(Ok(_)), None) => true,
            (None, _) | (Some(Ok(_)), Some(Err(_))) => false,
        };
        if is_one { self.one.next() } else { self.other.next() }
    }
}
