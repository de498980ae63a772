//! The shell of [`crate::kad`] and [`crate::rendezvous`]: carries their questions and answers on streams,
//! and tells them what the swarm sees.
//!
//! A question goes over a direct connection that stands, or a new one; at most [`MAX_ASKS_PER_NODE`] to one
//! node at a time, because in a small network all go to the same. Others are answered on two protocols: that
//! of the DHT, offered while we serve it, and `/ssb/peers/1`, on which whoever is connected learns of a few
//! nodes to begin with.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId, StreamProtocol, identify};
use ssb_crypto::secretbox::Key;
use tokio::sync::watch;
use tokio::task::JoinError;
use tracing::{debug, error, trace};

use super::connections::Live;
use super::dial::Purpose;
use super::streams::Protocol;
use super::{DhtConfig, DhtService, Event, EventLoop, Setup, SwarmStream, link, now, unix};
use crate::address::Endpoint;
use crate::conn::TransportId;
use crate::facade::{Found, OK};
use crate::kad::{
    Ask, AskId, Asker, Contact, Dht, DhtReport, Input, LookupId, MAX_ADDRESSES, NodeId, Output, Request,
    Response,
};
use crate::keys::PublicKey;
use crate::reachability::{AddressState, Nat, Transport, Verdict};
use crate::rendezvous::{self, Friend, Met, Now, Place, Rendezvous};

mod talk;
mod wire;

pub(super) use talk::Talked;

/// Questions to one node at a time: it takes eight streams of a connection, and sessions are among them.
const MAX_ASKS_PER_NODE: usize = 4;
/// Questions for which a connection is being made.
const MAX_DIALLING: usize = 24;
/// How long a question may wait for its connection.
const ASK_PATIENCE: Duration = Duration::from_secs(3);
/// How long it is remembered when a lookup began: longer than any lasts.
const SOUGHT: Duration = Duration::from_secs(150);
/// Questions of others under way.
const MAX_SERVING: usize = 256;
/// Neighbours that are asked for nodes at a time.
const MAX_NEIGHBOURS: usize = 4;
/// With fewer nodes than this in the table, whoever is connected is asked for some.
const FEW_NODES: usize = 8;
/// While no node is known, those to begin with are tried again after this, and then more rarely.
const FIRST_RETRY: Duration = Duration::from_secs(10);
const LAST_RETRY: Duration = Duration::from_secs(600);
/// Nodes to begin with that are kept.
const MAX_NODES: usize = 256;

/// What the handle shows of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) report: DhtReport,
    /// Nodes worth remembering, as multiaddrs.
    pub(super) nodes: Vec<String>,
    /// Where strangers can reach us.
    pub(super) public: Vec<String>,
}

/// Our part in the DHT.
pub(super) struct State {
    machine: Dht,
    rendezvous: Rendezvous,
    service: DhtService,
    /// Questions on their way, and to whom.
    asks: BTreeMap<AskId, Asked>,
    /// Questions that wait for a place.
    waiting: VecDeque<(Instant, Ask)>,
    /// Neighbours being asked for nodes.
    neighbours: usize,
    /// Where to begin.
    nodes: Vec<Multiaddr>,
    retry_at: Instant,
    retry_pause: Duration,
    /// Lookups of records: since when, and how many nodes were asked.
    sought: BTreeMap<LookupId, (Instant, usize)>,
    place: Place,
    serving: bool,
    shown: watch::Sender<Shown>,
}

/// A question on its way.
struct Asked {
    node: PeerId,
    request: Request,
    /// Since when a connection is being made for it.
    dialling: Option<Instant>,
}

impl State {
    /// `None` without a part in it. `node` is our transport identity.
    pub(super) fn new(
        node: PeerId,
        config: &DhtConfig,
        setup: &Setup,
        shown: watch::Sender<Shown>,
    ) -> Option<Self> {
        if config.service == DhtService::Off {
            return None;
        }
        // Another one in each run: what follows from it is to be foreseen by nobody.
        let seed = Key::generate().0;
        let [a, b, c, d, e, f, g, h, ..] = seed;
        let machine = Dht::new(
            NodeId::new(&node.to_bytes()),
            u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            rendezvous::validate,
        );
        let transport = TransportId(node.to_base58());
        let rendezvous =
            Rendezvous::new(Arc::clone(&setup.keypair), setup.network, transport, config.rendezvous, seed);
        let nodes = config.nodes.iter().filter_map(|text| node_address(text)).take(MAX_NODES).collect();
        Some(Self {
            machine,
            rendezvous,
            service: config.service,
            asks: BTreeMap::new(),
            waiting: VecDeque::new(),
            neighbours: 0,
            nodes,
            retry_at: now(),
            retry_pause: FIRST_RETRY,
            sought: BTreeMap::new(),
            place: Place::default(),
            serving: false,
            shown,
        })
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.machine.poll_timeout(), self.rendezvous.poll_timeout()].into_iter().flatten().min()
    }

    pub(super) fn handle_timeout(&mut self) {
        self.machine.handle_timeout(now(), unix());
        self.rendezvous.handle_timeout(both());
    }

    fn handle(&mut self, input: Input) {
        self.machine.handle(now(), unix(), input);
    }

    fn rendezvous(&mut self, input: rendezvous::Input) {
        self.rendezvous.handle(both(), input);
    }

    fn is_busy(&self, node: PeerId) -> bool {
        let mut asks = self.asks.values();
        asks.by_ref().filter(|asked| asked.node == node).count() >= MAX_ASKS_PER_NODE
    }

    /// Tells others when something has changed; returns whether.
    fn show(&self, public: Vec<String>, own: &PeerId) -> bool {
        let nodes = self.machine.to_save();
        let nodes = nodes.iter().flat_map(|contact| addresses(contact, own)).collect();
        let report = self.machine.report();
        let now = Shown { report, nodes, public };
        self.shown.send_if_modified(|shown| {
            let changed = *shown != now;
            *shown = now;
            changed
        })
    }
}

fn both() -> Now {
    Now { instant: now(), unix: unix() }
}

/// A multiaddr with a peer to begin with, by a transport that we have.
fn node_address(text: &str) -> Option<Multiaddr> {
    let at: Multiaddr = text.parse().ok()?;
    let (bare, peer) = link::split_peer(at.clone());
    (peer.is_some() && link::transport(&bare).is_some()).then_some(at)
}

/// One address of each node, to be remembered.
fn addresses(contact: &Contact, own: &PeerId) -> Option<String> {
    let peer = PeerId::from_bytes(contact.node.bytes()).ok().filter(|peer| peer != own)?;
    contact.at.first().map(|target| link::with_peer(&link::multiaddr(*target), peer))
}

impl EventLoop {
    pub(super) fn set_friends(&mut self, friends: BTreeMap<PublicKey, Friend>) {
        if let Some(dht) = &mut self.dht {
            dht.rendezvous(rendezvous::Input::Friends(friends));
        }
    }

    pub(super) fn add_dht_nodes(&mut self, at: &[String]) {
        let Some(dht) = &mut self.dht else { return };
        for at in at.iter().filter_map(|text| node_address(text)) {
            if let Some(contact) = contact_at(&at) {
                dht.handle(Input::Candidate(contact));
            }
            if dht.nodes.len() < MAX_NODES && !dht.nodes.contains(&at) {
                dht.nodes.push(at);
            }
        }
    }

    /// A peer has said what it speaks and where others reach it. Whoever came to us is believed only of the
    /// host that it came from: else anybody could have us dial anyone.
    pub(super) fn dht_identified(&mut self, connection: ConnectionId, info: &identify::Info) {
        let (Some(dht), Some(live)) = (&mut self.dht, self.live.get(&connection)) else { return };
        let Some(name) = self.swarm.behaviour().streams.kad() else { return };
        let speaks = |protocol: Protocol| {
            info.protocols.iter().any(|spoken: &StreamProtocol| spoken.as_ref() == protocol.name())
        };
        if speaks(Protocol::Kad(name)) {
            let own_word = info.listen_addrs.iter().filter(|at| live.ip.is_none() || link::ip(at) == live.ip);
            let seen = live.dialled.then_some(&live.remote);
            let at = seen.into_iter().chain(own_word).filter_map(link::target);
            let contact = contact(live.peer, at);
            dht.handle(Input::Candidate(contact));
        } else if speaks(Protocol::Peers)
            && dht.machine.report().nodes < FEW_NODES
            && dht.neighbours < MAX_NEIGHBOURS
        {
            dht.neighbours += 1;
            self.open_on(connection, Purpose::Neighbour);
        }
    }

    /// We are somewhere else now.
    pub(super) fn dht_moved(&mut self) {
        if let Some(dht) = &mut self.dht {
            dht.handle(Input::NetworkChanged);
            dht.retry_at = now();
            dht.retry_pause = FIRST_RETRY;
        }
    }

    /// What follows from how others reach us.
    pub(super) fn update_dht_serving(&mut self, verdict: Verdict, own_address_is_public: bool) {
        let Some(dht) = &mut self.dht else { return };
        let serving = match dht.service {
            DhtService::Auto => verdict == Verdict::Public && own_address_is_public,
            DhtService::Always => true,
            DhtService::Client | DhtService::Off => false,
        };
        if std::mem::replace(&mut dht.serving, serving) != serving {
            debug!(serving, "answering for the DHT");
            dht.handle(Input::Serving(serving));
            self.swarm.behaviour().streams.set_serving_dht(serving);
        }
    }

    /// Now and then: what has changed without an event of its own.
    pub(super) fn on_dht_tick(&mut self) {
        let place = self.place();
        let own = self.own_id();
        let Some(dht) = &mut self.dht else { return };
        if dht.place != place {
            dht.place = place.clone();
            dht.rendezvous(rendezvous::Input::Place(place));
        }
        let public = dht.place.direct.iter().chain(&dht.place.circuits).cloned().collect();
        if dht.show(public, &own) {
            self.emit(Event::DhtChanged);
        }
        self.give_up_asking();
        self.begin_again();
    }

    /// What waits for longer than the machine does is of no use.
    fn give_up_asking(&mut self) {
        let Some(dht) = &mut self.dht else { return };
        let old = |since: Instant| now().saturating_duration_since(since) >= ASK_PATIENCE;
        let dialled = dht.asks.iter().filter(|(_, asked)| asked.dialling.is_some_and(old)).map(|(id, _)| *id);
        let waiting = dht.waiting.iter().filter(|(since, _)| old(*since)).map(|(_, ask)| ask.id);
        let given_up: Vec<_> = dialled.chain(waiting).collect();
        dht.waiting.retain(|(since, _)| !old(*since));
        dht.sought.retain(|_, (since, _)| now().saturating_duration_since(*since) < SOUGHT);
        for id in given_up {
            self.ask_failed(id);
        }
    }

    /// While nobody is known, tries those that one begins with.
    fn begin_again(&mut self) {
        let Some(dht) = &mut self.dht else { return };
        if dht.machine.report().nodes > 0 {
            dht.retry_pause = FIRST_RETRY;
            return;
        }
        if dht.nodes.is_empty() || now() < dht.retry_at {
            return;
        }
        dht.retry_at = now() + dht.retry_pause;
        dht.retry_pause = (2 * dht.retry_pause).min(LAST_RETRY);
        let mut named = Vec::new();
        for at in &dht.nodes.clone() {
            match contact_at(at) {
                Some(contact) => dht.handle(Input::Candidate(contact)),
                None => named.push(at.clone()),
            }
        }
        // Behind a name is an address that only a connection shows.
        for at in named {
            self.dial(vec![at], Purpose::Meet);
        }
    }

    fn place(&self) -> Place {
        let own = self.own_id();
        let report = self.report.borrow();
        let reachable = report.addresses.iter().filter(|(_, state)| *state == AddressState::Reachable);
        let direct = reachable.filter_map(|(at, _)| Some(link::with_peer(&at.parse().ok()?, own)));
        let nat = if report.v4.udp == Nat::Unknown { report.v6.udp } else { report.v4.udp };
        Place { circuits: self.relays.reserved().to_vec(), direct: direct.collect(), nat }
    }

    pub(super) fn on_dht_timeout(&mut self) {
        if let Some(dht) = &mut self.dht {
            dht.handle_timeout();
        }
    }

    /// Does what the machines want.
    pub(super) fn pursue_dht(&mut self) {
        while let Some(dht) = &mut self.dht {
            if let Some(output) = dht.machine.poll_output() {
                self.on_dht_output(output);
            } else if let Some(output) = dht.rendezvous.poll_output() {
                self.on_rendezvous(output);
            } else {
                break;
            }
        }
        self.ask_waiting();
    }

    fn on_dht_output(&mut self, output: Output) {
        let Some(dht) = &mut self.dht else { return };
        match output {
            Output::Ask(ask) => dht.waiting.push_back((now(), ask)),
            Output::Found { lookup, value } => {
                dht.rendezvous(rendezvous::Input::Found { lookup, value });
            }
            Output::Ended(ended) => {
                if let Some((_, asked)) = dht.sought.get_mut(&ended.lookup) {
                    *asked = ended.summary.asked;
                }
                let (lookup, success) = (ended.lookup, ended.success);
                dht.rendezvous(rendezvous::Input::Ended { lookup, success });
            }
            Output::Lookup(lookup) => self.emit(Event::Lookup(lookup)),
            Output::Changed => {
                let ready = dht.machine.report().healthy;
                dht.rendezvous(rendezvous::Input::Ready(ready));
            }
        }
    }

    fn on_rendezvous(&mut self, output: rendezvous::Output) {
        let Some(dht) = &mut self.dht else { return };
        match output {
            rendezvous::Output::Publish { lookup, key, value } => {
                dht.handle(Input::Put { lookup, record: crate::kad::Record { key, value } });
            }
            rendezvous::Output::Seek { lookup, key } => {
                dht.sought.insert(lookup, (now(), 0));
                dht.handle(Input::Get { lookup, key });
            }
            rendezvous::Output::Cancel(lookup) => {
                dht.sought.remove(&lookup);
                dht.handle(Input::Cancel(lookup));
            }
            rendezvous::Output::Met(met) => self.on_met(met),
            rendezvous::Output::Expired { feed } => self.emit(Event::NotFound(feed)),
        }
    }

    fn on_met(&self, met: Met) {
        let Some(dht) = &self.dht else { return };
        let (since, asked) = dht.sought.get(&met.lookup).copied().unwrap_or((now(), 0));
        self.emit(Event::Found(Found {
            feed: met.feed,
            peer: met.peer,
            endpoints: met.addresses.into_iter().map(Endpoint::Libp2p).collect(),
            nat: met.nat,
            age: met.age,
            took: now().saturating_duration_since(since),
            asked,
        }));
    }

    /// Asks what waits for a place.
    fn ask_waiting(&mut self) {
        let Some(dht) = &mut self.dht else { return };
        for (since, ask) in std::mem::take(&mut dht.waiting) {
            self.ask_node(since, ask);
        }
    }

    fn ask_node(&mut self, since: Instant, ask: Ask) {
        let Some(dht) = &mut self.dht else { return };
        let Ok(node) = PeerId::from_bytes(ask.to.node.bytes()) else {
            return dht.handle(Input::Failed(ask.id));
        };
        let dialled: BTreeSet<_> =
            dht.asks.values().filter(|asked| asked.dialling.is_some()).map(|asked| asked.node).collect();
        let is_room = dialled.len() < MAX_DIALLING || dialled.contains(&node);
        let standing = self.standing_for(node, &ask);
        let Some(dht) = &mut self.dht else { return };
        if dht.is_busy(node) || (standing.is_none() && !is_room) {
            dht.waiting.push_back((since, ask));
            return;
        }
        let dialling = standing.is_none().then(now);
        let asked = Asked { node, request: ask.request, dialling };
        dht.asks.insert(ask.id, asked);
        match standing {
            Some(connection) => self.open_on(connection, Purpose::Ask(ask.id)),
            None => self.dial(self.node_addresses(node, &ask.to), Purpose::Ask(ask.id)),
        }
    }

    /// A connection to be asked on: made by us if it is to show where the node is.
    fn standing_for(&self, node: PeerId, ask: &Ask) -> Option<ConnectionId> {
        let is_good = |live: &Live| {
            let there = || ask.to.at.iter().any(|target| Some(target.at.ip()) == live.ip);
            live.peer == node
                && link::transport(&live.remote).is_some()
                && (!ask.dial || live.dialled && there())
        };
        self.live.iter().filter(|(_, live)| is_good(live)).map(|(id, _)| *id).next_back()
    }

    /// Where to dial it: by QUIC if that is there and nothing speaks against it.
    fn node_addresses(&self, node: PeerId, to: &Contact) -> Vec<Multiaddr> {
        let blocked = self.report.borrow().v4.udp == Nat::Blocked;
        let best = if blocked { Transport::Tcp } else { Transport::Quic };
        let has_best = to.at.iter().any(|target| target.transport == best);
        let at = to.at.iter().filter(|target| !has_best || target.transport == best);
        at.filter_map(|target| link::multiaddr(*target).with_p2p(node).ok()).collect()
    }

    /// The stream for a question stands.
    pub(super) fn send_ask(&mut self, id: AskId, connection: ConnectionId, stream: SwarmStream) {
        let ip = self.live.get(&connection).and_then(|live| live.ip);
        let Some(dht) = &mut self.dht else { return };
        let Some(asked) = dht.asks.get_mut(&id) else { return };
        asked.dialling = None;
        let request = asked.request.clone();
        self.talks.spawn(async move {
            let response = talk::ask(stream, &request).await;
            Talked::Answered { id, ip, response }
        });
    }

    pub(super) fn ask_failed(&mut self, id: AskId) {
        if let Some(dht) = &mut self.dht {
            dht.asks.remove(&id);
            dht.handle(Input::Failed(id));
        }
    }

    /// The stream to ask a neighbour for nodes stands.
    pub(super) fn send_neighbour(&mut self, stream: SwarmStream) {
        let request = Request::FindNode(self.own_id().to_bytes());
        self.talks.spawn(async move { Talked::Neighbour(talk::ask(stream, &request).await) });
    }

    pub(super) fn neighbour_failed(&mut self) {
        if let Some(dht) = &mut self.dht {
            dht.neighbours = dht.neighbours.saturating_sub(1);
        }
    }

    /// Somebody has a question.
    pub(super) fn dht_inbound(&mut self, connection: ConnectionId, protocol: Protocol, stream: SwarmStream) {
        let Some(live) = self.live.get(&connection) else { return };
        let Some(ip) = live.ip else { return };
        if self.talks.len() >= MAX_SERVING {
            return debug!(peer = %live.peer, "too many questions at once");
        }
        let from = Asker { node: NodeId::new(&live.peer.to_bytes()), ip };
        let sampled = protocol == Protocol::Peers;
        self.talks.spawn(talk::hear(stream, from, sampled));
    }

    /// A conversation has come to a point.
    pub(super) fn on_talked(&mut self, talked: Result<Talked, JoinError>) {
        let Some(dht) = &mut self.dht else { return };
        match talked {
            Ok(Talked::Answered { id, ip, response }) => {
                dht.asks.remove(&id);
                dht.handle(match response {
                    Ok(response) => Input::Answered { ask: id, ip, response },
                    Err(error) => {
                        debug!(%error, "a node of the DHT does not answer");
                        Input::Failed(id)
                    }
                });
            }
            Ok(Talked::Neighbour(response)) => self.on_neighbour(response),
            Ok(Talked::Heard { question: Ok(question), stream, from, sampled }) => {
                self.answer_asker(question, stream, from, sampled);
            }
            Ok(Talked::Heard { question: Err(error), .. }) => trace!(%error, "a question ended"),
            Err(error) => error!(%error, "a task of the DHT failed"),
        }
    }

    fn on_neighbour(&mut self, response: io::Result<Response>) {
        self.neighbour_failed();
        let Some(dht) = &mut self.dht else { return };
        match response {
            Ok(response) => {
                for contact in response.closer {
                    dht.handle(Input::Candidate(contact));
                }
            }
            Err(error) => debug!(%error, "a neighbour tells of no nodes"),
        }
    }

    fn answer_asker(&mut self, request: Request, stream: SwarmStream, from: Asker, sampled: bool) {
        let Some(dht) = &mut self.dht else { return };
        let counters = &self.setup.counters;
        counters.dht_request(talk::label(&request));
        let is_put = !sampled && matches!(request, Request::PutValue(_));
        let answer = match (sampled, &request) {
            (false, _) => dht.machine.serve(now(), unix(), &from, request.clone()),
            // It counts towards what the asker may ask, like any other.
            (true, Request::FindNode(_)) => {
                let allowed = dht.machine.serve(now(), unix(), &from, Request::Ping);
                allowed.map(|_| Response { closer: dht.machine.sample(), record: None })
            }
            (true, _) => Err("not_served"),
        };
        if is_put {
            counters.dht_record(answer.as_ref().map_or_else(|refusal| *refusal, |_| OK));
        }
        match answer {
            Ok(response) => {
                self.talks.spawn(talk::answer(stream, request, response, from, sampled));
            }
            Err(refusal) => debug!(refusal, "a question of the DHT is refused"),
        }
    }
}

fn contact(peer: PeerId, at: impl Iterator<Item = crate::reachability::Target>) -> Contact {
    let mut targets = Vec::new();
    for target in at {
        if !targets.contains(&target) && targets.len() < MAX_ADDRESSES {
            targets.push(target);
        }
    }
    Contact { node: NodeId::new(&peer.to_bytes()), at: targets }
}

fn contact_at(at: &Multiaddr) -> Option<Contact> {
    let (bare, peer) = link::split_peer(at.clone());
    Some(contact(peer?, std::iter::once(link::target(&bare)?)))
}
