//! Short talks on streams that are not a session's: the first frame of what a peer opens, one frame to refuse or to
//! ask, and a question that any living peer answers.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use libp2p::core::upgrade::NegotiationError;
use libp2p::swarm::ConnectionId;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tracing::debug;

use super::super::SwarmStream;
use crate::carrier::link::MobileId;
use crate::carrier::{FIRST_FRAME_HEADER, Frame, MAX_FIRST_FRAME};

/// How long such a talk may take.
const TALK: Duration = Duration::from_secs(10);

/// What came of it.
pub(crate) enum Greeted {
    /// The first frame of a stream, and not a byte more.
    Frame { connection: ConnectionId, frame: Frame, stream: Box<SwarmStream> },
    /// The path of a session lives.
    Lives(MobileId, ConnectionId),
    /// A connection that has to live does not.
    Dead(ConnectionId),
}

/// Reads what a stream is for.
pub(super) async fn read_first(connection: ConnectionId, mut stream: SwarmStream) -> Option<Greeted> {
    let frame = match timeout(TALK, first_frame(&mut stream)).await.map_err(io::Error::from).flatten() {
        Ok(frame) => frame,
        Err(error) => {
            debug!(%connection, %error, "a stream says nothing of a session");
            return None;
        }
    };
    Some(Greeted::Frame { connection, frame, stream: Box::new(stream) })
}

async fn first_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let mut line = BytesMut::zeroed(FIRST_FRAME_HEADER);
    stream.read_exact(&mut line).await?;
    let len = usize::from(u16::from_be_bytes([line[1], line[2]]));
    if len > MAX_FIRST_FRAME {
        return Err(io::ErrorKind::InvalidData.into());
    }
    line.resize(FIRST_FRAME_HEADER + len, 0);
    stream.read_exact(&mut line[FIRST_FRAME_HEADER..]).await?;
    let frame = Frame::decode(&mut line).map_err(io::Error::other)?;
    frame.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Says one frame. A refusal by the peer is left to whoever waits for what was asked.
pub(super) async fn say(mut stream: SwarmStream, frame: Bytes) -> Option<Greeted> {
    let say = async {
        stream.write_all(&frame).await?;
        stream.flush().await?;
        stream.shutdown().await?;
        // Until the peer has read it: dropped earlier, a stream takes its last bytes with it.
        stream.read(&mut [0]).await
    };
    let said = timeout(TALK, say).await;
    debug!(?said, "said one frame");
    None
}

/// Whether the peer says that it does not speak the stream's protocol: nobody does.
pub(super) async fn hear_refusal(mut stream: SwarmStream) -> bool {
    let heard = timeout(TALK, stream.read(&mut [0])).await.map_err(io::Error::from).flatten();
    let refused = heard.as_ref().err().and_then(io::Error::get_ref);
    refused.is_some_and(|error| matches!(error.downcast_ref(), Some(NegotiationError::Failed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::carrier::{Claim, SessionId};

    /// What comes of a stream that says this and is then closed, and how much of it is left for the session.
    async fn read(mut said: &[u8]) -> (Result<Frame, io::ErrorKind>, usize) {
        let frame = first_frame(&mut said).await.map_err(|error| error.kind());
        (frame, said.len())
    }

    #[tokio::test]
    async fn a_first_frame_is_read_and_not_a_byte_more() {
        let attach = Frame::Attach(Claim { sid: SessionId([7; 16]), epoch: 1, recv: 2, mac: [3; 32] });
        for frame in [Frame::Open(SessionId([7; 16])), attach] {
            let said = [&frame.encode()[..], b"what follows"].concat();
            assert_eq!(read(&said).await, (Ok(frame), 12));
        }
    }

    #[tokio::test]
    async fn what_is_no_first_frame_is_not_waited_for() {
        let (oversize, half) = ([2, 0, 61], &Frame::Ack(9).encode()[..5]);
        for (said, error) in [
            // Longer than any first frame: nothing of its body has to come.
            (&oversize[..], io::ErrorKind::InvalidData),
            (&[4, 0xff, 0xff], io::ErrorKind::InvalidData),
            // No frame at all, and one of the wrong length.
            (&[9, 0, 0], io::ErrorKind::Other),
            (&[1, 0, 1, 7], io::ErrorKind::Other),
            // Less than a frame.
            (&[1, 0], io::ErrorKind::UnexpectedEof),
            (half, io::ErrorKind::UnexpectedEof),
        ] {
            assert_eq!(read(said).await.0, Err(error), "{said:?}");
        }
    }
}
