//! Edges and distances against what ssb-friends 4.4.10 and dynamic-dijkstra compute.

use proptest::prelude::*;
use ssb_crypto::Keypair;

use super::*;
use crate::message::sign;

fn feed(n: u8) -> FeedId {
    FeedId::from_bytes([n; 32])
}

/// A graph from `(source, dest, edge)`.
fn graph(edges: &[(u8, u8, Edge)]) -> Graph {
    let mut graph = Graph::new();
    for (source, dest, edge) in edges {
        graph.set(feed(*source), feed(*dest), *edge);
    }
    graph
}

fn hops(edges: &[(u8, u8, Edge)], max: u32) -> Vec<(u8, i32)> {
    graph(edges).hops(&feed(0), max).into_iter().map(|(feed, hops)| (feed.as_bytes()[0], hops)).collect()
}

use Edge::{Block, Follow, Neutral};

#[test]
fn distances_count_follows_up_to_the_maximum() {
    let chain = [(0, 1, Follow), (1, 2, Follow), (2, 3, Follow), (1, 0, Follow), (0, 0, Follow)];
    assert_eq!(hops(&chain, 0), [(0, 0)]);
    assert_eq!(hops(&chain, 1), [(0, 0), (1, 1)]);
    assert_eq!(hops(&chain, 2), [(0, 0), (1, 1), (2, 2)]);
    assert_eq!(hops(&chain, 3), [(0, 0), (1, 1), (2, 2), (3, 3)]);
    assert_eq!(hops(&[], 3), [(0, 0)]);
}

#[test]
fn our_own_block_always_counts() {
    assert_eq!(hops(&[(0, 1, Follow), (1, 2, Follow), (0, 2, Block)], 3), [(0, 0), (1, 1), (2, -1)]);
}

#[test]
fn paths_do_not_go_on_from_whom_we_block_or_no_longer_follow() {
    assert_eq!(hops(&[(0, 1, Block), (1, 2, Follow)], 3), [(0, 0), (1, -1)]);
    assert_eq!(hops(&[(0, 1, Neutral), (1, 2, Follow)], 3), [(0, 0), (1, -2)]);
}

#[test]
fn a_friends_block_keeps_a_feed_away_unless_another_friend_follows_it() {
    assert_eq!(hops(&[(0, 1, Follow), (1, 2, Block)], 3), [(0, 0), (1, 1), (2, -2)]);
    let disputed = [(0, 1, Follow), (0, 3, Follow), (1, 2, Block), (3, 2, Follow), (2, 4, Follow)];
    assert_eq!(hops(&disputed, 3), [(0, 0), (1, 1), (2, 2), (3, 1), (4, 3)]);
}

#[test]
fn the_distance_nearer_to_zero_counts() {
    // Blocked two hops away, followed three hops away.
    let edges = [(0, 1, Follow), (1, 2, Block), (1, 3, Follow), (3, 2, Follow)];
    assert_eq!(hops(&edges, 3), [(0, 0), (1, 1), (2, -2), (3, 2)]);
    // No longer followed by us but still by a friend.
    assert_eq!(hops(&[(0, 2, Neutral), (0, 1, Follow), (1, 2, Follow)], 3), [(0, 0), (1, 1), (2, 2)]);
}

#[test]
fn in_reverse_distances_count_followers() {
    let graph = graph(&[(1, 0, Follow), (2, 1, Follow), (0, 3, Follow), (4, 0, Block)]);
    let followers: Vec<_> = graph.hops_along(&feed(0), 3, Direction::Reverse).into_iter().collect();
    assert_eq!(followers, [(feed(0), 0), (feed(1), 1), (feed(2), 2), (feed(4), -1)]);
}

#[test]
fn each_word_replaces_the_one_before() {
    let mut graph = Graph::new();
    let change = |before, after| Some(GraphChange { source: feed(0), dest: feed(1), before, after });
    assert_eq!(graph.set(feed(0), feed(1), Follow), change(None, Follow));
    assert_eq!(graph.set(feed(0), feed(1), Follow), None);
    assert!(graph.is_following(&feed(0), &feed(1)) && !graph.is_blocking(&feed(0), &feed(1)));
    assert_eq!(graph.set(feed(0), feed(1), Block), change(Some(Follow), Block));
    assert!(!graph.is_following(&feed(0), &feed(1)) && graph.is_blocking(&feed(0), &feed(1)));
    assert_eq!(graph.set(feed(0), feed(1), Neutral), change(Some(Block), Neutral));
    assert!(!graph.is_following(&feed(0), &feed(1)) && !graph.is_blocking(&feed(0), &feed(1)));
    assert!(!graph.is_following(&feed(1), &feed(0)));
    assert_eq!((graph.feed_count(), graph.edge_count()), (2, 1));
}

#[test]
fn edges_are_found_from_both_ends() {
    let graph = graph(&[(0, 1, Follow), (0, 2, Block), (3, 1, Block), (2, 1, Follow), (0, 4, Neutral)]);
    assert_eq!(graph.follows_of(&feed(0)).collect::<Vec<_>>(), [feed(1)]);
    assert_eq!(graph.blocks_of(&feed(0)).collect::<Vec<_>>(), [feed(2)]);
    assert_eq!(graph.followers_of(&feed(1)).collect::<Vec<_>>(), [feed(0), feed(2)]);
    assert_eq!(graph.blockers_of(&feed(1)).collect::<Vec<_>>(), [feed(3)]);
    assert_eq!(graph.edges_of(&feed(0)).count(), 3);
    assert_eq!(graph.edges_to(&feed(9)).count(), 0);
}

#[test]
fn one_author_can_not_fill_the_graph() {
    let mut graph = Graph::new();
    let numbered = |n: usize| {
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        FeedId::from_bytes(bytes)
    };
    for n in 0..MAX_EDGES_OF_ONE_FEED + 10 {
        graph.set(feed(0), numbered(n), Follow);
    }
    assert_eq!(graph.edge_count(), MAX_EDGES_OF_ONE_FEED);
    assert_eq!(graph.feed_count(), MAX_EDGES_OF_ONE_FEED + 1);
    // What it has said already can still be changed, and others are heard.
    assert!(graph.set(feed(0), numbered(1), Block).is_some());
    assert!(graph.set(feed(1), feed(0), Block).is_some());
}

fn says(content: &str) -> Option<Edge> {
    Edge::read(&Content::from_canonical(content)?).map(|(dest, edge)| {
        assert_eq!(dest, feed(1));
        edge
    })
}

#[test]
fn a_contact_message_says_what_ssb_friends_takes_it_to_say() {
    let cases = [
        (r#""following":true"#, Follow),
        (r#""following":true,"blocking":false"#, Follow),
        (r#""following":true,"blocking":true"#, Block),
        (r#""following":true,"flagged":{"reason":"spam"}"#, Block),
        (r#""following":true,"flagged":0,"blocking":"""#, Follow),
        (r#""following":false"#, Neutral),
        (r#""following":"true""#, Neutral),
        (r#""blocking":false"#, Neutral),
        (r#""blocking":true,"reason":"\ud800""#, Block),
        (r#""note":"hello""#, Neutral),
    ];
    for (rest, edge) in cases {
        let content = format!(r#"{{"type":"contact","contact":"{}",{rest}}}"#, feed(1));
        assert_eq!(says(&content), Some(edge), "{rest}");
    }
}

#[test]
fn what_is_no_contact_message_says_nothing() {
    let contact = feed(1).to_string();
    let nothing = [
        format!(r#"{{"type":"post","contact":"{contact}","following":true}}"#),
        r#"{"type":"contact","following":true}"#.to_owned(),
        r#"{"type":"contact","contact":"@you","following":true}"#.to_owned(),
        format!(r#"{{"type":"contact","contact":["{contact}"],"following":true}}"#),
        r#""AAAA.box""#.to_owned(),
    ];
    for content in nothing {
        assert_eq!(says(&content), None, "{content}");
    }
}

#[test]
fn messages_make_the_graph() {
    ssb_crypto::sodium::init().unwrap();
    let keypair = Keypair::from_seed(&[1; 32]).unwrap();
    let author = FeedId::from_bytes(keypair.public.0);
    let mut graph = Graph::new();
    let mut tip = None;
    for (says, expected) in
        [("following\":true", Some(Follow)), ("pub\":true", Some(Neutral)), ("pub\":true", None)]
    {
        let content = format!("{{\"type\":\"contact\",\"contact\":\"{}\",\"{says}}}", feed(1));
        let message = sign(&keypair, None, tip.as_ref(), 1.0, content.as_bytes()).unwrap();
        tip = Some(message.tip());
        assert_eq!(graph.apply(&message).map(|change| change.after), expected);
    }
    assert_eq!(graph.edge(&author, &feed(1)), Some(Neutral));
}

#[test]
fn whether_others_blocks_count_can_be_chosen() {
    // 1 and 2 are followed; 1 blocks 3, whom 2's friend 4 follows, and 2 blocks 1.
    let edges =
        [(0, 1, Follow), (0, 2, Follow), (1, 3, Block), (2, 4, Follow), (4, 3, Follow), (2, 1, Block)];
    let graph = graph(&edges);
    let far = |blocks| {
        let mut hops = Hops::new(feed(0), 3, blocks);
        hops.refresh(&graph);
        [1, 3, 4].map(|n| hops.of(&feed(n)))
    };
    assert_eq!(far(Blocks::All), [Some(1), Some(-2), Some(2)]);
    assert_eq!(far(Blocks::OfStart), [Some(1), Some(3), Some(2)]);
    let mut own = graph.clone();
    own.set(feed(0), feed(3), Block);
    let mut hops = Hops::new(feed(0), 3, Blocks::OfStart);
    hops.refresh(&own);
    assert_eq!(hops.of(&feed(3)), Some(-1), "our own always do");
}

/// Distances by the definition: a feed's is the best of those that the edges from feeds nearer than `max`
/// give it. All edges are tried at each level.
fn hops_by_definition(edges: &BTreeMap<(u8, u8), Edge>, max: u32) -> BTreeMap<FeedId, i32> {
    let mut nearest: BTreeMap<u8, i32> = BTreeMap::from([(0, 0)]);
    for level in 0..i32::try_from(max).unwrap() {
        let at_level: Vec<u8> =
            nearest.iter().filter(|(_, hops)| **hops == level).map(|(feed, _)| *feed).collect();
        for ((_, dest), edge) in edges.iter().filter(|((source, _), _)| at_level.contains(source)) {
            let candidate = match edge {
                Follow => level + 1,
                Block => -level - 1,
                Neutral => -level - 2,
            };
            let known = nearest.entry(*dest).or_insert(candidate);
            *known = [*known, candidate].into_iter().min_by_key(|hops| (hops.abs(), *hops < 0)).unwrap();
        }
    }
    nearest.into_iter().map(|(n, hops)| (feed(n), hops)).collect()
}

fn any_edges() -> impl Strategy<Value = Vec<(u8, u8, Edge)>> {
    let edge = prop::sample::select(vec![Follow, Follow, Follow, Block, Neutral]);
    prop::collection::vec((0..12_u8, 0..12_u8, edge), 0..40)
}

proptest! {
    #[test]
    fn distances_are_those_of_the_definition(edges in any_edges(), max in 0..5_u32) {
        let last: BTreeMap<_, _> = edges.iter().map(|(source, dest, edge)| ((*source, *dest), *edge)).collect();
        prop_assert_eq!(graph(&edges).hops(&feed(0), max), hops_by_definition(&last, max));
    }

    #[test]
    fn kept_distances_are_always_those_computed_anew(edges in any_edges(), max in 0..5_u32, pause in 1..9_usize) {
        let mut graph = Graph::new();
        let mut kept = Hops::new(feed(0), max, Blocks::All);
        let first = kept.refresh(&graph);
        let mut seen: BTreeMap<_, _> = first.into_iter().map(|(feed, hops)| (feed, hops.unwrap())).collect();
        prop_assert_eq!(&seen, &BTreeMap::from([(feed(0), 0)]));
        for batch in edges.chunks(pause) {
            for (source, dest, edge) in batch {
                if let Some(change) = graph.set(feed(*source), feed(*dest), *edge) {
                    kept.note(&graph, &change);
                }
            }
            for (feed, hops) in kept.refresh(&graph) {
                let before = match hops {
                    Some(hops) => seen.insert(feed, hops),
                    None => seen.remove(&feed),
                };
                prop_assert_ne!(before, hops);
            }
            prop_assert_eq!(kept.all(), &graph.hops(&feed(0), max));
            prop_assert_eq!(kept.all(), &seen);
        }
        for (feed, hops) in &seen {
            prop_assert_eq!(kept.replicated(feed).map(i64::from), (*hops >= 0).then_some(i64::from(*hops)));
        }
    }

    #[test]
    fn only_each_authors_last_word_matters(edges in any_edges(), max in 0..4_u32) {
        let last: BTreeMap<_, _> = edges.iter().map(|(source, dest, edge)| ((*source, *dest), *edge)).collect();
        let last: Vec<_> = last.into_iter().map(|((source, dest), edge)| (source, dest, edge)).collect();
        prop_assert_eq!(hops(&edges, max), hops(&last, max));
    }
}
