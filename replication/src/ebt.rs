//! Epidemic broadcast trees, version 3: how two peers keep many feeds equal over one duplex stream
//! (protocol guide, "Epidemic broadcast trees").
//!
//! Both sides send *notes*, "of this feed I hold so much, and do (not) push me what follows", and bare
//! messages. A node lets one peer at a time push a given feed (its *source*) and stays lazy towards the
//! others: they only announce. If the source runs dry, goes away or stalls, the next peer that promised
//! more is asked. What a peer told us last is stored, so a feed that did not change since is not even
//! mentioned on the next connection.
//!
//! [`State`] is the machine for all peers of one node; it owns no clock, socket or store. The shell gives
//! it one [`Input`], drains [`State::poll_output`], and calls [`State::handle_timeout`] when
//! [`State::poll_timeout`] says so. What always holds:
//!
//! * at most one connected peer is asked to push a feed, and it is told so exactly while it is the source;
//! * a feed's messages are accepted in order, each once, unless a rejection rolled the feed back;
//! * of feeds that we do not follow, a peer owes us about a [`WINDOW`] of messages at most, nearest first;
//! * our own feed is never asked for unless [`Input::RecoverOwn`] is on;
//! * nothing of a feed goes to a peer whom that feed's owner blocks, nor is it taken from that peer;
//! * no per-message work grows with the number of feeds.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

use crate::refs::FeedId;

mod clock;
mod feeds;
mod item;
mod local;
mod note;
mod peer;
mod remote;
mod source;
mod state;
mod window;

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

pub use clock::{InvalidClock, PeerClock, Stored, clock_file_name, peer_of_file_name};
pub use item::{InvalidItem, Item, MAX_NOTES, classify};
pub use note::{Note, Notes};
pub use state::State;
pub use window::WINDOW;

/// The arguments a caller of `ebt.replicate` sends; some peers refuse a call without the format. `boxes` says to another
/// Hawsepipe that this one takes box stream bodies that hold several packets; others pass over it.
pub const REPLICATE_ARGS: &str = r#"[{"version":3,"format":"classic","boxes":"shared"}]"#;

/// The error that `ebt.replicate` answers to any other version, in the words that peers expect.
pub const WRONG_VERSION: &str = "expected ebt.replicate({version: 3})";

/// The error that ends a peer's first stream when the same peer opens a second one. It is harmless.
pub const RECONNECTED: &str = "reconnected to peer";

/// The error that ends a stream which would be one too many.
pub const TOO_MANY_PEERS: &str = "too many peers";

/// Streams at once. Each costs memory for every wanted feed, and every appended message looks at each.
pub const MAX_PEERS: usize = 1_000;

/// Notes in one packet that we send. Large sets are split, nearest feeds first, so that a peer with an
/// inbound limit of a mebibyte accepts them and the nearest feeds start before the last are named.
pub const MAX_NOTES_SENT: usize = 5_000;

/// Feeds that we neither hold nor want, remembered for one stream.
pub const MAX_STRANGERS: usize = 65_536;

/// Feeds that we neither hold nor want, remembered for all streams together.
pub const MAX_STRANGERS_IN_ALL: usize = 500_000;

/// The identity a session proved. A peer is not a feed, even where the bytes are the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer(pub FeedId);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({:?})", self.0)
    }
}

impl Serialize for Peer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// Which side of the `ebt.replicate` call we are. The side that dialled calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We called: say nothing until the other side's first notes.
    Caller,
    /// We were called: speak at once, even if there is nothing to say.
    Callee,
}

/// What happens to the machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A stream was opened. A second stream of the same peer replaces the first.
    Connected {
        /// Who is on the other side.
        peer: Peer,
        /// Which side we are.
        role: Role,
        /// What was stored of this peer's clock, or an empty one.
        clock: PeerClock,
    },
    /// The peer's current stream ended. Not to be given for a stream that the machine itself ended
    /// with [`Output::EndStream`].
    Disconnected {
        /// Whose stream it was.
        peer: Peer,
    },
    /// Notes arrived.
    Notes {
        /// Who sent them.
        peer: Peer,
        /// The notes, in the order of the packet.
        notes: Notes,
    },
    /// A message arrived; only its author and sequence were looked at so far.
    Received {
        /// Who sent it.
        peer: Peer,
        /// Its author, as claimed.
        feed: FeedId,
        /// Its sequence, as claimed.
        sequence: u64,
    },
    /// Our store holds this feed up to and including `sequence`: said once for each feed at the start,
    /// and whenever messages were stored, whatever their origin.
    Appended {
        /// The feed.
        feed: FeedId,
        /// Its last sequence in the store.
        sequence: u64,
    },
    /// An accepted message turned out bad, or could not be stored. The feed is back at what the store
    /// holds; whatever else was accepted of it and is not stored yet may come again.
    Rejected {
        /// Who sent the message.
        peer: Peer,
        /// The feed it claimed to belong to.
        feed: FeedId,
        /// Whether the peer is to blame: the feed is then refused from it until it reconnects. If not,
        /// the feed is asked for again after a while.
        fatal: bool,
    },
    /// Whether we want this feed, and how near its author is. Nearer feeds go first.
    Replicate {
        /// The feed.
        feed: FeedId,
        /// Hops to its author; `None` to stop replicating it.
        rank: Option<u32>,
    },
    /// A feed's owner blocks a peer, or does no longer.
    Block {
        /// Who blocks. Ourselves, if the peer is to be cut off.
        from: FeedId,
        /// Whom.
        to: Peer,
        /// Begin or end.
        on: bool,
    },
    /// Whether our own feed may be asked for, as after a restore.
    RecoverOwn(bool),
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send this notes packet, even if it is empty.
    SendNotes {
        /// To whom.
        peer: Peer,
        /// The notes, nearest feeds first.
        notes: Notes,
    },
    /// Stream these messages from the store, in order, after those of the same peer and feed that are
    /// still waiting.
    Send {
        /// To whom.
        peer: Peer,
        /// Which feed.
        feed: FeedId,
        /// The first sequence.
        from: u64,
        /// The last sequence; we hold it.
        to: u64,
    },
    /// Drop whatever of this feed still waits to be sent to this peer.
    CancelSend {
        /// To whom.
        peer: Peer,
        /// Which feed.
        feed: FeedId,
    },
    /// The message just received is worth verifying and storing; any other is to be dropped. It ends in
    /// [`Input::Appended`] or [`Input::Rejected`], except that messages which were accepted before their
    /// feed was rolled back may be dropped in silence.
    Accept {
        /// Who sent it.
        peer: Peer,
        /// Its author, as claimed.
        feed: FeedId,
        /// Its sequence, as claimed.
        sequence: u64,
    },
    /// End the peer's stream (the older one, if it just opened another). The machine has already
    /// forgotten that stream.
    EndStream {
        /// Whose stream.
        peer: Peer,
        /// With which error; none is a normal end.
        error: Option<&'static str>,
    },
    /// What we know of the peer's clock changed: store what [`State::clock`] gives *now*, before the
    /// next input.
    ClockChanged {
        /// Whose clock.
        peer: Peer,
    },
}

/// The state of one feed with every connected peer, in the shape that `ebt.peerStatus` answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerStatus {
    /// The feed.
    pub id: FeedId,
    /// What we hold of it.
    pub seq: u64,
    /// Each peer that said something of the feed, or to whom we did.
    pub peers: BTreeMap<Peer, FeedStatus>,
}

/// One peer's part in [`PeerStatus`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FeedStatus {
    /// What the peer holds of the feed, as far as we know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<Stored>,
    /// What passes between us; absent until we told the peer of the feed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicating: Option<Replicating>,
}

/// What passes between a peer and us on one feed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Replicating {
    /// We push the feed to the peer.
    pub tx: bool,
    /// We asked the peer to push it to us.
    pub rx: bool,
    /// Up to where the peer was sent, or is known to hold, the feed.
    pub sent: u64,
    /// What we last told the peer that we hold; -1 for "not replicated".
    pub requested: Stored,
}

/// What a peer says to have and we do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owed {
    /// Messages of wanted feeds.
    pub messages: u64,
    /// We have asked it to push some of them.
    pub asked: bool,
}

/// How far replication with the connected peers has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Wanted feeds.
    pub feeds: u64,
    /// Wanted feeds of which some connected peer claims to hold more than we do.
    pub behind: u64,
    /// Messages of wanted feeds that exist, as far as connected peers say.
    pub want: u64,
    /// Messages of wanted feeds that we hold.
    pub have: u64,
}
