//! Feeds are deleted, and a crash leaves one log or the other.

use std::collections::BTreeSet;

use super::*;
use crate::store::disk::Folder;
use crate::store::log;
use crate::store::log::recover::Layout;
use crate::store::rewrite::{Folders, STEPS, write_new};

/// A store with five feeds in several segments.
fn filled() -> (TempDir, Vec<Stored>) {
    let dir = TempDir::new().unwrap();
    let (mut dice, mut authors) = (Dice::new(7), Authors::default());
    let (mut writer, _reader) = Store::open(dir.path(), &small(), &mut no_progress()).unwrap();
    let mut stored = Vec::new();
    for _ in 0..20 {
        let batch = (0..10).map(|_| authors.write_any(&mut dice)).collect();
        stored.extend(writer.commit(batch, 1.0).unwrap().stored);
    }
    (dir, stored)
}

fn all(stored: &[Stored]) -> Vec<Message> {
    stored.iter().map(|stored| stored.message.clone()).collect()
}

fn others(stored: &[Stored]) -> Vec<Message> {
    all(stored).into_iter().filter(|message| message.author() != author(2)).collect()
}

fn opened(dir: &TempDir) -> (Vec<Message>, OpenReport) {
    let (writer, reader) = Store::open(dir.path(), &small(), &mut no_progress()).unwrap();
    (messages(&reader), writer.opened().clone())
}

#[test]
fn a_deleted_feed_is_gone_and_its_space_is_back() {
    let (dir, stored) = filled();
    std::fs::write(dir.path().join("log/0000000000000000.log.damaged-1"), "kept").unwrap();
    let without = BTreeSet::from([author(2)]);
    let done = Store::rewrite(dir.path(), &without, &small(), &mut no_progress()).unwrap();
    let rest = others(&stored);
    assert_eq!((done.kept, done.deleted), (rest.len() as u64, (stored.len() - rest.len()) as u64));
    assert!(done.deleted > 10 && done.bytes_after < done.bytes_before);
    assert_eq!(done.beside.len(), 1);
    assert!(done.beside[0].exists());

    let (mut writer, reader) = Store::open(dir.path(), &small(), &mut no_progress()).unwrap();
    assert!(!writer.opened().lost_acknowledged());
    assert_eq!(messages(&reader), rest);
    assert_eq!(reader.tip(&author(2)), None);
    let log = reader.log(.., Order::Ascending).unwrap();
    let received: Vec<f64> = log.map(|stored| stored.unwrap().received).collect();
    let before = stored.iter().filter(|stored| stored.message.author() != author(2));
    assert_eq!(received, before.map(|stored| stored.received).collect::<Vec<_>>());
    // The feed may come again, from its beginning.
    let again = Authors::default().write(2, 5.0, r#"{"type":"post"}"#);
    assert_eq!(writer.commit(vec![again], 2.0).unwrap().stored.len(), 1);
    let on_disk = std::fs::read_dir(dir.path().join("log")).unwrap();
    let bytes =
        on_disk.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect::<Vec<_>>().concat();
    let deleted = all(&stored).into_iter().find(|message| message.author() == author(2)).unwrap();
    assert!(memchr::memmem::find(&bytes, deleted.value_bytes()).is_none(), "nothing of it is on the disk");
}

#[test]
fn a_crash_after_any_step_leaves_the_old_log_or_the_new_one() {
    let without = BTreeSet::from([author(2)]);
    for steps in 0..=STEPS.len() {
        let (dir, stored) = filled();
        let folders = Folders::of(dir.path());
        write_new(&folders, &without, &small(), &mut no_progress()).unwrap();
        STEPS[..steps].iter().for_each(|step| step(&folders).unwrap());
        let (found, report) = opened(&dir);
        let expected = if steps < 3 { all(&stored) } else { others(&stored) };
        assert_eq!(found, expected, "after {steps} steps");
        assert!(!report.lost_acknowledged(), "after {steps} steps");
        assert!(!folders.new.exists() && !folders.old.exists(), "after {steps} steps");
        // And it can be done again.
        Store::rewrite(dir.path(), &without, &small(), &mut no_progress()).unwrap();
        assert_eq!(opened(&dir).0, others(&stored));
    }
}

#[test]
fn what_is_void_takes_no_space_any_more() {
    let (dir, stored) = filled();
    let newest = stored.last().unwrap();
    let length = (log::record::HEAD + newest.message.value_bytes().len()) as u64;
    let layout = Layout::look(Arc::new(Folder::at(dir.path().join("log")).unwrap())).unwrap();
    let (base, file) = layout.files.last_key_value().unwrap();
    file.write_at(&log::record::void_head(length as u32), newest.offset - base).unwrap();
    let done = Store::rewrite(dir.path(), &BTreeSet::new(), &small(), &mut no_progress()).unwrap();
    assert_eq!((done.kept, done.deleted), (stored.len() as u64 - 1, 0));
    // Segments may have become fewer, too.
    assert!(done.bytes_after <= done.bytes_before - length, "{done:?}");
}

#[test]
fn a_damaged_log_is_not_rewritten() {
    let (dir, stored) = filled();
    let segment = dir.path().join("log/0000000000000000.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[300] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let done = Store::rewrite(dir.path(), &BTreeSet::new(), &small(), &mut no_progress());
    assert!(matches!(done, Err(OpenError::Log(RecoverError::Damaged { .. }))), "{done:?}");
    let (_writer, reader) = Store::open(dir.path(), &small(), &mut no_progress()).unwrap();
    assert_eq!(reader.len(), stored.len() as u64, "the old log is used");
    assert!(!dir.path().join("log.new").exists());
}
