//! A peer that says it has whatever blob a node wants, and gives something else.

use std::collections::BTreeMap;
use std::thread::{self, JoinHandle};

use hawsepipe_overlay::keys::NetworkKey;
use serde_json::{Value, json};

use crate::MAIN_NETWORK;
use crate::lab::Host;
use crate::peer::Peer;
use crate::rogue::{END, JSON, Packet, Rogue, STREAM, Secured, identity};

/// What it does when it is asked for a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conduct {
    /// Sends other bytes, as many as it said.
    Forge,
    /// Sends and sends.
    Flood,
    /// Sends a little and then nothing.
    Stall,
}

/// The size it says of everything.
const SIZE: usize = 100_000;
/// One packet of what it sends.
const PIECE: usize = 32 * 1024;
/// More than any node takes of a blob, in packets.
const FLOOD: usize = 400;

/// The running peer; it ends with its session.
#[derive(Debug)]
pub struct Hoarder(#[expect(dead_code, reason = "what is kept is the thread")] JoinHandle<()>);

impl Hoarder {
    /// Connects to `node` and serves it.
    ///
    /// # Panics
    /// When the node does not take the session.
    pub fn join(host: &Host, node: &Peer, conduct: Conduct) -> Self {
        let network = NetworkKey::from_base64(MAIN_NETWORK).expect("our own constant is a key");
        let line = Rogue::dial(host, node.net_socket());
        let mut session =
            line.handshake(network, &identity(), node.key()).expect("the node takes the session");
        session.wait_for_ever();
        session.send_json(
            STREAM,
            1,
            &json!({ "name": ["blobs", "createWants"], "args": [], "type": "source" }),
        );
        let mut serving = Serving { session, conduct, wants: None, asked: BTreeMap::new() };
        Self(thread::spawn(move || {
            while let Some(packet) = serving.session.next_packet() {
                serving.take(&packet);
            }
        }))
    }
}

struct Serving {
    session: Secured,
    conduct: Conduct,
    /// The node's call for what we want and have.
    wants: Option<i32>,
    /// Offers from before that call.
    asked: BTreeMap<String, usize>,
}

impl Serving {
    fn take(&mut self, packet: &Packet) {
        let call = packet.json();
        let name = |index: usize| call["name"][index].as_str().unwrap_or_default().to_owned();
        match (packet.request, name(0).as_str(), name(1).as_str()) {
            (-1, ..) => self.hear(packet),
            (1.., "blobs", "createWants") => {
                self.wants = Some(packet.request);
                let offers = json!(self.asked);
                self.session.send_json(STREAM, -packet.request, &offers);
            }
            (1.., "blobs", "get") => self.give(packet.request),
            _ => {}
        }
    }

    /// The node says what it wants: we have it.
    fn hear(&mut self, packet: &Packet) {
        let Value::Object(said) = packet.json() else { return };
        let wanted = said.into_iter().filter(|(_, said)| said.as_i64().is_some_and(|said| said < 0));
        let offers: BTreeMap<_, _> = wanted.map(|(id, _)| (id, SIZE)).collect();
        match self.wants {
            Some(wants) if !offers.is_empty() => self.session.send_json(STREAM, -wants, &json!(offers)),
            Some(_) => {}
            None => self.asked.extend(offers),
        }
    }

    fn give(&mut self, request: i32) {
        let piece = vec![b'x'; PIECE];
        let pieces = match self.conduct {
            Conduct::Forge => SIZE / PIECE,
            Conduct::Flood => FLOOD,
            Conduct::Stall => 1,
        };
        (0..pieces).for_each(|_| self.session.send_packet(STREAM, -request, &piece));
        if self.conduct == Conduct::Forge {
            self.session.send_packet(STREAM, -request, &piece[..SIZE % PIECE]);
            self.session.send_packet(STREAM | END | JSON, -request, b"true");
        }
    }
}
