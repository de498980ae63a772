//! The frames, to and from bytes.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Type and length.
pub(crate) const HEADER: usize = 3;
/// Longest body.
pub(crate) const MAX_BODY: usize = 16384;
/// The offset before the bytes of DATA.
const OFFSET: usize = 8;
/// What precedes the bytes of DATA.
pub(super) const DATA_HEADER: usize = HEADER + OFFSET;
/// Most bytes in one DATA.
pub(crate) const MAX_DATA: usize = MAX_BODY - OFFSET;
/// Length of a session's name.
const SID: usize = 16;
/// Longest body of a frame that may be a stream's first.
pub(crate) const MAX_FIRST: usize = SID + 4 + 8 + MAC;
/// Length of a MAC.
pub(super) const MAC: usize = 32;

const OPEN: u8 = 1;
const DATA: u8 = 2;
const ACK: u8 = 3;
/// Also the first byte of what its MAC covers.
pub(super) const ATTACH: u8 = 4;
pub(super) const ATTACHED: u8 = 5;
pub(super) const POKE: u8 = 6;
const FIN: u8 = 7;
const RESET: u8 = 8;

/// Names a session between its two ends. Not secret, and worth nothing without the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(pub(crate) [u8; SID]);

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Open(SessionId),
    Data { off: u64, bytes: Bytes },
    Ack(u64),
    Attach(Claim),
    Attached(Claim),
    Poke(Poke),
    Fin(u64),
    Reset(ResetCode),
}

/// What ATTACH and ATTACHED say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) sid: SessionId,
    pub(crate) epoch: u32,
    /// What the sender has received of the other's bytes.
    pub(crate) recv: u64,
    pub(crate) mac: [u8; MAC],
}

/// What POKE says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Poke {
    pub(crate) sid: SessionId,
    pub(crate) number: u32,
    pub(crate) mac: [u8; MAC],
}

/// Why a stream, or the session, is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ResetCode {
    UnknownSession,
    BadMac,
    Old,
    NotArmed,
    OutOfBuffer,
    Limit,
    /// A number that this version does not know.
    Other(u8),
}

impl ResetCode {
    const fn to_byte(self) -> u8 {
        match self {
            Self::UnknownSession => 1,
            Self::BadMac => 2,
            Self::Old => 3,
            Self::NotArmed => 4,
            Self::OutOfBuffer => 5,
            Self::Limit => 6,
            Self::Other(code) => code,
        }
    }

    const fn from_byte(code: u8) -> Self {
        match code {
            1 => Self::UnknownSession,
            2 => Self::BadMac,
            3 => Self::Old,
            4 => Self::NotArmed,
            5 => Self::OutOfBuffer,
            6 => Self::Limit,
            code => Self::Other(code),
        }
    }
}

/// What comes over a stream is no frame: the stream is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("frame of unknown type {0}")]
    UnknownType(u8),
    #[error("frame of {0} bytes, at most {MAX_BODY} are allowed")]
    TooLong(usize),
    #[error("frame of type {kind} with {len} bytes")]
    WrongLength { kind: u8, len: usize },
}

impl Frame {
    /// As it goes over the wire. DATA is made by [`start_data`] and [`finish_data`], without a copy.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER + SID + 4 + 8 + MAC);
        match self {
            Self::Open(sid) => start(&mut out, OPEN, SID).put_slice(&sid.0),
            Self::Data { off, bytes } => {
                start(&mut out, DATA, OFFSET + bytes.len()).put_u64(*off);
                out.put_slice(bytes);
            }
            Self::Ack(off) => start(&mut out, ACK, OFFSET).put_u64(*off),
            Self::Attach(claim) => claim.encode(ATTACH, &mut out),
            Self::Attached(claim) => claim.encode(ATTACHED, &mut out),
            Self::Poke(poke) => {
                let out = start(&mut out, POKE, SID + 4 + MAC);
                out.put_slice(&poke.sid.0);
                out.put_u32(poke.number);
                out.put_slice(&poke.mac);
            }
            Self::Fin(off) => start(&mut out, FIN, OFFSET).put_u64(*off),
            Self::Reset(code) => start(&mut out, RESET, 1).put_u8(code.to_byte()),
        }
        out.freeze()
    }

    /// Takes the next frame off the bytes of a stream, if it is whole.
    pub(crate) fn decode(line: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let &[kind, high, low, ..] = &line[..] else { return Ok(None) };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if !(OPEN..=RESET).contains(&kind) {
            return Err(FrameError::UnknownType(kind));
        }
        if len > MAX_BODY {
            return Err(FrameError::TooLong(len));
        }
        if line.len() < HEADER + len {
            return Ok(None);
        }
        let mut frame = line.split_to(HEADER + len);
        frame.advance(HEADER);
        Self::parse(kind, frame.freeze()).map(Some)
    }

    fn parse(kind: u8, mut body: Bytes) -> Result<Self, FrameError> {
        let len = body.len();
        let expected = match kind {
            OPEN => SID,
            DATA if len > OFFSET => len,
            DATA => OFFSET + 1,
            ACK | FIN => OFFSET,
            ATTACH | ATTACHED => SID + 4 + 8 + MAC,
            POKE => SID + 4 + MAC,
            RESET => 1,
            kind => return Err(FrameError::UnknownType(kind)),
        };
        if len != expected {
            return Err(FrameError::WrongLength { kind, len });
        }
        Ok(match kind {
            OPEN => Self::Open(SessionId(array(&mut body))),
            DATA => Self::Data { off: body.get_u64(), bytes: body },
            ACK => Self::Ack(body.get_u64()),
            ATTACH => Self::Attach(Claim::parse(&mut body)),
            ATTACHED => Self::Attached(Claim::parse(&mut body)),
            POKE => Self::Poke(Poke {
                sid: SessionId(array(&mut body)),
                number: body.get_u32(),
                mac: array(&mut body),
            }),
            FIN => Self::Fin(body.get_u64()),
            _ => Self::Reset(ResetCode::from_byte(body.get_u8())),
        })
    }
}

impl Claim {
    fn encode(&self, kind: u8, out: &mut BytesMut) {
        let out = start(out, kind, SID + 4 + 8 + MAC);
        out.put_slice(&self.sid.0);
        out.put_u32(self.epoch);
        out.put_u64(self.recv);
        out.put_slice(&self.mac);
    }

    fn parse(body: &mut Bytes) -> Self {
        Self { sid: SessionId(array(body)), epoch: body.get_u32(), recv: body.get_u64(), mac: array(body) }
    }
}

fn start(out: &mut BytesMut, kind: u8, len: usize) -> &mut BytesMut {
    out.reserve(HEADER + len);
    out.put_u8(kind);
    out.put_u16(u16::try_from(len).expect("frames are made no longer than MAX_BODY"));
    out
}

/// The next bytes; the length was checked.
fn array<const LEN: usize>(body: &mut Bytes) -> [u8; LEN] {
    let mut array = [0; LEN];
    body.copy_to_slice(&mut array);
    array
}

/// An empty DATA with room for `len` bytes, to be filled and then [finished](finish_data).
pub(super) fn start_data(len: usize) -> BytesMut {
    let mut wire = BytesMut::with_capacity(DATA_HEADER + len);
    wire.put_bytes(0, DATA_HEADER);
    wire
}

/// Writes the header of a DATA that was filled.
pub(super) fn finish_data(mut wire: BytesMut, off: u64) -> Bytes {
    let len = u16::try_from(wire.len() - HEADER).expect("filled up to MAX_DATA");
    wire[0] = DATA;
    wire[1..HEADER].copy_from_slice(&len.to_be_bytes());
    wire[HEADER..DATA_HEADER].copy_from_slice(&off.to_be_bytes());
    wire.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SID: SessionId = SessionId([7; 16]);

    fn all() -> Vec<(Frame, Vec<u8>)> {
        let claim = Claim { sid: SID, epoch: 3, recv: 9, mac: [1; MAC] };
        let claimed = [&[0, 60][..], &[7; 16], &[0, 0, 0, 3], &[0, 0, 0, 0, 0, 0, 0, 9], &[1; 32]].concat();
        let poke = Frame::Poke(Poke { sid: SID, number: 2, mac: [4; MAC] });
        vec![
            (Frame::Open(SID), [&[1, 0, 16][..], &[7; 16]].concat()),
            (
                Frame::Data { off: 258, bytes: Bytes::from_static(b"hi") },
                vec![2, 0, 10, 0, 0, 0, 0, 0, 0, 1, 2, b'h', b'i'],
            ),
            (Frame::Ack(5), vec![3, 0, 8, 0, 0, 0, 0, 0, 0, 0, 5]),
            (Frame::Attach(claim.clone()), [&[4][..], &claimed].concat()),
            (Frame::Attached(claim), [&[5][..], &claimed].concat()),
            (poke, [&[6, 0, 52][..], &[7; 16], &[0, 0, 0, 2], &[4; 32]].concat()),
            (Frame::Fin(1), vec![7, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1]),
            (Frame::Reset(ResetCode::NotArmed), vec![8, 0, 1, 4]),
        ]
    }

    #[test]
    fn frames_are_these_bytes() {
        for (frame, bytes) in all() {
            assert_eq!(frame.encode()[..], bytes[..], "{frame:?}");
            assert_eq!(Frame::decode(&mut BytesMut::from(&bytes[..])), Ok(Some(frame)));
            for end in 0..bytes.len() {
                assert_eq!(Frame::decode(&mut BytesMut::from(&bytes[..end])), Ok(None));
            }
        }
        for code in 0..=255 {
            assert_eq!(ResetCode::from_byte(code).to_byte(), code);
        }
        let mut data = start_data(2);
        data.put_slice(b"hi");
        assert_eq!(finish_data(data, 258)[..], all()[1].1[..]);
    }

    #[test]
    fn what_is_no_frame_is_refused_as_soon_as_it_shows() {
        let decode = |bytes: &[u8]| Frame::decode(&mut BytesMut::from(bytes));
        assert_eq!(decode(&[9, 0, 0]), Err(FrameError::UnknownType(9)));
        assert_eq!(decode(&[0, 0, 0]), Err(FrameError::UnknownType(0)));
        assert_eq!(decode(&[2, 0x40, 1]), Err(FrameError::TooLong(16385)));
        assert_eq!(decode(&[2, 0x40, 0]), Ok(None));
        let empty = [2, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(decode(&empty), Err(FrameError::WrongLength { kind: 2, len: 8 }));
        assert_eq!(decode(&[3, 0, 1, 0]), Err(FrameError::WrongLength { kind: 3, len: 1 }));
        assert_eq!(decode(&[8, 0, 2, 0, 0]), Err(FrameError::WrongLength { kind: 8, len: 2 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_an_error_and_what_was_taken_is_said_again_alike(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            kind in 0..10u8,
        ) {
            let mut line = BytesMut::from(&[&[kind, 0][..], &bytes].concat()[..]);
            let before = line.clone();
            if let Ok(Some(frame)) = Frame::decode(&mut line) {
                let taken = before.len() - line.len();
                prop_assert_eq!(&frame.encode()[..], &before[..taken]);
            }
        }
    }
}
