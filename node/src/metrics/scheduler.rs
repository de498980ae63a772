//! What the connection scheduler makes of its candidates.

use std::time::Duration;

use prometheus::{Histogram, IntGauge, IntGaugeVec};

use super::Register;
use crate::scheduler::Plan;

/// Bounds of `scheduler_score`, in points: from somebody to blame to a friend who has waited for long.
const SCORE: [f64; 9] = [-50.0, 0.0, 20.0, 40.0, 60.0, 80.0, 100.0, 140.0, 200.0];
/// Bounds of `scheduler_plan_seconds`: from a few friends to more peers than the book holds.
const PLAN: [f64; 8] = [0.000_05, 0.000_2, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2];

/// See the module's header.
#[derive(Debug)]
pub struct Scheduler {
    /// `scheduler_slots{group,state}`: slots of a group (`asked`, `lan`, `hubs`, `people`), `all` and `taken`.
    pub slots: IntGaugeVec,
    /// `scheduler_peers{state}`: peers without a session that are not dialled: their back-off has not passed
    /// (`waiting`), they have not been reached for long (`defunct`), no slot is free (`full`), or they are not to be dialled (`passed`).
    pub peers: IntGaugeVec,
    /// `scheduler_score`: points of those who were chosen.
    pub score: Histogram,
    /// `scheduler_candidates`: peers that the last plan looked at without dialling them.
    pub candidates: IntGauge,
    /// `scheduler_plan_seconds`: how long a plan takes.
    pub plan_seconds: Histogram,
}

impl Scheduler {
    pub(super) fn new(r: &Register<'_>) -> Self {
        Self {
            slots: r.gauges("scheduler_slots", "Slots for sessions, by group", &["group", "state"]),
            peers: r.gauges("scheduler_peers", "Peers that are not dialled now, by reason", &["state"]),
            score: r.histogram("scheduler_score", "Points of those who were chosen to be dialled", &SCORE),
            candidates: r.gauge("scheduler_candidates", "Peers without a session that were looked at"),
            plan_seconds: r.histogram("scheduler_plan_seconds", "How long a plan takes", &PLAN),
        }
    }

    /// A plan was made.
    pub fn planned(&self, plan: &Plan, took: Duration) {
        self.plan_seconds.observe(took.as_secs_f64());
        for (group, taken, all) in &plan.slots {
            self.slots.with_label_values(&[group.label(), "taken"]).set(*taken as i64);
            self.slots.with_label_values(&[group.label(), "all"]).set(*all as i64);
        }
        for terms in plan.dial.iter().filter_map(|dial| dial.terms) {
            self.score.observe(terms.total());
        }
        let passed = plan.passed;
        let states = [
            ("waiting", passed.waiting),
            ("defunct", passed.defunct),
            ("full", passed.full),
            ("passed", passed.uninteresting),
        ];
        for (state, count) in states {
            self.peers.with_label_values(&[state]).set(count as i64);
        }
        self.candidates.set(states.iter().map(|(_, count)| *count as i64).sum());
    }
}
