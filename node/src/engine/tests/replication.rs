//! What passes between two whole nodes, one of which held much before they met.

use hawsepipe_replication::ebt::{Peer, Stored};
use hawsepipe_replication::message::{self, Message};
use hawsepipe_replication::store::{Options, Order, Store};
use ssb_crypto::Keypair;

use super::*;
use crate::datadir::DataDir;
use crate::forks::Forks;

/// An author whose messages are written here instead of by a node.
struct Author {
    keypair: Keypair,
    feed: Vec<Message>,
}

impl Author {
    fn new() -> Self {
        crate::init_crypto();
        Self { keypair: Keypair::generate(), feed: Vec::new() }
    }

    fn id(&self) -> FeedId {
        FeedId::from_bytes(self.keypair.public.0)
    }

    fn write(&mut self, content: &Value) {
        let tip = self.feed.last().map(Message::tip);
        let time = 1.0 + self.feed.len() as f64;
        let text = content.to_string();
        self.feed.push(message::sign(&self.keypair, None, tip.as_ref(), time, text.as_bytes()).unwrap());
    }

    fn follow(&mut self, feed: FeedId) {
        self.write(&json!({"type": "contact", "contact": feed, "following": true}));
    }

    fn posts(mut self, count: usize, text: &str) -> Self {
        for _ in 0..count {
            self.write(&json!({"type": "post", "text": text}));
        }
        self
    }
}

/// A node that holds these messages when it starts.
async fn node_with(messages: Vec<Message>) -> Node {
    let folder = tempfile::tempdir().unwrap();
    let store = DataDir::prepare(folder.path()).unwrap().store();
    let (mut writer, reader) = Store::open(&store, &Options::default(), &mut |_, _| {}).unwrap();
    assert_eq!(writer.commit(messages, 1.0).unwrap().refused, []);
    drop((writer, reader));
    Node::start_in(folder, json!({"enabled": false})).await
}

impl Node {
    async fn follow_feed(&self, feed: FeedId) {
        self.publish(&json!({"type": "contact", "contact": feed, "following": true})).await;
    }

    /// Waits until it holds so many messages.
    async fn holds_in_all(&self, messages: usize) {
        let mut log = self.ctx.tail.log();
        let wait = async {
            while (self.ctx.reader.len() as usize) < messages {
                log.changed().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "holds only {} of {messages}", self.ctx.reader.len());
    }

    /// The authors of its messages as they were received.
    fn received(&self) -> Vec<FeedId> {
        let log = self.ctx.reader.log(.., Order::Ascending).unwrap();
        log.map(|stored| stored.unwrap().message.author()).collect()
    }
}

/// Whichever side dials, what a friend wrote is there before anything of the friend's friends.
#[tokio::test]
async fn in_a_first_sync_followed_feeds_come_before_all_others() {
    let strangers: Vec<_> = (1..40).map(|n| Author::new().posts(n, "far")).collect();
    let mut friend = Author::new();
    strangers.iter().for_each(|stranger| friend.follow(stranger.id()));
    let known = friend.feed.clone();
    let friend = friend.posts(500, "near");
    let all: Vec<_> = strangers.iter().chain([&friend]).flat_map(|author| author.feed.clone()).collect();

    for newcomer_dials in [true, false] {
        let full = node_with(all.clone()).await;
        // It knows already whom the friend follows, so that everything is wanted from the beginning.
        let newcomer = node_with(known.clone()).await;
        for node in [&full, &newcomer] {
            node.follow_feed(friend.id()).await;
        }
        let (dialer, dialled) = if newcomer_dials { (&newcomer, &full) } else { (&full, &newcomer) };
        connect(dialer, dialled, Carrier::Net).await;
        newcomer.holds_in_all(all.len() + 1).await;
        let received = newcomer.received();
        let near = received.iter().rposition(|author| *author == friend.id()).unwrap();
        let far = received.iter().position(|author| strangers.iter().any(|s| s.id() == *author)).unwrap();
        assert!(near < far, "the last of the friend's was number {near}, the first of others {far}");
        newcomer.shut_down().await;
        full.shut_down().await;
    }
}

#[tokio::test]
async fn a_forked_feed_is_proven_stays_as_it_was_and_disturbs_no_other() {
    let author = Author::new().posts(3, "in both");
    let branch = Author { keypair: author.keypair.clone(), feed: author.feed.clone() }.posts(4, "elsewhere");
    let author = author.posts(2, "here");
    let other = Author::new().posts(30, "whole");
    let ours = node_with(author.feed.clone()).await;
    let theirs = node_with([branch.feed.clone(), other.feed.clone()].concat()).await;
    for node in [&ours, &theirs] {
        node.follow_feed(author.id()).await;
        node.follow_feed(other.id()).await;
    }
    connect(&ours, &theirs, Carrier::Net).await;
    let proven = async {
        while !ours.ctx.forks.has(&author.id()) {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, proven).await.is_ok(), "the fork was not noticed");
    ours.holds_in_all(author.feed.len() + other.feed.len() + 2).await;

    assert_eq!(
        ours.ctx.reader.tip(&author.id()),
        author.feed.last().map(Message::tip),
        "the first seen stays"
    );
    let metrics = String::from_utf8(ours.ctx.metrics.render()).unwrap();
    assert!(metrics.contains("hawsepipe_forked_feeds 1\n"), "{metrics}");
    let proof: Value = serde_json::from_str(&ours.ctx.forks.to_json()[0]).unwrap();
    assert_eq!(proof["feed"], author.id().to_string());
    assert_eq!(proof["from"], theirs.ctx.own.to_string());
    assert_eq!(proof["kept"]["key"], author.feed[4].id().to_string());
    assert_eq!(proof["refused"]["key"], branch.feed[5].id().to_string());
    theirs.shut_down().await;
    let folder = ours.shut_down().await;
    assert!(Forks::load(DataDir::at(folder.path()).forks(), None).has(&author.id()), "it is on disk");
}

#[tokio::test]
async fn local_clients_decide_over_feeds_whatever_the_graph_says() {
    let author = Author::new().posts(5, "followed by nobody");
    let full = node_with(author.feed.clone()).await;
    let other = Node::start().await;
    let (near, _far) = connect(&other, &full, Carrier::Net).await;
    for node in [&full, &other] {
        node.ctx.engine.request(author.id(), Wish::Replicate).await.unwrap();
    }
    other.holds_in_all(author.feed.len()).await;
    let peer = Peer(full.ctx.own);
    let requested = async || {
        let status = other.ctx.engine.peer_status(author.id()).await.unwrap();
        status.peers[&peer].replicating.as_ref().map(|passes| (status.seq, passes.rx, passes.requested))
    };
    assert_eq!(requested().await, Some((5, true, Stored::At(0))));
    other.ctx.engine.request(author.id(), Wish::Forget).await.unwrap();
    let refused = async {
        while requested().await != Some((5, false, Stored::Refused)) {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, refused).await.is_ok());

    full.ctx.engine.block(full.ctx.own, other.ctx.own, true).await.unwrap();
    ended(&near).await;
    other.shut_down().await;
    full.shut_down().await;
}
