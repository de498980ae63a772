//! A peer that does what no honest program does: every layer of a connection by hand, on a blocking
//! socket, so that a test can lie at exactly one of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use hawsepipe_overlay::boxstream::{Opened, Opener, Sealer};
use hawsepipe_overlay::keys::{NetworkKey, PublicKey};
use hawsepipe_overlay::shs::{ACCEPT_LEN, Ephemeral, HELLO_LEN, client};
use serde_json::Value;
use ssb_crypto::Keypair;

use crate::lab::Host;
use crate::wait::SOON;

/// Flags of a muxrpc header: the packet belongs to a stream.
pub const STREAM: u8 = 8;
/// Flags of a muxrpc header: the packet ends its stream, or is an error.
pub const END: u8 = 4;
/// Flags of a muxrpc header: the body is JSON.
pub const JSON: u8 = 2;

/// How long a line takes nothing that is stuck.
const STUCK: Duration = Duration::from_secs(2);

/// A fresh identity.
pub fn identity() -> Keypair {
    ssb_crypto::sodium::init().expect("libsodium finds a source of randomness");
    Keypair::generate()
}

/// The feed id of an identity.
pub fn feed_id(keypair: &Keypair) -> String {
    PublicKey::from_bytes(keypair.public.0).to_string()
}

/// A TCP connection on which nothing has been said yet.
#[derive(Debug)]
pub struct Rogue(TcpStream);

impl Rogue {
    /// Connects from `host`.
    pub fn dial(host: &Host, address: SocketAddr) -> Self {
        let stream = host.enter(|| TcpStream::connect_timeout(&address, SOON)).expect("the node listens");
        stream.set_read_timeout(Some(SOON)).expect("sockets have timeouts");
        stream.set_nodelay(true).expect("sockets need not delay");
        Self(stream)
    }

    /// Sends `bytes`. The other end may have closed by now, so a failure means nothing.
    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).ok();
    }

    /// Reads until the other end closes, and gives what it said before.
    ///
    /// # Panics
    /// When it does not close.
    pub fn until_closed(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        match self.0.read_to_end(&mut said) {
            Ok(_) => said,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => said,
            Err(e) => panic!("the connection stays open: {e}"),
        }
    }

    /// Says that nothing more will come.
    pub fn shut_down_writing(&mut self) {
        self.0.shutdown(std::net::Shutdown::Write).ok();
    }

    /// The first handshake message and what must follow it.
    pub fn hello(network: NetworkKey, keypair: &Keypair, server: PublicKey) -> [u8; HELLO_LEN] {
        client::start(keypair, network, server, Ephemeral::generate()).0
    }

    /// Sends hello and auth as an honest client does, and gives the bytes of both.
    ///
    /// # Errors
    /// When the other end closes instead of answering.
    pub fn authenticate(
        &mut self,
        network: NetworkKey,
        keypair: &Keypair,
        server: PublicKey,
    ) -> std::io::Result<(Vec<u8>, client::ExpectAccept<'static>)> {
        // The handshake borrows the keys, and a test's keys may live as long as the test.
        let keypair: &'static Keypair = Box::leak(Box::new(keypair.clone()));
        let (hello, handshake) = client::start(keypair, network, server, Ephemeral::generate());
        self.0.write_all(&hello)?;
        let mut answer = [0; HELLO_LEN];
        self.0.read_exact(&mut answer)?;
        let (auth, handshake) = handshake.receive(&answer).map_err(std::io::Error::other)?;
        self.0.write_all(&auth)?;
        Ok(([hello.as_slice(), auth.as_slice()].concat(), handshake))
    }

    /// The whole handshake.
    ///
    /// # Errors
    /// When the other end closes instead of accepting, as it does with whom it refuses.
    pub fn handshake(
        mut self,
        network: NetworkKey,
        keypair: &Keypair,
        server: PublicKey,
    ) -> std::io::Result<Secured> {
        let (_, handshake) = self.authenticate(network, keypair, server)?;
        let mut accept = [0; ACCEPT_LEN];
        self.0.read_exact(&mut accept)?;
        let outcome = handshake.receive(&accept).map_err(std::io::Error::other)?;
        Ok(Secured {
            line: self,
            sealer: Sealer::new(outcome.send),
            opener: Opener::new(outcome.receive),
            received: BytesMut::new(),
            opened: BytesMut::new(),
        })
    }
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Secured {
    line: Rogue,
    sealer: Sealer,
    opener: Opener,
    received: BytesMut,
    opened: BytesMut,
}

/// One muxrpc packet as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The header's flags.
    pub flags: u8,
    /// The header's request number, negative for answers to our calls.
    pub request: i32,
    /// The body.
    pub body: Vec<u8>,
}

impl Packet {
    /// The body as JSON; `null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

impl Secured {
    /// Sends `bytes` below the box stream.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.line.send(bytes);
    }

    /// Waits for packets as long as the connection lasts.
    pub fn wait_for_ever(&self) {
        self.line.0.set_read_timeout(None).expect("sockets need no timeouts");
    }

    /// Seals `bytes` as the next boxes without sending them.
    pub fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut sealed = BytesMut::new();
        self.sealer.seal(bytes, &mut sealed);
        sealed.to_vec()
    }

    /// Sends `bytes` inside the box stream, whatever muxrpc makes of them.
    pub fn send_boxed(&mut self, bytes: &[u8]) {
        let sealed = self.seal(bytes);
        self.line.send(&sealed);
    }

    /// Sends one packet.
    pub fn send_packet(&mut self, flags: u8, request: i32, body: &[u8]) {
        let sealed = self.seal_packet(flags, request, body);
        self.line.send(&sealed);
    }

    /// Seals one packet without sending it.
    pub fn seal_packet(&mut self, flags: u8, request: i32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).expect("test bodies are small");
        let mut packet = vec![flags];
        packet.extend(length.to_be_bytes());
        packet.extend(request.to_be_bytes());
        packet.extend(body);
        self.seal(&packet)
    }

    /// Sends one packet with a JSON body.
    pub fn send_json(&mut self, flags: u8, request: i32, body: &Value) {
        self.send_packet(flags | JSON, request, body.to_string().as_bytes());
    }

    /// The next packet; `None` when the other end has said goodbye or closed.
    ///
    /// # Panics
    /// When nothing comes, or what comes does not open.
    pub fn next_packet(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = take_packet(&mut self.opened) {
                return Some(packet);
            }
            let mut chunk = [0; 4096];
            let length = match self.line.0.read(&mut chunk) {
                Ok(length) => length,
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return None,
                Err(e) => panic!("waited for a packet: {e}"),
            };
            if length == 0 {
                return None;
            }
            self.received.extend_from_slice(&chunk[..length]);
            let opened =
                self.opener.open(&mut self.received, &mut self.opened).expect("an honest box stream");
            if opened == Opened::Goodbye && self.opened.len() < 9 {
                return None;
            }
        }
    }

    /// The next packet that answers our call number `request`.
    ///
    /// # Panics
    /// When the connection ends first.
    pub fn next_answer(&mut self, request: i32) -> Packet {
        loop {
            let packet = self.next_packet().expect("the connection goes on");
            if packet.request == -request {
                return packet;
            }
        }
    }

    /// Calls an async method again and again without reading, at most so often, until the other end has taken nothing for two
    /// seconds; gives how often.
    pub fn ask_until_stuck(&mut self, method: &str, most: i32) -> i32 {
        self.line.0.set_write_timeout(Some(STUCK)).expect("sockets have timeouts");
        let body = serde_json::json!({ "name": [method], "args": [], "type": "async" }).to_string();
        for request in 1..=most {
            let packet = self.seal_packet(JSON, request, body.as_bytes());
            if self.line.0.write_all(&packet).is_err() {
                return request - 1;
            }
        }
        most
    }

    /// Reads until the other end closes.
    ///
    /// # Panics
    /// When it does not.
    pub fn until_closed(mut self) {
        self.line.until_closed();
    }

    /// Closes without goodbye.
    pub fn cut(self) {
        drop(self);
    }
}

fn take_packet(from: &mut BytesMut) -> Option<Packet> {
    let header: [u8; 9] = from.get(..9)?.try_into().ok()?;
    let [flags, l0, l1, l2, l3, r0, r1, r2, r3] = header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    let body = from.get(9..9 + length)?.to_vec();
    from.advance(9 + length);
    Some(Packet { flags, request: i32::from_be_bytes([r0, r1, r2, r3]), body })
}
