//! One session: drives its connection and answers the peer's calls, each in a task of its own.

use std::sync::Arc;
use std::time::Duration;

use hawsepipe_overlay::buckets::{Bucket, Rate};
use hawsepipe_overlay::conn::{Closed, Connection, SessionConfig};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use crate::api::{self, Args, Request};
use crate::authorize::Rights;
use crate::clock;
use crate::context::Context;
use crate::engine::SessionId;
use crate::ooo;

/// Chunks of messages that the streams of one session may read, or hold until they are sent, at a time. The others wait
/// their turn: they share one line to the peer, so this costs nothing.
const READS: usize = 8;

/// Calls that a peer may make at once, and in a second in the long run; local clients may make any number. Further
/// ones wait, and with them all else that the peer sends. A peer without EBT calls once for each feed.
const CALLS: Rate = Rate { burst: 5000, per_second: 500.0 };

/// Runs `connection` to its end.
pub async fn run(
    ctx: Arc<Context>,
    id: SessionId,
    rights: Rights,
    connection: Connection,
) -> (SessionId, Closed) {
    let Connection { session, mut calls, driver } = connection;
    let peer = session.peer();
    let mut answers = JoinSet::new();
    let reads = Arc::new(Semaphore::new(READS));
    let _registered = ooo::register(&ctx, &session);
    if peer != ctx.own_key {
        answers.spawn(ooo::dial(Arc::clone(&ctx), session.clone()).instrument(session.span().clone()));
    }
    let mut driver = driver;
    driver.configure(SessionConfig { inactivity: ctx.config.inactivity, ..SessionConfig::default() });
    let driver = driver.run();
    tokio::pin!(driver);
    let mut allowed = Bucket::new(CALLS, clock::now());
    let (pause, mut is_paused) = (tokio::time::sleep(Duration::ZERO), false);
    tokio::pin!(pause);
    let closed = loop {
        tokio::select! {
            closed = &mut driver => break closed,
            () = &mut pause, if is_paused => is_paused = false,
            Some(call) = calls.next(), if !is_paused => {
                let now = clock::now();
                let wait = if rights == Rights::Master { Duration::ZERO } else { allowed.take(1, now) };
                is_paused = !wait.is_zero();
                if is_paused {
                    pause.as_mut().reset((now + wait).into());
                }
                let args = Args::of(&call.call);
                let (ctx, reads) = (Arc::clone(&ctx), Arc::clone(&reads));
                let request = Request { ctx, session: id, peer, rights, args, reads };
                answers.spawn(api::answer(request, call).instrument(session.span().clone()));
            }
            Some(done) = answers.join_next() => {
                if let Err(failed) = done && failed.is_panic() {
                    tracing::error!(%failed, "a method panicked");
                }
            }
        }
    };
    (id, closed)
}
