//! Who may move a session: the key that only the two ends of its handshake know, and what is signed with it.

use std::fmt;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::frame::{self, Claim, MAC, Poke, SessionId};
use crate::rendezvous::hmac;
use crate::shs::AcceptKey;

const LABEL: &[u8] = b"hawsepipe carrier resume 1";

/// The two ends of a session as libp2p knows them: bytes of their peer ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    /// Who opened it.
    pub(crate) initiator: Box<[u8]>,
    pub(crate) responder: Box<[u8]>,
}

/// The key of one session. Zeroized when dropped.
pub(crate) struct ResumeKey {
    key: Zeroizing<[u8; MAC]>,
    ends: Ends,
}

impl fmt::Debug for ResumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResumeKey(..)")
    }
}

impl ResumeKey {
    /// Of what a finished handshake leaves.
    pub(crate) fn new(accept_key: &AcceptKey, ends: Ends) -> Self {
        Self::derive(accept_key.as_bytes(), ends)
    }

    pub(super) fn derive(shared: &[u8; 32], ends: Ends) -> Self {
        Self { key: Zeroizing::new(hmac(shared, &[LABEL])), ends }
    }

    pub(super) fn attach(&self, sid: SessionId, epoch: u32, recv: u64) -> Claim {
        self.claim(frame::ATTACH, sid, epoch, recv)
    }

    pub(super) fn attached(&self, sid: SessionId, epoch: u32, recv: u64) -> Claim {
        self.claim(frame::ATTACHED, sid, epoch, recv)
    }

    pub(super) fn poke(&self, sid: SessionId, number: u32) -> Poke {
        Poke { sid, number, mac: self.mac(frame::POKE, sid, number, 0) }
    }

    pub(super) fn made_attach(&self, claim: &Claim) -> bool {
        self.made(frame::ATTACH, claim)
    }

    pub(super) fn made_attached(&self, claim: &Claim) -> bool {
        self.made(frame::ATTACHED, claim)
    }

    pub(super) fn made_poke(&self, poke: &Poke) -> bool {
        self.mac(frame::POKE, poke.sid, poke.number, 0).ct_eq(&poke.mac).into()
    }

    fn claim(&self, kind: u8, sid: SessionId, epoch: u32, recv: u64) -> Claim {
        Claim { sid, epoch, recv, mac: self.mac(kind, sid, epoch, recv) }
    }

    fn made(&self, kind: u8, claim: &Claim) -> bool {
        self.mac(kind, claim.sid, claim.epoch, claim.recv).ct_eq(&claim.mac).into()
    }

    /// The kind stops reflection, the ends stop a splice, the number stops replay.
    fn mac(&self, kind: u8, sid: SessionId, number: u32, recv: u64) -> [u8; MAC] {
        let (number, recv) = (number.to_be_bytes(), recv.to_be_bytes());
        hmac(&self.key, &[&[kind], &sid.0, &number, &recv, &self.ends.initiator, &self.ends.responder])
    }
}
