//! AutoNAT v2: asking others to dial us back, and dialling others back.
//!
//! Our own, after the specification, because libp2p's client decides once and for ever and takes any
//! inbound connection for the proof of any address, and its server dials whatever it is told to, as often
//! as it is told to. Both ends here are tasks on streams that the streams behaviour opened; who may be
//! asked is decided by [`crate::reachability`], and whom we dial by [`judge`].
//!
//! A server is believed that it could not reach us. That it did is believed only if the number of the
//! question came in, over a connection that strangers can make, by the transport that was asked for.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use tokio::task::{JoinError, JoinSet};
use tracing::{debug, error};

use super::dial::{Dialled, Purpose};
use super::{EventLoop, SwarmDialError, SwarmStream, link, now};
use crate::reachability::{Answer, Input, Target};

mod judge;
mod tasks;
mod wire;

use judge::Judge;
use tasks::{Question, Said};
use wire::{DialStatus, ResponseStatus};

/// What a server may take for its answer: data received, its dial, and the dial-back.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);
/// Reading a short message and writing another.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams of both roles under way; one more is closed.
const MAX_TASKS: usize = 64;

/// What is under way.
pub(super) struct State {
    /// Our questions by their numbers.
    asked: BTreeMap<u64, Asked>,
    pub(super) tasks: JoinSet<Done>,
    judge: Judge<PeerId>,
    /// Whether we dial others back.
    serving: bool,
}

/// A question of ours.
struct Asked {
    id: ConnectionId,
    target: Target,
    /// It came back over such a connection; whether from where we had not sent to.
    back: Option<bool>,
}

/// A question that we answer.
pub(super) struct DialBack {
    question: Question,
    /// Which of its addresses is dialled.
    index: u32,
}

/// What a task did.
pub(super) enum Done {
    /// Of a question of ours: the server's answer.
    Answered { nonce: u64, said: io::Result<Said> },
    /// On a dial-back, this number came.
    CameBack { connection: ConnectionId, nonce: u64, stream: SwarmStream },
    /// Somebody asks to be dialled.
    Asked { connection: ConnectionId, question: Question },
    /// Nothing else to do.
    Finished,
}

impl State {
    pub(super) fn new() -> Self {
        Self { asked: BTreeMap::new(), tasks: JoinSet::new(), judge: Judge::default(), serving: false }
    }
}

impl EventLoop {
    /// Whether we dial others back from now on: only who can be reached by everybody may find that
    /// somebody cannot.
    pub(super) fn serve_autonat(&mut self, serving: bool) {
        self.autonat.serving = serving;
        self.swarm.behaviour_mut().streams.set_dialling_back(serving);
    }

    /// Asks the server at the other end of a connection.
    pub(super) fn probe(&mut self, id: ConnectionId, target: Target) {
        let nonce = random_number();
        self.autonat.asked.insert(nonce, Asked { id, target, back: None });
        self.open_on(id, Purpose::Probe(nonce));
    }

    /// The stream for our question stands.
    pub(super) fn ask_server(&mut self, nonce: u64, stream: SwarmStream) {
        let Some(asked) = self.autonat.asked.get(&nonce) else { return };
        if self.autonat.tasks.len() >= MAX_TASKS {
            return self.probe_failed(nonce);
        }
        let address = link::multiaddr(asked.target);
        self.autonat.tasks.spawn(async move {
            let said = tokio::time::timeout(ANSWER_TIMEOUT, tasks::ask(stream, &address, nonce)).await;
            Done::Answered { nonce, said: said.map_err(io::Error::from).flatten() }
        });
    }

    /// There is no answer to our question.
    pub(super) fn probe_failed(&mut self, nonce: u64) {
        self.answered(nonce, Answer::Silent);
    }

    fn answered(&mut self, nonce: u64, answer: Answer) {
        let Some(Asked { id, target, .. }) = self.autonat.asked.remove(&nonce) else { return };
        debug!(%target, ?answer, "a server was asked to dial us");
        self.reach.handle(now(), Input::Probed { id, target, answer });
    }

    fn server_said(&mut self, nonce: u64, said: io::Result<Said>) {
        let back = self.autonat.asked.get(&nonce).and_then(|asked| asked.back);
        let answer = match (said, back) {
            // It came in: whatever the server says of it.
            (_, Some(independent)) => Answer::Reached { independent },
            (Ok(Said::Reached), None) => Answer::Lied,
            (Ok(Said::NotReached), None) => Answer::NotReached,
            (Ok(Said::Refused), None) => Answer::Refused,
            (Err(error), None) => {
                debug!(%error, "no answer of a server that was asked to dial us");
                Answer::Silent
            }
        };
        self.answered(nonce, answer);
    }

    /// Somebody opened a stream of one of both protocols.
    pub(super) fn autonat_inbound(&mut self, connection: ConnectionId, request: bool, stream: SwarmStream) {
        if self.autonat.tasks.len() >= MAX_TASKS {
            return;
        }
        self.autonat.tasks.spawn(async move {
            let read = async {
                if request {
                    let question = tasks::read_question(stream).await?;
                    return Ok(Done::Asked { connection, question });
                }
                let (nonce, stream) = tasks::read_nonce(stream).await?;
                Ok(Done::CameBack { connection, nonce, stream })
            };
            finished(tokio::time::timeout(MESSAGE_TIMEOUT, read).await.map_err(io::Error::from).flatten())
        });
    }

    pub(super) fn on_autonat(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(Done::Answered { nonce, said }) => self.server_said(nonce, said),
            Ok(Done::CameBack { connection, nonce, stream }) => self.came_back(connection, nonce, stream),
            Ok(Done::Asked { connection, question }) => self.dial_back(connection, question),
            Ok(Done::Finished) => {}
            // The machine counts a question that was never answered as such.
            Err(error) => error!(%error, "a task of the swarm failed"),
        }
    }

    /// A number came back. Over a relay, from a local network, or to another transport it says nothing.
    fn came_back(&mut self, connection: ConnectionId, nonce: u64, stream: SwarmStream) {
        let Some(live) = self.live.get(&connection) else { return };
        let Some(asked) = self.autonat.asked.get_mut(&nonce) else { return };
        let Some(remote) = link::target(&live.remote) else { return };
        let same_way = remote.transport == asked.target.transport
            && remote.at.is_ipv4() == asked.target.at.is_ipv4()
            && live.local.is_none_or(|at| at.ip().is_unspecified() || is_same_socket(at, asked.target));
        if live.dialled || !same_way || !self.setup.policy.is_global(remote.at.ip()) {
            debug!(%connection, "a dial-back over the wrong connection");
            return;
        }
        asked.back = Some(self.reach.is_independent(connection));
        self.autonat.tasks.spawn(async move {
            let written = tokio::time::timeout(MESSAGE_TIMEOUT, tasks::confirm(stream)).await;
            finished(written.map_err(io::Error::from).flatten().map(|()| Done::Finished))
        });
    }

    /// Dials somebody who asked for it, or says no.
    fn dial_back(&mut self, connection: ConnectionId, question: Question) {
        let Some(live) = self.live.get(&connection) else { return };
        let (peer, from) = (live.peer, live.ip.filter(|_| !link::is_relayed(&live.remote)));
        let links = self.swarm.behaviour().streams.neighbourhood();
        let policy = self.setup.policy;
        let is_far = |at: &Target| policy.is_global(at.at.ip()) && !policy.is_near(at.at.ip(), links);
        let targets = question.addresses.iter().map(|at| at.as_ref().and_then(link::target));
        let mut wanted = targets.enumerate().filter_map(|(index, target)| Some((index, target?)));
        let wanted = wanted.find(|(_, target)| Some(target.at.ip()) == from && is_far(target));
        let (Some((index, target)), true) = (wanted, self.autonat.serving) else {
            return self.answer_question(question, ResponseStatus::EDialRefused, 0, DialStatus::Unused);
        };
        if let Err(refusal) = self.autonat.judge.admit(now(), peer, target.at.ip()) {
            debug!(%peer, ?refusal, "not dialled back");
            return self.answer_question(question, ResponseStatus::ERequestRejected, 0, DialStatus::Unused);
        }
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(vec![link::multiaddr(target)])
            // From a port that the other side's NAT has not seen yet.
            .allocate_new_port()
            .build();
        let dial = options.connection_id();
        // At most as many as there are addresses in a message.
        let dial_back = DialBack { question, index: u32::try_from(index).unwrap_or(u32::MAX) };
        let purpose = Purpose::DialBack(dial_back);
        match self.swarm.dial(options) {
            Ok(()) => drop(
                self.dialling
                    .insert(dial, Dialled { purposes: vec![purpose], at: Vec::new(), fallback: None }),
            ),
            Err(error) => self.fail(purpose, super::dial::dial_error(&error)),
        }
    }

    /// The stream for the number that we bring back stands.
    pub(super) fn bring_back(&mut self, dial_back: DialBack, stream: SwarmStream) {
        let DialBack { question, index } = dial_back;
        self.autonat.tasks.spawn(async move {
            let bring = tasks::bring(stream, question.nonce);
            let brought = tokio::time::timeout(MESSAGE_TIMEOUT, bring).await;
            let status = match brought.map_err(io::Error::from).flatten() {
                Ok(()) => DialStatus::Ok,
                Err(_) => DialStatus::EDialBackError,
            };
            let answer = tasks::answer(question.stream, ResponseStatus::Ok, index, status);
            let answered = tokio::time::timeout(MESSAGE_TIMEOUT, answer).await;
            finished(answered.map_err(io::Error::from).flatten().map(|()| Done::Finished))
        });
    }

    /// The dial, or the stream on it, failed. What is due to our own limits says nothing of the peer.
    pub(super) fn dial_back_failed(&mut self, dial_back: DialBack, error: &SwarmDialError) {
        let DialBack { question, index } = dial_back;
        let (status, dial) = match error {
            SwarmDialError::Connect { .. } | SwarmDialError::WrongPeer | SwarmDialError::Ourselves => {
                (ResponseStatus::Ok, DialStatus::EDialError)
            }
            SwarmDialError::Unsupported | SwarmDialError::Lost => {
                (ResponseStatus::Ok, DialStatus::EDialBackError)
            }
            SwarmDialError::BadAddress | SwarmDialError::Busy | SwarmDialError::Stopped => {
                (ResponseStatus::EDialRefused, DialStatus::Unused)
            }
        };
        self.answer_question(question, status, index, dial);
    }

    fn answer_question(&mut self, question: Question, status: ResponseStatus, index: u32, dial: DialStatus) {
        self.autonat.tasks.spawn(async move {
            let answer = tasks::answer(question.stream, status, index, dial);
            let answered = tokio::time::timeout(MESSAGE_TIMEOUT, answer).await;
            finished(answered.map_err(io::Error::from).flatten().map(|()| Done::Finished))
        });
    }
}

fn finished(done: io::Result<Done>) -> Done {
    done.unwrap_or_else(|error| {
        debug!(%error, "an AutoNAT stream failed");
        Done::Finished
    })
}

/// Behind a NAT, the socket has another address than the one asked for; without, it is that one.
fn is_same_socket(local: std::net::SocketAddr, target: Target) -> bool {
    let ours = crate::reachability::scope(local.ip()) == Some(crate::reachability::Scope::Public);
    !ours || local == target.at
}

/// A number that nobody can guess. libp2p draws peer ids from the system's source, and its generator is
/// the one that is at hand here.
fn random_number() -> u64 {
    let bytes = PeerId::random().to_bytes();
    bytes.iter().rev().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests;
