//! Private messages of this node's identity: the keys, the index of what can be read, and the task that keeps both
//! level with the log.
//!
//! ```text
//! hawsepipe/private/keys    keys of groups (JSON); they come back from the messages that brought them
//! hawsepipe/private/index   which messages can be read (replication's `private::Index`)
//! ```
//!
//! Both can be deleted at any time. They are readable by their owner only, and never leave the machine: peers get
//! messages as they lie in the log, and only methods of local clients open them. What is opened is never logged.
//!
//! What always holds: an index that says it covers a message has tried it with every key that was known then; when
//! a key of a group comes, the envelopes that nothing opened are tried again.

mod files;

use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use hawsepipe_replication::graph::Mark;
use hawsepipe_replication::message::Message;
use hawsepipe_replication::private::{Group, Index, Invitation, Keyring, Opened, groups};
use hawsepipe_replication::refs::{FeedId, GroupId, MessageId};
use hawsepipe_replication::store::{Order, ReadError, Reader, Stored};
use ssb_crypto::Keypair;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use files::Files;

use crate::context::log_end;
use crate::datadir::DataDir;

/// Messages that are tried together, on all cores.
const CHUNK: usize = 2048;
/// The index is saved after so many messages were tried, and when the node stops.
const SAVE_AFTER: usize = 50_000;
/// New messages are tried when none has come for so long, so that a sync has the processor to itself, …
const IDLE: Duration = Duration::from_millis(500);
/// … but after so long in any case, and at once when somebody asks for private messages.
const LATEST: Duration = Duration::from_secs(30);
/// Longest time that a question for private messages waits for the index.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of the log that are tried in no time.
const NEAR: u64 = 256 * 1024;
/// Invitations to groups whose first message is not here yet.
const MAX_PENDING: usize = 1_000;

/// See the module's header.
#[derive(Debug)]
pub struct Private {
    own: FeedId,
    files: Files,
    /// Guards the keys; written when a group is made or joined.
    keyring: RwLock<Keyring>,
    /// Guards the index; written by whoever tries messages.
    index: RwLock<Index>,
    /// Guards the right to try messages, and invitations that wait for a group's first message.
    pending: Mutex<Vec<Invitation>>,
    /// The offset behind the last message that was tried.
    covered: watch::Sender<u64>,
    /// Somebody waits for the index.
    wanted: Notify,
}

/// Why nothing more is tried: the disk cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("private messages cannot be indexed: {0}")]
pub struct IndexFailed(#[from] ReadError);

impl Private {
    /// Reads what earlier runs left; a damaged or outdated file is made again.
    pub fn open(dir: &DataDir, keypair: &Keypair, reader: &Reader) -> io::Result<Self> {
        let own = FeedId::from_bytes(keypair.public.0);
        let files = Files::at(dir.private())?;
        let mut keyring = Keyring::new(keypair);
        for (id, group) in files.groups() {
            if let Err(full) = keyring.add_group(id, &group) {
                tracing::warn!(%full, "not all keys of groups are used");
            }
        }
        let index = files.index(&own).filter(|index| is_of(reader, index)).unwrap_or_default();
        let covered = index.until().map_or(0, |until| until.offset + 1);
        let private = Self {
            own,
            files,
            keyring: RwLock::new(keyring),
            index: RwLock::new(index),
            pending: Mutex::default(),
            covered: watch::Sender::new(covered),
            wanted: Notify::new(),
        };
        Ok(private)
    }

    /// Keeps the index level with the log until `stop`, then saves it.
    pub async fn follow(
        self: Arc<Self>,
        reader: Reader,
        mut log: watch::Receiver<u64>,
        stop: CancellationToken,
    ) {
        let mut unsaved = 0;
        let known = reader.clone();
        self.blocking(move |private| private.recall_invitations(&known)).await;
        loop {
            log.borrow_and_update();
            let known = reader.clone();
            unsaved += self.blocking(move |private| private.catch_up(&known)).await.unwrap_or(0);
            if unsaved >= SAVE_AFTER {
                unsaved = 0;
                self.save().await;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                changed = log.changed() => if changed.is_err() { break },
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.pause(&mut log) => {}
            }
        }
        self.save().await;
    }

    /// How much of the log has not been tried yet, in bytes.
    pub fn behind(&self, reader: &Reader) -> u64 {
        log_end(reader).saturating_sub(*self.covered.borrow())
    }

    /// Waits until every message that is stored now has been tried, or trying takes too long: where the disk cannot
    /// be read, an incomplete answer is better than none.
    pub async fn caught_up(&self, reader: &Reader) {
        let end = log_end(reader);
        self.wanted.notify_one();
        let mut covered = self.covered.subscribe();
        let reached = covered.wait_for(|covered| *covered >= end);
        if tokio::time::timeout(PATIENCE, reached).await.is_err() {
            tracing::warn!("the index of private messages lags behind; an answer may lack some");
        }
    }

    /// As [`caught_up`](Self::caught_up), unless so much is left to try that a sync must be going on: then an incomplete
    /// answer at once is better than a complete one late.
    pub async fn caught_up_if_near(&self, reader: &Reader) {
        if self.behind(reader) <= NEAR {
            self.caught_up(reader).await;
        }
    }

    /// Waits for the log to come to rest.
    async fn pause(&self, log: &mut watch::Receiver<u64>) {
        let latest = tokio::time::sleep(LATEST);
        tokio::pin!(latest);
        loop {
            log.borrow_and_update();
            tokio::select! {
                () = self.wanted.notified() => return,
                () = &mut latest => return,
                grew = tokio::time::timeout(IDLE, log.changed()) => if !matches!(grew, Ok(Ok(()))) { return },
            }
        }
    }

    /// A message is gone from the log, or what it said is; gives that once more.
    pub fn forget(&self, stored: &Stored) -> Option<Opened> {
        let opened = self.open_stored(stored);
        self.write_index().forget(|offset| offset == stored.offset);
        opened
    }

    /// Opens a message if it is for us. Costs next to nothing if it is known that it is not.
    pub fn open_stored(&self, stored: &Stored) -> Option<Opened> {
        let is_worth_it =
            stored.message.is_encrypted() && self.read_index().is_readable(stored.offset).unwrap_or(true);
        is_worth_it.then(|| self.keyring().open(&stored.message)).flatten()
    }

    /// The index.
    pub fn read_index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys.
    pub fn keyring(&self) -> RwLockReadGuard<'_, Keyring> {
        self.keyring.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The messages of a group that can be read, newest first, at most so many; of one type if one is given.
    pub fn of_group(
        &self,
        reader: &Reader,
        id: &GroupId,
        kind: Option<&str>,
        most: usize,
    ) -> Result<Vec<(Stored, Opened)>, ReadError> {
        let index = self.read_index();
        let mut offsets = match kind {
            Some(kind) => index.of_type(kind, 0..u64::MAX),
            None => index.of_group(id),
        };
        drop(index);
        offsets.reverse();
        let mut found = Vec::new();
        for offset in offsets {
            let Some(stored) = at(reader, offset)? else { continue };
            let opened = self.keyring().open(&stored.message);
            found.extend(opened.filter(|opened| opened.group == Some(*id)).map(|opened| (stored, opened)));
            if found.len() >= most {
                break;
            }
        }
        Ok(found)
    }

    /// Adds a group, or keys to one, and tries what nothing opened with them. Blocks.
    pub fn join(&self, reader: &Reader, id: GroupId, group: &Group) -> Result<(), JoinError> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        self.join_while(&mut pending, reader, id, group)
    }

    fn join_while(
        &self,
        pending: &mut Vec<Invitation>,
        reader: &Reader,
        id: GroupId,
        group: &Group,
    ) -> Result<(), JoinError> {
        let mut keyring = self.keyring.write().unwrap_or_else(PoisonError::into_inner);
        if !keyring.add_group(id, group)? {
            return Ok(());
        }
        self.files.save_groups(&keyring)?;
        drop(keyring);
        let sealed = self.write_index().take_sealed();
        for offsets in sealed.chunks(CHUNK) {
            let messages = offsets.iter().filter_map(|offset| at(reader, *offset).transpose());
            let messages = messages.collect::<Result<Vec<_>, _>>().map_err(IndexFailed)?;
            self.try_all(pending, reader, messages)?;
        }
        Ok(())
    }

    /// Tries all messages that were not tried yet; tells how many.
    fn catch_up(&self, reader: &Reader) -> Result<usize, JoinError> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        loop {
            let (from, end) =
                (self.read_index().until().map_or(0, |until| until.offset + 1), log_end(reader));
            let messages = reader.log(from..end, Order::Ascending).map_err(IndexFailed)?.take(CHUNK);
            let messages = messages.collect::<Result<Vec<_>, _>>().map_err(IndexFailed)?;
            let Some(last) = messages.last().map(Mark::of) else {
                // What is left, if anything, was deleted.
                self.covered.send_replace(end);
                return Ok(count);
            };
            count += messages.len();
            let arrived: Vec<MessageId> = messages.iter().map(|stored| stored.message.id()).collect();
            let sealed = messages.into_iter().filter(|stored| stored.message.is_encrypted()).collect();
            self.try_all(&mut pending, reader, sealed)?;
            self.write_index().reached(last);
            self.welcome(&mut pending, reader, &arrived)?;
            self.covered.send_replace(last.offset + 1);
        }
    }

    /// Opens what can be opened of sealed messages in the order of the log.
    fn try_all(
        &self,
        pending: &mut Vec<Invitation>,
        reader: &Reader,
        stored: Vec<Stored>,
    ) -> Result<(), JoinError> {
        let messages: Vec<Message> = stored.iter().map(|stored| stored.message.clone()).collect();
        let opened = self.keyring().open_all(&messages);
        let mut invitations = Vec::new();
        let mut index = self.write_index();
        for (stored, opened) in stored.iter().zip(opened) {
            match opened {
                Some(opened) => {
                    index.add(stored.offset, &opened);
                    invitations.extend(self.keyring().invitation(&opened));
                }
                None if is_envelope(&stored.message) => index.add_sealed(stored.offset),
                None => {}
            }
        }
        drop(index);
        for invitation in invitations {
            self.accept(pending, reader, invitation)?;
        }
        Ok(())
    }

    /// Joins a group if the invitation proves itself, now or when the group's first message is here.
    fn accept(
        &self,
        pending: &mut Vec<Invitation>,
        reader: &Reader,
        invitation: Invitation,
    ) -> Result<(), JoinError> {
        match reader.get(&invitation.group.root).map_err(IndexFailed)? {
            Some(root) if invitation.is_proven_by(&root.message) => {
                let joined = self.join_while(pending, reader, invitation.id, &invitation.group);
                match joined {
                    Err(JoinError::Full(full)) => {
                        tracing::warn!(%full, "an invitation to a group is ignored")
                    }
                    other => other?,
                }
            }
            Some(_) => tracing::info!("an invitation to a group whose key is not the group's is ignored"),
            None if pending.len() < MAX_PENDING && !pending.contains(&invitation) => pending.push(invitation),
            None => {}
        }
        Ok(())
    }

    /// The first messages of groups may be among those that have arrived.
    fn welcome(
        &self,
        pending: &mut Vec<Invitation>,
        reader: &Reader,
        arrived: &[MessageId],
    ) -> Result<(), JoinError> {
        if pending.is_empty() {
            return Ok(());
        }
        let is_ready = |invitation: &mut Invitation| arrived.contains(&invitation.group.root);
        let ready: Vec<_> = pending.extract_if(.., is_ready).collect();
        ready.into_iter().try_for_each(|invitation| self.accept(pending, reader, invitation))
    }

    /// Invitations of earlier runs: some may still wait, and the keys' file may be gone.
    fn recall_invitations(&self, reader: &Reader) -> Result<usize, JoinError> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let offsets = self.read_index().of_type(groups::ADD_MEMBER, 0..u64::MAX);
        for offset in &offsets {
            let Some(stored) = at(reader, *offset).map_err(IndexFailed)? else { continue };
            let invitation = {
                let keyring = self.keyring();
                keyring.open(&stored.message).and_then(|opened| keyring.invitation(&opened))
            };
            if let Some(invitation) = invitation {
                self.accept(&mut pending, reader, invitation)?;
            }
        }
        Ok(offsets.len())
    }

    fn write_index(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    async fn save(self: &Arc<Self>) {
        let private = Arc::clone(self);
        let saved = tokio::task::spawn_blocking(move || {
            let bytes = private.read_index().to_bytes(&private.own);
            bytes.map_or(Ok(()), |bytes| private.files.save_index(&bytes))
        });
        if let Ok(Err(error)) = saved.await {
            tracing::warn!(%error, "the index of private messages was not saved; the next start tries them again");
        }
    }

    /// Runs `work` off the runtime's threads; a failure is told to the operator.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, JoinError> + Send + 'static,
    ) -> Option<T> {
        let private = Arc::clone(self);
        match tokio::task::spawn_blocking(move || work(&private)).await {
            Ok(Ok(done)) => Some(done),
            Ok(Err(error)) => {
                tracing::error!(%error, "private messages are not complete");
                None
            }
            Err(panicked) => {
                tracing::error!(%panicked, "indexing private messages failed");
                None
            }
        }
    }
}

/// Why a group cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// There is no room.
    #[error(transparent)]
    Full(#[from] hawsepipe_replication::private::GroupFull),
    /// The keys cannot be saved.
    #[error("the keys of groups cannot be saved: {0}")]
    Io(#[from] io::Error),
    /// The log cannot be read.
    #[error(transparent)]
    Index(#[from] IndexFailed),
}

/// The message at an offset, if there still is one.
pub fn at(reader: &Reader, offset: u64) -> Result<Option<Stored>, ReadError> {
    reader.log(offset..=offset, Order::Ascending)?.next().transpose()
}

fn is_envelope(message: &Message) -> bool {
    message.content_json().ends_with(".box2\"")
}

/// Whether an index is of this log: the message that it ends with is where it says.
fn is_of(reader: &Reader, index: &Index) -> bool {
    index.until().is_some_and(|until| {
        let stored = reader.get(&until.id).ok().flatten();
        stored.is_some_and(|stored| stored.offset == until.offset)
    })
}
