//! Answering `createHistoryStream`: which messages go to which open call, and when a call ends.
//!
//! A call that stays open is found by its feed, so an appended message costs one look-up however many
//! calls are open. The machine never reads a message; the shell does, and stops before the message by
//! which the feed's owner blocks the caller ([`blocks_caller`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use memchr::memmem;
use serde::Deserialize;

use super::HistoryPlan;
use crate::ebt::Peer;
use crate::refs::FeedId;

/// Calls that one peer may keep open. JavaScript peers keep one for each feed they replicate.
pub const MAX_STREAMS_PER_CALLER: usize = 100_000;

/// Calls that may be open in all.
pub const MAX_STREAMS: usize = 500_000;

/// The error of a call beyond these limits.
pub const TOO_MANY_STREAMS: &str = "too many open history streams";

/// An open call, named by the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// What happens to the server.
#[derive(Clone, Debug, PartialEq)]
pub enum ServeInput {
    /// A peer called. The name must be new.
    Opened {
        /// The call.
        stream: StreamId,
        /// Who calls.
        caller: Peer,
        /// What it asks for.
        plan: HistoryPlan,
        /// Up to where our store holds the feed.
        have: u64,
        /// Whether the feed's owner blocks the caller.
        blocked: bool,
    },
    /// Our store holds this feed up to and including `sequence`.
    Appended {
        /// The feed.
        feed: FeedId,
        /// Its last sequence.
        sequence: u64,
    },
    /// Reading for this call, the shell came to a message that must not be sent, or could not read.
    Stopped {
        /// The call.
        stream: StreamId,
    },
    /// The caller or its session ended the call.
    Closed {
        /// The call.
        stream: StreamId,
    },
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum ServeOutput {
    /// Stream these messages from the store, in order, after what still waits for the same call, until
    /// one for which [`blocks_caller`] holds.
    Read {
        /// The call.
        stream: StreamId,
        /// The feed.
        feed: FeedId,
        /// The first sequence.
        from: u64,
        /// The last sequence.
        to: u64,
    },
    /// End the call once what was to be read for it is sent.
    End {
        /// The call.
        stream: StreamId,
        /// With which error; none is a normal end.
        error: Option<&'static str>,
    },
}

#[derive(Debug)]
struct Tail {
    caller: Peer,
    feed: FeedId,
    next: u64,
    left: Option<u64>,
}

impl Tail {
    /// The next messages to send out of those up to `have`.
    fn advance(&mut self, have: u64) -> Option<(u64, u64)> {
        if self.next > have || self.is_done() {
            return None;
        }
        let from = self.next;
        let to = self.left.map_or(have, |left| have.min(from.saturating_add(left - 1)));
        self.left = self.left.map(|left| left - (to - from + 1));
        self.next = to.saturating_add(1);
        Some((from, to))
    }

    fn is_done(&self) -> bool {
        self.left == Some(0)
    }
}

/// All calls of `createHistoryStream` that this node answers.
#[derive(Debug, Default)]
pub struct HistoryServer {
    tails: BTreeMap<StreamId, Tail>,
    by_feed: BTreeMap<FeedId, BTreeSet<StreamId>>,
    by_caller: BTreeMap<Peer, usize>,
    out: VecDeque<ServeOutput>,
}

impl HistoryServer {
    /// A server without calls.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one input. Drain [`Self::poll_output`] before the next.
    pub fn handle(&mut self, input: ServeInput) {
        match input {
            ServeInput::Opened { stream, blocked: true, .. } => self.end(stream, None),
            ServeInput::Opened { stream, caller, plan, have, blocked: false } => {
                self.opened(stream, caller, &plan, have);
            }
            ServeInput::Appended { feed, sequence } => self.appended(feed, sequence),
            ServeInput::Stopped { stream } => {
                if self.remove(stream) {
                    self.end(stream, None);
                }
            }
            ServeInput::Closed { stream } => {
                self.remove(stream);
            }
        }
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<ServeOutput> {
        self.out.pop_front()
    }

    /// How many calls are open for messages yet to come.
    pub fn live(&self) -> usize {
        self.tails.len()
    }

    fn opened(&mut self, stream: StreamId, caller: Peer, plan: &HistoryPlan, have: u64) {
        let next = if plan.old { plan.from } else { plan.from.max(have.saturating_add(1)) };
        let mut tail = Tail { caller, feed: plan.feed, next, left: plan.limit };
        if let Some((from, to)) = tail.advance(have) {
            self.out.push_back(ServeOutput::Read { stream, feed: plan.feed, from, to });
        }
        if !plan.live || tail.is_done() {
            return self.end(stream, None);
        }
        let open = self.by_caller.get(&caller).copied().unwrap_or(0);
        if open >= MAX_STREAMS_PER_CALLER || self.tails.len() >= MAX_STREAMS {
            return self.end(stream, Some(TOO_MANY_STREAMS));
        }
        self.by_caller.insert(caller, open + 1);
        self.by_feed.entry(plan.feed).or_default().insert(stream);
        self.tails.insert(stream, tail);
    }

    fn appended(&mut self, feed: FeedId, sequence: u64) {
        let Some(streams) = self.by_feed.get(&feed) else { return };
        let mut done = Vec::new();
        for &stream in streams {
            let Some(tail) = self.tails.get_mut(&stream) else { continue };
            if let Some((from, to)) = tail.advance(sequence) {
                self.out.push_back(ServeOutput::Read { stream, feed, from, to });
            }
            if tail.is_done() {
                done.push(stream);
            }
        }
        for stream in done {
            self.remove(stream);
            self.end(stream, None);
        }
    }

    fn end(&mut self, stream: StreamId, error: Option<&'static str>) {
        self.out.push_back(ServeOutput::End { stream, error });
    }

    fn remove(&mut self, stream: StreamId) -> bool {
        let Some(tail) = self.tails.remove(&stream) else { return false };
        if let Some(streams) = self.by_feed.get_mut(&tail.feed) {
            streams.remove(&stream);
            if streams.is_empty() {
                self.by_feed.remove(&tail.feed);
            }
        }
        if let Some(open) = self.by_caller.get_mut(&tail.caller) {
            *open -= 1;
            if *open == 0 {
                self.by_caller.remove(&tail.caller);
            }
        }
        true
    }
}

/// Whether this message is the one by which its author blocks the caller, in which case neither it nor
/// what follows is sent: the blocked peer never learns. `message` is a bare message as stored.
pub fn blocks_caller(message: &[u8], caller: &Peer) -> bool {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        content: &'a serde_json::value::RawValue,
    }
    // Hardly any message names the caller at all, so hardly any is parsed.
    let caller = caller.to_string();
    if memmem::find(message, caller.as_bytes()).is_none() {
        return false;
    }
    let Ok(Message { content }) = serde_json::from_slice(message) else { return false };
    let Ok(serde_json::Value::Object(content)) = serde_json::from_str(content.get()) else { return false };
    let is = |name: &str| content.get(name) == Some(&serde_json::Value::Bool(true));
    // "flagged" is an object with a reason in old messages; anything truthy counts there.
    let flagged =
        content.get("flagged").is_some_and(|v| !v.is_null() && *v != serde_json::Value::Bool(false));
    content.get("type").and_then(|v| v.as_str()) == Some("contact")
        && content.get("contact").and_then(|v| v.as_str()) == Some(&caller)
        && (is("blocking") || flagged)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::history::Shape;

    fn feed(n: u8) -> FeedId {
        FeedId::from_bytes([n; 32])
    }

    fn peer(n: u8) -> Peer {
        Peer(feed(n))
    }

    fn plan() -> HistoryPlan {
        HistoryPlan { feed: feed(5), from: 1, limit: None, live: true, old: true, shape: Shape::Value }
    }

    fn give(server: &mut HistoryServer, input: ServeInput) -> Vec<ServeOutput> {
        server.handle(input);
        std::iter::from_fn(|| server.poll_output()).collect()
    }

    fn open(server: &mut HistoryServer, stream: u64, plan: HistoryPlan, have: u64) -> Vec<ServeOutput> {
        let stream = StreamId(stream);
        give(server, ServeInput::Opened { stream, caller: peer(1), plan, have, blocked: false })
    }

    fn append(server: &mut HistoryServer, sequence: u64) -> Vec<ServeOutput> {
        give(server, ServeInput::Appended { feed: feed(5), sequence })
    }

    fn read(stream: u64, from: u64, to: u64) -> ServeOutput {
        ServeOutput::Read { stream: StreamId(stream), feed: feed(5), from, to }
    }

    fn end(stream: u64) -> ServeOutput {
        ServeOutput::End { stream: StreamId(stream), error: None }
    }

    #[test]
    fn a_call_that_is_not_live_ends_after_what_is_there() {
        let mut server = HistoryServer::new();
        let once = HistoryPlan { live: false, ..plan() };
        assert_eq!(open(&mut server, 1, once.clone(), 3), [read(1, 1, 3), end(1)]);
        assert_eq!(open(&mut server, 2, HistoryPlan { from: 4, ..once }, 3), [end(2)]);
        assert_eq!(append(&mut server, 4), []);
    }

    #[test]
    fn a_live_call_gets_what_is_appended_in_order_and_once() {
        let mut server = HistoryServer::new();
        assert_eq!(open(&mut server, 1, HistoryPlan { from: 3, ..plan() }, 3), [read(1, 3, 3)]);
        assert_eq!(append(&mut server, 3), []);
        assert_eq!(append(&mut server, 6), [read(1, 4, 6)]);
        assert_eq!(open(&mut server, 2, HistoryPlan { from: 9, ..plan() }, 6), []);
        assert_eq!(append(&mut server, 7), [read(1, 7, 7)]);
        assert_eq!(append(&mut server, 9), [read(1, 8, 9), read(2, 9, 9)]);
    }

    #[test]
    fn without_old_only_what_is_new_comes() {
        let mut server = HistoryServer::new();
        assert_eq!(open(&mut server, 1, HistoryPlan { old: false, ..plan() }, 3), []);
        assert_eq!(append(&mut server, 4), [read(1, 4, 4)]);
        let nothing = HistoryPlan { old: false, live: false, ..plan() };
        assert_eq!(open(&mut server, 2, nothing, 3), [end(2)]);
    }

    #[test]
    fn a_limit_ends_the_call_also_when_live() {
        let mut server = HistoryServer::new();
        assert_eq!(
            open(&mut server, 1, HistoryPlan { limit: Some(2), ..plan() }, 3),
            [read(1, 1, 2), end(1)]
        );
        assert_eq!(open(&mut server, 2, HistoryPlan { limit: Some(5), ..plan() }, 3), [read(2, 1, 3)]);
        assert_eq!(append(&mut server, 9), [read(2, 4, 5), end(2)]);
        assert_eq!(open(&mut server, 3, HistoryPlan { limit: Some(0), ..plan() }, 3), [end(3)]);
        assert_eq!(server.live(), 0);
    }

    #[test]
    fn a_blocked_caller_gets_an_empty_end() {
        let mut server = HistoryServer::new();
        let opened =
            ServeInput::Opened { stream: StreamId(1), caller: peer(1), plan: plan(), have: 3, blocked: true };
        assert_eq!(give(&mut server, opened), [end(1)]);
        assert_eq!(append(&mut server, 4), []);
    }

    #[test]
    fn a_stopped_call_ends_and_a_closed_one_is_forgotten() {
        let mut server = HistoryServer::new();
        open(&mut server, 1, plan(), 3);
        open(&mut server, 2, plan(), 3);
        assert_eq!(give(&mut server, ServeInput::Stopped { stream: StreamId(1) }), [end(1)]);
        assert_eq!(give(&mut server, ServeInput::Closed { stream: StreamId(2) }), []);
        assert_eq!(append(&mut server, 4), []);
        assert!(server.by_feed.is_empty() && server.by_caller.is_empty());
        assert_eq!(give(&mut server, ServeInput::Stopped { stream: StreamId(1) }), []);
    }

    #[test]
    fn one_call_too_many_of_a_caller_is_refused() {
        let mut server = HistoryServer::new();
        for n in 0..MAX_STREAMS_PER_CALLER as u64 {
            assert_eq!(open(&mut server, n, plan(), 0), []);
        }
        let refused = ServeOutput::End { stream: StreamId(u64::MAX), error: Some(TOO_MANY_STREAMS) };
        assert_eq!(open(&mut server, u64::MAX, plan(), 0), [refused]);
    }

    #[test]
    fn only_a_blocking_contact_message_about_the_caller_stops_the_stream() {
        let caller = peer(1);
        let id = caller.to_string();
        let stops = |content: serde_json::Value| {
            blocks_caller(json!({ "author": "x", "content": content }).to_string().as_bytes(), &caller)
        };
        assert!(stops(json!({"type": "contact", "contact": id, "blocking": true})));
        assert!(stops(json!({"type": "contact", "contact": id, "flagged": {"reason": "spam"}})));
        assert!(!stops(json!({"type": "contact", "contact": id, "blocking": false})));
        assert!(!stops(json!({"type": "contact", "contact": id, "following": true})));
        assert!(!stops(json!({"type": "post", "text": id, "contact": id, "blocking": true})));
        assert!(!stops(json!({"type": "contact", "contact": peer(2).to_string(), "blocking": true})));
        assert!(!stops(json!("AAAA.box")));
        assert!(!blocks_caller(id.as_bytes(), &caller));
    }

    proptest! {
        #[test]
        fn every_call_gets_each_message_once_in_order(
            from in 1u64..12, limit in prop::option::of(0u64..10), have in 0u64..10,
            steps in prop::collection::vec(0u64..4, 0..8), old: bool,
        ) {
            let mut server = HistoryServer::new();
            let mut outputs = open(&mut server, 1, HistoryPlan { from, limit, old, ..plan() }, have);
            let mut last = have;
            for step in steps {
                last += step;
                outputs.extend(append(&mut server, last));
            }
            let got: Vec<u64> = outputs.iter().filter_map(|output| match output {
                ServeOutput::Read { from, to, .. } => Some(*from..=*to),
                ServeOutput::End { .. } => None,
            }).flatten().collect();
            let first = if old { from } else { from.max(have + 1) };
            let all: Vec<u64> = (first..=last).take(limit.unwrap_or(u64::MAX) as usize).collect();
            prop_assert_eq!(got, all);
        }

        #[test]
        fn no_message_panics(message: Vec<u8>) {
            let _ = blocks_caller(&message, &peer(1));
        }
    }
}
