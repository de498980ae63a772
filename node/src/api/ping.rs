//! `gossip.ping`, also called `conn.ping`: a duplex of millisecond timestamps that keeps a connection
//! alive and tells both sides their clocks' skew (pull-ping). The dialer opens it and sends first; each
//! side answers a number with its own clock.

use std::time::Duration;

use hawsepipe_overlay::conn::{Session, Stream};
use hawsepipe_overlay::muxrpc::{Body, CallKind};
use serde_json::json;

use super::Request;
use crate::clock;

/// How long the receiver waits before it answers the dialer's next ping; ours as a dialer.
const PERIOD: Duration = Duration::from_secs(300);

/// Answers each ping until the caller ends the stream.
pub(super) async fn serve(_request: Request, stream: Stream) {
    stream.set_lasting();
    let Stream { mut tx, mut rx } = stream;
    while let Some(Ok(_)) = rx.recv().await {
        if tx.send(Body::json(&clock::unix_millis())).await.is_err() {
            return;
        }
    }
}

/// Pings a peer that we dialled for as long as the session lasts. A peer without the method ends the
/// stream with an error, which is as good an answer as any.
pub async fn keep_alive(session: Session) {
    let args = vec![json!({ "timeout": PERIOD.as_millis() as u64 })];
    let Ok(stream) = session.open(CallKind::Duplex, &["gossip", "ping"], args).await else { return };
    stream.set_lasting();
    let Stream { mut tx, mut rx } = stream;
    loop {
        if tx.send(Body::json(&clock::unix_millis())).await.is_err() {
            return;
        }
        let Some(Ok(_)) = rx.recv().await else { return };
        tokio::select! {
            _ = session.closed() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}
