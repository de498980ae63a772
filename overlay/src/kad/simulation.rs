//! Thousands of [`super::Dht`]s on a simulated network.
//!
//! Every message takes the time of its two ends' distance, every question that of a new connection besides.
//! Nothing is real but the nodes: what is shown here is their policy, in message counts and in simulated
//! time.
#![expect(clippy::disallowed_methods, reason = "a simulation needs some instant to start from")]

mod churn;
mod scenarios;
mod world;
pub(crate) use world::Chance;
