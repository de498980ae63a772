//! Typed reading of a merged configuration object, collecting faults instead of stopping at the first.

use serde_json::{Map, Value};

use super::Fault;

/// One object of the configuration, with the dotted name under which it stands.
pub(super) struct Fields<'a> {
    object: Option<&'a Map<String, Value>>,
    name: String,
    faults: &'a mut Vec<Fault>,
}

impl<'a> Fields<'a> {
    /// The whole configuration.
    pub(super) fn root(value: &'a Value, faults: &'a mut Vec<Fault>) -> Self {
        Self { object: value.as_object(), name: String::new(), faults }
    }

    /// The object under `key`; empty if it is absent.
    pub(super) fn section(&mut self, key: &str) -> Fields<'_> {
        let (object, name) = self.object_under(key);
        Fields { object, name, faults: self.faults }
    }

    /// As [`section`](Self::section), consuming the outer one.
    pub(super) fn into_section(mut self, key: &str) -> Self {
        let (object, name) = self.object_under(key);
        Self { object, name, faults: self.faults }
    }

    fn object_under(&mut self, key: &str) -> (Option<&'a Map<String, Value>>, String) {
        let value = self.value(key);
        let object = value.and_then(Value::as_object);
        if value.is_some() && object.is_none() {
            self.fault(key, "expected an object");
        }
        (object, self.dotted(key))
    }

    /// Reports every key that is none of `keys`.
    pub(super) fn known(&mut self, keys: &[&str]) {
        let Some(object) = self.object else { return };
        for key in object.keys().filter(|key| !keys.contains(&key.as_str())) {
            self.fault(key, &format!("unknown option; known are {}", keys.join(", ")));
        }
    }

    /// Whether the value under `key` is `false`, which turns off what otherwise has options.
    pub(super) fn is_false(&self, key: &str) -> bool {
        self.value(key) == Some(&Value::Bool(false))
    }

    pub(super) fn bool(&mut self, key: &str) -> Option<bool> {
        self.parsed(key, "true or false", Value::as_bool)
    }

    pub(super) fn u16(&mut self, key: &str) -> Option<u16> {
        self.parsed(key, "a port from 0 to 65535", |v| v.as_u64().and_then(|n| u16::try_from(n).ok()))
    }

    /// The value under `key` as `parse` reads it; `what` says what was expected.
    pub(super) fn parsed<T>(
        &mut self,
        key: &str,
        what: &str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let parsed = parse(value);
        if parsed.is_none() {
            self.fault(key, &format!("expected {what}, found {value}"));
        }
        parsed
    }

    /// The list under `key`, each element as `parse` reads it.
    pub(super) fn list<T>(
        &mut self,
        key: &str,
        what: &str,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Option<Vec<T>> {
        let value = self.value(key)?;
        let Some(items) = value.as_array() else {
            self.fault(key, "expected a list");
            return None;
        };
        let mut list = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            match parse(item) {
                Some(parsed) => list.push(parsed),
                None => self.fault(&format!("{key}[{i}]"), &format!("expected {what}, found {item}")),
            }
        }
        Some(list)
    }

    /// The value under `key`; `null` means absent, as in JS.
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.object?.get(key).filter(|value| !value.is_null())
    }

    fn dotted(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// Reports that the value under `key` is wrong.
    pub(super) fn fault(&mut self, key: &str, what: &str) {
        let key = self.dotted(key);
        self.faults.push(Fault { key, what: what.to_owned() });
    }
}
