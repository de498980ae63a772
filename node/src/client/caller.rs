//! As whom a client calls over the network.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hawsepipe_overlay::conn::{Gate, LinkInfo, Local, Refused};
use hawsepipe_overlay::keys::{NetworkKey, PublicKey};
use ssb_crypto::Keypair;

use crate::identity::{self, KeyError};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// As whom, and in which network, a client calls. A node gives everything to its own key and to those that its
/// configuration names under `master`.
#[derive(Clone)]
pub struct Caller {
    keypair: Arc<Keypair>,
    network: NetworkKey,
}

impl Caller {
    /// With `keypair`, in the main network.
    pub fn new(keypair: Keypair) -> Self {
        Self { keypair: Arc::new(keypair), network: NetworkKey::MAIN }
    }

    /// With the `secret` of a data folder, which is never made; `None` if there is none.
    pub fn of_folder(dir: impl AsRef<Path>) -> Result<Option<Self>, KeyError> {
        crate::init_crypto();
        Ok(identity::read_secret(dir.as_ref())?.map(Self::new))
    }

    /// The same in another network.
    #[must_use]
    pub fn in_network(mut self, network: NetworkKey) -> Self {
        self.network = network;
        self
    }

    pub(super) fn local(&self) -> Local {
        let (keypair, gate) = (Arc::clone(&self.keypair), Arc::new(Anyone));
        Local { keypair, network: self.network, gate, handshake_timeout: HANDSHAKE }
    }
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Caller").field(&identity::public_key(&self.keypair)).finish()
    }
}

/// The address says whom we want; the handshake proves it.
#[derive(Debug)]
struct Anyone;

impl Gate for Anyone {
    fn admit(&self, _peer: PublicKey, _link: &LinkInfo) -> Result<(), Refused> {
        Ok(())
    }
}
