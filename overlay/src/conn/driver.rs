//! Runs one connection: reads, opens, and hands over what the peer sends; takes, seals and writes what is
//! to be sent. One future, no task of its own.

use std::future::pending;
use std::io;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::future::{Either, select};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::{sleep, timeout};

use super::cipher::{Cipher, Incoming, Outgoing};
use super::handshake::is_hangup;
use super::shared::{DriverEnd, Shared};
use super::{CLOSE_TIMEOUT, Closed, Connection, Link, LinkInfo, PACE_BURST, Session, SessionConfig};
use crate::boxstream::{MAX_SEALED, Opened};
use crate::buckets::{Bucket, Rate};
use crate::clock::now;
use crate::keys::PublicKey;
use crate::muxrpc::codec::{DecodeError, Decoder, Frame};

/// What a read asks for at least and at most; in between it follows what the line gives.
const MIN_READ: usize = 1024;
const MAX_READ: usize = 128 * 1024;
/// When nothing has come or gone for so long, buffers are given back: most sessions of a pub are silent most of the time.
const IDLE: Duration = Duration::from_secs(1);
/// How much is sealed before it is written: one system call for a whole batch of packets.
const WRITE_BATCH: usize = 64 * 1024;
/// How long the peer has to close its end once both have said goodbye, or once we cannot write to it.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// In how many steps the inactivity is measured.
const INACTIVITY_STEPS: u32 = 8;

/// Drives one connection; whoever holds it spawns it into a `JoinSet`. Dropping it ends the session.
pub struct Driver {
    link: Box<dyn Link>,
    cipher: Cipher,
    config: SessionConfig,
    own: bool,
    end: DriverEnd,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("peer", &self.end.0.peer).finish_non_exhaustive()
    }
}

/// Puts a session on a link whose peer is known; `keys` are ours and the peer's.
pub(super) fn start(
    link: Box<dyn Link>,
    cipher: Cipher,
    info: LinkInfo,
    (own, peer): (PublicKey, PublicKey),
) -> Connection {
    let shared = Arc::new(Shared::new(peer, info));
    let (session, calls) = Session::new(&shared);
    let config = SessionConfig::default();
    let driver = Driver { link, cipher, config, own: own == peer, end: DriverEnd(shared) };
    Connection { session, calls, driver }
}

impl Driver {
    /// Sets what the session allows, in place of the defaults.
    pub fn configure(&mut self, config: SessionConfig) {
        self.end.0.with(|inner| inner.mux.set_limits(config.limits));
        self.config = config;
    }

    /// Runs the connection to its end.
    pub async fn run(self) -> Closed {
        let Self { link, cipher, config, own, end } = self;
        let shared = &*end.0;
        let (from, to) = tokio::io::split(link);
        let decoder = Decoder::new(config.limits.max_body);
        let mut reader = Reader::new(shared, from, cipher.incoming, decoder);
        let mut writer = Writer::new(shared, to, cipher.outgoing);
        let inactivity = config.inactivity.filter(|_| !own);
        let closed = tokio::select! {
            biased;
            closed = converse(&mut reader, &mut writer, shared) => closed,
            () = overdue(shared) => Closed::Local,
            () = silence(shared, inactivity) => Closed::Inactive,
        };
        shared.finish(closed);
        closed
    }
}

/// Reads and writes until both sides are done, or one fails.
async fn converse(reader: &mut Reader<'_>, writer: &mut Writer<'_>, shared: &Shared) -> Closed {
    let graceful = |shared: &Shared| if shared.is_closing() { Closed::Local } else { Closed::Goodbye };
    let ended = {
        let (read, write) = (pin!(reader.run()), pin!(writer.run()));
        match select(read, write).await {
            Either::Left((Ok(()), write)) => {
                // The peer has said goodbye: what we still have to say may fail.
                let _ = timeout(CLOSE_TIMEOUT, write).await;
                Ok(())
            }
            Either::Left((Err(closed), _)) => Err(closed),
            Either::Right((Ok(()), _)) => Ok(()),
            Either::Right((Err(error), read)) => {
                // What the peer said before it stopped listening tells more than our failure.
                timeout(LAST_WORDS, read).await.unwrap_or(Err(line_failed(error.kind())))
            }
        }
    };
    match ended {
        Ok(()) => {
            let _ = timeout(LAST_WORDS, reader.drain()).await;
            graceful(shared)
        }
        Err(Closed::Hangup | Closed::Io(_)) if shared.is_closing() => Closed::Local,
        Err(closed) => closed,
    }
}

/// Holds a peer to the bytes that it may send in a second.
struct Pace {
    bytes: NonZeroU32,
    bucket: Bucket,
}

impl Pace {
    fn new(bytes: NonZeroU32) -> Self {
        let rate = Rate { burst: bytes.get().saturating_mul(PACE_BURST), per_second: f64::from(bytes.get()) };
        Self { bytes, bucket: Bucket::new(rate, now()) }
    }
}

/// Resolves when we began to close and the peer had its time.
async fn overdue(shared: &Shared) {
    shared.closing().await;
    sleep(CLOSE_TIMEOUT).await;
}

/// Resolves when nothing has moved for `limit`, give or take a step.
async fn silence(shared: &Shared, limit: Option<Duration>) {
    let Some(limit) = limit else {
        return pending().await;
    };
    let (mut seen, mut quiet) = (shared.traffic.activity(), 0);
    while quiet < INACTIVITY_STEPS {
        sleep(limit / INACTIVITY_STEPS).await;
        let now = shared.traffic.activity();
        quiet = if now == seen { quiet + 1 } else { 0 };
        seen = now;
    }
}

fn line_failed(kind: io::ErrorKind) -> Closed {
    if is_hangup(kind) { Closed::Hangup } else { Closed::Io(kind) }
}

/// The way from the line to the multiplexer.
struct Reader<'a> {
    shared: &'a Shared,
    from: ReadHalf<Box<dyn Link>>,
    cipher: Incoming,
    decoder: Decoder,
    /// Read, but not opened.
    line: BytesMut,
    /// Opened, but not handed over.
    plain: BytesMut,
    read_size: usize,
    pace: Option<Pace>,
    /// Boxes opened after the last read that have not brought a packet yet; none without a box stream.
    boxes: Option<u64>,
}

/// What became of the packets that were opened.
enum Delivered {
    /// All are handed over, but for the beginning of one.
    All,
    /// Someone has to make room first.
    Stalled,
    Goodbye,
}

impl<'a> Reader<'a> {
    fn new(shared: &'a Shared, from: ReadHalf<Box<dyn Link>>, cipher: Incoming, decoder: Decoder) -> Self {
        let (line, plain) = (BytesMut::new(), BytesMut::new());
        Self { shared, from, cipher, decoder, line, plain, read_size: MIN_READ, pace: None, boxes: None }
    }

    /// Reads until the peer's goodbye.
    async fn run(&mut self) -> Result<(), Closed> {
        loop {
            let read = self.read().await.map_err(|error| line_failed(error.kind()))?;
            if read == 0 {
                return Err(Closed::Hangup);
            }
            self.keep_pace(read).await;
            let before = self.cipher.boxes();
            let opened = self.cipher.open(&mut self.line, &mut self.plain);
            self.boxes = self.cipher.boxes().zip(before).map(|(now, before)| now - before);
            // What was opened before a bad box is good.
            if self.deliver().await.map_err(Closed::BadFrame)? {
                return Ok(());
            }
            if opened.map_err(Closed::BadBox)? == Opened::Goodbye {
                // Go peers end the box stream without a goodbye of muxrpc.
                self.shared.with(|inner| inner.mux.handle(Frame::Goodbye));
                return Ok(());
            }
        }
    }

    /// Throws away what comes, until the peer closes its end: bytes left unread when we close would reset
    /// the connection and take our own last bytes with it.
    async fn drain(&mut self) {
        let mut rest = [0; MIN_READ];
        while self.from.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    }

    /// Waits when the peer has sent more than it may: its line is full soon, and then it waits.
    async fn keep_pace(&mut self, read: usize) {
        let Some(bytes) = self.shared.pace() else { return };
        let mut pace =
            self.pace.take().filter(|pace| pace.bytes == bytes).unwrap_or_else(|| Pace::new(bytes));
        let wait = pace.bucket.take(u32::try_from(read).unwrap_or(u32::MAX), now());
        self.pace = Some(pace);
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }

    async fn read(&mut self) -> io::Result<usize> {
        self.line.reserve(self.read_size);
        let read = match timeout(IDLE, self.from.read_buf(&mut self.line)).await {
            Ok(read) => read?,
            Err(_) => {
                // An idle connection keeps no large buffer.
                self.read_size = MIN_READ;
                for buffer in [&mut self.line, &mut self.plain] {
                    if buffer.is_empty() {
                        *buffer = BytesMut::new();
                    }
                }
                self.line.reserve(self.read_size);
                self.from.read_buf(&mut self.line).await?
            }
        };
        self.shared.traffic.received(read);
        self.read_size = if read >= self.read_size { self.read_size * 2 } else { read.next_power_of_two() };
        self.read_size = self.read_size.clamp(MIN_READ, MAX_READ);
        Ok(read)
    }

    /// Hands over what was opened, waiting for room where it must. Says whether the peer said goodbye.
    async fn deliver(&mut self) -> Result<bool, DecodeError> {
        loop {
            match self.deliver_some()? {
                Delivered::All => return Ok(false),
                Delivered::Goodbye => return Ok(true),
                Delivered::Stalled => self.shared.input.notified().await,
            }
        }
    }

    fn deliver_some(&mut self) -> Result<Delivered, DecodeError> {
        let mut packets = 0;
        let delivered = self.shared.with(|inner| {
            loop {
                if !inner.mux.wants_input() {
                    return Ok(Delivered::Stalled);
                }
                let Some(frame) = self.decoder.decode(&mut self.plain)? else {
                    return Ok(Delivered::All);
                };
                let goodbye = frame == Frame::Goodbye;
                inner.mux.handle(frame);
                packets += 1;
                if goodbye {
                    return Ok(Delivered::Goodbye);
                }
            }
        });
        self.shared.traffic.packets_received(packets);
        if let Some(boxes) = &mut self.boxes {
            // Packets in boxes of their own end in one each. Who puts several into a box takes them so.
            if packets > *boxes {
                self.shared.share_boxes();
            }
            *boxes = boxes.saturating_sub(packets);
        }
        delivered
    }
}

/// The way from the multiplexer to the line.
struct Writer<'a> {
    shared: &'a Shared,
    to: WriteHalf<Box<dyn Link>>,
    cipher: Outgoing,
    frames: Vec<Frame>,
    /// Sealed, but not written.
    line: BytesMut,
}

impl<'a> Writer<'a> {
    fn new(shared: &'a Shared, to: WriteHalf<Box<dyn Link>>, cipher: Outgoing) -> Self {
        Self { shared, to, cipher, frames: Vec::new(), line: BytesMut::new() }
    }

    /// Writes until both sides have said goodbye.
    async fn run(&mut self) -> io::Result<()> {
        loop {
            let over = self.take();
            if !self.frames.is_empty() {
                self.write_frames().await?;
                continue;
            }
            self.to.flush().await?;
            if over {
                return self.finish().await;
            }
            if timeout(IDLE, self.shared.output.notified()).await.is_err() {
                (self.line, self.frames) = (BytesMut::new(), Vec::new());
                self.shared.output.notified().await;
            }
        }
    }

    /// Takes a batch of frames; says whether none will ever follow.
    fn take(&mut self) -> bool {
        self.shared.with(|inner| {
            let mut taken = 0;
            while taken < WRITE_BATCH
                && let Some(frame) = inner.mux.poll_output()
            {
                let (header, body) = frame.parts();
                taken += header.len() + body.len();
                self.frames.push(frame);
            }
            inner.mux.is_over()
        })
    }

    async fn write_frames(&mut self) -> io::Result<()> {
        let shares_boxes = self.shared.shares_boxes();
        let mut frames = std::mem::take(&mut self.frames);
        self.shared.traffic.packets_sent(frames.len());
        for frame in frames.drain(..) {
            let (header, body) = frame.parts();
            if shares_boxes {
                self.cipher.fill(&header, &mut self.line);
            } else {
                // A header has a box of its own, as in JS: some clients read exactly one box for it.
                self.cipher.seal(&header, &mut self.line);
            }
            for piece in body.chunks(MAX_SEALED) {
                if shares_boxes {
                    self.cipher.fill(piece, &mut self.line);
                } else {
                    self.cipher.seal(piece, &mut self.line);
                }
                if self.line.len() >= WRITE_BATCH {
                    self.write_line().await?;
                }
            }
        }
        self.frames = frames;
        self.write_line().await
    }

    async fn write_line(&mut self) -> io::Result<()> {
        self.cipher.close(&mut self.line);
        while !self.line.is_empty() {
            let written = self.to.write_buf(&mut self.line).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.shared.traffic.sent(written);
        }
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.cipher.goodbye(&mut self.line);
        self.write_line().await?;
        self.to.shutdown().await
    }
}
