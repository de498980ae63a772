//! How far an address reaches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// From where an address can be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// This machine.
    Device,
    /// Its local networks.
    Local,
    /// Everywhere.
    Public,
}

/// `None` for addresses that mean nothing without more (IPv6 link-local ones need a zone) or lead to
/// nobody. Ranges for documentation count as any other: laboratories use them.
pub(crate) fn scope(ip: IpAddr) -> Option<Scope> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => of_v4(ip),
        IpAddr::V6(ip) => of_v6(ip),
    }
}

fn of_v4(ip: Ipv4Addr) -> Option<Scope> {
    let [first, second, ..] = ip.octets();
    let carrier_grade = first == 100 && (64..128).contains(&second);
    match first {
        127 => Some(Scope::Device),
        // "This network", multicast, reserved and broadcast.
        0 | 224.. => None,
        _ if ip.is_private() || ip.is_link_local() || carrier_grade => Some(Scope::Local),
        _ => Some(Scope::Public),
    }
}

fn of_v6(ip: Ipv6Addr) -> Option<Scope> {
    if ip.is_loopback() {
        return Some(Scope::Device);
    }
    // 2000::/3 is all that is routed among strangers.
    let global_unicast = ip.segments()[0] & 0xe000 == 0x2000;
    match (ip.is_unique_local(), global_unicast) {
        (true, _) => Some(Scope::Local),
        (false, true) => Some(Scope::Public),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_told_as_far_as_it_reaches() {
        let expected = [
            ("127.0.0.1", Some(Scope::Device)),
            ("::1", Some(Scope::Device)),
            ("::ffff:127.0.0.1", Some(Scope::Device)),
            ("192.168.1.5", Some(Scope::Local)),
            ("169.254.1.1", Some(Scope::Local)),
            ("100.64.0.1", Some(Scope::Local)),
            ("100.128.0.1", Some(Scope::Public)),
            ("::ffff:10.0.0.1", Some(Scope::Local)),
            ("fd00::1", Some(Scope::Local)),
            ("203.0.113.1", Some(Scope::Public)),
            ("2001:db8::1", Some(Scope::Public)),
            ("fe80::1", None),
            ("fec0::1", None),
            ("ff02::1", None),
            ("0.0.0.0", None),
            ("::", None),
            ("239.0.0.1", None),
            ("255.255.255.255", None),
        ];
        for (text, reach) in expected {
            assert_eq!(scope(text.parse().unwrap()), reach, "{text}");
        }
    }
}
