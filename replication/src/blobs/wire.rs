//! A packet of `blobs.createWants`: a JSON object from blob ids to whole numbers. A negative number is a want of
//! somebody so many hops away, a positive one the size of a blob that the sender has; zero means nothing.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::refs::BlobId;

/// Entries of one packet that are read; the rest of it is passed over.
pub const MAX_ENTRIES: usize = 20_000;

/// What is said of one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Somebody wants it: 1 the sender, 2 a neighbour of it, and so on. Never 0.
    Wants(u32),
    /// The sender has it, so many bytes. Never 0.
    Has(u64),
}

impl Said {
    fn from_wire(number: i64) -> Option<Self> {
        match number {
            0 => None,
            1.. => Some(Self::Has(number.unsigned_abs())),
            _ => Some(Self::Wants(u32::try_from(number.unsigned_abs()).unwrap_or(u32::MAX))),
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wants(hops) => write!(f, "-{hops}"),
            Self::Has(size) => write!(f, "{size}"),
        }
    }
}

/// Something else than an object of JSON; the peer is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a map of wants")]
pub struct NotAnUpdate;

/// Reads a packet. Entries that mean nothing, whose id or number is none, are left out, as JS does.
pub fn parse_update(json: &[u8]) -> Result<Vec<(BlobId, Said)>, NotAnUpdate> {
    serde_json::from_slice::<Update>(json).map(|update| update.0).map_err(|_| NotAnUpdate)
}

/// Writes a packet; without entries it is `{}`.
pub fn print_update(entries: impl IntoIterator<Item = (BlobId, Said)>) -> Vec<u8> {
    let mut text = String::from("{");
    for (id, said) in entries {
        let comma = if text.len() > 1 { "," } else { "" };
        text.push_str(&format!("{comma}\"{id}\":{said}"));
    }
    text.push('}');
    text.into_bytes()
}

struct Update(Vec<(BlobId, Said)>);

impl<'de> Deserialize<'de> for Update {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UpdateVisitor)
    }
}

struct UpdateVisitor;

impl<'de> Visitor<'de> for UpdateVisitor {
    type Value = Update;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of wants")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Update, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Key<'de>>()? {
            let Some(id) = key.0.parse().ok().filter(|_| entries.len() < MAX_ENTRIES) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let said = map.next_value::<Number>()?.0.and_then(Said::from_wire);
            entries.extend(said.map(|said| (id, said)));
        }
        Ok(Update(entries))
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// A whole number if the value is one. JS takes `1.0` for whole, as its JSON does.
struct Number(Option<i64>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let whole = |n: f64| (n.fract() == 0.0 && n.abs() < 9e15).then_some(n as i64);
        Ok(Self(value.as_i64().or_else(|| value.as_f64().and_then(whole))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "&47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=.sha256";

    #[test]
    fn what_means_nothing_is_left_out() {
        let id: BlobId = ID.parse().unwrap();
        let parse = |value: &str| parse_update(format!(r#"{{"x":1,"{ID}":{value}}}"#).as_bytes()).unwrap();
        assert_eq!(parse("-2"), [(id, Said::Wants(2))]);
        assert_eq!(parse("5242880"), [(id, Said::Has(5_242_880))]);
        assert_eq!(parse("3.0"), [(id, Said::Has(3))]);
        assert_eq!(parse("-99999999999"), [(id, Said::Wants(u32::MAX))]);
        for nothing in ["0", "1.5", "true", "null", "\"7\"", "[-1]", "{\"a\":-1}", "1e300"] {
            assert_eq!(parse(nothing), [], "{nothing}");
        }
        assert_eq!(parse_update(b"{}").unwrap(), []);
        assert_eq!(parse_update(b" {} \n").unwrap(), [], "Go writes a line feed");
        for wrong in [&b"[]"[..], b"true", b"", b"{\"a\":", b"\xff"] {
            assert_eq!(parse_update(wrong), Err(NotAnUpdate));
        }
    }

    #[test]
    fn a_packet_of_a_million_entries_is_read_only_so_far() {
        let ids = (0..MAX_ENTRIES + 1_000).map(|n| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&(n as u64).to_be_bytes());
            (BlobId::from_bytes(bytes), Said::Wants(1))
        });
        assert_eq!(parse_update(&print_update(ids)).unwrap().len(), MAX_ENTRIES);
    }

    proptest! {
        #[test]
        fn what_is_printed_can_be_read(
            entries in proptest::collection::btree_map(
                any::<[u8; 32]>(),
                prop_oneof![(1u32..).prop_map(Said::Wants), (1u64..1 << 40).prop_map(Said::Has)],
                0..20,
            ),
        ) {
            let entries: Vec<_> = entries.into_iter().map(|(id, said)| (BlobId::from_bytes(id), said)).collect();
            prop_assert_eq!(parse_update(&print_update(entries.clone())).unwrap(), entries);
        }

        #[test]
        fn nothing_that_comes_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_update(&bytes);
        }
    }
}
