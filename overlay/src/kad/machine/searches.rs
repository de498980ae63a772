//! The lookups of one node, from the wish to the end.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::super::lookup::{Goal, Lookup as Walk, Question, STORED_AT};
use super::super::{Contact, K, Key, Lookup, NodeId, Record, Request, Subnet, spread};
use super::asks::Purpose;
use super::{Aim, CONSIDERED, Dht, Ended, LookupId, Output, Search, Summary, Wish};

/// Gets under way at a time: somebody waits for each.
const MAX_GETS: usize = 16;
/// Puts under way at a time: they can wait.
const MAX_PUTS: usize = 4;
/// Gets and puts that wait; further ones fail at once.
const MAX_WAITING: usize = 1024;
/// A lookup goes on as long as it has not met somebody outside the circle in which so many nodes are to be
/// expected: names made to be near a key lie closer together than chance has it.
const EXPECTED: u64 = 6;

impl Dht {
    pub(super) fn wish(&mut self, wish: Wish) {
        if self.waiting.len() < MAX_WAITING {
            return self.waiting.push_back(wish);
        }
        let (Wish::Get { lookup, .. } | Wish::Put { lookup, .. }) = wish;
        let ended = Ended { lookup, success: false, stored: 0, summary: Summary::default() };
        self.outputs.push_back(Output::Ended(ended));
    }

    pub(super) fn cancel(&mut self, lookup: LookupId) {
        self.waiting.retain(|wish| wish.lookup() != lookup);
        self.searches.retain(|_, search| search.aim.lookup() != Some(lookup));
    }

    /// Begins those that wait, as many as may be under way.
    pub(super) fn start_waiting(&mut self, now: Instant, unix: Duration) {
        let mut index = 0;
        while index < self.waiting.len() {
            if !self.has_place(&self.waiting[index]) {
                index += 1;
                continue;
            }
            match self.waiting.remove(index) {
                Some(Wish::Get { lookup, key }) => self.get(now, unix, lookup, key),
                Some(Wish::Put { lookup, record }) => self.put(now, lookup, record),
                None => {}
            }
        }
    }

    fn has_place(&self, wish: &Wish) -> bool {
        let running = self.searches.values().filter(|search| !search.has_ended);
        match wish {
            Wish::Get { .. } => running.filter(|search| search.aim.goal() == Goal::Get).count() < MAX_GETS,
            Wish::Put { .. } => running.filter(|search| search.aim.goal() == Goal::Put).count() < MAX_PUTS,
        }
    }

    fn get(&mut self, now: Instant, unix: Duration, lookup: LookupId, key: Vec<u8>) {
        let own = self.store.get(now, &key).map(|record| record.value);
        let walk = self.walk(now, Key::of(&key), Goal::Get);
        let id = self.begin(now, walk, Aim::Seek { lookup, key: key.clone(), best: None });
        if let Some(value) = own {
            let own = self.own.clone();
            self.found(unix, id, &own, Some(Record { key, value }));
        }
    }

    fn put(&mut self, now: Instant, lookup: LookupId, record: Record) {
        let walk = self.walk(now, Key::of(&record.key), Goal::Put);
        let walk = match self.publications.keepers(now, &record.key) {
            Some(keepers) => walk.straight(keepers.to_vec()),
            None => walk,
        };
        self.begin(now, walk, Aim::Publish { lookup, record });
    }

    /// Looks around our own place, or visits the place of these bytes.
    pub(super) fn refresh(&mut self, now: Instant, name: Option<Vec<u8>>) {
        let (target, goal) =
            name.as_deref().map_or((*self.own.key(), Goal::Refresh), |name| (Key::of(name), Goal::Visit));
        let walk = self.walk(now, target, goal);
        self.begin(now, walk, Aim::Refresh(name));
    }

    fn walk(&mut self, now: Instant, target: Key, goal: Goal) -> Walk {
        self.upkeep.visited(now, self.own.key().distance(&target).bucket());
        let mut seeds = self.table.closest(&target, K);
        if seeds.is_empty() {
            // All of them failed to answer once.
            seeds = self.table.oldest();
            seeds.truncate(K);
        }
        let seeds = seeds.into_iter().map(|node| node.contact.clone()).collect();
        Walk::new(now, target, goal, seeds, self.region()).paced(self.pace.slow())
    }

    /// How near to a place a few nodes are to be expected, by how near they are to ours.
    fn region(&self) -> u64 {
        let own = self.own.key();
        if !self.upkeep.knows_itself() || self.table.len() < K {
            return 0;
        }
        let near = spread(self.table.closest(own, CONSIDERED), |node| Subnet::of(node.ip)).take(STORED_AT);
        let distances = near.map(|node| own.distance(node.contact.node.key()).leading());
        distances.max().unwrap_or(0) / STORED_AT as u64 * EXPECTED
    }

    fn begin(&mut self, now: Instant, walk: Walk, aim: Aim) -> u64 {
        self.last_search += 1;
        let search = Search { walk, aim, has_ended: false, is_due: true, wake_at: now };
        self.searches.insert(self.last_search, search);
        self.last_search
    }

    /// A node had a record, or not.
    pub(super) fn found(&mut self, unix: Duration, search: u64, node: &NodeId, record: Option<Record>) {
        let (Some(search), Some(record)) = (self.searches.get_mut(&search), record) else { return };
        let Aim::Seek { lookup, key, best } = &mut search.aim else { return };
        if record.key != *key {
            return;
        }
        let Ok(stamp) = (self.validate)(key, &record.value, unix) else { return };
        if best.is_some_and(|best| stamp.sequence <= best) {
            return;
        }
        *best = Some(stamp.sequence);
        search.walk.found_at(node);
        self.outputs.push_back(Output::Found { lookup: *lookup, value: record.value });
    }

    /// A node told who is closer.
    pub(super) fn told(
        &mut self,
        now: Instant,
        id: u64,
        node: &NodeId,
        ip: Option<IpAddr>,
        closer: Vec<Contact>,
    ) {
        let Some(search) = self.searches.get_mut(&id) else { return };
        let is_refresh = matches!(search.aim, Aim::Refresh(_));
        search.is_due = true;
        if is_refresh {
            search.walk.answered(node, ip, closer.clone());
            closer.into_iter().for_each(|contact| self.consider(now, contact));
            return;
        }
        search.walk.answered(node, ip, closer);
        if let Aim::Publish { record, .. } = &search.aim
            && search.has_ended
        {
            self.publications.remember(now, &record.key, search.walk.keepers(), false);
        }
    }

    /// Asks on, and ends what is over. Whether anything is.
    pub(super) fn advance(&mut self, now: Instant) -> bool {
        let networks = self.table.subnets();
        let mut over = Vec::new();
        for (id, search) in &mut self.searches {
            if search.has_ended {
                continue;
            }
            if search.aim.is_found() {
                over.push(*id);
                continue;
            }
            if !search.is_due && search.wake_at > now {
                continue;
            }
            search.is_due = false;
            let (mut more, mut is_blocked) = (BTreeMap::<_, usize>::new(), false);
            let may_ask = |at| {
                let more = more.entry(at).or_default();
                let may_ask = self.asks.may_ask(at, *more, networks);
                *more += usize::from(may_ask);
                is_blocked |= !may_ask;
                may_ask
            };
            for (to, question) in search.walk.advance(now, may_ask) {
                let request = search.aim.request(question, &self.own);
                let purpose = Purpose::Lookup(*id, question);
                Self::ask(&mut self.asks, &mut self.outputs, now, to, purpose, request);
            }
            search.is_due = is_blocked;
            search.wake_at = search.walk.poll_timeout(now);
            if search.walk.is_over(now) {
                over.push(*id);
            }
        }
        let has_ended = !over.is_empty();
        over.into_iter().for_each(|id| self.end(now, id));
        let asks = &self.asks;
        self.searches.retain(|id, search| !search.has_ended || asks.is_of(*id));
        has_ended
    }

    fn end(&mut self, now: Instant, id: u64) {
        let Some(search) = self.searches.get_mut(&id) else { return };
        search.has_ended = true;
        let (walk, has_answers) = (&search.walk, search.walk.has_answers());
        let (asked, hops, took) = (walk.asked(), walk.hops(), walk.took(now));
        let summary = Summary { asked, failed: walk.failures(), took, hops };
        let keepers = walk.keepers();
        let (kind, outcome, ended) = match &search.aim {
            Aim::Seek { lookup, best, .. } => {
                let ended = Ended { lookup: *lookup, success: best.is_some(), stored: 0, summary };
                let outcome = if has_answers { "missing" } else { "no_nodes" };
                ("seek", best.map_or(outcome, |_| "found"), Some(ended))
            }
            Aim::Publish { lookup, record } => {
                let stored = keepers.len();
                self.publications.remember(now, &record.key, keepers, walk.has_walked());
                let outcome = match (stored, has_answers) {
                    (1.., _) => "stored",
                    (0, true) => "missing",
                    (0, false) => "no_nodes",
                };
                let ended = Ended { lookup: *lookup, success: stored > 0, stored, summary };
                ("publish", outcome, Some(ended))
            }
            Aim::Refresh(name) => {
                let is_own = name.is_none();
                let outcome = if has_answers { "done" } else { "no_nodes" };
                if is_own {
                    self.looked_around(now, has_answers);
                }
                ("refresh", outcome, None)
            }
        };
        self.outputs.extend(ended.map(Output::Ended));
        self.outputs.push_back(Output::Lookup(Lookup { kind, outcome, took, asked, hops }));
    }
}

impl Wish {
    const fn lookup(&self) -> LookupId {
        match self {
            Self::Get { lookup, .. } | Self::Put { lookup, .. } => *lookup,
        }
    }
}

impl Aim {
    const fn lookup(&self) -> Option<LookupId> {
        match self {
            Self::Seek { lookup, .. } | Self::Publish { lookup, .. } => Some(*lookup),
            Self::Refresh(_) => None,
        }
    }

    const fn goal(&self) -> Goal {
        match self {
            Self::Seek { .. } => Goal::Get,
            Self::Publish { .. } => Goal::Put,
            Self::Refresh(None) => Goal::Refresh,
            Self::Refresh(Some(_)) => Goal::Visit,
        }
    }

    const fn is_found(&self) -> bool {
        matches!(self, Self::Seek { best: Some(_), .. })
    }

    fn request(&self, question: Question, own: &NodeId) -> Request {
        match (self, question) {
            (Self::Seek { key, .. }, _) => Request::GetValue(key.clone()),
            (Self::Publish { record, .. }, Question::Store) => Request::PutValue(record.clone()),
            (Self::Publish { record, .. }, Question::Find) => Request::FindNode(record.key.clone()),
            (Self::Refresh(name), _) => {
                Request::FindNode(name.clone().unwrap_or_else(|| own.bytes().to_vec()))
            }
        }
    }
}
