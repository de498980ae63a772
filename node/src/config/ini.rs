//! INI files, as JS's `ini` reads them: for `rc` everything is one that does not begin with a brace.
//!
//! ```text
//! ; a comment, as with #
//! port = 8008
//! local            without a value: true
//! [friends]        what follows belongs to `friends`; [a.b] to `b` in `a`
//! hops = 2         ; behind a value, too
//! [conn]
//! seeds[] = "net:…" once for each of a list
//! ```
//!
//! Of text without quotes `true`, `false`, `null` and numbers are what they say: JS leaves numbers as text, and its
//! programs take text where they expect a number. What `ini` would take for an option that nobody can have meant, a
//! broken JSON file above all, is a fault here.

use serde_json::{Map, Number, Value};

/// The file as an object; else which line makes no sense.
pub(super) fn parse(text: &str) -> Result<Map<String, Value>, String> {
    // Sections by their names as they stand there; what comes before the first has none.
    let (mut top, mut sections) = (Map::new(), Map::new());
    let mut current: Option<String> = None;
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.trim_start().starts_with([';', '#']) {
            continue;
        }
        if let Some(name) = section_name(line) {
            sections.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
            current = Some(name);
            continue;
        }
        let (key, value) = line.split_once('=').map_or((line, None), |(key, value)| (key, Some(value)));
        let key = bare(key);
        if !is_key(&key) {
            return Err(format!("line {} is neither JSON nor INI: {}", number + 1, line.trim()));
        }
        let section = current.as_ref().and_then(|name| sections.get_mut(name)?.as_object_mut());
        put(section.unwrap_or(&mut top), &key, value.map_or(Value::Bool(true), read));
    }
    for (name, section) in sections {
        nest(&mut top, &parts(&name), section);
    }
    Ok(top)
}

fn section_name(line: &str) -> Option<String> {
    let name = line.trim_end().strip_prefix('[')?.strip_suffix(']')?;
    (!name.contains(']')).then(|| bare(name))
}

/// Keys are words: `ini` takes anything, but then nothing ever reads it.
fn is_key(key: &str) -> bool {
    let is_of_word = |c: char| c.is_alphanumeric() || "_-.[]".contains(c);
    !key.is_empty() && key.chars().all(is_of_word) && key != "__proto__"
}

/// `key[]` adds to a list, and so does what was one before.
fn put(section: &mut Map<String, Value>, key: &str, value: Value) {
    let list = key.strip_suffix("[]").filter(|name| !name.is_empty());
    let held = section.entry(list.unwrap_or(key).to_owned());
    match held {
        serde_json::map::Entry::Vacant(free) => {
            free.insert(if list.is_some() { Value::Array(vec![value]) } else { value });
        }
        serde_json::map::Entry::Occupied(mut held) => match (held.get_mut(), list) {
            (Value::Array(all), _) => all.push(value),
            (one, Some(_)) => *one = Value::Array(vec![one.take(), value]),
            (one, None) => *one = value,
        },
    }
}

/// The value behind a `=`.
fn read(text: &str) -> Value {
    let text = text.trim();
    let quoted = |quote| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    if quoted('"').is_some() {
        return serde_json::from_str(text).unwrap_or_else(|_| text.into());
    }
    if let Some(inner) = quoted('\'') {
        return serde_json::from_str(inner).unwrap_or_else(|_| inner.into());
    }
    let text = bare(text);
    match text.as_str() {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        _ => serde_json::from_str::<Number>(&text).map_or_else(|_| text.into(), Value::Number),
    }
}

/// Without what a comment is behind it; `\;`, `\#` and `\\` are what follows the backslash.
fn bare(text: &str) -> String {
    let (mut plain, mut chars) = (String::new(), text.trim().chars());
    while let Some(c) = chars.next() {
        match c {
            ';' | '#' => break,
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ';' | '#')) => plain.push(escaped),
                Some(other) => plain.extend(['\\', other]),
                None => plain.push('\\'),
            },
            _ => plain.push(c),
        }
    }
    plain.truncate(plain.trim_end().len());
    plain
}

/// A section's name at its dots; `\.` is none.
fn parts(name: &str) -> Vec<String> {
    let escaped = name.replace("\\.", "\u{1}");
    escaped.split('.').map(|part| part.replace('\u{1}', ".")).collect()
}

/// Puts a section where its name says.
fn nest(into: &mut Map<String, Value>, path: &[String], section: Value) {
    match path {
        [] => {}
        [last] => {
            let held = into.entry(last.clone()).or_insert(Value::Null);
            super::layers::merge(held, section);
        }
        [first, rest @ ..] => {
            let held = into.entry(first.clone()).or_insert(Value::Null);
            if !held.is_object() {
                *held = Value::Object(Map::new());
            }
            if let Value::Object(inner) = held {
                nest(inner, rest, section);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(text: &str) -> Value {
        Value::Object(parse(text).unwrap())
    }

    /// What `ini` 1.3.8 makes of the same text, but for numbers, which it leaves as text.
    #[test]
    fn files_are_read_as_js_reads_them() {
        let text = "; a comment\n# another\nport = 8008\r\nlocal\nhost = localhost ; the same\npath = \"/a;b\"\n\
            seeds[] = one\nseeds[] = two\nseeds = three\nempty =\nescaped = a\\;b\\x\\\n\
            [friends]\nhops = 2\nblocksSpread = false\n\
            [connections.incoming]\nunix = null\nquoted = '7'\nsingle = 'it'\n[a\\.b]\nc = 1e3\n";
        assert_eq!(
            value(text),
            json!({
                "port": 8008, "local": true, "host": "localhost", "path": "/a;b",
                "seeds": ["one", "two", "three"], "empty": "", "escaped": "a;b\\x\\",
                "friends": {"hops": 2, "blocksSpread": false},
                "connections": {"incoming": {"unix": null, "quoted": 7, "single": "it"}},
                "a.b": {"c": 1000.0}
            })
        );
    }

    #[test]
    fn a_section_may_come_twice_and_in_any_order() {
        assert_eq!(
            value("[a.b]\nx = 1\n[a]\ny = 2\n[a.b]\nz = 3"),
            json!({"a": {"b": {"x": 1, "z": 3}, "y": 2}})
        );
        assert_eq!(value("a = 1\n[a]\nb = 2"), json!({"a": {"b": 2}}));
        assert_eq!(value("list = 1\nlist[] = 2\n[]\nx = 1"), json!({"list": [1, 2], "": {"x": 1}}));
    }

    #[test]
    fn what_is_no_option_is_a_fault_and_says_where() {
        for text in ["\"port\": 8008,", "port: 8008", "a b = 1", "= 1", "__proto__ = 1", "<html>"] {
            let error = parse(&format!("\n{text}")).unwrap_err();
            assert!(error.contains("line 2") && error.contains(text.trim()), "{error}");
        }
    }
}
