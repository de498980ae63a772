//! The database of solar: sled, with a message under `1 | sequence u64be | feed` as the JSON of `{key, value, timestamp}`.
//!
//! sled writes when it opens, so it is given a copy, which goes when it was read.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::lines::record;
use super::{Damage, Found, Log};

/// What messages' keys begin with.
const MESSAGES: [u8; 1] = [1];

/// Reads the database.
pub struct SolarLog {
    messages: sled::Iter,
    total: u64,
    /// How many messages were read: there are no offsets.
    at: u64,
    _db: sled::Db,
    _copy: Copy,
}

impl std::fmt::Debug for SolarLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SolarLog").field("at", &self.at).field("total", &self.total).finish_non_exhaustive()
    }
}

/// A folder that goes in the end.
#[derive(Debug)]
struct Copy(PathBuf);

impl Drop for Copy {
    fn drop(&mut self) {
        // What cannot be removed is replaced by the next import.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl SolarLog {
    /// Copies the folder `database` to `copy`, which must not be there or left by an interrupted import, and opens it.
    pub fn open(database: &Path, copy: &Path) -> io::Result<Self> {
        match fs::remove_dir_all(copy) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let copy = Copy(copy.to_owned());
        copy_folder(database, &copy.0)?;
        // sled panics at some kinds of damage.
        let opened = catch_unwind(AssertUnwindSafe(|| sled::open(&copy.0)));
        let db = opened.map_err(|_| io::Error::other("solar's database is damaged"))??;
        let total = db.scan_prefix(MESSAGES).keys().count() as u64;
        Ok(Self { messages: db.scan_prefix(MESSAGES), total, at: 0, _db: db, _copy: copy })
    }
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_folder(&source, &target)?
        } else {
            fs::copy(source, target).map(drop)?
        }
    }
    Ok(())
}

impl Log for SolarLog {
    fn next(&mut self) -> io::Result<Option<Found>> {
        let Some(next) = self.messages.next() else { return Ok(None) };
        let (_, value) = next?;
        let offset = self.at;
        self.at += 1;
        let damage = || Found::Damage(Damage { offset, bytes: value.len() as u64 });
        Ok(Some(record(offset, &value).unwrap_or_else(damage)))
    }

    fn progress(&self) -> (u64, u64) {
        (self.at, self.total.max(self.at))
    }
}
