//! Who offers what, and fetching it: from one peer at a time, and from the next when that comes to nothing.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::{Input, Link, Output, Wants, Why};
use crate::blobs::EMPTY;
use crate::refs::{BlobId, FeedId};

/// Fetches at once; each may have half a megabyte in memory.
pub const MAX_GETS: usize = 16;
/// Fetches over one session at once. They share one line, so more would only make each slower.
pub const MAX_GETS_PER_LINK: usize = 4;
/// Offers of one session that are remembered although nobody wants the blob yet; the oldest goes first. They save the
/// question when the message that links to the blob comes a moment later.
const MAX_UNWANTED: usize = 256;
/// Sources of one wanted blob that are remembered as useless; the oldest is forgotten first.
const MAX_SPURNED: usize = 64;
/// A fetch must bring [`MIN_PROGRESS`] in this time, or end.
pub(super) const WINDOW: Duration = Duration::from_secs(30);
/// See [`WINDOW`]; a slow line across the world gives this much.
const MIN_PROGRESS: u64 = 64 * 1024;
/// How long nothing is fetched after the disk refused.
const DISK_PAUSE: Duration = Duration::from_secs(60);

/// Names one fetch; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GetId(pub u64);

/// Why a fetch came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The session is over, or the fetch is not needed any more. Nobody's fault.
    Gone,
    /// The peer answered with an error: it does not have the blob any more, say.
    Refused,
    /// The peer sent more than it had promised or than is allowed.
    Size,
    /// The peer sent other bytes.
    Hash,
    /// The peer stalled or was too slow.
    Slow,
    /// Our own disk refused.
    Disk,
}

impl Fault {
    /// A word for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Size => "wrong_size",
            Self::Hash => "wrong_hash",
            Self::Slow => "slow",
            Self::Disk => "disk",
        }
    }
}

/// A source that is of no use for one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spurned {
    /// It sent what it had not promised: whatever session it comes over.
    Liar(FeedId),
    /// Something was wrong with the session.
    Over(Link),
}

/// What waits to be fetched: by urgency, then in the order of wanting.
type Place = (Why, u64, BlobId);

#[derive(Debug)]
pub(super) struct LinkState {
    pub(super) peer: FeedId,
    pub(super) near: bool,
    gets: usize,
    /// All that it offers.
    offered: BTreeSet<BlobId>,
    /// What it offers, is wanted, small enough, and not being fetched.
    ready: BTreeSet<Place>,
    /// What it offers and nobody wanted when it did; oldest first.
    unwanted: VecDeque<BlobId>,
}

/// A running fetch.
#[derive(Debug)]
pub(super) struct Get {
    link: Link,
    id: BlobId,
    /// What came since the window began.
    came: u64,
    window_ends: Instant,
}

impl Get {
    pub(super) fn deadline(&self) -> Instant {
        self.window_ends
    }
}

/// Sessions and what they offer.
impl Wants {
    pub(super) fn connected(&mut self, link: Link, peer: FeedId, near: bool) {
        self.links.entry(link).or_insert(LinkState {
            peer,
            near,
            gets: 0,
            offered: BTreeSet::new(),
            ready: BTreeSet::new(),
            unwanted: VecDeque::new(),
        });
    }

    pub(super) fn disconnected(&mut self, link: Link) {
        let Some(state) = self.links.remove(&link) else { return };
        state.offered.iter().for_each(|id| self.take_offer(id, link));
        let gone: Vec<_> = self.gets.iter().filter(|(_, get)| get.link == link).map(|(id, _)| *id).collect();
        for get in gone {
            self.outputs.push_back(Output::Cancel { get, why: Fault::Gone });
            self.drop_get(get).into_iter().for_each(|id| self.enlist(id));
        }
    }

    /// A peer has a blob.
    pub(super) fn offered(&mut self, link: Link, id: BlobId, size: Option<u64>) {
        let Some(state) = self.links.get_mut(&link).filter(|_| id != EMPTY) else { return };
        let peer = state.peer;
        match self.wants.get(&id) {
            None => {
                if state.offered.insert(id) {
                    state.unwanted.push_back(id);
                }
                self.offers.entry(id).or_default().insert(link, size);
                let oldest =
                    if state.unwanted.len() > MAX_UNWANTED { state.unwanted.pop_front() } else { None };
                // One that is wanted by now is held by the want.
                if let Some(oldest) = oldest.filter(|oldest| !self.wants.contains_key(oldest)) {
                    self.take_offer(&oldest, link);
                }
            }
            Some(want) => {
                let useless = |spurned: &Spurned| match spurned {
                    Spurned::Liar(liar) => *liar == peer,
                    Spurned::Over(over) => *over == link,
                };
                if !want.spurned.iter().any(useless) {
                    state.offered.insert(id);
                    self.delist(&id);
                    self.offers.entry(id).or_default().insert(link, size);
                    self.enlist(id);
                }
            }
        }
        self.count_push(id, peer);
    }

    /// A peer does not offer a blob any more, which is not ready to be fetched.
    fn take_offer(&mut self, id: &BlobId, link: Link) {
        if let Some(state) = self.links.get_mut(&link) {
            state.offered.remove(id);
        }
        if let Some(offers) = self.offers.get_mut(id) {
            offers.remove(&link);
            if offers.is_empty() {
                self.offers.remove(id);
            }
        }
    }

    /// Nobody offers a blob any more that is not ready to be fetched.
    pub(super) fn take_offers(&mut self, id: &BlobId) {
        for link in self.offers.remove(id).unwrap_or_default().into_keys() {
            if let Some(state) = self.links.get_mut(&link) {
                state.offered.remove(id);
            }
        }
    }

    /// The largest size at which a blob is fetched for this reason; the size itself is too large.
    fn max(&self, why: Why) -> u64 {
        if why == Why::Linked { self.config.max_linked.min(self.config.max) } else { self.config.max }
    }

    /// A blob may have become ready to be fetched: notes it at every session that offers it.
    pub(super) fn enlist(&mut self, id: BlobId) {
        let Some(want) = self.wants.get(&id).filter(|want| want.getting.is_none()) else { return };
        let (why, place) = (want.reason.why(), (want.reason.why(), want.serial, id));
        let max = self.max(why);
        for (link, size) in self.offers.get(&id).into_iter().flatten() {
            let fits = size.is_none_or(|size| size < max);
            if let Some(state) = self.links.get_mut(link).filter(|_| fits) {
                state.ready.insert(place);
            }
        }
    }

    /// The opposite, before anything of its place changes.
    pub(super) fn delist(&mut self, id: &BlobId) {
        let Some(want) = self.wants.get(id) else { return };
        let place = (want.reason.why(), want.serial, *id);
        for link in self.offers.get(id).into_iter().flat_map(|offers| offers.keys()) {
            if let Some(state) = self.links.get_mut(link) {
                state.ready.remove(&place);
            }
        }
    }
}

/// Fetches.
impl Wants {
    /// Begins what can be fetched now.
    pub(super) fn start_gets(&mut self, now: Instant) {
        while self.paused.is_none()
            && self.gets.len() < MAX_GETS
            && let Some((link, id)) = self.next_get()
        {
            self.start_get(now, link, id);
        }
    }

    /// The most urgent blob that a session with room offers; of several such sessions the least busy one, then the
    /// newest, since an older one with the same peer is about to close.
    fn next_get(&self) -> Option<(Link, BlobId)> {
        let free = self.links.iter().filter(|(_, state)| state.gets < MAX_GETS_PER_LINK);
        let first = free.filter_map(|(link, state)| {
            let (why, serial, id) = *state.ready.first()?;
            (self.room || why == Why::Own).then_some((
                (why, serial),
                state.gets,
                std::cmp::Reverse(*link),
                id,
            ))
        });
        first.min().map(|(_, _, link, id)| (link.0, id))
    }

    fn start_get(&mut self, now: Instant, link: Link, id: BlobId) {
        self.delist(&id);
        self.serial += 1;
        let get = GetId(self.serial);
        let promised = self.offers.get(&id).and_then(|offers| offers.get(&link).copied()).flatten();
        let Some(want) = self.wants.get_mut(&id) else { return };
        want.getting = Some(get);
        let why = want.reason.why();
        let largest = self.max(why).saturating_sub(1);
        let max = promised.map_or(largest, |promised| promised.min(largest));
        self.gets.insert(get, Get { link, id, came: 0, window_ends: now + WINDOW });
        if let Some(state) = self.links.get_mut(&link) {
            state.gets += 1;
        }
        self.outputs.push_back(Output::Get { get, link, id, max });
    }

    /// Forgets a fetch, but not the offer; gives the blob.
    pub(super) fn drop_get(&mut self, get: GetId) -> Option<BlobId> {
        let Get { link, id, .. } = self.gets.remove(&get)?;
        if let Some(state) = self.links.get_mut(&link) {
            state.gets -= 1;
        }
        if let Some(want) = self.wants.get_mut(&id) {
            want.getting = None;
        }
        Some(id)
    }

    pub(super) fn progress(&mut self, now: Instant, get: GetId, bytes: u64) {
        let Some(get) = self.gets.get_mut(&get) else { return };
        get.came += bytes;
        if get.came >= MIN_PROGRESS {
            get.came = 0;
            get.window_ends = now + WINDOW;
        }
    }

    pub(super) fn ended(&mut self, now: Instant, get: GetId, result: Result<u64, Fault>) {
        let Some(running) = self.gets.get(&get) else { return };
        let (link, id) = (running.link, running.id);
        match result {
            Ok(size) => {
                self.drop_get(get);
                self.stored(now, id, size);
            }
            Err(Fault::Disk) => {
                self.paused = Some(now + DISK_PAUSE);
                self.drop_get(get);
                self.enlist(id);
            }
            Err(why) => self.fail(get, link, id, why),
        }
    }

    /// A fetch came to nothing: the next source is asked, or whoever offers the blob later.
    fn fail(&mut self, get: GetId, link: Link, id: BlobId, why: Fault) {
        self.drop_get(get);
        self.take_offer(&id, link);
        let spurned = match why {
            Fault::Hash | Fault::Size => self.links.get(&link).map(|state| Spurned::Liar(state.peer)),
            Fault::Slow => Some(Spurned::Over(link)),
            Fault::Gone | Fault::Refused | Fault::Disk => None,
        };
        if let (Some(spurned), Some(want)) = (spurned, self.wants.get_mut(&id)) {
            if want.spurned.len() >= MAX_SPURNED {
                want.spurned.remove(0);
            }
            want.spurned.push(spurned);
        }
        if let Some(Spurned::Liar(liar)) = spurned {
            // Whatever it promised over other sessions is no better.
            let links = &self.links;
            let of_liar = links.iter().filter(|(_, state)| state.peer == liar).map(|(link, _)| *link);
            let of_liar: Vec<_> = of_liar.collect();
            of_liar.into_iter().for_each(|link| self.take_offer(&id, link));
        }
        self.enlist(id);
    }

    /// Gives up fetches that brought too little in their window.
    pub(super) fn give_up_slow(&mut self, now: Instant) {
        let slow = self.gets.iter().filter(|(_, get)| get.window_ends <= now);
        let slow: Vec<_> = slow.map(|(id, get)| (*id, get.link, get.id)).collect();
        for (get, link, id) in slow {
            self.outputs.push_back(Output::Cancel { get, why: Fault::Slow });
            self.fail(get, link, id, Fault::Slow);
        }
    }
}

impl Input {
    /// A peer said something of a blob that is not here.
    #[cfg(test)]
    pub(super) fn said(link: Link, id: BlobId, said: crate::blobs::Said) -> Self {
        Self::Said { link, id, said, stored: None }
    }
}
