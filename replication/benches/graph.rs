//! What the machines cost at the size of a large network: a first exchange of clocks over 50,000 feeds and one
//! message of each afterwards, and a graph of 1,000,000 edges among 100,000 feeds.

use std::hint::black_box;
use std::time::Instant;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hawsepipe_replication::ebt::{Input, Notes, Output, Peer, PeerClock, Role, State};
use hawsepipe_replication::graph::{Edge, Graph};
use hawsepipe_replication::refs::FeedId;

const FEEDS: u64 = 50_000;

const NODES: u64 = 100_000;
const EDGES: u64 = 1_000_000;
const HOPS: u32 = 3;

/// The `n`th feed. Multiplying by an odd number is a permutation, so ids are spread as keys are.
fn feed(n: u64) -> FeedId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..16].copy_from_slice(&n.to_be_bytes());
    FeedId::from_bytes(bytes)
}

#[expect(clippy::disallowed_methods, reason = "a bench drives the machines, so it reads the clock for them")]
fn now() -> Instant {
    Instant::now()
}

/// A node that wants all feeds and holds `have` messages of each.
fn node(me: u64, have: u64, at: Instant) -> State {
    let mut state = State::new(feed(me));
    for n in 0..FEEDS {
        state.handle(at, Input::Appended { feed: feed(n), sequence: have });
        state.handle(at, Input::Replicate { feed: feed(n), rank: Some(1 + (n % 3) as u32) });
    }
    drain(&mut state);
    state
}

fn drain(state: &mut State) -> Vec<Notes> {
    let outputs = std::iter::from_fn(|| state.poll_output());
    let notes = outputs.filter_map(|output| match output {
        Output::SendNotes { notes, .. } => Some(notes),
        Output::Send { .. }
        | Output::CancelSend { .. }
        | Output::Accept { .. }
        | Output::EndStream { .. }
        | Output::ClockChanged { .. } => None,
    });
    notes.collect()
}

fn connected(state: &mut State, at: Instant, peer: Peer, role: Role) -> Vec<Notes> {
    state.handle(at, Input::Connected { peer, role, clock: PeerClock::default() });
    drain(state)
}

fn ebt(c: &mut Criterion) {
    let at = now();
    let [ours, theirs] = [FEEDS, FEEDS + 1].map(|me| Peer(feed(me)));
    let mut group = c.benchmark_group("ebt");
    group.sample_size(10);
    group.throughput(Throughput::Elements(FEEDS));
    group.bench_function("say a clock of 50,000 feeds", |b| {
        b.iter_batched(
            || node(FEEDS, 10, at),
            |mut state| connected(&mut state, at, theirs, Role::Callee),
            BatchSize::PerIteration,
        );
    });
    let said = connected(&mut node(FEEDS + 1, 12, at), at, ours, Role::Callee);
    let caller = || {
        let mut state = node(FEEDS, 10, at);
        connected(&mut state, at, theirs, Role::Caller);
        state
    };
    let answer = |state: &mut State| {
        for notes in &said {
            state.handle(at, Input::Notes { peer: theirs, notes: notes.clone() });
            black_box(drain(state));
        }
    };
    group.bench_function("compare with a peer that is ahead in all of 50,000 feeds", |b| {
        b.iter_batched(caller, |mut state| answer(&mut state), BatchSize::PerIteration);
    });
    group.bench_function("take the next message of each of 50,000 feeds", |b| {
        let answered = || {
            let mut state = caller();
            answer(&mut state);
            state
        };
        let take = |mut state: State| {
            for n in 0..FEEDS {
                state.handle(at, Input::Received { peer: theirs, feed: feed(n), sequence: 11 });
                black_box(state.poll_output());
                state.handle(at, Input::Appended { feed: feed(n), sequence: 11 });
                drain(&mut state);
            }
        };
        b.iter_batched(answered, take, BatchSize::PerIteration);
    });
    group.finish();
}

/// Most follow a few, some are followed by many.
fn edges() -> impl Iterator<Item = (FeedId, FeedId, Edge)> {
    (0..EDGES).map(|n| {
        let dice = n.wrapping_mul(0xd134_2543_de82_ef95).rotate_left(29);
        let (from, to) = (dice % NODES, (dice >> 20) % NODES);
        let edge = if n % 50 == 0 { Edge::Block } else { Edge::Follow };
        (feed(from), feed(to * to / NODES), edge)
    })
}

fn graph(c: &mut Criterion) {
    let mut group = c.benchmark_group("graph");
    group.sample_size(10);
    group.throughput(Throughput::Elements(EDGES));
    let edges: Vec<_> = edges().collect();
    let build = || {
        let mut graph = Graph::new();
        for (from, to, edge) in &edges {
            graph.set(*from, *to, *edge);
        }
        graph
    };
    group.bench_function("take 1,000,000 edges", |b| b.iter(build));
    let built = build();
    group.bench_function("distances over 1,000,000 edges", |b| {
        b.iter(|| black_box(built.hops(&edges[0].0, HOPS)));
    });
    group.finish();
}

criterion_group!(benches, ebt, graph);
criterion_main!(benches);
