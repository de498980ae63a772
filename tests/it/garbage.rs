//! Bad input at every layer against a running node: it ends that connection or that call and nothing
//! else, is counted, and leaves nothing in the store.

use std::fmt::Write as _;

use hawsepipe_overlay::keys::{NetworkKey, PublicKey};
use hawsepipe_replication::message::{self, Message, Tip};
use hawsepipe_tests::lab::{self, Host, Lab};
use hawsepipe_tests::peer::{Peer, Setup};
use hawsepipe_tests::rogue::{END, JSON, Rogue, STREAM, Secured, feed_id, identity};
use hawsepipe_tests::usage::Usage;
use hawsepipe_tests::wait::{self, SOON};
use serde_json::{Value, json};
use ssb_crypto::Keypair;

const OTHER_NETWORK: NetworkKey = NetworkKey::from_bytes([7; 32]);

/// A node that gives a handshake two seconds and takes all that strangers send, on a host of its own.
fn node(lab: &mut Lab) -> (Host, Peer) {
    let host = lab.host("node");
    let node = Setup::on(&host).solitary().set("timers.handshake", 2000);
    let node = node.set("access.strangerBytes", false).start();
    (host, node)
}

fn dial(host: &Host, node: &Peer) -> Rogue {
    Rogue::dial(host, node.net_socket())
}

fn enter(host: &Host, node: &Peer, keypair: &Keypair) -> Secured {
    dial(host, node).handshake(NetworkKey::MAIN, keypair, node.key()).expect("the node lets a stranger in")
}

/// Handshakes that the node ended as server, counted until now.
fn failed_handshakes(node: &Peer) -> f64 {
    let metrics = node.metrics().unwrap();
    let served = ("role", "server");
    metrics.sum("handshakes_total", &[served]) - metrics.sum("handshakes_total", &[served, ("outcome", "ok")])
}

/// Sessions that ended otherwise than by a goodbye, counted until now.
fn broken_sessions(node: &Peer) -> f64 {
    let metrics = node.metrics().unwrap();
    metrics.sum("closed_total", &[]) - metrics.sum("closed_total", &[("reason", "goodbye")])
}

fn wait_count(what: &str, least: f64, count: impl Fn() -> f64) {
    wait::until(what, SOON, || {
        let counted = count();
        if counted >= least { Ok(()) } else { Err(format!("counted {counted}, expected {least}")) }
    });
}

/// The node still serves an honest stranger, and has only what it had.
fn assert_unharmed(host: &Host, node: &mut Peer) {
    let mut honest = enter(host, node, &identity());
    honest.send_json(0, 1, &json!({ "name": "manifest", "args": [] }));
    let manifest = honest.next_answer(1);
    assert_eq!(manifest.json()["createHistoryStream"], "source", "{manifest:?}");
    assert!(node.ok(&["whoami"]).contains(node.id()));
    assert!(node.is_running());
}

#[test]
fn garbage_before_the_handshake_ends_the_connection_only() {
    lab::run(|lab| {
        let (host, mut node) = node(lab);
        let hello = Rogue::hello(NetworkKey::MAIN, &identity(), node.key());
        let foreign = Rogue::hello(OTHER_NETWORK, &identity(), node.key());
        let whole: [&[u8]; 5] = [
            &[0; 64],
            &[0xff; 64],
            b"GET / HTTP/1.1\r\nHost: ssb\r\nUser-Agent: a browser of no network\r\n\r\n",
            &[0x5a; 5000],
            &foreign,
        ];
        for (number, garbage) in whole.iter().enumerate() {
            let mut rogue = dial(&host, &node);
            rogue.send(garbage);
            assert_eq!(rogue.until_closed(), b"", "the node answered garbage {number}");
        }
        wait_count("a refusal for each", 5.0, || failed_handshakes(&node));
        // Half a hello and silence, half a hello and an end, and nothing at all.
        for (half, end) in [(&hello[..32], false), (&hello[..63], true), (&hello[..0], false)] {
            let mut rogue = dial(&host, &node);
            rogue.send(half);
            if end {
                rogue.shut_down_writing();
            }
            assert_eq!(rogue.until_closed(), b"");
        }
        wait_count("a failure for each", 8.0, || failed_handshakes(&node));
        assert_unharmed(&host, &mut node);
    });
}

#[test]
fn a_lie_in_the_third_message_or_a_replay_gets_no_answer() {
    lab::run(|lab| {
        let (host, mut node) = node(lab);
        // Garbage where the client should prove itself.
        let mut rogue = dial(&host, &node);
        rogue.send(&Rogue::hello(NetworkKey::MAIN, &identity(), node.key()));
        rogue.send(&[0x5a; 112]);
        assert_eq!(rogue.until_closed().len(), 64, "only the server's hello was said");
        // A proof that was meant for another server.
        let other = identity();
        let mut rogue = dial(&host, &node);
        let other = feed_id(&other).parse().unwrap();
        let (..) = rogue.authenticate(NetworkKey::MAIN, &identity(), other).expect("the node says hello");
        assert_eq!(rogue.until_closed(), b"");
        // A recorded handshake: the server's ephemeral key is another one now.
        let mut honest = dial(&host, &node);
        let (recorded, _) = honest.authenticate(NetworkKey::MAIN, &identity(), node.key()).unwrap();
        let mut replay = dial(&host, &node);
        replay.send(&recorded);
        assert_eq!(replay.until_closed().len(), 64, "a replayed proof was accepted");
        wait_count("a failure for each", 3.0, || failed_handshakes(&node));
        drop(honest);
        assert_unharmed(&host, &mut node);
    });
}

#[test]
fn a_broken_box_stream_ends_the_session() {
    lab::run(|lab| {
        let (host, mut node) = node(lab);
        let lies: [fn(&mut Secured); 4] = [
            // No box at all.
            |session| session.send_raw(&[0x5a; 4096]),
            // One bit of a body is wrong.
            |session| {
                let mut sealed = session.seal(&[0; 100]);
                *sealed.last_mut().unwrap() ^= 1;
                session.send_raw(&sealed);
            },
            // The same box twice.
            |session| {
                let sealed = session.seal(b"\x02\0\0\0\x02\0\0\0\x01{}");
                session.send_raw(&sealed);
                session.send_raw(&sealed);
            },
            // Boxes in the wrong order.
            |session| {
                let (first, second) = (session.seal(&[0; 10]), session.seal(&[0; 10]));
                session.send_raw(&second);
                session.send_raw(&first);
            },
        ];
        for (number, lie) in lies.iter().enumerate() {
            let mut session = enter(&host, &node, &identity());
            lie(&mut session);
            session.until_closed();
            wait_count(&format!("lie {number}"), number as f64 + 1.0, || broken_sessions(&node));
        }
        // A stream that stops inside a box, without goodbye.
        let mut session = enter(&host, &node, &identity());
        let sealed = session.seal(&[0; 100]);
        session.send_raw(&sealed[..50]);
        session.cut();
        wait_count("the truncated stream", lies.len() as f64 + 1.0, || broken_sessions(&node));
        assert_unharmed(&host, &mut node);
    });
}

#[test]
fn a_muxrpc_frame_that_cannot_be_read_ends_the_session() {
    lab::run(|lab| {
        let (host, mut node) = node(lab);
        // A body longer than any limit, and a body of a kind that does not exist.
        let frames: [&[u8]; 2] = [b"\x0a\xff\xff\xff\xff\0\0\0\x01", b"\x03\0\0\0\x01\0\0\0\x01x"];
        for (number, frame) in frames.iter().enumerate() {
            let mut session = enter(&host, &node, &identity());
            session.send_boxed(frame);
            session.until_closed();
            wait_count(&format!("frame {number}"), number as f64 + 1.0, || broken_sessions(&node));
        }
        assert_unharmed(&host, &mut node);
    });
}

#[test]
fn a_call_that_makes_no_sense_fails_alone() {
    lab::run(|lab| {
        let (host, mut node) = node(lab);
        let mut session = enter(&host, &node, &identity());
        let calls: [(u8, Value, Option<&str>); 6] = [
            (
                0,
                json!({ "name": ["no", "such"], "args": [] }),
                Some("method:no,such is not in list of allowed methods"),
            ),
            (
                STREAM,
                json!({ "name": ["no", "such"], "args": [], "type": "source" }),
                Some("method:no,such is not in list of allowed methods"),
            ),
            (
                0,
                json!({ "name": ["publish"], "args": [{ "type": "post" }], "type": "async" }),
                Some("method:publish is not in list of allowed methods"),
            ),
            (0, json!({ "name": ["manifest"], "args": {} }), None),
            (0, json!({ "name": 7, "args": [] }), None),
            (0, json!([1, 2, 3]), None),
        ];
        let mut request = 0;
        for (flags, call, expected) in &calls {
            request += 1;
            session.send_json(*flags, request, call);
            let answer = session.next_answer(request);
            assert_eq!(answer.flags & END, END, "{call} was answered with {answer:?}");
            let message = answer.json()["message"].clone();
            assert!(message.is_string(), "{call} was answered with {answer:?}");
            if let Some(expected) = expected {
                assert_eq!(message, *expected, "{call}");
            }
        }
        request += 1;
        session.send_packet(JSON, request, b"{ this is no json");
        assert_eq!(session.next_answer(request).flags & END, END);
        // Packets of streams that nobody opened are nobody's business.
        session.send_json(STREAM, -77, &json!({ "a": 1 }));
        session.send_json(STREAM | END, -78, &Value::from(true));
        session.send_json(0, 100, &json!({ "name": "manifest", "args": [] }));
        assert_eq!(session.next_answer(100).json()["manifest"], "sync", "the session goes on");
        let refused = node.metrics().unwrap();
        let wrong = refused.sum("calls_total", &[]) - refused.sum("calls_total", &[("outcome", "ok")]);
        assert!(wrong >= 3.0, "refused calls are not counted:\n{refused}");
        assert_unharmed(&host, &mut node);
    });
}

/// The next messages of a feed, each following the one before.
fn feed(keypair: &Keypair, after: Option<&Message>, texts: &[&str]) -> Vec<Message> {
    let mut tip = after.map(|message| Tip { id: message.id(), sequence: message.sequence() });
    let mut messages = Vec::new();
    for text in texts {
        let content = json!({ "type": "post", "text": text }).to_string();
        let message =
            message::sign(keypair, None, tip.as_ref(), 1_700_000_000_000.0, content.as_bytes()).unwrap();
        tip = Some(Tip { id: message.id(), sequence: message.sequence() });
        messages.push(message);
    }
    messages
}

fn value_of(message: &Message) -> Value {
    serde_json::from_slice(message.value_bytes()).unwrap()
}

/// A session in which the rogue replicates by EBT as the caller, and has been asked for `feed` from the
/// start.
fn replicate(host: &Host, node: &Peer, keypair: &Keypair, feed: &str) -> Secured {
    let mut session = enter(host, node, keypair);
    let arguments = json!([{ "version": 3, "format": "classic" }]);
    session.send_json(
        STREAM,
        1,
        &json!({ "name": ["ebt", "replicate"], "args": arguments, "type": "duplex" }),
    );
    let notes = session.next_answer(1).json();
    assert!(notes.is_object() && notes.get("message").is_none(), "the callee speaks first: {notes}");
    // "I have a hundred of this feed, send me what I lack."
    session.send_json(STREAM, 1, &json!({ feed: 200 }));
    let asked = |notes: &Value| notes[feed].as_i64().is_some_and(|note| note >= 0 && note & 1 == 0);
    if !asked(&notes) {
        wait::until("the node to ask for the feed", SOON, || {
            let notes = session.next_answer(1).json();
            if asked(&notes) { Ok(()) } else { Err(notes.to_string()) }
        });
    }
    session
}

fn send_message(session: &mut Secured, raw: &[u8]) {
    session.send_packet(STREAM | JSON, 1, raw);
}

#[test]
fn a_message_with_a_false_signature_is_counted_and_stops_the_feed_from_that_peer() {
    lab::run(|lab| {
        let (host, mut node) = node(lab);
        let (author, courier) = (identity(), identity());
        let id = feed_id(&author);
        node.follow(&id);
        let messages = feed(&author, None, &["one", "two", "three", "four"]);
        let mut session = replicate(&host, &node, &author, &id);
        send_message(&mut session, messages[0].value_bytes());
        send_message(&mut session, messages[1].value_bytes());
        let mut forged = value_of(&messages[2]);
        forged["content"]["text"] = "not what was signed".into();
        let forged = reordered(&forged);
        send_message(&mut session, forged.as_bytes());
        node.wait_metric("messages_rejected_total", &[("reason", "signature")], 1.0);
        node.wait_clock(&[(id.clone(), 2)], SOON);
        // The session may go on, but not with this feed.
        send_message(&mut session, messages[2].value_bytes());
        session.send_json(0, 9, &json!({ "name": "manifest", "args": [] }));
        session.next_answer(9);
        assert_eq!(node.sequence_of(&id), 2);
        // Another peer may bring the true messages.
        let mut other = replicate(&host, &node, &courier, &id);
        send_message(&mut other, messages[2].value_bytes());
        send_message(&mut other, messages[3].value_bytes());
        node.wait_clock(&[(id, 4)], SOON);
        let metrics = node.metrics().unwrap();
        assert_eq!(metrics.sum("messages_rejected_total", &[]), 1.0, "reported once\n{metrics}");
        assert_unharmed(&host, &mut node);
    });
}

#[test]
fn a_fork_keeps_what_was_there_first() {
    lab::run(|lab| {
        let (host, mut node) = node(lab);
        let author = identity();
        let id = feed_id(&author);
        node.follow(&id);
        let trunk = feed(&author, None, &["one", "two"]);
        let branch = feed(&author, Some(&trunk[0]), &["another two", "another three"]);
        let mut session = replicate(&host, &node, &author, &id);
        for message in &trunk {
            send_message(&mut session, message.value_bytes());
        }
        node.wait_clock(&[(id.clone(), 2)], SOON);
        send_message(&mut session, branch[1].value_bytes());
        node.wait_metric("messages_rejected_total", &[("reason", "fork")], 1.0);
        assert_eq!(node.sequence_of(&id), 2);
        let kept = [trunk[0].id().to_string(), trunk[1].id().to_string()];
        let ids = node.ids();
        assert!(kept.iter().all(|id| ids.contains(id)), "what was there first is gone");
        assert!(!ids.contains(&branch[0].id().to_string()) && !ids.contains(&branch[1].id().to_string()));
        assert_unharmed(&host, &mut node);
    });
}

/// `count` notes of feeds that nobody has, none of them twice for the same `round`.
fn notes_of_nobody(round: u32, count: u32) -> String {
    let mut notes = String::with_capacity(count as usize * 60);
    for n in 0..count {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&((u64::from(round) << 32) | u64::from(n)).to_le_bytes());
        let separator = if n == 0 { '{' } else { ',' };
        write!(notes, "{separator}\"{}\":2", PublicKey::from_bytes(key)).expect("a string takes everything");
    }
    notes + "}"
}

/// Two million notes, one packet sent byte by byte, handshakes that never go on: memory stays, others replicate.
#[test]
fn peers_that_say_far_too_much_or_next_to_nothing_disturb_nobody() {
    const PACKETS: u32 = 40;
    const NOTES: u32 = 50_000;
    lab::run(|lab| {
        let (host, mut node) = node(lab);
        let [author, talker, idler] = [identity(), identity(), identity()];
        let id = feed_id(&author);
        node.follow(&id);
        let before = Usage::of(node.process()).peak_mb;
        let mut talking = replicate(&host, &node, &talker, &id);
        let mut trickling = replicate(&host, &node, &idler, &id);
        let messages = feed(&author, None, &["one", "two", "three"]);
        let packet = trickling.seal_packet(STREAM | JSON, 1, messages[0].value_bytes());
        let mut hanging: Vec<Rogue> = (0..4).map(|_| dial(&host, &node)).collect();
        let mut trickle = packet[..packet.len() - 1].iter();
        for round in 0..PACKETS {
            talking.send_packet(STREAM | JSON, 1, notes_of_nobody(round, NOTES).as_bytes());
            trickle.by_ref().take(10).for_each(|byte| trickling.send_raw(&[*byte]));
            hanging.iter_mut().for_each(|rogue| rogue.send(&[1]));
            if round == PACKETS / 2 {
                let mut honest = replicate(&host, &node, &author, &id);
                messages.iter().for_each(|message| send_message(&mut honest, message.value_bytes()));
                node.wait_clock(&[(id.clone(), 3)], SOON);
            }
        }
        // All of it has been read.
        talking.send_json(0, 9, &json!({ "name": "manifest", "args": [] }));
        talking.next_answer(9);
        let grown = Usage::of(node.process()).peak_mb - before;
        assert!(grown < 100.0, "{grown} MiB more for {} notes", PACKETS * NOTES);
        assert_unharmed(&host, &mut node);
    });
}

#[test]
fn an_oversized_message_and_a_message_that_is_none_are_not_stored() {
    lab::run(|lab| {
        let (host, mut node) = node(lab);
        for (number, spoil) in [oversized as fn(&Message) -> String, without_content_type].iter().enumerate()
        {
            let author = identity();
            let id = feed_id(&author);
            node.follow(&id);
            let messages = feed(&author, None, &["one", "two"]);
            let mut session = replicate(&host, &node, &author, &id);
            send_message(&mut session, messages[0].value_bytes());
            send_message(&mut session, spoil(&messages[1]).as_bytes());
            node.wait_metric("messages_rejected_total", &[], number as f64 + 1.0);
            node.wait_clock(&[(id.clone(), 1)], SOON);
            assert_eq!(node.sequence_of(&id), 1);
        }
        assert_unharmed(&host, &mut node);
    });
}

fn oversized(message: &Message) -> String {
    let mut value = value_of(message);
    value["content"]["text"] = "x".repeat(9000).into();
    reordered(&value)
}

fn without_content_type(message: &Message) -> String {
    let mut value = value_of(message);
    value["content"] = json!({ "text": "what am I" });
    reordered(&value)
}

/// The message as JSON with its keys in the order that the format demands.
fn reordered(value: &Value) -> String {
    let keys = ["previous", "sequence", "author", "timestamp", "hash", "content", "signature"];
    let members: Vec<String> = keys.iter().map(|key| format!("{}:{}", json!(key), value[*key])).collect();
    format!("{{{}}}", members.join(","))
}
