//! The blobs of a folder in JS's layout, which is ours: `sha256/ab/cdef…`. Each is hashed before it is taken over.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::ImportError;

/// Files that are told one by one; all are counted.
const LISTED: usize = 100;
/// Bytes that are hashed at a time.
const BUFFER: usize = 256 << 10;

/// What became of the blobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blobs {
    /// Blobs that we did not have.
    pub taken: u64,
    /// Blobs that we had.
    pub known: u64,
    /// Files that are not what their names say.
    pub wrong: u64,
    /// The first of them.
    pub listed: Vec<PathBuf>,
}

/// How a blob is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A hard link where the file system can, else a copy.
    Link,
    /// A copy, which nothing that happens to the original harms.
    Copy,
}

/// Takes over the blobs of the folder `from`; where that is `to` itself, only looks whether they are what they should
/// be. `progress` hears (files done, files in all).
pub fn import(
    from: &Path,
    to: &Path,
    by: By,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Blobs, ImportError> {
    let files = files(&from.join("sha256"));
    let is_same_folder = from.canonicalize().ok().is_some_and(|from| to.canonicalize().ok() == Some(from));
    let mut blobs = Blobs::default();
    for (done, (file, name)) in files.iter().enumerate() {
        progress(done as u64, files.len() as u64);
        let target = target(to, name);
        if !is_same_folder && is_there(&target, file) {
            blobs.known += 1;
        } else if !has_hash(file, name).map_err(ImportError::io("read", file))? {
            blobs.wrong += 1;
            if blobs.listed.len() < LISTED {
                blobs.listed.push(file.clone());
            }
        } else if is_same_folder {
            blobs.known += 1;
        } else {
            take(file, &target, by).map_err(ImportError::io("write", &target))?;
            blobs.taken += 1;
        }
    }
    Ok(blobs)
}

/// The files that have a blob's name, and that name in hex.
fn files(sha256: &Path) -> Vec<(PathBuf, String)> {
    let entries = |dir: &Path| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    };
    let mut found = Vec::new();
    for first in entries(sha256) {
        for rest in entries(&sha256.join(&first)) {
            let name = format!("{first}{rest}");
            if first.len() == 2 && name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                found.push((sha256.join(&first).join(rest), name.to_ascii_lowercase()));
            }
        }
    }
    found
}

fn target(to: &Path, name: &str) -> PathBuf {
    to.join("sha256").join(&name[..2]).join(&name[2..])
}

/// Whether we have the blob: a file gets such a name only with that hash.
fn is_there(target: &Path, file: &Path) -> bool {
    let len = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.len());
    len(target).is_some_and(|held| len(file) == Some(held))
}

fn has_hash(file: &Path, name: &str) -> io::Result<bool> {
    let (mut hash, mut file, mut buffer) = (Sha256::new(), File::open(file)?, vec![0; BUFFER]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    let hash: [u8; 32] = hash.finalize().into();
    Ok(hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>() == name)
}

fn take(file: &Path, target: &Path, by: By) -> io::Result<()> {
    let folder = target.parent().unwrap_or(target);
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    match fs::remove_file(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // One of another length was no blob.
        Ok(()) | Err(_) => {}
    }
    if by == By::Link && fs::hard_link(file, target).is_ok() {
        return Ok(());
    }
    let temp = target.with_extension("new");
    fs::copy(file, &temp)?;
    File::open(&temp)?.sync_all()?;
    fs::rename(&temp, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
        let path = target(dir, name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn name_of(bytes: &[u8]) -> String {
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn good_blobs_are_taken_once_and_wrong_ones_told() {
        let (theirs, ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        put(theirs.path(), &name_of(b"one"), b"one");
        put(theirs.path(), &name_of(b"two"), b"two");
        let wrong = put(theirs.path(), &name_of(b"three"), b"other");
        fs::write(theirs.path().join("sha256/README"), b"no blob").unwrap();
        let mut seen = Vec::new();
        let mut import =
            |by| import(theirs.path(), ours.path(), by, &mut |done, all| seen.push((done, all))).unwrap();
        assert_eq!(import(By::Copy), Blobs { taken: 2, known: 0, wrong: 1, listed: vec![wrong.clone()] });
        assert_eq!(import(By::Link), Blobs { taken: 0, known: 2, wrong: 1, listed: vec![wrong] });
        assert_eq!(fs::read(target(ours.path(), &name_of(b"two"))).unwrap(), b"two");
        assert!(!target(ours.path(), &name_of(b"three")).exists());
        assert_eq!(seen[..3], [(0, 3), (1, 3), (2, 3)]);
        // Where both are one folder, nothing is done but to look.
        let same = super::import(theirs.path(), theirs.path(), By::Link, &mut |_, _| {}).unwrap();
        assert_eq!((same.taken, same.known, same.wrong), (0, 2, 1));
    }
}
