//! The methods that most programs call, typed.

use std::collections::BTreeMap;

use hawsepipe_replication::refs::{FeedId, MessageId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Client, ClientError, HistoryOptions, Link, LinksOptions, Message, Peer, QueryOptions, Source,
    StreamOptions,
};

/// What every stream of messages is asked for.
const FORM: [(&str, bool); 3] = [("keys", true), ("values", true), ("sync", false)];

/// Options as a node reads them: with what the answer's form needs, and some more.
fn arguments<const N: usize>(options: &impl Serialize, more: [(&str, Value); N]) -> Vec<Value> {
    let mut arguments = match serde_json::to_value(options) {
        Ok(Value::Object(options)) => options,
        // All options are structs with names.
        Ok(_) | Err(_) => Map::new(),
    };
    arguments.extend(FORM.map(|(name, flag)| (name.to_owned(), Value::Bool(flag))));
    // We read the box stream as what it is, a stream.
    arguments.insert("boxes".to_owned(), "shared".into());
    arguments.extend(more.map(|(name, value)| (name.to_owned(), value)));
    vec![Value::Object(arguments)]
}

impl Client {
    /// The feed of the node.
    pub async fn whoami(&self) -> Result<FeedId, ClientError> {
        #[derive(Deserialize)]
        struct Whoami {
            id: FeedId,
        }
        Ok(self.call::<Whoami>("whoami", Vec::new()).await?.id)
    }

    /// The methods of the node and their kinds.
    pub async fn manifest(&self) -> Result<Value, ClientError> {
        self.call("manifest", Vec::new()).await
    }

    /// What the node is doing.
    pub async fn status(&self) -> Result<Value, ClientError> {
        self.call("status", Vec::new()).await
    }

    /// Where the node listens, in one of the scopes `device`, `local` and `public`, as one multiserver address.
    pub async fn address(&self, scope: &str) -> Result<Option<String>, ClientError> {
        self.call("address", vec![scope.into()]).await
    }

    /// Signs and stores a message of the node's own feed, sealed if the content has `recps`; done when it is on disk.
    pub async fn publish(&self, content: &impl Serialize) -> Result<Message, ClientError> {
        let content = serde_json::to_value(content).map_err(|why| ClientError::unreadable("publish", why))?;
        self.call("publish", vec![content]).await
    }

    /// Follows a feed, or stops following it.
    pub async fn follow(&self, feed: &FeedId, state: bool) -> Result<Message, ClientError> {
        self.call("friends.follow", vec![json!(feed), json!({ "state": state })]).await
    }

    /// Blocks a feed, or stops blocking it.
    pub async fn block(&self, feed: &FeedId, state: bool) -> Result<Message, ClientError> {
        self.call("friends.block", vec![json!(feed), json!({ "state": state })]).await
    }

    /// Whether `source` follows `dest`.
    pub async fn is_following(&self, source: &FeedId, dest: &FeedId) -> Result<bool, ClientError> {
        self.call("friends.isFollowing", vec![json!({ "source": source, "dest": dest })]).await
    }

    /// Whether `source` blocks `dest`.
    pub async fn is_blocking(&self, source: &FeedId, dest: &FeedId) -> Result<bool, ClientError> {
        self.call("friends.isBlocking", vec![json!({ "source": source, "dest": dest })]).await
    }

    /// How far away each feed in reach is; negative is blocked.
    pub async fn hops(&self) -> Result<BTreeMap<FeedId, i64>, ClientError> {
        self.call("friends.hops", Vec::new()).await
    }

    /// One message, opened if it is sealed and the node can read it.
    pub async fn get(&self, id: &MessageId) -> Result<Message, ClientError> {
        self.call("get", vec![json!({ "id": id, "meta": true, "private": true })]).await
    }

    /// Messages as they were received; bounds are times of reception.
    pub async fn log(&self, options: &StreamOptions) -> Result<Source<Message>, ClientError> {
        self.source("createLogStream", arguments(options, [])).await
    }

    /// Messages by the time that their authors claim; bounds are such times.
    pub async fn by_claimed_time(&self, options: &StreamOptions) -> Result<Source<Message>, ClientError> {
        self.source("createFeedStream", arguments(options, [])).await
    }

    /// Messages of one type as they were received; bounds are times of reception.
    pub async fn by_type(&self, kind: &str, options: &StreamOptions) -> Result<Source<Message>, ClientError> {
        self.source("messagesByType", arguments(options, [("type", kind.into())])).await
    }

    /// Messages of one feed; bounds are sequence numbers.
    pub async fn user(&self, feed: &FeedId, options: &StreamOptions) -> Result<Source<Message>, ClientError> {
        self.source("createUserStream", arguments(options, [("id", json!(feed))])).await
    }

    /// One feed as peers get it.
    pub async fn history(
        &self,
        feed: &FeedId,
        options: &HistoryOptions,
    ) -> Result<Source<Message>, ClientError> {
        self.source("createHistoryStream", arguments(options, [("id", json!(feed))])).await
    }

    /// Private messages that the node can read, opened.
    pub async fn private(&self, options: &StreamOptions) -> Result<Source<Message>, ClientError> {
        self.source("private.read", arguments(options, [])).await
    }

    /// What a map-filter-reduce query gives: messages, or what the query makes of them.
    pub async fn query<T: serde::de::DeserializeOwned + Send + 'static>(
        &self,
        query: &[Value],
        options: &QueryOptions,
    ) -> Result<Source<T>, ClientError> {
        self.source("query.read", arguments(options, [("query", query.into())])).await
    }

    /// Who names what, and as what.
    pub async fn links(&self, options: &LinksOptions) -> Result<Source<Link>, ClientError> {
        self.source("links", arguments(options, [("values", false.into())])).await
    }

    /// The messages that name something.
    pub async fn linking(&self, options: &LinksOptions) -> Result<Source<Message>, ClientError> {
        self.source("links", arguments(options, [("meta", false.into())])).await
    }

    /// The peers that the node knows now, those with a session or a dial under way first.
    pub async fn peers(&self) -> Result<Vec<Peer>, ClientError> {
        let known = self.known_peers().await?.into_iter();
        let read = |pair: (String, Value)| serde_json::from_value(json!(pair));
        let peers: Result<_, _> = known.map(read).collect();
        peers.map_err(|error| ClientError::unreadable("conn.peers", error))
    }

    /// The same as ssb-conn's lists have them: addresses, and what is known of each.
    pub(crate) async fn known_peers(&self) -> Result<Vec<(String, Value)>, ClientError> {
        let mut known = self.first_list("conn.peers").await?;
        let remembered: Vec<(String, Value)> = self.call("conn.dbPeers", Vec::new()).await?;
        for (address, mut data) in remembered.into_iter().chain(self.first_list("conn.stagedPeers").await?) {
            if known.iter().all(|(listed, _)| *listed != address) {
                data["state"] = "disconnected".into();
                known.push((address, data));
            }
        }
        Ok(known)
    }

    /// What a live list is now.
    async fn first_list(&self, method: &str) -> Result<Vec<(String, Value)>, ClientError> {
        let mut lists = self.source(method, Vec::new()).await?;
        lists.next().await.unwrap_or(Err(ClientError::Ended))
    }

    /// Has the node connect to a peer; done when the session stands.
    pub async fn connect_peer(&self, address: &str) -> Result<(), ClientError> {
        self.call_raw("conn.connect", vec![address.into()]).await.map(drop)
    }

    /// Has the node close its sessions with the peer of that id or address; tells whether there were any.
    pub async fn disconnect_peer(&self, peer: &str) -> Result<bool, ClientError> {
        self.call("conn.disconnect", vec![peer.into()]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_written_as_nodes_read_them_and_absent_ones_are_left_out() {
        let options = StreamOptions { live: true, gt: Some(3.0), ..StreamOptions::default() };
        let expected = json!([{
            "live": true, "reverse": false, "private": false, "gt": 3.0,
            "keys": true, "values": true, "sync": false, "boxes": "shared", "type": "post",
        }]);
        assert_eq!(Value::from(arguments(&options, [("type", "post".into())])), expected);
        let links = LinksOptions { rel: Some("vote".to_owned()), ..LinksOptions::default() };
        let links = arguments(&links, [("values", false.into())]);
        assert_eq!((&links[0]["values"], &links[0]["rel"]), (&json!(false), &json!("vote")));
        assert_eq!(links[0].get("dest"), None);
    }
}
