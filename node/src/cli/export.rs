//! `hawsepipe export` and `hawsepipe backup`: of a node that runs through its socket, else of its store.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use hawsepipe_replication::refs::FeedId;
use hawsepipe_replication::store::{Messages, OpenError, Options, Order, ReadError, Reader, Store};
use serde_json::json;

use super::client::{Client, Failure};
use super::output;
use super::progress::Bar;
use crate::clock;
use crate::datadir::DataDir;
use crate::export::{self, Label, MESSAGES, NewFile};
use crate::identity;
use crate::import::By;

/// Writes messages to `out`, or prints them.
pub(super) async fn run(path: &Path, feeds: &[String], out: Option<&Path>) -> ExitCode {
    crate::init_crypto();
    let mut ids = Vec::new();
    for feed in feeds {
        let Ok(id) = feed.parse() else { return output::usage(&format!("not a feed: {feed}")) };
        ids.push(id);
    }
    let done = match out {
        Some(file) => to_file(path, &ids, file).await,
        None => to_stdout(path, &ids).await,
    };
    done.map_or_else(Failure::report, |()| ExitCode::SUCCESS)
}

/// Makes a backup in the folder `to`, or in a file if its name ends in `.tar`.
pub(super) async fn backup(path: &Path, to: &Path, with_blobs: bool) -> ExitCode {
    crate::init_crypto();
    let made = if to.extension().is_some_and(|kind| kind == "tar") {
        make_archive(path, to, with_blobs).await
    } else {
        make_backup(path, to, with_blobs.then_some(By::Copy)).await
    };
    match made {
        Ok((label, messages)) => {
            let (id, sequence) = (label.id, label.sequence);
            let shown = to.display();
            output::line(&format!(
                "backup of {id} in {shown}: {messages} messages, {sequence} of them its own"
            ));
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report(),
    }
}

async fn make_archive(path: &Path, file: &Path, with_blobs: bool) -> Result<(Label, u64), Failure> {
    let folder = file.with_extension("tar.partial");
    // Of an attempt that was interrupted.
    let _ = fs::remove_dir_all(&folder);
    let made = make_backup(path, &folder, with_blobs.then_some(By::Link)).await;
    let packed = made.and_then(|made| export::pack(&folder, file).map(|()| made).map_err(refused));
    let _ = fs::remove_dir_all(&folder);
    packed
}

async fn make_backup(path: &Path, dir: &Path, blobs: Option<By>) -> Result<(Label, u64), Failure> {
    let from = DataDir::at(path);
    let blobs = export::files(&from, dir, blobs).map_err(refused)?;
    if blobs > 0 {
        output::line(&format!("{blobs} blobs are new in the backup"));
    }
    let own = identity::read_secret(path).map_err(refused)?;
    let own = own.ok_or_else(|| Failure::Refused("the secret is gone".to_owned()))?;
    let own = FeedId::from_bytes(own.public.0);
    let log = Log::open(path).await?;
    let label = Label::new(own, log.sequence(own).await, clock::unix_millis());
    let file = dir.join(MESSAGES);
    let messages = log.into_file(&[], &file).await?;
    export::seal(dir, &label).map_err(refused)?;
    Ok((label, messages))
}

async fn to_file(path: &Path, feeds: &[FeedId], file: &Path) -> Result<(), Failure> {
    let messages = Log::open(path).await?.into_file(feeds, file).await?;
    output::note(&format!("{messages} messages in {}", file.display()));
    Ok(())
}

async fn to_stdout(path: &Path, feeds: &[FeedId]) -> Result<(), Failure> {
    let log = Log::open(path).await?;
    let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout());
    let written = log.write(feeds, &mut out).await;
    match written.and_then(|_| out.flush().map_err(Stop::Write)) {
        // A closed pipe ends any filter quietly.
        Err(Stop::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(stop) => Err(stop.into()),
        Ok(()) => Ok(()),
    }
}

fn refused(error: impl std::fmt::Display) -> Failure {
    Failure::Refused(error.to_string())
}

/// Where the messages are.
enum Log {
    /// The node runs.
    Node(Client),
    /// It does not.
    Store(Reader),
}

/// Why writing ended early.
enum Stop {
    Node(Failure),
    Read(ReadError),
    Write(io::Error),
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Node(failure) => failure,
            Stop::Read(error) => refused(error),
            Stop::Write(error) => refused(format!("cannot write: {error}")),
        }
    }
}

impl Log {
    async fn open(path: &Path) -> Result<Self, Failure> {
        let store = DataDir::at(path).store();
        if !store.join("log").is_dir() {
            return Err(Failure::Refused(format!("{} holds no store of Hawsepipe", path.display())));
        }
        let mut bar = Bar::new("indexing the log");
        match Store::open(&store, &Options::default(), &mut |done, all| bar.bytes(done, all)) {
            Ok((_, reader)) => Ok(Self::Store(reader)),
            Err(OpenError::InUse { .. }) => Client::connect(path).await.map(Self::Node),
            Err(error) => Err(refused(error)),
        }
    }

    /// How many messages a feed has.
    async fn sequence(&self, feed: FeedId) -> u64 {
        match self {
            Self::Store(reader) => reader.tip(&feed).map_or(0, |tip| tip.sequence),
            Self::Node(client) => {
                let sequence = client.call("latestSequence", vec![json!(feed)]).await;
                sequence.ok().and_then(|body| body.decode().ok()).unwrap_or(0)
            }
        }
    }

    /// Writes to a file that has its name only when it is whole.
    async fn into_file(self, feeds: &[FeedId], file: &Path) -> Result<u64, Failure> {
        let failed = |error| refused(format!("cannot write {}: {error}", file.display()));
        let mut out = NewFile::create(file).map_err(failed)?;
        let messages = self.write(feeds, &mut out).await?;
        out.finish().map_err(failed)?;
        Ok(messages)
    }

    /// Writes the messages of `feeds`, or all; says how many.
    async fn write(self, feeds: &[FeedId], out: &mut impl Write) -> Result<u64, Stop> {
        match self {
            Self::Store(reader) => write_store(&reader, feeds, out),
            Self::Node(client) => {
                let written = write_node(&client, feeds, out).await;
                client.close().await;
                written
            }
        }
    }
}

fn write_store(reader: &Reader, feeds: &[FeedId], out: &mut impl Write) -> Result<u64, Stop> {
    let mut bar = Bar::new("exporting");
    let all = reader.len();
    let mut count = 0;
    let mut write = |messages: Messages| {
        for stored in messages {
            let stored = stored.map_err(Stop::Read)?;
            let line = stored.message.key_value_timestamp(stored.received);
            out.write_all(&line).and_then(|()| out.write_all(b"\n")).map_err(Stop::Write)?;
            count += 1;
            bar.messages(count, all);
        }
        Ok(())
    };
    if feeds.is_empty() {
        write(reader.log(.., Order::Ascending).map_err(Stop::Read)?)?;
    }
    for feed in feeds {
        write(reader.feed_range(feed, .., Order::Ascending))?;
    }
    Ok(count)
}

async fn write_node(client: &Client, feeds: &[FeedId], out: &mut impl Write) -> Result<u64, Stop> {
    let calls = if feeds.is_empty() {
        vec![("createLogStream", json!({}))]
    } else {
        feeds.iter().map(|feed| ("createUserStream", json!({ "id": feed }))).collect()
    };
    let (mut count, mut failed) = (0, None);
    for (method, options) in calls {
        let written = client.each(method, vec![options], |body| {
            count += 1;
            out.write_all(&body.bytes).and_then(|()| out.write_all(b"\n")).map_err(|error| {
                let why = refused(&error);
                failed = Some(error);
                why
            })
        });
        let written = written.await;
        if let Some(error) = failed.take() {
            return Err(Stop::Write(error));
        }
        written.map_err(Stop::Node)?;
    }
    Ok(count)
}
