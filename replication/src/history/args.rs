//! The arguments of `createHistoryStream`, as the JavaScript peers read and write them.

use serde_json::{Map, Value};

use crate::refs::FeedId;

/// What the items of the stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `{key, value, timestamp}`.
    KeyValue,
    /// The bare message.
    Value,
    /// The message's id.
    Key,
}

/// What a caller asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryPlan {
    /// Which feed.
    pub feed: FeedId,
    /// The first sequence wanted; at least 1. Sequences are inclusive: a caller that holds `n` asks
    /// for `n + 1`, though some ask for `n` and get one message twice.
    pub from: u64,
    /// How many messages at most.
    pub limit: Option<u64>,
    /// Whether to go on with messages that are yet to come.
    pub live: bool,
    /// Whether to send those that are there.
    pub old: bool,
    /// What the items are.
    pub shape: Shape,
}

/// The caller's arguments make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidArgs {
    /// Not an array of an object, nor of a feed and a sequence.
    #[error("createHistoryStream expects an object with an id, or a feed id")]
    NoObject,
    /// The `id` is missing or not a classic feed.
    #[error("id is not a feed")]
    NotAFeed,
    /// A number is something else.
    #[error("{name} must be a number")]
    NotANumber {
        /// The argument's name.
        name: &'static str,
    },
}

impl HistoryPlan {
    /// Reads the call's arguments: `[{id, seq, …}]` or `[id, seq, live]`. As in JavaScript, what is
    /// `null` counts as absent, `sequence` goes before `seq` unless it is 0, and `keys`, `values` and
    /// `old` are off only if they are `false`.
    pub fn from_args(args: &[Value]) -> Result<Self, InvalidArgs> {
        match args {
            [Value::Object(options), ..] => Self::from_options(options),
            [Value::String(id), rest @ ..] => {
                let argument = |i: usize| rest.get(i).unwrap_or(&Value::Null);
                Ok(Self {
                    from: sequence(argument(0), "seq")?,
                    live: truthy(argument(1)),
                    ..Self::all(feed(id)?)
                })
            }
            _ => Err(InvalidArgs::NoObject),
        }
    }

    fn from_options(options: &Map<String, Value>) -> Result<Self, InvalidArgs> {
        let option = |name: &str| options.get(name).unwrap_or(&Value::Null);
        let is_off = |name: &str| *option(name) == Value::Bool(false);
        let id = option("id").as_str().ok_or(InvalidArgs::NotAFeed)?;
        let (first, name) =
            if truthy(option("sequence")) { ("sequence", "sequence") } else { ("seq", "seq") };
        Ok(Self {
            feed: feed(id)?,
            from: sequence(option(first), name)?,
            limit: limit(option("limit"))?,
            live: truthy(option("live")),
            old: !is_off("old"),
            shape: match (is_off("keys"), is_off("values")) {
                (true, false) => Shape::Value,
                (false, true) => Shape::Key,
                (false, false) | (true, true) => Shape::KeyValue,
            },
        })
    }

    /// The whole feed, as a call without options means it.
    fn all(feed: FeedId) -> Self {
        Self { feed, from: 1, limit: None, live: false, old: true, shape: Shape::KeyValue }
    }
}

/// The arguments to ask a peer for what follows `have`. Always `seq`, as go-ssb knows no other name, and
/// always `keys`, as its default differs.
pub fn history_request(feed: &FeedId, have: u64, live: bool) -> String {
    format!(r#"[{{"id":"{feed}","seq":{},"live":{live},"keys":false}}]"#, have.saturating_add(1))
}

fn feed(id: &str) -> Result<FeedId, InvalidArgs> {
    id.parse().map_err(|_| InvalidArgs::NotAFeed)
}

/// Messages with this sequence or a higher one; so a fraction counts as the next integer.
fn sequence(value: &Value, name: &'static str) -> Result<u64, InvalidArgs> {
    // Casting saturates, and what is not a number at all was refused.
    number(value, name).map(|n| n.map_or(1, |n| n.ceil().max(1.0) as u64))
}

/// Negative limits mean none.
fn limit(value: &Value) -> Result<Option<u64>, InvalidArgs> {
    number(value, "limit").map(|n| n.filter(|&n| n >= 0.0).map(|n| n.ceil() as u64))
}

fn number(value: &Value, name: &'static str) -> Result<Option<f64>, InvalidArgs> {
    match value {
        Value::Null | Value::Bool(false) => Ok(None),
        Value::Number(number) => Ok(number.as_f64()),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::Bool(true) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            Err(InvalidArgs::NotANumber { name })
        }
    }
}

fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const ALICE: &str = "@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=.ed25519";

    fn plan(mut options: Value) -> HistoryPlan {
        options["id"] = ALICE.into();
        HistoryPlan::from_args(&[options]).unwrap()
    }

    fn all() -> HistoryPlan {
        HistoryPlan::all(ALICE.parse().unwrap())
    }

    #[test]
    fn without_options_the_whole_feed_with_keys_is_meant() {
        assert_eq!(plan(json!({})), all());
        let nothing =
            json!({"seq": null, "sequence": null, "limit": null, "keys": null, "old": null, "live": null});
        assert_eq!(plan(nothing), all());
        assert_eq!(HistoryPlan::from_args(&[ALICE.into()]).unwrap(), all());
    }

    #[test]
    fn what_javascript_peers_send_is_understood() {
        let sent = plan(json!({"seq": 7, "live": true, "keys": false}));
        assert_eq!(sent, HistoryPlan { from: 7, live: true, shape: Shape::Value, ..all() });
    }

    #[test]
    fn sequence_goes_before_seq_unless_it_is_zero() {
        assert_eq!(plan(json!({"sequence": 5, "seq": 9})).from, 5);
        assert_eq!(plan(json!({"sequence": 0, "seq": 9})).from, 9);
        assert_eq!(plan(json!({"sequence": 5})).from, 5);
        assert_eq!(plan(json!({"seq": 0})).from, 1);
        assert_eq!(plan(json!({"seq": -3})).from, 1);
        assert_eq!(plan(json!({"seq": 2.5})).from, 3);
        assert_eq!(plan(json!({"seq": 1e300})).from, u64::MAX);
    }

    #[test]
    fn the_positional_form_is_feed_sequence_live() {
        let plan = HistoryPlan::from_args(&[ALICE.into(), 4.into(), true.into()]).unwrap();
        assert_eq!(plan, HistoryPlan { from: 4, live: true, ..all() });
        let plan = HistoryPlan::from_args(&[ALICE.into(), Value::Null]).unwrap();
        assert_eq!(plan, all());
    }

    #[test]
    fn a_negative_limit_is_none() {
        assert_eq!(plan(json!({"limit": -1})).limit, None);
        assert_eq!(plan(json!({"limit": 0})).limit, Some(0));
        assert_eq!(plan(json!({"limit": 3})).limit, Some(3));
    }

    #[test]
    fn only_false_turns_keys_values_and_old_off() {
        assert_eq!(plan(json!({"keys": 0, "values": "", "old": 0})), all());
        assert_eq!(plan(json!({"values": false})).shape, Shape::Key);
        assert_eq!(plan(json!({"keys": false, "values": false})).shape, Shape::KeyValue);
        assert!(!plan(json!({"old": false})).old);
        assert!(plan(json!({"live": 1})).live);
    }

    #[test]
    fn senseless_arguments_are_refused() {
        let refused = |args: &[Value]| HistoryPlan::from_args(args).unwrap_err();
        assert_eq!(refused(&[]), InvalidArgs::NoObject);
        assert_eq!(refused(&[Value::Null]), InvalidArgs::NoObject);
        assert_eq!(refused(&[json!({})]), InvalidArgs::NotAFeed);
        assert_eq!(refused(&[json!({"id": "@x.ed25519"})]), InvalidArgs::NotAFeed);
        assert_eq!(refused(&[json!("ssb:feed/bendybutt-v1/x")]), InvalidArgs::NotAFeed);
        assert_eq!(refused(&[json!({"id": ALICE, "seq": "1"})]), InvalidArgs::NotANumber { name: "seq" });
        assert_eq!(refused(&[json!({"id": ALICE, "limit": {}})]), InvalidArgs::NotANumber { name: "limit" });
    }

    #[test]
    fn our_own_requests_read_as_meant() {
        let request = history_request(&ALICE.parse().unwrap(), 6, true);
        assert_eq!(request, format!(r#"[{{"id":"{ALICE}","seq":7,"live":true,"keys":false}}]"#));
        let args: Vec<Value> = serde_json::from_str(&request).unwrap();
        let plan = HistoryPlan::from_args(&args).unwrap();
        assert_eq!(plan, HistoryPlan { from: 7, live: true, shape: Shape::Value, ..all() });
    }

    proptest! {
        #[test]
        fn no_arguments_panic(seq in any::<f64>(), limit in any::<i64>(), text: String) {
            let options = json!({"id": ALICE, "seq": seq, "limit": limit, "sequence": text});
            if let Ok(plan) = HistoryPlan::from_args(&[options]) {
                prop_assert!(plan.from >= 1);
            }
            let _ = HistoryPlan::from_args(&[text.into(), limit.into()]);
        }
    }
}
