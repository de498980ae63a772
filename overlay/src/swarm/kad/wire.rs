//! The messages of libp2p's `/kad/1`, each after its length.
//!
//! <https://github.com/libp2p/specs/blob/master/kad-dht/README.md>. A request and its answer have the same
//! form. What could tell more than it must is neither sent nor read: a record's publisher and age, and
//! whether we are connected to a node that we tell of.

use std::io;

use libp2p::{Multiaddr, PeerId};
use tokio::io::AsyncRead;

pub(super) use super::super::delimited::write;
use super::super::delimited::{self, invalid};
use super::super::link;
use crate::kad::{self, Contact, K, MAX_ADDRESSES, MAX_VALUE, NodeId, Request, Response};
use crate::reachability::Target;

/// Longest message; libp2p has the same limit. Ours stay below a third of it.
pub(super) const MAX_MESSAGE: usize = 16 * 1024;
/// Longest key of a question: longer than any peer id.
pub(super) const MAX_KEY: usize = 128;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Message {
    /// A [`Kind`].
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    record: Option<Record>,
    #[prost(message, repeated, tag = "8")]
    closer: Vec<Peer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    PutValue = 0,
    GetValue = 1,
    AddProvider = 2,
    GetProviders = 3,
    FindNode = 4,
    Ping = 5,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Peer {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    addresses: Vec<Vec<u8>>,
}

/// Reads one message; fails with `InvalidData` when it is too long or not one.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Message> {
    delimited::read(stream, MAX_MESSAGE).await
}

/// A question as it is sent.
pub(super) fn encode_request(request: &Request) -> Message {
    let (key, record) = match request {
        Request::Ping => (Vec::new(), None),
        Request::FindNode(key) | Request::GetValue(key) | Request::GetProviders(key) => (key.clone(), None),
        Request::PutValue(record) => (record.key.clone(), Some(record.into())),
    };
    Message { kind: kind(request).into(), key, record, closer: Vec::new() }
}

/// Reads a question. `ADD_PROVIDER`, which nobody awaits an answer to, is none: provider records say who is
/// where, and are not kept.
pub(super) fn decode_request(message: Message) -> io::Result<Request> {
    match message.kind()? {
        Kind::Ping => Ok(Request::Ping),
        Kind::FindNode => Ok(Request::FindNode(checked_key(message.key)?)),
        Kind::GetValue => Ok(Request::GetValue(checked_key(message.key)?)),
        Kind::GetProviders => Ok(Request::GetProviders(checked_key(message.key)?)),
        Kind::PutValue => record_under(&message.key, message.record)?
            .map(Request::PutValue)
            .ok_or_else(|| invalid("nothing to be stored")),
        Kind::AddProvider => Err(invalid("provider records are not kept")),
    }
}

/// The answer to a question as it is sent. A put is answered with what was put, and with who is closer: stock
/// nodes don't look at that, ours are spared a question.
pub(super) fn encode_response(request: &Request, response: &Response) -> Message {
    let (record, closer) = match request {
        Request::Ping => (None, &[][..]),
        Request::PutValue(record) => (Some(record), response.closer.as_slice()),
        Request::GetValue(_) => (response.record.as_ref(), response.closer.as_slice()),
        Request::FindNode(_) | Request::GetProviders(_) => (None, response.closer.as_slice()),
    };
    let key = match request {
        Request::PutValue(record) => record.key.clone(),
        Request::Ping | Request::FindNode(_) | Request::GetValue(_) | Request::GetProviders(_) => Vec::new(),
    };
    Message {
        kind: kind(request).into(),
        key,
        record: record.map(Record::from),
        closer: closer.iter().take(K).map(Peer::from).collect(),
    }
}

/// Reads the answer to a question. Of nodes, what we cannot dial is left out: other transports, names,
/// circuits.
pub(super) fn decode_response(request: &Request, message: Message) -> io::Result<Response> {
    if message.kind()? != kind(request) {
        return Err(invalid("the answer to another question"));
    }
    let closer = || message.closer.iter().filter_map(contact).take(K).collect();
    match request {
        Request::Ping => Ok(Response::default()),
        Request::FindNode(_) | Request::GetProviders(_) => Ok(Response { closer: closer(), record: None }),
        Request::GetValue(key) => {
            let closer = closer();
            Ok(Response { closer, record: record_under(key, message.record)? })
        }
        Request::PutValue(put) => match record_under(&put.key, message.record)? {
            Some(kept) if kept == *put => Ok(Response { closer: closer(), record: None }),
            Some(_) | None => Err(invalid("something else was stored")),
        },
    }
}

impl Message {
    fn kind(&self) -> io::Result<Kind> {
        Kind::try_from(self.kind).map_err(invalid)
    }
}

impl From<&kad::Record> for Record {
    fn from(record: &kad::Record) -> Self {
        Self { key: record.key.clone(), value: record.value.clone() }
    }
}

impl From<&Contact> for Peer {
    fn from(contact: &Contact) -> Self {
        let addresses = contact.at.iter().take(MAX_ADDRESSES);
        Self {
            id: contact.node.bytes().to_vec(),
            addresses: addresses.map(|at| link::multiaddr(*at).to_vec()).collect(),
        }
    }
}

const fn kind(request: &Request) -> Kind {
    match request {
        Request::Ping => Kind::Ping,
        Request::FindNode(_) => Kind::FindNode,
        Request::GetValue(_) => Kind::GetValue,
        Request::PutValue(_) => Kind::PutValue,
        Request::GetProviders(_) => Kind::GetProviders,
    }
}

fn checked_key(key: Vec<u8>) -> io::Result<Vec<u8>> {
    if (1..=MAX_KEY).contains(&key.len()) { Ok(key) } else { Err(invalid("no key, or too long a one")) }
}

/// The record, if there is one: it must be the one under this key.
fn record_under(key: &[u8], record: Option<Record>) -> io::Result<Option<kad::Record>> {
    let Some(Record { key: of, value }) = record else { return Ok(None) };
    if of != key {
        return Err(invalid("a record under another key"));
    }
    if value.len() > MAX_VALUE {
        return Err(invalid("too long a value"));
    }
    Ok(Some(kad::Record { key: checked_key(of)?, value }))
}

/// A node that can be dialled.
fn contact(peer: &Peer) -> Option<Contact> {
    let id = PeerId::from_bytes(&peer.id).ok()?;
    let mut at = Vec::new();
    for target in peer.addresses.iter().filter_map(|address| target(address, id)) {
        if at.len() < MAX_ADDRESSES && !at.contains(&target) {
            at.push(target);
        }
    }
    (!at.is_empty()).then(|| Contact { node: NodeId::new(&id.to_bytes()), at })
}

/// An address of this peer, with or without its id.
fn target(address: &[u8], peer: PeerId) -> Option<Target> {
    let (at, named) = link::split_peer(Multiaddr::try_from(address.to_vec()).ok()?);
    link::target(&at).filter(|_| named.is_none_or(|named| named == peer))
}

#[cfg(test)]
mod tests;
