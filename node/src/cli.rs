//! What can be typed: `hawsepipe [OPTIONS] [COMMAND]`.

mod check;
pub mod client;
mod delete;
mod export;
mod import;
mod key;
pub mod output;
pub mod progress;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::app::App;
use crate::config::layers::{self, Environment, Typed};
use crate::config::{Config, Faults};
use crate::context::Context;
use crate::telemetry;

use client::{Client, Failure};
use progress::Bar;

/// A Secure Scuttlebutt peer that finds others by itself: on the local network, behind NATs, and friends
/// anywhere by their id alone.
///
/// Without a command it starts a node. The other commands talk to the node that is running on the same
/// data folder, through its socket.
#[derive(Debug, Parser)]
#[command(name = "hawsepipe", version, max_term_width = 110)]
#[command(
    after_help = "Exit codes: 0 done; 1 refused by the node or an error while running; 2 wrong usage or \
    configuration; 3 no node is running on this data folder (start one with `hawsepipe start`)."
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do; `start` if nothing is given.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// The data folder with `secret`, `config`, `socket` and the store [default: ~/.ssb or ~/.$ssb_appname;
    /// also $HAWSEPIPE_PATH]
    #[arg(long, global = true, value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// Read this configuration file too (JSON with comments); it wins over the others
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one option, e.g. --set friends.hops=3 or --set metrics.listen=127.0.0.1:9000 (repeatable; the
    /// same as the environment variable ssb_friends__hops=3)
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Check the configuration, report all faults in it, and exit
    #[arg(long, global = true)]
    pub check_config: bool,
}

impl Global {
    /// The part that configuration is read from.
    pub fn typed(&self) -> Typed {
        Typed { path: self.path.clone(), config: self.config.clone(), set: self.set.clone() }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a node: prints its id, its addresses and where its metrics are, and runs until stopped
    Start {
        /// Publish even if this feed may be longer elsewhere (a restored or copied folder, and no peer that could
        /// tell). If it is longer, the feed forks, and nobody takes what is published from then on
        #[arg(long)]
        danger_publish_anyway: bool,
    },
    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment here would become the help of the whole command")]
    Node(NodeCommand),
    /// Verify every stored message and index; the node must not be running
    Check {
        /// Rebuild damaged indexes and cut a damaged end of the log (what is cut is kept beside it)
        #[arg(long)]
        repair: bool,
    },
    /// Delete feeds from this node's store for good and give back their space; the node must not be running. Unless
    /// they are unfollowed or blocked, peers send them again
    Delete {
        /// The feeds, @….ed25519
        #[arg(required = true)]
        feeds: Vec<String>,
    },
    /// Take over what another server left: a folder of ssb-server (~/.ssb), Manyverse, go-ssb or solar, or a backup of
    /// Hawsepipe, with its messages, blobs, known peers and, where this folder has none, its identity; or a file with messages as lines
    /// of JSON. The original is only read; an interrupted import is done again and goes on. No server may be running
    Import {
        /// The folder or file; - is standard input
        from: PathBuf,
        /// Take no identity: the messages and blobs of somebody else are wanted
        #[arg(long)]
        without_secret: bool,
    },
    /// Write messages as lines of JSON, {key, value, timestamp} each, in the order of reception
    Export {
        /// Only messages of this feed, @….ed25519, by sequence (repeatable)
        #[arg(long = "feed", value_name = "FEED")]
        feeds: Vec<String>,
        /// Write to this file instead of standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Make a backup of the identity, the messages, the blobs, the known peers and the configuration, for
    /// `hawsepipe import`; may be done again into the same folder
    Backup {
        /// A folder, or a file that ends in .tar
        to: PathBuf,
        /// Leave the blobs out; friends may have them
        #[arg(long)]
        without_blobs: bool,
    },
    /// The identity as words on paper
    Key {
        /// What to do
        #[command(subcommand)]
        what: key::Key,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// What to ask the running node.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Print the id of this node
    Whoami,
    /// Print what the node is doing: messages, feeds, sessions, progress
    Status,
    /// Say in plain words how others can reach this node and whom it found; exit code 1 if something needs your
    /// attention
    Doctor,
    /// List known and connected peers
    Peers {
        /// Print only connected peers
        #[arg(long)]
        connected: bool,
    },
    /// Publish a message and print it
    Publish(Publish),
    /// Print messages as JSON lines, in the order they were received
    Log(Log),
    /// Print feeds that are forked (one author, two messages at one place), each with both messages as JSON
    Forks,
    /// Connect to a peer, e.g. net:192.0.2.1:8008~shs:KEY=
    Connect {
        /// A multiserver address
        address: String,
    },
    /// Follow a feed: its messages will be replicated, and if it follows you, the two nodes find each other
    Follow {
        /// The feed, @….ed25519
        id: String,
        /// Stop following it
        #[arg(long)]
        undo: bool,
    },
    /// Let the key of a program call some methods over the network, and no others beside those that everybody may
    Grant {
        /// The program's key, @….ed25519
        key: String,
        /// Methods, with commas between them; `blobs.*` is all of a group
        #[arg(long, value_delimiter = ',', required = true)]
        allow: Vec<String>,
    },
    /// Take back what `grant` allowed
    Revoke {
        /// The program's key, @….ed25519
        key: String,
    },
    /// Print which keys may call which methods
    Grants,
    /// Block a feed: its owner gets no session and its messages are no longer replicated
    Block {
        /// The feed, @….ed25519
        id: String,
        /// Stop blocking it
        #[arg(long)]
        undo: bool,
    },
    /// Delete the content of a message from this node for good; others keep theirs, and its place in the feed stays
    Erase {
        /// The message, %….sha256
        id: String,
    },
    /// Store a file as a blob and print its id
    #[command(name = "blobs.add")]
    BlobsAdd {
        /// The file; standard input if none is given
        file: Option<PathBuf>,
    },
    /// Write a blob to standard output
    #[command(name = "blobs.get")]
    BlobsGet {
        /// The blob, &….sha256
        id: String,
        /// Search for it if it is not here, and wait
        #[arg(long)]
        want: bool,
    },
    /// Call any method of the node: async results are printed as JSON, streams as JSON lines
    Call {
        /// The method, e.g. whoami or friends.hops (see `hawsepipe call manifest`)
        method: String,
        /// Arguments, each JSON; what is not JSON is taken as text
        args: Vec<String>,
    },
}

/// What to publish.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct Publish {
    /// The content as a JSON object with a `type`
    pub content: Option<String>,
    /// Publish a post with this text
    #[arg(long, value_name = "TEXT")]
    pub post: Option<String>,
}

/// Which messages to print.
#[derive(Args, Debug)]
pub struct Log {
    /// Go on printing new messages as they arrive
    #[arg(long)]
    pub live: bool,
    /// Newest first
    #[arg(long, conflicts_with = "live")]
    pub reverse: bool,
    /// Show private messages that this node can read opened
    #[arg(long)]
    pub private: bool,
    /// At most so many
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Only messages of this feed
    #[arg(long, value_name = "FEED")]
    pub feed: Option<String>,
    /// Only messages of this type
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "feed")]
    pub kind: Option<String>,
}

/// Runs what was typed; the exit code is for the shell.
pub async fn run(cli: Cli) -> ExitCode {
    let env = Environment::of_process();
    let mut typed = cli.global.typed();
    let path = env.data_dir(&typed);
    if cli.global.check_config {
        return check_config(&typed, &env);
    }
    match cli.command.unwrap_or(Command::Start { danger_publish_anyway: false }) {
        Command::Start { danger_publish_anyway } => {
            if danger_publish_anyway {
                typed.set.push("forkGuard.dangerPublishAnyway=true".to_owned());
            }
            start(&typed, &env).await
        }
        Command::Check { repair } => check::run(&path, &typed, &env, repair),
        Command::Delete { feeds } => delete::run(&path, &feeds),
        Command::Import { from, without_secret } => import::run(&path, &from, without_secret, &typed, &env),
        Command::Export { feeds, out } => export::run(&path, &feeds, out.as_deref()).await,
        Command::Backup { to, without_blobs } => export::backup(&path, &to, !without_blobs).await,
        Command::Key { what } => key::run(&path, &what),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "hawsepipe", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
        Command::Node(command) => match talk(&path, command).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.report(),
        },
    }
}

/// What the configuration means, or all that is wrong with it.
fn read_config(typed: &Typed, env: &Environment) -> Result<Config, Faults> {
    let path = env.data_dir(typed);
    layers::merged(typed, env).and_then(|raw| Config::from_value(path, &raw))
}

fn check_config(typed: &Typed, env: &Environment) -> ExitCode {
    match read_config(typed, env) {
        Ok(_) => {
            output::line("the configuration has no faults");
            ExitCode::SUCCESS
        }
        Err(faults) => output::usage(&faults.to_string()),
    }
}

async fn start(typed: &Typed, env: &Environment) -> ExitCode {
    let config = match read_config(typed, env) {
        Ok(config) => config,
        Err(faults) => return output::usage(&faults.to_string()),
    };
    telemetry::start(&config.log_filter, config.log_json);
    let stop = match stop_signal() {
        Ok(stop) => stop,
        Err(error) => return output::failed(&format!("cannot listen for signals: {error}")),
    };
    let app = match App::start(config).await {
        Ok(app) => app,
        Err(error) => return output::failed(&output::explain(&error)),
    };
    for line in app.introduction() {
        output::line(&line);
    }
    let ctx = Arc::clone(app.context());
    tokio::select! {
        () = app.run(stop) => {}
        () = show_sync(&ctx) => {}
    }
    ExitCode::SUCCESS
}

/// Shows on a terminal how far a sync is, for as long as the node runs.
async fn show_sync(ctx: &Context) {
    if !std::io::stderr().is_terminal() {
        std::future::pending::<()>().await;
    }
    let mut bar = Bar::new("replicating");
    loop {
        tokio::time::sleep(SYNC_PAUSE).await;
        if let Ok(status) = ctx.engine.status().await {
            let (have, want) = status.progress;
            bar.messages(have, want);
        }
    }
}

/// How often the bar of a sync is renewed.
const SYNC_PAUSE: Duration = Duration::from_millis(500);

/// Done when the process is asked to stop.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

async fn talk(path: &Path, command: NodeCommand) -> Result<(), Failure> {
    let client = Client::connect(path).await?;
    let done = ask(&client, command).await;
    client.close().await;
    done
}

async fn ask(client: &Client, command: NodeCommand) -> Result<(), Failure> {
    let edge = |id: String, undo: bool| vec![Value::from(id), json!({ "state": !undo })];
    match command {
        NodeCommand::Whoami => client.print("whoami", Vec::new()).await,
        NodeCommand::Status => client.print("status", Vec::new()).await,
        NodeCommand::Doctor => client::doctor(client).await,
        NodeCommand::Peers { connected } => client::peers(client, connected).await,
        NodeCommand::Publish(what) => client::publish(client, &what).await,
        NodeCommand::Log(what) => client::log(client, &what).await,
        NodeCommand::Forks => client.print_stream("forks", Vec::new()).await,
        NodeCommand::Erase { id } => client.print("del", vec![id.into()]).await,
        NodeCommand::Connect { address } => client.print("conn.connect", vec![address.into()]).await,
        NodeCommand::Grant { key, allow } => client.print("grant", vec![key.into(), allow.into()]).await,
        NodeCommand::Revoke { key } => client.print("revoke", vec![key.into()]).await,
        NodeCommand::Grants => client.print("grants", Vec::new()).await,
        NodeCommand::Follow { id, undo } => client.print("friends.follow", edge(id, undo)).await,
        NodeCommand::Block { id, undo } => client.print("friends.block", edge(id, undo)).await,
        NodeCommand::BlobsAdd { file } => client::add_blob(client, file.as_deref()).await,
        NodeCommand::BlobsGet { id, want } => client::get_blob(client, &id, want).await,
        NodeCommand::Call { method, args } => client::call(client, &method, &args).await,
    }
}
