//! TEMPORARY: where others see us.
use super::*;
use crate::facade::{Scope, scope};

impl EventLoop {
    pub(super) fn on_identify(&mut self, event: &libp2p::identify::Event) {
        if let libp2p::identify::Event::Received { connection_id, info, .. } = event {
            let Some(live) = self.live.get(connection_id) else { return };
            if live.carrier == Some(Carrier::Relay) || !live.dialled {
                return;
            }
            let at = info.observed_addr.clone();
            debug!(%at, protocols = ?info.protocols, "observed");
            let key = (link::carrier(&at), link::ip(&at).is_some_and(|ip| ip.is_ipv4()));
            self.observed.insert(key, at);
        }
    }
    pub(super) fn public_candidates(&self) -> Vec<Multiaddr> {
        let mut all: Vec<_> = self.observed.values().filter(|at| link::is_public(at)).cloned().collect();
        all.extend(self.swarm.listeners().filter(|at| link::is_direct(at) && link::is_public(at)).cloned());
        all
    }
    pub(super) fn near_candidates(&self) -> Vec<Multiaddr> {
        self.swarm
            .listeners()
            .filter(|at| link::is_direct(at) && link::ip(at).and_then(scope) == Some(Scope::Local))
            .cloned()
            .collect()
    }
    pub(super) fn shares_our_address(&self, theirs: &[Multiaddr]) -> bool {
        let ours: Vec<_> = self.public_candidates().iter().filter_map(link::ip).collect();
        theirs.iter().filter_map(link::ip).any(|ip| ours.contains(&ip))
    }
}
