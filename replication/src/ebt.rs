//! ebt
