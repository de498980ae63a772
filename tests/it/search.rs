//! Full-text search of a node: it follows the log, forgets what is deleted, and can be made again.

use std::fs;
use std::path::Path;

use hawsepipe_tests::generated::Generated;
use hawsepipe_tests::lab::{self, Lab};
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::wait::{self, SOON};
use serde_json::{Value, json};

/// A word that no generated text has.
const WORD: &str = "xyzzyplugh";

fn found(peer: &Peer, question: &str) -> Vec<String> {
    let answers = peer.call("search.query", &[json!({ "query": question })]);
    answers.iter().map(|answer| answer["key"].as_str().unwrap().to_owned()).collect()
}

/// Whether a word stands in any file of a folder.
fn is_on_disk(dir: &Path, word: &str) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return is_on_disk(&path, word);
        }
        let bytes = fs::read(&path).unwrap_or_default();
        bytes.windows(word.len()).any(|window| window == word.as_bytes())
    })
}

#[test]
fn what_is_published_is_found_at_once_and_what_is_deleted_no_more() {
    lab::run(|lab| {
        let host = lab.host("node");
        let peer = Setup::on(&host).solitary().start();
        let me = peer.id().to_owned();
        let text = format!("a {WORD} café in 東京タワー");
        let public = peer.publish(&json!({ "type": "post", "text": text }));
        let secret = peer.publish(&json!({ "type": "post", "text": format!("hidden{WORD}"), "recps": [me] }));
        peer.publish(&json!({ "type": "post", "text": "the last one" }));
        for question in [WORD, "xyz", "CAFE", "café", "京タ", "東"] {
            assert_eq!(found(&peer, question), [public.as_str()], "{question}");
        }
        let hidden = format!("hidden{WORD}");
        let answer = &peer.call("search.query", &[json!({ "query": hidden })])[0];
        assert_eq!((&answer["key"], &answer["value"]["private"]), (&json!(secret), &json!(true)));
        assert!(!is_on_disk(peer.setup().dir(), &hidden), "what was opened is not kept");
        peer.ok(&["erase", &public]);
        assert_eq!(found(&peer, WORD), [""; 0]);
        peer.ok(&["erase", &secret]);
        assert_eq!(found(&peer, &hidden), [""; 0]);
        let dir = peer.setup().dir().to_owned();
        assert!(peer.stop().success());
        assert!(!is_on_disk(&dir, WORD), "nor are the words of what was deleted");
    });
}

/// A node that has two thousand messages, not started yet.
fn with_corpus(lab: &mut Lab) -> (Generated, Setup) {
    let corpus = Generated::load(2_000);
    let host = lab.host("node");
    let dir = host.dir().join("ours");
    fs::create_dir_all(&dir).unwrap();
    corpus.store_into(&dir);
    (corpus, Setup::on(&host).path(dir).solitary())
}

#[test]
fn feeds_that_we_block_are_in_no_answer() {
    lab::run(|lab| {
        let (corpus, setup) = with_corpus(lab);
        let peer = setup.start();
        let author = &corpus.clock.iter().max_by_key(|(_, count)| *count).unwrap().0;
        let posts = json!({ "query": [{ "$filter": { "value": { "content": { "type": "post" } } } }] });
        let by_author = json!({ "query": [{ "$filter": { "value": { "author": author } } }] });
        let post = peer.call("query.read", std::slice::from_ref(&posts));
        let post = post.iter().find(|post| post["value"]["author"] == json!(author)).unwrap();
        let word = post["value"]["content"]["text"]
            .as_str()
            .unwrap()
            .split(' ')
            .find(|word| word.len() > 4)
            .unwrap();
        let asked = |method: &str, options: &Value| {
            let answers = peer.call(method, std::slice::from_ref(options));
            answers.iter().filter(|answer| answer["value"]["author"] == json!(author)).count()
        };
        let questions = [
            ("search.query", json!({ "query": word })),
            ("query.read", posts),
            ("messagesByType", json!({ "type": "post" })),
        ];
        wait::until("the index to have them", SOON, || {
            let missing = questions.iter().find(|(method, options)| asked(method, options) == 0);
            missing.map_or(Ok(()), |missing| Err(format!("{missing:?}")))
        });
        peer.block(author);
        wait::until("what they said to be in no answer", SOON, || {
            let left: Vec<_> =
                questions.iter().filter(|(method, options)| asked(method, options) > 0).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        assert!(asked("query.read", &by_author) > 0, "unless they are asked for by name");
    });
}

#[test]
fn the_index_is_made_again_when_it_is_gone_or_damaged() {
    lab::run(|lab| {
        let (corpus, mut setup) = with_corpus(lab);
        let dir = setup.dir().to_owned();
        let index = dir.join("hawsepipe/search/index");
        let text = corpus.read().find_map(|(message, _)| {
            let content: Value = serde_json::from_str(message.content_json()).ok()?;
            Some(content["text"].as_str()?.to_owned())
        });
        let word = text.unwrap().split(' ').find(|word| word.len() > 3).unwrap().to_owned();
        let mut expected = None;
        for damage in [
            |_: &Path| {},
            |index: &Path| fs::remove_dir_all(index.parent().unwrap()).unwrap(),
            |index: &Path| fs::write(index, "no index").unwrap(),
            |index: &Path| {
                let file = fs::File::options().write(true).open(index).unwrap();
                file.set_len(file.metadata().unwrap().len() / 3).unwrap();
            },
        ] {
            let peer = setup.start();
            wait::until("the index to reach the log's end", SOON, || {
                let progress = peer.call("progress", &[])[0]["search"].take();
                let is_level = progress["current"] == progress["target"] && progress["target"] != 0;
                if is_level { Ok(()) } else { Err(progress.to_string()) }
            });
            let answers = found(&peer, &word);
            assert!(!answers.is_empty());
            assert_eq!(expected.get_or_insert_with(|| answers.clone()), &answers);
            setup = peer.kill();
            damage(&index);
        }
    });
}
