//! What idle sessions keep in memory: overlays in one process that have nothing but sessions.

use std::process;
use std::sync::Arc;
use std::time::Duration;

use hawsepipe_overlay::address::Endpoint;
use hawsepipe_overlay::conn::{Connection, Local, Session};
use hawsepipe_overlay::keys::{NetworkKey, PublicKey};
use hawsepipe_overlay::lan::LanConfig;
use hawsepipe_overlay::swarm::{DhtConfig, DhtService, SwarmConfig};
use hawsepipe_overlay::{Config, Event, Events, Limits, Overlay};
use hawsepipe_tests::control::Open;
use hawsepipe_tests::rogue::identity;
use hawsepipe_tests::usage::Usage;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::super::say;
use super::{Form, median};

/// Overlays that dial one, and how often each: as many streams as a connection may have.
const CLIENTS: usize = 40;
const SESSIONS: usize = 8;
/// How often each form is measured.
const TIMES: usize = 3;
/// Until what a handshake needed is given back and nothing is on its way.
const SETTLED: Duration = Duration::from_secs(2);
/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Prints what `of` finds.
pub(super) fn measure(of: impl Fn(Form) -> f64) {
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..TIMES {
        for (form, figures) in Form::BOTH.into_iter().zip(&mut figures) {
            figures.push(of(form));
        }
    }
    let [carried, plain] = figures.map(median);
    say("| bytes of an idle session at one end | carrier | plain | more (asked: 4096) |");
    say("|---|---|---|---|");
    say(format_args!("| memory | {carried:.0} | {plain:.0} | {:.0} |", carried - plain));
}

/// What a session takes at one end in this process, in bytes.
pub(super) fn bytes_of_a_session(form: Form) -> f64 {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(sessions(form))
}

/// Everything that a session is.
struct Kept {
    sessions: Vec<Session>,
    drivers: JoinSet<()>,
}

impl Kept {
    fn keep(&mut self, connection: Connection) {
        let Connection { session, driver, calls } = connection;
        drop(calls);
        self.sessions.push(session);
        self.drivers.spawn(async move {
            driver.run().await;
        });
    }
}

/// An overlay and what it tells.
struct Running {
    overlay: Overlay,
    events: Events,
    key: PublicKey,
}

async fn start(form: Form) -> Running {
    let keypair = identity();
    let key = PublicKey::from_bytes(keypair.public.0);
    let local = Local {
        network: NetworkKey::MAIN,
        gate: Arc::new(Open),
        handshake_timeout: PATIENCE,
        keypair: Arc::new(keypair),
    };
    let swarm = SwarmConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
        mdns: false,
        carrier: form.is_carried(),
        dht: DhtConfig { service: DhtService::Off, ..DhtConfig::default() },
        ..SwarmConfig::default()
    };
    let config = Config {
        local,
        node_key: identity().public.0,
        net_listen: Vec::new(),
        unix: None,
        ws: Vec::new(),
        swarm: Some(swarm),
        lan: LanConfig::OFF,
        limits: Limits::default(),
    };
    let (overlay, events) = Overlay::start(config).await.unwrap_or_else(|why| panic!("{why}"));
    Running { overlay, events, key }
}

impl Running {
    /// The next session that somebody begins.
    async fn connected(&mut self) -> Connection {
        let next = async {
            loop {
                match self.events.next().await {
                    Some(Event::Connected(connection)) => return connection,
                    Some(_) => {}
                    None => panic!("the overlay ended"),
                }
            }
        };
        timeout(PATIENCE, next).await.expect("a session that was dialled stands at both ends")
    }
}

async fn sessions(form: Form) -> f64 {
    let mut server = start(form).await;
    let mut addresses = server.overlay.addresses().into_iter().map(|address| address.endpoint);
    let at = addresses.find(|endpoint| matches!(endpoint, Endpoint::Libp2p(_)));
    let at = at.expect("the server listens");
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(start(form).await);
    }
    let mut kept = Kept { sessions: Vec::new(), drivers: JoinSet::new() };
    let mut before = 0.0;
    for round in 0..SESSIONS {
        if round == 1 {
            // The first session of each has made the connection.
            sleep(SETTLED).await;
            before = Usage::of(process::id()).now_mb;
        }
        for client in &clients {
            let dialled = client.overlay.dial(server.key, &at).await;
            kept.keep(dialled.unwrap_or_else(|why| panic!("{why}")));
            kept.keep(server.connected().await);
        }
    }
    sleep(SETTLED).await;
    let bytes = (Usage::of(process::id()).now_mb - before) * 1024.0 * 1024.0;
    assert_eq!((kept.drivers.len(), kept.sessions.len()), (2 * CLIENTS * SESSIONS, 2 * CLIENTS * SESSIONS));
    assert!(kept.drivers.try_join_next().is_none(), "all sessions live");
    bytes / (2 * CLIENTS * (SESSIONS - 1)) as f64
}
