use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};
use ssb_crypto::Keypair;

use super::envelope::{Place, Scheme, SlotKey};
use super::*;
use crate::message::{self, Message, Tip};
use crate::refs::{GroupId, MessageId};

fn keypair(n: u8) -> Keypair {
    ssb_crypto::sodium::init().unwrap();
    Keypair::from_seed(&[n; 32]).unwrap()
}

fn feed(n: u8) -> FeedId {
    FeedId::from_bytes(keypair(n).public.0)
}

fn ring(n: u8) -> Keyring {
    Keyring::new(&keypair(n))
}

/// A message of `author` behind `tip` with a content that is JSON already.
fn said(author: u8, tip: Option<&Tip>, content: &[u8]) -> Message {
    message::sign(&keypair(author), None, tip, 1.0, content).unwrap()
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

#[test]
fn box1_opens_what_javascript_sealed_and_nothing_else() {
    for case in vectors()["box1"].as_array().unwrap() {
        let sealed = case["sealed"].as_str().unwrap();
        let content = case["content"].to_string();
        for n in 1..=9 {
            let is_recipient = case["to"].as_array().unwrap().contains(&json!(n));
            let opened = ring(n).open_content(sealed);
            assert_eq!(opened.is_some(), is_recipient, "{n} {case}");
            assert!(opened.is_none_or(|opened| opened.content_json() == content));
        }
    }
    let protocol_guide = "zPUMhzGYkUrB17jDR7qleAm6JvV6Yvf2QKiGSxlyBpelwE0aF9SMnHDMQqK/Du5/YHZrHebBZwyG5jz2M+h1sBrZrKzw6mT049/iOo8pNWDHPnNY/lvoPD2MH1dB8TuQfi5fiOym4rQP6j308sQKTmcC25fHifcHm2opo9aCBgJAC5RA3rbc8cqQkW0CunrOo5nBde3sIRw=.box";
    let opened = ring(1).open_content(protocol_guide).unwrap();
    assert_eq!(opened.content_json(), r#"{"type":"post","text":"secret"}"#);
}

#[test]
fn box1_seals_for_one_to_seven() {
    let text = br#"{"type":"post","text":"x"}"#;
    for count in 1..=7_u8 {
        let to: Vec<_> = (1..=count).map(feed).collect();
        let sealed = String::from_utf8(seal_box1(text, &to).unwrap()).unwrap();
        for n in 1..=8 {
            let opened = ring(n).open_content(sealed.trim_matches('"'));
            assert_eq!(opened.map(|o| o.content_json().as_bytes() == text), (n <= count).then_some(true));
        }
    }
    let eight: Vec<_> = (1..=8).map(feed).collect();
    let too_many = SealError::TooMany { max: 7, found: 8 };
    assert_eq!(too_many.to_string(), "max recipients is:7 found:8");
    assert_eq!(seal_box1(text, &eight), Err(too_many));
    assert_eq!(seal_box1(text, &[]), Err(SealError::NoRecipients));
    let weak = FeedId::from_bytes([0; 32]);
    assert_eq!(seal_box1(text, &[weak]), Err(SealError::BadKey(weak)));
}

#[test]
fn direct_keys_are_those_of_javascript_whoever_derives_them() {
    for case in vectors()["direct"].as_array().unwrap() {
        let [a, b] = [0, 1].map(|i| case[i].as_u64().unwrap() as u8);
        for (own, other) in [(a, b), (b, a)] {
            assert_eq!(
                ring(own).slot_of(&feed(other)).unwrap().to_bytes().to_vec(),
                bytes(&case[2]),
                "{own} {other}"
            );
        }
    }
}

#[test]
fn envelopes_are_those_of_javascript_to_the_byte() {
    let direct = ring(1).slot_of(&feed(2)).unwrap();
    let group = SlotKey::new(Scheme::Group, [9; 32]);
    for case in vectors()["envelopes"].as_array().unwrap() {
        let previous = case["previous"].as_str().map(|id| id.parse::<MessageId>().unwrap());
        let place = Place::new(&feed(1), previous.as_ref());
        let names = case["recipients"].as_array().unwrap();
        let keys: Vec<_> =
            names.iter().map(|n| if n == "dm" { direct.clone() } else { group.clone() }).collect();
        let text = case["text"].as_str().unwrap();
        let sealed = envelope::seal_with(text.as_bytes(), &place, [5; 32], &keys).unwrap();
        assert_eq!(sealed, bytes(&case["sealed"]), "{case}");
        for (slot, key) in keys.iter().enumerate() {
            assert!(envelope::open_key(&sealed, &place, key, slot).is_none(), "its slot is not tried");
            let read_key = envelope::open_key(&sealed, &place, key, slot + 1).unwrap();
            assert_eq!(read_key.to_bytes().to_vec(), bytes(&case["read_key"]));
            assert_eq!(envelope::open_body(&sealed, &place, &read_key).unwrap(), text.as_bytes());
            let message = case["message"].as_str().unwrap().parse().unwrap();
            assert_eq!(
                envelope::cloaked_id(&read_key, &message).to_string(),
                case["cloaked"].as_str().unwrap()
            );
        }
        let elsewhere = Place::new(&feed(2), previous.as_ref());
        assert!(envelope::open_key(&sealed, &elsewhere, &keys[0], 16).is_none(), "bound to its author");
    }
}

#[test]
fn an_envelope_has_room_for_sixteen() {
    let place = Place::new(&feed(1), None);
    let key = SlotKey::new(Scheme::Group, [9; 32]);
    assert!(envelope::seal(b"x", &place, &vec![key.clone(); 16]).is_ok());
    let too_many = SealError::TooMany { max: 16, found: 17 };
    assert_eq!(envelope::seal(b"x", &place, &vec![key; 17]), Err(too_many));
}

/// A group of feed 1 to which feed 2 is added: its first message, and the one that adds.
fn group_of_two() -> (GroupId, Group, Message, Message) {
    let key = SlotKey::fresh_group().unwrap();
    let creator = ring(1);
    let init = EnvelopeDraft {
        plaintext: br#"{"type":"group/init","tangles":{"group":{"root":null,"previous":null}}}"#.to_vec(),
        recipients: vec![key.clone(), creator.own_slot().clone()],
    };
    let root = said(1, None, &init.seal(&feed(1), None).unwrap());
    let id = groups::group_of(&root, &key).unwrap();
    let content = json!({
        "type": "group/add-member", "version": "v1", "groupKey": STANDARD.encode(key.to_bytes()), "root": root.id(),
        "recps": [id, feed(2)],
    });
    let add = EnvelopeDraft {
        plaintext: content.to_string().into_bytes(),
        recipients: vec![key.clone(), creator.slot_of(&feed(2)).unwrap()],
    };
    let add = said(1, Some(&root.tip()), &add.seal(&feed(1), Some(&root.id())).unwrap());
    (id, Group { root: root.id(), keys: vec![key] }, root, add)
}

#[test]
fn who_is_added_to_a_group_reads_it_and_others_do_not() {
    let (id, group, root, add) = group_of_two();
    let mut member = ring(2);
    assert_eq!(member.open(&root), None, "the first message is the group's");
    let opened = member.open(&add).unwrap();
    assert_eq!((opened.format, opened.group), (Format::Envelope, None));
    let invitation = member.invitation(&opened).unwrap();
    assert_eq!((invitation.id, &invitation.group), (id, &group));
    assert!(invitation.is_proven_by(&root) && !invitation.is_proven_by(&add));
    assert_eq!(member.add_group(id, &invitation.group), Ok(true));
    assert_eq!(member.add_group(id, &invitation.group), Ok(false));
    assert_eq!(member.open(&root).unwrap().group, Some(id));
    assert_eq!(ring(3).open(&add), None);

    let own = ring(1).open(&root).unwrap();
    assert_eq!(own.group, None, "a creator without the key reads it as addressed to himself");
}

#[test]
fn nobody_slips_a_key_into_a_group() {
    let (id, group, root, _) = group_of_two();
    let stranger = SlotKey::new(Scheme::Group, [66; 32]);
    let bad =
        Invitation { id, group: Group { root: group.root, keys: vec![stranger] }, members: vec![feed(2)] };
    assert!(!bad.is_proven_by(&root));
}

#[test]
fn groups_and_their_keys_are_bounded() {
    let mut ring = ring(1);
    let key = |n: usize| SlotKey::new(Scheme::Group, std::array::from_fn(|i| (n >> (8 * i.min(3))) as u8));
    let root = MessageId::from_bytes([1; 32]);
    for n in 0..MAX_GROUPS {
        let id = GroupId::from_bytes(key(n).to_bytes());
        assert_eq!(ring.add_group(id, &Group { root, keys: vec![key(n)] }), Ok(true));
    }
    let another = GroupId::from_bytes([255; 32]);
    assert_eq!(ring.add_group(another, &Group { root, keys: vec![key(1)] }), Err(GroupFull));
    let known = GroupId::from_bytes(key(0).to_bytes());
    let keys = (1..=groups::MAX_KEYS).map(key).collect();
    assert_eq!(ring.add_group(known, &Group { root, keys }), Err(GroupFull));
}

#[test]
fn an_opened_message_has_the_form_that_ssb_db_gives_it() {
    let content = br#"{"type":"post","text":"only us"}"#;
    let sealed = seal_box1(content, &[feed(1), feed(2)]).unwrap();
    let message = said(1, None, &sealed);
    let opened = ring(2).open(&message).unwrap();
    let value: Value = serde_json::from_slice(&opened.value(&message)).unwrap();
    let keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "previous",
        "sequence",
        "author",
        "timestamp",
        "hash",
        "content",
        "signature",
        "meta",
        "cyphertext",
        "private",
        "unbox",
    ];
    assert_eq!(keys, expected);
    let boxed: Value = serde_json::from_slice(&sealed).unwrap();
    assert_eq!(value["content"], json!({"type": "post", "text": "only us"}));
    assert_eq!(
        value["meta"],
        json!({"original": {"content": boxed}, "private": true, "unbox": value["unbox"]})
    );
    assert_eq!((&value["cyphertext"], &value["private"]), (&boxed, &json!(true)));
    let key = bytes(&value["unbox"]);
    assert_eq!(Opened::with_key(&message, &key), Some(opened), "the key is worth the message");
    assert_eq!(Opened::with_key(&message, &[1; 33]), None);
}

#[test]
fn what_is_no_content_is_not_opened() {
    for nothing in ["null", "false", "0", "\"\"", "not JSON", ""] {
        let sealed = String::from_utf8(seal_box1(nothing.as_bytes(), &[feed(1)]).unwrap()).unwrap();
        assert_eq!(ring(1).open_content(sealed.trim_matches('"')), None, "{nothing}");
    }
}

proptest! {
    #[test]
    fn garbage_is_not_for_us_and_never_a_panic(
        sealed in proptest::collection::vec(any::<u8>(), 0..700), box1 in any::<bool>(),
    ) {
        let suffix = if box1 { ".box" } else { ".box2" };
        let content = format!("\"{}{suffix}\"", STANDARD.encode(&sealed));
        let message = said(3, None, content.as_bytes());
        let mut ring = ring(1);
        let group = Group { root: MessageId::from_bytes([1; 32]), keys: vec![SlotKey::new(Scheme::Group, [9; 32])] };
        ring.add_group(GroupId::from_bytes([2; 32]), &group).unwrap();
        prop_assert_eq!(ring.open(&message), None);
        prop_assert_eq!(Opened::with_key(&message, &sealed), None);
    }
}
