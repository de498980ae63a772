//! Which feed is behind a peer that mDNS found, as a machine.
//!
//! mDNS tells only libp2p peer ids and addresses, and an SHS dialer must know the feed. So each peer that
//! appears is asked once (`/ssb/lan-who/1`), a few at a time, and again after a while. What comes out are
//! claims: the answer is proven by nothing. That an address expires forgets the address; it is no reason
//! to end a session.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};

use super::link;
use crate::conn::Carrier;
use crate::keys::PublicKey;

/// Most peers remembered. When full, newcomers wait for an old one to expire.
pub(crate) const MAX_NEIGHBOURS: usize = 256;
/// Most addresses of one peer.
pub(crate) const MAX_ADDRESSES: usize = 4;
/// Most questions at a time.
pub(crate) const MAX_ASKING: usize = 8;
/// How long an answer holds.
pub(crate) const ANSWER_HOLDS: Duration = Duration::from_secs(5 * 60);
/// How long an answer may take, dial included.
pub(crate) const ASK_TIMEOUT: Duration = Duration::from_secs(30);
/// First and longest pause after a question without an answer; it doubles in between. Most peers that do
/// not answer are other people's libp2p programs.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(30 * 60);

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Input {
    /// mDNS found a peer at an address on our network.
    Found { peer: PeerId, at: Multiaddr },
    /// mDNS no longer hears of it there.
    Lost { peer: PeerId, at: Multiaddr },
    /// The peer answered.
    Answered { peer: PeerId, feed: PublicKey },
    /// It did not.
    NoAnswer { peer: PeerId },
    /// mDNS starts anew.
    AllLost,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Output {
    /// Ask this peer, at one of these addresses.
    Ask { peer: PeerId, at: Vec<Multiaddr> },
    /// A feed claims to be there.
    Discovered { feed: PublicKey, peer: PeerId, at: Multiaddr },
    /// It is no longer heard of there.
    Expired { feed: PublicKey, peer: PeerId, at: Multiaddr },
}

/// The machine.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    peers: BTreeMap<PeerId, Neighbour>,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
struct Neighbour {
    at: BTreeSet<Multiaddr>,
    feed: Option<PublicKey>,
    state: State,
    failures: u32,
}

#[derive(Debug, PartialEq)]
enum State {
    /// To be asked at this time.
    Due(Instant),
    /// Asked; counts as not answered from this time on.
    Asking(Instant),
}

impl Neighbours {
    /// One input.
    pub(crate) fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Found { peer, at } => self.found(now, peer, at),
            Input::Lost { peer, at } => self.lost(peer, &at),
            Input::Answered { peer, feed } => self.answered(now, peer, feed),
            Input::NoAnswer { peer } => self.no_answer(now, peer),
            Input::AllLost => self.all_lost(),
        }
        self.ask(now);
    }

    /// The next output, until `None`.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    #[cfg(test)]
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let times = self.peers.values().map(|neighbour| match neighbour.state {
            State::Due(at) | State::Asking(at) => at,
        });
        times.min()
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let overdue = |neighbour: &Neighbour| matches!(neighbour.state, State::Asking(until) if until <= now);
        for neighbour in self.peers.values_mut().filter(|neighbour| overdue(neighbour)) {
            neighbour.failed(now);
        }
        self.ask(now);
    }

    fn found(&mut self, now: Instant, peer: PeerId, at: Multiaddr) {
        if !self.peers.contains_key(&peer) && self.peers.len() >= MAX_NEIGHBOURS {
            return;
        }
        let neighbour = self.peers.entry(peer).or_insert_with(|| Neighbour::new(now));
        let is_new = neighbour.at.len() < MAX_ADDRESSES && neighbour.at.insert(at.clone());
        if let (true, Some(feed)) = (is_new, neighbour.feed) {
            self.outputs.push_back(Output::Discovered { feed, peer, at });
        }
    }

    fn lost(&mut self, peer: PeerId, at: &Multiaddr) {
        let Some(neighbour) = self.peers.get_mut(&peer) else { return };
        let known = neighbour.at.take(at);
        if let (Some(at), Some(feed)) = (known, neighbour.feed) {
            self.outputs.push_back(Output::Expired { feed, peer, at });
        }
        if neighbour.at.is_empty() {
            self.peers.remove(&peer);
        }
    }

    fn all_lost(&mut self) {
        for (peer, neighbour) in std::mem::take(&mut self.peers) {
            let Some(feed) = neighbour.feed else { continue };
            let expired = neighbour.at.into_iter().map(|at| Output::Expired { feed, peer, at });
            self.outputs.extend(expired);
        }
    }

    /// Each answer is reported, also a repeated one: whoever missed the first learns it then.
    fn answered(&mut self, now: Instant, peer: PeerId, feed: PublicKey) {
        let Some(neighbour) = self.peers.get_mut(&peer) else { return };
        let before = neighbour.feed.replace(feed).filter(|before| *before != feed);
        neighbour.state = State::Due(now + ANSWER_HOLDS);
        neighbour.failures = 0;
        for at in neighbour.addresses() {
            if let Some(feed) = before {
                self.outputs.push_back(Output::Expired { feed, peer, at: at.clone() });
            }
            self.outputs.push_back(Output::Discovered { feed, peer, at });
        }
    }

    fn no_answer(&mut self, now: Instant, peer: PeerId) {
        let neighbour = self.peers.get_mut(&peer);
        if let Some(neighbour) = neighbour.filter(|n| matches!(n.state, State::Asking(_))) {
            neighbour.failed(now);
        }
    }

    fn ask(&mut self, now: Instant) {
        let asking = self.peers.values().filter(|n| matches!(n.state, State::Asking(_))).count();
        let due = |neighbour: &Neighbour| matches!(neighbour.state, State::Due(at) if at <= now);
        let due = self.peers.iter_mut().filter(|(_, neighbour)| due(neighbour));
        for (peer, neighbour) in due.take(MAX_ASKING.saturating_sub(asking)) {
            neighbour.state = State::Asking(now + ASK_TIMEOUT);
            self.outputs.push_back(Output::Ask { peer: *peer, at: neighbour.addresses() });
        }
    }
}

impl Neighbour {
    fn new(now: Instant) -> Self {
        Self { at: BTreeSet::new(), feed: None, state: State::Due(now), failures: 0 }
    }

    fn failed(&mut self, now: Instant) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.state = State::Due(now + pause);
    }

    /// QUIC first: it takes fewer round trips.
    fn addresses(&self) -> Vec<Multiaddr> {
        let mut all: Vec<_> = self.at.iter().cloned().collect();
        all.sort_by_key(|at| link::carrier(at) != Some(Carrier::Quic));
        all
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
mod tests {
    use super::*;

    fn quic(port: u16) -> Multiaddr {
        format!("/ip4/10.0.0.1/udp/{port}/quic-v1").parse().unwrap()
    }

    fn tcp(port: u16) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()
    }

    fn feed(n: u8) -> PublicKey {
        PublicKey::from_bytes([n; 32])
    }

    fn step(machine: &mut Neighbours, now: Instant, input: Input) -> Vec<Output> {
        machine.handle(now, input);
        drain(machine)
    }

    fn drain(machine: &mut Neighbours) -> Vec<Output> {
        std::iter::from_fn(|| machine.poll_output()).collect()
    }

    #[test]
    fn a_new_peer_is_asked_once_and_its_answer_holds_for_all_its_addresses() {
        let (now, peer) = (Instant::now(), PeerId::random());
        let mut machine = Neighbours::default();
        let asked = step(&mut machine, now, Input::Found { peer, at: tcp(1) });
        assert_eq!(asked, [Output::Ask { peer, at: vec![tcp(1)] }]);
        assert_eq!(step(&mut machine, now, Input::Found { peer, at: quic(1) }), []);
        let discovered = step(&mut machine, now, Input::Answered { peer, feed: feed(1) });
        let at = |at| Output::Discovered { feed: feed(1), peer, at };
        assert_eq!(discovered, [at(quic(1)), at(tcp(1))]);
        assert_eq!(step(&mut machine, now, Input::Found { peer, at: quic(2) }), [at(quic(2))]);
        assert_eq!(step(&mut machine, now, Input::Found { peer, at: quic(2) }), []);
        machine.handle_timeout(machine.poll_timeout().unwrap());
        let again = Output::Ask { peer, at: vec![quic(1), quic(2), tcp(1)] };
        assert_eq!(drain(&mut machine), [again]);
    }

    #[test]
    fn a_peer_that_changed_its_feed_expires_as_the_old_one() {
        let (now, peer) = (Instant::now(), PeerId::random());
        let mut machine = Neighbours::default();
        step(&mut machine, now, Input::Found { peer, at: quic(1) });
        step(&mut machine, now, Input::Answered { peer, feed: feed(1) });
        let outputs = step(&mut machine, now, Input::Answered { peer, feed: feed(2) });
        let expired = Output::Expired { feed: feed(1), peer, at: quic(1) };
        assert_eq!(outputs, [expired, Output::Discovered { feed: feed(2), peer, at: quic(1) }]);
    }

    #[test]
    fn an_expired_address_is_forgotten_and_the_peer_with_its_last() {
        let (now, peer) = (Instant::now(), PeerId::random());
        let mut machine = Neighbours::default();
        step(&mut machine, now, Input::Found { peer, at: quic(1) });
        step(&mut machine, now, Input::Answered { peer, feed: feed(1) });
        let expired = Output::Expired { feed: feed(1), peer, at: quic(1) };
        assert_eq!(step(&mut machine, now, Input::Lost { peer, at: quic(9) }), []);
        assert_eq!(step(&mut machine, now, Input::Lost { peer, at: quic(1) }), [expired]);
        assert_eq!(machine.poll_timeout(), None);
        assert_eq!(step(&mut machine, now, Input::Answered { peer, feed: feed(1) }), []);
    }

    #[test]
    fn who_does_not_answer_is_asked_ever_more_rarely() {
        let (mut now, peer) = (Instant::now(), PeerId::random());
        let mut machine = Neighbours::default();
        step(&mut machine, now, Input::Found { peer, at: quic(1) });
        for pause in [30, 60, 120, 240, 480, 960, 1800, 1800] {
            assert_eq!(step(&mut machine, now, Input::NoAnswer { peer }), []);
            let due = machine.poll_timeout().unwrap();
            assert_eq!(due, now + Duration::from_secs(pause));
            machine.handle_timeout(due);
            assert_eq!(drain(&mut machine).len(), 1);
            now = due;
        }
    }

    #[test]
    fn an_answer_that_never_comes_counts_as_none() {
        let (now, peer) = (Instant::now(), PeerId::random());
        let mut machine = Neighbours::default();
        step(&mut machine, now, Input::Found { peer, at: quic(1) });
        machine.handle_timeout(now + ASK_TIMEOUT);
        assert_eq!(machine.poll_timeout(), Some(now + ASK_TIMEOUT + FIRST_PAUSE));
        assert_eq!(step(&mut machine, now + ASK_TIMEOUT, Input::NoAnswer { peer }), []);
        assert_eq!(machine.poll_timeout(), Some(now + ASK_TIMEOUT + FIRST_PAUSE));
    }

    #[test]
    fn a_hostile_network_fills_no_memory_and_gets_few_questions() {
        let now = Instant::now();
        let mut machine = Neighbours::default();
        let mut asked = 0;
        for _ in 0..2 * MAX_NEIGHBOURS {
            let peer = PeerId::random();
            for port in 1..10 {
                asked += step(&mut machine, now, Input::Found { peer, at: quic(port) }).len();
            }
        }
        assert_eq!(asked, MAX_ASKING);
        assert_eq!(machine.peers.len(), MAX_NEIGHBOURS);
        assert!(machine.peers.values().all(|neighbour| neighbour.at.len() == MAX_ADDRESSES));
        assert_eq!(step(&mut machine, now, Input::AllLost), []);
        assert!(machine.peers.is_empty());
    }
}
