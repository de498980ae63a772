//! Sessions over in-memory lines: two of our own against each other, and one against hand-made bytes.

use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::boxstream::{BoxError, HEADER_LEN, Opener, Sealer};
use crate::muxrpc::call::not_allowed;
use crate::muxrpc::codec::{DecodeError, Decoder, Frame, Packet};
use crate::muxrpc::{Body, CallKind, RemoteError};
use crate::shs::{Ephemeral, HELLO_LEN, Outcome, ShsError, client};

mod bad_input;
mod handshakes;
mod sessions;
mod throughput;

/// Long enough for anything that should happen on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Everyone;

impl Gate for Everyone {
    fn admit(&self, _: PublicKey, _: &LinkInfo) -> Result<(), Refused> {
        Ok(())
    }
}

pub(crate) fn local(seed: u8) -> Local {
    ssb_crypto::sodium::init().unwrap();
    Local {
        keypair: Arc::new(Keypair::from_seed(&[seed; 32]).unwrap()),
        network: NetworkKey::MAIN,
        gate: Arc::new(Everyone),
        handshake_timeout: Duration::from_secs(15),
    }
}

pub(crate) fn key(local: &Local) -> PublicKey {
    PublicKey::from_bytes(local.keypair.public.0)
}

pub(crate) fn info(direction: Direction) -> LinkInfo {
    LinkInfo {
        direction,
        carrier: Carrier::Net,
        remote: "net:192.0.2.1:8008".to_owned(),
        path: None,
        mobile: None,
    }
}

/// One end of a running session.
struct End {
    session: Session,
    calls: Calls,
}

/// Two ends of one session, both running in `tasks`.
async fn pair(tasks: &mut JoinSet<Closed>, config: SessionConfig) -> (End, End) {
    pair_over(tasks, config, duplex(64 * 1024)).await
}

async fn pair_over<L: Link>(
    tasks: &mut JoinSet<Closed>,
    config: SessionConfig,
    (left, right): (L, L),
) -> (End, End) {
    let (client, server) = (local(1), local(2));
    let (a, b) = tokio::join!(
        connect(left, info(Direction::Outbound), &client, key(&server)),
        accept(right, info(Direction::Inbound), &server),
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!((a.session.peer(), b.session.peer()), (key(&server), key(&client)));
    (run(tasks, a, config), run(tasks, b, config))
}

fn run(tasks: &mut JoinSet<Closed>, connection: Connection, config: SessionConfig) -> End {
    let Connection { session, calls, mut driver } = connection;
    driver.configure(config);
    tasks.spawn(driver.run());
    End { session, calls }
}

async fn stream_call(end: &mut End) -> Stream {
    match timeout(PATIENCE, end.calls.next()).await.unwrap().unwrap().reply {
        Reply::Stream(stream) => stream,
        Reply::Once(reply) => panic!("{reply:?}"),
    }
}

async fn once_call(end: &mut End) -> (Call, ReplyOnce) {
    let IncomingCall { call, reply } = timeout(PATIENCE, end.calls.next()).await.unwrap().unwrap();
    match reply {
        Reply::Once(reply) => (call, reply),
        Reply::Stream(stream) => panic!("{stream:?}"),
    }
}

fn body(text: &str) -> Body {
    Body::text(text)
}

/// A client made by hand: the handshake is right, what follows is up to the test.
struct Raw {
    line: DuplexStream,
    sealer: Sealer,
    opener: Opener,
    sealed: BytesMut,
    plain: BytesMut,
}

impl Raw {
    async fn connect(tasks: &mut JoinSet<Closed>, config: SessionConfig) -> (Self, End) {
        let (line, theirs) = duplex(64 * 1024);
        let (client, server) = (local(1), local(2));
        let (outcome, connection) = tokio::join!(
            shake(line, &client, key(&server)),
            accept(theirs, info(Direction::Inbound), &server),
        );
        let (line, Outcome { send, receive, .. }) = outcome;
        let (sealed, plain) = (BytesMut::new(), BytesMut::new());
        let (sealer, opener) = (Sealer::new(send), Opener::new(receive));
        let raw = Self { line, sealer, opener, sealed, plain };
        (raw, run(tasks, connection.unwrap(), config))
    }

    async fn write(&mut self, plain: &[u8]) {
        let mut out = BytesMut::new();
        self.sealer.seal(plain, &mut out);
        self.line.write_all(&out).await.unwrap();
    }

    async fn write_packet(&mut self, request: i32, stream: bool, body: &str) {
        let body = Body::json_raw(body.as_bytes().to_vec());
        let frame = Frame::Packet(Packet { stream, end: false, request, body });
        let (header, body) = frame.parts();
        self.write(&[&header, body].concat()).await;
    }

    async fn read_frame(&mut self) -> Frame {
        loop {
            if let Some(frame) = Decoder::new(1 << 20).decode(&mut self.plain).unwrap() {
                return frame;
            }
            assert_ne!(self.line.read_buf(&mut self.sealed).await.unwrap(), 0);
            self.opener.open(&mut self.sealed, &mut self.plain).unwrap();
        }
    }
}

async fn shake(mut line: DuplexStream, local: &Local, server: PublicKey) -> (DuplexStream, Outcome) {
    let (hello, state) = client::start(&local.keypair, local.network, server, Ephemeral::generate());
    line.write_all(&hello).await.unwrap();
    let mut hello = [0; HELLO_LEN];
    line.read_exact(&mut hello).await.unwrap();
    let (auth, state) = state.receive(&hello).unwrap();
    line.write_all(&auth).await.unwrap();
    let mut accept = [0; crate::shs::ACCEPT_LEN];
    line.read_exact(&mut accept).await.unwrap();
    (line, state.receive(&accept).unwrap())
}
