//! Hawsepipe's data: what is a valid message, what is stored, what to ask for and what to send.
//!
//! Plain Rust without tokio, libp2p or a clock: time comes in as an argument, effects go out as values.

pub mod blobs;
pub mod ebt;
pub mod graph;
pub mod history;
pub mod import;
pub mod message;
pub mod ooo;
pub mod private;
pub mod refs;
pub mod store;
pub mod subset;
