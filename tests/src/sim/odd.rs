//! Those in the simulated world who do not do what they should, and rooms, which do but hold nothing.

use crate::chance::SplitMix;

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Odds {
    /// People, as a share of all, whose clocks promise what never comes.
    pub liars: f64,
    /// People who connect to whomever they can and leave at once, in a loop, and who hang up on whoever dials them.
    pub comers: f64,
    /// People who take sessions and never read, nor say anything.
    pub mutes: f64,
    /// Pubs that are rooms: who is there hears at once of everybody else there, and nothing is kept.
    pub rooms: usize,
}

impl Odds {
    /// A quarter of all people.
    pub const MANY: Self = Self { liars: 0.1, comers: 0.1, mutes: 0.05, rooms: 2 };

    /// What somebody is; it draws no chance of the run's own.
    pub(super) fn manner(&self, seed: u64, person: u32) -> Manner {
        let at = SplitMix::new(seed ^ (u64::from(person) << 20) ^ 0x0dd5).unit();
        match at {
            at if at < self.liars => Manner::Liar,
            at if at < self.liars + self.comers => Manner::Comer,
            at if at < self.liars + self.comers + self.mutes => Manner::Mute,
            _ => Manner::Honest,
        }
    }
}

/// How somebody behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Honest,
    Liar,
    Comer,
    Mute,
    Room,
}

impl Manner {
    /// Whether it replicates what it wants.
    pub(super) fn is_honest(self) -> bool {
        self == Self::Honest
    }

    /// Whether sessions with it are of no use to anybody.
    pub(super) const fn is_useless(self) -> bool {
        match self {
            Self::Honest | Self::Room => false,
            Self::Liar | Self::Comer | Self::Mute => true,
        }
    }
}
