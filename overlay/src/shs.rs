//! shs
