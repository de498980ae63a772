//! Who follows and blocks whom, and how far away from us everybody is (protocol guide, "Follow graph";
//! distances as in JavaScript's ssb-friends).
//!
//! A `contact` message says what its author now thinks of another feed, and replaces whatever the
//! author said before. So the graph is the last word of each author on each feed, and comes out the
//! same from any log that holds the authors' messages in their order.
//!
//! [`Graph::apply`] takes messages in log order, [`Graph::hops`] computes distances, [`Hops`] keeps them
//! for one start and tells what has changed. [`Graph::seal`] keeps it all over a restart.
//!
//! What always holds: feeds and edges are iterated over in a fixed order; a distance is at least 0 for
//! whom we replicate and negative for whom we do not; nobody can add more edges than
//! [`MAX_EDGES_OF_ONE_FEED`].

mod hops;
mod sealed;

use std::collections::{BTreeMap, BTreeSet};

use crate::message::{Content, Message};
use crate::refs::FeedId;

pub use hops::{Blocks, Direction, Hops};
pub use sealed::{Mark, NotSealed, Sealed};

/// How many feeds one author can say something about; what it says about further ones is not heard.
/// Keeps a feed that is made of follows only from filling our memory.
pub const MAX_EDGES_OF_ONE_FEED: usize = 100_000;

/// What one feed thinks of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edge {
    /// Follows it: a hop of 1.
    Follow,
    /// Blocks it: −1.
    Block,
    /// Neither, but has had an opinion before, or has said that it has none: −2.
    Neutral,
}

impl Edge {
    /// What a content says about whom; `None` if it says nothing of the kind.
    ///
    /// Only `type: "contact"` counts. (Old JavaScript peers took any type with a `contact`.)
    pub fn read(content: &Content<'_>) -> Option<(FeedId, Self)> {
        let Content::Object { kind, .. } = content else { return None };
        if kind != "contact" {
            return None;
        }
        let contact = content.member("contact")?.strip_prefix('"')?.strip_suffix('"')?.parse().ok()?;
        let says = |name| content.member(name).is_some_and(is_truthy);
        let edge = if says("blocking") || says("flagged") {
            Self::Block
        } else if content.member("following") == Some("true") {
            Self::Follow
        } else {
            Self::Neutral
        };
        Some((contact, edge))
    }
}

/// Whether JavaScript takes a value, given in canonical form, for true.
fn is_truthy(written: &str) -> bool {
    !matches!(written, "false" | "null" | "0" | "\"\"")
}

/// What a message has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphChange {
    /// Who.
    pub source: FeedId,
    /// About whom.
    pub dest: FeedId,
    /// What the edge was.
    pub before: Option<Edge>,
    /// What it is now; never the same.
    pub after: Edge,
}

/// The follow graph.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Feeds by number. Edges hold numbers, not ids: a million edges take some 40 MB.
    ids: BTreeMap<FeedId, u32>,
    nodes: Vec<Node>,
    edges: usize,
}

#[derive(Clone, Debug)]
struct Node {
    feed: FeedId,
    /// What this feed thinks of others.
    out: BTreeMap<u32, Edge>,
    /// Who thinks anything of this feed.
    back: BTreeSet<u32>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a message: the next of its author. `None` if it changes nothing.
    pub fn apply(&mut self, message: &Message) -> Option<GraphChange> {
        self.apply_content(message.author(), &message.content())
    }

    /// Takes in what an author says; for decrypted messages, which count as well.
    pub fn apply_content(&mut self, author: FeedId, content: &Content<'_>) -> Option<GraphChange> {
        let (dest, edge) = Edge::read(content)?;
        self.set(author, dest, edge)
    }

    /// Sets an edge. `None` if it was so already, or if the source has said too much.
    pub fn set(&mut self, source: FeedId, dest: FeedId, after: Edge) -> Option<GraphChange> {
        let before = self.edge(&source, &dest);
        let full = self.node(&source).is_some_and(|node| node.out.len() >= MAX_EDGES_OF_ONE_FEED);
        if before == Some(after) || (before.is_none() && full) {
            return None;
        }
        let (from, to) = (self.intern(source), self.intern(dest));
        self.nodes[from as usize].out.insert(to, after);
        self.nodes[to as usize].back.insert(from);
        self.edges += usize::from(before.is_none());
        Some(GraphChange { source, dest, before, after })
    }

    /// What `source` thinks of `dest`, if it ever said so.
    pub fn edge(&self, source: &FeedId, dest: &FeedId) -> Option<Edge> {
        self.node(source)?.out.get(self.ids.get(dest)?).copied()
    }

    /// Whether `source` follows `dest`.
    pub fn is_following(&self, source: &FeedId, dest: &FeedId) -> bool {
        self.edge(source, dest) == Some(Edge::Follow)
    }

    /// Whether `source` blocks `dest`.
    pub fn is_blocking(&self, source: &FeedId, dest: &FeedId) -> bool {
        self.edge(source, dest) == Some(Edge::Block)
    }

    /// All that `source` ever said about others.
    pub fn edges_of(&self, source: &FeedId) -> impl Iterator<Item = (FeedId, Edge)> {
        let out = self.node(source).into_iter().flat_map(|node| &node.out);
        out.map(|(to, edge)| (self.nodes[*to as usize].feed, *edge))
    }

    /// All that others ever said about `dest`.
    pub fn edges_to(&self, dest: &FeedId) -> impl Iterator<Item = (FeedId, Edge)> {
        let to = self.ids.get(dest).copied();
        let sources = to.into_iter().flat_map(|to| &self.nodes[to as usize].back);
        sources.filter_map(move |from| {
            let node = &self.nodes[*from as usize];
            Some((node.feed, *node.out.get(&to?)?))
        })
    }

    /// Whom `source` follows.
    pub fn follows_of(&self, source: &FeedId) -> impl Iterator<Item = FeedId> {
        self.edges_of(source).filter(|(_, edge)| *edge == Edge::Follow).map(|(feed, _)| feed)
    }

    /// Whom `source` blocks.
    pub fn blocks_of(&self, source: &FeedId) -> impl Iterator<Item = FeedId> {
        self.edges_of(source).filter(|(_, edge)| *edge == Edge::Block).map(|(feed, _)| feed)
    }

    /// Who follows `dest`.
    pub fn followers_of(&self, dest: &FeedId) -> impl Iterator<Item = FeedId> {
        self.edges_to(dest).filter(|(_, edge)| *edge == Edge::Follow).map(|(feed, _)| feed)
    }

    /// Who blocks `dest`: their messages are not for it.
    pub fn blockers_of(&self, dest: &FeedId) -> impl Iterator<Item = FeedId> {
        self.edges_to(dest).filter(|(_, edge)| *edge == Edge::Block).map(|(feed, _)| feed)
    }

    /// Who blocks whom, all of it.
    pub fn blocks(&self) -> impl Iterator<Item = (FeedId, FeedId)> {
        self.nodes.iter().flat_map(|node| {
            let blocked = node.out.iter().filter(|(_, edge)| **edge == Edge::Block);
            blocked.map(|(to, _)| (node.feed, self.nodes[*to as usize].feed))
        })
    }

    /// All feeds that an edge begins or ends at.
    pub fn feeds(&self) -> impl Iterator<Item = FeedId> {
        self.ids.keys().copied()
    }

    /// How many feeds have said something or been spoken of.
    pub fn feed_count(&self) -> usize {
        self.nodes.len()
    }

    /// How many edges there are.
    pub fn edge_count(&self) -> usize {
        self.edges
    }

    fn node(&self, feed: &FeedId) -> Option<&Node> {
        self.ids.get(feed).map(|id| &self.nodes[*id as usize])
    }

    fn intern(&mut self, feed: FeedId) -> u32 {
        *self.ids.entry(feed).or_insert_with(|| {
            self.nodes.push(Node { feed, out: BTreeMap::new(), back: BTreeSet::new() });
            u32::try_from(self.nodes.len() - 1).expect("a feed takes more than a byte of memory")
        })
    }
}

#[cfg(test)]
mod tests;
