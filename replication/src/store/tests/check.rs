use std::collections::BTreeSet;
use std::sync::Once;

use super::*;
use crate::message::sign;
use ssb_crypto::Keypair;

/// Signed messages of three feeds, taking turns.
fn signed(n: usize) -> Vec<Message> {
    static SODIUM: Once = Once::new();
    SODIUM.call_once(|| ssb_crypto::sodium::init().unwrap());
    let keys: Vec<Keypair> = (1..=3).map(|n| Keypair::from_seed(&[n; 32]).unwrap()).collect();
    let mut tips = [None; 3];
    let write = |i: usize| {
        let content = format!(r#"{{"type":"post","text":"{}"}}"#, "x".repeat(i * 37 % 200));
        let message =
            sign(&keys[i % 3], None, tips[i % 3].as_ref(), i as f64 + 1.0, content.as_bytes()).unwrap();
        tips[i % 3] = Some(message.tip());
        message
    };
    (0..n).map(write).collect()
}

fn store_of(all: &[Message]) -> TempDir {
    let dir = TempDir::new().unwrap();
    let (mut writer, _reader) = Store::open(dir.path(), &small(), &mut no_progress()).unwrap();
    for batch in all.chunks(5) {
        assert_eq!(writer.commit(batch.to_vec(), 100.0).unwrap().refused, []);
    }
    dir
}

fn check(dir: &Path, repair: bool) -> CheckReport {
    let options = CheckOptions { hmac: None, repair, store: small() };
    Store::check(dir, &options, &mut no_progress()).unwrap()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().unwrap() == "log").collect();
    paths.sort();
    paths
}

/// After a repair the store is clean, holds a prefix of each feed, and takes the rest again.
fn assert_mended(dir: &Path, all: &[Message]) {
    let report = check(dir, true);
    assert!(report.repaired && !report.is_clean());
    let after = check(dir, false);
    assert!(after.is_clean(), "{:?}", after.findings);
    let (mut writer, reader) = Store::open(dir, &small(), &mut no_progress()).unwrap();
    assert_eq!(reader.len(), after.messages);
    let appended = writer.commit(all.to_vec(), 200.0).unwrap();
    assert_eq!(appended.stored.len() as u64 + after.messages, all.len() as u64);
    for message in all {
        assert_eq!(reader.get(&message.id()).unwrap().unwrap().message, *message);
        assert_eq!(reader.at(&message.author(), message.sequence()).unwrap().unwrap().message, *message);
    }
    drop((writer, reader));
    assert!(check(dir, false).is_clean());
}

#[test]
fn a_good_store_is_clean_before_and_after_its_checkpoint() {
    let all = signed(40);
    let dir = store_of(&all);
    let report = check(dir.path(), false);
    assert!(report.is_clean(), "{:?}", report.findings);
    assert_eq!((report.messages, report.feeds), (40, 3));
}

#[test]
fn any_flipped_bit_in_the_log_is_found_and_repaired() {
    let all = signed(40);
    let whole = store_of(&all);
    let mut dice = Dice::new(11);
    for _ in 0..40 {
        let dir = TempDir::new().unwrap();
        copy_dir(whole.path(), dir.path());
        let paths = segments(dir.path());
        let path = &paths[dice.below(paths.len() as u64) as usize];
        let mut bytes = std::fs::read(path).unwrap();
        let at = dice.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << dice.below(8);
        std::fs::write(path, bytes).unwrap();
        let report = check(dir.path(), false);
        assert!(!report.is_clean(), "byte {at} of {}", path.display());
        assert!(report.findings.iter().any(|finding| finding.path == *path), "{:?}", report.findings);
        assert_mended(dir.path(), &all);
    }
}

#[test]
fn a_missing_or_short_segment_is_found_and_repaired() {
    let all = signed(60);
    let whole = store_of(&all);
    for n in 0..segments(whole.path()).len() - 1 {
        for keep in [None, Some(0), Some(20), Some(32), Some(700)] {
            let dir = TempDir::new().unwrap();
            copy_dir(whole.path(), dir.path());
            let path = &segments(dir.path())[n];
            match keep {
                None => std::fs::remove_file(path).unwrap(),
                Some(len) => File::options().write(true).open(path).unwrap().set_len(len).unwrap(),
            }
            assert_mended(dir.path(), &all);
        }
    }
}

#[test]
fn a_forged_message_is_found_and_what_follows_it_is_asked_for_again() {
    let all = signed(30);
    // Its chain fits, its signature does not.
    let forged = unsigned(all[12].author(), Some(all[9].tip()), 13.0, r#"{"type":"post"}"#);
    let dir = TempDir::new().unwrap();
    let (mut writer, reader) = Store::open(dir.path(), &small(), &mut no_progress()).unwrap();
    writer.commit(all[..12].to_vec(), 100.0).unwrap();
    writer.commit(vec![forged.clone()], 100.0).unwrap();
    writer
        .commit(vec![unsigned(forged.author(), Some(forged.tip()), 14.0, r#"{"type":"post"}"#)], 100.0)
        .unwrap();
    drop((writer, reader));
    let problems: Vec<Problem> = check(dir.path(), false).findings.into_iter().map(|f| f.problem).collect();
    assert!(
        matches!(problems[..], [Problem::Invalid { .. }, Problem::Orphan { .. }, Problem::Index { .. }, ..]),
        "{problems:?}"
    );
    assert_mended(dir.path(), &all);
}

#[test]
fn an_index_that_says_something_else_is_found_and_made_again() {
    let all = signed(40);
    let dir = store_of(&all);
    let tables = Tables::open_as_it_is(&dir.path().join("index"), 1 << 20).unwrap();
    let (key, _) = tables.tree.scan_prefix([4]).next_back().unwrap().unwrap();
    tables.tree.remove(key).unwrap();
    drop(tables);
    let report = check(dir.path(), false);
    assert!(!report.is_clean());
    assert_mended(dir.path(), &all);
}

#[test]
fn an_unfinished_write_is_found_and_saved() {
    let all = signed(10);
    let dir = store_of(&all);
    let path = &segments(dir.path())[0];
    let mut bytes = std::fs::read(path).unwrap();
    bytes.extend_from_slice(&[0xFF, 0xA7, 1, 0, 9]);
    std::fs::write(path, bytes).unwrap();
    let problems: Vec<Problem> = check(dir.path(), false).findings.into_iter().map(|f| f.problem).collect();
    assert!(matches!(problems[..], [Problem::UnfinishedWrite { .. }]), "{problems:?}");
    assert_mended(dir.path(), &all);
}

/// What is left of an erased message is verified by its place in the chain.
#[test]
fn a_store_with_erased_messages_is_clean_and_stays_so_when_it_is_mended_or_written_anew() {
    let all = signed(40);
    let dir = store_of(&all);
    let (mut writer, reader) = Store::open(dir.path(), &small(), &mut no_progress()).unwrap();
    drop(reader);
    assert_eq!(writer.erase(&[all[4].id(), all[17].id(), all[39].id()]).unwrap(), 3);
    writer.close().unwrap();
    let report = check(dir.path(), false);
    assert!(report.is_clean() && report.messages == 40, "{:?}", report.findings);
    Store::rewrite(dir.path(), &BTreeSet::new(), &small(), &mut no_progress()).unwrap();
    assert!(check(dir.path(), false).is_clean());

    // Another feed's erased message is no good in its place.
    let first = segments(dir.path()).remove(0);
    let mut bytes = std::fs::read(&first).unwrap();
    let other = all[0].author().as_bytes().to_vec();
    let erased = bytes.windows(3).position(|w| w == [0xFF, 0xA7, 3]).unwrap();
    bytes[erased + 40..erased + 72].copy_from_slice(&other);
    let len = u32::from_le_bytes(bytes[erased + 4..erased + 8].try_into().unwrap()) as usize;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[erased..erased + 8]);
    hasher.update(&bytes[erased + 12..erased + len]);
    bytes[erased + 8..erased + 12].copy_from_slice(&hasher.finalize().to_le_bytes());
    std::fs::write(&first, bytes).unwrap();
    let report = check(dir.path(), true);
    assert!(!report.is_clean() && report.repaired);
    assert!(check(dir.path(), false).is_clean());
}
