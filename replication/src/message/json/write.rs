//! [`Value`] to text.

use super::Value;

/// Enough indentation for one copy at most depths.
const SPACES: [u8; 64] = [b' '; 64];

/// Appends `JSON.stringify(value)`.
pub fn write_compact(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Array(items) => {
            let mut before = b'[';
            for item in items {
                out.push(before);
                write_compact(item, out);
                before = b',';
            }
            out.extend_from_slice(if items.is_empty() { b"[]" } else { b"]" });
        }
        Value::Object(members) => {
            let mut before = b'{';
            for (key, member) in members {
                out.push(before);
                write_string(key, out);
                out.push(b':');
                write_compact(member, out);
                before = b',';
            }
            out.extend_from_slice(if members.is_empty() { b"{}" } else { b"}" });
        }
        Value::Null | Value::Infinity | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            write_scalar(value, out);
        }
    }
}

/// Appends `JSON.stringify(value, null, 2)`.
pub fn write_pretty(value: &Value<'_>, out: &mut Vec<u8>) {
    write_indented(value, 0, out);
}

/// Appends a number as ECMAScript writes it; what is not finite becomes `null`, as in JavaScript.
pub fn write_number(number: f64, out: &mut Vec<u8>) {
    if !number.is_finite() {
        out.extend_from_slice(b"null");
    } else if number == 0.0 {
        out.push(b'0');
    } else {
        out.extend_from_slice(ryu_js::Buffer::new().format_finite(number).as_bytes());
    }
}

fn write_indented(value: &Value<'_>, depth: usize, out: &mut Vec<u8>) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            let mut before = b'[';
            for item in items {
                out.push(before);
                new_line(depth + 1, out);
                write_indented(item, depth + 1, out);
                before = b',';
            }
            new_line(depth, out);
            out.push(b']');
        }
        Value::Object(members) if !members.is_empty() => {
            let mut before = b'{';
            for (key, member) in members {
                out.push(before);
                new_line(depth + 1, out);
                write_string(key, out);
                out.extend_from_slice(b": ");
                write_indented(member, depth + 1, out);
                before = b',';
            }
            new_line(depth, out);
            out.push(b'}');
        }
        Value::Array(_) => out.extend_from_slice(b"[]"),
        Value::Object(_) => out.extend_from_slice(b"{}"),
        Value::Null | Value::Infinity | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            write_scalar(value, out);
        }
    }
}

fn write_scalar(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(text) => out.extend_from_slice(text.as_bytes()),
        Value::String(text) => write_string(text, out),
        Value::Null | Value::Infinity | Value::Array(_) | Value::Object(_) => out.extend_from_slice(b"null"),
    }
}

fn write_string(written: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(written.as_bytes());
    out.push(b'"');
}

fn new_line(depth: usize, out: &mut Vec<u8>) {
    out.push(b'\n');
    let mut spaces = 2 * depth;
    while spaces > 0 {
        let some = spaces.min(SPACES.len());
        out.extend_from_slice(&SPACES[..some]);
        spaces -= some;
    }
}
