//! What people are called: by whoever runs the node first, else by themselves. What others call somebody does not count:
//! anybody could give a stranger a friend's name.

use std::collections::BTreeMap;

use hawsepipe_replication::refs::FeedId;

use super::client::Failure;
use super::text;
use crate::client::{Client, LinksOptions, Message, StreamOptions};

/// Whom a name is shared by, at most so many of them are listed.
const LISTED: usize = 10;

/// The names of feeds, as far as they were asked for.
#[derive(Debug)]
pub(super) struct Names {
    own: FeedId,
    known: BTreeMap<FeedId, Option<String>>,
}

impl Names {
    /// None yet.
    pub(super) async fn of_node(client: &Client) -> Result<Self, Failure> {
        Ok(Self { own: client.whoami().await?, known: BTreeMap::new() })
    }

    /// Of everybody.
    pub(super) async fn of_everybody(client: &Client) -> Result<Self, Failure> {
        let mut names = Self::of_node(client).await?;
        let mut abouts = BTreeMap::<FeedId, Vec<Message>>::new();
        let mut all = client.by_type("about", &StreamOptions::default()).await?;
        while let Some(message) = all.next().await {
            let message = message?;
            if let Some(feed) = whom(&message) {
                abouts.entry(feed).or_default().push(message);
            }
        }
        names.known =
            abouts.into_iter().map(|(feed, abouts)| (feed, chosen(names.own, feed, &abouts))).collect();
        Ok(names)
    }

    #[cfg(test)]
    pub(super) fn with<const N: usize>(own: FeedId, known: [(FeedId, &str); N]) -> Self {
        Self { own, known: known.map(|(feed, name)| (feed, Some(name.to_owned()))).into() }
    }

    /// Whose node it is.
    pub(super) fn own(&self) -> FeedId {
        self.own
    }

    /// Asks for the names of `feeds` that are not known yet.
    pub(super) async fn learn(&mut self, client: &Client, feeds: &[FeedId]) -> Result<(), Failure> {
        for feed in feeds {
            if self.known.contains_key(feed) {
                continue;
            }
            let (dest, rel) = (Some(feed.to_string()), Some("about".to_owned()));
            let options = LinksOptions { dest, rel, ..LinksOptions::default() };
            let abouts = client.linking(&options).await?.all().await?;
            self.known.insert(*feed, chosen(self.own, *feed, &abouts));
        }
        Ok(())
    }

    /// The name of a feed, clean and on one line.
    pub(super) fn name(&self, feed: &FeedId) -> Option<&str> {
        self.known.get(feed)?.as_deref()
    }

    /// The name of a feed, or the beginning of its id.
    pub(super) fn shown(&self, feed: &FeedId) -> String {
        self.name(feed).map_or_else(|| short(feed), str::to_owned)
    }

    /// Those who are called `name`, whatever the case.
    pub(super) fn called(&self, name: &str) -> Vec<FeedId> {
        let wanted = text::word(name.trim_start_matches('@')).to_lowercase();
        let is_called =
            |known: &Option<String>| known.as_ref().is_some_and(|known| known.to_lowercase() == wanted);
        self.known.iter().filter(|(_, known)| is_called(known)).map(|(feed, _)| *feed).collect()
    }
}

/// The beginning of an id.
pub(super) fn short(feed: &FeedId) -> String {
    feed.to_string().chars().take(9).collect()
}

/// The feed that is typed: its id, or a name that only one has.
pub(super) async fn find(client: &Client, typed: &str) -> Result<FeedId, Failure> {
    if let Ok(feed) = typed.parse() {
        return Ok(feed);
    }
    let names = Names::of_everybody(client).await?;
    match names.called(typed).as_slice() {
        [feed] => Ok(*feed),
        [] => Err(Failure::Refused(format!(
            "nobody here is called {}: expected a name that `hawsepipe who` lists, or a feed id, @….ed25519",
            text::word(typed)
        ))),
        several => {
            let list: Vec<String> = several.iter().take(LISTED).map(|feed| format!("  {feed}")).collect();
            let (name, count) = (text::word(typed), several.len());
            Err(Failure::Refused(format!(
                "{count} are called {name}; give the id instead:\n{}",
                list.join("\n")
            )))
        }
    }
}

/// The feed that an `about` message is about.
fn whom(message: &Message) -> Option<FeedId> {
    message.content.get("about")?.as_str()?.parse().ok()
}

/// The newest name that `own` gave to `feed`, else the newest that it gave itself.
fn chosen(own: FeedId, feed: FeedId, abouts: &[Message]) -> Option<String> {
    let by = |author: FeedId| {
        let given = abouts.iter().filter(|message| message.author == author && whom(message) == Some(feed));
        let given = given.filter_map(|message| {
            let name = text::word(message.content.get("name")?.as_str()?.trim_start_matches('@'));
            (!name.is_empty()).then_some((message.sequence, name))
        });
        given.max_by_key(|(sequence, _)| *sequence).map(|(_, name)| name)
    };
    by(own).or_else(|| by(feed))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn about(author: u8, sequence: u64, feed: u8, name: &str) -> Message {
        let content = json!({ "type": "about", "about": FeedId::from_bytes([feed; 32]), "name": name });
        Message { author: FeedId::from_bytes([author; 32]), sequence, ..Message::sample(author, content) }
    }

    #[test]
    fn our_own_word_counts_first_then_theirs_and_nobody_elses() {
        let name =
            |abouts: &[Message]| chosen(FeedId::from_bytes([1; 32]), FeedId::from_bytes([2; 32]), abouts);
        let theirs = [about(2, 1, 2, "old"), about(2, 2, 2, "@new"), about(3, 9, 2, "mallory")];
        assert_eq!(name(&theirs).as_deref(), Some("new"));
        let mut both = theirs.to_vec();
        both.push(about(1, 1, 2, "my friend"));
        both.push(about(1, 2, 3, "somebody else"));
        assert_eq!(name(&both).as_deref(), Some("my friend"));
        assert_eq!(name(&theirs[2..]), None);
        assert_eq!(name(&[about(2, 1, 2, "\u{1b}\u{202e} \n")]), None, "nothing to see");
    }

    #[test]
    fn names_are_found_whatever_their_case() {
        let (one, two, three) =
            (FeedId::from_bytes([1; 32]), FeedId::from_bytes([2; 32]), FeedId::from_bytes([3; 32]));
        let known =
            [(one, Some("Alice".to_owned())), (two, Some("bob".to_owned())), (three, Some("BOB".to_owned()))];
        let names = Names { own: one, known: known.into() };
        assert_eq!(names.called("@alice"), [one]);
        assert_eq!(names.called("Bob"), [two, three]);
        assert!(names.called("eve").is_empty());
        assert_eq!(names.shown(&FeedId::from_bytes([0; 32])), "@AAAAAAAA");
    }
}
