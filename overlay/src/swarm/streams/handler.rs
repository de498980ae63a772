//! One connection's part of [`super::Behaviour`].

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::Stream;
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedOutbound};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol};
use tracing::debug;

use super::{MAX_INBOUND_PER_CONNECTION, Offers, OpenError, OpenId, Protocol};

/// Open a stream.
#[derive(Debug)]
pub(crate) struct Request {
    pub(super) id: OpenId,
    pub(super) protocol: Protocol,
}

/// What became of a request, or a stream that the peer opened.
#[derive(Debug)]
pub(crate) enum ToBehaviour {
    Opened { id: OpenId, stream: Stream },
    Failed { id: OpenId, error: OpenError },
    Inbound { protocol: Protocol, stream: Stream, slot: Slot },
}

/// A place among the streams that the peer holds on its connection; freed when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    _taken: Arc<()>,
}

/// Negotiates streams and passes them on.
pub(crate) struct Handler {
    offered: Vec<Protocol>,
    offers: Arc<Offers>,
    requests: VecDeque<Request>,
    out: VecDeque<ToBehaviour>,
    slots: Arc<()>,
}

impl Handler {
    /// `offers` says what of `offered` is left out at the moment.
    pub(super) fn new(offered: Vec<Protocol>, offers: Arc<Offers>) -> Self {
        Self { offered, offers, requests: VecDeque::new(), out: VecDeque::new(), slots: Arc::new(()) }
    }

    /// The swarm does not negotiate further streams before [`Self::poll`] has passed this one on, so the
    /// queue holds a handful at most; what the peer can pile up is what it holds open.
    fn inbound(&mut self, stream: Stream, protocol: Protocol) {
        if Arc::strong_count(&self.slots) > MAX_INBOUND_PER_CONNECTION {
            debug!(protocol = protocol.name(), "a peer has too many streams open");
            return;
        }
        let slot = Slot { _taken: Arc::clone(&self.slots) };
        self.out.push_back(ToBehaviour::Inbound { protocol, stream, slot });
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Request;
    type ToBehaviour = ToBehaviour;
    type InboundProtocol = Offer;
    type OutboundProtocol = Ask;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenId;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        let mut offered = self.offered.clone();
        offered.retain(|protocol| self.offers.include(*protocol));
        SubstreamProtocol::new(Offer(offered), ())
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Ask, OpenId, ToBehaviour>> {
        // Both queues are filled by the connection's task between two calls of this.
        if let Some(event) = self.out.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event));
        }
        self.requests.pop_front().map_or(Poll::Pending, |Request { id, protocol }| {
            let protocol = SubstreamProtocol::new(Ask(protocol), id);
            Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
        })
    }

    fn on_behaviour_event(&mut self, request: Request) {
        self.requests.push_back(request);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offer, Ask, (), OpenId>) {
        if let ConnectionEvent::FullyNegotiatedInbound(new) = event {
            let (stream, protocol) = new.protocol;
            self.inbound(stream, protocol);
        } else if let ConnectionEvent::FullyNegotiatedOutbound(opened) = event {
            let FullyNegotiatedOutbound { protocol: stream, info: id } = opened;
            self.out.push_back(ToBehaviour::Opened { id, stream });
        } else if let ConnectionEvent::DialUpgradeError(failed) = event {
            let DialUpgradeError { info: id, error } = failed;
            self.out.push_back(ToBehaviour::Failed { id, error: open_error(error) });
        }
    }
}

fn open_error(error: StreamUpgradeError<Infallible>) -> OpenError {
    match error {
        StreamUpgradeError::Timeout => OpenError::Timeout,
        StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
        StreamUpgradeError::Io(error) => OpenError::Io(error),
    }
}

/// The protocols that we answer to.
#[derive(Clone, Debug)]
pub(crate) struct Offer(Vec<Protocol>);

impl UpgradeInfo for Offer {
    type Info = Protocol;
    type InfoIter = std::vec::IntoIter<Protocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Offer {
    type Output = (Stream, Protocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: Protocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

/// The protocol that we ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask(Protocol);

impl UpgradeInfo for Ask {
    type Info = Protocol;
    type InfoIter = std::iter::Once<Protocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(self.0)
    }
}

impl OutboundUpgrade<Stream> for Ask {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, _: Protocol) -> Self::Future {
        ready(Ok(stream))
    }
}
