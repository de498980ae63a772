//! Threads: a root, the messages that name it as their `root`, and threads that begin at one of those.
//!
//! What a reply answers it names as its `branch`: so a thread is ordered by that first, and by the claimed times, which
//! anybody may choose, only where it says nothing. A thread's heads are what no other message of it names so.

use std::collections::{BTreeMap, BTreeSet};

use hawsepipe_replication::refs::MessageId;
use serde_json::Value;

use super::client::Failure;
use crate::client::{Client, ClientError, LinksOptions, Message, StreamOptions};

/// Messages of one thread that are looked at, at most.
const MAX_MESSAGES: usize = 10_000;
/// Threads within threads that are followed.
const MAX_DEPTH: usize = 8;

/// A thread as this node has it.
#[derive(Debug)]
pub(super) struct Thread {
    /// The message it begins with, which need not be here.
    pub root: MessageId,
    /// Its messages and those of threads in it, in the order to read them, each with how deep it is.
    pub messages: Vec<(usize, Message)>,
}

impl Thread {
    /// The thread that `id` is a message of.
    pub(super) async fn of(client: &Client, id: &MessageId) -> Result<Self, Failure> {
        let message = client.get(id).await?;
        let root = root_of(&message).unwrap_or(*id);
        let first = match root == *id {
            true => Some(message.clone()),
            false => found(client.get(&root).await)?,
        };
        // What is sealed stands in no index of links.
        let is_private = message.is_private || first.as_ref().is_some_and(|first| first.is_private);
        let sealed = if is_private { private_replies(client).await? } else { BTreeMap::new() };
        let mut messages: Vec<(usize, Message)> = first.into_iter().map(|first| (0, first)).collect();
        // Threads that are still to be read, the innermost last.
        let mut open = vec![replies(client, &root, &sealed).await?.into_iter()];
        let mut seen = BTreeSet::from([root]);
        while let Some(innermost) = open.last_mut() {
            let Some(reply) = innermost.next() else {
                open.pop();
                continue;
            };
            let depth = open.len();
            if messages.len() >= MAX_MESSAGES || !seen.insert(reply.id) {
                continue;
            }
            if depth < MAX_DEPTH {
                open.push(replies(client, &reply.id, &sealed).await?.into_iter());
            }
            messages.push((depth, reply));
        }
        Ok(Self { root, messages })
    }

    /// What an answer to this thread names as its `branch`.
    pub(super) fn heads(&self) -> Vec<MessageId> {
        let is_own = |message: &Message| message.id == self.root || root_of(message) == Some(self.root);
        let own: Vec<&Message> =
            self.messages.iter().map(|(_, message)| message).filter(|m| is_own(m)).collect();
        let named: BTreeSet<MessageId> = own.iter().flat_map(|message| branches(message)).collect();
        let heads: Vec<MessageId> = own.iter().map(|m| m.id).filter(|id| !named.contains(id)).collect();
        if heads.is_empty() { vec![self.root] } else { heads }
    }
}

/// Nothing where the node has not got it.
fn found(got: Result<Message, ClientError>) -> Result<Option<Message>, Failure> {
    match got {
        Ok(message) => Ok(Some(message)),
        Err(ClientError::Refused(error)) if error.name == "NotFoundError" => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The replies to `root`, in order.
async fn replies(
    client: &Client,
    root: &MessageId,
    sealed: &BTreeMap<MessageId, Vec<Message>>,
) -> Result<Vec<Message>, Failure> {
    let (dest, rel) = (Some(root.to_string()), Some("root".to_owned()));
    let options = LinksOptions { dest, rel, limit: Some(MAX_MESSAGES as u64), ..LinksOptions::default() };
    let mut replies = client.linking(&options).await?.all().await?;
    replies.extend(sealed.get(root).into_iter().flatten().cloned());
    Ok(ordered(replies))
}

/// Private messages that this node can read, by what they reply to.
async fn private_replies(client: &Client) -> Result<BTreeMap<MessageId, Vec<Message>>, Failure> {
    let mut replies = BTreeMap::<MessageId, Vec<Message>>::new();
    let mut all = client.private(&StreamOptions::default()).await?;
    while let Some(message) = all.next().await {
        let message = message?;
        if let Some(root) = root_of(&message) {
            replies.entry(root).or_default().push(message);
        }
    }
    Ok(replies)
}

/// The thread that a message is in, if it does not begin one.
fn root_of(message: &Message) -> Option<MessageId> {
    one(message.content.get("root")?)
}

fn branches(message: &Message) -> Vec<MessageId> {
    match message.content.get("branch") {
        Some(Value::Array(list)) => list.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    }
}

fn one(value: &Value) -> Option<MessageId> {
    value.as_str().or_else(|| value.get("link")?.as_str())?.parse().ok()
}

/// Each message behind those that it answers, and otherwise by claimed time. Messages that answer each other in a circle,
/// which only broken programs write, come last.
fn ordered(messages: Vec<Message>) -> Vec<Message> {
    let ids: BTreeSet<MessageId> = messages.iter().map(|message| message.id).collect();
    let mut waiting = messages;
    waiting.sort_by(|a, b| a.timestamp.total_cmp(&b.timestamp).then(a.id.cmp(&b.id)));
    waiting.dedup_by_key(|message| message.id);
    let mut answers = BTreeMap::<MessageId, Vec<usize>>::new();
    let mut missing = Vec::with_capacity(waiting.len());
    for (place, message) in waiting.iter().enumerate() {
        let before: BTreeSet<MessageId> =
            branches(message).into_iter().filter(|id| ids.contains(id) && *id != message.id).collect();
        missing.push(before.len());
        for id in before {
            answers.entry(id).or_default().push(place);
        }
    }
    let mut free: BTreeSet<usize> =
        (0..waiting.len()).filter(|place| missing.get(*place) == Some(&0)).collect();
    let mut places = Vec::with_capacity(waiting.len());
    while let Some(place) = free.pop_first() {
        places.push(place);
        let freed = waiting.get(place).and_then(|message| answers.get(&message.id));
        for answer in freed.into_iter().flatten() {
            if let Some(left) = missing.get_mut(*answer) {
                *left -= 1;
                if *left == 0 {
                    free.insert(*answer);
                }
            }
        }
    }
    let is_placed: BTreeSet<usize> = places.iter().copied().collect();
    places.extend((0..waiting.len()).filter(|place| !is_placed.contains(place)));
    let mut waiting: Vec<Option<Message>> = waiting.into_iter().map(Some).collect();
    places.into_iter().filter_map(|place| waiting.get_mut(place)?.take()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn id(n: u8) -> MessageId {
        MessageId::from_bytes([n; 32])
    }

    fn reply(n: u8, timestamp: f64, branch: Value) -> Message {
        let content = json!({ "type": "post", "root": id(0), "branch": branch });
        Message { timestamp, ..Message::sample(n, content) }
    }

    fn order(messages: Vec<Message>) -> Vec<u8> {
        ordered(messages).iter().map(|message| message.id.to_bytes()[0]).collect()
    }

    #[test]
    fn answers_come_behind_what_they_answer_whatever_the_clocks_say() {
        let messages = vec![
            reply(3, 1.0, json!([id(1), id(2)])),
            reply(2, 9.0, json!(id(0))),
            reply(1, 5.0, json!({ "link": id(0) })),
            reply(4, 2.0, json!(id(3))),
        ];
        assert_eq!(order(messages), [1, 2, 3, 4]);
    }

    #[test]
    fn circles_and_doubles_lose_nothing_and_end() {
        let circle =
            vec![reply(1, 1.0, json!(id(2))), reply(2, 2.0, json!(id(1))), reply(3, 3.0, json!(id(3)))];
        assert_eq!(order(circle), [3, 1, 2]);
        let double = vec![reply(1, 1.0, json!(null)), reply(1, 1.0, json!(null))];
        assert_eq!(order(double), [1]);
    }

    #[test]
    fn heads_are_what_nobody_answered_yet() {
        let thread = |messages: Vec<(usize, Message)>| Thread { root: id(0), messages };
        assert_eq!(thread(Vec::new()).heads(), [id(0)]);
        let one = reply(1, 1.0, json!(id(0)));
        let (two, three) = (reply(2, 2.0, json!(id(1))), reply(3, 2.0, json!([id(1)])));
        let mut elsewhere = reply(4, 4.0, json!(id(2)));
        elsewhere.content["root"] = json!(id(2));
        let thread = thread(vec![(1, one), (1, two), (2, elsewhere), (1, three)]);
        assert_eq!(thread.heads(), [id(2), id(3)], "a thread in the thread has heads of its own");
    }
}
