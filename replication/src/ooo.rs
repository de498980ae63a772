//! Messages out of order: asking connected peers, and through them their peers, for single messages by id (ssb-ooo 1.3
//! on gossip-query 2).
//!
//! On a duplex stream `ooo.stream` both sides send objects `{ID: -HOPS | MESSAGE}`: a negative number asks, a message
//! answers. Who asks for himself says -1; who cannot answer passes the question on with one hop more, and nobody
//! answers to more than two. The node drives this machine and keeps what it finds in [`Kept`].
//!
//! What always holds: a message is taken only if it was asked for, of a peer that was asked, and if its id and
//! signature are right; its place in its feed is not looked at, and it never enters the log, so that replication of that
//! feed goes on as if it were not there. What peers can make us remember is bounded, and forgotten after
//! [`LIFETIME`].

mod kept;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::message::json::{self, Value};
use crate::message::{HmacKey, InvalidMessage, Message, validate_out_of_order};
use crate::refs::MessageId;

pub use kept::{Fetched, Kept, MAX_BYTES, MAX_MESSAGES};

/// How long a question is pursued.
pub const LIFETIME: Duration = Duration::from_secs(30);
/// Questions that are pursued at a time.
pub const MAX_QUESTIONS: usize = 1_000;
/// Questions of one peer among them.
pub const MAX_OF_PEER: usize = 100;
/// Entries of one object that are looked at.
pub const MAX_ENTRIES: usize = 1_000;

/// What a question of our own says.
const OWN: i64 = -1;
/// What nobody answers to any more.
const TOO_FAR: i64 = -3;

/// One entry of an object on the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A question that has come so far, as a negative number of hops.
    Question(i64),
    /// What claims to be the message.
    Message(Bytes),
}

/// Reads an object of a stream; entries that mean nothing are left out. `None` if it is no object.
pub fn read(item: &[u8]) -> Option<Vec<(MessageId, Entry)>> {
    let Ok(Value::Object(members)) = json::parse(item) else { return None };
    let entry = |(id, value): &(std::borrow::Cow<'_, str>, Value<'_>)| {
        let id = id.parse().ok()?;
        let entry = match value {
            Value::Number(number) => Entry::Question(number.parse().ok().filter(|hops| *hops < 0)?),
            Value::Object(_) => Entry::Message(value.to_compact().into()),
            Value::Null | Value::Bool(_) | Value::Infinity | Value::String(_) | Value::Array(_) => {
                return None;
            }
        };
        Some((id, entry))
    };
    Some(members.iter().take(MAX_ENTRIES).filter_map(entry).collect())
}

/// Writes an object with one question.
pub fn write_question(id: &MessageId, hops: i64) -> Vec<u8> {
    format!("{{\"{id}\":{hops}}}").into_bytes()
}

/// Writes an object with one answer.
pub fn write_answer(message: &Message) -> Vec<u8> {
    let mut out = format!("{{\"{}\":", message.id()).into_bytes();
    out.extend_from_slice(message.value_bytes());
    out.push(b'}');
    out
}

/// What happens to the machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Input<P> {
    /// There is a stream with a peer, or another one.
    Connected(P),
    /// There is none any more.
    Disconnected(P),
    /// A peer sent entries.
    Received {
        /// The peer.
        peer: P,
        /// What [`read`] made of it.
        entries: Vec<(MessageId, Entry)>,
    },
    /// We ourselves want a message.
    Ask(MessageId),
    /// What became of [`Output::Look`].
    Looked {
        /// The message that was looked for.
        id: MessageId,
        /// What we hold.
        found: Option<Message>,
    },
}

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output<P> {
    /// Look whether we hold a message; answer with [`Input::Looked`].
    Look(MessageId),
    /// Streams with all peers are needed now.
    Open,
    /// Ask a peer.
    Question {
        /// Whom.
        peer: P,
        /// The message that is wanted.
        id: MessageId,
        /// How far the question has come, as a negative number of hops.
        hops: i64,
    },
    /// Answer a peer.
    Answer {
        /// Whom.
        peer: P,
        /// What it asked for.
        message: Message,
    },
    /// What we ourselves wanted is here; `is_new` if a peer sent it.
    Found {
        /// The message, verified.
        message: Message,
        /// Whether we did not hold it before.
        is_new: bool,
    },
    /// What we ourselves wanted did not come.
    Missed(MessageId),
    /// A peer answered with something else.
    Misled {
        /// The peer.
        peer: P,
        /// What is wrong with the answer.
        why: InvalidMessage,
    },
}

/// A question that is pursued.
#[derive(Clone, Debug)]
struct Question<P> {
    /// What we say when we pass it on.
    hops: i64,
    stage: Stage,
    is_own: bool,
    asked_by: BTreeSet<P>,
    asked: BTreeSet<P>,
    deadline: Instant,
}

#[derive(Clone, Debug)]
enum Stage {
    Looking,
    Open,
    Answered(Message),
}

/// The machine; `P` is a peer.
#[derive(Debug)]
pub struct State<P> {
    hmac: Option<HmacKey>,
    peers: BTreeSet<P>,
    questions: BTreeMap<MessageId, Question<P>>,
    outputs: VecDeque<Output<P>>,
}

impl<P: Copy + Ord> State<P> {
    /// One that pursues nothing, on a network with or without a signing key. (ssb-ooo forgets the key, so that JS
    /// peers find nothing on such a network.)
    pub fn new(hmac: Option<HmacKey>) -> Self {
        Self { hmac, peers: BTreeSet::new(), questions: BTreeMap::new(), outputs: VecDeque::new() }
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, input: Input<P>) {
        match input {
            Input::Connected(peer) => self.connected(peer),
            Input::Disconnected(peer) => self.disconnected(&peer),
            Input::Received { peer, entries } => {
                for (id, entry) in entries {
                    match entry {
                        Entry::Question(hops) => self.asked(now, peer, id, hops),
                        Entry::Message(raw) => self.answered(peer, id, &raw),
                    }
                }
            }
            Input::Ask(id) => self.ask(now, id),
            Input::Looked { id, found } => self.looked(id, found),
        }
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output<P>> {
        self.outputs.pop_front()
    }

    /// When [`State::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.questions.values().map(|question| question.deadline).min()
    }

    /// Gives up what has been pursued long enough.
    pub fn handle_timeout(&mut self, now: Instant) {
        let outputs = &mut self.outputs;
        self.questions.retain(|id, question| {
            let goes_on = question.deadline > now;
            if !goes_on && question.is_own && !matches!(question.stage, Stage::Answered(_)) {
                outputs.push_back(Output::Missed(*id));
            }
            goes_on
        });
    }

    fn connected(&mut self, peer: P) {
        self.peers.insert(peer);
        let open = self.questions.iter_mut().filter(|(_, question)| matches!(question.stage, Stage::Open));
        let open = open.map(|(id, question)| {
            // What was asked on a stream before may be lost with it.
            question.asked.remove(&peer);
            *id
        });
        for id in open.collect::<Vec<_>>() {
            self.pass_on(id);
        }
    }

    fn disconnected(&mut self, peer: &P) {
        self.peers.remove(peer);
        for question in self.questions.values_mut() {
            question.asked_by.remove(peer);
            question.asked.remove(peer);
        }
    }

    fn asked(&mut self, now: Instant, peer: P, id: MessageId, hops: i64) {
        if hops <= TOO_FAR || !self.peers.contains(&peer) {
            return;
        }
        let (further, has_room) = (hops - 1, self.has_room_for(&peer));
        match self.questions.get_mut(&id) {
            Some(question) => {
                question.hops = question.hops.max(further);
                if !question.asked_by.insert(peer) {
                    return;
                }
                if let Stage::Answered(message) = &question.stage {
                    self.outputs.push_back(Output::Answer { peer, message: message.clone() });
                }
            }
            None if has_room => {
                let asked_by = BTreeSet::from([peer]);
                self.begin(now, id, Question { asked_by, ..Question::new(now, further) });
            }
            None => {}
        }
    }

    fn has_room_for(&self, peer: &P) -> bool {
        let theirs = self.questions.values().filter(|question| question.asked_by.contains(peer));
        self.questions.len() < MAX_QUESTIONS && theirs.count() < MAX_OF_PEER
    }

    fn ask(&mut self, now: Instant, id: MessageId) {
        let Some(question) = self.questions.get_mut(&id) else {
            // Our own wish has room whatever strangers ask.
            return self.begin(now, id, Question { is_own: true, ..Question::new(now, OWN) });
        };
        question.is_own = true;
        question.deadline = now + LIFETIME;
        if let Stage::Answered(message) = &question.stage {
            self.outputs.push_back(Output::Found { message: message.clone(), is_new: true });
        } else if question.hops < OWN {
            question.hops = OWN;
            question.asked.clear();
            if matches!(question.stage, Stage::Open) {
                self.outputs.push_back(Output::Open);
                self.pass_on(id);
            }
        }
    }

    fn begin(&mut self, now: Instant, id: MessageId, question: Question<P>) {
        debug_assert!(question.deadline > now);
        self.questions.insert(id, question);
        self.outputs.push_back(Output::Look(id));
    }

    fn looked(&mut self, id: MessageId, found: Option<Message>) {
        let Some(question) = self.questions.get_mut(&id) else { return };
        if !matches!(question.stage, Stage::Looking) {
            return;
        }
        if let Some(message) = found {
            return self.settle(id, message, false);
        }
        question.stage = Stage::Open;
        if question.hops > TOO_FAR {
            self.outputs.push_back(Output::Open);
            self.pass_on(id);
        }
    }

    /// Asks whoever was not asked yet and does not ask himself.
    fn pass_on(&mut self, id: MessageId) {
        let Some(question) = self.questions.get_mut(&id) else { return };
        if question.hops <= TOO_FAR {
            return;
        }
        for peer in &self.peers {
            if !question.asked_by.contains(peer) && question.asked.insert(*peer) {
                self.outputs.push_back(Output::Question { peer: *peer, id, hops: question.hops });
            }
        }
    }

    fn answered(&mut self, peer: P, id: MessageId, raw: &[u8]) {
        let Some(question) = self.questions.get_mut(&id) else { return };
        if !matches!(question.stage, Stage::Open) || !question.asked.contains(&peer) {
            return;
        }
        match validate_out_of_order(raw, self.hmac.as_ref(), Some(&id)) {
            Ok(message) => self.settle(id, message, true),
            Err(why) => {
                // Once is enough: what else it says of this message is not looked at.
                question.asked.remove(&peer);
                question.asked_by.remove(&peer);
                self.outputs.push_back(Output::Misled { peer, why });
            }
        }
    }

    fn settle(&mut self, id: MessageId, message: Message, is_new: bool) {
        let Some(question) = self.questions.get_mut(&id) else { return };
        for peer in &question.asked_by {
            self.outputs.push_back(Output::Answer { peer: *peer, message: message.clone() });
        }
        question.stage = Stage::Answered(message.clone());
        if question.is_own {
            self.outputs.push_back(Output::Found { message, is_new });
        }
    }
}

impl<P: Ord> Question<P> {
    fn new(now: Instant, hops: i64) -> Self {
        let (asked_by, asked) = (BTreeSet::new(), BTreeSet::new());
        Self { hops, stage: Stage::Looking, is_own: false, asked_by, asked, deadline: now + LIFETIME }
    }
}
