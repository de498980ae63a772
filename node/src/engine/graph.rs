//! The social graph over a restart: loaded from `hawsepipe/graph` and the contact messages that came after,
//! saved when many have come and when the node stops.
//!
//! What always holds: the file never knows less than it says, so a graph that could not be read whole is not
//! saved; a file of another log, a damaged one and none at all come to the same graph, only later.

use std::fs;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use hawsepipe_replication::ebt::{Input, Peer};
use hawsepipe_replication::graph::{Graph, Mark};
use hawsepipe_replication::store::{Order, ReadError, Reader};

use super::Engine;
use crate::{clock, datadir};

/// Contact messages after which the graph is saved at once, and when the node stops.
pub(super) const MANY: usize = 20_000;
pub(super) const SOME: usize = 500;

/// What the file lacks.
#[derive(Debug, Default)]
pub(super) struct GraphSeal {
    /// The newest message that the graph knows of.
    until: Option<Mark>,
    /// Contact messages since the file was written.
    fresh: usize,
}

impl GraphSeal {
    /// The graph has heard of all messages up to `until`.
    pub(super) const fn grew(&mut self, until: Mark, contacts: usize) {
        self.until = Some(until);
        self.fresh += contacts;
    }
}

impl Engine {
    /// The graph as the log tells it.
    pub(super) async fn load_graph(&mut self) {
        let (reader, path) = (self.ctx.reader.clone(), self.dir.graph());
        let graph = Arc::clone(&self.graph);
        let loaded = self.ctx.read(move || {
            let mut graph = graph.write().unwrap_or_else(PoisonError::into_inner);
            let seal = load(&path, &reader, &mut graph)?;
            Ok::<_, ReadError>((seal, graph.blocks().collect::<Vec<_>>()))
        });
        match loaded.await {
            Ok((seal, blocks)) => {
                self.graph_seal = Some(seal);
                for (from, to) in blocks {
                    self.ebt.handle(clock::now(), Input::Block { from, to: Peer(to), on: true });
                }
            }
            Err(error) => tracing::error!(%error, "cannot read the social graph from the store"),
        }
    }

    /// Saves the graph if at least so many contact messages have come since.
    pub(super) fn seal_graph(&mut self, least: usize) {
        let Some(seal) = self.graph_seal.as_mut().filter(|seal| seal.fresh >= least) else { return };
        let Some(until) = seal.until else { return };
        seal.fresh = 0;
        let (graph, path) = (Arc::clone(&self.graph), self.dir.graph());
        self.spawn(async move {
            let saved = tokio::task::spawn_blocking(move || {
                let bytes = graph.read().unwrap_or_else(PoisonError::into_inner).seal(until);
                datadir::write_atomic(&path, &bytes)
            });
            match saved.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the social graph was not saved: the next start is slower")
                }
                Err(error) => tracing::error!(%error, "saving the social graph failed"),
            }
        });
    }
}

/// Fills the empty `graph`.
fn load(path: &Path, reader: &Reader, graph: &mut Graph) -> Result<GraphSeal, ReadError> {
    let is_ours = |until: &Mark| {
        let stored = reader.get(&until.id).ok().flatten();
        stored.is_some_and(|stored| stored.offset == until.offset)
    };
    let sealed = fs::read(path).ok().and_then(|bytes| Graph::unseal(&bytes).ok());
    let sealed = sealed.filter(|sealed| is_ours(&sealed.until));
    let mut seal = GraphSeal::default();
    if let Some(sealed) = sealed {
        *graph = sealed.graph;
        seal.until = Some(sealed.until);
    }
    let after = seal.until.map_or(0, |until| until.offset + 1);
    let newest = reader.log(.., Order::Descending)?.next().transpose()?;
    for stored in reader.contacts(after.., Order::Ascending) {
        graph.apply(&stored?.message);
        seal.fresh += 1;
    }
    seal.until = newest.as_ref().map(Mark::of);
    Ok(seal)
}

#[cfg(test)]
mod tests {
    use hawsepipe_replication::graph::Edge;
    use hawsepipe_replication::message::{self, Tip};
    use hawsepipe_replication::refs::FeedId;
    use hawsepipe_replication::store::{Options, Store, Writer};
    use ssb_crypto::Keypair;

    use super::*;

    const OTHER: FeedId = FeedId::from_bytes([2; 32]);

    fn own() -> Keypair {
        Keypair::from_seed(&[7; 32]).expect("any seed gives a key")
    }

    /// Stores a contact message.
    fn say(writer: &mut Writer, tip: &mut Option<Tip>, says: &str) {
        let content = format!(r#"{{"type":"contact","contact":"{OTHER}","{says}":true}}"#);
        let message = message::sign(&own(), None, tip.as_ref(), 1.0, content.as_bytes()).unwrap();
        *tip = Some(message.tip());
        writer.commit(vec![message], 1.0).unwrap();
    }

    #[test]
    fn a_saved_graph_is_believed_of_its_own_log_only() {
        crate::init_crypto();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("graph");
        let (mut writer, reader) =
            Store::open(&dir.path().join("log"), &Options::default(), &mut |_, _| {}).unwrap();
        let own = FeedId::from_bytes(own().public.0);
        let mut tip = None;
        say(&mut writer, &mut tip, "following");

        let mut graph = Graph::new();
        let seal = load(&path, &reader, &mut graph).unwrap();
        assert_eq!((seal.fresh, graph.edge(&own, &OTHER)), (1, Some(Edge::Follow)), "read from the log");

        // What only the file says shows that it was read.
        let third = FeedId::from_bytes([3; 32]);
        graph.set(own, third, Edge::Follow);
        fs::write(&path, graph.seal(seal.until.unwrap())).unwrap();
        say(&mut writer, &mut tip, "blocking");
        let mut graph = Graph::new();
        let seal = load(&path, &reader, &mut graph).unwrap();
        assert_eq!((seal.fresh, graph.edge(&own, &OTHER)), (1, Some(Edge::Block)), "only what came after");
        assert_eq!(graph.edge(&own, &third), Some(Edge::Follow));
        assert_eq!(graph.blocks().collect::<Vec<_>>(), [(own, OTHER)]);

        let elsewhere = Mark { offset: seal.until.unwrap().offset + 1, ..seal.until.unwrap() };
        fs::write(&path, graph.seal(elsewhere)).unwrap();
        let mut graph = Graph::new();
        assert_eq!(load(&path, &reader, &mut graph).unwrap().fresh, 2, "of another log");
        assert_eq!(graph.edge(&own, &third), None);
    }
}
