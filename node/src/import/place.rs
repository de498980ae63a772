//! What lies in the folder or the file that somebody wants to import.

use std::io;
use std::path::{Path, PathBuf};

use hawsepipe_replication::import::{Db2Log, FlumeLog, Lines, Log};

use crate::export::{BACKUP, MESSAGES};

/// One log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `flume/log.offset` of ssb-server.
    Flume(PathBuf),
    /// `db2/log.bipf` of ssb-db2.
    Db2(PathBuf),
    /// Lines of JSON.
    Lines(PathBuf),
    /// Lines of JSON on standard input.
    Stdin,
}

impl Source {
    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Flume(_) => "ssb-server's log",
            Self::Db2(_) => "ssb-db2's log",
            Self::Lines(_) | Self::Stdin => "lines of JSON",
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Flume(path) | Self::Db2(path) | Self::Lines(path) => path,
            Self::Stdin => Path::new("-"),
        }
    }

    /// Opens it for reading; nothing if it can be read only once and was.
    pub fn open(&self, is_first: bool) -> io::Result<Option<Box<dyn Log + Send>>> {
        Ok(match self {
            Self::Flume(path) => Some(Box::new(FlumeLog::open(path)?)),
            Self::Db2(path) => Some(Box::new(Db2Log::open(path)?)),
            Self::Lines(path) => Some(Box::new(Lines::open(path)?)),
            Self::Stdin if is_first => Some(Box::new(Lines::of(io::stdin()))),
            Self::Stdin => None,
        })
    }
}

/// Why there is nothing to import.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Not there, or not to be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// What was asked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Our own store.
    #[error(
        "{path} is a folder of Hawsepipe: make a backup of it (hawsepipe --path '{path}' backup DIR) and import that"
    )]
    Ours {
        /// The folder.
        path: PathBuf,
    },
    /// Another server whose format we do not read.
    #[error("{path} holds the messages of {server}, which cannot be read: {advice}")]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// Whose store it is.
        server: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// Nothing that we know.
    #[error(
        "{path} holds nothing to import: neither flume/log.offset (ssb-server) nor db2/log.bipf (ssb-db2, Manyverse) \
         nor messages.jsonl (a backup of Hawsepipe)"
    )]
    Nothing {
        /// The folder.
        path: PathBuf,
    },
}

/// A place with something to import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    path: PathBuf,
    is_folder: bool,
    sources: Vec<Source>,
}

impl Place {
    /// Looks at a folder or a file; `-` is standard input.
    pub fn look(path: &Path) -> Result<Self, PlaceError> {
        let failed = |source| PlaceError::Io { path: path.to_owned(), source };
        if path == Path::new("-") {
            return Ok(Self { path: path.to_owned(), is_folder: false, sources: vec![Source::Stdin] });
        }
        let path = path.canonicalize().map_err(failed)?;
        if !path.is_dir() {
            let sources = vec![file(&path)];
            return Ok(Self { path, is_folder: false, sources });
        }
        let known: [(&str, fn(PathBuf) -> Source); 3] =
            [("flume/log.offset", Source::Flume), ("db2/log.bipf", Source::Db2), (MESSAGES, Source::Lines)];
        let sources = known.into_iter().map(|(name, source)| (path.join(name), source));
        let sources: Vec<Source> =
            sources.filter(|(file, _)| file.is_file()).map(|(file, source)| source(file)).collect();
        if sources.is_empty() { Err(nothing(path)) } else { Ok(Self { path, is_folder: true, sources }) }
    }

    /// What was asked for, in full.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder, if it is one.
    pub fn dir(&self) -> Option<&Path> {
        self.is_folder.then_some(&self.path)
    }

    /// The logs in it, in the order in which they are to be read.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Whether it is a backup that Hawsepipe made.
    pub fn is_backup(&self) -> bool {
        self.is_folder && self.path.join(BACKUP).is_file()
    }
}

/// A single file, by its name.
fn file(path: &Path) -> Source {
    match path.extension().and_then(|kind| kind.to_str()) {
        Some("offset") => Source::Flume(path.to_owned()),
        Some("bipf") => Source::Db2(path.to_owned()),
        Some(_) | None => Source::Lines(path.to_owned()),
    }
}

fn nothing(path: PathBuf) -> PlaceError {
    if path.join("hawsepipe/log").is_dir() {
        return PlaceError::Ours { path };
    }
    const ADVICE: &str =
        "let a node of yours replicate from it while it still runs (hawsepipe connect ADDRESS)";
    let unreadable = [("log/data", "go-ssb"), ("database", "solar"), ("secret.toml", "solar")];
    match unreadable.into_iter().find(|(file, _)| path.join(file).exists()) {
        Some((_, server)) => PlaceError::Unreadable { path, server, advice: ADVICE },
        None => PlaceError::Nothing { path },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        dir
    }

    #[test]
    fn logs_are_known_by_where_they_lie() {
        let dir = folder(&["flume/log.offset", "db2/log.bipf", "messages.jsonl", "secret"]);
        let place = Place::look(dir.path()).unwrap();
        let names: Vec<_> = place.sources().iter().map(Source::name).collect();
        assert_eq!(names, ["ssb-server's log", "ssb-db2's log", "lines of JSON"]);
        assert!(place.dir().is_some() && !place.is_backup());
        let file = Place::look(&dir.path().join("db2/log.bipf")).unwrap();
        assert!(matches!(file.sources(), [Source::Db2(_)]) && file.dir().is_none());
        assert_eq!(Place::look(Path::new("-")).unwrap().sources(), [Source::Stdin]);
    }

    #[test]
    fn what_cannot_be_imported_is_told_apart() {
        let look = |files| Place::look(folder(files).path()).unwrap_err();
        assert!(matches!(look(&["hawsepipe/log/0.log"]), PlaceError::Ours { .. }));
        assert!(matches!(look(&["database/db"]), PlaceError::Unreadable { server: "solar", .. }));
        assert!(matches!(look(&["secret"]), PlaceError::Nothing { .. }));
        assert!(matches!(Place::look(Path::new("/no/such")), Err(PlaceError::Io { .. })));
    }
}
