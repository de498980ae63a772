//! A blob that is still coming: hashed while it is written, and named only when it is whole and on disk.

use std::fs::{self, File};
use std::io::Write as _;
use std::mem;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::store::{BlobError, BlobStore, make_folder};
use super::{EMPTY, Meta};
use crate::refs::BlobId;

/// See the module's header. Dropping it throws away what came.
#[derive(Debug)]
pub struct Incoming {
    store: BlobStore,
    file: File,
    /// Empty once there is nothing to throw away.
    path: PathBuf,
    hash: Sha256,
    expected: Option<BlobId>,
    size: u64,
    max: u64,
}

impl Incoming {
    pub(super) fn new(
        store: BlobStore,
        file: File,
        path: PathBuf,
        expected: Option<BlobId>,
        max: u64,
    ) -> Self {
        Self { store, file, path, hash: Sha256::new(), expected, size: 0, max }
    }

    /// Takes the next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.size += bytes.len() as u64;
        if self.size >= self.max {
            return Err(BlobError::TooLarge);
        }
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(|error| BlobError::io("write to tmpfile", &self.path, error))
    }

    /// How much came so far, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// All is there: checks the hash and gives the blob its name. Says what it is and whether it is new. When this
    /// returns the blob survives a power cut.
    pub fn finish(mut self) -> Result<(Meta, bool), BlobError> {
        let actual = BlobId::from_bytes(mem::take(&mut self.hash).finalize().into());
        if let Some(expected) = self.expected.filter(|expected| *expected != actual) {
            return Err(BlobError::WrongHash { expected, actual });
        }
        let stored = self.store.meta(&actual)?;
        // One of another length is damaged, and replaced.
        if let Some(meta) = stored.filter(|meta| actual == EMPTY || meta.size == self.size) {
            return Ok((meta, false));
        }
        self.file.sync_data().map_err(|error| BlobError::io("write to tmpfile", &self.path, error))?;
        let (folder, place) = self.store.place(&actual);
        let is_new_folder = !folder.exists();
        make_folder(&folder)?;
        fs::rename(&self.path, &place).map_err(|error| BlobError::io("move file to", &place, error))?;
        self.path = PathBuf::new();
        sync_folder(&folder)?;
        if let Some(parent) = folder.parent().filter(|_| is_new_folder) {
            sync_folder(parent)?;
        }
        let meta = self.store.meta(&actual)?;
        Ok((meta.unwrap_or(Meta { id: actual, size: self.size, ts: 0.0 }), true))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // What cannot be removed now is removed by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the names in a folder durable.
fn sync_folder(path: &Path) -> Result<(), BlobError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|error| BlobError::io("sync", path, error))
}
