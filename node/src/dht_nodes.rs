//! `dht.json`: nodes of the DHT that an earlier run knew, to begin with before anybody is met.
//!
//! `{"nodes": [MULTIADDR, …]}`, best first. Any of them may have gone or moved: they are claims, believed
//! once they have answered.

use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Nodes to begin with at most: the operator's, and those of an earlier run.
pub const MAX_NODES: usize = 128;
/// Longest address that is read, in bytes.
const MAX_ADDRESS: usize = 256;

#[derive(Debug, Deserialize, Serialize)]
struct File {
    nodes: Vec<String>,
}

/// The file's text.
pub fn encode(nodes: Vec<String>) -> String {
    // A list of strings always prints.
    serde_json::to_string_pretty(&File { nodes }).unwrap_or_default()
}

/// The nodes of a file's text.
fn decode(text: &str) -> Result<Vec<String>, serde_json::Error> {
    serde_json::from_str(text).map(|file: File| file.nodes)
}

/// The nodes that an earlier run saved; none if the file is missing or damaged.
pub fn load(path: &Path) -> Vec<String> {
    let shown = path.display();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                tracing::warn!(path = %shown, %error, "cannot read known nodes of the DHT");
            }
            return Vec::new();
        }
    };
    decode(&text).unwrap_or_else(|error| {
        tracing::warn!(path = %shown, %error, "known nodes of the DHT are damaged; starting without");
        Vec::new()
    })
}

/// The nodes to begin with: the operator's first, each once, no more than [`MAX_NODES`].
pub fn to_begin_with(named: &[String], saved: Vec<String>) -> Vec<String> {
    let mut nodes: Vec<String> = Vec::new();
    for node in named.iter().cloned().chain(saved) {
        if nodes.len() >= MAX_NODES {
            break;
        }
        if node.len() <= MAX_ADDRESS && !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_read_again_and_a_damaged_or_missing_file_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dht.json");
        assert!(load(&path).is_empty());
        let nodes = vec!["/ip4/192.0.2.1/tcp/1/p2p/12D3KooA".to_owned()];
        std::fs::write(&path, encode(nodes.clone())).unwrap();
        assert_eq!(load(&path), nodes);
        for damaged in ["", "{\"nodes\": [", "{\"nodes\": 7}", "[]"] {
            std::fs::write(&path, damaged).unwrap();
            assert!(load(&path).is_empty(), "{damaged}");
        }
    }

    #[test]
    fn the_operators_nodes_come_first_and_nobody_fills_the_list() {
        let node = |n: usize| format!("/ip4/192.0.2.1/tcp/{n}/p2p/12D3KooA");
        let saved: Vec<_> = (0..2 * MAX_NODES).map(node).chain(["x".repeat(MAX_ADDRESS + 1)]).collect();
        let nodes = to_begin_with(&[node(7), node(9999)], saved);
        assert_eq!((nodes.len(), &nodes[..3]), (MAX_NODES, &[node(7), node(9999), node(0)][..]));
        assert_eq!(nodes.iter().filter(|at| **at == node(7)).count(), 1);
    }
}
