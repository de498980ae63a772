//! What this node is and does: `manifest`, `whoami`, `version`, `address`, `status`, `doctor`,
//! `progress`.

use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::refs::FeedId;
use serde_json::{Value, json};

use super::Request;
use crate::context::log_end;
use crate::fork_guard::Wait;
use crate::reachability::{self, doctor};
use crate::telemetry;

pub(super) async fn manifest(_request: Request) -> Result<Body, RemoteError> {
    Ok(Body::json(&super::manifest()))
}

pub(super) async fn whoami(request: Request) -> Result<Body, RemoteError> {
    Ok(Body::json(&json!({ "id": request.ctx.own })))
}

pub(super) async fn version(_request: Request) -> Result<Body, RemoteError> {
    Ok(Body::text(env!("CARGO_PKG_VERSION")))
}

/// `logging.level(level)`: what is logged from now on, until restart.
pub(super) async fn log_level(request: Request) -> Result<Body, RemoteError> {
    let text = request.args.text(0).unwrap_or_default();
    let filter = telemetry::filter(text).ok_or_else(|| {
        RemoteError::new(format!(
            "no level: {text:?}; expected error, warning, notice, info, debug or a tracing filter"
        ))
    })?;
    telemetry::set_filter(&filter).map_err(RemoteError::new)?;
    tracing::info!(%filter, "the log level was changed");
    Ok(Body::json(&true))
}

/// `auth(feed)`: what a session with that key may do, in the words of secret-stack: all, or `false` for the list that
/// everyone has.
pub(super) async fn auth(request: Request) -> Result<Body, RemoteError> {
    let ctx = &request.ctx;
    let key = PublicKey::from_bytes(*request.args.feed(0)?.as_bytes());
    if key == ctx.own_key || ctx.config.master.contains(&key) {
        return Ok(Body::json(&json!({ "allow": null, "deny": null })));
    }
    if ctx.graph().is_blocking(&ctx.own, &FeedId::from_bytes(key.to_bytes())) {
        return Err(RemoteError::new("client is blocked"));
    }
    Ok(Body::void())
}

/// `rebuild()`: answers when every index has everything that is in the log. They advance with it, so that is soon;
/// damaged ones are made anew at a start, or by `hawsepipe check --repair`.
pub(super) async fn rebuild(request: Request) -> Result<Body, RemoteError> {
    request.ctx.private.caught_up(&request.ctx.reader).await;
    Ok(Body::void())
}

/// `address(scope)`: all addresses of that scope in one multiserver string, as JS gives them.
pub(super) async fn address(request: Request) -> Result<Body, RemoteError> {
    let scope = match request.args.at(0) {
        None => "device",
        // What is no text is no scope either.
        Some(scope) => scope.as_str().unwrap_or_default(),
    };
    let addresses = request.ctx.addresses(scope);
    if addresses.is_empty() {
        // JS answers `null` to a scope without addresses.
        return Ok(Body::json(&Value::Null));
    }
    Ok(Body::text(addresses.join(";")))
}

/// `progress`: every entry has `start`, `current` and `target`; clients draw a bar while they differ.
pub(super) async fn progress(request: Request) -> Result<Body, RemoteError> {
    let (have, want) = request.ctx.engine.status().await?.progress;
    Ok(Body::json(&progress_value(&request, have, want)))
}

fn progress_value(request: &Request, have: u64, want: u64) -> Value {
    // Indexes advance with each commit, so a client that can ask finds them complete.
    let stored = request.ctx.reader.bytes();
    // Full-text search follows the log by itself.
    let (searched, end) = (request.ctx.search.covered(), log_end(&request.ctx.reader));
    json!({
        "indexes": {"start": 0, "current": stored, "target": stored},
        "ebt": {"start": 0, "current": have, "target": want},
        "search": {"start": 0, "current": searched.min(end), "target": end},
    })
}

/// `status`: JS's `progress`, `db` and `sync`, and what else an operator asks first.
pub(super) async fn status(request: Request) -> Result<Body, RemoteError> {
    let engine = request.ctx.engine.status().await?;
    let (have, want) = engine.progress;
    let reader = &request.ctx.reader;
    let (since, searched) = (reader.bytes(), request.ctx.search.covered());
    Ok(Body::json(&json!({
        "progress": progress_value(&request, have, want),
        "db": {"messages": reader.len(), "feeds": reader.feeds(), "bytes": reader.bytes(), "forks": request.ctx.forks.len()},
        "sync": {"since": since, "plugins": {"search": searched}, "sync": searched >= log_end(reader)},
        "id": request.ctx.own,
        "publishing": publishing(request.ctx.guard.check()),
        "replicating": engine.replicating,
        "sessions": engine.sessions,
        "peers": engine.known_peers,
        "addresses": request.ctx.addresses("device"),
        "reachability": reachability::to_json(&engine.facts.report),
        "dht": reachability::dht_to_json(engine.facts.dht.as_ref()),
    })))
}

/// Whether messages may be published, and if not, why.
fn publishing(verdict: Result<(), Wait>) -> Value {
    match verdict {
        Ok(()) => json!({ "allowed": true }),
        Err(wait) => json!({
            "allowed": false, "why": wait.to_string(), "held": wait.held, "claimed": wait.claimed, "asked": wait.asked, "knowing": wait.knowing,
        }),
    }
}

/// `doctor`: how others reach this node, in words for people.
pub(super) async fn doctor(request: Request) -> Result<Body, RemoteError> {
    let engine = request.ctx.engine.status().await?;
    let doctor::Diagnosis { mut lines, mut healthy } = doctor::diagnose(&engine.facts);
    if let Err(wait) = request.ctx.guard.check() {
        lines.push(wait.to_string());
        healthy = false;
    }
    Ok(Body::json(&json!({ "healthy": healthy, "lines": lines })))
}
