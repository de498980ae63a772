//! The commands that ask the running node, and who carries them out.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hawsepipe_replication::refs::{BlobId, MessageId};

use super::blob::{self, Blob};
use super::client::{self, Client, Failure};
use super::page::Facts;
use super::people::{self, Edge};
use super::read::{self, Feed, Log, Search, Which};
use super::report;
use super::write::{self, Publish, Reply};

/// How results are shown.
#[derive(Args, Clone, Copy, Debug)]
pub struct Form {
    /// Print what the node answers as JSON, one value a line, as on a pipe
    #[arg(long, global = true, conflicts_with = "text")]
    pub json: bool,
    /// Print for reading, as on a terminal; for a pipe to a pager, say
    #[arg(long, global = true)]
    pub text: bool,
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
    /// List known and connected peers, or say why they are connected, dialled, or not
    Peers {
        /// Print only connected peers
        #[arg(long, conflicts_with = "why")]
        connected: bool,
        /// Explain in words and numbers what the scheduler thinks of all peers, or of this one
        #[arg(long, value_name = "ID")]
        why: Option<Option<String>>,
    },
    /// List people: names, how far away they are, who follows whom
    Who {
        /// Only who is called so, or has this id
        who: Option<String>,
    },
    /// Read messages in the order they were received
    Log(Log),
    /// Read one feed, private messages that this node can read opened
    Feed(Feed),
    /// Read a whole thread, in order and indented
    Thread {
        /// Any message of it, %….sha256
        id: MessageId,
    },
    /// Read private messages that this node can read
    Private(Which),
    /// Find messages by their words
    Search(Search),
    /// Publish a message
    Publish(Publish),
    /// Publish an answer in a thread; to a private message, for the same people only
    Reply(Reply),
    /// Follow a feed: its messages will be replicated, and if it follows you, the two nodes find each other
    Follow(Edge),
    /// Block a feed: its owner gets no session and its messages are no longer replicated
    Block(Edge),
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
    /// Print feeds that are forked (one author, two messages at one place), each with both messages as JSON
    Forks,
    /// Connect to a peer, e.g. net:192.0.2.1:8008~shs:KEY=
    Connect {
        /// A multiserver address
        address: String,
    },
    /// Delete the content of a message from this node for good; others keep theirs, and its place in the feed stays
    Erase {
        /// The message, %….sha256
        id: String,
    },
    /// Files that messages link to
    Blob {
        /// What to do with them
        #[command(subcommand)]
        what: Blob,
    },
    /// As `blob add`
    #[command(name = "blobs.add", hide = true)]
    BlobsAdd {
        /// The file; standard input if none is given
        file: Option<PathBuf>,
    },
    /// As `blob get`
    #[command(name = "blobs.get", hide = true)]
    BlobsGet {
        /// The blob, &….sha256
        id: BlobId,
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

/// Carries out `command` at the node that runs on `path`.
pub async fn run(path: &Path, command: NodeCommand, form: Form) -> Result<(), Failure> {
    let client = Client::connect(path).await?;
    let facts = Facts::of_process(form.json, form.text);
    let done = ask(&client, command, &facts).await;
    client.close().await;
    done
}

async fn ask(client: &Client, command: NodeCommand, facts: &Facts) -> Result<(), Failure> {
    let api = &client.api;
    match command {
        NodeCommand::Whoami => report::whoami(api, facts).await,
        NodeCommand::Status => report::status(api, facts).await,
        NodeCommand::Doctor => report::doctor(api).await,
        NodeCommand::Peers { why: Some(id), .. } => report::why(api, id, facts).await,
        NodeCommand::Peers { connected, why: None } => report::peers(api, connected, facts).await,
        NodeCommand::Who { who } => people::who(api, who.as_deref(), facts).await,
        NodeCommand::Log(what) => read::log(api, what, facts).await,
        NodeCommand::Feed(what) => read::feed(api, &what, facts).await,
        NodeCommand::Thread { id } => read::thread(api, &id, facts).await,
        NodeCommand::Private(which) => read::private(api, &which, facts).await,
        NodeCommand::Search(what) => read::search(api, &what, facts).await,
        NodeCommand::Publish(what) => write::publish(api, what, facts).await,
        NodeCommand::Reply(what) => write::reply(api, what, facts).await,
        NodeCommand::Follow(edge) => people::follow(api, &edge, facts).await,
        NodeCommand::Block(edge) => people::block(api, &edge, facts).await,
        NodeCommand::Grant { key, allow } => {
            client.print("grant", vec![key.into(), allow.into()], facts).await
        }
        NodeCommand::Revoke { key } => client.print("revoke", vec![key.into()], facts).await,
        NodeCommand::Grants => client.print("grants", Vec::new(), facts).await,
        NodeCommand::Forks => client.print_stream("forks", Vec::new(), facts).await,
        NodeCommand::Erase { id } => client.print("del", vec![id.into()], facts).await,
        NodeCommand::Connect { address } => client.print("conn.connect", vec![address.into()], facts).await,
        NodeCommand::Blob { what } => blob::run(api, what, facts).await,
        NodeCommand::BlobsAdd { file } => blob::add(api, file.as_deref(), facts).await,
        NodeCommand::BlobsGet { id, want } => blob::get(api, &id, want, facts).await,
        NodeCommand::Call { method, args } => client::call(client, &method, &args, facts).await,
    }
}
