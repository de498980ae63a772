//! `blobs.*`, as ssb-blobs has them, error texts included.

use std::ops::Range;

use bytes::Bytes;
use hawsepipe_overlay::conn::{StreamRx, StreamTx};
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::blobs::{BlobError, BlobStore, Incoming, Mark, Meta, Said, print_update};
use hawsepipe_replication::refs::{BlobId, FeedId};
use serde_json::{Value, json};
use tokio::sync::broadcast::{self, error::RecvError};

use super::Request;
use super::args::Options;
use crate::authorize::Rights;
use crate::blobs::{NOT_HERE, blocking, failed};
use crate::engine::BlobMsg;

/// Bytes of one packet, as in JS.
const PIECE: usize = 64 * 1024;
/// Bytes that are read from a file in one go.
const READ: usize = 4 * PIECE;
/// Pieces that are written to a file in one go.
const WRITE: usize = 16;
/// Blobs that are listed in one go.
const LIST: usize = 256;

/// A blob's id as an argument: the id, or an object that has it.
fn id_in(value: Option<&Value>) -> Option<BlobId> {
    let named = |value: &Value| {
        let names = ["id", "key", "hash"].into_iter();
        names.filter_map(|name| value.get(name)).find_map(|id| id.as_str()?.parse().ok())
    };
    let value = value?;
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| named(value))
}

/// As an error repeats an argument.
fn shown(value: Option<&Value>) -> String {
    match value {
        None => "undefined".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn id_or(request: &Request, what: &str) -> Result<BlobId, RemoteError> {
    let value = request.args.at(0);
    id_in(value).ok_or_else(|| RemoteError::new(format!("{what}:{}", shown(value))))
}

/// One id or a list of them; says which it was.
fn ids_or(request: &Request, what: &str) -> Result<(Vec<BlobId>, bool), RemoteError> {
    let Some(Value::Array(list)) = request.args.at(0) else {
        return Ok((vec![id_or(request, what)?], false));
    };
    let id =
        |value| id_in(Some(value)).ok_or_else(|| RemoteError::new(format!("{what}:{}", shown(Some(value)))));
    Ok((list.iter().map(id).collect::<Result<_, _>>()?, true))
}

async fn sizes(request: &Request, ids: Vec<BlobId>) -> Result<Vec<(BlobId, Option<u64>)>, RemoteError> {
    // A peer may ask for thousands in one call, and call again and again. The semaphore is never closed.
    let _turn = request.reads.acquire().await;
    let look = move |store: &BlobStore| ids.into_iter().map(|id| Ok((id, store.size(&id)?))).collect();
    request.ctx.blobs.with(look).await.map_err(failed)
}

/// The answer of a method that takes one id or many.
fn one_or_many(mut answers: Vec<Value>, many: bool) -> Body {
    match answers.pop() {
        Some(one) if !many => Body::json(&one),
        last => Body::json(&answers.into_iter().chain(last).collect::<Vec<_>>()),
    }
}

/// `blobs.has`. Of a peer it counts as a want, since peers without `createWants` have no other way to say one.
pub(super) async fn has(request: Request) -> Result<Body, RemoteError> {
    let (ids, many) = ids_or(&request, "invalid id")?;
    let sizes = sizes(&request, ids).await?;
    let answers = sizes.iter().map(|(_, size)| Value::from(size.is_some())).collect();
    if request.rights == Rights::Anonymous && request.ctx.config.blobs.legacy {
        let missing = sizes.into_iter().filter(|(_, size)| size.is_none());
        let said = missing.map(|(id, _)| (id, Said::Wants(1), None)).collect();
        request.ctx.engine.blobs(BlobMsg::Said { session: request.session, said, permit: None }).await?;
    }
    Ok(one_or_many(answers, many))
}

/// `blobs.size`.
pub(super) async fn size(request: Request) -> Result<Body, RemoteError> {
    let (ids, many) = ids_or(&request, "not a valid id")?;
    let sizes = sizes(&request, ids).await?;
    Ok(one_or_many(sizes.into_iter().map(|(_, size)| Value::from(size)).collect(), many))
}

/// `blobs.meta`.
pub(super) async fn meta(request: Request) -> Result<Body, RemoteError> {
    let id = id_or(&request, "not a valid id")?;
    let meta = request.ctx.blobs.meta(id).await.map_err(failed)?;
    meta.map(|meta| Body::json(&meta_json(&meta))).ok_or_else(|| RemoteError::new(NOT_HERE))
}

fn meta_json(meta: &Meta) -> Value {
    json!({ "id": meta.id, "size": meta.size, "ts": meta.ts })
}

/// `blobs.want`: answers `true` when the blob is here; with `{nowait: true}` at once.
pub(super) async fn want(request: Request) -> Result<Body, RemoteError> {
    let id = id_or(&request, "invalid id")?;
    let nowait = request.args.at(1).and_then(|options| options.get("nowait")) == Some(&Value::Bool(true));
    if !nowait {
        request.ctx.blobs.want(id).await?;
        return Ok(Body::json(&true));
    }
    let is_here = request.ctx.blobs.meta(id).await.map_err(failed)?.is_some();
    if !is_here {
        drop(request.ctx.engine.want_blob(id).await?);
    }
    Ok(Body::json(&is_here))
}

/// `blobs.push`.
pub(super) async fn push(request: Request) -> Result<Body, RemoteError> {
    let id = id_or(&request, "invalid hash")?;
    request.ctx.blobs.with(move |store| store.mark(&id, Mark::Pushed)).await.map_err(failed)?;
    request.ctx.engine.blobs(BlobMsg::Push { id, on: true }).await?;
    Ok(Body::void())
}

/// `blobs.pin`: whether a blob is kept whatever `blobs.quota` says.
pub(super) async fn pin(request: Request) -> Result<Body, RemoteError> {
    let id = id_or(&request, "not a valid id")?;
    let on = request.args.at(1) != Some(&Value::Bool(false));
    let pin = request.ctx.blobs.with(move |store| match on {
        true => store.mark(&id, Mark::Pinned),
        false => store.unmark(&id, Mark::Pinned).map(drop),
    });
    pin.await.map_err(failed)?;
    Ok(Body::void())
}

/// `blobs.rm`.
pub(super) async fn rm(request: Request) -> Result<Body, RemoteError> {
    let id = id_or(&request, "not valid id")?;
    let remove = request.ctx.blobs.with(move |store| {
        let size = store.size(&id)?;
        Ok(size.filter(|_| store.remove(&id).is_ok_and(|removed| removed)))
    });
    let size = remove.await.map_err(failed)?.ok_or_else(|| RemoteError::new(format!("no blob:{id}")))?;
    request.ctx.engine.blobs(BlobMsg::Removed { size }).await?;
    request.ctx.engine.blobs(BlobMsg::Push { id, on: false }).await?;
    Ok(Body::void())
}

/// `blobs.add`: stores what the caller sends. It ends with `true`, as in JS: the caller can hash as well.
pub(super) async fn add(request: Request, rx: &mut StreamRx) -> Result<(), RemoteError> {
    let expected = match request.args.at(0) {
        None => None,
        Some(value) => {
            let id = id_in(Some(value));
            Some(id.ok_or_else(|| RemoteError::new(format!("not a valid hash: {}", shown(Some(value)))))?)
        }
    };
    let mut incoming = request.ctx.blobs.create(expected).await.map_err(failed)?;
    let mut pieces = Vec::with_capacity(WRITE);
    // An error means that the caller broke off: nothing is kept.
    while rx.recv_batch(WRITE, &mut pieces).await.map_err(|error| RemoteError::new(error.to_string()))? > 0 {
        let batch = std::mem::replace(&mut pieces, Vec::with_capacity(WRITE));
        incoming = blocking(move || write(incoming, &batch)).await.map_err(failed)?;
    }
    let finish = request.ctx.blobs.with(move |store| {
        let (meta, is_new) = incoming.finish()?;
        store.mark(&meta.id, Mark::Own)?;
        Ok((meta, is_new))
    });
    let (meta, is_new) = finish.await.map_err(failed)?;
    request.ctx.engine.blobs(BlobMsg::Stored { meta, is_new }).await?;
    request.ctx.blobs.announce(meta, is_new);
    Ok(())
}

fn write(mut incoming: Incoming, pieces: &[Body]) -> Result<Incoming, BlobError> {
    pieces.iter().try_for_each(|piece| incoming.write(&piece.bytes))?;
    Ok(incoming)
}

/// `blobs.get`.
pub(super) async fn get(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let id = id_in(request.args.at(0)).ok_or_else(|| RemoteError::new("multiblob.get: {id} is mandatory"))?;
    send(&request, tx, id, None).await
}

/// `blobs.getSlice`.
pub(super) async fn get_slice(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let mandatory = || RemoteError::new("multiblob.getSlice: {id} is mandatory");
    let id = id_in(request.args.at(0)).ok_or_else(mandatory)?;
    let bound = |name: &str| {
        let missing = || RemoteError::new(format!("multiblob.getSlice: {{{name}}} must be a number"));
        // A cast of a float clamps: negative is 0, too large is the maximum.
        request.args.options().number(name).map(|number| number as u64).ok_or_else(missing)
    };
    let range = bound("start")?..bound("end")?;
    send(&request, tx, id, Some(range)).await
}

/// Sends a blob, or the part of it that is asked for.
async fn send(
    request: &Request,
    tx: &mut StreamTx,
    id: BlobId,
    range: Option<Range<u64>>,
) -> Result<(), RemoteError> {
    let served = &request.ctx.metrics.blobs.served;
    let refused = |error: RemoteError| {
        served.with_label_values(&["refused"]).inc();
        error
    };
    if request.ctx.graph().is_blocking(&request.ctx.own, &FeedId::from_bytes(request.peer.to_bytes())) {
        return Err(refused(RemoteError::new(NOT_HERE)));
    }
    let blob = request.ctx.blobs.read(id).await.map_err(failed)?;
    let blob = blob.ok_or_else(|| refused(RemoteError::new(NOT_HERE)))?;
    let size = blob.size();
    check_size(request.args.options(), size, id).map_err(refused)?;
    let range = range.unwrap_or(0..size);
    let (mut at, end) = (range.start, range.end.min(size));
    let mut blob = blob;
    while at < end {
        // Held until what is read is on its way. The semaphore is never closed.
        let _turn = request.reads.acquire().await;
        let most = usize::try_from(end - at).unwrap_or(READ).min(READ);
        let (read, back) = blocking(move || (blob.read_at(at, most), blob)).await;
        blob = back;
        let bytes = Bytes::from(read.map_err(|_| refused(RemoteError::new(NOT_HERE)))?);
        at += bytes.len() as u64;
        request.ctx.metrics.blobs.bytes.with_label_values(&["out"]).inc_by(bytes.len() as u64);
        let pieces = (0..bytes.len()).step_by(PIECE);
        let pieces = pieces.map(|from| Body::binary(bytes.slice(from..bytes.len().min(from + PIECE))));
        if tx.send_batch(pieces).await.is_err() {
            served.with_label_values(&["broken_off"]).inc();
            return Ok(());
        }
    }
    served.with_label_values(&["ok"]).inc();
    Ok(())
}

/// Whether the blob is as large as the caller asks for.
fn check_size(options: Options<'_>, size: u64, id: BlobId) -> Result<(), RemoteError> {
    let (exact, max) = (options.number("size"), options.number("max"));
    let is = size as f64;
    if exact.is_none_or(|exact| exact == is) && max.is_none_or(|max| is <= max) {
        return Ok(());
    }
    let asked = exact.map_or("undefined".to_owned(), |exact| exact.to_string());
    let text = format!("incorrect file length, requested:{asked} file was:{size} for file:{id}");
    Err(RemoteError::new(text))
}

/// `blobs.ls`.
pub(super) async fn ls(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let options = request.args.options();
    let long = ["meta", "long", "size"].into_iter().any(|name| options.flag(name, false));
    let old = options.flag("old", true);
    let live = options.flag("live", false) || !old;
    let mut added = request.ctx.blobs.added();
    if old {
        let mut list = request.ctx.blobs.store().list();
        loop {
            let _turn = request.reads.acquire().await;
            let read = move || (list.by_ref().take(LIST).collect::<Vec<_>>(), list);
            let (some, back) = blocking(read).await;
            list = back;
            let is_last = some.len() < LIST;
            if tx.send_batch(some.into_iter().map(|(meta, _)| listed(&meta, long))).await.is_err() {
                return Ok(());
            }
            if is_last {
                break;
            }
        }
    }
    if old && live && options.flag("sync", true) {
        // If the caller is gone, what follows notices.
        let _ = tx.send(Body::json(&json!({ "sync": true }))).await;
    }
    if live { follow(&mut added, tx, |meta| Some(listed(&meta, long))).await } else { Ok(()) }
}

fn listed(meta: &Meta, long: bool) -> Body {
    if long { Body::json(&meta_json(meta)) } else { Body::json(&meta.id) }
}

/// Sends what is added as `form` says, until the stream ends.
async fn follow(
    added: &mut broadcast::Receiver<Meta>,
    tx: &mut StreamTx,
    form: impl Fn(Meta) -> Option<Body>,
) -> Result<(), RemoteError> {
    loop {
        match added.recv().await {
            Ok(meta) => {
                if let Some(body) = form(meta)
                    && tx.send(body).await.is_err()
                {
                    return Ok(());
                }
            }
            Err(RecvError::Lagged(_)) => return Err(RemoteError::new("too slow: new blobs were missed")),
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

/// `blobs.changes`: the ids of new blobs. A stingy node tells only of those that it pushes.
pub(super) async fn changes(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    tx.set_lasting();
    let mut added = request.ctx.blobs.added();
    let stingy = request.ctx.config.blobs.stingy;
    let store = request.ctx.blobs.store();
    let told = |meta: Meta| {
        let told = !stingy || store.is_marked(&meta.id, Mark::Pushed);
        told.then(|| Body::json(&meta.id))
    };
    follow(&mut added, tx, told).await
}

/// `blobs.createWants`: first all that is wanted here, then what changes.
pub(super) async fn create_wants(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let Some(told) = request.ctx.engine.tell_wants(request.session).await? else { return Ok(()) };
    tx.set_lasting();
    while let Some(said) = told.next().await {
        if tx.send(Body::json_raw(print_update(said))).await.is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Args;

    const ID: &str = "&47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=.sha256";

    #[test]
    fn an_id_is_given_in_any_of_the_ways_that_peers_write_it() {
        for value in
            [json!(ID), json!({"id": ID}), json!({"key": ID, "max": 5}), json!({"hash": ID, "key": null})]
        {
            assert_eq!(id_in(Some(&value)), ID.parse().ok(), "{value}");
        }
        for value in [json!(null), json!(7), json!({}), json!({"id": "&x"}), json!([ID])] {
            assert_eq!(id_in(Some(&value)), None, "{value}");
        }
    }

    #[test]
    fn a_blob_of_another_length_is_refused_with_the_text_of_js() {
        let check = |options: Value| {
            let args = Args::from(vec![options]);
            check_size(args.options(), 7, ID.parse().unwrap()).map_err(|error| error.message)
        };
        for fits in
            [json!({}), json!({"size": 7}), json!({"max": 7}), json!({"size": null, "max": 5_242_880})]
        {
            assert_eq!(check(fits), Ok(()));
        }
        let text = |asked: &str| format!("incorrect file length, requested:{asked} file was:7 for file:{ID}");
        assert_eq!(check(json!({"size": 8})), Err(text("8")));
        assert_eq!(check(json!({"max": 6})), Err(text("undefined")));
    }

    #[test]
    fn one_id_is_answered_by_one_value_and_a_list_by_a_list() {
        assert_eq!(one_or_many(vec![json!(true)], false), Body::json(&true));
        assert_eq!(one_or_many(vec![json!(true)], true), Body::json(&[true]));
        assert_eq!(one_or_many(vec![json!(1), json!(null)], true), Body::json(&json!([1, null])));
        assert_eq!(one_or_many(vec![], true), Body::json(&json!([])));
    }
}
