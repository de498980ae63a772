//! WebSocket as a link: what ssb-ws listens on and browsers can dial.
//!
//! The WebSocket carries the bytes of SHS, then those of the box stream, in binary messages whose borders mean nothing
//! (multiserver's `ws` plugin). Whoever serves HTTP answers the upgrade with [`accept_key`] and gives the stream to
//! [`Overlay::accept_ws`](crate::Overlay::accept_ws); from there on it is a link as any other, with the same limits
//! and the same gate.
//!
//! What always holds: a peer can make us hold one message of [`MAX_MESSAGE`] bytes, and none at all of ours, since
//! every message is on its way before the next is taken.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, handshake};

/// Longest message that is taken. JS sends one box at a time, at most 4 KiB.
pub const MAX_MESSAGE: usize = 256 * 1024;
/// Longest message that is sent.
const PIECE: usize = 16 * 1024;

/// What answers a client's `Sec-WebSocket-Key` (RFC 6455, 4.2.2).
pub fn accept_key(key: &[u8]) -> String {
    handshake::derive_accept_key(key)
}

/// A byte stream over a WebSocket.
#[derive(Debug)]
pub(crate) struct WsLink<S> {
    socket: WebSocketStream<S>,
    /// Received, but not read.
    rest: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WsLink<S> {
    /// The server's end, once the upgrade is answered.
    pub(crate) async fn server(stream: S) -> Self {
        Self::over(stream, Role::Server).await
    }

    async fn over(stream: S, role: Role) -> Self {
        let limits = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE))
            .write_buffer_size(0);
        let socket = WebSocketStream::from_raw_socket(stream, role, Some(limits)).await;
        Self { socket, rest: Bytes::new() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WsLink<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                // Pings are answered by the socket itself.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "text on a binary socket",
                    )));
                }
                Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed)) | None => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
            }
        }
        let length = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..length]);
        self.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WsLink<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(failed)?;
        let piece = &bytes[..bytes.len().min(PIECE)];
        let message = Message::Binary(Bytes::copy_from_slice(piece));
        Pin::new(&mut self.socket).start_send(message).map_err(failed)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(failed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.socket).poll_close(cx)) {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(failed(error))),
        }
    }
}

/// The line's own error where there is one; anything else is the peer's fault.
fn failed(error: Error) -> io::Error {
    if let Error::Io(error) = error {
        return error;
    }
    if matches!(error, Error::ConnectionClosed | Error::AlreadyClosed) {
        return io::ErrorKind::BrokenPipe.into();
    }
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    async fn pair() -> (WsLink<DuplexStream>, WsLink<DuplexStream>) {
        let (near, far) = tokio::io::duplex(4096);
        tokio::join!(WsLink::server(near), WsLink::over(far, Role::Client))
    }

    #[tokio::test]
    async fn bytes_go_both_ways_whatever_the_borders_of_messages() {
        let (mut near, mut far) = pair().await;
        let sent: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let send = async {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap();
        };
        let receive = async {
            let (mut first, mut rest) = ([0; 10], Vec::new());
            far.read_exact(&mut first).await.unwrap();
            far.read_to_end(&mut rest).await.unwrap();
            [&first[..], &rest].concat()
        };
        let ((), received) = tokio::join!(send, receive);
        assert_eq!(received, sent);
    }

    #[tokio::test]
    async fn what_no_ssb_peer_sends_is_an_error() {
        let (mut near, mut far) = pair().await;
        let text = Message::Text("hello".into());
        Pin::new(&mut far.socket).start_send(text).unwrap();
        far.flush().await.unwrap();
        assert_eq!(near.read(&mut [0; 9]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);

        let (mut near, mut far) = pair().await;
        let large = Message::Binary(vec![0; MAX_MESSAGE + 1].into());
        Pin::new(&mut far.socket).start_send(large).unwrap();
        let mut rest = [0; 9];
        // More than the pipe holds: whoever sends it waits until it is read.
        let read = tokio::select! {
            read = near.read(&mut rest) => read,
            sent = far.flush() => panic!("sent: {sent:?}"),
        };
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_upgrade_is_answered_as_the_standard_says() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
