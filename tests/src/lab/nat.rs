//! What a home router does with packets, as rules for `nft`.
//!
//! The words are those of RFC 4787: *mapping* is which outside port an inside socket gets, *filtering* is
//! who may send to that port. "Cones" map independently of the endpoint; "symmetric" NATs choose a new
//! port for every destination.
//!
//! Linux's own masquerading is a port-restricted cone that keeps the port. The other kinds are made of it:
//!
//! * The router notes each mapping as the first packet leaves (chain `learn`), in the map `inside` from the
//!   outside port to the inside endpoint. A cone lets packets in by that map; an address-restricted one
//!   only from an address in the set `spoken`.
//! * With a range of ports that programs do not use, the port is never kept, and yet an inside socket has
//!   the same one towards everybody: Linux reuses a mapping of the same source where it can.
//! * Ports chosen per destination, at random or by a counter, make it symmetric.
//!
//! **Stray packets.** A packet that nobody inside asked for is addressed to the router. Where the router drops
//! it, it leaves no trace. Where the router takes it in (to answer "port unreachable", say), connection
//! tracking has a flow that owns the outside port towards that sender, and when the inside host then
//! sends there its packet gets *another* port. Routers of both kinds exist, and the second kind breaks
//! hole punching by peers that do not start at the same moment; see [`Strays`].

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// The outside ports of a router that never keeps a port: below those that Linux gives to sockets and those
/// that a node chooses for itself, because a port of the range would be kept.
const SHIFTED_PORTS: &str = "10000-19999";

/// The outside ports that a sequential router gives out, one after the other.
const SEQUENTIAL_PORTS: std::ops::Range<u16> = 30_000..31_024;

/// How an inside socket gets its outside port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// It is the inside port: hosts have global addresses, and the router is only a firewall.
    Untranslated,
    /// One for all destinations, the same as inside where that is free.
    Kept,
    /// One for all destinations, never the same as inside.
    Shifted,
    /// One for each destination, at random.
    Random,
    /// One for each destination, the next one in order.
    Sequential,
}

/// From whom an inside socket's outside port takes packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admits {
    /// From everybody, once it exists.
    Anyone,
    /// From addresses that the host has sent to from any port of its own.
    SpokenAddresses,
    /// From addresses and ports that this socket has sent to.
    SpokenEndpoints,
}

/// What the router does with packets from outside that belong to nothing inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strays {
    /// It drops them without a trace.
    Dropped,
    /// It takes them as its own, answers that nobody listens, and remembers the flow.
    TakenIn,
}

/// A router's behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nat {
    /// The mapping.
    pub ports: Ports,
    /// The filtering.
    pub admits: Admits,
    /// What happens to packets that nobody asked for.
    pub strays: Strays,
    /// Whether two inside hosts reach each other by their outside addresses.
    pub hairpin: bool,
    /// Whether UDP passes at all.
    pub udp: bool,
    /// Whether hosts also have global IPv6 addresses, behind a firewall that lets only answers in.
    pub v6: bool,
}

impl Nat {
    /// What Linux does by itself, with an input chain that drops what nobody asked for.
    pub const PORT_RESTRICTED: Self = Self {
        ports: Ports::Kept,
        admits: Admits::SpokenEndpoints,
        strays: Strays::Dropped,
        hairpin: false,
        udp: true,
        v6: false,
    };
    /// The same without that input chain.
    pub const PORT_RESTRICTED_OPEN_INPUT: Self = Self { strays: Strays::TakenIn, ..Self::PORT_RESTRICTED };
    /// Once a socket has sent anything, everybody reaches it.
    pub const FULL_CONE: Self = Self { admits: Admits::Anyone, ..Self::PORT_RESTRICTED };
    /// Once a socket has sent to an address, every port of that address reaches it.
    pub const ADDRESS_RESTRICTED: Self = Self { admits: Admits::SpokenAddresses, ..Self::PORT_RESTRICTED };
    /// The outside port is stable but says nothing about the port inside.
    pub const PORT_SHIFTING: Self = Self { ports: Ports::Shifted, ..Self::PORT_RESTRICTED };
    /// Another outside port for every destination, not to be guessed.
    pub const SYMMETRIC_RANDOM: Self = Self { ports: Ports::Random, ..Self::PORT_RESTRICTED };
    /// Another outside port for every destination, to be guessed.
    pub const SYMMETRIC_SEQUENTIAL: Self = Self { ports: Ports::Sequential, ..Self::PORT_RESTRICTED };
    /// A full cone that also sends packets for its own outside address back in.
    pub const HAIRPINNING: Self = Self { hairpin: true, ..Self::FULL_CONE };
    /// Lets only TCP through.
    pub const UDP_BLOCKED: Self = Self { udp: false, ..Self::PORT_RESTRICTED };
    /// No NAT at all: global addresses, of which the router lets in only what they asked for.
    pub const FIREWALL: Self = Self { ports: Ports::Untranslated, ..Self::PORT_RESTRICTED };
    /// IPv4 behind a port-restricted NAT, and IPv6 behind a stateful firewall.
    pub const DUAL_STACK: Self = Self { v6: true, ..Self::PORT_RESTRICTED };

    /// The ruleset of a router whose outside link is `wan`, with the address `outside`, and whose inside
    /// link is `lan`.
    pub(super) fn rules(&self, outside: Ipv4Addr) -> String {
        format!("flush ruleset\n{}{}", self.filter_table(), self.nat_table(outside))
    }

    fn filter_table(&self) -> String {
        let blocked = if self.udp { "" } else { "meta l4proto udp drop" };
        let strays = match self.strays {
            Strays::Dropped => "iifname \"wan\" drop",
            Strays::TakenIn => "",
        };
        format!(
            r#"table inet filter {{
                chain forward {{
                    type filter hook forward priority filter; policy accept;
                    {blocked}
                    ct state established,related accept
                    ct status dnat accept
                    iifname "wan" drop
                }}
                chain input {{
                    type filter hook input priority filter; policy accept;
                    ct state established,related accept
                    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
                    {strays}
                }}
            }}
            "#
        )
    }

    fn nat_table(&self, outside: Ipv4Addr) -> String {
        let Some(translate) = self.translation(outside) else { return String::new() };
        let transports = "meta l4proto { tcp, udp }";
        let let_in = match self.admits {
            Admits::Anyone => {
                format!(r#"iifname "wan" {transports} dnat ip to meta l4proto . th dport map @inside"#)
            }
            Admits::SpokenAddresses => format!(
                r#"iifname "wan" {transports} meta l4proto . th dport . ip saddr @spoken dnat ip to meta l4proto . th dport map @inside"#
            ),
            Admits::SpokenEndpoints => String::new(),
        };
        let (turn_back, as_outside) = if self.hairpin {
            (
                format!(
                    r#"iifname "lan" ip daddr {outside} {transports} dnat ip to meta l4proto . th dport map @inside"#
                ),
                format!(r#"iifname "lan" oifname "lan" ct status dnat snat ip to {outside}"#),
            )
        } else {
            Default::default()
        };
        format!(
            r#"table ip nat {{
                map inside {{
                    type inet_proto . inet_service : ipv4_addr . inet_service
                    flags dynamic,timeout; size 65535; timeout 300s
                }}
                set spoken {{
                    type inet_proto . inet_service . ipv4_addr
                    flags dynamic,timeout; size 65535; timeout 300s
                }}
                chain pre {{
                    type nat hook prerouting priority dstnat; policy accept;
                    {let_in}
                    {turn_back}
                }}
                chain post {{
                    type nat hook postrouting priority srcnat; policy accept;
                    {as_outside}
                    oifname "wan" {transports} {translate}
                    oifname "wan" masquerade
                }}
                chain learn {{
                    type filter hook postrouting priority 110; policy accept;
                    oifname "wan" {transports} ct direction original update @inside {{ meta l4proto . th sport : ct original ip saddr . ct original proto-src }}
                    oifname "wan" {transports} update @spoken {{ meta l4proto . th sport . ip daddr }}
                }}
            }}
            "#
        )
    }

    /// The statement that chooses an outside port; none where nothing is translated.
    fn translation(&self, outside: Ipv4Addr) -> Option<String> {
        match self.ports {
            Ports::Untranslated => None,
            Ports::Kept => Some("masquerade".to_owned()),
            Ports::Shifted => Some(format!("masquerade to :{SHIFTED_PORTS}")),
            Ports::Random => Some("masquerade fully-random".to_owned()),
            Ports::Sequential => {
                let count = SEQUENTIAL_PORTS.len();
                let mut rule = format!("snat ip to {outside} : numgen inc mod {count} map {{ ");
                for (number, port) in SEQUENTIAL_PORTS.enumerate() {
                    let comma = if number == 0 { "" } else { ", " };
                    write!(rule, "{comma}{number} : {port}").expect("a string takes everything");
                }
                Some(rule + " }")
            }
        }
    }
}
