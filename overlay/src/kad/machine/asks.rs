//! Questions that are under way.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::lookup::Question;
use super::super::{Contact, Subnet};
use super::AskId;

/// A question that is not answered by then has failed.
pub(super) const TIMEOUT: Duration = Duration::from_secs(3);
/// Questions to one network (/24 or /48) at a time, where there are enough networks: who answers there is
/// perhaps one host, and what we send there may be somebody's attack on it.
const MAX_PER_SUBNET: usize = 4;

/// What a question is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A step of this lookup.
    Lookup(u64, Question),
    /// Whether a candidate is where it is said to be.
    Verify,
    /// Whether a node of the table still lives.
    Check,
}

#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) to: Contact,
    pub(super) purpose: Purpose,
    pub(super) at: Instant,
    subnet: Option<Subnet>,
}

/// All of them; as many as lookups and checks may have.
#[derive(Debug, Default)]
pub(super) struct Asks {
    /// In the order in which they were asked.
    open: BTreeMap<AskId, Asked>,
    per_subnet: BTreeMap<Subnet, usize>,
    last: u64,
}

impl Asks {
    pub(super) fn add(&mut self, now: Instant, to: Contact, purpose: Purpose) -> AskId {
        self.last += 1;
        let id = AskId(self.last);
        let subnet = to.ip().map(Subnet::of);
        if let Some(subnet) = subnet {
            *self.per_subnet.entry(subnet).or_default() += 1;
        }
        self.open.insert(id, Asked { to, purpose, at: now, subnet });
        id
    }

    pub(super) fn remove(&mut self, id: AskId) -> Option<Asked> {
        let asked = self.open.remove(&id)?;
        if let Some(subnet) = asked.subnet
            && let Some(count) = self.per_subnet.get_mut(&subnet)
        {
            *count -= 1;
            if *count == 0 {
                self.per_subnet.remove(&subnet);
            }
        }
        Some(asked)
    }

    /// Whether one more than `more` may be asked there when the table knows of so many networks.
    pub(super) fn may_ask(&self, subnet: Option<Subnet>, more: usize, networks: usize) -> bool {
        let asked = subnet.and_then(|subnet| self.per_subnet.get(&subnet)).copied().unwrap_or(0);
        networks < MAX_PER_SUBNET || asked + more < MAX_PER_SUBNET
    }

    /// The first that has waited too long.
    pub(super) fn late(&self, now: Instant) -> Option<AskId> {
        self.open.first_key_value().filter(|(_, asked)| asked.at + TIMEOUT <= now).map(|(id, _)| *id)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.open.first_key_value().map(|(_, asked)| asked.at + TIMEOUT)
    }

    pub(super) fn is_of(&self, lookup: u64) -> bool {
        self.open.values().any(|asked| matches!(asked.purpose, Purpose::Lookup(id, _) if id == lookup))
    }
}
