//! Bytes of the stock implementation, round trips, and everything that should not be there.

use std::io::ErrorKind;

use proptest::prelude::*;
use prost::Message as _;

use super::*;

/// Made with the generated messages of libp2p-kad 0.49.0, filled as it fills them: the key is 1 2 3, the
/// value 9 8, the node a SHA-256 of nothing but 7s at 192.0.2.1 (QUIC) and 2001:db8::1 (TCP), port 4001.
mod vector {
    pub(super) const PING: &str = "020805";
    pub(super) const FIND_NODE: &str = "0908041203010203500a";
    pub(super) const GET_PROVIDERS: &str = "0908031203010203500a";
    pub(super) const GET_VALUE: &str = "0908011203010203500a";
    pub(super) const PUT_VALUE: &str = "1012030102031a090a0301020312020908";
    /// With a publisher, and a life of two hours.
    pub(super) const PUT_PUBLISHED: &str = "3912030102031a320a0301020312020908d229221220070707070707070707070707\
        0707070707070707070707070707070707070707c830a038";
    pub(super) const ADD_PROVIDER: &str = "3e080212030102034a330a2212200707070707070707070707070707070707070707\
        070707070707070707070707120b04c000020191020fa1cd031801500a";
    pub(super) const FOUND_NODE: &str = "4f080442490a221220070707070707070707070707070707070707070707070707070707\
        0707070707120b04c000020191020fa1cd0312142920010db8000000000000000000000001060fa118015009";
    /// Without the cluster's level, and as not connected.
    pub(super) const FOUND_NODE_OURS: &str = "4b080442470a2212200707070707070707070707070707070707070707070707070707\
        070707070707120b04c000020191020fa1cd0312142920010db8000000000000000000000001060fa1";
    pub(super) const GOT_VALUE: &str = "5a08011a090a030102031202090842490a22122007070707070707070707070707070707\
        07070707070707070707070707070707120b04c000020191020fa1cd0312142920010db80000000000000000000000010\
        60fa118015009";
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn message(vector: &str) -> Message {
    Message::decode_length_delimited(unhex(vector).as_slice()).unwrap()
}

fn bytes(message: &Message) -> Vec<u8> {
    message.encode_length_delimited_to_vec()
}

fn peer(byte: u8) -> PeerId {
    PeerId::from_bytes(&[&[0x12, 0x20][..], &[byte; 32]].concat()).unwrap()
}

fn target_of(text: &str) -> Target {
    link::target(&text.parse().unwrap()).unwrap()
}

fn known() -> Contact {
    let at = ["/ip4/192.0.2.1/udp/4001/quic-v1", "/ip6/2001:db8::1/tcp/4001"];
    Contact { node: NodeId::new(&peer(7).to_bytes()), at: at.map(target_of).into() }
}

fn record() -> kad::Record {
    kad::Record { key: vec![1, 2, 3], value: vec![9, 8] }
}

fn requests() -> [(Request, &'static str); 5] {
    let key = vec![1, 2, 3];
    [
        (Request::Ping, vector::PING),
        (Request::FindNode(key.clone()), vector::FIND_NODE),
        (Request::GetProviders(key.clone()), vector::GET_PROVIDERS),
        (Request::GetValue(key), vector::GET_VALUE),
        (Request::PutValue(record()), vector::PUT_VALUE),
    ]
}

#[test]
fn questions_are_those_of_the_stock_implementation() {
    for (request, vector) in requests() {
        assert_eq!(decode_request(message(vector)).unwrap(), request);
        // It adds the number of a cluster that there never was.
        let stock = unhex(vector);
        let body = stock[1..].strip_suffix(&[0x50, 0x0a]).unwrap_or(&stock[1..]);
        let ours = encode_request(&request);
        assert_eq!(ours.encode_to_vec(), body);
        assert_eq!(decode_request(ours).unwrap(), request);
    }
    assert_eq!(decode_request(message(vector::PUT_PUBLISHED)).unwrap(), Request::PutValue(record()));
    decode_request(message(vector::ADD_PROVIDER)).unwrap_err();
}

#[test]
fn answers_are_those_of_the_stock_implementation() {
    let [(ping, _), (find, _), (providers, _), (get, _), (put, _)] = requests();
    let found = Response { closer: vec![known()], record: None };
    let got = Response { record: Some(record()), ..found.clone() };
    assert_eq!(decode_response(&find, message(vector::FOUND_NODE)).unwrap(), found);
    assert_eq!(decode_response(&get, message(vector::GOT_VALUE)).unwrap(), got);
    assert_eq!(bytes(&encode_response(&find, &got)), unhex(vector::FOUND_NODE_OURS));
    let nothing = Response::default();
    assert_eq!(bytes(&encode_response(&put, &nothing)), unhex(vector::PUT_VALUE));
    assert_eq!(decode_response(&put, message(vector::PUT_VALUE)).unwrap(), nothing);
    assert_eq!(bytes(&encode_response(&ping, &got)), unhex(vector::PING));
    for (request, response) in
        [(ping, &nothing), (find.clone(), &found), (providers, &found), (get, &got), (put.clone(), &found)]
    {
        assert_eq!(decode_response(&request, encode_response(&request, &got)).unwrap(), *response);
    }
    decode_response(&find, message(vector::GOT_VALUE)).unwrap_err();
    decode_response(&put, Message { record: None, ..message(vector::PUT_VALUE) }).unwrap_err();
    let changed = kad::Record { value: vec![9], ..record() };
    decode_response(&put, encode_request(&Request::PutValue(changed))).unwrap_err();
}

#[test]
fn only_nodes_that_can_be_dialled_are_read() {
    let by = |id: PeerId, addresses: &[&str]| {
        let addresses = addresses.iter().map(|at| at.parse::<Multiaddr>().unwrap().to_vec());
        Peer { id: id.to_bytes(), addresses: addresses.collect() }
    };
    let good = "/ip4/192.0.2.1/tcp/9";
    let (own, other) = (format!("{good}/p2p/{}", peer(1)), format!("/ip4/192.0.2.2/tcp/9/p2p/{}", peer(2)));
    let circuit = format!("{other}/p2p-circuit");
    let mut mixed =
        by(peer(1), &["/dns4/a.example/tcp/9", &circuit, &other, "/ip4/192.0.2.3/udp/9", &own, good]);
    mixed.addresses.push(vec![0xff; 8]);
    let read = contact(&mixed).unwrap();
    assert_eq!((read.node.bytes(), read.at), (peer(1).to_bytes().as_slice(), vec![target_of(good)]));
    assert_eq!(contact(&by(peer(1), &[&circuit])), None);
    assert_eq!(contact(&Peer { id: vec![1, 2, 3], ..by(peer(1), &[good]) }), None);

    let many: Vec<String> = (1..20).map(|port| format!("/ip4/192.0.2.1/tcp/{port}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let crowd = (0..40).map(|byte| by(peer(byte), if byte % 2 == 0 { &many } else { &[] }));
    let answer = Message { kind: Kind::FindNode.into(), closer: crowd.collect(), ..Message::default() };
    let read = decode_response(&Request::FindNode(vec![1]), answer).unwrap().closer;
    assert_eq!(read.len(), K);
    assert!(read.iter().all(|contact| contact.at.len() == MAX_ADDRESSES));
}

#[test]
fn keys_and_values_have_limits_and_belong_together() {
    let put = |key: usize, value: usize| {
        let record = kad::Record { key: vec![1; key], value: vec![1; value] };
        decode_request(encode_request(&Request::PutValue(record)))
    };
    put(MAX_KEY, MAX_VALUE).unwrap();
    for (key, value) in [(0, 1), (MAX_KEY + 1, 1), (1, MAX_VALUE + 1)] {
        assert_eq!(put(key, value).unwrap_err().kind(), ErrorKind::InvalidData);
    }
    decode_request(encode_request(&Request::FindNode(vec![1; MAX_KEY + 1]))).unwrap_err();
    decode_request(encode_request(&Request::GetValue(Vec::new()))).unwrap_err();
    let moved = Message { key: vec![5], ..encode_request(&Request::PutValue(record())) };
    decode_request(moved).unwrap_err();
    let got =
        encode_response(&Request::GetValue(vec![5]), &Response { record: Some(record()), closer: vec![] });
    decode_response(&Request::GetValue(vec![5]), got).unwrap_err();
    for kind in [-1, 6] {
        decode_request(Message { kind, ..Message::default() }).unwrap_err();
    }
}

#[tokio::test]
async fn the_longest_answer_is_well_within_the_limit() {
    let at: Vec<Target> =
        (0..9).map(|port| target_of(&format!("/ip6/2001:db8::1/udp/{}/quic-v1", 60_000 + port))).collect();
    let contact = Contact { node: known().node, at };
    let record = kad::Record { key: vec![1; 32], value: vec![1; MAX_VALUE] };
    let get = Request::GetValue(record.key.clone());
    let response = Response { closer: vec![contact; 2 * K], record: Some(record) };
    let mut written = Vec::new();
    write(&mut written, &encode_response(&get, &response)).await.unwrap();
    assert!(written.len() < MAX_MESSAGE / 3, "{}", written.len());
    let decoded = decode_response(&get, read(&mut written.as_slice()).await.unwrap()).unwrap();
    assert_eq!((decoded.closer.len(), decoded.record), (K, response.record));
}

#[tokio::test]
async fn what_is_too_long_or_no_message_is_refused() {
    // A message may be as long as two bytes can say.
    let padded = [&[0xff, 0x7f, 0x12, 0xfc, 0x7f][..], &[0; MAX_MESSAGE]].concat();
    assert_eq!(read(&mut padded.as_slice()).await.unwrap().key.len(), MAX_MESSAGE - 4);
    for bytes in [&[0x80, 0x80, 0x01][..], &[2, 0x12, 9], &[1, 0xff], &[4, 0x42, 2, 0x0a, 9]] {
        let error = read(&mut [bytes, &[0; 99]].concat().as_slice()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
}

/// Bytes that look like a message at least here and there.
fn mangled() -> impl Strategy<Value = Vec<u8>> {
    let vectors = [vector::PUT_PUBLISHED, vector::FOUND_NODE, vector::GOT_VALUE, vector::ADD_PROVIDER];
    let vector = prop::sample::select(vectors.map(|vector| unhex(vector)[1..].to_vec()).to_vec());
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (vector, changes).prop_map(|(mut bytes, changes)| {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn no_bytes_make_the_readers_panic(
        bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..300), mangled()],
    ) {
        let Ok(message) = Message::decode(bytes.as_slice()) else { return Ok(()) };
        if let Ok(request) = decode_request(message.clone()) {
            prop_assert_eq!(decode_request(encode_request(&request)).unwrap(), request);
        }
        for (request, _) in requests() {
            let Ok(response) = decode_response(&request, message.clone()) else { continue };
            let again = decode_response(&request, encode_response(&request, &response)).unwrap();
            prop_assert_eq!(again, response);
        }
    }
}
