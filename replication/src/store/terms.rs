//! What a message can be found by besides its id, author and time.
//!
//! A pure function of the message; raise [`VERSION`] with any change, and every index is made again.

use sha2::{Digest, Sha256};

use crate::message::{Content, Message, links};
use crate::refs::FeedId;

/// The version of what [`index_terms`] says.
pub(crate) const VERSION: u32 = 3;

/// Something that messages are found by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Term {
    /// The content has this type.
    Type(String),
    /// The content's `contact` is a feed, whatever the type: an edge of the social graph.
    Contact,
    /// The content names this somewhere: a feed, a message, a blob, or a channel as `#name`.
    Link(String),
    /// The content names a channel somewhere.
    Hashtag,
}

impl Term {
    /// Eight bytes that stand for the term in the index. Different terms may share them, so whoever
    /// looks up a term compares it with what the message really says.
    pub(crate) fn fingerprint(&self) -> u64 {
        let (kind, text): (u8, &[u8]) = match self {
            Self::Type(name) => (1, name.as_bytes()),
            Self::Contact => (2, &[]),
            Self::Link(dest) => (3, dest.as_bytes()),
            Self::Hashtag => (4, &[]),
        };
        let mut hasher = Sha256::new();
        hasher.update([kind]);
        hasher.update(text);
        let hash: [u8; 32] = hasher.finalize().into();
        let (first, _) = hash.split_at(8);
        first.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// Whether it is one of a message's [`index_terms`], without finding the others.
    pub(crate) fn is_in(&self, message: &Message) -> bool {
        if message.is_erased() {
            return false;
        }
        let content = message.content();
        let Content::Object { kind, .. } = &content else { return false };
        let names = |is_meant: &dyn Fn(&String) -> bool| links(message.content_json()).iter().any(is_meant);
        match self {
            Self::Type(name) => kind == name,
            Self::Contact => message.has_contact() && names_contact(&content),
            Self::Link(dest) => names(&|link| link == dest),
            Self::Hashtag => names(&|link| link.starts_with('#')),
        }
    }
}

/// Everything a message is found by. Encrypted and erased contents have no terms.
pub fn index_terms(message: &Message) -> Vec<Term> {
    let content = message.content();
    let mut terms = Vec::new();
    if message.is_erased() {
        return terms;
    }
    if message.has_contact() && names_contact(&content) {
        terms.push(Term::Contact);
    }
    if let Content::Object { kind, .. } = content {
        let links = links(message.content_json());
        if links.iter().any(|link| link.starts_with('#')) {
            terms.push(Term::Hashtag);
        }
        terms.extend(links.into_iter().map(Term::Link));
        terms.push(Term::Type(kind.into_owned()));
    }
    terms
}

/// Whether a content's `contact` is a feed id. A feed id is written without any escape.
fn names_contact(content: &Content<'_>) -> bool {
    let quoted = content.member("contact");
    let text = quoted.and_then(|text| text.strip_prefix('"')).and_then(|text| text.strip_suffix('"'));
    text.is_some_and(|text| text.parse::<FeedId>().is_ok())
}
