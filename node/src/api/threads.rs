//! `threads.*` (ssb-threads 3, and of 10 what goes beyond) and `tangle.branch` (ssb-tangle 1).
//!
//! A thread is a message and those whose `root` is its id. Threads come in the order of their newest messages by resolved
//! time; in a thread, what a message names comes before it, else the order of time decides. Public threads have public
//! messages only and private ones private, and what feeds say that we block is in none.

mod hashtags;
mod order;

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use hawsepipe_overlay::conn::StreamTx;
use hawsepipe_overlay::muxrpc::{Body, RemoteError};
use hawsepipe_replication::private::Opened;
use hawsepipe_replication::refs::{FeedId, MessageId};
use hawsepipe_replication::store::{Order, ReadError, Reader, Stored, Term};
use serde_json::{Value, json};

use self::hashtags::Hashtags;
pub(super) use self::hashtags::{
    hashtag_count, hashtag_summary, hashtag_updates, hashtags_matching, recent_hashtags,
};
use self::order::{Placed, sort, tips};
use super::Request;
use super::args::Options;
use super::log::not_found;
use super::streams::{Found, failed, send_bodies};
use crate::context::{Caller, Context};

/// Threads that one stream tells apart.
const MAX_THREADS: usize = 500_000;
/// Messages of one thread.
const MAX_MESSAGES: usize = 100_000;

/// A message of a thread.
struct Member {
    stored: Stored,
    opened: Option<Opened>,
    /// As which it is shown: the time of reception, or that by which a root was found.
    timestamp: f64,
}

impl Member {
    fn of(stored: Stored, ctx: &Context) -> Self {
        let opened = ctx.private.open_stored(&stored);
        let timestamp = stored.received;
        Self { stored, opened, timestamp }
    }

    fn content(&self) -> &str {
        self.opened.as_ref().map_or_else(|| self.stored.message.content_json(), Opened::content_json)
    }

    /// A member of its content, if that is text.
    fn text(&self, name: &str) -> Option<String> {
        let content: Value = serde_json::from_str(self.content()).ok()?;
        content.get(name)?.as_str().map(str::to_owned)
    }

    /// The thread that it is in.
    fn root(&self) -> MessageId {
        let root = self.text("root").and_then(|root| root.parse().ok());
        root.unwrap_or_else(|| self.stored.message.id())
    }

    fn is_private(&self) -> bool {
        self.stored.message.is_encrypted()
    }

    /// With key and timestamp, as JSON.
    fn json(&self) -> Vec<u8> {
        match &self.opened {
            Some(opened) => opened.key_value_timestamp(&self.stored.message, self.timestamp),
            None => self.stored.message.key_value_timestamp(self.timestamp),
        }
    }

    fn placed(&self) -> Placed {
        let message = &self.stored.message;
        let (timestamp, claimed) = (self.timestamp, message.timestamp());
        Placed::new(message.id(), timestamp, claimed, message.previous(), self.content())
    }
}

/// What threads are asked for.
#[derive(Clone, Debug)]
struct Wanted {
    allowed: Option<Vec<String>>,
    refused: Option<Vec<String>>,
    private: bool,
    /// Only threads that begin with ourselves or somebody whom we follow.
    following: bool,
    include_self: bool,
    most: Option<usize>,
    summary: bool,
}

impl Wanted {
    fn parse(options: Options<'_>) -> Self {
        let types = |name| {
            let list = options.value(name).and_then(Value::as_array)?;
            Some(list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        };
        let most = options.number("threadMaxSize").filter(|most| *most >= 1.0);
        Self {
            allowed: types("allowlist"),
            refused: types("blocklist"),
            private: false,
            following: options.flag("following", false),
            include_self: options.flag("includeSelf", false),
            most: most.map(|most| most as usize),
            summary: false,
        }
    }

    fn takes(&self, member: &Member) -> bool {
        if self.allowed.is_none() && self.refused.is_none() {
            return true;
        }
        let kind = member.text("type");
        let is_in = |list: &Vec<String>| kind.as_ref().is_some_and(|kind| list.contains(kind));
        self.allowed.as_ref().is_none_or(is_in) && !self.refused.as_ref().is_some_and(is_in)
    }

    /// Whether a thread that begins so is wanted.
    fn takes_root(&self, ctx: &Context, root: &Member) -> bool {
        let author = root.stored.message.author();
        let is_near = || author == ctx.own || ctx.graph().is_following(&ctx.own, &author);
        let is_open = root.is_private() == self.private && root.opened.is_some() == self.private;
        is_open && !ctx.is_blocked(&author) && self.takes(root) && (!self.following || is_near())
    }

    /// The messages of a thread without its root, newest first, and at most so many.
    fn answers(&self, ctx: &Context, root: &MessageId, most: usize) -> Result<Vec<Member>, ReadError> {
        let (id, blocked) = (root.to_string(), ctx.blocked());
        let is_meant = |found: &Result<Member, ReadError>| {
            let Ok(member) = found else { return true };
            let message = &member.stored.message;
            member.is_private() == self.private
                && !blocked.contains(&message.author())
                && member.text("root").as_ref() == Some(&id)
                && self.takes(member)
        };
        let open = |found: Result<Stored, ReadError>| found.map(|stored| Member::of(stored, ctx));
        if !self.private {
            let found = ctx.reader.by_term_and_time(Term::Link(id.clone()), .., Order::Descending)?;
            return found.map(open).filter(is_meant).take(most).collect();
        }
        let places = ctx.search.private_links(&ctx.reader, &id);
        let found = ctx.reader.at_offsets(places).map(open).filter(is_meant);
        let mut found = found.collect::<Result<Vec<_>, _>>()?;
        found.sort_by(|one, other| other.stored.time().total_cmp(&one.stored.time()));
        found.truncate(most);
        Ok(found)
    }

    /// A thread as it is shown.
    fn thread(&self, ctx: &Context, root: Member) -> Result<Body, ReadError> {
        let most = self.most.unwrap_or(MAX_MESSAGES);
        let mut members = self.answers(ctx, &root.stored.message.id(), most)?;
        if self.summary {
            let newest = members.iter().chain([&root]).map(|member| member.stored.time()).fold(0.0, f64::max);
            let root: Value = serde_json::from_slice(&root.json()).unwrap_or(Value::Null);
            let newest = crate::query::from_number(newest);
            return Ok(Body::json(
                &json!({ "root": root, "replyCount": members.len(), "timestamp": newest }),
            ));
        }
        members.insert(0, root);
        members.truncate(most.saturating_add(1));
        let is_full = members.len() <= most;
        let mut members = sort(members, Member::placed);
        // The root and the newest are worth more than what came first.
        if !is_full && members.len() >= 3 {
            members.remove(1);
        }
        let mut out = b"{\"messages\":[".to_vec();
        for (n, member) in members.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&member.json());
        }
        out.extend_from_slice(format!("],\"full\":{is_full}}}").as_bytes());
        Ok(Body::json_raw(out))
    }
}

/// Threads that a stream has shown.
type Seen = Arc<Mutex<BTreeSet<MessageId>>>;

/// By which messages threads are found.
#[derive(Clone, Debug)]
enum Whence {
    All,
    Feed(FeedId),
    Hashtags(Hashtags),
}

/// When a message may be from.
type Times = (Bound<f64>, Bound<f64>);

impl Whence {
    fn messages(&self, reader: &Reader, times: Times, order: Order) -> Result<Box<dyn Found>, ReadError> {
        Ok(match self {
            Self::All => Box::new(reader.by_time(times, order)),
            Self::Feed(feed) => Box::new(reader.feed_by_time(feed, times, order)?),
            Self::Hashtags(tags) => Box::new(tags.messages(reader, times, order)?),
        })
    }

    fn has(&self, stored: &Stored) -> bool {
        match self {
            Self::All => true,
            Self::Feed(feed) => stored.message.author() == *feed,
            Self::Hashtags(tags) => tags.are_on(stored.message.content_json()),
        }
    }
}

/// The threads that some messages are in, each once.
struct Threads<W> {
    ctx: Arc<Context>,
    messages: Box<dyn Found>,
    wanted: Wanted,
    whence: Whence,
    seen: Seen,
    caller_waits: W,
}

impl<W: Fn() -> bool> Iterator for Threads<W> {
    type Item = Result<Body, RemoteError>;

    fn next(&mut self) -> Option<Self::Item> {
        let root = self.next_root()?;
        Some(root.and_then(|root| self.wanted.thread(&self.ctx, root).map_err(failed)))
    }
}

impl<W: Fn() -> bool> Threads<W> {
    /// The message that the next one begins with.
    fn next_root(&mut self) -> Option<Result<Member, RemoteError>> {
        loop {
            let found = self.messages.next().filter(|_| (self.caller_waits)())?;
            let root = found.map_err(failed).and_then(|stored| self.root_of(stored));
            if let Some(root) = root.transpose() {
                return Some(root);
            }
        }
    }

    fn root_of(&self, stored: Stored) -> Result<Option<Member>, RemoteError> {
        if !self.whence.has(&stored) {
            return Ok(None);
        }
        let found = Member::of(stored, &self.ctx);
        let id = found.root();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MAX_THREADS {
            return Err(RemoteError::new(format!("more than {MAX_THREADS} threads: use lt or limit")));
        }
        if !seen.insert(id) {
            return Ok(None);
        }
        drop(seen);
        let Some(root) = self.ctx.reader.get(&id).map_err(failed)? else { return Ok(None) };
        let root = Member { timestamp: found.stored.time(), ..Member::of(root, &self.ctx) };
        Ok(self.wanted.takes_root(&self.ctx, &root).then_some(root))
    }
}

/// Sends the threads that these messages are in.
async fn list(
    request: &Request,
    tx: &mut StreamTx,
    wanted: Wanted,
    whence: Whence,
) -> Result<(), RemoteError> {
    let ctx = &request.ctx;
    let options = request.args.options();
    let order = if options.flag("reverse", true) { Order::Descending } else { Order::Ascending };
    let before = options.number("lt").map_or(Bound::Unbounded, Bound::Included);
    let mut left =
        options.number("limit").filter(|limit| *limit >= 1.0).map_or(usize::MAX, |limit| limit as usize);
    let (seen, caller) = (Seen::default(), Caller::default());
    let mut tail = ctx.tail.log();
    let mut from = *tail.borrow_and_update();
    ctx.private.caught_up_if_near(&ctx.reader).await;
    let reader = ctx.reader.clone();
    let (times, among) = ((Bound::Unbounded, before), whence.clone());
    let messages = ctx.read(move || among.messages(&reader, times, order));
    let mut messages = messages.await.map_err(failed)?;
    loop {
        let threads = Threads {
            ctx: Arc::clone(ctx),
            messages,
            wanted: wanted.clone(),
            whence: whence.clone(),
            seen: Arc::clone(&seen),
            caller_waits: caller.waits(),
        };
        let count = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&count);
        let threads =
            threads.take(left).inspect(move |_| *counted.lock().unwrap_or_else(PoisonError::into_inner) += 1);
        let goes_on = send_bodies(request, tx, threads).await?;
        left -= *count.lock().unwrap_or_else(PoisonError::into_inner);
        if !goes_on || left == 0 || !options.flag("live", false) || tail.changed().await.is_err() {
            return Ok(());
        }
        let to = *tail.borrow_and_update();
        let reader = ctx.reader.clone();
        let new = ctx.read(move || reader.log(from..to, Order::Ascending)).await.map_err(failed)?;
        messages = Box::new(new);
        from = to;
    }
}

/// `threads.public(…)`: `{messages, full}`.
pub(super) async fn public(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    list(&request, tx, Wanted::parse(request.args.options()), Whence::All).await
}

/// `threads.publicSummary(…)`: `{root, replyCount, timestamp}`.
pub(super) async fn public_summary(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let wanted = Wanted { summary: true, ..Wanted::parse(request.args.options()) };
    list(&request, tx, wanted, Whence::All).await
}

/// `threads.private(…)`.
pub(super) async fn private(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let wanted = Wanted { private: true, ..Wanted::parse(request.args.options()) };
    list(&request, tx, wanted, Whence::All).await
}

/// `threads.profile({id, …})`: the threads in which a feed takes part.
pub(super) async fn profile(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let feed = request.args.options().feed("id")?;
    list(&request, tx, Wanted::parse(request.args.options()), Whence::Feed(feed)).await
}

/// `threads.profileSummary({id, …})`.
pub(super) async fn profile_summary(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let feed = request.args.options().feed("id")?;
    let wanted = Wanted { summary: true, ..Wanted::parse(request.args.options()) };
    list(&request, tx, wanted, Whence::Feed(feed)).await
}

/// `threads.thread({root, private, …})`: one thread, of posts unless other types are asked for.
pub(super) async fn thread(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let options = request.args.options();
    let id = root_of(options)?;
    let mut wanted = Wanted { private: options.flag("private", false), ..Wanted::parse(options) };
    if wanted.allowed.is_none() && wanted.refused.is_none() {
        wanted.allowed = Some(vec!["post".to_owned()]);
    }
    let ctx = Arc::clone(&request.ctx);
    ctx.private.caught_up_if_near(&ctx.reader).await;
    let found = request.ctx.read(move || {
        let root = ctx.reader.get(&id).map_err(failed)?;
        let root = root.ok_or_else(|| not_found(format!("Key not found in database [{id}]")))?;
        let timestamp = root.message.timestamp();
        let root = Member { timestamp, ..Member::of(root, &ctx) };
        let author = root.stored.message.author();
        if ctx.is_blocked(&author) {
            return Err(RemoteError::new(format!("Author Blocked:{author}")));
        }
        if root.is_private() && !wanted.private {
            return Ok(None);
        }
        wanted.thread(&ctx, root).map(Some).map_err(failed)
    });
    if let Some(thread) = found.await? {
        // An error means that the caller has gone.
        let _ = tx.send(thread).await;
    }
    Ok(())
}

fn root_of(options: Options<'_>) -> Result<MessageId, RemoteError> {
    let root = options.text("root").ok_or_else(|| RemoteError::new("threads: expected {root}, a message"))?;
    root.parse().map_err(|_| RemoteError::new(format!("not a message id: {root}")))
}

/// `threads.publicUpdates(…)`: ids of new public messages, without our own unless they are asked for.
pub(super) async fn public_updates(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let wanted = Wanted::parse(request.args.options());
    updates(&request, tx, &wanted, |member| Some(Body::text(member.stored.message.id().to_string()))).await
}

/// `threads.privateUpdates(…)`: the roots of private threads that grow.
pub(super) async fn private_updates(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let wanted = Wanted { private: true, ..Wanted::parse(request.args.options()) };
    updates(&request, tx, &wanted, |member| Some(Body::text(member.root().to_string()))).await
}

/// `threads.threadUpdates({root, private, …})`: new messages of a thread.
pub(super) async fn thread_updates(request: Request, tx: &mut StreamTx) -> Result<(), RemoteError> {
    let options = request.args.options();
    let id = root_of(options)?;
    let private = options.flag("private", false);
    let wanted = Wanted { private, include_self: true, ..Wanted::parse(options) };
    let is_in = |member: &Member| member.stored.message.id() != id && member.root() == id;
    updates(&request, tx, &wanted, |member| is_in(member).then(|| Body::json_raw(member.json()))).await
}

/// Sends something of each message that comes from now on and is wanted.
async fn updates(
    request: &Request,
    tx: &mut StreamTx,
    wanted: &Wanted,
    show: impl Fn(&Member) -> Option<Body>,
) -> Result<(), RemoteError> {
    let ctx = &request.ctx;
    let mut tail = ctx.tail.log();
    let mut from = *tail.borrow_and_update();
    while tail.changed().await.is_ok() {
        let to = *tail.borrow_and_update();
        let known = Arc::clone(ctx);
        let new = ctx.read(move || {
            let new = known.reader.log(from..to, Order::Ascending)?;
            new.map(|found| found.map(|stored| Member::of(stored, &known))).collect::<Result<Vec<_>, _>>()
        });
        for member in new.await.map_err(failed)? {
            let author = member.stored.message.author();
            let is_wanted = member.is_private() == wanted.private
                && member.opened.is_some() == wanted.private
                && (wanted.include_self || author != ctx.own)
                && !ctx.is_blocked(&author)
                && wanted.takes(&member);
            if let Some(body) = is_wanted.then(|| show(&member)).flatten()
                && tx.send(body).await.is_err()
            {
                return Ok(());
            }
        }
        from = to;
    }
    Ok(())
}

/// `tangle.branch(root)`: the messages of a thread that no other of it names: what an answer should name as `branch`.
pub(super) async fn branch(request: Request) -> Result<Body, RemoteError> {
    let id = request.args.text(0).and_then(|text| text.parse::<MessageId>().ok());
    let id = id.ok_or_else(|| RemoteError::new("getBranch requires a valid message"))?;
    let ctx = Arc::clone(&request.ctx);
    ctx.private.caught_up_if_near(&ctx.reader).await;
    let found = request.ctx.read(move || {
        let mut members = Vec::new();
        for private in [false, true] {
            let wanted = Wanted { private, ..Wanted::parse(Options::none()) };
            members.extend(wanted.answers(&ctx, &id, MAX_MESSAGES)?);
        }
        Ok::<_, ReadError>(tips(&id, members.iter().map(Member::placed)))
    });
    Ok(Body::json(&found.await.map_err(failed)?))
}
