//! The graph as bytes, so that a start need not read every contact message again.
//!
//! It says up to which message of the log it goes. Whoever loads it applies what came after that; applying
//! some of what came before once more does no harm, because the last word of each author counts. Without it
//! all contact messages are read, which takes longer and comes to the same.
//!
//! Format, integers little-endian: `hawsepipe graph1` | the message's offset u64 | its id, 32 bytes | number of
//! feeds u32 | the feeds, 32 bytes each | for each feed: number of edges u32, and each edge as number of the
//! other feed u32 and what it is u8 (0 follow, 1 block, 2 neither) | CRC-32 of all this u32.

use super::{Edge, Graph};
use crate::refs::{FeedId, MessageId};
use crate::store::Stored;

const MAGIC: &[u8; 16] = b"hawsepipe graph1";

/// A place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Where in the log a message lies.
    pub offset: u64,
    /// Which one: the same offset of another log has another.
    pub id: MessageId,
}

impl Mark {
    /// The place of a stored message.
    pub fn of(stored: &Stored) -> Self {
        Self { offset: stored.offset, id: stored.message.id() }
    }
}

/// A graph and the last message of the log that it knows of.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// The graph.
    pub graph: Graph,
    /// The message.
    pub until: Mark,
}

/// Not a sealed graph, or a damaged one: read the contact messages instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a sealed graph, or a damaged one")]
pub struct NotSealed;

impl Graph {
    /// The graph as bytes; it knows of all messages up to `until`.
    pub fn seal(&self, until: Mark) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAGIC.len() + 48 + self.nodes.len() * 36 + self.edges * 5);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&until.offset.to_le_bytes());
        out.extend_from_slice(&until.id.to_bytes());
        out.extend_from_slice(&count(self.nodes.len()));
        for node in &self.nodes {
            out.extend_from_slice(&node.feed.to_bytes());
        }
        for node in &self.nodes {
            out.extend_from_slice(&count(node.out.len()));
            for (to, edge) in &node.out {
                out.extend_from_slice(&to.to_le_bytes());
                out.push(match edge {
                    Edge::Follow => 0,
                    Edge::Block => 1,
                    Edge::Neutral => 2,
                });
            }
        }
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }

    /// Reads what [`Graph::seal`] wrote.
    pub fn unseal(bytes: &[u8]) -> Result<Sealed, NotSealed> {
        let (bytes, sum) = bytes.split_last_chunk::<4>().ok_or(NotSealed)?;
        if crc32fast::hash(bytes) != u32::from_le_bytes(*sum) {
            return Err(NotSealed);
        }
        let mut rest = Rest(bytes.strip_prefix(MAGIC).ok_or(NotSealed)?);
        let until =
            Mark { offset: u64::from_le_bytes(rest.take()?), id: MessageId::from_bytes(rest.take()?) };
        let mut graph = Self::new();
        let feeds = rest.number()?;
        for number in 0..feeds {
            if graph.intern(FeedId::from_bytes(rest.take()?)) != number {
                return Err(NotSealed);
            }
        }
        for from in 0..feeds {
            for _ in 0..rest.number()? {
                let to = rest.number()?;
                let edge = match rest.take()? {
                    [0] => Edge::Follow,
                    [1] => Edge::Block,
                    [2] => Edge::Neutral,
                    _ => return Err(NotSealed),
                };
                graph.nodes[from as usize].out.insert(to, edge);
                graph.nodes.get_mut(to as usize).ok_or(NotSealed)?.back.insert(from);
                graph.edges += 1;
            }
        }
        if rest.0.is_empty() { Ok(Sealed { graph, until }) } else { Err(NotSealed) }
    }
}

/// Feeds are numbered with 32 bits, and so are their edges.
fn count(of: usize) -> [u8; 4] {
    u32::try_from(of).unwrap_or(u32::MAX).to_le_bytes()
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], NotSealed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(NotSealed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<u32, NotSealed> {
        self.take().map(u32::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UNTIL: Mark = Mark { offset: 0x0102_0304_0506, id: MessageId::from_bytes([9; 32]) };

    type Word = (u8, u8, Edge);
    type Edges = Vec<(FeedId, Edge)>;

    fn words() -> impl Strategy<Value = Vec<Word>> {
        let edge = prop_oneof![Just(Edge::Follow), Just(Edge::Block), Just(Edge::Neutral)];
        proptest::collection::vec((0..12_u8, 0..12_u8, edge), 0..80)
    }

    fn say(graph: &mut Graph, words: &[Word]) {
        for (source, dest, edge) in words {
            graph.set(FeedId::from_bytes([*source; 32]), FeedId::from_bytes([*dest; 32]), *edge);
        }
    }

    /// Every edge from both sides.
    fn all(graph: &Graph) -> Vec<(FeedId, Edges, Edges)> {
        let sorted = |mut edges: Edges| {
            edges.sort_unstable();
            edges
        };
        let of = |byte| FeedId::from_bytes([byte; 32]);
        let edges = |byte| {
            let feed = of(byte);
            (feed, sorted(graph.edges_of(&feed).collect()), sorted(graph.edges_to(&feed).collect()))
        };
        (0..12).map(edges).collect()
    }

    proptest! {
        #[test]
        fn what_was_sealed_goes_on_as_if_it_had_not_been(before in words(), after in words(), again in 0..80_usize) {
            let mut graph = Graph::new();
            say(&mut graph, &before);
            let Sealed { graph: mut loaded, until } = Graph::unseal(&graph.seal(UNTIL)).unwrap();
            prop_assert_eq!(until, UNTIL);
            prop_assert_eq!((loaded.feed_count(), loaded.edge_count()), (graph.feed_count(), graph.edge_count()));
            prop_assert_eq!(all(&loaded), all(&graph));
            say(&mut graph, &after);
            // The mark may be older than what the graph knew.
            say(&mut loaded, &before[before.len().saturating_sub(again)..]);
            say(&mut loaded, &after);
            prop_assert_eq!(all(&loaded), all(&graph));
            prop_assert_eq!(loaded.edge_count(), graph.edge_count());
        }

        #[test]
        fn what_is_damaged_is_not_read(before in words(), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
            let mut graph = Graph::new();
            say(&mut graph, &before);
            let mut bytes = graph.seal(UNTIL);
            let at = at.index(bytes.len());
            prop_assert!(Graph::unseal(&bytes[..at]).is_err());
            bytes[at] ^= 1 << bit;
            prop_assert!(Graph::unseal(&bytes).is_err());
        }

        #[test]
        fn no_bytes_make_the_reader_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            bytes.splice(0..0, *MAGIC);
            bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
            let _ = Graph::unseal(&bytes);
        }
    }
}
