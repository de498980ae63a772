//! BIPF, the binary JSON of ssb-db2: each value is a varint `length << 3 | type` and the value's bytes.

use crate::message::json::{escape, write_number};

/// How deeply values may nest; nothing valid does more than a message's JSON.
const MAX_DEPTH: usize = crate::message::json::MAX_DEPTH;

/// The bytes are not BIPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotBipf;

/// One value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Item<'a> {
    Text(&'a [u8]),
    Buffer(&'a [u8]),
    Number(f64),
    Array(&'a [u8]),
    Object(&'a [u8]),
    Bool(bool),
    Null,
    Undefined,
}

impl<'a> Item<'a> {
    /// The value that `bytes` begin with, and what follows it.
    pub(super) fn read(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), NotBipf> {
        let (tag, rest) = varint(bytes)?;
        let length = usize::try_from(tag >> 3).map_err(|_| NotBipf)?;
        let (body, rest) = rest.split_at_checked(length).ok_or(NotBipf)?;
        let item = match tag & 7 {
            0 => Self::Text(body),
            1 => Self::Buffer(body),
            2 => Self::Number(i32::from_le_bytes(body.try_into().map_err(|_| NotBipf)?).into()),
            3 => Self::Number(f64::from_le_bytes(body.try_into().map_err(|_| NotBipf)?)),
            4 => Self::Array(body),
            5 => Self::Object(body),
            6 => match body {
                [] => Self::Null,
                [0] => Self::Bool(false),
                [1] => Self::Bool(true),
                [2] => Self::Undefined,
                _ => return Err(NotBipf),
            },
            _ => return Err(NotBipf),
        };
        Ok((item, rest))
    }

    /// The value of a key, if this is an object that has it.
    pub(super) fn member(&self, name: &str) -> Result<Option<Self>, NotBipf> {
        let Self::Object(mut rest) = *self else { return Ok(None) };
        while !rest.is_empty() {
            let (key, value, after) = member(rest)?;
            if key == name.as_bytes() {
                return Ok(Some(value));
            }
            rest = after;
        }
        Ok(None)
    }

    /// The text, if this is one.
    pub(super) fn as_text(&self) -> Option<&'a str> {
        if let Self::Text(text) = self { std::str::from_utf8(text).ok() } else { None }
    }

    /// Appends the value as `JSON.stringify` would write what JavaScript decodes.
    pub(super) fn write_json(&self, out: &mut Vec<u8>) -> Result<(), NotBipf> {
        self.write(out, 0)
    }

    fn write(&self, out: &mut Vec<u8>, depth: usize) -> Result<(), NotBipf> {
        if depth > MAX_DEPTH {
            return Err(NotBipf);
        }
        match *self {
            Self::Text(text) => write_text(text, out),
            Self::Number(number) => write_number(number, out),
            Self::Bool(true) => out.extend_from_slice(b"true"),
            Self::Bool(false) => out.extend_from_slice(b"false"),
            Self::Null | Self::Undefined => out.extend_from_slice(b"null"),
            Self::Array(mut rest) => {
                out.push(b'[');
                let start = out.len();
                while !rest.is_empty() {
                    let (item, after) = Self::read(rest)?;
                    comma(out, start);
                    item.write(out, depth + 1)?;
                    rest = after;
                }
                out.push(b']');
            }
            Self::Object(mut rest) => {
                out.push(b'{');
                let start = out.len();
                while !rest.is_empty() {
                    let (key, value, after) = member(rest)?;
                    rest = after;
                    if value == Self::Undefined {
                        continue;
                    }
                    comma(out, start);
                    write_text(key, out);
                    out.push(b':');
                    value.write(out, depth + 1)?;
                }
                out.push(b'}');
            }
            // JSON has none, so no classic message does.
            Self::Buffer(_) => return Err(NotBipf),
        }
        Ok(())
    }
}

/// The first key of an object's inside, its value, and what follows.
fn member(bytes: &[u8]) -> Result<(&[u8], Item<'_>, &[u8]), NotBipf> {
    let (Item::Text(key), rest) = Item::read(bytes)? else { return Err(NotBipf) };
    let (value, rest) = Item::read(rest)?;
    Ok((key, value, rest))
}

fn comma(out: &mut Vec<u8>, start: usize) {
    if out.len() > start {
        out.push(b',');
    }
}

fn write_text(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(escape(&String::from_utf8_lossy(text)).as_bytes());
    out.push(b'"');
}

fn varint(bytes: &[u8]) -> Result<(u64, &[u8]), NotBipf> {
    let mut number = 0;
    for (place, byte) in bytes.iter().enumerate().take(5) {
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok((number, &bytes[place + 1..]));
        }
    }
    Err(NotBipf)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    fn json(bytes: &[u8]) -> Result<String, NotBipf> {
        let (item, rest) = Item::read(bytes)?;
        assert!(rest.is_empty());
        let mut out = Vec::new();
        item.write_json(&mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_the_javascript_library_writes_is_read() {
        // bipf 1.9.0: allocAndEncode({a: 1.5, b: [null, true, undefined, 'x\ud800'], c: {}, d: -3})
        let bytes = hex("9502086143000000000000f83f086254060e010e022078efbfbd086305086422fdffffff");
        assert_eq!(
            json(&bytes).unwrap(),
            "{\"a\":1.5,\"b\":[null,true,null,\"x\u{fffd}\"],\"c\":{},\"d\":-3}"
        );
        let item = Item::read(&bytes).unwrap().0;
        assert_eq!(item.member("d"), Ok(Some(Item::Number(-3.0))));
        assert_eq!(item.member("e"), Ok(None));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((item, _)) = Item::read(&bytes) {
                let _ = item.write_json(&mut Vec::new());
                let _ = item.member("key");
            }
        }
    }
}
