//! Everything that needs more than one package: one binary, its modules below.

#![expect(clippy::unwrap_used, reason = "every function here serves tests, and a test fails by panicking")]

mod access;
mod apps;
mod blobs;
mod carrier;
mod cli;
mod clients;
mod connections;
mod dataset;
mod deploy;
mod dht;
mod embed;
mod fork_guard;
mod garbage;
mod interop;
mod kill;
mod lab;
mod layers;
mod local_clients;
mod moving;
mod nat;
mod nat_lab;
mod ooo;
mod plugins;
mod private;
mod queries;
mod search;
mod shs1;
mod simulation;
mod story;
mod strangers;
mod terminal;
