//! `createHistoryStream`: one feed's messages to a peer, the replication that every SSB program has. The
//! engine's machine says what is due; this sends it. To local clients a message whose content was deleted is just
//! not there; to a peer the feed ends before it, because no peer takes what follows a gap.

use hawsepipe_overlay::conn::StreamTx;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::ebt::Peer;
use hawsepipe_replication::history::{HistoryPlan, Shape, blocks_caller};
use hawsepipe_replication::refs::FeedId;
use hawsepipe_replication::store::{Order, Stored};

use super::Request;
use super::streams::{failed, item};
use crate::authorize::Rights;

/// Messages read from the store in one go.
const CHUNK: u64 = 128;

/// Sends until the plan is fulfilled, the caller ends the stream, or the feed's owner blocks the caller.
pub(super) async fn create(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let plan = HistoryPlan::from_args(request.args.all()).map_err(|e| RemoteError::new(e.to_string()))?;
    let (feed, shape) = (plan.feed, plan.shape);
    let Some(ticket) = request.ctx.engine.serve_history(request.session, plan).await? else { return Ok(()) };
    let takes_gaps = request.rights == Rights::Master;
    let caller = Peer(FeedId::from_bytes(request.peer.to_bytes()));
    while let Some(next) = ticket.next().await {
        let (from, to) = next.map_err(RemoteError::new)?;
        let last = to.min(from + CHUNK - 1);
        // Held until what is read is on its way. The semaphore is never closed.
        let _turn = request.reads.acquire().await;
        let reader = request.ctx.reader.clone();
        let count = (last + 1 - from) as usize;
        let read = move || {
            let messages = if takes_gaps {
                reader.feed_range(&feed, from..=last, Order::Ascending)
            } else {
                reader.chain(&feed, from..=last)
            };
            messages.collect::<Result<Vec<Stored>, _>>()
        };
        let messages = request.ctx.read(read).await.map_err(failed)?;
        let ends_here = !takes_gaps && messages.len() < count;
        let read = messages.len();
        let may_go = messages.into_iter().take_while(|m| !blocks_caller(m.message.value_bytes(), &caller));
        let items: Vec<Body> = may_go.map(|stored| shaped(&stored, shape)).collect();
        let (sent, is_blocked) = (items.len(), items.len() < read);
        if tx.send_batch(items).await.is_err() {
            return Ok(());
        }
        request.ctx.metrics.messages.sent.with_label_values(&["history"]).inc_by(sent as u64);
        if is_blocked || ends_here {
            return Ok(());
        }
        ticket.sent(feed, last);
    }
    Ok(())
}

fn shaped(stored: &Stored, shape: Shape) -> Body {
    match shape {
        Shape::KeyValue => item(stored, true, true),
        Shape::Value => item(stored, false, true),
        Shape::Key => item(stored, true, false),
    }
}
