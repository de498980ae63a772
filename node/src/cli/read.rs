//! Reading: `log`, `feed`, `private`, `search` and `thread`.

use clap::Args;
use hawsepipe_overlay::muxrpc::Body;
use hawsepipe_replication::refs::{FeedId, MessageId};
use serde_json::{Value, json};

use super::client::Failure;
use super::names::{Names, find};
use super::page::{Facts, Page};
use super::show;
use super::thread::Thread;
use crate::client::{Client, Message, StreamOptions};
use crate::clock;

/// Messages that a person is shown who did not say how many.
const SHOWN: u64 = 50;
/// Hits of a search that are shown if nobody says how many.
const HITS: u64 = 50;

/// Which of the messages, and in which order.
#[derive(Args, Clone, Debug, Default)]
pub struct Which {
    /// Go on with new messages as they arrive
    #[arg(long)]
    pub live: bool,
    /// Newest first
    #[arg(long, conflicts_with = "live")]
    pub reverse: bool,
    /// At most so many, from where the listing begins
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// The newest so many; 50 on a terminal if nothing else is said
    #[arg(long, value_name = "N", conflicts_with_all = ["reverse", "limit"])]
    pub last: Option<u64>,
}

/// Which messages of the log.
#[derive(Args, Debug)]
pub struct Log {
    /// How many, and in which order
    #[command(flatten)]
    pub which: Which,
    /// Show private messages that this node can read opened
    #[arg(long)]
    pub private: bool,
    /// Only messages of this feed: its id, or a name that only one has
    #[arg(long, value_name = "FEED")]
    pub feed: Option<String>,
    /// Only messages of this type
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "feed")]
    pub kind: Option<String>,
}

/// Which messages of a feed.
#[derive(Args, Debug)]
pub struct Feed {
    /// Its id, or a name that only one has
    pub who: String,
    /// How many, and in which order
    #[command(flatten)]
    pub which: Which,
}

/// What is searched for.
#[derive(Args, Debug)]
pub struct Search {
    /// Words that messages have
    #[arg(required = true)]
    pub words: Vec<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = HITS)]
    pub limit: u64,
}

/// Where messages come from.
#[derive(Clone, Debug, PartialEq)]
enum From {
    Log,
    Feed(FeedId),
    Type(String),
    Private,
}

impl From {
    fn call(&self, options: &StreamOptions) -> (&'static str, Vec<Value>) {
        let mut written = json!(options);
        written["sync"] = false.into();
        let method = match self {
            Self::Log => "createLogStream",
            Self::Private => "private.read",
            Self::Feed(feed) => {
                written["id"] = json!(feed);
                "createUserStream"
            }
            Self::Type(kind) => {
                written["type"] = kind.clone().into();
                "messagesByType"
            }
        };
        (method, vec![written])
    }

    /// The bound behind which messages are newer than `message`.
    fn behind(&self, message: &Message) -> Option<f64> {
        match self {
            Self::Feed(_) => Some(message.sequence as f64),
            Self::Log | Self::Type(_) | Self::Private => message.received,
        }
    }
}

/// `hawsepipe log`.
pub(super) async fn log(client: &Client, what: Log, facts: &Facts) -> Result<(), Failure> {
    let from = match (&what.feed, what.kind) {
        (Some(feed), _) => From::Feed(find(client, feed).await?),
        (None, Some(kind)) => From::Type(kind),
        (None, None) => From::Log,
    };
    messages(client, &from, &what.which, what.private, facts).await
}

/// `hawsepipe feed`.
pub(super) async fn feed(client: &Client, what: &Feed, facts: &Facts) -> Result<(), Failure> {
    let feed = find(client, &what.who).await?;
    messages(client, &From::Feed(feed), &what.which, true, facts).await
}

/// `hawsepipe private`.
pub(super) async fn private(client: &Client, which: &Which, facts: &Facts) -> Result<(), Failure> {
    messages(client, &From::Private, which, true, facts).await
}

async fn messages(
    client: &Client,
    from: &From,
    which: &Which,
    private: bool,
    facts: &Facts,
) -> Result<(), Failure> {
    let mut shown =
        Shown::new(client, if which.live { Page::short(facts) } else { Page::long(facts) }).await?;
    let Which { live, reverse, limit, last } = *which;
    let says_nothing = !reverse && limit.is_none();
    let last = last.or((shown.page.is_text() && says_nothing).then_some(SHOWN));
    let mut options = StreamOptions { live, reverse, private, limit, ..StreamOptions::default() };
    if let Some(last) = last {
        let newest = StreamOptions { live: false, reverse: true, limit: Some(last), ..options.clone() };
        let (method, args) = from.call(&newest);
        let mut newest: Vec<Body> = client.source_raw(method, args).await?.all().await?;
        newest.reverse();
        // What comes is what is newer than the newest of them.
        options.gt = newest.last().and_then(|newest| from.behind(&newest.decode().ok()?));
        for body in &newest {
            shown.message(client, body, 0).await?;
        }
    }
    if live || last.is_none() {
        shown.page.flush();
        let (method, args) = from.call(&options);
        let mut messages = client.source_raw(method, args).await?;
        while let Some(body) = messages.next().await {
            shown.message(client, &body?, 0).await?;
            if live {
                shown.page.flush();
            }
        }
    }
    shown.page.finish();
    Ok(())
}

/// `hawsepipe search`.
pub(super) async fn search(client: &Client, what: &Search, facts: &Facts) -> Result<(), Failure> {
    let query = json!({ "query": what.words.join(" "), "limit": what.limit });
    let mut hits = client.source_raw("search.query", vec![query]).await?;
    let Some(first) = hits.next().await else {
        return Ok(());
    };
    let first = first.map_err(|error| match error {
        error if error.is_missing_method() => {
            Failure::Refused("the running node has no full-text search (search.query)".to_owned())
        }
        error => error.into(),
    })?;
    let mut shown = Shown::new(client, Page::long(facts)).await?;
    shown.message(client, &first, 0).await?;
    while let Some(hit) = hits.next().await {
        shown.message(client, &hit?, 0).await?;
    }
    shown.page.finish();
    Ok(())
}

/// `hawsepipe thread`.
pub(super) async fn thread(client: &Client, id: &MessageId, facts: &Facts) -> Result<(), Failure> {
    let thread = Thread::of(client, id).await?;
    let mut shown = Shown::new(client, Page::long(facts)).await?;
    if shown.page.is_text() && thread.messages.first().is_none_or(|(_, first)| first.id != thread.root) {
        shown.page.line(&format!("(the thread's first message, {}, is not here)\n", thread.root));
    }
    for (level, message) in &thread.messages {
        if shown.page.is_text() {
            shown.text(client, message, *level).await?;
        } else {
            let options = json!({ "id": message.id, "meta": true, "private": true });
            shown.page.json(&client.call_raw("get", vec![options]).await?.bytes);
        }
    }
    shown.page.finish();
    Ok(())
}

/// Messages on a page.
struct Shown {
    page: Page,
    /// Not needed where programs read.
    names: Option<Names>,
}

impl Shown {
    async fn new(client: &Client, page: Page) -> Result<Self, Failure> {
        let names = if page.is_text() { Some(Names::of_node(client).await?) } else { None };
        Ok(Self { page, names })
    }

    /// Shows what a stream of messages gave.
    async fn message(&mut self, client: &Client, body: &Body, level: usize) -> Result<(), Failure> {
        if self.names.is_none() {
            self.page.json(&body.bytes);
            return Ok(());
        }
        let message: Message = body
            .decode()
            .map_err(|why| Failure::Refused(format!("the node gave something else than a message: {why}")))?;
        self.text(client, &message, level).await
    }

    async fn text(&mut self, client: &Client, message: &Message, level: usize) -> Result<(), Failure> {
        let Some(names) = &mut self.names else { return Ok(()) };
        names.learn(client, &show::named_in(message)).await?;
        for line in show::lines(message, names, clock::unix_millis(), level, self.page.look()) {
            self.page.line(&line);
        }
        Ok(())
    }
}
