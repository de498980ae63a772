//! Messages against vectors made with the JavaScript libraries, and properties.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::json;
use ssb_crypto::Keypair;

use super::*;

fn keypair(byte: u8) -> Keypair {
    ssb_crypto::sodium::init().unwrap();
    Keypair::from_seed(&[byte; 32]).unwrap()
}

const NOW: f64 = 1_700_000_000_000.0;

fn signature_of(message: &Message) -> String {
    let value: serde_json::Value = serde_json::from_slice(message.value_bytes()).unwrap();
    value["signature"].as_str().unwrap().to_owned()
}

/// Made with ssb-keys 7.2.2 and ssb-validate 4.1.4.
#[test]
fn a_plain_message_is_signed_as_javascript_signs_it() {
    let message = sign(&keypair(1), None, None, NOW, br#"{"type":"test"}"#).unwrap();
    assert_eq!(
        signature_of(&message),
        "XYLLP2luRzr4DqIV6tRR/+8ocQETiaV7/OZpbEK/TWfay/PDXkoQF9BTJ8zttIxaDq0b7Kni3e9hdUipIiyXDQ==.sig.ed25519"
    );
    assert_eq!(message.id().to_string(), "%7qizFH9dHuG2wMUg8CAP/1Olg2exISVkjJpvlCYATu4=.sha256");
    assert_eq!(validate(message.value_bytes(), None, None), Ok(message));
}

/// Made with ssb-keys 7.2.2 and ssb-validate 4.1.4.
#[test]
fn a_network_with_a_signing_key_signs_the_hmac() {
    let key = HmacKey::from_base64(&STANDARD.encode([5; 32])).unwrap();
    let message = sign(&keypair(1), Some(&key), None, NOW, br#"{"type":"test"}"#).unwrap();
    assert_eq!(
        signature_of(&message),
        "eO/5dOPEibI9xBwB4X0Nzv/vFbJQAPPOjMz9ygu+tNpHVlON1IY8+s2HWd+CInwoPbDxQQhQKLOyHuO/aWn9Dg==.sig.ed25519"
    );
    assert_eq!(message.id().to_string(), "%eNej/THacWJ+XAFCsFfj0w5JRdOgd8l0gRlqZa4vE4g=.sha256");
    assert_eq!(validate(message.value_bytes(), Some(&key), None), Ok(message.clone()));
    assert_eq!(validate(message.value_bytes(), None, None), Err(InvalidMessage::Signature));
}

/// Made with ssb-keys 7.2.2 and ssb-validate 4.1.4.
#[test]
fn odd_keys_strings_and_numbers_are_signed_as_javascript_signs_them() {
    let content = r#"{"type":"post","2":"two","text":"h\u00e9llo \ud83d\ude00 \u2028 \"q\"\\ \n\t\u0001\u007F",
        "1":"one","n":[1e21,1E-7,-0,0.1,123456789012345678901,15e299],"empty":{ },"arr":[ ]}"#;
    let message = sign(&keypair(1), None, None, NOW, content.as_bytes()).unwrap();
    assert_eq!(
        signature_of(&message),
        "5bwNjr1Zk/81As0+/OIUIz8TDtZo5lcwaeAL9bQrLglFl+OPRBtTo7glzhOWjiJYeeBst0PzW9iINIKmZD4/Bw==.sig.ed25519"
    );
    assert_eq!(message.id().to_string(), "%CyfBYs9ZGPmq0d5CpHEFJafHmtFxMl8mC29ch2hsa/Q=.sha256");
    assert_eq!(validate(message.value_bytes(), None, None), Ok(message));
}

/// The first `n` messages of a feed.
fn feed(byte: u8, n: usize) -> Vec<Message> {
    let keypair = keypair(byte);
    let mut messages: Vec<Message> = Vec::new();
    for i in 0..n {
        let tip = messages.last().map(Message::tip);
        let content = json!({ "type": "post", "text": format!("number {i}") }).to_string();
        messages.push(sign(&keypair, None, tip.as_ref(), NOW + i as f64, content.as_bytes()).unwrap());
    }
    messages
}

/// A first message with parts of its JSON replaced. It is signed as it then stands.
fn forged(replace: &[(&str, &str)]) -> String {
    let keypair = keypair(1);
    let author = FeedId::from_bytes(keypair.public.0);
    let mut text = format!(
        r#"{{"previous":null,"sequence":1,"author":"{author}","timestamp":1,"hash":"sha256","content":{{"type":"test"}}}}"#
    );
    for (old, new) in replace {
        assert!(text.contains(old), "{old}");
        text = text.replace(old, new);
    }
    let signed = json::parse(text.as_bytes()).unwrap().to_pretty();
    let signature = STANDARD.encode(keypair.sign(&signed).0);
    text.truncate(text.len() - 1);
    text + &format!(r#","signature":"{signature}.sig.ed25519"}}"#)
}

fn refusal(replace: &[(&str, &str)]) -> InvalidMessage {
    validate(forged(replace).as_bytes(), None, None).unwrap_err()
}

fn author() -> FeedId {
    FeedId::from_bytes(keypair(1).public.0)
}

#[test]
fn a_message_tells_what_it_holds() {
    let messages = feed(1, 2);
    let (first, second) = (&messages[0], &messages[1]);
    assert_eq!((first.sequence(), first.previous(), first.timestamp()), (1, None, NOW));
    assert_eq!((second.sequence(), second.previous()), (2, Some(first.id())));
    assert_eq!(second.author(), author());
    assert_eq!(second.content_json(), r#"{"type":"post","text":"number 1"}"#);
    let content = second.content();
    assert_eq!(content, Content::Object { kind: "post".into(), raw: second.content_json().as_bytes() });
    assert_eq!(content.member("text"), Some("\"number 1\""));
    assert_eq!(Message::from_trusted(second.id(), second.value_bytes().clone()).as_ref(), Ok(second));
    let kvt: serde_json::Value = serde_json::from_slice(&second.key_value_timestamp(1.5)).unwrap();
    assert_eq!(kvt["key"], second.id().to_string());
    assert_eq!(kvt["value"]["sequence"], 2);
    assert_eq!(kvt["timestamp"], 1.5);
}

#[test]
fn an_encrypted_message_tells_its_text() {
    let message = sign(&keypair(1), None, None, NOW, br#""AAAA.box""#).unwrap();
    assert_eq!(message.content(), Content::Encrypted("AAAA.box"));
    assert_eq!(message.content().member("type"), None);
}

#[test]
fn a_type_with_escapes_is_told_unescaped() {
    let message = sign(&keypair(1), None, None, NOW, br#"{"type":"a\"\u0062\n"}"#).unwrap();
    let Content::Object { kind, .. } = message.content() else { unreachable!() };
    assert_eq!(kind, "a\"b\n");
}

#[test]
fn the_next_message_is_accepted_and_a_repetition_or_gap_is_refused_but_not_fatal() {
    let messages = feed(1, 3);
    let tip = messages[0].tip();
    assert_eq!(validate(messages[1].value_bytes(), None, Some(&tip)).as_ref(), Ok(&messages[1]));
    for (index, found) in [(0, 1), (2, 3)] {
        let refused = validate(messages[index].value_bytes(), None, Some(&tip)).unwrap_err();
        assert_eq!(refused, InvalidMessage::Sequence { author: author(), expected: 2, found });
        assert!(!refused.is_fatal());
    }
}

#[test]
fn another_message_with_the_next_number_is_a_fork() {
    let messages = feed(1, 2);
    let tip = Tip { id: feed(2, 1)[0].id(), sequence: 1 };
    let refused = validate(messages[1].value_bytes(), None, Some(&tip)).unwrap_err();
    assert_eq!(refused, InvalidMessage::Fork(author()));
    assert!(refused.is_fatal());
}

#[test]
fn the_first_message_has_no_predecessor_the_number_one_and_a_timestamp() {
    let id = "\"%7qizFH9dHuG2wMUg8CAP/1Olg2exISVkjJpvlCYATu4=.sha256\"";
    assert_eq!(
        refusal(&[("\"previous\":null", &format!("\"previous\":{id}"))]),
        InvalidMessage::FirstPrevious(author())
    );
    assert_eq!(refusal(&[("\"sequence\":1", "\"sequence\":2")]), InvalidMessage::FirstSequence(author()));
    assert_eq!(refusal(&[("\"timestamp\":1", "\"timestamp\":\"1\"")]), InvalidMessage::Timestamp(author()));
}

#[test]
fn later_messages_may_have_any_timestamp_and_out_of_order_ones_need_a_number() {
    let tip = Tip { id: feed(2, 1)[0].id(), sequence: 1 };
    let previous = format!("\"previous\":\"{}\"", tip.id);
    let later = [("\"previous\":null", previous.as_str()), ("\"sequence\":1", "\"sequence\":2")];
    for odd in ["null", "\"x\"", "{\"a\":[1,{}]}", "1e400"] {
        let timestamp = format!("\"timestamp\":{odd}");
        let raw = forged(&[later[0], later[1], ("\"timestamp\":1", &timestamp)]);
        let message = validate(raw.as_bytes(), None, Some(&tip)).unwrap();
        assert_eq!(message.timestamp(), 0.0);
        assert_eq!(message.content_json(), "{\"type\":\"test\"}");
        let out_of_order = validate_out_of_order(raw.as_bytes(), None, None);
        assert_eq!(out_of_order.is_ok(), odd == "1e400", "{out_of_order:?}");
    }
    let fractional = forged(&[later[0], later[1], ("\"timestamp\":1", "\"timestamp\":-1550074432723.0059")]);
    assert_eq!(
        validate(fractional.as_bytes(), None, Some(&tip)).unwrap().timestamp(),
        -1_550_074_432_723.005_9
    );
}

#[test]
fn a_message_out_of_order_must_be_the_one_asked_for() {
    let message = &feed(1, 3)[2];
    let raw = message.value_bytes();
    assert_eq!(validate_out_of_order(raw, None, Some(&message.id())).as_ref(), Ok(message));
    let other = feed(2, 1)[0].id();
    assert_eq!(validate_out_of_order(raw, None, Some(&other)), Err(InvalidMessage::OtherId));
}

#[test]
fn each_deviation_has_its_own_name() {
    let properties: &[(&[(&str, &str)], InvalidMessage)] = &[
        (&[("\"hash\":\"sha256\",", "")], InvalidMessage::KeyOrder),
        (&[("\"hash\":", "\"also\":1,\"hash\":")], InvalidMessage::KeyOrder),
        (
            &[("\"previous\":null,\"sequence\":1", "\"sequence\":1,\"previous\":null")],
            InvalidMessage::KeyOrder,
        ),
        (&[("\"content\":{", "\"0\":0,\"content\":{")], InvalidMessage::KeyOrder),
        (&[("sha256", "sha512")], InvalidMessage::HashName),
        (&[("{\"type\":\"test\"}", "null")], InvalidMessage::ContentForm),
        (&[("{\"type\":\"test\"}", "\"text\"")], InvalidMessage::ContentForm),
        (&[("{\"type\":\"test\"}", "\"AAB=.box\"")], InvalidMessage::ContentForm),
        (&[("{\"type\":\"test\"}", "\"AAAA.box\\n\"")], InvalidMessage::ContentForm),
        (&[("{\"type\":\"test\"}", "[]")], InvalidMessage::ContentType),
        (&[("{\"type\":\"test\"}", "{}")], InvalidMessage::ContentType),
        (&[("\"test\"", "1")], InvalidMessage::ContentType),
        (&[("\"test\"", "\"ab\"")], InvalidMessage::ContentType),
    ];
    for (replace, expected) in properties {
        assert_eq!(refusal(replace), *expected, "{replace:?}");
    }
    let refused = |raw: &str| validate(raw.as_bytes(), None, None).unwrap_err();
    assert_eq!(refused("[]"), InvalidMessage::NotAnObject);
    assert_eq!(refused("null"), InvalidMessage::NotAnObject);
    assert_eq!(refused("{}"), InvalidMessage::Author);
    assert_eq!(refused("{"), InvalidMessage::Json(json::JsonError::Syntax { at: 1 }));
    assert_eq!(
        refused(&" ".repeat(MAX_RAW_BYTES + 1)),
        InvalidMessage::RawTooLong { bytes: MAX_RAW_BYTES + 1 }
    );
    assert_eq!(refused(&forged(&[]).replace("ed25519\",\"t", "sha256\",\"t")), InvalidMessage::Author);
    assert_eq!(refused(&forged(&[]).replace(".sig.ed", ".sig.xd")), InvalidMessage::SignatureForm);
    assert_eq!(refused(&forged(&[]).replace("==.sig", ".sig")), InvalidMessage::SignatureForm);
    assert_eq!(refused(&forged(&[]).replace("\"test\"", "\"text\"")), InvalidMessage::Signature);
}

/// The bindings to libsodium panic on three of these bits, so a peer could have ended the process.
#[test]
fn a_signature_with_any_bit_flipped_is_refused() {
    let message = &feed(1, 1)[0];
    let text = std::str::from_utf8(message.value_bytes()).unwrap();
    let good = signature_of(message);
    let bytes = STANDARD.decode(good.trim_end_matches(".sig.ed25519")).unwrap();
    for bit in 0..512 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let forged = text.replace(&good, &format!("{}.sig.ed25519", STANDARD.encode(bytes)));
        assert_eq!(validate(forged.as_bytes(), None, None), Err(InvalidMessage::Signature), "bit {bit}");
    }
}

#[test]
fn encrypted_text_is_canonical_base64_with_any_box_suffix() {
    for accepted in ["AAAA.box", ".box", "AA==.box2", "AAAA.boxs and more"] {
        let raw = forged(&[("{\"type\":\"test\"}", &format!("\"{accepted}\""))]);
        let message = validate(raw.as_bytes(), None, None).unwrap();
        assert_eq!(message.content(), Content::Encrypted(accepted));
    }
}

#[test]
fn the_type_is_measured_in_utf16_units() {
    for (kind, fits) in
        [("é".repeat(52), true), ("é".repeat(53), false), ("😀".repeat(26), true), ("😀".repeat(27), false)]
    {
        let raw = forged(&[("\"test\"", &format!("\"{kind}\""))]);
        assert_eq!(validate(raw.as_bytes(), None, None).is_ok(), fits, "{kind}");
    }
}

#[test]
fn the_limit_of_8192_counts_utf16_units_of_the_indented_signed_form() {
    let units = |raw: &str| {
        let pretty = json::parse(raw.as_bytes()).unwrap().to_pretty();
        std::str::from_utf8(&pretty).unwrap().encode_utf16().count()
    };
    let with_text = |text: &str| forged(&[("\"test\"", &format!("\"test\",\"text\":\"{text}\""))]);
    let room = MAX_UNITS - units(&with_text(""));
    // How the limit is used up: (text, units each).
    for (character, each) in [("x", 1), ("€", 1), ("😀", 2), ("\\u0001", 6), ("\\ud800", 6)] {
        let fill = character.repeat(room / each) + &"x".repeat(room % each);
        let full = with_text(&fill);
        assert_eq!(units(&full), MAX_UNITS);
        assert!(validate(full.as_bytes(), None, None).is_ok(), "{character}");
        let over = with_text(&(fill + "x"));
        let refused = validate(over.as_bytes(), None, None);
        assert_eq!(refused, Err(InvalidMessage::TooLong { units: MAX_UNITS + 1 }), "{character}");
    }
}

#[test]
fn the_order_of_checks_is_that_of_ssb_validate() {
    // All of these are wrong in several ways; what is told is what ssb-validate tells.
    let out_of_place_and_misshapen = forged(&[("\"sequence\":1", "\"sequence\":5"), ("sha256", "sha1")]);
    let tip = Tip { id: feed(2, 1)[0].id(), sequence: 1 };
    let refused = validate(out_of_place_and_misshapen.as_bytes(), None, Some(&tip)).unwrap_err();
    assert_eq!(refused, InvalidMessage::Sequence { author: author(), expected: 2, found: 5 });
    assert_eq!(refusal(&[("sha256", "sha1"), ("\"content\"", "\"contents\"")]), InvalidMessage::KeyOrder);
    assert_eq!(refusal(&[("sha256", "sha1"), ("\"test\"", "\"x\"")]), InvalidMessage::HashName);
    let long_and_typeless = refusal(&[("\"test\"", &format!("\"{}\"", "x".repeat(MAX_UNITS)))]);
    assert!(matches!(long_and_typeless, InvalidMessage::TooLong { .. }));
    let unsigned_and_typeless = forged(&[]).replace("\"test\"", "\"x\"");
    assert_eq!(validate(unsigned_and_typeless.as_bytes(), None, None), Err(InvalidMessage::ContentType));
}

#[test]
fn a_predecessor_in_brackets_passes_as_it_does_in_javascript() {
    let tip = Tip { id: feed(2, 1)[0].id(), sequence: 1 };
    let previous = format!("\"previous\":[[\"{}\"]]", tip.id);
    let raw = forged(&[("\"previous\":null", &previous), ("\"sequence\":1", "\"sequence\":2")]);
    let message = validate(raw.as_bytes(), None, Some(&tip)).unwrap();
    assert_eq!(message.previous(), Some(tip.id));
    assert_eq!(message.value_bytes(), raw.as_bytes());
}

#[test]
fn either_order_of_sequence_and_author_is_kept() {
    let author = format!("\"author\":\"{}\"", author());
    let raw = forged(&[("\"sequence\":1,", ""), (&author, &format!("{author},\"sequence\":1"))]);
    let message = validate(raw.as_bytes(), None, None).unwrap();
    assert_eq!(message.value_bytes(), raw.as_bytes());
    assert_eq!(message.sequence(), 1);
}

#[test]
fn a_message_in_odd_spelling_is_the_same_message() {
    let message = &feed(1, 1)[0];
    let text = std::str::from_utf8(message.value_bytes()).unwrap();
    let odd = text
        .replace("\"sequence\":1", " \"sequence\" :\n 99, \"sequence\": 10e-1")
        .replace("post", "p\\u006fst");
    assert_eq!(validate(odd.as_bytes(), None, None).as_ref(), Ok(message));
}

#[test]
fn a_signing_key_is_32_bytes_in_canonical_base64() {
    let good = json!(STANDARD.encode([5; 32]));
    assert_eq!(HmacKey::from_json(&good), Ok(Some(HmacKey::from_bytes([5; 32]))));
    assert_eq!(HmacKey::from_json(&json!(null)), Ok(None));
    let long = STANDARD.encode([5; 33]);
    let bad_padding = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=";
    for bad in [json!(true), json!(7), json!(""), json!(long), json!(bad_padding), json!([5]), json!({})] {
        assert_eq!(HmacKey::from_json(&bad), Err(InvalidMessage::HmacKey), "{bad}");
    }
    assert_eq!(format!("{:?}", HmacKey::from_bytes([5; 32])), "HmacKey");
}

fn unverified(message: &Message) -> Unverified {
    Unverified::parse(message.value_bytes()).unwrap()
}

/// The message with another one's signature.
fn with_wrong_signature(message: &Message) -> Unverified {
    let text = std::str::from_utf8(message.value_bytes()).unwrap();
    let other = signature_of(&feed(3, 1)[0]);
    Unverified::parse(text.replace(&signature_of(message), &other).as_bytes()).unwrap()
}

#[test]
fn a_batch_gives_what_one_by_one_gives() {
    let (one, two) = (feed(1, 5), feed(2, 3));
    let batch = vec![
        unverified(&one[0]),
        unverified(&two[1]),
        unverified(&one[1]),
        with_wrong_signature(&one[2]),
        unverified(&two[2]),
        unverified(&one[2]),
        unverified(&one[2]),
        with_wrong_signature(&one[3]),
        unverified(&one[4]),
    ];
    let known = two[0].tip();
    let tip = |feed: &FeedId| (*feed == two[0].author()).then_some(known);
    let results = Verifier::new().validate_batch(batch.clone(), None, tip);
    let out_of_sequence =
        |expected, found| Err(InvalidMessage::Sequence { author: author(), expected, found });
    assert_eq!(
        results,
        [
            Ok(one[0].clone()),
            Ok(two[1].clone()),
            Ok(one[1].clone()),
            Err(InvalidMessage::Signature),
            Ok(two[2].clone()),
            Ok(one[2].clone()),
            out_of_sequence(4, 3),
            Err(InvalidMessage::Signature),
            out_of_sequence(4, 5),
        ]
    );
    let mut tips = std::collections::BTreeMap::from([(two[0].author(), known)]);
    for (message, in_batch) in batch.into_iter().zip(results) {
        let author = message.author();
        let alone = message.check(tips.get(&author)).and_then(|()| message.verify(None));
        assert_eq!(alone, in_batch);
        tips.extend(alone.ok().map(|message| (author, message.tip())));
    }
}

#[test]
fn many_signatures_are_checked_each_by_itself() {
    let messages = feed(1, 40);
    let mut batch: Vec<_> = messages.iter().map(unverified).collect();
    batch[17] = with_wrong_signature(&messages[17]);
    for (index, result) in Verifier::new().verify_batch(batch, None).into_iter().enumerate() {
        let expected = if index == 17 { Err(InvalidMessage::Signature) } else { Ok(messages[index].clone()) };
        assert_eq!(result, expected);
    }
    let raw: Vec<_> = messages.iter().map(|message| message.value_bytes().clone()).collect();
    let parsed: Vec<_> =
        parse_batch(&raw).into_iter().map(|message| message.unwrap().id().unwrap()).collect();
    assert_eq!(parsed, messages.iter().map(Message::id).collect::<Vec<_>>());
}

fn draft(content: &str) -> Result<Message, DraftError> {
    sign(&keypair(1), None, None, NOW, content.as_bytes())
}

#[test]
fn a_draft_is_refused_for_what_others_would_refuse() {
    assert_eq!(draft("[]"), Err(DraftError::NotContent));
    assert_eq!(draft("null"), Err(DraftError::NotContent));
    assert_eq!(draft("\"hello\""), Err(DraftError::NotEncrypted));
    assert_eq!(draft("\"AAAA.boxs\""), Err(DraftError::NotEncrypted));
    for recps in ["[\"@a\"]", "[]", "\"@a\"", "{}", "true", "1"] {
        let private = format!("{{\"type\":\"post\",\"text\":\"for you\",\"recps\":{recps}}}");
        assert_eq!(draft(&private), Err(DraftError::NotForEveryone));
    }
    for nobody in ["null", "false", "\"\"", "0"] {
        assert!(draft(&format!("{{\"type\":\"post\",\"recps\":{nobody}}}")).is_ok());
    }
    assert_eq!(draft("{}"), Err(DraftError::Type));
    assert_eq!(draft("{\"type\":\"ab\"}"), Err(DraftError::Type));
    assert_eq!(draft(&format!("{{\"type\":\"{}\"}}", "é".repeat(27))), Err(DraftError::Type));
    assert!(matches!(draft("{"), Err(DraftError::Json(_))));
    assert!(matches!(draft(&" ".repeat(MAX_RAW_BYTES + 1)), Err(DraftError::RawTooLong { .. })));
    let timeless = sign(&keypair(1), None, None, f64::NAN, b"{\"type\":\"test\"}");
    assert_eq!(timeless, Err(DraftError::Timestamp));
    let last = Tip { id: feed(1, 1)[0].id(), sequence: 2_147_483_647 };
    let full = sign(&keypair(1), None, Some(&last), NOW, b"{\"type\":\"test\"}");
    assert_eq!(full, Err(DraftError::FeedFull));
}

#[test]
fn the_size_of_a_draft_is_that_of_the_signed_message() {
    let with_text = |len: usize| format!("{{\"type\":\"post\",\"text\":\"{}\"}}", "x".repeat(len));
    let longest = (0..MAX_UNITS).rev().find(|len| draft(&with_text(*len)).is_ok()).unwrap();
    assert_eq!(draft(&with_text(longest + 1)), Err(DraftError::TooLong { units: MAX_UNITS + 1 }));
    let message = draft(&with_text(longest)).unwrap();
    assert_eq!(validate(message.value_bytes(), None, None), Ok(message));
}

#[test]
fn a_number_too_large_becomes_null_before_it_is_signed() {
    let message = draft("{\"type\":\"test\",\"n\":1e400}").unwrap();
    assert_eq!(message.content_json(), "{\"type\":\"test\",\"n\":null}");
    assert_eq!(validate(message.value_bytes(), None, None), Ok(message));
}

#[test]
fn timestamps_of_our_own_messages_rise() {
    assert_eq!(next_timestamp(1000.7, None), 1000.0);
    assert_eq!(next_timestamp(1000.7, Some(999.9)), 1000.0);
    assert_eq!(next_timestamp(1000.7, Some(1000.0)), 1001.0);
    assert_eq!(next_timestamp(1000.7, Some(1500.4)), 1501.0);
    // A newest message from next year was written under a wrong clock, as was one from no time at all.
    assert_eq!(next_timestamp(1000.0, Some(1e11)), 1000.0);
    assert_eq!(next_timestamp(1000.0, Some(f64::INFINITY)), 1000.0);
}

#[test]
fn damaged_bytes_are_not_taken_for_a_message() {
    let message = &feed(1, 1)[0];
    let text = std::str::from_utf8(message.value_bytes()).unwrap();
    let id = message.id();
    let take = |text: &str| Message::from_trusted(id, Bytes::copy_from_slice(text.as_bytes()));
    assert!(take(text).is_ok());
    for end in 0..text.len() {
        assert_eq!(take(&text[..end]), Err(NotCanonical));
    }
    assert_eq!(take(&text.replace("sha256", "sha512")), Err(NotCanonical));
    assert_eq!(take(&text.replace("\"author\":\"@", "\"author\":\"")), Err(NotCanonical));
    assert_eq!(Message::from_trusted(id, Bytes::from_static(b"\xff")), Err(NotCanonical));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        prop_assert!(Unverified::parse(&bytes).is_err());
        prop_assert!(Message::from_trusted(MessageId::from_bytes([0; 32]), Bytes::from(bytes)).is_err());
    }

    #[test]
    fn a_changed_byte_is_noticed_unless_it_only_changes_the_spelling(at in 0_usize..300, byte in any::<u8>()) {
        let message = &feed(1, 1)[0];
        let mut bytes = message.value_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(accepted) = validate(&bytes, None, None) {
            prop_assert_eq!(&accepted, message);
        }
        // Whatever the store gives back must be readable or refused.
        if let Ok(read) = Message::from_trusted(message.id(), Bytes::from(bytes)) {
            let _ = (read.content(), read.content().member("text").map(Cow::from));
        }
    }

    #[test]
    fn what_is_signed_validates_and_reads_back(text in any::<String>(), number in any::<f64>(), time in -1e15..1e15) {
        let content = json!({ "type": "test", "text": text, "number": number, "nested": [{ "10": 1, "9": {} }] });
        let message = sign(&keypair(1), None, None, time, content.to_string().as_bytes()).unwrap();
        let validated = validate(message.value_bytes(), None, None).unwrap();
        prop_assert_eq!(&validated, &message);
        prop_assert_eq!(validated.timestamp(), time);
        let read: serde_json::Value = serde_json::from_str(validated.content_json()).unwrap();
        prop_assert_eq!(&read["text"], &content["text"]);
        let written = validated.content_json().find("\"9\"").unwrap();
        prop_assert!(written < validated.content_json().find("\"10\"").unwrap());
    }
}
