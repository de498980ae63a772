//! How far each feed is, and single messages of one (ssb-db, ssb-replicate).

use hawsepipe_overlay::conn::StreamTx;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::refs::FeedId;
use serde_json::{Value, json};

use super::Request;
use super::log::not_found;
use super::streams::{failed, item};
use crate::query::from_number;

/// `latest()`: of each feed the newest sequence and its claimed time.
pub(super) async fn latest(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let reader = request.ctx.reader.clone();
    for (feed, sequence) in request.ctx.read(move || reader.clock()).await {
        let reader = request.ctx.reader.clone();
        let stored = request.ctx.read(move || reader.at(&feed, sequence)).await.map_err(failed)?;
        let claimed = stored.map(|stored| from_number(stored.message.timestamp()));
        if tx.send(Body::json(&json!({ "id": feed, "sequence": sequence, "ts": claimed }))).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// `getFeedState(feed)`: id and sequence of the newest message; `null` and 0 if there is none.
pub(super) async fn state(request: Request) -> Result<Body, RemoteError> {
    let tip = request.ctx.reader.tip(&request.args.feed(0)?);
    let (id, sequence) = tip.map_or((Value::Null, 0), |tip| (tip.id.to_string().into(), tip.sequence));
    Ok(Body::json(&json!({ "id": id, "sequence": sequence })))
}

/// `getAtSequence([feed, sequence])` or `("feed:sequence")`.
pub(super) async fn at_sequence(request: Request) -> Result<Body, RemoteError> {
    let place = request.args.at(0).and_then(place);
    let (feed, sequence) =
        place.ok_or_else(|| RemoteError::new("expected [feed, sequence] or \"feed:sequence\""))?;
    let reader = request.ctx.reader.clone();
    let stored = request.ctx.read(move || reader.at(&feed, sequence)).await.map_err(failed)?;
    let missing = || not_found(format!("feed {feed} has no message {sequence} here"));
    stored.map(|stored| item(&stored, true, true)).ok_or_else(missing)
}

fn place(value: &Value) -> Option<(FeedId, u64)> {
    if let Some(text) = value.as_str() {
        let (feed, sequence) = text.rsplit_once(':')?;
        return Some((feed.parse().ok()?, sequence.parse().ok()?));
    }
    let [feed, sequence] = value.as_array()?.as_slice() else { return None };
    let sequence = sequence.as_u64().or_else(|| sequence.as_str()?.parse().ok())?;
    Some((feed.as_str()?.parse().ok()?, sequence))
}

/// `replicate.upto({live})`: each feed's newest sequence, then each that grows.
pub(super) async fn upto(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let live = request.args.options().flag("live", false);
    let mut tail = request.ctx.tail.log();
    tail.borrow_and_update();
    let mut before = std::collections::BTreeMap::new();
    loop {
        let reader = request.ctx.reader.clone();
        let now = request.ctx.read(move || reader.clock()).await;
        for (feed, sequence) in now.iter().filter(|(feed, sequence)| before.get(*feed) != Some(*sequence)) {
            if tx.send(Body::json(&json!({ "id": feed, "sequence": sequence }))).await.is_err() {
                return Ok(());
            }
        }
        before = now;
        if !live || tail.changed().await.is_err() {
            return Ok(());
        }
        tail.borrow_and_update();
    }
}

/// `replicate.changes()`: how far replication is, and again whenever that has changed (ssb-replicate).
pub(super) async fn changes(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let mut tail = request.ctx.tail.log();
    let mut before = None;
    loop {
        tail.borrow_and_update();
        let status = request.ctx.engine.status().await?;
        let now = (status.replicating, status.progress);
        if before.as_ref() != Some(&now) {
            let (have, want) = now.1;
            let item = json!({ "id": request.ctx.own, "feeds": now.0, "progress": have, "total": want });
            if tx.send(Body::json(&item)).await.is_err() {
                return Ok(());
            }
            before = Some(now);
        }
        if tail.changed().await.is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_pair_or_a_text() {
        let id = "@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=.ed25519";
        let expected = Some((id.parse().unwrap(), 7));
        for written in [json!([id, 7]), json!([id, "7"]), json!(format!("{id}:7"))] {
            assert_eq!(place(&written), expected, "{written}");
        }
        for wrong in [json!(id), json!([id]), json!([id, -1]), json!({}), json!(format!("{id}:x"))] {
            assert_eq!(place(&wrong), None, "{wrong}");
        }
    }
}
