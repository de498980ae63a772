//! From a relayed connection to a direct one: the shell around [`machine`], which says who dials when.
//!
//! The messages travel on a stream of the relayed connection; each exchange is a task of its own. Nothing a
//! peer says makes us dial more than [`wire::MAX_ADDRESSES`] addresses, and none in our own networks unless
//! it comes from the same public address as we do.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use libp2p::core::ConnectedPoint;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};
use tokio::task::JoinError;
use tracing::{debug, error, trace};

use super::delimited::invalid;
use super::dial::Purpose;
use super::{Event, EventLoop, SwarmStream, link, now};
use crate::conn::PathId;
use crate::reachability::{Target, Transport};

pub(super) mod machine;
pub(super) mod wire;

use machine::{EXCHANGE_TIMEOUT, How, Input, MAX_UPGRADES, Output, Targets};

/// Where an exchange has come to.
#[derive(Debug)]
pub(super) enum Exchanged {
    /// The peer has sent CONNECT, and waits for ours on the stream.
    Asked { connection: ConnectionId, question: Question },
    /// Our CONNECT was answered, and SYNC sent if the peer waits for it.
    Answered { connection: ConnectionId, ours: Vec<Multiaddr>, theirs: Vec<Multiaddr>, dials_in: Duration },
    /// The peer has sent SYNC, or will need none.
    Synced { connection: ConnectionId, ours: Vec<Multiaddr>, theirs: Vec<Multiaddr>, dials_in: Duration },
    /// It broke off.
    Failed { connection: ConnectionId, error: io::Error },
}

/// A CONNECT that waits to be answered.
#[derive(Debug)]
pub(super) struct Question {
    stream: SwarmStream,
    theirs: Vec<Multiaddr>,
    prompt: bool,
    /// May be answered, but not before the round trip is known.
    waits: bool,
}

impl EventLoop {
    /// The node allows an upgrade.
    pub(super) fn seek_direct(&mut self, relayed: PathId) {
        let found = self.live.keys().find(|connection| link::path_id(**connection) == relayed);
        if let Some(connection) = found.copied() {
            self.upgrades.handle(now(), Input::Allowed { connection });
        }
    }

    pub(super) fn upgrade_connected(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        endpoint: &ConnectedPoint,
    ) {
        let input = if endpoint.is_relayed() {
            let asks = endpoint.is_dialer() && self.direct;
            Input::Relayed { connection, peer, asks }
        } else {
            Input::Direct { connection, peer }
        };
        self.upgrades.handle(now(), input);
    }

    pub(super) fn upgrade_closed(&mut self, connection: ConnectionId, peer: PeerId) {
        self.questions.remove(&connection);
        self.upgrades.handle(now(), Input::Closed { connection, peer });
    }

    /// Does what the machine wants done.
    pub(super) fn upgrade(&mut self) {
        while let Some(output) = self.upgrades.poll_output() {
            match output {
                Output::Ask { connection } => self.open_on(connection, Purpose::Upgrade(connection)),
                Output::Answer { connection } => self.answer_connect(connection),
                Output::Dial { peer, at, how } => self.punch(peer, at, how),
                Output::Found { relayed, direct } => {
                    let Some(live) = self.live.get(&direct) else { continue };
                    let at = link::with_peer(&live.remote, live.peer);
                    debug!(at, "a direct path beside a relayed one");
                    if self.carriers.runs_on(relayed) {
                        // It moves by itself.
                        continue;
                    }
                    self.emit(Event::DirectPath { relayed: link::path_id(relayed), at });
                }
            }
        }
    }

    /// Whether we are at other addresses than when this was asked last; then what failed may work now.
    /// Ports do not count: behind some NATs they change with every connection.
    pub(super) fn notice_move(&mut self) {
        let lan = self.reach.lan_candidates().into_iter().map(|(_, at)| at.ip());
        let ips: BTreeSet<_> = self.reach.public_ips().into_iter().chain(lan).collect();
        if ips != self.own_ips {
            self.own_ips = ips;
            self.upgrades.handle(now(), Input::Moved);
            self.dht_moved();
            self.carriers_moved();
        }
    }

    /// Our stream for an exchange stands: tell and ask.
    pub(super) fn send_question(&mut self, connection: ConnectionId, mut stream: SwarmStream) {
        let ours = self.public_candidates();
        self.spawn_exchange(connection, async move {
            let asked = now();
            write_connect(&mut stream, &ours, true).await?;
            let (theirs, prompt) = expect_connect(&mut stream).await?;
            let dials_in = if prompt {
                Duration::ZERO
            } else {
                let round_trip = now().saturating_duration_since(asked);
                wire::write(&mut stream, &wire::Message::Sync).await?;
                round_trip / 2
            };
            Ok(Exchanged::Answered { connection, ours, theirs, dials_in })
        });
    }

    /// A peer opened a stream for an exchange.
    pub(super) fn read_question(&mut self, connection: ConnectionId, mut stream: SwarmStream) {
        self.spawn_exchange(connection, async move {
            let (theirs, prompt) = expect_connect(&mut stream).await?;
            Ok(Exchanged::Asked { connection, question: Question { stream, theirs, prompt, waits: false } })
        });
    }

    /// A ping has shown how long the way is; perhaps an answer waits for that.
    pub(super) fn upgrade_measured(&mut self, connection: ConnectionId) {
        if self.questions.get(&connection).is_some_and(|question| question.waits) {
            self.answer_connect(connection);
        }
    }

    /// With a peer that can do without SYNC, the round trip must be known: the first ping has left when the
    /// connection stood.
    fn answer_connect(&mut self, connection: ConnectionId) {
        let round_trip = self.live.get(&connection).and_then(|live| live.round_trip);
        let Some(mut question) = self.questions.remove(&connection) else { return };
        if question.prompt && round_trip.is_none() {
            question.waits = true;
            self.questions.insert(connection, question);
            return;
        }
        let Question { mut stream, theirs, prompt, .. } = question;
        let mut ours = self.public_candidates();
        if self.shares_our_address(&theirs) {
            ours.extend(self.near_candidates());
        }
        let round_trip = round_trip.filter(|_| prompt);
        self.spawn_exchange(connection, async move {
            write_connect(&mut stream, &ours, round_trip.is_some()).await?;
            if let Some(round_trip) = round_trip {
                return Ok(Exchanged::Synced { connection, ours, theirs, dials_in: round_trip / 2 });
            }
            match wire::read(&mut stream).await? {
                wire::Message::Sync => {
                    Ok(Exchanged::Synced { connection, ours, theirs, dials_in: Duration::ZERO })
                }
                wire::Message::Connect { .. } => Err(invalid("CONNECT instead of SYNC")),
            }
        });
    }

    fn spawn_exchange(
        &mut self,
        connection: ConnectionId,
        exchange: impl Future<Output = io::Result<Exchanged>> + Send + 'static,
    ) {
        if self.exchanges.len() >= MAX_UPGRADES {
            return self.upgrade_failed(connection);
        }
        self.exchanges.spawn(async move {
            let in_time = tokio::time::timeout(EXCHANGE_TIMEOUT, exchange).await;
            in_time
                .map_err(io::Error::from)
                .flatten()
                .unwrap_or_else(|error| Exchanged::Failed { connection, error })
        });
    }

    pub(super) fn upgrade_failed(&mut self, connection: ConnectionId) {
        self.upgrades.handle(now(), Input::Failed { connection });
    }

    pub(super) fn on_exchanged(&mut self, exchanged: Result<Exchanged, JoinError>) {
        match exchanged {
            Ok(Exchanged::Asked { connection, question }) => {
                if self.live.contains_key(&connection) {
                    self.questions.insert(connection, question);
                    self.upgrades.handle(now(), Input::Asked { connection });
                }
            }
            Ok(Exchanged::Answered { connection, ours, theirs, dials_in }) => {
                trace!(?ours, ?theirs, ?dials_in, "addresses exchanged");
                let near = self.dialable_near(&theirs);
                let targets = Targets::of(self.dialable(theirs), &ours);
                let answered = Input::Answered { connection, targets, near, dials_in };
                self.upgrades.handle(now(), answered);
            }
            Ok(Exchanged::Synced { connection, ours, theirs, dials_in }) => {
                trace!(?ours, ?theirs, ?dials_in, "addresses exchanged");
                let targets = Targets::of(self.dialable(theirs), &ours);
                self.upgrades.handle(now(), Input::Synced { connection, targets, dials_in });
            }
            Ok(Exchanged::Failed { connection, error }) => {
                debug!(%connection, %error, "no exchange of addresses");
                self.upgrade_failed(connection);
            }
            // The machine counts an exchange that never ended as failed.
            Err(error) => error!(%error, "a task of the swarm failed"),
        }
    }

    /// What a peer may make us dial: public addresses of our transports.
    fn dialable(&self, theirs: Vec<Multiaddr>) -> Vec<Multiaddr> {
        let own = self.own_id();
        let mut dialable: Vec<Multiaddr> = Vec::new();
        for (at, peer) in theirs.into_iter().map(link::split_peer) {
            let wanted = link::target(&at).is_some() && link::is_public(&at) && peer != Some(own);
            if wanted && !dialable.contains(&at) {
                dialable.push(at);
            }
        }
        dialable
    }

    /// Addresses in local networks, of a peer that seems to be in ours.
    fn dialable_near(&self, theirs: &[Multiaddr]) -> Vec<Multiaddr> {
        if !self.shares_our_address(theirs) {
            return Vec::new();
        }
        let near = |at: &&Multiaddr| link::target(at).is_some() && link::is_local(at);
        theirs.iter().filter(near).cloned().collect()
    }

    /// Where we tell others to dial us: the newest that we know.
    fn public_candidates(&self) -> Vec<Multiaddr> {
        multiaddrs(self.reach.candidates())
    }

    /// The same for those in our own LAN.
    fn near_candidates(&self) -> Vec<Multiaddr> {
        multiaddrs(self.reach.lan_candidates())
    }

    /// Whether a peer seems to stand behind the same NAT as we do.
    fn shares_our_address(&self, theirs: &[Multiaddr]) -> bool {
        let ours = self.reach.public_ips();
        theirs.iter().filter_map(link::ip).any(|ip| ours.contains(&ip))
    }

    /// Dials one peer at all of these addresses at once; whoever answers first is taken, the others are
    /// dropped. Whether it worked shows in the connection that stands.
    fn punch(&mut self, peer: PeerId, at: Vec<Multiaddr>, how: How) {
        let at: Vec<_> = at.into_iter().filter_map(|at| at.with_p2p(peer).ok()).collect();
        let options = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(at);
        let options = match how {
            How::Ordinary => options.build(),
            How::AsListener => options.override_role().build(),
            How::NewPort => options.allocate_new_port().build(),
        };
        if let Err(error) = self.swarm.dial(options) {
            debug!(%peer, %error, "cannot punch");
        }
    }
}

fn multiaddrs(candidates: Vec<(Transport, SocketAddr)>) -> Vec<Multiaddr> {
    candidates.into_iter().map(|(transport, at)| link::multiaddr(Target { transport, at })).collect()
}

async fn write_connect(stream: &mut SwarmStream, ours: &[Multiaddr], prompt: bool) -> io::Result<()> {
    wire::write(stream, &wire::Message::Connect { addresses: ours.to_vec(), prompt }).await
}

/// The peer's addresses, and whether it can do without SYNC.
async fn expect_connect(stream: &mut SwarmStream) -> io::Result<(Vec<Multiaddr>, bool)> {
    match wire::read(stream).await? {
        wire::Message::Connect { addresses, prompt } => Ok((addresses, prompt)),
        wire::Message::Sync => Err(invalid("SYNC instead of CONNECT")),
    }
}
