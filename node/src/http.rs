//! What this node serves by HTTP, each on a socket of its own and on loopback unless configured otherwise: for the
//! operator `/metrics` (Prometheus), `/live` and `/ready`; and, on ssb-ws's port, [blobs](blobs) and
//! [messages](messages) for browsers and [WebSockets](upgrade) for clients. No request's body is read.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub mod blobs;
pub mod messages;
pub mod upgrade;

use upgrade::Sockets;

/// HTTP connections at once; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 64;
/// A client that does not finish its request header in this time is dropped.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Gives the current metrics as text.
pub type Render = Arc<dyn Fn() -> Vec<u8> + Send + Sync>;
/// An answer's body; it may come in pieces, and break off.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;
/// An answer that is being made.
pub type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
/// Answers the requests of whoever is at an address.
pub type Handler = Arc<dyn Fn(SocketAddr, Request<Incoming>) -> Answer + Send + Sync>;

/// A bound service that does not serve yet.
pub struct Http {
    listener: TcpListener,
    service: Service,
}

/// Whom connections are for.
#[derive(Clone)]
struct Service {
    handler: Handler,
    /// Who takes WebSockets; without, asking for one is a request as any other.
    sockets: Option<Sockets>,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Http {
    /// Binds `address`.
    pub async fn bind(address: SocketAddr, handler: Handler) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, service: Service { handler, sockets: None } })
    }

    /// Serves on a listener that is bound already, and takes WebSockets.
    pub fn on(listener: TcpListener, handler: Handler, sockets: Sockets) -> Self {
        Self { listener, service: Service { handler, sockets: Some(sockets) } }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = connections.join_next() => continue,
                accepted = accept(&self.listener, &slots) => accepted,
            };
            let Some((stream, from, slot)) = accepted else { continue };
            let service = self.service.clone();
            connections.spawn(async move {
                let upgraded = service.serve(stream, from).await;
                drop(slot);
                if let (Some(stream), Some(sockets)) = (upgraded, service.sockets) {
                    sockets(from, stream).await;
                }
            });
        }
    }
}

impl Service {
    /// Answers one connection's requests to their end, which may be that it becomes a WebSocket.
    async fn serve(&self, stream: TcpStream, from: SocketAddr) -> Option<upgrade::Stream> {
        // Muxrpc packets are small and answered at once. Without it all works as well, only later.
        let _ = stream.set_nodelay(true);
        let pending = upgrade::Pending::default();
        let answering = service_fn(|mut request| {
            let switched = self.sockets.as_ref().and_then(|_| pending.switch(&mut request));
            let answer = match switched {
                Some(response) => Box::pin(std::future::ready(response)) as Answer,
                None => (self.handler)(from, request),
            };
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        // A client that breaks off concerns nobody but itself.
        let _ = http.serve_connection(TokioIo::new(stream), answering).with_upgrades().await;
        pending.stream().await
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, from)) => Some((stream, from, slot)),
        Err(error) => {
            // Out of file descriptors, most likely: trying again at once would only burn the processor.
            tracing::warn!(%error, "cannot accept an HTTP connection");
            tokio::time::sleep(Duration::from_millis(200)).await;
            None
        }
    }
}

/// What the operator's socket answers.
pub fn metrics(render: Render) -> Handler {
    Arc::new(move |_, request| {
        let response = respond(&request, &render);
        Box::pin(std::future::ready(response))
    })
}

fn respond(request: &Request<Incoming>, render: &Render) -> Response<Body> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", Bytes::from(render()))
        }
        (&Method::GET | &Method::HEAD, "/live" | "/ready") => (StatusCode::OK, "text/plain", "ok\n".into()),
        (&Method::GET | &Method::HEAD, _) => {
            (StatusCode::NOT_FOUND, "text/plain", "see /metrics, /live and /ready\n".into())
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".into()),
    };
    let mut response = Response::new(whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind.parse().expect("our content types are valid"));
    response
}

/// A body that is here.
fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}
