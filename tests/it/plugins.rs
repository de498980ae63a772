//! What the plugins answer that users add to ssb-server for their clients: both have the same messages and the same owner,
//! and are asked the same.

use std::fs;
use std::thread;

use hawsepipe::identity::load_or_create_secret;
use hawsepipe_tests::control::Control;
use hawsepipe_tests::generated::Generated;
use hawsepipe_tests::js::{Foreign, Options, Stack};
use hawsepipe_tests::lab::{self, Host};
use hawsepipe_tests::peer::{PORT, Peer, Setup};
use hawsepipe_tests::wait::{self, SOON, SYNC};
use serde_json::{Value, json};

use crate::queries::{ask, owner};

const MESSAGES: usize = 2_000;
const CAT: &str = "&47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=.sha256";
const DOG: &str = "&qaCU1v47ERGsGpRq0Z5rhLiZs1vpXz07bp1JFnfUkE4=.sha256";

/// Ours and theirs, with the same messages.
struct Both {
    corpus: Generated,
    ours: Peer,
    theirs: Foreign,
    /// Sessions of their owner.
    control: [Control; 2],
}

impl Both {
    fn start(host: &Host) -> Self {
        let corpus = Generated::load(MESSAGES);
        let dir = host.dir().join("ours");
        fs::create_dir_all(&dir).unwrap();
        load_or_create_secret(&dir).unwrap();
        let classic = host.dir().join("classic");
        fs::create_dir_all(&classic).unwrap();
        fs::copy(dir.join("secret"), classic.join("secret")).unwrap();
        let setup = Setup::on(host).path(&dir).solitary().set("forkGuard.dangerPublishAnyway", true);
        let ours = setup.start();
        let options = Options { port: PORT + 1, plugins: true, ..Options::default() };
        let mut theirs = Foreign::start(host, Stack::Classic, &options);
        let file = Value::from(corpus.lines().to_string_lossy());
        theirs.ask("import", &[file], SYNC).unwrap();
        let control = [ours.control(), owner(host, &theirs)];
        // Both receive everything after it was written, so the order by resolved time is the same.
        for (message, _) in corpus.read() {
            let value: Value = serde_json::from_slice(message.value_bytes()).unwrap();
            control[0].call("add", vec![value]).unwrap();
        }
        Self { corpus, ours, theirs, control }
    }

    /// Publishes on theirs, and adds it to ours.
    fn publish(&mut self, content: Value) -> String {
        let key = self.theirs.publish(&content);
        let value = self.theirs.ok("get", &[json!(key)]);
        self.control[0].call("add", vec![value]).unwrap();
        key
    }

    fn sources(&self, method: &str, args: &Value) -> [Vec<Value>; 2] {
        let name: Vec<&str> = method.split('.').collect();
        [0, 1].map(|n| ask(&self.control[n], &name, vec![args.clone()]).into_iter().map(same).collect())
    }

    /// Asks both for a stream, which must not be empty.
    fn compare_source(&self, method: &str, args: &Value) {
        let [ours, theirs] = self.sources(method, args);
        assert!(!theirs.is_empty(), "{method} {args} gives nothing");
        assert_eq!(ours, theirs, "{method} {args}");
    }

    fn compare(&self, method: &str, args: &Value) -> Value {
        let [ours, theirs] = [0, 1].map(|n| self.control[n].call(method, vec![args.clone()]).unwrap());
        assert_eq!(ours, theirs, "{method} {args}");
        ours
    }
}

/// Without what depends on when each received it, and, in threads, on the index that ssb-threads uses.
fn same(mut answer: Value) -> Value {
    match &mut answer {
        Value::Object(members) => {
            if members.contains_key("value") {
                members.shift_remove("timestamp");
            }
            let messages = members.get_mut("messages").and_then(Value::as_array_mut);
            for message in messages.into_iter().flatten().filter_map(Value::as_object_mut) {
                ["rts", "dest"].iter().for_each(|name| drop(message.shift_remove(*name)));
            }
            members.values_mut().for_each(|member| *member = same(member.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = same(item.take())),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    answer
}

/// What the owner said, in public and in private.
struct Story {
    root: String,
    secret: String,
    gathering: String,
}

fn tell(both: &mut Both) -> Story {
    let me = both.ours.id().to_owned();
    let friends = both.corpus.friends.clone();
    let other = both.corpus.clock[0].0.clone();
    for friend in &friends[..3] {
        both.publish(json!({ "type": "contact", "contact": friend, "following": true }));
    }
    both.publish(
        json!({ "type": "about", "about": me, "name": "Captain", "image": { "link": CAT, "size": 3 } }),
    );
    both.publish(json!({ "type": "about", "about": friends[0], "name": "Ahab", "image": DOG }));
    both.publish(json!({ "type": "about", "about": friends[1], "name": "Queequeg" }));
    both.publish(json!({ "type": "about", "about": friends[1], "name": { "remove": true } }));
    let mentions =
        json!([{ "link": CAT, "name": "happy-cat.jpg" }, { "link": DOG, "name": "happy dog.png" }]);
    both.publish(json!({ "type": "post", "text": "look", "mentions": mentions }));
    let root = both.publish(json!({ "type": "post", "text": "a zebrafish swims by" }));
    let answer = both.publish(json!({ "type": "post", "text": "Zebrafish!", "root": root, "branch": root }));
    both.publish(json!({ "type": "post", "text": "two zebrafishes", "root": root, "branch": [answer] }));
    both.publish(json!({ "type": "post", "text": "no fish", "root": root, "branch": [root] }));
    let gathering = both.publish(json!({ "type": "gathering" }));
    both.publish(json!({ "type": "about", "about": gathering, "title": "At sea" }));
    both.publish(
        json!({ "type": "about", "about": gathering, "title": "In port", "attendee": { "link": me } }),
    );
    let secret =
        both.publish(json!({ "type": "post", "text": "a secret zebrafish", "recps": [me, friends[0]] }));
    let answer = json!({ "type": "post", "text": "hush", "root": secret, "branch": secret, "recps": [me] });
    both.publish(answer);
    both.publish(json!({ "type": "about", "about": other, "name": "Nobody knows", "recps": [me] }));
    both.theirs.ask("indexed", &[], SYNC).unwrap();
    wait::until("our search index to reach the log's end", SYNC, || {
        let progress = both.control[0].call("progress", Vec::new())?["search"].take();
        if progress["current"] == progress["target"] { Ok(()) } else { Err(progress.to_string()) }
    });
    Story { root, secret, gathering }
}

#[test]
fn plugins_of_clients_are_answered_as_on_ssb_server() {
    lab::run(|lab| {
        let host = lab.host("both");
        let mut both = Both::start(&host);
        let story = tell(&mut both);
        search(&both);
        abouts(&both, &story);
        names(&both);
        threads(&both, &story);
        private_messages(&both, &story);
    });
}

fn search(both: &Both) {
    let post = both.corpus.read().find_map(|(message, _)| {
        let content: Value = serde_json::from_str(message.content_json()).ok()?;
        (content["type"] == "post").then(|| content["text"].as_str().map(str::to_owned))?
    });
    let post = post.unwrap();
    let words: Vec<&str> = post.split(' ').filter(|word| word.len() > 3).collect();
    for question in [words[0], &words[0][..3], &words[..2].join(" "), "zebrafish", "zebra secret"] {
        both.compare_source("search.query", &json!({ "query": question }));
    }
    both.compare_source("search.query", &json!({ "query": words[0], "limit": 3 }));
    let [ours, _] = both.sources("search.query", &json!({ "query": "zebrafish" }));
    assert_eq!(ours[0]["rank"], 3, "the root is named most: {ours:?}");
    for question in ["happy", "cat", "happy dog", "HAPPY"] {
        let found = both.compare("meme.search", &json!({ "query": question }));
        assert!(!found.as_object().unwrap().is_empty(), "{question}");
    }
    both.compare_source("meme.query", &json!({ "query": "happy" }));
    // What is no word to JavaScript's regular expressions.
    let alone = |question: &str| {
        ask(&both.control[0], &["search", "query"], vec![json!({ "query": question })]).len()
    };
    assert_eq!([alone(""), alone("no such words")], [0, 0]);
}

fn abouts(both: &Both, story: &Story) {
    let me = both.ours.id();
    let busiest = &both.corpus.clock.iter().max_by_key(|(_, count)| *count).unwrap().0;
    let private = &both.corpus.clock[0].0;
    let friends = &both.corpus.friends;
    for dest in [me, busiest, private, &friends[0], &friends[1], &story.gathering] {
        for key in ["name", "image", "title", "attendee", "none"] {
            for method in ["socialValue", "socialValues", "latestValue"] {
                both.compare(&format!("about.{method}"), &json!({ "key": key, "dest": dest }));
            }
        }
        both.compare("about.latestValues", &json!({ "keys": ["name", "image", "title"], "dest": dest }));
        both.compare_source("about.read", &json!({ "dest": dest }));
        both.compare_source("about.read", &json!({ "dest": dest, "reverse": true, "limit": 1 }));
    }
    let unknown = json!({ "key": "name", "dest": "%7qizFH9dHuG2wMUg8CAP/1Olg2exISVkjJpvlCYATu4=.sha256" });
    assert!(both.control[0].call("about.socialValue", vec![unknown]).is_err());
}

fn names(both: &Both) {
    both.compare("names.get", &json!({}));
    both.compare("names.getImages", &json!({}));
    let busiest = &both.corpus.clock.iter().max_by_key(|(_, count)| *count).unwrap().0;
    for feed in [both.ours.id(), busiest, &both.corpus.clock[0].0, &both.corpus.friends[0]] {
        both.compare("names.getImageFor", &json!(feed));
    }
    for feed in [both.ours.id(), &both.corpus.clock[0].0, &both.corpus.friends[0], &both.corpus.friends[1]] {
        both.compare("names.getSignifier", &json!(feed));
    }
    for prefix in ["Ah", "Captain", "Nobody"] {
        both.compare("names.getSignifies", &json!(prefix));
    }
}

fn threads(both: &Both, story: &Story) {
    let author = &both.corpus.clock.iter().max_by_key(|(_, count)| *count).unwrap().0;
    let roots = both.corpus.read().filter_map(|(message, _)| {
        let content: Value = serde_json::from_str(message.content_json()).ok()?;
        content["root"].as_str().map(str::to_owned)
    });
    let roots: Vec<String> = roots.take(5).chain([story.root.clone()]).collect();
    for root in &roots {
        both.compare_source("threads.thread", &json!({ "root": root }));
        both.compare_source("threads.thread", &json!({ "root": root, "threadMaxSize": 3 }));
        both.compare("tangle.branch", &json!(root));
    }
    both.compare("tangle.branch", &json!(story.secret));
    for options in [
        json!({ "limit": 10, "threadMaxSize": 3 }),
        json!({ "limit": 10, "allowlist": ["post"], "reverse": false }),
        json!({ "limit": 5, "blocklist": ["vote", "contact"] }),
    ] {
        both.compare_source("threads.public", &options);
    }
    both.compare_source("threads.profile", &json!({ "id": author, "limit": 10, "threadMaxSize": 2 }));
    let summary = json!({ "allowlist": ["post"] });
    let of_ours = ask(&both.control[0], &["threads", "publicSummary"], vec![summary]);
    let ours = of_ours.iter().find(|summary| summary["root"]["key"] == json!(story.root)).unwrap();
    assert_eq!(ours["replyCount"], 3);
    let private = ask(&both.control[0], &["threads", "private"], vec![json!({ "allowlist": ["post"] })]);
    assert_eq!(private.len(), 1);
    assert_eq!(private[0]["messages"][1]["value"]["content"]["text"], "hush");
}

fn private_messages(both: &Both, story: &Story) {
    let filtered = |filter: Value| json!({ "query": [{ "$filter": filter }] });
    let post = json!({ "type": "post" });
    let (me, secret) = (both.ours.id(), &story.secret);
    let own = filtered(json!({ "value": { "author": me, "content": post } }));
    both.compare_source("query.read", &own);
    // Without an index ssb-query leaves the resolved time out.
    let private = json!({ "query": [{ "$filter": { "value": { "private": true } } }, { "$map": "value" }] });
    both.compare_source("query.read", &private);
    both.compare_source("query.read", &filtered(json!({ "value": { "content": { "root": secret } } })));
    let mut newest = filtered(json!({ "value": { "content": post } }));
    (newest["reverse"], newest["limit"]) = (true.into(), 8.into());
    both.compare_source("query.read", &newest);
    both.compare_source("backlinks.read", &filtered(json!({ "dest": secret })));
    both.compare_source("backlinks.read", &filtered(json!({ "dest": secret, "value": { "content": post } })));
    both.compare_source("backlinks.read", &filtered(json!({ "dest": me })));
    for private in [true, false] {
        both.compare_source("messagesByType", &json!({ "type": "about", "private": private }));
        both.compare_source("createUserStream", &json!({ "id": me, "private": private }));
    }
}

/// Newer than the ssb-threads that we can compare with: what its own tests expect.
#[test]
fn threads_are_found_by_their_hashtags_in_any_case() {
    lab::run(|lab| {
        let host = lab.host("home");
        let node = Setup::on(&host).solitary().start();
        let control = node.control();
        let root = node.publish(&json!({ "type": "post", "text": "animals", "channel": "Animals" }));
        let wombats = json!([{ "link": "#Wombats" }, { "link": "#p2p" }]);
        let answer = node.publish(
            &json!({ "type": "post", "text": "#Wombats", "mentions": wombats, "root": root, "branch": root }),
        );
        let other = node.publish(&json!({ "type": "gathering", "mentions": [{ "link": "#p2p" }] }));
        node.publish(&json!({ "type": "post", "text": "none" }));
        let own = [node.id()];
        node.publish(&json!({ "type": "post", "text": "hush", "channel": "animals", "recps": own }));
        let summaries = |options: Value| {
            let found = ask(&control, &["threads", "hashtagSummary"], vec![options]);
            let shown = |summary: &Value| {
                (summary["root"]["key"].as_str().unwrap().to_owned(), summary["replyCount"].as_u64().unwrap())
            };
            found.iter().map(shown).collect::<Vec<_>>()
        };
        let (first, second) = ((root, 1), (other, 0));
        for tag in ["animals", "#ANIMALS", "wombats"] {
            assert_eq!(summaries(json!({ "hashtag": tag })), std::slice::from_ref(&first), "{tag}");
        }
        assert_eq!(summaries(json!({ "hashtag": "p2p" })), [second.clone(), first.clone()]);
        let oldest_first = json!({ "hashtags": ["p2p", "animals"], "reverse": false });
        assert_eq!(summaries(oldest_first), [first.clone(), second]);
        assert_eq!(summaries(json!({ "hashtag": "p2p", "allowlist": ["post"] })), [first]);
        assert_eq!(summaries(json!({ "hashtag": "none" })), []);
        let call = |method: &str, options: Value| control.call(method, vec![options]).unwrap();
        assert_eq!(call("threads.hashtagCount", json!({ "hashtag": "P2P" })), 2);
        let recent = |options| call("threads.recentHashtags", options);
        assert_eq!(recent(json!({ "limit": 10 })), json!(["p2p", "wombats", "animals"]));
        assert_eq!(recent(json!({ "limit": 2, "preserveCase": true })), json!(["p2p", "Wombats"]));
        let matching = |options| call("threads.hashtagsMatching", options);
        assert_eq!(matching(json!({ "query": "P" })), json!([["p2p", 2]]));
        assert_eq!(matching(json!({ "query": "wom", "limit": 1 })), json!([["wombats", 1]]));
        assert_eq!(matching(json!({ "query": "q" })), json!([]));
        for (method, wrong) in [
            ("threads.recentHashtags", json!({ "limit": 0 })),
            ("threads.hashtagsMatching", json!({ "query": "" })),
            ("threads.hashtagsMatching", json!({ "query": "a", "limit": -1 })),
        ] {
            assert!(control.call(method, vec![wrong]).is_err(), "{method}");
        }
        // The thread of an answer, as soon as it comes.
        let updates = node.follow_output(&["call", "threads.hashtagUpdates", r#"{"hashtag":"lynx"}"#]);
        let told = thread::spawn(move || updates.next_line());
        wait::until("an answer with the hashtag to be told", SOON, || {
            node.publish(&json!({ "type": "post", "text": "#Lynx", "channel": "Lynx", "root": answer }));
            if told.is_finished() { Ok(()) } else { Err("nothing yet".to_owned()) }
        });
        assert!(told.join().unwrap().contains(&answer));
    });
}
