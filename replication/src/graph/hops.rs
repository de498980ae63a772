//! Distances: Dijkstra's algorithm with weights of one, hence level by level.

use std::collections::BTreeMap;

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
        let Some(first) = self.ids.get(start) else { return BTreeMap::from([(*start, 0)]) };
        let mut found = vec![None; self.nodes.len()];
        found[*first as usize] = Some(0);
        let mut level = vec![*first];
        for distance in 0..i32::try_from(max).unwrap_or(i32::MAX) {
            let mut next = Vec::new();
            for from in level {
                self.neighbours(from, direction, |to, edge| {
                    let candidate = step(distance, edge);
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

/// The distance at the far end of an edge.
fn step(distance: i32, edge: Edge) -> i32 {
    match edge {
        Edge::Follow => distance + 1,
        Edge::Block => -(distance + 1),
        Edge::Neutral => -(distance + 2),
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
/// Recomputing costs one visit of every edge within reach, so callers let changes gather:
/// [`note`](Self::note) each of them, then [`refresh`](Self::refresh) once.
#[derive(Clone, Debug)]
pub struct Hops {
    start: FeedId,
    max: u32,
    known: BTreeMap<FeedId, i32>,
    stale: bool,
}

impl Hops {
    /// The distances from `start` in `graph`, followed up to `max`.
    pub fn new(graph: &Graph, start: FeedId, max: u32) -> Self {
        Self { start, max, known: graph.hops(&start, max), stale: false }
    }

    /// Takes notice of a change of the graph. Cheap.
    pub fn note(&mut self, change: &GraphChange) {
        // What is said by those from whom no path goes on moves nobody.
        let goes_on = |hops: &i32| u32::try_from(*hops).is_ok_and(|hops| hops < self.max);
        self.stale |= self.known.get(&change.source).is_some_and(goes_on);
    }

    /// Brings distances up to date and returns what is different now; `None` for whom no path reaches
    /// any more.
    pub fn refresh(&mut self, graph: &Graph) -> BTreeMap<FeedId, Option<i32>> {
        if !std::mem::take(&mut self.stale) {
            return BTreeMap::new();
        }
        let before = std::mem::replace(&mut self.known, graph.hops(&self.start, self.max));
        let gone = before.keys().filter(|feed| !self.known.contains_key(feed)).map(|feed| (*feed, None));
        let moved = self.known.iter().filter(|(feed, hops)| before.get(feed) != Some(hops));
        moved.map(|(feed, hops)| (*feed, Some(*hops))).chain(gone).collect()
    }

    /// The distance of a feed.
    pub fn of(&self, feed: &FeedId) -> Option<i32> {
        self.known.get(feed).copied()
    }

    /// Everybody's distance.
    pub fn all(&self) -> &BTreeMap<FeedId, i32> {
        &self.known
    }

    /// Whom to replicate, and how far away each is: everybody from 0 to the maximum.
    pub fn replicated(&self) -> impl Iterator<Item = (FeedId, u32)> {
        self.known.iter().filter_map(|(feed, hops)| Some((*feed, u32::try_from(*hops).ok()?)))
    }
}
