//! The methods of this node, in one table: [`METHODS`] gives the manifest, the permission check, the
//! help and the dispatch, so that they cannot disagree.
//!
//! Texts of refusals are JS's to the letter: ssb-ebt and ssb-room-client decide by them.

mod about;
mod access;
mod address;
mod args;
mod blobs;
mod chunks;
mod ebt;
mod feeds;
mod friends;
mod gossip;
mod graph;
mod groups;
mod help;
mod history;
mod info;
mod links;
mod log;
mod merged;
mod names;
mod ooo;
mod overlay;
mod peers;
mod ping;
mod private;
mod publish;
mod query;
mod raw;
mod search;
mod streams;
mod threads;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use hawsepipe_overlay::conn::{IncomingCall, Reply, Stream, StreamRx, StreamTx};
use hawsepipe_overlay::keys::PublicKey;
use hawsepipe_overlay::muxrpc::{Body, Call, CallKind, RemoteError, call};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use crate::authorize::{Methods, Rights};
use crate::clock;
use crate::context::Context;
use crate::engine::SessionId;

pub use access::methods_of;
pub use args::Args;
pub(crate) use links::relations;
pub use ping::keep_alive;

/// One method.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Its path, with dots.
    pub name: &'static str,
    /// What the manifest says it is.
    pub kind: CallKind,
    /// Who may call it.
    pub rights: Needed,
    /// Its arguments, for people.
    pub usage: &'static str,
    /// What it does, for people.
    pub summary: &'static str,
    handler: Handler,
}

/// What a method asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needed {
    /// Nothing: replication and keep-alive are made of these.
    Anonymous,
    /// To be a local client, or to have a grant that names the method.
    Master,
}

const _: () = assert!(METHODS.len() <= Methods::MOST);

/// Who calls what, with what.
#[derive(Clone, Debug)]
pub struct Request {
    /// What a method needs of the node.
    pub ctx: Arc<Context>,
    /// The session it came over.
    pub session: SessionId,
    /// The caller: proven by SHS, or ourselves on the socket.
    pub peer: PublicKey,
    /// What the caller may do.
    pub rights: Rights,
    /// The arguments.
    pub args: Args,
    /// Bounds what one session has read from the store and not sent yet.
    pub reads: Arc<Semaphore>,
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, RemoteError>> + Send>>;
type Conversation = Pin<Box<dyn Future<Output = ()> + Send>>;
type Streaming<'a> = Pin<Box<dyn Future<Output = Result<(), RemoteError>> + Send + 'a>>;

/// How a method is run, by its kind.
#[derive(Clone, Copy)]
enum Handler {
    /// Sync and async.
    Once(fn(Request) -> Answer<Body>),
    /// Source: sends until it is done or the caller ends the stream.
    Source(for<'a> fn(Request, &'a mut StreamTx) -> Streaming<'a>),
    /// Sink: takes what comes until it has enough or the caller ends the stream.
    Sink(for<'a> fn(Request, &'a mut StreamRx) -> Streaming<'a>),
    /// Duplex: has both halves to itself.
    Duplex(fn(Request, Stream) -> Conversation),
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Once(_) => "Once",
            Self::Source(_) => "Source",
            Self::Sink(_) => "Sink",
            Self::Duplex(_) => "Duplex",
        })
    }
}

macro_rules! once {
    ($handler:path) => {
        Handler::Once(|request| Box::pin($handler(request)))
    };
}
macro_rules! source {
    ($handler:path) => {
        Handler::Source(|request, tx| Box::pin($handler(request, tx)))
    };
}
macro_rules! sink {
    ($handler:path) => {
        Handler::Sink(|request, rx| Box::pin($handler(request, rx)))
    };
}
macro_rules! duplex {
    ($handler:path) => {
        Handler::Duplex(|request, stream| Box::pin($handler(request, stream)))
    };
}

const fn method(
    name: &'static str,
    kind: CallKind,
    rights: Needed,
    usage: &'static str,
    summary: &'static str,
    handler: Handler,
) -> Method {
    Method { name, kind, rights, usage, summary, handler }
}

use CallKind::{Async, Duplex, Sink, Source, Sync};
use Needed::{Anonymous, Master};

/// Every method, sorted by name.
#[rustfmt::skip]
pub const METHODS: &[Method] = &[
    method("about.latestValue", Async, Master, "{key, dest}", "What was last said of a feed or a message", once!(about::latest_value)),
    method("about.latestValueStream", Source, Master, "{key, dest, authorId}", "As about.latestValue, again on each change", source!(about::latest_value_stream)),
    method("about.latestValues", Async, Master, "{keys, dest}", "As about.latestValue, of several keys", once!(about::latest_values)),
    method("about.read", Source, Master, "{dest, reverse, limit, live, old}", "The messages that say something of a feed or a message", source!(about::read)),
    method("about.socialValue", Async, Master, "{key, dest}", "What we, its author, or most say of a feed or a message", once!(about::social_value)),
    method("about.socialValueStream", Source, Master, "{key, dest}", "As about.socialValue, again on each change", source!(about::social_value_stream)),
    method("about.socialValues", Async, Master, "{key, dest}", "What each author says of a feed or a message", once!(about::social_values)),
    method("about.socialValuesStream", Source, Master, "{key, dest}", "As about.socialValues, and each change", source!(about::social_values_stream)),
    method("add", Async, Master, "MESSAGE", "Validate and store a signed message", once!(publish::add)),
    method("address", Sync, Master, "[SCOPE]", "Where this node listens (device, local, public)", once!(info::address)),
    method("auth", Async, Master, "FEED", "What a session with that key may do", once!(info::auth)),
    method("backlinks.read", Source, Master, "{query, …}", "Messages that name something, by map-filter-reduce", source!(query::backlinks)),
    method("blobs.add", Sink, Master, "[ID]", "Store a blob: what the caller sends", sink!(blobs::add)),
    method("blobs.changes", Source, Anonymous, "", "The ids of new blobs", source!(blobs::changes)),
    method("blobs.createWants", Source, Anonymous, "", "Which blobs are wanted here, and what becomes of it", source!(blobs::create_wants)),
    method("blobs.get", Source, Anonymous, "ID | {id, size, max}", "A blob's bytes", source!(blobs::get)),
    method("blobs.getSlice", Source, Anonymous, "{id, start, end, size, max}", "Some of a blob's bytes", source!(blobs::get_slice)),
    method("blobs.has", Async, Anonymous, "ID | [ID, …]", "Whether a blob is here", once!(blobs::has)),
    method("blobs.help", Sync, Master, "", "The methods of blobs", once!(help::blobs)),
    method("blobs.ls", Source, Master, "[{meta, live, old}]", "All blobs", source!(blobs::ls)),
    method("blobs.meta", Async, Master, "ID", "Size and time of a blob", once!(blobs::meta)),
    method("blobs.pin", Async, Master, "ID [PIN]", "Keep a blob whatever the quota says, or no longer", once!(blobs::pin)),
    method("blobs.push", Async, Master, "ID", "Have peers take a blob until enough have it", once!(blobs::push)),
    method("blobs.rm", Async, Master, "ID", "Delete a blob", once!(blobs::rm)),
    method("blobs.size", Async, Master, "ID | [ID, …]", "A blob's length in bytes, or null", once!(blobs::size)),
    method("blobs.want", Async, Master, "ID [{nowait}]", "Search for a blob; answers when it is here", once!(blobs::want)),
    method("conn.connect", Async, Master, "ADDRESS [DATA]", "Connect to a peer and remember it", once!(peers::connect)),
    method("conn.dbPeers", Sync, Master, "", "The addresses that are remembered", once!(peers::remembered)),
    method("conn.disconnect", Async, Master, "ADDRESS", "Close the sessions with a peer", once!(peers::disconnect)),
    method("conn.forget", Sync, Master, "ADDRESS", "Remember an address no longer", once!(peers::forget)),
    method("conn.peers", Source, Master, "", "All connections, again on each change", source!(peers::peers)),
    method("conn.ping", Duplex, Anonymous, "[{timeout}]", "Keep-alive and clock skew", duplex!(ping::serve)),
    method("conn.remember", Sync, Master, "ADDRESS [DATA]", "Remember an address, and dial it unless {autoconnect: false}", once!(peers::remember)),
    method("conn.stage", Sync, Master, "ADDRESS [DATA]", "Suggest an address until the next start", once!(peers::stage)),
    method("conn.stagedPeers", Source, Master, "", "Addresses that are suggested, again on each change", source!(peers::staged)),
    method("conn.start", Sync, Master, "", "Dial by itself, until the next start", once!(peers::start)),
    method("conn.stop", Sync, Master, "", "Close all sessions and dial nobody by itself, until the next start", once!(peers::stop)),
    method("conn.unstage", Sync, Master, "ADDRESS", "Suggest an address no longer", once!(peers::unstage)),
    method("conn.why", Async, Master, "[PEER]", "What the scheduler thinks of a peer, or of all, in words and numbers", once!(peers::why)),
    method("connScheduler.start", Sync, Master, "", "As conn.start", once!(peers::start)),
    method("connScheduler.stop", Sync, Master, "", "As conn.stop", once!(peers::stop)),
    method("createFeedStream", Source, Master, "[OPTIONS]", "Messages by claimed time", source!(log::by_claimed_time)),
    method("createHistoryStream", Source, Anonymous, "{id, seq, live, …}", "One feed's messages", source!(history::create)),
    method("createLogStream", Source, Master, "[OPTIONS]", "Messages as they were received", source!(log::by_reception)),
    method("createRawLogStream", Source, Master, "[{gt, gte, lt, lte, reverse, live, old, limit, seqs, values}]", "Messages with their positions in the log", source!(raw::log)),
    method("createSequenceStream", Source, Master, "", "The position of the newest message, and of each that comes", source!(raw::positions)),
    method("createUserStream", Source, Master, "{id, …}", "One feed's messages, by sequence", source!(log::of_user)),
    method("createWriteStream", Sink, Master, "", "Add the messages that the caller sends", sink!(raw::write)),
    method("del", Async, Master, "ID", "Delete the content of one message, on this node only", once!(log::delete)),
    method("doctor", Async, Master, "", "How others reach this node and whom it found, in words", once!(info::doctor)),
    method("ebt.block", Sync, Master, "FROM TO [BLOCKING]", "Pass nothing of one feed to or from a peer, or again; until restart", once!(ebt::block)),
    method("ebt.clock", Async, Anonymous, "[{format}]", "The newest sequence of every feed", once!(ebt::clock)),
    method("ebt.forget", Sync, Master, "FEED", "As ebt.request FEED false; and what its owner was known to have", once!(ebt::forget)),
    method("ebt.peerStatus", Sync, Master, "[FEED]", "How far a feed is with each connected peer", once!(ebt::peer_status)),
    method("ebt.replicate", Duplex, Anonymous, "{version: 3, format: \"classic\"}", "Replicate with the caller", duplex!(ebt::replicate)),
    method("ebt.request", Sync, Master, "FEED [REPLICATE]", "Replicate a feed or not, whatever the graph says; until restart", once!(ebt::request)),
    method("forks", Source, Master, "", "Forked feeds, each with the two messages that prove it", source!(log::forks)),
    method("friends.block", Async, Master, "FEED [{state, reason}]", "Block a feed, or stop", once!(friends::block)),
    method("friends.createFriendStream", Source, Master, "[{start, max, live, meta}]", "Feeds in reach, as they come into it", source!(graph::friend_stream)),
    method("friends.follow", Async, Master, "FEED [{state}]", "Follow a feed, or stop", once!(friends::follow)),
    method("friends.get", Async, Master, "[{source, dest}]", "Who follows (true) and blocks (false) whom", once!(graph::get)),
    method("friends.graph", Async, Master, "", "Who follows (1) and blocks (-1) whom", once!(graph::graph)),
    method("friends.help", Sync, Master, "", "The methods of friends", once!(help::friends)),
    method("friends.hopStream", Source, Master, "[{start, max, live, old}]", "How far away each feed is, and changes of it", source!(graph::hop_stream)),
    method("friends.hops", Async, Master, "[{start, max}]", "How far away each feed is", once!(friends::hops)),
    method("friends.isBlocking", Async, Master, "{source, dest}", "Whether one feed blocks another", once!(friends::is_blocking)),
    method("friends.isFollowing", Async, Master, "{source, dest}", "Whether one feed follows another", once!(friends::is_following)),
    method("friends.stream", Source, Master, "", "All edges of the graph, and changes of them", source!(graph::stream)),
    method("get", Async, Master, "ID | {id, private, meta, unbox}", "One message", once!(log::get)),
    method("getAtSequence", Async, Master, "[FEED, SEQUENCE]", "The message of a feed at a sequence", once!(feeds::at_sequence)),
    method("getFeedState", Async, Master, "FEED", "Id and sequence of the newest message of a feed", once!(feeds::state)),
    method("getLatest", Async, Master, "FEED", "The newest message of a feed", once!(log::latest)),
    method("getSubset", Source, Anonymous, "QUERY {querylang, descending, pageSize, startFrom}", "Messages by author and type", source!(ooo::subset)),
    method("getVectorClock", Async, Master, "", "The newest sequence of every feed", once!(log::vector_clock)),
    method("gossip.add", Sync, Master, "ADDRESS [SOURCE]", "Remember an address", once!(gossip::add)),
    method("gossip.changes", Source, Master, "", "What becomes of peers", source!(gossip::changes)),
    method("gossip.connect", Async, Master, "ADDRESS | PEER", "Connect to a peer", once!(gossip::connect)),
    method("gossip.disable", Sync, Master, "[TYPE]", "Dial nobody (global), or no strangers on the local network (local), until the next start", once!(gossip::disable)),
    method("gossip.disconnect", Async, Master, "ADDRESS | PEER", "As conn.disconnect", once!(peers::disconnect)),
    method("gossip.enable", Sync, Master, "[TYPE]", "Undo gossip.disable", once!(gossip::enable)),
    method("gossip.get", Sync, Master, "ADDRESS | PEER", "What is known of a peer", once!(gossip::get)),
    method("gossip.help", Sync, Master, "", "The methods of gossip", once!(help::gossip)),
    method("gossip.peers", Sync, Master, "", "All known peers", once!(gossip::peers)),
    method("gossip.ping", Duplex, Anonymous, "[{timeout}]", "Keep-alive and clock skew", duplex!(ping::serve)),
    method("gossip.reconnect", Sync, Master, "", "Close all sessions with peers, and connect anew", once!(gossip::reconnect)),
    method("gossip.remove", Sync, Master, "ADDRESS | PEER", "Forget a peer", once!(gossip::remove)),
    method("grant", Async, Master, "KEY METHODS", "Let a key of a local client call some methods", once!(access::grant)),
    method("grants", Async, Master, "", "Which keys may call which methods", once!(access::grants)),
    method("help", Sync, Master, "", "The methods that are in no group", once!(help::help)),
    method("latest", Source, Master, "", "The newest sequence and time of every feed", source!(feeds::latest)),
    method("latestSequence", Async, Master, "FEED", "The newest sequence of a feed", once!(log::latest_sequence)),
    method("links", Source, Master, "{source, dest, rel, …}", "Who names what, and how", source!(links::links)),
    method("links2.help", Sync, Master, "", "The methods of links2", once!(help::links2)),
    method("links2.read", Source, Master, "{query, limit, reverse, live, old}", "Who names what and how, by map-filter-reduce", source!(query::links2)),
    method("logging.level", Async, Master, "LEVEL", "What is logged from now on, until restart", once!(info::log_level)),
    method("manifest", Sync, Anonymous, "", "The methods of this node and their kinds", once!(info::manifest)),
    method("meme.query", Source, Master, "{query}", "Messages that give blobs a name with these words", source!(search::meme_query)),
    method("meme.search", Async, Master, "{query}", "Blobs by their names", once!(search::meme_search)),
    method("messagesByType", Source, Master, "TYPE | {type, …}", "Messages of one type", source!(log::by_type)),
    method("multiserver.address", Sync, Master, "[SCOPE]", "As address", once!(info::address)),
    method("multiserver.parse", Sync, Master, "ADDRESS", "An address taken apart", once!(address::parse)),
    method("names.get", Async, Master, "", "Who calls whom what", once!(names::get)),
    method("names.getImageFor", Async, Master, "FEED", "The image that stands for a feed", once!(names::image_for)),
    method("names.getImages", Async, Master, "", "Who gives whom which image", once!(names::images)),
    method("names.getSignifier", Async, Master, "FEED", "What we would call a feed", once!(names::signifier)),
    method("names.getSignifies", Async, Master, "NAME", "Who is called something that begins so", once!(names::signifies)),
    method("ooo.get", Async, Master, "ID | {id, timeout}", "One message, from peers if we have not got it", once!(ooo::get)),
    method("ooo.getSubset", Source, Master, "PEER QUERY OPTIONS", "What a connected peer answers to getSubset", source!(ooo::fetch_subset)),
    method("ooo.help", Sync, Master, "", "The methods of ooo", once!(help::ooo)),
    method("ooo.stream", Duplex, Anonymous, "", "Ask for single messages by id, and answer", duplex!(ooo::stream)),
    method("overlay.certificate", Async, Anonymous, "", "The certificate of this node, for whom it follows", once!(overlay::certificate)),
    method("partialReplication.getSubset", Source, Anonymous, "QUERY [{keys, descending, pageLimit}]", "getSubset as go-ssb has it", source!(ooo::partial)),
    method("private.publish", Async, Master, "CONTENT [RECPS]", "Publish a message that only its recipients can read", once!(private::publish)),
    method("private.read", Source, Master, "[OPTIONS]", "Private messages that this node can read", source!(private::read)),
    method("private.unbox", Sync, Master, "CIPHERTEXT | MESSAGE", "Open a private message, if it is for this node", once!(private::unbox)),
    method("progress", Sync, Master, "", "How far indexing and replication are", once!(info::progress)),
    method("publish", Async, Master, "CONTENT", "Sign and store a message of our own feed", once!(publish::publish)),
    method("query.explain", Sync, Master, "{query, …}", "The index that query.read would use", once!(query::explain)),
    method("query.help", Sync, Master, "", "The methods of query", once!(help::query)),
    method("query.read", Source, Master, "{query, …}", "Messages by map-filter-reduce", source!(query::read)),
    method("rebuild", Async, Master, "", "Answers when all indexes are level with the log", once!(info::rebuild)),
    method("replicate.block", Sync, Master, "FROM TO [BLOCKING]", "As ebt.block", once!(ebt::block)),
    method("replicate.changes", Source, Master, "", "How far replication is, whenever that changes", source!(feeds::changes)),
    method("replicate.request", Sync, Master, "FEED [REPLICATE]", "As ebt.request", once!(ebt::request)),
    method("replicate.upto", Source, Master, "[{live}]", "The newest sequence of every feed, and growth", source!(feeds::upto)),
    method("revoke", Async, Master, "KEY", "Take back what grant allowed", once!(access::revoke)),
    method("search.query", Source, Master, "{query, limit}", "Messages with all these words, those first that most others name", source!(search::query)),
    method("status", Sync, Master, "", "What this node is doing", once!(info::status)),
    method("tangle.branch", Async, Master, "ROOT", "The messages of a thread that no other of it names", once!(threads::branch)),
    method("threads.hashtagCount", Async, Master, "{hashtag, allowlist, blocklist}", "In how many public threads a hashtag is", once!(threads::hashtag_count)),
    method("threads.hashtagSummary", Source, Master, "{hashtag | hashtags, reverse, allowlist, blocklist}", "As threads.publicSummary, those with one of these hashtags", source!(threads::hashtag_summary)),
    method("threads.hashtagUpdates", Source, Master, "{hashtag | hashtags, allowlist, blocklist}", "The roots of public threads in which they are used from now on", source!(threads::hashtag_updates)),
    method("threads.hashtagsMatching", Async, Master, "{query, limit}", "Hashtags that begin so, and how many messages have each", once!(threads::hashtags_matching)),
    method("threads.private", Source, Master, "[{reverse, threadMaxSize, allowlist, blocklist}]", "Private threads, those with the newest messages first", source!(threads::private)),
    method("threads.privateUpdates", Source, Master, "[{includeSelf, allowlist, blocklist}]", "The roots of private threads that grow from now on", source!(threads::private_updates)),
    method("threads.profile", Source, Master, "{id, lt, reverse, limit, threadMaxSize, allowlist, blocklist}", "Public threads in which a feed takes part", source!(threads::profile)),
    method("threads.profileSummary", Source, Master, "{id, reverse, allowlist, blocklist}", "As threads.profile, the roots and how many answers each has", source!(threads::profile_summary)),
    method("threads.public", Source, Master, "[{lt, reverse, live, limit, threadMaxSize, allowlist, blocklist}]", "Public threads, those with the newest messages first", source!(threads::public)),
    method("threads.publicSummary", Source, Master, "[{reverse, allowlist, blocklist}]", "As threads.public, the roots and how many answers each has", source!(threads::public_summary)),
    method("threads.publicUpdates", Source, Master, "[{includeSelf, allowlist, blocklist}]", "The ids of public messages that come from now on", source!(threads::public_updates)),
    method("threads.recentHashtags", Async, Master, "{limit, preserveCase}", "The hashtags of the newest messages", once!(threads::recent_hashtags)),
    method("threads.thread", Source, Master, "{root, private, threadMaxSize, allowlist, blocklist}", "One thread", source!(threads::thread)),
    method("threads.threadUpdates", Source, Master, "{root, private, allowlist, blocklist}", "Answers in one thread that come from now on", source!(threads::thread_updates)),
    method("tribes2.addMembers", Async, Master, "GROUP [FEEDS] [{text}]", "Give the key of a private group to feeds", once!(groups::add_members)),
    method("tribes2.create", Async, Master, "", "Begin a private group", once!(groups::create)),
    method("tribes2.get", Async, Master, "GROUP", "What is known of a private group", once!(groups::get)),
    method("tribes2.list", Source, Master, "", "The private groups of this node", source!(groups::list)),
    method("tribes2.listMembers", Source, Master, "GROUP", "Who was added to a private group", source!(groups::list_members)),
    method("tribes2.publish", Async, Master, "CONTENT", "Publish to the private group that recps begins with", once!(groups::publish)),
    method("version", Sync, Master, "", "The version of this node", once!(info::version)),
    method("whoami", Sync, Master, "", "The id of this node", once!(info::whoami)),
];

/// The method of that path.
pub fn find(name: &[String]) -> Option<&'static Method> {
    place(name).map(|place| &METHODS[place])
}

/// Its place in the table.
fn place(name: &[String]) -> Option<usize> {
    let name = name.join(".");
    METHODS.binary_search_by(|method| method.name.cmp(&name)).ok()
}

/// The manifest: a nested object from name to kind.
pub fn manifest() -> Value {
    let mut manifest = Map::new();
    for method in METHODS {
        let mut level = &mut manifest;
        let mut parts = method.name.split('.').peekable();
        while let Some(part) = parts.next() {
            let value = level.entry(part).or_insert_with(|| match parts.peek() {
                Some(_) => Value::Object(Map::new()),
                None => Value::from(method.kind.name()),
            });
            let Value::Object(inner) = value else { break };
            level = inner;
        }
    }
    Value::Object(manifest)
}

/// The method that `call` asks for, if the caller may call it and called it as what it is. The order of
/// the checks is JS's: permission first, then the kind.
pub fn check(call: &Call, rights: Rights) -> Result<&'static Method, RemoteError> {
    let may_call = |place: &usize| match (METHODS[*place].rights, rights) {
        (Anonymous, _) | (_, Rights::Master) => true,
        (Master, Rights::Granted(methods)) => methods.contains(*place),
        (Master, Rights::Anonymous) => false,
    };
    let allowed = place(&call.name).filter(may_call);
    let missing = || match rights {
        Rights::Anonymous | Rights::Granted(_) => call::not_allowed(&call.name),
        Rights::Master => call::no_such(call.kind, &call.name),
    };
    let method = &METHODS[allowed.ok_or_else(missing)?];
    let once = |kind| matches!(kind, Sync | Async);
    if method.kind == call.kind || (once(method.kind) && once(call.kind)) {
        Ok(method)
    } else {
        Err(call::no_such(call.kind, &call.name))
    }
}

/// Runs one call to its end.
pub async fn answer(request: Request, call: IncomingCall) {
    let (metrics, began) = (Arc::clone(&request.ctx.metrics), clock::now());
    let checked = check(&call.call, request.rights);
    let name = checked.as_ref().map_or("unknown", |method| method.name);
    let outcome = match checked {
        Ok(method) => run(method, request, call.reply).await,
        Err(refusal) => {
            tracing::debug!(method = %call.call.name.join("."), "refused a call");
            refuse(call.reply, refusal).await;
            "refused"
        }
    };
    metrics.calls.with_label_values(&[name, outcome]).inc();
    if call.call.kind == Async || call.call.kind == Sync {
        let took = clock::now().saturating_duration_since(began);
        metrics.call_seconds.with_label_values(&[name]).observe(took.as_secs_f64());
    }
}

async fn run(method: &'static Method, request: Request, reply: Reply) -> &'static str {
    match (method.handler, reply) {
        (Handler::Once(handler), Reply::Once(reply)) => match handler(request).await {
            Ok(body) => {
                reply.ok(body).await;
                "ok"
            }
            Err(error) => {
                reply.err(error).await;
                "error"
            }
        },
        (Handler::Source(handler), Reply::Stream(stream)) => run_source(handler, request, stream).await,
        (Handler::Sink(handler), Reply::Stream(stream)) => run_sink(handler, request, stream).await,
        (Handler::Duplex(handler), Reply::Stream(stream)) => {
            handler(request, stream).await;
            "ok"
        }
        // `check` compared the kinds, and the session gives the reply that the call's kind asks for.
        (Handler::Once(_), reply @ Reply::Stream(_)) | (_, reply @ Reply::Once(_)) => {
            refuse(reply, RemoteError::new("wrong kind of call")).await;
            "refused"
        }
    }
}

async fn run_source(
    handler: for<'a> fn(Request, &'a mut StreamTx) -> Streaming<'a>,
    request: Request,
    stream: Stream,
) -> &'static str {
    let Stream { mut tx, mut rx } = stream;
    if request.args.options().takes_shared_boxes() {
        tx.share_boxes();
    }
    let ended = async {
        // Whatever a source's caller sends, only its end means anything.
        while let Some(Ok(_)) = rx.recv().await {}
    };
    let result = tokio::select! {
        result = handler(request, &mut tx) => result,
        () = ended => Ok(()),
    };
    let outcome = if result.is_ok() { "ok" } else { "error" };
    tx.end(result.err()).await;
    outcome
}

async fn run_sink(
    handler: for<'a> fn(Request, &'a mut StreamRx) -> Streaming<'a>,
    request: Request,
    stream: Stream,
) -> &'static str {
    let Stream { tx, mut rx } = stream;
    let result = handler(request, &mut rx).await;
    let outcome = if result.is_ok() { "ok" } else { "error" };
    tx.end(result.err()).await;
    outcome
}

async fn refuse(reply: Reply, error: RemoteError) {
    match reply {
        Reply::Once(reply) => reply.err(error).await,
        Reply::Stream(stream) => stream.tx.end(Some(error)).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str, kind: CallKind) -> Call {
        Call {
            name: name.split('.').map(str::to_owned).collect(),
            kind,
            args: Vec::new(),
            raw_args: bytes::Bytes::from_static(b"[]"),
        }
    }

    #[test]
    fn the_table_is_sorted_so_that_it_can_be_searched() {
        assert!(METHODS.is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn the_manifest_nests_and_names_kinds_as_js_does() {
        let manifest = manifest();
        assert_eq!(manifest["whoami"], "sync");
        assert_eq!(manifest["ebt"]["replicate"], "duplex");
        assert_eq!(manifest["friends"]["hops"], "async");
        assert_eq!(manifest["createHistoryStream"], "source");
        assert_eq!(manifest["blobs"]["add"], "sink");
    }

    #[test]
    fn strangers_get_the_anonymous_list_and_nothing_else() {
        let allowed: Vec<_> = METHODS.iter().filter(|m| m.rights == Anonymous).map(|m| m.name).collect();
        let expected = [
            "blobs.changes",
            "blobs.createWants",
            "blobs.get",
            "blobs.getSlice",
            "blobs.has",
            "conn.ping",
            "createHistoryStream",
            "ebt.clock",
            "ebt.replicate",
            "getSubset",
            "gossip.ping",
            "manifest",
            "ooo.stream",
            "overlay.certificate",
            "partialReplication.getSubset",
        ];
        assert_eq!(allowed, expected);
    }

    #[test]
    fn refusals_carry_the_texts_that_js_peers_match() {
        let refused = |name, kind, rights| check(&call(name, kind), rights).unwrap_err().message;
        assert_eq!(
            refused("whoami", Async, Rights::Anonymous),
            "method:whoami is not in list of allowed methods"
        );
        assert_eq!(
            refused("room.metadata", Async, Rights::Granted(Methods::default())),
            "method:room,metadata is not in list of allowed methods"
        );
        assert_eq!(refused("a.b", Async, Rights::Master), "no async:a,b");
        assert_eq!(refused("whoami", Source, Rights::Master), "no source:whoami");
        assert!(check(&call("whoami", Async), Rights::Master).is_ok());
    }

    #[test]
    fn every_method_is_for_those_who_may_call_it_and_nobody_else() {
        for (place, method) in METHODS.iter().enumerate() {
            let call = call(method.name, method.kind);
            let (mut granted, mut others) = (Methods::default(), Methods::default());
            (0..METHODS.len()).filter(|other| *other != place).for_each(|other| others.insert(other));
            granted.insert(place);
            let may = |rights| check(&call, rights).is_ok();
            let is_open = method.rights == Anonymous;
            let found =
                [Rights::Master, Rights::Granted(granted), Rights::Granted(others), Rights::Anonymous]
                    .map(may);
            assert_eq!(found, [true, true, is_open, is_open], "{}", method.name);
        }
    }
}
