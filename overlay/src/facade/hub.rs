//! The task in which everything meets that comes in: links to shake hands on, discoveries, and the ends of
//! the tasks under it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, error};

use super::addresses::swarm_scope;
use super::admission::{Admission, NoPlace, Origin, Place};
use super::counters::{Counted, Counters, OK};
use super::{Event, Failure, Source};
use crate::address::{Address, Endpoint};
use crate::beacon::{self, Form};
use crate::clock::now;
use crate::conn::{
    self, Carrier, Connection, Direction, Gate, HandshakeError, Link, LinkInfo, Local, Refused,
};
use crate::keys::PublicKey;
use crate::swarm::{self, SessionStream};
use crate::{net, unix};

/// A link that somebody accepted for us.
pub(super) enum Incoming {
    Net(TcpStream, SocketAddr),
    Unix(UnixStream, PathBuf),
    Ws(Box<dyn Link>, SocketAddr),
}

/// What the hub shares with its handshakes.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) local: Local,
    pub(super) own: PublicKey,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) counters: Arc<Counters>,
}

/// The task.
pub(super) struct Hub {
    pub(super) context: Context,
    pub(super) admission: Admission,
    pub(super) incoming: mpsc::Receiver<Incoming>,
    pub(super) swarm: mpsc::Receiver<swarm::Event>,
    pub(super) lan: mpsc::Receiver<beacon::Output>,
    /// Listeners, beacons and swarm; each task's name.
    pub(super) services: JoinSet<&'static str>,
    pub(super) handshakes: JoinSet<()>,
}

impl Hub {
    /// Runs until shutdown. Services get the same token; handshakes are aborted.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                // First, so that services which end with us are not taken for broken ones.
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = self.handshakes.join_next() => shaken(done),
                Some(incoming) = self.incoming.recv() => self.on_incoming(incoming),
                Some(event) = self.swarm.recv() => self.on_swarm(event),
                Some(output) = self.lan.recv() => self.on_beacon(output),
                Some(ended) = self.services.join_next_with_id() => self.on_service(ended.map(|(_, name)| name)),
            }
        }
        self.handshakes.shutdown().await;
        while self.services.join_next().await.is_some() {}
    }

    fn on_incoming(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Net(stream, remote) => {
                let endpoint = Endpoint::Net { host: remote.ip().to_string(), port: remote.port() };
                let info = inbound(Carrier::Net, endpoint.to_string());
                self.shake_hands(info.clone(), Some(remote.ip()), |context| {
                    net::tune(&stream);
                    Counted::new(net::Prompt(stream), info.carrier, Arc::clone(&context.counters))
                });
            }
            Incoming::Unix(stream, path) => self.take_client(stream, &path),
            Incoming::Ws(stream, remote) => {
                let info = inbound(Carrier::Ws, format!("ws://{remote}"));
                self.shake_hands(info.clone(), Some(remote.ip()), |context| {
                    Counted::new(stream, info.carrier, Arc::clone(&context.counters))
                });
            }
        }
    }

    fn on_swarm(&mut self, event: swarm::Event) {
        match event {
            swarm::Event::Inbound { stream, carrier, remote, path, ip } => {
                self.shake_over_swarm(stream, LinkInfo { path: Some(path), ..inbound(carrier, remote) }, ip);
            }
            swarm::Event::Discovered { feed, at } => {
                self.context.counters.discovered(Source::Mdns);
                self.context.tell(Event::Discovered {
                    claimed: feed,
                    endpoint: Endpoint::Libp2p(at),
                    source: Source::Mdns,
                });
            }
            swarm::Event::Expired { feed, at } => self.context.tell(Event::Expired {
                claimed: feed,
                endpoint: Endpoint::Libp2p(at),
                source: Source::Mdns,
            }),
            swarm::Event::Listening { at, ip } if swarm_scope(ip, &at).is_some() => {
                let address = Address::new(Endpoint::Libp2p(at), self.context.own);
                self.context.tell(Event::Listening(address));
            }
            swarm::Event::Listening { at, .. } => debug!(at, "nobody could dial this address of ours"),
            swarm::Event::DirectPath { relayed, at } => {
                self.context.tell(Event::DirectPath { relayed, endpoint: Endpoint::Libp2p(at) });
            }
            swarm::Event::Moved(moved) => self.context.tell(Event::Moved(moved.into())),
            swarm::Event::Found(found) => self.context.tell(Event::Found(found)),
            swarm::Event::NotFound(feed) => self.context.tell(Event::NotFound(feed)),
            swarm::Event::Lookup(lookup) => self.context.tell(Event::Lookup(lookup)),
            swarm::Event::DhtChanged => self.context.tell(Event::DhtChanged),
            swarm::Event::ReachabilityChanged => self.context.tell(Event::ReachabilityChanged),
            swarm::Event::ListenerFailed { address, error } => {
                self.context.tell(Event::Failed(Failure::Listener { address, error }));
            }
        }
    }

    fn on_beacon(&self, output: beacon::Output) {
        let (beacon::Output::Discovered(entry) | beacon::Output::Expired(entry)) = &output;
        let claimed = entry.key;
        let endpoint = Endpoint::Net { host: entry.at.ip().to_string(), port: entry.at.port() };
        let source = match entry.form {
            Form::Plain => Source::Beacon,
            Form::Sealed => Source::BeaconEncrypted,
        };
        self.context.tell(match output {
            beacon::Output::Discovered(_) => {
                self.context.counters.discovered(source);
                Event::Discovered { claimed, endpoint, source }
            }
            beacon::Output::Expired(_) => Event::Expired { claimed, endpoint, source },
        });
    }

    fn on_service(&self, ended: Result<&'static str, JoinError>) {
        let name = ended.unwrap_or_else(|error| {
            error!(%error, "a task of the overlay failed");
            "panic"
        });
        self.context.tell(Event::Failed(Failure::Task(name)));
    }

    /// What the carrier moves is counted below it.
    fn shake_over_swarm(&mut self, stream: SessionStream, info: LinkInfo, ip: Option<IpAddr>) {
        match stream {
            SessionStream::Plain(stream) => self.shake_hands(info.clone(), ip, |context| {
                Counted::new(stream, info.carrier, Arc::clone(&context.counters))
            }),
            SessionStream::Carried(link, mobile) => {
                self.shake_hands(LinkInfo { mobile: Some(mobile), ..info }, ip, |_| link);
            }
        }
    }

    fn shake_hands<L: Link>(&mut self, info: LinkInfo, ip: Option<IpAddr>, link: impl FnOnce(&Context) -> L) {
        let span = info.span(None);
        let place = match self.admission.enter(ip.map_or(Origin::Anywhere, Origin::Ip), now()) {
            Ok(place) => place,
            Err(rule) => return span.in_scope(|| self.context.turn_away(&info, rule)),
        };
        let context = self.context.clone();
        let link = link(&context);
        self.handshakes.spawn(async move { context.accept(link, info, place).await }.instrument(span));
    }

    /// Clients of this machine's owner need no handshake, but the node's attention like others.
    fn take_client(&mut self, stream: UnixStream, path: &std::path::Path) {
        let info = unix::info(Direction::Inbound, path);
        let place = match self.admission.enter(Origin::Owner, now()) {
            Ok(place) => place,
            Err(rule) => return self.context.turn_away(&info, rule),
        };
        let context = self.context.clone();
        let link = Counted::new(stream, Carrier::Unix, Arc::clone(&context.counters));
        let connection = conn::noauth(link, info, context.own);
        self.handshakes.spawn(async move { context.hand_over(connection, Carrier::Unix, place).await });
    }
}

impl Context {
    /// A link is closed before its handshake.
    fn turn_away(&self, info: &LinkInfo, rule: NoPlace) {
        debug!(remote = info.remote, rule = rule.label(), "no place for another handshake");
        self.counters.turned_away(info.carrier, rule.label());
    }

    async fn accept<L: Link>(self, link: L, info: LinkInfo, place: Place) {
        let carrier = info.carrier;
        let witness = Arc::new(Witness { gate: Arc::clone(&self.local.gate), refused: Mutex::new(None) });
        let local = Local { gate: Arc::clone(&witness) as Arc<dyn Gate>, ..self.local.clone() };
        match conn::accept(link, info.clone(), &local).await {
            Ok(connection) => self.hand_over(connection, carrier, place).await,
            Err(error) => {
                self.counters.accept(carrier, error.label());
                self.tell(witness.explain(&error, info));
            }
        }
    }

    /// Waits for the node: while it is busy the place stays taken, and strangers wait outside.
    async fn hand_over(self, connection: Connection, carrier: Carrier, place: Place) {
        self.counters.accept(carrier, OK);
        let _ = self.events.send(Event::Connected(connection)).await;
        drop(place);
    }

    /// Tells the node what it can do without.
    pub(super) fn tell(&self, event: Event) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send(event) {
            self.counters.dropped_event();
        }
    }
}

/// A link that came in, by a path that is added where there is one.
fn inbound(carrier: Carrier, remote: String) -> LinkInfo {
    LinkInfo { direction: Direction::Inbound, carrier, remote, path: None, mobile: None }
}

fn shaken(done: Result<(), JoinError>) {
    if let Err(error) = done {
        error!(%error, "a handshake failed within us");
    }
}

/// Asks the gate, and remembers whom it refused.
struct Witness {
    gate: Arc<dyn Gate>,
    refused: Mutex<Option<(PublicKey, Refused)>>,
}

impl Gate for Witness {
    fn admit(&self, peer: PublicKey, link: &LinkInfo) -> Result<(), Refused> {
        let answer = self.gate.admit(peer, link);
        let refused = answer.err().map(|reason| (peer, reason));
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
        answer
    }
}

impl Witness {
    fn explain(&self, error: &HandshakeError, link: LinkInfo) -> Event {
        match *self.refused.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((peer, reason)) => Event::Refused { peer, link, reason },
            None => Event::HandshakeFailed { link, label: error.label() },
        }
    }
}
