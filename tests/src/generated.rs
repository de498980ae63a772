//! The corpus of the bench: any number of messages out of a seed, signed, the same on every machine, and kept
//! in `tests/.cache`.
//!
//! Few authors write much and most write little (Zipf). Types and lengths are about those of the public
//! network: votes on recent posts, posts in threads that answer each other and mention people, private
//! messages, follows, names, and some types that nobody knows. Ten authors of middling activity, the
//! [`friends`](Generated::friends), follow all others among them in their first messages: who follows these
//! ten wants everybody. Nobody blocks anybody.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use hawsepipe::datadir::DataDir;
use hawsepipe_replication::message::{Message, Tip, json as canonical, sign};
use hawsepipe_replication::refs::{FeedId, MessageId};
use hawsepipe_replication::store::{Options, Store};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use ssb_crypto::Keypair;

use crate::chance::SplitMix;
use crate::package_dir;

/// Changes when other messages are made of the same seed.
const VERSION: u32 = 1;
/// What everything is drawn from.
const SEED: u64 = 0x4861_7773_6570_6970;
/// How steep activity falls with the author's rank.
const STEEPNESS: f64 = 0.8;
/// How many of the authors are friends, and the rank of the first.
const FRIENDS: usize = 10;
const FIRST_FRIEND: usize = 60;
/// Posts that may still be answered, and posts that may still be voted for.
const FRESH: usize = 400;
/// Words of the language that everyone speaks here.
const WORDS: usize = 4000;
/// When the first message was written, and how far messages lie apart, milliseconds.
const BEGIN: f64 = 1_600_000_000_000.0;
const STEP: f64 = 60_000.0;
/// Messages that go into a store together.
const COMMIT: usize = 4096;

/// A corpus on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    #[serde(skip)]
    dir: PathBuf,
    version: u32,
    /// How many messages there are.
    pub messages: usize,
    /// How many messages each author has.
    pub clock: Vec<(String, u64)>,
    /// Whoever follows these wants every author.
    pub friends: Vec<String>,
    /// The length of all signed forms together: JSON with two spaces of indentation, as it is hashed.
    pub signed_bytes: u64,
}

/// A line of the file.
#[derive(Deserialize)]
struct Line<'a> {
    key: MessageId,
    #[serde(borrow)]
    value: &'a RawValue,
    timestamp: f64,
}

impl Generated {
    /// The corpus of so many messages, made now if it is not in the cache.
    ///
    /// # Panics
    /// When there are fewer messages than the smallest network needs, or the cache is not writable.
    pub fn load(messages: usize) -> Self {
        let dir = package_dir().join(".cache").join(format!("generated-{messages}"));
        let told = dir.join("corpus.json");
        let known = fs::read(&told).ok().and_then(|text| serde_json::from_slice::<Self>(&text).ok());
        if let Some(known) = known.filter(|known| known.version == VERSION) {
            return Self { dir, ..known };
        }
        fs::remove_dir_all(&dir).ok();
        fs::create_dir_all(&dir).expect("tests/.cache is writable");
        let made = World::new(messages).write(&dir);
        // Last, so that a corpus that is half made is made again.
        fs::write(told, serde_json::to_vec(&made).expect("it is JSON")).expect("tests/.cache is writable");
        made
    }

    /// A folder for what is made of this corpus; it goes when another version of the corpus is made.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file with one `{key, value, timestamp}` a line, in the order in which they were written.
    pub fn lines(&self) -> PathBuf {
        self.dir.join("messages.jsonl")
    }

    /// The authors' feed ids.
    pub fn authors(&self) -> impl Iterator<Item = &str> {
        self.clock.iter().map(|(id, _)| id.as_str())
    }

    /// What the friends have.
    pub fn friends_clock(&self) -> Vec<(String, u64)> {
        self.clock.iter().filter(|(id, _)| self.friends.contains(id)).cloned().collect()
    }

    /// All messages and when they were received, in order.
    ///
    /// # Panics
    /// When the file is not what [`Generated::load`] made.
    pub fn read(&self) -> impl Iterator<Item = (Message, f64)> {
        let file = BufReader::new(File::open(self.lines()).expect("the corpus is on disk"));
        file.lines().map(|line| {
            let line = line.expect("the corpus can be read");
            let Line { key, value, timestamp } = serde_json::from_str(&line).expect("a line is JSON");
            let bytes = Bytes::copy_from_slice(value.get().as_bytes());
            (Message::from_trusted(key, bytes).expect("the corpus is canonical"), timestamp)
        })
    }

    /// Writes everything into the store of the data folder `dir`, which holds none yet.
    ///
    /// # Panics
    /// When the store does not take it.
    pub fn store_into(&self, dir: &Path) {
        let dir = DataDir::prepare(dir).expect("the folder is fresh");
        let opened = Store::open(&dir.store(), &Options::default(), &mut |_, _| {});
        let (mut writer, _) = opened.expect("the folder is fresh");
        let mut messages = self.read().peekable();
        while let Some((_, received)) = messages.peek() {
            let received = *received;
            let batch: Vec<Message> = messages.by_ref().take(COMMIT).map(|(message, _)| message).collect();
            let refused = writer.commit(batch, received).expect("there is room").refused;
            assert!(refused.is_empty(), "the corpus is not made of chains: {:?}", refused.first());
        }
        writer.close().expect("there is room");
    }
}

/// Somebody who writes.
struct Author {
    keypair: Keypair,
    id: FeedId,
    tip: Option<Tip>,
}

/// A post that may be answered.
struct Post {
    id: MessageId,
    root: MessageId,
}

/// Everything that a message is made of.
struct World {
    chance: SplitMix,
    authors: Vec<Author>,
    activity: Zipf,
    words: Vec<String>,
    usage: Zipf,
    posts: Vec<Post>,
    messages: usize,
}

impl World {
    fn new(messages: usize) -> Self {
        ssb_crypto::sodium::init().expect("libsodium finds a source of randomness");
        let mut chance = SplitMix::new(SEED);
        let count = (1.58 * (messages as f64).sqrt()).round() as usize;
        assert!(count > FIRST_FRIEND + FRIENDS, "a corpus has at least 3,000 messages");
        let authors = (0..count).map(|_| Author::new(&mut chance)).collect();
        let words = (0..WORDS).map(|_| word(&mut chance)).collect();
        let (activity, usage) = (Zipf::new(count, STEEPNESS), Zipf::new(WORDS, 1.0));
        Self { chance, authors, activity, words, usage, posts: Vec::new(), messages }
    }

    fn write(mut self, dir: &Path) -> Generated {
        let mut made = Generated {
            dir: dir.to_owned(),
            version: VERSION,
            messages: self.messages,
            clock: Vec::new(),
            friends: self.authors[FIRST_FRIEND..][..FRIENDS].iter().map(|a| a.id.to_string()).collect(),
            signed_bytes: 0,
        };
        let file = File::create(made.lines()).expect("tests/.cache is writable");
        let mut file = BufWriter::with_capacity(1 << 20, file);
        for n in 0..self.messages {
            let message = self.message(n);
            made.signed_bytes += signed_form(&message) as u64;
            let received = BEGIN + (n as f64 + 0.5) * STEP;
            file.write_all(&message.key_value_timestamp(received)).expect("there is room for the corpus");
            file.write_all(b"\n").expect("there is room for the corpus");
        }
        file.flush().expect("there is room for the corpus");
        let clock = |author: &Author| Some((author.id.to_string(), author.tip?.sequence));
        made.clock = self.authors.iter().filter_map(clock).collect();
        made
    }

    /// The message number `n`: first everyone says a name, then the friends follow everyone, then life goes on.
    fn message(&mut self, n: usize) -> Message {
        let count = self.authors.len();
        let (who, content) = if n < count {
            (n, self.name(n))
        } else if n < 2 * count {
            let whom = n - count;
            (FIRST_FRIEND + whom % FRIENDS, self.follow(whom, true))
        } else {
            let who = self.activity.draw(&mut self.chance);
            (who, self.content(who))
        };
        let author = &self.authors[who];
        let claimed = BEGIN + n as f64 * STEP;
        let signed = sign(&author.keypair, None, author.tip.as_ref(), claimed, content.as_bytes());
        let message = signed.unwrap_or_else(|e| panic!("{e} in {content}"));
        self.authors[who].tip = Some(message.tip());
        if content.starts_with(r#"{"type":"post""#) {
            self.remember(&message, &content);
        }
        message
    }

    fn remember(&mut self, message: &Message, content: &str) {
        let id = message.id();
        let root = content.split_once(r#""root":""#).and_then(|(_, rest)| rest.split('"').next());
        let root = root.map_or(id, |root| root.parse().expect("a root is a message id"));
        if self.posts.len() == FRESH {
            let gone = self.chance.below(FRESH / 2);
            self.posts.remove(gone);
        }
        self.posts.push(Post { id, root });
    }

    fn content(&mut self, who: usize) -> String {
        match self.chance.below(100) {
            0..43 if !self.posts.is_empty() => self.vote(),
            0..68 => self.post(),
            68..80 => self.private(),
            80..89 => {
                // Friends unfollow nobody, so that everyone stays in reach.
                let is_friend = (FIRST_FRIEND..FIRST_FRIEND + FRIENDS).contains(&who);
                let whom = self.chance.below(self.authors.len());
                let following = is_friend || self.chance.unit() < 0.9;
                self.follow(whom, following)
            }
            89..91 => self.name(who),
            _ => self.other(),
        }
    }

    fn vote(&mut self) -> String {
        let post = self.recent_post().map_or(MessageId::from_bytes([0; 32]), |post| post.id);
        format!(
            r#"{{"type":"vote","channel":null,"vote":{{"link":"{post}","value":1,"expression":"Like"}}}}"#
        )
    }

    fn post(&mut self) -> String {
        let length = 12.0 - 75.0 * (1.0 - self.chance.unit()).ln();
        let text = self.text((length as usize).min(600));
        let mentions = self.mentions();
        let answered = if self.chance.unit() < 0.6 { self.recent_post() } else { None };
        let Some((id, root)) = answered.map(|post| (post.id, post.root)) else {
            return format!(r#"{{"type":"post","text":"{text}","mentions":[{mentions}]}}"#);
        };
        format!(
            r#"{{"type":"post","root":"{root}","branch":["{id}"],"text":"{text}","mentions":[{mentions}]}}"#
        )
    }

    fn mentions(&mut self) -> String {
        let count = match self.chance.below(10) {
            0 | 1 => 1,
            2 => 2,
            _ => 0,
        };
        let mentions = (0..count).map(|_| {
            let whom = self.activity.draw(&mut self.chance);
            format!(r#"{{"link":"{}","name":"{}"}}"#, self.authors[whom].id, self.words[whom % WORDS])
        });
        mentions.collect::<Vec<_>>().join(",")
    }

    fn private(&mut self) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let length = 4 * (120 + self.chance.below(350));
        let text = (0..length).map(|_| char::from(DIGITS[self.chance.below(64)]));
        format!("\"{}.box\"", text.collect::<String>())
    }

    fn follow(&self, whom: usize, following: bool) -> String {
        let whom = self.authors[whom].id;
        format!(r#"{{"type":"contact","contact":"{whom}","following":{following}}}"#)
    }

    fn name(&mut self, who: usize) -> String {
        let name = self.text(2);
        format!(r#"{{"type":"about","about":"{}","name":"{name}"}}"#, self.authors[who].id)
    }

    fn other(&mut self) -> String {
        let kind = ["gathering", "blog", "npm-packages", "git-update", "chess_move"][self.chance.below(5)];
        let text = self.text(8);
        format!(r#"{{"type":"{kind}","title":"{text}","count":{}}}"#, self.chance.below(1000))
    }

    /// The newer the likelier.
    fn recent_post(&mut self) -> Option<&Post> {
        let back = self.chance.unit().powi(2) * self.posts.len() as f64;
        self.posts.iter().rev().nth(back as usize)
    }

    fn text(&mut self, words: usize) -> String {
        let words = (0..words).map(|_| self.words[self.usage.draw(&mut self.chance)].as_str());
        words.collect::<Vec<_>>().join(" ")
    }
}

impl Author {
    fn new(chance: &mut SplitMix) -> Self {
        let mut seed = [0; 32];
        seed.fill_with(|| chance.below(256) as u8);
        let keypair = Keypair::from_seed(&seed).expect("a seed has 32 bytes");
        let id = FeedId::from_bytes(keypair.public.0);
        Self { keypair, id, tip: None }
    }
}

/// A word of two to four syllables; some are not of ASCII.
fn word(chance: &mut SplitMix) -> String {
    const ONSETS: [&str; 12] = ["b", "d", "f", "k", "l", "m", "n", "r", "s", "t", "v", "sch"];
    const VOWELS: [&str; 8] = ["a", "e", "i", "o", "u", "ä", "ei", "o"];
    let syllables = 2 + chance.below(3);
    let syllable = |_| [ONSETS[chance.below(12)], VOWELS[chance.below(8)]].concat();
    (0..syllables).map(syllable).collect()
}

/// Bytes of the form that is hashed.
fn signed_form(message: &Message) -> usize {
    canonical::parse(message.value_bytes()).map_or(0, |value| value.to_pretty().len())
}

/// Draws low numbers often and high ones seldom.
#[derive(Debug)]
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(count: usize, steepness: f64) -> Self {
        let mut sum = 0.0;
        let weights = (1..=count).map(|rank| {
            sum += (rank as f64).powf(-steepness);
            sum
        });
        Self(weights.collect())
    }

    fn draw(&self, chance: &mut SplitMix) -> usize {
        let at = chance.unit() * self.0.last().copied().unwrap_or(1.0);
        self.0.partition_point(|sum| *sum <= at).min(self.0.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn make(dir: &Path) -> (Generated, Vec<Message>) {
        let made = World::new(4000).write(dir);
        let messages = made.read().map(|(message, _)| message).collect();
        (made, messages)
    }

    #[test]
    fn a_corpus_depends_on_nothing_but_its_size_and_its_feeds_are_chains() {
        let [one, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let (made, messages) = make(one.path());
        assert_eq!(messages, make(other.path()).1);
        let mut tips: BTreeMap<FeedId, Tip> = BTreeMap::new();
        for message in &messages {
            let tip = tips.insert(message.author(), message.tip());
            assert_eq!(message.previous(), tip.map(|tip| tip.id));
        }
        let clock: BTreeMap<String, u64> = made.clock.iter().cloned().collect();
        assert_eq!(clock, tips.iter().map(|(feed, tip)| (feed.to_string(), tip.sequence)).collect());
        let compact: usize = messages.iter().map(|message| message.value_bytes().len()).sum();
        assert!(made.signed_bytes > compact as u64);
    }

    #[test]
    fn the_friends_follow_everyone_and_have_little_of_it_all() {
        let dir = tempfile::tempdir().unwrap();
        let (made, messages) = make(dir.path());
        let theirs = |message: &Message| made.friends.contains(&message.author().to_string());
        let followed = messages.iter().filter(|message| theirs(message)).filter_map(|message| {
            let content: serde_json::Value = serde_json::from_str(message.content_json()).unwrap();
            (content["following"] == true).then(|| content["contact"].as_str().unwrap().to_owned())
        });
        let mut followed: Vec<String> = followed.collect();
        followed.sort_unstable();
        followed.dedup();
        assert_eq!(followed.len(), made.clock.len());
        let share: u64 = made.friends_clock().iter().map(|(_, count)| count).sum();
        assert!(share < 4000 / 10, "{share}");
    }
}
