//! Two nodes somewhere in the internet that meet through a relay: what every figure and every test of NAT
//! traversal does.
//!
//! A [`Stage`] is an internet with a public relay and with a *listener* and a *dialer*, each in its place.
//! [`Stage::raise`] starts the three nodes and waits until the listener can be dialled through the relay and
//! the dialer has a session with it; [`Meeting::dial`] then dials the listener's circuit address and watches
//! both ends: when there is a session, when there is a direct one, and what carries it.
//!
//! Nobody but the test decides whom a node dials, unless it is told otherwise ([`Act::social`]).

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use hawsepipe_overlay::address::{Address, Endpoint};

use crate::control::{Control, RELAY, Status};
use crate::lab::internet::{Internet, Place, Site};
use crate::lab::link::Link;
use crate::lab::nat::Nat;
use crate::lab::{Host, Lab};
use crate::peer::{Peer, Setup};
use crate::wait::{self, Deadline, SOON};

/// Half the way between any two hosts, hence the delay of every line: 20 ms one way in all.
pub const LINE: Link = Link::delayed(Duration::from_millis(10));

/// The way that libp2p goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// QUIC over UDP.
    Quic,
    /// TCP with Noise and Yamux.
    Tcp,
}

impl Transport {
    /// Its name, which is also the carrier's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }

    /// Whether a multiaddr, up to its first peer, is of this transport.
    fn carries(self, multiaddr: &str) -> bool {
        let direct = multiaddr.split("/p2p/").next().unwrap_or_default();
        match self {
            Self::Quic => direct.ends_with("/quic-v1"),
            Self::Tcp => direct.contains("/tcp/"),
        }
    }

    /// Where to listen for it alone.
    fn listen(self) -> [&'static str; 2] {
        match self {
            Self::Quic => ["/ip4/0.0.0.0/udp/0/quic-v1", "/ip6/::/udp/0/quic-v1"],
            Self::Tcp => ["/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"],
        }
    }
}

/// What a play is like, apart from the places.
#[derive(Debug, Clone, Copy)]
pub struct Act {
    /// The only transport that the two have; none: all of them.
    pub only: Option<Transport>,
    /// How they reach the relay.
    pub to_relay: Transport,
    /// Whether they look for peers themselves, as nodes do unless they are told not to.
    pub social: bool,
    /// Who has no carrier.
    pub lacks_carrier: Option<Part>,
}

/// One of the two who meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Who is dialled.
    Listener,
    /// Who dials.
    Dialer,
}

impl Act {
    /// All transports, QUIC to the relay, and nobody dials by itself.
    pub const PLAIN: Self =
        Self { only: None, to_relay: Transport::Quic, social: false, lacks_carrier: None };

    /// The same where UDP does not pass.
    pub const WITHOUT_UDP: Self = Self { to_relay: Transport::Tcp, ..Self::PLAIN };

    /// One transport and no other.
    pub const fn only(transport: Transport) -> Self {
        Self { only: Some(transport), to_relay: transport, ..Self::PLAIN }
    }

    fn setup(&self, part: Part, host: &Host, dir: PathBuf) -> Setup {
        let setup = Setup::on(host).path(dir).set("local", false).set("conn.autostart", self.social);
        let setup = setup.set("overlay.carrier", self.lacks_carrier != Some(part));
        match self.only {
            Some(transport) => setup.set("overlay.listen", transport.listen().to_vec()),
            None => setup,
        }
    }
}

/// The network of a play.
#[derive(Debug)]
pub struct Stage {
    /// Everything is in it.
    pub internet: Internet,
    /// Where the relay is.
    pub relay: Site,
    /// Where the listener is.
    pub listener: Site,
    /// Where the dialer is.
    pub dialer: Site,
    /// Plays so far: each has folders of its own.
    plays: std::cell::Cell<u32>,
}

impl Stage {
    /// A listener and a dialer in homes of their own.
    pub fn of(lab: &Lab, listener: Place, dialer: Place) -> Self {
        let internet = lab.internet();
        let listener = internet.settle(listener, "listener", LINE);
        let dialer = internet.settle(dialer, "dialer", LINE);
        Self::with(internet, listener, dialer)
    }

    /// Both in one LAN.
    pub fn in_one_lan(lab: &Lab, place: Place) -> Self {
        let internet = lab.internet();
        let listener = internet.settle(place, "listener", LINE);
        let dialer = listener.beside("dialer");
        Self::with(internet, listener, dialer)
    }

    /// In two port-restricted homes behind one carrier.
    pub fn behind_one_carrier(lab: &Lab, nat: Nat) -> Self {
        let internet = lab.internet();
        let (carrier, wire) = internet.carrier("carrier", nat, LINE);
        let [listener, dialer] = ["listener", "dialer"].map(|name| {
            let home = carrier.router(&format!("{name}-router"), Nat::PORT_RESTRICTED);
            let host = home.host(name);
            Site { place: Place::DoubleNat, host, routers: vec![home, carrier.clone()], wire: wire.clone() }
        });
        Self::with(internet, listener, dialer)
    }

    /// Two sites of an internet, and a relay there.
    pub fn with(internet: Internet, listener: Site, dialer: Site) -> Self {
        let relay = internet.public("relay", LINE);
        Self { internet, relay, listener, dialer, plays: std::cell::Cell::new(0) }
    }

    /// Lets no UDP through to and from the two.
    pub fn block_udp(&self) {
        for site in [&self.listener, &self.dialer] {
            self.internet.block_udp(site);
        }
    }

    /// Makes all three lines lose this share of packets, each time others.
    pub fn lose(&self, share: f64, seed: u64) {
        for (site, number) in [&self.relay, &self.listener, &self.dialer].into_iter().zip(0..) {
            if let Some(wire) = &site.wire {
                wire.set(Link { loss: share, seed: seed.wrapping_mul(3).wrapping_add(number), ..LINE });
            }
        }
    }

    /// Makes the routers forget everything.
    pub fn forget(&self) {
        for router in self.listener.routers.iter().chain(&self.dialer.routers) {
            router.reboot();
        }
    }

    /// Starts the three, with folders of their own, and waits until the two can meet.
    ///
    /// # Errors
    /// What did not come about in time.
    pub fn raise(&self, act: &Act) -> Result<Meeting, String> {
        self.raise_with(act, &[])
    }

    /// The same, with relays that the two are told of before the one on the stage.
    ///
    /// # Errors
    /// What did not come about in time.
    pub fn raise_with(&self, act: &Act, others: &[&str]) -> Result<Meeting, String> {
        self.plays.set(self.plays.get() + 1);
        let folder = |host: &Host| host.dir().join(format!("play-{}", self.plays.get()));
        let relay_host = &self.relay.host;
        let relay = Setup::on(relay_host).path(folder(relay_host)).set("local", false).start();
        let at = at_relay(&relay, act.to_relay);
        let relays: Vec<&str> = others.iter().copied().chain([at.as_str()]).collect();
        let start = |part, host: &Host| {
            act.setup(part, host, folder(host)).set("overlay.relays", relays.clone()).start()
        };
        let listener = start(Part::Listener, &self.listener.host);
        let dialer = start(Part::Dialer, &self.dialer.host);
        let meeting = Meeting {
            listener_control: listener.control(),
            dialer_control: dialer.control(),
            relay,
            listener,
            dialer,
            to_relay: act.to_relay,
        };
        match meeting.prepare() {
            Ok(()) => Ok(meeting),
            Err(why) => {
                meeting.strike();
                Err(why)
            }
        }
    }
}

/// Where `relay` is dialled over `transport`, as a multiaddr with its peer id.
///
/// # Panics
/// When it does not listen there.
pub fn at_relay(relay: &Peer, transport: Transport) -> String {
    relay.libp2p_at(transport).unwrap_or_else(|| panic!("no {transport:?} in {:?}", relay.addresses()))
}

/// The address at which `peer` is dialled at `multiaddr`.
pub fn dialable(peer: &Peer, multiaddr: &str) -> String {
    Address::new(Endpoint::Libp2p(multiaddr.to_owned()), peer.key()).to_string()
}

impl Peer {
    /// Where other hosts dial it over `transport` and IPv4, as a multiaddr with its peer id.
    pub fn libp2p_at(&self, transport: Transport) -> Option<String> {
        let own = format!("/ip4/{}/", self.setup().host().v4());
        let multiaddrs =
            self.addresses().iter().filter_map(|text| match text.parse::<Address>().ok()?.endpoint {
                Endpoint::Libp2p(multiaddr) => Some(multiaddr),
                Endpoint::Net { .. } | Endpoint::Unix(_) | Endpoint::Other(_) => None,
            });
        let mut suitable = multiaddrs.filter(|at| at.starts_with(&own) && transport.carries(at));
        suitable.next()
    }
}

/// Three running nodes, ready to meet.
#[derive(Debug)]
pub struct Meeting {
    /// The relay.
    pub relay: Peer,
    /// Who is dialled.
    pub listener: Peer,
    /// Who dials.
    pub dialer: Peer,
    listener_control: Control,
    dialer_control: Control,
    to_relay: Transport,
}

/// How a meeting went. Times are from the moment of the dial.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// When the dialer had a muxrpc session.
    pub session: Option<Duration>,
    /// When the dialer had a direct one, if the listener came to have one too.
    pub direct: Option<Duration>,
    /// What carries the dialer's session in the end, or why there is none.
    pub carrier: String,
}

impl Meeting {
    /// Waits until both know how others reach them, and for the dialer's session with the relay. In this
    /// order, so that the session goes over the connection that the dialer has by then.
    fn prepare(&self) -> Result<(), String> {
        self.known_address()?;
        address_of(&self.dialer_control).map_err(|why| format!("the dialer has {why}"))?;
        let at = dialable(&self.relay, &at_relay(&self.relay, self.to_relay));
        self.dialer_control
            .call("conn.connect", vec![at.into()])
            .map_err(|e| format!("the dialer does not reach the relay: {e}"))?;
        Ok(())
    }

    /// The address by which others know the listener, through the relay.
    ///
    /// # Errors
    /// When it has none in time.
    pub fn known_address(&self) -> Result<String, String> {
        address_of(&self.listener_control).map_err(|why| format!("the listener has {why}"))
    }

    /// Dials the listener through the relay and watches for a direct session for `patience`.
    pub fn dial(&self, patience: Duration) -> Outcome {
        match self.known_address() {
            Ok(address) => self.dial_at(&address, patience),
            Err(why) => Outcome { carrier: why, ..Outcome::default() },
        }
    }

    /// Dials `address`, whatever kind it is of.
    pub fn dial_at(&self, address: &str, patience: Duration) -> Outcome {
        let dialing = self.dialer.control();
        let started = wait::now();
        let deadline = Deadline::after(patience);
        let (connected, direct) = thread::scope(|scope| {
            let dialing = scope.spawn(|| {
                let answer = dialing.call("conn.connect", vec![address.into()]);
                answer.map(|_| wait::now() - started)
            });
            let direct = direct_since(&self.dialer_control, self.listener.id(), started, deadline);
            (dialing.join().unwrap_or_else(|_| Err("the dial panicked".to_owned())), direct)
        });
        let both = direct.is_some()
            && direct_since(&self.listener_control, self.dialer.id(), started, Deadline::after(patience))
                .is_some();
        let carriers = self.dialer_control.status().map(|status| status.carriers(self.listener.id()));
        let carrier = match (&connected, carriers) {
            (Err(why), Ok(carriers)) if carriers.is_empty() => why.clone(),
            (_, Ok(carriers)) => best(&carriers),
            (_, Err(why)) => why,
        };
        Outcome { session: connected.ok(), direct: direct.filter(|_| both), carrier }
    }

    /// The listener's session.
    pub fn listener_control(&self) -> &Control {
        &self.listener_control
    }

    /// The dialer's session.
    pub fn dialer_control(&self) -> &Control {
        &self.dialer_control
    }

    /// Removes what a play left on disk. The nodes end with it.
    pub fn strike(self) {
        let dirs = [&self.relay, &self.listener, &self.dialer].map(|peer| peer.setup().dir().to_owned());
        drop(self);
        for dir in dirs {
            // The lab's folder goes in the end anyway.
            fs::remove_dir_all(dir).ok();
        }
    }
}

/// When a node was first seen to have a direct session with `id`.
fn direct_since(control: &Control, id: &str, started: Instant, deadline: Deadline) -> Option<Duration> {
    wait::closely(deadline, || {
        let status = control.status().ok()?;
        is_direct(&status, id).then(|| wait::now() - started)
    })
}

/// Whether a node has a session with `id` that no relay carries.
pub fn is_direct(status: &Status, id: &str) -> bool {
    status.carriers(id).iter().any(|carrier| carrier != RELAY)
}

/// The carrier that a session has when an older one is still closing.
fn best(carriers: &[String]) -> String {
    let direct = carriers.iter().find(|carrier| *carrier != RELAY);
    direct.or(carriers.first()).cloned().unwrap_or_else(|| "none".to_owned())
}

/// The address of a node through a relay. Also one that needs none takes a reservation at first.
fn address_of(control: &Control) -> Result<String, String> {
    let found = wait::closely(Deadline::after(SOON), || {
        let addresses = control.status().ok()?.addresses();
        addresses.into_iter().find(|at| at.contains("/p2p-circuit"))
    });
    found.ok_or_else(|| match control.status() {
        Ok(status) => format!("no reservation; it is {}", status.verdict()),
        Err(why) => format!("no answer for us: {why}"),
    })
}
