//! The internet of the laboratory: each kind of NAT must be what its name says, and a line must do to
//! packets what its settings say, before anything is concluded from a test in it.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use hawsepipe_tests::lab::internet::{Internet, Place, Router, Site};
use hawsepipe_tests::lab::link::{Direction, Fate, Link, Shaper};
use hawsepipe_tests::lab::nat::Nat;
use hawsepipe_tests::lab::probe::{Behaviour, Family};
use hawsepipe_tests::lab::{self, Host};
use hawsepipe_tests::wait::{self, SOON};

const MS: Duration = Duration::from_millis(1);

/// How much later than due a packet may come on a busy machine, in the median.
const TOLERANCE: Duration = Duration::from_millis(8);

#[test]
fn every_kind_of_nat_is_what_its_name_says() {
    lab::run(|lab| {
        let internet = lab.internet();
        let sites = Place::ALL.map(|place| internet.settle(place, place.name(), Link::PERFECT));
        let observers = internet.observers();
        let measured = thread::scope(|scope| {
            let probes = sites.each_ref().map(|site| {
                let (host, family) = (site.host.clone(), site.place.family());
                scope.spawn(move || observers.measure(&host, family))
            });
            probes.map(|probe| probe.join().unwrap())
        });
        for (site, measured) in sites.iter().zip(measured) {
            assert_eq!(measured.behaviour, site.place.expected(), "{}", site.place.name());
        }
    });
}

#[test]
fn a_proof_fails_where_a_nat_is_not_what_it_is_called() {
    lab::run(|lab| {
        let internet = lab.internet();
        let cone = internet.settle(Place::FullCone, "cone", Link::PERFECT);
        for place in [Place::Public, Place::AddressRestricted, Place::Hairpinning, Place::UdpBlocked] {
            let misnamed = Site { place, ..cone.clone() };
            let proof = catch_unwind(AssertUnwindSafe(|| internet.observers().prove(&misnamed)));
            assert!(proof.is_err(), "a full cone was proven to be {}", place.name());
        }
        internet.observers().prove(&cone);
    });
}

#[test]
fn a_nat_is_the_same_at_the_end_of_a_slow_line() {
    lab::run(|lab| {
        let internet = lab.internet();
        for place in [Place::AddressRestricted, Place::SymmetricSequential, Place::Ipv6Firewall] {
            let site = internet.settle(place, place.name(), Link::delayed(10 * MS));
            let round_trip = internet.observers().prove(&site).round_trip.unwrap();
            assert!(round_trip >= 20 * MS && round_trip < 20 * MS + 2 * TOLERANCE, "{round_trip:?}");
        }
    });
}

#[test]
fn a_dual_stack_home_has_a_nat_for_ipv4_beside_its_firewall() {
    lab::run(|lab| {
        let internet = lab.internet();
        let site = internet.settle(Place::Ipv6Firewall, "home", Link::PERFECT);
        let measured = internet.observers().measure(&site.host, Family::V4);
        assert_eq!(measured.behaviour, Place::PortRestricted.expected());
    });
}

#[test]
fn two_hosts_of_one_home_with_the_same_port_have_one_outside_port_each() {
    lab::run(|lab| {
        let internet = lab.internet();
        let observers = observers(&internet);
        for place in [Place::PortRestricted, Place::FullCone, Place::PortShifting] {
            let site = internet.settle(place, place.name(), Link::PERFECT);
            let hosts = [&site.host, &site.neighbour(&format!("{}-neighbour", place.name()))];
            let [mine, others] = hosts.map(|host| {
                let seen = outside_addresses(&udp(host, 8008), &observers);
                let seen: BTreeSet<SocketAddr> = seen.into_iter().collect();
                assert_eq!(seen.len(), 1, "{seen:?} behind a {} NAT", place.name());
                seen
            });
            assert!(mine.is_disjoint(&others), "{mine:?} for both behind a {} NAT", place.name());
        }
    });
}

#[test]
fn two_hosts_of_one_home_reach_each_other_in_their_lan() {
    lab::run(|lab| {
        let internet = lab.internet();
        for place in [Place::PortRestricted, Place::SymmetricRandom, Place::UdpBlocked] {
            let site = internet.settle(place, place.name(), Link::PERFECT);
            let neighbour = site.neighbour(&format!("{}-neighbour", place.name()));
            let listener = neighbour.enter(|| TcpListener::bind((neighbour.v4(), 8008))).unwrap();
            let _dialled = site.host.enter(|| TcpStream::connect(listener.local_addr().unwrap())).unwrap();
            assert_eq!(listener.accept().unwrap().1.ip(), site.host.v4());
            let (here, there) = (udp(&site.host, 0), udp(&neighbour, 0));
            here.send_to(b"hello", there.local_addr().unwrap()).unwrap();
            assert_eq!(there.recv_from(&mut [0; 8]).unwrap().1, here.local_addr().unwrap());
        }
    });
}

#[test]
fn two_homes_of_one_carrier_reach_each_other_only_if_it_hairpins() {
    lab::run(|lab| {
        let internet = lab.internet();
        let observers = observers(&internet);
        for (name, nat) in [("plain", Nat::FULL_CONE), ("hairpinning", Nat::HAIRPINNING)] {
            let (carrier, _) = internet.carrier(name, nat, Link::PERFECT);
            let [one, other] = ["one", "other"].map(|home| {
                let home = carrier.router(&format!("{name}-{home}"), Nat::FULL_CONE);
                let socket = udp(&home.host(&format!("{}-host", home.machine().name())), 0);
                let outside = outside_addresses(&socket, &observers)[0];
                (socket, outside)
            });
            one.0.send_to(b"neighbour", other.1).unwrap();
            // What a stranger sends afterwards arrives in any case, and after it.
            observers[1].send_to(b"stranger", other.1).unwrap();
            let mut arrived = Vec::new();
            while arrived.last().is_none_or(|packet| packet != b"stranger") {
                let mut packet = [0; 16];
                let (length, _) = other.0.recv_from(&mut packet).unwrap();
                arrived.push(packet[..length].to_vec());
            }
            assert_eq!(arrived.contains(&b"neighbour".to_vec()), nat.hairpin, "behind {name}");
        }
    });
}

/// Sockets inside a home and on all observers, with an outside port that is known.
fn mapped(site: &Site, observers: &[UdpSocket]) -> (UdpSocket, SocketAddr) {
    let inside = udp(&site.host, 0);
    let outside = outside_addresses(&inside, observers)[0];
    (inside, outside)
}

#[test]
fn a_router_that_reboots_forgets_who_was_admitted() {
    lab::run(|lab| {
        let internet = lab.internet();
        let observers = observers(&internet);
        for place in [Place::FullCone, Place::PortRestricted, Place::DoubleNat] {
            let site = internet.settle(place, place.name(), Link::PERFECT);
            let (inside, outside) = mapped(&site, &observers);
            observers[0].send_to(b"before", outside).unwrap();
            assert_eq!(inside.recv_from(&mut [0; 8]).unwrap().0, 6);
            site.routers.iter().for_each(Router::reboot);
            observers[0].send_to(b"forgotten", outside).unwrap();
            // The home speaks again, so what comes after that is admitted, and what came before would be here.
            let again = outside_addresses(&inside, &observers)[0];
            observers[0].send_to(b"again", again).unwrap();
            let mut packet = [0; 16];
            let (length, _) = inside.recv_from(&mut packet).unwrap();
            assert_eq!(packet[..length], *b"again", "behind a {} NAT", place.name());
            internet.observers().prove(&site);
        }
    });
}

#[test]
fn a_router_with_another_address_is_seen_by_it_and_is_what_it_was() {
    lab::run(|lab| {
        let internet = lab.internet();
        let observers = observers(&internet);
        for place in [Place::FullCone, Place::PortShifting, Place::SymmetricSequential, Place::Hairpinning] {
            let site = internet.settle(place, place.name(), Link::delayed(MS));
            let (inside, outside) = mapped(&site, &observers);
            let new = internet.renumber(&site.routers[0]);
            assert_ne!(outside.ip(), new);
            let seen = outside_addresses(&inside, &observers);
            assert!(seen.iter().all(|seen| seen.ip() == new), "{seen:?} instead of {new}");
            internet.observers().prove(&site);
            // Twice is no different.
            assert_ne!(internet.renumber(&site.routers[0]), new);
            internet.observers().prove(&site);
        }
    });
}

#[test]
fn a_host_that_moves_is_behind_its_new_router_and_keeps_its_sockets() {
    lab::run(|lab| {
        let internet = lab.internet();
        let observers = observers(&internet);
        let old = internet.settle(Place::FullCone, "old", Link::PERFECT);
        let new = internet.settle(Place::SymmetricRandom, "new", Link::PERFECT);
        let anywhere = old.host.enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        let before = outside_addresses(&anywhere, &observers);
        let moved = new.routers[0].welcome(&old.host);
        assert_ne!(moved.v4(), old.host.v4());
        assert_eq!(moved.name(), "old");
        let after = outside_addresses(&anywhere, &observers);
        assert!(before.iter().all(|seen| *seen == before[0]), "{before:?}");
        assert!(after.iter().all(|seen| seen.ip() == new.routers[0].machine().v4()), "{after:?}");
        internet.observers().prove(&Site { host: moved, ..new.clone() });
        internet.observers().prove(&new);
    });
}

#[test]
fn where_udp_is_blocked_tcp_is_what_the_nat_makes_of_it() {
    lab::run(|lab| {
        let internet = lab.internet();
        for place in [Place::Public, Place::FullCone, Place::SymmetricRandom, Place::DoubleNat] {
            let site = internet.settle(place, place.name(), Link::PERFECT);
            internet.block_udp(&site);
            let measured = internet.observers().measure(&site.host, place.family());
            let expected = Behaviour { udp: None, ..place.expected() };
            assert_eq!(measured.behaviour, expected, "{}", place.name());
        }
        // Nobody else's line is blocked.
        internet.observers().prove(&internet.settle(Place::FullCone, "another", Link::PERFECT));
    });
}

#[test]
fn a_site_that_is_cut_off_does_not_even_refuse() {
    lab::run(|lab| {
        let internet = lab.internet();
        let [gone, other] = ["gone", "other"].map(|name| internet.public(name, Link::PERFECT));
        let dial = |to: &Site| {
            let at = SocketAddr::from((to.host.v4(), 1));
            internet.public("dialer", Link::PERFECT).host.enter(|| {
                let dialled = TcpStream::connect_timeout(&at, 500 * MS);
                dialled.expect_err("nobody listens there").kind()
            })
        };
        assert_eq!(dial(&gone), ErrorKind::ConnectionRefused);
        internet.cut_off(&gone);
        assert_eq!(dial(&gone), ErrorKind::TimedOut);
        assert_eq!(dial(&other), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn cones_let_two_homes_dial_each_other_by_tcp_at_the_same_time_and_symmetric_nats_do_not() {
    lab::run(|lab| {
        let internet = lab.internet();
        for (place, possible) in
            [(Place::PortRestricted, true), (Place::PortShifting, true), (Place::SymmetricRandom, false)]
        {
            let [one, other] = ["one", "other"].map(|name| {
                internet.settle(place, &format!("{name}-{}", place.name()), Link::delayed(10 * MS))
            });
            for later in [Duration::ZERO, 5 * MS] {
                let punched = internet.observers().punch_by_tcp([&one.host, &other.host], later);
                assert_eq!(punched, possible, "{} with {later:?}", place.name());
            }
        }
    });
}

#[test]
fn two_hosts_behind_one_firewall_reach_each_other_and_nobody_else_reaches_them() {
    lab::run(|lab| {
        let internet = lab.internet();
        let site = internet.settle(Place::Firewall, "firewall", Link::PERFECT);
        let beside = site.beside("beside");
        let sockets = [udp(&site.host, 0), udp(&beside.host, 0)];
        sockets[0].send_to(b"near", sockets[1].local_addr().unwrap()).unwrap();
        assert_eq!(sockets[1].recv_from(&mut [0; 8]).unwrap().1, sockets[0].local_addr().unwrap());
        internet.observers().prove(&beside);
    });
}

/// Two public hosts, with one line between them, and a socket on each.
fn at_both_ends(internet: &Internet, link: Link) -> (Site, [UdpSocket; 2]) {
    let site = internet.public("site", link);
    let sockets = [udp(&site.host, 0), udp(&internet.observers().hosts()[0], 0)];
    (site, sockets)
}

/// Sends one packet, waits for it, and tells how long it took.
fn send_one(from: &UdpSocket, to: &UdpSocket) -> Duration {
    let sent = wait::now();
    from.send_to(b"timed", to.local_addr().unwrap()).unwrap();
    to.recv_from(&mut [0; 8]).unwrap();
    wait::now() - sent
}

fn median(mut figures: Vec<Duration>) -> Duration {
    figures.sort();
    figures[figures.len() / 2]
}

#[test]
fn a_line_delays_every_packet_in_both_directions() {
    lab::run(|lab| {
        let internet = lab.internet();
        let (site, [here, there]) = at_both_ends(&internet, Link::delayed(20 * MS));
        let count = 30;
        for (from, to) in [(&here, &there), (&there, &here)] {
            let took: Vec<Duration> = (0..count).map(|_| send_one(from, to)).collect();
            assert!(took.iter().all(|took| *took >= 20 * MS), "{took:?}");
            let median = median(took);
            assert!(median < 20 * MS + TOLERANCE, "{median:?}");
        }
        let wire = site.wire.unwrap();
        for direction in [Direction::Up, Direction::Down] {
            let carried = wire.carried(direction);
            assert_eq!((carried.packets, carried.lost, carried.refused), (count, 0, 0));
        }
        wire.set(Link::delayed(40 * MS));
        assert!(send_one(&here, &there) >= 40 * MS);
    });
}

#[test]
fn a_line_spreads_packets_over_its_jitter() {
    lab::run(|lab| {
        let internet = lab.internet();
        let link = Link { jitter: 20 * MS, ..Link::delayed(5 * MS) };
        let (_site, [here, there]) = at_both_ends(&internet, link);
        let took: Vec<Duration> = (0..60).map(|_| send_one(&here, &there)).collect();
        let (least, most) = (took.iter().min().unwrap(), took.iter().max().unwrap());
        assert!(*least >= 5 * MS && *least < 5 * MS + TOLERANCE, "{least:?}");
        assert!(*most >= 20 * MS, "{most:?}");
        let median = median(took);
        assert!(median > 10 * MS && median < 20 * MS + TOLERANCE, "{median:?}");
    });
}

#[test]
fn a_line_loses_exactly_the_packets_that_its_seed_says() {
    const COUNT: usize = 1000;
    lab::run(|lab| {
        let internet = lab.internet();
        let link = Link { loss: 0.1, seed: 42, ..Link::PERFECT };
        let (site, [here, there]) = at_both_ends(&internet, link);
        let mut received = BTreeSet::new();
        // One under way at a time leaves no other reason to lose one; a lost one is noticed by the next.
        let mut shaper = Shaper::new(link, Direction::Up);
        let mut predicted = BTreeSet::new();
        let mut number = 0;
        while number < COUNT || predicted.last() != Some(&(number - 1)) {
            here.send_to(&number.to_be_bytes(), there.local_addr().unwrap()).unwrap();
            if shaper.admit(wait::now(), 36) != Fate::Lost {
                predicted.insert(number);
                let mut packet = [0; 8];
                there.recv_from(&mut packet).unwrap();
                received.insert(usize::from_be_bytes(packet));
            }
            number += 1;
        }
        assert_eq!(received, predicted);
        let carried = site.wire.unwrap().carried(Direction::Up);
        let (passed, sent) = (received.len() as u64, number as u64);
        assert_eq!((carried.packets, carried.lost, carried.overflowed), (passed, sent - passed, 0));
        let share = carried.lost as f64 / sent as f64;
        assert!((0.07..0.13).contains(&share), "{share}");
    });
}

#[test]
fn a_line_carries_no_more_than_its_rate() {
    /// Few enough for every buffer on the way to hold them all, however late its reader is; the first one
    /// is where packets wait for the neighbour's Ethernet address.
    const COUNT: u32 = 50;
    /// IP and UDP headers and the payload.
    const SIZE: u32 = 28 + 972;
    lab::run(|lab| {
        let internet = lab.internet();
        // 1000 bytes at 2 Mbit/s take 4 ms.
        let link = Link { rate: Some(2_000_000), queue: SOON, ..Link::PERFECT };
        let (site, [here, there]) = at_both_ends(&internet, link);
        let started = wait::now();
        for _ in 0..COUNT {
            here.send_to(&[7; 972], there.local_addr().unwrap()).unwrap();
        }
        let arrivals: Vec<Instant> = (0..COUNT)
            .map(|_| {
                there.recv_from(&mut [0; 1024]).unwrap();
                wait::now()
            })
            .collect();
        for (number, arrival) in (1..).zip(&arrivals) {
            assert!(*arrival - started >= 4 * MS * number, "packet {number} came early");
        }
        let took = *arrivals.last().unwrap() - started;
        assert!(took < 4 * MS * COUNT + 3 * TOLERANCE, "{took:?}");
        let carried = site.wire.unwrap().carried(Direction::Up);
        assert_eq!((carried.packets, carried.bytes), (COUNT.into(), (COUNT * SIZE).into()));
    });
}

#[test]
fn a_full_queue_drops_what_comes_on_top() {
    lab::run(|lab| {
        let internet = lab.internet();
        // 1000 bytes take 80 ms, so that a burst cannot outlast the queue even on a busy machine.
        let link = Link { rate: Some(100_000), queue: 200 * MS, ..Link::PERFECT };
        let (site, [here, there]) = at_both_ends(&internet, link);
        for _ in 0..50 {
            here.send_to(&[7; 972], there.local_addr().unwrap()).unwrap();
        }
        let wire = site.wire.unwrap();
        let all_decided = wait::until("the whole burst at the line", SOON, || {
            let carried = wire.carried(Direction::Up);
            let decided = carried.packets + carried.overflowed;
            if decided == 50 { Ok(carried) } else { Err(format!("{carried:?}")) }
        });
        assert!((3..10).contains(&all_decided.packets), "{all_decided:?}");
        assert_eq!(all_decided.lost + all_decided.refused, 0);
    });
}

#[test]
fn tcp_passes_a_line_unharmed_in_both_directions_and_both_ip_versions() {
    const BYTES: usize = 2_000_000;
    lab::run(|lab| {
        let internet = lab.internet();
        let site = internet.public("site", Link::delayed(2 * MS));
        let far = &internet.observers().hosts()[0];
        let data: Vec<u8> = (0..BYTES).map(|i| (i % 251) as u8).collect();
        for (from, to) in [(&site.host, far), (far, &site.host)] {
            for at in [to.v4().into(), to.v6().into()] {
                let listener = to.enter(|| TcpListener::bind(SocketAddr::new(at, 0))).unwrap();
                let mut sender = from.enter(|| TcpStream::connect(listener.local_addr().unwrap())).unwrap();
                let (mut receiver, _) = listener.accept().unwrap();
                receiver.set_read_timeout(Some(SOON)).unwrap();
                let received = thread::scope(|scope| {
                    let sending = scope.spawn(|| sender.write_all(&data).map(|()| drop(sender)));
                    let mut received = Vec::new();
                    receiver.read_to_end(&mut received).unwrap();
                    sending.join().unwrap().unwrap();
                    received
                });
                assert!(received == data, "{} of {BYTES} bytes came", received.len());
            }
        }
        let wire = site.wire.unwrap();
        for direction in [Direction::Up, Direction::Down] {
            assert_eq!(wire.carried(direction).refused, 0, "a packet was too large for the link behind");
        }
    });
}

fn udp(host: &Host, port: u16) -> UdpSocket {
    let socket = host.enter(|| UdpSocket::bind((host.v4(), port))).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// A socket on each of the observers.
fn observers(internet: &Internet) -> Vec<UdpSocket> {
    internet.observers().hosts().iter().map(|host| udp(host, 0)).collect()
}

/// Where `inside` is seen by each of the observers.
fn outside_addresses(inside: &UdpSocket, observers: &[UdpSocket]) -> Vec<SocketAddr> {
    let seen = observers.iter().map(|observer| {
        inside.send_to(b"?", observer.local_addr().unwrap()).unwrap();
        observer.recv_from(&mut [0; 8]).unwrap().1
    });
    seen.collect()
}
