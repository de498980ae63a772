//! Reading the compact written form in place, without building a tree.

use memchr::memchr2;

/// The members of an object in compact written form, as spelled: keys without quotes, values whole.
///
/// For text that once came out of [`write_compact`](super::write_compact). On anything else the
/// iterator ends early or gives nonsense, but never panics.
#[derive(Clone, Debug)]
pub struct Members<'a> {
    rest: &'a str,
}

impl<'a> Members<'a> {
    /// Iterates over `object`; over nothing if it is not an object.
    pub fn of(object: &'a str) -> Self {
        Self { rest: object.strip_prefix('{').unwrap_or_default() }
    }

    /// What has not been iterated over yet, from the next key on.
    pub(crate) fn rest(&self) -> &'a str {
        self.rest
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest;
        self.rest = "";
        let key_end = value_end(rest)?;
        let key = rest[..key_end].strip_prefix('"')?.strip_suffix('"')?;
        let rest = rest[key_end..].strip_prefix(':')?;
        let (value, rest) = rest.split_at(value_end(rest)?);
        self.rest = rest.strip_prefix(',').unwrap_or_default();
        Some((key, value))
    }
}

/// The value of a key (given as it is written) of an object in compact written form.
pub fn member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    Members::of(object).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Where the value at the start of `text` ends.
fn value_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    match bytes.first()? {
        b'"' => string_end(bytes, 0),
        b'{' | b'[' => nested_end(bytes),
        _ => Some(bytes.iter().position(|byte| b",}]:".contains(byte)).unwrap_or(bytes.len())),
    }
}

/// Where the string that opens at `at` ends, behind its closing quote.
pub(crate) fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    at += 1;
    loop {
        at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

fn nested_end(bytes: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        match bytes.get(at)? {
            b'"' => {
                at = string_end(bytes, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 1 => return Some(at + 1),
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
}
