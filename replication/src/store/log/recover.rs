//! Opens the log: what is there, is it whole, where does it end. See "After a crash" in [`super`].

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, RwLock};

use super::record::Record;
use super::scan::{Scan, Step};
use super::{HEADER, HeaderState, Log, Segments};
use crate::store::disk::{Disk, DiskFile};

/// An unfinished write that was cut off the log's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Where the log ends now.
    pub offset: u64,
    /// How many bytes stood behind it.
    pub bytes: u64,
    /// The file that holds these bytes now.
    pub saved: PathBuf,
}

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The disk refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder concerned.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes that had been acknowledged are not what was written.
    #[error("{} is damaged at log offset {offset}; see what is lost with `hawsepipe check`, and go on without it with `hawsepipe check --repair` (peers send it again)", path.display())]
    Damaged {
        /// The segment file.
        path: PathBuf,
        /// The first bad offset.
        offset: u64,
    },
    /// A segment file is absent or too short.
    #[error("the log lacks offsets {from}..{to} of {}; put the file back from a backup, or go on without it with `hawsepipe check --repair`", path.display())]
    Missing {
        /// The file that should hold them.
        path: PathBuf,
        /// First offset that is missing.
        from: u64,
        /// First offset that is there again.
        to: u64,
    },
    /// Written by a newer version of this program.
    #[error("{} has log format {version}, this program reads up to 1: update it", path.display())]
    Newer {
        /// The segment file.
        path: PathBuf,
        /// Its format version.
        version: u16,
    },
}

/// The segments found in a folder.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) files: BTreeMap<u64, Arc<dyn DiskFile>>,
    end: u64,
}

impl Layout {
    /// Looks at a folder, and makes the first segment when there is none.
    pub(crate) fn read(disk: Arc<dyn Disk>) -> Result<Self, RecoverError> {
        let mut layout = Self::look(disk)?;
        if layout.files.is_empty() {
            let file = super::create_segment(&*layout.disk, 0).map_err(|e| layout.io(0, e))?;
            layout.files.insert(0, file);
            layout.end = HEADER as u64;
        }
        Ok(layout)
    }

    /// Looks at a folder and changes nothing.
    pub(crate) fn look(disk: Arc<dyn Disk>) -> Result<Self, RecoverError> {
        let failed = |source| RecoverError::Io { path: disk.path_of(""), source };
        let bases: Vec<u64> =
            disk.names().map_err(failed)?.iter().filter_map(|n| super::segment_base(n)).collect();
        let mut layout = Self { disk, files: BTreeMap::new(), end: 0 };
        for base in bases {
            let file = layout.disk.open(&super::segment_name(base)).map_err(|e| layout.io(base, e))?;
            layout.files.insert(base, file);
        }
        if let Some((base, file)) = layout.files.last_key_value() {
            layout.end = base + file.size().map_err(|e| layout.io(*base, e))?;
        }
        Ok(layout)
    }

    /// Where the last segment's file ends.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The base of the segment behind the one at `base`.
    pub(crate) fn next_base(&self, base: u64) -> Option<u64> {
        self.files.range(base + 1..).next().map(|(next, _)| *next)
    }

    pub(crate) fn path(&self, base: u64) -> PathBuf {
        self.disk.path_of(&super::segment_name(base))
    }

    pub(crate) fn io(&self, base: u64, source: io::Error) -> RecoverError {
        RecoverError::Io { path: self.path(base), source }
    }

    /// Checks that each segment begins where the one before it ends.
    pub(crate) fn check_gaps(&self) -> Result<(), RecoverError> {
        let mut expected = 0;
        let mut holder = 0;
        for (base, file) in &self.files {
            if *base != expected {
                let path = self.path(holder);
                return Err(RecoverError::Missing {
                    path,
                    from: expected.min(*base),
                    to: expected.max(*base),
                });
            }
            holder = *base;
            expected = base + file.size().map_err(|e| self.io(*base, e))?;
        }
        Ok(())
    }

    /// Copies stretches of a segment's offsets, one after the other, into a new file beside it.
    pub(crate) fn save_aside(&self, base: u64, stretches: &[Range<u64>]) -> Result<PathBuf, RecoverError> {
        let names = self.disk.names().map_err(|e| self.io(base, e))?;
        let stem = format!("{}.damaged-", super::segment_name(base));
        let taken = |n: &u32| names.contains(&format!("{stem}{n}"));
        let name = format!("{stem}{}", (1..).find(|n| !taken(n)).unwrap_or(u32::MAX));
        let path = self.disk.path_of(&name);
        self.copy(base, stretches, &name)
            .map_err(|source| RecoverError::Io { path: path.clone(), source })?;
        Ok(path)
    }

    fn copy(&self, base: u64, stretches: &[Range<u64>], name: &str) -> io::Result<()> {
        let Some(source) = self.files.get(&base) else { return Ok(()) };
        let target = self.disk.create(name)?;
        let mut piece = vec![0; 1 << 16];
        let mut written = 0;
        for stretch in stretches {
            let (mut at, end) = (stretch.start - base, stretch.end - base);
            while at < end {
                let n = piece.len().min((end - at) as usize);
                let n = source.read_at(&mut piece[..n], at)?;
                if n == 0 {
                    break;
                }
                target.write_at(&piece[..n], written)?;
                at += n as u64;
                written += n as u64;
            }
        }
        target.sync()?;
        self.disk.sync_names()
    }
}

/// Opens the log for writing: walks it from the start of `known`, a record's start, shows each message to
/// `visit`, cuts off an unfinished write. Everything up to the end of `known` was acknowledged once.
pub(crate) fn recover<E: From<RecoverError>>(
    layout: Layout,
    segment_bytes: u64,
    known: Range<u64>,
    mut visit: impl FnMut(u64, &Record<'_>) -> Result<(), E>,
) -> Result<(Log, Option<Cut>), E> {
    layout.check_gaps()?;
    let (last, file) = match layout.files.last_key_value() {
        Some((base, file)) => (*base, Arc::clone(file)),
        // `Layout::read` makes a first segment.
        None => return Err(RecoverError::Missing { path: layout.path(0), from: 0, to: 0 }.into()),
    };
    // What is indexed below must not be lost in a power cut that the index survives.
    file.sync().map_err(|e| layout.io(last, e))?;

    let mut cut = None;
    for (base, file) in &layout.files {
        if layout.next_base(*base).is_some_and(|next| next <= known.start) {
            continue;
        }
        let Some(bad) = walk_segment(&layout, *base, file, known.start, &mut visit)? else { continue };
        if *base != last || bad < known.end {
            return Err(RecoverError::Damaged { path: layout.path(*base), offset: bad }.into());
        }
        cut = Some(cut_tail(&layout, *base, bad)?);
    }
    let end = cut.as_ref().map_or(layout.end, |cut| cut.offset);
    let files = RwLock::new(layout.files);
    let segments = Segments { disk: layout.disk, files, erasures: AtomicU64::default() };
    let log = Log {
        segments: Arc::new(segments),
        file,
        base: last,
        committed: end,
        written: end,
        buffer: Vec::new(),
        segment_bytes,
        stained: false,
    };
    Ok((log, cut))
}

/// Visits the messages of one segment; returns the first bad offset if there is one.
fn walk_segment<E: From<RecoverError>>(
    layout: &Layout,
    base: u64,
    file: &Arc<dyn DiskFile>,
    from: u64,
    visit: &mut impl FnMut(u64, &Record<'_>) -> Result<(), E>,
) -> Result<Option<u64>, E> {
    let failed = |source| layout.io(base, source);
    match super::header_state(&**file, base).map_err(failed)? {
        HeaderState::Good => {}
        HeaderState::Newer(version) => {
            return Err(RecoverError::Newer { path: layout.path(base), version }.into());
        }
        HeaderState::Bad => return Ok(Some(base)),
    }
    let mut scan = super::scan_segment(file, base, from).map_err(failed)?;
    loop {
        match scan.step().map_err(failed)? {
            Step::Message { offset, record, .. } => visit(offset, &record)?,
            Step::Void { .. } => {}
            Step::Bad { offset } => return Ok(Some(offset)),
            Step::End => return Ok(None),
        }
    }
}

/// Ends the last segment at its first bad offset, unless that would lose something acknowledged.
fn cut_tail(layout: &Layout, base: u64, bad: u64) -> Result<Cut, RecoverError> {
    let failed = |source| layout.io(base, source);
    let file = &layout.files[&base];
    let mut scan = Scan::new(Arc::clone(file), base, bad).map_err(failed)?;
    let end = scan.end();
    if super::was_acknowledged(&mut scan, bad).map_err(failed)? {
        return Err(RecoverError::Damaged { path: layout.path(base), offset: bad });
    }
    let saved = layout.save_aside(base, std::slice::from_ref(&(bad..end)))?;
    file.set_size(bad - base).map_err(failed)?;
    let offset = if bad == base {
        // The power went while the segment was being made: it gets its header now.
        file.write_at(&super::header(base), 0).map_err(failed)?;
        base + HEADER as u64
    } else {
        bad
    };
    file.sync().map_err(failed)?;
    Ok(Cut { offset, bytes: end - bad, saved })
}
