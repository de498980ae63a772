//! Map-filter-reduce over JSON values: the language of `query.read` and `backlinks.read` (npm `map-filter-reduce` 3).
//!
//! A query is a list of steps. `$filter` keeps what fits, `$map` makes other values of what comes, `$reduce` and `$sort`
//! wait for everything and then give what they made of it. Whoever runs a query feeds a [`Run`] with
//! [`push`](Run::push), takes what comes out, and says with [`finish`](Run::finish) that nothing follows. What always
//! holds:
//!
//! - values compare, count and convert as in JavaScript, and what is `undefined` there is absent here;
//! - what a step has to keep is bounded by [`MAX_KEPT`].

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

mod reduce;
mod rule;
#[cfg(test)]
mod tests;

use reduce::Reducer;
use rule::{Rule, Test};

/// Groups or items that one step keeps at most.
pub const MAX_KEPT: usize = 200_000;
/// How deep rules may be nested.
const MAX_DEPTH: usize = 32;

/// Why a query cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A step, or a part of one, that means nothing.
    #[error("could not process:{0}")]
    Unknown(String),
    /// Not a list of steps.
    #[error("a query is an array of {{$filter}}, {{$map}}, {{$reduce}} and {{$sort}}")]
    NotAList,
    /// A step keeps too much.
    #[error("the query collects more than {MAX_KEPT} items: filter more")]
    TooMuch,
}

/// What to do with a stream of values.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    steps: Vec<Step>,
    filter: Value,
    sort: Option<Value>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Filter(Test),
    Map(Rule),
    Reduce(Reducer),
    Sort(Vec<Rule>),
}

impl Query {
    /// Reads the `query` of a call's options: a list of steps, a filter alone, or nothing; also as text.
    pub fn parse(query: Option<&Value>) -> Result<Self, QueryError> {
        let steps = match query {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(steps)) => steps.clone(),
            Some(filter @ Value::Object(_)) => {
                vec![Value::Object(Map::from_iter([("$filter".to_owned(), filter.clone())]))]
            }
            Some(Value::String(text)) => {
                let inner: Value = serde_json::from_str(text).map_err(|_| QueryError::NotAList)?;
                return if inner.is_string() { Err(QueryError::NotAList) } else { Self::parse(Some(&inner)) };
            }
            Some(Value::Bool(_) | Value::Number(_)) => return Err(QueryError::NotAList),
        };
        let steps: Vec<Value> = steps.into_iter().filter(|step| !step.is_null()).collect();
        let filter = steps.first().and_then(|step| step.get("$filter")).cloned().unwrap_or(Value::Null);
        let sort = steps.last().and_then(|step| step.get("$sort")).cloned();
        let steps = steps.iter().map(Step::parse).collect::<Result<_, _>>()?;
        Ok(Self { steps, filter, sort })
    }

    /// What the first step keeps, by which an index is chosen; `null` if it is no filter.
    pub const fn filter(&self) -> &Value {
        &self.filter
    }

    /// By what the last step sorts.
    pub const fn sort(&self) -> Option<&Value> {
        self.sort.as_ref()
    }

    /// The same query without sorting at the end: what comes is in order.
    #[must_use]
    pub fn sorted_before(mut self) -> Self {
        if matches!(self.steps.last(), Some(Step::Sort(_))) {
            self.steps.pop();
        }
        self
    }

    /// Whether something comes out before everything is in.
    pub fn is_streaming(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, Step::Filter(_) | Step::Map(_)))
    }

    /// Begins to run it.
    pub fn run(&self) -> Run {
        let state = |step: &Step| match step {
            Step::Filter(_) | Step::Map(_) => Kept::Nothing,
            Step::Reduce(_) => Kept::Groups(BTreeMap::new()),
            Step::Sort(_) => Kept::Items(Vec::new()),
        };
        Run { kept: self.steps.iter().map(state).collect(), steps: self.steps.clone() }
    }
}

impl Step {
    fn parse(step: &Value) -> Result<Self, QueryError> {
        let unknown = || QueryError::Unknown(step.to_string());
        let (name, rule) = step.as_object().and_then(|step| step.iter().next()).ok_or_else(unknown)?;
        match name.as_str() {
            "$filter" => Test::parse(rule, 0).map(Self::Filter),
            "$map" => Rule::parse_map(rule, 0).map(Self::Map),
            "$reduce" => Reducer::parse(rule, 0).map(Self::Reduce),
            "$sort" => {
                let paths = rule.as_array().ok_or_else(unknown)?;
                paths.iter().map(|path| Rule::parse(path, 0)).collect::<Result<_, _>>().map(Self::Sort)
            }
            _ => Err(unknown()),
        }
    }
}

/// A query under way.
#[derive(Debug)]
pub struct Run {
    steps: Vec<Step>,
    kept: Vec<Kept>,
}

/// What a step keeps until everything is in.
#[derive(Debug)]
enum Kept {
    Nothing,
    Groups(BTreeMap<Vec<Key>, Value>),
    Items(Vec<Value>),
}

impl Run {
    /// Takes a value; what comes of it now is appended to `out`.
    pub fn push(&mut self, value: Value, out: &mut Vec<Value>) -> Result<(), QueryError> {
        self.push_from(0, value, out)
    }

    /// Nothing follows: what was kept is appended to `out`.
    pub fn finish(mut self, out: &mut Vec<Value>) -> Result<(), QueryError> {
        for at in 0..self.steps.len() {
            let kept = std::mem::replace(&mut self.kept[at], Kept::Nothing);
            for value in self.steps[at].give(kept) {
                self.push_from(at + 1, value, out)?;
            }
        }
        Ok(())
    }

    fn push_from(&mut self, from: usize, mut value: Value, out: &mut Vec<Value>) -> Result<(), QueryError> {
        for (step, kept) in self.steps.iter().zip(&mut self.kept).skip(from) {
            match (step, kept) {
                (Step::Filter(test), _) => {
                    if !test.holds(Some(&value)) {
                        return Ok(());
                    }
                }
                (Step::Map(rule), _) => match rule.apply(Some(&value)) {
                    Some(mapped) if is_truthy(Some(&mapped)) => value = mapped,
                    Some(_) | None => return Ok(()),
                },
                (Step::Reduce(reducer), Kept::Groups(groups)) => return reducer.take(groups, &value),
                (Step::Sort(_), Kept::Items(items)) if items.len() < MAX_KEPT => {
                    items.push(value);
                    return Ok(());
                }
                (Step::Reduce(_) | Step::Sort(_), _) => return Err(QueryError::TooMuch),
            }
        }
        out.push(value);
        Ok(())
    }
}

impl Step {
    /// What a step gives at the end.
    fn give(&self, kept: Kept) -> Vec<Value> {
        match (self, kept) {
            (Self::Reduce(reducer), Kept::Groups(groups)) => reducer.give(groups),
            (Self::Sort(paths), Kept::Items(items)) => {
                let keys = |item: &Value| -> Vec<Key> {
                    paths.iter().map(|path| Key(path.apply(Some(item)))).collect()
                };
                let mut items: Vec<_> = items.into_iter().map(|item| (keys(&item), item)).collect();
                items.sort_by(|one, other| one.0.cmp(&other.0));
                items.into_iter().map(|(_, item)| item).collect()
            }
            (Self::Filter(_) | Self::Map(_) | Self::Reduce(_) | Self::Sort(_), _) => Vec::new(),
        }
    }
}

/// A value by which others are ordered: `null`, truth values, numbers, texts, lists, objects, `undefined`.
#[derive(Clone, Debug, PartialEq)]
struct Key(Option<Value>);

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        order(self.0.as_ref(), other.0.as_ref())
    }
}

fn order(one: Option<&Value>, other: Option<&Value>) -> Ordering {
    const fn rank(value: Option<&Value>) -> u8 {
        match value {
            Some(Value::Null) => 0,
            Some(Value::Bool(_)) => 1,
            Some(Value::Number(_)) => 2,
            Some(Value::String(_)) => 3,
            Some(Value::Array(_)) => 4,
            Some(Value::Object(_)) => 5,
            None => 6,
        }
    }
    match (one, other) {
        (Some(Value::Bool(one)), Some(Value::Bool(other))) => one.cmp(other),
        (Some(Value::Number(one)), Some(Value::Number(other))) => {
            let number = |n: &serde_json::Number| n.as_f64().unwrap_or(f64::NAN);
            number(one).total_cmp(&number(other))
        }
        (Some(Value::String(one)), Some(Value::String(other))) => {
            one.encode_utf16().cmp(other.encode_utf16())
        }
        (Some(Value::Array(one)), Some(Value::Array(other))) => {
            let items = one.iter().zip(other).map(|(one, other)| order(Some(one), Some(other)));
            items.fold(Ordering::Equal, Ordering::then).then(one.len().cmp(&other.len()))
        }
        (Some(Value::Object(one)), Some(Value::Object(other))) => {
            let text = |object: &Map<String, Value>| serde_json::to_string(object).unwrap_or_default();
            text(one).cmp(&text(other))
        }
        _ => rank(one).cmp(&rank(other)),
    }
}

/// Whether JavaScript takes a value for true.
pub(crate) fn is_truthy(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(flag)) => *flag,
        Some(Value::Number(number)) => number.as_f64().is_some_and(|n| n != 0.0 && !n.is_nan()),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(_) | Value::Object(_)) => true,
    }
}

/// A value as JavaScript's number.
fn to_number(value: Option<&Value>) -> f64 {
    match value {
        Some(Value::Null) => 0.0,
        Some(Value::Bool(flag)) => f64::from(u8::from(*flag)),
        Some(Value::Number(number)) => number.as_f64().unwrap_or(f64::NAN),
        Some(Value::String(text)) if text.trim().is_empty() => 0.0,
        Some(Value::String(text)) => text.trim().parse().unwrap_or(f64::NAN),
        None | Some(Value::Array(_) | Value::Object(_)) => f64::NAN,
    }
}

/// A number as JSON, whole ones as JavaScript writes them; what is none is `null`.
pub fn from_number(number: f64) -> Value {
    /// Beyond, not every whole number is one.
    const WHOLE: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= WHOLE {
        Value::from(number as i64)
    } else {
        Value::from(number)
    }
}
