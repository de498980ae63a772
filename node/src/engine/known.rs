//! Who is somebody, for what costs something: at which addresses members are, whose handshakes find a place in a flood of
//! others; and how fast strangers are read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;

use hawsepipe_overlay::MAX_KNOWN;
use hawsepipe_overlay::address::{Endpoint, place_of};
use hawsepipe_overlay::conn::Direction;
use hawsepipe_overlay::keys::PublicKey;

use super::{Engine, Open, SessionId};
use crate::authorize::{Rights, direct_ip, ip_of};
use crate::scheduler::Relation;

/// What the overlay was told, and where members came from, which need not be where they listen.
#[derive(Debug, Default)]
pub(super) struct Known {
    told: BTreeSet<IpAddr>,
    came: BTreeMap<PublicKey, IpAddr>,
}

impl Engine {
    /// Whether somebody has more rights to our time than everybody has: it is in reach of the graph, among the members, or a
    /// program of the owner.
    pub(super) fn is_member(&self, peer: PublicKey) -> bool {
        matches!(self.relation(peer), Relation::Hops(_)) || self.access.is_member(peer)
    }

    /// The session begins: its peer is read at its pace, and its address remembered.
    pub(super) fn welcome(&mut self, id: SessionId) {
        let Some(open) = self.sessions.get(&id) else { return };
        open.session.set_pace(self.pace(open));
        let (peer, ip) = (open.peer, direct_ip(&open.info));
        if let Some(ip) = ip.filter(|_| self.is_member(peer) && self.known.came.len() < MAX_KNOWN) {
            self.known.came.insert(peer, place_of(ip));
        }
    }

    /// The graph has changed.
    pub(super) fn update_paces(&self) {
        for open in self.sessions.values() {
            open.session.set_pace(self.pace(open));
        }
    }

    /// Whoever we dialled was our choice.
    fn pace(&self, open: &Open) -> Option<NonZeroU32> {
        let came = open.info.direction == Direction::Inbound && open.rights == Rights::Anonymous;
        let is_stranger = came && !self.is_member(open.peer);
        self.ctx.config.access.stranger_bytes.filter(|_| is_stranger)
    }

    /// Tells the overlay where members are, if that has changed.
    pub(super) fn tell_known(&mut self) {
        let came = std::mem::take(&mut self.known.came);
        self.known.came = came.into_iter().filter(|(peer, _)| self.is_member(*peer)).collect();
        let listed = self.book.iter().filter(|(peer, _)| self.is_member(*peer));
        let endpoints = listed.flat_map(|(_, peer)| peer.paths.iter().map(|path| &path.state.endpoint));
        let known: BTreeSet<IpAddr> = endpoints
            .filter_map(|endpoint| ip_in(endpoint).map(place_of))
            .chain(self.known.came.values().copied())
            .take(MAX_KNOWN)
            .collect();
        if known != self.known.told {
            self.ctx.overlay.set_known(known.iter().copied());
            self.known.told = known;
        }
    }
}

/// The IP address at which an endpoint is to be found directly, if it says one.
fn ip_in(endpoint: &Endpoint) -> Option<IpAddr> {
    match endpoint {
        Endpoint::Net { host, .. } => host.parse().ok(),
        Endpoint::Libp2p(at) => ip_of(at).filter(|_| !endpoint.is_relayed()),
        Endpoint::Unix(_) | Endpoint::Other(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direct_address_has_an_ip_and_a_relays_is_nobodys() {
        let libp2p = |at: &str| ip_in(&Endpoint::Libp2p(at.to_owned())).map(|ip| ip.to_string());
        assert_eq!(libp2p("/ip4/192.0.2.1/udp/9/quic-v1").as_deref(), Some("192.0.2.1"));
        assert_eq!(libp2p("/ip6/2001:db8::1/tcp/9").as_deref(), Some("2001:db8::1"));
        assert_eq!(libp2p("/ip4/192.0.2.1/udp/9/quic-v1/p2p/12D3Koo/p2p-circuit"), None);
        assert_eq!(libp2p("/dns/example.org/tcp/9"), None);
        let net = |host: &str| ip_in(&Endpoint::Net { host: host.to_owned(), port: 1 });
        assert_eq!(net("192.0.2.1"), Some(IpAddr::from([192, 0, 2, 1])));
        assert_eq!(net("example.org"), None);
    }
}
