//! Sessions that went from path to path by themselves: what is shown and counted of it. (Where the peer's node
//! cannot do that, a second session [takes over](super::takeover).)

use std::collections::VecDeque;
use std::time::Instant;

use hawsepipe_overlay::Moved;
use hawsepipe_overlay::conn::{Carrier, LinkInfo};
use serde_json::{Value, json};

use super::Engine;
use crate::clock;

/// Paths of a session that are remembered; older ones are only counted.
const MAX_PATHS: usize = 8;

/// The paths of a session, the newest last.
#[derive(Debug)]
pub(super) struct Paths {
    paths: VecDeque<PathShown>,
    moves: u64,
}

#[derive(Debug)]
struct PathShown {
    carrier: Carrier,
    remote: String,
    since: Instant,
    /// For how long nothing could come, before.
    gap_ms: Option<u64>,
}

impl Paths {
    /// Of a new session.
    pub(super) fn new(info: &LinkInfo, now: Instant) -> Self {
        let first =
            PathShown { carrier: info.carrier, remote: info.remote.clone(), since: now, gap_ms: None };
        Self { paths: VecDeque::from([first]), moves: 0 }
    }

    fn push(&mut self, path: PathShown) {
        self.moves += 1;
        self.paths.push_back(path);
        if self.paths.len() > MAX_PATHS {
            self.paths.pop_front();
        }
    }

    pub(super) const fn moves(&self) -> u64 {
        self.moves
    }

    /// For people: what carried the session for how long.
    pub(super) fn shown(&self, now: Instant) -> Value {
        let ends = self.paths.iter().skip(1).map(|next| next.since).chain([now]);
        let shown = self.paths.iter().zip(ends).map(|(path, end)| {
            let seconds = end.saturating_duration_since(path.since).as_secs();
            let mut shown =
                json!({ "carrier": path.carrier.label(), "remote": path.remote, "seconds": seconds });
            if let Some(gap) = path.gap_ms {
                shown["gapMs"] = gap.into();
            }
            shown
        });
        shown.collect()
    }
}

impl Engine {
    /// A session went to another path, or could not.
    pub(super) fn on_moved(&mut self, moved: Moved) {
        let Moved { session, from, to, remote, path, how } = moved;
        let metrics = &self.ctx.metrics.connect;
        let result = if how.is_some() { "ok" } else { "failed" };
        metrics.moves.with_label_values(&[from.label(), to.label(), result]).inc();
        let Some(how) = how else { return };
        metrics.move_gap.observe(how.gap.as_secs_f64());
        metrics.resent.inc_by(how.resent);
        let is_it =
            |open: &super::Open| open.info.mobile.as_ref().is_some_and(|mobile| mobile.id() == session);
        let Some((&id, open)) = self.sessions.iter_mut().find(|(_, open)| is_it(open)) else { return };
        let now = clock::now();
        if from == Carrier::Relay && to != Carrier::Relay && open.paths.moves() == 0 {
            let waited = now.saturating_duration_since(open.since);
            metrics.time_to_direct.observe(waited.as_secs_f64());
        }
        tracing::info!(
            peer = %open.peer.short(), from = from.label(), to = to.label(), remote, gap = ?how.gap, "session moved"
        );
        let gap_ms = u64::try_from(how.gap.as_millis()).ok();
        open.paths.push(PathShown { carrier: to, remote: remote.clone(), since: now, gap_ms });
        (open.info.carrier, open.info.remote, open.info.path) = (to, remote, Some(path));
        open.seat.follow(&open.info, open.rights);
        let peer = open.peer;
        self.seek_direct(id);
        self.sessions_changed(peer);
    }
}
