//! The record that this folder has been the only place of its identity: how a start tells a folder that simply
//! went on from one that was copied, or restored from a backup.
//!
//! ```text
//! hawsepipe/anchor       a random text; made anew by every start and stop, so never the same file twice
//! hawsepipe/continuity   whose feed, how long it was and its newest message, and which file the anchor was
//! ```
//!
//! What always holds:
//! - The record is written only while the [fork guard](crate::fork_guard) lets messages be published.
//! - It never says more than the log holds, and after a clean stop exactly that.
//! - An anchor that was written by anybody else, by copying, unpacking or restoring, has another inode or another
//!   time of change (ctime), which no program can choose.
//!
//! Changing the mode or owner of the files looks like a copy, too; then peers are asked, and that is all.
//!
//! What it cannot see: a whole file system that is set back or cloned with the node in it (snapshots of virtual
//! machines), and a restore that leaves both files alone. There only the claims of peers help.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use hawsepipe_replication::message::Tip;
use hawsepipe_replication::refs::{FeedId, MessageId};
use hawsepipe_replication::store::Reader;
use serde::{Deserialize, Serialize};
use ssb_crypto::Keypair;

use crate::datadir::{DataDir, write_atomic};
use crate::fork_guard::{Doubt, Standing};

/// Which file the anchor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Anchor {
    inode: u64,
    changed_s: i64,
    changed_ns: i64,
}

impl Anchor {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        Ok(Self { inode: meta.ino(), changed_s: meta.ctime(), changed_ns: meta.ctime_nsec() })
    }
}

#[derive(Debug, Deserialize, Serialize)]
struct Record {
    feed: FeedId,
    sequence: u64,
    newest: Option<MessageId>,
    anchor: Anchor,
}

/// What the folder says of the feed `own`, of which `reader` holds what is here. `is_new` is whether this start made
/// the identity.
pub fn judge(dir: &DataDir, own: FeedId, reader: &Reader, is_new: bool) -> Standing {
    if is_new {
        return Standing::New;
    }
    let found = fs::read(dir.continuity()).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
    let Some(record) = found.filter(|record| record.feed == own) else {
        return Standing::Doubtful(Doubt::Unknown);
    };
    if Anchor::of(&dir.anchor()).ok() != Some(record.anchor) {
        return Standing::Doubtful(Doubt::Copied);
    }
    if !is_held(&record, reader) {
        return Standing::Doubtful(Doubt::Lost { recorded: record.sequence });
    }
    let written = fs::metadata(dir.continuity()).and_then(|meta| meta.modified());
    match written.ok().and_then(|written| foreign_since(dir, written)) {
        Some(server) => Standing::Doubtful(Doubt::OtherServer(server)),
        None => Standing::Continuous,
    }
}

fn is_held(record: &Record, reader: &Reader) -> bool {
    match record.newest {
        None => record.sequence == 0,
        Some(newest) => {
            let held = reader.at(&record.feed, record.sequence).ok().flatten();
            held.is_some_and(|held| held.message.id() == newest)
        }
    }
}

/// Another server whose log was written later.
fn foreign_since(dir: &DataDir, time: SystemTime) -> Option<&'static str> {
    let is_later =
        |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).is_ok_and(|at| at > time);
    dir.foreign_logs().find(|(path, _)| is_later(path)).map(|(_, server)| server)
}

/// Keeps the record of one run.
#[derive(Clone, Debug)]
pub struct Keeper {
    own: FeedId,
    anchor: Anchor,
}

impl Keeper {
    /// Makes the anchor anew and records that the feed ends with `tip`.
    pub fn begin(dir: &DataDir, own: FeedId, tip: Option<Tip>) -> io::Result<Self> {
        // A throw-away key is a fresh random text.
        let nonce = Keypair::generate().public.as_base64();
        write_atomic(&dir.anchor(), nonce.as_bytes())?;
        let anchor = Anchor::of(&dir.anchor())?;
        let keeper = Self { own, anchor };
        write_atomic(&dir.continuity(), &keeper.record(tip))?;
        File::open(dir.store())?.sync_all()?;
        Ok(keeper)
    }

    /// What the record is when the feed ends with `tip`.
    pub fn record(&self, tip: Option<Tip>) -> Vec<u8> {
        let (sequence, newest) = tip.map_or((0, None), |tip| (tip.sequence, Some(tip.id)));
        let record = Record { feed: self.own, sequence, newest, anchor: self.anchor };
        serde_json::to_vec(&record).expect("ids and numbers are JSON")
    }
}

#[cfg(test)]
mod tests {
    use hawsepipe_replication::message;
    use hawsepipe_replication::store::{Options, Store, Writer};
    use tempfile::TempDir;

    use super::*;

    struct Folder {
        temp: TempDir,
        dir: DataDir,
        own: FeedId,
    }

    impl Folder {
        fn new() -> Self {
            crate::init_crypto();
            let temp = tempfile::tempdir().unwrap();
            let dir = DataDir::prepare(temp.path()).unwrap();
            Self { temp, dir, own: FeedId::from_bytes(key().public.0) }
        }

        fn open(&self) -> (Writer, Reader) {
            Store::open(&self.dir.store(), &Options::default(), &mut |_, _| {}).unwrap()
        }

        /// Publishes so many messages, and stops cleanly.
        fn run(&self, messages: usize) {
            let (mut writer, reader) = self.open();
            for _ in 0..messages {
                let tip = reader.tip(&self.own);
                let content = br#"{"type":"post","text":"x"}"#;
                let message = message::sign(&key(), None, tip.as_ref(), 1.0, content).unwrap();
                writer.commit(vec![message], 1.0).unwrap();
            }
            Keeper::begin(&self.dir, self.own, reader.tip(&self.own)).unwrap();
        }

        fn judge(&self) -> Standing {
            let (_writer, reader) = self.open();
            judge(&self.dir, self.own, &reader, false)
        }
    }

    fn key() -> Keypair {
        Keypair::from_seed(&[7; 32]).unwrap()
    }

    fn copy(from: &Path, to: &Path) {
        let done = std::process::Command::new("cp").args(["-a", "-T"]).arg(from).arg(to).status().unwrap();
        assert!(done.success());
    }

    #[test]
    fn a_folder_that_went_on_is_told_from_copies_and_backups() {
        let folder = Folder::new();
        assert_eq!(folder.judge(), Standing::Doubtful(Doubt::Unknown), "a secret from elsewhere");
        folder.run(2);
        assert_eq!(folder.judge(), Standing::Continuous);

        let backup = tempfile::tempdir().unwrap();
        copy(folder.temp.path(), backup.path());
        let copied = Folder { dir: DataDir::at(backup.path()), temp: backup, own: folder.own };
        assert_eq!(copied.judge(), Standing::Doubtful(Doubt::Copied));

        folder.run(1);
        assert_eq!(folder.judge(), Standing::Continuous);
        copy(copied.temp.path(), folder.temp.path());
        assert_eq!(folder.judge(), Standing::Doubtful(Doubt::Copied), "restored in place");
    }

    #[test]
    fn a_log_that_is_shorter_than_the_record_or_another_is_noticed() {
        let folder = Folder::new();
        folder.run(2);
        fs::remove_dir_all(folder.dir.store().join("log")).unwrap();
        assert_eq!(folder.judge(), Standing::Doubtful(Doubt::Lost { recorded: 2 }));
        let other = FeedId::from_bytes([3; 32]);
        let (_writer, reader) = folder.open();
        assert_eq!(judge(&folder.dir, other, &reader, false), Standing::Doubtful(Doubt::Unknown));
        assert_eq!(judge(&folder.dir, other, &reader, true), Standing::New);
    }

    #[test]
    fn another_server_that_wrote_here_since_is_noticed() {
        let folder = Folder::new();
        folder.run(1);
        let theirs = folder.temp.path().join("flume/log.offset");
        fs::create_dir(theirs.parent().unwrap()).unwrap();
        fs::write(&theirs, b"theirs").unwrap();
        let recorded = fs::metadata(folder.dir.continuity()).unwrap().modified().unwrap();
        let later = recorded + std::time::Duration::from_secs(5);
        File::options().write(true).open(&theirs).unwrap().set_modified(later).unwrap();
        assert_eq!(folder.judge(), Standing::Doubtful(Doubt::OtherServer("JS ssb-server")));
        folder.run(0);
        let before = recorded - std::time::Duration::from_secs(500);
        File::options().write(true).open(&theirs).unwrap().set_modified(before).unwrap();
        assert_eq!(folder.judge(), Standing::Continuous);
    }
}
