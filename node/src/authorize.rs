//! Who may have a session, and what a session may do (protocol guide; secret-stack's auth hook). Sessions are
//! judged before a dial and between SHS messages 3 and 4; the first rule that says something decides:
//!
//! | rule | who | session |
//! |---|---|---|
//! | `blocked` | a key we block | no |
//! | | our own key or one in `master`, dialling us; the `unix:` socket | yes, even when there is no room |
//! | `policy` | who is none of those that `access.policy` lets in | no |
//! | `crowded` | a stranger from an address that has as many sessions as one may have | no |
//! | `full` | a stranger, when only the places kept for friends and members are left; anybody, when none is | no |
//! | | everybody else | yes |
//!
//! *Friends* are those whom we follow, *members* those in `access.members`, *strangers* all others.
//!
//! | who | may call |
//! |---|---|
//! | our own key or one in `master`, dialling us; the `unix:` socket | everything |
//! | a key with a grant, dialling us | what the grant names, and what everybody may |
//! | everyone else, and everyone *we* dialled | what replication and keep-alive need: the methods that are `Anonymous` in the API's table |
//!
//! Before that, a link has to find a place for its handshake (the overlay's `facade/admission.rs`), where nobody has an identity
//! yet. After it, calls and strangers' bytes are limited for each session: whoever wants more waits.
//!
//! A dialled peer never gets rights, whatever its key: otherwise whoever answers at a master's address would
//! inherit them. A block wins over a grant and over `master`; the `unix:` socket is left to undo it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hawsepipe_overlay::address::place_of;
use hawsepipe_overlay::conn::{Carrier, Direction, Gate, LinkInfo, Refused};
use hawsepipe_overlay::keys::PublicKey;
use prometheus::IntGauge;

use crate::config::{AccessConfig, Policy};
use crate::metrics::Metrics;

mod grants;
#[cfg(test)]
mod tests;

pub use grants::{Grant, Grants, GrantsError, MAX_GRANTS};

/// Of all places for sessions, one in so many is kept for friends and members.
const RESERVE: usize = 4;

/// What a session may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// The methods that replication and keep-alive need.
    Anonymous,
    /// Those, and some.
    Granted(Methods),
    /// Every method.
    Master,
}

/// A set of methods, by their places in the API's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Methods([u64; Self::MOST / 64]);

impl Methods {
    /// As many methods as there can be.
    pub const MOST: usize = 512;

    /// Adds one.
    pub fn insert(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / 64) {
            *word |= 1 << (place % 64);
        }
    }

    /// Whether it is among them.
    pub fn contains(&self, place: usize) -> bool {
        self.0.get(place / 64).is_some_and(|word| word & (1 << (place % 64)) != 0)
    }
}

/// The rules of the tables in this module's header.
#[derive(Debug)]
pub struct Access {
    own: PublicKey,
    masters: BTreeSet<PublicKey>,
    config: AccessConfig,
    /// What changes while the node runs.
    now: RwLock<Now>,
    /// Held while grants are changed, and written to their file.
    changing: Mutex<()>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Now {
    /// Keys that we block.
    blocked: BTreeSet<PublicKey>,
    /// Whom we follow.
    friends: BTreeSet<PublicKey>,
    /// Who is as near as the policy asks; friends are.
    near: BTreeSet<PublicKey>,
    /// Sessions, local clients not counted, and the inbound ones of each source.
    sessions: usize,
    sources: BTreeMap<Source, usize>,
    grants: Grants,
}

/// Where sessions come from that count together; see [`place_of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Source(IpAddr);

impl Access {
    /// Nobody is blocked yet.
    pub fn new(
        own: PublicKey,
        masters: BTreeSet<PublicKey>,
        config: AccessConfig,
        grants: Grants,
        metrics: Arc<Metrics>,
    ) -> Self {
        let now = RwLock::new(Now { grants, ..Now::default() });
        Self { own, masters, config, now, changing: Mutex::default(), metrics }
    }

    /// How far feeds may be from us to matter here.
    pub const fn reach(&self) -> u32 {
        match self.config.policy {
            Policy::Hops(hops) => hops,
            Policy::Open | Policy::Members | Policy::Manual => 1,
        }
    }

    /// Replaces the sets of blocked keys, and of those within [`Self::reach`] with their distances.
    pub fn set_graph(&self, blocked: BTreeSet<PublicKey>, near: impl Iterator<Item = (PublicKey, u32)>) {
        let (mut friends, mut all) = (BTreeSet::new(), BTreeSet::new());
        for (key, hops) in near {
            all.insert(key);
            if hops <= 1 {
                friends.insert(key);
            }
        }
        let mut now = self.write();
        (now.blocked, now.friends, now.near) = (blocked, friends, all);
    }

    /// A session stands: it is counted for as long as what this gives is kept. Local clients take nobody's place.
    pub fn seat(self: &Arc<Self>, link: &LinkInfo, rights: Rights) -> Seat {
        let gauge = &self.metrics.connect.sessions;
        let gauge = gauge.with_label_values(&[link.carrier.label(), link.direction.label()]);
        gauge.inc();
        let is_local = rights == Rights::Master;
        let source = Source::of(link).filter(|_| !is_local);
        let mut now = self.write();
        now.sessions += usize::from(!is_local);
        if let Some(source) = source {
            *now.sources.entry(source).or_insert(0) += 1;
        }
        Seat { access: Arc::clone(self), is_local, source, gauge }
    }

    /// What keys of local clients may do.
    pub fn grants(&self) -> Grants {
        self.read().grants.clone()
    }

    /// Changes what a key may do from its next session on, in the file as well; what it had before. Blocks.
    pub fn change_grant(&self, key: PublicKey, grant: Option<Grant>) -> Result<Option<Grant>, GrantsError> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.grants();
        let changed = before.with(key, grant)?;
        changed.save()?;
        self.write().grants = changed;
        Ok(before.all().get(&key).cloned())
    }

    /// Whether `key` is among the members, or has a grant.
    pub fn is_member(&self, key: PublicKey) -> bool {
        self.config.members.contains(&key) || self.read().grants.all().contains_key(&key)
    }

    /// Whether we block `key`.
    pub fn is_blocked(&self, key: PublicKey) -> bool {
        self.read().blocked.contains(&key)
    }

    /// What a session with `peer` over `link` may do.
    pub fn rights(&self, peer: PublicKey, link: &LinkInfo) -> Rights {
        if self.is_master(peer, link) {
            return Rights::Master;
        }
        let granted = || self.read().grants.all().get(&peer).map(|grant| Rights::Granted(grant.methods));
        let granted = if link.direction == Direction::Inbound { granted() } else { None };
        granted.unwrap_or(Rights::Anonymous)
    }

    fn is_master(&self, peer: PublicKey, link: &LinkInfo) -> bool {
        let of_us = peer == self.own || self.masters.contains(&peer) || link.carrier == Carrier::Unix;
        of_us && link.direction == Direction::Inbound
    }

    fn judge(&self, peer: PublicKey, link: &LinkInfo) -> Result<(), Refused> {
        let now = self.read();
        if now.blocked.contains(&peer) {
            return Err(Refused::Blocked);
        }
        if self.is_master(peer, link) {
            return Ok(());
        }
        let is_member = self.config.members.contains(&peer) || now.grants.all().contains_key(&peer);
        let is_let_in = match self.config.policy {
            Policy::Open => true,
            Policy::Hops(_) => is_member || now.near.contains(&peer),
            Policy::Members => is_member,
            Policy::Manual => is_member || link.direction == Direction::Outbound,
        };
        if !is_let_in {
            return Err(Refused::Policy);
        }
        let is_stranger = !is_member && !now.friends.contains(&peer);
        let from_there = Source::of(link).and_then(|source| now.sources.get(&source)).copied().unwrap_or(0);
        if is_stranger && from_there >= self.config.per_address {
            return Err(Refused::Crowded);
        }
        let kept = if is_stranger { self.config.sessions / RESERVE } else { 0 };
        if now.sessions >= self.config.sessions - kept { Err(Refused::Full) } else { Ok(()) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Now> {
        self.now.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Now> {
        self.now.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate for Access {
    fn admit(&self, peer: PublicKey, link: &LinkInfo) -> Result<(), Refused> {
        let verdict = self.judge(peer, link);
        let direction = link.direction.label();
        let outcome = verdict.map_or_else(Refused::label, |()| "allowed");
        self.metrics.connect.authorize.with_label_values(&[direction, outcome]).inc();
        let rule = outcome;
        match verdict {
            Ok(()) => {}
            // Anybody can have this logged as often as there are handshakes.
            Err(Refused::Crowded | Refused::Full) => {
                tracing::debug!(peer = %peer.short(), remote = %link.remote, direction, rule, "no session");
            }
            Err(Refused::Blocked | Refused::Policy) => {
                tracing::info!(peer = %peer.short(), remote = %link.remote, direction, rule, "no session");
            }
        }
        verdict
    }
}

/// A session that is counted, in the limits and in the metrics.
#[derive(Debug)]
pub struct Seat {
    access: Arc<Access>,
    is_local: bool,
    source: Option<Source>,
    gauge: IntGauge,
}

impl Seat {
    /// The session goes another way.
    pub fn follow(&mut self, link: &LinkInfo, rights: Rights) {
        *self = self.access.seat(link, rights);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.gauge.dec();
        let mut now = self.access.write();
        now.sessions -= usize::from(!self.is_local);
        let Some(source) = self.source else { return };
        let Some(count) = now.sources.get_mut(&source) else { return };
        *count -= 1;
        if *count == 0 {
            now.sources.remove(&source);
        }
    }
}

impl Source {
    /// `None` for sessions that this node dialled, for local ones, and for those over relays, who would all seem
    /// to come from one place.
    fn of(link: &LinkInfo) -> Option<Self> {
        let ip = direct_ip(link).filter(|_| link.direction == Direction::Inbound)?;
        Some(Self(place_of(ip)))
    }
}

/// The IP address at the other end of a link; `None` for one of this machine or over a relay.
pub(crate) fn direct_ip(link: &LinkInfo) -> Option<IpAddr> {
    match link.carrier {
        Carrier::Unix | Carrier::Relay => None,
        Carrier::Net | Carrier::Ws | Carrier::Quic | Carrier::Tcp => ip_of(&link.remote),
    }
}

/// The IP address in `net:192.0.2.1:8008`, `net:2001:db8::1:8008`, `ws://…` or a multiaddr.
pub(crate) fn ip_of(remote: &str) -> Option<IpAddr> {
    let Some(rest) = remote.strip_prefix('/') else {
        let address = remote.split_once(':')?.1.trim_start_matches('/');
        if let Ok(socket) = address.parse::<SocketAddr>() {
            return Some(socket.ip());
        }
        return address.rsplit_once(':')?.0.trim_matches(['[', ']']).parse().ok();
    };
    let mut parts = rest.split('/');
    matches!(parts.next()?, "ip4" | "ip6").then(|| parts.next()?.parse().ok()).flatten()
}
