//! Thousands of [`super::Dht`]s on a simulated network.
