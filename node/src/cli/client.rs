//! The session of a command with the running node, how a command fails, and `hawsepipe call`.

use std::path::Path;
use std::process::ExitCode;

use hawsepipe_overlay::conn::Connection;
use hawsepipe_overlay::muxrpc::{Body, BodyKind};
use serde_json::Value;

use super::output;
use super::page::{Facts, Page};
use crate::client::{self, ClientError, ConnectError};

/// A session with the node on this machine.
#[derive(Debug)]
pub struct Client {
    /// What methods are called on.
    pub api: client::Client,
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

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
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
        let connected = client::Client::local(path).await;
        let api = connected.map_err(|error: ConnectError| {
            let shown = path.display();
            Failure::NotRunning(format!(
                "no node is running on {shown} ({error}). Start one with:  hawsepipe --path '{shown}' start"
            ))
        })?;
        Ok(Self { api })
    }

    /// Uses a session that stands.
    pub fn over(connection: Connection) -> Self {
        Self { api: client::Client::over(connection) }
    }

    /// Calls an async method.
    pub async fn call(&self, name: &str, args: Vec<Value>) -> Result<Body, Failure> {
        Ok(self.api.call_raw(name, args).await?)
    }

    /// Calls an async method and prints its result on one line.
    pub async fn print(&self, name: &str, args: Vec<Value>, facts: &Facts) -> Result<(), Failure> {
        let body = self.call(name, args).await?;
        let mut page = Page::short(facts);
        page.json(&body.bytes);
        page.finish();
        Ok(())
    }

    /// Calls a source and prints each item on a line.
    pub async fn print_stream(&self, name: &str, args: Vec<Value>, facts: &Facts) -> Result<(), Failure> {
        let mut page = Page::short(facts);
        let printed = self.each(name, args, |item| {
            match item.kind {
                BodyKind::Json | BodyKind::Text => page.json(&item.bytes),
                BodyKind::Binary => page.bytes(&item.bytes),
            }
            page.flush();
            Ok(())
        });
        printed.await?;
        page.finish();
        Ok(())
    }

    /// Calls a source and does something with each item.
    pub async fn each(
        &self,
        name: &str,
        args: Vec<Value>,
        mut work: impl FnMut(&Body) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut items = self.api.source_raw(name, args).await?;
        while let Some(item) = items.next().await {
            work(&item?)?;
        }
        Ok(())
    }

    /// Says goodbye.
    pub async fn close(self) {
        self.api.close().await;
    }
}

/// `hawsepipe call METHOD ARGS…`: of whatever kind the node says the method is.
pub async fn call(client: &Client, method: &str, args: &[String], facts: &Facts) -> Result<(), Failure> {
    let args = args.iter().map(|text| argument(text)).collect();
    let manifest = client.api.manifest().await?;
    let kind = method.split('.').try_fold(&manifest, |level, part| level.get(part)).and_then(Value::as_str);
    match kind {
        Some("source") => client.print_stream(method, args, facts).await,
        Some("sink") => super::sink::run(&client.api, method, args, facts).await,
        Some("duplex") => Err(Failure::Usage(format!("{method} is a duplex: it needs a program"))),
        // An unknown method goes to the node, so that the refusal is the node's own.
        Some(_) | None => client.print(method, args, facts).await,
    }
}

/// An argument as typed: JSON where it is JSON, text otherwise.
fn argument(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}
