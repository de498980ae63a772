//! One lookup.
