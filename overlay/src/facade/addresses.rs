//! Which of our addresses are worth telling whom.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::address::{Address, Endpoint};
use crate::keys::PublicKey;
use crate::lan::Interfaces;
pub use crate::reachability::Scope;
use crate::reachability::scope;
use crate::swarm;

/// Where we listen.
#[derive(Clone, Debug)]
pub(super) struct Listening {
    pub(super) key: PublicKey,
    pub(super) net: Vec<SocketAddr>,
    pub(super) ws: Vec<SocketAddr>,
    pub(super) unix: Option<PathBuf>,
    pub(super) swarm: Option<swarm::Handle>,
}

impl Listening {
    /// All our addresses, `net:` before ours, because older peers stop reading at what they do not know.
    pub(super) fn all(&self, interfaces: &Interfaces) -> Vec<(Scope, Address)> {
        let net = self.net.iter().flat_map(|at| expand(*at, interfaces));
        let mut all: Vec<_> = net.filter_map(|at| self.at_net(at)).collect();
        let ws = self.ws.iter().flat_map(|at| expand(*at, interfaces));
        all.extend(ws.filter_map(|at| self.at_ws(at)));
        let swarm = self.swarm.iter().flat_map(swarm::Handle::addresses);
        all.extend(swarm.filter_map(|(ip, at)| {
            let scope = swarm_scope(ip, &at)?;
            Some((scope, Address::new(Endpoint::Libp2p(at), self.key)))
        }));
        let unix = self.unix.clone().map(|path| Address { endpoint: Endpoint::Unix(path), key: None });
        all.extend(unix.map(|address| (Scope::Device, address)));
        all
    }

    /// As multiserver writes it; we have no dialer for it.
    fn at_ws(&self, at: SocketAddr) -> Option<(Scope, Address)> {
        let written = format!("ws://{at}~shs:{}", self.key.to_base64());
        Some((scope(at.ip())?, Address { endpoint: Endpoint::Other(written), key: Some(self.key) }))
    }

    fn at_net(&self, at: SocketAddr) -> Option<(Scope, Address)> {
        let endpoint = Endpoint::Net { host: at.ip().to_string(), port: at.port() };
        Some((scope(at.ip())?, Address::new(endpoint, self.key)))
    }
}

/// A listener on all addresses is one on each of them.
fn expand(at: SocketAddr, interfaces: &Interfaces) -> Vec<SocketAddr> {
    if !at.ip().is_unspecified() {
        return vec![at];
    }
    let ips = interfaces.0.iter().map(|interface| interface.ip);
    let same_family = ips.filter(|ip| ip.is_ipv4() == at.is_ipv4());
    same_family.map(|ip| SocketAddr::new(ip, at.port())).collect()
}

/// A multiaddr of ours. Through a relay we are reached from everywhere.
pub(super) fn swarm_scope(ip: Option<IpAddr>, at: &str) -> Option<Scope> {
    if at.contains("/p2p-circuit") {
        return Some(Scope::Public);
    }
    scope(ip?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lan::Interface;

    #[test]
    fn a_listener_on_all_addresses_is_told_as_each_of_its_family() {
        let at = |text: &str, prefix| Interface { ip: text.parse().unwrap(), prefix };
        let interfaces = Interfaces(vec![at("127.0.0.1", 8), at("10.0.0.5", 24), at("::1", 128)]);
        let listening = Listening {
            key: PublicKey::from_bytes([1; 32]),
            net: vec!["0.0.0.0:8008".parse().unwrap()],
            ws: vec!["127.0.0.1:8989".parse().unwrap()],
            unix: Some("/tmp/socket".into()),
            swarm: None,
        };
        let all = listening.all(&interfaces);
        let printed: Vec<_> = all.iter().map(|(scope, at)| (*scope, at.endpoint.to_string())).collect();
        assert_eq!(
            printed,
            [
                (Scope::Device, "net:127.0.0.1:8008".to_owned()),
                (Scope::Local, "net:10.0.0.5:8008".to_owned()),
                (
                    Scope::Device,
                    format!("ws://127.0.0.1:8989~shs:{}", PublicKey::from_bytes([1; 32]).to_base64())
                ),
                (Scope::Device, "unix:/tmp/socket".to_owned()),
            ]
        );
    }
}
