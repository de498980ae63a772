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
        feed(self.at(i))
    }

    /// The argument at `i` as a message's id, or an error that names it.
    pub fn message(&self, i: usize) -> Result<MessageId, RemoteError> {
        let text = self.at(i).and_then(|v| v.as_str().or_else(|| v.get("id")?.as_str()));
        let text = text.ok_or_else(|| RemoteError::new("expected a message id"))?;
        text.parse().map_err(|_| RemoteError::new(format!("not a message id: {text}")))
    }
}

/// An argument as a feed: the id, or an object that has it under `id`.
fn feed(value: Option<&Value>) -> Result<FeedId, RemoteError> {
    let text = value.and_then(|v| v.as_str().or_else(|| v.get("id")?.as_str()));
    let text = text.ok_or_else(|| RemoteError::new("expected a feed id"))?;
    text.parse().map_err(|_| RemoteError::new(format!("not a feed id: {text}")))
}

/// Options of a call; an absent object has none.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a>(Option<&'a Map<String, Value>>);

impl<'a> Options<'a> {
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
        feed(self.value(name))
    }
}

#[cfg(test)]
impl From<Vec<Value>> for Args {
    fn from(values: Vec<Value>) -> Self {
        let raw = serde_json::to_vec(&values).expect("JSON values print").into();
        Self { values, raw }
    }
}
