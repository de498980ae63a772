//! `hawsepipe key`: the identity as 24 words (BIP 39) of the 32 bytes that everything of it follows from, the same words
//! that JavaScript's ssb-keys-mnemonic makes of a `secret`, and so Manyverse.

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use bip39::{Language, Mnemonic};
use clap::Subcommand;
use hawsepipe_replication::refs::FeedId;
use ssb_crypto::{AsBytes as _, Keypair};

use super::output;
use crate::datadir::DataDir;
use crate::identity;

/// Words of a key.
const WORDS: usize = 24;
/// What JavaScript takes, of which it reads the first half.
const MOST_WORDS: usize = 48;
/// Nobody types more.
const MAX_INPUT: u64 = 4096;

/// What to do with words.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Print the identity as 24 words. Whoever has them can publish in your name: write them down on paper
    Words,
    /// Make the identity out of its words: of a folder that has none. What you published with it before must come back
    /// from friends before you publish again
    FromWords {
        /// The words; better type them into standard input, where they do not stay in the shell's history
        words: Vec<String>,
    },
}

pub(super) fn run(path: &Path, what: &Key) -> ExitCode {
    crate::init_crypto();
    let done = match what {
        Key::Words => words(path),
        Key::FromWords { words } => from_words(path, words),
    };
    done.unwrap_or_else(|why| output::failed(&why))
}

fn words(path: &Path) -> Result<ExitCode, String> {
    let keypair = identity::read_secret(path).map_err(|error| error.to_string())?;
    let keypair = keypair.ok_or_else(|| format!("{} holds no secret", path.display()))?;
    output::line(&to_words(&keypair)?);
    Ok(ExitCode::SUCCESS)
}

fn from_words(path: &Path, typed: &[String]) -> Result<ExitCode, String> {
    let text = if typed.is_empty() {
        let mut text = String::new();
        let read = std::io::stdin().lock().take(MAX_INPUT).read_to_string(&mut text);
        read.map_err(|error| format!("cannot read the words: {error}"))?;
        text
    } else {
        typed.join(" ")
    };
    let keypair = match to_keypair(&text) {
        Ok(keypair) => keypair,
        Err(why) => return Ok(output::usage(&why)),
    };
    if path.join("secret").exists() {
        return Err(format!(
            "{} holds a secret already, which is never overwritten: take another folder (--path DIR)",
            path.display()
        ));
    }
    let dir = DataDir::prepare(path).map_err(|error| error.to_string())?;
    identity::create_secret(dir.path(), &keypair).map_err(|error| error.to_string())?;
    output::line(&format!("id: {}", FeedId::from_bytes(keypair.public.0)));
    output::note(
        "hawsepipe: if you have published with this identity before, import a backup or let friends' peers give your \
         messages back before you publish: another message in their place would fork the feed",
    );
    Ok(ExitCode::SUCCESS)
}

fn to_words(keypair: &Keypair) -> Result<String, String> {
    let seed = keypair.as_bytes().get(..32).unwrap_or_default();
    let words = Mnemonic::from_entropy_in(Language::English, seed);
    words.map(|words| words.to_string()).map_err(|error| error.to_string())
}

fn to_keypair(text: &str) -> Result<Keypair, String> {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    if !(WORDS..=MOST_WORDS).contains(&words.len()) {
        return Err(format!("there should be {WORDS} words, not {}", words.len()));
    }
    let mnemonic = Mnemonic::parse_in_normalized(Language::English, &words[..WORDS].join(" "));
    let mnemonic = mnemonic.map_err(|error| format!("these are not the words of a key: {error}"))?;
    let (entropy, len) = mnemonic.to_entropy_array();
    Keypair::from_seed(&entropy[..len]).ok_or_else(|| "these are not the words of a key".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the documentation of ssb-keys-mnemonic 1.0.1.
    const TOLD: &str = "body hair useful camp warm into cause riot two bamboo kick educate dinosaur advice seed type \
                        crisp where guilt avocado output rely lunch goddess";
    const ID: &str = "@1nf1T1tUSa43dWglCHzyKIxV61jG/EeeL1Xq1Nk8I3U=.ed25519";

    #[test]
    fn words_are_those_of_javascript() {
        crate::init_crypto();
        let keypair = to_keypair(TOLD).unwrap();
        assert_eq!(FeedId::from_bytes(keypair.public.0).to_string(), ID);
        assert_eq!(to_words(&keypair).unwrap().split(' ').collect::<Vec<_>>(), words_of(TOLD));
        let twice = format!("  {}\n{TOLD}", TOLD.to_uppercase());
        assert_eq!(to_keypair(&twice).unwrap().public.0, keypair.public.0);
    }

    fn words_of(text: &str) -> Vec<&str> {
        text.split_whitespace().collect()
    }

    #[test]
    fn a_wrong_word_is_found() {
        crate::init_crypto();
        assert!(to_keypair(&TOLD.replace("goddess", "useful")).is_err());
        assert!(to_keypair(&TOLD.replace("goddess", "hawsepipe")).is_err());
        assert!(to_keypair("body hair").unwrap_err().contains("24 words, not 2"));
    }
}
