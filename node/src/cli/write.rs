//! Writing: `publish` and `reply`.

use std::io::Read as _;

use clap::Args;
use hawsepipe_replication::refs::MessageId;
use serde_json::{Value, json};

use super::client::Failure;
use super::names::find;
use super::page::{Facts, Page};
use super::thread::Thread;
use crate::blobs::blocking;
use crate::client::{Client, Message};

/// Longest text that is read from standard input; what a message can hold is less.
const MAX_TEXT: u64 = 64 * 1024;

/// What to publish.
#[derive(Args, Debug)]
#[group(skip)]
pub struct Publish {
    /// The content as a JSON object with a `type`
    #[arg(required_unless_present = "post")]
    pub content: Option<String>,
    /// Publish a post with this text; - is standard input
    #[arg(long, value_name = "TEXT", conflicts_with = "content")]
    pub post: Option<String>,
    /// In this channel
    #[arg(long, value_name = "CHANNEL", requires = "post")]
    pub channel: Option<String>,
    /// Sealed, so that only these and you can read it: a feed id, or a name that only one has (repeatable, at most six)
    #[arg(long, value_name = "FEED", requires = "post")]
    pub to: Vec<String>,
}

/// What to answer, and with what.
#[derive(Args, Debug)]
pub struct Reply {
    /// A message of the thread, %….sha256
    pub id: MessageId,
    /// The text; - is standard input
    #[arg(value_name = "TEXT")]
    pub answer: String,
}

/// `hawsepipe publish`.
pub(super) async fn publish(client: &Client, what: Publish, facts: &Facts) -> Result<(), Failure> {
    let content = match (what.content, what.post) {
        (_, Some(text)) => {
            let mut content = json!({ "type": "post", "text": typed(text).await? });
            if let Some(channel) = what.channel {
                content["channel"] = channel.trim_start_matches('#').into();
            }
            let mut recipients = Vec::new();
            for who in &what.to {
                recipients.push(find(client, who).await?);
            }
            if !recipients.is_empty() {
                recipients.push(client.whoami().await?);
                recipients.sort();
                recipients.dedup();
                content["recps"] = json!(recipients);
            }
            content
        }
        (Some(content), None) => {
            let parsed: Result<Value, _> = serde_json::from_str(&content);
            parsed.map_err(|e| Failure::Usage(format!("the content is not JSON: {e}")))?
        }
        (None, None) => return Err(Failure::Usage("nothing to publish".to_owned())),
    };
    send(client, content, facts).await
}

/// `hawsepipe reply`.
pub(super) async fn reply(client: &Client, what: Reply, facts: &Facts) -> Result<(), Failure> {
    let text = typed(what.answer).await?;
    let thread = Thread::of(client, &what.id).await?;
    let answered = thread.messages.iter().map(|(_, message)| message).find(|m| m.id == what.id);
    let first = thread.messages.iter().map(|(_, message)| message).find(|m| m.id == thread.root);
    send(client, answer(&text, &thread, answered.or(first)), facts).await
}

/// The content of an answer in `thread` to `answered`. What is answered to a private message is as private.
fn answer(text: &str, thread: &Thread, answered: Option<&Message>) -> Value {
    let mut content = json!({ "type": "post", "text": text, "root": thread.root });
    let heads = thread.heads();
    content["branch"] = match heads.as_slice() {
        [head] => json!(head),
        heads => json!(heads),
    };
    let Some(answered) = answered else { return content };
    if let Some(channel) = answered.content.get("channel").filter(|channel| channel.is_string()) {
        content["channel"] = channel.clone();
    }
    if answered.is_private {
        let recps = answered.content.get("recps").and_then(Value::as_array).cloned().unwrap_or_default();
        let recps = recps.into_iter().map(|recp| recp.get("link").cloned().unwrap_or(recp));
        let recps: Vec<Value> = recps.filter(Value::is_string).collect();
        // What says nobody was sealed for its author, and is read by nobody else.
        content["recps"] = if recps.is_empty() { json!([answered.author]) } else { recps.into() };
    }
    content
}

/// The text that is typed, or on standard input.
async fn typed(text: String) -> Result<String, Failure> {
    if text != "-" {
        return Ok(text);
    }
    let read = blocking(|| {
        let mut text = String::new();
        std::io::stdin().take(MAX_TEXT).read_to_string(&mut text).map(|_| text)
    });
    let text = read.await.map_err(|error| Failure::Usage(format!("cannot read the text: {error}")))?;
    Ok(text.trim_end().to_owned())
}

async fn send(client: &Client, content: Value, facts: &Facts) -> Result<(), Failure> {
    let mut page = Page::short(facts);
    let published = client.call_raw("publish", vec![content]).await?;
    let id = published.decode::<Message>().ok().map(|message| message.id);
    match id.filter(|_| page.is_text()) {
        Some(id) => page.line(&format!("published {id}")),
        None => page.json(&published.bytes),
    }
    page.finish();
    Ok(())
}

#[cfg(test)]
mod tests {

    use super::*;

    fn message(n: u8, content: Value, is_private: bool) -> Message {
        Message { is_private, ..Message::sample(n, content) }
    }

    #[test]
    fn an_answer_names_its_root_and_the_heads_and_stays_in_its_channel() {
        let first = message(1, json!({ "type": "post", "channel": "boats" }), false);
        let root = first.id;
        let reply = message(2, json!({ "type": "post", "root": root, "branch": root }), false);
        let beside = message(3, json!({ "type": "post", "root": root, "branch": root }), false);
        let alone = Thread { root, messages: vec![(0, first.clone())] };
        let expected =
            json!({ "type": "post", "text": "x", "root": root, "branch": root, "channel": "boats" });
        assert_eq!(answer("x", &alone, Some(&first)), expected);
        let thread = Thread { root, messages: vec![(0, first), (1, reply.clone()), (1, beside.clone())] };
        let content = answer("x", &thread, Some(&reply));
        assert_eq!(content["branch"], json!([reply.id, beside.id]));
        assert_eq!((content["root"].clone(), content.get("recps")), (json!(root), None));
    }

    #[test]
    fn an_answer_to_a_private_message_is_for_the_same_people() {
        let thread = |messages| Thread { root: MessageId::from_bytes([1; 32]), messages };
        let recps = json!(["@a", { "link": "@b", "name": "b" }]);
        let sealed = message(1, json!({ "type": "post", "recps": recps }), true);
        assert_eq!(answer("x", &thread(Vec::new()), Some(&sealed))["recps"], json!(["@a", "@b"]));
        let alone = message(1, json!({ "type": "post" }), true);
        assert_eq!(answer("x", &thread(Vec::new()), Some(&alone))["recps"], json!([alone.author]));
    }
}
