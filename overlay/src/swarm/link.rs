//! What the rest of the overlay sees of libp2p: byte streams, and facts read off multiaddrs.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use libp2p::core::upgrade::NegotiationError;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _};

use super::streams::Slot;
use crate::conn::{Carrier, Path, PathId, TransportId};
use crate::reachability::{Scope, Target, Transport, scope};

/// Whether a stream failed because the other side does not know its protocol.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    let refused = error.get_ref().and_then(|error| error.downcast_ref::<NegotiationError>());
    matches!(refused, Some(NegotiationError::Failed))
}

/// A libp2p stream as tokio sees byte streams.
#[derive(Debug)]
pub(crate) struct SwarmStream {
    stream: Compat<Stream>,
    _slot: Option<Slot>,
}

impl SwarmStream {
    pub(super) fn outbound(stream: Stream) -> Self {
        Self { stream: stream.compat(), _slot: None }
    }

    pub(super) fn inbound(stream: Stream, slot: Slot) -> Self {
        Self { stream: stream.compat(), _slot: Some(slot) }
    }
}

impl AsyncRead for SwarmStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for SwarmStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Which of our transports an address belongs to.
pub(super) fn carrier(at: &Multiaddr) -> Option<Carrier> {
    if is_relayed(at) {
        return Some(Carrier::Relay);
    }
    at.iter().find_map(|part| {
        if matches!(part, Protocol::QuicV1) {
            Some(Carrier::Quic)
        } else if matches!(part, Protocol::Tcp(_)) {
            Some(Carrier::Tcp)
        } else {
            None
        }
    })
}

/// The IP address that a multiaddr starts with.
pub(super) fn ip(at: &Multiaddr) -> Option<IpAddr> {
    let first = at.iter().next()?;
    if let Protocol::Ip4(ip) = first {
        Some(ip.into())
    } else if let Protocol::Ip6(ip) = first {
        Some(ip.into())
    } else {
        None
    }
}

/// Whether it leads over a relay.
pub(super) fn is_relayed(at: &Multiaddr) -> bool {
    at.iter().any(|part| matches!(part, Protocol::P2pCircuit))
}

/// Whether it is an address that everybody can dial, as far as it shows.
pub(super) fn is_public(at: &Multiaddr) -> bool {
    ip(at).and_then(scope) == Some(Scope::Public)
}

/// Whether it is an address in some local network.
pub(super) fn is_local(at: &Multiaddr) -> bool {
    ip(at).and_then(scope) == Some(Scope::Local)
}

/// The transport, if it is dialled directly.
pub(super) fn transport(at: &Multiaddr) -> Option<Transport> {
    match carrier(at)? {
        Carrier::Quic => Some(Transport::Quic),
        Carrier::Tcp => Some(Transport::Tcp),
        Carrier::Relay | Carrier::Net | Carrier::Unix | Carrier::Ws => None,
    }
}

/// Exactly `/ip…/udp/PORT/quic-v1` or `/ip…/tcp/PORT`, with or without a peer.
pub(super) fn target(at: &Multiaddr) -> Option<Target> {
    let ip = ip(at)?.to_canonical();
    let mut rest = at.iter().skip(1);
    let first = rest.next()?;
    let (transport, port) = if let Protocol::Tcp(port) = first {
        (Transport::Tcp, port)
    } else if let (Protocol::Udp(port), Some(Protocol::QuicV1)) = (first, rest.next()) {
        (Transport::Quic, port)
    } else {
        return None;
    };
    let only_peer = matches!((rest.next(), rest.next()), (None | Some(Protocol::P2p(_)), None));
    only_peer.then_some(Target { transport, at: SocketAddr::new(ip, port) })
}

/// The address that [`target`] reads.
pub(super) fn multiaddr(target: Target) -> Multiaddr {
    let at = Multiaddr::from(target.at.ip());
    match target.transport {
        Transport::Quic => at.with(Protocol::Udp(target.at.port())).with(Protocol::QuicV1),
        Transport::Tcp => at.with(Protocol::Tcp(target.at.port())),
    }
}

/// The relay of a circuit's address, with its peer.
pub(super) fn relay(at: &Multiaddr) -> Option<(Multiaddr, PeerId)> {
    let relay: Multiaddr = at.iter().take_while(|part| !matches!(part, Protocol::P2pCircuit)).collect();
    let peer = split_peer(relay.clone()).1.filter(|_| is_relayed(at))?;
    Some((relay, peer))
}

/// The address of the same host and port by TCP, where one of QUIC is given that everybody can dial. Our own
/// nodes listen on one port by both.
pub(super) fn by_tcp(at: &Multiaddr) -> Option<Multiaddr> {
    let quic = target(at).filter(|target| target.transport == Transport::Quic && is_public(at))?;
    let tcp = multiaddr(Target { transport: Transport::Tcp, ..quic });
    tcp.with_p2p(split_peer(at.clone()).1?).ok()
}

/// The peer that a multiaddr ends in, cut off.
pub(super) fn split_peer(mut at: Multiaddr) -> (Multiaddr, Option<PeerId>) {
    match at.pop() {
        Some(Protocol::P2p(peer)) => (at, Some(peer)),
        Some(other) => {
            at.push(other);
            (at, None)
        }
        None => (at, None),
    }
}

/// A connection as the rest of the overlay names it.
pub(super) fn path(connection: ConnectionId, peer: PeerId) -> Path {
    Path { id: path_id(connection), peer: TransportId(peer.to_base58()) }
}

/// The connection's number.
pub(super) fn path_id(connection: ConnectionId) -> PathId {
    // libp2p shows the number only as text.
    PathId(connection.to_string().parse().unwrap_or(u64::MAX))
}

/// The address as others may dial it.
pub(super) fn with_peer(at: &Multiaddr, peer: PeerId) -> String {
    at.clone().with_p2p(peer).unwrap_or_else(|unchanged| unchanged).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_plain_addresses_of_our_transports_are_targets() {
        let peer = PeerId::random();
        for text in ["/ip4/192.0.2.1/udp/9/quic-v1", "/ip6/2001:db8::1/tcp/9"] {
            let read = target(&at(text)).unwrap();
            assert_eq!((multiaddr(read), read.to_string()), (at(text), text.to_owned()));
            assert_eq!(target(&at(&format!("{text}/p2p/{peer}"))), Some(read));
            assert_eq!(target(&at(&format!("{text}/p2p/{peer}/p2p-circuit"))), None);
            assert_eq!(target(&at(&format!("{text}/ws"))), None);
        }
        for text in
            ["/dns4/a.example/tcp/9", "/ip4/192.0.2.1/udp/9", "/ip4/192.0.2.1", "/ip4/192.0.2.1/udp/9/quic"]
        {
            assert_eq!(target(&at(text)), None, "{text}");
        }
        let mapped = target(&at("/ip6/::ffff:192.0.2.1/tcp/9")).unwrap();
        assert_eq!(mapped.at, "192.0.2.1:9".parse().unwrap());
    }

    #[test]
    fn facts_are_read_off_multiaddrs() {
        let quic = at("/ip4/192.0.2.1/udp/9/quic-v1");
        let tcp = at("/ip6/fd00::1/tcp/9");
        let named = at("/dns4/example.com/tcp/9");
        assert_eq!(carrier(&quic), Some(Carrier::Quic));
        assert_eq!(carrier(&tcp), Some(Carrier::Tcp));
        assert_eq!(carrier(&at("/ip4/192.0.2.1/udp/9")), None);
        assert_eq!(ip(&quic), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(ip(&tcp), Some("fd00::1".parse().unwrap()));
        assert_eq!(ip(&named), None);
        let peer = PeerId::random();
        let relayed = at(&format!("/ip4/192.0.2.1/tcp/9/p2p/{peer}/p2p-circuit"));
        assert!(is_relayed(&relayed) && !is_relayed(&tcp));
        let at_relay = at(&format!("/ip4/192.0.2.1/tcp/9/p2p/{peer}"));
        assert_eq!(relay(&relayed), Some((at_relay.clone(), peer)));
        assert_eq!((relay(&at_relay), by_tcp(&at_relay)), (None, None));
        let of_quic = at(&format!("/ip4/192.0.2.1/udp/9/quic-v1/p2p/{peer}"));
        assert_eq!((by_tcp(&of_quic), by_tcp(&quic)), (Some(at_relay), None));
        assert_eq!(by_tcp(&at(&format!("/ip4/192.168.0.1/udp/9/quic-v1/p2p/{peer}"))), None);
        let with = with_peer(&tcp, peer);
        assert_eq!(split_peer(at(&with)), (tcp.clone(), Some(peer)));
        assert_eq!(split_peer(tcp.clone()), (tcp, None));
    }
}
