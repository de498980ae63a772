//! The multiplexer of one session: many calls in both directions over one sequence of frames.
//!
//! Whoever drives it feeds the peer's frames to [`Mux::handle`], lets the local side open, send, receive
//! and end through the methods named so, and after each such step drains [`Mux::poll_output`] (frames for
//! the peer) and [`Mux::poll_event`] (who may be waiting for what just happened). There is nothing here
//! that time could change. What always holds:
//!
//! - calls are kept by (who numbered it, number); a packet for a call that is over or was never there is
//!   ignored, because the two sides end at different moments;
//! - a malformed call is answered with an error on its own number and harms no other;
//! - when the session ends, everything open fails with [`CallError::SessionEnded`]; what was received
//!   before can still be read;
//! - everything that a peer can fill is bounded by [`Limits`]. Where the peer would have to be told to
//!   wait, which muxrpc cannot, [`Mux::wants_input`] turns false and the driver stops reading the line.
//!   Hence someone who receives from a stream must not wait with it for another send on the same
//!   session: with two such sides, each could wait for the other.

use std::collections::{BTreeMap, VecDeque};

use super::call;
use super::codec::{Frame, Packet};
use super::{Body, BodyKind, Call, CallError, RemoteError};

mod local;
mod outbox;
mod stream;
#[cfg(test)]
mod tests;

use outbox::{Cause, Outbox};
use stream::{Filling, Stream};

/// Once this much of calls and answers waits to be sent, whoever calls or answers has to wait.
const MAX_CALLS: usize = 512 * 1024;
/// A peer that makes us owe it this much of errors and ends, and takes none of them, is not read any
/// further. Large answers do not count here: two peers that send each other some must go on reading.
const MAX_REFUSALS: usize = 1024 * 1024;
/// How many of the peer's streams that are over for us but not for it are remembered, so that what it
/// still sends on them is not taken for calls.
const MAX_TOMBSTONES: usize = 1024;

/// What a peer may fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest body we take, in bytes. An EBT clock of 50,000 feeds has 3.5 MB.
    pub max_body: usize,
    /// How many of the peer's calls may be open at once; a call beyond is answered with an error.
    pub open_calls: usize,
    /// How many of the peer's calls may wait for [`Mux::next_call`] before we stop reading.
    pub waiting_calls: usize,
    /// How many bytes of one stream may wait to be received before we stop reading.
    pub inbound: usize,
    /// How many bytes of one stream may wait to be sent before its sender has to wait.
    pub outbound: usize,
    /// How many bytes of all streams may wait to be sent before each may only have one item waiting: a
    /// peer that opens thousands of streams and reads none must not fill memory.
    pub outbound_in_all: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body: 16 * 1024 * 1024,
            open_calls: 8192,
            waiting_calls: 128,
            inbound: 512 * 1024,
            outbound: 256 * 1024,
            outbound_in_all: 4 * 1024 * 1024,
        }
    }
}

/// Who numbered a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// We call.
    Ours,
    /// The peer calls.
    Theirs,
}

/// Names a call within its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId {
    /// Who numbered it.
    pub origin: Origin,
    /// Its number, from one.
    pub number: u32,
}

impl CallId {
    /// The call that a packet from the peer belongs to; zero belongs to none.
    fn of_packet(request: i32) -> Option<Self> {
        let origin = if request > 0 { Origin::Theirs } else { Origin::Ours };
        (request != 0).then(|| Self { origin, number: request.unsigned_abs() })
    }

    /// The number in packets that we send.
    fn on_wire(self) -> i32 {
        let number = self.number.cast_signed();
        match self.origin {
            Origin::Ours => number,
            Origin::Theirs => number.wrapping_neg(),
        }
    }
}

/// Someone who waited, or who always listens, may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// [`Mux::next_call`] has something.
    CallWaiting,
    /// [`Mux::recv`] or [`Mux::take_answer`] has something.
    Readable(CallId),
    /// [`Mux::send`] has room, or never will have.
    Writable(CallId),
    /// [`Mux::open`] and [`Mux::reply`] have room.
    CallsDrained,
    /// [`Mux::wants_input`] turned true.
    Resumed,
}

/// What a stream gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// The next item.
    Item(Body),
    /// Nothing yet; [`Event::Readable`] follows.
    Pending,
    /// Both the items and the stream are over.
    Ended,
    /// The stream failed; said once, then it has ended.
    Failed(CallError),
}

/// Whether something can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Now.
    Ready,
    /// Not yet; [`Event::Writable`] or [`Event::CallsDrained`] follows.
    Full,
    /// Never: the call or the session is over.
    Closed,
}

#[derive(Debug)]
enum Entry {
    /// Our async call, and its answer once it is there.
    Asked(Option<Result<Body, CallError>>),
    /// The peer's async call, not answered yet.
    Answering,
    Stream(Stream),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// No more calls; a goodbye follows what is queued.
    Closing,
    /// We have said goodbye.
    Said,
    /// The line is gone.
    Lost,
}

/// The machine.
#[derive(Debug)]
pub struct Mux {
    limits: Limits,
    state: State,
    peer_goodbye: bool,
    next_number: u32,
    entries: BTreeMap<CallId, Entry>,
    /// How many entries are the peer's.
    theirs: usize,
    tombstones: VecDeque<CallId>,
    waiting: VecDeque<(CallId, Call)>,
    /// Nobody takes calls any more.
    refuses: bool,
    full_streams: usize,
    /// The driver was told not to read.
    stalled: bool,
    call_waiting: bool,
    outbox: Outbox,
    events: VecDeque<Event>,
}

/// What the peer's frames do.
impl Mux {
    /// Starts a session.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Open,
            peer_goodbye: false,
            next_number: 1,
            entries: BTreeMap::new(),
            theirs: 0,
            tombstones: VecDeque::new(),
            waiting: VecDeque::new(),
            refuses: false,
            full_streams: 0,
            stalled: false,
            call_waiting: false,
            outbox: Outbox::default(),
            events: VecDeque::new(),
        }
    }

    /// Changes the limits; what is there already stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes a frame from the peer.
    pub fn handle(&mut self, frame: Frame) {
        match frame {
            Frame::Goodbye => {
                self.peer_goodbye = true;
                self.close();
            }
            Frame::Packet(packet) if self.state == State::Open => self.handle_packet(packet),
            Frame::Packet(_) => {}
        }
    }

    /// The line is gone: nothing more comes or goes.
    pub fn handle_lost(&mut self) {
        self.fail_all();
        self.state = State::Lost;
        self.outbox = Outbox::default();
    }

    /// Whether the driver should read on. It must stop at once when this is false, and hears of the change
    /// by [`Event::Resumed`].
    pub fn wants_input(&mut self) -> bool {
        self.stalled = self.state == State::Open && self.is_full();
        !self.stalled
    }

    fn is_full(&self) -> bool {
        self.full_streams > 0
            || self.waiting.len() >= self.limits.waiting_calls
            || self.outbox.refusals() >= MAX_REFUSALS
    }

    fn handle_packet(&mut self, packet: Packet) {
        // Number zero is JS's one-way message, which nobody uses.
        let Some(id) = CallId::of_packet(packet.request) else {
            return;
        };
        match self.entries.get_mut(&id) {
            Some(Entry::Stream(_)) => self.stream_packet(id, packet),
            Some(Entry::Asked(answer @ None)) => {
                let body = packet.body;
                *answer = Some(if packet.end { Err(RemoteError::from_body(&body).into()) } else { Ok(body) });
                self.events.push_back(Event::Readable(id));
            }
            // A second answer, or more on a call that takes no more: benign.
            Some(Entry::Asked(Some(_)) | Entry::Answering) => {}
            None if id.origin == Origin::Theirs => self.call_packet(id, packet),
            None => {}
        }
    }

    fn stream_packet(&mut self, id: CallId, packet: Packet) {
        let Some(Entry::Stream(stream)) = self.entries.get_mut(&id) else {
            return;
        };
        if packet.end {
            stream.set_peer_end(end_error(&packet.body).map(CallError::Remote));
        } else {
            let filling = stream.push(packet.body, self.limits.inbound);
            self.full_streams += usize::from(filling == Filling::Full);
        }
        if std::mem::take(&mut stream.read_waiting) {
            self.events.push_back(Event::Readable(id));
        }
        if packet.end {
            self.settle(id);
        }
    }

    /// A packet of the peer's that belongs to nothing open: a call, or the rest of one that is over.
    fn call_packet(&mut self, id: CallId, packet: Packet) {
        if let Some(index) = self.tombstones.iter().position(|over| *over == id) {
            if packet.stream {
                if packet.end {
                    self.tombstones.remove(index);
                }
                return;
            }
            self.tombstones.remove(index);
        }
        if packet.end {
            return;
        }
        let accepted = match call::parse(&packet.body, packet.stream) {
            Err(error) => Err(RemoteError::new(error.to_string())),
            Ok(call) if self.refuses => Err(call::not_allowed(&call.name)),
            Ok(_) if self.theirs >= self.limits.open_calls => Err(RemoteError::new("too many open calls")),
            Ok(call) => Ok(call),
        };
        match accepted {
            Ok(call) => {
                let stream = || Entry::Stream(Stream::new(Origin::Theirs, call.kind));
                let entry = if packet.stream { stream() } else { Entry::Answering };
                self.entries.insert(id, entry);
                self.theirs += 1;
                self.waiting.push_back((id, call));
                self.events.push_back(Event::CallWaiting);
            }
            Err(error) => self.refuse(id, packet.stream, &error),
        }
    }

    /// Answers a call that gets no entry.
    fn refuse(&mut self, id: CallId, stream: bool, error: &RemoteError) {
        self.push(id, Cause::Refusal, stream, true, error.to_body());
        if stream {
            self.bury(id);
        }
    }

    fn bury(&mut self, id: CallId) {
        if self.tombstones.len() >= MAX_TOMBSTONES {
            self.tombstones.pop_front();
        }
        self.tombstones.push_back(id);
    }
}

/// What the driver takes.
impl Mux {
    /// The next frame for the peer.
    pub fn poll_output(&mut self) -> Option<Frame> {
        let Some((id, packet)) = self.outbox.pop() else {
            return self.poll_goodbye();
        };
        if let Some(Entry::Stream(stream)) = self.entries.get_mut(&id) {
            let room = self.outbox.cost_of(id) <= self.limits.outbound / 2;
            if room && !stream.peer_ended() && stream.sends() && std::mem::take(&mut stream.write_waiting) {
                self.events.push_back(Event::Writable(id));
            }
        }
        if self.outbox.calls() <= MAX_CALLS / 2 && std::mem::take(&mut self.call_waiting) {
            self.events.push_back(Event::CallsDrained);
        }
        self.resume();
        Some(Frame::Packet(packet))
    }

    fn poll_goodbye(&mut self) -> Option<Frame> {
        (self.state == State::Closing).then(|| {
            self.state = State::Said;
            Frame::Goodbye
        })
    }

    /// Who may go on.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether whoever writes has something to do: [`poll_output`](Self::poll_output) has something, or
    /// all is said and the line can be closed.
    pub fn has_output(&self) -> bool {
        !self.outbox.is_empty() || self.state == State::Closing || self.is_over()
    }

    /// Whether both sides have said goodbye.
    pub fn is_over(&self) -> bool {
        self.state == State::Said && self.peer_goodbye
    }

    /// Whether anyone still has to do with a call.
    pub fn holds(&self, id: CallId) -> bool {
        self.entries.contains_key(&id)
    }

    /// Whether anything is under way that would be missed if the session ended now: calls without an answer,
    /// streams that are not [lasting](Self::set_lasting), or what waits to be sent.
    pub fn is_busy(&self) -> bool {
        let counts = |entry: &Entry| match entry {
            Entry::Asked(_) | Entry::Answering => true,
            Entry::Stream(stream) => !stream.lasting,
        };
        !self.outbox.is_empty() || self.entries.values().any(counts)
    }

    /// Whether calls can still be made.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }
}

impl Mux {
    /// Queues a packet, with something in place of an empty body.
    fn push(&mut self, id: CallId, cause: Cause, stream: bool, end: bool, body: Body) {
        if let Some(body) = body.on_wire(stream) {
            let packet = Packet { stream, end, request: id.on_wire(), body };
            self.outbox.push(id, cause, packet);
        }
    }

    fn push_end(&mut self, id: CallId, error: Option<&RemoteError>) {
        let cause = if id.origin == Origin::Theirs { Cause::Refusal } else { Cause::Item };
        let body = error.map_or(Body::end(), RemoteError::to_body);
        self.push(id, cause, true, true, body);
    }

    /// Does what follows from a change of a stream.
    fn settle(&mut self, id: CallId) {
        let Some(Entry::Stream(stream)) = self.entries.get_mut(&id) else {
            return;
        };
        let closed = stream.peer_ended();
        if closed && std::mem::take(&mut stream.write_waiting) {
            self.events.push_back(Event::Writable(id));
        }
        if stream.end_due() {
            stream.ended = true;
            if closed {
                self.outbox.discard(id);
            }
            self.push_end(id, None);
        }
        self.release(id);
    }

    fn count_resumed(&mut self, filling: Filling) {
        if filling == Filling::Resumed {
            self.full_streams -= 1;
            self.resume();
        }
    }

    /// Forgets a stream that nobody holds.
    fn release(&mut self, id: CallId) {
        let Some(Entry::Stream(stream)) = self.entries.get(&id) else {
            return;
        };
        if !stream.is_abandoned() {
            return;
        }
        let over = stream.peer_ended();
        self.entries.remove(&id);
        if id.origin == Origin::Theirs {
            self.theirs -= 1;
            if !over {
                self.bury(id);
            }
        }
    }

    fn resume(&mut self) {
        if self.stalled && !self.is_full() {
            self.stalled = false;
            self.events.push_back(Event::Resumed);
        }
    }

    /// Everything open fails; whoever waits hears of it.
    fn fail_all(&mut self) {
        for (id, entry) in &mut self.entries {
            match entry {
                Entry::Stream(stream) => {
                    stream.ended = true;
                    stream.set_peer_end(Some(CallError::SessionEnded));
                    self.events.extend([Event::Readable(*id), Event::Writable(*id)]);
                }
                Entry::Asked(answer) => {
                    answer.get_or_insert(Err(CallError::SessionEnded));
                    self.events.push_back(Event::Readable(*id));
                }
                Entry::Answering => {}
            }
        }
        self.entries.retain(|_, entry| !matches!(entry, Entry::Answering));
        self.stalled = false;
        self.events.extend([Event::CallWaiting, Event::CallsDrained, Event::Resumed]);
    }
}

/// The error that an end's body says, if it is not the normal `true`.
fn end_error(body: &Body) -> Option<RemoteError> {
    let normal = body.kind == BodyKind::Json && body.bytes.trim_ascii() == b"true";
    (!normal).then(|| RemoteError::from_body(body))
}
