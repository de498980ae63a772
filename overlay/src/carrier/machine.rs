//! One end of one session.
//!
//! The shell gives each libp2p stream a number. It hands in what comes over it ([`Input`]), asks what to write to
//! it ([`Machine::poll_transmit`]) whenever it can be written, and does what [`Machine::poll_output`] says. Who is
//! above [writes](Machine::write) and [reads](Machine::read) bytes.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::GRACE;
use super::frame::{Claim, Frame, FrameError, Poke, ResetCode, SessionId};
use super::incoming::Incoming;
use super::key::ResumeKey;
use super::outgoing::{Outgoing, Place};

/// Names one stream under a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamNo(pub(crate) u32);

/// Which end this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Opened the session, as SHS client.
    Initiator,
    /// Was asked for it.
    Responder,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Input {
    /// A stream to move to stands. Of the initiator only.
    Attach(StreamNo),
    /// ATTACH was the first frame of a stream. To the responder only; from another transport identity than the
    /// session's it must not get here.
    Attached { stream: StreamNo, claim: Claim },
    /// A later frame of a stream.
    Frame { stream: StreamNo, frame: Frame },
    /// What comes over a stream is no frame.
    Broken { stream: StreamNo, error: FrameError },
    /// A stream is gone.
    Lost(StreamNo),
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Read and write this one from now on.
    Use(StreamNo),
    /// Write what is left for this one, then close it.
    Close(StreamNo),
    /// An attempt to move to this stream has failed; it is to be closed.
    NotAttached(StreamNo),
    /// There is no stream: move to another within [`GRACE`].
    Detached,
    /// The session is over.
    Ended(End),
}

/// How a session ended, as far as the carrier knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum End {
    /// Both ends have said all.
    #[error("both ends are done")]
    Done,
    /// Nobody is above it any more.
    #[error("it was closed")]
    Closed,
    /// Its stream was lost while the handshake was under way.
    #[error("the stream was lost during the handshake")]
    Unarmed,
    /// No stream was found in time.
    #[error("no other path was found in time")]
    Expired,
    /// The other end ended it.
    #[error("the other end reset it: {0:?}")]
    Reset(ResetCode),
    /// The other end broke the protocol.
    #[error("the other end broke the carrier's protocol: {0}")]
    Misbehaved(Fault),
}

/// What the other end did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("DATA or FIN at an offset that does not follow")]
    WrongOffset,
    #[error("an acknowledgement of what was not sent, or was acknowledged already")]
    OutOfBuffer,
    #[error("a frame that does not belong there")]
    OutOfTurn,
}

/// The initiator's ATTACH that was not answered yet.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    stream: StreamNo,
    epoch: u32,
    /// What it says that we have received. Until it is answered nothing beyond is acknowledged: on a faster path the
    /// acknowledgement would be there first, and the ATTACH would look old.
    recv: u64,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Machine {
    role: Role,
    sid: SessionId,
    key: Option<ResumeKey>,
    /// Highest that was tried, or accepted.
    epoch: u32,
    /// Highest POKE that was sent, or accepted.
    pokes: u32,
    current: Option<StreamNo>,
    attempt: Option<Attempt>,
    /// Without a stream since then.
    detached: Option<Instant>,
    /// Nobody is above since then.
    closed: Option<Instant>,
    outgoing: Outgoing,
    incoming: Incoming,
    /// Most bytes that may be on their way, unacknowledged, on the stream of now.
    window: u64,
    /// Frames that go before everything else, each for one stream.
    control: VecDeque<(StreamNo, Bytes)>,
    outputs: VecDeque<Output>,
    end: Option<End>,
}

impl Machine {
    /// A new session on its first stream; the responder has read OPEN from it.
    pub(crate) fn new(role: Role, sid: SessionId, first: StreamNo) -> Self {
        let mut control = VecDeque::new();
        if role == Role::Initiator {
            control.push_back((first, Frame::Open(sid).encode()));
        }
        Self {
            role,
            sid,
            key: None,
            epoch: 0,
            pokes: 0,
            current: Some(first),
            attempt: None,
            detached: None,
            closed: None,
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            window: u64::MAX,
            control,
            outputs: VecDeque::new(),
            end: None,
        }
    }

    /// SHS has ended: from now on the session can move. The responder's call comes before it sends its last
    /// message, so that nothing of the initiator comes too early.
    pub(crate) fn arm(&mut self, key: ResumeKey) {
        self.key = Some(key);
    }

    /// One input.
    pub(crate) fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Attach(stream) => self.attach(stream),
            Input::Attached { stream, claim } => self.attached_by_peer(now, stream, &claim),
            Input::Frame { stream, frame } => self.frame(now, stream, frame),
            Input::Broken { stream, .. } => {
                self.lost(now, stream);
                self.outputs.push_back(Output::Close(stream));
            }
            Input::Lost(stream) => self.lost(now, stream),
        }
        self.settle();
    }

    /// Takes bytes to send, no more than `allowance`; how many.
    pub(crate) fn write(&mut self, bytes: &[u8], allowance: usize) -> usize {
        if self.end.is_some() { 0 } else { self.outgoing.write(bytes, allowance) }
    }

    /// Nothing more will be written.
    pub(crate) fn finish(&mut self) {
        self.outgoing.finish();
    }

    /// Up to `max` bytes that came.
    pub(crate) fn read(&mut self, now: Instant, max: usize) -> Option<Bytes> {
        self.incoming.read(now, max)
    }

    /// Nobody is above any more: what was written is still sent, for as long as [`GRACE`].
    pub(crate) fn close(&mut self, now: Instant) {
        self.finish();
        self.closed.get_or_insert(now);
        while self.incoming.read(now, usize::MAX).is_some() {}
        if self.key.is_none() {
            self.over(End::Closed);
        }
        self.settle();
    }

    /// Where a relay limits what the stream of now may carry: how many bytes may be on their way, unacknowledged.
    /// Another stream has no limit before it is told.
    pub(crate) const fn set_window(&mut self, window: u64) {
        self.window = window;
    }

    /// The next frame for a stream that can be written to.
    pub(crate) fn poll_transmit(&mut self, now: Instant, stream: StreamNo) -> Option<Bytes> {
        let for_it = self.control.iter().position(|(of, _)| *of == stream);
        if let Some((_, frame)) = for_it.and_then(|place| self.control.remove(place)) {
            return Some(frame);
        }
        if self.current != Some(stream) || self.end.is_some() {
            return None;
        }
        let limit = self.attempt.map_or(u64::MAX, |attempt| attempt.recv);
        if let Some(off) = self.incoming.next_ack(now, limit) {
            self.settle();
            return Some(Frame::Ack(off).encode());
        }
        self.outgoing
            .next_data(self.window)
            .or_else(|| self.outgoing.next_fin().map(|off| Frame::Fin(off).encode()))
    }

    /// The next thing to do, until `None`.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        if self.end.is_some() {
            return None;
        }
        let ack = self.incoming.ack_at().filter(|_| self.current.is_some());
        let graces = [self.detached, self.closed].into_iter().flatten().map(|since| since + GRACE);
        graces.chain(ack).min()
    }

    /// Time has passed. An acknowledgement that became due is in [`Self::poll_transmit`].
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.detached.is_some_and(|since| since + GRACE <= now) {
            self.over(End::Expired);
        }
        if self.closed.is_some_and(|since| since + GRACE <= now) {
            self.over(End::Closed);
        }
    }

    /// A POKE for a stream to the initiator. Of the responder only, once the session can move.
    pub(crate) fn poke(&mut self) -> Option<Bytes> {
        let key = self.key.as_ref().filter(|_| self.role == Role::Responder && self.end.is_none())?;
        self.pokes = self.pokes.checked_add(1)?;
        Some(Frame::Poke(key.poke(self.sid, self.pokes)).encode())
    }

    /// The responder asks the initiator to move.
    pub(crate) fn poked(&mut self, poke: &Poke) -> Result<(), ResetCode> {
        if self.role == Role::Responder || self.end.is_some() {
            return Err(ResetCode::UnknownSession);
        }
        let key = self.key.as_ref().ok_or(ResetCode::NotArmed)?;
        if !key.made_poke(poke) || poke.sid != self.sid {
            return Err(ResetCode::BadMac);
        }
        if poke.number <= self.pokes {
            return Err(ResetCode::Old);
        }
        self.pokes = poke.number;
        Ok(())
    }

    /// The stream that is used.
    pub(crate) const fn current(&self) -> Option<StreamNo> {
        self.current
    }

    /// Whether the session can move.
    pub(crate) const fn is_armed(&self) -> bool {
        self.key.is_some()
    }

    /// How it ended.
    pub(crate) const fn end(&self) -> Option<End> {
        self.end
    }

    /// Whether all was read that will ever come.
    pub(crate) fn is_at_end(&self) -> bool {
        self.incoming.is_at_end()
    }

    /// Whether there is something to read.
    pub(crate) const fn has_bytes(&self) -> bool {
        self.incoming.has_bytes()
    }

    /// Whether nothing more is taken before what came is read.
    pub(crate) const fn is_unread_full(&self) -> bool {
        !self.incoming.wants_input()
    }

    /// Whether an acknowledgement is to be said at once.
    pub(crate) const fn has_ack_now(&self) -> bool {
        self.incoming.has_ack_now()
    }

    /// Whether one is to be said, now or later.
    pub(crate) const fn has_ack(&self) -> bool {
        self.incoming.has_ack_now() || self.incoming.ack_at().is_some()
    }

    /// Whether this stream is to be read at the moment.
    pub(crate) fn wants_input(&self, stream: StreamNo) -> bool {
        self.current != Some(stream) || self.incoming.wants_input()
    }

    /// Whether something is to be written to this stream now.
    pub(crate) fn has_transmit(&self, now: Instant, stream: StreamNo) -> bool {
        let ack = self.incoming.has_ack_now() || self.incoming.ack_at().is_some_and(|at| at <= now);
        let current = self.current == Some(stream) && self.end.is_none();
        self.control.iter().any(|(of, _)| *of == stream) || (current && (ack || self.outgoing.has_output()))
    }

    /// Whether an answer of the other end is due.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.outgoing.is_waiting()
    }

    /// Whether nothing more can be written before the other end acknowledges.
    pub(crate) const fn is_full(&self) -> bool {
        self.outgoing.is_full()
    }

    /// What the bytes that wait to be acknowledged cost.
    pub(crate) const fn held(&self) -> usize {
        self.outgoing.held()
    }

    /// Bytes received that nobody has read.
    #[cfg(test)]
    pub(crate) const fn unread(&self) -> usize {
        self.incoming.unread()
    }

    /// Bytes that were sent again after moves.
    pub(crate) const fn resent(&self) -> u64 {
        self.outgoing.resent()
    }

    fn attach(&mut self, stream: StreamNo) {
        let ready = self.role == Role::Initiator && self.end.is_none();
        let epoch = self.epoch.checked_add(1);
        let (Some(key), Some(epoch)) = (self.key.as_ref().filter(|_| ready), epoch) else {
            return self.outputs.push_back(Output::NotAttached(stream));
        };
        let recv = self.incoming.received();
        let claim = key.attach(self.sid, epoch, recv);
        self.epoch = epoch;
        self.control.push_back((stream, Frame::Attach(claim).encode()));
        if let Some(earlier) = self.attempt.replace(Attempt { stream, epoch, recv }) {
            self.outputs.push_back(Output::NotAttached(earlier.stream));
        }
    }

    fn attached_by_peer(&mut self, now: Instant, stream: StreamNo, claim: &Claim) {
        let refused = self.accept(claim).err();
        if let Some(code) = refused {
            self.control.push_back((stream, Frame::Reset(code).encode()));
            self.outputs.push_back(Output::NotAttached(stream));
            if code == ResetCode::OutOfBuffer {
                self.over(End::Misbehaved(Fault::OutOfBuffer));
            }
            return;
        }
        let key = self.key.as_ref().expect("what was accepted was proven by it");
        let answer = key.attached(self.sid, self.epoch, self.incoming.received());
        self.control.push_back((stream, Frame::Attached(answer).encode()));
        self.switch(now, stream);
    }

    /// Whether the claim is good; then the epoch is taken, and what it lacks is sent again.
    fn accept(&mut self, claim: &Claim) -> Result<(), ResetCode> {
        if self.role == Role::Initiator || claim.sid != self.sid || self.end.is_some() {
            return Err(ResetCode::UnknownSession);
        }
        let key = self.key.as_ref().ok_or(ResetCode::NotArmed)?;
        if !key.made_attach(claim) {
            return Err(ResetCode::BadMac);
        }
        if claim.epoch <= self.epoch {
            return Err(ResetCode::Old);
        }
        self.epoch = claim.epoch;
        if self.outgoing.place(claim.recv) == Place::Passed {
            // It was overtaken by an acknowledgement, hence given up and followed by another.
            return Err(ResetCode::Old);
        }
        self.outgoing.rewind(claim.recv).map_err(|_| ResetCode::OutOfBuffer)
    }

    fn frame(&mut self, now: Instant, stream: StreamNo, frame: Frame) {
        if self.attempt.is_some_and(|attempt| attempt.stream == stream) {
            return self.answered(now, stream, &frame);
        }
        // Streams that are no longer used may say what they like.
        if self.current != Some(stream) || self.end.is_some() {
            return;
        }
        let result = match frame {
            Frame::Data { off, bytes } => self.incoming.data(off, bytes),
            Frame::Ack(off) => self.outgoing.acknowledge(off).map_err(|_| Fault::OutOfBuffer),
            Frame::Fin(off) => self.incoming.fin(off),
            Frame::Reset(code) => return self.over(End::Reset(code)),
            Frame::Open(_) | Frame::Attach(_) | Frame::Attached(_) | Frame::Poke(_) => Err(Fault::OutOfTurn),
        };
        match result {
            Ok(()) if self.closed.is_some() => while self.incoming.read(now, usize::MAX).is_some() {},
            Ok(()) => {}
            Err(fault) => self.over(End::Misbehaved(fault)),
        }
    }

    /// To ATTACH.
    #[expect(clippy::wildcard_enum_match_arm, reason = "whatever else comes is no answer")]
    fn answered(&mut self, now: Instant, stream: StreamNo, frame: &Frame) {
        match frame {
            Frame::Attached(claim) if self.is_answer(claim) => {
                let kept = self.outgoing.place(claim.recv) == Place::Kept;
                if !kept || self.outgoing.rewind(claim.recv).is_err() {
                    return self.over(End::Misbehaved(Fault::OutOfBuffer));
                }
                self.attempt = None;
                self.switch(now, stream);
            }
            Frame::Reset(code @ (ResetCode::UnknownSession | ResetCode::BadMac | ResetCode::OutOfBuffer)) => {
                // By them the other end has said that the session is no more, or that it never will believe us.
                self.over(End::Reset(*code));
            }
            _ => self.lost(now, stream),
        }
    }

    fn is_answer(&self, claim: &Claim) -> bool {
        let key = self.key.as_ref().filter(|key| key.made_attached(claim));
        let epoch = self.attempt.map(|attempt| attempt.epoch);
        key.is_some() && claim.sid == self.sid && Some(claim.epoch) == epoch
    }

    fn switch(&mut self, now: Instant, stream: StreamNo) {
        if let Some(before) = self.current.replace(stream) {
            self.control.retain(|(of, _)| *of != before);
            self.outputs.push_back(Output::Close(before));
        }
        self.detached = None;
        self.window = u64::MAX;
        self.incoming.acknowledge_again(now);
        self.outputs.push_back(Output::Use(stream));
    }

    fn lost(&mut self, now: Instant, stream: StreamNo) {
        self.control.retain(|(of, _)| *of != stream);
        if self.attempt.take_if(|attempt| attempt.stream == stream).is_some() {
            self.incoming.acknowledge_again(now);
            self.outputs.push_back(Output::NotAttached(stream));
        }
        if self.current.take_if(|current| *current == stream).is_none() || self.end.is_some() {
            return;
        }
        if self.key.is_none() {
            return self.over(End::Unarmed);
        }
        self.detached = Some(now);
        self.outputs.push_back(Output::Detached);
    }

    /// Whether both ends are done.
    fn settle(&mut self) {
        let said = self.outgoing.is_done();
        if said && self.incoming.is_done() {
            self.over(End::Done);
        } else if said && self.closed.is_some() {
            self.over(End::Closed);
        }
    }

    fn over(&mut self, end: End) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(end);
        self.key = None;
        let says = match end {
            End::Done | End::Unarmed | End::Reset(_) | End::Expired => None,
            End::Closed => Some(ResetCode::UnknownSession),
            End::Misbehaved(_) => Some(ResetCode::OutOfBuffer),
        };
        if let Some((code, stream)) = says.zip(self.current) {
            self.control.push_back((stream, Frame::Reset(code).encode()));
        }
        let streams = [self.attempt.take().map(|attempt| attempt.stream), self.current.take()];
        self.outputs.extend(streams.into_iter().flatten().map(Output::Close));
        self.outputs.push_back(Output::Ended(end));
    }
}
