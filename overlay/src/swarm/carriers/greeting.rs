//! Short talks on streams that are not a session's: the first frame of what a peer opens, one frame to refuse or to
//! ask, and a question that any living peer answers.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use libp2p::core::upgrade::NegotiationError;
use libp2p::swarm::ConnectionId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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

async fn first_frame(stream: &mut SwarmStream) -> io::Result<Frame> {
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
