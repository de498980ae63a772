//! From what a log has to what our store holds: one thread reads, this one and its helpers verify, one writes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use memchr::memmem;

use super::{Found, ImportError, Into, Log, Raw, Report, WAITING_BYTES};
use crate::message::json::{self, Value};
use crate::message::{Fork, HmacKey, InvalidMessage, Message, Tip, Unverified, Verifier, parse_batch};
use crate::refs::FeedId;
use crate::store::{ReadError, Reader, Refusal, Writer};

/// Messages that are verified, and made durable, together.
const BATCH: usize = 4096;
/// Batches that may wait between two threads.
const AHEAD: usize = 2;

/// Imports the log that `open` opens, as often as it takes: a log whose messages are far out of order is read more
/// than once, if `open` gives it again.
///
/// `progress` hears how much of how much is read.
pub fn import(
    open: &mut dyn FnMut() -> io::Result<Option<Box<dyn Log + Send>>>,
    into: Into<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, ImportError> {
    import_with_room(WAITING_BYTES, open, into, progress)
}

/// The same with other room to wait.
pub(super) fn import_with_room(
    room: usize,
    open: &mut dyn FnMut() -> io::Result<Option<Box<dyn Log + Send>>>,
    into: Into<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, ImportError> {
    let Into { writer, reader, hmac, now } = into;
    let (mut verifier, mut report) = (Verifier::new(), Report::default());
    let (mut hopeless, mut known) = (BTreeSet::new(), None);
    while let Some(log) = open()? {
        report.forget_reading();
        let mut checker = Checker {
            reader,
            hmac,
            verifier: &mut verifier,
            tips: BTreeMap::new(),
            waiting: Waiting { room, hopeless, ..Waiting::default() },
            report: &mut report,
        };
        let written = read_once(log, &mut checker, Store { writer, reader, hmac, now }, progress)?;
        let waited = checker.finish(&written.grown);
        let grew = written.stored > 0;
        written.add_to(&mut report);
        // What was stored by one reading is known to the next.
        report.known = *known.get_or_insert(report.known);
        hopeless = waited.hopeless;
        if !waited.is_worth_another || !grew {
            break;
        }
    }
    Ok(report)
}

/// What was read in one go.
struct Chunk {
    found: Vec<Found>,
    progress: (u64, u64),
}

/// What is to be written.
struct Work {
    /// Verified, each the next of its feed, with the time at which the other program received it.
    good: Vec<(Message, Option<f64>)>,
    /// What we have already, or what contradicts it.
    suspects: Vec<Raw>,
}

fn read_once(
    log: Box<dyn Log + Send>,
    checker: &mut Checker<'_>,
    store: Store<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Written, ImportError> {
    thread::scope(|scope| {
        let (chunks_in, chunks) = sync_channel(AHEAD);
        let (work, work_out) = sync_channel(AHEAD);
        let reading = scope.spawn(move || read(log, &chunks_in));
        let writing = scope.spawn(move || store.write(&work_out));
        let checked = check(checker, chunks, &work, progress);
        drop(work);
        // Whoever failed first made the others end; the writer's reason is the one that matters most.
        let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        checked?;
        reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(written)
    })
}

/// Reads to the end, or until nobody wants more.
fn read(mut log: Box<dyn Log + Send>, chunks: &SyncSender<Chunk>) -> io::Result<()> {
    loop {
        let mut found = Vec::with_capacity(BATCH);
        while found.len() < BATCH {
            let Some(next) = log.next()? else { break };
            found.push(next);
        }
        let is_last = found.len() < BATCH;
        let sent = chunks.send(Chunk { found, progress: log.progress() });
        if is_last || sent.is_err() {
            return Ok(());
        }
    }
}

fn check(
    checker: &mut Checker<'_>,
    chunks: Receiver<Chunk>,
    work: &SyncSender<Work>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), ImportError> {
    for Chunk { found, progress: (done, total) } in chunks {
        let checked = checker.check(found)?;
        if work.send(checked).is_err() {
            break;
        }
        progress(done, total);
    }
    Ok(())
}

/// Finds out which messages can be stored.
struct Checker<'a> {
    reader: &'a Reader,
    hmac: Option<&'a HmacKey>,
    verifier: &'a mut Verifier,
    /// The newest messages of feeds that are on their way to the writer.
    tips: BTreeMap<FeedId, Tip>,
    waiting: Waiting,
    report: &'a mut Report,
}

impl Checker<'_> {
    fn check(&mut self, found: Vec<Found>) -> Result<Work, ReadError> {
        let mut work = Work { good: Vec::with_capacity(found.len()), suspects: Vec::new() };
        let mut raws = Vec::with_capacity(found.len());
        for found in found {
            match found {
                Found::Damage(damage) => self.report.damaged(damage),
                Found::Passed(passed) => self.report.pass(passed),
                Found::Message(raw) if self.is_known(&raw)? => self.report.known += 1,
                Found::Message(raw) => raws.push(raw),
            }
        }
        while !raws.is_empty() {
            raws = self.round(raws, &mut work);
        }
        Ok(work)
    }

    /// Whether we have the message whose id the log claims. A false claim costs no more than that message.
    fn is_known(&self, raw: &Raw) -> Result<bool, ReadError> {
        let Some(key) = raw.key else { return Ok(false) };
        // What is behind all that we have of its feed need not be looked for.
        let is_new = |(feed, sequence)| self.reader.tip(&feed).is_none_or(|tip| tip.sequence < sequence);
        if claimed_place(&raw.value).is_some_and(is_new) {
            return Ok(false);
        }
        Ok(self.reader.get(&key)?.is_some())
    }

    /// Verifies messages; gives those that are worth another round.
    fn round(&mut self, raws: Vec<Raw>, work: &mut Work) -> Vec<Raw> {
        let values: Vec<&[u8]> = raws.iter().map(|raw| raw.value.as_slice()).collect();
        let parsed = parse_batch(&values);
        let (mut candidates, mut messages) = (Vec::with_capacity(raws.len()), Vec::with_capacity(raws.len()));
        for (raw, parsed) in raws.into_iter().zip(parsed) {
            match parsed {
                Ok(message) => {
                    candidates.push((message.author(), message.sequence(), raw));
                    messages.push(message);
                }
                Err(why) => self.report.refuse(raw.offset, why),
            }
        }
        let (tips, reader) = (&self.tips, self.reader);
        let tip = |feed: &FeedId| tips.get(feed).copied().or_else(|| reader.tip(feed));
        let results = self.verifier.validate_batch(messages, self.hmac, tip);
        let (mut again, mut grown) = (Vec::new(), BTreeSet::new());
        for ((feed, sequence, raw), result) in candidates.into_iter().zip(results) {
            match result {
                Ok(message) => {
                    self.tips.insert(feed, message.tip());
                    grown.insert(feed);
                    work.good.push((message, raw.received));
                }
                Err(why) => match fate(&why, sequence) {
                    Fate::Wait => self.wait(feed, sequence, raw, work),
                    Fate::Suspect => work.suspects.push(raw),
                    Fate::Undress => match undress(&raw.value) {
                        Some(value) => again.push(Raw { value, ..raw }),
                        None => self.report.refuse(raw.offset, why),
                    },
                    Fate::Refuse => self.report.refuse(raw.offset, why),
                },
            }
        }
        for feed in grown {
            let Some(tip) = self.tips.get(&feed) else { continue };
            work.suspects.extend(self.waiting.overtaken(&feed, tip.sequence));
            again.extend(self.waiting.following(&feed, tip.sequence));
        }
        again
    }

    fn wait(&mut self, feed: FeedId, sequence: u64, raw: Raw, work: &mut Work) {
        match self.waiting.add(feed, sequence, raw) {
            Admission::Waits => {}
            Admission::Taken(raw) => work.suspects.push(raw),
            Admission::Full => *self.report.unplaced.entry(feed).or_default() += 1,
        }
    }

    /// Counts what waited in vain.
    fn finish(self, grown: &BTreeSet<FeedId>) -> Waited {
        let Waiting { feeds, mut hopeless, dropped, .. } = self.waiting;
        for (feed, waiting) in feeds.into_iter().filter(|(_, waiting)| !waiting.is_empty()) {
            *self.report.unplaced.entry(feed).or_default() += waiting.len() as u64;
            if !grown.contains(&feed) && !dropped.contains(&feed) {
                hopeless.insert(feed);
            }
        }
        Waited { is_worth_another: !dropped.is_empty(), hopeless }
    }
}

/// What a reading says of the next.
struct Waited {
    /// Messages found no room to wait.
    is_worth_another: bool,
    /// Feeds all of whose messages had room to wait, and that did not grow.
    hopeless: BTreeSet<FeedId>,
}

/// The feed and the sequence that a message names, if it is written as JavaScript writes it.
fn claimed_place(value: &[u8]) -> Option<(FeedId, u64)> {
    const FEED_LEN: usize = 53;
    let after = |name: &[u8]| memmem::find(value, name).and_then(|at| value.get(at + name.len()..));
    let feed = std::str::from_utf8(after(b"\"author\":\"")?.get(..FEED_LEN)?).ok()?.parse().ok()?;
    let digits = after(b"\"sequence\":")?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    let sequence = std::str::from_utf8(&digits[..end]).ok()?.parse().ok()?;
    Some((feed, sequence))
}

/// What becomes of a message that cannot be stored as it is.
enum Fate {
    /// Its predecessor may come.
    Wait,
    /// We have it, or another one in its place.
    Suspect,
    /// A program may have added what it decrypted.
    Undress,
    Refuse,
}

fn fate(why: &InvalidMessage, sequence: u64) -> Fate {
    match why {
        InvalidMessage::Sequence { expected, found, .. } if found > expected => Fate::Wait,
        InvalidMessage::Sequence { found: 0, .. } => Fate::Refuse,
        InvalidMessage::Sequence { .. } | InvalidMessage::Fork(_) => Fate::Suspect,
        InvalidMessage::FirstPrevious(_) | InvalidMessage::FirstSequence(_) if sequence > 1 => Fate::Wait,
        InvalidMessage::KeyOrder => Fate::Undress,
        InvalidMessage::RawTooLong { .. }
        | InvalidMessage::Json(_)
        | InvalidMessage::NotAnObject
        | InvalidMessage::Author
        | InvalidMessage::SignatureForm
        | InvalidMessage::FirstPrevious(_)
        | InvalidMessage::FirstSequence(_)
        | InvalidMessage::Timestamp(_)
        | InvalidMessage::SequenceForm
        | InvalidMessage::ContentForm
        | InvalidMessage::HashName
        | InvalidMessage::TooLong { .. }
        | InvalidMessage::ContentType
        | InvalidMessage::HmacKey
        | InvalidMessage::Signature
        | InvalidMessage::OtherId => Fate::Refuse,
    }
}

/// The message that was signed, out of one to which JavaScript's server has added what it decrypted.
fn undress(value: &[u8]) -> Option<Vec<u8>> {
    const SIGNED: [&str; 7] = ["previous", "author", "sequence", "timestamp", "hash", "content", "signature"];
    let value = json::parse(value).ok()?;
    let in_meta = || value.member("meta")?.member("original")?.member("content");
    let sealed = value.member("cyphertext").or_else(in_meta)?.clone();
    let Value::Object(members) = value else { return None };
    let bare = members.into_iter().filter(|(key, _)| SIGNED.contains(&&**key));
    let bare = bare.map(|(key, value)| if key == "content" { (key, sealed.clone()) } else { (key, value) });
    Some(Value::Object(bare.collect()).to_compact())
}

/// Messages whose predecessors have not come yet. Of a feed the nearest to its turn have precedence.
#[derive(Default)]
struct Waiting {
    feeds: BTreeMap<FeedId, BTreeMap<u64, Raw>>,
    bytes: usize,
    room: usize,
    /// Feeds of which messages found no room.
    dropped: BTreeSet<FeedId>,
    /// Feeds for which it is of no use to wait.
    hopeless: BTreeSet<FeedId>,
}

enum Admission {
    Waits,
    /// Another message waits in its place.
    Taken(Raw),
    /// There is no room for it or for another one of its feed.
    Full,
}

impl Waiting {
    fn add(&mut self, feed: FeedId, sequence: u64, raw: Raw) -> Admission {
        if self.hopeless.contains(&feed) {
            return Admission::Full;
        }
        let waiting = self.feeds.entry(feed).or_default();
        if waiting.contains_key(&sequence) {
            return Admission::Taken(raw);
        }
        self.bytes += size(&raw);
        waiting.insert(sequence, raw);
        if self.bytes <= self.room {
            return Admission::Waits;
        }
        self.dropped.insert(feed);
        self.bytes -= waiting.pop_last().map_or(0, |(_, last)| size(&last));
        Admission::Full
    }

    /// Takes out what waits at or before a place that is filled now.
    fn overtaken(&mut self, feed: &FeedId, sequence: u64) -> Vec<Raw> {
        let Some(waiting) = self.feeds.get_mut(feed) else { return Vec::new() };
        let later = waiting.split_off(&(sequence + 1));
        let gone = std::mem::replace(waiting, later);
        self.bytes -= gone.values().map(size).sum::<usize>();
        gone.into_values().collect()
    }

    /// Takes out what follows a message without a gap.
    fn following(&mut self, feed: &FeedId, sequence: u64) -> Vec<Raw> {
        let Some(waiting) = self.feeds.get(feed) else { return Vec::new() };
        let run = waiting.keys().zip(sequence + 1..).take_while(|(at, next)| *at == next);
        let last = sequence + run.count() as u64;
        self.overtaken(feed, last)
    }
}

fn size(raw: &Raw) -> usize {
    size_of::<Raw>() + raw.value.len()
}

/// The writer's side.
struct Store<'a> {
    writer: &'a mut Writer,
    reader: &'a Reader,
    hmac: Option<&'a HmacKey>,
    now: f64,
}

/// What the writer did.
#[derive(Default)]
struct Written {
    stored: u64,
    known: u64,
    grown: BTreeSet<FeedId>,
    forks: BTreeMap<FeedId, Fork>,
}

impl Written {
    fn add_to(self, report: &mut Report) {
        report.stored += self.stored;
        report.known += self.known;
        report.grown.extend(self.grown);
        for fork in self.forks.into_values() {
            if report.forks.iter().all(|known| known.feed() != fork.feed()) {
                report.forks.push(fork);
            }
        }
    }
}

impl Store<'_> {
    fn write(self, work: &Receiver<Work>) -> Result<Written, ImportError> {
        let mut written = Written::default();
        for Work { good, suspects } in work {
            for (message, received) in good {
                let is_time = |time: &f64| *time > 0.0 && *time <= self.now;
                let received = received.filter(is_time).unwrap_or(self.now);
                let feed = message.author();
                let appended = self.writer.append(vec![message], received)?;
                written.stored += appended.stored.len() as u64;
                if !appended.stored.is_empty() {
                    written.grown.insert(feed);
                }
                debug_assert!(appended.refused.iter().all(|refused| refused.why == Refusal::TooLong));
            }
            self.writer.sync()?;
            for raw in suspects {
                self.judge(&raw, &mut written)?;
            }
        }
        Ok(written)
    }

    /// A message for a place that is filled: the same again, or the proof of a fork.
    fn judge(&self, raw: &Raw, written: &mut Written) -> Result<(), ReadError> {
        let Ok(message) = Unverified::parse(&raw.value) else { return Ok(()) };
        let (feed, sequence) = (message.author(), message.sequence());
        let is_same = match self.reader.at(&feed, sequence)? {
            Some(held) => Some(held.message.id()) == message.id(),
            // Within the feed, where its owner has deleted the content, nobody can tell any more.
            None => self.reader.tip(&feed).is_some_and(|tip| sequence <= tip.sequence),
        };
        if is_same {
            written.known += 1;
        } else if written.forks.len() < super::FORKS && !written.forks.contains_key(&feed) {
            let message = message.verify(self.hmac).ok();
            let fork = message.and_then(|message| self.reader.fork_with(message));
            written.forks.extend(fork.map(|fork| (fork.feed(), fork)));
        }
        Ok(())
    }
}
