//! The harness of Hawsepipe's whole-node tests: hosts and networks made of Linux namespaces ([`lab`]),
//! our own node as a process on such a host ([`peer`]), and the peers of other people beside it ([`js`]).
//!
//! Nothing here mocks anything: a test starts the binaries that a user would start. What a test waits for
//! is always a condition with a deadline ([`wait`]), never a length of time.
//!
//! The harness panics where a test cannot go on, because every caller is a test; the messages say what to
//! do about it when the reason is the machine rather than the code.

pub mod carried;
pub mod chance;
pub mod control;
pub mod corpus;
pub mod fleet;
pub mod generated;
pub mod hoarder;
pub mod impostor;
pub mod js;
pub mod lab;
pub mod meeting;
pub mod member;
pub mod metrics;
pub mod peer;
pub mod rogue;
pub mod sim;
pub mod usage;
pub mod wait;

use std::path::PathBuf;

/// The network key of the public network, in base64, as JavaScript peers take it in their config.
pub const MAIN_NETWORK: &str = "1KHLiKZvAvjbY1ziZEHMXawbCEIM6qwjCDm3VYRan/s=";

/// The folder of this package, where the JavaScript sub-packages and the cache are.
pub fn package_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
