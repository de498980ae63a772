//! The conversations, each on its stream. Whoever spawns them sets the deadline.

use std::io;

use libp2p::Multiaddr;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::super::SwarmStream;
use super::wire::{
    self, DialBack, DialBackResponse, DialDataRequest, DialDataResponse, DialRequest, DialResponse,
    DialStatus, Kind, Message, ResponseStatus, invalid,
};

/// Most data that we send so that we are dialled; the specification asks for 30 to 100 KB.
pub(super) const MAX_DATA: u64 = 100_000;
/// Of that in one message.
const DATA_CHUNK: usize = 4096;
/// Most addresses of a question; further ones are not looked at.
pub(super) const MAX_ADDRESSES: usize = 8;

/// A server's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Reached,
    NotReached,
    Refused,
}

/// A client's question, and where the answer goes.
pub(crate) struct Question {
    /// `None` for those that are no multiaddrs.
    pub(super) addresses: Vec<Option<Multiaddr>>,
    pub(super) nonce: u64,
    pub(super) stream: SwarmStream,
}

/// Asks about one address.
pub(super) async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: &Multiaddr,
    nonce: u64,
) -> io::Result<Said> {
    let request = DialRequest { addrs: vec![address.to_vec()], nonce };
    wire::write(&mut stream, &Message { kind: Some(Kind::Request(request)) }).await?;
    let said = match wire::read::<Message>(&mut stream).await?.kind {
        Some(Kind::Response(response)) => response,
        Some(Kind::DataRequest(wanted)) => {
            send_data(&mut stream, wanted).await?;
            match wire::read::<Message>(&mut stream).await?.kind {
                Some(Kind::Response(response)) => response,
                Some(Kind::Request(_) | Kind::DataRequest(_) | Kind::DataResponse(_)) | None => {
                    return Err(invalid("no answer to the data"));
                }
            }
        }
        Some(Kind::Request(_) | Kind::DataResponse(_)) | None => {
            return Err(invalid("no answer to a dial request"));
        }
    };
    parse(said)
}

async fn send_data(stream: &mut (impl AsyncWrite + Unpin), wanted: DialDataRequest) -> io::Result<()> {
    if wanted.addr_idx != 0 || wanted.num_bytes > MAX_DATA {
        return Err(invalid("a server asks for too much data"));
    }
    let mut left = usize::try_from(wanted.num_bytes).map_err(invalid)?;
    while left > 0 {
        let chunk = left.min(DATA_CHUNK);
        let data = DialDataResponse { data: vec![0; chunk] };
        wire::write(stream, &Message { kind: Some(Kind::DataResponse(data)) }).await?;
        left -= chunk;
    }
    Ok(())
}

fn parse(response: DialResponse) -> io::Result<Said> {
    match ResponseStatus::try_from(response.status).map_err(invalid)? {
        ResponseStatus::ERequestRejected | ResponseStatus::EDialRefused => return Ok(Said::Refused),
        ResponseStatus::EInternalError => return Err(invalid("the server failed")),
        ResponseStatus::Ok if response.addr_idx != 0 => return Err(invalid("an address not asked for")),
        ResponseStatus::Ok => {}
    }
    match DialStatus::try_from(response.dial_status).map_err(invalid)? {
        DialStatus::Ok => Ok(Said::Reached),
        DialStatus::EDialError => Ok(Said::NotReached),
        // It says that it got through, and then no stream: that is about the peer, not the address.
        DialStatus::EDialBackError => Err(invalid("the dial-back's stream failed")),
        DialStatus::Unused => Err(invalid("an answer without a result")),
    }
}

/// Reads a client's question.
pub(super) async fn read_question(mut stream: SwarmStream) -> io::Result<Question> {
    let message = wire::read::<Message>(&mut stream).await?;
    let Some(Kind::Request(request)) = message.kind else { return Err(invalid("no dial request")) };
    let addresses = request.addrs.into_iter().take(MAX_ADDRESSES).map(|at| Multiaddr::try_from(at).ok());
    Ok(Question { addresses: addresses.collect(), nonce: request.nonce, stream })
}

/// Answers it.
pub(super) async fn answer(
    mut stream: impl AsyncWrite + Unpin,
    status: ResponseStatus,
    index: u32,
    dial: DialStatus,
) -> io::Result<()> {
    let response = DialResponse { status: status.into(), addr_idx: index, dial_status: dial.into() };
    wire::write(&mut stream, &Message { kind: Some(Kind::Response(response)) }).await?;
    stream.shutdown().await
}

/// Brings a client's number back to it, and waits until it says that it arrived.
pub(super) async fn bring(mut stream: impl AsyncRead + AsyncWrite + Unpin, nonce: u64) -> io::Result<()> {
    wire::write(&mut stream, &DialBack { nonce }).await?;
    let DialBackResponse { status } = wire::read(&mut stream).await?;
    if status == 0 { Ok(()) } else { Err(invalid("the dial-back was not accepted")) }
}

/// Reads a number that comes back.
pub(super) async fn read_nonce<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<(u64, S)> {
    let DialBack { nonce } = wire::read(&mut stream).await?;
    Ok((nonce, stream))
}

/// Says that it arrived.
pub(super) async fn confirm(mut stream: impl AsyncWrite + Unpin) -> io::Result<()> {
    wire::write(&mut stream, &DialBackResponse { status: 0 }).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `ask` makes of these messages, and what it sent.
    async fn told(messages: &[Kind]) -> (io::Result<Said>, usize) {
        let (client, mut server) = tokio::io::duplex(1 << 20);
        for kind in messages {
            wire::write(&mut server, &Message { kind: Some(kind.clone()) }).await.unwrap();
        }
        let said = ask(client, &"/ip4/192.0.2.1/tcp/9".parse().unwrap(), 7).await;
        let mut data = 0;
        while let Ok(message) = wire::read::<Message>(&mut server).await {
            if let Some(Kind::DataResponse(DialDataResponse { data: chunk })) = message.kind {
                data += chunk.len();
            }
        }
        (said, data)
    }

    fn response(status: i32, addr_idx: u32, dial_status: i32) -> Kind {
        Kind::Response(DialResponse { status, addr_idx, dial_status })
    }

    fn data(addr_idx: u32, num_bytes: u64) -> Kind {
        Kind::DataRequest(DialDataRequest { addr_idx, num_bytes })
    }

    #[tokio::test]
    async fn each_answer_is_taken_for_what_it_says() {
        let table = [
            (response(200, 0, 200), Some(Said::Reached)),
            (response(200, 0, 100), Some(Said::NotReached)),
            (response(200, 0, 101), None),
            (response(200, 0, 0), None),
            (response(200, 1, 200), None),
            (response(101, 0, 0), Some(Said::Refused)),
            (response(100, 0, 0), Some(Said::Refused)),
            (response(0, 0, 0), None),
            (response(5, 0, 0), None),
        ];
        for (kind, expected) in table {
            let (said, sent) = told(std::slice::from_ref(&kind)).await;
            assert_eq!((said.ok(), sent), (expected, 0), "{kind:?}");
        }
    }

    #[tokio::test]
    async fn data_is_sent_once_and_within_bounds() {
        let ok = response(200, 0, 200);
        let (said, sent) = told(&[data(0, 100_000), ok.clone()]).await;
        assert_eq!((said.unwrap(), sent), (Said::Reached, 100_000));
        for asked in [data(0, 100_001), data(1, 30_000), data(0, u64::MAX)] {
            let (said, sent) = told(&[asked, ok.clone()]).await;
            assert!(said.is_err());
            assert_eq!(sent, 0);
        }
        let (said, sent) = told(&[data(0, 30_001), data(0, 30_000)]).await;
        assert!(said.is_err());
        assert_eq!(sent, 30_001);
    }

    #[tokio::test]
    async fn a_number_that_was_brought_is_confirmed() {
        let (server, client) = tokio::io::duplex(1024);
        let receive = async {
            let (nonce, stream) = read_nonce(client).await.unwrap();
            confirm(stream).await.unwrap();
            nonce
        };
        let (brought, nonce) = tokio::join!(bring(server, u64::MAX), receive);
        brought.unwrap();
        assert_eq!(nonce, u64::MAX);
    }
}
