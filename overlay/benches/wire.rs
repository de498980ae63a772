//! What a connection costs: handshakes, both sides' cryptography on one core, and box stream bytes, sealed and
//! opened.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hawsepipe_overlay::boxstream::{Opener, Sealer};
use hawsepipe_overlay::keys::{NetworkKey, PublicKey};
use hawsepipe_overlay::shs::{Ephemeral, Outcome, client, server};
use ssb_crypto::Keypair;

/// Bodies that are sealed in one go: a small call, a message, and a batch as replication sends.
const BODIES: [usize; 3] = [64, 800, 64 << 10];

fn keypair(seed: u8) -> Keypair {
    ssb_crypto::sodium::init().expect("libsodium");
    Keypair::from_seed(&[seed; 32]).expect("a seed of 32 bytes")
}

/// A whole handshake: what the client comes to, and the server.
fn shake(ours: &Keypair, theirs: &Keypair) -> (Outcome, Outcome) {
    let to = PublicKey::from_bytes(theirs.public.0);
    let (hello, client) = client::start(ours, NetworkKey::MAIN, to, Ephemeral::generate());
    let server = server::start(theirs, NetworkKey::MAIN, Ephemeral::generate());
    let (hello, server) = server.receive(&hello).expect("an honest hello");
    let (auth, client) = client.receive(&hello).expect("an honest hello");
    let (accept, at_server) = server.receive(&auth).expect("an honest auth").accept();
    (client.receive(&accept).expect("an honest accept"), at_server)
}

fn handshakes(c: &mut Criterion) {
    let (ours, theirs) = (keypair(1), keypair(2));
    let mut group = c.benchmark_group("shs");
    group.throughput(Throughput::Elements(1));
    group.bench_function("a handshake, both sides", |b| b.iter(|| black_box(shake(&ours, &theirs))));
    group.finish();
}

fn boxes(c: &mut Criterion) {
    let mut group = c.benchmark_group("box stream");
    for size in BODIES {
        let (at_client, at_server) = shake(&keypair(1), &keypair(2));
        let (mut sealer, mut opener) = (Sealer::new(at_client.send), Opener::new(at_server.receive));
        let body = vec![0x2a; size];
        let (mut sealed, mut opened) = (BytesMut::new(), BytesMut::new());
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("seal and open {size} bytes"), |b| {
            b.iter(|| {
                sealer.seal(&body, &mut sealed);
                opener.open(&mut sealed, &mut opened).expect("an honest box");
                opened.clear();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, handshakes, boxes);
criterion_main!(benches);
