//! Options of streams. What is left out is left to the node.

use hawsepipe_replication::refs::FeedId;
use serde::Serialize;

/// Which messages a stream gives, and in which order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StreamOptions {
    /// Go on with new messages when those that are there are through.
    pub live: bool,
    /// Newest first.
    pub reverse: bool,
    /// Show sealed messages that the node can read opened.
    pub private: bool,
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// `false`: none of those that are there; only with `live`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<bool>,
    /// Only what is above; of what, says the method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gt: Option<f64>,
    /// Only what is this or above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gte: Option<f64>,
    /// Only what is below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lt: Option<f64>,
    /// Only what is this or below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lte: Option<f64>,
}

/// Which messages of a feed `history` gives.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HistoryOptions {
    /// From this place on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Go on with new messages when those that are there are through.
    pub live: bool,
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// Which links `links` gives; each narrows it down.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LinksOptions {
    /// Whose messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<FeedId>,
    /// What they name; a lone sigil (`@`, `%`, `&`) stands for all of its kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dest: Option<String>,
    /// As what they name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rel: Option<String>,
    /// Go on with new links when those that are there are through.
    pub live: bool,
    /// In reverse order.
    pub reverse: bool,
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// How `query` gives what it finds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct QueryOptions {
    /// Newest first.
    pub reverse: bool,
    /// Go on with new messages when those that are there are through.
    pub live: bool,
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}
