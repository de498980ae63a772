//! Hawsepipe's overlay: finding peers, and turning any byte stream to one into an authenticated
//! muxrpc [`Session`](conn::Session).
//!
//! The protocols ([`shs`], [`boxstream`], [`muxrpc`], [`beacon`]) are plain state machines that know
//! neither clock nor socket; [`conn`], [`net`], [`unix`], [`ws`], [`lan`] and [`swarm`] are the thin tokio shells
//! that drive them, and [`Overlay`] is what a node holds. Nothing here knows what a feed contains or
//! decides whom to talk to: it emits claims ([`Event::Discovered`]) and dials what it is told to.

pub mod address;
pub mod beacon;
pub mod boxstream;
pub mod buckets;
mod carrier;
pub mod certificate;
mod clock;
pub mod conn;
mod kad;
pub mod keys;
pub mod lan;
pub mod muxrpc;
pub mod net;
pub mod reachability;
pub mod relay;
mod relays;
pub mod rendezvous;
pub mod shs;
pub mod swarm;
pub mod unix;
pub mod ws;

mod facade;
pub use facade::*;
pub use kad::{DhtReport, Lookup};
