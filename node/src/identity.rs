//! The two keys of a node, and the files that hold them.
//!
//! - `secret`: the feed identity in the format all SSB programs share (ssb-keys' `storage.js`): comment
//!   lines and a JSON object. Created with mode 0400 and never overwritten.
//! - `node-key`: the libp2p identity, an independent ed25519 seed. It is not derived from the feed key, so
//!   that a relay or crawler cannot link an IP address to a feed, and it may be deleted to get a new one.
//!
//! A key file that others can read is refused: whoever read it can publish in its owner's name.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hawsepipe_overlay::keys::PublicKey;
use serde::Deserialize;
use ssb_crypto::{AsBytes, Keypair};

/// Why a key file cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system said no.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// `read` or `create`.
        doing: &'static str,
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Other users of the machine can read the key.
    #[error("{path} can be read by others (mode {mode:04o}): run  chmod 400 '{path}'  and start again")]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a key file.
    #[error("{path} is not a usable key file: {why}; {remedy}")]
    Malformed {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
        /// What to do.
        remedy: &'static str,
    },
}

/// Whose node it is.
#[derive(Default)]
pub enum Identity {
    /// That of the file `secret` in the data folder, which is made if it is not there.
    #[default]
    File,
    /// A new one that is in memory only and gone with the node.
    Temporary,
    /// These keys, which are not written down. The node cannot know whether they were used elsewhere: with a folder that
    /// does not say so, it publishes nothing before peers have told how long the feed is.
    Given(Keypair),
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "File",
            Self::Temporary => "Temporary",
            Self::Given(_) => "Given(…)",
        })
    }
}

impl Identity {
    /// The keys for the data folder `dir`, and whether they were made just now.
    pub(crate) fn load(self, dir: &Path) -> Result<(Keypair, bool), KeyError> {
        match self {
            Self::File => {
                let is_new = !dir.join("secret").exists();
                Ok((load_or_create_secret(dir)?, is_new))
            }
            Self::Temporary => Ok((Keypair::generate(), true)),
            Self::Given(keypair) => Ok((keypair, false)),
        }
    }
}

/// Reads `secret` in `dir`, or creates it.
pub fn load_or_create_secret(dir: &Path) -> Result<Keypair, KeyError> {
    let path = dir.join("secret");
    match read_private(&path)? {
        Some(text) => parse_secret(&text).map_err(|why| broken_secret(path, why)),
        None => {
            let keypair = Keypair::generate();
            create_private(&path, secret_text(&keypair).as_bytes())?;
            Ok(keypair)
        }
    }
}

/// Reads `secret` in `dir`; `None` if there is none.
pub fn read_secret(dir: &Path) -> Result<Option<Keypair>, KeyError> {
    let path = dir.join("secret");
    let text = read_private(&path)?;
    text.map(|text| parse_secret(&text).map_err(|why| broken_secret(path, why))).transpose()
}

/// Reads the `secret` of another program, which may be less careful with permissions; `None` if there is none.
pub fn read_foreign_secret(dir: &Path) -> Result<Option<Keypair>, KeyError> {
    type Parse = fn(&str) -> Result<Keypair, &'static str>;
    for (name, parse) in [("secret", parse_secret as Parse), ("secret.toml", parse_solar_secret)] {
        let path = dir.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => return parse(&text).map(Some).map_err(|why| broken_secret(path, why)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(KeyError::Io { doing: "read", path, source }),
        }
    }
    Ok(None)
}

/// solar's `secret.toml`: `public_key` and `private_key` as in a `secret`.
fn parse_solar_secret(text: &str) -> Result<Keypair, &'static str> {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.trim().strip_prefix('='));
        line.map(|value| value.trim().trim_matches(['"', '\'']))
    };
    let (public, private) = (value("public_key"), value("private_key"));
    let (Some(public), Some(private)) = (public, private) else {
        return Err("expected a public and a private key");
    };
    keypair_of(public, private)
}

/// Writes `secret` in `dir`; an error if there is one.
pub fn create_secret(dir: &Path, keypair: &Keypair) -> Result<(), KeyError> {
    create_private(&dir.join("secret"), secret_text(keypair).as_bytes())
}

/// Reads the 32-byte seed of the libp2p identity from `node-key` in `dir`, or creates it.
pub fn load_or_create_node_key(dir: &Path) -> Result<[u8; 32], KeyError> {
    let path = dir.join("node-key");
    if let Some(text) = read_private(&path)? {
        let seed = STANDARD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
        let why = "expected 32 bytes in base64";
        let remedy = "delete it: it names only this node's network identity, and a new one is made";
        return seed.ok_or(KeyError::Malformed { path, why, remedy });
    }
    let seed = random_seed();
    create_private(&path, format!("{}\n", STANDARD.encode(seed)).as_bytes())?;
    Ok(seed)
}

fn broken_secret(path: PathBuf, why: &'static str) -> KeyError {
    KeyError::Malformed { path, why, remedy: "restore it from a backup, it cannot be repaired" }
}

/// The public key of `keypair` in the overlay's form.
pub fn public_key(keypair: &Keypair) -> PublicKey {
    PublicKey::from_bytes(keypair.public.0)
}

/// 32 bytes from the system's generator, by way of a throw-away key.
fn random_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    seed.copy_from_slice(Keypair::generate().secret.as_bytes());
    seed
}

#[derive(Deserialize)]
struct SecretFile {
    curve: Option<String>,
    public: String,
    private: String,
}

fn parse_secret(text: &str) -> Result<Keypair, &'static str> {
    let json: String = text.lines().map(|line| line.split('#').next().unwrap_or("")).collect();
    let file: SecretFile = serde_json::from_str(&json).map_err(|_| "expected a JSON object with comments")?;
    if file.curve.is_some_and(|curve| curve != "ed25519") {
        return Err("its curve is not ed25519");
    }
    keypair_of(&file.public, &file.private)
}

fn keypair_of(public: &str, private: &str) -> Result<Keypair, &'static str> {
    let private = key_bytes(private).ok_or("its private key is not base64")?;
    let public = key_bytes(public).ok_or("its public key is not base64")?;
    let seed = private.get(..32).ok_or("its private key is too short")?;
    let keypair = Keypair::from_seed(seed).ok_or("its private key is not a key")?;
    let agrees = public == keypair.public.0 && (private.len() == 32 || private[32..] == keypair.public.0);
    if agrees { Ok(keypair) } else { Err("its public and private keys do not belong together") }
}

/// The bytes of `<base64>.ed25519`, with or without a sigil.
fn key_bytes(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_start_matches('@');
    STANDARD.decode(text.split('.').next()?).ok()
}

/// The text of a `secret`.
pub(crate) fn secret_text(keypair: &Keypair) -> String {
    let public = STANDARD.encode(keypair.public.0);
    let private = STANDARD.encode(keypair.as_bytes());
    format!(
        "# This is your SECRET name. It gives whoever holds it magical powers: with it they can\n\
         # read your private messages and publish messages with your identity.\n\
         #\n\
         # Make a backup of this file, keep it safe, and never show it to anyone.\n\
         # Never use it on two devices at the same time: that would fork your feed.\n\
         \n\
         {{\n  \"curve\": \"ed25519\",\n  \"public\": \"{public}.ed25519\",\n  \
         \"private\": \"{private}.ed25519\",\n  \"id\": \"@{public}.ed25519\"\n}}\n\
         \n\
         # The following is your PUBLIC name. Share it freely: people need it to follow you.\n\
         #\n\
         #   @{public}.ed25519\n"
    )
}

/// The text of a private file; `None` if it does not exist.
fn read_private(path: &Path) -> Result<Option<String>, KeyError> {
    let failed = |source| KeyError::Io { doing: "read", path: path.to_owned(), source };
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    fs::read_to_string(path).map(Some).map_err(failed)
}

/// Creates `path` with mode 0400, whole or not at all: a crash must not leave half a key behind.
fn create_private(path: &Path, contents: &[u8]) -> Result<(), KeyError> {
    let failed = |source| KeyError::Io { doing: "create", path: path.to_owned(), source };
    let temp = path.with_extension(format!("new-{}", std::process::id()));
    let written = write_new(&temp, contents).and_then(|()| fs::hard_link(&temp, path));
    // Best effort: what matters is the error above.
    let _ = fs::remove_file(&temp);
    written.map_err(failed)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

fn write_new(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_created_secret_is_private_and_reads_back() {
        crate::init_crypto();
        let dir = tempfile::tempdir().unwrap();
        let made = load_or_create_secret(dir.path()).unwrap();
        let read = load_or_create_secret(dir.path()).unwrap();
        assert_eq!(made.as_bytes(), read.as_bytes());
        let mode = fs::metadata(dir.path().join("secret")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o400);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays behind");
    }

    #[test]
    fn a_secret_without_comments_as_go_writes_it_is_read() {
        crate::init_crypto();
        let keypair = Keypair::from_seed(&[1; 32]).unwrap();
        let public = STANDARD.encode(keypair.public.0);
        let private = STANDARD.encode(keypair.as_bytes());
        let text = format!(
            r#"{{"id":"@{public}.ed25519","private":"{private}.ed25519","curve":"ed25519","public":"{public}.ed25519"}}"#
        );
        assert_eq!(parse_secret(&text).unwrap().as_bytes(), keypair.as_bytes());
    }

    #[test]
    fn the_secrets_of_other_programs_are_read_whoever_can_read_them() {
        crate::init_crypto();
        let keypair = Keypair::from_seed(&[1; 32]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        assert!(read_foreign_secret(dir.path()).unwrap().is_none());
        let (public, private) = (STANDARD.encode(keypair.public.0), STANDARD.encode(keypair.as_bytes()));
        let toml = format!("public_key = \"@{public}.ed25519\"\nprivate_key = \"{private}.ed25519\"\n");
        fs::write(dir.path().join("secret.toml"), toml).unwrap();
        assert_eq!(read_foreign_secret(dir.path()).unwrap().unwrap().as_bytes(), keypair.as_bytes());
        let other = Keypair::from_seed(&[2; 32]).unwrap();
        fs::write(dir.path().join("secret"), secret_text(&other)).unwrap();
        assert_eq!(read_foreign_secret(dir.path()).unwrap().unwrap().as_bytes(), other.as_bytes());
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused_with_the_remedy() {
        crate::init_crypto();
        let dir = tempfile::tempdir().unwrap();
        load_or_create_secret(dir.path()).unwrap();
        let path = dir.path().join("secret");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = load_or_create_secret(dir.path()).unwrap_err().to_string();
        assert!(error.contains("chmod 400"), "{error}");
    }

    #[test]
    fn a_damaged_secret_is_never_replaced() {
        crate::init_crypto();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        write_new(&path, b"{\"curve\":\"ed25519\"").unwrap();
        assert!(matches!(load_or_create_secret(dir.path()), Err(KeyError::Malformed { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"{\"curve\":\"ed25519\"");
    }

    #[test]
    fn keys_that_do_not_belong_together_are_refused() {
        crate::init_crypto();
        let one = Keypair::from_seed(&[1; 32]).unwrap();
        let other = Keypair::from_seed(&[2; 32]).unwrap();
        let mixed =
            secret_text(&one).replacen(&STANDARD.encode(one.public.0), &STANDARD.encode(other.public.0), 1);
        assert!(parse_secret(&mixed).is_err());
    }

    #[test]
    fn the_node_key_is_stable_and_independent() {
        crate::init_crypto();
        let dir = tempfile::tempdir().unwrap();
        let secret = load_or_create_secret(dir.path()).unwrap();
        let seed = load_or_create_node_key(dir.path()).unwrap();
        assert_eq!(load_or_create_node_key(dir.path()).unwrap(), seed);
        assert_ne!(&seed[..], secret.secret.as_bytes());
    }
}
