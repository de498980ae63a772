//! A follow graph as social networks have it: a power law of follows, many closed triangles, and follows that are mostly returned.

use crate::chance::SplitMix;

/// Least and most people that one follows.
const FOLLOWS: (f64, f64) = (5.0, 500.0);
/// The exponent of the power law.
const EXPONENT: f64 = 2.2;
/// How many in a neighbourhood: the people whom one knows before one knows anybody's friends.
const NEIGHBOURHOOD: usize = 60;
/// How often the next followed person is a friend's friend, and a neighbour; else somebody popular.
const CLOSING: (f64, f64) = (0.6, 0.85);
/// How often a follow is returned.
const RETURNED: f64 = 0.6;

/// Who follows whom; each list is sorted.
#[derive(Debug, Clone)]
pub struct FollowGraph {
    /// Whom each follows.
    pub follows: Vec<Vec<u32>>,
    /// Who follows each.
    pub followers: Vec<Vec<u32>>,
}

impl FollowGraph {
    /// A graph of so many people.
    pub fn generate(people: usize, chance: &mut SplitMix) -> Self {
        let mut follows: Vec<Vec<u32>> = vec![Vec::new(); people];
        // Somebody stands in it once for each follower: a random place is somebody popular.
        let mut popular: Vec<u32> = (0..people as u32).collect();
        for me in 0..people {
            let wanted = power_law(chance).min(people / 4);
            let mut tries = 0;
            while follows[me].len() < wanted && tries < 4 * wanted {
                tries += 1;
                let other = pick(me, &follows, &popular, people, chance);
                if other == me || follows[me].contains(&(other as u32)) {
                    continue;
                }
                follows[me].push(other as u32);
                popular.push(other as u32);
                if chance.unit() < RETURNED && !follows[other].contains(&(me as u32)) {
                    follows[other].push(me as u32);
                }
            }
        }
        let mut followers = vec![Vec::new(); people];
        for (me, list) in follows.iter_mut().enumerate() {
            list.sort_unstable();
            list.iter().for_each(|other| followers[*other as usize].push(me as u32));
        }
        Self { follows, followers }
    }

    /// Whether `from` follows `to`.
    pub fn is_following(&self, from: u32, to: u32) -> bool {
        self.follows[from as usize].binary_search(&to).is_ok()
    }
}

fn power_law(chance: &mut SplitMix) -> usize {
    let (least, most) = FOLLOWS;
    let share = 1.0 - chance.unit();
    (least * share.powf(-1.0 / (EXPONENT - 1.0))).min(most) as usize
}

fn pick(me: usize, follows: &[Vec<u32>], popular: &[u32], people: usize, chance: &mut SplitMix) -> usize {
    let how = chance.unit();
    let of = |list: &[u32], chance: &mut SplitMix| list[chance.below(list.len())] as usize;
    if how < CLOSING.0 && !follows[me].is_empty() {
        let friend = of(&follows[me], chance);
        if !follows[friend].is_empty() {
            return of(&follows[friend], chance);
        }
    }
    if how < CLOSING.1 {
        let begin = me - me % NEIGHBOURHOOD;
        return begin + chance.below(NEIGHBOURHOOD.min(people - begin));
    }
    of(popular, chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_popular_friends_know_each_other_and_most_follows_are_returned() {
        let graph = FollowGraph::generate(3000, &mut SplitMix::new(1));
        let edges: usize = graph.follows.iter().map(Vec::len).sum();
        let mean = edges as f64 / 3000.0;
        assert!((10.0..60.0).contains(&mean), "{mean}");
        let most = graph.followers.iter().map(Vec::len).max().unwrap();
        assert!(most as f64 > 6.0 * mean, "{most}");
        let (mut closed, mut open, mut returned) = (0, 0, 0);
        for me in 0..3000u32 {
            for a in &graph.follows[me as usize] {
                returned += usize::from(graph.is_following(*a, me));
                let b = graph.follows[me as usize][0];
                let known = usize::from(graph.is_following(*a, b));
                (closed, open) = (closed + known, open + 1 - known);
            }
        }
        assert!(closed as f64 / (closed + open) as f64 > 0.1, "{closed} of {open}");
        assert!(returned * 2 > edges, "{returned} of {edges}");
    }
}
