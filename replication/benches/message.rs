//! How fast messages are read, canonicalised and named, and how fast they are verified.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hawsepipe_replication::message::{Message, Tip, Unverified, Verifier, json, parse_batch, sign};
use ssb_crypto::Keypair;

/// Feeds and messages a batch is made of.
const FEEDS: u8 = 16;
const MESSAGES: usize = 64;

/// Contents in the proportions and sizes of real feeds: votes, short and long posts, private messages.
fn content(n: usize) -> String {
    let id = "%7qizFH9dHuG2wMUg8CAP/1Olg2exISVkjJpvlCYATu4=.sha256";
    match n % 8 {
        0..=3 => format!(
            r#"{{"type":"vote","channel":null,"vote":{{"link":"{id}","value":1,"expression":"⛵"}}}}"#
        ),
        4 | 5 => format!(
            r#"{{"type":"post","root":"{id}","branch":["{id}"],"text":"{}"}}"#,
            "Ahoy, ho! ".repeat(20)
        ),
        6 => format!(
            r##"{{"type":"post","text":"# A longer one\n\n{}","mentions":[]}}"##,
            "Line ü of text\\n".repeat(200)
        ),
        _ => format!("\"{}.box\"", "QUJD".repeat(300)),
    }
}

fn messages() -> Vec<Message> {
    feeds(FEEDS, MESSAGES)
}

fn feeds(feeds: u8, messages: usize) -> Vec<Message> {
    let feeds = (1..=feeds).flat_map(|seed| {
        let keypair = Keypair::from_seed(&[seed; 32]).expect("a seed of 32 bytes");
        let mut tip: Option<Tip> = None;
        (0..messages).map(move |n| {
            let message =
                sign(&keypair, None, tip.as_ref(), n as f64, content(n).as_bytes()).expect("a valid draft");
            tip = Some(message.tip());
            message
        })
    });
    feeds.collect()
}

fn reading(c: &mut Criterion) {
    ssb_crypto::sodium::init().expect("libsodium");
    let messages = messages();
    let raw: Vec<_> = messages.iter().map(|message| message.value_bytes().clone()).collect();
    let mut group = c.benchmark_group("message");
    group.throughput(Throughput::Elements(raw.len() as u64));
    group.bench_function("parse, canonicalise and name, one core", |b| {
        b.iter(|| raw.iter().filter(|raw| Unverified::parse(black_box(raw)).is_ok()).count());
    });
    group.bench_function("parse, canonicalise and name, all cores", |b| {
        b.iter(|| parse_batch(black_box(&raw)))
    });
    let parsed: Vec<json::Value<'_>> =
        raw.iter().map(|raw| json::parse(raw).expect("canonical JSON")).collect();
    group.bench_function("write in the canonical form that is signed", |b| {
        b.iter(|| parsed.iter().map(|value| black_box(value.to_pretty()).len()).sum::<usize>());
    });
    group.bench_function("take from the store", |b| {
        b.iter(|| {
            let taken = messages
                .iter()
                .map(|message| Message::from_trusted(message.id(), message.value_bytes().clone()));
            taken.filter(Result::is_ok).count()
        });
    });
    group.finish();
}

fn verifying(c: &mut Criterion) {
    ssb_crypto::sodium::init().expect("libsodium");
    let unverified: Vec<_> = messages()
        .iter()
        .map(|message| Unverified::parse(message.value_bytes()).expect("a valid message"))
        .collect();
    let mut group = c.benchmark_group("signature");
    group.sample_size(20);
    group.throughput(Throughput::Elements(1));
    group.bench_function("verify one", |b| {
        b.iter_batched(|| unverified[7].clone(), |message| message.verify(None), BatchSize::SmallInput);
    });
    group.throughput(Throughput::Elements(unverified.len() as u64));
    group.bench_function("validate a batch, all cores", |b| {
        let mut verifier = Verifier::new();
        b.iter_batched(
            || unverified.clone(),
            |batch| verifier.validate_batch(batch, None, |_| None),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

/// The equation for many signatures, by the batch's size, against each by itself.
fn batches(c: &mut Criterion) {
    ssb_crypto::sodium::init().expect("libsodium");
    let one_core = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    let all_cores = rayon::ThreadPoolBuilder::new().build().expect("threads");
    let mut group = c.benchmark_group("batch");
    group.sample_size(10);
    for (name, authors) in [("one author", 1_u8), ("200 authors", 200)] {
        let messages = feeds(authors, 4000 / usize::from(authors));
        let all: Vec<_> =
            messages.iter().map(|m| Unverified::parse(m.value_bytes()).expect("a valid message")).collect();
        for size in [48, 64, 128, 1000, 4000] {
            // As they come in practice: authors mixed.
            let batch: Vec<_> = (0..size).map(|n| all[n * 1237 % all.len()].clone()).collect();
            group.throughput(Throughput::Elements(size as u64));
            let mut bench = |how: &str, pool: &rayon::ThreadPool| {
                let mut verifier = Verifier::new();
                group.bench_function(format!("{name}, {size}, {how}"), |b| {
                    b.iter_batched(
                        || batch.clone(),
                        |batch| pool.install(|| verifier.verify_batch(batch, None)),
                        BatchSize::LargeInput,
                    );
                });
            };
            bench("one core", &one_core);
            bench("all cores", &all_cores);
        }
        for (what, step) in [("one bad in 4000", 4000), ("one bad in 64", 64), ("all bad", 1)] {
            let mut batch = all.clone();
            (0..batch.len()).step_by(step).for_each(|n| batch[n] = with_other_signature(&messages, n));
            let mut verifier = Verifier::new();
            group.throughput(Throughput::Elements(batch.len() as u64));
            group.bench_function(format!("{name}, {what}, one core"), |b| {
                b.iter_batched(
                    || batch.clone(),
                    |batch| one_core.install(|| verifier.verify_batch(batch, None)),
                    BatchSize::LargeInput,
                );
            });
        }
        group.throughput(Throughput::Elements(1000));
        group.bench_function(format!("{name}, 1000, each by itself, one core"), |b| {
            b.iter_batched(
                || all[..1000].to_vec(),
                |messages| messages.into_iter().filter_map(|m| m.verify(None).ok()).count(),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

/// The message with the signature of the one before it.
fn with_other_signature(messages: &[Message], n: usize) -> Unverified {
    let signature = |message: &Message| {
        let text = std::str::from_utf8(message.value_bytes()).expect("JSON").to_owned();
        let at = text.rfind("\"signature\":").expect("a signature");
        (text[..at].to_owned(), text[at..].to_owned())
    };
    let other = (n + messages.len() - 1) % messages.len();
    let raw = signature(&messages[n]).0 + &signature(&messages[other]).1;
    Unverified::parse(raw.as_bytes()).expect("a message in form")
}

criterion_group!(benches, reading, verifying, batches);
criterion_main!(benches);
