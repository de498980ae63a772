//! Text to [`Value`], in one pass, borrowing wherever the input is spelled as we would write it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use memchr::memchr2;

use super::text::{is_array_index, respell};
use super::{JsonError, MAX_DEPTH, Value};

/// Up to this many keys, comparing each with each is faster than sorting.
const FEW_KEYS: usize = 16;

/// Reads what `JSON.parse` reads; white space around the value is allowed.
pub fn parse(input: &[u8]) -> Result<Value<'_>, JsonError> {
    let text = simdutf8::basic::from_utf8(input).map_err(|_| JsonError::Utf8)?;
    let mut parser = Parser { text, bytes: input, at: 0, depth: 0 };
    let value = parser.value()?;
    parser.skip_space();
    if parser.at == input.len() { Ok(value) } else { parser.fail() }
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

type Object<'a> = Vec<(Cow<'a, str>, Value<'a>)>;

impl<'a> Parser<'a> {
    fn value(&mut self) -> Result<Value<'a>, JsonError> {
        self.skip_space();
        match self.bytes.get(self.at) {
            Some(b'"') => self.string().map(Value::String),
            Some(b'{') => self.object().map(Value::Object),
            Some(b'[') => self.array().map(Value::Array),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'n') => self.literal("null", Value::Null),
            _ => self.fail(),
        }
    }

    fn object(&mut self) -> Result<Object<'a>, JsonError> {
        self.enter()?;
        let mut members = Vec::new();
        if self.token() == Some(b'}') {
            return self.leave(members);
        }
        loop {
            if self.token() != Some(b'"') {
                return self.fail();
            }
            let key = self.string()?;
            if self.token() != Some(b':') {
                return self.fail();
            }
            self.at += 1;
            members.push((key, self.value()?));
            match self.token() {
                Some(b',') => self.at += 1,
                Some(b'}') => return self.leave(in_v8_order(members)),
                _ => return self.fail(),
            }
        }
    }

    fn array(&mut self) -> Result<Vec<Value<'a>>, JsonError> {
        self.enter()?;
        let mut items = Vec::new();
        if self.token() == Some(b']') {
            return self.leave(items);
        }
        loop {
            items.push(self.value()?);
            match self.token() {
                Some(b',') => self.at += 1,
                Some(b']') => return self.leave(items),
                _ => return self.fail(),
            }
        }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let start = self.at + 1;
        let mut at = start;
        let mut as_written = true;
        loop {
            let rest = self.bytes.get(at..).unwrap_or_default();
            let Some(skipped) = memchr2(b'"', b'\\', rest) else { return self.fail() };
            at += skipped;
            if self.bytes[at] == b'"' {
                break;
            }
            // `\/` and `\u` are the escapes that JSON.stringify may spell otherwise.
            as_written &=
                matches!(self.bytes.get(at + 1), Some(b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't'));
            at += 2;
        }
        let raw = &self.text[start..at];
        // A fold without early exit is turned into vector instructions.
        if raw.bytes().fold(false, |found, byte| found | (byte < 0x20)) {
            return self.fail();
        }
        if as_written {
            self.at = at + 1;
            return Ok(Cow::Borrowed(raw));
        }
        let Some(text) = respell(raw) else { return self.fail() };
        self.at = at + 1;
        Ok(Cow::Owned(text))
    }

    fn number(&mut self) -> Result<Value<'a>, JsonError> {
        let start = self.at;
        self.at += usize::from(self.bytes[start] == b'-');
        let first_digit = self.at;
        let digits = self.digits()?;
        if digits > 1 && self.bytes[first_digit] == b'0' {
            return self.fail();
        }
        let mut integer = true;
        if self.bytes.get(self.at) == Some(&b'.') {
            integer = false;
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            integer = false;
            self.at += 1;
            self.at += usize::from(matches!(self.bytes.get(self.at), Some(b'+' | b'-')));
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        // All integers of up to 15 digits are doubles and are written as they stand.
        if integer && digits <= 15 && text != "-0" {
            return Ok(Value::Number(Cow::Borrowed(text)));
        }
        Ok(respelled_number(text))
    }

    fn digits(&mut self) -> Result<usize, JsonError> {
        let count = self.bytes[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        if count == 0 { self.fail() } else { Ok(count) }
    }

    fn literal(&mut self, text: &str, value: Value<'a>) -> Result<Value<'a>, JsonError> {
        if !self.bytes[self.at..].starts_with(text.as_bytes()) {
            return self.fail();
        }
        self.at += text.len();
        Ok(value)
    }

    /// Steps over an opening bracket.
    fn enter(&mut self) -> Result<(), JsonError> {
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(JsonError::Depth) } else { Ok(()) }
    }

    /// Steps over a closing bracket.
    fn leave<T>(&mut self, finished: T) -> Result<T, JsonError> {
        self.at += 1;
        self.depth -= 1;
        Ok(finished)
    }

    /// The next byte that is not white space.
    fn token(&mut self) -> Option<u8> {
        self.skip_space();
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn fail<T>(&self) -> Result<T, JsonError> {
        Err(JsonError::Syntax { at: self.at })
    }
}

/// Brings a number into ECMAScript's form.
fn respelled_number(text: &str) -> Value<'_> {
    let number = text.parse().unwrap_or(f64::INFINITY);
    if number.is_infinite() {
        return Value::Infinity;
    }
    if number == 0.0 {
        return Value::Number(Cow::Borrowed("0"));
    }
    let mut buffer = ryu_js::Buffer::new();
    let written = buffer.format_finite(number);
    Value::Number(if written == text { Cow::Borrowed(text) } else { Cow::Owned(written.to_owned()) })
}

/// V8 lists array indices first, ascending, then the other keys as they appeared; of equal keys the
/// last value counts, at the place of the first.
fn in_v8_order(members: Object<'_>) -> Object<'_> {
    if !has_duplicates(&members) && !members.iter().any(|(key, _)| is_array_index(key).is_some()) {
        return members;
    }
    let mut places = BTreeMap::new();
    let mut distinct: Object<'_> = Vec::with_capacity(members.len());
    for (key, value) in members {
        let place = *places.entry(key.clone()).or_insert(distinct.len());
        match distinct.get_mut(place) {
            Some(earlier) => earlier.1 = value,
            None => distinct.push((key, value)),
        }
    }
    // The sort is stable: keys that are no indices keep their order.
    distinct.sort_by_key(|(key, _)| is_array_index(key).map_or((true, 0), |index| (false, index)));
    distinct
}

fn has_duplicates(members: &Object<'_>) -> bool {
    if members.len() <= FEW_KEYS {
        return members
            .iter()
            .enumerate()
            .any(|(i, (key, _))| members[..i].iter().any(|(other, _)| other == key));
    }
    let mut keys: Vec<&str> = members.iter().map(|(key, _)| key.as_ref()).collect();
    keys.sort_unstable();
    keys.windows(2).any(|pair| pair[0] == pair[1])
}
