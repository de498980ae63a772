//! Lines with a delay, jitter, losses and a rate.
//!
//! Linux has a queueing discipline for this (netem), but not every kernel is built with it, and a TUN device
//! is root's. So a line is a thread of ours: two packet sockets on two Ethernet links, and between them
//! one [`Shaper`] for each direction, which is pure and says when a packet is due or that it is lost.
//!
//! A line keeps the order of packets, so jitter spreads them but never swaps two. What it does to the n-th
//! packet depends on its settings, its seed and n, not on chance. ARP and neighbour discovery pass at once
//! and are not counted: a link without them would need a round trip before the first packet.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;

use super::Host;
use super::frame::{self, ETHERNET_HEADER};
use crate::chance::SplitMix;
use crate::wait;

/// Room for what comes while a line's thread does not get its turn. Linux cuts it down to what it allows
/// without privileges outside the lab (net.core.rmem_max).
const RECEIVE_BUFFER: usize = 4 << 20;

/// More than the largest frame, which is 1514 bytes, so that a larger one is noticed.
const FRAME_BUFFER: usize = 70_000;

/// How many frames are taken from one side before the other side and the clock get their turn.
const BATCH: usize = 64;

/// The properties of a line, the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// How long a packet is under way.
    pub delay: Duration,
    /// Up to how much longer it may be, evenly spread.
    pub jitter: Duration,
    /// The share of packets that are lost, 0 to 1.
    pub loss: f64,
    /// Bits of IP packets in a second; none: no limit.
    pub rate: Option<u64>,
    /// How long a packet may wait for those before it at `rate`; it is dropped where it would wait longer.
    pub queue: Duration,
    /// What decides which packets are lost and which are late.
    pub seed: u64,
}

impl Link {
    /// No delay, no loss, no limit: a cable without a thread behind it.
    pub const PERFECT: Self = Self {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: 0.0,
        rate: None,
        queue: Duration::from_millis(100),
        seed: 1,
    };

    /// A line on which packets are under way for `delay`, and otherwise perfect.
    pub const fn delayed(delay: Duration) -> Self {
        Self { delay, ..Self::PERFECT }
    }
}

/// The two directions of a line that leads from a site to the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the site.
    Up,
    /// To the site.
    Down,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It leaves the line at this time.
    Due(Instant),
    /// The line loses it.
    Lost,
    /// The queue before the line is full.
    Overflowed,
}

/// One direction of a line. Always: what is due is due in the order in which it was admitted.
#[derive(Debug)]
pub struct Shaper {
    link: Link,
    losses: SplitMix,
    jitters: SplitMix,
    /// When the line has sent everything admitted so far.
    free_at: Option<Instant>,
    last_due: Option<Instant>,
}

impl Shaper {
    /// A line that has carried nothing yet.
    pub fn new(link: Link, direction: Direction) -> Self {
        let seed = link.seed ^ if direction == Direction::Up { 0 } else { u64::MAX };
        let (losses, jitters) = (SplitMix::new(seed), SplitMix::new(seed.rotate_left(32)));
        Self { link, losses, jitters, free_at: None, last_due: None }
    }

    /// Decides about the next packet, of `size` bytes, which came at `now`.
    pub fn admit(&mut self, now: Instant, size: usize) -> Fate {
        // Both are drawn for every packet, so that one setting does not change what the other does.
        let (luck, lateness) = (self.losses.unit(), self.jitters.unit());
        if luck < self.link.loss {
            return Fate::Lost;
        }
        let mut sent = now;
        if let Some(rate) = self.link.rate {
            let start = self.free_at.map_or(now, |free_at| free_at.max(now));
            if start - now > self.link.queue {
                return Fate::Overflowed;
            }
            sent = start + Duration::from_secs_f64(size as f64 * 8.0 / rate as f64);
            self.free_at = Some(sent);
        }
        let due = sent + self.link.delay + self.link.jitter.mul_f64(lateness);
        let due = self.last_due.map_or(due, |last| last.max(due));
        self.last_due = Some(due);
        Fate::Due(due)
    }
}

/// What one direction of a line has done with the packets that came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Packets that left the line at its other end.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
    /// Packets that the line lost, as its settings ask.
    pub lost: u64,
    /// Packets for which there was no room in the queue.
    pub overflowed: u64,
    /// Frames that did not go through to the link behind the line. Always 0 unless that link is down.
    pub refused: u64,
}

/// A running line. The last handle that goes ends it.
#[derive(Debug, Clone)]
pub struct Wire(Arc<Running>);

#[derive(Debug)]
struct Running {
    state: Arc<Mutex<State>>,
    /// Closed when the line is to end.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    shapers: [Shaper; 2],
    carried: [Carried; 2],
}

impl Wire {
    /// Starts a line between two links of `host`, the first one towards the site.
    pub(super) fn start(host: &Host, link: Link, site: &str, core: &str) -> Self {
        let sides = host.enter(|| [packet_socket(site), packet_socket(core)]);
        let state = Arc::new(Mutex::new(State { shapers: shapers(link), carried: Default::default() }));
        let (stop, stopped) = UnixStream::pair().expect("a pair of sockets can be made");
        let forwarder = Forwarder { sides, state: state.clone(), queues: Default::default() };
        let thread = thread::Builder::new()
            .name(format!("wire-{site}"))
            .spawn(move || forwarder.run(&stopped))
            .expect("a thread can be started");
        Self(Arc::new(Running { state, stop: Some(stop), thread: Some(thread) }))
    }

    /// Changes the line for all packets that come from now on, counting them from the first again.
    pub fn set(&self, link: Link) {
        lock(&self.0.state).shapers = shapers(link);
    }

    /// What one direction has carried since the line was made.
    pub fn carried(&self, direction: Direction) -> Carried {
        lock(&self.0.state).carried[direction as usize]
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            // A second panic while the test is already failing would hide why it fails.
            assert!(ended.is_ok() || thread::panicking(), "a line's thread panicked: see above");
        }
    }
}

fn shapers(link: Link) -> [Shaper; 2] {
    [Shaper::new(link, Direction::Up), Shaper::new(link, Direction::Down)]
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket that takes all frames that arrive on one link of the calling thread's host and can send any.
fn packet_socket(device: &str) -> OwnedFd {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
        .expect("the lab may open packet sockets: is CONFIG_PACKET missing?");
    let links = getifaddrs().expect("a host can list its links");
    let found = links.filter(|link| link.interface_name == device).find_map(|link| link.address);
    let address = found.as_ref().and_then(|address| address.as_link_addr()).expect("the link exists");
    bind(fd.as_raw_fd(), address).expect("a packet socket can be bound to a link");
    setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER).expect("a receive buffer can be chosen");
    fd
}

/// The thread behind a line.
struct Forwarder {
    sides: [OwnedFd; 2],
    state: Arc<Mutex<State>>,
    /// What is under way in each direction, in the order in which it is due.
    queues: [VecDeque<(Instant, Vec<u8>)>; 2],
}

impl Forwarder {
    fn run(mut self, stopped: &UnixStream) {
        let mut buffer = vec![0; FRAME_BUFFER];
        loop {
            self.send_due(wait::now());
            if self.wait(stopped) {
                return;
            }
            for from in [0, 1] {
                self.take(from, &mut buffer);
            }
        }
    }

    /// Waits for a frame or for the next one to be due. True when the line is to end.
    fn wait(&self, stopped: &UnixStream) -> bool {
        let next = self.queues.iter().filter_map(|queue| queue.front()).map(|(due, _)| *due).min();
        let timeout = next.map(|due| TimeSpec::from_duration(due.saturating_duration_since(wait::now())));
        let interesting = [self.sides[0].as_fd(), self.sides[1].as_fd(), stopped.as_fd()];
        let mut polled = interesting.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        // An interrupted wait is a wait that found nothing.
        ppoll(&mut polled, timeout, None).ok();
        polled[2].any().unwrap_or(false)
    }

    fn take(&mut self, from: usize, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            let Ok(length) = recv(self.sides[from].as_raw_fd(), buffer, MsgFlags::empty()) else { return };
            let mut frame = buffer[..length].to_vec();
            frame::complete_checksum(&mut frame);
            if !frame::is_traffic(&frame) {
                self.pass_on(from, &frame);
                continue;
            }
            let mut state = lock(&self.state);
            match state.shapers[from].admit(wait::now(), length - ETHERNET_HEADER) {
                Fate::Due(due) => self.queues[from].push_back((due, frame)),
                Fate::Lost => state.carried[from].lost += 1,
                Fate::Overflowed => state.carried[from].overflowed += 1,
            }
        }
    }

    fn send_due(&mut self, now: Instant) {
        for from in [0, 1] {
            while self.queues[from].front().is_some_and(|(due, _)| *due <= now) {
                let Some((_, frame)) = self.queues[from].pop_front() else { break };
                // Counted before it is sent: whoever has received it finds it counted.
                let mut state = lock(&self.state);
                state.carried[from].packets += 1;
                state.carried[from].bytes += (frame.len() - ETHERNET_HEADER) as u64;
                drop(state);
                self.pass_on(from, &frame);
            }
        }
    }

    fn pass_on(&self, from: usize, frame: &[u8]) {
        if send(self.sides[1 - from].as_raw_fd(), frame, MsgFlags::empty()).is_err() {
            lock(&self.state).carried[from].refused += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn fates(link: Link, direction: Direction, count: usize) -> (Instant, Vec<Fate>) {
        let now = wait::now();
        let mut shaper = Shaper::new(link, direction);
        (now, (0..count).map(|_| shaper.admit(now, 1250)).collect())
    }

    #[test]
    fn a_perfect_line_delivers_at_once() {
        let (now, fates) = fates(Link::PERFECT, Direction::Up, 10);
        assert!(fates.iter().all(|fate| *fate == Fate::Due(now)));
    }

    #[test]
    fn at_a_rate_packets_leave_one_after_the_other_until_the_queue_is_full() {
        // 1250 bytes at 1 Mbit/s take 10 ms: ten wait no longer than 100 ms behind the first, the rest would.
        let link = Link { rate: Some(1_000_000), delay: 5 * MS, ..Link::PERFECT };
        let (now, fates) = fates(link, Direction::Up, 14);
        for (n, fate) in fates.iter().take(11).enumerate() {
            assert_eq!(*fate, Fate::Due(now + 10 * MS * (n as u32 + 1) + 5 * MS));
        }
        assert!(fates[11..].iter().all(|fate| *fate == Fate::Overflowed));
    }

    #[test]
    fn an_idle_line_owes_nothing() {
        let link = Link { rate: Some(1_000_000), ..Link::PERFECT };
        let now = wait::now();
        let mut shaper = Shaper::new(link, Direction::Down);
        shaper.admit(now, 1250);
        assert_eq!(shaper.admit(now + 50 * MS, 1250), Fate::Due(now + 60 * MS));
    }

    #[test]
    fn losses_follow_the_seed_and_come_at_their_rate() {
        let link = Link { loss: 0.05, ..Link::PERFECT };
        let lost = |link, direction| -> Vec<bool> {
            fates(link, direction, 10_000).1.iter().map(|fate| *fate == Fate::Lost).collect()
        };
        let up = lost(link, Direction::Up);
        assert_eq!(up, lost(link, Direction::Up));
        assert_ne!(up, lost(link, Direction::Down));
        assert_ne!(up, lost(Link { seed: 2, ..link }, Direction::Up));
        let count = up.iter().filter(|lost| **lost).count();
        assert!((430..570).contains(&count), "{count} of 10000 at 5 %");
    }

    #[test]
    fn jitter_spreads_packets_but_keeps_their_order() {
        let link = Link { delay: 20 * MS, jitter: 10 * MS, ..Link::PERFECT };
        let now = wait::now();
        let mut shaper = Shaper::new(link, Direction::Up);
        let mut last = now;
        let mut late = 0;
        for n in 0..1000 {
            let sent = now + n * 50 * MS;
            let Fate::Due(due) = shaper.admit(sent, 100) else { panic!("a packet got lost") };
            assert!(due >= last && due >= sent + 20 * MS && due <= sent + 30 * MS);
            last = due;
            late += u32::from(due > sent + 25 * MS);
        }
        assert!((400..600).contains(&late), "{late} of 1000 were in the later half");
    }
}
