//! EBT or history streams: decided once per session, revised if EBT turns up late.
//!
//! The side that dialled calls `ebt.replicate`, and asks by history streams if that fails or is never
//! answered. The side that was dialled waits for the call a few seconds, and falls back if it does not
//! come or if the other side asks by history first. Serving history streams is independent of all this.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::ebt::Role;

/// How long the dialled side waits for `ebt.replicate`.
pub const EBT_CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the dialling side waits for the first notes.
pub const EBT_ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How this session replicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// We called `ebt.replicate` and wait for notes until then, or for ever after a fallback.
    Calling {
        /// The deadline.
        until: Instant,
    },
    /// We wait for the other side's call until then.
    Waiting {
        /// The deadline.
        until: Instant,
    },
    /// By EBT.
    Ebt,
    /// By history streams.
    History,
}

/// What happens in the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NegotiationInput {
    /// The other side called `ebt.replicate` in a version that we speak.
    EbtCalled,
    /// Our call of `ebt.replicate` was answered with notes.
    EbtAnswered,
    /// The EBT stream ended with an error. Not to be given if the same peer has another stream now, or if
    /// the session is over.
    EbtFailed,
    /// The other side called `createHistoryStream`.
    HistoryCalled,
}

/// What the shell is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NegotiationOutput {
    /// Call `ebt.replicate`.
    CallEbt,
    /// Ask for all wanted feeds by history streams.
    StartHistory,
    /// EBT does it after all: end our own history calls.
    StopHistory,
}

/// The machine of one session.
#[derive(Debug)]
pub struct Negotiation {
    mode: Mode,
    out: VecDeque<NegotiationOutput>,
}

impl Negotiation {
    /// A session that has just been established; the caller is the side that dialled.
    pub fn new(now: Instant, role: Role) -> Self {
        match role {
            Role::Caller => Self {
                mode: Mode::Calling { until: now + EBT_ANSWER_TIMEOUT },
                out: VecDeque::from([NegotiationOutput::CallEbt]),
            },
            Role::Callee => {
                Self { mode: Mode::Waiting { until: now + EBT_CALL_TIMEOUT }, out: VecDeque::new() }
            }
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, input: NegotiationInput) {
        use NegotiationInput::{EbtAnswered, EbtCalled, EbtFailed, HistoryCalled};
        match (self.mode, input) {
            (Mode::History, EbtCalled | EbtAnswered) => {
                self.mode = Mode::Ebt;
                self.out.push_back(NegotiationOutput::StopHistory);
            }
            (_, EbtCalled | EbtAnswered) => self.mode = Mode::Ebt,
            (Mode::Calling { .. } | Mode::Ebt, EbtFailed) | (Mode::Waiting { .. }, HistoryCalled) => {
                self.fall_back();
            }
            // Some peers ask for their own feed by history beside EBT: that is served and says nothing.
            (Mode::Calling { .. } | Mode::Ebt | Mode::History, HistoryCalled) => {}
            (Mode::Waiting { .. } | Mode::History, EbtFailed) => {}
        }
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<NegotiationOutput> {
        self.out.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub const fn poll_timeout(&self) -> Option<Instant> {
        match self.mode {
            Mode::Calling { until } | Mode::Waiting { until } => Some(until),
            Mode::Ebt | Mode::History => None,
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|until| until <= now) {
            self.fall_back();
        }
    }

    /// How the session replicates at present.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    fn fall_back(&mut self) {
        self.mode = Mode::History;
        self.out.push_back(NegotiationOutput::StartHistory);
    }
}

#[cfg(test)]
mod tests {
    use NegotiationInput::{EbtAnswered, EbtCalled, EbtFailed, HistoryCalled};
    use NegotiationOutput::{CallEbt, StartHistory, StopHistory};

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "the one start instant; everything else is relative to it")]
    fn start() -> Instant {
        Instant::now()
    }

    fn run(role: Role, inputs: &[NegotiationInput]) -> (Mode, Vec<NegotiationOutput>) {
        let mut negotiation = Negotiation::new(start(), role);
        for &input in inputs {
            negotiation.handle(input);
        }
        (negotiation.mode(), std::iter::from_fn(|| negotiation.poll_output()).collect())
    }

    #[test]
    fn the_table_of_fallbacks_holds() {
        let table: [(Role, &[NegotiationInput], Mode, &[NegotiationOutput]); 9] = [
            (Role::Caller, &[EbtAnswered], Mode::Ebt, &[CallEbt]),
            (Role::Caller, &[EbtFailed], Mode::History, &[CallEbt, StartHistory]),
            (Role::Caller, &[HistoryCalled, EbtAnswered], Mode::Ebt, &[CallEbt]),
            (Role::Caller, &[EbtAnswered, EbtFailed], Mode::History, &[CallEbt, StartHistory]),
            (Role::Callee, &[EbtCalled], Mode::Ebt, &[]),
            (Role::Callee, &[EbtCalled, HistoryCalled], Mode::Ebt, &[]),
            (Role::Callee, &[HistoryCalled], Mode::History, &[StartHistory]),
            (Role::Callee, &[HistoryCalled, HistoryCalled, EbtFailed], Mode::History, &[StartHistory]),
            (Role::Callee, &[HistoryCalled, EbtCalled], Mode::Ebt, &[StartHistory, StopHistory]),
        ];
        for (role, inputs, mode, outputs) in table {
            assert_eq!(run(role, inputs), (mode, outputs.to_vec()), "{role:?} {inputs:?}");
        }
    }

    #[test]
    fn silence_leads_to_history_on_either_side() {
        for (role, patience) in [(Role::Caller, EBT_ANSWER_TIMEOUT), (Role::Callee, EBT_CALL_TIMEOUT)] {
            let now = start();
            let mut negotiation = Negotiation::new(now, role);
            assert_eq!(negotiation.poll_timeout(), Some(now + patience));
            negotiation.handle_timeout(now + patience - Duration::from_millis(1));
            assert_ne!(negotiation.mode(), Mode::History);
            negotiation.handle_timeout(now + patience);
            assert_eq!((negotiation.mode(), negotiation.poll_timeout()), (Mode::History, None));
            let outputs: Vec<_> = std::iter::from_fn(|| negotiation.poll_output()).collect();
            assert_eq!(outputs.last(), Some(&StartHistory));
            negotiation.handle_timeout(now + patience * 2);
            assert_eq!(negotiation.poll_output(), None);
        }
    }
}
