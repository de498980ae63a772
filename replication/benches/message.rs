//! How fast messages are read, canonicalised and named, and how fast they are verified.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hawsepipe_replication::message::{
    Message, Tip, Unverified, parse_batch, sign, validate_batch, verify_batch,
};
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
    let feeds = (1..=FEEDS).flat_map(|seed| {
        let keypair = Keypair::from_seed(&[seed; 32]).expect("a seed of 32 bytes");
        let mut tip: Option<Tip> = None;
        (0..MESSAGES).map(move |n| {
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
    group.bench_function("verify a batch, all cores", |b| {
        b.iter_batched(|| unverified.clone(), |batch| verify_batch(batch, None), BatchSize::LargeInput);
    });
    group.bench_function("validate a batch, all cores", |b| {
        b.iter_batched(
            || unverified.clone(),
            |batch| validate_batch(batch, None, |_| None),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, reading, verifying);
criterion_main!(benches);
