//! What keys of local clients may do, as the operator said it: kept in `hawsepipe/grants.json`, a JSON object from
//! keys to lists of patterns. A pattern is the name of a method, or `blobs.*` for all of a group.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use hawsepipe_overlay::keys::PublicKey;

use super::Methods;
use crate::datadir;

/// Keys that can have a grant.
pub const MAX_GRANTS: usize = 1024;

/// What one key may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// As the operator said it.
    pub patterns: BTreeSet<String>,
    /// Which methods these are.
    pub methods: Methods,
}

/// The grants of a node.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    path: PathBuf,
    of: BTreeMap<PublicKey, Grant>,
}

/// Why grants could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum GrantsError {
    /// The file cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file says something else.
    #[error("{} is not a list of grants: {why}; correct or remove it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and what.
        why: String,
    },
    /// More than [`MAX_GRANTS`].
    #[error("no more than {MAX_GRANTS} keys can have a grant: revoke one first")]
    TooMany,
}

impl Grants {
    /// Reads the file; none is no grants. `methods` says which ones patterns name.
    pub fn load(path: PathBuf, methods: impl Fn(&BTreeSet<String>) -> Methods) -> Result<Self, GrantsError> {
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { path, of: BTreeMap::new() });
            }
            Err(error) => return Err(GrantsError::Io { path, error }),
        };
        let damaged = |why: String, path: &Path| GrantsError::Damaged { path: path.to_owned(), why };
        let read = serde_json::from_slice::<BTreeMap<String, BTreeSet<String>>>(&text);
        let mut of = BTreeMap::new();
        for (key, patterns) in read.map_err(|error| damaged(error.to_string(), &path))? {
            let key = key.parse().map_err(|_| damaged(format!("not a key: {key}"), &path))?;
            let methods = methods(&patterns);
            of.insert(key, Grant { patterns, methods });
        }
        Ok(Self { path, of })
    }

    /// All of them.
    pub const fn all(&self) -> &BTreeMap<PublicKey, Grant> {
        &self.of
    }

    /// The grants as they are when a key has this one and no other; `None` revokes what it has.
    pub fn with(&self, key: PublicKey, grant: Option<Grant>) -> Result<Self, GrantsError> {
        let mut changed = self.clone();
        match grant {
            Some(grant) => changed.of.insert(key, grant),
            None => changed.of.remove(&key),
        };
        if changed.of.len() > MAX_GRANTS { Err(GrantsError::TooMany) } else { Ok(changed) }
    }

    /// Writes the file.
    pub fn save(&self) -> Result<(), GrantsError> {
        let of: BTreeMap<_, _> =
            self.of.iter().map(|(key, grant)| (key.to_string(), &grant.patterns)).collect();
        let saved = serde_json::to_vec_pretty(&of).map_err(io::Error::other);
        let saved = saved.and_then(|text| datadir::write_atomic(&self.path, &text));
        saved.map_err(|error| GrantsError::Io { path: self.path.clone(), error })
    }
}
