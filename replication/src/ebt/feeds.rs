//! The feeds that concern this node, numbered so that peers' states can be vectors.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Instant;

use super::Peer;
use super::window::Load;
use crate::refs::FeedId;

/// A feed's number, valid for one [`Feeds`]. Numbers are never freed: they are given only to feeds that
/// we hold or want, so what a peer says cannot exhaust them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ix(u32);

/// A place in a peer's queue: nearest feeds first.
pub(super) type Turn = (u32, Ix);

/// A place in a peer's window: nearest first, then what grew last in our store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    rank: u32,
    grown: Reverse<u64>,
    pub(super) ix: Ix,
}

/// What we know of a feed, whoever is connected.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) id: FeedId,
    /// Hops to the author, if the feed is wanted.
    pub(super) rank: Option<u32>,
    /// Up to here the store holds it.
    pub(super) have: u64,
    /// Up to here messages were accepted; never less than `have`.
    pub(super) accepted: u64,
    /// When the store's part of it last grew, counted in such events.
    pub(super) grown: u64,
    /// What its source is taken to owe of it.
    pub(super) load: Load,
    /// The one peer that is asked to push it.
    pub(super) source: Option<Peer>,
    /// When the source was chosen or last sent something new.
    pub(super) progress_at: Option<Instant>,
    /// It will be asked for again after a failure of ours.
    pub(super) retrying: bool,
}

impl Feed {
    pub(super) const fn wanted(&self) -> bool {
        self.rank.is_some()
    }
}

#[derive(Debug, Default)]
pub(super) struct Feeds {
    numbers: BTreeMap<FeedId, Ix>,
    rows: Vec<Feed>,
}

impl Feeds {
    pub(super) fn intern(&mut self, id: FeedId) -> Ix {
        let rows = &mut self.rows;
        *self.numbers.entry(id).or_insert_with(|| {
            let ix = Ix(u32::try_from(rows.len()).expect("fewer feeds than fit into memory"));
            rows.push(Feed {
                id,
                rank: None,
                have: 0,
                accepted: 0,
                grown: 0,
                load: Load::default(),
                source: None,
                progress_at: None,
                retrying: false,
            });
            ix
        })
    }

    pub(super) fn find(&self, id: &FeedId) -> Option<Ix> {
        self.numbers.get(id).copied()
    }

    pub(super) fn turn(&self, ix: Ix) -> Turn {
        (self[ix].rank.unwrap_or(u32::MAX), ix)
    }

    pub(super) fn place(&self, ix: Ix) -> Place {
        let feed = &self[ix];
        Place { rank: feed.rank.unwrap_or(u32::MAX), grown: Reverse(feed.grown), ix }
    }

    pub(super) fn wanted(&self) -> impl Iterator<Item = (Ix, &Feed)> {
        self.rows.iter().enumerate().filter(|(_, feed)| feed.wanted()).map(|(i, feed)| (Ix(i as u32), feed))
    }
}

impl std::ops::Index<Ix> for Feeds {
    type Output = Feed;

    fn index(&self, ix: Ix) -> &Feed {
        &self.rows[ix.index()]
    }
}

impl std::ops::IndexMut<Ix> for Feeds {
    fn index_mut(&mut self, ix: Ix) -> &mut Feed {
        &mut self.rows[ix.index()]
    }
}

impl Ix {
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}
