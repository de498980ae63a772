//! Items of an `ebt.replicate` stream: a message or notes, told apart in one pass over the bytes.
//!
//! The scanner reads only the top level and stops at a message's content, which the verifier parses
//! anyway. It is as lenient as `JSON.parse` followed by JavaScript's own test: an object with a string
//! `author`, a positive integer `sequence` and a truthy `content` is a message, any other is notes.

use std::borrow::Cow;

use memchr::memchr2;

use super::{Note, Notes};
use crate::refs::FeedId;

/// Feeds named in one packet. Ten times what a large peer knows today.
pub const MAX_NOTES: usize = 200_000;

/// One item of the stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Item<'a> {
    /// Notes.
    Notes(Notes),
    /// A message, not yet parsed.
    Message {
        /// The whole body, as received.
        bytes: &'a [u8],
        /// The author it claims.
        author: FeedId,
        /// The sequence it claims.
        sequence: u64,
    },
}

/// The peer sent something that is neither notes nor a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidItem {
    /// The body is no JSON object.
    #[error("not a JSON object")]
    Malformed,
    /// More than [`MAX_NOTES`] feeds are named.
    #[error("more than {MAX_NOTES} notes in one packet")]
    TooManyNotes,
    /// A message whose author is not a classic feed.
    #[error("a message of a feed that is not classic")]
    ForeignAuthor,
}

/// Tells a message from notes.
pub fn classify(bytes: &[u8]) -> Result<Item<'_>, InvalidItem> {
    match scan(bytes)? {
        Found::Message { author, sequence } => {
            let author = author.parse().map_err(|_| InvalidItem::ForeignAuthor)?;
            Ok(Item::Message { bytes, author, sequence })
        }
        Found::Notes(notes) => Ok(Item::Notes(notes)),
        // Only the inside counts; a wrapper inside the wrapper would be one of its keys that are no feeds.
        Found::Wrapped(inner) => match scan(inner)? {
            Found::Notes(notes) => Ok(Item::Notes(notes)),
            Found::Message { .. } | Found::Wrapped(_) => Ok(Item::Notes(Notes::default())),
        },
    }
}

enum Found<'a> {
    Message { author: Cow<'a, str>, sequence: u64 },
    Notes(Notes),
    Wrapped(&'a [u8]),
}

#[derive(Default)]
struct Seen<'a> {
    author: Option<Cow<'a, str>>,
    sequence: Option<u64>,
    content: bool,
    wrapped: Option<&'a [u8]>,
    notes: Notes,
}

impl<'a> Seen<'a> {
    fn key(&mut self, key: &str, value: &'a [u8]) -> Result<(), InvalidItem> {
        match key {
            "author" => self.author = text(value),
            "sequence" => {
                self.sequence = integer(value).and_then(|n| u64::try_from(n).ok()).filter(|&n| n > 0)
            }
            "content" => self.content = truthy(value),
            "clock" if value.first() == Some(&b'{') => self.wrapped = Some(value),
            _ if key.starts_with('@') => {
                if let (Ok(feed), Some(wire)) = (key.parse(), integer(value)) {
                    self.notes.push(feed, Note::from_wire(wire));
                }
                if self.notes.len() > MAX_NOTES {
                    return Err(InvalidItem::TooManyNotes);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn has_header(&self) -> bool {
        self.author.is_some() && self.sequence.is_some()
    }

    fn end(self) -> Found<'a> {
        match (self.author, self.sequence, self.wrapped) {
            (Some(author), Some(sequence), _) if self.content => Found::Message { author, sequence },
            (_, _, Some(inner)) => Found::Wrapped(inner),
            _ => Found::Notes(self.notes),
        }
    }
}

fn scan(bytes: &[u8]) -> Result<Found<'_>, InvalidItem> {
    let mut scanner = Scanner { bytes, at: 0 };
    let mut seen = Seen::default();
    scanner.expect(b'{')?;
    if scanner.next_is(b'}') {
        return scanner.end().map(|()| seen.end());
    }
    loop {
        let key = scanner.key()?;
        scanner.expect(b':')?;
        if key == "content" && seen.has_header() && scanner.value_is_truthy() {
            // The rest is the verifier's.
            seen.content = true;
            return Ok(seen.end());
        }
        let value = scanner.value()?;
        seen.key(&key, value)?;
        if scanner.next_is(b'}') {
            return scanner.end().map(|()| seen.end());
        }
        scanner.expect(b',')?;
    }
}

/// Walks over JSON without building anything. It balances brackets without telling their kinds apart,
/// which is enough to find where a value ends.
struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&mut self) -> Option<u8> {
        while self.bytes.get(self.at).is_some_and(|b| b" \t\r\n".contains(b)) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    fn next_is(&mut self, byte: u8) -> bool {
        let is = self.peek() == Some(byte);
        self.at += usize::from(is);
        is
    }

    fn expect(&mut self, byte: u8) -> Result<(), InvalidItem> {
        if self.next_is(byte) { Ok(()) } else { Err(InvalidItem::Malformed) }
    }

    fn end(&mut self) -> Result<(), InvalidItem> {
        if self.peek().is_none() { Ok(()) } else { Err(InvalidItem::Malformed) }
    }

    fn key(&mut self) -> Result<Cow<'a, str>, InvalidItem> {
        if self.peek() != Some(b'"') {
            return Err(InvalidItem::Malformed);
        }
        text(self.string()?).ok_or(InvalidItem::Malformed)
    }

    /// The string that begins here, with its quotes.
    fn string(&mut self) -> Result<&'a [u8], InvalidItem> {
        let start = self.at;
        let mut at = start + 1;
        loop {
            let rest = self.bytes.get(at..).ok_or(InvalidItem::Malformed)?;
            at += memchr2(b'"', b'\\', rest).ok_or(InvalidItem::Malformed)?;
            if self.bytes[at] == b'"' {
                self.at = at + 1;
                return Ok(&self.bytes[start..self.at]);
            }
            at += 2;
        }
    }

    /// The value that begins here.
    fn value(&mut self) -> Result<&'a [u8], InvalidItem> {
        match self.peek().ok_or(InvalidItem::Malformed)? {
            b'"' => self.string(),
            b'{' | b'[' => self.nested(),
            _ => self.scalar(),
        }
    }

    fn nested(&mut self) -> Result<&'a [u8], InvalidItem> {
        let start = self.at;
        let mut depth = 0usize;
        loop {
            match self.bytes.get(self.at).ok_or(InvalidItem::Malformed)? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Ok(&self.bytes[start..self.at]);
            }
        }
    }

    fn scalar(&mut self) -> Result<&'a [u8], InvalidItem> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|b| b",:{}[]\" \t\r\n".contains(b)).unwrap_or(rest.len());
        self.at += length;
        if length == 0 { Err(InvalidItem::Malformed) } else { Ok(&rest[..length]) }
    }

    /// Looks at the value that begins here without passing it.
    fn value_is_truthy(&mut self) -> bool {
        let at = self.at;
        let truthy = match self.peek() {
            Some(b'{' | b'[') => true,
            Some(_) => self.value().is_ok_and(truthy),
            None => false,
        };
        self.at = at;
        truthy
    }
}

/// The text of a JSON string, given with its quotes.
fn text(value: &[u8]) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if inner.contains(&b'\\') {
        return serde_json::from_slice(value).ok().map(Cow::Owned);
    }
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}

/// The integer a JSON number is, also if written with a fraction or an exponent.
fn integer(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return None;
    }
    if let Ok(integer) = text.parse() {
        return Some(integer);
    }
    // 2^62 is far beyond any sequence and exact in both types.
    let float: f64 = text.parse().ok()?;
    (float.fract() == 0.0 && float.abs() <= (1u64 << 62) as f64).then_some(float as i64)
}

/// Whether JavaScript takes the value for true.
fn truthy(value: &[u8]) -> bool {
    match value.first() {
        Some(b'{' | b'[' | b't') => true,
        Some(b'"') => value != b"\"\"",
        Some(b'-' | b'0'..=b'9') => {
            std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()).is_some_and(|n: f64| n != 0.0)
        }
        Some(_) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALICE: &str = "@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=.ed25519";
    const BOB: &str = "@AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=.ed25519";

    fn alice() -> FeedId {
        ALICE.parse().unwrap()
    }

    fn notes(json: &str) -> Vec<(FeedId, Note)> {
        match classify(json.as_bytes()).unwrap() {
            Item::Notes(notes) => notes.into_iter().collect(),
            Item::Message { .. } => panic!("a message: {json}"),
        }
    }

    fn header(json: &str) -> (FeedId, u64) {
        match classify(json.as_bytes()).unwrap() {
            Item::Message { bytes, author, sequence } => {
                assert_eq!(bytes, json.as_bytes());
                (author, sequence)
            }
            Item::Notes(_) => panic!("notes: {json}"),
        }
    }

    #[test]
    fn notes_are_read_in_their_order() {
        let json = format!("{{\"{BOB}\":-1, \"{ALICE}\" : 450 }}\n");
        assert_eq!(notes(&json), [(BOB.parse().unwrap(), Note::REFUSE), (alice(), Note::new(225, true))]);
        assert_eq!(notes("{}"), []);
    }

    #[test]
    fn the_clock_wrapper_is_opened_and_the_rest_beside_it_dropped() {
        let json = format!(r#"{{"{BOB}":8,"clock":{{"{ALICE}":3}},"more":[1,{{"x":"}}"}}]}}"#);
        assert_eq!(notes(&json), [(alice(), Note::new(1, false))]);
        assert_eq!(notes(&format!(r#"{{"clock":7,"{ALICE}":3}}"#)), [(alice(), Note::new(1, false))]);
    }

    #[test]
    fn what_is_no_feed_or_no_integer_is_dropped() {
        let json = format!(r#"{{"%x":1,"@nofeed":2,"{BOB}":"4","{ALICE}":4.0,"@":{{"{BOB}":2}}}}"#);
        assert_eq!(notes(&json), [(alice(), Note::new(2, true))]);
        for value in ["1.5", "null", "true", "[2]", "1e400", "NaN", "inf", "+4"] {
            assert_eq!(notes(&format!(r#"{{"{ALICE}":{value}}}"#)), [], "{value}");
        }
    }

    #[test]
    fn an_escaped_key_is_the_same_feed() {
        let id = "@H/rZSbDNlAUFzZkGAl0bHPH1zNXLTcVyJ2hcCVTwDfI=.ed25519";
        let json = format!(r#"{{"{}":4}}"#, id.replace('/', "\\/"));
        assert_eq!(notes(&json), [(id.parse().unwrap(), Note::new(2, true))]);
    }

    #[test]
    fn a_message_is_known_by_author_sequence_and_content_in_any_order() {
        let canonical = format!(
            r#"{{"previous":null,"sequence":1,"author":"{ALICE}","timestamp":1.5,"hash":"sha256","content":{{"type":"x"}},"signature":"s"}}"#
        );
        assert_eq!(header(&canonical), (alice(), 1));
        let reversed = format!(r#"{{"content":"c.box","sequence":7,"author":"{ALICE}"}}"#);
        assert_eq!(header(&reversed), (alice(), 7));
        let spaced = format!("{{ \"author\" : \"{ALICE}\" , \"sequence\" : 2 , \"content\" : [ ] }}");
        assert_eq!(header(&spaced), (alice(), 2));
    }

    #[test]
    fn what_lacks_a_message_s_marks_is_notes() {
        for (author, sequence, content) in [
            (ALICE, "0", "{}"),
            (ALICE, "-1", "{}"),
            (ALICE, "1.5", "{}"),
            (ALICE, "\"1\"", "{}"),
            (ALICE, "1", "null"),
            (ALICE, "1", "\"\""),
            (ALICE, "1", "0"),
            (ALICE, "1", "false"),
        ] {
            let json = format!(r#"{{"author":"{author}","sequence":{sequence},"content":{content}}}"#);
            assert_eq!(notes(&json), [], "{json}");
        }
        assert_eq!(notes(&format!(r#"{{"author":"{ALICE}","sequence":1}}"#)), []);
        assert_eq!(notes(r#"{"author":7,"sequence":1,"content":{}}"#), []);
    }

    #[test]
    fn a_message_of_another_format_is_refused_by_name() {
        let json = r#"{"author":"ssb:feed/bendybutt-v1/AAAA","sequence":1,"content":{}}"#;
        assert_eq!(classify(json.as_bytes()), Err(InvalidItem::ForeignAuthor));
    }

    #[test]
    fn broken_json_is_malformed() {
        let long_string = format!(r#"{{"{ALICE}"#);
        for json in [
            "",
            "[]",
            "{",
            "null",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1",
            "{\"a\":1,}",
            "{} {}",
            "{\"a\\",
            "\"x\"",
        ] {
            assert_eq!(classify(json.as_bytes()), Err(InvalidItem::Malformed), "{json}");
        }
        assert_eq!(classify(long_string.as_bytes()), Err(InvalidItem::Malformed));
    }

    #[test]
    fn one_note_too_many_is_refused() {
        let entry = format!("\"{ALICE}\":2");
        let full = format!("{{{}}}", vec![entry.as_str(); MAX_NOTES].join(","));
        assert_eq!(notes(&full).len(), MAX_NOTES);
        let over = format!("{{{}}}", vec![entry.as_str(); MAX_NOTES + 1].join(","));
        assert_eq!(classify(over.as_bytes()), Err(InvalidItem::TooManyNotes));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = classify(&bytes);
        }

        #[test]
        fn no_broken_packet_panics(cut in 0usize..400, at in 0usize..400, byte: u8) {
            let json = format!(r#"{{"{BOB}":4,"clock":{{"{ALICE}":[{{"a":"\"}}"}}]}},"author":"{ALICE}","sequence":1,"content":"\u0041"}}"#);
            let mut bytes = json.into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut.max(1));
            let _ = classify(&bytes);
        }

        #[test]
        fn notes_survive_the_packet(entries in prop::collection::vec((any::<[u8; 32]>(), -1i64..1 << 60), 0..50)) {
            let sent: Notes =
                entries.into_iter().map(|(f, n)| (FeedId::from_bytes(f), Note::from_wire(n))).collect();
            let json = sent.to_json();
            prop_assert_eq!(classify(json.as_bytes()), Ok(Item::Notes(sent)));
        }

        #[test]
        fn valid_json_is_judged_as_a_parser_would(json in arbitrary_object()) {
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            let by_parser = value["sequence"].as_u64().is_some_and(|n| n > 0)
                && value["author"].is_string()
                && match &value["content"] {
                    serde_json::Value::Null => false,
                    serde_json::Value::Bool(b) => *b,
                    serde_json::Value::Number(n) => n.as_f64() != Some(0.0),
                    serde_json::Value::String(s) => !s.is_empty(),
                    serde_json::Value::Array(_) | serde_json::Value::Object(_) => true,
                };
            match classify(json.as_bytes()) {
                Ok(Item::Notes(_)) => prop_assert!(!by_parser),
                Ok(Item::Message { .. }) | Err(InvalidItem::ForeignAuthor) => prop_assert!(by_parser),
                Err(error) => prop_assert!(false, "{} for {}", error, json),
            }
        }
    }

    fn arbitrary_value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            (-3i64..4).prop_map(Into::into),
            "[a\"\\\\{}\\[\\]]{0,6}".prop_map(Into::into),
            Just(ALICE.into()),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map("[a\"}]{0,3}", inner, 0..4)
                    .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
            ]
        })
    }

    fn arbitrary_object() -> impl Strategy<Value = String> {
        let keys =
            prop::sample::subsequence(vec!["author", "content", "sequence", "x", BOB], 0..=5).prop_shuffle();
        (keys, prop::collection::vec(arbitrary_value(), 5), any::<bool>()).prop_map(
            |(keys, values, pretty)| {
                let entries = keys.iter().zip(values).map(|(k, v)| {
                    let v = if pretty { serde_json::to_string_pretty(&v) } else { serde_json::to_string(&v) };
                    format!("{}:{}", serde_json::to_string(k).unwrap(), v.unwrap())
                });
                format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
            },
        )
    }
}
