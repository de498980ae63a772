//! Who wants which blob, who has it, and whom to ask next (protocol guide, "Blobs"; ssb-blobs): a flood search over the
//! sessions there are.
//!
//! On every session both sides call `blobs.createWants`. There each says what it wants and how far away who wants it
//! is: itself 1 hop, a neighbour 2. Whoever has it answers with its size; whoever has not wants it too, out of
//! sympathy and one hop further, up to [`WantsConfig::sympathy`]. An offer is followed by `blobs.get` of one peer at a
//! time, and by the next peer on failure; and what came is offered to everybody, so that it flows back to who asked.
//!
//! Driven like every machine here: one [`Input`], then all [`Output`]s; [`Wants::poll_timeout`] says when to call
//! [`Wants::handle_timeout`]. The shell calls `createWants`, says on its own stream what [`Output::Say`] and
//! [`Output::Tell`] name, and [`Wants::current`] first of all; and fetches. A [`Link`] is one session. The machine does
//! not look at the disk: whether a wanted blob is here comes with the input. What always holds:
//!
//! - a blob is fetched from one peer at a time, different ones side by side, a few per session;
//! - who sends other bytes than it promised is not asked for that blob again, who stalls not over that session; other
//!   blobs of the same peer are not affected;
//! - everything a peer can fill is bounded by the constants below. Peers in the social graph ("near") have a share
//!   that strangers cannot take away;
//! - what is wanted for others ends when they have not asked again for [`SYMPATHY_TIME`]; own wants are said
//!   again before that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::{DEFAULT_MAX, EMPTY, Said};
use crate::refs::{BlobId, FeedId};

mod fetching;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

pub use fetching::{Fault, GetId, MAX_GETS, MAX_GETS_PER_LINK};
use fetching::{Get, LinkState};

/// Wants of local clients at once; one beyond is not searched for.
const MAX_OWN: usize = 100_000;
/// Wants at once because messages link to the blobs; a new one takes the place of the oldest.
const MAX_LINKED: usize = 10_000;
/// Wants out of sympathy at once, for near peers and for strangers each; one beyond is not searched for.
const MAX_ASKED: usize = 10_000;
/// The same for one near peer.
const MAX_ASKED_NEAR: usize = 1_000;
/// The same for one stranger.
const MAX_ASKED_STRANGER: usize = 100;
/// Blobs that are pushed at once.
const MAX_PUSHES: usize = 10_000;

/// How long something is wanted for others after they asked last.
pub(super) const SYMPATHY_TIME: Duration = Duration::from_secs(3600);
/// How long something is wanted because a message links to it.
const LINKED_TIME: Duration = Duration::from_secs(6 * 3600);
/// What is still wanted is said again so often, so that peers who forget wants keep them.
const RENEW: Duration = Duration::from_secs(30 * 60);

/// One session; the shell's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link(pub u64);

/// How the machine works; the keys of JS's `blobs` section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantsConfig {
    /// What is wanted by somebody more than so many hops away is not wanted here. Without it, nothing is wanted for
    /// others.
    pub sympathy: u32,
    /// Whether wants of others are ignored, unless we push the blob.
    pub stingy: bool,
    /// A blob is pushed until so many peers have it.
    pub pushy: usize,
    /// Only smaller blobs are fetched, in bytes.
    pub max: u64,
    /// The same for blobs that are wanted only because messages link to them.
    pub max_linked: u64,
}

impl Default for WantsConfig {
    fn default() -> Self {
        Self { sympathy: 3, stingy: false, pushy: 3, max: DEFAULT_MAX, max_linked: DEFAULT_MAX }
    }
}

/// Why a blob is wanted, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// A local client asks for it.
    Own,
    /// A message of a near feed links to it.
    Linked,
    /// A peer asks for it.
    Asked,
}

/// What happens to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A session with `peer` stands.
    Connected {
        /// The session.
        link: Link,
        /// The peer.
        peer: FeedId,
        /// Whether the peer is in the social graph.
        near: bool,
    },
    /// It is over.
    Disconnected {
        /// The session.
        link: Link,
    },
    /// A peer said something of a blob.
    Said {
        /// Over which session.
        link: Link,
        /// Of which blob.
        id: BlobId,
        /// What.
        said: Said,
        /// The size of the blob if it is here.
        stored: Option<u64>,
    },
    /// A peer has a blob of whose size it says nothing (a peer without `createWants`).
    Offered {
        /// Over which session.
        link: Link,
        /// The blob.
        id: BlobId,
    },
    /// Somebody here wants a blob.
    Want {
        /// The blob; it is not here.
        id: BlobId,
        /// A local client asks for it; otherwise a message links to it.
        own: bool,
    },
    /// A blob that is here, or will be, is pushed to others; or no longer.
    Push {
        /// The blob.
        id: BlobId,
        /// Whether.
        on: bool,
    },
    /// A blob was stored otherwise than by a fetch.
    Stored {
        /// The blob.
        id: BlobId,
        /// Its size in bytes.
        size: u64,
    },
    /// Some of a fetch came.
    Progress {
        /// Which fetch.
        get: GetId,
        /// How much more came, in bytes.
        bytes: u64,
    },
    /// A fetch ended.
    Ended {
        /// Which fetch; unknown ones are ignored.
        get: GetId,
        /// The blob's size if it is stored now.
        result: Result<u64, Fault>,
    },
    /// Whether there is room for what others want. In the beginning there is.
    Room(bool),
}

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Say this on one session.
    Say {
        /// The session.
        link: Link,
        /// Of which blob.
        id: BlobId,
        /// What.
        said: Said,
    },
    /// Say this on every session, and to local clients that listen.
    Tell {
        /// Of which blob.
        id: BlobId,
        /// What.
        said: Said,
    },
    /// Fetch a blob; answered by [`Input::Ended`].
    Get {
        /// Names the fetch.
        get: GetId,
        /// From whom.
        link: Link,
        /// Which blob.
        id: BlobId,
        /// So many bytes are taken and no more; what is longer is [`Fault::Size`].
        max: u64,
    },
    /// Give up a fetch; nothing more is expected of it.
    Cancel {
        /// Which fetch.
        get: GetId,
        /// What is said to be wrong.
        why: Fault,
    },
    /// A blob that was wanted is here.
    Have {
        /// The blob.
        id: BlobId,
        /// Why it was wanted.
        why: Why,
        /// For how long.
        after: Duration,
    },
    /// Enough peers have a blob: it is no longer pushed.
    Pushed {
        /// The blob.
        id: BlobId,
    },
}

/// How much is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Wants of local clients.
    pub own: usize,
    /// Wants because of links in messages.
    pub linked: usize,
    /// Wants of near peers.
    pub asked_near: usize,
    /// Wants of strangers.
    pub asked_strangers: usize,
    /// Running fetches.
    pub gets: usize,
    /// Pushed blobs.
    pub pushes: usize,
}

/// A blob that is wanted.
#[derive(Debug)]
struct Want {
    /// In the order of wanting.
    serial: u64,
    reason: Reason,
    since: Instant,
    /// When everybody was told last.
    said: Instant,
    /// Its entry in the list of times.
    wake: Instant,
    getting: Option<GetId>,
    spurned: Vec<fetching::Spurned>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Own,
    Linked { until: Instant },
    Asked { hops: u32, by: FeedId, near: bool, until: Instant },
}

impl Reason {
    fn why(self) -> Why {
        match self {
            Self::Own => Why::Own,
            Self::Linked { .. } => Why::Linked,
            Self::Asked { .. } => Why::Asked,
        }
    }

    fn hops(self) -> u32 {
        match self {
            Self::Own | Self::Linked { .. } => 1,
            Self::Asked { hops, .. } => hops,
        }
    }

    fn until(self) -> Option<Instant> {
        match self {
            Self::Own => None,
            Self::Linked { until } | Self::Asked { until, .. } => Some(until),
        }
    }
}

/// See the module's header.
#[derive(Debug)]
pub struct Wants {
    config: WantsConfig,
    links: BTreeMap<Link, LinkState>,
    wants: BTreeMap<BlobId, Want>,
    /// Who offers what, and of which size where it says so.
    offers: BTreeMap<BlobId, BTreeMap<Link, Option<u64>>>,
    gets: BTreeMap<GetId, Get>,
    /// What is pushed, and which peers have it.
    pushes: BTreeMap<BlobId, BTreeSet<FeedId>>,
    /// When to look at which want again.
    times: BTreeSet<(Instant, BlobId)>,
    /// Wants because of links, oldest first.
    linked: BTreeMap<u64, BlobId>,
    /// How many wants out of sympathy each peer has.
    asked: BTreeMap<FeedId, usize>,
    counts: Counts,
    room: bool,
    /// Nothing is fetched before: the disk failed.
    paused: Option<Instant>,
    serial: u64,
    outputs: VecDeque<Output>,
}

impl Wants {
    /// Nothing is wanted and nobody is there.
    pub fn new(config: WantsConfig) -> Self {
        Self {
            config,
            links: BTreeMap::new(),
            wants: BTreeMap::new(),
            offers: BTreeMap::new(),
            gets: BTreeMap::new(),
            pushes: BTreeMap::new(),
            times: BTreeSet::new(),
            linked: BTreeMap::new(),
            asked: BTreeMap::new(),
            counts: Counts::default(),
            room: true,
            paused: None,
            serial: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Connected { link, peer, near } => self.connected(link, peer, near),
            Input::Disconnected { link } => self.disconnected(link),
            Input::Said { link, id, said: Said::Wants(hops), stored } => {
                self.asked(now, link, id, hops, stored);
            }
            Input::Said { link, id, said: Said::Has(size), .. } => self.offered(link, id, Some(size)),
            Input::Offered { link, id } => self.offered(link, id, None),
            Input::Want { id, own } => self.want(now, id, own),
            Input::Push { id, on } => self.push(id, on),
            Input::Stored { id, size } => self.stored(now, id, size),
            Input::Progress { get, bytes } => self.progress(now, get, bytes),
            Input::Ended { get, result } => self.ended(now, get, result),
            Input::Room(room) => self.room = room,
        }
        self.start_gets(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let want = self.times.first().map(|(at, _)| *at);
        let get = self.gets.values().map(Get::deadline).min();
        [want, get, self.paused].into_iter().flatten().min()
    }

    /// Does what time asks for.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.paused = self.paused.filter(|until| *until > now);
        self.give_up_slow(now);
        while let Some((at, id)) = self.times.first().copied()
            && at <= now
        {
            self.wake(now, id);
        }
        self.start_gets(now);
    }

    /// What a peer is told first: all that is wanted and pushed.
    pub fn current(&self) -> impl Iterator<Item = (BlobId, Said)> {
        let wants = self.wants.iter().map(|(id, want)| (*id, Said::Wants(want.reason.hops())));
        let pushes = self.pushes.keys().filter(|id| !self.wants.contains_key(id));
        wants.chain(pushes.map(|id| (*id, Said::Wants(1))))
    }

    /// How much is under way.
    pub fn counts(&self) -> Counts {
        Counts { gets: self.gets.len(), pushes: self.pushes.len(), ..self.counts }
    }

    /// Whether a blob is wanted, and why.
    pub fn why(&self, id: &BlobId) -> Option<Why> {
        self.wants.get(id).map(|want| want.reason.why())
    }
}

/// What is wanted.
impl Wants {
    /// A peer wants a blob.
    fn asked(&mut self, now: Instant, link: Link, id: BlobId, hops: u32, stored: Option<u64>) {
        let ignored = self.config.stingy && !self.pushes.contains_key(&id);
        let Some(state) = self.links.get(&link).filter(|_| !ignored && id != EMPTY) else { return };
        if let Some(size) = stored {
            if size > 0 {
                self.outputs.push_back(Output::Say { link, id, said: Said::Has(size) });
            }
            return;
        }
        let (by, near) = (state.peer, state.near);
        let hops = hops.saturating_add(1);
        if hops > self.config.sympathy {
            return;
        }
        let until = now + SYMPATHY_TIME;
        match self.wants.get(&id).map(|want| want.reason) {
            Some(Reason::Asked { hops: before, by, near, .. }) => {
                let reason = Reason::Asked { hops: hops.min(before), by, near, until };
                self.change(now, id, reason, hops < before);
            }
            Some(Reason::Own | Reason::Linked { .. }) => {}
            None if self.may_ask(by, near) => {
                self.insert(now, id, Reason::Asked { hops, by, near, until });
            }
            None => {}
        }
    }

    /// Whether something more may be wanted for a peer.
    fn may_ask(&self, by: FeedId, near: bool) -> bool {
        let asked = self.asked.get(&by).copied().unwrap_or(0);
        let (most, all) = match near {
            true => (MAX_ASKED_NEAR, self.counts.asked_near),
            false => (MAX_ASKED_STRANGER, self.counts.asked_strangers),
        };
        asked < most && all < MAX_ASKED
    }

    fn want(&mut self, now: Instant, id: BlobId, own: bool) {
        let reason = if own { Reason::Own } else { Reason::Linked { until: now + LINKED_TIME } };
        if id == EMPTY {
            return;
        }
        match self.wants.get(&id).map(|want| want.reason.why()) {
            Some(before) if before < reason.why() => {}
            // Who asks once more is answered by telling everybody once more, as JS does.
            Some(_) => self.change(now, id, reason, own),
            None if own && self.counts.own >= MAX_OWN => {}
            None => {
                if !own && self.linked.len() >= MAX_LINKED {
                    let oldest = self.linked.first_key_value().map(|(_, id)| *id);
                    oldest.into_iter().for_each(|oldest| self.forget(oldest));
                }
                self.insert(now, id, reason);
            }
        }
    }

    fn insert(&mut self, now: Instant, id: BlobId, reason: Reason) {
        self.serial += 1;
        let want = Want {
            serial: self.serial,
            reason,
            since: now,
            said: now,
            wake: now,
            getting: None,
            spurned: Vec::new(),
        };
        self.count(id, want.serial, reason, true);
        self.wants.insert(id, want);
        self.tell_want(now, id);
        self.enlist(id);
    }

    /// A want has another reason from now on; `tell` says whether everybody hears of it at once.
    fn change(&mut self, now: Instant, id: BlobId, reason: Reason, tell: bool) {
        self.delist(&id);
        let Some(want) = self.wants.get_mut(&id) else { return };
        let (serial, before) = (want.serial, std::mem::replace(&mut want.reason, reason));
        let nearer = reason.hops() < before.hops();
        let stale = now.saturating_duration_since(want.said) >= RENEW / 2;
        self.count(id, serial, before, false);
        self.count(id, serial, reason, true);
        if tell || nearer || stale {
            self.tell_want(now, id);
        } else {
            self.schedule(id);
        }
        self.enlist(id);
    }

    fn tell_want(&mut self, now: Instant, id: BlobId) {
        if let Some(want) = self.wants.get_mut(&id) {
            want.said = now;
            let said = Said::Wants(want.reason.hops());
            self.outputs.push_back(Output::Tell { id, said });
            self.schedule(id);
        }
    }

    /// Puts the next time of a want on the list.
    fn schedule(&mut self, id: BlobId) {
        let Some(want) = self.wants.get_mut(&id) else { return };
        self.times.remove(&(want.wake, id));
        // What others want they say again themselves.
        let renewed = (want.reason.why() != Why::Asked).then_some(want.said + RENEW);
        let next = [renewed, want.reason.until()].into_iter().flatten().min();
        if let Some(next) = next {
            want.wake = next;
            self.times.insert((next, id));
        }
    }

    /// It is time to look at a want again.
    fn wake(&mut self, now: Instant, id: BlobId) {
        let Some(want) = self.wants.get_mut(&id) else { return };
        if want.reason.until().is_none_or(|until| until > now) {
            self.tell_want(now, id);
        } else if want.getting.is_some() {
            // What is on its way may still arrive.
            self.times.remove(&(want.wake, id));
            want.wake = now + fetching::WINDOW;
            self.times.insert((want.wake, id));
        } else {
            self.forget(id);
        }
    }

    /// Nobody wants it any more.
    fn forget(&mut self, id: BlobId) {
        if let Some(get) = self.wants.get(&id).and_then(|want| want.getting) {
            self.drop_get(get);
            self.outputs.push_back(Output::Cancel { get, why: Fault::Gone });
        }
        self.remove(id);
    }

    fn remove(&mut self, id: BlobId) -> Option<Want> {
        self.delist(&id);
        self.take_offers(&id);
        let want = self.wants.remove(&id)?;
        self.times.remove(&(want.wake, id));
        self.count(id, want.serial, want.reason, false);
        Some(want)
    }

    /// Keeps the counts right when a want comes or goes.
    fn count(&mut self, id: BlobId, serial: u64, reason: Reason, comes: bool) {
        let counts = &mut self.counts;
        let counter = match reason {
            Reason::Own => &mut counts.own,
            Reason::Linked { .. } => &mut counts.linked,
            Reason::Asked { near: true, .. } => &mut counts.asked_near,
            Reason::Asked { near: false, .. } => &mut counts.asked_strangers,
        };
        *counter = if comes { *counter + 1 } else { *counter - 1 };
        match reason {
            Reason::Own => {}
            Reason::Linked { .. } if comes => drop(self.linked.insert(serial, id)),
            Reason::Linked { .. } => drop(self.linked.remove(&serial)),
            Reason::Asked { by, .. } => {
                let asked = self.asked.entry(by).or_insert(0);
                *asked = if comes { *asked + 1 } else { *asked - 1 };
                if *asked == 0 {
                    self.asked.remove(&by);
                }
            }
        }
    }

    /// A blob is here: who wanted it hears of it, and everybody that we have it.
    fn stored(&mut self, now: Instant, id: BlobId, size: u64) {
        if let Some(get) = self.wants.get(&id).and_then(|want| want.getting) {
            self.drop_get(get);
            self.outputs.push_back(Output::Cancel { get, why: Fault::Gone });
        }
        if let Some(want) = self.remove(id) {
            let (why, after) = (want.reason.why(), now.saturating_duration_since(want.since));
            self.outputs.push_back(Output::Have { id, why, after });
        }
        if size > 0 {
            self.outputs.push_back(Output::Tell { id, said: Said::Has(size) });
        }
    }

    fn push(&mut self, id: BlobId, on: bool) {
        if !on {
            self.pushes.remove(&id);
        } else if id != EMPTY && (self.pushes.contains_key(&id) || self.pushes.len() < MAX_PUSHES) {
            self.pushes.entry(id).or_default();
            // Others want it out of sympathy, and are then told that we have it.
            self.outputs.push_back(Output::Tell { id, said: Said::Wants(1) });
        }
    }

    /// A peer has a blob that we push.
    fn count_push(&mut self, id: BlobId, peer: FeedId) {
        let Some(having) = self.pushes.get_mut(&id) else { return };
        having.insert(peer);
        if having.len() >= self.config.pushy {
            self.pushes.remove(&id);
            self.outputs.push_back(Output::Pushed { id });
        }
    }
}
