//! `overlay.*`: what Hawsepipe's nodes tell each other of the libp2p network.

use hawsepipe_overlay::muxrpc::{Body, RemoteError, call};
use hawsepipe_overlay::reachability::Verdict;
use hawsepipe_overlay::rendezvous::Tier;
use hawsepipe_replication::refs::FeedId;

use super::Request;
use crate::authorize::Rights;

/// `overlay.certificate()`: our feed's signed word of which libp2p node is ours and where strangers reach it.
///
/// A node that others can find anyway tells everybody, any other only whom it follows.
pub(super) async fn certificate(request: Request) -> Result<Body, RemoteError> {
    let refusal = || call::not_allowed(&["overlay", "certificate"]);
    if !may_know(&request) {
        return Err(refusal());
    }
    let ctx = &request.ctx;
    let certificate = ctx.overlay.certificate().ok_or_else(refusal)?;
    Ok(Body::json(&certificate.to_json(ctx.config.network)))
}

fn may_know(request: &Request) -> bool {
    let ctx = &request.ctx;
    let peer = FeedId::from_bytes(request.peer.to_bytes());
    let tier = ctx.config.overlay.as_ref().map(|overlay| overlay.rendezvous);
    request.rights == Rights::Master
        || ctx.graph().is_following(&ctx.own, &peer)
        || tier == Some(Tier::Public)
        || ctx.overlay.reachability().verdict == Verdict::Public
}
