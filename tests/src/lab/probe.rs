//! What a host finds between itself and the internet, in the terms of RFC 4787, as RFC 5780 measures it.
//!
//! The same program holds the sockets on both sides, so it needs no protocol: it sends from one side and
//! looks where the other side sees it come from, or whether it arrives.
//!
//! * **Mapping**: one inside socket sends to two ports of one observer and to two more observers. One
//!   outside address for all four is endpoint-independent.
//! * **Filtering**: a new inside socket sends to one port of one observer only; then another observer, and
//!   another port of the first, send to its outside address. What arrives tells what is admitted.
//! * **Strays**: after that, the inside socket sends to the observer that was not admitted. Where its
//!   outside port has changed the router took the stray packet for its own (see [`super::nat`]).
//! * **Hairpinning**: a second inside socket sends to the outside address of the first.
//! * **TCP**: mapping and filtering in the same way, with several connections from one inside port.
//!
//! That something does *not* arrive cannot be waited for. But lines keep the order of packets, so a probe
//! sends one more that will surely arrive, and when it has, whatever was sent before would be there. This
//! needs lines that lose nothing.

use std::fmt;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, setsockopt,
    socket as new_socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::Host;
use super::internet::Site;
use crate::wait::{self, Deadline};

/// After this long without an answer a packet is sent once more.
const AGAIN: Duration = Duration::from_millis(300);

/// After this many packets without an answer there is none.
const TRIES: usize = 5;

/// How long a packet may be late that was sent before one that has arrived: two processors may each have
/// one of them in hand.
const OVERTAKEN: Duration = Duration::from_millis(30);

/// How long a TCP connection may take, with the first packet sent twice.
const CONNECT_MILLIS: i64 = 2_500;

/// Round trips of which the shortest counts.
const ROUND_TRIPS: usize = 5;

/// The IP version in which a probe is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they say what they are")]
pub enum Family {
    V4,
    V6,
}

/// How outside addresses depend on the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// The host is seen with its own address and port.
    Untranslated,
    /// One outside address for all destinations.
    EndpointIndependent,
    /// One for each destination address.
    AddressDependent,
    /// One for each destination address and port.
    AddressAndPortDependent,
}

/// Which outside ports are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortChoice {
    /// The port that the socket has inside.
    Kept,
    /// One other port.
    Changed,
    /// For each destination the next one.
    Sequential,
    /// For each destination one that does not follow from the last.
    Random,
}

/// Who may send to an outside address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filtering {
    /// Everybody.
    EndpointIndependent,
    /// Who has the address of one that the socket has sent to.
    AddressDependent,
    /// Who has the address and port of one that the socket has sent to.
    AddressAndPortDependent,
}

/// What becomes of UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Udp {
    /// How outside addresses depend on the destination.
    pub mapping: Mapping,
    /// Which ports they have.
    pub ports: PortChoice,
    /// Who may send to them.
    pub filtering: Filtering,
    /// Whether a host behind the same NAT may.
    pub hairpin: bool,
    /// Whether a packet that was not admitted makes the outside port towards its sender another one.
    pub stray_moves_port: bool,
}

/// What becomes of TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    /// How outside addresses depend on the destination.
    pub mapping: Mapping,
    /// Which ports they have.
    pub ports: PortChoice,
    /// Who may connect to them.
    pub filtering: Filtering,
}

/// All that a probe says about what is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// What becomes of UDP; none: it does not pass.
    pub udp: Option<Udp>,
    /// What becomes of TCP; none: no connection can be made.
    pub tcp: Option<Tcp>,
}

/// A probe's findings.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// What is in the way.
    pub behaviour: Behaviour,
    /// The shortest of a few round trips to an observer, where UDP passes.
    pub round_trip: Option<Duration>,
}

/// Three public hosts that say what they see.
#[derive(Debug)]
pub struct Observers([Host; 3]);

impl Observers {
    pub(super) fn on(hosts: [Host; 3]) -> Self {
        Self(hosts)
    }

    /// The hosts, for tests that send from them.
    pub fn hosts(&self) -> &[Host; 3] {
        &self.0
    }

    /// Measures what is in the way of `host`.
    pub fn measure(&self, host: &Host, family: Family) -> Measured {
        let tcp = TcpProbe::new(self, host, family).tcp();
        let probe = Probe::new(self, host, family);
        let Some((mapping, ports)) = probe.mapping() else {
            return Measured { behaviour: Behaviour { udp: None, tcp }, round_trip: None };
        };
        let (filtering, stray_moves_port) = probe.filtering(mapping);
        let hairpin = mapping != Mapping::Untranslated && probe.hairpin();
        let udp = Udp { mapping, ports, filtering, hairpin, stray_moves_port };
        Measured { behaviour: Behaviour { udp: Some(udp), tcp }, round_trip: Some(probe.round_trip()) }
    }

    /// Whether two hosts get a TCP connection when each dials the other's outside address, the second a
    /// little later than the first.
    pub fn punch_by_tcp(&self, hosts: [&Host; 2], later: Duration) -> bool {
        let probes = hosts.map(|host| TcpProbe::new(self, host, Family::V4));
        let mapped = probes.each_ref().map(|probe| {
            let inside = probe.inside(0);
            let port = bound_to(&inside).port();
            let (standing, outside) = probe.connect(inside, &probe.first)?;
            Some((standing, port, outside))
        });
        let [Some((_one, one_port, one_at)), Some((_other, other_port, other_at))] = mapped else {
            return false;
        };
        let [one, other] =
            [(&probes[0], one_port), (&probes[1], other_port)].map(|(probe, port)| probe.inside(port));
        thread::scope(|scope| {
            let first = scope.spawn(|| dial(&one, other_at));
            thread::sleep(later);
            let second = dial(&other, one_at);
            second && first.join().unwrap_or(false)
        })
    }

    /// Proves that a site is what it is said to be.
    ///
    /// # Panics
    /// When it is not.
    pub fn prove(&self, site: &Site) -> Measured {
        let measured = self.measure(&site.host, site.place.family());
        let expected = site.place.expected();
        assert_eq!(measured.behaviour, expected, "{} is not {}", site.host.name(), site.place.name());
        measured
    }
}

fn address(host: &Host, family: Family) -> IpAddr {
    match family {
        Family::V4 => host.v4().into(),
        Family::V6 => host.v6().into(),
    }
}

fn socket(host: &Host, family: Family) -> UdpSocket {
    host.enter(|| UdpSocket::bind((address(host, family), 0)).expect("a host has its own address"))
}

fn local(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("a bound socket has an address")
}

/// One host's probe, with fresh sockets on the observers.
struct Probe<'a> {
    host: &'a Host,
    family: Family,
    /// Two ports of the first observer.
    first: UdpSocket,
    first_other_port: UdpSocket,
    second: UdpSocket,
    third: UdpSocket,
    /// Each packet has a number of its own, so that none is taken for another.
    packets: AtomicU64,
}

impl<'a> Probe<'a> {
    fn new(observers: &Observers, host: &'a Host, family: Family) -> Self {
        let [first, second, third] = &observers.0;
        Self {
            host,
            family,
            first: socket(first, family),
            first_other_port: socket(first, family),
            second: socket(second, family),
            third: socket(third, family),
            packets: AtomicU64::new(0),
        }
    }

    fn inside(&self) -> UdpSocket {
        socket(self.host, self.family)
    }

    fn packet(&self) -> [u8; 8] {
        self.packets.fetch_add(1, Ordering::Relaxed).to_be_bytes()
    }

    /// Sends one packet and does not ask what became of it.
    fn send(&self, from: &UdpSocket, to: SocketAddr) -> [u8; 8] {
        let packet = self.packet();
        from.send_to(&packet, to).expect("a host has a route to everybody");
        packet
    }

    /// Sends until `receiver` has it, and tells where it came from, and what else came before it.
    fn deliver(&self, from: &UdpSocket, to: SocketAddr, receiver: &UdpSocket) -> Option<Delivered> {
        let mut before = Vec::new();
        for _ in 0..TRIES {
            let packet = self.send(from, to);
            let deadline = Deadline::after(AGAIN);
            while let Some((received, source)) = receive(receiver, deadline) {
                if received == packet {
                    return Some(Delivered { source, before });
                }
                before.push(received);
            }
        }
        None
    }

    /// Where `observer` sees packets of `inside` come from.
    fn seen_by(&self, observer: &UdpSocket, inside: &UdpSocket) -> Option<SocketAddr> {
        self.deliver(inside, local(observer), observer).map(|delivered| delivered.source)
    }

    /// A new inside socket that has sent to the first observer only, and its outside address.
    fn mapped(&self) -> (UdpSocket, SocketAddr) {
        let inside = self.inside();
        let outside = self.seen_by(&self.first, &inside).expect("UDP passed a moment ago");
        (inside, outside)
    }

    /// What has reached `inside`, when all that was sent to it until now has had time to.
    fn arrived(&self, inside: &UdpSocket, outside: SocketAddr) -> Vec<[u8; 8]> {
        let fence = self.deliver(&self.first, outside, inside).expect("an answer passes every NAT");
        let mut arrived = fence.before;
        let deadline = Deadline::after(OVERTAKEN);
        arrived.extend(std::iter::from_fn(|| receive(inside, deadline)).map(|(packet, _)| packet));
        arrived
    }

    fn mapping(&self) -> Option<(Mapping, PortChoice)> {
        let inside = self.inside();
        let first = self.seen_by(&self.first, &inside)?;
        let others = [&self.first_other_port, &self.second, &self.third];
        let [other_port, second, third] =
            others.map(|observer| self.seen_by(observer, &inside).expect("UDP passed a moment ago"));
        let seen = [first, other_port, second, third];
        Some((classify_mapping(local(&inside), seen), classify_ports(local(&inside).port(), seen)))
    }

    /// The filtering, and whether a stray packet moves the port.
    fn filtering(&self, mapping: Mapping) -> (Filtering, bool) {
        let (inside, outside) = self.mapped();
        let from_other_address = self.send(&self.second, outside);
        let from_other_port = self.send(&self.first_other_port, outside);
        let arrived = self.arrived(&inside, outside);
        let filtering = match (arrived.contains(&from_other_address), arrived.contains(&from_other_port)) {
            (true, _) => Filtering::EndpointIndependent,
            (false, true) => Filtering::AddressDependent,
            (false, false) => Filtering::AddressAndPortDependent,
        };
        let towards_stray = self.seen_by(&self.second, &inside).expect("UDP passed a moment ago");
        (filtering, mapping == Mapping::EndpointIndependent && towards_stray != outside)
    }

    fn hairpin(&self) -> bool {
        let (inside, outside) = self.mapped();
        let (neighbour, _) = self.mapped();
        let turned_back = self.send(&neighbour, outside);
        self.arrived(&inside, outside).contains(&turned_back)
    }

    fn round_trip(&self) -> Duration {
        let (inside, outside) = self.mapped();
        let trip = || {
            let started = wait::now();
            self.seen_by(&self.first, &inside).expect("UDP passed a moment ago");
            self.deliver(&self.first, outside, &inside).expect("an answer passes every NAT");
            wait::now() - started
        };
        (0..ROUND_TRIPS).map(|_| trip()).min().unwrap_or_default()
    }
}

/// The same for TCP, with a listener in the place of each of the observers' sockets.
struct TcpProbe<'a> {
    host: &'a Host,
    family: Family,
    observers: [&'a Host; 2],
    first: TcpListener,
    others: [TcpListener; 3],
}

impl<'a> TcpProbe<'a> {
    fn new(observers: &'a Observers, host: &'a Host, family: Family) -> Self {
        let [first, second, third] = &observers.0;
        let listener = |host: &Host| {
            host.enter(|| TcpListener::bind((address(host, family), 0))).expect("an observer can listen")
        };
        let others = [listener(first), listener(second), listener(third)];
        Self { host, family, observers: [first, second], first: listener(first), others }
    }

    fn tcp(&self) -> Option<Tcp> {
        let inside = self.inside(0);
        let local = bound_to(&inside);
        let (_first, seen_first) = self.connect(inside, &self.first)?;
        let others = self.others.each_ref().map(|observer| {
            self.connect(self.inside(local.port()), observer).expect("TCP passed a moment ago")
        });
        let [(_, other_port), (_, second), (_, third)] = others;
        let seen = [seen_first, other_port, second, third];
        Some(Tcp {
            mapping: classify_mapping(local, seen),
            ports: classify_ports(local.port(), seen),
            filtering: self.filtering(),
        })
    }

    /// A socket on a port that others may share.
    fn inside(&self, port: u16) -> OwnedFd {
        shared_socket(self.host, self.family, port, SockFlag::empty())
    }

    /// Connects to `observer`, and tells where that sees the connection come from.
    fn connect(&self, inside: OwnedFd, observer: &TcpListener) -> Option<([TcpStream; 2], SocketAddr)> {
        let at = observer.local_addr().expect("a listener has an address");
        dial(&inside, at).then_some(())?;
        let (accepted, seen) = observer.accept().expect("a connection was made");
        Some(([TcpStream::from(inside), accepted], seen))
    }

    /// Who else may connect to a port that has connected to the first observer.
    fn filtering(&self) -> Filtering {
        let inside = self.inside(0);
        let port = bound_to(&inside).port();
        let (mut ends, outside) = self.connect(inside, &self.first).expect("TCP passed a moment ago");
        let listener = self.inside(port);
        listen(&listener, Backlog::new(8).expect("8 is not too many")).expect("a bound socket can listen");
        let listener = TcpListener::from(listener);
        listener.set_nonblocking(true).expect("a listener need not block");
        let [from_other_port, from_other_address] =
            self.observers.map(|host| knock(host, self.family, outside));
        // There, back and there again on a connection that stands: whoever is admitted is through by then.
        for (from, to) in [(1, 0), (0, 1), (1, 0)] {
            ends[from].write_all(b"!").expect("a connection that stands passes every NAT");
            ends[to].read_exact(&mut [0]).expect("a connection that stands passes every NAT");
        }
        let deadline = Deadline::after(OVERTAKEN);
        let mut admitted = Vec::new();
        while deadline.left().is_some() {
            admitted.extend(listener.accept().map(|(_, from)| from));
        }
        match (admitted.contains(&from_other_address.1), admitted.contains(&from_other_port.1)) {
            (true, _) => Filtering::EndpointIndependent,
            (false, true) => Filtering::AddressDependent,
            (false, false) => Filtering::AddressAndPortDependent,
        }
    }
}

/// A TCP socket on `port` of `host`, which others may use at the same time.
fn shared_socket(host: &Host, family: Family, port: u16, flags: SockFlag) -> OwnedFd {
    let family_of_address = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    let socket = host.enter(|| new_socket(family_of_address, SockType::Stream, flags, None));
    let socket = socket.expect("a host can open sockets");
    setsockopt(&socket, sockopt::ReuseAddr, &true).expect("a socket can be shared");
    setsockopt(&socket, sockopt::ReusePort, &true).expect("a socket can be shared");
    let at = SocketAddr::new(address(host, family), port);
    bind(socket.as_raw_fd(), &SockaddrStorage::from(at)).expect("a host has its own address");
    socket
}

/// Whether a connection comes about in time.
fn dial(socket: &OwnedFd, at: SocketAddr) -> bool {
    let timeout = TimeVal::milliseconds(CONNECT_MILLIS);
    setsockopt(socket, sockopt::SendTimeout, &timeout).expect("a socket takes a timeout");
    connect(socket.as_raw_fd(), &SockaddrStorage::from(at)).is_ok()
}

fn bound_to(socket: &OwnedFd) -> SocketAddr {
    let socket = socket.try_clone().expect("a socket can be opened twice");
    TcpListener::from(socket).local_addr().expect("a bound socket has an address")
}

/// Tries to connect, does not wait for it, and tells from where.
fn knock(host: &Host, family: Family, at: SocketAddr) -> (OwnedFd, SocketAddr) {
    let socket = shared_socket(host, family, 0, SockFlag::SOCK_NONBLOCK);
    // It is under way, or was refused at once: the other end tells.
    connect(socket.as_raw_fd(), &SockaddrStorage::from(at)).ok();
    let from = bound_to(&socket);
    (socket, from)
}

struct Delivered {
    source: SocketAddr,
    before: Vec<[u8; 8]>,
}

/// The next packet of a probe, unless the deadline passes first.
fn receive(socket: &UdpSocket, deadline: Deadline) -> Option<([u8; 8], SocketAddr)> {
    loop {
        socket.set_read_timeout(Some(deadline.left()?)).expect("a socket takes a timeout");
        let mut packet = [0; 8];
        // The deadline decides, not what went wrong.
        if let Ok((8, source)) = socket.recv_from(&mut packet) {
            return Some((packet, source));
        }
    }
}

/// `seen`: at two ports of one observer, then at two more observers.
fn classify_mapping(local: SocketAddr, seen: [SocketAddr; 4]) -> Mapping {
    let [first, other_port, second, third] = seen;
    if seen.iter().all(|seen| *seen == local) {
        Mapping::Untranslated
    } else if seen.iter().all(|seen| *seen == first) {
        Mapping::EndpointIndependent
    } else if first == other_port && second != first && third != first {
        Mapping::AddressDependent
    } else {
        Mapping::AddressAndPortDependent
    }
}

fn classify_ports(local: u16, seen: [SocketAddr; 4]) -> PortChoice {
    let ports = seen.map(|seen| seen.port());
    let steps =
        [ports[1].wrapping_sub(ports[0]), ports[2].wrapping_sub(ports[1]), ports[3].wrapping_sub(ports[2])];
    if ports.iter().all(|port| *port == local) {
        PortChoice::Kept
    } else if steps == [0; 3] {
        PortChoice::Changed
    } else if steps.iter().all(|step| (1..=MOST_BETWEEN).contains(step)) {
        PortChoice::Sequential
    } else {
        PortChoice::Random
    }
}

/// How many ports other flows through the same router may have taken between two of ours.
const MOST_BETWEEN: u16 = 4;

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Untranslated => "no NAT",
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressDependent => "address-dependent",
            Self::AddressAndPortDependent => "address+port-dependent",
        })
    }
}

impl fmt::Display for PortChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kept => "kept",
            Self::Changed => "changed",
            Self::Sequential => "sequential",
            Self::Random => "random",
        })
    }
}

impl fmt::Display for Filtering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressDependent => "address-dependent",
            Self::AddressAndPortDependent => "address+port-dependent",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(ports: [u16; 4]) -> [SocketAddr; 4] {
        ports.map(|port| SocketAddr::from(([11, 1, 0, 1], port)))
    }

    #[test]
    fn four_sightings_tell_the_mapping() {
        let local = SocketAddr::from(([192, 168, 1, 2], 5000));
        let mapping = |ports| classify_mapping(local, seen(ports));
        assert_eq!(classify_mapping(local, [local; 4]), Mapping::Untranslated);
        assert_eq!(mapping([5000; 4]), Mapping::EndpointIndependent);
        assert_eq!(mapping([7, 7, 8, 9]), Mapping::AddressDependent);
        assert_eq!(mapping([7, 8, 9, 10]), Mapping::AddressAndPortDependent);
        assert_eq!(mapping([7, 7, 7, 9]), Mapping::AddressAndPortDependent);
    }

    #[test]
    fn four_sightings_tell_how_ports_are_chosen() {
        let ports = |ports| classify_ports(5000, seen(ports));
        assert_eq!(ports([5000; 4]), PortChoice::Kept);
        assert_eq!(ports([6000; 4]), PortChoice::Changed);
        assert_eq!(ports([30_000, 30_001, 30_002, 30_005]), PortChoice::Sequential);
        assert_eq!(ports([30_000, 29_999, 30_002, 30_003]), PortChoice::Random);
        assert_eq!(ports([10_452, 28_617, 31_124, 31_125]), PortChoice::Random);
    }
}
