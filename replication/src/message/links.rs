//! What a content names: feeds, messages, blobs and channels, as ssb-backlinks finds them.

use super::json::{member, string_end, unescape};

/// Longest name of a channel, without the `#`, in characters that JavaScript counts.
const MAX_CHANNEL: usize = 29;
/// Lengths of what can be a reference: feed, message or blob, cloaked message.
const REFERENCE: std::ops::RangeInclusive<usize> = 52..=53;

/// Everything that a content in compact canonical JSON names, each once: references wherever they are a value of
/// their own, channels by `#name`, and what its `channel` says. In no particular order.
pub fn links(content: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut add = |link: String| {
        if !found.contains(&link) {
            found.push(link);
        }
    };
    for text in values(content) {
        match text.as_bytes().first() {
            Some(b'@' | b'%' | b'&') if is_reference(text) => add(text.to_owned()),
            Some(b'#') => channel_of(&unescape(text)).into_iter().for_each(&mut add),
            _ => {}
        }
    }
    let channel = member(content, "channel").and_then(|text| text.strip_prefix('"')?.strip_suffix('"'));
    let channel = channel.and_then(|text| normal_channel(&unescape(text)));
    channel.into_iter().for_each(|name| add(format!("#{name}")));
    found
}

/// A text that is `#` and a name, as the channel is written.
fn channel_of(text: &str) -> Option<String> {
    let name = text.strip_prefix('#')?;
    let is_one = text.encode_utf16().count() < 30 && !name.is_empty();
    let is_word = !name.contains(|c: char| c.is_whitespace() || c == '#');
    (is_one && is_word).then(|| normal_channel(name)).flatten().map(|name| format!("#{name}"))
}

/// A channel's name as all its spellings are written; `None` if nothing, or too much, is left.
pub fn normal_channel(name: &str) -> Option<String> {
    const DROPPED: &str = ",.?!<>()[]\"#";
    let lower = name.to_lowercase();
    let kept: String = lower.chars().filter(|c| !c.is_whitespace() && !DROPPED.contains(*c)).collect();
    (1..=MAX_CHANNEL).contains(&kept.encode_utf16().count()).then_some(kept)
}

/// Whether a text names a feed, a message, a cloaked message or a blob.
pub fn is_reference(text: &str) -> bool {
    let fits = |sigil: char, suffixes: &[&str]| {
        let body = text.strip_prefix(sigil);
        let body = body.and_then(|body| suffixes.iter().find_map(|suffix| body.strip_suffix(suffix)));
        body.is_some_and(|body| {
            let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
            body.len() == 44 && body.ends_with('=') && body.bytes().take(43).all(is_base64)
        })
    };
    match text.as_bytes().first() {
        Some(b'@') => fits('@', &[".ed25519"]),
        Some(b'%') => fits('%', &[".sha256", ".cloaked"]),
        Some(b'&') => fits('&', &[".sha256"]),
        _ => false,
    }
}

/// The texts in it that begin with a sigil and are values, not names of members, as they are written.
fn values(content: &str) -> impl Iterator<Item = &str> {
    let mut rest = content;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find('"')?;
            let end = string_end(rest.as_bytes(), start)?;
            let text = &rest[start + 1..end - 1];
            rest = &rest[end..];
            let is_candidate = match text.as_bytes().first() {
                Some(b'@' | b'%' | b'&') => REFERENCE.contains(&text.len()),
                Some(b'#') => true,
                _ => false,
            };
            if is_candidate && !rest.starts_with(':') {
                return Some(text);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEED: &str = "@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=.ed25519";
    const MESSAGE: &str = "%7qizFH9dHuG2wMUg8CAP/1Olg2exISVkjJpvlCYATu4=.sha256";
    const BLOB: &str = "&47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=.sha256";

    #[test]
    fn references_are_found_wherever_they_are_a_value() {
        let content = format!(
            r#"{{"type":"post","root":"{MESSAGE}","text":"see {FEED} and \"{BLOB}\"","mentions":[{{"link":"{FEED}"}},"{BLOB}","{FEED}"],"{MESSAGE}":1,"a\\":"\\"}}"#
        );
        assert_eq!(links(&content), [MESSAGE, FEED, BLOB]);
    }

    /// As ssb-backlinks 2.1.1 and ssb-ref 2 take them.
    #[test]
    fn channels_are_written_in_one_way() {
        let found = |content: &str| links(content);
        assert_eq!(found(r##"{"type":"post","channel":"#New-People"}"##), ["#new-people"]);
        assert_eq!(found(r#"{"type":"post","channel":"two words"}"#), ["#twowords"]);
        assert_eq!(
            found(r##"{"type":"post","mentions":[{"link":"#Ssb"},{"link":"#a b"},{"link":"#"}]}"##),
            ["#ssb"]
        );
        assert_eq!(found(r#"{"type":"post","channel":null}"#), [""; 0]);
        assert_eq!(found(&format!(r##"{{"type":"post","channel":"{}"}}"##, "x".repeat(30))), [""; 0]);
        assert_eq!(found(r##"{"type":"post","channel":"ssb","mentions":["#ssb"]}"##), ["#ssb"]);
    }

    #[test]
    fn what_only_looks_like_a_reference_is_none() {
        for text in
            [&FEED[1..], &FEED.replace("ed25519", "ed25518"), "@bob", &MESSAGE.replace('=', "A"), "%%%"]
        {
            assert!(!is_reference(text), "{text}");
            assert_eq!(links(&format!(r#"{{"type":"x","a":"{text}"}}"#)), [""; 0]);
        }
        assert!(is_reference(&MESSAGE.replace("sha256", "cloaked")));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String) {
            links(&text);
            links(&format!("{{\"channel\":\"{text}\"}}"));
        }
    }
}
