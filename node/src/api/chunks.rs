//! How streams read the store: chunk by chunk, off the runtime, so that a long log neither blocks it nor fills memory;
//! while one chunk is sent the next is read, if nothing else of the session needs the place.
//!
//! A session has so many chunks read and not sent at most ([`Request::reads`](super::Request::reads)).

use std::pin::Pin;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::blobs::blocking;

/// Items read in one go.
const CHUNK: usize = 64;

/// Items that are read in chunks.
pub(super) struct Chunks<'a, I: Iterator> {
    reads: &'a Semaphore,
    rest: Rest<'a, I>,
    /// Of the chunk that was given last.
    _turn: Option<SemaphorePermit<'a>>,
}

enum Rest<'a, I: Iterator> {
    Unread(I),
    /// So many at most are read already, or soon.
    Ahead(usize, SemaphorePermit<'a>, Reading<I>),
    Ended,
}

type Reading<I> = Pin<Box<dyn Future<Output = (Vec<<I as Iterator>::Item>, I)> + Send>>;

impl<'a, I: Iterator<Item: Send + 'static> + Send + 'static> Chunks<'a, I> {
    pub(super) fn new(reads: &'a Semaphore, items: I) -> Self {
        Self { reads, rest: Rest::Unread(items), _turn: None }
    }

    /// The next ones, of `left` that are wanted; `None` at the end. Those before are on their way.
    pub(super) async fn next(&mut self, left: Option<u64>) -> Option<Vec<I::Item>> {
        self._turn = None;
        let size = |left: Option<u64>| left.map_or(CHUNK, |left| left.min(CHUNK as u64) as usize);
        let (most, turn, reading) = match std::mem::replace(&mut self.rest, Rest::Ended) {
            Rest::Ended => return None,
            Rest::Ahead(most, turn, reading) => (most, turn, reading),
            Rest::Unread(items) => {
                // It is never closed.
                let turn = self.reads.acquire().await.ok()?;
                (size(left), turn, read(items, size(left)))
            }
        };
        let (chunk, items) = reading.await;
        if chunk.len() == most {
            let more = size(left.map(|left| left.saturating_sub(most as u64)));
            self.rest = match self.reads.try_acquire() {
                Ok(turn) if more > 0 => Rest::Ahead(more, turn, read(items, more)),
                Ok(_) | Err(_) => Rest::Unread(items),
            };
        }
        self._turn = Some(turn);
        (!chunk.is_empty()).then_some(chunk)
    }
}

/// Begins at once.
fn read<I: Iterator<Item: Send + 'static> + Send + 'static>(mut items: I, most: usize) -> Reading<I> {
    Box::pin(blocking(move || {
        let chunk = items.by_ref().take(most).collect();
        (chunk, items)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The chunks' lengths, as long as `left` are wanted.
    async fn lengths(reads: &Semaphore, items: usize, mut left: Option<u64>) -> Vec<usize> {
        let mut chunks = Chunks::new(reads, 0..items);
        let (mut lengths, mut next) = (Vec::new(), 0);
        while left != Some(0)
            && let Some(chunk) = chunks.next(left).await
        {
            assert_eq!(chunk, (next..next + chunk.len()).collect::<Vec<_>>());
            next += chunk.len();
            left = left.map(|left| left - chunk.len() as u64);
            lengths.push(chunk.len());
        }
        lengths
    }

    #[tokio::test]
    async fn all_comes_once_in_order_with_places_to_read_ahead_and_without() {
        for places in [1, 2, 8] {
            let reads = Semaphore::new(places);
            assert_eq!(lengths(&reads, 0, None).await, [0; 0]);
            assert_eq!(lengths(&reads, 150, None).await, [64, 64, 22]);
            assert_eq!(lengths(&reads, 128, None).await, [64, 64]);
            assert_eq!(lengths(&reads, 150, Some(70)).await, [64, 6]);
            assert_eq!(lengths(&reads, 50, Some(50)).await, [50]);
            assert_eq!(lengths(&reads, 20, Some(50)).await, [20]);
            assert_eq!(reads.available_permits(), places);
        }
    }

    #[tokio::test]
    async fn who_has_enough_does_not_read_ahead_and_who_gets_less_goes_on() {
        let reads = Semaphore::new(2);
        let mut chunks = Chunks::new(&reads, 0..100);
        assert_eq!(chunks.next(Some(10)).await.unwrap().len(), 10);
        assert_eq!(reads.available_permits(), 1);
        // None of them was what is wanted.
        assert_eq!(chunks.next(Some(10)).await.unwrap(), (10..20).collect::<Vec<_>>());
        assert_eq!(chunks.next(None).await.unwrap().len(), 64);
        assert_eq!(reads.available_permits(), 0);
        assert_eq!(chunks.next(None).await.unwrap().len(), 16);
        assert_eq!(chunks.next(None).await, None);
        assert_eq!(reads.available_permits(), 2);
    }
}
