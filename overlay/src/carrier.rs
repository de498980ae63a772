//! The carrier (`/ssb/carrier/1`): one byte stream under SHS that outlives the libp2p stream it runs on, so that
//! a session moves from a relay to a direct connection, back, and to another network without noticing.
//!
//! ```text
//! frame   = type u8 | len u16be | body; unknown type or len > 16384 ends the stream
//! 1 OPEN     sid[16]                               first frame of a new session, sent by the SHS client ("I")
//! 2 DATA     off u64be | bytes                     off = sender's count; 1..16376 bytes
//! 3 ACK      off u64be                             all bytes < off consumed; after 64 KiB or 50 ms
//! 4 ATTACH   sid | epoch u32be | recv u64be | mac  first frame on another stream, sent by I only
//! 5 ATTACHED sid | epoch | recv | mac              R's answer; then both resend from the other's recv
//! 6 POKE     sid | n u32be | mac                   first frame on another stream: R asks I to attach
//! 7 FIN      off                                   no DATA at or beyond off; done when acknowledged
//! 8 RESET    code u8                               1 unknown sid 2 bad mac 3 old epoch or n 4 not armed
//!                                                  5 recv out of buffer 6 limit
//!
//! k    = HMAC-SHA256(K4, "hawsepipe carrier resume 1"), K4 = sha256(N|ab|aB|Ab) of SHS
//! mac  = HMAC-SHA256(k, type | sid | number | recv (0 in POKE) | PeerId I | PeerId R)
//! ```
//!
//! The box stream above authenticates every byte, so a lying path can only deny service; what the carrier adds is
//! that another path takes over. [`Machine`] is one end of one session: it keeps what the other end has not
//! acknowledged and says what to write to which stream. [`Liveness`] says when to ask whether a path still works,
//! [`policy`] when to leave it. All of them are pure; [`link`] is the shell around the first, the swarm around the
//! others.
//!
//! What always holds:
//!
//! - the bytes above are exact and in order, or the session ends with an [`End`];
//! - nothing resumes before SHS has ended: until then a lost stream is a failed handshake;
//! - only the holder of `k` moves a session, only from the transport identity that it began with, and never with
//!   an epoch that was used: recordings, delayed and crossing attempts come to nothing;
//! - of several streams only that of the highest epoch is read and written;
//! - a session without a stream ends after [`GRACE`];
//! - nobody makes us hold more than [`MAX_UNACKNOWLEDGED`] bytes to send and [`MAX_UNREAD`] received: who does not
//!   acknowledge is not sent more, and who sends too much is not read.

use std::time::Duration;

mod frame;
mod incoming;
mod key;
pub(crate) mod link;
mod liveness;
mod machine;
mod outgoing;
pub(crate) mod policy;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub(crate) use frame::{
    Claim, Frame, HEADER as FIRST_FRAME_HEADER, MAX_FIRST as MAX_FIRST_FRAME, Poke, ResetCode, SessionId,
};
pub(crate) use key::{Ends, ResumeKey};
pub(crate) use liveness::Liveness;
pub(crate) use machine::{End, Role, StreamNo};

/// How long a session lasts without a stream, and how long it tries to say its last bytes once nobody is above it
/// any more.
pub(crate) const GRACE: Duration = Duration::from_secs(60);
/// Most bytes of a session that wait for an acknowledgement, what keeps them included.
pub(crate) const MAX_UNACKNOWLEDGED: usize = 512 * 1024;
/// Bytes received that nobody has read yet; beyond them the stream is read no further.
pub(crate) const MAX_UNREAD: usize = 512 * 1024;
/// An acknowledgement follows so many bytes, at the latest …
pub(crate) const ACK_BYTES: u64 = 64 * 1024;
/// … or after this time.
pub(crate) const ACK_DELAY: Duration = Duration::from_millis(50);
