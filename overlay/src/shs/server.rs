//! The listener's side, in protocol order: [`start`], [`ExpectHello`], [`ExpectAuth`], [`Proven`].

use std::fmt;

use ssb_crypto::Keypair;
use ssb_crypto::ephemeral::EphPublicKey;

use super::secrets::{AcceptKey, AuthKey, ClientSecret, EphemeralSecret, ServerSecret, outcome};
use super::wire::{
    ACCEPT_LEN, AUTH_LEN, ClientProof, HELLO_LEN, client_statement, read_hello, seal_accept,
    server_statement, write_hello,
};
use super::{Ephemeral, Outcome, ShsError};
use crate::keys::{NetworkKey, PublicKey};

/// Waits for a client's hello.
pub fn start(keypair: &Keypair, network: NetworkKey, ephemeral: Ephemeral) -> ExpectHello<'_> {
    ExpectHello { keypair, network, ephemeral }
}

/// Waits for the client's hello.
pub struct ExpectHello<'a> {
    keypair: &'a Keypair,
    network: NetworkKey,
    ephemeral: Ephemeral,
}

impl<'a> ExpectHello<'a> {
    /// Takes the client's hello; the array is our hello.
    pub fn receive(self, hello: &[u8; HELLO_LEN]) -> Result<([u8; HELLO_LEN], ExpectAuth<'a>), ShsError> {
        let their_ephemeral = read_hello(&self.network, hello)?;
        let shared = EphemeralSecret::new(&self.ephemeral, &their_ephemeral)?;
        let server_secret = ServerSecret::of_server(self.keypair, &their_ephemeral)?;
        let answer = write_hello(&self.network, &self.ephemeral.public);
        Ok((answer, ExpectAuth { start: self, their_ephemeral, shared, server_secret }))
    }
}

/// Waits for the client's auth message.
pub struct ExpectAuth<'a> {
    start: ExpectHello<'a>,
    their_ephemeral: EphPublicKey,
    shared: EphemeralSecret,
    server_secret: ServerSecret,
}

impl<'a> ExpectAuth<'a> {
    /// Takes the client's auth message: now we know who it is, and it does not know whether we do.
    pub fn receive(self, auth: &[u8; AUTH_LEN]) -> Result<Proven<'a>, ShsError> {
        let ExpectHello { keypair, network, ephemeral } = &self.start;
        let proof = ClientProof::open(&self.auth_key().0, auth).ok_or(ShsError::BadAuth)?;
        let own = PublicKey::from_bytes(keypair.public.0);
        let statement = client_statement(network, &own, &self.shared.hash());
        if !proof.client.verify(&proof.signature, &statement) {
            return Err(ShsError::BadClientProof);
        }
        let client_secret = ClientSecret::of_server(ephemeral, &proof.client)?;
        let key = AcceptKey::new(network, &self.shared, &self.server_secret, &client_secret);
        Ok(Proven { auth: self, proof, key })
    }

    pub(super) fn auth_key(&self) -> AuthKey {
        AuthKey::new(&self.start.network, &self.shared, &self.server_secret)
    }
}

/// The client is proven. Either [`accept`](Self::accept) it, or drop this and the line: the client then
/// learns nothing.
pub struct Proven<'a> {
    auth: ExpectAuth<'a>,
    proof: ClientProof,
    pub(super) key: AcceptKey,
}

impl Proven<'_> {
    /// Who the client is.
    pub fn peer(&self) -> PublicKey {
        self.proof.client
    }

    /// Ends the handshake; the array is our accept message.
    pub fn accept(self) -> ([u8; ACCEPT_LEN], Outcome) {
        let ExpectHello { keypair, network, ephemeral } = self.auth.start;
        let statement = server_statement(&network, &self.proof, &self.auth.shared.hash());
        let message = seal_accept(&self.key.0, &keypair.sign(&statement));
        let ours = (PublicKey::from_bytes(keypair.public.0), &ephemeral.public);
        let theirs = (self.proof.client, &self.auth.their_ephemeral);
        (message, outcome(self.key, &network, ours, theirs))
    }
}

impl fmt::Debug for ExpectHello<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExpectHello(..)")
    }
}

impl fmt::Debug for ExpectAuth<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExpectAuth(..)")
    }
}

impl fmt::Debug for Proven<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proven").field("peer", &self.peer()).finish_non_exhaustive()
    }
}
