//! The fork guard: whether this node may sign messages of its feed now. A feed is forked for good by one message
//! that is signed while its newest message is elsewhere: after a restored `secret`, an old backup, a copied
//! folder, another server in the same folder.
//!
//! The rule:
//!
//! | what is known | may it publish? |
//! |---|---|
//! | the identity was made by this start, or [`continuity`](crate::continuity) shows that nothing was restored or copied since the last run | at once |
//! | anything else | when [`ENOUGH_PEERS`] that hold the feed were asked and have no more of it, or one was and [`QUIET`] passed without news |
//! | ... and nobody who was asked holds any of it | when [`STRANGERS_QUIET`] passed since somebody was asked |
//! | somebody claims more of the feed than is held | when that is here, or [`CLAIM_PATIENCE`] passed in which nothing of it came |
//! | `--danger-publish-anyway` | at once, whatever is known |
//!
//! While it may not, peers are asked for the feed. Without any peer it stays so: only the flag overrules. A claim
//! without a message is cheap, so it holds only so long: whoever claimed in vain is not believed again by this
//! run, and all vain claims together hold for [`VAIN_IN_ALL`] at most, until the feed really grows.
//!
//! [`ForkGuard`] is the machine, driven by the engine; [`Gate`] is what it says, where whoever signs looks at it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use hawsepipe_replication::refs::FeedId;

/// So many peers that have no more of our feed are enough.
pub const ENOUGH_PEERS: usize = 3;
/// With fewer peers, so long nothing new must have been heard.
pub const QUIET: Duration = Duration::from_secs(15);
/// With peers alone that hold nothing of our feed, so that it proves little that they have no more.
pub const STRANGERS_QUIET: Duration = Duration::from_secs(600);
/// How long the guard waits for messages that a peer claims to exist, counted anew whenever some come.
pub const CLAIM_PATIENCE: Duration = Duration::from_secs(120);
/// How long claims hold altogether that nothing came of.
pub const VAIN_IN_ALL: Duration = Duration::from_secs(600);
/// Peers that are remembered, of each kind.
pub const MAX_PEERS: usize = 1_000;

/// Why the feed may be longer than what is held of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// There is a `secret`, but no record of what was published with it.
    Unknown,
    /// The record is of another place: the folder was copied or restored.
    Copied,
    /// The record says that there was more, or something else.
    Lost {
        /// How many messages there were at least.
        recorded: u64,
    },
    /// Another server has written into this folder since.
    OtherServer(&'static str),
}

/// What a start knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Made just now.
    New,
    /// All that was ever published is here.
    Continuous,
    /// Not sure.
    Doubtful(Doubt),
    /// Told not to care.
    Overruled,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A peer says that it has this much of our feed, or sent this message of it, not yet verified.
    Claimed {
        /// Who.
        peer: FeedId,
        /// How much.
        sequence: u64,
    },
    /// A peer was asked for what follows, and has said all that it has.
    Asked {
        /// Who.
        peer: FeedId,
        /// Whether it sent any message of our feed: then it would have known of more.
        knows: bool,
    },
    /// We hold this much of our feed.
    Held {
        /// How much.
        sequence: u64,
    },
}

/// Why nothing may be signed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// What the start did not know; nothing if only a claim is in the way.
    pub doubt: Option<Doubt>,
    /// How many messages of our feed are held.
    pub held: u64,
    /// How many exist, if somebody claims more.
    pub claimed: Option<u64>,
    /// How many peers were asked and have no more.
    pub asked: usize,
    /// How many of them hold any of the feed.
    pub knowing: usize,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { doubt, held, claimed, asked, knowing } = self;
        f.write_str("nothing is published now, because this feed may be longer elsewhere and would fork: ")?;
        match doubt {
            Some(Doubt::Unknown) => f.write_str("this identity was not made here")?,
            Some(Doubt::Copied) => f.write_str("this data folder was copied or restored from a backup")?,
            Some(Doubt::Lost { recorded }) => {
                write!(f, "it had {recorded} messages or others than are here")?;
            }
            Some(Doubt::OtherServer(server)) => write!(f, "{server} has used this data folder since")?,
            None => f.write_str("a peer claims to have more of it")?,
        }
        write!(f, ". {held} messages are here")?;
        if let Some(claimed) = claimed {
            write!(f, ", a peer claims {claimed}; they are asked for")?;
        } else if *asked == 0 {
            f.write_str(", and no peer could be asked for more yet: connect to one")?;
        } else if *knowing == 0 {
            let minutes = STRANGERS_QUIET.as_secs() / 60;
            write!(
                f,
                ", {asked} peer(s) have none of it; connect to one that follows you, or wait {minutes} minutes"
            )?;
        } else {
            write!(f, ", {knowing} peer(s) have no more; in a moment that is enough")?;
        }
        f.write_str(". To publish regardless, restart with `hawsepipe start --danger-publish-anyway`")
    }
}

/// See the module's header.
#[derive(Debug)]
pub struct ForkGuard {
    overruled: bool,
    doubt: Option<Doubt>,
    held: u64,
    /// Whether they hold any of the feed.
    asked: BTreeMap<FeedId, bool>,
    /// When something was last heard that bears on the doubt.
    news_at: Option<Instant>,
    /// What peers claim beyond what is held.
    claims: BTreeMap<FeedId, u64>,
    /// Since when something is claimed and nothing of it comes.
    claimed_at: Option<Instant>,
    /// Peers whose claims came to nothing.
    vain: BTreeSet<FeedId>,
    /// How long vain claims held since the feed last grew.
    spent: Duration,
}

impl ForkGuard {
    /// With what a start knows, and how much of the feed is held.
    pub fn new(standing: Standing, held: u64) -> Self {
        let doubt = match standing {
            Standing::Doubtful(doubt) => Some(doubt),
            Standing::New | Standing::Continuous | Standing::Overruled => None,
        };
        Self {
            overruled: standing == Standing::Overruled,
            doubt,
            held,
            asked: BTreeMap::new(),
            news_at: None,
            claims: BTreeMap::new(),
            claimed_at: None,
            vain: BTreeSet::new(),
            spent: Duration::ZERO,
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Claimed { peer, sequence } => self.claimed(now, peer, sequence),
            Input::Asked { peer, knows } => self.asked(now, peer, knows),
            Input::Held { sequence } => self.grew(now, sequence),
        }
        self.settle(now);
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let quiet = self.news_at.filter(|_| self.doubt.is_some() && self.claims.is_empty());
        [quiet.map(|at| at + self.quiet()), self.claims_end()].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.claims_end().is_some_and(|at| at <= now) {
            self.give_up_claims(now);
        }
        self.settle(now);
    }

    /// Whether messages may be signed now.
    pub fn verdict(&self) -> Result<(), Wait> {
        if self.overruled || (self.doubt.is_none() && self.claims.is_empty()) {
            return Ok(());
        }
        let claimed = self.claims.values().copied().max();
        Err(Wait {
            doubt: self.doubt,
            held: self.held,
            claimed,
            asked: self.asked.len(),
            knowing: self.knowing(),
        })
    }

    fn claimed(&mut self, now: Instant, peer: FeedId, sequence: u64) {
        if sequence <= self.held {
            self.claims.remove(&peer);
            if self.claims.is_empty() {
                self.claimed_at = None;
            }
            return;
        }
        let is_known = self.claims.contains_key(&peer);
        let is_worn = self.vain.contains(&peer) || self.spent >= VAIN_IN_ALL;
        if is_worn || (!is_known && self.claims.len() >= MAX_PEERS) {
            return;
        }
        let claim = self.claims.entry(peer).or_default();
        *claim = sequence.max(*claim);
        self.claimed_at.get_or_insert(now);
    }

    fn asked(&mut self, now: Instant, peer: FeedId, knows: bool) {
        let before = self.asked.get(&peer).copied();
        let is_news = before.is_none_or(|knew| knows && !knew);
        if self.doubt.is_some() && is_news && (before.is_some() || self.asked.len() < MAX_PEERS) {
            self.asked.insert(peer, knows);
            // Strangers come and go; waiting for them to stay away would take for ever.
            if knows || self.news_at.is_none() {
                self.news_at = Some(now);
            }
        }
    }

    fn knowing(&self) -> usize {
        self.asked.values().filter(|knows| **knows).count()
    }

    fn quiet(&self) -> Duration {
        if self.knowing() == 0 { STRANGERS_QUIET } else { QUIET }
    }

    fn grew(&mut self, now: Instant, sequence: u64) {
        if sequence <= self.held {
            return;
        }
        self.held = sequence;
        self.claims.retain(|_, claimed| *claimed > sequence);
        self.claimed_at = (!self.claims.is_empty()).then_some(now);
        self.spent = Duration::ZERO;
        if self.news_at.is_some() {
            self.news_at = Some(now);
        }
    }

    /// When the claims that stand now are no longer waited for.
    fn claims_end(&self) -> Option<Instant> {
        let patience = CLAIM_PATIENCE.min(VAIN_IN_ALL.saturating_sub(self.spent));
        self.claimed_at.map(|at| at + patience)
    }

    /// Nothing came of what peers claim. They had their chance, so in doubt they count as asked.
    fn give_up_claims(&mut self, now: Instant) {
        let since = self.claimed_at.take().unwrap_or(now);
        self.spent += now.saturating_duration_since(since);
        for peer in std::mem::take(&mut self.claims).into_keys() {
            self.asked(now, peer, false);
            if self.vain.len() < MAX_PEERS {
                self.vain.insert(peer);
            }
        }
    }

    fn settle(&mut self, now: Instant) {
        let is_quiet = self.news_at.is_some_and(|at| at + self.quiet() <= now);
        let is_enough = self.knowing() >= ENOUGH_PEERS || is_quiet;
        if self.claims.is_empty() && is_enough {
            self.doubt = None;
        }
    }
}

/// What the guard says, for whoever signs.
#[derive(Debug)]
pub struct Gate {
    /// Guards the verdict; held only to read or to replace it.
    verdict: RwLock<Result<(), Wait>>,
}

impl Gate {
    /// With a first verdict.
    pub fn new(verdict: Result<(), Wait>) -> Self {
        Self { verdict: RwLock::new(verdict) }
    }

    /// Whether messages may be signed now.
    pub fn check(&self) -> Result<(), Wait> {
        *self.verdict.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the verdict.
    pub fn set(&self, verdict: Result<(), Wait>) {
        *self.verdict.write().unwrap_or_else(PoisonError::into_inner) = verdict;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn peer(n: u8) -> FeedId {
        FeedId::from_bytes([n; 32])
    }

    fn claim(n: u8, sequence: u64) -> Input {
        Input::Claimed { peer: peer(n), sequence }
    }

    fn asked(n: u8) -> Input {
        Input::Asked { peer: peer(n), knows: true }
    }

    fn stranger(n: u8) -> Input {
        Input::Asked { peer: peer(n), knows: false }
    }

    fn held(sequence: u64) -> Input {
        Input::Held { sequence }
    }

    /// Inputs, each with the second at which it comes; then whether publishing is free at that last second.
    fn free_after(standing: Standing, steps: &[(u64, Input)], until: u64) -> bool {
        let start = crate::clock::now();
        let at = |second: u64| start + SECOND * u32::try_from(second).unwrap();
        let mut guard = ForkGuard::new(standing, 5);
        for (second, input) in steps {
            run_to(&mut guard, at(*second));
            guard.handle(at(*second), *input);
        }
        run_to(&mut guard, at(until));
        guard.verdict().is_ok()
    }

    fn run_to(guard: &mut ForkGuard, until: Instant) {
        while let Some(at) = guard.poll_timeout().filter(|at| *at <= until) {
            guard.handle_timeout(at);
            assert_ne!(guard.poll_timeout(), Some(at), "a timeout is dealt with");
        }
    }

    #[test]
    fn the_rule_holds() {
        let doubtful = Standing::Doubtful(Doubt::Copied);
        let hour = 3600;
        for (why, standing, steps, until, free) in [
            ("made here", Standing::New, vec![], 0, true),
            ("continuous", Standing::Continuous, vec![], 0, true),
            ("nobody to ask", doubtful, vec![], hour, false),
            ("one peer, too soon", doubtful, vec![(1, asked(1))], 15, false),
            ("one peer, then quiet", doubtful, vec![(1, asked(1))], 16, true),
            ("news keep it waiting", doubtful, vec![(1, asked(1)), (10, asked(2))], 16, false),
            ("enough peers", doubtful, vec![(1, asked(1)), (1, asked(2)), (1, asked(3))], 1, true),
            ("the same peer again", doubtful, vec![(1, asked(1)), (1, asked(1)), (1, asked(1))], 1, false),
            (
                "strangers prove little",
                doubtful,
                vec![(1, stranger(1)), (1, stranger(2)), (1, stranger(3))],
                600,
                false,
            ),
            ("but something", doubtful, vec![(1, stranger(1)), (500, stranger(2))], 601, true),
            (
                "one among strangers",
                doubtful,
                vec![(1, stranger(1)), (1, stranger(2)), (2, asked(3))],
                17,
                true,
            ),
            ("who knows after all", doubtful, vec![(1, stranger(1)), (20, asked(1))], 35, true),
            ("claims count first", doubtful, vec![(1, claim(1, 9)), (2, asked(1)), (2, asked(2))], 60, false),
            ("fetched", doubtful, vec![(1, claim(1, 9)), (2, held(9)), (3, asked(1))], 18, true),
            ("fetched in part", doubtful, vec![(1, claim(1, 9)), (2, held(8)), (3, asked(1))], 18, false),
            ("no more than we hold", Standing::Continuous, vec![(1, claim(1, 5))], 1, true),
            ("somebody has more", Standing::Continuous, vec![(1, claim(1, 6))], 1, false),
            ("and it came", Standing::Continuous, vec![(1, claim(1, 6)), (2, held(6))], 2, true),
            ("a lie is waited for", Standing::Continuous, vec![(1, claim(1, 6))], 120, false),
            ("but not for ever", Standing::Continuous, vec![(1, claim(1, 6))], 121, true),
            ("nor again", Standing::Continuous, vec![(1, claim(1, 6)), (122, claim(1, 7))], 122, true),
            (
                "another may be right",
                Standing::Continuous,
                vec![(1, claim(1, 6)), (122, claim(2, 7))],
                122,
                false,
            ),
            (
                "what comes is waited for",
                Standing::Continuous,
                vec![(1, claim(1, 9)), (110, held(6))],
                220,
                false,
            ),
            ("taken back", Standing::Continuous, vec![(1, claim(1, 6)), (2, claim(1, 4))], 2, true),
            ("a lie in doubt", doubtful, vec![(1, claim(1, 9))], 720, false),
            ("nor for ever there", doubtful, vec![(1, claim(1, 9))], 721, true),
            ("overruled", Standing::Overruled, vec![(1, claim(1, 9))], 1, true),
        ] {
            assert_eq!(free_after(standing, &steps, until), free, "{why}");
        }
    }

    #[test]
    fn any_number_of_liars_hold_for_ten_minutes_at_most() {
        let lies: Vec<_> = (0..200).map(|n| (u64::from(n) * 10, claim(n, 1000 + u64::from(n)))).collect();
        assert!(
            !free_after(Standing::Continuous, &lies, 1000) || free_after(Standing::Continuous, &lies, 2000)
        );
        let held_for = (0..2000).filter(|until| {
            let so_far: Vec<_> = lies.iter().filter(|(at, _)| at <= until).copied().collect();
            !free_after(Standing::Continuous, &so_far, *until)
        });
        assert_eq!(held_for.count() as u64, VAIN_IN_ALL.as_secs());
    }

    #[test]
    fn a_wait_says_what_to_do() {
        let wait =
            |doubt, claimed, asked| Wait { doubt, held: 3, claimed, asked, knowing: asked }.to_string();
        for (text, part) in [
            (wait(Some(Doubt::Unknown), None, 0), "no peer could be asked"),
            (wait(Some(Doubt::Copied), None, 1), "copied or restored"),
            (wait(Some(Doubt::Lost { recorded: 9 }), None, 1), "had 9 messages"),
            (wait(Some(Doubt::OtherServer("JS ssb-server")), None, 1), "JS ssb-server has used"),
            (wait(None, Some(8), 0), "a peer claims 8"),
        ] {
            assert!(text.contains(part) && text.contains("--danger-publish-anyway"), "{text}");
        }
    }
}
