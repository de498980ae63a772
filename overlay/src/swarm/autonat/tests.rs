//! Two swarms on loopback, which stands for the Internet here, driven by hand.

use futures::StreamExt as _;
use tokio::sync::mpsc;

use super::super::{Event, Handle, Setup, SwarmConfig, start};
use super::*;
use crate::reachability::{AddressPolicy, Transport};

const PATIENCE: Duration = Duration::from_secs(30);
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
const TCP: &str = "/ip4/127.0.0.1/tcp/0";

struct Node {
    event_loop: EventLoop,
    _handle: Handle,
    _events: mpsc::Receiver<Event>,
    /// What servers answered to its questions.
    said: Vec<io::Result<Said>>,
    honesty: Honesty,
}

/// How it answers when it is asked to dial somebody.
#[derive(Clone, Copy, PartialEq)]
enum Honesty {
    Honest,
    /// Says that it did, without trying.
    Claims,
    /// Brings the number back on the connection that it was asked on.
    Shortcut,
}

impl Node {
    async fn new(n: u8, listen: &[&str], policy: AddressPolicy) -> Self {
        let listen = listen.iter().map(|&at| at.to_owned()).collect();
        let config = SwarmConfig { listen, mdns: false, max_connections: 16, ..SwarmConfig::default() };
        let setup = Setup { seed: [n; 32], policy, ..Setup::anonymous() };
        let (handle, events, mut event_loop) = start(&config, setup).await.unwrap();
        event_loop.act_on_reachability();
        let honesty = Honesty::Honest;
        Self { event_loop, _handle: handle, _events: events, said: Vec::new(), honesty }
    }

    fn own(&self, transport: Transport) -> Target {
        let mut targets = self.event_loop.swarm.listeners().filter_map(link::target);
        targets.find(|target| target.transport == transport).unwrap()
    }

    /// Waits for one thing to happen, and does what follows from it.
    async fn turn(&mut self) {
        let event_loop = &mut self.event_loop;
        tokio::select! {
            Some(done) = event_loop.autonat.tasks.join_next() => self.on_done(done.unwrap()),
            event = event_loop.swarm.select_next_some() => event_loop.on_event(event),
        }
        self.event_loop.act_on_reachability();
    }

    fn on_done(&mut self, done: Done) {
        let event_loop = &mut self.event_loop;
        match done {
            Done::Asked { question, .. } if self.honesty == Honesty::Claims => {
                event_loop.answer_question(question, ResponseStatus::Ok, 0, DialStatus::Ok);
            }
            Done::Asked { connection, question } if self.honesty == Honesty::Shortcut => {
                event_loop.open_on(connection, Purpose::DialBack(DialBack { question, index: 0 }));
            }
            Done::Answered { nonce, said } => {
                let copy = said.as_ref().map(|said| *said).map_err(|error| io::Error::from(error.kind()));
                self.said.push(copy);
                event_loop.on_autonat(Ok(Done::Answered { nonce, said }));
            }
            other @ (Done::CameBack { .. } | Done::Asked { .. } | Done::Finished) => {
                event_loop.on_autonat(Ok(other))
            }
        }
    }

    /// Whether it knows its address to be reachable, and does not only presume it.
    fn is_sure_of(&self, target: Target) -> bool {
        self.event_loop.reach.is_settled(target)
    }
}

async fn until(a: &mut Node, b: &mut Node, done: impl Fn(&Node) -> bool) {
    let run = async {
        while !done(a) {
            tokio::select! {
                () = a.turn() => {}
                () = b.turn() => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, run).await.expect("in time");
}

/// `a` is connected to `b`, which it may ask from now on.
async fn pair(honesty: Honesty) -> (Node, Node) {
    let mut a = Node::new(1, &[QUIC, TCP], AddressPolicy::AndLoopback).await;
    let mut b = Node::new(2, &[QUIC], AddressPolicy::AndLoopback).await;
    b.honesty = honesty;
    let at = link::multiaddr(b.own(Transport::Quic));
    a.event_loop.swarm.dial(at).unwrap();
    until(&mut a, &mut b, |a| !a.said.is_empty()).await;
    (a, b)
}

/// What the server says of an address, asked on the connection that stands.
async fn ask(a: &mut Node, b: &mut Node, target: Target) -> io::Result<Said> {
    let dialled = a.event_loop.live.iter().find(|(_, live)| live.dialled).map(|(id, _)| *id).unwrap();
    a.said.clear();
    a.event_loop.probe(dialled, target);
    until(a, b, |a| !a.said.is_empty()).await;
    a.said.remove(0)
}

#[tokio::test]
async fn what_an_honest_server_reached_is_confirmed() {
    let (a, _b) = pair(Honesty::Honest).await;
    assert_eq!(a.said[0].as_ref().unwrap(), &Said::Reached);
    assert!(a.is_sure_of(a.own(Transport::Quic)) || a.is_sure_of(a.own(Transport::Tcp)));
    assert!(a.event_loop.autonat.asked.is_empty());
    assert!(a.event_loop.swarm.external_addresses().count() == 2);
}

#[tokio::test]
async fn a_server_that_claims_what_it_did_not_do_is_not_believed() {
    let (a, _b) = pair(Honesty::Claims).await;
    assert_eq!(a.said[0].as_ref().unwrap(), &Said::Reached);
    assert!(!a.is_sure_of(a.own(Transport::Quic)) && !a.is_sure_of(a.own(Transport::Tcp)));
    assert!(a.event_loop.autonat.asked.is_empty());
}

#[tokio::test]
async fn a_number_that_comes_back_on_a_connection_that_we_made_is_no_proof() {
    let (a, _b) = pair(Honesty::Shortcut).await;
    a.said[0].as_ref().unwrap_err();
    assert!(!a.is_sure_of(a.own(Transport::Quic)) && !a.is_sure_of(a.own(Transport::Tcp)));
}

#[tokio::test]
async fn a_server_dials_only_who_asks_and_only_so_often() {
    let (mut a, mut b) = pair(Honesty::Honest).await;
    let own = a.own(Transport::Quic);
    let elsewhere = |ip: [u8; 4]| Target { at: (ip, own.at.port()).into(), ..own };
    // Whatever was counted before is not the reason.
    for target in [elsewhere([127, 0, 0, 2]), elsewhere([10, 0, 0, 1]), elsewhere([203, 0, 113, 1])] {
        b.event_loop.autonat.judge = Judge::default();
        assert_eq!(ask(&mut a, &mut b, target).await.unwrap(), Said::Refused, "{target}");
        assert!(b.event_loop.dialling.is_empty());
    }
    assert_eq!(ask(&mut a, &mut b, own).await.unwrap(), Said::Reached);
    assert_eq!(ask(&mut a, &mut b, own).await.unwrap(), Said::Refused, "too soon");
    b.event_loop.autonat.judge = Judge::default();
    let closed = Target { transport: Transport::Tcp, at: "127.0.0.1:9".parse().unwrap() };
    assert_eq!(ask(&mut a, &mut b, closed).await.unwrap(), Said::NotReached);
    b.event_loop.autonat.judge = Judge::default();
    b.event_loop.serve_autonat(false);
    ask(&mut a, &mut b, own).await.expect_err("no longer offered, on connections that stand neither");
}

#[tokio::test]
async fn on_the_internet_loopback_is_nobody_to_dial() {
    let mut a = Node::new(1, &[QUIC], AddressPolicy::AndLoopback).await;
    let mut b = Node::new(2, &[QUIC], AddressPolicy::Internet).await;
    b.event_loop.serve_autonat(true);
    let at = link::multiaddr(b.own(Transport::Quic));
    a.event_loop.swarm.dial(at).unwrap();
    until(&mut a, &mut b, |a| !a.said.is_empty()).await;
    assert_eq!(a.said[0].as_ref().unwrap(), &Said::Refused);
    assert!(b.event_loop.dialling.is_empty());
}

#[test]
fn numbers_are_not_guessed() {
    let numbers: std::collections::BTreeSet<_> = (0..64).map(|_| random_number()).collect();
    assert_eq!(numbers.len(), 64);
    let or = numbers.iter().fold(0, |all, number| all | number);
    assert!(or.count_ones() > 56, "all bits are used: {or:x}");
}
