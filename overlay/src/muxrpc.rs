//! muxrpc: the protocol explained; public types.

use bytes::Bytes;

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

/// A call as its caller asks it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Path of the method, e.g. `["blobs", "get"]`.
    pub name: Vec<String>,
    /// Kind; `Async` where the caller left it out.
    pub kind: CallKind,
    /// Arguments.
    pub args: Vec<serde_json::Value>,
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
