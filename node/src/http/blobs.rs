//! Blobs by HTTP, as ssb-ws and ssb-serve-blobs serve them: `GET /blobs/get/&….sha256` (or `/get/…`), whole or one
//! range; with `?unbox=KEY` opened, where the blob is a box stream under that key and a nonce of zeros. Only GET and
//! HEAD, no writing.
//!
//! A blob may be anything, also a page with scripts that somebody hostile wrote. Hence it is sandboxed, its type is
//! sniffed and then not to be guessed again, and pages of other origins cannot read it unless that is allowed.
//!
//! A blob that is not here is searched for when the request comes from this machine, and the answer waits for it.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures::stream;
use hawsepipe_overlay::boxstream::{BoxKey, Opened, Opener};
use hawsepipe_replication::blobs::Blob;
use hawsepipe_replication::refs::BlobId;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::{Answer, Body, Handler, whole};
use crate::blobs::{Blobs, NOT_HERE, blocking};

mod sniff;

/// How long an answer waits for a blob that is not here.
const WAIT: Duration = Duration::from_secs(60);
/// Bytes that are read from a file in one go.
const READ: usize = 256 * 1024;
/// A blob never changes: it may be kept for a year, which is as long as it goes.
const KEEP: &str = "max-age=31536000, immutable";
/// Nothing in a blob is loaded, run or sent.
const SANDBOX: &str = "default-src 'none'; sandbox";

/// Answers with what is in `blobs`.
pub fn handler(blobs: Arc<Blobs>, cors: bool) -> Handler {
    Arc::new(move |from, request| {
        let blobs = Arc::clone(&blobs);
        let answer: Answer = Box::pin(async move {
            let mut response = match respond(&blobs, from, &request).await {
                Ok(response) => response,
                Err(refusal) => refusal.response(),
            };
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(SANDBOX));
            headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            if cors {
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            }
            response
        });
        answer
    })
}

/// Why a request gets no blob.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Refusal {
    Method,
    /// It makes no sense.
    Request(&'static str),
    NotFound(&'static str),
    /// The blob has so many bytes, and none of those that are asked for.
    Range(u64),
    /// Our disk.
    Failed,
}

impl Refusal {
    fn response(self) -> Response<Body> {
        let (status, text) = match self {
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD"),
            Self::Request(why) => (StatusCode::BAD_REQUEST, why),
            Self::NotFound(why) => (StatusCode::NOT_FOUND, why),
            Self::Range(_) => (StatusCode::RANGE_NOT_SATISFIABLE, "the blob is not as long"),
            Self::Failed => (StatusCode::INTERNAL_SERVER_ERROR, NOT_HERE),
        };
        let mut response = Response::new(whole(format!("{text}\n")));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self {
            Self::Range(size) => set(headers, header::CONTENT_RANGE, &format!("bytes */{size}")),
            Self::Method => set(headers, header::ALLOW, "GET, HEAD"),
            Self::Request(_) | Self::NotFound(_) | Self::Failed => {}
        }
        response
    }
}

async fn respond(
    blobs: &Blobs,
    from: SocketAddr,
    request: &Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Refusal::Method);
    }
    let asked = Asked::read(request.uri().path(), request.uri().query().unwrap_or_default())?;
    let tag = format!("\"{}\"", asked.id);
    let knows = |value: &HeaderValue| value.to_str().is_ok_and(|known| known.contains(&asked.id.to_string()));
    if request.headers().get_all(header::IF_NONE_MATCH).iter().any(knows) {
        let mut response = Response::new(whole(""));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        set(response.headers_mut(), header::ETAG, &tag);
        return Ok(response);
    }
    let blob = find(blobs, from, asked.id).await?;
    let content = match asked.key {
        Some(key) => Content::Bytes(blocking(move || unbox(&blob, key)).await?),
        None => Content::Blob(blob),
    };
    let (start, content) = blocking(move || (content.read(0, sniff::ENOUGH), content)).await;
    let start = start.map_err(|_| Refusal::Failed)?;
    let size = content.size();
    let range = match request.headers().get(header::RANGE) {
        Some(range) => parse_range(range.to_str().map_err(|_| Refusal::Request("bad range"))?, size)?,
        None => None,
    };
    let mut response = Response::new(whole(""));
    let headers = response.headers_mut();
    set(headers, header::ETAG, &tag);
    set(headers, header::CACHE_CONTROL, KEEP);
    set(headers, header::ACCEPT_RANGES, "bytes");
    set(headers, header::CONTENT_TYPE, sniff::content_type(&start));
    if let Some(name) = &asked.name {
        set(headers, header::CONTENT_DISPOSITION, &format!("inline; filename*=UTF-8''{}", encode(name)));
    }
    if let Some(range) = &range {
        set(headers, header::CONTENT_RANGE, &format!("bytes {}-{}/{size}", range.start, range.end - 1));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    let range = range.unwrap_or(0..size);
    set(response.headers_mut(), header::CONTENT_LENGTH, &(range.end - range.start).to_string());
    if request.method() == Method::GET {
        *response.body_mut() = pieces(content, range);
    }
    Ok(response)
}

/// Sets a header; one that cannot be written is left out.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// The blob, once it is here.
async fn find(blobs: &Blobs, from: SocketAddr, id: BlobId) -> Result<Blob, Refusal> {
    let read = || async { blobs.read(id).await.map_err(|_| Refusal::Failed) };
    if let Some(blob) = read().await? {
        return Ok(blob);
    }
    // Whoever is elsewhere shall not make us search.
    if from.ip().is_loopback() {
        // Nothing is worse than before if it does not come.
        let _ = tokio::time::timeout(WAIT, blobs.want(id)).await;
    }
    read().await?.ok_or(Refusal::NotFound("no such blob is here"))
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    id: BlobId,
    key: Option<[u8; 32]>,
    name: Option<String>,
}

impl Asked {
    fn read(path: &str, query: &str) -> Result<Self, Refusal> {
        let path = decode(path).ok_or(Refusal::Request("bad path"))?;
        let id = path.strip_prefix("/blobs/get/").or_else(|| path.strip_prefix("/get/"));
        let id = id.ok_or(Refusal::NotFound("see /blobs/get/&….sha256"))?;
        let id = id.parse().map_err(|_| Refusal::Request("not a blob id"))?;
        let mut asked = Self { id, key: None, name: None };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value).ok_or(Refusal::Request("bad query"))?;
            match name {
                "unbox" => asked.key = Some(parse_key(&value)?),
                "filename" | "name" if !value.is_empty() => asked.name = Some(value),
                _ => {}
            }
        }
        Ok(asked)
    }
}

/// A key in base64, with or without `.boxs`. Where a plus sign stood, there may be a space.
fn parse_key(text: &str) -> Result<[u8; 32], Refusal> {
    let text = text.strip_suffix(".boxs").unwrap_or(text).replace([' ', '-'], "+").replace('_', "/");
    let key = STANDARD.decode(text).ok().and_then(|key| key.try_into().ok());
    key.ok_or(Refusal::Request("key must be 32 bytes long"))
}

/// Undoes percent encoding.
pub(super) fn decode(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = behind;
    }
    String::from_utf8(bytes).ok()
}

/// Percent encoding of all but letters and digits.
fn encode(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'.' | b'-' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// The one range that is asked for. Several are answered by the whole, which is always right.
fn parse_range(text: &str, size: u64) -> Result<Option<Range<u64>>, Refusal> {
    let bad = Refusal::Request("bad range");
    let Some(ranges) = text.trim().strip_prefix("bytes=") else { return Ok(None) };
    if ranges.contains(',') {
        return Ok(None);
    }
    let (first, last) = ranges.trim().split_once('-').ok_or(bad.clone())?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| bad.clone());
    let range = match (first, last) {
        ("", last) => size.saturating_sub(number(last)?)..size,
        (first, "") => number(first)?..size,
        (first, last) => number(first)?..number(last)?.saturating_add(1).min(size),
    };
    if range.start >= size || range.is_empty() { Err(Refusal::Range(size)) } else { Ok(Some(range)) }
}

/// What is sent: a file, or what was opened.
#[derive(Debug)]
enum Content {
    Blob(Blob),
    Bytes(Bytes),
}

impl Content {
    fn size(&self) -> u64 {
        match self {
            Self::Blob(blob) => blob.size(),
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    fn read(&self, at: u64, most: usize) -> io::Result<Bytes> {
        match self {
            Self::Blob(blob) => blob.read_at(at, most).map(Bytes::from),
            Self::Bytes(bytes) => {
                let at = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes.slice(at..at.saturating_add(most).min(bytes.len())))
            }
        }
    }
}

/// Some of a content, read as it is sent.
fn pieces(content: Content, range: Range<u64>) -> Body {
    let read = |(content, range): (Content, Range<u64>)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let most = usize::try_from(range.end - range.start).unwrap_or(READ).min(READ);
        let (read, content) = blocking(move || (content.read(range.start, most), content)).await;
        let bytes = read?;
        let rest = range.start + bytes.len() as u64..range.end;
        Ok(Some((Frame::data(bytes), (content, rest))))
    };
    StreamBody::new(stream::try_unfold((content, range), read)).boxed_unsync()
}

/// What a box stream says, whole.
fn unbox(blob: &Blob, key: [u8; 32]) -> Result<Bytes, Refusal> {
    let size = usize::try_from(blob.size()).map_err(|_| Refusal::Failed)?;
    let mut sealed = BytesMut::from(&blob.read_at(0, size).map_err(|_| Refusal::Failed)?[..]);
    let mut plain = BytesMut::with_capacity(size);
    let mut opener = Opener::new(BoxKey::new(ssb_crypto::secretbox::Key(key), [0; 24]));
    match opener.open(&mut sealed, &mut plain) {
        Ok(Opened::Goodbye) => Ok(plain.freeze()),
        Ok(_) | Err(_) => Err(Refusal::Request("the key does not open the blob")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "&47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=.sha256";

    #[test]
    fn a_blob_is_named_as_ssb_ws_and_ssb_serve_blobs_name_it() {
        let id: BlobId = ID.parse().unwrap();
        let encoded = encode(ID);
        for path in ["/blobs/get/", "/get/"] {
            for id_text in [ID, encoded.as_str()] {
                let asked = Asked::read(&format!("{path}{id_text}"), "").unwrap();
                assert_eq!(asked, Asked { id, key: None, name: None });
            }
        }
        let query = "unbox=AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE%3D.boxs&contentType=x&filename=a%20b";
        let asked = Asked::read(&format!("/get/{ID}"), query).unwrap();
        assert_eq!((asked.key, asked.name.as_deref()), (Some([1; 32]), Some("a b")));
    }

    #[test]
    fn what_is_no_request_for_a_blob_is_refused() {
        assert!(matches!(Asked::read("/", ""), Err(Refusal::NotFound(_))));
        assert!(matches!(Asked::read("/metrics", ""), Err(Refusal::NotFound(_))));
        for path in ["/get/", "/get/&x.sha256", "/get/%", "/get/%4", "/get/%zz", "/get/%ff"] {
            assert!(matches!(Asked::read(path, ""), Err(Refusal::Request(_))), "{path}");
        }
        for query in ["unbox=", "unbox=AAAA.boxs", "unbox=%"] {
            assert!(matches!(Asked::read(&format!("/get/{ID}"), query), Err(Refusal::Request(_))), "{query}");
        }
    }

    #[test]
    fn a_key_is_read_however_browsers_mangle_it() {
        let bytes = [0xfb; 32];
        let text = STANDARD.encode(bytes);
        assert!(text.contains('+'));
        for text in [text.clone(), format!("{text}.boxs"), text.replace('+', " "), text.replace('+', "-")] {
            assert_eq!(parse_key(&text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn one_range_is_read_and_several_are_answered_by_the_whole() {
        let read = |text: &str| parse_range(text, 10);
        assert_eq!(read("bytes=0-3"), Ok(Some(0..4)));
        assert_eq!(read("bytes=7-"), Ok(Some(7..10)));
        assert_eq!(read("bytes=7-99"), Ok(Some(7..10)));
        assert_eq!(read("bytes=-3"), Ok(Some(7..10)));
        assert_eq!(read("bytes=-99"), Ok(Some(0..10)));
        assert_eq!(read("bytes=0-1,5-6"), Ok(None));
        assert_eq!(read("lines=1-2"), Ok(None));
        for none in ["bytes=10-", "bytes=-0", "bytes=11-12", "bytes=5-4"] {
            assert_eq!(read(none), Err(Refusal::Range(10)), "{none}");
        }
        for bad in ["bytes=", "bytes=x-3", "bytes=3", "bytes=1-2-3", "bytes=-"] {
            assert!(matches!(read(bad), Err(Refusal::Request(_))), "{bad}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Err(Refusal::Range(0)));
    }

    #[test]
    fn names_of_files_cannot_break_out_of_their_header() {
        assert_eq!(encode("a\"\r\nb;é.png"), "a%22%0D%0Ab%3B%C3%A9.png");
    }
}
