//! The connections that stand, and which of them lead to servers that dial back.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::super::evidence::Net;
use super::super::observations::Observer;
use super::super::{Family, Transport};

/// Most connections looked at. When full, new ones are as if they were not there.
pub(crate) const MAX_LINKS: usize = 2048;
/// Most servers of which more is known than that they are there. When full, no further one is asked.
pub(crate) const MAX_SERVERS: usize = 256;
/// Between two questions to one server; ours answers no sooner.
pub(crate) const SERVER_PAUSE: Duration = Duration::from_secs(11);
/// How long a server that refused or did not answer is not asked.
pub(crate) const REFUSED_PAUSE: Duration = Duration::from_secs(10 * 60);
/// How long a server that lied is not asked.
pub(crate) const LIAR_PAUSE: Duration = Duration::from_secs(3 * 60 * 60);

/// A direct connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link<P> {
    pub(crate) peer: P,
    pub(crate) transport: Transport,
    /// Not known where we dialled a name.
    pub(crate) remote: Option<SocketAddr>,
    /// Where it came in, as far as the socket knows.
    pub(crate) local: Option<SocketAddr>,
    pub(crate) inbound: bool,
}

impl<P: Ord + Clone> Link<P> {
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.remote.map(|at| at.ip())
    }

    pub(super) fn net(&self) -> Net {
        Net::of(self.ip())
    }

    pub(super) fn observer(&self) -> Observer<P> {
        self.ip().map_or_else(|| Observer::Named(self.peer.clone()), Observer::Host)
    }

    pub(super) fn could_be(&self, family: Family) -> bool {
        self.ip().is_none_or(|ip| Family::of(ip) == family)
    }
}

#[derive(Debug)]
struct Standing<P> {
    link: Link<P>,
    /// We had not sent to its host by its transport before.
    novel: bool,
    serves: bool,
}

/// How it is with a server.
#[derive(Clone, Copy, Debug)]
struct Server {
    ready: Instant,
    used: Instant,
}

#[derive(Debug)]
pub(super) struct Links<L, P> {
    standing: BTreeMap<L, Standing<P>>,
    /// How many of them lead to a host.
    hosts: BTreeMap<(Transport, IpAddr), usize>,
    servers: BTreeMap<P, Server>,
}

impl<L: Ord + Copy, P: Ord + Clone> Links<L, P> {
    pub(super) fn new() -> Self {
        Self { standing: BTreeMap::new(), hosts: BTreeMap::new(), servers: BTreeMap::new() }
    }

    pub(super) fn insert(&mut self, id: L, link: Link<P>, novel: bool) {
        self.remove(id);
        if self.standing.len() >= MAX_LINKS {
            return;
        }
        if let Some(host) = link.ip().map(|ip| (link.transport, ip)) {
            *self.hosts.entry(host).or_default() += 1;
        }
        self.standing.insert(id, Standing { link, novel, serves: false });
    }

    pub(super) fn remove(&mut self, id: L) -> Option<Link<P>> {
        let Standing { link, .. } = self.standing.remove(&id)?;
        if let Some(host) = link.ip().map(|ip| (link.transport, ip)) {
            match self.hosts.get_mut(&host) {
                Some(count) if *count > 1 => *count -= 1,
                Some(_) | None => drop(self.hosts.remove(&host)),
            }
        }
        Some(link)
    }

    pub(super) fn find(&self, id: L) -> Option<&Link<P>> {
        self.standing.get(&id).map(|standing| &standing.link)
    }

    pub(super) fn is_novel(&self, id: L) -> bool {
        self.standing.get(&id).is_some_and(|standing| standing.link.inbound && standing.novel)
    }

    /// Only whom we chose to dial is asked: anybody can come to us, as often as it likes and from many
    /// networks, to have a say in where we are.
    pub(super) fn set_serving(&mut self, id: L, serves: bool) {
        if let Some(standing) = self.standing.get_mut(&id) {
            standing.serves = serves && !standing.link.inbound;
        }
    }

    /// Whether we may have taken another port than the one that we listen on: of two TCP connections to one
    /// address only one can have it.
    pub(super) fn may_have_other_port(&self, id: L) -> bool {
        let Some(Standing { link, .. }) = self.standing.get(&id) else { return true };
        let same = |other: &Link<P>| match (link.remote, other.remote) {
            (Some(ours), Some(theirs)) => ours == theirs,
            // Dialled by name: only the peer tells them apart.
            (None, _) | (_, None) => link.peer == other.peer,
        };
        let others = self.standing.iter().filter(|(other, _)| **other != id).map(|(_, other)| &other.link);
        let mut over_tcp = others.filter(|other| !other.inbound && other.transport == Transport::Tcp);
        link.inbound || (link.transport == Transport::Tcp && over_tcp.any(same))
    }

    /// Whether a connection to this host stands.
    pub(super) fn lead_to(&self, transport: Transport, ip: IpAddr) -> bool {
        self.hosts.contains_key(&(transport, ip))
    }

    /// The connections to servers that may be asked now, with when each was asked last.
    pub(super) fn servers(&self, now: Instant) -> impl Iterator<Item = (L, &Link<P>, Option<Instant>)> {
        let serving = self.standing.iter().filter(|(_, standing)| standing.serves);
        let has_room = self.servers.len() < MAX_SERVERS;
        serving.filter_map(move |(id, standing)| match self.servers.get(&standing.link.peer) {
            Some(server) => (server.ready <= now).then_some((*id, &standing.link, Some(server.used))),
            None => has_room.then_some((*id, &standing.link, None)),
        })
    }

    /// The server is not asked again before this long from now.
    pub(super) fn pause(&mut self, now: Instant, peer: &P, pause: Duration) {
        let used = self.servers.get(peer).map_or(now, |server| server.used);
        self.servers.insert(peer.clone(), Server { ready: now + pause, used });
    }

    /// The server is being asked.
    pub(super) fn use_server(&mut self, now: Instant, peer: &P, until: Instant) {
        self.servers.insert(peer.clone(), Server { ready: until, used: now });
    }

    /// Forgets servers that are gone and of whom nothing holds any more.
    pub(super) fn expire(&mut self, now: Instant) {
        let standing = &self.standing;
        let is_here = |peer: &P| standing.values().any(|standing| standing.link.peer == *peer);
        self.servers.retain(|peer, server| server.ready > now || is_here(peer));
    }

    pub(super) fn next_ready(&self, now: Instant) -> Option<Instant> {
        self.servers.values().map(|server| server.ready).filter(|ready| *ready > now).min()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        (self.standing.len(), self.servers.len())
    }
}
