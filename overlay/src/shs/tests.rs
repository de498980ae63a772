//! The published vectors, and every way we know of to break a handshake.

use proptest::prelude::*;
use ssb_crypto::Keypair;

use super::*;
use crate::keys::NetworkKey;

/// Made with secret-handshake 1.1.21: seeds of 0x01 (client, "A") and 0x02 (server, "B"), ephemeral keys
/// from ed25519 seeds of 0x03 and 0x04, main network.
mod vector {
    pub(super) const CLIENT: &str = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c";
    pub(super) const SERVER: &str = "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394";
    pub(super) const CLIENT_EPHEMERAL: &str =
        "98aebbb178a551876bfaf8e1e530dac6aaf6c2ea1c8f8406a3ab37dfb40fbc65";
    pub(super) const SERVER_EPHEMERAL: &str =
        "483e3c145d7e680a16676925fc045183d2f510cb2f660a1fc517c73762185d43";
    pub(super) const HELLO_1: &str = "28c218018fb494285b3c31cee451d460d8d73f843a99baceb564dd5f46f3278e\
        75e270df2952c57ba8367ba8618c178f9fe50db2799d304e74e918d985686146";
    pub(super) const HELLO_2: &str = "c1bea72b1b06c117aba5ab1ab0cf41f6af08b4426fe0c1ae9db73f39d8f28855\
        edd03cade80d29de6ea313a74ab369f4732ecb36649066b78b5b2dd664cb0417";
    pub(super) const AUTH: &str = "12e62a78b59fa4dec4cbd8d0935ac65bce246bc3078792d9aac6c60aa233d2b4\
        6a0d432173da44343196baa17541ed5d55d67ef3c10addc8a30c9760b5f95fabf92ee384747c8bbd00e89d6c5304d2\
        3fb295dc136df45559c88964f0b987ff05b04b73820145fb31d2c957c3c35d6e4e";
    pub(super) const ACCEPT: &str = "23857ffb1ffe8b56bb10f971a0876327a11b93f913d8010f43fe8929f9965502\
        c9ca7ba1b7c798b1f7527016d1a3c4c16c91068595a49743db7a20e6f1f2b36b30e213db669c77b48438c6b66ba17f5d";
    pub(super) const SEND: &str = "1b09decc219671538c81bddc7761450c6f75a083ba2a9febb65212c2068c7f83\
        c1bea72b1b06c117aba5ab1ab0cf41f6af08b4426fe0c1ae";
    pub(super) const RECEIVE: &str = "6bc54c9e93faee942fc509d606506bcda45c1d7984a6e8890e19b68bcd9cbd40\
        28c218018fb494285b3c31cee451d460d8d73f843a99bace";
}

fn unhex<const N: usize>(text: &str) -> [u8; N] {
    let bytes: Vec<u8> =
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

fn keypair(seed: u8) -> Keypair {
    ssb_crypto::sodium::init().unwrap();
    Keypair::from_seed(&[seed; 32]).unwrap()
}

fn public(keypair: &Keypair) -> PublicKey {
    PublicKey::from_bytes(keypair.public.0)
}

fn flat(key: &BoxKey) -> Vec<u8> {
    [&key.key()[..], &key.nonce()[..]].concat()
}

/// Both sides up to and including the client's auth message, with the vector's ephemeral keys.
struct Half<'a> {
    server: server::ExpectAuth<'a>,
    client: client::ExpectAccept<'a>,
    auth: [u8; AUTH_LEN],
}

fn half<'a>(client: &'a Keypair, server: &'a Keypair, dialled: PublicKey) -> Half<'a> {
    let (hello, client) = client::start(
        client,
        NetworkKey::MAIN,
        dialled,
        Ephemeral::from_secret(unhex(vector::CLIENT_EPHEMERAL)),
    );
    let server =
        server::start(server, NetworkKey::MAIN, Ephemeral::from_secret(unhex(vector::SERVER_EPHEMERAL)));
    let (hello, server) = server.receive(&hello).unwrap();
    let (auth, client) = client.receive(&hello).unwrap();
    Half { server, client, auth }
}

#[test]
fn the_js_vector_is_reproduced_on_both_sides() {
    let (a, b) = (keypair(1), keypair(2));
    assert_eq!(*public(&a).as_bytes(), unhex(vector::CLIENT));
    assert_eq!(*public(&b).as_bytes(), unhex(vector::SERVER));
    let ephemeral = Ephemeral::from_secret(unhex(vector::CLIENT_EPHEMERAL));
    let (hello, client) = client::start(&a, NetworkKey::MAIN, public(&b), ephemeral);
    assert_eq!(hello, unhex(vector::HELLO_1));
    let ephemeral = Ephemeral::from_secret(unhex(vector::SERVER_EPHEMERAL));
    let (hello, server) = server::start(&b, NetworkKey::MAIN, ephemeral).receive(&hello).unwrap();
    assert_eq!(hello, unhex(vector::HELLO_2));
    let (auth, client) = client.receive(&hello).unwrap();
    assert_eq!(auth, unhex(vector::AUTH));
    let proven = server.receive(&auth).unwrap();
    assert_eq!(proven.peer(), public(&a));
    let (accept, at_server) = proven.accept();
    assert_eq!(accept, unhex(vector::ACCEPT));
    let at_client = client.receive(&accept).unwrap();

    assert_eq!((at_client.peer, at_server.peer), (public(&b), public(&a)));
    assert_eq!(flat(&at_client.send), unhex::<56>(vector::SEND));
    assert_eq!(flat(&at_client.receive), unhex::<56>(vector::RECEIVE));
    assert_eq!(flat(&at_server.send), flat(&at_client.receive));
    assert_eq!(flat(&at_server.receive), flat(&at_client.send));
    assert_eq!(at_server.accept_key.as_bytes(), at_client.accept_key.as_bytes());
}

#[test]
fn a_node_may_dial_itself() {
    let own = keypair(1);
    let half = half(&own, &own, public(&own));
    let (accept, _) = half.server.receive(&half.auth).unwrap().accept();
    assert_eq!(half.client.receive(&accept).unwrap().peer, public(&own));
}

#[test]
fn another_network_is_told_apart_by_its_hello() {
    let (a, b) = (keypair(1), keypair(2));
    let other = NetworkKey::from_bytes([9; 32]);
    let (hello, client) = client::start(&a, other, public(&b), Ephemeral::generate());
    let server = server::start(&b, NetworkKey::MAIN, Ephemeral::generate());
    assert_eq!(server.receive(&hello).unwrap_err(), ShsError::WrongNetwork);
    let server_hello = unhex(vector::HELLO_2);
    assert_eq!(client.receive(&server_hello).unwrap_err(), ShsError::WrongNetwork);
}

#[test]
fn a_client_that_expects_another_server_is_refused() {
    let (a, b, c) = (keypair(1), keypair(2), keypair(3));
    let half = half(&a, &b, public(&c));
    assert_eq!(half.server.receive(&half.auth).unwrap_err(), ShsError::BadAuth);
}

#[test]
fn a_replayed_hello_and_auth_do_not_open_a_session() {
    let (a, b) = (keypair(1), keypair(2));
    let recorded = half(&a, &b, public(&b));
    let again = server::start(&b, NetworkKey::MAIN, Ephemeral::generate());
    let (_, again) = again.receive(&unhex(vector::HELLO_1)).unwrap();
    assert_eq!(again.receive(&recorded.auth).unwrap_err(), ShsError::BadAuth);
}

#[test]
fn an_accept_from_another_exchange_is_refused() {
    let (a, b) = (keypair(1), keypair(2));
    let (hello, client) = client::start(&a, NetworkKey::MAIN, public(&b), Ephemeral::generate());
    let server = server::start(&b, NetworkKey::MAIN, Ephemeral::generate());
    let (hello, _) = server.receive(&hello).unwrap();
    let (_, client) = client.receive(&hello).unwrap();
    assert_eq!(client.receive(&unhex(vector::ACCEPT)).unwrap_err(), ShsError::BadAccept);
}

/// A client that knows our key and boxes correctly, but signs with another key than it shows.
#[test]
fn a_client_that_does_not_hold_the_key_it_shows_is_refused() {
    let (mut liar, b) = (keypair(1), keypair(2));
    liar.public = keypair(3).public;
    let half = half(&liar, &b, public(&b));
    assert_eq!(half.server.receive(&half.auth).unwrap_err(), ShsError::BadClientProof);
}

#[test]
fn a_server_whose_signature_is_not_that_of_the_dialled_key_is_refused() {
    let (a, b) = (keypair(1), keypair(2));
    let half = half(&a, &b, public(&b));
    let proven = half.server.receive(&half.auth).unwrap();
    let forged = keypair(3).sign(b"anything");
    let accept = wire::seal_accept(&proven.key.0, &forged);
    assert_eq!(half.client.receive(&accept).unwrap_err(), ShsError::BadServerProof);
}

/// `ssb-crypto` panics on these instead of refusing them.
#[test]
fn a_signature_out_of_range_is_refused_on_both_sides() {
    let (a, b) = (keypair(1), keypair(2));
    for last in [0x10, 0x20, 0x80, 0xff] {
        let mut signature = [0x11; 64];
        signature[63] = last;
        let signature = ssb_crypto::Signature(signature);
        let forged = half(&a, &b, public(&b));
        let proof = wire::ClientProof { signature, client: public(&a) };
        let auth = proof.seal(&forged.server.auth_key().0);
        assert_eq!(forged.server.receive(&auth).unwrap_err(), ShsError::BadClientProof);

        let half = half(&a, &b, public(&b));
        let proven = half.server.receive(&half.auth).unwrap();
        let accept = wire::seal_accept(&proven.key.0, &signature);
        assert_eq!(half.client.receive(&accept).unwrap_err(), ShsError::BadServerProof);
    }
}

/// Points of low order, from the list that libsodium tests against: zero, one, and one of order 8.
#[test]
fn low_order_keys_are_refused_on_both_sides() {
    let eight = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
    let mut one = [0; 32];
    one[0] = 1;
    for point in [[0; 32], one, unhex(eight)] {
        let hello = wire::write_hello(&NetworkKey::MAIN, &EphPublicKey(point));
        let (a, b) = (keypair(1), keypair(2));
        let server = server::start(&b, NetworkKey::MAIN, Ephemeral::generate());
        assert_eq!(server.receive(&hello).unwrap_err(), ShsError::WeakKey);
        let (_, client) = client::start(&a, NetworkKey::MAIN, public(&b), Ephemeral::generate());
        assert_eq!(client.receive(&hello).unwrap_err(), ShsError::WeakKey);
    }
}

#[test]
fn dialling_what_is_no_key_fails() {
    let (a, b) = (keypair(1), keypair(2));
    let nobody = PublicKey::from_bytes([0; 32]);
    let (_, client) = client::start(&a, NetworkKey::MAIN, nobody, Ephemeral::generate());
    let (hello, _) =
        server::start(&b, NetworkKey::MAIN, Ephemeral::generate()).receive(&unhex(vector::HELLO_1)).unwrap();
    assert_eq!(client.receive(&hello).unwrap_err(), ShsError::WeakKey);
}

#[test]
fn no_secret_is_printed() {
    let (a, b) = (keypair(1), keypair(2));
    let half = half(&a, &b, public(&b));
    let printed = format!("{:?} {:?}", half.client, half.server);
    let proven = half.server.receive(&half.auth).unwrap();
    let printed = format!("{printed} {proven:?}");
    let printed = format!("{printed} {:?}", proven.accept().1);
    let send: Vec<u8> = unhex::<56>(vector::SEND).to_vec();
    assert!(!printed.contains(&format!("{:?}", &send[..4]).replace(['[', ']'], "")), "{printed}");
    assert!(!printed.contains("1b09de"), "{printed}");
    assert!(printed.contains("AcceptKey(..)"), "{printed}");
}

proptest! {
    #[test]
    fn a_changed_bit_breaks_every_message(message in 0usize..4, at in 0usize..64, bit in 0u8..8) {
        let (a, b) = (keypair(1), keypair(2));
        let flip = |bytes: &mut [u8]| bytes[at] ^= 1 << bit;
        let (mut hello, client) = client::start(&a, NetworkKey::MAIN, public(&b), Ephemeral::generate());
        if message == 0 {
            flip(&mut hello);
        }
        let server = server::start(&b, NetworkKey::MAIN, Ephemeral::generate());
        let Ok((mut hello, server)) = server.receive(&hello) else {
            prop_assert_eq!(message, 0);
            return Ok(());
        };
        if message == 1 {
            flip(&mut hello);
        }
        let Ok((mut auth, client)) = client.receive(&hello) else {
            prop_assert_eq!(message, 1);
            return Ok(());
        };
        if message == 2 {
            flip(&mut auth);
        }
        let Ok(proven) = server.receive(&auth) else {
            prop_assert_eq!(message, 2);
            return Ok(());
        };
        let (mut accept, _) = proven.accept();
        prop_assert_eq!(message, 3);
        flip(&mut accept);
        prop_assert_eq!(client.receive(&accept).unwrap_err(), ShsError::BadAccept);
    }

    #[test]
    fn garbage_is_refused_and_never_panics(hello in any::<[u8; 32]>(), auth in any::<[u8; 32]>()) {
        let (a, b) = (keypair(1), keypair(2));
        let mut first = [0; HELLO_LEN];
        first[..32].copy_from_slice(&hello);
        let server = server::start(&b, NetworkKey::MAIN, Ephemeral::generate());
        prop_assert_eq!(server.receive(&first).unwrap_err(), ShsError::WrongNetwork);
        let half = half(&a, &b, public(&b));
        let mut second = [0; AUTH_LEN];
        second[..32].copy_from_slice(&auth);
        prop_assert_eq!(half.server.receive(&second).unwrap_err(), ShsError::BadAuth);
    }
}
