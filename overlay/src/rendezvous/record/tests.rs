use proptest::prelude::*;

use super::*;

const PEER: &str = "12D3KooWGjMCaamY1zyZfWgiRzfa3ePn4RgmzdtXMvAo1K3EwXLV";
/// One hour into a period.
const NOW: Duration = Duration::from_secs(125_000 * PERIOD.as_secs() + 3600);
const P: u64 = 125_000;

fn keypair(seed: u8) -> (Keypair, PublicKey) {
    assert!(ssb_crypto::sodium::init().is_ok());
    let keypair = Keypair::from_seed(&[seed; 32]).unwrap();
    let public = PublicKey::from_bytes(keypair.public.0);
    (keypair, public)
}

/// A writes for B, who reads.
fn pair(period: u64) -> (Writer, Reader) {
    let ((a, feed), (b, reader)) = (keypair(1), keypair(2));
    let direction = Direction::between(feed, reader);
    let secret = Secret::pairwise(&a, reader, NetworkKey::MAIN).unwrap();
    let writer = Writer::new(&a, &secret, period, direction);
    let secret = Secret::pairwise(&b, feed, NetworkKey::MAIN).unwrap();
    (writer, Reader { secret, direction, publisher: feed })
}

fn certificate(addresses: Vec<String>) -> Certificate {
    let peer = TransportId::parse(PEER).unwrap();
    let addresses = fitting(&peer, addresses);
    Certificate::sign(&keypair(1).0, NetworkKey::MAIN, peer, addresses, NOW)
}

fn long_circuit(host: u8) -> String {
    format!(
        "/ip6/2001:db8:ffff:ffff:ffff:ffff:ffff:ff{host:02x}/udp/65535/quic-v1/p2p/{PEER}/p2p-circuit/p2p/{PEER}"
    )
}

fn record() -> Vec<u8> {
    pair(P).0.write(NOW, Some((&certificate(vec![long_circuit(1)]), Nat::Random)))
}

#[test]
fn what_is_written_is_stored_and_read() {
    let (mut writer, reader) = pair(P);
    let certificate = certificate((0..10).map(long_circuit).collect());
    assert_eq!(certificate.addresses.len(), 5, "of the longest kind");
    let value = writer.write(NOW, Some((&certificate, Nat::Random)));
    assert_eq!(value.len(), SIZE);
    let place = reader.place(P).unwrap();
    assert_eq!(writer.place(), place);
    let stamp = validate(&place, &value, NOW).unwrap();
    assert_eq!(stamp, Stamp { sequence: NOW.as_millis() as u64, until: NOW + LIFE });
    let opened = reader.open(P, NetworkKey::MAIN, NOW, &value);
    assert_eq!(opened, Ok(Opened { certificate, nat: Nat::Random, stamp }));
}

#[test]
fn a_sequence_rises_even_where_the_clock_goes_back() {
    let (mut writer, _) = pair(P);
    let sequence = |value: Vec<u8>| outside(&value).unwrap().sequence;
    let first = sequence(writer.write(NOW, None));
    assert_eq!(sequence(writer.write(NOW - Duration::from_secs(60), None)), first + 1);
}

#[test]
fn every_changed_bit_is_noticed() {
    let (value, (_, reader)) = (record(), pair(P));
    let place = reader.place(P).unwrap();
    for bit in (0..8 * SIZE).step_by(5) {
        let mut forged = value.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        assert!(validate(&place, &forged, NOW).is_err(), "bit {bit}");
        assert!(reader.open(P, NetworkKey::MAIN, NOW, &forged).is_err(), "bit {bit}");
    }
    for size in [0, 1, SIZE - 1, SIZE + 1] {
        let mut resized = value.clone();
        resized.resize(size, 0);
        assert_eq!(validate(&place, &resized, NOW), Err("size"));
    }
    let mut newer = value.clone();
    newer[0] = 2;
    assert_eq!(validate(&place, &newer, NOW), Err("version"));
    assert_eq!(validate(&[7; 32], &value, NOW), Err("key"));
}

#[test]
fn times_that_do_not_go_together_are_refused() {
    let at = |period: u64, published: Duration, unix: Duration| {
        let (mut writer, reader) = pair(period);
        validate(&reader.place(period).unwrap(), &writer.write(published, None), unix)
    };
    let start = PERIOD * P as u32;
    let (end, minute) = (start + PERIOD, Duration::from_secs(60));
    assert_eq!(at(P + 1, NOW, NOW), Err("sequence"), "long before its period");
    assert_eq!(at(P - 1, NOW, NOW), Err("sequence"), "long after it");
    assert_eq!(at(P + 2, NOW, NOW), Err("period"));
    assert_eq!(at(u64::MAX, NOW, NOW), Err("period"));
    assert_eq!(at(P, NOW + 21 * minute, NOW), Err("sequence"), "in the future");
    assert!(at(P, NOW + 20 * minute, NOW).is_ok());
    assert_eq!(at(P, NOW, NOW + LIFE + CLOCK_SLACK), Err("sequence"), "over");
    assert!(at(P, NOW, NOW + LIFE + CLOCK_SLACK - minute).is_ok());
    assert!(at(P + 1, end - OVERLAP, end - OVERLAP - CLOCK_SLACK).is_ok(), "by clocks 20 minutes apart");
    let late = at(P, end - minute, end).unwrap();
    assert_eq!(late.until, end + OVERLAP, "it does not outlive its period by much");
}

#[test]
fn only_whom_it_is_for_can_open_it() {
    let value = record();
    let ((c, third), (_, feed)) = (keypair(3), keypair(1));
    let secret = Secret::pairwise(&c, feed, NetworkKey::MAIN).unwrap();
    let third = Reader { secret, direction: Direction::between(feed, third), publisher: feed };
    assert_eq!(third.open(P, NetworkKey::MAIN, NOW, &value), Err("key"));
    let (_, reader) = pair(P);
    assert_eq!(reader.open(P + 1, NetworkKey::MAIN, NOW, &value), Err("key"));
    let other = NetworkKey::from_bytes([9; 32]);
    assert_eq!(reader.open(P, other, NOW, &value), Err("certificate"));
    let empty = pair(P).0.write(NOW, None);
    assert_eq!(reader.open(P, NetworkKey::MAIN, NOW, &empty), Err("content"));
}

/// A friend may pass our certificate on, but not as its own, nor another's as ours.
#[test]
fn a_certificate_of_somebody_else_is_refused() {
    let (mut writer, reader) = pair(P);
    let peer = TransportId::parse(PEER).unwrap();
    let foreign = Certificate::sign(&keypair(3).0, NetworkKey::MAIN, peer, Vec::new(), NOW);
    let value = writer.write(NOW, Some((&foreign, Nat::Unknown)));
    assert_eq!(reader.open(P, NetworkKey::MAIN, NOW, &value), Err("certificate"));
}

#[test]
fn a_decoy_is_stored_like_any_other() {
    keypair(1);
    let mut decoy = Writer::decoy(P, [[1; 32], [2; 32], [3; 32]]);
    let value = decoy.write(NOW, None);
    assert_eq!(value.len(), SIZE);
    assert_eq!(validate(&decoy.place(), &value, NOW), validate(&pair(P).0.place(), &record(), NOW));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(mut value in prop::collection::vec(any::<u8>(), SIZE), plain: Vec<u8>) {
        let (_, reader) = pair(P);
        value[0] = VERSION;
        prop_assert!(validate(&[0; 32], &value, NOW).is_err());
        prop_assert!(reader.open(P, NetworkKey::MAIN, NOW, &value).is_err());
        let claim = decode(reader.publisher, &plain);
        prop_assert!(claim.is_none_or(|(claim, _, _)| claim.addresses.len() <= MAX_ADDRESSES));
    }
}
