//! A node inside another program: [`Node::builder`] says what it is to be, [`Node`] is it while it runs.
//!
//! Nothing in a node is global, so two of them live in one process without knowing of each other. Only the builder says
//! what a node is like: neither configuration files nor the environment are read.

mod builder;
mod events;

use std::sync::Arc;

use hawsepipe_overlay::conn::{self, Carrier, Direction, LinkInfo};
use hawsepipe_overlay::muxrpc::RemoteError;
use hawsepipe_replication::refs::FeedId;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::client::{Client, ClientError};
use crate::context::Context;

pub use builder::{Builder, StartError};
pub use events::{Event, Events};

/// Bytes that may be under way between a node and a client in the same process, each way.
const PIPE: usize = 64 * 1024;

/// A running node.
///
/// Dropping it kills it: what was acknowledged is on disk, but peers get no goodbye. [`Node::stop`] stops it in order.
#[derive(Debug)]
pub struct Node {
    ctx: Arc<Context>,
    token: CancellationToken,
    running: JoinSet<()>,
}

impl Node {
    /// What a node is to be.
    pub fn builder() -> Builder {
        Builder::default()
    }

    fn run(app: App) -> Self {
        let (ctx, token) = (Arc::clone(app.context()), CancellationToken::new());
        let mut running = JoinSet::new();
        running.spawn(app.run(token.clone().cancelled_owned()));
        Self { ctx, token, running }
    }

    /// Its feed.
    pub fn id(&self) -> FeedId {
        self.ctx.own
    }

    /// Where it listens, as multiserver addresses.
    pub fn addresses(&self) -> Vec<String> {
        self.ctx.addresses("device")
    }

    /// A client with all rights, which needs neither socket nor network.
    pub async fn client(&self) -> Result<Client, ClientError> {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let info = |direction| LinkInfo {
            direction,
            carrier: Carrier::Unix,
            remote: "the same process".to_owned(),
            path: None,
            mobile: None,
        };
        let attached = conn::noauth(theirs, info(Direction::Inbound), self.ctx.own_key);
        self.ctx.engine.attach(attached).await.map_err(|RemoteError { .. }| ClientError::Ended)?;
        Ok(Client::over(conn::noauth(ours, info(Direction::Outbound), self.ctx.own_key)))
    }

    /// What happens from now on.
    pub fn events(&self) -> Events {
        Events::from_now(&self.ctx)
    }

    /// Stops it: sessions say goodbye, what is under way is stored, and what was opened is closed, so that the same
    /// folder can be used again at once.
    pub async fn stop(mut self) {
        self.token.cancel();
        while let Some(ended) = self.running.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "the node ended badly; the next start checks the log's end");
            }
        }
    }

    /// Done when it has ended by itself, because a part of it failed; the log says which.
    pub async fn ended(&mut self) {
        self.running.join_next().await;
    }
}
