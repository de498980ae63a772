//! People: `who`, `follow` and `block`.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use hawsepipe_replication::refs::FeedId;
use serde_json::json;

use super::client::Failure;
use super::names::{Names, find};
use super::page::{FAINT, Facts, NAME, Page};
use crate::client::Client;

/// Whom to follow or block.
#[derive(Args, Debug)]
pub struct Edge {
    /// The feed, @….ed25519, or a name that only one has
    pub who: String,
    /// Take it back
    #[arg(long)]
    pub undo: bool,
}

/// Who in the social graph somebody is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Relation {
    is_own: bool,
    /// Whether we follow them, or block them.
    ours: Option<bool>,
    /// Whether they follow us, or block us.
    theirs: Option<bool>,
}

impl Relation {
    const fn words(self) -> &'static str {
        match (self.is_own, self.ours, self.theirs) {
            (true, _, _) => "you",
            (_, Some(false), _) => "blocked",
            (_, Some(true), Some(true)) => "friend",
            (_, Some(true), Some(false)) => "followed, blocks you",
            (_, Some(true), None) => "followed",
            (_, None, Some(true)) => "follows you",
            (_, None, Some(false)) => "blocks you",
            (_, None, None) => "",
        }
    }
}

/// Everybody in reach, and whom we block.
struct Neighbourhood {
    hops: BTreeMap<FeedId, i64>,
    ours: BTreeMap<FeedId, Option<bool>>,
    theirs: BTreeMap<FeedId, Option<bool>>,
}

impl Neighbourhood {
    async fn of(client: &Client, own: FeedId) -> Result<Self, Failure> {
        let hops = client.hops().await?;
        let ours = client.call("friends.get", vec![json!({ "source": own })]).await?;
        let theirs = client.call("friends.get", vec![json!({ "dest": own })]).await?;
        Ok(Self { hops, ours, theirs })
    }

    fn relation(&self, own: FeedId, feed: &FeedId) -> Relation {
        let edge = |edges: &BTreeMap<FeedId, Option<bool>>| edges.get(feed).copied().flatten();
        Relation { is_own: *feed == own, ours: edge(&self.ours), theirs: edge(&self.theirs) }
    }

    /// All feeds, nearest first.
    fn feeds(&self, names: &Names) -> Vec<FeedId> {
        let named: BTreeSet<FeedId> = self.hops.keys().chain(self.ours.keys()).copied().collect();
        let mut feeds: Vec<FeedId> = named.into_iter().collect();
        let place = |feed: &FeedId| {
            let hops = self.hops.get(feed).copied().filter(|hops| *hops >= 0).unwrap_or(i64::MAX);
            let name = names.name(feed).map(str::to_lowercase);
            (hops, name.is_none(), name)
        };
        feeds.sort_by_cached_key(place);
        feeds
    }
}

/// `hawsepipe who`.
pub(super) async fn who(client: &Client, who: Option<&str>, facts: &Facts) -> Result<(), Failure> {
    let names = Names::of_everybody(client).await?;
    let own = names.own();
    let around = Neighbourhood::of(client, own).await?;
    let feeds = match who {
        None => around.feeds(&names),
        Some(who) => who.parse().map_or_else(|_| names.called(who), |feed| vec![feed]),
    };
    if let (Some(who), true) = (who, feeds.is_empty()) {
        return find(client, who).await.map(drop);
    }
    let mut page = Page::long(facts);
    for feed in &feeds {
        let relation = around.relation(own, feed);
        let hops = around.hops.get(feed).copied();
        if !page.is_text() {
            let line = json!({
                "id": feed, "name": names.name(feed), "hops": hops, "relation": relation.words(),
                "following": relation.ours == Some(true), "blocking": relation.ours == Some(false),
                "followed": relation.theirs == Some(true),
            });
            page.json(line.to_string().as_bytes());
            continue;
        }
        let (look, name) = (page.look(), names.name(feed).unwrap_or("-"));
        let hops = hops.filter(|hops| *hops >= 0).map_or_else(|| "-".to_owned(), |hops| hops.to_string());
        let columns = [pad(name, 24), pad(&hops, 3), pad(relation.words(), 20)];
        let [name, hops, relation] = columns;
        let id = look.paint(FAINT, &feed.to_string());
        page.line(&format!("{} {hops} {relation} {id}", look.paint(NAME, &name)));
    }
    page.finish();
    Ok(())
}

/// `text` with blanks behind it up to `width` columns.
fn pad(text: &str, width: usize) -> String {
    let blanks = width.saturating_sub(textwrap::core::display_width(text));
    format!("{text}{}", " ".repeat(blanks))
}

/// `hawsepipe follow`.
pub(super) async fn follow(client: &Client, edge: &Edge, facts: &Facts) -> Result<(), Failure> {
    let deed = if edge.undo { "no longer following" } else { "following" };
    contact(client, edge, "friends.follow", deed, facts).await
}

/// `hawsepipe block`.
pub(super) async fn block(client: &Client, edge: &Edge, facts: &Facts) -> Result<(), Failure> {
    let deed = if edge.undo { "no longer blocking" } else { "blocking" };
    contact(client, edge, "friends.block", deed, facts).await
}

async fn contact(
    client: &Client,
    edge: &Edge,
    method: &str,
    deed: &str,
    facts: &Facts,
) -> Result<(), Failure> {
    let feed = find(client, &edge.who).await?;
    let published = client.call_raw(method, vec![json!(feed), json!({ "state": !edge.undo })]).await?;
    let mut page = Page::short(facts);
    if page.is_text() {
        let mut names = Names::of_node(client).await?;
        names.learn(client, &[feed]).await?;
        let name = names.name(&feed).map_or_else(String::new, |name| format!("{name} "));
        page.line(&format!("{deed} {name}{feed}"));
    } else {
        page.json(&published.bytes);
    }
    page.finish();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_have_words() {
        let words = |ours, theirs| Relation { is_own: false, ours, theirs }.words();
        assert_eq!(words(Some(true), Some(true)), "friend");
        assert_eq!(words(Some(true), None), "followed");
        assert_eq!(words(None, Some(true)), "follows you");
        assert_eq!(words(Some(false), Some(true)), "blocked");
        assert_eq!(words(None, None), "");
        assert_eq!(Relation { is_own: true, ..Relation::default() }.words(), "you");
    }

    #[test]
    fn columns_are_as_wide_as_they_look() {
        assert_eq!(pad("日本", 6), "日本  ");
        assert_eq!(pad("longer than it", 4), "longer than it");
    }
}
