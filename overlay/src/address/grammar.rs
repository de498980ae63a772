//! The grammar under multiserver addresses, before any meaning:
//! `name = [a-z][a-z0-9-]+`, `protocol = name(:data)*`, `address = protocol(~protocol)*`,
//! `list = address(;address)*`; in data, `! ~ : ;` are escaped by `!`.

use super::ParseAddressError;
use crate::keys::PublicKey;

/// One `name:data:…` with its data unescaped.
#[derive(Debug)]
pub(super) struct Protocol {
    pub(super) name: String,
    pub(super) data: Vec<String>,
}

impl Protocol {
    /// `shs:KEY`. With a second datum, a seed, it is an invite: the dialer has to be someone else.
    pub(super) fn is_shs_without_seed(&self) -> bool {
        self.name == "shs" && self.data.len() == 1
    }
}

/// The key of the first protocol whose name starts with `shs`, which is how JS finds it.
pub(super) fn shs_key(protocols: &[Protocol]) -> Result<Option<PublicKey>, ParseAddressError> {
    let Some(shs) = protocols.iter().find(|protocol| protocol.name.starts_with("shs")) else {
        return Ok(None);
    };
    let key = shs.data.first().ok_or(ParseAddressError::Key)?;
    PublicKey::from_base64(key).map(Some).map_err(|_| ParseAddressError::Key)
}

/// Cuts a list at its unescaped `;`, having checked every character.
pub(super) fn split_alternatives(text: &str) -> Result<Vec<&str>, ParseAddressError> {
    check_characters(text)?;
    Ok(split(text, ';'))
}

/// Reads one alternative.
pub(super) fn parse(text: &str) -> Result<Vec<Protocol>, ParseAddressError> {
    split(text, '~').into_iter().map(parse_protocol).collect()
}

/// Escapes data for printing.
pub(super) fn escape(data: &str) -> String {
    let mut out = String::with_capacity(data.len());
    for c in data.chars() {
        if is_special(c) {
            out.push('!');
        }
        out.push(c);
    }
    out
}

fn parse_protocol(text: &str) -> Result<Protocol, ParseAddressError> {
    let mut parts = split(text, ':').into_iter();
    let name = parts.next().unwrap_or_default();
    let mut letters = name.bytes();
    let starts = letters.next().is_some_and(|b| b.is_ascii_lowercase());
    let continues = letters.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !starts || !continues || name.len() < 2 {
        return Err(ParseAddressError::Name);
    }
    Ok(Protocol { name: name.to_owned(), data: parts.map(unescape).collect() })
}

const fn is_special(c: char) -> bool {
    matches!(c, '!' | '~' | ':' | ';')
}

fn check_characters(text: &str) -> Result<(), ParseAddressError> {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '!' if chars.next().is_some_and(is_special) => {}
            '!' => return Err(ParseAddressError::Escape),
            '"'..='}' | '~' => {}
            other => return Err(ParseAddressError::Character(other)),
        }
    }
    Ok(())
}

/// Cuts at each unescaped separator. The separators are ASCII, so the cuts are character boundaries.
fn split(text: &str, separator: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '!' {
            escaped = true;
        } else if c == separator {
            parts.push(&text[start..at]);
            start = at + c.len_utf8();
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(data: &str) -> String {
    let mut out = String::with_capacity(data.len());
    let mut chars = data.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '!' { chars.next() } else { Some(c) });
    }
    out
}
