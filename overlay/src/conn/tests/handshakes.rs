//! How a session begins, and why it may not.

use super::*;

struct Nobody(Refused, Mutex<Vec<PublicKey>>);

impl Gate for Nobody {
    fn admit(&self, peer: PublicKey, _: &LinkInfo) -> Result<(), Refused> {
        self.1.lock().unwrap().push(peer);
        Err(self.0)
    }
}

async fn both(
    client: &Local,
    server: &Local,
    expected: PublicKey,
) -> (Result<Connection, HandshakeError>, Result<Connection, HandshakeError>) {
    let (left, right) = duplex(1024);
    tokio::join!(
        connect(left, info(Direction::Outbound), client, expected),
        accept(right, info(Direction::Inbound), server),
    )
}

#[tokio::test]
async fn another_network_is_refused_without_a_byte() {
    let (client, mut server) = (local(1), local(2));
    server.network = NetworkKey::from_bytes([1; 32]);
    let (a, b) = both(&client, &server, key(&server)).await;
    assert_eq!(a.unwrap_err(), HandshakeError::Hangup(Stage::Hello));
    let error = b.unwrap_err();
    assert_eq!(error, HandshakeError::Peer(ShsError::WrongNetwork));
    assert_eq!(error.label(), "wrong_network");
}

#[tokio::test]
async fn the_gate_is_asked_for_the_proven_key_and_the_client_learns_nothing() {
    let (client, mut server) = (local(1), local(2));
    let gate = Arc::new(Nobody(Refused::Blocked, Mutex::default()));
    server.gate = Arc::clone(&gate) as Arc<dyn Gate>;
    let (a, b) = both(&client, &server, key(&server)).await;
    assert_eq!(a.unwrap_err(), HandshakeError::Hangup(Stage::Accept));
    let error = b.unwrap_err();
    assert_eq!((error, error.label()), (HandshakeError::Refused(Refused::Blocked), "blocked"));
    assert_eq!(*gate.1.lock().unwrap(), [key(&client)]);
}

#[tokio::test]
async fn the_gate_is_not_asked_about_who_proves_nothing() {
    let (client, mut server) = (local(1), local(2));
    let gate = Arc::new(Nobody(Refused::Full, Mutex::default()));
    server.gate = Arc::clone(&gate) as Arc<dyn Gate>;
    let (a, b) = both(&client, &server, key(&local(3))).await;
    assert_eq!(a.unwrap_err(), HandshakeError::Hangup(Stage::Accept));
    assert_eq!(b.unwrap_err(), HandshakeError::Peer(ShsError::BadAuth));
    assert!(gate.1.lock().unwrap().is_empty());
}

#[tokio::test]
async fn garbage_in_place_of_a_hello_ends_the_line() {
    let (mut line, theirs) = duplex(1024);
    line.write_all(&[0x47; 200]).await.unwrap();
    let error = accept(theirs, info(Direction::Inbound), &local(2)).await.unwrap_err();
    assert_eq!(error, HandshakeError::Peer(ShsError::WrongNetwork));
    let mut answer = Vec::new();
    assert_eq!(line.read_to_end(&mut answer).await.unwrap(), 0);
}

/// What a client sent once opens no second session.
#[tokio::test]
async fn a_replayed_handshake_is_refused() {
    let (client, server) = (local(1), local(2));
    let recorded = {
        let (left, mut proxy_left) = duplex(1024);
        let (mut proxy_right, right) = duplex(1024);
        let copying = async {
            let mut recorded = vec![0; HELLO_LEN + crate::shs::AUTH_LEN];
            let (mut hello, mut accept) = ([0; HELLO_LEN], [0; crate::shs::ACCEPT_LEN]);
            proxy_left.read_exact(&mut recorded[..HELLO_LEN]).await.unwrap();
            proxy_right.write_all(&recorded[..HELLO_LEN]).await.unwrap();
            proxy_right.read_exact(&mut hello).await.unwrap();
            proxy_left.write_all(&hello).await.unwrap();
            proxy_left.read_exact(&mut recorded[HELLO_LEN..]).await.unwrap();
            proxy_right.write_all(&recorded[HELLO_LEN..]).await.unwrap();
            proxy_right.read_exact(&mut accept).await.unwrap();
            proxy_left.write_all(&accept).await.unwrap();
            recorded
        };
        let (a, b, recorded) = tokio::join!(
            connect(left, info(Direction::Outbound), &client, key(&server)),
            accept(right, info(Direction::Inbound), &server),
            copying,
        );
        a.unwrap();
        b.unwrap();
        recorded
    };
    let (mut line, theirs) = duplex(1024);
    line.write_all(&recorded).await.unwrap();
    let error = accept(theirs, info(Direction::Inbound), &server).await.unwrap_err();
    assert_eq!(error, HandshakeError::Peer(ShsError::BadAuth));
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_meets_the_deadline_and_the_stage_is_known() {
    let (server, client) = (local(2), local(1));
    let (_line, theirs) = duplex(1024);
    let error = accept(theirs, info(Direction::Inbound), &server).await.unwrap_err();
    assert_eq!((error, error.label()), (HandshakeError::Timeout(Stage::Hello), "timeout"));

    let (mut line, theirs) = duplex(1024);
    let (hello, _) = client::start(&client.keypair, client.network, key(&server), Ephemeral::generate());
    line.write_all(&hello).await.unwrap();
    let error = accept(theirs, info(Direction::Inbound), &server).await.unwrap_err();
    assert_eq!(error, HandshakeError::Timeout(Stage::Auth));

    let (_line, ours) = duplex(1024);
    let connecting = connect(ours, info(Direction::Outbound), &client, key(&server));
    assert_eq!(connecting.await.unwrap_err(), HandshakeError::Timeout(Stage::Hello));
}

#[tokio::test]
async fn a_line_that_ends_within_a_message_is_a_hangup() {
    let (mut line, theirs) = duplex(1024);
    line.write_all(&[1; 10]).await.unwrap();
    drop(line);
    let error = accept(theirs, info(Direction::Inbound), &local(2)).await.unwrap_err();
    assert_eq!((error, error.label()), (HandshakeError::Hangup(Stage::Hello), "hangup_hello"));
}

#[tokio::test]
async fn a_session_without_handshake_starts_at_once() {
    let mut tasks = JoinSet::new();
    let (left, right) = duplex(1024);
    let own = key(&local(1));
    let a = run(&mut tasks, noauth(left, info(Direction::Outbound), own), SessionConfig::default());
    let mut b = run(&mut tasks, noauth(right, info(Direction::Inbound), own), SessionConfig::default());
    assert_eq!((a.session.peer(), b.session.peer()), (own, own));
    let answering = async {
        let (call, reply) = once_call(&mut b).await;
        assert_eq!(call.name, ["whoami"]);
        reply.ok(Body::json(&json!({"id": own}))).await;
    };
    let (answer, ()) = tokio::join!(a.session.call(&["whoami"], vec![]), answering);
    assert_eq!(answer.unwrap().decode::<Value>().unwrap(), json!({"id": own.to_string()}));
}
