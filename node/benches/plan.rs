//! What the scheduler costs: one plan over as many candidates as the address book holds, of every kind there is.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use hawsepipe::scheduler::{
    Candidate, Class, Feeds, Link, PathState, Policy, Relation, Running, Snapshot, plan,
};
use hawsepipe_overlay::address::Endpoint;
use hawsepipe_overlay::keys::PublicKey;

/// As many as the address book holds.
const CANDIDATES: usize = 10_000;

fn feeds(from: usize) -> Feeds {
    let mut feeds = Feeds::default();
    (from..from + 40).for_each(|number| feeds.insert(number));
    feeds
}

/// Friends and their friends, reachable or backing off, with two paths each, twenty of them connected.
fn snapshot(now: Instant, connected: usize) -> Snapshot {
    let candidate = |n: usize| {
        let mut key = [(n % 251) as u8; 32];
        key[..8].copy_from_slice(&(n as u64).to_be_bytes());
        let net = Endpoint::Net { host: "192.0.2.1".into(), port: 8008 };
        let circuit = Endpoint::Libp2p("/ip4/192.0.2.9/udp/1/quic-v1/p2p/R/p2p-circuit/p2p/P".into());
        let mut paths = vec![PathState::new(net, Class::Direct), PathState::new(circuit, Class::Relayed)];
        for path in &mut paths {
            path.failures = (n % 3) as u32;
            path.last_attempt = now.checked_sub(Duration::from_secs(n as u64 % 900));
            path.worked.add(n as f64 % 7.0, now);
        }
        let mut candidate = Candidate {
            paths,
            carries: feeds(n),
            owed: n as u64 % 100,
            ..Candidate::new(PublicKey::from_bytes(key), Relation::Hops(1 + n as u32 % 2))
        };
        candidate.met = now.checked_sub(Duration::from_secs(n as u64 * 60));
        if n < connected {
            let since = now - Duration::from_secs(600);
            candidate.link = Link::Outbound;
            candidate.session = Some(Running { since, news: None, owes_since: None, class: Class::Direct });
        }
        candidate
    };
    let peers = (0..CANDIDATES).map(candidate).collect();
    Snapshot { own: PublicKey::from_bytes([9; 32]), follows: feeds(0), metered: false, peers }
}

fn plans(c: &mut Criterion) {
    #[expect(clippy::disallowed_methods, reason = "the bench needs some instant to start from")]
    let now = Instant::now();
    let policy = Policy::default();
    for (name, connected) in [("10,000 candidates, no session", 0), ("10,000 candidates, slots full", 8)] {
        let snapshot = snapshot(now, connected);
        c.bench_function(name, |b| b.iter(|| black_box(plan(black_box(&snapshot), &policy, now))));
    }
}

criterion_group!(benches, plans);
criterion_main!(benches);
