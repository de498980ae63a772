//! Distances: Dijkstra's algorithm with weights of one, hence level by level.

use std::collections::{BTreeMap, BTreeSet};

use super::{Edge, Graph, GraphChange};
use crate::refs::FeedId;

/// Which way edges are walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From a feed to those it follows.
    Forward,
    /// From a feed to its followers.
    Reverse,
}

/// Whose blocks keep feeds away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blocks {
    /// Everybody's on the way, as in ssb-friends: whom a friend blocks is as far away as a feed that the friend
    /// follows, but on the negative side.
    #[default]
    All,
    /// Those of the start alone.
    OfStart,
}

impl Blocks {
    /// The distance at the far end of an edge from a feed at `distance`; `None` if the edge leads nowhere.
    fn step(self, distance: i32, edge: Edge) -> Option<i32> {
        match (edge, self) {
            (Edge::Block, Self::OfStart) if distance > 0 => None,
            (Edge::Block, Self::All | Self::OfStart) => Some(-(distance + 1)),
            (Edge::Follow, Self::All | Self::OfStart) => Some(distance + 1),
            (Edge::Neutral, Self::All | Self::OfStart) => Some(-(distance + 2)),
        }
    }
}

impl Graph {
    /// The distance of everybody from `start`, as ssb-friends has it:
    ///
    /// - 0 for `start`, 1 for whom it follows, 2 for whom those follow, up to `max`;
    /// - −1 for whom `start` blocks, −2 for whom it neither follows nor blocks any more;
    /// - further negative distances for those whom nearer ones block (−(distance + 1)) or no longer follow
    ///   (−(distance + 2)), where no path of follows is as short.
    ///
    /// The distance nearest to 0 counts, and of two equally near the positive. Paths do not go on from
    /// a negative distance. Feeds that no path reaches are absent.
    pub fn hops(&self, start: &FeedId, max: u32) -> BTreeMap<FeedId, i32> {
        self.hops_along(start, max, Direction::Forward)
    }

    /// The same, walking edges in the direction given: with [`Direction::Reverse`], how far everybody
    /// is from *having* `start`.
    pub fn hops_along(&self, start: &FeedId, max: u32, direction: Direction) -> BTreeMap<FeedId, i32> {
        self.hops_from(start, max, direction, Blocks::All)
    }

    fn hops_from(
        &self,
        start: &FeedId,
        max: u32,
        direction: Direction,
        blocks: Blocks,
    ) -> BTreeMap<FeedId, i32> {
        let Some(first) = self.ids.get(start) else { return BTreeMap::from([(*start, 0)]) };
        let mut found = vec![None; self.nodes.len()];
        found[*first as usize] = Some(0);
        let mut level = vec![*first];
        for distance in 0..i32::try_from(max).unwrap_or(i32::MAX) {
            let mut next = Vec::new();
            for from in level {
                self.neighbours(from, direction, |to, edge| {
                    let Some(candidate) = blocks.step(distance, edge) else { return };
                    if improve(&mut found[to as usize], candidate) && candidate > 0 {
                        next.push(to);
                    }
                });
            }
            if next.is_empty() {
                break;
            }
            level = next;
        }
        let reached = self.nodes.iter().zip(found);
        reached.filter_map(|(node, hops)| Some((node.feed, hops?))).collect()
    }

    fn neighbours(&self, of: u32, direction: Direction, mut visit: impl FnMut(u32, Edge)) {
        let node = &self.nodes[of as usize];
        match direction {
            Direction::Forward => node.out.iter().for_each(|(to, edge)| visit(*to, *edge)),
            Direction::Reverse => {
                let back = node.back.iter();
                let edges = back.filter_map(|from| Some((*from, *self.nodes[*from as usize].out.get(&of)?)));
                edges.for_each(|(from, edge)| visit(from, edge));
            }
        }
    }
}

/// Takes over a distance that is nearer, or as near and positive.
fn improve(known: &mut Option<i32>, candidate: i32) -> bool {
    let better = known.is_none_or(|known| (candidate.abs(), -candidate) < (known.abs(), -known));
    if better {
        *known = Some(candidate);
    }
    better
}

/// The distances from one start, kept up to date.
///
/// Callers tell of each change with [`note`](Self::note) and ask for what has moved, when they have time, with
/// [`refresh`](Self::refresh). A first word of one feed on another, as nearly all are while a log is read or
/// synced, costs a visit of what it moves. What takes back an earlier word has everything within reach visited
/// again at the next refresh.
#[derive(Clone, Debug)]
pub struct Hops {
    start: FeedId,
    max: u32,
    blocks: Blocks,
    known: BTreeMap<FeedId, i32>,
    /// What feeds had at the last refresh that have something else since.
    before: BTreeMap<FeedId, Option<i32>>,
    stale: bool,
}

impl Hops {
    /// The distances from `start`, followed up to `max`. The first refresh tells everybody's.
    pub const fn new(start: FeedId, max: u32, blocks: Blocks) -> Self {
        Self { start, max, blocks, known: BTreeMap::new(), before: BTreeMap::new(), stale: true }
    }

    /// Takes notice of a change that `graph` has.
    pub fn note(&mut self, graph: &Graph, change: &GraphChange) {
        if self.stale {
            return;
        }
        // What is said by those from whom no path goes on moves nobody.
        let Some(distance) = self.of(&change.source).filter(|hops| self.goes_on(*hops)) else { return };
        if change.before.is_some() {
            self.stale = true;
            return;
        }
        let mut queue = BTreeSet::new();
        self.offer(change.dest, self.blocks.step(distance, change.after), &mut queue);
        while let Some((distance, feed)) = queue.pop_first() {
            for (dest, edge) in graph.edges_of(&feed) {
                self.offer(dest, self.blocks.step(distance, edge), &mut queue);
            }
        }
    }

    /// Lets a feed have another distance if that is better; it is queued if paths go on from there.
    fn offer(&mut self, feed: FeedId, candidate: Option<i32>, queue: &mut BTreeSet<(i32, FeedId)>) {
        let Some(candidate) = candidate else { return };
        let known = self.of(&feed);
        let mut better = known;
        if !improve(&mut better, candidate) {
            return;
        }
        // Paths went on from here, and now they do not: others may be further away than before.
        self.stale |= known.is_some_and(|known| known > 0) && candidate < 0;
        self.before.entry(feed).or_insert(known);
        self.known.insert(feed, candidate);
        if self.goes_on(candidate) {
            queue.insert((candidate, feed));
        }
    }

    fn goes_on(&self, hops: i32) -> bool {
        u32::try_from(hops).is_ok_and(|hops| hops < self.max)
    }

    /// Brings distances up to date and returns what is different now; `None` for whom no path reaches
    /// any more.
    pub fn refresh(&mut self, graph: &Graph) -> BTreeMap<FeedId, Option<i32>> {
        let before = std::mem::take(&mut self.before);
        if !std::mem::take(&mut self.stale) {
            let now = before.into_iter().map(|(feed, before)| (feed, before, self.of(&feed)));
            return now.filter(|(_, before, now)| before != now).map(|(feed, _, now)| (feed, now)).collect();
        }
        let now = graph.hops_from(&self.start, self.max, Direction::Forward, self.blocks);
        let mut last = std::mem::replace(&mut self.known, now);
        for (feed, hops) in before {
            match hops {
                Some(hops) => last.insert(feed, hops),
                None => last.remove(&feed),
            };
        }
        let gone = last.keys().filter(|feed| !self.known.contains_key(feed)).map(|feed| (*feed, None));
        let moved = self.known.iter().filter(|(feed, hops)| last.get(feed) != Some(hops));
        moved.map(|(feed, hops)| (*feed, Some(*hops))).chain(gone).collect()
    }

    /// The distance of a feed.
    pub fn of(&self, feed: &FeedId) -> Option<i32> {
        self.known.get(feed).copied()
    }

    /// Everybody's distance.
    pub const fn all(&self) -> &BTreeMap<FeedId, i32> {
        &self.known
    }

    /// How far away a feed is that is to be replicated: from 0 to the maximum.
    pub fn replicated(&self, feed: &FeedId) -> Option<u32> {
        self.of(feed).and_then(|hops| u32::try_from(hops).ok())
    }
}
