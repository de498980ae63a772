//! `grants`, `grant` and `revoke`: what keys of local clients may do (our own methods).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use serde_json::Value;

use super::{METHODS, Request};
use crate::authorize::{Grant, Methods};

/// `grants()`: an object from keys to lists of patterns.
pub(super) async fn grants(request: Request) -> Result<Body, RemoteError> {
    let grants = request.ctx.access.grants();
    let shown: BTreeMap<_, _> = grants.all().iter().map(|(key, grant)| (key, &grant.patterns)).collect();
    Ok(Body::json(&shown))
}

/// `grant(key, patterns)`: from its next session on the key may call these and no others beside those that everybody
/// may.
pub(super) async fn grant(request: Request) -> Result<Body, RemoteError> {
    let patterns = request.args.at(1).and_then(Value::as_array);
    let patterns = patterns.ok_or_else(|| RemoteError::new("expected a list of methods to allow"))?;
    let mut allowed = BTreeSet::new();
    for pattern in patterns {
        let pattern = pattern.as_str().ok_or_else(|| RemoteError::new(format!("not a method: {pattern}")))?;
        if matching(pattern).next().is_none() {
            return Err(RemoteError::new(format!("there is no method {pattern}: see `manifest`")));
        }
        allowed.insert(pattern.to_owned());
    }
    if allowed.is_empty() {
        return Err(RemoteError::new("expected at least one method to allow"));
    }
    change(&request, Some(allowed)).await
}

/// `revoke(key)`: the key may do no more than anybody, at once.
pub(super) async fn revoke(request: Request) -> Result<Body, RemoteError> {
    change(&request, None).await
}

async fn change(request: &Request, allowed: Option<BTreeSet<String>>) -> Result<Body, RemoteError> {
    let key = PublicKey::from_bytes(request.args.feed(0)?.to_bytes());
    let ctx = &request.ctx;
    let grant = allowed.map(|patterns| Grant { methods: methods_of(&patterns), patterns });
    let (access, wanted) = (Arc::clone(&ctx.access), grant.clone());
    let before = ctx.read(move || access.change_grant(key, wanted)).await;
    let before = before.map_err(|error| RemoteError::new(error.to_string()))?;
    if before.is_some() && before != grant {
        // What it was allowed lasts as long as its sessions.
        ctx.engine.disconnect(key).await?;
    }
    Ok(Body::json(&true))
}

/// The methods that these patterns name.
pub fn methods_of(patterns: &BTreeSet<String>) -> Methods {
    let mut methods = Methods::default();
    patterns.iter().flat_map(|pattern| matching(pattern)).for_each(|place| methods.insert(place));
    methods
}

/// The places in the table of the methods that a pattern names.
fn matching(pattern: &str) -> impl Iterator<Item = usize> {
    let names = METHODS.iter().enumerate().filter(move |(_, method)| match pattern.strip_suffix('*') {
        Some(group) if group.ends_with('.') => method.name.starts_with(group),
        Some(_) | None => method.name == pattern,
    });
    names.map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_names_a_method_or_a_group() {
        let names = |pattern: &str| matching(pattern).map(|place| METHODS[place].name).collect::<Vec<_>>();
        assert_eq!(names("publish"), ["publish"]);
        let blobs = names("blobs.*");
        assert!(blobs.contains(&"blobs.add") && blobs.iter().all(|name| name.starts_with("blobs.")));
        for nothing in ["", "*", ".*", "blobs", "blobs*", "pub*", "blobs.add.*"] {
            assert!(names(nothing).is_empty(), "{nothing:?}");
        }
    }
}
