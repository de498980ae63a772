//! muxrpc (protocol guide, "RPC protocol"): remote calls and streams, many at once, over one byte stream.
//!
//! ```text
//! packet  = flags u8 | length u32be | request i32be | body        flags: 8 stream, 4 end, 0..=2 body kind
//! goodbye = nine zero bytes
//! ```
//!
//! Each side numbers its own calls from one: the caller writes +n, the callee answers with -n, so the same
//! number may be in use in both directions. An async call is one packet and one answer. A source, sink or
//! duplex call opens a stream, on which both sides must say the end: JSON `true`, or an error object.
//!
//! The parts know neither clock nor socket:
//!
//! - [`header`] and [`codec`]: bytes to packets and back, with a limit on the body;
//! - [`call`]: what a call says, and the error texts that other peers match on;
//! - [`session`]: the multiplexer, with a bounded queue for everything a peer can fill.
//!
//! What always holds: a body we send is never empty, because the reference implementation reads *any*
//! packet without a body as a goodbye; and so do we, since it is what such a peer means by it.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub mod call;
pub mod codec;
pub mod header;
pub mod session;

/// How a body is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// Raw bytes.
    Binary,
    /// UTF-8 text, unquoted.
    Text,
    /// JSON.
    Json,
}

/// One packet's body. Never empty on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// How to read it.
    pub kind: BodyKind,
    /// Its bytes.
    pub bytes: Bytes,
}

impl Body {
    /// Encodes a value as JSON.
    ///
    /// # Panics
    ///
    /// If the type cannot be JSON at all (a map whose keys are no strings, a failing `Serialize`).
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Self {
        let bytes = serde_json::to_vec(value).expect("a type whose map keys are strings");
        Self::json_raw(bytes)
    }

    /// Bytes that are JSON already, for example a stored message.
    pub fn json_raw(bytes: impl Into<Bytes>) -> Self {
        Self { kind: BodyKind::Json, bytes: bytes.into() }
    }

    /// A string: what an async method that results in a string answers.
    pub fn text(text: impl Into<String>) -> Self {
        Self { kind: BodyKind::Text, bytes: Bytes::from(text.into()) }
    }

    /// Raw bytes, for example a piece of a blob.
    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self { kind: BodyKind::Binary, bytes: bytes.into() }
    }

    /// The answer of a method without a result: JSON `false`, as JS encodes `undefined`.
    pub const fn void() -> Self {
        Self { kind: BodyKind::Json, bytes: Bytes::from_static(b"false") }
    }

    /// A stream's normal end: JSON `true`.
    pub(crate) const fn end() -> Self {
        Self { kind: BodyKind::Json, bytes: Bytes::from_static(b"true") }
    }

    /// Decodes a JSON body; a text body decodes as a JSON string would.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        match self.kind {
            BodyKind::Json => serde_json::from_slice(&self.bytes),
            BodyKind::Text => serde_json::from_value(self.lossy_text().into_owned().into()),
            BodyKind::Binary => Err(serde::de::Error::custom("a body of raw bytes")),
        }
    }

    /// The body as text, whatever its kind; bytes that are no UTF-8 are replaced.
    pub fn lossy_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }

    /// What is sent in place of this body, since none may be empty: nothing for bytes in a stream, and the
    /// JSON that comes closest otherwise.
    pub(crate) fn on_wire(self, stream: bool) -> Option<Self> {
        if !self.bytes.is_empty() {
            return Some(self);
        }
        match self.kind {
            BodyKind::Binary if stream => None,
            BodyKind::Binary | BodyKind::Text => Some(Self::json_raw(&b"\"\""[..])),
            BodyKind::Json => Some(Self::json_raw(&b"null"[..])),
        }
    }
}

/// The kind of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallKind {
    /// One answer, computed at once (called like async).
    Sync,
    /// One answer.
    Async,
    /// Callee streams.
    Source,
    /// Caller streams.
    Sink,
    /// Both stream.
    Duplex,
}

impl CallKind {
    /// Whether it opens a stream.
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Source | Self::Sink | Self::Duplex)
    }

    /// Its name on the wire and in a manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Async => "async",
            Self::Source => "source",
            Self::Sink => "sink",
            Self::Duplex => "duplex",
        }
    }
}

/// A call as its caller asks it.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Path of the method, e.g. `["blobs", "get"]`.
    pub name: Vec<String>,
    /// Kind; `Async` where the caller left it out.
    pub kind: CallKind,
    /// Arguments.
    pub args: Vec<serde_json::Value>,
    /// The array of arguments as it was received, for methods that hash or verify what they are given.
    pub raw_args: Bytes,
}

/// An error as it crosses the wire: `{name, message, stack}`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RemoteError {
    /// JS error class, usually `Error`.
    pub name: String,
    /// Text; other peers match on it.
    pub message: String,
    /// Stack of the peer, where it sent one.
    pub stack: String,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The peer answered with an error.
    #[error("{0}")]
    Remote(#[from] RemoteError),
    /// The session ended first.
    #[error("unexpected end of parent stream")]
    SessionEnded,
}

/// The stream or its session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stream is closed")]
pub struct StreamClosed;
