//! The messages of DCUtR (libp2p specs, `relay/DCUtR.md`): protobuf, each with its length before it.

use std::io;

use libp2p::Multiaddr;
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::delimited::{self, invalid};

/// Longest message; the specification's limit.
pub(crate) const MAX_MESSAGE: usize = 4096;
/// Most addresses sent, and looked at, of one message.
pub(crate) const MAX_ADDRESSES: usize = 16;

/// What is said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Message {
    /// Where the sender may be reached.
    Connect(Vec<Multiaddr>),
    /// Now.
    Sync,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HolePunch {
    #[prost(enumeration = "Type", required, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", repeated, tag = "2")]
    addresses: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum Type {
    Unused = 0,
    Connect = 100,
    Sync = 300,
}

/// Writes one message.
pub(crate) async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &Message) -> io::Result<()> {
    let (kind, addresses) = match message {
        Message::Connect(addresses) => (Type::Connect, addresses.as_slice()),
        Message::Sync => (Type::Sync, [].as_slice()),
    };
    let addresses = addresses.iter().take(MAX_ADDRESSES).map(Multiaddr::to_vec).collect();
    delimited::write(stream, &HolePunch { kind: kind.into(), addresses }).await
}

/// Reads one message. Addresses that are none are passed over: others of the list may be good.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Message> {
    let message: HolePunch = delimited::read(stream, MAX_MESSAGE).await?;
    match message.kind() {
        Type::Connect => {
            let addresses = message.addresses.into_iter().take(MAX_ADDRESSES);
            Ok(Message::Connect(addresses.filter_map(|bytes| bytes.try_into().ok()).collect()))
        }
        Type::Sync => Ok(Message::Sync),
        Type::Unused => Err(invalid("neither CONNECT nor SYNC")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn at(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    async fn written(message: &Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, message).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn messages_are_those_of_the_specification() {
        // Field 1 is 100 or 300, field 2 the binary form of /ip4/1.2.3.4/tcp/80.
        assert_eq!(written(&Message::Sync).await, [3, 0x08, 0xac, 0x02]);
        let connect = Message::Connect(vec![at("/ip4/1.2.3.4/tcp/80")]);
        let bytes = written(&connect).await;
        assert_eq!(bytes, [12, 0x08, 100, 0x12, 8, 4, 1, 2, 3, 4, 6, 0, 80]);
        assert_eq!(read(&mut bytes.as_slice()).await.unwrap(), connect);
    }

    #[tokio::test]
    async fn addresses_that_are_none_are_passed_over_and_long_lists_cut() {
        let good = at("/ip4/1.2.3.4/udp/80/quic-v1");
        let addresses = vec![vec![0xff; 9], good.to_vec()];
        let bytes = HolePunch { kind: 100, addresses }.encode_length_delimited_to_vec();
        assert_eq!(read(&mut bytes.as_slice()).await.unwrap(), Message::Connect(vec![good.clone()]));
        let many = written(&Message::Connect(vec![good; 100])).await;
        let Message::Connect(read) = read(&mut many.as_slice()).await.unwrap() else { panic!() };
        assert_eq!(read.len(), MAX_ADDRESSES);
    }

    #[tokio::test]
    async fn what_is_too_long_or_unknown_is_refused() {
        assert!(read(&mut [0xff, 0xff, 0x7f].as_slice()).await.is_err());
        let unknown = HolePunch { kind: 7, addresses: vec![] }.encode_length_delimited_to_vec();
        assert!(read(&mut unknown.as_slice()).await.is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(read(&mut bytes.as_slice()));
        }
    }
}
