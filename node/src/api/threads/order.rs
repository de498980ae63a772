//! The order of messages in a thread (ssb-sort 1): what is named comes before what names it. Pure.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};

use hawsepipe_replication::message::links;
use hawsepipe_replication::refs::MessageId;

/// What decides over the place of a message.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Placed {
    id: MessageId,
    time: Time,
    names: Vec<MessageId>,
}

/// Without what it names: by reception, by claimed time, then by id, the larger one first.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Time(f64, f64);

impl Eq for Time {}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Time {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0).then(self.1.total_cmp(&other.1))
    }
}

impl Placed {
    pub(super) fn new(
        id: MessageId,
        timestamp: f64,
        claimed: f64,
        previous: Option<MessageId>,
        content: &str,
    ) -> Self {
        let mut names: Vec<MessageId> = links(content).iter().filter_map(|link| link.parse().ok()).collect();
        names.extend(previous);
        Self { id, time: Time(timestamp, claimed), names }
    }
}

/// Sorts the messages of a thread.
pub(super) fn sort<T>(items: Vec<T>, place: impl Fn(&T) -> Placed) -> Vec<T> {
    let mut waiting: BTreeMap<MessageId, (Placed, T)> = BTreeMap::new();
    for item in items {
        let placed = place(&item);
        waiting.insert(placed.id, (placed, item));
    }
    // How many that it names are still to come, and who waits for whom.
    let mut missing: BTreeMap<MessageId, usize> = BTreeMap::new();
    let mut named_by: BTreeMap<MessageId, Vec<MessageId>> = BTreeMap::new();
    for (id, (placed, _)) in &waiting {
        let names: BTreeSet<_> =
            placed.names.iter().filter(|name| *name != id && waiting.contains_key(name)).collect();
        missing.insert(*id, names.len());
        names.into_iter().for_each(|name| named_by.entry(*name).or_default().push(*id));
    }
    let key = |placed: &Placed| (placed.time, Reverse(placed.id.to_string()), placed.id);
    let is_free = |(id, _): &(&MessageId, &(Placed, T))| missing.get(*id) == Some(&0);
    let mut free: BTreeSet<_> = waiting.iter().filter(is_free).map(|(_, (placed, _))| key(placed)).collect();
    let mut sorted = Vec::with_capacity(waiting.len());
    while let Some((_, _, id)) = free.pop_first() {
        sorted.extend(waiting.remove(&id).map(|(_, item)| item));
        for next in named_by.remove(&id).unwrap_or_default() {
            let count = missing.entry(next).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                free.extend(waiting.get(&next).map(|(placed, _)| key(placed)));
            }
        }
    }
    // Ids are hashes, so nobody can make two messages that name each other.
    sorted.extend(waiting.into_values().map(|(_, item)| item));
    sorted
}

/// The messages of a thread that no other names, sorted by id.
pub(super) fn tips(root: &MessageId, members: impl Iterator<Item = Placed>) -> Vec<String> {
    let members: Vec<Placed> = members.collect();
    let named: BTreeSet<MessageId> = members.iter().flat_map(|member| member.names.iter().copied()).collect();
    let all = members.iter().map(|member| member.id).chain([*root]);
    let tips: BTreeSet<String> = all.filter(|id| !named.contains(id)).map(|id| id.to_string()).collect();
    tips.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> MessageId {
        MessageId::from_bytes([n; 32])
    }

    fn placed(n: u8, time: f64, names: &[u8]) -> Placed {
        let content =
            serde_json::json!({ "branch": names.iter().map(|n| id(*n)).collect::<Vec<_>>() }).to_string();
        Placed::new(id(n), time, time, None, &content)
    }

    fn sorted(items: Vec<Placed>) -> Vec<MessageId> {
        sort(items, Clone::clone).into_iter().map(|placed| placed.id).collect()
    }

    #[test]
    fn what_is_named_comes_first_whatever_the_clocks_say() {
        let items = vec![
            placed(1, 50.0, &[]),
            placed(2, 10.0, &[1]),
            placed(3, 5.0, &[2, 99]),
            placed(4, 60.0, &[1]),
        ];
        assert_eq!(sorted(items), [id(1), id(2), id(3), id(4)]);
        assert_eq!(sorted(vec![placed(1, 2.0, &[]), placed(2, 1.0, &[])]), [id(2), id(1)]);
        assert_eq!(
            sorted(vec![placed(1, 1.0, &[]), placed(2, 1.0, &[])]),
            [id(2), id(1)],
            "the larger id first"
        );
    }

    #[test]
    fn tips_are_what_nobody_has_answered() {
        let members = || [placed(2, 1.0, &[1]), placed(3, 1.0, &[1]), placed(4, 1.0, &[1, 2])].into_iter();
        assert_eq!(tips(&id(1), members()), [id(3).to_string(), id(4).to_string()]);
        assert_eq!(tips(&id(1), std::iter::empty()), [id(1).to_string()]);
    }
}
