//! `$reduce`: many values become one, or one for each group.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::rule::{Rule, has_operator};
use super::{Key, MAX_DEPTH, MAX_KEPT, QueryError, from_number, to_number};

/// What is made of all values.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reducer {
    /// One figure.
    Fold(Fold, Rule),
    /// What the values of a group have in common.
    Group(Rule),
    /// Several of these.
    Shape(Vec<(String, Self)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fold {
    Count,
    Sum,
    Product,
    Max,
    Min,
    Collect,
}

impl Reducer {
    pub(super) fn parse(rule: &Value, depth: usize) -> Result<Self, QueryError> {
        if depth > MAX_DEPTH {
            return Err(QueryError::Unknown(rule.to_string()));
        }
        let Some(members) = rule.as_object() else { return Rule::parse(rule, depth).map(Self::Group) };
        let fold = members.iter().find_map(|(name, argument)| Some((Fold::named(name)?, argument)));
        if let Some((fold, argument)) = fold {
            return Rule::parse(argument, depth + 1).map(|rule| Self::Fold(fold, rule));
        }
        if has_operator(members) {
            return Rule::parse(rule, depth).map(Self::Group);
        }
        let members = members.iter().map(|(name, rule)| Ok((name.clone(), Self::parse(rule, depth + 1)?)));
        members.collect::<Result<_, _>>().map(Self::Shape)
    }

    /// Adds a value to its group.
    pub(super) fn take(
        &self,
        groups: &mut BTreeMap<Vec<Key>, Value>,
        value: &Value,
    ) -> Result<(), QueryError> {
        let mut key = Vec::new();
        self.group_of(value, &mut key);
        let is_full = groups.len() >= MAX_KEPT;
        match groups.entry(key) {
            std::collections::btree_map::Entry::Occupied(mut group) => {
                let before = group.get_mut().take();
                *group.get_mut() = self.fold(Some(before), value)?.unwrap_or(Value::Null);
            }
            std::collections::btree_map::Entry::Vacant(_) if is_full => return Err(QueryError::TooMuch),
            std::collections::btree_map::Entry::Vacant(group) => {
                group.insert(self.fold(None, value)?.unwrap_or(Value::Null));
            }
        }
        Ok(())
    }

    /// What came of all values: the groups in order; without groups a list's items, an object's values, or the figure.
    pub(super) fn give(&self, groups: BTreeMap<Vec<Key>, Value>) -> Vec<Value> {
        if self.has_groups() {
            return groups.into_values().collect();
        }
        match groups.into_values().next() {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(Value::Object(members)) => members.into_iter().map(|(_, value)| value).collect(),
            Some(figure @ (Value::Bool(_) | Value::Number(_) | Value::String(_))) => vec![figure],
        }
    }

    fn has_groups(&self) -> bool {
        match self {
            Self::Fold(..) => false,
            Self::Group(_) => true,
            Self::Shape(members) => members.iter().any(|(_, member)| member.has_groups()),
        }
    }

    fn group_of(&self, value: &Value, key: &mut Vec<Key>) {
        match self {
            Self::Fold(..) => {}
            Self::Group(rule) => key.push(Key(rule.apply(Some(value)))),
            Self::Shape(members) => members.iter().for_each(|(_, member)| member.group_of(value, key)),
        }
    }

    fn fold(&self, before: Option<Value>, value: &Value) -> Result<Option<Value>, QueryError> {
        match self {
            Self::Fold(fold, rule) => fold.apply(before, rule.apply(Some(value))),
            Self::Group(rule) => Ok(rule.apply(Some(value))),
            Self::Shape(members) => {
                let mut shape = match before {
                    Some(Value::Object(shape)) => shape,
                    Some(_) | None => Map::new(),
                };
                for (name, member) in members {
                    let before = shape.get_mut(name).map(Value::take);
                    if let Some(after) = member.fold(before, value)? {
                        shape.insert(name.clone(), after);
                    }
                }
                Ok(Some(Value::Object(shape)))
            }
        }
    }
}

impl Fold {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "$count" => Self::Count,
            "$sum" => Self::Sum,
            "$product" => Self::Product,
            "$max" => Self::Max,
            "$min" => Self::Min,
            "$collect" => Self::Collect,
            _ => return None,
        })
    }

    fn apply(self, before: Option<Value>, value: Option<Value>) -> Result<Option<Value>, QueryError> {
        let or = |value: Option<&Value>, default: f64| {
            let number = to_number(value);
            if number == 0.0 || number.is_nan() { default } else { number }
        };
        let number = match self {
            Self::Count => or(before.as_ref(), 0.0) + 1.0,
            Self::Sum => or(before.as_ref(), 0.0) + or(value.as_ref(), 0.0),
            Self::Product => or(before.as_ref(), 1.0) * or(value.as_ref(), 1.0),
            Self::Max | Self::Min if before.is_none() => return Ok(value),
            Self::Max => larger(to_number(before.as_ref()), to_number(value.as_ref())),
            Self::Min => -larger(-to_number(before.as_ref()), -to_number(value.as_ref())),
            Self::Collect => {
                let mut items = match before {
                    Some(Value::Array(items)) => items,
                    Some(other) => vec![other],
                    None => Vec::new(),
                };
                if items.len() >= MAX_KEPT {
                    return Err(QueryError::TooMuch);
                }
                items.push(value.unwrap_or(Value::Null));
                return Ok(Some(Value::Array(items)));
            }
        };
        Ok(Some(from_number(number)))
    }
}

/// The larger number; none if one of them is none.
fn larger(one: f64, other: f64) -> f64 {
    if one.is_nan() || other.is_nan() { f64::NAN } else { one.max(other) }
}
