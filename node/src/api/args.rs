//! Arguments of a call, read as JS clients write them: absent, `null` and too many are all fine.

use bytes::Bytes;
use hawsepipe_overlay::muxrpc::{Call, RemoteError};
use hawsepipe_replication::refs::{FeedId, MessageId};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The arguments of one call.
#[derive(Clone, Debug, Default)]
pub struct Args {
    values: Vec<Value>,
    raw: Bytes,
}

impl Args {
    /// The arguments of `call`.
    pub fn of(call: &Call) -> Self {
        Self { values: call.args.clone(), raw: call.raw_args.clone() }
    }

    /// All of them.
    pub fn all(&self) -> &[Value] {
        &self.values
    }

    /// The argument at `i`; `null` counts as absent.
    pub fn at(&self, i: usize) -> Option<&Value> {
        self.values.get(i).filter(|value| !value.is_null())
    }

    /// The argument at `i` as the caller wrote it: the order of keys matters where something is signed.
    pub fn raw(&self, i: usize) -> Option<&str> {
        let args: Vec<&RawValue> = serde_json::from_slice(&self.raw).ok()?;
        args.get(i).map(|value| value.get()).filter(|text| *text != "null")
    }

    /// The first argument as an object of options; empty if it is something else.
    pub fn options(&self) -> Options<'_> {
        Options(self.at(0).and_then(Value::as_object))
    }

    /// The argument at `i` as text.
    pub fn text(&self, i: usize) -> Option<&str> {
        self.at(i)?.as_str()
    }

    /// The argument at `i` as a feed, or an error that names it.
    pub fn feed(&self, i: usize) -> Result<FeedId, RemoteError> {
        let value = self.at(i).ok_or_else(|| missing(i))?;
        feed(value).ok_or_else(|| mistyped(i, "feedId", value))
    }

    /// The argument at `i` as a message's id, or an error that names it.
    pub fn message(&self, i: usize) -> Result<MessageId, RemoteError> {
        let value = self.at(i).ok_or_else(|| missing(i))?;
        let text = value.as_str().or_else(|| value.get("id")?.as_str());
        text.and_then(|text| text.parse().ok()).ok_or_else(|| mistyped(i, "msgId", value))
    }
}

/// What JS answers when the argument at `i` is not there.
pub(super) fn missing(i: usize) -> RemoteError {
    RemoteError { name: "UsageError".to_owned(), ..RemoteError::new(format!("Param {i} is required")) }
}

/// What JS answers when the argument at `i` is of another type, its spelling included, and what was given.
pub(super) fn mistyped(i: usize, expected: &str, given: &Value) -> RemoteError {
    let mut given = given.to_string();
    if given.len() > MAX_ECHO {
        given = given.chars().take(MAX_ECHO).chain("…".chars()).collect();
    }
    let message = format!("Param {i} must by of type {expected}, was: {given}");
    RemoteError { name: "TypeError".to_owned(), ..RemoteError::new(message) }
}

/// How much of a wrong argument an error repeats.
const MAX_ECHO: usize = 100;

/// An argument as a feed: the id, or an object that has it under `id`.
fn feed(value: &Value) -> Option<FeedId> {
    value.as_str().or_else(|| value.get("id")?.as_str())?.parse().ok()
}

/// Options of a call; an absent object has none.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a>(Option<&'a Map<String, Value>>);

impl<'a> Options<'a> {
    #[cfg(test)]
    pub fn of(value: &'a Value) -> Self {
        Self(value.as_object())
    }

    /// No options.
    pub const fn none() -> Self {
        Self(None)
    }

    /// The option of that name; `null` counts as absent.
    pub fn value(&self, name: &str) -> Option<&'a Value> {
        self.0?.get(name).filter(|value| !value.is_null())
    }

    /// The option as a truth value, as JS would take it.
    pub fn flag(&self, name: &str, default: bool) -> bool {
        match self.value(name) {
            None => default,
            Some(Value::Bool(flag)) => *flag,
            Some(Value::Number(n)) => n.as_f64() != Some(0.0),
            Some(Value::String(text)) => !text.is_empty() && text != "false",
            Some(Value::Null | Value::Array(_) | Value::Object(_)) => true,
        }
    }

    /// The option as a number.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.value(name)?.as_f64()
    }

    /// The option as text.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.value(name)?.as_str()
    }

    /// Whether the caller says that packets may share boxes of the box stream (`boxes: "shared"`): another Hawsepipe.
    pub fn takes_shared_boxes(&self) -> bool {
        self.text("boxes") == Some("shared")
    }

    /// The option as a feed, or an error that names it.
    pub fn feed(&self, name: &str) -> Result<FeedId, RemoteError> {
        let value =
            self.value(name).ok_or_else(|| RemoteError::new(format!("expected a feed id as {name}")))?;
        feed(value).ok_or_else(|| RemoteError::new(format!("{name} is not a feed id: {value}")))
    }
}

#[cfg(test)]
impl From<Vec<Value>> for Args {
    fn from(values: Vec<Value>) -> Self {
        let raw = serde_json::to_vec(&values).expect("JSON values print").into();
        Self { values, raw }
    }
}
