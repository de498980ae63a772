//! A public libp2p peer that others take for a relay and for an AutoNAT server, and that lies to them.
//!
//! It answers each request on those two protocols with the bytes that it was given, whatever was asked, and
//! never relays or dials anything.

use std::future::{Future, Ready, ready};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, StreamExt as _};
use libp2p::request_response::{self, Event, Message, ProtocolSupport};
use libp2p::swarm::{NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{Multiaddr, SwarmBuilder, identify, noise, tcp, yamux};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::lab::Host;

/// Where it listens.
const PORT: u16 = 4001;

/// How relays are asked, for reservations and for circuits.
const HOP: &str = "/libp2p/circuit/relay/0.2.0/hop";

/// How AutoNAT servers are asked.
const DIAL_REQUEST: &str = "/libp2p/autonat/2/dial-request";

/// More than an honest request has.
const MAX_REQUEST: usize = 16 << 10;

/// When a reservation that never was expires, in seconds since 1970: the year 2100.
const NEVER: u64 = 4_102_444_800;

/// What it answers to reservation requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relaying {
    /// That it takes no more.
    Refuses,
    /// That it is done, at addresses that are none.
    PromisesNonsense,
    /// Bytes that mean nothing.
    Babbles,
}

/// What it answers to those who ask whether they can be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judging {
    /// That it has dialled them, which it has not.
    Reachable,
    /// That it could not, which it has not tried.
    Unreachable,
    /// Bytes that mean nothing.
    Babbles,
}

/// How often it was asked.
#[derive(Debug, Default)]
struct Asked {
    to_relay: AtomicUsize,
    to_judge: AtomicUsize,
}

/// A running impostor. Dropping it ends it.
#[derive(Debug)]
pub struct Impostor {
    address: String,
    asked: Arc<Asked>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Impostor {
    /// Starts one on a public host.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start(host: &Host, relaying: Relaying, judging: Judging) -> Self {
        let listen: Multiaddr =
            format!("/ip4/{}/tcp/{PORT}", host.v4()).parse().expect("an address and a port");
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let answers = [relaying.answer(), judging.answer()];
        let at = listen.clone();
        let asked = Arc::new(Asked::default());
        let counting = Arc::clone(&asked);
        // A thread stays where the one was that started it.
        let thread = host.enter(|| {
            thread::spawn(move || {
                let runtime =
                    Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
                runtime.block_on(async {
                    let mut swarm = swarm(answers);
                    swarm.listen_on(listen).expect("a host has its own address");
                    tell.send(*swarm.local_peer_id()).expect("whoever starts it waits for it");
                    tokio::select! {
                        () = run(swarm, &counting) => {}
                        _ = stopped => {}
                    }
                });
            })
        });
        let peer = told.recv().expect("the impostor started");
        Self { address: format!("{at}/p2p/{peer}"), asked, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it is dialled, as a multiaddr with its peer id.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// How often it was asked for reservations and circuits.
    pub fn asked_to_relay(&self) -> usize {
        self.asked.to_relay.load(Ordering::Relaxed)
    }

    /// How often it was asked whether somebody can be dialled.
    pub fn asked_to_judge(&self) -> usize {
        self.asked.to_judge.load(Ordering::Relaxed)
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            // A second panic while the test is already failing would hide why it fails.
            assert!(ended.is_ok() || thread::panicking(), "the impostor panicked: see above");
        }
    }
}

impl Relaying {
    fn answer(self) -> Vec<u8> {
        const STATUS: [u8; 2] = [1 << 3, 2];
        match self {
            Self::Refuses => delimited(&[&STATUS[..], &number(5, 200)].concat()),
            Self::PromisesNonsense => {
                let unreadable = bytes(2, &[0xff; 64]);
                let elsewhere = "/ip4/127.0.0.1/tcp/1/p2p-circuit/p2p-circuit".parse::<Multiaddr>();
                let elsewhere = bytes(2, &elsewhere.expect("it has the form of one").to_vec());
                let nobody = bytes(2, &Multiaddr::empty().to_vec());
                let reservation = [number(1, NEVER), unreadable, elsewhere, nobody].concat();
                delimited(&[&STATUS[..], &bytes(3, &reservation), &number(5, 100)].concat())
            }
            Self::Babbles => babble(),
        }
    }
}

impl Judging {
    fn answer(self) -> Vec<u8> {
        let dial_status = match self {
            Self::Reachable => 200,
            Self::Unreachable => 100,
            Self::Babbles => return babble(),
        };
        let response = [number(1, 200), number(2, 0), number(3, dial_status)].concat();
        delimited(&bytes(2, &response))
    }
}

/// A frame with nothing that makes sense in it.
fn babble() -> Vec<u8> {
    delimited(&[0xff; 100])
}

/// A field of protobuf that is a number.
fn number(field: u8, value: u64) -> Vec<u8> {
    let mut encoded = vec![field << 3];
    encoded.extend(varint(value));
    encoded
}

/// A field of protobuf that is bytes or a message.
fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
    let mut encoded = vec![field << 3 | 2];
    encoded.extend(delimited(value));
    encoded
}

fn delimited(message: &[u8]) -> Vec<u8> {
    [varint(message.len() as u64), message.to_vec()].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut encoded = Vec::new();
    while value >= 0x80 {
        encoded.push(value as u8 | 0x80);
        value >>= 7;
    }
    encoded.push(value as u8);
    encoded
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    relaying: request_response::Behaviour<Answering>,
    judging: request_response::Behaviour<Answering>,
}

fn swarm([relaying, judging]: [Vec<u8>; 2]) -> Swarm<Behaviour> {
    let answering = |protocol, answer| {
        request_response::Behaviour::with_codec(
            Answering(answer),
            [(protocol, ProtocolSupport::Inbound)],
            request_response::Config::default(),
        )
    };
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .expect("noise needs nothing")
        .with_behaviour(|key| Behaviour {
            identify: identify::Behaviour::new(identify::Config::new("/ssb/1".to_owned(), key.public())),
            relaying: answering(HOP, relaying),
            judging: answering(DIAL_REQUEST, judging),
        })
        .expect("the behaviour is there")
        .with_swarm_config(|config| config.with_idle_connection_timeout(std::time::Duration::MAX))
        .build()
}

/// Answers whoever asks.
async fn run(mut swarm: Swarm<Behaviour>, asked: &Asked) {
    loop {
        let Some(SwarmEvent::Behaviour(event)) = swarm.next().await else { continue };
        let behaviour = swarm.behaviour_mut();
        let (event, of, counter) = match event {
            BehaviourEvent::Relaying(event) => (event, &mut behaviour.relaying, &asked.to_relay),
            BehaviourEvent::Judging(event) => (event, &mut behaviour.judging, &asked.to_judge),
            BehaviourEvent::Identify(_) => continue,
        };
        if let Event::Message { message: Message::Request { channel, .. }, .. } = event {
            counter.fetch_add(1, Ordering::Relaxed);
            // Whoever asked may have left.
            of.send_response(channel, ()).ok();
        }
    }
}

/// Reads one message and answers with these bytes.
#[derive(Clone)]
struct Answering(Vec<u8>);

impl request_response::Codec for Answering {
    type Protocol = &'static str;
    type Request = ();
    type Response = ();

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &&'static str,
        io: &mut T,
    ) -> io::Result<()> {
        let mut length = 0;
        for shift in (0..21).step_by(7) {
            let mut byte = [0];
            io.read_exact(&mut byte).await?;
            length |= usize::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                break;
            }
        }
        let mut request = vec![0; length.min(MAX_REQUEST)];
        io.read_exact(&mut request).await
    }

    fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &&'static str,
        _: &mut T,
    ) -> impl Future<Output = io::Result<()>> + Send {
        never_asks()
    }

    fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &&'static str,
        _: &mut T,
        (): (),
    ) -> impl Future<Output = io::Result<()>> + Send {
        never_asks()
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &&'static str,
        io: &mut T,
        (): (),
    ) -> io::Result<()> {
        io.write_all(&self.0).await?;
        io.flush().await
    }
}

fn never_asks() -> Ready<io::Result<()>> {
    ready(Err(io::Error::other("an impostor asks nobody")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_protobuf() {
        assert_eq!(number(5, 200), [0x28, 0xc8, 0x01]);
        assert_eq!(bytes(3, b"ab"), [0x1a, 2, b'a', b'b']);
        assert_eq!(Relaying::Refuses.answer(), [5, 0x08, 2, 0x28, 0xc8, 0x01]);
        assert_eq!(Judging::Unreachable.answer(), [9, 0x12, 7, 0x08, 0xc8, 0x01, 0x10, 0, 0x18, 100]);
    }
}
