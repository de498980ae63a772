//! A muxrpc session with a node of ours that stays open, as its owner's programs hold one.
//!
//! The command line is what a user has, but each command is a program that has to start first. Where a
//! figure is taken, or a node is asked again and again, that would be most of what is seen.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hawsepipe_overlay::conn::{
    self, Carrier, Connection, Direction, Gate, LinkInfo, Local, Refused, Session,
};
use hawsepipe_overlay::keys::{NetworkKey, PublicKey};
use hawsepipe_overlay::unix;
use serde_json::Value;
use ssb_crypto::Keypair;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::MAIN_NETWORK;
use crate::lab::Host;
use crate::wait::SOON;

/// The open session. It is driven while something is asked on it; a node does not mind silence of its owner.
#[derive(Debug)]
pub struct Control {
    session: Session,
    /// Kept because the session lives in it.
    _driver: JoinSet<()>,
    runtime: Runtime,
}

impl Control {
    /// Opens a session through the socket in the data folder `dir`.
    ///
    /// # Panics
    /// When no node listens there.
    pub fn open(dir: &Path) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
        let socket = dir.join("socket");
        // Whoever can open the socket is its owner; the key does not matter.
        let dialled = runtime.block_on(unix::dial(&socket, PublicKey::from_bytes([0; 32])));
        Self::drive(runtime, dialled.unwrap_or_else(|e| panic!("{e}")))
    }

    /// Opens a session by TCP from `host` to any SSB peer that listens at `address`, as `keypair`.
    ///
    /// # Errors
    /// When nobody listens there, or whoever does is not `server`.
    pub fn dial(
        host: &Host,
        address: SocketAddr,
        server: PublicKey,
        keypair: &Keypair,
    ) -> Result<Self, String> {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
        let connected = runtime.block_on(handshake(host, address, server, keypair));
        Ok(Self::drive(runtime, connected?))
    }

    fn drive(runtime: Runtime, connection: Connection) -> Self {
        let Connection { session, driver, calls } = connection;
        // Nobody here answers calls, and one that waits for an answer would hold up the line.
        drop(calls);
        let mut tasks = JoinSet::new();
        tasks.spawn_on(
            async move {
                driver.run().await;
            },
            runtime.handle(),
        );
        Self { session, _driver: tasks, runtime }
    }

    /// Works with the session while it is driven.
    pub fn run<T>(&self, work: impl AsyncFnOnce(&Session) -> T) -> T {
        self.runtime.block_on(work(&self.session))
    }

    /// Calls an async method.
    ///
    /// # Errors
    /// What the node says against it, or that it says nothing.
    pub fn call(&self, method: &str, arguments: Vec<Value>) -> Result<Value, String> {
        self.call_within(SOON, method, arguments)
    }

    /// The same with another deadline.
    ///
    /// # Errors
    /// What the node says against it, or that it says nothing.
    pub fn call_within(
        &self,
        within: Duration,
        method: &str,
        arguments: Vec<Value>,
    ) -> Result<Value, String> {
        let path: Vec<&str> = method.split('.').collect();
        let answer = async { timeout(within, self.session.call(&path, arguments)).await };
        let answer = self.runtime.block_on(answer).map_err(|_| format!("{method}: no answer"))?;
        let body = answer.map_err(|e| format!("{method}: {e}"))?;
        Ok(serde_json::from_slice(&body.bytes).unwrap_or_else(|_| body.lossy_text().into()))
    }

    /// What the node says of itself.
    ///
    /// # Errors
    /// That it says nothing.
    pub fn status(&self) -> Result<Status, String> {
        self.call("status", Vec::new()).map(Status)
    }
}

/// Connects by TCP from `host` to any SSB peer that listens at `address`, as `keypair`; to be driven by the caller.
///
/// # Errors
/// When nobody listens there, or whoever does is not `server`.
pub async fn handshake(
    host: &Host,
    address: SocketAddr,
    server: PublicKey,
    keypair: &Keypair,
) -> Result<Connection, String> {
    let stream = host.enter(|| TcpStream::connect(address)).map_err(|e| e.to_string())?;
    stream.set_nonblocking(true).map_err(|e| e.to_string())?;
    let stream = tokio::net::TcpStream::from_std(stream).map_err(|e| e.to_string())?;
    shake_hands(stream, server, keypair).await
}

/// The same on a connection that stands.
///
/// # Errors
/// When whoever is at its other end is not `server`, or does not want us.
pub async fn shake_hands(
    stream: tokio::net::TcpStream,
    server: PublicKey,
    keypair: &Keypair,
) -> Result<Connection, String> {
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let address = stream.peer_addr().map_err(|e| e.to_string())?;
    let network = NetworkKey::from_base64(MAIN_NETWORK).expect("our own constant is a key");
    let (keypair, gate) = (Arc::new(keypair.clone()), Arc::new(Open));
    let local = Local { keypair, network, gate, handshake_timeout: SOON };
    let remote = format!("net:{address}");
    let info =
        LinkInfo { direction: Direction::Outbound, carrier: Carrier::Net, remote, path: None, mobile: None };
    conn::connect(stream, info, &local, server).await.map_err(|e| e.to_string())
}

/// Lets in whoever the session is with.
#[derive(Debug)]
pub struct Open;

impl Gate for Open {
    fn admit(&self, _peer: PublicKey, _link: &LinkInfo) -> Result<(), Refused> {
        Ok(())
    }
}

/// What a node answers to `status`.
#[derive(Debug, Clone)]
pub struct Status(pub Value);

impl Status {
    /// The carriers of the sessions that it has with `id`.
    pub fn carriers(&self, id: &str) -> Vec<String> {
        let sessions = self.0["sessions"].as_array().map_or(&[][..], Vec::as_slice);
        let with = sessions.iter().filter(|session| session["peer"] == id);
        with.filter_map(|session| session["carrier"].as_str().map(str::to_owned)).collect()
    }

    /// How many peers it has sessions with, local clients aside.
    pub fn peers(&self) -> usize {
        let sessions = self.0["sessions"].as_array().map_or(&[][..], Vec::as_slice);
        let mut peers: Vec<&str> = sessions
            .iter()
            .filter(|session| session["carrier"] != "unix")
            .filter_map(|session| session["peer"].as_str())
            .collect();
        peers.sort_unstable();
        peers.dedup();
        peers.len()
    }

    /// The addresses at which others dial it through relays, as multiaddrs.
    pub fn reservations(&self) -> Vec<String> {
        let reservations = self.0["reachability"]["reservations"].as_array().map_or(&[][..], Vec::as_slice);
        reservations.iter().filter_map(|at| at.as_str().map(str::to_owned)).collect()
    }

    /// Every address that it tells others, as a whole.
    pub fn addresses(&self) -> Vec<String> {
        let addresses = self.0["addresses"].as_array().map_or(&[][..], Vec::as_slice);
        addresses.iter().filter_map(|at| at.as_str().map(str::to_owned)).collect()
    }

    /// What it says of the DHT; nothing at all where it takes no part.
    pub fn dht(&self) -> Dht {
        let dht = &self.0["dht"];
        let count =
            |value: &Value| value.as_u64().map_or(0, |count| usize::try_from(count).unwrap_or(usize::MAX));
        let friends = &dht["friends"];
        Dht {
            nodes: count(&dht["nodes"]),
            networks: count(&dht["networks"]),
            records: count(&dht["records"]),
            serving: dht["serving"] == true,
            healthy: dht["healthy"] == true,
            sought: count(&friends["sought"]),
            found: count(&friends["found"]),
            connected: count(&friends["connected"]),
        }
    }

    /// Whether others can dial it, in a word; empty where it says nothing of that.
    pub fn verdict(&self) -> &str {
        self.0["reachability"]["verdict"].as_str().unwrap_or_default()
    }
}

/// What a node says of the DHT.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dht {
    /// Nodes in its routing table.
    pub nodes: usize,
    /// Networks that they are in.
    pub networks: usize,
    /// Records of others that it keeps.
    pub records: usize,
    /// Whether it answers others.
    pub serving: bool,
    /// Whether its table is good enough to find anybody.
    pub healthy: bool,
    /// Mutual follows that are or were looked for.
    pub sought: usize,
    /// Those of them that were found.
    pub found: usize,
    /// Those of them with a session.
    pub connected: usize,
}

/// The carrier of a session that goes through a relay.
pub const RELAY: &str = "relay";
