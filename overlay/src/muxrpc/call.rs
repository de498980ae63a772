//! What a call says, and the errors whose texts other peers match on.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Body, BodyKind, Call, CallKind, RemoteError};

/// Longest body of a call: many times the longest message someone could publish.
pub const MAX_CALL: usize = 1024 * 1024;
/// Most parts of a method's name.
pub const MAX_NAME_PARTS: usize = 16;
/// Longest text of an error that we keep or send; the rest is cut off.
pub const MAX_ERROR_TEXT: usize = 8 * 1024;
/// How much of a bad request its refusal repeats.
const MAX_ECHO: usize = 512;

/// Every open call fails with this text when its session ends.
pub const UNEXPECTED_END: &str = "unexpected end of parent stream";
/// The text of a call made on a session that is about to close.
pub const PARENT_CLOSING: &str = "parent stream is closing";
/// The text of a call made on a closed session.
pub const STREAM_CLOSED: &str = "stream is closed";
/// The text of a line that ends without a goodbye.
pub const UNEXPECTED_HANGUP: &str = "unexpected hangup";

/// The method is not on the caller's list, or does not exist and the caller has a list.
///
/// Room clients and ssb-ebt recognise a missing method by exactly this text.
pub fn not_allowed<S: AsRef<str>>(name: &[S]) -> RemoteError {
    RemoteError::new(format!("method:{} is not in list of allowed methods", join(name)))
}

/// The method is on the caller's list of forbidden ones.
pub fn disallowed<S: AsRef<str>>(name: &[S]) -> RemoteError {
    RemoteError::new(format!("method:{} is on list of disallowed methods", join(name)))
}

/// The caller may call it, but it does not exist or is of another kind.
pub fn no_such<S: AsRef<str>>(kind: CallKind, name: &[S]) -> RemoteError {
    RemoteError::new(format!("no {}:{}", kind.name(), join(name)))
}

fn join<S: AsRef<str>>(name: &[S]) -> String {
    let parts: Vec<&str> = name.iter().map(AsRef::as_ref).collect();
    clip(&parts.join(","), MAX_ECHO).to_owned()
}

impl RemoteError {
    /// An error of the usual class, without a stack.
    pub fn new(message: impl Into<String>) -> Self {
        Self { name: "Error".to_owned(), message: message.into(), stack: String::new() }
    }

    /// Whether the peer says that it has no such method or does not let us call it: the texts of JS and Go.
    pub fn is_missing_method(&self) -> bool {
        const KINDS: [&str; 4] = ["no async:", "no source:", "no sink:", "no duplex:"];
        self.message.ends_with("is not in list of allowed methods")
            || self.message.starts_with("muxrpc: no such command")
            || KINDS.iter().any(|kind| self.message.starts_with(kind))
    }

    /// As the body of an error answer or of a stream's end.
    pub(crate) fn to_body(&self) -> Body {
        #[derive(Serialize)]
        struct Wire<'a> {
            message: &'a str,
            name: &'a str,
            stack: &'a str,
        }
        let (message, stack) = (clip(&self.message, MAX_ERROR_TEXT), clip(&self.stack, MAX_ERROR_TEXT));
        Body::json(&Wire { message, name: clip(&self.name, MAX_ECHO), stack })
    }

    /// Reads an error however the peer wrote it: as an object with a message, or as anything else.
    pub(crate) fn from_body(body: &Body) -> Self {
        #[derive(Deserialize)]
        struct Wire {
            message: String,
            #[serde(default)]
            name: Value,
            #[serde(default)]
            stack: Value,
        }
        if let Ok(wire) = body.decode::<Wire>() {
            let text = |value: &Value| clip(value.as_str().unwrap_or_default(), MAX_ERROR_TEXT).to_owned();
            let (name, stack) = (text(&wire.name), text(&wire.stack));
            return Self { name, message: clip(&wire.message, MAX_ERROR_TEXT).to_owned(), stack };
        }
        let text = body.decode::<String>().unwrap_or_else(|_| body.lossy_text().into_owned());
        Self::new(clip(&text, MAX_ERROR_TEXT))
    }
}

/// The longest beginning of `text` of at most `max` bytes.
fn clip(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Why a body is no call. The peer is to blame; the call gets the text as its answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCall {
    /// Longer than [`MAX_CALL`].
    #[error("request is too large")]
    TooLarge,
    /// Not a JSON object.
    #[error("invalid request, should be a JSON object")]
    NotAnObject,
    /// No name, or one that is neither a string nor an array of strings.
    #[error("invalid request, name should be a string or an array of strings")]
    Name,
    /// JS's text; holds what the request was.
    #[error("invalid request, args should be array, was: {0}")]
    Args(String),
    /// JS's text; a stream is asked for that is none.
    #[error("unsupported stream type: {0}")]
    StreamType(String),
}

/// Reads the body of a packet that opens a call; `stream` is the packet's flag.
pub fn parse(body: &Body, stream: bool) -> Result<Call, InvalidCall> {
    #[derive(Deserialize)]
    struct Wire<'a> {
        #[serde(borrow)]
        name: Option<&'a RawValue>,
        #[serde(borrow)]
        args: Option<&'a RawValue>,
        #[serde(borrow, rename = "type")]
        kind: Option<&'a RawValue>,
    }
    if body.bytes.len() > MAX_CALL {
        return Err(InvalidCall::TooLarge);
    }
    // A struct would also be read from an array.
    let object = body.bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if body.kind != BodyKind::Json || !object {
        return Err(InvalidCall::NotAnObject);
    }
    let wire: Wire<'_> = serde_json::from_slice(&body.bytes).map_err(|_| InvalidCall::NotAnObject)?;
    let kind = if stream { stream_kind(wire.kind)? } else { once_kind(wire.kind) };
    let name = wire.name.and_then(parse_name).ok_or(InvalidCall::Name)?;
    let raw = match wire.args {
        Some(raw) => raw.get(),
        // JS applies a stream method to no arguments then, but answers others with an error.
        None if stream => "[]",
        None => return Err(bad_args(body)),
    };
    let args = serde_json::from_str(raw).or_else(|_| serde_json::from_str(&without_lone_surrogates(raw)));
    let args = args.map_err(|_| bad_args(body))?;
    Ok(Call { name, kind, args, raw_args: Bytes::copy_from_slice(raw.as_bytes()) })
}

/// JS strings may hold halves of surrogate pairs, which `JSON.stringify` escapes; Rust's cannot. Whoever must
/// keep them reads `raw_args`.
fn without_lone_surrogates(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    // In JSON a backslash stands in strings alone.
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let is_pair = || matches!(rest.get(6..).and_then(escaped_unit), Some(0xdc00..=0xdfff));
        let len = match escaped_unit(rest) {
            Some(0xd800..=0xdbff) if is_pair() => 12,
            Some(0xd800..=0xdfff) => {
                out.push(char::REPLACEMENT_CHARACTER);
                rest = &rest[6..];
                continue;
            }
            Some(_) => 6,
            None => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
        };
        out.push_str(&rest[..len]);
        rest = &rest[len..];
    }
    out + rest
}

/// The UTF-16 unit of the `\uXXXX` that `text` begins with.
fn escaped_unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

fn bad_args(body: &Body) -> InvalidCall {
    InvalidCall::Args(clip(body.lossy_text().trim_end(), MAX_ECHO).to_owned())
}

fn stream_kind(raw: Option<&RawValue>) -> Result<CallKind, InvalidCall> {
    let raw = raw.map_or("undefined", RawValue::get);
    match raw {
        r#""source""# => Ok(CallKind::Source),
        r#""sink""# => Ok(CallKind::Sink),
        r#""duplex""# => Ok(CallKind::Duplex),
        other => Err(InvalidCall::StreamType(clip(other.trim_matches('"'), MAX_ECHO).to_owned())),
    }
}

/// Without the stream flag JS calls whatever type is named as async.
fn once_kind(raw: Option<&RawValue>) -> CallKind {
    if raw.is_some_and(|raw| raw.get() == r#""sync""#) { CallKind::Sync } else { CallKind::Async }
}

fn parse_name(raw: &RawValue) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Name {
        Path(Vec<String>),
        Bare(String),
    }
    match serde_json::from_str(raw.get()).ok()? {
        Name::Path(path) => (path.len() <= MAX_NAME_PARTS).then_some(path),
        Name::Bare(name) => Some(vec![name]),
    }
}

/// The body that asks for a call.
pub fn request<S: AsRef<str>>(kind: CallKind, name: &[S], args: &[Value]) -> Body {
    #[derive(Serialize)]
    struct Wire<'a> {
        name: Vec<&'a str>,
        args: &'a [Value],
        // JS leaves it out of async calls and ignores it there; Go and kuska want it.
        #[serde(rename = "type")]
        kind: &'static str,
    }
    // JS has no remote sync: such methods are called as async.
    let kind = if kind.is_stream() { kind } else { CallKind::Async };
    Body::json(&Wire { name: name.iter().map(AsRef::as_ref).collect(), args, kind: kind.name() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn json(text: &str) -> Body {
        Body::json_raw(text.as_bytes().to_vec())
    }

    /// `JSON.stringify('\ud800')` is `"\ud800"` since ES2019, and JS sends such strings.
    #[test]
    fn half_a_surrogate_pair_is_an_argument_like_any_other() {
        let text = r#"[{"type":"post","a":"\ud800 \\ud800 \udc00\ud83d\ude00é","\udfff":"\\\"\u0041"}]"#;
        let call = parse(&json(&format!(r#"{{"name":["publish"],"args":{text}}}"#)), false).unwrap();
        assert_eq!(call.raw_args, text.as_bytes());
        let expected = json!({"type": "post", "a": "\u{fffd} \\ud800 \u{fffd}😀é", "\u{fffd}": "\\\"A"});
        assert_eq!(call.args, [expected]);
    }

    /// From the dialogue of an anonymous client with ssb-server 16.
    #[test]
    fn calls_are_read_as_js_and_go_write_them() {
        let call =
            parse(&json(r#"{"name":["blobs","createWants"],"args":[],"type":"source"}"#), true).unwrap();
        assert_eq!((call.name, call.kind), (vec!["blobs".into(), "createWants".into()], CallKind::Source));
        let go = parse(&json("{\"args\":[1],\"type\":\"async\",\"name\":[\"whoami\"]}\n"), false).unwrap();
        assert_eq!((go.args, go.kind), (vec![json!(1)], CallKind::Async));
        let js = parse(&json(r#"{"name":"manifest","args":[]}"#), false).unwrap();
        assert_eq!((js.name, js.kind), (vec!["manifest".to_owned()], CallKind::Async));
        let sync = parse(&json(r#"{"name":"manifest","args":[],"type":"sync"}"#), false).unwrap();
        assert_eq!(sync.kind, CallKind::Sync);
        let bare = parse(&json(r#"{"name":["a"],"type":"duplex"}"#), true).unwrap();
        assert_eq!((bare.kind, bare.args.len()), (CallKind::Duplex, 0));
    }

    #[test]
    fn arguments_keep_their_order_and_their_bytes() {
        let text = r#"[{"type":"post","b":1.10,"a":{"z":0,"y":0}}]"#;
        let call = parse(&json(&format!(r#"{{"name":["publish"],"args":{text}}}"#)), false).unwrap();
        assert_eq!(call.raw_args, text.as_bytes());
        let keys: Vec<&String> = call.args[0].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["type", "b", "a"]);
    }

    #[test]
    fn bad_calls_are_answered_in_the_words_of_js() {
        let text = |body: &str, stream| parse(&json(body), stream).unwrap_err().to_string();
        assert_eq!(
            text(r#"{"name":["whoami"]}"#, false),
            r#"invalid request, args should be array, was: {"name":["whoami"]}"#
        );
        assert_eq!(
            text(r#"{"name":["whoami"],"args":{}}"#, false),
            r#"invalid request, args should be array, was: {"name":["whoami"],"args":{}}"#
        );
        let of_type = |kind| format!(r#"{{"name":["a"],"args":[],"type":{kind}}}"#);
        assert_eq!(text(&of_type("\"async\""), true), "unsupported stream type: async");
        assert_eq!(text(r#"{"name":["a"],"args":[]}"#, true), "unsupported stream type: undefined");
        assert_eq!(parse(&json("[]"), false), Err(InvalidCall::NotAnObject));
        assert_eq!(parse(&json("{"), false), Err(InvalidCall::NotAnObject));
        assert_eq!(parse(&Body::text("{}"), false), Err(InvalidCall::NotAnObject));
        assert_eq!(parse(&json(r#"{"name":[1],"args":[]}"#), false), Err(InvalidCall::Name));
        assert_eq!(parse(&json(r#"{"args":[]}"#), false), Err(InvalidCall::Name));
        assert_eq!(parse(&json(&" ".repeat(MAX_CALL + 1)), false), Err(InvalidCall::TooLarge));
    }

    #[test]
    fn dispatch_errors_have_the_exact_texts_of_js() {
        let name = ["ebt", "replicate"];
        assert_eq!(not_allowed(&name).message, "method:ebt,replicate is not in list of allowed methods");
        assert_eq!(disallowed(&name).message, "method:ebt,replicate is on list of disallowed methods");
        assert_eq!(no_such(CallKind::Async, &name).message, "no async:ebt,replicate");
        assert!(not_allowed(&name).is_missing_method());
        assert!(no_such(CallKind::Source, &name).is_missing_method());
        assert!(RemoteError::new("muxrpc: no such command: ebt.replicate").is_missing_method());
        assert!(!RemoteError::new("method not ready").is_missing_method());
    }

    #[test]
    fn errors_are_read_however_they_are_written() {
        let written = RemoteError { name: "TypeError".into(), message: "no".into(), stack: "at x".into() };
        assert_eq!(RemoteError::from_body(&written.to_body()), written);
        let message = |body: &Body| RemoteError::from_body(body).message;
        assert_eq!(message(&json(r#"{"message":"a","stack":null}"#)), "a");
        assert_eq!(message(&json(r#""quoted""#)), "quoted");
        assert_eq!(message(&json("17")), "17");
        assert_eq!(message(&Body::text("plain")), "plain");
        assert_eq!(message(&Body::binary(&b"\xff"[..])), "\u{fffd}");
        assert_eq!(message(&Body::text("é".repeat(MAX_ERROR_TEXT))).len(), MAX_ERROR_TEXT);
    }

    #[test]
    fn a_request_names_its_type_and_calls_sync_methods_as_async() {
        let body = request(CallKind::Sync, &["manifest"], &[]);
        assert_eq!(&body.bytes[..], br#"{"name":["manifest"],"args":[],"type":"async"}"#);
        let body = request(CallKind::Source, &["blobs", "get"], &[json!("&x")]);
        assert_eq!(&body.bytes[..], br#"{"name":["blobs","get"],"args":["&x"],"type":"source"}"#);
    }

    proptest! {
        #[test]
        fn a_request_is_read_as_it_was_asked(
            name in proptest::collection::vec(".*", 1..4),
            args in proptest::collection::vec("\\PC*", 0..4),
        ) {
            let args: Vec<Value> = args.into_iter().map(Value::from).collect();
            let call = parse(&request(CallKind::Duplex, &name, &args), true).unwrap();
            prop_assert_eq!((call.name, call.args), (name, args));
        }

        #[test]
        fn no_body_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 1..200), stream: bool) {
            let body = Body::json_raw(bytes);
            let _ = parse(&body, stream);
            let _ = without_lone_surrogates(&body.lossy_text());
            let _ = RemoteError::from_body(&body);
        }
    }
}
