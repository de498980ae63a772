//! boxstream
