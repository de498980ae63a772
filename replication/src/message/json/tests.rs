//! Vectors from Node 20's `JSON.parse` and `JSON.stringify`, and properties.

use proptest::prelude::*;

use super::*;

fn compact(text: &str) -> Result<String, JsonError> {
    Ok(String::from_utf8(parse(text.as_bytes())?.to_compact()).unwrap())
}

fn pretty(text: &str) -> String {
    String::from_utf8(parse(text.as_bytes()).unwrap().to_pretty()).unwrap()
}

#[test]
fn array_indices_come_first_and_of_equal_keys_the_last_counts() {
    let text = r#"{"b":1,"10":1,"9":2,"a":3,"-1":4,"01":5,"4294967295":6,"4294967294":7,"b":8}"#;
    let in_order = r#"{"9":2,"10":1,"4294967294":7,"b":8,"a":3,"-1":4,"01":5,"4294967295":6}"#;
    assert_eq!(compact(text).unwrap(), in_order);
    assert_eq!(compact(in_order).unwrap(), in_order);
}

#[test]
fn the_order_of_keys_is_right_in_large_objects_too() {
    let keys =
        (0..100).map(|i| if i % 2 == 0 { format!("\"k{i}\":{i}") } else { format!("\"{}\":{i}", 100 - i) });
    let text = format!("{{{},\"k0\":\"again\"}}", keys.collect::<Vec<_>>().join(","));
    let odd = (1..100).step_by(2).map(|n| format!("\"{n}\":{}", 100 - n));
    let even = (2..100).step_by(2).map(|i| format!("\"k{i}\":{i}"));
    let expected = odd.chain(["\"k0\":\"again\"".to_owned()]).chain(even).collect::<Vec<_>>().join(",");
    assert_eq!(compact(&text).unwrap(), format!("{{{expected}}}"));
}

#[test]
fn keys_that_mean_something_to_javascript_are_ordinary_and_keys_are_compared_unescaped() {
    assert_eq!(compact(r#"{"__proto__":1,"constructor":2}"#).unwrap(), r#"{"__proto__":1,"constructor":2}"#);
    assert_eq!(compact(r#"{"a":1,"\u0061":2}"#).unwrap(), r#"{"a":2}"#);
    assert_eq!(compact(r#"{"a":1,"\u0031":2}"#).unwrap(), r#"{"1":2,"a":1}"#);
}

#[test]
fn numbers_are_written_as_ecmascript_writes_them() {
    let cases = [
        ("1e21", "1e+21"),
        ("1e20", "100000000000000000000"),
        ("1e-6", "0.000001"),
        ("1e-7", "1e-7"),
        ("0.30000000000000004", "0.30000000000000004"),
        ("5e-324", "5e-324"),
        ("2e-324", "0"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("0.00001", "0.00001"),
        ("-1e-10", "-1e-10"),
        ("0.33333333333333331483", "0.3333333333333333"),
        ("9007199254740993", "9007199254740992"),
        ("123456789012345678901", "123456789012345680000"),
        ("999999999999999", "999999999999999"),
        ("1.0", "1"),
        ("1E2", "100"),
        ("15e+299", "1.5e+300"),
        ("1e400", "null"),
        ("-1e400", "null"),
        ("1550074432723.0059", "1550074432723.0059"),
    ];
    for (read, written) in cases {
        assert_eq!(compact(read).unwrap(), written, "{read}");
        if written != "null" {
            let mut out = Vec::new();
            write_number(read.parse().unwrap(), &mut out);
            assert_eq!(out, written.as_bytes(), "{read}");
        }
    }
    assert_eq!(parse(b"1e400").unwrap().as_f64(), Some(f64::INFINITY));
}

#[test]
fn strings_are_escaped_as_ecmascript_escapes_them() {
    let cases = [
        (r#""\/\u002f""#, r#""//""#),
        (r#""\u00e9\u20AC""#, r#""é€""#),
        (r#""\u0022\u005C\u0008\u000C\u000a\u000D\u0009""#, r#""\"\\\b\f\n\r\t""#),
        (r#""\u0000\u001F\u000b""#, r#""\u0000\u001f\u000b""#),
        ("\"\u{7f}\\u007F\u{2028}\\u2029\u{feff}\"", "\"\u{7f}\u{7f}\u{2028}\u{2029}\u{feff}\""),
        (r#""\uD83D\uDE00""#, "\"😀\""),
        (r#""\uD83D""#, r#""\ud83d""#),
        (r#""\uDE00\uD83D""#, r#""\ude00\ud83d""#),
        (r#""\uD83Dx\uDE00""#, r#""\ud83dx\ude00""#),
        (r#""\uD83D\n""#, r#""\ud83d\n""#),
        (r#""\uD83D\uD83D\uDE00""#, "\"\\ud83d😀\""),
    ];
    for (read, written) in cases {
        assert_eq!(compact(read).unwrap(), written, "{read}");
        assert_eq!(compact(written).unwrap(), written);
    }
}

#[test]
fn indentation_is_two_spaces_and_empty_things_stay_together() {
    assert_eq!(
        pretty(r#" { "a" : [ 1 , { } , [ ] , { "b" : null } ] , "c" : true } "#),
        "{\n  \"a\": [\n    1,\n    {},\n    [],\n    {\n      \"b\": null\n    }\n  ],\n  \"c\": true\n}"
    );
    assert_eq!(pretty("[]"), "[]");
    assert_eq!(pretty(" \"x\" "), "\"x\"");
}

#[test]
fn what_is_not_json_is_refused() {
    let not_json = [
        "",
        " ",
        "nul",
        "nullx",
        "True",
        "01",
        "-",
        "1.",
        ".5",
        "1e",
        "1e+",
        "+1",
        "0x10",
        "NaN",
        "1 2",
        "'a'",
        "\"",
        "\"\\",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u+123\"",
        "\"\\u12é4\"",
        "\"\t\"",
        "\"\n\"",
        "[1,]",
        "[,1]",
        "[1",
        "[1 2]",
        "{",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{\"a\":1",
        "{\"a\" 1}",
        "{1:1}",
        "\u{feff}1",
        "\u{a0}1",
        "]",
        "}",
        "[}",
        "{]",
    ];
    for text in not_json {
        assert!(matches!(compact(text), Err(JsonError::Syntax { .. })), "{text:?} gave {:?}", compact(text));
    }
    assert_eq!(parse(b"\"\xff\""), Err(JsonError::Utf8));
    assert_eq!(parse(b"\"\xed\xa0\x80\""), Err(JsonError::Utf8));
}

#[test]
fn nesting_has_a_limit() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(compact(&nested(MAX_DEPTH)).is_ok());
    assert_eq!(compact(&nested(MAX_DEPTH + 1)), Err(JsonError::Depth));
    assert_eq!(compact(&"{\"a\":".repeat(100_000)), Err(JsonError::Depth));
}

#[test]
fn what_is_spelled_as_written_is_borrowed() {
    let value = parse(br#"{"text":"a\n\"b\" c","n":[12,-3.5]}"#).unwrap();
    let Value::Object(members) = &value else { unreachable!() };
    assert!(members.iter().all(|(key, _)| matches!(key, Cow::Borrowed(_))));
    assert!(matches!(&members[0].1, Value::String(Cow::Borrowed(r#"a\n\"b\" c"#))));
    let Value::Array(items) = &members[1].1 else { unreachable!() };
    assert!(items.iter().all(|item| matches!(item, Value::Number(Cow::Borrowed(_)))));
}

#[test]
fn length_is_counted_in_utf16_units_of_what_a_string_means() {
    for (written, units) in
        [("", 0), ("abc", 3), (r#"\"\\\n"#, 3), ("é€", 2), ("😀", 2), (r"\ud83dx", 2), (r"\u0001", 1)]
    {
        assert_eq!(utf16_len(written), units, "{written}");
    }
}

#[test]
fn members_are_found_without_parsing() {
    let object = r#"{"a":"}\"]","b":{"c":[1,"]"],"d":{}},"e":-1.5e+30,"":null,"f":[]}"#;
    let members: Vec<_> = Members::of(object).collect();
    let expected =
        [("a", r#""}\"]""#), ("b", r#"{"c":[1,"]"],"d":{}}"#), ("e", "-1.5e+30"), ("", "null"), ("f", "[]")];
    assert_eq!(members, expected);
    assert_eq!(member(object, "e"), Some("-1.5e+30"));
    assert_eq!(member(object, "c"), None);
    assert_eq!(Members::of("{}").count() + Members::of("[1]").count() + Members::of("").count(), 0);
}

/// JSON with odd spellings, from a small alphabet so that keys collide and escapes meet.
fn odd_json_with(number: impl Strategy<Value = String> + 'static) -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a", "é", "😀", "1", "0", "\\n", "\\/", "\\\"", "\\\\", "\\u0041", "\\u0031", "\\uD83D", "\\uDE00",
        "\\ud83d", "\\u001F", "\u{2028}",
    ]);
    let string = prop::collection::vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()));
    let leaf = prop_oneof![Just("null".to_owned()), Just("true".to_owned()), number, string.clone()];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        let members = prop::collection::vec((string.clone(), inner.clone()), 0..24);
        prop_oneof![
            prop::collection::vec(inner, 0..6).prop_map(|items| format!("[ {} ]", items.join(" ,"))),
            members.prop_map(|members| {
                let members: Vec<_> =
                    members.into_iter().map(|(key, value)| format!("{key} :{value}")).collect();
                format!("{{\n{}\r\n}}", members.join(",\t"))
            }),
        ]
    })
}

fn odd_json() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        any::<f64>().prop_filter("JSON has no such number", |n| n.is_finite()).prop_map(|n| format!("{n:e}")),
        any::<i64>().prop_map(|n| n.to_string()),
    ];
    odd_json_with(number)
}

/// The value as another JSON library understands it; that one, too, takes the last of equal keys.
fn meaning(text: &str) -> Option<serde_json::Value> {
    serde_json::from_str(text).ok()
}

proptest! {
    #[test]
    fn the_written_form_is_a_fixed_point(text in odd_json()) {
        let value = parse(text.as_bytes()).unwrap();
        let (compact, pretty) = (value.to_compact(), value.to_pretty());
        prop_assert_eq!(&parse(&compact).unwrap(), &value);
        prop_assert_eq!(&parse(&compact).unwrap().to_compact(), &compact);
        prop_assert_eq!(&parse(&pretty).unwrap().to_compact(), &compact);
        prop_assert_eq!(parse(&pretty).unwrap().to_pretty(), pretty);
    }

    #[test]
    // With small numbers, as that library keeps large integers whole and rounds some fractions otherwise.
    fn the_written_form_means_the_same(text in odd_json_with(any::<i32>().prop_map(|n| n.to_string()))) {
        let written = compact(&text).unwrap();
        // Lone surrogates mean nothing to that library.
        if let Some(meant) = meaning(&text) {
            prop_assert_eq!(meaning(&written), Some(meant));
        }
    }

    #[test]
    fn scanning_finds_what_parsing_finds(text in odd_json()) {
        let written = compact(&text).unwrap();
        let value = parse(written.as_bytes()).unwrap();
        let parsed = if let Value::Object(members) = value { members } else { Vec::new() };
        let parsed: Vec<_> =
            parsed.into_iter().map(|(key, value)| (key.into_owned(), String::from_utf8(value.to_compact()).unwrap())).collect();
        let scanned: Vec<_> =
            Members::of(&written).map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        prop_assert_eq!(scanned, parsed);
    }

    #[test]
    fn escaping_round_trips(text in any::<String>()) {
        prop_assert!(unescape(&escape(&text)) == text.as_str());
        let quoted = format!("\"{}\"", escape(&text));
        prop_assert_eq!(compact(&quoted).unwrap(), quoted);
        prop_assert_eq!(utf16_len(&escape(&text)), text.encode_utf16().count());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn no_text_makes_it_panic(text in "[\\[\\]{}:,\"\\\\u0-9a-f\u{1f600}é +-.eE]{0,48}") {
        if let Ok(value) = parse(text.as_bytes()) {
            prop_assert_eq!(&parse(&value.to_compact()).unwrap().to_pretty(), &value.to_pretty());
        }
        let _ = Members::of(&text).count();
        let _ = unescape(&text);
        let _ = utf16_len(&text);
    }
}
