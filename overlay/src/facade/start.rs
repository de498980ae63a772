//! Starting the overlay's parts, each of which says what is wrong if it does not start.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::addresses::Listening;
use super::hub::{Context, Incoming};
use super::{Config, Event, Failure};
use crate::address::Endpoint;
use crate::beacon;
use crate::lan::{self, Interfaces, Lan};
use crate::net;
use crate::reachability::AddressPolicy;
use crate::swarm::{self, SwarmStartError};
use crate::unix::{self, UnixBindError};

/// How many accepted links and beacons may wait for the hub.
pub(super) const QUEUE: usize = 64;

/// Which part of the overlay does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A `net:` listener.
    #[error(
        "cannot listen on {at}: {error}; is another SSB server running? Stop it, or choose another port \
         with --set port=PORT"
    )]
    Net {
        /// Where.
        at: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The socket file.
    #[error(transparent)]
    Unix(#[from] UnixBindError),
    /// The swarm.
    #[error(transparent)]
    Swarm(#[from] SwarmStartError),
}

/// Tasks that end at shutdown.
pub(super) struct Services {
    pub(super) tasks: JoinSet<&'static str>,
    pub(super) shutdown: CancellationToken,
}

impl Services {
    pub(super) fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            shutdown.run_until_cancelled_owned(task).await;
            name
        });
    }
}

pub(super) fn bind_net(all: &[SocketAddr], context: &Context) -> Result<Vec<TcpListener>, StartError> {
    let mut listeners = Vec::new();
    for &at in all {
        match net::bind(at) {
            Ok(listener) => listeners.push(listener),
            Err(error) if net::family_is_missing(at.ip(), &error) => {
                let address = format!("net:{at}");
                context.tell(Event::Failed(Failure::Listener { address, error }));
            }
            Err(error) => return Err(StartError::Net { at, error }),
        }
    }
    Ok(listeners)
}

pub(super) async fn listen_net(listener: TcpListener, incoming: mpsc::Sender<Incoming>) {
    loop {
        let (stream, remote) = net::accept(&listener).await;
        if incoming.send(Incoming::Net(stream, remote)).await.is_err() {
            return;
        }
        // Sessions have their turn between two of a crowd.
        tokio::task::yield_now().await;
    }
}

pub(super) async fn listen_unix(socket: unix::Socket, incoming: mpsc::Sender<Incoming>) {
    loop {
        let stream = socket.accept().await;
        if incoming.send(Incoming::Unix(stream, socket.path().to_owned())).await.is_err() {
            return;
        }
    }
}

pub(super) async fn start_swarm(
    config: &Config,
    context: &Context,
    services: &mut Services,
) -> Result<(Option<swarm::Handle>, mpsc::Receiver<swarm::Event>), StartError> {
    let Some(mut settings) = config.swarm.clone() else { return Ok((None, mpsc::channel(1).1)) };
    // An mDNS responder cannot only listen.
    settings.mdns &= config.lan.announce;
    let setup = swarm::Setup {
        seed: config.node_key,
        announce: config.lan.announce.then_some(context.own),
        interfaces: None,
        policy: AddressPolicy::Internet,
        counters: Arc::clone(&context.counters),
        keypair: Arc::clone(&config.local.keypair),
        network: config.local.network,
    };
    let (handle, events, event_loop) = swarm::start(&settings, setup).await?;
    services.spawn("swarm", event_loop.run(services.shutdown.clone()));
    Ok((Some(handle), events))
}

pub(super) fn start_lan(
    config: &Config,
    net: &[SocketAddr],
    context: &Context,
    services: &mut Services,
) -> mpsc::Receiver<beacon::Output> {
    let identity =
        lan::Identity { keypair: Arc::clone(&config.local.keypair), network: config.local.network };
    let (out, heard) = mpsc::channel(QUEUE);
    let (lan, failed) = Lan::bind(config.lan.clone(), identity, net.to_vec(), out);
    for error in failed {
        context.tell(Event::Failed(error.into()));
    }
    if config.lan.plain.is_some() || config.lan.encrypted.is_some() {
        services.spawn("beacon", lan.run());
    }
    heard
}

pub(super) fn tell_addresses(listening: &Listening, context: &Context) {
    for (_, address) in listening.all(&interfaces()) {
        // The swarm reports its own, also later ones.
        if !matches!(address.endpoint, Endpoint::Libp2p(_)) {
            context.tell(Event::Listening(address));
        }
    }
}

pub(super) fn interfaces() -> Interfaces {
    Interfaces::read().unwrap_or_else(|error| {
        debug!(%error, "cannot read the interfaces");
        Interfaces::default()
    })
}
