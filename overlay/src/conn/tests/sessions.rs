//! What two of our own sessions do with each other.

use std::num::NonZeroU32;

use super::*;

const NONE: SessionConfig = SessionConfig { limits: small_limits(), inactivity: Some(DEFAULT_INACTIVITY) };

const fn small_limits() -> Limits {
    Limits {
        max_body: 1024 * 1024,
        open_calls: 100,
        waiting_calls: 10,
        inbound: 64 * 1024,
        outbound: 32 * 1024,
        outbound_in_all: 4 * 1024 * 1024,
    }
}

#[tokio::test]
async fn calls_are_answered_in_both_directions() {
    let mut tasks = JoinSet::new();
    let (mut a, mut b) = pair(&mut tasks, NONE).await;
    let at_b = async {
        let (call, reply) = once_call(&mut b).await;
        assert_eq!((call.name.as_slice(), call.args), (&["x".to_owned()][..], vec![json!({"k": 1})]));
        reply.ok(body("from b")).await;
        b.session.call(&["y", "z"], vec![]).await
    };
    let at_a = async {
        let answer = a.session.call(&["x"], vec![json!({"k": 1})]).await.unwrap();
        let (call, reply) = once_call(&mut a).await;
        reply.err(not_allowed(&call.name)).await;
        answer
    };
    let (from_b, from_a) = tokio::join!(at_a, at_b);
    assert_eq!(from_b, body("from b"));
    assert_eq!(from_a, Err(CallError::Remote(not_allowed(&["y", "z"]))));
}

#[tokio::test]
async fn many_calls_at_once_are_answered_each_with_its_own() {
    let mut tasks = JoinSet::new();
    let (a, mut b) = pair(&mut tasks, NONE).await;
    let answering = async {
        // Fewer than may wait, answered in reverse.
        for _ in 0..10 {
            let mut calls = Vec::new();
            for _ in 0..10 {
                calls.push(once_call(&mut b).await);
            }
            while let Some((call, reply)) = calls.pop() {
                reply.ok(Body::json(&call.args[0])).await;
            }
        }
    };
    let asking = futures::future::join_all((0..100).map(|n| a.session.call(&["echo"], vec![json!(n)])));
    let (answers, ()) = tokio::join!(asking, answering);
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap().decode::<usize>().unwrap(), n);
    }
}

#[tokio::test]
async fn a_source_delivers_in_order_and_ends() {
    let mut tasks = JoinSet::new();
    let (a, mut b) = pair(&mut tasks, NONE).await;
    let mut ours = a.session.open(CallKind::Source, &["s"], vec![]).await.unwrap();
    let mut theirs = stream_call(&mut b).await;
    let sending = async {
        theirs.tx.send_batch((0..5000).map(|n| Body::json(&n))).await.unwrap();
        theirs.tx.end(None).await;
    };
    let receiving = async {
        let mut seen = Vec::new();
        while let Some(item) = ours.rx.recv().await {
            seen.push(item.unwrap().decode::<usize>().unwrap());
        }
        seen
    };
    let (seen, ()) = tokio::join!(receiving, sending);
    assert_eq!(seen, (0..5000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_batch_gives_what_is_there_and_the_error_only_after_it() {
    let mut tasks = JoinSet::new();
    let (a, mut b) = pair(&mut tasks, NONE).await;
    let mut ours = a.session.open(CallKind::Source, &["s"], vec![]).await.unwrap();
    let mut theirs = stream_call(&mut b).await;
    theirs.tx.send_batch((0..5).map(|n| Body::json(&n))).await.unwrap();
    theirs.tx.end(Some(RemoteError::new("broken"))).await;
    let mut items = Vec::new();
    while items.len() < 5 {
        let before = items.len();
        let taken = ours.rx.recv_batch(3, &mut items).await.unwrap();
        assert!((1..=3).contains(&taken));
        assert_eq!(items.len(), before + taken);
    }
    let expected = Err(RemoteError::new("broken").into());
    assert_eq!(ours.rx.recv_batch(3, &mut items).await, expected);
    assert_eq!(ours.rx.recv_batch(3, &mut items).await, Ok(0));
}

#[tokio::test]
async fn a_sink_is_fed_and_reports() {
    let mut tasks = JoinSet::new();
    let (a, mut b) = pair(&mut tasks, NONE).await;
    let mut ours = a.session.open(CallKind::Sink, &["s"], vec![]).await.unwrap();
    let mut theirs = stream_call(&mut b).await;
    ours.tx.send(body("one")).await.unwrap();
    ours.tx.end(None).await;
    assert_eq!(theirs.rx.recv().await, Some(Ok(body("one"))));
    assert_eq!(theirs.rx.recv().await, None);
    theirs.tx.end(Some(RemoteError::new("too big"))).await;
    assert_eq!(ours.rx.recv().await, Some(Err(RemoteError::new("too big").into())));
    assert_eq!(ours.rx.recv().await, None);
}

#[tokio::test]
async fn a_duplex_goes_both_ways_and_dropping_it_ends_it() {
    let mut tasks = JoinSet::new();
    let (a, mut b) = pair(&mut tasks, NONE).await;
    let mut ours = a.session.open(CallKind::Duplex, &["d"], vec![]).await.unwrap();
    let mut theirs = stream_call(&mut b).await;
    ours.tx.send(body("ping")).await.unwrap();
    assert_eq!(theirs.rx.recv().await, Some(Ok(body("ping"))));
    theirs.tx.send(body("pong")).await.unwrap();
    assert_eq!(ours.rx.recv().await, Some(Ok(body("pong"))));
    drop(ours);
    assert_eq!(theirs.rx.recv().await, None);
    timeout(PATIENCE, theirs.tx.closed()).await.unwrap();
    assert_eq!(theirs.tx.send(body("late")).await, Err(StreamClosed));
}

#[tokio::test]
async fn who_stops_receiving_aborts_a_live_source() {
    let mut tasks = JoinSet::new();
    let (a, mut b) = pair(&mut tasks, NONE).await;
    let ours = a.session.open(CallKind::Source, &["live"], vec![]).await.unwrap();
    let mut theirs = stream_call(&mut b).await;
    drop(ours.rx);
    timeout(PATIENCE, theirs.tx.closed()).await.unwrap();
}

#[tokio::test]
async fn a_dropped_answer_becomes_an_error() {
    let mut tasks = JoinSet::new();
    let (a, mut b) = pair(&mut tasks, NONE).await;
    let (answer, ()) = tokio::join!(a.session.call(&["x"], vec![]), async { drop(once_call(&mut b).await) });
    assert!(matches!(answer, Err(CallError::Remote(_))), "{answer:?}");
}

#[tokio::test]
async fn without_anyone_to_take_them_calls_are_refused() {
    let mut tasks = JoinSet::new();
    let (a, b) = pair(&mut tasks, NONE).await;
    let End { session: _held, calls } = b;
    drop(calls);
    let answer = a.session.call(&["x", "y"], vec![]).await;
    assert_eq!(answer, Err(not_allowed(&["x", "y"]).into()));
}

/// A slow receiver stops the reading, so that the sender has to wait with a bounded amount under way; then
/// everything arrives.
#[tokio::test]
async fn a_slow_receiver_holds_the_sender_back() {
    let mut tasks = JoinSet::new();
    let line = 16 * 1024;
    let (a, mut b) = pair_over(&mut tasks, NONE, duplex(line)).await;
    let mut ours = a.session.open(CallKind::Source, &["s"], vec![]).await.unwrap();
    let mut theirs = stream_call(&mut b).await;
    let item = || Body::binary(vec![7; 1000]);
    // Sends until nothing moves any more although every task had its turn.
    let mut sent = 0;
    let mut refused = 0;
    while refused < 200 {
        match theirs.tx.try_send(item()) {
            Ok(()) => (sent, refused) = (sent + 1, 0),
            Err(_) => refused += 1,
        }
        tokio::task::yield_now().await;
    }
    let limits = small_limits();
    let under_way = limits.inbound + limits.outbound + line + 300 * 1024;
    assert!(sent * 1000 > limits.inbound, "{sent}");
    assert!(sent * 1000 < under_way, "{sent}");
    let total = 2000;
    let sending = async {
        theirs.tx.send_batch((sent..total).map(|_| item())).await.unwrap();
        theirs.tx.end(None).await;
    };
    let receiving = async {
        let mut seen = 0;
        while let Some(received) = ours.rx.recv().await {
            assert_eq!(received, Ok(item()));
            seen += 1;
        }
        seen
    };
    let (seen, ()) = tokio::join!(receiving, sending);
    assert_eq!(seen, total);
}

#[tokio::test(start_paused = true)]
async fn a_peer_with_a_pace_is_read_no_faster_until_it_has_none_any_more() {
    let mut tasks = JoinSet::new();
    let (a, mut b) = pair(&mut tasks, NONE).await;
    let pace = NonZeroU32::new(10_000).unwrap();
    a.session.set_pace(Some(pace));
    let mut ours = a.session.open(CallKind::Source, &["s"], vec![]).await.unwrap();
    let mut theirs = stream_call(&mut b).await;
    let mut seconds = async |count: u32| {
        let start = tokio::time::Instant::now();
        let sending = async {
            for _ in 0..count {
                theirs.tx.send(Body::binary(vec![7; 1000])).await.unwrap();
            }
        };
        let receiving = async {
            for _ in 0..count {
                ours.rx.recv().await.unwrap().unwrap();
            }
        };
        tokio::join!(sending, receiving);
        start.elapsed().as_secs()
    };
    // Four seconds' worth is free.
    assert_eq!(seconds(30).await, 0);
    let held = seconds(200).await;
    assert!((18..=23).contains(&held), "{held}");
    a.session.set_pace(None);
    assert!(seconds(200).await <= 1, "what is owed already is waited for");
}

#[tokio::test]
async fn a_receiver_that_leaves_lets_the_others_go_on() {
    let mut tasks = JoinSet::new();
    let (a, mut b) = pair_over(&mut tasks, NONE, duplex(16 * 1024)).await;
    let ours = a.session.open(CallKind::Source, &["s"], vec![]).await.unwrap();
    let mut theirs = stream_call(&mut b).await;
    let flooding = async { while theirs.tx.send(Body::binary(vec![7; 1000])).await.is_ok() {} };
    let asking = async {
        tokio::task::yield_now().await;
        let call = a.session.call(&["x"], vec![]);
        let leaving = async { drop(ours) };
        tokio::join!(call, leaving).0
    };
    let answering = async { once_call(&mut b).await.1.ok(Body::void()).await };
    let (answer, (), ()) =
        timeout(PATIENCE, async { tokio::join!(asking, flooding, answering) }).await.unwrap();
    assert_eq!(answer, Ok(Body::void()));
}

#[tokio::test(start_paused = true)]
async fn whoever_closes_gets_its_goodbye_answered_at_once() {
    let start = tokio::time::Instant::now();
    let mut tasks = JoinSet::new();
    let (a, mut b) = pair(&mut tasks, NONE).await;
    let mut ours = a.session.open(CallKind::Source, &["s"], vec![]).await.unwrap();
    let mut theirs = stream_call(&mut b).await;
    a.session.close();
    assert_eq!(ours.rx.recv().await, Some(Err(CallError::SessionEnded)));
    assert_eq!(a.session.call(&["x"], vec![]).await, Err(CallError::SessionEnded));
    let closed = timeout(PATIENCE, async { tokio::join!(a.session.closed(), b.session.closed()) }).await;
    assert_eq!(closed.unwrap(), (Closed::Local, Closed::Goodbye));
    assert_eq!(theirs.tx.send(body("late")).await, Err(StreamClosed));
    assert!(b.calls.next().await.is_none());
    let mut ends = tasks.join_all().await;
    ends.sort_by_key(|closed| closed.label());
    assert_eq!(ends, [Closed::Goodbye, Closed::Local]);
    // The clock stands still while anyone has something to do: nobody waited for a deadline.
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
}

#[tokio::test]
async fn what_was_queued_before_the_close_arrives() {
    let mut tasks = JoinSet::new();
    let (a, mut b) = pair(&mut tasks, NONE).await;
    let mut ours = a.session.open(CallKind::Sink, &["s"], vec![]).await.unwrap();
    ours.tx.send_batch((0..20).map(|n| Body::json(&n))).await.unwrap();
    a.session.close();
    let mut theirs = stream_call(&mut b).await;
    for n in 0..20 {
        assert_eq!(theirs.rx.recv().await, Some(Ok(Body::json(&n))));
    }
    assert_eq!(theirs.rx.recv().await, Some(Err(CallError::SessionEnded)));
}

#[tokio::test(start_paused = true)]
async fn two_that_close_at_the_same_time_are_done_at_once() {
    let start = tokio::time::Instant::now();
    let mut tasks = JoinSet::new();
    let (a, b) = pair(&mut tasks, NONE).await;
    a.session.close();
    b.session.close();
    assert_eq!(tasks.join_all().await, [Closed::Local, Closed::Local]);
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_session_that_nobody_holds_closes() {
    let mut tasks = JoinSet::new();
    let (a, b) = pair(&mut tasks, NONE).await;
    drop(a);
    assert_eq!(timeout(PATIENCE, b.session.closed()).await.unwrap(), Closed::Goodbye);
}

#[tokio::test]
async fn a_dropped_driver_ends_the_session_for_everyone() {
    let (left, right) = duplex(1024);
    let (client, server) = (local(1), local(2));
    let (a, b) = tokio::join!(
        connect(left, info(Direction::Outbound), &client, key(&server)),
        accept(right, info(Direction::Inbound), &server),
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    let calling = a.session.clone();
    let call = calling.call(&["x"], vec![]);
    let dropping = async { drop(a.driver) };
    assert_eq!(tokio::join!(call, dropping).0, Err(CallError::SessionEnded));
    assert_eq!(a.session.closed().await, Closed::Aborted);
    assert_eq!(b.driver.run().await, Closed::Hangup);
}

#[tokio::test(start_paused = true)]
async fn a_silent_session_ends_and_one_that_moves_does_not() {
    let mut tasks = JoinSet::new();
    let (a, mut b) = pair(&mut tasks, NONE).await;
    let mut ours = a.session.open(CallKind::Duplex, &["ping"], vec![]).await.unwrap();
    let mut theirs = stream_call(&mut b).await;
    for _ in 0..10 {
        tokio::time::sleep(DEFAULT_INACTIVITY / 2).await;
        ours.tx.send(body("ping")).await.unwrap();
        assert_eq!(theirs.rx.recv().await, Some(Ok(body("ping"))));
    }
    assert_eq!((a.session.closed_now(), b.session.closed_now()), (None, None));
    tokio::time::sleep(DEFAULT_INACTIVITY * 9 / 8).await;
    assert_eq!(a.session.closed().await, Closed::Inactive);
}

#[tokio::test(start_paused = true)]
async fn a_session_with_ourselves_may_be_silent() {
    let mut tasks = JoinSet::new();
    let (left, _right) = duplex(1024);
    let own = key(&local(1));
    let a = run(&mut tasks, noauth(left, info(Direction::Outbound), own), NONE);
    assert!(timeout(DEFAULT_INACTIVITY * 100, a.session.closed()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_says_goodbye_is_not_waited_for_long() {
    let mut tasks = JoinSet::new();
    let (_raw, end) = Raw::connect(&mut tasks, NONE).await;
    end.session.close();
    let before = tokio::time::Instant::now();
    assert_eq!(end.session.closed().await, Closed::Local);
    assert!(before.elapsed() <= CLOSE_TIMEOUT + Duration::from_secs(1));
}

#[tokio::test]
async fn the_traffic_is_counted() {
    let mut tasks = JoinSet::new();
    let (a, mut b) = pair(&mut tasks, NONE).await;
    let (answer, ()) = tokio::join!(a.session.call(&["x"], vec![]), async {
        once_call(&mut b).await.1.ok(body("y")).await;
    });
    answer.unwrap();
    let (sent, received) = (a.session.traffic(), b.session.traffic());
    assert_eq!((sent.packets_out(), sent.packets_in()), (1, 1));
    let request = r#"{"name":["x"],"args":[],"type":"async"}"#.len();
    assert_eq!(sent.bytes_out(), (2 * HEADER_LEN + 9 + request) as u64);
    assert_eq!(sent.bytes_in(), (2 * HEADER_LEN + 9 + 1) as u64);
    assert_eq!(received.bytes_in(), sent.bytes_out());
    assert_eq!(sent.activity(), sent.bytes_in() + sent.bytes_out());
}

/// Many streams of odd sizes at once through a narrow line, on several threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn bulk_streams_keep_every_byte() {
    const STREAMS: usize = 6;
    let mut drivers = JoinSet::new();
    let (a, mut b) = pair_over(&mut drivers, NONE, duplex(5000)).await;
    let sizes = |stream: usize| (1..150).map(move |n| (n * n * (stream + 3)) % 90_000 + 1);
    let bytes = |stream: usize, size: usize| Bytes::from(vec![(stream * 31 + size) as u8; size]);
    let mut tasks = JoinSet::new();
    for stream in 0..STREAMS {
        let mut ours = a.session.open(CallKind::Source, &["s"], vec![json!(stream)]).await.unwrap();
        tasks.spawn(async move {
            for size in sizes(stream) {
                let item = ours.rx.recv().await.unwrap().unwrap();
                assert_eq!(item, Body::binary(bytes(stream, size)));
            }
            assert_eq!(ours.rx.recv().await, None);
        });
    }
    for stream in 0..STREAMS {
        let mut theirs = stream_call(&mut b).await;
        tasks.spawn(async move {
            for size in sizes(stream) {
                theirs.tx.send(Body::binary(bytes(stream, size))).await.unwrap();
            }
        });
    }
    while let Some(done) = timeout(PATIENCE, tasks.join_next()).await.unwrap() {
        done.unwrap();
    }
}

/// Seen in the bytes on the line: a packet of its own takes two headers of 34 bytes.
#[tokio::test]
async fn packets_share_boxes_once_asked_to_and_then_in_both_directions() {
    const ITEMS: u64 = 100;
    let mut tasks = JoinSet::new();
    let (a, mut b) = pair(&mut tasks, NONE).await;
    let mut ours = a.session.open(CallKind::Duplex, &["s"], vec![]).await.unwrap();
    let mut theirs = stream_call(&mut b).await;
    let mut sent_by_b = 0;
    let mut pass = async |from: &mut StreamTx, to: &mut StreamRx, sender: &Session| {
        from.send_batch((0..ITEMS).map(|_| body("item"))).await.unwrap();
        let (mut items, mut seen) = (Vec::new(), 0);
        while seen < ITEMS {
            seen += to.recv_batch(256, &mut items).await.unwrap() as u64;
        }
        assert!(items.iter().all(|item| *item == body("item")));
        let sent = sender.traffic().bytes_out();
        let bytes = sent - std::mem::replace(&mut sent_by_b, sent);
        bytes / ITEMS
    };
    let apart = pass(&mut theirs.tx, &mut ours.rx, &b.session).await;
    assert!(apart > 68, "{apart}");
    theirs.tx.share_boxes();
    let together = pass(&mut theirs.tx, &mut ours.rx, &b.session).await;
    assert!(together < 34, "{together}");
    // Whoever sees the other do it does it too.
    let before = a.session.traffic().bytes_out();
    ours.tx.send_batch((0..ITEMS).map(|_| body("item"))).await.unwrap();
    let (mut items, mut seen) = (Vec::new(), 0);
    while seen < ITEMS {
        seen += theirs.rx.recv_batch(256, &mut items).await.unwrap() as u64;
    }
    assert!((a.session.traffic().bytes_out() - before) / ITEMS < 34);
}
