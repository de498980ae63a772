//! Messages against vectors made with the JavaScript libraries, and properties.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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
