//! Tests of the whole store on a real index and a real or a fake disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::disk::Disk;
use super::fake_disk::{Dice, FakeDisk};
use super::open::{open_on, prepare};
use super::tables::Tables;
use super::*;
use crate::message::Tip;
use crate::refs::FeedId;

mod check;
mod crash;
mod damage;
mod erase;
mod queries;
mod rewrite;

/// Few messages make many checkpoints and segments.
fn small() -> Options {
    Options { segment_bytes: 6000, checkpoint_messages: 7, cache_bytes: 1 << 20 }
}

fn no_progress() -> impl FnMut(u64, u64) {
    |_, _| {}
}

fn open_fake(disk: &FakeDisk, dir: &Path) -> Result<(Writer, Reader), OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    open_on(disk, &dir.join("index"), prepare(dir)?, &small(), &mut no_progress())
}

/// Writes feeds whose messages are canonical but not signed, which the store does not look at.
#[derive(Clone, Debug, Default)]
struct Authors {
    tips: BTreeMap<FeedId, Tip>,
}

fn author(n: u8) -> FeedId {
    FeedId::from_bytes([n; 32])
}

impl Authors {
    /// The next message of feed `n`.
    fn write(&mut self, n: u8, claimed: f64, content: &str) -> Message {
        let tip = self.tips.get(&author(n)).copied();
        let message = unsigned(author(n), tip, claimed, content);
        self.tips.insert(author(n), message.tip());
        message
    }

    /// A message of some feed with some content.
    fn write_any(&mut self, dice: &mut Dice) -> Message {
        let n = dice.below(5) as u8;
        let claimed = 1000.0 + dice.below(500) as f64 / 4.0;
        let text = "x".repeat(dice.below(200) as usize);
        let contact = author(dice.below(5) as u8);
        let content = match dice.below(5) {
            0 => format!(r#"{{"type":"contact","contact":"{contact}","following":true}}"#),
            1 => format!(r#"{{"type":"odd","contact":"{contact}"}}"#),
            2 => r#""c2VjcmV0.box""#.to_owned(),
            _ => format!(r#"{{"type":"post","text":"{text}"}}"#),
        };
        self.write(n, claimed, &content)
    }
}

fn unsigned(author: FeedId, tip: Option<Tip>, claimed: f64, content: &str) -> Message {
    let previous = tip.map_or("null".to_owned(), |tip| format!("\"{}\"", tip.id));
    let sequence = tip.map_or(1, |tip| tip.sequence + 1);
    let signature = "A".repeat(86);
    let value = format!(
        r#"{{"previous":{previous},"sequence":{sequence},"author":"{author}","timestamp":{claimed},"hash":"sha256","content":{content},"signature":"{signature}==.sig.ed25519"}}"#
    );
    let id = MessageId::from_bytes(Sha256::digest(&value).into());
    Message::from_trusted(id, Bytes::from(value)).unwrap()
}

/// Everything that readers see, in receive order.
fn contents(reader: &Reader) -> Vec<Stored> {
    reader.log(.., Order::Ascending).unwrap().collect::<Result<_, _>>().unwrap()
}

fn messages(reader: &Reader) -> Vec<Message> {
    contents(reader).into_iter().map(|stored| stored.message).collect()
}

/// A copy of the index folder as a crash would leave it.
fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
