//! Other people's text, made fit for a terminal: without what a terminal obeys, without what makes it look other than it
//! is, and in lines that fit.

use chrono::{DateTime, Local};

/// Longest name, channel or the like that is shown.
const MAX_WORD: usize = 40;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Whether a terminal obeys a character (escape sequences begin with a control character, some with one above 127), or
/// it reorders or hides what stands around it.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // marks, overrides and isolates of the direction of writing
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            // separators of lines and paragraphs, the byte order mark, and invisible tags
            | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// Text of several lines.
pub(super) fn clean(text: &str) -> String {
    let text = text.replace('\t', "    ");
    text.chars().filter(|c| *c == '\n' || !is_harmful(*c)).collect()
}

/// Text as one line, with single blanks.
pub(super) fn one_line(text: &str) -> String {
    let clean: String = text.chars().filter(|c| c.is_whitespace() || !is_harmful(*c)).collect();
    clean.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A name or the like: one line of bounded length.
pub(super) fn word(text: &str) -> String {
    shortened(&one_line(text), MAX_WORD)
}

/// At most `max` characters; what is cut off is marked.
pub(super) fn shortened(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    text.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

/// The lines of clean text that fit into `width` columns behind `indent`.
pub(super) fn wrapped(text: &str, width: usize, indent: &str) -> Vec<String> {
    let width = width.saturating_sub(indent.len()).max(1);
    let lines = text.trim_end().lines();
    let lines = lines.flat_map(|line| textwrap::wrap(line, width)).map(|line| format!("{indent}{line}"));
    lines.map(|line| line.trim_end().to_owned()).collect()
}

/// When something was, as people say it: `now` and `then` are milliseconds since 1970.
pub(super) fn when(now: u64, then: f64) -> String {
    let age = now as f64 - then;
    // Somebody's clock may be ahead, a little.
    let seconds = if age > -(MINUTE as f64 * 1000.0) { Some((age.max(0.0) / 1000.0) as u64) } else { None };
    match seconds {
        Some(seconds) if seconds < MINUTE => "just now".to_owned(),
        Some(seconds) if seconds < HOUR => format!("{} min ago", seconds / MINUTE),
        Some(seconds) if seconds < DAY => format!("{} h ago", seconds / HOUR),
        Some(seconds) if seconds < 7 * DAY => format!("{} d ago", seconds / DAY),
        Some(_) | None => local_time(then),
    }
}

fn local_time(then: f64) -> String {
    let time = DateTime::from_timestamp_millis(then as i64);
    let time = time.map(|time| time.with_timezone(&Local).format("%Y-%m-%d %H:%M").to_string());
    time.unwrap_or_else(|| "at no time".to_owned())
}

/// JSON in which strings hold nothing that a terminal obeys. JSON escapes the first 32 characters by itself; all others
/// stand in strings only, where they may be escaped too.
pub(super) fn json_for_terminals(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if is_harmful(c) {
            let mut units = [0; 2];
            let units = c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}"));
            escaped.extend(units);
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sets the title, clears the screen, goes back, rings, turns the writing around, and begins an escape sequence
    /// with one character.
    const HOSTILE: &str = "a\u{1b}]0;title\u{7}b\u{1b}[2Jc\rd\u{8}e\u{9b}31mf\u{202e}g\u{7f}h\u{e0041}";

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        for made in [clean(HOSTILE), one_line(HOSTILE), word(HOSTILE)] {
            assert!(!made.chars().any(is_harmful), "{made:?}");
            assert!(made.starts_with("a]0;title"), "{made:?}");
        }
        assert_eq!(clean("one\r\n\ttwo"), "one\n    two");
        assert_eq!(one_line("one\r\n\u{2028}\t two "), "one two");
        assert_eq!(word(&"x".repeat(50)).chars().count(), MAX_WORD);
    }

    #[test]
    fn json_for_terminals_says_the_same() {
        let value = serde_json::json!({ "text": HOSTILE, HOSTILE: "ä 👍" });
        let escaped = json_for_terminals(&value.to_string());
        assert!(!escaped.chars().any(is_harmful), "{escaped:?}");
        assert!(escaped.contains("ä 👍"));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }

    #[test]
    fn times_are_said_as_people_say_them() {
        let now = 1_700_000_000_000;
        let ago = |seconds: u64| when(now, (now - seconds * 1000) as f64);
        assert_eq!(ago(5), "just now");
        assert_eq!(ago(61), "1 min ago");
        assert_eq!(ago(3 * HOUR), "3 h ago");
        assert_eq!(ago(6 * DAY), "6 d ago");
        assert!(ago(60 * DAY).starts_with("2023-09-1"), "{}", ago(60 * DAY));
        assert_eq!(when(now, now as f64 + 30_000.0), "just now");
        assert!(when(now, now as f64 + 1e10).starts_with("2024-03"));
        assert_eq!(when(now, f64::MAX), "at no time");
    }

    #[test]
    fn lines_fit_and_keep_their_own_ends() {
        let lines = wrapped("one two three\n\n- four\n", 9, "  ");
        assert_eq!(lines, ["  one two", "  three", "", "  - four"]);
        assert!(wrapped("日本語日本語", 8, "  ").len() > 1, "wide characters take two columns");
    }
}
