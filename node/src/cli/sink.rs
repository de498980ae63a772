//! Methods that take a stream are given standard input: JSON objects, one after another with or without space between
//! them, as our own streams are printed; and to `blobs.add` bytes, which it gives to the node as they are.

use std::path::PathBuf;

use bytes::{Buf as _, Bytes, BytesMut};
use hawsepipe_overlay::muxrpc::Body;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::AsyncReadExt as _;

use super::blob;
use super::client::Failure;
use super::page::Facts;
use crate::client::Client;

/// What is read in one go.
const PIECE: usize = 64 * 1024;
/// The longest object; no message comes near it.
const MAX_OBJECT: usize = 1024 * 1024;

/// Calls the sink `method` with all that standard input gives.
pub(super) async fn run(
    client: &Client,
    method: &str,
    args: Vec<Value>,
    facts: &Facts,
) -> Result<(), Failure> {
    if method == "blobs.add" {
        let file = args.first().and_then(Value::as_str).map(PathBuf::from);
        return blob::add(client, file.as_deref(), facts).await;
    }
    let unreadable = |error: std::io::Error| Failure::Usage(format!("standard input: {error}"));
    let mut input = blob::standard_input().map_err(unreadable)?;
    let mut sink = client.sink_raw(method, args).await?;
    let mut objects = Objects::default();
    loop {
        objects.text.reserve(PIECE);
        let read = input.read_buf(&mut objects.text).await.map_err(unreadable)?;
        while let Some(object) = objects.next()? {
            if !sink.send(Body::json_raw(object)).await {
                return Ok(sink.finish().await?);
            }
        }
        if read == 0 {
            objects.end()?;
            return Ok(sink.finish().await?);
        }
    }
}

/// JSON objects as they come out of a stream of bytes, each exactly as it stands there: messages are signed.
#[derive(Debug, Default)]
struct Objects {
    text: BytesMut,
    taken: u64,
}

impl Objects {
    /// The next whole one.
    fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let space = self.text.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.text.advance(space);
        match self.text.first() {
            None => return Ok(None),
            Some(b'{') => {}
            Some(_) => return Err(self.wrong(&"expected JSON objects, one after another")),
        }
        let Some(end) = end_of_first(&self.text) else {
            return if self.text.len() > MAX_OBJECT { Err(self.wrong(&"too long")) } else { Ok(None) };
        };
        serde_json::from_slice::<&RawValue>(&self.text[..end]).map_err(|error| self.wrong(&error))?;
        self.taken += 1;
        Ok(Some(self.text.split_to(end).freeze()))
    }

    /// Nothing more comes.
    fn end(&self) -> Result<(), Failure> {
        if self.text.is_empty() { Ok(()) } else { Err(self.wrong(&"it is not whole")) }
    }

    fn wrong(&self, why: &dyn std::fmt::Display) -> Failure {
        Failure::Usage(format!("standard input, object {}: {why}", self.taken + 1))
    }
}

/// Where the first object ends, as its brackets have it. A parser would not do: it takes a number that was cut for a
/// wrong one.
fn end_of_first(text: &[u8]) -> Option<usize> {
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All objects of what comes in these pieces, and what is said in the end.
    fn objects(pieces: &[&str]) -> (Vec<String>, Result<(), String>) {
        let (mut objects, mut all) = (Objects::default(), Vec::new());
        let text = |failure| match failure {
            Failure::Usage(why) => why,
            Failure::NotRunning(_) | Failure::Refused(_) | Failure::Attention => panic!("{failure:?}"),
        };
        for piece in pieces {
            objects.text.extend_from_slice(piece.as_bytes());
            loop {
                match objects.next() {
                    Ok(Some(object)) => all.push(String::from_utf8(object.to_vec()).unwrap()),
                    Ok(None) => break,
                    Err(failure) => return (all, Err(text(failure))),
                }
            }
        }
        (all, objects.end().map_err(text))
    }

    #[test]
    fn objects_come_as_they_stand_there_however_they_are_cut() {
        let text = "{\"a\": 1.0,\n \"b\":\"}{\"}\n\n{}{\"\u{1f980}\":[{}]}  ";
        let expected = ["{\"a\": 1.0,\n \"b\":\"}{\"}", "{}", "{\"\u{1f980}\":[{}]}"].map(str::to_owned);
        for at in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
            let (one, other) = text.split_at(at);
            assert_eq!(objects(&[one, other]), (expected.to_vec(), Ok(())));
        }
    }

    #[test]
    fn what_is_no_object_is_told_with_its_place() {
        for (text, number) in [("{} 7", 2), ("{\"a\":}", 1), ("{}{}{\"a\"", 3), ("[{}]", 1)] {
            let (all, end) = objects(&[text]);
            assert_eq!(all.len(), number - 1, "{text}");
            assert!(end.unwrap_err().contains(&format!("object {number}:")), "{text}");
        }
        let endless = format!("{{\"a\":\"{}", "x".repeat(MAX_OBJECT));
        assert!(objects(&[&endless]).1.unwrap_err().contains("too long"));
    }
}
