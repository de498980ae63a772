//! What waits to be sent: a queue for each call, served in turn, so that a bulk stream does not hold up
//! the answers of others.

use std::collections::{BTreeMap, VecDeque};

use super::CallId;
use crate::muxrpc::codec::Packet;

/// How much of one call is sent before the next call has its turn.
const TURN: usize = 16 * 1024;
/// What a queued packet costs beside its body, so that many tiny ones count too.
const PACKET_COST: usize = 64;

/// What a packet is, hence against which limit it counts while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// An item or an end of a stream: its sender watches the stream's own queue and all of these.
    Item,
    /// An async call, the opening of a stream, or an answer: whoever makes it can wait.
    Call,
    /// An error or an end on a call of the peer's: nobody waits, the peer has to be held back.
    Refusal,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    queues: BTreeMap<CallId, Queue>,
    /// Every call with a queue, once, in the order of their turns.
    turns: VecDeque<CallId>,
    /// What is left of the turn of the call at the front.
    left: usize,
    items: usize,
    calls: usize,
    refusals: usize,
}

#[derive(Debug, Default)]
struct Queue {
    packets: VecDeque<(Cause, Packet)>,
    cost: usize,
}

impl Outbox {
    pub(super) fn push(&mut self, id: CallId, cause: Cause, packet: Packet) {
        let cost = cost(&packet);
        let queue = self.queues.entry(id).or_insert_with(|| {
            self.turns.push_back(id);
            Queue::default()
        });
        queue.cost += cost;
        queue.packets.push_back((cause, packet));
        *self.sum_of(cause) += cost;
    }

    /// The next packet, and whose it is.
    pub(super) fn pop(&mut self) -> Option<(CallId, Packet)> {
        let id = *self.turns.front()?;
        let queue = self.queues.get_mut(&id).expect("a call with a turn has a queue");
        let (cause, packet) = queue.packets.pop_front().expect("a queue is not kept empty");
        let cost = cost(&packet);
        queue.cost -= cost;
        let emptied = queue.packets.is_empty();
        *self.sum_of(cause) -= cost;
        if self.left == 0 {
            self.left = TURN;
        }
        self.left = self.left.saturating_sub(cost);
        if emptied {
            self.queues.remove(&id);
            self.turns.pop_front();
            self.left = 0;
        } else if self.left == 0 {
            self.turns.rotate_left(1);
        }
        Some((id, packet))
    }

    /// Forgets what waits for a call.
    pub(super) fn discard(&mut self, id: CallId) {
        let Some(queue) = self.queues.remove(&id) else {
            return;
        };
        if self.turns.front() == Some(&id) {
            self.left = 0;
        }
        self.turns.retain(|turn| *turn != id);
        for (cause, packet) in &queue.packets {
            *self.sum_of(*cause) -= cost(packet);
        }
    }

    /// What waits for one call.
    pub(super) fn cost_of(&self, id: CallId) -> usize {
        self.queues.get(&id).map_or(0, |queue| queue.cost)
    }

    /// What waits of [`Cause::Item`].
    pub(super) fn items(&self) -> usize {
        self.items
    }

    /// What waits of [`Cause::Call`].
    pub(super) fn calls(&self) -> usize {
        self.calls
    }

    /// What waits of [`Cause::Refusal`].
    pub(super) fn refusals(&self) -> usize {
        self.refusals
    }

    fn sum_of(&mut self, cause: Cause) -> &mut usize {
        match cause {
            Cause::Item => &mut self.items,
            Cause::Call => &mut self.calls,
            Cause::Refusal => &mut self.refusals,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }
}

fn cost(packet: &Packet) -> usize {
    packet.body.bytes.len() + PACKET_COST
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::muxrpc::Body;
    use crate::muxrpc::session::Origin;
    use proptest::prelude::*;

    fn id(number: u32) -> CallId {
        CallId { origin: Origin::Ours, number }
    }

    fn packet(len: usize, request: i32) -> Packet {
        Packet { stream: true, end: false, request, body: Body::binary(vec![0; len]) }
    }

    #[test]
    fn calls_are_served_in_turn() {
        let mut outbox = Outbox::default();
        for _ in 0..4 {
            outbox.push(id(1), Cause::Item, packet(TURN / 2, 1));
        }
        outbox.push(id(2), Cause::Item, packet(10, 2));
        let order: Vec<i32> = std::iter::from_fn(|| outbox.pop()).map(|(_, packet)| packet.request).collect();
        assert_eq!(order, [1, 1, 2, 1, 1]);
        assert!(outbox.is_empty());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_each_call_keeps_its_order_and_the_sums_hold(
            steps in proptest::collection::vec((0u8..8, 1u32..4, 0usize..20_000), 0..80),
        ) {
            let (mut outbox, mut model) = (Outbox::default(), BTreeMap::<CallId, VecDeque<(Cause, Packet)>>::new());
            for (index, (what, number, len)) in steps.into_iter().enumerate() {
                match what {
                    0 => {
                        outbox.discard(id(number));
                        model.remove(&id(number));
                    }
                    1..=3 => {
                        let popped = outbox.pop();
                        prop_assert_eq!(popped.is_none(), model.values().all(VecDeque::is_empty));
                        if let Some((id, packet)) = popped {
                            let expected = model.get_mut(&id).and_then(VecDeque::pop_front);
                            prop_assert_eq!(expected.map(|(_, packet)| packet), Some(packet));
                        }
                    }
                    _ => {
                        let cause = [Cause::Call, Cause::Refusal, Cause::Item, Cause::Item][usize::from(what) - 4];
                        let packet = packet(len, i32::try_from(index).unwrap());
                        outbox.push(id(number), cause, packet.clone());
                        model.entry(id(number)).or_default().push_back((cause, packet));
                    }
                }
                let sum = |of: Cause| -> usize {
                    let packets = model.values().flatten().filter(|(cause, _)| *cause == of);
                    packets.map(|(_, packet)| cost(packet)).sum()
                };
                prop_assert_eq!(outbox.items(), sum(Cause::Item));
                prop_assert_eq!(outbox.calls(), sum(Cause::Call));
                prop_assert_eq!(outbox.refusals(), sum(Cause::Refusal));
                for (id, queue) in &model {
                    let expected: usize = queue.iter().map(|(_, packet)| cost(packet)).sum();
                    prop_assert_eq!(outbox.cost_of(*id), expected);
                }
            }
        }
    }
}
