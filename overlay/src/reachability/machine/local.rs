//! Our own addresses and sockets.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::super::{Family, Scope, Target, Transport, scope};

/// Most addresses of ours that are looked at, and most sockets.
pub(crate) const MAX_LOCAL: usize = 64;

/// What the system says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Local {
    pub(super) interfaces: BTreeSet<IpAddr>,
    listening: BTreeSet<Target>,
}

impl Local {
    pub(super) fn new(interfaces: Vec<IpAddr>, listening: Vec<Target>) -> Self {
        Self {
            interfaces: interfaces.into_iter().take(MAX_LOCAL).collect(),
            listening: listening.into_iter().take(MAX_LOCAL).collect(),
        }
    }

    /// Where we can be dialled without a NAT between; a socket on all addresses is one on each of them.
    pub(super) fn targets(&self) -> BTreeSet<Target> {
        let mut all = BTreeSet::new();
        for listening in &self.listening {
            if !listening.at.ip().is_unspecified() {
                all.insert(*listening);
                continue;
            }
            let family = Family::of(listening.at.ip());
            let same_family = self.interfaces.iter().filter(|ip| Family::of(**ip) == family);
            all.extend(
                same_family.map(|ip| Target { at: SocketAddr::new(*ip, listening.at.port()), ..*listening }),
            );
        }
        all
    }

    /// Where neighbours can dial us.
    pub(super) fn on_lan(&self) -> impl Iterator<Item = Target> {
        self.targets().into_iter().filter(|target| scope(target.at.ip()) == Some(Scope::Local))
    }

    /// The port that we listen on and send from, if there is one only.
    pub(super) fn port(&self, (transport, family): (Transport, Family)) -> Option<u16> {
        let fits = |target: &&Target| target.transport == transport && Family::of(target.at.ip()) == family;
        let mut ports = self.listening.iter().filter(fits).map(|target| target.at.port());
        let first = ports.next()?;
        ports.all(|port| port == first).then_some(first)
    }

    /// Whether an address of this family that we had before is gone.
    pub(super) fn lost(&self, before: &Self, family: Family) -> bool {
        let mut gone = before.interfaces.difference(&self.interfaces);
        gone.any(|ip| Family::of(*ip) == family)
    }
}
