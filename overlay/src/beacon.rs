//! Beacons: the datagrams by which SSB peers tell a LAN where they listen.
//!
//! There are two forms (protocol guide, "LAN discovery"). The plain one is a multiserver address as
//! ASCII, sent to UDP port 8008. The sealed one is the same address in JSON, signed by its author and
//! boxed under the network key, sent to UDP port 26830. [`crate::lan`] moves the datagrams; this module
//! only reads and writes them, and [`Table`] remembers who was heard lately.
//!
//! A beacon proves nothing: the signature of a sealed one can be replayed by anyone who heard it. What
//! always holds is that [`Heard::reachable`] never points outside the local network, so that no datagram
//! can make us dial a stranger; who is there is proven by SHS.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use ssb_crypto::secretbox::{Hmac, Key, Nonce};
use ssb_crypto::{Keypair, Signature};

use crate::address::{Address, Addresses, Endpoint, ParseAddressError};
use crate::keys::{NetworkKey, PublicKey};

mod table;
pub use table::{EXPIRY, Entry, MAX_ENTRIES, MAX_ENTRIES_PER_IP, Output, REFRESH, Table};

/// Where plain beacons go, unless configured otherwise.
pub const PLAIN_PORT: u16 = 8008;
/// Where sealed beacons go, unless configured otherwise.
pub const SEALED_PORT: u16 = 26830;
/// Longest plain beacon we send; go-ssb reads no more.
pub const MAX_PLAIN_SENT: usize = 128;
/// Longest datagram we read: what fits one Ethernet frame.
pub const MAX_RECEIVED: usize = 1472;

/// Which of the two forms a beacon had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// An address as text.
    Plain,
    /// Signed, and boxed under the network key.
    Sealed,
}

/// What a beacon says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who its sender claims to be.
    pub key: PublicKey,
    /// Where it claims to listen; never empty.
    pub listening: Vec<SocketAddr>,
}

/// Why a datagram is not a beacon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeaconError {
    /// Longer than [`MAX_RECEIVED`].
    #[error("longer than {MAX_RECEIVED} bytes")]
    TooLong,
    /// Not text.
    #[error("not UTF-8")]
    NotText,
    /// Not an address.
    #[error("not an address: {0}")]
    Address(#[from] ParseAddressError),
    /// No `net:` address with an IP address, a port and a key.
    #[error("no net address with an IP address and a key")]
    NoNetAddress,
    /// Sealed for another network, or not sealed at all.
    #[error("not sealed for this network")]
    NotSealedForUs,
    /// The box does not hold `{"address": …}`.
    #[error("the box does not hold an address")]
    NotJson,
    /// Not signed by the key in its address.
    #[error("not signed by the key in its address")]
    BadSignature,
}

impl Heard {
    /// Where to dial, for a beacon that arrived from `source`: an address it claims, if that one is on a
    /// network of ours, else `source` itself with the claimed port. `None` if `source` is not on a
    /// network of ours either.
    pub fn reachable(&self, source: IpAddr, on_link: impl Fn(IpAddr) -> bool) -> Option<SocketAddr> {
        if !on_link(source) {
            return None;
        }
        let sent_from = self.listening.iter().find(|claimed| claimed.ip() == source);
        let nearby = || self.listening.iter().find(|claimed| on_link(claimed.ip()));
        let port = self.listening.first()?.port();
        Some(sent_from.or_else(nearby).copied().unwrap_or_else(|| SocketAddr::new(source, port)))
    }
}

/// Writes a plain beacon: one short IPv4 address, because go-ssb reads 128 bytes and solar only IPv4.
pub fn encode_plain(ip: Ipv4Addr, port: u16, key: PublicKey) -> Vec<u8> {
    let text = net_address(ip, port, key).into_bytes();
    debug_assert!(text.len() <= MAX_PLAIN_SENT);
    text
}

/// Reads a plain beacon.
pub fn decode_plain(datagram: &[u8]) -> Result<Heard, BeaconError> {
    check_length(datagram)?;
    let text = str::from_utf8(datagram).map_err(|_| BeaconError::NotText)?;
    heard(text.trim_end())
}

/// Writes a sealed beacon.
pub fn encode_sealed(ip: Ipv4Addr, port: u16, network: &NetworkKey, keypair: &Keypair) -> Vec<u8> {
    let address = net_address(ip, port, PublicKey::from_bytes(keypair.public.0));
    let body = serde_json::to_vec(&Body { address: &address }).expect("a struct of one string is JSON");
    let signature = keypair.sign(signed_text(&address).as_bytes());
    let mut datagram = vec![0; Hmac::SIZE + body.len()];
    let (key, nonce) = sealing(network);
    key.seal_attached_into(&body, &nonce, &mut datagram);
    datagram.extend_from_slice(&signature.0);
    datagram
}

/// Reads a sealed beacon. One whose signature is wrong is refused.
pub fn decode_sealed(datagram: &[u8], network: &NetworkKey) -> Result<Heard, BeaconError> {
    check_length(datagram)?;
    let split = datagram.split_last_chunk::<{ Signature::SIZE }>();
    let (sealed, signature) = split.ok_or(BeaconError::NotSealedForUs)?;
    let length = sealed.len().checked_sub(Hmac::SIZE).ok_or(BeaconError::NotSealedForUs)?;
    let mut body = vec![0; length];
    let (key, nonce) = sealing(network);
    if !key.open_attached_into(sealed, &nonce, &mut body) {
        return Err(BeaconError::NotSealedForUs);
    }
    let body: OwnedBody = serde_json::from_slice(&body).map_err(|_| BeaconError::NotJson)?;
    let heard = heard(&body.address)?;
    if heard.key.verify(&Signature(*signature), signed_text(&body.address).as_bytes()) {
        Ok(heard)
    } else {
        Err(BeaconError::BadSignature)
    }
}

#[derive(Serialize)]
struct Body<'a> {
    address: &'a str,
}

#[derive(Deserialize)]
struct OwnedBody {
    address: String,
}

fn net_address(ip: Ipv4Addr, port: u16, key: PublicKey) -> String {
    Address::new(Endpoint::Net { host: ip.to_string(), port }, key).to_string()
}

/// `JSON.stringify({address}, null, 2)`.
fn signed_text(address: &str) -> String {
    format!("{{\n  \"address\": {}\n}}", serde_json::Value::from(address))
}

/// The network key is the box's key, and its first 24 bytes the nonce: the box only keeps out other
/// networks.
fn sealing(network: &NetworkKey) -> (Key, Nonce) {
    let bytes = network.as_bytes();
    let mut nonce = [0; Nonce::SIZE];
    nonce.copy_from_slice(&bytes[..Nonce::SIZE]);
    (Key(*bytes), Nonce(nonce))
}

const fn check_length(datagram: &[u8]) -> Result<(), BeaconError> {
    if datagram.len() > MAX_RECEIVED { Err(BeaconError::TooLong) } else { Ok(()) }
}

fn heard(text: &str) -> Result<Heard, BeaconError> {
    let addresses: Addresses = text.parse()?;
    let mut claims = addresses.0.into_iter().filter_map(net_claim);
    let (key, first) = claims.next().ok_or(BeaconError::NoNetAddress)?;
    let others = claims.filter(|(other, _)| *other == key).map(|(_, at)| at);
    Ok(Heard { key, listening: std::iter::once(first).chain(others).collect() })
}

/// Names are not followed: a beacon is about this network.
fn net_claim(address: Address) -> Option<(PublicKey, SocketAddr)> {
    let key = address.key?;
    let Endpoint::Net { host, port } = address.endpoint else { return None };
    let ip: IpAddr = host.split('%').next()?.parse().ok()?;
    Some((key, SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=";
    const IP: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 5);
    /// Made by ssb-lan 1.x: author seed 0x01 x 32, main network, `net:192.168.1.5:8008`.
    const SEALED_BY_JS: &str = "d4a3d06aaa69b0c4113ad9d63b6e13abcf3135a37ef849e15892c7d88e47f673afe1b1738e4fb7fa9248947fd9a77a57d36a3d5dc837c8992f287aa1093016568b325dcc45e36fd958c094644d58e942fcfddde926b3cf32bd9ee53e18a54cd5c1e24878b146d38e4ebd71242b831eaed9f53c33e30276b446174dbe34f2d66429dcb537e866591c5f268c7d567ceb5ea89b3aac94859f8c10884e4c9623c149d8a800";

    fn keypair() -> Keypair {
        ssb_crypto::sodium::init().unwrap();
        Keypair::from_seed(&[1; 32]).unwrap()
    }

    fn key() -> PublicKey {
        PublicKey::from_base64(KEY).unwrap()
    }

    fn unhex(text: &str) -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn expected() -> Heard {
        Heard { key: key(), listening: vec![SocketAddr::from((IP, 8008))] }
    }

    #[test]
    fn a_plain_beacon_is_what_go_and_solar_expect() {
        let datagram = encode_plain(IP, 8008, key());
        assert_eq!(datagram, format!("net:192.168.1.5:8008~shs:{KEY}").into_bytes());
        assert_eq!(decode_plain(&datagram), Ok(expected()));
        let longest = encode_plain(Ipv4Addr::new(255, 255, 255, 255), u16::MAX, key());
        assert!(longest.len() <= MAX_PLAIN_SENT);
    }

    #[test]
    fn a_js_beacon_with_several_addresses_gives_all_its_net_ones() {
        let text = format!(
            "net:192.168.1.5:8008~shs:{KEY};ws://192.168.1.5:8989~shs:{KEY};net:fd00::1:8008~shs:{KEY}"
        );
        let heard = decode_plain(text.as_bytes()).unwrap();
        let expected: Vec<SocketAddr> =
            vec!["192.168.1.5:8008".parse().unwrap(), "[fd00::1]:8008".parse().unwrap()];
        assert_eq!(heard.listening, expected);
    }

    #[test]
    fn the_sealed_beacon_of_js_is_reproduced_and_read() {
        let datagram = encode_sealed(IP, 8008, &NetworkKey::MAIN, &keypair());
        assert_eq!(datagram, unhex(SEALED_BY_JS));
        assert_eq!(decode_sealed(&datagram, &NetworkKey::MAIN), Ok(expected()));
    }

    #[test]
    fn a_sealed_beacon_of_another_network_is_refused() {
        let datagram = encode_sealed(IP, 8008, &NetworkKey::from_bytes([9; 32]), &keypair());
        assert_eq!(decode_sealed(&datagram, &NetworkKey::MAIN), Err(BeaconError::NotSealedForUs));
    }

    #[test]
    fn a_sealed_beacon_with_a_foreign_signature_is_refused() {
        let mut datagram = encode_sealed(IP, 8008, &NetworkKey::MAIN, &keypair());
        *datagram.last_mut().unwrap() ^= 0x10;
        assert_eq!(decode_sealed(&datagram, &NetworkKey::MAIN), Err(BeaconError::BadSignature));
    }

    #[test]
    fn every_cut_of_a_sealed_beacon_is_refused() {
        let whole = unhex(SEALED_BY_JS);
        keypair();
        for length in 0..whole.len() {
            assert!(decode_sealed(&whole[..length], &NetworkKey::MAIN).is_err(), "{length}");
        }
    }

    #[test]
    fn what_is_no_beacon_is_told_apart() {
        assert_eq!(decode_plain(&[0xff]), Err(BeaconError::NotText));
        assert_eq!(decode_plain(&[b'n'; MAX_RECEIVED + 1]), Err(BeaconError::TooLong));
        assert_eq!(decode_plain(b"hello world"), Err(ParseAddressError::Character(' ').into()));
        let named = format!("net:example.com:8008~shs:{KEY}");
        assert_eq!(decode_plain(named.as_bytes()), Err(BeaconError::NoNetAddress));
        assert_eq!(decode_plain(b"net:192.168.1.5:8008~noauth"), Err(BeaconError::NoNetAddress));
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn at(claims: &[&str]) -> Heard {
        Heard { key: key(), listening: claims.iter().map(|c| c.parse().unwrap()).collect() }
    }

    #[test]
    fn a_beacon_leads_to_the_address_it_came_from_before_any_other_it_claims() {
        let on_link = |ip: IpAddr| ip.to_string().starts_with("10.");
        let heard = at(&["10.0.0.9:1", "10.0.0.5:2"]);
        assert_eq!(heard.reachable(ip("10.0.0.5"), on_link), Some("10.0.0.5:2".parse().unwrap()));
        assert_eq!(heard.reachable(ip("10.0.0.7"), on_link), Some("10.0.0.9:1".parse().unwrap()));
    }

    #[test]
    fn a_beacon_never_leads_off_the_local_network() {
        let on_link = |ip: IpAddr| ip.to_string().starts_with("10.");
        let heard = at(&["203.0.113.9:22"]);
        assert_eq!(heard.reachable(ip("10.0.0.5"), on_link), Some("10.0.0.5:22".parse().unwrap()));
        assert_eq!(heard.reachable(ip("203.0.113.9"), on_link), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            keypair();
            let _ = decode_plain(&bytes);
            prop_assert!(decode_sealed(&bytes, &NetworkKey::MAIN).is_err());
        }

        #[test]
        fn both_forms_are_read_back(ip in any::<Ipv4Addr>(), port in 1..=u16::MAX) {
            let expected = Heard { key: key(), listening: vec![SocketAddr::from((ip, port))] };
            let sealed = encode_sealed(ip, port, &NetworkKey::MAIN, &keypair());
            prop_assert_eq!(&decode_plain(&encode_plain(ip, port, key())).unwrap(), &expected);
            prop_assert_eq!(&decode_sealed(&sealed, &NetworkKey::MAIN).unwrap(), &expected);
        }
    }
}
