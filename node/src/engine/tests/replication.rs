//! What passes between two whole nodes, one of which held much before they met.

use hawsepipe_replication::message::{self, Message};
use hawsepipe_replication::store::{Options, Order, Store};
use ssb_crypto::Keypair;

use super::*;
use crate::datadir::DataDir;

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

    fn posts(mut self, count: usize) -> Self {
        for n in 0..count {
            self.write(&json!({"type": "post", "text": n.to_string()}));
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
    let strangers: Vec<_> = (1..40).map(|n| Author::new().posts(n)).collect();
    let mut friend = Author::new();
    strangers.iter().for_each(|stranger| friend.follow(stranger.id()));
    let known = friend.feed.clone();
    let friend = friend.posts(500);
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
