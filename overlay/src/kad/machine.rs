//! One node of the DHT: what it asks, what it answers, and what it does when nobody asks.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use self::asks::{Asked, Asks, Purpose};
use self::candidates::Candidates;
use self::limiter::Limiter;
use self::pace::Pace;
use self::publications::Publications;
use self::upkeep::Upkeep;
use super::lookup::{Lookup as Walk, Question};
use super::store::{Store, Validate};
use super::table::{Loss, Node, Room, Table};
use super::{
    Asker, Contact, DhtReport, K, Key, Lookup, NodeId, Record, Refusal, Request, Response, Subnet, spread,
};
use crate::reachability::{Scope, scope};
use crate::relays::Network;

mod asks;
mod candidates;
mod limiter;
mod pace;
mod publications;
mod searches;
#[cfg(test)]
mod tests;
mod upkeep;

/// An answer has the [`K`] that a lookup would want first of so many that are closest.
const CONSIDERED: usize = 3 * K;
/// Most nodes that [`Dht::sample`] gives.
const MAX_SAMPLE: usize = 16;
/// Most nodes that [`Dht::to_save`] gives.
const MAX_SAVED: usize = 64;
/// So many nodes in so many networks can find anybody.
const HEALTHY_NODES: usize = 8;
const HEALTHY_NETWORKS: usize = 4;
/// A node of a full bucket that was silent for so long is asked whether it still lives when somebody could
/// take its place.
const STALE: Duration = Duration::from_secs(60 * 60);
/// Whom we have not heard of for so long we tell of last: twice the time in which neighbours look around.
const FRESH: Duration = Duration::from_secs(30 * 60);
/// How often records that have ended are dropped.
const SWEEP: Duration = Duration::from_secs(60);

/// Names one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AskId(pub(crate) u64);

/// Names one lookup of whoever asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LookupId(pub(crate) u64);

/// What happens to the machine.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// A node is said to serve the DHT there: by itself (identify), an earlier run, the operator, a
    /// certificate, a neighbour. Believed once it has answered there.
    Candidate(Contact),
    /// A question was answered by the node that we asked, at the host `ip`.
    Answered { ask: AskId, ip: Option<IpAddr>, response: Response },
    /// A question came to nothing.
    Failed(AskId),
    /// Finds the record under a key.
    Get { lookup: LookupId, key: Vec<u8> },
    /// Stores a record at the nodes closest to its key.
    Put { lookup: LookupId, record: Record },
    /// A lookup is no longer wanted; nothing more is heard of it.
    Cancel(LookupId),
    /// Whether we answer others: they reach us at an address of our own.
    Serving(bool),
    /// We are in another network now: what we know of who answers may be wrong.
    NetworkChanged,
}

/// A question to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) id: AskId,
    pub(crate) to: Contact,
    pub(crate) request: Request,
    /// Only an answer on a connection that we dialled counts: it shows that the address is the node's.
    pub(crate) dial: bool,
}

/// How a lookup ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) lookup: LookupId,
    /// For a get: whether a record was found. For a put: whether anybody keeps it.
    pub(crate) success: bool,
    /// For a put: how many keep it.
    pub(crate) stored: usize,
    pub(crate) summary: Summary,
}

/// What it cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) asked: usize,
    pub(crate) failed: usize,
    pub(crate) took: Duration,
    pub(crate) hops: u32,
}

/// What the machine wants.
#[derive(Clone, Debug)]
pub(crate) enum Output {
    Ask(Ask),
    /// A valid record. May come again for the same lookup when a newer one turns up, also after
    /// [`Output::Ended`].
    Found {
        lookup: LookupId,
        value: Vec<u8>,
    },
    Ended(Ended),
    /// For metrics.
    Lookup(Lookup),
    /// [`Dht::report`] has changed.
    Changed,
}

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Dht {
    own: NodeId,
    validate: Validate,
    serving: bool,
    table: Table,
    candidates: Candidates,
    asks: Asks,
    pace: Pace,
    searches: BTreeMap<u64, Search>,
    last_search: u64,
    /// Those that have not begun.
    waiting: VecDeque<Wish>,
    publications: Publications,
    upkeep: Upkeep,
    store: Store,
    limiter: Limiter,
    /// When the store is looked through next.
    sweep_at: Option<Instant>,
    reported: DhtReport,
    outputs: VecDeque<Output>,
}

/// A lookup that somebody wants.
#[derive(Debug)]
enum Wish {
    Get { lookup: LookupId, key: Vec<u8> },
    Put { lookup: LookupId, record: Record },
}

/// A lookup that has begun.
#[derive(Debug)]
struct Search {
    walk: Walk,
    aim: Aim,
    /// Its end has been told; late answers may still improve on it.
    has_ended: bool,
    /// An answer has come, or a place has become free.
    is_due: bool,
    wake_at: Instant,
}

/// How we know that a question came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// There was no answer in time.
    Silence,
    /// The shell says so.
    Told,
}

#[derive(Debug)]
enum Aim {
    /// With the highest sequence that was found.
    Seek {
        lookup: LookupId,
        key: Vec<u8>,
        best: Option<u64>,
    },
    Publish {
        lookup: LookupId,
        record: Record,
    },
    /// Of ourselves, or of these bytes.
    Refresh(Option<Vec<u8>>),
}

impl Dht {
    /// `seed` makes the choices that are free.
    pub(crate) fn new(own: NodeId, seed: u64, validate: Validate) -> Self {
        Self {
            table: Table::new(*own.key()),
            store: Store::new(own.clone(), validate),
            own,
            validate,
            serving: false,
            candidates: Candidates::default(),
            asks: Asks::default(),
            pace: Pace::default(),
            searches: BTreeMap::new(),
            last_search: 0,
            waiting: VecDeque::new(),
            publications: Publications::default(),
            upkeep: Upkeep::new(seed),
            limiter: Limiter::default(),
            sweep_at: None,
            reported: DhtReport::default(),
            outputs: VecDeque::new(),
        }
    }

    pub(crate) fn handle(&mut self, now: Instant, unix: Duration, input: Input) {
        match input {
            Input::Candidate(contact) => self.candidate(now, contact),
            Input::Answered { ask, ip, response } => self.answered(now, unix, ask, ip, response),
            Input::Failed(ask) => self.failed(now, ask, Failure::Told),
            Input::Get { lookup, key } => self.wish(Wish::Get { lookup, key }),
            Input::Put { lookup, record } => self.wish(Wish::Put { lookup, record }),
            Input::Cancel(lookup) => self.cancel(lookup),
            Input::Serving(serving) => self.set_serving(now, serving),
            Input::NetworkChanged => self.network_changed(now),
        }
        self.settle(now, unix);
    }

    /// Answers a question; refuses it with the reason. Puts count as answered when the record is kept; they
    /// are told who is closest as well.
    pub(crate) fn serve(
        &mut self,
        now: Instant,
        unix: Duration,
        from: &Asker,
        request: Request,
    ) -> Result<Response, Refusal> {
        if !self.limiter.take(now, from) {
            return Err("rate");
        }
        self.table.heard(now, &from.node, from.ip);
        let (target, record) = match request {
            Request::Ping => return Ok(Response::default()),
            Request::FindNode(name) | Request::GetProviders(name) => (Key::of(&name), None),
            Request::GetValue(key) => (Key::of(&key), self.store.get(now, &key)),
            Request::PutValue(record) => (self.keep(now, unix, from, record)?, None),
        };
        Ok(Response { closer: self.closest_for(now, from, &target), record })
    }

    fn keep(&mut self, now: Instant, unix: Duration, from: &Asker, record: Record) -> Result<Key, Refusal> {
        if !self.serving {
            return Err("not_serving");
        }
        let target = Key::of(&record.key);
        self.store.put(now, unix, from, record)?;
        self.sweep_at.get_or_insert(now + SWEEP);
        self.tell_changes();
        Ok(target)
    }

    /// As a lookup wants them: a crowd in one network must not be all that we tell of, and whom we have not heard of
    /// for long comes last, because every asker would find out by itself that it is gone.
    fn closest_for(&self, now: Instant, from: &Asker, target: &Key) -> Vec<Contact> {
        let others = self.table.closest(target, CONSIDERED).into_iter();
        let others = others.filter(|node| node.contact.node != from.node);
        let (fresh, stale): (Vec<_>, Vec<_>) = others.partition(|node| node.was_heard(now, FRESH));
        let of = |nodes| spread(nodes, |node: &&Node| Subnet::of(node.ip));
        let others = of(fresh.into_iter()).chain(of(stale.into_iter())).map(|node| node.contact.clone());
        others.filter_map(|contact| contact.for_somebody_at(Some(from.ip))).take(K).collect()
    }

    /// Nodes of the table for a peer that has none yet, at most 16, in different networks where possible;
    /// never with addresses of a LAN.
    pub(crate) fn sample(&self) -> Vec<Contact> {
        let public = self.table.oldest().into_iter().filter(|node| scope(node.ip) == Some(Scope::Public));
        let spread = spread(public, |node| Network::of(node.ip)).map(|node| node.contact.clone());
        spread.filter_map(|contact| contact.for_somebody_at(None)).take(MAX_SAMPLE).collect()
    }

    /// The nodes worth remembering over a restart, best first, at most 64: those longest in the table, then
    /// those that were in it last.
    pub(crate) fn to_save(&self) -> Vec<Contact> {
        let nodes = self.table.oldest().into_iter().map(|node| &node.contact);
        nodes.chain(self.candidates.benched()).take(MAX_SAVED).cloned().collect()
    }

    pub(crate) fn report(&self) -> DhtReport {
        let (nodes, networks) = (self.table.len(), self.table.networks());
        DhtReport {
            serving: self.serving,
            nodes,
            networks,
            records: self.store.len(),
            healthy: self.is_healthy(),
        }
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let searches = self.searches.values().filter(|search| !search.has_ended);
        let others = [
            self.asks.poll_timeout(),
            self.candidates.poll_timeout(),
            self.upkeep.poll_timeout(),
            self.sweep_at,
        ];
        searches.map(|search| search.wake_at).chain(others.into_iter().flatten()).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, unix: Duration) {
        while let Some(late) = self.asks.late(now) {
            self.failed(now, late, Failure::Silence);
        }
        if self.sweep_at.is_some_and(|at| at <= now) {
            self.store.handle_timeout(now);
            self.sweep_at = (self.store.len() > 0).then(|| now + SWEEP);
        }
        self.upkeep(now);
        self.settle(now, unix);
    }

    fn set_serving(&mut self, now: Instant, serving: bool) {
        if serving && !self.serving && !self.table.is_empty() {
            // Whoever is near us should know.
            self.upkeep.look_soon(now);
        }
        self.serving = serving;
    }

    fn candidate(&mut self, now: Instant, contact: Contact) {
        if let Some(contact) = contact.dialable() {
            self.consider(now, contact);
        }
    }

    /// Verifies a node if it would get into the table, or has moved.
    fn consider(&mut self, now: Instant, contact: Contact) {
        if let Some(node) = self.table.find(&contact.node) {
            if !contact.at.iter().any(|target| node.contact.at.contains(target)) {
                self.candidates.push(contact);
            }
            return;
        }
        let Some(ip) = contact.ip() else { return };
        match self.table.room(&contact.node, ip) {
            Room::Free => self.candidates.push(contact),
            Room::InPlaceOf(oldest, seen) => {
                if now.saturating_duration_since(seen) >= STALE {
                    self.upkeep.check_stale(now, oldest);
                }
                if let Some(bucket) = self.bucket_of(&contact.node) {
                    self.candidates.wait(bucket, contact);
                }
            }
            Room::Never => {}
        }
    }

    fn bucket_of(&self, node: &NodeId) -> Option<usize> {
        self.own.key().distance(node.key()).bucket()
    }

    fn answered(&mut self, now: Instant, unix: Duration, ask: AskId, ip: Option<IpAddr>, response: Response) {
        let Some(Asked { to, purpose, at, .. }) = self.asks.remove(ask) else { return };
        self.pace.answered(now.saturating_duration_since(at));
        if self.upkeep.heard(now) {
            self.table.forgive();
        }
        self.candidates.is_there(&to.node);
        let is_new = ip.is_some_and(|ip| self.table.answered(now, &to, ip));
        if is_new {
            self.upkeep.found_one(now);
        }
        let closer = response.closer.into_iter().filter(|contact| contact.node != self.own).take(K);
        let closer = closer.filter_map(|contact| contact.for_somebody_at(ip));
        // Where we ourselves have found a node counts for more than anybody's word.
        let closer = closer.map(|contact| match self.table.find(&contact.node) {
            Some(node) if node.contact.at != contact.at => node.contact.clone(),
            Some(_) | None => contact,
        });
        let closer: Vec<_> = closer.filter(|contact| !self.candidates.seems_gone(now, contact)).collect();
        match purpose {
            Purpose::Check => {}
            Purpose::Verify => {
                self.candidates.verified(&to.node);
                closer.into_iter().for_each(|contact| self.consider(now, contact));
            }
            Purpose::Lookup(search, _) => {
                self.found(unix, search, &to.node, response.record);
                self.told(now, search, &to.node, ip, closer);
            }
        }
    }

    fn failed(&mut self, now: Instant, ask: AskId, failure: Failure) {
        let Some(Asked { to, purpose, .. }) = self.asks.remove(ask) else { return };
        match purpose {
            Purpose::Check => {}
            Purpose::Verify => {
                self.candidates.verified(&to.node);
                self.candidates.bench(to.clone());
                self.upkeep.found_none(now);
            }
            Purpose::Lookup(search, _) => {
                if let Some(search) = self.searches.get_mut(&search) {
                    search.walk.failed(&to.node);
                    search.is_due = true;
                }
            }
        }
        if failure == Failure::Told && matches!(purpose, Purpose::Lookup(_, Question::Store)) {
            // It may have refused the record.
            return self.upkeep.check_again(now, to.node);
        }
        if self.upkeep.missed() {
            // Nobody answers at all: it is we who are cut off.
            return;
        }
        self.candidates.is_gone(now, &to);
        match self.table.failed(now, &to) {
            Loss::None => {}
            Loss::Suspect => self.upkeep.check_again(now, to.node),
            Loss::Gone(contact) => {
                let bucket = self.bucket_of(&contact.node);
                self.candidates.bench(contact);
                bucket.into_iter().for_each(|bucket| self.candidates.place_free(bucket));
            }
        }
    }

    /// Brings what is under way in line with what is wanted.
    fn settle(&mut self, now: Instant, unix: Duration) {
        self.verify(now);
        loop {
            self.start_waiting(now, unix);
            if !self.advance(now) {
                break;
            }
        }
        self.tell_changes();
    }

    fn verify(&mut self, now: Instant) {
        let table = &self.table;
        let is_welcome = |contact: &Contact| {
            let ip = contact.ip();
            let has_room = |ip| matches!(table.room(&contact.node, ip), Room::Free);
            table.find(&contact.node).is_some() || ip.is_some_and(has_room)
        };
        while let Some(contact) = self.candidates.next(now, is_welcome) {
            self.candidates.asked(contact.node.clone());
            // Whoever answers tells who is near us as well: that is how two networks that meet become one.
            let request = Request::FindNode(self.own.bytes().to_vec());
            Self::ask(&mut self.asks, &mut self.outputs, now, contact, Purpose::Verify, request);
        }
    }

    fn ask(
        asks: &mut Asks,
        outputs: &mut VecDeque<Output>,
        now: Instant,
        to: Contact,
        purpose: Purpose,
        request: Request,
    ) {
        let id = asks.add(now, to.clone(), purpose);
        outputs.push_back(Output::Ask(Ask { id, to, request, dial: true }));
    }

    fn is_healthy(&self) -> bool {
        let nodes = self.table.len();
        let enough = nodes >= HEALTHY_NODES && self.table.networks() >= HEALTHY_NETWORKS;
        self.upkeep.knows_itself() && nodes > 0 && (enough || self.candidates.is_idle())
    }

    fn tell_changes(&mut self) {
        let report = self.report();
        if report != self.reported {
            self.reported = report;
            self.outputs.push_back(Output::Changed);
        }
    }
}
