use super::*;

const NOW: Duration = Duration::from_secs(1_800_000_000);
const PEER: &str = "12D3KooWGjMCaamY1zyZfWgiRzfa3ePn4RgmzdtXMvAo1K3EwXLV";

fn keypair() -> Keypair {
    assert!(ssb_crypto::sodium::init().is_ok());
    Keypair::from_seed(&[7; 32]).unwrap()
}

fn peer() -> TransportId {
    TransportId::parse(PEER).unwrap()
}

fn at(host: &str) -> String {
    format!("/ip4/{host}/udp/8008/quic-v1/p2p/{PEER}")
}

fn certificate() -> Certificate {
    Certificate::sign(&keypair(), NetworkKey::MAIN, peer(), vec![at("192.0.2.1"), at("192.0.2.2")], NOW)
}

fn read(json: &Value) -> Result<Certificate, InvalidCertificate> {
    Certificate::from_json(json, NetworkKey::MAIN, NOW)
}

/// What `JSON.stringify(object, null, 2)` of Node.js gives.
#[test]
fn the_signed_bytes_are_those_of_json_stringify() {
    let expected = concat!(
        "hawsepipe-node-cert-1{\n",
        "  \"cap\": \"1KHLiKZvAvjbY1ziZEHMXawbCEIM6qwjCDm3VYRan/s=\",\n",
        "  \"feed\": \"@6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=.ed25519\",\n",
        "  \"peerId\": \"12D3KooWGjMCaamY1zyZfWgiRzfa3ePn4RgmzdtXMvAo1K3EwXLV\",\n",
        "  \"addrs\": [\n",
        "    \"/ip4/192.0.2.1/udp/8008/quic-v1/p2p/12D3KooWGjMCaamY1zyZfWgiRzfa3ePn4RgmzdtXMvAo1K3EwXLV\",\n",
        "    \"/ip4/192.0.2.2/udp/8008/quic-v1/p2p/12D3KooWGjMCaamY1zyZfWgiRzfa3ePn4RgmzdtXMvAo1K3EwXLV\"\n",
        "  ],\n",
        "  \"notBefore\": 1799999400000,\n",
        "  \"notAfter\": 1800604200000\n",
        "}",
    );
    let signed = certificate();
    assert!(signed.feed.verify(&Signature(signed.signature), expected.as_bytes()));
    let json = signed.to_json(NetworkKey::MAIN);
    let members: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["cap", "feed", "peerId", "addrs", "notBefore", "notAfter", "signature"]);
    let signature = keypair().sign(expected.as_bytes()).as_base64();
    assert_eq!(json["signature"], format!("{signature}.sig.ed25519"));
}

#[test]
fn it_is_read_back_whatever_the_order_of_its_members() {
    let json = certificate().to_json(NetworkKey::MAIN);
    assert_eq!(read(&json), Ok(certificate()));
    let turned: serde_json::Map<_, _> = json.as_object().unwrap().clone().into_iter().rev().collect();
    assert_eq!(read(&Value::Object(turned)), Ok(certificate()));
    let empty = Certificate::sign(&keypair(), NetworkKey::MAIN, peer(), Vec::new(), NOW);
    assert_eq!(read(&empty.to_json(NetworkKey::MAIN)), Ok(empty));
}

#[test]
fn a_change_of_any_member_is_noticed() {
    use InvalidCertificate as E;
    let other = Keypair::from_seed(&[8; 32]).unwrap();
    let feed = PublicKey::from_bytes(other.public.0);
    let signature = format!("{}.sig.ed25519", other.sign(b"").as_base64());
    let not_after = certificate().not_after;
    for (name, value, error) in [
        ("cap", json!(STANDARD.encode([9; 32])), E::Network),
        ("feed", json!(feed), E::Signature),
        ("feed", json!("@AAAA.ed25519"), E::Form),
        ("peerId", json!("12D3KooWSomebodyElse"), E::Form),
        ("addrs", json!([at("192.0.2.1")]), E::Signature),
        ("addrs", json!([at("192.0.2.2"), at("192.0.2.1")]), E::Signature),
        ("addrs", json!(vec![at("192.0.2.1"); MAX_ADDRESSES + 1]), E::Form),
        ("addrs", json!([format!("/dns/{}", at(&"a".repeat(MAX_ADDRESS_LEN)))]), E::Form),
        ("addrs", json!(["/ip4/192.0.2.1/udp/8008/quic-v1"]), E::Form),
        ("addrs", json!([at("192.0.2.1\n")]), E::Form),
        ("notBefore", json!(certificate().not_before + 1), E::Signature),
        ("notAfter", json!(not_after - 1), E::Signature),
        ("notAfter", json!(not_after + 1), E::Form),
        ("notAfter", json!(1.5), E::Form),
        ("notAfter", json!(0), E::Form),
        ("signature", json!(signature), E::Signature),
        ("signature", json!("AAAA.sig.ed25519"), E::Form),
        ("more", json!(1), E::Form),
    ] {
        let mut json = certificate().to_json(NetworkKey::MAIN);
        json[name] = value.clone();
        assert_eq!(read(&json), Err(error), "{name}: {value}");
    }
    for name in ["cap", "feed", "peerId", "addrs", "notBefore", "notAfter", "signature"] {
        let mut json = certificate().to_json(NetworkKey::MAIN);
        json.as_object_mut().unwrap().remove(name);
        assert_eq!(read(&json), Err(E::Form), "{name}");
    }
    let elsewhere = certificate().to_json(NetworkKey::MAIN);
    let read = Certificate::from_json(&elsewhere, NetworkKey::from_bytes([9; 32]), NOW);
    assert_eq!(read, Err(E::Network));
}

#[test]
fn it_is_good_for_its_life_by_clocks_that_are_ten_minutes_wrong() {
    let json = certificate().to_json(NetworkKey::MAIN);
    let end = NOW - CLOCK_SLACK + LIFETIME;
    for (unix, is_good) in [
        (NOW - 2 * CLOCK_SLACK, true),
        (NOW - 2 * CLOCK_SLACK - Duration::from_millis(1), false),
        (end + CLOCK_SLACK, true),
        (end + CLOCK_SLACK + Duration::from_millis(1), false),
    ] {
        let read = Certificate::from_json(&json, NetworkKey::MAIN, unix);
        assert_eq!(read.is_ok(), is_good, "{unix:?}");
        assert!(is_good || read == Err(InvalidCertificate::Time));
    }
}

#[test]
fn signing_leaves_out_what_no_certificate_may_hold() {
    let mut addresses = vec!["/ip4/192.0.2.1/tcp/1".to_owned(), format!("p2p/{PEER}")];
    addresses.extend((0..12).map(|host| at(&format!("192.0.2.{host}"))));
    let signed = Certificate::sign(&keypair(), NetworkKey::MAIN, peer(), addresses.clone(), NOW);
    assert_eq!(signed.addresses, addresses[2..2 + MAX_ADDRESSES]);
    assert_eq!(read(&signed.to_json(NetworkKey::MAIN)), Ok(signed));
}
