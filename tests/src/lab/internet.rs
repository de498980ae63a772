//! A routed network: public hosts, and homes behind routers of every kind.
//!
//! ```text
//!   host --- router ---[line]--- core ---[line]--- router --- carrier's home router --- host
//!           lan   wan             |
//!                              [line] --- public host
//! ```
//!
//! One namespace is the core; it routes and does nothing else. Every *site* (a public host or a router)
//! hangs on it by one line ([`super::link`]). Hosts behind a router are on a switch inside it, so two of them
//! are in one LAN. Routers may stand behind routers.
//!
//! Addresses: site n has 11.n.0.1 and, if it speaks IPv6, 2a0e:n::1 (public hosts) or hosts in
//! 2a0e:n:1::/64 (behind a router). They are taken for global by every filter, unlike the ranges for
//! documentation, and each site is a /16 of its own; no packet leaves the lab. LANs are 192.168.n.0/24;
//! behind a carrier's router there is 100.64.n.0/24, and behind home router k in there 10.n.k.0/24. Behind a
//! router that translates nothing there is 11.n.1.0/24. A router that has changed its address has 11.n.0.2,
//! then 11.n.0.3 and so on.
//!
//! What happens to networks while they are used: a router forgets ([`Router::reboot`]) or gets another
//! address ([`Internet::renumber`]), a host goes from one LAN to another ([`Router::welcome`]), a line gets
//! worse ([`Wire::set`]), and the provider of a site stops UDP ([`Internet::block_udp`]) or everything
//! ([`Internet::cut_off`]).

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::conntrack;
use super::link::{Link, Wire};
use super::nat::{Nat, Ports};
use super::probe::{Behaviour, Family, Filtering, Mapping, Observers, PortChoice, Tcp, Udp};
use super::{Host, bare_host, feed};

/// The core's address on every line.
const CORE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The core and everything on it.
#[derive(Debug)]
pub struct Internet {
    dir: PathBuf,
    core: Host,
    /// Where the lines' threads have their links.
    lines: Host,
    sites: Cell<u8>,
    /// Kept so that a line lives as long as the network.
    wires: RefCell<Vec<Wire>>,
    /// Kept because a namespace that nobody holds is gone, and routers with it.
    machines: Machines,
    observers: Option<Observers>,
}

type Machines = Rc<RefCell<Vec<Host>>>;

/// A router with a switch for the hosts behind it.
#[derive(Debug, Clone)]
pub struct Router(Rc<RouterInner>);

#[derive(Debug)]
struct RouterInner {
    dir: PathBuf,
    host: Host,
    /// The site at the core that it belongs to, for IPv6 addresses.
    site: u8,
    nat: Nat,
    /// Its own address towards the core.
    outside: Cell<Ipv4Addr>,
    lan: Ipv4Addr,
    ports: Cell<u8>,
    machines: Machines,
}

/// A kind of place in the network where a peer may find itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of the NATs, which have their documentation")]
pub enum Place {
    Public,
    FullCone,
    AddressRestricted,
    PortRestricted,
    PortRestrictedOpenInput,
    PortShifting,
    SymmetricRandom,
    SymmetricSequential,
    /// A port-restricted home router behind a port-restricted carrier.
    DoubleNat,
    /// A port-restricted home router behind a symmetric carrier.
    DoubleNatSymmetric,
    Hairpinning,
    UdpBlocked,
    /// A global IPv4 address behind a firewall.
    Firewall,
    /// Seen by its IPv6 addresses; it has IPv4 behind a port-restricted NAT as well.
    Ipv6Firewall,
}

/// A host in its place.
#[derive(Debug, Clone)]
pub struct Site {
    /// What kind of place it is.
    pub place: Place,
    /// The host.
    pub host: Host,
    /// The routers in its way, its own first.
    pub routers: Vec<Router>,
    /// Its line to the core, unless that is perfect.
    pub wire: Option<Wire>,
}

impl Internet {
    pub(super) fn new(dir: &Path) -> Self {
        let core = bare_host(dir, "core", CORE, Ipv6Addr::LOCALHOST);
        prepare(&core);
        core.sysctl(&ROUTING);
        core.ip_batch(&format!("address add {CORE}/32 dev lo\nroute add unreachable default metric 9999\n"));
        let lines = bare_host(dir, "lines", Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        // Nothing on a line may speak for itself.
        lines.sysctl(&[("net/ipv6/conf/default/disable_ipv6", "1")]);
        let (sites, wires) = (Cell::new(0), RefCell::default());
        let mut internet = Self {
            dir: dir.to_owned(),
            core,
            lines,
            sites,
            wires,
            machines: Machines::default(),
            observers: None,
        };
        let hosts = ["observer-1", "observer-2", "observer-3"];
        let hosts = hosts.map(|name| internet.public(name, Link::PERFECT).host);
        internet.observers = Some(Observers::on(hosts));
        internet
    }

    /// The hosts that [`super::probe`] measures with. Their own lines are perfect.
    pub fn observers(&self) -> &Observers {
        self.observers.as_ref().expect("an internet is made with its observers")
    }

    /// A host with global addresses and nothing in its way.
    pub fn public(&self, name: &str, link: Link) -> Site {
        let (number, v4) = self.next_site();
        let v6 = Ipv6Addr::new(0x2a0e, number.into(), 0, 0, 0, 0, 0, 1);
        let host = bare_host(&self.dir, name, v4, v6);
        let wire = self.attach(number, &host, "eth0", link);
        host.ip_batch(&format!("address add {v6}/128 dev eth0 nodad\n"));
        self.core.ip_batch(&format!("route add {v6}/128 dev s{number}\n"));
        Site { place: Place::Public, host, routers: Vec::new(), wire }
    }

    /// A router on a line of its own.
    pub fn router(&self, name: &str, nat: Nat, link: Link) -> (Router, Option<Wire>) {
        self.site_router(name, nat, link, [192, 168])
    }

    /// The same for a carrier: homes, that is routers, go behind it.
    pub fn carrier(&self, name: &str, nat: Nat, link: Link) -> (Router, Option<Wire>) {
        self.site_router(name, nat, link, [100, 64])
    }

    fn site_router(&self, name: &str, nat: Nat, link: Link, net: [u8; 2]) -> (Router, Option<Wire>) {
        let (number, v4) = self.next_site();
        let host = bare_host(&self.dir, name, v4, Ipv6Addr::LOCALHOST);
        host.sysctl(&ROUTING);
        let wire = self.attach(number, &host, "wan", link);
        if nat.v6 {
            self.core.ip_batch(&format!("route add 2a0e:{number:x}:1::/64 via fe80::2 dev s{number}\n"));
        }
        let lan = match nat.ports {
            Ports::Untranslated => Ipv4Addr::new(11, number, 1, 1),
            Ports::Kept | Ports::Shifted | Ports::Random | Ports::Sequential => {
                Ipv4Addr::new(net[0], net[1], number, 1)
            }
        };
        if nat.ports == Ports::Untranslated {
            self.core.ip_batch(&format!("route add 11.{number}.1.0/24 via {v4} dev s{number}\n"));
        }
        (Router::finish((&self.dir, &self.machines), host, number, nat, lan), wire)
    }

    /// A host in a place of the given kind, with the routers that make it so.
    pub fn settle(&self, place: Place, name: &str, link: Link) -> Site {
        let name_of = |what: &str| format!("{name}-{what}");
        let (routers, wire) = match place.nats() {
            [] => return self.public(name, link),
            [home] => {
                let (home, wire) = self.router(&name_of("router"), *home, link);
                (vec![home], wire)
            }
            [carrier, home, ..] => {
                let (carrier, wire) = self.carrier(&name_of("carrier"), *carrier, link);
                (vec![carrier.router(&name_of("router"), *home), carrier], wire)
            }
        };
        let host = routers[0].host(name);
        Site { place, host, routers, wire }
    }

    /// Lets no UDP through on the line of a site any more, whatever else is in its way.
    pub fn block_udp(&self, site: &Site) {
        self.drop_at(site, "meta l4proto udp");
    }

    /// Lets nothing through on the line of a site any more. Nobody is told: who sends there hears nothing, not
    /// even that the site is gone.
    pub fn cut_off(&self, site: &Site) {
        self.drop_at(site, "");
    }

    fn drop_at(&self, site: &Site, what: &str) {
        let device = format!("s{}", site.number());
        let rules = format!(
            r#"add table inet provider
            add chain inet provider forward {{ type filter hook forward priority filter; policy accept; }}
            add rule inet provider forward {what} iifname "{device}" drop
            add rule inet provider forward {what} oifname "{device}" drop
            "#
        );
        self.core.enter(|| feed("nft", "nftables", &["-f", "-"], &rules));
    }

    /// Gives a router on a line of its own another outside address, as many providers do when a router
    /// has been off: nothing that was mapped before is.
    ///
    /// # Panics
    /// For a router behind another one, and for one that translates nothing.
    pub fn renumber(&self, router: &Router) -> Ipv4Addr {
        let RouterInner { host, site, outside, nat, .. } = &*router.0;
        let old = outside.get();
        assert_eq!(old.octets()[..2], [11, *site], "{} has no line of its own", host.name());
        assert_ne!(nat.ports, Ports::Untranslated, "{} has no address to change", host.name());
        let new = Ipv4Addr::from(u32::from(old) + 1);
        self.core.ip_batch(&format!(
            "route add {new}/32 dev s{site} src {CORE}\nroute del {old}/32 dev s{site}\n"
        ));
        host.ip_batch(&format!(
            "address add {new}/32 dev wan\nroute replace default via {CORE} dev wan src {new}\n\
             address del {old}/32 dev wan\n"
        ));
        outside.set(new);
        router.reboot();
        new
    }

    fn next_site(&self) -> (u8, Ipv4Addr) {
        let number = self.sites.get() + 1;
        self.sites.set(number);
        (number, Ipv4Addr::new(11, number, 0, 1))
    }

    /// Lays the line of site `number`, which ends as `device` on `host`.
    fn attach(&self, number: u8, host: &Host, device: &str, link: Link) -> Option<Wire> {
        prepare(host);
        let at_core = format!("s{number}");
        let wire = if link == Link::PERFECT {
            veth((&self.core, &at_core), (host, device));
            None
        } else {
            let (near, far) = (format!("n{number}"), format!("f{number}"));
            veth((&self.lines, &near), (host, device));
            veth((&self.lines, &far), (&self.core, &at_core));
            self.lines.ip_batch(&format!("link set dev {near} up\nlink set dev {far} up\n"));
            // The line takes single packets; large ones must be cut before they reach it.
            host.ip_batch(&format!("link set dev {device} gso_max_segs 1\n"));
            self.core.ip_batch(&format!("link set dev {at_core} gso_max_segs 1\n"));
            Some(Wire::start(&self.lines, link, &near, &far))
        };
        let v4 = host.v4();
        self.core.ip_batch(&format!(
            "link set dev {at_core} up\naddress add fe80::1/64 dev {at_core} nodad\n\
             route add {v4}/32 dev {at_core} src {CORE}\n"
        ));
        host.ip_batch(&format!(
            "link set dev {device} up\naddress add {v4}/32 dev {device}\n\
             route add {CORE}/32 dev {device} scope link\nroute add default via {CORE} dev {device} src {v4}\n\
             address add fe80::2/64 dev {device} nodad\nroute add ::/0 via fe80::1 dev {device}\n"
        ));
        self.wires.borrow_mut().extend(wire.clone());
        wire
    }
}

impl Router {
    fn finish((dir, machines): (&Path, &Machines), host: Host, site: u8, nat: Nat, lan: Ipv4Addr) -> Self {
        let mut commands = format!(
            "link add dev lan type bridge forward_delay 0 mcast_snooping 0\nlink set dev lan up\n\
             address add {lan}/24 dev lan\n"
        );
        if nat.v6 {
            writeln!(commands, "address add 2a0e:{site:x}:1::1/64 dev lan nodad").expect("a string takes it");
        }
        host.ip_batch(&commands);
        machines.borrow_mut().push(host.clone());
        let router = Self(Rc::new(RouterInner {
            dir: dir.to_owned(),
            outside: Cell::new(host.v4()),
            host,
            site,
            nat,
            lan,
            ports: Cell::new(1),
            machines: machines.clone(),
        }));
        router.load_rules();
        router
    }

    fn load_rules(&self) {
        let rules = self.0.nat.rules(self.0.outside.get());
        self.0.host.enter(|| feed("nft", "nftables", &["-f", "-"], &rules));
    }

    /// Forgets who has spoken to whom and who was seen as what, as a power cut makes it.
    pub fn reboot(&self) {
        // The rules' own maps first: a packet in between may still use what the kernel knows.
        self.load_rules();
        self.0.host.enter(conntrack::forget);
    }

    /// The router itself, as a machine.
    pub fn machine(&self) -> &Host {
        &self.0.host
    }

    /// One more host in its LAN.
    pub fn host(&self, name: &str) -> Host {
        let (number, v4) = self.next_address();
        let host = bare_host(&self.0.dir, name, v4, self.v6_of(number));
        self.plug_host(number, &host);
        host
    }

    /// Takes in a host that leaves the LAN it was in. The machine is the same, with all that runs on it;
    /// its link, its addresses and its routes are new.
    pub fn welcome(&self, host: &Host) -> Host {
        let (number, v4) = self.next_address();
        let moved = host.at(v4, self.v6_of(number));
        moved.ip_batch("link del dev eth0\n");
        self.plug_host(number, &moved);
        moved
    }

    fn v6_of(&self, number: u8) -> Ipv6Addr {
        match self.0.nat.v6 {
            true => Ipv6Addr::new(0x2a0e, self.0.site.into(), 1, 0, 0, 0, 0, number.into()),
            false => Ipv6Addr::LOCALHOST,
        }
    }

    fn plug_host(&self, number: u8, host: &Host) {
        self.plug(number, host, "eth0");
        if self.0.nat.v6 {
            host.ip_batch(&format!(
                "address add {}/64 dev eth0 nodad\nroute add ::/0 via 2a0e:{:x}:1::1\n",
                host.v6(),
                self.0.site
            ));
        }
    }

    /// A router behind this one.
    pub fn router(&self, name: &str, nat: Nat) -> Self {
        let (number, v4) = self.next_address();
        let host = bare_host(&self.0.dir, name, v4, Ipv6Addr::LOCALHOST);
        host.sysctl(&ROUTING);
        self.plug(number, &host, "wan");
        let lan = Ipv4Addr::new(10, self.0.site, number, 1);
        Self::finish((&self.0.dir, &self.0.machines), host, self.0.site, nat, lan)
    }

    fn next_address(&self) -> (u8, Ipv4Addr) {
        let number = self.0.ports.get() + 1;
        self.0.ports.set(number);
        let [a, b, c, _] = self.0.lan.octets();
        (number, Ipv4Addr::new(a, b, c, number))
    }

    fn plug(&self, number: u8, host: &Host, device: &str) {
        prepare(host);
        let router = &self.0;
        let port = format!("p{number}");
        veth((&router.host, &port), (host, device));
        router.host.ip_batch(&format!("link set dev {port} master lan up\n"));
        host.ip_batch(&format!(
            "link set dev {device} up\naddress add {}/24 broadcast + dev {device}\nroute add default via {}\n",
            host.v4(),
            router.lan
        ));
    }
}

impl Place {
    /// Every kind, in the order of tables.
    pub const ALL: [Self; 14] = [
        Self::Public,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::PortRestrictedOpenInput,
        Self::PortShifting,
        Self::SymmetricRandom,
        Self::SymmetricSequential,
        Self::DoubleNat,
        Self::DoubleNatSymmetric,
        Self::Hairpinning,
        Self::UdpBlocked,
        Self::Firewall,
        Self::Ipv6Firewall,
    ];

    /// Its name in tables and on the hosts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::FullCone => "full-cone",
            Self::AddressRestricted => "address-restricted",
            Self::PortRestricted => "port-restricted",
            Self::PortRestrictedOpenInput => "port-restricted-open-input",
            Self::PortShifting => "port-shifting",
            Self::SymmetricRandom => "symmetric-random",
            Self::SymmetricSequential => "symmetric-sequential",
            Self::DoubleNat => "double-nat",
            Self::DoubleNatSymmetric => "double-nat-symmetric",
            Self::Hairpinning => "hairpinning",
            Self::UdpBlocked => "udp-blocked",
            Self::Firewall => "firewall",
            Self::Ipv6Firewall => "ipv6-firewall",
        }
    }

    /// The routers in the way, the one at the core first.
    pub fn nats(self) -> &'static [Nat] {
        match self {
            Self::Public => &[],
            Self::FullCone => &[Nat::FULL_CONE],
            Self::AddressRestricted => &[Nat::ADDRESS_RESTRICTED],
            Self::PortRestricted => &[Nat::PORT_RESTRICTED],
            Self::PortRestrictedOpenInput => &[Nat::PORT_RESTRICTED_OPEN_INPUT],
            Self::PortShifting => &[Nat::PORT_SHIFTING],
            Self::SymmetricRandom => &[Nat::SYMMETRIC_RANDOM],
            Self::SymmetricSequential => &[Nat::SYMMETRIC_SEQUENTIAL],
            Self::DoubleNat => &[Nat::PORT_RESTRICTED, Nat::PORT_RESTRICTED],
            Self::DoubleNatSymmetric => &[Nat::SYMMETRIC_RANDOM, Nat::PORT_RESTRICTED],
            Self::Hairpinning => &[Nat::HAIRPINNING],
            Self::UdpBlocked => &[Nat::UDP_BLOCKED],
            Self::Firewall => &[Nat::FIREWALL],
            Self::Ipv6Firewall => &[Nat::DUAL_STACK],
        }
    }

    /// By which addresses it is what it is.
    pub fn family(self) -> Family {
        if self == Self::Ipv6Firewall { Family::V6 } else { Family::V4 }
    }

    /// What a probe must find there. Written down by hand, not derived from the rules: the probe is the
    /// proof that the rules do what their names say.
    pub fn expected(self) -> Behaviour {
        let port_restricted = Udp {
            mapping: Mapping::EndpointIndependent,
            ports: PortChoice::Kept,
            filtering: Filtering::AddressAndPortDependent,
            hairpin: false,
            stray_moves_port: false,
        };
        let symmetric = Udp { mapping: Mapping::AddressAndPortDependent, ..port_restricted };
        let udp = match self {
            Self::Public => Udp {
                mapping: Mapping::Untranslated,
                filtering: Filtering::EndpointIndependent,
                ..port_restricted
            },
            Self::FullCone => Udp { filtering: Filtering::EndpointIndependent, ..port_restricted },
            Self::AddressRestricted => Udp { filtering: Filtering::AddressDependent, ..port_restricted },
            Self::PortRestricted | Self::DoubleNat => port_restricted,
            Self::PortRestrictedOpenInput => Udp { stray_moves_port: true, ..port_restricted },
            Self::PortShifting => Udp { ports: PortChoice::Changed, ..port_restricted },
            Self::SymmetricRandom | Self::DoubleNatSymmetric => {
                Udp { ports: PortChoice::Random, ..symmetric }
            }
            Self::SymmetricSequential => Udp { ports: PortChoice::Sequential, ..symmetric },
            Self::Hairpinning => {
                Udp { hairpin: true, filtering: Filtering::EndpointIndependent, ..port_restricted }
            }
            Self::UdpBlocked => port_restricted,
            Self::Firewall | Self::Ipv6Firewall => Udp { mapping: Mapping::Untranslated, ..port_restricted },
        };
        let tcp = Tcp { mapping: udp.mapping, ports: udp.ports, filtering: udp.filtering };
        let udp = (self != Self::UdpBlocked).then_some(udp);
        Behaviour { udp, tcp: Some(tcp) }
    }
}

impl Site {
    /// The number of its line at the core.
    fn number(&self) -> u8 {
        self.routers.first().map_or(self.host.v4().octets()[1], |router| router.0.site)
    }

    /// The place of another host in the same LAN.
    ///
    /// # Panics
    /// For a public host, which has no LAN.
    pub fn beside(&self, name: &str) -> Self {
        Self { host: self.neighbour(name), ..self.clone() }
    }

    /// Another host in the same LAN, in the same place.
    ///
    /// # Panics
    /// For a public host, which has no LAN.
    pub fn neighbour(&self, name: &str) -> Host {
        self.routers.first().expect("a public host has no LAN").host(name)
    }
}

/// A machine that hands on packets that are not its own, and does not tell hosts of shorter ways.
const ROUTING: [(&str, &str); 4] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv6/conf/all/forwarding", "1"),
];

/// Duplicate address detection would keep addresses back for a second or two, and a check of the way back
/// would drop packets from the core, whose address is on no link.
fn prepare(host: &Host) {
    host.sysctl(&[
        ("net/ipv6/conf/all/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
    ]);
    // Where the kernel lets a switch ask the NAT, hairpinning would be done twice.
    if Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
        host.sysctl(&[
            ("net/bridge/bridge-nf-call-iptables", "0"),
            ("net/bridge/bridge-nf-call-ip6tables", "0"),
        ]);
    }
}

/// A cable between two machines.
fn veth(one: (&Host, &str), other: (&Host, &str)) {
    let namespace = other.0.namespace_path();
    let (name, peer) = (one.1, other.1);
    one.0.ip_batch(&format!("link add dev {name} type veth peer name {peer} netns {namespace}\n"));
}
