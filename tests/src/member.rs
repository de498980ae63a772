//! A member of the DHT by somebody else: stock libp2p-kad under our network's protocol name.
//!
//! It serves the DHT as its specification says, and notes whatever it is asked, told and given: it is the
//! crawler, and the storing node that reads everything.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures::StreamExt as _;
use hawsepipe_overlay::keys::NetworkKey;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{ConnectionId, NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, SwarmBuilder, identify, noise, tcp, yamux};
use libp2p_kad::store::{MemoryStore, MemoryStoreConfig, RecordStore, Result as StoreResult};
use libp2p_kad::{
    Config, Event, GetClosestPeersError, GetRecordOk, InboundRequest, Mode, PeerInfo, ProviderRecord,
    QueryId, QueryResult, Quorum, Record, RecordKey, StoreInserts,
};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};

use crate::lab::Host;

/// Where it listens.
const PORT: u16 = 4001;

/// How long it looks for something.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// More than any test stores.
const MAX_RECORDS: usize = 1 << 20;

/// Commands that wait.
const MAX_COMMANDS: usize = 16;

/// A running member. Dropping it ends it.
#[derive(Debug)]
pub struct Member {
    address: String,
    seen: Arc<Mutex<Seen>>,
    /// Closing it ends the thread.
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

/// All that it has learnt. Peers are named by their libp2p peer ids in base58, addresses are multiaddrs.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// How often it was asked, by kind: `find_node`, `get_record`, `put_record`, `get_provider`,
    /// `add_provider`.
    pub requests: BTreeMap<&'static str, usize>,
    /// The keys under which somebody (or a test, by [`Member::get`]) looked for a record.
    pub sought: BTreeSet<Vec<u8>>,
    /// What it was given to store, in the order of arrival, repetitions included.
    pub records: Vec<Given>,
    /// Every peer that it was told of, and where they are said to be.
    pub peers: BTreeMap<String, BTreeSet<String>>,
    /// Every peer that was connected, and the IP addresses it was connected from or to.
    pub connected: BTreeMap<String, BTreeSet<IpAddr>>,
    /// What each peer said that it speaks.
    pub protocols: BTreeMap<String, BTreeSet<String>>,
}

/// A record that it was given to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The record's key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// Who is said to have published it first, if that is said.
    pub publisher: Option<String>,
    /// Who brought it.
    pub source: String,
    /// From where.
    pub ip: Option<IpAddr>,
}

#[derive(Debug)]
enum Command {
    Dial(Multiaddr),
    Get(Vec<u8>, oneshot::Sender<Option<Vec<u8>>>),
    Put(Record, oneshot::Sender<bool>),
    Closest(Vec<u8>, oneshot::Sender<Vec<String>>),
}

impl Member {
    /// Starts one on a public host, in the main network.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start(host: &Host) -> Self {
        let listen: Multiaddr =
            format!("/ip4/{}/tcp/{PORT}", host.v4()).parse().expect("an address and a port");
        let (tell, told) = std::sync::mpsc::channel();
        let (commands, received) = mpsc::channel(MAX_COMMANDS);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (at, noting) = (listen.clone(), Arc::clone(&seen));
        // A thread stays where the one was that started it.
        let thread = host.enter(|| {
            thread::spawn(move || {
                let runtime =
                    Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
                runtime.block_on(async {
                    let mut swarm = swarm(&noting);
                    swarm.listen_on(listen).expect("a host has its own address");
                    tell.send(*swarm.local_peer_id()).expect("whoever starts it waits for it");
                    Running::new(swarm, noting).run(received).await;
                });
            })
        });
        let peer = told.recv().expect("the member started");
        Self { address: format!("{at}/p2p/{peer}"), seen, commands: Some(commands), thread: Some(thread) }
    }

    /// Where it is dialled, as a multiaddr with its peer id.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it has learnt until now.
    pub fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }

    /// Connects to a node, which makes it known. Does not wait for it: see [`Seen::connected`].
    ///
    /// # Panics
    /// When the address is no multiaddr.
    pub fn dial(&self, address: &str) {
        self.command(Command::Dial(address.parse().expect("the test's own address")));
    }

    /// Finds the record under a key: its own, or that of the first node that has one. Takes at most 10 s.
    pub fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let (answer, answered) = oneshot::channel();
        self.command(Command::Get(key.to_vec(), answer));
        answered.blocking_recv().expect("the member lives")
    }

    /// Stores a record at itself and at the nodes closest to its key, as stock nodes do: with itself as
    /// the publisher. Tells whether another node keeps it. Takes at most 10 s for finding them, and as
    /// long for storing.
    pub fn put(&self, key: &[u8], value: &[u8]) -> bool {
        let (answer, answered) = oneshot::channel();
        self.command(Command::Put(Record::new(key.to_vec(), value.to_vec()), answer));
        answered.blocking_recv().expect("the member lives")
    }

    /// The same without waiting for what comes of it.
    pub fn toss(&self, key: &[u8], value: &[u8]) {
        let (answer, _) = oneshot::channel();
        self.command(Command::Put(Record::new(key.to_vec(), value.to_vec()), answer));
    }

    /// The peers closest to what these bytes name, closest first; what is said of them is in [`Seen::peers`]
    /// then. Asked for many keys, it crawls the network. Takes at most 10 s.
    pub fn closest(&self, to: &[u8]) -> Vec<String> {
        let (answer, answered) = oneshot::channel();
        self.command(Command::Closest(to.to_vec(), answer));
        answered.blocking_recv().expect("the member lives")
    }

    fn command(&self, command: Command) {
        let commands = self.commands.as_ref().expect("it is only taken when dropped");
        commands.blocking_send(command).expect("the member lives");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            // A second panic while the test is already failing would hide why it fails.
            assert!(ended.is_ok() || thread::panicking(), "the member panicked: see above");
        }
    }
}

/// The name of the DHT's protocol in the main network.
pub fn protocol() -> String {
    let hash = ssb_crypto::hash(NetworkKey::MAIN.as_bytes());
    let first: String = hash.0[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("/ssb/{first}/kad/1")
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    kad: libp2p_kad::Behaviour<Noting>,
}

fn swarm(seen: &Arc<Mutex<Seen>>) -> Swarm<Behaviour> {
    let name = StreamProtocol::try_from_owned(protocol()).expect("it starts with a slash");
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .expect("noise needs nothing")
        .with_behaviour(|key| {
            let mut config = Config::new(name);
            config.set_record_filtering(StoreInserts::FilterBoth).set_query_timeout(QUERY_TIMEOUT);
            let own = key.public().to_peer_id();
            let mut kad = libp2p_kad::Behaviour::with_config(own, Noting::new(own, seen), config);
            kad.set_mode(Some(Mode::Server));
            let identify = identify::Config::new("/ssb/1".to_owned(), key.public());
            Behaviour { identify: identify::Behaviour::new(identify), kad }
        })
        .expect("the behaviour is there")
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::MAX))
        .build()
}

/// What a query was for.
enum Query {
    Get(oneshot::Sender<Option<Vec<u8>>>),
    Put(oneshot::Sender<bool>),
    Closest(oneshot::Sender<Vec<String>>),
}

/// The thread's own.
struct Running {
    swarm: Swarm<Behaviour>,
    seen: Arc<Mutex<Seen>>,
    connections: HashMap<ConnectionId, IpAddr>,
    queries: HashMap<QueryId, Query>,
}

impl Running {
    fn new(swarm: Swarm<Behaviour>, seen: Arc<Mutex<Seen>>) -> Self {
        Self { swarm, seen, connections: HashMap::new(), queries: HashMap::new() }
    }

    /// Until there is nobody left to give commands.
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                event = self.swarm.select_next_some() => self.note(event),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        match command {
            Command::Dial(at) => {
                // It may be connected already.
                self.swarm.dial(at).ok();
            }
            Command::Get(key, answer) => {
                self.queries.insert(kad.get_record(RecordKey::from(key)), Query::Get(answer));
            }
            Command::Put(record, answer) => {
                let query = kad.put_record(record, Quorum::One).expect("it has room");
                self.queries.insert(query, Query::Put(answer));
            }
            Command::Closest(key, answer) => {
                self.queries.insert(kad.get_closest_peers(key), Query::Closest(answer));
            }
        }
    }

    fn note(&mut self, event: SwarmEvent<BehaviourEvent>) {
        if let SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } = &event {
            if let Some(ip) = ip(endpoint.get_remote_address()) {
                self.connections.insert(*connection_id, ip);
                let peer = peer_id.to_base58();
                lock(&self.seen).connected.entry(peer).or_default().insert(ip);
            }
        } else if let SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) = event {
            self.note_identified(event);
        } else if let SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) = event {
            self.note_kad(event);
        }
    }

    /// A node that serves the DHT is taken into the table, as stock nodes do.
    fn note_identified(&mut self, event: identify::Event) {
        let identify::Event::Received { peer_id, info, .. } = event else { return };
        let spoken = info.protocols.iter().map(|name| name.to_string()).collect();
        lock(&self.seen).protocols.insert(peer_id.to_base58(), spoken);
        let serves = info.protocols.iter().any(|name| name.as_ref() == protocol());
        for at in info.listen_addrs {
            self.note_peer(peer_id, &at);
            if serves {
                self.swarm.behaviour_mut().kad.add_address(&peer_id, at);
            }
        }
    }

    fn note_peer(&self, peer: PeerId, at: &Multiaddr) {
        lock(&self.seen).peers.entry(peer.to_base58()).or_default().insert(at.to_string());
    }

    fn note_kad(&mut self, event: Event) {
        match event {
            Event::InboundRequest { request } => self.note_request(request),
            Event::OutboundQueryProgressed { id, result, .. } => self.note_result(id, result),
            Event::RoutingUpdated { peer, addresses, .. } => {
                addresses.iter().for_each(|at| self.note_peer(peer, at));
            }
            Event::RoutablePeer { peer, address } | Event::PendingRoutablePeer { peer, address } => {
                self.note_peer(peer, &address);
            }
            Event::UnroutablePeer { .. } | Event::ModeChanged { .. } => {}
        }
    }

    fn note_request(&mut self, request: InboundRequest) {
        let kind = match &request {
            InboundRequest::FindNode { .. } => "find_node",
            InboundRequest::GetProvider { .. } => "get_provider",
            InboundRequest::AddProvider { .. } => "add_provider",
            InboundRequest::GetRecord { .. } => "get_record",
            InboundRequest::PutRecord { .. } => "put_record",
        };
        *lock(&self.seen).requests.entry(kind).or_default() += 1;
        let InboundRequest::PutRecord { source, connection, record: Some(record) } = request else { return };
        lock(&self.seen).records.push(Given {
            key: record.key.to_vec(),
            value: record.value.clone(),
            publisher: record.publisher.map(PeerId::to_base58),
            source: source.to_base58(),
            ip: self.connections.get(&connection).copied(),
        });
        self.swarm.behaviour_mut().kad.store_mut().put(record).expect("it has room");
    }

    fn note_result(&mut self, id: QueryId, result: QueryResult) {
        // A query that was answered goes on for a while, and nobody waits for it.
        match (result, self.queries.remove(&id)) {
            (QueryResult::GetRecord(result), Some(Query::Get(answer))) => {
                let found = result.ok().and_then(|found| match found {
                    GetRecordOk::FoundRecord(found) => Some(found.record.value),
                    GetRecordOk::FinishedWithNoAdditionalRecord { .. } => None,
                });
                answer.send(found).ok();
            }
            (QueryResult::PutRecord(result), Some(Query::Put(answer))) => {
                answer.send(result.is_ok()).ok();
            }
            (QueryResult::GetClosestPeers(result), query) => {
                let peers = match result {
                    Ok(closest) => closest.peers,
                    Err(GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                for PeerInfo { peer_id, addrs } in &peers {
                    addrs.iter().for_each(|at| self.note_peer(*peer_id, at));
                }
                if let Some(Query::Closest(answer)) = query {
                    answer.send(peers.iter().map(|peer| peer.peer_id.to_base58()).collect()).ok();
                }
            }
            _ => {}
        }
    }
}

fn ip(at: &Multiaddr) -> Option<IpAddr> {
    at.iter().find_map(|part| {
        if let Protocol::Ip4(ip) = part {
            Some(ip.into())
        } else if let Protocol::Ip6(ip) = part {
            Some(ip.into())
        } else {
            None
        }
    })
}

/// A store in memory that notes which keys are looked for: the behaviour does not tell.
struct Noting {
    records: MemoryStore,
    seen: Arc<Mutex<Seen>>,
}

impl Noting {
    fn new(own: PeerId, seen: &Arc<Mutex<Seen>>) -> Self {
        let config = MemoryStoreConfig { max_records: MAX_RECORDS, ..MemoryStoreConfig::default() };
        Self { records: MemoryStore::with_config(own, config), seen: Arc::clone(seen) }
    }
}

impl RecordStore for Noting {
    type RecordsIter<'a> = <MemoryStore as RecordStore>::RecordsIter<'a>;
    type ProvidedIter<'a> = <MemoryStore as RecordStore>::ProvidedIter<'a>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        lock(&self.seen).sought.insert(key.to_vec());
        self.records.get(key)
    }

    fn put(&mut self, record: Record) -> StoreResult<()> {
        self.records.put(record)
    }

    fn remove(&mut self, key: &RecordKey) {
        self.records.remove(key);
    }

    fn records(&self) -> Self::RecordsIter<'_> {
        self.records.records()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> StoreResult<()> {
        self.records.add_provider(record)
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        self.records.providers(key)
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        self.records.provided()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        self.records.remove_provider(key, provider);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_is_that_of_the_main_network() {
        // The first bytes of `echo 1KHLiKZvAvjbY1ziZEHMXawbCEIM6qwjCDm3VYRan/s= | base64 -d | sha256sum`.
        assert_eq!(protocol(), "/ssb/50369ff9/kad/1");
    }
}
