//! Who calls whom what, and which image stands for whom (ssb-names 3): out of `about` messages, and of mentions that
//! come with a name.
//!
//! Nothing is kept on disk. The first question reads the log, later ones only what came since. A pure fold over the
//! log in [`Said`]; the last word of each author counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use hawsepipe_replication::graph::{Edge, Graph};
use hawsepipe_replication::message::is_reference;
use hawsepipe_replication::private::Opened;
use hawsepipe_replication::refs::FeedId;
use hawsepipe_replication::store::{Order, ReadError, Reader};
use serde_json::{Map, Value, json};

use crate::context::log_end;
use crate::private::Private;
use crate::query::is_truthy;

/// Names and images that are kept, each with who gave it to whom.
const MAX_SAID: usize = 500_000;
/// Longest name or image that is kept, in bytes of JSON.
const MAX_VALUE: usize = 512;

/// What authors say of feeds.
pub type Said = BTreeMap<FeedId, BTreeMap<FeedId, Value>>;

/// See the module's header.
#[derive(Debug, Default)]
pub struct Names {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    names: Said,
    images: Said,
    count: usize,
    /// The offset behind the last message that was looked at.
    covered: u64,
    /// How many of those were private.
    opened: usize,
}

/// Which of the two is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Names.
    Names,
    /// Images.
    Images,
}

impl Names {
    /// Looks at all names, or images, as the log has them now. Blocks.
    pub fn with<T>(
        &self,
        reader: &Reader,
        private: &Private,
        what: What,
        look: impl FnOnce(&Said) -> T,
    ) -> Result<T, ReadError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let end = log_end(reader);
        // Some may be readable only now, because a key came.
        if private.read_index().readable(0..state.covered).len() != state.opened {
            *state = State::default();
        }
        for stored in reader.log(state.covered..end, Order::Ascending)? {
            let stored = stored?;
            let opened = private.open_stored(&stored);
            let content = opened.as_ref().map_or_else(|| stored.message.content_json(), Opened::content_json);
            state.take(stored.message.author(), content);
            state.opened += usize::from(opened.is_some());
            state.covered = stored.offset + 1;
        }
        state.covered = end;
        Ok(look(match what {
            What::Names => &state.names,
            What::Images => &state.images,
        }))
    }

    /// A message was deleted: the log is read again.
    pub fn forget(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }
}

impl State {
    fn take(&mut self, author: FeedId, content: &str) {
        // Most messages say nothing of the kind.
        if !content.contains("\"mentions\":[") && !content.contains("\"about\"") {
            return;
        }
        let Ok(content) = serde_json::from_str::<Value>(content) else { return };
        let about = || content.get("about")?.as_str()?.parse::<FeedId>().ok();
        let about = (content.get("type") == Some(&json!("about"))).then(about).flatten();
        if let Some(about) = about
            && let Some(image) = image(&content)
        {
            add(&mut self.images, &mut self.count, author, about, image.into());
        }
        let name = content.get("name").filter(|name| is_truthy(Some(name)));
        match (about, name) {
            (Some(about), Some(name)) => add(&mut self.names, &mut self.count, author, about, name.clone()),
            _ => {
                for mention in content.get("mentions").and_then(Value::as_array).into_iter().flatten() {
                    let link = || mention.get("link")?.as_str()?.parse::<FeedId>().ok();
                    let name = mention.get("name").filter(|name| is_truthy(Some(name)));
                    if let Some((link, name)) = link().zip(name) {
                        add(&mut self.names, &mut self.count, author, link, name.clone());
                    }
                }
            }
        }
    }
}

/// A blob that an `about` message gives as image.
fn image(content: &Value) -> Option<&str> {
    let image = content.get("image")?;
    let link = image.as_str().or_else(|| image.get("link")?.as_str())?;
    (link.starts_with('&') && is_reference(link)).then_some(link)
}

fn add(said: &mut Said, count: &mut usize, author: FeedId, of: FeedId, value: Value) {
    if value.to_string().len() > MAX_VALUE {
        return;
    }
    let by_author = said.entry(author).or_default();
    if let Some(known) = by_author.get_mut(&of) {
        *known = value;
    } else if *count < MAX_SAID {
        *count += 1;
        by_author.insert(of, value);
    }
}

/// All that is said, by author, as JSON.
pub fn to_json(said: &Said, blocked: &BTreeSet<FeedId>) -> Value {
    let shown = said.iter().filter(|(author, _)| !blocked.contains(author));
    let by_author = shown.map(|(author, of)| {
        let of: Map<String, Value> =
            of.iter().map(|(feed, value)| (feed.to_string(), value.clone())).collect();
        (author.to_string(), Value::Object(of))
    });
    Value::Object(by_author.collect())
}

/// What we would call a feed: our own word for it, else that of most whom we follow, else of most whom those know,
/// else its own; the feed's id if there is none.
pub fn of_feed(said: &Said, graph: &Graph, own: &FeedId, feed: &FeedId) -> Value {
    let word = |author: &FeedId| said.get(author)?.get(feed);
    if let Some(own_word) = word(own) {
        return own_word.clone();
    }
    let mut counts = Counts::default();
    let mut hear = |source: &FeedId| {
        let follows = graph.edges_of(source).filter(|(_, edge)| *edge == Edge::Follow);
        follows.for_each(|(friend, _)| word(&friend).into_iter().for_each(|word| counts.add(word)));
        counts.most.is_some()
    };
    let is_named = hear(own) || {
        graph.edges_of(own).for_each(|(friend, _)| {
            hear(&friend);
        });
        counts.most.is_some()
    };
    match counts.most.filter(|_| is_named) {
        Some(most) => most,
        None => word(feed).cloned().unwrap_or_else(|| json!(feed)),
    }
}

/// How often each word was heard, and the one that was heard most.
#[derive(Debug, Default)]
struct Counts {
    counts: Map<String, Value>,
    highest: u64,
    most: Option<Value>,
}

impl Counts {
    fn add(&mut self, word: &Value) {
        let key = word.as_str().map_or_else(|| word.to_string(), str::to_owned);
        let count = self.counts.get(&key).and_then(Value::as_u64).unwrap_or(0) + 1;
        self.counts.insert(key, count.into());
        if count > self.highest {
            (self.highest, self.most) = (count, Some(word.clone()));
        }
    }
}

/// Who is called something that begins so: each name with how many call somebody that (ourselves, those whom we know, those
/// whom they know), and what we would call them.
pub fn with_prefix(said: &Said, graph: &Graph, own: &FeedId, prefix: &str) -> Vec<Value> {
    let mut found = Found { said, prefix, seen: BTreeSet::new(), ranks: BTreeMap::new() };
    found.hear(*own, 0);
    let known: Vec<FeedId> = graph.edges_of(own).map(|(friend, _)| friend).collect();
    known.iter().for_each(|friend| found.hear(*friend, 1));
    for friend in &known {
        graph.edges_of(friend).for_each(|(friend, _)| found.hear(friend, 2));
    }
    let mut ranked: Vec<_> = found.ranks.into_iter().collect();
    ranked.sort_by(|(_, one), (_, other)| {
        let number = |rank: &[Option<u32>], at: usize| rank.get(at).copied().flatten().unwrap_or(0);
        (0..3)
            .map(|at| number(other, at).cmp(&number(one, at)))
            .find(|order| order.is_ne())
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    let item = |((name, feed), rank): ((String, FeedId), Vec<Option<u32>>)| json!({ "name": name, "id": feed, "rank": rank, "named": of_feed(said, graph, own, &feed) });
    ranked.into_iter().map(item).collect()
}

struct Found<'a> {
    said: &'a Said,
    prefix: &'a str,
    seen: BTreeSet<FeedId>,
    ranks: BTreeMap<(String, FeedId), Vec<Option<u32>>>,
}

impl Found<'_> {
    /// What `source` says, who is so far from us.
    fn hear(&mut self, source: FeedId, distance: usize) {
        if !self.seen.insert(source) {
            return;
        }
        for (feed, name) in self.said.get(&source).into_iter().flatten() {
            let Some(name) = name.as_str().filter(|name| name.starts_with(self.prefix)) else { continue };
            // As ssb-names counts: what nobody nearer said is 0, except where a nearer one did not look so far.
            let rank = self.ranks.entry((name.to_owned(), *feed)).or_insert_with(|| vec![Some(0); distance]);
            rank.resize((distance + 1).max(rank.len()), None);
            if let Some(count) = rank.get_mut(distance) {
                *count = Some(count.unwrap_or(0) + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: FeedId = FeedId::from_bytes([1; 32]);

    fn feed(n: u8) -> FeedId {
        FeedId::from_bytes([n; 32])
    }

    fn state(contents: &[(u8, Value)]) -> State {
        let mut state = State::default();
        contents.iter().for_each(|(author, content)| state.take(feed(*author), &content.to_string()));
        state
    }

    fn about(of: u8, name: &str) -> Value {
        json!({ "type": "about", "about": feed(of), "name": name })
    }

    fn graph(follows: &[(u8, u8)]) -> Graph {
        let mut graph = Graph::new();
        follows.iter().for_each(|(from, to)| {
            graph.set(feed(*from), feed(*to), Edge::Follow);
        });
        graph
    }

    #[test]
    fn names_come_from_abouts_and_mentions_and_the_last_counts() {
        let mention = json!({ "type": "post", "mentions": [{ "link": feed(9), "name": "nine" }, null, { "link": feed(8) }] });
        let state = state(&[
            (2, about(9, "old")),
            (2, about(9, "new")),
            (3, mention),
            (4, json!({ "type": "post", "name": "x", "about": feed(9) })),
        ]);
        let expected = json!({ feed(2).to_string(): { feed(9).to_string(): "new" }, feed(3).to_string(): { feed(9).to_string(): "nine" } });
        assert_eq!(to_json(&state.names, &BTreeSet::new()), expected);
        assert_eq!(to_json(&state.names, &[feed(2), feed(3)].into()), json!({}));
    }

    #[test]
    fn images_are_blobs() {
        const BLOB: &str = "&47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=.sha256";
        let about = |image: Value| json!({ "type": "about", "about": feed(9), "image": image });
        let state = state(&[
            (2, about(json!({ "link": BLOB }))),
            (3, about(json!(BLOB))),
            (4, about(json!("x.png"))),
        ]);
        assert_eq!(state.images.len(), 2);
        assert!(state.names.is_empty());
    }

    #[test]
    fn what_is_nearest_counts() {
        let said = [
            (5, about(9, "self")),
            (9, about(9, "me")),
            (2, about(9, "two")),
            (3, about(9, "far")),
            (4, about(9, "far")),
        ];
        let state = state(&said);
        let named = |graph: &Graph| of_feed(&state.names, graph, &OWN, &feed(9));
        assert_eq!(named(&graph(&[])), json!("me"));
        assert_eq!(named(&graph(&[(1, 6), (6, 3), (6, 4), (6, 5)])), json!("far"));
        assert_eq!(named(&graph(&[(1, 2), (2, 3), (2, 4)])), json!("two"));
        assert_eq!(of_feed(&state.names, &graph(&[]), &feed(5), &feed(9)), json!("self"));
        assert_eq!(of_feed(&state.names, &graph(&[]), &OWN, &feed(8)), json!(feed(8)));
    }

    #[test]
    fn who_is_called_so_is_ranked_by_how_near_those_are_who_say_it() {
        let said = [
            (1, about(9, "bob")),
            (2, about(8, "bobby")),
            (3, about(8, "bobby")),
            (4, about(9, "bob")),
            (4, about(7, "alice")),
        ];
        let state = state(&said);
        let found = with_prefix(&state.names, &graph(&[(1, 2), (1, 3), (2, 4)]), &OWN, "bob");
        let short: Vec<_> = found.iter().map(|item| (item["name"].clone(), item["rank"].clone())).collect();
        assert_eq!(short, [(json!("bob"), json!([1, null, 1])), (json!("bobby"), json!([0, 2]))]);
        assert_eq!(found[0]["named"], "bob");
    }
}
