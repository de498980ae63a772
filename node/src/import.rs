//! Moving in: takes over what another SSB program, or a backup of ours, left in a folder or a file: messages, blobs, known
//! peers and the identity. The original is only read.
//!
//! Order: first everything that can be refused is looked at; then a mark says that an import is under way, because
//! with half of our own feed here publishing would fork it ([`DataDir::prepare`] refuses while the mark is
//! there); then the identity, the messages, the blobs and the peers; then the mark goes. Everything can be
//! interrupted and done again, and then goes on from where it was.

mod blobs;
mod peers;
mod place;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hawsepipe_replication::import::{self as log, Log, Passed, Report};
use hawsepipe_replication::message::HmacKey;
use hawsepipe_replication::refs::FeedId;
use hawsepipe_replication::store::{OpenError, Options, Reader, Store, Writer};
use ssb_crypto::Keypair;

use crate::datadir::{self, DataDir, DataDirError};
use crate::export::Label;
use crate::forks::{Forks, Origin};
use crate::identity::{self, KeyError};

pub use blobs::{Blobs, By, import as take_blobs};
pub use place::{Place, PlaceError, Source};

/// What is under way, for a progress bar: messages by bytes read, then blobs by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Our own log is indexed.
    Opening(u64, u64),
    /// Bytes of the log with this place among all logs of the folder.
    Messages(u64, u64),
    /// Files.
    Blobs(u64, u64),
}

/// What is to be imported, and how.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Where from.
    pub place: &'a Place,
    /// Where to.
    pub to: &'a DataDir,
    /// The network's signing key, if it has one.
    pub hmac: Option<&'a HmacKey>,
    /// Whether to leave its identity alone: somebody else's messages are wanted.
    pub without_secret: bool,
    /// The time now, milliseconds since 1970.
    pub now: f64,
}

/// What became of everything.
#[derive(Clone, Debug, Default)]
pub struct Imported {
    /// Each log, and what became of its messages.
    pub logs: Vec<(Source, Report)>,
    /// What became of the blobs.
    pub blobs: Blobs,
    /// Addresses of peers that we did not know.
    pub peers: usize,
    /// Whose identity this folder has now, if it has one.
    pub own: Option<FeedId>,
    /// The newest message of that feed.
    pub own_sequence: u64,
    /// How many messages of that feed the backup was made with; 0 if it is none.
    pub own_promised: u64,
    /// Whether the identity came with this import.
    pub is_new_identity: bool,
}

impl Imported {
    /// Whether messages of our own feed may be missing: then the next one that we publish may fork it.
    pub fn own_may_be_behind(&self) -> bool {
        let own = |report: &Report| self.own.is_some_and(|own| report.unplaced.contains_key(&own));
        let is_incomplete = self.logs.iter().any(|(_, report)| report.damages > 0 || own(report));
        self.own.is_some() && (is_incomplete || self.own_sequence < self.own_promised)
    }

    /// Records that were passed over, by reason.
    pub fn passed(&self) -> BTreeMap<Passed, u64> {
        let mut all = BTreeMap::new();
        for (passed, count) in self.logs.iter().flat_map(|(_, report)| &report.passed) {
            *all.entry(*passed).or_default() += count;
        }
        all
    }
}

/// Why an import was refused or came to an end.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Nothing to import.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Somebody writes there.
    #[error(
        "{path} is in use by a running server: stop it first, or what it publishes meanwhile forks the feed"
    )]
    Running {
        /// The folder.
        path: PathBuf,
    },
    /// Two identities.
    #[error(
        "{from} is the identity {theirs}, and {to} is {ours} already: nothing was changed. Import it into a folder of \
         its own (--path DIR), or only its messages and blobs (--without-secret)"
    )]
    OtherIdentity {
        /// The foreign folder.
        from: PathBuf,
        /// Its owner.
        theirs: FeedId,
        /// Our folder.
        to: PathBuf,
        /// Our identity.
        ours: FeedId,
    },
    /// A key file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Our folder.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Our store, perhaps in use by a running node.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A log.
    #[error("{path}: {source}")]
    Log {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: log::ImportError,
    },
    /// The file system said no.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ImportError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// Imports everything. `progress` hears how far it is.
pub fn run(plan: &Plan<'_>, progress: &mut dyn FnMut(Progress)) -> Result<Imported, ImportError> {
    let Plan { place, to, .. } = *plan;
    if let Some(path) = place.dir().filter(|dir| has_server(dir)) {
        return Err(ImportError::Running { path: path.to_owned() });
    }
    let theirs = foreign_secret(plan)?;
    let ours = identity::read_secret(to.path())?;
    let adopted = agree(plan, theirs, ours.as_ref())?;
    to.clone().create()?;
    let opened = Store::open(&to.store(), &Options::default(), &mut |done, all| {
        progress(Progress::Opening(done, all))
    });
    let (mut writer, reader) = opened?;
    let own = adopted.as_ref().or(ours.as_ref()).map(|keypair| FeedId::from_bytes(keypair.public.0));
    // Lines from somewhere seldom hold more of our own feed than we do.
    let is_own_here = own.is_some_and(|own| reader.tip(&own).is_some());
    if !is_own_here || (place.dir().is_some() && !plan.without_secret) {
        mark(to, place)?;
    }
    if let Some(keypair) = &adopted {
        identity::create_secret(to.path(), keypair)?;
    }
    let mut imported = Imported { own, is_new_identity: adopted.is_some(), ..Imported::default() };
    for source in place.sources() {
        let report = messages(plan, source, (&mut writer, &reader), progress)?;
        keep_forks(plan, &report)?;
        imported.logs.push((source.clone(), report));
    }
    imported.own_sequence = own.and_then(|own| reader.tip(&own)).map_or(0, |tip| tip.sequence);
    if let Some(dir) = place.dir() {
        let label = Label::read(dir).filter(|label| Some(label.id) == own);
        imported.own_promised = label.map_or(0, |label| label.sequence);
        let blobs = blobs::import(&dir.join("blobs"), &to.blobs(), By::Link, &mut |done, all| {
            progress(Progress::Blobs(done, all));
        });
        imported.blobs = blobs?;
        imported.peers = peers::import(dir, to)?;
    }
    drop(writer);
    unmark(to)?;
    Ok(imported)
}

/// Whether a server listens on the socket in a folder: JavaScript's servers have no other lock.
fn has_server(dir: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(dir.join("socket")).is_ok()
}

fn foreign_secret(plan: &Plan<'_>) -> Result<Option<Keypair>, ImportError> {
    match plan.place.dir() {
        Some(dir) if !plan.without_secret => Ok(identity::read_foreign_secret(dir)?),
        Some(_) | None => Ok(None),
    }
}

/// The identity that our folder gets, if it gets one.
fn agree(
    plan: &Plan<'_>,
    theirs: Option<Keypair>,
    ours: Option<&Keypair>,
) -> Result<Option<Keypair>, ImportError> {
    let (Some(theirs), Some(ours)) = (&theirs, ours) else { return Ok(theirs) };
    if theirs.public.0 == ours.public.0 {
        return Ok(None);
    }
    Err(ImportError::OtherIdentity {
        from: plan.place.path().to_owned(),
        theirs: FeedId::from_bytes(theirs.public.0),
        to: plan.to.path().to_owned(),
        ours: FeedId::from_bytes(ours.public.0),
    })
}

/// Says that an import is under way.
fn mark(to: &DataDir, place: &Place) -> Result<(), ImportError> {
    let text = format!("{}\n", place.path().display());
    let file = to.importing();
    let marked = datadir::write_atomic(&file, text.as_bytes()).and_then(|()| sync_folder(&to.store()));
    marked.map_err(ImportError::io("write", &file))
}

fn unmark(to: &DataDir) -> Result<(), ImportError> {
    let file = to.importing();
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ImportError::io("remove", &file)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn sync_folder(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

fn messages(
    plan: &Plan<'_>,
    source: &Source,
    (writer, reader): (&mut Writer, &Reader),
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, ImportError> {
    let into = log::Into { writer, reader, hmac: plan.hmac, now: plan.now };
    let (mut is_first, temp) = (true, plan.to.store().join("import.new"));
    let mut open = || {
        let opened: io::Result<Option<Box<dyn Log + Send>>> = source.open(is_first, &temp);
        is_first = false;
        opened
    };
    let done = log::import(&mut open, into, &mut |done, all| progress(Progress::Messages(done, all)));
    done.map_err(|error| ImportError::Log { path: source.path().to_owned(), source: error })
}

/// Keeps the proofs of forks as the node keeps them.
fn keep_forks(plan: &Plan<'_>, report: &Report) -> Result<(), ImportError> {
    let forks = Forks::load(plan.to.forks(), plan.hmac);
    for fork in &report.forks {
        // Nobody sent it: it was here, in whatever form.
        let from = fork.feed();
        if let Some((path, text)) = forks.add(Origin { from, seen: plan.now }, fork.clone()) {
            datadir::write_atomic(&path, &text).map_err(ImportError::io("write", &path))?;
        }
    }
    Ok(())
}
