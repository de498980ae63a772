//! What the store costs: append with and without waiting for the disk, a feed from begin to end, messages
//! by id in random order. `STORE_BENCH_MESSAGES` sets how large the read store is (default 50,000).
//!
//! Messages are canonical but not signed: the store does not look at signatures.

use std::hint::black_box;
use std::path::Path;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hawsepipe_replication::message::{Message, Tip};
use hawsepipe_replication::refs::{FeedId, MessageId};
use hawsepipe_replication::store::{Options, Order, Reader, Store, Writer};
use sha2::{Digest, Sha256};

const FEEDS: usize = 200;
const BATCH: usize = 1000;

/// Makes messages of many feeds, whose mean length is that of real ones.
struct Corpus {
    tips: Vec<Option<Tip>>,
    made: usize,
}

impl Corpus {
    fn new() -> Self {
        Self { tips: vec![None; FEEDS], made: 0 }
    }

    fn batch(&mut self, n: usize) -> Vec<Message> {
        (0..n).map(|_| self.message()).collect()
    }

    fn message(&mut self) -> Message {
        // Feeds of very different lengths, in no simple order.
        let dice = self.made.wrapping_mul(0x9E37_79B9) >> 7;
        let feed = (dice % FEEDS).min(dice / FEEDS % FEEDS);
        let author = FeedId::from_bytes(Sha256::digest(feed.to_le_bytes()).into());
        let tip = self.tips[feed];
        let previous = tip.map_or("null".to_owned(), |tip| format!("\"{}\"", tip.id));
        let sequence = tip.map_or(1, |tip| tip.sequence + 1);
        let content = if self.made % 5 < 2 {
            format!(r#"{{"type":"vote","vote":{{"link":"%{author}","value":1}}}}"#)
        } else {
            format!(r#"{{"type":"post","text":"{}"}}"#, "lorem ".repeat(dice % 150))
        };
        let claimed = 1_600_000_000_000 + self.made * 1000;
        let signature = "A".repeat(86);
        let value = format!(
            r#"{{"previous":{previous},"sequence":{sequence},"author":"{author}","timestamp":{claimed},"hash":"sha256","content":{content},"signature":"{signature}==.sig.ed25519"}}"#
        );
        let id = MessageId::from_bytes(Sha256::digest(&value).into());
        self.tips[feed] = Some(Tip { id, sequence });
        self.made += 1;
        Message::from_trusted(id, Bytes::from(value)).expect("canonical by construction")
    }
}

fn open(dir: &Path) -> (Writer, Reader) {
    Store::open(dir, &Options::default(), &mut |_, _| {}).expect("a fresh folder")
}

fn now(corpus: &Corpus) -> f64 {
    1_700_000_000_000.0 + corpus.made as f64
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("store");
    group.sample_size(20);
    for (name, size) in [("commit batches of 1000", BATCH), ("commit one by one", 1)] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (mut writer, _reader) = open(dir.path());
        let mut corpus = Corpus::new();
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(name, |b| {
            let make = || {
                let batch = corpus.batch(size);
                (batch, now(&corpus))
            };
            let commit = |(batch, now)| writer.commit(batch, now).expect("room on the disk");
            b.iter_batched(make, commit, BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn read(c: &mut Criterion) {
    let total = std::env::var("STORE_BENCH_MESSAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(50_000);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (mut writer, reader) = open(dir.path());
    let mut corpus = Corpus::new();
    let mut ids = Vec::new();
    while ids.len() < total {
        let batch = corpus.batch(BATCH);
        ids.extend(batch.iter().map(Message::id));
        writer.commit(batch, now(&corpus)).expect("room on the disk");
    }
    let mut group = c.benchmark_group("store");
    let clock = reader.clock();
    let (feed, len) = clock.iter().max_by_key(|(_, len)| **len).expect("there are feeds");
    group.throughput(Throughput::Elements(*len));
    group.bench_function("read the longest feed", |b| b.iter(|| reader.feed(feed, 1).count()));
    group.throughput(Throughput::Elements(total as u64));
    group.sample_size(10);
    group.bench_function("read the whole log", |b| {
        b.iter(|| reader.log(.., Order::Ascending).expect("a good index").count());
    });
    group.throughput(Throughput::Elements(1));
    let mut at = 0;
    group.bench_function("get by id", |b| {
        b.iter(|| {
            at = (at + 7919) % ids.len();
            black_box(reader.get(&ids[at]).expect("a good store"))
        });
    });
    group.finish();
}

criterion_group!(benches, append, read);
criterion_main!(benches);
