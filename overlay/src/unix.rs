//! The `unix:` socket by which programs of this machine's owner talk to the node. There is no handshake:
//! who can open the file, is the owner. Hence the file is never, not even for a moment, open to others.
//!
//! A socket file outlives a node that was killed. One that refuses connections is replaced; one that
//! takes them belongs to a running server and is left alone.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tracing::debug;

use crate::conn::{self, Carrier, Connection, Direction, LinkInfo};
use crate::keys::PublicKey;

/// How long a server may take to accept before we count it as alive but busy.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The folder in which a socket gets its mode before anyone can see it. Shorter than `socket`, since the
/// system allows socket paths of about 100 bytes only.
const NURSERY: &str = ".hp";

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum UnixBindError {
    /// Another server answers on it.
    #[error("another server is running on {0}: stop it first, or choose another folder with --path")]
    AlreadyRunning(PathBuf),
    /// There is something else by that name, which we will not delete.
    #[error("{0} exists and is not a socket: move it away")]
    NotASocket(PathBuf),
    /// The system's limit for socket paths.
    #[error("the path {0} is too long for a socket: choose a shorter folder with --path")]
    PathTooLong(PathBuf),
    /// The file system's reason.
    #[error("cannot make the socket {path}: {error}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
}

/// Why a client gets no session.
#[derive(Debug, thiserror::Error)]
pub enum UnixDialError {
    /// Nobody listens there.
    #[error("no server is running on {0}")]
    NoServer(PathBuf),
    /// The file system's reason, such as a socket of someone else.
    #[error("cannot open {path}: {error}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
}

/// Opens a client's session to the node that listens on `path`; to the client, the peer is `own`.
pub async fn dial(path: &Path, own: PublicKey) -> Result<Connection, UnixDialError> {
    let stream = UnixStream::connect(path).await.map_err(|error| {
        if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
            UnixDialError::NoServer(path.into())
        } else {
            UnixDialError::Io { path: path.into(), error }
        }
    })?;
    Ok(conn::noauth(stream, info(Direction::Outbound, path), own))
}

pub(crate) fn info(direction: Direction, path: &Path) -> LinkInfo {
    LinkInfo {
        direction,
        carrier: Carrier::Unix,
        remote: format!("unix:{}", path.display()),
        path: None,
        mobile: None,
    }
}

/// A listening socket, whose file goes with it.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode, so that we never remove a successor's file.
    identity: (u64, u64),
}

impl Socket {
    /// Opens the socket with mode 0600, in place of a stale one.
    pub(crate) async fn bind(path: &Path) -> Result<Self, UnixBindError> {
        make_way(path).await?;
        create(path).map_err(|error| {
            if error.kind() == io::ErrorKind::InvalidInput {
                UnixBindError::PathTooLong(path.into())
            } else {
                UnixBindError::Io { path: path.into(), error }
            }
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next client.
    pub(crate) async fn accept(&self) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    debug!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether the name is free, or taken by a socket that nobody listens on any more.
async fn make_way(path: &Path) -> Result<(), UnixBindError> {
    let failed = |error| UnixBindError::Io { path: path.into(), error };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(UnixBindError::NotASocket(path.into())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    match tokio::time::timeout(PROBE_TIMEOUT, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A full queue of clients: it lives.
        Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(UnixBindError::AlreadyRunning(path.into()))
        }
        Ok(Err(error)) => Err(failed(error)),
        Ok(Ok(_)) | Err(_) => Err(UnixBindError::AlreadyRunning(path.into())),
    }
}

/// Makes the socket in a folder of our own, gives it its mode, and moves it to its place in one step.
fn create(path: &Path) -> io::Result<Socket> {
    let nursery = path.with_file_name(NURSERY);
    let young = nursery.join("s");
    // What a killed node left behind.
    let _ = fs::remove_file(&young);
    let _ = fs::remove_dir(&nursery);
    DirBuilder::new().mode(0o700).create(&nursery)?;
    let made = make_in(&young, path);
    let _ = fs::remove_file(&young);
    fs::remove_dir(&nursery)?;
    made
}

fn make_in(young: &Path, path: &Path) -> io::Result<Socket> {
    let listener = UnixListener::bind(young)?;
    fs::set_permissions(young, Permissions::from_mode(0o600))?;
    let identity = identity(&fs::symlink_metadata(young)?);
    fs::rename(young, path)?;
    Ok(Socket { listener, path: path.into(), identity })
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as StdListener;

    use super::*;

    async fn bound(folder: &tempfile::TempDir) -> Socket {
        Socket::bind(&folder.path().join("socket")).await.unwrap()
    }

    fn names(folder: &tempfile::TempDir) -> Vec<String> {
        let entries = fs::read_dir(folder.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn only_the_owner_can_open_the_socket_and_it_goes_with_the_node() {
        let folder = tempfile::tempdir().unwrap();
        let socket = bound(&folder).await;
        let mode = fs::metadata(socket.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(names(&folder), ["socket"]);
        let (client, _) = tokio::join!(UnixStream::connect(socket.path()), socket.accept());
        client.unwrap();
        drop(socket);
        assert!(names(&folder).is_empty());
    }

    #[tokio::test]
    async fn a_socket_that_a_killed_node_left_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists());
        DirBuilder::new().create(folder.path().join(NURSERY)).unwrap();
        let socket = Socket::bind(&path).await.unwrap();
        let (client, _) = tokio::join!(UnixStream::connect(&path), socket.accept());
        client.unwrap();
    }

    #[tokio::test]
    async fn a_running_server_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let running = StdListener::bind(&path).unwrap();
        assert!(matches!(Socket::bind(&path).await, Err(UnixBindError::AlreadyRunning(_))));
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(running);
    }

    #[tokio::test]
    async fn a_file_by_that_name_is_not_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path).await, Err(UnixBindError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn the_file_of_a_successor_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let first = bound(&folder).await;
        fs::remove_file(first.path()).unwrap();
        let second = bound(&folder).await;
        drop(first);
        assert!(second.path().exists());
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_told_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("x".repeat(120));
        fs::create_dir(&deep).unwrap();
        let result = Socket::bind(&deep.join("socket")).await;
        assert!(matches!(result, Err(UnixBindError::PathTooLong(_))), "{result:?}");
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_client_is_told_that_no_server_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let own = PublicKey::from_bytes([1; 32]);
        assert!(matches!(dial(&path, own).await, Err(UnixDialError::NoServer(_))));
        drop(StdListener::bind(&path).unwrap());
        assert!(matches!(dial(&path, own).await, Err(UnixDialError::NoServer(_))));
    }
}
