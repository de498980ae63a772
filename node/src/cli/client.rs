//! The commands that talk to the running node, through its socket.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use hawsepipe_overlay::conn::{Connection, Session, Stream};
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::muxrpc::{Body, BodyKind, CallError, CallKind};
use hawsepipe_replication::refs::BlobId;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;

use super::output;
use super::{Log, Publish};
use crate::blobs::blocking;
use crate::datadir::DataDir;

/// How long the node may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);
/// How much of a file is sent in one packet, as in JS.
const PIECE: usize = 64 * 1024;

/// A session with the node on this machine.
#[derive(Debug)]
pub struct Client {
    session: Session,
    driver: JoinSet<()>,
}

/// Why a command came to nothing.
#[derive(Debug)]
pub enum Failure {
    /// No node listens.
    NotRunning(String),
    /// The node said no.
    Refused(String),
    /// What was typed makes no sense.
    Usage(String),
    /// All was said, and it is not good.
    Attention,
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl Failure {
    /// Tells the person, and gives the exit code.
    pub fn report(self) -> ExitCode {
        match self {
            Self::NotRunning(why) => {
                output::note(&format!("hawsepipe: {why}"));
                ExitCode::from(output::NOT_RUNNING)
            }
            Self::Refused(why) => output::failed(&why),
            Self::Usage(why) => output::usage(&why),
            Self::Attention => ExitCode::from(output::REFUSED),
        }
    }
}

impl Client {
    /// Connects to the node whose data folder is `path`.
    pub async fn connect(path: &Path) -> Result<Self, Failure> {
        let socket = DataDir::at(path).socket();
        // Whoever can open the socket is its owner; the key on our side of it does not matter.
        let dialled = hawsepipe_overlay::unix::dial(&socket, PublicKey::from_bytes([0; 32])).await;
        let Connection { session, driver, calls } = dialled.map_err(|error| {
            let shown = path.display();
            Failure::NotRunning(format!(
                "no node is running on {shown} ({error}). Start one with:  hawsepipe --path '{shown}' start"
            ))
        })?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            driver.run().await;
            drop(calls);
        });
        Ok(Self { session, driver: tasks })
    }

    /// Calls an async method.
    pub async fn call(&self, name: &str, args: Vec<Value>) -> Result<Body, Failure> {
        let path: Vec<_> = name.split('.').collect();
        Ok(self.session.call(&path, args).await?)
    }

    /// Calls an async method and prints its result on one line.
    pub async fn print(&self, name: &str, args: Vec<Value>) -> Result<(), Failure> {
        let body = self.call(name, args).await?;
        output::bytes(&body.bytes);
        Ok(())
    }

    /// Calls a source and prints each item on a line.
    pub async fn print_stream(&self, name: &str, args: Vec<Value>) -> Result<(), Failure> {
        let printed = self.each(name, args, |item| {
            print_item(item);
            Ok(())
        });
        printed.await
    }

    /// Calls a source and does something with each item.
    pub async fn each(
        &self,
        name: &str,
        args: Vec<Value>,
        mut work: impl FnMut(&Body) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let path: Vec<_> = name.split('.').collect();
        let Stream { tx, mut rx } = self.session.open(CallKind::Source, &path, args).await?;
        while let Some(item) = rx.recv().await {
            work(&item?)?;
        }
        tx.end(None).await;
        Ok(())
    }

    /// Says goodbye.
    pub async fn close(mut self) {
        self.session.close();
        // If the node does not answer, leaving is goodbye enough.
        let _ = tokio::time::timeout(GOODBYE, self.driver.join_next()).await;
    }
}

fn print_item(body: &Body) {
    match body.kind {
        BodyKind::Json | BodyKind::Text => output::bytes(&body.bytes),
        BodyKind::Binary => {
            if std::io::stdout().write_all(&body.bytes).is_err() {
                std::process::exit(0);
            }
        }
    }
}

/// `hawsepipe call METHOD ARGS…`: of whatever kind the node says the method is.
pub async fn call(client: &Client, method: &str, args: &[String]) -> Result<(), Failure> {
    let args = args.iter().map(|text| argument(text)).collect();
    let manifest: Value = client.call("manifest", Vec::new()).await?.decode().unwrap_or_default();
    let kind = method.split('.').try_fold(&manifest, |level, part| level.get(part)).and_then(Value::as_str);
    match kind {
        Some("source") => client.print_stream(method, args).await,
        Some(kind @ ("duplex" | "sink")) => {
            Err(Failure::Usage(format!("{method} is a {kind}: it needs a program")))
        }
        // An unknown method goes to the node, so that the refusal is the node's own.
        Some(_) | None => client.print(method, args).await,
    }
}

/// An argument as typed: JSON where it is JSON, text otherwise.
fn argument(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// `hawsepipe publish`.
pub async fn publish(client: &Client, what: &Publish) -> Result<(), Failure> {
    let content = match (&what.content, &what.post) {
        (_, Some(text)) => json!({ "type": "post", "text": text }),
        (Some(content), None) => {
            let parsed: Result<Value, _> = serde_json::from_str(content);
            parsed.map_err(|e| Failure::Usage(format!("the content is not JSON: {e}")))?
        }
        (None, None) => return Err(Failure::Usage("nothing to publish".to_owned())),
    };
    client.print("publish", vec![content]).await
}

/// `hawsepipe log`.
pub async fn log(client: &Client, what: &Log) -> Result<(), Failure> {
    let mut options =
        json!({ "live": what.live, "reverse": what.reverse, "sync": false, "private": what.private });
    if let Some(limit) = what.limit {
        options["limit"] = limit.into();
    }
    let method = match (&what.feed, &what.kind) {
        (Some(feed), _) => {
            options["id"] = feed.clone().into();
            "createUserStream"
        }
        (None, Some(kind)) => {
            options["type"] = kind.clone().into();
            "messagesByType"
        }
        (None, None) => "createLogStream",
    };
    client.print_stream(method, vec![options]).await
}

/// `hawsepipe blobs.add`. The node answers only that it is done, as JS's do: the id is the hash of what was sent.
pub async fn add_blob(client: &Client, file: Option<&Path>) -> Result<(), Failure> {
    let mut from: Box<dyn Read + Send> = match file {
        Some(path) => {
            let open = File::open(path);
            Box::new(open.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?)
        }
        None => Box::new(std::io::stdin()),
    };
    let Stream { mut tx, mut rx } =
        client.session.open(CallKind::Sink, &["blobs", "add"], Vec::new()).await?;
    let (mut hash, mut sent_all) = (Sha256::new(), false);
    while !sent_all {
        let (piece, back) = blocking(move || (read_piece(&mut *from), from)).await;
        from = back;
        let piece = piece.map_err(|error| Failure::Refused(error.to_string()))?;
        hash.update(&piece);
        // The node may have broken off; why is said below.
        sent_all = piece.is_empty() || tx.send(Body::binary(piece)).await.is_err();
    }
    tx.end(None).await;
    while let Some(ended) = rx.recv().await {
        ended?;
    }
    output::line(&BlobId::from_bytes(hash.finalize().into()).to_string());
    Ok(())
}

/// The next piece of a file; nothing at its end.
fn read_piece(from: &mut dyn Read) -> std::io::Result<Vec<u8>> {
    let mut piece = Vec::with_capacity(PIECE);
    from.take(PIECE as u64).read_to_end(&mut piece)?;
    Ok(piece)
}

/// `hawsepipe blobs.get`.
pub async fn get_blob(client: &Client, id: &str, want: bool) -> Result<(), Failure> {
    if want {
        client.call("blobs.want", vec![id.into()]).await?;
    }
    client.print_stream("blobs.get", vec![id.into()]).await?;
    std::io::stdout().flush().map_err(|error| Failure::Refused(error.to_string()))
}

/// `hawsepipe doctor`.
pub async fn doctor(client: &Client) -> Result<(), Failure> {
    let found: Value = client.call("doctor", Vec::new()).await?.decode().unwrap_or_default();
    for text in found["lines"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        output::line(text);
    }
    if found["healthy"] == true { Ok(()) } else { Err(Failure::Attention) }
}

/// `hawsepipe peers`.
pub async fn peers(client: &Client, connected: bool) -> Result<(), Failure> {
    let Stream { tx, mut rx } = client.session.open(CallKind::Source, &["conn", "peers"], Vec::new()).await?;
    let Some(first) = rx.recv().await else { return Ok(()) };
    let list: Vec<(String, Value)> = first?.decode().unwrap_or_default();
    for (address, data) in list {
        if !connected || data["state"] == "connected" {
            output::line(&json!({ "address": address, "data": data }).to_string());
        }
    }
    tx.end(None).await;
    Ok(())
}
