//! The nine bytes in front of every body.

use super::BodyKind;

/// Length of a header.
pub const HEADER_LEN: usize = 9;

/// What parts our sessions: nine zero bytes.
pub const GOODBYE: [u8; HEADER_LEN] = [0; HEADER_LEN];

const STREAM: u8 = 8;
const END: u8 = 4;
const KIND: u8 = 3;

/// A header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Belongs to a stream.
    pub stream: bool,
    /// Ends a stream, or is an error.
    pub end: bool,
    /// How to read the body.
    pub kind: BodyKind,
    /// The body's length.
    pub len: u32,
    /// The call: the sender's own number, or minus the receiver's.
    pub request: i32,
}

/// A body kind that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown body kind")]
pub struct UnknownKind;

impl Header {
    /// Encodes.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let kind = match self.kind {
            BodyKind::Binary => 0,
            BodyKind::Text => 1,
            BodyKind::Json => 2,
        };
        let mut out = [0; HEADER_LEN];
        out[0] = kind | if self.stream { STREAM } else { 0 } | if self.end { END } else { 0 };
        out[1..5].copy_from_slice(&self.len.to_be_bytes());
        out[5..].copy_from_slice(&self.request.to_be_bytes());
        out
    }

    /// Decodes; the four upper flags mean nothing.
    pub fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Result<Self, UnknownKind> {
        let [flags, l0, l1, l2, l3, r0, r1, r2, r3] = *bytes;
        let kind = match flags & KIND {
            0 => BodyKind::Binary,
            1 => BodyKind::Text,
            2 => BodyKind::Json,
            _ => return Err(UnknownKind),
        };
        Ok(Self {
            stream: flags & STREAM != 0,
            end: flags & END != 0,
            kind,
            len: u32::from_be_bytes([l0, l1, l2, l3]),
            request: i32::from_be_bytes([r0, r1, r2, r3]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// From the dialogue of an anonymous client with ssb-server 16: an error answer to call 1, and the end
    /// of stream 6.
    #[test]
    fn headers_look_as_js_writes_them() {
        let error = Header { stream: false, end: true, kind: BodyKind::Json, len: 0x110, request: -1 };
        assert_eq!(error.to_bytes(), [0x06, 0, 0, 1, 0x10, 0xff, 0xff, 0xff, 0xff]);
        let end = Header { stream: true, end: true, kind: BodyKind::Json, len: 4, request: -6 };
        assert_eq!(end.to_bytes(), [0x0e, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xfa]);
    }

    #[test]
    fn the_upper_flags_are_ignored_and_the_fourth_kind_is_refused() {
        let plain = Header::from_bytes(&[0x0a, 0, 0, 0, 1, 0, 0, 0, 1]).unwrap();
        assert_eq!(Header::from_bytes(&[0xfa, 0, 0, 0, 1, 0, 0, 0, 1]), Ok(plain));
        assert_eq!(Header::from_bytes(&[0x0b, 0, 0, 0, 1, 0, 0, 0, 1]), Err(UnknownKind));
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_but_for_the_upper_flags(bytes in any::<[u8; HEADER_LEN]>()) {
            if let Ok(header) = Header::from_bytes(&bytes) {
                let mut expected = bytes;
                expected[0] &= 0x0f;
                prop_assert_eq!(header.to_bytes(), expected);
            }
        }
    }
}
