//! Moving out: messages as lines of JSON, and backups of everything that makes a node somebody's.
//!
//! A backup is a folder, or the same as a tar archive, and what is in it can be read without Hawsepipe:
//!
//! ```text
//! backup.json       {"version":1,"id":FEED,"sequence":N,"made":MS}
//! secret            as in the data folder, mode 0600
//! messages.jsonl    {"key":…,"value":…,"timestamp":…} a line, in the order of reception
//! conn.json config  as in the data folder
//! blobs/sha256/…    if they were asked for
//! ```
//!
//! It may be made again into the same folder: files are replaced one by one, each as a whole, the messages last, and
//! `backup.json` says how far the own feed was. Messages whose contents were deleted are not in it, and without them what
//! follows in their feeds cannot be imported again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use hawsepipe_replication::refs::FeedId;
use serde::{Deserialize, Serialize};

use crate::datadir::{self, DataDir};
use crate::identity;
use crate::import::{self, By};

/// The file with the messages of a backup.
pub const MESSAGES: &str = "messages.jsonl";
/// The file that says that a folder is a backup.
pub const BACKUP: &str = "backup.json";
/// The form of backups.
const VERSION: u32 = 1;

/// What `backup.json` says.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Label {
    version: u32,
    /// Whose backup it is.
    pub id: FeedId,
    /// The newest message of that feed when it was made.
    pub sequence: u64,
    /// When, in milliseconds since 1970.
    pub made: u64,
}

impl Label {
    /// Of a backup that is made at `made`.
    pub fn new(id: FeedId, sequence: u64, made: u64) -> Self {
        Self { version: VERSION, id, sequence, made }
    }

    /// Reads the label of a folder; nothing if it is no backup or one of a later form.
    pub fn read(dir: &Path) -> Option<Self> {
        let text = fs::read(dir.join(BACKUP)).ok()?;
        serde_json::from_slice(&text).ok().filter(|label: &Self| label.version == VERSION)
    }
}

/// Copies everything of a data folder but the messages into a backup; says how many blobs were new.
pub fn files(from: &DataDir, to: &Path, blobs: Option<By>) -> Result<u64, ExportError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(to);
    made.map_err(ExportError::io(to))?;
    let keypair = identity::read_secret(from.path())?.ok_or(ExportError::NoSecret)?;
    let secret = to.join("secret");
    replace(&secret, identity::secret_text(&keypair).as_bytes(), 0o600).map_err(ExportError::io(&secret))?;
    for name in ["conn.json", "config"] {
        let (source, target) = (from.path().join(name), to.join(name));
        match fs::read(&source) {
            Ok(text) => replace(&target, &text, 0o600).map_err(ExportError::io(&target))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(ExportError::io(&source)(error)),
        }
    }
    let Some(by) = blobs else { return Ok(0) };
    let copied = import::take_blobs(&from.blobs(), &to.join("blobs"), by, &mut |_, _| {});
    Ok(copied.map_err(|error| ExportError::Blobs(error.to_string()))?.taken)
}

/// Ends a backup.
pub fn seal(to: &Path, label: &Label) -> Result<(), ExportError> {
    let path = to.join(BACKUP);
    let text = serde_json::to_vec(label).unwrap_or_default();
    datadir::write_atomic(&path, &text).map_err(ExportError::io(&path))
}

/// Makes an archive of a backup.
pub fn pack(backup: &Path, file: &Path) -> Result<(), ExportError> {
    let write = || {
        let mut tar = tar::Builder::new(NewFile::create(file)?);
        tar.append_dir_all("", backup)?;
        tar.into_inner()?.finish()
    };
    write().map_err(ExportError::io(file))
}

/// Makes a backup of an archive again, in the folder `to`. Whatever the archive says, nothing is written elsewhere.
pub fn unpack(file: &Path, to: &Path) -> io::Result<()> {
    tar::Archive::new(BufReader::new(File::open(file)?)).unpack(to)
}

/// Whether a file is such an archive.
pub fn is_archive(file: &Path) -> bool {
    /// Where the mark is.
    const AT: u64 = 257;
    let mut mark = [0; 5];
    let read = File::open(file).and_then(|file| file.read_exact_at(&mut mark, AT));
    read.is_ok() && &mark == b"ustar"
}

/// A file that is written anew, and has its name only when it is whole.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    temp: PathBuf,
    out: BufWriter<File>,
}

impl NewFile {
    /// Begins to write what will be `path`.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let temp = path.with_file_name(name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
        Ok(Self { path: path.to_owned(), temp, out: BufWriter::with_capacity(1 << 20, file) })
    }

    /// Puts it on disk and gives it its name.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        fs::rename(&self.temp, &self.path)
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn replace(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temp = path.with_file_name(name);
    match fs::remove_file(&temp) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temp)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&temp, path)
}

/// Why a backup could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no identity to keep.
    #[error("this folder has no secret, so there is nothing to make a backup of")]
    NoSecret,
    /// The key file.
    #[error(transparent)]
    Key(#[from] identity::KeyError),
    /// The file system said no.
    #[error("cannot write {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The blobs.
    #[error("{0}")]
    Blobs(String),
}

impl ExportError {
    /// The file system said no about `path`.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
