//! A message as people read it.

use hawsepipe_replication::refs::FeedId;
use serde_json::Value;

use super::names::{Names, short};
use super::page::{ACCENT, FAINT, Look, NAME, PRIVATE};
use super::text;
use crate::client::Message;

/// Columns by which each level of a thread is indented.
const INDENT: usize = 2;
/// Levels that are indented; below them, text would have no room.
const MAX_LEVELS: usize = 8;
/// Characters that are shown of a content of a type that has no words here.
const MAX_JSON: usize = 300;

/// The feeds whose names a message is shown with.
pub(super) fn named_in(message: &Message) -> Vec<FeedId> {
    let about =
        ["contact", "about"].into_iter().filter_map(|name| link(&message.content, name)?.parse().ok());
    std::iter::once(message.author).chain(about).collect()
}

/// The lines of a message, `level` levels deep in its thread; `now` is the time in milliseconds since 1970.
pub(super) fn lines(message: &Message, names: &Names, now: u64, level: usize, look: Look) -> Vec<String> {
    let indent = " ".repeat(INDENT * level.min(MAX_LEVELS));
    let content = &message.content;
    let mut head = look.paint(NAME, &names.shown(&message.author));
    if names.name(&message.author).is_some() {
        head = format!("{head} {}", look.paint(FAINT, &short(&message.author)));
    }
    let time = text::when(now, message.timestamp);
    head = format!("{indent}{head}  {}", look.paint(FAINT, &time));
    if message.is_private {
        head = format!("{head}  {}", look.paint(PRIVATE, "private"));
    }
    if let Some(channel) =
        content.get("channel").and_then(Value::as_str).filter(|channel| !channel.is_empty())
    {
        head = format!("{head}  {}", look.paint(ACCENT, &format!("#{}", text::word(channel))));
    }
    let deeper = format!("{indent}{}", " ".repeat(INDENT));
    let mut lines = vec![head];
    lines.extend(text::wrapped(&words(message, names), look.width, &deeper));
    let mut foot = message.id.to_string();
    if let Some(root) = link(content, "root").filter(|_| level == 0) {
        foot = format!("{foot} in {}", text::one_line(root));
    }
    lines.push(format!("{deeper}{}", look.paint(FAINT, &foot)));
    lines.push(String::new());
    lines
}

/// What a content names under `name`: a text, or an object with a `link`.
fn link<'a>(content: &'a Value, name: &str) -> Option<&'a str> {
    let value = content.get(name)?;
    value.as_str().or_else(|| value.get("link")?.as_str())
}

/// What a message says, in words; clean.
fn words(message: &Message, names: &Names) -> String {
    let content = &message.content;
    let member = |name: &str| content.get(name);
    let text = |name: &str| member(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let whom = |name: &str| {
        let whom = link(content, name).unwrap_or("nobody");
        whom.parse().map_or_else(|_| text::word(whom), |feed: FeedId| names.shown(&feed))
    };
    match message.kind() {
        None if content.is_string() => "(sealed for somebody else)".to_owned(),
        Some("post") => text::clean(text("text").unwrap_or("(without text)")),
        Some("contact") => {
            let deed = match (member("following"), member("blocking")) {
                (_, Some(Value::Bool(true))) => "blocks",
                (Some(Value::Bool(true)), _) => "follows",
                (Some(Value::Bool(false)), _) => "unfollows",
                (_, Some(Value::Bool(false))) => "unblocks",
                (_, _) => "says nothing of",
            };
            format!("{deed} {}", whom("contact"))
        }
        Some("about") => {
            let is_own = link(content, "about") == Some(&message.author.to_string());
            let whom = if is_own { "themself".to_owned() } else { whom("about") };
            match text("name") {
                Some(name) => format!("calls {whom} {}", text::word(name)),
                None => format!("describes {whom}"),
            }
        }
        Some("vote") => {
            let vote = member("vote");
            let value = vote.and_then(|vote| vote.get("value")?.as_f64()).unwrap_or(0.0);
            let deed = if value > 0.0 { "likes" } else { "no longer likes" };
            let what = vote.and_then(|vote| vote.get("link")?.as_str()).unwrap_or("nothing");
            format!("{deed} {}", text::one_line(what))
        }
        Some(_) | None => text::shortened(&text::one_line(&content.to_string()), MAX_JSON),
    }
}

#[cfg(test)]
mod tests {
    use hawsepipe_replication::refs::MessageId;
    use serde_json::json;

    use super::*;

    fn message(content: Value) -> Message {
        Message::sample(7, content)
    }

    fn names() -> Names {
        Names::with(FeedId::from_bytes([1; 32]), [(FeedId::from_bytes([2; 32]), "bob")])
    }

    #[test]
    fn nobodys_message_reaches_the_terminal_as_it_is() {
        let hostile = "x\u{1b}[31m\u{9b}2J\u{7}";
        for content in [
            json!({ "type": "post", "text": hostile, "channel": hostile, "root": hostile }),
            json!({ "type": "contact", "contact": hostile, "following": true }),
            json!({ "type": "about", "about": hostile, "name": hostile }),
            json!({ "type": "vote", "vote": { "link": hostile, "value": 1, "expression": hostile } }),
            json!({ "type": hostile, hostile: [hostile] }),
            json!(hostile),
        ] {
            let look = Look { colour: false, width: 80 };
            for line in lines(&message(content), &names(), 0, 0, look) {
                assert!(!line.chars().any(char::is_control), "{line:?}");
            }
        }
    }

    #[test]
    fn contents_are_said_in_words() {
        let bob = FeedId::from_bytes([2; 32]);
        let said = |content: Value| words(&message(content), &names());
        assert_eq!(said(json!({ "type": "contact", "contact": bob, "following": true })), "follows bob");
        assert_eq!(said(json!({ "type": "contact", "contact": bob, "blocking": true })), "blocks bob");
        assert_eq!(said(json!({ "type": "about", "about": bob, "name": "Robert" })), "calls bob Robert");
        let vote = json!({ "link": MessageId::from_bytes([7; 32]), "value": 1 });
        assert!(said(json!({ "type": "vote", "vote": vote })).starts_with("likes %BwcH"));
        assert_eq!(said(json!("AAAA.box")), "(sealed for somebody else)");
        assert_eq!(said(json!({ "type": "post", "text": "a\nb" })), "a\nb");
        assert!(said(json!({ "type": "chess", "move": "e4" })).contains("e4"));
    }

    #[test]
    fn threads_are_indented_and_colours_are_left_out_where_they_are_not_wanted() {
        let post = message(json!({ "type": "post", "text": "hello", "channel": "boats" }));
        let plain = lines(&post, &names(), 0, 1, Look { colour: false, width: 80 });
        assert_eq!(plain[0], "  @AQEBAQEB  just now  #boats");
        assert_eq!(plain[1], "    hello");
        let coloured = lines(&post, &names(), 0, 0, Look { colour: true, width: 80 });
        assert!(coloured[0].contains('\u{1b}'));
        let deep = lines(&post, &names(), 0, 1000, Look { colour: false, width: 40 });
        assert!(deep[0].starts_with(&" ".repeat(INDENT * MAX_LEVELS)) && deep[0].len() < 80);
    }
}
