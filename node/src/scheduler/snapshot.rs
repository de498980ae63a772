//! What the scheduler looks at, as plain data.

use std::time::{Duration, Instant};

use hawsepipe_overlay::address::Endpoint;
use hawsepipe_overlay::keys::PublicKey;

/// Everything the scheduler knows at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Our own key.
    pub own: PublicKey,
    /// The feeds that we follow.
    pub follows: Feeds,
    /// Every byte costs: the operator says so.
    pub metered: bool,
    /// Every peer with a known path or a session, each once.
    pub peers: Vec<Candidate>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Who it claims to be, or has proven to be.
    pub key: PublicKey,
    /// What it is to us.
    pub relation: Relation,
    /// It follows us.
    pub follows_us: bool,
    /// What it is there for.
    pub kind: Kind,
    /// Whether we have or are making a session.
    pub link: Link,
    /// The session, while there is one.
    pub session: Option<Running>,
    /// A person or the configuration asked for this peer.
    pub asked_for: bool,
    /// Which of the feeds that we follow it has, as far as the graph or its clock says.
    pub carries: Feeds,
    /// Messages that we want and that it has said to have.
    pub owed: u64,
    /// When the last session with it ended.
    pub met: Option<Instant>,
    /// What it did wrong.
    pub faults: Decaying,
    /// The round trip to it, where it was measured.
    pub round_trip: Option<Duration>,
    /// How dials of each class went, whatever the address; by [`Class::index`].
    pub dials: [Dials; Class::COUNT],
    /// How it may be reached.
    pub paths: Vec<PathState>,
}

impl Candidate {
    /// A peer of whom nothing is known but that it exists.
    pub fn new(key: PublicKey, relation: Relation) -> Self {
        Self {
            key,
            relation,
            follows_us: false,
            kind: Kind::Person,
            link: Link::None,
            session: None,
            asked_for: false,
            carries: Feeds::default(),
            owed: 0,
            met: None,
            faults: Decaying::default(),
            round_trip: None,
            dials: [Dials::default(); Class::COUNT],
            paths: Vec::new(),
        }
    }

    /// Whether a session stands.
    pub fn is_connected(&self) -> bool {
        matches!(self.link, Link::Outbound | Link::Inbound)
    }

    /// Whether it is on our own network, by its session or by what was heard.
    pub fn is_lan(&self) -> bool {
        match &self.session {
            Some(session) => session.class == Class::Lan,
            None => self.paths.iter().any(|path| path.class == Class::Lan),
        }
    }

    /// Whether a dial that is given up counts as hopeless by now: the peer is reported as defunct and dialled once
    /// in a long while. No way to it has worked for long, on none of its paths.
    pub fn is_defunct(&self) -> bool {
        let dead = |path: &PathState| path.failures >= DEFUNCT_FAILURES;
        self.link == Link::None && !self.paths.is_empty() && self.paths.iter().all(dead)
    }
}

/// Failures in a row after which a path counts as dead.
pub const DEFUNCT_FAILURES: u32 = 12;

/// What a peer is to us in the social graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Within the graph, this far away.
    Hops(u32),
    /// Not in the graph.
    Stranger,
    /// We block it.
    Blocked,
}

/// What a peer is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Somebody's own node.
    Person,
    /// A pub or a room: it is there for many.
    Hub,
}

/// Whether we have or are making a session with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Neither.
    None,
    /// A dial is under way.
    Dialing,
    /// We dialled.
    Outbound,
    /// It dialled.
    Inbound,
}

/// A session that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Since when.
    pub since: Instant,
    /// When it last brought a message that was new to us, or took one that was new to the peer.
    pub news: Option<Instant>,
    /// Since when the peer owes us messages that it has said to have, and none of them came.
    pub owes_since: Option<Instant>,
    /// Over what it runs.
    pub class: Class,
}

/// How far a path reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// On our own network.
    Lan,
    /// Anywhere else.
    Direct,
    /// Through a relay, wherever that is.
    Relayed,
}

impl Class {
    /// How many there are.
    pub const COUNT: usize = 3;

    /// Its place in an array of all.
    pub const fn index(self) -> usize {
        match self {
            Self::Lan => 0,
            Self::Direct => 1,
            Self::Relayed => 2,
        }
    }

    /// A name for people and labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Direct => "direct",
            Self::Relayed => "relayed",
        }
    }
}

/// How dials of a peer went, over all paths of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dials {
    /// Those that failed since the last that did not.
    pub failures: u32,
    /// When the last one began.
    pub last: Option<Instant>,
}

/// One way to reach a peer, and how it went.
#[derive(Clone, Debug, PartialEq)]
pub struct PathState {
    /// Where to dial.
    pub endpoint: Endpoint,
    /// How far it reaches.
    pub class: Class,
    /// When it was last announced, for paths that are.
    pub discovered: Option<Instant>,
    /// When the peer itself was last there, by its own word, for paths that are found in the DHT.
    pub said: Option<Instant>,
    /// Attempts that failed since the last that did not.
    pub failures: u32,
    /// Dials that succeeded.
    pub worked: Decaying,
    /// Dials that failed.
    pub failed: Decaying,
    /// When it was last dialled.
    pub last_attempt: Option<Instant>,
    /// When a session over it last ended.
    pub last_ended: Option<Instant>,
    /// A dial over it is under way, since `last_attempt`.
    pub dialing: bool,
}

impl PathState {
    /// A path that was never tried.
    pub const fn new(endpoint: Endpoint, class: Class) -> Self {
        Self {
            endpoint,
            class,
            discovered: None,
            said: None,
            failures: 0,
            worked: Decaying::ZERO,
            failed: Decaying::ZERO,
            last_attempt: None,
            last_ended: None,
            dialing: false,
        }
    }
}

/// A count in which the past weighs less and less: half as much after [`Decaying::HALF_LIFE`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Decaying {
    amount: f64,
    at: Option<Instant>,
}

impl Decaying {
    /// Nothing.
    pub const ZERO: Self = Self { amount: 0.0, at: None };
    /// How long it takes until something counts for half.
    pub const HALF_LIFE: Duration = Duration::from_secs(3 * 24 * 60 * 60);

    /// What was counted until `at`.
    pub fn since(amount: f64, at: Option<Instant>) -> Self {
        Self { amount, at }
    }

    /// Counts `amount` more.
    pub fn add(&mut self, amount: f64, now: Instant) {
        *self = Self { amount: self.amount(now) + amount, at: Some(now) };
    }

    /// What it is now.
    pub fn amount(&self, now: Instant) -> f64 {
        match self.at {
            Some(at) if self.amount > 0.0 => {
                let lives = now.saturating_duration_since(at).as_secs_f64() / Self::HALF_LIFE.as_secs_f64();
                self.amount * (-lives).exp2()
            }
            Some(_) | None => self.amount,
        }
    }
}

/// A set of feeds, by numbers that the engine gives to those that we follow. With more than [`Feeds::ROOM`] of them
/// several share a number, and count as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Feeds([u64; 4]);

impl Feeds {
    /// Numbers there are.
    pub const ROOM: usize = 256;

    /// Adds the feed with this number.
    pub fn insert(&mut self, number: usize) {
        let number = number % Self::ROOM;
        if let Some(word) = self.0.get_mut(number / 64) {
            *word |= 1 << (number % 64);
        }
    }

    /// All that is in one of them.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        self.zip(other, |a, b| a | b)
    }

    /// What is in it and in the other as well.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        self.zip(other, |a, b| a & b)
    }

    /// What is in it and not in the other.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        self.zip(other, |a, b| a & !b)
    }

    /// How many there are.
    pub fn len(self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    fn zip(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        let [a, b, c, d] = self.0;
        let [e, f, g, h] = other.0;
        Self([with(a, e), with(b, f), with(c, g), with(d, h)])
    }
}
