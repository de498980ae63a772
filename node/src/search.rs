//! Full-text search over what this node holds: public messages, and those private ones that it can read.
//!
//! ```text
//! hawsepipe/search/index    public messages (SQLite; see `search/index.rs`)
//! ```
//!
//! Private messages are indexed apart, in memory alone and anew with each start: nothing that was opened is kept on disk.
//! Neither leaves the machine. What always holds:
//! - the log is the truth: the folder can be deleted at any time, and a file that is damaged, or of another log, is made
//!   again; what an answer names is read from the log, so what was deleted there is not in it;
//! - the index follows the log by itself, and at once when somebody searches; until then it answers with what it has.

mod document;
mod index;
mod secret;
mod words;

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hawsepipe_replication::graph::Mark;
use hawsepipe_replication::private::Opened;
use hawsepipe_replication::store::{Order, ReadError, Reader, Stored};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::document::Document;
use self::index::{Hit, Index, IndexError};
use self::secret::Secret;
use crate::blobs::blocking;
use crate::clock;
use crate::context::{Caller, log_end};
use crate::metrics::Metrics;
use crate::private::Private;

pub(crate) use document::blob_names;
pub(crate) use index::Field;
pub(crate) use words::{Asked, asked};

/// Messages that are added together.
const CHUNK: usize = 1024;
/// New messages are indexed when none has come for so long, so that a sync has the processor to itself (on a slow machine
/// its batches come a few times a second), …
const IDLE: Duration = Duration::from_secs(1);
/// … but after so long in any case, and at once when somebody searches.
const LATEST: Duration = Duration::from_secs(30);
/// Bytes of the log that are indexed in no time: a question waits for them, …
const NEAR: u64 = 256 * 1024;
/// … at most so long. Of more it gets what there is: a sync must be going on.
const PATIENCE: Duration = Duration::from_secs(1);
/// Where an answer has a limit, so many of the newest messages that fit compete for the first places.
const COMPETING: usize = 4096;
/// Messages that one answer names at most.
const MAX_HITS: usize = 1_000_000;

/// See the module's header.
#[derive(Debug)]
pub struct Search {
    dir: PathBuf,
    private: Arc<Private>,
    metrics: Arc<Metrics>,
    /// Adds; nothing until it is opened, or while it cannot be. Held while messages are added.
    writer: Mutex<Option<Index>>,
    /// Answers, beside the writer.
    reader: Mutex<Option<Index>>,
    secret: Mutex<Secret>,
    /// The offset behind the last message that was looked at.
    covered: watch::Sender<u64>,
    /// Somebody waits for the index.
    wanted: Notify,
}

/// A message that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where it lies in the log.
    pub(crate) place: u64,
    /// How often others that fit name it.
    pub(crate) rank: u32,
}

/// Why a search has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SearchError {
    /// The index is not there: it is made, or the disk does not let it be made.
    #[error("the search index is not there yet; the node's log tells why if it stays away")]
    NotThere,
    /// It failed; it is made again.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Search {
    /// The index of a node's log in a folder, which is made when it is needed.
    pub fn new(dir: PathBuf, private: Arc<Private>, metrics: Arc<Metrics>) -> Self {
        Self {
            dir,
            private,
            metrics,
            writer: Mutex::default(),
            reader: Mutex::default(),
            secret: Mutex::default(),
            covered: watch::Sender::new(0),
            wanted: Notify::new(),
        }
    }

    /// Keeps the index level with the log until `stop`.
    pub async fn follow(
        self: Arc<Self>,
        reader: Reader,
        mut log: watch::Receiver<u64>,
        stop: CancellationToken,
    ) {
        let mut since = clock::now();
        loop {
            log.borrow_and_update();
            let (search, known, token) = (Arc::clone(&self), reader.clone(), stop.clone());
            blocking(move || {
                search.catch_up(&known, since, &|| !token.is_cancelled());
                search.refresh_secret(&known);
            })
            .await;
            tokio::select! {
                () = stop.cancelled() => break,
                changed = log.changed() => if changed.is_err() { break },
            }
            since = clock::now();
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.pause(&mut log, &reader, since) => {}
            }
        }
        // Closing writes what is in SQLite's write-ahead log to its place.
        blocking(move || drop((lock(&self.reader).take(), lock(&self.writer).take()))).await;
    }

    /// Waits for the log to come to rest.
    async fn pause(&self, log: &mut watch::Receiver<u64>, reader: &Reader, since: Instant) {
        let latest = tokio::time::sleep(LATEST);
        tokio::pin!(latest);
        loop {
            log.borrow_and_update();
            self.show_lag(reader, since);
            tokio::select! {
                () = self.wanted.notified() => return,
                () = &mut latest => return,
                grew = tokio::time::timeout(IDLE, log.changed()) => if !matches!(grew, Ok(Ok(()))) { return },
            }
        }
    }

    /// How far the index is: the offset behind the last message that it has looked at.
    pub(crate) fn covered(&self) -> u64 {
        *self.covered.borrow()
    }

    /// The messages with all these words, those first that most others of them name, then the newest. With a limit,
    /// only the newest compete, so that a word that everybody uses costs no more than others.
    pub(crate) async fn find(
        self: &Arc<Self>,
        reader: &Reader,
        field: Field,
        asked: Vec<Asked>,
        limit: Option<u64>,
    ) -> Result<Vec<Found>, SearchError> {
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        self.wait_for(reader).await;
        let most = limit.map_or(MAX_HITS, |limit| (limit as usize).clamp(COMPETING, MAX_HITS));
        let caller = Caller::default();
        let (search, reader, waits) = (Arc::clone(self), reader.clone(), caller.waits());
        let found =
            blocking(move || search.hits(&reader, field, &asked, most, &waits).map(|hits| rank(&hits)));
        found.await.inspect_err(|error| {
            if let SearchError::Index(IndexError::Damaged(_)) = error {
                // Whoever follows the log makes it again.
                lock(&self.reader).take();
                self.wanted.notify_one();
            }
        })
    }

    fn hits(
        &self,
        reader: &Reader,
        field: Field,
        asked: &[Asked],
        most: usize,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Vec<Hit>, SearchError> {
        self.refresh_secret(reader);
        let mut hits = match &*lock(&self.reader) {
            Some(index) => index.find(field, asked, most, goes_on)?,
            None => return Err(SearchError::NotThere),
        };
        hits.extend(lock(&self.secret).find(field, asked, most, goes_on)?);
        hits.sort_unstable_by_key(|hit| std::cmp::Reverse(hit.place));
        hits.truncate(most);
        Ok(hits)
    }

    /// The places of private messages that name something, ascending; what their hash confuses may be among them.
    pub(crate) fn private_links(&self, reader: &Reader, dest: &str) -> Vec<u64> {
        self.refresh_secret(reader);
        lock(&self.secret).links(dest)
    }

    /// A message was deleted: what it said is forgotten.
    pub(crate) fn forget(&self, stored: &Stored, opened: Option<&Opened>) {
        if opened.is_some() {
            lock(&self.secret).clear();
            return;
        }
        let Some(document) = document(stored, None) else { return };
        if let Some(index) = &mut *lock(&self.writer)
            && let Err(error) = index.remove(stored.offset, &document)
        {
            tracing::warn!(%error, "a deleted message is still in the search index, where nobody finds it");
        }
    }

    async fn wait_for(&self, reader: &Reader) {
        let end = log_end(reader);
        self.wanted.notify_one();
        let mut covered = self.covered.subscribe();
        let is_open = lock(&self.reader).is_some();
        let level = async {
            // The sender lives as long as we.
            if !is_open {
                let _ = covered.changed().await;
            }
            if end.saturating_sub(self.covered()) <= NEAR {
                let _ = covered.wait_for(|covered| *covered >= end).await;
            }
            self.private.caught_up_if_near(reader).await;
        };
        // Incomplete answers are what there is during a first sync.
        let _ = tokio::time::timeout(PATIENCE, level).await;
    }

    /// Adds what the log has more; makes the index if there is none that is of use.
    fn catch_up(&self, reader: &Reader, since: Instant, goes_on: &dyn Fn() -> bool) {
        let mut writer = lock(&self.writer);
        if lock(&self.reader).is_none() {
            *writer = None;
        }
        // Once more if it turns out to be damaged.
        for _ in 0..2 {
            match self.advance(&mut writer, reader, since, goes_on) {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(%error, "messages cannot be indexed for searching");
                    (*writer, *lock(&self.reader)) = (None, None);
                    let SearchError::Index(IndexError::Damaged(_)) = error else { return };
                    if let Err(error) = index::remove(&self.path()) {
                        tracing::error!(%error, "the damaged search index cannot be removed");
                    }
                }
            }
        }
    }

    fn advance(
        &self,
        writer: &mut Option<Index>,
        reader: &Reader,
        since: Instant,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<(), SearchError> {
        let index = match writer {
            Some(index) => index,
            None => writer.insert(self.open(reader)?),
        };
        let mut from = index.covered()?.map_or(0, |until| until.offset + 1);
        while goes_on() {
            let end = log_end(reader);
            let messages = reader.log(from..end, Order::Ascending)?.take(CHUNK);
            let messages = messages.collect::<Result<Vec<_>, _>>()?;
            let Some(until) = messages.last().map(Mark::of) else {
                // What is left, if anything, was deleted.
                self.covered.send_replace(end);
                break;
            };
            let documents =
                messages.iter().filter_map(|stored| Some((stored.offset, document(stored, None)?)));
            index.add(&documents.collect::<Vec<_>>(), until)?;
            from = until.offset + 1;
            self.covered.send_replace(from);
            self.show_lag(reader, since);
        }
        self.show_lag(reader, since);
        Ok(())
    }

    /// Opens the index, and a reading end of it.
    fn open(&self, reader: &Reader) -> Result<Index, SearchError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(IndexError::from)?;
        let path = self.path();
        let mut index = Index::open(&path)?;
        let until = index.covered()?;
        if !until.is_none_or(|until| is_in(reader, &until)) {
            tracing::info!("the search index is of another log and is made anew");
            drop(index);
            index::remove(&path).map_err(IndexError::from)?;
            index = Index::open(&path)?;
        }
        *lock(&self.reader) = Some(Index::attach(&path)?);
        self.covered.send_replace(index.covered()?.map_or(0, |until| until.offset + 1));
        Ok(index)
    }

    fn path(&self) -> PathBuf {
        self.dir.join("index")
    }

    fn refresh_secret(&self, reader: &Reader) {
        if let Err(error) = lock(&self.secret).refresh(&self.private, reader) {
            tracing::error!(%error, "private messages cannot be indexed for searching");
            lock(&self.secret).clear();
        }
    }

    fn show_lag(&self, reader: &Reader, since: Instant) {
        let behind = log_end(reader).saturating_sub(self.covered());
        self.metrics.search.lag_bytes.set(behind as i64);
        let seconds = if behind == 0 { 0.0 } else { (clock::now() - since).as_secs_f64() };
        self.metrics.search.lag_seconds.set(seconds);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What of a message can be searched for.
fn document(stored: &Stored, opened: Option<&Opened>) -> Option<Document> {
    let message = &stored.message;
    let content = opened.map_or_else(|| message.content_json(), Opened::content_json);
    Document::new(&message.id(), message.timestamp(), content)
}

/// Whether a message is where a mark says.
fn is_in(reader: &Reader, mark: &Mark) -> bool {
    let stored = reader.get(&mark.id).ok().flatten();
    stored.is_some_and(|stored| stored.offset == mark.offset)
}

/// The order of ssb-search: what most of the others name, then by claimed time.
fn rank(hits: &[Hit]) -> Vec<Found> {
    let mut counts: HashMap<u64, u32> = hits.iter().map(|hit| (hit.id, 0)).collect();
    for link in hits.iter().flat_map(|hit| &hit.links) {
        counts.entry(*link).and_modify(|count| *count += 1);
    }
    let mut ranked: Vec<_> =
        hits.iter().map(|hit| (counts.get(&hit.id).copied().unwrap_or(0), hit)).collect();
    ranked.sort_by(|(one, a), (other, b)| other.cmp(one).then_with(|| b.time.total_cmp(&a.time)));
    ranked.into_iter().map(|(rank, hit)| Found { place: hit.place, rank }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_most_comes_first_then_what_is_newest() {
        let hit = |id: u64, time: f64, links: &[u64]| Hit { place: id * 10, id, time, links: links.to_vec() };
        let hits = [hit(1, 5.0, &[]), hit(2, 6.0, &[1, 1, 77]), hit(3, 9.0, &[1, 2]), hit(4, 7.0, &[])];
        let ranked: Vec<_> = rank(&hits).into_iter().map(|found| (found.place, found.rank)).collect();
        assert_eq!(ranked, [(10, 3), (20, 1), (30, 0), (40, 0)]);
    }
}
