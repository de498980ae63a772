//! How many files this process may have open: each session takes one, and the usual limit of 1024 is less than a pub's sessions.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files beside those of sessions: the store, indexes, listeners, blobs that come and go.
const SPARE: u64 = 256;

/// Raises the limit as far as it goes, which is for the process's start to do and not for a library's, and says if that is too
/// little for so many sessions.
pub fn raise_limit(sessions: usize) {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| (soft, hard)));
    let wanted = u64::try_from(sessions).unwrap_or(u64::MAX).saturating_add(SPARE);
    match raised {
        Ok((_, now)) if now < wanted => tracing::warn!(
            now,
            wanted,
            "too few open files are allowed for access.sessions: raise the limit (ulimit -n, or LimitNOFILE in a systemd unit)"
        ),
        Ok((before, now)) => tracing::debug!(before, now, "open files allowed"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}
