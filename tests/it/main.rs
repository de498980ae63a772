//! Everything that needs more than one package: one binary, its modules below.

#![expect(clippy::unwrap_used, reason = "every function here serves tests, and a test fails by panicking")]

mod access;
mod blobs;
mod cli;
mod dataset;
mod deploy;
mod dht;
mod fork_guard;
mod garbage;
mod interop;
mod kill;
mod lab;
mod layers;
mod moving;
mod nat;
mod nat_lab;
mod ooo;
mod private;
mod queries;
mod shs1;
mod story;
