//! What the local side does with a session: open, send, receive, answer, end.

use serde_json::Value;

use super::outbox::Cause;
use super::stream::Stream;
use super::{CallId, Entry, MAX_CALLS, Mux, Origin, Received, Room, State};
use crate::muxrpc::call;
use crate::muxrpc::{Body, Call, CallError, CallKind, RemoteError, StreamClosed};

impl Mux {
    /// Opens a call: an async one is answered by [`take_answer`](Self::take_answer), a stream is used with
    /// [`send`](Self::send) and [`recv`](Self::recv). `None` when the session is over or closing.
    pub fn open<S: AsRef<str>>(&mut self, kind: CallKind, name: &[S], args: &[Value]) -> Option<CallId> {
        let number = self.next_number;
        if self.state != State::Open || number > i32::MAX.unsigned_abs() {
            return None;
        }
        self.next_number += 1;
        let id = CallId { origin: Origin::Ours, number };
        let stream = kind.is_stream();
        let entry = if stream { Entry::Stream(Stream::new(Origin::Ours, kind)) } else { Entry::Asked(None) };
        self.entries.insert(id, entry);
        self.push(id, Cause::Call, stream, false, call::request(kind, name, args));
        Some(id)
    }

    /// The answer of an async call, once; the call is over then.
    pub fn take_answer(&mut self, id: CallId) -> Option<Result<Body, CallError>> {
        match self.entries.get_mut(&id) {
            Some(Entry::Asked(answer)) => {
                let answer = answer.take()?;
                self.entries.remove(&id);
                Some(answer)
            }
            Some(Entry::Answering | Entry::Stream(_)) | None => Some(Err(CallError::SessionEnded)),
        }
    }

    /// Nobody waits for an async call's answer any more.
    pub fn cancel(&mut self, id: CallId) {
        if matches!(self.entries.get(&id), Some(Entry::Asked(_))) {
            self.entries.remove(&id);
        }
    }

    /// The peer's next call.
    pub fn next_call(&mut self) -> Option<(CallId, Call)> {
        let next = self.waiting.pop_front();
        self.resume();
        next
    }

    /// Nobody takes calls any more: those waiting and all that follow are answered with an error.
    pub fn refuse_calls(&mut self) {
        self.refuses = true;
        for (id, call) in std::mem::take(&mut self.waiting) {
            if self.entries.remove(&id).is_some() {
                self.theirs -= 1;
                self.refuse(id, call.kind.is_stream(), &call::not_allowed(&call.name));
            }
        }
        self.resume();
    }

    /// Whether [`open`](Self::open) and [`reply`](Self::reply) have room.
    pub fn call_room(&mut self) -> Room {
        if self.state != State::Open {
            return Room::Closed;
        }
        let full = self.outbox.calls() >= MAX_CALLS;
        self.call_waiting |= full;
        if full { Room::Full } else { Room::Ready }
    }

    /// Answers the peer's async call, whether or not there is room.
    pub fn reply(&mut self, id: CallId, answer: Result<Body, RemoteError>) {
        if !matches!(self.entries.get(&id), Some(Entry::Answering)) {
            return;
        }
        self.entries.remove(&id);
        self.theirs -= 1;
        match answer {
            Ok(body) => self.push(id, Cause::Call, false, false, body),
            Err(error) => self.push(id, Cause::Call, false, true, error.to_body()),
        }
    }

    /// Whether [`send`](Self::send) has room.
    pub fn send_room(&mut self, id: CallId) -> Room {
        let waiting = self.outbox.cost_of(id);
        // A stream that has something waiting hears of room when that is sent; one without goes on.
        let crowded = waiting > 0 && self.outbox.items() >= self.limits.outbound_in_all;
        let full = crowded || waiting >= self.limits.outbound;
        match self.entries.get_mut(&id) {
            Some(Entry::Stream(stream)) if stream.sends() => {
                stream.write_waiting = full;
                if full { Room::Full } else { Room::Ready }
            }
            Some(_) | None => Room::Closed,
        }
    }

    /// Tells by [`Event::Writable`] when the stream no longer takes anything.
    pub fn watch_closed(&mut self, id: CallId) -> bool {
        match self.entries.get_mut(&id) {
            Some(Entry::Stream(stream)) if !stream.peer_ended() => {
                stream.write_waiting = true;
                false
            }
            Some(_) | None => true,
        }
    }

    /// Sends an item, whether or not there is room.
    pub fn send(&mut self, id: CallId, body: Body) -> Result<(), StreamClosed> {
        match self.entries.get(&id) {
            Some(Entry::Stream(stream)) if stream.sends() => {
                self.push(id, Cause::Item, true, false, body);
                Ok(())
            }
            Some(_) | None => Err(StreamClosed),
        }
    }

    /// Ends our half, with an error if one is given. Whoever writes is gone then.
    pub fn end(&mut self, id: CallId, error: Option<&RemoteError>) {
        if let Some(Entry::Stream(stream)) = self.entries.get_mut(&id) {
            stream.writer = false;
            let due = !stream.ended;
            stream.ended = true;
            if due {
                self.push_end(id, error);
            }
            self.release(id);
        }
    }

    /// From now on the stream does not make the session [busy](Self::is_busy): it would go on for ever.
    pub fn set_lasting(&mut self, id: CallId) {
        if let Some(Entry::Stream(stream)) = self.entries.get_mut(&id) {
            stream.lasting = true;
        }
    }

    /// Whoever writes is gone without a word.
    pub fn drop_writer(&mut self, id: CallId) {
        if let Some(Entry::Stream(stream)) = self.entries.get_mut(&id) {
            stream.writer = false;
            self.settle(id);
        }
    }

    /// Whoever reads is gone; what still comes is thrown away.
    pub fn drop_reader(&mut self, id: CallId) {
        if let Some(Entry::Stream(stream)) = self.entries.get_mut(&id) {
            let filling = stream.drop_reader();
            self.count_resumed(filling);
            self.settle(id);
        }
    }

    /// Takes the stream's next item, or its end.
    pub fn recv(&mut self, id: CallId) -> Received {
        if let Some(body) = self.recv_item(id) {
            return Received::Item(body);
        }
        match self.entries.get_mut(&id) {
            Some(Entry::Stream(stream)) => stream.take_end(),
            Some(_) | None => Received::Ended,
        }
    }

    /// Takes the stream's next item if it is here, and leaves its end alone.
    pub fn recv_item(&mut self, id: CallId) -> Option<Body> {
        let Some(Entry::Stream(stream)) = self.entries.get_mut(&id) else {
            return None;
        };
        let (body, filling) = stream.pop(self.limits.inbound)?;
        self.count_resumed(filling);
        Some(body)
    }

    /// Says goodbye once what is queued is sent. Everything open fails at once, and calls that nobody took
    /// yet are forgotten; those that the peer made before *its* goodbye can still be taken.
    pub fn close(&mut self) {
        if self.state == State::Open {
            self.fail_all();
            self.state = State::Closing;
            if !self.peer_goodbye {
                self.waiting.clear();
            }
        }
    }
}
