//! Logs that are written here byte by byte, whole and damaged.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use ssb_crypto::Keypair;

use super::*;
use crate::message::{Message, Tip, sign};
use crate::store::{Options, Order, Store};

const NOW: f64 = 2_000_000_000_000.0;

/// Messages of `authors` feeds in turn.
fn written(authors: u8, each: u64) -> Vec<Message> {
    ssb_crypto::sodium::init().unwrap();
    let keypairs: Vec<Keypair> = (1..=authors).map(|n| Keypair::from_seed(&[n; 32]).unwrap()).collect();
    let mut tips: Vec<Option<Tip>> = vec![None; keypairs.len()];
    let mut messages = Vec::new();
    for n in 0..each {
        for (keypair, tip) in keypairs.iter().zip(&mut tips) {
            let content =
                format!(r#"{{"type":"post","text":"number {n} \u20ac","10":{n},"9":[1e21,null,{{}}]}}"#);
            let message = sign(keypair, None, tip.as_ref(), 1.0 + n as f64, content.as_bytes()).unwrap();
            *tip = Some(message.tip());
            messages.push(message);
        }
    }
    messages
}

fn lines(messages: &[Message]) -> Vec<u8> {
    let line = |(n, message): (usize, &Message)| {
        [message.key_value_timestamp(1000.0 + n as f64), b"\n".to_vec()].concat()
    };
    messages.iter().enumerate().flat_map(line).collect()
}

fn flume(records: &[Vec<u8>], width: usize) -> Vec<u8> {
    let mut log = Vec::new();
    for record in records {
        let length = (record.len() as u32).to_be_bytes();
        log.extend_from_slice(&length);
        log.extend_from_slice(record);
        log.extend_from_slice(&length);
        let end = (log.len() + width) as u64;
        log.extend_from_slice(&end.to_be_bytes()[8 - width..]);
    }
    log
}

fn records(messages: &[Message]) -> Vec<Vec<u8>> {
    messages.iter().enumerate().map(|(n, message)| message.key_value_timestamp(1000.0 + n as f64)).collect()
}

/// A folder with a store, and what is in it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn import(&self, open: impl Fn() -> Option<Box<dyn Log + Send>>) -> Report {
        let (mut writer, reader) =
            Store::open(&self.0.path().join("store"), &Options::default(), &mut |_, _| {}).unwrap();
        let into = Into { writer: &mut writer, reader: &reader, hmac: None, now: NOW };
        import(&mut || Ok(open()), into, &mut |done, total| assert!(done <= total)).unwrap()
    }

    fn import_lines(&self, text: &[u8]) -> Report {
        let path = self.file("lines", text);
        self.import(|| Some(Box::new(Lines::open(&path).unwrap())))
    }

    fn import_flume(&self, bytes: &[u8]) -> Report {
        let path = self.file("log.offset", bytes);
        self.import(|| Some(Box::new(FlumeLog::open(&path).unwrap())))
    }

    fn stored(&self) -> Vec<(MessageId, f64)> {
        let (_, reader) =
            Store::open(&self.0.path().join("store"), &Options::default(), &mut |_, _| {}).unwrap();
        let all = reader.log(.., Order::Ascending).unwrap();
        all.map(|stored| stored.unwrap()).map(|stored| (stored.message.id(), stored.received)).collect()
    }
}

fn ids(messages: &[Message]) -> Vec<MessageId> {
    messages.iter().map(Message::id).collect()
}

fn stored_ids(home: &Home) -> Vec<MessageId> {
    home.stored().into_iter().map(|(id, _)| id).collect()
}

#[test]
fn a_flume_log_is_imported_whatever_the_width_of_its_offsets() {
    let messages = written(3, 5);
    for width in [4, 6, 8] {
        let home = Home::new();
        let report = home.import_flume(&flume(&records(&messages), width));
        assert_eq!((report.stored, report.known, report.damages, report.refusals), (15, 0, 0, 0), "{width}");
        assert_eq!(report.grown.len(), 3);
        assert_eq!(stored_ids(&home), ids(&messages));
        let times: Vec<f64> = home.stored().into_iter().map(|(_, time)| time).collect();
        assert_eq!(times, (0..15).map(|n| 1000.0 + f64::from(n)).collect::<Vec<_>>());
    }
}

#[test]
fn importing_again_stores_nothing_and_goes_on_where_it_was_interrupted() {
    let messages = written(2, 10);
    let home = Home::new();
    assert_eq!(home.import_lines(&lines(&messages[..7])).stored, 7);
    let report = home.import_lines(&lines(&messages));
    assert_eq!((report.stored, report.known), (13, 7));
    let report = home.import_lines(&lines(&messages));
    assert_eq!((report.stored, report.known), (0, 20));
    // Without keys the ids have to be computed, and come to the same.
    let bare: Vec<u8> =
        messages.iter().flat_map(|message| [message.value_bytes().as_ref(), b"\n"].concat()).collect();
    let report = home.import_lines(&bare);
    assert_eq!((report.stored, report.known), (0, 20));
    assert_eq!(stored_ids(&home), ids(&messages));
}

#[test]
fn the_order_within_a_log_does_not_matter() {
    let mut messages = written(3, 40);
    let in_order = ids(&messages);
    messages.reverse();
    let home = Home::new();
    let report = home.import_lines(&lines(&messages));
    assert_eq!((report.stored, report.unplaced.len()), (120, 0));
    let mut stored = stored_ids(&home);
    stored.sort_unstable();
    assert_eq!(stored, sorted(in_order));
}

fn sorted(mut ids: Vec<MessageId>) -> Vec<MessageId> {
    ids.sort_unstable();
    ids
}

#[test]
fn a_log_that_is_far_out_of_order_is_read_more_than_once() {
    const ROOM: usize = 20_000;
    let mut messages = written(2, 100);
    let lost_one = messages.remove(1);
    messages.reverse();
    let text = lines(&messages);
    let import = |home: &Home, open: &dyn Fn() -> Option<Box<dyn Log + Send>>| {
        let (mut writer, reader) =
            Store::open(&home.0.path().join("store"), &Options::default(), &mut |_, _| {}).unwrap();
        let into = Into { writer: &mut writer, reader: &reader, hmac: None, now: NOW };
        work::import_with_room(ROOM, &mut || Ok(open()), into, &mut |_, _| {}).unwrap()
    };
    let home = Home::new();
    let readings = std::cell::Cell::new(0);
    let report = import(&home, &|| {
        readings.set(readings.get() + 1);
        Some(Box::new(Lines::of(Cursor::new(text.clone()))))
    });
    // Of the second feed the first message is missing; that does not keep the first feed from its turn.
    assert_eq!((report.stored, report.known), (100, 0));
    assert_eq!(report.unplaced, BTreeMap::from([(lost_one.author(), 99)]));
    assert!((3..12).contains(&readings.get()), "{}", readings.get());

    // What comes by a pipe cannot be read again: what found no room is lost, and it is said.
    let once = std::cell::Cell::new(Some(text));
    let report =
        import(&Home::new(), &|| once.take().map(|text| Box::new(Lines::of(Cursor::new(text))) as _));
    let lost: u64 = report.unplaced.values().sum();
    assert!(report.stored < 100 && report.stored + lost == 199, "{} stored, {lost} lost", report.stored);
}

#[test]
fn what_is_missing_invalid_or_of_another_format_is_told() {
    let messages = written(2, 6);
    let mut text = lines(&messages[..4]);
    text.extend_from_slice(
        b"{\"key\":\"x\",\"value\":{\"author\":\"ssb:feed/bendybutt-v1/x\"},\"timestamp\":1}\n",
    );
    text.extend_from_slice(b"not json\n\n");
    // The third message of the first feed is missing; of the second feed one is forged.
    text.extend_from_slice(
        &String::from_utf8(lines(&messages[5..6])).unwrap().replace("number 2", "number 7").into_bytes(),
    );
    text.extend_from_slice(&lines(&messages[6..]));
    let home = Home::new();
    let report = home.import_lines(&text);
    assert_eq!((report.stored, report.refusals, report.damages), (4, 1, 1));
    assert_eq!(report.refused[0].why, InvalidMessage::Signature);
    assert_eq!(report.passed, BTreeMap::from([(Passed::Format("bendybutt-v1"), 1)]));
    assert_eq!(report.unplaced.values().copied().collect::<Vec<_>>(), [3, 3]);
    let damage = &report.damage[0];
    assert_eq!(&text[damage.offset as usize..][..damage.bytes as usize], b"not json\n");
}

#[test]
fn a_second_branch_is_kept_as_proof() {
    ssb_crypto::sodium::init().unwrap();
    let keypair = Keypair::from_seed(&[1; 32]).unwrap();
    let messages = written(1, 5);
    let tip = messages[1].tip();
    let other = sign(&keypair, None, Some(&tip), 9.0, br#"{"type":"post","text":"another"}"#).unwrap();
    let on_other =
        sign(&keypair, None, Some(&other.tip()), 9.0, br#"{"type":"post","text":"more"}"#).unwrap();
    let home = Home::new();
    home.import_lines(&lines(&messages));
    let report = home.import_lines(&lines(&[other.clone(), on_other]));
    assert_eq!((report.stored, report.forks.len()), (0, 1));
    assert_eq!((report.forks[0].held().id(), report.forks[0].refused().id()), (messages[2].id(), other.id()));
    // Both branches in one log.
    let home = Home::new();
    let report = home.import_lines(&lines(&[&messages[..], std::slice::from_ref(&other)].concat()));
    assert_eq!((report.stored, report.forks.len()), (5, 1));
    let report = home.import_lines(&lines(&[&messages[..], &[other]].concat()));
    assert_eq!((report.stored, report.known, report.forks.len()), (0, 5, 1));
}

#[test]
fn what_a_server_added_to_a_private_message_is_taken_off() {
    ssb_crypto::sodium::init().unwrap();
    let keypair = Keypair::from_seed(&[1; 32]).unwrap();
    let sealed = sign(&keypair, None, None, 9.0, br#""c2VjcmV0.box""#).unwrap();
    let next = sign(&keypair, None, Some(&sealed.tip()), 9.0, br#"{"type":"post","text":"public"}"#).unwrap();
    let value = String::from_utf8(sealed.value_bytes().to_vec()).unwrap();
    let opened = value.replace(r#""c2VjcmV0.box""#, r#"{"type":"post","text":"secret"}"#);
    let (head, _) = opened.rsplit_once('}').unwrap();
    let old = format!(r#"{head},"cyphertext":"c2VjcmV0.box","private":true,"unbox":"a2V5"}}"#);
    let new = format!(r#"{head},"meta":{{"original":{{"content":"c2VjcmV0.box"}},"private":true}}}}"#);
    for dressed in [old, new] {
        let home = Home::new();
        let text = format!("{dressed}\n{}\n", std::str::from_utf8(next.value_bytes()).unwrap());
        let report = home.import_lines(text.as_bytes());
        assert_eq!((report.stored, report.refusals), (2, 0), "{:?}", report.refused);
        assert_eq!(stored_ids(&home), [sealed.id(), next.id()]);
    }
}

/// Where the records of a flume log begin.
fn starts(records: &[Vec<u8>], width: usize) -> Vec<usize> {
    let ends = records.iter().scan(0, |at, record| {
        *at += record.len() + 8 + width;
        Some(*at)
    });
    [0].into_iter().chain(ends).take(records.len()).collect()
}

#[test]
fn behind_damage_a_flume_log_goes_on_with_the_next_record() {
    let messages = written(12, 1);
    let records = records(&messages);
    for width in [4, 6, 8] {
        let whole = flume(&records, width);
        let at = starts(&records, width);
        let cases: [(&str, std::ops::Range<usize>, usize); 5] = [
            ("the first length", 0..4, 1),
            ("a length", at[3]..at[3] + 4, 1),
            ("the end of a record and the start of the next", at[4] - 9..at[4] + 7, 2),
            ("the middle of a record", at[5] + 40..at[5] + 90, 1),
            ("three records", at[6] + 10..at[8] + 10, 3),
        ];
        for (what, range, lost) in cases {
            let mut damaged = whole.clone();
            damaged[range.clone()].fill(0xee);
            let home = Home::new();
            let report = home.import_flume(&damaged);
            assert_eq!(report.stored, 12 - lost as u64, "{what}, {width}: {:?}", report.damage);
            let places = report.damage.iter().map(|damage| damage.offset..damage.offset + damage.bytes);
            assert!(report.damages >= 1 && covers(places, &range), "{what}: {:?}", report.damage);
        }
        // A write that was not finished.
        let home = Home::new();
        let report = home.import_flume(&whole[..whole.len() - 3]);
        assert_eq!((report.stored, report.damages), (11, 1), "{width}");
        assert_eq!(report.damage[0].offset as usize, at[11]);
    }
}

fn covers(mut places: impl Iterator<Item = std::ops::Range<u64>>, range: &std::ops::Range<usize>) -> bool {
    places.any(|place| place.contains(&(range.start as u64)) || place.contains(&(range.end as u64 - 1)))
}

#[test]
fn deleted_records_of_a_flume_log_are_counted() {
    let mut records = records(&written(3, 1));
    records[1].fill(0);
    let home = Home::new();
    let report = home.import_flume(&flume(&records, 4));
    assert_eq!((report.stored, report.passed), (2, BTreeMap::from([(Passed::Deleted, 1)])));
}

/// BIPF as ssb-db2 writes it.
fn bipf(value: &serde_json::Value) -> Vec<u8> {
    use serde_json::Value;
    let (kind, body) = match value {
        Value::Null => (6, Vec::new()),
        Value::Bool(on) => (6, vec![u8::from(*on)]),
        Value::Number(number) => match number.as_i64().and_then(|n| i32::try_from(n).ok()) {
            Some(n) => (2, n.to_le_bytes().to_vec()),
            None => (3, number.as_f64().unwrap().to_le_bytes().to_vec()),
        },
        Value::String(text) => (0, text.as_bytes().to_vec()),
        Value::Array(items) => (4, items.iter().flat_map(bipf).collect()),
        Value::Object(members) => (
            5,
            members
                .iter()
                .flat_map(|(key, value)| [bipf(&Value::from(key.as_str())), bipf(value)].concat())
                .collect(),
        ),
    };
    let mut tag = body.len() << 3 | kind;
    let mut out = Vec::new();
    while tag > 0x7f {
        out.push(tag as u8 | 0x80);
        tag >>= 7;
    }
    out.push(tag as u8);
    out.extend(body);
    out
}

fn db2(records: &[Vec<u8>]) -> Vec<u8> {
    let mut log = vec![Vec::new()];
    for record in records {
        if log.last().unwrap().len() + 2 + record.len() + 2 > 64 << 10 {
            log.push(Vec::new());
        }
        let block = log.last_mut().unwrap();
        block.extend_from_slice(&(record.len() as u16).to_le_bytes());
        block.extend_from_slice(record);
    }
    log.iter_mut().for_each(|block| block.resize(64 << 10, 0));
    log.concat()
}

#[test]
fn a_db2_log_is_imported_and_damage_costs_a_block_at_most() {
    let messages = written(4, 100);
    let mut records: Vec<Vec<u8>> =
        records(&messages).iter().map(|json| bipf(&serde_json::from_slice(json).unwrap())).collect();
    records.insert(
        7,
        bipf(&serde_json::json!({"key": "ssb:message/bendybutt-v1/x", "timestamp": 1,
        "value": {"author": "ssb:feed/bendybutt-v1/x"}})),
    );
    records.insert(
        9,
        bipf(&serde_json::json!({"key": messages[0].id(), "timestamp": 1, "ooo": true,
        "value": {"author": messages[0].author()}})),
    );
    records.insert(11, vec![0; 50]);
    let log = db2(&records);
    let open = |home: &Home, bytes: &[u8]| {
        let path = home.file("log.bipf", bytes);
        home.import(|| Some(Box::new(Db2Log::open(&path).unwrap())))
    };
    let home = Home::new();
    let report = open(&home, &log);
    assert_eq!((report.stored, report.damages, report.refusals), (400, 0, 0), "{:?}", report.refused);
    assert_eq!(stored_ids(&home), ids(&messages));
    let passed = [(Passed::Deleted, 1), (Passed::OutOfOrder, 1), (Passed::Format("bendybutt-v1"), 1)];
    assert_eq!(report.passed, BTreeMap::from(passed));

    // A length that leads out of its block, in the second block.
    let mut damaged = log;
    damaged[(64 << 10)..(64 << 10) + 2].fill(0xff);
    let home = Home::new();
    let report = open(&home, &damaged);
    assert_eq!(report.damage, [Damage { offset: 64 << 10, bytes: 64 << 10 }]);
    assert!(report.stored > 50 && report.unplaced.values().sum::<u64>() > 50, "{report:?}");
}

/// The files of margaret's offset2 as go-ssb writes them: `(data, ofst)`.
fn margaret(records: &[Vec<u8>]) -> (Vec<u8>, Vec<u8>) {
    let (mut data, mut offsets) = (Vec::new(), Vec::new());
    for record in records {
        offsets.extend_from_slice(&(data.len() as i64).to_be_bytes());
        data.extend_from_slice(&(record.len() as i64).to_be_bytes());
        data.extend_from_slice(record);
    }
    (data, offsets)
}

/// A classic message in a multimsg: an array of author, previous, key, sequence, timestamp and the message itself. Made
/// from the description of the format; there was no go-ssb to write it.
fn multimsg(message: &Message, in_cbor: bool) -> Vec<u8> {
    let value = message.value_bytes();
    let [array, bin8, bin16] = if in_cbor { [0x86, 0x58, 0x59] } else { [0x96, 0xc4, 0xc5] };
    let mut record = vec![1, array];
    for reference in [message.author().to_bytes(), [0x7b; 32], message.id().to_bytes()] {
        record.extend_from_slice(&[bin8, 33, 1]);
        record.extend_from_slice(&reference);
    }
    record.push(message.sequence() as u8);
    record.extend_from_slice(&[if in_cbor { 0xfb } else { 0xcb }, 0x41, 0xd0, 0, 0, 0, 0, 0, 0]);
    record.push(bin16);
    record.extend_from_slice(&(value.len() as u16).to_be_bytes());
    record.extend_from_slice(value);
    record
}

#[test]
fn a_log_of_go_ssb_is_imported_in_both_of_its_encodings_and_behind_damage() {
    let messages = written(10, 1);
    for in_cbor in [true, false] {
        let mut records: Vec<Vec<u8>> = messages.iter().map(|message| multimsg(message, in_cbor)).collect();
        records.insert(4, vec![2, 0x82, 1, 2]);
        records.insert(6, vec![3, 0x82, 1, 2]);
        let (whole, offsets) = margaret(&records);
        let open = |home: &Home, data: &[u8]| {
            home.file("data", data);
            home.file("ofst", &offsets);
            let dir = home.0.path().to_owned();
            home.import(move || Some(Box::new(GoSsbLog::open(&dir).unwrap())))
        };
        let home = Home::new();
        let report = open(&home, &whole);
        assert_eq!((report.stored, report.damages), (10, 0), "{in_cbor}: {:?}", report.damage);
        assert_eq!(stored_ids(&home), ids(&messages));
        let passed = [(Passed::Format("bendybutt-v1"), 1), (Passed::Format("gabbygrove-v1"), 1)];
        assert_eq!(report.passed, BTreeMap::from(passed));

        let at = |n: usize| i64::from_be_bytes(offsets[n * 8..][..8].try_into().unwrap()) as usize;
        let mut damaged = whole.clone();
        damaged[at(2)..at(2) + 8].fill(0xee);
        // Nulled: the size is negative.
        let size = i64::from_be_bytes(damaged[at(8)..at(8) + 8].try_into().unwrap());
        damaged[at(8)..at(8) + 8].copy_from_slice(&(-size).to_be_bytes());
        damaged.truncate(damaged.len() - 1);
        let home = Home::new();
        let report = open(&home, &damaged);
        assert_eq!((report.stored, report.passed[&Passed::Deleted]), (7, 1));
        let places: Vec<u64> = report.damage.iter().map(|damage| damage.offset).collect();
        assert_eq!(places, [at(2) as u64, at(11) as u64]);
    }
}

#[test]
fn a_database_of_solar_is_imported_from_a_copy() {
    let messages = written(3, 4);
    let home = Home::new();
    let (database, copy) = (home.0.path().join("database"), home.0.path().join("copy"));
    let db = sled::open(&database).unwrap();
    for (n, message) in messages.iter().enumerate() {
        let key =
            [&[1][..], &message.sequence().to_be_bytes(), message.author().to_string().as_bytes()].concat();
        db.insert(key, message.key_value_timestamp(1000.0 + n as f64)).unwrap();
        db.insert([&[2][..], message.id().to_string().as_bytes()].concat(), &b"else"[..]).unwrap();
    }
    db.flush().unwrap();
    drop(db);
    let report = home.import(|| Some(Box::new(SolarLog::open(&database, &copy).unwrap())));
    assert_eq!((report.stored, report.damages, report.refusals), (12, 0, 0));
    assert!(!copy.exists());
    let home = Home::new();
    home.file("database", b"no folder");
    assert!(SolarLog::open(&home.0.path().join("database"), &home.0.path().join("copy")).is_err());
}

#[test]
fn nothing_is_written_beside_the_log() {
    let home = Home::new();
    let path = home.file("log.offset", &flume(&records(&written(1, 3)), 4));
    let before = fs::read(&path).unwrap();
    let mut permissions = fs::metadata(&path).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&path, permissions).unwrap();
    home.import(|| Some(Box::new(FlumeLog::open(&path).unwrap())));
    assert_eq!(fs::read(&path).unwrap(), before);
    let beside = |dir: &Path| fs::read_dir(dir).unwrap().count();
    assert_eq!(beside(home.0.path()), 2);
}
