//! Blinded rendezvous: how two people who follow each other meet in the DHT, and nobody else learns that
//! they were there.
//!
//! For each period of six hours and each friend a node publishes one record under a key that only the two
//! can compute, and looks for the friend's. Storing nodes see random keys, sealed bytes of one size, and
//! always the same number of records.
//!
//! What makes two meet: whoever has published seeks after that, so the later of the two finds the other. Who
//! stays away is sought ever more rarely; who comes back seeks the others.
//!
//! What a storing node or a relay can see, and what it is to learn nothing from:
//!
//! - The number of records is the next power of two of the number of friends, at least 32; the others are
//!   decoys with the same rhythm. Where all are published at once (at the start, in a new network), a fixed
//!   number comes first, and friends who may be waiting are among those.
//! - Without an address to tell nothing is published at all, decoys neither: silence shows that we have no
//!   address, which whoever sees our connections knows, and nothing of friends.
//! - A new friend's record comes at once, outside the rhythm. That shows that there is one; not who.
//!
//! [`Rendezvous`] is a plain machine; `swarm/kad.rs` drives it beside the DHT.
//!
//! Keys (after Tor's rend-spec-v3, appendix A): blinded key = feed key x h, with h =
//! HMAC-SHA256(secret, "hawsepipe rendezvous 1" | period u64be | direction), clamped. The secret of the tier
//! `pairwise` is SHA-256("ssb-dht/3" | cap | X25519 of both feeds' Curve25519 forms), that of `public`
//! SHA-256("ssb-dht/1" | cap | feed).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ssb_crypto::Keypair;

use crate::certificate::Certificate;
use crate::conn::TransportId;
use crate::kad::{LookupId, Refusal, Stamp};
use crate::keys::{NetworkKey, PublicKey};
use crate::reachability::Nat;

mod blind;
mod dice;
mod record;
mod search;
mod secret;
mod slots;
#[cfg(test)]
mod tests;

use dice::Dice;
use record::{OVERLAP, Opened, Reader, Writer, period_of};
use search::{Search, Stage};
pub(crate) use secret::hmac;
use secret::{Direction, Secret};
use slots::{Audience, Slots};

/// A period of the blinded keys.
pub(crate) const PERIOD: Duration = Duration::from_secs(6 * 60 * 60);
/// Friends looked after; further ones, by their keys' order, are not.
pub(crate) const MAX_FRIENDS: usize = 4096;
/// Lookups and publications under way at a time.
pub(crate) const MAX_LOOKUPS: usize = 8;
pub(crate) const MAX_PUBLICATIONS: usize = 4;
/// For how long the DHT may be silent about one.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(120);
/// Lookups that are over and for which a newer record may still come.
const MAX_LATE: usize = 32;
/// Addresses come and go together: how long we wait for the next change, and how long for the last.
const SETTLING: Duration = Duration::from_millis(1500);
const LONGEST_SETTLING: Duration = Duration::from_secs(3);
/// At least so long between two times that everything is published because our addresses have changed.
const RENEWAL_PAUSE: Duration = Duration::from_secs(20);
/// Within which time, from [`OVERLAP`] before it, a period's first records are published. Together with the
/// time that takes, less than the ten minutes that keep two clocks twenty minutes apart together.
const EARLY_SPREAD: Duration = Duration::from_secs(9 * 60);
/// How often at least the time is compared with the period: clocks are set.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// Who can find us in the DHT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Whom we follow, if they follow us.
    #[default]
    Pairwise,
    /// Whoever knows our feed, and whom we follow.
    Public,
    /// Nobody; we look for nobody either.
    Off,
}

/// Both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    /// Since 1970.
    pub(crate) unix: Duration,
}

/// Somebody we follow and don't block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Friend {
    /// There is a session: not to be looked for.
    pub connected: bool,
}

/// Where we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Circuits through relays: multiaddrs that end in our peer id.
    pub(crate) circuits: Vec<String>,
    /// Direct addresses at which others are known to reach us; same form.
    pub(crate) direct: Vec<String>,
    pub(crate) nat: Nat,
}

/// What happens to the machine.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// All whom we follow and don't block, from now on.
    Friends(BTreeMap<PublicKey, Friend>),
    /// Where we are has changed.
    Place(Place),
    /// Whether the DHT has anybody to ask.
    Ready(bool),
    /// A record that [`Output::Seek`] asked for.
    Found { lookup: LookupId, value: Vec<u8> },
    /// A lookup or publication is over; `success` as the DHT says.
    Ended { lookup: LookupId, success: bool },
}

/// A friend was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Met {
    /// By which lookup.
    pub(crate) lookup: LookupId,
    pub(crate) feed: PublicKey,
    pub(crate) peer: TransportId,
    /// Multiaddrs that end in its peer id.
    pub(crate) addresses: Vec<String>,
    pub(crate) nat: Nat,
    /// How old the record is.
    pub(crate) age: Duration,
    /// When it ends.
    pub(crate) until: Instant,
}

/// What the machine wants.
#[derive(Clone, Debug)]
pub(crate) enum Output {
    /// Store this in the DHT.
    Publish { lookup: LookupId, key: Vec<u8>, value: Vec<u8> },
    /// Find this in the DHT.
    Seek { lookup: LookupId, key: Vec<u8> },
    /// Stop a lookup.
    Cancel(LookupId),
    /// Somebody was found there; what an earlier record said no longer holds.
    Met(Met),
    /// What was said of a friend's place no longer holds.
    Expired { feed: PublicKey },
}

/// How many of whom we look for were found.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// All whom we follow and don't block.
    pub(crate) friends: usize,
    /// Those with whom there is no session.
    pub(crate) sought: usize,
    /// Those of `sought` of whom a record is known that has not ended.
    pub(crate) found: usize,
}

/// Checks a record before storing it, without knowing whose it is: [`crate::kad::Validate`].
pub(crate) fn validate(key: &[u8], value: &[u8], unix: Duration) -> Result<Stamp, Refusal> {
    record::validate(key, value, unix)
}

/// See the module's header.
pub(crate) struct Rendezvous {
    own: Own,
    dice: Dice,
    ready: bool,
    place: Place,
    moved: Option<Moved>,
    /// When everything was last published anew.
    renewed: Option<Instant>,
    friends: BTreeMap<PublicKey, Search>,
    /// This period's records and, when it ends soon, the next one's. Empty until there is something to tell.
    rounds: Vec<Slots>,
    flights: BTreeMap<LookupId, Flight>,
    late: VecDeque<(LookupId, Sought)>,
    last_lookup: u64,
    /// When to compare the time with the period.
    check: Option<Instant>,
    outputs: VecDeque<Output>,
}

struct Own {
    keypair: Arc<Keypair>,
    feed: PublicKey,
    network: NetworkKey,
    peer: TransportId,
    tier: Tier,
}

/// Our addresses have changed.
#[derive(Clone, Copy, Debug)]
struct Moved {
    first: Instant,
    last: Instant,
}

/// A lookup or publication under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    sought: Option<Sought>,
    since: Instant,
}

/// What a lookup is for.
#[derive(Clone, Copy, Debug)]
struct Sought {
    feed: PublicKey,
    stage: Stage,
    period: u64,
}

impl Rendezvous {
    /// `seed` makes the choices that are free: when within a period something is published, and dummies. It
    /// is secret, and another one in each run.
    pub(crate) fn new(
        keypair: Arc<Keypair>,
        network: NetworkKey,
        peer: TransportId,
        tier: Tier,
        seed: [u8; 32],
    ) -> Self {
        let feed = PublicKey::from_bytes(keypair.public.0);
        Self {
            own: Own { keypair, feed, network, peer, tier },
            dice: Dice::new(seed),
            ready: false,
            place: Place::default(),
            moved: None,
            renewed: None,
            friends: BTreeMap::new(),
            rounds: Vec::new(),
            flights: BTreeMap::new(),
            late: VecDeque::new(),
            last_lookup: 0,
            check: None,
            outputs: VecDeque::new(),
        }
    }

    pub(crate) fn handle(&mut self, now: Now, input: Input) {
        if self.own.tier == Tier::Off {
            return;
        }
        match input {
            Input::Friends(friends) => self.set_friends(now, &friends),
            Input::Place(place) => self.set_place(now.instant, place),
            Input::Ready(ready) => self.ready = ready,
            Input::Found { lookup, value } => self.found(now, lookup, &value),
            Input::Ended { lookup, success } => self.ended(now.instant, lookup, success),
        }
        self.settle(now);
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let settled = self.settles_at().filter(|_| self.ready);
        let publish = self.rounds.iter().filter_map(Slots::next_due).min();
        let publish = publish.filter(|_| self.can_publish());
        let seek = self.friends.values().filter_map(Search::next_due).min();
        let seek = seek.filter(|_| self.can_seek());
        let expiry = self.friends.values().filter_map(Search::expiry).min();
        let silence = self.flights.values().map(|flight| flight.since + LOOKUP_TIMEOUT).min();
        [settled, publish, seek, expiry, silence, self.check].into_iter().flatten().min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Now) {
        let silent = self.flights.iter().filter(|(_, flight)| flight.since + LOOKUP_TIMEOUT <= now.instant);
        let silent: Vec<_> = silent.map(|(lookup, _)| *lookup).collect();
        for lookup in silent {
            self.outputs.push_back(Output::Cancel(lookup));
            self.ended(now.instant, lookup, false);
        }
        self.settle(now);
    }

    /// How many friends were found.
    #[cfg(test)]
    pub(crate) fn status(&self) -> Status {
        let sought = || self.friends.values().filter(|search| !search.connected);
        Status {
            friends: self.friends.len(),
            sought: sought().count(),
            found: sought().filter(|search| search.is_known()).count(),
        }
    }

    fn set_friends(&mut self, now: Now, friends: &BTreeMap<PublicKey, Friend>) {
        let gone = self.friends.keys().filter(|feed| !friends.contains_key(*feed));
        let gone: Vec<_> = gone.copied().collect();
        for feed in gone {
            self.forget(feed);
        }
        for (feed, friend) in friends {
            if !self.friends.contains_key(feed) {
                self.befriend(now, *feed);
            }
            let Some(search) = self.friends.get_mut(feed) else { continue };
            if friend.connected && !search.connected {
                let lookups = search.connect();
                self.cancel(lookups);
            } else if !friend.connected && search.connected {
                search.disconnect(now.instant);
            }
        }
    }

    fn befriend(&mut self, now: Now, feed: PublicKey) {
        if feed == self.own.feed || self.friends.len() >= MAX_FRIENDS {
            return;
        }
        let Some(mut search) = self.own.search(feed) else { return };
        let plan = if self.rounds.is_empty() { search::START } else { search::NEW };
        search.begin(plan, now.instant);
        self.friends.insert(feed, search);
        self.seat(now.instant, feed);
    }

    /// A record for a new friend, in each period that has begun.
    fn seat(&mut self, now: Instant, feed: PublicKey) {
        let wanted = slots::count(self.friends.len() + usize::from(self.own.tier == Tier::Public));
        let Self { own, dice, friends, rounds, .. } = self;
        for round in rounds {
            while round.len() < wanted {
                let decoy = decoy(dice, round.period);
                let due = now + dice.within(EARLY_SPREAD);
                round.push(Audience::Nobody, decoy, due);
            }
            let audience = Audience::Friend(feed);
            let Some(writer) = own.writer(friends, audience, round.period) else { continue };
            let can_wait = |other| matches!(other, Audience::Friend(other) if is_connected(friends, other));
            round.seat(now, dice, audience, writer, can_wait);
        }
    }

    fn forget(&mut self, feed: PublicKey) {
        let Some(search) = self.friends.remove(&feed) else { return };
        self.cancel(search.underway().to_vec());
        self.late.retain(|(_, sought)| sought.feed != feed);
        if search.is_known() {
            self.outputs.push_back(Output::Expired { feed });
        }
        for round in &mut self.rounds {
            round.clear(Audience::Friend(feed), decoy(&mut self.dice, round.period));
        }
    }

    fn cancel(&mut self, lookups: Vec<LookupId>) {
        for lookup in lookups {
            self.flights.remove(&lookup);
            self.outputs.push_back(Output::Cancel(lookup));
        }
    }

    fn set_place(&mut self, now: Instant, place: Place) {
        let sorted = |place: &Place| {
            let mut all = [place.circuits.clone(), place.direct.clone()].concat();
            all.sort_unstable();
            all
        };
        let has_moved = sorted(&place) != sorted(&self.place);
        self.place = place;
        if !self.can_tell() {
            self.moved = None;
            self.friends.values_mut().for_each(Search::untold);
        } else if has_moved {
            let first = self.moved.map_or(now, |moved| moved.first);
            self.moved = Some(Moved { first, last: now });
        }
    }

    fn found(&mut self, now: Now, lookup: LookupId, value: &[u8]) {
        let late = self.late.iter().find(|(of, _)| *of == lookup).map(|(_, sought)| *sought);
        let Some(sought) = self.flights.get(&lookup).and_then(|flight| flight.sought).or(late) else {
            return;
        };
        let Some(search) = self.friends.get_mut(&sought.feed) else { return };
        let reader = search.reader(sought.stage);
        let Ok(opened) = reader.open(sought.period, self.own.network, now.unix, value) else { return };
        // Our clock may be the one that is wrong.
        let left = (opened.stamp.until + record::CLOCK_SLACK).saturating_sub(now.unix).min(record::LIFE);
        let until = now.instant + left;
        if search.found(&opened, until) && !search.connected {
            let Opened { certificate, nat, stamp } = opened;
            let age = now.unix.saturating_sub(Duration::from_millis(stamp.sequence));
            let Certificate { feed, peer, addresses, .. } = certificate;
            self.outputs.push_back(Output::Met(Met { lookup, feed, peer, addresses, nat, age, until }));
        }
    }

    fn ended(&mut self, now: Instant, lookup: LookupId, success: bool) {
        let Some(flight) = self.flights.remove(&lookup) else { return };
        if let Some(sought) = flight.sought {
            self.late.push_back((lookup, sought));
            if self.late.len() > MAX_LATE {
                self.late.pop_front();
            }
            if let Some(search) = self.friends.get_mut(&sought.feed) {
                search.ended(now, &mut self.dice, lookup);
            }
            return;
        }
        let dice = &mut self.dice;
        let audience = self.rounds.iter_mut().find_map(|round| round.ended(now, dice, lookup, success));
        if let Some(Audience::Friend(feed)) = audience
            && let Some(search) = self.friends.get_mut(&feed)
        {
            search.published(now);
        }
    }

    fn settle(&mut self, now: Now) {
        self.check = Some(now.instant + CLOCK_CHECK.min(until_next(now.unix)));
        let over =
            self.friends.iter_mut().filter_map(|(feed, search)| search.expire(now.instant).then_some(*feed));
        self.outputs.extend(over.map(|feed| Output::Expired { feed }));
        self.turn(now);
        if self.ready && self.settles_at().is_some_and(|at| at <= now.instant) {
            self.moved = None;
            self.renew(now);
        }
        while self.can_publish() && self.publish(now) {}
        while self.can_seek() && self.seek(now) {}
    }

    /// Drops what is over, and begins the next period where it is time.
    fn turn(&mut self, now: Now) {
        if self.rounds.is_empty() {
            return;
        }
        let periods = readable(now.unix);
        self.rounds.retain(|round| periods.contains(&round.period));
        for period in periods {
            if self.rounds.iter().any(|round| round.period == period) {
                continue;
            }
            let early = Duration::from_secs(PERIOD.as_secs() * period).saturating_sub(now.unix);
            let spread = EARLY_SPREAD.saturating_sub(OVERLAP.saturating_sub(early)).max(slots::SPREAD);
            self.begin(now.instant, period, spread);
        }
    }

    /// Our addresses are new: everything is published. The first time this is the beginning.
    fn renew(&mut self, now: Now) {
        self.renewed = Some(now.instant);
        for period in readable(now.unix) {
            if !self.rounds.iter().any(|round| round.period == period) {
                self.begin(now.instant, period, Duration::ZERO);
            }
        }
        let Self { friends, rounds, dice, .. } = self;
        for round in rounds {
            let is_urgent = |audience| match audience {
                Audience::Friend(feed) => !is_connected(friends, feed),
                Audience::Everybody => true,
                Audience::Nobody => false,
            };
            round.renew(now.instant, dice, is_urgent);
        }
    }

    /// The records of a period. Of more friends than it has room for each comes every few periods.
    fn begin(&mut self, now: Instant, period: u64, spread: Duration) {
        let Self { own, dice, friends, rounds, .. } = self;
        let everybody = (own.tier == Tier::Public).then_some(Audience::Everybody);
        let count = slots::count(friends.len() + usize::from(everybody.is_some()));
        let room = count - usize::from(everybody.is_some());
        let mut feeds: Vec<_> = friends.keys().copied().collect();
        if feeds.len() > room {
            feeds.sort_by_key(|feed| dice.fixed(b"rotation", feed.as_bytes()));
            let start = period as usize % feeds.len() * room % feeds.len();
            feeds.rotate_left(start);
        }
        let mut round = Slots::new(period);
        for audience in everybody.into_iter().chain(feeds.into_iter().take(room).map(Audience::Friend)) {
            let Some(writer) = own.writer(friends, audience, period) else { continue };
            round.push(audience, writer, now + dice.within(spread));
        }
        while round.len() < count {
            let decoy = decoy(dice, period);
            round.push(Audience::Nobody, decoy, now + dice.within(spread));
        }
        rounds.push(round);
    }

    /// Publishes what is due, if anything is.
    fn publish(&mut self, now: Now) -> bool {
        let lookup = LookupId(self.last_lookup + 1);
        let due = self.rounds.iter_mut().filter(|round| round.next_due().is_some());
        let Some(round) = due.min_by_key(|round| round.next_due()) else { return false };
        let Some(slot) = round.take_due(now.instant, lookup) else { return false };
        let content = match slot.audience {
            Audience::Friend(_) => Some(self.own.certificate(&self.place, now.unix, false)),
            Audience::Everybody => Some(self.own.certificate(&self.place, now.unix, true)),
            Audience::Nobody => None,
        };
        let content = content.as_ref().map(|certificate| (certificate, self.place.nat));
        let value = slot.writer.write(now.unix, content);
        let key = slot.writer.place();
        self.last_lookup += 1;
        self.flights.insert(lookup, Flight { sought: None, since: now.instant });
        self.outputs.push_back(Output::Publish { lookup, key, value });
        true
    }

    /// Seeks whoever is due, if anybody is.
    fn seek(&mut self, now: Now) -> bool {
        let due = self
            .friends
            .iter_mut()
            .filter(|(_, search)| search.next_due().is_some_and(|at| at <= now.instant));
        let Some((feed, search)) = due.min_by_key(|(_, search)| search.next_due()) else { return false };
        let stage = search.stage();
        let mut lookups = Vec::new();
        for period in readable(now.unix) {
            let Some(key) = search.reader(stage).place(period) else { continue };
            self.last_lookup += 1;
            let lookup = LookupId(self.last_lookup);
            lookups.push(lookup);
            let sought = Some(Sought { feed: *feed, stage, period });
            self.flights.insert(lookup, Flight { sought, since: now.instant });
            self.outputs.push_back(Output::Seek { lookup, key });
        }
        search.started(lookups);
        true
    }

    const fn can_tell(&self) -> bool {
        !self.place.circuits.is_empty() || !self.place.direct.is_empty()
    }

    fn can_publish(&self) -> bool {
        let underway = self.flights.values().filter(|flight| flight.sought.is_none()).count();
        self.ready && self.can_tell() && underway < MAX_PUBLICATIONS
    }

    fn can_seek(&self) -> bool {
        let underway = self.flights.values().filter(|flight| flight.sought.is_some()).count();
        // One friend may take two, under this period and the next.
        self.ready && underway + 2 <= MAX_LOOKUPS
    }

    /// When our new addresses are to be told.
    fn settles_at(&self) -> Option<Instant> {
        let moved = self.moved?;
        let at = (moved.last + SETTLING).min(moved.first + LONGEST_SETTLING);
        Some(self.renewed.map_or(at, |renewed| at.max(renewed + RENEWAL_PAUSE)))
    }
}

impl Own {
    /// `None` for a friend whose key is so weak that others could find us.
    fn search(&self, feed: PublicKey) -> Option<Search> {
        let secret = Secret::pairwise(&self.keypair, feed, self.network)?;
        let direction = Direction::between(feed, self.feed);
        let pairwise = Reader { secret, direction, publisher: feed };
        let secret = Secret::public(feed, self.network);
        let public = Reader { secret, direction: Direction::PUBLIC, publisher: feed };
        Some(Search::new(pairwise, public))
    }

    /// What writes our records for somebody.
    fn writer(
        &self,
        friends: &BTreeMap<PublicKey, Search>,
        audience: Audience,
        period: u64,
    ) -> Option<Writer> {
        match audience {
            Audience::Friend(feed) => {
                let secret = &friends.get(&feed)?.reader(Stage::Pairwise).secret;
                let direction = Direction::between(self.feed, feed);
                Some(Writer::new(&self.keypair, secret, period, direction))
            }
            Audience::Everybody => {
                let secret = Secret::public(self.feed, self.network);
                Some(Writer::new(&self.keypair, &secret, period, Direction::PUBLIC))
            }
            Audience::Nobody => None,
        }
    }

    /// Strangers have no need of our relays where there is a direct way.
    fn certificate(&self, place: &Place, unix: Duration, direct_first: bool) -> Certificate {
        let (first, second) =
            if direct_first { (&place.direct, &place.circuits) } else { (&place.circuits, &place.direct) };
        let addresses = record::fitting(&self.peer, first.iter().chain(second).cloned());
        Certificate::sign(&self.keypair, self.network, self.peer.clone(), addresses, unix)
    }
}

fn is_connected(friends: &BTreeMap<PublicKey, Search>, feed: PublicKey) -> bool {
    friends.get(&feed).is_some_and(|search| search.connected)
}

fn decoy(dice: &mut Dice, period: u64) -> Writer {
    Writer::decoy(period, [dice.bytes(), dice.bytes(), dice.bytes()])
}

/// The periods under which one publishes and seeks: this one and, near its end, the next.
fn readable(unix: Duration) -> Vec<u64> {
    let period = period_of(unix);
    if until_next(unix) <= OVERLAP { vec![period, period + 1] } else { vec![period] }
}

/// How long it is until the next period begins, or until one publishes for it.
fn until_next(unix: Duration) -> Duration {
    Duration::from_secs(PERIOD.as_secs() * (period_of(unix) + 1)).saturating_sub(unix)
}
