use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::*;

struct Place {
    dir: TempDir,
    store: BlobStore,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        Self { dir, store }
    }

    fn add(&self, bytes: &[u8]) -> BlobId {
        let mut incoming = self.store.create(None, 1 << 20).unwrap();
        incoming.write(bytes).unwrap();
        incoming.finish().unwrap().0.id
    }

    fn unfinished(&self) -> usize {
        fs::read_dir(self.dir.path().join("blobs/tmp")).unwrap().count()
    }

    /// Says when a blob was last used.
    fn used(&self, id: &BlobId, at: SystemTime) {
        let file = File::open(self.store.place(id).1).unwrap();
        file.set_times(FileTimes::new().set_accessed(at)).unwrap();
    }

    fn has(&self, id: &BlobId) -> bool {
        self.store.size(id).unwrap().is_some()
    }
}

fn open(dir: &TempDir) -> BlobStore {
    BlobStore::open(&dir.path().join("blobs"), &dir.path().join("hawsepipe/blobs")).unwrap()
}

fn id_of(bytes: &[u8]) -> BlobId {
    BlobId::from_bytes(Sha256::digest(bytes).into())
}

#[test]
fn the_layout_is_that_of_js() {
    let place = Place::new();
    assert_eq!(place.add(b"abc"), id_of(b"abc"));
    let file = "blobs/sha256/ba/7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(fs::read(place.dir.path().join(file)).unwrap(), b"abc");
    assert_eq!(place.unfinished(), 0);
}

#[test]
fn what_js_has_written_is_found_and_what_is_no_blob_is_passed_over() {
    let place = Place::new();
    let folder = place.dir.path().join("blobs/sha256/ba");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"), b"abc").unwrap();
    fs::write(folder.join("short"), b"x").unwrap();
    fs::write(place.dir.path().join("blobs/sha256/stray"), b"x").unwrap();
    let listed: Vec<_> = place.store.list().map(|(meta, _)| (meta.id, meta.size)).collect();
    assert_eq!(listed, [(id_of(b"abc"), 3)]);
    assert_eq!(place.store.count(), Totals { count: 1, bytes: 3 });
    let meta = place.store.meta(&id_of(b"abc")).unwrap().unwrap();
    assert!(meta.ts > 1.6e12, "{meta:?}");
}

#[test]
fn the_empty_blob_is_always_there() {
    let place = Place::new();
    assert_eq!(id_of(b""), EMPTY);
    assert_eq!(place.store.size(&EMPTY).unwrap(), Some(0));
    let blob = place.store.read(&EMPTY, 0).unwrap().unwrap();
    assert_eq!((blob.size(), blob.read_at(0, 10).unwrap()), (0, Vec::new()));
    assert_eq!(place.add(b""), EMPTY);
    assert_eq!((place.store.count(), place.unfinished()), (Totals::default(), 0), "it takes no place");
}

#[test]
fn nothing_is_kept_of_what_is_wrong_too_large_or_broken_off() {
    let place = Place::new();
    let wrong = |expected, max: u64, bytes: &[u8]| {
        let mut incoming = place.store.create(Some(expected), max).unwrap();
        incoming.write(bytes)?;
        incoming.finish().map(drop)
    };
    let error = wrong(id_of(b"one"), 100, b"other").unwrap_err();
    let text = format!("actual hash:{} did not match expected id:{}", id_of(b"other"), id_of(b"one"));
    assert_eq!(error.to_string(), text);
    assert!(matches!(wrong(id_of(b"four"), 4, b"four"), Err(BlobError::TooLarge)), "max is too large");
    assert!(wrong(id_of(b"four"), 5, b"four").is_ok());
    drop(place.store.create(None, 100).unwrap());
    assert_eq!((place.store.count().count, place.unfinished()), (1, 0));
}

#[test]
fn what_a_killed_program_left_is_thrown_away() {
    let place = Place::new();
    std::mem::forget(place.store.create(None, 100).unwrap());
    assert_eq!(place.unfinished(), 1);
    let store = open(&place.dir);
    assert_eq!((place.unfinished(), store.count().count), (0, 0));
}

#[test]
fn a_damaged_blob_is_replaced_by_a_good_one() {
    let place = Place::new();
    let id = place.add(b"whole");
    fs::write(place.store.place(&id).1, b"wh").unwrap();
    place.add(b"whole");
    assert_eq!(place.store.read(&id, 0).unwrap().unwrap().read_at(0, 9).unwrap(), b"whole");
}

#[test]
fn a_blob_that_becomes_shorter_while_it_is_read_is_an_error() {
    let place = Place::new();
    let id = place.add(b"long enough");
    let blob = place.store.read(&id, 0).unwrap().unwrap();
    fs::write(place.store.place(&id).1, b"long").unwrap();
    assert!(blob.read_at(0, 100).is_err());
}

#[test]
fn what_was_not_used_for_longest_goes_first_and_what_is_marked_stays() {
    let place = Place::new();
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let ids: Vec<_> = (0..10).map(|n| place.add(&[n; 100])).collect();
    for (n, id) in ids.iter().enumerate() {
        place.used(id, start + Duration::from_secs(n as u64));
    }
    place.store.mark(&ids[0], Mark::Own).unwrap();
    place.store.mark(&ids[1], Mark::Pushed).unwrap();
    place.store.mark(&ids[2], Mark::Pinned).unwrap();
    let spare = BTreeSet::from([ids[3]]);
    assert_eq!(place.store.evict(1000, &spare).unwrap().ids, [], "it fits");
    // Down to nine tenths of 700.
    let evicted = place.store.evict(700, &spare).unwrap();
    assert_eq!(evicted.ids, ids[4..8]);
    assert_eq!(evicted.left, Totals { count: 6, bytes: 600 });
    let evicted = place.store.evict(100, &spare).unwrap();
    assert_eq!(evicted.ids, ids[8..]);
    assert_eq!(evicted.left.bytes, 400, "more than the quota, but nothing may go");
    assert!(ids[..4].iter().all(|id| place.has(id)));
}

#[test]
fn serving_a_blob_keeps_it_from_being_the_next_to_go() {
    let place = Place::new();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let ids = [place.add(&[1; 100]), place.add(&[2; 100])];
    place.used(&ids[0], old);
    place.used(&ids[1], old + Duration::from_secs(60));
    place.store.read(&ids[0], 1_000_100_000_000).unwrap();
    assert_eq!(place.store.evict(150, &BTreeSet::new()).unwrap().ids, [ids[1]]);
}

#[test]
fn marks_survive_a_restart_and_go_with_the_blob() {
    let place = Place::new();
    let id = place.add(b"mine");
    place.store.mark(&id, Mark::Pushed).unwrap();
    place.store.mark(&id, Mark::Own).unwrap();
    let store = open(&place.dir);
    assert_eq!(store.marked(Mark::Pushed), [id]);
    assert!(store.unmark(&id, Mark::Pushed).unwrap());
    assert!(!store.unmark(&id, Mark::Pushed).unwrap());
    assert!(store.remove(&id).unwrap());
    assert!(!store.remove(&id).unwrap());
    assert!(!store.is_marked(&id, Mark::Own));
}

proptest! {
    #[test]
    fn what_is_written_in_any_pieces_is_read_in_any_pieces(
        bytes in proptest::collection::vec(any::<u8>(), 1..5000),
        piece in 1usize..700,
        step in 1usize..700,
    ) {
        let place = Place::new();
        let mut incoming = place.store.create(Some(id_of(&bytes)), 5001).unwrap();
        bytes.chunks(piece).for_each(|piece| incoming.write(piece).unwrap());
        let (meta, new) = incoming.finish().unwrap();
        prop_assert_eq!((meta.size, new), (bytes.len() as u64, true));
        let blob = place.store.read(&meta.id, 0).unwrap().unwrap();
        let mut read = Vec::new();
        while read.len() < bytes.len() {
            read.extend(blob.read_at(read.len() as u64, step).unwrap());
        }
        prop_assert_eq!(&read, &bytes);
        prop_assert!(blob.read_at(bytes.len() as u64 + 7, step).unwrap().is_empty());
    }
}
