//! The dialer's side, in protocol order: [`start`], [`ExpectHello`], [`ExpectAccept`].

use std::fmt;

use ssb_crypto::Keypair;
use ssb_crypto::ephemeral::EphPublicKey;

use super::secrets::{AcceptKey, AuthKey, ClientSecret, EphemeralSecret, ServerSecret, outcome};
use super::wire::{
    ACCEPT_LEN, AUTH_LEN, ClientProof, HELLO_LEN, client_statement, open_accept, read_hello,
    server_statement, write_hello,
};
use super::{Ephemeral, Outcome, ShsError};
use crate::keys::{NetworkKey, PublicKey};

/// Starts a handshake with the holder of `server`; the array is our hello.
pub fn start(
    keypair: &Keypair,
    network: NetworkKey,
    server: PublicKey,
    ephemeral: Ephemeral,
) -> ([u8; HELLO_LEN], ExpectHello<'_>) {
    let hello = write_hello(&network, &ephemeral.public);
    (hello, ExpectHello { keypair, network, server, ephemeral })
}

/// Waits for the server's hello.
pub struct ExpectHello<'a> {
    keypair: &'a Keypair,
    network: NetworkKey,
    server: PublicKey,
    ephemeral: Ephemeral,
}

impl<'a> ExpectHello<'a> {
    /// Takes the server's hello; the array is our auth message.
    pub fn receive(self, hello: &[u8; HELLO_LEN]) -> Result<([u8; AUTH_LEN], ExpectAccept<'a>), ShsError> {
        let their_ephemeral = read_hello(&self.network, hello)?;
        let shared = EphemeralSecret::new(&self.ephemeral, &their_ephemeral)?;
        let server_secret = ServerSecret::of_client(&self.ephemeral, &self.server)?;
        let statement = client_statement(&self.network, &self.server, &shared.hash());
        let proof = ClientProof {
            signature: self.keypair.sign(&statement),
            client: PublicKey::from_bytes(self.keypair.public.0),
        };
        let message = proof.seal(&AuthKey::new(&self.network, &shared, &server_secret).0);
        Ok((message, ExpectAccept { start: self, their_ephemeral, shared, server_secret, proof }))
    }
}

/// Waits for the server's accept message.
pub struct ExpectAccept<'a> {
    start: ExpectHello<'a>,
    their_ephemeral: EphPublicKey,
    shared: EphemeralSecret,
    server_secret: ServerSecret,
    proof: ClientProof,
}

impl ExpectAccept<'_> {
    /// Takes the server's accept message, which ends the handshake.
    pub fn receive(self, accept: &[u8; ACCEPT_LEN]) -> Result<Outcome, ShsError> {
        let ExpectHello { keypair, network, server, ephemeral } = self.start;
        let client_secret = ClientSecret::of_client(keypair, &self.their_ephemeral)?;
        let key = AcceptKey::new(&network, &self.shared, &self.server_secret, &client_secret);
        let signature = open_accept(&key.0, accept).ok_or(ShsError::BadAccept)?;
        let statement = server_statement(&network, &self.proof, &self.shared.hash());
        if !server.verify(&signature, &statement) {
            return Err(ShsError::BadServerProof);
        }
        let ours = (self.proof.client, &ephemeral.public);
        Ok(outcome(key, &network, ours, (server, &self.their_ephemeral)))
    }
}

impl fmt::Debug for ExpectHello<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExpectHello").field("server", &self.server).finish_non_exhaustive()
    }
}

impl fmt::Debug for ExpectAccept<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExpectAccept").field("server", &self.start.server).finish_non_exhaustive()
    }
}
