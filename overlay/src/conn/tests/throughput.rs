//! How fast one session is over loopback TCP; run by hand:
//! `cargo test --release -p hawsepipe-overlay throughput -- --ignored --nocapture`.

use std::time::Instant;

use tokio::net::{TcpListener, TcpStream};

use super::*;

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (left, right) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (left, right) = (left.unwrap(), right.unwrap().0);
    left.set_nodelay(true).unwrap();
    right.set_nodelay(true).unwrap();
    (left, right)
}

async fn measure(item: usize, count: usize) {
    let mut drivers = JoinSet::new();
    let (a, mut b) = pair_over(&mut drivers, SessionConfig::default(), tcp().await).await;
    let mut ours = a.session.open(CallKind::Source, &["s"], vec![]).await.unwrap();
    let mut theirs = stream_call(&mut b).await;
    #[expect(clippy::disallowed_methods, reason = "this measures time")]
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let bytes = Bytes::from(vec![7; item]);
        for _ in 0..count {
            theirs.tx.send(Body::binary(bytes.clone())).await.unwrap();
        }
    });
    tasks.spawn(async move {
        let (mut items, mut seen) = (Vec::new(), 0);
        while seen < count {
            seen += ours.rx.recv_batch(256, &mut items).await.unwrap();
            items.clear();
        }
    });
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let seconds = start.elapsed().as_secs_f64();
    let (megabytes, thousands) = ((item * count) as f64 / 1e6, count as f64 / 1e3);
    println!("{item:>8} B items: {:>7.0} MB/s {:>7.0} k/s", megabytes / seconds, thousands / seconds);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; run by hand in release"]
async fn throughput() {
    for (item, count) in [(100, 1_000_000), (500, 1_000_000), (4096, 200_000), (65_536, 20_000)] {
        measure(item, count).await;
    }
}
