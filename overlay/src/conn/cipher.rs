//! Between the line and the packets: the box stream, or nothing on a line that needs none.

use bytes::BytesMut;

use crate::boxstream::{BoxError, BoxKey, Opened, Opener, Sealer};

/// Both directions of a line's encryption.
#[derive(Debug)]
pub(super) struct Cipher {
    pub(super) outgoing: Outgoing,
    pub(super) incoming: Incoming,
}

impl Cipher {
    pub(super) const fn plain() -> Self {
        Self { outgoing: Outgoing::Plain, incoming: Incoming::Plain }
    }

    pub(super) fn boxed(send: BoxKey, receive: BoxKey) -> Self {
        let (sealer, opener) = (Sealer::new(send), Opener::new(receive));
        Self { outgoing: Outgoing::Boxed(sealer), incoming: Incoming::Boxed(opener) }
    }
}

/// What we send.
#[derive(Debug)]
pub(super) enum Outgoing {
    Plain,
    Boxed(Sealer),
    Ended,
}

impl Outgoing {
    /// Appends `plain` as it goes over the line.
    pub(super) fn seal(&mut self, plain: &[u8], out: &mut BytesMut) {
        match self {
            Self::Plain => out.extend_from_slice(plain),
            Self::Boxed(sealer) => sealer.seal(plain, out),
            Self::Ended => {}
        }
    }

    /// Appends `plain` so that it may share boxes with what comes before and after it, up to [`close`](Self::close).
    pub(super) fn fill(&mut self, plain: &[u8], out: &mut BytesMut) {
        match self {
            Self::Plain => out.extend_from_slice(plain),
            Self::Boxed(sealer) => sealer.fill(plain, out),
            Self::Ended => {}
        }
    }

    /// What was filled is complete.
    pub(super) fn close(&mut self, out: &mut BytesMut) {
        match self {
            Self::Boxed(sealer) => sealer.close(out),
            Self::Plain | Self::Ended => {}
        }
    }

    /// Appends what ends the line; nothing goes out after it.
    pub(super) fn goodbye(&mut self, out: &mut BytesMut) {
        if let Self::Boxed(sealer) = std::mem::replace(self, Self::Ended) {
            sealer.goodbye(out);
        }
    }
}

/// What we receive.
#[derive(Debug)]
pub(super) enum Incoming {
    Plain,
    Boxed(Opener),
}

impl Incoming {
    /// Boxes opened so far; none without a box stream.
    pub(super) const fn boxes(&self) -> Option<u64> {
        match self {
            Self::Plain => None,
            Self::Boxed(opener) => Some(opener.boxes()),
        }
    }

    /// Moves what can be opened from `line` to `plain`.
    pub(super) fn open(&mut self, line: &mut BytesMut, plain: &mut BytesMut) -> Result<Opened, BoxError> {
        match self {
            Self::Plain if plain.is_empty() => std::mem::swap(line, plain),
            Self::Plain => plain.extend_from_slice(&line.split()),
            Self::Boxed(opener) => return opener.open(line, plain),
        }
        Ok(Opened::NeedsMore)
    }
}
