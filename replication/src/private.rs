//! Private messages: contents that only some can read (protocol guide, "Private messages"; envelope-spec and
//! private-group-spec).
//!
//! A private content is a string on the wire, base64 and a suffix that names how it is sealed:
//!
//! | suffix | format | who reads it | module |
//! |---|---|---|---|
//! | `.box` | box1, private-box | at most seven feeds, which are not named in it | [`box1`] |
//! | `.box2` | box2, envelope | at most sixteen: one group, feeds, oneself | [`envelope`] |
//!
//! Nothing in either tells for whom it is, so the only way to know is to try: [`Keyring::open`]. A [`Keyring`]
//! holds what one identity can open messages with; [`groups`] says how it comes to have the keys of groups.
//!
//! Nothing here waits, reads a clock or touches a disk; the only randomness is that of fresh keys. What always
//! holds: no input makes it panic, and whatever is not for us, garbage included, is `None` and never an error.
//! Keys are wiped when they go and never shown. `ssb_crypto::sodium::init()` must have been called once.

pub mod box1;
pub mod envelope;
pub mod groups;
mod index;
mod keyring;
mod opened;

#[cfg(test)]
mod tests;

pub use groups::{Group, Invitation};
pub use index::{Index, MAX_ENTRIES, NotAnIndex};
pub use keyring::{EnvelopeDraft, GroupFull, Keyring, MAX_GROUPS, seal_box1};
pub use opened::{Format, Opened};

use crate::refs::FeedId;

/// Why a content cannot be sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// There is nobody to seal it for.
    #[error("private message field \"recps\" requires at least one recipient")]
    NoRecipients,
    /// More recipients than the format has room for. The words are private-box's.
    #[error("max recipients is:{max} found:{found}")]
    TooMany {
        /// How many there may be.
        max: usize,
        /// How many there are.
        found: usize,
    },
    /// A recipient's id is no key that anything can be sealed for.
    #[error("{0} is not a key that a message can be sealed for")]
    BadKey(FeedId),
    /// The operating system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

/// Fresh random bytes.
fn random<const N: usize>() -> Result<[u8; N], SealError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| SealError::NoRandomness)?;
    Ok(bytes)
}
