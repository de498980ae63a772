//! What is still to be said on one `blobs.createWants`. The engine puts things in and never waits; who sends takes
//! them out at the speed of the peer. Of each blob only the newest word waits, so it cannot grow beyond what is wanted
//! and what is here, nor beyond [`MAX_WAITING`].

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use hawsepipe_replication::blobs::Said;
use hawsepipe_replication::refs::BlobId;
use tokio::sync::Notify;

/// Entries that may wait for a peer that does not read; what is said beyond is lost to it.
const MAX_WAITING: usize = 20_000;
/// Entries of one packet.
const PACKET: usize = 1000;

/// See the module's header.
#[derive(Debug)]
pub struct Told {
    /// Guards what waits; held only to put or take.
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Debug)]
struct Queue {
    entries: BTreeMap<BlobId, Said>,
    /// The first packet comes even if there is nothing to say: by it a peer knows that we speak this protocol.
    hello: bool,
    ended: bool,
}

impl Told {
    /// Begins with these.
    pub(super) fn new(entries: impl IntoIterator<Item = (BlobId, Said)>) -> Self {
        let queue = Queue { entries: entries.into_iter().collect(), hello: true, ended: false };
        Self { queue: Mutex::new(queue), filled: Notify::new() }
    }

    pub(super) fn put(&self, id: BlobId, said: Said) {
        self.with(|queue| {
            if queue.entries.len() < MAX_WAITING || queue.entries.contains_key(&id) {
                queue.entries.insert(id, said);
            }
        });
        self.filled.notify_one();
    }

    /// Nothing more is said.
    pub(super) fn end(&self) {
        self.with(|queue| queue.ended = true);
        self.filled.notify_one();
    }

    /// What to say next; nothing at the end.
    pub async fn next(&self) -> Option<Vec<(BlobId, Said)>> {
        loop {
            let next = self.with(|queue| {
                if queue.ended {
                    return Some(None);
                }
                let hello = std::mem::take(&mut queue.hello);
                let rest = queue.entries.keys().nth(PACKET).copied();
                let rest = rest.map(|first| queue.entries.split_off(&first)).unwrap_or_default();
                let packet = std::mem::replace(&mut queue.entries, rest);
                (hello || !packet.is_empty()).then(|| Some(packet.into_iter().collect()))
            });
            match next {
                Some(next) => return next,
                None => self.filled.notified().await,
            }
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Queue) -> T) -> T {
        work(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn id(n: u32) -> BlobId {
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        BlobId::from_bytes(bytes)
    }

    fn next(told: &Told) -> Option<Option<Vec<(BlobId, Said)>>> {
        told.next().now_or_never()
    }

    #[test]
    fn the_first_packet_comes_at_once_and_then_only_what_is_new() {
        let told = Told::new([]);
        assert_eq!(next(&told), Some(Some(vec![])));
        assert_eq!(next(&told), None);
        told.put(id(1), Said::Wants(2));
        told.put(id(1), Said::Has(5));
        assert_eq!(next(&told), Some(Some(vec![(id(1), Said::Has(5))])), "only the newest word");
        told.put(id(2), Said::Wants(1));
        told.end();
        assert_eq!(next(&told), Some(None));
    }

    #[test]
    fn much_goes_in_several_packets_and_too_much_is_lost() {
        let told = Told::new((0..30_000).map(|n| (id(n), Said::Wants(1))).take(MAX_WAITING));
        told.put(id(25_000), Said::Wants(1));
        let packets: Vec<_> = std::iter::from_fn(|| next(&told)).flatten().collect();
        assert_eq!(packets.len(), MAX_WAITING / PACKET);
        assert!(packets.iter().all(|packet| packet.len() == PACKET));
    }
}
