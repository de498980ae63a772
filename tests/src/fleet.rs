//! Many nodes of ours in one internet: *servers* of the DHT on public hosts, and *homes*, which are nodes
//! behind NATs that were told of a few servers and of nobody else.
//!
//! Nobody has a relay, a seed or a friend that a test did not name: whatever else a node knows, it learned
//! from the DHT. Every host is in a network (/16) of its own, as the diversity of a table asks.
//!
//! Nodes start a few at a time and are waited for by what they say of themselves. Servers can die as machines
//! do that lose their power ([`Fleet::kill_silently`]): nobody is told, and nothing that is sent there comes
//! back.

use std::iter;
use std::thread;
use std::time::Duration;

use crate::chance::SplitMix;
use crate::control::{Control, Status};
use crate::lab::internet::{Internet, Place, Site};
use crate::lab::{Host, Lab};
use crate::meeting::{LINE, Transport};
use crate::metrics::{Histogram, Metrics};
use crate::peer::{Peer, Setup};
use crate::wait;

/// How many servers the others are told of.
const TOLD: usize = 3;

/// How many nodes start at a time. More would only wait for each other: starting is work for a processor.
const BATCH: usize = 4;

/// How long a node may take to fill its table on a busy machine.
pub const JOINED: Duration = Duration::from_secs(60);

/// Nodes in a table, and more where there are so many, with which a node has joined.
const ENOUGH: usize = 8;

/// A running node and where it is.
#[derive(Debug)]
pub struct Node {
    /// Its place in the internet.
    pub site: Site,
    /// Itself.
    pub peer: Peer,
}

/// The servers, and the internet that they and everybody else are in.
#[derive(Debug)]
pub struct Fleet {
    /// Everything is in it.
    pub internet: Internet,
    servers: Vec<Node>,
}

impl Fleet {
    /// Raises `servers` servers and waits until all of them know enough of the others.
    ///
    /// # Panics
    /// When one of them does not start or does not join.
    pub fn raise(lab: &Lab, servers: usize) -> Self {
        let mut fleet = Self { internet: lab.internet(), servers: Vec::new() };
        let name = |number: usize| format!("server-{number}");
        let mut sites: Vec<Site> =
            (1..=servers).map(|number| fleet.internet.public(&name(number), LINE)).collect();
        let others = sites.split_off(servers.min(TOLD));
        for site in sites {
            // One after the other: each is told of those before it.
            fleet.serve_at(vec![site]);
        }
        fleet.serve_at(others);
        fleet.wait_until_joined(fleet.servers.iter().map(|node| &node.peer));
        fleet
    }

    fn serve_at(&mut self, sites: Vec<Site>) {
        let setups = sites.iter().map(|site| self.setup(&site.host).set("overlay.dht", "server")).collect();
        let peers = start_all(setups);
        self.servers.extend(sites.into_iter().zip(peers).map(|(site, peer)| Node { site, peer }));
    }

    /// How a node on `host` is told of some servers.
    pub fn setup(&self, host: &Host) -> Setup {
        Setup::on(host).set("local", false).set("overlay.bootstrap", self.told())
    }

    /// Where the servers are that others are told of.
    pub fn told(&self) -> Vec<String> {
        self.servers.iter().take(TOLD).map(|node| address_of(&node.peer)).collect()
    }

    /// The servers that are alive.
    pub fn servers(&self) -> &[Node] {
        &self.servers
    }

    /// A home that has joined.
    ///
    /// # Panics
    /// When it does not.
    pub fn home(&self, place: Place, name: &str) -> Node {
        let mut homes = self.homes(place, iter::once(name.to_owned()));
        homes.pop().expect("one was asked for")
    }

    /// Homes that have joined, each behind a router of its own.
    ///
    /// # Panics
    /// When one of them does not.
    pub fn homes(&self, place: Place, names: impl Iterator<Item = String>) -> Vec<Node> {
        let sites: Vec<Site> = names.map(|name| self.internet.settle(place, &name, LINE)).collect();
        let peers = start_all(sites.iter().map(|site| self.setup(&site.host)).collect());
        let homes: Vec<Node> = sites.into_iter().zip(peers).map(|(site, peer)| Node { site, peer }).collect();
        self.wait_until_joined(homes.iter().map(|node| &node.peer));
        homes
    }

    /// Waits until these nodes have all servers in their tables, or enough of them.
    ///
    /// # Panics
    /// When one of them does not come to that in time.
    pub fn wait_until_joined<'a>(&self, peers: impl Iterator<Item = &'a Peer>) {
        for peer in peers {
            let others = self.servers.iter().filter(|server| server.peer.id() != peer.id()).count();
            wait_for_nodes(&peer.control(), others.min(ENOUGH));
        }
    }

    /// Lets so many servers die without notice: the line first, so that their kernels close no connection. Which
    /// ones is left to the seed. Gives their sites.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn kill_silently(&mut self, count: usize, seed: u64) -> Vec<Site> {
        SplitMix::new(seed).shuffle(&mut self.servers);
        let survivors = self.servers.len().checked_sub(count).expect("so many live");
        let dead = self.servers.split_off(survivors);
        for node in &dead {
            self.internet.cut_off(&node.site);
        }
        let killed = dead.into_iter().map(|Node { site, peer }| {
            peer.kill();
            site
        });
        killed.collect()
    }
}

/// Starts nodes, a few at a time, and gives them in the same order.
///
/// # Panics
/// When one does not start.
pub fn start_all(setups: Vec<Setup>) -> Vec<Peer> {
    let mut peers = Vec::with_capacity(setups.len());
    let mut setups = setups.into_iter().peekable();
    while setups.peek().is_some() {
        let batch: Vec<Setup> = setups.by_ref().take(BATCH).collect();
        thread::scope(|scope| {
            let starting: Vec<_> = batch.into_iter().map(|setup| scope.spawn(|| setup.start())).collect();
            let started = starting
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            peers.extend(started);
        });
    }
    peers
}

/// Waits until a node has at least so many others in its table.
///
/// # Panics
/// When it does not come to that in time.
pub fn wait_for_nodes(control: &Control, least: usize) -> Status {
    wait::until(&format!("{least} nodes in the table"), JOINED, || {
        let status = control.status()?;
        if status.dht().nodes >= least { Ok(status) } else { Err(status.0.to_string()) }
    })
}

/// Where a node on a public host is dialled, as a multiaddr with its peer id.
///
/// # Panics
/// When it does not listen for QUIC.
pub fn address_of(peer: &Peer) -> String {
    peer.libp2p_at(Transport::Quic).unwrap_or_else(|| panic!("no QUIC in {:?}", peer.addresses()))
}

impl Metrics {
    /// How many lookups in the DHT ended, of one kind and with one outcome.
    pub fn lookups(&self, kind: &str, outcome: &str) -> f64 {
        self.sum("dht_lookups_total", &[("kind", kind), ("outcome", outcome)])
    }

    /// How long lookups of one kind took, in seconds.
    pub fn lookup_times(&self, kind: &str) -> Histogram {
        self.histogram("dht_lookup_seconds", &[("kind", kind)])
    }
}

impl Peer {
    /// Waits until more lookups of `kind` have ended with `outcome` than `before`.
    pub fn wait_lookup(&self, kind: &str, outcome: &str, before: f64) {
        let labels = [("kind", kind), ("outcome", outcome)];
        self.wait_metric("dht_lookups_total", &labels, before + 1.0);
    }
}
