//! Hawsepipe, a Secure Scuttlebutt peer: the node, which decides and serves.
//!
//! Programs embed it as a [`Node`], as many as they like in one process, and talk to it, or to any other node, as a
//! [`client::Client`]. These two and what they name are the stable face of this crate; the other modules are the inside
//! of the `hawsepipe` program and public for its tests.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use hawsepipe::{Event, Node};
//!
//! let node = Node::builder().data_dir("/var/lib/my-program/ssb").hops(2).start().await?;
//! let mut events = node.events();
//! let client = node.client().await?;
//! client.publish(&serde_json::json!({ "type": "post", "text": "Ahoy!" })).await?;
//! if let Some(Event::Message(message)) = events.next().await {
//!     println!("{} is on disk", message.id);
//! }
//! node.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! `node/examples/embed.rs` has two nodes that replicate with each other.
//!
//! [`app::App`] puts the parts together: the overlay reaches peers, replication keeps and exchanges
//! messages, [`scheduler`] decides whom to talk to, [`authorize`] who may talk to us, [`api`] is what can
//! be asked, and [`engine`] drives it all. See `ARCHITECTURE.md` in the repository for the whole picture.

pub mod api;
pub mod app;
pub mod authorize;
pub mod blobs;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod context;
pub mod continuity;
pub mod datadir;
pub mod dht_nodes;
mod embed;
pub mod engine;
pub mod export;
pub mod fork_guard;
pub mod forks;
pub mod http;
pub mod identity;
pub mod import;
pub mod metrics;
pub mod names;
pub mod ooo;
pub mod open_files;
pub mod peer_book;
pub mod private;
pub mod query;
pub mod reachability;
pub mod scheduler;
pub mod search;
pub mod session;
pub mod store;
pub mod telemetry;

pub use embed::{Builder, Event, Events, Node, StartError};
pub use hawsepipe_overlay::keys::{NetworkKey, PublicKey};
pub use hawsepipe_replication::refs::{BlobId, FeedId, MessageId};
pub use identity::Identity;
pub use ssb_crypto::Keypair;

/// Prepares libsodium. Must have been called in every process before any key is used: without it, the
/// generator is not safe for threads and the fast code paths are off. Calling it again does nothing.
pub fn init_crypto() {
    // It fails only where the system has no source of randomness at all.
    assert!(
        ssb_crypto::sodium::init().is_ok(),
        "libsodium cannot be initialised: the system gives no randomness"
    );
}
