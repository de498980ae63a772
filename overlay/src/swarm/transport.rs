//! The transports under the swarm: QUIC, TCP with Noise and Yamux, and names for both.

use std::io;
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::transport::{Boxed, OrTransport};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport as _, dns, noise, quic, relay, tcp, yamux};
use tracing::warn;

/// A connection attempt as a whole, security and multiplexing included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const QUIC_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(6);
/// Silence after which a QUIC connection is dead, in milliseconds: three keep-alives, each sent again when
/// it is lost. Nothing else tells that a NAT has forgotten us.
const QUIC_IDLE_TIMEOUT: u32 = 15_000;
const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Windows are a promise of memory to every peer. One MiB keeps 40 ms at 25 MB/s full.
const QUIC_STREAM_WINDOW: u32 = 1 << 20;
const QUIC_CONNECTION_WINDOW: u32 = 4 << 20;
const QUIC_STREAMS: u32 = 32;
const YAMUX_STREAMS: usize = 32;

/// Why there is no transport.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up Noise: {0}")]
pub(crate) struct NoiseError(#[from] noise::Error);

pub(super) type Transport = Boxed<(PeerId, StreamMuxerBox)>;
type Secured = Boxed<(PeerId, StreamMuxerBox)>;

/// The whole stack. A system without a resolver configuration can still dial by address.
pub(super) fn build(key: &Keypair, circuits: relay::client::Transport) -> Result<Transport, NoiseError> {
    let circuits = secured(circuits, key)?;
    match dns::tokio::Transport::system(by_address(key)?) {
        Ok(direct) => Ok(bounded(either(circuits, direct))),
        Err(error) => {
            report(&error);
            Ok(bounded(either(circuits, by_address(key)?)))
        }
    }
}

/// Circuits first: their addresses begin with those of a direct transport.
fn either<T>(
    circuits: Secured,
    direct: T,
) -> impl libp2p::Transport<
    Output = (PeerId, StreamMuxerBox),
    Error: Send + Sync,
    Dial: Send,
    ListenerUpgrade: Send,
> + Send
+ Unpin
where
    T: libp2p::Transport<Output = (PeerId, StreamMuxerBox)> + Send + Unpin + 'static,
    T::Error: Send + Sync + 'static,
    T::Dial: Send,
    T::ListenerUpgrade: Send,
{
    OrTransport::new(circuits, direct.boxed()).map(|either, _| either.into_inner())
}

fn report(error: &io::Error) {
    warn!(%error, "no name resolution for libp2p: peers are only dialled by address");
}

fn bounded<T>(transport: T) -> Transport
where
    T: libp2p::Transport<Output = (PeerId, StreamMuxerBox)> + Send + Unpin + 'static,
    T::Error: Send + Sync + 'static,
    T::Dial: Send,
    T::ListenerUpgrade: Send,
{
    TransportTimeout::new(transport, CONNECT_TIMEOUT).boxed()
}

fn by_address(key: &Keypair) -> Result<Transport, NoiseError> {
    let tcp = secured(tcp::tokio::Transport::new(tcp::Config::new().nodelay(true)), key)?;
    let quic = quic::tokio::Transport::new(quic_config(key))
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    Ok(OrTransport::new(quic, tcp).map(|either, _| either.into_inner()).boxed())
}

/// Noise and Yamux on a transport that has neither. Both ends know what comes, so the names are not
/// waited for.
fn secured<T>(transport: T, key: &Keypair) -> Result<Secured, NoiseError>
where
    T: libp2p::Transport + Send + Unpin + 'static,
    T::Output: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    T::Error: Send + Sync + 'static,
    T::Dial: Send + 'static,
    T::ListenerUpgrade: Send + 'static,
{
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(YAMUX_STREAMS);
    Ok(transport
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key)?)
        .multiplex(yamux)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed())
}

fn quic_config(key: &Keypair) -> quic::Config {
    let mut config = quic::Config::new(key);
    config.handshake_timeout = QUIC_HANDSHAKE_TIMEOUT;
    config.max_idle_timeout = QUIC_IDLE_TIMEOUT;
    config.keep_alive_interval = QUIC_KEEP_ALIVE;
    config.max_concurrent_stream_limit = QUIC_STREAMS;
    config.max_stream_data = QUIC_STREAM_WINDOW;
    config.max_connection_data = QUIC_CONNECTION_WINDOW;
    config
}
