//! Subsets of all messages by author and type: the languages `ssb-ql-0` and `ssb-ql-1` of ssb-subset-ql, in which
//! peers ask for parts of feeds with `getSubset`.
//!
//! [`Query::run`] goes through the smallest index that has everything that is asked for, and looks at each message. How
//! many it looks at is the caller's to bound: [`Looked`] tells of each.

use std::iter::Peekable;

use serde_json::Value;

use crate::message::{Content, Message};
use crate::refs::FeedId;
use crate::store::{Order, ReadError, Reader, Stored};

/// Conditions of one query.
pub const MAX_CONDITIONS: usize = 64;
/// How deep they nest.
const MAX_DEPTH: usize = 8;

/// The language of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// `{"author":FEED,"type":TYPE,"private":false}`
    Ql0,
    /// `{"op":"and"|"or","args":[…]}`, `{"op":"type","string":TYPE}`, `{"op":"author","feed":FEED}`
    Ql1,
}

/// Which messages are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// Those that all of these want.
    And(Vec<Self>),
    /// Those that one of these wants.
    Or(Vec<Self>),
    /// Public messages of a type.
    Type(String),
    /// Messages of a feed; of none that we can have if it is not of the classic format.
    Author(Option<FeedId>),
}

/// Why a query is refused; texts are JavaScript's where it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Neither an object nor JSON of one.
    #[error("query should be a string or an object")]
    Form,
    /// A part without `op`.
    #[error("query is missing \"op\" field {0}")]
    NoOp(String),
    /// An `op` that nobody knows.
    #[error("Unknown \"op\" field: {0}")]
    UnknownOp(String),
    /// `and` or `or` of something else than a list.
    #[error("\"args\" field must be an array: {0}")]
    Args(String),
    /// A field that is missing or not what it should be.
    #[error("query \"{field}\" is missing or wrong: {query}")]
    Field {
        /// Which.
        field: &'static str,
        /// Of what.
        query: String,
    },
    /// Private messages are nobody's business.
    #[error("getSubset does not support private query: {0}")]
    Private(String),
    /// More than anybody needs.
    #[error("the query has more than {MAX_CONDITIONS} conditions, or is nested too deeply")]
    TooLarge,
}

impl Query {
    /// Reads a query: an object, or its JSON as text.
    pub fn parse(query: &Value, language: Language) -> Result<Self, QueryError> {
        let parsed = match query.as_str() {
            Some(text) => serde_json::from_str(text).map_err(|_| QueryError::Form)?,
            None => query.clone(),
        };
        if !parsed.is_object() {
            return Err(QueryError::Form);
        }
        match language {
            Language::Ql0 => Self::parse_ql0(&parsed),
            Language::Ql1 => Self::parse_ql1(&parsed, 0, &mut 0),
        }
    }

    fn parse_ql0(query: &Value) -> Result<Self, QueryError> {
        let wrong = |field| QueryError::Field { field, query: query.to_string() };
        let author = query.get("author").and_then(Value::as_str).ok_or_else(|| wrong("author"))?;
        let author = author.parse().map_err(|_| wrong("author"))?;
        match query.get("private").and_then(Value::as_bool) {
            Some(false) => {}
            Some(true) => return Err(QueryError::Private(query.to_string())),
            None => return Err(wrong("private")),
        }
        let kind = query.get("type").and_then(Value::as_str).ok_or_else(|| wrong("type"))?;
        Ok(Self::And(vec![Self::Author(Some(author)), Self::Type(kind.to_owned())]))
    }

    fn parse_ql1(query: &Value, depth: usize, conditions: &mut usize) -> Result<Self, QueryError> {
        *conditions += 1;
        if *conditions > MAX_CONDITIONS || depth > MAX_DEPTH {
            return Err(QueryError::TooLarge);
        }
        let text = |field: &'static str| {
            let text = query.get(field).and_then(Value::as_str);
            text.ok_or_else(|| QueryError::Field { field, query: query.to_string() })
        };
        let op = query.get("op").and_then(Value::as_str);
        match op.ok_or_else(|| QueryError::NoOp(query.to_string()))? {
            "type" => text("string").map(|kind| Self::Type(kind.to_owned())),
            "author" => text("feed").map(|feed| Self::Author(feed.parse().ok())),
            op @ ("and" | "or") => {
                let args = query.get("args").and_then(Value::as_array).filter(|args| !args.is_empty());
                let args = args.ok_or_else(|| QueryError::Args(query.to_string()))?;
                let args = args.iter().map(|arg| Self::parse_ql1(arg, depth + 1, conditions));
                let args = args.collect::<Result<_, _>>()?;
                Ok(if op == "and" { Self::And(args) } else { Self::Or(args) })
            }
            op => Err(QueryError::UnknownOp(op.to_owned())),
        }
    }

    /// Whether a message is wanted.
    pub fn matches(&self, message: &Message) -> bool {
        match self {
            Self::And(args) => args.iter().all(|arg| arg.matches(message)),
            Self::Or(args) => args.iter().any(|arg| arg.matches(message)),
            Self::Author(author) => *author == Some(message.author()),
            Self::Type(wanted) => match message.content() {
                Content::Object { kind, .. } => kind == wanted.as_str(),
                Content::Encrypted(_) => false,
            },
        }
    }

    /// Looks through the store.
    pub fn run(self, reader: &Reader, order: Order) -> Subset {
        Subset { messages: self.candidates(reader, order), query: self }
    }

    /// Messages among which are all that are wanted, in the order of reception.
    fn candidates(&self, reader: &Reader, order: Order) -> Candidates {
        match self {
            Self::Author(Some(author)) => Box::new(reader.feed_range(author, .., order)),
            Self::Author(None) => Box::new(std::iter::empty()),
            Self::Type(kind) => Box::new(reader.by_type(kind, .., order)),
            Self::And(args) => match args.iter().min_by_key(|arg| arg.cost(reader)) {
                Some(least) => least.candidates(reader, order),
                None => Box::new(std::iter::empty()),
            },
            Self::Or(args) => {
                let sources = args.iter().map(|arg| arg.candidates(reader, order).peekable()).collect();
                Box::new(Merged { sources, order })
            }
        }
    }

    /// About how many messages [`Query::candidates`] gives.
    fn cost(&self, reader: &Reader) -> u64 {
        match self {
            Self::Author(Some(author)) => reader.tip(author).map_or(0, |tip| tip.sequence),
            Self::Author(None) => 0,
            // What share of all messages a type has is not known.
            Self::Type(_) => reader.len(),
            Self::And(args) => args.iter().map(|arg| arg.cost(reader)).min().unwrap_or(0),
            Self::Or(args) => args.iter().map(|arg| arg.cost(reader)).fold(0, u64::saturating_add),
        }
    }
}

type Candidates = Box<dyn Iterator<Item = Result<Stored, ReadError>> + Send>;

/// What a message that was looked at is.
#[derive(Debug)]
pub enum Looked {
    /// One that is wanted.
    Wanted(Stored),
    /// Another one.
    Other,
}

/// The messages that a query looks at.
pub struct Subset {
    query: Query,
    messages: Candidates,
}

impl std::fmt::Debug for Subset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subset").field("query", &self.query).finish_non_exhaustive()
    }
}

impl Iterator for Subset {
    type Item = Result<Looked, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let stored = match self.messages.next()? {
            Ok(stored) => stored,
            Err(error) => return Some(Err(error)),
        };
        Some(Ok(if self.query.matches(&stored.message) { Looked::Wanted(stored) } else { Looked::Other }))
    }
}

/// Several streams of messages as one, each message once.
struct Merged {
    sources: Vec<Peekable<Candidates>>,
    order: Order,
}

impl Iterator for Merged {
    type Item = Result<Stored, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut next: Option<u64> = None;
        for source in &mut self.sources {
            let offset = match source.peek() {
                Some(Ok(stored)) => stored.offset,
                Some(Err(_)) => return source.next(),
                None => continue,
            };
            next = Some(match (next, self.order) {
                (None, _) => offset,
                (Some(other), Order::Ascending) => other.min(offset),
                (Some(other), Order::Descending) => other.max(offset),
            });
        }
        let next = next?;
        let is_next = |found: &Result<Stored, ReadError>| found.as_ref().is_ok_and(|s| s.offset == next);
        let found = self.sources.iter_mut().filter_map(|source| source.next_if(is_next));
        // All of them, so that none gives it again.
        found.collect::<Vec<_>>().pop()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use ssb_crypto::Keypair;

    use super::*;
    use crate::message::{Tip, sign};
    use crate::store::{Options, Store};

    fn ql1(query: Value) -> Result<Query, QueryError> {
        Query::parse(&query, Language::Ql1)
    }

    #[test]
    fn queries_are_read_as_javascript_reads_them_and_refused_in_its_words() {
        let author = FeedId::from_bytes([1; 32]);
        let query = json!({"op": "and", "args": [
            {"op": "author", "feed": author}, {"op": "or", "args": [{"op": "type", "string": "post"}]}
        ]});
        let read = ql1(query.clone()).unwrap();
        let post = || Query::Type("post".to_owned());
        assert_eq!(read, Query::And(vec![Query::Author(Some(author)), Query::Or(vec![post()])]));
        assert_eq!(ql1(Value::from(query.to_string())), Ok(read), "as text too");
        let said = |query| ql1(query).unwrap_err().to_string();
        assert_eq!(said(json!({})), "query is missing \"op\" field {}");
        assert_eq!(said(json!({"op": "not"})), "Unknown \"op\" field: not");
        assert!(said(json!({"op": "and", "args": 7})).starts_with("\"args\" field must be an array"));
        assert_eq!(said(json!(7)), "query should be a string or an object");
        let many: Vec<Value> = (0..MAX_CONDITIONS).map(|_| json!({"op": "type", "string": "post"})).collect();
        assert_eq!(ql1(json!({"op": "or", "args": many})), Err(QueryError::TooLarge));
        let ql0 = |query| Query::parse(&query, Language::Ql0);
        let both = Query::And(vec![Query::Author(Some(author)), post()]);
        assert_eq!(ql0(json!({"author": author, "type": "post", "private": false})), Ok(both));
        let private = ql0(json!({"author": author, "type": null, "private": true}));
        assert!(matches!(private, Err(QueryError::Private(_))));
        assert!(ql0(json!({"author": "@x", "type": "post", "private": false})).is_err());
    }

    #[test]
    fn what_is_found_is_what_matches_each_once_and_in_order() {
        ssb_crypto::sodium::init().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, reader) = Store::open(dir.path(), &Options::default(), &mut |_, _| {}).unwrap();
        let keypairs: Vec<Keypair> = (1..=3).map(|n| Keypair::from_seed(&[n; 32]).unwrap()).collect();
        let mut tips: Vec<Option<Tip>> = vec![None; 3];
        let mut all = Vec::new();
        for n in 0..30 {
            let kind = ["post", "vote", "about"][n / 3 % 3];
            let content = match n {
                7 => r#""c2VjcmV0.box""#.to_owned(),
                _ => format!(r#"{{"type":"{kind}","n":{n}}}"#),
            };
            let message =
                sign(&keypairs[n % 3], None, tips[n % 3].as_ref(), 1.0, content.as_bytes()).unwrap();
            tips[n % 3] = Some(message.tip());
            all.push(message);
        }
        writer.commit(all.clone(), 1.0).unwrap();
        let author = |n: usize| json!({"op": "author", "feed": FeedId::from_bytes(keypairs[n].public.0)});
        let kind = |kind: &str| json!({"op": "type", "string": kind});
        let queries = [
            author(0),
            kind("post"),
            json!({"op": "and", "args": [kind("post"), author(1)]}),
            json!({"op": "or", "args": [kind("vote"), author(1), author(1)]}),
            json!({"op": "and", "args": [
                {"op": "or", "args": [author(0), author(2)]}, {"op": "or", "args": [kind("post"), kind("vote")]}
            ]}),
            json!({"op": "author", "feed": "ssb:feed/bendybutt-v1/x"}),
        ];
        for query in queries {
            let query = ql1(query).unwrap();
            let mut expected: Vec<_> = all.iter().filter(|m| query.matches(m)).map(Message::id).collect();
            for order in [Order::Ascending, Order::Descending] {
                let found = query.clone().run(&reader, order).filter_map(|looked| match looked.unwrap() {
                    Looked::Wanted(stored) => Some(stored.message.id()),
                    Looked::Other => None,
                });
                assert_eq!(found.collect::<Vec<_>>(), expected, "{query:?}");
                expected.reverse();
            }
        }
        let both = ql1(json!({"op": "and", "args": [kind("post"), author(1)]})).unwrap();
        assert_eq!(both.run(&reader, Order::Ascending).count(), 10, "the smaller index is gone through");
    }
}
