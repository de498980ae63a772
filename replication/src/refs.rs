//! References: feed, message and blob identities, parsed once at the edge (protocol guide, "Feeds",
//! "Message ID", "Blobs"). Base64 is canonical or refused.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a canonical {expected} reference")]
pub struct InvalidRef {
    expected: &'static str,
}

macro_rules! reference {
    ($(#[$doc:meta])* $name:ident, $sigil:literal, $suffix:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps the reference's 32 bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The reference's bytes.
            pub const fn to_bytes(self) -> [u8; 32] {
                self.0
            }

            /// The reference's bytes, borrowed.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($sigil, "{}", $suffix), STANDARD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_string()[..9])
            }
        }

        impl FromStr for $name {
            type Err = InvalidRef;

            fn from_str(text: &str) -> Result<Self, InvalidRef> {
                let body = text.strip_prefix($sigil).and_then(|t| t.strip_suffix($suffix));
                body.and_then(decode_32).map(Self).ok_or(InvalidRef { expected: $kind })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

reference!(
    /// A feed, named by its author's ed25519 public key: `@<base64>.ed25519`.
    FeedId, "@", ".ed25519", "feed"
);
reference!(
    /// A classic message, named by the SHA-256 of its canonical form: `%<base64>.sha256`.
    MessageId, "%", ".sha256", "message"
);
reference!(
    /// A blob, named by the SHA-256 of its bytes: `&<base64>.sha256`.
    BlobId, "&", ".sha256", "blob"
);

reference!(
    /// A private group, named by the cloaked id of the message that began it: `%<base64>.cloaked`.
    GroupId, "%", ".cloaked", "group"
);

impl GroupId {
    /// Reads both ways of writing a group: the one above, and `ssb:identity/group/<base64 for URLs>` with its
    /// variants.
    pub fn from_any(text: &str) -> Option<Self> {
        text.parse().ok().or_else(|| uri_bytes(text, &["identity/group", "message/cloaked"]).map(Self))
    }
}

impl MessageId {
    /// Reads both ways of writing a classic message: `%….sha256`, and `ssb:message/classic/<base64 for URLs>` with
    /// its variants.
    pub fn from_any(text: &str) -> Option<Self> {
        text.parse().ok().or_else(|| uri_bytes(text, &["message/classic", "message/sha256"]).map(Self))
    }
}

/// The bytes of an SSB URI of one of `kinds`.
fn uri_bytes(uri: &str, kinds: &[&str]) -> Option<[u8; 32]> {
    let rest = uri.strip_prefix("ssb:")?;
    let path = rest.strip_prefix("//").unwrap_or(rest).replace(':', "/");
    let data = kinds.iter().find_map(|kind| path.strip_prefix(kind)?.strip_prefix('/'))?;
    decode_32(&data.replace('-', "+").replace('_', "/"))
}

fn decode_32(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 33];
    // 44 characters of padded base64 are 32 bytes; anything else is not a reference.
    let n = if text.len() == 44 { STANDARD.decode_slice(text, &mut bytes).ok()? } else { 0 };
    if n == 32 { bytes[..32].try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_print_what_they_parse() {
        let text = "@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=.ed25519";
        assert_eq!(text.parse::<FeedId>().unwrap().to_string(), text);
        let text = "%7qizFH9dHuG2wMUg8CAP/1Olg2exISVkjJpvlCYATu4=.sha256";
        assert_eq!(text.parse::<MessageId>().unwrap().to_string(), text);
        let text = "&47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=.sha256";
        assert_eq!(text.parse::<BlobId>().unwrap().to_string(), text);
    }

    #[test]
    fn groups_and_messages_are_read_as_uris_too() {
        let group = "%6kFEq9AaVS/uhnKGARmPAIQdXcGkex8f1l//UFGZtSg=.cloaked".parse::<GroupId>().unwrap();
        for uri in ["ssb:identity/group/", "ssb://identity/group/", "ssb:message/cloaked/"] {
            let uri = format!("{uri}6kFEq9AaVS_uhnKGARmPAIQdXcGkex8f1l__UFGZtSg=");
            assert_eq!(GroupId::from_any(&uri), Some(group), "{uri}");
            assert_eq!(MessageId::from_any(&uri), None);
        }
        assert_eq!(GroupId::from_any(&group.to_string()), Some(group));
        let message = "ssb:message:classic:6kFEq9AaVS_uhnKGARmPAIQdXcGkex8f1l__UFGZtSg=";
        assert_eq!(MessageId::from_any(message).map(MessageId::to_bytes), Some(group.to_bytes()));
        assert_eq!(GroupId::from_any("ssb:identity/group/"), None);
    }

    #[test]
    fn non_canonical_padding_bits_are_refused() {
        assert!("@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1x=.ed25519".parse::<FeedId>().is_err());
        assert!("@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=.sha256".parse::<FeedId>().is_err());
        assert!("@.ed25519".parse::<FeedId>().is_err());
    }
}
