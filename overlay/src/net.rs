//! Classic SSB over TCP (`net:`): listening and dialling. The streams end in [`crate::conn`], where SHS
//! proves who is at the other end; nothing is believed before that.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tracing::debug;

/// A dial as a whole, name resolution included.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// Head start of each address of a name over the next (RFC 8305 calls it the connection attempt delay).
pub const STAGGER: Duration = Duration::from_millis(250);
/// Most addresses of one name that are tried.
pub const MAX_RESOLVED: usize = 8;

/// Connections that the system may hold before we accept them.
const BACKLOG: i32 = 1024;
/// Pause after a failed accept: out of file descriptors, usually, which polling at once would not mend.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A peer that vanished without a word is noticed after about `KEEPALIVE + 3 * KEEPALIVE_PROBE`.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_PROBE: Duration = Duration::from_secs(10);
/// More bytes than the beginning of what a client says that waits to say the rest.
const SHORT: usize = 4096;
/// As long for data that is on its way.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);

/// Why no connection came of a dial.
#[derive(Debug, thiserror::Error)]
pub enum NetDialError {
    /// The name has no address, or the resolver failed.
    #[error("cannot resolve {host}: {error}")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's reason.
        error: io::Error,
    },
    /// None of its addresses took the connection; the reason of the last.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// No answer within [`DIAL_TIMEOUT`].
    #[error("no answer in time")]
    Timeout,
}

/// Opens a listening socket. IPv6 sockets take IPv6 only, so that `0.0.0.0` and `::` can share a port.
pub fn bind(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // On Unix this lets a restarted node listen while old connections time out; elsewhere it would let
    // two nodes share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Whether listening on any IPv6 address failed only because this system has no IPv6.
pub fn family_is_missing(ip: IpAddr, error: &io::Error) -> bool {
    /// Linux's "address family not supported by protocol".
    const EAFNOSUPPORT: i32 = 97;
    let missing = matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported);
    ip.is_ipv6() && ip.is_unspecified() && (missing || error.raw_os_error() == Some(EAFNOSUPPORT))
}

/// The next connection, to be [tuned](tune) if it is used. Errors are the system's, not a peer's, and are waited out.
pub(crate) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                debug!(%error, "cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Connects to a name or address.
pub(crate) async fn dial(host: &str, port: u16) -> Result<TcpStream, NetDialError> {
    let attempt = async {
        let all = resolve(host, port).await?;
        race(all).await.map_err(NetDialError::Connect)
    };
    let stream = tokio::time::timeout(DIAL_TIMEOUT, attempt).await.map_err(|_| NetDialError::Timeout)??;
    tune(&stream);
    Ok(stream)
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, NetDialError> {
    let failed = |error| NetDialError::Resolve { host: host.to_owned(), error };
    let found = tokio::net::lookup_host((host, port)).await.map_err(failed)?;
    let found = interleave(found);
    if found.is_empty() { Err(failed(io::ErrorKind::NotFound.into())) } else { Ok(found) }
}

/// The resolver's first choice first, then the families in turn: one broken family costs one head start.
fn interleave(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut found = found.peekable();
    let first_is_v6 = found.peek().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = found.partition(|at| at.is_ipv6() == first_is_v6);
    let longest = first.len().max(second.len());
    let in_turn = (0..longest).flat_map(|n| [first.get(n), second.get(n)]);
    in_turn.flatten().copied().take(MAX_RESOLVED).collect()
}

/// Tries each address a little after the one before, or as soon as that has failed.
async fn race(all: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut attempts = FuturesUnordered::new();
    let mut reason = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for next in all {
        attempts.push(TcpStream::connect(next));
        tokio::select! {
            Some(result) = attempts.next() => match result {
                Ok(stream) => return Ok(stream),
                Err(error) => reason = error,
            },
            () = sleep(STAGGER) => {}
        }
    }
    while let Some(result) = attempts.next().await {
        match result {
            Ok(stream) => return Ok(stream),
            Err(error) => reason = error,
        }
    }
    Err(reason)
}

/// Muxrpc packets are small and answered at once, and peers vanish. Best effort: a stream without these
/// works as well, only later.
pub(crate) fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_PROBE);
    let socket = SockRef::from(stream);
    let _ = stream.set_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
}

/// A connection whose short messages are acknowledged when they are read. Clients that write a packet's header and body one
/// after the other and leave Nagle's algorithm on (ssb-client does both) wait for that before they send the second, and
/// the system takes 40 ms for it.
#[derive(Debug)]
pub(crate) struct Prompt(pub(crate) TcpStream);

impl Prompt {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn acknowledge(&self) {
        // Best effort, and for this time only: the system goes back to waiting by itself.
        let _ = SockRef::from(&self.0).set_tcp_quickack(true);
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn acknowledge(&self) {}
}

impl AsyncRead for Prompt {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.0).poll_read(cx, buffer);
        if (1..SHORT).contains(&(buffer.filled().len() - before)) {
            self.acknowledge();
        }
        read
    }
}

impl AsyncWrite for Prompt {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    async fn exchange(listener: TcpListener, host: &str) {
        let port = listener.local_addr().unwrap().port();
        let (dialled, (mut accepted, _)) = tokio::join!(dial(host, port), accept(&listener));
        let mut dialled = dialled.unwrap();
        tune(&accepted);
        assert!(dialled.nodelay().unwrap() && accepted.nodelay().unwrap());
        dialled.write_all(b"hello").await.unwrap();
        let mut buffer = [0; 5];
        accepted.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"hello");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_is_short_is_acknowledged_when_it_is_read() {
        let listener = bind(at("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (dialled, (accepted, _)) = tokio::join!(dial("127.0.0.1", port), accept(&listener));
        let (mut dialled, mut accepted) = (dialled.unwrap(), Prompt(accepted));
        // Who answers is taken to acknowledge by its answers.
        for _ in 0..3 {
            dialled.write_all(b"hello").await.unwrap();
            accepted.read_exact(&mut [0; 5]).await.unwrap();
            assert!(SockRef::from(&accepted.0).tcp_quickack().unwrap());
            accepted.write_all(b"hello").await.unwrap();
            dialled.read_exact(&mut [0; 5]).await.unwrap();
        }
        assert!(!SockRef::from(&dialled).tcp_quickack().unwrap(), "others wait");
    }

    #[tokio::test]
    async fn both_families_listen_on_one_port_and_are_dialled_by_address() {
        let v4 = bind(at("127.0.0.1:0")).unwrap();
        let port = v4.local_addr().unwrap().port();
        let v6 = bind(SocketAddr::new("::".parse().unwrap(), port)).unwrap();
        exchange(v4, "127.0.0.1").await;
        exchange(v6, "::1").await;
    }

    #[tokio::test]
    async fn a_name_with_a_dead_address_is_reached_at_the_other() {
        // `localhost` is both ::1 and 127.0.0.1 almost everywhere; only one of them listens.
        exchange(bind(at("127.0.0.1:0")).unwrap(), "localhost").await;
    }

    #[tokio::test]
    async fn the_race_goes_on_to_the_next_address_when_one_refuses() {
        let dead = at("127.0.0.2:9");
        let listener = bind(at("127.0.0.1:0")).unwrap();
        let stream = race(vec![dead, listener.local_addr().unwrap()]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_port_in_use_cannot_be_taken() {
        let first = bind(at("127.0.0.1:0")).unwrap();
        let error = bind(first.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn dial_errors_say_whether_the_name_or_the_peer_failed() {
        let closed = bind(at("127.0.0.1:0")).unwrap().local_addr().unwrap().port();
        assert!(matches!(dial("127.0.0.1", closed).await, Err(NetDialError::Connect(_))));
        assert!(matches!(dial("no-such-host.invalid", 1).await, Err(NetDialError::Resolve { .. })));
    }

    #[test]
    fn families_take_turns_and_are_cut_off() {
        let v4 = |n| SocketAddr::from((Ipv4Addr::new(10, 0, 0, n), 1));
        let v6 = |n| SocketAddr::new(format!("fd00::{n}").parse().unwrap(), 1);
        let found = [v6(1), v6(2), v6(3), v4(1)];
        assert_eq!(interleave(found.into_iter()), [v6(1), v4(1), v6(2), v6(3)]);
        assert_eq!(interleave((0..50).map(v4)).len(), MAX_RESOLVED);
    }
}
