//! The data folder: shared by convention with other SSB programs, hence the care.
//!
//! Ours in it: `secret` (shared form), `node-key`, `socket`, `manifest.json`, `conn.json`, `ebt/`, `blobs/`
//! (all in JS's form) and `hawsepipe/` with the log and its indexes. If another program's log lies here and none of
//! ours, the newest message of this identity is in *that* log: publishing here would fork its owner's feed,
//! so the folder is refused and nothing in it is touched until `hawsepipe import` has taken that log over. An import
//! that was not finished leaves a mark, and the folder is refused as long as it is there.

use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It holds another server's messages and none of ours.
    #[error(
        "{path} holds the messages of {server} ({evidence}) and none of Hawsepipe's: publishing here would \
         fork this identity. Nothing was changed. Take them over with  hawsepipe --path '{path}' import '{path}'  \
         or use another folder (--path DIR)"
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Whose store it is.
        server: &'static str,
        /// The file that shows it.
        evidence: &'static str,
    },
    /// An import has begun and not ended: the newest message of this identity may still be in the other log.
    #[error(
        "the import of {from} into {path} was not finished, and publishing now could fork this identity: run \
         hawsepipe --path '{path}' import '{from}'  again, it goes on where it was. If it cannot be finished, remove \
         {path}/hawsepipe/importing and do not publish before a friend's peer has given your feed back"
    )]
    Unfinished {
        /// The folder.
        path: PathBuf,
        /// What was being imported.
        from: String,
    },
    /// The file system said no.
    #[error("cannot create {path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Files that only another server writes.
const FOREIGN: &[(&str, &str)] = &[
    ("flume/log.offset", "JS ssb-server"),
    ("flume", "JS ssb-server"),
    ("db2/log.bipf", "JS ssb-db2"),
    ("db2", "JS ssb-db2"),
    ("log/data", "go-ssb"),
    ("log/jrnl", "go-ssb"),
    ("indexes", "go-ssb"),
    ("secret.toml", "solar"),
    ("database", "solar"),
];

/// Paths inside a data folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// Names the folder without touching it.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Refuses a folder with another server's store, then creates what is missing.
    pub fn prepare(path: &Path) -> Result<Self, DataDirError> {
        let dir = Self::at(path);
        if !dir.store().join("log").exists()
            && let Some((evidence, server)) = FOREIGN.iter().find(|(file, _)| path.join(file).exists())
        {
            return Err(DataDirError::Foreign { path: path.to_owned(), server, evidence });
        }
        if let Ok(from) = fs::read_to_string(dir.importing()) {
            return Err(DataDirError::Unfinished { path: path.to_owned(), from: from.trim_end().to_owned() });
        }
        dir.create()
    }

    /// Creates what is missing, whoever else has a store here: for an import.
    pub fn create(self) -> Result<Self, DataDirError> {
        let dir = self;
        for part in [dir.0.clone(), dir.store(), dir.ebt(), dir.forks()] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&part);
            made.map_err(|source| DataDirError::Io { path: part, source })?;
        }
        Ok(dir)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The log and its indexes.
    pub fn store(&self) -> PathBuf {
        self.0.join("hawsepipe")
    }

    /// What peers were last known to have, one file a peer.
    pub fn ebt(&self) -> PathBuf {
        self.0.join("ebt")
    }

    /// Proofs that feeds are forked, one file a feed.
    pub fn forks(&self) -> PathBuf {
        self.store().join("forks")
    }

    /// Messages that were fetched out of order; may be deleted.
    pub fn ooo(&self) -> PathBuf {
        self.store().join("ooo.jsonl")
    }

    /// The social graph as the log told it until some message; without it all contact messages are read.
    pub fn graph(&self) -> PathBuf {
        self.store().join("graph")
    }

    /// Keys and index of private messages.
    pub fn private(&self) -> PathBuf {
        self.store().join("private")
    }

    /// The index of full-text search; may be deleted.
    pub fn search(&self) -> PathBuf {
        self.store().join("search")
    }

    /// What was published from here; see [`continuity`](crate::continuity).
    pub fn continuity(&self) -> PathBuf {
        self.store().join("continuity")
    }

    /// The file that tells this folder from a copy of it.
    pub fn anchor(&self) -> PathBuf {
        self.store().join("anchor")
    }

    /// Logs of other servers that are in the folder, and whose they are.
    pub fn foreign_logs(&self) -> impl Iterator<Item = (PathBuf, &'static str)> {
        FOREIGN.iter().map(|(file, server)| (self.0.join(file), *server)).filter(|(path, _)| path.exists())
    }

    /// Says from where an import is under way or was interrupted.
    pub fn importing(&self) -> PathBuf {
        self.store().join("importing")
    }

    /// The blobs, in JS's layout.
    pub fn blobs(&self) -> PathBuf {
        self.0.join("blobs")
    }

    /// Removes [`DataDir::graph`] and the index of private messages after messages were taken out of the log: they
    /// may have heard of them.
    pub fn forget_graph(&self) -> io::Result<()> {
        for file in [self.graph(), self.private().join("index")] {
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Which blobs must stay.
    pub fn blob_marks(&self) -> PathBuf {
        self.store().join("blobs")
    }

    /// The socket of local clients.
    pub fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }

    /// The methods a client may call.
    pub fn manifest(&self) -> PathBuf {
        self.0.join("manifest.json")
    }

    /// Known peers.
    pub fn conn(&self) -> PathBuf {
        self.0.join("conn.json")
    }

    /// Known peers as ssb-gossip kept them.
    pub fn gossip(&self) -> PathBuf {
        self.0.join("gossip.json")
    }

    /// Nodes of the DHT to begin with.
    pub fn dht(&self) -> PathBuf {
        self.store().join("dht.json")
    }

    /// What keys of local clients may do.
    pub fn grants(&self) -> PathBuf {
        self.store().join("grants.json")
    }
}

/// Replaces `path` with `contents` so that a reader or a crash sees the old file or the new, never a part.
pub fn write_atomic(path: &Path, contents: &[u8]) -> io::Result<()> {
    replace(path, contents, 0o644)
}

/// As [`write_atomic`], for the eyes of its owner only.
pub fn write_secret(path: &Path, contents: &[u8]) -> io::Result<()> {
    replace(path, contents, 0o600)
}

fn replace(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temp = path.with_file_name(name);
    // What a crash left of it may have another mode.
    let _ = fs::remove_file(&temp);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temp)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&temp, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_servers_folder_is_refused_untouched() {
        for (file, _) in FOREIGN {
            let dir = tempfile::tempdir().unwrap();
            let evidence = dir.path().join(file);
            fs::create_dir_all(evidence.parent().unwrap()).unwrap();
            fs::write(&evidence, b"theirs").unwrap();
            let before = fs::read_dir(dir.path()).unwrap().count();
            assert!(matches!(DataDir::prepare(dir.path()), Err(DataDirError::Foreign { .. })), "{file}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before);
        }
    }

    #[test]
    fn a_folder_with_an_unfinished_import_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ours = DataDir::at(dir.path()).create().unwrap();
        fs::create_dir(ours.store().join("log")).unwrap();
        fs::write(ours.importing(), "/home/somebody/.ssb\n").unwrap();
        let refused = DataDir::prepare(dir.path()).unwrap_err();
        assert!(refused.to_string().contains("import '/home/somebody/.ssb'"), "{refused}");
        fs::remove_file(ours.importing()).unwrap();
        assert!(DataDir::prepare(dir.path()).is_ok());
    }

    #[test]
    fn our_own_folder_is_used_even_beside_anothers_remains() {
        let dir = tempfile::tempdir().unwrap();
        let ours = DataDir::prepare(dir.path()).unwrap();
        fs::create_dir(ours.store().join("log")).unwrap();
        fs::create_dir(dir.path().join("flume")).unwrap();
        assert!(DataDir::prepare(dir.path()).is_ok());
    }
}
