//! One libp2p stream under a session.

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};

use super::super::StreamNo;
use super::Meter;
use crate::conn::Link;

/// What a read asks for at least and at most; in between it follows what the stream gives. A quiet session keeps
/// the least.
const MIN_READ: usize = 128;
const MAX_READ: usize = 64 * 1024;

/// The stream and what is half done on it.
pub(super) struct Lane {
    pub(super) no: StreamNo,
    stream: Box<dyn Link>,
    /// Where a relay limits what it carries.
    pub(super) meter: Option<Meter>,
    /// Whoever finds other circuits was told that this one's grant runs out.
    pub(super) runs_out: bool,
    /// Read, but no whole frame yet.
    pub(super) line: BytesMut,
    read_size: usize,
    /// A frame that is being written.
    out: Bytes,
    unflushed: bool,
    /// No longer used; gone by then.
    pub(super) closing: Option<Instant>,
}

impl Lane {
    pub(super) fn new(no: StreamNo, stream: Box<dyn Link>, meter: Option<Meter>) -> Self {
        let (line, out) = (BytesMut::new(), Bytes::new());
        let (read_size, runs_out, unflushed) = (MIN_READ, false, false);
        Self { no, stream, meter, runs_out, line, read_size, out, unflushed, closing: None }
    }

    /// Whether its grant has begun to run out since this was asked last.
    pub(super) fn begins_to_run_out(&mut self) -> bool {
        let now = self.meter.as_ref().is_some_and(|meter| meter.allowance().runs_out());
        now && !std::mem::replace(&mut self.runs_out, true)
    }

    /// Reads what is there; how much, 0 at the end.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.line.is_empty() && self.line.capacity() > 2 * self.read_size {
            self.line = BytesMut::new();
        }
        self.line.reserve(self.read_size);
        let read = pin!(self.stream.read_buf(&mut self.line)).poll(cx);
        if let Poll::Ready(Ok(read)) = read {
            self.read_size = if read >= self.read_size { read * 2 } else { read.next_power_of_two() };
            self.read_size = self.read_size.clamp(MIN_READ, MAX_READ);
        }
        read
    }

    /// Writes frames for as long as the stream takes them and there are any. Ready when there are none.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        mut next: impl FnMut() -> Option<Bytes>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.out.is_empty() {
                let Some(frame) = next() else { break };
                self.out = frame;
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.out) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => self.out.advance(written),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
            self.unflushed = true;
        }
        self.out = Bytes::new();
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(flushed) => flushed?,
                Poll::Pending => return Poll::Pending,
            }
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Says that nothing more comes.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
