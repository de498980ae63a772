//! Two nodes in one program: they follow each other, one publishes, and the other gets it.
//!
//! ```sh
//! cargo run --example embed
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use hawsepipe::client::StreamOptions;
use hawsepipe::{Event, FeedId, Identity, Node};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let alice = start(&folder.path().join("alice")).await?;
    let bob = start(&folder.path().join("bob")).await?;
    let (of_alice, of_bob) = (alice.client().await?, bob.client().await?);
    of_alice.follow(&bob.id(), true).await?;
    of_bob.follow(&alice.id(), true).await?;

    // From here on, whatever Bob's node stores and whoever it meets.
    let mut events = bob.events();
    let address = alice.addresses().into_iter().find(|address| address.starts_with("net:"));
    let address = address.ok_or("Alice listens nowhere")?;
    of_bob.connect_peer(&address).await?;
    let published = of_alice.publish(&json!({ "type": "post", "text": "Ahoy!" })).await?;
    println!("Alice published {}", published.id);
    wait_for_post(&mut events, alice.id()).await?;

    let mut posts = of_bob.by_type("post", &StreamOptions::default()).await?;
    while let Some(post) = posts.next().await {
        let post = post?;
        println!("Bob reads {}: {}", post.id, post.content["text"]);
    }
    of_alice.close().await;
    of_bob.close().await;
    alice.stop().await;
    bob.stop().await;
    Ok(())
}

/// A node that keeps to this machine and forgets who it was when it stops. Without these settings it is an ordinary
/// peer, with the `secret` of its folder.
async fn start(folder: &Path) -> Result<Node, Box<dyn Error>> {
    let node = Node::builder()
        .data_dir(folder)
        .identity(Identity::Temporary)
        .listen([SocketAddr::from((Ipv4Addr::LOCALHOST, 0))])
        .solitary()
        .start()
        .await?;
    println!("{} listens at {:?}", node.id(), node.addresses());
    Ok(node)
}

async fn wait_for_post(events: &mut hawsepipe::Events, author: FeedId) -> Result<(), Box<dyn Error>> {
    while let Some(event) = events.next().await {
        if let Event::Connected(peer) = &event {
            println!("Bob has met {peer}");
        }
        if matches!(&event, Event::Message(new) if new.author == author && new.kind() == Some("post")) {
            return Ok(());
        }
    }
    Err("Bob's node stopped".into())
}
