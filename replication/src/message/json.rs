//! The JSON that classic messages are signed and named by: what V8's `JSON.parse` reads and
//! `JSON.stringify` writes (protocol guide, "Message format" and "Signature").
//!
//! Signatures and ids cover the *text* that JavaScript would produce, so three things matter that
//! other JSON libraries leave open: the order of keys (array indices first and ascending, then first
//! appearance; of equal keys the last value at the first place), the form of numbers
//! (ECMAScript's `Number::toString`) and the escapes in strings, lone surrogates among them.
//!
//! [`parse`] turns any text that `JSON.parse` accepts into a [`Value`] whose strings and numbers
//! already are in the written form. Text that came from a JavaScript peer is in that form on the
//! wire, so nearly everything in a [`Value`] is borrowed from the input. What always holds: writing a
//! value and parsing it again gives the same text; the written form is valid UTF-8; no input makes
//! the parser panic, recurse deeper than [`MAX_DEPTH`] or spend more than O(n log n) steps.
//!
//! [`Members`] and [`unescape`] read the compact written form without building anything, for content
//! that has been through [`parse`] once and lies in the store.

mod parse;
mod scan;
mod text;
mod write;

use std::borrow::Cow;

pub use parse::parse;
pub(crate) use scan::string_end;
pub use scan::{Members, member};
pub(crate) use text::utf16_len;
pub use text::{escape, unescape};
pub use write::{write_compact, write_number, write_pretty};

/// How deeply arrays and objects may nest. Each level indents what is in it, so that a message of depth
/// D is at least 2·D² characters long: over 8192 at this depth, and no valid message is this deep.
pub const MAX_DEPTH: usize = 64;

/// Why a text is not JSON for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not UTF-8. JavaScript would put U+FFFD in its place, and no signature would match then.
    #[error("not UTF-8")]
    Utf8,
    /// Not JSON.
    #[error("not JSON at byte {at}")]
    Syntax {
        /// Where it stops being JSON.
        at: usize,
    },
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH}")]
    Depth,
}

/// A JSON value in JavaScript's order and spelling.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A finite number as ECMAScript writes it.
    Number(Cow<'a, str>),
    /// A number too large for a double, such as `1e400`: a number when read, `null` when written.
    Infinity,
    /// What stands between the quotes of a string as `JSON.stringify` writes it, escapes included.
    String(Cow<'a, str>),
    /// An array.
    Array(Vec<Self>),
    /// An object; keys are spelled as in [`Value::String`], distinct and in V8's order.
    Object(Vec<(Cow<'a, str>, Self)>),
}

impl<'a> Value<'a> {
    /// The value of a key, if this is an object that has it.
    pub fn member(&self, name: &str) -> Option<&Self> {
        let Value::Object(members) = self else { return None };
        members.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The string as it is written, if this is one.
    pub fn as_written_str(&self) -> Option<&str> {
        if let Value::String(text) = self { Some(text) } else { None }
    }

    /// The number, if this is one.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Number(text) => text.parse().ok(),
            Value::Infinity => Some(f64::INFINITY),
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// `JSON.stringify(value)`
    pub fn to_compact(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_compact(self, &mut out);
        out
    }

    /// `JSON.stringify(value, null, 2)`
    pub fn to_pretty(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_pretty(self, &mut out);
        out
    }
}

#[cfg(test)]
mod tests;
