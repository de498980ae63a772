//! What a node is to be. Each method says one thing of the configuration, and what the command line can say with `--set`
//! can be said with [`Builder::set`], so both mean the same and have the same faults.

use std::net::SocketAddr;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hawsepipe_overlay::keys::NetworkKey;
use serde_json::{Value, json};

use super::Node;
use crate::app::App;
use crate::cli::output;
use crate::cli::progress::Bar;
use crate::config::layers;
use crate::config::{Config, Faults};
use crate::identity::Identity;

/// What a node is to be; made by [`Node::builder`].
///
/// What is left out is as `hawsepipe start` has it, but metrics and blobs are not served by HTTP unless asked for.
#[derive(Debug)]
pub struct Builder {
    dir: Option<PathBuf>,
    identity: Identity,
    options: Value,
}

/// Why a node was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// [`Builder::data_dir`] was not called.
    #[error("a node needs a data folder: call Builder::data_dir")]
    NoDataDir,
    /// What was asked for makes no sense.
    #[error(transparent)]
    Options(#[from] Faults),
    /// Something could not be opened or bound.
    #[error("{}", output::explain(.0))]
    Failed(anyhow::Error),
}

impl Default for Builder {
    fn default() -> Self {
        let options = json!({ "metrics": { "listen": false }, "blobs": { "http": false } });
        Self { dir: None, identity: Identity::default(), options }
    }
}

impl Builder {
    /// The folder with everything that the node keeps; it is made if it is not there. One node at a time.
    #[must_use]
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Whose node it is; by default, whose `secret` lies in the data folder.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// The network (`caps.shs`); by default, the one that everybody is on.
    #[must_use]
    pub fn network_key(self, key: &NetworkKey) -> Self {
        self.set("caps.shs", STANDARD.encode(key.as_bytes()))
    }

    /// Makes signatures good in one network only (`caps.sign`): 32 bytes in base64.
    #[must_use]
    pub fn signing_key(self, key: &str) -> Self {
        self.set("caps.sign", key)
    }

    /// Where classic TCP sessions are accepted; nowhere if there are none. By default, port 8008 of all interfaces.
    #[must_use]
    pub fn listen(self, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let entry = |address: SocketAddr| json!({ "host": address.ip(), "port": address.port() });
        self.set("connections.incoming.net", addresses.into_iter().map(entry).collect::<Value>())
    }

    /// How far from itself in the social graph it replicates feeds (`friends.hops`).
    #[must_use]
    pub fn hops(self, hops: u32) -> Self {
        self.set("friends.hops", hops)
    }

    /// Switches off everything that finds or dials peers by itself, and the transports that only that needs.
    #[must_use]
    pub fn solitary(self) -> Self {
        self.set("local", false).set("overlay.enabled", false).set("conn.autostart", false)
    }

    /// Any option of `deploy/config.example` by its dotted name.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        layers::merge(&mut self.options, layers::nested(key, ".", value.into()));
        self
    }

    /// Starts the node; it runs when this is done.
    pub async fn start(self) -> Result<Node, StartError> {
        let dir = self.dir.ok_or(StartError::NoDataDir)?;
        let config = Config::from_value(dir, &self.options)?;
        let app = App::start_as(config, self.identity, Bar::silent()).await.map_err(StartError::Failed)?;
        Ok(Node::run(app))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_the_configuration_means() {
        let builder = Node::builder().hops(3).listen(["127.0.0.1:0".parse().unwrap()]).solitary();
        let config = Config::from_value("/data".into(), &builder.options).unwrap();
        assert_eq!((config.hops, config.metrics, config.conn.autostart), (3, None, false));
        assert_eq!(config.net.addresses, ["127.0.0.1:0".parse().unwrap()]);
        assert!(config.overlay.is_none() && config.blobs.http.is_none());
        let silent = Node::builder().listen([]).network_key(&NetworkKey::MAIN);
        let config = Config::from_value("/data".into(), &silent.options).unwrap();
        assert!(config.net.addresses.is_empty());
        assert_eq!(config.network, NetworkKey::MAIN);
    }

    #[tokio::test]
    async fn faults_are_said_before_anything_is_touched() {
        assert!(matches!(Node::builder().start().await, Err(StartError::NoDataDir)));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node");
        let started = Node::builder().data_dir(&path).hops(99).set("lan.becon", true).start().await;
        let Err(StartError::Options(faults)) = started else { panic!("{started:?}") };
        assert_eq!(faults.0.len(), 2, "{faults}");
        assert!(!path.exists());
    }
}
