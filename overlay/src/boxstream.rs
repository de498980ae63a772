//! The box stream (protocol guide, "Box stream"): encrypts each direction of a connection after the
//! handshake.
//!
//! ```text
//! box      = header 34 | body 1..=4096         body sealed with nonce + 1, its tag lies in the header
//! header   = secretbox(len u16be | body tag 16), sealed with nonce; the next box starts at nonce + 2
//! goodbye  = header over 18 zero bytes
//! ```
//!
//! A [`Sealer`] and an [`Opener`] work on byte buffers in place and without allocating per box; the
//! connection's driver moves the bytes. What always holds:
//!
//! - we send at most [`MAX_SEALED`] bytes in a box and accept whatever the length field can say;
//! - a body is never empty, because a peer would read that as a goodbye;
//! - bytes that end without a goodbye are an error ([`Opener::finish`]), not an end: otherwise whoever
//!   holds the line could cut a conversation short unnoticed.

use std::fmt;

use bytes::{Buf as _, BytesMut};
use ssb_crypto::secretbox::{Hmac, Key, Nonce};

/// The most we put into one box: every peer takes this much.
pub const MAX_SEALED: usize = 4096;
/// Length of a header on the wire.
pub const HEADER_LEN: usize = 34;

const TAG_LEN: usize = 16;
/// Length of a header's content: length and body tag.
const PLAIN_HEADER_LEN: usize = HEADER_LEN - TAG_LEN;

/// Key and first nonce of one direction. Zeroized when dropped.
pub struct BoxKey {
    key: Key,
    nonce: Counter,
}

impl BoxKey {
    /// Puts the two together.
    pub const fn new(key: Key, nonce: [u8; 24]) -> Self {
        Self { key, nonce: Counter(Nonce(nonce)) }
    }

    /// The secret key's bytes.
    pub const fn key(&self) -> &[u8; 32] {
        &self.key.0
    }

    /// The nonce of the next box.
    pub const fn nonce(&self) -> &[u8; 24] {
        &self.nonce.0.0
    }
}

impl fmt::Debug for BoxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxKey(..)")
    }
}

/// The nonce: a 24-byte big-endian counter that wraps.
struct Counter(Nonce);

impl Counter {
    /// The current value; the counter moves on.
    fn take(&mut self) -> Nonce {
        let current = self.0;
        for byte in self.0.0.iter_mut().rev() {
            let (next, carry) = byte.overflowing_add(1);
            *byte = next;
            if !carry {
                break;
            }
        }
        current
    }
}

/// Seals what we send.
#[derive(Debug)]
pub struct Sealer {
    key: BoxKey,
    /// Bytes of the box that is being filled: with room for its header they are the end of what was sealed to.
    filled: usize,
}

impl Sealer {
    /// Starts at the key's nonce.
    pub const fn new(key: BoxKey) -> Self {
        Self { key, filled: 0 }
    }

    /// Appends `body` to `out` in boxes of its own, as many as it takes; none if it is empty.
    pub fn seal(&mut self, body: &[u8], out: &mut BytesMut) {
        self.close(out);
        out.reserve(body.len() + body.len().div_ceil(MAX_SEALED) * HEADER_LEN);
        self.fill(body, out);
        self.close(out);
    }

    /// Appends `bytes` to the box that is being filled at the end of `out`, and to as many others as it takes. The last
    /// is not complete before [`close`](Self::close), and `out` must be left alone until then.
    pub fn fill(&mut self, mut bytes: &[u8], out: &mut BytesMut) {
        while !bytes.is_empty() {
            if self.filled == 0 {
                out.extend_from_slice(&[0; HEADER_LEN]);
            }
            let (now, later) = bytes.split_at(bytes.len().min(MAX_SEALED - self.filled));
            out.extend_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == MAX_SEALED {
                self.close(out);
            }
        }
    }

    /// Completes the box that is being filled, if there is one.
    pub fn close(&mut self, out: &mut BytesMut) {
        let filled = std::mem::take(&mut self.filled);
        if filled == 0 {
            return;
        }
        let start = out.len() - filled - HEADER_LEN;
        let (header, body) = out[start..].split_at_mut(HEADER_LEN);
        let header_nonce = self.key.nonce.take();
        let body_tag = self.key.key.seal(body, &self.key.nonce.take());
        let length = u16::try_from(filled).expect("a box is filled up to MAX_SEALED");
        header[TAG_LEN..TAG_LEN + 2].copy_from_slice(&length.to_be_bytes());
        header[TAG_LEN + 2..].copy_from_slice(&body_tag.0);
        self.seal_header(header, &header_nonce);
    }

    /// Appends the goodbye, after which nothing can be sealed.
    pub fn goodbye(mut self, out: &mut BytesMut) {
        self.close(out);
        let mut header = [0; HEADER_LEN];
        let nonce = self.key.nonce.take();
        self.seal_header(&mut header, &nonce);
        out.extend_from_slice(&header);
    }

    fn seal_header(&self, header: &mut [u8], nonce: &Nonce) {
        let (tag, plain) = header.split_at_mut(TAG_LEN);
        tag.copy_from_slice(&self.key.key.seal(plain, nonce).0);
    }
}

/// What an [`Opener`] can do with more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Every whole box is opened; the rest waits for more bytes.
    NeedsMore,
    /// The peer said goodbye; whatever follows is ignored.
    Goodbye,
}

/// Why received bytes are refused. The peer, or whoever holds the line, is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BoxError {
    /// The header was not sealed with our key and the next nonce.
    #[error("invalid header")]
    Header,
    /// The body was not sealed with our key and the next nonce.
    #[error("invalid body")]
    Body,
    /// A header announces a body of no bytes.
    #[error("empty box")]
    Empty,
    /// The bytes ended without a goodbye.
    #[error("unexpected hangup")]
    Truncated,
}

/// Opens what we receive.
#[derive(Debug)]
pub struct Opener {
    key: BoxKey,
    expect: Expect,
    boxes: u64,
}

#[derive(Clone, Copy, Debug)]
enum Expect {
    Header,
    Body { len: usize, tag: [u8; TAG_LEN] },
    Nothing,
}

impl Opener {
    /// Starts at the key's nonce.
    pub const fn new(key: BoxKey) -> Self {
        Self { key, expect: Expect::Header, boxes: 0 }
    }

    /// Takes every whole box from the front of `input` and appends what it holds to `out`.
    ///
    /// After an error the stream is worthless; nothing of the failed box reaches `out`.
    pub fn open(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Result<Opened, BoxError> {
        loop {
            self.expect = match self.expect {
                Expect::Header if input.len() < HEADER_LEN => return Ok(Opened::NeedsMore),
                Expect::Header => self.open_header(input)?,
                Expect::Body { len, .. } if input.len() < len => return Ok(Opened::NeedsMore),
                Expect::Body { len, tag } => self.open_body(len, tag, input, out)?,
                Expect::Nothing => return Ok(Opened::Goodbye),
            };
        }
    }

    /// Boxes opened so far.
    pub const fn boxes(&self) -> u64 {
        self.boxes
    }

    /// Says whether the bytes may end here.
    pub const fn finish(&self) -> Result<(), BoxError> {
        match self.expect {
            Expect::Nothing => Ok(()),
            Expect::Header | Expect::Body { .. } => Err(BoxError::Truncated),
        }
    }

    fn open_header(&mut self, input: &mut BytesMut) -> Result<Expect, BoxError> {
        let (tag, sealed) = input.split_at(TAG_LEN);
        let tag = Hmac::from_slice(tag).ok_or(BoxError::Header)?;
        let mut plain = [0; PLAIN_HEADER_LEN];
        plain.copy_from_slice(&sealed[..PLAIN_HEADER_LEN]);
        if !self.key.key.open(&mut plain, &tag, &self.key.nonce.take()) {
            return Err(BoxError::Header);
        }
        input.advance(HEADER_LEN);
        if plain == [0; PLAIN_HEADER_LEN] {
            return Ok(Expect::Nothing);
        }
        let len = usize::from(u16::from_be_bytes([plain[0], plain[1]]));
        if len == 0 {
            return Err(BoxError::Empty);
        }
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(&plain[2..]);
        Ok(Expect::Body { len, tag })
    }

    fn open_body(
        &mut self,
        len: usize,
        tag: [u8; TAG_LEN],
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Expect, BoxError> {
        let start = out.len();
        out.extend_from_slice(&input[..len]);
        if !self.key.key.open(&mut out[start..], &Hmac(tag), &self.key.nonce.take()) {
            out.truncate(start);
            return Err(BoxError::Body);
        }
        input.advance(len);
        self.boxes += 1;
        Ok(Expect::Header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(nonce: [u8; 24]) -> BoxKey {
        ssb_crypto::sodium::init().unwrap();
        BoxKey::new(Key([7; 32]), nonce)
    }

    fn pair() -> (Sealer, Opener) {
        (Sealer::new(key([1; 24])), Opener::new(key([1; 24])))
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    /// Made with pull-box-stream 1.0.13: key and nonce of the handshake vector's client.
    #[test]
    fn the_js_vector_is_reproduced() {
        ssb_crypto::sodium::init().unwrap();
        let secret = unhex("1b09decc219671538c81bddc7761450c6f75a083ba2a9febb65212c2068c7f83");
        let nonce = unhex("c1bea72b1b06c117aba5ab1ab0cf41f6af08b4426fe0c1ae");
        let key = || BoxKey::new(Key::from_slice(&secret).unwrap(), nonce.as_slice().try_into().unwrap());
        let (mut sealer, mut out) = (Sealer::new(key()), BytesMut::new());
        sealer.seal(b"hello", &mut out);
        let header = "e091ad18fbe44bc361076f22820864d037e8351ae456806d656aa25ab39f8e19b05c";
        assert_eq!(out, unhex(&format!("{header}6dcca4d399")));
        sealer.seal(&[0x61; 4097], &mut out);
        assert_eq!(out.len(), 34 + 5 + 34 + 4096 + 34 + 1);
        let before = out.len();
        sealer.goodbye(&mut out);
        let goodbye = "3bf93e4f9b487fd92f5c2a9a1ef2745fe76cd114ab2cd660dfba1b6c845248111599";
        assert_eq!(out[before..], unhex(goodbye));

        let (mut opener, mut plain) = (Opener::new(key()), BytesMut::new());
        assert_eq!(opener.open(&mut out, &mut plain), Ok(Opened::Goodbye));
        assert_eq!(&plain[..5], b"hello");
        assert_eq!(plain.len(), 5 + 4097);
        assert_eq!(opener.finish(), Ok(()));
    }

    #[test]
    fn the_nonce_carries_and_wraps() {
        let mut nonce = Counter(Nonce([0xff; 24]));
        assert_eq!(nonce.take().0, [0xff; 24]);
        assert_eq!(nonce.take().0, [0; 24]);
        assert_eq!(nonce.take().0[23], 1);
        let mut start = [0; 24];
        start[22..].copy_from_slice(&[1, 0xff]);
        let mut nonce = Counter(Nonce(start));
        nonce.take();
        assert_eq!(nonce.take().0[22..], [2, 0]);
    }

    #[test]
    fn an_empty_body_is_not_sent() {
        let (mut sealer, _) = pair();
        let mut out = BytesMut::new();
        sealer.seal(b"", &mut out);
        assert!(out.is_empty());
    }

    #[test]
    fn bodies_up_to_the_length_field_are_accepted() {
        let body = vec![3; usize::from(u16::MAX)];
        let (mut sealed_body, key, mut nonce) = (body.clone(), Key([7; 32]), Counter(Nonce([1; 24])));
        let (first, second) = (nonce.take(), nonce.take());
        let tag = key.seal(&mut sealed_body, &second);
        let mut header = [vec![0xff, 0xff], tag.0.to_vec()].concat();
        let header_tag = key.seal(&mut header, &first);
        let mut wire = BytesMut::from(&[header_tag.0.to_vec(), header, sealed_body].concat()[..]);
        let (_, mut opener) = pair();
        let mut plain = BytesMut::new();
        assert_eq!(opener.open(&mut wire, &mut plain), Ok(Opened::NeedsMore));
        assert_eq!(plain, body);
    }

    #[test]
    fn an_empty_box_that_is_no_goodbye_is_refused() {
        let mut header = [0; PLAIN_HEADER_LEN];
        header[5] = 1;
        let tag = Key([7; 32]).seal(&mut header, &Nonce([1; 24]));
        let mut wire = BytesMut::from(&[tag.0.to_vec(), header.to_vec()].concat()[..]);
        let (_, mut opener) = pair();
        assert_eq!(opener.open(&mut wire, &mut BytesMut::new()), Err(BoxError::Empty));
    }

    #[test]
    fn bytes_after_a_goodbye_are_ignored() {
        let (sealer, mut opener) = pair();
        let (mut wire, mut plain) = (BytesMut::new(), BytesMut::new());
        sealer.goodbye(&mut wire);
        wire.extend_from_slice(&[9; 100]);
        assert_eq!(opener.open(&mut wire, &mut plain), Ok(Opened::Goodbye));
        assert_eq!(opener.open(&mut wire, &mut plain), Ok(Opened::Goodbye));
        assert!(plain.is_empty());
    }

    #[test]
    fn a_replayed_box_is_refused() {
        let (mut sealer, mut opener) = pair();
        let (mut wire, mut plain) = (BytesMut::new(), BytesMut::new());
        sealer.seal(b"once", &mut wire);
        let copy = wire.clone();
        wire.extend_from_slice(&copy);
        assert_eq!(opener.open(&mut wire, &mut plain), Err(BoxError::Header));
        assert_eq!(&plain[..], b"once");
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_however_it_is_cut(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9000), 0..6),
            cuts in proptest::collection::vec(1usize..3000, 1..8),
        ) {
            let (mut sealer, mut opener) = pair();
            let mut wire = BytesMut::new();
            for body in &bodies {
                sealer.seal(body, &mut wire);
            }
            sealer.goodbye(&mut wire);
            let (mut input, mut plain, mut last) = (BytesMut::new(), BytesMut::new(), Opened::NeedsMore);
            for cut in cuts.iter().cycle() {
                if wire.is_empty() {
                    break;
                }
                prop_assert_eq!(opener.finish(), Err(BoxError::Truncated));
                input.extend_from_slice(&wire.split_to((*cut).min(wire.len())));
                last = opener.open(&mut input, &mut plain).unwrap();
            }
            prop_assert_eq!(last, Opened::Goodbye);
            prop_assert_eq!(opener.finish(), Ok(()));
            prop_assert_eq!(&plain[..], &bodies.concat()[..]);
        }

        #[test]
        fn parts_share_boxes_that_are_as_full_as_can_be(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..6000), 1..8),
            closes in proptest::collection::vec(any::<bool>(), 8),
        ) {
            let (mut sealer, mut opener) = pair();
            let (mut wire, mut plain, mut least) = (BytesMut::new(), BytesMut::new(), 0);
            let mut open = 0;
            for (part, closes) in parts.iter().zip(closes) {
                sealer.fill(part, &mut wire);
                open += part.len();
                if closes {
                    sealer.close(&mut wire);
                    least += std::mem::take(&mut open).div_ceil(MAX_SEALED);
                }
            }
            sealer.goodbye(&mut wire);
            least += open.div_ceil(MAX_SEALED);
            prop_assert_eq!(opener.open(&mut wire, &mut plain), Ok(Opened::Goodbye));
            prop_assert_eq!(&plain[..], &parts.concat()[..]);
            prop_assert_eq!(opener.boxes(), least as u64);
        }

        #[test]
        fn a_changed_byte_is_found(at in 0usize..(34 + 40), bit in 0u8..8) {
            let (mut sealer, mut opener) = pair();
            let mut wire = BytesMut::new();
            sealer.seal(&[5; 40], &mut wire);
            wire[at] ^= 1 << bit;
            let mut plain = BytesMut::new();
            let expected = if at < HEADER_LEN { BoxError::Header } else { BoxError::Body };
            prop_assert_eq!(opener.open(&mut wire, &mut plain), Err(expected));
            prop_assert!(plain.is_empty());
        }

        #[test]
        fn garbage_is_refused_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 34..200)) {
            let (_, mut opener) = pair();
            let mut plain = BytesMut::new();
            prop_assert_eq!(opener.open(&mut BytesMut::from(&bytes[..]), &mut plain), Err(BoxError::Header));
        }
    }
}
