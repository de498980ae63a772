//! Asking for node certificates over classic sessions, where no libp2p identity shows: so we learn which
//! node a friend has, and get our first nodes of the DHT from a pub.

use std::time::Duration;

use hawsepipe_overlay::certificate::Certificate;
use hawsepipe_overlay::conn::{Carrier, Session};
use hawsepipe_overlay::keys::{NetworkKey, PublicKey};
use hawsepipe_overlay::muxrpc::Body;
use hawsepipe_overlay::swarm::DhtService;
use serde_json::Value;

use super::{Engine, Msg, SessionId};
use crate::clock;

/// How long the answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Engine {
    /// A session stands: asks for the peer's certificate if it is of use.
    pub(super) fn ask_certificate(&mut self, id: SessionId) {
        let Some(open) = self.sessions.get(&id) else { return };
        let overlay = self.ctx.config.overlay.as_ref();
        let has_dht = overlay.is_some_and(|overlay| overlay.dht != DhtService::Off);
        if !has_dht || open.info.carrier != Carrier::Net {
            return;
        }
        let (peer, session) = (open.peer, open.session.clone());
        let of_use = self.friends.contains(peer) || self.pubs.is_visiting(peer);
        if !of_use && self.ctx.overlay.dht().healthy {
            return;
        }
        let (network, msgs) = (self.ctx.config.network, self.msgs_tx.clone());
        self.spawn_for(&session.clone(), async move {
            let result = ask(&session, network).await;
            let _ = msgs.send(Msg::Certificate { peer, result: Box::new(result) }).await;
        });
    }

    /// The peer answered, or did not.
    pub(super) fn on_certificate(&mut self, peer: PublicKey, result: Result<Certificate, &'static str>) {
        let outcome = result.as_ref().map_or_else(|outcome| *outcome, |_| "ok");
        self.ctx.metrics.dht.certificates.with_label_values(&[outcome]).inc();
        if let Ok(certificate) = result {
            tracing::debug!(peer = %peer.short(), at = ?certificate.addresses, "has a node");
            self.on_transport_claimed(peer, certificate.peer, clock::now());
            self.ctx.overlay.add_dht_nodes(certificate.addresses);
        }
        self.leave_pub(peer);
    }
}

/// The peer's certificate, or the label of why there is none. JS peers know of no such thing: no error is
/// worth a word.
async fn ask(session: &Session, network: NetworkKey) -> Result<Certificate, &'static str> {
    let call = session.call(&["overlay", "certificate"], Vec::new());
    let answer = tokio::time::timeout(TIMEOUT, call).await.map_err(|_| "timeout")?;
    let body = answer.map_err(|_| "refused")?;
    read(&body, network, session.peer(), Duration::from_millis(clock::unix_millis()))
}

fn read(
    body: &Body,
    network: NetworkKey,
    peer: PublicKey,
    unix: Duration,
) -> Result<Certificate, &'static str> {
    let json: Value = body.decode().map_err(|_| "invalid")?;
    let certificate = Certificate::from_json(&json, network, unix).map_err(|_| "invalid")?;
    // Others' certificates are not for it to hand out.
    if certificate.feed == peer { Ok(certificate) } else { Err("invalid") }
}
