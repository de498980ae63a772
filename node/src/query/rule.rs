//! What is taken out of a value, and whether a value fits.

use serde_json::{Map, Value};

use super::{MAX_DEPTH, QueryError, from_number, is_truthy, to_number};

/// Makes a value out of another, or nothing.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rule {
    /// The value itself.
    Whole,
    /// A member.
    Key(String),
    /// An item of a list, negative from its end.
    Index(i64),
    /// One after the other.
    Path(Vec<Self>),
    /// All operators in turn, up to the first whose result is not true.
    Operators(Vec<Operator>),
    /// An object with these members.
    Shape(Vec<(String, Self)>),
    /// Whether it fits.
    Fits(Box<Test>),
}

/// One `$operator` with its argument.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operator {
    Lt(Value),
    Gt(Value),
    Lte(Value),
    Gte(Value),
    Eq(Value),
    Ne(Value),
    Not,
    Truthy,
    Prefix(Value),
    Is(Value),
    In(Value),
    Type,
    Int,
    Mod(Value),
    Get(Value),
}

/// Whether a value is kept.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Test {
    /// Its members fit.
    Members(Vec<(String, Self)>),
    /// It is this.
    Is(Value),
    /// What comes of it is true.
    Truthy(Rule),
}

impl Rule {
    /// Reads what is not an object of members.
    pub(super) fn parse(rule: &Value, depth: usize) -> Result<Self, QueryError> {
        let unknown = || QueryError::Unknown(rule.to_string());
        if depth > MAX_DEPTH {
            return Err(unknown());
        }
        match rule {
            Value::Bool(true) => Ok(Self::Whole),
            Value::String(key) => Ok(Self::Key(key.clone())),
            Value::Number(index) => index.as_i64().map(Self::Index).ok_or_else(unknown),
            Value::Array(rules) => rules
                .iter()
                .map(|rule| Self::parse(rule, depth + 1))
                .collect::<Result<_, _>>()
                .map(Self::Path),
            Value::Object(members) => {
                let operators: Vec<Operator> =
                    members.iter().filter_map(|(name, value)| Operator::parse(name, value)).collect();
                if !operators.is_empty() {
                    return Ok(Self::Operators(operators));
                }
                if let Some(map) = members.get("$map") {
                    return Self::parse_map(map, depth + 1);
                }
                let filter = members.get("$filter").ok_or_else(unknown)?;
                Test::parse(filter, depth + 1).map(|test| Self::Fits(Box::new(test)))
            }
            Value::Null | Value::Bool(false) => Err(unknown()),
        }
    }

    /// Reads the argument of `$map`: members may be rules of their own.
    pub(super) fn parse_map(rule: &Value, depth: usize) -> Result<Self, QueryError> {
        let Some(members) = rule.as_object().filter(|members| !has_operator(members)) else {
            return Self::parse(rule, depth);
        };
        if depth > MAX_DEPTH {
            return Err(QueryError::Unknown(rule.to_string()));
        }
        let shape = members.iter().map(|(name, rule)| {
            let rule = if *rule == Value::Bool(true) {
                Self::Key(name.clone())
            } else {
                Self::parse_map(rule, depth + 1)?
            };
            Ok((name.clone(), rule))
        });
        shape.collect::<Result<_, _>>().map(Self::Shape)
    }

    /// What comes of a value.
    pub(super) fn apply(&self, value: Option<&Value>) -> Option<Value> {
        match self {
            Self::Whole => value.cloned(),
            Self::Key(key) => member(value?, key).map(std::borrow::Cow::into_owned),
            Self::Index(index) => item(value?, *index).cloned(),
            Self::Path(rules) => rules.iter().fold(value.cloned(), |value, rule| rule.apply(value.as_ref())),
            Self::Operators(operators) => {
                let mut last = None;
                for operator in operators {
                    last = operator.apply(value);
                    if !is_truthy(last.as_ref()) {
                        break;
                    }
                }
                last
            }
            Self::Shape(members) => {
                let value = value.filter(|value| !value.is_null())?;
                let made = members
                    .iter()
                    .filter_map(|(name, rule)| rule.apply(Some(value)).map(|value| (name.clone(), value)));
                let shape: Map<String, Value> = made.collect();
                (!members.is_empty()).then_some(Value::Object(shape))
            }
            Self::Fits(test) => Some(Value::Bool(test.holds(value))),
        }
    }
}

impl Test {
    pub(super) fn parse(rule: &Value, depth: usize) -> Result<Self, QueryError> {
        if depth > MAX_DEPTH {
            return Err(QueryError::Unknown(rule.to_string()));
        }
        let part = |name: String, rule: &Value| Ok((name, Self::parse(rule, depth + 1)?));
        match rule {
            Value::Object(members) if !has_operator(members) => {
                let members = members.iter().map(|(name, rule)| part(name.clone(), rule));
                members.collect::<Result<_, _>>().map(Self::Members)
            }
            Value::Array(items) => {
                let items = items.iter().enumerate().map(|(at, rule)| part(at.to_string(), rule));
                items.collect::<Result<_, _>>().map(Self::Members)
            }
            Value::Object(_) => Rule::parse(rule, depth).map(Self::Truthy),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(Self::Is(rule.clone())),
        }
    }

    pub(super) fn holds(&self, value: Option<&Value>) -> bool {
        match self {
            Self::Members(members) => {
                let Some(value) = value.filter(|value| !value.is_null()) else { return false };
                members.iter().all(|(name, test)| test.holds(member(value, name).as_deref()))
            }
            Self::Is(expected) => is_same(value, expected),
            Self::Truthy(rule) => is_truthy(rule.apply(value).as_ref()),
        }
    }
}

impl Operator {
    fn parse(name: &str, argument: &Value) -> Option<Self> {
        let argument = argument.clone();
        Some(match name {
            "$lt" => Self::Lt(argument),
            "$gt" => Self::Gt(argument),
            "$lte" => Self::Lte(argument),
            "$gte" => Self::Gte(argument),
            "$eq" => Self::Eq(argument),
            "$ne" => Self::Ne(argument),
            "$not" => Self::Not,
            "$truthy" => Self::Truthy,
            "$prefix" => Self::Prefix(argument),
            "$is" => Self::Is(argument),
            "$in" => Self::In(argument),
            "$type" => Self::Type,
            "$int" => Self::Int,
            "$mod" => Self::Mod(argument),
            "$get" => Self::Get(argument),
            _ => return None,
        })
    }

    fn apply(&self, value: Option<&Value>) -> Option<Value> {
        let truth = match self {
            Self::Lt(other) => compares(value, other, |order| order.is_lt()),
            Self::Gt(other) => compares(value, other, |order| order.is_gt()),
            Self::Lte(other) => compares(value, other, |order| order.is_le()),
            Self::Gte(other) => compares(value, other, |order| order.is_ge()),
            Self::Eq(other) => is_same(value, other),
            Self::Ne(other) => !is_same(value, other),
            Self::Not => !is_truthy(value),
            Self::Truthy => is_truthy(value),
            Self::Prefix(prefix) => has_prefix(value, prefix),
            Self::Is(kind) => kind.as_str() == Some(type_of(value)),
            Self::In(set) => match set {
                Value::Array(items) => items.iter().any(|item| is_same(value, item)),
                Value::String(text) => value.and_then(Value::as_str).is_some_and(|part| text.contains(part)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
            },
            Self::Type => return Some(Value::from(type_of(value))),
            Self::Int => value.and_then(Value::as_f64).is_some_and(|n| n.fract() == 0.0),
            Self::Mod(by) => return Some(from_number(to_number(value) % to_number(Some(by)))),
            Self::Get(path) => return Rule::parse(path, 0).ok()?.apply(value),
        };
        Some(Value::Bool(truth))
    }
}

/// Whether an object is one of operators, not of members.
pub(super) fn has_operator(members: &Map<String, Value>) -> bool {
    members.keys().any(|name| name.starts_with('$'))
}

/// A member of a value as JavaScript finds it.
fn member<'a>(value: &'a Value, name: &str) -> Option<std::borrow::Cow<'a, Value>> {
    use std::borrow::Cow::{Borrowed, Owned};
    match value {
        Value::Object(members) => members.get(name).map(Borrowed),
        Value::Array(items) if name == "length" => Some(Owned(Value::from(items.len()))),
        Value::Array(items) => items.get(name.parse::<usize>().ok()?).map(Borrowed),
        Value::String(text) if name == "length" => Some(Owned(Value::from(text.encode_utf16().count()))),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn item(value: &Value, index: i64) -> Option<&Value> {
    let items = value.as_array()?;
    let at = if index < 0 { i64::try_from(items.len()).ok()? + index } else { index };
    items.get(usize::try_from(at).ok()?)
}

/// `===`, which is never true of two objects.
fn is_same(value: Option<&Value>, other: &Value) -> bool {
    match (value, other) {
        (Some(Value::Number(one)), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Some(Value::Array(_) | Value::Object(_)), _) | (None, _) => false,
        (Some(one), other) => one == other,
    }
}

/// JavaScript's `<` and its kin.
fn compares(value: Option<&Value>, other: &Value, holds: impl Fn(std::cmp::Ordering) -> bool) -> bool {
    let order = match (value, other) {
        (Some(Value::String(one)), Value::String(other)) => {
            Some(one.encode_utf16().cmp(other.encode_utf16()))
        }
        _ => to_number(value).partial_cmp(&to_number(Some(other))),
    };
    order.is_some_and(holds)
}

fn has_prefix(value: Option<&Value>, prefix: &Value) -> bool {
    match (value, prefix) {
        (Some(Value::Array(items)), Value::Array(prefix)) => {
            items.len() > prefix.len()
                && prefix.iter().zip(items).all(|(one, other)| is_same(Some(other), one))
        }
        (Some(Value::String(text)), Value::String(prefix)) => text.starts_with(prefix.as_str()),
        _ => false,
    }
}

const fn type_of(value: Option<&Value>) -> &'static str {
    match value {
        None => "undefined",
        Some(Value::Bool(_)) => "boolean",
        Some(Value::Number(_)) => "number",
        Some(Value::String(_)) => "string",
        Some(Value::Null | Value::Array(_) | Value::Object(_)) => "object",
    }
}
