//! Peers that lie about sessions, against an event loop.

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::Stream;
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::DialOpts;
use tokio::task::JoinSet;

use super::super::Event;
use super::super::streams::tests::{Node, node as rogue};
use super::super::streams::{self, Protocol};
use super::super::tests::node;
use super::*;
use crate::carrier::{Claim, Frame, Poke, ResetCode};

const PATIENCE: Duration = Duration::from_secs(20);
const SID: SessionId = SessionId([7; 16]);

/// One with a transport key of its own and a connection to the node at an address.
struct Rogue {
    swarm: Node,
    connection: ConnectionId,
}

impl Rogue {
    async fn dial(at: &str) -> Self {
        let mut swarm = rogue(false);
        let options = DialOpts::unknown_peer_id().address(at.parse().unwrap()).build();
        let connection = options.connection_id();
        swarm.dial(options).unwrap();
        let established = async {
            while !matches!(swarm.select_next_some().await, SwarmEvent::ConnectionEstablished { .. }) {}
        };
        tokio::time::timeout(PATIENCE, established).await.unwrap();
        Self { swarm, connection }
    }

    /// A stream that begins with this.
    async fn say(&mut self, said: &[u8]) -> Stream {
        let id = self.swarm.behaviour_mut().open(self.connection, Protocol::Carrier).unwrap();
        let opened = async {
            loop {
                let event = self.swarm.select_next_some().await;
                if let SwarmEvent::Behaviour(streams::Event::Opened { id: opened, stream, .. }) = event
                    && opened == id
                {
                    return stream;
                }
            }
        };
        let mut stream = tokio::time::timeout(PATIENCE, opened).await.unwrap();
        stream.write_all(said).await.unwrap();
        self.drive(stream.flush()).await.unwrap();
        stream
    }

    /// What the node answers to it, until it closes the stream.
    async fn answer(&mut self, said: &[u8]) -> Vec<u8> {
        let mut stream = self.say(said).await;
        let mut heard = Vec::new();
        // A stream that is reset has ended as well.
        let _ = self.drive(stream.read_to_end(&mut heard)).await;
        heard
    }

    async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        let driven = async {
            tokio::pin!(work);
            loop {
                tokio::select! {
                    done = &mut work => return done,
                    _ = self.swarm.select_next_some() => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, driven).await.unwrap()
    }
}

fn reset(code: ResetCode) -> Vec<u8> {
    Frame::Reset(code).encode().to_vec()
}

fn attach(epoch: u32) -> Vec<u8> {
    Frame::Attach(Claim { sid: SID, epoch, recv: 0, mac: [9; 32] }).encode().to_vec()
}

#[tokio::test]
async fn who_has_no_session_moves_none_and_hears_why() {
    let victim = node(1, &["/ip4/127.0.0.1/tcp/0"]).await;
    let at = victim.at(Carrier::Tcp);
    let mut tasks = JoinSet::new();
    let (_handle, mut events) = victim.run(&mut tasks);
    let (mut one, mut other) = (Rogue::dial(&at).await, Rogue::dial(&at).await);
    let poke = Frame::Poke(Poke { sid: SID, number: 1, mac: [9; 32] }).encode();
    for said in [&attach(1)[..], &poke] {
        assert_eq!(one.answer(said).await, reset(ResetCode::UnknownSession));
    }
    // A session whose handshake has not ended does not move, and one of somebody else is none at all.
    let kept = one.say(&Frame::Open(SID).encode()).await;
    let begun = async {
        loop {
            if let Some(Event::Inbound { stream, .. }) = events.recv().await {
                return stream;
            }
        }
    };
    let session = one.drive(begun).await;
    assert_eq!(one.answer(&attach(1)).await, reset(ResetCode::NotArmed));
    assert_eq!(other.answer(&attach(1)).await, reset(ResetCode::UnknownSession));
    // Whoever is asked to move a session must have opened it.
    assert_eq!(one.answer(&poke).await, reset(ResetCode::UnknownSession));
    drop((kept, session));
}

#[tokio::test]
async fn what_is_no_first_frame_is_answered_by_nothing() {
    let victim = node(1, &["/ip4/127.0.0.1/tcp/0"]).await;
    let at = victim.at(Carrier::Tcp);
    let mut tasks = JoinSet::new();
    let (_handle, _events) = victim.run(&mut tasks);
    let mut rogue = Rogue::dial(&at).await;
    for said in [&[2, 0x40, 0][..], &[4, 0xff, 0xff], &[9, 0, 0], &Frame::Ack(7).encode()] {
        assert!(rogue.answer(said).await.is_empty(), "{said:?}");
    }
}
