//! `ssb-validation-dataset`, the network's own cases for what a valid classic message is.

use std::fs;

use hawsepipe_replication::message::{HmacKey, InvalidMessage, Message, Tip, validate};
use hawsepipe_tests::js;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

const CASES: usize = 126;
const VALID: usize = 27;

/// One case. The message stays as it was written: the order of its keys is part of the question.
#[derive(Deserialize)]
struct Case {
    #[serde(borrow)]
    message: &'static RawValue,
    #[serde(rename = "hmacKey")]
    hmac_key: Value,
    state: Option<State>,
    valid: bool,
    error: Option<String>,
    id: String,
}

#[derive(Deserialize)]
struct State {
    id: String,
    sequence: u64,
}

fn cases() -> Vec<Case> {
    let file = js::installed("tools", "ssb-validation-dataset/data.json");
    let text: &'static str = fs::read_to_string(file).unwrap().leak();
    serde_json::from_str(text).unwrap()
}

fn judge(case: &Case) -> Result<Message, InvalidMessage> {
    let hmac = HmacKey::from_json(&case.hmac_key)?;
    let tip = case.state.as_ref().map(|state| Tip {
        id: state.id.parse().expect("the dataset's states are well-formed"),
        sequence: state.sequence,
    });
    validate(case.message.get().as_bytes(), hmac.as_ref(), tip.as_ref())
}

#[test]
fn every_case_of_the_dataset_is_judged_as_the_dataset_does() {
    let cases = cases();
    assert_eq!(cases.len(), CASES, "the dataset has changed");
    let mut wrong = Vec::new();
    let mut accepted = 0;
    for (number, case) in cases.iter().enumerate() {
        let verdict = judge(case);
        accepted += usize::from(verdict.is_ok());
        let fitting = match (&verdict, &case.error) {
            (Ok(message), None) => case.valid && message.id().to_string() == case.id,
            (Err(reason), Some(text)) => !case.valid && fits(number, text, reason.label()),
            _ => false,
        };
        if !fitting {
            let verdict = verdict.map(|message| message.id());
            wrong.push(format!("case {number}: {verdict:?}, expected {:?} {}", case.error, case.id));
        }
    }
    assert!(wrong.is_empty(), "{} cases are judged otherwise:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(accepted, VALID);
}

/// Cases that are wrong in more than one way, with the fault that ssb-validate's order of checks, which is
/// ours, meets before the one that the dataset names.
const MET_FIRST: [(usize, &str); 6] = [
    (44, "signature_form"),
    (47, "signature_form"),
    (116, "first_previous"),
    (118, "author"),
    (122, "signature_form"),
    (124, "signature_form"),
];

fn fits(number: usize, text: &str, label: &str) -> bool {
    match MET_FIRST.iter().find(|(case, _)| *case == number) {
        Some((_, first)) => label == *first,
        None => reasons(text).contains(&label),
    }
}

/// Our labels for what the dataset says in words.
fn reasons(text: &str) -> &'static [&'static str] {
    match text {
        "Message must not be null" | "Message must be an object" => &["not_an_object"],
        "Message author must be a string"
        | "Message author must end with '.ed25519'"
        | "Author must decode to a value with 32 bytes" => &["author"],
        "Signature base64 must be canonical"
        | "Message signature must end with '.sig.ed25519'"
        | "Signature must decode to a value with 64 bytes" => &["signature_form"],
        "Signature value must verify the unsigned message bytes" => &["signature"],
        "Message previous must be the previous message ID" => &["fork"],
        "Message timestamp must be a number" => &["timestamp"],
        "Message must have a valid order" => &["key_order"],
        "Message hash must be 'sha256'" => &["hash_name"],
        "Message must decode a value with fewer than 8192 bytes (latin1)" => &["too_long"],
        "Message content must not be null"
        | "Message content must be a string or an object"
        | "Message content string must contain '.box'"
        | "Message content string base64 must be canonical" => &["content_form"],
        "Message content must not be an array"
        | "Message content type must be a string"
        | "Message content type length must not be greater than 52"
        | "Message content type length must not be less than 3" => &["content_type"],
        "HMAC key must be a string"
        | "HMAC key must be canonical base64"
        | "HMAC key must decode to a value with 32 bytes" => &["hmac_key"],
        _ => &[],
    }
}
