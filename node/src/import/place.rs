//! What lies in the folder or the file that somebody wants to import.

use std::io;
use std::path::{Path, PathBuf};

use hawsepipe_replication::import::{Db2Log, FlumeLog, GoSsbLog, Lines, Log, SolarLog};

use crate::export::{BACKUP, MESSAGES};

/// One log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `flume/log.offset` of ssb-server.
    Flume(PathBuf),
    /// `db2/log.bipf` of ssb-db2.
    Db2(PathBuf),
    /// The folder `log` of go-ssb.
    GoSsb(PathBuf),
    /// The folder `database` of solar.
    Solar(PathBuf),
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
            Self::GoSsb(_) => "go-ssb's log",
            Self::Solar(_) => "solar's database",
            Self::Lines(_) | Self::Stdin => "lines of JSON",
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Flume(path)
            | Self::Db2(path)
            | Self::GoSsb(path)
            | Self::Solar(path)
            | Self::Lines(path) => path,
            Self::Stdin => Path::new("-"),
        }
    }

    /// Opens it for reading, with a copy in the folder `temp` if need be; nothing if it can be read only once and was.
    pub fn open(&self, is_first: bool, temp: &Path) -> io::Result<Option<Box<dyn Log + Send>>> {
        Ok(match self {
            Self::Flume(path) => Some(Box::new(FlumeLog::open(path)?)),
            Self::Db2(path) => Some(Box::new(Db2Log::open(path)?)),
            Self::GoSsb(path) => Some(Box::new(GoSsbLog::open(path)?)),
            Self::Solar(path) => Some(Box::new(SolarLog::open(path, temp)?)),
            Self::Lines(path) => Some(Box::new(Lines::open(path)?)),
            Self::Stdin if is_first => Some(Box::new(Lines::of(io::stdin()))),
            Self::Stdin => None,
        })
    }
}

/// The file that shows a log, the file or folder that is the log, and which kind it is.
type Kind = (&'static str, &'static str, fn(PathBuf) -> Source);

const KNOWN: [Kind; 5] = [
    ("flume/log.offset", "flume/log.offset", Source::Flume),
    ("db2/log.bipf", "db2/log.bipf", Source::Db2),
    ("log/data", "log", Source::GoSsb),
    ("database/db", "database", Source::Solar),
    (MESSAGES, MESSAGES, Source::Lines),
];

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
    /// Nothing that we know.
    #[error(
        "{path} holds nothing to import: neither flume/log.offset (ssb-server) nor db2/log.bipf (ssb-db2, Manyverse) nor \
         log/data (go-ssb) nor database (solar) nor messages.jsonl (a backup of Hawsepipe)"
    )]
    Nothing {
        /// The folder.
        path: PathBuf,
    },
}

/// A place with something to import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What was asked for.
    path: PathBuf,
    /// Where it is: elsewhere if it came out of an archive.
    at: PathBuf,
    is_folder: bool,
    sources: Vec<Source>,
}

impl Place {
    /// Looks at a folder or a file; `-` is standard input.
    pub fn look(path: &Path) -> Result<Self, PlaceError> {
        let failed = |source| PlaceError::Io { path: path.to_owned(), source };
        if path == Path::new("-") {
            return Ok(Self::new(path.to_owned(), false, vec![Source::Stdin]));
        }
        let path = path.canonicalize().map_err(failed)?;
        if !path.is_dir() {
            let sources = vec![file(&path)];
            return Ok(Self::new(path, false, sources));
        }
        let there = KNOWN.into_iter().filter(|(evidence, ..)| path.join(evidence).is_file());
        let sources: Vec<Source> = there.map(|(_, log, source)| source(path.join(log))).collect();
        if sources.is_empty() { Err(nothing(path)) } else { Ok(Self::new(path, true, sources)) }
    }

    fn new(path: PathBuf, is_folder: bool, sources: Vec<Source>) -> Self {
        Self { at: path.clone(), path, is_folder, sources }
    }

    /// The same, which came out of the archive `path` if it is not `path` itself.
    pub fn called(self, path: &Path) -> Self {
        Self { path: path.canonicalize().unwrap_or_else(|_| path.to_owned()), ..self }
    }

    /// What was asked for, in full.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder, if it is one.
    pub fn dir(&self) -> Option<&Path> {
        self.is_folder.then_some(&self.at)
    }

    /// The logs in it, in the order in which they are to be read.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Whether it is a backup that Hawsepipe made.
    pub fn is_backup(&self) -> bool {
        self.is_folder && self.at.join(BACKUP).is_file()
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
    PlaceError::Nothing { path }
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
        let dir = folder(&["log/data", "log/ofst", "database/db", "db2/log.bipf"]);
        let place = Place::look(dir.path()).unwrap();
        let names: Vec<_> = place.sources().iter().map(Source::name).collect();
        assert_eq!(names, ["ssb-db2's log", "go-ssb's log", "solar's database"]);
        assert!(place.sources()[1].path().ends_with("log"));
        let file = Place::look(&dir.path().join("db2/log.bipf")).unwrap();
        assert!(matches!(file.sources(), [Source::Db2(_)]) && file.dir().is_none());
        assert_eq!(Place::look(Path::new("-")).unwrap().sources(), [Source::Stdin]);
    }

    #[test]
    fn what_cannot_be_imported_is_told_apart() {
        let look = |files| Place::look(folder(files).path()).unwrap_err();
        assert!(matches!(look(&["hawsepipe/log/0.log"]), PlaceError::Ours { .. }));
        assert!(matches!(look(&["secret"]), PlaceError::Nothing { .. }));
        assert!(matches!(Place::look(Path::new("/no/such")), Err(PlaceError::Io { .. })));
    }
}
