//! Blobs: files that messages link to, named by their hash (protocol guide, "Blobs").
//!
//! * [`BlobStore`] keeps them on disk, in the layout of JS's servers, and is the only place where bytes get a name:
//!   by being hashed.
//! * [`Wants`] is the flood search of ssb-blobs: who wants what, who has it, whom to ask next. A pure machine,
//!   driven as [`crate::ebt::State`] is.
//! * [`parse_update`] and [`print_update`] are the packets of `blobs.createWants`, [`Allowance`] is how many of their
//!   entries one peer may send.
//! * [`links_of`] says which blobs a message links to.
//!
//! What always holds: no byte of a peer is kept that does not belong to the blob that was asked for; and whatever
//! a peer says, it is believed only as far as being asked.

mod allowance;
mod incoming;
mod links;
mod store;
mod wants;
mod wire;

pub use allowance::Allowance;
pub use incoming::Incoming;
pub use links::{BlobLink, MAX_LINKS, links_of};
pub use store::{Blob, BlobError, BlobStore, Evicted, Listed, Mark, Meta, Totals};
pub use wants::{
    Counts, Fault, GetId, Input, Link, MAX_GETS, MAX_GETS_PER_LINK, Output, Wants, WantsConfig, Why,
};
pub use wire::{MAX_ENTRIES, NotAnUpdate, Said, parse_update, print_update};

use crate::refs::BlobId;

/// Blobs are replicated only below this size (5 MiB) unless configured otherwise. A peer with JS's defaults fetches
/// nothing that is as large.
pub const DEFAULT_MAX: u64 = 5 * 1024 * 1024;

/// The blob without any bytes. It is always there and takes no place.
pub const EMPTY: BlobId = BlobId::from_bytes([
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27,
    0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
]);
