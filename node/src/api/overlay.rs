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
    let ctx = &request.ctx;
    let is_friend = ctx.graph().is_following(&ctx.own, &FeedId::from_bytes(request.peer.to_bytes()));
    let tier = ctx.config.overlay.as_ref().map(|overlay| overlay.rendezvous);
    if !may_know(request.rights, is_friend, tier, ctx.overlay.reachability().verdict) {
        return Err(refusal());
    }
    let certificate = ctx.overlay.certificate().ok_or_else(refusal)?;
    Ok(Body::json(&certificate.to_json(ctx.config.network)))
}

/// Whoever finds this node anyway, and whom it wants to be found by.
fn may_know(rights: Rights, is_friend: bool, tier: Option<Tier>, verdict: Verdict) -> bool {
    rights == Rights::Master || is_friend || tier == Some(Tier::Public) || verdict == Verdict::Public
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_node_tells_its_place_only_to_whom_it_follows_and_to_its_owner() {
        let pairwise = Some(Tier::Pairwise);
        for (rights, is_friend, tier, verdict, may) in [
            (Rights::Anonymous, false, pairwise, Verdict::Private, false),
            (Rights::Anonymous, false, pairwise, Verdict::Unknown, false),
            (Rights::Anonymous, false, Some(Tier::Off), Verdict::Private, false),
            (Rights::Anonymous, true, pairwise, Verdict::Private, true),
            (Rights::Anonymous, false, Some(Tier::Public), Verdict::Private, true),
            (Rights::Anonymous, false, pairwise, Verdict::Public, true),
            (Rights::Master, false, pairwise, Verdict::Private, true),
        ] {
            assert_eq!(may_know(rights, is_friend, tier, verdict), may, "{rights:?} {tier:?} {verdict:?}");
        }
    }
}
