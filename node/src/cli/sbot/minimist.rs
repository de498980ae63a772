//! A command line in the manner of JS's minimist, which ssb-server's is: `--key value`, `--key=value`, `--flag`,
//! `--no-flag`, `--nested.key value`, `-abc`; everything else is positional. Numbers become numbers, a key that is said
//! again makes a list. There are no declared options, so `--flag word` takes the word for the value, as there.

use serde_json::{Map, Number, Value};

/// What was typed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Line {
    pub(super) positional: Vec<Value>,
    pub(super) options: Map<String, Value>,
}

/// Reads the words of a command line.
pub(super) fn parse(words: &[String]) -> Line {
    let words = split_blanks(words);
    let mut line = Line::default();
    let mut rest = words.as_slice();
    while let Some((word, after)) = rest.split_first() {
        let next = after.first().filter(|next| !is_option(next));
        let took_next = match word.strip_prefix("--") {
            Some(option) if !option.is_empty() => line.long(option, next),
            _ if is_option(word) => line.short(&word[1..], next),
            _ => {
                line.positional.push(number(word).unwrap_or_else(|| Value::from(word.as_str())));
                false
            }
        };
        rest = if took_next { &after[1..] } else { after };
    }
    line
}

/// `--path DIR` that comes as one word is two: scripts pass it on unquoted, ssb-server's own tests among them.
fn split_blanks(words: &[String]) -> Vec<String> {
    let split = |word: &String| {
        let name_ends = word.find('=').unwrap_or(word.len());
        match word[..name_ends].split_once(' ').filter(|(name, _)| name.starts_with("--")) {
            Some((name, _)) => vec![name.to_owned(), word[name.len()..].trim().to_owned()],
            None => vec![word.clone()],
        }
    };
    words.iter().flat_map(split).collect()
}

/// Whether a word is an option rather than a value: `-` alone and `---` are values.
fn is_option(word: &str) -> bool {
    let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
    name.is_some_and(|name| !name.is_empty() && !name.starts_with('-'))
}

impl Line {
    /// `--option`; whether it took the next word for its value.
    fn long(&mut self, option: &str, next: Option<&String>) -> bool {
        if let Some((name, value)) = option.split_once('=').filter(|(name, _)| !name.is_empty()) {
            self.set(name, typed(value));
            return false;
        }
        if let Some(name) = option.strip_prefix("no-").filter(|name| !name.is_empty()) {
            self.set(name, Value::Bool(false));
            return false;
        }
        self.set(option, next.map_or(Value::Bool(true), |next| typed(next)));
        next.is_some()
    }

    /// `-a`, `-abc`, `-n5`, `-n=5`: the last letter may take the next word.
    fn short(&mut self, letters: &str, next: Option<&String>) -> bool {
        let mut chars = letters.chars();
        while let Some(letter) = chars.next() {
            let (name, rest) = (letter.to_string(), chars.as_str());
            let value = rest.strip_prefix('=').or_else(|| number(rest).map(|_| rest));
            if let Some(value) = value {
                self.set(&name, typed(value));
                return false;
            }
            if rest.is_empty() {
                self.set(&name, next.map_or(Value::Bool(true), |next| typed(next)));
                return next.is_some();
            }
            self.set(&name, Value::Bool(true));
        }
        false
    }

    fn set(&mut self, name: &str, value: Value) {
        let mut level = &mut self.options;
        let mut keys = name.split('.').peekable();
        while let Some(key) = keys.next() {
            let found = level.entry(key).or_insert(Value::Null);
            if keys.peek().is_none() {
                add(found, value);
                return;
            }
            if found.is_null() {
                *found = Value::Object(Map::new());
            }
            // Below a value there is nothing to set.
            let Value::Object(inner) = found else { return };
            level = inner;
        }
    }
}

/// A flag is replaced by what comes later, any other value becomes the first of a list.
fn add(found: &mut Value, value: Value) {
    match found {
        Value::Null | Value::Bool(_) => *found = value,
        Value::Array(list) => list.push(value),
        Value::Number(_) | Value::String(_) | Value::Object(_) => {
            let before = found.take();
            *found = Value::Array(vec![before, value]);
        }
    }
}

fn typed(text: &str) -> Value {
    number(text).unwrap_or_else(|| Value::from(text))
}

/// What JS takes for a number on a command line: decimal, or hexadecimal with `0x`.
fn number(text: &str) -> Option<Value> {
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u32::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+')).map(Value::from);
    }
    let digits = text.bytes().any(|byte| byte.is_ascii_digit());
    let only = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'+' | b'-' | b'e'));
    let number: f64 = text.parse().ok().filter(|n: &f64| digits && only && n.is_finite())?;
    let whole = number.fract() == 0.0 && number.abs() <= MAX_WHOLE;
    // The cast is exact: it is whole and not too large.
    if whole { Some(Value::from(number as i64)) } else { Number::from_f64(number).map(Value::Number) }
}

/// Up to here each whole number is one in JS, 2^53 - 1.
const MAX_WHOLE: f64 = 9_007_199_254_740_991.0;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(line: &[&str]) -> (Value, Value) {
        let words: Vec<_> = line.iter().map(|word| (*word).to_owned()).collect();
        let Line { positional, options } = parse(&words);
        (Value::from(positional), Value::Object(options))
    }

    /// What minimist 1.2.8 gives, by running it.
    #[test]
    fn words_are_read_as_minimist_reads_them() {
        for (line, positional, options) in [
            (
                &["publish", "--type", "post", "--text", "hi there"][..],
                json!(["publish"]),
                json!({"type": "post", "text": "hi there"}),
            ),
            (
                &["log", "--limit", "5", "--reverse", "--gt=1.5e3"],
                json!(["log"]),
                json!({"limit": 5, "reverse": true, "gt": 1500}),
            ),
            (
                &["x", "--live", "--no-old", "--keys", "false"],
                json!(["x"]),
                json!({"live": true, "old": false, "keys": "false"}),
            ),
            (&["--a.b", "1", "--a.c", "x", "--a.b", "2"], json!([]), json!({"a": {"b": [1, 2], "c": "x"}})),
            (
                &["-abc", "word", "-n5", "-x=y"],
                json!([]),
                json!({"a": true, "b": true, "c": "word", "n": 5, "x": "y"}),
            ),
            (
                &["get", "%x.sha256", "7", "-", "0x10", "1.2.3"],
                json!(["get", "%x.sha256", 7, "-", 16, "1.2.3"]),
                json!({}),
            ),
            (
                &["--text", "-5", "--empty=", "--eq=a=b"],
                json!([]),
                json!({"text": true, "5": true, "empty": "", "eq": "a=b"}),
            ),
            (&["--flag", "--flag", "on"], json!([]), json!({"flag": "on"})),
        ] {
            assert_eq!(read(line), (positional, options), "{line:?}");
        }
    }

    #[test]
    fn a_path_may_come_in_one_word() {
        for word in ["--path /tmp/a", "--path=/tmp/a", "--path  /tmp/a"] {
            assert_eq!(read(&["start", word]), (json!(["start"]), json!({"path": "/tmp/a"})), "{word}");
        }
        assert_eq!(read(&["--text=a b"]).1, json!({"text": "a b"}));
    }
}
