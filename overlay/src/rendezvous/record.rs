//! A record: what is stored in the DHT.
//!
//! [`SIZE`] bytes: version, blinded key 32, period u64be, sequence u64be (milliseconds since 1970 when it
//! was published), nonce 24, a secretbox, and the blinded key's signature over all before it with
//! [`SIGNED`] in front. In the box, padded with zeros: peer id, the certificate's times and signature,
//! NAT class, and the addresses without the peer id that they end in; texts have their length in front.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use ssb_crypto::secretbox::{self, Hmac, Nonce};
use ssb_crypto::{Keypair, Signature};

use super::PERIOD;
use super::blind::{self, BlindedKey};
use super::secret::{Direction, Secret, hmac};
use crate::certificate::{Certificate, Claim, MAX_ADDRESSES};
use crate::conn::TransportId;
use crate::kad::{Refusal, Stamp};
use crate::keys::{NetworkKey, PublicKey};
use crate::reachability::Nat;

#[cfg(test)]
mod tests;

/// The size of every record, in bytes.
pub(super) const SIZE: usize = 1024;
/// How long a record is good after it was published.
pub(super) const LIFE: Duration = Duration::from_secs(2 * 60 * 60);
/// For how long before its period a record may be published, and is still good after it.
pub(super) const OVERLAP: Duration = Duration::from_secs(30 * 60);
/// How far apart two clocks may be: each ten minutes wrong.
pub(super) const CLOCK_SLACK: Duration = Duration::from_secs(20 * 60);

const VERSION: u8 = 1;
const SIGNED: &[u8] = b"hawsepipe rendezvous record 1";
const KEY: usize = 1;
const PERIOD_AT: usize = KEY + 32;
const SEQUENCE: usize = PERIOD_AT + 8;
const NONCE: usize = SEQUENCE + 8;
const BOX: usize = NONCE + Nonce::SIZE;
const SIGNATURE: usize = SIZE - Signature::SIZE;
const PLAIN: usize = SIGNATURE - BOX - Hmac::SIZE;

/// Whoever can publish at one place of one period.
pub(super) struct Writer {
    key: BlindedKey,
    seal: secretbox::Key,
    period: u64,
    /// Of the latest record.
    sequence: u64,
}

/// Whoever knows where one publisher's records are.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    pub(super) secret: Secret,
    pub(super) direction: Direction,
    pub(super) publisher: PublicKey,
}

/// What a record says, once all of it was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) certificate: Certificate,
    pub(super) nat: Nat,
    pub(super) stamp: Stamp,
}

/// What can be read of a record without any secret.
struct Outside {
    key: PublicKey,
    period: u64,
    sequence: u64,
}

impl Writer {
    pub(super) fn new(keypair: &Keypair, secret: &Secret, period: u64, direction: Direction) -> Self {
        let key = BlindedKey::new(&keypair.secret.0, &secret.blinding(period, direction));
        Self { key, seal: secret.seal_key(period, direction), period, sequence: 0 }
    }

    /// One whose records nobody can open.
    pub(super) fn decoy(period: u64, random: [[u8; 32]; 3]) -> Self {
        let [seed, h, seal] = random;
        Self { key: BlindedKey::new(&seed, &h), seal: secretbox::Key(seal), period, sequence: 0 }
    }

    /// The record's key in the DHT.
    pub(super) fn place(&self) -> Vec<u8> {
        place(self.key.public())
    }

    /// The next record. `None` says nothing.
    pub(super) fn write(&mut self, unix: Duration, content: Option<(&Certificate, Nat)>) -> Vec<u8> {
        self.sequence = millis(unix).max(self.sequence + 1);
        let mut plain = content.map(|(certificate, nat)| encode(certificate, nat)).unwrap_or_default();
        plain.resize(PLAIN, 0);
        let mut value = vec![VERSION];
        value.extend_from_slice(self.key.public().as_bytes());
        value.extend_from_slice(&self.period.to_be_bytes());
        value.extend_from_slice(&self.sequence.to_be_bytes());
        // Made of what is sealed, a nonce comes again only with the same text, whatever the clock does.
        let nonce = hmac(&self.seal.0, &[SIGNED, &value, &plain]);
        let nonce = Nonce(nonce[..Nonce::SIZE].try_into().expect("24 of 32 bytes"));
        let tag = self.seal.seal(&mut plain, &nonce);
        value.extend_from_slice(&nonce.0);
        value.extend_from_slice(&tag.0);
        value.extend_from_slice(&plain);
        let signature = self.key.sign(&[SIGNED, &value].concat());
        value.extend_from_slice(&signature.0);
        value
    }
}

impl Reader {
    /// Where the publisher's records of a period are in the DHT; `None` where its key is a weak one.
    pub(super) fn place(&self, period: u64) -> Option<Vec<u8>> {
        self.blinded(period).map(place)
    }

    /// Verifies and opens a record of the publisher.
    pub(super) fn open(
        &self,
        period: u64,
        network: NetworkKey,
        unix: Duration,
        value: &[u8],
    ) -> Result<Opened, Refusal> {
        let outside = outside(value)?;
        if self.blinded(period) != Some(outside.key) {
            return Err("key");
        }
        if outside.period != period {
            return Err("period");
        }
        let stamp = stamp(&outside, unix)?;
        if !is_signed(value, outside.key) {
            return Err("signature");
        }
        let tag = Hmac::from_slice(&value[BOX..BOX + Hmac::SIZE]).ok_or("seal")?;
        let nonce = Nonce::from_slice(&value[NONCE..BOX]).ok_or("seal")?;
        let mut plain = value[BOX + Hmac::SIZE..SIGNATURE].to_vec();
        if !self.secret.seal_key(period, self.direction).open(&mut plain, &tag, &nonce) {
            return Err("seal");
        }
        let (claim, signature, nat) = decode(self.publisher, &plain).ok_or("content")?;
        let certificate = Certificate::verify(claim, signature, network, unix).map_err(|_| "certificate")?;
        Ok(Opened { certificate, nat, stamp })
    }

    fn blinded(&self, period: u64) -> Option<PublicKey> {
        blind::blind(self.publisher, &self.secret.blinding(period, self.direction))
    }
}

/// Checks a record without any secret: [`crate::kad::Validate`].
pub(super) fn validate(key: &[u8], value: &[u8], unix: Duration) -> Result<Stamp, Refusal> {
    let outside = outside(value)?;
    if key != place(outside.key) {
        return Err("key");
    }
    let stamp = stamp(&outside, unix)?;
    if is_signed(value, outside.key) { Ok(stamp) } else { Err("signature") }
}

/// The period that a time since 1970 is in.
pub(super) const fn period_of(unix: Duration) -> u64 {
    unix.as_secs() / PERIOD.as_secs()
}

/// As many of the addresses, from the first on, as a record has room for.
pub(super) fn fitting(peer: &TransportId, addresses: impl IntoIterator<Item = String>) -> Vec<String> {
    let ending = format!("/p2p/{peer}");
    let mut room = PLAIN - (1 + peer.to_string().len() + 8 + 8 + Signature::SIZE + 1 + 1);
    let fits = |address: &String| {
        let size = address.len().saturating_sub(ending.len()) + 1;
        room.checked_sub(size).map(|rest| room = rest).is_some()
    };
    addresses.into_iter().take(MAX_ADDRESSES).take_while(fits).collect()
}

fn outside(value: &[u8]) -> Result<Outside, Refusal> {
    if value.len() != SIZE {
        return Err("size");
    }
    if value[0] != VERSION {
        return Err("version");
    }
    let number = |at: usize| u64::from_be_bytes(value[at..at + 8].try_into().expect("eight bytes"));
    let key = value[KEY..PERIOD_AT].try_into().expect("32 bytes");
    Ok(Outside { key: PublicKey::from_bytes(key), period: number(PERIOD_AT), sequence: number(SEQUENCE) })
}

/// When it ends, if its times go together and with ours. A record whose end our clock has passed by less
/// than [`CLOCK_SLACK`] is left to whoever asked: the clock may be ours that is wrong.
fn stamp(outside: &Outside, unix: Duration) -> Result<Stamp, Refusal> {
    if outside.period.abs_diff(period_of(unix)) > 1 {
        return Err("period");
    }
    let published = Duration::from_millis(outside.sequence);
    let start = PERIOD * u32::try_from(outside.period).map_err(|_| "period")?;
    let until = (published + LIFE).min(start + PERIOD + OVERLAP);
    let is_of_its_period = published + OVERLAP + CLOCK_SLACK >= start && published < start + PERIOD + OVERLAP;
    if !is_of_its_period || published > unix + CLOCK_SLACK || until + CLOCK_SLACK <= unix {
        return Err("sequence");
    }
    Ok(Stamp { sequence: outside.sequence, until })
}

fn is_signed(value: &[u8], key: PublicKey) -> bool {
    let (signed, signature) = value.split_at(SIGNATURE);
    let signature = Signature::from_slice(signature);
    signature.is_some_and(|signature| key.verify(&signature, &[SIGNED, signed].concat()))
}

fn place(key: PublicKey) -> Vec<u8> {
    Sha256::digest(key.as_bytes()).to_vec()
}

fn encode(certificate: &Certificate, nat: Nat) -> Vec<u8> {
    let ending = format!("/p2p/{}", certificate.peer);
    let mut plain = Vec::with_capacity(PLAIN);
    put_text(&mut plain, &certificate.peer.to_string());
    plain.extend_from_slice(&certificate.not_before.to_be_bytes());
    plain.extend_from_slice(&certificate.not_after.to_be_bytes());
    plain.extend_from_slice(certificate.signature());
    plain.push(nat_byte(nat));
    plain.push(certificate.addresses.len() as u8);
    for address in &certificate.addresses {
        put_text(&mut plain, address.strip_suffix(&ending).unwrap_or(address));
    }
    plain
}

fn decode(feed: PublicKey, mut plain: &[u8]) -> Option<(Claim, [u8; 64], Nat)> {
    let peer = TransportId::parse(take_text(&mut plain)?)?;
    let not_before = u64::from_be_bytes(take(&mut plain)?);
    let not_after = u64::from_be_bytes(take(&mut plain)?);
    let signature = take(&mut plain)?;
    let [nat, count] = take(&mut plain)?;
    let count = usize::from(count);
    if count > MAX_ADDRESSES {
        return None;
    }
    let addresses = (0..count).map(|_| Some(format!("{}/p2p/{peer}", take_text(&mut plain)?)));
    let addresses = addresses.collect::<Option<_>>()?;
    if plain.iter().any(|byte| *byte != 0) {
        return None;
    }
    Some((Claim { feed, peer, addresses, not_before, not_after }, signature, nat_of(nat)))
}

fn put_text(plain: &mut Vec<u8>, text: &str) {
    plain.push(text.len() as u8);
    plain.extend_from_slice(text.as_bytes());
}

fn take<const N: usize>(plain: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = plain.split_first_chunk()?;
    *plain = rest;
    Some(*taken)
}

fn take_text<'a>(plain: &mut &'a [u8]) -> Option<&'a str> {
    let [length] = take(plain)?;
    let (text, rest) = plain.split_at_checked(usize::from(length))?;
    *plain = rest;
    str::from_utf8(text).ok()
}

const fn nat_byte(nat: Nat) -> u8 {
    match nat {
        Nat::Unknown => 0,
        Nat::Blocked => 1,
        Nat::Untranslated => 2,
        Nat::EndpointIndependent => 3,
        Nat::EndpointIndependentShifted => 4,
        Nat::Sequential => 5,
        Nat::Random => 6,
    }
}

/// Classes that later versions may add are unknown to us.
const fn nat_of(byte: u8) -> Nat {
    match byte {
        1 => Nat::Blocked,
        2 => Nat::Untranslated,
        3 => Nat::EndpointIndependent,
        4 => Nat::EndpointIndependentShifted,
        5 => Nat::Sequential,
        6 => Nat::Random,
        _ => Nat::Unknown,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
