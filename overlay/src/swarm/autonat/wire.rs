//! AutoNAT v2's messages, each after its length.

use std::io;

use tokio::io::AsyncRead;

use super::super::delimited;
pub(super) use super::super::delimited::{invalid, write};

/// Longest message.
pub(super) const MAX_MESSAGE: usize = 8 * 1024;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Message {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4")]
    pub(super) kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Kind {
    #[prost(message, tag = "1")]
    Request(DialRequest),
    #[prost(message, tag = "2")]
    Response(DialResponse),
    #[prost(message, tag = "3")]
    DataRequest(DialDataRequest),
    #[prost(message, tag = "4")]
    DataResponse(DialDataResponse),
}

/// Dial one of these.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DialRequest {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(super) addrs: Vec<Vec<u8>>,
    #[prost(fixed64, tag = "2")]
    pub(super) nonce: u64,
}

/// Send so much first: the address is not where the request comes from.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct DialDataRequest {
    #[prost(uint32, tag = "1")]
    pub(super) addr_idx: u32,
    #[prost(uint64, tag = "2")]
    pub(super) num_bytes: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DialDataResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) data: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct DialResponse {
    #[prost(enumeration = "ResponseStatus", tag = "1")]
    pub(super) status: i32,
    #[prost(uint32, tag = "2")]
    pub(super) addr_idx: u32,
    #[prost(enumeration = "DialStatus", tag = "3")]
    pub(super) dial_status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum ResponseStatus {
    EInternalError = 0,
    ERequestRejected = 100,
    EDialRefused = 101,
    Ok = 200,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum DialStatus {
    Unused = 0,
    EDialError = 100,
    EDialBackError = 101,
    Ok = 200,
}

/// The number of the question, brought back.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct DialBack {
    #[prost(fixed64, tag = "1")]
    pub(super) nonce: u64,
}

/// It has arrived: 0 is the only status there is.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct DialBackResponse {
    #[prost(int32, tag = "1")]
    pub(super) status: i32,
}

pub(super) async fn read<M: prost::Message + Default>(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<M> {
    delimited::read(stream, MAX_MESSAGE).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_have_the_bytes_of_the_specification() {
        let request = DialRequest { addrs: vec![vec![1, 2]], nonce: 0x0102 };
        let message = Message { kind: Some(Kind::Request(request)) };
        let mut bytes = Vec::new();
        write(&mut bytes, &message).await.unwrap();
        assert_eq!(bytes, [15, 0x0a, 13, 0x0a, 2, 1, 2, 0x11, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read::<Message>(&mut bytes.as_slice()).await.unwrap(), message);
        let mut bytes = Vec::new();
        write(&mut bytes, &DialBack { nonce: 7 }).await.unwrap();
        assert_eq!(bytes, [9, 9, 7, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[tokio::test]
    async fn what_is_too_long_or_cut_off_is_refused() {
        for bytes in [&[0xff, 0xff, 0x01][..], &[0x81, 0x40], &[0x80], &[5, 1], &[]] {
            read::<DialBack>(&mut &*bytes).await.unwrap_err();
        }
        let longest = [&[0x80, 0x40][..], &[0; MAX_MESSAGE]].concat();
        let error = read::<DialBack>(&mut longest.as_slice()).await.unwrap_err();
        assert!(error.to_string().contains("tag"), "read as a whole: {error}");
    }
}
