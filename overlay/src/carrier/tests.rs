//! One fault after the other, and the vectors of the MACs.

#![expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for one frame among many")]

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::frame::{Claim, Frame, FrameError, MAX_DATA, ResetCode, SessionId};
use super::machine::{End, Fault, Input, Machine, Output, Role, StreamNo};
use super::{ACK_BYTES, ACK_DELAY, Ends, GRACE, MAX_UNACKNOWLEDGED, MAX_UNREAD, ResumeKey};

const SID: SessionId = SessionId([1; 16]);
const FIRST: StreamNo = StreamNo(0);
const SECOND: StreamNo = StreamNo(1);
const THIRD: StreamNo = StreamNo(2);

fn key_of(secret: u8, initiator: u8) -> ResumeKey {
    ResumeKey::derive(&[secret; 32], Ends { initiator: Box::new([initiator]), responder: Box::new([2]) })
}

fn key() -> ResumeKey {
    key_of(9, 1)
}

/// Two ends and nothing between.
struct Bench {
    now: Instant,
    i: Machine,
    r: Machine,
}

impl Bench {
    /// SHS has ended, and OPEN was read.
    fn armed() -> Self {
        let mut bench = Self::fresh();
        bench.i.arm(key());
        bench.r.arm(key());
        bench
    }

    fn fresh() -> Self {
        let now = Instant::now();
        let mut i = Machine::new(Role::Initiator, SID, FIRST);
        assert_eq!(decode(&i.poll_transmit(now, FIRST).unwrap()), Frame::Open(SID));
        Self { now, i, r: Machine::new(Role::Responder, SID, FIRST) }
    }

    /// What both have to say on a stream reaches the other end, until there is nothing more.
    fn exchange(&mut self, stream: StreamNo) {
        loop {
            let (there, back) = (self.said_by_i(stream), self.said_by_r(stream));
            if there.is_empty() && back.is_empty() {
                return;
            }
            self.tell_r(stream, there);
            self.tell_i(stream, back);
        }
    }

    fn said_by_i(&mut self, stream: StreamNo) -> Vec<Frame> {
        drain(&mut self.i, self.now, stream)
    }

    fn said_by_r(&mut self, stream: StreamNo) -> Vec<Frame> {
        drain(&mut self.r, self.now, stream)
    }

    fn tell_i(&mut self, stream: StreamNo, frames: Vec<Frame>) {
        frames.into_iter().for_each(|frame| self.i.handle(self.now, Input::Frame { stream, frame }));
    }

    fn tell_r(&mut self, stream: StreamNo, frames: Vec<Frame>) {
        for frame in frames {
            let input = match frame {
                Frame::Attach(claim) => Input::Attached { stream, claim },
                frame => Input::Frame { stream, frame },
            };
            self.r.handle(self.now, input);
        }
    }

    /// The ATTACH of an attempt on this stream.
    fn attach(&mut self, stream: StreamNo) -> Claim {
        self.i.handle(self.now, Input::Attach(stream));
        match self.said_by_i(stream).pop() {
            Some(Frame::Attach(claim)) => claim,
            other => panic!("{other:?}"),
        }
    }

    /// What R answers to this ATTACH.
    fn answer(&mut self, stream: StreamNo, claim: Claim) -> Vec<Frame> {
        self.tell_r(stream, vec![Frame::Attach(claim)]);
        self.said_by_r(stream)
    }

    fn move_to(&mut self, stream: StreamNo) {
        self.i.handle(self.now, Input::Attach(stream));
        self.exchange(stream);
        assert_eq!((self.i.current(), self.r.current()), (Some(stream), Some(stream)));
        outputs(&mut self.i);
        outputs(&mut self.r);
    }
}

fn drain(machine: &mut Machine, now: Instant, stream: StreamNo) -> Vec<Frame> {
    std::iter::from_fn(|| machine.poll_transmit(now, stream)).map(|bytes| decode(&bytes)).collect()
}

fn decode(bytes: &Bytes) -> Frame {
    Frame::decode(&mut BytesMut::from(&bytes[..])).unwrap().unwrap()
}

fn outputs(machine: &mut Machine) -> Vec<Output> {
    std::iter::from_fn(|| machine.poll_output()).collect()
}

fn read(machine: &mut Machine, now: Instant) -> Vec<u8> {
    std::iter::from_fn(|| machine.read(now, usize::MAX)).flatten().collect()
}

fn refused(code: ResetCode) -> Vec<Frame> {
    vec![Frame::Reset(code)]
}

fn data(off: u64, bytes: &'static [u8]) -> Frame {
    Frame::Data { off, bytes: Bytes::from_static(bytes) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Made by Python's `hmac` and `hashlib`.
#[test]
fn macs_are_these() {
    let claim = key().attach(SID, 3, 9);
    assert_eq!(hex(&claim.mac), "58b59ef0338028cff13d968a8931795eedfe24b9ee3425a2b1aef5f47f402050");
    assert_eq!(
        hex(&key().attached(SID, 3, 9).mac),
        "eafa535d9359a0edee0626a29b6312fcfc53a19d6b8aabce0e48be6f456b6760"
    );
    assert_eq!(
        hex(&key().poke(SID, 3).mac),
        "202fe94a9c5f09df282aa4c0bea0aa66cb02557dfa7f68873bb1231617df5451"
    );
}

#[test]
fn bytes_come_in_order_and_are_acknowledged_in_time_and_in_bulk() {
    let mut bench = Bench::armed();
    assert_eq!(bench.i.write(b"hello", usize::MAX), 5);
    assert_eq!(bench.said_by_i(FIRST), [data(0, b"hello")]);
    bench.tell_r(FIRST, vec![data(0, b"hello")]);
    assert_eq!((bench.r.poll_timeout(), read(&mut bench.r, bench.now)), (None, b"hello".to_vec()));
    assert_eq!((bench.r.poll_timeout(), bench.said_by_r(FIRST)), (Some(bench.now + ACK_DELAY), vec![]));
    bench.now += ACK_DELAY;
    assert_eq!(bench.said_by_r(FIRST), [Frame::Ack(5)]);
    assert!(bench.i.is_waiting());
    bench.tell_i(FIRST, vec![Frame::Ack(5)]);
    assert!(!bench.i.is_waiting() && bench.i.held() == 0);

    let bulk = vec![7; usize::try_from(ACK_BYTES).unwrap()];
    assert_eq!(bench.r.write(&bulk, usize::MAX), bulk.len());
    let frames = bench.said_by_r(FIRST);
    bench.tell_i(FIRST, frames);
    assert_eq!(read(&mut bench.i, bench.now), bulk);
    assert_eq!(bench.said_by_i(FIRST), [Frame::Ack(ACK_BYTES)]);
}

#[test]
fn both_ends_say_their_last_bytes_before_they_are_done() {
    let mut bench = Bench::armed();
    bench.i.write(b"bye", usize::MAX);
    bench.i.finish();
    bench.r.finish();
    bench.exchange(FIRST);
    assert!(!bench.r.is_at_end());
    assert_eq!(read(&mut bench.r, bench.now), b"bye");
    assert!(bench.r.is_at_end());
    bench.exchange(FIRST);
    assert_eq!((bench.i.end(), bench.r.end()), (Some(End::Done), Some(End::Done)));
    assert_eq!(outputs(&mut bench.i), [Output::Close(FIRST), Output::Ended(End::Done)]);
}

#[test]
fn a_session_moves_and_what_was_lost_is_said_again() {
    let mut bench = Bench::armed();
    bench.i.write(b"lost", usize::MAX);
    bench.r.write(b"came", usize::MAX);
    let (lost, came) = (bench.said_by_i(FIRST), bench.said_by_r(FIRST));
    assert_eq!(lost, [data(0, b"lost")]);
    bench.tell_i(FIRST, came);
    let claim = bench.attach(SECOND);
    assert_eq!((claim.epoch, claim.recv), (1, 4));
    bench.tell_r(SECOND, vec![Frame::Attach(claim)]);
    assert_eq!(outputs(&mut bench.r), [Output::Close(FIRST), Output::Use(SECOND)]);
    bench.exchange(SECOND);
    assert_eq!(outputs(&mut bench.i), [Output::Close(FIRST), Output::Use(SECOND)]);
    assert_eq!(read(&mut bench.r, bench.now), b"lost");
    assert_eq!(read(&mut bench.i, bench.now), b"came");
    assert_eq!((bench.i.resent(), bench.r.resent()), (4, 0));
    // What still comes over the first is nobody's business.
    bench.tell_r(FIRST, vec![data(17, b"late"), Frame::Reset(ResetCode::UnknownSession)]);
    bench.r.handle(bench.now, Input::Lost(FIRST));
    assert_eq!((bench.r.end(), outputs(&mut bench.r)), (None, vec![]));
}

#[test]
fn half_a_frame_that_was_consumed_is_not_said_again() {
    let mut bench = Bench::armed();
    bench.i.write(b"0123456789", usize::MAX);
    let whole = bench.said_by_i(FIRST);
    bench.tell_r(FIRST, whole);
    bench.i.handle(bench.now, Input::Lost(FIRST));
    // As if another implementation had kept the half of it.
    let claim = key().attached(SID, 1, 4);
    bench.attach(SECOND);
    bench.tell_i(SECOND, vec![Frame::Attached(claim)]);
    assert_eq!(bench.said_by_i(SECOND), [data(4, b"456789")]);
    assert_eq!(bench.i.resent(), 6);
}

#[test]
fn nothing_resumes_before_the_handshake_has_ended() {
    // In SHS message 3: neither is armed.
    let mut bench = Bench::fresh();
    bench.i.write(&[3; 112], usize::MAX);
    bench.i.handle(bench.now, Input::Lost(FIRST));
    assert_eq!(outputs(&mut bench.i), [Output::Ended(End::Unarmed)]);
    bench.i.handle(bench.now, Input::Attach(SECOND));
    assert_eq!(outputs(&mut bench.i), [Output::NotAttached(SECOND)]);
    assert_eq!(bench.answer(SECOND, key().attach(SID, 1, 0)), refused(ResetCode::NotArmed));
    assert!(bench.r.poke().is_none());
    bench.r.handle(bench.now, Input::Lost(FIRST));
    assert_eq!(outputs(&mut bench.r), [Output::NotAttached(SECOND), Output::Ended(End::Unarmed)]);

    // In message 4: only the responder is, and waits in vain.
    let mut bench = Bench::fresh();
    bench.r.arm(key());
    bench.r.handle(bench.now, Input::Lost(FIRST));
    assert_eq!(
        (outputs(&mut bench.r), bench.r.poll_timeout()),
        (vec![Output::Detached], Some(bench.now + GRACE))
    );
    bench.r.handle_timeout(bench.now + GRACE);
    assert_eq!(outputs(&mut bench.r), [Output::Ended(End::Expired)]);
}

#[test]
fn nobody_without_the_key_moves_a_session() {
    let mut bench = Bench::armed();
    let claim = bench.attach(SECOND);
    // Another session's key, the same between other ends (a splice), another number, another offset.
    for forged in [
        key_of(8, 1).attach(SID, 1, 0),
        key_of(9, 3).attach(SID, 1, 0),
        Claim { epoch: 2, ..claim.clone() },
        Claim { recv: 1, epoch: claim.epoch, sid: claim.sid, mac: claim.mac },
        // Our own answer, reflected.
        key().attached(SID, 1, 0),
    ] {
        assert_eq!(bench.answer(THIRD, forged), refused(ResetCode::BadMac));
        assert_eq!(outputs(&mut bench.r), [Output::NotAttached(THIRD)]);
    }
    let other = key().attach(SessionId([2; 16]), 1, 0);
    assert_eq!(bench.answer(THIRD, other), refused(ResetCode::UnknownSession));
    outputs(&mut bench.r);
    // Nothing of it has harmed the true one.
    bench.tell_r(SECOND, vec![Frame::Attach(claim)]);
    assert_eq!(outputs(&mut bench.r), [Output::Close(FIRST), Output::Use(SECOND)]);
}

#[test]
fn an_answer_is_believed_only_of_who_has_the_key_and_only_to_the_last_question() {
    for forged in [
        key_of(8, 1).attached(SID, 1, 0),
        key().attached(SID, 2, 0),
        // The question, reflected.
        key().attach(SID, 1, 0),
    ] {
        let mut bench = Bench::armed();
        bench.attach(SECOND);
        bench.tell_i(SECOND, vec![Frame::Attached(forged)]);
        assert_eq!(outputs(&mut bench.i), [Output::NotAttached(SECOND)]);
        assert_eq!((bench.i.current(), bench.i.end()), (Some(FIRST), None));
    }
}

#[test]
fn an_epoch_counts_once() {
    let mut bench = Bench::armed();
    let first = bench.attach(SECOND);
    let answered = bench.answer(SECOND, first.clone());
    bench.tell_i(SECOND, answered);
    outputs(&mut bench.r);
    // Replayed.
    assert_eq!(bench.answer(THIRD, first), refused(ResetCode::Old));
    assert_eq!(outputs(&mut bench.r), [Output::NotAttached(THIRD)]);
    assert_eq!(bench.r.current(), Some(SECOND));
}

#[test]
fn of_two_attempts_at_once_the_later_wins_in_whatever_order_they_arrive() {
    for in_order in [true, false] {
        let mut bench = Bench::armed();
        let (one, two) = (bench.attach(SECOND), bench.attach(THIRD));
        assert_eq!(outputs(&mut bench.i), [Output::NotAttached(SECOND)]);
        if in_order {
            bench.answer(SECOND, one);
            let answer = bench.answer(THIRD, two);
            bench.tell_i(THIRD, answer);
        } else {
            let answer = bench.answer(THIRD, two);
            assert_eq!(bench.answer(SECOND, one), refused(ResetCode::Old));
            bench.tell_i(THIRD, answer);
        }
        assert_eq!((bench.i.current(), bench.r.current()), (Some(THIRD), Some(THIRD)));
    }
}

#[test]
fn an_attempt_that_comes_after_it_was_given_up_harms_nothing() {
    let mut bench = Bench::armed();
    let late = bench.attach(SECOND);
    bench.i.handle(bench.now, Input::Lost(SECOND));
    bench.r.write(b"meanwhile", usize::MAX);
    bench.exchange(FIRST);
    assert_eq!(read(&mut bench.i, bench.now), b"meanwhile");
    bench.now += ACK_DELAY;
    bench.exchange(FIRST);
    // What it says of bytes received is behind what was acknowledged.
    assert_eq!(bench.answer(SECOND, late), refused(ResetCode::Old));
    bench.move_to(THIRD);
}

#[test]
fn what_an_attempt_says_is_not_overtaken_by_an_acknowledgement() {
    let mut bench = Bench::armed();
    let claim = bench.attach(SECOND);
    bench.r.write(b"meanwhile", usize::MAX);
    let frames = bench.said_by_r(FIRST);
    bench.tell_i(FIRST, frames);
    assert_eq!(read(&mut bench.i, bench.now), b"meanwhile");
    bench.now += ACK_DELAY;
    let acknowledged = bench.said_by_i(FIRST);
    assert_eq!(acknowledged, [Frame::Ack(0)]);
    bench.tell_r(FIRST, acknowledged);
    let answer = bench.answer(SECOND, claim);
    assert_eq!(answer[1..], [data(0, b"meanwhile")]);
    bench.tell_i(SECOND, answer);
    bench.now += ACK_DELAY;
    assert_eq!(bench.said_by_i(SECOND), [Frame::Ack(9)]);
    assert_eq!(read(&mut bench.i, bench.now), b"");
}

#[test]
fn pokes_count_once_and_only_from_who_has_the_key() {
    let mut bench = Bench::armed();
    let (first, second) = (bench.r.poke().unwrap(), bench.r.poke().unwrap());
    let poke = |bytes: &Bytes| match decode(bytes) {
        Frame::Poke(poke) => poke,
        other => panic!("{other:?}"),
    };
    assert_eq!(bench.i.poked(&key_of(8, 1).poke(SID, 1)), Err(ResetCode::BadMac));
    assert_eq!(bench.i.poked(&key().poke(SessionId([2; 16]), 1)), Err(ResetCode::BadMac));
    assert_eq!(bench.i.poked(&poke(&second)), Ok(()));
    assert_eq!(bench.i.poked(&poke(&second)), Err(ResetCode::Old));
    assert_eq!(bench.i.poked(&poke(&first)), Err(ResetCode::Old));
    assert_eq!((bench.i.poke(), bench.r.poked(&poke(&second))), (None, Err(ResetCode::UnknownSession)));
}

#[test]
fn both_ends_moving_at_once_come_to_one_path() {
    let mut bench = Bench::armed();
    // R has lost its path and pokes, while I has begun to move on its own.
    let own = bench.attach(SECOND);
    bench.r.handle(bench.now, Input::Lost(FIRST));
    let Frame::Poke(poke) = decode(&bench.r.poke().unwrap()) else { panic!("a POKE") };
    assert_eq!(bench.i.poked(&poke), Ok(()));
    let asked = bench.attach(THIRD);
    let answer = bench.answer(THIRD, asked);
    assert_eq!(bench.answer(SECOND, own), refused(ResetCode::Old));
    bench.tell_i(THIRD, answer);
    assert_eq!((bench.i.current(), bench.r.current()), (Some(THIRD), Some(THIRD)));
}

#[test]
fn wrong_offsets_end_the_session() {
    let wrong = End::Misbehaved(Fault::WrongOffset);
    let buffer = End::Misbehaved(Fault::OutOfBuffer);
    for (frames, end) in [
        (vec![data(1, b"gap")], wrong),
        (vec![data(u64::MAX, b"overflow")], wrong),
        (vec![data(0, b"x"), Frame::Fin(0)], wrong),
        (vec![Frame::Fin(1)], wrong),
        (vec![Frame::Fin(0), data(0, b"after the end")], wrong),
        (vec![Frame::Fin(0), Frame::Fin(1)], wrong),
        (vec![Frame::Ack(1)], buffer),
        (vec![Frame::Open(SID)], End::Misbehaved(Fault::OutOfTurn)),
        (vec![Frame::Attached(key().attached(SID, 1, 0))], End::Misbehaved(Fault::OutOfTurn)),
        (vec![Frame::Reset(ResetCode::Limit)], End::Reset(ResetCode::Limit)),
    ] {
        let mut bench = Bench::armed();
        bench.tell_r(FIRST, frames.clone());
        assert_eq!(bench.r.end(), Some(end), "{frames:?}");
        assert!(!bench.r.is_armed(), "the key is gone with the session");
    }
}

#[test]
fn who_claims_to_have_more_than_was_sent_ends_the_session() {
    let mut bench = Bench::armed();
    let claim = key().attach(SID, 1, 1);
    assert_eq!(bench.answer(SECOND, claim), refused(ResetCode::OutOfBuffer));
    let end = End::Misbehaved(Fault::OutOfBuffer);
    assert_eq!(bench.r.end(), Some(end));

    for recv in [2, 0] {
        let mut bench = Bench::armed();
        bench.i.write(b"x", usize::MAX);
        bench.said_by_i(FIRST);
        bench.tell_i(FIRST, vec![Frame::Ack(1)]);
        bench.attach(SECOND);
        bench.tell_i(SECOND, vec![Frame::Attached(key().attached(SID, 1, recv))]);
        assert_eq!(bench.i.end(), Some(end), "{recv}");
    }
}

#[test]
fn what_is_no_frame_ends_the_stream_but_not_the_session() {
    let mut bench = Bench::armed();
    bench.i.write(b"kept", usize::MAX);
    bench.said_by_i(FIRST);
    bench.i.handle(bench.now, Input::Broken { stream: FIRST, error: FrameError::TooLong(16385) });
    assert_eq!(outputs(&mut bench.i), [Output::Detached, Output::Close(FIRST)]);
    bench.move_to(SECOND);
    assert_eq!(read(&mut bench.r, bench.now), b"kept");
}

#[test]
fn a_session_that_is_known_no_more_ends() {
    let mut bench = Bench::armed();
    bench.attach(SECOND);
    bench.tell_i(SECOND, refused(ResetCode::UnknownSession));
    assert_eq!(bench.i.end(), Some(End::Reset(ResetCode::UnknownSession)));
    // What says nothing of the session is tried again.
    let mut bench = Bench::armed();
    bench.attach(SECOND);
    bench.tell_i(SECOND, refused(ResetCode::NotArmed));
    assert_eq!(outputs(&mut bench.i), [Output::NotAttached(SECOND)]);
    bench.move_to(THIRD);
}

#[test]
fn a_peer_that_never_acknowledges_is_sent_no_more_than_the_limit() {
    let mut bench = Bench::armed();
    let bytes = [5; 50_000];
    while bench.i.write(&bytes, usize::MAX) > 0 {
        bench.said_by_i(FIRST);
    }
    assert!(bench.i.is_full() && bench.i.held() <= MAX_UNACKNOWLEDGED);
    assert!(bench.i.held() > MAX_UNACKNOWLEDGED - 2 * MAX_DATA);
    // Small frames take more than their bytes.
    let mut bench = Bench::armed();
    let mut small = 0;
    while bench.i.write(b"x", usize::MAX) > 0 {
        bench.said_by_i(FIRST);
        small += 1;
    }
    assert!((4000..4200).contains(&small), "{small}");
}

#[test]
fn where_the_node_has_no_more_room_a_session_keeps_the_least() {
    let mut bench = Bench::armed();
    assert_eq!(bench.i.write(&[1; 100_000], 0), MAX_DATA);
    assert_eq!(bench.i.write(&[1; 100_000], 0), 0);
    assert_eq!(bench.i.write(&[1; 100_000], 1000), 1000 - super::outgoing::FRAME_COST);
}

#[test]
fn a_peer_that_is_not_read_from_is_read_no_further() {
    let mut bench = Bench::armed();
    let mut off = 0;
    while bench.r.wants_input(FIRST) {
        let bytes = Bytes::from_static(&[0; MAX_DATA]);
        bench.tell_r(FIRST, vec![Frame::Data { off, bytes }]);
        off += MAX_DATA as u64;
    }
    assert!(bench.r.unread() <= MAX_UNREAD + MAX_DATA);
    // A path to move to is always read.
    assert!(bench.r.wants_input(SECOND));
    assert!(bench.r.read(bench.now, 100_000).is_some() && bench.r.wants_input(FIRST));
}

#[test]
fn a_session_without_a_path_ends_after_its_grace_and_one_that_moves_does_not() {
    let mut bench = Bench::armed();
    bench.i.handle(bench.now, Input::Lost(FIRST));
    bench.r.handle(bench.now, Input::Lost(FIRST));
    bench.now += GRACE - Duration::from_millis(1);
    bench.i.handle_timeout(bench.now);
    bench.move_to(SECOND);
    assert_eq!((bench.i.poll_timeout(), bench.r.poll_timeout()), (None, None));
    bench.i.handle(bench.now, Input::Lost(SECOND));
    assert_eq!(bench.i.poll_timeout(), Some(bench.now + GRACE));
    bench.i.handle_timeout(bench.now + GRACE);
    assert_eq!(outputs(&mut bench.i), [Output::Detached, Output::Ended(End::Expired)]);
    assert_eq!((bench.i.write(b"x", 9), bench.i.poll_timeout()), (0, None));
}

#[test]
fn a_session_that_nobody_uses_any_more_says_what_is_left_and_ends() {
    let mut bench = Bench::armed();
    bench.i.write(b"last", usize::MAX);
    bench.i.close(bench.now);
    assert_eq!(bench.i.end(), None);
    bench.exchange(FIRST);
    assert_eq!(read(&mut bench.r, bench.now), b"last");
    bench.exchange(FIRST);
    assert_eq!(bench.i.end(), Some(End::Closed));
    assert_eq!(bench.r.end(), Some(End::Reset(ResetCode::UnknownSession)));
    assert!(bench.r.is_at_end(), "it was the end before it was a reset");
}
