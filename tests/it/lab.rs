//! The laboratory itself: a test that passes because nothing can reach anything would prove nothing.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hawsepipe_tests::lab;
use hawsepipe_tests::wait::SOON;

const PORT: u16 = 8008;

#[test]
fn hosts_on_one_segment_reach_each_other_over_both_ip_versions() {
    lab::run(|lab| {
        let [a, b] = lab.segment(["a", "b"]);
        for (listen, at) in [("0.0.0.0:8008", b.v4().into()), ("[::]:8008", b.v6().into())] {
            let listener = b.enter(|| TcpListener::bind(listen)).unwrap();
            let mut dialled =
                a.enter(|| TcpStream::connect_timeout(&SocketAddr::new(at, PORT), SOON)).unwrap();
            dialled.write_all(b"hello").unwrap();
            drop(dialled);
            let (mut accepted, from) = listener.accept().unwrap();
            let mut text = String::new();
            accepted.read_to_string(&mut text).unwrap();
            assert_eq!(text, "hello");
            assert!([a.v4().into(), a.v6().into()].contains(&from.ip()), "came from {from}");
        }
    });
}

#[test]
fn broadcast_and_multicast_reach_every_host_of_the_segment_and_no_other() {
    lab::run(|lab| {
        let [a, b, c] = lab.segment(["a", "b", "c"]);
        let [outsider] = lab.segment(["outsider"]);
        let group = Ipv4Addr::new(224, 0, 0, 251);
        let hear = |host: &lab::Host| {
            host.enter(|| {
                let socket = UdpSocket::bind(("0.0.0.0", PORT)).unwrap();
                socket.join_multicast_v4(&group, &host.v4()).unwrap();
                socket
            })
        };
        let hearers = [hear(&b), hear(&c)];
        let outside = hear(&outsider);
        let speaker = a.enter(|| UdpSocket::bind((a.v4(), 0))).unwrap();
        speaker.set_broadcast(true).unwrap();
        let directed = Ipv4Addr::from(u32::from(a.v4()) | 0xff);
        for destination in [Ipv4Addr::BROADCAST, directed, group] {
            speaker.send_to(destination.to_string().as_bytes(), (destination, PORT)).unwrap();
            for hearer in &hearers {
                hearer.set_read_timeout(Some(SOON)).unwrap();
                let mut buffer = [0; 64];
                let (length, _) = hearer.recv_from(&mut buffer).unwrap();
                assert_eq!(buffer[..length], *destination.to_string().as_bytes());
            }
        }
        // The others have heard all three by now, so what the outsider was to hear would be there.
        outside.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        assert!(outside.recv_from(&mut [0; 64]).is_err(), "another segment heard the broadcast");
    });
}

#[test]
fn commands_run_where_their_host_is() {
    lab::run(|lab| {
        let [a, b] = lab.segment(["a", "b"]);
        for host in [&a, &b] {
            let shown = host.enter(|| Command::new("ip").args(["-br", "address"]).output()).unwrap();
            let shown = String::from_utf8(shown.stdout).unwrap();
            assert!(shown.contains(&host.v4().to_string()), "{shown}");
            assert!(shown.contains(&host.v6().to_string()), "{shown}");
        }
    });
}

#[test]
fn a_lab_may_mount_a_small_disk_that_fills_up() {
    lab::run(|lab| {
        let disk = lab.small_disk("disk", 64);
        assert!(fs::write(disk.join("fits"), [0; 1024]).is_ok());
        assert!(fs::write(disk.join("too-much"), [0; 1024 * 1024]).is_err());
    });
}

#[test]
#[should_panic(expected = "the test failed inside its lab")]
fn a_failure_inside_a_lab_fails_the_test() {
    lab::run(|lab| {
        assert!(Path::new("/nonexistent").exists(), "{lab:?} failing on purpose");
    });
}
