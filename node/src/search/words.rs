//! Texts as words: what of a text can be searched for, in any language.
//!
//! Letters and digits make words; case, accents and ways to write the same letter (NFKD) do not count. Scripts without
//! spaces between words give all pairs of neighbours instead, and the last character alone, so that whatever part of
//! such a text is asked for is found by its pairs. A symbol such as an emoji is a word of its own. Texts and questions
//! go through the same rules; pure.

use icu_normalizer::DecomposingNormalizer;
use icu_properties::CodePointMapData;
use icu_properties::props::{GeneralCategory, GeneralCategoryGroup};

/// Longest word, in characters; what follows of a longer one does not count.
const MAX_WORD: usize = 64;
/// Words of one question that count.
const MAX_ASKED: usize = 32;
/// Shorter words of a question do not count if there are longer ones, as in flumeview-search.
const MIN_ASKED: usize = 3;

/// A word that is searched for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(super) word: String,
    /// Longer words that begin with it are meant, too.
    pub(super) is_prefix: bool,
}

/// All words of a text, in order.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for piece in pieces(text) {
        match piece {
            Piece::Word(word) => words.push(word),
            Piece::Run(run) => {
                words.extend(run.windows(2).map(|pair| pair.iter().collect()));
                words.extend(run.last().map(char::to_string));
            }
        }
    }
    words
}

/// The words that a message has to have to be an answer to a question; none if nothing can be searched for.
pub(crate) fn asked(question: &str) -> Vec<Asked> {
    let mut asked = Vec::new();
    for piece in pieces(question) {
        match piece {
            Piece::Word(word) => asked.push(Asked { word, is_prefix: true }),
            Piece::Run(run) if run.len() == 1 => {
                asked.extend(run.iter().map(|c| Asked { word: c.to_string(), is_prefix: true }));
            }
            Piece::Run(run) => {
                let pairs =
                    run.windows(2).map(|pair| Asked { word: pair.iter().collect(), is_prefix: false });
                asked.extend(pairs);
            }
        }
    }
    let counts = |asked: &Asked| {
        let is_short = asked.word.chars().count() < MIN_ASKED;
        !is_short || !asked.word.chars().all(|c| c.is_alphanumeric() && !is_unspaced(c))
    };
    if asked.iter().any(counts) {
        asked.retain(counts);
    }
    asked.truncate(MAX_ASKED);
    asked
}

/// What a text is made of.
enum Piece {
    Word(String),
    /// Characters of a script that has no spaces between words.
    Run(Vec<char>),
}

fn pieces(text: &str) -> Vec<Piece> {
    let categories = CodePointMapData::<GeneralCategory>::new();
    let mut pieces = Vec::new();
    let (mut word, mut length) = (String::new(), 0);
    let mut run = Vec::new();
    let mut end = |word: &mut String, run: &mut Vec<char>| {
        if !word.is_empty() {
            pieces.push(Piece::Word(std::mem::take(word)));
        }
        if !run.is_empty() {
            pieces.push(Piece::Run(std::mem::take(run)));
        }
    };
    let mut one = [0; 4];
    for c in DecomposingNormalizer::new_nfkd().normalize_iter(text.chars()).flat_map(char::to_lowercase) {
        if is_ignored(c) {
            continue;
        }
        let is_mark = || GeneralCategoryGroup::Mark.contains(categories.get(c));
        if is_unspaced(c) {
            end(&mut word, &mut Vec::new());
            length = 0;
            run.push(c);
        } else if c.is_alphanumeric() || (!word.is_empty() && !c.is_ascii() && is_mark()) {
            end(&mut String::new(), &mut run);
            if length < MAX_WORD {
                word.push(if c == 'ς' { 'σ' } else { c });
            }
            length += 1;
        } else {
            end(&mut word, &mut run);
            length = 0;
            if !c.is_ascii() && categories.get(c) == GeneralCategory::OtherSymbol {
                end(&mut c.encode_utf8(&mut one).to_owned(), &mut run);
            }
        }
    }
    end(&mut word, &mut run);
    pieces
}

/// Accents and vowel points, which many leave out, and characters that only say how others look.
fn is_ignored(c: char) -> bool {
    matches!(c,
        '\u{300}'..='\u{36f}' | '\u{591}'..='\u{5c7}' | '\u{610}'..='\u{61a}' | '\u{640}' | '\u{64b}'..='\u{65f}'
        | '\u{670}' | '\u{200b}'..='\u{200f}' | '\u{3099}' | '\u{309a}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ad}')
}

/// Scripts that are written without spaces between words: Thai, Lao, Burmese, Khmer, kana, and Han.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{e00}'..='\u{e4f}' | '\u{e80}'..='\u{ecf}' | '\u{edc}'..='\u{edf}' | '\u{1000}'..='\u{109f}'
        | '\u{1780}'..='\u{17d3}' | '\u{3005}'..='\u{3007}' | '\u{3041}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_accents_and_punctuation_do_not_count() {
        assert_eq!(words("Café, CRÈME brûlée!"), ["cafe", "creme", "brulee"]);
        assert_eq!(words("ΛΌΓΟΣ λόγος Ёлка"), ["λογοσ", "λογοσ", "елка"]);
        assert_eq!(words("don't_stop 1st ﬁsh"), ["don", "t", "stop", "1st", "fish"]);
        assert_eq!(words("كِتَاب हिन्दी"), ["كتاب", "हिन्दी"], "vowel signs that are letters stay");
        assert_eq!(words(" -- …"), [""; 0]);
    }

    #[test]
    fn scripts_without_spaces_are_found_by_pairs() {
        assert_eq!(words("東京タワー ok"), ["東京", "京タ", "タワ", "ワー", "ー", "ok"]);
        let question = asked("京タワ");
        assert!(question.iter().all(|asked| !asked.is_prefix && words("東京タワー").contains(&asked.word)));
        assert_eq!(asked("京"), [Asked { word: "京".into(), is_prefix: true }]);
        assert_eq!(words("日本go語"), ["日本", "本", "go", "語"]);
        assert!(!words("สวัสดี").is_empty());
    }

    #[test]
    fn symbols_are_words() {
        assert_eq!(words("ship it🚀🚀!"), ["ship", "it", "🚀", "🚀"]);
        assert_eq!(asked("🚀"), [Asked { word: "🚀".into(), is_prefix: true }]);
    }

    #[test]
    fn short_words_of_a_question_count_only_if_there_are_no_longer_ones() {
        let words = |question| asked(question).into_iter().map(|asked| asked.word).collect::<Vec<_>>();
        assert_eq!(words("a Ship at sea"), ["ship", "sea"]);
        assert_eq!(words("ab c"), ["ab", "c"]);
        assert_eq!(words("of 東"), ["東"]);
        assert_eq!(words("?!"), [""; 0]);
        assert_eq!(words(&"word ".repeat(99)).len(), MAX_ASKED);
    }

    #[test]
    fn words_have_a_longest() {
        let [word] = &words(&"x".repeat(1000))[..] else { panic!() };
        assert_eq!(word.len(), MAX_WORD);
    }

    /// SQLite's tokenizer takes all that is not ASCII, and letters and digits, for parts of words.
    #[test]
    fn words_are_nothing_but_letters_digits_and_symbols() {
        for text in [
            "\" OR a* NEAR(b, 2)",
            "a\0b\u{1}c",
            "\u{e000}x",
            "a\u{301}\u{301} \u{301}",
            "x\u{94d}",
            "½ № ㎏ \u{fdfa}",
            "\u{10ffff}",
        ] {
            for word in words(text).into_iter().chain(asked(text).into_iter().map(|asked| asked.word)) {
                let is_clean =
                    !word.is_empty() && word.chars().all(|c| !c.is_ascii() || c.is_ascii_alphanumeric());
                assert!(is_clean, "{word:?} of {text:?}");
                assert!(!word.contains('\u{e000}'), "the mark of names is in no word");
            }
        }
    }
}
