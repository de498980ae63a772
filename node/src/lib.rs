//! Hawsepipe, a Secure Scuttlebutt peer: the node, which decides and serves.
//!
//! [`app::App`] puts the parts together: the overlay reaches peers, replication keeps and exchanges
//! messages, [`scheduler`] decides whom to talk to, [`authorize`] who may talk to us, [`api`] is what can
//! be asked, and [`engine`] drives it all. See `ARCHITECTURE.md` in the repository for the whole picture.

pub mod api;
pub mod app;
pub mod authorize;
pub mod blobs;
pub mod cli;
pub mod clock;
pub mod config;
pub mod context;
pub mod continuity;
pub mod datadir;
pub mod dht_nodes;
pub mod engine;
pub mod export;
pub mod fork_guard;
pub mod forks;
pub mod http;
pub mod identity;
pub mod import;
pub mod metrics;
pub mod ooo;
pub mod peer_book;
pub mod private;
pub mod query;
pub mod reachability;
pub mod scheduler;
pub mod session;
pub mod store;
pub mod telemetry;

/// Prepares libsodium. Must have been called in every process before any key is used: without it, the
/// generator is not safe for threads and the fast code paths are off. Calling it again does nothing.
pub fn init_crypto() {
    // It fails only where the system has no source of randomness at all.
    assert!(
        ssb_crypto::sodium::init().is_ok(),
        "libsodium cannot be initialised: the system gives no randomness"
    );
}
