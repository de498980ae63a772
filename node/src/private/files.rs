//! The files of private messages.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hawsepipe_replication::private::envelope::{Scheme, SlotKey};
use hawsepipe_replication::private::{Group, Index, Keyring};
use hawsepipe_replication::refs::{FeedId, GroupId, MessageId};
use serde::{Deserialize, Serialize};

use crate::datadir::write_secret;

/// A group in the file of keys.
#[derive(Deserialize, Serialize)]
struct Entry {
    id: GroupId,
    root: MessageId,
    keys: Vec<String>,
}

/// The folder of both files.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    /// Makes the folder if it is not there.
    pub(super) fn at(dir: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { dir })
    }

    /// The groups whose keys are known. What cannot be read comes back from the messages that brought it.
    pub(super) fn groups(&self) -> Vec<(GroupId, Group)> {
        let path = self.dir.join("keys");
        let Ok(text) = fs::read(&path) else { return Vec::new() };
        let Ok(entries) = serde_json::from_slice::<Vec<Entry>>(&text) else {
            tracing::warn!(path = %path.display(), "the file of group keys is damaged; they are looked for in the log");
            return Vec::new();
        };
        entries.into_iter().filter_map(read_entry).collect()
    }

    /// Writes all groups.
    pub(super) fn save_groups(&self, keyring: &Keyring) -> io::Result<()> {
        let encode = |key: &SlotKey| STANDARD.encode(key.to_bytes());
        let entries = keyring.groups().map(|(id, group)| Entry {
            id: *id,
            root: group.root,
            keys: group.keys.iter().map(encode).collect(),
        });
        let text = serde_json::to_vec(&entries.collect::<Vec<_>>()).expect("ids and texts are JSON");
        write_secret(&self.dir.join("keys"), &text)
    }

    /// The index of an earlier run, if it can be read.
    pub(super) fn index(&self, own: &FeedId) -> Option<Index> {
        Index::from_bytes(&fs::read(self.dir.join("index")).ok()?, own).ok()
    }

    /// Writes the index.
    pub(super) fn save_index(&self, bytes: &[u8]) -> io::Result<()> {
        write_secret(&self.dir.join("index"), bytes)
    }
}

fn read_entry(entry: Entry) -> Option<(GroupId, Group)> {
    let decode =
        |key: &String| Some(SlotKey::new(Scheme::Group, STANDARD.decode(key).ok()?.try_into().ok()?));
    let keys: Option<Vec<_>> = entry.keys.iter().map(decode).collect();
    Some((entry.id, Group { root: entry.root, keys: keys? }))
}
