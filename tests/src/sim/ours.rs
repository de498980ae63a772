//! The node's own rules: its `plan`, with its own policy, over a snapshot that is kept as the engine would give it.

use std::time::{Duration, Instant};

use hawsepipe::peer_book::{FLAP, STALLED};
use hawsepipe::scheduler::{
    self, Candidate, Class, DropReason, Feeds, Kind, Link, PathState, Policy, Relation, Running, Slots,
    Snapshot,
};
use hawsepipe_overlay::address::Endpoint;
use hawsepipe_overlay::keys::PublicKey;

use super::world::World;
use super::{Contact, Decision, Happening, Millis, Scheduler, State};
use crate::chance::SplitMix;

/// How soon after something has happened a plan is made, as in the engine.
const PAUSE: Millis = 50;
/// What a liar says to have.
const PROMISED: u64 = 100_000;

/// See the module's header.
#[derive(Debug)]
pub struct Ours<const SPARSE: bool> {
    snapshot: Snapshot,
    policy: Policy,
    begin: Instant,
}

impl<const SPARSE: bool> Scheduler for Ours<SPARSE> {
    fn new(world: &World, me: u32, contacts: &[Contact], _: Millis) -> Self {
        let followed = &world.graph.follows[me as usize];
        let mut follows = Feeds::default();
        (0..followed.len()).for_each(|number| follows.insert(number));
        let candidate = |contact: &Contact| {
            let mut one = candidate(contact);
            for (number, feed) in followed.iter().enumerate() {
                if world.follows_or_is(contact.id, *feed) {
                    one.carries.insert(number);
                }
            }
            one
        };
        let peers = contacts.iter().map(candidate).collect();
        let begin = begin();
        Self {
            snapshot: Snapshot { own: key(me), follows, metered: false, peers },
            policy: if SPARSE { sparse() } else { Policy::default() },
            begin,
        }
    }

    fn happened(&mut self, place: usize, contact: &Contact, what: Happening, now: Millis) -> Option<Millis> {
        let at = self.begin + Duration::from_millis(now);
        if place >= self.snapshot.peers.len() {
            self.snapshot.peers.push(candidate(contact));
        }
        let peer = &mut self.snapshot.peers[place];
        let class = if contact.relayed { Class::Relayed } else { Class::Direct };
        let we_dialled = peer.link == Link::Outbound;
        peer.link = match contact.state {
            State::Idle => Link::None,
            State::Dialing => Link::Dialing,
            State::Connected { outbound: true } => Link::Outbound,
            State::Connected { outbound: false } => Link::Inbound,
        };
        let dials = &mut peer.dials[class.index()];
        for path in &mut peer.paths {
            path.dialing = contact.state == State::Dialing;
            match what {
                Happening::Presence | Happening::News | Happening::Owes => {}
                Happening::Dialing => {
                    path.last_attempt = Some(at);
                    dials.last = Some(at);
                }
                Happening::Failed => {
                    path.failures += 1;
                    path.failed.add(1.0, at);
                    dials.failures += 1;
                }
                Happening::Connected => {
                    path.failures = 0;
                    path.worked.add(1.0, at);
                    dials.failures = 0;
                }
                Happening::Ended => path.last_ended = Some(at),
                Happening::EndedAtOnce => {
                    path.last_ended = Some(at);
                    if we_dialled {
                        path.failures += 1;
                        path.failed.add(1.0, at);
                        path.last_attempt = Some(at);
                    }
                }
            }
        }
        match what {
            // Where somebody is stands in the DHT while they are there.
            Happening::Presence if contact.present.is_none() => peer.paths.clear(),
            Happening::Presence => peer.paths = vec![PathState { said: Some(at), ..path(contact) }],
            Happening::Connected => {
                peer.session = Some(Running { since: at, news: None, owes_since: None, class });
            }
            Happening::Ended | Happening::EndedAtOnce => {
                if what == Happening::EndedAtOnce && !we_dialled {
                    peer.faults.add(FLAP, at);
                }
                peer.session = None;
                peer.met = Some(at);
            }
            Happening::News => peer.session.iter_mut().for_each(|session| session.news = Some(at)),
            Happening::Owes => {
                peer.owed = PROMISED;
                peer.session.iter_mut().for_each(|session| session.owes_since = Some(at));
            }
            Happening::Failed | Happening::Dialing => {}
        }
        (what != Happening::News).then_some(now + PAUSE)
    }

    fn decide(&mut self, _: &[Contact], now: Millis, _: &mut SplitMix) -> Decision {
        let at = self.begin + Duration::from_millis(now);
        let plan = scheduler::plan(&self.snapshot, &self.policy, at);
        let place = |key: &PublicKey| self.snapshot.peers.iter().position(|peer| peer.key == *key);
        let dropped = plan.drop.iter().filter_map(|(key, reason)| Some((place(key)?, *reason)));
        for (place, reason) in dropped.collect::<Vec<_>>() {
            if reason == DropReason::Stalled {
                let peer = &mut self.snapshot.peers[place];
                peer.faults.add(STALLED, at);
                peer.owed = 0;
            }
        }
        let place = |key: &PublicKey| self.snapshot.peers.iter().position(|peer| peer.key == *key);
        Decision {
            dial: plan.dial.iter().filter_map(|dial| place(&dial.peer)).collect(),
            drop: plan.drop.iter().filter_map(|(key, _)| place(key)).collect(),
            again: plan.wake_at.map(|wake| (wake - self.begin).as_millis() as Millis + 1),
        }
    }
}

/// As many sessions as ssb-conn looks for.
fn sparse() -> Policy {
    let slots = Slots { friends: 0, explore: 2, hubs: 2, inbound_reserve: 0, ..Slots::default() };
    Policy { slots, ..Policy::default() }
}

/// A contact as the peer book would give it when the node starts: it knows where pubs are.
fn candidate(contact: &Contact) -> Candidate {
    Candidate {
        kind: if contact.hub { Kind::Hub } else { Kind::Person },
        follows_us: contact.mutual,
        paths: Vec::from_iter(contact.hub.then(|| path(contact))),
        ..Candidate::new(key(contact.id), Relation::Hops(contact.hops))
    }
}

/// The way to a contact.
fn path(contact: &Contact) -> PathState {
    let endpoint = Endpoint::Net { host: String::new(), port: 1 };
    PathState::new(endpoint, if contact.relayed { Class::Relayed } else { Class::Direct })
}

fn key(id: u32) -> PublicKey {
    // Keys are random: numbers in a row would decide between equals alike everywhere.
    let mut bytes = [0; 32];
    let mut chance = SplitMix::new(u64::from(id));
    bytes.fill_with(|| (chance.unit() * 256.0) as u8);
    bytes[..4].copy_from_slice(&id.to_be_bytes());
    PublicKey::from_bytes(bytes)
}

/// When the simulation begins for a node: only differences matter.
fn begin() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "the simulation needs some instant to start from")]
    Instant::now()
}
