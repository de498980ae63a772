//! What can be typed: `hawsepipe [OPTIONS] [COMMAND]`.

mod blob;
mod check;
pub mod client;
mod delete;
mod export;
mod import;
mod key;
mod manual;
mod names;
pub mod node;
pub mod output;
mod page;
mod people;
pub mod progress;
mod read;
mod report;
pub mod sbot;
mod show;
mod sink;
mod text;
mod thread;
mod write;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::App;
use crate::config::layers::{self, Environment, Typed};
use crate::config::{Config, Faults};
use crate::context::Context;
use crate::{open_files, telemetry};

use node::{Form, NodeCommand};
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
    /// How results are shown.
    #[command(flatten)]
    pub form: Form,
}

impl Global {
    /// The part that configuration is read from.
    pub fn typed(&self) -> Typed {
        Typed {
            path: self.path.clone(),
            config: self.config.clone(),
            set: self.set.clone(),
            ..Typed::default()
        }
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
        /// Options in the manner of ssb-server, e.g. -- --port 8010 --friends.hops=3
        #[arg(last = true, value_name = "OPTIONS")]
        options: Vec<String>,
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
    /// Print the manual page, of the program or of one command
    Man {
        /// The command
        command: Option<String>,
        /// Write the pages of the program and of all commands into this folder
        #[arg(long, value_name = "DIR", conflicts_with = "command")]
        into: Option<PathBuf>,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// A method of the node, in the manner of ssb-server: createUserStream --id @… --limit 5
    #[command(external_subcommand)]
    Method(Vec<OsString>),
}

/// Runs what the process was called with, under whichever name; the exit code is for the shell.
pub async fn run_process() -> ExitCode {
    match sbot::called(std::env::args_os()) {
        Some(words) => sbot::run(words, &Environment::of_process()).await,
        None => run(Cli::parse()).await,
    }
}

/// Runs what was typed; the exit code is for the shell.
pub async fn run(cli: Cli) -> ExitCode {
    let env = Environment::of_process();
    let mut typed = cli.global.typed();
    let path = env.data_dir(&typed);
    if cli.global.check_config {
        return check_config(&typed, &env);
    }
    let start_now = Command::Start { danger_publish_anyway: false, options: Vec::new() };
    match cli.command.unwrap_or(start_now) {
        Command::Start { danger_publish_anyway, options } => {
            typed.add_options(sbot::configuration(&options));
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
        Command::Man { command, into } => manual::man(command.as_deref(), into.as_deref()),
        Command::Completions { shell } => manual::completions(shell),
        Command::Method(words) => sbot::run_external(words, typed, &env).await,
        Command::Node(command) => match node::run(&path, command, cli.global.form).await {
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
    open_files::raise_limit(config.access.sessions);
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
