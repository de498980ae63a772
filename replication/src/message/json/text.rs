//! Strings between their spelling in JSON and what they mean.

use std::borrow::Cow;

/// The key as an array index, if V8 takes it for one: decimal, no sign, no leading zero, at most
/// 2^32 - 2.
pub(crate) fn is_array_index(key: &str) -> Option<u32> {
    let bytes = key.as_bytes();
    let first = *bytes.first()?;
    if !first.is_ascii_digit() || bytes.len() > 10 || (first == b'0' && bytes.len() > 1) {
        return None;
    }
    key.parse().ok().filter(|index| *index < u32::MAX)
}

/// One step of reading the inside of a string.
enum Piece<'a> {
    /// Characters that stand for themselves.
    Plain(&'a str),
    /// A character that was escaped.
    Escaped(char),
    /// A UTF-16 surrogate without its partner.
    Lone(u16),
}

/// Splits the inside of a JSON string; ends early, with `None` for good, at a faulty escape.
struct Pieces<'a> {
    rest: &'a str,
}

impl<'a> Pieces<'a> {
    fn next(&mut self) -> Option<Piece<'a>> {
        match self.rest.find('\\') {
            Some(0) => self.escape(),
            found => {
                let (plain, rest) = self.rest.split_at(found.unwrap_or(self.rest.len()));
                self.rest = rest;
                Some(Piece::Plain(plain)).filter(|_| !plain.is_empty())
            }
        }
    }

    fn escape(&mut self) -> Option<Piece<'a>> {
        let character = match self.rest.as_bytes().get(1)? {
            b'u' => return self.unicode(),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            plain @ (b'"' | b'\\' | b'/') => char::from(*plain),
            _ => return None,
        };
        self.rest = &self.rest[2..];
        Some(Piece::Escaped(character))
    }

    fn unicode(&mut self) -> Option<Piece<'a>> {
        let unit = unicode_escape(self.rest)?;
        self.rest = &self.rest[6..];
        if let Some(character) = char::from_u32(u32::from(unit)) {
            return Some(Piece::Escaped(character));
        }
        let pair = unicode_escape(self.rest).map(|low| char::decode_utf16([unit, low]).next());
        let Some(Some(Ok(character))) = pair else { return Some(Piece::Lone(unit)) };
        self.rest = &self.rest[6..];
        Some(Piece::Escaped(character))
    }
}

/// The code unit of a `\uXXXX` at the start of `text`.
fn unicode_escape(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    // `from_str_radix` would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u16::from_str_radix(digits, 16).ok()
}

/// Brings the inside of a string into the spelling of `JSON.stringify`; `None` for a faulty escape.
pub(super) fn respell(raw: &str) -> Option<String> {
    let mut out = String::with_capacity(raw.len());
    let mut pieces = Pieces { rest: raw };
    while let Some(piece) = pieces.next() {
        match piece {
            Piece::Plain(text) => out.push_str(text),
            Piece::Escaped(character) => push_escaped(&mut out, character),
            Piece::Lone(unit) => push_unit(&mut out, unit),
        }
    }
    pieces.rest.is_empty().then_some(out)
}

/// What a written string means. Lone surrogates, which no Rust string can hold, become U+FFFD.
pub fn unescape(written: &str) -> Cow<'_, str> {
    if !written.contains('\\') {
        return Cow::Borrowed(written);
    }
    let mut out = String::with_capacity(written.len());
    let mut pieces = Pieces { rest: written };
    while let Some(piece) = pieces.next() {
        match piece {
            Piece::Plain(text) => out.push_str(text),
            Piece::Escaped(character) => out.push(character),
            Piece::Lone(_) => out.push(char::REPLACEMENT_CHARACTER),
        }
    }
    Cow::Owned(out)
}

/// How `JSON.stringify` writes a string, without the quotes.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    text.chars().for_each(|character| push_escaped(&mut out, character));
    Cow::Owned(out)
}

/// The length of a written string as JavaScript counts it, in UTF-16 code units.
pub(crate) fn utf16_len(written: &str) -> usize {
    let mut units = 0;
    let mut pieces = Pieces { rest: written };
    while let Some(piece) = pieces.next() {
        units += match piece {
            Piece::Plain(text) => text.chars().map(char::len_utf16).sum(),
            Piece::Escaped(character) => character.len_utf16(),
            Piece::Lone(_) => 1,
        };
    }
    units
}

fn push_escaped(out: &mut String, character: char) {
    match character {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\0'..='\u{1f}' => push_unit(out, character as u16),
        other => out.push(other),
    }
}

fn push_unit(out: &mut String, unit: u16) {
    out.push_str("\\u");
    for shift in [12, 8, 4, 0] {
        out.push(char::from(b"0123456789abcdef"[usize::from(unit >> shift & 15)]));
    }
}
