//! From HTTP to a WebSocket (RFC 6455, 4.2): which request asks for one, what it is answered, and the stream that the
//! connection becomes. What goes over it is the overlay's.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use hawsepipe_overlay::ws::accept_key;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use super::{Body, whole};

/// A connection that has become a WebSocket.
pub type Stream = TokioIo<Upgraded>;
/// Takes WebSockets of whoever is at an address.
pub type Sockets = Arc<dyn Fn(SocketAddr, Stream) -> Taken + Send + Sync>;
/// A WebSocket that is being taken.
pub type Taken = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The upgrade that one connection was promised, if it was.
#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<Option<OnUpgrade>>);

impl Pending {
    /// The answer to a request for a WebSocket; nothing for any other request.
    pub(super) fn switch(&self, request: &mut Request<Incoming>) -> Option<Response<Body>> {
        let accepted = asks_for_socket(request.method(), request.headers())?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(hyper::upgrade::on(request));
        let mut response = Response::new(whole(""));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accepted);
        Some(response)
    }

    /// The WebSocket, once the connection has served its last request.
    pub(super) async fn stream(self) -> Option<Stream> {
        let promised = self.0.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        // It comes to nothing if the client has gone meanwhile.
        promised.await.ok().map(TokioIo::new)
    }
}

/// What to answer whoever asks for a WebSocket of the version that there is.
fn asks_for_socket(method: &Method, headers: &HeaderMap) -> Option<HeaderValue> {
    let lists = |name: HeaderName, token: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(token))
    };
    let asked = *method == Method::GET
        && lists(header::CONNECTION, "upgrade")
        && lists(header::UPGRADE, "websocket")
        && lists(header::SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| asked)?;
    HeaderValue::from_str(&accept_key(key.as_bytes())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(method: Method, pairs: &[(&'static str, &'static str)]) -> Option<HeaderValue> {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        asks_for_socket(&method, &pairs.collect())
    }

    #[test]
    fn only_a_whole_request_for_the_version_that_there_is_becomes_a_socket() {
        let whole = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        assert_eq!(answered(Method::GET, &whole).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answered(Method::POST, &whole), None);
        for missing in 0..whole.len() {
            let mut part = whole.to_vec();
            part.remove(missing);
            assert_eq!(answered(Method::GET, &part), None, "without {}", whole[missing].0);
        }
        let old = [whole[0], whole[1], ("sec-websocket-version", "8"), whole[3]];
        assert_eq!(answered(Method::GET, &old), None);
    }
}
