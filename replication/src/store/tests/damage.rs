use super::*;
use crate::store::log::recover::RecoverError;

const FIRST: &str = "0000000000000000.log";

/// A store of one segment on a fake disk, its index on a real one, committed in these batches.
fn filled(batches: &[usize]) -> (FakeDisk, TempDir, Vec<Message>) {
    let (disk, dir) = (FakeDisk::default(), TempDir::new().unwrap());
    let mut dice = Dice::new(7);
    let mut authors = Authors::default();
    let (mut writer, reader) = open_fake(&disk, dir.path()).unwrap();
    for n in batches {
        let batch = (0..*n).map(|_| authors.write_any(&mut dice)).collect();
        writer.commit(batch, 2000.0).unwrap();
    }
    let all = messages(&reader);
    drop((writer, reader));
    (disk, dir, all)
}

fn without_index(disk: &FakeDisk) -> (Result<(Writer, Reader), OpenError>, TempDir) {
    let dir = TempDir::new().unwrap();
    (open_fake(disk, dir.path()), dir)
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_saved_and_reported() {
    let (disk, _dir, all) = filled(&[3, 1]);
    let whole = disk.bytes(FIRST);
    let last_len = 104 + all[3].value_bytes().len();
    let start = whole.len() - last_len;
    for cut in 0..last_len {
        let torn = disk.copy();
        torn.set_bytes(FIRST, whole[..start + cut].to_vec());
        let (opened, _dir) = without_index(&torn);
        let (mut writer, reader) = opened.unwrap();
        assert_eq!(messages(&reader), all[..3], "cut at {cut}");
        let report = writer.opened().cut.clone();
        if cut == 0 {
            assert_eq!(report, None);
        } else {
            let report = report.unwrap();
            assert_eq!((report.offset, report.bytes), (start as u64, cut as u64));
            assert_eq!(torn.bytes(&format!("{FIRST}.damaged-1")), whole[start..start + cut]);
        }
        // The store goes on where it was cut.
        assert_eq!(writer.commit(vec![all[3].clone()], 2000.0).unwrap().refused, []);
        assert_eq!(messages(&reader), all);
    }
}

#[test]
fn damage_of_acknowledged_bytes_is_an_error_that_names_the_place_and_touches_nothing() {
    let (disk, _dir, all) = filled(&[2, 2, 2]);
    let whole = disk.bytes(FIRST);
    let mut start = 32;
    for (i, message) in all.iter().enumerate() {
        let damaged = disk.copy();
        let mut bytes = whole.clone();
        bytes[start + 50] ^= 1;
        damaged.set_bytes(FIRST, bytes.clone());
        let (opened, _dir) = without_index(&damaged);
        if i < 4 {
            // A later batch proves that this one had been synced.
            let error = opened.map(drop).unwrap_err();
            let OpenError::Log(RecoverError::Damaged { offset, .. }) = error else { panic!("{error}") };
            assert_eq!(offset, start as u64);
            assert!(error.to_string().contains("hawsepipe check"), "{error}");
            assert_eq!(damaged.bytes(FIRST), bytes);
        } else {
            // Nothing does, so it may be the write that a crash interrupted.
            let (writer, reader) = opened.unwrap();
            assert_eq!(writer.opened().cut.as_ref().unwrap().offset, start as u64);
            assert_eq!(messages(&reader), all[..i]);
        }
        start += 104 + message.value_bytes().len();
    }
}

#[test]
fn damage_below_a_checkpoint_is_found_when_it_is_read_or_at_the_last_record() {
    let (disk, dir, all) = filled(&[6]);
    let mut bytes = disk.bytes(FIRST);
    bytes[32 + 50] ^= 1;
    disk.set_bytes(FIRST, bytes.clone());
    let (writer, reader) = open_fake(&disk, dir.path()).unwrap();
    assert!(matches!(reader.get(&all[0].id()), Err(ReadError::Damaged { offset: 32, .. }) | Ok(None)));
    let found: Vec<_> = reader.log(.., Order::Ascending).unwrap().collect();
    assert!(matches!(found[..], [Err(ReadError::Damaged { offset: 32, .. })]), "{found:?}");
    assert_eq!(reader.get(&all[5].id()).unwrap().unwrap().message, all[5]);
    drop((writer, reader));

    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    disk.set_bytes(FIRST, bytes);
    let error = open_fake(&disk, dir.path()).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Log(RecoverError::Damaged { .. })), "{error}");
}

#[test]
fn a_full_disk_refuses_the_batch_and_nothing_else() {
    for room in (0..700).step_by(7) {
        let (disk, dir, mut all) = filled(&[5]);
        let before = disk.bytes(FIRST);
        let (mut writer, reader) = open_fake(&disk, dir.path()).unwrap();
        let mut authors = Authors { tips: all.iter().map(|m| (m.author(), m.tip())).collect() };
        let batch: Vec<Message> =
            (0..5).map(|_| authors.write(3, 1.0, r#"{"type":"post","text":"aaaa"}"#)).collect();
        disk.set_room(Some(room));
        let refused = writer.commit(batch.clone(), 3000.0);
        assert!(matches!(refused, Err(AppendError::Full(_))), "{refused:?}");
        assert_eq!(disk.bytes(FIRST), before);
        assert_eq!(messages(&reader), all);
        assert_eq!(reader.get(&all[2].id()).unwrap().unwrap().message, all[2]);
        disk.set_room(None);
        assert_eq!(writer.commit(batch.clone(), 3000.0).unwrap().refused, []);
        all.extend(batch);
        assert_eq!(messages(&reader), all);
        if room % 70 > 0 {
            continue;
        }
        drop((writer, reader));
        let (_writer, reader) = open_fake(&disk, dir.path()).unwrap();
        assert_eq!(messages(&reader), all);
    }
}

#[test]
fn a_disk_that_is_full_when_a_segment_begins_is_no_different() {
    let (disk, dir, mut all) = filled(&[40]);
    let (mut writer, reader) = open_fake(&disk, dir.path()).unwrap();
    let mut authors = Authors { tips: all.iter().map(|m| (m.author(), m.tip())).collect() };
    let message = authors.write(3, 1.0, r#"{"type":"post"}"#);
    assert!(disk.bytes(FIRST).len() > 6000, "the next message begins a segment");
    for room in [0, 10, 32, 40] {
        disk.set_room(Some(room));
        assert!(matches!(writer.commit(vec![message.clone()], 3000.0), Err(AppendError::Full(_))));
        assert_eq!(messages(&reader), all);
        let (opened, _dir) = without_index(&disk.copy());
        assert_eq!(messages(&opened.unwrap().1), all, "the half-made segment does no harm");
    }
    disk.set_room(None);
    writer.commit(vec![message.clone()], 3000.0).unwrap();
    all.push(message);
    assert_eq!(messages(&reader), all);
    assert_eq!(disk.names().unwrap().len(), 2);
}

#[test]
fn a_sync_that_fails_stores_nothing_and_the_next_may_succeed() {
    let (disk, dir, mut all) = filled(&[5]);
    let (mut writer, reader) = open_fake(&disk, dir.path()).unwrap();
    let mut authors = Authors { tips: all.iter().map(|m| (m.author(), m.tip())).collect() };
    let batch: Vec<Message> = (0..3).map(|_| authors.write(2, 1.0, r#"{"type":"post"}"#)).collect();
    disk.set_sync_fails(true);
    assert!(matches!(writer.commit(batch.clone(), 3000.0), Err(AppendError::Io(_))));
    assert_eq!(messages(&reader), all);
    disk.set_sync_fails(false);
    assert_eq!(writer.commit(batch.clone(), 3000.0).unwrap().refused, []);
    all.extend(batch);
    assert_eq!(messages(&reader), all);
}

#[test]
fn an_index_that_is_older_missing_broken_or_foreign_is_brought_up_to_date() {
    let (disk, dir) = (FakeDisk::default(), TempDir::new().unwrap());
    let (mut dice, mut authors) = (Dice::new(3), Authors::default());
    let mut older = Vec::new();
    for _ in 0..12 {
        let (mut writer, reader) = open_fake(&disk, dir.path()).unwrap();
        writer.commit((0..9).map(|_| authors.write_any(&mut dice)).collect(), 2000.0).unwrap();
        drop((writer, reader));
        let copy = TempDir::new().unwrap();
        copy_dir(&dir.path().join("index"), &copy.path().join("index"));
        older.push(copy);
    }
    let (writer, reader) = open_fake(&disk, dir.path()).unwrap();
    let (expected, audit) = (contents(&reader), reader.audit());
    drop((writer, reader));

    let (_other, foreign, _) = filled(&[10]);
    let broken = TempDir::new().unwrap();
    copy_dir(&dir.path().join("index"), &broken.path().join("index"));
    std::fs::write(broken.path().join("index/db"), [0x5A; 4000]).unwrap();
    let cases = older.into_iter().map(|dir| (dir, None)).chain([
        (TempDir::new().unwrap(), Some("Missing")),
        (broken, Some("Unreadable")),
        (foreign, Some("OtherLog")),
    ]);
    for (n, (dir, rebuilt)) in cases.enumerate() {
        let (mut writer, reader) = open_fake(&disk, dir.path()).unwrap();
        let report = writer.opened().clone();
        let why = report.rebuilt.as_ref().map(|why| format!("{why:?}"));
        match rebuilt {
            None => assert_eq!((why, report.indexed), (None, 9 * (11 - n as u64))),
            Some(rebuilt) => assert!(why.clone().unwrap().starts_with(rebuilt), "{why:?}"),
        }
        assert_eq!(contents(&reader), expected);
        writer.checkpoint().unwrap();
        assert_eq!(reader.audit(), audit);
    }
}

#[test]
fn a_log_that_lost_its_end_is_noticed() {
    let (disk, dir, all) = filled(&[3, 2]);
    let bytes = disk.bytes(FIRST);
    disk.set_bytes(FIRST, bytes[..bytes.len() - 104 - all[4].value_bytes().len()].to_vec());
    let (writer, reader) = open_fake(&disk, dir.path()).unwrap();
    assert!(matches!(writer.opened().rebuilt, Some(Rebuilt::LogIsShorter { .. })));
    assert!(writer.opened().lost_acknowledged());
    assert_eq!(messages(&reader), all[..4]);
}

#[test]
fn a_missing_segment_is_an_error() {
    let (disk, _dir, _all) = filled(&[40, 40, 40]);
    let mut names = disk.names().unwrap();
    names.sort();
    assert!(names.len() >= 3, "{names:?}");
    let rest = FakeDisk::default();
    for name in names.iter().filter(|name| **name != names[1]) {
        rest.set_bytes(name, disk.bytes(name));
    }
    let (opened, _dir) = without_index(&rest);
    let error = opened.map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Log(RecoverError::Missing { .. })), "{error}");
}

#[test]
fn a_log_of_a_newer_format_is_left_alone() {
    let (disk, _dir, _all) = filled(&[1]);
    let mut bytes = disk.bytes(FIRST);
    bytes[8] = 2;
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    disk.set_bytes(FIRST, bytes);
    let (opened, _dir) = without_index(&disk);
    let error = opened.map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Log(RecoverError::Newer { version: 2, .. })), "{error}");
}
