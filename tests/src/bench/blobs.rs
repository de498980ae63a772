//! `bench blobs`: blobs of nearly the largest size that peers replicate, added by the owner and read by a stranger, both
//! over SHS on loopback; the rate of our box stream alone over the same loopback; and what it costs our node to search
//! for ten thousand blobs that nobody has. The client is ours for all kinds of peers.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use hawsepipe_overlay::boxstream::{BoxKey, Opened, Opener, Sealer};
use hawsepipe_overlay::conn::{Session, Stream};
use hawsepipe_overlay::muxrpc::{Body, CallKind};
use hawsepipe_replication::refs::BlobId;
use hawsepipe_tests::control::Control;
use hawsepipe_tests::usage::Usage;
use hawsepipe_tests::wait;
use serde_json::json;
use ssb_crypto::secretbox::Key;

use super::figures::{Figures, Row};
use super::subject::{Kind, Role, Subject, copy};
use super::{Bench, say};

/// A little less than what JS peers still take.
const SIZE: usize = 5 * 1024 * 1024 - 1024;
/// One packet of a blob.
const PIECE: usize = 64 * 1024;
/// Blobs that are added and read in a row. JS is slow until its code is compiled: the first ones do not count.
const BLOBS: u8 = 12;
const WARM_UP: u8 = 2;
/// What the box stream carries to be measured.
const CARRIED: usize = 256 * 1024 * 1024;
/// Blobs that nobody has.
const WANTED: usize = 10_000;
/// How long the node is watched while it searches for them.
const WATCHED: Duration = Duration::from_secs(20);

pub(super) fn measure(bench: &Bench, figures: &mut Figures) {
    bench.interleave(|kind, round| {
        let dir = bench.host.dir().join("blobs");
        copy(&bench.source(kind), &dir);
        let subject = Subject::start(bench, kind, Role::Source, &dir);
        let (add, get) = rates(&subject.owner(bench), &subject.stranger(bench));
        figures.add(Row::BlobAdd, kind, add);
        figures.add(Row::BlobGet, kind, get);
        say(format_args!("blobs {}: {}: add {add:.0} MB/s, get {get:.0} MB/s", round + 1, kind.name()));
        if kind == Kind::Ours {
            let alone = bench.host.enter(box_stream);
            figures.add(Row::BoxStream, kind, alone);
            let (cpu, memory) = search(bench, &subject);
            figures.add(Row::WantsCpu, kind, cpu);
            figures.add(Row::WantsMemory, kind, memory);
            say(format_args!("box stream {alone:.0} MB/s, {WANTED} wants: {cpu:.2} % CPU, {memory:.1} MiB"));
        }
        subject.stop();
        std::fs::remove_dir_all(&dir).ok();
    });
}

/// Millions of bytes a second that `owner` adds and `stranger` reads: medians over the blobs.
fn rates(owner: &Control, stranger: &Control) -> (f64, f64) {
    let (mut adds, mut gets) = (Vec::new(), Vec::new());
    for seed in 0..BLOBS {
        let blob = content(seed);
        let id = id_of(&blob);
        let started = wait::now();
        owner.run(async |session: &Session| add(session, &blob, id).await);
        let added = wait::now();
        let size = stranger.run(async |session: &Session| get(session, id).await);
        let read = wait::now();
        assert_eq!(size, SIZE, "the blob came whole");
        if seed >= WARM_UP {
            adds.push(SIZE as f64 / 1e6 / (added - started).as_secs_f64());
            gets.push(SIZE as f64 / 1e6 / (read - added).as_secs_f64());
        }
    }
    (median(adds), median(gets))
}

fn content(seed: u8) -> Vec<u8> {
    (0..SIZE).map(|at| seed ^ (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn id_of(blob: &[u8]) -> BlobId {
    BlobId::from_bytes(ssb_crypto::hash(blob).0)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Adds a blob; done when the peer says that it has it.
async fn add(session: &Session, blob: &[u8], id: BlobId) {
    let opened = session.open(CallKind::Sink, &["blobs", "add"], Vec::new()).await;
    let Stream { mut tx, mut rx } = opened.expect("the session stays open");
    for piece in blob.chunks(PIECE) {
        tx.send(Body::binary(piece.to_vec())).await.expect("the peer takes it");
    }
    tx.end(None).await;
    while let Some(ended) = rx.recv().await {
        ended.expect("the peer took it");
    }
    // JS says the end before it is done.
    loop {
        let has = session.call(&["blobs", "has"], vec![json!(id)]).await.expect("the peer answers");
        if &has.bytes[..] == b"true" {
            return;
        }
    }
}

/// How many bytes of a blob come.
async fn get(session: &Session, id: BlobId) -> usize {
    let opened = session.open(CallKind::Source, &["blobs", "get"], vec![json!(id)]).await;
    let mut stream = opened.expect("the session stays open");
    let (mut pieces, mut size) = (Vec::new(), 0);
    while stream.rx.recv_batch(64, &mut pieces).await.expect("the peer has it") > 0 {
        size += pieces.drain(..).map(|piece: Body| piece.bytes.len()).sum::<usize>();
    }
    size
}

/// Millions of bytes a second that the box stream carries over loopback, one thread at each end.
fn box_stream() -> f64 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let address = listener.local_addr().expect("a listener has an address");
    let key = || BoxKey::new(Key([7; 32]), [0; 24]);
    let sender = thread::spawn(move || {
        let mut to = TcpStream::connect(address).expect("the other end listens");
        let (piece, mut line) = (vec![1; PIECE], BytesMut::new());
        let mut sealer = Sealer::new(key());
        for _ in 0..CARRIED / PIECE {
            sealer.seal(&piece, &mut line);
            to.write_all(&line).expect("the other end reads");
            line.clear();
        }
        sealer.goodbye(&mut line);
        to.write_all(&line).expect("the other end reads");
    });
    let (mut from, _) = listener.accept().expect("the other end connects");
    let started = wait::now();
    let (mut opener, mut line, mut plain) = (Opener::new(key()), BytesMut::new(), BytesMut::new());
    let (mut chunk, mut carried) = (vec![0; 2 * PIECE], 0);
    loop {
        let read = from.read(&mut chunk).expect("the other end sends");
        line.extend_from_slice(&chunk[..read]);
        let opened = opener.open(&mut line, &mut plain).expect("an honest box stream");
        carried += plain.len();
        plain.clear();
        if opened == Opened::Goodbye || read == 0 {
            break;
        }
    }
    let took = (wait::now() - started).as_secs_f64();
    sender.join().expect("the sender ends");
    assert_eq!(carried, CARRIED);
    carried as f64 / 1e6 / took
}

/// What searching costs: percent of a core, and MiB.
fn search(bench: &Bench, subject: &Subject) -> (f64, f64) {
    let peer = subject.stranger(bench);
    let before = Usage::of(subject.process());
    for number in 0..WANTED {
        let mut id = [9; 32];
        id[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let wanted = vec![json!(BlobId::from_bytes(id)), json!({ "nowait": true })];
        subject.control.call("blobs.want", wanted).unwrap_or_else(|e| panic!("{e}"));
    }
    // Somebody hears of all of it, and has none.
    let heard = peer.run(async |session: &Session| {
        let opened = session.open(CallKind::Source, &["blobs", "createWants"], Vec::new()).await;
        let mut stream = opened.expect("the session stays open");
        let mut heard = 0;
        while heard < WANTED {
            let packet = stream.rx.recv().await.expect("the stream goes on").expect("it does not fail");
            heard += packet.decode::<serde_json::Map<_, _>>().expect("a map of wants").len();
        }
        heard
    });
    assert_eq!(heard, WANTED);
    let all = Usage::of(subject.process());
    thread::sleep(WATCHED);
    let after = Usage::of(subject.process());
    let cpu = (after.cpu - all.cpu) / WATCHED.as_secs_f64() * 100.0;
    (cpu, after.now_mb - before.now_mb)
}
