//! Protobuf messages on a stream, each after its length, as libp2p's protocols write them.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Longest length: two times seven bits, for messages below 16 KiB.
const MAX_LENGTH_BYTES: u32 = 2;

/// Writes one message.
pub(super) async fn write<M: prost::Message>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &M,
) -> io::Result<()> {
    stream.write_all(&message.encode_length_delimited_to_vec()).await?;
    stream.flush().await
}

/// Reads one message of at most `limit` bytes.
pub(super) async fn read<M: prost::Message + Default>(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> io::Result<M> {
    let mut bytes = vec![0; read_length(stream, limit).await?];
    stream.read_exact(&mut bytes).await?;
    M::decode(bytes.as_slice()).map_err(invalid)
}

async fn read_length(stream: &mut (impl AsyncRead + Unpin), limit: usize) -> io::Result<usize> {
    let mut length = 0;
    for position in 0..MAX_LENGTH_BYTES {
        let byte = stream.read_u8().await?;
        length |= usize::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            return if length <= limit { Ok(length) } else { Err(invalid("too long")) };
        }
    }
    Err(invalid("too long"))
}

/// What a peer said is wrong.
pub(super) fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
