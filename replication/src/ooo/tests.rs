//! Inputs and exactly what comes of them; then a chain of machines.

use ssb_crypto::Keypair;

use super::*;
use crate::message::sign;

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
    Instant::now()
}

fn message(text: &str) -> Message {
    ssb_crypto::sodium::init().unwrap();
    let keypair = Keypair::from_seed(&[1; 32]).unwrap();
    sign(&keypair, None, None, 1.0, format!(r#"{{"type":"post","text":"{text}"}}"#).as_bytes()).unwrap()
}

fn value(message: &Message) -> Entry {
    Entry::Message(message.value_bytes().clone())
}

fn feed(state: &mut State<u8>, now: Instant, input: Input<u8>) -> Vec<Output<u8>> {
    state.handle(now, input);
    std::iter::from_fn(|| state.poll_output()).collect()
}

fn received(peer: u8, id: MessageId, entry: Entry) -> Input<u8> {
    Input::Received { peer, entries: vec![(id, entry)] }
}

#[test]
fn what_is_on_the_wire_is_read_and_written_as_javascript_does() {
    let one = message("one");
    let id = one.id();
    assert_eq!(write_question(&id, -2), format!("{{\"{id}\":-2}}").into_bytes());
    assert_eq!(read(&write_answer(&one)), Some(vec![(id, value(&one))]));
    let text = format!(
        r#"{{"{id}":-1,"not an id":-1,"%AAAA":3,"{}":{}}}"#,
        MessageId::from_bytes([7; 32]),
        String::from_utf8_lossy(one.value_bytes()).replace(',', " , ")
    );
    let entries = read(text.as_bytes()).unwrap();
    assert_eq!(entries, [(id, Entry::Question(-1)), (MessageId::from_bytes([7; 32]), value(&one))]);
    assert_eq!(read(b"[]"), None);
    assert_eq!(read(format!(r#"{{"{id}":1}}"#).as_bytes()), Some(vec![]));
}

#[test]
fn a_wish_of_ours_is_looked_for_asked_for_verified_and_given() {
    let (now, one) = (start(), message("one"));
    let id = one.id();
    let mut state = State::new(None);
    feed(&mut state, now, Input::Connected(1));
    assert_eq!(feed(&mut state, now, Input::Ask(id)), [Output::Look(id)]);
    let ask = |peer| Output::Question { peer, id, hops: -1 };
    assert_eq!(feed(&mut state, now, Input::Looked { id, found: None }), [Output::Open, ask(1)]);
    assert_eq!(feed(&mut state, now, Input::Connected(2)), [ask(2)]);
    assert_eq!(feed(&mut state, now, Input::Connected(2)), [ask(2)], "on another stream again");
    // Nobody else was asked, and another message is no answer.
    assert_eq!(feed(&mut state, now, received(3, id, value(&one))), []);
    let wrong = feed(&mut state, now, received(1, id, value(&message("two"))));
    assert_eq!(wrong, [Output::Misled { peer: 1, why: InvalidMessage::OtherId }]);
    assert_eq!(feed(&mut state, now, received(1, id, value(&one))), [], "it had its turn");
    let found = feed(&mut state, now, received(2, id, value(&one)));
    assert_eq!(found, [Output::Found { message: one.clone(), is_new: true }]);
    assert_eq!(feed(&mut state, now, received(2, id, value(&one))), []);
    // While it is remembered it is given at once.
    assert_eq!(feed(&mut state, now, Input::Ask(id)), [Output::Found { message: one, is_new: true }]);
}

#[test]
fn a_forged_signature_is_no_message() {
    let (now, one) = (start(), message("one"));
    let forged = String::from_utf8_lossy(one.value_bytes()).replace("one", "two");
    let id = crate::message::Unverified::parse(forged.as_bytes()).unwrap().id().unwrap();
    let mut state = State::new(None);
    feed(&mut state, now, Input::Connected(1));
    feed(&mut state, now, Input::Ask(id));
    feed(&mut state, now, Input::Looked { id, found: None });
    let outputs = feed(&mut state, now, received(1, id, Entry::Message(forged.into())));
    assert_eq!(outputs, [Output::Misled { peer: 1, why: InvalidMessage::Signature }]);
}

#[test]
fn questions_of_others_are_answered_or_passed_on_but_not_far() {
    let (now, one) = (start(), message("one"));
    let id = one.id();
    let mut state = State::new(None);
    for peer in 1..=3 {
        feed(&mut state, now, Input::Connected(peer));
    }
    assert_eq!(feed(&mut state, now, received(1, id, Entry::Question(-3))), [], "it has come too far");
    assert_eq!(feed(&mut state, now, received(1, id, Entry::Question(-1))), [Output::Look(id)]);
    let ask = |peer| Output::Question { peer, id, hops: -2 };
    let passed_on = feed(&mut state, now, Input::Looked { id, found: None });
    assert_eq!(passed_on, [Output::Open, ask(2), ask(3)]);
    // Another one asks for the same, and both get it; it is not ours to keep.
    assert_eq!(feed(&mut state, now, received(3, id, Entry::Question(-2))), []);
    let answers = feed(&mut state, now, received(2, id, value(&one)));
    let answer = |peer| Output::Answer { peer, message: one.clone() };
    assert_eq!(answers, [answer(1), answer(3)]);
    // What has come two hops is looked for here and nowhere else.
    let other = message("other");
    assert_eq!(
        feed(&mut state, now, received(1, other.id(), Entry::Question(-2))),
        [Output::Look(other.id())]
    );
    assert_eq!(feed(&mut state, now, Input::Looked { id: other.id(), found: None }), []);
    // And what we hold is sent.
    let held = message("held");
    feed(&mut state, now, received(1, held.id(), Entry::Question(-1)));
    let sent = feed(&mut state, now, Input::Looked { id: held.id(), found: Some(held.clone()) });
    assert_eq!(sent, [Output::Answer { peer: 1, message: held }]);
}

#[test]
fn our_own_wish_goes_on_from_where_a_stranger_s_ended() {
    let (now, id) = (start(), MessageId::from_bytes([7; 32]));
    let mut state = State::new(None);
    feed(&mut state, now, Input::Connected(1));
    feed(&mut state, now, Input::Connected(2));
    feed(&mut state, now, received(1, id, Entry::Question(-2)));
    assert_eq!(feed(&mut state, now, Input::Looked { id, found: None }), []);
    let asked = feed(&mut state, now, Input::Ask(id));
    assert_eq!(asked, [Output::Open, Output::Question { peer: 2, id, hops: -1 }]);
}

#[test]
fn questions_end_and_are_bounded() {
    let now = start();
    let mut state = State::new(None);
    for peer in 0..=20 {
        feed(&mut state, now, Input::Connected(peer));
        for n in 0..=MAX_OF_PEER {
            let mut id = [peer; 32];
            id[..8].copy_from_slice(&(n as u64).to_be_bytes());
            feed(&mut state, now, received(peer, MessageId::from_bytes(id), Entry::Question(-1)));
        }
        assert_eq!(state.questions.len(), ((usize::from(peer) + 1) * MAX_OF_PEER).min(MAX_QUESTIONS));
    }
    let id = MessageId::from_bytes([0xff; 32]);
    assert_eq!(feed(&mut state, now, Input::Ask(id)), [Output::Look(id)], "we ourselves are always heard");
    assert_eq!(state.poll_timeout(), Some(now + LIFETIME));
    state.handle_timeout(now + LIFETIME);
    assert_eq!(std::iter::from_fn(|| state.poll_output()).collect::<Vec<_>>(), [Output::Missed(id)]);
    assert_eq!((state.questions.len(), state.poll_timeout()), (0, None));
}

#[test]
fn what_is_fetched_is_kept_and_the_older_half_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ooo.jsonl");
    let messages: Vec<Message> = (0..5).map(|n| message(&format!("{n}"))).collect();
    let mut kept = Kept::open(&path).unwrap();
    for (n, message) in messages.iter().enumerate() {
        kept.add(message, n as f64).unwrap();
        kept.add(message, 99.0).unwrap();
    }
    let get = |kept: &Kept, n: usize| kept.get(&messages[n].id(), None).unwrap();
    assert_eq!(get(&kept, 3), Some(Fetched { message: messages[3].clone(), received: 3.0 }));
    drop(kept);
    // A write that was not finished, and a line that is not what was written.
    let mut text = std::fs::read_to_string(&path).unwrap().replace(r#""text":"1""#, r#""text":"9""#);
    text.push_str("{\"key\":");
    std::fs::write(&path, text).unwrap();
    let mut kept = Kept::open(&path).unwrap();
    assert_eq!((kept.len(), get(&kept, 1), get(&kept, 4).is_some()), (5, None, true));
    kept.add(&message("more"), 5.0).unwrap();
    kept.forget_older_half().unwrap();
    assert_eq!((kept.len(), get(&kept, 0), get(&kept, 2)), (3, None, None));
    assert!(get(&kept, 3).is_some() && kept.get(&message("more").id(), None).unwrap().is_some());
}
