//! Packets out of a growing buffer, and into one.

use bytes::{Buf as _, Bytes, BytesMut};

use super::Body;
use super::header::{GOODBYE, HEADER_LEN, Header};

/// A body from here on is taken out of the read buffer as it lies there; a smaller one is copied, so that
/// it does not keep the whole buffer alive for as long as someone holds it.
const SHARE_FROM: usize = 32 * 1024;

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Belongs to a stream.
    pub stream: bool,
    /// Ends a stream, or is an error.
    pub end: bool,
    /// The call: the sender's own number, or minus the receiver's.
    pub request: i32,
    /// The body.
    pub body: Body,
}

impl Packet {
    /// The header in front of the body.
    ///
    /// # Panics
    ///
    /// If the body is 4 GiB or longer.
    pub fn header(&self) -> [u8; HEADER_LEN] {
        let len = u32::try_from(self.body.bytes.len()).expect("a body is shorter than 4 GiB");
        let (stream, end, kind) = (self.stream, self.end, self.body.kind);
        Header { stream, end, kind, len, request: self.request }.to_bytes()
    }
}

/// What crosses the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A packet.
    Packet(Packet),
    /// The sender has nothing more to say.
    Goodbye,
}

impl Frame {
    /// Header and body, which are sent one after the other.
    pub fn parts(&self) -> ([u8; HEADER_LEN], &[u8]) {
        match self {
            Self::Packet(packet) => (packet.header(), &packet.body.bytes),
            Self::Goodbye => (GOODBYE, &[]),
        }
    }
}

/// Why received bytes are no packets. The peer is to blame, and since the next packet's beginning is
/// unknown the session cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A body kind that does not exist.
    #[error("unknown body kind")]
    UnknownKind,
    /// A longer body than we take.
    #[error("body of {len} bytes, the limit is {limit}")]
    Oversize {
        /// What the header announces.
        len: usize,
        /// What we take.
        limit: usize,
    },
}

/// Takes frames from the front of a buffer.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    max_body: usize,
}

impl Decoder {
    /// Refuses bodies longer than `max_body`.
    pub const fn new(max_body: usize) -> Self {
        Self { max_body }
    }

    /// The next frame, or `None` until more bytes are there.
    pub fn decode(&self, input: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        let Some(bytes) = input.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        // Before the kind is looked at: without a body it does not matter.
        if bytes[1..5] == [0; 4] {
            input.advance(HEADER_LEN);
            return Ok(Some(Frame::Goodbye));
        }
        let header = Header::from_bytes(bytes).map_err(|_| DecodeError::UnknownKind)?;
        let len = usize::try_from(header.len).unwrap_or(usize::MAX);
        if len > self.max_body {
            return Err(DecodeError::Oversize { len, limit: self.max_body });
        }
        if input.len() - HEADER_LEN < len {
            return Ok(None);
        }
        input.advance(HEADER_LEN);
        let body = Body { kind: header.kind, bytes: take(input, len) };
        let Header { stream, end, request, .. } = header;
        Ok(Some(Frame::Packet(Packet { stream, end, request, body })))
    }
}

fn take(input: &mut BytesMut, len: usize) -> Bytes {
    if len >= SHARE_FROM {
        return input.split_to(len).freeze();
    }
    let bytes = Bytes::copy_from_slice(&input[..len]);
    input.advance(len);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::muxrpc::BodyKind;
    use proptest::prelude::*;

    fn encode(frames: &[Frame]) -> BytesMut {
        let mut out = BytesMut::new();
        for frame in frames {
            let (header, body) = frame.parts();
            out.extend_from_slice(&header);
            out.extend_from_slice(body);
        }
        out
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let kind = prop_oneof![Just(BodyKind::Binary), Just(BodyKind::Text), Just(BodyKind::Json)];
        let bytes = proptest::collection::vec(any::<u8>(), 1..300);
        let packet = (any::<bool>(), any::<bool>(), any::<i32>(), kind, bytes).prop_map(
            |(stream, end, request, kind, bytes)| {
                Frame::Packet(Packet { stream, end, request, body: Body { kind, bytes: bytes.into() } })
            },
        );
        prop_oneof![9 => packet, 1 => Just(Frame::Goodbye)]
    }

    /// Seen with ssb-server 16: it answers an empty string in stream 5 with its own goodbye.
    #[test]
    fn any_packet_without_a_body_is_a_goodbye() {
        for header in [GOODBYE, [0x09, 0, 0, 0, 0, 0, 0, 0, 5], [0x03, 0, 0, 0, 0, 0, 0, 0, 5]] {
            let mut input = BytesMut::from(&header[..]);
            assert_eq!(Decoder::new(10).decode(&mut input), Ok(Some(Frame::Goodbye)));
        }
    }

    #[test]
    fn a_long_body_is_refused_by_its_header_alone() {
        let mut input = BytesMut::from(&[0x0a, 0, 0, 0, 11, 0, 0, 0, 1][..]);
        let expected = Err(DecodeError::Oversize { len: 11, limit: 10 });
        assert_eq!(Decoder::new(10).decode(&mut input), expected);
        assert_eq!(Decoder::new(11).decode(&mut input), Ok(None));
    }

    #[test]
    fn a_kind_that_does_not_exist_is_refused() {
        let mut input = BytesMut::from(&[0x0b, 0, 0, 0, 1, 0, 0, 0, 1, 0][..]);
        assert_eq!(Decoder::new(10).decode(&mut input), Err(DecodeError::UnknownKind));
    }

    #[test]
    fn a_small_body_does_not_hold_the_read_buffer() {
        let body = |len| Body::binary(vec![1; len]);
        let packet = |len| Frame::Packet(Packet { stream: true, end: false, request: 1, body: body(len) });
        let mut input = encode(&[packet(10), packet(SHARE_FROM)]);
        let (first, last) = (input.as_ptr() as usize, input.as_ptr() as usize + input.len());
        let mut inside = || match Decoder::new(1 << 20).decode(&mut input) {
            Ok(Some(Frame::Packet(packet))) => (first..last).contains(&(packet.body.bytes.as_ptr() as usize)),
            other => panic!("{other:?}"),
        };
        assert!(!inside());
        assert!(inside());
    }

    proptest! {
        #[test]
        fn frames_survive_however_they_are_cut(
            frames in proptest::collection::vec(frame(), 0..8),
            cuts in proptest::collection::vec(1usize..200, 1..6),
        ) {
            let mut wire = encode(&frames);
            let (mut input, mut seen) = (BytesMut::new(), Vec::new());
            for cut in cuts.iter().cycle() {
                if wire.is_empty() {
                    break;
                }
                input.extend_from_slice(&wire.split_to((*cut).min(wire.len())));
                while let Some(frame) = Decoder::new(300).decode(&mut input).unwrap() {
                    seen.push(frame);
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(input.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut input = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Decoder::new(1000).decode(&mut input) {}
        }
    }
}
