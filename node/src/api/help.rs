//! `help` and `GROUP.help`: what can be called, in the form of muxrpc-usage, which ssb-server's command line and others
//! print. All of it follows from the table of methods.

use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use serde_json::{Map, Value, json};

use super::{METHODS, Method, Request};

/// `help()`: the methods that are in no group.
pub(super) async fn help(_: Request) -> Result<Body, RemoteError> {
    Ok(Body::json(&described("", "append only-log database for secure-scuttlebutt")))
}

/// `blobs.help()`.
pub(super) async fn blobs(_: Request) -> Result<Body, RemoteError> {
    Ok(Body::json(&described("blobs.", "retrieve, store, and share blobs")))
}

/// `friends.help()`.
pub(super) async fn friends(_: Request) -> Result<Body, RemoteError> {
    Ok(Body::json(&described("friends.", "track what feeds are following or blocking each other")))
}

/// `gossip.help()`.
pub(super) async fn gossip(_: Request) -> Result<Body, RemoteError> {
    Ok(Body::json(&described("gossip.", "peers that are known, and sessions with them")))
}

/// `links2.help()`.
pub(super) async fn links2(_: Request) -> Result<Body, RemoteError> {
    Ok(Body::json(&described("links2.", "query messages that link to other messages or feeds")))
}

/// `ooo.help()`.
pub(super) async fn ooo(_: Request) -> Result<Body, RemoteError> {
    Ok(Body::json(&described(
        "ooo.",
        "gossip ssb messages without replicating the entire feed, aka \"Out of Order\"",
    )))
}

/// `query.help()`.
pub(super) async fn query(_: Request) -> Result<Body, RemoteError> {
    Ok(Body::json(&described("query.", "query ssb database with map-filter-reduce queries")))
}

/// The methods of one group; `group` ends with its dot.
fn described(group: &str, description: &str) -> Value {
    let methods = METHODS.iter().filter_map(|method| Some((method.name.strip_prefix(group)?, method)));
    let direct = methods.filter(|(name, _)| !name.contains('.'));
    let describe = |(name, method): (&str, &Method)| {
        let args = arguments(method.usage);
        (name.to_owned(), json!({ "type": method.kind.name(), "description": method.summary, "args": args }))
    };
    let commands: Map<_, _> = direct.map(describe).collect();
    json!({ "description": description, "commands": commands })
}

/// The arguments that a usage names: `ID [{nowait}]` are `id` and, optional, `nowait`.
fn arguments(usage: &str) -> Map<String, Value> {
    let mut arguments = Map::new();
    let mut optional = 0_usize;
    for word in usage.split_inclusive(|c: char| !c.is_alphanumeric()) {
        let (name, mark) = match word.char_indices().next_back() {
            Some((at, mark)) if !mark.is_alphanumeric() => (&word[..at], Some(mark)),
            _ => (word, None),
        };
        // Words in capitals stand for one argument, others are members of an object. Quoted and numbers are values.
        let is_name = name.starts_with(char::is_alphabetic) && mark != Some('"');
        if is_name {
            let capitals = name.chars().all(|c| !c.is_lowercase());
            let key = if capitals { name.to_lowercase() } else { name.to_owned() };
            let about = json!({ "type": "any", "optional": optional > 0, "description": "" });
            arguments.entry(key).or_insert(about);
        }
        match mark {
            Some('[') => optional += 1,
            Some(']') => optional = optional.saturating_sub(1),
            _ => {}
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_from_the_usage() {
        let names = |usage| {
            let read = arguments(usage);
            let shown = read
                .iter()
                .map(|(name, about)| format!("{name}{}", if about["optional"] == true { "?" } else { "" }));
            shown.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(""), "");
        assert_eq!(names("ID [{nowait}]"), "id nowait?");
        assert_eq!(names("ID | {id, size, max}"), "id size max");
        assert_eq!(names("{version: 3, format: \"classic\"}"), "version format");
        assert_eq!(names("[SCOPE]"), "scope?");
        assert_eq!(names("{query, …}"), "query");
    }

    #[test]
    fn groups_have_their_own_methods_and_no_deeper_ones() {
        let core = described("", "");
        assert_eq!(core["commands"]["whoami"]["type"], "sync");
        assert!(core["commands"].get("blobs").is_none() && core["commands"].get("blobs.get").is_none());
        assert_eq!(described("blobs.", "")["commands"]["get"]["type"], "source");
    }
}
