//! The library: nodes inside another program, two of them in one process, and the typed client.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use futures::StreamExt as _;
use hawsepipe::client::{Caller, Client, HistoryOptions, LinksOptions, QueryOptions, StreamOptions};
use hawsepipe::{Event, Identity, Keypair, NetworkKey, Node};
use hawsepipe_tests::peer;
use hawsepipe_tests::wait::SOON;
use serde_json::{Value, json};
use tokio::time::timeout;

async fn start(dir: &Path, identity: Identity) -> Node {
    let node = Node::builder().data_dir(dir).identity(identity).solitary();
    node.listen([SocketAddr::from((Ipv4Addr::LOCALHOST, 0))]).start().await.unwrap()
}

fn post(text: &str) -> Value {
    json!({ "type": "post", "text": text })
}

#[tokio::test]
async fn two_nodes_in_one_process_replicate_and_tell_what_happens() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
    let (one, two) = (start(&one, Identity::Temporary).await, start(&two, Identity::Temporary).await);
    assert_ne!(one.id(), two.id());
    let (client, other) = (one.client().await.unwrap(), two.client().await.unwrap());
    assert_eq!(client.whoami().await.unwrap(), one.id());
    client.follow(&two.id(), true).await.unwrap();
    other.follow(&one.id(), true).await.unwrap();

    let mut events = two.events();
    other.connect_peer(&one.addresses()[0]).await.unwrap();
    let sent = client.publish(&post("hello")).await.unwrap();
    let (mut met, mut came) = (false, false);
    while !(met && came) {
        let event = timeout(SOON, events.next()).await.unwrap().unwrap();
        met |= event == Event::Connected(one.id());
        came |= matches!(&event, Event::Message(message) if message.id == sent.id);
    }
    let peers = other.peers().await.unwrap();
    assert!(peers.iter().any(|peer| peer.id == one.id() && peer.is_connected()), "{peers:?}");
    assert!(!folder.path().join("one/secret").exists(), "a temporary identity is not written down");

    // The other end sees the goodbye; then the events end.
    client.close().await;
    one.stop().await;
    while timeout(SOON, events.next()).await.unwrap() != Some(Event::Disconnected(sent.author)) {}
    other.close().await;
    two.stop().await;
    while timeout(SOON, events.next()).await.unwrap().is_some() {}
}

#[tokio::test]
async fn a_stopped_node_leaves_its_folder_to_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(folder.path(), Identity::File).await;
    let id = first.id();
    let mut events = first.events();
    let client = first.client().await.unwrap();
    let sent = client.publish(&post("kept")).await.unwrap();
    assert_eq!(events.next().await, Some(Event::Message(sent.clone())));
    first.stop().await;
    assert_eq!(events.next().await, None);
    assert!(client.whoami().await.is_err(), "a client of a stopped node is told so");

    let second = start(folder.path(), Identity::File).await;
    assert_eq!(second.id(), id);
    let client = second.client().await.unwrap();
    assert_eq!(client.get(&sent.id).await.unwrap().content, sent.content);
    client.publish(&post("and on")).await.unwrap();
    second.stop().await;

    let keypair = Keypair::generate();
    let third = start(&folder.path().join("other"), Identity::Given(keypair.clone())).await;
    assert_eq!(third.id().to_bytes(), keypair.public.0);
    let client = third.client().await.unwrap();
    let refused = client.publish(&post("too soon")).await.unwrap_err().to_string();
    assert!(refused.contains("peer"), "keys of unknown history wait for peers: {refused}");
    third.stop().await;
}

#[tokio::test]
async fn the_typed_client_works_over_the_socket_and_over_the_network_for_the_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let network = NetworkKey::from_bytes([7; 32]);
    let node = Node::builder().data_dir(folder.path()).network_key(&network).solitary();
    let node = node.listen([SocketAddr::from((Ipv4Addr::LOCALHOST, 0))]).start().await.unwrap();
    let address = node.addresses().into_iter().find(|address| address.starts_with("net:")).unwrap();
    let owner = Caller::of_folder(folder.path()).unwrap().unwrap();
    assert!(Client::connect(&address, &owner).await.is_err(), "the owner of another network");
    let owner = owner.in_network(network);
    let socket = format!("unix:{}", folder.path().join("socket").display());
    for address in [&address, &socket] {
        let client = Client::connect(address, &owner).await.unwrap();
        assert_eq!(client.whoami().await.unwrap(), node.id());
        client.publish(&post(address)).await.unwrap();
        client.close().await;
    }
    let stranger = Caller::new(Keypair::generate()).in_network(network);
    let stranger = Client::connect(&address, &stranger).await.unwrap();
    assert!(stranger.whoami().await.unwrap_err().is_missing_method());
    assert!(Client::connect("tunnel:@x:@y", &owner).await.is_err());

    asks_everything(&Client::local(folder.path()).await.unwrap(), &node).await;
    node.stop().await;
    assert!(Client::local(folder.path()).await.is_err(), "the socket is gone");
}

/// One call of each typed method, on a node with two posts.
async fn asks_everything(client: &Client, node: &Node) {
    let (own, all) = (node.id(), StreamOptions::default());
    let log = client.log(&all).await.unwrap().all().await.unwrap();
    assert_eq!(log.len(), 2);
    assert_eq!(client.user(&own, &all).await.unwrap().all().await.unwrap(), log);
    assert_eq!(client.by_type("post", &all).await.unwrap().all().await.unwrap(), log);
    assert_eq!(client.by_claimed_time(&all).await.unwrap().all().await.unwrap(), log);
    let history = HistoryOptions { seq: Some(2), ..HistoryOptions::default() };
    let history = client.history(&own, &history).await.unwrap().all().await.unwrap();
    assert_eq!(history[0].id, log[1].id);
    let newest = StreamOptions { reverse: true, limit: Some(1), ..all.clone() };
    assert_eq!(client.log(&newest).await.unwrap().all().await.unwrap(), log[1..]);

    let answer = json!({ "type": "post", "text": "answer", "root": log[0].id, "branch": log[0].id });
    let answer = client.publish(&answer).await.unwrap();
    let links = LinksOptions { dest: Some(log[0].id.to_string()), ..LinksOptions::default() };
    let found = client.links(&links).await.unwrap().all().await.unwrap();
    assert_eq!(found.iter().map(|link| link.rel.as_str()).collect::<Vec<_>>(), ["branch", "root"]);
    let links = LinksOptions { rel: Some("root".to_owned()), ..links };
    assert_eq!(client.linking(&links).await.unwrap().all().await.unwrap()[0].id, answer.id);
    let query =
        [json!({ "$filter": { "value": { "content": { "text": "answer" } } } }), json!({ "$map": "key" })];
    let mut keys = client.query::<String>(&query, &QueryOptions::default()).await.unwrap();
    assert_eq!(keys.next().await.unwrap().unwrap(), answer.id.to_string());

    let sealed = json!({ "type": "post", "text": "secret", "recps": [own] });
    let sealed = client.publish(&sealed).await.unwrap();
    assert!(sealed.content.is_string() && !sealed.is_private);
    let opened = client.private(&all).await.unwrap().all().await.unwrap();
    assert_eq!(
        (opened[0].id, opened[0].is_private, &opened[0].content["text"]),
        (sealed.id, true, &json!("secret"))
    );
    assert!(client.get(&sealed.id).await.unwrap().is_private);

    let bytes: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
    let id = client.add_blob(&bytes[..]).await.unwrap();
    assert!(client.has_blob(&id).await.unwrap());
    client.want_blob(&id).await.unwrap();
    let pieces: Vec<_> = client.blob(&id).await.unwrap().map(Result::unwrap).collect().await;
    assert_eq!(pieces.concat(), bytes);

    let friend = hawsepipe::FeedId::from_bytes([9; 32]);
    client.follow(&friend, true).await.unwrap();
    client.block(&own, true).await.unwrap_err();
    assert!(
        client.is_following(&own, &friend).await.unwrap()
            && !client.is_blocking(&own, &friend).await.unwrap()
    );
    assert_eq!(client.hops().await.unwrap()[&friend], 1);
    assert_eq!(client.status().await.unwrap()["id"], json!(own));
    assert_eq!(client.manifest().await.unwrap()["whoami"], "sync");
    assert!(client.address("device").await.unwrap().unwrap().contains("net:"));
    // The stranger may still be there.
    assert!(client.peers().await.unwrap().iter().all(|peer| peer.id != friend));
    assert!(!client.disconnect_peer(&friend.to_string()).await.unwrap());

    // What has no type of its own.
    let version: String = client.call("version", Vec::new()).await.unwrap();
    assert!(!version.is_empty());
    let unknown = client.call::<Value>("no.such", Vec::new()).await.unwrap_err();
    assert!(unknown.is_missing_method(), "{unknown}");
    let mut live =
        client.source::<Value>("createLogStream", vec![json!({ "live": true, "limit": 1 })]).await.unwrap();
    assert_eq!(live.next().await.unwrap().unwrap()["key"], json!(log[0].id));
}

#[test]
fn the_example_runs() {
    let output = Command::new(peer::example("embed")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("Bob reads %") && said.contains("Ahoy!"), "{said}");
}
