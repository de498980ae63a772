//! mDNS and `/ssb/lan-who/1`: from a peer on the local network to a claimed feed.

use std::io;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinError;
use tracing::{debug, error, trace};

use super::dial::Purpose;
use super::neighbours::{Input, Output};
use super::{Event, EventLoop, SwarmStream, link, mdns, now};
use crate::keys::PublicKey;

/// An answer is 32 bytes; more time than this is for no good.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Questions and answers under way.
const MAX_ANSWERS: usize = 32;

/// What came of a question.
#[derive(Debug)]
pub(super) enum Asked {
    /// Of ours.
    Answer { peer: PeerId, feed: io::Result<PublicKey> },
    /// Of a peer's.
    Told(io::Result<()>),
}

impl EventLoop {
    pub(super) fn on_mdns(&mut self, event: mdns::Event) {
        match event {
            mdns::Event::Found(found) => {
                for (peer, at) in found {
                    self.found(peer, at);
                }
            }
            mdns::Event::Lost(lost) => {
                for (peer, at) in lost {
                    let (at, _) = link::split_peer(at);
                    self.neighbours.handle(now(), Input::Lost { peer, at });
                }
            }
            mdns::Event::Flooded => self.neighbours.handle(now(), Input::AllLost),
        }
    }

    /// Only addresses on our own networks, of transports we have: nothing that a host says can make us
    /// dial a stranger.
    pub(super) fn found(&mut self, peer: PeerId, at: Multiaddr) {
        let (at, _) = link::split_peer(at);
        let near = link::carrier(&at).is_some() && self.swarm.behaviour().streams.is_neighbour(&at);
        if near && peer != self.own_id() {
            self.neighbours.handle(now(), Input::Found { peer, at });
        }
    }

    /// Does what the machine wants done.
    pub(super) fn discover(&mut self) {
        while let Some(output) = self.neighbours.poll_output() {
            match output {
                Output::Ask { peer, at } => self.ask(peer, &at),
                Output::Discovered { feed, peer, at } => {
                    self.emit(Event::Discovered { feed, at: link::with_peer(&at, peer) });
                }
                Output::Expired { feed, peer, at } => {
                    self.emit(Event::Expired { feed, at: link::with_peer(&at, peer) });
                }
            }
        }
    }

    fn ask(&mut self, peer: PeerId, at: &[Multiaddr]) {
        let near = |at: &Multiaddr| self.swarm.behaviour().streams.is_neighbour(at);
        let mut live = self.live.iter().filter(|(_, live)| live.peer == peer && near(&live.remote));
        let standing = live.next().map(|(id, _)| *id);
        match standing {
            Some(connection) => self.open_on(connection, Purpose::Who(peer)),
            None => {
                let with_peer = |at: &Multiaddr| at.clone().with_p2p(peer).ok();
                self.dial(at.iter().filter_map(with_peer).collect(), Purpose::Who(peer));
            }
        }
    }

    pub(super) fn read_answer(&mut self, peer: PeerId, mut stream: SwarmStream) {
        if self.asking.len() >= MAX_ANSWERS {
            return self.not_answered(peer);
        }
        self.asking.spawn(async move {
            let mut feed = [0; 32];
            let read = tokio::time::timeout(ANSWER_TIMEOUT, stream.read_exact(&mut feed)).await;
            let feed = read.map_err(io::Error::from).flatten().map(|_| PublicKey::from_bytes(feed));
            Asked::Answer { peer, feed }
        });
    }

    /// Tells a neighbour who we are. That it is one was checked when its connection stood; interfaces
    /// change.
    pub(super) fn answer(&mut self, remote: &Multiaddr, mut stream: SwarmStream) {
        let Some(feed) = self.setup.announce else { return };
        if !self.swarm.behaviour().streams.is_neighbour(remote) || self.asking.len() >= MAX_ANSWERS {
            return;
        }
        self.asking.spawn(async move {
            let tell = async {
                stream.write_all(feed.as_bytes()).await?;
                stream.shutdown().await
            };
            let told = tokio::time::timeout(ANSWER_TIMEOUT, tell).await;
            Asked::Told(told.map_err(io::Error::from).flatten())
        });
    }

    pub(super) fn not_answered(&mut self, peer: PeerId) {
        self.neighbours.handle(now(), Input::NoAnswer { peer });
    }

    pub(super) fn on_asked(&mut self, asked: Result<Asked, JoinError>) {
        match asked {
            Ok(Asked::Answer { peer, feed: Ok(feed) }) => {
                self.neighbours.handle(now(), Input::Answered { peer, feed });
            }
            Ok(Asked::Answer { peer, feed: Err(error) }) => {
                debug!(%peer, %error, "a neighbour does not say who it is");
                self.not_answered(peer);
            }
            Ok(Asked::Told(told)) => trace!(?told, "told a neighbour who we are"),
            // The machine counts a question that was never answered as such.
            Err(error) => error!(%error, "a task of the swarm failed"),
        }
    }
}
