//! `ooo.*` (ssb-ooo) and `getSubset` (ssb-subset-rpc; go-ssb calls it `partialReplication.getSubset`): single messages and
//! parts of feeds, outside of the replication of whole ones.

use std::time::Duration;

use hawsepipe_overlay::conn::{Stream, StreamTx};
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::muxrpc::{Body, CallKind, RemoteError};
use hawsepipe_replication::message::{Message, validate_out_of_order};
use hawsepipe_replication::ooo::Fetched;
use hawsepipe_replication::refs::FeedId;
use hawsepipe_replication::store::{Order, ReadError, Stored};
use hawsepipe_replication::subset::{Language, Looked, Query, Subset};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Request;
use super::streams::{failed, item};
use crate::authorize::Rights;
use crate::context::Context;
use crate::ooo;

/// How long `ooo.get` and `get` wait for peers, in milliseconds (ssb-ooo).
const PATIENCE: f64 = 5000.0;
/// ... and at most.
const MOST_PATIENCE: f64 = 600_000.0;
/// Messages that a peer's `getSubset` looks at; our own clients may look at all.
const LOOKED_AT: usize = 100_000;
/// Messages that are looked at in one go.
const CHUNK: usize = 256;
/// Messages that are taken of one answer to `getSubset`.
const TAKEN: usize = 10_000;

/// `ooo.stream()`
pub(super) async fn stream(request: Request, stream: Stream) {
    ooo::converse(&request.ctx, request.peer, stream).await;
}

/// `ooo.get(id | {id, timeout})`: with key, timestamp and `ooo`.
pub(super) async fn get(request: Request) -> Result<Body, RemoteError> {
    let id = request.args.message(0)?;
    let typed = request.args.options().number("timeout").filter(|ms| *ms > 0.0);
    let patience = typed.unwrap_or(PATIENCE).min(MOST_PATIENCE);
    let ctx = &request.ctx;
    let reader = ctx.reader.clone();
    if let Some(stored) = ctx.read(move || reader.get(&id)).await.map_err(failed)? {
        return Ok(marked(&Fetched { message: stored.message, received: stored.received }));
    }
    let fetched = ctx.ooo.fetch(ctx, id, Duration::from_secs_f64(patience / 1000.0)).await;
    let late = || RemoteError::new(format!("ooo.get: took more than timeout:{patience}"));
    fetched.map(|fetched| marked(&fetched)).ok_or_else(late)
}

/// What `get({id, ooo: true})` answers for a message that is not in the log.
pub(super) async fn instead(request: &Request, meta: bool) -> Option<Body> {
    let id = request.args.message(0).ok()?;
    let ctx = &request.ctx;
    let fetched = ctx.ooo.fetch(ctx, id, Duration::from_secs_f64(PATIENCE / 1000.0)).await?;
    Some(if meta { marked(&fetched) } else { Body::json_raw(fetched.message.value_bytes().clone()) })
}

fn marked(fetched: &Fetched) -> Body {
    let mut json = fetched.message.key_value_timestamp(fetched.received);
    json.pop();
    json.extend_from_slice(b",\"ooo\":true}");
    Body::json_raw(json)
}

/// `getSubset(query, {querylang, descending, pageSize, startFrom})`: bare messages.
pub(super) async fn subset(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let options = request.args.at(1);
    let language = match options.and_then(|options| options.get("querylang")).and_then(Value::as_str) {
        Some("ssb-ql-0") => Language::Ql0,
        Some("ssb-ql-1") => Language::Ql1,
        Some(other) => return Err(RemoteError::new(format!("Unknown querylang: {other}"))),
        None => return Err(RemoteError::new("getSubset() is missing opts.querylang")),
    };
    serve(request, language, tx).await
}

/// `partialReplication.getSubset(query, {keys, descending, pageLimit})`
pub(super) async fn partial(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    serve(request, Language::Ql1, tx).await
}

async fn serve(request: Request, language: Language, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let query = request.args.at(0).ok_or_else(|| RemoteError::new("query should be truthy: undefined"))?;
    let query = Query::parse(query, language).map_err(|error| RemoteError::new(error.to_string()))?;
    let option = |name: &str| request.args.at(1).and_then(|options| options.get(name));
    let flag = |name| option(name).and_then(Value::as_bool).unwrap_or(false);
    let number = |name| option(name).and_then(Value::as_f64).filter(|n| *n >= 0.0).map(|n| n as usize);
    let order = if flag("descending") { Order::Descending } else { Order::Ascending };
    let (keys, mut skip) = (flag("keys"), number("startFrom").unwrap_or(0));
    let limit = number("pageSize").or_else(|| number("pageLimit")).filter(|limit| *limit > 0);
    let mut left = limit.unwrap_or(usize::MAX);
    let (ctx, caller) = (&request.ctx, caller(&request));
    let reader = ctx.reader.clone();
    let mut rest = ctx.read(move || query.run(&reader, order)).await;
    let may_look = if request.rights == Rights::Master { usize::MAX } else { LOOKED_AT };
    let mut looked = 0;
    loop {
        // Held until what is read is on its way. The semaphore is never closed.
        let _turn = request.reads.acquire().await;
        let (chunk, back) = ctx.read(move || look(rest)).await;
        rest = back;
        looked += chunk.looked;
        for stored in chunk.wanted.map_err(failed)? {
            let is_blocked =
                caller.is_some_and(|caller| ctx.graph().is_blocking(&stored.message.author(), &caller));
            if is_blocked {
                continue;
            }
            if skip > 0 {
                skip -= 1;
                continue;
            }
            if left == 0 || tx.send(item(&stored, keys, true)).await.is_err() {
                return Ok(());
            }
            left -= 1;
        }
        if chunk.looked < CHUNK || left == 0 {
            return Ok(());
        }
        if looked >= may_look {
            return Err(RemoteError::new(format!(
                "getSubset: looked at {looked} messages, which is too many"
            )));
        }
    }
}

/// Who asks, unless it is our own client.
fn caller(request: &Request) -> Option<FeedId> {
    (request.rights != Rights::Master).then(|| FeedId::from_bytes(request.peer.to_bytes()))
}

/// A part of a query's messages.
struct Chunk {
    looked: usize,
    wanted: Result<Vec<Stored>, ReadError>,
}

fn look(mut rest: Subset) -> (Chunk, Subset) {
    let mut looked = 0;
    let found = rest.by_ref().take(CHUNK).inspect(|_| looked += 1);
    let wanted = found.filter_map(|found| match found {
        Ok(Looked::Wanted(stored)) => Some(Ok(stored)),
        Ok(Looked::Other) => None,
        Err(error) => Some(Err(error)),
    });
    let wanted = wanted.collect();
    (Chunk { looked, wanted }, rest)
}

/// `ooo.getSubset(peer, query, options)`: asks a connected peer for a subset, verifies what it sends, keeps what is new
/// out of order, and passes all of it on with key, timestamp and `ooo`.
pub(super) async fn fetch_subset(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let ctx = &request.ctx;
    let peer = request.args.feed(0)?;
    let session = ctx.ooo.session(&PublicKey::from_bytes(peer.to_bytes()));
    let session = session.ok_or_else(|| RemoteError::new(format!("not connected to {peer}")))?;
    let args = request.args.all().get(1..).unwrap_or_default().to_vec();
    let asked = session.open(CallKind::Source, &["getSubset"], args).await;
    let Stream { mut rx, .. } = asked.map_err(|error| RemoteError::new(error.to_string()))?;
    for _ in 0..TAKEN {
        let Some(item) = rx.recv().await else { break };
        let body = item.map_err(|error| RemoteError::new(error.to_string()))?;
        let raw = value_of(&body.bytes);
        let verified = validate_out_of_order(raw, ctx.config.hmac.as_ref(), None);
        let message =
            verified.map_err(|error| RemoteError::new(format!("{peer} sent no message: {error}")))?;
        let fetched = take(ctx, message).await?;
        if tx.send(marked(&fetched)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Keeps a message unless the log has it.
async fn take(ctx: &Context, message: Message) -> Result<Fetched, RemoteError> {
    let (reader, id) = (ctx.reader.clone(), message.id());
    if let Some(Stored { received, message, .. }) = ctx.read(move || reader.get(&id)).await.map_err(failed)? {
        return Ok(Fetched { message, received });
    }
    ctx.ooo.keep(ctx, message.clone()).await;
    let received = crate::clock::unix_millis() as f64;
    Ok(Fetched { message, received })
}

/// The message, whether or not it comes with its key.
fn value_of(item: &[u8]) -> &[u8] {
    #[derive(Deserialize)]
    struct WithKey<'a> {
        #[serde(borrow)]
        value: &'a RawValue,
    }
    serde_json::from_slice::<WithKey<'_>>(item).map_or(item, |with_key| with_key.value.get().as_bytes())
}
