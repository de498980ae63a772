//! The networks this machine is attached to.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

/// One address of one interface, with the prefix that is on its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Our address.
    pub ip: IpAddr,
    /// How many of its leading bits all hosts on the link share.
    pub prefix: u8,
}

/// All addresses of all interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces(pub Vec<Interface>);

impl Interfaces {
    /// Asks the system.
    pub fn read() -> io::Result<Self> {
        let all = if_addrs::get_if_addrs()?;
        Ok(Self(all.into_iter().map(|interface| Interface::from(&interface.addr)).collect()))
    }

    /// Whether a host with this address is on a link of ours.
    pub fn on_link(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|interface| interface.covers(ip))
    }

    /// Our IPv4 addresses on private networks with the broadcast address of each.
    pub fn broadcasters(&self, loopback: bool) -> impl Iterator<Item = (Ipv4Addr, Ipv4Addr)> + '_ {
        self.0.iter().filter_map(move |interface| interface.broadcaster(loopback))
    }
}

impl Interface {
    fn covers(&self, ip: IpAddr) -> bool {
        let shared = match (self.ip, ip) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => (ours.to_bits() ^ theirs.to_bits()).leading_zeros(),
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (ours.to_bits() ^ theirs.to_bits()).leading_zeros(),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        // A prefix of no bits, as some tunnels have it, makes nobody a neighbour.
        self.prefix > 0 && shared >= self.prefix.into()
    }

    fn broadcaster(&self, loopback: bool) -> Option<(Ipv4Addr, Ipv4Addr)> {
        let IpAddr::V4(ip) = self.ip else { return None };
        let private = ip.is_private() || ip.is_link_local() || (loopback && ip.is_loopback());
        // A link of two hosts or one has no broadcast address.
        let has_broadcast = self.prefix <= 30;
        let host_bits = u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
        (private && has_broadcast).then(|| (ip, Ipv4Addr::from_bits(ip.to_bits() | host_bits)))
    }
}

impl From<&if_addrs::IfAddr> for Interface {
    fn from(addr: &if_addrs::IfAddr) -> Self {
        match addr {
            if_addrs::IfAddr::V4(v4) => Self { ip: v4.ip.into(), prefix: v4.prefixlen },
            if_addrs::IfAddr::V6(v6) => Self { ip: v6.ip.into(), prefix: v6.prefixlen },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ip: &str, prefix: u8) -> Interfaces {
        Interfaces(vec![Interface { ip: ip.parse().unwrap(), prefix }])
    }

    fn on_link(ours: &Interfaces, ip: &str) -> bool {
        ours.on_link(ip.parse().unwrap())
    }

    #[test]
    fn a_neighbour_shares_the_prefix() {
        let ours = at("192.168.1.5", 24);
        assert!(on_link(&ours, "192.168.1.255"));
        assert!(on_link(&ours, "::ffff:192.168.1.9"));
        assert!(!on_link(&ours, "192.168.2.5"));
        assert!(!on_link(&ours, "fd00::1"));
        let ours = at("fd00::5", 64);
        assert!(on_link(&ours, "fd00::ffff:0:0:1"));
        assert!(!on_link(&ours, "fd01::5"));
    }

    #[test]
    fn a_host_route_covers_itself_and_an_empty_prefix_nobody() {
        assert!(on_link(&at("10.0.0.1", 32), "10.0.0.1"));
        assert!(!on_link(&at("10.0.0.1", 32), "10.0.0.2"));
        assert!(!on_link(&at("10.0.0.1", 0), "10.0.0.1"));
    }

    #[test]
    fn only_private_links_with_a_broadcast_address_are_told_of_us() {
        let found = |ip, prefix, loopback| at(ip, prefix).broadcasters(loopback).next();
        let pair = |ip: &str, to: &str| Some((ip.parse().unwrap(), to.parse().unwrap()));
        assert_eq!(found("192.168.1.5", 24, false), pair("192.168.1.5", "192.168.1.255"));
        assert_eq!(found("10.1.2.3", 8, false), pair("10.1.2.3", "10.255.255.255"));
        assert_eq!(found("169.254.7.7", 16, false), pair("169.254.7.7", "169.254.255.255"));
        assert_eq!(found("203.0.113.5", 24, false), None);
        assert_eq!(found("10.1.2.3", 32, false), None);
        assert_eq!(found("127.0.0.1", 8, false), None);
        assert_eq!(found("127.0.0.1", 8, true), pair("127.0.0.1", "127.255.255.255"));
        assert_eq!(found("fd00::1", 64, true), None);
    }
}
