//! `bench private`: trial decryption. Nothing tells for whom a private message is, so a peer tries each. A tenth of
//! these are for the reader; ours on all cores, JavaScript's on the one that it has.

use std::fs;
use std::process::Command;

use hawsepipe_replication::message::{Message, Tip, sign};
use hawsepipe_replication::private::{Keyring, seal_box1};
use hawsepipe_replication::refs::FeedId;
use hawsepipe_tests::usage::Usage;
use hawsepipe_tests::{package_dir, wait};
use ssb_crypto::Keypair;

use super::figures::{Figures, Row};
use super::subject::Kind;
use super::{Bench, say};

/// One in so many is for the reader.
const OURS: usize = 10;

/// Sealed messages and who reads them.
struct Sealed {
    reader: Keypair,
    messages: Vec<Message>,
}

pub(super) fn measure(bench: &Bench, count: usize, figures: &mut Figures) {
    let sealed = seal(count);
    let file = bench.host.dir().join("sealed");
    let lines: Vec<&str> = sealed.messages.iter().map(|m| m.content_json().trim_matches('"')).collect();
    fs::write(&file, lines.join("\n")).expect("the lab's folder is writable");
    bench.interleave(|kind, round| {
        let (rate, per_core) = match kind {
            Kind::Ours => ours(&sealed),
            Kind::Classic => theirs("classic", &file, &sealed.reader),
            Kind::Db2 => theirs("manyverse", &file, &sealed.reader),
        };
        figures.add(Row::Unbox, kind, rate);
        figures.add(Row::UnboxPerCpu, kind, per_core);
        let name = kind.name();
        say(format_args!("private {}: {name}: {rate:.0} msg/s, {per_core:.0} per CPU second", round + 1));
    });
}

fn seal(count: usize) -> Sealed {
    let [reader, author, other, third] =
        [1, 2, 3, 4].map(|n| Keypair::from_seed(&[n; 32]).expect("32 bytes are a seed"));
    let feed = |keypair: &Keypair| FeedId::from_bytes(keypair.public.0);
    let mut tip: Option<Tip> = None;
    let messages = (0..count).map(|n| {
        let text = format!(r#"{{"type":"post","text":"{}"}}"#, "Between you and me. ".repeat(1 + n % 40));
        let second = if n % OURS == 0 { &reader } else { &third };
        let content = seal_box1(text.as_bytes(), &[feed(&author), feed(&other), feed(second)]);
        let content = content.expect("three recipients have room");
        let message = sign(&author, None, tip.as_ref(), n as f64, &content).expect("it is a message");
        tip = Some(message.tip());
        message
    });
    let messages = messages.collect();
    Sealed { reader, messages }
}

/// Messages a second, and a second of processor time.
fn ours(sealed: &Sealed) -> (f64, f64) {
    let keyring = Keyring::new(&sealed.reader);
    let cpu = Usage::of(std::process::id()).cpu;
    let started = wait::now();
    let opened = keyring.open_all(&sealed.messages);
    let took = wait::now() - started;
    let cpu = Usage::of(std::process::id()).cpu - cpu;
    let count = opened.iter().flatten().count();
    assert_eq!(count, sealed.messages.len().div_ceil(OURS));
    let total = sealed.messages.len() as f64;
    (total / took.as_secs_f64(), total / cpu)
}

fn theirs(folder: &str, file: &std::path::Path, reader: &Keypair) -> (f64, f64) {
    let script = package_dir().join("js/unbox.js");
    let secret = reader.as_base64();
    let output = Command::new("node").arg(script).arg(folder).arg(file).arg(secret).output();
    let output = output.expect("node is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    let figures: Vec<f64> = text.split_whitespace().filter_map(|figure| figure.parse().ok()).collect();
    let [rate, per_core] = figures[..] else { panic!("{text}{}", String::from_utf8_lossy(&output.stderr)) };
    (rate, per_core)
}
