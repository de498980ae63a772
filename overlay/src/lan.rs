//! The shell around [`beacon`]: sends both forms on every private network we are attached to, listens for
//! both, and reports whom it heard.
//!
//! Ports are shared with other SSB programs on this machine. Beacons go to each interface's own broadcast
//! address from that interface's own address, because go-ssb drops a beacon whose sender is not the
//! address it names. Interfaces are read anew before every round, so that a laptop that moves to another
//! network is heard there at once.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use ssb_crypto::Keypair;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tracing::{debug, trace};

use crate::beacon::{self, BeaconError, Entry, Form, Heard, Output, Table};
use crate::clock::now;
use crate::keys::{NetworkKey, PublicKey};

mod interfaces;
pub use interfaces::{Interface, Interfaces};

/// Time between two beacons, as ssb-lan has it.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// What to send and hear on local networks.
#[derive(Clone, Debug)]
pub struct LanConfig {
    /// Whether we tell local networks of ourselves: by beacon, mDNS, and by answering `/ssb/lan-who/1`.
    /// Without it we still listen.
    pub announce: bool,
    /// UDP port of plain beacons, if they are wanted.
    pub plain: Option<u16>,
    /// UDP port of sealed beacons, if they are wanted.
    pub encrypted: Option<u16>,
    /// Whether the loopback interface counts as a local network: for several nodes on one machine.
    pub loopback: bool,
}

impl Default for LanConfig {
    fn default() -> Self {
        Self {
            announce: true,
            plain: Some(beacon::PLAIN_PORT),
            encrypted: Some(beacon::SEALED_PORT),
            loopback: false,
        }
    }
}

impl LanConfig {
    /// No beacons, no mDNS, no answers.
    pub const OFF: Self = Self { announce: false, plain: None, encrypted: None, loopback: false };
}

/// A beacon port that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for beacons on UDP port {port}: {error}")]
pub struct BindError {
    /// Which.
    pub port: u16,
    /// Why.
    pub error: io::Error,
}

/// Who we are, for our own beacons and to ignore them.
pub(crate) struct Identity {
    pub(crate) keypair: Arc<Keypair>,
    pub(crate) network: NetworkKey,
}

/// Sends and hears beacons until dropped.
pub(crate) struct Lan {
    config: LanConfig,
    identity: Identity,
    own: PublicKey,
    listening: Vec<SocketAddr>,
    sockets: Vec<(Form, UdpSocket)>,
    senders: BTreeMap<Ipv4Addr, UdpSocket>,
    interfaces: Interfaces,
    table: Table,
    out: mpsc::Sender<Output>,
}

impl Lan {
    /// Opens the ports. One that cannot be opened is reported, and the rest goes on without it.
    ///
    /// `listening` is where our `net:` listeners are: without one there is nothing to announce.
    pub(crate) fn bind(
        config: LanConfig,
        identity: Identity,
        listening: Vec<SocketAddr>,
        out: mpsc::Sender<Output>,
    ) -> (Self, Vec<BindError>) {
        let ports = [(Form::Plain, config.plain), (Form::Sealed, config.encrypted)];
        let mut sockets = Vec::new();
        let mut failed = Vec::new();
        for (form, port) in ports.into_iter().filter_map(|(form, port)| Some((form, port?))) {
            match receiver(port) {
                Ok(socket) => sockets.push((form, socket)),
                Err(error) => failed.push(BindError { port, error }),
            }
        }
        let lan = Self {
            own: PublicKey::from_bytes(identity.keypair.public.0),
            config,
            identity,
            listening,
            sockets,
            senders: BTreeMap::new(),
            interfaces: Interfaces::default(),
            table: Table::default(),
            out,
        };
        (lan, failed)
    }

    /// Runs for ever; whoever holds the future drops it.
    pub(crate) async fn run(mut self) {
        let mut round = tokio::time::interval(INTERVAL);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut buffer = vec![0; beacon::MAX_RECEIVED + 1];
        loop {
            tokio::select! {
                _ = round.tick() => self.round().await,
                (form, length, source) = receive(&self.sockets, &mut buffer) => {
                    self.hear(form, &buffer[..length], source);
                    // So that a flood on one port does not keep the other from being read.
                    self.sockets.rotate_left(1);
                }
            }
            self.report();
        }
    }

    async fn round(&mut self) {
        match Interfaces::read() {
            Ok(interfaces) => self.interfaces = interfaces,
            Err(error) => debug!(%error, "cannot read the interfaces"),
        }
        self.table.handle_timeout(now());
        if self.config.announce {
            self.announce().await;
        }
    }

    async fn announce(&mut self) {
        let networks: BTreeMap<_, _> = self.interfaces.broadcasters(self.config.loopback).collect();
        self.senders.retain(|ip, _| networks.contains_key(ip));
        for (ip, broadcast) in networks {
            let Some(port) = self.port_at(ip) else { continue };
            if let Err(error) = self.send(ip, broadcast, port).await {
                // The interface may be going down; its socket is made anew next time.
                debug!(%ip, %error, "cannot send a beacon");
                self.senders.remove(&ip);
            }
        }
    }

    async fn send(&mut self, ip: Ipv4Addr, broadcast: Ipv4Addr, port: u16) -> io::Result<()> {
        let socket = match self.senders.remove(&ip) {
            Some(socket) => socket,
            None => sender(ip)?,
        };
        if let Some(to) = self.config.plain {
            socket.send_to(&beacon::encode_plain(ip, port, self.own), (broadcast, to)).await?;
        }
        if let Some(to) = self.config.encrypted {
            let Identity { keypair, network } = &self.identity;
            socket.send_to(&beacon::encode_sealed(ip, port, network, keypair), (broadcast, to)).await?;
        }
        self.senders.insert(ip, socket);
        Ok(())
    }

    /// The port on which a `net:` listener of ours is reachable at one of our addresses.
    fn port_at(&self, ip: Ipv4Addr) -> Option<u16> {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let covers = |listener: &&SocketAddr| listener.ip() == any || listener.ip() == IpAddr::V4(ip);
        self.listening.iter().find(covers).map(SocketAddr::port)
    }

    fn hear(&mut self, form: Form, datagram: &[u8], source: SocketAddr) {
        match self.decode(form, datagram) {
            Ok(heard) if heard.key == self.own => {}
            Ok(heard) => self.note(form, &heard, source.ip()),
            Err(error) => trace!(%source, %error, "no beacon"),
        }
    }

    fn decode(&self, form: Form, datagram: &[u8]) -> Result<Heard, BeaconError> {
        match form {
            Form::Plain => beacon::decode_plain(datagram),
            Form::Sealed => beacon::decode_sealed(datagram, &self.identity.network),
        }
    }

    fn note(&mut self, form: Form, heard: &Heard, source: IpAddr) {
        let on_link = |ip| self.interfaces.on_link(ip);
        let Some(at) = heard.reachable(source, on_link) else {
            trace!(%source, "a beacon from outside our networks");
            return;
        };
        if !self.table.handle(now(), Entry { key: heard.key, at, form }) {
            trace!(%source, "no room for another beacon");
        }
    }

    fn report(&mut self) {
        while let Some(output) = self.table.poll_output() {
            // A report that finds no room is made up for by the next refresh.
            if self.out.try_send(output).is_err() {
                debug!("no room for a discovery");
            }
        }
    }
}

/// The next datagram on any socket. A socket that reports an error (a full device queue, say) is asked
/// again.
async fn receive(sockets: &[(Form, UdpSocket)], buffer: &mut [u8]) -> (Form, usize, SocketAddr) {
    loop {
        let form = ready(sockets).await;
        let Some((_, socket)) = sockets.iter().find(|(other, _)| *other == form) else { continue };
        match socket.try_recv_from(buffer) {
            Ok((length, source)) => return (form, length, source),
            Err(error) => trace!(%error, "cannot receive"),
        }
    }
}

/// Which socket has something to read; waits for ever if there is none.
async fn ready(sockets: &[(Form, UdpSocket)]) -> Form {
    let waits = sockets.iter().map(|(form, socket)| {
        Box::pin(async move {
            let _ = socket.readable().await;
            *form
        })
    });
    if sockets.is_empty() { std::future::pending().await } else { futures::future::select_all(waits).await.0 }
}

fn receiver(port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // Linux lets programs share the port if all ask for the first, others if all ask for the second.
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    finish(socket, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
}

fn sender(ip: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_broadcast(true)?;
    finish(socket, SocketAddr::from((ip, 0)))
}

fn finish(socket: Socket, at: SocketAddr) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn identity(seed: u8) -> Identity {
        ssb_crypto::sodium::init().unwrap();
        let keypair = Arc::new(Keypair::from_seed(&[seed; 32]).unwrap());
        Identity { keypair, network: NetworkKey::MAIN }
    }

    /// A UDP port that nobody uses at the moment.
    fn free_port() -> u16 {
        std::net::UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
    }

    fn on_loopback(announce: bool, plain: Option<u16>, encrypted: Option<u16>) -> LanConfig {
        LanConfig { announce, plain, encrypted, loopback: true }
    }

    fn bind(config: LanConfig, seed: u8, net_port: u16) -> (Lan, mpsc::Receiver<Output>) {
        let (tx, rx) = mpsc::channel(8);
        let listening = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, net_port))];
        let (lan, failed) = Lan::bind(config, identity(seed), listening, tx);
        assert!(failed.is_empty(), "{failed:?}");
        (lan, rx)
    }

    fn entry(seed: u8, port: u16, form: Form) -> Output {
        let key = PublicKey::from_bytes(identity(seed).keypair.public.0);
        Output::Discovered(Entry { key, at: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), form })
    }

    async fn next(heard: &mut mpsc::Receiver<Output>) -> Output {
        tokio::time::timeout(PATIENCE, heard.recv()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn two_nodes_that_share_the_ports_hear_each_other_in_both_forms_and_never_themselves() {
        let (plain, sealed) = (Some(free_port()), Some(free_port()));
        let (a, mut heard_by_a) = bind(on_loopback(true, plain, sealed), 1, 1111);
        let (b, mut heard_by_b) = bind(on_loopback(true, plain, sealed), 2, 2222);
        let mut tasks = JoinSet::new();
        tasks.spawn(a.run());
        tasks.spawn(b.run());
        for (heard, seed, port) in [(&mut heard_by_a, 2, 2222), (&mut heard_by_b, 1, 1111)] {
            let mut two = [next(heard).await, next(heard).await];
            two.sort_by_key(|output| matches!(output, Output::Discovered(Entry { form: Form::Sealed, .. })));
            assert_eq!(two, [entry(seed, port, Form::Plain), entry(seed, port, Form::Sealed)]);
            assert!(heard.try_recv().is_err());
        }
    }

    #[tokio::test]
    async fn a_node_that_does_not_announce_hears_but_is_not_heard() {
        let plain = Some(free_port());
        let (quiet, mut heard_by_quiet) = bind(on_loopback(false, plain, None), 1, 1111);
        let (b, mut heard_by_b) = bind(on_loopback(true, plain, None), 2, 2222);
        let (c, _) = bind(on_loopback(true, plain, None), 3, 3333);
        let mut tasks = JoinSet::new();
        tasks.spawn(quiet.run());
        assert!(tasks.try_join_next().is_none());
        tasks.spawn(b.run());
        assert_eq!(next(&mut heard_by_quiet).await, entry(2, 2222, Form::Plain));
        // Two rounds of a third node later, the quiet one would have been heard as well.
        tasks.spawn(c.run());
        assert_eq!(next(&mut heard_by_b).await, entry(3, 3333, Form::Plain));
        assert_eq!(next(&mut heard_by_quiet).await, entry(3, 3333, Form::Plain));
        assert!(heard_by_b.try_recv().is_err());
    }

    #[tokio::test]
    async fn garbage_is_ignored_and_does_not_stop_the_listener() {
        let port = free_port();
        let (lan, mut heard) = bind(on_loopback(false, Some(port), None), 1, 1111);
        let mut tasks = JoinSet::new();
        tasks.spawn(lan.run());
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for garbage in [&b""[..], b"\xff\xff", b"net:!", &[b'n'; 4000]] {
            socket.send_to(garbage, ("127.0.0.1", port)).await.unwrap();
        }
        let key = PublicKey::from_bytes(identity(2).keypair.public.0);
        // Until the first round has read the interfaces a beacon is from nowhere: send until heard.
        let mut again = tokio::time::interval(Duration::from_millis(50));
        let beacon = beacon::encode_plain(Ipv4Addr::LOCALHOST, 2222, key);
        let first = loop {
            tokio::select! {
                output = heard.recv() => break output.unwrap(),
                _ = again.tick() => { socket.send_to(&beacon, ("127.0.0.1", port)).await.unwrap(); }
            }
        };
        assert_eq!(first, entry(2, 2222, Form::Plain));
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_reported_and_the_other_form_goes_on() {
        let hog = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = hog.local_addr().unwrap().port();
        let (tx, _rx) = mpsc::channel(1);
        let config = on_loopback(true, Some(port), Some(free_port()));
        let (lan, failed) = Lan::bind(config, identity(1), Vec::new(), tx);
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].port, port);
        assert_eq!(lan.sockets.len(), 1);
    }
}
