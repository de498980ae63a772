//! The two threads, without a node around them.

use hawsepipe_replication::message::{Tip, Verifier};
use hawsepipe_replication::store::{Options, Store};
use ssb_crypto::Keypair;

use super::*;
use crate::fork_guard::Gate;

/// Runs `jobs` to the end: what was announced.
fn run(dir: &std::path::Path, jobs: Vec<Job>) -> Vec<StoreEvent> {
    run_guarded(dir, jobs, Ok(()))
}

fn run_guarded(dir: &std::path::Path, jobs: Vec<Job>, verdict: Result<(), Wait>) -> Vec<StoreEvent> {
    let (events, mut announced) = mpsc::channel(64);
    let (sender, queue) = mpsc::channel(64);
    jobs.into_iter().chain([Job::Stop]).for_each(|job| sender.try_send(job).unwrap());
    worker(dir, verdict).run(queue, &events, &std::sync::mpsc::channel().0);
    std::iter::from_fn(|| announced.try_recv().ok()).collect()
}

fn worker(dir: &std::path::Path, verdict: Result<(), Wait>) -> Worker {
    crate::init_crypto();
    let (writer, reader) = Store::open(dir, &Options::default(), &mut |_, _| {}).unwrap();
    let keypair = Arc::new(Keypair::from_seed(&[7; 32]).unwrap());
    let guard = Arc::new(Gate::new(verdict));
    Worker { writer, reader, keypair, hmac: None, verifier: Verifier::new(), guard, metrics: Arc::default() }
}

/// A feed of `count` messages.
fn feed(seed: u8, text: &str, count: usize) -> Vec<Message> {
    crate::init_crypto();
    let keypair = Keypair::from_seed(&[seed; 32]).unwrap();
    let mut tip = None;
    let signed = (0..count).map(|n| {
        let content = format!(r#"{{"type":"post","text":"{text}"}}"#);
        let message = message::sign(&keypair, None, tip.as_ref(), n as f64, content.as_bytes()).unwrap();
        tip = Some(message.tip());
        message
    });
    signed.collect()
}

fn ingest(from: FeedId, messages: &[Message]) -> Ingest {
    let messages = messages.iter().map(|m| Unverified::parse(m.value_bytes()).unwrap()).collect();
    Ingest { from, messages, permit: None }
}

fn writes(texts: Vec<Text>) -> (Vec<Job>, Vec<oneshot::Receiver<Result<Stored, WriteError>>>) {
    let writes = texts.into_iter().map(|what| {
        let (reply, answer) = oneshot::channel();
        (Job::Write(Write { what, reply }), answer)
    });
    writes.unzip()
}

fn posts(count: usize) -> Vec<Text> {
    let post = |n| Text::Content(format!(r#"{{"type":"post","text":"{n}"}}"#).into_bytes());
    (0..count).map(post).collect()
}

#[test]
fn what_queued_up_is_announced_once_and_answered_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (jobs, answers) = writes(posts(40));
    let events = run(dir.path(), jobs);
    assert!(matches!(&events[..], [StoreEvent::Committed { count: 40, local: true, .. }]), "{events:?}");
    let stored: Vec<Stored> = answers.into_iter().map(|mut a| a.try_recv().unwrap().unwrap()).collect();
    assert!(stored.iter().map(|s| s.message.sequence()).eq(1..=40));
    assert!(stored.is_sorted_by(|a, b| a.message.timestamp() < b.message.timestamp()));
    let (_, reader) = Store::open(dir.path(), &Options::default(), &mut |_, _| {}).unwrap();
    assert_eq!(reader.len(), 40);
}

#[test]
fn who_writes_nonsense_is_refused_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut texts = posts(3);
    texts.insert(1, Text::Content(b"{}".to_vec()));
    texts.insert(2, Text::Signed(b"{}".to_vec()));
    let (jobs, answers) = writes(texts);
    run(dir.path(), jobs);
    let stored = answers.into_iter().map(|mut a| a.try_recv().unwrap().map(|s| s.message.sequence()).ok());
    assert_eq!(stored.collect::<Vec<_>>(), [Some(1), None, None, Some(2), Some(3)]);
}

#[test]
fn while_the_guard_waits_nothing_of_ours_is_written_and_others_messages_are() {
    crate::init_crypto();
    let signed = |seed: u8| {
        let keypair = Keypair::from_seed(&[seed; 32]).unwrap();
        let content = br#"{"type":"post","text":"signed by a client"}"#;
        let message = message::sign(&keypair, None, None, 1.0, content).unwrap();
        Text::Signed(message.value_bytes().to_vec())
    };
    let envelope = EnvelopeDraft { plaintext: b"{}".to_vec(), recipients: Vec::new() };
    let mut texts = posts(1);
    texts.extend([Text::Envelope(envelope), signed(7), signed(8)]);
    let dir = tempfile::tempdir().unwrap();
    let (jobs, answers) = writes(texts);
    let wait = Wait { doubt: None, held: 0, claimed: Some(5), asked: 0, knowing: 0 };
    let events = run_guarded(dir.path(), jobs, Err(wait));
    assert!(matches!(&events[..], [StoreEvent::Committed { count: 1, .. }]), "{events:?}");
    let outcomes = answers.into_iter().map(|mut answer| match answer.try_recv().unwrap() {
        Ok(_) => "stored",
        Err(WriteError::Guarded(_)) => "guarded",
        Err(_) => "refused",
    });
    assert_eq!(outcomes.collect::<Vec<_>>(), ["guarded", "guarded", "guarded", "stored"]);
}

#[test]
fn a_signed_message_may_follow_one_that_is_not_on_disk_yet() {
    let other = Keypair::from_seed(&[8; 32]).unwrap();
    crate::init_crypto();
    let mut tip = None;
    let signed = (0..3).map(|n| {
        let content = br#"{"type":"post","text":"by another"}"#;
        let message = message::sign(&other, None, tip.as_ref(), f64::from(n), content).unwrap();
        tip = Some(message.tip());
        Text::Signed(message.value_bytes().to_vec())
    });
    let dir = tempfile::tempdir().unwrap();
    let (jobs, answers) = writes(signed.collect());
    let events = run(dir.path(), jobs);
    assert!(matches!(&events[..], [StoreEvent::Committed { count: 3, .. }]), "{events:?}");
    assert!(answers.into_iter().all(|mut answer| answer.try_recv().unwrap().is_ok()));
}

#[test]
fn a_message_is_deleted_unless_the_graph_or_our_next_message_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let contact = r#"{"type":"contact","contact":"@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=.ed25519"}"#;
    let texts = [r#"{"type":"post","text":"a"}"#, contact, r#"{"type":"post","text":"b"}"#];
    let (jobs, mut answers) = writes(texts.map(|text| Text::Content(text.as_bytes().to_vec())).into());
    run(dir.path(), jobs);
    let ids: Vec<_> =
        answers.iter_mut().map(|answer| answer.try_recv().unwrap().unwrap().message.id()).collect();
    let delete = |id: MessageId| {
        let (reply, mut answer) = oneshot::channel();
        run(dir.path(), vec![Job::Delete(Delete { id, reply })]);
        answer.try_recv().unwrap()
    };
    assert!(matches!(delete(ids[2]), Err(DeleteError::OwnNewest)));
    assert!(matches!(delete(ids[1]), Err(DeleteError::Contact)));
    assert!(matches!(delete(ids[0]), Ok(())));
    assert!(matches!(delete(ids[0]), Err(DeleteError::NotStored(_))));
    let (jobs, mut answers) = writes(vec![Text::Content(br#"{"type":"post","text":"c"}"#.to_vec())]);
    run(dir.path(), jobs);
    assert_eq!(answers[0].try_recv().unwrap().unwrap().message.sequence(), 4);
}

#[test]
fn a_fork_that_a_client_adds_is_refused_and_proven() {
    crate::init_crypto();
    let other = Keypair::from_seed(&[8; 32]).unwrap();
    let after = |tip: Option<&Tip>, text: &str| {
        let content = format!(r#"{{"type":"post","text":"{text}"}}"#);
        message::sign(&other, None, tip, 1.0, content.as_bytes()).unwrap()
    };
    let first = after(None, "first");
    let [ours, theirs] = ["ours", "theirs"].map(|text| after(Some(&first.tip()), text));
    let third = after(Some(&theirs.tip()), "third");
    let add = |message: &Message| Text::Signed(message.value_bytes().to_vec());
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), writes(vec![add(&first), add(&ours)]).0);

    for refused in [&third, &theirs] {
        let (jobs, mut answers) = writes(vec![add(refused), add(&first)]);
        let events = run(dir.path(), jobs);
        for answer in &mut answers {
            assert!(matches!(answer.try_recv(), Ok(Err(WriteError::Invalid(_)))));
        }
        let [StoreEvent::Forked { fork, .. }] = &events[..] else { panic!("{events:?}") };
        assert_eq!((fork.held(), fork.refused()), (&ours, refused), "and what we have is no fork");
    }
}

#[test]
fn batches_are_validated_ahead_of_what_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let feeds = [feed(1, "one", 90), feed(2, "two", 90)];
    let (events, mut announced) = mpsc::channel(256);
    let (store, thread) = worker(dir.path(), Ok(())).spawn(events).unwrap();
    for round in 0..9 {
        for feed in &feeds {
            store.try_ingest(ingest(feed[0].author(), &feed[10 * round..10 * (round + 1)])).unwrap();
        }
    }
    // Nothing that comes after what it should follow is lost, and what comes twice is passed over.
    store.try_ingest(ingest(feeds[0][0].author(), &feeds[0])).unwrap();
    let stopping = tokio::runtime::Builder::new_current_thread().build().unwrap();
    stopping.block_on(store.stop());
    thread.join().unwrap();
    let mut count = 0;
    while let Some(event) = announced.blocking_recv() {
        let StoreEvent::Committed { count: more, local: false, .. } = event else { panic!("{event:?}") };
        count += more;
    }
    assert_eq!(count, 180);
    let (_, reader) = Store::open(dir.path(), &Options::default(), &mut |_, _| {}).unwrap();
    assert!(feeds.iter().all(|feed| reader.tip(&feed[0].author()) == Some(feed[89].tip())));
}

#[test]
fn what_was_validated_ahead_of_a_lost_batch_is_lost_and_not_refused() {
    let dir = tempfile::tempdir().unwrap();
    let feed = feed(1, "one", 3);
    let peer = FeedId::from_bytes([9; 32]);
    let late = Validated {
        good: feed[1..].to_vec(),
        senders: [(peer, feed[0].author())].into(),
        ..Validated::default()
    };
    let events = run(dir.path(), vec![Job::Store(late)]);
    let [StoreEvent::Failed { lost, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(lost[..], [(peer, feed[0].author())]);
}

#[test]
fn what_a_client_added_meanwhile_decides_what_is_a_fork() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (feed(1, "ours", 1), feed(1, "theirs", 1));
    let (author, peer) = (ours[0].author(), FeedId::from_bytes([9; 32]));
    let (mut jobs, _answers) = writes(vec![Text::Signed(ours[0].value_bytes().to_vec())]);
    for good in [ours.clone(), theirs.clone()] {
        let senders = [(peer, author)].into();
        jobs.push(Job::Store(Validated { good, senders, ..Validated::default() }));
    }
    let events = run(dir.path(), jobs);
    let [StoreEvent::Committed { local: true, .. }, StoreEvent::Forked { from, fork }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((*from, fork.held(), fork.refused()), (peer, &ours[0], &theirs[0]));
}
